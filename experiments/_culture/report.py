"""Shares, intervals and tests of `culture.py`, from its landscapes alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import landscape as ls
from _culture.dynamics import BAD


@dataclass(frozen=True, eq=False)
class Cell:
    """One arm: for each population, record and learner whether it has solved the task."""

    solved: np.ndarray  # (populations, records, size)
    alive: np.ndarray  # (populations, records): different networks
    per_record: int  # evaluations between two records
    independent: bool  # whether learners of a population do not influence each other
    apart: int = 0  # the last record before learners first talk

    @property
    def evaluations(self) -> np.ndarray:
        """Gradient evaluations of each learner at the records."""
        return np.arange(self.solved.shape[1]) * self.per_record

    @property
    def counts(self) -> np.ndarray:
        """Solvers at each record."""
        return self.solved.sum(axis=(0, 2))

    @property
    def num(self) -> int:
        """Learners."""
        return self.solved.shape[0] * self.solved.shape[2]

    @property
    def shares(self) -> np.ndarray:
        """Share of learners that have solved the task, at each record."""
        return self.solved.mean(axis=(0, 2))

    @property
    def intervals(self) -> np.ndarray:
        """Their 95 % intervals, `(records, 2)`. Learners who have not yet talked are independent."""
        records = range(self.solved.shape[1])
        return np.array([share_interval(self.solved[:, i], self.independent or i <= self.apart) for i in records])

    def text(self, record: int = -1) -> str:
        """The share at a record in print."""
        return in_print(self.shares[record], self.intervals[record])


def early_record(one: Cell) -> int:
    """A record before all arms are near the top: after 3/5 of the run."""
    return 3 * (one.solved.shape[1] - 1) // 5


def in_print(share: float, interval: Any) -> str:
    """A share and its interval in %."""
    return f"{100 * share:.1f} (95 % {100 * interval[0]:.1f} ... {100 * interval[1]:.1f})"


def cell(landscape: ls.Landscape) -> Cell:
    """The cell of a sweep over populations."""
    case = landscape.meta["case"]
    rules = case["rules"]
    independent = rules["topology"] == "isolated" or rules["passed"] == "fresh" or rules["bandwidth"] == 0
    return Cell(landscape["loss"] < BAD, landscape["alive"], case["per_record"], independent, rules["period"])


def share_interval(solved: np.ndarray, independent: bool) -> tuple[float, float]:
    """95 % interval of a share over populations `(populations, size)`, whose learners may go together.

    Wilson's for the number of learners over the design effect (Kish 1965): how much more the means of populations
    scatter than those of independent learners, between 1 and the size of a population; that size where all agree.
    """
    share, size = solved.mean(), solved.shape[1]
    effect = 1.0
    if not independent and solved.shape[0] > 1:
        alone = share * (1 - share) / size
        effect = min(max(np.var(solved.mean(axis=1), ddof=1) / alone, 1.0), size) if alone > 0 else float(size)
    num = solved.size / effect
    low, high = ls.analysis.wilson_interval(share * num, num)  # ty: ignore[invalid-argument-type]
    return float(low) if share > 0 else 0.0, float(high) if share < 1 else 1.0


def paired_z(first: np.ndarray, second: np.ndarray) -> float:
    """z of the mean difference of two arms over the same populations, `(populations, size)` each.

    Infinite where all populations differ alike, 0 where none differs; NaN for a single population.
    """
    difference = first.mean(axis=1) - second.mean(axis=1)
    if len(difference) < 2:
        return math.nan
    if np.ptp(difference) == 0:
        return math.copysign(math.inf, difference[0]) if difference[0] else 0.0
    return float(difference.mean() / (np.std(difference, ddof=1) / math.sqrt(len(difference))))


def best_restarts(shares: np.ndarray, budget: int) -> tuple[float, int]:
    """The best share that restarts at fixed times can reach within `budget` records, and how many tries that takes.

    Args:
        shares: share of single learners that have solved the task within 0, 1, ... records; chosen in hindsight.
        budget: records in all; what is left over after the last whole try is used too.
    """
    stuck, length = 1 - shares, np.arange(1, budget + 1)
    tries, rest = budget // length, budget % length
    ends = 1 - stuck[length] ** tries * stuck[rest]
    best = int(np.argmax(ends))
    return float(ends[best]), int(tries[best])


def unaided(alone: Cell, together: Cell) -> tuple[int, int]:
    """Populations none of whose learners gets there alone: in how many does one get there together, and of how many."""
    hopeless = ~alone.solved[:, -1].any(axis=1)
    return int(together.solved[hopeless, -1].any(axis=1).sum()), int(hopeless.sum())


# ------------------------------------------------------------------------------------------------ what is in a result


def cells(result: Mapping[str, ls.Landscape], role: str, k: int) -> dict[str, Cell]:
    """Cells by name: `arm` or `children` of a k."""
    cases = {key: landscape.meta["case"] for key, landscape in result.items()}
    return {c["name"]: cell(result[key]) for key, c in cases.items() if (c["role"], c["k"]) == (role, k)}


def sizes(result: Mapping[str, ls.Landscape]) -> list[int]:
    """The ks of a result."""
    return sorted({landscape.meta["case"]["k"] for landscape in result.values()})


@dataclass(frozen=True, eq=False)
class Rest:
    """Isolated learners, of which those that had not solved the task were followed to the end in double precision."""

    bad: np.ndarray
    open: np.ndarray  # neither good nor at rest
    w: np.ndarray
    loss: np.ndarray

    @property
    def stuck(self) -> np.ndarray:
        """Learners that are at rest at a loss of at least 1e-3."""
        return self.bad & ~self.open


def rest(isolated: ls.Landscape, followed: ls.Landscape | None) -> Rest:
    """Where isolated learners end.

    Args:
        isolated: sweep over populations of learners who hear nobody.
        followed: sweep over the runs, by number of learner, that went on; `None` where nobody had to.
    """
    w, loss = np.concatenate(isolated["w"]).astype(float), isolated["loss"][:, -1].ravel().astype(float)
    still = np.zeros(len(loss), bool)
    if followed is not None:
        at = followed.grid.axes[0].values.astype(int)
        w[at], loss[at] = followed["params.w"], followed["history.loss"][:, -1]
        still[at] = followed["outcome"] != ls.Outcome.CONVERGED
    bad = ~(loss < BAD)
    return Rest(bad, bad & still, w, loss)
