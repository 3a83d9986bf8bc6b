"""Point functions: what is evaluated at each coordinate of a grid.

A point function is a callable pytree `coords -> {name: array}`. `sweep` evaluates it; anything that can be
computed from a loss surface's parameters is one more entry of its dictionary, measured in the same pass.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.grid import Grid
from landscape.objective import Objective
from landscape.subspace import least_squares

_static: Any = {"static": True}
BUILT_IN = ("sem", "gradient", "gradient_norm", "off_plane")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LossSurface:
    """Losses and metrics of several objectives over a subspace: `coords -> {"train_loss": .., "test_loss": ..}`.

    All objectives are measured in one pass, on the same data at every point.

    Attributes:
        at: maps coordinates to parameters, usually a `Subspace`.
        objectives: `{"train": .., "test": ..}`, whose names prefix the outputs, or one `Objective` without prefix.
        outputs: what else to measure, each of
            `"sem"`: standard error over the examples of each loss and metric (`train_loss_sem`);
            `"gradient"`: exact gradient with respect to the coordinates, by forward mode (`train_gradient`, `(k,)`);
            `"gradient_norm"`: Euclidean norm of the gradient with respect to all parameters;
            `"off_plane"`: share of the squared gradient norm that points out of the plane, in [0, 1]
            (NaN where the gradient is 0);
            a function `params -> array`, named by its `__name__`, or a pair `(name, function)`.
        recalibrate: measure the model state anew at every point before evaluating, on the objective called `train`
            (the first one where none is), and use it for all: test data are never normalised by themselves. See
            `Objective.recalibrated`. Gradients hold the state fixed.

    The three treatments of batch norm: leave `recalibrate` off and the stored statistics stay as they are
    (*frozen*); switch it on (*recalibrated*); or let `loss_fn` normalise by the batch it is given (*batch
    statistics*; with `Objective.batch_size` set, the answer then depends on it). Running statistics are never
    part of the parameters, so they are never perturbed.
    """

    at: Callable[[Array], PyTree]
    objectives: Objective | Mapping[str, Objective]
    outputs: tuple[Any, ...] = field(default=(), metadata=_static)
    recalibrate: bool = field(default=False, metadata=_static)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> dict[str, Array]:
        """All outputs at one point."""
        coords = jnp.asarray(coords)
        params = self.at(coords)
        values = {}
        for prefix, objective in self._calibrated(params):
            measured = self._measure(objective, params, coords)
            values.update({prefix + name: value for name, value in measured.items()})
        for name, fn in self._functions():
            if name in values:
                raise ValueError(f"two outputs are called {name!r}; name one of them by a pair (name, function)")
            values[name] = fn(params)
        return values

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the outputs, the objectives or the subspace are not usable."""
        if not isinstance(self.objectives, Objective | Mapping):
            raise TypeError(f"objectives must be an Objective or a dict of them, got {type(self.objectives).__name__}")
        for prefix, objective in self._named():
            if not isinstance(objective, Objective):
                raise TypeError(f"objectives must hold Objective, got {type(objective).__name__} for {prefix[:-1]!r}")
        if not isinstance(self.outputs, tuple):
            raise TypeError(f"outputs must be a tuple of names and functions, got {type(self.outputs).__name__}")
        for output in self.outputs:
            _check_output(output)
        if self.recalibrate and self._source().update_state is None:
            raise ValueError("recalibrate=True needs update_state in the objective 'train' (the first, where none is)")
        check = getattr(self.at, "check_grid", None)
        if check is not None:
            check(grid)

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
        values = objective.evaluate(params)
        if "sem" in self.outputs:
            values |= _with_standard_errors(objective.examples(params))
        if "gradient" in self.outputs:
            values["gradient"] = jax.jacfwd(lambda c: objective(self.at(c)))(coords)
        if "gradient_norm" in self.outputs or "off_plane" in self.outputs:
            values |= self._gradient_shares(objective, params, coords)
        return values

    def _gradient_shares(self, objective: Objective, params: PyTree, coords: Array) -> dict[str, Array]:
        _, gradient = objective.value_and_grad(params)
        squared = _tree.inner(_tree.as_stack(gradient), _tree.as_stack(gradient))[0, 0]
        shares = {"gradient_norm": jnp.sqrt(squared)}
        if "off_plane" in self.outputs:
            tangents = jax.vmap(lambda e: jax.jvp(self.at, (coords,), (e,))[1])(
                jnp.eye(len(coords), dtype=coords.dtype)
            )
            within = _tree.combine(least_squares(tangents, gradient), tangents)
            outside = _tree.as_stack(jax.tree.map(jnp.subtract, gradient, within))
            shares["off_plane"] = _tree.inner(outside, outside)[0, 0] / squared
        return {name: value for name, value in shares.items() if name in self.outputs}


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


def _with_standard_errors(examples: dict[str, Array]) -> dict[str, Array]:
    """Mean and standard error of the mean, s / sqrt(n), of each per-example quantity."""
    means = {name: jnp.mean(x) for name, x in examples.items()}
    errors = {f"{name}_sem": jnp.std(x, ddof=1) / jnp.sqrt(x.shape[0]) for name, x in examples.items()}
    return means | errors
