"""One colour a label, the same in every view of basins, and what the legend says of labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from landscape.analysis import DIVERGED, UNREACHED
from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._checks import check_numbers
from landscape.plotting._field import Field, field_of

# The first four are those of Okabe and Ito (2008); the others were chosen from colour-blind safe sets (Okabe and Ito,
# Tol 2021, ColorBrewer), each as far as possible from those before, for normal vision, deuteranopia and protanopia.
LABEL_CYCLE = (
    *("#56b4e9", "#e69f00", "#009e73", "#d55e00", "#eedd88", "#0077bb"),
    *("#117733", "#99ddff", "#f0e442", "#ee6677", "#999933", "#cab2d6"),
)
NAMES = {DIVERGED: "diverged", UNREACHED: "none reached"}
MOST_ENTRIES = 8  # labels that a legend names


def label_color(label: int) -> str:
    """The colour of a label: of those of the style, twelve in print, then of the same lighter, then darker."""
    if label < 0:
        return _style.inks().not_finite if label == DIVERGED else _style.inks().unreached
    cycle = _style.inks().labels or LABEL_CYCLE
    base = np.array(to_rgb(cycle[label % len(cycle)]))
    ground, share = ((0.0, 0.0), (1.0, 0.5), (0.0, 0.35))[label // len(cycle) % 3]
    return to_hex(base + share * (ground - base))


def label_hatch(label: int) -> str:
    """The pattern over the colour of a label, where the style has few colours."""
    hatches = _style.inks().hatches
    return hatches[label % len(hatches)] if hatches and label >= 0 else ""


def label_name(label: int) -> str:
    """What a label means, in words."""
    return NAMES.get(label, f"minimum {label}")


def label_field(landscape: Landscape, name: str, view: str) -> Field:
    """The labels that a view is to draw, checked.

    Raises:
        TypeError: the output does not hold integers.
    """
    field = field_of(landscape, name, view, 2)
    if landscape[name].dtype.kind not in "iu":
        raise TypeError(f"{view} draws integer labels, {name!r} holds {landscape[name].dtype}: use heatmap for numbers")
    return field


def label_rgb(labels: np.ndarray) -> np.ndarray:
    """Colours of integer labels, shape `(*labels.shape, 3)`."""
    kinds, inverse = np.unique(labels, return_inverse=True)
    table = np.array([to_rgb(label_color(int(k))) for k in kinds]).reshape(-1, 3)
    return table[inverse.reshape(labels.shape)]


def explain_labels(ax: Axes, labels: np.ndarray, num: int, prefix: str = "") -> None:
    """Legend entries with the share that each label has of `num`: the most frequent minima, the rest, the reserved."""
    kinds, counts = np.unique(labels, return_counts=True)
    minima = kinds >= 0
    by_count = np.argsort(-counts[minima], kind="stable")
    named = np.sort(by_count[: MOST_ENTRIES if len(by_count) > MOST_ENTRIES + 1 else None])
    rest = counts[minima].sum() - counts[minima][named].sum()
    for k in named:
        _entry(ax, int(kinds[minima][k]), counts[minima][k] / num, prefix)
    if rest:
        ax.plot([], [], linestyle="none", label=f"{len(by_count) - len(named)} more minima: {percent(rest / num)}")
    for label, count in zip(kinds[~minima][::-1], counts[~minima][::-1]):
        _entry(ax, int(label), count / num, prefix)


def _entry(ax: Axes, label: int, share: float, prefix: str) -> None:
    _style.swatch(ax, label_color(label), f"{prefix}{label_name(label)}: {percent(share)}", label_hatch(label))


def percent(share: float) -> str:
    """A share in print; never 0 % or 100 % for what is not."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{min(100 * share, 99.9) if share < 1 else 100.0:.1f} %".replace("100.0", "100")


def marks_of(points: Any) -> dict[str, np.ndarray]:
    """Critical points as `{"minima": (n, 2), "saddles": (n, 2), "maxima": (n, 2)}`, checked.

    Raises:
        TypeError: neither a dictionary nor a record with `indices` and `critical_points` or `points`.
        ValueError: an unknown kind or another shape.
    """
    kinds = ("minima", "saddles", "maxima")
    coords = getattr(points, "critical_points", getattr(points, "points", None))
    if coords is not None and hasattr(points, "indices"):
        coords, index = check_numbers("points", coords), check_numbers("points.indices", points.indices)
        if coords.ndim != 2 or index.shape != coords.shape[:1]:
            raise ValueError(f"points must have shape (n, 2) and indices (n,), got {coords.shape} and {index.shape}")
        points = dict(zip(kinds, (coords[index == 0], coords[index == 1], coords[index == 2])))
    if not isinstance(points, dict):
        raise TypeError(
            f"points must be a dict of coordinates by kind ({', '.join(kinds)}), or have indices and critical_points "
            f"or points; got {type(points).__name__}"
        )
    if unknown := [kind for kind in points if kind not in kinds]:
        raise ValueError(f"points holds {', '.join(kinds)}, got {unknown[0]!r}")
    marks = {kind: coords.astype(np.float64).reshape(-1, 2) for kind, coords in _pairs(points)}
    return {kind: marks[kind] for kind in kinds if len(marks.get(kind, ()))}


def _pairs(points: dict[str, Any]) -> Sequence[tuple[str, Any]]:
    arrays = {kind: check_numbers(kind, coords) for kind, coords in points.items()}
    for kind, coords in arrays.items():
        if coords.size and (coords.ndim != 2 or coords.shape[1] != 2):
            raise ValueError(f"{kind} must have shape (n, 2), got {coords.shape}")
    return list(arrays.items())
