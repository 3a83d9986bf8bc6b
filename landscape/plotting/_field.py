"""What every view of an output does: check it, find the points without a value, mark the best one, set the frame."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from landscape.grid import Grid, Landscape, slice_advice
from landscape.plotting import _style
from landscape.plotting._checks import LARGEST
from landscape.plotting._scale import Scale, dress_log_ticks, number, resolve
from landscape.plotting._text import as_name


@dataclass(frozen=True, eq=False)
class Field:
    """One output over the grid.

    Attributes:
        name: of the output.
        values: float64, shape `grid.shape`.
        shown: boolean mask of the points with a finite value to draw.
        missing: boolean mask of the points that were not computed and have no value.
    """

    name: str
    values: np.ndarray
    shown: np.ndarray
    missing: np.ndarray

    @property
    def broken(self) -> np.ndarray:
        """Computed points whose value is NaN or infinite."""
        return ~self.shown & ~self.missing

    def reserved(self) -> Iterator[tuple[np.ndarray, str, str]]:
        """The points without a value: a mask of them, the colour reserved for it, and what the legend says, by kind."""
        for where, color, text in (
            (self.broken, _style.inks().not_finite, "not finite"),
            (self.missing, _style.inks().not_computed, "not computed"),
        ):
            if where.any():
                yield where, color, text

    @property
    def measured(self) -> np.ndarray:
        """The finite values, shape `(n,)`."""
        return self.values[self.shown]

    @property
    def masked(self) -> np.ma.MaskedArray:
        """The values, those that are not finite or not computed masked."""
        return np.ma.masked_where(~self.shown, self.values)

    @property
    def is_accuracy(self) -> bool:
        """Whether higher is better and the range is bounded."""
        return "accuracy" in self.name

    @property
    def label(self) -> str:
        """The name in words."""
        return as_name(self.name.replace("_", " "))


def field_of(landscape: Landscape, name: str, view: str, ndim: int) -> Field:
    """The output that a view of `ndim` axes is to draw, checked.

    A point that was not computed may still hold a value, one that a sweep with a tolerance predicted; it is drawn.
    Integers have no NaN to tell the two apart, so theirs count only where the landscape says that it predicts them.
    """
    values = np.asarray(landscape[name])
    check_ndim(landscape, view, ndim)
    if values.shape != landscape.grid.shape:
        raise ValueError(
            f"{view} draws one number a point, {name!r} holds an array of shape {values.shape[ndim:]} a point: "
            f"choose an entry, as in landscape.assign(first=landscape[{name!r}][..., 0])"
        )
    numbers = as_numbers(values, view, name)
    predicted = values.dtype.kind not in "biu" or landscape.predicts(name)
    shown = np.isfinite(numbers) & (landscape.computed | predicted)
    return Field(name, numbers, shown, ~landscape.computed & ~shown)


def as_numbers(values: np.ndarray, view: str, name: str) -> np.ndarray:
    """An output in float64.

    Raises:
        TypeError: it does not hold real numbers.
    """
    if values.dtype.kind not in "biufV" or values.dtype.names:  # V: the small floats of ml_dtypes, such as bfloat16
        raise TypeError(f"{view} draws real numbers, {name!r} holds {values.dtype}")
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{view} draws real numbers, {name!r} holds {values.dtype}") from error


def scale_of(fields: Sequence[Field], scale: str, **limits: Any) -> Scale:
    """The colour scale that some outputs share. An accuracy is a share: its scale is linear unless asked otherwise."""
    if scale == "auto" and all(field.is_accuracy for field in fields):
        scale = "linear"
    return resolve(np.concatenate([field.measured for field in fields]), scale, **limits)


def check_ndim(landscape: Landscape, view: str, ndim: int) -> None:
    """Raise `ValueError`, with advice, unless the landscape has `ndim` axes."""
    grid = landscape.grid
    if grid.ndim == ndim:
        return
    advice = f"fix some with {slice_advice(grid, ndim)}" if grid.ndim > ndim else "draw it with profile"
    raise ValueError(
        f"{view} draws {ndim} {'axis' if ndim == 1 else 'axes'}, this landscape has {grid.ndim} "
        f"({', '.join(grid.names)}): {advice}"
    )


def check_extended(grid: Grid, view: str) -> None:
    """Raise `ValueError` unless there are two points along every axis."""
    if min(grid.shape) < 2:
        raise ValueError(f"{view} needs at least 2 points along each axis, this grid has {grid.shape}: use heatmap")


def flat_axes(ax: Axes | None, view: str) -> Axes:
    """The axes given, or new ones.

    Raises:
        ValueError: the axes given are 3-D.
    """
    if ax is None:
        return _style.new_axes()
    if ax.name == "3d":
        raise ValueError(f"{view} draws on flat axes, got 3-D ones: leave out ax, or use surface3d")
    return ax


def is_log_spaced(values: np.ndarray) -> bool:
    """Whether increasing coordinates are positive and step by ratios rather than by differences.

    The steps need not be equal: 1, 3, 10, 30, .. are log-spaced. Two or three points are so only over a decade.
    """
    if len(values) < 2 or values[0] <= 0 or (len(values) < 4 and values[-1] < 10 * values[0]):
        return False
    if len(values) == 2:
        return True
    steps, ratios = np.diff(values), np.diff(np.log(values))
    if ratios.min() <= 0:  # steps of a rounding
        return False
    uneven, ratios_uneven = steps.max() / steps.min(), ratios.max() / ratios.min()
    if ratios_uneven < 1 + 1e-6:
        return bool(uneven > 1 + 1e-4)
    return bool(uneven / ratios_uneven > (4 / 3 if ratios_uneven < 1.6 else 10))


def cell_edges(values: np.ndarray) -> np.ndarray:
    """Edges of the cells around increasing coordinates, shape `(n + 1,)`: midway, and as far outside at the ends.

    Midway is the geometric mean where the coordinates are log-spaced, so that no edge leaves the positive side.
    """
    if len(values) == 1:
        size = abs(float(values[0]))
        return values[0] + np.array([-1, 1]) * (max(min(0.5, 0.5 * size), 1e-3 * size) or 0.5)
    if is_log_spaced(values):
        return np.exp(_midway(np.log(values)).clip(-2 * np.log(LARGEST), np.log(LARGEST) + 1))
    return _midway(values)


def _midway(values: np.ndarray) -> np.ndarray:
    middle = values[:-1] + 0.5 * np.diff(values)
    return np.concatenate([[values[0] - (middle[0] - values[0])], middle, [values[-1] + (values[-1] - middle[-1])]])


def draw_reserved(ax: Axes, grid: Grid, field: Field) -> None:
    """The cells without a value, in their reserved colours."""
    if field.shown.all():
        return
    kinds = np.ma.masked_where(field.shown, field.missing.astype(np.float64))
    colors = ListedColormap([_style.inks().not_finite, _style.inks().not_computed])
    edges = [cell_edges(axis.values) for axis in grid.axes]
    _style.plain(ax.pcolormesh(*edges, kinds.T, cmap=colors, norm=Normalize(0, 1), rasterized=True))


def explain_reserved(ax: Axes, field: Field, prefix: str = "") -> None:
    """Count the points without a value in the legend, in their reserved colours."""
    for where, color, text in field.reserved():
        _style.swatch(ax, color, f"{prefix}{text} ({where.sum()})")


def best_index(landscape: Landscape, field: Field) -> tuple[tuple[int, ...], str] | None:
    """Index of the smallest measured value, of an accuracy the largest, and which of the two it is."""
    known = np.where(field.shown & landscape.computed, field.values, np.nan)
    if np.all(np.isnan(known)):
        return None
    flat = np.nanargmax(known) if field.is_accuracy else np.nanargmin(known)
    word = "maximum" if field.is_accuracy else "minimum"
    return tuple(int(i) for i in np.unravel_index(flat, known.shape)), word


def mark_best(ax: Axes, landscape: Landscape, field: Field) -> None:
    """A star on the best measured value, with the value in the legend."""
    best = best_index(landscape, field)
    if best is None:
        return
    index, word = best
    label = f"{word} {number(field.values[index])}"
    _style.plain(*ax.plot(*landscape.coords(index), "*", label=label, zorder=6, clip_on=False, **_style.inks().star))


def frame(ax: Axes, grid: Grid, aspect: Any) -> None:
    """Axis labels, limits at the outer cell edges, and aspect: `auto` is equal for axes of one range."""
    x, y = (cell_edges(axis.values)[[0, -1]] for axis in grid.axes)
    for axis, drawn, limits in zip(grid.axes, (ax.xaxis, ax.yaxis), (x, y)):
        lay_out(drawn, axis.values, limits)
    ax.set(xlabel=grid.axes[0].text, ylabel=grid.axes[1].text)
    if aspect == "auto" and np.allclose(x, y, rtol=1e-5, atol=1e-8 * (x[1] - x[0])):
        aspect = "equal"
    ax.set_aspect(aspect)


def lay_out(axis: Any, values: np.ndarray, limits: Any) -> None:
    """Limits, scale and ticks of an axis with these coordinates: logarithmic where they are log-spaced."""
    if is_log_spaced(values):
        axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": limits})
        dress_log_ticks(axis, *limits)
        return
    axis.axes.set(**{f"{axis.axis_name}lim": limits})
    calm_ticks(axis)


def calm_ticks(axis: Any) -> None:
    """Few enough ticks for a panel of a paper."""
    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
