"""A loss surface over data that come in blocks: its sums, what each block gives them, and what they come to."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.objective import Batches, Objective, added, shared

Values = dict[str, Any]
SPREAD = " spread"  # no identifier, so no metric's name


@dataclass(frozen=True, eq=False)
class ObjectiveOverBlocks:
    """One objective of a surface, over `Batches`: a `point.SumOverBlocks`.

    Attributes:
        surface: the surface of this objective alone, its data in `Batches`.
        prefix: of its outputs.
        objective: the objective.
        spread: whether standard errors are asked for.
    """

    surface: Any
    prefix: str
    objective: Objective
    spread: bool

    @property
    def batches(self) -> Batches:
        """The data."""
        return self.objective.data

    def over(self, block: PyTree) -> "_OverBlock":
        """A point function: what one block gives to the sums."""
        objective = self.objective.over(block)
        surface = dataclasses.replace(
            self.surface, objectives={self.prefix[:-1]: objective} if self.prefix else objective
        )
        return _OverBlock(surface, objective, self.prefix, self.spread)

    def add(self, total: Any, index: int, part: Values) -> Any:
        """The sums with one more block."""
        share = self.objective.block_shares()[index]
        means = {name: x for name, x in part.items() if not name.endswith(SPREAD)}
        spreads = {name: x.astype(np.float64) for name, x in part.items() if name.endswith(SPREAD)}
        if total is None:
            first = {name: means[name.removesuffix(SPREAD)].astype(np.float64) for name in spreads}
            return added(None, means, share), first, {name: _about(x, 0.0) for name, x in spreads.items()}
        sums, first, known = total
        for name, x in spreads.items():
            known[name] += _about(x, means[name.removesuffix(SPREAD)].astype(np.float64) - first[name])
        return added(sums, means, share), first, known

    def finish(self, total: Any) -> Values:
        """Means over all blocks, and their standard errors."""
        means = {name: np.asarray(x) for name, x in total[0].items()}
        count, errors = self.batches.survey.num_examples, {}
        for name, sums in total[2].items():
            of = name.removesuffix(SPREAD)
            squares = _about(sums, total[1][name] - means[of].astype(np.float64))[..., 0]
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.sqrt(np.maximum(squares, 0) * np.divide(count, count - 1)) / sums[..., 3]
            errors[f"{of}_sem"] = error.astype(means[of].dtype)
        return means | errors


@_tree.register
@dataclass(frozen=True, eq=False)
class _OverBlock:
    """Means over one block, and sums from which the standard error of the whole is made."""

    surface: Any
    objective: Objective
    prefix: str = dataclasses.field(metadata={"static": True})
    spread: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, coords: Array) -> dict[str, Array]:
        values = self.surface(coords)
        if not self.spread:
            return values
        examples = self.objective.examples(self.surface.at(coords))
        weights = jnp.ones(len(examples["loss"])) if self.objective.weight_fn is None else self.objective.weights()
        sums = {self.prefix + name: _sums(weights, x, values[self.prefix + name]) for name, x in examples.items()}
        return values | {name + SPREAD: x for name, x in sums.items()}


def _sums(weights: Array, x: Array, mean: Array) -> Array:
    """Of `(w (x - mean))^2`, of `w^2 (x - mean)`, of `w^2` and of `w`."""
    weights, off = weights.astype(x.dtype), x - mean
    return jnp.stack(
        [jnp.sum(shared(weights, off) ** 2), jnp.sum(shared(weights**2, off)), jnp.sum(weights**2), jnp.sum(weights)]
    )


def _about(sums: np.ndarray, shift: Any) -> np.ndarray:
    """Such sums about a mean that is smaller by `shift` (Chan, Golub & LeVeque 1983, with weights)."""
    squares, slopes, square_weights, weights = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore"):
        moved = squares + 2 * shift * slopes + shift**2 * square_weights
        return np.stack([moved, slopes + shift * square_weights, square_weights, weights], axis=-1)
