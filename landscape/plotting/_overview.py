"""Everything about a landscape in one figure."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.analysis import generalization_gap
from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._field import Field, field_of, scale_of
from landscape.plotting._line import metric, profile
from landscape.plotting._path import trajectory
from landscape.plotting._plane import heatmap, overlay_contours
from landscape.plotting._scale import Scale

LOSSES = ("train_loss", "test_loss")
GAP = "generalization_gap"
GAP_METRIC = metric(GAP)
PANEL = (2.4, 2.6)  # inches
SINGLE = (3.4, 2.9)  # of a panel by itself
COLUMNS = 3


@_style.wearable
def overview(
    landscape: Landscape, names: Sequence[str] | None = None, *, contours: bool = True, **options: Any
) -> Figure:
    """The outputs of a landscape side by side: of losses over two axes, training, test and their gap.

    Outputs of one metric (`train_loss` and `test_loss`) share a colour scale, its colour bar and its levels. Paths in
    `landscape.meta["paths"]` are drawn on every panel.

    Args:
        landscape: a landscape with one or two axes.
        names: the outputs to draw. When None: both losses and the gap between them if there are both, else every
            output of one real number a point. `"generalization_gap"` is computed where it is not stored. Over one
            axis, each metric gets a panel.
        contours: whether to draw contour lines.
        options: passed to `heatmap`, or to `profile` for one axis.

    Raises:
        KeyError: there is no such output.
        ValueError: more than two axes, or no output to draw.
    """
    names = list(names) if names is not None else _default_names(landscape)
    if not names:
        raise ValueError(f"overview draws outputs of one real number a point, and there is none: {landscape!r}")
    if landscape.grid.ndim == 1:
        return _curves(landscape, names, options)
    return _maps(_with_gap(landscape, names), names, contours, options)


def _default_names(landscape: Landscape) -> list[str]:
    scalars = [n for n, v in landscape.values.items() if v.shape == landscape.grid.shape and v.dtype.kind in "biuf"]
    if landscape.grid.ndim > 1 and all(name in scalars for name in LOSSES):
        return [*LOSSES, GAP]
    return sorted((n for n in scalars if not n.endswith("_sem")), key=lambda n: ("loss" not in n, "test" in n))


def _with_gap(landscape: Landscape, names: Sequence[str]) -> Landscape:
    if GAP not in names or GAP in landscape:
        return landscape
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


def _maps(landscape: Landscape, names: Sequence[str], contours: bool, options: dict[str, Any]) -> Figure:
    panels = dict(zip(names, _panels(len(names))))
    scales: dict[str, tuple[Field, Scale]] = {}
    for what, group in _groups(names).items():
        fields = [field_of(landscape, name, "overview", 2) for name in group]
        shared = scale_of(fields, **_scale_options(options))
        label = "gap" if what == GAP_METRIC else what
        for field in fields:
            scales[field.name] = field, shared
            look: dict[str, Any] = {"label": label, "minimum": field.name != GAP, "colorbar": field is fields[-1]}
            look |= options
            if len(group) > 1:
                look |= {"scale": shared.kind, "vmin": shared.low, "vmax": shared.high}
            heatmap(landscape, field.name, ax=panels[field.name], **look)
            _finish(panels[field.name], landscape, field.label, names.index(field.name))
    if contours:  # labels are placed in the final layout, so after all panels
        for name, (field, shared) in scales.items():
            overlay_contours(panels[name], landscape, field, shared, 8, panels[name].collections[0].get_cmap())
    return _style.root_figure(panels[names[0]])


def _scale_options(options: dict[str, Any]) -> dict[str, Any]:
    names = ("vmin", "vmax", "robust", "center")
    return {"scale": options.get("scale", "auto"), **{n: options[n] for n in names if n in options}}


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
