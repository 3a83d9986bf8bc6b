"""Paths and marked points that a page draws over a landscape: what callers may give, checked once."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape.checks import reals
from landscape.grid import Landscape
from landscape.plotting._labels import marks_of

PER_STEP = ("loss", "residual", "distance", "step")


def paths_of(landscape: Landscape, paths: Any) -> dict[str, dict[str, np.ndarray]]:
    """The paths as `{label: {"coords": (T, ndim), ..}}` in float64, with those of `PER_STEP`, shape `(T,)`, given.

    Raises:
        TypeError: neither a dictionary nor coordinates, or a label that is no text.
        ValueError: coordinates are missing, or an array has another shape.
    """
    if paths is None:
        paths = landscape.meta.get("paths") or {}
    if isinstance(paths, str):
        raise TypeError(f"paths must be {{label: {{'coords': (T, {landscape.grid.ndim})}}}}, got the text {paths!r}")
    if not isinstance(paths, Mapping) or "coords" in paths:
        paths = {"path": paths}
    return {_label(label): _path(label, path, landscape) for label, path in paths.items()}


def _label(label: Any) -> str:
    if not isinstance(label, str):
        raise TypeError(f"the label of a path must be text, got {label!r}")
    return label


def _path(label: str, path: Any, landscape: Landscape) -> dict[str, np.ndarray]:
    path, ndim = path if isinstance(path, Mapping) else {"coords": path}, landscape.grid.ndim
    if path.get("coords") is None:
        raise ValueError(f"path {label!r} lacks 'coords'; it has {', '.join(map(str, path)) or 'nothing'}")
    coords = reals(f"path {label!r}: coords", path["coords"])
    coords = coords[:, None] if ndim == 1 and coords.ndim == 1 else coords
    if ndim > 1 and coords.ndim == 2 and coords.shape[1] == ndim - 1:
        coords = _over_time(coords, path.get("step"), landscape)
    if coords.ndim != 2 or coords.shape[1] != ndim or not len(coords):
        raise ValueError(
            f"path {label!r}: coords must have shape (T, {ndim}), one row a step and one column an axis, got "
            f"{coords.shape}"
        )
    entry = {"coords": coords}
    for key in PER_STEP:
        if path.get(key) is not None:
            entry[key] = reals(f"path {label!r}: {key}", path[key])
            if entry[key].shape != coords.shape[:1]:
                shape = entry[key].shape
                raise ValueError(f"path {label!r}: {key} must have shape ({len(coords)},), one a step, got {shape}")
    return entry


def _over_time(coords: np.ndarray, step: Any, landscape: Landscape) -> np.ndarray:
    """A path over all axes but the last, as `plotting.animate` takes it, with its places on that one.

    They are its steps, or where there are none and it has a point for each, the coordinates of the axis.
    """
    last = landscape.grid.axes[-1].values if step is None else np.asarray(step, float)
    return np.column_stack([coords, last]) if last.shape == coords.shape[:1] else coords


def points_of(landscape: Landscape, points: Any) -> dict[str, np.ndarray]:
    """Critical points to mark as `{"minima": (n, 2), ..}`; none where `points` is None.

    Raises:
        TypeError: neither a dictionary nor a record of critical points.
        ValueError: an unknown kind, another shape, or a landscape without two axes.
    """
    if points is None:
        return {}
    if landscape.grid.ndim != 2:
        raise ValueError(f"points are marked on landscapes of two axes, this one has {landscape.grid.ndim}")
    return marks_of(points)
