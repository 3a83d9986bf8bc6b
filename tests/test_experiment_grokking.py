"""Grokking: PyTorch's AdamW on the same network, the delays of made-up runs, the script."""

import dataclasses

import matplotlib

matplotlib.use("Agg")

import grokking
import jax
import numpy as np
import pytest
from _lab import Lab, UsageError
from _lab.command import settings_rows, table

import landscape as ls
from landscape.problems import modular_addition

pytestmark = pytest.mark.xdist_group("grokking")  # the tests share one run of the script


def pytorch_measures(weights, data):
    """Mean squared error and accuracy, with one-hot vectors for the numbers."""
    import torch

    a, b, out = weights
    hot = torch.eye(len(a))
    outputs = (hot[data["x"][:, 0]] @ a + hot[data["x"][:, 1]] @ b) ** 2 @ out
    return torch.nn.MSELoss()(outputs, hot[data["y"]]), (outputs.argmax(1) == data["y"]).float().mean()


def test_runs_are_those_of_pytorchs_adamw(smoke, torch):
    config, number, runs = grokking.SMOKE, 1, smoke[2]["runs"]
    problem = modular_addition(config.modulus, config.hidden, config.fraction, seed=config.seed + number)
    start = jax.jit(problem.init)(jax.random.fold_in(jax.random.key(config.seed), number))
    weights = [torch.tensor(np.array(start[name]), requires_grad=True) for name in ("a", "b", "out")]
    optimizer = torch.optim.AdamW(weights, lr=0.01, betas=(0.9, 0.999), weight_decay=5.0)
    data = {
        part: {name: torch.tensor(np.array(leaf), dtype=torch.int64) for name, leaf in objective.data.items()}
        for part, objective in problem.objectives.items()
    }
    for step in range(20):
        loss, _ = pytorch_measures(weights, data["train"])
        for part in ("train", "test"):
            error, accuracy = (float(value.detach()) for value in pytorch_measures(weights, data[part]))
            assert runs[f"{part}_loss"][number, step] == pytest.approx(error, rel=1e-4)
            within = 1.5 / len(data[part]["y"])  # one answer may tip over
            assert runs[f"{part}_accuracy"][number, step] == pytest.approx(accuracy, abs=within)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_a_small_table_is_grokked(smoke):
    """The same order of events at modulus 31: the examples by heart, the test at a loss, then both."""
    runs = smoke[2]["runs"]
    train, test = (grokking.known_from(runs[f"{part}_accuracy"]) for part in ("train", "test"))
    assert np.all(train < test)
    assert np.all(grokking.delays(runs) >= 10)
    for number, step in enumerate(train.astype(int)):
        assert runs["test_accuracy"][number, step] < 0.1
    assert np.all(runs["test_accuracy"][:, -1] == 1.0)


def made_up(train, test, steps=60):
    """Runs whose accuracies jump from .02 to 1 at these steps; `None` for never."""
    grid = ls.Grid.of(run=np.arange(len(train)))
    values = {}
    for part, when in (("train", train), ("test", test)):
        jumps = np.array([steps + 1 if step is None else step for step in when])
        values[f"{part}_accuracy"] = np.where(np.arange(steps + 1) >= jumps[:, None], 1.0, 0.02)
        values[f"{part}_loss"] = np.tile(np.geomspace(0.5, 0.1, steps + 1), (len(train), 1))
    values["test_loss"][:, 12] = 1.5
    return ls.Landscape(grid, values, np.ones(len(train), bool))


def test_findings_count_the_runs_with_a_long_delay():
    runs = made_up([12, 15, 20, None], [40, 29, None, 35])
    np.testing.assert_array_equal(grokking.delays(runs), [28, 14, np.nan, np.nan])
    rows = {what: (expected, found) for what, expected, found in grokking.findings({"runs": runs})}
    assert rows["training accuracy at step 30"] == ("1.0", "1.000 (0.020 ... 1.000)")
    assert rows["test accuracy at step 40"][1] == "1.000 (0.020 ... 1.000)"
    assert rows["test accuracy 0.99 from step"][1] == "35 (29 ... 40), in 3 of 4 runs"
    assert rows["delay at 0.99, steps"][1] == "21 (14 ... 28), in 2 of 4 runs"
    expected, found = rows["... of at least 15 steps, runs"]
    assert expected == "4 of 4"
    assert found.startswith("1 (95 %")
    assert rows["test loss at its highest, at step"][1] == "12 (12 ... 12)"
    assert rows["... relative to the start"][1] == "3.000 (3.000 ... 3.000)"


def test_no_run_groks():
    runs = made_up([12, 15], [None, None])
    rows = {what: found for what, _, found in grokking.findings({"runs": runs})}
    assert rows["delay at 0.99, steps"] == "in no run"
    assert rows["... of at least 15 steps, runs"].startswith("0 (95 %")


def test_the_script_draws_and_its_folder_is_resumed(smoke):
    done, out, _ = smoke
    assert {"grokking.png", "grokking.pdf", "findings.json"} <= {path.name for path in out.iterdir()}
    result = grokking.run(grokking.SMOKE, Lab(out, {"progress": False}))
    rows = [*settings_rows(grokking.SMOKE, grokking.SMOKE), *grokking.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")
    assert len(result["runs"].meta["calls"]) == 1


@pytest.mark.parametrize("changes", [{"runs": 0}, {"steps": 0}, {"rate": -0.1}, {"decay": -2.0}, {"b2": 1.0}])
def test_bad_settings_name_their_flag(changes):
    with pytest.raises(UsageError, match=f"needs --runs.*{next(iter(changes))}={next(iter(changes.values()))}"):
        grokking.run(dataclasses.replace(grokking.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_nine_of_ten_runs_grok_fifteen_steps_later(tmp_path):
    runs = grokking.run(grokking.Config(), Lab(tmp_path, {"progress": False}))["runs"]
    assert np.sum(grokking.delays(runs) >= 15) >= 9
    assert np.all(runs["train_accuracy"][:, 30] > 0.999)
