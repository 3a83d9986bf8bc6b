"""What a landscape shows of itself in a notebook: a small table and a picture, without a script."""

import base64
import html
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.grid import Landscape

MOST_BYTES = 100_000
MOST_ROWS, MOST_TEXT = 12, 60  # outputs that the table names, characters of a name
MOST_POINTS = 256  # along each side of the picture
SIZES = ((4.2, 3.2, 110), (4.2, 3.2, 72), (3.4, 2.6, 50))  # inches and dots an inch, tried until it is small enough


def summary(landscape: Landscape) -> str:
    """A table of the outputs and a picture of the first, as HTML of at most 100 kB.

    Names are escaped, and cut after 60 characters.
    """
    table = "".join(_table(landscape))
    picture = _picture(landscape, MOST_BYTES - len(table.encode()) - 1000)
    return f'<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">{picture}{table}</div>'


def _table(landscape: Landscape) -> Iterator[str]:
    axes = "; ".join(
        f"{_text(a.text)}: {len(a):,} in [{a.values[0]:.4g}, {a.values[-1]:.4g}]"
        for a in landscape.grid.axes[:MOST_ROWS]
    )
    num, size = int(landscape.computed.sum()), landscape.grid.size
    yield f"<div><b>Landscape</b><br>{axes}<br>{num:,} of {size:,} points measured"
    yield "<table><thead><tr><th>output</th><th>least</th><th>largest</th><th>not finite</th></tr></thead><tbody>"
    for name in landscape.names[:MOST_ROWS]:
        yield f"<tr><td>{_text(name)}</td>{''.join(_cells(landscape, name))}</tr>"
    yield "</tbody></table>"
    rest = len(landscape.names) - MOST_ROWS
    yield f"{f'and {rest} more outputs' if rest > 0 else ''}</div>"


def _cells(landscape: Landscape, name: str) -> Iterator[str]:
    """Extremes of what was measured, and how much of it is not finite."""
    found = landscape[name][landscape.computed]
    if found.dtype.kind not in "biuf":
        yield f"<td colspan=3>{_text(str(found.dtype))}</td>"
        return
    finite = found[np.isfinite(found)]
    for extreme in (np.min, np.max):
        yield f"<td>{extreme(finite):.6g}</td>" if finite.size else "<td>none</td>"
    yield f"<td>{found.size - finite.size:,}</td>"


def _text(text: str) -> str:
    text = text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"
    return f"<bdi>{html.escape(text)}</bdi>"


def _picture(landscape: Landscape, room: int) -> str:
    """The first output that can be drawn, in the middle of further axes, as a PNG of at most so many bytes."""
    thin = _drawable(landscape)
    if thin is None:
        return ""
    for width, height, dpi in SIZES:
        data = base64.b64encode(_png(*thin, (width, height), dpi)).decode("ascii")
        if len(data) <= room:
            return f'<img alt="{html.escape(thin[1][:MOST_TEXT])}" src="data:image/png;base64,{data}">'
    return ""


def _drawable(landscape: Landscape) -> tuple[Landscape, str] | None:
    """One output over at most two axes, thinned."""
    first = [n for n in ("label", "train_loss", "loss", "value") if n in landscape]
    names = [n for n in (*first, *landscape) if landscape[n].shape == landscape.grid.shape]
    names = [n for n in names if landscape[n].dtype.kind in "iuf"]
    if not names or not landscape.grid.ndim:
        return None
    middle = {axis.name: len(axis) // 2 for axis in landscape.grid.axes[2:]}
    flat = landscape.slice(**middle) if middle else landscape
    return _thinned(flat, names[0]), names[0]


def _thinned(landscape: Landscape, name: str) -> Landscape:
    steps = [-(-n // MOST_POINTS) for n in landscape.grid.shape]
    key = tuple(slice(None, None, step) for step in steps)
    axes = tuple(type(a)(a.name, a.values[k], a.label) for a, k in zip(landscape.grid.axes, key))
    values = {name: landscape[name][key]}
    error = {name: landscape.error.get(name)}
    return Landscape(type(landscape.grid)(axes), values, landscape.computed[key], error, dict(landscape.meta))


def _png(landscape: Landscape, name: str, size: tuple[float, float], dpi: float) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from landscape import plotting

    with plotting.style("paper"):
        figure = Figure(figsize=size, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        ax = figure.add_subplot()
        if landscape.grid.ndim == 1:
            plotting.profile(landscape, [name], ax=ax)
        elif name == "label":
            plotting.basins(landscape, name, ax=ax)
        else:
            plotting.heatmap(landscape, name, ax=ax, minimum=False)  # the thinned one need not hold it
        buffer = io.BytesIO()
        canvas.print_figure(buffer, dpi=dpi, format="png")
    return buffer.getvalue()
