"""Curves of many runs: what is drawn is what was measured, and the marks are where the runs part."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot

from landscape import plotting
from landscape.grid import Grid, Landscape

RUNS, LENGTH = 5, 21
STEPS = np.arange(LENGTH) * 12  # twelve steps an epoch


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def runs(**changes):
    epochs = np.arange(LENGTH)
    speed = np.linspace(3.0, 5.0, RUNS)[:, None]
    train = 2.3 * np.exp(-epochs / speed)
    test = 0.4 + 2.3 * np.exp(-epochs / 3) + 0.05 * np.abs(epochs - np.array([5, 6, 7, 8, 9])[:, None])
    values = {"history.loss": train, "history.test_loss": test, "history.step": np.tile(STEPS, (RUNS, 1)), **changes}
    return Landscape(Grid.of(run=np.arange(RUNS)), values, np.ones(RUNS, dtype=bool))


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_run_is_drawn_as_measured_and_the_medians_on_top():
    landscape = runs()
    ax = plotting.train_test(landscape, every=12, xlabel="epochs")
    lines = ax.get_lines()
    assert len(lines) == 2 * (RUNS + 1) + 2
    np.testing.assert_array_equal(lines[3].get_ydata(), landscape["history.loss"][3])
    np.testing.assert_array_equal(lines[RUNS].get_ydata(), np.median(landscape["history.loss"], axis=0))
    np.testing.assert_array_equal(lines[RUNS + 3].get_ydata(), landscape["history.test_loss"][2])
    np.testing.assert_array_equal(lines[0].get_xdata(), np.arange(LENGTH))
    assert (ax.get_xlabel(), ax.get_xlim()) == ("epochs", (0, 20))
    assert entries(ax)[:2] == ["train (5 runs, median)", "test (5 runs, median)"]


def test_the_marks_are_where_the_runs_part():
    train = np.full((RUNS, LENGTH), 0.5)
    test = 0.5 + np.abs(np.arange(LENGTH) - np.array([4, 5, 6, 7, 8])[:, None]) / 4
    ax = plotting.train_test(runs(**{"history.loss": train, "history.test_loss": test}), every=12, margin=1.1)
    dot, line = ax.get_lines()[-2:]
    assert dot.get_xdata()[0] == 6
    assert line.get_xdata()[0] == 11  # the gap is 1.25 five epochs later
    assert entries(ax)[2:] == ["best test: 6 (4.2 to 7.8)", "part at 11 (9.2 to 12.8)"]


def test_runs_that_never_part_are_counted():
    train = np.full((RUNS, LENGTH), 0.5)
    test = np.full((RUNS, LENGTH), 0.75)
    test[1:, 9:] = 2.5
    ax = plotting.train_test(runs(**{"history.loss": train, "history.test_loss": test}), margin=1.5)
    assert entries(ax)[-1] == "part at 108, 1 never"
    ax = plotting.train_test(runs(**{"history.loss": train, "history.test_loss": test}), margin=9.0)
    assert not any("part" in text for text in entries(ax))


def test_what_is_not_finite_breaks_its_line_and_is_counted():
    landscape = runs()
    landscape["history.test_loss"][2, 8:] = np.inf
    ax = plotting.train_test(landscape)
    assert entries(ax)[1] == "test (5 runs, median, 1 not finite)"
    broken = ax.get_lines()[RUNS + 3].get_ydata()
    assert np.isnan(broken[8:]).all()
    assert np.isfinite(landscape["history.test_loss"][2, 7])
    assert np.isfinite(ax.get_ylim()).all()


def test_runs_of_other_shards_are_left_out():
    landscape = runs()
    landscape.computed[3:] = False
    assert entries(plotting.train_test(landscape))[0] == "train (3 runs, median)"


def test_scale_and_legend():
    ax = plotting.train_test(runs(), scale="log", label="cross-entropy", legend=False)
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "cross-entropy (log scale)")
    assert ax.get_legend() is None
    assert plotting.train_test(runs(), steps=None, scale="linear").get_xlim() == (0, 20)


def test_it_takes_a_style():
    ax = plotting.train_test(runs(), style="doodle")
    assert ax.get_lines()[RUNS].get_sketch_params() is not None
    assert ax.get_lines()[0].get_sketch_params() is None  # thousands of wavy thin lines would be a smear


def test_errors():
    with pytest.raises(KeyError, match="no output 'history.nothing'"):
        plotting.train_test(runs(), test="history.nothing")
    with pytest.raises(ValueError, match=r"'history.loss' must have shape \(runs, t\), got \(5,\)"):
        plotting.train_test(runs(**{"history.loss": np.ones(RUNS)}))
    with pytest.raises(ValueError, match=r"one shape, got \(5, 3\) and \(5, 21\)"):
        plotting.train_test(runs(**{"history.loss": np.ones((RUNS, 3))}))
    with pytest.raises(TypeError, match="real numbers, 'history.loss' holds complex128"):
        plotting.train_test(runs(**{"history.loss": np.ones((RUNS, LENGTH), complex)}))
    with pytest.raises(ValueError, match="scale must be one of auto, linear, log, got 'cubic'"):
        plotting.train_test(runs(), scale="cubic")
    square = Landscape(Grid.square(1.0, 3), {"a": np.ones((3, 3))}, np.ones((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="train_test draws 1 axis, this landscape has 2"):
        plotting.train_test(square)
