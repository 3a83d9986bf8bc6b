r"""What loss, gradient and Hessian say about a point, with the tolerances by which to read them.

Behind `minima.classify` and `minima.census`; the rules are stated there. Pure and jitted: everything comes back as a
dictionary of arrays.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from landscape import _tree, curvature
from landscape.curvature import Flat
from landscape.objective import Objective
from landscape.point import matmul_precision


@jax.jit
def dense(objective: Objective, params: PyTree, key: Array) -> dict[str, Array]:
    with matmul_precision():
        flat = Flat(objective, params)
        x = flat.start
        loss, gradient = flat.value_and_grad(x)
        matrix = flat.hessian(x)
        unit = _tree.power_of_two_near(matrix)
        values, vectors = jnp.linalg.eigh(matrix / unit)
        residuals = jax.vmap(_tree.norm, 1)((matrix / unit) @ vectors - values[None] * vectors)
        moved = jnp.linalg.eigvalsh(flat.hessian(x + _nudge(key, x)) / unit)
        size, wobble = jnp.max(jnp.abs(values)), jnp.max(jnp.abs(moved - values))
        along = (gradient / unit) @ vectors
        step = along / _at_least(jnp.abs(values), _third(x) * size)
        return _tolerances(x, size * unit, wobble * unit) | {
            "loss": loss, "grad_norm": _tree.norm(gradient), "newton_step": _tree.norm(step),
            "eigenvalues": values * unit, "residuals": residuals * unit,
        }  # fmt: skip


@partial(jax.jit, static_argnames="num")
def sparse(key: Array, objective: Objective, params: PyTree, num: int) -> dict[str, Array]:
    with matmul_precision():
        flat = Flat(objective, params)
        x, keys = flat.start, jax.random.split(key, 3)
        loss, gradient = flat.value_and_grad(x)
        low = curvature.eigenpairs(keys[0], objective, params, num, "SA")
        top = curvature.eigenpairs(keys[1], objective, params, 1, "LM")
        vectors = jax.vmap(lambda tree: Flat(objective, tree).start)(low.vectors)
        here, there = flat.products(x), flat.products(x + _nudge(keys[2], x))
        changes = jax.lax.map(lambda v: v @ (there(v) - here(v)), vectors)
        size, norm = jnp.abs(top.values[0]), _tree.norm(gradient)
        return _tolerances(x, size, jnp.max(jnp.abs(changes))) | {
            "loss": loss, "grad_norm": norm, "newton_step": norm / _at_least(_third(x) * size, 0),
            "eigenvalues": low.values, "residuals": low.residuals,
        }  # fmt: skip


def _nudge(key: Array, x: Array) -> Array:
    """A random vector as long as the square root of the precision, relative to the parameters."""
    direction = jax.random.normal(key, x.shape, x.dtype)
    length = float(jnp.finfo(x.dtype).eps) ** 0.5 * jnp.maximum(1, _tree.norm(x))
    return direction / _tree.norm(direction) * length


def _third(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps) ** (1 / 3)


def _at_least(values: Array, floor: Any) -> Array:
    """Curvatures to divide by: above the floor, and above zero."""
    return jnp.maximum(jnp.maximum(values, floor), jnp.finfo(values.dtype).tiny)


def _tolerances(x: Array, size: Array, wobble: Array) -> dict[str, Array]:
    root = float(jnp.finfo(x.dtype).eps) ** 0.5
    return {
        "step_tol": _third(x) * jnp.maximum(1, _tree.norm(x)),
        "eigenvalue_tol": root * size + wobble,
        "size": size,
    }
