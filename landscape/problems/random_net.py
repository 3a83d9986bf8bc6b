r"""A small network on random data, whose trainability has a fractal boundary: `mean_field_net`.

Sohl-Dickstein 2024 (arXiv 2402.06184, section 2 and its notebook `github.com/Sohl-Dickstein/fractal`): two layers of
width n without biases, in mean-field scaling,

$y(x) = \frac1n \sum_j w_{1,j} \, \phi(x \cdot w_{0,j} / \sqrt n)$, mean squared error,

with $\phi(z) = \tanh(\sqrt2 z)$, $\sqrt2 [z]_+$ or $z$; weights, inputs and targets all start from N(0, 1). The
configurations of the paper, width 16:

| paper | call | examples |
|---|---|---|
| tanh | `mean_field_net()` | 272, as many as weights |
| ReLU | `mean_field_net(activation="relu")` | 272 |
| deep linear | `mean_field_net(activation="identity")` | 16, the width |
| single datapoint | `mean_field_net(num_examples=1)` | 1 |
| minibatch | `mean_field_net()`, trained with `batch_size=16` | 272 |

Where we differ: the draws come from other generators, so pictures agree in kind, not pixel by pixel
(`experiments/trainability.py` draws the paper's own numbers); minibatches are drawn without replacement by `train`,
with replacement in the notebook.

>>> import jax
>>> from landscape.problems import mean_field_net
>>> problem = mean_field_net(width=4)
>>> {name: leaf.shape for name, leaf in problem.init(jax.random.key(0)).items()}
{'w0': (4, 4), 'w1': (4,)}
>>> problem.objectives["train"].num_examples
20
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape import _tree
from landscape.objective import Objective, Problem

_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "tanh": lambda z: jnp.tanh(np.sqrt(2.0).item() * z),
    "relu": lambda z: np.sqrt(2.0).item() * jax.nn.relu(z),
    "identity": lambda z: z,
}


def mean_field_net(
    width: int = 16,
    num_examples: int | None = None,
    activation: str = "tanh",
    seed: int = 0,
    *,
    batch_size: int | None = None,
) -> Problem:
    """Two layers of random weights for random targets, as in the fractal maps of Sohl-Dickstein 2024.

    Args:
        width: inputs and hidden units.
        num_examples: random examples. By default one for each weight, `width^2 + width`, or `width` of them for
            `"identity"`, a linear map of which has no more to learn.
        activation: `"tanh"`, `"relu"` or `"identity"`.
        seed: seed of the inputs and targets.
        batch_size: examples per pass of the objective, which bounds the memory; minibatches of the *training* are
            an argument of `train`.

    Returns:
        Problem with parameters `{"w0": (width, width), "w1": (width,)}`, all from N(0, 1); column `j` of `w0` holds
        the weights into hidden unit `j`. Data are in double precision and follow the precision of the parameters.

    Raises:
        TypeError: a count that is not an integer.
        ValueError: a count that is not positive, or an unknown activation.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    _tree.check_count("width", width, 1)
    if num_examples is None:
        num_examples = width if activation == "identity" else width**2 + width
    _tree.check_count("num_examples", num_examples, 1)
    init, predict, squared_errors = _net(width, activation)
    rng = np.random.default_rng(seed)
    data = {"x": rng.normal(size=(num_examples, width)), "y": rng.normal(size=num_examples)}
    objective = Objective(squared_errors, data, batch_size=batch_size)
    return Problem(init, {"train": objective}, predict, name=f"mean-field {activation}, width {width}")


@lru_cache
def _net(width: int, activation: str) -> tuple[Any, Any, Any]:
    """Start, outputs and losses, the same objects in every call: other data run through the same compiled program."""
    phi = _ACTIVATIONS[activation]

    def init(key: Array) -> dict[str, Array]:
        first, second = jax.random.split(key)
        return {"w0": jax.random.normal(first, (width, width)), "w1": jax.random.normal(second, (width,))}

    def predict(params: Mapping[str, Array], x: Any) -> Float[Array, " n"]:
        x = jnp.asarray(x, params["w0"].dtype)
        return phi(x @ params["w0"] / np.sqrt(width).item()) @ params["w1"] / width

    def squared_errors(params: Mapping[str, Array], batch: Mapping[str, Array]) -> Float[Array, " n"]:
        outputs = predict(params, batch["x"])
        return (outputs - jnp.asarray(batch["y"], outputs.dtype)) ** 2

    return init, predict, squared_errors
