"""The run store: a zarr v3 directory that holds a landscape while it is computed and after.

Layout of `run.zarr`: one array per output and one per axis, with dimension names, so
`xarray.open_zarr(path, consolidated=False)` reads it without this package. A chunk is a tile. `computed` is
written last of each tile: its chunk is the commit mark, and finished tiles are found by listing those keys. Every
file appears by an atomic rename, so a process may be killed at any moment. While a sweep at a tolerance is under way,
`run.zarr/evaluations` is a run store of its own with the points evaluated so far; the map is written at the end.
"""

import contextlib
import errno
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape._layout import Layout, check_storable, fill_value, row_tile
from landscape.grid import Axis, Grid, Landscape, dims

FORMAT = 1
DONE = "computed"
JOURNAL = "evaluations"
INDEX = "grid_index"  # in the journal: the C-order index of each evaluated point, -1 in the padding of a tile
STALE_SECONDS = 3600.0
LOCK_SECONDS = 60.0
SLAB_BYTES = 2**20


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


class RunStore:
    """Reads and writes one run directory. Make one with `open_run`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, Any] = {}
        with _readable(path):
            self._group = _zarr().open_group(path, mode="r+" if os.access(path, os.W_OK) else "r")
            record: Any = self._group.attrs.asdict().get("landscape")
        if record is None:
            raise StoreError(f"{path} is a zarr group, but not one of a landscape")
        missing = {"format", "plan", "tile", "outputs", "axes"} - record.keys()
        if missing:
            raise StoreError(f"{path} has an incomplete record: {', '.join(sorted(missing))} missing from zarr.json")
        if record["format"] != FORMAT:
            raise StoreError(f"{path} has format {record['format']}, this version reads {FORMAT}")
        self.plan: dict[str, Any] = record["plan"]
        self.tile = tuple(record["tile"])
        self.names: list[str] = record["outputs"]
        self._axes: list[dict[str, Any]] = record["axes"]

    @property
    def layout(self) -> Layout:
        """The layout that the stored arrays have."""
        with _readable(self.path):
            axes = tuple(Axis(a["name"], self._array(a["name"])[:], a["label"]) for a in self._axes)
        grid = Grid(axes)
        outputs = {n: (self._array(n).shape[grid.ndim :], self._array(n).dtype) for n in self.names}
        return Layout(grid, outputs, self.tile)

    @property
    def meta(self) -> dict[str, Any]:
        """The meta entries stored so far."""
        return decode(self._group.attrs.asdict().get("meta", {}))

    def update_meta(self, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        """Replace the meta entries by a function of those on disk now; one process at a time."""
        with _writable(self.path), _locked(self.path / "meta.lock.partial"):
            self._group = _zarr().open_group(self.path, mode="r+")
            self._group.attrs["meta"] = encode(change(self.meta))

    def finished(self) -> set[int]:
        """Tiles whose commit mark is there."""
        return self._stored_tiles(DONE)

    def _stored_tiles(self, name: str) -> set[int]:
        """Tiles of which this array has a chunk; what each point holds is one chunk, so its index is dropped."""
        root, blocks = self.path / name / "c", self.layout.blocks
        keys = (p.relative_to(root).parts for p in root.rglob("*") if p.is_file() and p.name.isdigit())
        return {int(np.ravel_multi_index([int(k) for k in key[: len(blocks)]], blocks)) for key in keys}

    def write(
        self, layout: Layout, tile: int, values: Mapping[str, np.ndarray], computed: np.ndarray | None = None
    ) -> None:
        """Store the values of a tile, then its commit mark: which of its points were computed, all by default."""
        region, shape = layout.region(tile), layout.shape(tile)
        with _writable(self.path), _zarr().config.set({"array.write_empty_chunks": True}):
            for name, value in values.items():
                self._array(name)[region] = value.reshape(shape + value.shape[1:])
            self._array(DONE)[region] = np.ones(shape, dtype=bool) if computed is None else computed.reshape(shape)

    def read_tile(self, layout: Layout, tile: int) -> dict[str, np.ndarray]:
        """The values of a finished tile, points on the leading axis."""
        size, lead = layout.size(tile), layout.grid.ndim
        with _readable(self.path):
            parts = {name: self._array(name)[layout.region(tile)] for name in self.names}
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
            StoreError: a chunk is damaged; the message says which.
        """
        layout = self.layout
        finished = self.finished()
        if len(finished) < layout.num_tiles and self._has_journal():
            return self._read_journal(layout)
        try:
            if any(finished - self._stored_tiles(name) for name in self.names):
                raise LookupError("a finished tile lacks a chunk")
            computed = self._read_whole(DONE)  # before the values: a process beside this one may add tiles
            values = {name: self._read_whole(name) for name in self.names}
        except Exception as error:
            damage = self.damaged(layout)
            if damage:
                raise StoreError(
                    f"{self.path} has damaged chunks: {'; '.join(damage.values())}. The other tiles are intact: run "
                    "the sweep again with this store, and the damaged ones are computed anew"
                ) from error
            values, computed = self._read_tiles(layout, finished)
        committed = np.zeros(layout.grid.shape, dtype=bool)
        for tile in finished:
            committed[layout.region(tile)] = True
        filled = {name: _masked(value, committed) for name, value in values.items()}
        meta = self.meta
        error = dict.fromkeys(self.names) | meta.pop("error", {})
        return Landscape(layout.grid, filled, computed & committed, error, meta)

    def _has_journal(self) -> bool:
        """Whether this is a sweep at a tolerance that is not over; an output may have the journal's name."""
        return JOURNAL not in self.names and is_run(self.path / JOURNAL)

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
        for region in map(layout.region, finished):
            for name in self.names:
                values[name][region] = self._array(name)[region]
            computed[region] = True
        return values, computed

    def _read_whole(self, name: str) -> np.ndarray:
        """An array, slab by slab, so that little more memory is used than it takes itself."""
        stored = self._array(name)
        whole = np.empty(stored.shape, stored.dtype)
        row = max(1, whole.nbytes // max(1, len(whole)))
        rows = max(1, SLAB_BYTES // (row * self.tile[0])) * self.tile[0]
        for start in range(0, len(whole), rows):
            whole[start : start + rows] = stored[start : start + rows]
        return whole

    def _array(self, name: str) -> Any:
        """The zarr array of that name, opened once."""
        if name not in self._arrays:
            with _zarr().config.set({"array.write_empty_chunks": True}):
                self._arrays[name] = self._open(name)
        return self._arrays[name]

    def _open(self, name: str) -> Any:
        try:
            return self._group[name]
        except KeyError:
            raise StoreError(f"{self.path} lacks its array {name!r}: the store is incomplete; delete it") from None

    def _damage(self, layout: Layout, tile: int, stored: Mapping[str, set[int]]) -> str:
        """The first damaged chunk of a tile, or nothing. zarr reads a missing chunk as fill values, so look first."""
        block = "/".join(str(int(b)) for b in np.unravel_index(tile, layout.blocks))
        for name in [*self.names, DONE]:
            if tile not in stored.get(name, {tile}):
                return f"{name}/c/{block} (missing)"
            try:
                self._array(name)[layout.region(tile)]
            except Exception as error:
                return f"{name}/c/{block} ({error})"
        return ""


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
    path = Path(path)
    check_place(path)
    if not is_run(path):
        _create(path, plan, layout, meta)
    store = RunStore(path)
    differences = plan_differences(store.plan, plan)
    if differences:
        raise PlanMismatch(path, differences)
    _sweep_up(path)
    return store


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise `StoreError` unless a run is there or can be made there; makes the parent folder."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"store must be a path, got {type(path).__name__} {path!r}")
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise StoreError(f"the store {path} is a file; give a directory (it will be created), for example {path}.zarr")
    if is_run(path):
        return
    if path.is_dir() and any(path.iterdir()):
        raise StoreError(f"{path} is a directory with other contents; give an empty or a new one")
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f"{path.name}.{uuid.uuid4().hex}.partial"
        probe.mkdir()
        probe.rmdir()


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a run store is there."""
    return (Path(path) / "zarr.json").is_file()


def plan_differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`{field: (stored, requested)}` of the fields that differ, nested ones joined by dots."""
    old, new = flatten(stored), flatten(json.loads(json.dumps(encode(requested))))
    return {k: (old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one level, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def save(landscape: Landscape, path: str | os.PathLike[str]) -> None:
    """Write a landscape to a zarr directory that `load`, the command line and xarray read.

    Raises:
        StoreError: something is there already, or the path cannot be written.
    """
    landscape.grid.check_outputs(landscape.values)
    path = Path(path)
    if path.exists():
        raise StoreError(f"{path} exists already; choose another path or delete it first")
    outputs = {n: (v.shape[landscape.grid.ndim :], v.dtype) for n, v in landscape.values.items()}
    layout = Layout(landscape.grid, outputs, row_tile(landscape.grid.shape, 2**18))
    stated = {name: bound for name, bound in landscape.error.items() if bound is not None}
    _create(path, {"saved": True}, layout, {**landscape.meta, **({"error": stated} if stated else {})})
    store = RunStore(path)
    with _writable(path), _zarr().config.set({"array.write_empty_chunks": True}):
        for name, value in landscape.values.items():
            store._array(name)[...] = value if landscape.predicts(name) else _masked(value, landscape.computed)
        store._array(DONE)[...] = landscape.computed


def load(path: str | os.PathLike[str]) -> Landscape:
    """Read the landscape in a run directory, finished or not.

    Raises:
        StoreError: nothing is there, it is not a run store, or a chunk is damaged.
    """
    path = Path(path)
    if not is_run(path):
        found = "a file" if path.is_file() else "a directory without zarr.json" if path.is_dir() else "nothing"
        raise StoreError(f"no landscape at {path}: found {found}; give the .zarr directory that a sweep wrote")
    with _readable(path):
        kind = json.loads((path / "zarr.json").read_text()).get("node_type")
    if kind == "array":
        raise StoreError(f"{path} is one array of a run; give the run's own directory, {path.parent}")
    return RunStore(path).read()


def annotate(path: str | os.PathLike[str], **entries: Any) -> None:
    """Add entries to the meta of a stored run, for example `paths` that the plots draw over it.

    Args:
        path: the run's directory.
        entries: plain data or arrays; entries of the same name are replaced.
    """
    RunStore(Path(path)).update_meta(lambda earlier: earlier | entries)


def _create(path: Path, plan: Mapping[str, Any], layout: Layout, meta: Mapping[str, Any]) -> None:
    """Write all metadata and coordinates next to `path`, then rename: the store appears whole or not at all."""
    building = path.parent / f"{path.name}.{uuid.uuid4().hex}.partial"
    try:
        with _writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _fill(building, plan, layout, meta)
            _rename_unless_made(building, path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _rename_unless_made(building: Path, path: Path) -> None:
    """Rename a directory into place; another process may have been first, and then its store counts."""
    try:
        building.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_run(path):
            raise


def _fill(path: Path, plan: Mapping[str, Any], layout: Layout, meta: Mapping[str, Any]) -> None:
    check_storable(layout.outputs)
    grid = layout.grid
    axes = [{"name": a.name, "label": a.label} for a in grid.axes]
    record = {
        "format": FORMAT,
        "plan": encode(plan),
        "tile": layout.tile,
        "outputs": [*layout.outputs],
        "axes": axes,
    }
    attributes = {"landscape": record, "meta": encode(meta)}
    group = _zarr().open_group(path, mode="w", attributes=attributes)
    for axis in grid.axes:
        coordinate = group.create_array(
            axis.name,
            shape=(len(axis),),
            dtype="float64",
            dimension_names=(axis.name,),
            attributes={"long_name": axis.text},
        )
        coordinate[:] = axis.values
    for name, (shape, dtype) in {**layout.outputs, DONE: ((), np.dtype(bool))}.items():
        group.create_array(
            name,
            shape=grid.shape + shape,
            chunks=layout.tile + tuple(max(1, n) for n in shape),
            dtype=dtype,
            fill_value=fill_value(dtype),
            dimension_names=dims(grid, name, grid.ndim + len(shape)),
            compressors=[_zstd()],
        )


def _zarr() -> Any:
    import zarr

    return zarr


def _zstd() -> Any:
    """Compression that stores a checksum, so a damaged chunk is noticed."""
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=1, checksum=True)


def _sweep_up(path: Path) -> None:
    """Delete what killed writers left behind more than an hour ago."""
    for leftover in [*path.rglob("*.partial"), *path.parent.glob(f"{glob.escape(path.name)}.*.partial")]:
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextlib.contextmanager
def _writable(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        read_only = "read-only" in str(error)  # zarr's own ValueError
        if isinstance(error, StoreError) or not (isinstance(error, OSError) or read_only):
            raise
        code = error.errno if isinstance(error, OSError) else errno.EROFS
        why = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EACCES: "permission denied; choose a folder that you may write to",
            errno.EPERM: "not permitted; choose a folder that you may write to",
            errno.EROFS: "the file system is read-only; choose another folder",
        }.get(code or 0, str(getattr(error, "strerror", None) or error))
        safe = ". Finished tiles are safe: the same call with this store resumes after them" if is_run(path) else ""
        raise StoreError(f"cannot write to {path}: {why}{safe}") from error


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
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot read the run store {path}: {error}") from error


def encode(value: Any) -> Any:
    """Plain JSON data: arrays become lists, floats that JSON lacks become `{"float": "nan"}`."""
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if hasattr(value, "tolist"):
        return encode(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def decode(value: Any) -> Any:
    """The inverse of `encode`, as far as JSON keeps types."""
    if isinstance(value, dict):
        return float(value["float"]) if value.keys() == {"float"} else {k: decode(v) for k, v in value.items()}
    return [decode(v) for v in value] if isinstance(value, list) else value
