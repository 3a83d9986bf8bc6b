"""`radius`: the distance within which a share of all directions stays under a rise, with its interval."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from landscape import _tree
from landscape.affine import _program
from landscape.analysis import Quantile, quantile_interval
from landscape.checks import check_count, check_share, warn
from landscape.engine import sweep
from landscape.grid import Grid, Landscape
from landscape.maps import Fall, Radius, Reached, Rise, geometric
from landscape.maps._radius import PRECISION, ROUNDED, as_rise
from landscape.objective import Objective
from landscape.subspace import Draws, size_of, units_of

PILOTS = 3  # directions that find the size of a radius
FAR = 1e9  # norms of the parameters, or parts of it, that these look at
STEP = 4.0  # from one of their looks to the next
MARGIN = 4.0  # how far beyond the radii of the pilots all others look
RATIO = 2.2  # from one of their looks to the next
GROWTH = (1.2, 4.0)  # of the number of directions, from one look at the interval to the next
SMALL = 100_000  # parameters, of which several copies at a time cost nothing


@dataclass(frozen=True, eq=False, repr=False)
class Reach:
    """How far the loss stays low, over directions. Printed, it is a few lines of text.

    Attributes:
        value: the radius within which the share of directions stays under the rise: a quantile of the radii.
        interval: what it lies between at the stated confidence, whatever the distribution; with the precision of each
            radius in it.
        median, median_interval: the same for half of the directions.
        radii: of directions 0, 1, .. of the key, `(n,)`; infinite where the loss has not risen within reach.
        status: a `maps.Reached` for each, `(n,)`.
        share, confidence: what was asked.
        rise: by how much the loss rises, and from what: `(amount, base)`.
        units: norms by which distances are divided: `"distance"` 1, `"parameters"` that of the parameters that move,
            `"filters"` that of those with filters.
        evaluations: of the loss, in all.
        notes: what else was met, in words.
    """

    value: float
    interval: tuple[float, float]
    median: float
    median_interval: tuple[float, float]
    radii: Float[np.ndarray, " n"]
    status: Int[np.ndarray, " n"]
    share: float
    confidence: float
    rise: tuple[float, float]
    units: Mapping[str, float]
    evaluations: int
    notes: tuple[str, ...]

    @property
    def width(self) -> float:
        """The interval's, as a share of the value."""
        return (self.interval[1] - self.interval[0]) / self.value if self.value > 0 else np.inf

    def in_units(self, unit: str) -> tuple[float, float, float]:
        """Value and interval as multiples of the norm of the parameters, or of that of their filters.

        Raises:
            ValueError: an unknown unit, or one that is 0 here.
        """
        if unit not in self.units or not self.units[unit] > 0:
            known = [name for name, size in self.units.items() if size > 0]
            raise ValueError(f"unit must be one of {', '.join(map(repr, known))}, got {unit!r}")
        value, low, high = (x / self.units[unit] for x in (self.value, *self.interval))
        return value, low, high

    def __repr__(self) -> str:
        amount, base = self.rise
        lines = [
            f"{self.share:.0%} of directions stay under a rise of {amount:.4g} (from {base:.4g}) within "
            f"{_between(self.value, self.interval)}",
            f"half of them within {_between(self.median, self.median_interval)}; "
            f"{len(self.radii)} directions, {self.evaluations:,} evaluations",
        ]
        others = [name for name, size in self.units.items() if name != "distance" and size > 0]
        if others:
            lines.append(", ".join(f"{self.in_units(name)[0]:.4g} norms of the {name}" for name in others))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __str__ = __repr__


def _between(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]"


def radius(
    key: Array,
    objective: Objective,
    params: PyTree,
    *,
    rise: float | Rise | Fall,
    share: float = 0.95,
    normalization: str | None = None,
    filter_axis: Any = None,
    where: Any = None,
    rank: int | None = None,
    max_evaluations: int = 1000,
    width: float = 0.05,
    confidence: float = 0.95,
    precision: float = PRECISION,
    **options: Any,
) -> Reach:
    r"""The radius within which a share of random directions stays under a rise of the loss, with its interval.

    What is called the most-case basin of a model (Chen et al. 2025, arXiv 2505.17646), with an error bar. Three
    directions find the size of a radius over eighteen decades, all others are measured about there (`maps.Radius`).
    The interval is one of order statistics, which assumes nothing of the distribution of the radii; directions are
    drawn until it is as narrow as asked or the next ones would exceed `max_evaluations`. Along Gaussian directions in
    many dimensions radii are nearly alike, and what decides them is the trace of the Hessian, not its largest
    eigenvalue.

    Args:
        key: random key of the directions.
        objective: the loss.
        params: where from.
        rise: a number, by how much the loss rises; `maps.Rise(0.5, relative=True)` for half as much again;
            `maps.Fall(0.02)` for an accuracy that falls.
        share: of directions that stay under the rise, in (0, 1).
        normalization: of the directions, `None`, `"filter"` or `"layer"`.
        filter_axis: as for `subspace.filter_normalize`.
        where: parameters that move, a regular expression or a function as for `subspace.mask`; all by default.
        rank: of low-rank directions, as for `subspace.Draws`.
        max_evaluations: of the loss.
        width: at which the interval is narrow enough, as a share of the value.
        confidence: chance that the interval covers, in (0, 1).
        precision: of each radius, relative.
        options: of `sweep`, such as `batch` or `devices`.

    Raises:
        TypeError: no objective, no key, parameters that are not real floating-point arrays, something is no number.
        ValueError: a share out of (0, 1); a rise that is not positive, or that this precision does not resolve; a loss
            that is not finite at the parameters; fewer evaluations than a first look takes.
    """
    _check(share, confidence, width, max_evaluations)
    draw = Draws(key, params, normalization=normalization, filter_axis=filter_axis, where=where, rank=rank)
    found = Radius(params, objective, draw, rise=as_rise(rise), precision=precision)
    search = _Search.begun(found, {"progress": False, "batch": _batch(params)} | options)
    search.draw_until(share, confidence, width, max_evaluations)
    moving, filters = units_of(params, filter_axis, where)
    units = {"distance": 1.0, "parameters": moving, "filters": filters}
    return search.result(share, confidence, width, units)


def _check(share: Any, confidence: Any, width: Any, max_evaluations: Any) -> None:
    check_share("share", share)
    check_share("confidence", confidence)
    _tree.check_positive("width", width)
    least = PILOTS * (len(_wide(1.0)) + 12) + 12
    check_count("max_evaluations", max_evaluations, least)


def _wide(size: float) -> np.ndarray:
    return geometric(size / FAR, size * FAR, STEP)


def _batch(params: PyTree) -> int:
    return 16 if _tree.size(params) <= SMALL else 1


class _Search:
    """Directions measured so far."""

    def __init__(self, found: Radius, options: Mapping[str, Any], pilots: Landscape) -> None:
        self.found, self.options, self.pilots = found, options, pilots
        self.parts: list[Landscape] = []

    @classmethod
    def begun(cls, found: Radius, options: Mapping[str, Any]) -> "_Search":
        """With the pilots, which look far and wide."""
        size = size_of(found.origin) or 1.0
        wide = Radius(found.origin, found.objective, found.draw, rise=found.rise, distances=_wide(size), precision=0.1)
        one_by_one: dict[str, Any] = {**options, "batch": 1}
        pilots = sweep(wide, Grid.of(direction=range(PILOTS)), **one_by_one)
        base = float(pilots["base"][0])
        if not np.isfinite(base):
            raise ValueError(f"the loss at the parameters is {base}, so there is nothing to rise from")
        radii = pilots["radius"]
        reached = radii[np.isfinite(radii)] if np.isfinite(radii).any() else np.array([size])
        around = geometric(reached.min() / MARGIN, reached.max() * MARGIN, RATIO)
        found = Radius(
            found.origin,
            found.objective,
            found.draw,
            rise=found.rise,
            distances=around,
            precision=found.precision,
            base=pilots["base"][0],
        )
        return cls(found, options, pilots)

    @property
    def count(self) -> int:
        """Directions measured."""
        return sum(part.grid.size for part in self.parts)

    @property
    def evaluations(self) -> int:
        return int(sum(part["evaluations"].sum() for part in (self.pilots, *self.parts)))

    def draw_until(self, share: float, confidence: float, width: float, most: int) -> None:
        """Draw directions until the interval of the quantile is narrow, or the budget is spent."""
        tail = math.log((1 - confidence) / 2) / math.log(max(share, 1 - share))
        wanted = math.ceil(1.1 * tail)
        each = len(self.found.distances) + 4.0
        while (more := min(wanted - self.count, int((most - self.evaluations) / each))) > 0:
            grid = Grid.of(direction=range(self.count, self.count + more))
            self.parts.append(sweep(self.found, grid, **self.options))
            last = self.parts[-1]["evaluations"]
            each = (last.mean() + last.max()) / 2
            value, low, high = self.quantile(1 - share, confidence)
            relative = (high - low) / value if value > 0 else np.inf
            if relative <= width:
                return
            growth = 1.2 * (relative / width) ** 2 if np.isfinite(relative) else GROWTH[1]
            wanted = math.ceil(self.count * min(max(growth, GROWTH[0]), GROWTH[1]))

    def values(self, name: str) -> np.ndarray:
        """An output of all directions."""
        return np.concatenate([part[name] for part in self.parts])

    def quantile(self, share: float, confidence: float) -> Quantile:
        """A quantile of the radii: its ends are those of the brackets, so the precision of each is in it."""
        value, *_ = quantile_interval(self.values("radius"), share, confidence)
        low = quantile_interval(self.values("below"), share, confidence).lower
        high = quantile_interval(self.values("above"), share, confidence).upper
        return Quantile(value, max(low, 0.0), high)

    def result(self, share: float, confidence: float, width: float, units: Mapping[str, float]) -> Reach:
        """What was found, with what has to be said about it."""
        value, *interval = self.quantile(1 - share, confidence)
        median, *between = self.quantile(0.5, confidence)
        base = float(self.pilots["base"][0])
        amount = float(np.asarray(self.found.rise.amount(jax.numpy.asarray(self.pilots["base"][0]))))
        found = Reach(
            value, (interval[0], interval[1]), median, (between[0], between[1]), self.values("radius"),
            self.values("status"), share, confidence, (amount, base), units, self.evaluations, (),
        )  # fmt: skip
        return _noted(found, self, width)


def _noted(found: Reach, search: _Search, width: float) -> Reach:
    notes = tuple(_notes(found, search, width))
    if np.any(found.status == Reached.UNRESOLVED):
        warn(notes[0])
    return dataclasses.replace(found, notes=notes)


def _notes(found: Reach, search: _Search, width: float) -> Any:
    num, statuses = len(found.radii), found.status
    told = {
        Reached.UNRESOLVED: "the rise, or the distance, is within the rounding of this precision: compute in float64 "
        "or ask for a larger rise",
        Reached.NOT_FINITE: "the loss becomes NaN before it has risen, and the radius is where",
        Reached.BEYOND: f"the loss has not risen within {search.found.distances[-1]:.3g}, and the radius is infinite",
        Reached.WITHIN: f"the loss has risen at {search.found.distances[0]:.3g} already, nearer than was looked for "
        "first crossings",
    }
    for code, text in told.items():
        if count := int(np.sum(statuses == code)):
            yield f"in {count} of {num} directions {text}"
    falls = int(np.sum(search.values("fall") > 0.1 * found.rise[0]))
    if falls:
        yield f"in {falls} of {num} directions the loss falls before it rises: the parameters are at no minimum"
    back = sum(int(np.sum(part["crossings"] > 1)) for part in (search.pilots, *search.parts))
    if back:
        yield f"in {back} directions the loss comes back under the rise farther out (`last` of maps.Radius says where)"
    narrow = _program.narrowest_float(search.found.objective, search.found.origin)
    if narrow is not None:
        rounding = float(jax.numpy.finfo(narrow).eps) * found.units["parameters"] / 12**0.5
        if found.value < ROUNDED * rounding:
            yield f"{narrow} rounds the parameters by {rounding:.2g}, which is not small beside the radius"
    if found.width > width:
        yield f"the interval is {found.width:.0%} of the value wide, not {width:.0%}: max_evaluations were spent"
