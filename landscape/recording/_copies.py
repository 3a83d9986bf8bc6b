"""Copies of parameters that nobody else can overwrite: made on the device, brought to the host as the writer asks."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape.recording._format import LeafRecord

NARROW = ("bfloat16", "float32")


def from_torch(tree: PyTree) -> PyTree:
    """Tensors of PyTorch as arrays of NumPy, which share their memory where they are on the host."""
    return jax.tree.map(lambda leaf: _from_torch(leaf) if _tree.is_of_torch(leaf) else leaf, tree)


def _from_torch(tensor: Any) -> Any:
    torch = importlib.import_module("torch")
    if not isinstance(tensor, torch.Tensor):
        return tensor  # a module, say: the checks name it
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # NumPy has none of its own
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16.dtype)
    return tensor.numpy()


def stored_dtype(leaf: Any, narrow: str | None) -> np.dtype:
    """What a leaf is stored in: its own dtype, or the narrow one that was asked for."""
    own = np.dtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf))
    return jnp.dtype(narrow) if narrow is not None and own.itemsize > jnp.dtype(narrow).itemsize else own


def record_of(name: str, leaf: Any, narrow: str | None) -> LeafRecord:
    """How a leaf is to be stored: each of its shards is a chunk."""
    shape = tuple(np.shape(leaf))
    chunk = tuple(leaf.sharding.shard_shape(shape)) if isinstance(leaf, jax.Array) else shape
    return LeafRecord(name, shape, str(stored_dtype(leaf, None)), str(stored_dtype(leaf, narrow)), chunk)


def copied(leaves: list[Any], narrow: str | None) -> list[Any]:
    """Copies in the dtypes to store, on the devices where the leaves are; their way to the host has begun.

    Nothing waits for the program that computes the leaves. The copies survive the donation of the leaves.
    """
    copies = [_copy(leaf, stored_dtype(leaf, narrow)) for leaf in leaves]
    for copy in copies:
        if isinstance(copy, jax.Array):
            for shard in copy.addressable_shards:
                shard.data.copy_to_host_async()
    return copies


def _copy(leaf: Any, dtype: np.dtype) -> Any:
    if not isinstance(leaf, jax.Array):
        return np.array(leaf, dtype)
    if leaf.dtype != dtype:
        return _cast(leaf, dtype)
    return jax.device_put(leaf, leaf.sharding, may_alias=False)


@partial(jax.jit, static_argnums=1)
def _cast(leaf: jax.Array, dtype: np.dtype) -> jax.Array:
    return leaf.astype(dtype)


def chunks(leaf: LeafRecord, copy: Any) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The chunks of a leaf that this process writes, by their index in the leaf: its shards, one at a time.

    Raises:
        ValueError: the leaf is divided otherwise than when the recording began, and other processes hold parts of it.
    """
    if isinstance(copy, jax.Array) and tuple(copy.sharding.shard_shape(leaf.shape)) == leaf.chunk:
        for shard in copy.addressable_shards:
            if shard.replica_id == 0 and leaf.size:
                yield _block(leaf, shard.index), np.asarray(shard.data)
        return
    if isinstance(copy, jax.Array) and not copy.is_fully_addressable:
        raise ValueError(
            f"{leaf.name} is in shards of {copy.sharding.shard_shape(leaf.shape)}, where the recording has chunks of "
            f"{leaf.chunk}: go on with the sharding that it began with, or choose another path"
        )
    whole = np.asarray(copy)
    yield from ((block, whole[leaf.region(block)]) for block in leaf.blocks())


def _block(leaf: LeafRecord, index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple((part.start or 0) // size for part, size in zip(index, leaf.chunk))


Number = Callable[[], float]


def number_later(name: str, value: Any) -> Number:
    """A function that returns a scalar: nothing waits for the device that computes it.

    Raises:
        TypeError: it is no real number.
    """
    if _tree.is_traced(value):
        raise TypeError(_inside(name))
    value = from_torch(value)
    if not _is_number(value):
        raise TypeError(
            f"{name} must be one real number, got {_tree.describe(value)}; trees are recorded as update= and gradient="
        )
    if isinstance(value, np.ndarray):
        value = value.copy()
    return lambda: float(value)


def _is_number(value: Any) -> bool:
    """Whether it is one real number, on the host or on a device."""
    if isinstance(value, bool) or not (hasattr(value, "dtype") or isinstance(value, int | float)):
        return False
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    return np.shape(value) == () and any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer))


def _inside(name: str) -> str:
    return (
        f"{name} is being traced by JAX: inside a compiled function call the recorder through the host, "
        "jax.experimental.io_callback(recorder, None, step, params, ordered=True)"
    )


def check_concrete(name: str, tree: PyTree) -> None:
    """Raise `TypeError` for what JAX is tracing, and for arrays that were donated."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = f"{name}.{_tree.key_name(path)}" if path else name
        if _tree.is_traced(leaf):
            raise TypeError(_inside(where))
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise ValueError(
                f"{where} was donated to a compiled function, which has overwritten it: record what the step returned, "
                "or record before the step"
            )


@dataclass(frozen=True)
class Snapshot:
    """What is written of one step: copies of the leaves of each tree, and scalars that may still be computed."""

    step: int
    trees: dict[str, list[Any]]
    scalars: dict[str, Number]
