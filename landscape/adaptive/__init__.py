"""Sweeps at a tolerance: which points of a grid to evaluate next, and what may be promised of the rest.

Every point that is evaluated is a point of the requested grid, so the worst case is the whole grid, each point once.
Nested sub-grids (`_levels`) are refined cell by cell. At the points that a level adds, the *surplus* is the
difference between the value and its prediction from the level before (interpolating wavelets: Donoho 1992; Holmstrom
1999, "Solving hyperbolic PDEs using interpolating wavelets"). We differ in that there are two predictors, a cubic
spline and the cubic through four points, and that in each neighbourhood of 5 points the one with the smaller surplus
counts. A cell goes on being refined where

    safety * surplus > tolerance    at one of its points or at a point of a neighbouring cell,

with a safety of 2, or of 4 where the surplus fell by less than 2.5 from one level to the next: it falls by 16 on smooth
functions, by 2 at kinks and not at all at steps. Where nothing was measured and the predictors differ by half the
tolerance, the local one is followed: a spline rings about what has just come to light. Labels (which basin, converged
or not) have no surplus: a cell is refined where its corners disagree or those of a neighbour do. NaN and the
infinities are such labels too.

No tolerance is smaller than rounding: 20 units of it in the largest value, or 26 standard deviations of the noise,
where the first round shows noise of at most 256 units. What cannot be had is said in `warnings`, and `reason` says why
most points were evaluated, where they were.

Two kinds of statement come back, and they are not of the same kind:

* `error` is an **estimate** of the largest error of a predicted value. No finite sample bounds the largest error of an
  arbitrary function: what is smaller than the spacing of the first round (33 points along each axis) can be missed
  altogether, and then the error is as large as the feature. `benchmarks/tolerance.py` measures how often it is kept.
* The `fraction` of an output in the statement is a **guarantee**: with 95 % confidence, over the random choice of the
  validation points, at most this fraction of all points is off by more than `error` (labels: is wrong), whatever the
  function.
  `V` points drawn uniformly from the `U` that were not evaluated, of `N` in all, without one failure give
  `(1 - (0.05 / R)^(1 / V)) U / N`, where `R = 6` is the number of times that may be tried (Bonferroni). With failures,
  which only labels may end with, it is the bound of Clopper & Pearson (1934).

The functions here evaluate nothing: they are asked for points and told values.

>>> import numpy as np
>>> from landscape.grid import Grid
>>> grid = Grid.square(1.0, 257)
>>> refinement = Refinement(grid, {"loss": Smooth(1e-3)}, {"loss": np.dtype(np.float64)})
>>> while (flat := refinement.ask()).size:
...     x, y = grid.points_at(flat).T
...     refinement.tell(flat, {"loss": np.sin(2 * x) * np.exp(y)})
>>> refinement.statement["evaluations"], refinement.statement["points"]
(1361, 66049)
>>> x, y = grid.points().T
>>> error = np.abs(refinement.values["loss"].ravel() - np.sin(2 * x) * np.exp(y)).max()
>>> bool(error <= refinement.error["loss"])
True
"""

from landscape.adaptive._fields import Labels, Smooth
from landscape.adaptive._refinement import Refinement, drivers
from landscape.adaptive._refinement import upper_bound as upper_bound

__all__ = ["Labels", "Refinement", "Smooth", "drivers"]
