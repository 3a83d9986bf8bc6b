"""Checkpoints as snapshots of a path: trees in memory, and files of which one leaf is read at a time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape.bridges import load
from landscape.recording._copies import from_torch
from landscape.store import StoreError, local_path, readable


class Source(Protocol):
    """One snapshot: a tree of `jax.ShapeDtypeStruct` and its leaves, by number."""

    like: PyTree

    def leaf(self, number: int) -> np.ndarray:
        """One leaf."""
        ...


def shapes_of(tree: PyTree) -> PyTree:
    """Shapes and dtypes of the leaves."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        return jax.ShapeDtypeStruct(np.shape(leaf), dtype)

    return jax.tree.map(shape, tree)


class Held:
    """A tree in memory."""

    def __init__(self, tree: PyTree, what: str) -> None:
        tree = from_torch(tree)
        _tree.check_params(tree, what)
        self.like, self._leaves = shapes_of(tree), jax.tree.leaves(tree)

    def leaf(self, number: int) -> np.ndarray:
        """One leaf, on the host."""
        return np.asarray(self._leaves[number], dtype=jax.tree.leaves(self.like)[number].dtype)


class _File:
    """A file of arrays by name. Without `like` its snapshot is a dict of them all."""

    def __init__(self, path: Path, shapes: dict[str, Any], like: PyTree) -> None:
        self._path = path
        if like is None:
            self.like, self._names = dict(sorted(shapes.items())), sorted(shapes)
        else:
            names = [_tree.key_name(key) for key, _ in jax.tree_util.tree_leaves_with_path(like)]
            lacking = sorted(set(names) - shapes.keys())
            if lacking:
                raise ValueError(
                    f"{path} lacks {', '.join(lacking)}, which like= has; it holds {', '.join(sorted(shapes))}"
                )
            self._names = names
            self.like = jax.tree.unflatten(jax.tree.structure(like), [shapes[name] for name in names])
        _tree.check_params(self.like, str(path))

    def leaf(self, number: int) -> np.ndarray:
        """One leaf; the others are not read."""
        with readable(self._path):
            return self._read(self._names[number])

    def _read(self, name: str) -> np.ndarray:
        raise NotImplementedError


class Npz(_File):
    """An archive of NumPy's `savez`."""

    def __init__(self, path: Path, like: PyTree) -> None:
        with readable(path), np.load(path) as archive:
            shapes = {name: shapes_of(archive[name]) for name in archive.files}
        super().__init__(path, shapes, like)

    def _read(self, name: str) -> np.ndarray:
        with np.load(self._path) as archive:
            return archive[name]


class Safetensors(_File):
    """A file of safetensors."""

    def __init__(self, path: Path, like: PyTree) -> None:
        with readable(path), _safe_open(path) as file:
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            shapes = {
                name: jax.ShapeDtypeStruct(tuple(view.get_shape()), _DTYPES[view.get_dtype()])
                for name, view in views.items()
            }
        super().__init__(path, shapes, like)

    def _read(self, name: str) -> np.ndarray:
        with _safe_open(self._path) as file:
            return file.get_tensor(name)


_DTYPES: Any = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": jnp.bfloat16.dtype,
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "U8": np.dtype(np.uint8), "BOOL": np.dtype(bool),
}  # fmt: skip


def _safe_open(path: Path) -> Any:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(f"{path} needs safetensors: pip install 'loss-atlas[io]'") from error
    return safe_open(path, framework="numpy")


class _Loaded(Held):
    """A file or folder that `landscape.bridges` reads as a whole, each time that a leaf of it is asked for."""

    def __init__(self, path: Path, like: PyTree) -> None:
        self._load: Callable[[], PyTree] = lambda: load(path, like)
        tree = self._load()
        _tree.check_params(tree, str(path))
        self.like = shapes_of(tree)

    def leaf(self, number: int) -> np.ndarray:
        """One leaf."""
        return np.asarray(jax.tree.leaves(self._load())[number])


KINDS: dict[str, Any] = {".npz": Npz, ".safetensors": Safetensors}


def opened(checkpoint: Any, what: str, like: PyTree) -> Source:
    """A checkpoint as a snapshot.

    Raises:
        TypeError, ValueError: it holds what is no parameter, or lacks a leaf of `like`.
        StoreError: no such file, or it cannot be read.
    """
    if not isinstance(checkpoint, str | os.PathLike):
        return Held(checkpoint, what)
    path = local_path(checkpoint, what)
    if not path.exists():
        raise StoreError(f"no checkpoint at {path}")
    return KINDS.get(path.suffix, _Loaded)(path, like)
