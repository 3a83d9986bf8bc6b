"""A sweep as a task and as a job: its timing, its layout on disk, how it is stopped and how it ends, its record."""

import contextlib
import dataclasses
import platform
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from landscape import __version__
from landscape.checks import warn
from landscape.engine._fingerprint import fingerprint
from landscape.engine._kernel import Strategy, capacity
from landscape.engine._progress import Interrupted, interruptible
from landscape.engine._runners import Batch, Runner
from landscape.engine._tuning import Timing
from landscape.grid import Grid, Landscape
from landscape.point import Prepared, coords_dtype, precision_now
from landscape.store import PlanMismatch, RunStore, check_place, is_run, open_run
from landscape.store._layout import Layout, check_storable, row_tile

TILE_SECONDS = 1.0
MAX_TILES = 4096
READING_SHARE = 0.1  # of the time of a tile


@dataclass(frozen=True, eq=False)
class Task:
    """What a sweep was asked for, checked."""

    point: Prepared
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
        point, grid, path = task.point, task.grid, task.path
        if path is None:
            timing, strategy = task.timing(num_points)
            return cls(layout_for(point, grid, timing), strategy, None, _batching(strategy) | extra)
        check_place(path)  # before anything is compiled or timed
        check_storable(point.types, grid.names)
        what = fingerprint(point, grid) | extra
        if is_run(path):
            strategy = _stored_strategy(path) if task.batch == "auto" else _asked_for(task.batch)
            layout = layout_for(point, grid, Timing(strategy, 1.0))
            store = open_run(path, what | _batching(strategy), layout, _first_meta())
        else:
            timing, strategy = task.timing(num_points)
            store = _create_or_join(path, what | _batching(strategy), layout_for(point, grid, timing), task.batch)
        layout = dataclasses.replace(store.layout, grid=grid)
        return cls(layout, Strategy(**store.plan["batching"]), store, store.plan)

    def meta(self) -> dict[str, Any]:
        """The plan and where it ran."""
        return {"plan": self.plan, "provenance": provenance()}


def call_record(evaluations: int, start: float, task: Task) -> dict[str, Any]:
    """What one call did, for the landscape's meta."""
    seconds = round(time.perf_counter() - start, 3)
    return {"evaluations": evaluations, "seconds": seconds, "devices": task.runner.names}


def intact(store: RunStore, layout: Layout, mine: set[int]) -> set[int]:
    """The finished tiles; damaged ones among `mine` are discarded, with a warning."""
    for tile in store.damaged(layout, mine):
        warn(f"tile {tile} of {store.path} is damaged and is computed again")
        store.discard(layout, tile)
    return store.finished()


def ended(
    job: Job,
    call: dict[str, Any],
    memory: Mapping[str, np.ndarray],
    computed: np.ndarray,
    *,
    error: Mapping[str, float | None] | None = None,
    said: Mapping[str, Any] | None = None,
    last: Callable[[RunStore], None] | None = None,
) -> Landscape:
    """What a call leaves behind, on the grid of this call: the labels of its axes are no part of the plan.

    Args:
        job: what was done.
        call: the record of the call. In a store it goes before the last tiles, so that no finished map lacks it.
        memory: the values, where there is no store.
        computed: which points were evaluated, where there is no store.
        error: bounds by output, of a sweep at a tolerance.
        said: further entries of the meta.
        last: writes the last tiles.
    """
    grid, meta = job.layout.grid, job.meta() | dict(said or {})
    if job.store is None:
        bounds = dict.fromkeys(memory) | dict(error or {})
        return Landscape(grid, memory, computed, bounds, meta | {"calls": [call]})
    if error is not None:
        meta["error"] = {name: bound for name, bound in error.items() if bound is not None}
    if call["evaluations"] or error is not None:
        record(job.store, meta, call)
    if last is not None:
        last(job.store)
    return read_on(grid, job.store)


def read_on(grid: Grid, store: RunStore) -> Landscape:
    """What a store holds, on another grid of the same coordinates."""
    return dataclasses.replace(store.read(), grid=grid)


@contextlib.contextmanager
def stopping(job: Job) -> Generator["Stop"]:
    """Listens for Ctrl-C where there is a store; one that comes too late to stop anything is passed on at the end."""
    where = "from the start, since no store was given" if job.store is None else f"from {job.store.path}"
    listening = contextlib.nullcontext(threading.Event()) if job.store is None else interruptible()
    with listening as event:
        yield Stop(event, where)
    if event.is_set():
        raise Interrupted(f"finished and stored; the same call reads it {where}")


@dataclass(frozen=True, eq=False)
class Stop:
    """Whether to stop, and where the same call then goes on."""

    event: threading.Event
    where: str

    def check(self, done: str) -> None:
        """Raise `Interrupted` if it is time."""
        if self.event.is_set():
            raise Interrupted(f"stopped after {done}; the same call resumes {self.where}")


def record(store: RunStore, meta: dict[str, Any], call: dict[str, Any]) -> None:
    """Add what this call did to the meta of a store."""
    store.update_meta(lambda earlier: earlier | meta | {"calls": [*earlier.get("calls", []), call]})


def layout_for(point: Prepared, grid: Grid, timing: Timing) -> Layout:
    """Tiles of about a second, so that little is lost when a run is killed, but not too many files.

    Where a tile takes a pass over data, that is to be a small share of its time.
    """
    tile_seconds = max(TILE_SECONDS, timing.overhead / READING_SHARE)
    wanted = max(tile_seconds / max(timing.seconds, 1e-9), grid.size / MAX_TILES, timing.strategy.width)
    target = int(min(wanted, capacity(point.outputs, grid.ndim)))
    return Layout(grid, point.types, row_tile(grid.shape, target, timing.strategy.width))


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
        "matmul_precision": precision_now(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
