"""`LossSurface`: the loss, its metrics and gradient over a subspace."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.grid import Grid
from landscape.maps._blocks import ObjectiveOverBlocks
from landscape.moving import parted
from landscape.objective import (
    Objective,
    batches_in,
    check_means,
    check_named,
    check_objective,
    differentiated,
    filled,
    joined,
    set_aside,
    shared,
)
from landscape.point import checked_value, coords_dtype
from landscape.subspace import Subspace, least_squares
from landscape.training._descent import (
    cast_like,
)

static: Any = {"static": True}
BUILT_IN = ("sem", "gradient", "gradient_norm", "off_plane")


@_tree.register
@dataclass(frozen=True, eq=False)
class LossSurface:
    """Losses and metrics of several objectives over a subspace: `coords -> {"train_loss": .., "test_loss": ..}`.

    All objectives are measured in one pass, on the same data at every point.

    Attributes:
        at: maps coordinates to parameters, usually a `Subspace`.
        objectives: `{"train": .., "test": ..}`, whose names prefix the outputs, or one `Objective` without prefix.
        outputs: what else to measure, each of
            `"sem"`: standard error over the examples of each loss and metric (`train_loss_sem`), with weights that of
            the ratio estimator (Cochran 1977, "Sampling Techniques", section 2.11),
            `sqrt(n / (n - 1) sum_i w_i^2 (l_i - L)^2) / sum_i w_i`; refused where the loss of an example depends on
            the others of its batch;
            `"gradient"`: exact gradient with respect to the coordinates (`train_gradient`, `(k,)`), by forward mode, or
            by reverse mode for losses that have no other (`jax.custom_vjp`);
            `"gradient_norm"`: Euclidean norm of the gradient with respect to all parameters;
            `"off_plane"`: share of the squared gradient norm that points out of the plane, in [0, 1]
            (NaN where the gradient is 0);
            a function `params -> array`, named by its `__name__`, or a pair `(name, function)`.
        recalibrate: measure the model state anew at every point before evaluating, on the objective called `train`
            (the first one where none is), and use it for all: test data are never normalised by themselves. See
            `Objective.recalibrated`. Gradients hold the state fixed.

    The three treatments of batch norm: leave `recalibrate` off and the stored statistics stay as they are
    (*frozen*); switch it on (*recalibrated*); or let `loss_fn` normalise by the batch it is given (*batch
    statistics*: the answer depends on the size of the batches, so make batches the examples, by the recipe in
    `docs/your_own_model.md`; `sweep` warns where `Objective.batch_size` would decide). Running statistics are never
    part of the parameters, so they are never perturbed.
    """

    at: Callable[[Array], PyTree]
    objectives: Objective | Mapping[str, Objective]
    outputs: tuple[Any, ...] = field(default=(), metadata=static)
    recalibrate: bool = field(default=False, metadata=static)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> dict[str, Array]:
        """All outputs at one point."""
        coords = jnp.asarray(coords)
        params = self.at(coords)
        values = {}
        for prefix, objective in self._calibrated(params):
            measured = self._measure(objective, params, coords)
            values = joined(values, {prefix + name: value for name, value in measured.items()})
        for name, fn in self._functions():
            values = joined(values, {name: checked_value(fn(params), f"the output {name!r}")})
        return values

    def block_sums(self) -> tuple[list[ObjectiveOverBlocks], "LossSurface | None"]:
        """The objectives over `Batches`, each as a sum over blocks, and the surface of what there is beside them."""
        named = dict(self._named())
        outputs = tuple(output for output in self.outputs if output == "gradient")
        streams = {prefix: objective for prefix, objective in named.items() if batches_in(objective)}
        rest = {prefix[:-1]: objective for prefix, objective in named.items() if prefix not in streams}
        alone = dataclasses.replace(self, objectives={}, outputs=outputs)
        sums = [ObjectiveOverBlocks(alone, *both, "sem" in self.outputs) for both in streams.items()]
        beside = rest or any(callable(output) or isinstance(output, tuple) for output in self.outputs)
        return sums, dataclasses.replace(self, objectives=rest) if beside else None

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the outputs, the objectives or the subspace are not usable."""
        self._check_fields()
        if batches_in(self):
            self._check_blocks()
            filled(self)._check_at(grid)
        else:
            self._check_at(grid)
        for prefix, objective in self._named():
            name = f"objectives[{prefix[:-1]!r}]" if prefix else "objectives"
            check_means(objective, partial(self.at, middle(grid)), name, per_example="sem" in self.outputs)

    def _check_blocks(self) -> None:
        """Refuse what would take the gradient of every point, or a further pass for each."""
        for output in ("gradient_norm", "off_plane"):
            if output in self.outputs:
                raise ValueError(
                    f"the output {output!r} takes the whole gradient at every point of a tile, as many trees of "
                    "parameters as there are points, summed over all Batches: leave it away, or hold the data in memory"
                )
        if self.recalibrate:
            raise ValueError("recalibrate=True measures the state at each point by a pass of its own: not with Batches")

    def _check_at(self, grid: Grid) -> None:
        check_at(self.at, grid)
        _check_returned(self.at, grid)
        if isinstance(self.at, Subspace):
            self.at.check_rounding(grid, lambda params: [objective(params) for _, objective in self._named()])

    def _check_fields(self) -> None:
        _tree.check_takes(self.at, "LossSurface.at", "coords")
        if not isinstance(self.objectives, Objective | Mapping):
            raise TypeError(f"objectives must be an Objective or a dict of them, got {type(self.objectives).__name__}")
        if isinstance(self.objectives, Mapping):
            check_named(self.objectives, "objectives", at_least=1, streams=True)
        else:
            check_objective(self.objectives, "objectives", streams=True)
        if not isinstance(self.outputs, tuple):
            raise TypeError(f"outputs must be a tuple of names and functions, got {type(self.outputs).__name__}")
        for output in self.outputs:
            _check_output(output)
        if not isinstance(self.recalibrate, bool):
            raise TypeError(f"recalibrate must be True or False, got {_tree.describe(self.recalibrate)}")
        if self.recalibrate and self._source().update_state is None:
            raise ValueError("recalibrate=True needs update_state in the objective 'train' (the first, where none is)")

    @property
    def refined(self) -> tuple[str, ...]:
        """The outputs that a plain `tolerance` applies to: the losses. Metrics may jump, gradients have kinks."""
        return tuple(f"{prefix}loss" for prefix, _ in self._named())

    def _named(self) -> Iterator[tuple[str, Objective]]:
        if isinstance(self.objectives, Objective):
            return iter([("", self.objectives)])
        return ((f"{name}_", objective) for name, objective in self.objectives.items())

    def _calibrated(self, params: PyTree) -> list[tuple[str, Objective]]:
        named = list(self._named())
        if not self.recalibrate:
            return named
        state = self._source().recalibrated(params).state
        return [(prefix, dataclasses.replace(objective, state=state)) for prefix, objective in named]

    def _source(self) -> Objective:
        """The objective on whose data the state is measured."""
        named = dict(self._named())
        return named.get("train_", next(iter(named.values())))

    def _functions(self) -> Iterator[tuple[str, Callable[[PyTree], Any]]]:
        for output in self.outputs:
            if isinstance(output, tuple):
                yield output
            elif callable(output):
                yield output.__name__, output

    def _measure(self, objective: Objective, params: PyTree, coords: Array) -> dict[str, Array]:
        values = self._means(objective, params)
        if "gradient" in self.outputs:
            values = joined(values, {"gradient": self._gradient(objective, params, coords)})
        if "gradient_norm" in self.outputs or "off_plane" in self.outputs:
            values = joined(values, self._gradient_shares(objective, params, coords))
        return values

    def _means(self, objective: Objective, params: PyTree) -> dict[str, Array]:
        """Loss and metrics, with their standard errors where asked for."""
        if "sem" not in self.outputs:
            return objective.evaluate(params)
        examples = objective.examples(params)
        weights = None if objective.weight_fn is None else objective.weights()
        values = _with_standard_errors(examples, weights)
        if jax.eval_shape(objective.evaluate, params).keys() <= examples.keys():
            return values
        means = objective.evaluate(params)  # metrics that are means of a batch have no examples
        return joined({name: mean for name, mean in means.items() if name not in examples}, values)

    def _gradient(self, objective: Objective, params: PyTree, coords: Array) -> Array:
        """By forward mode, which takes a pass for each coordinate and no memory; else by reverse mode."""
        try:
            return jax.jacfwd(lambda c: objective(self.at(c)))(coords)
        except (TypeError, ValueError, NotImplementedError):  # the loss itself was evaluated: it has no tangents
            objective, params = set_aside(objective, params, aloud=False)
            gradient = _backward(objective, params, "gradient")
        _, pull = jax.vjp(lambda c: parted(self.at(c)).moving, coords)
        return pull(cast_like(gradient, params))[0]

    def _gradient_shares(self, objective: Objective, params: PyTree, coords: Array) -> dict[str, Array]:
        asked = [name for name in ("gradient_norm", "off_plane") if name in self.outputs]
        objective, params = set_aside(objective, params, aloud=False)
        gradient = _backward(objective, params, asked[0])
        squared = _tree.inner(_tree.as_stack(gradient), _tree.as_stack(gradient))[0, 0]
        shares = {"gradient_norm": jnp.sqrt(squared)}
        if "off_plane" in self.outputs:
            tangents = jax.vmap(lambda e: jax.jvp(lambda c: parted(self.at(c)).moving, (coords,), (e,))[1])(
                jnp.eye(len(coords), dtype=coords.dtype)
            )
            within = _tree.combine(least_squares(tangents, gradient), tangents)
            outside = _tree.as_stack(jax.tree.map(jnp.subtract, gradient, within))
            shares["off_plane"] = _tree.inner(outside, outside)[0, 0] / squared
        return {name: value for name, value in shares.items() if name in self.outputs}


def check_track(track: Any) -> None:
    if not isinstance(track, Mapping):
        raise TypeError(f"track must be a dict of objectives by name, got {_tree.describe(track)}")


def _backward(objective: Objective, params: PyTree, output: str) -> PyTree:
    """The gradient for the parameters."""
    need = f"the output {output!r} needs the gradient of the loss"
    return differentiated(lambda: objective.value_and_grad(params)[1], lambda: objective(params), need)


def point_like(grid: Grid) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((grid.ndim,), coords_dtype())


def middle(grid: Grid) -> Array:
    """The coordinates of a point about the middle, to look at."""
    return jnp.asarray(grid.points_at(np.array([grid.size // 2]))[0], coords_dtype())


def same(coords: Array) -> Array:
    return coords


def _check_returned(at: Any, grid: Grid) -> None:
    """Raise `TypeError` unless `at` returns arrays; functions may be among them, as in a whole equinox model."""
    made: list[Any] = []
    jax.eval_shape(lambda coords: made.append(at(coords)), point_like(grid))
    leaves = jax.tree.leaves(made)
    if not any(isinstance(leaf, jax.Array | np.ndarray | np.generic | float) for leaf in leaves):
        advice = ": is a `return` missing?" if made == [None] else ""
        raise TypeError(f"at(coords) must return parameters, a pytree of arrays, got {made[0]!r}{advice}")


def check_at(at: Any, grid: Grid) -> None:
    check = getattr(at, "check_grid", None)
    if check is not None:
        check(grid)


def _check_output(output: Any) -> None:
    if isinstance(output, str):
        if output not in BUILT_IN:
            raise ValueError(f"unknown output {output!r}; built in are {', '.join(BUILT_IN)}, or pass a function")
        return
    name, fn = output if isinstance(output, tuple) and len(output) == 2 else (None, output)
    name = getattr(fn, "__name__", None) if name is None else name
    if not callable(fn) or not isinstance(name, str) or not name.isidentifier():
        raise TypeError(
            f"an output must be one of {', '.join(BUILT_IN)}, a function with a name, or a pair (name, function), "
            f"got {output!r}"
        )
    _tree.check_takes(fn, f"outputs.{name}", "params")


def _with_standard_errors(examples: dict[str, Array], weights: Array | None) -> dict[str, Array]:
    """Mean and standard error of the mean of each per-example quantity."""
    error_of = _mean_and_error if weights is None else partial(_ratio_and_error, weights)
    both = {name: error_of(x) for name, x in examples.items()}
    means, errors = ({name: pair[i] for name, pair in both.items()} for i in range(2))
    return joined(means, {f"{name}_sem": error for name, error in errors.items()})


def _mean_and_error(x: Array) -> tuple[Array, Array]:
    return jnp.mean(x), jnp.std(x, ddof=1) / jnp.sqrt(x.shape[0])


def _ratio_and_error(weights: Array, x: Array) -> tuple[Array, Array]:
    """The ratio of two sums over the same examples, weights being drawn with them; s / sqrt(n) for equal weights."""
    weights = weights.astype(x.dtype)
    num, total = len(x), jnp.sum(weights)
    ratio = jnp.sum(shared(weights, x)) / total
    off = shared(weights, x - ratio)
    return ratio, jnp.sqrt(num / (num - 1) * jnp.sum(off**2)) / total if num > 1 else jnp.full_like(ratio, jnp.nan)
