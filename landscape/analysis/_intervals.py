"""Confidence intervals of shares and of means."""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from landscape.checks import check_number, check_share, reals, short


def wilson_interval(counts: Any, num: int, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the score intervals of shares (Wilson 1927).

    Args:
        counts: how many of `num`, any shape.
        num: how many in all.
        confidence: chance that the interval covers, in (0, 1).

    Returns:
        The lower and the upper ends, shaped like `counts`.

    Raises:
        TypeError: something is no number.
        ValueError: `num` is not positive, a count is not within 0 and `num`, or `confidence` is not within 0 and 1.
    """
    check_number("num", num)
    check_share("confidence", confidence)
    if not 0 < num < np.inf:
        raise ValueError(f"num must be positive and finite: a share of none has no interval; got {num!r}")
    counts, given = reals("counts", counts), counts
    if not np.all((counts >= 0) & (counts <= num)):
        raise ValueError(f"counts must lie between 0 and num={num}, of which they are, got {short(given)}")
    z = NormalDist().inv_cdf(0.5 + 0.5 * confidence)
    share, z2 = counts / num, z * z / num
    centre = (share + 0.5 * z2) / (1 + z2)
    half = np.sqrt(z2 * (share * (1 - share) + 0.25 * z2)) / (1 + z2)
    # The ends of 0 and of all are exact; rounding would leave 1e-18.
    return np.where(counts == 0, 0.0, centre - half), np.where(counts == num, 1.0, centre + half)


def mean_interval(values: Any, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of independent numbers with Student's intervals (Student 1908), which are exact for normal ones.

    Args:
        values: the numbers, along the last axis, shape `(*shape, n)`.
        confidence: chance that the interval covers, in (0, 1).

    Returns:
        The means, the lower and the upper ends, each of shape `shape`; the ends are NaN where `n` is 1.

    Raises:
        TypeError: the values are no real numbers, or `confidence` is no number.
        ValueError: there are no values, or `confidence` is not within 0 and 1.
    """
    from scipy.special import stdtrit

    check_share("confidence", confidence)
    values, given = reals("values", values), values
    if values.ndim < 1 or not values.shape[-1]:
        raise ValueError(f"values must have shape (*shape, n) with n >= 1, got {short(given)}")
    num, mean = values.shape[-1], values.mean(axis=-1)
    if num < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stdtrit(num - 1, 0.5 + 0.5 * confidence) * values.std(axis=-1, ddof=1) / np.sqrt(num)
    return mean, mean - half, mean + half


class Quantile(NamedTuple):
    """A quantile of a distribution, and what it lies between at a stated confidence.

    Attributes:
        value: the smallest of the numbers at or below which such a share of them lies.
        lower: lower end; minus infinity where there are too few numbers for one.
        upper: upper end; infinity where there are too few.
    """

    value: float
    lower: float
    upper: float


def quantile_interval(values: Any, share: float, confidence: float = 0.95) -> Quantile:
    """A quantile of the distribution that independent numbers come from, with an interval that assumes nothing of it.

    How many of `n` numbers lie below the true quantile is binomial, so it lies between two of them in order (Thompson
    1936; David & Nagaraja 2003, section 7.1), each of the tails with a chance of at most half of what is left to
    1. Infinite numbers are as good as others; 73 are needed for both ends at `share=.95` or `.05`.

    Args:
        values: the numbers, `(n,)`.
        share: of the distribution that lies below, in (0, 1).
        confidence: chance that the interval covers, in (0, 1).

    Raises:
        TypeError: the values are no real numbers, or a share is no number.
        ValueError: there are no values, one is NaN, or a share is not within 0 and 1.
    """
    from scipy.special import bdtr

    check_share("share", share)
    check_share("confidence", confidence)
    ordered, given = np.sort(reals("values", values)), values
    if ordered.ndim != 1 or not ordered.size or np.isnan(ordered).any():
        raise ValueError(f"values must be numbers in one row, none of them NaN, got {short(given)}")
    num, tail = ordered.size, (1 - confidence) / 2
    below = bdtr(np.arange(num), num, share)  # of at most 0, 1, .. numbers below the quantile
    low, high = int(np.sum(below <= tail)), int(np.searchsorted(below, 1 - tail)) + 1
    return Quantile(
        float(ordered[max(0, int(np.ceil(share * num - 1e-9)) - 1)]),  # 0.05 * 80 is 4, and a little more in binary
        float(ordered[low - 1]) if low else -np.inf,
        float(ordered[high - 1]) if high <= num else np.inf,
    )
