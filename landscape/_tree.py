"""Pytree algebra that `optax.tree` lacks, and checks of leaves that name the leaf they complain about.

A *stack* of `k` trees is one tree whose leaves carry a leading axis of length `k`: the directions of a
subspace and the snapshots of a training path are stacks. `read_stack` makes one of a list of trees, and of a
`LazyStack`, which is read leaf by leaf by what can.
"""

import dataclasses
import inspect
import operator
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from landscape.checks import check_count as check_count
from landscape.checks import check_number as check_number

KeyPath = tuple[Any, ...]
T = TypeVar("T")
NO_NUMBERS = "OUSMm"  # kinds of NumPy's types: objects, text, times
_PLAIN = (type(None), bool, int, float, str, types.MethodType, types.BuiltinFunctionType)
FEW = 8  # leaves of whose number a program's length may be the square


def key_name(key_path: KeyPath) -> str:
    """The path of a leaf as people write it: `params.dense.kernel`, `layers.0.weight`."""
    return ".".join(str(key_of(key)) for key in key_path) or "(root)"


def key_of(key: Any) -> Any:
    """A step of a path: the key of a dict, the name of a field or the number of an entry."""
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
        ValueError: there is no leaf, or one is a global array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        advice = ": is a `return` missing?" if params is None else ""
        raise ValueError(f"{what} holds no arrays: got {type(params).__name__} without leaves{advice}")
    for path, leaf in leaves:
        if not is_real(leaf):
            raise TypeError(
                f"{_named(what, path)} must be a real floating-point array, got {describe(leaf)}; {_advice(leaf)}"
            )
    check_whole(params, what)


def check_whole(tree: PyTree, what: str = "") -> None:
    """Raise `ValueError` for a leaf of which other processes hold what this one does not."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if is_traced(leaf) or getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
            continue
        name = _named(what, path) if what else key_name(path)
        raise ValueError(
            f"{name} {describe(leaf)} is a global array: other processes of jax.distributed hold some of it, and "
            "everything here runs within each process. Gather it first, by "
            "jax.experimental.multihost_utils.process_allgather(tree, tiled=True)"
        )


def _named(what: str, path: KeyPath) -> str:
    """A leaf of a tree called `what`; a tree that is one array has that name itself."""
    return f"{what}.{key_name(path)}" if path else what


def is_real(leaf: Any) -> bool:
    """Whether it is a floating-point number, or an array of them of NumPy or JAX."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or is_of_torch(leaf):
        return isinstance(leaf, float)
    return bool(jnp.issubdtype(dtype, jnp.floating))


def is_of_torch(leaf: Any) -> bool:
    return type(leaf).__module__.partition(".")[0] == "torch"


def _advice(leaf: Any) -> str:
    """What to do about a leaf that is no parameter."""
    if is_of_torch(leaf):
        return "this is a torch tensor: pass leaf.detach().cpu().numpy()"
    if isinstance(leaf, str | bytes):
        return "give the arrays themselves, such as the result of np.load or jax.numpy.asarray"
    if callable(leaf):
        return (
            "this is a function: keep arrays only, of an equinox model by "
            "params, rest = eqx.partition(model, eqx.is_inexact_array)"
        )
    return (
        "a landscape is drawn over continuous parameters: keep counters, keys and integer tables "
        "out of the parameters: moving, frozen = ls.subspace.split(params), and Objective(.., frozen=frozen)"
    )


def check_takes(fn: Any, what: str, *arguments: str, advice: str = "") -> None:
    """Raise `TypeError` unless it is a function that can be called with these arguments, as far as it tells.

    Args:
        fn: the function.
        what: its name in the message.
        arguments: what it will be given, by name.
        advice: what else to do, at the end of the message.
    """
    call = f"{what.rpartition('.')[2]}({', '.join(arguments)})"
    if not callable(fn):
        raise TypeError(f"{what} must be a function, called as {call}, got {describe(fn)}{advice}")
    try:
        signature = inspect.signature(fn)
    except Exception:  # some written in C have none, and inspect compares objects, which may raise
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{what} is called as {call}, but it takes {signature}: {error}{advice}") from None


def check_key(key: Any, what: str = "key") -> None:
    """Raise `TypeError` unless it is a random key, typed or raw."""
    dtype = getattr(key, "dtype", None)
    raw = dtype is not None and dtype == jnp.uint32 and jnp.ndim(key) == 1
    if not raw and (dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        seed = key if isinstance(key, int) else 0
        raise TypeError(f"{what} must be a random key, got {describe(key)}: pass jax.random.key({seed})")


def check_positive(name: str, value: Any, unit: str = "") -> None:
    """Raise `TypeError` unless it is a real number, `ValueError` unless it is finite and above zero.

    What JAX is tracing is let pass: its value cannot be looked at.
    """
    if is_traced(value):
        return
    check_number(name, value)
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be positive and finite{unit and ', ' + unit}, got {value!r}")


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
    for (name, leaf), (path, _) in zip(ours.items(), jax.tree_util.tree_leaves_with_path(tree)):
        shape = jnp.shape(leaf)[1:] if stacked else jnp.shape(leaf)
        if shape != jnp.shape(theirs[name]) or (stacked and jnp.ndim(leaf) == 0):
            lead = "(num, *shape) with shape " if stacked else ""
            raise ValueError(
                f"{_named(what, path)} must have shape {lead}{jnp.shape(theirs[name])} like {reference_name}, "
                f"got {describe(leaf)}"
            )


def as_jax(leaf: Any) -> Any:
    """Numbers and arrays of NumPy as arrays of JAX, which is what they are in a compiled program; others as is."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex) else leaf


class Fixed:
    """A callable, or another value, that is a part of a program: JAX compares it to know whether to compile anew.

    Where the value cannot be hashed, or cannot be compared, as a dataclass that holds an array or a method of an
    equinox module, that goes by what it is made of, and there by identity: what is equal then computes the same. What
    the program has seen of it must not change after, by the rule of `jax.jit`.
    """

    def __init__(self, value: Any) -> None:
        self.value, self._key = value, (_identity(value),)  # in a tuple, whose comparison begins by identity

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.value(*arguments, **options)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: Any) -> bool:
        try:
            return isinstance(other, Fixed) and bool(self._key == other._key)
        except Exception:  # arrays have no one answer
            return False

    def __repr__(self) -> str:
        return repr(self.value)


class _Itself:
    """An object that is equal to nothing but itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def _identity(value: Any) -> Any:
    """Something that can be hashed, equal only for what computes the same."""
    if _has_hash(value):
        return value
    if isinstance(value, tuple):
        return type(value), *map(_identity, value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return _Itself(value)
    names = [f.name for f in dataclasses.fields(value)]
    names += [name for name in getattr(value, "__dict__", {}) if name not in names and not name.startswith("__")]
    return type(value), *((name, _identity(getattr(value, name, None))) for name in names)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except Exception:  # of whatever it is made of
        return False
    return True


def fixed(value: Any) -> Any:
    """The value itself where JAX can compare it, otherwise `Fixed`."""
    alone = isinstance(value, _PLAIN) or type(value).__eq__ is object.__eq__
    return value if alone and _has_hash(value) else Fixed(value)


def static_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a pytree without leaves, to be handed to a compiled program."""
    return jax.tree_util.Partial(fixed(fn))


def static_functions(tree: PyTree) -> PyTree:
    """The functions among the leaves made parts of the program."""
    return jax.tree.map(lambda leaf: static_function(leaf) if is_function(leaf) else leaf, tree)


def is_function(leaf: Any) -> bool:
    """Whether a leaf is a function, and no array that can be called."""
    return callable(leaf) and not hasattr(leaf, "dtype")


def register(cls: type[T]) -> type[T]:
    """`jax.tree_util.register_dataclass` for classes whose static fields hold callables of any kind (`Fixed`)."""
    fields: list[dataclasses.Field[Any]] = [f for f in dataclasses.fields(cls) if f.init]  # ty: ignore[invalid-argument-type]
    static = [f.name for f in fields if f.metadata.get("static")]
    dynamic = [f.name for f in fields if not f.metadata.get("static")]

    def flatten(instance: T) -> Any:
        return [getattr(instance, name) for name in dynamic], tuple(fixed(getattr(instance, name)) for name in static)

    def flatten_with_keys(instance: T) -> Any:
        leaves, rest = flatten(instance)
        return [(jax.tree_util.GetAttrKey(name), leaf) for name, leaf in zip(dynamic, leaves)], rest

    def unflatten(rest: Any, leaves: Any) -> T:
        values = [value.value if isinstance(value, Fixed) else value for value in rest]
        return cls(**dict(zip(dynamic, leaves)), **dict(zip(static, values)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack trees of one structure along a new leading axis; arrays of NumPy stay in NumPy, and in its precision."""

    def leaf(*leaves: Any) -> Any:
        on_host = all(isinstance(x, np.ndarray | float) for x in leaves)
        return np.stack(leaves) if on_host else jnp.stack(leaves)

    return jax.tree.map(leaf, *trees)


class LazyStack:
    """A stack of `len(self)` trees whose leaves are read in parts, when they are needed.

    To JAX it is a pytree that holds the stack: whatever flattens it reads all of it.

    Attributes:
        like: one of the trees, of `jax.ShapeDtypeStruct`.
    """

    like: PyTree

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node(cls, lambda lazy: ((lazy.stacked(),), None), lambda _, children: children[0])

    def __len__(self) -> int:
        raise NotImplementedError

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        """Entries `start` to `stop`, in C order, of one leaf of all trees, shape `(len(self), stop - start)`."""
        raise NotImplementedError

    def spacing(self, leaf: int) -> float:
        """Relative spacing of the numbers that a leaf was stored in."""
        return float(jnp.finfo(jax.tree.leaves(self.like)[leaf].dtype).eps)

    def title(self, index: int) -> str:
        """What to call one of the trees in a message."""
        return f"snapshot {index}"

    def stacked(self) -> PyTree:
        """All trees in memory, leaves with a leading axis."""
        leaves, treedef = jax.tree.flatten(self.like)
        whole = [self.rows(i, 0, leaf.size).reshape(len(self), *leaf.shape) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, whole)


class Unstored:
    """A stack of `len(self)` trees that are made when they are needed, within a compiled program too.

    `read_stack` makes the stack of it; `num_stacked`, `combine` and `stacked_leaves` take it as it is.

    Attributes:
        has_end: whether it has a number of trees.
    """

    has_end: bool = True

    @property
    def like(self) -> PyTree:
        """One of the trees, of shapes and types."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __call__(self, number: Any) -> PyTree:
        """The tree of this number."""
        raise NotImplementedError

    def combine(self, coefficients: Float[Array, " k"]) -> PyTree:
        """`sum_i coefficients[i] * tree_i`, in at least float32."""
        raise NotImplementedError

    def leaves(self) -> Iterator[Array]:
        """The leaves of the stack, `(len(self), *shape)`, each made when it is asked for."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> PyTree:
        """The tree of this number, counted from the end where it is negative."""
        number = range(len(self))[operator.index(index)]
        return self(number)

    def stacked(self) -> PyTree:
        """All trees in memory, leaves with a leading axis."""
        return jax.tree.unflatten(jax.tree.structure(self.like), list(self.leaves()))


class Joined(LazyStack):
    """Several stacks of trees of one structure, one after the other."""

    def __init__(self, parts: Sequence[LazyStack]) -> None:
        self.parts, self.like = list(parts), parts[0].like

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        """Those of each part."""
        return np.concatenate([part.rows(leaf, start, stop) for part in self.parts])

    def spacing(self, leaf: int) -> float:
        """That of the coarsest part."""
        return max(part.spacing(leaf) for part in self.parts)

    def title(self, index: int) -> str:
        """The part and the tree in it."""
        for number, part in enumerate(self.parts):
            if index < len(part):
                return f"{part.title(index)} of stack {number}"
            index -= len(part)
        raise IndexError(index)


def as_lazy(value: Any) -> LazyStack | None:
    """A lazy stack, or several in a list as one, or `None` for anything else."""
    if isinstance(value, LazyStack):
        return value
    if type(value) in (list, tuple) and value and all(isinstance(part, LazyStack) for part in value):
        return Joined(value)
    return None


def read_stack(
    value: PyTree,
    what: str,
    like: PyTree = None,
    like_name: str = "params",
    *,
    one: str = "tree",
    num: int | None = None,
    otherwise: str = "pass like=, one such tree",
) -> PyTree:
    """A stack as it is, or the stack of a list (or tuple) of trees.

    A list is a tree too, so what it stands for has to be decided. With `like`, a tree of the kind that is stacked, it
    is a stack where it has the structure of `like`, and a list of trees otherwise. Without, it is a list of trees
    where all its elements have one structure and equal shapes, a stack where all its leaves share the length of their
    leading axis, and refused where it could be both: no reading is guessed.

    Args:
        value: a stack, or a list or tuple of trees; a `Trajectory`, or a list of them, is read whole.
        what: its name in messages.
        like: one tree, or `None` where there is none to compare with.
        like_name: the name of `like` in messages.
        one: what one of the trees is.
        num: the number of trees, where it is known: it may tell which of two readings is meant.
        otherwise: what to do where a stack is meant and is refused.

    Raises:
        TypeError: a leaf is not a real floating-point array.
        ValueError: neither a stack nor a list of equal trees, or a list that could be either; no tree at all.
    """
    lazy = as_lazy(value)
    if lazy is not None:
        return read_lazily(lazy, what, like, like_name).stacked()
    if isinstance(value, Unstored):
        return read_unstored(value, what, like, like_name).stacked()
    check_params(value, what)
    if like is not None:
        if _is_list(value) and jax.tree.structure(value) != jax.tree.structure(like):
            for i, tree in enumerate(value):
                check_like(tree, like, f"{what}[{i}]", like_name)
            value = stack(value)
        check_like(value, like, what, like_name, stacked=True)
    elif _is_list(value) and _are_equal(value):
        readings = {"list": len(value), **({"stack": lead} if (lead := _shared_length(value)) else {})}
        if len(readings) > 1 and num is not None:
            readings = {name: length for name, length in readings.items() if length == num} or readings
        if len(readings) > 1:
            raise ValueError(_two_readings(value, what, otherwise))
        value = stack(value) if "list" in readings else value
    if not _shared_length(value):
        shapes = {key_name(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(value)}
        raise ValueError(
            f"{what} must hold at least one {one}, the same number in every leaf: a stack, whose leaves share a "
            f"leading axis, or a list of trees of one structure and equal shapes; got leaves {_shortened(shapes)}"
        )
    return value


def read_lazily(lazy: LazyStack, what: str, like: PyTree = None, like_name: str = "params") -> LazyStack:
    """A lazy stack, checked as `read_stack` checks others, without reading it.

    Raises:
        ValueError: its trees do not look like `like`, or its parts not like each other.
    """
    for i, part in enumerate(getattr(lazy, "parts", [])):
        check_like(part.like, lazy.like, f"{what}[{i}]", f"{what}[0]")
    if like is not None:
        check_like(lazy.like, like, what, like_name)
    return lazy


def read_unstored(value: Unstored, what: str, like: PyTree = None, like_name: str = "params") -> Unstored:
    """A stack that is not stored, checked as `read_stack` checks others, without making it.

    Raises:
        TypeError: it has no number of trees.
        ValueError: its trees do not look like `like`.
    """
    len(value)
    if like is not None:
        check_like(value.like, like, what, like_name)
    return value


def _is_list(value: Any) -> bool:
    """A plain list or tuple; a named tuple is a tree of its own."""
    return type(value) in (list, tuple)


def _are_equal(trees: Sequence[PyTree]) -> bool:
    """Whether trees have one structure and equal shapes."""
    return len({(jax.tree.structure(tree), *(jnp.shape(x) for x in jax.tree.leaves(tree))) for tree in trees}) == 1


def _shared_length(value: PyTree) -> int:
    """The length of the leading axis that all leaves share, 0 where they share none."""
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else 0 for x in jax.tree.leaves(value)}
    return lengths.pop() if len(lengths) == 1 else 0


def _two_readings(value: Any, what: str, otherwise: str) -> str:
    kind = type(value).__name__
    return (
        f"{what} is a {kind} that could be {len(value)} trees, or one stack of {_shared_length(value)} trees, each a "
        f"{kind} of {len(value)} equal layers: where it is the first, stack them, "
        f"jax.tree.map(lambda *x: jnp.stack(x), *{what}); where it is the second, {otherwise}"
    )


def _shortened(shapes: dict[str, Any], most: int = 6) -> str:
    named = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:most])
    return named + (f" and {len(shapes) - most} more" if len(shapes) > most else "")


def num_stacked(tree: PyTree) -> int:
    """The length of the leading axis that all leaves of a stack share."""
    return len(tree) if isinstance(tree, Unstored) else jax.tree.leaves(tree)[0].shape[0]


def lying_as(x: Array, like: Any) -> Array:
    """An array divided among devices as another of its shape; XLA may say the same in other words."""
    if is_traced(x) or is_traced(like) or not isinstance(like, jax.Array) or x.sharding == like.sharding:
        return x
    return jax.device_put(x, like.sharding) if isinstance(like.sharding, jax.sharding.NamedSharding) else x


def stacked_leaves(stacked: PyTree) -> Iterator[Array]:
    """The leaves of a stack, in turn; of one that is not stored, one at a time is in memory."""
    return stacked.leaves() if isinstance(stacked, Unstored) else iter(jax.tree.leaves(stacked))


def combine(coefficients: Float[Array, "*out k"], stacked: PyTree) -> PyTree:
    """`sum_i coefficients[.., i] * stacked[i]`, leaf by leaf, in the leaf's precision and at least float32."""
    if isinstance(stacked, Unstored):
        return stacked.combine(coefficients)

    def leaf(s: Array) -> Array:
        s = at_least_single(s)
        return jnp.tensordot(coefficients.astype(s.dtype), s, axes=1, precision="highest")

    return jax.tree.map(leaf, stacked)


def at_least_single(x: Any) -> Array:
    """`x` in float32 if it is of lower precision: sums of squares overflow in float16 and drown in bfloat16."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x))


def wide_dtype(*values: Any) -> Any:
    """The dtype that holds all values and float32, however strict JAX was told to be about promotion."""
    dtypes = [value.dtype if hasattr(value, "dtype") else jnp.result_type(value) for value in values]
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *dtypes)


def inner(a: PyTree, b: PyTree) -> Float[Array, "i j"]:
    """Matrix of inner products between two stacks of trees, summed over all leaves."""
    pairs = zip(stacked_leaves(a), stacked_leaves(b), strict=True)
    parts = [products_of_leaf(x, y) for x, y in pairs]
    dtype = wide_dtype(jnp.zeros(()), *parts)
    if len(parts) <= FEW:
        return sum((part.astype(dtype) for part in parts), start=jnp.zeros((), dtype))
    # by a contraction too, which XLA does not repeat in every kernel that uses the sum (see `apart`)
    stacked = jnp.stack([part.astype(dtype) for part in parts])
    return jnp.tensordot(jnp.ones(len(parts), dtype), stacked, axes=1, precision="highest")


def products_of_leaf(x: Array, y: Array) -> Float[Array, "i j"]:
    """Inner products between two leaves of stacks; no axis is merged with another, so that none is gathered."""
    x, y = at_least_single(x), at_least_single(y)
    dtype, axes = wide_dtype(x, y), tuple(range(1, x.ndim))
    return jax.lax.dot_general(x.astype(dtype), y.astype(dtype), ((axes, axes), ((), ())), precision="highest")


def power_of_two_near(tree: PyTree) -> Float[Array, ""]:
    """A power of two within a factor of two of the largest finite entry; 1 for a tree of zeros.

    Sums of squares leave the range of their precision where entries are beyond 1e19 or below 1e-23 in float32. Divided
    by this they do not, and since it is a power of two, nothing is rounded that would not have been.
    """
    return _power_of_two(greatest([_largest(x) for x in _in_one_precision(tree)]))


def _largest(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The largest magnitude of the finite entries."""
    return jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), 0), axis=axis, keepdims=keepdims, initial=0)


def _power_of_two(largest: Array) -> Array:
    lowest = 1 + int(np.finfo(largest.dtype).minexp)  # of numbers whose inverse is finite, too
    _, exponent = jnp.frexp(largest)
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.maximum(exponent - 1, lowest)), 1)


def scaled_norms(x: Array, axis: int | tuple[int, ...]) -> tuple[Array, Array]:
    """Euclidean norms along axes, which are kept with length 1, as `scale * roots` with powers of two for scales.

    Kept apart, a ratio of norms neither overflows nor underflows where it does not itself.
    """
    x = at_least_single(x)
    scale = _power_of_two(_largest(x, axis, keepdims=True))
    return scale, jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=axis, keepdims=True))


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
        total = jnp.sum(apart([jax.lax.reduce_sum(jax.lax.square(x * scale), range(x.ndim)) for x in leaves]))
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
    along = [jnp.sum(x / safe * t.astype(safe.dtype)) for x, t in zip(leaves, others)]
    return length, jnp.sum(jnp.stack(along))


def all_finite(tree: PyTree, *given: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether every number is, and all that is `given` holds, which is then worked out once and not for each leaf."""
    leaves = map(jnp.asarray, jax.tree.leaves(tree))
    sound = [*given, *(jax.lax.reduce_and(jax.lax.is_finite(x), range(x.ndim)) for x in leaves)]
    return apart(sound)[0] if len(sound) > FEW else jnp.all(jnp.stack(sound))


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
