"""Refinement of a grid: which points to evaluate next, and what may be said of the others."""

import copy
import dataclasses
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from landscape.adaptive._fields import Labels, Smooth, field
from landscape.adaptive._levels import Cells, Levels, corners, widened
from landscape.grid import Grid

START = 2  # level of the first round: 33 nodes along each axis
MAX_AXES = 3
CONFIDENCE = 0.95
VALIDATIONS = 6
ALPHA = (1 - CONFIDENCE) / VALIDATIONS  # each validation's share of what may go wrong (Bonferroni)
MOST = 0.75  # a larger share of the points is most of them
SAMPLE = (128, 1024)  # fewest and most validation points at a time; a quarter of the evaluations in between

Outputs = Mapping[str, tuple[tuple[int, ...], np.dtype]]


# ---------------------------------------------------------------------------------------------------------- drivers


def drivers(tolerance: Any, outputs: Outputs, candidates: Iterable[str] | None = None) -> dict[str, Smooth | Labels]:
    """The outputs that decide where to refine.

    Args:
        tolerance: a number: that share of the range, for each of the `candidates` that is one floating-point number
            a point. Or a mapping `{name: number, Smooth or Labels}`: these outputs alone. A number for an integer or
            boolean output is its `max_wrong`.
        outputs: `{name: (shape at a point, dtype)}`.
        candidates: names, of outputs that are to be known everywhere; all outputs by default, and then those that look
            piecewise constant are left out later.

    Raises:
        TypeError: a tolerance, or a named output, of the wrong kind.
        ValueError: an unknown name, a tolerance out of range, or nothing to drive the refinement.
    """
    chosen: dict[str, Smooth | Labels]
    if isinstance(tolerance, Mapping):
        _check_names(tolerance, outputs)
        chosen = {name: _driver(name, wanted, *outputs[name]) for name, wanted in tolerance.items()}
    else:
        wanted = Smooth(_number("tolerance", tolerance), unless_stepped=candidates is None)
        names = list(outputs if candidates is None else candidates)
        if not names:
            labels = [name for name, (shape, dtype) in outputs.items() if shape == () and dtype.kind in "biu"]
            raise ValueError(
                f"tolerance={tolerance!r} applies to none of the outputs of this function: name those to refine, for "
                f"example tolerance={{{(labels or list(outputs))[0]!r}: 0.01}}"
            )
        _check_names(names, outputs)
        chosen = {name: wanted for name in names if outputs[name][0] == () and _is_float(outputs[name][1])}
    if not chosen:
        raise ValueError(
            f"tolerance={tolerance!r} drives nothing: none of {', '.join(outputs)} is one floating-point number a "
            "point; name integer outputs in a mapping, tolerance={'label': 0.01}, or leave tolerance away"
        )
    return chosen


def _check_names(names: Iterable[str], outputs: Outputs) -> None:
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise ValueError(f"tolerance names {unknown[0]!r}, which is not an output; there are {', '.join(outputs)}")


def _driver(name: str, wanted: Any, shape: tuple[int, ...], dtype: np.dtype) -> Smooth | Labels:
    """What was wanted of one output, if that can be done."""
    discrete = dtype.kind in "biu"
    if shape != () or not (discrete or _is_float(dtype)):
        raise TypeError(f"tolerance needs one real number a point, but {name!r} has shape {shape} and dtype {dtype}")
    if not isinstance(wanted, Smooth | Labels):
        wanted = Labels(wanted) if discrete else Smooth(wanted)
    if isinstance(wanted, Labels) is not discrete:
        kinds = ("Labels is for integers and booleans; use Smooth", "Smooth is for floating point; use Labels")
        raise TypeError(f"{name!r} has dtype {dtype}, and {kinds[discrete]}")
    return _checked_labels(name, wanted) if isinstance(wanted, Labels) else _checked_smooth(name, wanted)


def _checked_smooth(name: str, wanted: Smooth) -> Smooth:
    if wanted.transform not in (None, "log"):
        raise ValueError(f"the transform of {name!r} must be None or 'log', got {wanted.transform!r}")
    return dataclasses.replace(wanted, tolerance=_number(f"the tolerance of {name!r}", wanted.tolerance))


def _checked_labels(name: str, wanted: Labels) -> Labels:
    fraction = _number(f"max_wrong of {name!r}", wanted.max_wrong)
    if fraction >= 1:
        raise ValueError(f"max_wrong of {name!r} is a fraction and must lie between 0 and 1, got {wanted.max_wrong!r}")
    return Labels(fraction)


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number, Smooth or Labels, or a mapping of these by output, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what} must be positive and finite, got {value!r}")
    return float(value)


def _is_float(dtype: np.dtype) -> bool:
    """Whether the type holds fractions: also bfloat16 and its like, which NumPy calls void."""
    return dtype.kind in "fV" and float(np.asarray(0.5).astype(dtype)) == 0.5


# ------------------------------------------------------------------------------------------------------- refinement


class Refinement:
    """Chooses points of a grid, is told their values, and predicts the others.

    The points asked for depend on what was told and on `seed` alone, so a run that was killed resumes by telling
    again what had been asked.

    Args:
        grid: the requested grid; above three axes, and where less than half could be saved, all of it is asked for.
        drivers: the outputs that decide, see `drivers`.
        dtypes: their types.
        seed: of the validation points.
        gradual: ask for the first round level by level, coarsest first, so that there is something to `preview` early.
            The points are the same.

    Attributes:
        grid: the requested grid.
        computed: boolean, shape `grid.shape`: the points told so far.
    """

    def __init__(
        self,
        grid: Grid,
        drivers: Mapping[str, Smooth | Labels],
        dtypes: Mapping[str, np.dtype],
        *,
        seed: int = 0,
        gradual: bool = False,
    ) -> None:
        self.grid, self._gradual = grid, gradual
        self.computed = np.zeros(grid.shape, dtype=bool)
        self._levels = Levels(grid)
        self._fields = {name: field(spec, np.dtype(dtypes[name]), self._levels) for name, spec in drivers.items()}
        # cells that are refined to the last level whatever the outputs want
        self._forced = [self._no_cells(level) for level in range(self._levels.last + 1)]
        self._active = list(self._forced)  # the cells of each level that were refined
        self._left_out: dict[str, str] = {}
        self._warnings: list[str] = []
        self._checks: list[dict[str, Any]] = []
        self._small = ""  # why nothing is to be saved
        self._rounds = 0
        self._random = np.random.default_rng(seed)
        self._course = self._refine()
        self._asked = next(self._course)

    def ask(self) -> np.ndarray:
        """C-order indices of the points to evaluate next, increasing; empty when nothing is left to do."""
        return self._asked.copy()

    def tell(self, flat: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Take the values of the points that were asked for.

        Args:
            flat: what `ask` returned.
            values: `{name: values}` of at least the drivers, in this order, each of shape `(len(flat),)`.

        Raises:
            ValueError: other points than those asked for, or a driver's values missing or of another shape.
        """
        flat = np.asarray(flat)
        if not self._asked.size or not np.array_equal(flat, self._asked):
            raise ValueError(f"tell takes the {self._asked.size} points that ask returned, got {flat.size} others")
        got = {name: np.shape(values[name]) if name in values else "nothing" for name in self._fields}
        wrong = [name for name, shape in got.items() if shape != flat.shape]
        if wrong:
            raise ValueError(f"tell needs values of shape {flat.shape} for {wrong[0]!r}, got {got[wrong[0]]}")
        for name, one in self._fields.items():
            one.tell(flat, np.asarray(values[name]))
        self.computed.reshape(-1)[flat] = True
        self._rounds += 1
        self._asked = next(self._course, flat[:0])

    @property
    def values(self) -> dict[str, np.ndarray]:
        """`{driver: values}` of shape `grid.shape`: as told where told, predicted elsewhere."""
        told = self.computed.reshape(-1)
        return {
            name: np.where(told, one.raw, one.predicted).reshape(self.grid.shape) for name, one in self._fields.items()
        }

    def preview(self) -> dict[str, np.ndarray]:
        """`{driver: values}` of shape `grid.shape`, predicted from what was told so far; nothing is promised of them.

        The coarsest level must have been told.
        """
        return {name: self._previewed(copy.copy(one)) for name, one in self._fields.items()}

    def _previewed(self, one: Any) -> np.ndarray:
        """A copy of a field, taken to the finest level without asking for more."""
        one.restart(self._levels.pick(0, self.computed))
        for level in range(self._levels.last):
            one.descend(level, self._levels.pick(level + 1, self.computed))
        one.settle()
        return np.where(self.computed.reshape(-1), one.raw, one.predicted).reshape(self.grid.shape)

    @property
    def error(self) -> dict[str, float | None]:
        """`{driver: largest error}`, an estimate in units of the output (with `"log"`: decades).

        0 where everything was computed, None for labels (see the fraction in `statement`) and before the end.
        """
        if self.computed.all():
            return dict.fromkeys(self._fields, 0.0)
        done = not self._asked.size
        return {name: one.tolerance if done else None for name, one in self._fields.items()}

    @property
    def statement(self) -> dict[str, Any]:
        """What was done and what may be promised, as plain JSON data."""
        complete, error = bool(self.computed.all()), self.error
        outputs = {
            name: one.described()
            | {"error": error[name], "fraction": 0.0 if complete else 1.0 if self._asked.size else one.fraction}
            for name, one in self._fields.items()
        }
        failures = {name: sum(check["failures"][name] for check in self._checks) for name in outputs}
        return {
            "points": self.grid.size,
            "evaluations": int(self.computed.sum()),
            "rounds": self._rounds,
            "confidence": CONFIDENCE,
            "outputs": outputs,
            "validation": {
                "rounds": len(self._checks),
                "points": sum(check["points"] for check in self._checks),
                "failures": failures,
            },
            "left_out": dict(self._left_out),
            "warnings": list(self._warnings),
            "reason": self._reason,
        }

    @property
    def _reason(self) -> str:
        """Why most points were evaluated, if they were."""
        if self.computed.mean() <= MOST:
            return ""
        if self._small:
            return self._small
        if not self._fields:
            return f"{', '.join(map(repr, self._left_out))}: piecewise constant, and nothing else is left to refine"
        said = [f"{name!r} {one.complaint}" for name, one in self._fields.items() if one.complaint]
        failed = sum(sum(check["failures"].values()) for check in self._checks)
        off = f"{failed} predictions that were checked were off"
        return "; ".join(said) or (off if failed else "at most points neighbours did not tell what lies between them")

    # The course: every part yields the points that it needs and goes on once they were told.

    def _refine(self) -> Iterator[np.ndarray]:
        first = self._first()
        for level in range(min(START, self._levels.last) if self._gradual else 0):
            nodes = self._levels.flat(level, np.ones(self._levels.shape_at(level), dtype=bool))
            yield from self._untold(np.intersect1d(first, nodes))
        yield from self._untold(first)
        self._begin(first)
        for _ in range(VALIDATIONS if self._fields and not self.computed.all() else 0):
            yield from self._descend()
            if self._hopeless:
                break
            if (yield from self._validated()):
                return
        yield from _some(np.flatnonzero(~self.computed))

    def _untold(self, flat: np.ndarray) -> Iterator[np.ndarray]:
        return _some(flat[~self.computed.reshape(-1)[flat]])

    def _first(self) -> np.ndarray:
        """The points of the first round: all of them where less than half could be saved."""
        everything = np.arange(self.grid.size)
        if len(self._levels.shape) > MAX_AXES:
            self._small = f"the grid has more than {MAX_AXES} axes"
            return everything
        if self._levels.last > START:
            first = self._levels.flat(START, np.ones(self._levels.shape_at(START), dtype=bool))
            if 2 * (first.size + _quarter(first.size)) < self.grid.size:
                return first
        self._small = "the grid is so small that not half of it could be saved"
        return everything

    def _begin(self, first: np.ndarray) -> None:
        """What is decided once, after the first round."""
        told = np.zeros(self.grid.size, dtype=bool)
        told[first] = True
        whole = first.size == self.grid.size  # then all is exact, and nothing is to be said of a tolerance
        for name, one in list(self._fields.items()):
            if not whole and one.stepped(START):
                self._left_out[name] = "looks piecewise constant in the first round; name it in a mapping to refine it"
                del self._fields[name]
                continue
            said = one.begin(told, 0 if whole else START)
            self._warnings += [f"{name!r} {doubt}" for doubt in said if not whole]

    @property
    def _hopeless(self) -> bool:
        return any(one.rough for one in self._fields.values())

    def _descend(self) -> Iterator[np.ndarray]:
        """Predict from the coarsest level to the finest; at each, ask for the new points of the cells that want it."""
        levels, cells, forced = self._levels, self._no_cells(0), self._no_cells(0)
        for one in self._fields.values():
            one.restart(levels.pick(0, self.computed))
        for level in range(levels.last):
            if level >= START:
                self._active[level] = widened(cells | forced)
                yield from self._missing(level + 1, levels.inherit_cells(level, self._active[level]))
            cells = self._wanted(level)
            if self._hopeless:
                return
            forced = levels.inherit_cells(level, forced) | self._forced[level + 1]
        yield from self._missing(levels.last, cells | forced)
        for one in self._fields.values():
            one.settle()

    def _wanted(self, level: int) -> Cells:
        """Take all outputs to the next level; the cells there that any of them wants to be refined."""
        known, cells = self._levels.pick(level + 1, self.computed), self._no_cells(level + 1)
        for one in self._fields.values():
            cells |= one.descend(level, known)
        return cells

    def _missing(self, level: int, cells: Cells) -> Iterator[np.ndarray]:
        """Those corners of these cells that were not told."""
        return _some(self._levels.flat(level, corners(cells) & ~self._levels.pick(level, self.computed)))

    def _validated(self) -> Generator[np.ndarray, None, bool]:
        """Compare predictions with fresh values at random points; whether that may be the end."""
        left = np.flatnonzero(~self.computed)
        if not left.size:
            return True
        sample = np.sort(left[self._random.choice(left.size, self._sample_size(left.size), replace=False)])
        yield from _some(sample)
        wrong = {name: one.wrong(sample) for name, one in self._fields.items()}
        failures = {name: int(points.sum()) for name, points in wrong.items()}
        self._checks.append({"points": sample.size, "failures": failures})
        for name, one in self._fields.items():
            one.fraction = upper_bound(failures[name], sample.size, ALPHA) * left.size / self.grid.size
        last = len(self._checks) == VALIDATIONS
        self._force(sample[np.any(list(wrong.values()), axis=0)])
        return not any(failures.values()) or (
            last and all(one.tolerable(failures[name]) for name, one in self._fields.items())
        )

    def _sample_size(self, left: int) -> int:
        """Enough points that no failure among them shows what is wanted of each output."""
        wanted = [one.sample_size(left / self.grid.size, ALPHA) for one in self._fields.values()]
        return min(left, max(_quarter(int(self.computed.sum())), *wanted))

    def _force(self, failed: np.ndarray) -> None:
        """Have the cells that were not refined about these points refined to the last level."""
        for level in range(START, self._levels.last):
            cell = self._levels.cell_of(level, failed)
            settled = ~self._active[level][cell]
            self._forced[level][tuple(i[settled] for i in cell)] = True
            failed = failed[~settled]

    def _no_cells(self, level: int) -> Cells:
        return np.zeros([n - 1 for n in self._levels.shape_at(level)], dtype=bool)


def _some(flat: np.ndarray) -> Iterator[np.ndarray]:
    """These points, if there are any."""
    if flat.size:
        yield flat


def _quarter(evaluated: int) -> int:
    """Number of validation points after so many evaluations."""
    return int(np.clip(evaluated // 4, *SAMPLE))


def upper_bound(failures: int, trials: int, alpha: float) -> float:
    """Upper confidence bound of a probability: `failures` in `trials` or fewer have a chance of `alpha` at it.

    Clopper & Pearson (1934), one-sided, `1 - alpha`; also for draws without replacement, for which it is cautious.
    """
    if failures >= trials:
        return 1.0
    count = np.arange(failures + 1.0)
    log_choose = np.cumsum(np.log(np.append(1.0, (trials - count[1:] + 1) / count[1:])))
    low, high = failures / trials, 1.0
    for _ in range(60):
        p = 0.5 * (low + high)
        with np.errstate(divide="ignore"):
            tail = np.exp(log_choose + count * np.log(p) + (trials - count) * np.log1p(-p)).sum()
        low, high = (p, high) if tail > alpha else (low, p)
    return high
