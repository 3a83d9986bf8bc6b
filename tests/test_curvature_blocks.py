"""Blocks of a Hessian by names of parameters, against dense blocks, and memory, by what the compiler says."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls
from landscape import curvature

KEY = jax.random.key(5)


def problem(width=3, depth=3, examples=11, dtype=np.float64):
    rng = np.random.default_rng(4)
    params = {f"layer{i}": jnp.asarray(rng.normal(size=(width, width)) / width**0.5, dtype) for i in range(depth)}
    data = jnp.asarray(rng.normal(size=(examples, width)), dtype)
    return ls.Objective(lambda p, x: output_loss(predict(p, x), x), data), params


def predict(params, x):
    for name in sorted(params):
        x = jnp.tanh(x @ params[name])
    return x


def output_loss(z, x):
    return jnp.sum((z - 0.5) ** 3 + z**2, axis=-1)


def block(objective, params, names=("layer1", "layer2")):
    """Of the Hessian by jax.hessian, tree by tree, in NumPy."""
    whole = jax.jit(jax.hessian(lambda p: objective(p)))(params)
    rows = [[np.asarray(whole[a][b]).reshape(params[a].size, -1) for b in names] for a in names]
    return np.block(rows)


@pytest.fixture(scope="module")
def small():
    with jax.enable_x64(True):
        objective, params = problem()
        return objective, params, block(objective, params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "where",
    [
        "layer[12]",
        ["layer1", re.compile("2$")],
        {"layer0": False, "layer1": True, "layer2": True},
        lambda name, leaf: name != "layer0",
    ],
    ids=["pattern", "list", "mask", "function"],
)
def test_the_hessian_of_some_names_is_the_block_of_the_dense_one(small, where):
    objective, params, expected = small
    np.testing.assert_allclose(curvature.hessian(objective, params, where=where), expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_eigenpairs_trace_and_density_of_a_block(small):
    objective, params, expected = small
    values, vectors = np.linalg.eigh(expected)
    found = curvature.eigenpairs(KEY, objective, params, 1, where="layer[12]")
    np.testing.assert_allclose(found.values, values[-1:], atol=1e-12)
    assert found.vectors["layer0"] is None
    vector = np.concatenate([np.ravel(found.vectors[name]) for name in ("layer1", "layer2")])
    assert abs(vector @ vectors[:, -1]) == pytest.approx(1, abs=1e-10)
    mean, sem = curvature.trace(KEY, objective, params, where="layer[12]")  # 18 parameters: exactly
    assert float(mean) == pytest.approx(values.sum(), abs=1e-12)
    assert float(sem) == 0
    mean, sem = curvature.spectral_density(KEY, objective, params, where="layer[12]", num_steps=6).average(jnp.sin)
    assert abs(float(mean) - np.mean(np.sin(values))) < 4 * float(sem)


@pytest.mark.usefixtures("x64")
def test_other_matrices_and_frozen_parameters_have_blocks_too(small):
    objective, params, expected = small
    operator = curvature.GaussNewton(predict, output_loss, objective.data)
    whole = np.asarray(curvature.hessian(operator, params))
    found = curvature.hessian(operator, params, where="layer[12]")
    np.testing.assert_allclose(found, whole[9:, 9:], atol=1e-13)  # leaves are in the order of their names
    parts = ls.subspace.split(params, "layer[01]")
    partly = ls.Objective(objective.loss_fn, objective.data, frozen=parts.frozen)
    found = curvature.hessian(partly, parts.moving, where="layer1")
    np.testing.assert_allclose(found, expected[:9, :9], atol=1e-12)
    product = curvature.hvp(objective, params, params, where="layer[12]")
    vector = np.concatenate([np.ravel(params[name]) for name in ("layer1", "layer2")])
    image = np.concatenate([np.ravel(product[name]) for name in ("layer1", "layer2")])
    np.testing.assert_allclose(image, expected @ vector, atol=1e-12)


def test_names_that_are_not_there_and_bounds_that_are_too_small_are_refused():
    objective, params = problem(dtype=np.float32)
    for ask in (
        lambda where: curvature.eigenpairs(KEY, objective, params, 1, where=where),
        lambda where: curvature.trace(KEY, objective, params, where=where),
        lambda where: curvature.layer_traces(KEY, objective, params, where=where),
        lambda where: curvature.spectral_density(KEY, objective, params, where=where),
        lambda where: curvature.sharpness(KEY, objective, params, where=where),
    ):
        with pytest.raises(ValueError, match=r"where= 'head.\*' matches no parameter; they are called layer0, layer1"):
            ask("head.*")
    with pytest.raises(TypeError, match="where must be a pattern such as"):
        curvature.eigenpairs(KEY, objective, params, 1, where=3)
    with pytest.raises(ValueError, match="max_vectors must be at least 7 for k=3: 3 to keep .* got 6"):
        curvature.eigenpairs(KEY, objective, params, 3, max_vectors=6)
    with pytest.raises(TypeError, match="max_vectors must be an integer, got float"):
        curvature.eigenpairs(KEY, objective, params, 3, max_vectors=12.5)
    with pytest.raises(ValueError, match="max_products must be at least 2k=6 with max_vectors"):
        curvature.eigenpairs(KEY, objective, params, 3, max_vectors=12, max_products=5)
    with pytest.raises(ValueError, match="max_vectors bounds what 'hutch..' holds, and method is 'xtrace'"):
        curvature.trace(KEY, objective, params, method="xtrace", max_vectors=2)


@pytest.mark.usefixtures("x64")
def test_few_vectors_find_the_same_pairs_with_more_products():
    spectrum = np.r_[9.0, 7, 7, 4, np.linspace(-2, 2, 76)]
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(80, 80)))
    matrix = jnp.asarray(basis @ np.diag(spectrum) @ basis.T)
    objective = ls.Objective(lambda p, m: 0.5 * p @ (m[0] @ p), matrix[None])
    found = curvature.eigenpairs(KEY, objective, jnp.ones(80), 3, max_vectors=10)
    assert bool(found.converged)
    np.testing.assert_allclose(found.values, [9, 7, 7], atol=1e-12)
    vectors = np.asarray(found.vectors)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-12)
    left = np.linalg.norm(vectors @ np.asarray(matrix) - np.asarray(found.values)[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residuals, left, atol=1e-12)
    spent = curvature.eigenpairs(KEY, objective, jnp.ones(80), 3, max_vectors=10, max_products=14)
    assert not bool(spent.converged)
    assert int(spent.num_products) <= 15
    off = np.abs(np.asarray(spent.values)[:, None] - spectrum).min(axis=1)
    assert np.all(off <= np.asarray(spent.residuals) + 1e-12)


@pytest.mark.usefixtures("x64")
def test_ghosts_do_not_bias_a_density():
    """Averages without the basis, against those with it, long after ghosts have come."""
    spectrum = np.r_[40.0, -9.0, np.linspace(0.1, 3, 58)]
    objective = ls.Objective(lambda p, s: 0.5 * jnp.sum(s[0] * p**2), jnp.asarray(spectrum, jnp.float32)[None])
    at = jnp.ones(60, jnp.float32)
    options = {"num_probes": 3, "num_steps": 50}
    plain, whole, usual = (
        curvature.spectral_density(KEY, objective, at, reorthogonalize=keep, **options) for keep in (False, True, None)
    )
    np.testing.assert_array_equal(usual.nodes, whole.nodes)  # of a basis as small as this
    assert np.sum(np.abs(plain.nodes - 40) < 1e-2) > 3 == np.sum(np.abs(whole.nodes - 40) < 1e-2)
    for fn in (jnp.sin, jnp.abs, lambda t: t**2):
        one, other = (np.sum(x.weights * fn(x.nodes), axis=1) for x in (plain, whole))
        np.testing.assert_allclose(one, other, rtol=2e-3)


MOST = {
    "eigenpairs": (15, lambda o, p: curvature.eigenpairs(KEY, o, p, 2, max_vectors=8)),
    "density": (6.5, lambda o, p: curvature.spectral_density(KEY, o, p, num_steps=60, reorthogonalize=False)),
    "trace": (7, lambda o, p: curvature.trace(KEY, o, p, method="hutchinson")),
}


@pytest.mark.parametrize("name", MOST)
def test_memory_in_multiples_of_the_parameters(name):
    objective, params = problem(width=256, depth=8, examples=4, dtype=np.float32)
    most, ask = MOST[name]
    held = jax.jit(ask).lower(objective, params).compile().memory_analysis()
    parts = held.argument_size_in_bytes, held.output_size_in_bytes, held.temp_size_in_bytes
    assert sum(parts) < most * 8 * 256**2 * 4
