"""Which parameters move and which stay: `split` divides a tree in two, `join` puts it together again.

What stays is no constant of a program: as `Objective.frozen` it is an argument, so that a frozen model of any size is
compiled once and kept once.

>>> import jax.numpy as jnp
>>> from landscape import moving
>>> params = {"base": jnp.ones((3, 3)), "lora_a": jnp.full((3, 1), 0.5), "step": jnp.array(7)}
>>> parts = moving.split(params, "lora*")
>>> parts.moving["base"], parts.moving["lora_a"].shape
(None, (3, 1))
>>> moving.join(*parts)["step"]
Array(7, dtype=int32, weak_type=True)
"""

import fnmatch
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape.checks import short, warn

NAMED = 12  # names that a message lists


class Parts(NamedTuple):
    """Two trees of one structure: each leaf is in one of them, and `None` in the other.

    Attributes:
        moving: what directions, training, curvature and norms see; floating-point arrays alone.
        frozen: the rest, for `Objective(frozen=)`.
    """

    moving: PyTree
    frozen: PyTree


def split(params: PyTree, trainable: Any = None) -> Parts:
    r"""Divide parameters into those that move and those that stay.

    Arrays of integers and booleans (quantised weights, counters, keys, masks) always stay; where nothing else was asked
    for, a warning of one line names them. Functions, as in a whole equinox model, stay too.

    Args:
        params: parameters of one model.
        trainable: what moves. `None`: all floating-point arrays. A pattern as in file names, for the whole name of a
            leaf (`"decoder.*"`, `"*lora*"`), a compiled regular expression that has to be found in it, or a list of
            these. A tree of booleans like `params`, or a dict of booleans by name. A function `(name, leaf) -> bool`; a
            filter of equinox, which is a function of a leaf; a filter of nnx for an `nnx.State`, such as a type of
            variable or `nnx.PathContains`.

    Returns:
        The two parts.

    Raises:
        TypeError: `trainable` is none of these.
        ValueError: nothing moves; the mask does not look like `params`; a pattern matches nothing.

    Warns:
        UserWarning: leaves that are set aside; a `trainable` that leaves nothing out.
    """
    return divided(params, moves(params, trainable))


def moves(params: PyTree, trainable: Any, option: str = "trainable") -> list[bool]:
    """A flag for each leaf: whether it moves; checked as `split` says."""
    named = [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    able = {name: leaf for name, leaf in named if _can_move(leaf)}
    if not able:
        raise ValueError("params holds no floating-point array, so nothing can move")
    aside = [f"{name} {_tree.describe(x)}" for name, x in named if name not in able and hasattr(x, "dtype")]
    if trainable is None and aside:
        warn(f"set aside, since only floating-point arrays can move; they stay as they are: {listed(aside)}")
    found = set(chosen(list(able), _by_name(params, named, trainable, option), able.get, option))
    return [name in found for name, _ in named]


def divided(params: PyTree, flags: Sequence[bool]) -> Parts:
    """The two parts, by a flag for each leaf; functions that stay become parts of the program."""
    leaves, structure = jax.tree.flatten(params)
    moving = [leaf if flag else None for leaf, flag in zip(leaves, flags)]
    frozen = [None if flag else leaf for leaf, flag in zip(leaves, flags)]
    return Parts(jax.tree.unflatten(structure, moving), _tree.static_functions(jax.tree.unflatten(structure, frozen)))


def join(moving: PyTree, frozen: PyTree) -> PyTree:
    """The whole tree.

    Raises:
        ValueError: `moving` is no part of the same tree as `frozen`.
    """
    try:
        return jax.tree.map(lambda m, f: f if m is None else m, moving, frozen, is_leaf=lambda x: x is None)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "the parameters that move and those that are frozen must be the two parts of one tree, as "
            f"ls.subspace.split gives them: {str(error).splitlines()[0]}"
        ) from None


def _can_move(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or _tree.is_of_torch(leaf):
        return isinstance(leaf, float)
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _by_name(params: PyTree, named: Sequence[tuple[str, Any]], trainable: Any, option: str) -> Any:
    """Masks and filters that see more than a name, as what `chosen` takes."""
    if isinstance(trainable, type) or type(trainable).__module__.startswith("flax.nnx"):
        return _flags(named, _by_variable(params, trainable, option))
    if _is_mask(trainable) and not (isinstance(trainable, Mapping) and not _are_alike(trainable, params)):
        mask, like = (jax.tree.map(lambda _: 0, tree) for tree in (trainable, params))
        _tree.check_like(mask, like, option, "params")
        return _flags(named, jax.tree.leaves(trainable))
    if callable(trainable) and not _takes_two(trainable):
        return lambda _, leaf: trainable(leaf)
    return trainable


def _is_mask(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(x, bool | np.bool_) or _tree.describe(x) == "bool[]" for x in leaves)


def _are_alike(one: PyTree, other: PyTree) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other)


def _flags(named: Sequence[tuple[str, Any]], flags: Sequence[Any]) -> dict[str, bool]:
    """Of the leaves that can move, by name."""
    return {name: bool(flag) for (name, leaf), flag in zip(named, flags) if _can_move(leaf)}


def _takes_two(fn: Any) -> bool:
    try:
        inspect.signature(fn).bind("name", "leaf")
    except (TypeError, ValueError):
        return False
    return True


def _by_variable(params: PyTree, trainable: Any, option: str) -> list[bool]:
    """By a filter of nnx, which sees variables and their paths."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        raise TypeError(f"{option}={short(trainable)}: a type is a filter of flax.nnx, which is not imported here")
    accepts = nnx.filterlib.to_predicate(trainable)

    def is_variable(x: Any) -> bool:
        return isinstance(x, nnx.Variable)

    flags = jax.tree_util.tree_map_with_path(
        lambda path, x: jax.tree.map(lambda _: bool(accepts(tuple(map(_tree.key_of, path)), x)), x),
        params,
        is_leaf=is_variable,
    )
    return jax.tree.leaves(flags)


# ------------------------------------------------------------------------------------------------ names alone


def chosen(
    names: list[str], trainable: Any, parameter: Callable[[str], Any] = str, option: str = "trainable"
) -> list[str]:
    """Names of the parameters that move.

    Args:
        names: of all parameters.
        trainable: `None` for all; a pattern as in file names (`"head.*"`), a compiled regular expression that has to be
            found in the name, a list of these, a dict of booleans by name, or a function `(name, parameter) -> bool`.
        parameter: gives the framework's own parameter of a name.
        option: what `trainable` is called in messages.

    Raises:
        TypeError: none of these.
        ValueError: nothing is left to move, or a pattern matches nothing.
    """
    if trainable is None:
        return names
    if isinstance(trainable, Mapping):
        found = _by_names(names, trainable, option)
    elif callable(trainable):
        found = [name for name in names if bool(trainable(name, parameter(name)))]
    else:
        found = _by_patterns(names, trainable, option)
    if not found:
        raise ValueError(f"{option}= leaves nothing that moves; the parameters are {listed(names)}")
    if len(found) == len(names):
        warn(f"{option}= chooses all {len(names)} parameters, so nothing is frozen: leave it away, or narrow it")
    return found


def _by_names(names: list[str], mask: Mapping[Any, Any], option: str) -> list[str]:
    unknown = sorted(set(map(str, mask)) - set(names))
    if unknown:
        raise ValueError(f"{option}= has no parameters called {listed(unknown)}; they are called {listed(names)}")
    return [name for name in names if mask.get(name, False)]


def _by_patterns(names: list[str], given: Any, option: str) -> list[str]:
    patterns = list(given) if isinstance(given, list | tuple | set | frozenset) else [given]
    found: set[str] = set()
    for pattern in patterns:
        matches = _matches(pattern, names, option)
        if not matches:
            text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
            raise ValueError(f"{option}= {text!r} matches no parameter; they are called {listed(names)}")
        found.update(matches)
    return [name for name in names if name in found]


def _matches(pattern: Any, names: list[str], option: str) -> list[str]:
    if isinstance(pattern, re.Pattern):
        return [name for name in names if pattern.search(name)]
    if not isinstance(pattern, str):
        raise TypeError(
            f"{option} must be a pattern such as 'head.*', a compiled regular expression, a list of them, booleans "
            "by name or in a tree like the parameters, or a function (name, parameter) -> bool, got "
            f"{type(pattern).__name__} {pattern!r}"
        )
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def listed(names: list[str], most: int = NAMED) -> str:
    """Some names in a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
