"""Directions by number: what gives them, many planes of them, and what distances along them are measured in."""

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
from landscape.subspace._seeded import NORMALIZATIONS, Seeded, kept
from landscape.subspace._subspace import Subspace

_static: Any = {"static": True}


def Draws(
    key: Array,
    params: PyTree,
    *,
    normalization: str | None = None,
    filter_axis: Any = None,
    where: Any = None,
    rank: int | None = None,
) -> Seeded:
    """Random directions by number, without end: `Seeded(key, params, None, normalization, ...)`.

    >>> import jax, jax.numpy as jnp
    >>> from landscape import subspace
    >>> params = {"kernel": jnp.full((4, 3), 0.5), "bias": jnp.zeros(3)}
    >>> direction = subspace.Draws(jax.random.key(0), params, normalization="filter")(8)
    >>> [round(float(x), 4) for x in jnp.linalg.norm(direction["kernel"], axis=0)]     # as those of params
    [1.0, 1.0, 1.0]

    Raises:
        TypeError, ValueError: as for `Seeded`.
    """
    _tree.check_key(key)
    _tree.check_params(params)
    if normalization is not None:
        check_choice("normalization", normalization, NORMALIZATIONS)
    return Seeded(key, params, None, normalization, filter_axis=filter_axis, where=where, rank=rank)


@_tree.register
@dataclass(frozen=True, eq=False)
class Planes:
    """Many subspaces by number, as one map: `coords -> origin + sum_j coords[1 + j] * draw(dim * coords[0] + j)`.

    The first coordinate numbers the plane, the others lie in it, so a `LossSurface` over `Planes` is swept over one
    grid of one more axis: `Grid.of(plane=range(20), alpha=.., beta=..)`.

    Attributes:
        origin: parameters where all planes meet.
        draw: number -> direction, such as `Draws` or `Seeded`, or a stack of directions.
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
    has_end = draw.has_end if isinstance(draw, _tree.Unstored) else not _tree.is_function(draw)
    if has_end:
        unstored = isinstance(draw, _tree.Unstored)
        read = _tree.read_unstored if unstored else _tree.read_stack
        length = _tree.num_stacked(read(draw, "draw", params, "the origin"))
        if num > length:
            raise ValueError(f"draw holds {length} directions, and number {num - 1} is asked for (they count from 0)")
        return
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
    moving = np.array(kept(where, [(_tree.key_name(path), leaf) for path, leaf in leaves]))
    has = np.array([row.axes is not None for row in _filters.filters_of(params, filter_axis)])
    return float(np.hypot.reduce(norms * moving)), float(np.hypot.reduce(norms * (moving & has)))


@jax.jit
def _norms(leaves: list[Any]) -> list[Array]:
    return [_tree.norm(x) for x in leaves]


def size_of(params: PyTree) -> float:
    """Norm of parameters, in Python; compiled once for each structure."""
    return float(np.hypot.reduce(np.asarray(_norms(jax.tree.leaves(params)), np.float64)))
