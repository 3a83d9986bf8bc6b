"""Numbers with their 95 % intervals: means, shares, ratios and correlations of independent runs; z of two shares."""

import math
from typing import Any, NamedTuple

import numpy as np

from landscape.analysis._intervals import mean_interval, wilson_interval
from landscape.checks import reals, short

NORMAL = 1.959964  # 95 % of a normal distribution lie within this many standard deviations


class Estimate(NamedTuple):
    """A number with its 95 % interval; a format such as `.3f` is that of all three.

    >>> f"{Estimate(0.5, 0.25, 0.8125):.2f}"
    '0.50 [0.25, 0.81]'
    """

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def mean_of(values: Any) -> Estimate:
    """The mean of independent numbers, `(n,)`, with Student's interval (`mean_interval`); NaN ends for a single one.

    Raises:
        TypeError: they are no real numbers.
        ValueError: there are none, or they are no vector.
    """
    return Estimate(*map(float, mean_interval(_vector("values", values))))


def share_of(count: int, num: int) -> Estimate:
    """A share of `num` with its Wilson interval (`wilson_interval`).

    Raises:
        TypeError: something is no number.
        ValueError: `num` is not positive, or `count` is not one number within 0 and `num`.
    """
    low, high = wilson_interval(count, num)
    if np.ndim(low):
        raise ValueError(f"count must be one number, got {short(count)}")
    return Estimate(float(count) / num, float(low), float(high))


def z_of_shares(first: tuple[int, int], second: tuple[int, int]) -> float:
    """z of the difference of two independent shares `(hits, count)`, with pooled variance; 0 where there is none.

    Raises:
        TypeError: they are no numbers.
        ValueError: they are no pairs of `0 <= hits <= count` with a positive `count`.
    """
    (a, n), (b, m) = (_hits_of(name, share) for name, share in (("first", first), ("second", second)))
    pooled = (a + b) / (n + m)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return (a / n - b / m) / spread if spread > 0 else 0.0


def ratio_of(x: Any, y: Any) -> Estimate:
    """The mean of `x` over that of `y`, measured in pairs (Cochran 1977, section 2.11); NaN where that of `y` is 0.

    One pair with a small `y` does not outweigh the others, as it would in a mean of ratios. The interval is Student's
    about the error to first order; NaN for a single pair.

    Raises:
        TypeError: they are no real numbers.
        ValueError: they are no vectors of one length.
    """
    from scipy.special import stdtrit

    ratio, error = ratio_and_error(x, y)
    half = float(stdtrit(np.size(x) - 1, 0.975)) * error if np.size(x) > 1 else np.nan
    return Estimate(ratio, ratio - half, ratio + half)


def ratio_and_error(x: Any, y: Any) -> tuple[float, float]:
    """The mean of `x` over that of `y`, measured in pairs, and its standard error to first order.

    Both are NaN where the mean of `y` is 0, the error also for a single pair.

    Raises:
        TypeError: they are no real numbers.
        ValueError: they are no vectors of one length.
    """
    x, y = _pairs(x, y)
    if np.mean(y) == 0:
        return math.nan, math.nan
    ratio = np.mean(x) / np.mean(y)
    if len(x) < 2:
        return float(ratio), math.nan
    return float(ratio), float(np.std(x - ratio * y, ddof=1) / abs(np.mean(y)) / math.sqrt(len(x)))


def correlation(x: Any, y: Any) -> Estimate:
    """Pearson's correlation with the interval of Fisher's z transform (Fisher 1921).

    NaN for fewer than four pairs, and where one of the two does not vary.

    Raises:
        TypeError: they are no real numbers.
        ValueError: they are no vectors of one length.
    """
    x, y = _pairs(x, y)
    if len(x) < 4 or not (np.ptp(x) > 0 and np.ptp(y) > 0):
        return Estimate(math.nan, math.nan, math.nan)
    r = float(np.corrcoef(x, y)[0, 1])
    z, half = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)), NORMAL / np.sqrt(len(x) - 3)
    return Estimate(r, float(np.tanh(z - half)), float(np.tanh(z + half)))


def _vector(name: str, values: Any) -> np.ndarray:
    array = reals(name, values)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be numbers of shape (n,) with n >= 1, got {short(values)}")
    return array


def _pairs(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = _vector("x", x), _vector("y", y)
    if first.shape != second.shape:
        raise ValueError(f"x and y must be pairs, of one length, got {len(first)} and {len(second)} numbers")
    return first, second


def _hits_of(name: str, share: Any) -> tuple[float, float]:
    pair = reals(name, share, finite=True)
    if pair.shape != (2,) or not 0 <= pair[0] <= pair[1] or not pair[1] > 0:
        raise ValueError(f"{name} must be (hits, count) with 0 <= hits <= count and count > 0, got {short(share)}")
    return float(pair[0]), float(pair[1])
