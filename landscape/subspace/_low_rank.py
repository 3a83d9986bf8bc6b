"""`LowRank`: directions that are kept as two small factors for each matrix, as the updates of adapters are."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.subspace._seeded import (
    Leaf,
    check_normalization,
    factors_of,
    leaves_of,
    multiplied,
    norms,
    ratio,
    stack_of_leaf,
    words_of_all,
)


class Factors(NamedTuple):
    """A leaf of all directions as products: `left[i] @ right[i]`, over the last axis and the first.

    Attributes:
        left: `(k, *left axes, rank)`.
        right: `(k, rank, *right axes)`.
    """

    left: Array
    right: Array


class LowRank(_tree.Unstored):
    """Directions that are products of two factors, `A_i B_i` for every matrix, kept as the factors.

    They stand wherever stacked directions do; `stacked()` is the stack that they stand for, and `self[i]` one of them.
    They are what an adapter of this rank can do to a model (Hu et al. 2021), and no sample of all directions: a matrix
    answers to `rank` combinations of its inputs only. Leaves without filters, such as biases, are moved in all their
    entries, and stay where the directions are normalised, as by `filter_normalize`. Those that `of` is given no factors
    for stay.

    >>> import jax, jax.numpy as jnp
    >>> from landscape import Subspace, subspace
    >>> params = {"kernel": jnp.full((40, 30), 0.5), "bias": jnp.zeros(30)}
    >>> directions = subspace.LowRank(jax.random.key(0), params, 2, rank=3, normalize="filter")
    >>> int(jnp.linalg.matrix_rank(directions[1]["kernel"])), directions.size
    (3, 420)
    >>> moved = Subspace(params, directions)(jnp.array([0.2, -0.1]))
    """

    def __init__(
        self,
        key: Array,
        like: PyTree,
        num: int = 2,
        rank: int = 1,
        normalize: str | None = None,
        *,
        filter_axis: Any = None,
        where: Any = None,
    ) -> None:
        """Draw normal factors: direction `i` is that of `Seeded(key, like, num, normalize, rank=rank)`.

        The axes of the filters of a leaf are those of its right factor, all others those of the left one.

        Args:
            key: random key.
            like: the parameters: structure, shapes, types and shardings of the directions, and the norms that they get.
            num: number of directions.
            rank: of the products.
            normalize: `None`, `"filter"` or `"layer"`, as for `Seeded`.
            filter_axis: as for `filter_normalize`.
            where: parameters that move, as for `Seeded`.

        Raises:
            TypeError, ValueError: as for `Seeded`.
        """
        _tree.check_key(key)
        _tree.check_count("num", num, 1)
        _tree.check_count("rank", rank, 1)
        check_normalization(like, normalize, filter_axis)
        plan = leaves_of(like, normalize, filter_axis, where, rank=int(rank))
        words = words_of_all(key, int(num), len(plan))
        leaves, treedef = jax.tree.flatten(like)
        kept = [_drawn(leaf, leaf.beside(words[:, i]), x) for i, (leaf, x) in enumerate(zip(plan, leaves))]
        self._set(kept, (treedef, plan, int(num)))

    @classmethod
    def of(
        cls, left: PyTree, right: PyTree, like: PyTree, normalize: str | None = None, *, filter_axis: Any = None
    ) -> "LowRank":
        """Directions of given factors, such as those of adapters: `left[i] @ right[i]` for each leaf that has some.

        Args:
            left: a tree like `like`, stacked: `(k, *first axes, rank)` for a leaf, `None` for one that stays.
            right: the same: `(k, rank, *last axes)`. First and last axes together are those of the leaf.
            like: the parameters.
            normalize: `None`, `"filter"` or `"layer"`, as for `Seeded`. The norms of the products are worked out from
                the factors.
            filter_axis: as for `filter_normalize`.

        Raises:
            TypeError: factors that are not real floating-point arrays.
            ValueError: factors that do not fit each other or their leaf; none at all; filters on axes of both factors.
        """
        check_normalization(like, normalize, filter_axis)
        given = _given(left, right, like)
        plan = leaves_of(like, normalize, filter_axis, None)
        num = {len(both.left) for both in given if both is not None}
        if len(num) != 1:
            raise ValueError(f"left and right must hold one number of directions in all leaves, got {sorted(num)}")
        leaves, treedef = jax.tree.flatten(like)
        names = [_tree.key_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
        rows = [_given_leaf(*row) for row in zip(names, plan, given, leaves)]
        made = object.__new__(cls)
        made._set([kept for _, kept in rows], (treedef, tuple(leaf for leaf, _ in rows), num.pop()))
        return made

    def _set(self, kept: list[Any], static: Any) -> None:
        self._kept, self._static = kept, static
        self._treedef, self._plan, self._num = static

    @property
    def like(self) -> PyTree:
        """One of the directions, of `jax.ShapeDtypeStruct`."""
        structs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in self._plan]
        return jax.tree.unflatten(self._treedef, structs)

    @property
    def size(self) -> int:
        """Numbers that are kept."""
        return _tree.size(self._kept)

    def __len__(self) -> int:
        return self._num

    def __call__(self, number: Any) -> PyTree:
        """The direction of this number, in the types of the leaves."""
        own = [None if kept is None else jax.tree.map(lambda x: x[number][None], kept) for kept in self._kept]
        place = not _tree.is_traced(number)
        stacks = [_leaf_of_all(leaf, kept, 1, place) for leaf, kept in zip(self._plan, own)]
        return jax.tree.unflatten(self._treedef, [x[0] for x in stacks])

    def combine(self, coefficients: Float[Array, " k"]) -> PyTree:
        """`sum_i coefficients[i] * direction_i`, in at least float32: one product for each matrix."""

        def leaf(own: Leaf, kept: Any) -> Array:
            if kept is None:
                return jnp.zeros(own.shape, own.wide)
            weights = coefficients.astype(own.wide)
            if not isinstance(kept, Factors):
                return jnp.tensordot(weights, _tree.at_least_single(kept), axes=1, precision="highest")
            right = weights.reshape(-1, *(1,) * (kept.right.ndim - 1)) * kept.right
            axes = ((0, kept.left.ndim - 1), (0, 1))
            return own.joined(jnp.tensordot(kept.left, right, axes=axes, precision="highest"))

        return jax.tree.unflatten(self._treedef, [leaf(*both) for both in zip(self._plan, self._kept)])

    def leaves(self) -> Iterator[Array]:
        """The leaves of the stack, one after the other, `(k, *shape)`."""
        for leaf, kept in zip(self._plan, self._kept):
            place = not any(map(_tree.is_traced, jax.tree.leaves(kept)))
            yield leaf.lying(_leaf_of_all(leaf, kept, self._num, place))


@partial(jax.jit, static_argnums=(0, 2, 3))
def _leaf_of_all(leaf: Leaf, kept: Any, num: int, place: bool) -> Array:
    """A leaf of all directions."""
    if kept is None:
        made = jnp.zeros((num, *leaf.shape), leaf.dtype)
    elif isinstance(kept, Factors):
        made = jax.vmap(partial(multiplied, leaf))(*kept).astype(leaf.dtype)
    else:
        made = kept.astype(leaf.dtype)
    return leaf.placed(made) if place else made


def _drawn(leaf: Leaf, words: Array, x: Any) -> Any:
    """What is kept of a leaf: random factors, all entries of one that is no product, or nothing."""
    if not leaf.moves:
        return None
    if leaf.right is None:
        return stack_of_leaf(leaf, words, x)
    return _normalized(leaf, Factors(*_factors(leaf, words)), x)


@partial(jax.jit, static_argnums=0)
def _factors(leaf: Leaf, words: Array) -> tuple[Array, Array]:
    return jax.vmap(partial(factors_of, leaf))(words)


@partial(jax.jit, static_argnums=0)
def _normalized(leaf: Leaf, factors: Factors, x: Array) -> Factors:
    """Factors whose products have the norms of a parameter; what they are multiplied by goes into one of them.

    Norms of `A B` by filters on axes of B are those of `R B` with the small triangle R of A = Q R, which squares no
    condition; and the other way round.
    """
    if leaf.axes is None:
        return factors
    target = norms(leaf, x)
    if set(leaf.axes) <= set(leaf.right or ()):
        return jax.vmap(partial(_by_right, leaf, target))(factors)
    mirrored = _mirrored(leaf)
    swapped = Factors(*(jnp.moveaxis(x, a, b) for x, a, b in ((factors.right, 1, -1), (factors.left, -1, 1))))
    done = jax.vmap(partial(_by_right, mirrored, target))(swapped)
    return Factors(jnp.moveaxis(done.right, 1, -1), jnp.moveaxis(done.left, -1, 1))


def _mirrored(leaf: Leaf) -> Leaf:
    """The leaf whose factors have changed sides."""
    return leaf._replace(right=leaf.left)


def _by_right(leaf: Leaf, target: Array, factors: Factors) -> Factors:
    """One direction whose filters lie on axes of its right factor; `target` has the axes of the leaf."""
    rank = factors.right.shape[0]
    triangle = jnp.linalg.qr(factors.left.reshape(-1, rank), mode="r")
    small = jnp.tensordot(triangle, factors.right, axes=1, precision="highest")
    over = [1 + i for i, axis in enumerate(leaf.right or ()) if axis not in (leaf.axes or ())]
    scale, roots = _tree.scaled_norms(small, (0, *over))
    aligned = jnp.transpose(target, [*leaf.left, *(leaf.right or ())])
    aligned = aligned.reshape(1, *aligned.shape[len(leaf.left) :])
    return factors._replace(right=factors.right * ratio(aligned, scale * roots))


# ----------------------------------------------------------------------------------------------------- given factors


def _given(left: PyTree, right: PyTree, like: PyTree) -> list[Factors | None]:
    """The factors of each leaf, checked by kind."""
    rows = []
    for name, tree in (("left", left), ("right", right)):
        leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
        if treedef != jax.tree.structure(like):
            raise ValueError(f"{name} must have the structure of like, with None for leaves that stay; got {treedef}")
        _tree.check_params([x for x in leaves if x is not None], name)
        rows.append(leaves)
    pairs = list(zip(*rows))
    if any((a is None) != (b is None) for a, b in pairs):
        raise ValueError("a leaf has factors in left and in right, or None in both")
    return [None if a is None else Factors(_tree.at_least_single(a), _tree.at_least_single(b)) for a, b in pairs]


def _given_leaf(name: str, leaf: Leaf, given: Factors | None, x: Any) -> tuple[Leaf, Factors | None]:
    """A leaf and its factors, normalised as the leaf says."""
    if given is None:
        return leaf._replace(moves=False), None
    a, b = given.left.shape, given.right.shape
    if len(a) < 3 or len(b) < 3 or a[0] != b[0] or a[-1] != b[1] or (*a[1:-1], *b[2:]) != leaf.shape:
        raise ValueError(
            f"{name} has shape {leaf.shape}: left must be (k, *first axes, rank) and right (k, rank, *last axes), "
            f"got {a} and {b}"
        )
    leaf = leaf._replace(right=tuple(range(len(a) - 2, len(leaf.shape))), rank=a[-1])
    if not leaf.moves:
        return leaf, None
    axes = set(leaf.axes or ())
    if axes & set(leaf.left) and axes & set(leaf.right or ()):
        raise ValueError(
            f"the filters of {name}, on axes {leaf.axes}, lie on axes of both factors: normalize='layer', or factors "
            "that divide the axes otherwise"
        )
    return leaf, _normalized(leaf, given, jnp.asarray(x))


def _flatten(low: LowRank) -> Any:
    return (low._kept,), low._static


def _flatten_with_keys(low: LowRank) -> Any:
    return [(jax.tree_util.GetAttrKey("factors"), low._kept)], low._static


def _unflatten(static: Any, children: Any) -> LowRank:
    low = object.__new__(LowRank)
    low._set(*children, static)
    return low


jax.tree_util.register_pytree_with_keys(LowRank, _flatten_with_keys, _unflatten, _flatten)
