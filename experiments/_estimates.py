"""Numbers with their 95 % intervals: means, shares, ratios and correlations of independent runs; z of two shares."""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special

import landscape as ls

NORMAL = 1.959964  # 95 % of a normal distribution lie within this many standard deviations


class Estimate(NamedTuple):
    """A number with its 95 % interval; a format such as `.3f` is that of all three."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def mean_of(x: Any) -> Estimate:
    """The mean of independent numbers with the interval of Student's t; NaN ends for a single one."""
    return Estimate(*map(float, ls.analysis.mean_interval(x)))


def share_of(count: int, num: int) -> Estimate:
    """A share of `num` with its Wilson interval."""
    low, high = ls.analysis.wilson_interval(count, num)
    return Estimate(count / num, float(low), float(high))


def z_of_shares(first: tuple[int, int], second: tuple[int, int]) -> float:
    """z of the difference of two independent shares `(hits, count)`, with pooled variance; 0 where there is none."""
    (a, n), (b, m) = first, second
    pooled = (a + b) / (n + m)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return (a / n - b / m) / spread if spread > 0 else 0.0


def ratio_of(x: np.ndarray, y: np.ndarray) -> Estimate:
    """The mean of `x` over that of `y`, measured in pairs (Cochran 1977, section 2.11); NaN where that of `y` is 0.

    One pair with a small `y` does not outweigh the others, as it would in a mean of ratios.
    """
    if np.mean(y) == 0:
        return Estimate(np.nan, np.nan, np.nan)
    ratio, error = ratio_and_error(x, y)
    half = float(special.stdtrit(len(x) - 1, 0.975)) * error
    return Estimate(ratio, ratio - half, ratio + half)


def ratio_and_error(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The mean of `x` over that of `y`, measured in pairs, and its standard error to first order."""
    ratio = np.mean(x) / np.mean(y)
    return float(ratio), float(np.std(x - ratio * y, ddof=1) / abs(np.mean(y)) / math.sqrt(len(x)))


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson's correlation with the interval of Fisher's z transform (Fisher 1921)."""
    if len(x) < 4 or not (np.ptp(x) > 0 and np.ptp(y) > 0):
        return Estimate(np.nan, np.nan, np.nan)
    r = float(np.corrcoef(x, y)[0, 1])
    z, half = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)), NORMAL / np.sqrt(len(x) - 3)
    return Estimate(r, float(np.tanh(z - half)), float(np.tanh(z + half)))
