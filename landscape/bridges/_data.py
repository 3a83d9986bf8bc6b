"""Data as people have them (arrays, tensors, loaders) as one pytree of arrays whose first axis counts the examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from landscape import _tree

FORMS = (
    "a pair (inputs, targets) of arrays, a dict of arrays, or an iterable of such batches (a DataLoader, a list of "
    "batches)"
)


def read(value: Any, what: str, as_numpy: Callable[[Any], np.ndarray]) -> Any:
    """All examples as one pytree: a pair stays a tuple, a mapping becomes a dict.

    Args:
        value: arrays or tensors, or an iterable of batches of them, which is read once to its end.
        what: its name in messages.
        as_numpy: makes arrays of the framework's own.

    Raises:
        TypeError: neither arrays nor batches of them.
        ValueError: no examples, batches of different make, or leaves that disagree on the number of examples.
    """
    if _is_whole(value):
        tree = _on_host(_plain(value), what, as_numpy)
    else:
        tree = _joined(_batches(value, what), what, as_numpy)
    sizes = {name: np.shape(leaf)[:1] for name, leaf in _named(tree)}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        raise ValueError(f"all arrays of {what} need the same first axis, the examples, got lengths {sizes}")
    if 0 in next(iter(sizes.values())):
        raise ValueError(f"{what} holds no examples")
    return tree


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_whole(value: Any) -> bool:
    """Whether it is the data themselves; a tuple of two is (inputs, targets), as is a list of two arrays."""
    if isinstance(value, Mapping) or _is_array(value):
        return True
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and (isinstance(value, tuple) or all(map(_is_array, value)))


def _batches(value: Any, what: str) -> list[Any]:
    examples = hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, list | tuple)
    if value is None or isinstance(value, str | bytes) or (examples and not hasattr(value, "__iter__")):
        advice = "; pass a DataLoader over the data set" if examples else ""
        raise TypeError(f"{what} must be {FORMS}, got {_tree.describe(value)}{advice}")
    try:
        batches = list(value)
    except TypeError as error:
        raise TypeError(f"{what} must be {FORMS}, got {_tree.describe(value)}") from error
    if not batches:
        raise ValueError(f"{what} gave no batches: is the loader empty, or a generator that is used up?")
    return batches


def _joined(batches: list[Any], what: str, as_numpy: Callable[[Any], np.ndarray]) -> Any:
    trees = [_on_host(_plain(batch), f"{what}, batch {i}", as_numpy) for i, batch in enumerate(batches)]
    for i, tree in enumerate(trees):
        if jax.tree.structure(tree) != jax.tree.structure(trees[0]):
            raise ValueError(f"{what}: batch {i} is of another make than the first: {tree_text(tree, trees[0])}")
    try:
        return jax.tree.map(lambda *parts: np.concatenate(parts), *trees)
    except ValueError as error:
        raise ValueError(f"{what}: the batches do not fit together ({error}): pad them to one length") from error


def tree_text(tree: Any, other: Any) -> str:
    return f"{jax.tree.structure(tree)} and {jax.tree.structure(other)}"


def _plain(value: Any) -> Any:
    """Mappings of any kind as dicts, pairs as tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items() if part is not None}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _on_host(tree: Any, what: str, as_numpy: Callable[[Any], np.ndarray]) -> Any:
    named = _named(tree)
    if not named:
        raise TypeError(f"{what} must be {FORMS}, got {type(tree).__name__} without arrays")
    for name, leaf in named:
        if not _is_array(leaf):
            raise TypeError(
                f"{what}.{name} must be an array or a tensor, got {_tree.describe(leaf)}; {what} is {FORMS}"
            )
    arrays = jax.tree.map(as_numpy, tree)
    for name, leaf in _named(arrays):
        if leaf.dtype.kind in _tree.NO_NUMBERS:
            raise TypeError(f"{what}.{name} must hold numbers, got an array of {leaf.dtype}: encode text, pad rows")
    return arrays


def spread(tree: Any, most: int, also: Sequence[int] = ()) -> Any:
    """A few examples from all over the data, the first among them, and some more."""
    count = len(jax.tree.leaves(tree)[0])
    chosen = np.unique([*np.linspace(0, count - 1, min(most, count)).astype(int), *also])
    return jax.tree.map(lambda leaf: leaf[chosen], tree)
