r"""Least squares without a ridge, on more or fewer features than examples: the double descent that is known exactly.

Inputs $x \sim N(0, I_p)$, answers $y = x \cdot \beta + \epsilon$ with noise of variance $\sigma^2$; of all vectors
that fit $n$ examples best, $\hat\beta$ is the one of smallest norm. Its excess risk is $|\hat\beta - \beta|^2$, in
the mean $\sigma^2 p / (n - p - 1)$ for $p < n - 1$, $|\beta|^2 (1 - n/p) + \sigma^2 n / (p - n - 1)$ for $p > n + 1$,
and infinite in between. Hastie, Montanari, Rosset & Tibshirani 2019 (arXiv 1903.08560, theorem 1) give the limit of
many examples; these hold for any number, from the mean of an inverse Wishart matrix.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.point import as_number

_static: Any = {"static": True}


def excess_risk(p: Any, n: int, signal: float, noise: float) -> np.ndarray:
    """The exact mean for `p` features and `n` examples; `signal` is |beta|^2, `noise` the variance."""
    p = np.asarray(p, float)
    few, many = n - p - 1, p - n - 1
    below = noise * p / np.where(few > 0, few, np.nan)
    above = signal * (1 - n / p) + noise * n / np.where(many > 0, many, np.nan)
    return np.where(few > 0, below, np.where(many > 0, above, np.inf))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Ridgeless:
    """Coordinates are a number of features and the number of a draw.

    Attributes:
        key: random key; each pair of coordinates has draws of its own.
        signal: |beta|^2; its direction is random.
        noise: variance of the noise.
        num_examples: n.
        most: most features. Fewer are padded with features that are 0.
    """

    key: jax.Array
    signal: float
    noise: float
    num_examples: int = field(metadata=_static)
    most: int = field(metadata=_static)

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """`excess_risk`, and `train_error`, the mean squared error on the examples."""
        x, y, beta = self.draw(coords)
        fitted = smallest_solution(x, y, coords[0])
        return {"excess_risk": jnp.sum((fitted - beta) ** 2), "train_error": jnp.mean((y - x @ fitted) ** 2)}

    def draw(self, coords: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Inputs `(n, most)`, answers `(n,)` and the truth `(most,)`."""
        num_features, number = as_number(coords)
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(self.key, number), num_features), 3)
        there = jnp.arange(self.most) < num_features
        x = jnp.where(there, jax.random.normal(keys[0], (self.num_examples, self.most)), 0.0)
        beta = jnp.where(there, jax.random.normal(keys[1], (self.most,)), 0.0)
        beta = beta * jnp.sqrt(self.signal / jnp.sum(beta**2))
        noise = jnp.sqrt(self.noise) * jax.random.normal(keys[2], (self.num_examples,))
        return x, x @ beta + noise, beta


def smallest_solution(x: jax.Array, y: jax.Array, num_features: Any) -> jax.Array:
    """The least-squares solution of smallest norm, for inputs `(n, p)` of which the first `num_features` are not 0.

    $(x^T x)^{-1} x^T y$ for fewer features than examples and $x^T (x x^T)^{-1} y$ otherwise, so that a system of n
    equations is solved in either case; in the first, what is missing to n is filled up with ones on the diagonal. This
    squares the condition number of the inputs, so it wants double precision.
    """
    n, most = x.shape
    first = jnp.pad(x[:, :n], ((0, 0), (0, max(n - most, 0))))
    few = num_features < n
    missing = jnp.diag(jnp.where(jnp.arange(n) < num_features, 0.0, 1.0))
    matrix = jnp.where(few, first.T @ first + missing, x @ x.T)
    solved = jax.scipy.linalg.solve(matrix, jnp.where(few, first.T @ y, y), assume_a="pos")
    return jnp.where(few, jnp.pad(solved, (0, max(most - n, 0)))[:most], x.T @ solved)
