r"""Critical points: reach them to the last digit, say what they are, tell them apart, count them all.

At a critical point, $\nabla L = 0$, the *Morse index* is the number of negative eigenvalues of the Hessian: 0 for a
minimum, `n` for a maximum, saddles between. `polish` gets there, `classify` measures the index with the evidence
for it, `distinct` tells minima apart up to a symmetry of the loss, and `census` looks for every critical point of a
function of few variables. Index and rank mean what they say only where rounding does not blur them: use float64.

>>> import jax, jax.numpy as jnp
>>> from landscape import Objective, minima
>>> well = Objective(lambda p, _: (p[0] ** 2 - 9) ** 2 / 36 + p[1] ** 2)
>>> end = minima.polish(well, jnp.array([2.0, 0.5]))
>>> [round(float(x), 4) for x in end.params]
[3.0, 0.0]
>>> verdict = minima.classify(well, end.params, global_loss=0.0)
>>> verdict.kind, verdict.index, [round(float(x), 3) for x in verdict.eigenvalues]
('global', 0, [2.0, 2.0])
"""

from landscape.minima._census import Census, census
from landscape.minima._classify import DENSE as DENSE
from landscape.minima._classify import Classification, Kind, classify, polish
from landscape.minima._classify import check_options as check_options
from landscape.minima._distinct import Distinct, distinct
from landscape.minima._newton import Minimum
from landscape.minima._symmetry import HiddenUnits, Identity, Neurons, Points, Symmetry, student_family

__all__ = [
    "Census", "Classification", "Distinct", "HiddenUnits", "Identity", "Kind", "Minimum", "Neurons", "Points",
    "Symmetry", "census", "classify", "distinct", "polish", "student_family",
]  # fmt: skip
