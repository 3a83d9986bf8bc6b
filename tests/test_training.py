"""Oracles for training: iterates of gradient descent and heavy ball on quadratics in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import landscape as ls
from landscape import Objective, Outcome, Run, train, train_many
from landscape.training import _descent

RNG = np.random.default_rng(5)
ROTATION, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
EIGENVALUES = np.array([3.0, 1.5, 0.7, 0.2])
HESSIAN = ROTATION @ np.diag(EIGENVALUES) @ ROTATION.T
MINIMUM, START = RNG.normal(size=4), RNG.normal(size=4) + 2.0
LEVEL = 0.25


def bowl(params, batch):
    d = jnp.concatenate([params["a"], params["b"]])
    d = d - jnp.asarray(MINIMUM, d.dtype)
    return 0.5 * d @ jnp.asarray(HESSIAN, d.dtype) @ d + LEVEL


def start(x=START):
    x = jnp.asarray(x, jnp.result_type(float))
    return {"a": x[..., :1], "b": x[..., 1:]}


def join(params):
    return np.concatenate([params["a"], params["b"]], axis=-1)


def descent(rate, steps):
    """theta_t = theta* + (1 - rate H)^t (theta_0 - theta*)."""
    amplitudes = ROTATION.T @ (START - MINIMUM)
    return MINIMUM + ((1 - rate * EIGENVALUES) ** steps[:, None] * amplitudes) @ ROTATION.T


def heavy_ball(rate, momentum, steps):
    """Powers of the 2 x 2 iteration of (theta_t, velocity_t) in each eigendirection."""
    amplitudes = ROTATION.T @ (START - MINIMUM)
    rows = []
    for eigenvalue, amplitude in zip(EIGENVALUES, amplitudes):
        step = np.array([[1 - rate * eigenvalue, -rate * momentum], [eigenvalue, momentum]])
        rows.append([(np.linalg.matrix_power(step, t) @ [amplitude, 0.0])[0] for t in steps])
    return MINIMUM + np.array(rows).T @ ROTATION.T


def losses(path):
    d = path - MINIMUM
    return 0.5 * np.einsum("ti,ij,tj->t", d, HESSIAN, d) + LEVEL


OPTIMIZERS = {
    "descent": (optax.sgd(0.3), lambda t: descent(0.3, t)),
    "heavy_ball": (optax.sgd(0.3, momentum=0.8), lambda t: heavy_ball(0.3, 0.8, t)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("num_steps", "record_every"), [(12, 1), (20, 7), (5, 9), (0, 3)])
def test_iterates_agree_with_the_closed_form(x64, name, num_steps, record_every):
    optimizer, closed_form = OPTIMIZERS[name]
    run = train(Objective(bowl), optimizer, start(), num_steps=num_steps, record_every=record_every, snapshots=True)
    steps = np.unique(np.append(np.arange(0, num_steps, record_every), num_steps))
    assert len(steps) == -(-num_steps // record_every) + 1
    path = closed_form(steps)
    np.testing.assert_array_equal(run.history["step"], steps)
    np.testing.assert_allclose(join(run.snapshots), path, rtol=1e-11)
    np.testing.assert_allclose(run.history["loss"], losses(path), rtol=1e-11)
    np.testing.assert_allclose(run.history["grad_norm"], np.linalg.norm((path - MINIMUM) @ HESSIAN, axis=1), rtol=1e-10)
    np.testing.assert_allclose(join(run.params), path[-1], rtol=1e-11)
    assert (run.outcome, int(run.steps)) == (Outcome.MAX_STEPS, num_steps)


def test_without_snapshots_there_are_none():
    assert train(Objective(bowl), optax.sgd(0.3), start(), num_steps=2).snapshots is None


# ------------------------------------------------------------------------------------------------ outcomes


def test_converged_runs_stop_at_the_first_look_within_tolerance(x64):
    run = train(Objective(bowl), optax.sgd(0.3), start(), num_steps=300, record_every=4, check_every=4, tol=1e-3)
    steps = np.arange(0, 301, 4)
    norms = np.linalg.norm((descent(0.3, steps) - MINIMUM) @ HESSIAN, axis=1)
    first = int(np.argmax(norms <= 1e-3))
    assert (run.outcome, int(run.steps)) == (Outcome.CONVERGED, steps[first])
    np.testing.assert_allclose(join(run.params), descent(0.3, steps)[first], rtol=1e-11)
    assert run.history["loss"].shape == (76,)
    np.testing.assert_array_equal(run.history["step"][first:], np.full(76 - first, steps[first]))
    np.testing.assert_array_equal(run.history["loss"][first:], np.full(76 - first, run.history["loss"][first]))


def test_a_minimum_needs_no_step(x64):
    run = train(Objective(bowl), optax.sgd(0.3), start(MINIMUM), num_steps=5, tol=1e-12)
    assert (run.outcome, int(run.steps)) == (Outcome.CONVERGED, 0)
    np.testing.assert_array_equal(join(run.params), MINIMUM)


@pytest.mark.parametrize(("record_every", "check_every"), [(1, 1), (3, 1), (1, 3), (5, 3)])
def test_max_loss_ends_a_run_at_the_first_look_beyond_it(x64, record_every, check_every):
    # |1 - 1.1 * 3| = 2.3: the first eigendirection grows
    run = train(Objective(bowl), optax.sgd(1.1), start(), num_steps=12, record_every=record_every,
                check_every=check_every, max_loss=1e4)  # fmt: skip
    steps = np.arange(0, 13, check_every)
    first = int(np.argmax(losses(descent(1.1, steps)) > 1e4))
    assert (run.outcome, int(run.steps)) == (Outcome.DIVERGED, steps[first])
    np.testing.assert_allclose(join(run.params), descent(1.1, steps)[first], rtol=1e-10)


@pytest.mark.parametrize("record_every", [1, 7])
def test_overflow_freezes_the_last_finite_parameters(record_every):
    # theta -> -9 theta - 20 sign(theta) leaves float32 (3.4e38) after 40 steps, its square after 20
    objective = Objective(lambda p, _: jnp.sum(jnp.abs(p)) * 2.0 + 0.5 * p @ p)
    run = train(objective, optax.sgd(10.0), jnp.array([2.0, 3.0]), num_steps=100, record_every=record_every)
    assert run.outcome == Outcome.DIVERGED
    assert np.all(np.isfinite(run.params))
    assert 38 <= int(run.steps) <= 40
    assert int(run.history["step"][-1]) == int(run.steps)
    assert run.history["loss"].shape == (-(-100 // record_every) + 1,)


def test_a_run_that_ends_where_the_loss_is_nan_has_not_converged():
    # down to 0.1, where the loss is NaN and its slope, by the rules of jnp.where, zero
    objective = Objective(lambda p, _: jnp.where(p > 0.3, p, jnp.nan))
    for tol in (None, 1e-3):
        run = train(objective, optax.sgd(0.5), jnp.float32(1.6), num_steps=10, record_every=5, tol=tol)
        assert (run.outcome, int(run.steps), float(run.params)) == (Outcome.DIVERGED, 10, pytest.approx(0.1))


def test_a_nan_start_is_reported_and_kept():
    run = train(Objective(bowl), optax.adam(0.3), start(np.array([np.nan, 2.0, 3.0, 4.0])), num_steps=6, tol=0.1)
    assert (run.outcome, int(run.steps)) == (Outcome.DIVERGED, 0)
    np.testing.assert_array_equal(join(run.params), [np.nan, 2.0, 3.0, 4.0])
    assert np.all(np.isnan(run.history["loss"]))


# ----------------------------------------------------------------------------------------------- minibatches


def test_minibatches_are_drawn_anew_without_replacement():
    # the gradient with respect to params is the mean one-hot of the batch, so the steps count the examples drawn
    objective = Objective(lambda p, batch: batch @ p, jnp.eye(7))
    run = train(
        objective, optax.sgd(1.0), jnp.zeros(7), num_steps=400, key=jax.random.key(2), batch_size=3, snapshots=True,
        record_every=1,
    )  # fmt: skip
    drawn = -3 * np.diff(np.asarray(run.snapshots), axis=0)
    counts = np.round(drawn)
    np.testing.assert_allclose(drawn, counts, atol=1e-3)
    assert set(np.unique(counts)) == {0.0, 1.0}  # never twice in a batch
    np.testing.assert_array_equal(counts.sum(axis=1), np.full(400, 3.0))
    expected, deviation = 400 * 3 / 7, np.sqrt(400 * 3 / 7 * 4 / 7)
    assert np.all(np.abs(counts.sum(axis=0) - expected) < 4 * deviation)
    assert len(np.unique(counts, axis=0)) == 35  # all of the 7 choose 3 batches


def test_minibatches_are_reproducible_and_a_full_batch_is_gradient_descent():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32), jnp.asarray(rng.normal(size=9), jnp.float32)
    objective = Objective(lambda p, batch: (batch[0] @ p - batch[1]) ** 2, (x, y), batch_size=2)
    options = {"num_steps": 6, "record_every": 1, "snapshots": True}
    p = jnp.full(4, 0.5)
    one, again, other = (
        train(objective, optax.sgd(0.1), p, key=jax.random.key(seed), batch_size=4, **options).snapshots
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    full = train(objective, optax.sgd(0.1), p, **options)
    shuffled = train(objective, optax.sgd(0.1), p, key=jax.random.key(3), batch_size=9, **options)
    np.testing.assert_allclose(full.snapshots, shuffled.snapshots, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- breadth


def test_vmap_over_starts_equals_a_loop():
    inits = np.float32(RNG.normal(size=(3, 4)) * np.array([[1.0], [300.0], [np.nan]]))

    def one(params):
        return train(
            Objective(bowl),
            optax.adam(0.2),
            params,
            num_steps=40,
            record_every=8,
            tol=0.3,
            max_loss=500.0,
            snapshots=True,
        )

    many = jax.vmap(one)(start(inits))
    outcomes = []
    for i, init in enumerate(inits):
        single = one(start(init))
        outcomes.append(single.outcome)
        assert int(single.outcome_code) == int(many.outcome_code[i])
        assert int(single.steps) == int(many.steps[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a, b[i], rtol=1e-3, atol=1e-4),
            (single.params, single.history, single.snapshots),
            (many.params, many.history, many.snapshots),
        )
    assert outcomes[1:] == [Outcome.DIVERGED, Outcome.DIVERGED]
    assert outcomes[0] != Outcome.DIVERGED


def test_lbfgs_finds_the_minimum_of_a_quadratic(x64):
    run = train(Objective(bowl), optax.lbfgs(), start(), num_steps=25, record_every=5, tol=1e-9)
    assert run.outcome == Outcome.CONVERGED
    np.testing.assert_allclose(join(run.params), MINIMUM, atol=1e-8)
    np.testing.assert_allclose(run.history["loss"][-1], LEVEL, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.5), optax.adam(0.1)], ids=["momentum", "adam"])
def test_bfloat16_parameters_stay_so(optimizer):
    objective = Objective(lambda p, _: jnp.sum((p.astype(jnp.float32) - 3.0) ** 2))
    run = train(objective, optimizer, jnp.full(2, 1.5, jnp.bfloat16), num_steps=4)
    assert run.params.dtype == jnp.bfloat16
    assert run.history["loss"][-1] < run.history["loss"][0]


def test_tracked_objectives_are_recorded_with_their_metrics(x64):
    def test_loss(params, batch):
        return batch * params["a"][0], {"twice": 2 * batch * params["a"][0]}

    other = Objective(test_loss, jnp.array([2.0, 5.0, 3.5]), has_aux=True, batch_size=2)
    run = train(Objective(bowl), optax.sgd(0.3), start(), num_steps=6, record_every=4, track={"test": other})
    path = descent(0.3, np.array([0, 4, 6]))
    np.testing.assert_allclose(run.history["test_loss"], 3.5 * path[:, 0], rtol=1e-12)
    np.testing.assert_allclose(run.history["test_twice"], 7.0 * path[:, 0], rtol=1e-12)


# ------------------------------------------------------------------------------------- ending early, and leanness


def count_losses(objective_fn, **options):
    """How often the loss is evaluated at run time, on its way to the gradient or not."""
    seen = []

    def counted(params, batch):
        jax.debug.callback(lambda _: seen.append(1), params)
        return objective_fn(params, batch)

    run = train(Objective(counted), **options)
    jax.effects_barrier()
    return run, len(seen)


@pytest.mark.parametrize(("record_every", "most"), [(1, 102), (40, 104), (1000, 102)])
def test_a_converged_run_costs_nothing_more(record_every, most):
    # (x - 3)^2 with rate 1/4: the gradient 2 (x - 3) = 2^(1 - t) falls to 1e-3 at t = 11
    run, evaluations = count_losses(
        lambda p, _: (p - 3.0) ** 2, optimizer=optax.sgd(0.25), params=jnp.float32(4.0), num_steps=10**6,
        record_every=record_every, check_every=100, tol=1e-3,
    )  # fmt: skip
    assert run.outcome == Outcome.CONVERGED
    assert int(run.steps) == 100
    assert evaluations <= most


@pytest.mark.parametrize("record_every", [1, 13, 40, 10**5])
def test_a_diverged_run_is_retraced_to_its_last_finite_step(record_every):
    # x -> x - 10 x from 2: the step of 20 * 9^t leaves float32 for the first time at
    objective = Objective(lambda p, _: 0.5 * p**2)
    run = train(objective, optax.sgd(10.0), jnp.float32(2.0), num_steps=10**6, record_every=record_every)
    steps = int(np.ceil(np.log(np.finfo(np.float32).max / 20) / np.log(9)))
    assert (run.outcome, int(run.steps)) == (Outcome.DIVERGED, steps)
    np.testing.assert_allclose(run.params, 2.0 * (-9.0) ** steps, rtol=1e-5)


@pytest.mark.parametrize("record_every", [3, 20])
def test_parameters_that_overflow_by_themselves_are_not_taken(record_every):
    # tanh is flat out there: loss and gradient stay finite at infinity, so only the parameters tell
    objective = Objective(lambda p, _: jnp.tanh(p["x"]) + p["y"] ** 2)
    start = {"x": jnp.float32(0.2), "y": jnp.float32(2.0)}
    run = train(objective, optax.chain(optax.scale(-3e38), optax.scale(10.0)), start, num_steps=40,
                record_every=record_every)  # fmt: skip
    assert (run.outcome, int(run.steps)) == (Outcome.DIVERGED, 0)
    assert (float(run.params["x"]), float(run.params["y"])) == (np.float32(0.2), 2.0)


def test_a_gradient_that_is_not_finite_is_the_optimizers_to_clip():
    # the slope of sqrt at 0 is infinite; clipped to 1 it leads to -0.5, where it is NaN
    objective = Objective(lambda p, _: jnp.sqrt(p))
    run = train(objective, optax.chain(optax.clip(1.0), optax.sgd(0.5)), jnp.float32(0.0), num_steps=5)
    assert (run.outcome, int(run.steps), float(run.params)) == (Outcome.DIVERGED, 1, -0.5)


# ------------------------------------------------------------------- the same answer however it is recorded

GAP = (1.0, 1.2)  # of x, where losses are NaN or infinite


def gap(params, value, slope):
    """A bowl around 0.3 that is `value` in the gap, with a slope that is NaN there or goes on."""
    x = params["x"]
    inside = (x > GAP[0]) & (x < GAP[1])
    bowl = (x - 0.3) ** 2
    hole = jnp.where(inside, value, 0.0) if slope else 0.0
    return jnp.mean(bowl + hole if slope else jnp.where(inside, value * bowl, bowl)) + jnp.sum(params["y"] ** 2)


LOSSES = {
    "nan, slope nan": lambda p, _: gap(p, jnp.nan, False),
    "infinite for a while": lambda p, _: gap(p, jnp.inf, True),
    "overflow": lambda p, _: 0.5 * jnp.mean(p["x"] ** 2) + jnp.sum(p["y"] ** 2),
}
SKIPPING = {
    "sgd": lambda n: optax.sgd(0.17 * n),
    "adam": lambda n: optax.adam(0.13),
    "skip": lambda n: optax.apply_if_finite(optax.sgd(0.2 * n), 4),
    "steep": lambda n: optax.sgd(9.0 * n),
}
CASES = [
    ("nan, slope nan", 3, ("skip", "sgd")),
    ("nan, slope nan", 2**14 + 5, ("skip",)),
    ("infinite for a while", 3, ("sgd",)),
    ("overflow", 2**14 + 5, ("steep", "adam")),
]
LENGTH = 41


def plain_loop(loss, optimizer, params):
    """What DIVERGED means, word for word, and how the run ends."""

    @jax.jit
    def step(params, memory):
        value, gradient = jax.value_and_grad(loss)(params, None)
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, value, gradient

    memory, all_finite = optimizer.init(params), lambda tree: all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree))
    for number in range(LENGTH):
        new, memory, *_ = step(params, memory)
        if not all_finite(new):
            return Outcome.DIVERGED, number, params
        params = new
    ended = step(params, memory)[2:]
    return Outcome.MAX_STEPS if all_finite(ended) else Outcome.DIVERGED, LENGTH, params


@pytest.mark.parametrize(("loss", "size", "names"), CASES)
def test_outcome_steps_and_parameters_are_those_of_a_plain_loop(loss, size, names):
    params = {"x": jnp.linspace(1.3, 2.6, size), "y": jnp.float32(0.7)}
    for name in names:
        optimizer = SKIPPING[name](size)
        expected, steps, end = plain_loop(LOSSES[loss], optimizer, params)
        for record_every, check_every in [(1, 1), (7, 3), (LENGTH, 20)][: 2 if size > 3 else 3]:
            run = train(Objective(LOSSES[loss]), optimizer, params, num_steps=LENGTH, record_every=record_every,
                        check_every=check_every, max_loss=np.inf)  # fmt: skip
            assert (run.outcome, int(run.steps)) == (expected, steps), (name, record_every, check_every)
            np.testing.assert_allclose(run.params["x"], end["x"], rtol=1e-4, atol=1e-5)
            assert int(run.history["step"][-1]) == steps


def test_a_batch_of_runs_that_diverge_at_their_own_steps_is_a_loop_over_them():
    rates = jnp.array([0.3, 2.5, 3.1, 9.0, 40.0])

    def one(rate):
        return train(Objective(lambda p, _: 0.5 * jnp.sum(p**2)), optax.sgd(rate), jnp.array([2.0, 3.0]),
                     num_steps=300, record_every=300)  # fmt: skip

    many = jax.jit(jax.vmap(one))(rates)
    # (1 - rate)^t 3 is finite, and maybe has to be rate times that
    bounds = [np.log(np.finfo(np.float32).max / np.array([3 * r, 3])) / np.log(r - 1) for r in np.asarray(rates[1:])]
    assert all(np.floor(low) <= n <= high for n, (low, high) in zip(np.asarray(many.steps[1:]), bounds))
    np.testing.assert_array_equal(many.outcome_code, [1, 2, 2, 2, 2])
    alone = jax.jit(one)
    for i, rate in enumerate(rates):
        np.testing.assert_array_equal(alone(rate).steps, many.steps[i])
        np.testing.assert_allclose(alone(rate).params, many.params[i], rtol=1e-5)
    assert np.all(np.isfinite(many.params))


def test_looks_do_not_depend_on_what_is_recorded(x64):
    norms = np.linalg.norm((descent(0.3, np.arange(301)) - MINIMUM) @ HESSIAN, axis=1)
    first = int(np.argmax(norms <= 3e-3))
    for check_every, steps in ((None, first), (7, -(-first // 7) * 7)):
        for record_every in (1, 30):
            run = train(Objective(bowl), optax.sgd(0.3), start(), num_steps=300, record_every=record_every,
                        check_every=check_every, tol=3e-3)  # fmt: skip
            assert (run.outcome, int(run.steps)) == (Outcome.CONVERGED, steps)


def test_a_batch_ends_with_its_last_run_and_every_run_keeps_its_own_history(x64):
    starts = jnp.array([[3.5, 1e9], [4.0, np.nan]])  # the rest halves at each step

    def one(x):
        return train(Objective(lambda p, _: (p - 3.0) ** 2), optax.sgd(0.25), x, num_steps=500, tol=1e-3)

    many = jax.vmap(jax.vmap(one))(starts)
    for index in np.ndindex(2, 2):
        alone = one(starts[index])
        jax.tree.map(lambda a, b, i=index: np.testing.assert_array_equal(a, b[i]), alone, many)
    np.testing.assert_array_equal(many.steps, [[10, 41], [11, 0]])
    np.testing.assert_array_equal(many.history["step"][0, 0, 9:12], [9, 10, 10])


def test_the_check_between_entries(x64):
    options = {"num_steps": 300, "record_every": 100, "check_every": 7, "tol": 3e-3}
    run = train(Objective(bowl), optax.sgd(0.3), start(), **options)
    norms = np.linalg.norm((descent(0.3, np.arange(301)) - MINIMUM) @ HESSIAN, axis=1)
    first = int(np.argmax(norms <= 3e-3))
    assert int(run.steps) == -(-first // 7) * 7
    assert first < int(run.steps) < 100
    np.testing.assert_allclose(join(run.params), descent(0.3, np.array([int(run.steps)]))[0], rtol=1e-11)


# --------------------------------------------------------------------------------------------- optimizers by hand


def rosenbrock(p, _):
    return (1.5 - p[0]) ** 2 + 20.0 * (p[1] - p[0] ** 2) ** 2


OPTAX = {
    "schedule": lambda: optax.sgd(optax.exponential_decay(2e-3, 10, 0.5), momentum=0.6, nesterov=True),
    "adamw": lambda: optax.adamw(optax.cosine_decay_schedule(0.1, 30)),
    "stateful": lambda: optax.chain(optax.clip_by_global_norm(3.0), optax.add_noise(0.01, 0.5, jax.random.key(1)),
                                    optax.sgd(1e-3)),
    "sam": lambda: optax.contrib.sam(optax.sgd(1e-3), optax.chain(optax.contrib.normalize(), optax.sgd(0.05))),
    "opaque sam": lambda: optax.contrib.sam(
        optax.sgd(1e-3), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True),
    "polyak": lambda: optax.polyak_sgd(0.02),
    "lbfgs": lambda: optax.lbfgs(),
}  # fmt: skip


@pytest.mark.parametrize(("name", "record_every"), [*((n, 30) for n in OPTAX), ("schedule", 5), ("stateful", 5)])
def test_optimizers_do_what_they_do_in_a_loop_of_optax(x64, name, record_every):
    optimizer = optax.with_extra_args_support(OPTAX[name]())
    params = jnp.array([-0.7, 1.3])
    memory = optimizer.init(params)
    value_fn = lambda p: rosenbrock(p, None)  # noqa: E731
    grad_fn = lambda p, _: jax.grad(value_fn)(p)  # noqa: E731

    @jax.jit
    def step(params, memory):
        value, grad = jax.value_and_grad(value_fn)(params)
        more = {"grad_fn": grad_fn} if "sam" in name else {"value": value, "grad": grad, "value_fn": value_fn}
        updates, memory = optimizer.update(grad, memory, params, **more)
        return optax.apply_updates(params, updates), memory

    for _ in range(30):
        params, memory = step(params, memory)
    run = train(Objective(rosenbrock), OPTAX[name](), jnp.array([-0.7, 1.3]), num_steps=30, record_every=record_every)
    np.testing.assert_allclose(run.params, params, rtol=1e-8)


def test_gradients_accumulated_over_steps(x64):
    # two steps on the same gradient make one: descent of half as many steps
    optimizer = optax.MultiSteps(optax.sgd(0.3), 2)
    run = train(Objective(bowl), optimizer, start(), num_steps=21, record_every=21)
    np.testing.assert_allclose(join(run.params), descent(0.3, np.array([10]))[0], rtol=1e-6)
    assert (int(run.optimizer_state.mini_step), int(run.optimizer_state.gradient_step)) == (1, 10)


def test_averages_that_the_optimizer_holds_are_in_its_state(x64):
    params, optimizer = start(), optax.contrib.schedule_free_sgd(0.2, b1=0.9)
    memory = optimizer.init(params)
    for _ in range(12):
        updates, memory = optimizer.update(jax.grad(bowl)(params, None), memory, params)
        params = optax.apply_updates(params, updates)
    expected = optax.contrib.schedule_free_eval_params(memory, params)
    run = train(Objective(bowl), optimizer, start(), num_steps=12, record_every=12)
    average = optax.contrib.schedule_free_eval_params(run.optimizer_state, run.params)
    np.testing.assert_allclose(join(average), join(expected), rtol=1e-9)
    assert not np.allclose(join(average), join(run.params), rtol=1e-3)


def test_lookahead_goes_down_by_its_fast_parameters(x64):
    optimizer = optax.lookahead(optax.sgd(0.3), sync_period=3, slow_step_size=0.5)
    fast = slow = START
    for number in range(1, 8):
        fast = fast - 0.3 * HESSIAN @ (fast - MINIMUM)
        if number % 3 == 0:
            fast = slow = slow + 0.5 * (fast - slow)
    pair = optax.LookaheadParams.init_synced(start())
    run = train(Objective(bowl), optimizer, pair, num_steps=7, record_every=7, track={"slow": Objective(bowl)})
    np.testing.assert_allclose(join(run.params.fast), fast, rtol=1e-10)
    np.testing.assert_allclose(join(run.params.slow), slow, rtol=1e-10)
    np.testing.assert_allclose(run.history["loss"][-1], losses(fast[None])[0], rtol=1e-10)
    np.testing.assert_allclose(run.history["slow_loss"][-1], losses(slow[None])[0], rtol=1e-10)
    with pytest.raises(TypeError, match=r"optax.lookahead trains .* start from optax.LookaheadParams.init_synced"):
        train(Objective(bowl), optimizer, start(), num_steps=7)


def test_a_run_of_minibatches_measures_all_examples_once_in_ten_passes():
    seen = []

    def counted(params, batch):
        jax.debug.callback(lambda x: seen.append(x.shape[0]), batch)
        return (params - batch) ** 2

    objective = Objective(counted, jnp.linspace(1.0, 2.0, 30))
    run = train(objective, optax.sgd(0.1), jnp.float32(2.0), num_steps=250, batch_size=3, key=jax.random.key(0))
    jax.effects_barrier()
    np.testing.assert_array_equal(run.history["step"], [0, 100, 200, 250])
    assert seen.count(30) == 4
    assert seen.count(3) == 250


def test_numbers_of_the_optimizer_may_be_traced(x64):
    def end(rate):
        return join(train(Objective(bowl), optax.sgd(rate), start(), num_steps=25, record_every=25).params)

    def join(params):
        return jnp.concatenate([params["a"], params["b"]])

    rates = jnp.array([0.1, 0.37])
    ends, slope = jax.jit(jax.vmap(lambda r: jax.jvp(end, (r,), (1.0,))))(rates)
    for i, rate in enumerate(rates):
        np.testing.assert_allclose(ends[i], descent(rate, np.array([25]))[0], rtol=1e-11)
        near = [descent(rate + h, np.array([25]))[0] for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(slope[i], (near[0] - near[1]) / 2e-6, rtol=1e-6, atol=1e-8)


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 2}, "batch_size= draws minibatches at random: pass key="),
        ({"batch_size": 4, "key": jax.random.key(0)}, "batch_size=4, but the objective has 3 examples"),
        ({"batch_size": 0, "key": jax.random.key(0)}, "batch_size=0, but the objective has 3 examples"),
        ({"num_steps": -2}, "num_steps must be at least 0, got -2"),
        ({"record_every": 0}, "record_every must be at least 1, got 0"),
        ({"check_every": 0}, "check_every must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(options, said):
    objective = Objective(lambda p, batch: batch * p, jnp.array([2.0, 3.0, 4.0]))
    with pytest.raises(ValueError, match=said):
        train(objective, optax.sgd(0.1), jnp.float32(2.0), **{"num_steps": 5, **options})


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"tol": np.nan}, ValueError, "tol must be a norm of the gradient, finite and at least 0, got nan"),
        ({"tol": -1.0}, ValueError, "tol must be a norm .* got -1.0"),
        ({"tol": np.inf}, ValueError, "tol must be a norm .* got inf"),
        ({"tol": True}, TypeError, r"tol must be a number, got True \(bool\)"),
        ({"tol": "1e-3"}, TypeError, "tol must be a number, got '1e-3'"),
        ({"max_loss": np.nan}, ValueError, "max_loss must be a loss that others can exceed, got nan"),
        ({"max_loss": -np.inf}, ValueError, "max_loss must be a loss .* got -inf"),
        ({"max_loss": [1.0, 2.0]}, TypeError, "max_loss must be a number, got"),
        ({"num_steps": 2**31}, ValueError, "num_steps must be at most 2147483647, got 2147483648"),
        ({"num_steps": 2**31 - 1, "snapshots": True, "params": jnp.zeros(99999)}, ValueError,
         r"num_steps=2147483647 asks for 2,147,483,648 entries of 400,008 bytes, .* GiB in all, and this machine has"),
    ],
)  # fmt: skip
def test_limits_and_lengths_that_cannot_be(options, kind, said):
    params = options.get("params", jnp.float32(2.0))
    options = {"num_steps": 5} | {name: value for name, value in options.items() if name != "params"}
    with pytest.raises(kind, match=said):
        train(Objective(lambda p, _: jnp.sum(p**2)), optax.sgd(0.1), params, **options)


@pytest.mark.parametrize("loss", [lambda p, _: jnp.sum(p) > 0.5, lambda p, _: jnp.round(jnp.sum(p)).astype(jnp.int32)])
def test_a_loss_without_a_slope_is_not_minimised(loss):
    with pytest.raises(TypeError, match="cannot be minimised: its loss is of (bool|int32), which has no slope"):
        train(Objective(loss), optax.sgd(0.1), jnp.ones(3), num_steps=4, tol=1e-3)
    with pytest.raises(TypeError, match="objective cannot be minimised"):
        train_many(Objective(loss), optax.sgd(0.1), jnp.ones((2, 3)), num_steps=4, progress=False)


def test_a_run_of_another_shard_has_no_outcome():
    runs = Run(jnp.zeros(3), {}, None, np.array([0, -1, 2]), np.zeros(3, int))
    assert [runs[i].outcome for i in (0, 2)] == [Outcome.CONVERGED, Outcome.DIVERGED]
    with pytest.raises(ValueError, match="this run was left to another shard: it has no outcome here"):
        runs[1].outcome  # noqa: B018
    assert runs.outcome.tolist() == [Outcome.CONVERGED, None, Outcome.DIVERGED]


def test_kinds_that_cannot_be():
    with pytest.raises(TypeError, match="objective must be a landscape.Objective, got function"):
        train(bowl, optax.sgd(0.1), start(), num_steps=3)
    with pytest.raises(TypeError, match="optimizer must be an optax optimizer such as optax.sgd.*, got float"):
        train(Objective(bowl), 0.1, start(), num_steps=3)
    with pytest.raises(TypeError, match=r"track\['test'\] must be a landscape.Objective, got function"):
        train(Objective(bowl), optax.sgd(0.1), start(), num_steps=3, track={"test": bowl})
    with pytest.raises(TypeError, match=r"params\.a must be a real floating-point array, got int32\[2\]"):
        train(Objective(bowl), optax.sgd(0.1), {"a": jnp.arange(2)}, num_steps=3)
    without = Objective(lambda p, _: p**2)
    with pytest.raises(ValueError, match="batch_size=2, but the objective has None examples"):
        train(without, optax.sgd(0.1), 2.0, num_steps=3, batch_size=2, key=jax.random.key(0))


def test_no_step_is_taken_or_judged_after_the_last():
    steep = Objective(lambda p, _: jnp.sum(p) * 1e19)
    for record_every in (1, 2, 5):
        run = train(steep, optax.sgd(1.0), jnp.zeros(2), num_steps=1, record_every=record_every)
        assert run.outcome == Outcome.MAX_STEPS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": 3}, r"key must be a random key, got int 3: pass jax.random.key\(3\)"),
        ({"num_steps": 3.5}, r"num_steps must be an integer, got float 3\.5"),
        ({"check_every": 2.5}, r"check_every must be an integer, got float 2\.5"),
        ({"batch_size": 2.0, "key": jax.random.key(0)}, r"batch_size must be an integer, got float 2\.0"),
        ({"track": [1]}, "track must be a dict of objectives by name, got list"),
    ],
)
def test_arguments_of_a_wrong_kind_are_named(options, message):
    bowl = Objective(lambda p, _: jnp.sum((p - 3.0) ** 2))
    with pytest.raises(TypeError, match=message):
        train(bowl, optax.sgd(0.25), jnp.zeros(2), **({"num_steps": 5} | options))


def test_counts_of_numpy_change_nothing(x64):
    objective = Objective(lambda p, batch: (p - batch) ** 2, jnp.array([2.0, 3.0, 5.0], jnp.float32))
    counts = {"num_steps": 70, "record_every": 35, "check_every": 20, "batch_size": 2}

    def run(kind):
        options = {name: kind(count) for name, count in counts.items()}
        return train(objective, optax.sgd(0.1), jnp.float32(7.0), key=jax.random.key(3), **options)

    jax.tree.map(np.testing.assert_array_equal, run(int), run(np.int64))


def test_steps_are_taken_at_the_highest_precision():
    data = jnp.ones((5, 3))
    objective = Objective(lambda p, x: (x @ p - 2.0) ** 2, data)
    lowered = jax.jit(lambda p: train(objective, optax.sgd(0.1), p, num_steps=3)).lower(jnp.ones(3)).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert products
    assert all("[HIGHEST, HIGHEST]" in line for line in products)


def test_minibatches_are_uniform_subsets():
    rows = np.asarray(jax.vmap(lambda key: _descent.drawn(key, 7, 3))(jax.random.split(jax.random.key(2), 7000)))
    assert all(len(set(row)) == 3 for row in rows.tolist())
    subsets = np.unique(np.sort(rows, axis=1), axis=0, return_counts=True)[1]
    assert len(subsets) == math.comb(7, 3)
    chi_square = np.sum((subsets - 200) ** 2 / 200)
    assert chi_square < scipy.stats.chi2.ppf(1 - 1e-6, 34)
    first = np.bincount(rows[:, 0], minlength=7)
    assert np.sum((first - 1000) ** 2 / 1000) < scipy.stats.chi2.ppf(1 - 1e-6, 6)


def test_tracked_outputs_of_one_name_are_refused_and_optimizers_with_state_told_apart():
    named = Objective(lambda p, _: (jnp.sum(p**2), {"norm": 1.5}), has_aux=True)
    with pytest.raises(ValueError, match="two outputs are called 'grad_norm'; rename a metric or an objective"):
        train(named, optax.sgd(0.1), jnp.ones(2), num_steps=1, track={"grad": named})
    with pytest.raises(TypeError, match="track must be named by strings, got 1"):
        train(named, optax.sgd(0.1), jnp.ones(2), num_steps=1, track={1: named})

    class Rate:
        __hash__ = None

        def __init__(self, rate):
            self.rate = rate

        def __eq__(self, other):
            return True

        def __call__(self, updates, state, params=None):
            return jax.tree.map(lambda u: -self.rate * u, updates), state

    for rate in (0.25, 0.125):
        optimizer = optax.GradientTransformation(lambda params: (), Rate(rate))
        run = train(Objective(lambda p, _: jnp.sum(p**2)), optimizer, jnp.full(2, 3.0), num_steps=1)
        np.testing.assert_allclose(run.params, [3 - 6 * rate] * 2)


@pytest.mark.parametrize("call", ["train", "train_many", "polish", "BasinMap"])
def test_a_loss_without_a_gradient_is_refused_with_what_helps(call):
    def until(p, _):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 0.5 * c[1]), (0, jnp.sum(p**2)))[1]

    objective, sgd, start = Objective(until), optax.sgd(0.125), jnp.array([0.5, -0.25])
    assert float(objective(start)) == pytest.approx(0.3125 / 8)
    calls = {
        "train": lambda: train(objective, sgd, start, num_steps=2),
        "train_many": lambda: train_many(objective, sgd, start[None], num_steps=2, progress=False),
        "polish": lambda: ls.minima.polish(objective, start),
        "BasinMap": lambda: ls.sweep(ls.BasinMap(None, objective, sgd, 2), ls.Grid.square(1.0, 3), progress=False),
    }
    words = r"needs its gradient, and JAX has none: Reverse-mode.*What helps: .*jax.lax.scan"
    with pytest.raises(ValueError, match=words):
        calls[call]()
