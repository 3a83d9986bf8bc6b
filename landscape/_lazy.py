"""Stacks of trees that are read leaf by leaf: what the functions rely on that take a path of parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


class LazyStack:
    """A stack of `len(self)` trees whose leaves are read in parts, when they are needed.

    To JAX it is a pytree that holds the stack: whatever flattens it reads all of it.

    Attributes:
        like: one of the trees, of `jax.ShapeDtypeStruct`.
    """

    like: PyTree

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node(cls, lambda lazy: ((lazy.stacked(),), None), lambda _, children: children[0])

    def __len__(self) -> int:
        raise NotImplementedError

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        """Entries `start` to `stop`, in C order, of one leaf of all trees, shape `(len(self), stop - start)`."""
        raise NotImplementedError

    def spacing(self, leaf: int) -> float:
        """Relative spacing of the numbers that a leaf was stored in."""
        return float(jax.numpy.finfo(jax.tree.leaves(self.like)[leaf].dtype).eps)

    def title(self, index: int) -> str:
        """What to call one of the trees in a message."""
        return f"snapshot {index}"

    def stacked(self) -> PyTree:
        """All trees in memory, leaves with a leading axis."""
        leaves, treedef = jax.tree.flatten(self.like)
        whole = [self.rows(i, 0, leaf.size).reshape(len(self), *leaf.shape) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, whole)


class Joined(LazyStack):
    """Several stacks of trees of one structure, one after the other."""

    def __init__(self, parts: Sequence[LazyStack]) -> None:
        self.parts, self.like = list(parts), parts[0].like

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        """Those of each part."""
        return np.concatenate([part.rows(leaf, start, stop) for part in self.parts])

    def spacing(self, leaf: int) -> float:
        """That of the coarsest part."""
        return max(part.spacing(leaf) for part in self.parts)

    def title(self, index: int) -> str:
        """The part and the tree in it."""
        for number, part in enumerate(self.parts):
            if index < len(part):
                return f"{part.title(index)} of stack {number}"
            index -= len(part)
        raise IndexError(index)


def as_lazy(value: Any) -> LazyStack | None:
    """A lazy stack, or several in a list as one, or `None` for anything else."""
    if isinstance(value, LazyStack):
        return value
    if type(value) in (list, tuple) and value and all(isinstance(part, LazyStack) for part in value):
        return Joined(value)
    return None
