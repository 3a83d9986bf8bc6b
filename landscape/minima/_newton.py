r"""Trust-region Newton, to the last digit: the loop behind `minima.polish`.

A step minimises a quadratic model within a radius. For a minimum the model is $g \cdot p + \frac12 p \cdot H p$
with the merit $L$ (Conn, Gould & Toint 2000). For a critical point of any index it is that of the merit
$\frac12 |g|^2$, $Hg \cdot p + \frac12 p \cdot H^2 p$: Newton on the gradient, damped as Levenberg (1944) does. Small
problems are solved exactly in the eigenbasis of $H$ (Moré & Sorensen 1983), large ones by truncated conjugate
gradients (Steihaug 1983).

Near the end a loss cannot tell points apart any more: its differences are below its rounding while the gradient
still has digits to lose. There a step counts if it makes the gradient smaller. How far a loss is rounded, its value
does not say: one that is 0 may be the difference of large numbers. So its fall along a short step is also taken from
the gradients at both ends, by the trapezoidal rule, and where that agrees with the model, a loss that is off by less
than the root of the precision is overruled.

A model is solved in units of its radius and of the size of its Hessian, or of its gradient: squares of losses and
parameters in SI units leave the range of their precision.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from landscape import _tree
from landscape.curvature import Flat
from landscape.objective import Objective
from landscape.point import matmul_precision

ROUNDING = 64  # gradient tolerance, in units of precision * |H| * max(1, |x|): how far x itself is rounded
ALIKE = 0.25  # by how much the fall by the gradients may differ from that of the model
DRIFT = 0.1  # share of |x| that may still be walked once the gradient is small by half the digits

Target = Literal["minimum", "critical"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a polish ended. Under `vmap` every leaf gains a leading axis.

    Attributes:
        params: the parameters.
        loss: the loss there.
        grad_norm: Euclidean norm of the gradient there.
        steps: Newton steps tried.
        converged: whether the gradient is below the tolerance, and that no underflow; for a minimum also, where the
            Hessian is dense, that no eigenvalue is clearly negative; and that the last digits of the gradient were lost
            in place, not on the way to infinity, where a loss such as `exp(-x)` has its infimum.
    """

    params: PyTree
    loss: Float[Array, "*runs"]
    grad_norm: Float[Array, "*runs"]
    steps: Int[Array, "*runs"]
    converged: Bool[Array, "*runs"]


@dataclass(frozen=True)
class Settings:
    """The static side of a polish."""

    to: Target
    dense: bool
    max_steps: int
    max_inner: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _State:
    x: Array
    loss: Array
    gradient: Array
    radius: Array
    size: Array  # of the Hessian: its largest eigenvalue magnitude, or the largest curvature met
    convex: Array  # whether no clearly negative curvature was seen at the last point that was looked at
    near: Array  # whether the gradient has been small by a loose measure ...
    anchor: Array  # ... and where that was first the case
    step: Array
    done: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Step:
    """A proposed step, what the model promises of it, and what was seen of the Hessian."""

    step: Array  # in units of the radius
    predicted: Array  # of a loss in units of `unit * radius**2`, of half a squared gradient in `(unit * radius)**2`
    unit: Array  # of the Hessian in the model
    size: Array
    convex: Array


@partial(jax.jit, static_argnums=0)
def run(settings: Settings, objective: Objective, params: PyTree, tol: Any, radius: Any) -> Minimum:
    """Polish `params`; `tol` is an absolute gradient norm or None for rounding, `radius` that of the first step."""
    with matmul_precision():
        flat = Flat(objective, params)
        start = flat.start
        loss, gradient = flat.value_and_grad(start)
        radius = jnp.maximum(1, _tree.norm(start)) / 10 if radius is None else radius
        finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient))
        zero = jnp.zeros_like(start[0])
        state = _State(
            start, loss, gradient, zero + radius, zero, jnp.bool_(settings.to == "critical"), jnp.bool_(False), start,
            jnp.int32(0), ~finite,
        )  # fmt: skip
        first = _tree.norm(gradient)

        def going(state: _State) -> Array:
            return ~state.done & (state.step < settings.max_steps)

        state = jax.lax.while_loop(going, partial(_advance, settings, flat, tol, first), state)
    norm, tol = _tree.norm(state.gradient), _tolerance(tol, state.size, state.x)
    stays = _tree.norm(state.x - state.anchor) <= DRIFT * jnp.maximum(1, _tree.norm(state.x))
    stays = stays | ~state.near
    # Where the tolerance itself underflows, a gradient that is 0 says nothing; a Hessian that is 0 has none.
    told = jnp.isfinite(norm) & ((tol > jnp.finfo(start.dtype).tiny) | (state.size == 0))
    converged = state.convex & stays & (state.step > 0) & (norm <= tol) & told
    return Minimum(flat.tree(state.x), state.loss, norm, state.step, converged)


def _tolerance(tol: Any, size: Array, x: Array) -> Array:
    """The gradient norm that counts as zero: what rounding the parameters alone does to it."""
    if tol is not None:
        return jnp.asarray(tol, x.dtype)
    return rounding(size, x)


def rounding(size: Array, x: Array) -> Array:
    """Gradient norms that are not told from zero where the Hessian is of this size."""
    return ROUNDING * jnp.finfo(x.dtype).eps * size * jnp.maximum(1, _tree.norm(x))


def _advance(settings: Settings, flat: Flat, tol: Any, first: Array, state: _State) -> _State:
    propose = _dense if settings.dense else _truncated
    proposal = propose(settings, flat, tol, first, state)
    x = state.x + state.radius * proposal.step
    loss, gradient = flat.value_and_grad(x)
    size, old, new = (_tree.norm(v) for v in (state.x, state.gradient, gradient))
    finite = jnp.isfinite(loss) & jnp.isfinite(new)
    judge = _by_gradient if settings.to == "critical" else _by_loss
    ratio, exact = judge(state, proposal, loss, gradient)
    good = finite & jnp.where(exact, ratio > 1e-4, new < old)
    length = state.radius * _tree.norm(proposal.step)
    radius = _next_radius(state.radius, length, jnp.where(finite, ratio, -1), exact)
    small = (old <= _tolerance(tol, proposal.size, state.x)) & proposal.convex
    # At the tolerance of rounding a step that still halves the gradient is worth taking; one asked for is just met.
    ended = small if tol is not None else small & ~(good & (new < old / 2))
    tiny = radius <= jnp.finfo(x.dtype).eps * size
    done = ended | (~good & ~exact) | (~good & tiny)
    half = float(jnp.finfo(x.dtype).eps) ** 0.5 * proposal.size * jnp.maximum(1, size)
    state = dataclasses.replace(
        state, near=state.near | (old <= half), anchor=jnp.where(state.near, state.anchor, state.x)
    )
    moved = dataclasses.replace(state, x=x, loss=loss, gradient=gradient)
    kept = jax.tree.map(partial(jnp.where, good & ~ended), moved, state)
    return dataclasses.replace(
        kept, radius=radius, size=proposal.size, convex=proposal.convex, step=state.step + 1, done=done
    )


def _by_gradient(state: _State, proposal: _Step, loss: Array, gradient: Array) -> tuple[Array, Array]:
    """Actual over predicted decrease of half the squared gradient, and whether there is any to be had."""
    old, new = (_tree.norm(v / proposal.unit / state.radius) for v in (state.gradient, gradient))
    exact = proposal.predicted > 0
    return (old - new) * (old + new) / 2 / jnp.where(exact, proposal.predicted, 1), exact


def _by_loss(state: _State, proposal: _Step, loss: Array, gradient: Array) -> tuple[Array, Array]:
    """Actual over predicted decrease of the loss, and whether rounding leaves anything of it."""
    predicted = jnp.maximum(proposal.predicted, 0) * state.radius * proposal.unit * state.radius
    eps, reach = float(jnp.finfo(loss.dtype).eps), jnp.maximum(1, _tree.norm(state.x))
    exact = predicted > 16 * eps * jnp.abs(state.loss)
    ratio = (state.loss - loss) / jnp.where(exact, predicted, 1)
    both = (state.gradient + gradient) / proposal.unit / state.radius
    trapezoid = -(both @ proposal.step) / 2 / jnp.where(proposal.predicted > 0, proposal.predicted, 1)
    # a loss is a difference of terms that may be as large as this, whatever its value
    terms = jnp.maximum(jnp.abs(state.loss), proposal.size * reach * reach)
    within = jnp.abs(ratio - trapezoid) * predicted <= eps**0.5 * terms
    overruled = within & (jnp.abs(trapezoid - 1) <= ALIKE)
    lost = (predicted <= 16 * eps * terms) & (_tree.norm(gradient) < _tree.norm(state.gradient))
    unsure = jnp.where(lost, jnp.maximum(ratio, 0.5), ratio)  # good enough to be taken, with the radius as it is
    return jnp.where(overruled, trapezoid, unsure), exact


def _next_radius(radius: Array, length: Array, ratio: Array, exact: Array) -> Array:
    shrunk = jnp.where(ratio < 0.25, length / 4, radius)
    grown = jnp.where((ratio > 0.75) & (length > 0.9 * radius), 2 * radius, shrunk)
    return jnp.where(exact, grown, radius)


def _dense(settings: Settings, flat: Flat, tol: Any, first: Array, state: _State) -> _Step:
    """The exact solution of the model, in the eigenbasis of the Hessian."""
    matrix = flat.hessian(state.x)
    unit = _tree.power_of_two_near(matrix)
    values, vectors = jnp.linalg.eigh(matrix / unit)
    along = (state.gradient / unit) @ vectors
    size = jnp.max(jnp.abs(values))
    slack = float(jnp.finfo(values.dtype).eps) ** 0.5 * size
    # Where curvature and gradient are both at rounding (a symmetry of the loss), a step would be noise over noise.
    null = (jnp.abs(values) <= slack) & (jnp.abs(along) <= _tolerance(tol, size * unit, state.x) / unit)
    a, b = (values, along) if settings.to == "minimum" else (values**2, values * along)
    a, b = jnp.where(null, jnp.max(jnp.abs(a)), a), jnp.where(null, 0, b) / state.radius
    step = solve_model(a, b, jnp.ones_like(state.radius))
    predicted = -jnp.sum(b * step + a * step**2 / 2)
    convex = jnp.bool_(settings.to == "critical") | (jnp.min(values) >= -slack)
    return _Step(vectors @ step, predicted, unit, size * unit, convex)


def solve_model(a: Float[Array, " n"], b: Float[Array, " n"], radius: Float[Array, ""]) -> Float[Array, " n"]:
    """Minimise `b . p + p . (a p) / 2` within `|p| <= radius` for diagonal curvatures `a`, of any sign.

    The solution is `-b / (a + m)` for the least `m >= 0` that makes `a + m` non-negative and the step short enough;
    in the hard case, where even that is inside, a move along the most negative curvature fills it up.
    """
    newton = jnp.where(a > 0, -b / jnp.where(a > 0, a, 1), 0)
    low = jnp.maximum(0, -jnp.min(a))
    scale = jnp.max(jnp.abs(a)) + _tree.norm(b) / radius
    scale = jnp.where(scale > 0, scale, 1)

    def at(log_shift: Array) -> Array:
        return -b / (a + low + scale * jnp.exp(log_shift))

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = bounds
        middle = (below + above) / 2
        longer = _tree.norm(at(middle)) > radius
        return jnp.where(longer, middle, below), jnp.where(longer, above, middle)

    least = jnp.log(jnp.finfo(a.dtype).eps)
    _, above = jax.lax.fori_loop(0, 50, halve, (least.astype(a.dtype), jnp.zeros_like(radius)))
    step = at(above)
    room = jnp.sqrt(jnp.maximum(radius**2 - jnp.sum(step**2), 0))
    worst = jnp.argmin(a)
    fill = jnp.where((low > 0) & (room > 0), jnp.where(b[worst] > 0, -room, room), 0)
    step = step.at[worst].add(fill)
    inside = (jnp.min(a) >= 0) & jnp.all((a > 0) | (b == 0)) & (_tree.norm(newton) <= radius)
    return jnp.where(inside, newton, step)


def _truncated(settings: Settings, flat: Flat, tol: Any, first: Array, state: _State) -> _Step:
    """Conjugate gradients on the model until accurate enough, out of the radius, or along negative curvature."""
    product = flat.products(state.x)  # once: each product would go forward through the model again
    accuracy = jnp.clip(_tree.norm(state.gradient) / jnp.where(first > 0, first, 1), 1e-8, 0.1)
    solve = partial(_steihaug, radius=jnp.ones_like(state.radius), accuracy=accuracy, max_inner=settings.max_inner)
    scale = _tree.power_of_two_near(state.gradient)
    if settings.to == "minimum":
        unit = scale / state.radius
        step = solve(lambda v: product(v) / unit, state.gradient / scale, size=state.size / unit)
        return dataclasses.replace(step, unit=unit, size=step.size * unit)
    image = product(state.gradient / scale)
    unit = _tree.power_of_two_near(image)
    b = image / unit * (scale / unit / state.radius)
    twice = solve(lambda v: product(product(v) / unit) / unit, b, size=(state.size / unit) ** 2)
    return dataclasses.replace(twice, unit=unit, size=jnp.sqrt(twice.size) * unit, convex=jnp.bool_(True))


def _steihaug(
    product: Callable[[Array], Array], b: Array, *, radius: Array, accuracy: Array, max_inner: int, size: Array
) -> _Step:
    def going(state: Any) -> Array:
        return ~state[-1] & (state[4] < max_inner)

    def advance(state: Any) -> Any:
        p, image, r, d, count, size, convex, _ = state
        hd = product(d)
        curvature, dd, rr = d @ hd, d @ d, r @ r
        alpha = rr / jnp.where(curvature > 0, curvature, 1)
        leaves = (curvature <= 0) | (_tree.norm(p + alpha * d) >= radius)
        alpha = jnp.where(leaves, _to_border(p, d, radius), alpha)
        p, image, new = p + alpha * d, image + alpha * hd, r + alpha * hd
        accurate = _tree.norm(new) <= accuracy * size_of_b
        size = jnp.maximum(size, jnp.abs(curvature) / jnp.where(dd > 0, dd, 1))
        d = -new + (new @ new) / jnp.where(rr > 0, rr, 1) * d
        return p, image, new, d, count + 1, size, convex & (curvature >= 0), leaves | accurate

    zero, size_of_b = jnp.zeros_like(b), _tree.norm(b)
    start = (zero, zero, b, -b, jnp.int32(0), size, jnp.bool_(True), ~(size_of_b > 0))
    p, image, _, _, _, size, convex, _ = jax.lax.while_loop(going, advance, start)
    return _Step(p, -(b @ p + p @ image / 2), jnp.ones_like(size), size, convex)


def _to_border(p: Array, d: Array, radius: Array) -> Array:
    """The positive `t` with `|p + t d| = radius`, from inside."""
    pd, dd = p @ d, d @ d
    dd = jnp.where(dd > 0, dd, 1)
    inside = jnp.maximum(radius**2 - p @ p, 0)
    return (-pd + jnp.sqrt(pd**2 + dd * inside)) / dd
