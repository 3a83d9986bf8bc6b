"""Mode connectivity: the script, blocks of examples, findings on made-up landscapes, the laws at a reduced size."""

import dataclasses

import matplotlib

matplotlib.use("Agg")

import connectivity
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from _networks import connections as _connections
from scipy import stats

import landscape as ls
from landscape.analysis import mean_of, ratio_of

pytestmark = pytest.mark.xdist_group("connectivity")  # the tests share one run of the script


def test_the_script_draws_and_prints_what_the_stores_hold(smoke):
    done, out, result = smoke
    assert {"connectivity.png", "connectivity.pdf", "findings.json"} <= {path.name for path in out.iterdir()}
    assert set(result) == {"nets_digits_4", "curves_digits_4", "paths_digits_4", "instability"}
    rows = [*settings_rows(connectivity.SMOKE, connectivity.SMOKE), *connectivity.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")


def test_paths_of_a_pair_share_their_ends(smoke):
    found, nets = smoke[2]["paths_digits_4"], smoke[2]["nets_digits_4"]
    ends = nets["history.test_loss"][:, -1].reshape(-1, 2)
    for way in connectivity.PATHS:
        np.testing.assert_allclose(found[f"{way}_test_loss"][:, [0, -1]], ends, rtol=1e-4)
    before, after = found.meta["copy"]
    assert before > 0
    assert abs(after) < 1e-12
    away = np.asarray(found.meta["distances"])
    assert np.all(away[:, 1] <= away[:, 0])


def test_children_that_never_part_are_one(smoke):
    found = smoke[2]["instability"]
    np.testing.assert_array_equal(found["distance"][-1], 0)
    assert np.all(found["distance"][0] > 0)
    assert np.all(np.ptp(found["test_loss"][-1], axis=-1) == 0)


def test_blocks_are_means_of_their_examples():
    def loss(params, batch):
        losses = (batch["x"] @ params - batch["y"]) ** 2
        return losses, {"large": (losses > 2.0).astype(float)}

    rng = np.random.default_rng(6)
    x, y, w = rng.normal(size=(108, 3)), rng.normal(size=108), np.array([0.5, -1.5, 2.0])
    blocked = _connections.in_blocks(ls.Objective(loss, {"x": jnp.asarray(x), "y": jnp.asarray(y)}, has_aux=True), 20)
    one_by_one = ((x @ w - y) ** 2)[:100].reshape(5, 20)
    np.testing.assert_allclose(blocked.per_example(jnp.asarray(w)), one_by_one.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(blocked.evaluate(jnp.asarray(w))["large"], (one_by_one > 2).mean(), rtol=1e-5)
    assert _connections.num_blocks(blocked, 90) == 4
    assert _connections.num_blocks(blocked, 900) == 5


def test_means_carry_students_interval():
    x = np.array([2.5, 3.5, 7.0])
    found = mean_of(x)
    low, high = stats.t.interval(0.95, 2, x.mean(), stats.sem(x))
    np.testing.assert_allclose(found, [x.mean(), low, high])
    assert f"{found:.1f}" == f"4.3 [{low:.1f}, {high:.1f}]"


def test_a_ratio_of_means_has_the_error_of_the_bootstrap():
    rng = np.random.default_rng(9)
    y = rng.gamma(4.0, 0.5, size=60)
    x = 0.3 * y + 0.1 * rng.normal(size=60)
    found = ratio_of(x, y)
    assert found.value == pytest.approx(x.mean() / y.mean())
    draws = rng.integers(60, size=(20_000, 60))
    spread = np.std(x[draws].mean(axis=1) / y[draws].mean(axis=1))
    half = stats.t.ppf(0.975, 59) * spread
    np.testing.assert_allclose([found.value - found.low, found.high - found.value], half, rtol=0.05)
    assert np.all(np.isnan(ratio_of(x, np.zeros(60))))


def made_up(heights, data="mnist1d", width=32):
    """Losses 0.5 at the ends and a bump of the given height, pair by pair, halfway along each path."""
    values = {}
    for part in ("train", "test"):
        for way, tops in heights.items():
            values[f"{way}_{part}_loss"] = 0.5 + np.outer(tops, [0.0, 0.5, 1.0, 0.5, 0.0])
    grid = ls.Grid.of(pair=np.arange(3), t=np.linspace(0, 1, 5))
    found = ls.Landscape(grid, values, np.ones(grid.shape, bool))
    return found.with_meta(case={"data": data, "width": width}, distances=[[3.0, 2.0]] * 3, copy=[0.7, 0.0])


def parted(heights):
    """Children of three splits."""
    bumps = np.multiply.outer(np.asarray(heights), [0.0, 1.0, 0.0])
    values = {"train_loss": 0.25 + bumps, "train_accuracy": 0.75 - bumps / 5}
    values["distance"] = np.asarray(heights)
    grid = ls.Grid.of(split=[0, 40, 80], run=[0, 1])
    found = ls.Landscape(grid, values, np.ones(grid.shape, bool))
    return found.with_meta(case={"data": "mnist1d", "width": 32})


def test_findings_put_barriers_beside_what_was_expected():
    heights = {"line": [1.5, 1.25, 1.75], "matched": [0.3, 0.5, 0.35], "curve": [0.01, 0.02, 0.03]}
    result = {"paths_mnist1d_32": made_up(heights), "instability": parted([[0.8, 0.6], [0.2, 0.0], [0.0, 0.0]])}
    rows = {what: (expected, found) for what, expected, found in connectivity.findings(result)}
    name = "MNIST-1D, width 32: "
    expected, found = rows[name + "train barrier, line"]
    assert expected == "about 1.5"
    assert found.startswith("1.500 [0.879, 2.121]")
    expected, found = rows[name + "share of the mean train barrier that matching removes"]
    assert expected == "at least 0.7"
    assert found.startswith(f"{1 - 1.15 / 4.5:.3f} [")
    assert rows[name + "pairs whose curve stays below the top of their line"] == ("all 3", "3")
    assert rows[name + "barrier to a permuted copy, before, after matching"] == ("> 0, 0 (rounding)", "0.7, 0")
    assert rows[name + "train barrier of children that part at step 0"][1].startswith("0.700")
    # 14 and 2 points of the error rate at steps 0 and 40, and 2 is not below 2
    assert rows[name + "stable (mean train error barrier below 2 points) from step"][1] == "80"
    assert rows[name + "train barrier of children that part at step 80"][0] == "0 (the same network)"


def test_a_pair_without_a_barrier_does_not_spoil_the_share_and_none_with_one_is_said():
    heights = {"line": [1.5, 0.0, 1.5], "matched": [0.5, 0.0, 0.25], "curve": [0.1, 0.0, 0.1]}
    assert connectivity.removed(made_up(heights)).value == pytest.approx(0.75)
    flat = made_up({way: [0.0, 0.0, 0.0] for way in connectivity.PATHS})
    rows = {what: found for what, _, found in connectivity._case_rows(flat)}
    assert rows["MNIST-1D, width 32: share of the mean train barrier that matching removes"] == "no barrier"


def test_figures_show_every_case_and_what_was_expected():
    heights = {"line": [1.5, 1.25, 1.75], "matched": [0.3, 0.5, 0.35], "curve": [0.01, 0.02, 0.03]}
    result = {
        "paths_digits_8": made_up(heights, "digits", 8),
        "paths_mnist1d_8": made_up(heights, width=8),
        "paths_mnist1d_32": made_up(heights),
        "instability": parted([[0.8, 0.6], [0.2, 0.0], [0.0, 0.0]]),
    }
    figure = connectivity.plot(result)["connectivity"]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "(a) MNIST-1D, width 32, 3 pairs",
        "(b) MNIST-1D",
        "(c) digits",
        "(d) instability, MNIST-1D, width 32",
    ]
    crosses = [line for line in figure.axes[1].lines if line.get_marker() == "x"]
    np.testing.assert_allclose(crosses[0].get_xydata(), [[32, 1.5], [32, 0.32]])
    assert figure.axes[1].get_xscale() == "log"  # steps of a factor are steps of equal length
    matplotlib.pyplot.close(figure)


def test_figures_of_ones_own_problem_bear_its_name():
    told = {"data": "own", "width": 0, "name": "my net"}
    heights = {"line": [1.5, 1.25, 1.75], "matched": [0.3, 0.5, 0.35], "curve": [0.01, 0.02, 0.03]}
    result = {"paths_own": made_up(heights).with_meta(case=told), "instability": parted([[0.8, 0.6]] * 3)}
    figure = connectivity.plot(result)["connectivity"]
    assert [ax.get_title(loc="left") for ax in figure.axes][:2] == ["(a) my net, 3 pairs", "(b) my net"]
    assert figure.axes[0].get_ylabel() == "loss"
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 1}, "--pairs and --split-runs >= 2"),
        ({"curve_steps": 3}, "--curve-steps >= 20"),
        ({"batch_size": 7}, "--batch-size >= 20"),
        ({"digits_widths": (0,)}, "widths must be at least 1"),
        ({"splits": (0, 999)}, "--splits must lie within the 60 training steps"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        connectivity.run(dataclasses.replace(connectivity.SMOKE, **changes), Lab())


@pytest.mark.parametrize(
    ("params", "count", "message"),
    [
        ({"a": {"q": jnp.ones((2, 3)), "k": jnp.ones((2, 3))}}, 40, "layers that follow one another"),
        ({"a": {"kernel": jnp.ones((2, 3))}}, 7, "blocks of 20 examples"),
    ],
)
def test_a_problem_that_cannot_be_matched_or_drawn_is_refused(params, count, message):
    train = ls.Objective(lambda p, batch: jnp.sum(jax.tree.leaves(p)[0]) * batch, jnp.ones(count))
    with pytest.raises(UsageError, match=message):
        connectivity.run(connectivity.SMOKE, Lab(problem=ls.Problem(lambda key: params, {"train": train})))


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 256])
def test_matching_removes_most_of_the_barrier_on_mnist1d(width, tmp_path):
    config = dataclasses.replace(
        connectivity.Config(), digits_widths=(), mnist1d_widths=(width,), split_width=4, split_runs=2, splits=(0,)
    )
    found = connectivity.run(config, Lab(tmp_path, {"progress": False}))[f"paths_mnist1d_{width}"]
    assert connectivity.removed(found).low > 0.7
    assert np.all(found["curve_train_loss"].max(axis=-1) < found["line_train_loss"].max(axis=-1))
