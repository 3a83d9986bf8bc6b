r"""Minima whose learning coefficient is known, and what a sampler should measure there at a finite number of examples.

With $t = n \beta$ the chains sample $\propto \exp(-t L(w) - \frac\gamma2 |w|^2)$, and what they estimate is
$t \, \mathbb{E} L = -\partial \log Z / \partial \log t$ for its normaliser $Z$. Each minimum here lies at the origin
with a loss of 0, and has the number as a sum or an integral over one variable: no sampling.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NODES = 8001  # of an integral over the logarithm of a variable


@dataclass(frozen=True)
class Quadratic:
    """A minimum with a regular Hessian: the sum of `curvatures * w**2 / 2`. Its coefficient is half its parameters."""

    curvatures: tuple[float, ...]

    def __call__(self, params: jax.Array, _: Any) -> jax.Array:
        """The loss."""
        return jnp.sum(jnp.asarray(self.curvatures, params.dtype) * params**2) / 2

    @property
    def text(self) -> str:
        """What it is called."""
        return f"quadratic, {len(self.curvatures)} parameters"

    @property
    def params(self) -> np.ndarray:
        """The minimum."""
        return np.zeros(len(self.curvatures), np.float32)

    @property
    def coefficient(self) -> tuple[float, int]:
        """The learning coefficient and its multiplicity."""
        return len(self.curvatures) / 2, 1

    def expectation(self, strength: float, localization: float) -> float:
        """The mean of `strength * loss`."""
        pulls = strength * np.array(self.curvatures)
        return float(np.sum(pulls / (pulls + localization)) / 2)


@dataclass(frozen=True)
class Crossing:
    """A normal crossing, `w1**2 * w2**power` with an even power: the minima are both axes, the worst of them 0."""

    power: int

    def __call__(self, params: jax.Array, _: Any) -> jax.Array:
        """The loss."""
        return params[0] ** 2 * params[1] ** self.power

    @property
    def text(self) -> str:
        """What it is called."""
        return f"w1^2 w2^{self.power}"

    @property
    def params(self) -> np.ndarray:
        """The minimum."""
        return np.zeros(2, np.float32)

    @property
    def coefficient(self) -> tuple[float, int]:
        """The smallest of one over the powers, and how many share it (Watanabe 2009, section 2.4)."""
        return 1 / max(2, self.power), 1 + (self.power == 2)

    def expectation(self, strength: float, localization: float) -> float:
        """The mean of `strength * loss`: `w1` is Gaussian given `w2`, over which it is integrated."""
        u = np.linspace(-45, np.log(12 / localization**0.5), NODES)
        w = np.exp(u)
        pull = 2 * strength * w**self.power
        weight = w * np.exp(-localization * w**2 / 2) / np.sqrt(pull + localization)
        return float(np.average(pull / (pull + localization) / 2, weights=weight))


@dataclass(frozen=True)
class ReducedRank:
    """Two linear layers without data to fit: `|B A|**2 / 2` with `A` (hidden, inputs), `B` (outputs, hidden)."""

    inputs: int
    hidden: int
    outputs: int

    def __call__(self, params: dict[str, jax.Array], _: Any) -> jax.Array:
        """The loss: half the mean squared output where the inputs are white."""
        return jnp.sum((params["b"] @ params["a"]) ** 2) / 2

    @property
    def text(self) -> str:
        """What it is called."""
        return f"linear network {self.inputs}-{self.hidden}-{self.outputs}"

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The minimum."""
        shapes = {"a": (self.hidden, self.inputs), "b": (self.outputs, self.hidden)}
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    @property
    def coefficient(self) -> tuple[float, int]:
        """The learning coefficient at the zero matrix, and its multiplicity."""
        return reduced_rank_coefficient(self.inputs, self.hidden, self.outputs)

    def expectation(self, strength: float, localization: float) -> float:
        """The mean of `strength * loss`, by the slope of the logarithm of the normaliser."""
        # the eigenvalues of B'B, from far below where the loss matters to far above where the pull back lets them
        low = min(localization / strength, 1 / localization)
        u = np.linspace(np.log(low) - 37, np.log(150 / localization), NODES)
        nudge = 1e-3
        less, more = (self._log_normaliser(strength * np.exp(s), localization, u) for s in (-nudge, nudge))
        return (less - more) / (2 * nudge)

    def _log_normaliser(self, strength: float, localization: float, u: np.ndarray) -> float:
        """Up to a constant: `A` is Gaussian given `B`, whose squared singular values `exp(u)` have the Wishart density.

        The product of their differences is integrated as a Pfaffian (de Bruijn 1955).
        """
        rank, x = min(self.hidden, self.outputs), np.exp(u)
        log_weight = (abs(self.outputs - self.hidden) + 1) / 2 * u - localization * x / 2
        log_weight -= self.inputs / 2 * np.log1p(strength * x / localization)
        moments = np.exp(log_weight + np.arange(rank)[:, None] * u)
        below = np.pad(np.cumsum((moments[:, 1:] + moments[:, :-1]) / 2, axis=1), ((0, 0), (1, 0)))
        half = below @ moments.T
        pairs = half - half.T
        if rank % 2:
            border = below[:, -1:]
            pairs = np.block([[pairs, border], [-border.T, np.zeros((1, 1))]])
        return float(np.linalg.slogdet(pairs)[1]) / 2


def reduced_rank_coefficient(inputs: int, hidden: int, outputs: int, rank: int = 0) -> tuple[float, int]:
    """The learning coefficient of reduced-rank regression and its multiplicity (Aoyagi & Watanabe 2005).

    "Stochastic complexities of reduced rank regression in Bayesian estimation", Neural Networks 18, main theorem.

    Args:
        inputs: M there.
        hidden: H there, the rank that the model can have.
        outputs: N there.
        rank: r there, that of the true matrix; at most `hidden`.
    """
    m, h, n, r = inputs, hidden, outputs, rank
    if m + h < n + r:
        return (h * m - h * r + n * r) / 2, 1
    if n + h < m + r:
        return (h * n - h * r + m * r) / 2, 1
    if m + n < h + r:
        return m * n / 2, 1
    eightfold = 2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m**2 - n**2
    odd = (m + h + n + r) % 2
    return (eightfold + odd) / 8, 1 + odd
