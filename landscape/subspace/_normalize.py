"""The lengths of directions, filter by filter or layer by layer, and what they move."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.checks import check_flag
from landscape.subspace import _filters
from landscape.subspace._filters import Description, FilterAxis
from landscape.subspace._seeded import Seeded, check_keep, kept, normalized_axes


def random_directions(key: Array, params: PyTree, num: int = 2) -> PyTree:
    """`num` directions with independent standard normal entries, stacked: those of `Seeded`.

    Drawn leaf by leaf, each in the type of the parameter, on its devices and divided among them as it is.

    Args:
        key: random key.
        params: the tree whose structure, shapes, dtypes and shardings the directions take.
        num: number of directions.

    Raises:
        TypeError: a leaf of `params` is not a real floating-point array, or `num` is no integer.
        ValueError: `num` is below 1, or `params` holds nothing.
    """
    _tree.check_key(key)
    _tree.check_params(params)
    _tree.check_count("num", num, 1)
    return Seeded(key, params, num).stacked()


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
    leaves, treedef = jax.tree.flatten(_checked(dirs, params, filter_axis))
    del dirs
    check_flag("include_vectors", include_vectors)
    _filters.warn_of(params, filter_axis)
    axes = normalized_axes(_filters.filters_of(params, filter_axis), "filter", include_vectors)
    return jax.tree.unflatten(treedef, _rescaled(leaves, params, axes))


def _rescaled(leaves: list[Any], params: PyTree, axes: list[Any]) -> list[Any]:
    """Directions with the norms of the parameters, in the list of what came: a leaf that nobody else holds is freed."""
    for i, (w, own) in enumerate(zip(jax.tree.leaves(params), axes)):
        made = jnp.zeros_like(leaves[i]) if own is None else _match_norms(leaves[i], w, own)
        leaves[i] = _tree.lying_as(made, leaves[i])
    return leaves


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
    leaves, treedef = jax.tree.flatten(_checked(dirs, params))
    del dirs
    check_flag("include_vectors", include_vectors)
    axes = normalized_axes(_filters.filters_of(params, None), "layer", include_vectors)
    return jax.tree.unflatten(treedef, _rescaled(leaves, params, axes))


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
    _tree.check_params(params)
    _filters.check_filter_axis(filter_axis)
    if isinstance(dirs, _tree.Unstored):
        dirs = _tree.read_unstored(dirs, "dirs", params)
    else:
        dirs = _tree.read_stack(dirs, "dirs", params)
    return _filters.described(dirs, params, filter_axis)


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
    check_keep(keep)
    leaves, treedef = jax.tree.flatten(_tree.read_stack(dirs, "dirs", like, "like"))
    named = jax.tree_util.tree_leaves_with_path(jax.tree.unflatten(treedef, leaves))
    keeps = kept(keep, [(_tree.key_name(path), leaf) for path, leaf in named])
    return jax.tree.unflatten(treedef, [d if own else jnp.zeros_like(d) for d, own in zip(leaves, keeps)])
