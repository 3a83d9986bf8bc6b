"""`Seeded`: random directions that are not stored, but made again from their key wherever they are needed."""

import math
import re
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import check_choice
from landscape.placement import led
from landscape.subspace import _filters

NORMALIZATIONS = ("filter", "layer")
WRITTEN_OUT = 4  # directions of a sum; of more it is a loop
_MULTIPLIER, _INCREMENT = np.uint32(1664525), np.uint32(1013904223)


class Leaf(NamedTuple):
    """What has to be known of a parameter to make its directions: hashable, a static part of programs.

    Attributes:
        shape, dtype: of the parameter, and of its directions.
        moves: whether directions move it.
        axes: that count what is normalised, none for the whole leaf; `None` where nothing is.
        right: axes of the right factor of a product; `None` where the leaf is no product.
        rank: of products.
        sharding: how the parameter is divided among devices, or its one device; `None` where that is not known.
    """

    shape: tuple[int, ...]
    dtype: Any
    moves: bool
    axes: tuple[int, ...] | None
    right: tuple[int, ...] | None
    rank: int
    sharding: Any

    @property
    def wide(self) -> Any:
        """The type in which directions are computed."""
        return _tree.wide_dtype(jax.ShapeDtypeStruct((), self.dtype))

    @property
    def left(self) -> tuple[int, ...]:
        """Axes of the left factor."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in (self.right or ()))

    @property
    def over(self) -> tuple[int, ...]:
        """Axes that norms sum over."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in (self.axes or ()))

    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the two factors."""
        left, right = (tuple(self.shape[axis] for axis in axes) for axes in (self.left, self.right or ()))
        return (*left, self.rank), (self.rank, *right)

    def joined(self, product: Array) -> Array:
        """A product of the factors, whose axes are those of the left one and then those of the right one, as a leaf."""
        return jnp.transpose(product, tuple(map(int, np.argsort([*self.left, *(self.right or ())]))))

    def placed(self, stack: Array) -> Array:
        """A stack divided among devices as the parameter is."""
        if not isinstance(self.sharding, NamedSharding):
            return stack
        return jax.lax.with_sharding_constraint(stack, led(self.sharding, 1))

    def lying(self, stack: Array) -> Array:
        """A stack whose sharding is spelled as that of the parameter: of a mesh of one, XLA drops the names."""
        if not isinstance(self.sharding, NamedSharding) or _tree.is_traced(stack):
            return stack
        return jax.device_put(stack, led(self.sharding, 1))

    def beside(self, small: Any) -> Any:
        """A small array where the parameter is, so that what is made of it is made there."""
        if self.sharding is None or _tree.is_traced(small):
            return small
        if isinstance(self.sharding, NamedSharding):
            return jax.device_put(small, NamedSharding(self.sharding.mesh, PartitionSpec()))
        return jax.device_put(small, self.sharding)

    def rounded(self, x: Array) -> Array:
        """`x` as far as the leaf's own type holds it, in the type that it has: XLA may leave out a conversion."""
        own = jnp.finfo(self.dtype)
        return jax.lax.reduce_precision(x, own.nexp, own.nmant) if own.bits < jnp.finfo(x.dtype).bits else x


def leaves_of(
    like: PyTree, normalize: str | None, filter_axis: Any, where: Any, include_vectors: bool = False, rank: int = 0
) -> tuple[Leaf, ...]:
    """What directions like `like` are to be, leaf by leaf; checks and warns as `filter_normalize` and `mask` do."""
    _tree.check_params(like, "like")
    if normalize is not None:
        check_choice("normalize", normalize, NORMALIZATIONS)
    named = [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(like)]
    keeps = kept(where, named)
    filters = _filters.filters_of(like, filter_axis)
    axes = normalized_axes(filters, normalize, include_vectors)
    return tuple(
        Leaf(
            jnp.shape(x), np.dtype(jnp.result_type(x)), keep and (normalize is None or a is not None), a,
            _right(row) if rank else None, rank, _sharding_of(x),
        )
        for (_, x), keep, a, row in zip(named, keeps, axes, filters)
    )  # fmt: skip


def normalized_axes(
    filters: list[_filters.Filters], normalize: str | None, include_vectors: bool
) -> list[tuple[int, ...] | None]:
    """The axes that count what is normalised of each leaf, `()` for the whole leaf; `None` where it stays as it is."""

    def axes(row: _filters.Filters) -> tuple[int, ...] | None:
        if normalize is None:
            return None
        if row.axes is None:
            return () if include_vectors else None
        return row.axes if normalize == "filter" else ()

    return list(map(axes, filters))


def kept(where: str | Callable[[str, Any], bool] | None, named: list[tuple[str, Any]]) -> list[bool]:
    """Which leaves a regular expression or a function keeps, of pairs of name and leaf; all for `None`.

    Raises:
        TypeError: neither text nor a function.
        ValueError: nothing is kept.
    """
    if where is None:
        return [True] * len(named)
    check_keep(where)
    keeps = where if callable(where) else (lambda name, leaf: re.search(where, name) is not None)
    found = [bool(keeps(name, leaf)) for name, leaf in named]
    if not any(found):
        raise ValueError(f"mask keeps no leaf; the leaves are {', '.join(name for name, _ in named)}")
    return found


def check_keep(keep: Any) -> None:
    """Raise `TypeError` unless it is a regular expression or a function."""
    if isinstance(keep, type) or not (callable(keep) or isinstance(keep, str | re.Pattern)):
        raise TypeError(f"keep must be a regular expression or a function (name, leaf) -> bool, got {keep!r}")


def _right(row: _filters.Filters) -> tuple[int, ...] | None:
    """The axes of the filters make the right factor of a product: a matrix has one on each side."""
    if row.axes is None or not 0 < len(row.axes) < len(row.shape):
        return None
    return row.axes


def _sharding_of(leaf: Any) -> Any:
    if _tree.is_traced(leaf) or not isinstance(leaf, jax.Array):
        return None
    if isinstance(leaf.sharding, NamedSharding):
        return leaf.sharding
    return leaf.sharding if len(leaf.devices()) == 1 and leaf.committed else None


# ---------------------------------------------------------------------------------------------------------- numbers


def normal(words: Array, shape: tuple[int, ...], dtype: Any, start: int = 0) -> Array:
    """Standard normal numbers: entry `i`, in C order, is a function of two random words `(2,)` and of `start + i`.

    The words and the number of the entry are mixed by `pcg3d` (Jarzynski & Olano 2020, "Hash functions for GPU
    rendering", section 5.2). XLA makes one loop of it with whatever uses the numbers, without memory of its own and
    divided among devices in any way; what `jax.random.normal` does takes three times the memory of the numbers and
    half a second to compile, for every leaf of every program.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    index = jnp.full(shape, np.uint32(start % 2**32))
    for axis, stride in enumerate(strides):
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
    first, second, _ = _mixed(index, words[0], words[1])
    bits = jnp.finfo(dtype).nmant + 1 if dtype == jnp.float32 else 2 * 26
    high = (first >> 8) if bits == 24 else (first >> 6).astype(dtype) * 2.0**26 + (second >> 6).astype(dtype)
    odd = 2 * high.astype(jnp.int32 if bits == 24 else dtype) + (1 - 2**bits)  # exact, and never the ends
    root = jnp.asarray(2.0**0.5, dtype)
    return root * jax.lax.erf_inv(odd.astype(dtype) * jnp.asarray(2.0**-bits, dtype))


def _mixed(*words: Array) -> list[Array]:
    """Three words, of which each depends on every bit of the three that came."""
    x, y, z = (word * _MULTIPLIER + _INCREMENT for word in words)
    for shift in (True, False):
        x = x + y * z
        y = y + z * x
        z = z + x * y
        x, y, z = (word ^ (word >> 16) for word in (x, y, z)) if shift else (x, y, z)
    return [x, y, z]


def words_of(key: Array, number: Any, num_leaves: int) -> Array:
    """The words of each leaf of a direction, of `fold_in(fold_in(key, number), leaf)`, uint32 `(leaves, 2)`."""
    own = jax.random.fold_in(key, number)

    def words(leaf: Array) -> Array:
        folded = jax.random.fold_in(own, leaf)
        typed = jnp.issubdtype(folded.dtype, jax.dtypes.prng_key)
        return (jax.random.key_data(folded) if typed else folded)[..., -2:]

    return jax.vmap(words)(jnp.arange(num_leaves, dtype=jnp.uint32))


@partial(jax.jit, static_argnums=(1, 2))
def words_of_all(key: Array, num: int, num_leaves: int) -> Array:
    """The words of all directions, uint32 `(num, leaves, 2)`."""
    return jax.vmap(lambda number: words_of(key, number, num_leaves))(jnp.arange(num, dtype=jnp.uint32))


def factors_of(leaf: Leaf, words: Array) -> tuple[Array, Array]:
    """The random factors of a leaf, of one stream; entries of their product have variance 1."""
    left, right = leaf.sides()
    scale = jnp.asarray(leaf.rank**-0.5, leaf.wide)
    return normal(words, left, leaf.wide), scale * normal(words, right, leaf.wide, math.prod(left))


def multiplied(leaf: Leaf, left: Array, right: Array) -> Array:
    """The product of two factors as a leaf."""
    return leaf.joined(jnp.tensordot(left, right, axes=1, precision="highest"))


def _drawn(leaf: Leaf, words: Array) -> Array:
    """A leaf of a direction before it is normalised."""
    if leaf.right is None:
        return normal(words, leaf.shape, leaf.wide)
    return multiplied(leaf, *factors_of(leaf, words))


def norms(leaf: Leaf, x: Array) -> Array:
    """Norms of what is normalised of a leaf, its other axes kept with length 1."""
    scale, roots = _tree.scaled_norms(x, leaf.over)
    return scale * roots


def _length(leaf: Leaf, drawn: Array) -> Array:
    """The same of random numbers, whose squares neither overflow nor underflow: in one pass, without storing them."""
    return jnp.sqrt(jnp.sum(jnp.square(drawn), axis=leaf.over, keepdims=True))


def ratio(target: Array, have: Array) -> Array:
    """What norms are to be multiplied by; 0 where there is nothing to multiply."""
    return jnp.where(have > 0, target / jnp.where(have > 0, have, 1), 0)


# ------------------------------------------------------------------------------------------------- leaves, compiled


@partial(jax.jit, static_argnums=0)
def _target(leaf: Leaf, x: Array) -> Array:
    return norms(leaf, x)


@partial(jax.jit, static_argnums=0)
def _factors(leaf: Leaf, words: Array, target: Array) -> Array:
    """Factors of a leaf of all directions, one direction at a time."""

    def one(own: Array) -> Array:
        return ratio(target, _length(leaf, leaf.placed(_drawn(leaf, own)[None])[0]))

    return jax.lax.map(one, words)


def _made(leaf: Leaf, words: Array, factor: Array | None) -> Array:
    """A leaf of one direction as its own type holds it, in at least float32."""
    drawn = _drawn(leaf, words)
    return leaf.rounded(drawn if factor is None else factor * drawn)


def _summed(leaf: Leaf, words: Array, factors: Array | None, coefficients: Array) -> Array:
    """A leaf of a combination. A few directions are written out: XLA would store what a sum over an axis runs over."""

    def term(i: Any) -> Array:
        return coefficients[i] * _made(leaf, words[i], None if factors is None else factors[i])

    if len(words) <= WRITTEN_OUT:
        return reduce(jnp.add, map(term, range(len(words))))
    return jax.lax.fori_loop(1, len(words), lambda i, total: total + term(i), term(0))


@partial(jax.jit, static_argnums=(0, 3))
def _leaf_of_all(leaf: Leaf, words: Array, factors: Array | None, place: bool) -> Array:
    """A leaf of all directions."""
    if not leaf.moves:
        made = jnp.zeros((len(words), *leaf.shape), leaf.dtype)
    else:
        made = jax.vmap(partial(_made, leaf))(words, factors).astype(leaf.dtype)
    return leaf.placed(made) if place else made


def stack_of_leaf(leaf: Leaf, words: Array, x: Any) -> Array:
    """A leaf of all directions, normalised by a parameter."""
    factors = None if leaf.axes is None else _factors(leaf, words, _target(leaf, x))
    return _leaf_of_all(leaf, words, factors, not _tree.is_traced(words))


class Seeded(_tree.Unstored):
    """Random directions that are not stored: made again from the key, leaf by leaf, wherever they are needed.

    They stand wherever stacked directions do. In a `Subspace` they are made within the compiled program of a point, as
    one loop with the sum `origin + sum_i coords[i] d_i`, and take no memory; `stacked()` is the stack that they stand
    for. Entries are independent standard normal numbers of `fold_in(fold_in(key, number), leaf)`, in the type of the
    leaf, so that direction 8 is the same whichever others there are; those of `random_directions(key, like, num)`. What
    they are normalised by, a number for each filter, is computed once, when they are built.

    >>> import jax, jax.numpy as jnp
    >>> from landscape import Subspace, subspace
    >>> params = {"kernel": jnp.full((4, 3), 0.5), "bias": jnp.zeros(3)}
    >>> directions = subspace.Seeded(jax.random.key(0), params, 2, "filter")
    >>> [round(float(x), 4) for x in jnp.linalg.norm(directions[1]["kernel"], axis=0)]     # as those of params
    [1.0, 1.0, 1.0]
    >>> plane = Subspace(params, directions)
    >>> plane(jnp.zeros(2))["kernel"].shape
    (4, 3)

    Numbers are told apart by 32 bits: in a leaf of more than 4,294,967,296 entries they come again.
    """

    def __init__(
        self,
        key: Array,
        like: PyTree,
        num: int | None = 2,
        normalize: str | None = None,
        *,
        filter_axis: Any = None,
        where: Any = None,
        include_vectors: bool = False,
        rank: int | None = None,
    ) -> None:
        """Compute what the directions are normalised by.

        Args:
            key: random key.
            like: the parameters: structure, shapes, types and shardings of the directions, and the norms that they get.
            num: number of directions; `None` for directions by number without end, each of which is then normalised
                when it is made. Those are no stack, and a draw for `maps.Radius` or `Planes`.
            normalize: `None`, `"filter"` or `"layer"`, as `filter_normalize` and `layer_normalize` do.
            filter_axis: as for `filter_normalize`.
            where: parameters that move, by a regular expression or a function `(name, leaf) -> bool`; all by default.
            include_vectors: as for `filter_normalize`.
            rank: leaves with filters become products of this rank, `A B / sqrt(rank)` with normal factors, as the
                updates of low-rank adapters are; the entries keep variance 1. `LowRank` keeps the factors.

        Raises:
            TypeError: no key, a leaf that is not a real floating-point array, or a number that is none.
            ValueError: `num` or `rank` below 1, an unknown normalisation, a leaf that lacks its filter axis, or no
                leaf that moves.
        """
        _tree.check_key(key)
        if num is not None:
            _tree.check_count("num", num, 1)
        if rank is not None:
            _tree.check_count("rank", rank, 1)
        check_normalization(like, normalize, filter_axis)
        plan = leaves_of(like, normalize, filter_axis, where, include_vectors, rank or 0)
        leaves, treedef = jax.tree.flatten(like)
        both = list(zip(plan, leaves))
        targets = [_target(leaf, x) if leaf.moves and leaf.axes is not None else None for leaf, x in both]
        if num is None:
            source, factors = key, [None] * len(plan)
        else:
            source = words_of_all(key, int(num), len(plan))
            factors = [
                None if target is None else _factors(leaf, leaf.beside(source[:, i]), target)
                for i, (leaf, target) in enumerate(zip(plan, targets))
            ]
        self._set(source, targets, factors, (treedef, plan, num))

    def _set(self, source: Any, targets: list[Any], factors: list[Any], static: Any) -> None:
        self._source, self._targets, self._factors, self._static = source, targets, factors, static
        self._treedef, self._plan, self._num = static
        self.has_end = self._num is not None

    @property
    def like(self) -> PyTree:
        """One of the directions, of `jax.ShapeDtypeStruct`."""
        structs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in self._plan]
        return jax.tree.unflatten(self._treedef, structs)

    def __len__(self) -> int:
        if self._num is None:
            raise TypeError("Seeded with num=None has directions without end: give num, or use it as a draw by number")
        return self._num

    def __call__(self, number: Any) -> PyTree:
        """The direction of this number, in the types of the leaves."""
        if self._num is None:
            words = words_of(self._source, number, len(self._plan))
            factors = [self._factor(i, words[i]) for i in range(len(self._plan))]
        else:
            words = self._source[number]
            factors = [None if f is None else f[number] for f in self._factors]
        stacks = [
            _leaf_of_all(leaf, leaf.beside(own[None]), None if f is None else f[None], not _tree.is_traced(words))
            for leaf, own, f in zip(self._plan, words, factors)
        ]
        return jax.tree.unflatten(self._treedef, [x[0] for x in stacks])

    def combine(self, coefficients: Float[Array, " k"]) -> PyTree:
        """`sum_i coefficients[i] * direction_i`, in at least float32, without making a direction."""
        # XLA takes out of a loop over points what does not depend on the point: the directions, which would be stored
        source, coefficients = jax.lax.optimization_barrier((self._source, coefficients))

        def leaf(i: int, own: Leaf) -> Array:
            if not own.moves:
                return jnp.zeros(own.shape, own.wide)
            return _summed(own, source[:, i], self._factors[i], coefficients.astype(own.wide))

        return jax.tree.unflatten(self._treedef, [leaf(i, own) for i, own in enumerate(self._plan)])

    def leaves(self) -> Iterator[Array]:
        """The leaves of the stack, one after the other, `(k, *shape)`."""
        len(self)
        place = not _tree.is_traced(self._source)
        for i, leaf in enumerate(self._plan):
            yield leaf.lying(_leaf_of_all(leaf, leaf.beside(self._source[:, i]), self._factors[i], place))

    def scale(self) -> PyTree:
        """Root mean square of each entry over the directions, of directions of unit length.

        With these as weights, the trace of a matrix is the mean of d'Hd / d'd over the directions: exactly, as all
        directions of a kind have one length (Gaussian ones point anywhere alike, whatever theirs).
        """

        def leaf(own: Leaf, target: Array | None) -> Array:
            if not own.moves:
                return jnp.zeros(own.shape, own.wide)
            count = math.prod(own.shape[axis] for axis in own.over)
            each = jnp.ones((), own.wide) if target is None else target / count**0.5
            return jnp.broadcast_to(each, own.shape)

        spread = [leaf(*both) for both in zip(self._plan, self._targets)]
        length = _tree.norm(spread)
        return jax.tree.unflatten(self._treedef, [x / length.astype(x.dtype) for x in spread])

    def _factor(self, i: int, words: Array) -> Array | None:
        """What a leaf of a direction is normalised by, where that was not computed before."""
        target, leaf = self._targets[i], self._plan[i]
        return None if target is None else ratio(target, _length(leaf, _drawn(leaf, words)))


def _flatten(seeded: Seeded) -> Any:
    return (seeded._source, seeded._targets, seeded._factors), seeded._static


def _flatten_with_keys(seeded: Seeded) -> Any:
    children, static = _flatten(seeded)
    names = ("key", "targets", "factors")
    return [(jax.tree_util.GetAttrKey(name), child) for name, child in zip(names, children)], static


def _unflatten(static: Any, children: Any) -> Seeded:
    seeded = object.__new__(Seeded)
    seeded._set(*children, static)
    return seeded


jax.tree_util.register_pytree_with_keys(Seeded, _flatten_with_keys, _unflatten, _flatten)


def check_normalization(like: PyTree, normalize: str | None, filter_axis: Any) -> None:
    """Raise for a filter axis that is none, and warn of filters that are not known and of matrices that are zero."""
    _tree.check_params(like, "like")
    _filters.check_filter_axis(filter_axis)
    if normalize == "filter":
        _filters.warn_of(like, filter_axis)
