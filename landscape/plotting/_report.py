"""A report in one figure: the plane, its profile among others, the radii, the spectrum."""

import textwrap
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.analysis import report_of
from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._plane import heatmap
from landscape.plotting._spectrum import spectrum

SIZE = (9.6, 7.0)  # inches
WRAP = 95


@_style.wearable
def report(landscape: Landscape) -> Figure:
    """The figure of a `landscape.report`, from its landscape alone.

    Args:
        landscape: as the report made it; losses over one plane, with `meta["report"]`.

    Raises:
        ValueError: the landscape holds no report.
    """
    found = report_of(landscape)
    panels = _style.new_panels(2, 2, SIZE)
    heatmap(landscape, "train_loss", ax=panels[0], contours=True, minimum=False)
    _profile(panels[1], found)
    _radii(panels[2], found)
    curved = found["curvature"]
    density = SimpleNamespace(nodes=np.asarray(curved["nodes"]), weights=np.asarray(curved["weights"]))
    spectrum(density, ax=panels[3], outliers=np.asarray(curved["eigenvalues"]))
    titles = (
        "training loss, one plane",
        "how the loss rises in random planes",
        "radii of random directions",
        "spectrum",
    )
    for ax, letter, title in zip(panels, "abcd", titles):
        ax.set_title(f"({letter}) {title}", loc="left")
    extent = found["extent"]
    says = f"drawn to {extent['value']:g}, where the training loss {extent['why']}, in the median direction"
    head = f"{found['model']['name']}, {found['model']['num_params']:,} parameters"
    _style.root_figure(panels[0]).suptitle("\n".join([head, *textwrap.wrap(says, WRAP)]), fontsize="medium")
    return _style.root_figure(panels[0])


def _profile(ax: Axes, found: dict[str, Any]) -> None:
    """Median and band over random planes, and the plane that is drawn."""
    plane, color = found["typical"], _style.inks().cycle
    distances = np.concatenate([[0], np.asarray(plane["distances"])])
    rises = np.pad(np.asarray(plane["rises"]), ((0, 0), (1, 0)))
    low, middle, high = np.quantile(rises, (0.05, 0.5, 0.95), axis=0)
    ax.fill_between(distances, low, high, color=color[0], alpha=0.25, linewidth=0, label=f"90 % of {len(rises)} planes")
    ax.plot(distances, middle, color=color[0], label="median")
    ax.plot(distances, np.concatenate([[0], np.asarray(plane["rise"])]), "--", color=color[1], label="the plane in (a)")
    ax.set(xlabel="distance", ylabel="rise of the training loss", xlim=(0, distances[-1]))
    _style.legend_below(ax)


def _radii(ax: Axes, found: dict[str, Any]) -> None:
    """Histogram of the radii, with the share, its interval, and the worst direction."""
    radius, worst, color = found["radius"], found["worst"]["value"], _style.inks().cycle
    radii = np.asarray(radius["radii"])
    finite = radii[np.isfinite(radii)]
    ax.hist(finite, bins=20, color=color[0], alpha=0.6, label=f"{len(radii)} directions")
    ax.axvspan(*radius["interval"], color=color[1], alpha=0.3, linewidth=0)
    ax.axvline(
        radius["value"], color=color[1], label=f"{radius['share']:.0%} stay under the rise: {radius['value']:.3g}"
    )
    ax.axvline(worst, color=color[2], linestyle="--", label=f"worst direction found: {worst:.3g}")
    ax.set(xlabel=f"distance at which the loss has risen by {radius['rise'][0]:.3g}", ylabel="directions")
    if worst > 0 and finite.size and finite.max() > 5 * worst:
        ax.set_xscale("log")
    _style.legend_below(ax)
