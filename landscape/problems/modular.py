r"""Addition modulo p, learned from some of its table: the smallest task on which a network groks, `modular_addition`.

$f(a, b) = W \phi(U e_a + V e_b)$ with $\phi(x) = x^2$, one-hot vectors $e$ and no biases, trained to answer
$e_{(a + b) \bmod p}$ in the mean squared error (Gromov 2023, arXiv 2301.02679). It first learns the examples by heart,
and only then the rule, $U_{ka} \propto \cos(2\pi \sigma_k a / p + u_k)$ and likewise V and W: the product of the three
cosines adds up over the hidden units $k$ to 1 at the right answer and nearly to 0 elsewhere (Doshi et al. 2024, arXiv
2310.13061, eq. 2).

Initial weights are N(0, (16 N)^(-2/3)) for N hidden units, as of Doshi et al., appendix A.

>>> import jax
>>> from landscape.problems import modular_addition
>>> problem = modular_addition(7, hidden=30)
>>> {part: objective.num_examples for part, objective in problem.objectives.items()}
{'train': 24, 'test': 25}
>>> sum(leaf.size for leaf in jax.tree.leaves(problem.init(jax.random.key(0))))           # 3 x 7 x 30
630
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape import _tree
from landscape.objective import Objective, Problem


def modular_addition(modulus: int = 97, hidden: int = 500, train_fraction: float = 0.5, seed: int = 0) -> Problem:
    """All pairs of numbers below `modulus`, divided at random in train and test, and a net of quadratic units.

    Args:
        modulus: p, at least 2; any, though the papers take a prime.
        hidden: N, hidden units.
        train_fraction: share of the p^2 pairs in the training part, in (0, 1).
        seed: seed of the division.

    Returns:
        Problem with parameters `{"a": (p, N), "b": (p, N), "out": (N, p)}`, the transposes of U, V and W. The data are
        `x`, `(n, 2)` int32, and `y`, `(n,)` int32; the loss is the mean over the p outputs and the examples of
        (output - target)^2, with `accuracy` beside it. `predict(params, x)` is the network, `(n, 2) -> (n, p)`.

    Raises:
        TypeError: `modulus` or `hidden` is not an integer.
        ValueError: they are too small; `train_fraction` is outside (0, 1) or leaves one of the parts empty.
    """
    _tree.check_count("modulus", modulus, 2)
    _tree.check_count("hidden", hidden, 1)
    if not 0 < train_fraction < 1:
        raise ValueError(f"train_fraction must lie in (0, 1), got {train_fraction}")
    num_train = int(train_fraction * modulus**2)
    if not num_train:
        raise ValueError(f"train_fraction={train_fraction} of {modulus**2} pairs leaves the training part empty")

    def init(key: Array) -> dict[str, Array]:
        shapes = {"a": (modulus, hidden), "b": (modulus, hidden), "out": (hidden, modulus)}
        keys = jax.random.split(key, len(shapes))
        scale = (16 * hidden) ** (-1 / 3)
        return {name: scale * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items())}

    order = np.random.default_rng(seed).permutation(modulus**2)
    parts = {"train": order[:num_train], "test": order[num_train:]}
    objectives = {part: Objective(_squared_errors, _table(modulus, which), True) for part, which in parts.items()}
    return Problem(init, objectives, predict=_predict, name=f"addition mod {modulus}, {hidden} quadratic units")


def _table(modulus: int, which: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """The pairs with these numbers, row by row of the table of sums."""
    x = np.stack(np.divmod(which, modulus), axis=1).astype(np.int32)
    return {"x": x, "y": x.sum(axis=1, dtype=np.int32) % np.int32(modulus)}


def _predict(params: Mapping[str, Array], x: Any) -> Float[Array, "n p"]:
    """Outputs for pairs `(n, 2)`. A matrix times a one-hot vector is one of its columns."""
    x = jnp.asarray(x)
    return (params["a"][x[:, 0]] + params["b"][x[:, 1]]) ** 2 @ params["out"]


def _squared_errors(params: Mapping[str, Array], batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    outputs, answers = _predict(params, batch["x"]), jnp.asarray(batch["y"])
    targets = jax.nn.one_hot(answers, outputs.shape[1], dtype=outputs.dtype)
    likeliest = jnp.argmax(outputs, axis=1)
    right = likeliest == answers.astype(likeliest.dtype)
    return jnp.mean((outputs - targets) ** 2, axis=1), {"accuracy": right.astype(outputs.dtype)}
