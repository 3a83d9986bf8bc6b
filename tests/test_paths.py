"""Curves between parameters: closed forms, exact ends, trained curves below the line; instability analysis."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.interpolate import BPoly

from landscape import Grid, LossSurface, Objective, paths, sweep
from landscape.analysis import barrier
from landscape.problems import digits_mlp


def tree(seed, lead=(), dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.normal(size=(*lead, 3, 2)).astype(dtype),
        "bias": 40 + rng.normal(size=(*lead, 2)).astype(dtype),
    }


T = np.array([0.0, 0.13, 0.5, 0.77, 1.0])


@pytest.mark.parametrize("num_nodes", [2, 3, 6])
def test_a_bezier_curve_is_that_of_scipy(num_nodes):
    nodes = tree(1, (num_nodes,))
    ours = jax.vmap(paths.Bezier(nodes))(jnp.asarray(T, jnp.float32)[:, None])
    for name, leaf in nodes.items():
        np.testing.assert_allclose(ours[name], BPoly(leaf[:, None], [0, 1])(T), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_nodes", [2, 5])
def test_a_chain_is_linear_between_its_corners(num_nodes):
    nodes = tree(2, (num_nodes,))
    ours = jax.vmap(paths.Chain(nodes))(jnp.asarray(T, jnp.float32))
    for name, leaf in nodes.items():
        columns = leaf.reshape(num_nodes, -1).T
        expected = np.stack([np.interp(T, np.linspace(0, 1, num_nodes), column) for column in columns], axis=1)
        np.testing.assert_allclose(ours[name].reshape(len(T), -1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [paths.Bezier, paths.Chain])
def test_curves_meet_their_ends_to_the_bit(kind):
    nodes = tree(3, (4,))
    first, last = kind(nodes).ends
    for t, end in ((0.0, first), (1.0, last)):
        for name, leaf in kind(nodes)(jnp.array([t])).items():
            np.testing.assert_array_equal(leaf, end[name])
        assert kind(nodes)(t)["bias"].dtype == jnp.float32


def test_chains_go_straight_on_beyond_their_ends():
    chain = paths.Chain(jnp.array([[2.0, 3.0], [4.0, 7.0], [4.0, 9.0]]))
    np.testing.assert_allclose(chain(-0.5), [0.0, -1.0], rtol=1e-6)
    np.testing.assert_allclose(chain(1.5), [4.0, 11.0], rtol=1e-6)


def test_a_path_stands_where_a_subspace_does():
    path = paths.Bezier(jnp.array([[2.0, -1.0], [3.0, 5.0], [-4.0, 2.0]]))
    bowl = Objective(lambda p, _: 3 * p[0] ** 2 + p[0] * p[1])
    found = sweep(LossSurface(path, bowl, outputs=("gradient",)), Grid.line((0.0, 1.0), 11), batch=11, progress=False)
    t = found.grid.axes[0].values
    x, y = BPoly(np.asarray(path.nodes)[:, None], [0, 1])(t).T
    np.testing.assert_allclose(found["loss"], 3 * x**2 + x * y, rtol=1e-5)
    dx, dy = BPoly(np.asarray(path.nodes)[:, None], [0, 1]).derivative()(t).T
    np.testing.assert_allclose(found["gradient"][:, 0], (6 * x + y) * dx + x * dy, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- fitting

A, B, CENTRE = np.array([2.0, -3.0]), np.array([4.0, 5.0]), np.array([-1.5, 2.5])


def bowl(params, batch):
    return 0.5 * jnp.sum((params["w"] - batch) ** 2, axis=-1)


@pytest.mark.parametrize(
    ("fit", "best"),
    [
        # the bend that minimises the integral over t, from the integrals of products of the weights
        (paths.fit_bezier, 7.5 * (CENTRE / 3 - (A + B) / 10)),
        (paths.fit_chain, 3 * (CENTRE / 2 - (A + B) / 12)),
    ],
)
def test_the_bend_of_a_quadratic_is_that_of_the_integral(fit, best):
    centres = CENTRE + np.array([[3.0, 1.0], [-3.0, -1.0]])
    found = fit(
        jax.random.key(3),
        Objective(bowl, jnp.asarray(centres)),
        {"w": A},
        {"w": B},
        optimizer=optax.sgd(optax.exponential_decay(2.0, 200, 1e-2)),  # the noise of the positions dies out
        num_steps=200,
        num_positions=64,
    )
    np.testing.assert_allclose(found.path.nodes["w"][1], best, atol=5e-3)
    np.testing.assert_array_equal(np.asarray(found.path.nodes["w"])[[0, -1]], np.stack([A, B]).astype(np.float32))
    assert found.history["t"].shape == (200, 64)
    assert np.all(np.floor(np.asarray(found.history["t"]) * 64) == np.arange(64))
    assert found.history["loss"][-1] < 0.8 * found.history["loss"][0]


def test_positions_are_uniform_and_minibatches_seen():
    data = jnp.asarray(np.random.default_rng(4).normal(size=(50, 2)) + CENTRE)
    options = {"optimizer": optax.sgd(0.05), "num_steps": 400, "batch_size": 7, "num_bends": 2}
    found = paths.fit_chain(jax.random.key(5), Objective(bowl, data), {"w": A}, {"w": B}, **options)
    t = np.asarray(found.history["t"])[:, 0]
    assert abs(t.mean() - 0.5) < 3 * (1 / 12 / 400) ** 0.5
    assert abs(t.var() - 1 / 12) < 3 * (1 / 180 / 400) ** 0.5
    # the loss of a step is that of 7 examples at its t, before the step: the first is on the line
    on_line = (1 - t[0]) * A + t[0] * B
    losses = 0.5 * np.sum((on_line - np.asarray(data)) ** 2, axis=1)
    assert np.sort(losses)[:7].mean() <= found.history["loss"][0] <= np.sort(losses)[-7:].mean()
    assert abs(found.history["loss"][0] - losses.mean()) > 1e-4


def test_fits_vmap_over_pairs():
    objective = Objective(bowl, jnp.asarray(CENTRE[None]))
    keys, starts = jax.random.split(jax.random.key(6)), {"w": jnp.asarray(np.stack([A, B]))}

    def fit(key, a, b):
        return paths.fit_bezier(key, objective, a, b, num_steps=9)

    many = jax.vmap(fit)(keys, starts, jax.tree.map(lambda x: x[::-1], starts))
    alone = fit(keys[1], {"w": B}, {"w": A})
    np.testing.assert_allclose(many.path.nodes["w"][1], alone.path.nodes["w"], rtol=1e-6)


@pytest.fixture(scope="module")
def digits():
    """Two narrow networks trained on the digits, and the losses at 21 points of any path."""
    problem = digits_mlp(hidden=(12,), activation=jax.nn.relu)
    objective, adam = problem.objectives["train"], optax.adam(0.02)

    def trained(key):
        def step(_, carry):
            params, memory = carry
            updates, memory = adam.update(jax.grad(objective)(params), memory)
            return optax.apply_updates(params, updates), memory

        params = problem.init(key)
        return jax.lax.fori_loop(0, 150, step, (params, adam.init(params)))[0]

    both = jax.jit(jax.vmap(trained))(jax.random.split(jax.random.key(2)))
    return objective, *(jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))


def losses(objective, path):
    return np.asarray(jax.jit(jax.vmap(lambda t: objective(path(t))))(jnp.linspace(0, 1, 21)[:, None]))


@pytest.mark.parametrize("fit", [paths.fit_bezier, pytest.param(paths.fit_chain, marks=pytest.mark.slow)])
def test_trained_curves_between_digits_networks_stay_far_below_the_line(digits, fit):
    objective, a, b = digits
    straight = losses(objective, paths.line(a, b))
    assert barrier(straight).above_line > 0.3
    found = fit(jax.random.key(8), objective, a, b, num_steps=200, batch_size=200)
    curved = losses(objective, found.path)
    assert curved.max() < 0.2 * straight.max()
    assert barrier(curved).above_line < 0.2 * barrier(straight).above_line
    for t, end in ((0.0, a), (1.0, b)):
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found.path(t), end)))


GOOD = {"key": jax.random.key(1), "objective": Objective(bowl, jnp.ones((4, 2))), "a": {"w": A}, "b": {"w": B}}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": 3}, TypeError, "pass jax.random.key"),
        ({"objective": bowl}, TypeError, "objective must be a landscape.Objective"),
        ({"a": {"w": np.arange(2)}}, TypeError, r"a\.w must be a real floating-point array"),
        ({"b": {"w": np.ones(3)}}, ValueError, r"b\.w must have shape \(2,\) like a"),
        ({"num_bends": 0}, ValueError, "num_bends must be at least 1, got 0"),
        ({"num_positions": 2.5}, TypeError, "num_positions must be an integer"),
        ({"num_steps": -2}, ValueError, "num_steps must be at least 0"),
        ({"batch_size": 9}, ValueError, "batch_size=9, but the objective has 4 examples"),
        ({"optimizer": "adam"}, TypeError, "must be an optax optimizer"),
    ],
)
def test_bad_fits_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        paths.fit_bezier(**{**GOOD, **changes})


def test_curves_are_trained_at_the_highest_precision():
    linear = Objective(lambda p, batch: (batch @ p["w"] - 3.0) ** 2, jnp.ones((4, 2)))
    fit = jax.jit(lambda key: paths.fit_bezier(**{**GOOD, "objective": linear, "key": key}, num_steps=2).path)
    products = [line for line in fit.lower(GOOD["key"]).as_text().splitlines() if "dot_general" in line]
    assert products
    assert all("[HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize(
    ("nodes", "grid", "error", "message"),
    [
        (jnp.ones((1, 2)), Grid.line(), ValueError, "a stack of at least two trees"),
        (jnp.ones((3, 2)), Grid.square(), ValueError, "a path has one coordinate, the grid 2 axes"),
        (jnp.ones((3, 2), int), Grid.line(), TypeError, "real floating-point"),
    ],
)
def test_unusable_curves_are_refused_before_a_sweep(nodes, grid, error, message):
    with pytest.raises(error, match=message):
        sweep(LossSurface(paths.Chain(nodes), Objective(lambda p, _: jnp.sum(p))), grid, progress=False)


# --------------------------------------------------------------------------------------------------- instability

RNG = np.random.default_rng(9)
DATA = {"x": jnp.asarray(RNG.normal(size=(40, 3))), "y": jnp.asarray(RNG.normal(size=40))}


def squared(params, batch):
    return 0.5 * (batch["x"] @ params - batch["y"]) ** 2


def analysis(**changes):
    options = {"optimizer": optax.sgd(0.1, momentum=0.5), "num_steps": 12, "batch_size": 5, "key": jax.random.key(4)}
    return paths.Instability(
        lambda key: jax.random.normal(key, (3,)), Objective(squared, DATA), **{**options, **changes}
    )


def test_children_share_their_steps_up_to_the_split():
    grid = Grid.of(split=[0, 7, 12], run=[0, 1])
    found = sweep(analysis(track={"again": Objective(squared, DATA)}), grid, batch=6, progress=False)
    np.testing.assert_array_equal(found["distance"][2], 0)
    assert np.all(found["distance"][:2] > 0)
    assert np.all(np.ptp(found["train_loss"][2], axis=-1) == 0)
    np.testing.assert_array_equal(found["train_loss"], found["again_loss"])
    # a convex loss has no barrier, whatever the noise
    assert all(barrier(line).above_line < 1e-6 for line in found["train_loss"].reshape(-1, 25))


def test_a_child_is_a_training_with_these_minibatches():
    point = analysis(num_steps=6)
    first, second = point.children(jnp.array([4.0, 1.0]))
    for_init, for_batches = jax.random.split(jax.random.fold_in(point.key, 1))
    for number, child in enumerate((first, second)):
        w, velocity = np.asarray(point.init(for_init), float), np.zeros(3)
        for step in range(6):
            stream = jax.random.fold_in(for_batches, 0 if step < 4 else number + 1)
            numbers = np.asarray(jax.random.uniform(jax.random.fold_in(stream, step), (40,)))
            rows = np.argsort(-numbers)[:5]
            x, y = np.asarray(DATA["x"])[rows], np.asarray(DATA["y"])[rows]
            velocity = x.T @ (x @ w - y) / 5 + 0.5 * velocity
            w = w - 0.1 * velocity
        np.testing.assert_allclose(child, w, rtol=1e-4)
    values = jax.jit(point)(jnp.array([4.0, 1.0]))
    np.testing.assert_allclose(
        values["train_loss"][jnp.array([0, -1])], [point.objective(x) for x in (first, second)], rtol=1e-5
    )
    np.testing.assert_allclose(values["distance"], np.linalg.norm(first - second), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "grid", "error", "message"),
    [
        ({}, Grid.of(split=[0, 13]), ValueError, "within the 12 steps"),
        ({}, Grid.of(split=[0.5, 3]), ValueError, "'split' must hold whole numbers"),
        ({}, Grid.of(split=[3], run=[1], more=[2]), ValueError, "got 3 axes"),
        ({"batch_size": 90}, Grid.of(split=[3]), ValueError, "batch_size=90"),
        ({"num_points": 2}, Grid.of(split=[3]), ValueError, "num_points must be at least 3"),
        ({"track": {"train": Objective(squared, DATA)}}, Grid.of(split=[3]), ValueError, "track cannot hold 'train'"),
        ({"optimizer": 0.1}, Grid.of(split=[3]), TypeError, "must be an optax optimizer"),
    ],
)
def test_bad_analyses_are_refused(changes, grid, error, message):
    with pytest.raises(error, match=message):
        sweep(analysis(**changes), grid, progress=False)


def test_nodes_and_positions_of_a_path_are_named():
    with pytest.raises(TypeError, match="nodes.* must be a real floating-point array, got str"):
        paths.Bezier("abc")(0.5)
    with pytest.raises(ValueError, match="nodes must be a stack of at least two trees"):
        paths.Chain(jnp.ones((1, 3)))(0.5)
    path = paths.Bezier(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="the position on a path must be an array of real numbers, got str 'half'"):
        path("half")
    with pytest.raises(ValueError, match=r"one position at a time, got shape \(2,\): use jax.vmap"):
        path([0.0, 1.0])
