"""A sweep of every point: equal tiles in C order, kept in memory or in a run store, and resumed from there."""

import contextlib
import time
from collections.abc import Mapping

import numpy as np

from landscape.engine._job import Job, Task, call_record, ended, intact, stopping
from landscape.engine._progress import Progress
from landscape.grid import Landscape
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
    start = time.perf_counter()
    with stopping(job) as stop:
        progress = Progress(sum(map(layout.size, mine)), done, task.progress)
        jobs = ((tile, layout.points(tile)) for tile in todo)
        tiles = task.runner.values(job.strategy, task.max_memory, jobs, progress.say)
        with contextlib.closing(progress), contextlib.closing(tiles):
            for number, (tile, values) in enumerate(tiles, 1):
                keep.write(tile, values)
                progress.advance(layout.size(tile))
                if number < len(todo):
                    stop.check(f"{number} tiles")
        call = call_record(sum(map(layout.size, todo)), start, task)
        return ended(job, call, keep.values, keep.computed)


class _InMemory:
    """Keeps tiles in the arrays of the result."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.values, self.computed = layout.empty()

    def finished(self, mine: set[int]) -> set[int]:
        return set()

    def write(self, tile: int, values: Mapping[str, np.ndarray]) -> None:
        region, shape = self.layout.region(tile), self.layout.shape(tile)
        for name, value in values.items():
            self.values[name][region] = value.reshape(shape + value.shape[1:])
        self.computed[region] = True


class _InStore:
    """Keeps tiles in a run store; damaged ones count as missing."""

    def __init__(self, store: RunStore, layout: Layout) -> None:
        self.store, self.layout = store, layout
        self.values, self.computed = {}, np.zeros(0, bool)

    def finished(self, mine: set[int]) -> set[int]:
        return intact(self.store, self.layout, mine)

    def write(self, tile: int, values: Mapping[str, np.ndarray]) -> None:
        self.store.write(self.layout, tile, values)
