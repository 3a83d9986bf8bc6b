"""A sweep at a tolerance: rounds of points that `adaptive` asks for, kept in a journal until the map is whole.

The journal is a run store of its own, `evaluations`, inside the run's directory: one axis that counts evaluations, a
tile per piece of a round, and the index of each evaluated point beside its values. What `adaptive` asks for depends
only on what it was told, so a killed run plays its journal back and goes on where it stopped.
"""

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from landscape.adaptive import Labels, Refinement, Smooth
from landscape.checks import warn
from landscape.engine._job import Job, Stop, Task, call_record, ended, intact, read_on, stopping
from landscape.engine._progress import Progress, observer
from landscape.grid import Axis, Grid, Landscape
from landscape.store import INDEX, JOURNAL, RunStore, open_run
from landscape.store._layout import Layout

MAX_PIECE = 4096  # points that a tile of the journal holds at most
MAX_ROUNDS = 512  # pieces that may be partly empty, since every round ends with one
WATCHED_PARTS = 8  # of a piece where somebody watches, who may stop the sweep at any time and not wait for a whole one
AXIS = "evaluation"
SMALL = 4096  # points: no word on sweeps that are over in no time
EXPECTED_SHARE = 16  # points per evaluation that a large sweep is tuned for

Drivers = Mapping[str, Smooth | Labels]
Values = dict[str, np.ndarray]


def run(task: Task, drivers: Drivers) -> Landscape:
    """Evaluate until the tolerance is met; return the map with its predictions."""
    grid = task.grid
    expected = min(grid.size, max(MAX_PIECE, grid.size // EXPECTED_SHARE))
    clash = {INDEX, JOURNAL, AXIS}.intersection([*task.point.outputs, *grid.names])
    if clash and task.path is not None:
        raise ValueError(f"{min(clash)!r} is a name under which evaluated points are kept; rename the output or axis")
    job = Job.begin(task, expected, {"tolerance": {name: asdict(driver) for name, driver in drivers.items()}})
    tiles = set(range(job.layout.num_tiles))
    if job.store is not None and intact(job.store, job.layout, tiles) == tiles:
        job.store.discard_journal()  # a kill right after the last tile leaves it behind
        landscape = read_on(grid, job.store)
    else:
        dtypes = {name: dtype for name, (_, dtype) in job.layout.outputs.items()}
        refinement = Refinement(grid, drivers, dtypes, gradual=observer() is not None)
        landscape = _Refining(task, job, drivers, refinement, _journal(job)).finish()
    for said in _doubts(landscape):
        warn(f"tolerance: {said}")
    return landscape


def _doubts(landscape: Landscape) -> Iterator[str]:
    """What the caller must know: outputs that were left out, points that could not be saved, tolerances not met."""
    promise = landscape.promise
    assert promise is not None
    missing = int((~landscape.computed).sum())
    for name, why in promise.left_out.items() if missing else ():
        yield f"{name!r} is NaN at the {missing:,} points that were not evaluated, since it {why}"
    yield from promise.warnings
    if promise.reason and landscape.grid.size > SMALL:
        yield f"{landscape.grid.size - missing:,} of {landscape.grid.size:,} points were evaluated: {promise.reason}"


@dataclass(frozen=True, eq=False)
class _Piece:
    """Part of a round: a tile of the journal and the points, as flat indices, that it holds."""

    number: int
    flat: np.ndarray


class _Refining:
    """The loop over rounds."""

    def __init__(self, task: Task, job: Job, drivers: Drivers, refinement: Refinement, journal: "_Journal") -> None:
        self.task, self.job, self.drivers, self.refinement, self.journal = task, job, drivers, refinement, journal
        self.values, self.computed = job.layout.empty()
        self.evaluated = self.computed_now = 0

    def finish(self) -> Landscape:
        """All rounds, then the whole map."""
        start = time.perf_counter()
        with stopping(self.job) as stop:
            progress = Progress(self.task.grid.size, 0, self.task.progress)
            with contextlib.closing(progress):
                for pieces in self._rounds():
                    progress.expect(self.evaluated + sum(len(piece.flat) for piece in pieces))
                    self._evaluate(pieces, progress, stop)
            for name, whole in self.refinement.values.items():
                self.values[name] = whole.astype(self.values[name].dtype)
            call = call_record(self.computed_now, start, self.task)
            error = dict.fromkeys(self.values) | dict(self.refinement.error)
            said = {"refinement": self.refinement.statement}
            return ended(self.job, call, self.values, self.computed, error=error, said=said, last=self._written)

    def _rounds(self) -> Generator[list[_Piece]]:
        """The pieces of each round; after the consumer has evaluated them, the refinement is told."""
        number = 0
        while len(flat := self.refinement.ask()):
            parts = np.split(flat, range(self.journal.piece, len(flat), self.journal.piece))
            yield [_Piece(number + i, part) for i, part in enumerate(parts)]
            number += len(parts)
            self.refinement.tell(flat, {name: self._flat(name)[flat] for name in self.drivers})
            if (watch := observer()) is not None and len(self.refinement.ask()):
                watch(self._so_far())

    def _so_far(self) -> Landscape:
        """What is known in the middle of the course, without a promise."""
        preview = {name: v.astype(self.values[name].dtype) for name, v in self.refinement.preview().items()}
        meta = {"refinement": self.refinement.statement}
        return Landscape(self.task.grid, self.values | preview, self.computed, dict.fromkeys(self.values), meta)

    def _evaluate(self, pieces: list[_Piece], progress: Progress, stop: Stop) -> None:
        """Take what the journal holds, compute the others."""
        missing = {piece.number: piece for piece in pieces}
        for piece in pieces:
            stored = self.journal.read(piece)
            if stored is not None:
                self._take(missing.pop(piece.number), stored, progress)
        jobs = ((n, self.task.grid.points_at(piece.flat)) for n, piece in missing.items())
        computing = self.task.runner.values(self.job.strategy, self.task.max_memory, jobs, progress.say)
        with contextlib.closing(computing):
            for number, values in computing:
                self.journal.write(missing[number], values)
                self._take(missing[number], values, progress)
                self.computed_now += len(missing[number].flat)
                stop.check(f"{self.evaluated:,} points")

    def _take(self, piece: _Piece, values: Values, progress: Progress) -> None:
        for name, value in values.items():
            self._flat(name)[piece.flat] = value
        self.computed.reshape(-1)[piece.flat] = True
        self.evaluated += len(piece.flat)
        progress.advance(len(piece.flat))

    def _flat(self, name: str) -> np.ndarray:
        values = self.values[name]
        return values.reshape(-1, *values.shape[self.task.grid.ndim :])

    def _written(self, store: RunStore) -> None:
        """The whole map in its store, where the journal is of no more use."""
        layout = self.job.layout
        for tile in range(layout.num_tiles):
            region = layout.region(tile)
            part = {name: _rows(value[region], layout.shape(tile)) for name, value in self.values.items()}
            store.write(layout, tile, part, self.computed[region])
        self.journal.discard()


def _rows(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return part.reshape(-1, *part.shape[len(shape) :])


class _Journal:
    """Remembers nothing: a sweep without a store."""

    def __init__(self, piece: int) -> None:
        self.piece = piece

    def read(self, piece: _Piece) -> Values | None:
        return None

    def write(self, piece: _Piece, values: Values) -> None:
        pass

    def discard(self) -> None:
        pass


class _StoredJournal(_Journal):
    """Keeps evaluated points in a run store inside the run's directory."""

    def __init__(self, run: RunStore, store: RunStore) -> None:
        self.store, self.layout = store, store.layout
        self.run = run
        super().__init__(self.layout.tile[0])
        self.finished = intact(store, self.layout, set(range(self.layout.num_tiles)))

    def read(self, piece: _Piece) -> Values | None:
        if piece.number not in self.finished:
            return None
        stored = self.store.read_tile(self.layout, piece.number)
        index = stored.pop(INDEX)
        if not np.array_equal(index[index >= 0], piece.flat):
            return None
        return {name: value[: len(piece.flat)] for name, value in stored.items()}

    def write(self, piece: _Piece, values: Values) -> None:
        empty = self.layout.size(piece.number) - len(piece.flat)
        padded = {name: np.concatenate([v, np.repeat(v[-1:], empty, axis=0)]) for name, v in values.items()}
        padded[INDEX] = np.concatenate([piece.flat, np.full(empty, -1)]).astype(np.int64)
        self.store.write(self.layout, piece.number, padded)

    def discard(self) -> None:
        self.run.discard_journal()


def _journal(job: Job) -> _Journal:
    """The journal of this job, opened or created."""
    most = min(int(np.prod(job.layout.tile)), MAX_PIECE)
    piece = max(job.strategy.width, most if observer() is None else -(-most // WATCHED_PARTS))
    if job.store is None:
        return _Journal(piece)
    length = piece * (-(-job.layout.grid.size // piece) + MAX_ROUNDS)
    grid = Grid((Axis(AXIS, np.arange(length, dtype=np.float64)),))
    outputs = {**job.layout.outputs, INDEX: ((), np.dtype(np.int64))}
    store = open_run(job.store.path / JOURNAL, {"of": "the rounds of this run"}, Layout(grid, outputs, (piece,)), {})
    return _StoredJournal(job.store, store)
