"""A sweep of every point: equal tiles in C order, kept in memory or in a run store, and resumed from there."""

import contextlib
import dataclasses
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from landscape import __version__
from landscape._batching import Timing
from landscape._caller import warn
from landscape._fingerprint import fingerprint
from landscape._kernel import Strategy, capacity, coords_dtype, output_shapes
from landscape._layout import Layout, check_storable, row_tile
from landscape._progress import Interrupted, Progress, interruptible
from landscape._runners import Batch, Runner
from landscape.grid import Grid, Landscape
from landscape.store import PlanMismatch, RunStore, check_place, is_run, open_run

TILE_SECONDS = 1.0
MAX_TILES = 4096


@dataclass(frozen=True, eq=False)
class Task:
    """What a sweep was asked for, checked."""

    fn: Any
    grid: Grid
    runner: Runner
    batch: Batch
    max_memory: int | None
    path: Any
    progress: bool | Literal["auto"]

    def timing(self, num_points: int) -> tuple[Timing, Strategy]:
        """How fast points go by, and the strategy to go by: the one chosen, or the one asked for whatever fits now.

        How fast is unknown where one step of a given width does it all. What was asked for is narrowed where points are
        computed, to what the memory holds there and then; were that the plan, the same call might not resume it.
        """
        if self.batch == "auto":
            timing = self.runner.timing("auto", self.max_memory, num_points)
            return timing, timing.strategy
        asked = _asked_for(self.batch)
        if self.grid.size <= asked.width:
            return Timing(asked, 0.0), asked
        return self.runner.timing(asked, self.max_memory, num_points), asked


@dataclass(frozen=True, eq=False)
class Job:
    """One sweep: its tiles, the strategy they are computed with, and where finished ones go."""

    layout: Layout
    strategy: Strategy
    store: RunStore | None
    plan: dict[str, Any]

    @classmethod
    def begin(cls, task: Task, num_points: int, extra: dict[str, Any]) -> "Job":
        """Plan the tiles, or take the plan over from the store that is to be resumed.

        Args:
            task: what was asked for.
            num_points: points that will be evaluated, to tune for.
            extra: further entries of the plan.
        """
        fn, grid, path = task.fn, task.grid, task.path
        if path is None:
            timing, strategy = task.timing(num_points)
            return cls(layout_for(fn, grid, timing), strategy, None, _batching(strategy) | extra)
        check_place(path)  # before anything is compiled or timed
        check_storable(output_types(fn, grid), grid.names)
        what = fingerprint(fn, grid) | extra
        if is_run(path):
            strategy = _stored_strategy(path) if task.batch == "auto" else _asked_for(task.batch)
            layout = layout_for(fn, grid, Timing(strategy, 1.0))
            store = open_run(path, what | _batching(strategy), layout, _first_meta())
        else:
            timing, strategy = task.timing(num_points)
            store = _create_or_join(path, what | _batching(strategy), layout_for(fn, grid, timing), task.batch)
        layout = dataclasses.replace(store.layout, grid=grid)
        return cls(layout, Strategy(**store.plan["batching"]), store, store.plan)

    def meta(self) -> dict[str, Any]:
        """The plan and where it ran."""
        return {"plan": self.plan, "provenance": provenance()}


def run(task: Task, shard: tuple[int, int] | None) -> Landscape:
    """Compute the tiles that are missing and return everything that is known."""
    job = Job.begin(task, task.grid.size, {})
    layout = job.layout
    keep = _InMemory(layout) if job.store is None else _InStore(job.store, layout)
    index, count = shard or (0, 1)
    mine = range(index, layout.num_tiles, count)
    finished = keep.finished(set(mine))
    todo = [tile for tile in mine if tile not in finished]
    done = sum(map(layout.size, finished.intersection(mine)))
    progress = Progress(sum(map(layout.size, mine)), done, task.progress)
    start = time.perf_counter()
    jobs = ((tile, layout.points(tile)) for tile in todo)
    tiles = task.runner.values(job.strategy, task.max_memory, jobs, progress.say)
    with contextlib.closing(progress), contextlib.closing(tiles), keep.interruptible() as stop:
        for number, (tile, values) in enumerate(tiles, 1):
            keep.write(tile, values)
            progress.advance(layout.size(tile))
            if stop.is_set() and number < len(todo):
                raise Interrupted(f"stopped after {number} tiles; the same call resumes {keep.where}")
    call = call_record(sum(map(layout.size, todo)), start, task)
    landscape = keep.landscape(job.meta(), call)
    if stop.is_set():
        raise Interrupted(f"finished and stored; the same call reads it {keep.where}")
    return landscape


def call_record(evaluations: int, start: float, task: Task) -> dict[str, Any]:
    """What one call did, for the landscape's meta."""
    seconds = round(time.perf_counter() - start, 3)
    return {"evaluations": evaluations, "seconds": seconds, "devices": task.runner.names}


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
        return intact(self.store, self.layout, mine)

    def interruptible(self) -> contextlib.AbstractContextManager[threading.Event]:
        return interruptible()

    def write(self, tile: int, values: Mapping[str, np.ndarray]) -> None:
        self.store.write(self.layout, tile, values)

    def landscape(self, meta: dict[str, Any], call: dict[str, Any]) -> Landscape:
        if call["evaluations"]:
            record(self.store, meta, call)
        return read_on(self.layout.grid, self.store)


def read_on(grid: Grid, store: RunStore) -> Landscape:
    """What a store holds, on the grid of this call: the labels of its axes are no part of the plan."""
    return dataclasses.replace(store.read(), grid=grid)


def intact(store: RunStore, layout: Layout, mine: set[int]) -> set[int]:
    """The finished tiles; damaged ones among `mine` are discarded, with a warning."""
    for tile in store.damaged(layout, mine):
        warn(f"tile {tile} of {store.path} is damaged and is computed again")
        store.discard(layout, tile)
    return store.finished()


def record(store: RunStore, meta: dict[str, Any], call: dict[str, Any]) -> None:
    """Add what this call did to the meta of a store."""
    store.update_meta(lambda earlier: earlier | meta | {"calls": [*earlier.get("calls", []), call]})


def layout_for(fn: Any, grid: Grid, timing: Timing) -> Layout:
    """Tiles of about a second, so that little is lost when a run is killed, but not too many files."""
    wanted = max(TILE_SECONDS / max(timing.seconds, 1e-9), grid.size / MAX_TILES, timing.strategy.width)
    target = int(min(wanted, capacity(fn, grid.ndim)))
    return Layout(grid, output_types(fn, grid), row_tile(grid.shape, target, timing.strategy.width))


def output_types(fn: Any, grid: Grid) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """`{output: (shape at a point, dtype)}`."""
    return {name: (tuple(s.shape), np.dtype(s.dtype)) for name, s in output_shapes(fn, grid.ndim).items()}


def _batching(strategy: Strategy) -> dict[str, Any]:
    return {"batching": {"width": strategy.width} | ({"hoist": True} if strategy.hoist else {})}


def _stored_strategy(path: Any) -> Strategy:
    batching = RunStore(Path(path)).plan.get("batching")
    return Strategy(**batching) if isinstance(batching, dict) else Strategy(1)  # of no sweep: the plans will differ


def _asked_for(batch: Any) -> Strategy:
    return batch if isinstance(batch, Strategy) else Strategy(batch)


def _create_or_join(path: Any, plan: dict[str, Any], layout: Layout, batch: Batch) -> RunStore:
    """Create the store; where another process was first and tuned to another strategy, take over its choice."""
    try:
        return open_run(path, plan, layout, _first_meta())
    except PlanMismatch as mismatch:
        if batch != "auto" or not mismatch.differences.keys() <= {"batching.width", "batching.hoist"}:
            raise
        return RunStore(Path(path))


def _first_meta() -> dict[str, Any]:
    return {"provenance": provenance(), "calls": []}


def provenance() -> dict[str, Any]:
    """Versions, precision and time."""
    return {
        "landscape": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "precision": str(coords_dtype()),
        "matmul_precision": "highest",
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
