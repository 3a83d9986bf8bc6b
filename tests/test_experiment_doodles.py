"""The doodles: the law of each idea at a reduced size, the pictures, the contact sheet, the script."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import doodles
import jax
import numpy as np
import pytest
import sklearn.datasets
import sklearn.linear_model
from _doodle import boards as _doodle_boards
from _doodle import buckets as _doodle_buckets
from _doodle import compass as _doodle_compass
from _doodle import culture as _doodle_culture
from _doodle import darts as _doodle_darts
from _doodle import digits as _doodle_digits
from _doodle import hardest as _doodle_hardest
from _doodle import hills as _doodle_hills
from _doodle import marbles as _doodle_marbles
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from scipy import stats
from scripts import run_script

import landscape as ls

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("doodles")  # the tests share one run of the script


def script(*arguments):
    return run_script("doodles", *arguments)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("doodles"), {"progress": False})


@pytest.fixture(scope="module")
def part(lab):
    """What an idea measures at the smoke size, once for all tests."""
    return cache(lambda number: doodles.idea(number).run(doodles.SMOKE, lab))


def test_one_idea_by_the_script(tmp_path):
    done = script("--smoke", "--idea", 3, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in tmp_path.glob("*.p*")} | {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {"doodle_3_buckets.png", "doodle_3_buckets.pdf"}
    result = doodles.run(dataclasses.replace(doodles.SMOKE, idea=3), Lab(tmp_path, {"progress": False}))
    rows = [*settings_rows(dataclasses.replace(doodles.SMOKE, idea=3), doodles.SMOKE), *doodles.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")
    assert set(doodles.parts(result)) == {3}


@pytest.mark.slow
def test_the_script_draws_everything(tmp_path):
    done = script("--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in tmp_path.iterdir()}
    assert {"doodles.png", "doodles.pdf", "doodles.svg", "doodle_6_rolling.gif"} <= drawn
    names = ["1_darts", "2_hardest", "3_buckets", "4_hills", "5_compass", "6_marbles", "7_boards", "8_culture"]
    assert {f"doodle_{name}.{suffix}" for name in names for suffix in ("png", "pdf")} <= drawn
    rows = json.loads((tmp_path / "findings.json").read_text())
    assert {row["what"][0] for row in rows[1:]} == set("12345678")  # the first names the settings of --smoke
    for path in tmp_path.glob("doodle*.[ps]*"):
        assert path.stat().st_size < 4_000_000, path


# -------------------------------------------------------------------------------------------------- 1 darts, 2, 3


@pytest.fixture(scope="module")
def boards(lab):
    return _doodle_darts.boards(lab)


def test_the_regression_is_that_of_scikit_learn(boards):
    images = sklearn.datasets.load_digits().images / 16
    (inputs, truth, seen), test = _doodle_digits.halves()["train"], _doodle_digits.halves()["test"]
    assert len(seen) + len(test[2]) == len(images)
    np.testing.assert_allclose(seen.sum() + test[2].sum(), images.sum(), rtol=1e-6)
    image = seen[17]
    ink = image[4:] / image[4:].sum()
    np.testing.assert_allclose(truth[17], [ink.sum(axis=0) @ np.arange(8), ink.sum(axis=1) @ np.arange(4, 8)])
    fit = sklearn.linear_model.LinearRegression().fit(inputs[:, 1:], truth)
    np.testing.assert_allclose(boards["guesses_test"]["guess"], fit.predict(test[0][:, 1:]), atol=1e-9)


def test_misses_are_orthogonal_to_the_inputs(boards):
    cosines = _doodle_darts.cosines(boards)
    assert cosines.shape[1] == 2
    assert len(cosines) > 30
    assert np.abs(cosines).max() < 1e-12
    spoilt = boards["guesses_train"]
    spoilt = spoilt.assign(miss=spoilt["miss"] + 0.05 * spoilt["inputs"][:, 4:6])
    assert np.abs(_doodle_darts.cosines({"guesses_train": spoilt})).max() > 1e-2


@pytest.mark.slow
def test_the_confusion_counts_every_digit_once(part):
    counts = _doodle_darts.confusion(part(1))
    told = part(1)["answers"]
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(told["label"]))
    assert np.trace(counts) / counts.sum() == pytest.approx(told.meta["objective"]["accuracy"], abs=1e-6)


@pytest.mark.slow
def test_losses_of_the_examples_sum_to_the_total(part):
    told = part(2)["answers"]
    loss = told["loss"].astype(float)
    assert loss.sum() == pytest.approx(len(loss) * told.meta["objective"]["loss"], rel=1e-5)
    chances = told["chances"][np.arange(len(loss)), told["label"]]
    np.testing.assert_allclose(loss, -np.log(chances), rtol=1e-4, atol=1e-6)


def test_one_moved_target_moves_the_mean_and_hardly_the_median(lab):
    moved = _doodle_hardest.moving(lab)
    z, targets = moved.grid.axes[0].values, moved["targets"]
    np.testing.assert_allclose(moved["mean"], targets.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(moved["median"], np.median(targets, axis=1), atol=1e-12)
    still = moved["mean"][moved.grid.index(0.0)]
    np.testing.assert_allclose(moved["mean"] - still, z / targets.shape[1], atol=1e-12)
    assert _doodle_hardest.ranks(moved) == 1


def test_each_loss_is_least_where_its_law_says(part):
    line, targets = part(3)["constant"], part(3)["guesses_test"]["miss"][:, 0]
    found = _doodle_buckets.least(line)
    step = 1.0001 * np.diff(line.grid.axes[0].values)[0]  # the lowest point of a grid is next to a convex minimum
    assert found["squared"] == pytest.approx(targets.mean(), abs=step)
    assert found["absolute"] == pytest.approx(np.median(targets), abs=step)
    assert found["largest"] == pytest.approx((targets.min() + targets.max()) / 2, abs=step)
    assert found["pinball"] == pytest.approx(np.quantile(targets, 0.9, method="inverted_cdf"), abs=step)
    assert max(found.values()) - min(found.values()) > 0.3


def test_the_maps_aggregate_the_same_misses(part):
    shift, miss = part(3)["shift"], part(3)["guesses_test"]["miss"]
    distance = np.linalg.norm(miss + shift.coords((4, 17)), axis=1)
    for how in ("mean", "sum", "median", "max"):
        assert shift[how][4, 17] == pytest.approx(getattr(np, how)(distance), rel=1e-12)


# -------------------------------------------------------------------------------------------------------- 4 hills


def test_efficiencies_and_biases_by_quadrature():
    with jax.enable_x64(True):
        exact = _doodle_hills._exact()
    assert exact == pytest.approx(
        {"median": 0.6366, "Huber 1": 0.9031, "Huber 1.345": 0.9500, "Huber 2": 0.9897}, abs=1e-4
    )
    law = _doodle_hills.bias_law(list(_doodle_hills.BIAS))
    np.testing.assert_allclose(law, [0.0660, 0.1397, 0.3186, 0.5659, 0.9674], atol=5e-5)


@pytest.mark.slow
def test_efficiencies_and_their_errors(part):
    samples = part(4)["samples"]
    for name, value in {"median": 0.6366, "Huber 1": 0.9031, "Huber 1.345": 0.9500, "Huber 2": 0.9897}.items():
        assert samples.meta["exact"][name] == pytest.approx(value, abs=1e-4)
        found, error = _doodle_hills.efficiency(samples, name)
        assert abs(found - value) < 3.5 * error
        assert 0.001 < error < 0.1


@pytest.mark.slow
def test_the_standard_error_of_an_efficiency_is_that_of_the_bootstrap(part):
    samples, rng = part(4)["samples"], np.random.default_rng(5)
    draws = rng.integers(len(samples["mean"]), size=(4000, len(samples["mean"])))
    ratio = np.mean(samples["mean"][draws] ** 2, axis=1) / np.mean(samples["median"][draws] ** 2, axis=1)
    assert _doodle_hills.efficiency(samples, "median")[1] == pytest.approx(ratio.std(), rel=0.15)


@pytest.mark.slow
def test_outliers_move_the_median_only_so_far(part):
    spoilt = part(4)["contaminated"]
    law = [0.0660, 0.1397, 0.3186, 0.5659, 0.9674]
    found, error = _doodle_hills.bias(spoilt)
    assert np.all(np.abs(found - law) < 3.5 * error + 0.002)
    assert np.all(spoilt["mean"][:, 0] > 4e4)


@pytest.mark.slow
def test_an_outlier_moves_one_hill(part):
    where = _doodle_hills.bottoms(part(4)["hills"])
    crowd, everyone = np.array(_doodle_hills.CROWD), np.array([*_doodle_hills.CROWD, _doodle_hills.OUTLIER])
    assert where["squared_all"] == pytest.approx(everyone.mean(), abs=0.01)
    assert where["squared_crowd"] == pytest.approx(crowd.mean(), abs=0.01)
    assert where["absolute_all"] == pytest.approx(np.median(everyone), abs=0.01)
    assert where["absolute_crowd"] == pytest.approx(np.median(crowd), abs=0.01)
    ends = part(4)["contaminated"].meta["descent"]
    assert ends["shrinking"] < ends["constant"] / 20


# ------------------------------------------------------------------------------------------------------ 5 compass


@pytest.fixture(scope="module")
def bowls(lab):
    return _doodle_compass.bowls(lab)


def test_the_compass_on_a_bowl(bowls):
    for k, found in zip((10, 100, 1000), bowls["rim"]["degrees"].max(axis=0)):
        assert found == pytest.approx(np.degrees(np.arccos(2 * np.sqrt(k) / (1 + k))), abs=1e-4)
    bowl = bowls["bowl"]
    x, y = bowl.coords((7, 30))
    np.testing.assert_allclose(bowl["gradient"][7, 30], [10 * x, y], rtol=1e-12)


def test_steps_shrink_hop_and_grow(bowls):
    x = bowls["hops"]["snapshots"]
    np.testing.assert_allclose(x[:, 1:] / x[:, :-1], np.tile([[0.5], [-0.7], [-1.2]], 6), rtol=1e-9)


def test_best_rates(bowls):
    races = bowls["races"]
    for i, k in enumerate((10, 100, 1000)):
        for j, law in enumerate(((k - 1) / (k + 1), (np.sqrt(k) - 1) / (np.sqrt(k) + 1))):
            found = _doodle_compass.rate(races["history.grad_norm"][2 * i + j], races["history.step"][2 * i + j])
            assert found == pytest.approx(law, rel=5e-3)


@pytest.mark.slow
def test_the_compass_is_wrong_in_part_of_a_real_plane(part):
    plane = part(5)["plane"]
    compass, wrong = _doodle_compass.downhill(plane)
    assert 0.05 < wrong.mean() < 0.6
    x = plane.grid.axes[0].values
    slope = (plane["train_loss"][2:, 1:-1] - plane["train_loss"][:-2, 1:-1]) / (x[2] - x[0])
    assert np.corrcoef(slope.ravel(), -compass[1:-1, 1:-1, 0].ravel())[0, 1] > 0.98
    gram = plane.meta["gram"]
    np.testing.assert_allclose(gram / gram[0, 0], np.eye(2), atol=1e-5)  # so angles in the picture are true


# ------------------------------------------------------------------------------------------------------ 6 marbles


@pytest.mark.slow
def test_marbles_find_the_published_ditches(part):
    ditches = part(6)["marbles"].meta["ditches"]
    np.testing.assert_allclose(ditches["depths"], [-146.699517, -108.166724, -80.767818], atol=1e-6)
    np.testing.assert_allclose(np.sum(np.isin(_doodle_marbles.labels(part(6)), [0, 1, 2]), axis=2)[0], 40)


@pytest.mark.slow
def test_no_marble_rests_where_it_is_too_sharp(part):
    for rate, law, seen in _doodle_marbles.held(part(6)):
        assert seen == law, rate
    assert [law for _, law, _ in _doodle_marbles.held(part(6))] == [
        [True] * 3,
        [False, True, True],
        [False, False, True],
    ]


def test_a_ditch_that_is_not_found_is_missing_from_the_count():
    rates, starts = len(_doodle_marbles.RATES), len(_doodle_marbles.STARTS)
    ends = np.zeros((rates * starts * 2, 2))
    ditches = {"points": [[0.0, 0.0], [0.5, 0.25]], "depths": [-146.5, -80.5], "sharpness": [1500.5, 700.5]}
    marbles = ls.Landscape(ls.Grid.of(run=np.arange(len(ends))), {"params": ends}, np.ones(len(ends), bool))
    rows = _doodle_marbles.findings({"marbles": marbles.with_meta(ditches=ditches)})
    assert rows[0] == ("ditches found", "3", "2")


# ------------------------------------------------------------------------------------------------------- 7 boards


def test_the_published_excess_losses():
    _, law = _doodle_boards.law([20, 50, 125, 200, 400, 1000])
    np.testing.assert_allclose(law, [0.253, 1.020, 5.167, 3.510, 4.084, 4.611], atol=5e-4)


@pytest.mark.slow
def test_least_squares_without_a_ridge(part):
    for name, expected in zip(("train", "excess"), _doodle_boards.law(_doodle_boards.SIZES)):
        found, error = _doodle_boards.measured(part(7)["ridgeless"], name)
        assert np.all(np.abs(found - expected) < 4 * error + 1e-6)


@pytest.mark.slow
def test_the_solver_is_least_squares_of_least_norm():
    with jax.enable_x64(True):
        fit, p = _doodle_boards.Ridgeless(jax.random.key(3)), 125
        key = jax.random.key(8)
        train, excess = fit._fit(key, p)
        for_inputs, for_noise = jax.random.split(key)
        inputs, noise = (np.asarray(jax.random.normal(k, s)) for k, s in ((for_inputs, (100, p)), (for_noise, (100,))))
    truth = np.full(p, np.sqrt(5 / p))
    weights = np.linalg.lstsq(inputs, inputs @ truth + noise, rcond=None)[0]
    assert float(excess) == pytest.approx(np.sum((weights - truth) ** 2), rel=1e-6)
    assert float(train) < 1e-12


@pytest.mark.slow
def test_the_overfitted_model_is_better_in_practice_and_worse_on_new_digits(part):
    miss = {
        name: _doodle_boards.rms(part(7)[name])
        for name in part(7)
        if name.startswith("board_") and name != "board_plane"
    }
    assert (
        miss["board_overfitted_train"]
        < miss["board_good_train"]
        < miss["board_good_test"]
        < miss["board_overfitted_test"]
    )
    plane = part(7)["plane"]
    assert plane.argmin("train") != plane.argmin("test")


# ------------------------------------------------------------------------------------------------------ 8 culture


@pytest.mark.slow
def test_children_take_half_of_each_parent(part):
    children = part(8)["children"]
    born, parents = children.meta["born"].reshape(3, -1, 10, 10), children.meta["parents"]
    for child, mutant, pair in zip(born[0], born[1], parents):
        from_a, from_b = (np.array([any(np.array_equal(w, v) for v in parent) for w in child]) for parent in pair)
        np.testing.assert_array_equal(from_a, np.arange(10) < 5)
        np.testing.assert_array_equal(from_b, np.arange(10) >= 5)
        np.testing.assert_array_equal(mutant[:5], child[:5])
        assert not np.any(mutant[5:] == child[5:])


@pytest.mark.slow
def test_stuck_learners_lack_few_ideas(part):
    alone = part(8)["alone"]
    stuck = _doodle_culture.losses_of(alone) >= 1e-3
    known = _doodle_culture.known(alone["params.w"])
    assert known[~stuck].all()
    assert np.all(known[stuck].sum(axis=1) >= 7)
    assert not known[stuck].all(axis=1).any()
    assert stats.binomtest(int(stuck.sum()), len(stuck), 0.346).pvalue > 0.001


def test_shares_are_counted_by_arm():
    losses = np.array([[0.4, 2e-9], [0.4, 3e-9], [0.4, 0.02]] * 2)[
        [0, 3, 1, 2, 4, 5]
    ]  # two runs for each of three arms
    children = ls.Landscape(ls.Grid.of(run=np.arange(6)), {"history.loss": losses}, np.ones(6, bool))
    alone = ls.Landscape(ls.Grid.of(run=np.arange(3)), {"history.loss": losses[2:5]}, np.ones(3, bool))
    counts = _doodle_culture.shares({"alone": alone, "children": children})
    assert counts == {"alone": (2, 3), "child of two": (2, 2), "mutant of one": (1, 2), "fresh start": (1, 2)}


# --------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"idea": 9}, "--idea must be one of 1 to 8, got 9"),
        ({"replicates": 5}, "--replicates must be at least 20"),
        ({"marbles": 1}, "--marbles must be at least 2"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        doodles.run(dataclasses.replace(doodles.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_children_beat_both_controls(tmp_path):
    result = _doodle_culture.run(doodles.Config(), Lab(tmp_path, {"progress": False}))
    counts = _doodle_culture.shares(result)
    low, _ = ls.analysis.wilson_interval(*counts["child of two"])
    for control in ("mutant of one", "fresh start"):
        assert low > ls.analysis.wilson_interval(*counts[control])[1]
