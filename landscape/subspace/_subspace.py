"""`Subspace`: the affine map from coordinates to parameters, its inverse, and what it resolves."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.affine import _program
from landscape.checks import warn
from landscape.grid import Grid
from landscape.moving import join, parted, parted_alike
from landscape.subspace import _streams
from landscape.subspace._normalize import random_directions
from landscape.subspace._span import least_squares, orthonormalized

NOISE = 0.1  # share of a picture's range from which rounding is its subject


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Subspace:
    """The affine map `coords -> origin + sum_i coords[i] * directions[i]` and its least-squares inverse.

    Attributes:
        origin: parameters at the coordinates 0. Integers and booleans among them stay as they are.
        directions: pytree like what moves of `origin` whose leaves carry a leading axis of length `k`, or a list of `k`
            trees; or directions that are not stored, `Seeded` or `LowRank`.
    """

    origin: PyTree
    directions: PyTree

    @property
    def dim(self) -> int:
        """Number of directions, `k`."""
        return _tree.num_stacked(self.checked_directions())

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> PyTree:
        """Parameters at `coords`, in the dtypes of the origin; exactly the origin at 0.

        Raises:
            TypeError: a leaf, or a coordinate, is not real.
            ValueError: directions that do not look like the origin, or coordinates of another number.
        """
        directions = self.checked_directions()
        coords = _real_vector(coords, _tree.num_stacked(directions))

        def move(o: Any, step: Array) -> Array:
            o = jnp.asarray(o)
            wide = _tree.wide_dtype(o, step)
            return (o.astype(wide) + step.astype(wide)).astype(o.dtype)

        moving, frozen = parted(self.origin)
        return join(jax.tree.map(move, moving, _tree.combine(coords, directions)), frozen)

    def project(self, params: PyTree) -> Float[Array, "*t k"]:
        """Coordinates of the point of the subspace nearest to `params` in the Euclidean norm.

        Of a `Trajectory`, or a list of them, those of all its snapshots, `(T, k)`, read leaf by leaf and summed in
        float64 on the host.

        Solves the least-squares problem, so it is right for directions that are neither orthogonal nor of unit
        length. Where they are linearly dependent, it is the solution of least norm with coordinates measured in
        units of the lengths of their directions; a zero direction gets the coordinate 0.

        Raises:
            TypeError: a leaf is not real.
            ValueError: `params` or the directions do not look like the origin.
        """
        if (lazy := _tree.as_lazy(params)) is not None:
            return jnp.asarray(self._projected(lazy).coords)
        return least_squares(self.checked_directions(), self._from_origin(params))

    def residual(self, params: PyTree) -> Float[Array, "*t"]:
        """Euclidean distance of `params` from the subspace: what the picture does not show.

        Of a `Trajectory`, or a list of them, those of all its snapshots, `(T,)`, as for `project`.

        Raises:
            TypeError, ValueError: as for `project`.
        """
        if (lazy := _tree.as_lazy(params)) is not None:
            return jnp.asarray(self._projected(lazy).residual)
        nearest = self(self.project(params))
        return _tree.norm(_differences(parted(params).moving, parted(nearest).moving))

    def gram(self) -> Float[Array, "k k"]:
        """Inner products of the directions; diagonal for an orthogonal plane, whose picture is not sheared."""
        directions = self.checked_directions()
        return _tree.inner(directions, directions)

    def check_grid(self, grid: Grid) -> None:
        """Raise unless this is an affine map that a float of this precision resolves on `grid`.

        Raises:
            TypeError: a parameter is not a real floating-point array.
            ValueError: directions of another structure, another dimension than the grid, or steps of the grid
                smaller than the rounding of the parameters.
        """
        if grid.ndim != self.dim:
            raise ValueError(f"the subspace has {self.dim} directions, the grid {grid.ndim} axes; they must agree")
        self._check_resolution(grid)

    def check_rounding(self, grid: Grid, fn: Callable[[PyTree], Any]) -> None:
        """Warn where what `fn` rounds its parameters to makes noise of the size of the picture itself.

        Measured on losses of networks in bfloat16, the noise is the same share of the picture's range as the rounding
        is of the way along an axis. Only where that could matter, `fn` is traced, for the type that it computes in.
        """
        reach, spans = self._reach(), [np.ptp(axis.values) for axis in grid.axes]
        if not np.any(reach.noise(spans, jnp.bfloat16) > NOISE):
            return
        narrow = _program.narrowest_float(fn, self.origin)
        noise = reach.noise(spans, narrow)
        i = int(np.argmax(noise))
        if noise[i] > NOISE:
            dtype = reach.coarsest(i)[1] if narrow is None else narrow
            warn(
                f"{dtype} rounds the parameters by {noise[i]:.0%} of the way along the whole axis {grid.names[i]!r}: "
                "the picture will be noise to about that share of its range; compute in a wider type (float32 in place "
                "of bfloat16, float64 in place of float32), or draw a larger extent"
            )

    def checked_directions(self) -> PyTree:
        """The directions, checked: a stack, or what stands for one."""
        moving = parted(self.origin).moving
        _tree.check_params(moving, "origin")
        if isinstance(self.directions, _tree.Unstored):
            return _tree.read_unstored(self.directions, "directions", moving, "the origin")
        return _tree.read_stack(self.directions, "directions", moving, "the origin")

    def _reach(self) -> "_Reach":
        return _Reach.of(parted(self.origin).moving, self.checked_directions())

    def _projected(self, lazy: _tree.LazyStack) -> _streams.Projection:
        moving = parted(self.origin).moving
        directions = _tree.read_stack(self.directions, "directions", moving, "the origin")
        return _streams.project(_tree.read_lazily(lazy, "params", moving, "the origin"), moving, directions)

    def _from_origin(self, params: PyTree) -> PyTree:
        params, origin = parted(params).moving, parted(self.origin).moving
        _tree.check_params(params)
        _tree.check_like(params, origin, "params", "the origin")
        return _differences(params, origin)

    def _check_resolution(self, grid: Grid) -> None:
        """Compare one step of the grid with the rounding of the parameters that it moves, in the Euclidean norm."""
        reach = self._reach()
        for i, axis in ((i, axis) for i, axis in enumerate(grid.axes) if len(axis) > 1):
            step = np.min(np.diff(axis.values))
            moved, rounding = reach.lengths[i] * step, reach.rounding()[i]
            if 0 < moved < rounding:
                name, dtype = reach.coarsest(i)
                raise ValueError(
                    f"the grid is finer than {dtype} resolves: one step of {axis.name!r} ({step:.3g}) moves the "
                    f"parameters by {moved:.3g}, less than their rounding ({rounding:.3g}, most of it in {name}, "
                    f"{dtype}), so neighbouring points would be the same point; use {reach.remedy(i, moved)}, a larger "
                    "extent or fewer points"
                )


def _real_vector(coords: Any, length: int) -> Array:
    """Coordinates as an array, checked."""
    try:
        array = jnp.asarray(coords)
    except (TypeError, ValueError, SyntaxError):  # JAX reads text as a name of a type
        array = None
    real = array is not None and any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if array is None or not real:
        raise TypeError(f"coords must be an array of real numbers, got {_tree.describe(coords)}")
    if array.shape != (length,):
        raise ValueError(
            f"coords must have one number for each of the {length} directions, shape ({length},), got shape "
            f"{array.shape}"
        )
    return array


def _differences(a: PyTree, b: PyTree) -> PyTree:
    """`a - b`, at least in float32."""
    return jax.tree.map(lambda x, y: _tree.at_least_single(x) - _tree.at_least_single(y), a, b)


@dataclass(frozen=True, eq=False)
class _Reach:
    """How far directions move parameters, and how what they move is rounded; in float64 on the host."""

    leaves: list[tuple[str, np.dtype]]
    lengths: np.ndarray  # of the directions, (k,)
    moved: np.ndarray  # norms of the entries of each leaf that each direction moves, (leaves, k)

    @classmethod
    def of(cls, origin: PyTree, directions: PyTree) -> "_Reach":
        named = jax.tree_util.tree_leaves_with_path(origin)
        leaves = [(_tree.key_name(path) if path else "the origin", np.dtype(jnp.result_type(x))) for path, x in named]
        both = zip(jax.tree.leaves(origin), _tree.stacked_leaves(directions))
        measured = np.asarray(jax.device_get([_reach_of_leaf(o, d) for o, d in both]), np.float64)
        lengths, moved = np.moveaxis(measured[:, :, 0] * measured[:, :, 1], 1, 0)
        return cls(leaves, np.hypot.reduce(lengths), moved)

    def rounding(self, dtype: Any = jnp.bfloat16) -> np.ndarray:
        """Norm of the rounding errors of what each direction moves, in parameters of at least this type, `(k,)`."""
        return np.hypot.reduce(self._by_leaf(dtype))

    def _by_leaf(self, dtype: Any = jnp.bfloat16) -> np.ndarray:
        r"""Rounding to a spacing of $\epsilon |x|$ is uniform over one: its variance is $(\epsilon |x|)^2 / 12$."""
        eps = [min(float(jnp.finfo(own).eps), float(jnp.finfo(dtype).eps)) for _, own in self.leaves]
        return self.moved * np.asarray(eps)[:, None] / np.sqrt(12)

    def noise(self, spans: Any, dtype: Any = None) -> np.ndarray:
        """Rounding, in parameters of at most this type, as a share of the way along axes of these lengths, `(k,)`."""
        coarse = 0 if dtype is None else float(jnp.finfo(dtype).eps)
        eps = np.asarray([max(float(jnp.finfo(own).eps), coarse) for _, own in self.leaves])
        way = self.lengths * np.asarray(spans, np.float64)
        rounding = np.hypot.reduce(self.moved * eps[:, None]) / np.sqrt(12)
        return np.divide(rounding, way, out=np.zeros_like(way), where=way > 0)

    def coarsest(self, axis: int) -> tuple[str, np.dtype]:
        """Name and type of the leaf that rounds most of what a direction moves."""
        return self.leaves[int(np.argmax(self._by_leaf()[:, axis]))]

    def remedy(self, axis: int, moved: float) -> str:
        """The narrowest type of parameters that resolves a move."""
        if self.rounding(jnp.float32)[axis] <= moved:
            return (
                "float32 parameters (jax.tree.map(lambda x: x.astype(jnp.float32), params)), with which the model may "
                "go on computing in a narrower type"
            )
        return "float64 (jax.config.update('jax_enable_x64', True) and float64 parameters)"


@jax.jit
def _reach_of_leaf(origin: Array, directions: Array) -> Float[Array, "2 2 k"]:
    """Norms of directions, and of the entries of a leaf that they move, each as a scale and what it scales."""
    axes = tuple(range(1, directions.ndim))
    moved = jnp.where(directions != 0, _tree.at_least_single(origin)[None], 0)
    norms = [jnp.stack(_tree.scaled_norms(x, axes)).reshape(2, -1) for x in (directions, moved)]
    widest = max((x.dtype for x in norms), key=lambda dtype: jnp.finfo(dtype).bits)
    return jnp.stack([x.astype(widest) for x in norms])


def as_stack(trees: PyTree, like: PyTree, name: str = "trees", like_name: str = "like") -> PyTree:
    """Parameters as one stack, whose leaves have a leading axis: of a list of trees, or of a stack as it is.

    Every function here that takes a stack reads it like this.

    Args:
        trees: a list or tuple of trees like `like`, or a stack of them.
        like: one such tree.
        name: what `trees` is called in messages.
        like_name: what `like` is called in messages.

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: neither a list of trees like `like` nor a stack of them.
    """
    return _tree.read_stack(trees, name, like, like_name)


def line(a: PyTree, b: PyTree) -> Subspace:
    """The line with `a` at coordinate 0 and `b` at 1 (Goodfellow et al. 2015).

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: the points have different structures or shapes.
    """
    u, v, _ = parted_alike(a, b)
    check_pair(u, v)
    return Subspace(a, _tree.as_stack(jax.tree.map(jnp.subtract, v, u)))


def check_pair(a: PyTree, b: PyTree, *, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise unless both are trees of parameters, the second like the first."""
    first, second = names
    _tree.check_params(a, first)
    _tree.check_params(b, second)
    _tree.check_like(b, a, second, first)


def plane_through(a: PyTree, b: PyTree, c: PyTree) -> Subspace:
    """The plane through three points, with `a` at (0, 0) and `b` at (1, 0).

    The second direction is the part of `c - a` orthogonal to `b - a`, brought to the length of `b - a`
    (Garipov et al. 2018, appendix A.1, up to units), so distances in the picture are distances in parameter space,
    in units of |b - a|. Where `c` lies is `plane.project(c)`.

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: the points have different structures, or lie on one line.
    """
    origin = a
    (a, b, _), c = parted_alike(a, b), parted(c).moving
    check_pair(a, b)
    check_pair(a, c, names=("a", "c"))
    u, v = (jax.tree.map(jnp.subtract, x, a) for x in (b, c))
    try:
        unit = orthonormalized(_tree.stack([u, v]))
    except ValueError as error:
        raise ValueError("the three points lie on one line, so they span no plane") from error
    length = _tree.norm(u)
    return Subspace(origin, jax.tree.map(lambda x: x * length.astype(x.dtype), unit))


def redrawn(at: Subspace, number: int) -> Subspace:
    """The subspace with a random direction, known by its number, in place of the last one, of its norm leaf by leaf."""
    drawn = random_directions(jax.random.key(number), at.origin, 1)

    def placed(old: Any, new: Any) -> Array:
        old, new = jnp.asarray(old), jnp.asarray(new)[0]
        size = _tree.norm(new)
        new = new * (_tree.norm(old[-1]) / jnp.where(size > 0, size, 1))
        return old.at[-1].set(new.astype(old.dtype))

    return replace(at, directions=jax.tree.map(placed, at.checked_directions(), drawn))
