"""Histograms of the losses at which runs end."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from landscape.plotting import _style
from landscape.plotting._checks import as_array
from landscape.plotting._field import calm_ticks, flat_axes
from landscape.plotting._labels import explain_labels, label_color, label_hatch
from landscape.plotting._scale import check_reach, check_scale, dress_log_ticks, resolve


@_style.wearable
def endpoints(
    losses: Any,
    *,
    ax: Axes | None = None,
    labels: Any = None,
    scale: str = "auto",
    bins: int | Any = 60,
    label: str = "loss at the end",
    legend: bool = True,
    **options: Any,
) -> Axes:
    """How many runs end at which loss, one colour a minimum, stacked.

    Give several panels the same `bins` to compare them.

    Args:
        losses: the loss at the end of each run, any shape. Those without a place on the axis are counted in the
            legend: NaN, infinity, and on a log scale zero and below.
        ax: flat axes to draw on; a new figure when None.
        labels: which minimum each run reached, integers of the shape of `losses`: -1 not converged, -2 diverged.
        scale: `"linear"`, `"log"` or `"auto"`, log for positive losses over more than 1.5 decades.
        bins: how many, or their edges, which also decide an `"auto"` scale.
        label: text for the horizontal axis.
        legend: whether to draw the legend, with the share of each minimum.
        options: passed to `Axes.hist`.

    Raises:
        TypeError: losses that are not real, or labels that are not integers.
        ValueError: no losses, labels of another shape, an unknown scale, edges that a log scale has no place for, or
            3-D axes.
    """
    losses, labels = _checked(losses, labels)
    check_scale(scale)
    finite = np.isfinite(losses)
    log, edges = _edges(losses[finite], scale, bins)
    ax = flat_axes(ax, "endpoints")
    shown = finite & (losses > 0) if log else finite
    kinds = np.unique(labels[shown])[::-1]  # the best minimum last, on top of the stack
    look: dict[str, Any] = {"stacked": True, "histtype": "stepfilled", "linewidth": 0, **options}
    if kinds.size:
        groups = [losses[shown & (labels == k)] for k in kinds]
        _, _, areas = ax.hist(groups, bins=edges.tolist(), color=[label_color(int(k)) for k in kinds], **look)
        if _style.inks().by_hand:
            _outline([areas] if len(kinds) == 1 else areas, kinds)
    _dress(ax, log, edges, label)
    _explain(ax, losses, labels, shown)
    if legend and ax.get_legend_handles_labels()[0]:
        _style.legend_below(ax)
    return ax


def _outline(areas: Any, kinds: np.ndarray) -> None:
    """Edges and patterns that tell areas of few colours apart."""
    for (area,), label in zip(areas, kinds):
        area.set(edgecolor="black", linewidth=0.8, hatch=label_hatch(int(label)))
        _style.plain(area)


def _checked(losses: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Losses and labels, flat; every label is 0 where none are given."""
    losses = as_array("endpoints: losses", losses, "real numbers")
    if losses.dtype.kind not in "biuf":
        raise TypeError(f"endpoints draws real losses, got {losses.dtype}")
    if not losses.size:
        raise ValueError("there are no losses to draw")
    labels = np.zeros(losses.shape, dtype=np.int64) if labels is None else as_array("labels", labels, "integers")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != losses.shape:
        raise ValueError(f"labels must have the shape of the losses, {losses.shape}, got {labels.shape}")
    return losses.astype(np.float64).ravel(), labels.ravel()


def _edges(losses: np.ndarray, scale: str, bins: Any) -> tuple[bool, np.ndarray]:
    """Whether the axis is logarithmic, and the edges of the bins. Edges that are given decide, unless the scale is."""
    if np.ndim(bins):
        edges = np.asarray(bins, dtype=np.float64)
        check_reach(edges)
        log = scale == "log" or (scale == "auto" and edges[0] > 0 and resolve(edges).kind == "log")
        if log and edges[0] <= 0:
            raise ValueError(f"a log scale needs positive edges, got bins from {edges[0]:g}")
        return log, edges
    resolved = resolve(losses, scale if scale != "log" or np.any(losses > 0) else "linear")
    check_reach(losses, resolved.kind == "log")
    log = resolved.kind == "log"
    space = np.geomspace if log else np.linspace
    return log, space(resolved.low, resolved.high, int(bins) + 1)


def _dress(ax: Axes, log: bool, edges: np.ndarray, label: str) -> None:
    ax.set(xlabel=f"{label} (log scale)" if log else label, ylabel="runs")
    if log:
        ax.set_xscale("log")
        dress_log_ticks(ax.xaxis, edges[0], edges[-1])
    else:
        calm_ticks(ax.xaxis)
    calm_ticks(ax.yaxis)
    ax.spines[["top", "right"]].set_visible(False)


def _explain(ax: Axes, losses: np.ndarray, labels: np.ndarray, shown: np.ndarray) -> None:
    """The share of each label among all runs, and how many runs have no place on the axis."""
    if len(np.unique(labels)) > 1:
        explain_labels(ax, labels, len(labels))
    broken = int(np.sum(~np.isfinite(losses)))
    below = int(np.sum(~shown)) - broken
    for count, text in ((broken, "not finite"), (below, "zero or below")):
        if count:
            ax.plot([], [], linestyle="none", label=f"not drawn: {text} ({count})")
