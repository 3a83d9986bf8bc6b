"""The exclusive or: plateaus and their certificates, what further descent does, the script."""

import dataclasses
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import xor
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from scipy import stats
from scipy.special import expit
from scripts import run_script

import landscape as ls

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("xor")  # the tests share one run of the script


def script(*arguments):
    return run_script("xor", *arguments)


def end(landscape, row):
    return [landscape[f"params.{layer}.{part}"][row] for layer in (0, 1) for part in ("kernel", "bias")]


def loss_of(parts):
    first, shift, second, offset = parts
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    outputs = expit(expit(x @ first + shift) @ second + offset)[:, 0]
    return np.mean((outputs - [0, 1, 1, 0]) ** 2), outputs


def slope(parts, h=1e-5):
    """The norm of the gradient by central differences."""
    flat = np.concatenate([p.ravel() for p in parts])
    cuts = np.cumsum([p.size for p in parts])[:-1]

    def loss(x):
        return loss_of([piece.reshape(p.shape) for piece, p in zip(np.split(x, cuts), parts)])[0]

    units = h * np.eye(len(flat))
    return np.linalg.norm([(loss(flat + u) - loss(flat - u)) / (2 * h) for u in units])


def test_stalled_runs_are_plateaus_and_no_minima(smoke):
    done, _, result = smoke
    runs = result["runs"]
    certificates = runs.meta["certificates"]
    assert [row["run"] for row in certificates] == xor.stalled(runs).tolist()
    assert {row["kind"] for row in certificates} == {"plateau"}
    for row in certificates:
        np.testing.assert_allclose(slope(end(runs, row["run"])), row["grad_norm"], rtol=1e-3)
        assert row["grad_norm"] > 1e-6
        assert row["newton_step"] > 1e3 * row["step_tol"]
        assert row["flatness"] < 1e-3
    assert f"all {len(certificates)}" in done.stdout


def test_a_plateau_answers_two_unlike_examples_by_one_half(smoke):
    runs = smoke[2]["runs"]
    for number in xor.stalled(runs):
        loss, outputs = loss_of(end(runs, number))
        np.testing.assert_allclose(loss, runs["history.loss"][number, -1], rtol=1e-12)
        assert abs(loss - 1 / 8) < 1e-3
        assert np.sum(np.abs(outputs - 0.5) < 0.02) == 2


@pytest.mark.slow
def test_further_descent_goes_on_falling(smoke):
    result = smoke[2]
    for name in ("longer", "adam"):
        loss, weights = result[name]["history.loss"], result[name]["history.weights_loss"]
        assert np.all(loss[:, -1] < loss[:, 0])
        assert np.all(weights[:, -1] > weights[:, 0])
        np.testing.assert_array_equal(loss[:, 0], result["runs"]["history.loss"][xor.stalled(result["runs"]), -1])


def test_the_plane_goes_through_the_end_and_downhill(smoke):
    plane, runs = smoke[2]["plane"], smoke[2]["runs"]
    at = plane.grid.index(0.0)
    assert plane["train_loss"].shape == (21, 21)
    step = plane.grid.axes[0].values
    here = np.interp(0.0, step, plane["train_loss"][:, at[1]])
    assert here == pytest.approx(runs["history.loss"][xor.stalled(runs)[0], -1], abs=2e-3)
    assert plane["train_loss"][-1, at[1]] < plane["train_loss"][at[0], at[1]]


@pytest.mark.slow
def test_the_script_draws_and_its_folder_is_resumed(smoke):
    done, out, _ = smoke
    assert {"xor.png", "xor.pdf", "findings.json"} <= {path.name for path in out.iterdir()}
    result = xor.run(xor.SMOKE, Lab(out, {"progress": False}))
    rows = [*settings_rows(xor.SMOKE, xor.SMOKE), *xor.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")
    assert all(len(landscape.meta["calls"]) == 1 for landscape in result.values())


def test_kinds_are_told_by_loss():
    loss = np.array([2e-4, 0.1251, 0.1663, 0.25, np.nan])
    np.testing.assert_array_equal(xor.kinds(loss), [0, 1, 2, xor.OTHER, xor.OTHER])


def along(start, ends, weights, num=5):
    """Runs whose losses go from `start` to `ends`."""
    count = len(ends)
    values = {
        "history.loss": np.linspace(np.broadcast_to(start, count), ends, num).T,
        "history.step": np.tile(np.linspace(0, 20_000, num).astype(int), (count, 1)),
        "history.weights_loss": np.linspace(np.full(count, 3.5), weights, num).T,
    }
    return ls.Landscape(ls.Grid.of(run=np.arange(count)), values, np.ones(count, bool))


def test_findings_measure_shares_growth_and_the_power():
    ends = np.array([3e-4, 4e-4, 0.12509, 0.16679])
    row = {"kind": "plateau", "grad_norm": 5e-5, "newton_step": 2.5, "step_tol": 1e-4, "flatness": 2e-5}
    other = {**row, "kind": "unconverged", "newton_loss": 3e-9}
    runs = along(0.25, ends, np.array([9.5, 9.5, 7.5, 8.5])).with_meta(certificates=[row, other])
    after = np.array([1 / 8, 1 / 6]) + (ends[2:] - np.array([1 / 8, 1 / 6])) / 2.0
    longer = along(ends[2:], after, np.array([8.5, 9.5]))  # twice the steps, half the gap
    rows = {what: found for what, _, found in xor.findings({"runs": runs, "longer": longer, "adam": longer})}
    assert rows["solved, % of runs"].startswith("50.0 (95 %")
    assert rows["stopped at 1/6, % of runs"].endswith("1 of 4")
    assert rows["stalled runs that are called a plateau"] == "1"
    assert rows["... something else, which 50 Newton steps solve"] == "1 of 1 unconverged"
    assert (
        rows["weights that grow all through the last half"] == "2, by a factor of 1.390"
    )  # the mean of 7.5 / 5.5 and 8.5 / 6
    assert rows["power of the steps with which loss - plateau falls"] == "-1.000 (-1.000 ... -1.000)"
    assert rows["loss fell further in 20000 more steps of gradient descent"] == "2, 0 of them solved it"


def test_gaps_leave_out_the_runs_that_got_off():
    longer = along(np.array([0.1252, 0.1667, 0.1253]), np.array([0.1251, 3e-5, 0.12495]), np.full(3, 9.5))
    start, now = xor.gaps(longer)
    np.testing.assert_allclose(start, [2e-4], rtol=1e-9)
    np.testing.assert_allclose(now, [1e-4], rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"runs": 0}, "needs --runs"), ({"steps": 50}, "--steps >= 100"), ({"rate": -2.0}, "--rate > 0")],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        xor.run(dataclasses.replace(xor.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_shares_of_a_thousand_runs(tmp_path):
    result = xor.run(xor.Config(), Lab(tmp_path, {"progress": False}))
    ended = xor.kinds(result["runs"]["history.loss"][:, -1])
    for kind, share in {0: 0.81, 1: 0.18, 2: 0.01}.items():
        assert stats.binomtest(int(np.sum(ended == kind)), 1000, share).pvalue > 0.001
    assert not any(row["kind"] in ("local", "global", "degenerate") for row in result["runs"].meta["certificates"])
