"""Vectors like the parameters, and stacks of them: what a Krylov method does with them, without raveling anything.

A vector is a list of arrays, one for each shape that the leaves of the parameters have: leaves of equal shape,
precision and place share one array, with an axis in front. So a program is as long as a model has shapes, not layers,
and a vector takes the memory and the places of the parameters, whatever they are. A stack has one more axis in front
of that. What couples the leaves are inner products.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.placement import Places, kept

Vector = list[Array]
Stack = list[Array]  # with a leading axis, the number of the vector


@dataclass(frozen=True, eq=False)
class Vectors:
    """The space of vectors like the parameters, in at least float32.

    Attributes:
        params: arrays, or their shapes.
        places: where the leaves live.
    """

    params: PyTree
    places: Places

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Numbers of the leaves that share an array."""
        groups: dict[Any, list[int]] = {}
        for i, (leaf, place) in enumerate(zip(jax.tree.leaves(self.params), self.places)):
            groups.setdefault((jnp.shape(leaf), _tree.wide_dtype(leaf), place), []).append(i)
        return list(groups.values())

    @property
    def _kinds(self) -> list[Any]:
        """Shape, precision and place of a leaf of each group, and how many there are."""
        leaves = jax.tree.leaves(self.params)
        return [(jnp.shape(leaves[g[0]]), _tree.wide_dtype(leaves[g[0]]), len(g)) for g in self._groups]

    @property
    def size(self) -> int:
        """Dimension of the space."""
        return _tree.size(self.params)

    @property
    def dtype(self) -> Any:
        """Of numbers: the widest of the leaves'."""
        return _tree.wide_dtype(*jax.tree.leaves(self.params))

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.dtype).eps)

    def of(self, tree: PyTree) -> Vector:
        """A tree as a vector."""
        leaves = [_tree.at_least_single(x) for x in jax.tree.leaves(tree)]
        return self.kept([jnp.stack([leaves[i] for i in group]) for group in self._groups])

    def tree(self, vector: Vector, lead: int = 0) -> PyTree:
        """A vector as a tree, or with leading axes a stack of them."""
        leaves: list[Any] = [None] * len(self.places)
        for group, array in zip(self._groups, vector):
            for number, i in enumerate(group):
                leaves[i] = array[(slice(None),) * lead + (number,)]
        return kept(jax.tree.unflatten(jax.tree.structure(self.params), leaves), self.places, lead)

    def kept(self, vector: Vector, lead: int = 0) -> Vector:
        """A vector, or with leading axes a stack, where the parameters live."""
        return kept(vector, tuple(self.places[group[0]] for group in self._groups), lead + 1)

    def map(self, product: Callable[[PyTree], PyTree]) -> Callable[[Vector], Vector]:
        """A linear map between trees as one between vectors."""
        return lambda vector: self.of(product(self.tree(vector)))

    def zeros(self, num: int) -> Stack:
        """A stack of zeros."""
        return self.kept([jnp.zeros((num, count, *shape), dtype) for shape, dtype, count in self._kinds], lead=1)

    def normal(self, key: Array) -> Vector:
        """Standard normal numbers."""
        return self._drawn(jax.random.normal, key)

    def signs(self, key: Array) -> Vector:
        """Random signs."""
        return self._drawn(jax.random.rademacher, key)

    def _drawn(self, draw: Any, key: Array) -> Vector:
        """One leaf after the other: to draw numbers takes several times their memory."""

        def group(number: int, kind: Any) -> Array:
            shape, dtype, count = kind
            keys = jax.random.split(jax.random.fold_in(key, number), count)
            return jax.lax.map(lambda k: draw(k, shape, dtype), keys)

        return self.kept([group(i, kind) for i, kind in enumerate(self._kinds)])

    def inner(self, a: Vector, b: Vector) -> Float[Array, ""]:
        """The inner product."""
        return self._summed([jnp.tensordot(x, y, axes=x.ndim, precision="highest") for x, y in zip(a, b)])

    def along(self, stack: Stack, vector: Vector) -> Float[Array, " i"]:
        """The inner products of a vector with those of a stack. No axis is merged, so each stays sharded."""
        return self._summed([jnp.tensordot(x, y, axes=y.ndim, precision="highest") for x, y in zip(stack, vector)])

    def _summed(self, parts: list[Array]) -> Array:
        return sum((part.astype(self.dtype) for part in parts), start=jnp.zeros((), self.dtype))

    def norm(self, vector: Vector) -> Float[Array, ""]:
        """Length of a vector whose squares are within the range of its precision."""
        return jnp.sqrt(self.inner(vector, vector))


def row(stack: Stack, number: Any) -> Vector:
    """One vector of a stack."""
    return [jax.lax.dynamic_index_in_dim(x, number, keepdims=False) for x in stack]


def put(stack: Stack, vector: Vector, number: Any) -> Stack:
    """The stack with another vector in a place."""
    return [jax.lax.dynamic_update_index_in_dim(x, v, number, 0) for x, v in zip(stack, vector)]


def combined(coefficients: Float[Array, " i"], stack: Stack) -> Vector:
    """The sum of coefficients times vectors."""
    return _tree.combine(coefficients, stack)


def less(a: Vector, b: Vector) -> Vector:
    """`a - b`."""
    return [x - y for x, y in zip(a, b)]


def times(number: Any, vector: Vector) -> Vector:
    """A number times a vector."""
    return [number.astype(x.dtype) * x for x in vector]


def over(vector: Vector, number: Any) -> Vector:
    """A vector divided by a number."""
    return [x / number.astype(x.dtype) for x in vector]


def unit(vector: Vector, size: Float[Array, ""]) -> Vector:
    """A vector of this length over it; zeros stay zeros."""
    return over(vector, jnp.where(size > 0, size, 1))


def turned(stacks: Any, columns: Float[Array, "i j"], steps: Any) -> Any:
    """Stacks whose first vectors are, up to their signs, combinations of all with these orthonormal coefficients.

    In place: the reflections of Householder's factorisation (Golub & Van Loan 2013, section 5.2) take the memory of one
    vector, where a product with the matrix would take that of another stack. The other vectors become what completes
    the basis.

    Args:
        stacks: of `i` vectors each.
        columns: coefficients of `j` of them.
        steps: `j` to do it, 0 to leave all as it is.
    """
    below, factors = jnp.linalg.qr(columns, mode="raw")
    mirrors = jnp.tril(below.T, -1) + jnp.eye(*columns.shape, dtype=columns.dtype)

    def reflected(i: Any, stacks: Any) -> Any:
        mirror = mirrors[:, i]
        along = _tree.combine(mirror, stacks)

        def mirrored(leaf: Array, part: Array) -> Array:
            return leaf - (factors[i] * mirror).astype(leaf.dtype).reshape(-1, *(1,) * part.ndim) * part[None]

        return jax.tree.map(mirrored, stacks, along)

    return jax.lax.fori_loop(0, steps, reflected, stacks)
