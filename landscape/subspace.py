r"""Affine subspaces of parameter space, and the directions that span them.

A point of a `Subspace` is $\theta(c) = \theta_0 + \sum_i c_i d_i$. The directions are stacked: each leaf has a
leading axis of length `k`.

>>> import jax, jax.numpy as jnp
>>> from landscape import Subspace, subspace
>>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
>>> directions = subspace.random_directions(jax.random.key(0), params)
>>> directions = subspace.filter_normalize(directions, params)
>>> plane = Subspace(params, directions)
>>> plane(jnp.zeros(2))["kernel"].shape
(3, 2)
>>> [round(float(c), 5) for c in plane.project(plane(jnp.array([0.5, -0.25])))]
[0.5, -0.25]
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape._caller import warn
from landscape.grid import Grid

FilterAxis = int | tuple[int, ...] | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Subspace:
    """The affine map `coords -> origin + sum_i coords[i] * directions[i]` and its least-squares inverse.

    Attributes:
        origin: parameters at the coordinates 0.
        directions: pytree like `origin` whose leaves carry a leading axis of length `k`.
    """

    origin: PyTree
    directions: PyTree

    @property
    def dim(self) -> int:
        """Number of directions, `k`."""
        return _tree.num_stacked(self.directions)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> PyTree:
        """Parameters at `coords`, in the dtypes of the origin; exactly the origin at 0."""

        def move(o: Any, step: Array) -> Array:
            o = jnp.asarray(o)
            wide = _tree.wide_dtype(o, step)
            return (o.astype(wide) + step.astype(wide)).astype(o.dtype)

        return jax.tree.map(move, self.origin, _tree.combine(jnp.asarray(coords), self.directions))

    def project(self, params: PyTree) -> Float[Array, " k"]:
        """Coordinates of the point of the subspace nearest to `params` in the Euclidean norm.

        Solves the least-squares problem, so it is right for directions that are neither orthogonal nor of unit
        length. Where they are linearly dependent, it is the solution of least norm with coordinates measured in
        units of the lengths of their directions; a zero direction gets the coordinate 0.
        """
        return least_squares(self.directions, jax.tree.map(jnp.subtract, params, self.origin))

    def residual(self, params: PyTree) -> Float[Array, ""]:
        """Euclidean distance of `params` from the subspace: what the picture does not show."""
        nearest = self(self.project(params))
        difference = _tree.as_stack(jax.tree.map(jnp.subtract, params, nearest))
        return jnp.sqrt(_tree.inner(difference, difference)[0, 0])

    def gram(self) -> Float[Array, "k k"]:
        """Inner products of the directions; diagonal for an orthogonal plane, whose picture is not sheared."""
        return _tree.inner(self.directions, self.directions)

    def check_grid(self, grid: Grid) -> None:
        """Raise unless this is an affine map that a float of this precision resolves on `grid`.

        Raises:
            TypeError: a parameter is not a real floating-point array.
            ValueError: directions of another structure, another dimension than the grid, or steps of the grid
                smaller than the rounding of the parameters.
        """
        _tree.check_params(self.origin, "origin")
        _tree.check_like(self.directions, self.origin, "directions", "the origin", stacked=True)
        if grid.ndim != self.dim:
            raise ValueError(f"the subspace has {self.dim} directions, the grid {grid.ndim} axes; they must agree")
        self._check_resolution(grid)

    def _check_resolution(self, grid: Grid) -> None:
        """Compare one step of the grid with the rounding of the parameters that it moves, in the Euclidean norm."""
        rounding = jax.tree.map(_squared_rounding, self.origin, self.directions)
        rounding = np.sqrt(np.sum([np.asarray(x, dtype=np.float64) for x in jax.tree.leaves(rounding)], axis=0))
        lengths = np.sqrt(np.asarray(jnp.diagonal(self.gram()), dtype=np.float64))
        for axis, length, ulp in zip(grid.axes, lengths, rounding):
            if len(axis) > 1 and 0 < length * np.min(np.diff(axis.values)) < ulp:
                step, dtype = np.min(np.diff(axis.values)), jnp.result_type(jax.tree.leaves(self.origin)[0])
                raise ValueError(
                    f"the grid is finer than {dtype} resolves: one step of {axis.name!r} ({step:.3g}) moves the "
                    f"parameters by {length * step:.3g}, less than their rounding ({ulp:.3g}), so neighbouring "
                    "points would be the same point; use float64 (jax.config.update('jax_enable_x64', True) and "
                    "float64 parameters), a larger extent or fewer points"
                )


def _squared_rounding(origin: Any, directions: Array) -> Array:
    """Mean squared rounding error of the entries of a leaf that each direction moves, shape `(k,)`.

    Rounding to a spacing of `eps |x|` is uniform over one spacing: its variance is `(eps |x|)^2 / 12`.
    """
    eps = float(jnp.finfo(jnp.result_type(origin)).eps)
    moved = jnp.where(directions != 0, jnp.square(_tree.at_least_single(origin)), 0)
    return jnp.sum(moved.reshape(moved.shape[0], -1), axis=1) * eps**2 / 12


def least_squares(directions: PyTree, vector: PyTree) -> Float[Array, " k"]:
    """Coefficients of the combination of stacked `directions` that is nearest to `vector`.

    Solved through an orthonormal basis, never through the Gram matrix, whose condition number is the square:
    directions 0.003 rad apart would already be wrong by a tenth in float32. Dependent directions get the
    solution of least norm, measured in units of their lengths.
    """
    basis, triangle, lengths = _gram_schmidt(_flatten(directions))
    right = jnp.matmul(basis, _flatten(_tree.as_stack(vector))[0], precision="highest")
    solution, *_ = jnp.linalg.lstsq(triangle, right)
    return solution / lengths


def _flatten(stacked: PyTree) -> Float[Array, "k n"]:
    """A stack of trees as the rows of a matrix."""
    return jnp.concatenate([_tree.at_least_single(x).reshape(x.shape[0], -1) for x in jax.tree.leaves(stacked)], axis=1)


@jax.jit
def _gram_schmidt(
    rows: Float[Array, "k n"],
) -> tuple[Float[Array, "k n"], Float[Array, "k k"], Float[Array, " k"]]:
    """Orthonormal `basis`, upper `triangle` and `lengths` with `rows[i] = lengths[i] * triangle[:, i] @ basis`.

    Gram-Schmidt, twice (Giraud et al. 2005: that is enough to be orthogonal to rounding); unlike LAPACK's QR it
    sums in blocks, which is an error of 1e-6 instead of 1e-4 for 300,000 parameters in float32. A row that depends
    on the ones before it, or is zero, gets a zero row of the basis, and of the triangle.
    """
    dot = partial(jnp.matmul, precision="highest")
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
    return *jax.lax.fori_loop(0, len(rows), add, start), lengths


def random_directions(key: Array, params: PyTree, num: int = 2) -> PyTree:
    """`num` directions with independent standard normal entries, stacked.

    Args:
        key: random key.
        params: the tree whose structure, shapes and dtypes the directions take.
        num: number of directions.

    Raises:
        TypeError: a leaf of `params` is not a real floating-point array.
    """
    _tree.check_key(key)
    _tree.check_params(params)
    return _draw(key, jax.tree.map(jnp.asarray, params), num)


@partial(jax.jit, static_argnums=2)
def _draw(key: Array, params: PyTree, num: int) -> PyTree:
    """One draw for all leaves: a sampler for each shape would take longer to compile than to run."""
    dtype = _tree.wide_dtype(*jax.tree.leaves(params))
    flat = jax.random.normal(key, (num, _tree.size(params)), dtype)
    return _unravel_stack(flat, jax.tree.map(lambda x: x[None], params))


def flax_filter_axis(name: str, leaf: Any) -> FilterAxis:
    """Axes that index the filters of a flax (linen, nnx) or haiku parameter, `None` for one without filters.

    Kernels of dense and convolution layers hold their filters on the last axis; an embedding is one filter per
    row; the query, key and value kernels of attention `(features, heads, head_dim)` on the last two.
    """
    *modules, last = _words(name)
    if _is_vector(name, leaf):
        return None
    if last in ("embedding", "embeddings"):
        return 0
    if jnp.ndim(leaf) == 3 and any(module in ("query", "key", "value") for module in modules):
        return (1, 2)
    return -1


def torch_filter_axis(name: str, leaf: Any) -> FilterAxis:
    """Axes that index the filters of a PyTorch or equinox parameter: the first, for every kind of weight.

    So does the paper's code. In a transposed convolution of PyTorch, `(in, out, *kernel)`, that is the input channel.
    """
    return None if _is_vector(name, leaf) else 0


_VECTORS = {"b", "scale", "offset", "gamma", "beta"}


def _is_vector(name: str, leaf: Any) -> bool:
    """Biases and norm scales have no filters. By name too, since some carry more than one axis.

    A `bias` always is one: that of flax attention is `(heads, head_dim)`. The other names also stand for matrices (the
    `b` of a low-rank product), so they count only where all entries lie along one axis: the scale of a haiku batch norm
    is `(1, 1, 1, out)`.
    """
    last, shape = _words(name)[-1], jnp.shape(leaf)
    return len(shape) <= 1 or last == "bias" or (last in _VECTORS and math.prod(shape) == max(shape))


def _words(name: str) -> list[str]:
    """The path of a parameter; flax nnx keeps the array under one more name, `value`, which is left out."""
    words = name.split(".")
    return words[:-1] if words[-1] == "value" and len(words) > 1 else words


LAYOUTS: dict[str, Callable[[str, Any], FilterAxis]] = {
    "flax": flax_filter_axis,
    "haiku": flax_filter_axis,
    "torch": torch_filter_axis,
    "equinox": torch_filter_axis,
}


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

    Args:
        dirs: stacked directions.
        params: the parameters they start from.
        filter_axis: the axis that counts the filters. An integer for all leaves: -1, the default, fits flax and haiku,
            0 fits PyTorch and equinox. A layout by name, `"flax"`, `"haiku"`, `"torch"` or `"equinox"`, also knows
            embeddings and attention. Or a function `(name, leaf) -> axis, axes or None`. The default warns where a
            matrix is called `weight`, as PyTorch and equinox do.
        include_vectors: whether biases and norm scales take part, each as one filter. They are fixed by default,
            as in the paper's code (`xignore='biasbn'`).

    Returns:
        Directions of the same structure. A filter of zero norm in `params` gets a zero direction.

    Raises:
        ValueError: `dirs` does not look like `params`, the layout is unknown, or a leaf lacks the axis.
    """
    _tree.check_like(dirs, params, "dirs", "params", stacked=True)
    if filter_axis is None:
        _warn_of_rows(params)
        filter_axis = -1
    return _normalize_filters(dirs, params, _filter_rule(filter_axis), include_vectors)


def _warn_of_rows(params: PyTree) -> None:
    """Say so where the last axis, taken for want of another, looks like the inputs of a layer and not its filters."""
    named = [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    rows = [name for name, leaf in named if _words(name)[-1] == "weight" and jnp.ndim(leaf) >= 2]
    if rows:
        warn(
            f"{rows[0]} looks like a PyTorch or equinox weight, whose filters are on its first axis, and filter_axis "
            'was left at -1: pass filter_axis="torch", or -1 if the last axis it is'
        )


@partial(jax.jit, static_argnums=(2, 3))
def _normalize_filters(dirs: PyTree, params: PyTree, rule: Any, include_vectors: bool) -> PyTree:
    def normalize(name: str, w: Array, d: Array) -> Array:
        axes = rule(name, w)
        if axes is None:
            return _match_norms(d, w, ()) if include_vectors else jnp.zeros_like(d)
        axes = axes if isinstance(axes, tuple) else (axes,)
        if not all(-jnp.ndim(w) <= axis < jnp.ndim(w) for axis in axes):
            raise ValueError(f"filter_axis {axes} does not exist in {name}, {w.dtype}{list(w.shape)}")
        return _match_norms(d, w, axes)

    return _tree.map_with_name(normalize, params, dirs)


def _filter_rule(filter_axis: Any) -> Callable[[str, Any], FilterAxis]:
    if callable(filter_axis):
        return filter_axis
    if isinstance(filter_axis, str):
        if filter_axis not in LAYOUTS:
            raise ValueError(
                f"filter_axis must be an axis, a function or one of {sorted(LAYOUTS)}, got {filter_axis!r}"
            )
        return LAYOUTS[filter_axis]
    return _axis_rule(filter_axis)


@lru_cache
def _axis_rule(axis: int) -> Callable[[str, Any], FilterAxis]:
    """The same axis for every leaf that has filters; cached, so that equal axes share a compiled program."""
    return lambda name, leaf: None if _is_vector(name, leaf) else axis


def _match_norms(d: Array, w: Array, filter_axes: tuple[int, ...]) -> Array:
    """Scale `d` so that its norms over all axes but `filter_axes` are those of `w`; NaN-free for zero norms."""
    kept = {axis % jnp.ndim(w) for axis in filter_axes}
    over = tuple(axis for axis in range(jnp.ndim(w)) if axis not in kept)
    w, wide = _tree.at_least_single(w), _tree.at_least_single(d)
    target = jnp.sqrt(jnp.sum(jnp.square(w), axis=over, keepdims=True))
    norms = jnp.sqrt(jnp.sum(jnp.square(wide), axis=tuple(axis + 1 for axis in over), keepdims=True))
    return (wide * jnp.where(norms > 0, target[None] / jnp.where(norms > 0, norms, 1), 0)).astype(d.dtype)


def layer_normalize(dirs: PyTree, params: PyTree, *, include_vectors: bool = False) -> PyTree:
    """Rescale each leaf of each direction to the norm of that leaf in `params` (Li et al. 2018, section 4)."""
    _tree.check_like(dirs, params, "dirs", "params", stacked=True)

    def normalize(name: str, w: Array, d: Array) -> Array:
        if _is_vector(name, w) and not include_vectors:
            return jnp.zeros_like(d)
        return _match_norms(d, w, ())

    return _tree.map_with_name(normalize, params, dirs)


def orthonormalize(dirs: PyTree) -> PyTree:
    """Orthonormal directions: each is the part of its direction orthogonal to those before (Gram-Schmidt).

    Raises:
        ValueError: the directions are linearly dependent to rounding.
    """
    basis, triangle, _ = _gram_schmidt(_flatten(dirs))
    dependent = jnp.any(jnp.diagonal(triangle) == 0)
    if not _tree.is_traced(dependent) and bool(dependent):
        raise ValueError("the directions are linearly dependent: they do not span a space of their number")
    return _unravel_stack(basis, dirs)


def _unravel_stack(flat: Array, like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([np.prod(x.shape[1:], dtype=int) for x in leaves])[:-1]
    parts = jnp.split(flat, ends, axis=1)
    rows = [p.reshape(flat.shape[0], *x.shape[1:]).astype(x.dtype) for p, x in zip(parts, leaves)]
    return jax.tree.unflatten(treedef, rows)


def pca_directions(snapshots: PyTree, num: int = 2) -> tuple[PyTree, Float[Array, " num"]]:
    """Principal directions of a path of parameters.

    Principal component analysis of the snapshots about their mean (Lorch 2016; Li et al. 2018, section 7). Signs
    are chosen so that the path ends on the positive side of where it began.

    Args:
        snapshots: a stack of `T` parameter trees.
        num: number of directions, below `T`.

    Returns:
        Orthonormal stacked directions, and the share of the snapshots' variance that each explains. Compare
        with `random_walk_explained`: a high share by itself is what any random walk shows.

    Raises:
        ValueError: fewer than `num + 1` snapshots, or snapshots that do not vary in `num` directions beyond the
            rounding of their variance.
    """
    length = _tree.num_stacked(snapshots)
    if not 1 <= num < length:
        raise ValueError(f"{num} principal directions need at least {num + 1} snapshots, got {length}")
    dirs, explained = _principal(snapshots, num)
    rounding = 10 * float(jnp.finfo(explained.dtype).eps) * length**0.5
    if not _tree.is_traced(explained) and not bool(jnp.all(explained > rounding)):
        raise ValueError(f"the snapshots vary in fewer than {num} directions: explained variance {explained}")
    dirs = jax.tree.map(lambda d, x: d.astype(jnp.result_type(x)), orthonormalize(dirs), snapshots)
    return dirs, explained


@partial(jax.jit, static_argnums=1)
def _principal(snapshots: PyTree, num: int) -> tuple[PyTree, Array]:
    """Principal directions, not yet of unit length, through the small matrix of inner products of the snapshots."""
    centred = jax.tree.map(_centred, snapshots)
    variances, weights = jnp.linalg.eigh(_tree.inner(centred, centred))
    variances, weights = jnp.maximum(variances[::-1], 0), weights[:, ::-1][:, :num]
    weights = weights * jnp.where(weights[-1] < weights[0], -1, 1)[None]
    dirs = jax.vmap(_tree.combine, in_axes=(1, None))(weights, centred)
    return dirs, variances[:num] / jnp.sum(variances)


def _centred(snapshots: Any) -> Array:
    """Snapshots about their mean; about the first before, so that constant snapshots give exact zeros."""
    moved = _tree.at_least_single(snapshots)
    moved = moved - moved[:1]
    return moved - jnp.mean(moved, axis=0, keepdims=True)


def random_walk_explained(num_snapshots: int, num: int = 2) -> np.ndarray:
    r"""Share of variance that each principal direction of a high-dimensional random walk explains, shape `(num,)`.

    The null hypothesis for `pca_directions`: for `T` snapshots the eigenvalues are
    $\lambda_k \propto [2 (1 - \cos(\pi k / T))]^{-1}$, $k = 1..T-1$ (Antognini & Sohl-Dickstein 2018, equation 5),
    which tends to $6 / (\pi k)^2$: 60.8 % and 15.2 %, whatever is walked.
    """
    k = np.arange(1, num_snapshots)
    eigenvalues = 0.5 / (1 - np.cos(np.pi * k / num_snapshots))
    return (eigenvalues / eigenvalues.sum())[:num]


def line(a: PyTree, b: PyTree) -> Subspace:
    """The line with `a` at coordinate 0 and `b` at 1 (Goodfellow et al. 2015)."""
    _tree.check_params(a, "a")
    _tree.check_like(b, a, "b", "a")
    return Subspace(a, _tree.as_stack(jax.tree.map(jnp.subtract, b, a)))


def plane_through(a: PyTree, b: PyTree, c: PyTree) -> Subspace:
    """The plane through three points, with `a` at (0, 0) and `b` at (1, 0).

    The second direction is the part of `c - a` orthogonal to `b - a`, brought to the length of `b - a`
    (Garipov et al. 2018, appendix A.1, up to units), so distances in the picture are distances in parameter space,
    in units of |b - a|. Where `c` lies is `plane.project(c)`.

    Raises:
        ValueError: the points have different structures, or lie on one line.
    """
    _tree.check_params(a, "a")
    _tree.check_like(b, a, "b", "a")
    _tree.check_like(c, a, "c", "a")
    u, v = (jax.tree.map(jnp.subtract, x, a) for x in (b, c))
    try:
        unit = orthonormalize(_tree.stack([u, v]))
    except ValueError as error:
        raise ValueError("the three points lie on one line, so they span no plane") from error
    length = jnp.sqrt(_tree.inner(_tree.as_stack(u), _tree.as_stack(u))[0, 0])
    return Subspace(a, jax.tree.map(lambda x: x * length.astype(x.dtype), unit))


def mask(dirs: PyTree, keep: str | Callable[[str, Any], bool]) -> PyTree:
    """Zero the directions in all leaves but some.

    Args:
        dirs: stacked directions.
        keep: a regular expression searched in the leaf's path (`"layers.0"`, `"kernel$"`), or a function
            `(name, leaf) -> bool` of the stacked leaf.

    Raises:
        ValueError: nothing is kept.
    """
    keeps = keep if callable(keep) else (lambda name, leaf: re.search(keep, name) is not None)
    kept = _tree.map_with_name(lambda name, d: bool(keeps(name, d)), dirs)
    if not any(jax.tree.leaves(kept)):
        names = [_tree.key_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(dirs)]
        raise ValueError(f"mask keeps no leaf; the leaves are {', '.join(names)}")
    return jax.tree.map(lambda d, k: d if k else jnp.zeros_like(d), dirs, kept)
