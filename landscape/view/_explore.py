"""A live plane in a notebook: a widget whose page asks the kernel."""

from typing import Any

from landscape.grid import Grid
from landscape.view._html import module_of, plotly_js, static
from landscape.view._serve import live_content
from landscape.view._session import Session, check_live


def explore(surface: Any, grid: Grid, *, tolerance: Any = 0.01, store: Any = None) -> Any:
    """A plane that moves, in Jupyter: zoom, pan and turn it, and the kernel sweeps what is seen.

    Each view is swept on few points first, then on all at the tolerance; a newer request gives an older one up after
    the tile under way. What was computed is read again from the store. The values are those of `sweep`.

    Args:
        surface: point function of two coordinates; of a subspace of three or more directions a plane is shown that can
            be turned within their span.
        grid: the first view, two axes of equal steps; every view has as many points.
        tolerance: as for `sweep`; None evaluates every point.
        store: folder in which the views are kept; a temporary one, deleted with the widget, when None.

    Returns:
        An `anywidget.AnyWidget`; `widget.close()` ends its thread.

    Raises:
        TypeError: no point function, or no grid.
        ValueError: a grid without two axes of equal steps.
        ImportError: anywidget or plotly is not installed.
    """
    num_axes = check_live(surface, grid)
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("a live plane in a notebook needs anywidget: pip install 'loss-atlas[view]'") from error

    class LivePlane(anywidget.AnyWidget):
        """The widget of one live plane."""

        _esm = module_of("live.js", "widget.js")
        _css = static("page.css")
        content = traitlets.Dict().tag(sync=True)
        plotly = traitlets.Unicode().tag(sync=True)

        def close(self) -> None:
            """End the thread, and forget what was kept in a temporary folder."""
            session.close()
            super().close()

    session = Session(surface, grid, lambda m: widget.send(m), num_axes=num_axes, tolerance=tolerance, store=store)
    widget = LivePlane(content=live_content(session), plotly=plotly_js())
    widget.on_msg(lambda _, request, buffers: session.ask(request) if isinstance(request, dict) else None)
    return widget
