"""The format of a recording: the description of its leaves, and the metadata of its zarr arrays.

The metadata are written as the JSON that version 3 of zarr specifies, so that the first call of a recorder waits for
nothing but a few small files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from landscape.store import METADATA, being_built, encode, rename_unless_made

FORMAT = 1
RECORD = "recording"  # the entry of the group's attributes
COMMITTED = "committed"
SCALARS = "scalars"
MOST_STEPS = 2**31 - 1
STORED_AS = {1: np.dtype("u1"), 2: np.dtype("u2")}  # of types that zarr does not know, such as bfloat16


@dataclass(frozen=True)
class LeafRecord:
    """How one leaf is stored: its name, shape and dtype, the dtype on the disk, and the shape of a chunk of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    chunk: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def on_disk(self) -> np.dtype:
        """The numbers in a chunk, as NumPy knows them."""
        return jnp.dtype(self.stored)

    def blocks(self) -> list[tuple[int, ...]]:
        """Indices of the chunks of one snapshot."""
        if not self.size:
            return []
        return list(np.ndindex(*(-(-n // c) for n, c in zip(self.shape, self.chunk))))

    def region(self, block: Sequence[int]) -> tuple[slice, ...]:
        """The part of the leaf in a chunk."""
        return tuple(slice(b * c, (b + 1) * c) for b, c in zip(block, self.chunk))


Description = dict[str, Any]  # {"trees": {"params": [leaf, ..], ..}, "structure": .., "processes": ..}


def leaf_of(record: Mapping[str, Any]) -> LeafRecord:
    """A leaf as it stands in a description."""
    name, dtype, stored = (str(record[key]) for key in ("name", "dtype", "stored"))
    return LeafRecord(name, tuple(record["shape"]), dtype, stored, tuple(record["chunk"]))


def create(path: Path, description: Description, scalars: Sequence[str] = ()) -> None:
    """Make an empty recording, whole or not at all; another process may be first."""
    with being_built(path) as folder:
        _write_group(folder, {RECORD: encode({"format": FORMAT, **description})})
        marks = (MOST_STEPS, description["processes"])
        _write_array(folder / COMMITTED, marks, (1, 1), "uint8", {"long_name": "commit mark of each process"})
        _write_group(folder / SCALARS)
        for name in scalars:
            _write_scalar(folder / SCALARS / name)
        for tree, leaves in description["trees"].items():
            _write_group(folder / tree)
            for number, leaf in enumerate(map(leaf_of, leaves)):
                _write_leaf(folder / tree / str(number), leaf)
        rename_unless_made(folder, path)


def create_scalar(path: Path) -> None:
    """Make the array of one scalar in a recording that is there."""
    with being_built(path) as folder:
        _write_scalar(folder)
        rename_unless_made(folder, path)


def _write_leaf(path: Path, leaf: LeafRecord) -> None:
    known = leaf.on_disk.kind in "biuf" and leaf.on_disk.isbuiltin == 1
    dtype = leaf.on_disk if known else STORED_AS[leaf.on_disk.itemsize]
    about = {"long_name": leaf.name, "dtype": leaf.stored}
    chunk = (1, *(max(1, n) for n in leaf.chunk))
    _write_array(path, (MOST_STEPS, *leaf.shape), chunk, dtype.name, about)


def _write_scalar(path: Path) -> None:
    _write_array(path, (MOST_STEPS,), (1,), "float64", {"long_name": path.name.partition(".")[0]})


def _write_array(
    path: Path, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, about: Mapping[str, str]
) -> None:
    order = {"configuration": {"endian": "little"}} if np.dtype(dtype).itemsize > 1 else {}
    content = {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": np.zeros((), dtype).item(),
        "codecs": [{"name": "bytes", **order}, {"name": "crc32c"}],
        "attributes": about,
        "dimension_names": ["step", *(None for _ in shape[1:])],
        "storage_transformers": [],
    }
    _write_metadata(path, "array", content)


def _write_group(path: Path, attributes: Mapping[str, Any] | None = None) -> None:
    _write_metadata(path, "group", {"attributes": attributes or {}})


def _write_metadata(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    path.mkdir(parents=True)
    text = json.dumps({"zarr_format": 3, "node_type": kind, **content}, indent=1, allow_nan=False)
    (path / METADATA).write_text(text)
