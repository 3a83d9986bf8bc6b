"""Trainability maps in the colours of Sohl-Dickstein (2024)."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from landscape.grid import Landscape
from landscape.plotting import _style
from landscape.plotting._field import Field, cell_edges, draw_reserved, explain_reserved, field_of, flat_axes, frame
from landscape.plotting._labels import percent

BUFFER = 0.25  # half-width of the gap in the middle of the colours, as in the published notebook
TICKS = {1.0: "slowly", BUFFER: "at once", -BUFFER: "at once", -1.0: "slowly"}


def equalised(values: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """Values mapped to [-1, -1/4] and [1/4, 1] by rank within their sign, so that every shade covers equal area.

    The piecewise linear distribution function of Sohl-Dickstein's notebook (`cdf_img`): zero and above counts as
    positive; 1 is the largest value, 1/4 the smallest that is not negative, -1/4 the largest negative one.

    Args:
        values: finite numbers of any shape.
        reference: the numbers to rank by, finite, shape `(n,)`; those of `values` when None. Give several pictures
            one reference for common colours.
    """
    ranked = np.sort((values if reference is None else reference).ravel())
    if not ranked.size:
        return np.zeros(values.shape)
    below = int(np.sum(ranked < 0))
    place = [np.linspace(-1, -BUFFER, below), np.linspace(BUFFER, 1, len(ranked) - below)]
    return np.interp(values, ranked, np.concatenate(place))


@_style.wearable
def trainability(
    landscape: Landscape,
    name: str = "value",
    *,
    ax: Axes | None = None,
    reference: Any = None,
    cmap: Any = None,
    colorbar: bool = True,
    legend: bool = True,
    aspect: str | float = "auto",
    **options: Any,
) -> Axes:
    """Where training converges (blue) and diverges (red), each side equalised by rank (Sohl-Dickstein 2024, figure 1).

    The deepest colours border on each other: they are the runs that converge or diverge most slowly. We use a colour
    map safe for the colour-blind; the paper's is `cmap="Spectral"`.

    Args:
        landscape: a landscape with two axes, usually decimal logarithms of learning rates; their labels are drawn.
        name: the output to draw: positive where training converged, the sum of the normalised losses, and negative
            where it diverged, minus the sum of their inverses.
        ax: flat axes to draw on; a new figure when None.
        reference: values to rank by; those of the picture when None.
        cmap: colour map with the colours of divergence at its lower end; when None that of the style (`RdYlBu`).
        colorbar: whether to draw the colour bar.
        legend: whether to draw the legend, which gives both shares.
        aspect: as in `heatmap`.
        options: passed to `Axes.pcolormesh`.

    Raises:
        KeyError: there is no such output.
        TypeError: the output is not real.
        ValueError: another number of axes, several values a point, or 3-D axes.
    """
    field = field_of(landscape, name, "trainability", 2)
    ax = flat_axes(ax, "trainability")
    shades = _shades(field, reference)
    edges = [cell_edges(axis.values) for axis in landscape.grid.axes]
    look: dict[str, Any] = {
        "cmap": cmap or _style.inks().verdicts,
        "norm": Normalize(-1, 1),
        "rasterized": True,
        **options,
    }
    mesh = ax.pcolormesh(*edges, shades.T, **look)
    _style.plain(mesh)
    draw_reserved(ax, landscape.grid, field)
    _explain(ax, field, mesh)
    if colorbar:
        _draw_bar(ax, mesh)
    frame(ax, landscape.grid, aspect)
    if legend:
        _style.legend_below(ax)
    return ax


def _shades(field: Field, reference: Any) -> np.ma.MaskedArray:
    if reference is not None:
        reference = np.asarray(reference, dtype=np.float64).ravel()
        reference = reference[np.isfinite(reference)]
    ranks = np.zeros(field.values.shape)
    ranks[field.shown] = equalised(field.measured, reference)
    return np.ma.masked_where(~field.shown, ranks)


def _explain(ax: Axes, field: Field, mesh: Any) -> None:
    """Both shares in the legend, among the cells with a value."""
    num = max(1, field.measured.size)
    for side, text, count in (
        (1, "converged", np.sum(field.measured >= 0)),
        (-1, "did not converge", np.sum(field.measured < 0)),
    ):
        color = mesh.get_cmap()(mesh.norm(0.75 * side))
        _style.swatch(ax, color, f"{text}: {percent(count / num)}")
    explain_reserved(ax, field)


def _draw_bar(ax: Axes, mesh: Any) -> None:
    """A colour bar in words: the ranks have no unit. Its middle, which no value has, is blank."""
    cax = ax.inset_axes((1.035, 0, 0.05, 1))
    bar = ax.figure.colorbar(mesh, cax=cax)
    _style.dress_bar(bar, ax)
    bar.set_ticks(list(TICKS), labels=list(TICKS.values()))
    cax.axhspan(-BUFFER, BUFFER, color="white", zorder=3)
    cax.set_ylabel("← diverges      converges →")
