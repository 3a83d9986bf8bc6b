"""Checks at the public entry: what came is named before JAX trips over it, and warnings point at the user's own line.

In NumPy and the standard library alone.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

MOST = 2**31 - 1  # that a count of steps in a compiled program holds


def reals(name: str, values: Any, finite: bool = False) -> np.ndarray:
    """Real numbers or booleans as an array in float64; with `finite`, none of them NaN or infinite.

    Raises:
        TypeError: text, `None`, complex numbers, objects.
        ValueError: rows of several lengths, or a number that is not finite.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be an array of real numbers, rows of one length, got {short(values)}") from error
    # bfloat16 and its like are void to NumPy, which can cast them all the same
    if array.dtype.kind not in "biuf" and not (array.dtype.kind == "V" and np.can_cast(array.dtype, np.float64)):
        raise TypeError(f"{name} must be an array of real numbers, got {short(values)}")
    array = array.astype(np.float64, copy=False)
    if finite and not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {short(values)}")
    return array


def short(value: Any) -> str:
    """A value in few words: `object array of shape (2,)`, `str 'abc'`."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"{value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__} {value!r}"[:80]


def check_number(name: str, value: Any) -> None:
    """Raise `TypeError` unless it is a real number."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or array.ndim:
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")


def check_flag(name: str, value: Any) -> None:
    """Raise `TypeError` unless it is `True` or `False`."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {short(value)}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise `TypeError` unless it is text, `ValueError` unless it is one of the choices."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, choices))}, got {short(value)}")
    if value not in (known := list(choices)):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def check_share(name: str, value: Any) -> None:
    """Raise `TypeError` unless it is a number, `ValueError` unless it lies in (0, 1)."""
    check_number(name, value)
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {value!r}")


def check_count(name: str, value: Any, least: int | None = None) -> None:
    """Raise `TypeError` unless it is an integer, `ValueError` unless it is at least `least` and fits into 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > MOST:
        raise ValueError(f"{name} must be at most {MOST}, got {value}")


# ------------------------------------------------------------------------------------------------------ user's code


class NoFactory(ValueError):
    """There is no such function of the user's."""


def factory_of(source: str, name: str) -> Callable[..., Any]:
    """The function `name` of a file or module of the user's, imported as from the folder they stand in.

    Raises:
        NoFactory: no such file, module or function. Errors of the user's own code come as they are.
    """
    factory = getattr(_imported(source), name, None)
    if not callable(factory):
        raise NoFactory(f"{source} has no function {name!r}")
    return factory


def _imported(source: str) -> Any:
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise NoFactory(f"there is no file {path.resolve()}")
        spec: Any = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{source}.".startswith(f"{error.name}."):
            raise
        raise NoFactory(
            f"there is no module {error.name!r} here or on the Python path; give module:factory or file.py:factory"
        ) from error


# --------------------------------------------------------------------------------------------------------- warnings

PACKAGE = str(Path(__file__).parent) + os.sep
# What may stand between two frames of the library, or between it and the user's line.
BETWEEN = {
    "beartype",
    "concurrent",
    "contextlib",
    "dataclasses",
    "functools",
    "jax",
    "jaxlib",
    "jaxtyping",
    "threading",
}


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither the library's nor JAX's. A fixed `stacklevel` is soon a wrong one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_back is not None and _is_ours(frame):
        frame = frame.f_back
    assert frame is not None
    scope = frame.f_globals
    registry = scope.setdefault("__warningregistry__", {})
    name = scope.get("__name__", "<unknown>")
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, name, registry)


def _is_ours(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith((PACKAGE, "<@beartype")):
        return True
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in BETWEEN
