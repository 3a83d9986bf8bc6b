r"""Paths between two sets of parameters: lines, trained curves, bands over saddles, and what permutations undo.

A path maps $t \in [0, 1]$ to parameters, so it stands wherever a `Subspace` of one dimension does:
`sweep(LossSurface(path, objectives), Grid.line((0, 1), 51))` measures losses along it, `analysis.barrier` their rise.

- `line`: straight (Goodfellow et al. 2015).
- `fit_bezier`, `fit_chain`: a curve between the same ends, trained to low loss (Garipov et al. 2018).
- `elastic_band`, `saddles`: the path of least loss and the saddles on it (Henkelman et al. 2000).
- `match_weights`, `permute`, `PermutationSpec`: one network's hidden units in the order of another's (Ainsworth et
  al. 2023).
- `Instability`: do two trainings that share their first steps end on one flat line (Frankle et al. 2020)?

>>> import jax, jax.numpy as jnp
>>> from landscape import Objective, paths
>>> a, b = jnp.array([-3.0, 0.5]), jnp.array([3.0, 0.5])
>>> wells = Objective(lambda p, _: (p[0] ** 2 - 9) ** 2 / 81 + (p[1] - 0.5 - p[0] ** 2 / 9) ** 2)   # a bent valley
>>> band = paths.elastic_band(wells, a, b, num_images=7)
>>> [round(float(x), 3) for x in paths.saddles(wells, band)[0].params]
[0.0, 0.5]
"""

from landscape.paths._band import Band, elastic_band, saddles
from landscape.paths._curves import Bezier, Chain, Fit, fit_bezier, fit_chain
from landscape.paths._instability import Instability
from landscape.paths._matching import Matching, PermutationSpec, match_weights, permute
from landscape.subspace import line

__all__ = [
    "line",
    "Bezier",
    "Chain",
    "Fit",
    "fit_bezier",
    "fit_chain",
    "Band",
    "elastic_band",
    "saddles",
    "PermutationSpec",
    "permute",
    "Matching",
    "match_weights",
    "Instability",
]
