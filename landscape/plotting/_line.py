"""Curves over one axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._checks import LARGEST
from landscape.plotting._field import Field, cell_edges, explain_reserved, field_of, flat_axes, lay_out, scale_of
from landscape.plotting._scale import check_reach, check_scale, dress_log_ticks

BAND_ERRORS = 2  # half-width of the band in standard errors
SPLITS = {"train": "-", "test": "--", "validation": "-.", "valid": "-.", "val": "-."}


@_style.wearable
def profile(
    landscape: Landscape,
    names: str | Sequence[str],
    *,
    ax: Axes | None = None,
    scale: str = "auto",
    twin: str | Sequence[str] = (),
    label: str | None = None,
    bands: bool = True,
    **options: Any,
) -> Axes:
    """Outputs over one axis as curves: training solid, test dashed, one colour for each metric.

    A curve breaks where there is no finite value, and squares in the reserved colours on the lower edge show where.
    An output `<name>_sem` gives its curve a band of two standard errors to either side.

    Args:
        landscape: a landscape with one axis.
        names: the output or outputs to draw, one real number a point.
        ax: flat axes to draw on; a new figure when None.
        scale: of the values: `"linear"`, `"log"` or `"auto"`, log for positive values over more than 1.5 decades.
            The axis label names a log scale.
        twin: outputs to draw against a second axis on the right, for another unit (an accuracy beside a loss).
        label: text for the left axis; what the names have in common when None.
        bands: whether to draw the bands.
        options: passed to `Axes.plot` for every curve.

    Returns:
        The left axes. Those on the right, if any, are `ax.figure.axes[-1]`.

    Raises:
        KeyError: there is no such output.
        TypeError: an output is not real.
        ValueError: no names, another number of axes, several values a point, or 3-D axes.
    """
    left, right = ([n] if isinstance(n, str) else list(n) for n in (names, twin))
    if not left:
        raise ValueError(f"profile needs at least one output; the landscape has {', '.join(landscape.names)}")
    fields = {name: field_of(landscape, name, "profile", 1) for name in left + right}
    colors = dict(zip(dict.fromkeys(metric(name) for name in fields), _style.inks().cycle * len(fields)))
    check_scale(scale)
    ax = flat_axes(ax, "profile")
    x = landscape.grid.axes[0]
    _draw_side(ax, landscape, [fields[n] for n in left], colors, bands, options)
    _scale_side(ax, [fields[n] for n in left], scale, label)
    ax.set_xlabel(x.text)
    lay_out(ax.xaxis, x.values, x.values[[0, -1]] if len(x) > 1 else cell_edges(x.values))
    sides = [ax]
    if right:
        sides.append(ax.twinx())
        _draw_side(sides[1], landscape, [fields[n] for n in right], colors, bands, options)
        _scale_side(sides[1], [fields[n] for n in right], "linear", None)
    _mark_gaps(ax, x.values, list(fields.values()))
    # One legend covers no curve of its own axes, but knows nothing of those on the right.
    _style.legend_below(*sides) if right else ax.legend(loc="best")
    return ax


def metric(name: str) -> str:
    """What an output measures: its name without the data set, `loss` for `test_loss`."""
    return " ".join(word for word in name.split("_") if word not in SPLITS) or name


def _line_style(name: str) -> str:
    return next((SPLITS[word] for word in name.split("_") if word in SPLITS), "-")


def _draw_side(
    ax: Axes, landscape: Landscape, fields: Sequence[Field], colors: Mapping[str, str], bands: bool, options: Any
) -> None:
    x = landscape.grid.axes[0].values
    for field in fields:
        look: dict[str, Any] = {"color": colors[metric(field.name)], "linestyle": _line_style(field.name)}
        error = landscape.values.get(f"{field.name}_sem") if bands else None
        note = "" if error is None else f" (± {BAND_ERRORS} standard errors)"
        y = field.masked.filled(np.nan)
        look |= {"label": f"{field.label}{note}", **options}
        (line,) = ax.plot(x, y, **look)
        alone = _isolated(field.shown)
        if len(alone):  # a point between two gaps has no line
            ax.plot(x[alone], y[alone], ".", color=line.get_color())
        if error is not None:
            half = BAND_ERRORS * np.asarray(error, dtype=np.float64)
            half = np.where(half <= LARGEST, half, np.nan)  # a band without end is no band
            ax.fill_between(x, y - half, y + half, color=line.get_color(), alpha=0.2, linewidth=0)


def _isolated(shown: np.ndarray) -> np.ndarray:
    """Indices of the points with a value and without a neighbour that has one."""
    padded = np.concatenate([[False], shown, [False]])
    return np.flatnonzero(shown & ~padded[:-2] & ~padded[2:])


def _scale_side(ax: Axes, fields: Sequence[Field], scale: str, label: str | None) -> None:
    """The scale of the values and the text of their axis."""
    colors = scale_of(fields, scale)
    check_reach(np.concatenate([field.measured for field in fields]), colors.kind == "log")
    text = label or ", ".join(dict.fromkeys(metric(field.name) for field in fields))
    ax.set_ylabel(f"{text} (log scale)" if colors.kind == "log" else text)
    if colors.kind == "log":
        ax.set_yscale("log")
        dress_log_ticks(ax.yaxis, *ax.get_ylim())


def _mark_gaps(ax: Axes, x: np.ndarray, fields: Sequence[Field]) -> None:
    """Squares on the lower edge where an output has no value."""
    for field in fields:
        for where, color, _ in field.reserved():
            height, edge = np.zeros(where.sum()), ax.get_xaxis_transform()
            ax.plot(x[where], height, "s", color=color, markersize=4, transform=edge, clip_on=False, zorder=4)
        explain_reserved(ax, field, f"{field.label} ")
