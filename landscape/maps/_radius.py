"""`Radius`: how far the loss stays low in each of many directions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import check_flag
from landscape.grid import Grid
from landscape.maps._surface import static
from landscape.objective import Objective, check_means, check_objective
from landscape.point import as_number, check_numbers, coords_dtype
from landscape.subspace import check_draw, direction_of

NOISE = 16  # of the last place of a loss: what a rise has to exceed
ROUNDED = 4  # norms of the rounding of the parameters: what a distance has to exceed
HALVINGS = 60
PRECISION = 1e-3
LOW, HIGH = 2.0**-16, 2.0**4  # norms of the parameters that are looked at by default


class Reached(IntEnum):
    """What was found along a direction.

    Attributes:
        RISEN: the loss rises by so much between two measured distances.
        WITHIN: it has done so at the smallest distance already. The crossing was found below it, but whether it is the
            first was not looked at.
        NOT_FINITE: it stops being a number before it has risen; the radius is where.
        BEYOND: it has not risen up to the largest distance; the radius is infinite.
        UNRESOLVED: the rise, or the distance, is not above rounding in this precision.
    """

    RISEN, WITHIN, NOT_FINITE, BEYOND, UNRESOLVED = range(5)


@_tree.register
@dataclass(frozen=True, eq=False)
class Rise:
    """A loss that has risen by so much.

    Attributes:
        by: how much.
        relative: whether `by` is a share of the loss at the origin (0.5: half as much again).
    """

    by: Any
    relative: bool = field(default=False, metadata=static)

    def measure(self, objective: Objective, params: PyTree) -> Array:
        """What rises."""
        return objective(params)

    def amount(self, base: Array) -> Array:
        """How much it is to rise from `base`."""
        by = jnp.asarray(self.by, base.dtype)
        return by * jnp.abs(base) if self.relative else by

    def check(self, objective: Objective, params: PyTree) -> None:
        """Raise `TypeError` or `ValueError` for fields that are not what they should be."""
        _tree.check_positive("rise", self.by)
        check_flag("relative", self.relative)


@_tree.register
@dataclass(frozen=True, eq=False)
class Fall(Rise):
    """A metric, such as an accuracy, that has fallen by so much.

    Attributes:
        of: name of the metric, as the objective with `has_aux` gives it.
    """

    of: str = field(default="accuracy", metadata=static)

    def measure(self, objective: Objective, params: PyTree) -> Array:
        """The metric with its sign changed, which rises."""
        return -objective.evaluate(params)[self.of]

    def check(self, objective: Objective, params: PyTree) -> None:
        """Raise `TypeError` or `ValueError` for fields that are not what they should be."""
        super().check(objective, params)
        known = [name for name in jax.eval_shape(objective.evaluate, params) if name != "loss"]
        if self.of not in known:
            raise ValueError(f"the objective has no metric {self.of!r}, only {known or 'a loss'}")


def as_rise(rise: Any) -> Rise:
    """A number as the absolute rise of the loss."""
    return rise if isinstance(rise, Rise) else Rise(rise)


def geometric(low: float, high: float, ratio: float = 2.0) -> np.ndarray:
    """Distances from `low` to `high`, each at most `ratio` times the one before."""
    count = max(2, 1 + int(np.ceil(np.log(high / low) / np.log(ratio) - 1e-9)))
    return np.geomspace(low, high, count)


@_tree.register
@dataclass(frozen=True, eq=False)
class Radius:
    r"""How far the loss stays low along each direction: number of a direction -> radius.

    For a unit vector $u$, the smallest distance $r$ with $L(\theta + r u) \ge L(\theta) + \mathrm{rise}$. The loss is
    measured at growing `distances`, and the first pair between which it crosses the level is divided until `precision`
    is met, by secants in the squared distance (a quadratic is met by the first) and by halves where those do not help.
    What happens between two measured distances, a ridge narrower than their ratio, is not seen.

    >>> import jax, jax.numpy as jnp
    >>> from landscape import Grid, Objective, maps, subspace, sweep
    >>> bowl = Objective(lambda p, _: 0.5 * jnp.sum(p**2))
    >>> origin = jnp.zeros(40)
    >>> far = maps.Radius(origin, bowl, subspace.Draws(jax.random.key(1), origin), rise=0.02)
    >>> radii = sweep(far, Grid.of(direction=range(3)), progress=False)["radius"]     # sqrt(2 * 0.02) for all
    >>> bool(abs(radii - 0.2).max() < 1e-3)
    True

    Outputs, distances being Euclidean ones over all parameters:

    - `radius`, and `below` and `above`, between which the crossing lies; `status`, a `Reached`;
    - `crossings`: how many times the loss changes sides along the measured distances, and `last`, where it does so for
      the last time: a loss that comes back has more than one;
    - `fall`: by how much it falls below that of the origin before it has risen, 0 at a minimum;
    - `base`, the loss at the origin (with `Fall`, the metric with its sign changed); `length`, the norm of the
      direction as drawn, so that `radius / length` is its coordinate; `evaluations` of the loss.

    A point that is not finite is not known to be low: it counts as risen, with the status `NOT_FINITE` for NaN.

    Attributes:
        origin: the parameters.
        objective: the loss.
        draw: number -> direction, such as `subspace.Draws`; or given directions, as a stack or a list of trees.
        rise: a number, by how much the loss rises; or a `Rise` or a `Fall`.
        distances: where the loss is measured first, growing; by default in factors of two from 2^-16 to 2^4 norms of
            the parameters (of 1, where they are 0).
        precision: of a radius, `above / below - 1`.
        base: the loss at the origin where it is known; measured anew for each direction otherwise.
    """

    origin: PyTree
    objective: Objective
    draw: Any
    rise: Any = field(kw_only=True)
    distances: Any = field(default=None, kw_only=True)
    precision: Any = field(default=PRECISION, kw_only=True)
    base: Any = field(default=None, kw_only=True)

    def __call__(self, coords: Float[Array, " 1"] | Float[np.ndarray, " 1"]) -> dict[str, Array]:
        """One direction."""
        return self.along(direction_of(self.draw, as_number(jnp.asarray(coords)[0]), self.origin))

    def along(self, direction: PyTree) -> dict[str, Array]:
        """The outputs for a direction that is given."""
        ray = Ray.along(direction, self)
        distances = self._distances(ray.dtype)
        base = ray.value(jnp.zeros_like(distances[0])) if self.base is None else jnp.asarray(self.base, ray.dtype)
        amount = as_rise(self.rise).amount(base)
        looks = jax.lax.map(ray.value, distances)
        return self._found(ray, Level(base, amount), distances, looks)

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the grid, the draw, the rise or the distances are not usable."""
        if grid.ndim != 1:
            raise ValueError(f"a Radius takes one coordinate, the number of a direction; the grid has {grid.ndim} axes")
        check_numbers(grid.axes[0].values, f"the coordinates of {grid.names[0]!r}")
        check_objective(self.objective)
        check_draw(self.draw, self.origin, int(np.max(grid.axes[0].values)) + 1)
        as_rise(self.rise).check(self.objective, self.origin)
        check_means(self.objective, lambda: self.origin)
        _check_precision(self.precision)
        if self.distances is not None:
            _check_distances(self.distances)

    @property
    def refined(self) -> tuple[str, ...]:
        """Directions have no order, so nothing can be told from neighbours."""
        return ()

    def _distances(self, dtype: Any) -> Array:
        if self.distances is not None:
            return jnp.asarray(self.distances, dtype)
        size = _tree.norm(self.origin).astype(dtype)
        return jnp.where(size > 0, size, 1) * jnp.asarray(geometric(LOW, HIGH), dtype)

    def _found(self, ray: "Ray", level: "Level", distances: Array, looks: Array) -> dict[str, Array]:
        over = level.over(looks)
        changes = over != jnp.concatenate([jnp.zeros(1, bool), over[:-1]])
        ends = jnp.stack([jnp.argmax(changes), len(over) - 1 - jnp.argmax(changes[::-1])])
        starts, stops = _brackets(level, distances, looks, ends)
        divided = partial(_divided, ray.value, level, self.precision)
        # one loop for both, so that the loss is traced once more and not twice; the same bracket is divided once
        same = ends[0] == ends[1]
        crossed = jnp.any(changes)
        wanted = jnp.stack([crossed, crossed & ~same])
        below, above, lost, count = jax.lax.map(lambda x: divided(*x), (starts, stops, wanted))
        unresolved = level.unresolved() | (above[0] < ROUNDED * ray.rounding)
        middle = jnp.where(crossed, (below + above) / 2, jnp.inf)
        risen = jnp.where(ends[0] == 0, Reached.WITHIN, Reached.RISEN)
        status = jnp.where(crossed, jnp.where(lost[0], Reached.NOT_FINITE, risen), Reached.BEYOND)
        before = jnp.where(jnp.arange(len(looks)) < jnp.where(crossed, ends[0], len(looks)), looks - level.base, 0)
        return {
            "radius": middle[0],
            "below": jnp.where(crossed, below[0], distances[-1]),
            "above": jnp.where(crossed, above[0], jnp.inf),
            "status": jnp.where(unresolved, Reached.UNRESOLVED, status).astype(jnp.int32),
            "last": jnp.where(same, middle[0], middle[1]),
            "crossings": jnp.sum(changes, dtype=jnp.int32),
            "fall": jnp.max(-before, initial=0),
            "base": level.base,
            "length": ray.length,
            "evaluations": (len(looks) + (self.base is None) + jnp.sum(count)).astype(jnp.int32),
        }


@dataclass(frozen=True, eq=False)
class Ray:
    """What is measured along one direction, as a function of the distance.

    Attributes:
        value: distance -> what rises.
        length: norm of the direction.
        rounding: norm of the rounding errors of the parameters that move.
        dtype: of distances and values.
    """

    value: Callable[[Array], Array]
    length: Array
    rounding: Array
    dtype: Any

    @classmethod
    def along(cls, direction: PyTree, of: Radius) -> "Ray":
        """The ray of a direction from the origin of a `Radius`."""
        length = _tree.norm(direction)
        unit = jax.tree.map(lambda x: x / jnp.where(length > 0, length, 1).astype(x.dtype), direction)
        rise = as_rise(of.rise)
        dtype = jax.eval_shape(lambda: rise.measure(of.objective, of.origin)).dtype
        dtype = jnp.promote_types(dtype, coords_dtype())

        def value(distance: Array) -> Array:
            return rise.measure(of.objective, moved(of.origin, unit, distance)).astype(dtype)

        return cls(value, length.astype(dtype), _rounding(of.origin, unit).astype(dtype), dtype)


def moved(origin: PyTree, unit: PyTree, distance: Array) -> PyTree:
    """`origin + distance * unit`, in the dtypes of the origin; exactly the origin at 0."""

    def leaf(o: Any, u: Array) -> Array:
        o = jnp.asarray(o)
        return (o.astype(u.dtype) + distance.astype(u.dtype) * u).astype(o.dtype)

    return jax.tree.map(leaf, origin, unit)


def _rounding(origin: PyTree, unit: PyTree) -> Array:
    """Rounding to a spacing of eps |x| is uniform over one: its variance is (eps |x|)^2 / 12."""

    def leaf(o: Any, u: Array) -> Array:
        eps = float(jnp.finfo(jnp.result_type(o)).eps)
        return jnp.where(u != 0, _tree.at_least_single(o) * eps, 0)

    return _tree.norm(jax.tree.map(leaf, origin, unit)) / 12**0.5


@dataclass(frozen=True, eq=False)
class Level:
    """The level that is to be crossed, `base + amount`."""

    base: Array
    amount: Array

    def over(self, value: Array) -> Array:
        """Whether a value is not known to lie below; NaN is not."""
        return ~(value - self.base < self.amount)

    def excess(self, value: Array) -> Array:
        """Distance from the level in units of the rise: -1 at the origin, infinite where it is not finite."""
        return jnp.nan_to_num((value - self.base) / self.amount - 1, nan=jnp.inf, posinf=jnp.inf, neginf=-jnp.inf)

    def unresolved(self) -> Array:
        """Whether the rise is lost in the rounding of the values."""
        return ~(self.amount > NOISE * float(jnp.finfo(self.base.dtype).eps) * jnp.abs(self.base))


def _brackets(level: Level, distances: Array, looks: Array, ends: Array) -> tuple[Any, Any]:
    """Distance and value on both sides of the changes at `ends`."""
    before = ends - 1
    start = jnp.where(before >= 0, distances[before], 0)
    value = jnp.where(before >= 0, looks[before], level.base)
    return (start, value), (distances[ends], looks[ends])


def _divided(value_fn: Any, level: Level, precision: Any, start: Any, stop: Any, wanted: Array) -> Any:
    """Divide a bracket until it is narrow: `(below, above, whether what lies above is NaN, evaluations)`."""
    sign = jnp.where(level.over(start[1]), -1, 1)  # a crossing downwards is one upwards of the other sign

    def side(value: Array) -> Array:
        return sign * level.excess(value)

    def narrow(state: Any) -> Array:
        low, high, *_, count = state
        return wanted & (high - low > precision * high) & (count < HALVINGS)

    def divide(state: Any) -> Any:
        low, high, at_low, at_high, lost, count = state
        at = _next(low, high, at_low, at_high, precision, count)
        value = value_fn(at)
        beyond = level.over(value) == (sign > 0)
        return (
            jnp.where(beyond, low, at), jnp.where(beyond, at, high), jnp.where(beyond, at_low, side(value)),
            jnp.where(beyond, side(value), at_high), jnp.where(beyond, jnp.isnan(value), lost), count + 1,
        )  # fmt: skip

    begin = (start[0], stop[0], side(start[1]), side(stop[1]), jnp.isnan(stop[1]), jnp.int32(0))
    low, high, _, _, lost, count = jax.lax.while_loop(narrow, divide, begin)
    return low, high, lost, count


def _next(low: Array, high: Array, at_low: Array, at_high: Array, precision: Any, count: Array) -> Array:
    """Where to look next: beside the root of the secant in the squared distance, on the side of the farther end.

    So the farther end comes as near as the precision asks, and two looks enclose the root of a quadratic. Every third
    look halves, whatever the function.
    """
    share = -at_low / (at_high - at_low)
    ratio = low / high
    root = high * jnp.sqrt(ratio**2 + share * (1 - ratio**2))
    away = jnp.where(high - root > root - low, 1, -1)
    beside = root * (1 + 0.4 * precision * away)
    usable = jnp.isfinite(at_low) & jnp.isfinite(at_high) & (beside > low) & (beside < high) & (count % 3 != 2)
    half = jnp.where(low > 0, jnp.sqrt(ratio) * high, high / 2)
    return jnp.where(usable, beside, half)


def _check_precision(precision: Any) -> None:
    _tree.check_positive("precision", precision)
    least = 8 * float(jnp.finfo(coords_dtype()).eps)
    if not _tree.is_traced(precision) and not least <= precision < 1:
        raise ValueError(
            f"precision must lie between {least:.1g}, of {np.dtype(coords_dtype())}, and 1, got {precision}"
        )


def _check_distances(distances: Any) -> None:
    from landscape.checks import reals

    if _tree.is_traced(distances):
        return
    values = reals("distances", distances, finite=True)
    if values.ndim != 1 or not values.size or not np.all(np.diff(values, prepend=0) > 0):
        raise ValueError(f"distances must be positive and growing, one row of them, got {distances!r}"[:200])
