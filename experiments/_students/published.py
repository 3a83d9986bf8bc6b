"""Runs that end in a bad local minimum, and in which family, as published by Safran & Shamir 2018, beside ours.

Per cents are those of table 1 (arXiv 1712.08968). Counts are those of the raw results that the authors keep with their
code, https://github.com/ItaySafran/OneLayerGDconvergence, folder `Results` at commit 0719662: in `newExp-k-n.mat`,
`WbadNew` holds one end of each family, ends that agree up to permutations, and `magnitude` how many runs ended there.
They are those of 1,000 runs and add up to the per cents, but for two cells:

- k = n = 20 has 949 bad runs, not 940: table 1 leaves out the nine at a loss of .059753, whose smallest eigenvalue,
  .0004, is too small for the bound that certifies a minimum;
- k = n = 13 counts as 73 of 100 runs here, not as 730 of 1,000. Each cell was computed in ten jobs of 100 runs, each to
  have a seed of its own (`runExps.csh` and `merge.m` at commit 093cc92). In `newExp-13-13.mat` all families have a
  multiple of ten members, 470, 220, 30 and 10, as in no other file. By `maxFroDiff` those of the last agree to 7.4e-15,
  which is rounding, where that distance is 1.9e-12 to 7.8e-7 in the 135 other families of two runs or more of all
  files, since a run stops wherever its gradient falls below 1e-9. So the file seems to hold 100 runs ten times over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

import landscape as ls
from landscape.analysis import z_of_shares

Z_BAND = 2.5758293  # of the normal distribution at 99 %
SAME_LOSS = 1e-5  # of one family in two samples
RARE = 5  # expected runs below which the chi-square distribution is no good approximation (Cochran 1954)


@dataclass(frozen=True)
class Published:
    """A cell of table 1: the share that it prints, and how many of how many distinct runs are bad.

    Raises:
        ValueError: no runs, or more bad ones than there are.
    """

    percent: float
    bad: int
    runs: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.runs or self.runs < 1:
            raise ValueError(f"needs 0 <= bad <= runs and runs >= 1, got {self.bad} of {self.runs}")

    def __str__(self) -> str:
        return f"{self.percent:.1f}, {self.bad} of {self.runs}"


_FAMILIES = {
    6: ".025081 3",
    7: ".023203 55",
    8: ".021508 126",
    9: ".020014 213, .037489 5",
    10: ".018702 312, .035327 34",
    11: ".017547 383, .033348 71, .054476 1",
    12: ".016524 427, .031551 135, .045458 17, .054341 2, .060872 2, .066466 2",
    13: ".015613 47, .029924 22, .043289 3, .060712 1",
    14: ".014798 398, .028449 246, .041286 72, .053358 9, .054123 4, .060572 3, .066071 2, .070880 2",
    15: ".014064 374, .027107 273, .039440 105, .051121 30, .054034 12, .060450 4, .065909 2, .070672 2, .074918 1",
    16: ".013400 297, .025885 292, .037741 180, .049032 52, .053954 6, .059760 4, .060341 9, .065765 7, "
    ".070488 3, .074687 1",
    17: ".012796 278, .024766 301, .036175 191, .047087 80, .057513 14, .060243 14, .065636 5, .067435 1, "
    ".070323 10, .074481 3",
    18: ".012245 237, .023740 271, .034729 204, .045276 124, .055400 29, .060156 15, .065090 2, .065521 7, "
    ".070174 4, .074296 4, .078012 3",
    19: ".011740 196, .022795 254, .033392 241, .043591 134, .053416 44, .060054 16, .062864 8, .065417 22, "
    ".070040 8, .074128 4, .077807 2, .081169 4, .084281 1",
    20: ".011276 158, .021923 204, .032152 241, .042022 181, .051556 87, .059753 9, .060759 27, .065322 11, "
    ".069619 6, .069919 14, .073975 7, .077620 2, .080945 2",
}
FAMILY_RUNS = {
    k: {float(loss): int(runs) for loss, runs in map(str.split, text.split(", "))} for k, text in _FAMILIES.items()
}
"""Distinct bad runs of n = k by k and loss, families of one loss together."""

_PERCENT = (0.3, 5.5, 12.6, 21.8, 34.6, 45.5, 58.5, 73.0, 73.6, 80.3, 85.1, 89.7, 90.0, 93.4, 94.0)
_DISTINCT = {13: 100}  # distinct runs, where they are not 1,000
PUBLISHED = {
    (k, k): Published(percent, sum(FAMILY_RUNS[k].values()), _DISTINCT.get(k, 1000))
    for k, percent in enumerate(_PERCENT, start=6)
}
PUBLISHED |= {(8, 9): Published(0.1, 1), (13, 14): Published(1.5, 15), (14, 15): Published(5.5, 55)}
PUBLISHED |= {(16, 17): Published(18.0, 180), (19, 20): Published(49.1, 491)}
"""Cells by (k, n)."""


def published(k: int, n: int) -> Published | None:
    """The cell of a teacher of k and a student of n neurons; no run of n >= k + 2 was bad; `None` if not listed."""
    return PUBLISHED.get((k, n), Published(0.0, 0) if n >= k + 2 else None)


def band(listed: Published, count: int) -> tuple[float, float]:
    """Shares of `count` runs that a two-proportion z test does not tell from the published share at 1 %."""
    theirs = (listed.bad, listed.runs)
    inside = [hits for hits in range(count + 1) if abs(z_of_shares((hits, count), theirs)) <= Z_BAND]
    return inside[0] / count, inside[-1] / count


def beside_published(listed: Published | None, bad: np.ndarray, still: np.ndarray) -> tuple[str, str]:
    """The published share of bad runs with its band, and the one found, with whether it lies inside.

    Runs that were not followed to the end count as bad, but one of them may become good. Where that decides the matter
    it is open.

    Args:
        listed: what is published, or `None` where nothing is.
        bad: runs at a loss of at least 1e-3.
        still: runs that are not at rest.
    """
    hits, count = int(bad.sum()), len(bad)
    sure = hits - int(np.sum(bad & still))
    low, high = ls.analysis.wilson_interval(hits, count)
    text = f"{100 * hits / count:.1f} (95 % {100 * low:.1f} ... {100 * high:.1f}), {hits} of {count}"
    text += f", {hits - sure} of them not at rest" * (hits > sure)
    if listed is None:
        return "not listed", text
    least, most = band(listed, count)
    inside = [least <= number / count <= most for number in (sure, hits)]
    apart = hits / count < least or sure / count > most
    verdict = "inside" if all(inside) else "OUTSIDE" if apart else "open"
    return f"{listed} (99 % band {100 * least:.1f} ... {100 * most:.1f})", f"{text}: {verdict}"


@dataclass(frozen=True, eq=False)
class FamilyTest:
    """Are runs divided among the minima as in a published sample? The chi-square test of two samples.

    Attributes:
        counts: runs of theirs and ours in each class, `(2, classes)`: the global minimum and families by rising loss,
            then all that are pooled.
        others: whether the last class is the pooled one.
        p: probability of counts at least as unequal, if both samples are of one distribution.
    """

    counts: np.ndarray
    others: bool
    p: float

    def in_print(self, sample: int) -> str:
        """The runs of one sample in each class."""
        words = [str(count) for count in self.counts[sample]]
        return ", ".join([*words[:-1], "others " * self.others + words[-1]])


def compare_families(k: int, ours: Sequence[tuple[float, int]], runs: int) -> FamilyTest | None:
    """Compare the runs of n = k in each minimum with the published ones.

    Minima of both samples are the same family if their losses agree to 1e-5. Families with fewer than 5 expected runs
    in either sample are pooled, and with the rarest of those left where the pool expects less than one.

    Args:
        k: neurons of teacher and student.
        ours: loss of each minimum that was found, the global one too, and how many runs ended there.
        runs: how many there are; those that ended in none of the minima are pooled.

    Returns:
        The test, or `None` where nothing is published, no minimum was found, or fewer than two classes are left.

    Raises:
        ValueError: more runs in the minima than there are.
    """
    elsewhere = runs - sum(count for _, count in ours)
    if elsewhere < 0:
        raise ValueError(f"{runs - elsewhere} runs are said to end in the minima, of {runs}")
    if not ours or (k, k) not in PUBLISHED:
        return None
    good = PUBLISHED[k, k].runs - PUBLISHED[k, k].bad
    families = _side_by_side({0.0: good, **FAMILY_RUNS[k]}, ours)
    counts, others = _pooled(np.column_stack([families, [0, elsewhere]]))
    if counts.shape[1] < 2:
        return None
    return FamilyTest(counts, others, float(stats.chi2_contingency(counts, correction=False).pvalue))


def _side_by_side(theirs: Mapping[float, int], ours: Sequence[tuple[float, int]]) -> np.ndarray:
    """Runs of both samples by rising loss, `(2, families)`."""
    losses, runs = np.array([*theirs.items(), *ours]).T
    sample = np.repeat([0, 1], [len(theirs), len(ours)])
    order = np.argsort(losses)
    families = np.cumsum(np.diff(losses[order], prepend=losses[order[0]]) > SAME_LOSS)
    counts = np.zeros((2, families[-1] + 1), int)
    np.add.at(counts, (sample[order], families), runs[order].astype(int))
    return counts


def _pooled(counts: np.ndarray) -> tuple[np.ndarray, bool]:
    """Classes that are expected often enough, then one of all others, which takes the last column; and if it exists."""
    rare = stats.contingency.expected_freq(counts).min(axis=0) < RARE
    rare[-1] = True
    kept, others = counts[:, ~rare], counts[:, rare].sum(axis=1)
    if not others.any():
        return kept, False
    if kept.size and others.sum() * counts.sum(axis=1).min() < counts.sum():
        rarest = np.argmin(kept.sum(axis=0))
        others = others + kept[:, rarest]
        kept = np.delete(kept, rarest, axis=1)
    return np.column_stack([kept, others]), True
