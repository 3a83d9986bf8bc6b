"""The basins experiment: separable functions, refinement against the exact map, networks, the command line."""

import dataclasses
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import basins
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _lab import Lab, UsageError, load_problem
from _networks import basins as networks
from scripts import run_script

import landscape as ls

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("basins")  # the tests share compiled programs
QUIET = {"progress": False}
RIDGE = 0.1567312567803401  # maximum of the line whose sum Styblinski-Tang is: root of 4x^3 - 32x + 5

MY_MODEL = """
import jax.numpy as jnp, numpy as np
import landscape as ls

def loss(params, batch):
    decay = 0.05 * (jnp.sum(params["w1"] ** 2) + jnp.sum(params["w2"] ** 2))
    return (jnp.tanh(batch["x"] @ params["w1"]) @ params["w2"] - batch["y"]) ** 2 + decay

def factory():
    x = np.random.default_rng(4).normal(size=(30, 2)).astype("float32")
    data = {"x": x, "y": np.sin(x[:, 0] * 2)}
    init = lambda key: {"w1": ls.subspace.random_directions(key, jnp.ones((2, 3)), 1)[0], "w2": jnp.full(3, 0.3)}
    return ls.Problem(init, {"train": ls.Objective(loss, data)}, name="mine")
"""


def mapped(**settings):
    return basins.run(basins.Config(**settings), Lab(None, QUIET))


@pytest.fixture(scope="module")
def separable():
    """Exact maps of a sum over the coordinates, in float64."""
    with jax.enable_x64(True):
        return mapped(function="styblinski_tang", optimizers="gd,momentum", resolution=129, exact=True)


@pytest.fixture(scope="module")
def pair(separable):
    """The exact map of gradient descent, and the refined one."""
    with jax.enable_x64(True):
        return separable["gd"], mapped(function="styblinski_tang", optimizers="gd", resolution=129)["gd"]


def rows_of(result):
    return {what: (expected, found) for what, expected, found in basins.findings(result)}


# ------------------------------------------------------------------------------------------------- labels and shares


def test_descent_on_a_sum_over_coordinates_stays_on_its_side_of_each_ridge(separable):
    landscape = separable["gd"]
    low, high = -2.903534027771177, 2.746802770990837
    places = np.asarray(landscape.meta["basins"]["places"])
    x, y = landscape.grid.points().T
    ends = np.stack([np.where(x > RIDGE, high, low), np.where(y > RIDGE, high, low)], axis=1)
    nearest = np.argmin(np.linalg.norm(ends[:, None] - places, axis=2), axis=1)
    np.testing.assert_array_equal(landscape["label"].ravel(), nearest)


def test_shares_of_it_are_areas(separable):
    side = np.mean(separable["gd"].grid.axes[0].values < RIDGE)  # of the line: 0.5157 in the limit
    found = basins.shares_of(separable["gd"])
    exact = sorted([side**2, side * (1 - side), side * (1 - side), (1 - side) ** 2])
    np.testing.assert_allclose(sorted(found[k][0] for k in range(4)), exact, atol=1e-12)
    for k in range(4):
        share, low, high = found[k]
        assert low < share < high
    assert found[basins.analysis.DIVERGED][:2] == (0.0, 0.0)


def test_the_map_is_that_of_a_loop_in_numpy(separable):
    landscape = separable["momentum"]
    points = landscape.grid.points()
    velocity = np.zeros_like(points)
    for _ in range(1000):
        velocity = 0.9 * velocity + (4 * points**3 - 32 * points + 5) / 2
        points = points - 0.002 * velocity
    gaps = np.linalg.norm(points[:, None] - np.asarray(landscape.meta["basins"]["places"]), axis=2)
    assert gaps.min(axis=1).max() < 1e-6
    np.testing.assert_array_equal(landscape["label"].ravel(), np.argmin(gaps, axis=1))


def test_the_refined_map_keeps_its_promise(pair):
    exact, refined = pair
    wrong = np.mean(refined["label"] != exact["label"])
    assert 0 < basins.wrong_share(refined) <= 1e-3
    assert wrong <= basins.wrong_share(refined)
    assert refined.computed.mean() < 0.6
    assert basins.wrong_share(exact) is None
    assert basins.stated(exact) is exact


def test_predicted_labels_count_and_widen_the_intervals(pair):
    exact, refined = (basins.stated(landscape) for landscape in pair)
    assert refined.error["label"] == basins.wrong_share(refined)
    for label in range(4):
        share, low, high = basins.shares_of(refined)[label]
        truth, narrow_low, narrow_high = basins.shares_of(exact)[label]
        assert low <= truth <= high
        assert share == pytest.approx(np.mean(refined["label"] == label))
        slack = basins.wrong_share(refined)
        assert high - low == pytest.approx(narrow_high - narrow_low + 2 * slack, rel=1e-2)


def test_verdicts_that_change_are_counted(separable):
    assert basins.verdict_change(separable["gd"], separable["gd"]) == (0.0, 0.0)
    turned = separable["gd"].assign(label=(separable["gd"]["label"] + 1) % 4)
    assert basins.verdict_change(separable["gd"], turned) == (1.0, 0.0)
    mean = np.mean(separable["gd"]["label"] != separable["momentum"]["label"])
    rows = rows_of(separable)
    assert rows["gd and momentum: starts that change their minimum"] == ("0 if it did not matter", f"{mean:.2%}")


def test_findings_name_optimizer_and_starts_of_every_share(separable):
    rows = rows_of(separable)
    assert rows["minima found"][0] == "4"
    assert rows["starts"][1] == "uniform on [-5, 5] x [-5, 5]"
    assert rows["gd: optimizer"][1] == "gradient descent, rate 0.01"
    shares = [what for what in rows if "share of minimum" in what]
    assert len(shares) == 8
    assert all(what.startswith(("gd: ", "momentum: ")) for what in shares)
    first = next(what for what in shares if what.startswith("gd"))
    other = first.replace("gd", "momentum")
    assert rows[other][0].startswith(rows[first][1].split()[0])
    # straight boundaries: S_bb below log 2, alpha 1 to the resolution
    assert float(rows["gd: boundary entropy"][1]) < np.log(2)
    assert float(rows["gd: uncertainty exponent"][1].split()[0]) == pytest.approx(1, abs=0.05)


def test_small_maps_have_no_dimension():
    labels = np.arange(8 * 8).reshape(8, 8) // 32
    rows = {what: found for what, _, found in basins._boundary_rows(labels)}
    assert rows["boundary dimension"] == "needs 64 starts along each axis"


def test_figures_come_from_what_was_saved(separable, tmp_path):
    saved = {}
    for key, landscape in separable.items():
        ls.save(landscape, tmp_path / f"{key}.zarr")
        saved[key] = ls.load(tmp_path / f"{key}.zarr")
    with ls.plotting.style("paper"):
        figures = basins.plot(saved)
        assert set(figures) == {"basins", "shares", "verdicts"}
        bars = figures["shares"].axes[0].containers
        heights = [bar.get_height() for bar in bars[-1]]
        assert sum(heights) == pytest.approx(100)
        for figure in figures.values():
            figure.canvas.draw()
    matplotlib.pyplot.close("all")


# -------------------------------------------------------------------------------------------------------- optimizers


def test_optimizers_have_rates_that_fit_the_function_or_are_given():
    config = basins.Config(optimizers="gd, adam:0.125,lion:0.25")
    words = [words for words, _ in basins._optimizers(config, "mueller_brown").values()]
    assert words == ["gradient descent, rate 0.0001", "Adam, rate 0.125", "lion, rate 0.25"]
    assert basins._optimizer("gd", 0.125) is basins._optimizer("gd", 0.125)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"optimizers": "gd,gd:0.1"}, "names one twice"),
        ({"optimizers": "newtonish"}, "'newtonish' is none of gd, momentum, adam and no optimizer of optax"),
        ({"optimizers": "lion"}, "lion needs a learning rate, as in lion:0.01"),
        ({"optimizers": "gd:fast"}, "the rate of gd must be a number, got 'fast'"),
        ({"resolution": 4}, "--resolution must be at least 5, got 4"),
        ({"max_wrong": 1.5}, "--max-wrong is a share of the starts, between 0 and 1; got 1.5"),
        ({"coarse": 1}, "--coarse >= 2"),
        ({"tol": -0.5}, "--tol is a gradient norm and must be positive"),
    ],
)
def test_what_cannot_be_done_is_refused(settings, match):
    with pytest.raises(UsageError, match=match):
        mapped(**settings)


def test_shards_need_every_point():
    lab = Lab(None, QUIET | {"shard": (0, 2)})
    with pytest.raises(UsageError, match=r"--shard needs every point computed \(--exact\)"):
        basins.run(basins.SMOKE, lab)


# ---------------------------------------------------------------------------------------------------------- networks


def well(params, _):
    return (params["p"][0] ** 2 - 9) ** 2 / 36 + 2 * jnp.sum((params["p"][1:] - 0.5) ** 2)


def ends_at(points, outcomes):
    points = np.asarray(points, np.float32)
    losses = np.array([well({"p": p}, None) for p in points])
    return networks.Ends(points, losses, np.asarray(outcomes))


def test_the_minima_among_ends_are_polished_and_told_apart():
    near = [[3.01, 0.5], [2.98, 0.51], [-3.02, 0.49], [-2.99, 0.5], [0.1, 0.5]]
    ends = ends_at(near, [0, 0, 0, 0, 1])  # the last one did not converge
    found = networks.minima_among(ends, ls.Objective(well), {"p": jnp.zeros(2)})
    places = np.asarray(found.representatives["p"])
    np.testing.assert_allclose(places[np.argsort(places[:, 0])], [[-3, 0.5], [3, 0.5]], atol=1e-5)
    assert networks.smallest_gap(found.representatives) == pytest.approx(6.0, abs=1e-4)
    assert networks.scatter(ends, found) == pytest.approx(
        np.quantile(np.hypot([1, 2, 2, 1], [0, 1, 1, 0]) / 100, 0.9), abs=1e-3
    )


def test_where_nothing_converged_the_ends_lead_to_minima_all_the_same():
    found = networks.minima_among(ends_at([[2.5, 0.4], [2.7, 0.6]], [1, 1]), ls.Objective(well), {"p": jnp.zeros(2)})
    np.testing.assert_allclose(found.representatives["p"], [[3, 0.5]], atol=1e-5)
    assert networks.smallest_gap(found.representatives) == pytest.approx(np.hypot(3, 0.5) / 5, rel=1e-4)


def test_when_all_diverge_the_advice_is_a_lower_rate():
    with pytest.raises(UsageError, match="every run of the coarse sweep diverged: lower the rates"):
        networks.minima_among(ends_at([[3.0, 0.5]], [2]), ls.Objective(well), {"p": jnp.zeros(2)})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "my_basins_model.py"
    path.write_text(MY_MODEL)
    return load_problem(f"{path}:factory")


SMALL = basins.Config(optimizers="gd:0.1", resolution=7, coarse=3, steps=4000, train_steps=200, tol=1e-3)


def test_your_own_network(model, tmp_path):
    result = basins.run(SMALL, Lab(tmp_path, QUIET, model))
    landscape, about = result["gd"], result["gd"].meta["basins"]
    assert about["model"] == "mine"
    assert landscape["label"].max() >= 0
    for corner in np.asarray(about["marks"]["minima"]):  # a run that starts at a trained solution stays there
        assert landscape["label"][landscape.grid.index(corner)] >= 0
    rows = rows_of(result)
    assert rows["starts"][1] == "uniform on a plane, through three solutions"
    assert "runs of the coarse sweep that converge" in rows
    with ls.plotting.style("paper"):
        assert set(basins.plot(result)) == {"basins", "shares"}
    matplotlib.pyplot.close("all")


def test_a_network_whose_runs_do_not_converge_is_mapped_all_the_same(model, tmp_path):
    config = dataclasses.replace(SMALL, tol=1e-12, steps=30)
    result = basins.run(config, Lab(tmp_path, QUIET, model))
    landscape, about = result["gd"], result["gd"].meta["basins"]
    assert about["tol"] is None
    rows = rows_of(result)
    assert rows["runs of the coarse sweep that converge"] == ("all", "0.0%")
    assert rows["solutions that stand for minima"][1].startswith("3, of value")
    # nearest to where it ends: the solutions themselves are nearest to themselves
    corners = [landscape["label"][landscape.grid.index(c)] for c in np.asarray(about["marks"]["minima"])]
    assert set(corners) == {0, 1, 2}
    assert landscape["label"].min() >= 0


@pytest.mark.slow
def test_a_random_plane(model, tmp_path):
    config = dataclasses.replace(SMALL, directions="filter", extent=0.5, resolution=5)
    result = basins.run(config, Lab(tmp_path, QUIET, model))
    assert rows_of(result)["starts"][1] == "uniform on a plane, random, filter normalised"
    assert result["gd"]["label"][2, 2] >= 0  # the trained solution in the middle


# ------------------------------------------------------------------------------------------------------ command line


def test_the_command_line(tmp_path):
    done = run_script("basins", "--smoke", "--optimizers", "gd,adam", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "findings.json").read_text())
    assert {"what": "minima found", "expected": "4", "found": "4, of value 0 to 0"} in rows
    assert {f.stem for f in tmp_path.glob("*.png")} == {"basins", "shares", "verdicts"}
    assert {f.name for f in tmp_path.glob("*.zarr")} == {"himmelblau_gd.zarr", "himmelblau_adam.zarr"}


@pytest.mark.slow
def test_a_million_starts_on_himmelblau():
    """The map of `benchmarks/basins.py`: at most a quarter of the starts computed, and no more wrong than stated."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import basins as benchmark

    grid, point = ls.Grid.square(5.0, benchmark.SIDE, names=("x", "y")), benchmark.himmelblau()
    exact, refined = benchmark.sweep(point, grid), benchmark.sweep(point, grid, benchmark.MAX_WRONG)
    stated = refined.promise.outputs["label"].fraction
    assert refined.computed.mean() <= benchmark.SHARE_COMPUTED
    assert np.mean(refined["label"] != exact["label"]) <= stated <= benchmark.MAX_WRONG
    assert np.mean(exact["label"] < 0) < 1e-4
    # the minima are in the order of the corners they were polished from, so that starts there end there
    for number, (i, j) in enumerate([(-1, -1), (0, -1), (0, 0), (-1, 0)]):
        assert exact["label"][i, j] == number


@pytest.mark.slow
@pytest.mark.parametrize("function", [f for f in basins.RATES if f != "network"])
def test_every_function_has_rates_that_reach_its_minima(function):
    for landscape in mapped(function=function, resolution=65, exact=True).values():
        assert np.mean(landscape["label"] >= 0) > 0.7
        assert len(np.unique(landscape["label"][landscape["label"] >= 0])) == landscape.meta["basins"]["known"]


@pytest.mark.slow
def test_the_built_in_network(tmp_path):
    result = basins.run(
        basins.Config(function="digits", optimizers="adam", resolution=9, coarse=5), Lab(tmp_path, QUIET)
    )
    landscape = result["adam"]
    about = landscape.meta["basins"]
    assert about["converged"] > 0.9
    corners = [landscape["label"][landscape.grid.index(c)] for c in np.asarray(about["marks"]["minima"])]
    assert len(set(corners)) == 3
    assert jax.tree.leaves(networks.small_digits().init(jax.random.key(0)))[0].dtype == jnp.float32
