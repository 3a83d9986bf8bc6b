"""Starts in a plane of a network, and the minima that runs from there end in: what `basins.py` maps for a network."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, say
from jax.flatten_util import ravel_pytree

import landscape as ls
from _networks import planes
from _networks.minima import digits_with_decay
from landscape import minima

MOST = 64  # minima that are kept: those of lowest loss
NEAR = 0.02  # points within this share of their size are one
MAX_LOSS = 1e6


@dataclass(frozen=True)
class Ends:
    """Where runs of a coarse sweep ended.

    Attributes:
        params: as vectors, `(n, d)`.
        losses: `(n,)`.
        outcomes: codes of `landscape.Outcome`, `(n,)`.
    """

    params: np.ndarray
    losses: np.ndarray
    outcomes: np.ndarray

    @property
    def converged(self) -> np.ndarray:
        """Which runs converged."""
        return self.outcomes == ls.Outcome.CONVERGED


def small_digits() -> ls.Problem:
    """A tanh network 64-4-10 on 200 digits with weight decay, which makes its minima isolated points."""
    return digits_with_decay((4,), 0.03, 0.2, examples=200)


def plane_of(config: Any, lab: Lab, problem: ls.Problem, num: int) -> tuple[ls.Subspace, ls.Grid, np.ndarray]:
    """The plane of the starts, its grid, and the trained solutions in it, `(m, 2)`."""
    settings = planes.Settings(
        resolution=num, extent=config.extent, layout=config.layout, steps=config.train_steps,
        learning_rate=config.train_rate, seed=config.seed,
    )  # fmt: skip
    trained = planes.train(settings, lab, problem, config.seed)
    plane, grid, meta = planes.plane_of(config.directions, settings, lab, problem, trained)
    return plane, grid, np.asarray(meta.get("corners", np.zeros((1, 2))))


def ends_of(maps: Mapping[str, ls.BasinMap], grid: ls.Grid, num: int, name: str, lab: Lab) -> Ends:
    """A coarse sweep of `num` by `num` starts for each optimizer; every shard makes its own."""
    axes = (ls.Axis.linspace(a.name, float(a.values[0]), float(a.values[-1]), num, a.label) for a in grid.axes)
    coarse, alone = ls.Grid(tuple(axes)), dataclasses.replace(lab, options={**lab.options, "shard": None})
    found = [alone.sweep(f"{name}_{key}_coarse", one, coarse) for key, one in maps.items()]
    parts = [(one["end"].reshape(num * num, -1), one["train_loss"].ravel(), one["outcome"].ravel()) for one in found]
    return Ends(*(np.concatenate(part) for part in zip(*parts)))


def minima_among(ends: Ends, objective: ls.Objective, like: Any) -> minima.Distinct:
    """The distinct minima among ends: grouped, polished where the Hessian is small enough, and told apart.

    Where no run converged, the ends themselves are taken: then a label says near which of them a run ended.

    Args:
        ends: of a coarse sweep.
        objective: what was minimised.
        like: parameters of the same structure.

    Raises:
        UsageError: every run diverged.
    """
    usable = ends.converged if ends.converged.any() else ends.outcomes != ls.Outcome.DIVERGED
    usable &= np.isfinite(ends.losses) & np.isfinite(ends.params).all(axis=1)
    if not usable.any():
        raise UsageError(
            "every run of the coarse sweep diverged: lower the rates, as in --optimizers gd:0.01,adam:0.001"
        )
    points, losses = ends.params[usable], ends.losses[usable]
    size = float(np.median(np.linalg.norm(points, axis=1)))
    groups = ls.analysis.label_basins(points, tol=max(NEAR * size, 1e-6), values=losses)
    flat, values = groups.points[:MOST].astype(points.dtype), np.asarray(groups.values)[:MOST]
    if points.shape[1] <= minima.DENSE:
        say(f"polishing {len(flat)} ends")
        flat, values = _polished(flat, values, objective, like)
    unravel = ravel_pytree(like)[1]
    return minima.distinct(jax.vmap(unravel)(jnp.asarray(flat)), values, tol=NEAR)


def solutions_of(plane: ls.Subspace, places: np.ndarray, objective: ls.Objective) -> minima.Distinct:
    """Trained solutions in place of minima, for runs that do not converge: which of them is a run nearest to?"""
    params = jax.vmap(plane)(jnp.asarray(places, jnp.float32))
    return minima.distinct(params, np.asarray(jax.lax.map(objective, params)), tol=1e-6)


def _polished(
    flat: np.ndarray, values: np.ndarray, objective: ls.Objective, like: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Each point at its minimum; one from which a polish arrives nowhere, along a valley say, stays as it is."""
    unravel, flat, values = ravel_pytree(like)[1], flat.copy(), np.array(values)
    for i, point in enumerate(flat):
        radius = NEAR * max(float(np.linalg.norm(point)), 1e-6)
        end = minima.polish(objective, unravel(jnp.asarray(point)), radius=radius)
        if bool(end.converged):
            flat[i], values[i] = np.asarray(ravel_pytree(end.params)[0]), float(end.loss)
    return flat, values


def scatter(ends: Ends, found: minima.Distinct) -> float:
    """How far runs that converged stop from the nearest minimum: nine in ten stop nearer than this."""
    flat = _flat(found.representatives)
    points = ends.params[ends.converged] if ends.converged.any() else ends.params
    return float(np.quantile([np.linalg.norm(flat - point, axis=1).min() for point in points], 0.9))


def smallest_gap(points: Any) -> float:
    """Smallest distance between two of some parameters, stacked; a fifth of its size where there is only one."""
    flat = _flat(points)
    if len(flat) == 1:
        return max(0.2 * float(np.linalg.norm(flat[0])), 1e-3)
    gaps = np.linalg.norm(flat[:, None] - flat, axis=-1)
    return float(gaps[~np.eye(len(flat), dtype=bool)].min())


def _flat(stacked: Any) -> np.ndarray:
    """Stacked parameters as one vector each, `(n, d)`."""
    return np.asarray(jax.vmap(lambda p: ravel_pytree(p)[0])(jax.tree.map(jnp.asarray, stacked)))


Optimizers = Mapping[str, optax.GradientTransformation]


def basin_maps(at: Any, objective: ls.Objective, optimizers: Optimizers, steps: int, **options: Any) -> dict[str, Any]:
    """One point function for each optimizer."""
    return {key: ls.BasinMap(at, objective, one, steps, **options) for key, one in optimizers.items()}
