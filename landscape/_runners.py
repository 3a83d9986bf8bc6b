"""Who computes the points of a sweep: this process's own devices (`Local`) or an executor's workers (`Remote`)."""

import concurrent.futures
import hashlib
import itertools
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from landscape._batching import Kernel, Pending, Strategy, Timing, coords_dtype, is_out_of_memory, time_once, tune
from landscape.grid import Grid

IN_FLIGHT = 32  # jobs given to an executor at a time

Batch = int | Strategy | Literal["auto"]
Job = tuple[int, np.ndarray]  # a number to know it by, and float64 points (n, k)
Values = dict[str, np.ndarray]
Say = Callable[[str], None]


class Runner(Protocol):
    """Who computes points."""

    names: list[str]

    def timing(self, batch: Batch, max_memory: int | None, num_points: int) -> Timing:
        """Choose a strategy for so many points, or time the one that was asked for."""
        ...

    def values(self, strategy: Strategy, jobs: Iterable[Job], say: Say) -> Generator[tuple[int, Values]]:
        """Values at the points of each job, in any order."""
        ...


class Local:
    """Runs jobs on this process's devices."""

    def __init__(self, fn: Any, grid: Grid, devices: tuple[jax.Device, ...]) -> None:
        self.kernel, self.grid = Kernel.build(fn, grid.ndim, devices, grid.size), grid
        self._kernels: dict[Strategy, Kernel] = {}
        self.names = [f"{d.platform}:{d.id} {d.device_kind}" for d in devices]

    def timing(self, batch: Batch, max_memory: int | None, num_points: int) -> Timing:
        return _timing(self.kernel, _spread(self.grid), num_points, batch, max_memory)

    def values(self, strategy: Strategy, jobs: Iterable[Job], say: Say) -> Generator[tuple[int, Values]]:
        """The jobs in turn; the next one is computed while one is handed over."""
        kernel = self._kernels.setdefault(strategy, self.kernel.using(strategy))
        shrinking = _Shrinking(kernel, say)
        flying: deque[tuple[int, Any]] = deque()
        for number, points in jobs:
            flying.append((number, shrinking.start(points)))
            if len(flying) > 1:
                yield flying[0][0], flying.popleft()[1]()
        for number, wait in flying:
            yield number, wait()


class _Shrinking:
    """A kernel that halves its width when the device runs out of memory, saying so once."""

    def __init__(self, kernel: Kernel, say: Say) -> None:
        self.kernel, self.say, self.said = kernel, say, False

    def start(self, points: np.ndarray) -> Callable[[], Values]:
        """Begin to evaluate; the returned function waits for the values."""
        width = self.kernel.width
        try:
            pending = self.kernel(points)
        except jax.errors.JaxRuntimeError as error:
            return partial(self._again, points, width, error)
        return partial(self._wait, points, width, pending)

    def _wait(self, points: np.ndarray, width: int, pending: Pending) -> Values:
        try:
            return pending.wait()
        except jax.errors.JaxRuntimeError as error:
            return self._again(points, width, error)

    def _again(self, points: np.ndarray, width: int, error: jax.errors.JaxRuntimeError) -> Values:
        """Evaluate anew after a failure at `width`; another tile may have halved the kernel's width already."""
        if not is_out_of_memory(error) or width == 1:
            raise error
        if self.kernel.width >= width:
            self.kernel = self.kernel.narrower()
        if not self.said:
            self.say(f"the device is out of memory; going on with {self.kernel.width} points at a time or fewer")
            self.said = True
        return self.start(points)()


class Remote:
    """Runs jobs on the workers of an executor."""

    def __init__(self, fn: Any, grid: Grid, executor: concurrent.futures.Executor) -> None:
        payload = _pickle((fn, grid.ndim))
        self.task = (hashlib.sha256(payload).hexdigest(), payload, coords_dtype() == jnp.float64)
        self.executor, self.grid = executor, grid
        self.names = [f"workers of {type(executor).__name__}"]

    def timing(self, batch: Batch, max_memory: int | None, num_points: int) -> Timing:
        """Tuned by a worker, on the worker's devices."""
        points = _spread(self.grid)
        return self.executor.submit(_timing_at_worker, *self.task, points, num_points, batch, max_memory).result()

    def values(self, strategy: Strategy, jobs: Iterable[Job], say: Say) -> Generator[tuple[int, Values]]:
        """The jobs as they come back, a few handed out ahead."""
        queue, flying = iter(jobs), {}

        def hand_out(count: int) -> None:
            for number, points in itertools.islice(queue, count):
                flying[self.executor.submit(_values_at_worker, *self.task, strategy, points)] = number

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


_KERNELS: dict[Any, Kernel] = {}  # at a worker, kept between jobs so that it compiles once


def _kernel_at_worker(digest: str, payload: bytes, x64: bool, strategy: Strategy) -> Kernel:
    if (digest, x64, strategy) not in _KERNELS:
        if len(_KERNELS) >= 8:
            _KERNELS.clear()
        fn, num_coords = pickle.loads(payload)
        kernel = _KERNELS.get((digest, x64, Strategy())) or Kernel.build(fn, num_coords, jax.local_devices())
        _KERNELS[digest, x64, Strategy()] = kernel
        _KERNELS[digest, x64, strategy] = kernel.using(strategy)
    return _KERNELS[digest, x64, strategy]


def _timing_at_worker(
    digest: str, payload: bytes, x64: bool, points: np.ndarray, num: int, batch: Batch, memory: Any
) -> Timing:
    with jax.enable_x64(x64):
        return _timing(_kernel_at_worker(digest, payload, x64, Strategy()), points, num, batch, memory)


def _values_at_worker(digest: str, payload: bytes, x64: bool, strategy: Strategy, points: np.ndarray) -> Values:
    with jax.enable_x64(x64):
        return _Shrinking(_kernel_at_worker(digest, payload, x64, strategy), print).start(points)()


def _timing(kernel: Kernel, points: np.ndarray, num: int, batch: Batch, max_memory: int | None) -> Timing:
    points = np.resize(points, (kernel.max_points, points.shape[1]))
    if batch == "auto":
        return tune(kernel, points, num, max_memory)
    return _time_fitting(kernel.using(batch if isinstance(batch, Strategy) else Strategy(batch)), points)


def _time_fitting(kernel: Kernel, points: np.ndarray) -> Timing:
    """Time the strategy that was asked for, or half, a quarter, ... of its width, whatever fits into the memory."""
    try:
        return time_once(kernel, points)
    except jax.errors.JaxRuntimeError as error:
        if kernel.width == 1 or not is_out_of_memory(error):
            raise
    return _time_fitting(kernel.narrower(), points)


def _spread(grid: Grid, num: int = 4096) -> np.ndarray:
    """Points all over the grid in a random order, the same each time, for timing."""
    flat = np.random.default_rng(0).integers(0, grid.size, min(num, 4 * grid.size))
    return grid.points_at(flat)
