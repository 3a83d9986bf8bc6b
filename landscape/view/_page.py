"""`page`: what is asked for, checked, and the page of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from landscape.grid import Landscape, check_landscape
from landscape.store import flatten
from landscape.view._content import content, palettes
from landscape.view._html import html
from landscape.view._paths import paths_of, points_of

MOST_BYTES = 2**28  # of values in one page: browsers hold no text beyond half a gigabyte


def page(
    landscape: Landscape | Mapping[str, Landscape] | Sequence[Landscape],
    *,
    output: str | None = None,
    paths: Any = None,
    points: Any = None,
    title: str | None = None,
) -> str:
    """One self-contained HTML page that shows landscapes; it makes no request.

    Values travel as they are stored, so that the page shows them to the last bit. What a sweep at a tolerance predicted
    is hatched, what is not finite or was not computed has the reserved colours of `plotting`. Landscapes of one grid
    stand side by side under one cursor, and their difference can be shown; those of other grids are chosen from a list.
    A landscape of one axis is shown as a profile, further axes beyond two get sliders.

    Args:
        landscape: one, several, or several by name.
        output: the output that is shown first; a training loss by default, or labels where there are some.
        paths: `{label: {"coords": (T, ndim), ..}}` over the axes of the grid, or `{label: coords}`, or coordinates
            alone. Those of a landscape over time, as `plotting.animate` takes them, may leave out the last axis, where
            they are at their `step`. Optional beside `coords`, each of shape `(T,)`: `loss` of the model itself at each
            step, `residual` (Euclidean distance from the plane in parameter space), `distance` (from the plane's
            origin, of which the residual is a part), `step` (the number of the training step). By default those of
            each landscape's `meta["paths"]`; `{}` is none.
        points: critical points to mark, as for `plotting.basins`.
        title: the title of the page; the name of the first landscape by default.

    Returns:
        The text of the page, to be written as UTF-8.

    Raises:
        TypeError: something else than landscapes, or an option of another kind.
        KeyError: no landscape has that output.
        ValueError: no landscape at all, no output that a page can show, arrays of another shape, or more than 256 MiB
            of values.
        ImportError: plotly is not installed.
    """
    named = _named(landscape)
    _check(named, output, title)
    shown = [
        content(one, name, {"paths": paths_of(one, paths), "points": points_of(one, points)})
        for name, one in named.items()
    ]
    for one, name in zip(shown, named):
        if not one["outputs"]:
            raise ValueError(f"{name}: no output can be shown: {' '.join(one['trust']) or 'it has none'}")
    first = output or _first_output(shown[0]["outputs"])
    return html(
        {
            "title": title or "",
            "output": first,
            "kind": _kind(shown[0]["outputs"], next(iter(named.values()))),
            "landscapes": sorted(shown, key=lambda one: first not in one["outputs"]),
            "palette": palettes(),
        }
    )


def _named(landscape: Any) -> dict[str, Landscape]:
    """The landscapes by name."""
    if isinstance(landscape, Landscape):
        return {_name_of(landscape): landscape}
    if isinstance(landscape, Mapping):
        named = dict(landscape)
    elif isinstance(landscape, Sequence) and not isinstance(landscape, str):
        named = {f"landscape {i}": one for i, one in enumerate(landscape, 1)}
    else:
        check_landscape(landscape)
    for name, one in named.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of landscapes must be text, got {name!r}")
        check_landscape(one)
    if not named:
        raise ValueError("there is no landscape to show: give one, a list, or a dictionary of them by name")
    return named


def _name_of(landscape: Landscape) -> str:
    """What a landscape calls itself: the model of its surface, or its outputs."""
    for entry in landscape.meta.values():
        if isinstance(entry, Mapping) and isinstance(entry.get("model"), str):
            return entry["model"]
    return "Loss landscape" if any("loss" in name for name in landscape) else "Landscape"


def _check(named: Mapping[str, Landscape], output: Any, title: Any) -> None:
    for what, value in (("output", output), ("title", title)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{what} must be text, got {type(value).__name__} {value!r}")
    if output is not None and not any(output in one for one in named.values()):
        known = sorted({name for one in named.values() for name in one})
        raise KeyError(f"no output {output!r} in these landscapes; they have {', '.join(known)}")
    for one in named.values():
        one.grid.check()
    size = sum(values.nbytes for one in named.values() for values in one.values.values())
    if size > MOST_BYTES:
        raise ValueError(
            f"the values are {size / 2**20:,.0f} MiB, and a page holds at most {MOST_BYTES / 2**20:,.0f}: fix some "
            "axes with landscape.slice, or leave outputs out"
        )


def _first_output(outputs: Mapping[str, Any]) -> str:
    """What is shown first: labels, then a training loss, then any."""
    wanted = ("label", "value", "train_loss", "loss", "test_loss")
    shown = [
        name for name in wanted if outputs.get(name, {}).get("role") == ("labels" if name == "label" else "number")
    ]
    if outputs.get("value", {}).get("role") == "trainability":
        return "value"
    return (shown or [name for name in outputs if name.endswith("loss")] or list(outputs))[0]


def _kind(outputs: Mapping[str, Any], landscape: Landscape) -> str:
    """What a point of the landscape is, where the outputs tell."""
    if outputs.get("value", {}).get("role") == "trainability":
        return "trainability"
    if {"outcome", "label"} <= outputs.keys():
        return "basins"
    plan = landscape.meta.get("plan")
    keys = flatten(plan) if isinstance(plan, Mapping) else {}
    on_plane = any(".at.directions" in key for key in keys) and any("loss" in name for name in outputs)
    return "surface" if on_plane else ""
