"""The trainability experiment: its estimator, its choice of zooms, its files; the published dimensions (slow)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainability
from _runner import Lab, UsageError

import landscape as ls

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("trainability")


def test_known_sets_have_the_slopes_of_their_dimension():
    """Dyadic boxes are good to .1 at this size (test_analysis.py says why); the paper's estimator scatters more."""
    for name, mask in trainability._known_sets(1025):
        found = trainability._slopes(mask)
        assert np.median(found["slopes"]) == pytest.approx(trainability.KNOWN[name], abs=0.15), name
        assert found["dyadic"] == pytest.approx(trainability.KNOWN[name], abs=0.1), name


def test_dimension_is_the_median_over_all_maps_and_its_error_comes_from_the_maps():
    value, error = trainability.dimension([[1.25, 1.5], [1.25, 1.75], []])
    assert value == 1.375
    assert 0 < error < 0.25
    assert trainability.dimension([[1.5, 1.5], [1.5]]) == (1.5, 0.0)
    assert all(np.isnan(trainability.dimension([[], []])))


def test_learning_rates_belong_to_their_layers():
    params = {"w0": jnp.full((2, 2), 0.5), "w1": jnp.full(2, 3.0)}
    optimizer, start = trainability.LearningRates(params)(jnp.array([-1.0, 2.0]))
    gradient = {"w0": jnp.full((2, 2), 4.0), "w1": jnp.full(2, 0.25)}
    updates, _ = optimizer.update(gradient, optimizer.init(start), start)
    np.testing.assert_allclose(updates["w0"], -0.4, rtol=1e-6)
    np.testing.assert_allclose(updates["w1"], -25.0, rtol=1e-6)


@pytest.mark.parametrize("toward", ["random", "most"])
def test_a_zoom_goes_to_the_boundary_and_stays_inside(toward):
    config = trainability.Config(toward=toward)
    grid = ls.Grid.square((-3.0, 6.0), 65)
    x, _ = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    landscape = ls.Landscape(grid, {"converged": x < 1.3}, np.ones(grid.shape, dtype=bool))
    for seed in range(20):
        center = trainability._next_center(landscape, config, np.random.default_rng(seed))
        assert abs(center[0] - 1.3) <= 9 / 64
        assert -3 + 9 / 8 - 0.2 <= center[1] <= 6 - 9 / 8 + 0.2
    flat = ls.Landscape(grid, {"converged": x < 99}, np.ones(grid.shape, dtype=bool))
    assert trainability._next_center(flat, config, np.random.default_rng(3)) is None


def test_a_window_holds_what_a_count_by_hand_finds():
    edges = np.random.default_rng(3).random((90, 70)) < 0.2
    corners = np.argwhere(edges)
    held = trainability._held(edges, corners, 9)
    for corner, count in list(zip(corners, held))[::37]:
        assert count == edges[tuple(slice(max(0, c - 9), c + 9) for c in corner)].sum()


def test_the_window_of_the_animation_moves_from_map_to_map():
    windows = np.array([[(-3.0, 6.0), (-3.0, 6.0)], [(0.5, 2.75), (3.0, 5.25)], [(1.0, 1.5625), (4.0, 4.5625)]])
    for level in range(3):
        np.testing.assert_allclose(trainability._window(windows, float(level)), windows[level], atol=1e-12)
    halfway = trainability._window(windows, 0.5)
    np.testing.assert_allclose(np.ptp(halfway, axis=1), 4.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 64}, "--resolution must be at least 65, got 64"),
        ({"steps": 5}, "--steps must be at least 20, got 5"),
        ({"zoom": 1.0}, "--zoom must be larger than 1"),
    ],
)
def test_settings_that_cannot_be_used(changes, message):
    with pytest.raises(UsageError, match=message):
        trainability.run(trainability.Config(**changes), Lab())


def test_smoke_run_leaves_maps_figures_and_an_animation(tmp_path):
    script = ROOT / "experiments" / "trainability.py"
    command = [sys.executable, str(script), "--smoke", "--out", str(tmp_path / "out"), "--no-compile-cache"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"deep-linear.png", "deep-linear_zoom.gif", "dimension.pdf", "deep-linear_1.zarr"} <= names
    rows = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert any(row["what"] == "deep-linear: dimension over 1 zooms, most" for row in rows)
    overview = ls.load(tmp_path / "out" / "picture-deep-linear_0.zarr")
    assert 0 < overview["converged"].mean() < 1
    assert (overview["value"] > 0).tolist() == overview["converged"].tolist()


@pytest.mark.slow
def test_one_example_has_a_boundary_of_the_published_dimension():
    config = trainability.Config(configurations=("single-datapoint",), picture=3)
    result = trainability.run(config, Lab(options={"progress": False}))
    maps = trainability._levels(result, "single-datapoint")
    assert len(maps) == 9
    value, _ = trainability.dimension([m.meta["trainability"]["slopes"] for m in maps[1:]])
    assert 1.25 <= value <= 1.6


def test_precision_is_double():
    config = trainability.Config(configurations=("deep-linear",), zooms=0, resolution=65, picture=5, steps=20, width=4)
    result = trainability.run(config, Lab(options={"progress": False}))
    assert result["deep-linear_0"]["value"].dtype == np.float64
    assert not jax.config.jax_enable_x64
