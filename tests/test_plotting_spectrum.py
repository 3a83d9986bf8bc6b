"""The view of a spectral density, asserted on its artists."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PolyCollection

from landscape import plotting


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def density():
    """Four probes over a bulk near zero and one eigenvalue at 7."""
    rng = np.random.default_rng(2)
    nodes = np.column_stack([rng.normal(0.1, 0.05, size=(4, 6)), np.full(4, 7.0)])
    weights = np.column_stack([np.full((4, 6), 0.16), np.full(4, 0.04)])
    return SimpleNamespace(nodes=nodes, weights=weights)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_curve_is_the_mean_of_broadened_nodes_and_integrates_to_one(density):
    ax = plotting.spectrum(density, width=0.3, scale="linear")
    x, y = ax.lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-4)
    at = np.argmin(abs(x - 7))
    bell = np.exp(-(((x[at] - density.nodes) / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))
    assert y[at] == pytest.approx(np.sum(density.weights * bell) / 4, rel=1e-12)


def test_the_band_is_two_standard_errors_over_the_probes(density):
    ax = plotting.spectrum(density, width=0.3, scale="linear")
    (band,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    x, y = ax.lines[0].get_data()
    at = np.argmax(y)
    bells = np.exp(-(((x[at] - density.nodes) / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))
    each = np.sum(density.weights * bells, axis=1)
    top = y[at] + 2 * each.std(ddof=1) / 2
    corners = band.get_paths()[0].vertices
    assert corners[np.isclose(corners[:, 0], x[at]), 1].max() == pytest.approx(top, rel=1e-9)
    assert "4 probes, ± 2 standard errors, width 0.3" in legend(ax)[0]


def test_a_log_scale_begins_below_the_lightest_bump_and_is_named(density):
    ax = plotting.spectrum(density, width=0.3)
    assert ax.get_yscale() == "log"
    lightest = 0.04 / (0.3 * np.sqrt(2 * np.pi))
    assert ax.get_ylim()[0] < lightest < ax.get_ylim()[1]
    assert ax.get_ylabel() == "density of eigenvalues (log scale)"
    assert plotting.spectrum(density, scale="linear").get_ylabel() == "density of eigenvalues"


def test_outliers_are_marked_with_their_residuals_and_inside_the_axes(density):
    pairs = SimpleNamespace(values=np.array([9.0, 7.0, np.nan]), residuals=np.array([0.5, 0.25, np.nan]))
    ax = plotting.spectrum(density, outliers=pairs)
    (marks,) = [line for line in ax.lines if line.get_marker() == "v"]
    assert marks.get_xdata().tolist() == [9, 7]
    assert ax.get_xlim()[1] > 9
    bars = [s for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    assert sorted(np.ptp(s[:, 0]) for s in bars) == [0, 0, 0.5, 1.0]  # two sticks, two error bars
    assert "2 eigenvalues" in legend(ax)
    assert "eigenvalue 7.5" in legend(plotting.spectrum(density, outliers=[7.5]))


def test_all_eigenvalues_of_a_matrix():
    ax = plotting.spectrum(np.array([3.0, 4.0, np.nan, 9.0]), width=0.2, scale="linear")
    x, y = ax.lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-4)
    assert legend(ax) == ["all eigenvalues, width 0.2"]
    assert not [c for c in ax.collections if isinstance(c, PolyCollection)]


def test_probes_that_are_not_finite_are_left_out_and_one_value_has_a_width(density):
    density.weights[2] = np.nan
    assert legend(plotting.spectrum(density))[0].startswith("3 probes")
    ax = plotting.spectrum(np.array([4.0, 4.0]))
    assert ax.get_xlim()[0] < 4 < ax.get_xlim()[1]


def test_options_axes_label_and_style(density):
    _, ax = plt.subplots()
    assert plotting.spectrum(density, ax=ax, label="λ", legend=False, linewidth=3) is ax
    assert ax.get_xlabel() == "λ"
    assert ax.get_legend() is None
    assert ax.lines[0].get_linewidth() == 3
    assert plotting.spectrum(density, style="doodle").lines


def test_errors(density):
    with pytest.raises(ValueError, match="scale must be 'log' or 'linear', got 'symlog'"):
        plotting.spectrum(density, scale="symlog")
    with pytest.raises(TypeError, match="density must be a SpectralDensity or an array of eigenvalues, got str"):
        plotting.spectrum("7")
    with pytest.raises(ValueError, match=r"must both have shape \(num_probes, num_steps\), got \(4, 7\) and \(4, 6\)"):
        plotting.spectrum(SimpleNamespace(nodes=density.nodes, weights=density.weights[:, 1:]))
    with pytest.raises(ValueError, match="no finite eigenvalue to draw"):
        plotting.spectrum(SimpleNamespace(nodes=density.nodes, weights=density.weights * np.nan))
    with pytest.raises(ValueError, match=r"width must be positive, in units of the eigenvalues, got -0\.1"):
        plotting.spectrum(density, width=-0.1)
    with pytest.raises(ValueError, match="spectrum draws on flat axes"):
        plotting.spectrum(density, ax=plt.figure().add_subplot(projection="3d"))
