"""ReLU networks 40-h-h-10 of many widths on MNIST-1D, trained side by side in one program: `Nets`.

Networks of different widths have different shapes, so they are padded to a common one: units beyond the width have
weights and biases of 0, in and out. Their activations are 0, and the derivative of ReLU at 0 is taken to be 0, so all
their gradients are exactly 0 and they stay out for ever: a padded network does what it would do unpadded.

The protocol is that of Greydanus & Kobak 2024 (their notebook `deep-double-descent`): PyTorch's default initialisation,
U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases; SGD with momentum, whose batches are passes over examples
that are shuffled anew for each epoch; no early stopping. `landscape.train` draws each batch afresh instead, which is
another protocol, and shuffling 4,000 numbers at each step would cost more than training most of these networks.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from landscape.point import as_number
from landscape.problems import cross_entropy, mlp, mnist1d

_static: Any = {"static": True}
INPUTS, CLASSES = 40, 10
SIZES = (48, 64, 112, 192, 240, 304)  # padded widths; multiples of 16 suit the matrix products of a CPU


def predict(params: Any, x: jax.Array) -> jax.Array:
    """Logits `(n, 10)` of inputs `(n, 40)`."""
    return mlp((), jax.nn.relu)[1](params, x)


def padded_size(width: int) -> int:
    """The width that networks of this width are padded to."""
    return min((size for size in SIZES if size >= width), default=width)


def init(key: jax.Array, width: Any, size: int, dtype: Any = jnp.float32) -> list[dict[str, jax.Array]]:
    """A network of `width` hidden units in each of two layers, padded to `size`."""
    there = jnp.arange(size) < width
    everything = jnp.ones(max(INPUTS, CLASSES), bool)
    sides = [(everything[:INPUTS], INPUTS), (there, width), (there, width), (everything[:CLASSES], CLASSES)]
    layers = []
    for layer_key, (rows, fan_in), (columns, _) in zip(jax.random.split(key, 3), sides, sides[1:]):
        for_kernel, for_bias = jax.random.split(layer_key)
        bound = 1 / jnp.sqrt(jnp.asarray(fan_in, dtype))
        kernel = bound * jax.random.uniform(for_kernel, (len(rows), len(columns)), dtype, -1.0, 1.0)
        bias = bound * jax.random.uniform(for_bias, (len(columns),), dtype, -1.0, 1.0)
        kernel = jnp.where(rows[:, None] & columns, kernel, 0.0)
        layers.append({"kernel": kernel, "bias": jnp.where(columns, bias, 0.0)})
    return layers


def records(epochs: int) -> tuple[int, ...]:
    """Epochs after which a run is measured: 0, and about 20 evenly spaced on a logarithmic axis."""
    return (0, *np.unique(np.geomspace(1, epochs, 24).astype(int)).tolist())


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Nets:
    """Coordinates are width, label noise and seed; the values are what came of the training.

    Attributes:
        data: per seed, `x` `(seeds, n, 40)`, `y` `(seeds, levels, n)` with one row of labels for each level of noise,
            `test_x` and `test_y`.
        key: random key for starts and shuffling.
        levels: the levels of noise.
        size: the padded width.
        epochs: passes over the examples.
        batch_size: examples per step; divides their number.
        rate, momentum: of the SGD.
    """

    data: dict[str, jax.Array]
    key: jax.Array
    levels: tuple[float, ...] = field(metadata=_static)
    size: int = field(metadata=_static)
    epochs: int = field(default=500, metadata=_static)
    batch_size: int = field(default=100, metadata=_static)
    rate: float = field(default=0.01, metadata=_static)
    momentum: float = field(default=0.9, metadata=_static)

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """`{train,test}_{loss,error}`, each `(len(records(epochs)),)`: cross-entropy in nats, share of errors."""
        width, level, seed = self.place(coords)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(self.key, seed), level), width)
        data = jax.tree.map(lambda leaf: leaf[seed], self.data)
        return self.history(data | {"y": data["y"][level]}, width, *jax.random.split(key))

    def place(self, coords: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Width, number of the level of noise, and seed, as integers."""
        level = jnp.argmin(jnp.abs(jnp.asarray(self.levels, coords.dtype) - coords[1]))
        return as_number(coords[0]), level, as_number(coords[2])

    def history(self, data: Any, width: Any, for_init: Any, for_order: Any) -> dict[str, jax.Array]:
        """Train one network on one data set."""
        params = init(for_init, width, self.size, data["x"].dtype)
        ends = np.array(records(self.epochs))

        def stretch(state: Any, span: Any) -> Any:
            state = jax.lax.fori_loop(*span, lambda number, s: self.epoch(data, for_order, number, s), state)
            return state, measure(state[0], data)

        starts = np.concatenate([[0], ends[:-1]])
        return jax.lax.scan(stretch, (params, self.optimizer.init(params)), (starts, ends))[1]

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """SGD with momentum, as PyTorch's."""
        return optax.sgd(self.rate, self.momentum)

    def epoch(self, data: Any, for_order: Any, number: Any, state: Any) -> Any:
        """One pass over the examples in a new order."""

        def step(state: Any, chosen: jax.Array) -> Any:
            params, memory = state
            gradient = jax.grad(loss)(params, data["x"][chosen], data["y"][chosen])
            updates, memory = self.optimizer.update(gradient, memory)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(step, state, self.batches(for_order, number, len(data["y"])))[0]

    def batches(self, for_order: Any, number: Any, count: int) -> jax.Array:
        """Which of `count` examples make each batch of an epoch, `(batches, batch_size)`."""
        order = jax.random.permutation(jax.random.fold_in(for_order, number), count)
        return order.reshape(-1, self.batch_size)


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy of a batch, in nats."""
    return jnp.mean(cross_entropy(predict(params, x), y)[0])


def measure(params: Any, data: Any) -> dict[str, jax.Array]:
    """Mean loss and share of wrong answers on the training part and on the test."""
    found = {}
    for part, x, y in (("train", data["x"], data["y"]), ("test", data["test_x"], data["test_y"])):
        losses, metrics = cross_entropy(predict(params, x), y)
        found |= {f"{part}_loss": jnp.mean(losses), f"{part}_error": jnp.mean(1 - metrics["accuracy"])}
    return found


def draw_data(num_train: int, num_test: int, levels: tuple[float, ...], seeds: int, seed: int) -> dict[str, jax.Array]:
    """A data set for each seed, with training labels at each level of noise."""
    rows = [_one_draw(num_train, num_test, levels, seed + number) for number in range(seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def _one_draw(num_train: int, num_test: int, levels: tuple[float, ...], seed: int) -> dict[str, np.ndarray]:
    drawn = [mnist1d(num_train, num_test, label_noise=level, seed=seed) for level in levels]
    train, test = drawn[0]
    labels = np.stack([noisy["y"] for noisy, _ in drawn])
    return {"x": train["x"], "y": labels, "test_x": test["x"], "test_y": test["y"]}
