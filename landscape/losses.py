r"""Losses of one example, and the ways to make one number of many: which landscape it is, is decided here.

A loss is a function `(prediction, target) -> loss`, element by element: predictions and targets of shape `(n,)` give
losses of shape `(n,)`. What optax has is optax's own; the factors differ from book to book, so here they are. With the
miss $r$ = prediction - target:

| name | loss | least at |
|---|---|---|
| `squared_error` | $r^2$, without 1/2 | the mean |
| `absolute_error` | $\lvert r \rvert$, with slope 0 at 0 | the median |
| `huber(k)` | $r^2 / 2$ up to $k$, then $k \lvert r \rvert - k^2 / 2$ (Huber 1964) | between the two |
| `pinball(tau)` | $\tau \lvert r \rvert$ below the target, $(1 - \tau) \lvert r \rvert$ above | the quantile $\tau$ |
| `cross_entropy` | $-\log$ of the softmax of the logits at the label, in nats | the class frequencies |
| `zero_one` | 0 where the largest logit is the label's, 1 elsewhere | the commonest class |

(`least at`: of all constant predictions, in the mean over examples; Koenker & Bassett 1978 for `pinball`.)

>>> import jax.numpy as jnp
>>> from landscape import losses
>>> targets = jnp.array([1.0, 2.0, 3.0, 4.0, 40.0])                       # the last one is an outlier
>>> losses.absolute_error(jnp.full(5, 3.0), targets)
Array([ 2.,  1.,  0.,  1., 37.], dtype=float32)
>>> [float(losses.aggregate(losses.absolute_error(jnp.full(5, 3.0), targets), how)) for how in losses.AGGREGATES]
[8.199999809265137, 41.0, 1.0, 37.0]
>>> [round(float(losses.best_constant(loss, targets)), 3) for loss in (losses.squared_error, losses.absolute_error)]
[10.0, 3.0]
>>> round(float(losses.best_constant(losses.absolute_error, targets, "max")), 3)   # the midrange
20.5
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from landscape import _tree

Loss = Callable[[Array, Array], Array]

AGGREGATES: dict[str, Callable[[Array], Array]] = {
    "mean": jnp.mean,
    "sum": jnp.sum,
    "median": jnp.median,
    "max": jnp.max,
}
CELLS = 2**16  # of the midpoint rule: kinks of a slope between cells cost 1e-8
TAIL = 10.0  # standard deviations: beyond them lies 1e-23 of a Gaussian

__all__ = [
    "AGGREGATES",
    "Loss",
    "absolute_error",
    "aggregate",
    "best_constant",
    "cross_entropy",
    "gaussian_efficiency",
    "huber",
    "pinball",
    "squared_error",
    "zero_one",
]

squared_error = optax.losses.squared_error
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def absolute_error(prediction: Any, target: Any) -> Float[Array, "*n"]:
    """The distance of each prediction from its target.

    Raises:
        TypeError: predictions that are not real floating-point numbers.
        ValueError: targets of another shape.
    """
    return jnp.abs(_miss(prediction, target))


def huber(k: Any = 1.345) -> Loss:
    """The loss of Huber (1964): half the squared error up to a miss of `k`, and from there a straight line.

    Equal constants give equal losses, so they share a compiled program.

    Args:
        k: the largest miss that counts as ordinary, in units of the target; positive. For targets with Gaussian noise
            of standard deviation s, `1.345 s` has 95 % of the efficiency of the squared error.

    Raises:
        TypeError: `k` is not a number.
        ValueError: `k` is not positive.
    """
    _check_constant("k", k, np.inf)
    return _Huber(k)


def pinball(tau: Any) -> Loss:
    """The quantile loss of Koenker & Bassett (1978), least in the mean at the quantile `tau`.

    Half the absolute error for `tau=0.5`. Equal constants give equal losses.

    Args:
        tau: the quantile, between 0 and 1.

    Raises:
        TypeError: `tau` is not a number.
        ValueError: `tau` does not lie between 0 and 1.
    """
    _check_constant("tau", tau, 1)
    return _Pinball(tau)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Huber:
    k: Any

    def __call__(self, prediction: Any, target: Any) -> Array:
        return optax.losses.huber_loss(_miss(prediction, target), delta=self.k)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Pinball:
    tau: Any

    def __call__(self, prediction: Any, target: Any) -> Array:
        miss = _miss(prediction, target)
        return jnp.where(miss < 0, -self.tau * miss, (1 - self.tau) * miss)


def zero_one(logits: Any, labels: Any) -> Float[Array, "*n"]:
    """1 for each example that is misclassified, 0 for the others; its mean is the error rate.

    Of equal logits the first counts. NaN where a logit is NaN. Its gradient is 0 wherever it exists.

    Args:
        logits: one number a class, shape `(n, c)`.
        labels: integers, shape `(n,)`.

    Raises:
        TypeError: labels that are not integers.
        ValueError: not one label for each row of logits.
    """
    if not jnp.issubdtype(_dtype(labels, "labels"), jnp.integer):
        raise TypeError(f"zero_one wants integer labels, got {_dtype(labels, 'labels')}")
    _check_floating(logits, "logits")
    logits = jnp.asarray(logits)
    if logits.ndim == 0 or jnp.shape(labels) != logits.shape[:-1]:  # (n,) against (n, 1) would be (n, n)
        raise ValueError(
            f"zero_one wants logits (n, c) and one label for each row, (n,), got {logits.shape} and {jnp.shape(labels)}"
        )
    likeliest = jnp.argmax(logits, axis=-1)
    wrong = (likeliest != jnp.asarray(labels, likeliest.dtype)).astype(logits.dtype)
    return jnp.where(jnp.any(jnp.isnan(logits), axis=-1), jnp.nan, wrong)


def aggregate(values: Any, how: str = "mean") -> Float[Array, ""]:
    """One number of the losses of many examples.

    An `Objective` averages over batches, so of these it can only be the mean batch by batch. For the others, let its
    `loss_fn` return this scalar, and leave `batch_size` away.

    Args:
        values: one loss for each example, shape `(n,)`.
        how: `"mean"`, `"sum"`, `"median"` or `"max"`.

    Raises:
        TypeError: values that are not real numbers.
        ValueError: another name; no values.
    """
    _check_aggregate(how)
    kind = _dtype(values, "values")
    if jnp.issubdtype(kind, jnp.complexfloating):
        raise TypeError(f"values must be real numbers, got {kind}")
    values = jnp.asarray(values)
    if not values.size:
        raise ValueError("aggregate needs at least one value, got none")
    return AGGREGATES[how](values)


def _check_aggregate(how: Any) -> None:
    if not isinstance(how, str) or how not in AGGREGATES:
        raise ValueError(f"unknown aggregate {how!r}; there are {', '.join(AGGREGATES)}")


def best_constant(loss: Loss, targets: Any, how: str = "mean") -> Float[Array, ""]:
    """The one prediction for all targets whose aggregate loss is least: the law that a loss stands for.

    By bisection on the sign of the slope, which `jax.grad` gives, so kinks do no harm; to 2^-60 of the range of the
    targets in float64, 2^-31 in float32. Where a whole interval is least, as between the two middle targets under the
    absolute error, its middle. Right for losses that are convex in the prediction and least at the target.

    Args:
        loss: a loss of one example.
        targets: the targets, shape `(n,)`.
        how: `"mean"`, `"sum"` or `"max"`. The median of convex losses is not convex.

    Raises:
        TypeError: targets that are not real floating-point numbers.
        ValueError: `"median"`, or an unknown aggregate; no targets.
    """
    _check_aggregate(how)
    if how == "median":
        raise ValueError(f"best_constant needs a convex aggregate, 'mean', 'sum' or 'max', got {how!r}")
    _check_floating(targets, "targets")
    if not jnp.size(targets):
        raise ValueError("best_constant needs at least one target, got none")
    _tree.check_takes(loss, "loss", "prediction", "target")
    known = loss if isinstance(loss, _Huber | _Pinball) else _tree.static_function(loss)
    # The sum has the minimum of the mean, and the slopes of an absolute error add up without rounding.
    return _least(known, jnp.asarray(targets), "sum" if how == "mean" else how)


@partial(jax.jit, static_argnums=2)
def _least(loss: Any, targets: Array, how: str) -> Array:
    """The middle between the first point where the slope is not negative and the last where it is not positive."""
    slope = jax.grad(lambda c: aggregate(loss(jnp.broadcast_to(c, targets.shape), targets), how))
    first = jnp.array([True, False])

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = ends[0] + (ends[1] - ends[0]) / 2
        steep = jax.vmap(slope)(middle)
        right = (steep < 0) | (~first & (steep == 0))
        return jnp.where(right, middle, ends[0]), jnp.where(right, ends[1], middle)

    start = jnp.full(2, jnp.min(targets)), jnp.full(2, jnp.max(targets))
    low, high = jax.lax.fori_loop(0, jnp.finfo(targets.dtype).nmant + 8, halve, start)
    low, high = low + (high - low) / 2
    return low + (high - low) / 2


def gaussian_efficiency(loss: Loss) -> Float[Array, ""]:
    r"""How well a symmetric loss uses Gaussian data: the variance of the mean over that of its own best constant.

    For many examples $\frac{(E\,\psi'(z))^2}{E\,\psi(z)^2}$ with the slope $\psi$ of the loss and standard Gaussian $z$
    (Huber 1964). By Stein's lemma $E\,\psi'(z) = E\,z\,\psi(z)$, which needs no second derivative. 1 for the squared
    error, $2 / \pi$ for the absolute error. By the midpoint rule.
    """
    _tree.check_takes(loss, "loss", "prediction", "target")
    edges = jnp.linspace(-TAIL, TAIL, CELLS + 1)
    z = edges[:-1] + TAIL / CELLS
    weight = jnp.exp(-(z**2) / 2)
    psi = jax.grad(lambda p: jnp.sum(loss(p, jnp.zeros_like(p))))(z)
    return jnp.sum(weight * z * psi) ** 2 / (jnp.sum(weight * psi**2) * jnp.sum(weight))


def _miss(prediction: Any, target: Any) -> Array:
    """Prediction minus target, checked as optax checks: `(n,)` minus `(n, 1)` would be `(n, n)`."""
    _check_floating(prediction, "predictions")
    _dtype(target, "targets")
    if jnp.shape(prediction) != jnp.shape(target):
        raise ValueError(
            f"predictions and targets must have one shape, got {jnp.shape(prediction)} and {jnp.shape(target)}"
        )
    return jnp.asarray(prediction) - jnp.asarray(target)


def _check_floating(values: Any, what: str) -> None:
    if not jnp.issubdtype(_dtype(values, what), jnp.floating):
        raise TypeError(f"{what} must be real floating-point numbers, got {_dtype(values, what)}")


def _dtype(values: Any, what: str) -> Any:
    """The type of numbers, or of an array of them."""
    try:
        return jnp.result_type(jnp.asarray(values))
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} must be an array of numbers, got {_tree.describe(values)}") from None


def _check_constant(name: str, value: Any, high: float) -> None:
    """Raise unless it is a number in (0, high); what JAX traces cannot be looked at."""
    if _tree.is_traced(value):
        return
    _tree.check_number(name, value)
    if not 0 < value < high:
        raise ValueError(f"{name} must be positive{'' if np.isinf(high) else f' and below {high}'}, got {value}")
