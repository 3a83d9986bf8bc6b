"""What spaces stacked directions span: orthonormal ones, least squares, principal directions of a path.

Everything goes leaf by leaf: nothing is flattened, concatenated or moved between devices.
"""

from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import reals
from landscape.moving import parted, read_rows
from landscape.subspace import _streams


class Span(NamedTuple):
    """An orthonormal basis of directions, with `rows[i] = scales[i] * lengths[i] * triangle[:, i] @ basis`.

    Attributes:
        basis: leaves of a stack, in at least float32.
        triangle: upper, `(k, k)`.
        lengths: of the directions divided by `scales`, `(k,)`; 1 for a zero one.
        scales: powers of two, `(k,)`.
    """

    basis: list[Array]
    triangle: Float[Array, "k k"]
    lengths: Float[Array, " k"]
    scales: Float[Array, " k"]


def least_squares(directions: PyTree, vector: PyTree) -> Float[Array, " k"]:
    """Coefficients of the combination of stacked `directions` that is nearest to `vector`.

    Solved through an orthonormal basis, never through the Gram matrix, whose condition number is the square:
    directions 0.003 rad apart would already be wrong by a tenth in float32. Dependent directions get the
    solution of least norm, measured in units of their lengths.
    """
    span = span_of(directions)
    size = _tree.power_of_two_near(vector)
    along = _sum([_along(b, x, size) for b, x in zip(span.basis, jax.tree.leaves(vector), strict=True)])
    solution, *_ = jnp.linalg.lstsq(span.triangle, along.astype(span.triangle.dtype))
    size = size.astype(solution.dtype)
    return solution / span.lengths * (size / span.scales)


def span_of(directions: PyTree) -> Span:
    """An orthonormal basis of stacked directions.

    Gram-Schmidt, twice (Giraud et al. 2005: that is enough to be orthogonal to rounding), leaf by leaf: a row that
    depends on the ones before it, or is zero, gets a zero row of the basis, and of the triangle. One copy of the
    directions is made, in at least float32, and turned into the basis in place.
    """
    leaves = [_tree.at_least_single(x) for x in _tree.stacked_leaves(directions)]
    dtype, num = _tree.wide_dtype(*leaves), len(leaves[0])
    scales = _scales([_largest(x).astype(dtype) for x in leaves])
    basis = [_divided(x, scales) for x in leaves]
    del leaves
    lengths = jnp.stack([_sum([_square(x, i).astype(dtype) for x in basis]) ** 0.5 for i in range(num)])
    lengths = jnp.where(lengths > 0, lengths, 1)
    basis = [_divided_in_place(x, lengths) for x in basis]
    triangle = jnp.zeros((num, num), dtype)
    for i in range(num):
        for _ in range(2):
            shadow = _before(_sum([_shadow(x, i).astype(dtype) for x in basis]), i)
            basis, triangle = [_without(x, i, shadow) for x in basis], _added(triangle, i, shadow)
        rest = _sum([_square(x, i).astype(dtype) for x in basis]) ** 0.5
        rest = jnp.where(rest > 100 * float(jnp.finfo(dtype).eps), rest, 0)
        basis, triangle = [_to_unit(x, i, rest) for x in basis], triangle.at[i, i].set(rest)
    return Span(basis, triangle, lengths, scales)


def _sum(parts: list[Array]) -> Array:
    """The sum over leaves."""
    return reduce(jnp.add, parts)


# Compiled for each shape: one program of all leaves takes longer to compile than to run.


def _rows(numbers: Array, like: Array) -> Array:
    """A number for each direction, to multiply a leaf with."""
    return numbers.astype(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


@jax.jit
def _largest(x: Array) -> Array:
    return jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), 0), axis=tuple(range(1, x.ndim)), initial=0)


@jax.jit
def _scales(largest: list[Array]) -> Array:
    return jax.vmap(_tree.power_of_two_near)(reduce(jnp.maximum, largest)[:, None])


def _quotient(x: Array, by: Array) -> Array:
    return x / _rows(by, x)


_divided = jax.jit(_quotient)
_divided_in_place = jax.jit(_quotient, donate_argnums=0)


@jax.jit
def _square(x: Array, i: Any) -> Array:
    return jnp.tensordot(x[i], x[i], axes=x.ndim - 1, precision="highest")


@jax.jit
def _shadow(x: Array, i: Any) -> Array:
    return _tree.products_of_leaf(x, x[i][None])[:, 0]


@jax.jit
def _before(shadow: Array, i: Any) -> Array:
    return jnp.where(jnp.arange(len(shadow)) < i, shadow, 0)


@partial(jax.jit, donate_argnums=0)
def _without(x: Array, i: Any, shadow: Array) -> Array:
    return x.at[i].add(-jnp.tensordot(shadow.astype(x.dtype), x, axes=1, precision="highest"))


@jax.jit
def _added(triangle: Array, i: Any, shadow: Array) -> Array:
    return triangle.at[:, i].add(shadow)


@partial(jax.jit, donate_argnums=0)
def _to_unit(x: Array, i: Any, length: Array) -> Array:
    length = length.astype(x.dtype)
    return x.at[i].set(jnp.where(length > 0, x[i] / jnp.where(length > 0, length, 1), 0))


@jax.jit
def _along(basis: Array, x: Array, size: Array) -> Array:
    x = _tree.at_least_single(x)
    return _tree.products_of_leaf(basis, (x / size.astype(x.dtype))[None])[:, 0]


@partial(jax.jit, static_argnums=1, donate_argnums=0)
def _narrowed(x: Array, dtype: Any) -> Array:
    return x.astype(dtype)


def orthonormalize(dirs: PyTree, *, like: PyTree = None) -> PyTree:
    """Orthonormal directions: each is the part of its direction orthogonal to those before (Gram-Schmidt).

    Args:
        dirs: directions, a stack or a list of trees.
        like: one tree of the kind that is stacked, such as the parameters. Only needed where that is a list of layers
            of equal shapes, so that a stack of it looks like a list of trees.

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: the directions are linearly dependent to rounding; `dirs` is no stack, or could be a list as well.
    """
    return orthonormalized(_tree.read_stack(dirs, "dirs", like, "like"))


def orthonormalized(dirs: PyTree) -> PyTree:
    span = span_of(dirs)
    dependent = jnp.any(jnp.diagonal(span.triangle) == 0)
    if not _tree.is_traced(dependent) and bool(dependent):
        raise ValueError("the directions are linearly dependent: they do not span a space of their number")
    return _like(span.basis, dirs)


def _like(basis: list[Array], dirs: PyTree) -> PyTree:
    """A basis as a stack of the types of another."""
    leaves, treedef = jax.tree.flatten(dirs)
    made = [_tree.lying_as(_narrowed(b, np.dtype(jnp.result_type(x))), x) for b, x in zip(basis, leaves)]
    return jax.tree.unflatten(treedef, made)


def pca_directions(snapshots: PyTree, num: int = 2, *, like: PyTree = None) -> tuple[PyTree, Float[Array, " num"]]:
    """Principal directions of a path of parameters.

    Principal component analysis of the snapshots about their mean (Lorch 2016; Li et al. 2018, section 7). Signs
    are chosen so that the path ends on the positive side of where it began.

    Args:
        snapshots: `T` parameter trees, a stack or a list; or a `Trajectory`, or a list of them for a common plane,
            which are read leaf by leaf: no more than a part of a leaf of all snapshots is in memory, and inner products
            are summed in float64.
        num: number of directions, below `T`.
        like: one tree of the kind that is stacked. Only needed where that is a list of layers of equal shapes, so
            that a stack of it looks like a list of trees.

    Returns:
        Orthonormal stacked directions, and the share of the snapshots' variance that each explains. Compare
        with `random_walk_explained` (of several runs, `random_walks_explained`): a high share by itself is what any
        random walk shows.

    Raises:
        TypeError: a leaf is not a real floating-point array (a counter of batches is none), or `num` is no integer.
        ValueError: fewer than `num + 1` snapshots, or snapshots that do not vary in `num` directions beyond the
            rounding of their variance; `snapshots` is no stack, or could be a list as well.
    """
    lazy = _tree.as_lazy(snapshots)
    if lazy is not None:
        _tree.read_lazily(lazy, "snapshots", like, "like")
        _check_num(num, len(lazy))
        directions, shares = _streams.principal(lazy, int(num))
        return directions, jnp.asarray(shares)
    snapshots = read_rows(snapshots, "snapshots", like=parted(like).moving, like_name="like")
    snapshots = parted(snapshots, aloud=True).moving
    length = _tree.num_stacked(snapshots)
    _check_num(num, length)
    rows, explained = _principal(jax.tree.leaves(snapshots), int(num))
    rounding = 10 * float(jnp.finfo(explained.dtype).eps) * length**0.5
    if not _tree.is_traced(explained) and not bool(jnp.all(explained > rounding)):
        raise ValueError(f"the snapshots vary in fewer than {num} directions: explained variance {explained}")
    return _like(span_of(rows).basis, snapshots), explained


def _check_num(num: Any, length: int) -> None:
    _tree.check_count("num", num)
    if not 1 <= num < length:
        raise ValueError(f"{num} principal directions need at least {num + 1} snapshots, got {length}")


def gram(snapshots: PyTree, *, like: PyTree = None) -> Float[np.ndarray, "t t"]:
    """Inner products of all pairs of snapshots, summed over all leaves in float64 on the host.

    Squared distances are `g[i, i] + g[j, j] - 2 g[i, j]`. A `Trajectory`, or a list of them, is read leaf by leaf.

    Args:
        snapshots: a stack, a list of trees, a `Trajectory` or a list of them.
        like: one tree of the kind that is stacked, as for `pca_directions`.

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: `snapshots` is no stack, or could be a list as well.
    """
    lazy = _tree.as_lazy(snapshots)
    if lazy is None:
        lazy = _InMemory(_tree.read_stack(snapshots, "snapshots", like, "like"))
    return _streams.gram(_tree.read_lazily(lazy, "snapshots", like, "like"))


class _InMemory(_tree.LazyStack):
    """A stack that is in memory, for what reads stacks in parts."""

    def __init__(self, stack: PyTree) -> None:
        self._leaves, self._stack = [np.asarray(x) for x in jax.tree.leaves(stack)], stack
        self.like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stack)

    def __len__(self) -> int:
        return len(self._leaves[0])

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        return self._leaves[leaf].reshape(len(self), -1)[:, start:stop]


def _principal(leaves: list[Array], num: int) -> tuple[list[Array], Array]:
    """Principal directions, not yet of unit length, through the small matrix of inner products of the snapshots."""
    centred = [_centred(x) for x in leaves]
    size = _tree.power_of_two_near(centred)
    centred = [_divided_in_place(x, size) for x in centred]
    products = [_tree.products_of_leaf(x, x) for x in centred]
    dtype = _tree.wide_dtype(*products)
    weights, explained = _weights(_sum([x.astype(dtype) for x in products]), num)
    return [_combined(weights, x) for x in centred], explained


@jax.jit
def _centred(x: Array) -> Array:
    x = _tree.at_least_single(x)
    x = x - x[:1]  # about the first before, so that constant snapshots give exact zeros
    return x - jnp.mean(x, axis=0, keepdims=True)


@partial(jax.jit, static_argnums=1)
def _weights(products: Float[Array, "t t"], num: int) -> tuple[Float[Array, "t num"], Array]:
    """Weights of the snapshots in each principal direction, and the share of the variance that it has."""
    variances, weights = jnp.linalg.eigh(products)
    variances, weights = jnp.maximum(variances[::-1], 0), weights[:, ::-1][:, :num]
    return weights * jnp.where(weights[-1] < weights[0], -1, 1)[None], variances[:num] / jnp.sum(variances)


@jax.jit
def _combined(weights: Array, x: Array) -> Array:
    return jnp.tensordot(weights.T.astype(x.dtype), x, axes=1, precision="highest")


def random_walk_explained(num_snapshots: int, num: int = 2) -> np.ndarray:
    r"""Share of variance that each principal direction of a high-dimensional random walk explains, shape `(num,)`.

    The null hypothesis for `pca_directions`: for `T` snapshots the eigenvalues are
    $\lambda_k \propto [2 (1 - \cos(\pi k / T))]^{-1}$, $k = 1..T-1$ (Antognini & Sohl-Dickstein 2018, equation 5),
    which tends to $6 / (\pi k)^2$: 60.8 % and 15.2 %, whatever is walked.

    Raises:
        TypeError: a count is no integer.
        ValueError: fewer than two snapshots, or as many directions as snapshots.
    """
    _tree.check_count("num_snapshots", num_snapshots, 2)
    _tree.check_count("num", num, 1)
    if num >= num_snapshots:
        raise ValueError(f"{num} principal directions need at least {num + 1} snapshots, got {num_snapshots}")
    k = np.arange(1, num_snapshots)
    eigenvalues = 0.5 / (1 - np.cos(np.pi * k / num_snapshots))
    return (eigenvalues / eigenvalues.sum())[:num]


def random_walks_explained(steps: Any, num: int = 2) -> np.ndarray:
    r"""The same null hypothesis for several walks in one plane, or snapshots at unequal steps, shape `(num,)`.

    Of independent walks in many dimensions that begin at one point, the inner products of snapshots at steps $s$ and
    $t$ are $\min(s, t)$ within a walk and 0 between two. Their eigenvalues about the common mean are what
    `pca_directions` finds: for one walk and equal steps those of `random_walk_explained`.

    Args:
        steps: the steps of the snapshots of each walk, such as `[run.steps for run in runs]`; or those of one walk.
            Each begins with the step of the common start.
        num: number of directions.

    Raises:
        TypeError: steps that are no numbers, or a count that is no integer.
        ValueError: steps that do not increase, or as many directions as snapshots.
    """
    _tree.check_count("num", num, 1)
    walks = [reals("steps", walk, finite=True) for walk in (steps if _are_several(steps) else [steps])]
    for walk in walks:
        if walk.ndim != 1 or not walk.size or np.any(np.diff(walk) <= 0):
            raise ValueError(f"the steps of a walk must be numbers that increase, shape (t,), got {walk}")
    total = sum(map(len, walks))
    if num >= total:
        raise ValueError(f"{num} principal directions need at least {num + 1} snapshots, got {total}")
    products, start = np.zeros((total, total)), 0
    for walk in walks:
        part = slice(start, start + len(walk))
        products[part, part] = np.minimum.outer(walk - walk[0], walk - walk[0])
        start += len(walk)
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    variances = np.maximum(np.linalg.eigvalsh(centred)[::-1], 0)
    if not variances[0] > 0:
        raise ValueError("walks of one snapshot each, from one start, do not vary")
    return (variances / variances.sum())[:num]


def _are_several(steps: Any) -> bool:
    """Whether these are the steps of several walks rather than of one."""
    return isinstance(steps, list | tuple) and any(np.ndim(walk) for walk in steps)
