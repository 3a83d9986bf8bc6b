"""What a refinement knows of one output: its values so far, its prediction, and where that is not good enough.

A field walks from the coarsest level of a grid to the finest (`restart`, then `descend` level by level). At each level
it holds values at all nodes, as told where they were told and predicted elsewhere, and says which cells it wants to
be refined. Both fields have the same methods, so the course in `adaptive` knows of no difference.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from landscape.adaptive._levels import Cells, Levels, Nodes, disagreeing, touching, widened

SAFETY, GUARD, DROP = 2.0, 4.0, 2.5
ROUNDING = 20.0  # units of rounding of the largest value: a tolerance below would refine noise
SPIKE = 1e4
SMALLEST_STEP = 2.0**-25  # as a share of the largest value: finer ones matter to no tolerance
FEWEST = 8  # numbers that can show that they are multiples of one
ORDER = 12  # of the differences that tell scatter from a smooth function
SCATTER = 26.0  # deviations of noise that are GUARD times the largest of many surpluses: 4 x 1.4 x 4.6
MOST_ROUNDING = 256.0  # units of rounding of the largest value: scatter beyond is the function's own
ROUGH_LEVEL, MAX_BOUNDARY = 4, 0.25  # labels that disagree in so many cells of 129 x 129 nodes are not worth refining
FINITE, NAN, POSITIVE, NEGATIVE, ZERO, BELOW_ZERO = range(6)
REPLACED = np.array([0.0, np.nan, np.inf, -np.inf, 0.0, np.nan])  # what a point of each kind holds


@dataclass(frozen=True)
class Smooth:
    """A floating-point output that is interpolated where that is good to a tolerance.

    Attributes:
        tolerance: largest error of a predicted value (an estimate, see `landscape.adaptive`), as a share of the
            range: largest minus smallest finite value of the first round.
        absolute: the tolerance is in units of the output instead.
        transform: `"log"` interpolates the decimal logarithm; range and tolerance are then in decades. For
            positive outputs that span decades. Cells that touch a negative value are evaluated wholly.
        unless_stepped: leave the output out where it looks piecewise constant in the first round (accuracy).
    """

    tolerance: float
    absolute: bool = False
    transform: Literal[None, "log"] = None
    unless_stepped: bool = False


@dataclass(frozen=True)
class Labels:
    """An integer or boolean output, refined where neighbouring labels disagree.

    Attributes:
        max_wrong: largest acceptable fraction of points with a wrong label, at 95 % confidence. The smaller, the
            more validation points (at most 4.8 / max_wrong); where it cannot be shown, everything is evaluated.
    """

    max_wrong: float = 0.01


class Surface:
    """A smooth output."""

    def __init__(self, spec: Smooth, dtype: np.dtype, levels: Levels) -> None:
        self.spec, self._levels = spec, levels
        size = int(np.prod(levels.shape, dtype=np.int64))
        self.raw = np.zeros(size, dtype)
        self.predicted = np.full(size, np.nan, dtype)
        self._number, self._kind = np.zeros(size), np.zeros(size, np.uint8)
        self.fraction = 1.0
        self.range, self.tolerance = 0.0, float(spec.tolerance) if spec.absolute else 0.0
        self._wanted = self._typical = 0.0  # share of cells and median surplus at the last level

    def tell(self, flat: np.ndarray, values: np.ndarray) -> None:
        """Keep the values of these points."""
        self.raw[flat] = values
        self._number[flat], self._kind[flat] = self._parts(self.raw[flat])

    def _parts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is interpolated, with 0 where that is not finite, and the kind of each value."""
        number = values.astype(np.float64)
        kind = np.select([np.isnan(number), np.isposinf(number), np.isneginf(number)], [NAN, POSITIVE, NEGATIVE])
        if self.spec.transform == "log":
            kind = np.select([kind != FINITE, number == 0, number < 0], [kind, ZERO, BELOW_ZERO])
        number[kind != FINITE] = 0.0
        if self.spec.transform == "log":
            np.log10(number, out=number, where=kind == FINITE)
        return number, kind.astype(np.uint8)

    def begin(self, first: np.ndarray, level: int) -> list[str]:
        """Freeze range and tolerance after the first round, all nodes of a level; what there is to warn of."""
        number = self._number[first & (self._kind == FINITE)]
        if not number.size:
            return ["has no finite value in the first round"]
        with np.errstate(over="ignore"):
            self.range = min(float(number.max() - number.min()), float(np.finfo(np.float64).max))
            median = float(np.median(number - number.min()))
        wanted = self.spec.tolerance * (1.0 if self.spec.absolute else self.range)
        self.tolerance = max(wanted, self._floor(number, level))
        return self._doubts(wanted, median, first)

    def _doubts(self, wanted: float, median: float, first: np.ndarray) -> list[str]:
        said = []
        if self.tolerance > wanted and self.range > 0:
            said.append(
                f"is refined to {self.tolerance:.3g}, not {wanted:.3g}: below that it is rounding ({self.raw.dtype})"
            )
        if self.spec.transform is None and 0 < SPIKE * median < self.range:
            said.append(
                "has a range of more than 10,000 times its median: a share of the range is coarse for most of it; for "
                "a positive output, Smooth(..., transform='log') takes a share of the range in decades"
            )
        if np.any(self._kind[first] == BELOW_ZERO):
            said.append("has negative values, of which there is no logarithm: all points about them are evaluated")
        return said

    def _floor(self, number: np.ndarray, level: int) -> float:
        """The smallest tolerance that is not about rounding: that of the values, or more where their sums had more."""
        rounding = _rounding(1 / np.log(10) if self.spec.transform == "log" else number, self.raw.dtype)
        scatter = self._scatter(level)
        return max(rounding, SCATTER * scatter if ROUNDING * scatter <= MOST_ROUNDING * rounding else 0.0)

    def _scatter(self, level: int) -> float:
        """Standard deviation of the noise at the nodes of a level; 0 where what is there is no noise, and at level 0.

        It is read off differences of a high order, as by Moré & Wild (2011): those of a smooth function fall with the
        order and with the spacing, those of kinks with the spacing; those of noise do not. We take the median, since
        noise need not be everywhere.
        """
        if level == 0:
            return 0.0
        fine, lower, coarse = (
            self._deviation(at, order) for at, order in ((level, ORDER), (level, ORDER - 4), (level - 1, ORDER))
        )
        return fine if fine >= 0.5 * max(lower, coarse) else 0.0

    def _deviation(self, level: int, order: int) -> float:
        """Standard deviation of noise of which these are the differences, from their median."""
        finite, number = (self._levels.pick(level, values) for values in (self._kind == FINITE, self._number))
        sizes = self._sizes(level, np.where(finite, number, np.nan), order)
        return float(np.median(sizes)) / 0.6745 if sizes.size else 0.0

    def stepped(self, level: int) -> bool:
        """Whether to leave it out since its values at a level look piecewise constant.

        Floating-point numbers are multiples of one unit in the last place, so there are steps in everything: what is
        no larger than rounding is none.
        """
        if not self.spec.unless_stepped:
            return False
        values = self._levels.pick(level, self.raw).astype(np.float64)
        finite = np.isfinite(values)
        numbers = np.unique(values[finite])
        rounding = _rounding(numbers, self.raw.dtype)
        steps = _apart(numbers, max(rounding, SMALLEST_STEP * float(np.abs(numbers).max(initial=0.0))))
        if steps.size < 2:
            return False
        which = np.where(finite, np.searchsorted(steps, values, side="right"), 0)
        few = steps.size <= finite.sum() // 4
        return (few and _on_plateaus(which, steps.size)) or self._counts(level, values, steps, rounding)

    def _counts(self, level: int, values: Nodes, steps: np.ndarray, rounding: float) -> bool:
        """Whether all values are multiples of one step, as counts are, and scatter by it from node to node.

        On equally spaced coordinates polynomials have the first property too, and not the second: differences of a
        higher order than their degree vanish, and from `ORDER` on their steps are as small as rounding. What is linear
        between kinks has it as well: there second differences vanish but at the kinks.
        """
        step = _common_step(steps, rounding) if steps.size >= FEWEST else 0.0
        return step > 0 and all(
            np.mean(differences > 0.1 * step) >= least
            for order, least in ((2, 0.25), (ORDER, 0.5))
            if (differences := self._sizes(level, values, order)).size
        )

    def _sizes(self, level: int, values: Nodes, order: int) -> np.ndarray:
        """Sizes of the differences of that order which are finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            differences = self._levels.differences(level, values, order)
        return np.abs(differences[np.isfinite(differences)])

    def described(self) -> dict[str, Any]:
        """Its part of the statement."""
        return {"driver": "smooth", **asdict(self.spec), "range": self.range}

    # At its level a field holds, for each node: number, kind, whether it was told, which of the two predictors it
    # follows, and the largest surplus about it (-1 where none was ever measured).

    def restart(self, known: Nodes) -> None:
        """Stand at level 0, where these nodes are known."""
        pick = self._levels.pick
        self._known, self._value, self._kinds = known.copy(), pick(0, self._number).copy(), pick(0, self._kind).copy()
        self._local, self._surplus = np.zeros(known.shape, dtype=bool), np.full(known.shape, -1.0)

    def descend(self, level: int, known: Nodes) -> Cells:
        """Go to the next level, where these nodes are known; the cells there that are not good enough."""
        levels = self._levels
        kinds = levels.inherit(level, self._kinds)
        np.copyto(kinds, levels.pick(level + 1, self._kind), where=known)
        measured = known & ~levels.embed(level, self._known) & (kinds == FINITE)
        self._local = levels.inherit(level, self._local)
        with np.errstate(over="ignore", invalid="ignore"):
            value, marked = self._compared(level, measured)
        np.copyto(value, levels.pick(level + 1, self._number), where=known)
        if kinds.any():
            value[kinds != FINITE] = 0.0
            marked |= kinds == BELOW_ZERO
        self._known, self._value, self._kinds = known.copy(), value, kinds
        cells = touching(marked) | disagreeing(kinds) if kinds.any() else touching(marked)
        self._wanted = float(cells.mean())
        return cells

    def _compared(self, level: int, measured: Nodes) -> tuple[Nodes, Nodes]:
        """The prediction of the next level, and the measured nodes at which it is not good enough."""
        before = self._levels.inherit(level, self._surplus)
        spline, local = self._levels.spline(level, self._value), self._levels.lagrange(level, self._value)
        # the spline rings, by 0.27 per cell, about what has just come to light: there the local predictor
        self._local |= ~(np.abs(spline - local) <= self.tolerance / SAFETY)
        self._surplus, marked = before, measured
        if measured.any():
            exact = self._levels.pick(level + 1, self._number)
            own = [_surplus(exact, predicted, measured) for predicted in (spline, local)]
            about = [widened(surplus, 2) for surplus in own]
            seen = about[0] >= 0
            np.copyto(self._local, about[1] < about[0], where=seen)
            self._surplus = np.where(seen, np.minimum(*about), before)
            safety = np.where(self._surplus > before / DROP, GUARD, SAFETY)
            surplus = np.where(self._local, own[1], own[0])
            self._typical = float(np.median(surplus[measured]))
            marked = measured & (safety * surplus > self.tolerance)
        np.copyto(spline, local, where=self._local)
        return spline, marked

    def settle(self) -> None:
        """At the last level: predict the output itself."""
        with np.errstate(over="ignore", invalid="ignore"):
            value = 10.0**self._value if self.spec.transform == "log" else self._value
            if self._kinds.any():
                value = np.where(self._kinds == FINITE, value, REPLACED[self._kinds])
            self.predicted = value.astype(self.raw.dtype).reshape(-1)

    rough = False  # whether refining has turned out not to be worth while

    @property
    def complaint(self) -> str:
        """What kept it from being predicted, if that was so at the last level."""
        if self._wanted <= MAX_BOUNDARY:
            return ""
        return (
            f"cannot be known to {self.tolerance:.2g} from the points around: even at the finest spacing that is off "
            f"by {self._typical:.2g} in the median (it is rough, jumps or is noisy)"
        )

    def wrong(self, flat: np.ndarray) -> np.ndarray:
        """Whether the predictions of these points, which have been told since, are off by more than the tolerance."""
        number, kind = self._parts(self.predicted[flat])
        with np.errstate(over="ignore"):
            far = (kind == FINITE) & ~(np.abs(number - self._number[flat]) <= self.tolerance)
        return far | (kind != self._kind[flat])

    def tolerable(self, failures: int) -> bool:
        """Whether validation with so many failures may be the last."""
        return failures == 0

    def sample_size(self, share: float, alpha: float) -> int:
        """Fewest validation points, where this share of all points is left."""
        return 1


class LabelMap:
    """Integers or booleans. A cell whose corners agree, like those of its neighbours, holds the same throughout."""

    def __init__(self, spec: Labels, dtype: np.dtype, levels: Levels) -> None:
        self.spec, self._levels = spec, levels
        self.raw = np.zeros(int(np.prod(levels.shape, dtype=np.int64)), dtype)
        self.predicted = np.zeros_like(self.raw)
        self.fraction, self.tolerance, self.rough, self.complaint = 1.0, None, False, ""

    def tell(self, flat: np.ndarray, values: np.ndarray) -> None:
        """Keep the values of these points."""
        self.raw[flat] = values

    def begin(self, first: np.ndarray, level: int) -> list[str]:
        """Nothing depends on the first round."""
        return []

    def stepped(self, level: int) -> bool:
        """Labels are steps, and meant to be."""
        return False

    def described(self) -> dict[str, Any]:
        """Its part of the statement."""
        return {"driver": "labels", **asdict(self.spec)}

    def restart(self, known: Nodes) -> None:
        """Stand at level 0, where these nodes are known."""
        self._labels = self._levels.pick(0, self.raw).copy()

    def descend(self, level: int, known: Nodes) -> Cells:
        """Go to the next level, where these nodes are known; the cells there whose corners disagree."""
        self._labels = self._levels.inherit(level, self._labels)
        np.copyto(self._labels, self._levels.pick(level + 1, self.raw), where=known)
        cells = disagreeing(self._labels)
        wanted = float(cells.mean())
        self.rough = self.rough or (level + 1 == ROUGH_LEVEL and wanted > MAX_BOUNDARY)
        self.complaint = f"changes in {wanted:.0%} of the cells" if wanted > MAX_BOUNDARY else ""
        return cells

    def settle(self) -> None:
        """At the last level: keep the prediction."""
        self.predicted = self._labels.reshape(-1)

    def wrong(self, flat: np.ndarray) -> np.ndarray:
        """Whether the predictions of these points, which have been told since, are wrong."""
        return self.predicted[flat] != self.raw[flat]

    def tolerable(self, failures: int) -> bool:
        """Whether validation with so many failures may be the last."""
        return failures == 0 or self.fraction <= self.spec.max_wrong

    def sample_size(self, share: float, alpha: float) -> int:
        """Fewest validation points that show `max_wrong`, where this share of all points is left."""
        wrong = self.spec.max_wrong / max(share, 1e-300)
        return 1 if wrong >= 1 else int(np.ceil(np.log(alpha) / np.log1p(-wrong)))


def field(spec: Smooth | Labels, dtype: np.dtype, levels: Levels) -> Surface | LabelMap:
    """The field of an output."""
    return Surface(spec, dtype, levels) if isinstance(spec, Smooth) else LabelMap(spec, dtype, levels)


def _surplus(exact: Nodes, predicted: Nodes, measured: Nodes) -> Nodes:
    """|exact - predicted|, infinite where that is not a number, -1 where nothing was measured."""
    surplus = np.subtract(exact, predicted)
    np.abs(surplus, out=surplus)
    surplus[np.isnan(surplus)] = np.inf
    surplus[~measured] = -1.0
    return surplus


def _apart(numbers: np.ndarray, floor: float) -> np.ndarray:
    """The first of each group of increasing numbers that are one but for rounding; none where a group is no such.

    Steps leave gaps. Where the numbers come as close together as rounding, they fill a range.
    """
    with np.errstate(over="ignore"):
        first = np.diff(numbers, prepend=-np.inf) > floor
        wide = numbers - np.maximum.accumulate(np.where(first, numbers, -np.inf)) > floor
    return numbers[:0] if wide.any() else numbers[first]


def _on_plateaus(which: np.ndarray, count: int) -> bool:
    """Whether the values, numbered from 1 (0: not finite) to `count`, stay the same from node to node and then jump.

    That there are few is not enough: so it is with a symmetric function, or with one of a single axis. Neither is that
    neighbours share one, as along an axis on which little depends: along a line, several must be shared.
    """
    shared = np.concatenate([_shared_along(line) for line in _lines(which)])
    return np.unique(shared).size >= count / 4


def _lines(nodes: Nodes) -> Iterator[np.ndarray]:
    """All lines along each axis, shape `(lines, nodes)`."""
    return (np.moveaxis(nodes, axis, -1).reshape(-1, n) for axis, n in enumerate(nodes.shape))


def _shared_along(lines: np.ndarray) -> np.ndarray:
    """What neighbours share on those lines where they share more than one value."""
    line, at = np.nonzero((lines[:, 1:] == lines[:, :-1]) & (lines[:, 1:] > 0))
    pairs = np.unique(np.stack([line, lines[line, at]]), axis=1)
    return pairs[1, np.bincount(pairs[0], minlength=len(lines))[pairs[0]] > 1]


def _common_step(steps: np.ndarray, rounding: float) -> float:
    """The step of which nine in ten distances between these increasing numbers are multiples but for rounding, or 0.

    Also distances of many steps must be: those between neighbours alone may look so by chance.
    """
    lags = 2 ** np.arange(int(np.log2(steps.size)) + 1)
    distances = np.sort(np.concatenate([steps[lag:] - steps[:-lag] for lag in lags]))
    for divisor in (1, 2, 3):
        step = distances[0] / divisor
        for reach in 4.0 ** np.arange(1, np.log2(distances[-1] / step) / 2 + 2):
            used = distances[: np.searchsorted(distances, reach * step)]  # the longer, the better it tells the step
            step = used.sum() / max(np.rint(used / step).sum(), 1.0) if used.size else step
        off = np.abs(distances / step - np.rint(distances / step))
        if step > 4 * rounding and np.mean(off <= 1e-3 + 0.2 * rounding / step) >= 0.9:
            return float(step)
    return 0.0


def _rounding(number: np.ndarray, dtype: np.dtype) -> float:
    """What may be rounding in numbers of this type, of which these are some."""
    return ROUNDING * _epsilon(dtype) * float(np.abs(number).max(initial=0.0))


def _epsilon(dtype: np.dtype) -> float:
    """Distance from 1 to the next larger number, also of types that `np.finfo` does not know."""
    steps = 2.0 ** -np.arange(64.0)
    with np.errstate(over="ignore"):
        return float(steps[(1.0 + steps).astype(dtype).astype(np.float64) > 1.0].min())
