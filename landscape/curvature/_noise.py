"""Gradients beside curvature: how noisy a minibatch gradient is, and how much of an update the top eigenspace holds."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.curvature._eigenpairs import Eigenpairs, check_request, eigenpairs
from landscape.curvature._products import Operator, check
from landscape.objective import Objective, check_means, check_objective, set_aside
from landscape.point import matmul_precision

CHUNK = 16  # groups whose gradients are taken together
FEWEST = 3  # groups: a standard error leaves one out and needs two more


class GradientNoise(NamedTuple):
    r"""How noisy the gradient of a minibatch is: of batches of `value` examples, noise and gradient are of equal size.

    Attributes:
        value: the simple noise scale $B = tr(\Sigma) / |G|^2$, in examples; infinite where the estimate of $|G|^2$ is
            not positive, as at a minimum: then all is noise.
        sem: its standard error by leaving out one group at a time; infinite where `value` is.
        covariance_trace: $tr(\Sigma)$, of the gradients of single examples.
        squared_gradient: $|G|^2$, of the mean over the distribution that the examples are drawn from: without the part
            of the noise that is left in their mean. May be negative by chance.
    """

    value: Float[Array, "*runs"]
    sem: Float[Array, "*runs"]
    covariance_trace: Float[Array, "*runs"]
    squared_gradient: Float[Array, "*runs"]


def gradient_noise(
    key: Array, objective: Objective, params: PyTree, *, group_size: int = 1, num_groups: int | None = None
) -> GradientNoise:
    r"""The simple noise scale of the gradient, $B = tr(\Sigma) / |G|^2$ (McCandlish et al. 2018, eq. 2.9).

    $\Sigma$ is the covariance of the gradient over examples, $G$ its mean. Both are estimated without bias from the
    gradients of two batch sizes, as in their appendix A.1: those of groups of `group_size` examples, and of all groups
    together (arXiv 1812.06162). With groups of one that is the sample covariance. Differently from there, all groups
    are used and not one of each size, sums are centred, and the error is that of a jackknife over groups (Efron & Stein
    1981).

    Can be compiled, mapped over runs and along a path. Costs two passes over the data; memory: 16 gradients.

    Args:
        key: random key of the draw of groups, without replacement.
        objective: a plain mean over examples in memory.
        params: where.
        group_size: examples of a group; larger ones are quicker, and their error is larger.
        num_groups: groups drawn, at least 3; by default as many as the data hold.

    Raises:
        TypeError: no objective, its data in `Batches`, parameters that are not real floating-point arrays, or a number
            that is no integer.
        ValueError: an objective without examples, with weights, or whose examples interact; or fewer than 3 groups.
    """
    _tree.check_key(key)
    objective, params = set_aside(objective, params)
    check_objective(objective)
    _tree.check_params(params)
    count = _number_of_groups(objective, group_size, num_groups)
    check_means(objective, lambda: params, per_example=True)
    return _noise(key, objective, params, size=int(group_size), count=count)


def _number_of_groups(objective: Objective, group_size: Any, num_groups: Any) -> int:
    if not objective.num_examples or not objective.batched:
        raise ValueError(
            "gradient noise is over examples, and this objective has none: give Objective(data=..) examples"
        )
    if objective.weight_fn is not None:
        raise ValueError("gradient noise is that of a plain mean over examples; this objective weighs them (weight_fn)")
    _tree.check_count("group_size", group_size, 1)
    most = objective.num_examples // int(group_size)
    if num_groups is not None:
        _tree.check_count("num_groups", num_groups, FEWEST)
    if most < max(FEWEST, num_groups or 0):
        raise ValueError(
            f"{objective.num_examples} examples make {most} groups of {group_size}, and there must be "
            f"{max(FEWEST, num_groups or 0)}: take a smaller group_size or more data"
        )
    return int(num_groups or most)


@partial(jax.jit, static_argnames=("size", "count"))
def _noise(key: Array, objective: Objective, params: PyTree, *, size: int, count: int) -> GradientNoise:
    params = jax.tree.map(_tree.at_least_single, params)
    order = jax.random.permutation(key, objective.num_examples or 0)[: size * count].reshape(count, size)
    bare = dataclasses.replace(objective, batch_size=None)

    def gradient(group: Array) -> PyTree:
        with matmul_precision():
            return bare.take(group).value_and_grad(params)[1]

    def moments(group: Array) -> tuple[Array, Array]:
        off = jax.tree.map(jnp.subtract, gradient(group), mean)
        return _dot(off, off), _dot(off, mean)

    total = _summed(gradient, order, params)
    mean = jax.tree.map(lambda x: x / count, total)
    squares, along = jax.lax.map(moments, order, batch_size=min(CHUNK, count))
    whole = _ratio(jnp.sum(squares), _dot(mean, mean), count, size)
    others = count - 1
    left = jnp.sum(squares) - squares * count / others, _dot(mean, mean) - 2 * along / others + squares / others**2
    scales = _ratio(*left, others, size)[0]
    sem = jnp.sqrt(others * jnp.mean((scales - jnp.mean(scales)) ** 2))
    certain = jnp.isfinite(whole[0]) & jnp.isfinite(sem)
    return GradientNoise(whole[0], jnp.where(certain, sem, jnp.inf), *whole[1:])


def _summed(gradient: Any, order: Array, params: PyTree) -> PyTree:
    """The sum of the gradients of all groups, a chunk at a time."""
    count, size = order.shape
    chunk = min(CHUNK, count)
    parts = -(-count // chunk)
    padded = jnp.concatenate([order, jnp.broadcast_to(order[:1], (parts * chunk - count, size))])
    counts = (jnp.arange(parts * chunk) < count).reshape(parts, chunk)

    def add(total: PyTree, part: tuple[Array, Array]) -> tuple[PyTree, None]:
        groups, real = part
        found = jax.vmap(gradient)(groups)
        return jax.tree.map(lambda t, x: t + jnp.tensordot(real.astype(x.dtype), x, 1), total, found), None

    start = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, start, (padded.reshape(parts, chunk, size), counts))[0]


def _ratio(squares: Array, square: Array, count: int, size: int) -> tuple[Array, Array, Array]:
    """Noise scale, trace of the covariance and squared gradient from sums over groups."""
    covariance = size * squares / (count - 1)
    gradient = square - covariance / (count * size)
    return jnp.where(gradient > 0, covariance / gradient, jnp.inf), covariance, gradient


def _dot(a: PyTree, b: PyTree) -> Array:
    """The inner product of two trees, in at least float32."""
    return sum((jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))), jnp.zeros(()))


class EigenspaceShare(NamedTuple):
    """How much of an update lies in the top eigenspace of a curvature matrix.

    Attributes:
        value: the share of its squared length, in [0, 1]; a random direction has about `k` over the number of
            parameters. NaN for an update of length 0.
        pairs: the eigenpairs; their `converged` says whether the share may be trusted.
    """

    value: Float[Array, "*runs"]
    pairs: Eigenpairs


def eigenspace_share(
    key: Array,
    objective: Objective | Operator,
    params: PyTree,
    k: int,
    *,
    update: PyTree = None,
    tol: float | None = None,
    max_products: int = 1000,
) -> EigenspaceShare:
    r"""The share $|P_k u|^2 / |u|^2$ of an update in the span of the top `k` eigenvectors.

    Gradients soon lie mostly in the span of as many eigenvectors as there are classes (Gur-Ari, Roberts & Dyer 2018,
    arXiv 1812.04754). Can be compiled and mapped along a path, as in `recording.Course`.

    Args:
        key: random key of the search for eigenvectors.
        objective: the loss whose Hessian it is, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where.
        k: number of eigenvectors, the largest eigenvalues first.
        update: of the shape of the parameters; the gradient of an objective by default.
        tol: as for `eigenpairs`.
        max_products: as for `eigenpairs`.

    Raises:
        TypeError: as `eigenpairs`; or no `update` for an operator, which has no gradient.
        ValueError: as `eigenpairs`; an update that does not look like the parameters.
    """
    _tree.check_key(key)
    objective, params = set_aside(objective, params)
    check(objective, params)
    check_request(_tree.size(params), k, "LA", tol, max_products)
    if update is None and not isinstance(objective, Objective):
        raise TypeError(f"{type(objective).__name__} has no gradient: give the update= whose share is wanted")
    if update is not None:
        _tree.check_params(update, "update")
        _tree.check_like(update, params, "update", "params")
    pairs = eigenpairs(key, objective, params, k, tol=tol, max_products=max_products)
    return EigenspaceShare(_share(objective, params, update, pairs.vectors), pairs)


@jax.jit
def _share(objective: Any, params: PyTree, update: PyTree, vectors: PyTree) -> Array:
    if update is None:
        with matmul_precision():
            update = objective.value_and_grad(jax.tree.map(jnp.asarray, params))[1]
    update = jax.tree.map(_tree.at_least_single, update)
    size = _tree.norm(update)
    unit = jax.tree.map(lambda x: x / size, update)
    along = sum(jnp.tensordot(v, x, x.ndim) for v, x in zip(jax.tree.leaves(vectors), jax.tree.leaves(unit)))
    return jnp.sum(jnp.square(along))
