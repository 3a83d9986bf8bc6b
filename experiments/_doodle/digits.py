"""What the doodles learn from: handwritten digits, guessed where their lower half lies, and told apart.

The regression: from the 32 pixels of the upper half of a digit and a constant, guess the centre of the ink of its lower
half, two numbers in pixels. Its misses are darts on a board. The classifier: a network 64-16-10 on the whole digit.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from landscape.point import as_number
from landscape.problems import digits, digits_mlp

HIDDEN = 16
OPTIMIZER = optax.adam(0.01)


@cache
def halves() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Train and test part: inputs `(n, 33)`, centres of the lower ink (column, row) `(n, 2)`, images `(n, 8, 8)`."""
    return {name: _halved(part["x"]) for name, part in zip(("train", "test"), digits())}


def _halved(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = pixels.astype(np.float64).reshape(-1, 8, 8)
    rows, columns = np.mgrid[4:8, 0:8]
    ink = images[:, 4:]
    centres = [np.sum(ink * place, axis=(1, 2)) / np.sum(ink, axis=(1, 2)) for place in (columns, rows)]
    upper = images[:, :4].reshape(len(images), -1)
    return np.concatenate([np.ones((len(images), 1)), upper], axis=1), np.stack(centres, axis=1), images


def least_squares(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights `(33, 2)` of least squared miss, and of least norm where there are many: pixels never inked get 0."""
    return np.linalg.lstsq(inputs, targets, rcond=None)[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Guesses:
    """Number of an example -> what the linear model guesses, and by how much it misses.

    Attributes:
        weights: `(33, 2)`.
        inputs: `(n, 33)`.
        truth: `(n, 2)`, pixels.
        images: `(n, 8, 8)`.
    """

    weights: Any
    inputs: Any
    truth: Any
    images: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """The guess, the truth, and the miss between them, in pixels."""
        inputs, truth, image = (jnp.asarray(x)[as_number(coords[0])] for x in (self.inputs, self.truth, self.images))
        guess = inputs @ self.weights
        return {"guess": guess, "truth": truth, "miss": guess - truth, "inputs": inputs, "image": image}


def guesses(lab: Any, name: str, weights: np.ndarray, part: str, count: int | None = None) -> Any:
    """The guesses for the first `count` examples of a part."""
    inputs, truth, images = (x[:count] for x in halves()[part])
    grid = ls.Grid.of(example=np.arange(len(inputs)))
    return lab.at_once(256).sweep(name, Guesses(weights, inputs, truth, images), grid)


# ------------------------------------------------------------------------------------------------------ classifier


@cache
def network() -> ls.Problem:
    """One problem for all, so that its programs are compiled once."""
    return digits_mlp((HIDDEN,))


def classifier(config: Any, lab: Any, seed: int = 0) -> tuple[ls.Problem, Any]:
    """The problem, and trained parameters: `config.steps` steps of Adam on all training digits."""
    problem = network()
    init = problem.init(jax.random.key(seed))
    if lab.planning:
        return problem, init

    def train() -> Any:
        run = ls.train(problem.objectives["train"], OPTIMIZER, init, num_steps=config.steps, record_every=config.steps)
        return run.params

    key = [HIDDEN, "adam 0.01", seed, config.steps]
    return problem, lab.remember(f"training_{seed}", key, train, f"training a network on digits, seed {seed}")


def answers(config: Any, lab: Any) -> Any:
    """The answers to all test digits; `meta["objective"]` holds their mean loss and accuracy by the library."""
    problem, params = classifier(config, lab)
    test = problem.objectives["test"]
    answer = Answer(params, test.data)

    def about(_: Any) -> dict[str, Any]:
        return {"objective": {name: float(value) for name, value in test.evaluate(params).items()}}

    grid = ls.Grid.of(example=np.arange(len(test.data["y"])))
    return lab.at_once(256).sweep("answers", answer, grid, about)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Answer:
    """Number of an example -> its loss in nats, the probabilities of the ten classes, its label, its image."""

    params: Any
    data: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """One example."""
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[as_number(coords[0])], self.data)
        hidden, last = self.params
        logits = jnp.tanh(one["x"] @ hidden["kernel"] + hidden["bias"]) @ last["kernel"] + last["bias"]
        chances = jax.nn.softmax(logits)
        loss = -jax.nn.log_softmax(logits)[one["y"]]
        return {"loss": loss, "chances": chances, "label": one["y"], "image": one["x"].reshape(8, 8)}
