"""A recording on the disk: where each leaf of each snapshot lies, what commits a snapshot, and how it is read.

`run.zarr` is a zarr v3 group. Each leaf is an array whose leading axis is the step, so that chunk `c.500.0.0` of
`params/3` is leaf 3 at step 500, whole, or one shard of it. Arrays are as long as a step can be: their metadata are
written once and never again. Chunks are raw numbers with a checksum, since trained weights hardly compress; a part of a
leaf can be read without the rest. Every file appears by an atomic rename. Last of a snapshot comes its commit mark in
`committed`, one from each process: what has no mark is not there.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landscape.recording._format import COMMITTED, FORMAT, RECORD, SCALARS, Description, create_scalar, leaf_of
from landscape.store import (
    METADATA,
    PARTIAL,
    RESTORE,
    STALE_SECONDS,
    PlanMismatch,
    StoreError,
    beside,
    decode,
    is_run,
    local_path,
    plan_differences,
    readable,
    writable,
)

CHECKSUM_BYTES = 4
PIECE = 2**18


class Recording:
    """One recording that is there.

    Raises:
        StoreError: nothing is there, or something else, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)
        self.description = _description(self.path)
        self.trees = {name: [leaf_of(leaf) for leaf in leaves] for name, leaves in self.description["trees"].items()}
        self.processes = int(self.description["processes"])

    def check_same(self, description: Description) -> None:
        """Raise `PlanMismatch` unless it records such trees; how leaves are cut into chunks may differ."""
        old, new = ({**d, "trees": _by_name(d["trees"]), "format": FORMAT} for d in (self.description, description))
        differences = plan_differences(old, new)
        if differences:
            raise PlanMismatch(self.path, differences)

    def steps(self) -> list[int]:
        """Steps that are committed by every process, in order."""
        marks: dict[int, int] = {}
        for step, *_ in self._keys(COMMITTED):
            marks[step] = marks.get(step, 0) + 1
        return sorted(step for step, count in marks.items() if count == self.processes)

    def scalar_names(self) -> list[str]:
        """Names of the scalars that some snapshot has."""
        with readable(self.path):
            names = [entry.name for entry in os.scandir(self.path / SCALARS) if entry.is_dir()]
        return sorted(name for name in names if name.isidentifier())  # another is an array that is being made

    def scalars(self, name: str, steps: Sequence[int]) -> np.ndarray:
        """A scalar at committed steps, NaN where none was given."""
        stored = {step for step, *_ in self._keys(f"{SCALARS}/{name}")}
        values = [self._chunk(f"{SCALARS}/{name}", (step,), np.dtype("<f8"), 1)[0] if step in stored else np.nan
                  for step in steps]  # fmt: skip
        return np.asarray(values, np.float64)

    def read_leaf(self, tree: str, number: int, step: int) -> np.ndarray:
        """One leaf of one snapshot, checked, in the dtype on the disk."""
        leaf = self.trees[tree][number]
        blocks, whole = leaf.blocks(), np.empty(leaf.shape, leaf.on_disk)
        if len(blocks) == 1:
            return self.read_block(tree, number, step, blocks[0]).reshape(leaf.shape)
        for block in blocks:
            whole[leaf.region(block)] = self.read_block(tree, number, step, block).reshape(leaf.chunk)
        return whole

    def read_block(self, tree: str, number: int, step: int, block: Sequence[int]) -> np.ndarray:
        """One chunk, checked, as a vector."""
        leaf = self.trees[tree][number]
        count = int(np.prod(leaf.chunk, dtype=np.int64))
        return self._chunk(f"{tree}/{number}", (step, *block), leaf.on_disk, count)

    def read_part(self, tree: str, number: int, step: int, start: int, stop: int) -> np.ndarray:
        """Entries of one leaf in C order; of a leaf that is one chunk, nothing else is read, and nothing checked."""
        leaf = self.trees[tree][number]
        if len(leaf.blocks()) != 1 or (start, stop) == (0, leaf.size):
            return self.read_leaf(tree, number, step).reshape(-1)[start:stop]
        file = self._file(f"{tree}/{number}", (step, *leaf.blocks()[0]))
        with _reading(file, step):
            part = np.fromfile(file, leaf.on_disk, stop - start, offset=start * leaf.on_disk.itemsize)
        if len(part) != stop - start:
            raise StoreError(f"cannot read {file}: it ends too early; {RESTORE}")
        return part

    def _chunk(self, array: str, key: Sequence[int], dtype: np.dtype, count: int) -> np.ndarray:
        file = self._file(array, key)
        with _reading(file, key[0]):
            content = np.fromfile(file, np.uint8)
        values, found = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:].tobytes()
        if len(values) != count * dtype.itemsize or found != checksum(values):
            raise StoreError(f"cannot read {file}: it is damaged; {RESTORE}")
        return values.view(dtype)

    def put(self, array: str, key: Sequence[int], values: np.ndarray) -> None:
        """Write one chunk, whole or not at all."""
        file = self._file(array, key)
        partial = beside(file)
        content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        try:
            with writable(self.path):
                with partial.open("wb") as stream:
                    stream.write(content.data)
                    stream.write(checksum(content))
                partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def put_scalar(self, step: int, name: str, value: float) -> None:
        """Write one number, whose array is made where it is the first of its name."""
        if not (self.path / SCALARS / name).exists():
            create_scalar(self.path / SCALARS / name)
        self.put(f"{SCALARS}/{name}", (step,), np.asarray([value], "<f8"))

    def commit(self, step: int, process: int) -> None:
        """Say that all of this process is written."""
        self.put(COMMITTED, (step, process), np.ones(1, np.uint8))

    def discard(self, steps: Sequence[int]) -> None:
        """Remove snapshots: their marks first, so that none is left that lacks something."""
        if not steps:
            return
        gone = set(steps)
        for array in (COMMITTED, *self._arrays()):
            self._remove(array, lambda entry: _step_of(entry.name) in gone)

    def sweep_up(self) -> None:
        """Remove what killed writers left more than an hour ago: halves of files, and chunks without a mark."""
        marked, now = {step for step, *_ in self._keys(COMMITTED)}, time.time()

        def stale(entry: Any) -> bool:
            step = _step_of(entry.name)
            leftover = entry.name.endswith(PARTIAL) or (step is not None and step not in marked)
            return leftover and now - entry.stat().st_mtime > STALE_SECONDS

        for array in (COMMITTED, *self._arrays()):
            self._remove(array, stale)

    def _remove(self, array: str, wanted: Callable[[Any], bool]) -> None:
        with writable(self.path):
            for entry in os.scandir(self.path / array):
                if entry.is_file() and wanted(entry):
                    Path(entry.path).unlink(missing_ok=True)

    def _arrays(self) -> Iterator[str]:
        for tree, leaves in self.trees.items():
            yield from (f"{tree}/{number}" for number in range(len(leaves)))
        yield from (f"{SCALARS}/{name}" for name in self.scalar_names())

    def _keys(self, array: str) -> list[tuple[int, ...]]:
        """Keys of the chunks of an array that are there."""
        with readable(self.path):
            names = [entry.name for entry in os.scandir(self.path / array)]
        return [tuple(map(int, name.split(".")[1:])) for name in names if _step_of(name) is not None]

    def _file(self, array: str, key: Sequence[int]) -> Path:
        return self.path / array / ".".join(["c", *map(str, key)])


def _step_of(name: str) -> int | None:
    """The step of a chunk, by the name of its file; `None` for other files."""
    head, *key = name.split(".")
    return int(key[0]) if head == "c" and key and all(part.isdecimal() for part in key) else None


def checksum(content: np.ndarray) -> bytes:
    """CRC-32C of bytes, as zarr appends it."""
    import google_crc32c

    value = 0
    for start in range(0, len(content), PIECE):
        value = google_crc32c.extend(value, content[start : start + PIECE].tobytes())
    return int(value).to_bytes(CHECKSUM_BYTES, "little")


def _description(path: Path) -> Description:
    if not is_run(path):
        raise StoreError(f"no recording at {path}; give the directory that a Recorder wrote")
    with readable(path):
        content = (path / METADATA).read_bytes()
    try:
        attributes = json.loads(content)["attributes"]
        record = attributes.get(RECORD)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"cannot read {path / METADATA}: it is damaged ({error}); {RESTORE}") from error
    if not isinstance(record, dict):
        what = "a landscape, which landscape.load reads" if "landscape" in attributes else "something else"
        raise StoreError(f"{path} is no recording: it holds {what}; give the directory that a Recorder wrote")
    if record.get("format") != FORMAT:
        raise StoreError(f"{path} has format {record.get('format')!r}, this version reads {FORMAT}: update loss-atlas")
    return decode(record)


def _by_name(trees: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same of two descriptions of trees."""
    return {tree: {leaf["name"]: f"{leaf['dtype']}{list(leaf['shape'])} as {leaf['stored']}" for leaf in leaves}
            for tree, leaves in trees.items()}  # fmt: skip


@contextlib.contextmanager
def _reading(file: Path, step: int) -> Generator[None]:
    try:
        with readable(file):
            yield
    except StoreError as error:
        if not file.exists():
            raise StoreError(
                f"the snapshot of step {step} is not whole: {file} is missing. Where a Recorder(keep=) has thinned it "
                "since, open the recording again"
            ) from error
        raise
