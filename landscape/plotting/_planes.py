"""Many planes at once: small multiples in one colour scale, and how the values rise from the middle in all of them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._checks import check_arguments
from landscape.plotting._field import field_of, flat_axes, scale_of
from landscape.plotting._plane import draw_map

COLUMNS = 4
PANEL = (1.9, 1.8)  # inches
BAND = (0.05, 0.5, 0.95)  # shares of the planes


@_style.wearable
def planes(landscape: Landscape, name: str, *, most: int = 11, own: Landscape | None = None, **options: Any) -> Figure:
    """A plane in each panel, all in one colour scale; the last panel has the radial profile of all of them.

    Args:
        landscape: a landscape whose first axis numbers planes, as of a `LossSurface` over `subspace.Planes`.
        name: the output to draw, one real number a point.
        most: panels for planes; further ones are in the profile only.
        own: a plane to compare with, over the last two axes: it gets the first panel, and a line in the profile.
        options: `scale`, `vmin`, `vmax`, `robust`, `center` and `cmap` of `heatmap`.

    Raises:
        KeyError: there is no such output.
        TypeError, ValueError: as for `heatmap`; another number of axes than three, or no panel.
    """
    check_arguments("heatmap", options)
    if most < 1:
        raise ValueError(f"most must be at least 1 panel, got {most}")
    numbers = landscape.grid.axes[0]
    field_of(landscape, name, "planes", 3)
    each = [landscape.slice(**{numbers.name: i}) for i in range(min(most, len(numbers)))]
    titles = [f"{numbers.name} {value:g}" for value in numbers.values]
    if own is not None:
        each, titles = [own, *each[: most - 1]], ["this plane", *titles]
    fields = [field_of(part, name, "planes", 2) for part in each]
    colors = scale_of(fields, options.pop("scale", "auto"), **_limits(options))
    panels = _panels(len(each) + 1)
    for place, (ax, part, field, title) in enumerate(zip(panels, each, fields, titles)):
        draw_map(ax, part, field, colors, None, False, "auto", options)
        _trim(ax, title, place, len(each))
    mesh = panels[0].collections[0]
    _style.root_figure(panels[0]).colorbar(mesh, ax=panels[: len(each)], label=fields[0].label)
    radial_profile(landscape, name, own=own, ax=panels[len(each)])
    return _style.root_figure(panels[0])


def _limits(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options.pop(key) for key in ("vmin", "vmax", "robust", "center") if key in options}


def _panels(num: int) -> list[Axes]:
    columns = min(num, COLUMNS)
    rows = -(-num // columns)
    panels = _style.new_panels(rows, columns, (PANEL[0] * columns + 1, PANEL[1] * rows))
    for ax in panels[num:]:
        ax.remove()
    return panels[:num]


def _trim(ax: Axes, title: str, place: int, num: int) -> None:
    """The title alone; only the first panel says what the axes are, since all are alike."""
    ax.set_title(title, fontsize="small")
    ax.tick_params(labelbottom=place == 0, labelleft=place == 0, labelsize="small")
    if place:
        ax.set(xlabel="", ylabel="")


@_style.wearable
def radial_profile(
    landscape: Landscape, name: str, *, ax: Axes | None = None, own: Landscape | None = None, scale: str = "linear"
) -> Axes:
    """Mean of an output over circles about the middle: median over all planes, and the band of 90 % of them.

    Args:
        landscape: a landscape whose first axis numbers planes.
        name: the output.
        ax: flat axes to draw on; a new figure when None.
        own: a plane to compare with, over the last two axes.
        scale: of the values, `"linear"` or `"log"`.

    Raises:
        KeyError: there is no such output.
        TypeError, ValueError: as for `planes`, or an unknown scale.
    """
    if scale not in ("linear", "log"):
        raise ValueError(f"scale must be 'linear' or 'log', got {scale!r}")
    field = field_of(landscape, name, "radial_profile", 3)
    distance, circles = circle_means(landscape, name)
    ax = flat_axes(ax, "radial_profile")
    low, middle, high = np.nanquantile(circles, BAND, axis=0)
    color, other = _style.inks().cycle[:2]
    num = len(circles)
    ax.fill_between(distance, low, high, color=color, alpha=0.25, linewidth=0, label=f"90 % of {num} planes")
    ax.plot(distance, middle, color=color, label="median")
    if own is not None:
        ax.plot(*(x.T for x in circle_means(own, name)), color=other, linestyle="--", label="this plane")
    ax.set(xlabel="distance", ylabel=field.label, yscale=scale, xlim=(0, distance[-1]))
    _style.legend_below(ax)
    return ax


def circle_means(landscape: Landscape, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the middle, `(m,)`, and the mean of an output over each circle, `(planes, m)`.

    Points count to the nearest of `m` rings, as many as there are points from the middle to an edge; what is not finite
    makes its ring NaN.
    """
    x, y = landscape.grid.axes[-2:]
    away = np.hypot(*np.meshgrid(x.values, y.values, indexing="ij")).ravel()
    reach = min(np.abs(axis.values[[0, -1]]).min() for axis in (x, y))
    count = max(2, min(len(x), len(y)) // 2 + 1)
    rings = np.linspace(0, reach, count)
    nearest = np.rint(away / rings[1]).astype(int)
    values = np.asarray(landscape[name], np.float64).reshape(-1, away.size)
    inside = [values[:, nearest == i] for i in range(count)]
    means = np.stack([part.mean(axis=1) if part.size else np.full(len(values), np.nan) for part in inside], axis=1)
    filled = np.array([part.size > 0 for part in inside])
    return rings[filled], means[:, filled]
