"""Directions by number: drawn from a key and the number whenever they are needed, never stored."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import check_choice
from landscape.subspace import _filters
from landscape.subspace._subspace import Subspace, filter_normalize, layer_normalize, mask

NORMALIZATIONS = ("filter", "layer")
_static: Any = {"static": True}


@_tree.register
@dataclass(frozen=True, eq=False)
class Draws:
    """Random directions by number: `Draws(key, params)(number)` is a tree like `params`.

    The entries are independent standard normal numbers of `fold_in(key, number)`, leaf by leaf, so that the memory is
    that of one direction and number 8 is the same whichever others are drawn. `normalization="filter"` and `"layer"`
    rescale as `filter_normalize` and `layer_normalize` do, and hold biases and norm scales fixed as they do.

    >>> import jax, jax.numpy as jnp
    >>> from landscape import subspace
    >>> params = {"kernel": jnp.full((4, 3), 0.5), "bias": jnp.zeros(3)}
    >>> direction = subspace.Draws(jax.random.key(0), params, normalization="filter")(8)
    >>> [round(float(x), 4) for x in jnp.linalg.norm(direction["kernel"], axis=0)]     # as those of params
    [1.0, 1.0, 1.0]

    Attributes:
        key: random key.
        params: the parameters whose structure and shapes the directions take.
        normalization: `None`, `"filter"` or `"layer"`.
        filter_axis: as for `filter_normalize`.
        where: leaves that move, by a regular expression or a function as for `mask`; all by default.
        rank: leaves of two axes or more become products of this rank, `A B / sqrt(rank)` with normal factors, as the
            updates of low-rank adapters are (over all axes but the last, and the last); the entries keep variance 1.
    """

    key: Array
    params: PyTree
    normalization: str | None = field(default=None, kw_only=True, metadata=_static)
    filter_axis: Any = field(default=None, kw_only=True, metadata=_static)
    where: Any = field(default=None, kw_only=True, metadata=_static)
    rank: int | None = field(default=None, kw_only=True, metadata=_static)

    def __call__(self, number: Any) -> PyTree:
        """The direction of this number, in at least float32."""
        key = jax.random.fold_in(self.key, number)
        leaves, treedef = jax.tree.flatten(self.params)
        drawn = [self._leaf(jax.random.fold_in(key, i), leaf) for i, leaf in enumerate(leaves)]
        stack = self._kept(self._normalized(_tree.as_stack(jax.tree.unflatten(treedef, drawn))))
        return jax.tree.map(lambda x: x[0], stack)

    def scale(self) -> PyTree:
        """Root mean square of each entry over the directions, of directions of unit length.

        With these as weights, the trace of a matrix is the mean of d'Hd / d'd over the directions: exactly, as all
        directions of a kind have one length (Gaussian ones point anywhere alike, whatever theirs).
        """
        ones = jax.tree.map(lambda x: jnp.ones(jnp.shape(x), _tree.wide_dtype(x)), self.params)
        stack = self._kept(self._normalized(_tree.as_stack(ones)))
        length = _tree.norm(stack)
        return jax.tree.map(lambda x: x[0] / length.astype(x.dtype), stack)

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` for fields that are not what they should be."""
        _tree.check_key(self.key)
        _tree.check_params(self.params)
        if self.normalization is not None:
            check_choice("normalization", self.normalization, NORMALIZATIONS)
        _filters.check_filter_axis(self.filter_axis)
        if self.rank is not None:
            _tree.check_count("rank", self.rank, 1)
        jax.eval_shape(self, 0)

    def _leaf(self, key: Array, leaf: Any) -> Array:
        shape, dtype = jnp.shape(leaf), _tree.wide_dtype(leaf)
        if self.rank is None or len(shape) < 2:
            return jax.random.normal(key, shape, dtype)
        keys = jax.random.split(key)
        left = jax.random.normal(keys[0], (math.prod(shape[:-1]), self.rank), dtype)
        right = jax.random.normal(keys[1], (self.rank, shape[-1]), dtype)
        return (jnp.matmul(left, right, precision="highest") / self.rank**0.5).reshape(shape)

    def _kept(self, stack: PyTree) -> PyTree:
        return stack if self.where is None else mask(stack, self.where, like=self.params)

    def _normalized(self, stack: PyTree) -> PyTree:
        if self.normalization == "filter":
            return filter_normalize(stack, self.params, filter_axis=self.filter_axis)
        return layer_normalize(stack, self.params) if self.normalization == "layer" else stack


@_tree.register
@dataclass(frozen=True, eq=False)
class Planes:
    """Many subspaces by number, as one map: `coords -> origin + sum_j coords[1 + j] * draw(dim * coords[0] + j)`.

    The first coordinate numbers the plane, the others lie in it, so a `LossSurface` over `Planes` is swept over one
    grid of one more axis: `Grid.of(plane=range(20), alpha=.., beta=..)`.

    Attributes:
        origin: parameters where all planes meet.
        draw: number -> direction, such as `Draws`, or a stack of directions.
        dim: directions of each plane.
    """

    origin: PyTree
    draw: Any
    dim: int = field(default=2, metadata=_static)

    def __call__(self, coords: Float[Array, " k"]) -> PyTree:
        """Parameters at `coords`."""
        return self.plane(jnp.round(coords[0]).astype(jnp.int32))(coords[1:])

    def plane(self, number: Any) -> Subspace:
        """The subspace of this number."""
        return Subspace(
            self.origin,
            _tree.stack([direction_of(self.draw, self.dim * number + j, self.origin) for j in range(self.dim)]),
        )

    def check_grid(self, grid: Any) -> None:
        """Raise unless the grid has an axis for the number, and one for each direction."""
        if grid.ndim != self.dim + 1:
            raise ValueError(
                f"a grid over planes of {self.dim} directions has {self.dim + 1} axes, the number of the "
                f"plane first; got {grid.ndim}"
            )
        check_draw(self.draw, self.origin, self.dim * (int(max(grid.axes[0].values)) + 1))


def direction_of(draw: Any, number: Any, params: PyTree) -> PyTree:
    """A direction by its number, of whatever gives directions: a function, or a stack of them."""
    if not _tree.is_function(draw):
        stack = _tree.read_stack(draw, "draw", params)
        return jax.tree.map(lambda x: _tree.at_least_single(x)[number], stack)
    return jax.tree.map(_tree.at_least_single, draw(number))


def check_draw(draw: Any, params: PyTree, num: int) -> None:
    """Raise unless `draw` gives directions like `params` for the numbers below `num`."""
    _tree.check_params(params, "origin")
    if not _tree.is_function(draw):
        length = _tree.num_stacked(_tree.read_stack(draw, "draw", params, "the origin"))
        if num > length:
            raise ValueError(f"draw holds {length} directions, and number {num - 1} is asked for (they count from 0)")
        return
    check = getattr(draw, "check", None)
    if check is not None:
        check()
    _tree.check_takes(draw, "draw", "number")
    direction = jax.eval_shape(draw, jax.ShapeDtypeStruct((), jnp.int32))
    _tree.check_params(direction, "draw(number)")
    _tree.check_like(direction, params, "draw(number)", "the origin")


def units_of(params: PyTree, filter_axis: Any = None, where: str | Callable[[str, Any], bool] | None = None) -> Any:
    """Norms of the parameters that move, and of those among them that have filters: what distances are measured in.

    A filter-normalised direction has the second as its length, whatever was drawn.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    norms = np.asarray(_norms([leaf for _, leaf in leaves]), np.float64)
    kept = np.array([_keeps(where, _tree.key_name(path), leaf) for path, leaf in leaves])
    has = np.array([row.axes is not None for row in _filters.filters_of(params, filter_axis)])
    return float(np.hypot.reduce(norms * kept)), float(np.hypot.reduce(norms * (kept & has)))


@jax.jit
def _norms(leaves: list[Any]) -> list[Array]:
    return [_tree.norm(x) for x in leaves]


def size_of(params: PyTree) -> float:
    """Norm of parameters, in Python; compiled once for each structure."""
    return float(np.hypot.reduce(np.asarray(_norms(jax.tree.leaves(params)), np.float64)))


def _keeps(where: Any, name: str, leaf: Any) -> bool:
    if where is None:
        return True
    return bool(where(name, leaf)) if callable(where) else re.search(where, name) is not None
