"""A sweep of every point: equal tiles in C order, kept in memory or in a run store, and resumed from there."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape.engine._job import Job, Task, call_record, intact, record
from landscape.engine._progress import Interrupted, Progress, interruptible
from landscape.grid import Grid, Landscape
from landscape.store import RunStore
from landscape.store._layout import Layout


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
