"""Curves of many runs: where training and test loss part."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from landscape.analysis import best_epoch, divergence_epoch
from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._field import as_numbers, calm_ticks, check_ndim, flat_axes
from landscape.plotting._scale import check_reach, check_scale, dress_log_ticks, resolve

RANGE = (5.0, 95.0)  # percentiles of the runs, in the legend
FADE = (0.04, 0.5)  # least and most opacity of one run


@_style.wearable
def train_test(
    landscape: Landscape,
    train: str = "history.loss",
    test: str = "history.test_loss",
    *,
    ax: Axes | None = None,
    steps: str | None = "history.step",
    every: float = 1.0,
    margin: Any = 0.0,
    scale: str = "auto",
    label: str = "loss",
    xlabel: str = "steps",
    legend: bool = True,
    **options: Any,
) -> Axes:
    """Training and test loss of many runs, each a thin line, their medians thick, and where they part.

    A dot on the median test curve marks the median of the epochs at which a run's own test loss is least; a dotted line
    the median of those from which on its gap exceeds `margin` for good, among the runs that part. The legend gives both
    with the 5th and 95th percentile. Lines break where a loss is not finite.

    Args:
        landscape: a landscape with one axis, the runs; what `Runs` and `train_many` with a store leave behind.
        train: output with the training losses of each run, `(runs, t)`.
        test: output with the test losses, of the same shape.
        ax: flat axes to draw on; a new figure when None.
        steps: output with the steps at which they were recorded; 0, 1, .. when None.
        every: steps in a unit of the horizontal axis, such as those of an epoch.
        margin: the gap that counts as none, as in `analysis.divergence_epoch`.
        scale: of the losses: `"linear"`, `"log"` or `"auto"`, log for positive ones over more than 1.5 decades.
        label: text for the vertical axis.
        xlabel: text for the horizontal axis.
        legend: whether to draw the legend.
        options: passed to `Axes.plot` for the lines of the runs.

    Raises:
        KeyError: there is no such output.
        TypeError: an output is not real.
        ValueError: another number of axes, outputs of other shapes, an unknown scale, or 3-D axes.
    """
    check_ndim(landscape, "train_test", 1)
    check_scale(scale)
    curves = {part: _curves(landscape, name) for part, name in (("train", train), ("test", test))}
    if curves["train"].shape != curves["test"].shape:
        shapes = tuple(c.shape for c in curves.values())
        raise ValueError(f"{train!r} and {test!r} must have one shape, got {shapes[0]} and {shapes[1]}")
    finite = np.concatenate([c[np.isfinite(c)] for c in curves.values()])
    resolved = resolve(finite, scale)
    check_reach(finite, resolved.kind == "log")
    ax = flat_axes(ax, "train_test")
    x = _epochs(landscape, steps, curves["train"].shape[1]) / every
    for part, values in curves.items():
        _draw_runs(ax, x, values, part, options)
    _mark_epochs(ax, x, curves, margin)
    _dress(ax, resolved.kind == "log", label)
    ax.set(xlabel=xlabel, xlim=x[[0, -1]] if x[-1] > x[0] else None)
    calm_ticks(ax.xaxis)
    if legend:
        ax.legend(loc="best")
    return ax


def _curves(landscape: Landscape, name: str) -> np.ndarray:
    """The losses of the runs that were computed, those that are not finite as NaN."""
    values = np.asarray(landscape[name])
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"train_test draws curves, {name!r} must have shape (runs, t), got {values.shape}")
    values = as_numbers(values, "train_test", name)[landscape.computed]
    return np.where(np.isfinite(values), values, np.nan)


def _epochs(landscape: Landscape, steps: str | None, length: int) -> np.ndarray:
    """The steps of the run that went furthest: the others repeat their last loss."""
    return np.arange(float(length)) if steps is None else np.max(landscape[steps], axis=0).astype(np.float64)


def _draw_runs(ax: Axes, x: np.ndarray, values: np.ndarray, part: str, options: Any) -> None:
    color, fade = _color(part), float(np.clip(4 / max(len(values), 1), *FADE))
    look: dict[str, Any] = {"color": color, "linewidth": 0.5, "alpha": fade, "rasterized": len(values) > 20, **options}
    _style.plain(*ax.plot(x, values.T, **look))
    broken = int(np.sum(np.isnan(values).any(axis=1)))
    note = f", {broken} not finite" if broken else ""
    dashes = "-" if part == "train" else "--"
    text = f"{part} ({len(values)} runs, median{note})"
    ax.plot(x, _median(values), color=color, linewidth=1.6, linestyle=dashes, label=text)


def _color(part: str) -> str:
    return _style.inks().cycle[("train", "test").index(part)]


def _median(values: np.ndarray) -> np.ndarray:
    """The median over runs at each epoch of those with a value."""
    some = ~np.isnan(values).all(axis=0)
    result = np.full(values.shape[1], np.nan)
    result[some] = np.nanmedian(values[:, some], axis=0)
    return result


def _mark_epochs(ax: Axes, x: np.ndarray, curves: dict[str, np.ndarray], margin: Any) -> None:
    best = best_epoch(curves["test"], x)
    if np.any(~np.isnan(best)):
        at = float(np.nanmedian(best))
        height = np.interp(at, x, _median(curves["test"]))
        look: dict[str, Any] = {"color": _color("test"), "markeredgecolor": "black", "markersize": 5, "zorder": 5}
        ax.plot(at, height, "o", linestyle="none", label=f"best test: {_spread(best)}", **look)
    parted = divergence_epoch(curves["train"], curves["test"], x, margin=margin)
    if np.any(~np.isnan(parted)):
        missing = int(np.sum(np.isnan(parted)))
        note = f", {missing} never" if missing else ""
        ax.axvline(
            float(np.nanmedian(parted)),
            color="0.35",
            linewidth=0.9,
            linestyle=":",
            label=f"part at {_spread(parted)}{note}",
        )


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.nanpercentile(values, [RANGE[0], 50, RANGE[1]])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})" if high > low else f"{middle:.3g}"


def _dress(ax: Axes, log: bool, label: str) -> None:
    ax.set_ylabel(f"{label} (log scale)" if log else label)
    if log:
        ax.set_yscale("log")
        dress_log_ticks(ax.yaxis, *ax.get_ylim())
    ax.spines[["top", "right"]].set_visible(False)
