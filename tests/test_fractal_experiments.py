"""The fractal border of learning rates, the double well and linear networks: published counts, exact switches."""

import itertools
import json
from pathlib import Path

import deep_linear
import double_well
import fractal_1d
import numpy as np
import pytest
import scipy.stats
from _lab import Lab, UsageError
from scripts import run_script

import landscape as ls
from landscape import problems

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("fractals")  # the tests share compiled programs
LIU = [1, 1, 1, 1, 3, 5, 7, 13, 21, 27, 57, 115, 247, 423, 683, 1215, 2303]  # k = 0 ... 16


@pytest.fixture(scope="module")
def fractal():
    return fractal_1d.run(fractal_1d.SMOKE, Lab(options={"progress": False}))


def landscape_of(axis, **values):
    grid = ls.Grid((axis,))
    return ls.Landscape(grid, {k: np.asarray(v) for k, v in values.items()}, np.ones(grid.shape, dtype=bool))


def test_counts_are_those_of_the_paper(fractal):
    found = fractal_1d.counts(fractal["multiplicative"])
    assert [found[k] for k in range(11)] == LIU[:11]
    assert list(fractal_1d.PUBLISHED["multiplicative"][:17]) == LIU


def test_labels_against_a_plain_loop(fractal):
    rate = 1.5 * np.arange(129) / 128
    x, escape = np.ones(129), np.full(129, -1)
    for step in range(1001):
        cosine, sine = np.cos(2 * np.pi * x / 0.1), np.sin(2 * np.pi * x / 0.1)
        over = ~(x**2 * (1 + 0.2 * cosine) <= 1e8) & (escape < 0)
        escape[over] = step
        slope = 2 * x * (1 + 0.2 * cosine) - 2 * np.pi * x**2 * 0.2 * sine / 0.1
        x = np.where(escape < 0, x - rate * slope, x)
    np.testing.assert_array_equal(fractal["multiplicative"]["escape"][::8] >= 0, escape >= 0)
    quick = (escape >= 0) & (escape < 10)  # chaos has not yet blown rounding up
    np.testing.assert_array_equal(fractal["multiplicative"]["escape"][::8][quick], escape[quick])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.5), (1.5 * 37 / 256, 1.5 * 101 / 256)])
def test_counts_of_a_window_by_their_definition(low, high):
    grid = fractal_1d.rates(8, low, high)
    escape = np.random.default_rng(2).integers(-1, 1, grid.shape)
    label = dict(zip(np.round(grid.axes[0].values * 256 / 1.5).astype(int), escape >= 0))
    for k, found in fractal_1d.counts(landscape_of(grid.axes[0], escape=escape)).items():
        nested = [label[i] for i in sorted(label) if i % 2 ** (8 - k) == 0]
        assert found == sum(a != b for a, b in itertools.pairwise(nested))


def test_dimension_against_scipy():
    rng = np.random.default_rng(5)
    found = {k: round(2 ** (0.8 * k - 2 + 0.1 * rng.normal())) for k in range(3, 15)}
    used = {k: count for k, count in found.items() if count > 1}
    fit = scipy.stats.linregress(list(used), np.log2(list(used.values())))
    slope, error, low, high = fractal_1d.dimension(found | {0: 1, 1: 1, 2: 0})
    assert slope == pytest.approx(fit.slope)
    assert error == pytest.approx(fit.stderr)
    assert (low, high) == (min(used), max(used))
    assert np.isnan(fractal_1d.dimension({0: 1, 1: 5, 2: 9})[0])


def test_both_dimensions_are_of_the_same_depths_and_counts_that_disagree_are_shown(monkeypatch):
    ours = {"multiplicative": {k: 2 ** max(k - 3, 0) for k in range(13)}, "additive": dict.fromkeys(range(11), 1)}
    ours["additive"] |= {11: 3, 12: 1, 13: 1, 14: 9, 15: 13, 16: 31, 17: 51, 18: 117}
    monkeypatch.setattr(fractal_1d, "all_counts", lambda result: ours)
    onset = landscape_of(ls.Axis("roughness", np.array([0.03, 0.06])), count=np.array([[1], [3]]))
    rows = {what: (expected, found) for what, expected, found in fractal_1d.findings({"onset": onset})}
    expected, found = rows["added: unequal neighbours, k = 11 ... 18"]
    assert (expected, found) == ("1 1 1 9 13 31 51 117", "3 1 1 9 13 31 51 117 (off by at most 200.00%)")
    # at k = 11 only ours exceeds 1, so neither fit has it: the same counts, the same dimension
    theirs = scipy.stats.linregress(range(14, 19), np.log2([9, 13, 31, 51, 117]))
    text = f"{theirs.slope:.4f} +- {theirs.stderr:.4f}"
    assert rows["D, added ripples"] == (f"0.9956 +- 0.0050 (k to 31), {text} (same k)", f"{text} (k = 14 ... 18)")


def test_zooms_lie_on_the_border(fractal):
    coarse, fine = fractal["additive"], fractal["additive_zoom"]
    rate, zoomed = (x.grid.axes[0].values for x in (coarse, fine))
    inside = rate[fractal_1d.borders(coarse)]
    assert np.all((zoomed[0] < inside) & (inside < zoomed[-1]))
    shared = np.isin(rate, zoomed)
    assert shared.sum() > 4
    np.testing.assert_array_equal(coarse["escape"][shared], fine["escape"][np.isin(zoomed, rate)])
    below, above = fractal_1d.onset(fractal["onset"])
    assert below < 1 / (2 * np.pi**2) < above


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        (fractal_1d, {"depth": 3}, "--depth must be at least 8, got 3"),
        (fractal_1d, {"zoom_depth": 9}, "--zoom-depth must lie between --coarse-depth and 40, got 9"),
        (double_well, {"rates": (2.0,)}, "--rates must lie between 0 and 1.598"),
        (double_well, {"rates": (0.1,)}, "--extent must exceed 4.583, up to where the smallest rate is bounded"),
        (deep_linear, {"starts": 0}, "needs --starts, --runs and --slow-runs >= 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(experiment, changes, message):
    with pytest.raises(UsageError, match=message):
        experiment.run(experiment.Config(**changes), Lab())


def test_double_well_switches_where_theory_says():
    result = double_well.run(double_well.SMOKE, Lab(options={"progress": False}))
    well = problems.double_well()
    found = double_well.switches(result)
    assert set(found) == {0.5, 1.0}
    for rate, (points, limit) in found.items():
        assert len(points) >= 5
        np.testing.assert_allclose(points, well.switches(rate, len(points)), atol=1e-12)
        assert limit == pytest.approx(np.sqrt(1 + 2 / rate), abs=1e-12)
        assert double_well.shrink_factors(points)[-1] == pytest.approx(5 + 2 * rate, rel=0.01)
    # the map against a plain loop
    rate, start = (axis.values for axis in result["basins"].grid.axes)
    eta, x = (np.array(a) for a in np.meshgrid(rate, start, indexing="ij"))
    for _ in range(1000):
        bounded = (x * x - 1) ** 2 / 4 <= 1e8
        x = np.where(bounded, x - eta * x * (x * x - 1), x)
    # starts that a step leads to 0 exactly, such as 1.5 at rate 0.8, hang on the last bit
    sure = np.abs(start[None] - np.sqrt(1 + 1 / rate)[:, None]) > 1e-9
    expected = np.where(bounded, np.sign(x), 2)
    np.testing.assert_array_equal(result["basins"]["label"][sure], expected[sure])


def test_fractal_script(tmp_path):
    done = run_script("fractal_1d", "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 1 1 1 3 5 7 13 21 27 57 (equal)" in done.stdout
    assert {"labels.png", "dimension.pdf", "multiplicative.zarr", "bar_2.zarr"} <= {p.name for p in tmp_path.iterdir()}


def test_double_well_script(tmp_path):
    done = run_script("double_well", "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "η = 0.5: first switch 1.7320508076 1.7320508076" in " ".join(done.stdout.split())
    assert {"basins.png", "zooms.png", "zoom_3.zarr"} <= {p.name for p in tmp_path.iterdir()}


def test_linear_script(tmp_path):
    done = run_script("deep_linear", "--smoke", "--batch", "20", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads((tmp_path / "findings.json").read_text())}
    for what in ("negative eigenvalues as predicted", "zero eigenvalues as predicted (orbit of GL)"):
        assert rows[what]["found"] == rows[what]["expected"] == "40"
    assert float(rows["largest distance from the value of a subset"]["found"]) < 1e-12
    for name in ("linear autoencoder 5-2-5", "deep linear 6-5-3-5-6"):
        assert rows[f"{name}: trainings at the global value"]["found"].startswith("16 of 16")
    assert (tmp_path / "linear.png").is_file()


@pytest.mark.slow
def test_the_paper_at_full_depth():
    result = fractal_1d.run(fractal_1d.Config(), Lab(options={"progress": False}))
    found = fractal_1d.all_counts(result)
    assert [found["multiplicative"][k] for k in range(13)] == LIU[:13]
    np.testing.assert_allclose([found["multiplicative"][k] for k in range(13, 17)], LIU[13:], rtol=0.01)
    for kind, (expected, spread) in fractal_1d.DIMENSION.items():
        slope, error, _, _ = fractal_1d.dimension(found[kind])
        assert abs(slope - expected) < 2 * np.hypot(error, spread)
    below, above = fractal_1d.onset(result["onset"])
    assert 0.9 < below * 2 * np.pi**2 < above * 2 * np.pi**2 < 1.15


@pytest.mark.slow
def test_linear_networks_have_no_bad_minimum():
    result = deep_linear.run(deep_linear.Config(), Lab(options={"progress": False}))
    facts, points = result["critical"].meta["linear"], deep_linear.census(result["critical"])
    assert set(points["subset"]) == set(range(16))
    np.testing.assert_allclose(points["distance"], 0, atol=1e-12)
    np.testing.assert_array_equal(points["index"], np.array(facts["index"])[points["subset"]])
    np.testing.assert_array_equal(points["flat"], np.array(facts["flat"])[points["subset"]])
    for name in ("shallow", "deep"):
        loss, best = result[name]["loss"], result[name].meta["linear"]["global"]
        np.testing.assert_allclose(loss, best, atol=1e-9)
