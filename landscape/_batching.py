"""How many points one compiled program takes at a time: the kernel of a sweep, and the measured choice of its strategy.

A kernel is one jitted loop over *steps* of `width` points: width 1 evaluates point after point (`lax.map`), a
larger one `vmap`s the points of a step, plainly or *hoisted*: what is affine in the coordinates is then computed
once a step, in factored form (`affine`). The number of steps is a run-time value, so one compilation serves the
timing, every tile and the ragged last one. The user's function is traced once: the inner `jit` keeps its jaxpr
for all strategies.

The strategy is measured on the user's own function, because no rule predicts it: on a CPU, `vmap` over convolution
kernels is several times slower than a loop, while for a small net it is many times faster, and past the size of
the cache wider is slower again (`benchmarks/batching.py`).
"""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from landscape.affine import distribute, num_hoisted

# Ratio of neighbouring widths tried first, and of those tried around the best. Steps of hoisted widths are finer: what
# a step shares soon outweighs what each point adds, and then more points only fill the cache.
COARSE, FINE = 16, 4
COARSE_HOISTED, FINE_HOISTED = 8, 2
MAX_WIDTH = 16**4
PROBE_SECONDS = 0.04
CLOSE = 1.7  # widths within this factor of the best are timed again in turns
LEVEL = 1.25  # a climb goes on over a level stretch ...
PATIENCE = 2  # ... and over one step that is worse: where XLA begins to use more cores, they cost more than they bring
HOPELESS = 3  # where two points at a time take so many times as long each, more will not help
PLAY_OFF_ROUNDS = 5
BETTER = 0.9  # a wider step must take at most this share of the time per point, or it is not worth its memory
MAX_CHOICES = 256
BUFFER_BYTES = 2**26  # output of one kernel call
ASSUMED_MEMORY = 2**33  # bytes of a machine that does not say how many it has
MIN_ROWS = 1024  # rows of the shortest buffer
ROW_STEP = 4  # ratio of neighbouring lengths: sweeps within this factor in size share a compiled program

_CHOICES: dict[Any, "Timing"] = {}


@partial(jax.jit, inline=True)
def evaluate_point(fn: Any, coords: jax.Array) -> dict[str, jax.Array]:
    """The point function, traced once for whatever uses it."""
    values = fn(coords)
    values = values if isinstance(values, dict) else {"value": values}
    return {name: jnp.asarray(value) for name, value in values.items()}


def output_shapes(fn: Any, num_coords: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what the point function returns; traces it, in the precision that it will run in."""
    with jax.default_matmul_precision("highest"):
        return jax.eval_shape(evaluate_point, fn, jax.ShapeDtypeStruct((num_coords,), coords_dtype()))


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
    together = jax.vmap(distribute(point) if strategy.hoist else point)

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
    each = PartitionSpec("points")

    def shard(fn: Any, coords: jax.Array, num_points: jax.Array) -> Any:
        return _evaluate_steps(fn, coords, num_points[0], strategy)

    return jax.shard_map(shard, mesh=mesh, in_specs=(PartitionSpec(), each, each), out_specs=each, check_vma=False)(
        fn, coords, num_points
    )


@dataclass(frozen=True)
class Timing:
    """What was measured of one strategy: seconds a point, seconds to compile, bytes of temporaries.

    Attributes:
        settled: whether no further strategy was left untried for want of points.
        num_points: points evaluated with it so far, or about to be.
        tuned_for: how many there were when it was chosen.
        tried: the timings that it was chosen from.
    """

    strategy: Strategy
    seconds: float
    compile_seconds: float = 0.0
    temp_bytes: int = 0
    settled: bool = False
    num_points: int = 0
    tuned_for: int = 0
    tried: tuple["Timing", ...] = ()


@dataclass(frozen=True, eq=False)
class Kernel:
    """A point function ready to run on some devices with one strategy."""

    fn: Any
    devices: tuple[jax.Device, ...]
    num_coords: int
    capacity: int
    strategy: Strategy = Strategy()

    @classmethod
    def build(cls, fn: Any, num_coords: int, devices: Sequence[jax.Device], num_points: int | None = None) -> "Kernel":
        """Put the function's arrays on the devices and size the buffers, for no more than `num_points` if given."""
        devices = tuple(devices)
        placement: Any = devices[0] if len(devices) == 1 else NamedSharding(_mesh(devices), PartitionSpec())
        fn = jax.device_put(fn, placement)
        rows = capacity(fn, num_coords)
        if num_points is not None:
            rows = min(rows, _rows_for(-(-num_points // len(devices))))
        return cls(fn, devices, num_coords, rows)

    @property
    def max_points(self) -> int:
        """Points that one call can take."""
        return self.capacity * len(self.devices)

    @property
    def width(self) -> int:
        """Points to a step."""
        return self.strategy.width

    def using(self, strategy: Strategy) -> "Kernel":
        """The same kernel with another strategy."""
        width = strategy.width
        return dataclasses.replace(self, strategy=strategy, capacity=-(-self.capacity // width) * width)

    def narrower(self) -> "Kernel":
        """The same kernel with half the width."""
        return self.using(Strategy(max(1, self.width // 2), self.strategy.hoist and self.width > 3))

    def num_hoisted(self) -> int:
        """Contractions that the points of a step would share; tracing alone."""
        coords = jax.ShapeDtypeStruct((self.num_coords,), coords_dtype())
        with jax.default_matmul_precision("highest"):
            return num_hoisted(partial(evaluate_point, self.fn), coords)

    def __call__(self, points: np.ndarray) -> "Pending":
        """Start evaluating `points`, float64 `(n, k)` with `n <= max_points`; does not wait."""
        buffer, counts = self._layout(points)
        return Pending(self.program(self.fn, buffer, counts), counts, self.capacity)

    @cached_property
    def program(self) -> Any:
        """The compiled program; JAX remembers it for equal functions and shapes."""
        mesh = _mesh(self.devices) if len(self.devices) > 1 else None
        coords = jax.ShapeDtypeStruct((self.max_points, self.num_coords), coords_dtype(), sharding=self._sharding())
        counts = jax.ShapeDtypeStruct((len(self.devices),), jnp.int32, sharding=self._sharding())
        with jax.default_matmul_precision("highest"):
            return _evaluate.lower(self.fn, coords, counts, strategy=self.strategy, mesh=mesh).compile()

    @cached_property
    def temp_bytes(self) -> int:
        """Bytes that the temporaries of the program take on one device; 0 where the compiler does not say."""
        return getattr(self.program.memory_analysis(), "temp_size_in_bytes", 0)

    def _sharding(self) -> Any:
        if len(self.devices) == 1:
            return jax.sharding.SingleDeviceSharding(self.devices[0])
        return NamedSharding(_mesh(self.devices), PartitionSpec("points"))

    def _layout(self, points: np.ndarray) -> tuple[jax.Array, np.ndarray]:
        """Deal the points to the devices in whole steps; unused rows repeat the last point."""
        steps = -(-len(points) // (len(self.devices) * self.width))
        share = min(steps * self.width, self.capacity)
        counts = np.clip(len(points) - share * np.arange(len(self.devices)), 0, share).astype(np.int32)
        buffer = np.broadcast_to(points[-1], (len(self.devices), self.capacity, self.num_coords)).copy()
        for device, count in enumerate(counts):
            buffer[device, :count] = points[device * share : device * share + count]
        flat = buffer.reshape(self.max_points, self.num_coords).astype(coords_dtype())
        return jax.device_put(flat, self._sharding()), counts


@dataclass(frozen=True, eq=False)
class Pending:
    """Values that a device is still computing."""

    values: Any
    counts: np.ndarray
    capacity: int

    def wait(self) -> dict[str, np.ndarray]:
        """The values of the points asked for, on the host."""
        host = {name: np.asarray(value) for name, value in self.values.items()}
        return {name: self._trim(value) for name, value in host.items()}

    def _trim(self, value: np.ndarray) -> np.ndarray:
        parts = [value[d * self.capacity : d * self.capacity + count] for d, count in enumerate(self.counts)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def capacity(fn: Any, num_coords: int) -> int:
    """Points that one device takes in one call, so that the values fit into a modest buffer: a power of two."""
    shapes = output_shapes(fn, num_coords)
    row = sum(math.prod(s.shape) * s.dtype.itemsize for s in shapes.values()) + 8 * num_coords
    return min(MAX_WIDTH, 1 << (max(1, BUFFER_BYTES // row).bit_length() - 1))


def _rows_for(num_points: int) -> int:
    """Rows that are enough, in coarse steps: every call clears all of them and copies them to the host."""
    rows = MIN_ROWS
    while rows < num_points:
        rows *= ROW_STEP
    return rows


def coords_dtype() -> Any:
    """The precision in which coordinates reach the point function: float64 under `jax_enable_x64`."""
    return jnp.zeros(()).dtype


def _mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    return Mesh(np.asarray(devices), ("points",))


def default_memory(device: jax.Device) -> int:
    """Bytes that temporaries may take: half of a device's own memory, or a share of a quarter of the machine's.

    The devices of a CPU have one memory between them, so each may take its part of that quarter.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] // 2
    return _machine_memory() // 4 // jax.local_device_count(device.platform)


def _machine_memory() -> int:
    """Bytes of memory, `ASSUMED_MEMORY` where the system does not say (Windows has no `sysconf`)."""
    if not hasattr(os, "sysconf"):
        return ASSUMED_MEMORY
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure(kernel: Kernel, points: np.ndarray, max_memory: float = math.inf) -> Timing | None:
    """Time one width on real points, or `None` where its temporaries take more than `max_memory` bytes a device.

    The first call is a warm-up and never counts; the number of points then grows until a run is long enough that the
    fixed cost of a call does not matter.
    """
    start = time.perf_counter()
    temporaries = kernel.temp_bytes
    compile_seconds = time.perf_counter() - start
    if temporaries > max_memory:
        return None
    step, limit = kernel.width * len(kernel.devices), min(len(points), kernel.max_points)
    count = min(step, limit)
    warm = _seconds(kernel, points[:count])
    spent = warm if warm > 4 * PROBE_SECONDS else _seconds(kernel, points[:count])
    while spent < PROBE_SECONDS and count < limit:
        grown = count * np.clip(1.2 * PROBE_SECONDS / spent, 2, 16)
        count = min(limit, math.ceil(grown / step) * step)
        spent = _seconds(kernel, points[:count])
    for _ in range(int(np.clip(3 * PROBE_SECONDS / spent, 1, 3)) - 1):
        spent = min(spent, _seconds(kernel, points[:count]))
    return Timing(kernel.strategy, spent / count, compile_seconds, temporaries)


def _seconds(kernel: Kernel, points: np.ndarray) -> float:
    start = time.perf_counter()
    kernel(points).wait()
    return time.perf_counter() - start


def tune(kernel: Kernel, points: np.ndarray, num_points: int, max_memory: int | None) -> Timing:
    """The strategy that is fastest on `points`, found by climbing, within the memory allowed.

    A strategy is tried only where it could pay for its own trial in `num_points`, so a short sweep is not held up by
    its own tuning. What was found is remembered for equal functions and shapes. Where something was left untried,
    the search goes on once as many points again have been evaluated: whoever sweeps a function over and over will
    do so again.

    Args:
        kernel: the point function; its own strategy is not used.
        points: coordinates to time on, `(m, k)`; more of them than the widest step, repeated if need be.
        num_points: points that the sweep will evaluate.
        max_memory: bytes that the temporaries of one device may take; `None` for `default_memory`.
    """
    key = _key(kernel, ("auto", max_memory))
    known = _CHOICES.get(key, Timing(Strategy(), math.inf))
    total = known.num_points + num_points
    if known.settled or (known.tried and total < 2 * known.tuned_for):
        return _remember(key, dataclasses.replace(known, num_points=total))
    return _remember(key, _Climb(kernel, points, total, max_memory, known.tried).best_of_all())


def time_once(kernel: Kernel, points: np.ndarray) -> Timing:
    """The timing of a strategy that was asked for; remembered for equal functions and shapes."""
    key = _key(kernel, ("fixed", kernel.strategy))
    if key in _CHOICES:
        return _CHOICES[key]
    timing = measure(kernel, points)
    assert timing is not None
    return _remember(key, timing)


def _remember(key: Any, timing: Timing) -> Timing:
    """Keep a choice; the oldest one goes when there are many, since a key holds on to the user's function."""
    _CHOICES[key] = timing
    while len(_CHOICES) > MAX_CHOICES:
        del _CHOICES[next(iter(_CHOICES))]
    return timing


class _Climb:
    """One search: coarse steps of width up while they help, the neighbours of the best, a play-off of the close.

    Where points can share work, the widths climbed are hoisted ones, and the best of them meets its plain twin.
    """

    def __init__(
        self,
        kernel: Kernel,
        points: np.ndarray,
        num_points: int,
        max_memory: int | None,
        tried: Sequence[Timing] = (),
    ) -> None:
        self.kernel, self.points, self.num_points = kernel, points, num_points
        self.memory = default_memory(kernel.devices[0]) if max_memory is None else max_memory
        self.settled = True
        self.timings = {timing.strategy: timing for timing in tried}
        if not self.timings:
            first = measure(kernel.using(Strategy()), points)
            assert first is not None
            self.timings = {first.strategy: first}
        self.compile_seconds = max(timing.compile_seconds for timing in self.timings.values())
        self.hoist = self._pays(Strategy(COARSE_HOISTED), gain=0.9) and kernel.num_hoisted() > 0

    @property
    def best(self) -> Timing:
        return min(self.timings.values(), key=lambda timing: timing.seconds)

    def best_of_all(self) -> Timing:
        """The choice among what was tried before and what is tried now."""
        if self._worth_a_climb():
            self._climb()
        chosen = self._play_off([t for t in self.timings.values() if t.seconds < CLOSE * self.best.seconds])
        so_far = {"num_points": self.num_points, "tuned_for": self.num_points, "tried": tuple(self.timings.values())}
        return dataclasses.replace(chosen, settled=self.settled, **so_far)

    def _worth_a_climb(self) -> bool:
        """Whether the first coarse step may be tried.

        It costs many points. Where each takes long, two at a time come first: convolutions on a CPU, for one, take ten
        times as long under `vmap`, and half a minute would be gone before that is known.
        """
        single, pair = self.timings[Strategy()].seconds, Strategy(2)
        if single <= PROBE_SECONDS:
            return True
        known = self.timings.get(pair) or self._measure(pair, gain=0.5)
        return known is not None and known.seconds < HOPELESS * single

    def _climb(self) -> None:
        """Coarse steps of width up while they help, then the neighbours of the best, and its plain twin."""
        coarse, fine = (COARSE_HOISTED, FINE_HOISTED) if self.hoist else (COARSE, FINE)
        width, patience = coarse, PATIENCE
        while width <= self.kernel.capacity and patience:
            patience -= not self._try(width, gain=0.9 if width == coarse else 0.5 * patience / PATIENCE)
            width *= coarse
        for neighbour in (self.best.strategy.width * fine, self.best.strategy.width // fine):
            if 1 < neighbour <= self.kernel.capacity:
                self._try(neighbour, gain=0.25)
        if self.best.strategy.hoist:
            self._measure(Strategy(self.best.strategy.width), gain=0.25)

    def _try(self, width: int, gain: float) -> bool:
        """Time a width unless it cannot pay; whether to climb on, as it was about as fast as the best."""
        best = self.best.seconds
        timing = self.timings.get(Strategy(width, self.hoist)) or self._measure(Strategy(width, self.hoist), gain)
        return timing is not None and timing.seconds <= LEVEL * best

    def _pays(self, strategy: Strategy, gain: float) -> bool:
        """Whether the points to come could win back what a trial costs, if it saves that share of their time."""
        best = self.best.seconds
        return gain * best * self.num_points >= self.compile_seconds + 2 * strategy.width * best

    def _play_off(self, close: list[Timing]) -> Timing:
        """Time close ones again, in turns, since a machine's speed drifts; the narrowest that is about the best."""
        rounds = PLAY_OFF_ROUNDS if self.best.seconds * self.num_points > 10 * PROBE_SECONDS * len(close) else 0
        if len(close) > 1 and rounds:
            runs = np.array([[self._run(t) for t in close] for _ in range(rounds)])
            close = [dataclasses.replace(t, seconds=float(s)) for t, s in zip(close, np.median(runs, axis=0))]
        fastest = min(t.seconds for t in close)
        return min((t for t in close if BETTER * t.seconds <= fastest), key=lambda t: t.strategy.width)

    def _run(self, timing: Timing) -> float:
        """Seconds a point of a run of about the probe's length."""
        kernel = self.kernel.using(timing.strategy)
        step, limit = kernel.width * len(kernel.devices), min(len(self.points), kernel.max_points)
        count = min(limit, max(1, round(PROBE_SECONDS / (timing.seconds * step))) * step)
        return _seconds(kernel, self.points[:count]) / count

    def _measure(self, strategy: Strategy, gain: float) -> Timing | None:
        """Time a new strategy that could pay, or None; also where it does not fit into the memory."""
        if strategy in self.timings:
            return None
        if not self._pays(strategy, gain):
            self.settled = False
            return None
        try:
            timing = measure(self.kernel.using(strategy), self.points, self.memory)
        except jax.errors.JaxRuntimeError as error:
            if is_out_of_memory(error):
                return None
            raise
        if timing is not None:
            self.compile_seconds = max(self.compile_seconds, timing.compile_seconds)
            self.timings[strategy] = timing
        return timing


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def _key(kernel: Kernel, request: Any) -> Any:
    leaves, treedef = jax.tree.flatten(kernel.fn)
    avals = tuple((jnp.shape(x), str(jnp.result_type(x)), getattr(x, "weak_type", None)) for x in leaves)
    return treedef, avals, kernel.devices, kernel.num_coords, kernel.capacity, str(coords_dtype()), request


@contextlib.contextmanager
def forgotten() -> Generator[None]:
    """Tune anew inside this block (for benchmarks)."""
    saved = dict(_CHOICES)
    _CHOICES.clear()
    try:
        yield
    finally:
        _CHOICES.update(saved)
