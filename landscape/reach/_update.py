"""`critical_sharpness`: the largest step along an update before the loss rises, in a few evaluations."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from landscape import _tree
from landscape.checks import check_count, check_share
from landscape.maps import Reached
from landscape.maps._radius import NOISE, moved
from landscape.moving import parted
from landscape.objective import Objective, check_objective, set_aside
from landscape.point import matmul_precision

JUMP = 32.0  # how much farther, or nearer, the next look may be


class CriticalSharpness(NamedTuple):
    """Two over the largest learning rate at which a step along an update does not raise the loss.

    Attributes:
        value: `2 / rate`; 0 where no rate was found at which the loss rises, infinite where it rises at all of them.
        lower, upper: what it lies between.
        rate: the learning rate itself.
        status: a `maps.Reached`: `RISEN` where the rate is known to the precision, `WITHIN` where the loss rises at the
            smallest rate looked at (the update does not descend), `BEYOND` where it rises at none, `UNRESOLVED` where
            it never falls by more than its rounding.
        evaluations: of the loss.
    """

    value: Float[Array, "*runs"]
    lower: Float[Array, "*runs"]
    upper: Float[Array, "*runs"]
    rate: Float[Array, "*runs"]
    status: Int[Array, "*runs"]
    evaluations: Int[Array, "*runs"]


def critical_sharpness(
    objective: Objective,
    params: PyTree,
    update: PyTree = None,
    *,
    learning_rate: float | Array,
    of: Objective | None = None,
    precision: float = 0.05,
    max_evaluations: int = 16,
) -> CriticalSharpness:
    r"""Two over the critical learning rate along an update: curvature where the optimizer goes, without derivatives.

    The critical rate $\eta_c$ is the smallest at which $L(\theta + \eta_c\,\delta / \eta) > L(\theta)$ for the update
    $\delta$ that the optimizer makes at its learning rate $\eta$; the critical sharpness is $2 / \eta_c$ (arXiv
    2601.16979). Of a quadratic along its own gradient $g$ it is $g'Hg / g'g$; at the edge of stability it hovers about
    $2 / \eta$. Differently from the paper, which doubles and halves, looks go by secants in
    $(L(\eta) - L(0)) / \eta$, which is linear for a quadratic, so five or six evaluations suffice.

    The *relative* critical sharpness is that of one loss along another's update: pass `update`, or `of`.

    Can be compiled, mapped over runs and along a run.

    Args:
        objective: the loss that is to rise.
        params: where.
        update: what the optimizer adds to the parameters at `learning_rate`, as optax's `update` returns it; a step of
            gradient descent by default.
        learning_rate: at which the update was made; also the first rate looked at.
        of: the loss whose gradient it is, where no update is given; `objective` by default.
        precision: at which the critical rate is known well enough, relative.
        max_evaluations: of the loss at most, the one at `params` among them.

    Raises:
        TypeError: no objective, parameters that are not real floating-point arrays, or a number that is none.
        ValueError: an update that does not look like the parameters, both `update` and `of`, a rate that is not
            positive, a precision out of (0, 1), or fewer than 4 evaluations.
    """
    check_objective(objective)
    objective, moving = set_aside(objective, params)
    of = of if of is None else set_aside(of, params, aloud=False)[0]
    params, update = moving, update if update is None else parted(update).moving
    _tree.check_params(params)
    _tree.check_positive("learning_rate", learning_rate)
    check_share("precision", precision)
    check_count("max_evaluations", max_evaluations, 4)
    if update is not None and of is not None:
        raise ValueError("update= and of= both say along what: give one of them")
    if update is None:
        check_objective(of if of is not None else objective, "of")
        gradient = _gradient(of if of is not None else objective, params)
        update = jax.tree.map(lambda g: -learning_rate * _tree.at_least_single(g), gradient)
    _tree.check_params(update, "update")
    _tree.check_like(update, params, "update", "params")
    return _critical(objective, params, update, learning_rate, precision, max_evaluations)


@jax.jit
def _gradient(objective: Objective, params: PyTree) -> PyTree:
    with matmul_precision():
        return objective.value_and_grad(jax.tree.map(jnp.asarray, params))[1]


@partial(jax.jit, static_argnums=5)
def _critical(objective: Objective, params: PyTree, update: PyTree, rate: Any, precision: Any, most: int) -> Any:
    update = jax.tree.map(_tree.at_least_single, update)
    with matmul_precision():
        base = objective(params)

        def slope(step: Array) -> Array:
            """The mean slope up to a step: negative while the loss is lower than at the start; NaN counts as risen."""
            rise = objective(moved(params, update, step)) - base
            return jnp.nan_to_num(rise / step, nan=jnp.inf, posinf=jnp.inf)

        found = _hunt(slope, jnp.ones((), base.dtype), precision, most - 1)
    unresolved = ~(found.fall > NOISE * float(jnp.finfo(base.dtype).eps) * jnp.abs(base))
    status = jnp.where(found.low == 0, Reached.WITHIN, jnp.where(jnp.isinf(found.high), Reached.BEYOND, Reached.RISEN))
    status = jnp.where(unresolved & (status == Reached.RISEN), Reached.UNRESOLVED, status).astype(jnp.int32)
    critical = jnp.where(found.low == 0, 0, found.root()) * jnp.asarray(rate, base.dtype)
    ends = [2 / (x * jnp.asarray(rate, base.dtype)) for x in (found.high, found.low)]
    return CriticalSharpness(2 / critical, *ends, critical, status, found.count + 1)


class _Hunt(NamedTuple):
    """A root of a rising function between `low`, where it is negative, and `high`, where it is not."""

    low: Array
    high: Array
    at_low: Array
    at_high: Array
    last: Array  # the last look, the one before, and the function there
    before: Array
    at_last: Array
    at_before: Array
    fall: Array  # the largest fall of the loss that was met
    count: Array

    def root(self) -> Array:
        """By the secant through both ends, where they are finite."""
        root = self.low - self.at_low * (self.high - self.low) / (self.at_high - self.at_low)
        usable = (root >= self.low) & (root <= self.high)
        return jnp.where(usable, root, jnp.where(jnp.isinf(self.high), self.high, (self.low + self.high) / 2))

    def next(self, precision: Any) -> Array:
        """Where to look next."""
        return jnp.where((self.low > 0) & jnp.isfinite(self.high), self._inside(precision), self._beyond(precision))

    def _inside(self, precision: Any) -> Array:
        """Beside the root of the secant, on the side of the farther end."""
        root = self.root()
        beside = root * (1 + 0.4 * precision * jnp.where(self.high - root > root - self.low, 1, -1))
        usable = (beside > self.low) & (beside < self.high) & (self.count % 3 != 2) & jnp.isfinite(self.at_high)
        return jnp.where(usable, beside, jnp.sqrt(self.low * self.high))

    def _beyond(self, precision: Any) -> Array:
        """Beyond the looks so far: a little past the root of the secant through the last two, or twice as far."""
        out = jnp.isinf(self.high)
        steep = (self.at_last - self.at_before) / (self.last - self.before)
        root = self.last - self.at_last / steep
        past = root * jnp.where(out, 1 + 0.4 * precision, 1 - 0.4 * precision)
        usable = jnp.isfinite(past) & jnp.where(out, past > self.last, (past < self.last) & (past > 0))
        blind = jnp.where(out, 2 * self.last, self.last / 2)
        nearest, farthest = jnp.where(out, 1, 1 / JUMP) * self.last, jnp.where(out, JUMP, 1) * self.last
        return jnp.where(usable, jnp.clip(past, nearest, farthest), blind)


def _hunt(slope: Any, first: Array, precision: Any, most: int) -> _Hunt:
    def looked(hunt: _Hunt, at: Array) -> _Hunt:
        value = slope(at)
        under = value <= 0
        return _Hunt(
            jnp.where(under, at, hunt.low), jnp.where(under, hunt.high, at),
            jnp.where(under, value, hunt.at_low), jnp.where(under, hunt.at_high, value),
            at, hunt.last, value, hunt.at_last,
            jnp.maximum(hunt.fall, jnp.where(under, -value * at, 0)), hunt.count + 1,
        )  # fmt: skip

    def wanted(hunt: _Hunt) -> Array:
        known = (hunt.low > 0) & (hunt.high < jnp.inf) & (hunt.high - hunt.low <= precision * hunt.high)
        return ~known & (hunt.count < most)

    nowhere = jnp.full_like(first, jnp.nan)
    start = _Hunt(
        jnp.zeros_like(first), jnp.full_like(first, jnp.inf), nowhere, nowhere, nowhere, nowhere, nowhere, nowhere,
        jnp.zeros_like(first), jnp.int32(0),
    )  # fmt: skip

    def look(hunt: _Hunt) -> _Hunt:
        return looked(hunt, jnp.where(hunt.count == 0, first, hunt.next(precision)))

    return jax.lax.while_loop(wanted, look, start)
