r"""Fitting a Chebyshev polynomial with a small tanh network: the least problem on which sharpness is seen to rise.

Points evenly spaced on [-1, 1], labelled by $T_k(x) = \cos(k \arccos x)$ (Cohen et al. 2021, arXiv 2103.00065, whose
code has this data set, `make_chebyshev_dataset`). The higher the degree, the more the network must change, and the more
the largest eigenvalue of the Hessian grows on the way.

>>> from landscape.problems import chebyshev_regression
>>> problem = chebyshev_regression(4)
>>> problem.name, problem.objectives["train"].num_examples
('Chebyshev 4, MLP 1-50-50-1', 20)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape.objective import Objective, Problem
from landscape.problems.classification import mlp


def chebyshev_regression(degree: int, num_points: int = 20, hidden: Sequence[int] = (50, 50)) -> Problem:
    """A tanh network 1-50-50-1 on points of a Chebyshev polynomial, with half the squared error as loss.

    The data are full-batch, in the default precision, and have no test part. Parameters start as in
    `landscape.problems.mlp`; Cohen et al. use PyTorch's default, uniform with random biases.

    Args:
        degree: of the polynomial, at least 1.
        num_points: evenly spaced on [-1, 1], both ends included; at least 2.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: a degree below 1, or fewer than 2 points.
    """
    if degree < 1 or num_points < 2:
        raise ValueError(f"needs degree >= 1 and num_points >= 2, got {degree} and {num_points}")
    widths = (1, *hidden, 1)
    init, predict = mlp(widths)
    loss_fn = _half_squared_errors(predict)
    x = np.linspace(-1, 1, num_points)[:, None]
    data = {"x": jnp.asarray(x), "y": jnp.asarray(chebyshev(degree, x))}
    name = f"Chebyshev {degree}, MLP {'-'.join(map(str, widths))}"
    return Problem(init=init, objectives={"train": Objective(loss_fn, data)}, predict=predict, name=name)


@lru_cache
def _half_squared_errors(predict: Callable[[PyTree, Array], Array]) -> Callable[..., Array]:
    """The losses of a network, the same object in every call: other data run through the same compiled program."""

    def loss_fn(params: PyTree, batch: Mapping[str, Array]) -> Float[Array, " n"]:
        return 0.5 * jnp.sum((predict(params, batch["x"]) - batch["y"]) ** 2, axis=-1)

    return loss_fn


def chebyshev(degree: int, x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The Chebyshev polynomial of the first kind on [-1, 1]."""
    return np.cos(degree * np.arccos(x))
