"""Optimizers, one object for equal settings, so that runs of one kind share a compiled program."""

from functools import lru_cache

import optax


@lru_cache
def adam(rate: float) -> optax.GradientTransformation:
    """Adam with this learning rate."""
    return optax.adam(rate)


@lru_cache
def sgd(rate: float) -> optax.GradientTransformation:
    """Gradient descent, stochastic where the batches are, with this learning rate."""
    return optax.sgd(rate)
