"""Views of a `Landscape` with matplotlib: `f(landscape, name, *, ax=None, **options) -> Axes`.

Each view draws one output by name into `ax`, or into a new figure, and returns the axes. Only here is the array
order turned: `values[i, j]` is drawn at x = `axes[0].values[i]`, y = `axes[1].values[j]`. Measured values are never
altered: a point without a finite value has a colour of its own and is counted in the legend.

```python
from landscape import plotting

with plotting.style("paper"):
    ax = plotting.heatmap(landscape, "train_loss", contours=True)
    plotting.trajectory(landscape, {"Adam": {"coords": coords, "loss": losses}}, ax=ax)
    plotting.save_figure(ax.figure, "figures/plane", {"seed": 3})
```
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LightSource, ListedColormap, Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from landscape import _style
from landscape._scale import Scale, dress_log_ticks, level_texts, resolve
from landscape._style import save_figure, style
from landscape.analysis import generalization_gap
from landscape.grid import Axis, Grid, Landscape

__all__ = ["heatmap", "contours", "surface3d", "profile", "trajectory", "overview", "style", "save_figure"]


@dataclass(frozen=True, eq=False)
class _Field:
    """One output over the grid, float64: where it has a value to draw, and where it was not computed."""

    name: str
    values: np.ndarray
    shown: np.ndarray
    missing: np.ndarray

    @property
    def broken(self) -> np.ndarray:
        """Computed points whose value is NaN or infinite."""
        return ~self.shown & ~self.missing

    @property
    def measured(self) -> np.ndarray:
        """The finite values, shape `(n,)`."""
        return self.values[self.shown]

    @property
    def masked(self) -> np.ndarray:
        """The values with all others masked."""
        return np.ma.masked_where(~self.shown, self.values)

    @property
    def label(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")


def _field(landscape: Landscape, name: str, view: str, ndim: int) -> _Field:
    """The output to draw, checked.

    A point that was not computed may still hold a value, which a sweep with a tolerance predicted; it is drawn.
    Integers have no NaN, so theirs count only where the landscape states an error for them.
    """
    values = landscape[name]
    _check_ndim(landscape, view, ndim)
    if values.shape != landscape.grid.shape:
        raise ValueError(
            f"{view} draws one number a point, {name!r} holds an array of shape "
            f"{values.shape[landscape.grid.ndim :]}: pick one entry, as in landscape.assign(one=landscape[{name!r}][..., 0])"
        )
    if values.dtype.kind in "cOSU":
        raise TypeError(f"{view} draws real numbers, {name!r} holds {values.dtype}")
    predicted = values.dtype.kind not in "biu" or landscape.error.get(name) is not None
    numbers = values.astype(np.float64)
    shown = np.isfinite(numbers) & (landscape.computed | predicted)
    return _Field(name, numbers, shown, ~landscape.computed & ~shown)


def _check_ndim(landscape: Landscape, view: str, ndim: int) -> None:
    grid = landscape.grid
    if grid.ndim == ndim:
        return
    if grid.ndim > ndim:
        advice = f"fix some with landscape.slice({', '.join(f'{name}=0' for name in grid.names[ndim:])})"
    else:
        advice = "draw it with profile"
    axes = "axis" if ndim == 1 else "axes"
    raise ValueError(f"{view} draws {ndim} {axes}, this landscape has {grid.ndim} ({', '.join(grid.names)}): {advice}")


def _flat_axes(ax: Axes | None, view: str) -> Axes:
    if ax is None:
        return _style.new_axes()
    if ax.name == "3d":
        raise ValueError(f"{view} draws on flat axes, got 3-D ones; leave out ax or use surface3d")
    return ax


def heatmap(
    landscape: Landscape,
    name: str,
    *,
    ax: Axes | None = None,
    scale: str = "auto",
    vmin: float | None = None,
    vmax: float | None = None,
    robust: bool = False,
    center: float | str | None = "auto",
    cmap: Any = None,
    colorbar: bool = True,
    label: str | None = None,
    minimum: bool = True,
    contours: bool | int | Sequence[float] = False,
    aspect: str | float = "auto",
    **options: Any,
) -> Axes:
    """One output over two axes as coloured cells, one cell a point.

    Args:
        landscape: a landscape with two axes, equally spaced or not.
        name: the output to draw, one real number a point.
        ax: flat axes to draw on; a new figure when None.
        scale: `"linear"`, `"log"`, `"symlog"` or `"auto"`: log for positive values over more than 1.5 decades.
            The colour bar names it.
        vmin: lower end of the colours, in units of the output. Clipped values make the colour bar end in a tip.
        vmax: upper end of the colours.
        robust: end the colours at the 2nd and 98th percentile rather than at the extremes.
        center: value of the middle colour; `"auto"` is 0 when the values change sign, and None is no centre.
        cmap: colour map; `viridis`, or `RdBu_r` for a scale with a centre, when None.
        colorbar: whether to draw the colour bar.
        label: text for the colour bar; the name in words when None.
        minimum: whether to mark the smallest measured value (of an accuracy, the largest) with a star.
        contours: whether to draw labelled contour lines on top; a number of levels or the levels.
        aspect: of the axes; `"auto"` is `"equal"` when both axes have the same range.
        options: passed to `Axes.pcolormesh`.

    Raises:
        KeyError: there is no such output.
        TypeError: the output is not real.
        ValueError: another number of axes, several values a point, 3-D axes, or an empty colour scale.
    """
    field = _field(landscape, name, "heatmap", 2)
    colors = resolve(field.measured, scale, vmin=vmin, vmax=vmax, robust=robust, center=center)
    ax = _flat_axes(ax, "heatmap")
    mesh = _draw_cells(ax, landscape.grid, field, colors, cmap, options)
    if colorbar:
        _draw_colorbar(ax, mesh, colors, label or field.label)
    if minimum:
        _mark_best(ax, landscape, field)
    _frame(ax, landscape.grid, aspect)
    if contours is not False:
        levels = 8 if contours is True else contours
        lines = _draw_contours(ax, landscape.grid, field, colors, levels, {"colors": _ink(mesh)})
        _label_contours(ax, lines, _ink(mesh, invert=True))
    return ax


def _draw_cells(ax: Axes, grid: Grid, field: _Field, colors: Scale, cmap: Any, options: Mapping[str, Any]) -> Any:
    """The cells with a value in colours, the others on top in reserved ones."""
    edges = [cell_edges(axis.values) for axis in grid.axes]
    mesh = ax.pcolormesh(
        *edges, field.masked.T, cmap=cmap or colors.cmap, norm=colors.norm, **{"rasterized": True, **options}
    )
    reserved = ListedColormap([_style.NOT_FINITE, _style.NOT_COMPUTED])
    kinds = np.ma.masked_where(field.shown, field.missing.astype(float))
    if not field.shown.all():
        ax.pcolormesh(*edges, kinds.T, cmap=reserved, norm=Normalize(0, 1), rasterized=True)
    _explain_reserved(ax, field)
    return mesh


def _explain_reserved(ax: Axes, field: _Field, prefix: str = "") -> None:
    for where, color, text in (
        (field.broken, _style.NOT_FINITE, "not finite"),
        (field.missing, _style.NOT_COMPUTED, "not computed"),
    ):
        if where.any():
            _style.swatch(ax, color, f"{prefix}{text} ({where.sum()})")


def cell_edges(values: np.ndarray) -> np.ndarray:
    """Edges of the cells around increasing coordinates: midway, and as far outside at the ends. Shape `(n + 1,)`."""
    if len(values) == 1:
        return values[0] + np.array([-0.5, 0.5])
    middle = 0.5 * (values[:-1] + values[1:])
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


def _draw_colorbar(ax: Axes, mesh: Any, colors: Scale, label: str) -> None:
    """A colour bar in inset axes, so that it is as high as axes of any aspect."""
    cax = ax.inset_axes((1.035, 0, 0.05, 1))
    bar = ax.figure.colorbar(mesh, cax=cax, extend=colors.extend, label=colors.text(label))
    if colors.empty:
        bar.set_ticks([])
        return
    cax.set_ylim(colors.low, colors.high)
    if colors.kind == "log":
        dress_log_ticks(cax.yaxis, colors.low, colors.high)


def _mark_best(ax: Axes, landscape: Landscape, field: _Field) -> None:
    """A star on the smallest measured value, or on the largest of an accuracy."""
    known = np.where(field.shown & landscape.computed, field.values, np.nan)
    if np.all(np.isnan(known)):
        return
    highest = "accuracy" in field.name
    flat = np.nanargmax(known) if highest else np.nanargmin(known)
    x, y = landscape.grid.points_at(np.array([flat]))[0]
    word = "maximum" if highest else "minimum"
    ax.plot(
        x,
        y,
        "*",
        label=f"{word} {known.flat[flat]:.3g}",
        color="white",
        markeredgecolor="black",
        markeredgewidth=0.7,
        markersize=9,
        zorder=5,
        clip_on=False,
    )


def _frame(ax: Axes, grid: Grid, aspect: str | float) -> None:
    """Axis labels, limits at the outer cell edges, aspect and legend."""
    x, y = (cell_edges(axis.values)[[0, -1]] for axis in grid.axes)
    ax.set(xlim=x, ylim=y, xlabel=grid.axes[0].text, ylabel=grid.axes[1].text)
    same = np.allclose(x, y)
    ax.set_aspect(("equal" if same else "auto") if aspect == "auto" else aspect)
    _style.legend_below(ax)


def contours(
    landscape: Landscape,
    name: str,
    *,
    ax: Axes | None = None,
    levels: int | Sequence[float] = 10,
    scale: str = "auto",
    vmin: float | None = None,
    vmax: float | None = None,
    robust: bool = False,
    center: float | str | None = "auto",
    cmap: Any = None,
    labels: bool = True,
    label: str | None = None,
    minimum: bool = True,
    aspect: str | float = "auto",
    **options: Any,
) -> Axes:
    """One output over two axes as labelled contour lines.

    The levels are round numbers, in equal ratios on a log scale. Lines end where points have no finite value; those
    points are drawn in the reserved colours. Labels that would cover another one are left out.

    Args:
        landscape: a landscape with two axes of at least two points.
        name: the output to draw, one real number a point.
        ax: flat axes to draw on; a new figure when None.
        levels: about how many levels, or the levels themselves in units of the output.
        scale: as in `heatmap`.
        vmin: lowest value that gets a line, and lower end of the colours.
        vmax: highest value that gets a line, and upper end of the colours.
        robust: as in `heatmap`.
        center: as in `heatmap`.
        cmap: as in `heatmap`; give `colors="black"` for lines of one colour.
        labels: whether to write the values on the lines.
        label: text for the title; the name in words when None. Axes that have a title keep it.
        minimum: as in `heatmap`.
        aspect: as in `heatmap`.
        options: passed to `Axes.contour`.

    Raises:
        KeyError: there is no such output.
        TypeError: the output is not real.
        ValueError: another number of axes, several values a point, fewer than two points along an axis, or 3-D axes.
    """
    field = _field(landscape, name, "contours", 2)
    _check_extended(landscape.grid, "contours")
    colors = resolve(field.measured, scale, vmin=vmin, vmax=vmax, robust=robust, center=center)
    ax = _flat_axes(ax, "contours")
    if not ax.get_title():
        ax.set_title(f"{label or field.label}{', log-spaced levels' if colors.kind == 'log' else ''}")
    _draw_reserved_only(ax, landscape.grid, field)
    if "colors" not in options:
        options = {"cmap": cmap or colors.cmap, "norm": colors.norm, **options}
    lines = _draw_contours(ax, landscape.grid, field, colors, levels, options)
    if minimum:
        _mark_best(ax, landscape, field)
    _frame(ax, landscape.grid, aspect)
    if labels:
        _label_contours(ax, lines, "white")
    return ax
