"""Train against test: label noise, the counter-example of Dinh et al., correlations, memorised labels, the scripts."""

import dataclasses
import functools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import generalization
import jax
import jax.numpy as jnp
import memorization
import numpy as np
import pytest
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from _networks import label_noise as _label_noise
from _networks import rescaling as _rescaling
from scipy import stats
from scripts import run_script

import landscape as ls
from landscape import curvature, losses

ROOT = Path(__file__).parent.parent
SMOKE_ROWS = settings_rows(generalization.SMOKE, generalization.SMOKE)
pytestmark = pytest.mark.xdist_group("generalization")  # the tests share one run of the script


# ---------------------------------------------------------------------------------------------------- the rescaling


@functools.cache
def net(seed=3, inputs=5, hidden=4, classes=3, count=30):
    """A small network with random data, in float64; one for all tests, so that they share compiled programs."""
    init, predict = _rescaling.relu_net(inputs, hidden, classes)
    rng = np.random.default_rng(seed)
    data = {"x": jnp.asarray(rng.normal(size=(count, inputs))), "y": jnp.asarray(rng.integers(classes, size=count))}
    objective = ls.Objective(lambda p, b: losses.cross_entropy(predict(p, b["x"]), b["y"]), data)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), init(jax.random.key(seed))), objective


@pytest.mark.parametrize("a", [0.3, 7.0])
def test_the_hessian_of_the_rescaled_network_is_what_the_algebra_says(x64, a):
    params, objective = net()
    here = _rescaling.rescale(params, a)
    assert float(objective(here)) == pytest.approx(float(objective(params)), rel=1e-14)
    dense = np.asarray(curvature.hessian(objective, params))
    measured = np.asarray(curvature.hessian(objective, here))
    np.testing.assert_allclose(_rescaling.rescaled_hessian(dense, params, a), measured, rtol=1e-9, atol=1e-12)
    first = params["W1"].size
    np.testing.assert_allclose(measured[:first, :first], dense[:first, :first] / a**2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(measured[:first, first:], dense[:first, first:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(measured[first:, first:], dense[first:, first:] * a**2, rtol=1e-9, atol=1e-12)
    top = np.linalg.eigvalsh(measured)[-1]
    assert _rescaling.largest_eigenvalue(_rescaling.rescaled_hessian(dense, params, a)) == pytest.approx(top, rel=1e-10)


def test_the_surface_is_the_same_where_filters_are_normalised(x64):
    params, objective = net()
    directions = ls.subspace.random_directions(jax.random.key(1), params)
    coords = jnp.array([0.7, -0.4])
    for normalize, same in ((True, True), (False, False)):
        plane = _rescaling.RescaledPlane(params, directions, normalize)
        one, other = (float(objective(plane(jnp.array([a, *coords])))) for a in (1.0, 6.0))
        assert (abs(one - other) <= 1e-12 * one) == same
    moved = plane(jnp.array([6.0, 0.7, -0.4]))["W1"]
    np.testing.assert_allclose(moved, 6 * params["W1"] + 0.7 * directions["W1"][0] - 0.4 * directions["W1"][1])


@pytest.mark.slow
def test_the_script_measures_what_the_algebra_says(smoke):
    result = smoke[2]
    landscape = result["rescaled"]
    np.testing.assert_allclose(landscape["sharpness"], landscape.meta["predicted"], rtol=1e-8)
    for name in ("train_loss", "test_loss"):
        assert np.ptp(landscape[name]) <= 1e-13 * landscape[name].max()
    assert np.ptp(np.log10(landscape["sharpness"])) > 0.5
    assert _rescaling.difference(result["rescaled_filter"]) < 1e-12
    assert _rescaling.difference(result["rescaled_fixed"]) > 0.01


# ------------------------------------------------------------------------------------------------------ label noise


def test_the_asked_share_of_labels_is_drawn_and_shares_are_nested():
    labels = jnp.asarray(np.random.default_rng(0).integers(10, size=3000), jnp.int32)
    relabel = jax.jit(lambda share: _label_noise.relabel(jax.random.key(5), labels, share, 10))
    few, many = (np.asarray(relabel(share)) for share in (0.2, 0.6))
    changed = few != labels
    # one draw in ten is right
    assert stats.binomtest(int(changed.sum()), 600, 0.9).pvalue > 1e-3
    np.testing.assert_array_equal(many[changed], few[changed])
    everything = np.asarray(relabel(1.0))
    assert stats.binomtest(int(np.sum(everything == labels)), 3000, 0.1).pvalue > 1e-3
    assert stats.chisquare(np.bincount(everything, minlength=10)).pvalue > 1e-3
    np.testing.assert_array_equal(relabel(0.0), labels)


def test_the_standard_error_is_that_of_numpy():
    x = np.random.default_rng(2).gamma(2.0, 1.5, 57)
    objective = _label_noise.with_squares(ls.Objective(lambda p, b: p * b["x"], {"x": jnp.asarray(x, jnp.float32)}))
    found = objective.evaluate(jnp.float32(1.0))
    error = _label_noise.standard_error(np.float64(found["loss"]), np.float64(found["loss_squared"]), 57)
    assert error == pytest.approx(stats.sem(x), rel=1e-4)


def test_the_test_loss_under_noise_is_that_of_drawn_labels():
    rng = np.random.default_rng(4)
    logits, y = jnp.asarray(rng.normal(size=(40, 10)) * 2), jnp.asarray(rng.integers(10, size=40))
    clean = losses.cross_entropy(logits, y).mean()
    uniform = -jax.nn.log_softmax(logits).mean()
    expected = generalization.same_noise({"test_loss": float(clean), "test_uniform_loss": float(uniform)}, 0.3)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    means = []
    for _ in range(4000):  # twelve of forty labels, replaced by uniform draws
        drawn = np.array(y)
        drawn[rng.permutation(40)[:12]] = rng.integers(10, size=12)
        means.append(-np.mean(log_p[np.arange(40), drawn]))
    assert abs(np.mean(means) - expected) < 4 * stats.sem(means)


@pytest.mark.slow
def test_noise_spares_the_test_labels_and_is_the_same_for_all_runs(smoke):
    result, config = smoke[2], generalization.SMOKE
    trainings = generalization._trainings("digits", config, Lab())
    noisy = trainings.objective(jnp.float32(0.4))
    runs = result["runs_digits"]
    for number in (0, 2):
        params = trainings.params(runs["params"][1, number])
        assert float(noisy(params)) == pytest.approx(runs["history.loss"][1, number, -1], rel=1e-5)
        clean = trainings.track["test"].evaluate(params)
        assert float(clean["loss"]) == pytest.approx(runs["history.test_loss"][1, number, -1], rel=1e-5)


# ---------------------------------------------------------------------------------------------- the surfaces, the table


@pytest.mark.slow
def test_surfaces_go_through_the_first_run(smoke):
    result = smoke[2]
    for i, percent in enumerate((0, 40)):
        plane, line = result[f"plane_digits_{percent}"], result[f"line_digits_{percent}"]
        middle, end = plane.grid.index(0.0), line.grid.index(1.0)
        for part, name in (("train", "history.loss"), ("test", "history.test_loss")):
            ends = result["runs_digits"][name][i, 0]
            assert plane[f"{part}_loss"][middle] == pytest.approx(ends[-1], rel=1e-4)
            assert line[f"{part}_loss"][end] == pytest.approx(ends[-1], rel=1e-4)
            assert line[f"{part}_loss"][line.grid.index(0.0)] == pytest.approx(ends[0], rel=1e-4)
            assert np.all(plane[f"{part}_loss_sem"] > 0)
        # a mean over resamples of the examples is the mean, to its own standard error
        off = plane["test_resampled"].mean(axis=-1) - plane["test_loss"]
        assert np.all(np.abs(off) < 5 * plane["test_loss_sem"] / np.sqrt(generalization.SMOKE.resamples))


@pytest.mark.slow
def test_the_script_draws_what_it_prints(smoke):
    done, out, result = smoke
    drawn = {path.stem for path in out.glob("*.png")}
    assert drawn == {"curves_digits", "surfaces_digits", "sharpness", "rescaled"}
    order = [name for name in ("runs_digits", *sorted(result)) if name in result]
    rows = generalization.findings({name: result[name] for name in order})
    assert table([*SMOKE_ROWS, *rows]) == done.stdout.rstrip("\n")


@pytest.mark.slow
def test_the_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(smoke):
    runs = smoke[2]["runs_digits"]
    trainings = generalization._trainings("digits", generalization.SMOKE, Lab())
    noisy = trainings.objective(jnp.float32(0.4))
    for number in (0, 3):
        dense = np.asarray(curvature.hessian(noisy, trainings.params(runs["params"][1, number])), np.float64)
        assert np.linalg.eigvalsh(dense)[-1] == pytest.approx(float(runs["sharpness"][1, number]), rel=1e-4)


@pytest.mark.slow
def test_its_folder_is_resumed(smoke):
    out = smoke[1]
    result = generalization.run(generalization.SMOKE, Lab(out, {"progress": False}))
    assert table([*SMOKE_ROWS, *generalization.findings(result)]) == smoke[0].stdout.rstrip("\n")
    assert all(len(landscape.meta["calls"]) == 1 for landscape in result.values())


def test_the_rank_correlation_and_its_interval():
    rng = np.random.default_rng(6)
    x = rng.normal(size=64)
    y = x + rng.normal(size=64)
    rho, low, high = generalization.rank_correlation(np.exp(3 * x), y)  # ranks do not see the exponential
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
    half = 1.96 * np.sqrt((1 + rho**2 / 2) / 61)
    np.testing.assert_allclose([low, high], np.tanh(np.arctanh(rho) + np.array([-half, half])), rtol=1e-3)
    assert np.isnan(generalization.rank_correlation(x, np.full(64, 2.5))).all()
    y[3] = np.nan
    assert generalization.correlation_text(x, y).endswith("63 runs")


def test_the_interval_covers_the_correlation():
    # Of a bivariate normal with correlation r, Spearman's is (6 / pi) asin(r / 2).
    rng, r, truth = np.random.default_rng(8), 0.6, 6 / np.pi * np.arcsin(0.3)
    hits = 0
    for _ in range(400):
        x = rng.normal(size=64)
        _, low, high = generalization.rank_correlation(x, r * x + np.sqrt(1 - r**2) * rng.normal(size=64))
        hits += low <= truth <= high
    assert stats.binomtest(hits, 400, 0.95).pvalue > 1e-3


# -------------------------------------------------------------------------------------------------------- the user's


@pytest.mark.slow
def test_a_users_problem_is_compared_without_noise():
    rng = np.random.default_rng(0)
    parts = {name: jnp.asarray(rng.normal(size=(n, 4)), jnp.float32) for name, n in (("train", 40), ("test", 50))}
    objectives = {name: ls.Objective(lambda p, b: jnp.sum((b - p) ** 2, axis=1), x) for name, x in parts.items()}
    problem = ls.Problem(lambda key: jax.random.normal(key, (4,)), objectives, name="a mean")
    config = dataclasses.replace(generalization.SMOKE, epochs=150, learning_rate=0.02, batch_size=40)
    result = generalization.run(config, Lab(None, {"progress": False}, problem))
    assert set(result) == {"runs_own", "plane_own_0", "line_own_0"}
    rows = {what: found for what, _, found in generalization.findings(result)}
    centres = {name: np.asarray(x.mean(axis=0)) for name, x in parts.items()}
    # both losses are 4 around a centre: at the train mean the test loss is above its own by their squared distance
    gap = np.sum((centres["test"] - centres["train"]) ** 2)
    spread = {name: float(np.sum(np.var(x, axis=0))) for name, x in parts.items()}
    measured = float(rows["a mean, 0% noise: gap at the end"].split()[0])
    assert measured == pytest.approx(gap + spread["test"] - spread["train"], rel=0.02)
    np.testing.assert_allclose(result["runs_own"]["sharpness"], 2.0, rtol=1e-3)
    assert set(generalization.plot(result)) == {"curves_own", "surfaces_own", "sharpness"}


def test_a_problem_without_a_test_is_refused():
    problem = ls.Problem(lambda key: jnp.ones(2), {"train": ls.Objective(lambda p, _: jnp.sum(p**2))})
    with pytest.raises(UsageError, match=r"give Problem.objectives\['test'\] too"):
        generalization.run(generalization.SMOKE, Lab(problem=problem))


def test_a_loss_without_examples_is_refused_before_any_work():
    objective = ls.Objective(lambda p, b: jnp.mean((b - p) ** 2), jnp.ones((90, 2)))
    problem = ls.Problem(lambda key: jnp.ones(2), {"train": objective, "test": objective})
    with pytest.raises(ValueError, match="this needs the loss of each example"):
        generalization.run(generalization.SMOKE, Lab(problem=problem))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 3}, "--seeds >= 4"),
        ({"noise": (1.5,)}, "--noise wants shares between 0 and 1"),
        ({"noise": (0.2, 0.204)}, "--noise wants shares of different whole percentages"),
        ({"scales": (1.0, 2.0)}, "--scales wants positive factors below and above 1"),
        ({"data": ()}, "--data wants digits, mnist5k or both"),
        ({"examples": 1797}, "--examples of digits must be from the --batch-size up to 1796"),
        ({"resolution": 2}, "--resolution >= 3"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        generalization.run(dataclasses.replace(generalization.SMOKE, **changes), Lab())


# ------------------------------------------------------------------------------------------------------- memorisation


def curves(train, test, per_epoch=5):
    """Runs of two shares, `(2, runs, t)`."""
    step = np.tile(np.arange(train.shape[-1]) * 10, (*train.shape[:2], 1))
    values = {"history.train_accuracy": train, "history.test_accuracy": test, "history.step": step}
    values["history.test_loss"] = 5.0 - 4.0 * test
    grid = ls.Grid.of(noise=(0.5, 1.0), run=np.arange(train.shape[1]))
    return ls.Landscape(grid, values, np.ones(grid.shape, bool)).with_meta(runs={"per_epoch": per_epoch})


def test_what_is_found_of_memorised_labels():
    train = np.array(
        [[[0.2, 0.9, 1.0], [0.1, 1.0, 1.0], [0.3, 1.0, 1.0]], [[0.2, 0.5, 1.0], [0.1, 0.6, 0.98], [0, 0.9, 1]]]
    )
    test = np.stack([np.full((3, 3), 0.6), np.array([[0.1, 0.12, 0.09], [0.1, 0.1, 0.13], [0.1, 0.08, 0.11]])])
    runs = curves(train, test)
    np.testing.assert_array_equal(memorization.fitted(runs), [[4, 2, 2], [4, np.nan, 4]])
    rows = {what: (expected, found) for what, expected, found in memorization.findings({"runs": runs})}
    assert rows["50% random labels: runs that fit all training labels in the end"] == ("all 3", "3")
    assert rows["100% random labels: runs that fit all training labels in the end"] == ("all 3", "2")
    assert rows["50% random labels: epoch at which they first do"][1] == "2 (2 ... 4)"
    low, high = stats.t.interval(0.95, 2, loc=0.11, scale=0.02 / np.sqrt(3))
    text = f"0.110 (95 % {low:.3f} ... {high:.3f})"
    assert rows["100% random labels: test accuracy at the end"] == ("0.100 (exact)", text)
    expected, found = rows["100% random labels: largest |t| of the mean curve against chance"]
    looks = test[1, :, 1:]  # the first one has no error and no distance
    t = np.abs(stats.ttest_1samp(looks, 0.1).statistic)
    assert expected == f"at most {stats.t.isf(0.025 / 3, 2):.2f} (5 % over 3 looks)"
    assert found == f"{t.max():.2f}, where the mean is {looks.mean(axis=0)[t.argmax()]:.3f}"


def test_every_share_has_a_curve():
    shares = np.linspace(0, 1, 9)  # more than there are colours
    accuracy = np.broadcast_to(np.linspace(0.1, 0.9, 4), (9, 3, 4))
    values = {f"history.{part}_accuracy": accuracy for part in ("train", "test")}
    values["history.step"] = np.broadcast_to(np.arange(4) * 10, accuracy.shape)
    runs = ls.Landscape(ls.Grid.of(noise=shares, run=[0, 1, 2]), values, np.ones((9, 3), bool))
    figure = memorization.plot({"runs": runs.with_meta(runs={"per_epoch": 5})})["memorization"]
    assert len(figure.axes[0].get_legend().get_texts()) == 9
    matplotlib.pyplot.close(figure)


@pytest.mark.slow
def test_random_labels_are_fitted_and_the_test_stays_at_chance(tmp_path):
    done = run_script("memorization", "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    runs = ls.load(tmp_path / "runs.zarr")
    assert np.all(runs["history.train_accuracy"][..., -1] == 1)
    true, random = runs["history.test_accuracy"][..., -1]
    assert np.all(true > 0.6)
    assert abs(random.mean() - 0.1) < 5 * stats.sem(random) + 0.01
    epochs = memorization.fitted(runs)
    assert np.median(epochs[1]) > np.median(epochs[0])
    assert (tmp_path / "memorization.png").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": (0.5, 0.5)}, "--shares wants different shares"),
        ({"runs": 2}, "--runs >= 3"),
        ({"batch_size": 700}, "--batch-size <= --examples"),
    ],
)
def test_bad_settings_of_memorization(changes, message):
    with pytest.raises(UsageError, match=message):
        memorization.run(dataclasses.replace(memorization.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_the_defaults(tmp_path):
    result = generalization.run(generalization.Config(), Lab(tmp_path / "g", {"progress": False}))
    for name in ("digits", "mnist5k"):
        gap = generalization.final_gap(result[f"runs_{name}"])
        assert np.all(np.diff(np.median(gap, axis=1)) > 0)  # noise widens the gap
    np.testing.assert_allclose(result["rescaled"]["sharpness"], result["rescaled"].meta["predicted"], rtol=1e-8)
    runs = memorization.run(memorization.Config(), Lab(tmp_path / "m", {"progress": False}))["runs"]
    assert np.all(runs["history.train_accuracy"][..., -1] == 1)
    _, low, high = ls.analysis.mean_interval(runs["history.test_accuracy"][-1, :, -1])
    assert low < 0.1 < high
