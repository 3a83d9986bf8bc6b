"""The notebooks run as plain scripts, find what their text says, and end with what their pictures do not show."""

import re
import runpy
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.py"))
FOR_ANYONE = NOTEBOOKS[:7]
pytestmark = pytest.mark.xdist_group("notebooks")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a notebook by its number in an empty folder; its variables come back, its figures are closed."""

    def run(number):
        (script,) = (path for path in NOTEBOOKS if path.name.startswith(number))
        monkeypatch.chdir(tmp_path)
        found = runpy.run_path(str(script), run_name="__main__")
        assert plt.get_fignums()
        return found

    yield run
    plt.close("all")


def cells(path):
    """Kind and source of each cell of a percent script, Markdown without its comment signs."""
    for cell in re.split(r"(?m)^# %%", path.read_text())[1:]:
        first, _, body = cell.partition("\n")
        markdown = "[markdown]" in first
        yield markdown, re.sub(r"(?m)^# ?", "", body) if markdown else body


def prose(path):
    """The text of a notebook without headings, tables, links' targets, formulas and code."""
    text = "\n\n".join(body for markdown, body in cells(path) if markdown)
    text = re.sub(r"(?s)\$\$.*?\$\$|```.*?```", "", text)
    text = re.sub(r"(?m)^(#|\|).*$", "", text)
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)


# -------------------------------------------------------------------------------------------------------- the text


def test_the_tour_is_whole_and_in_order():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_reality_vs_prediction",
        "02_per_sample_error",
        "03_aggregating",
        "04_mse_vs_mae",
        "05_gradient_is_a_compass",
        "06_landscape",
        "07_generalization",
        "08_culture",
        "09_your_own_model",
        "10_trust_your_slice",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_number_and_ends_with_what_it_does_not_show(path):
    texts = [body for markdown, body in cells(path) if markdown]
    assert texts[0].strip().startswith(f"# {int(path.stem[:2])}. ")
    headings = re.findall(r"(?m)^## (.*)$", "\n".join(texts))
    assert re.fullmatch(r"What (these pictures|this page) do(es)? not show", headings[-1])


@pytest.mark.parametrize("path", FOR_ANYONE, ids=lambda path: path.stem)
def test_the_first_seven_speak_plainly(path):
    sentences = [s for s in re.split(r"(?<=[.?!:])\s+|\n\n|\n- ", prose(path)) if len(s.split()) > 2]
    lengths = [len(sentence.split()) for sentence in sentences]
    assert np.mean(lengths) <= 15
    assert max(lengths) <= 40, max(sentences, key=lambda s: len(s.split()))
    assert not re.search(r"\b(stochastic|parametri[sz]ation|manifold|logits?|Hessian|eigenvalue)\b", first_part(path))


def first_part(path):
    """What comes before the mathematics, which a reader may skip."""
    whole = "\n\n".join(body for markdown, body in cells(path) if markdown)
    return whole.split("## The same in symbols")[0]


@pytest.mark.parametrize("path", FOR_ANYONE, ids=lambda path: path.stem)
def test_mathematics_comes_after_the_plain_language(path):
    assert "## The same in symbols" in path.read_text()
    assert "$" not in first_part(path)


# ----------------------------------------------------------------------------------------------------- what it says


def test_01_misses_of_the_best_line_are_orthogonal_to_its_input(run):
    found = run("01")
    assert abs(np.sum(found["misses"])) < 1e-10
    assert abs(np.sum(found["misses"] * found["hours_of_sun"])) < 1e-10
    rows, truths = found["rows"], found["truths"]
    assert np.median(found["before"][rows, truths]) < 0.2
    assert np.median(found["after"][rows, truths]) > 0.9


def test_02_one_example_moves_the_mean_by_its_share_and_the_median_by_one_place(run):
    found = run("02")
    assert found["losses"].mean() == pytest.approx(float(found["test"](found["run"].params)), rel=1e-5)
    assert found["slope"] == pytest.approx(1 / 11)
    assert np.median(found["many"], axis=1).max() == 1.9  # the next of the sorted misses


def test_03_each_way_to_aggregate_has_the_minimum_that_statistics_knows(run):
    found = run("03")
    minutes = np.asarray(found["minutes"])
    lowest = {how: found["curves"].coords(found["curves"].argmin(how))[0] for how in ("mean", "sum", "max")}
    assert lowest == {"mean": np.median(minutes), "sum": np.median(minutes), "max": (minutes.min() + minutes.max()) / 2}
    for name, value, expected in found["pairs"]:
        assert float(value) == pytest.approx(float(expected), rel=1e-5), name


def test_04_squares_follow_an_outlier_and_distances_do_not(run, capsys):
    found = run("04")
    sun, cones = np.asarray(found["data"]["sun"]), np.asarray(found["data"]["cones"])
    slope, height = np.polyfit(sun, cones, 1)
    np.testing.assert_allclose(found["fits"]["squared"], [height, slope], rtol=1e-3)
    assert abs(found["fits"]["distance"][1] - 10) < 3
    said = capsys.readouterr().out
    assert [f"{2 / np.pi:.4f}" in said, "0.9500" in said] == [True, True]


def test_05_the_compass_is_wrong_by_the_exact_angles_and_the_border_is_two_over_the_curvature(run):
    found = run("05")
    np.testing.assert_allclose(found["worst"], [54.90, 78.58, 86.38], atol=0.01)
    sun = np.asarray(found["days"]["sun"])
    hessian = 2 * np.array([[1, sun.mean()], [sun.mean(), np.mean(sun**2)]])
    assert found["curvature"] == pytest.approx(np.linalg.eigvalsh(hessian).max(), rel=1e-5)
    loss = np.asarray(found["walks"].history["loss"])
    assert np.all(np.diff(loss[:2]) < 0)
    assert loss[2, -1] > loss[2, 0]


def test_06_the_deepest_ditch_is_too_narrow_for_the_large_steps(run):
    found = run("06")
    assert found["census"].euler == 1
    label = {name: basin["label"] for name, basin in found["basins"].items()}
    assert np.mean(label["small steps"] == found["deepest"]) > 0.2
    assert not np.any(label["large steps"] == found["deepest"])
    assert found["hill"].above_line > 3 * max(found["hill"].ends)


def test_07_the_gap_is_many_standard_errors_wide(run):
    found = run("07")
    assert found["name"] == "test"
    assert found["test_loss"][-1] - found["train_loss"][-1] > 5 * found["error"]
    assert found["test_loss"][-1] > found["test_loss"].min()


def test_08_a_child_of_two_stuck_students_does_better_than_starting_anew(run):
    found = run("08")
    assert 0.4 < len(found["stuck"]) / found["STUDENTS"] < 0.8  # published for plain gradient descent: 58.5 %
    assert found["freed"]["child of two"] > max(found["freed"]["alone again"], found["freed"]["half forgotten"])


@pytest.mark.slow
def test_09_a_model_of_ones_own_is_swept_stored_and_resumed(run, capsys):
    found = run("09")
    assert found["loaded"]["train_loss"][found["centre"]] == pytest.approx(float(found["train"](found["run"].params)))
    assert "the same to the bit: True" in capsys.readouterr().out
    assert found["fine"].computed.mean() < 0.2


@pytest.mark.slow
def test_10_a_random_walk_explains_what_it_must(run):
    found = run("10")
    np.testing.assert_allclose(found["walk_explained"], found["null"], atol=0.02)
    np.testing.assert_allclose(found["logits"][0], found["logits"][1], atol=1e-4)
