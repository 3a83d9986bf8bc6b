"""Planes that belong to a path: that of velocity and acceleration at a snapshot, and one that goes with the run."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import check_flag
from landscape.grid import Axis, Grid
from landscape.recording._trajectory import Trajectory
from landscape.subspace import Subspace


def osculating_plane(snapshots: PyTree, index: int, *, steps: Any = None, like: PyTree = None) -> Subspace:
    r"""The plane of velocity and acceleration of a path at one of its snapshots, which is the origin.

    A path leaves every fixed plane; near a snapshot it lies in this one up to third order. Velocity and acceleration
    are the derivatives there of the parabola through the snapshot and its two neighbours. The directions are
    orthonormal, the first one along the velocity.

    Args:
        snapshots: a `Trajectory`, of which three snapshots are read, a list of trees or a stack.
        index: the snapshot, with one before and one after it; negative ones count from the end.
        steps: the step of each snapshot; those of the trajectory, or 0, 1, 2, .., by default.
        like: one tree of the kind that is stacked, as for `subspace.pca_directions`.

    Raises:
        TypeError: `index` is no integer, or a leaf is not a real floating-point array.
        ValueError: no such snapshot, one at an end, or a path that is straight or stands still there, to rounding.
    """
    path = _path(snapshots, steps, like)
    _tree.check_count("index", index)
    middle = index + len(path) if index < 0 else index
    if not 0 < middle < len(path) - 1:
        raise ValueError(f"index must be that of a snapshot with neighbours, 1 to {len(path) - 2}, got {index}")
    three = path[middle - 1 : middle + 2]
    leaves, treedef = jax.tree.flatten(three.like)
    points = [three.rows(i, 0, one.size).astype(np.float64) for i, one in enumerate(leaves)]
    rounding = [three.spacing(i) * np.linalg.norm(x[1]) for i, x in enumerate(points)]
    frame = _frame(points, *np.diff(three.steps), np.linalg.norm(rounding))
    made = [jnp.asarray(rows.reshape(2, *one.shape).astype(one.dtype)) for rows, one in zip(frame, leaves)]
    return Subspace(three[1], jax.tree.unflatten(treedef, made))


def _path(snapshots: PyTree, steps: Any, like: PyTree) -> Trajectory:
    """A trajectory as it is, or one of a list or a stack."""
    if not isinstance(snapshots, Trajectory):
        return Trajectory(snapshots, steps=steps, like=like)
    if steps is not None:
        raise ValueError("steps= are those of the trajectory: leave them away")
    if like is not None:
        _tree.check_like(snapshots.like, like, "snapshots", "like")
    return snapshots


def _frame(points: list[np.ndarray], before: float, after: float, rounding: Any) -> list[np.ndarray]:
    """Unit tangent and normal, leaf by leaf, `(2, n)` each, of three points at two intervals of time."""
    velocity = [((x[1] - x[0]) / before * after + (x[2] - x[1]) / after * before) / (before + after) for x in points]
    acceleration = [(x[2] - x[1]) / after - (x[1] - x[0]) / before for x in points]
    speed, noise = _norm(velocity), rounding / min(before, after)
    if not speed > noise:
        raise ValueError("the path stands still there, to rounding: it has no direction")
    tangent = [v / speed for v in velocity]
    share = sum(float(t @ a) for t, a in zip(tangent, acceleration))
    normal = [a - share * t for t, a in zip(tangent, acceleration)]
    turn = _norm(normal)
    if not turn > 2 * noise:
        raise ValueError("the path is straight there, to rounding: velocity and acceleration span no plane")
    return [np.stack([t, n / turn]) for t, n in zip(tangent, normal)]


def _norm(leaves: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(float(x @ x) for x in leaves)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PathSubspace:
    """The affine map `(c_1, .., c_k, step) -> snapshot(step) + sum_i (c_i - centre_i(step)) d_i`. Made by `along`.

    The last coordinate is the step of a snapshot: the landscape over time is one more axis of the grid. Without
    directions it is the path itself.

    Attributes:
        snapshots: the path, a stack of `T` trees.
        directions: a stack of `k` trees, or `None`.
        steps: the step of each snapshot, float `(T,)`.
        centres: the coordinates at which each snapshot lies, `(T, k)`, or `None`.
    """

    snapshots: PyTree
    directions: PyTree
    steps: Any
    centres: Any

    def __call__(self, coords: Float[Array, " k+1"] | Float[np.ndarray, " k+1"]) -> PyTree:
        """Parameters at coordinates of which the last one is a step; the nearest recorded one counts."""
        coords = jnp.asarray(coords)
        index = self._index(coords)
        here = jax.tree.map(lambda x: jnp.asarray(x)[index], self.snapshots)
        if self.directions is None:
            return here
        return Subspace(here, self.directions)(coords[:-1] - jnp.asarray(self.centres, coords.dtype)[index])

    def _index(self, coords: Array) -> Array:
        return jnp.argmin(jnp.abs(jnp.asarray(self.steps, coords.dtype) - coords[-1]))

    def update(self, coords: Float[Array, " k+1"] | Float[np.ndarray, " k+1"]) -> PyTree:
        """The way from the snapshot of a step to the next one: the sum of the updates between them. 0 at the last."""
        index = self._index(jnp.asarray(coords))
        after = jnp.minimum(index + 1, len(self.steps) - 1)
        return jax.tree.map(lambda x: jnp.asarray(x)[after] - jnp.asarray(x)[index], self.snapshots)

    @property
    def before_last(self) -> "PathSubspace":
        """The path without its last snapshot.

        Raises:
            ValueError: there is no other.
        """
        if len(self.steps) < 2:
            raise ValueError("a path of one snapshot has no update: record two or more")
        centres = None if self.centres is None else self.centres[:-1]
        snapshots = jax.tree.map(lambda x: x[:-1], self.snapshots)
        return dataclasses.replace(self, snapshots=snapshots, steps=self.steps[:-1], centres=centres)

    def axis(self, num: int | None = None, name: str = "step") -> Axis:
        """The axis of the steps, of all or of `num` of them, first and last included.

        Raises:
            TypeError, ValueError: `num` is no integer above 0.
        """
        chosen = np.asarray(self.steps, np.float64)
        if num is not None:
            _tree.check_count("num", num, 1)
            chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, min(num, len(chosen))).round().astype(int))]
        return Axis(name, chosen, "step")

    def check_grid(self, grid: Grid) -> None:
        """Raise unless the last axis of a grid has recorded steps, and the others are those of the directions.

        Raises:
            ValueError: another number of axes, a step that was not recorded, or a plane that is not resolved.
        """
        num = 0 if self.directions is None else _tree.num_stacked(self.directions)
        if grid.ndim != num + 1:
            raise ValueError(
                f"a path with {num} directions needs {num + 1} axes, the last one the step; the grid has {grid.ndim}"
            )
        known = np.asarray(self.steps, np.float64)
        for step in grid.axes[-1].values:
            if step not in known:
                near = known[np.argmin(np.abs(known - step))]
                raise ValueError(
                    f"step {step:g} of the axis {grid.axes[-1].name!r} was not recorded, the nearest is {near:g}; "
                    "take the axis from axis()"
                )
        if self.directions is None:
            return
        first = jax.tree.map(lambda x: jnp.asarray(x)[0], self.snapshots)
        Subspace(first, self.directions).check_grid(Grid(grid.axes[:-1]))


def along(snapshots: PyTree, plane: Any = None, *, steps: Any = None, follow: bool = False) -> PathSubspace:
    """The landscape over time: the slice through each snapshot of a path, parallel to a plane.

    Use it as the `at` of a `LossSurface`, over a grid of the axes of the plane and, last, the step:
    `Grid((alpha, beta, at.axis()))`. The loss at the coordinates where the path is, is that of the run.

    Args:
        snapshots: a `Trajectory`, a list of trees or a stack; it is held in memory: take `trajectory[::10]` of a long
            one.
        plane: the `Subspace` that gives directions and coordinates; without it, the step is the only coordinate, and a
            sweep over it makes one table of whatever can be computed along the path.
        steps: the step of each snapshot; those of the trajectory, or 0, 1, 2, .., by default.
        follow: `False`: coordinates are those of the plane, and the path moves through the picture. `True`:
            coordinates are counted from the snapshot, which stays at 0.

    Raises:
        TypeError: `plane` is no `Subspace`, or a leaf is not a real floating-point array.
        ValueError: snapshots that do not look like the plane's origin; steps that do not increase, or that the
            precision of coordinates does not tell apart.
    """
    if not isinstance(plane, Subspace | None):
        raise TypeError(f"plane must be a Subspace, or None for the path itself, got {_tree.describe(plane)}")
    check_flag("follow", follow)
    path = _path(snapshots, steps, None if plane is None else plane.origin)
    when = path.steps.astype(np.float64)
    if np.any(np.diff(path.steps.astype(jnp.zeros(()).dtype)) <= 0):
        raise ValueError("float32 does not tell these steps apart: give steps= in other units, or enable float64")
    if plane is None:
        return PathSubspace(jax.tree.map(jnp.asarray, path.stacked()), None, when, None)
    centres = np.asarray(plane.project(path))
    directions = _tree.read_stack(plane.directions, "directions", plane.origin, "the origin")
    return PathSubspace(
        jax.tree.map(jnp.asarray, path.stacked()), directions, when, np.zeros_like(centres) if follow else centres
    )
