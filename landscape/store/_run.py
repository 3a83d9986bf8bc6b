"""`RunStore`: one run on disk, its tiles, coordinates and attributes, and `save`, `load`, `annotate`."""

import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from landscape.checks import warn
from landscape.grid import Axis, Grid, Landscape
from landscape.store._files import (
    DONE,
    INDEX,
    JOURNAL,
    LOCK,
    MAX_RATIO,
    PLACED,
    SEAL,
    SLAB_BYTES,
    Damage,
    StoreError,
    being_built,
    check_place,
    checked_record,
    create,
    fill,
    is_in_place,
    is_run,
    load_zarr,
    local_path,
    locked,
    mark_place,
    mode_of,
    open_group,
    place_of,
    read_attributes,
    readable,
    reason_of,
    replace_axis,
    seal_of,
    sha256_of,
    sweep_up,
    writable,
)
from landscape.store._layout import METADATA, Layout, check_storable, fill_value, row_tile
from landscape.store._record import check_plain, decode, encode, plan_differences

KEPT = ("calls", "error", "plan", "provenance", "refinement")  # meta entries that a sweep writes itself


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


class RunStore:
    """Reads and writes one run directory. Make one with `open_run`.

    Raises:
        StoreError: it cannot be read, or one of its arrays cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        attributes = read_attributes(path)
        record = checked_record(path, attributes)
        self.plan: dict[str, Any] = decode(record["plan"])
        self.tile = tuple(record["tile"])
        self.names: list[str] = record["outputs"]
        self._axes: list[dict[str, Any]] = record["axes"]
        self._types: dict[str, str] = record.get("types") or _types_of_plan(self.plan)
        self._meta: Any = attributes.get("meta", {})
        self._placed = PLACED in record  # stores of earlier versions do not know where a chunk belongs
        with readable(path):
            self._group = open_group(path, "r+" if os.access(path, os.W_OK) else "r")
        try:  # every array is opened before anything is read, written or discarded
            self._arrays = {name: self._open(name) for name in [*self.names, DONE]}
        except Damage as damage:
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
        except Damage as damage:
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
        with writable(self.path), locked(self.path / LOCK):
            attributes = read_attributes(self.path)
            self._meta = attributes.get("meta", {})
            meta = encode(change(self.meta))
            seal = {SEAL: seal_of(attributes["landscape"], meta)} if SEAL in attributes else {}
            self._group = open_group(self.path, "r+").update_attributes({"meta": meta, **seal})
            self._meta = meta

    def finished(self) -> set[int]:
        """Tiles whose commit mark is there."""
        return self._stored_tiles(DONE)

    def _stored_tiles(self, name: str) -> set[int]:
        """Tiles of which this array has a chunk; what each point holds is one chunk, so its index is dropped."""
        blocks = self.layout.blocks
        counts = blocks + (1,) * (len(self._arrays[name].shape) - len(blocks))
        with readable(self.path):
            keys = list(_chunk_keys(self.path / name / "c", counts))
        return {int(np.ravel_multi_index(key[: len(blocks)], blocks)) for key in keys}

    def write(
        self, layout: Layout, tile: int, values: Mapping[str, np.ndarray], computed: np.ndarray | None = None
    ) -> None:
        """Store the values of a tile, then its commit mark: which of its points were computed, all by default."""
        region, shape = layout.region(tile), layout.shape(tile)
        with writable(self.path), load_zarr().config.set({"array.write_empty_chunks": True}):
            mask = np.ones(shape, dtype=bool) if computed is None else computed.reshape(shape)
            for name, value in values.items():
                self._arrays[name][region] = value.reshape(shape + value.shape[1:])
                self._mark_place(layout, name, tile, mask)
            self._arrays[DONE][region] = mask

    def _mark_place(self, layout: Layout, name: str, tile: int, mask: np.ndarray) -> None:
        if self._placed:
            key = f"{name}/c/{self._block(layout, name, tile)}"
            mark_place(self.path / key, place_of(key, mask))

    def _block(self, layout: Layout, name: str, tile: int) -> str:
        """The key of the chunk of a tile; what each point holds is one chunk."""
        block = "/".join(str(int(b)) for b in np.unravel_index(tile, layout.blocks))
        return block + "/0" * (len(self._arrays[name].shape) - len(layout.blocks))

    def _misplaced(self, layout: Layout, tile: int, mask: np.ndarray) -> str:
        """The first chunk of a tile that was written for another one, or for other points of it."""
        if not self._placed:
            return ""
        keys = (f"{name}/c/{self._block(layout, name, tile)}" for name in self.names)
        wrong = (key for key in keys if not is_in_place(self.path / key, place_of(key, mask)))
        return next((f"{key} (not the one that was written there)" for key in wrong), "")

    def read_tile(self, layout: Layout, tile: int) -> dict[str, np.ndarray]:
        """The values of a finished tile, points on the leading axis."""
        size, lead = layout.size(tile), layout.grid.ndim
        with readable(self.path):
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
        with writable(self.path):
            for name in (DONE, *self.names):
                chunk = self.path.joinpath(name, "c", *block)
                shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink(missing_ok=True)

    def read(self) -> Landscape:
        """Everything computed so far.

        Raises:
            StoreError: a chunk is damaged or cannot be read; the message says which.
        """
        with readable(self.path):
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
            if any(self._misplaced(layout, tile, computed[layout.region(tile)]) for tile in finished):
                raise LookupError("a chunk belongs to another tile")
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
            Damage: its metadata are absent or make no sense.
        """
        try:
            with load_zarr().config.set({"array.write_empty_chunks": True}):
                array = self._group[name]
            if array.metadata.encode_chunk_key((2, 3)) != "c/2/3" or len(array.shape) != len(array.chunks):
                raise ValueError("its chunks are not where ours are")
        except (OSError, MemoryError) as error:
            raise StoreError(f"cannot read {self.path / name / METADATA}: {reason_of(error)}") from error
        except Exception as error:
            there = mode_of(self.path / name / METADATA)
            what = f"damaged, {type(error).__name__}: {error}" if there else "missing"
            raise Damage(f"{name}/{METADATA} ({what})") from error
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
            Damage: they are absent or not what was written.
        """
        axis, num = self._axes[index], self._arrays[DONE].shape[index]
        name = axis["name"]
        file = self.path / name / "c" / "0"
        array = self._open(name)
        if array.shape != (num,) or array.chunks != (num,) or array.dtype != np.float64:
            shape = f"{array.dtype}{list(array.shape)} in chunks of {array.chunks}"
            raise Damage(f"{name}/{METADATA} ({shape}, where the values have {num} points)")
        with readable(self.path):
            if not set(_chunk_keys(file.parent, (1,))):
                raise Damage(f"{name}/c/0 (missing)")
            if array.nbytes > MAX_RATIO * file.stat().st_size:
                raise Damage(f"{name}/c/0 ({file.stat().st_size} bytes, too few for {num} coordinates)")
        values = self._chunk(array, name, (slice(None),), "0")
        if not self._genuine(axis, values):
            raise Damage(f"{name}/c/0 (not the coordinates that were written)")
        return values

    def _genuine(self, axis: Mapping[str, Any], values: np.ndarray) -> bool:
        """Whether these coordinates have the digest that the record or, of format 1, the plan holds."""
        if "sha256" in axis:
            return axis["sha256"] == sha256_of(values)
        grid = self.plan.get("grid")
        planned = grid.get(axis["name"]) if isinstance(grid, dict) else None
        if isinstance(planned, str) and planned.startswith("float64["):
            return planned == f"float64[{len(values)}] {sha256_of(values)[:16]}"
        return bool(np.all(np.isfinite(values)) and np.all(np.diff(values) > 0))

    def repair_coordinates(self, grid: Grid) -> None:
        """Write damaged coordinates anew, those of the grid that this run was planned for."""
        for index, (stored, axis) in enumerate(zip(self._axes, grid.axes)):
            values = np.asarray(axis.values, dtype=np.float64)
            try:
                if np.array_equal(self._coordinates(index), values):
                    continue
                damage = f"{axis.name}/c/0 (not those of the plan)"
            except Damage as error:
                damage = str(error)
            if axis.name != stored["name"] or len(axis) != self._arrays[DONE].shape[index]:
                raise StoreError(f"{self.path} holds another grid and damaged coordinates, {damage}; delete it")
            warn(f"coordinates of {self.path} are damaged and written anew: {damage}")
            with writable(self.path):
                replace_axis(self.path, axis)

    def _part(self, layout: Layout, name: str, tile: int) -> np.ndarray:
        """What a tile holds of one array."""
        return self._chunk(self._arrays[name], name, layout.region(tile), self._block(layout, name, tile))

    def _whole_part(self, layout: Layout, name: str, tile: int) -> np.ndarray:
        """The same, where damage was looked for before and has come since."""
        try:
            return self._part(layout, name, tile)
        except Damage as damage:
            raise StoreError(
                f"{self.path} has a damaged chunk, {damage}: run the sweep again with this store"
            ) from damage

    def _chunk(self, array: Any, name: str, region: tuple[slice, ...], key: str) -> np.ndarray:
        """A part of an array that one chunk holds.

        Raises:
            Damage: it cannot be decoded.
            StoreError: it may be intact, but something else keeps it from being read.
        """
        try:
            return array[region]
        except Exception as error:
            file = self.path / name / "c" / key
            if not isinstance(error, OSError) and not _decodes(file, array):
                raise Damage(f"{name}/c/{key} ({error})") from error
            raise StoreError(f"cannot read {file}: {reason_of(error)}. Nothing was discarded") from error

    def _damage(self, layout: Layout, tile: int, stored: Mapping[str, set[int]]) -> str:
        """The first damaged chunk of a tile, or nothing. zarr reads a missing chunk as fill values, so look first."""
        for name in [*self.names, DONE]:
            if tile not in stored.get(name, {tile}):
                block = "/".join(str(int(b)) for b in np.unravel_index(tile, layout.blocks))
                return f"{name}/c/{block} (missing)"
            try:
                part = self._part(layout, name, tile)
            except Damage as damage:
                return str(damage)
        with readable(self.path):
            return self._misplaced(layout, tile, part)  # the last part is the mask


def _decodes(file: Path, array: Any) -> bool:
    """Whether a chunk is whole: read and decoded without zarr, whose errors do not tell damage from bad luck."""
    import numcodecs

    with readable(file):
        if not mode_of(file):
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
        create(path, plan, layout, meta)
    store = RunStore(path)
    differences = plan_differences(store.plan, plan)
    if differences:
        raise PlanMismatch(path, differences)
    store.repair_coordinates(layout.grid)
    sweep_up(path, [*store.names, DONE, *layout.grid.names])
    return store


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
    if mode_of(path):
        raise StoreError(f"{path} exists already; choose another path or delete it first")
    native = {n: v.astype(v.dtype.newbyteorder("="), copy=False) for n, v in landscape.values.items()}
    outputs = {n: (v.shape[landscape.grid.ndim :], v.dtype) for n, v in native.items()}
    layout = Layout(landscape.grid, outputs, row_tile(landscape.grid.shape, 2**18))
    stated = {name: bound for name, bound in landscape.error.items() if bound is not None}
    check_storable(outputs, landscape.grid.names)
    with being_built(path) as folder:
        fill(folder, {"saved": True}, layout, {**landscape.meta, **({"error": stated} if stated else {})})
        store = RunStore(folder)
        for name, value in native.items():
            store._arrays[name][...] = value if landscape.predicts(name) else _masked(value, landscape.computed)
        store._arrays[DONE][...] = landscape.computed
        for tile, name in itertools.product(range(layout.num_tiles), native):
            store._mark_place(layout, name, tile, landscape.computed[layout.region(tile)])
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
        mode = mode_of(path)
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
