"""The trace of a curvature matrix, whole and by parameter array, with standard errors."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, PyTree
from matfree import stochtrace

from landscape import _tree
from landscape.checks import check_choice
from landscape.curvature._products import Flat, Operator, on_host, prepared, products
from landscape.curvature._vectors import Stack, Vector, Vectors, combined, less, over, put, row, unit
from landscape.objective import Objective
from landscape.placement import Places, kept, places_of
from landscape.point import matmul_precision

Product = Callable[[Array], Array]
Method = Literal["hutch++", "xtrace", "hutchinson"]


class Estimate(NamedTuple):
    """A Monte-Carlo estimate: its mean, and the standard error of the mean."""

    mean: Any
    sem: Any


def mean_and_sem(samples: Array, axis: int = 0) -> Estimate:
    """Mean over independent samples, and its standard error."""
    samples = jnp.moveaxis(samples, axis, -1)
    num = samples.shape[-1]
    # Each series in units of its own: the squares of others would leave the range of the precision.
    unit = jax.vmap(_tree.power_of_two_near)(samples.reshape(-1, num)).reshape(samples.shape[:-1])
    samples = samples / unit[..., None]
    return Estimate(unit * jnp.mean(samples, -1), unit * (jnp.std(samples, -1, ddof=1) / num**0.5))


def trace(
    key: Array,
    objective: Objective | Operator,
    params: PyTree,
    *,
    where: Any = None,
    num_products: int = 60,
    method: Method = "hutch++",
    max_vectors: int | None = None,
) -> Estimate:
    """The trace of the Hessian, with its standard error.

    Args:
        key: random key of the samples.
        objective: the loss whose Hessian it is, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where.
        where: the parameters whose diagonal block it is, as `trainable` of `subspace.split`; by default all.
        num_products: products with the matrix, at least 6. With as many as there are parameters, the trace is taken
            exactly instead, and the error is 0.
        method: `"hutch++"` (Meyer, Musco, Musco & Woodruff 2021, arXiv 2010.09649, algorithm 1): a third of the
            products finds the range of the large eigenvalues, a third takes the trace there exactly, and a third
            samples what is left, independently: the error falls with the decay of the spectrum, and its estimate is
            that of a plain mean.
            `"xtrace"` (Epperly, Tropp & Webber 2024, arXiv 2301.07825; matfree): more accurate, but the error is
            the spread of leave-one-out estimates, which are not independent: a guide that tends to be too small.
            `"hutchinson"`: signs alone (Hutchinson 1989), unbiased, error as one over the root of the products.
            Memory: one vector of the size of the parameters for every third product; for `"xtrace"` several, raveled,
            for every second; for `"hutchinson"` none.
        max_vectors: of `"hutch++"`, vectors that are held, a basis of the range; what is left of the products samples.

    Returns:
        Mean and standard error.

    Raises:
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, or the number of
            products or vectors is no integer.
        ValueError: fewer than 6 products, an unknown method, no vector, or `max_vectors` with another method; `where`
            matches nothing.
    """
    objective, params = _prepared(key, objective, params, where, num_products, 6, "num_products")
    check_choice("method", method, _METHODS)
    if max_vectors is not None:
        _tree.check_count("max_vectors", max_vectors, 1)
        if method != "hutch++":
            raise ValueError(f"max_vectors bounds what 'hutch++' holds, and method is {method!r}: leave it away")
    sketch = num_products // 3 if max_vectors is None else min(max_vectors, num_products // 3)
    with on_host(objective):
        if num_products >= _tree.size(params):
            return _exact(objective, params)
        options = {"num": num_products, "method": method, "sketch": sketch, "places": places_of(params)}
        return _estimated(key, objective, params, **options)


def layer_traces(
    key: Array, objective: Objective | Operator, params: PyTree, *, where: Any = None, num_samples: int = 100
) -> Estimate:
    """The trace of the diagonal block of each parameter array, with its standard error.

    Signs over all parameters at once (Hutchinson 1989): the entries that belong to an array, times their part of the
    product, have the trace of its block as mean. One product a sample for all arrays together.

    Args:
        key: random key of the samples.
        objective: the loss whose Hessian it is, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where.
        where: the parameters whose traces are taken, as `trainable` of `subspace.split`; by default all.
        num_samples: random vectors; at least 2.

    Returns:
        `mean` and `sem`, each a tree like `params` with one number in place of each array.

    Raises:
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, or the number of samples
            is no integer.
        ValueError: fewer than 2 samples.
    """
    objective, params = _prepared(key, objective, params, where, num_samples, 2, "num_samples")
    with on_host(objective):
        return _layers(key, objective, params, num=num_samples)


def _prepared(key: Any, objective: Any, params: PyTree, where: Any, num: Any, least: int, name: str) -> Any:
    _tree.check_key(key)
    both = prepared(objective, params, where)
    _tree.check_count(name, num, least)
    return both


@jax.jit
def _exact(objective: Any, params: PyTree) -> Estimate:
    with matmul_precision():
        flat = Flat(objective, params)
        exact = jnp.trace(flat.hessian(flat.start))
    return Estimate(exact, jnp.where(jnp.isfinite(exact), 0, jnp.nan).astype(exact.dtype))


@partial(jax.jit, static_argnames=("num", "method", "sketch", "places"))
def _estimated(
    key: Array, objective: Any, params: PyTree, *, num: int, method: Method, sketch: int, places: Places
) -> Estimate:
    with matmul_precision():
        if method == "xtrace":
            flat = Flat(objective, params)
            return _xtrace(key, flat.products(flat.start), flat.start, num)
        space = Vectors(params, places)
        product = space.map(products(objective, params))
        return _hutch_plus_plus(key, product, space, num, 0 if method == "hutchinson" else sketch)


def _hutch_plus_plus(
    key: Array, product: Callable[[Vector], Vector], space: Vectors, num: int, sketch: int
) -> Estimate:
    """The trace within the range of a sketch, and a sample of the trace outside it; signs are made when needed."""
    for_sketch, for_signs = jax.random.split(key)
    basis = _range(for_sketch, product, space, sketch)

    def within(i: Array) -> Array:
        return space.inner(row(basis, i), product(row(basis, i)))

    def outside(key: Array) -> Array:
        signs = space.signs(key)
        if sketch:
            signs = less(signs, combined(space.along(basis, signs), basis))
        return space.inner(signs, product(signs))

    inside = jnp.sum(jax.lax.map(within, jnp.arange(sketch))) if sketch else 0
    mean, sem = mean_and_sem(jax.lax.map(outside, jax.random.split(for_signs, num - 2 * sketch)))
    return Estimate(inside + mean, sem)


def _range(key: Array, product: Callable[[Vector], Vector], space: Vectors, num: int) -> Stack:
    """Orthonormal vectors that span the products with some signs: Gram-Schmidt, twice; those that are rounding are 0."""

    def add(i: Any, basis: Stack) -> Stack:
        image = product(space.signs(jax.random.fold_in(key, i)))
        image = over(image, _tree.power_of_two_near(image))
        whole, size = space.norm(image), jnp.zeros((), space.dtype)
        for _ in range(2):
            image = less(image, combined(space.along(basis, image), basis))
            size = space.norm(image)
        sound = size > 100 * space.eps * whole
        image = unit(image, size)
        image = less(image, combined(space.along(basis, image), basis))
        image = unit(image, space.norm(image))
        return put(basis, [jnp.where(sound | ~jnp.isfinite(size), x, 0) for x in image], i)

    return jax.lax.fori_loop(0, num, add, space.zeros(num))


def _xtrace(key: Array, product: Product, like: Array, num: int) -> Estimate:
    samples = stochtrace.sampler_sphere(like, num=num // 2)(key)
    # matfree compares ranks with absolute numbers, so it is given a matrix of size one
    size = _tree.norm(product(samples[0])) / _tree.norm(samples[0])
    size = jnp.where(size > 0, size, 1)
    # one product at a time: the memory is that of one batch
    scaled = sequential_vmap(lambda v: product(v) / size)
    mean, sem = mean_and_sem(stochtrace.leave_one_out_xtrace()(scaled, samples))
    return Estimate(size * mean, size * sem)


_METHODS = ("hutch++", "xtrace", "hutchinson")


@partial(jax.jit, static_argnames="num")
def _layers(key: Array, objective: Any, params: PyTree, *, num: int) -> Estimate:
    parts = jax.tree.map(mean_and_sem, _sign_samples(key, objective, params, num))
    return Estimate(*jax.tree.transpose(jax.tree.structure(params), jax.tree.structure(Estimate(0, 0)), parts))


def _sign_samples(key: Array, objective: Any, params: PyTree, num: int) -> PyTree:
    """For each sample and parameter array, signs times their part of the product, a tree of `(num,)`."""
    with matmul_precision():
        linear = products(objective, params)
        leaves, structure = jax.tree.flatten(jax.tree.map(_tree.at_least_single, params))

        def sample(key: Array) -> PyTree:
            keys = jax.random.split(key, len(leaves))
            signs = [jax.random.rademacher(k, p.shape, p.dtype) for k, p in zip(keys, leaves)]
            signs = jax.tree.unflatten(structure, signs)
            return jax.tree.map(
                lambda s, image: jnp.sum(_tree.at_least_single(s) * _tree.at_least_single(image)), signs, linear(signs)
            )

        return jax.lax.map(sample, jax.random.split(key, num))
