"""What the doodles are drawn with: boards, darts, arrows, notes, captions."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.patches import Circle

from landscape.plotting import ACCENT, plain

ARROW: dict[str, Any] = {"arrowstyle": "->", "linewidth": 1.3, "shrinkA": 2, "shrinkB": 3}
PALE = "0.72"


def sheet(mosaic: Sequence[Sequence[str]], size: tuple[float, float], title: str, **options: Any) -> tuple[Any, Any]:
    """A figure with named panels under one heading: `(figure, {name: axes})`."""
    figure, axes = pyplot.subplot_mosaic([list(row) for row in mosaic], figsize=size, **options)
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.02, ha="left")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.12, h_pad=0.1, wspace=0.02, hspace=0.03)
    return figure, axes


def bare(ax: Any) -> None:
    """No ticks, no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def open_frame(ax: Any) -> None:
    """Two sides of the frame instead of four."""
    ax.spines[["top", "right"]].set_visible(False)


def caption(ax: Any, text: str, width: int = 44) -> None:
    """What a panel says, in words above it."""
    ax.set_title(textwrap.fill(text, width), loc="left", fontsize=9.5, fontweight="normal", pad=7)


def note(ax: Any, text: str, at: Sequence[float], to: Sequence[float], color: str = "black", **options: Any) -> None:
    """A remark at `to` with a bent arrow to `at`, in data coordinates."""
    look: dict[str, Any] = {**ARROW, "color": color, "connectionstyle": "arc3,rad=0.25", **options.pop("arrow", {})}
    ax.annotate(text, at, to, arrowprops=look, color=color, **{"fontsize": 8.5, "ha": "center", **options})


def board(ax: Any, radii: Sequence[float], unit: str = "") -> None:
    """A dartboard: rings at these radii, the truth in the middle."""
    bare(ax)
    for i, radius in enumerate(sorted(radii, reverse=True)):
        ax.add_patch(Circle((0, 0), radius, facecolor="0.93" if i % 2 == 0 else "white", edgecolor="black", zorder=0))
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        plain(ax.text(0, radius, f"{radius:g} {unit}", ha="center", va="center", fontsize=7.5, zorder=4, bbox=paper))
    edge = 1.12 * max(radii)
    ax.set(xlim=(-edge, edge), ylim=(edge, -edge), aspect="equal")  # rows of pixels count downwards


def darts(ax: Any, misses: np.ndarray, color: str = "black", size: float = 9.0, **options: Any) -> None:
    """Where the guesses landed, `(n, 2)`; those beyond the picture as triangles on its edge."""
    edge = 0.985 * ax.get_xlim()[1]
    outside = np.max(np.abs(misses), axis=1) > edge
    look: dict[str, Any] = {"color": color, "linewidths": 0.4, "edgecolors": "white", "zorder": 3, **options}
    plain(ax.scatter(*misses[~outside].T, s=size, **look))
    if outside.any():
        held = misses[outside] * (edge / np.max(np.abs(misses[outside]), axis=1, keepdims=True))
        plain(ax.scatter(*held.T, s=1.8 * size, marker="^", **look))


def bullseye(ax: Any, size: float = 60.0) -> None:
    """The truth."""
    plain(ax.scatter(0, 0, s=size, marker="x", color=ACCENT, linewidths=2.2, zorder=5))


def picture(ax: Any, image: np.ndarray) -> None:
    """A scanned digit, dark ink on white paper."""
    plain(ax.imshow(image, cmap="Greys", vmin=0, vmax=1.15 * image.max(), interpolation="nearest"))
    ax.set_xticks([])
    ax.set_yticks([])


def star(ax: Any, x: float, y: float, **options: Any) -> None:
    """The best point, in the one colour."""
    look: dict[str, Any] = {
        "color": ACCENT,
        "markeredgecolor": "black",
        "markeredgewidth": 0.7,
        "markersize": 13,
        "zorder": 6,
    }
    plain(*ax.plot(x, y, "*", **{**look, **options}))


def finished(figure: Any) -> Any:
    """The figure with its ticks made, which matplotlib would do later and in another style."""
    figure.draw_without_rendering()
    return figure


def contact_sheet(ideas: Sequence[tuple[int, Any, Any]]) -> Any:
    """The main panel of each idea on one page, under what it says: `(number, module, result)` each."""
    figure, axes = pyplot.subplots(2, 4, figsize=(16.0, 9.2))
    figure.suptitle("What a loss landscape is, in eight doodles", fontsize=17, fontweight="bold")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.14, h_pad=0.14, wspace=0.03, hspace=0.05)
    for ax, (number, module, result) in zip(axes.flat, ideas):
        module.key_panel(ax, result)
        ax.set_anchor("N")
        says = textwrap.fill(f"{number}  {module.SAYS}", 38)
        ax.set_title(says, loc="left", fontsize=11, fontweight="bold", pad=12 + 11.5 * len(module.READS.split("\n")))
        above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
        ax.annotate(module.READS, (0, 1), (0, 7), fontsize=9, color="0.25", **above)
    sheet: Any = finished(figure)
    sheet.formats = ("png", "pdf", "svg")
    return sheet
