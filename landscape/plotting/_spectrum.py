"""The spectral density of a Hessian, its error band, and the eigenvalues that stand out of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from landscape.plotting import _style
from landscape.plotting._checks import as_array, check_numbers
from landscape.plotting._field import calm_ticks, flat_axes
from landscape.plotting._scale import check_reach, number

BAND_ERRORS = 2  # half-width of the band in standard errors
POINTS = 1001  # of the curve
DECADES = 8  # below its peak that the curve is followed at most


@_style.wearable
def spectrum(
    density: Any,
    *,
    ax: Axes | None = None,
    outliers: Any = None,
    width: float | None = None,
    scale: str = "log",
    label: str = "eigenvalue",
    legend: bool = True,
    **options: Any,
) -> Axes:
    """The density of eigenvalues, broadened, with a band of two standard errors, and single eigenvalues as sticks.

    The logarithmic scale shows the bulk at zero and the few outliers of a network's Hessian in one picture (Ghorbani,
    Krishnan & Xiao 2019, arXiv 1901.10159).

    Args:
        density: a `SpectralDensity`, or anything with `nodes` and `weights` of shape `(num_probes, num_steps)`; or all
            eigenvalues as one array.
        ax: flat axes to draw on; a new figure when None.
        outliers: eigenvalues to mark: an array, or an `Eigenpairs`, whose residuals become error bars.
        width: standard deviation of the Gaussian that broadens each node; a 200th of the range when None.
        scale: of the density, `"log"` or `"linear"`.
        label: text for the horizontal axis.
        legend: whether to draw the legend.
        options: passed to `Axes.plot` for the curve.

    Raises:
        TypeError: a density without nodes and weights that is no array of real numbers.
        ValueError: nothing finite to draw, nodes and weights that do not fit, a width that is not positive, an unknown
            scale, or 3-D axes.
    """
    if scale not in ("log", "linear"):
        raise ValueError(f"scale must be 'log' or 'linear', got {scale!r}")
    nodes, weights = _measured(density)
    values, errors = _marked(outliers)
    check_reach(np.concatenate([nodes.ravel(), values]))
    width = _checked_width(width, nodes)
    ax = flat_axes(ax, "spectrum")
    x = np.linspace(*_span(nodes, values, width), POINTS)
    mean, sem = _broadened(nodes, weights, x, width)
    low = _floor(nodes, weights, mean, width)
    look: dict[str, Any] = {"color": _style.inks().cycle[0], "label": _curve_label(nodes, width), **options}
    (line,) = ax.plot(x, mean, **look)
    if len(nodes) > 1:
        band = np.maximum(mean - BAND_ERRORS * sem, 0), mean + BAND_ERRORS * sem
        ax.fill_between(x, *band, color=line.get_color(), alpha=0.25, linewidth=0)
    _scale_axes(ax, x, scale, low, mean.max())
    _draw_outliers(ax, values, errors)
    ax.set(xlabel=label, ylabel="density of eigenvalues" + (" (log scale)" if scale == "log" else ""))
    calm_ticks(ax.xaxis)
    if legend:
        _style.legend_below(ax)
    return ax


def _measured(density: Any) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the probes that are finite, each `(num_probes, num_steps)`."""
    if not hasattr(density, "nodes") or not hasattr(density, "weights"):
        values = as_array("density", density, "a SpectralDensity or an array of eigenvalues")
        if values.dtype.kind not in "fiu":
            raise TypeError(
                f"density must be a SpectralDensity or an array of eigenvalues, got {type(density).__name__}"
            )
        values = values[np.isfinite(values)].astype(np.float64)
        nodes, weights = values[None], np.full((1, values.size), 1 / max(values.size, 1))
    else:
        nodes, weights = (
            check_numbers(f"density.{name}", getattr(density, name)).astype(np.float64) for name in ("nodes", "weights")
        )
        if nodes.ndim != 2 or nodes.shape != weights.shape:
            raise ValueError(
                f"nodes and weights must both have shape (num_probes, num_steps), got {nodes.shape} and {weights.shape}"
            )
        finite = np.isfinite(nodes).all(axis=1) & np.isfinite(weights).all(axis=1)
        nodes, weights = nodes[finite], weights[finite]
    if not nodes.size:
        raise ValueError("there is no finite eigenvalue to draw: was the Hessian finite?")
    return nodes, weights


def _checked_width(width: Any, nodes: np.ndarray) -> float:
    if width is None:
        return float(np.ptp(nodes)) / 200 or max(abs(float(nodes.flat[0])), 1.0) / 200
    if not width > 0:
        raise ValueError(f"width must be positive, in units of the eigenvalues, got {width}")
    return float(width)


def _marked(outliers: Any) -> tuple[np.ndarray, np.ndarray]:
    """Finite eigenvalues to mark, and how far each may be off (0 where nothing is known)."""
    if outliers is None:
        return np.empty(0), np.empty(0)
    values = outliers if isinstance(outliers, Mapping) else getattr(outliers, "values", outliers)
    values = check_numbers("outliers", values).astype(np.float64).ravel()
    errors = check_numbers("the residuals of outliers", getattr(outliers, "residuals", np.zeros_like(values)))
    errors = errors.astype(np.float64).ravel()
    if errors.shape != values.shape:
        raise ValueError(f"outliers must have one residual for each of {values.size} eigenvalues, got {errors.size}")
    finite = np.isfinite(values)
    errors = np.where(np.isfinite(errors), errors, 0.0)
    return values[finite], errors[finite]


def _span(nodes: np.ndarray, marked: np.ndarray, width: float) -> tuple[float, float]:
    low = min(nodes.min(), marked.min(initial=np.inf))
    high = max(nodes.max(), marked.max(initial=-np.inf))
    margin = max(0.04 * (high - low), 5 * width)
    return float(low - margin), float(high + margin)


def _broadened(nodes: np.ndarray, weights: np.ndarray, x: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean density over the probes and its standard error, at `x`."""
    bells = np.exp(-(((x[:, None, None] - nodes) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    each = np.sum(bells * weights, axis=-1)
    sem = each.std(axis=1, ddof=1) / np.sqrt(len(nodes)) if len(nodes) > 1 else np.zeros(len(x))
    return each.mean(axis=1), sem


def _floor(nodes: np.ndarray, weights: np.ndarray, mean: np.ndarray, width: float) -> float:
    """Below the lightest bump that rises out of nothing, where a log scale begins."""
    bumps, _ = _broadened(nodes, weights, nodes[weights > 0].ravel(), width)
    return float(max(0.03 * bumps.min(), mean.max() * 10.0**-DECADES))


def _curve_label(nodes: np.ndarray, width: float) -> str:
    if len(nodes) == 1:
        return f"all eigenvalues, width {number(width, 2)}"
    return f"{len(nodes)} probes, ± {BAND_ERRORS} standard errors, width {number(width, 2)}"


def _scale_axes(ax: Axes, x: np.ndarray, scale: str, low: float, high: float) -> None:
    ax.set_xlim(x[0], x[-1])
    if scale == "log":
        ax.set_yscale("log")
        ax.set_ylim(low, high * (high / low) ** 0.08)
    else:
        ax.set_ylim(0, 1.08 * high)


def _draw_outliers(ax: Axes, values: np.ndarray, errors: np.ndarray) -> None:
    """Sticks on the lower edge, one an eigenvalue."""
    if not values.size:
        return
    color = _style.inks().cycle[1]
    edge = ax.get_xaxis_transform()
    ax.vlines(values, 0, 0.07, color=color, linewidth=0.8, transform=edge)
    ax.errorbar(values, np.full(values.shape, 0.07), xerr=errors, fmt="none", ecolor=color, transform=edge)
    name = f"eigenvalue {number(values[0], 4)}" if values.size == 1 else f"{values.size} eigenvalues"
    ax.plot(values, np.full(values.shape, 0.07), "v", color=color, markersize=4, transform=edge, label=name)
