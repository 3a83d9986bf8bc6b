"""`Subspace`, and the directions that span it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.affine import _program
from landscape.checks import check_flag, reals, warn
from landscape.grid import Grid
from landscape.subspace import _filters, _streams
from landscape.subspace._filters import Description, FilterAxis

NOISE = 0.1  # share of a picture's range from which rounding is its subject


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Subspace:
    """The affine map `coords -> origin + sum_i coords[i] * directions[i]` and its least-squares inverse.

    Attributes:
        origin: parameters at the coordinates 0.
        directions: pytree like `origin` whose leaves carry a leading axis of length `k`, or a list of `k` trees.
    """

    origin: PyTree
    directions: PyTree

    @property
    def dim(self) -> int:
        """Number of directions, `k`."""
        return _tree.num_stacked(self._stacked())

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> PyTree:
        """Parameters at `coords`, in the dtypes of the origin; exactly the origin at 0.

        Raises:
            TypeError: a leaf, or a coordinate, is not real.
            ValueError: directions that do not look like the origin, or coordinates of another number.
        """
        directions = self._stacked()
        coords = _real_vector(coords, _tree.num_stacked(directions))

        def move(o: Any, step: Array) -> Array:
            o = jnp.asarray(o)
            wide = _tree.wide_dtype(o, step)
            return (o.astype(wide) + step.astype(wide)).astype(o.dtype)

        return jax.tree.map(move, self.origin, _tree.combine(coords, directions))

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
        return least_squares(self._stacked(), self._from_origin(params))

    def residual(self, params: PyTree) -> Float[Array, "*t"]:
        """Euclidean distance of `params` from the subspace: what the picture does not show.

        Of a `Trajectory`, or a list of them, those of all its snapshots, `(T,)`, as for `project`.

        Raises:
            TypeError, ValueError: as for `project`.
        """
        if (lazy := _tree.as_lazy(params)) is not None:
            return jnp.asarray(self._projected(lazy).residual)
        return _tree.norm(_differences(params, self(self.project(params))))

    def gram(self) -> Float[Array, "k k"]:
        """Inner products of the directions; diagonal for an orthogonal plane, whose picture is not sheared."""
        directions = self._stacked()
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
        reach, spans = _Reach.of(self.origin, self._stacked()), [np.ptp(axis.values) for axis in grid.axes]
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

    def _stacked(self) -> PyTree:
        """The directions as a stack, checked."""
        _tree.check_params(self.origin, "origin")
        return _tree.read_stack(self.directions, "directions", self.origin, "the origin")

    def _projected(self, lazy: _tree.LazyStack) -> _streams.Projection:
        directions = self._stacked()
        return _streams.project(_tree.read_lazily(lazy, "params", self.origin, "the origin"), self.origin, directions)

    def _from_origin(self, params: PyTree) -> PyTree:
        _tree.check_params(params)
        _tree.check_like(params, self.origin, "params", "the origin")
        return _differences(params, self.origin)

    def _check_resolution(self, grid: Grid) -> None:
        """Compare one step of the grid with the rounding of the parameters that it moves, in the Euclidean norm."""
        reach = _Reach.of(self.origin, self._stacked())
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
        both = zip(jax.tree.leaves(origin), jax.tree.leaves(directions))
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
    rows = directions.reshape(directions.shape[0], -1)
    moved = jnp.where(rows != 0, _tree.at_least_single(origin).reshape(1, -1), 0)
    norms = [jnp.stack(_tree.scaled_norms(x, 1))[..., 0] for x in (rows, moved)]
    widest = max((x.dtype for x in norms), key=lambda dtype: jnp.finfo(dtype).bits)
    return jnp.stack([x.astype(widest) for x in norms])


def least_squares(directions: PyTree, vector: PyTree) -> Float[Array, " k"]:
    """Coefficients of the combination of stacked `directions` that is nearest to `vector`.

    Solved through an orthonormal basis, never through the Gram matrix, whose condition number is the square:
    directions 0.003 rad apart would already be wrong by a tenth in float32. Dependent directions get the
    solution of least norm, measured in units of their lengths.
    """
    basis, triangle, lengths, scales = _gram_schmidt(_flatten(directions))
    row = _flatten(_tree.as_stack(vector))[0]
    size = _tree.power_of_two_near(row)
    solution, *_ = jnp.linalg.lstsq(triangle, jnp.matmul(basis, row / size, precision="highest"))
    return solution / lengths * (size / scales)


def _flatten(stacked: PyTree) -> Float[Array, "k n"]:
    """A stack of trees as the rows of a matrix."""
    leaves = jax.tree.leaves(stacked)
    if _are_on_host(leaves):  # XLA takes seconds to compile a concatenation of a thousand leaves
        return _tree.at_least_single(np.concatenate([_rows_on_host(x) for x in leaves], axis=1))
    return jnp.concatenate([_tree.at_least_single(x).reshape(x.shape[0], -1) for x in leaves], axis=1)


def _rows_on_host(x: Any) -> np.ndarray:
    host = np.asarray(x)  # before it is reshaped, which JAX would do, within a trace by tracing it
    return host.reshape(host.shape[0], -1)


def _are_on_host(leaves: list[Any]) -> bool:
    """Whether NumPy can read them where they are: nothing is traced, and no device but one CPU holds them."""
    arrays = [x for x in leaves if isinstance(x, jax.Array)]
    if any(map(_tree.is_traced, arrays)):
        return False
    devices = {device for x in arrays for device in x.devices()}
    return len(devices) <= 1 and all(device.platform == "cpu" for device in devices)


@jax.jit
def _gram_schmidt(
    rows: Float[Array, "k n"],
) -> tuple[Float[Array, "k n"], Float[Array, "k k"], Float[Array, " k"], Float[Array, " k"]]:
    """Orthonormal `basis`, upper `triangle`, `lengths`, and `scales`, which are powers of two.

    With `rows[i] = scales[i] * lengths[i] * triangle[:, i] @ basis`.

    Gram-Schmidt, twice (Giraud et al. 2005: that is enough to be orthogonal to rounding); unlike LAPACK's QR it
    sums in blocks, which is an error of 1e-6 instead of 1e-4 for 300,000 parameters in float32. A row that depends
    on the ones before it, or is zero, gets a zero row of the basis, and of the triangle.
    """
    dot = partial(jnp.matmul, precision="highest")
    scales = jax.vmap(_tree.power_of_two_near)(rows)
    rows = rows / scales[:, None]
    lengths = jnp.sqrt(jax.vmap(dot)(rows, rows))
    lengths = jnp.where(lengths > 0, lengths, 1)
    rounding = 100 * float(jnp.finfo(rows.dtype).eps)

    def add(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, triangle = state
        row = rows[i] / lengths[i]
        for _ in range(2):
            shadow = dot(basis, row)
            row, triangle = row - dot(shadow, basis), triangle.at[:, i].add(shadow)
        rest = jnp.sqrt(dot(row, row))
        rest = jnp.where(rest > rounding, rest, 0)
        row = jnp.where(rest > 0, row / jnp.where(rest > 0, rest, 1), 0)
        return basis.at[i].set(row), triangle.at[i, i].set(rest)

    start = jnp.zeros_like(rows), jnp.zeros((len(rows), len(rows)), rows.dtype)
    return *jax.lax.fori_loop(0, len(rows), add, start), lengths, scales


def random_directions(key: Array, params: PyTree, num: int = 2) -> PyTree:
    """`num` directions with independent standard normal entries, stacked.

    Args:
        key: random key.
        params: the tree whose structure, shapes and dtypes the directions take.
        num: number of directions.

    Raises:
        TypeError: a leaf of `params` is not a real floating-point array, or `num` is no integer.
        ValueError: `num` is below 1, or `params` holds nothing.
    """
    _tree.check_key(key)
    _tree.check_params(params)
    _tree.check_count("num", num, 1)
    return _cut(_draw(key, int(num), _tree.size(params), _tree.wide_dtype(*jax.tree.leaves(params))), params)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(key: Array, num: int, size: int, dtype: Any) -> Float[Array, "num size"]:
    """One draw for all leaves: a sampler for each shape would take longer to compile than to run."""
    return jax.random.normal(key, (num, size), dtype)


def _cut(rows: Array, like: PyTree, stacked: bool = False) -> PyTree:
    """Rows of a matrix as a stack of trees, in the shapes and dtypes of a tree, or of a stack, and on its devices."""
    leaves, treedef = jax.tree.flatten(like)
    shapes = [jnp.shape(x)[int(stacked) :] for x in leaves]
    ends = np.cumsum([0, *(np.prod(shape, dtype=int) for shape in shapes)])
    host = np.asarray(rows) if _are_on_host([rows]) else None
    pieces = []
    for leaf, shape, start, stop in zip(leaves, shapes, ends, ends[1:]):
        shape, dtype = (rows.shape[0], *shape), jnp.result_type(leaf)
        if host is None:
            piece = _piece(rows, start, int(stop - start), shape, dtype)
        else:  # nothing to compile, however many shapes there are
            piece = jnp.asarray(host[:, start:stop].reshape(shape).astype(dtype))
        pieces.append(_beside(piece, leaf, stacked))
    return jax.tree.unflatten(treedef, pieces)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _piece(rows: Array, start: Any, length: int, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.lax.dynamic_slice_in_dim(rows, start, length, axis=1).reshape(shape).astype(dtype)


def _beside(piece: Array, leaf: Any, stacked: bool) -> Array:
    """A stack for a leaf, on the devices of the leaf and divided among them as it is."""
    if _tree.is_traced(piece) or _tree.is_traced(leaf) or not isinstance(leaf, jax.Array):
        return piece
    if isinstance(leaf.sharding, jax.sharding.NamedSharding):
        spec = jax.sharding.PartitionSpec(None, *leaf.sharding.spec[int(stacked) :])
        return jax.device_put(piece, jax.sharding.NamedSharding(leaf.sharding.mesh, spec))
    if len(leaf.devices()) == 1 and leaf.devices() != piece.devices():
        return jax.device_put(piece, next(iter(leaf.devices())))
    return piece


def _warn_of_zeros(params: PyTree) -> None:
    """Say which matrices are zero, so that directions as long as they are do not move them."""
    leaves = [(_tree.key_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(params) if jnp.ndim(x) > 1]
    nonzero = [(name, jnp.any(jnp.asarray(x) != 0)) for name, x in leaves]
    zero = [name for name, some in nonzero if not _tree.is_traced(some) and not some]
    if zero:
        warn(
            f"{', '.join(zero[:3])}{f' and {len(zero) - 3} more' if len(zero) > 3 else ''} of params are all zero, and "
            "directions of the norm of zero move nothing: with one factor of a low-rank adapter zero, as before its "
            "training, the picture is blank. Train it first, or leave out filter_normalize"
        )


def filter_normalize(
    dirs: PyTree,
    params: PyTree,
    *,
    filter_axis: int | str | Callable[[str, Any], FilterAxis] | None = None,
    include_vectors: bool = False,
) -> PyTree:
    r"""Rescale each filter of each direction to the norm of that filter in `params`.

    $d_{ij} \leftarrow \frac{d_{ij}}{\|d_{ij}\|}\|\theta_{ij}\|$ for filter $j$ of layer $i$ (Li et al. 2018,
    section 4), which makes the picture independent of the scale of the layers of a scale-invariant network.
    `describe` prints what is taken for the filters of each leaf.

    Args:
        dirs: directions, a stack or a list of trees.
        params: the parameters they start from.
        filter_axis: the axis that counts the filters. An integer for all leaves: -1, the default, fits flax and haiku,
            0 fits PyTorch and equinox. A layout by name, `"flax"`, `"haiku"`, `"torch"` or `"equinox"`, also knows
            embeddings, attention and recurrent layers, and goes by the bias of a layer, which has one number for each
            filter. Or a function `(name, leaf) -> axis, axes or None`. The default and the layouts warn of every leaf
            of two axes or more that they do not know.
        include_vectors: whether biases and norm scales take part, each as one filter. They are fixed by default,
            as in the paper's code (`xignore='biasbn'`).

    Returns:
        Directions of the same structure. A filter of zero norm in `params` gets a zero direction.

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: `dirs` does not look like `params`, the layout is unknown, or a leaf lacks the axis.
    """
    dirs = _checked(dirs, params, filter_axis)
    check_flag("include_vectors", include_vectors)
    doubts = _filters.doubts(params, filter_axis)
    if doubts:
        warn(doubts)
    _warn_of_zeros(params)
    axes = {row.name: row.axes for row in _filters.filters_of(params, filter_axis)}

    def normalize(name: str, w: Any, d: Array) -> Array:
        if axes[name] is None:
            return _match_norms(d, w, ()) if include_vectors else jnp.zeros_like(d)
        return _match_norms(d, w, axes[name])

    return _tree.map_with_name(normalize, params, dirs)


def _checked(dirs: PyTree, params: PyTree, filter_axis: Any = None) -> PyTree:
    """Directions as a stack like the parameters."""
    _tree.check_params(params)
    _filters.check_filter_axis(filter_axis)
    return _tree.read_stack(dirs, "dirs", params)


@partial(jax.jit, static_argnums=2)
def _match_norms(d: Array, w: Array, filter_axes: tuple[int, ...]) -> Array:
    """Scale `d` so that its norms over all axes but `filter_axes` are those of `w`; NaN-free for zero norms.

    Compiled for each shape, since one program of all the leaves takes longer to compile than to run.
    """
    over = tuple(axis for axis in range(jnp.ndim(w)) if axis not in filter_axes)
    wide = _tree.at_least_single(d)
    w_scale, target = _tree.scaled_norms(w, over)
    d_scale, norms = _tree.scaled_norms(wide, tuple(axis + 1 for axis in over))
    ratio = jnp.where(norms > 0, target[None] / jnp.where(norms > 0, norms, 1), 0)
    return (wide / d_scale * ratio * w_scale[None]).astype(d.dtype)


def layer_normalize(dirs: PyTree, params: PyTree, *, include_vectors: bool = False) -> PyTree:
    """Rescale each leaf of each direction to the norm of that leaf in `params` (Li et al. 2018, section 4).

    Args:
        dirs: directions, a stack or a list of trees.
        params: the parameters they start from.
        include_vectors: whether biases and norm scales take part; they are fixed by default.

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: `dirs` does not look like `params`.
    """
    dirs = _checked(dirs, params)
    check_flag("include_vectors", include_vectors)
    moves = {row.name: include_vectors or row.axes is not None for row in _filters.filters_of(params, None)}

    def normalize(name: str, w: Any, d: Array) -> Array:
        return _match_norms(d, w, ()) if moves[name] else jnp.zeros_like(d)

    return _tree.map_with_name(normalize, params, dirs)


def describe(
    dirs: PyTree, params: PyTree, *, filter_axis: int | str | Callable[[str, Any], FilterAxis] | None = None
) -> Description:
    """What directions do to each parameter: its filters, whether it is moved, and why. Print it.

    >>> import jax, jax.numpy as jnp
    >>> from landscape import subspace
    >>> params = {"dense": {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)}}
    >>> dirs = subspace.random_directions(jax.random.key(0), params)
    >>> subspace.describe(subspace.filter_normalize(dirs, params), params, filter_axis="flax")
    leaf          shape  axis  filters  moved  why
    dense.bias    3      -     1        no     bias or scale of a norm layer: no filters
    dense.kernel  5x3    1     3        yes    kernel (.., in, out)

    Args:
        dirs: directions, a stack or a list of trees, as they are drawn or after `filter_normalize` or `mask`.
        params: the parameters they start from.
        filter_axis: as for `filter_normalize`.

    Returns:
        One row for each leaf. Where `why` says that no rule knows it, look whether the axis is right.

    Raises:
        TypeError, ValueError: as for `filter_normalize`.
    """
    return _filters.described(_checked(dirs, params, filter_axis), params, filter_axis)


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
    return _orthonormalized(_tree.read_stack(dirs, "dirs", like, "like"))


def _orthonormalized(dirs: PyTree) -> PyTree:
    basis, triangle, *_ = _gram_schmidt(_flatten(dirs))
    dependent = jnp.any(jnp.diagonal(triangle) == 0)
    if not _tree.is_traced(dependent) and bool(dependent):
        raise ValueError("the directions are linearly dependent: they do not span a space of their number")
    return _cut(basis, dirs, stacked=True)


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
    snapshots = _tree.read_stack(snapshots, "snapshots", like, "like")
    length = _tree.num_stacked(snapshots)
    _check_num(num, length)
    rows, explained = _principal(_flatten(snapshots), int(num))
    rounding = 10 * float(jnp.finfo(explained.dtype).eps) * length**0.5
    if not _tree.is_traced(explained) and not bool(jnp.all(explained > rounding)):
        raise ValueError(f"the snapshots vary in fewer than {num} directions: explained variance {explained}")
    basis, *_ = _gram_schmidt(rows)
    return _cut(basis, snapshots, stacked=True), explained


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


@partial(jax.jit, static_argnums=1)
def _principal(rows: Float[Array, "t n"], num: int) -> tuple[Float[Array, "num n"], Array]:
    """Principal directions, not yet of unit length, through the small matrix of inner products of the snapshots."""
    centred = rows - rows[:1]  # about the first before, so that constant snapshots give exact zeros
    centred = centred - jnp.mean(centred, axis=0, keepdims=True)
    centred = centred / _tree.power_of_two_near(centred)
    variances, weights = jnp.linalg.eigh(jnp.matmul(centred, centred.T, precision="highest"))
    variances, weights = jnp.maximum(variances[::-1], 0), weights[:, ::-1][:, :num]
    weights = weights * jnp.where(weights[-1] < weights[0], -1, 1)[None]
    return jnp.matmul(weights.T, centred, precision="highest"), variances[:num] / jnp.sum(variances)


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
    check_pair(a, b)
    return Subspace(a, _tree.as_stack(jax.tree.map(jnp.subtract, b, a)))


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
    check_pair(a, b)
    check_pair(a, c, names=("a", "c"))
    u, v = (jax.tree.map(jnp.subtract, x, a) for x in (b, c))
    try:
        unit = _orthonormalized(_tree.stack([u, v]))
    except ValueError as error:
        raise ValueError("the three points lie on one line, so they span no plane") from error
    length = _tree.norm(u)
    return Subspace(a, jax.tree.map(lambda x: x * length.astype(x.dtype), unit))


def mask(dirs: PyTree, keep: str | Callable[[str, Any], bool], *, like: PyTree = None) -> PyTree:
    """Zero the directions in all leaves but some.

    Args:
        dirs: directions, a stack or a list of trees.
        keep: a regular expression searched in the leaf's path (`"layers.0"`, `"kernel$"`), or a function
            `(name, leaf) -> bool` of the stacked leaf.
        like: one tree of the kind that is stacked, as for `orthonormalize`.

    Raises:
        TypeError: a leaf is not a real floating-point array, or `keep` is neither text nor a function.
        ValueError: nothing is kept; `dirs` is no stack, or could be a list as well.
    """
    if isinstance(keep, type) or not (callable(keep) or isinstance(keep, str | re.Pattern)):
        raise TypeError(f"keep must be a regular expression or a function (name, leaf) -> bool, got {keep!r}")
    dirs = _tree.read_stack(dirs, "dirs", like, "like")
    keeps = keep if callable(keep) else (lambda name, leaf: re.search(keep, name) is not None)
    kept = _tree.map_with_name(lambda name, d: bool(keeps(name, d)), dirs)
    if not any(jax.tree.leaves(kept)):
        names = [_tree.key_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(dirs)]
        raise ValueError(f"mask keeps no leaf; the leaves are {', '.join(names)}")
    return jax.tree.map(lambda d, k: d if k else jnp.zeros_like(d), dirs, kept)


def redrawn(at: Subspace, number: int) -> Subspace:
    """The subspace with a random direction, known by its number, in place of the last one, of its norm leaf by leaf."""
    given = _tree.read_stack(at.directions, "directions", at.origin, "the origin")
    drawn = random_directions(jax.random.key(number), at.origin, 1)

    def placed(old: Any, new: Any) -> Array:
        old, new = jnp.asarray(old), jnp.asarray(new)[0]
        size = jnp.linalg.norm(new)
        new = new * (jnp.linalg.norm(old[-1]) / jnp.where(size > 0, size, 1))
        return old.at[-1].set(new.astype(old.dtype))

    return replace(at, directions=jax.tree.map(placed, given, drawn))
