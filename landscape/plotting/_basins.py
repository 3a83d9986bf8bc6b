"""Basin maps: which minimum each start reaches, and where two maps disagree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from landscape.grid import Grid, Landscape
from landscape.plotting import _style
from landscape.plotting._field import Field, cell_edges, explain_reserved, field_of, flat_axes, frame
from landscape.plotting._labels import explain_labels, label_field, label_hatch, label_rgb, marks_of, percent
from landscape.plotting._plane import draw_colorbar
from landscape.plotting._scale import Scale, resolve

DEPTH = 0.5  # how much darker than its label the last point to converge is
SHADES = LinearSegmentedColormap.from_list("shades", ["1.0", f"{1 - DEPTH}"])
PALE = 0.75  # share of white where a verdict stays
MARKERS: dict[str, dict[str, Any]] = {
    "minima": {"marker": "*", "label": "minimum"},
    "saddles": {"marker": "X", "label": "saddle", "markersize": 6.0},
    "maxima": {"marker": "^", "label": "maximum", "markersize": 6.0},
}


@_style.wearable
def basins(
    landscape: Landscape,
    name: str = "label",
    *,
    ax: Axes | None = None,
    shade: str | None = "auto",
    points: Any = None,
    legend: bool = True,
    colorbar: bool = True,
    label: str | None = None,
    aspect: str | float = "auto",
    **options: Any,
) -> Axes:
    """Which minimum each point reaches: one colour a minimum, darker where the way there was longer.

    Starts that did not converge, starts that diverged and points that were not computed have colours of their own.
    The legend gives the share of each among the cells with a label. Labels that a sweep with a tolerance predicted
    are drawn without shade.

    Args:
        landscape: a landscape with two axes.
        name: the output with the labels: integers, -1 not converged, -2 diverged, from 0 the index of the minimum.
        ax: flat axes to draw on; a new figure when None.
        shade: the output that darkens the colours, between its 2nd and 98th percentile, on a log scale where it is
            not negative; drawn where it was measured. None is no shade; `"auto"` is `steps`, where the landscape has
            them at most of its points and they are not all alike, and none in a style that draws by hand.
        points: critical points to mark: `{"minima": (n, 2), "saddles": (n, 2), "maxima": (n, 2)}` in coordinates of
            the grid, or anything with `indices` and `critical_points` or `points`: a function of `landscape.problems`,
            a census of `landscape.minima`. Those outside the picture are left out.
        legend: whether to draw the legend.
        colorbar: whether to draw the bar that explains the shade.
        label: text for that bar; the name of the shade in words when None.
        aspect: as in `heatmap`.
        options: passed to `Axes.pcolormesh`.

    Raises:
        KeyError: there is no such output.
        TypeError: the labels are not integers, or the points are of another kind.
        ValueError: another number of axes, several values a point, 3-D axes, or points of another shape.
    """
    field = label_field(landscape, name, "basins")
    if shade == "auto" and _style.inks().by_hand:
        shade = None  # greys tell the minima apart
    if shade == "auto":  # what a sweep at a tolerance computed is too sparse to be read as a shade
        dense = "steps" in landscape and landscape.computed.mean() > 0.5
        shade = "steps" if dense and np.ptp(np.percentile(landscape["steps"], [2, 98])) > 0 else None
    shading = _shading(landscape, field, shade)
    marks = {} if points is None else marks_of(points)
    ax = flat_axes(ax, "basins")
    _draw(ax, landscape.grid, field, _shaded(field, shading), options)
    labels = field.measured.astype(np.int64)
    explain_labels(ax, labels, max(1, len(labels)))
    explain_reserved(ax, field)
    if shading is not None:
        depth, colors = shading
        _explain_unshaded(ax, field, depth)
        if colorbar:
            bar = ScalarMappable(colors.norm, SHADES)
            draw_colorbar(ax, bar, colors, label or str(shade).replace("_", " "))
    frame(ax, landscape.grid, aspect)
    _draw_marks(ax, marks)
    if legend:
        _style.legend_below(ax)
    return ax


def _shading(landscape: Landscape, field: Field, shade: str | None) -> tuple[Field, Scale] | None:
    """What darkens the colours, where it was measured and a minimum was reached, and its scale."""
    if shade is None:
        return None
    depth = field_of(landscape, shade, "basins", 2)
    reached = depth.shown & field.shown & (field.values >= 0)
    depth = Field(depth.name, depth.values, reached, ~reached)
    kind = "log" if depth.measured.size and depth.measured.max() > 0 and depth.measured.min() >= 0 else "linear"
    # A few points that start in a minimum, or take very long, would leave the others one shade.
    return depth, resolve(depth.measured, kind, robust=True)


def _shaded(field: Field, shading: tuple[Field, Scale] | None) -> np.ndarray:
    """Colours of the cells, shape `(*grid.shape, 3)`; any colour where there is no label."""
    rgb = label_rgb(np.where(field.shown, field.values, 0).astype(np.int64))
    if shading is None:
        return rgb
    depth, colors = shading
    dark = np.clip(np.ma.filled(colors.norm(depth.masked), 0.0), 0, 1)
    return rgb * (1 - DEPTH * dark[..., None])


def _draw(ax: Axes, grid: Grid, field: Field, rgb: np.ndarray, options: dict[str, Any]) -> None:
    """The cells; those without a label in the reserved colour."""
    rgb = np.where(field.shown[..., None], rgb, to_rgb(_style.NOT_COMPUTED))
    edges = [cell_edges(axis.values) for axis in grid.axes]
    look: dict[str, Any] = {"rasterized": True, **options}
    _style.plain(ax.pcolormesh(*edges, np.swapaxes(rgb, 0, 1), **look))
    if _style.inks().by_hand and min(grid.shape) > 1:
        _hatch(ax, grid, field)


def _hatch(ax: Axes, grid: Grid, field: Field) -> None:
    """Patterns over the labels that have one, and a line around every label."""
    axes = [cell_edges(axis.values)[[0, -1]] for axis in grid.axes]
    x, y = (np.concatenate([[low], axis.values, [high]]) for (low, high), axis in zip(axes, grid.axes))
    for label in np.unique(field.measured).astype(int):
        inside = np.pad((field.values == label) & field.shown, 1, mode="edge").T.astype(float)
        if label_hatch(label):
            area = ax.contourf(x, y, inside, [0.5, 1.5], colors="none", hatches=[label_hatch(label)])
            area.set(edgecolor="0.3", rasterized=True)
            _style.plain(area)
        _style.plain(ax.contour(x, y, inside, [0.5], colors="black", linewidths=0.9))


def _explain_unshaded(ax: Axes, field: Field, depth: Field) -> None:
    plain = np.sum(field.shown & (field.values >= 0) & ~depth.shown)
    if plain:
        ax.plot([], [], linestyle="none", label=f"without shade: predicted ({plain})")


def _draw_marks(ax: Axes, marks: dict[str, np.ndarray]) -> None:
    """Stars and crosses, inside the picture only."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for kind, coords in marks.items():
        x, y = coords.T
        inside = (x >= left) & (x <= right) & (y >= low) & (y <= high)
        if inside.any():
            ax.plot(
                x[inside],
                y[inside],
                linestyle="none",
                zorder=6,
                clip_on=False,
                **{**_style.inks().star, **MARKERS[kind]},
            )


@_style.wearable
def verdict_change(
    before: Landscape,
    after: Landscape,
    name: str = "label",
    *,
    names: tuple[str, str] | None = None,
    ax: Axes | None = None,
    legend: bool = True,
    aspect: str | float = "auto",
    **options: Any,
) -> Axes:
    """Where two basin maps of the same starts disagree: in the colour of the second verdict, pale where they agree.

    The labels of both must mean the same minima: pass the same minima to both maps, or tell all endpoints apart in
    one call of `label_basins`.

    Args:
        before: a landscape with two axes.
        after: another one over the same grid.
        name: the output with the labels, in both.
        names: what the two maps are called in the title; `meta["optimizer"]` of each when None.
        ax: flat axes to draw on, whose title stays if they have one; a new figure when None.
        legend: whether to draw the legend.
        aspect: as in `heatmap`.
        options: passed to `Axes.pcolormesh`.

    Raises:
        KeyError: there is no such output.
        TypeError: the labels are not integers.
        ValueError: different grids, another number of axes, several values a point, or 3-D axes.
    """
    first, second = (label_field(landscape, name, "verdict_change") for landscape in (before, after))
    _check_same_grid(before.grid, after.grid)
    called = names or [str(m.meta.get("optimizer", k)) for m, k in ((before, "first map"), (after, "second map"))]
    ax = flat_axes(ax, "verdict_change")
    both = first.shown & second.shown
    changed = both & (first.values != second.values)
    known = Field(name, second.values, both, ~both)
    rgb = _shaded(known, None)
    pale = rgb + PALE * (1 - rgb)
    _draw(ax, after.grid, known, np.where(changed[..., None], rgb, pale), options)
    num = max(1, int(both.sum()))
    explain_labels(ax, second.values[changed].astype(np.int64), num, "now ")
    same = (both & ~changed).sum() / num
    ax.plot([], [], linestyle="none", label=f"pale: no change, {percent(same)}")
    explain_reserved(ax, known)
    frame(ax, after.grid, aspect)
    ax.set_title(ax.get_title() or _title(called, percent(changed.sum() / num)))
    if legend:
        _style.legend_below(ax)
    return ax


def _title(names: Sequence[str], share: str) -> str:
    """What changed and how much, on two lines where the names are long."""
    gap = " " if sum(len(name) for name in names) < _style.WIDE_ENTRY else "\n"
    return f"{names[0]} →{gap}{names[1]}: {share} change"


def _check_same_grid(a: Grid, b: Grid) -> None:
    for x, y in zip(a.axes, b.axes):
        if len(x) != len(y) or not np.array_equal(x.values, y.values):
            raise ValueError(
                f"both maps must have one grid, but axis {x.name!r} has {len(x)} points in "
                f"[{x.values[0]:.4g}, {x.values[-1]:.4g}] and {y.name!r} {len(y)} in "
                f"[{y.values[0]:.4g}, {y.values[-1]:.4g}]: sweep both over the same Grid"
            )
