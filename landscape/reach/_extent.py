"""`auto_extent`: how far a picture should reach, so that it is neither blank nor a wall."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.checks import check_count
from landscape.engine import sweep
from landscape.grid import Grid, Landscape
from landscape.maps import Radius, Reached, geometric
from landscape.objective import Objective, check_objective
from landscape.subspace import Subspace, size_of

NEAR, FAR, STEP = 2.0**-24, 2.0**12, 4.0  # norms of the parameters that are looked at, and from one look to the next
PRECISION = 0.02
DIGITS = 2
HALF = 0.5
HALVINGS = 8  # of a rise that is not reached


class Extent(NamedTuple):
    """Half-width of a picture.

    Attributes:
        value: in units of the coordinates, rounded to two digits.
        lower, upper: the least and the largest over the directions that were measured.
        rise: by how much the loss has risen there in the median direction.
        base: the loss at the origin.
        why: the rule in words, for the figure.
    """

    value: float
    lower: float
    upper: float
    rise: float
    base: float
    why: str


@_tree.register
@dataclass(frozen=True, eq=False)
class Within:
    """Directions within a subspace by number: the combinations of its directions with given coordinates.

    Attributes:
        directions: a stack.
        coords: of each direction, `(n, k)`.
    """

    directions: PyTree
    coords: Array

    def __call__(self, number: Any) -> PyTree:
        """The direction of this number."""
        return _tree.combine(self.coords[number], self.directions)


def around(dim: int, num: int) -> np.ndarray:
    """Unit vectors in `dim` dimensions, `(num, dim)`: evenly about the circle in two, both sides of a line in one."""
    if dim == 1:
        return np.array([[1.0], [-1.0]])
    if dim == 2:
        angles = 2 * np.pi * (np.arange(num) + 0.5) / num
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    drawn = np.random.default_rng(dim).normal(size=(num, dim))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def auto_extent(
    objective: Objective, at: Subspace, *, factor: float = 1.0, num_directions: int = 8, **options: Any
) -> Extent:
    """How far a picture should reach: to where the loss has risen by enough in the median direction.

    Enough is `factor` times the loss at the origin (doubled, by default), or half of the way to the loss of zero
    weights, whichever is more: a loss that was trained to nothing is doubled within its own rounding. Where neither is
    above 0, it is half of the way to the loss one unit of the coordinates away. Where the loss levels off before, as of
    saturated units, the rise is halved until most directions reach it, and `why` says so.

    Args:
        objective: the loss.
        at: the subspace that will be drawn.
        factor: of the loss at the origin, by which it rises at least.
        num_directions: within the subspace, evenly about the circle.
        options: of `sweep`.

    Raises:
        TypeError: no objective, no Subspace, or a number that is none.
        ValueError: the loss is not finite at the origin, or rises nowhere within 4096 norms of the parameters.
    """
    check_objective(objective)
    if not isinstance(at, Subspace):
        raise TypeError(f"at must be a Subspace, got {_tree.describe(at)}")
    _tree.check_positive("factor", factor)
    check_count("num_directions", num_directions, 2)
    base, rise, why = _enough(objective, at, factor)
    within = Within(at.checked_directions(), jnp.asarray(around(at.dim, num_directions)))
    size = size_of(at.origin) or size_of(within(0))
    distances = geometric(size * NEAR, size * FAR, STEP)
    found = Radius(at.origin, objective, within, rise=rise, distances=distances, precision=PRECISION, base=base)
    grid = Grid.of(direction=range(len(within.coords)))
    options = {"batch": 1, "progress": False, **options}
    values, rise, halved = _risen(found, grid, options)
    reached = values["radius"] / values["length"]
    if halved:
        why = (
            f"has risen from {base:.3g} to {base + rise:.3g}, as it rises by no more than twice that in most directions"
        )
    if np.any(values["status"] == Reached.NOT_FINITE):
        why += ", or is not a number any more"
    middle = float(np.quantile(reached, 0.5, method="inverted_cdf"))
    return Extent(_rounded(middle), float(reached.min()), float(reached.max()), rise, base, why)


def _risen(found: Radius, grid: Grid, options: dict[str, Any]) -> tuple[Landscape, float, bool]:
    """The radii at a rise that most directions reach: halved where the loss levels off before; and whether it was."""
    for halvings in range(HALVINGS):
        rise = found.rise * HALF**halvings
        values = sweep(dataclasses.replace(found, rise=rise), grid, **options)
        if np.sum(np.isfinite(values["radius"])) > grid.size / 2:
            return values, rise, halvings > 0
    raise ValueError(
        f"the loss, {found.base:.4g} at the origin, has not risen by {rise:.4g} within {found.distances[-1]:.3g} in "
        "most directions: give the extent as a number"
    )


def _enough(objective: Objective, at: Subspace, factor: float) -> tuple[float, float, str]:
    """The loss at the origin, by how much it is to rise, and why."""
    zero = jax.tree.map(jnp.zeros_like, at.origin)
    base, nothing = (float(x) for x in _losses(objective, _tree.stack([jax.tree.map(jnp.asarray, at.origin), zero])))
    if not np.isfinite(base):
        raise ValueError(f"the loss at the origin is {base}: there is nothing to draw around it")
    multiple, halfway = factor * abs(base), HALF * (nothing - base)
    if np.isfinite(halfway) and halfway > multiple:
        return base, halfway, f"has risen half-way to that of zero weights, from {base:.3g} to {base + halfway:.3g}"
    if multiple > 0:
        said = "doubled" if factor == 1 else f"risen by {factor:g} times itself"
        return base, multiple, f"has {said}, from {base:.3g} to {base + multiple:.3g}"
    away = jax.vmap(at)(jnp.asarray(around(at.dim, 8)))
    far = HALF * (float(np.median(np.asarray(_losses(objective, away)))) - base)
    if not (np.isfinite(far) and far > 0):
        raise ValueError(
            f"the loss is {base:.4g} at the origin and does not rise about it: give the extent as a number"
        )
    return base, far, f"has risen half-way to that one unit away, from {base:.3g} to {base + far:.3g}"


@jax.jit
def _losses(objective: Objective, stacked: PyTree) -> Array:
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(objective, stacked)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
