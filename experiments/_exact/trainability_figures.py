"""Figures of `trainability.py`: frames side by side, all of them as an animation, the slopes of the box counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import landscape as ls

TITLES = {
    "deep-linear": "deep linear network",
    "single-datapoint": "tanh network, one example",
    "tanh": "tanh network",
    "relu": "ReLU network",
    "minibatch": "tanh network, minibatches",
}
PANELS = 9  # frames in the gallery
BOOTSTRAPS = 1000


def levels(result: Mapping[str, ls.Landscape], name: str) -> list[ls.Landscape]:
    """The landscapes of one configuration, or of its pictures, from the widest frame to the finest."""
    return [landscape for key, landscape in result.items() if key.rpartition("_")[0] == name]


def names(result: Mapping[str, ls.Landscape]) -> list[str]:
    """The configurations."""
    return [name for name in dict.fromkeys(key.rpartition("_")[0] for key in result) if not name.startswith("picture-")]


def dimension(slopes: list[Any], seed: int = 0) -> tuple[float, float]:
    """The median of the slopes of several frames and its standard error, by drawing whole frames with replacement."""
    slopes = [np.asarray(s) for s in slopes if len(s)]
    if not slopes:
        return np.nan, np.nan
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(slopes), size=(BOOTSTRAPS, len(slopes)))
    medians = [np.median(np.concatenate([slopes[i] for i in draw])) for draw in draws]
    return float(np.median(np.concatenate(slopes))), float(np.std(medians))


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Frames of each configuration side by side, all of them as an animation, and the slopes of the box counts."""
    figures: dict[str, Any] = {}
    for name in names(result):
        maps = levels(result, f"picture-{name}")
        figures[name] = _gallery(name, maps)
        if len(maps) > 1:
            figures[f"{name}_zoom"] = _animation(maps)
    figures["dimension"] = _counts(result)
    return figures


def _width(landscape: ls.Landscape) -> float:
    """Decades."""
    return float(np.ptp(landscape.grid.axes[0].values))


def _words(width: float) -> str:
    """A width in decades, for a title."""
    if width >= 0.01:
        return f"{width:.2g} decades wide"
    digits, exponent = f"{width:.1e}".split("e")
    return rf"${digits} \times 10^{{{int(exponent)}}}$ decades wide"


def _gallery(name: str, maps: list[ls.Landscape]) -> Any:
    """Some of the frames, from the widest to the finest, the next one framed in each."""
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    shown = [maps[i] for i in np.unique(np.linspace(0, len(maps) - 1, min(PANELS, len(maps))).round().astype(int))]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(2.9 * columns, 2.9 * rows + 0.5), squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, landscape, inner in zip(grid.flat, shown, [*shown[1:], None]):
        ls.plotting.trainability(landscape, ax=axes, colorbar=False, legend=False)
        axes.set_title(_words(_width(landscape)), loc="left")
        axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
        if inner is not None:
            x, y = (axis.values for axis in inner.grid.axes)
            box = Rectangle((x[0], y[0]), np.ptp(x), np.ptp(y), fill=False, edgecolor="black", linewidth=0.8)
            axes.add_patch(box)
    figure.suptitle(f"{TITLES[name]}: blue trains, red does not; the darker, the slower")
    middles = [float(np.mean(axis.values[[0, -1]])) for axis in shown[-1].grid.axes]
    figure.supxlabel(f"{shown[-1].grid.axes[0].text}, centred on {middles[0]:.12f}", fontsize="medium")
    figure.supylabel(f"{shown[-1].grid.axes[1].text}, centred on {middles[1]:.12f}", fontsize="medium")
    return figure


def _animation(maps: list[ls.Landscape], pictures_per_frame: int = 4) -> Any:
    """A smooth zoom: finer frames fade in on the coarser ones, the limits close in, and the shades change gradually."""
    from matplotlib import pyplot
    from matplotlib.animation import FuncAnimation

    figure, axes = pyplot.subplots(figsize=(4, 4), layout="none")
    axes.set_position((0, 0, 1, 1))
    shades = _shades(maps, axes)
    axes.clear()
    layers = []
    for landscape in maps:
        ls.plotting.trainability(landscape, ax=axes, colorbar=False, legend=False)
        layers.append(axes.collections[-1])
    axes.set_axis_off()
    words = axes.text(0.03, 0.03, "", transform=axes.transAxes, backgroundcolor="white", zorder=9)
    windows = np.array([[(a.values[0], a.values[-1]) for a in landscape.grid.axes] for landscape in maps])
    times = np.linspace(0, len(maps) - 1, pictures_per_frame * (len(maps) - 1) + 1)

    def draw(time: float) -> list[Any]:
        limits, level = _limits(windows, time), min(int(time), len(maps) - 2)
        mixed = np.sin((time - level) * np.pi / 2) ** 2
        for i, layer in enumerate(layers):
            layer.set_visible(level <= i <= level + 2)
            if layer.get_visible():
                layer.set_array((1 - mixed) * shades[i, level] + mixed * shades[i, level + 1])
                layer.set_alpha(time - level if i == level + 2 else 1)
        axes.set(xlim=limits[0], ylim=limits[1])
        words.set_text(_words(np.ptp(limits[0])))
        return []

    return FuncAnimation(figure, draw, frames=[*times, *[times[-1]] * 12], interval=80)


def _shades(maps: list[ls.Landscape], axes: Any) -> dict[tuple[int, int], Any]:
    """The shades of each frame by the ranks of its own values and of the frames about it, keyed `(frame, ranks)`."""
    shades = {}
    for i, landscape in enumerate(maps):
        for j in range(max(0, i - 2), min(i + 2, len(maps))):
            axes.clear()
            reference = maps[j]["value"]
            ls.plotting.trainability(landscape, ax=axes, reference=reference, colorbar=False, legend=False)
            shades[i, j] = axes.collections[0].get_array()
    return shades


def _limits(windows: np.ndarray, time: float) -> np.ndarray:
    """Limits at a time between two frames: the size shrinks by equal ratios, about the point that stays in place."""
    level = min(int(time), len(windows) - 2)
    outer, inner = windows[level], windows[level + 1]
    ratio = np.ptp(inner[0]) / np.ptp(outer[0])
    share = (1 - ratio ** (time - level)) / (1 - ratio)
    return outer + share * (inner - outer)


def _counts(result: Mapping[str, ls.Landscape]) -> Any:
    """Local slopes of every frame against its width, and their median over all frames."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.6, 3.2))
    for color, name in enumerate(names(result)):
        records = [landscape.meta["trainability"] for landscape in levels(result, name)]
        widths = [record["width"] for record in records]
        medians = [np.median(r["slopes"]) if len(r["slopes"]) else np.nan for r in records]
        value, error = dimension([record["slopes"] for record in records])
        label = f"{TITLES[name]}: {value:.2f} ± {error:.2f}"
        axes.plot(widths, medians, "o-", color=f"C{color}", ms=3, label=label)
        for width, record in zip(widths, records):
            axes.plot(np.full(len(record["slopes"]), width), record["slopes"], ".", color=f"C{color}", alpha=0.3, ms=3)
        axes.axhline(value, color=f"C{color}", linestyle=":", linewidth=0.8)
    axes.set(xlabel="width of the frame in decades", ylabel="local slope of the box counts")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure
