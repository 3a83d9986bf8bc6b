"""Which parameters move and which stay, by pattern, list, mask or function."""

import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

from landscape.checks import warn

NAMED = 12  # names that a message lists


def moving(names: list[str], trainable: Any, parameter: Callable[[str], Any] = str) -> list[str]:
    """Names of the parameters that move.

    Args:
        names: of all parameters.
        trainable: `None` for all; a pattern as in file names (`"head.*"`), a compiled regular expression that has to be
            found in the name, a list of these, a dict of booleans by name, or a function `(name, parameter) -> bool`.
        parameter: gives the framework's own parameter of a name.

    Raises:
        TypeError: none of these.
        ValueError: nothing is left to move, or a pattern matches nothing.
    """
    if trainable is None:
        return names
    if isinstance(trainable, Mapping):
        chosen = _by_mask(names, trainable)
    elif callable(trainable):
        chosen = [name for name in names if bool(trainable(name, parameter(name)))]
    else:
        chosen = _by_patterns(names, trainable)
    if not chosen:
        raise ValueError(f"trainable= leaves nothing that moves; the parameters are {listed(names)}")
    if len(chosen) == len(names):
        warn(f"trainable= chooses all {len(names)} parameters, so nothing is frozen: leave it away, or narrow it")
    return chosen


def _by_mask(names: list[str], mask: Mapping[Any, Any]) -> list[str]:
    unknown = sorted(set(map(str, mask)) - set(names))
    if unknown:
        raise ValueError(f"trainable= has no parameters called {listed(unknown)}; they are called {listed(names)}")
    return [name for name in names if mask.get(name, False)]


def _by_patterns(names: list[str], given: Any) -> list[str]:
    patterns = list(given) if isinstance(given, list | tuple | set | frozenset) else [given]
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matches(pattern, names)
        if not matches:
            text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
            raise ValueError(f"trainable= {text!r} matches no parameter; they are called {listed(names)}")
        chosen.update(matches)
    return [name for name in names if name in chosen]


def _matches(pattern: Any, names: list[str]) -> list[str]:
    if isinstance(pattern, re.Pattern):
        return [name for name in names if pattern.search(name)]
    if not isinstance(pattern, str):
        raise TypeError(
            "trainable must be a pattern such as 'head.*', a compiled regular expression, a list of them, a dict of "
            f"booleans by name or a function (name, parameter) -> bool, got {type(pattern).__name__} {pattern!r}"
        )
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def listed(names: list[str], most: int = NAMED) -> str:
    """Some names in a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
