"""Pytree algebra that `optax.tree` lacks, and checks of leaves that name the leaf they complain about.

A *stack* of `k` trees is one tree whose leaves carry a leading axis of length `k`: the directions of a
subspace and the snapshots of a training path are stacks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

KeyPath = tuple[Any, ...]
FEW = 8  # leaves of whose number a program's length may be the square


def key_name(key_path: KeyPath) -> str:
    """The path of a leaf as people write it: `params.dense.kernel`, `layers.0.weight`."""
    return ".".join(str(_key_text(key)) for key in key_path) or "(root)"


def _key_text(key: Any) -> Any:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return key


def describe(leaf: Any) -> str:
    """`float32[3, 4]` for an array, the type's name for anything else."""
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"{type(leaf).__name__} {leaf!r}"[:80]


def check_params(params: PyTree, what: str = "params") -> None:
    """Raise unless every leaf is a real floating-point array.

    Raises:
        TypeError: a leaf is an integer, boolean, complex, a function, a tensor of PyTorch or no array at all.
        ValueError: there is no leaf.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{what} holds no arrays: got {type(params).__name__} without leaves")
    for path, leaf in leaves:
        if not _is_real(leaf):
            raise TypeError(
                f"{what}.{key_name(path)} must be a real floating-point array, got {describe(leaf)}; {_advice(leaf)}"
            )


def _is_real(leaf: Any) -> bool:
    """Whether it is a floating-point number, or an array of them of NumPy or JAX."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or _is_of_torch(leaf):
        return isinstance(leaf, float)
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _is_of_torch(leaf: Any) -> bool:
    return type(leaf).__module__.partition(".")[0] == "torch"


def _advice(leaf: Any) -> str:
    """What to do about a leaf that is no parameter."""
    if _is_of_torch(leaf):
        return "this is a torch tensor: pass leaf.detach().cpu().numpy()"
    if callable(leaf):
        return (
            "this is a function: keep arrays only, of an equinox model by "
            "params, rest = eqx.partition(model, eqx.is_inexact_array)"
        )
    return (
        "a landscape is drawn over continuous parameters: keep counters, keys and integer tables "
        "out of the parameters (put them in Objective.data or Objective.state)"
    )


def check_key(key: Any, what: str = "key") -> None:
    """Raise `TypeError` unless it is a random key, typed or raw."""
    dtype = getattr(key, "dtype", None)
    raw = dtype is not None and dtype == jnp.uint32 and jnp.ndim(key) == 1
    if not raw and (dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        seed = key if isinstance(key, int) else 0
        raise TypeError(f"{what} must be a random key, got {describe(key)}: pass jax.random.key({seed})")


def check_count(name: str, value: Any, least: int | None = None) -> None:
    """Raise `TypeError` unless it is an integer, `ValueError` unless it is at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_number(name: str, value: Any) -> None:
    """Raise `TypeError` unless it is a real number."""
    if np.asarray(value).dtype.kind not in "iuf" or np.ndim(value):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")


def is_traced(value: Any) -> bool:
    """Whether JAX is tracing it, so that its value cannot be looked at."""
    return isinstance(value, jax.core.Tracer)  # ty: ignore[possibly-missing-submodule]


def check_like(tree: PyTree, reference: PyTree, what: str, reference_name: str, stacked: bool = False) -> None:
    """Raise unless `tree` has the structure and the leaf shapes of `reference`.

    Args:
        tree: the tree to check; with `stacked`, each leaf carries one more leading axis.
        reference: the tree it must look like.
        what: the name of `tree` in the message.
        reference_name: the name of `reference` in the message.
        stacked: whether `tree` is a stack of trees.

    Raises:
        ValueError: another structure or another shape; the message names the leaf.
    """
    ours = {key_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    theirs = {key_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(reference)}
    missing, extra = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    if missing or extra:
        raise ValueError(
            f"{what} must have the structure of {reference_name}: missing leaves {missing or 'none'}, "
            f"unexpected leaves {extra or 'none'}"
        )
    if jax.tree.structure(tree) != jax.tree.structure(reference):
        raise ValueError(
            f"{what} must have the structure of {reference_name}: the leaves have the same names, but the containers "
            f"differ, {jax.tree.structure(tree)} and {jax.tree.structure(reference)}"
        )
    for name, leaf in ours.items():
        shape = jnp.shape(leaf)[1:] if stacked else jnp.shape(leaf)
        if shape != jnp.shape(theirs[name]) or (stacked and jnp.ndim(leaf) == 0):
            lead = "(num, *shape) with shape " if stacked else ""
            raise ValueError(
                f"{what}.{name} must have shape {lead}{jnp.shape(theirs[name])} like {reference_name}, "
                f"got {describe(leaf)}"
            )


def stack(trees: list[PyTree]) -> PyTree:
    """Stack trees of one structure along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def num_stacked(tree: PyTree) -> int:
    """The length of the leading axis that all leaves of a stack share."""
    return jax.tree.leaves(tree)[0].shape[0]


def combine(coefficients: Float[Array, " k"], stacked: PyTree) -> PyTree:
    """`sum_i coefficients[i] * stacked[i]`, leaf by leaf, in the leaf's precision and at least float32."""

    def leaf(s: Array) -> Array:
        s = at_least_single(s)
        return jnp.tensordot(coefficients.astype(s.dtype), s, axes=1, precision="highest")

    return jax.tree.map(leaf, stacked)


def at_least_single(x: Any) -> Array:
    """`x` in float32 if it is of lower precision: sums of squares overflow in float16 and drown in bfloat16."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def inner(a: PyTree, b: PyTree) -> Float[Array, "i j"]:
    """Matrix of inner products between two stacks of trees, summed over all leaves."""

    def leaf(x: Array, y: Array) -> Array:
        x, y = at_least_single(x), at_least_single(y)
        return jnp.matmul(x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1).T, precision="highest")

    return sum(jax.tree.leaves(jax.tree.map(leaf, a, b)), start=jnp.zeros(()))


def power_of_two_near(tree: PyTree) -> Float[Array, ""]:
    """A power of two within a factor of two of the largest finite entry; 1 for a tree of zeros.

    Sums of squares leave the range of their precision where entries are beyond 1e19 or below 1e-23 in float32. Divided
    by this they do not, and since it is a power of two, nothing is rounded that would not have been.
    """
    largest = [jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), 0), initial=0) for x in _in_one_precision(tree)]
    lowest = 1 + int(np.finfo(largest[0].dtype).minexp)  # of numbers whose inverse is finite, too
    largest = greatest(largest)
    _, exponent = jnp.frexp(largest)
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.maximum(exponent - 1, lowest)), 1)


@jax.custom_jvp
def norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm over all leaves, which neither overflows nor underflows where the norm itself does not.

    Squares are summed as they are. Only where the sum has left the range that is exact, they are summed again, of
    entries multiplied by a power of two: one loop, hence one pass and one kernel for each leaf.
    """
    leaves = _in_one_precision(tree)
    dtype, reach = leaves[0].dtype, int(np.finfo(leaves[0].dtype).maxexp)  # 128 in single precision
    near, far = 2.0 ** (reach // 2), 2.0 ** (reach * 4 // 5)

    def summed(carry: Any) -> Any:
        scale, _, _ = carry
        total = jnp.sum(apart([jnp.sum(jax.lax.square(x * scale)) for x in leaves]))
        small, large = total < 1 / near, ~jnp.isfinite(total)
        further = jnp.where(small, jnp.where(scale == 1, near, far), jnp.where(scale == 1, 1 / near, 1 / far))
        again = ((small & (scale >= 1)) | (large & (scale <= 1))) & (scale < far) & (scale > 1 / far)
        return jnp.where(again, further.astype(dtype), scale), jnp.sqrt(total) / scale, again

    one = jnp.ones((), dtype)
    return jax.lax.while_loop(lambda carry: carry[2], summed, (one, one, True))[1]


@norm.defjvp
def _norm_jvp(primals: tuple[PyTree], tangents: tuple[PyTree]) -> tuple[Array, Array]:
    """The slope is the direction of the tree, and 0 at 0."""
    (tree,), (tangent,) = primals, tangents
    length = norm(tree)
    safe = jnp.where(length > 0, length, 1)
    leaves, others = _in_one_precision(tree), _in_one_precision(tangent)
    return length, sum(jnp.sum(x / safe * t.astype(safe.dtype)) for x, t in zip(leaves, others))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number is."""
    return ~greatest([jnp.any(~jnp.isfinite(x)) for x in jax.tree.leaves(tree)])


def greatest(numbers: list[Array]) -> Shaped[Array, ""]:
    """The greatest of numbers of which each leaf has one."""
    return apart(numbers)[-1] if len(numbers) > FEW else jnp.max(jnp.stack(numbers))


def apart(numbers: list[Array]) -> Shaped[Array, " leaves"]:
    """Numbers of which each leaf has one, as a vector in ascending order where they are many.

    XLA fuses what makes them with what uses them, again in each kernel that does. Where every leaf uses a number that
    was made of all leaves, the program then grows with the square of their number, and one kernel that reads a number
    of each leaf takes long to compile: 40 leaves took ten times as long as 10. XLA does not fuse across a sort.
    """
    stacked = jnp.stack(numbers)
    return stacked if len(numbers) <= FEW else jax.lax.sort(stacked, is_stable=False)


def _in_one_precision(tree: PyTree) -> list[Array]:
    """The leaves in the widest of their precisions, and at least float32."""
    leaves = [at_least_single(x) for x in jax.tree.leaves(tree)]
    widest = max((x.dtype for x in leaves), key=lambda dtype: jnp.finfo(dtype).bits)
    return [x.astype(widest) for x in leaves]


def as_stack(tree: PyTree) -> PyTree:
    """One tree as a stack of length one."""
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def map_with_name(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` whose function also receives the path of the leaf as text."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(key_name(path), *leaves), tree, *rest)


def size(tree: PyTree) -> int:
    """Number of scalars in a tree."""
    return int(sum(np.prod(jnp.shape(leaf), dtype=np.int64) for leaf in jax.tree.leaves(tree)))
