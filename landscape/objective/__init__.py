r"""A loss and its data as one function of the parameters: `Objective` and `Problem`.

The empirical risk is the mean over `n` examples, $L(\theta) = \frac1n \sum_i \ell(\theta; z_i)$. Everything that
is a mean of per-batch quantities (loss, metrics, gradient, Hessian products, batch-norm statistics) goes through
one method, `Objective.mean`, so batches, and the ragged last one, are dealt with in one place.

>>> import jax.numpy as jnp
>>> from landscape import Objective
>>> def squared_error(params, batch):
...     return (batch["x"] @ params["w"] - batch["y"]) ** 2          # one number per example
>>> data = {"x": jnp.array([[1.0], [2.0], [4.0]]), "y": jnp.array([1.0, 2.0, 5.0])}
>>> objective = Objective(squared_error, data, batch_size=2)         # batches of 2 and 1
>>> float(objective({"w": jnp.array([1.0])}))                        # (0 + 0 + 1) / 3
0.3333333432674408

Examples may have weights, $L(\theta) = \sum_i w_i \ell(\theta; z_i) / \sum_i w_i$:

>>> weighted = Objective(squared_error, data, batch_size=2, weight_fn=lambda batch: batch["y"])
>>> float(weighted({"w": jnp.array([1.0])}))                         # (1 * 0 + 2 * 0 + 5 * 1) / 8
0.625
"""

from landscape.objective._batches import Batches, batches_in, filled
from landscape.objective._derivatives import differentiated
from landscape.objective._division import check_means
from landscape.objective._objective import (
    Objective,
    added,
    check_named,
    check_objective,
    drawn,
    joined,
    set_aside,
    set_aside_of_both,
    shared,
)
from landscape.objective._problem import Problem

__all__ = [
    "Batches",
    "Objective",
    "Problem",
    "added",
    "batches_in",
    "filled",
    "check_means",
    "check_named",
    "check_objective",
    "differentiated",
    "drawn",
    "joined",
    "set_aside",
    "set_aside_of_both",
    "shared",
]
