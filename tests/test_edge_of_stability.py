"""Sharpness along training: spectra that are prescribed, dense Hessians, plain loops, and the law of Cohen et al."""

from pathlib import Path

import edge_of_stability as edge
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _lab import Lab, UsageError
from scripts import run_script

import landscape as ls
from landscape import problems

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("edge")  # the tests share compiled programs
RNG = np.random.default_rng(8)
EIGENVALUES = np.array([6.5, 6.3, 3.0, 0.8, 0.1, -0.4, -2.0])
ROTATION, _ = np.linalg.qr(RNG.normal(size=(7, 7)))
MATRIX = ROTATION @ np.diag(EIGENVALUES) @ ROTATION.T


def test_largest_eigenpair_of_a_matrix(x64):
    start = jnp.asarray(RNG.normal(size=7))
    vector, value, residual = edge.largest_eigenpair(lambda v: jnp.asarray(MATRIX) @ v, start, 7)
    assert float(value) == pytest.approx(6.5, rel=1e-10)
    assert abs(vector @ ROTATION[:, 0]) == pytest.approx(1, abs=1e-7)
    assert float(residual) < 1e-6


@pytest.mark.parametrize("size", [2, 4])
def test_a_ritz_pair_is_honest(size, x64):
    start = jnp.asarray(RNG.normal(size=7))
    vector, value, residual = edge.largest_eigenpair(lambda v: jnp.asarray(MATRIX) @ v, start, size)
    # Krylov space by QR in NumPy
    krylov = np.linalg.qr(np.stack([np.linalg.matrix_power(MATRIX, k) @ start for k in range(size)], axis=1))[0]
    expected = np.linalg.eigvalsh(krylov.T @ MATRIX @ krylov)[-1]
    assert float(value) == pytest.approx(expected, rel=1e-9)
    assert float(residual) == pytest.approx(np.linalg.norm(MATRIX @ vector - value * vector), rel=1e-9)
    assert np.min(np.abs(EIGENVALUES - float(value))) <= float(residual)


def tanh_loss(params, batch):
    return (jnp.tanh(batch["x"] @ params["w"] + params["b"]) @ params["v"] - batch["y"]) ** 2


X = RNG.normal(size=(12, 3)).astype(np.float32)
DATA = {"x": X, "y": np.sin(2 * X[:, 0]).astype(np.float32)}
PARAMS = {"w": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4), "v": RNG.normal(size=4)}
PARAMS = {name: value.astype(np.float32) for name, value in PARAMS.items()}


@pytest.mark.parametrize("optimizer", [optax.sgd(0.05, momentum=0.7), optax.adam(0.02)], ids=["heavy_ball", "adam"])
def test_sharpness_along_a_run_against_a_plain_loop_and_dense_hessians(optimizer):
    objective = ls.Objective(tanh_loss, DATA)
    found = edge.sharpness_along(objective, optimizer, PARAMS, 12, 4, num_products=8)

    def loss(params):
        return jnp.mean(tanh_loss(params, DATA))

    def flat_loss(flat):
        return loss({"b": flat[:4], "v": flat[4:8], "w": flat[8:].reshape(3, 4)})

    params, memory, expected = PARAMS, optimizer.init(PARAMS), []
    gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(flat_loss))
    for step in range(13):
        if step % 4 == 0:
            flat = jnp.concatenate([params["b"], params["v"], params["w"].ravel()])
            expected.append((step, float(loss(params)), np.linalg.eigvalsh(hessian(flat))[-1]))
        updates, memory = optimizer.update(gradient(params), memory, params)
        params = optax.apply_updates(params, updates)
    steps, losses, sharpness = np.array(expected).T
    np.testing.assert_array_equal(found.step, steps)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-4)
    np.testing.assert_allclose(found.sharpness, sharpness, rtol=1e-3)
    assert np.all(np.abs(found.sharpness - sharpness) <= np.asarray(found.residual) + 1e-5 * sharpness)


def test_descent_stays_at_its_edge():
    config = edge.Config(rates=(0.2,), heavy_ball_rates=(0.1,), steps=1800, every=30, seeds=1)
    result = edge.run(config, Lab(options={"progress": False, "batch": 1}))
    assert list(result) == ["descent_0.2", "heavy_ball_0.1"]
    assert [r.meta["edge"]["edge"] for r in result.values()] == pytest.approx([10, 30])
    for landscape in result.values():
        assert landscape["sharpness"].shape == (1, 61)
        assert edge.BAND[0] <= edge.late_ratio(landscape)[0] <= edge.BAND[1]
        assert np.max(landscape["residual"] / landscape["sharpness"]) < 1e-2


def test_a_users_own_problem_is_measured():
    init = lambda key: {k: jax.random.normal(key, v.shape) for k, v in PARAMS.items()}  # noqa: E731
    mine = ls.Problem(init, {"train": ls.Objective(tanh_loss, DATA)}, name="mine")
    config = edge.Config(rates=(0.1,), heavy_ball_rates=(), steps=30, every=10, seeds=2)
    (landscape,) = edge.run(config, Lab(problem=mine, options={"progress": False, "batch": 1})).values()
    assert landscape.meta["edge"]["model"] == "mine"
    assert landscape["loss"].shape == (2, 4)
    assert landscape["loss"][0, 0] != landscape["loss"][1, 0]
    assert len(edge.findings({"mine": landscape})) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 100}, "--steps must be at least 3 times --every, got 100 and 50"),
        ({"products": 1}, "needs --products >= 2 and --seeds >= 1"),
        ({"momentum": 1.0}, r"learning rates must be positive, and --momentum lie in \[0, 1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        edge.run(edge.Config(**changes), Lab())


def test_script(tmp_path):
    done = run_script("edge_of_stability", "--smoke", "--out", tmp_path, "--batch", 1)
    assert done.returncode == 0, done.stderr
    assert "gradient descent, η = 0.2: sharpness / (2/η)" in done.stdout
    assert {"edge.png", "edge.pdf", "descent_0.2.zarr"} <= {p.name for p in tmp_path.iterdir()}
    again = run_script("edge_of_stability", "--smoke", "--out", tmp_path, "--no-figures")
    assert again.stdout == done.stdout


@pytest.mark.slow
def test_the_law_at_three_seeds():
    for landscape in edge.run(edge.Config(), Lab(options={"progress": False})).values():
        ratio = edge.late_ratio(landscape)
        assert len(ratio) == 3
        assert np.all((ratio >= edge.BAND[0]) & (ratio <= edge.BAND[1])), landscape.meta["edge"]["title"]


def test_the_problem_is_that_of_cohen():
    problem = problems.chebyshev_regression(edge.Config().degree)
    assert problem.objectives["train"].num_examples == 20
    assert sum(w.size for w in jax.tree.leaves(problem.init(jax.random.key(1)))) == 2 * 50 + 50 * 50 + 2 * 50 + 1
