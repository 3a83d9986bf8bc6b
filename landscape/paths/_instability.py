r"""Instability analysis: from which step on do two trainings end in one flat region, whatever their minibatches?

Train from one start for `k` steps, then go on with two children that draw different minibatches, each to the end. The
barrier on the line between the children says whether the training was stable to the noise of SGD at step `k` (Frankle,
Dziugaite, Roy & Carbin 2020, "Linear mode connectivity and the lottery ticket hypothesis", section 2 and algorithm 1).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.grid import Grid
from landscape.objective import Objective, joined
from landscape.point import as_number
from landscape.subspace import line
from landscape.training import check_all_means, check_optimizer, check_run
from landscape.training._descent import Spec, batch_of, updated

_static: Any = {"static": True}
SHARED = 0  # the minibatches that all children see before they part; child i has its own, i + 1


@_tree.register
@dataclass(frozen=True, eq=False)
class Instability:
    """Losses on the line between two children of one training: `[split]` or `[split, run] -> {"train_loss": .., ..}`.

    A point function for `sweep`: over `Grid.of(split=[0, 100, 1000], run=range(5))` it repeats the analysis of the
    paper for five starts. Both children are trained in full, with one schedule and one state of the optimizer: up to
    step `split` they draw the same minibatches and are the same to the bit, from there on each draws its own.

    Outputs: `{name}_{metric}` of the training objective, `train`, and each tracked one, at `num_points` equally spaced
    points of the line, ends included, `(num_points,)`, for `analysis.barrier` (the paper's is `above_mean` of the error
    rate, and stable means below 2 points); and `distance`, the Euclidean distance of the children.

    Attributes:
        init: a function `key -> params`.
        objective: what is minimised.
        optimizer: any optax optimizer.
        num_steps: steps of each training.
        batch_size: examples per step, drawn anew without replacement. The noise that the children differ in.
        key: random key. Run `i` has `fold_in(key, i)`, split in two for `init` and for minibatches.
        track: further objectives to measure on the line, for example `{"test": objective}`.
        num_points: points of the line.
    """

    init: Callable[[Array], PyTree]
    objective: Objective
    optimizer: optax.GradientTransformation = field(metadata=_static)
    num_steps: int = field(metadata=_static)
    batch_size: int = field(kw_only=True, metadata=_static)
    key: Any = field(kw_only=True)
    track: Mapping[str, Objective] = field(default_factory=dict, kw_only=True)
    num_points: int = field(default=25, kw_only=True, metadata=_static)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> dict[str, Array]:
        """One pair of children."""
        first, second = self.children(coords)
        between = line(first, second)
        away = jax.tree.map(lambda x, y: _tree.at_least_single(x) - _tree.at_least_single(y), first, second)
        positions = jnp.linspace(0, 1, self.num_points)[:, None]
        values = {"distance": _tree.norm(away)}
        for name, objective in {"train": self.objective, **self.track}.items():
            measured = jax.lax.map(lambda t, o=objective: o.evaluate(between(t)), positions)
            values = joined(values, {f"{name}_{metric}": value for metric, value in measured.items()})
        return values

    def children(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> tuple[PyTree, PyTree]:
        """The parameters of both children at the end."""
        numbers = as_number(jnp.asarray(coords))
        split, run = numbers[0], numbers[1] if len(numbers) > 1 else 0
        for_init, for_batches = jax.random.split(jax.random.fold_in(self.key, run))
        start = jax.tree.map(jnp.asarray, self.init(for_init))
        both = jax.tree.map(lambda x: jnp.stack([x, x]), (start, self.optimizer.init(start)))

        def step(number: Array, both: Any) -> Any:
            return jax.vmap(lambda child, state: self._step(for_batches, number, split, child, state))(
                jnp.arange(2), both
            )

        ends, _ = jax.lax.fori_loop(0, self.num_steps, step, both)
        return jax.tree.map(lambda x: x[0], ends), jax.tree.map(lambda x: x[1], ends)

    def _step(self, key: Array, number: Array, split: Array, child: Array, state: Any) -> Any:
        """One step of one child; the minibatches are the common ones before the split."""
        params, memory = state
        own = jax.random.fold_in(key, jnp.where(number < split, SHARED, child + 1))
        part = batch_of(self.objective, self.batch_size, own, number)
        return updated(self.optimizer, part, params, memory, *part.value_and_grad(params))

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the trainings cannot be carried out."""
        _tree.check_takes(self.init, "init", "key")
        check_run(
            self.objective, Spec(self.optimizer, self.num_steps, 1, batch_size=self.batch_size), self.key, self.track
        )
        check_optimizer(self.optimizer)
        if "train" in self.track:
            raise ValueError("track cannot hold 'train': that is the name of the objective itself")
        _tree.check_count("num_points", self.num_points, 3)  # the ends and what is between
        if grid.ndim not in (1, 2):
            raise ValueError(f"Instability needs a grid of split steps, or of splits and runs, got {grid.ndim} axes")
        for axis in grid.axes:
            if np.any((axis.values < 0) | (axis.values != np.rint(axis.values))):
                raise ValueError(f"the axis {axis.name!r} must hold whole numbers from 0, got {axis.values}")
        if np.any(grid.axes[0].values > self.num_steps):
            raise ValueError(f"a split must come within the {self.num_steps} steps, got {grid.axes[0].values}")
        _tree.check_params(jax.eval_shape(self.init, self.key), "the result of init(key)")
        check_all_means(self.objective, self.track, lambda: self.init(self.key))
