"""`BasinMap`: where training ends that starts at each point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.grid import Grid
from landscape.maps._surface import check_at, check_track, middle, point_like, same, static
from landscape.moving import parted
from landscape.objective import Objective, joined, set_aside
from landscape.training import CHECK_EVERY, check_all_means, check_optimizer, check_run, the_ends, tracked
from landscape.training import run as carry_out
from landscape.training._descent import Descent, Outcome, Spec, check_loss, fast

NOT_REACHED, DIVERGED = -1, -2


@_tree.register
@dataclass(frozen=True, eq=False)
class BasinMap:
    """Which minimum a training run from each point ends in: `coords -> {"outcome": .., "label": .., ..}`.

    A basin belongs to an optimizer: another one draws another map of the same loss. With `tol`, a run stops where
    the gradient has vanished; minibatches, if any, are drawn alike at all points. Where the coordinates are the
    parameters, `BasinMap(None, Objective(lambda p, _: f(p)), optax.sgd(0.01), 5000, tol=1e-6)` is all.

    Outputs: `outcome` (an `Outcome`) and `steps`, `int32`; `train_loss` and `grad_norm` at the end; `{name}_{metric}`
    of each tracked objective there; and where the run ended:

    - with `minima` or `labels`, `label`, `int32`: the number of the minimum, -1 for a run that reached none (or, with
      `tol`, did not converge), -2 for one that diverged;
    - otherwise `end`, the parameters at the end as one vector, from which `analysis.label_basins` finds the minima.

    Attributes:
        at: maps coordinates to the parameters where a run starts, usually a `Subspace`; `None` where the coordinates
            are the parameters.
        objective: what is minimised.
        optimizer: any optax optimizer.
        num_steps: steps at most.
        minima: known minima, as parameters with a leading axis, or a list of parameters. The nearest one counts, by
            the Euclidean distance over all parameters.
        radius: a minimum is reached within this distance.
        labels: in place of `minima`, a function `params -> int`, for minima that are alike up to a symmetry.
        track: further objectives to measure at the end, for example `{"test": objective}`.
        tol, max_loss, batch_size, key: as for `landscape.train`.
        check_every: steps between two looks at `tol` and `max_loss`; `steps` of converged runs are multiples of it, or
            `num_steps`.
    """

    at: Any
    objective: Objective
    optimizer: optax.GradientTransformation = field(metadata=static)
    num_steps: int = field(metadata=static)
    minima: PyTree = field(default=None, kw_only=True)
    radius: Any = field(default=None, kw_only=True)
    labels: Callable[[PyTree], Any] | None = field(default=None, kw_only=True, metadata=static)
    track: Mapping[str, Objective] = field(default_factory=dict, kw_only=True)
    tol: Any = field(default=None, kw_only=True)
    max_loss: Any = field(default=None, kw_only=True)
    check_every: int = field(default=CHECK_EVERY, kw_only=True, metadata=static)
    batch_size: int | None = field(default=None, kw_only=True, metadata=static)
    key: Any = field(default=None, kw_only=True)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> dict[str, Array]:
        """One run."""
        objective, start = set_aside(self.objective, self._start(jnp.asarray(coords)), aloud=False)
        track = tracked(self.track, self.objective, objective)
        run = carry_out(Descent(objective, self.key, (self.tol, self.max_loss), track, self._spec()), start)
        last = {name: value[-1] for name, value in run.history.items() if name != "step"}
        values = {"outcome": run.outcome_code, "steps": run.steps, "train_loss": last.pop("loss")}
        if self.minima is None and self.labels is None:
            return joined(values, last, {"end": ravel_pytree(run.params)[0]})
        whole = run.params if objective is self.objective else objective.whole(run.params)
        return joined(values, last, {"label": self._label(whole, run.outcome_code)})

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the start, the training or the minima are not usable."""
        check_track(self.track)
        check_run(self.objective, self._spec(), self.key, self.track, (self.tol, self.max_loss))
        check_optimizer(self.optimizer)
        at = same if self.at is None else self.at
        _tree.check_takes(at, "BasinMap.at", "coords", advice="; None where the coordinates are the parameters")
        check_at(self.at, grid)
        params = jax.eval_shape(self._start, point_like(grid))
        moving, frozen = parted(params, aloud=True)
        _tree.check_params(moving, "the result of at(coords)")
        first = partial(at, middle(grid))
        objective, moving = set_aside(self.objective, params if frozen is None else first(), aloud=False)
        check_loss(objective, fast(moving))
        self._check_minima(params)
        track = tracked(self.track, self.objective, objective)
        check_all_means(objective, track, lambda: set_aside(self.objective, first(), aloud=False)[1])

    @property
    def refined(self) -> tuple[str, ...]:
        """A plain `tolerance` applies to no output: name those that are labels, `tolerance={'label': 0.01}`."""
        return ()

    def _check_minima(self, params: PyTree) -> None:
        if self.labels is not None:
            _tree.check_takes(self.labels, "labels", "params")
            if self.minima is not None:
                raise ValueError("minima= and labels= both say what a minimum is: give one of them")
            label = jax.eval_shape(self.labels, params)
            if getattr(label, "shape", None) != () or np.dtype(label.dtype).kind not in "biu":
                raise TypeError(f"labels(params) must return one integer, got {_tree.describe(label)}")
            return
        if (self.minima is None) != (self.radius is None):
            raise ValueError("minima= and radius= belong together: a minimum is reached within the radius")
        if self.minima is not None:
            self._stacked_minima(params)
            if np.ndim(self.radius) or np.asarray(self.radius).dtype.kind not in "iuf":
                raise TypeError(f"radius must be one distance, got {_tree.describe(self.radius)}")
            if not self.radius > 0:
                raise ValueError(f"radius must be a positive distance, got {self.radius}")

    def _spec(self) -> Spec:
        return Spec(self.optimizer, self.num_steps, the_ends(self.num_steps), self.check_every, self.batch_size)

    def _start(self, coords: Array) -> PyTree:
        return coords if self.at is None else self.at(coords)

    def _label(self, params: PyTree, outcome: Array) -> Array:
        found = self._nearest(params) if self.labels is None else jnp.asarray(self.labels(params), jnp.int32)
        unsettled = (outcome != Outcome.CONVERGED) & (self.tol is not None)
        label = jnp.where(unsettled, NOT_REACHED, found)
        return jnp.where(outcome == Outcome.DIVERGED, DIVERGED, label).astype(jnp.int32)

    def _stacked_minima(self, params: PyTree) -> PyTree:
        minima, like = parted(self.minima).moving, parted(params).moving
        return _tree.read_stack(minima, "minima", like, "the parameters", one="minimum")

    def _nearest(self, params: PyTree) -> Array:
        stacked = self._stacked_minima(params)
        away = jax.tree.map(lambda minima, p: minima - jnp.expand_dims(p, 0), stacked, parted(params).moving)
        distances = jax.vmap(_tree.norm)(away)
        distances = jnp.where(jnp.isnan(distances), jnp.inf, distances)  # a minimum that is not known is not reached
        return jnp.where(jnp.min(distances) <= self.radius, jnp.argmin(distances), NOT_REACHED)
