"""Moving pictures: a plane at one coordinate after another, in one colour scale, and the files that hold them."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.animation import Animation, FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.axes import Axes

from landscape.checks import check_count
from landscape.grid import Axis, Landscape
from landscape.plotting import _style
from landscape.plotting._checks import check_arguments, check_numbers, check_positive, kind_of
from landscape.plotting._field import check_ndim, field_of, scale_of
from landscape.plotting._path import Entry, paths_of
from landscape.plotting._plane import draw_map, overlay_contours
from landscape.plotting._scale import number

DPI = 110  # of the files


def animate(
    landscape: Landscape,
    name: str,
    *,
    axis: str | None = None,
    paths: Any = None,
    scale: str = "auto",
    vmin: float | None = None,
    vmax: float | None = None,
    robust: bool = False,
    center: float | str | None = "auto",
    cmap: Any = None,
    contours: bool | int | Sequence[float] = True,
    aspect: str | float = "auto",
    interval: float = 120.0,
    hold: int = 10,
    style: str | None = None,
) -> FuncAnimation:
    """One output over two axes, at one coordinate of a third after another: the landscape over time.

    All frames have one colour scale and one set of contour levels. Write it with `save_animation`, or show it in a
    notebook with `IPython.display.HTML(animation.to_jshtml())`, which has a slider.

    Args:
        landscape: a landscape with three axes.
        name: the output to draw, one real number a point.
        axis: the axis that is played; the last one when None.
        paths: as in `trajectory`, with an optional entry `step`, the coordinate on the played axis of each point,
            increasing: a frame shows the points up to its own coordinate, and a dot at the last of them. Without
            `step`, there is one point for each frame. `landscape.meta["paths"]` where it is there, when None.
        scale: of the colours, as in `heatmap`; this and what follows are for all frames.
        vmin: lower end of the colours.
        vmax: upper end of the colours.
        robust: end the colours at the 2nd and 98th percentile.
        center: value of the middle colour.
        cmap: colour map.
        contours: whether to draw contour lines; a number of levels, or the levels.
        aspect: of the axes.
        interval: milliseconds between two frames.
        hold: how many times the last frame is shown again.
        style: `"paper"` or `"doodle"`, for this picture.

    Raises:
        KeyError: there is no such output.
        ValueError: another number of axes, no such axis, a path of another shape, an empty colour scale.
    """
    given: dict[str, Any] = {
        "landscape": landscape,
        "name": name,
        "scale": scale,
        "vmin": vmin,
        "vmax": vmax,
        "robust": robust,
    }
    given |= {"center": center, "cmap": cmap, "contours": contours, "aspect": aspect, "style": style}
    check_arguments("animate", given)
    check_positive("animate: interval", interval)
    check_count("animate: hold", hold, 0)
    check_ndim(landscape, "animate", 3)
    played = _axis(landscape, axis)
    slices = [landscape.slice(**{played.name: i}) for i in range(len(played))]
    fields = [field_of(part, name, "animate", 2) for part in slices]
    colors = scale_of(fields, scale, vmin=vmin, vmax=vmax, robust=robust, center=center)
    entries = {label: _timed(label, entry, played) for label, entry in _entries(slices[0], paths).items()}
    levels = 10 if contours is True else contours
    dressed = contextlib.nullcontext if style is None else (lambda: _style.style(style))
    with dressed():
        ax = _style.new_axes()

    def draw(i: int) -> list[Any]:
        with dressed():
            ax.clear()
            draw_map(ax, slices[i], fields[i], colors, fields[i].label, False, aspect, {"cmap": cmap})
            if levels is not False:
                overlay_contours(slices[i], {ax: (fields[i], colors)}, levels)
            _draw_trails(ax, entries, float(played.values[i]))
            ax.set_title(f"{played.text} {number(played.values[i], 6)}")
        return []

    draw(0)
    frames = [*range(len(played)), *[len(played) - 1] * hold]
    return FuncAnimation(ax.figure, draw, frames=frames, interval=interval)  # ty: ignore[invalid-argument-type]


def _axis(landscape: Landscape, name: str | None) -> Axis:
    axes = {axis.name: axis for axis in landscape.grid.axes}
    if name is None:
        return landscape.grid.axes[-1]
    if not isinstance(name, str) or name not in axes:
        raise ValueError(f"animate: axis must be one of {', '.join(axes)}, got {name!r}")
    return axes[name]


def _entries(landscape: Landscape, paths: Any) -> Mapping[str, Any]:
    """Paths with their steps beside them."""
    if paths is None and not landscape.meta.get("paths"):
        return {}
    given = landscape.meta["paths"] if paths is None else paths
    checked = paths_of(landscape, given)
    steps = {label: path.get("step") for label, path in given.items() if isinstance(path, Mapping)} if isinstance(
        given, Mapping) else {}  # fmt: skip
    return {label: (entry, steps.get(label)) for label, entry in checked.items()}


def _timed(label: str, entry: tuple[Entry, Any], played: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of a path and the coordinate on the played axis of each."""
    coords, step = entry[0]["coords"], entry[1]
    when = np.asarray(played.values) if step is None else check_numbers(f"path {label!r}: step", step, 1)
    if len(when) != len(coords) or np.any(np.diff(when) < 0):
        raise ValueError(
            f"path {label!r}: step must be {len(coords)} numbers that do not decrease, one for each point, got "
            f"{kind_of(step) if step is not None else f'none, and {len(when)} frames'}"
        )
    return coords, when


def _draw_trails(ax: Axes, entries: Mapping[str, tuple[np.ndarray, np.ndarray]], now: float) -> None:
    colors = _style.inks().paths
    limits = ax.get_xlim(), ax.get_ylim()
    for i, (label, (coords, when)) in enumerate(entries.items()):
        walked = coords[: int(np.searchsorted(when, now, side="right"))]
        color = colors[i % len(colors)]
        edge = _style.edge_color(color)
        (line,) = ax.plot(*walked.T, color=color, linewidth=1.4, path_effects=_style.outline(edge, 2.7), zorder=3)
        look: dict[str, Any] = {"color": color, "markeredgecolor": edge, "markeredgewidth": 0.8, "zorder": 5}
        _style.plain(line, *ax.plot(*walked[-1:].T, "o", markersize=6, label=label, **look))
    ax.set(xlim=limits[0], ylim=limits[1])
    _style.legend_below(ax)


def save_animation(
    animation: Animation, path: str | os.PathLike[str], *, formats: Sequence[str] | None = None, fps: float = 10.0
) -> list[Path]:
    """Write a moving picture as GIF, and as MP4 where ffmpeg is installed.

    Args:
        animation: what `animate` returns, or another animation of matplotlib.
        path: where to, without suffix; missing directories are made.
        formats: which files to write, `"gif"`, `"mp4"`; when None the GIF, and the MP4 where ffmpeg is found.
        fps: frames a second.

    Returns:
        The paths written. Each appears whole or not at all.

    Raises:
        TypeError: no animation, or no path.
        ValueError: another format; `"mp4"` without ffmpeg.
        OSError: the disk refuses.
    """
    if not isinstance(animation, Animation):
        raise TypeError(
            f"save_animation: animation must be one of matplotlib, as animate returns, got {kind_of(animation)}"
        )
    if not isinstance(path, str | os.PathLike) or not Path(path).name:
        raise TypeError(f"save_animation: path must be the path of a file without its suffix, got {kind_of(path)}")
    check_positive("save_animation: fps", fps)
    writers: dict[str, Any] = {"gif": PillowWriter, "mp4": FFMpegWriter}
    usable = [suffix for suffix, writer in writers.items() if writer.isAvailable()]
    chosen = usable if formats is None else list(formats)
    if unusable := [suffix for suffix in chosen if suffix not in usable]:
        why = "needs ffmpeg on the search path" if unusable[0] in writers else f"is not among {', '.join(writers)}"
        raise ValueError(f"save_animation: the format {unusable[0]!r} {why}")
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in chosen]
    with matplotlib.rc_context({"savefig.bbox": "standard"}), _style.whole_files(paths) as partial:
        for suffix, file in zip(chosen, partial):
            animation.save(file, writer=writers[suffix](fps=fps), dpi=DPI)
    return paths
