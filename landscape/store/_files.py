"""Files of a store: made whole or not at all, locked, read with errors that name them."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import time
import unicodedata
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landscape.grid import Axis, dims
from landscape.store._layout import MAX_NAME, METADATA, PARTIAL, Layout, check_storable, fill_value
from landscape.store._record import decode, encode

FORMAT = 2
READABLE = (1, 2)  # format 1 has neither digests nor a seal
DONE = "computed"
JOURNAL = "evaluations"
INDEX = "grid_index"  # in the journal: the C-order index of each evaluated point, -1 in the padding of a tile
LOCK = f"meta.lock{PARTIAL}"
SEAL = "checksum"
PLACED = "chunks"  # in the record: what the chunks of the outputs end with
PLACE = "a skippable frame of zstd: 8 bytes of sha256(array/block, mask)"
SKIPPED = (0x184D2A50).to_bytes(4, "little") + (8).to_bytes(4, "little")  # of a frame that decoders of zstd pass over
STALE_SECONDS = 3600.0
LOCK_SECONDS = 60.0
SLAB_BYTES = 2**20
MAX_RATIO = 2**14  # increasing coordinates are never packed this tightly, a lie about their number may be
RESTORE = "restore the file from a copy, or delete the store to start anew"


class StoreError(OSError):
    """The store cannot be read or written; the message says which file and what to do."""


class NotLocal(StoreError, ValueError):
    """An address of an object store was given where a folder is needed."""


class Damage(Exception):
    """A chunk is absent or cannot be decoded; the message says which."""


def check_place(path: str | os.PathLike[str]) -> Path:
    """Raise `StoreError` unless a run is there or can be made there; makes the parent folder."""
    path = local_path(path, "store")
    mode = mode_of(path)
    if mode and not stat.S_ISDIR(mode):
        raise StoreError(f"the store {path} is a file; give a directory (it will be created), for example {path}.zarr")
    if is_run(path):
        return path
    with readable(path):
        if mode and any(path.iterdir()):
            raise StoreError(f"{path} is a directory with other contents; give an empty or a new one")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = beside(path)
        probe.mkdir()
        probe.rmdir()
    return path


def local_path(path: Any, what: str = "path") -> Path:
    """A path of the local file system.

    Raises:
        TypeError: it is no path.
        ValueError: it is an address such as `s3://bucket/run.zarr`, or holds a null character.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(text := os.fspath(path), bytes):
        raise TypeError(f"{what} must be a path, got {type(path).__name__} {path!r}; give text or a pathlib.Path")
    if "\0" in text:
        raise ValueError(f"{what} holds a null character, which no path may: {text!r}")
    address = re.match(r"(?:[A-Za-z][\w+.-]*::)*([A-Za-z][\w+.-]+):/", text)
    if address:
        advice = "leave file:// away" if address[1] == "file" else "give a local folder and copy it there afterwards"
        raise NotLocal(f"{what} must be a path of a local or mounted file system, got the address {text!r}: {advice}")
    if text == "~" or text.startswith("~/"):
        raise ValueError(f"{what} begins with ~, which only a shell expands: give os.path.expanduser({text!r})")
    return Path(path)


def beside(path: Path, suffix: str = "") -> Path:
    """A new name for what will be renamed to `path`, no longer than file systems allow."""
    ending = f".{uuid.uuid4().hex}{PARTIAL}{suffix}"
    return path.with_name(_stem(path, len(os.fsencode(ending))) + ending)


def _stem(path: Path, room: int) -> str:
    return os.fsencode(path.name)[: MAX_NAME - room].decode(errors="ignore")


def mode_of(path: Path) -> int:
    """Kind of what is there, as in `stat`, or 0 where nothing is."""
    with readable(path):
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a run store is there."""
    return stat.S_ISREG(mode_of(Path(path) / METADATA))


def create(path: Path, plan: Mapping[str, Any], layout: Layout, meta: Mapping[str, Any]) -> None:
    """Write all metadata and coordinates next to `path`, then rename: the store appears whole or not at all."""
    check_storable(layout.outputs, layout.grid.names)
    with being_built(path) as folder:
        fill(folder, plan, layout, meta)
        rename_unless_made(folder, path)


@contextlib.contextmanager
def being_built(path: Path) -> Generator[Path]:
    """A folder beside `path` to fill and to rename to it."""
    folder = beside(path)
    try:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rename_unless_made(building: Path, path: Path) -> None:
    """Rename a directory into place; another process may have been first, and then its store counts."""
    try:
        building.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_run(path):
            raise


def fill(path: Path, plan: Mapping[str, Any], layout: Layout, meta: Mapping[str, Any]) -> None:
    grid = layout.grid
    record = _record(plan, layout)
    attributes = {"landscape": record, "meta": encode(meta)}
    attributes[SEAL] = seal_of(record, attributes["meta"])
    with load_zarr().config.set({"array.write_empty_chunks": True}):
        group = load_zarr().open_group(path, mode="w", attributes=attributes)
        _check_case(path, [*layout.outputs, *grid.names, DONE])
        for axis in grid.axes:
            _write_axis(group, axis)
        for name, (shape, dtype) in {**layout.outputs, DONE: ((), np.dtype(bool))}.items():
            group.create_array(
                name,
                shape=grid.shape + shape,
                chunks=layout.tile + shape,
                dtype=dtype,
                fill_value=fill_value(dtype),
                dimension_names=dims(grid, name, grid.ndim + len(shape)),
                compressors=[_zstd()],
            )


def _write_axis(group: Any, axis: Axis) -> None:
    coordinate = group.create_array(
        axis.name,
        shape=(len(axis),),
        chunks=(len(axis),),
        dtype="float64",
        dimension_names=(axis.name,),
        attributes={"long_name": axis.text},
        compressors=[_zstd()],
    )
    coordinate[:] = axis.values


def replace_axis(path: Path, axis: Axis) -> None:
    """Rename freshly written files over those of an axis, one by one: a process beside this one may do the same."""
    building = beside(path / METADATA)
    try:
        with load_zarr().config.set({"array.write_empty_chunks": True}):
            _write_axis(load_zarr().open_group(building, mode="w"), axis)
        (path / axis.name / "c").mkdir(parents=True, exist_ok=True)
        for file in (METADATA, "c/0"):
            (building / axis.name / file).replace(path / axis.name / file)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _record(plan: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """What the root holds of a run, as JSON data."""
    axes = [{"name": a.name, "label": a.label, "num": len(a), "sha256": sha256_of(a.values)} for a in layout.grid.axes]
    return {
        "format": FORMAT,
        "plan": encode(plan),
        "tile": [int(n) for n in layout.tile],
        "outputs": [*layout.outputs],
        "types": {name: f"{dtype}{list(shape)}" for name, (shape, dtype) in layout.outputs.items()},
        "axes": axes,
        PLACED: PLACE,
    }


def place_of(key: str, mask: np.ndarray) -> bytes:
    """What a chunk ends with, so that one that was written for another tile or array is told from it.

    A reader that does not know of it takes the chunk as it is.

    Args:
        key: of the chunk, such as `train_loss/c/0/3`.
        mask: which points of its tile were computed.
    """
    digest = hashlib.sha256(key.encode() + np.packbits(mask.ravel()).tobytes())
    return SKIPPED + digest.digest()[:8]


def mark_place(file: Path, place: bytes) -> None:
    with file.open("ab") as chunk:
        chunk.write(place)


def is_in_place(file: Path, place: bytes) -> bool:
    """Whether a chunk ends with its place; what is no file or too short does not."""
    try:
        with file.open("rb") as chunk:
            chunk.seek(-len(place), os.SEEK_END)
            return chunk.read() == place
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return False
        raise


def sha256_of(coordinates: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(coordinates, dtype="<f8").tobytes()).hexdigest()


def seal_of(record: Mapping[str, Any], meta: Any) -> str:
    """Checksum of what the values mean: axes, outputs, tiles, batching, bounds. The plan is compared anyway."""
    rest = {key: value for key, value in record.items() if key != "plan"}
    stated = [meta.get(key) for key in ("error", "refinement")] if isinstance(meta, dict) else []
    text = json.dumps([rest, record["plan"].get("batching"), stated], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_case(path: Path, names: Sequence[str]) -> None:
    """Raise `ValueError` for names that this file system does not tell apart."""
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    twins = [name for name, fold in zip(names, folded) if folded.count(fold) > 1]
    if twins and (path / METADATA.upper()).exists():
        raise ValueError(f"this file system does not tell {' and '.join(map(repr, twins))} apart; rename one of them")


def read_attributes(path: Path) -> dict[str, Any]:
    """What a run holds in its `zarr.json`.

    Raises:
        StoreError: it cannot be read, or is not that of a run.
    """
    file = path / METADATA
    try:
        with readable(file):
            content = file.read_bytes()
        root = json.loads(content)
        decode(root)  # as deep as Python can follow
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"cannot read the run store {path}: {file} is damaged ({why}); {RESTORE}") from error
    if not isinstance(root, dict):
        raise StoreError(f"cannot read the run store {path}: {file} holds a {type(root).__name__}; {RESTORE}")
    if root.get("node_type") == "array":
        raise StoreError(f"{path} is one array of a run; give the run's own directory, {path.parent}")
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or not isinstance(attributes.get("landscape"), dict):
        raise StoreError(f"{path} is a zarr group, but not one of a landscape; give the directory that a sweep wrote")
    return attributes


def checked_record(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run, with everything in it that the rest relies on."""
    record = attributes["landscape"]
    missing = {"format", "plan", "tile", "outputs", "axes"} - record.keys()
    if missing:
        raise StoreError(f"{path} has an incomplete record: {', '.join(sorted(missing))} missing from zarr.json")
    if record["format"] not in READABLE:
        versions = " and ".join(map(str, READABLE))
        raise StoreError(f"{path} has format {record['format']!r}, this version reads {versions}: update loss-atlas")
    if not _well_formed(record):
        raise StoreError(f"the record of {path} in {METADATA} is damaged; {RESTORE}")
    if SEAL in attributes and attributes[SEAL] != seal_of(record, attributes.get("meta")):
        raise StoreError(
            f"{path / METADATA} is not what was written: axes, outputs or error bounds do not fit its checksum; "
            f"{RESTORE}, or remove its entry {SEAL!r} to take it as it is"
        )
    return record


def _well_formed(record: Mapping[str, Any]) -> bool:
    """Whether the entries of a record are of the right kinds; names with a separator would lead out of the store."""
    plan, tile, outputs, axes = (record[key] for key in ("plan", "tile", "outputs", "axes"))
    if not (isinstance(plan, dict) and all(isinstance(part, list) for part in (tile, outputs, axes))):
        return False
    if not all(isinstance(a, dict) and isinstance(a.get("label"), str) for a in axes):
        return False
    names = [*outputs, *(axis.get("name") for axis in axes)]
    sizes = [*tile, *(axis.get("num", 1) for axis in axes)]
    return (
        all(isinstance(name, str) and name.strip(".") and not set("/\\\0") & set(name) for name in names)
        and len({*names, DONE}) == len(names) + 1
        and all(type(size) is int and size > 0 for size in sizes)
        and len(tile) == len(axes) > 0
        and isinstance(record.get("types", {}), dict)
    )


def load_zarr() -> Any:
    import zarr

    return zarr


def _zstd() -> Any:
    """Compression that stores a checksum, so a damaged chunk is noticed."""
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=1, checksum=True)


def open_group(path: Path, mode: str) -> Any:
    try:
        return load_zarr().open_group(path, mode=mode)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise StoreError(f"cannot read the run store {path}: {METADATA} is damaged ({error}); {RESTORE}") from error


def sweep_up(path: Path, names: Iterable[str]) -> None:
    """Delete what killed writers left behind more than an hour ago."""
    beside_it = path.parent.glob(f"{glob.escape(_stem(path, 33 + len(PARTIAL)))}.*{PARTIAL}")
    inside = [*path.glob(f"*{PARTIAL}"), *(p for name in names for p in (path / name).rglob(f"*{PARTIAL}"))]
    arrays = {path / name for name in names}
    for leftover in {*beside_it, *inside} - arrays:
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextlib.contextmanager
def writable(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        read_only = "read-only mode" in str(error)  # zarr's own ValueError
        if isinstance(error, StoreError) or (isinstance(error, ValueError) and not read_only):
            raise
        why = WRITING[errno.EROFS] if read_only else reason_of(error, WRITING)
        safe = ". Finished tiles are safe: the same call with this store resumes after them" if _is_run(path) else ""
        raise StoreError(f"cannot write to {path}: {why}{_file(error, path)}{safe}") from error


def _is_run(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return is_run(path)
    return False


READING = {
    errno.EACCES: "permission denied; let this user read it (chmod u+rX)",
    errno.EMFILE: "too many open files; close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "the machine has too many open files; close some",
    errno.EIO: "the disk failed to read (input/output error); check the disk or the network mount, then try again",
    errno.ESTALE: "the network mount is stale; mount it again, then try again",
    errno.ENOMEM: "too little memory; close other programs, then try again",
    errno.ENAMETOOLONG: f"a name is longer than the file system allows (mostly {MAX_NAME} bytes); shorten it",
    errno.ELOOP: "its links lead in a circle",
}
WRITING = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "not permitted; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
}


def _file(error: BaseException, path: Path) -> str:
    """Which file an error of the system is about, where it is another than `path`."""
    file = getattr(error, "filename", None)
    return f" ({file})" if isinstance(file, str | os.PathLike) and os.fspath(file) != str(path) else ""


def reason_of(error: BaseException, known: Mapping[int, str] = READING) -> str:
    """An error of the system in words, with the file and what to do where that is known."""
    if isinstance(error, MemoryError):
        return f"too little memory ({error})" if str(error) else "too little memory"
    code = getattr(error, "errno", None) or 0
    if code in known or code in READING:
        return known.get(code) or READING[code]
    return str(getattr(error, "strerror", None) or error)


@contextlib.contextmanager
def locked(lock: Path) -> Generator[None]:
    """Hold a lock file; one that is older than a minute was left behind by a process that died."""
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > LOCK_SECONDS:
                    lock.unlink(missing_ok=True)
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


@contextlib.contextmanager
def readable(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, MemoryError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot read the run store {path}: {reason_of(error)}{_file(error, path)}") from error
