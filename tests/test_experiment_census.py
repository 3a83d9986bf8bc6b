"""The census experiment: closed forms, the logic of its findings, the command line, and the full reproduction."""

import dataclasses
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import census
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _exact import clusters as _clusters
from _lab import Lab, UsageError
from scripts import run_script

import landscape as ls
from landscape import problems

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("census")  # the tests share compiled programs
QUIET = {"progress": False}


def test_the_command_line_finds_everything(tmp_path):
    done = run_script("census", "--smoke", "--runs", 24, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {
        row["what"]: (row["expected"], row["found"]) for row in json.loads((tmp_path / "findings.json").read_text())
    }
    for where in ("Mueller-Brown", "Mueller-Brown, moved"):
        assert rows[f"{where}: minima-saddles-maxima"][1].startswith("3-2-0 ")
        assert rows[f"{where}: minima - saddles + maxima"] == ("1", "1")
        assert rows[f"{where}: Morse indices right"] == ("5 of 5", "5")
        assert float(rows[f"{where}: largest distance from a known point"][1]) < 1e-6
    assert rows["Mueller-Brown: passes of the merge tree"][1] == "-72.248940 -40.664844"
    assert rows["Lennard-Jones 7: distinct minima"][0] == "4"
    found = rows["Lennard-Jones 7: energies"][1].split()
    assert set(found) <= set(rows["Lennard-Jones 7: energies"][0].split())
    assert {f.stem for f in tmp_path.glob("*.png")} == {"functions", "tree_mueller_brown", "clusters"}


# ------------------------------------------------------------------------------------------------ found and known


def compared(points, indices):
    return census.compared(np.asarray(points), np.asarray(indices), problems.himmelblau)


def test_points_found_are_compared_in_any_order():
    points, indices = problems.himmelblau.critical_points, problems.himmelblau.indices
    order = np.array([4, 0, 8, 2, 1, 6, 3, 7, 5])
    off = np.array([3e-5, -4e-5])
    found = compared(points[order] + off, indices[order])
    assert found["distance"] == pytest.approx(5e-5)
    assert (found["right_index"], found["unknown"]) == (9, 0)
    np.testing.assert_array_equal(found["known"]["counts"], (4, 4, 1))


def test_a_missed_point_an_extra_one_and_a_wrong_index_are_seen():
    points, indices = problems.himmelblau.critical_points, problems.himmelblau.indices.copy()
    missed = compared(points[1:], indices[1:])
    assert missed["distance"] == pytest.approx(np.linalg.norm(points[1:] - points[0], axis=1).min())
    assert (missed["right_index"], missed["unknown"]) == (8, 0)
    assert compared(np.vstack([points, [[1.5, -4.0]]]), np.append(indices, 1))["unknown"] == 1
    indices[5] = 2
    assert compared(points, indices)["right_index"] == 8
    nothing = compared(np.zeros((0, 2)), np.zeros(0, int))
    assert (nothing["distance"], nothing["right_index"], nothing["unknown"]) == (np.inf, 0, 0)


def test_findings_say_what_was_missed():
    points, indices = problems.himmelblau.critical_points[1:], problems.himmelblau.indices[1:]
    here = compared(points, indices) | {
        "points": points, "values": problems.himmelblau.values[1:], "indices": indices, "counts": (3, 4, 1),
        "euler": 0, "starts": 1234, "new_per_round": (8, 0, 0), "complete": False,
    }  # fmt: skip
    grid = ls.Grid.square(5.0, 3, names=("x", "y"))
    meta = {"function": "Himmelblau", "census": {"here": here, "passes": []}}
    landscape = ls.Landscape(grid, {"loss": np.zeros((3, 3))}, np.ones((3, 3), bool), meta=meta)
    rows = {what: (expected, found) for what, expected, found in census.findings({"himmelblau": landscape})}
    assert rows["Himmelblau: minima-saddles-maxima"] == ("4-4-1", "3-4-1 (1,234 starts, search not complete)")
    assert rows["Himmelblau: minima - saddles + maxima"] == ("1", "0")
    assert rows["Himmelblau: Morse indices right"] == ("9 of 9", "8")
    assert rows["Himmelblau: minima"][1] == "0.000000 0.000000 0.000000"


def test_a_moved_function_is_searched_where_it_went(x64):
    config = census.Config(starts=64, seed=3)
    found = census._moved_survey(problems.three_hump_camel, config)
    assert tuple(found["counts"]) == (3, 2, 0)
    assert found["distance"] < 1e-9
    assert not np.allclose(found["shift"], 0)
    lowest = np.asarray(found["points"])[0]
    np.testing.assert_allclose(lowest, found["shift"], atol=1e-9)  # the origin is the global minimum


# ---------------------------------------------------------------------------------------------- saddles and trees


def test_saddles_join_the_minima_beside_them(x64):
    # Styblinski-Tang is a sum over the coordinates: descent from a saddle moves along one of them only, to the minima
    # of the line on both sides of its maximum.
    function = problems.styblinski_tang
    found = {"points": function.critical_points, "indices": function.indices}
    subject = census.Subject(function.objective, np.stack(function.box, axis=1), function)
    minima = function.minima
    for one in census.passes(subject, found):
        saddle = function.critical_points[one["saddle"]]
        fixed = int(np.argmax(np.abs(saddle - 0.1567) > 1))  # the coordinate that is at a minimum
        beside = {k for k, point in enumerate(minima) if abs(point[fixed] - saddle[fixed]) < 1e-6}
        assert set(one["minima"]) == beside
        assert len(beside) == 2
        for path in one["paths"]:
            np.testing.assert_allclose(np.asarray(path)[:, fixed], saddle[fixed], atol=1e-9)


def test_the_tree_of_saddles_is_that_of_a_fine_grid(x64):
    # A second algorithm: water rising over pixels of 0.005, over which the curvatures of up to 4,000 make 0.05.
    function = problems.mueller_brown
    subject = census.Subject(function.objective, np.stack(function.box, axis=1), function)
    here = {"points": function.critical_points, "indices": function.indices, "values": function.values}
    tree = census.tree_of({"here": here, "passes": census.passes(subject, here)})
    grid = ls.Grid.of(x=np.linspace(-1.5, 1.2, 541), y=np.linspace(-0.2, 2.0, 441))
    values = np.asarray(jax.vmap(function)(jnp.asarray(grid.points()))).reshape(grid.shape)
    pixels = ls.analysis.merge_tree(values).pruned(5.0)
    np.testing.assert_allclose(np.sort(tree.values), pixels.values, atol=0.05)
    np.testing.assert_allclose(tree.heights, pixels.heights, atol=0.05)


# ------------------------------------------------------------------------------------------------------- your own


def own(formula, shape=(2,)):
    return ls.Problem(lambda key: jax.random.normal(key, shape), {"train": ls.Objective(formula)}, name="mine")


def test_your_own_function_of_two_variables(tmp_path):
    problem = own(lambda p, _: (p[0] ** 2 - 9) ** 2 / 36 + 2 * (p[1] - 0.5) ** 2)
    config = census.Config(box=(-5, 5, -3, 3), starts=64, resolution=21)
    lab = Lab(tmp_path, QUIET, problem)
    result = census.run(config, lab)
    here = result["problem"].meta["census"]["here"]
    assert tuple(here["counts"]) == (2, 1, 0)
    np.testing.assert_allclose(sorted(np.asarray(here["points"])[:, 0]), [-3, 0, 3], atol=1e-12)
    assert sorted(result["problem"].meta["census"]["passes"][0]["minima"]) == [0, 1]
    rows = {what: expected for what, expected, _ in census.findings(result)}
    assert rows["your function: minima-saddles-maxima"] == "?"
    with ls.plotting.style("paper"):
        assert set(census.plot(result)) == {"functions", "tree_problem"}
    matplotlib.pyplot.close("all")


def test_a_census_is_taken_once(tmp_path, monkeypatch):
    problem = own(lambda p, _: jnp.sum((p - 0.3) ** 2))
    config = census.Config(box=(-2, 2, -2, 2), starts=16, resolution=5)
    first = census.run(config, Lab(tmp_path, QUIET, problem))
    monkeypatch.setattr(census.minima, "census", None)
    again = census.run(config, Lab(tmp_path, QUIET, problem))
    assert census.findings(first) == census.findings(again)


@pytest.mark.parametrize(
    ("config", "problem", "match"),
    [
        (census.Config(starts=0), None, "--starts and --runs >= 1"),
        (census.Config(resolution=2), None, "--resolution >= 3"),
        (census.Config(box=(0, 1, 0, 1)), None, "--box says where to search your own --problem"),
        (census.Config(), own(lambda p, _: jnp.sum(p**2)), "--box says where to search"),
        (census.Config(box=(0, 1, 0, 1)), own(lambda p, _: jnp.sum(p**2), (3, 2)), r"two variables: .*\(3, 2\)"),
    ],
)
def test_what_cannot_be_done_is_refused(config, problem, match):
    with pytest.raises(UsageError, match=match):
        census.run(config, Lab(None, QUIET, problem))


# ------------------------------------------------------------------------------------------------------- clusters


def test_findings_of_a_cluster_count_the_runs():
    labels = np.array([0] * 5 + [1] * 3 + [-1] * 2)
    about = {"energies": [92.911655, 92.920354], "labels": labels, "indices": [0, 0], "zeros": [19, 19]}
    meta = {"minima": about, "function": "Thomson 16"}
    energy = np.where(labels == 0, 92.911655, 92.920354)
    landscape = ls.Landscape(ls.Grid.of(run=np.arange(10)), {"energy": energy}, np.ones(10, bool), meta=meta)
    rows = {what: (expected, found) for what, expected, found in census.findings({"thomson": landscape})}
    assert rows["Thomson 16: distinct minima"] == ("2", "2")
    assert rows["Thomson 16: share of starts that reaches 92.911655"][1] == "50.0% [23.7%, 76.3%]"  # Wilson (1927)
    assert rows["Thomson 16: share of starts that reaches none"][1].startswith("20.0%")
    assert "gradient descent" in rows["Thomson 16: these shares are of"][1]
    with ls.plotting.style("paper"):
        assert list(census.plot({"thomson": landscape})) == ["clusters"]
    matplotlib.pyplot.close("all")


@pytest.mark.slow
def test_full_reproduction():
    result = census.run(census.Config(resolution=5), Lab(None, QUIET))
    for name in census.FUNCTIONS:
        known = problems.rastrigin(2) if name == "rastrigin" else getattr(problems, name)
        for found in (result[name].meta["census"]["here"], result[name].meta["census"]["moved"]):
            assert tuple(found["counts"]) == known.counts
            assert found["distance"] < census.CLOSE
            assert found["right_index"] == len(known.indices)
            assert (found["unknown"], found["euler"], found["complete"]) == (0, 1, True)
    for name, cluster in _clusters.CLUSTERS.items():
        about = result[name].meta["minima"]
        np.testing.assert_allclose(about["energies"], cluster.published, atol=1e-6)
        assert set(about["indices"]) == {0}
        assert set(about["zeros"]) == {cluster.free}


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        census.SMOKE.starts = 3
