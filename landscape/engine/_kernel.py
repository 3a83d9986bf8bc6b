"""What evaluates points: one compiled program for the steps of a sweep, on devices and, on a CPU, from threads.

A kernel is one jitted loop over *steps* of `width` points: width 1 evaluates point after point (`lax.map`), a
larger one `vmap`s the points of a step, plainly or *hoisted*: what is affine in the coordinates is then computed
once a step, in factored form (`affine`). The number of steps is a run-time value, so one compilation serves the
timing, every tile and the ragged last one. The user's function is traced once: the inner `jit` keeps its jaxpr
for all strategies.
"""

import atexit
import concurrent.futures
import dataclasses
import math
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from landscape import _tree
from landscape.affine import distribute, num_hoisted
from landscape.affine._lanes import lanewise
from landscape.placement import mesh_of
from landscape.point import coords_dtype, evaluate_point, matmul_precision, output_shapes

T = TypeVar("T")

MAX_WIDTH = 16**4
BUFFER_BYTES = 2**26  # output of one kernel call
ASSUMED_MEMORY = 2**33  # bytes of a machine that does not say how many it has
MIN_ROWS = 1024  # rows of the shortest buffer
ROW_STEP = 4  # ratio of neighbouring lengths: sweeps within this factor in size share a compiled program
EXIT_SECONDS = 10.0  # that a process which ends waits for calls under way; some never end
LOOK_SECONDS = 5e-3  # longest sleep between two looks at whether a call has ended
POINTS = "points of a sweep"  # the axis of a mesh along which devices take different points
BLOCKING = re.compile(r'custom_call_target="(?!TopK")|\bfft\(')  # in a compiled program
# XLA's own order makes all weights of a CPU's program first; this one makes each before it is used, and then frees it.
LEAN = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
_UNDER_WAY: set[concurrent.futures.Future[Any]] = set()  # compilations and calls
_ENDING = threading.Event()


@dataclass(frozen=True)
class Strategy:
    """How points go through one program.

    Attributes:
        width: points at a time; 1 is `lax.map`, more is `vmap`.
        hoist: whether the points of a step share the linear operations on values affine in the coordinates
            (`affine.affine_vmap`). Needs a width above 1.
    """

    width: int = 1
    hoist: bool = False


def _evaluate_steps(fn: Any, coords: jax.Array, num_points: jax.Array, strategy: Strategy) -> dict[str, jax.Array]:
    shapes = output_shapes(fn, coords.shape[1])
    start = {name: jnp.zeros((coords.shape[0], *s.shape), s.dtype) for name, s in shapes.items()}
    width, point = strategy.width, partial(evaluate_point, fn)
    if width > 1:
        apart = lanewise(point)
        together = jax.vmap(distribute(apart) if strategy.hoist else apart)

    def step(i: jax.Array, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        if width == 1:
            new = jax.tree.map(lambda x: x[None], point(coords[i]))
        else:
            new = together(jax.lax.dynamic_slice_in_dim(coords, i * width, width))
        return jax.tree.map(lambda v, n: jax.lax.dynamic_update_slice_in_dim(v, n, i * width, 0), values, new)

    return jax.lax.fori_loop(0, (num_points + width - 1) // width, step, start)


@partial(jax.jit, static_argnames=("strategy", "mesh"))
def _evaluate(fn: Any, coords: jax.Array, num_points: jax.Array, *, strategy: Strategy, mesh: Mesh | None) -> Any:
    """Values of the first `num_points[d]` points of each device's share of `coords`; the others hold 0."""
    if mesh is None:
        return _evaluate_steps(fn, coords, num_points[0], strategy)
    each = PartitionSpec(POINTS)

    def shard(fn: Any, coords: jax.Array, num_points: jax.Array) -> Any:
        return _evaluate_steps(fn, coords, num_points[0], strategy)

    specs = {"in_specs": (PartitionSpec(), each, each), "out_specs": each, "axis_names": {POINTS}}
    return jax.shard_map(shard, mesh=mesh, check_vma=False, **specs)(fn, coords, num_points)


@dataclass(frozen=True, eq=False)
class Kernel:
    """A point function ready to run on some devices with one strategy.

    Attributes:
        fn: the point function, its arrays on the devices.
        devices: where points are evaluated, each device, or group of them that share the parameters, its share.
        num_coords: coordinates of a point.
        capacity: points that one device takes in one call.
        strategy: how points go through one call.
        threads: calls that a single device is given at a time, each from a thread of its own. XLA runs a small program
            on one core of a CPU; here the other cores run the same program on other points. No part of the strategy,
            as it changes no bit of the answer. Programs that do not overlap have one (`checked`).
        patience: seconds that compiling or a call may take before `OutOfPatience` is raised. XLA goes on with it all
            the same.
        mesh: the devices along the axis of points, and along those over which the parameters came divided; `None` for
            one device.
    """

    fn: Any
    devices: tuple[jax.Device, ...]
    num_coords: int
    capacity: int
    strategy: Strategy = Strategy()
    threads: int = 1
    patience: float = math.inf
    mesh: Mesh | None = None

    @classmethod
    def build(cls, fn: Any, num_coords: int, devices: Sequence[jax.Device], num_points: int | None = None) -> "Kernel":
        """Put the function's arrays on the devices and size the buffers, for no more than `num_points` if given."""
        mesh = mesh_for(fn, devices)
        devices = tuple(devices) if mesh is None else tuple(mesh.devices.flat)
        groups, threads = _groups(mesh), threads_for(devices)
        rows = max(1, capacity(output_shapes(fn, num_coords), num_coords) // threads)
        if num_points is not None:
            rows = min(rows, _rows_for(-(-num_points // (groups * threads))))
        return cls(_placed(fn, mesh, devices), devices, num_coords, rows, threads=threads, mesh=mesh)

    def over(self, fn: Any) -> "Kernel":
        """The same kernel, and its program, with other arrays of the same shapes."""
        other = dataclasses.replace(self, fn=_placed(fn, self.mesh, self.devices))
        vars(other).update({name: vars(self)[name] for name in ("program", "overlaps") if name in vars(self)})
        return other

    @property
    def groups(self) -> int:
        """How many share the points: devices, or groups of devices that share the parameters."""
        return _groups(self.mesh)

    @property
    def max_points(self) -> int:
        """Points under way at a time."""
        return self.capacity * self.groups * self.threads

    @property
    def width(self) -> int:
        """Points to a step."""
        return self.strategy.width

    @property
    def step(self) -> int:
        """Points of one step of all devices and threads."""
        return self.width * self.groups * self.threads

    def using(self, strategy: Strategy, threads: int | None = None, patience: float = math.inf) -> "Kernel":
        """The same kernel with another strategy, and another number of threads if given."""
        rows, threads = -(-self.capacity // strategy.width) * strategy.width, threads or self.threads
        other = dataclasses.replace(self, strategy=strategy, capacity=rows, threads=threads, patience=patience)
        if strategy == self.strategy:  # which compiles to the same program
            vars(other).update({name: vars(self)[name] for name in ("program", "overlaps") if name in vars(self)})
        return other

    def narrower(self) -> "Kernel":
        """The same kernel with one thread, or if it has no more with half the width."""
        if self.threads > 1:
            return self.using(self.strategy, threads=1)
        return self.using(Strategy(max(1, self.width // 2), self.strategy.hoist and self.width > 3))

    def checked(self) -> "Kernel":
        """The same kernel, with one thread where calls of its program must not overlap; compiles it."""
        return self if self.threads == 1 or self.overlaps else self.using(self.strategy, threads=1)

    @cached_property
    def overlaps(self) -> bool:
        """Whether calls of the program may run at the same time.

        On a CPU, not those of LAPACK and Fourier transforms: they wait, on a thread of XLA's pool, for others of the
        same pool, and where each of them does so at once none is left to work. Nor what calls back into Python, which
        need not expect a second caller.
        """
        return self.devices[0].platform != "cpu" or BLOCKING.search(self.program.as_text()) is None

    @property
    def narrowest(self) -> bool:
        """Whether `narrower` can do no more."""
        return self.width == self.threads == 1

    def num_hoisted(self) -> int:
        """Contractions that the points of a step would share; tracing alone."""
        coords = jax.ShapeDtypeStruct((self.num_coords,), coords_dtype())
        with matmul_precision():
            return num_hoisted(partial(evaluate_point, self.fn), coords)

    def __call__(self, points: np.ndarray) -> "Pending":
        """Start evaluating `points`, float64 `(n, k)`; does not wait. On several devices, `n <= max_points`."""
        return self.start(self.shares(points))

    def shares(self, points: np.ndarray) -> list["Share"]:
        """Deal the points to calls, in whole steps: as many calls as there are threads, more where they do not fit."""
        if self.mesh is not None:
            return [self._share(points)]
        steps = -(-len(points) // self.width)
        calls = min(steps, max(self.threads, -(-steps * self.width // self.capacity)))
        size = -(-steps // calls) * self.width
        return [self._share(points[i : i + size]) for i in range(0, len(points), size)]

    def start(self, shares: list["Share"]) -> "Pending":
        """Give the device all calls, from as many threads as there are to be; does not wait."""
        program, x64, turns = self.program, coords_dtype() == jnp.float64, self._turns()  # compiled here and once
        calls = [begin(_in_turn, turns, program, x64, self.fn, share.coords, share.counts) for share in shares]
        return Pending([partial(result_of, call, self.patience) for call in calls], shares)

    def _turns(self) -> threading.Semaphore:
        """As many calls at a time as there are threads; of a program that must not overlap, one in this process."""
        if self.threads == 1 and self.overlaps:
            return threading.Semaphore(1)
        return _shared_turns(self.threads if self.overlaps else 1)

    @cached_property
    def program(self) -> Any:
        """The compiled program of one call; JAX remembers it for equal functions and shapes."""
        shape = (self.capacity * self.groups, self.num_coords)
        coords = jax.ShapeDtypeStruct(shape, coords_dtype(), sharding=self._sharding())
        counts = jax.ShapeDtypeStruct((self.groups,), jnp.int32, sharding=self._sharding())
        with matmul_precision():
            lowered = _evaluate.lower(self.fn, coords, counts, strategy=self.strategy, mesh=self.mesh)
        return result_of(begin(_compile, lowered, coords_dtype() == jnp.float64, self._options()), self.patience)

    def _options(self) -> dict[str, Any]:
        """Options of the compiler: directions that are not stored are asked for where memory is short."""
        parts = jax.tree.leaves(self.fn, is_leaf=lambda part: isinstance(part, _tree.Unstored))
        lean = self.devices[0].platform == "cpu" and any(isinstance(part, _tree.Unstored) for part in parts)
        return LEAN if lean else {}

    @cached_property
    def temp_bytes(self) -> int:
        """Bytes that temporaries take on one device, of all its threads; 0 where the compiler does not say."""
        return self.threads * getattr(self.program.memory_analysis(), "temp_size_in_bytes", 0)

    def _sharding(self) -> Any:
        if self.mesh is None:
            return jax.sharding.SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(POINTS))

    def _share(self, points: np.ndarray) -> "Share":
        """Deal the points of one call to the devices in whole steps; unused rows repeat the last point."""
        steps = -(-len(points) // (self.groups * self.width))
        share = min(steps * self.width, self.capacity)
        counts = np.clip(len(points) - share * np.arange(self.groups), 0, share).astype(np.int32)
        buffer = np.broadcast_to(points[-1], (self.groups, self.capacity, self.num_coords)).copy()
        for group, count in enumerate(counts):
            buffer[group, :count] = points[group * share : group * share + count]
        flat = buffer.reshape(-1, self.num_coords).astype(coords_dtype())
        return Share(jax.device_put(flat, self._sharding()), counts)


@dataclass(frozen=True, eq=False)
class Share:
    """Points of one call: coordinates `(devices * capacity, k)`, and how many of each device's rows count."""

    coords: jax.Array
    counts: np.ndarray

    def trim(self, value: np.ndarray) -> list[np.ndarray]:
        """The rows of an output that count, device by device."""
        rows = len(value) // len(self.counts)
        return [value[d * rows : d * rows + count] for d, count in enumerate(self.counts)]


@dataclass(frozen=True, eq=False)
class Pending:
    """Values that are still being computed: what waits for those of each call, and its share of the points."""

    results: list[Callable[[], dict[str, jax.Array]]]
    shares: list[Share]

    def wait(self) -> dict[str, np.ndarray]:
        """The values of the points asked for, on the host."""
        calls = [{name: np.asarray(value) for name, value in result().items()} for result in self.results]
        parts = {name: [p for c, s in zip(calls, self.shares) for p in s.trim(c[name])] for name in calls[0]}
        return {name: part[0] if len(part) == 1 else np.concatenate(part) for name, part in parts.items()}


class OutOfPatience(Exception):
    """Something took longer than it was given; XLA cannot be stopped and goes on with it in the background."""


def begin(work: Callable[..., T], *arguments: Any) -> concurrent.futures.Future[T]:
    """Work done in a thread of its own, so that one can wait for it as Python waits.

    What waits inside XLA hears no Ctrl-C. The thread is a daemon, those of a pool are not: a program that does not end
    would keep the process from ending too.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # whoever waits is told
            future.set_exception(error)
        finally:
            _UNDER_WAY.discard(future)

    _UNDER_WAY.add(future)
    threading.Thread(target=run, name="landscape", daemon=True).start()
    return future


def result_of(future: concurrent.futures.Future[T], seconds: float = math.inf) -> T:
    """What the work gives; Ctrl-C interrupts the wait. `OutOfPatience` after so many seconds.

    In looks of half a second, since on Windows nothing interrupts a wait without end.
    """
    end = time.monotonic() + seconds
    try:
        while not future.done() and (left := end - time.monotonic()) > 0:
            concurrent.futures.wait([future], min(0.5, left))
    except BaseException:
        _shared_turns.cache_clear()
        raise
    if not future.done():
        _shared_turns.cache_clear()  # what comes later does not queue behind it
        raise OutOfPatience(f"no end after {seconds:.0f} s")
    return future.result()


def _compile(lowered: Any, x64: bool, options: dict[str, Any]) -> Any:
    with jax.enable_x64(x64):
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if not (options and "option" in str(error)):
                raise
            return lowered.compile()  # of a version that does not know them


def _in_turn(turns: threading.Semaphore, *call: Any) -> dict[str, jax.Array]:
    with turns:
        if _ENDING.is_set():
            raise RuntimeError("the process is ending")
        return _run(*call)


@atexit.register
def _let_calls_end() -> None:
    """Wait a while for what is under way: a call that comes back while Python is taken down aborts the process."""
    _ENDING.set()
    concurrent.futures.wait(list(_UNDER_WAY), EXIT_SECONDS)


def _run(program: Any, x64: bool, *arguments: Any) -> dict[str, jax.Array]:
    """One call, to its end; a new thread has the default precision.

    It sleeps between looks: a thread that waits inside XLA when the process ends takes it down with an abort.
    """
    with jax.enable_x64(x64):
        values, start = program(*arguments), time.monotonic()
        while not all(value.is_ready() for value in values.values()):
            time.sleep(min(LOOK_SECONDS, (time.monotonic() - start) / 20))
        return jax.block_until_ready(values)


@cache
def _shared_turns(threads: int) -> threading.Semaphore:
    """The same for every sweep, so that two of them do not take the cores from each other."""
    return threading.Semaphore(threads)


def threads_for(devices: Sequence[jax.Device]) -> int:
    """As many threads as this process may use cores where one CPU device does it all, otherwise 1.

    A worker of a process pool leaves the other cores to its siblings.
    """
    if len(devices) > 1 or devices[0].platform != "cpu" or multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def capacity(outputs: Mapping[str, jax.ShapeDtypeStruct], num_coords: int) -> int:
    """Points that one device takes in one call, so that the values fit into a modest buffer: a power of two."""
    row = sum(math.prod(s.shape) * s.dtype.itemsize for s in outputs.values()) + 8 * num_coords
    return min(MAX_WIDTH, 1 << (max(1, BUFFER_BYTES // row).bit_length() - 1))


def _rows_for(num_points: int) -> int:
    """Rows that are enough, in coarse steps: every call clears all of them and copies them to the host."""
    rows = MIN_ROWS
    while rows < num_points:
        rows *= ROW_STEP
    return rows


def mesh_for(fn: Any, devices: Sequence[jax.Device]) -> Mesh | None:
    """The mesh of a sweep: an axis of points, then those of the mesh over which arrays of the function are divided.

    The devices of that mesh share a point; as many more groups of that size as there are devices left take others.
    """
    model = mesh_of(fn)
    if model is None:
        return Mesh(np.asarray(devices), (POINTS,)) if len(devices) > 1 else None
    own = list(model.devices.flat)
    left = [device for device in devices if device not in own]
    groups = 1 + len(left) // len(own)
    used = np.asarray([*own, *left][: groups * len(own)]).reshape(groups, *model.devices.shape)
    return Mesh(used, (POINTS, *model.axis_names))


def _groups(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape[POINTS]


def _placed(fn: Any, mesh: Mesh | None, devices: Sequence[jax.Device]) -> Any:
    """The arrays of a function where points are evaluated: those that came divided stay so, others are on all."""
    if mesh is None:
        return jax.device_put(fn, devices[0])
    divided = mesh_of(fn)

    def placed(leaf: Any) -> Any:
        place = getattr(leaf, "sharding", None) if divided is not None else None
        spec = place.spec if isinstance(place, NamedSharding) else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(placed, fn)


def default_memory(device: jax.Device) -> int:
    """Bytes that temporaries may take: half of a device's own memory, or a share of a quarter of the machine's.

    The devices of a CPU have one memory between them, so each may take its part of that quarter.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] // 2
    return machine_memory() // 4 // jax.local_device_count(device.platform)


def machine_memory() -> int:
    """Bytes of memory, `ASSUMED_MEMORY` where the system does not say (Windows has no `sysconf`)."""
    if not hasattr(os, "sysconf"):
        return ASSUMED_MEMORY
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def last_line(error: BaseException) -> str:
    """The kind of an error and the last line of its text: where XLA quotes Python's traceback, what went wrong."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:300]}"
