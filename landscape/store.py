"""The run store: a zarr v3 directory that holds a landscape while it is computed and after.

Layout of `run.zarr`: one array per output and one per axis, with dimension names, so
`xarray.open_zarr(path, consolidated=False)` reads it without this package. A chunk is a tile. `computed` is
written last of each tile: its chunk is the commit mark, and finished tiles are found by listing those keys. Every
file appears by an atomic rename, so a process may be killed at any moment. While a sweep at a tolerance is under way,
`run.zarr/evaluations` is a run store of its own with the points evaluated so far; the map is written at the end.

What was damaged on the disk is noticed: chunks carry a checksum; the record in `zarr.json` holds the digests of the
coordinates and the shapes and types of the arrays, and is sealed by a checksum itself. Only what is absent or cannot be
decoded counts as damage and is computed again. Whatever else keeps a file from being read (permissions, a failing
disk, too many open files, too little memory) raises `StoreError`, and nothing is discarded.

A store is a folder of a local or mounted file system, since all of this rests on atomic renames.
"""

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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from landscape._caller import warn
from landscape._layout import MAX_NAME, METADATA, PARTIAL, Layout, check_storable, fill_value, row_tile
from landscape.grid import Axis, Grid, Landscape, dims

FORMAT = 2
READABLE = (1, 2)  # format 1 has neither digests nor a seal
DONE = "computed"
JOURNAL = "evaluations"
INDEX = "grid_index"  # in the journal: the C-order index of each evaluated point, -1 in the padding of a tile
LOCK = f"meta.lock{PARTIAL}"
SEAL = "checksum"
KEPT = ("calls", "error", "plan", "provenance", "refinement")  # meta entries that a sweep writes itself
STALE_SECONDS = 3600.0
LOCK_SECONDS = 60.0
SLAB_BYTES = 2**20
MAX_RATIO = 2**14  # increasing coordinates are never packed this tightly, a lie about their number may be
MAX_DEPTH = 64  # of meta entries, which JSON readers can follow
RESTORE = "restore the file from a copy, or delete the store to start anew"
NOT_FINITE = {"nan", "inf", "-inf"}


class PlanMismatch(ValueError):
    """A store holds another run than the one asked for.

    Attributes:
        differences: `{field: (stored, requested)}`.
    """

    def __init__(self, path: Path, differences: Mapping[str, tuple[Any, Any]]) -> None:
        self.differences = dict(differences)
        rows = "\n".join(f"  {field}: stored {old!r}, asked for {new!r}" for field, (old, new) in differences.items())
        super().__init__(
            f"{path} holds the results of another plan; nothing was overwritten. What differs:\n{rows}\n"
            "Choose another store, or delete this one to start anew."
        )


class StoreError(OSError):
    """The store cannot be read or written; the message says which file and what to do."""


class NotLocal(StoreError, ValueError):
    """An address of an object store was given where a folder is needed."""


class _Damage(Exception):
    """A chunk is absent or cannot be decoded; the message says which."""


class RunStore:
    """Reads and writes one run directory. Make one with `open_run`.

    Raises:
        StoreError: it cannot be read, or one of its arrays cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        attributes = _attributes(path)
        record = _checked_record(path, attributes)
        self.plan: dict[str, Any] = decode(record["plan"])
        self.tile = tuple(record["tile"])
        self.names: list[str] = record["outputs"]
        self._axes: list[dict[str, Any]] = record["axes"]
        self._types: dict[str, str] = record.get("types") or _types_of_plan(self.plan)
        self._meta: Any = attributes.get("meta", {})
        with _readable(path):
            self._group = _open_group(path, "r+" if os.access(path, os.W_OK) else "r")
        try:  # every array is opened before anything is read, written or discarded
            self._arrays = {name: self._open(name) for name in [*self.names, DONE]}
        except _Damage as damage:
            raise StoreError(
                f"{path} lacks an array: {damage}. Nothing was deleted: copy that file from another store of the same "
                f"run (the same call with another store= makes one), or delete {path} to start anew"
            ) from damage
        self._check_arrays()

    @cached_property
    def layout(self) -> Layout:
        """The layout that the stored arrays have.

        Raises:
            StoreError: coordinates are damaged.
        """
        try:
            axes = tuple(Axis(a["name"], self._coordinates(i), a["label"]) for i, a in enumerate(self._axes))
        except _Damage as damage:
            raise StoreError(
                f"{self.path} has damaged coordinates: {damage}. The values are intact: run the sweep again with this "
                "store, and the coordinates are written anew from its grid"
            ) from damage
        outputs = {n: (self._arrays[n].shape[len(axes) :], self._arrays[n].dtype) for n in self.names}
        return Layout(Grid(axes), outputs, self.tile)

    @property
    def meta(self) -> dict[str, Any]:
        """The meta entries stored so far."""
        meta = decode(self._meta)
        return meta if isinstance(meta, dict) else {}

    def update_meta(self, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        """Replace the meta entries by a function of those on disk now; one process at a time."""
        with _writable(self.path), _locked(self.path / LOCK):
            attributes = _attributes(self.path)
            self._meta = attributes.get("meta", {})
            meta = encode(change(self.meta))
            seal = {SEAL: _seal(attributes["landscape"], meta)} if SEAL in attributes else {}
            self._group = _open_group(self.path, "r+").update_attributes({"meta": meta, **seal})
            self._meta = meta

    def finished(self) -> set[int]:
        """Tiles whose commit mark is there."""
        return self._stored_tiles(DONE)

    def _stored_tiles(self, name: str) -> set[int]:
        """Tiles of which this array has a chunk; what each point holds is one chunk, so its index is dropped."""
        blocks = self.layout.blocks
        counts = blocks + (1,) * (len(self._arrays[name].shape) - len(blocks))
        with _readable(self.path):
            keys = list(_chunk_keys(self.path / name / "c", counts))
        return {int(np.ravel_multi_index(key[: len(blocks)], blocks)) for key in keys}

    def write(
        self, layout: Layout, tile: int, values: Mapping[str, np.ndarray], computed: np.ndarray | None = None
    ) -> None:
        """Store the values of a tile, then its commit mark: which of its points were computed, all by default."""
        region, shape = layout.region(tile), layout.shape(tile)
        with _writable(self.path), _zarr().config.set({"array.write_empty_chunks": True}):
            for name, value in values.items():
                self._arrays[name][region] = value.reshape(shape + value.shape[1:])
            self._arrays[DONE][region] = np.ones(shape, dtype=bool) if computed is None else computed.reshape(shape)

    def read_tile(self, layout: Layout, tile: int) -> dict[str, np.ndarray]:
        """The values of a finished tile, points on the leading axis."""
        size, lead = layout.size(tile), layout.grid.ndim
        with _readable(self.path):
            parts = {name: self._whole_part(layout, name, tile) for name in self.names}
        return {name: value.reshape(size, *value.shape[lead:]) for name, value in parts.items()}

    def damaged(self, layout: Layout, among: set[int] | None = None) -> dict[int, str]:
        """Finished tiles (`among` these) of which a chunk is missing or cannot be read back, and which chunk."""
        finished = self.finished()  # before the other listings: a process beside this one may add tiles
        stored = {name: self._stored_tiles(name) for name in self.names}
        looked_at = sorted(finished if among is None else finished & among)
        damage = {tile: self._damage(layout, tile, stored) for tile in looked_at}
        return {tile: chunk for tile, chunk in damage.items() if chunk}

    def discard(self, layout: Layout, tile: int) -> None:
        """Remove a tile's commit mark, then its values, so that it is computed again."""
        block = [str(int(b)) for b in np.unravel_index(tile, layout.blocks)]
        with _writable(self.path):
            for name in (DONE, *self.names):
                chunk = self.path.joinpath(name, "c", *block)
                shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink(missing_ok=True)

    def read(self) -> Landscape:
        """Everything computed so far.

        Raises:
            StoreError: a chunk is damaged or cannot be read; the message says which.
        """
        with _readable(self.path):
            layout = self.layout
            finished = self.finished()
            if len(finished) < layout.num_tiles and self._has_journal():
                return self._read_journal(layout)
            values, computed = self._read_arrays(layout, finished)
        committed = np.zeros(layout.grid.shape, dtype=bool)
        for tile in finished:
            committed[layout.region(tile)] = True
        filled = {name: _masked(value, committed) for name, value in values.items()}
        error, meta = self._split_meta()
        return Landscape(layout.grid, filled, computed & committed, error, meta)

    def _read_arrays(self, layout: Layout, finished: set[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All values and the mask, whatever stands in tiles that are not finished."""
        try:
            if any(finished - self._stored_tiles(name) for name in self.names):
                raise LookupError("a finished tile lacks a chunk")
            computed = self._read_whole(DONE)  # before the values: a process beside this one may add tiles
            return {name: self._read_whole(name) for name in self.names}, computed
        except OSError:
            raise
        except Exception as error:
            damage = self.damaged(layout)
            if damage:
                raise StoreError(
                    f"{self.path} has damaged chunks: {'; '.join(damage.values())}. The other tiles are intact: run "
                    "the sweep again with this store, and the damaged ones are computed anew"
                ) from error
            if isinstance(error, MemoryError):
                raise
            return self._read_tiles(layout, finished)

    def _split_meta(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The bounds that a sweep stated, by output, and the other entries."""
        meta = self.meta
        stated = meta.get("error")
        if isinstance(stated, dict) and stated.keys() <= set(self.names):
            return dict.fromkeys(self.names) | meta.pop("error"), meta
        return dict.fromkeys(self.names), meta

    def _has_journal(self) -> bool:
        """Whether this is a sweep at a tolerance that is not over; an output may have the journal's name."""
        taken = {*self.names, *(axis["name"] for axis in self._axes)}
        return JOURNAL not in taken and is_run(self.path / JOURNAL)

    def discard_journal(self) -> None:
        """Delete the evaluated points of a sweep at a tolerance that is over: the map holds them."""
        if JOURNAL not in {*self.names, *(axis["name"] for axis in self._axes)}:
            shutil.rmtree(self.path / JOURNAL, ignore_errors=True)

    def _read_journal(self, layout: Layout) -> Landscape:
        """The points evaluated so far by a sweep at a tolerance that is not over."""
        journal = RunStore(self.path / JOURNAL)
        rows, (values, computed) = journal.layout, layout.empty()
        for tile in journal.finished() - journal.damaged(rows).keys():
            stored = journal.read_tile(rows, tile)
            used = stored[INDEX] >= 0
            where = np.unravel_index(stored[INDEX][used], layout.grid.shape)
            for name, value in values.items():
                value[where] = stored[name][used]
            computed[where] = True
        meta = {k: v for k, v in self.meta.items() if k not in ("error", "refinement")}  # said of the map to come
        return Landscape(layout.grid, values, computed, dict.fromkeys(self.names), meta)

    def _read_tiles(self, layout: Layout, finished: set[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The finished tiles alone, where a chunk of an unfinished one is half written."""
        values, computed = layout.empty()
        for tile in finished:
            for name in self.names:
                values[name][layout.region(tile)] = self._whole_part(layout, name, tile)
            computed[layout.region(tile)] = True
        return values, computed

    def _read_whole(self, name: str) -> np.ndarray:
        """An array, slab by slab, so that little more memory is used than it takes itself."""
        stored = self._arrays[name]
        whole = np.empty(stored.shape, stored.dtype)
        row = max(1, whole.nbytes // max(1, len(whole)))
        rows = max(1, SLAB_BYTES // (row * self.tile[0])) * self.tile[0]
        for start in range(0, len(whole), rows):
            whole[start : start + rows] = stored[start : start + rows]
        return whole

    def _open(self, name: str) -> Any:
        """The zarr array of that name.

        Raises:
            _Damage: its metadata are absent or make no sense.
        """
        try:
            with _zarr().config.set({"array.write_empty_chunks": True}):
                array = self._group[name]
            if array.metadata.encode_chunk_key((2, 3)) != "c/2/3" or len(array.shape) != len(array.chunks):
                raise ValueError("its chunks are not where ours are")
        except (OSError, MemoryError) as error:
            raise StoreError(f"cannot read {self.path / name / METADATA}: {_reason(error)}") from error
        except Exception as error:
            there = _mode(self.path / name / METADATA)
            what = f"damaged, {type(error).__name__}: {error}" if there else "missing"
            raise _Damage(f"{name}/{METADATA} ({what})") from error
        return array

    def _check_arrays(self) -> None:
        """Raise `StoreError` unless arrays, tiles and record fit each other; nothing large is read or made."""
        shape, ndim = self._arrays[DONE].shape, len(self._axes)
        recorded = tuple(axis.get("num", n) for axis, n in zip(self._axes, shape))
        for name, array in self._arrays.items():
            type_ = f"{array.dtype}{list(array.shape[ndim:])}"
            expected = self._types.get(name, type_) if name != DONE else "bool[]"
            chunks = self.tile + array.shape[ndim:]
            if len(shape) != ndim or array.shape[:ndim] != recorded or type_ != expected or array.chunks != chunks:
                raise StoreError(
                    f"{self.path} does not fit together: the array {name!r} holds {array.dtype}{list(array.shape)} in "
                    f"chunks of {array.chunks}, where {list(recorded)} points of {expected} in tiles of {self.tile} "
                    f"belong; restore {self.path / name / METADATA} from a copy, or delete {self.path}"
                )

    def _coordinates(self, index: int) -> np.ndarray:
        """The stored coordinates of an axis, checked.

        Raises:
            _Damage: they are absent or not what was written.
        """
        axis, num = self._axes[index], self._arrays[DONE].shape[index]
        name = axis["name"]
        file = self.path / name / "c" / "0"
        array = self._open(name)
        if array.shape != (num,) or array.chunks != (num,) or array.dtype != np.float64:
            shape = f"{array.dtype}{list(array.shape)} in chunks of {array.chunks}"
            raise _Damage(f"{name}/{METADATA} ({shape}, where the values have {num} points)")
        with _readable(self.path):
            if not set(_chunk_keys(file.parent, (1,))):
                raise _Damage(f"{name}/c/0 (missing)")
            if array.nbytes > MAX_RATIO * file.stat().st_size:
                raise _Damage(f"{name}/c/0 ({file.stat().st_size} bytes, too few for {num} coordinates)")
        values = self._chunk(array, name, (slice(None),), "0")
        if not self._genuine(axis, values):
            raise _Damage(f"{name}/c/0 (not the coordinates that were written)")
        return values

    def _genuine(self, axis: Mapping[str, Any], values: np.ndarray) -> bool:
        """Whether these coordinates have the digest that the record or, of format 1, the plan holds."""
        if "sha256" in axis:
            return axis["sha256"] == _sha256(values)
        grid = self.plan.get("grid")
        planned = grid.get(axis["name"]) if isinstance(grid, dict) else None
        if isinstance(planned, str) and planned.startswith("float64["):
            return planned == f"float64[{len(values)}] {_sha256(values)[:16]}"
        return bool(np.all(np.isfinite(values)) and np.all(np.diff(values) > 0))

    def repair_coordinates(self, grid: Grid) -> None:
        """Write damaged coordinates anew, those of the grid that this run was planned for."""
        for index, (stored, axis) in enumerate(zip(self._axes, grid.axes)):
            values = np.asarray(axis.values, dtype=np.float64)
            try:
                if np.array_equal(self._coordinates(index), values):
                    continue
                damage = f"{axis.name}/c/0 (not those of the plan)"
            except _Damage as error:
                damage = str(error)
            if axis.name != stored["name"] or len(axis) != self._arrays[DONE].shape[index]:
                raise StoreError(f"{self.path} holds another grid and damaged coordinates, {damage}; delete it")
            warn(f"coordinates of {self.path} are damaged and written anew: {damage}")
            with _writable(self.path):
                _replace_axis(self.path, axis)

    def _part(self, layout: Layout, name: str, tile: int) -> np.ndarray:
        """What a tile holds of one array."""
        block = "/".join(str(int(b)) for b in np.unravel_index(tile, layout.blocks))
        array = self._arrays[name]
        return self._chunk(array, name, layout.region(tile), block + "/0" * (len(array.shape) - len(layout.blocks)))

    def _whole_part(self, layout: Layout, name: str, tile: int) -> np.ndarray:
        """The same, where damage was looked for before and has come since."""
        try:
            return self._part(layout, name, tile)
        except _Damage as damage:
            raise StoreError(
                f"{self.path} has a damaged chunk, {damage}: run the sweep again with this store"
            ) from damage

    def _chunk(self, array: Any, name: str, region: tuple[slice, ...], key: str) -> np.ndarray:
        """A part of an array that one chunk holds.

        Raises:
            _Damage: it cannot be decoded.
            StoreError: it may be intact, but something else keeps it from being read.
        """
        try:
            return array[region]
        except Exception as error:
            file = self.path / name / "c" / key
            if not isinstance(error, OSError) and not _decodes(file, array):
                raise _Damage(f"{name}/c/{key} ({error})") from error
            raise StoreError(f"cannot read {file}: {_reason(error)}. Nothing was discarded") from error

    def _damage(self, layout: Layout, tile: int, stored: Mapping[str, set[int]]) -> str:
        """The first damaged chunk of a tile, or nothing. zarr reads a missing chunk as fill values, so look first."""
        for name in [*self.names, DONE]:
            if tile not in stored.get(name, {tile}):
                block = "/".join(str(int(b)) for b in np.unravel_index(tile, layout.blocks))
                return f"{name}/c/{block} (missing)"
            try:
                self._part(layout, name, tile)
            except _Damage as damage:
                return str(damage)
        return ""


def _decodes(file: Path, array: Any) -> bool:
    """Whether a chunk is whole: read and decoded without zarr, whose errors do not tell damage from bad luck."""
    import numcodecs

    with _readable(file):
        if not _mode(file):
            return False
        content = file.read_bytes()
        room = np.empty(int(np.prod(array.chunks)) * array.dtype.itemsize, np.uint8)
    try:
        numcodecs.get_codec({"id": "zstd"}).decode(content, out=room)
    except (RuntimeError, ValueError):
        return False
    return True


def _chunk_keys(folder: str | os.PathLike[str], counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Keys of the chunk files in a folder; files that are no chunks are passed over."""
    try:
        entries = [(entry, entry.is_dir(), entry.is_file()) for entry in os.scandir(folder)]
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise StoreError(f"{folder} is a file where a folder of chunks belongs; remove it, then go on") from error
    for entry, is_folder, is_file in entries:
        number = int(entry.name) if entry.name.isascii() and entry.name.isdigit() else -1
        if str(number) != entry.name or number >= counts[0]:
            continue
        if is_folder == (len(counts) == 1):
            raise StoreError(
                f"{entry.path} is a {'folder' if is_folder else 'file'} where chunks have a "
                f"{'file' if is_folder else 'folder'}; remove it, then run the sweep again with this store"
            )
        if is_file:
            yield (number,)
        elif is_folder:
            yield from ((number, *rest) for rest in _chunk_keys(entry.path, counts[1:]))


def _types_of_plan(plan: Mapping[str, Any]) -> dict[str, str]:
    """Types of the outputs, as format 1 has them of sweeps."""
    types = plan.get("outputs")
    return types if isinstance(types, dict) else {}


def _masked(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What stands at other points is no result: fill them as not computed."""
    if known.all():
        return values
    values = values.copy()
    values[~known] = fill_value(values.dtype)
    return values


def open_run(
    path: str | os.PathLike[str], plan: Mapping[str, Any], layout: Layout, meta: Mapping[str, Any]
) -> RunStore:
    """Open the store of this plan, or create it.

    Two processes may call this at the same time: one creates, by the rename of a complete directory, the other
    opens.

    Raises:
        PlanMismatch: the store holds another plan.
        StoreError: the path is a file, cannot be written, or holds something else.
    """
    path = check_place(path)
    if not is_run(path):
        _create(path, plan, layout, meta)
    store = RunStore(path)
    differences = plan_differences(store.plan, plan)
    if differences:
        raise PlanMismatch(path, differences)
    store.repair_coordinates(layout.grid)
    _sweep_up(path, [*store.names, DONE, *layout.grid.names])
    return store


def check_place(path: str | os.PathLike[str]) -> Path:
    """Raise `StoreError` unless a run is there or can be made there; makes the parent folder."""
    path = local_path(path, "store")
    mode = _mode(path)
    if mode and not stat.S_ISDIR(mode):
        raise StoreError(f"the store {path} is a file; give a directory (it will be created), for example {path}.zarr")
    if is_run(path):
        return path
    with _readable(path):
        if mode and any(path.iterdir()):
            raise StoreError(f"{path} is a directory with other contents; give an empty or a new one")
    with _writable(path):
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


def _mode(path: Path) -> int:
    """Kind of what is there, as in `stat`, or 0 where nothing is."""
    with _readable(path):
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a run store is there."""
    return stat.S_ISREG(_mode(Path(path) / METADATA))


def plan_differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`{field: (stored, requested)}` of the fields that differ, nested ones joined by dots."""
    old, new = flatten(_plain(stored)), flatten(_plain(requested))
    return {k: (old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}


def _plain(tree: Mapping[str, Any]) -> Any:
    """As it stands in the store, whatever version wrote it."""
    return json.loads(json.dumps(encode(tree)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one level, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def save(landscape: Landscape, path: str | os.PathLike[str]) -> None:
    """Write a landscape to a zarr directory that `load`, the command line and xarray read.

    Raises:
        TypeError: `landscape` is no `Landscape`, or holds what a store cannot: its outputs numbers, its meta plain
            data.
        ValueError: a name that a store cannot keep, axes that are not increasing, an address in place of a path.
        StoreError: something is there already, or the path cannot be written.
    """
    if not isinstance(landscape, Landscape):
        raise TypeError(f"save takes a Landscape, got {type(landscape).__name__}")
    path = local_path(path)
    landscape.grid.check()
    landscape.grid.check_outputs(landscape.values)
    check_plain(landscape.meta, "meta")
    if "error" in landscape.meta:
        raise ValueError("the meta entry 'error' is where a store keeps the bounds of landscape.error; rename it")
    if _mode(path):
        raise StoreError(f"{path} exists already; choose another path or delete it first")
    native = {n: v.astype(v.dtype.newbyteorder("="), copy=False) for n, v in landscape.values.items()}
    outputs = {n: (v.shape[landscape.grid.ndim :], v.dtype) for n, v in native.items()}
    layout = Layout(landscape.grid, outputs, row_tile(landscape.grid.shape, 2**18))
    stated = {name: bound for name, bound in landscape.error.items() if bound is not None}
    check_storable(outputs, landscape.grid.names)
    with _building(path) as folder:
        _fill(folder, {"saved": True}, layout, {**landscape.meta, **({"error": stated} if stated else {})})
        store = RunStore(folder)
        for name, value in native.items():
            store._arrays[name][...] = value if landscape.predicts(name) else _masked(value, landscape.computed)
        store._arrays[DONE][...] = landscape.computed
        folder.rename(path)


def load(path: str | os.PathLike[str]) -> Landscape:
    """Read the landscape in a run directory, finished or not.

    Raises:
        TypeError: `path` is no path.
        ValueError: `path` is an address such as `s3://bucket/run.zarr`.
        StoreError: nothing is there, it is not a run store, a chunk or coordinates are damaged, or a file cannot be
            read; the message says which, and what to do.
    """
    return RunStore(_run_at(path)).read()


def _run_at(path: Any) -> Path:
    """Where a run store is."""
    path = local_path(path)
    if not is_run(path):
        mode = _mode(path)
        found = "nothing" if not mode else f"a directory without {METADATA}" if stat.S_ISDIR(mode) else "a file"
        raise StoreError(f"no landscape at {path}: found {found}; give the .zarr directory that a sweep wrote")
    return path


def annotate(path: str | os.PathLike[str], **entries: Any) -> None:
    """Add entries to the meta of a stored run, for example `paths` that the plots draw over it.

    Args:
        path: the run's directory.
        entries: plain data (text, numbers, True, False, None, lists and dicts of them) or arrays; entries of the same
            name are replaced. They come back as plain data: tuples and arrays as lists, keys as text.

    Raises:
        TypeError: an entry holds something else, such as complex numbers, bytes or an object.
        ValueError: an entry that the sweep writes itself (`calls`, `error`, `plan`, `provenance`, `refinement`).
        StoreError: there is no run store, or it cannot be written.
    """
    path = local_path(path)
    kept = sorted(entries.keys() & set(KEPT))
    if kept:
        raise ValueError(
            f"annotate cannot set {kept[0]!r}: a sweep writes {', '.join(KEPT)} itself; choose another name"
        )
    check_plain(entries, "annotate")
    RunStore(_run_at(path)).update_meta(lambda earlier: earlier | entries)


def _create(path: Path, plan: Mapping[str, Any], layout: Layout, meta: Mapping[str, Any]) -> None:
    """Write all metadata and coordinates next to `path`, then rename: the store appears whole or not at all."""
    check_storable(layout.outputs, layout.grid.names)
    with _building(path) as folder:
        _fill(folder, plan, layout, meta)
        _rename_unless_made(folder, path)


@contextlib.contextmanager
def _building(path: Path) -> Generator[Path]:
    """A folder beside `path` to fill and to rename to it."""
    folder = beside(path)
    try:
        with _writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rename_unless_made(building: Path, path: Path) -> None:
    """Rename a directory into place; another process may have been first, and then its store counts."""
    try:
        building.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_run(path):
            raise


def _fill(path: Path, plan: Mapping[str, Any], layout: Layout, meta: Mapping[str, Any]) -> None:
    grid = layout.grid
    record = _record(plan, layout)
    attributes = {"landscape": record, "meta": encode(meta)}
    attributes[SEAL] = _seal(record, attributes["meta"])
    with _zarr().config.set({"array.write_empty_chunks": True}):
        group = _zarr().open_group(path, mode="w", attributes=attributes)
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


def _replace_axis(path: Path, axis: Axis) -> None:
    """Rename freshly written files over those of an axis, one by one: a process beside this one may do the same."""
    building = beside(path / METADATA)
    try:
        with _zarr().config.set({"array.write_empty_chunks": True}):
            _write_axis(_zarr().open_group(building, mode="w"), axis)
        (path / axis.name / "c").mkdir(parents=True, exist_ok=True)
        for file in (METADATA, "c/0"):
            (building / axis.name / file).replace(path / axis.name / file)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _record(plan: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """What the root holds of a run, as JSON data."""
    axes = [{"name": a.name, "label": a.label, "num": len(a), "sha256": _sha256(a.values)} for a in layout.grid.axes]
    return {
        "format": FORMAT,
        "plan": encode(plan),
        "tile": [int(n) for n in layout.tile],
        "outputs": [*layout.outputs],
        "types": {name: f"{dtype}{list(shape)}" for name, (shape, dtype) in layout.outputs.items()},
        "axes": axes,
    }


def _sha256(coordinates: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(coordinates, dtype="<f8").tobytes()).hexdigest()


def _seal(record: Mapping[str, Any], meta: Any) -> str:
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


def _attributes(path: Path) -> dict[str, Any]:
    """What a run holds in its `zarr.json`.

    Raises:
        StoreError: it cannot be read, or is not that of a run.
    """
    file = path / METADATA
    try:
        with _readable(file):
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


def _checked_record(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
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
    if SEAL in attributes and attributes[SEAL] != _seal(record, attributes.get("meta")):
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


def _zarr() -> Any:
    import zarr

    return zarr


def _zstd() -> Any:
    """Compression that stores a checksum, so a damaged chunk is noticed."""
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=1, checksum=True)


def _open_group(path: Path, mode: str) -> Any:
    try:
        return _zarr().open_group(path, mode=mode)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise StoreError(f"cannot read the run store {path}: {METADATA} is damaged ({error}); {RESTORE}") from error


def _sweep_up(path: Path, names: Iterable[str]) -> None:
    """Delete what killed writers left behind more than an hour ago."""
    beside_it = path.parent.glob(f"{glob.escape(_stem(path, 33 + len(PARTIAL)))}.*{PARTIAL}")
    inside = [*path.glob(f"*{PARTIAL}"), *(p for name in names for p in (path / name).rglob(f"*{PARTIAL}"))]
    arrays = {path / name for name in names}
    for leftover in {*beside_it, *inside} - arrays:
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextlib.contextmanager
def _writable(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        read_only = "read-only mode" in str(error)  # zarr's own ValueError
        if isinstance(error, StoreError) or (isinstance(error, ValueError) and not read_only):
            raise
        why = WRITING[errno.EROFS] if read_only else _reason(error, WRITING)
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


def _reason(error: BaseException, known: Mapping[int, str] = READING) -> str:
    """An error of the system in words, with the file and what to do where that is known."""
    if isinstance(error, MemoryError):
        return f"too little memory ({error})" if str(error) else "too little memory"
    code = getattr(error, "errno", None) or 0
    if code in known or code in READING:
        return known.get(code) or READING[code]
    return str(getattr(error, "strerror", None) or error)


@contextlib.contextmanager
def _locked(lock: Path) -> Generator[None]:
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
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, MemoryError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot read the run store {path}: {_reason(error)}{_file(error, path)}") from error


# ---------------------------------------------------------------------------------------------------- plain data


def encode(value: Any) -> Any:
    """Plain JSON data: arrays become lists, floats that JSON lacks become `{"float": "nan"}`.

    A dict that looks like such a float is wrapped, as `{"mapping": {"float": ...}}`, so that it comes back as it was.
    """
    if isinstance(value, Mapping):
        plain = {str(k): encode(v) for k, v in value.items()}
        return {"mapping": plain} if plain.keys() in ({"float"}, {"mapping"}) else plain
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if hasattr(value, "tolist"):
        return encode(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(float(value))}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def decode(value: Any) -> Any:
    """The inverse of `encode`, as far as JSON keeps types."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    inner = value.get("mapping")
    if value.keys() == {"mapping"} and isinstance(inner, dict) and inner.keys() in ({"float"}, {"mapping"}):
        value = inner
    elif value.keys() == {"float"} and isinstance(value["float"], str) and value["float"] in NOT_FINITE:
        return float(value["float"])
    return {k: decode(v) for k, v in value.items()}


def check_plain(value: Any, where: str, depth: int = MAX_DEPTH) -> None:
    """Raise unless `encode` keeps what this means.

    Raises:
        TypeError: it holds what JSON cannot.
        ValueError: it is nested too deeply, a number has too many digits, or two keys are the same text.
    """
    if depth == 0:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} levels deep, or holds itself")
    if isinstance(value, Mapping):
        if len({str(key) for key in value}) < len(value):
            raise ValueError(f"two keys of {where} are the same text; keys are stored as text")
        for key, inner in value.items():
            check_plain(inner, f"{where}[{key!r}]", depth - 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            check_plain(inner, f"{where}[{i}]", depth - 1)
    elif hasattr(value, "tolist"):
        if np.asarray(value).dtype.kind not in "biufVUO" or np.iscomplexobj(value):
            raise TypeError(f"{where} is an array of {np.asarray(value).dtype}, which JSON lacks: give real numbers")
        if np.asarray(value).dtype.kind == "O":
            check_plain(np.asarray(value).tolist(), where, depth - 1)
    elif not isinstance(value, str | int | float | os.PathLike | None):
        raise TypeError(f"{where} is of type {type(value).__name__}: give text, numbers, lists, dicts or arrays")
    elif isinstance(value, int) and value.bit_length() > 10_000:
        raise ValueError(f"{where} is a number of more than 3,000 digits; store it as text")
