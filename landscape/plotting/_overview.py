"""Everything about a landscape in one figure."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.analysis import generalization_gap
from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._checks import check_arguments
from landscape.plotting._field import field_of, scale_of
from landscape.plotting._line import metric, profile
from landscape.plotting._path import trajectory
from landscape.plotting._plane import draw_map, heatmap, overlay_contours

LOSSES = ("train_loss", "test_loss")
GAP = "generalization_gap"
GAP_METRIC = metric(GAP)
PANEL = (2.4, 2.6)  # inches
SINGLE = (3.4, 2.9)  # of a panel by itself
COLUMNS = 3


@_style.wearable
def overview(
    landscape: Landscape,
    names: Sequence[str] | None = None,
    *,
    contours: bool | int | Sequence[float] = True,
    **options: Any,
) -> Figure:
    """The outputs of a landscape side by side: of losses over two axes, training, test and their gap.

    Outputs of one metric (`train_loss` and `test_loss`) share a colour scale, its colour bar and its levels. Paths in
    `landscape.meta["paths"]` are drawn on every panel.

    Args:
        landscape: a landscape with one or two axes.
        names: the outputs to draw. When None: both losses and the gap between them if there are both, else every
            output of one real number a point. `"generalization_gap"` is computed where it is not stored. Over one
            axis, each metric gets a panel.
        contours: whether to draw contour lines; a number of levels, or the levels.
        options: passed to `heatmap`, or to `profile` for one axis.

    Raises:
        KeyError: there is no such output.
        ValueError: more than two axes, or no output to draw.
    """
    names = [names] if isinstance(names, str) else names
    names = list(dict.fromkeys(names)) if names is not None else _default_names(landscape)
    if not names:
        raise ValueError(f"overview draws outputs of one real number a point, and there is none: {landscape!r}")
    if landscape.grid.ndim == 1:
        return _curves(landscape, names, options)
    return _maps(_with_gap(landscape, names), names, contours, options)


def _default_names(landscape: Landscape) -> list[str]:
    arrays = {name: np.asarray(values) for name, values in landscape.values.items()}
    scalars = [n for n, v in arrays.items() if v.shape == landscape.grid.shape and v.dtype.kind in "biuf"]
    if landscape.grid.ndim > 1 and all(name in scalars for name in LOSSES):
        return [*LOSSES, GAP]
    return sorted((n for n in scalars if not n.endswith("_sem")), key=lambda n: ("loss" not in n, "test" in n))


def _with_gap(landscape: Landscape, names: Sequence[str]) -> Landscape:
    if GAP not in names or GAP in landscape:
        return landscape
    with np.errstate(over="ignore"):  # an infinite gap is drawn as what it is
        return landscape.assign(**{GAP: generalization_gap(landscape)})


def _groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Names by what they measure, in order of appearance."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(metric(name), []).append(name)
    return groups


def _curves(landscape: Landscape, names: Sequence[str], options: dict[str, Any]) -> Figure:
    groups = _groups(names)
    panels = _panels(len(groups))
    for ax, group in zip(panels, groups.values()):
        profile(landscape, group, ax=ax, **options)
    return _style.root_figure(panels[0])


def _maps(
    landscape: Landscape, names: Sequence[str], contours: bool | int | Sequence[float], options: dict[str, Any]
) -> Figure:
    check_arguments("heatmap", options)
    limits = {name: options[name] for name in ("vmin", "vmax", "robust", "center") if name in options}
    look = {k: v for k, v in options.items() if k not in inspect.signature(heatmap).parameters or k == "cmap"}
    groups = {what: [field_of(landscape, name, "overview", 2) for name in g] for what, g in _groups(names).items()}
    scales = {what: (g, scale_of(g, options.get("scale", "auto"), **limits)) for what, g in groups.items()}
    panels = dict(zip(names, _panels(len(names))))
    for what, (fields, shared) in scales.items():
        label = "gap" if what == GAP_METRIC else what
        for field in fields:
            own = {"label": label, "minimum": field.name != GAP, "colorbar": field is fields[-1], "aspect": "auto"}
            label, minimum, colorbar, aspect = ({**own, **options}[name] for name in own)
            bar = (label or field.label) if colorbar else None
            draw_map(panels[field.name], landscape, field, shared, bar, minimum, aspect, look)
            _finish(panels[field.name], landscape, field.label, names.index(field.name))
    if contours is not False:  # labels are placed in the final layout, so after all panels
        maps = {panels[field.name]: (field, shared) for fields, shared in scales.values() for field in fields}
        overlay_contours(landscape, maps, 8 if contours is True else contours)
    return _style.root_figure(panels[names[0]])


def _finish(ax: Axes, landscape: Landscape, title: str, place: int) -> None:
    """Paths and title; what a neighbour says already is left out."""
    if landscape.meta.get("paths"):
        trajectory(landscape, ax=ax, describe=place == 0)
    ax.set_title(title)
    if place % COLUMNS:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)


def _panels(num: int) -> list[Axes]:
    """Axes in rows of at most `COLUMNS`."""
    columns = min(num, COLUMNS)
    rows = -(-num // columns)
    size = (PANEL[0] * columns, PANEL[1] * rows) if num > 1 else SINGLE
    axes = _style.new_panels(rows, columns, [side * _style.inks().room for side in size])
    for ax in axes[num:]:
        ax.remove()
    return axes[:num]
