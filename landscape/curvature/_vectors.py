"""Stacks of vectors that are trees like the parameters: what a Krylov method does with them, leaf by leaf.

Nothing is raveled: a stack has one more axis in front of every leaf, and what couples the leaves are small matrices of
inner products. So a vector takes the memory and the places of the parameters, whatever they are.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from landscape import _tree
from landscape.placement import Places, kept

Stack = PyTree  # leaves with a leading axis, the number of the vector


@dataclass(frozen=True, eq=False)
class Vectors:
    """The space of vectors like the parameters, in at least float32.

    Attributes:
        params: arrays, or their shapes.
        places: where the leaves live.
    """

    params: PyTree
    places: Places = ()

    @property
    def size(self) -> int:
        """Dimension of the space."""
        return _tree.size(self.params)

    @property
    def dtype(self) -> Any:
        """Of small matrices: the widest of the leaves'."""
        return _tree.wide_dtype(*jax.tree.leaves(self.params))

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.dtype).eps)

    def zeros(self, num: int) -> Stack:
        """A stack of zeros."""
        shapes = jax.tree.map(lambda p: ((num, *jnp.shape(p)), _tree.wide_dtype(p)), self.params)
        return self.kept(jax.tree.map(lambda s: jnp.zeros(*s), shapes, is_leaf=lambda s: isinstance(s, tuple)))

    def normal(self, key: Array, num: int) -> Stack:
        """Standard normal numbers, those of each leaf by `fold_in(key, leaf)`."""
        return self._drawn(jax.random.normal, key, num)

    def signs(self, key: Array, num: int) -> Stack:
        """Random signs."""
        return self._drawn(jax.random.rademacher, key, num)

    def _drawn(self, draw: Any, key: Array, num: int) -> Stack:
        leaves, structure = jax.tree.flatten(self.params)
        drawn = [
            draw(jax.random.fold_in(key, i), (num, *jnp.shape(p)), _tree.wide_dtype(p)) for i, p in enumerate(leaves)
        ]
        return self.kept(jax.tree.unflatten(structure, drawn))

    def kept(self, stack: Stack) -> Stack:
        """The stack where the parameters live."""
        return kept(stack, self.places, lead=1)

    def like(self, tree: PyTree) -> PyTree:
        """One vector, such as a product, in the precision of the space."""
        return kept(jax.tree.map(_tree.at_least_single, tree), self.places)

    def inner(self, a: Stack, b: Stack) -> Float[Array, "i j"]:
        """All inner products."""
        return _tree.inner(a, b).astype(self.dtype)

    def squares(self, stack: Stack) -> Float[Array, " i"]:
        """The squared lengths."""
        return self.paired(stack, stack)

    def paired(self, a: Stack, b: Stack) -> Float[Array, " i"]:
        """The inner product of each vector with its namesake."""
        return _tree.paired(a, b).astype(self.dtype)


def rows(stack: Stack, start: Any, num: int) -> Stack:
    """Some neighbours."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, num), stack)


def put(stack: Stack, new: Stack, start: Any) -> Stack:
    """The stack with others in some places."""
    return jax.tree.map(lambda x, n: jax.lax.dynamic_update_slice_in_dim(x, n, start, 0), stack, new)


def scaled(factors: Float[Array, " i"], stack: Stack) -> Stack:
    """Each vector times a number."""
    return jax.tree.map(lambda x: lined_up(factors.astype(x.dtype), x) * x, stack)


def minus(a: Stack, b: Stack) -> Stack:
    return jax.tree.map(jnp.subtract, a, b)


def over(stack: Stack, numbers: Any) -> Stack:
    """The vectors divided by one number, or by one each."""
    numbers = jnp.reshape(numbers, -1)
    return jax.tree.map(lambda x: x / lined_up(numbers.astype(x.dtype), x), stack)


def only(keep: Bool[Array, " i"], stack: Stack) -> Stack:
    """Zeros in place of the others."""
    return jax.tree.map(lambda x: jnp.where(lined_up(keep, x), x, 0), stack)


def lined_up(numbers: Array, leaf: Array) -> Array:
    """One number for each vector, against a leaf of the stack."""
    return numbers.reshape(-1, *(1,) * (leaf.ndim - 1))


def off(space: Vectors, basis: Stack, valid: Bool[Array, " i"], stack: Stack) -> Stack:
    """The part of some vectors that is orthogonal to those of the basis that count."""
    along = jnp.where(valid, space.inner(stack, basis), 0)
    return minus(stack, _tree.combine(along, basis))


def orthonormal(space: Vectors, stack: Stack) -> tuple[Stack, Float[Array, "i i"]]:
    """Gram-Schmidt on a few vectors, and the lower triangle that makes them of the result; zeros stay zeros."""
    num = _tree.num_stacked(stack)
    done: list[Stack] = []
    triangle = jnp.zeros((num, num), space.dtype)
    for j in range(num):
        row = rows(stack, j, 1)
        for i, other in enumerate(done):
            along = space.paired(other, row)
            row, triangle = minus(row, scaled(along, other)), triangle.at[j, i].set(along[0])
        size = jnp.sqrt(space.squares(row))
        done.append(over(row, jnp.where(size > 0, size, 1)))
        triangle = triangle.at[j, j].set(size[0])
    return jax.tree.map(lambda *x: jnp.concatenate(x), *done), triangle


def turned(stack: Stack, columns: Float[Array, "i j"], steps: Any) -> Stack:
    """The stack whose first vectors are, up to their signs, combinations of all with these orthonormal coefficients.

    In place: the reflections of Householder's factorisation (Golub & Van Loan 2013, section 5.2) take the memory of one
    vector, where a product with the matrix would take that of another stack. The other vectors become what completes
    the basis.

    Args:
        stack: `i` vectors.
        columns: coefficients of `j` of them.
        steps: `j` to do it, 0 to leave all as it is.
    """
    below, factors = jnp.linalg.qr(columns, mode="raw")
    mirrors = jnp.tril(below.T, -1) + jnp.eye(*columns.shape, dtype=columns.dtype)

    def reflected(i: Any, stack: Stack) -> Stack:
        mirror = mirrors[:, i]
        along = _tree.combine(mirror, stack)
        return jax.tree.map(partial(_less, factors[i] * mirror), stack, along)

    return jax.lax.fori_loop(0, steps, reflected, stack)


def _less(mirror: Array, leaf: Array, along: Array) -> Array:
    return leaf - lined_up(mirror.astype(leaf.dtype), leaf) * along
