"""What every view checks of its arguments before it draws: one rule for each option, whichever view takes it."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from landscape.analysis import MergeTree
from landscape.grid import Axis, Grid, Landscape

# What matplotlib can draw: it takes differences and ratios of limits, and puts margins and ticks around them.
LARGEST, NARROWEST, LEAST_SHARE = 1e150, 1e-150, 1e-13
MOST_LEVELS = 500
MOST_ASPECT = 1e6
MOST_BINS = 100_000


def check_arguments(view: str, arguments: Mapping[str, Any]) -> None:
    """Raise an error that names the view, the option, what it takes and what came.

    Args:
        view: its name.
        arguments: what it was called with, by name.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value of the right kind that makes no picture.
    """
    for name, value in arguments.items():
        rule = RULES.get(f"{view}.{name}", RULES.get(name))
        if rule is not None:
            rule(f"{view}: {name}", value)


def check_landscape(what: str, value: Any) -> None:
    """A `Landscape` whose axes increase, and whose mask has the shape of its grid."""
    if not isinstance(value, Landscape):
        opened = ": open a stored one with landscape.load(path)" if isinstance(value, str | os.PathLike) else ""
        raise TypeError(
            f"{what} must be a Landscape, as sweep and load return it, got {kind_of(value)}{opened or _advice(value)}"
        )
    for part in ("values", "error", "meta"):
        if not isinstance(getattr(value, part), Mapping):
            raise TypeError(f"{what}: its {part} must be a dict, got {kind_of(getattr(value, part))}")
    if not isinstance(value.grid, Grid) or not all(isinstance(axis, Axis) for axis in value.grid.axes):
        raise TypeError(
            f"{what} must have a Grid of Axis, got {kind_of(value.grid)}: build one with Grid.of(x=..., y=...)"
        )
    for axis in value.grid.axes:
        coords = np.asarray(axis.values)
        if coords.dtype.kind not in "iuf" or coords.ndim != 1 or not coords.size:
            raise ValueError(
                f"{what}: axis {axis.name!r} must hold real coordinates of shape (n,), got {kind_of(axis.values)}"
            )
        if np.all(np.isfinite(coords)) and float(np.max(np.abs(coords))) > LARGEST:
            raise ValueError(
                f"{what}: axis {axis.name!r} reaches to {np.max(np.abs(coords)):g}, which is too far to be drawn: "
                "give its coordinates in other units"
            )
        if not np.all(np.isfinite(coords)) or np.any(np.diff(coords) <= 0):
            raise ValueError(f"{what}: the coordinates of axis {axis.name!r} must be finite and increase, got {coords}")
        low, high = float(coords[0]), float(coords[-1])
        if low < high and high - low < max(NARROWEST, LEAST_SHARE * max(abs(low), abs(high))):
            raise ValueError(
                f"{what}: axis {axis.name!r}, {low:.17g} to {high:.17g}, is too narrow to be drawn: "
                "give its coordinates in other units, or as differences from the middle"
            )
    if np.shape(value.computed) != value.grid.shape or np.asarray(value.computed).dtype != bool:
        raise ValueError(
            f"{what}: computed must be a boolean mask of shape {value.grid.shape}, got {kind_of(value.computed)}"
        )


def _advice(value: Any) -> str:
    if isinstance(value, Mapping) or hasattr(value, "shape"):
        return ": give it a grid first, Landscape(grid, {name: values}, computed)"
    return ""


def check_text(what: str, value: Any) -> None:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, got {kind_of(value)}")


def check_number(what: str, value: Any) -> None:
    """A finite real number."""
    number = as_array(what, value, "a real number")
    if number.shape or number.dtype.kind not in "iuf":
        raise TypeError(f"{what} must be a real number, got {kind_of(value)}")
    if not np.isfinite(number):
        raise ValueError(f"{what} must be finite, got {value}")
    if abs(float(number)) > LARGEST:
        raise ValueError(f"{what} must be between -{LARGEST:g} and {LARGEST:g} to be drawn, got {value:g}")


def check_positive(what: str, value: Any) -> None:
    """A finite number above 0."""
    check_number(what, value)
    if not value > 0:
        raise ValueError(f"{what} must be positive, got {value}")


def check_switch(what: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{what} must be True or False, got {kind_of(value)}")


def check_axes(what: str, value: Any) -> None:
    """One set of matplotlib axes."""
    if not isinstance(value, Axes):
        advice = ": choose one of them, as in axes[0, 1]" if isinstance(value, np.ndarray | list | tuple) else ""
        raise TypeError(f"{what} must be matplotlib Axes or None, got {kind_of(value)}{advice}")


def check_colormap(what: str, value: Any) -> None:
    """A colour map or the name of one."""
    if not isinstance(value, Colormap | str):
        raise TypeError(f"{what} must be a matplotlib Colormap or the name of one, got {kind_of(value)}")
    if isinstance(value, str) and value not in matplotlib.colormaps:
        raise ValueError(f"{what}: matplotlib knows no colour map {value!r}; try viridis, cividis, magma or RdBu_r")


def check_aspect(what: str, value: Any) -> None:
    """`auto`, `equal`, or a ratio."""
    if value not in ("auto", "equal") if isinstance(value, str) else True:
        if isinstance(value, str):
            raise ValueError(f"{what} must be 'auto', 'equal' or a positive number, got {value!r}")
        check_positive(what, value)
        if not 1 / MOST_ASPECT <= value <= MOST_ASPECT:
            raise ValueError(f"{what} must be between {1 / MOST_ASPECT:g} and {MOST_ASPECT:g}, got {value:g}")


def check_center(what: str, value: Any) -> None:
    """`auto`, or a finite number."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"{what} must be 'auto', None or a number, got {value!r}")
        return
    check_number(what, value)


def check_levels(what: str, value: Any, least: int = 1) -> None:
    """A number of levels, or levels: finite numbers of shape `(n,)`."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if not least <= value <= MOST_LEVELS:
            raise ValueError(f"{what} must be between {least} and {MOST_LEVELS} levels, or the levels, got {value}")
        return
    levels = check_numbers(what, value, 1, "a whole number of levels, or the levels themselves")
    if not np.all(np.isfinite(levels)) or len(levels) > MOST_LEVELS:
        raise ValueError(f"{what} must be at most {MOST_LEVELS} finite levels, got {levels}")


def check_switch_or_levels(what: str, value: Any) -> None:
    """True, False, a number of levels (0 is none), or levels."""
    if not isinstance(value, bool | np.bool_):
        check_levels(what, value, least=0)


def check_bins(what: str, value: Any) -> None:
    """A number of bins, or their increasing edges."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if not 1 <= value <= MOST_BINS:
            raise ValueError(f"{what} must be between 1 and {MOST_BINS:,}, or the edges, got {value}")
        return
    edges = check_numbers(what, value, 1, "a whole number of bins, or their edges")
    if len(edges) < 2 or not np.all(np.isfinite(edges)) or np.any(np.diff(edges) <= 0):
        raise ValueError(f"{what} must be at least two finite edges that increase, got {edges}")


def check_numbers(what: str, value: Any, ndim: int | None = None, wanted: str = "real numbers") -> np.ndarray:
    """Real numbers, of so many dimensions, as an array."""
    array = as_array(what, value, wanted)
    if array.dtype.kind not in "biuf" and array.size:
        raise TypeError(f"{what} must be {wanted}, got {kind_of(value)}")
    if ndim is not None and array.ndim != ndim:
        raise TypeError(f"{what} must be {wanted}, got {kind_of(value)}")
    return array


def check_texts(what: str, value: Any) -> None:
    """A string or strings."""
    if isinstance(value, str):
        return
    if isinstance(value, Mapping) or not isinstance(value, Sequence | np.ndarray):
        raise TypeError(f"{what} must be a string or a list of strings, got {kind_of(value)}")
    for text in value:
        check_text(f"each of {what}", text)


def check_pair(what: str, value: Any) -> None:
    """Two strings."""
    check_texts(what, value)
    if isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{what} must be two strings, got {value!r}")


def check_list(what: str, value: Any) -> None:
    """Several things in order."""
    if not isinstance(value, Sequence | np.ndarray):
        raise TypeError(f"{what} must be a list, got {kind_of(value)}")


def check_reference(what: str, value: Any) -> None:
    """Numbers, some of them finite."""
    if not np.isfinite(check_numbers(what, value)).any():
        raise ValueError(f"{what} must hold a finite number to rank by, got {kind_of(value)}")


def check_tree(what: str, value: Any) -> None:
    """A merge tree."""
    if not isinstance(value, MergeTree):
        raise TypeError(f"{what} must be a MergeTree, as analysis.merge_tree returns it, got {kind_of(value)}")


def as_array(what: str, value: Any, wanted: str) -> np.ndarray:
    """The value as an array of any kind.

    Raises:
        TypeError: it has no rectangular shape, or is no array.
    """
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # a ragged list, a tensor of another framework
        raise TypeError(f"{what} must be {wanted}, got {kind_of(value)}: {error}") from error


def kind_of(value: Any) -> str:
    """What came, in a few words."""
    if isinstance(value, str | int | float | complex | bool | None):
        return repr(value) if len(repr(value)) < 60 else f"{type(value).__name__} of {len(repr(value))} characters"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{type(value).__name__} of {dtype} and shape {tuple(shape)}"
    return type(value).__name__


def _optional(rule: Callable[[str, Any], Any]) -> Callable[[str, Any], None]:
    """The rule, or None."""

    def check(what: str, value: Any) -> None:
        if value is not None:
            rule(what, value)

    return check


RULES: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("landscape", "before", "after"), check_landscape),
    **dict.fromkeys(("name", "train", "test", "scale", "xlabel"), check_text),
    **dict.fromkeys(("shade", "steps", "label", "style"), _optional(check_text)),
    **dict.fromkeys(("vmin", "vmax", "zmin", "zmax", "top"), _optional(check_number)),
    **dict.fromkeys(("elev", "azim"), check_number),
    "every": check_positive,
    "width": _optional(check_number),
    **dict.fromkeys(("robust", "colorbar", "minimum", "legend", "bands", "describe", "contours.labels"), check_switch),
    "ax": _optional(check_axes),
    "cmap": _optional(check_colormap),
    "aspect": check_aspect,
    "center": _optional(check_center),
    "levels": check_levels,
    **dict.fromkeys(("contours", "floor"), check_switch_or_levels),
    "bins": check_bins,
    "twin": check_texts,
    "profile.names": check_texts,
    "overview.names": _optional(check_texts),
    "verdict_change.names": _optional(check_pair),
    "disconnectivity.names": _optional(check_list),
    "reference": _optional(check_reference),
    "margin": check_numbers,
    "tree": check_tree,
}
