"""Sharpness: the largest eigenvalue, and the loss that one step uphill reaches, in plain and in scale-free units."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import check_flag
from landscape.curvature._eigenpairs import eigenpairs
from landscape.curvature._products import Adaptive, Operator, check, prepared, widened
from landscape.objective import Objective, check_objective
from landscape.point import matmul_precision


class Sharpness(NamedTuple):
    """The largest eigenvalue of a Hessian, and how near to it an eigenvalue is known to lie."""

    value: Float[Array, "*runs"]
    residual: Float[Array, "*runs"]


def sharpness(
    key: Array,
    objective: Objective | Operator,
    params: PyTree,
    *,
    adaptive: bool = False,
    where: Any = None,
    **options: Any,
) -> Sharpness:
    r"""The largest eigenvalue of the Hessian, with its residual; gradient descent is stable below `2 / step`.

    The adaptive one measures each weight in units of its own magnitude: the largest eigenvalue of
    $|W| \nabla^2 L \, |W|$ with $|W| = \mathrm{diag}|w|$ (the normalisation of Kwon et al. 2021, arXiv 2102.11600,
    to second order). Rescaling weights without changing the function, as in $(aW_1, W_2/a)$ of a ReLU
    network (Dinh et al. 2017), leaves it as it is, whereas the plain one can be given almost any value.

    Args:
        key: random key of the start vector.
        objective: the loss whose Hessian it is, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where.
        adaptive: whether weights are measured in units of themselves.
        where: the parameters whose diagonal block it is, as `trainable` of `subspace.split`; by default all.
        options: `tol`, `max_products` and `max_vectors` of `eigenpairs`.

    Raises:
        TypeError: as in `eigenpairs`.
        ValueError: as in `eigenpairs`.
    """
    check_flag("adaptive", adaptive)
    objective, params = prepared(objective, params, where)
    top = eigenpairs(key, Adaptive(objective) if adaptive else objective, params, 1, "LA", **options)
    return Sharpness(top.values[0], top.residuals[0])


def ascent_sharpness(
    objective: Objective, params: PyTree, rho: float | Array = 0.05, *, adaptive: bool = False
) -> Float[Array, ""]:
    r"""How much the loss rises within a ball, by its first-order maximiser: $L(w + \hat\epsilon) - L(w)$.

    $\hat\epsilon = \rho \, g / |g|$ with the gradient $g$ (Foret et al. 2021, SAM, arXiv 2010.01412, equation 2). The
    adaptive one takes the ball $|\,\epsilon / |w|\,| \le \rho$, whose maximiser is
    $\hat\epsilon = \rho \, w^2 g / |w g|$, element by element (Kwon et al. 2021, ASAM, arXiv 2102.11600, section 3,
    without its stabilising constant): rescaling weights without changing the function leaves it as it is. Where the
    gradient is 0, so is the step: at a minimum ask `sharpness`.

    Args:
        objective: the loss.
        params: where.
        rho: radius of the ball, in the units of the parameters, or relative to them if adaptive.
        adaptive: whether weights are measured in units of themselves.

    Raises:
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, or `rho` is no number.
        ValueError: `rho` is not positive and finite.
    """
    check_objective(objective)
    check(objective, params)
    _tree.check_positive("rho", rho)
    check_flag("adaptive", adaptive)
    return _ascent(objective, jax.tree.map(jnp.asarray, params), rho, adaptive=adaptive)


@partial(jax.jit, static_argnames="adaptive")
def _ascent(objective: Objective, params: PyTree, rho: Any, *, adaptive: bool) -> Array:
    with matmul_precision():
        objective, params = widened(objective, params)
        size = jax.tree.map(jnp.abs if adaptive else jnp.ones_like, params)
        loss, gradient = objective.value_and_grad(params)
        # a direction has no units, and products in those of both would leave the range of the precision
        relative, gradient = (_over(tree, _tree.power_of_two_near(tree)) for tree in (size, gradient))
        scaled = jax.tree.map(jnp.multiply, relative, gradient)
        length = _tree.norm(scaled)
        direction = _over(scaled, jnp.where(length == 0, 1, length))
        return objective(jax.tree.map(lambda p, s, d: p + rho * s * d, params, size, direction)) - loss


def _over(tree: PyTree, number: Array) -> PyTree:
    return jax.tree.map(lambda x: x / number, tree)
