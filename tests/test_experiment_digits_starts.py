"""Ten thousand starts: collectors of known size, exact identities of minima, symmetric copies, and the script."""

import dataclasses
import json
from pathlib import Path

import digits_starts
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import scipy.stats
from _lab import Lab, UsageError
from _networks import minima as digits_minima
from matplotlib import pyplot
from scripts import run_script

import landscape as ls
from landscape import analysis as estimates

matplotlib.use("Agg")
ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("digits_starts")  # the tests share compiled programs
RNG = np.random.default_rng(11)
TINY = digits_starts.SMOKE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the script leaves behind."""
    folder = tmp_path_factory.mktemp("digits_starts")
    done = run_script("digits_starts", "--smoke", "--out", folder, "--batch", 4)
    assert done.returncode == 0, done.stderr
    assert "reach 100 % training accuracy" in done.stdout
    return folder


@pytest.fixture(scope="module")
def result(folder):
    names = ("starts_1", "starts_4", "minima", "plane", "plane_zoom")
    return {name: ls.load(folder / f"{name}.zarr") for name in names}


# ------------------------------------------------------------------------------------------------------ statistics


def test_richness_by_hand():
    found = digits_minima.richness(np.array([0, 0, 0, 3, 3, 5, 7, -1, 9, 4, 4, -2]))
    # counts 3, 2, 2, 1, 1, 1 of n = 10: f1 = 3, f2 = 2
    assert (found.num, found.seen, found.once, found.twice) == (10, 6, 3, 2)
    assert found.estimate == pytest.approx(6 + 0.9 * 9 / 4)
    assert found.stderr**2 == pytest.approx(2 * (0.45 * 2.25 / 1 + 0.81 * 3.375 + 0.2025 * 5.0625))
    assert found.low <= found.estimate <= found.high
    assert found.low > found.seen


def test_richness_of_a_collector_whose_cards_are_known():
    kinds, inside = 60, 0
    for seed in range(200):
        found = digits_minima.richness(np.random.default_rng([7, seed]).integers(0, kinds, 90))
        inside += found.low <= kinds <= found.high
    assert scipy.stats.binomtest(inside, 200, 0.95).pvalue > 1e-3


def test_richness_is_a_lower_bound_where_kinds_are_rare():
    weights = 1 / np.arange(1, 1001) ** 1.5
    draws = [np.random.default_rng([8, seed]).choice(1000, 150, p=weights / weights.sum()) for seed in range(50)]
    assert np.mean([digits_minima.richness(draw).estimate for draw in draws]) < 1000


@pytest.mark.parametrize("num", [12, 200])
def test_the_birthday_bound_is_that_of_the_exact_product(num):
    bound = digits_minima.richness(np.arange(num)).at_least
    none_twice = float(np.prod(1 - np.arange(num) / bound))
    assert none_twice <= 0.05
    assert float(np.prod(1 - np.arange(num) / (1.4 * bound))) > 0.05


def test_correlation_and_share_against_scipy():
    x = RNG.normal(size=40)
    y = 0.6 * x + RNG.normal(size=40)
    found, expected = estimates.correlation(x, y), scipy.stats.pearsonr(x, y)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found, [expected.statistic, interval.low, interval.high], rtol=1e-6)
    for count in (0, 3, 17):
        interval = scipy.stats.binomtest(count, 17).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(estimates.share_of(count, 17), [count / 17, interval.low, interval.high], atol=1e-6)


@pytest.mark.parametrize("num", [2, 3, 40])
def test_means_against_scipy(num):
    x = RNG.normal(3.0, 2.0, num)
    low, high = scipy.stats.t.interval(0.95, num - 1, loc=x.mean(), scale=scipy.stats.sem(x))
    found = estimates.mean_of(x)
    np.testing.assert_allclose(found, [x.mean(), low, high], rtol=1e-9)
    assert f"{found:+.2f}" == f"{x.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def test_neighbours_of_a_smooth_map_agree_and_of_noise_do_not():
    smooth = np.add.outer(np.linspace(2, 3, 30) ** 2, np.sin(np.linspace(4, 6, 20)))
    assert digits_minima.neighbour_correlation(smooth) > 0.95
    smooth[4, 5] = 1e6  # one cell in the ranks is one cell
    assert digits_minima.neighbour_correlation(smooth) > 0.9
    noise = digits_minima.neighbour_correlation(RNG.normal(size=(60, 50)))
    assert abs(noise) < 0.1


# ------------------------------------------------------------------------------------------------------------ laws


def test_the_training_loss_has_the_decay_and_the_test_loss_has_not():
    problem = digits_starts.digits_with_decay((3,), 0.25, 0.8, examples=60)
    assert problem.objectives["train"].num_examples == 60
    params = problem.init(jax.random.key(4))
    train, test = (problem.objectives[name].evaluate(params) for name in ("train", "test"))
    squares = sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(params))
    for name, measured, key in (("train", train, "cross_entropy"), ("test", test, "loss")):
        data, weights = jax.tree.map(np.asarray, (problem.objectives[name].data, params))
        logits = np.tanh(data["x"] @ weights[0]["kernel"]) @ weights[1]["kernel"]
        log_p = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        expected = -np.mean(log_p[np.arange(len(logits)), data["y"]])
        assert float(measured[key]) == pytest.approx(expected, rel=1e-5)
    assert float(train["loss"]) == pytest.approx(float(train["cross_entropy"]) + 0.125 * squares, rel=1e-5)


def test_a_start_is_a_multiple_of_the_same_start_at_another_scale():
    problem = digits_starts.digits_with_decay((2,), 0.1, 0.9)
    one, other = (digits_starts.campaign(problem, TINY, 5, scale) for scale in (1.0, 2.5))
    starts = [jax.jit(runs.init)(jax.random.key(3)) for runs in (one, other)]
    np.testing.assert_allclose(starts[1][0]["kernel"], 2.5 * starts[0][0]["kernel"], rtol=1e-6)
    assert jax.random.key_data(one.key).tolist() == jax.random.key_data(other.key).tolist()


def test_exchanging_units_changes_weights_and_no_prediction():
    problem = ls.problems.digits_mlp((5, 4), test_fraction=0.5)
    stacked = jax.vmap(problem.init)(jax.random.split(jax.random.key(2), 3))
    moved = digits_minima.exchanged(stacked, seed=6)
    x = problem.objectives["test"].data["x"][:20]
    for i in range(3):
        before, after = (jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (stacked, moved))
        np.testing.assert_allclose(problem.predict(after, x), problem.predict(before, x), atol=1e-5)
        assert np.abs(after[0]["kernel"] - before[0]["kernel"]).max() > 0.05
        assert digits_minima.SYMMETRY.distance(before, after) < 1e-5


@pytest.mark.slow
def test_minima_satisfy_their_identities(result):
    about = result["minima"].meta["told_apart"]
    assert len(about["labels"]) == TINY.polished
    assert np.all(result["minima"]["grad_norm"] <= digits_minima.POLISH_TOL)
    assert about["minima_again"] == [TINY.polished, TINY.polished]
    # a shift of all logits is penalised and nothing else, and so is a weight that no data reach
    assert about["identities"]["output_sums"] < 1e-5
    assert about["identities"]["dark_weights"] < 1e-5
    assert about["identities"]["dark_pixels"] >= 3
    assert min(about["lowest_eigenvalues"]) > 0
    # a weight from a dark pixel has the curvature of the decay, so no smallest eigenvalue exceeds it
    assert max(about["lowest_eigenvalues"]) <= TINY.decay * (1 + 1e-9)


@pytest.mark.slow
def test_minima_lie_below_the_ends_they_come_from(result):
    ends = digits_starts.last(result["starts_1"], "train_loss")[: TINY.polished]
    assert np.all(result["minima"]["loss"][: TINY.polished] <= ends + 1e-6)


@pytest.mark.slow
def test_a_start_and_its_negative_end_alike(result):
    test = result["plane"]["test_loss"]
    np.testing.assert_allclose(test, test[::-1, ::-1], rtol=1e-4)
    # the zero network only learns how frequent the digits are
    problem = digits_starts.digits_with_decay(TINY.hidden, TINY.decay, TINY.test_fraction)
    counts = np.bincount(problem.objectives["train"].data["y"], minlength=10)
    frequency = counts / counts.sum()
    entropy = -np.sum(frequency * np.log(frequency))
    assert entropy <= result["plane"]["train_loss"][1, 1] <= np.log(10) + 1e-6


@pytest.mark.slow
def test_findings_and_figures(result):
    rows = {what: (expected, found) for what, expected, found in digits_starts.findings(result)}
    for words in ("starts 1 x", "starts 4 x", "reach 100 %", "distinct minima", "found again", "plane"):
        assert any(words in what for what in rows), words
    assert all(len(row) == 2 for row in rows.values())
    with ls.plotting.style("paper"):
        figures = digits_starts.plot(result)
        assert list(figures) == ["starts", "minima", "plane"]
        matplotlib.pyplot.close("all")


def made(accuracy):
    """Ends of runs with these training accuracies."""
    grid = ls.Grid.of(run=np.arange(len(accuracy)))
    values = np.stack([np.zeros(len(accuracy)), accuracy], axis=1)
    outputs = {"history.train_accuracy": values, "history.test_loss": values + 2, "history.test_accuracy": values}
    outputs["history.train_loss"] = 3 - values
    meta = {"optimizer": "o", "initialisation": "i", "starts": {"scale": 1.0, "model": "m"}}
    return ls.Landscape(grid, outputs, np.ones(grid.shape, bool), {}, meta)


def test_findings_of_a_made_result():
    starts = made(np.array([1.0, 0.5, 1.0, 1.0, 0.75]))
    np.testing.assert_array_equal(digits_starts.solved(starts), [True, False, True, True, False])
    rows = {what.split(": ")[-1]: found for what, _, found in digits_starts.findings({"starts_1": starts})}
    assert rows["reach 100 % training accuracy"].startswith("60.00% [23.07%, 88.24%] of 5")
    assert rows["test loss, mean"].startswith("2.85000")
    assert rows["correlation of train and test loss"].startswith("-1.000")


def test_runs_without_a_finite_loss_are_counted():
    starts = made(np.array([1.0, 0.5, 1.0, 1.0, 0.75, 0.25]))
    lost = {name: starts[f"history.{name}"].copy() for name in ("train_loss", "test_loss")}
    lost["train_loss"][1, -1], lost["test_loss"][4, -1] = np.nan, np.inf
    starts = starts.assign(**{f"history.{name}": values for name, values in lost.items()})
    rows = {what.split(": ")[-1]: (expected, found) for what, expected, found in digits_starts._start_rows(starts)}
    assert rows["runs without a finite loss, left out"] == ("none", "2 of 6")
    assert rows["test loss, mean"][1].startswith("2.81250")  # of 3, 3, 3 and 2.25
    _, ax = pyplot.subplots()
    digits_starts._draw_spread(ax, [starts])
    assert ax.lines[0].get_ydata() == pytest.approx([2.75])  # of 3, 2.5, 3, 3 and 2.25
    pyplot.close("all")


# ---------------------------------------------------------------------------------------------------------- script


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": 3}, "needs --runs, --scale-runs and --polished >= 4"),
        ({"polished": 25}, "no more --polished than --runs"),
        ({"decay": 0.0}, "--decay > 0: without decay there is no minimum"),
        ({"resolution": 6}, "--resolution must be odd and at least 3, got 6"),
        ({"zoom": 0.5}, "--zoom > 1"),
        ({"hidden": (0,)}, r"widths must be at least 1, got --hidden \(0,\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        digits_starts.run(dataclasses.replace(TINY, **changes), Lab())


def test_script(folder):
    files = {p.name for p in folder.iterdir()}
    assert {"starts.png", "minima.pdf", "plane.png", "starts_1.zarr", "minima.zarr"} <= files
    rows = json.loads((folder / "findings.json").read_text())
    assert all(set(row) == {"what", "expected", "found"} for row in rows)


@pytest.mark.slow
def test_every_start_of_sixteen_units_solves_the_digits(tmp_path):
    config = digits_starts.Config(runs=300, scales=(), polished=40, narrow=(1,), resolution=3)
    result = digits_starts.run(config, Lab(options={"progress": False}))
    assert digits_starts.share_solved(result["starts_1"]).low > 0.98
    wide, narrow = (
        digits_minima.richness(result[name].meta["told_apart"]["labels"]) for name in ("minima", "minima_1")
    )
    assert wide.seen == 40
    assert narrow.seen < 15
    assert jnp.all(result["minima"]["converged"])
