"""Which parameters move and which stay: `split` divides a tree in two, `join` puts it together again.

What stays is no constant of a program: as `Objective.frozen` it is an argument, so that a frozen model of any size is
compiled once and kept once.

>>> import jax.numpy as jnp
>>> from landscape import moving
>>> params = {"base": jnp.ones((3, 3)), "lora_a": jnp.full((3, 1), 0.5), "step": jnp.array(7)}
>>> parts = moving.split(params, "lora")
>>> parts.moving["base"], parts.moving["lora_a"].shape
(None, (3, 1))
>>> moving.join(*parts)["step"]
Array(7, dtype=int32, weak_type=True)
"""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape.checks import short, warn

FEW = 6  # names in a message


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
        trainable: what moves. `None`: all floating-point arrays. A regular expression, or several, searched for in the
            names of the leaves (`"lora"`, `r"^decoder\.layers\.3"`). A tree of booleans like `params`. A filter of
            equinox, a function of a leaf. A filter of nnx for an `nnx.State`: a type of variable, `nnx.PathContains`.
            Or a function `(name, leaf) -> bool`.

    Returns:
        The two parts.

    Raises:
        TypeError: `trainable` is none of these.
        ValueError: nothing moves; the mask does not look like `params`; the text is no regular expression.

    Warns:
        UserWarning: leaves that are set aside; a `trainable` that leaves nothing out.
    """
    return divided(params, moves(params, trainable))


def moves(params: PyTree, trainable: Any) -> list[bool]:
    """A flag for each leaf: whether it moves; checked as `split` says."""
    named = [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    able = [_can_move(leaf) for _, leaf in named]
    asked = _asked(params, named, trainable)
    flags = [bool(a and b) for a, b in zip(able, asked)]
    _check_moves(named, able, flags, trainable)
    return flags


def divided(params: PyTree, moves: Sequence[bool]) -> Parts:
    """The two parts, by a flag for each leaf; functions that stay become parts of the program."""
    leaves, structure = jax.tree.flatten(params)
    moving = [leaf if moved else None for leaf, moved in zip(leaves, moves)]
    frozen = [None if moved else leaf for leaf, moved in zip(leaves, moves)]
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


def _asked(params: PyTree, named: Sequence[tuple[str, Any]], trainable: Any) -> list[bool]:
    """Whether each leaf is asked for."""
    if trainable is None:
        return [True] * len(named)
    if isinstance(trainable, str):
        return _by_pattern(named, [trainable])
    if isinstance(trainable, Sequence) and trainable and all(isinstance(x, str) for x in trainable):
        return _by_pattern(named, trainable)
    if isinstance(trainable, type) or type(trainable).__module__.startswith("flax.nnx"):
        return _by_variable(params, trainable)
    if _tree.is_function(trainable) and not hasattr(trainable, "__dataclass_fields__"):
        return _by_function(named, trainable)
    return _by_mask(params, trainable)


def _by_pattern(named: Sequence[tuple[str, Any]], patterns: Sequence[str]) -> list[bool]:
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ValueError(f"trainable={patterns!r} is no regular expression: {error}") from None
    return [any(pattern.search(name) for pattern in compiled) for name, _ in named]


def _by_function(named: Sequence[tuple[str, Any]], fn: Callable[..., Any]) -> list[bool]:
    try:
        inspect.signature(fn).bind("name", "leaf")
    except (TypeError, ValueError):
        return [bool(fn(leaf)) for _, leaf in named]
    return [bool(fn(name, leaf)) for name, leaf in named]


def _by_variable(params: PyTree, trainable: Any) -> list[bool]:
    """By a filter of nnx, which sees variables and their paths."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        raise TypeError(f"trainable={short(trainable)}: a type is a filter of flax.nnx, which is not imported here")
    accepts = nnx.filterlib.to_predicate(trainable)

    def is_variable(x: Any) -> bool:
        return isinstance(x, nnx.Variable)

    flags = jax.tree_util.tree_map_with_path(
        lambda path, x: jax.tree.map(lambda _: bool(accepts(tuple(map(_tree.key_of, path)), x)), x),
        params,
        is_leaf=is_variable,
    )
    return jax.tree.leaves(flags)


def _by_mask(params: PyTree, mask: PyTree) -> list[bool]:
    leaves = jax.tree.leaves(mask)
    if not leaves or not all(isinstance(x, bool | np.bool_) or _tree.describe(x) == "bool[]" for x in leaves):
        raise TypeError(
            "trainable must be a pattern of names, a tree of booleans like params, a filter of equinox or nnx, or a "
            f"function (name, leaf) -> bool, got {short(mask)}"
        )
    _tree.check_like(jax.tree.map(lambda _: 0, mask), jax.tree.map(lambda _: 0, params), "trainable", "params")
    return [bool(x) for x in leaves]


def _check_moves(named: Sequence[tuple[str, Any]], able: list[bool], moves: list[bool], trainable: Any) -> None:
    if not any(moves):
        could = [name for (name, _), can in zip(named, able) if can]
        if not could:
            raise ValueError("params holds no floating-point array, so nothing can move")
        raise ValueError(
            f"trainable={short(trainable)} matches no floating-point array, so nothing would move; there are "
            f"{_few(could)}"
        )
    if trainable is not None and moves == able:
        warn(f"trainable={short(trainable)} matches all {sum(able)} floating-point arrays, so nothing stays")
    aside = [
        f"{name} {_tree.describe(leaf)}" for (name, leaf), can in zip(named, able) if not can and hasattr(leaf, "dtype")
    ]
    if trainable is None and aside:
        warn(f"set aside, since only floating-point arrays can move; they stay as they are: {_few(aside)}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
