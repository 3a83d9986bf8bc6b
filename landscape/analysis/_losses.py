"""Numbers from losses: the gap between test and training, the barrier along a path.

>>> import numpy as np
>>> from landscape.analysis import barrier, generalization_gap
>>> from landscape.grid import Grid, Landscape
>>> grid = Grid.line(num=3)
>>> values = {"train_loss": np.array([0.5, 0.25, 2.0]), "test_loss": np.array([0.75, 0.75, 2.0])}
>>> generalization_gap(Landscape(grid, values, np.ones(3, dtype=bool)))
array([0.25, 0.5 , 0.  ])
>>> barrier([0.5, 2.0, 0.25]).above_line
1.625
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.grid import Landscape


def generalization_gap(landscape: Landscape, *, train: str = "train_loss", test: str = "test_loss") -> np.ndarray:
    """The test loss minus the training loss at every point.

    Args:
        landscape: a landscape with both losses.
        train: name of the training loss.
        test: name of the test loss.

    Returns:
        Shape `grid.shape`, in units of the loss; positive where the test loss is the higher one. NaN where a
        loss is NaN or was not computed, and where both are infinite.

    Raises:
        ValueError: the landscape lacks one of the losses, or they differ in shape.
    """
    missing = [name for name in (train, test) if name not in landscape]
    if missing:
        raise ValueError(
            f"the generalization gap needs {train!r} and {test!r}; this landscape lacks {', '.join(missing)} and "
            f"has {', '.join(landscape.names)}: sweep both objectives, or name the losses with train= and test="
        )
    if landscape[train].shape != landscape[test].shape:
        raise ValueError(
            f"{train!r} and {test!r} must have one shape, got {landscape[train].shape} and {landscape[test].shape}"
        )
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is the right answer
        return np.subtract(landscape[test], landscape[train])


@dataclass(frozen=True, eq=False)
class Barrier:
    """How high the loss rises between the two ends of a path, by the three definitions in use, in units of the loss.

    Attributes:
        above_line: the largest excess over the straight line between the losses of the ends (Entezari et al. 2022,
            definition 2.1). Never negative.
        above_mean: the highest loss minus the mean of the losses of the ends (Frankle et al. 2020, section 2, who
            measure the error rate). Differs from `above_line` where the ends differ.
        above_higher_end: the highest loss minus the higher of the two ends: what a walker must climb at most. 0 where
            nothing between the ends is higher than both.
        line_position: where on the path the excess over the line is largest.
        position: where on the path the loss is highest.
        ends: the losses of the two ends.
    """

    above_line: float
    above_mean: float
    above_higher_end: float
    line_position: float
    position: float
    ends: tuple[float, float]


def barrier(losses: Any, positions: Any = None) -> Barrier:
    """The loss barrier between the two ends of a path.

    Only the points given are looked at, so the barrier is a lower bound of that of the continuous path.

    Args:
        losses: the losses along the path, ends included, shape `(n,)` with n >= 2.
        positions: strictly increasing positions along the path, shape `(n,)`; equally spaced on [0, 1] when None.

    Returns:
        The barrier. A NaN on the path makes every height NaN, and an infinite loss between finite ends makes it
        infinite.

    Raises:
        ValueError: fewer than two losses, several paths, or positions that do not fit.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 1 or len(losses) < 2:
        raise ValueError(f"the losses of a path must have shape (n,) with n >= 2, got {losses.shape}")
    t = np.linspace(0, 1, len(losses)) if positions is None else np.asarray(positions, dtype=np.float64)
    if t.shape != losses.shape or not np.all(np.diff(t) > 0):
        raise ValueError(f"positions must be strictly increasing and of shape {losses.shape}, got {t}")
    first, last = float(losses[0]), float(losses[-1])
    share = (t - t[0]) / (t[-1] - t[0])
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is the right answer
        excess = losses - ((1 - share) * first + share * last)
        # A line meets its own ends, whatever the rounding.
        excess[[0, -1]] = losses[[0, -1]] - losses[[0, -1]]
        top = np.max(losses)
        above_mean, above_higher_end = top - 0.5 * (first + last), top - max(first, last)
    where = int(np.argmax(excess)), int(np.argmax(losses))
    heights = (float(np.max(excess)), float(above_mean), float(above_higher_end))
    return Barrier(*heights, *(float(t[i]) for i in where), (first, last))
