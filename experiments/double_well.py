"""Which starts of gradient descent on a double well roll into which minimum, when the steps are long?

f(x) = (x^2 - 1)^2 / 4 has two minima, at -1 and 1, and starts right of 0 should end in the right one. With a learning
rate eta, descent overshoots: far out, the basins become ever thinner stripes up to the start from which it diverges.

Expected (exact, see `landscape.problems.ripples.DoubleWell`), for the positive starts:

- bounded iff x0 < sqrt(1 + 2 / eta);
- the minimum first switches at sqrt(1 + 1 / eta);
- then in intervals that shrink by 5 + 2 eta each time, in the limit.

The switches are found from labels alone: zooms on the start beyond which descent diverges, then bisection.
This experiment has its own problem and takes no --problem. It always computes in float64.

Cost: a few seconds on one CPU core.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main

import landscape as ls
from landscape.problems.ripples import DoubleWell, descend

LEFT, RIDGE, RIGHT, DIVERGED = -1, 0, 1, 2
COLORS = {LEFT: "#e69f00", RIDGE: "#000000", RIGHT: "#0072b2", DIVERGED: "#f2f2f2"}
WORDS = {LEFT: "left minimum", RIDGE: "stays on the ridge", RIGHT: "right minimum", DIVERGED: "diverges"}
MAX_LOSS = 1e8
SURE = 32  # cells: an interval between switches that lies this far from the limit holds many cells
ZOOM = 16
MAX_RATE = DoubleWell.SAME_SIDE_RATE


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    rates: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Learning rates to zoom at, below 1.598."""
    resolution: int = 401
    """Points along each axis of the map of starts and learning rates."""
    extent: float = 4.0
    """The largest start."""
    zooms: int = 7
    """Successive zooms, each 16 times deeper; the first shows all starts."""
    zoom_resolution: int = 1025
    """Starts in each of them."""
    steps: int = 1000
    """Steps of gradient descent."""


SMOKE = Config(rates=(0.5, 1.0), resolution=41, zooms=4, zoom_resolution=1025)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Basins:
    """Point function: the minimum at which descent with rate `coords[0]` from `coords[1]` ends (-1, 1; 2 diverged)."""

    num_steps: int = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The label of one start."""
        x, escape = descend(DoubleWell(), coords[0], coords[1], num_steps=self.num_steps, max_loss=MAX_LOSS)
        return {"label": jnp.where(escape >= 0, DIVERGED, jnp.sign(x)).astype(jnp.int32)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Zoom:
    """Point function: the label of the start at the share `coords[1]` of a window that belongs to the rate."""

    basins: Basins
    rates: jax.Array
    low: jax.Array
    width: jax.Array

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The start and its label."""
        here = jnp.argmin(jnp.abs(self.rates - coords[0]))
        start = self.low[here] + self.width[here] * coords[1]
        return self.basins(jnp.stack([coords[0], start])) | {"start": start}


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """The map of basins over learning rate and start, and zooms on the limit of each rate."""
    _check(config)
    basins = Basins(config.steps)
    with jax.enable_x64(True):
        axes = (
            ls.Axis.linspace("rate", 0.1, 1.5, config.resolution, "learning rate η"),
            ls.Axis.linspace("start", 0.0, config.extent, config.resolution, "start $x_0$"),
        )
        result = {"basins": lab.sweep("basins", basins, ls.Grid(axes))}
        rates = np.sort(config.rates)
        low, width = np.zeros(len(rates)), np.full(len(rates), config.extent)
        for level in range(config.zooms):
            zoom = Zoom(basins, *map(jnp.asarray, (rates, low, width)))
            grid = ls.Grid.of(rate=rates, share=np.linspace(0, 1, config.zoom_resolution))
            found = lab.sweep(f"zoom_{level}", zoom, grid, partial(_about, basins, level == config.zooms - 1))
            result[f"zoom_{level}"] = found
            if found is not None and not found.computed.all():
                break  # the next window depends on what other shards still compute
            low, width = _next_window(found, low, width)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config) -> None:
    if not config.rates or not all(0 < rate < MAX_RATE for rate in config.rates):
        raise UsageError(f"--rates must lie between 0 and {MAX_RATE:.3f}, got {config.rates}")
    limit = DoubleWell().bounded_limit(min(config.rates))
    if not config.extent > limit:
        raise UsageError(f"--extent must exceed {limit:.4g}, up to where the smallest rate is bounded")
    if config.zooms < 1 or config.zoom_resolution < 8 * SURE or config.resolution < 2 or config.steps < 1:
        raise UsageError(f"needs --zooms and --steps >= 1, --resolution >= 2 and --zoom-resolution >= {8 * SURE}")


def _next_window(found: ls.Landscape | None, low: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows around the first start that diverges, a sixteenth as wide."""
    if found is None:
        return low, width / ZOOM
    first = np.argmax(found["label"] == DIVERGED, axis=1)
    edge = np.take_along_axis(found["start"], first[:, None], axis=1)[:, 0]
    return edge - width / ZOOM / 2, width / ZOOM


def _about(basins: Basins, last: bool, zoom: ls.Landscape) -> dict[str, Any]:
    """The switches between starts of unequal labels, by bisection: those that no deeper zoom sees better."""
    if not zoom.computed.all():
        return {}
    rows: dict[str, dict[str, Any]] = {}

    def label_at(coords: jax.Array) -> jax.Array:
        return basins(coords)["label"]

    def diverges(coords: jax.Array) -> jax.Array:
        return label_at(coords) == DIVERGED

    for rate, start, label in zip(zoom.grid.axes[0].values, zoom["start"], zoom["label"]):
        edge = int(np.argmax(label == DIVERGED))
        cells = (len(start) - 1) // ZOOM // 2
        reach = edge - max(SURE, 0 if last else cells)
        where = np.flatnonzero(label[1:] != label[:-1])
        where = where[(where < reach) & (label[where] != RIDGE)]
        rows[f"{rate:g}"] = {"switches": _bisect(label_at, rate, start[where], start[where + 1])}
        if last:
            rows[f"{rate:g}"]["limit"] = _bisect(diverges, rate, start[[edge - 1]], start[[edge]])[0]
    return {"switches": rows}


def _bisect(label_at: Any, rate: float, low: np.ndarray, high: np.ndarray) -> list[float]:
    """Where the label changes between `low` and `high`, to the last bit."""
    if not len(low):
        return []
    label = jax.jit(jax.vmap(lambda x: label_at(jnp.stack([jnp.asarray(rate, x.dtype), x]))))
    below = np.asarray(label(jnp.asarray(low)))
    for _ in range(60):
        middle = (low + high) / 2
        same = np.asarray(label(jnp.asarray(middle))) == below
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return [float(x) for x in (low + high) / 2]


def switches(result: Mapping[str, ls.Landscape]) -> dict[float, tuple[np.ndarray, float]]:
    """For each rate, the switches found in all zooms in increasing order, and the limit of bounded starts."""
    zooms = [landscape.meta["switches"] for name, landscape in result.items() if name.startswith("zoom_")]
    merged = {}
    for rate in zooms[0]:
        parts, points = [zoom[rate]["switches"] for zoom in zooms], np.empty(0)
        for part in parts:
            # a deeper window begins within the last one: what was seen there is not counted twice
            points = np.concatenate([points, [x for x in part if not len(points) or x > points[-1] * (1 + 1e-14)]])
        merged[float(rate)] = (points, zooms[-1][rate]["limit"])
    return merged


def shrink_factors(points: np.ndarray) -> np.ndarray:
    """Each interval between switches divided by the next one."""
    intervals = np.diff(points)
    return intervals[:-1] / intervals[1:]


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    well, rows = DoubleWell(), []
    for rate, (points, limit) in switches(result).items():
        exact = well.switches(rate, len(points))
        factors = shrink_factors(points)
        name, last = f"η = {rate:g}", factors[-1] if len(factors) else np.nan
        error = np.max(np.abs(points - exact)) if len(points) else np.nan
        rows += [
            (f"{name}: bounded up to", f"{well.bounded_limit(rate):.10f}", f"{limit:.10f}"),
            (
                f"{name}: first switch",
                f"{well.first_switch(rate):.10f}",
                f"{points[0]:.10f}" if len(points) else "none",
            ),
            (f"{name}: intervals shrink by", f"{well.shrink_factor(rate):.6f}", f"{last:.6f} (last of {len(factors)})"),
            (f"{name}: {len(points)} switches, largest error", "rounding", f"{error:.1e}"),
        ]
    return rows


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The map of basins with its exact borders; successive zooms on a limit; how the intervals shrink."""
    return {"basins": _draw_basins(result["basins"]), "zooms": _draw_zooms(result)}


def _colors() -> tuple[Any, Any]:
    from matplotlib.colors import BoundaryNorm, ListedColormap

    return ListedColormap([COLORS[label] for label in sorted(COLORS)]), BoundaryNorm([-1.5, -0.5, 0.5, 1.5, 2.5], 4)


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(facecolor=COLORS[k], edgecolor="0.5", linewidth=0.4, label=WORDS[k]) for k in (RIGHT, LEFT, DIVERGED)]


def _draw_basins(landscape: ls.Landscape) -> Any:
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(4.8, 4.2))
    rate, start = (axis.values for axis in landscape.grid.axes)
    colormap, norm = _colors()
    ax.pcolormesh(rate, start, landscape["label"].T, cmap=colormap, norm=norm, shading="nearest", rasterized=True)
    ax.plot(rate, np.sqrt(1 + 2 / rate), color="black", linewidth=0.9)
    ax.plot(rate, np.sqrt(1 + 1 / rate), color="white", linewidth=0.9, linestyle="--")
    middle = len(rate) // 2
    ax.annotate(
        r"bounded below $\sqrt{1 + 2/\eta}$",
        (rate[middle], np.sqrt(1 + 2 / rate[middle])),
        xytext=(12, 28),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkB": 2},
    )
    ax.annotate(
        r"first switch at $\sqrt{1 + 1/\eta}$",
        (rate[middle], np.sqrt(1 + 1 / rate[middle])),
        xytext=(-6, -34),
        textcoords="offset points",
        color="white",
        arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": "white", "shrinkB": 2},
    )
    ax.set(xlabel=landscape.grid.axes[0].text, ylabel=landscape.grid.axes[1].text)
    ax.set(xlim=rate[[0, -1]], ylim=start[[0, -1]])
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    return figure


def _draw_zooms(result: Mapping[str, ls.Landscape]) -> Any:
    """Strips of the middle rate at successive zooms, and the factors of all rates."""
    from matplotlib import pyplot

    zooms = [landscape for name, landscape in result.items() if name.startswith("zoom_")][:5]
    row = (zooms[0].grid.shape[0] - 1) // 2
    rate = zooms[0].grid.axes[0].values[row]
    figure, axes = pyplot.subplot_mosaic(
        [[f"strip {i}", "factors"] for i in range(len(zooms))],
        figsize=(7.2, 0.6 + 0.75 * len(zooms)),
        width_ratios=[3, 2],
    )
    limit = switches(result)[float(f"{rate:g}")][1]
    colormap, norm = _colors()
    for i, zoom in enumerate(zooms):
        ax, offset = axes[f"strip {i}"], zoom["start"][row] - limit
        label = zoom["label"][row][None, :]
        ax.pcolormesh(
            offset, [0, 1], np.repeat(label, 2, axis=0), cmap=colormap, norm=norm, shading="nearest", rasterized=True
        )
        ax.set(yticks=[], xlim=(offset[0], -0.2 * offset[0]), ylim=(0, 1))
        ax.locator_params(axis="x", nbins=5)
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-1, 3), useMathText=True)
    axes["strip 0"].set_title(f"η = {rate:g}: each strip 16 times deeper", loc="left")
    axes[f"strip {len(zooms) - 1}"].set_xlabel("start minus the largest bounded start")
    _draw_factors(axes["factors"], switches(result))
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    return figure


def _draw_factors(ax: Any, found: Mapping[float, tuple[np.ndarray, float]]) -> None:
    well, longest = DoubleWell(), 2
    for number, (rate, (points, _)) in enumerate(found.items()):
        factors, color = shrink_factors(points), f"C{number}"
        longest = max(longest, len(factors))
        ax.axhline(well.shrink_factor(rate), color=color, linestyle="--", linewidth=0.8)
        ax.plot(1 + np.arange(len(factors)), factors, ".-", color=color, linewidth=0.8)
        text = f"η = {rate:g}: 5 + 2η = {well.shrink_factor(rate):g}"
        place = {"xytext": (-4, -4), "textcoords": "offset points", "ha": "right", "va": "top", "color": color}
        ax.annotate(text, (1, well.shrink_factor(rate)), xycoords=ax.get_yaxis_transform(), **place)
    ax.set(xlabel="interval", title="an interval over the next", xlim=(0.7, longest + 0.3))
    ax.locator_params(axis="x", integer=True)


if __name__ == "__main__":
    main("double_well", Config, SMOKE, run, plot, findings, takes_problem=False)
