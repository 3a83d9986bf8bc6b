"""Loss functions: laws against closed forms, exact minima against brute force, the planes, the script."""

import dataclasses
from pathlib import Path

import loss_functions
import matplotlib
from _exact import loss_planes as planes

matplotlib.use("Agg")

import numpy as np
import pytest
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from scipy import stats
from scripts import run_script

import landscape as ls

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("loss_functions")  # the tests share one run


@pytest.fixture(scope="module")
def result():
    """What `run` gives for the smoke configuration."""
    return loss_functions.run(loss_functions.SMOKE, Lab(None, {"progress": False}))


@pytest.fixture(scope="module")
def rows(result):
    return {what: (expected, found) for what, expected, found in loss_functions.findings(result)}


# --------------------------------------------------------------------------------------------------------- the laws


def test_constants_are_least_at_their_laws(result):
    constants = result["constants"]
    y, best = np.sort(constants.meta["targets"]), constants.meta["best"]
    assert best["mean"] == pytest.approx(y.mean(), rel=1e-13)
    assert best["median"] == pytest.approx(np.median(y), rel=1e-13)
    assert best["midrange"] == pytest.approx((y[0] + y[-1]) / 2, rel=1e-13)
    assert best["quantile 0.25"] == pytest.approx(np.quantile(y, 0.25, method="inverted_cdf"), rel=1e-13)
    at = constants.grid.axes[0].values
    step = at[1] - at[0]
    for name, law in (("mean_squared", "mean"), ("mean_absolute", "median"), ("max_absolute", "midrange")):
        assert abs(at[np.argmin(constants[name])] - best[law]) <= step
    np.testing.assert_allclose(constants["sum_absolute"], len(y) * constants["mean_absolute"], rtol=1e-12)


def test_the_mean_of_contaminated_data_has_no_bound_and_the_median_has(result):
    bias = result["bias"]
    share, far = (axis.values for axis in bias.grid.axes)
    np.testing.assert_allclose(bias["mean"], share[:, None] * far, rtol=1e-10)
    expected = stats.norm.ppf(1 / (2 * (1 - share)))
    np.testing.assert_allclose(bias["median"], np.tile(expected[:, None], len(far)), atol=2e-3)
    assert np.ptp(bias["huber"], axis=1).max() < 1e-9


def test_descent_on_the_absolute_error(result):
    path = result["descent"]
    step = path.grid.axes[0].values
    np.testing.assert_allclose(np.abs(np.diff(path["constant"][:, -5:], axis=1)), np.tile(step[:, None], 4))
    assert np.all(np.abs(path["shrinking"][:, -1]) <= step / loss_functions.DESCENT)


def test_the_monte_carlo_and_its_standard_error():
    # Two independent normal samples with variances in the ratio 1 to 4.
    rng = np.random.default_rng(5)
    values = {"mean": rng.normal(size=8000), "other": 2.0 * rng.normal(size=8000)}
    samples = ls.Landscape(ls.Grid.of(sample=np.arange(8000)), values, np.ones(8000, bool))
    ratio, error = loss_functions.monte_carlo(samples, "other")
    assert abs(ratio - 0.25) < 4 * error
    assert error == pytest.approx(0.25 * np.sqrt(2 * 2 / 8000), rel=0.4)  # var(s^2) = 2 sigma^4 / n, twice


def test_the_table_holds_the_published_numbers(rows):
    for name, published in (("median", 0.6366), ("Huber k = 1.345", 0.95), ("Huber k = 1", 0.9031)):
        expected, found = rows[f"efficiency of {name}, quadrature"]
        assert float(expected) == published
        assert float(found) == pytest.approx(published, abs=5e-5)
        found, _, error = rows[f"efficiency of {name}, Monte Carlo"][1].split()[:3]
        assert abs(float(found) - published) < 5 * float(error)
    assert rows["bias of the median, 30% outliers at infinity"] == ("0.5659", "0.5659")


# ------------------------------------------------------------------------------------------------------- the planes


def test_exact_lines_are_least():
    rng = np.random.default_rng(7)
    x = rng.normal(size=61)
    y = 0.4 + 1.7 * x + rng.standard_t(3, size=61)
    design = np.stack([np.ones(61), x], axis=1)
    for name, loss in planes.LOSSES.items():
        line = planes.fit_line(name, x, y)
        here = float(np.sum(loss(design @ line, y)))
        for _ in range(50):
            other = line + rng.normal(size=2) * 10.0 ** rng.uniform(-3, 0)
            assert float(np.sum(loss(design @ other, y))) >= here - 1e-5
    np.testing.assert_allclose(planes.fit_line("squared", x, y), stats.linregress(x, y)[1::-1][:2], rtol=1e-10)
    quantile = planes.fit_line("pinball", x, y)
    assert np.sum(y < design @ quantile) <= 0.75 * 61 <= np.sum(y <= design @ quantile) + 1e-9  # Koenker & Bassett 1978


def test_the_least_error_of_a_threshold():
    rng = np.random.default_rng(3)
    x, y = np.round(rng.normal(size=40), 1), rng.integers(2, size=40)  # with ties
    cuts = np.concatenate([[-9], np.unique(x) + 0.05])
    brute = min(min(np.mean((x > c) != y), np.mean((x < c) != y)) for c in cuts)
    assert planes.least_error(x, y) == pytest.approx(brute)


def test_minima_on_the_plane_are_those_of_scipy(result):
    plane = result["regression"]
    steps = [np.diff(axis.values)[0] for axis in plane.grid.axes]
    for name in planes.LOSSES:
        for part in planes.PARTS:
            off = np.abs(planes.minimum(plane, f"{name}_{part}") - plane.meta["exact"][f"{name}_{part}"])
            assert np.all(off <= 1.5 * np.array(steps)), (name, part)


def test_outliers_move_the_minimum_of_the_squared_error_by_the_normal_equations(x64):
    data = planes.regression(0.1, 8.0, 0)
    exact = planes.exact_lines(data)
    x, added = np.asarray(data.train["x"]), np.asarray(data.spoilt["y"] - data.train["y"])
    assert np.sum(added) == pytest.approx(8.0 * round(0.1 * len(x)))
    design = np.stack([np.ones(len(x)), x], axis=1)
    shift = np.linalg.solve(design.T @ design, design.T @ added)
    moved = {name: exact[f"{name}_outliers"] - exact[f"{name}_clean"] for name in planes.LOSSES}
    np.testing.assert_allclose(moved["squared"], shift, rtol=1e-9)
    assert all(np.linalg.norm(moved[name]) < 0.3 * np.linalg.norm(shift) for name in ("absolute", "huber", "pinball"))
    farther = planes.exact_lines(planes.regression(0.1, 80.0, 0))
    np.testing.assert_allclose(farther["squared_outliers"] - exact["squared_clean"], 10 * shift, rtol=1e-9)
    np.testing.assert_allclose(farther["absolute_outliers"], exact["absolute_outliers"], atol=1e-8)


def test_the_error_rate_is_flat_and_cross_entropy_is_not(result):
    plane = result["classes"]
    assert plane["zero_one_clean_loss"].min() >= plane.meta["exact"]["zero_one_clean"] - 1e-12
    counts = plane["zero_one_clean_loss"] * 379  # two thirds of 569 examples
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    assert len(np.unique(np.rint(counts))) < plane["zero_one_clean_loss"].size / 2
    assert len(np.unique(plane["cross_entropy_clean_loss"])) == plane["cross_entropy_clean_loss"].size


# -------------------------------------------------------------------------------------------------------- the script


@pytest.mark.slow
def test_the_script_draws_and_its_folder_is_resumed(tmp_path):
    done = run_script("loss_functions", "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.png")} == {"laws", "aggregates", "regression", "classes"}
    again = loss_functions.run(loss_functions.SMOKE, Lab(tmp_path, {"progress": False}))
    rows = [*settings_rows(loss_functions.SMOKE, loss_functions.SMOKE), *loss_functions.findings(again)]
    assert table(rows) == done.stdout.rstrip("\n")
    assert all(len(landscape.meta["calls"]) == 1 for landscape in again.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 20}, "--samples >= 80"),
        ({"outliers": 0.6}, "between 0 and 0.5"),
        ({"distance": -1.0}, "distance > 0"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        loss_functions.run(dataclasses.replace(loss_functions.SMOKE, **changes), Lab())
