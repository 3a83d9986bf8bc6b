"""How many points a kernel takes at a time: the measured choice of its strategy and its threads.

Both are measured on the user's own function, because no rule predicts them: on a CPU, `vmap` over convolution
kernels is several times slower than a loop, while for a small net it is many times faster, and past the size of
the cache wider is slower again (`benchmarks/batching.py`). Small programs gain from a thread for every core; large
matrix products, which XLA divides among the cores by itself, may lose.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.checks import warn
from landscape.engine._kernel import (
    Kernel,
    OutOfPatience,
    Strategy,
    default_memory,
    is_out_of_memory,
    last_line,
)
from landscape.placement import places_of
from landscape.point import coords_dtype, precision_now, refusal

# Ratio of neighbouring widths tried first, and of those tried around the best. Steps of hoisted widths are finer: what
# a step shares soon outweighs what each point adds, and then more points only fill the cache.
COARSE, FINE = 16, 4
COARSE_HOISTED, FINE_HOISTED = 8, 2
PROBE_SECONDS = 0.04
CLOSE = 1.7  # widths within this factor of the best are timed again in turns
LEVEL = 1.25  # a climb goes on over a level stretch ...
PATIENCE = 2  # ... and over one step that is worse: where XLA begins to use more cores, they cost more than they bring
HOPELESS = 3  # where some points at a time take so many times as long each, more will not help
TRIAL = 10  # a trial is given up after so many times what compiling and the same points take otherwise, and ...
GRACE = 10.0  # ... so many seconds, as another program may have the machine just then
PLAY_OFF_ROUNDS = 5
PLAY_OFF_SHARE = 0.5  # of the time of the sweep, at most
THREADS_GAIN = 0.25  # share of the time that another number of threads may save
BETTER = 0.9  # a wider step must take at most this share of the time per point, or it is not worth its memory
MAX_CHOICES = 256

_CHOICES: dict[Any, "Timing"] = {}


@dataclass(frozen=True)
class Timing:
    """What was measured of one strategy: seconds a point, seconds to compile, bytes of temporaries.

    Attributes:
        threads: calls at a time (`Kernel.threads`).
        settled: whether no further strategy was left untried for want of points.
        num_points: points evaluated with it so far, or about to be.
        tuned_for: how many there were when it was chosen.
        tried: the timings that it was chosen from.
        overhead: seconds that a tile takes whatever its points, to read data.
    """

    strategy: Strategy
    seconds: float
    compile_seconds: float = 0.0
    temp_bytes: int = 0
    threads: int = 1
    settled: bool = False
    num_points: int = 0
    tuned_for: int = 0
    tried: tuple["Timing", ...] = ()
    overhead: float = 0.0


def measure(kernel: Kernel, points: np.ndarray, max_memory: float = math.inf) -> Timing | None:
    """Time one strategy on real points, or `None` where its temporaries take more than `max_memory` bytes a device.

    The first call is a warm-up and never counts; the number of points then grows until a run is long enough that the
    fixed cost of a call does not matter. A kernel of finite patience first runs one step from one thread: if it does
    not end, it has no more than one of XLA's threads.
    """
    start = time.perf_counter()
    kernel = kernel.checked()
    temporaries = kernel.temp_bytes
    compile_seconds = time.perf_counter() - start
    if temporaries > max_memory:
        return None
    if kernel.patience < math.inf:
        kernel.using(kernel.strategy, 1, kernel.patience)(points[: kernel.width]).wait()
        kernel = kernel.using(kernel.strategy)
    step, limit = kernel.step, min(len(points), kernel.max_points)
    count = min(step, limit)
    warm = _seconds(kernel, points[:count])
    spent = warm if warm > 4 * PROBE_SECONDS else _seconds(kernel, points[:count])
    while spent < PROBE_SECONDS and count < limit:
        grown = count * np.clip(1.2 * PROBE_SECONDS / spent, 2, 16)
        count = min(limit, math.ceil(grown / step) * step)
        spent = _seconds(kernel, points[:count])
    for _ in range(int(np.clip(3 * PROBE_SECONDS / spent, 1, 3)) - 1):
        spent = min(spent, _seconds(kernel, points[:count]))
    return Timing(kernel.strategy, spent / count, compile_seconds, temporaries, kernel.threads)


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
        kernel: the point function, with as many threads as there may be; its own strategy is not used.
        points: coordinates to time on, `(m, k)`; more of them than the widest step, repeated if need be.
        num_points: points that the sweep will evaluate.
        max_memory: bytes that the temporaries of one device may take; `None` for `default_memory`.
    """
    key, given_up = _key(kernel, ("auto", max_memory)), (_function(kernel), "given up")
    if given_up in _CHOICES:
        return _CHOICES[given_up]
    known = _CHOICES.get(key, Timing(Strategy(), math.inf))
    total = known.num_points + num_points
    if known.settled or (known.tried and total < 2 * known.tuned_for):
        return _remember(key, dataclasses.replace(known, num_points=total))
    climb = _Climb(kernel, points, total, max_memory, known.tried)
    chosen = climb.best_of_all()
    return _remember(given_up if climb.stuck else key, chosen)


def time_once(kernel: Kernel, points: np.ndarray, num_points: int) -> Timing:
    """The timing of a strategy that was asked for, with all threads or with one; remembered as by `tune`."""
    key = _key(kernel, ("fixed", kernel.strategy))
    if key in _CHOICES:
        return _CHOICES[key]
    timing = measure(kernel, points)
    assert timing is not None
    # a try costs a step of every thread, and nothing to compile
    if timing.threads > 1 and THREADS_GAIN * num_points >= 2 * kernel.step:
        alone = measure(kernel.using(kernel.strategy, threads=1), points)
        assert alone is not None
        timing = alone if alone.seconds < BETTER * timing.seconds else timing
    return _remember(key, timing)


def _remember(key: Any, timing: Timing) -> Timing:
    """Keep a choice; the oldest one goes when there are many, since a key holds on to the user's function."""
    _CHOICES[key] = timing
    while len(_CHOICES) > MAX_CHOICES:
        del _CHOICES[next(iter(_CHOICES))]
    return timing


class _Climb:
    """One search: coarse steps of width up while they help, the neighbours of the best, a play-off of the close.

    Where points can share work, the widths climbed are hoisted ones, and the best of them meets a plain one. The
    climb has all threads or one, whichever is faster at width 1, and the best meets its twin with the other number.
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
        self.settled, self.closed, self.stuck = True, False, False
        self.timings = {(timing.strategy, timing.threads): timing for timing in tried}
        if not self.timings:
            first = measure(kernel.using(Strategy()), points)
            assert first is not None
            self.timings = {(first.strategy, first.threads): first}
        self.compile_seconds = max(timing.compile_seconds for timing in self.timings.values())
        self.every = max(timing.threads for timing in self.timings.values())  # fewer where calls must not overlap
        self.kernel = kernel.using(Strategy(), self._try_threads(Strategy(), self.every))
        self.hoist = self._pays(Strategy(COARSE_HOISTED), gain=0.9) and kernel.num_hoisted() > 0

    @property
    def best(self) -> Timing:
        return min(self.timings.values(), key=lambda timing: timing.seconds)

    def best_of_all(self) -> Timing:
        """The choice among what was tried before and what is tried now."""
        if self._worth_a_climb():
            self._climb()
            self._try_threads(self.best.strategy, self.best.threads)
        chosen = self._play_off([t for t in self.timings.values() if t.seconds < CLOSE * self.best.seconds])
        so_far = {"num_points": self.num_points, "tuned_for": self.num_points, "tried": tuple(self.timings.values())}
        return dataclasses.replace(chosen, settled=self.settled, **so_far)

    def _try_threads(self, strategy: Strategy, threads: int) -> int:
        """The faster number of threads for a strategy timed with `threads` of them: all, or one."""
        if self.every > 1:
            self._measure(strategy, THREADS_GAIN, 1 if threads > 1 else self.every)
        known = [t for t in self.timings.values() if t.strategy == strategy]
        return min(known, key=lambda timing: timing.seconds).threads

    def _worth_a_climb(self) -> bool:
        """Whether the first coarse step may be tried.

        It costs many points. Where each takes long, two at a time come first: convolutions on a CPU, for one, take ten
        times as long under `vmap`, and half a minute would be gone before that is known. What cannot be vmapped stays
        at one point at a time, whatever the number of points.
        """
        if refusal(self.kernel.fn, self.kernel.num_coords) is not None:
            return False
        single, pair = self._timing(Strategy()), Strategy(2)
        assert single is not None
        if single.seconds * self.kernel.threads <= PROBE_SECONDS:
            return True
        known = self._timing(pair) or self._measure(pair, gain=0.5)
        return known is not None and known.seconds < HOPELESS * single.seconds

    def _climb(self) -> None:
        """Coarse steps of width up while they help, then the neighbours of the best, and a plain one."""
        coarse, fine = (COARSE_HOISTED, FINE_HOISTED) if self.hoist else (COARSE, FINE)
        width, patience = coarse, PATIENCE
        while width <= self.kernel.capacity and patience:
            patience -= not self._try(width, gain=0.9 if width == coarse else 0.5 * patience / PATIENCE)
            known = self._timing(Strategy(width, self.hoist))
            if known is not None and known.seconds > HOPELESS * self.best.seconds:
                break
            width *= coarse
        for neighbour in (self.best.strategy.width * fine, self.best.strategy.width // fine):
            if 1 < neighbour <= self.kernel.capacity:
                self._try(neighbour, gain=0.25)
        if self.hoist:  # a plain one too; where no hoisted width is faster than one point at a time, a few at a time
            best = self.best.strategy.width
            self._measure(Strategy(best if best > 1 else FINE), gain=0.25)

    def _try(self, width: int, gain: float) -> bool:
        """Time a width unless it cannot pay; whether to climb on, as it was about as fast as the best."""
        best, strategy = self.best.seconds, Strategy(width, self.hoist)
        timing = self._timing(strategy) or self._measure(strategy, gain)
        return timing is not None and timing.seconds <= LEVEL * best

    def _timing(self, strategy: Strategy) -> Timing | None:
        return self.timings.get((strategy, self.kernel.threads))

    def _pays(self, strategy: Strategy, gain: float, threads: int | None = None) -> bool:
        """Whether the points to come could win back what a trial costs, if it saves that share of their time."""
        best, compiled = self.best.seconds, any(known == strategy for known, _ in self.timings)
        step = strategy.width * max(threads or 1, self.kernel.threads)
        return gain * best * self.num_points >= (0 if compiled else self.compile_seconds) + 2 * step * best

    def _play_off(self, close: list[Timing]) -> Timing:
        """Time close ones again, in turns, since a machine's speed drifts; the narrowest that is about the best."""
        cost = PLAY_OFF_ROUNDS * sum(max(PROBE_SECONDS, t.seconds * t.strategy.width * t.threads) for t in close)
        if len(close) > 1 and cost < PLAY_OFF_SHARE * self.best.seconds * self.num_points:
            runs = np.array([[self._run(t) for t in close] for _ in range(PLAY_OFF_ROUNDS)])
            close = [dataclasses.replace(t, seconds=float(s)) for t, s in zip(close, np.median(runs, axis=0))]
        fastest = min(t.seconds for t in close)
        narrow = [t for t in close if BETTER * t.seconds <= fastest]
        return min(narrow, key=lambda t: (t.strategy.width, t.seconds))

    def _run(self, timing: Timing) -> float:
        """Seconds a point of a run of about the probe's length."""
        kernel = self.kernel.using(timing.strategy, timing.threads)
        limit = min(len(self.points), kernel.max_points)
        count = min(limit, max(1, round(PROBE_SECONDS / (timing.seconds * kernel.step))) * kernel.step)
        return _seconds(kernel, self.points[:count]) / count

    def _measure(self, strategy: Strategy, gain: float, threads: int | None = None) -> Timing | None:
        """Time a new strategy that could pay, or None; also where it does not fit into the memory."""
        kernel = self.kernel.using(strategy, threads)
        if self.closed or (strategy, kernel.threads) in self.timings:
            return None
        if not self._pays(strategy, gain, kernel.threads):
            self.settled = False
            return None
        timing = self._trial(kernel)
        if timing is not None:
            self.compile_seconds = max(self.compile_seconds, timing.compile_seconds)
            self.timings[strategy, kernel.threads] = timing
        return timing

    def _trial(self, kernel: Kernel, limit: float | None = None) -> Timing | None:
        """Time a kernel that nobody asked for: what goes wrong is a reason to leave it, not to stop the sweep."""
        limit = self._limit(kernel) if limit is None else limit
        try:
            return measure(kernel.using(kernel.strategy, patience=limit), self.points, self.memory)
        except OutOfPatience:
            usual = _seconds(self.kernel.using(self.best.strategy, 1), self.points[: kernel.width])
            if TRIAL * usual > limit:  # these points take longer than those timed before
                return self._trial(kernel, 2 * TRIAL * usual)
            self._close(
                f"a trial of {kernel.width} points at a time had not ended after {limit:.0f} s, where they take "
                f"{usual:.2g} s otherwise, and is given up. XLA cannot stop it: it keeps a core busy until it ends or "
                f"this process does. batch={self.best.strategy.width} tries nothing"
            )
            self.stuck = True
        except Exception as error:
            if not is_out_of_memory(error):
                self._close(
                    f"{kernel.width} points at a time were tried, and fail where fewer do not, which go on. "
                    f"batch={self.best.strategy.width} tries nothing. {last_line(error)}"
                )
        return None

    def _limit(self, kernel: Kernel) -> float:
        """Seconds that compiling or a first step may take; no end where the rest could not go on beside it."""
        if len(kernel.devices) > 1 or kernel.devices[0].platform != "cpu":
            return math.inf
        usual = self.compile_seconds + kernel.width * self.best.seconds * self.best.threads
        return TRIAL * usual + GRACE

    def _close(self, reason: str) -> None:
        """Say why nothing more is tried."""
        self.closed = True
        warn(reason)


def _key(kernel: Kernel, request: Any) -> Any:
    shape = kernel.num_coords, kernel.capacity, kernel.threads
    return _function(kernel), shape, str(coords_dtype()), precision_now(), request


def _function(kernel: Kernel) -> Any:
    leaves, treedef = jax.tree.flatten(kernel.fn)
    avals = tuple((jnp.shape(x), str(jnp.result_type(x)), getattr(x, "weak_type", None)) for x in leaves)
    return treedef, avals, kernel.devices, kernel.mesh, places_of(kernel.fn)


def choices() -> list["Timing"]:
    """What was chosen in this process so far, for each program and grid size."""
    return list(_CHOICES.values())


@contextlib.contextmanager
def forgotten() -> Generator[None]:
    """Tune anew inside this block (for benchmarks)."""
    saved = dict(_CHOICES)
    _CHOICES.clear()
    try:
        yield
    finally:
        _CHOICES.update(saved)
