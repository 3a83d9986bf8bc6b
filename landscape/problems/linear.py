r"""Linear networks, whose every critical value is known: deep linear regression and the linear autoencoder.

The prediction is a product of matrices, $W_L \cdots W_1 x$, so the loss is not convex in them, and yet every local
minimum is global (Baldi & Hornik 1989 for one hidden layer; Kawaguchi 2016, arXiv 1605.07110, for any depth). The
critical values are those of reduced-rank regression: with
$\Sigma = \Sigma_{yx} \Sigma_{xx}^{-1} \Sigma_{xy}$ and its eigenvalues $\lambda_i$,

$$ L_I = \mathrm{tr}\,\Sigma_{yy} - \sum_{i \in I} \lambda_i, \qquad |I| \le p = \text{the smallest width}, $$

and only the $p$ largest eigenvalues make a minimum. For the autoencoder $y = x$ and $\Sigma = S$.

>>> from landscape.problems import autoencoder
>>> net = autoencoder(2, spectrum=(5.0, 3.2, 2.0))
>>> round(net.global_minimum, 6), round(net.critical_value((0, 2)), 6), net.morse_index((0, 2))
(2.0, 3.2, 1)
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape.objective import Objective, Problem


@dataclass(frozen=True, eq=False)
class LinearProblem(Problem):
    """A linear network with its exact critical values.

    Attributes:
        eigenvalues: of the explained second moment, largest first, shape `(outputs,)`.
        total: trace of the second moment of the targets, the loss of the zero map.
        rank: smallest width of the network.
    """

    eigenvalues: Float[np.ndarray, " c"] = field(default_factory=lambda: np.empty(0))
    total: float = 0.0
    rank: int = 0

    def critical_value(self, chosen: Sequence[int]) -> float:
        """The loss where the network passes on the eigenvectors `chosen` (0 is the largest), at most `rank` of them."""
        return float(self.total - np.sum(self.eigenvalues[list(chosen)]))

    def critical_values(self, sizes: Sequence[int] | None = None) -> dict[tuple[int, ...], float]:
        """The loss of every subset of eigenvectors; of all sizes up to `rank`, or of the sizes given."""
        sizes = range(self.rank + 1) if sizes is None else sizes
        subsets = itertools.chain.from_iterable(itertools.combinations(range(len(self.eigenvalues)), k) for k in sizes)
        return {chosen: self.critical_value(chosen) for chosen in subsets}

    @property
    def global_minimum(self) -> float:
        """The loss of reduced-rank regression: the `rank` largest eigenvalues are explained."""
        return self.critical_value(range(min(self.rank, len(self.eigenvalues))))


@dataclass(frozen=True, eq=False)
class Autoencoder(LinearProblem):
    """A linear autoencoder with one hidden layer.

    Attributes:
        basis: eigenvectors of the second moment as columns, in the order of `eigenvalues`.
    """

    basis: Float[np.ndarray, "d d"] = field(default_factory=lambda: np.empty((0, 0)))

    def critical_point(self, chosen: Sequence[int]) -> PyTree:
        """The parameters with orthonormal weights that pass on these eigenvectors; the other hidden units are 0."""
        kernel = np.zeros((len(self.eigenvalues), self.rank))
        kernel[:, : len(chosen)] = self.basis[:, list(chosen)]
        return [jnp.asarray(kernel), jnp.asarray(kernel.T)]

    def morse_index(self, chosen: Sequence[int]) -> int:
        """Negative Hessian eigenvalues where these eigenvectors are chosen, at most `rank` of them.

        One for each way to exchange one of them for a larger one, and one for each hidden unit without an eigenvector
        and each eigenvector that it could take. Invariant over all parameters of the same map.
        """
        rest = self._rest(chosen)
        exchanges = sum(self.eigenvalues[j] > self.eigenvalues[i] for i in chosen for j in rest)
        return int(exchanges) + (self.rank - len(chosen)) * len(rest)

    def num_flat(self, chosen: Sequence[int]) -> int:
        """Zero Hessian eigenvalues there: the dimension of the orbit `(W C, C^-1 V)` under invertible `C`."""
        return self.rank**2 - (self.rank - len(chosen)) ** 2

    def hessian_spectrum(self, chosen: Sequence[int]) -> Float[np.ndarray, " n"]:
        r"""All Hessian eigenvalues at `critical_point(chosen)`, in increasing order.

        Move decoder and encoder by $a$ and $b$ in the unit that holds $u_i$. Towards $u_j$, not chosen, the loss
        changes by $\lambda_i a^2 + \lambda_j b^2 - 2 \lambda_j a b$: a saddle iff $\lambda_j > \lambda_i$. Towards
        $u_k$, chosen, by $\lambda_k (a + b)^2$: flat along $a = -b$. In a unit that holds nothing, by
        $-2 \lambda_j a b$ towards $u_j$ and not at all towards $u_k$.
        """
        values, free = [np.zeros(self.num_flat(chosen))], self.rank - len(chosen)
        values.append(np.repeat(4 * self.eigenvalues[list(chosen)], len(chosen)))
        for j in self._rest(chosen):
            left = self.eigenvalues[j]
            values += [np.repeat([-2 * left, 2 * left], free)]
            values += [2 * np.linalg.eigvalsh([[self.eigenvalues[i], -left], [-left, left]]) for i in chosen]
        return np.sort(np.concatenate(values))

    def _rest(self, chosen: Sequence[int]) -> list[int]:
        return sorted(set(range(len(self.eigenvalues))) - set(chosen))


def linear_net(widths: Sequence[int]) -> tuple[Any, Any]:
    """Pure functions `init(key) -> params` and `predict(params, x)` of a linear network without biases.

    Parameters are a list of kernels `(in, out)`, which start from N(0, 1 / fan_in). Equal widths give the same
    functions, so that they share their compiled programs.
    """
    return _start(tuple(widths)), _predict


@lru_cache
def _start(widths: tuple[int, ...]) -> Any:
    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, len(widths) - 1)
        return [jax.random.normal(k, (m, n)) / jnp.sqrt(m) for k, m, n in zip(keys, widths[:-1], widths[1:])]

    return init


def _predict(params: PyTree, x: Float[Array, "n d"]) -> Float[Array, "n c"]:
    for kernel in params:
        x = x @ kernel
    return x


def _squared_errors(params: PyTree, batch: Mapping[str, Array]) -> Float[Array, " n"]:
    return jnp.sum((_predict(params, batch["x"]) - batch["y"]) ** 2, axis=-1)


def deep_linear(
    widths: Sequence[int] = (6, 5, 3, 5, 6),
    num_examples: int = 60,
    *,
    noise: float = 0.3,
    whiten: bool = True,
    seed: int = 0,
) -> LinearProblem:
    """A deep linear network on the targets of a random linear map plus noise, with the squared error as loss.

    The loss of an example is `|W_L ... W_1 x - y|^2`, summed over outputs.

    Args:
        widths: widths of all layers, inputs and outputs included; at least one hidden layer.
        num_examples: at least as many as there are inputs.
        noise: standard deviation of the noise in the targets.
        whiten: whether the inputs have the identity as second moment, exactly; plain normal ones otherwise.
        seed: of the data.

    Raises:
        ValueError: fewer than three widths, a width below 1, or fewer examples than inputs.
    """
    if len(widths) < 3 or min(widths) < 1:
        raise ValueError(f"widths must hold inputs, hidden layers and outputs, each at least 1, got {tuple(widths)}")
    if num_examples < widths[0]:
        raise ValueError(f"num_examples must be at least the {widths[0]} inputs, got {num_examples}")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, widths[0]))
    if whiten:
        x = np.sqrt(num_examples) * np.linalg.qr(x)[0]
    teacher = rng.normal(size=(widths[0], widths[-1])) / np.sqrt(widths[0])
    y = x @ teacher + noise * rng.normal(size=(num_examples, widths[-1]))
    cross, moment = x.T @ y / num_examples, x.T @ x / num_examples
    explained = np.linalg.eigvalsh(cross.T @ np.linalg.solve(moment, cross))[::-1]
    return _problem(LinearProblem, widths, x, y, eigenvalues=explained, name=f"deep linear {_dashed(widths)}")


def autoencoder(
    rank: int = 2, spectrum: Sequence[float] = (5.0, 3.2, 2.0, 1.1, 0.5), *, num_examples: int = 20, seed: int = 0
) -> Autoencoder:
    """A linear autoencoder d-p-d (Baldi & Hornik 1989) on data whose second moment has exactly this spectrum.

    Args:
        rank: width p of the hidden layer, from 1 to one less than d.
        spectrum: eigenvalues of the second moment, positive and distinct, largest first; d of them.
        num_examples: at least d.
        seed: of the data and of the eigenvectors.

    Raises:
        ValueError: another rank, a spectrum that is not positive and decreasing, or fewer than d examples.
    """
    values = np.asarray(spectrum, dtype=np.float64)
    if values.ndim != 1 or np.any(values <= 0) or np.any(np.diff(values) >= 0):
        raise ValueError(f"spectrum must be positive and strictly decreasing, got {tuple(spectrum)}")
    if not 1 <= rank < len(values):
        raise ValueError(f"rank must lie between 1 and {len(values) - 1}, one less than the inputs, got {rank}")
    if num_examples < len(values):
        raise ValueError(f"num_examples must be at least the {len(values)} inputs, got {num_examples}")
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    white = np.sqrt(num_examples) * np.linalg.qr(rng.normal(size=(num_examples, len(values))))[0]
    x = white @ (np.sqrt(values)[:, None] * basis.T)
    widths = (len(values), rank, len(values))
    return _problem(
        Autoencoder, widths, x, x, eigenvalues=values, basis=basis, name=f"linear autoencoder {_dashed(widths)}"
    )


def _problem(kind: type, widths: Sequence[int], x: np.ndarray, y: np.ndarray, **facts: Any) -> Any:
    init, predict = linear_net(widths)
    objective = Objective(_squared_errors, {"x": jnp.asarray(x), "y": jnp.asarray(y)})
    total = float(np.sum(y**2) / len(y))
    return kind(init, {"train": objective}, predict, total=total, rank=min(widths), **facts)


def _dashed(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
