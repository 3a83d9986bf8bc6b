"""Flat views over two axes: heat maps and contour lines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet
from matplotlib.transforms import Bbox

from landscape.grid import Grid, Landscape
from landscape.plotting import _style
from landscape.plotting._checks import LARGEST
from landscape.plotting._field import (
    Field,
    cell_edges,
    check_extended,
    draw_reserved,
    explain_reserved,
    field_of,
    flat_axes,
    frame,
    mark_best,
    scale_of,
)
from landscape.plotting._scale import Scale, data_bounds, dress_log_ticks, level_texts
from landscape.plotting._text import as_name

LABEL_MARGIN = 2.0  # pixels kept free around a contour label
LINE_WIDTH = 0.7


@_style.wearable
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
        landscape: a landscape with two axes, equally spaced or not. An axis that is log-spaced is drawn on a log scale.
        name: the output to draw, one real number a point.
        ax: flat axes to draw on; a new figure when None.
        scale: `"linear"`, `"log"`, `"symlog"` or `"auto"`: log for positive values over more than 1.5 decades.
            The colour bar names it. Where both limits are given, they alone decide.
        vmin: lower end of the colours, in units of the output. Clipped values make the colour bar end in a tip.
        vmax: upper end of the colours.
        robust: end the colours at the 2nd and 98th percentile rather than at the extremes.
        center: value of the middle colour, with one slope on both sides; `"auto"` is 0 when the values, or the limits
            where both are given, change sign, and None is no centre. A log scale has none.
        cmap: colour map; when None that of the style, in print `viridis`, or `RdBu_r` for a scale with a centre.
        colorbar: whether to draw the colour bar.
        label: text for the colour bar; the name in words when None.
        minimum: whether to mark the smallest measured value (of an accuracy, the largest) with a star.
        contours: whether to draw labelled contour lines on top; a number of levels, or the levels.
        aspect: of the axes; `"auto"` is `"equal"` when both axes have the same range.
        options: passed to `Axes.pcolormesh`.

    Raises:
        KeyError: there is no such output.
        TypeError: the output is not real.
        ValueError: another number of axes, several values a point, 3-D axes, an empty colour scale, or values that are
            all too large or too close to be drawn in float64.
    """
    field = field_of(landscape, name, "heatmap", 2)
    colors = scale_of([field], scale, vmin=vmin, vmax=vmax, robust=robust, center=center)
    ax = flat_axes(ax, "heatmap")
    bar = (label or field.label) if colorbar else None
    draw_map(ax, landscape, field, colors, bar, minimum, aspect, {"cmap": cmap, **options})
    if contours is not False:
        overlay_contours(landscape, {ax: (field, colors)}, 10 if contours is True else contours)
    return ax


def draw_map(
    ax: Axes,
    landscape: Landscape,
    field: Field,
    colors: Scale,
    bar: str | None,
    minimum: bool,
    aspect: str | float,
    options: Mapping[str, Any],
) -> None:
    """A heat map without its contour lines, in a scale that may be that of other panels too; `bar` is its label."""
    mesh = _draw_cells(ax, landscape.grid, field, colors, options)
    if bar is not None:
        draw_colorbar(ax, mesh, colors, bar)
    if minimum:
        mark_best(ax, landscape, field)
    frame(ax, landscape.grid, aspect)
    _style.legend_below(ax)


def _draw_cells(ax: Axes, grid: Grid, field: Field, colors: Scale, options: Mapping[str, Any]) -> Any:
    """The cells with a value in colours, the others in reserved ones."""
    edges = [cell_edges(axis.values) for axis in grid.axes]
    look: dict[str, Any] = {"rasterized": True, "norm": colors.norm, **options}
    look["cmap"] = options.get("cmap") or colors.cmap
    mesh = ax.pcolormesh(*edges, field.masked.T, **look)
    _style.plain(mesh)
    draw_reserved(ax, grid, field)
    explain_reserved(ax, field)
    return mesh


def draw_colorbar(ax: Axes, mesh: Any, colors: Scale, label: str) -> None:
    """A colour bar in inset axes, so that it is as high as axes of any aspect."""
    cax = ax.inset_axes((1.035, 0, 0.05, 1))
    bar = ax.figure.colorbar(mesh, cax=cax, extend=colors.extend, label=colors.text(as_name(label)))
    _style.dress_bar(bar, ax)
    if colors.empty:
        bar.set_ticks([])
        return
    cax.set_ylim(colors.low, colors.high)
    if colors.kind == "log":
        dress_log_ticks(cax.yaxis, colors.low, colors.high)


@_style.wearable
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

    The levels are round numbers, in equal ratios on a log scale. Lines end where points have no finite value, and
    those points are drawn in the reserved colours. A label that would cover another one is left out.

    Args:
        landscape: a landscape with two axes of at least two points.
        name: the output to draw, one real number a point.
        ax: flat axes to draw on; a new figure when None.
        levels: about how many levels, 1 to 500, or the levels themselves in units of the output.
        scale: as in `heatmap`.
        vmin: end of the colours; lower values get no line.
        vmax: end of the colours; higher values get no line.
        robust: as in `heatmap`.
        center: as in `heatmap`.
        cmap: as in `heatmap`. For lines of one colour give `colors="black"` instead.
        labels: whether to write the values on the lines.
        label: text for the title, the name in words when None. Axes that have a title keep it.
        minimum: as in `heatmap`.
        aspect: as in `heatmap`.
        options: passed to `Axes.contour`.

    Raises:
        KeyError: there is no such output.
        TypeError: the output is not real.
        ValueError: another number of axes, several values a point, one point along an axis, or 3-D axes.
    """
    field = field_of(landscape, name, "contours", 2)
    check_extended(landscape.grid, "contours")
    colors = scale_of([field], scale, vmin=vmin, vmax=vmax, robust=robust, center=center)
    ax = flat_axes(ax, "contours")
    ax.set_title(ax.get_title() or _title(colors, label or field.label))
    draw_reserved(ax, landscape.grid, field)
    explain_reserved(ax, field)
    chosen = _inside(_levels(colors, levels), field)
    # Colours rather than a norm: under a LogNorm, contour masks zero and negative values and warns.
    options = {"colors": _line_colors(chosen, colors, cmap), **options}
    lines = _draw_lines(ax, landscape.grid, field, chosen, options)
    if minimum:
        mark_best(ax, landscape, field)
    frame(ax, landscape.grid, aspect)
    _style.legend_below(ax)
    if labels and lines is not None:
        _style.settle(ax)
        num = len(np.asarray(lines.levels))
        _label_lines(ax, lines, ["black"] * num, ["white"] * num)
    return ax


def _title(colors: Scale, label: str) -> str:
    return f"{label} (log-spaced levels)" if colors.kind == "log" else colors.text(label) if colors.empty else label


def _levels(colors: Scale, levels: int | Sequence[float]) -> np.ndarray:
    if isinstance(levels, int | np.integer):
        return colors.levels(int(levels)) if levels else np.empty(0)
    return np.unique(np.asarray(levels, dtype=np.float64))


def _line_colors(levels: np.ndarray, colors: Scale, cmap: Any) -> Any:
    """The colour of each contour line: that of a heat map there, or ink where the style draws by hand."""
    return (
        "black"
        if _style.inks().by_hand and cmap is None
        else _ground(levels, colors, colormaps.get_cmap(cmap or colors.cmap))
    )


def _ground(levels: np.ndarray, colors: Scale, cmap: Any) -> list[Any]:
    """The colour that a heat map has at each level."""
    return [cmap(float(colors.norm(level))) for level in levels]


def overlay_contours(
    landscape: Landscape, maps: Mapping[Axes, tuple[Field, Scale]], levels: int | Sequence[float]
) -> None:
    """Labelled lines on heat maps of one figure, dark on their light parts and light on their dark ones."""
    check_extended(landscape.grid, "contours")
    drawn = []
    for ax, (field, colors) in maps.items():
        chosen = _inside(_levels(colors, levels), field)
        ground = _ground(chosen, colors, next(c for c in ax.collections if isinstance(c, QuadMesh)).get_cmap())
        ink = [_style.edge_color(color) for color in ground]
        lines = _draw_lines(ax, landscape.grid, field, chosen, {"colors": ink, "alpha": 0.7})
        if lines is not None:
            drawn.append((ax, lines, ink, ground))
    if drawn:
        _style.settle(*maps)
    for each in drawn:
        _label_lines(*each)


def _inside(levels: np.ndarray, field: Field) -> np.ndarray:
    """The levels, if any of them crosses the values: matplotlib warns of levels that do not."""
    low, high = data_bounds(field.measured)
    return levels if field.measured.size and np.any((levels > low) & (levels < high)) else levels[:0]


def _draw_lines(
    ax: Axes, grid: Grid, field: Field, levels: np.ndarray, options: Mapping[str, Any]
) -> ContourSet | None:
    """Contour lines, or None when there is nothing to draw one through."""
    if not len(levels):
        return None
    x, y = (axis.values for axis in grid.axes)
    look: dict[str, Any] = {"linewidths": LINE_WIDTH, **options}
    return ax.contour(x, y, field.masked.T.clip(-LARGEST, LARGEST), levels=levels, **look)


def _label_lines(ax: Axes, lines: ContourSet, ink: Sequence[str], ground: Sequence[Any]) -> None:
    """Write the levels on their lines, where there is room, with a halo in the colour of the ground.

    matplotlib keeps the labels of one line apart but not those of neighbouring lines. Where labels go depends on
    the size of the axes, so the layout is made before.
    """
    fmt = level_texts([float(level) for level in lines.levels])
    texts = ax.clabel(lines, fmt=fmt, inline=False, colors=list(ink), fontsize=0.78 * _style.font_size("xtick"))
    halo = {fmt[level]: _style.outline(color, 2.2) for level, color in zip(fmt, ground)}
    for text in texts:
        text.set(path_effects=halo[text.get_text()], alpha=1.0)
    thin_labels(ax)


def thin_labels(ax: Axes) -> None:
    """Remove the contour labels that cover another one, a line or a marker, or that stick out of the axes."""
    taken: list[Bbox] = []
    for lines in (c for c in ax.collections if isinstance(c, ContourSet)):
        for text in list(lines.labelTexts):
            box = text.get_window_extent().padded(LABEL_MARGIN)
            if _is_inside(box, ax.bbox) and not any(box.overlaps(other) for other in taken) and _is_free(ax, box):
                taken.append(box)
            else:
                text.remove()
                lines.labelTexts.remove(text)


def _is_inside(box: Bbox, outer: Bbox) -> bool:
    return box.x0 >= outer.x0 and box.x1 <= outer.x1 and box.y0 >= outer.y0 and box.y1 <= outer.y1


def _is_free(ax: Axes, box: Bbox) -> bool:
    """Whether no line and no marker of the axes runs through the box, in pixels."""
    for line in ax.lines:
        path = line.get_path().transformed(line.get_transform())
        points = np.asarray(path.vertices)
        half = 0.5 * line.get_markersize() * _style.root_figure(ax).dpi / 72
        if len(points) == 1 and box.padded(half).contains(*points[0]):
            return False
        if len(points) > 1 and path.intersects_bbox(box, filled=False):
            return False
    return True
