"""A surface in three dimensions."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LightSource, Normalize
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from landscape.grid import Axis, Grid, Landscape
from landscape.plotting import _style
from landscape.plotting._field import (
    Field,
    cell_edges,
    check_extended,
    explain_reserved,
    field_of,
    is_log_spaced,
    scale_of,
)
from landscape.plotting._scale import Scale, check_scale, linear_levels, number
from landscape.plotting._text import as_name, tidy_axes

BOX = (1.0, 1.0, 0.72)  # lengths of the box along x, y and z
FLOOR_GAP = 0.3  # distance of the floor below the lowest point, in heights of the surface
ZOOM = 0.9  # leaves room for the labels around the box
LABEL_PAD, TICK_PAD = -3.0, -1.5  # points; the distances of matplotlib are meant for larger figures
LIGHT = LightSource(azdeg=225, altdeg=50)
QUADS, MOST_QUADS = 160, 200  # about how many quadrilaterals to draw along each axis, and at most
SHADOW = 0.35  # how much darker a slope turned from the light is


@_style.wearable
def surface3d(
    landscape: Landscape,
    name: str,
    *,
    ax: Axes | None = None,
    scale: str = "auto",
    zmin: float | None = None,
    zmax: float | None = None,
    cmap: Any = None,
    floor: bool | int = True,
    label: str | None = None,
    elev: float = 32.0,
    azim: float = -55.0,
    **options: Any,
) -> Axes:
    """One output over two axes as a lit surface with contour lines on the floor, as in Li et al. (2018), figure 1.

    On a log scale the height is the decimal logarithm, which the z axis says; so is the place along an axis that is
    log-spaced. Points without a finite value leave
    holes; the legend counts them.

    Args:
        landscape: a landscape with two axes of at least two points.
        name: the output to draw, one real number a point.
        ax: axes made with `projection="3d"`; a new figure when None.
        scale: `"linear"`, `"log"` or `"auto"`: log for positive values over more than 1.5 decades.
        zmin: lowest value to draw, in units of the output; the surface is cut there.
        zmax: highest value to draw; the surface is cut there.
        cmap: colour map; when None that of the style, in print `viridis`, or `RdBu_r` for values that change sign.
        floor: whether to draw contour lines on the floor; a number of levels.
        label: text for the z axis; the name in words when None.
        elev: elevation of the eye in degrees.
        azim: azimuth of the eye in degrees.
        options: passed to `Axes3D.plot_surface`.

    Raises:
        KeyError: there is no such output.
        TypeError: the output is not real.
        ValueError: another number of axes, several values a point, one point along an axis, flat axes, or an
            empty range.
    """
    field = field_of(landscape, name, "surface3d", 2)
    check_extended(landscape.grid, "surface3d")
    check_scale(scale)
    colors = scale_of([field], scale, vmin=zmin, vmax=zmax)
    ax = _solid_axes(ax)
    grid = _as_drawn(landscape.grid)
    fine = _fine(grid)
    heights, (low, high) = _as_heights(field.masked, colors), _ends(colors)
    z = _cut(_interpolated(heights, grid, fine), low, high)
    bottom = low - FLOOR_GAP * (high - low) if floor else low
    if z.count():
        look = {"cmap": colormaps.get_cmap(cmap or colors.cmap), "norm": _height_norm(colors)}
        light = _interpolated(_light(grid, heights, low, high), grid, fine)
        _draw_surface(ax, fine, z, light, look, options)
        levels = colors.levels(10 if floor is True else floor) if floor else np.empty(0)
        _draw_floor(ax, fine, z, _as_heights(levels, colors), bottom, look)
    _draw_holes(ax, grid, field, bottom)
    _explain(ax, field, colors)
    _dress(ax, grid, (bottom, low, high), _z_label(colors, label or field.label))
    ax.view_init(elev=elev, azim=azim)
    return ax


def _solid_axes(ax: Axes | None) -> Any:
    if ax is None:
        return _style.new_solid_axes()
    if ax.name != "3d":
        raise ValueError("surface3d draws on 3-D axes, got flat ones: make them with projection='3d', or leave out ax")
    return ax


def _as_drawn(grid: Grid) -> Grid:
    """The grid in decimal logarithms along the axes that are log-spaced: matplotlib has no log scale in 3-D."""
    axes = (
        Axis(axis.name, np.log10(axis.values), rf"$\log_{{10}}$ {as_name(axis.text)}")
        if is_log_spaced(axis.values)
        else axis
        for axis in grid.axes
    )
    return Grid(tuple(axes))


def _as_heights(values: Any, colors: Scale) -> Any:
    """Values in units of the z axis."""
    return np.ma.log10(values) if colors.kind == "log" else values


def _ends(colors: Scale) -> tuple[float, float]:
    """Lowest and highest height."""
    low, high = _as_heights(np.array([colors.low, colors.high]), colors)
    return float(low), float(high)


def _height_norm(colors: Scale) -> Normalize:
    return Normalize(*_ends(colors)) if colors.kind == "log" else colors.norm


def _fine(grid: Grid) -> Grid:
    """The grid refined to about `QUADS` points along each axis, so that a cut follows its height and not the cells.

    Of a grid with more than `MOST_QUADS` points along an axis, so many of them.
    """
    return Grid(tuple(_fine_axis(axis) for axis in grid.axes))


def _fine_axis(axis: Axis) -> Axis:
    if len(axis) > MOST_QUADS:
        kept = np.linspace(0, len(axis) - 1, MOST_QUADS).round().astype(int)
        return Axis(axis.name, axis.values[kept], axis.label)
    return Grid((axis,)).refined(max(1, QUADS // len(axis))).axes[0]


def _interpolated(values: np.ndarray, grid: Grid, fine: Grid) -> np.ma.MaskedArray:
    """Linear interpolation, which draws the same surface. A cell with a corner that has no value stays empty."""
    z = np.ma.filled(values, np.nan)
    for k, (new, old) in enumerate(zip(fine.axes, grid.axes)):
        z = np.apply_along_axis(lambda v, x, known: np.interp(x, known, v), k, z, new.values, old.values)
    return np.ma.masked_invalid(z)


def _cut(heights: np.ma.MaskedArray, low: float, high: float) -> np.ma.MaskedArray:
    """Mask heights outside the limits, but set those next to the cut on it, so that it has a level rim."""
    inside = (heights.filled(np.nan) >= low) & (heights.filled(np.nan) <= high)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(inside, 1), (3, 3)).any(axis=(2, 3))
    return np.ma.masked_where(~near, np.ma.clip(heights, low, high))


def _mesh(grid: Grid) -> list[np.ndarray]:
    return list(np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij"))


def _draw_surface(ax: Any, grid: Grid, z: np.ma.MaskedArray, light: np.ndarray, look: Any, options: Any) -> None:
    """The surface in the colours of its heights, under a light."""
    # plot_surface leaves corners without a height out of a quadrilateral, so they must not colour it either.
    colors = look["cmap"](look["norm"](_quads(z).filled(z.min())))[..., :3] * _quads(light).data[..., None]
    how = {"rcount": MOST_QUADS, "ccount": MOST_QUADS, "linewidth": 0, "antialiased": False, "rasterized": True}
    how |= {"zorder": 3, "shade": False}
    if options.keys() & {"rcount", "ccount", "rstride", "cstride", "color", "facecolors"}:
        surface = ax.plot_surface(*_mesh(grid), z.filled(np.nan), **{**how, "facecolors": colors, **options})
    else:  # colours afterwards and as one array: plot_surface looks at them one by one, which takes a second
        surface = ax.plot_surface(*_mesh(grid), z.filled(np.nan), color="black", **{**how, **options})
        surface.set_facecolor(colors[_has_corner(z)])
    _style.plain(surface)


def _has_corner(z: np.ma.MaskedArray) -> np.ndarray:
    """Which quadrilaterals have a corner with a height: the others are not drawn."""
    known = ~np.ma.getmaskarray(z)
    return known[:-1, :-1] | known[1:, :-1] | known[:-1, 1:] | known[1:, 1:]


def _light(grid: Grid, heights: np.ma.MaskedArray, low: float, high: float) -> np.ndarray:
    """Brightness from `1 - SHADOW` to 1, for slopes as they look in the box rather than in data units."""
    x, y = (side * _unit(axis.values) for side, axis in zip(BOX, grid.axes))
    far = 10 * (high - low)  # beyond it a slope is a wall
    z = BOX[2] / (1 + FLOOR_GAP) * (heights.filled(high).clip(low - far, high + far) - low) / (high - low)
    # A LightSource takes rows as y and columns as x, and coordinates as well as steps.
    with np.errstate(invalid="ignore", divide="ignore"):  # points that are too close to have a slope
        return 1 - SHADOW * (1 - np.nan_to_num(LIGHT.hillshade(z.T, dx=x, dy=y).T))


def _quads(corners: np.ndarray) -> np.ma.MaskedArray:
    """Mean over the corners that have a value, for each quadrilateral: shape `(n - 1, m - 1)`."""
    return np.ma.mean([corners[:-1, :-1], corners[1:, :-1], corners[:-1, 1:], corners[1:, 1:]], axis=0)


def _unit(values: np.ndarray) -> np.ndarray:
    """Increasing coordinates mapped to [0, 1]."""
    return (values - values[0]) / (values[-1] - values[0])


def _draw_floor(ax: Any, grid: Grid, z: np.ma.MaskedArray, levels: np.ndarray, bottom: float, look: Any) -> None:
    """Contour lines below the surface."""
    levels = levels[(levels > z.min()) & (levels < z.max())]
    if len(levels):
        color: Any = {"colors": "0.35"} if _style.inks().by_hand else look
        ax.contour(*_mesh(grid), z, levels=levels, zdir="z", offset=bottom, linewidths=0.8, zorder=2, **color)


def _draw_holes(ax: Any, grid: Grid, field: Field, bottom: float) -> None:
    """The cells without a value, on the floor in their reserved colours."""
    x, y = (np.clip(cell_edges(axis.values), *axis.values[[0, -1]]) for axis in grid.axes)
    for where, color, _ in field.reserved():
        corners = [
            [(x[i], y[j], bottom), (x[i + 1], y[j], bottom), (x[i + 1], y[j + 1], bottom), (x[i], y[j + 1], bottom)]
            for i, j in np.argwhere(where)
        ]
        ax.add_collection3d(Poly3DCollection(corners, facecolor=color, edgecolor=color, linewidth=0.2, zorder=1))


def _explain(ax: Any, field: Field, colors: Scale) -> None:
    """Count in the legend what has no value and what is cut."""
    explain_reserved(ax, field)
    for count, text in (
        (np.sum(field.measured > colors.high), f"above {number(colors.high)}"),
        (np.sum(field.measured < colors.low), f"below {number(colors.low)}"),
    ):
        if count:
            ax.plot([], [], linestyle="none", label=f"cut {text}:\n{count} points", color="none")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(0.05, 0.95), frameon=False, handlelength=1.0)


def _z_label(colors: Scale, label: str) -> str:
    if colors.empty:
        return colors.text(label)
    return rf"$\log_{{10}}$ {as_name(label)}" if colors.kind == "log" else label


def _dress(ax: Any, grid: Grid, z: tuple[float, float, float], label: str) -> None:
    """Limits, labels, ticks and box. The z axis has ticks beside the surface and none below it."""
    x, y = grid.axes
    bottom, low, high = z
    ax.set(xlim=x.values[[0, -1]], ylim=y.values[[0, -1]], zlim=(bottom, high))
    ax.set(xlabel=x.text, ylabel=y.text, zlabel=label)
    tidy_axes(ax)
    lines = max(label.get_text().count("\n") for label in (ax.xaxis.label, ax.yaxis.label, ax.zaxis.label))
    ax.set_box_aspect(BOX, zoom=ZOOM - 0.1 * min(lines, 4))
    ax.grid(False)
    ax.set_zticks(linear_levels(low, high, 4))
    ax.zaxis.set_rotate_label(False)
    ax.zaxis.label.set_rotation(90)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, prune="both"))
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((0.96, 0.96, 0.96, 1.0))
        axis.labelpad = LABEL_PAD + 0.6 * axis.label.get_text().count("\n") * axis.label.get_fontsize()
        axis.set_tick_params(pad=TICK_PAD)
