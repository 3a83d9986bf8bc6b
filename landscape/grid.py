"""Labelled coordinates and values: `Axis`, `Grid` and `Landscape`, in NumPy alone.

A grid is the outer product of its axes. Array order holds everywhere, once and for all: `values[name][i, j]`
belongs to `axes[0].values[i]` and `axes[1].values[j]`. Only the plotting functions transpose.

>>> from landscape.grid import Grid
>>> grid = Grid.square(1.0, 5)
>>> grid.shape, grid.names
((5, 5), ('alpha', 'beta'))
>>> grid.points()[1]
array([-1. , -0.5])
"""

import dataclasses
import numbers
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from landscape.checks import MOST

MASK = "computed"  # beside the outputs, wherever a landscape is kept
ROUNDING = 1e-6  # of a step, within which a coordinate counts as that of the grid


@dataclass(frozen=True, eq=False)
class Axis:
    """One coordinate axis.

    Attributes:
        name: identifier, the key of the coordinate in a stored result (`alpha`).
        values: the coordinates, float64, shape `(n,)`, strictly increasing. A list becomes an array.
        label: text for plots; the name is used when empty.

    Raises:
        TypeError: the name or the label is no text, or the values are no real numbers.
    """

    name: str
    values: np.ndarray
    label: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.label, str):
            raise TypeError(f"the name and the label of an axis must be text, got {self.name!r} and {self.label!r}")
        object.__setattr__(self, "values", _numbers(self.values, f"the coordinates of axis {self.name!r}"))

    @classmethod
    def linspace(cls, name: str, low: float, high: float, num: int, label: str = "") -> "Axis":
        """`num` equally spaced coordinates from `low` to `high`, both included."""
        _check_num(num)
        low, high = _number(low, "low"), _number(high, "high")
        if not np.isfinite(high - low) or (num > 1 and not low < high):
            raise ValueError(f"axis {name!r} needs finite low < high, got {low} and {high}")
        return cls(name, _centred_linspace(low, high, num), label)

    @classmethod
    def covering(cls, name: str, low: float, high: float, num: int, label: str = "", through: float = 0.0) -> "Axis":
        """`num` equally spaced coordinates over at least `[low, high]`, one of which is exactly `through`.

        Of all such axes, the one with the smallest step.
        """
        _check_num(num)
        low, high, through = _number(low, "low"), _number(high, "high"), _number(through, "through")
        if num < 3 or not low <= through <= high or not np.isfinite(high - low) or low == high:
            raise ValueError(
                f"axis {name!r}: needs finite low <= {through} <= high, low < high and num >= 3, "
                f"got {low}, {high}, {num}"
            )
        below = np.arange(num, dtype=np.float64)[int(low < through) : num - int(through < high)]
        steps = np.maximum((through - low) / np.maximum(below, 1), (high - through) / np.maximum(num - 1 - below, 1))
        step, index = steps.min(), np.arange(num) - below[steps.argmin()]
        values = through + step * index
        while values[0] > low or values[-1] < high:  # rounding
            step = step + np.spacing(max(step, abs(low) / num, abs(high) / num))
            values = through + step * index
        return cls(name, values, label)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def text(self) -> str:
        """The label, or the name where there is none."""
        return self.label or self.name


def _check_num(num: Any) -> None:
    if isinstance(num, bool) or not isinstance(num, int | np.integer):
        raise TypeError(f"the number of points must be an integer, got {num!r} ({type(num).__name__})")
    if num < 1:
        raise ValueError(f"the number of points must be at least 1, got {num}")
    if num > MOST:
        raise ValueError(f"the number of points must be at most {MOST}, got {num}")


def _number(value: Any, what: str) -> float:
    """A real number as a float; NumPy's and JAX's scalars are numbers too."""
    scalar = np.asarray(value) if hasattr(value, "dtype") else value
    if isinstance(scalar, np.ndarray) and scalar.ndim == 0 and scalar.dtype.kind in "iuf":
        return float(scalar)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a real number, got {value!r} ({type(value).__name__})")
    return float(value)


def _numbers(values: Any, what: str) -> np.ndarray:
    """An array of real numbers as it is, anything else as float64."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise TypeError(f"{what} must be real numbers, got {values!r}") from error
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{what} must be real numbers, got {values!r} ({array.dtype})")
    return array if hasattr(values, "dtype") else array.astype(np.float64)


def _centred_linspace(low: float, high: float, num: int) -> np.ndarray:
    """`np.linspace`, symmetric about its middle (to the bit about 0): the centre of [-1, 1] is exactly 0."""
    if num == 1:
        return np.array([0.5 * (low + high)])
    values = np.linspace(low, high, num)
    values = 0.5 * (values - values[::-1]) + 0.5 * (low + high)
    values[[0, -1]] = low, high
    return values


@dataclass(frozen=True, eq=False)
class Grid:
    """The outer product of axes: `grid.shape == tuple(len(axis) for axis in grid.axes)`.

    Raises:
        TypeError: something else than axes.
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        axes = tuple(self.axes) if isinstance(self.axes, tuple | list) else None
        if axes is None or not all(isinstance(axis, Axis) for axis in axes):
            raise TypeError(f"a Grid takes a tuple of Axis, got {self.axes!r}; or use Grid.line, Grid.square, Grid.of")
        object.__setattr__(self, "axes", axes)

    @classmethod
    def line(cls, extent: float | tuple[float, float] = (-0.5, 1.5), num: int = 201, name: str = "alpha") -> "Grid":
        """A 1-D grid over `(low, high)`, or over `[-extent, extent]` for a number.

        Raises:
            ValueError: `num` below 1, or a range that is empty or not finite.
        """
        return cls((Axis.linspace(name, *_interval(extent), num),))

    @classmethod
    def square(
        cls, extent: float | tuple[float, float] = 1.0, num: int = 51, names: tuple[str, str] = ("alpha", "beta")
    ) -> "Grid":
        """A 2-D grid, `num` by `num`, over the same range on both axes.

        The default is the convention of Li et al. (2018), section 4: 51 x 51 points over [-1, 1]^2 in units of
        the (filter-normalised) directions. An odd `num` puts the centre on the grid.
        """
        if not isinstance(names, tuple | list) or len(names) != 2:
            raise ValueError(f"names must be two names of axes, got {names!r}")
        return cls(tuple(Axis.linspace(name, *_interval(extent), num) for name in names))

    @classmethod
    def of(cls, **values: Any) -> "Grid":
        """A grid of any dimension from coordinates by name: `Grid.of(x=np.linspace(0, 1, 7), y=[0., 2.])`."""
        arrays = {name: _numbers(v, f"the coordinates of axis {name!r}") for name, v in values.items()}
        return cls(tuple(Axis(name, array.astype(np.float64)) for name, array in arrays.items()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of coordinates along each axis."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of points."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    def check(self) -> None:
        """Raise `ValueError` unless the grid has points, distinct names and increasing finite coordinates."""
        if not self.axes:
            raise ValueError("the grid has no axes; build one with Grid.line, Grid.square or Grid.of")
        if len(set(self.names)) != self.ndim or not all(name.isidentifier() for name in self.names):
            raise ValueError(f"axis names must be distinct identifiers, got {self.names}")
        for axis in self.axes:
            if axis.values.ndim != 1 or axis.values.size == 0:
                raise ValueError(f"axis {axis.name!r} must hold at least one coordinate, got shape {axis.values.shape}")
            if not np.all(np.isfinite(axis.values)) or np.any(np.diff(axis.values) <= 0):
                raise ValueError(f"axis {axis.name!r} must be finite and strictly increasing, got {axis.values}")

    def check_outputs(self, names: Iterable[str]) -> None:
        """Raise `ValueError` where an output or axis has the name of another or of the mask of computed points."""
        clash = sorted({*names} & {*self.names, MASK})
        if clash:
            raise ValueError(f"the output {clash[0]!r} has the name of an axis or of the mask {MASK!r}; rename it")
        if MASK in self.names:
            raise ValueError(f"an axis cannot be called {MASK!r}, as the mask of computed points is; rename it")

    def points(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Coordinates of the points `start..stop` in C order, float64, shape `(stop - start, ndim)`."""
        flat = np.arange(start, self.size if stop is None else stop)
        return self.points_at(flat)

    def points_at(self, flat: np.ndarray) -> np.ndarray:
        """Coordinates of the points with these flat (C order) indices, shape `(len(flat), ndim)`."""
        index = np.unravel_index(flat, self.shape)
        return np.stack([axis.values[i] for axis, i in zip(self.axes, index)], axis=-1)

    def zoom(self, center: Any, factor: float) -> "Grid":
        """The same number of points over a range `factor` times smaller around `center`.

        All distances between coordinates shrink alike, so unequal spacing stays; the middle of the range goes to
        `center`.
        """
        center = self._point(center, "center")
        factor = _number(factor, "zoom factor")
        if not 0 < factor < np.inf:
            raise ValueError(f"zoom factor must be positive, got {factor}")
        if not np.all(np.isfinite(center)):
            raise ValueError(f"the center to zoom to must be finite, got {center.tolist()}")
        return Grid(tuple(_zoomed(axis, c, factor) for axis, c in zip(self.axes, center)))

    def refined(self, factor: int = 2) -> "Grid":
        """The same range with every interval divided in `factor`: the old points are among the new ones."""
        _check_num(factor)
        return Grid(tuple(dataclasses.replace(axis, values=_subdivide(axis.values, factor)) for axis in self.axes))

    def index(self, coords: Any) -> tuple[int, ...]:
        """Index of the grid point nearest to `coords`."""
        coords = self._point(coords, "coords")
        if np.any(np.isnan(coords)):
            raise ValueError(f"no grid point is nearest to {coords.tolist()}")
        return tuple(int(np.argmin(np.abs(axis.values - c))) for axis, c in zip(self.axes, coords))

    def _point(self, coords: Any, what: str) -> np.ndarray:
        """One coordinate for each axis, or one for all."""
        array = _numbers(coords, what)
        if array.shape not in ((), (self.ndim,)):
            raise ValueError(f"{what} must be one number or {self.ndim}, one for each axis, got {array.tolist()}")
        return np.broadcast_to(array.astype(np.float64), (self.ndim,))


def _interval(extent: float | tuple[float, float]) -> tuple[float, float]:
    if not isinstance(extent, tuple | list):
        extent = _number(extent, "extent")
        return -extent, extent
    if len(extent) != 2:
        raise ValueError(f"extent must be a number or (low, high), got {extent!r}")
    return _number(extent[0], "low"), _number(extent[1], "high")


def _zoomed(axis: Axis, center: float, factor: float) -> Axis:
    low, high, num = axis.values[0], axis.values[-1], len(axis)
    half = 0.5 * (high - low) / factor
    step = (high - low) / max(1, num - 1)
    if np.allclose(axis.values, np.linspace(low, high, num), rtol=0, atol=1e-6 * step):
        return Axis.linspace(axis.name, center - half, center + half, num, axis.label)
    return dataclasses.replace(axis, values=center + (axis.values - 0.5 * (low + high)) / factor)


def _subdivide(values: np.ndarray, factor: int) -> np.ndarray:
    fine = np.interp(np.arange((len(values) - 1) * factor + 1) / factor, np.arange(len(values)), values)
    fine[::factor] = values
    return fine


@dataclass(frozen=True)
class Predicted:
    """What is promised of one output at the points that were not evaluated.

    Attributes:
        driver: `"smooth"`, for values that are interpolated, or `"labels"`.
        error: an estimate of the largest error, in units of the output (decades where it was predicted on a log scale);
            `None` for labels and before the end.
        fraction: with the confidence of the promise, at most this share of all points is off by more than `error`
            (labels: is wrong), whatever the function.
        asked: what was asked for: `tolerance`, `absolute`, `max_wrong`, ..., and the `range` of the values.
    """

    driver: str
    error: float | None
    fraction: float
    asked: Mapping[str, Any]


@dataclass(frozen=True)
class Promise:
    """What a sweep at a tolerance did, and what it promises of the points that it did not evaluate.

    Attributes:
        points: of the grid.
        evaluations: points that were evaluated.
        rounds: in which they were chosen.
        confidence: of every `fraction`.
        outputs: what is promised of each output that was predicted.
        left_out: outputs that were not predicted, and why.
        warnings: what could not be had.
        reason: why most points were evaluated, where they were.
    """

    points: int
    evaluations: int
    rounds: int
    confidence: float
    outputs: Mapping[str, Predicted]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]
    reason: str

    @classmethod
    def of(cls, stated: Any) -> "Promise | None":
        """Read what a run's metadata state, `None` where they state nothing of the kind."""
        if not isinstance(stated, Mapping) or not isinstance(stated.get("outputs"), Mapping):
            return None
        outputs = {}
        for name, one in stated["outputs"].items():
            asked = {key: value for key, value in one.items() if key not in ("driver", "error", "fraction")}
            outputs[name] = Predicted(one.get("driver", "smooth"), one.get("error"), one.get("fraction", 1.0), asked)
        numbers = (stated.get(key, 0) for key in ("points", "evaluations", "rounds", "confidence"))
        rest = (dict(stated.get("left_out", {})), tuple(stated.get("warnings", ())), stated.get("reason", ""))
        return cls(*numbers, outputs, *rest)


@dataclass(frozen=True, eq=False)
class Landscape:
    """The result of a sweep: named values over a grid.

    Attributes:
        grid: the coordinates.
        values: `{name: array}`, each of shape `(*grid.shape, ...)`. Measured values are never altered: NaN and
            infinity stay where they were found. Points that were not evaluated hold NaN (0 for integers).
        computed: boolean, shape `grid.shape`: the points that were evaluated.
        error: `{name: bound or None}`; a sweep of every point has no error to state, so `None`.
        meta: what else is known of the run (plan, provenance, timings, paths), as plain JSON data.

    Raises:
        TypeError: something of another kind.
        ValueError: an array of another shape than the grid's.
    """

    grid: Grid
    values: Mapping[str, np.ndarray]
    computed: np.ndarray
    error: Mapping[str, float | None] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.grid, Grid):
            raise TypeError(f"the grid of a Landscape must be a landscape.Grid, got {type(self.grid).__name__}")
        for name in ("values", "error", "meta"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} of a Landscape must be a dict, got {type(getattr(self, name)).__name__}")
        values = {name: self._array(name, value) for name, value in self.values.items()}
        computed = self._array(MASK, self.computed)
        if computed.dtype != bool or computed.shape != self.grid.shape:
            shape = f"{computed.dtype}{list(computed.shape)}"
            raise ValueError(f"{MASK} must be True or False at each of {self.grid.shape} points, got {shape}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, MASK, computed)

    def _array(self, name: Any, value: Any) -> np.ndarray:
        """Values that have one entry for each point of the grid, whatever an entry is."""
        if not isinstance(name, str):
            raise TypeError(f"the names of outputs must be text, got {name!r}")
        try:
            array = value if isinstance(value, np.ndarray) else np.asarray(value)
        except ValueError as error:
            raise TypeError(f"{name} must be an array, got {type(value).__name__}: {error}") from error
        if array.dtype.kind == "O":
            raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__} of objects")
        if array.shape[: self.grid.ndim] != self.grid.shape:
            raise ValueError(f"{name} must have shape {self.grid.shape} + (...), as the grid has, got {array.shape}")
        return array

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self.values)

    def __getitem__(self, name: str) -> np.ndarray:
        if not isinstance(name, str):
            raise TypeError(f"an output is chosen by its name, one of {', '.join(self.names)}, got {name!r}")
        try:
            return self.values[name]
        except KeyError:
            raise KeyError(f"no output {name!r} in this landscape; it has {', '.join(self.names)}") from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __repr__(self) -> str:
        axes = ", ".join(f"{a.name}: {len(a)} in [{a.values[0]:.4g}, {a.values[-1]:.4g}]" for a in self.grid.axes)
        done = "" if self.computed.all() else f", {int(self.computed.sum())} of {self.grid.size} computed"
        return f"Landscape({axes}; {', '.join(self.names)}{done}{self._refined()})"

    def _repr_html_(self) -> str:
        """A table and a picture, for notebooks."""
        import landscape

        return landscape.view.summary(self)

    def _refined(self) -> str:
        """Which outputs a sweep at a tolerance predicted between the points computed, and which it did not."""
        promise = self.promise
        if promise is None or self.computed.all():
            return ""
        predicted = [name for name in self.names if self.predicts(name)]
        why = {name: f" (left out: {said.split(';')[0]})" for name, said in promise.left_out.items()}
        known = [name + why.get(name, "") for name in self.error if name in self and name not in predicted]
        said = {"predicted elsewhere": predicted, "known only where computed": known}
        return "".join(f"; {what}: {', '.join(names)}" for what, names in said.items() if names)

    def predicts(self, name: str) -> bool:
        """Whether the points that were not computed hold predictions of this output, by a sweep at a tolerance."""
        promise = self.promise
        return self.error.get(name) is not None or (promise is not None and name in promise.outputs)

    @property
    def promise(self) -> Promise | None:
        """What a sweep at a tolerance promises of the points that it did not evaluate; `None` for any other sweep."""
        return Promise.of(self.meta.get("refinement"))

    def slice(self, **at: int | float) -> "Landscape":
        """The landscape with some axes fixed, which has so many axes fewer.

        An integer is an index, a float a coordinate: `landscape.slice(beta=25)` keeps the 26th coordinate of `beta`,
        `landscape.slice(beta=0.5)` the coordinate 0.5.

        Raises:
            TypeError: neither an integer nor a float.
            ValueError: no such axis, index or coordinate, or no axis left.
        """
        unknown = sorted(at.keys() - set(self.grid.names))
        if unknown:
            raise ValueError(f"no axis {unknown[0]!r}; the axes are {', '.join(self.grid.names)}")
        index = {axis.name: _place(axis, at[axis.name]) for axis in self.grid.axes if axis.name in at}
        key = tuple(index.get(name, slice(None)) for name in self.grid.names)
        axes = tuple(axis for axis in self.grid.axes if axis.name not in index)
        if not axes:
            raise ValueError("a slice must keep at least one axis; index landscape[name] for a single point")
        values = {name: value[key] for name, value in self.values.items()}
        return dataclasses.replace(self, grid=Grid(axes), values=values, computed=self.computed[key])

    def assign(self, **values: Any) -> "Landscape":
        """A copy with further outputs: `landscape.assign(gap=landscape["test_loss"] - landscape["train_loss"])`."""
        new = {name: self._array(name, value) for name, value in values.items()}
        return dataclasses.replace(self, values={**self.values, **new})

    def with_meta(self, **entries: Any) -> "Landscape":
        """A copy with further entries in `meta`."""
        return dataclasses.replace(self, meta={**self.meta, **entries})

    def argmin(self, name: str) -> tuple[int, ...]:
        """Index of the smallest finite value among the computed points.

        Raises:
            ValueError: the output is not one number a point, or no computed point is finite.
        """
        values = self[name]
        if values.shape != self.grid.shape:
            raise ValueError(f"{name!r} holds {values.shape[self.grid.ndim :]} values a point; argmin needs one")
        masked = np.where(self.computed & np.isfinite(values), values, np.inf)
        if not np.any(np.isfinite(masked)):
            raise ValueError(f"{name!r} has no finite value on this grid")
        return tuple(int(i) for i in np.unravel_index(np.argmin(masked), masked.shape))

    def coords(self, index: tuple[int, ...]) -> np.ndarray:
        """Coordinates of the point with this index, shape `(ndim,)`.

        Raises:
            TypeError: something else than integers.
            ValueError: no such point.
        """
        if not isinstance(index, Iterable):
            index = (index,)
        index = tuple(index)
        if len(index) != self.grid.ndim:
            raise ValueError(f"an index has {self.grid.ndim} integers, one for each axis, got {index}")
        return np.array([axis.values[_index(axis, i)] for axis, i in zip(self.grid.axes, index)])

    def to_xarray(self) -> Any:
        """This landscape as an `xarray.Dataset` (extra `io`)."""
        try:
            import xarray
        except ImportError as error:
            raise ImportError("to_xarray needs xarray: pip install 'loss-atlas[io]'") from error
        self.grid.check_outputs(self.values)
        data = {name: (dims(self.grid, name, value.ndim), value) for name, value in self.values.items()}
        data["computed"] = (self.grid.names, self.computed)
        coords = {axis.name: (axis.name, axis.values, {"long_name": axis.text}) for axis in self.grid.axes}
        return xarray.Dataset(data, coords=coords)


def _place(axis: Axis, at: Any) -> int:
    """Index of the coordinate that is meant: an integer is an index, a float a coordinate."""
    if not isinstance(at, float | np.floating):
        return _index(axis, at)
    nearest = int(np.argmin(np.abs(axis.values - at))) if np.isfinite(at) else 0
    gap = np.min(np.diff(axis.values)) if len(axis) > 1 else abs(axis.values[0])
    if not abs(axis.values[nearest] - at) <= ROUNDING * max(gap, np.spacing(abs(float(axis.values[nearest])))):
        raise ValueError(
            f"axis {axis.name!r} has no coordinate {at!r}; the nearest is {float(axis.values[nearest])!r}, index "
            f"{nearest}. A float is a coordinate, an integer an index"
        )
    return nearest


def _index(axis: Axis, at: Any) -> int:
    if isinstance(at, bool) or not isinstance(at, int | np.integer):
        raise TypeError(f"axis {axis.name!r} takes an integer (an index) or a float (a coordinate), got {at!r}")
    if not -len(axis) <= at < len(axis):
        raise ValueError(
            f"axis {axis.name!r} has {len(axis)} coordinates, from {float(axis.values[0])!r} to "
            f"{float(axis.values[-1])!r}: no index {at}. For a coordinate give a float, {axis.name}={float(at)!r}"
        )
    return int(at)


def slice_advice(grid: Grid, keep: int) -> str:
    """Calls that leave the first `keep` axes of a landscape, at coordinates that the others have."""
    middle = ", ".join(f"{axis.name}={float(axis.values[len(axis) // 2])!r}" for axis in grid.axes[keep:])
    first = ", ".join(f"{name}=0" for name in grid.names[keep:])
    return f"landscape.slice({first}) at an index, or landscape.slice({middle}) at a coordinate"


def check_landscape(value: Any) -> None:
    """Raise `TypeError` unless it is a `Landscape`."""
    if not isinstance(value, Landscape):
        raise TypeError(f"landscape must be a Landscape, as sweep and load return it, got {type(value).__name__}")


def dims(grid: Grid, name: str, ndim: int) -> tuple[str, ...]:
    """Dimension names of an output: the axes, then `name_0`, `name_1`, ... for what each point holds."""
    return grid.names + tuple(f"{name}_{i}" for i in range(ndim - grid.ndim))
