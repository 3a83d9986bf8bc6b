"""The figures of `generalization.py`: curves that part, train and test on one plane and one path, gap and sharpness."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.patheffects import Normal, Stroke

import landscape as ls
from landscape import analysis, plotting
from landscape.plotting import dress_log_ticks

NOISE_COLORS = ("#0072b2", "#e69f00", "#d55e00", "#cc79a7", "#000000")
CLEAN = "#009e73"
# A hollow circle about a star: both are seen where both minima are at one place.
MARKS: dict[str, dict[str, Any]] = {
    "train": {
        "marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": "white", "markeredgewidth": 1.2,
        "path_effects": [Stroke(linewidth=2.2, foreground="black"), Normal()],
    },
    "test": {
        "marker": "*", "markersize": 8, "markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.7,
    },
}  # fmt: skip


def curves(runs: ls.Landscape, parts: Sequence[ls.Landscape], margins: Sequence[np.ndarray]) -> Any:
    """A panel for each share of noise, on one scale."""
    from matplotlib import pyplot

    shares, about = runs.grid.axes[0].values, runs.meta["runs"]
    figure, axes = pyplot.subplots(1, len(shares), figsize=(3.0 * len(shares) + 0.5, 3.3), sharey=True, squeeze=False)
    for number, (ax, share, part, margin) in enumerate(zip(axes[0], shares, parts, margins)):
        plotting.train_test(
            part, test="same_noise", ax=ax, every=about["per_epoch"], margin=margin, scale="linear",
            label="" if number else "cross-entropy", xlabel="epochs", legend=False,
        )  # fmt: skip
        if share:
            epochs = part["history.step"].max(axis=0) / about["per_epoch"]
            clean = np.median(part["history.test_loss"], axis=0)
            ax.plot(epochs, clean, color=CLEAN, linestyle="-.", linewidth=1.4, label="test, clean labels (median)")
        ax.legend(loc="upper right" if number == 0 else "best", fontsize=6.8)
        ax.set_title(f"{share:.0%} noise" if share else "no noise")
    top = max(np.percentile(part[name], 99) for part in parts for name in ("history.loss", "same_noise"))
    axes[0, 0].set_ylim(0, 1.45 * top)
    figure.suptitle(f"{about['model']}: training loss, and test loss under the same noise")
    return figure


def surfaces(model: str, planes: Sequence[ls.Landscape], lines: Sequence[ls.Landscape]) -> Any:
    """A row for each share of noise: train, test, gap on one plane; both on the line from the start."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(planes), 4, figsize=(11.0, 2.75 * len(planes) + 0.4), squeeze=False)
    gaps = [analysis.generalization_gap(plane, test="same_noise") for plane in planes]
    widest = max(float(np.max(np.abs(gap[np.isfinite(gap)]), initial=1e-9)) for gap in gaps)  # above 0 for a scale
    even: dict[str, Any] = {"vmin": -widest, "vmax": widest, "center": 0.0, "scale": "linear"}
    for row, plane, line, gap in zip(axes, planes, lines, gaps):
        share = plane.meta["surface"]["share"]
        found = analysis.minimum_offset(plane)
        both = np.concatenate([plane[name].ravel() for name in ("train_loss", "same_noise")])
        both = both[np.isfinite(both) & (both > 0)]  # on a log scale the others lie below
        limits: dict[str, Any] = {"vmin": float(np.min(both)), "vmax": float(np.max(both)), "scale": "log"}
        views = (
            ("train_loss", "train loss", limits),
            ("same_noise", "test loss, same noise" if share else "test loss", limits),
            ("gap", "test − train", even),
        )
        for ax, (name, label, scale) in zip(row, views):
            plotting.heatmap(plane.assign(gap=gap), name, ax=ax, minimum=False, label=label, **scale)
            ends = {"train minimum": found.train, "test minimum (clean)": found.test}
            for (text, point), look in zip(ends.items(), MARKS.values()):
                ax.plot(*point, linestyle="none", label=text, clip_on=False, zorder=6, **look)
            if plane is not planes[-1]:
                ax.set_xlabel("")
            ax.set_ylabel("direction 2" if name == "train_loss" else "")
        row[0].set_title(f"{share:.0%} noise" if share else "no noise", loc="left")
        _draw_path(row[3], line)
        if plane is not planes[-1]:
            row[3].set_xlabel("")
        else:
            row[3].legend(loc="upper center", fontsize=6.5)
            row[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=1, fontsize=7)
    figure.suptitle(f"{model}: train and test on one plane and on one path (bands: ± 2 standard errors over examples)")
    return figure


def _draw_path(ax: Any, line: ls.Landscape) -> None:
    """Both losses from the start to the end and beyond, with their minima."""
    plotting.profile(line, ["train_loss", "test_loss"], ax=ax, scale="log", label="loss")
    for text, new in (("train", "train"), ("test", "test, clean labels")):
        for drawn in ax.get_lines():
            if str(drawn.get_label()).startswith(text):
                drawn.set_label(new)
    found = analysis.minimum_offset(line)
    for point, part in ((found.train, "train"), (found.test, "test")):
        ax.plot(point[0], line[f"{part}_loss"][line.grid.index(point)], linestyle="none", zorder=6, **MARKS[part])
    low, high = (f(f(line[name]) for name in ("train_loss", "test_loss")) for f in (min, max))
    ax.set_ylim(0.5 * low, (high / low) ** 0.3 * high)
    ax.get_legend().remove()
    ax.spines[["top", "right"]].set_visible(False)


def sharpness(
    groups: Sequence[tuple[ls.Landscape, np.ndarray]],
    rescaled: ls.Landscape | None,
    describe: Callable[[np.ndarray, np.ndarray], str],
) -> Any:
    """The gap against the sharpness of every run; one function that has all sharpnesses beside them."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(groups), figsize=(4.1 * len(groups) + 0.2, 4.0), squeeze=False)
    for number, (ax, (runs, gap)) in enumerate(zip(axes[0], groups)):
        for share, x, y, color in zip(runs.grid.axes[0].values, runs["sharpness"], gap, cycle(NOISE_COLORS)):
            text = describe(x, y).split(", ")[0]
            ax.plot(x, y, ".", markersize=4, color=color, alpha=0.8, label=f"{share:.0%} noise: {text}")
        if len(gap) > 1:
            ax.plot(
                [],
                [],
                linestyle="none",
                label=f"all: {describe(runs['sharpness'].ravel(), gap.ravel()).split(', ')[0]}",
            )
        if rescaled is not None and number == 0:
            _draw_rescaled(ax, rescaled)
        ax.set(xscale="log", xlabel="sharpness: largest eigenvalue of the Hessian", ylabel="test − train loss")
        dress_log_ticks(ax.xaxis, *ax.get_xlim())
        ax.set_title(f"{runs.meta['runs']['model']}, {runs.grid.shape[1]} runs each", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=7, handletextpad=0.3)
    return figure


def _draw_rescaled(ax: Any, rescaled: Mapping[str, Any] | ls.Landscape) -> None:
    x, y = rescaled["sharpness"], rescaled["test_loss"] - rescaled["train_loss"]
    look = {"color": "black", "markerfacecolor": "white", "linewidth": 0.8, "markersize": 5}
    ax.plot(x, y, "D-", label="one of them as $(aW_1, W_2/a)$: the same function", zorder=4, **look)
