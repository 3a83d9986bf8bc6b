"""What a store writes of a plan and of meta entries, as JSON and back."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

MAX_DEPTH = 64  # of meta entries, which JSON readers can follow
NOT_FINITE = {"nan", "inf", "-inf"}


def plan_differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`{field: (stored, requested)}` of the fields that differ, nested ones joined by dots."""
    old, new = flatten(_plain(stored)), flatten(_plain(requested))
    return {k: (old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}


def _plain(tree: Mapping[str, Any]) -> Any:
    """As it stands in the store, whatever version wrote it."""
    return json.loads(json.dumps(encode(tree)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one level, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


# ---------------------------------------------------------------------------------------------------- plain data


def encode(value: Any) -> Any:
    """Plain JSON data: arrays become lists, floats that JSON lacks become `{"float": "nan"}`.

    A dict that looks like such a float is wrapped, as `{"mapping": {"float": ...}}`, so that it comes back as it was.
    """
    if isinstance(value, Mapping):
        plain = {str(k): encode(v) for k, v in value.items()}
        return {"mapping": plain} if plain.keys() in ({"float"}, {"mapping"}) else plain
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if hasattr(value, "tolist"):
        return encode(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(float(value))}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def decode(value: Any) -> Any:
    """The inverse of `encode`, as far as JSON keeps types."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    inner = value.get("mapping")
    if value.keys() == {"mapping"} and isinstance(inner, dict) and inner.keys() in ({"float"}, {"mapping"}):
        value = inner
    elif value.keys() == {"float"} and isinstance(value["float"], str) and value["float"] in NOT_FINITE:
        return float(value["float"])
    return {k: decode(v) for k, v in value.items()}


def check_plain(value: Any, where: str, depth: int = MAX_DEPTH) -> None:
    """Raise unless `encode` keeps what this means.

    Raises:
        TypeError: it holds what JSON cannot.
        ValueError: it is nested too deeply, a number has too many digits, or two keys are the same text.
    """
    if depth == 0:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} levels deep, or holds itself")
    if isinstance(value, Mapping):
        if len({str(key) for key in value}) < len(value):
            raise ValueError(f"two keys of {where} are the same text; keys are stored as text")
        for key, inner in value.items():
            check_plain(inner, f"{where}[{key!r}]", depth - 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            check_plain(inner, f"{where}[{i}]", depth - 1)
    elif hasattr(value, "tolist"):
        if np.asarray(value).dtype.kind not in "biufVUO" or np.iscomplexobj(value):
            raise TypeError(f"{where} is an array of {np.asarray(value).dtype}, which JSON lacks: give real numbers")
        if np.asarray(value).dtype.kind == "O":
            check_plain(np.asarray(value).tolist(), where, depth - 1)
    elif not isinstance(value, str | int | float | os.PathLike | None):
        raise TypeError(f"{where} is of type {type(value).__name__}: give text, numbers, lists, dicts or arrays")
    elif isinstance(value, int) and value.bit_length() > 10_000:
        raise ValueError(f"{where} is a number of more than 3,000 digits; store it as text")
