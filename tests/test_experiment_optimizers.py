"""The same starts under five optimizers: plain loops, paired tests against SciPy, rules for rates, and the script."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import optimizers
import pytest
import scipy.stats
from _lab import Lab, UsageError
from _networks import optimizers as network
from _networks.minima import digits_with_decay
from scripts import run_script

import landscape as ls
from landscape import minima

matplotlib.use("Agg")
ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("optimizers")  # the tests share compiled programs
RNG = np.random.default_rng(12)
KEYS = list(optimizers.WORDS)

MY_MODEL = """
import jax, jax.numpy as jnp, numpy as np
import landscape as ls

def loss(params, batch):
    return (jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2 + 0.01 * jnp.sum(params["w"] ** 2)

def factory():
    x = np.random.default_rng(4).normal(size=(60, 3)).astype("float32")
    data = {"x": x, "y": np.sin(2 * x[:, 0])}
    init = lambda key: {"w": jax.random.normal(key, (3, 2)), "v": jnp.full(2, 0.3)}
    return ls.Problem(init, {"train": ls.Objective(loss, data)}, name="mine")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the script leaves behind, for a model of one's own."""
    folder = tmp_path_factory.mktemp("optimizers")
    (folder / "my_model.py").write_text(MY_MODEL)
    problem = ("--problem", f"{folder / 'my_model.py'}:factory")
    done = run_script("optimizers", "--smoke", "--out", folder / "out", *problem, "--batch", 64)
    assert done.returncode == 0, done.stderr
    assert "starts that change their verdict" in done.stdout
    return folder / "out"


@pytest.fixture(scope="module")
def result(folder):
    names = [f"{kind}_{key}" for kind in ("function", "network") for key in KEYS]
    return {name: ls.load(folder / f"{name}.zarr") for name in (*names, "network_minima")}


# ------------------------------------------------------------------------------------------------------------ laws


@pytest.mark.slow
def test_the_map_of_gradient_descent_against_a_plain_loop(result):
    landscape = result["function_gd"]
    rate = float(landscape.meta["optimizer"].split("rate ")[1])
    x, y = (a.copy() for a in np.meshgrid(*(axis.values for axis in landscape.grid.axes), indexing="ij"))
    for _ in range(optimizers.SMOKE.function_steps):
        p, q = x**2 + y - 11, x + y**2 - 7
        x, y = x - rate * (4 * x * p + 2 * q), y - rate * (2 * p + 4 * y * q)
    places = np.asarray(landscape.meta["function"]["minima"])
    expected = np.argmin(np.hypot(x[..., None] - places[:, 0], y[..., None] - places[:, 1]), axis=-1)
    np.testing.assert_array_equal(landscape["label"], expected)


@pytest.mark.slow
def test_all_maps_have_the_same_starts_and_minima(result):
    first = result["function_gd"]
    for key in KEYS[1:]:
        other = result[f"function_{key}"]
        for a, b in zip(first.grid.axes, other.grid.axes):
            np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(first.meta["function"]["minima"], other.meta["function"]["minima"])
        # all four minima of Himmelblau's function have the value 0
        reached = (other["label"] >= 0) & (other["outcome"] == ls.Outcome.CONVERGED)
        assert reached.any() or key == "sgd"
        assert np.all(other["train_loss"][reached] < 1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_every_optimizer_starts_the_network_where_the_others_do(key):
    campaign = network.Campaign(digits_with_decay((2,), 0.01, 0.9), 4, 1, 1, 16, 1e-9, 5)
    runs, first = (campaign.runs(name, optax.sgd(0.1), 4) for name in (key, "gd"))
    pilot = campaign.runs(key, optax.sgd(0.1), 4, stream=1)
    starts = [jax.jit(one.init)(jax.random.split(jax.random.fold_in(one.key, 2))[0]) for one in (runs, first, pilot)]
    jax.tree.map(np.testing.assert_array_equal, starts[0], starts[1])
    assert np.all(np.asarray(starts[2][0]["kernel"]) != np.asarray(starts[0][0]["kernel"]))
    assert runs.batch_size == (16 if key == "sgd" else None)


def test_the_gradient_noise_has_its_size():
    slope, rate, noise = np.array([3.0, -2.0]), 0.01, 1.5
    optimizer = optimizers.build("sgd", noise, 3, rate)

    def step(carry, _):
        updates, memory = optimizer.update(jnp.asarray(slope, jnp.float32), carry)
        return memory, updates

    updates = np.asarray(jax.lax.scan(step, optimizer.init(jnp.zeros(2)), length=4000)[1])
    expected = rate * noise
    np.testing.assert_allclose(updates.mean(axis=0), -rate * slope, atol=5 * expected / np.sqrt(4000))
    np.testing.assert_allclose(updates.std(axis=0), expected, rtol=5 / np.sqrt(2 * 4000))


@pytest.mark.parametrize("key", ["gd", "momentum", "adam"])
def test_optimizers_are_what_they_are_called(key):
    optimizer, gradient, rate = optimizers.build(key, 0.0, 0, 0.3), np.array([2.0, -0.5]), 0.3
    memory, moved = optimizer.init(jnp.zeros(2)), []
    for _ in range(2):
        updates, memory = optimizer.update(jnp.asarray(gradient), memory)
        moved.append(np.asarray(updates))
    expected = {"gd": [gradient, gradient], "momentum": [gradient, 1.9 * gradient], "adam": [np.sign(gradient)] * 2}
    np.testing.assert_allclose(moved, -rate * np.asarray(expected[key]), rtol=1e-4)


def test_polished_ends_of_one_minimum_are_one():
    bowl = ls.Objective(lambda p, batch: jnp.sum((p["x"] - batch) ** 2, axis=-1), jnp.array([[2.4, -1.5]]))
    problem = ls.Problem(lambda key: {"x": jax.random.normal(key, (2,))}, {"train": bowl})
    campaign = network.Campaign(problem, 2, 1, 1, 1, 1e-3, 0, minima.Identity())
    lab = Lab(options={"progress": False, "batch": 1})
    runs = {name: campaign.runs("gd", optimizers.fixed("gd", 0.0, 0, 0.1), 2) for name in "ab"}
    ended = {name: lab.sweep(name, one, ls.Grid.of(run=np.arange(2))) for name, one in runs.items()}
    found = network.polish(campaign, runs, ended, 2, lab)
    np.testing.assert_array_equal(found.meta["labels"], np.zeros((2, 2)))
    np.testing.assert_allclose(found["end"], [[2.4, -1.5]] * 4, atol=1e-6)


def test_ends_keep_the_order_of_their_layers():
    """With more than ten, in which the names of layers are no longer in alphabetical order."""

    def init(key):
        return [{"w": jnp.full(2, number + 2.5)} for number in range(12)]

    bowls = ls.Objective(lambda p, batch: sum(jnp.sum(layer["w"] ** 2) for layer in p) + batch, jnp.array([0.5, 0.25]))
    campaign = network.Campaign(ls.Problem(init, {"train": bowls}), 3, 1, 1, 1, 1e-3, 0, minima.Identity())
    runs = {"gd": campaign.runs("gd", optimizers.fixed("gd", 0.0, 0, 0.1), 3)}
    swept = Lab(options={"progress": False, "batch": 1}).sweep("gd", runs["gd"], ls.Grid.of(run=np.arange(3)))
    ends = network.first_ends(runs, {"gd": swept}, 2)
    for number, layer in enumerate(ends):  # a step of rate 0.1 on |w|^2 leaves 0.8 of each weight
        np.testing.assert_allclose(layer["w"], np.full((2, 2), 0.8 * (number + 2.5)), rtol=1e-6)


def test_a_shard_that_waits_for_a_pilot_says_so(tmp_path):
    """A pilot that other shards still compute is among the results, so that no table is made without the network."""
    config = dataclasses.replace(optimizers.SMOKE, rates=(0.01, 0.1), starts=4)
    problem = ls.Problem(
        lambda key: jax.random.normal(key, (2,)),
        {"train": ls.Objective(lambda p, batch: (batch @ p - 1.5) ** 2, jnp.ones((40, 2)))},
    )
    lab = Lab(tmp_path, {"progress": False, "batch": 16, "shard": (1, 2)}, problem)
    found = optimizers._on_network(config, lab)
    assert list(found) == ["pilot_network_gd"]
    assert not found["pilot_network_gd"].computed.all()


# ------------------------------------------------------------------------------------------------- rules and tests


def test_the_fastest_rate_that_arrives():
    rates, steps = np.array([0.003, 0.01, 0.03, 0.1]), np.array([500.0, 80.0, 90.0, 20.0])
    assert optimizers.fastest_rate(np.array([1.0, 0.97, 0.96, 0.5]), steps, rates) == (0.01, 0.97)
    assert optimizers.fastest_rate(np.array([0.2, 0.4, 0.6, 0.0]), steps, rates) == (0.03, 0.6)


def test_the_best_rate_is_judged_by_the_median():
    losses = np.array([[2.0, 3.0, 4.0], [1.0, 1.5, np.nan], [0.1, np.inf, np.inf]])
    assert network.best_rate(losses, np.array([0.01, 0.1, 2.0])) == 0.1


def test_paired_differences_against_scipy():
    a = RNG.normal(2, 1, 400)
    b = a + RNG.normal(0.1, 0.3, 400)
    mean, errors = network.paired(a, b)
    expected = scipy.stats.ttest_rel(a, b)
    assert errors == pytest.approx(expected.statistic, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose([mean.low, mean.high], [interval.low, interval.high], rtol=1e-9)
    b[5] = np.nan
    assert network.paired(a, b)[0].value == pytest.approx(np.nanmean(a - b))


def test_changes_and_distances_by_hand():
    labels = np.array([[0, 1, -1, 2, 3], [0, 2, 1, -1, 3]])
    assert network.changed_minimum(labels) == (1, 3)
    assert network.share_text(1, 3).startswith("33.33% [6.15%, 79.23%] of 3")
    assert network.share_text(0, 0) == "no start to compare"
    a, b = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 10.0]]), np.array([[0.0, 2.0], [3.0, 4.5], [9.0, 10.0]])
    assert network.same_start_distance(a, b) == pytest.approx(2.0)
    assert network.other_start_distance(a) == pytest.approx(5.5)


@pytest.mark.slow
def test_findings_and_figures(result):
    rows = {what: found for what, _, found in optimizers.findings(result)}
    assert len(rows) == len(optimizers.findings(result))
    for a, b in (("gd", "momentum"), ("lbfgs", "sgd")):
        assert "of 225" in rows[f"function, {a} and {b}: starts that change their verdict"]
        assert "standard errors" in rows[f"network, {a} minus {b}: train loss"]
    assert "uniform on [-5, 5] x [-5, 5]" in rows["function, adam: optimizer"]
    with ls.plotting.style("paper"):
        assert list(optimizers.plot(result)) == ["maps", "verdicts", "network"]
        matplotlib.pyplot.close("all")


# ---------------------------------------------------------------------------------------------------------- script


@pytest.mark.slow
def test_script(folder):
    files = {p.name for p in folder.iterdir()}
    assert {"maps.png", "verdicts.pdf", "network.png", "function_gd.zarr", "network_lbfgs.zarr"} <= files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 4}, "needs --resolution >= 5"),
        ({"rates": ()}, "needs --rates and --tol > 0 and --noise >= 0"),
        ({"starts": 3}, "needs --starts >= 4"),
        ({"polished": 7}, "needs --polished from 0 to --starts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        optimizers.run(dataclasses.replace(optimizers.SMOKE, **changes), Lab())


def test_minibatches_need_examples():
    problem = digits_with_decay((2,), 0.01, 0.99)
    with pytest.raises(UsageError, match="--batch-size must be between 1 and the 18 examples, got 32"):
        optimizers.run(optimizers.SMOKE, Lab(problem=problem))


@pytest.mark.slow
def test_optimizers_draw_different_maps():
    config = optimizers.Config(resolution=61, starts=0, polished=0)
    maps = optimizers.part(optimizers.run(config, Lab(options={"progress": False})), "function")
    assert list(maps) == KEYS
    for key, landscape in maps.items():
        assert np.mean(landscape["label"] >= 0) > 0.9, key
    changed, num = optimizers.changed_verdicts(maps["gd"], maps["momentum"])
    assert changed / num > 0.1
