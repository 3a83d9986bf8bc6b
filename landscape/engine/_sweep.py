"""The public entry: `sweep` and `plan`, their checks and options."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from landscape import _tree
from landscape.adaptive import Labels, Smooth, drivers
from landscape.checks import warn
from landscape.engine import _at_tolerance, _every_point, _job
from landscape.engine._kernel import MAX_WIDTH, Strategy, last_line
from landscape.engine._runners import Batch, Local, Remote, Runner
from landscape.engine._streams import Streamed
from landscape.grid import Grid, Landscape
from landscape.objective import batches_in, filled
from landscape.placement import by_compiler, mesh_of
from landscape.point import Prepared, check_precision, coords_dtype, matmul_precision, prepare, refusal

MAX_BATCH = 16 * MAX_WIDTH  # points at a time that may be asked for, or all points of the grid if those are more

Devices = int | Sequence[jax.Device] | None
Tolerance = float | Mapping[str, float | Smooth | Labels] | None


@dataclass(frozen=True)
class Plan:
    """What a sweep will do, from one timed tile: see `plan`."""

    points: int
    strategy: Strategy
    tile: tuple[int, ...]
    num_tiles: int
    seconds: float
    compile_seconds: float
    memory_bytes: int
    disk_bytes: int
    devices: tuple[str, ...]
    threads: int = 1

    def __str__(self) -> str:
        return (
            f"points    {self.points:,} in {self.num_tiles} tiles of {'x'.join(map(str, self.tile))}, "
            f"{self.strategy.width} at a time{', hoisted' if self.strategy.hoist else ''}\n"
            f"devices   {', '.join(self.devices)}{f', {self.threads} threads' if self.threads > 1 else ''}\n"
            f"memory    {self.memory_bytes / 2**20:,.0f} MiB for temporaries\n"
            f"disk      at most {self.disk_bytes / 2**20:,.1f} MiB\n"
            f"time      about {self.seconds:,.1f} s and {self.compile_seconds:.1f} s to compile"
        )


def sweep(
    fn: Callable[..., Any],
    grid: Grid,
    *,
    tolerance: Tolerance = None,
    batch: Batch = "auto",
    devices: Devices = None,
    store: str | os.PathLike[str] | None = None,
    executor: concurrent.futures.Executor | None = None,
    shard: tuple[int, int] | None = None,
    max_memory: int | None = None,
    precision: str | None = None,
    progress: bool | Literal["auto"] = "auto",
) -> Landscape:
    """Evaluate `fn` at every point of `grid`.

    Args:
        fn: a point function, `fn(coords) -> {name: array}` with `coords` of shape `(grid.ndim,)`; a bare array is
            called `value`. Best a callable pytree such as `LossSurface`, whose arrays are arguments of the
            compiled program. What a plain function closes over is compiled into it, and the rule of `jax.jit`
            holds: a function is traced once, so variables and arrays that it closes over must not change after.
        grid: where to evaluate.
        tolerance: evaluate only as many points as it takes to know the others to this tolerance; by default, every
            point. A number is a share of the range of values and applies to the outputs that `fn.refined` names (the
            losses of a `LossSurface`), or to every output of one floating number a point but those that look piecewise
            constant; `{name: tolerance}` chooses outputs, among them integer labels, which are refined where they
            change; `adaptive.Smooth` and `adaptive.Labels` say more (absolute tolerances, a logarithm first). Predicted
            points are not marked in `computed`; outputs that take no part are known only where it is set, as the
            landscape's `repr` says. A warning says which were left out, that a tolerance is below rounding, and why
            most points had to be evaluated. What is promised is in `error` and in `Landscape.promise`; `adaptive` says
            how to read it.
        batch: points evaluated at a time. `"auto"` times several strategies on `fn` itself, and stays with 1 where it
            cannot be vmapped; 1 is `lax.map`, `n` is `vmap` over `n` points, `Strategy(n, hoist=True)` is
            `affine.affine_vmap`. The answer is the same to rounding, and to the bit for the same strategy.
        devices: how many of, or which, local devices share the points; all of them by default. Parameters that come
            divided over a mesh (`NamedSharding`) stay so: its devices evaluate a point together, and as many more
            groups of that size as there are devices left take other points. A single CPU device is given points from as
            many threads as this process may use cores, or from one where that is faster; `taskset` limits them.
        store: directory of a zarr run. Finished tiles are kept there as they come; the same call resumes after
            whatever stopped it.
        executor: any `concurrent.futures.Executor` whose workers run the tiles; this process only stores them.
        shard: `(i, n)`: compute only every `n`-th tile, from the `i`-th, for jobs that share one `store`. Not with
            `tolerance`, where each round depends on the one before: use `executor`.
        max_memory: bytes that the temporaries of one device may take. By default half of a GPU's memory, or a quarter
            of the machine's, which the devices of a CPU share. A `batch` that was given is narrowed to fit into what is
            given here, or once the device is really out of memory; `store` knows the run by the `batch` asked for.
        precision: of matrix products inside `fn`, by JAX's names: `"highest"`, or what an accelerator does faster and
            less exactly (`"high"`, `"default"`, `"bfloat16"`, ..). By default that of `jax.default_matmul_precision`
            where you have set it, else `"highest"`. It is part of the plan. CPUs know no lower one.
        progress: a bar on a terminal and a line every 30 s elsewhere (`"auto"`), always a bar, or nothing.

    Returns:
        The landscape. Points left to other shards are marked in `computed`.

    Raises:
        TypeError: `fn` does not take one argument, returns something that is no array and no dict of arrays, or has
            parameters that are not real floating-point arrays; an option of the wrong kind.
        ValueError: an unusable grid (empty, or finer than the precision of its coordinates or parameters) or option; a
            `batch` above 1 of what cannot be vmapped; a global array of which other processes hold some.
        PlanMismatch: `store` holds another run; the message lists what differs.
        StoreError: `store` cannot be read or written.
        Interrupted: Ctrl-C; the tile under way was stored first. The second Ctrl-C, and any without a store, is a
            KeyboardInterrupt at once, though XLA goes on with what it has begun until that or the process ends.
    """
    batch = _checked_batch(batch)
    _check_options(store, shard, max_memory, progress)
    if executor is not None and devices is not None:
        raise ValueError("executor= computes on its workers' own devices; leave devices= away")
    if executor is not None and (isinstance(executor, type) or not callable(getattr(executor, "submit", None))):
        raise TypeError(
            "executor must be a concurrent.futures.Executor, such as ProcessPoolExecutor(8), "
            f"got {_tree.describe(executor)}"
        )
    if shard is not None and tolerance is not None:
        raise ValueError("shard= cannot divide a sweep with tolerance=: its rounds depend on each other; use executor=")
    check_precision(precision)
    with matmul_precision(precision):
        point = _prepare(fn, grid)
        _check_batch(point.fn, grid, batch)
        if shard is None and executor is None:
            _warn_of_repetition()
        driven = None if tolerance is None else _drivers(point, tolerance)
        if executor is None:
            runner: Runner = _local(point, grid, _resolve_devices(devices, point.fn))
        else:
            runner = _remote(point, grid, executor)
        task = _job.Task(point, grid, runner, batch, max_memory, store, progress)
        return _every_point.run(task, shard) if driven is None else _at_tolerance.run(task, driven)


def plan(
    fn: Callable[..., Any],
    grid: Grid,
    *,
    batch: Batch = "auto",
    devices: Devices = None,
    max_memory: int | None = None,
    precision: str | None = None,
) -> Plan:
    """What `sweep` with the same arguments would do, estimated from a timed step; nothing is written."""
    batch = _checked_batch(batch)
    _check_options(None, None, max_memory)
    check_precision(precision)
    with matmul_precision(precision):
        point = _prepare(fn, grid)
        _check_batch(point.fn, grid, batch)
        chosen = _resolve_devices(devices, point.fn)
        timing = _local(point, grid, chosen).timing(batch, max_memory, grid.size)
        layout = _job.layout_for(point, grid, timing)
    row = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.outputs.values()) + 1
    return Plan(
        points=grid.size,
        strategy=timing.strategy,
        tile=layout.tile,
        num_tiles=layout.num_tiles,
        seconds=timing.seconds * grid.size,
        compile_seconds=timing.compile_seconds,
        memory_bytes=timing.temp_bytes,
        disk_bytes=row * grid.size,
        devices=tuple(str(d) for d in chosen),
        threads=timing.threads,
    )


# ---------------------------------------------------------------------------------------------------------- checks


def _check_options(store: Any, shard: Any, max_memory: Any, progress: Any = "auto") -> None:
    if max_memory is not None:
        _tree.check_number("max_memory", max_memory)
        if not max_memory > 0:
            raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory!r}")
    if store is not None and not isinstance(store, str | os.PathLike):
        raise TypeError(f"store must be the path of a directory, got {_tree.describe(store)}")
    if shard is not None:
        _check_shard(shard)
        if store is None:
            raise ValueError("shard= needs store=: the shards meet in one store")
    if not isinstance(progress, bool | str):
        raise TypeError(f"progress must be 'auto', True or False, got {_tree.describe(progress)}")
    if progress not in (True, False, "auto"):
        raise ValueError(f"progress must be 'auto', True or False, got {progress!r}")


def _checked_batch(batch: Any) -> Batch:
    """The number of points at a time, an integer of Python."""
    if isinstance(batch, str):
        if batch != "auto":
            raise ValueError(f"batch must be 'auto', a positive number of points or a Strategy of one, got {batch!r}")
        return "auto"
    width, hoist = (batch.width, batch.hoist) if isinstance(batch, Strategy) else (batch, False)
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or not isinstance(hoist, bool):
        raise TypeError(f"batch must be 'auto', a number of points or a Strategy of one, got {_tree.describe(batch)}")
    if width < 1:
        raise ValueError(f"batch must be 'auto', a positive number of points or a Strategy of one, got {width}")
    if hoist and width == 1:
        raise ValueError("Strategy(hoist=True) shares work between the points of a step: give it a width above 1")
    return Strategy(int(width), hoist) if isinstance(batch, Strategy) else int(width)


def _check_shard(shard: Any) -> None:
    if not isinstance(shard, tuple | list) or len(shard) != 2:
        raise TypeError(f"shard must be a pair (i, n) of whole numbers, 0 <= i < n, got {_tree.describe(shard)}")
    for name, value in zip(("i", "n"), shard):
        _tree.check_count(f"{name} of shard=(i, n)", value)
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard=(i, n) needs whole numbers 0 <= i < n, got {shard}")


def _check_batch(fn: Any, grid: Grid, batch: Batch) -> None:
    """Refuse a step wider than anything there is to compute, and `vmap` of what cannot be vmapped."""
    width = batch.width if isinstance(batch, Strategy) else 1 if batch == "auto" else batch
    widest = max(MAX_BATCH, grid.size)
    if width > widest:
        raise ValueError(
            f"batch={width:,} points at a time are more than the {widest:,} that may be asked for on this grid of "
            f"{grid.size:,}, and a step computes them all; take fewer, or 'auto'"
        )
    error = refusal(fn, grid.ndim) if width > 1 else None
    if error is not None:
        raise ValueError(
            f"batch={width} evaluates points together by jax.vmap, which this function does not allow; pass batch=1 or "
            f"'auto', which take point after point, or give a jax.pure_callback its vmap_method=. {last_line(error)}"
        ) from error


def _prepare(fn: Any, grid: Grid) -> Prepared:
    """Check everything that can be checked before compiling."""
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a landscape.Grid, got {type(grid).__name__}")
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"fn must be callable as fn(coords), got {_tree.describe(fn)}")
    _tree.check_takes(fn, "fn", "coords", advice="; the coordinates come as one array, x, y = coords")
    grid.check()
    _check_precision(grid)
    _tree.check_whole(fn)
    fn = by_compiler(fn)
    check = getattr(fn, "check_grid", None)
    if check is not None:
        check(grid)
    spread = mesh_of(fn)
    if spread is None:
        _warn_of_copies(fn)
    fn = jax.tree_util.tree_map_with_path(partial(_usable_leaf, spread=spread is not None), fn)
    batches = batches_in(fn)
    if not batches:
        return prepare(fn, grid)
    if not hasattr(fn, "block_sums"):
        raise TypeError(
            "the point function holds Batches, which are read by a loop on the host: a LossSurface takes them, "
            "elsewhere the data have to be in memory"
        )
    sums, rest = fn.block_sums()
    return dataclasses.replace(prepare(filled(fn), grid), batches=batches, sums=sums, rest=rest)


def _local(point: Prepared, grid: Grid, devices: tuple[jax.Device, ...]) -> Local | Streamed:
    """What computes points in this process."""
    return Streamed(point.sums, point.rest, grid, devices) if point.sums else Local(point.fn, grid, devices)


def _remote(point: Prepared, grid: Grid, executor: concurrent.futures.Executor) -> Remote:
    if point.sums:
        raise ValueError(
            "executor= sends the data to its workers, which Batches are not; divide the tiles by shard=(i, n)"
        )
    return Remote(point.fn, grid, executor)


def _usable_leaf(path: Any, leaf: Any, spread: bool) -> Any:
    """Functions among the leaves become part of the program; everything else must be a number or an array.

    Arrays that are divided over one mesh stay so; others are copied to wherever points are evaluated.
    """
    if spread and isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
        return leaf
    if isinstance(leaf, jax.Array) or not getattr(leaf, "is_fully_addressable", True):
        return _whole_array(leaf)
    if _tree.is_function(leaf):
        return _tree.static_function(leaf)
    if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float | complex):
        raise TypeError(
            f"the point function holds {_tree.describe(leaf)} at {_tree.key_name(path)}, which is neither an array nor "
            "a function; make it a static field"
        )
    return leaf


def _whole_array(leaf: Any) -> Any:
    """An array on one device, from where the engine copies it to those that evaluate points."""
    if leaf.is_fully_replicated:
        return leaf.addressable_data(0) if len(leaf.sharding.device_set) > 1 else leaf
    # as a sharding: put on a plain device, it would keep a type that says how it was sharded
    return jax.device_put(leaf, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))


def _warn_of_copies(fn: Any) -> None:
    """Say so where arrays are spread over several meshes, because one device may be too small for them."""
    leaves = [leaf for leaf in jax.tree.leaves(fn) if isinstance(leaf, jax.Array)]
    spread = [leaf for leaf in leaves if leaf.is_fully_addressable and not leaf.is_fully_replicated]
    if spread:
        devices = max(len(leaf.sharding.device_set) for leaf in spread)
        warn(
            f"{len(spread)} arrays of the point function are sharded over {devices} devices, by no one NamedSharding "
            "mesh for all of them; a sweep copies them whole "
            f"to every device that evaluates points, {sum(leaf.nbytes for leaf in spread) / 2**20:,.1f} MiB on each"
        )


def _warn_of_repetition() -> None:
    """Say so where several processes are about to do the same."""
    if jax.process_count() > 1:
        warn(
            f"each of the {jax.process_count()} processes of jax.distributed computes all points of this sweep; divide "
            "them by shard=(jax.process_index(), jax.process_count()) with store=, or by executor="
        )


def _check_precision(grid: Grid) -> None:
    dtype = coords_dtype()
    for axis in grid.axes:
        with np.errstate(over="ignore", under="ignore"):
            rounded = axis.values.astype(dtype)
        lost = axis.values[~np.isfinite(rounded) | ((rounded == 0) & (axis.values != 0))]
        if lost.size:
            raise ValueError(
                f"the coordinate {lost[0]:.9g} of {axis.name!r} is beyond {dtype}, where it would be "
                f"{'0' if abs(lost[0]) < 1 else 'infinite'}: use float64 (jax.config.update('jax_enable_x64', True)), "
                "or another unit for the axis, such as its logarithm"
            )
        distinct = len(np.unique(rounded))
        if distinct < len(axis):
            raise ValueError(
                f"the grid is finer than {dtype} resolves: the {len(axis)} coordinates of {axis.name!r} in "
                f"[{axis.values[0]:.9g}, {axis.values[-1]:.9g}] collapse to {distinct}; use float64 "
                "(jax.config.update('jax_enable_x64', True)), centre the coordinates on 0, or take fewer points"
            )


def _drivers(point: Prepared, tolerance: Any) -> dict[str, Smooth | Labels]:
    return drivers(tolerance, point.types, getattr(point.fn, "refined", None))


def _resolve_devices(devices: Devices, fn: Any) -> tuple[jax.Device, ...]:
    """Where points are evaluated: among the devices over which the function is divided, and others."""
    chosen, mesh = _local_devices(devices), mesh_of(fn)
    needed = [] if mesh is None else list(mesh.devices.flat)
    missing = [device for device in needed if device not in chosen]
    if missing and devices is not None:
        raise ValueError(
            f"the arrays of the point function are divided over {len(needed)} devices, and devices= leaves out "
            f"{len(missing)} of them, {missing[0]} for one: name all of them, or leave devices= away"
        )
    return chosen


def _local_devices(devices: Devices) -> tuple[jax.Device, ...]:
    local = jax.local_devices()
    if devices is None:
        return tuple(local)
    if isinstance(devices, int | np.integer) and not isinstance(devices, bool):
        if not 1 <= devices <= len(local):
            raise ValueError(f"devices={devices}, but there are {len(local)} local devices: {local}")
        return tuple(local[:devices])
    if isinstance(devices, str) or not isinstance(devices, Sequence) or any(not _is_device(d) for d in devices):
        raise TypeError(
            f"devices must be a number of local devices or a list of them, as jax.local_devices('cpu') gives, "
            f"got {_tree.describe(devices)}"
        )
    if not devices:
        raise ValueError("devices is empty; give jax devices, a number of them, or None for all")
    if len({id(device) for device in devices}) < len(devices):
        raise ValueError(f"each device can be given once, got {list(devices)}")
    foreign = [device for device in devices if device not in local and device.process_index != jax.process_index()]
    if foreign:
        raise ValueError(f"devices must be those of this process, as jax.local_devices() lists them, got {foreign}")
    return tuple(devices)


def _is_device(value: Any) -> bool:
    return isinstance(value, jax.Device) or all(hasattr(value, name) for name in ("platform", "process_index"))
