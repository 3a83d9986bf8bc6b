"""The engine: `sweep` evaluates a point function on every point of a grid.

This is the one place that compiles, loops, distributes, saves and resumes. The host loop goes over tiles, blocks of
the grid in C order; `_batching` evaluates a tile on the devices; `store` keeps finished tiles. The answer does not
depend on tiles, devices, order, sharding or resuming.

>>> import jax.numpy as jnp
>>> from landscape import Grid, sweep
>>> bowl = sweep(lambda c: {"loss": c[0] ** 2 + 3.0 * c[1] ** 2}, Grid.square(1.0, 5))
>>> float(bowl["loss"][0, 2]), float(bowl["loss"][2, 0])      # the first index is the first axis
(1.0, 3.0)
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from landscape import __version__, _tree
from landscape._batching import Timing, capacity, coords_dtype, output_shapes
from landscape._fingerprint import fingerprint
from landscape._layout import Layout, row_tile
from landscape._progress import Interrupted, Progress, interruptible
from landscape._runners import Batch, Local, Remote, Runner
from landscape.grid import Grid, Landscape
from landscape.store import PlanMismatch, RunStore, is_run, open_run

TILE_SECONDS = 1.0
MAX_TILES = 4096

Devices = int | Sequence[jax.Device] | None


@dataclass(frozen=True)
class Plan:
    """What a sweep will do, from one timed tile: see `plan`."""

    points: int
    width: int
    tile: tuple[int, ...]
    num_tiles: int
    seconds: float
    compile_seconds: float
    memory_bytes: int
    disk_bytes: int
    devices: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"points    {self.points:,} in {self.num_tiles} tiles of {'x'.join(map(str, self.tile))}, "
            f"{self.width} at a time\n"
            f"devices   {', '.join(self.devices)}\n"
            f"memory    {self.memory_bytes / 2**20:,.0f} MiB for temporaries\n"
            f"disk      at most {self.disk_bytes / 2**20:,.1f} MiB\n"
            f"time      about {self.seconds:,.1f} s and {self.compile_seconds:.1f} s to compile"
        )


def sweep(
    fn: Callable[..., Any],
    grid: Grid,
    *,
    batch: Batch = "auto",
    devices: Devices = None,
    store: str | os.PathLike[str] | None = None,
    executor: concurrent.futures.Executor | None = None,
    shard: tuple[int, int] | None = None,
    max_memory: int | None = None,
    progress: bool | Literal["auto"] = "auto",
) -> Landscape:
    """Evaluate `fn` at every point of `grid`.

    Args:
        fn: a point function, `fn(coords) -> {name: array}` with `coords` of shape `(grid.ndim,)`; a bare array is
            called `value`. Best a callable pytree such as `LossSurface`, whose arrays are arguments of the
            compiled program. What a plain function closes over is compiled into it, and the rule of `jax.jit`
            holds: a function is traced once, so variables and arrays that it closes over must not change after.
        grid: where to evaluate.
        batch: points evaluated at a time. `"auto"` times several widths on `fn` itself; 1 is `lax.map`, `n` is
            `vmap` over `n` points. The answer is the same to rounding, and to the bit for the same width.
        devices: how many of, or which, local devices share the points; all of them by default.
        store: directory of a zarr run. Finished tiles are kept there as they come; the same call resumes after
            whatever stopped it.
        executor: any `concurrent.futures.Executor` whose workers run the tiles; this process only stores them.
        shard: `(i, n)`: compute only every `n`-th tile, from the `i`-th, for jobs that share one `store`.
        max_memory: bytes that the temporaries of one device may take: a quarter of a CPU's memory, half of a
            GPU's by default.
        progress: a bar on a terminal and a line every 30 s elsewhere (`"auto"`), always a bar, or nothing.

    Returns:
        The landscape. Points left to other shards are marked in `computed`.

    Raises:
        TypeError: `fn` is not callable, returns something that is not arrays, or has parameters that are not
            real floating-point arrays.
        ValueError: an unusable grid (empty, or finer than the precision of its coordinates or parameters) or option.
        PlanMismatch: `store` holds another run; the message lists what differs.
        StoreError: `store` cannot be read or written.
        Interrupted: Ctrl-C; the tile under way was stored first.
    """
    _check_options(batch, store, shard, max_memory)
    if executor is not None and devices is not None:
        raise ValueError("executor= computes on its workers' own devices; leave devices= away")
    fn = _prepare(fn, grid)
    runner = Local(fn, grid, _resolve_devices(devices)) if executor is None else Remote(fn, grid, executor)
    job = _Job.begin(fn, grid, runner, batch, max_memory, store)
    return job.run(runner, shard, progress)


def plan(
    fn: Callable[..., Any],
    grid: Grid,
    *,
    batch: Batch = "auto",
    devices: Devices = None,
    max_memory: int | None = None,
) -> Plan:
    """What `sweep` with the same arguments would do, estimated from a timed step; nothing is written."""
    _check_options(batch, None, None, max_memory)
    fn = _prepare(fn, grid)
    chosen = _resolve_devices(devices)
    timing = Local(fn, grid, chosen).timing(batch, max_memory)
    layout = _layout(fn, grid, timing)
    row = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.outputs.values()) + 1
    return Plan(
        points=grid.size,
        width=timing.width,
        tile=layout.tile,
        num_tiles=layout.num_tiles,
        seconds=timing.seconds * grid.size,
        compile_seconds=timing.compile_seconds,
        memory_bytes=timing.temp_bytes,
        disk_bytes=row * grid.size,
        devices=tuple(str(d) for d in chosen),
    )


# ---------------------------------------------------------------------------------------------------------- checks


def _check_options(batch: Any, store: Any, shard: Any, max_memory: Any) -> None:
    if batch != "auto" and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be 'auto' or a positive number of points, got {batch!r}")
    if max_memory is not None and max_memory <= 0:
        raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory!r}")
    if shard is not None:
        if not (len(shard) == 2 and all(isinstance(i, int) for i in shard) and 0 <= shard[0] < shard[1]):
            raise ValueError(f"shard=(i, n) needs whole numbers 0 <= i < n, got {shard}")
        if store is None:
            raise ValueError("shard= needs store=: the shards meet in one store")


def _prepare(fn: Any, grid: Grid) -> Any:
    """Check everything that can be checked before compiling; return the function as a pytree."""
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a landscape.Grid, got {type(grid).__name__}")
    if not callable(fn):
        raise TypeError(f"fn must be callable as fn(coords), got {type(fn).__name__}")
    grid.check()
    _check_precision(grid)
    check = getattr(fn, "check_grid", None)
    if check is not None:
        check(grid)
    fn = jax.tree_util.tree_map_with_path(_static_function, fn)
    _check_outputs(fn, grid)
    return fn


def _static_function(path: Any, leaf: Any) -> Any:
    """Functions among the leaves become part of the program; everything else must be an array or a number."""
    if callable(leaf) and not hasattr(leaf, "dtype"):
        return jax.tree_util.Partial(leaf)
    if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float | complex):
        raise TypeError(
            f"the point function holds {_tree.describe(leaf)} at {_tree.key_name(path)}, which is neither an array nor "
            "a function; make it a static field"
        )
    return leaf


def _check_precision(grid: Grid) -> None:
    dtype = coords_dtype()
    for axis in grid.axes:
        distinct = len(np.unique(axis.values.astype(dtype)))
        if distinct < len(axis):
            raise ValueError(
                f"the grid is finer than {dtype} resolves: the {len(axis)} coordinates of {axis.name!r} in "
                f"[{axis.values[0]:.9g}, {axis.values[-1]:.9g}] collapse to {distinct}; use float64 "
                "(jax.config.update('jax_enable_x64', True)), centre the coordinates on 0, or take fewer points"
            )


def _check_outputs(fn: Any, grid: Grid) -> None:
    outputs = output_shapes(fn, grid.ndim)
    if not outputs:
        raise ValueError("fn returned an empty dict: there is nothing to map")
    for name, shape in outputs.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of outputs must be strings, got {name!r}")
        if jnp.issubdtype(shape.dtype, jax.dtypes.extended) or 0 in shape.shape:
            raise TypeError(f"the output {name!r} must hold numbers at every point, got {_tree.describe(shape)}")
    grid.check_outputs(outputs)


def _resolve_devices(devices: Devices) -> tuple[jax.Device, ...]:
    local = jax.local_devices()
    if devices is None:
        return tuple(local)
    if isinstance(devices, int):
        if isinstance(devices, bool) or not 1 <= devices <= len(local):
            raise ValueError(f"devices={devices}, but there are {len(local)} local devices: {local}")
        return tuple(local[:devices])
    if not devices:
        raise ValueError("devices is empty; give jax devices, a number of them, or None for all")
    return tuple(devices)


# ------------------------------------------------------------------------------------------------------------- job


@dataclass(frozen=True, eq=False)
class _Job:
    """One sweep: its tiles, the width they are computed with, and where finished ones go."""

    layout: Layout
    width: int
    store: RunStore | None
    plan: dict[str, Any]

    @classmethod
    def begin(cls, fn: Any, grid: Grid, runner: "Runner", batch: Batch, max_memory: int | None, path: Any) -> "_Job":
        """Plan the tiles, or take the plan over from the store that is to be resumed."""
        if path is None:
            timing = runner.timing(batch, max_memory)
            return cls(_layout(fn, grid, timing), timing.width, None, _batching(timing.width))
        what = fingerprint(fn, grid)
        if is_run(path):
            width = _stored_width(path) if batch == "auto" else batch
            store = open_run(path, what | _batching(width), _layout(fn, grid, Timing(width, 1.0)), _first_meta())
        else:
            timing = runner.timing(batch, max_memory)
            store = _create_or_join(path, what | _batching(timing.width), _layout(fn, grid, timing), batch)
        layout = dataclasses.replace(store.layout, grid=grid)
        return cls(layout, store.plan["batching"]["width"], store, store.plan)

    def run(self, runner: "Runner", shard: tuple[int, int] | None, show: Any) -> Landscape:
        """Compute the tiles that are missing and return everything that is known."""
        keep = _InMemory(self.layout) if self.store is None else _InStore(self.store, self.layout)
        index, count = shard or (0, 1)
        mine = range(index, self.layout.num_tiles, count)
        finished = keep.finished(set(mine))
        todo = [tile for tile in mine if tile not in finished]
        progress = Progress(
            sum(map(self.layout.size, mine)), sum(map(self.layout.size, finished.intersection(mine))), show
        )
        start = time.perf_counter()
        tiles = runner.tiles(self.layout, self.width, todo, progress.say)
        with contextlib.closing(progress), contextlib.closing(tiles), keep.interruptible() as stop:
            for number, (tile, values) in enumerate(tiles, 1):
                keep.write(tile, values)
                progress.advance(self.layout.size(tile))
                if stop.is_set() and number < len(todo):
                    raise Interrupted(f"stopped after {number} tiles; the same call resumes {keep.where}")
        call = {
            "evaluations": sum(map(self.layout.size, todo)),
            "seconds": round(time.perf_counter() - start, 3),
        }
        landscape = keep.landscape({"plan": self.plan, "provenance": _provenance()}, call | {"devices": runner.names})
        if stop.is_set():
            raise Interrupted(f"finished and stored; the same call reads it {keep.where}")
        return landscape


class _InMemory:
    """Keeps tiles in the arrays of the result."""

    where = "from the start, since no store was given"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.values, self.computed = layout.empty()

    def finished(self, mine: set[int]) -> set[int]:
        return set()

    def interruptible(self) -> contextlib.AbstractContextManager[threading.Event]:
        return contextlib.nullcontext(threading.Event())

    def write(self, tile: int, values: Mapping[str, np.ndarray]) -> None:
        region, shape = self.layout.region(tile), self.layout.shape(tile)
        for name, value in values.items():
            self.values[name][region] = value.reshape(shape + value.shape[1:])
        self.computed[region] = True

    def landscape(self, meta: dict[str, Any], call: dict[str, Any]) -> Landscape:
        meta["calls"] = [call]
        return Landscape(self.layout.grid, self.values, self.computed, dict.fromkeys(self.values), meta)


class _InStore:
    """Keeps tiles in a run store; damaged ones count as missing."""

    def __init__(self, store: RunStore, layout: Layout) -> None:
        self.store, self.layout = store, layout
        self.where = f"from {store.path}"

    def finished(self, mine: set[int]) -> set[int]:
        for tile in mine.intersection(self.store.damaged(self.layout)):
            warnings.warn(f"tile {tile} of {self.store.path} is damaged and is computed again", stacklevel=4)
            self.store.discard(self.layout, tile)
        return self.store.finished()

    def interruptible(self) -> contextlib.AbstractContextManager[threading.Event]:
        return interruptible()

    def write(self, tile: int, values: Mapping[str, np.ndarray]) -> None:
        self.store.write(self.layout, tile, values)

    def landscape(self, meta: dict[str, Any], call: dict[str, Any]) -> Landscape:
        if call["evaluations"]:
            self.store.update_meta(lambda earlier: earlier | meta | {"calls": [*earlier.get("calls", []), call]})
        return dataclasses.replace(self.store.read(), grid=self.layout.grid)


def _layout(fn: Any, grid: Grid, timing: Timing) -> Layout:
    """Tiles of about a second, so that little is lost when a run is killed, but not too many files."""
    outputs = {name: (tuple(s.shape), np.dtype(s.dtype)) for name, s in output_shapes(fn, grid.ndim).items()}
    wanted = max(TILE_SECONDS / max(timing.seconds, 1e-9), grid.size / MAX_TILES, timing.width)
    target = int(min(wanted, capacity(fn, grid.ndim)))
    return Layout(grid, outputs, row_tile(grid.shape, target, timing.width))


def _batching(width: int) -> dict[str, Any]:
    return {"batching": {"width": width}}


def _stored_width(path: Any) -> int:
    return RunStore(Path(path)).plan.get("batching", {}).get("width", 1)


def _create_or_join(path: Any, plan: dict[str, Any], layout: Layout, batch: Batch) -> RunStore:
    """Create the store; where another process was first and tuned to another width, take over its choice."""
    try:
        return open_run(path, plan, layout, _first_meta())
    except PlanMismatch as mismatch:
        if batch != "auto" or mismatch.differences.keys() != {"batching.width"}:
            raise
        return RunStore(Path(path))


def _first_meta() -> dict[str, Any]:
    return {"provenance": _provenance(), "calls": []}


def _provenance() -> dict[str, Any]:
    return {
        "landscape": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "precision": str(coords_dtype()),
        "matmul_precision": "highest",
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
