"""Training on labels of which a share is random: the point function of the train and test experiments."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import landscape as ls
from landscape import curvature
from landscape.point import as_number

_static: Any = {"static": True}
RESIDUAL = 1e-2  # asked of the sharpness, relative: a separated eigenvalue is then right to about its square
PRODUCTS = 300  # Hessian-vector products at most for it


def relabel(key: jax.Array, labels: jax.Array, share: Any, num_classes: int) -> jax.Array:
    """Labels of which a share is replaced by uniform draws over all classes (Zhang et al. 2017, section 2.1).

    Of the draws, 1 in `num_classes` happens to be right, so at a share of 1 labels say nothing. The examples are chosen
    at random, exactly `round(share n)` of them, and those of a smaller share are among those of a larger one.
    """
    order, drawn = jax.random.split(key)
    rank = jax.random.permutation(order, len(labels))
    random = jax.random.randint(drawn, labels.shape, 0, num_classes, labels.dtype)
    return jnp.where(rank < jnp.round(share * len(labels)), random, labels)


def with_squares(objective: ls.Objective) -> ls.Objective:
    """The objective with one metric more, the squared loss, so that a mean comes with its standard error."""

    def loss_fn(*arguments: Any) -> tuple[Any, dict[str, Any]]:
        result = objective.loss_fn(*arguments)
        losses, metrics = result if objective.has_aux else (result, {})
        return losses, {**metrics, "loss_squared": losses**2}

    return dataclasses.replace(objective, loss_fn=loss_fn, has_aux=True)


def standard_error(mean: np.ndarray, mean_square: np.ndarray, count: int) -> np.ndarray:
    """Standard error of a mean over `count` examples, from the mean of the squares."""
    return np.sqrt(np.maximum(mean_square - mean**2, 0) / (count - 1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Trainings:
    """Point function: the noise share and the number of a run -> how it went, with the output names of `Runs`.

    Run `i` has the key `fold_in(key, i)`: one third for its start, one for its minibatches, one for its labels where
    they are `per_run`. The labels are otherwise the same for all runs of a share.

    Attributes:
        init: `init(key) -> params`.
        optimizer: an optax optimizer.
        train: what is minimised. With `num_classes`, its data hold integer labels `y`.
        track: objectives to record; `{name}_{metric}`.
        num_steps, batch_size, record_every: as for `landscape.train`.
        key: random key.
        num_classes: classes that labels are drawn from; `None` leaves the data as they are, whatever the share.
        per_run: whether each run has random labels of its own.
        sharpness: whether to measure the largest eigenvalue of the Hessian of the training loss at the end.
    """

    init: Callable[[jax.Array], Any] = field(metadata=_static)
    optimizer: optax.GradientTransformation = field(metadata=_static)
    train: ls.Objective
    track: Mapping[str, ls.Objective]
    num_steps: int = field(metadata=_static)
    batch_size: int | None = field(metadata=_static)
    record_every: int = field(metadata=_static)
    key: jax.Array
    num_classes: int | None = field(default=10, metadata=_static)
    per_run: bool = field(default=False, metadata=_static)
    sharpness: bool = field(default=False, metadata=_static)

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """History, parameters (ravelled) and, where asked, sharpness of one run."""
        number = as_number(coords[1])
        for_batches = self.keys(number)[1]
        train = self.objective(coords[0], number)
        run = ls.train(
            train,
            self.optimizer,
            self.start(number),
            num_steps=self.num_steps,
            key=for_batches,
            batch_size=self.batch_size,
            record_every=self.record_every,
            track={**self.track, **({"train": train} if train.has_aux else {})},
        )
        values = {f"history.{name}": value for name, value in run.history.items() if name != "train_loss"}
        values |= {"params": ravel_pytree(run.params)[0], "outcome": run.outcome_code}
        if self.sharpness:
            found = curvature.sharpness(for_batches, train, run.params, tol=RESIDUAL, max_products=PRODUCTS)
            values |= {"sharpness": found.value, "sharpness_residual": found.residual}
        return values

    def keys(self, number: Any) -> jax.Array:
        """The three keys of a run."""
        return jax.random.split(jax.random.fold_in(self.key, number), 3)

    def start(self, number: Any) -> Any:
        """Where a run starts."""
        return self.init(self.keys(number)[0])

    def objective(self, share: Any, number: Any = 0) -> ls.Objective:
        """The training objective with a share of random labels."""
        if self.num_classes is None:
            return self.train
        key = self.keys(number)[2] if self.per_run else self.key
        labels = relabel(key, self.train.data["y"], share, self.num_classes)
        return dataclasses.replace(self.train, data={**self.train.data, "y": labels})

    def params(self, flat: Any) -> Any:
        """The parameters of a run from its output."""
        shapes = jax.eval_shape(self.init, self.key)
        blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return ravel_pytree(blank)[1](jnp.asarray(flat))
