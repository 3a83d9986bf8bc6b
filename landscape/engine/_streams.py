"""Who computes points over data that come in blocks: a loop on the host, one pass over the data for each tile."""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from landscape.engine._kernel import Strategy
from landscape.engine._runners import Batch, Job, Local, Say, Values
from landscape.engine._tuning import Timing
from landscape.grid import Grid
from landscape.point import SumOverBlocks


class Streamed:
    """Runs jobs on this process's devices, each by a pass over the data.

    A point function over `Batches` is made of sums over blocks, one for each of its objectives, and of a rest. A block
    makes an ordinary point function of a sum, and a block is an argument of its program: one is compiled for each
    objective, and one more for a shorter last block. Sums over the same `Batches` share a pass.
    """

    def __init__(self, sums: Sequence[SumOverBlocks], rest: Any, grid: Grid, devices: tuple[jax.Device, ...]) -> None:
        self.sums, self.grid, self.devices = sums, grid, devices
        self.rest = None if rest is None else Local(rest, grid, devices)
        self._known: dict[tuple[int, int], Local] = {}
        self.names = [f"{d.platform}:{d.id} {d.device_kind}" for d in devices]

    def timing(self, batch: Batch, max_memory: int | None, num_points: int) -> Timing:
        """How fast points go by: the strategy is chosen on the first block of the first sum, and serves for all."""
        chosen, seconds = None, 0.0
        for number, total in enumerate(self.sums):
            local = self._local(number, total.batches.first())
            timing = local.timing(batch if chosen is None else chosen.strategy, max_memory, num_points)
            chosen = timing if chosen is None else chosen
            seconds += timing.seconds * len(total.batches.survey.sizes)
        assert chosen is not None
        reading = sum(group[0][1].batches.survey.seconds for group in self._passes())
        return dataclasses.replace(chosen, seconds=seconds, overhead=reading)

    def values(
        self, strategy: Strategy, max_memory: int | None, jobs: Iterable[Job], say: Say
    ) -> Generator[tuple[int, Values]]:
        """The jobs in turn."""
        for number, points in jobs:
            evaluate = partial(_evaluated, strategy, max_memory, points, say)
            values = {} if self.rest is None else evaluate(self.rest)
            for group in self._passes():
                values |= self._summed(group, evaluate)
            yield number, values

    def _summed(self, group: list[tuple[int, SumOverBlocks]], evaluate: Callable[[Local], Values]) -> Values:
        """One pass: the sums over the same data."""
        totals: dict[int, Any] = {}
        for index, block in enumerate(group[0][1].batches.blocks()):
            for number, total in group:
                part = evaluate(self._local(number, block))
                totals[number] = total.add(totals.get(number), index, part)
        return {name: x for number, total in group for name, x in total.finish(totals[number]).items()}

    def _passes(self) -> list[list[tuple[int, SumOverBlocks]]]:
        """The sums and their numbers, by the data that they are over."""
        groups: dict[int, list[tuple[int, SumOverBlocks]]] = {}
        for number, total in enumerate(self.sums):
            groups.setdefault(id(total.batches), []).append((number, total))
        return list(groups.values())

    def _local(self, number: int, block: Any) -> Local:
        """What evaluates a sum's points over a block, through the program for blocks of its shape."""
        key, fn = (number, len(jax.tree.leaves(block)[0])), self.sums[number].over(block)
        if key in self._known:
            self._known[key].feed(fn)
        else:
            self._known[key] = Local(fn, self.grid, self.devices)
        return self._known[key]


def _evaluated(strategy: Strategy, max_memory: int | None, points: np.ndarray, say: Say, local: Local) -> Values:
    return dict(local.values(strategy, max_memory, [(0, points)], say))[0]
