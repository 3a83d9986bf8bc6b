"""Paths over a plane."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from landscape.grid import Grid, Landscape
from landscape.plotting import _style
from landscape.plotting._checks import check_numbers, check_text
from landscape.plotting._field import cell_edges, check_ndim, flat_axes, frame
from landscape.plotting._plane import thin_labels
from landscape.plotting._scale import number
from landscape.plotting._text import as_name

FAR = 1e6  # widths of the picture
Entry = dict[str, np.ndarray]


@_style.wearable
def trajectory(
    landscape: Landscape,
    paths: Any = None,
    *,
    ax: Axes | None = None,
    aspect: str | float = "auto",
    describe: bool = True,
    **options: Any,
) -> Axes:
    """Paths over the plane of a landscape, from a circle to a cross.

    Draw it on a view of the plane: `trajectory(landscape, ax=heatmap(landscape, "train_loss"))`. The axes keep the
    range of the grid. The legend gives the loss at both ends, how many points lie outside the picture, and how far
    the path strays from the plane.

    Args:
        landscape: a landscape with two axes.
        paths: `{label: {"coords": (T, 2), "loss": (T,), "residual": (T,)}}` with `loss` (units of the loss) and
            `residual` (Euclidean distance from the plane in parameter space) optional; or `{label: coords}`, or
            coordinates alone. The label of one path of `landscape.meta["paths"]`, or None for all of them.
        ax: flat axes to draw on; a new figure when None.
        aspect: as in `heatmap`, for a new figure. Axes that are given keep theirs.
        describe: whether the paths get entries in the legend.
        options: passed to `Axes.plot` for every path.

    Raises:
        KeyError: no stored path has this label.
        ValueError: no paths, arrays of another shape, another number of axes, or 3-D axes.
    """
    check_ndim(landscape, "trajectory", 2)
    entries = paths_of(landscape, paths)
    aspect = aspect if ax is None else ax.get_aspect()
    ax = flat_axes(ax, "trajectory")
    colors = _style.inks().paths
    frame(ax, landscape.grid, aspect)
    for i, (label, entry) in enumerate(entries.items()):
        color = colors[i % len(colors)]
        text = _description(label, entry, landscape.grid) if describe else None
        _draw_path(ax, entry["coords"], {"color": color, **options, "label": text})
    _style.legend_below(ax)
    thin_labels(ax)
    return ax


def paths_of(landscape: Landscape, paths: Any) -> dict[str, Entry]:
    """The paths asked for as `{label: {"coords": .., "loss": .., "residual": ..}}`, checked."""
    if paths is None or isinstance(paths, str):
        paths = _stored(landscape.meta.get("paths") or {}, paths)
    if not isinstance(paths, Mapping):
        paths = {"path": paths}
    for label in paths:
        check_text("the label of a path", label)
    if not paths:
        raise ValueError("there are no paths to draw: give {label: {'coords': array of shape (T, 2)}}")
    return {label: _entry(label, path) for label, path in paths.items()}


def _stored(stored: Mapping[str, Any], label: str | None) -> Mapping[str, Any]:
    if not stored:
        raise ValueError(
            "this landscape holds no paths: give {label: {'coords': array of shape (T, 2)}}, or store them with "
            "landscape.with_meta(paths=...)"
        )
    if label is not None and label not in stored:
        raise KeyError(f"no path {label!r} in this landscape; it has {', '.join(stored)}")
    return stored if label is None else {label: stored[label]}


def _entry(label: str, path: Any) -> Entry:
    path = path if isinstance(path, Mapping) else {"coords": path}
    entry = {
        key: check_numbers(f"path {label!r}: {key}", path[key]).astype(np.float64)
        for key in ("coords", "loss", "residual")
        if path.get(key) is not None
    }
    if "coords" not in entry:
        raise ValueError(f"path {label!r} lacks 'coords', it has {', '.join(map(str, path)) or 'nothing'}")
    num = len(entry["coords"]) if entry["coords"].ndim else 0
    wanted = {"coords": (num, 2), "loss": (num,), "residual": (num,)}
    for key, shape in wanted.items():
        if key in entry and (entry[key].shape != shape or not num):
            raise ValueError(f"path {label!r}: {key} must have shape {shape}, got {entry[key].shape}")
    return entry


def _draw_path(ax: Axes, coords: np.ndarray, options: Mapping[str, Any]) -> None:
    # matplotlib cannot draw to a point that is very far outside; so far out, direction is all that is seen of it
    middle, span = (np.array([f(axis) for axis in (ax.get_xlim(), ax.get_ylim())]) for f in (np.mean, np.ptp))
    near = np.clip(coords, middle - FAR * span, middle + FAR * span)
    coords = np.where(np.isfinite(coords), near, np.nan)
    color, width = options["color"], options.get("linewidth", 1.3)
    edge = _style.edge_color(color)
    effects = _style.outline(edge, width + 1.3)
    line: dict[str, Any] = {"linewidth": width, "path_effects": effects, "zorder": 3, "solid_joinstyle": "round"}
    (drawn,) = ax.plot(*coords.T, **{**line, **options})
    drawn.set_sketch_params(None)  # a path is where it was measured, in every style
    ends: dict[str, Any] = {"color": color, "markeredgecolor": edge, "markeredgewidth": 0.8, "zorder": 5}
    _style.plain(*ax.plot(*coords[0], "o", markersize=5.5, **ends))
    _style.plain(*ax.plot(*coords[-1], "X", markersize=6.5, **ends))


def _description(label: str, entry: Entry, grid: Grid) -> str:
    """The legend entry of a path: its name, and what the picture does not show."""
    facts = []
    if "loss" in entry:
        facts.append(f"loss {number(entry['loss'][0])} → {number(entry['loss'][-1])}")
    if "residual" in entry:
        facts.append(f"up to {number(_largest(entry['residual']), 2)} off the plane")
    outside = _num_outside(entry["coords"], grid)
    if outside:
        facts.append(f"{outside} point{'s' * (outside > 1)} outside")
    if not facts:
        return label
    label = as_name(label)
    gap = ", " if len(label) + sum(map(len, facts)) < _style.WIDE_ENTRY else ",\n"
    return f"{label}: {facts[0]}" + (gap + ", ".join(facts[1:]) if facts[1:] else "")


def _largest(values: np.ndarray) -> float:
    """The largest of the values that are numbers."""
    return float(np.max(values[~np.isnan(values)], initial=-np.inf)) if np.any(~np.isnan(values)) else np.nan


def _num_outside(coords: np.ndarray, grid: Grid) -> int:
    """How many points lie outside the picture, those that are not finite among them."""
    low, high = np.transpose([cell_edges(axis.values)[[0, -1]] for axis in grid.axes])
    return int(np.sum(~np.all((coords >= low) & (coords <= high), axis=1)))
