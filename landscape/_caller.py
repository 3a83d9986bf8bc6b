"""Whose line a warning points at: that of the user, however many calls of the library lie in between."""

import os
import sys
import warnings
from pathlib import Path
from types import FrameType

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
