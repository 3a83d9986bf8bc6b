"""Is the border between learning rates that diverge and those that do not a fractal, even for one parameter?

Gradient descent on a rippled parabola (Liu 2024, arXiv 2406.13971), from x0 = 1 with 2^k + 1 learning rates on
[0, 1.5] and 1,000 steps; a run has diverged once its loss exceeds 1e8. How the number of neighbouring rates with
unequal labels grows with k gives the box-counting dimension D of the border.

Expected, from the paper's figures 2a and 2b and the counts in its repository (github.com/liuyz0/FractalBoundary):

- multiplied ripples: 1, 1, 1, 1, 3, 5, 7, 13, 21, 27, 57, 115, 247, ... for k = 0, 1, ..., exact to k = 12 and within
  1 % to k = 16; D = .8375 +- .0042 from k up to 31;
- added ripples: D = .9956 +- .0050. All structure lies in a thousandth of the range, so depth 26 is reached in a zoom;
- added ripples leave a single border as long as the function is convex: up to eps / lam^2 = 1 / (2 pi^2) = .0507. That
  is the paper's finding at depth 20, and ours; it is no theorem. Where 1 - rate f'' < 0 for all x, up to 1 / (4 pi^2) =
  .0253 at rates about 1, |x_n| grows with the rate and there is one border. From there on, deeper zooms find more than
  one now and then (--onset-levels 8 --roughness 41: from .028).

The labels are those of chaotic orbits, where the last bit matters: the counts of multiplied ripples are exact to k = 14
with each operation rounded once, in the order of the paper's code (what `RippledParabola.gradient` and `descend` do).
Merging products and sums, as compilers like to, makes 59, 117, 249 of 57, 115, 247.

This experiment has its own problem and takes no --problem. It always computes in float64.

Cost: about 20 s on one CPU core for the defaults, most of it for two sweeps of some 200,000 points.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main

import landscape as ls
from landscape.problems.ripples import CONVEX_ROUGHNESS, RippledParabola, descend

HIGHEST_RATE = 1.5
ONSET_ZOOM = 16
COUNTS = {  # numB of exp-0 and exp-1 in the paper's repository, for k = 0, 1, ...
    "multiplicative": "1 1 1 1 3 5 7 13 21 27 57 115 247 423 683 1215 2303 4245 7619 13365 22885 40589 73361 134187 "
    "244291 439969 785943 1399357 2499319 4501553 8139197 14745753",
    "additive": "1 1 1 1 1 1 1 1 1 1 1 1 1 1 9 13 31 51 117 225 413 863 1743 3585 7163 14169 28721 57699 114843 231873 "
    "461625 923487",
}
PUBLISHED = {kind: np.array(text.split(), dtype=int) for kind, text in COUNTS.items()}
DIMENSION = {"multiplicative": (0.8375, 0.0042), "additive": (0.9956, 0.0050)}
BOUNDED = "#123a63"
BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
NAMES = {"multiplicative": "multiplied ripples", "additive": "added ripples"}


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    depth: int = 18
    """2^depth + 1 learning rates for multiplied ripples."""
    coarse_depth: int = 14
    """2^depth + 1 learning rates to find where the border of added ripples lies."""
    zoom_depth: int = 26
    """Depth of the zoom on that border."""
    bars: int = 4
    """Successive zooms in the figure, each 16 times deeper; the first shows all rates."""
    bar_depth: int = 11
    """2^depth + 1 learning rates in each of them."""
    roughness: int = 41
    """How many values of eps / lam^2 between .02 and .2 to look at for the onset."""
    onset_levels: int = 4
    """Zooms there, of 256 cells and each 16 times deeper than the last: 4 reach depth 20."""
    eps: float = 0.2
    """Amplitude of the ripples."""
    lam: float = 0.1
    """Wavelength of the ripples."""
    start: float = 1.0
    """Where descent starts."""
    steps: int = 1000
    """Steps of gradient descent."""
    max_loss: float = 1e8
    """A loss beyond this counts as diverged."""


SMOKE = Config(depth=10, coarse_depth=10, zoom_depth=16, bars=3, bar_depth=8, roughness=5)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class EscapeTime:
    """Point function: the step after which descent with this rate has diverged, -1 where it never does."""

    function: RippledParabola
    start: Any
    max_loss: Any
    num_steps: int = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The escape time at one learning rate."""
        start = jnp.asarray(self.start, coords.dtype)
        _, step = descend(self.function, coords[0], start, num_steps=self.num_steps, max_loss=self.max_loss)
        return {"escape": step}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class BorderCounts:
    """Point function: unequal neighbours at this roughness, at every level of a zoom on the middle one of them."""

    lam: Any
    start: Any
    max_loss: Any
    num_steps: int = field(metadata={"static": True})
    num_levels: int = field(metadata={"static": True})
    cells: int = field(default=256, metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The counts at one roughness eps / lam^2, shape `(num_levels,)`."""
        function = RippledParabola(coords[0] * self.lam**2, self.lam, "additive")
        escape = EscapeTime(function, self.start, self.max_loss, self.num_steps)
        ticks = jnp.arange(self.cells + 1, dtype=coords.dtype) / self.cells

        def level(window: tuple[Any, Any], _: None) -> tuple[Any, jax.Array]:
            low, width = window
            diverged = jax.vmap(escape)((low + width * ticks)[:, None])["escape"] >= 0
            unequal = diverged[1:] != diverged[:-1]
            count = jnp.sum(unequal)
            middle = jnp.searchsorted(jnp.cumsum(unequal), (count + 1) // 2)
            narrow = width / ONSET_ZOOM
            return (low + width * (middle + 0.5) / self.cells - narrow / 2, narrow), count

        window = (jnp.zeros((), coords.dtype), jnp.asarray(HIGHEST_RATE, coords.dtype))
        return {"count": jax.lax.scan(level, window, length=self.num_levels)[1].astype(jnp.int32)}


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Escape times over learning rates, zooms on their border, and the border of smoother functions."""
    _check(config)
    with jax.enable_x64(True):
        multiplied, added = (
            EscapeTime(RippledParabola(config.eps, config.lam, kind), config.start, config.max_loss, config.steps)
            for kind in ("multiplicative", "additive")
        )
        border = BorderCounts(config.lam, config.start, config.max_loss, config.steps, config.onset_levels)
        roughness = ls.Grid.of(roughness=np.geomspace(0.02, 0.2, config.roughness))
        result = {
            "multiplicative": lab.sweep("multiplicative", multiplied, rates(config.depth)),
            "additive": lab.sweep("additive", added, rates(config.coarse_depth)),
            "onset": lab.sweep("onset", border, roughness),
        }
        if lab.planning or result["additive"].computed.all():  # else other shards must come first
            zoom = rates(config.zoom_depth, *_hull(result["additive"]))
            result["additive_zoom"] = lab.sweep("additive_zoom", added, zoom)
        result |= _bars(config, lab, multiplied)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config) -> None:
    least = {"--depth": config.depth, "--coarse-depth": config.coarse_depth, "--bar-depth": config.bar_depth}
    for flag, value in least.items():
        if value < 8:
            raise UsageError(f"{flag} must be at least 8, got {value}")
    if config.zoom_depth < config.coarse_depth or config.zoom_depth > 40:
        raise UsageError(f"--zoom-depth must lie between --coarse-depth and 40, got {config.zoom_depth}")
    if min(config.bars, config.roughness, config.steps, config.onset_levels) < 1:
        raise UsageError("--bars, --roughness, --onset-levels and --steps must be at least 1")


def rates(depth: int, low: float = 0.0, high: float = HIGHEST_RATE) -> ls.Grid:
    """The learning rates `i 1.5 / 2^depth` in `[low, high]`, exact in float64."""
    step = HIGHEST_RATE / 2**depth
    values = step * np.arange(round(low / step), round(high / step) + 1)
    return ls.Grid((ls.Axis("rate", values, "learning rate"),))


def _hull(coarse: ls.Landscape | None) -> tuple[float, float]:
    """A range around all borders that a sweep has found, with half their spread, and 4 cells, to either side."""
    if coarse is None:
        return 0.996, 1.008  # to plan with
    rate, where = coarse.grid.axes[0].values, borders(coarse)
    if not len(where):
        raise UsageError("no learning rate on the grid diverges: raise --steps or lower --max-loss")
    pad = max((rate[where[-1]] - rate[where[0]]) / 2, 4 * (rate[1] - rate[0]))
    return max(rate[where[0]] - pad, 0.0), min(rate[where[-1] + 1] + pad, HIGHEST_RATE)


def _bars(config: Config, lab: Lab, escape: EscapeTime) -> dict[str, Any]:
    """Successive zooms, each on the sixteenth of the last window with the most borders."""
    found, (low, high) = {}, (0.0, HIGHEST_RATE)
    for level in range(config.bars):
        name = f"bar_{level}"
        found[name] = lab.sweep(name, escape, rates(config.bar_depth + 4 * level, low, high))
        if found[name] is None or not found[name].computed.all():
            break
        low, high = _busiest(found[name])
    return found


def _busiest(landscape: ls.Landscape) -> tuple[float, float]:
    rate = landscape.grid.axes[0].values
    cells = (len(rate) - 1) // 16
    best = int(np.argmax(np.bincount(borders(landscape) // cells, minlength=16)))
    return rate[best * cells], rate[(best + 1) * cells]


def borders(landscape: ls.Landscape) -> np.ndarray:
    """Indices of the rates whose right neighbour has the other label."""
    diverged = landscape["escape"] >= 0
    return np.flatnonzero(diverged[1:] != diverged[:-1])


def counts(landscape: ls.Landscape) -> dict[int, int]:
    """How many neighbouring rates `i 1.5 / 2^k` are unequal, for every k that the sweep holds."""
    rate, diverged = landscape.grid.axes[0].values, landscape["escape"] >= 0
    depth = round(np.log2(HIGHEST_RATE / (rate[1] - rate[0])))
    first = round(rate[0] * 2**depth / HIGHEST_RATE)
    found = {}
    for k in range(depth + 1):
        stride = 2 ** (depth - k)
        labels = diverged[-first % stride :: stride]
        found[k] = int(np.sum(labels[1:] != labels[:-1]))
    return found


def all_counts(result: Mapping[str, ls.Landscape]) -> dict[str, dict[int, int]]:
    """The counts of both families; beyond the coarse sweep, those of the zoom."""
    coarse, fine = counts(result["additive"]), counts(result["additive_zoom"])
    return {"multiplicative": counts(result["multiplicative"]), "additive": fine | coarse}


def fitted(found: Mapping[int, int], kind: str) -> dict[int, int]:
    """The counts at depths where ours and the published one exceed 1, so that both slopes are of the same depths."""
    theirs = PUBLISHED[kind]
    return {k: count for k, count in found.items() if k < len(theirs) and min(count, theirs[k]) > 1}


def dimension(found: Mapping[int, int]) -> tuple[float, float, int, int]:
    """Slope of log2 count against k where the count exceeds 1, its standard error, and the range of k (as Liu does)."""
    k = np.array([k for k, count in found.items() if count > 1])
    if len(k) < 4:
        return np.nan, np.nan, 0, 0
    slope, covariance = np.polyfit(k, np.log2([found[i] for i in k]), 1, cov=True)
    return float(slope[0]), float(np.sqrt(covariance[0, 0])), int(k.min()), int(k.max())


def onset(landscape: ls.Landscape) -> tuple[float, float]:
    """The last roughness below which all have a single border, and the next one."""
    roughness = landscape.grid.axes[0].values
    many = np.flatnonzero(landscape["count"].max(axis=1) > 1)
    if not len(many):
        return float(roughness[-1]), np.inf
    return (float(roughness[many[0] - 1]) if many[0] else 0.0), float(roughness[many[0]])


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    found = all_counts(result)
    rows = []
    for name, low, high in (("exact", 0, 12), ("within 1 %", 13, 16)):
        k = [i for i in range(low, high + 1) if i in found["multiplicative"]]
        if k:
            rows.append(_count_row(found["multiplicative"], k, f"multiplied: unequal neighbours, {name}"))
    for kind, (value, error) in DIMENSION.items():
        ours = fitted(found[kind], kind)
        slope, spread, low, high = dimension(ours)
        theirs = dimension({k: PUBLISHED[kind][k] for k in ours})
        expected = f"{value:.4f} +- {error:.4f} (k to 31), {theirs[0]:.4f} +- {theirs[1]:.4f} (same k)"
        rows.append((f"D, {NAMES[kind]}", expected, f"{slope:.4f} +- {spread:.4f} (k = {low} ... {high})"))
    added, theirs = found["additive"], PUBLISHED["additive"]
    shared = [k for k in added if k < len(theirs)]
    first = next((k for k in shared if max(added[k], theirs[k]) > 1), len(theirs))  # before it all counts are 1
    if first < len(theirs):
        rows.append(_count_row(added, [k for k in shared if k >= first], "added: unequal neighbours"))
    below, above = onset(result["onset"])
    expected = f"beyond {CONVEX_ROUGHNESS:.4f} (non-convex)"
    rows.append(("more than one border, by eps / lam^2", expected, f"between {below:.4f} and {above:.4f}"))
    return rows


def _count_row(found: Mapping[int, int], k: list[int], what: str) -> tuple[str, str, str]:
    theirs = PUBLISHED["additive" if what.startswith("added") else "multiplicative"][k]
    ours = np.array([found[i] for i in k])
    off = np.max(np.abs(ours / theirs - 1))
    note = " (equal)" if np.array_equal(ours, theirs) else f" (off by at most {off:.2%})"
    return f"{what}, k = {k[0]} ... {k[-1]}", " ".join(map(str, theirs)), " ".join(map(str, ours)) + note


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The labels at successive zooms; the counts with their slopes, and the onset."""
    return {"labels": _draw_bars(result), "dimension": _draw_counts(result)}


def _draw_bars(result: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    bars = [landscape for name, landscape in result.items() if name.startswith("bar_")]
    escaped = np.concatenate([bar["escape"][bar["escape"] > 0] for bar in bars])
    first, last = (escaped.min(), escaped.max()) if len(escaped) else (1, 10)
    norm = LogNorm(first, last)
    figure, axes = pyplot.subplots(len(bars), 1, figsize=(6.8, 0.55 + 0.95 * len(bars)), squeeze=False)
    for ax, bar in zip(axes.flat, bars):
        rate, escape = bar.grid.axes[0].values, bar["escape"]
        shown = np.ma.masked_less(escape, 0)[None, :]
        ax.set_facecolor(BOUNDED)
        ax.pcolormesh(_edges(rate), [0, 1], shown, norm=norm, cmap="YlOrRd_r", rasterized=True)
        ax.set(yticks=[], xlim=rate[[0, -1]], ylim=(0, 1))
        text = f"{len(borders(bar)):,} borders between {len(rate) - 1:,} cells of {rate[1] - rate[0]:.1e}"
        ax.set_title(text, loc="left", bbox=BLANK)
        ax.ticklabel_format(axis="x", useOffset=False)
        ax.locator_params(axis="x", nbins=6)
        for label in ax.get_xticklabels():
            label.set_bbox(BLANK)
    for upper, lower, bar in zip(axes.flat, list(axes.flat)[1:], bars[1:]):
        _connect(upper, lower, bar.grid.axes[0].values[[0, -1]])
    axes.flat[-1].set_xlabel("learning rate")
    colorbar = figure.colorbar(ScalarMappable(norm, "YlOrRd_r"), ax=axes, label="steps until diverged", pad=0.01)
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if first <= t <= last]
    colorbar.set_ticks(ticks, labels=[str(t) for t in ticks])
    colorbar.ax.minorticks_off()
    figure.legend(handles=[Patch(color=BOUNDED, label="bounded")], loc="outside upper right")
    return figure


def _edges(values: np.ndarray) -> np.ndarray:
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([values[:1], middle, values[-1:]])


def _connect(upper: Any, lower: Any, window: np.ndarray) -> None:
    """Lines from a window in one bar to the bar that shows it."""
    from matplotlib.patches import ConnectionPatch

    for edge in window:
        line = ConnectionPatch(
            (edge, 0), (edge, 1), coordsA="data", coordsB="data", axesA=upper, axesB=lower, color="0.35", linewidth=0.6
        )
        line.set_zorder(-1)
        upper.figure.add_artist(line)
        line.set_in_layout(False)


def _draw_counts(result: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(6.8, 2.9))
    for (kind, found), color in zip(all_counts(result).items(), ("#0072b2", "#d55e00")):
        k, count = np.array(list(found)), np.array(list(found.values()))
        theirs = PUBLISHED[kind]
        left.plot(np.arange(len(theirs)), theirs, "o", mfc="none", mec="0.55", ms=5, mew=0.7)
        ours = fitted(found, kind)
        slope, error, low, high = dimension(ours)
        left.plot(k, count, ".", color=color, label=f"{NAMES[kind]}: D = {slope:.3f} ± {error:.3f}")
        if high:
            centre, middle = np.mean([list(ours), np.log2(list(ours.values()))], axis=1)
            ends = np.array([low, high])
            left.plot(ends, 2 ** (middle + slope * (ends - centre)), color=color, linewidth=0.8)
    left.plot([], [], "o", mfc="none", mec="0.55", ms=5, mew=0.7, label="Liu (2024)")
    left.set_yscale("log", base=2)
    left.set(xlabel="depth k (2$^k$ cells)", ylabel="unequal neighbours", ylim=(0.6, None))
    left.legend(loc="upper left")
    _draw_onset(right, result["onset"])
    return figure


def _draw_onset(ax: Any, landscape: ls.Landscape) -> None:
    roughness, count = landscape.grid.axes[0].values, landscape["count"].max(axis=1)
    ax.axvspan(roughness[0], CONVEX_ROUGHNESS, color="0.93")
    ax.axvline(CONVEX_ROUGHNESS, color="0.3", linestyle="--", linewidth=0.8)
    ax.plot(roughness, count, ".-", color="#d55e00", linewidth=0.8)
    ax.set(xscale="log", yscale="log", xlim=roughness[[0, -1]], ylim=(0.8, max(20, count.max() * 1.5)))
    ax.set(xlabel="roughness ε / λ²", ylabel="most borders in a window")
    ax.text(CONVEX_ROUGHNESS, 0.97, "convex ", ha="right", va="top", transform=ax.get_xaxis_transform())
    ax.text(CONVEX_ROUGHNESS, 0.97, " non-convex", ha="left", va="top", transform=ax.get_xaxis_transform())
    ticks = [0.02, 0.05, 0.1, 0.2]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()


if __name__ == "__main__":
    main("fractal_1d", Config, SMOKE, run, plot, findings, takes_problem=False)
