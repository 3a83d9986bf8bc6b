"""The 1,797 handwritten digits of scikit-learn (8 x 8 pixels, ten classes) and a plain multilayer perceptron.

The data are the test set of Alpaydin & Kaynak (1998), "Optical recognition of handwritten digits", UCI.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from landscape.objective import Objective, Problem

Split = dict[str, np.ndarray]


def digits(test_fraction: float = 0.2, seed: int = 0) -> tuple[Split, Split]:
    """Train and test part of the digits: `{"x": (n, 64) float32 in [0, 1], "y": (n,) int32}` each.

    Args:
        test_fraction: share of the 1,797 examples in the test part, in (0, 1).
        seed: seed of the shuffle that divides them.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'loss-atlas[data]'") from error
    raw = load_digits()
    data = {"x": (raw.data / 16.0).astype(np.float32), "y": raw.target.astype(np.int32)}
    return split(data, test_fraction, seed)


def split(data: Split, test_fraction: float, seed: int) -> tuple[Split, Split]:
    """Shuffle and divide examples in two."""
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie in (0, 1), got {test_fraction}")
    count = len(data["y"])
    order = np.random.default_rng(seed).permutation(count)
    first = count - round(test_fraction * count)
    if not 0 < first < count:
        raise ValueError(f"test_fraction={test_fraction} of {count} examples leaves one of the two parts empty")
    return {k: v[order[:first]] for k, v in data.items()}, {k: v[order[first:]] for k, v in data.items()}


def mlp(widths: Sequence[int], activation: Callable[[Array], Array] = jnp.tanh) -> tuple[Any, Any]:
    """Pure functions `init(key) -> params` and `predict(params, x)` of a multilayer perceptron.

    Parameters are a list of `{"kernel": (in, out), "bias": (out,)}`. Kernels start from N(0, 2 / fan_in) for ReLU
    (He et al. 2015) and N(0, 1 / fan_in) otherwise, biases from 0. Equal arguments give the same functions, so that
    they share their compiled programs.
    """
    return _mlp(tuple(widths), activation)


@lru_cache
def _mlp(widths: tuple[int, ...], activation: Callable[[Array], Array]) -> tuple[Any, Any]:
    gain = 2.0 if activation is jax.nn.relu else 1.0

    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, len(widths) - 1)
        return [
            {"kernel": jax.random.normal(k, (m, n)) * jnp.sqrt(gain / m), "bias": jnp.zeros(n)}
            for k, m, n in zip(keys, widths[:-1], widths[1:])
        ]

    def predict(params: PyTree, x: Float[Array, "n d"]) -> Float[Array, "n c"]:
        for layer in params[:-1]:
            x = activation(affine(x, layer))
        return affine(x, params[-1])

    def affine(x: Array, layer: Any) -> Array:
        x = x @ layer["kernel"]
        return x + jnp.broadcast_to(layer["bias"], x.shape)

    return init, predict


def cross_entropy(logits: Float[Array, "n c"], labels: Int[Array, " n"]) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy (nats) of each example, and whether each was classified rightly."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    likeliest = jnp.argmax(logits, axis=-1)
    return losses, {"accuracy": (likeliest == labels.astype(likeliest.dtype)).astype(losses.dtype)}


def classifier(
    init: Callable[[Array], PyTree],
    predict: Callable[[PyTree, Array], Array],
    splits: Mapping[str, Split],
    *,
    batch_size: int | None = None,
    name: str = "classifier",
) -> Problem:
    """A `Problem` from a model's two functions and `{"train": {"x": .., "y": ..}, "test": ..}`."""
    data = {part: jax.tree.map(jnp.asarray, values) for part, values in splits.items()}
    loss_fn = _CrossEntropy(predict)
    objectives = {part: Objective(loss_fn, d, has_aux=True, batch_size=batch_size) for part, d in data.items()}
    return Problem(init=init, objectives=objectives, predict=predict, name=name)


@dataclass(frozen=True)
class _CrossEntropy:
    """The losses of a model; equal for equal models, so that other data run through the same compiled program."""

    predict: Callable[[PyTree, Array], Array]

    def __call__(self, params: PyTree, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        return cross_entropy(self.predict(params, batch["x"]), batch["y"])

    def __hash__(self) -> int:
        try:
            return hash(self.predict)
        except TypeError:  # a callable that holds arrays
            return id(self.predict)


def digits_mlp(
    hidden: Sequence[int] = (128, 128),
    activation: Callable[[Array], Array] = jnp.tanh,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Problem:
    """A tanh network 64-128-128-10 (26,122 parameters) on the digits, with cross-entropy and accuracy."""
    init, predict = mlp((64, *hidden, 10), activation)
    train, test = digits(test_fraction, seed)
    return classifier(init, predict, {"train": train, "test": test}, name="digits MLP " + "-".join(map(str, hidden)))
