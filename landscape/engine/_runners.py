"""Who computes the points of a sweep: this process's own devices (`Local`) or an executor's workers (`Remote`)."""

import concurrent.futures
import hashlib
import itertools
import math
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from landscape.engine._kernel import Kernel, Pending, Strategy, is_out_of_memory
from landscape.engine._tuning import Timing, time_once, tune
from landscape.grid import Grid
from landscape.point import coords_dtype, matmul_precision, precision_now

IN_FLIGHT = 32  # jobs given to an executor at a time
MAX_KNOWN = 8  # point functions that a worker keeps

Batch = int | Strategy | Literal["auto"]
Job = tuple[int, np.ndarray]  # a number to know it by, and float64 points (n, k)
Values = dict[str, np.ndarray]
Say = Callable[[str], None]


class Runner(Protocol):
    """Who computes points. A strategy that was asked for is a wish: it is narrowed to what the memory holds."""

    names: list[str]

    def timing(self, batch: Batch, max_memory: int | None, num_points: int) -> Timing:
        """Choose a strategy for so many points, or time the one that was asked for, as narrow as it has to be."""
        ...

    def values(
        self, strategy: Strategy, max_memory: int | None, jobs: Iterable[Job], say: Say
    ) -> Generator[tuple[int, Values]]:
        """Values at the points of each job, in any order."""
        ...


class Local:
    """Runs jobs on this process's devices."""

    def __init__(self, fn: Any, grid: Grid, devices: tuple[jax.Device, ...]) -> None:
        self.kernel, self.grid = Kernel.build(fn, grid.ndim, devices, grid.size), grid
        self._shrinking: dict[Any, _Shrinking] = {}
        self.names = [f"{d.platform}:{d.id} {d.device_kind}" for d in devices]

    def timing(self, batch: Batch, max_memory: int | None, num_points: int) -> Timing:
        points = np.resize(_spread(self.grid), (self.kernel.max_points, self.grid.ndim))
        if batch == "auto":
            timing = tune(self.kernel, points, num_points, max_memory)
            self._fitted(timing.strategy, max_memory).use_threads(timing.threads)
            return timing
        asked = batch if isinstance(batch, Strategy) else Strategy(batch)
        return self._fitted(asked, max_memory).timing(points, num_points)

    def values(
        self, strategy: Strategy, max_memory: int | None, jobs: Iterable[Job], say: Say
    ) -> Generator[tuple[int, Values]]:
        """The jobs in turn; the next one is computed while one is handed over."""
        shrinking = self._fitted(strategy, max_memory)
        flying: deque[tuple[int, Any]] = deque()
        for number, points in jobs:
            flying.append((number, shrinking.start(points, say)))
            if len(flying) > 1:
                yield flying[0][0], flying.popleft()[1]()
        for number, wait in flying:
            yield number, wait()

    def values_at(self, strategy: Strategy, max_memory: int | None, points: np.ndarray) -> Values:
        """Values at some points, for whoever hands out the jobs."""
        return self._fitted(strategy, max_memory).start(points, print)()

    def feed(self, fn: Any) -> None:
        """Go on with other arrays of the same shapes."""
        self.kernel = self.kernel.over(fn)
        for shrinking in self._shrinking.values():
            shrinking.kernel = shrinking.kernel.over(self.kernel.fn)

    def _fitted(self, strategy: Strategy, max_memory: int | None) -> "_Shrinking":
        """The kernel of a strategy, kept from call to call, so that what did not fit is not tried again."""
        key = strategy, max_memory
        if key not in self._shrinking:
            self._shrinking[key] = _Shrinking(self.kernel.using(strategy), max_memory)
        return self._shrinking[key]


class _Shrinking:
    """A kernel that goes on with one thread, then halves its width, until it fits into the memory, saying so once.

    It has to fit into `max_memory` by what the compiler says of its temporaries, and into what the device really has.
    """

    def __init__(self, kernel: Kernel, max_memory: int | None) -> None:
        self.kernel, self.asked, self.said, self.why = kernel, kernel.width, False, "out of memory"
        self.allowed = math.inf if max_memory is None else max_memory

    def use_threads(self, threads: int) -> None:
        """Go on with a number of threads that was found to be the faster one."""
        self.kernel = self.kernel.using(self.kernel.strategy, threads)

    def timing(self, points: np.ndarray, num_points: int) -> Timing:
        """How fast the widest is that fits."""
        kernel = self._fit()
        try:
            timing = time_once(kernel, points, num_points)
        except jax.errors.JaxRuntimeError as error:
            self._narrow(kernel, error)
            return self.timing(points, num_points)
        self.use_threads(timing.threads)
        return timing

    def start(self, points: np.ndarray, say: Say) -> Callable[[], Values]:
        """Begin to evaluate; the returned function waits for the values."""
        kernel = self._fit()
        if kernel.width < self.asked and not self.said:
            self.said = True
            say(f"{self.why}: going on with {kernel.width} points at a time or fewer, not {self.asked}")
        try:
            pending = kernel(points)
        except jax.errors.JaxRuntimeError as error:
            return partial(self._again, points, kernel, error, say)
        return partial(self._wait, points, kernel, pending, say)

    def _wait(self, points: np.ndarray, kernel: Kernel, pending: Pending, say: Say) -> Values:
        try:
            return pending.wait()
        except jax.errors.JaxRuntimeError as error:
            return self._again(points, kernel, error, say)

    def _again(self, points: np.ndarray, kernel: Kernel, error: jax.errors.JaxRuntimeError, say: Say) -> Values:
        self._narrow(kernel, error)
        return self.start(points, say)()

    def _fit(self) -> Kernel:
        """The kernel, narrowed to what its temporaries may take."""
        self.kernel = self.kernel.checked()
        while self.allowed < math.inf and not self.kernel.narrowest and self._takes_too_much(self.kernel):
            self.kernel, self.why = self.kernel.narrower(), f"max_memory={self.allowed:,} bytes"
        return self.kernel

    def _takes_too_much(self, kernel: Kernel) -> bool:
        try:
            return kernel.temp_bytes > self.allowed
        except jax.errors.JaxRuntimeError as error:
            if is_out_of_memory(error):
                return True
            raise

    def _narrow(self, failed: Kernel, error: jax.errors.JaxRuntimeError) -> None:
        """Narrow after a failure; another tile that failed may have done so already."""
        if failed.narrowest or not is_out_of_memory(error):
            raise error
        if self.kernel.step >= failed.step:
            self.kernel, self.why = self.kernel.narrower(), "out of memory"


class Remote:
    """Runs jobs on the workers of an executor.

    The point function, with its data, is large beside a job: it is sent to a worker that does not know it, and by its
    digest alone to the others.
    """

    def __init__(self, fn: Any, grid: Grid, executor: concurrent.futures.Executor) -> None:
        self.payload = _pickle((fn, grid))
        self.digest = hashlib.sha256(self.payload).hexdigest()
        self.settings = (coords_dtype() == jnp.float64, precision_now())
        self.executor = executor
        self.names = [f"workers of {type(executor).__name__}"]

    def timing(self, batch: Batch, max_memory: int | None, num_points: int) -> Timing:
        """Tuned by a worker, on the worker's devices."""
        return self._submit(self.payload, "timing", batch, max_memory, num_points).result()

    def values(
        self, strategy: Strategy, max_memory: int | None, jobs: Iterable[Job], say: Say
    ) -> Generator[tuple[int, Values]]:
        """The jobs as they come back, a few handed out ahead."""
        queue, flying = iter(jobs), {}

        def hand_out(job: Job, payload: bytes | None = None) -> None:
            flying[self._submit(payload, "values_at", strategy, max_memory, job[1])] = job

        try:
            for job in itertools.islice(queue, IN_FLIGHT):
                hand_out(job)
            while flying:
                done, _ = concurrent.futures.wait(flying, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    job, values = flying.pop(future), future.result()
                    if values is None:
                        hand_out(job, self.payload)
                        continue
                    yield job[0], values
                    for following in itertools.islice(queue, 1):
                        hand_out(following)
        except concurrent.futures.BrokenExecutor as error:
            error.add_note("the workers died; what was finished is in the store, if there is one: call again to resume")
            raise
        finally:
            for future in flying:
                future.cancel()

    def _submit(self, payload: bytes | None, method: str, *arguments: Any) -> concurrent.futures.Future:
        return self.executor.submit(_at_worker, self.digest, payload, self.settings, method, *arguments)


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


_KNOWN: dict[Any, Local] = {}  # at a worker, kept between jobs so that it compiles once


def _at_worker(digest: str, payload: bytes | None, settings: tuple[bool, str], method: str, *arguments: Any) -> Any:
    """Call a method of `Local` at a worker; None where the point function is not known there and was not sent.

    A value, not an exception: some executors log every exception as a failure.
    """
    x64, precision = settings
    with jax.enable_x64(x64), matmul_precision(precision):
        local = _KNOWN.get((digest, settings))
        if local is None:
            if payload is None:
                return None
            local = Local(*pickle.loads(payload), tuple(jax.local_devices()))
            while len(_KNOWN) >= MAX_KNOWN:
                _KNOWN.pop(next(iter(_KNOWN)), None)  # another thread may have been first
            _KNOWN[digest, settings] = local
        return getattr(local, method)(*arguments)


def _spread(grid: Grid, num: int = 4096) -> np.ndarray:
    """Points all over the grid in a random order, the same each time, for timing."""
    flat = np.random.default_rng(0).integers(0, grid.size, min(num, 4 * grid.size))
    return grid.points_at(flat)
