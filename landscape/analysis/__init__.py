"""Numbers from a landscape, in NumPy alone: gaps and barriers of losses, basins, boundaries, merge trees.

Basins are integer labels over a grid or a sample of starts: the index of the minimum that a start reaches, `UNREACHED`
(-1) where it reached none that is known or did not converge, and `DIVERGED` (-2). Points of a landscape that were not
computed hold 0 in integer outputs: pass the landscape itself, or `shown_labels` of it.

>>> import numpy as np
>>> from landscape import analysis
>>> labels = analysis.label_basins(np.array([[3.0, 2.0], [-2.8, 3.1], [3.0, 2.0 + 1e-9]]), tol=1e-3).labels
>>> labels
array([0, 1, 0])
>>> shares = analysis.basin_fractions(labels, optimizer="sgd(0.01)", initialisation="uniform on [-5, 5]^2")
>>> print(shares)
share of 3 runs (sgd(0.01); uniform on [-5, 5]^2), 95 % Wilson intervals
    0   66.7 %  [20.8, 93.9]  2
    1   33.3 %  [6.1, 79.2]  1
>>> tree = analysis.merge_tree(np.array([2.0, 0.5, 3.0, 1.5, 4.0]))
>>> tree.values, tree.heights, tree.persistence
(array([0.5, 1.5]), array([3.]), array([inf, 1.5]))
"""

from landscape.analysis._basins import (
    DIVERGED,
    UNREACHED,
    BasinFractions,
    Basins,
    basin_fractions,
    label_basins,
    shown_labels,
)
from landscape.analysis._boundaries import (
    BasinEntropy,
    DimensionEstimate,
    UncertaintyExponent,
    basin_entropy,
    boundary,
    box_counting_dimension,
    fit_dimension,
    uncertainty_exponent,
)
from landscape.analysis._estimates import (
    NORMAL as NORMAL,
)
from landscape.analysis._estimates import (
    Estimate,
    correlation,
    mean_of,
    ratio_and_error,
    ratio_of,
    share_of,
    z_of_shares,
)
from landscape.analysis._intervals import Quantile, mean_interval, quantile_interval, wilson_interval
from landscape.analysis._losses import (
    Barrier,
    MinimumOffset,
    barrier,
    best_epoch,
    divergence_epoch,
    generalization_gap,
    minimum_offset,
)
from landscape.analysis._merge import MergeTree, merge_tree, merge_tree_of_graph
from landscape.analysis._report import report_of as report_of
from landscape.analysis._report import report_table, report_text

__all__ = [
    "generalization_gap",
    "minimum_offset",
    "MinimumOffset",
    "best_epoch",
    "divergence_epoch",
    "barrier",
    "Barrier",
    "label_basins",
    "Basins",
    "basin_fractions",
    "BasinFractions",
    "shown_labels",
    "wilson_interval",
    "mean_interval",
    "Estimate",
    "mean_of",
    "share_of",
    "ratio_of",
    "ratio_and_error",
    "correlation",
    "z_of_shares",
    "quantile_interval",
    "Quantile",
    "UNREACHED",
    "DIVERGED",
    "basin_entropy",
    "BasinEntropy",
    "boundary",
    "box_counting_dimension",
    "fit_dimension",
    "DimensionEstimate",
    "uncertainty_exponent",
    "UncertaintyExponent",
    "merge_tree",
    "merge_tree_of_graph",
    "MergeTree",
    "report_table",
    "report_text",
]
