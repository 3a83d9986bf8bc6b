"""What a bridge returns: a `Problem` that knows how far it is from the framework's own numbers."""

import logging
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from landscape.objective import Problem

LOG = logging.getLogger("landscape.bridges")


@dataclass(frozen=True, eq=False)
class Bridged(Problem):
    """A `Problem` made of a model of another framework.

    Attributes:
        difference: the largest difference found between the outputs and losses here and those of the framework on a few
            examples, as a share of the largest of them (of 1 where that is smaller).
        frozen: names of the parameters that do not move; their values are in `objectives["train"].state`.
    """

    difference: float = 0.0
    frozen: tuple[str, ...] = field(default=(), repr=False)


def largest_difference(ours: Any, theirs: Any) -> float:
    """Over the leaves of two trees, as a share of the largest number of a leaf, or of 1 where that is smaller.

    Infinite where one is finite and the other is not; equal where both are NaN or the same infinity.
    """
    return max(map(_difference, jax.tree.leaves(ours), jax.tree.leaves(theirs)), default=0.0)


def _difference(ours: Any, theirs: Any) -> float:
    a, b = (np.asarray(x).astype(np.float64) for x in (ours, theirs))
    if a.shape != b.shape:
        return np.inf
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.all(same | finite):
        return np.inf
    scale = max(1.0, float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b))))
    return float(np.max(np.abs(np.where(same, 0.0, a - b)), initial=0.0, where=finite)) / scale
