"""What a page says about a landscape, as plain JSON data: axes, outputs, promises, provenance in plain words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from landscape.grid import Axis, Landscape
from landscape.plotting._field import cell_edges, is_log_spaced
from landscape.plotting._labels import label_color, label_name
from landscape.plotting._style import inks
from landscape.store import encode, flatten
from landscape.view._packing import EXACT_INTEGERS, pack

SEM = "_sem"  # how the standard error of an output is called
MOST_COMPONENTS = 16  # of an output with several numbers a point
MOST_LABELS = 4096
MOST_RECORDS, MOST_TEXT = 400, 2000  # entries of the record, characters of each
OUTCOMES = {0: ("converged", 0), 1: ("stopped at the last step", -1), 2: ("diverged", -2)}
SWITCH = {0: ("no", 1), 1: ("yes", 0)}


def content(landscape: Landscape, title: str, overlays: Mapping[str, Any]) -> dict[str, Any]:
    """One landscape of a page.

    Args:
        landscape: the landscape.
        title: what it is called.
        overlays: `{"paths": .., "points": ..}`, as `_paths` returns them.
    """
    columns, left_out = _columns(landscape)
    outputs = {name: _output(landscape, name, *column) for name, column in columns.items()}
    for name, output in outputs.items():
        output["sem"] = f"{name}{SEM}" if f"{name}{SEM}" in outputs else None
    paths = {label: {k: pack(v) for k, v in path.items()} for label, path in overlays["paths"].items()}
    return {
        "title": title,
        "axes": [_axis(axis) for axis in landscape.grid.axes],
        "outputs": outputs,
        "computed": None if landscape.computed.all() else pack(landscape.computed),
        "paths": paths,
        "points": {kind: pack(coords) for kind, coords in overlays["points"].items()},
        "about": list(_about(landscape)),
        "trust": [*_trust(landscape.meta), *left_out],
        "record": _record(landscape.meta),
    }


def palettes() -> dict[str, Any]:
    """The colours of `plotting`: `{name: 256 colours}` for quantities, and those reserved for what has no value."""
    maps = {"sequential": inks().sequential, "diverging": inks().diverging, "verdicts": inks().verdicts}
    shades = {name: [to_hex(colormaps[cmap](i)) for i in range(256)] for name, cmap in maps.items()}
    return {**shades, "not_finite": inks().not_finite, "not_computed": inks().not_computed, "paths": list(inks().paths)}


# --------------------------------------------------------------------------------------------- axes and outputs


def _axis(axis: Axis) -> dict[str, Any]:
    edges = cell_edges(axis.values)
    return {
        "name": axis.name,
        "label": axis.text,
        "values": pack(axis.values),
        "edges": pack(edges),
        "log": is_log_spaced(axis.values),
    }


def _columns(landscape: Landscape) -> tuple[dict[str, tuple[str, np.ndarray]], list[str]]:
    """Arrays of one number a point by the name that the page shows, with the output they are of; what was left out."""
    columns: dict[str, tuple[str, np.ndarray]] = {}
    left_out = []
    for name, values in landscape.values.items():
        why = _unfit(landscape, values)
        if why:
            left_out.append(f"The output “{name}” is not on this page: {why}.")
            continue
        for component in np.ndindex(values.shape[landscape.grid.ndim :]):
            columns["_".join([name, *map(str, component)])] = (name, values[(..., *component)])
    return columns, left_out


def _unfit(landscape: Landscape, values: np.ndarray) -> str:
    """Why the values cannot be shown, or nothing."""
    count = int(np.prod(values.shape[landscape.grid.ndim :]))
    if values.dtype.kind not in "biufV" or values.dtype.names:
        return f"it holds {values.dtype}, not real numbers"
    if values.dtype.kind in "iu" and values.size and max(-int(values.min()), int(values.max())) > EXACT_INTEGERS:
        return "it holds integers beyond 2**53, which a browser cannot show exactly"
    if count > MOST_COMPONENTS:
        return f"it holds {count:,} numbers a point; choose an entry with landscape.assign"
    return ""


def _output(landscape: Landscape, name: str, source: str, values: np.ndarray) -> dict[str, Any]:
    predicted = values.dtype.kind not in "biu" or landscape.predicts(source)
    role = _role(landscape, name, values)
    labels = _categories(name, values, landscape.computed) if role == "labels" else []
    return {
        "label": name.replace("_", " "),
        "role": role,
        "share": "accuracy" in name,
        "stored": values.dtype.name,
        "values": pack(values),
        "predicts": bool(predicted),
        "promise": _promise(landscape, source),
        "categories": labels,
    }


def _role(landscape: Landscape, name: str, values: np.ndarray) -> str:
    """`labels` for what has kinds rather than sizes, `trainability` for its own colours, `number` otherwise."""
    if name == "value" and "converged" in landscape:
        return "trainability"
    kinds = name in ("label", "labels", "outcome") or name.endswith(("_label", "_labels"))
    if values.dtype.kind == "b" or (values.dtype.kind in "iu" and kinds):
        return "labels" if len(np.unique(values)) <= MOST_LABELS else "number"
    return "number"


def _categories(name: str, values: np.ndarray, computed: np.ndarray) -> list[dict[str, Any]]:
    """The kinds that occur: value, name in words, colour."""
    known = SWITCH if values.dtype.kind == "b" else OUTCOMES if name == "outcome" else {}
    kinds = [int(kind) for kind in np.unique(values)]
    named = {kind: known.get(kind, (label_name(kind), kind)) for kind in kinds}
    return [{"value": kind, "name": text, "color": label_color(color)} for kind, (text, color) in named.items()]


# ------------------------------------------------------------------------------------------------ plain words


def _promise(landscape: Landscape, name: str) -> str:
    """What is promised of the predicted values of an output."""
    refinement = _mapping(landscape.meta.get("refinement"))
    said = _mapping(_mapping(refinement.get("outputs")).get(name))
    error, fraction = landscape.error.get(name), said.get("fraction")
    confidence = float(refinement.get("confidence") or 0.95)
    unit = " decades" if said.get("transform") == "log" else ""
    words = ["predicted from measured neighbours"]
    if error is not None:
        words.append(f"estimated largest error {error:.3g}{unit}")
    if fraction == 1:  # in the middle of a sweep
        words.append("nothing is promised yet")
    elif isinstance(fraction, int | float):
        wrong = "have a wrong label" if said.get("driver") == "labels" else "are off by more"
        words.append(f"with {confidence:.0%} confidence at most {fraction:.2%} of all points {wrong}")
    return "; ".join(words)


def _about(landscape: Landscape) -> Iterator[str]:
    """How the values came about."""
    grid, num = landscape.grid, int(landscape.computed.sum())
    shape = " × ".join(f"{n:,}" for n in grid.shape)
    rest = "" if num == grid.size else f" ({num / grid.size:.1%}); the others were predicted or left out"
    yield f"{shape} points; {num:,} of {grid.size:,} were measured{rest}."
    made = _mapping(landscape.meta.get("provenance"))
    if made:
        versions = ", ".join(f"{key} {made[key]}" for key in ("landscape", "jax", "numpy", "python") if key in made)
        yield f"Computed with {versions} in {made.get('precision', 'unknown')} precision, {made.get('written', '')}."
    calls = landscape.meta.get("calls")
    for call in calls if isinstance(calls, Sequence) else ():
        call = _mapping(call)
        devices = ", ".join(map(str, call.get("devices") or ()))
        yield f"{call.get('evaluations', 0):,} evaluations in {call.get('seconds', 0):,} s on {devices}."


def _trust(meta: Mapping[str, Any]) -> Iterator[str]:
    """What limits the trust in the picture: the sweep's own doubts, and the geometry of the plane where recorded."""
    refinement = _mapping(meta.get("refinement"))
    for name, why in _mapping(refinement.get("left_out")).items():
        yield f"“{name}” is known only where it was measured: it {why}."
    yield from (f"{said}." for said in refinement.get("warnings") or ())
    for said in (meta, *(_mapping(entry) for entry in meta.values())):
        yield from _geometry(said)


def _geometry(said: Mapping[str, Any]) -> Iterator[str]:
    """Gram matrix, residual and gradient share, in words."""
    gram, share = _array(said.get("gram")), _array(said.get("gradient_share"))
    if gram is not None and gram.ndim == 2 and len(gram) == gram.shape[1] and np.all(np.diag(gram) > 0):
        lengths = np.sqrt(np.diag(gram))
        angles = np.degrees(np.arccos(np.clip(gram / np.outer(lengths, lengths), -1, 1)))[np.triu_indices(len(gram), 1)]
        words = f"The directions have lengths {', '.join(f'{x:.4g}' for x in lengths)}"
        yield words + (f" and meet at {', '.join(f'{a:.1f}°' for a in angles)}." if len(angles) else ".")
    residual, length = _array(said.get("path_residual")), _array(said.get("path_length"))
    if residual is not None and not residual.ndim:
        whole = f", {residual / length:.0%} of its length" if length is not None and length > 0 else ""
        yield f"The path lies up to {residual:.3g} off this plane{whole}."
    if share is not None and share.size:
        last = share.ravel()[-1]
        yield f"On average {np.mean(share):.1%} of the squared gradient lies in this plane, {last:.1%} at the end."


def _array(value: Any) -> np.ndarray | None:
    """A finite array of numbers, or None."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.size and np.all(np.isfinite(array)) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _record(meta: Mapping[str, Any]) -> list[list[str]]:
    """Everything recorded, as pairs of key and value; paths and digests of arrays are left to `landscape info`."""
    plain = {key: value for key, value in meta.items() if key != "paths"}
    flat = {k: v for k, v in flatten(encode(plain)).items() if ".arrays." not in f".{k}"}
    return [[str(key), _cut(str(value))] for key, value in list(flat.items())[:MOST_RECORDS]]


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
