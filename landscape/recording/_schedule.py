"""Which steps of a run are recorded, and which recorded ones are kept when they become too many."""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from landscape.checks import check_count, short

Due = Callable[[int], bool]


def due(every: Any) -> Due:
    """Whether a step is recorded, by `every`: a number, the steps themselves, or `"log"`.

    Raises:
        TypeError: it is something else.
        ValueError: another word, a number below 1, no steps, a negative step.
    """
    if isinstance(every, str):
        if every != "log":
            raise ValueError(f"every must be a number of steps, a list of steps or 'log', got {every!r}")
        return _is_round
    if isinstance(every, list | tuple | range | set | frozenset | np.ndarray):
        steps = _checked_steps(every)
        return steps.__contains__
    if isinstance(every, bool) or not isinstance(every, int | np.integer):
        raise TypeError(f"every must be a number of steps, a list of steps or 'log', got {short(every)}")
    check_count("every", every, 1)
    return lambda step: step % int(every) == 0


def _checked_steps(every: Any) -> frozenset[int]:
    steps = list(every)
    if not steps:
        raise ValueError("every holds no steps; give those to record, or a number")
    for step in steps:
        check_count("a step of every", step, 0)
    return frozenset(map(int, steps))


def _is_round(step: int) -> bool:
    """Whether a step has at most four leading binary digits: all up to 16, then eight in each doubling."""
    rest = max(0, step.bit_length() - 4)
    return step >> rest << rest == step


def too_many(steps: Sequence[int], keep: int | None, relative: bool) -> list[int]:
    """The steps to give up so that `keep` remain: those that leave the smallest gaps, the oldest first.

    The first and the last one stay. With `relative`, gaps are ratios: what is dense early stays so.
    """
    if keep is None or len(steps) <= keep:
        return []
    place = np.log1p(steps).round(9) if relative else np.asarray(steps, np.float64)  # so that equal ratios are equal
    before = {i: i - 1 for i in range(len(steps))}
    after = {i: i + 1 for i in range(len(steps))}
    gaps = [(place[i + 1] - place[i - 1], i) for i in range(1, len(steps) - 1)]
    heapq.heapify(gaps)
    gone: set[int] = set()
    while gaps and len(steps) - len(gone) > keep:
        gap, i = heapq.heappop(gaps)
        if i in gone or gap != place[after[i]] - place[before[i]]:
            continue
        gone.add(i)
        after[before[i]], before[after[i]] = after[i], before[i]
        for near in (before[i], after[i]):
            if 0 < near < len(steps) - 1:
                heapq.heappush(gaps, (place[after[near]] - place[before[near]], near))
    return [steps[i] for i in sorted(gone)]
