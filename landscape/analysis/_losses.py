"""Numbers from losses: the gap between test and training, where their minima lie, when their curves part; barriers.

>>> import numpy as np
>>> from landscape.analysis import barrier, best_epoch, divergence_epoch, generalization_gap, minimum_offset
>>> from landscape.grid import Grid, Landscape
>>> grid = Grid.line(num=3)
>>> values = {"train_loss": np.array([0.5, 0.25, 2.0]), "test_loss": np.array([0.75, 0.75, 2.0])}
>>> generalization_gap(Landscape(grid, values, np.ones(3, dtype=bool)))
array([0.25, 0.5 , 0.  ])
>>> minimum_offset(Landscape(grid, values, np.ones(3, dtype=bool))).distance
1.0
>>> train, test = [2.0, 1.0, 0.5, 0.25, 0.125], [2.0, 1.5, 1.0, 1.25, 1.5]    # curves over epochs
>>> int(best_epoch(test)), int(divergence_epoch(train, test, margin=0.75))
(2, 3)
>>> barrier([0.5, 2.0, 0.25]).above_line
1.625
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.checks import reals, short
from landscape.grid import Landscape, check_landscape


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
        TypeError: it is no landscape.
        ValueError: the landscape lacks one of the losses, or they differ in shape.
    """
    check_landscape(landscape)
    missing = [name for name in (train, test) if name not in landscape]
    if missing:
        raise ValueError(
            f"the generalization gap needs {train!r} and {test!r}; this landscape lacks {', '.join(map(str, missing))} "
            f"and has {', '.join(landscape.names)}: sweep both objectives, or name the losses with train= and test="
        )
    if landscape[train].shape != landscape[test].shape:
        raise ValueError(
            f"{train!r} and {test!r} must have one shape, got {landscape[train].shape} and {landscape[test].shape}"
        )
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is the right answer
        return np.subtract(landscape[test], landscape[train])


@dataclass(frozen=True, eq=False)
class MinimumOffset:
    """How far the minimum of the test loss lies from that of the training loss, on a grid.

    Attributes:
        train: coordinates of the smallest training loss, `(k,)`.
        test: coordinates of the smallest test loss, `(k,)`.
        offset: `test - train`, in the units of the coordinates.
        distance: its Euclidean norm. For orthonormal directions the distance in parameter space; for others, use
            `offset` with their Gram matrix.
        resolution: half the diagonal of the widest cell. A smaller distance says nothing.
        on_border: whether either minimum lies on the edge of the grid, so that the real one may lie beyond.
        excess: what the test loss at the training minimum is above its own minimum. Never negative.
        distances: the distance for each resampling of the test examples, `(b,)`; empty without any.
    """

    train: np.ndarray
    test: np.ndarray
    offset: np.ndarray
    distance: float
    resolution: float
    on_border: bool
    excess: float
    distances: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """The 2.5th and 97.5th percentile of the resampled distances (Efron 1979); NaN without any."""
        if not self.distances.size:
            return np.nan, np.nan
        low, high = np.percentile(self.distances, [2.5, 97.5])
        return float(low), float(high)


def minimum_offset(
    landscape: Landscape, *, train: str = "train_loss", test: str = "test_loss", resampled: str | None = None
) -> MinimumOffset:
    """The offset of the test minimum from the training minimum, both among the computed points of the grid.

    Args:
        landscape: a landscape with both losses.
        train: name of the training loss.
        test: name of the test loss.
        resampled: name of an output that holds, at each point, the test loss over `b` bootstrap resamples of the test
            examples, the same at all points, shape `(*grid.shape, b)`. It says how far the offset is due to the test
            examples that happen to be there. The training minimum is taken as it is.

    Raises:
        TypeError: it is no landscape.
        KeyError: there is no such output.
        ValueError: an output of another shape, or without a finite value.
    """
    check_landscape(landscape)
    first, second = (landscape.argmin(name) for name in (train, test))
    at, best = landscape.coords(first), landscape.coords(second)
    widest = [np.max(np.diff(axis.values), initial=0.0) for axis in landscape.grid.axes]
    ends = [(0, n - 1) for n in landscape.grid.shape]
    return MinimumOffset(
        train=at,
        test=best,
        offset=best - at,
        distance=float(np.linalg.norm(best - at)),
        resolution=float(np.linalg.norm(widest)) / 2,
        on_border=any(i in end for index in (first, second) for i, end in zip(index, ends) if end[1]),
        excess=float(landscape[test][first] - landscape[test][second]),
        distances=np.empty(0) if resampled is None else _distances(landscape, resampled, at),
    )


def _distances(landscape: Landscape, name: str, start: np.ndarray) -> np.ndarray:
    """Distances of the minima of many losses from a point."""
    values, shape = landscape[name], landscape.grid.shape
    if values.ndim != len(shape) + 1:
        raise ValueError(f"{name!r} must hold one loss for each resample, shape {shape} + (b,), got {values.shape}")
    flat = np.where(np.isfinite(values) & landscape.computed[..., None], values, np.inf).reshape(-1, values.shape[-1])
    if not np.all(np.any(np.isfinite(flat), axis=0)):
        raise ValueError(f"{name!r} has a resample without a finite value on this grid")
    return np.linalg.norm(landscape.grid.points_at(np.argmin(flat, axis=0)) - start, axis=1)


def best_epoch(test: Any, epochs: Any = None) -> np.ndarray:
    """When the test loss was least, for each curve: where early stopping with hindsight would have stopped.

    Args:
        test: test losses, shape `(*runs, t)`.
        epochs: the epochs (or steps) that they belong to, shape `(t,)`; 0, 1, .. when None.

    Returns:
        Shape `(*runs,)`: the first epoch with the smallest loss. NaN losses are passed over; a curve of nothing else
        gives NaN.

    Raises:
        TypeError: losses or epochs that are no real numbers.
        ValueError: no losses, or epochs of another shape.
    """
    test, epochs = _curves(test, epochs)
    known = ~np.isnan(test)
    first = np.argmin(np.where(known, test, np.inf), axis=-1)
    return np.where(known.any(axis=-1), epochs[first], np.nan)


def divergence_epoch(train: Any, test: Any, epochs: Any = None, *, margin: Any = 0.0) -> np.ndarray:
    """When the curves of training and test loss part for good: from then on the gap exceeds `margin` to the end.

    Args:
        train: training losses, shape `(*runs, t)`.
        test: test losses of the same shape.
        epochs: the epochs (or steps) that they belong to, shape `(t,)`; 0, 1, .. when None.
        margin: the gap that counts as none, in units of the loss, broadcast against the curves: for example two
            standard errors of the test loss.

    Returns:
        Shape `(*runs,)`; NaN where the gap at the end does not exceed the margin, or is NaN.

    Raises:
        TypeError: losses, epochs or a margin that are no real numbers.
        ValueError: no losses, or shapes that do not fit.
    """
    test, epochs = _curves(test, epochs)
    train, _ = _curves(train, epochs)
    if train.shape != test.shape:
        raise ValueError(f"training and test losses must have one shape, got {train.shape} and {test.shape}")
    margin = _margin(margin, test.shape)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and NaN exceeds nothing
        apart = test - train > margin
    since = test.shape[-1] - np.sum(np.cumprod(apart[..., ::-1], axis=-1, dtype=np.int64), axis=-1)
    return np.where(apart[..., -1], epochs[np.minimum(since, test.shape[-1] - 1)], np.nan)


def _margin(margin: Any, shape: tuple[int, ...]) -> np.ndarray:
    margin, given = reals("margin", margin), margin
    try:
        margin = np.broadcast_to(margin, shape)
    except ValueError as error:
        raise ValueError(f"margin must be broadcast against the curves, {shape}, got {short(given)}") from error
    if np.any(np.isnan(margin)):
        raise ValueError("margin must be numbers: no gap exceeds NaN")
    return margin


def _curves(losses: Any, epochs: Any) -> tuple[np.ndarray, np.ndarray]:
    losses = reals("curves", losses)
    if losses.ndim < 1 or not losses.shape[-1]:
        raise ValueError(f"curves must have shape (*runs, t) with t >= 1, got {losses.shape}")
    epochs = np.arange(losses.shape[-1], dtype=np.float64) if epochs is None else reals("epochs", epochs)
    if epochs.shape != losses.shape[-1:]:
        raise ValueError(f"epochs must have shape {losses.shape[-1:]}, one for each loss, got {epochs.shape}")
    return losses, epochs


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
        TypeError: losses or positions that are no real numbers.
        ValueError: fewer than two losses, several paths, or positions that do not fit.
    """
    losses = reals("the losses of a path", losses)
    if losses.ndim != 1 or len(losses) < 2:
        raise ValueError(f"the losses of a path must have shape (n,) with n >= 2, got {losses.shape}")
    t = np.linspace(0, 1, len(losses)) if positions is None else reals("positions", positions)
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
