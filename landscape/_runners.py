"""Who computes the tiles of a sweep: this process's own devices (`Local`), or the workers of an executor (`Remote`)."""

import concurrent.futures
import hashlib
import itertools
import pickle
from collections import deque
from collections.abc import Callable, Generator
from functools import lru_cache, partial
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from landscape._batching import Kernel, Pending, Timing, coords_dtype, is_out_of_memory, time_once, tune
from landscape.grid import Grid
from landscape.store import Layout

IN_FLIGHT = 32  # tiles given to an executor at a time

Batch = int | Literal["auto"]
Values = dict[str, np.ndarray]
Say = Callable[[str], None]


class Runner(Protocol):
    """Who computes tiles."""

    names: list[str]

    def timing(self, batch: Batch, max_memory: int | None) -> Timing:
        """Choose a width, or time the one that was asked for."""
        ...

    def tiles(self, layout: Layout, width: int, todo: list[int], say: Say) -> Generator[tuple[int, Values]]:
        """Values of the tiles, in any order."""
        ...


class Local:
    """Runs tiles on this process's devices."""

    def __init__(self, fn: Any, grid: Grid, devices: tuple[jax.Device, ...]) -> None:
        self.kernel, self.grid = Kernel.build(fn, grid.ndim, devices), grid
        self.names = [f"{d.platform}:{d.id} {d.device_kind}" for d in devices]

    def timing(self, batch: Batch, max_memory: int | None) -> Timing:
        return _timing(self.kernel, _spread(self.grid), self.grid.size, batch, max_memory)

    def tiles(self, layout: Layout, width: int, todo: list[int], say: Say) -> Generator[tuple[int, Values]]:
        """The tiles in turn; the next one is computed while one is handed over."""
        shrinking = _Shrinking(self.kernel.with_width(width), say)
        flying: deque[tuple[int, Any]] = deque()
        for tile in todo:
            flying.append((tile, shrinking.start(layout.points(tile))))
            if len(flying) > 1:
                yield flying[0][0], flying.popleft()[1]()
        for tile, wait in flying:
            yield tile, wait()


class _Shrinking:
    """A kernel that halves its width when the device runs out of memory, saying so once."""

    def __init__(self, kernel: Kernel, say: Say) -> None:
        self.kernel, self.say, self.said = kernel, say, False

    def start(self, points: np.ndarray) -> Callable[[], Values]:
        """Begin to evaluate; the returned function waits for the values."""
        try:
            pending = self.kernel(points)
        except jax.errors.JaxRuntimeError as error:
            return partial(self._again, points, error)
        return partial(self._wait, points, pending)

    def _wait(self, points: np.ndarray, pending: Pending) -> Values:
        try:
            return pending.wait()
        except jax.errors.JaxRuntimeError as error:
            return self._again(points, error)

    def _again(self, points: np.ndarray, error: jax.errors.JaxRuntimeError) -> Values:
        if not is_out_of_memory(error) or self.kernel.width == 1:
            raise error
        self.kernel = self.kernel.with_width(self.kernel.width // 2)
        if not self.said:
            self.say(f"the device is out of memory; going on with {self.kernel.width} points at a time or fewer")
            self.said = True
        return self.start(points)()


class Remote:
    """Runs tiles on the workers of an executor."""

    def __init__(self, fn: Any, grid: Grid, executor: concurrent.futures.Executor) -> None:
        host_fn = jax.tree.map(_to_host, fn)
        payload = _pickle((host_fn, grid.ndim, coords_dtype() == jnp.float64))
        self.task = (hashlib.sha256(payload).hexdigest(), payload)
        self.executor, self.grid = executor, grid
        self.names = [f"workers of {type(executor).__name__}"]

    def timing(self, batch: Batch, max_memory: int | None) -> Timing:
        """Tuned by a worker, on the worker's devices."""
        points = _spread(self.grid)
        return self.executor.submit(_timing_at_worker, *self.task, points, self.grid.size, batch, max_memory).result()

    def tiles(self, layout: Layout, width: int, todo: list[int], say: Say) -> Generator[tuple[int, Values]]:
        """The tiles as they come back, a few handed out ahead."""
        queue, flying = iter(todo), {}

        def hand_out(count: int) -> None:
            for tile in itertools.islice(queue, count):
                flying[self.executor.submit(_tile_at_worker, *self.task, width, layout.points(tile))] = tile

        try:
            hand_out(IN_FLIGHT)
            while flying:
                done, _ = concurrent.futures.wait(flying, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield flying.pop(future), future.result()
                hand_out(len(done))
        except concurrent.futures.BrokenExecutor as error:
            error.add_note("the workers died; what was finished is in the store, if there is one: call again to resume")
            raise
        finally:
            for future in flying:
                future.cancel()


def _to_host(leaf: Any) -> Any:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key or not isinstance(leaf, jax.Array) else np.asarray(leaf)


def _pickle(value: Any) -> bytes:
    try:
        import cloudpickle as pickler
    except ImportError:
        pickler = pickle
    try:
        return pickler.dumps(value)
    except Exception as error:
        raise TypeError(
            f"executor= sends the point function to other processes, and it cannot be pickled ({error}); "
            "pip install 'loss-atlas[cluster]' for functions defined in a script, or define it in a module"
        ) from error


@lru_cache(maxsize=4)
def _kernel_at_worker(digest: str, payload: bytes) -> Kernel:
    fn, num_coords, _ = pickle.loads(payload)
    return Kernel.build(fn, num_coords, jax.local_devices())


def _precision_of(payload: bytes) -> Any:
    return jax.enable_x64(pickle.loads(payload)[2])


def _timing_at_worker(digest: str, payload: bytes, points: np.ndarray, num: int, batch: Batch, memory: Any) -> Timing:
    with _precision_of(payload):
        return _timing(_kernel_at_worker(digest, payload), points, num, batch, memory)


def _tile_at_worker(digest: str, payload: bytes, width: int, points: np.ndarray) -> Values:
    with _precision_of(payload):
        kernel = _kernel_with_width(digest, payload, width)
        return _Shrinking(kernel, print).start(points)()


@lru_cache(maxsize=4)
def _kernel_with_width(digest: str, payload: bytes, width: int) -> Kernel:
    """Kept between tiles, so that a worker compiles once."""
    return _kernel_at_worker(digest, payload).with_width(width)


def _timing(kernel: Kernel, points: np.ndarray, num: int, batch: Batch, max_memory: int | None) -> Timing:
    points = np.resize(points, (kernel.max_points, points.shape[1]))
    if batch != "auto":
        return time_once(kernel.with_width(batch), points)
    return tune(kernel, points, num, max_memory)


def _spread(grid: Grid, num: int = 4096) -> np.ndarray:
    """Points all over the grid in a random order, the same each time, for timing."""
    flat = np.random.default_rng(0).integers(0, grid.size, min(num, 4 * grid.size))
    return grid.points_at(flat)
