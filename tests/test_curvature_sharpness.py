"""Sharpness: closed forms, what rescaling does to it by algebra, along a training run, and as an output on a map."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape import Objective, curvature

KEY = jax.random.key(5)


def bowl(matrix):
    return Objective(lambda p, m: 0.5 * p @ (m[0] @ p), jnp.asarray(matrix)[None])


def symmetric(n=6, seed=1):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T


def relu_net(dtype=np.float64):
    """A bias-free ReLU network and its data: scaling the layers by a and 1/a leaves the function as it is."""
    rng = np.random.default_rng(3)
    data = jnp.asarray(rng.normal(size=(30, 4)), dtype), jnp.asarray(rng.normal(size=30), dtype)
    params = {"in": jnp.asarray(rng.normal(size=(4, 7)), dtype), "out": jnp.asarray(rng.normal(size=7), dtype)}
    return Objective(relu_loss, data), params


def relu_loss(params, batch):
    x, y = batch
    return (jax.nn.relu(x @ params["in"]) @ params["out"] - y) ** 2


def rescaled(params, a):
    return {"in": a * params["in"], "out": params["out"] / a}


@pytest.mark.usefixtures("x64")
def test_ascent_on_a_bowl_is_the_step_of_the_papers():
    matrix, p, rho = symmetric(), np.random.default_rng(2).normal(size=6), 0.3
    g = matrix @ p
    steps = {False: rho * g / np.linalg.norm(g), True: rho * p**2 * g / np.linalg.norm(p * g)}
    for adaptive, step in steps.items():
        found = curvature.ascent_sharpness(bowl(matrix), jnp.asarray(p), rho, adaptive=adaptive)
        assert float(found) == pytest.approx(g @ step + step @ matrix @ step / 2, rel=1e-12)


@pytest.mark.usefixtures("x64")
def test_to_first_order_ascent_is_the_radius_times_the_dual_norm_of_the_gradient():
    objective, params = relu_net()
    gradient = jax.grad(objective)(params)
    plain = optax.tree.norm(gradient)
    relative = optax.tree.norm(jax.tree.map(jnp.multiply, params, gradient))
    rho = 1e-6
    assert float(curvature.ascent_sharpness(objective, params, rho)) == pytest.approx(rho * float(plain), rel=1e-4)
    found = curvature.ascent_sharpness(objective, params, rho, adaptive=True)
    assert float(found) == pytest.approx(rho * float(relative), rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_sharpness_is_the_largest_eigenvalue_even_below_a_larger_magnitude():
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(42, 42)))
    matrix = basis * np.r_[-9.0, np.linspace(-2, 4.25, 41)] @ basis.T
    value, residual = curvature.sharpness(KEY, bowl(matrix), jnp.zeros(42))
    assert float(value) == pytest.approx(4.25, abs=1e-12)
    assert float(residual) < 2e-7


@pytest.mark.usefixtures("x64")
def test_rescaling_changes_sharpness_as_the_algebra_says_and_leaves_the_adaptive_ones():
    objective, params = relu_net()
    a = 3.0
    moved = rescaled(params, a)
    assert float(objective(moved)) == pytest.approx(float(objective(params)), rel=1e-12)
    # with D the change of variables, the Hessian is D^-1 H D^-1: blocks 1/a^2, 1 and a^2
    dense = np.asarray(curvature.hessian(objective, params))
    scale = np.r_[np.full(28, 1 / a), np.full(7, a)]
    expected = np.linalg.eigvalsh(scale[:, None] * dense * scale)[-1]
    assert float(curvature.sharpness(KEY, objective, moved).value) == pytest.approx(expected, rel=1e-10)
    assert expected > 2 * np.linalg.eigvalsh(dense)[-1]
    adaptive = [curvature.sharpness(KEY, objective, p, adaptive=True) for p in (params, moved)]
    assert float(adaptive[0].value) == pytest.approx(float(adaptive[1].value), rel=1e-10)
    size = np.abs(np.r_[np.ravel(params["in"]), params["out"]])
    assert float(adaptive[0].value) == pytest.approx(np.linalg.eigvalsh(size[:, None] * dense * size)[-1], rel=1e-10)
    ascent = [
        [float(curvature.ascent_sharpness(objective, p, adaptive=b)) for p in (params, moved)] for b in (False, True)
    ]
    assert ascent[1][0] == pytest.approx(ascent[1][1], rel=1e-10)
    assert ascent[0][0] != pytest.approx(ascent[0][1], rel=0.1)


@pytest.mark.usefixtures("x64")
def test_sharpness_as_large_as_one_likes_by_rescaling():
    objective, params = relu_net()
    a = 100.0
    value = float(curvature.sharpness(KEY, objective, rescaled(params, a)).value)
    block = np.asarray(curvature.hessian(objective, params))[28:, 28:]
    assert value == pytest.approx(a**2 * np.linalg.eigvalsh(block)[-1], rel=1e-3)  # Dinh et al. 2017, theorem 4


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_along_a_training_run():
    objective, params = relu_net()
    run = ls.train(objective, optax.sgd(0.01), params, num_steps=12, record_every=4, snapshots=True)
    along = jax.jit(lambda stack: jax.lax.map(lambda p: curvature.sharpness(KEY, objective, p), stack))
    value, residual = along(run.snapshots)
    hessians = jax.vmap(lambda p: curvature.hessian(objective, p))(run.snapshots)
    np.testing.assert_allclose(value, np.linalg.eigvalsh(hessians)[:, -1], rtol=1e-10)
    assert value.shape == residual.shape == (len(hessians),)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_as_outputs_on_a_map():
    objective, params = relu_net()
    directions = jax.tree.map(lambda p: jnp.stack([jnp.ones_like(p), jnp.sin(p)]), params)

    def sharpness(p):
        return curvature.sharpness(KEY, objective, p).value

    def ascent(p):
        return curvature.ascent_sharpness(objective, p, adaptive=True)

    surface = ls.LossSurface(ls.Subspace(params, directions), objective, outputs=(sharpness, ascent))
    grid = ls.Grid((ls.Axis.linspace("a", -0.2, 0.3, 3), ls.Axis.linspace("b", -0.1, 0.1, 2)))
    found = ls.sweep(surface, grid, batch=4, progress=False)
    points = [surface.at(jnp.asarray(c)) for c in grid.points()]
    exact = [np.linalg.eigvalsh(curvature.hessian(objective, p))[-1] for p in points]
    np.testing.assert_allclose(found["sharpness"].ravel(), exact, rtol=1e-9)
    np.testing.assert_allclose(found["ascent"].ravel(), [ascent(p) for p in points], rtol=1e-9)


def test_where_the_loss_is_not_finite_ascent_is_nan_and_at_a_minimum_zero():
    broken = Objective(lambda p, _: jnp.sum(jnp.sqrt(p)))
    assert np.isnan(curvature.ascent_sharpness(broken, jnp.array([-1.0, 2.0, 3.0])))
    assert float(curvature.ascent_sharpness(bowl(symmetric().astype(np.float32)), jnp.zeros(6))) == 0


def test_half_precision():
    matrix = np.diag([1.5, 4.0])
    found = curvature.ascent_sharpness(bowl(matrix.astype(np.float32)), jnp.ones(2, jnp.bfloat16), 0.5)
    assert found.dtype == jnp.float32
    g = np.array([1.5, 4.0])
    step = 0.5 * g / np.linalg.norm(g)
    assert float(found) == pytest.approx(g @ step + step @ matrix @ step / 2, rel=0.02)


def test_errors():
    objective, params = relu_net(np.float32)
    with pytest.raises(TypeError, match="objective must be a landscape.Objective, got EmpiricalFisher"):
        curvature.ascent_sharpness(curvature.EmpiricalFisher(objective), params)
    with pytest.raises(TypeError, match="objective must be a landscape.Objective, got str"):
        curvature.sharpness(KEY, "loss", params)
    for rho in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"rho must be positive and finite, got {rho}"):
            curvature.ascent_sharpness(objective, params, rho)
    with pytest.raises(TypeError, match="rho must be a number, got 'far'"):
        curvature.ascent_sharpness(objective, params, "far")
    with pytest.raises(ValueError, match="tol must be positive"):
        curvature.sharpness(KEY, objective, params, tol=-2.0)
