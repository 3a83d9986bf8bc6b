"""Recurrent layers: one scan over time for each layer and direction."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from landscape.bridges._aten._table import operator

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def _lstm_step(state: Any, given: Any, weights: Any) -> tuple[Any, Any]:
    """Gates in the order of PyTorch: input, forget, cell, output."""
    h, c = state
    i, f, g, o = jnp.split(given + _from_hidden(h, weights), 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h if weights["proj"] is None else h @ weights["proj"].T, c), None


def _gru_step(state: Any, given: Any, weights: Any) -> tuple[Any, Any]:
    """Gates in the order of PyTorch: reset, update, new; the reset gate acts after the product."""
    (h,) = state
    hidden = jnp.split(_from_hidden(h, weights), 3, -1)
    own = jnp.split(given, 3, -1)
    r, z = (jax.nn.sigmoid(a + b) for a, b in zip(own[:2], hidden[:2]))
    new = jnp.tanh(own[2] + r * hidden[2])
    return ((1 - z) * new + z * h,), None


def _plain_step(activation: Callable[[Any], Any]) -> Step:
    def step(state: Any, given: Any, weights: Any) -> tuple[Any, Any]:
        return (activation(given + _from_hidden(state[0], weights)),), None

    return step


def _from_hidden(h: Any, weights: Any) -> Any:
    product = h @ weights["hh"].T
    return product if weights["bias_hh"] is None else product + weights["bias_hh"][None]


def _over_time(step: Step, x: Any, state: Any, weights: Any, backwards: bool) -> tuple[Any, Any]:
    """`x` is `(time, batch, features)`; what the inputs give is computed for all times at once."""
    given = jnp.matmul(x, weights["ih"].T)
    given = given if weights["bias_ih"] is None else given + weights["bias_ih"][None, None]

    def advance(state: Any, now: Any) -> tuple[Any, Any]:
        state, _ = step(state, now, weights)
        return state, state[0]

    state, outputs = jax.lax.scan(advance, state, given, reverse=backwards)
    return outputs, state


def _layers(parameters: Any, has_biases: bool, projected: bool) -> list[dict[str, Any]]:
    """The weights of each layer and direction by what they are."""
    size = 2 + 2 * has_biases + projected
    names = ["ih", "hh", *(["bias_ih", "bias_hh"] if has_biases else []), *(["proj"] if projected else [])]
    empty = dict.fromkeys(("bias_ih", "bias_hh", "proj"))
    parts = (parameters[i : i + size] for i in range(0, len(parameters), size))
    return [empty | dict(zip(names, part)) for part in parts]


def _run(step: Step, x: Any, states: Any, layers: Any, bidirectional: bool, batch_first: bool) -> tuple[Any, Any]:
    """All layers; `states` holds stacks `(layers * directions, batch, features)`."""
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    directions, ends = 1 + bidirectional, []
    for i in range(0, len(layers), directions):
        outputs = []
        for j in range(directions):
            state = tuple(part[i + j] for part in states)
            out, end = _over_time(step, x, state, layers[i + j], backwards=j == 1)
            outputs.append(out)
            ends.append(end)
        x = jnp.concatenate(outputs, -1)
    stacked = tuple(jnp.stack(part) for part in zip(*ends))
    return jnp.swapaxes(x, 0, 1) if batch_first else x, stacked


@operator("lstm.input")
def lstm(
    x: Any, hx: Any, parameters: Any, has_biases: bool, num: int, dropout: Any, train: Any, both: bool, first: bool
) -> Any:
    projected = hx[0].shape[-1] != hx[1].shape[-1]
    out, (h, c) = _run(_lstm_step, x, tuple(hx), _layers(parameters, has_biases, projected), both, first)
    return out, h, c


def _one_state(step: Step) -> Callable[..., Any]:
    def layer(
        x: Any, hx: Any, parameters: Any, has_biases: bool, num: int, dropout: Any, train: Any, both: bool, first: bool
    ) -> Any:
        out, (h,) = _run(step, x, (hx,), _layers(parameters, has_biases, False), both, first)
        return out, h

    return layer


operator("gru.input")(_one_state(_gru_step))
operator("rnn_tanh.input")(_one_state(_plain_step(jnp.tanh)))
operator("rnn_relu.input")(_one_state(_plain_step(jax.nn.relu)))
