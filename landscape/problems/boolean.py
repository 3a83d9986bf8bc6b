"""The exclusive or: a landscape with plateaus where one would expect local minima, `xor`.

Four examples, 2 inputs, sigmoid hidden units, one sigmoid output, mean squared error. With two hidden units every
point that is stationary at finite weights and has positive error is a saddle (Sprinkhuizen-Kuyper & Boers 1999); runs
still stop, on plateaus where weights grow without end. There some examples are answered by their common mean. With
the mean over the examples of (output - target)^2, without a factor 1/2, one half for a pair of unlike targets gives
2 (1/4) / 4 = 1/8, and 1/3 or 2/3 for three examples of which one differs gives (4/9 + 1/9 + 1/9) / 4 = 1/6.

>>> import jax
>>> from landscape.problems import xor
>>> problem = xor()
>>> params = problem.init(jax.random.key(0))
>>> sum(leaf.size for leaf in jax.tree.leaves(params))                  # 2 x 2 + 2 and 2 + 1
9
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape import _tree
from landscape.objective import Objective, Problem

_INPUTS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
_TARGETS = np.array([0.0, 1.0, 1.0, 0.0])


def xor(hidden: int = 2) -> Problem:
    """A sigmoid network 2-`hidden`-1 that learns the exclusive or of its inputs, all of them 0 or 1.

    Args:
        hidden: sigmoid units in the hidden layer.

    Returns:
        Problem with parameters `[{"kernel": (2, hidden), "bias": (hidden,)}, {"kernel": (hidden, 1), "bias": (1,)}]`
        that start from U(-1, 1), and the mean squared error over four examples.

    Raises:
        TypeError: `hidden` is not an integer.
        ValueError: it is not positive.
    """
    _tree.check_count("hidden", hidden, 1)

    def init(key: Array) -> list[dict[str, Array]]:
        shapes = [{"kernel": (2, hidden), "bias": (hidden,)}, {"kernel": (hidden, 1), "bias": (1,)}]
        leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.uniform(k, shape, minval=-1.0, maxval=1.0) for k, shape in zip(keys, leaves)]
        return jax.tree.unflatten(treedef, drawn)

    objective = Objective(_squared_errors, {"x": _INPUTS, "y": _TARGETS})
    return Problem(init, {"train": objective}, predict=_predict, name=f"XOR 2-{hidden}-1")


def _predict(params: Sequence[Mapping[str, Array]], x: Any) -> Float[Array, " n"]:
    """Outputs in (0, 1) of inputs `(n, 2)`."""
    x = jnp.asarray(x, params[0]["kernel"].dtype)
    for layer in params:
        x = x @ layer["kernel"]
        x = jax.nn.sigmoid(x + jnp.broadcast_to(layer["bias"], x.shape))
    return x[:, 0]


def _squared_errors(params: Sequence[Mapping[str, Array]], batch: Mapping[str, Array]) -> Float[Array, " n"]:
    outputs = _predict(params, batch["x"])
    return (outputs - jnp.asarray(batch["y"], outputs.dtype)) ** 2
