"""Inner products, principal directions and projections of stacks that are read in blocks, in float64 on the host.

Of a leaf, as many entries are read at a time as fill a block of all trees. What is kept are matrices of the number of
trees squared, and the results. Differences are taken from the first tree, so that what stands still is exactly still.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape._tree import LazyStack

BLOCK_BYTES = 2**26  # of a block in float64
NOISE = 10.0  # times the variance of rounding, below which a direction is rounding


class Block(NamedTuple):
    """Entries `start` to `stop` of a leaf, of all trees, shape `(len, stop - start)`, float64."""

    leaf: int
    start: int
    stop: int
    values: np.ndarray


def blocks(lazy: LazyStack) -> Iterator[Block]:
    """All entries of a stack, block by block."""
    length = max(1, BLOCK_BYTES // (8 * len(lazy)))
    for leaf, one in enumerate(jax.tree.leaves(lazy.like)):
        for start in range(0, one.size, length):
            stop = min(start + length, one.size)
            yield Block(leaf, start, stop, lazy.rows(leaf, start, stop).astype(np.float64))


def gram(lazy: LazyStack) -> np.ndarray:
    """Inner products of all pairs of trees, `(len, len)`."""
    total = np.zeros((len(lazy), len(lazy)))
    for block in blocks(lazy):
        total += block.values @ block.values.T
    return total


class Spread(NamedTuple):
    """Inner products of the differences from the mean, and the variance that rounding of the numbers makes."""

    products: np.ndarray
    rounding: float


def spread(lazy: LazyStack) -> Spread:
    """How the trees differ from their mean.

    Raises:
        ValueError: a tree holds NaN or infinity; the message says which.
    """
    products, rounding = np.zeros((len(lazy), len(lazy))), 0.0
    for block in blocks(lazy):
        _check_finite(lazy, block)
        rounding += float(np.sum(np.square(block.values[0]))) * lazy.spacing(block.leaf) ** 2 / 12
        away = block.values - block.values[:1]
        products += away @ away.T
    mean = products.mean(axis=0)
    return Spread(products - mean[None] - mean[:, None] + mean.mean(), rounding)


def _check_finite(lazy: LazyStack, block: Block) -> None:
    bad = np.flatnonzero(~np.isfinite(block.values).all(axis=1))
    if bad.size:
        paths = jax.tree_util.tree_leaves_with_path(lazy.like)
        name = jax.tree_util.keystr(paths[block.leaf][0], simple=True, separator=".") or "its array"
        raise ValueError(
            f"{lazy.title(int(bad[0]))} holds NaN or infinity in {name}, and so do {bad.size - 1} more: there is no "
            "plane through them; take those before, trajectory[:i]"
        )


def principal(lazy: LazyStack, num: int) -> tuple[PyTree, np.ndarray]:
    """The first principal directions, of unit length, in the dtypes of the leaves, and the shares of the variance.

    Raises:
        ValueError: a tree is not finite, or they vary in fewer directions beyond their rounding.
    """
    products, rounding = spread(lazy)
    variances, weights = np.linalg.eigh(products)
    variances, weights = np.maximum(variances[::-1], 0), weights[:, ::-1][:, :num]
    explained = variances[:num] / (variances.sum() or 1.0)
    least = max(NOISE * rounding, NOISE * np.finfo(np.float64).eps * len(lazy) * variances[0])
    if not variances[num - 1] > least:
        raise ValueError(
            f"the snapshots vary in fewer than {num} directions beyond rounding: explained variance {explained}"
        )
    weights = weights * np.where(weights[-1] < weights[0], -1, 1) / np.sqrt(variances[:num])
    return combined(lazy, weights), explained


def combined(lazy: LazyStack, weights: np.ndarray) -> PyTree:
    """`sum_t weights[t, j] (tree_t - tree_0)` as a stack over `j`, in the dtypes of the leaves."""
    ones, treedef = jax.tree.flatten(lazy.like)
    made = [np.empty((weights.shape[1], one.size), one.dtype) for one in ones]
    for leaf, start, stop, values in blocks(lazy):
        made[leaf][:, start:stop] = weights.T @ (values - values[:1])
    shaped = [jnp.asarray(rows.reshape(len(rows), *one.shape)) for rows, one in zip(made, ones)]
    return jax.tree.unflatten(treedef, shaped)


class Projection(NamedTuple):
    """Coordinates of each tree in an affine space, `(len, k)`, and its distance from it, `(len,)`."""

    coords: np.ndarray
    residual: np.ndarray


def project(lazy: LazyStack, origin: PyTree, directions: PyTree) -> Projection:
    """Coordinates of the nearest points of an affine space, by the normal equations of directions of unit length.

    Their condition is squared, which float64 affords: directions 1e-4 rad apart leave eight digits.
    """
    products, along, lengths = _products(lazy, origin, directions)
    scale = np.where(lengths > 0, lengths, 1)
    normal, right = products / scale[:, None] / scale, (along / scale).T
    coords = (np.linalg.lstsq(normal, right, rcond=None)[0] / scale[:, None]).T
    squares = np.zeros(len(lazy))
    for _, values, basis in _against(lazy, origin, directions):
        squares += np.sum(np.square(values - coords @ basis), axis=1)
    return Projection(coords, np.sqrt(squares))


def _products(lazy: LazyStack, origin: PyTree, directions: PyTree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inner products among directions and of trees with directions, and the lengths of directions."""
    num = np.shape(jax.tree.leaves(directions)[0])[0]
    products, along = np.zeros((num, num)), np.zeros((len(lazy), num))
    for _, values, basis in _against(lazy, origin, directions):
        products += basis @ basis.T
        along += values @ basis.T
    return products, along, np.sqrt(np.diagonal(products))


def _against(lazy: LazyStack, origin: PyTree, directions: PyTree) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
    """Blocks of the trees as differences from the origin, beside the same entries of the directions."""
    origins, bases = jax.tree.leaves(origin), jax.tree.leaves(directions)
    at, here, rows = -1, np.empty(0), np.empty((0, 0))
    for block in blocks(lazy):
        if block.leaf != at:
            at, here, rows = block.leaf, _on_host(origins[block.leaf]), _on_host(bases[block.leaf])
            rows = rows.reshape(len(rows), -1)
        part = slice(block.start, block.stop)
        values = block.values - here.reshape(-1)[part].astype(np.float64)
        yield block, values, rows[:, part].astype(np.float64)


def _on_host(leaf: jax.Array) -> np.ndarray:
    return np.asarray(leaf)
