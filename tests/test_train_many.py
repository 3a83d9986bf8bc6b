"""Thousands of runs as one sweep: equal to a loop of `train`, whatever the width; killed, resumed, sharded."""

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape import Grid, Objective, Outcome, sweep, train, train_many
from landscape.engine import _job
from landscape.training import Runs

RNG = np.random.default_rng(8)
X, Y = RNG.normal(size=(9, 3)), RNG.normal(size=9)
STARTS = {"w": RNG.normal(size=(6, 3)) + 0.5, "head": {"b": RNG.normal(size=(6,)) - 2.0}}
RATES = np.array([0.05, 0.31, 0.12, 2.5, 0.07, 0.21])  # the fourth grows
QUIET = {"progress": False}


def residual(params, batch):
    x, y = batch
    return (x @ params["w"] + params["head"]["b"] - y) ** 2


def regression(**options):
    data = (jnp.asarray(X, jnp.result_type(float)), jnp.asarray(Y, jnp.result_type(float)))
    return Objective(residual, data, **options)


def starts():
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), STARTS)


def by_numpy(rate, w, b, steps):
    """Plain gradient descent on the mean squared residual; the losses on the way."""
    losses = []
    for _ in range(steps + 1):
        r = X @ w + b - Y
        losses.append(np.mean(r**2))
        gradient = 2 * X.T @ r / 9, 2 * np.mean(r)
        last, w, b = (w, b), w - rate * gradient[0], b - rate * gradient[1]
    return last, np.array(losses)


def same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize("batch", [1, 4, "auto"])
def test_runs_with_their_own_rates_agree_with_numpy(x64, batch):
    rates = jnp.asarray(RATES[[0, 1, 2, 4, 5]])
    inits = jax.tree.map(lambda x: x[:5], starts())
    run = train_many(
        regression(), optax.sgd, inits, num_steps=37, hyper=rates, record_every=10, snapshots=True, batch=batch, **QUIET
    )
    assert run.counts == {Outcome.CONVERGED: 0, Outcome.MAX_STEPS: 5, Outcome.DIVERGED: 0}
    np.testing.assert_array_equal(run.history["step"], np.tile([0, 10, 20, 30, 37], (5, 1)))
    for i in range(5):
        (w, b), losses = by_numpy(rates[i], STARTS["w"][i], STARTS["head"]["b"][i], 37)
        np.testing.assert_allclose(run.params["w"][i], w, rtol=1e-10)
        np.testing.assert_allclose(run.params["head"]["b"][i], b, rtol=1e-10)
        np.testing.assert_allclose(run.history["loss"][i], losses[[0, 10, 20, 30, 37]], rtol=1e-10)
    np.testing.assert_array_equal(run.snapshots["w"][:, 0], STARTS["w"][:5])
    np.testing.assert_array_equal(run.snapshots["w"][:, -1], run.params["w"])


def test_equal_to_a_loop_of_train_with_minibatches_hyper_and_limits(x64):
    def optimizer(hyper):
        return optax.sgd(hyper["rate"], momentum=hyper["momentum"])

    hyper = {"rate": jnp.asarray(RATES), "momentum": jnp.linspace(0.2, 0.7, 6)}
    options = {"num_steps": 45, "record_every": 15, "check_every": 4, "batch_size": 4, "tol": 0.3, "max_loss": 1e5}
    options["track"] = {"test": regression(batch_size=2)}
    key = jax.random.key(3)

    @jax.jit
    def one(hyper, params, key):
        return train(regression(), optimizer(hyper), params, key=key, **options)

    loop = []
    for i in range(6):
        hyper_i, params = jax.tree.map(lambda x, i=i: x[i], (hyper, starts()))
        loop.append(one(hyper_i, params, jax.random.split(jax.random.fold_in(key, i))[1]))
    assert {run.outcome for run in loop} == {Outcome.CONVERGED, Outcome.MAX_STEPS, Outcome.DIVERGED}
    for batch in (1, 3):
        many = train_many(regression(), optimizer, starts(), hyper=hyper, key=key, batch=batch, **options, **QUIET)
        for i, alone in enumerate(loop):
            assert (alone.outcome, int(alone.steps)) == (many[i].outcome, int(many.steps[i]))
            same(alone.params, many[i].params, rtol=1e-8)
            same(alone.history, many[i].history, rtol=1e-8)
        assert many[3].outcome == Outcome.DIVERGED
        assert np.all(np.isfinite(many.params["w"]))


def test_starts_drawn_from_keys(x64):
    def init(key):
        return {"w": jax.random.normal(key, (3,)), "head": {"b": jnp.float64(0.5)}}

    key = jax.random.key(4)
    run = train_many(regression(), optax.adam(0.3), init, num_runs=5, num_steps=0, key=key, **QUIET)
    for i in range(5):
        expected = init(jax.random.split(jax.random.fold_in(key, i))[0])
        np.testing.assert_array_equal(run.params["w"][i], expected["w"])
    assert run.history["loss"].shape == (5, 1)


def test_a_callable_model_is_parameters_and_not_a_function():
    import equinox as eqx

    models = jax.vmap(lambda key: eqx.nn.Linear(3, 1, key=key))(jax.random.split(jax.random.key(0), 4))
    objective = Objective(lambda m, batch: (jax.vmap(m)(batch[0])[:, 0] - batch[1]) ** 2, regression().data)
    run = train_many(objective, optax.sgd(0.1), models, num_steps=20, **QUIET)
    assert run[1].params(jnp.ones(3)).shape == (1,)
    assert np.all(run.history["loss"][:, -1] < run.history["loss"][:, 0])


def test_by_default_only_the_ends_are_kept_and_converged_runs_stop_between(x64):
    run = train_many(regression(), optax.sgd(0.2), starts(), num_steps=3000, tol=1e-6, check_every=50, **QUIET)
    assert run.history["loss"].shape == (6, 2)
    assert run.counts[Outcome.CONVERGED] == 6
    assert np.all((run.steps % 50 == 0) & (run.steps < 1000))
    np.testing.assert_array_equal(run.history["step"][:, -1], run.steps)
    design = np.column_stack([X, np.ones(9)])
    solution = np.linalg.lstsq(design, Y, rcond=None)[0]
    np.testing.assert_allclose(run.params["w"], np.tile(solution[:3], (6, 1)), atol=1e-4)


def test_one_of_many_and_counts():
    run = train_many(regression(), optax.sgd, starts(), num_steps=400, hyper=jnp.asarray(RATES), **QUIET)
    assert run.counts == {Outcome.CONVERGED: 0, Outcome.MAX_STEPS: 5, Outcome.DIVERGED: 1}
    assert run[3].outcome == Outcome.DIVERGED
    assert run[[0, 3]].steps.shape == (2,)
    # like everything else of many runs, it has their axis
    assert run.outcome.tolist() == [run[i].outcome for i in range(6)]
    assert np.sum(run.outcome == Outcome.DIVERGED) == 1
    assert run[[0, 3]].outcome.tolist() == [Outcome.MAX_STEPS, Outcome.DIVERGED]


def test_the_loop_ends_with_the_last_run_and_not_before(x64):
    seen = []

    def counted(params, batch):
        jax.debug.callback(lambda x: seen.append(float(x)), params)
        return (params - 2.0) ** 2

    # half the rest is left after each step: 2^-10 < 1e-3 after 10 steps from 1, after 20 from 1000
    inits = jnp.array([3.0, 1002.0])
    run = train_many(Objective(counted), optax.sgd(0.25), inits, num_steps=10**6, record_every=2, tol=2e-3,
                     check_every=2, batch=2, **QUIET)  # fmt: skip
    np.testing.assert_array_equal(run.steps, [10, 20])
    jax.effects_barrier()
    assert len(seen) < 3000


def test_runs_as_a_point_function_and_some_of_them(tmp_path):
    runs = Runs(objective=regression(), optimizer=optax.sgd(0.1), inits=starts(), num_runs=6, num_steps=8)
    landscape = sweep(runs, Grid.of(run=[1, 4]), progress=False)
    assert set(landscape) == {"params.w", "params.head.b", "history.step", "history.loss", "history.grad_norm",
                              "outcome", "steps"}  # fmt: skip
    assert landscape["outcome"].dtype == landscape["steps"].dtype == np.int32
    some = runs.gather(landscape)
    every = train_many(regression(), optax.sgd(0.1), starts(), num_steps=8, record_every=1, **QUIET)
    same(some.params, every[[1, 4]].params, rtol=1e-5)


def test_names_of_parameters_with_slashes_are_stored(tmp_path):
    objective = Objective(lambda p, _: jnp.sum(p["net/linear"]["w"] ** 2))
    inits = {"net/linear": {"w": jnp.full((3, 2), 1.5)}}
    run = train_many(objective, optax.sgd(0.1), inits, num_steps=3, store=tmp_path / "runs", **QUIET)
    assert "params.net.linear.w" in ls.load(tmp_path / "runs")
    np.testing.assert_allclose(run.params["net/linear"]["w"], 1.5 * 0.8**3, rtol=1e-6)


def test_shards_meet_in_the_store(tmp_path, monkeypatch):
    def shard(i):
        return train_many(
            regression(), optax.sgd(0.1), starts(), num_steps=8, batch=2, store=tmp_path / "runs", shard=(i, 2), **QUIET
        )

    monkeypatch.setattr(_job, "TILE_SECONDS", 1e-9)
    first, both = shard(0), shard(1)
    np.testing.assert_array_equal(first.outcome_code, [1, 1, -1, -1, 1, 1])
    assert sum(first.counts.values()) == 4
    np.testing.assert_array_equal(both.outcome_code, np.full(6, Outcome.MAX_STEPS))


SCRIPT = """
import sys
import jax, jax.numpy as jnp, optax
from landscape import Objective, train_many
from landscape.engine import _job
_job.TILE_SECONDS = 0.02
def loss(p, batch):
    return (jnp.tanh(batch["x"] @ p["w"]) @ p["v"] - batch["y"]) ** 2
def init(key):
    a, b = jax.random.split(key)
    return {"w": jax.random.normal(a, (5, 30)), "v": jax.random.normal(b, (30,))}
x = jax.random.normal(jax.random.key(1), (200, 5))
objective = Objective(loss, {"x": x, "y": jnp.sin(x[:, 0])})
rates = jnp.geomspace(0.01, 0.3, 96)
train_many(objective, optax.adam, init, num_runs=96, num_steps=150, hyper=rates, key=jax.random.key(2), batch_size=50,
           store=sys.argv[1], batch=4, progress=False)
"""


def script(tmp_path, out):
    (tmp_path / "script.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(out)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.DEVNULL,
    )


def marks(out):
    return [p for p in (out / "computed" / "c").rglob("*") if p.is_file()]


def test_killed_and_resumed_gives_the_same_bits(tmp_path):
    process = script(tmp_path, tmp_path / "killed")
    while len(marks(tmp_path / "killed")) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    partial = ls.load(tmp_path / "killed")
    assert 0 < partial.computed.sum() < 96
    for out in ("killed", "undisturbed"):
        process = script(tmp_path, tmp_path / out)
        assert process.wait(120) == 0
    one, other = ls.load(tmp_path / "killed"), ls.load(tmp_path / "undisturbed")
    assert one.computed.all()
    assert one.meta["calls"][-1]["evaluations"] < 96
    for name in other:
        np.testing.assert_array_equal(one[name], other[name])


def test_the_program_lowers_for_a_gpu():
    runs = Runs(objective=regression(), optimizer=optax.adam(0.1), inits=starts(), num_runs=6, num_steps=40,
                record_every=20, tol=0.1)  # fmt: skip
    program = jax.jit(jax.vmap(runs)).trace(jnp.arange(6.0)[:, None])
    assert "while" in program.lower(lowering_platforms=("cuda",)).as_text()


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"inits": {"w": jnp.zeros((6, 3)), "head": {"b": jnp.zeros(5)}}}, ValueError,
         r"inits\.w must have a leading axis of the 5 runs, got float32\[6, 3\]"),
        ({"inits": {"w": jnp.float32(2.0)}}, ValueError, "inits must have a leading axis, one row per run"),
        ({"inits": {"w": jnp.arange(6)}}, TypeError, r"inits\.w must be a real floating-point array"),
        ({"inits": lambda key: jnp.ones(3)}, ValueError, "inits is a function: say how many runs by num_runs="),
        ({"inits": lambda key: jnp.ones(3), "num_runs": 4}, ValueError, "is a function of a random key: pass key="),
        ({"inits": lambda key: jnp.ones(3), "num_runs": 0}, ValueError, "num_runs must be at least 1, got 0"),
        ({"inits": lambda key: jnp.ones(3), "num_runs": 2.0}, TypeError, "num_runs must be an integer, got float"),
        ({"inits": lambda key: jnp.arange(3), "num_runs": 4, "key": jax.random.key(0)}, TypeError,
         r"the result of inits\(key\).* must be a real floating-point array, got int32\[3\]"),
        ({"num_runs": 6}, TypeError, r"num_runs= goes with a function inits\(key\) -> params, got dict"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be an optax optimizer such as .* got float"),
        ({"hyper": jnp.ones(6)}, TypeError, "optimizer must be a function hyper_i -> optax optimizer, got Gradient"),
        ({"optimizer": optax.sgd, "hyper": jnp.ones(5)}, ValueError, "hyper must have a leading axis of the 6 runs"),
        ({"optimizer": lambda h: h, "hyper": jnp.ones(6)}, TypeError, r"the result of optimizer\(hyper_i\) must be an"),
        ({"objective": residual}, TypeError, "objective must be a landscape.Objective, got function"),
        ({"track": {"test": residual}}, TypeError, r"track\['test'\] must be a landscape.Objective, got function"),
        ({"batch_size": 3}, ValueError, "batch_size= draws minibatches at random: pass key="),
        ({"num_steps": -1}, ValueError, "num_steps must be at least 0, got -1"),
        ({"check_every": 0}, ValueError, "check_every must be at least 1, got 0"),
        ({"batch": 0}, ValueError, "batch must be 'auto'"),
    ],
)  # fmt: skip
def test_what_cannot_be(changes, error, said):
    arguments = {"objective": regression(), "optimizer": optax.sgd(0.1), "inits": starts(), "num_steps": 5} | changes
    with pytest.raises(error, match=said):
        train_many(**arguments, **QUIET)


def test_grids_that_are_no_run_numbers():
    runs = Runs(objective=regression(), optimizer=optax.sgd(0.1), inits=starts(), num_runs=6, num_steps=8)
    for grid in (Grid.of(run=[1.5]), Grid.of(run=[6]), Grid.of(run=[1], other=[2])):
        with pytest.raises(ValueError, match="a grid of one axis of run numbers from 0 to 5"):
            runs.check_grid(grid)


def test_two_parameters_of_one_name_are_refused():
    objective = Objective(lambda p, _: jnp.sum(p["a.b"] ** 2 + p["a"]["b"] ** 2))
    with pytest.raises(ValueError, match="two parameters have the same name"):
        train_many(objective, optax.sgd(0.1), {"a.b": jnp.ones(4), "a": {"b": jnp.ones(4)}}, num_steps=3, **QUIET)


def test_run_numbers_that_single_precision_rounds_are_refused():
    runs = ls.training.Runs(
        objective=ls.Objective(lambda p, _: jnp.sum(p**2)),
        optimizer=optax.sgd(0.1),
        init=lambda key: jax.random.normal(key, (1,)),
        num_runs=2**25,
        num_steps=2,
        key=jax.random.key(3),
    )
    with pytest.raises(ValueError, match="run numbers go up to 16777217, which is not exact in float32"):
        ls.sweep(runs, ls.Grid.of(run=[2.0**24 + 1]))


def test_a_leaf_without_entries_is_carried_along():
    inits = {"w": jnp.array([[0.5, 2.0], [1.5, 3.0]]), "none": jnp.zeros((2, 0, 3))}
    objective = Objective(lambda p, _: jnp.sum(p["w"] ** 2) + jnp.sum(p["none"]))
    runs = train_many(objective, optax.sgd(0.25), inits, num_steps=2, record_every=1, snapshots=True, progress=False)
    np.testing.assert_allclose(runs.params["w"], 0.25 * np.array([[0.5, 2.0], [1.5, 3.0]]))  # halved twice
    assert runs.params["none"].shape == (2, 0, 3)
    assert runs.snapshots["none"].shape == (2, 3, 0, 3)


def test_starts_with_state_are_told_apart():
    class Start:
        __hash__ = None

        def __init__(self, size):
            self.size = size

        def __eq__(self, other):
            return True

        def __call__(self, key):
            return jnp.full(2, self.size)

    bowl = Objective(lambda p, _: jnp.sum(p**2))
    for size in (0.5, 2.5):
        options = {"num_steps": 1, "num_runs": 2, "key": jax.random.key(0), "progress": False}
        runs = train_many(bowl, optax.sgd(0.25), Start(size), **options)
        np.testing.assert_allclose(runs.params, np.full((2, 2), size / 2))
