"""Confidence intervals of shares and of means."""

from statistics import NormalDist
from typing import Any

import numpy as np


def wilson_interval(counts: Any, num: int, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the score intervals of shares (Wilson 1927).

    Args:
        counts: how many of `num`, any shape.
        num: how many in all.
        confidence: chance that the interval covers, in (0, 1).

    Returns:
        The lower and the upper ends, shaped like `counts`.
    """
    counts = np.asarray(counts)
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
    """
    from scipy.special import stdtrit

    values = np.asarray(values, np.float64)
    num, mean = values.shape[-1], values.mean(axis=-1)
    if num < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stdtrit(num - 1, 0.5 + 0.5 * confidence) * values.std(axis=-1, ddof=1) / np.sqrt(num)
    return mean, mean - half, mean + half
