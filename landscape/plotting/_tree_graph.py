"""Disconnectivity graphs: which minima are joined below which height."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from landscape.analysis import MergeTree
from landscape.plotting import _style
from landscape.plotting._field import flat_axes
from landscape.plotting._labels import label_color
from landscape.plotting._scale import check_reach, number
from landscape.plotting._text import as_latex, place_of, shortened, wrapped

UPRIGHT = 0.4  # share of the height of the picture for upright names
MOST_NAMES = 40  # minima that are named along the axis


@_style.wearable
def disconnectivity(
    tree: MergeTree,
    *,
    ax: Axes | None = None,
    names: Any = None,
    label: str = "loss",
    top: float | None = None,
    **options: Any,
) -> Axes:
    """The disconnectivity graph of a merge tree (Becker and Karplus 1997): a branch ends at each minimum.

    Branches join at exactly the height of the pass between them, rather than at the next of a few levels as in the
    paper. At each join the branch with the deeper minimum stands on the left. Minima have the colours of `basins`,
    and the global one is a star with its value.

    Args:
        tree: of a grid or of critical points; prune a rough one with `tree.pruned(persistence)` first.
        ax: flat axes to draw on; a new figure when None.
        names: a text for each minimum; `tree.labels` when None. Drawn for up to 40 minima.
        label: text for the vertical axis.
        top: height at which the branches that never join end; a little above everything when None.
        options: passed to `LineCollection`.

    Raises:
        ValueError: an empty tree, names of another number, or 3-D axes.
    """
    if not len(tree):
        raise ValueError("the tree has no minima to draw: its landscape has no finite value")
    names = [str(k) for k in (tree.labels if names is None else names)]
    if len(names) != len(tree):
        raise ValueError(f"names must hold one text for each of the {len(tree)} minima, got {len(names)}")
    check_reach(np.concatenate([tree.values, tree.heights]))
    ax = flat_axes(ax, "disconnectivity")
    span = _span(tree)
    top = span[1] + 0.08 * (span[1] - span[0]) if top is None else top
    x = _places(tree)
    look: dict[str, Any] = {"colors": "0.25", "linewidths": 1.0, "capstyle": "projecting", **options}
    ax.add_collection(LineCollection(_branches(tree, x, top), **look))
    best = int(np.argmin(tree.values))
    for k in range(len(tree)):
        _draw_leaf(ax, x[k], tree.values[k], int(tree.labels[k]), k == best)
    ax.set(xlim=(-0.7, len(tree) - 0.3), ylim=(span[0] - 0.16 * (span[1] - span[0]), top), ylabel=label)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    _name_leaves(ax, x, names, len(tree))
    return ax


def _span(tree: MergeTree) -> tuple[float, float]:
    """Lowest minimum and highest pass, or minimum; widened where they are one number."""
    low, high = float(tree.values.min()), float(max(tree.values.max(), tree.heights.max(initial=-np.inf)))
    return (low, high) if low < high else (low - max(0.5, 0.1 * abs(low)), high + max(0.5, 0.1 * abs(low)))


def _places(tree: MergeTree) -> np.ndarray:
    """Where each minimum stands, 0 to n - 1, so that no branches cross: the members of every branch are neighbours."""
    members = [[k] for k in range(len(tree))]
    for a, b in tree.merges.tolist():
        members[a] += members[b]
    roots = np.setdiff1d(np.arange(len(tree)), tree.merges[:, 1])
    order = [k for root in roots[np.argsort(tree.values[roots], kind="stable")] for k in members[root]]
    x = np.empty(len(tree))
    x[order] = np.arange(len(tree))
    return x


def _branches(tree: MergeTree, x: np.ndarray, top: float) -> list[list[tuple[float, float]]]:
    """Lines `((x, y), ...)`: at each merge, up from both sides and across."""
    # A branch stands in the middle of its two parts; so far, at which x it stands and from which height it rises.
    place, foot = x.tolist(), tree.values.tolist()
    lines = []
    for (a, b), height in zip(tree.merges.tolist(), tree.heights.tolist()):
        lines.append([(place[a], foot[a]), (place[a], height), (place[b], height), (place[b], foot[b])])
        place[a], foot[a] = 0.5 * (place[a] + place[b]), height
    roots = np.setdiff1d(np.arange(len(tree)), tree.merges[:, 1])
    return lines + [[(place[k], foot[k]), (place[k], top)] for k in roots.tolist()]


def _draw_leaf(ax: Axes, x: float, value: float, label: int, best: bool) -> None:
    look: dict[str, Any] = {
        "color": label_color(label),
        "markeredgecolor": "black",
        "markeredgewidth": 0.6,
        "zorder": 4,
    }
    ax.plot(x, value, marker="*" if best else "o", markersize=11 if best else 5, linestyle="none", **look)
    if best:  # below it is free: no minimum is lower
        ax.annotate(f"global minimum {number(value, 5)}", (x, value), (-4, -8), textcoords="offset points", va="top")


def _name_leaves(ax: Axes, x: np.ndarray, names: list[str], num: int) -> None:
    """The names below the axis, upright where they are long."""
    if num > MOST_NAMES:
        ax.set_xticks([])
        ax.set_xlabel(f"{num} minima")
        return
    order = np.argsort(x)
    crowded = sum(len(name) for name in names) > 45
    font, latex = ax.xaxis.label.get_fontproperties(), matplotlib.rcParams["text.usetex"]
    if crowded:
        across, up = place_of(ax)
        lines = max(1, int(0.7 * across / num / (1.4 * font.get_size_in_points())))
        names = [shortened(wrapped(name, font, UPRIGHT * up), lines) for name in names]
    names = [as_latex(name) for name in names] if latex else names
    ax.set_xticks(x[order], [names[k] for k in order], rotation=90 if crowded else 0)
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("minimum")
