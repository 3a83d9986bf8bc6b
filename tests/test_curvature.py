"""Oracles for curvature: closed-form Hessians, prescribed spectra, NumPy's dense eigenvalues, honesty of residuals."""

from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from landscape import Objective, curvature
from landscape.curvature import _eigenpairs
from landscape.problems import digits_mlp

KEY = jax.random.key(5)


def quadratic(spectrum, dtype=np.float64, seed=0):
    """Half of x' A x for a symmetric A with these eigenvalues in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    matrix = jnp.asarray(basis @ np.diag(spectrum) @ basis.T, dtype)
    return Objective(quadratic_loss, matrix[None])


def quadratic_loss(x, matrix):
    return 0.5 * x @ (matrix[0] @ x)


def softmax_regression(n=23, d=4, classes=3, dtype=np.float64, batch_size=None):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(n, d)).astype(dtype), rng.integers(0, classes, n)
    w = jnp.asarray(0.7 * rng.normal(size=(d, classes)), dtype)
    return Objective(softmax_loss, (jnp.asarray(x), jnp.asarray(y)), batch_size=batch_size), {"w": w}


def softmax_loss(p, batch):
    x, y = batch
    return -jax.nn.log_softmax(x @ p["w"])[jnp.arange(len(y)), y]


def softmax_hessian(objective, params):
    """Mean over examples of x x' kron (diag p - p p'), for the weights ravelled as (d, classes)."""
    x, w = np.asarray(objective.data[0], np.float64), np.asarray(params["w"], np.float64)
    logits = x @ w
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.mean([np.kron(np.outer(a, a), np.diag(q) - np.outer(q, q)) for a, q in zip(x, p)], axis=0)


def net(dtype=np.float64, batch_size=None):
    """A tanh net with 1,250 parameters."""
    rng = np.random.default_rng(4)
    sizes = (20, 40, 10)
    params = [
        {
            "kernel": jnp.asarray(rng.normal(size=shape) / 5, dtype),
            "bias": jnp.asarray(rng.normal(size=shape[1]), dtype),
        }
        for shape in pairwise(sizes)
    ]
    data = jnp.asarray(rng.normal(size=(50, 20)), dtype), jnp.asarray(rng.integers(0, 10, 50))
    return Objective(net_loss, data, batch_size=batch_size), params


def net_loss(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params[0]["kernel"] + params[0]["bias"])
    return softmax_loss({"w": params[1]["kernel"]}, (hidden, y)) + 0.5 * jnp.sum(params[1]["bias"] ** 2)


@cache
def dense_eigenvalues():
    """Of the net, from the Hessian by jax.hessian in one batch."""
    objective, params = net()
    x, unravel = ravel_pytree(params)
    return np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(lambda x: objective(unravel(x))))(x)))


def wanted(spectrum, which, k):
    order = {"LA": -spectrum, "SA": spectrum, "LM": -np.abs(spectrum)}[which]
    return spectrum[np.argsort(order, kind="stable")][:k]


# ------------------------------------------------------------------------------------ products and dense Hessians


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [7, pytest.param(None, marks=pytest.mark.slow)])
def test_hessian_and_products_of_softmax_regression_have_their_closed_form(batch_size):
    objective, params = softmax_regression(batch_size=batch_size)
    expected = softmax_hessian(objective, params)
    np.testing.assert_allclose(curvature.hessian(objective, params), expected, atol=1e-14)
    v = {"w": jnp.asarray(np.random.default_rng(9).normal(size=(4, 3)))}
    product = curvature.hvp(objective, params, v)["w"]
    np.testing.assert_allclose(np.ravel(product), expected @ np.ravel(v["w"]), atol=1e-14)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_products_of_a_net_are_differences_of_its_gradient():
    objective, params = net(batch_size=16)
    x, unravel = ravel_pytree(params)
    v = jnp.asarray(np.random.default_rng(3).normal(size=x.shape))
    gradient = jax.jit(lambda x: ravel_pytree(jax.grad(objective)(unravel(x)))[0])
    h = 1e-5
    expected = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
    product, _ = ravel_pytree(jax.jit(curvature.hvp)(objective, params, unravel(v)))
    np.testing.assert_allclose(product, expected, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_dense_hessian_in_columns_is_jax_hessian_and_symmetric_to_the_bit():
    objective, params = net()
    x, unravel = ravel_pytree(params)
    matrix = curvature.hessian(objective, params)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix, jax.jit(jax.hessian(lambda x: objective(unravel(x))))(x), atol=1e-13)


def test_products_are_taken_at_the_highest_precision():
    objective, params = softmax_regression(dtype=np.float32)
    lowered = jax.jit(curvature.hvp).lower(objective, params, params).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert products
    assert all("[HIGHEST, HIGHEST]" in line for line in products)


def test_a_product_takes_the_memory_of_one_batch():
    def temporaries(batch_size):
        objective = Objective(net_loss, (jnp.ones((4096, 20)), jnp.zeros(4096, int)), batch_size=batch_size)
        _, params = net(np.float32)
        program = jax.jit(curvature.hvp).lower(objective, params, params).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(64) < temporaries(None) / 8


# ------------------------------------------------------------------------------------------------------ eigenpairs

SPECTRA = {
    "spread": np.linspace(-3.0, 11.0, 100) ** 3 / 50,
    "threefold": np.r_[5.0, 5, 5, 4.999, 3 * np.ones(4), np.linspace(-1.5, 1.3, 92)],
    "clustered": np.r_[7 + 1e-6 * np.arange(5), np.linspace(-6, 2, 95)],
    "all equal": 2.5 * np.ones(100),
    "far from zero": np.r_[-4.0, -4.1, 40 + np.linspace(0, 1, 98)],
    "low rank": np.r_[9.0, 4, 4, -3, np.zeros(96)],
    "zero": np.zeros(100),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "which", ["LA", pytest.param("SA", marks=pytest.mark.slow), pytest.param("LM", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", SPECTRA)
def test_prescribed_spectra_with_their_multiplicities(name, which):
    spectrum = SPECTRA[name]
    k, scale = 6, np.abs(spectrum).max()
    found = curvature.eigenpairs(KEY, quadratic(spectrum), jnp.ones(100), k, which)
    expected = wanted(spectrum, which, k)
    assert bool(found.converged)
    size = np.abs if which == "LM" else np.asarray  # +v and -v are equally wanted
    np.testing.assert_allclose(size(found.values), size(expected), atol=1e-11 * max(scale, 1))
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(k), atol=1e-12)
    assert np.all(found.residuals <= 2e-8 * scale)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_whole_spectrum_of_a_matrix_of_two():
    found = curvature.eigenpairs(KEY, quadratic(np.array([3.0, -2.0])), jnp.ones(2), 2)
    np.testing.assert_allclose(found.values, [3, -2], atol=1e-14)


@pytest.mark.parametrize("name", ["threefold", "clustered", "low rank"])
def test_single_precision_meets_its_own_tolerance(name):
    spectrum = SPECTRA[name]
    found = curvature.eigenpairs(KEY, quadratic(spectrum, np.float32), jnp.ones(100), 6)
    assert found.values.dtype == jnp.float32
    assert bool(found.converged)
    np.testing.assert_allclose(found.values, wanted(spectrum, "LA", 6), atol=1e-4)
    assert np.all(found.residuals <= 2 * 3.5e-4 * np.abs(spectrum).max())


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("which", ["LA", "LM"])
def test_a_small_net_against_dense_eigenvalues(which):
    objective, params = net(batch_size=20)
    dense = dense_eigenvalues()
    found = curvature.eigenpairs(KEY, objective, params, 8, which, tol=1e-7)
    np.testing.assert_allclose(found.values, wanted(dense, which, 8), atol=1e-9 * np.abs(dense).max())
    assert jax.tree.map(jnp.shape, found.vectors) == jax.tree.map(lambda p: (8, *p.shape), params)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_softmax_regression_has_the_null_directions_of_its_classes():
    objective, params = softmax_regression(n=60, d=7)
    expected = np.linalg.eigvalsh(softmax_hessian(objective, params))
    low = curvature.eigenpairs(KEY, objective, params, 9, "SA")
    np.testing.assert_allclose(low.values, expected[:9], atol=1e-10)
    assert np.all(np.abs(low.values[:7]) < 1e-12)  # adding one vector to all classes changes nothing: d zeros


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("budget", [17, 36])
def test_a_spent_budget_is_said_and_residuals_still_bound(budget):
    spectrum = np.linspace(0.5, 40, 100)
    found = curvature.eigenpairs(KEY, quadratic(spectrum), jnp.ones(100), 6, tol=1e-12, max_products=budget)
    assert not bool(found.converged)
    assert int(found.num_products) <= budget + 1
    distance = np.abs(np.asarray(found.values)[:, None] - spectrum).min(axis=1)
    assert np.all(distance <= np.asarray(found.residuals) * (1 + 1e-9) + 1e-12)
    assert np.max(found.residuals) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_program_for_many_points():
    well = Objective(lambda p, _: jnp.sum(jnp.array([2.0, 3.0, 5.0]) * p**4) / 12)
    points = jnp.asarray(np.random.default_rng(6).uniform(0.5, 2, size=(4, 3)))
    many = jax.jit(jax.vmap(lambda p: curvature.eigenpairs(KEY, well, p, 2)))(points)
    expected = np.sort(np.array([2.0, 3.0, 5.0]) * np.asarray(points) ** 2, axis=1)[:, ::-1][:, :2]
    np.testing.assert_allclose(many.values, expected, rtol=1e-12)


@pytest.mark.slow
def test_half_precision_parameters_give_single_precision_results():
    bowl = Objective(lambda p, _: jnp.sum(jnp.array([1.5, 4.0], jnp.bfloat16) * p**2))
    found = curvature.eigenpairs(KEY, bowl, jnp.ones(2, jnp.bfloat16), 1)
    assert found.values.dtype == jnp.float32
    assert float(found.values[0]) == pytest.approx(8.0, rel=0.02)


def test_a_hessian_that_is_not_finite_gives_nan_and_no_error():
    broken = quadratic(np.r_[np.nan, np.ones(99)], np.float32)
    found = curvature.eigenpairs(KEY, broken, jnp.ones(100), 6)
    assert np.all(np.isnan(found.values))
    assert np.all(np.isnan(found.residuals))
    assert not bool(found.converged)
    assert int(found.num_products) == 2  # there is nothing to go on for


def test_another_start_finds_the_same_pairs_without_compiling_again():
    spectrum = SPECTRA["spread"]
    pairs = [curvature.eigenpairs(jax.random.key(i), quadratic(spectrum, np.float32), jnp.ones(100), 6) for i in (1, 2)]
    np.testing.assert_allclose(pairs[0].values, pairs[1].values, rtol=1e-5)
    size = _eigenpairs._eigenpairs._cache_size()
    curvature.eigenpairs(KEY, quadratic(2 * spectrum, np.float32), jnp.zeros(100), 6, tol=1e-3, max_products=77)
    assert _eigenpairs._eigenpairs._cache_size() == size


def test_distinct_eigenvalues_need_no_second_search():
    spectrum = np.r_[40.0, 31, 25, 19, 14, 10, np.linspace(-1, 1, 94)]
    found = curvature.eigenpairs(KEY, quadratic(spectrum, np.float32), jnp.ones(100), 6)
    assert bool(found.converged)
    assert int(found.num_products) < 30
    doubled = np.r_[40.0, 40, 40, 19, 14, 10, np.linspace(-1, 1, 94)]  # two are met, so a third may be hidden
    found = curvature.eigenpairs(KEY, quadratic(doubled, np.float32), jnp.ones(100), 6)
    assert bool(found.converged)
    assert int(found.num_products) > _eigenpairs.DEPTH
    np.testing.assert_allclose(found.values, doubled[:6], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 300])
def test_the_digits_network_in_single_precision_against_a_reference_in_double(steps):
    from benchmarks import curvature as benchmark

    problem = digits_mlp()
    objective, params = problem.objectives["train"], problem.init(jax.random.key(0))
    case = benchmark.Case("digits", objective, benchmark.trained(objective, params, steps) if steps else params)
    expected = benchmark.reference(case)
    found = curvature.eigenpairs(KEY, objective, case.params, 5)
    assert bool(found.converged)
    off = np.abs(np.asarray(found.values, np.float64) - expected)
    assert np.all(off <= 1e-4 * expected)
    assert np.all(off <= found.residuals + 8 * np.finfo(np.float32).eps * expected[0])
    assert int(found.num_products) <= 40


def test_programs_lower_for_an_accelerator():
    objective, params = net(np.float32, batch_size=16)
    search = jax.jit(partial(curvature.eigenpairs, KEY, k=5))
    assert "stablehlo" in search.trace(objective, params).lower(lowering_platforms=("cuda",)).as_text()


# ----------------------------------------------------------------------------------------------------------- errors


def test_errors():
    objective, params = softmax_regression(dtype=np.float32)
    with pytest.raises(TypeError, match="must be a landscape.Objective, got function"):
        curvature.hvp(lambda p: p, params, params)
    with pytest.raises(TypeError, match=r"params.w must be a real floating-point array, got int32\[2\]"):
        curvature.hessian(objective, {"w": jnp.zeros(2, jnp.int32)})
    with pytest.raises(ValueError, match=r"vector.w must have shape \(4, 3\)"):
        curvature.hvp(objective, params, {"w": jnp.zeros((3, 4))})
    with pytest.raises(ValueError, match="up to 4096 parameters are taken: use eigenpairs"):
        curvature.hessian(objective, {"w": jnp.zeros(5000)})
    with pytest.raises(ValueError, match="k must be from 1 to the number of parameters, 12, got 13"):
        curvature.eigenpairs(KEY, objective, params, 13)
    with pytest.raises(TypeError, match=r"k must be an integer, got float 3\.0"):
        curvature.eigenpairs(KEY, objective, params, 3.0)
    with pytest.raises(ValueError, match=r"which must be one of \['LA', 'SA', 'LM'\], got 'SM'"):
        curvature.eigenpairs(KEY, objective, params, 2, "SM")
    with pytest.raises(ValueError, match="tol must be positive"):
        curvature.eigenpairs(KEY, objective, params, 2, tol=-1.0)
    for tol in (np.inf, np.nan):
        with pytest.raises(ValueError, match=f"tol must be positive and finite, relative to .*, got {tol}"):
            curvature.eigenpairs(KEY, objective, params, 2, tol=tol)
    with pytest.raises(TypeError, match="tol must be a number, got True"):
        curvature.eigenpairs(KEY, objective, params, 2, tol=True)
    with pytest.raises(ValueError, match="max_products must be at least k=3"):
        curvature.eigenpairs(KEY, objective, params, 3, max_products=2)
    with pytest.raises(TypeError, match=r"max_products must be an integer, got float 2\.5"):
        curvature.eigenpairs(KEY, objective, params, 1, max_products=2.5)
    with pytest.raises(TypeError, match="vector must be an array|vector.* must be an array, got function"):
        curvature.hvp(objective, params, lambda p: p)
