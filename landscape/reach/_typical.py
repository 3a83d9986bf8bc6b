"""`typical`: how a plane compares with random planes of its kind, in curvature and in how the loss rises."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.analysis import wilson_interval
from landscape.checks import check_count, check_share, reals
from landscape.curvature import Estimate, trace
from landscape.curvature._products import products
from landscape.engine import sweep
from landscape.grid import Grid
from landscape.maps._radius import moved
from landscape.objective import Objective, check_objective
from landscape.point import as_number, check_numbers
from landscape.reach._extent import around, auto_extent
from landscape.reach._worst import unit
from landscape.subspace import Draws, Subspace, check_draw, direction_of

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the extent of the plane: distances that are looked at by default
_static: Any = {"static": True}


@_tree.register
@dataclass(frozen=True, eq=False)
class PlaneProfile:
    """How a plane looks from its middle: number of a plane -> its curvature, and the rise at some distances.

    Outputs: `curvature`, the mean over the directions of the plane of d'Hd / d'd; `rise`, `(distances,)`, the mean of
    the loss over a circle, less that of the origin; distances are Euclidean ones over all parameters.

    Attributes:
        origin: parameters where all planes meet.
        objective: the loss.
        draw: number -> direction, or a stack; plane `i` has the directions `dim * i`, `dim * i + 1`, ..
        distances: radii of the circles, `(m,)`.
        dim: directions of a plane.
        num_angles: points on each circle.
    """

    origin: PyTree
    objective: Objective
    draw: Any
    distances: Any
    dim: int = field(default=2, kw_only=True, metadata=_static)
    num_angles: int = field(default=8, kw_only=True, metadata=_static)

    def __call__(self, coords: Float[Array, " 1"]) -> dict[str, Array]:
        """One plane."""
        first = self.dim * as_number(jnp.asarray(coords)[0])
        directions = [unit(direction_of(self.draw, first + j, self.origin)) for j in range(self.dim)]
        stack = _tree.stack(directions)
        product = products(self.objective, self.origin)
        images = jax.lax.map(product, stack)
        curvature = jnp.mean(jnp.diagonal(_tree.inner(stack, images)))
        base = self.objective(self.origin)
        circle = jnp.asarray(around(self.dim, self.num_angles))

        def rise(distance: Array) -> Array:
            def at(coords: Array) -> Array:
                return self.objective(moved(self.origin, unit(_tree.combine(coords, stack)), distance))

            return jnp.mean(jax.lax.map(at, circle)) - base

        return {"curvature": curvature, "rise": jax.lax.map(rise, jnp.asarray(self.distances, base.dtype))}

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the grid, the draw or the distances are not usable."""
        if grid.ndim != 1:
            raise ValueError(
                f"a PlaneProfile takes one coordinate, the number of a plane; the grid has {grid.ndim} axes"
            )
        check_numbers(grid.axes[0].values, f"the coordinates of {grid.names[0]!r}")
        check_objective(self.objective)
        check_draw(self.draw, self.origin, self.dim * (int(np.max(grid.axes[0].values)) + 1))


class Percentile(NamedTuple):
    """The share of random planes that lie below, and what it lies between at the stated confidence."""

    share: float
    lower: float
    upper: float


@dataclass(frozen=True, eq=False, repr=False)
class Typical:
    """A plane among random planes of its kind. Printed, it is a few lines of text.

    Attributes:
        curvature: of the plane, the mean of d'Hd / d'd over its directions.
        curvature_percentile: its place among the random planes.
        mean: of the same over all directions, exactly but for the error of a trace.
        distances: Euclidean, `(m,)`.
        rise: of the loss over the plane's circles, `(m,)`.
        rise_percentiles: their places, one for each distance.
        curvatures, rises: of the random planes, `(n,)` and `(n, m)`.
    """

    curvature: float
    curvature_percentile: Percentile
    mean: Estimate
    distances: Float[np.ndarray, " m"]
    rise: Float[np.ndarray, " m"]
    rise_percentiles: tuple[Percentile, ...]
    curvatures: Float[np.ndarray, " n"]
    rises: Float[np.ndarray, "n m"]

    def band(self, share: float = 0.9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Median of the rises of the random planes, and the ends of the band that holds such a share of them."""
        check_share("share", share)
        low, middle, high = np.quantile(self.rises, [(1 - share) / 2, 0.5, (1 + share) / 2], axis=0)
        return middle, low, high

    def __repr__(self) -> str:
        num = len(self.curvatures)
        lines = [
            f"curvature {self.curvature:.4g}, above {_percent(self.curvature_percentile)} of {num} random planes; mean "
            f"over all directions {float(self.mean.mean):.4g} ± {float(self.mean.sem):.2g}"
        ]
        for distance, rise, place in zip(self.distances, self.rise, self.rise_percentiles):
            lines.append(f"rise at {distance:.3g}: {rise:.4g}, above {_percent(place)} of them")
        return "\n".join(lines)


def _percent(place: Percentile) -> str:
    return f"{place.share:.0%} [{place.lower:.0%}, {place.upper:.0%}]"


def typical(
    key: Array,
    objective: Objective,
    plane: Subspace,
    *,
    normalization: str | None = None,
    filter_axis: Any = None,
    where: Any = None,
    num_planes: int = 40,
    distances: Any = None,
    confidence: float = 0.95,
    **options: Any,
) -> Typical:
    """Whether a plane is like random planes of its kind: its curvature and its rise as percentiles among them.

    Beside them stands the exact mean of d'Hd / d'd over directions of this kind, which no sample is needed for: it is
    the trace of the Hessian with every parameter weighted by its mean square in such a direction
    (`curvature.trace`, by its error).

    Args:
        key: random key of the planes and of the trace.
        objective: the loss.
        plane: a subspace through the parameters.
        normalization: of the random directions, as for `subspace.Draws`.
        filter_axis: as for `subspace.filter_normalize`.
        where: parameters that move in them, as for `subspace.mask`.
        num_planes: how many to compare with.
        distances: at which the rise is compared; by default quarters of `auto_extent`.
        confidence: chance that the interval of a percentile covers.
        options: of `sweep`.

    Raises:
        TypeError, ValueError: as for `subspace.Draws` and `auto_extent`; no Subspace, fewer than 2 planes, or distances
            that are not positive.
    """
    check_objective(objective)
    if not isinstance(plane, Subspace):
        raise TypeError(f"plane must be a Subspace, got {_tree.describe(plane)}")
    check_count("num_planes", num_planes, 2)
    check_share("confidence", confidence)
    origin = plane.origin
    draw = Draws(key, origin, normalization=normalization, filter_axis=filter_axis, where=where)
    distances = _checked_distances(objective, plane, distances)
    options = {"batch": 1, "progress": False} | options
    given = PlaneProfile(origin, objective, plane.checked_directions(), distances, dim=plane.dim)
    own = sweep(given, Grid.of(plane=range(1)), **options)
    drawn = PlaneProfile(origin, objective, draw, distances, dim=plane.dim)
    others = sweep(drawn, Grid.of(plane=range(num_planes)), **options)
    mean = trace(jax.random.fold_in(key, num_planes), Weighted(objective, draw.scale()), origin)
    below = [np.sum(others[name] < own[name], axis=0) for name in ("curvature", "rise")]
    places = [_percentiles(np.atleast_1d(counts), num_planes, confidence) for counts in below]
    return Typical(
        float(own["curvature"][0]), places[0][0], mean, distances, own["rise"][0], places[1],
        others["curvature"], others["rise"],
    )  # fmt: skip


def _checked_distances(objective: Objective, plane: Subspace, distances: Any) -> np.ndarray:
    if distances is None:
        lengths = np.sqrt(np.diagonal(np.asarray(plane.gram(), np.float64)))
        return auto_extent(objective, plane).value * lengths.mean() * np.array(SHARES)
    distances = np.atleast_1d(reals("distances", distances, finite=True))
    if distances.ndim != 1 or not distances.size or not np.all(distances > 0):
        raise ValueError(f"distances must be positive, one row of them, got {distances!r}"[:200])
    return distances


def _percentiles(counts: np.ndarray, num: int, confidence: float) -> tuple[Percentile, ...]:
    lower, upper = wilson_interval(counts, num, confidence)
    return tuple(Percentile(*map(float, row)) for row in zip(counts / num, lower, upper))


@_tree.register
@dataclass(frozen=True, eq=False)
class Weighted:
    """A Hessian between parameters in given units: `s H s`, element by element."""

    objective: Objective
    scale: PyTree

    def products(self, params: PyTree) -> Any:
        """Products at `params`."""
        product = products(self.objective, params)

        def scaled(vector: PyTree) -> PyTree:
            return jax.tree.map(lambda s, v: _tree.at_least_single(s) * _tree.at_least_single(v), self.scale, vector)

        return lambda vector: scaled(product(scaled(vector)))
