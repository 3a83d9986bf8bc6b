"""Views of basins, trainability, merge trees and endpoints, asserted on their artists."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgb

from landscape import analysis, plotting
from landscape.grid import Axis, Grid, Landscape
from landscape.plotting import _basins, _labels, _style, _trainability


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def basin_map():
    """A 5 x 8 map that tells the axes apart: minima 0, 3 and 1 in columns of x, then not converged and diverged."""
    grid = Grid((Axis.linspace("x", -2.0, 2.0, 5, "first weight"), Axis.linspace("y", 0.0, 3.5, 8)))
    labels = np.repeat([[0], [3], [1], [-1], [-2]], 8, axis=1)
    labels[4, :3] = 0
    steps = np.full((5, 8), 400)
    steps[:3] = np.geomspace(5, 320, 24).astype(int).reshape(3, 8)
    steps[4, :3] = 12
    values = {"label": labels, "steps": steps, "train_loss": np.linspace(0.5, 2.5, 40).reshape(5, 8)}
    return Landscape(grid, values, np.ones((5, 8), dtype=bool), meta={"optimizer": "sgd(0.1)"})


def mesh_of(ax):
    return next(c for c in ax.collections if isinstance(c, QuadMesh))


def colors_of(ax):
    """Colours of the cells in the order of the array, shape (nx, ny, 3)."""
    ax.figure.canvas.draw()
    return np.swapaxes(np.asarray(mesh_of(ax).get_array()), 0, 1)[..., :3]


def legend(ax):
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


def rgb(label):
    return to_rgb(_labels.label_color(label))


# Colours


def lab(colors):
    """CIE L*a*b* (D65) of linear RGB."""
    xyz = colors @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


# Machado, Oliveira and Fernandes (2009), severity 1.0: what the colour-blind see, in linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("vision", VISION)
def test_colours_of_labels_are_safe_for_the_colour_blind(vision):
    colors = [rgb(k) for k in range(-2, 12)] + [to_rgb(_style.NOT_COMPUTED)]
    c = np.array(colors)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    seen = lab(np.clip(linear @ np.transpose(VISION[vision]), 1e-9, 1))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e3 * np.eye(len(c))
    assert apart.min() > 10  # about four times a difference that is just noticed (2.3)


def test_further_labels_repeat_the_colours_lighter_then_darker():
    colors = [_labels.label_color(k) for k in range(36)]
    assert len(set(colors)) == 36
    assert _labels.label_color(36) == colors[0]
    for k in range(12):
        assert _style.luminance(colors[k + 24]) < _style.luminance(colors[k]) < _style.luminance(colors[k + 12])


@pytest.mark.parametrize(
    ("share", "text"), [(0.2544, "25.4 %"), (1.0, "100 %"), (0.99999, "99.9 %"), (1e-5, "< 0.1 %"), (0.0, "0.0 %")]
)
def test_shares_in_print(share, text):
    assert _labels.percent(share) == text


# Basins


def test_basins_have_one_colour_a_minimum_and_say_their_shares(basin_map):
    ax = plotting.basins(basin_map, shade=None)
    drawn = colors_of(ax)
    for i, label in ((0, 0), (1, 3), (2, 1), (3, -1)):
        np.testing.assert_allclose(drawn[i], np.tile(rgb(label), (8, 1)), atol=1e-6)
    np.testing.assert_allclose(drawn[4, 1], rgb(0), atol=1e-6)
    np.testing.assert_allclose(drawn[4, 6], to_rgb(_style.NOT_FINITE), atol=1e-6)
    assert legend(ax) == [
        "minimum 0: 27.5 %",
        "minimum 1: 20.0 %",
        "minimum 3: 20.0 %",
        "none reached: 20.0 %",
        "diverged: 12.5 %",
    ]
    assert not ax.child_axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first weight", "y")
    np.testing.assert_allclose(ax.get_xlim(), (-2.5, 2.5))
    np.testing.assert_allclose(ax.get_ylim(), (-0.25, 3.75))
    assert mesh_of(ax).get_rasterized()


def test_shade_is_darker_for_more_steps_and_explained_by_a_bar(basin_map):
    ax = plotting.basins(basin_map)
    drawn = colors_of(ax)
    low, high = np.percentile(basin_map["steps"][basin_map["label"] >= 0], [2, 98])
    depth = np.log(basin_map["steps"] / low) / np.log(high / low)
    for i, j, label in ((1, 2, 3), (2, 5, 1), (4, 1, 0)):
        expected = np.array(rgb(label)) * (1 - _basins.DEPTH * depth[i, j])
        np.testing.assert_allclose(drawn[i, j], expected, atol=1e-6)
    np.testing.assert_allclose(drawn[3, 4], rgb(-1), atol=1e-6)  # what reached no minimum has no shade
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "steps (log scale)"
    np.testing.assert_allclose(bar.get_ylim(), (low, high))
    assert not plotting.basins(basin_map, colorbar=False).child_axes


def test_shade_by_another_output_and_of_zero_steps(basin_map):
    assert plotting.basins(basin_map, shade="train_loss").child_axes[0].get_ylabel() == "train loss (log scale)"
    centred = basin_map.assign(margin=basin_map["train_loss"] - 1.5)
    assert "linear scale" in plotting.basins(centred, shade="margin").child_axes[0].get_ylabel()
    zero = basin_map.assign(steps=np.where(basin_map["steps"] < 8, 0, basin_map["steps"]))
    np.testing.assert_allclose(colors_of(plotting.basins(zero))[0, 0], rgb(0), atol=1e-6)
    without = replace(basin_map, values={"label": basin_map["label"]})
    np.testing.assert_allclose(colors_of(plotting.basins(without))[0, 5], rgb(0), atol=1e-6)


def test_a_map_computed_in_part(basin_map):
    computed = np.ones((5, 8), dtype=bool)
    computed[1, 2:] = False
    partial = replace(basin_map, computed=computed)
    ax = plotting.basins(partial)
    np.testing.assert_allclose(colors_of(ax)[1, 4], to_rgb(_style.NOT_COMPUTED), atol=1e-6)
    assert "not computed (6)" in legend(ax)
    assert "minimum 3: 5.9 %" in legend(ax)  # 2 of 34


def test_predicted_labels_are_plain(basin_map):
    computed = np.ones((5, 8), dtype=bool)
    computed[1, 2:] = computed[3, 3] = False
    ax = plotting.basins(replace(basin_map, computed=computed, error={"label": 0.01}))
    np.testing.assert_allclose(colors_of(ax)[1, 2:], np.tile(rgb(3), (6, 1)), atol=1e-6)
    assert "without shade: predicted (6)" in legend(ax)
    assert "minimum 3: 20.0 %" in legend(ax)
    assert not any("not computed" in text for text in legend(ax))


def test_critical_points_are_marked_where_they_are_seen(basin_map):
    marks = {"minima": [[-1.0, 0.5], [1.5, 3.0], [9.0, 9.0]], "saddles": np.array([[0.25, 2.0]])}
    ax = plotting.basins(basin_map, points=marks)
    star, cross = (line for line in ax.lines if line.get_marker() in "*X" and len(line.get_xdata()))
    np.testing.assert_array_equal(star.get_xydata(), marks["minima"][:2])
    np.testing.assert_array_equal(cross.get_xydata(), marks["saddles"])
    assert legend(ax)[-2:] == ["minimum", "saddle"]
    record = SimpleNamespace(
        critical_points=np.array([[0.5, 1.0], [-1.5, 2.0], [1.0, 3.0]]), indices=np.array([2, 0, 1])
    )
    census = SimpleNamespace(points=record.critical_points, indices=record.indices)
    for points in (record, census):
        ax = plotting.basins(basin_map, points=points)
        assert {"minimum", "saddle", "maximum"} < set(legend(ax))
    drawn = {line.get_marker(): line.get_xydata().tolist() for line in ax.lines if line.get_marker() in "*X^"}
    assert drawn == {"*": [[-1.5, 2.0]], "X": [[1.0, 3.0]], "^": [[0.5, 1.0]]}


def test_many_minima_are_summed_up(basin_map):
    labels = np.arange(40).reshape(5, 8) % 17  # 0 to 5 occur three times, 6 to 16 twice
    texts = legend(plotting.basins(basin_map.assign(label=labels), shade=None))
    often, twice = [f"minimum {k}: 7.5 %" for k in range(6)], [f"minimum {k}: 5.0 %" for k in (6, 7)]
    assert texts == [*often, *twice, "9 more minima: 45.0 %"]


def test_nothing_computed_is_drawn_not_raised(basin_map):
    ax = plotting.basins(replace(basin_map, computed=np.zeros((5, 8), dtype=bool)))
    ax.figure.canvas.draw()
    assert legend(ax) == ["not computed (40)"]


def test_given_axes_are_used(basin_map):
    _, axes = plt.subplots(2)
    assert plotting.basins(basin_map, ax=axes[1], legend=False) is axes[1]
    assert axes[1].get_legend() is None
    assert not axes[0].collections


def test_errors_of_basins(basin_map):
    with pytest.raises(KeyError, match="no output 'basin' in this landscape"):
        plotting.basins(basin_map, "basin")
    with pytest.raises(KeyError, match="no output 'epochs'"):
        plotting.basins(basin_map, shade="epochs")
    with pytest.raises(TypeError, match="basins draws integer labels, 'train_loss' holds float64: use heatmap"):
        plotting.basins(basin_map, "train_loss")
    with pytest.raises(ValueError, match="basins draws 2 axes, this landscape has 1"):
        plotting.basins(basin_map.slice(y=3))
    with pytest.raises(ValueError, match=r"saddles must have shape \(n, 2\), got \(3,\)"):
        plotting.basins(basin_map, points={"saddles": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="points holds minima, saddles, maxima, got 'valleys'"):
        plotting.basins(basin_map, points={"valleys": [[1.0, 2.0]]})
    with pytest.raises(TypeError, match="indices and critical_points or points; got list"):
        plotting.basins(basin_map, points=[[1.0, 2.0]])
    with pytest.raises(ValueError, match="flat axes, got 3-D ones"):
        plotting.basins(basin_map, ax=plt.figure().add_subplot(projection="3d"))


# Verdicts


def test_verdict_change_shows_the_second_verdict_where_it_differs(basin_map):
    labels = basin_map["label"].copy()
    labels[1, :5], labels[0, 7] = 1, -2
    after = replace(basin_map.assign(label=labels), meta={"optimizer": "adam(0.02)"})
    ax = plotting.verdict_change(basin_map, after)
    drawn = colors_of(ax)
    np.testing.assert_allclose(drawn[1, :5], np.tile(rgb(1), (5, 1)), atol=1e-6)
    np.testing.assert_allclose(drawn[0, 7], to_rgb(_style.NOT_FINITE), atol=1e-6)
    np.testing.assert_allclose(drawn[1, 6], 1 - 0.25 * (1 - np.array(rgb(3))), atol=1e-6)
    assert ax.get_title() == "sgd(0.1) → adam(0.02): 15.0 % change"
    assert legend(ax) == ["now minimum 1: 12.5 %", "now diverged: 2.5 %", "pale: no change, 85.0 %"]


def test_verdict_change_needs_both_verdicts(basin_map):
    computed = np.ones((5, 8), dtype=bool)
    computed[2, 1:4] = False
    ax = plotting.verdict_change(basin_map, replace(basin_map, computed=computed), names=("a", "b"))
    np.testing.assert_allclose(colors_of(ax)[2, 2], to_rgb(_style.NOT_COMPUTED), atol=1e-6)
    assert legend(ax) == ["pale: no change, 100 %", "not computed (3)"]
    assert ax.get_title() == "a → b: 0.0 % change"
    other = replace(basin_map, grid=Grid((basin_map.grid.axes[0], Axis.linspace("y", 0.0, 3.0, 8))))
    with pytest.raises(ValueError, match=r"one grid, but axis 'y' has 8 points in \[0, 3.5\] and 'y' 8 in \[0, 3\]"):
        plotting.verdict_change(basin_map, other)


# Trainability


@pytest.fixture
def trained():
    rates = (
        Axis.linspace("lr0", -3.0, 3.0, 7, r"$\log_{10}$ rate of layer 1"),
        Axis.linspace("lr1", -2.0, 2.0, 5, r"$\log_{10}$ rate of layer 2"),
    )
    value = np.arange(35.0).reshape(7, 5) ** 2 - 100.5  # 11 negative: 0..10 squared
    return Landscape(Grid(rates), {"value": value, "converged": value > 0}, np.ones((7, 5), dtype=bool))


def test_trainability_equalises_each_side_by_rank(trained):
    ax = plotting.trainability(trained)
    ranks = mesh_of(ax).get_array().T
    expected = np.concatenate([np.linspace(-1, -0.25, 11), np.linspace(0.25, 1, 24)])
    np.testing.assert_allclose(ranks, expected.reshape(7, 5))
    norm, cmap = mesh_of(ax).norm, mesh_of(ax).get_cmap()
    assert (norm.vmin, norm.vmax) == (-1, 1)
    red, blue = cmap(norm(-0.8)), cmap(norm(0.8))
    assert red[0] > 2 * red[2]
    assert blue[2] > 1.5 * blue[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (r"$\log_{10}$ rate of layer 1", r"$\log_{10}$ rate of layer 2")
    assert legend(ax) == ["converged: 68.6 %", "did not converge: 31.4 %"]
    (bar,) = ax.child_axes
    assert [t.get_text() for t in bar.get_yticklabels()] == ["slowly", "at once", "at once", "slowly"]


def test_ranks_do_not_depend_on_the_size_of_values_and_ties_share_one():
    values = np.array([-0.5, 3.0, 700.0, 3.0, -2.0])
    # The published notebook maps the sorted values piecewise linearly; np.interp takes the last of equal ones.
    np.testing.assert_allclose(_trainability.equalised(values)[[0, 2, 4]], [-0.25, 1.0, -1.0])
    equal = _trainability.equalised(values)[[1, 3]]
    assert equal[0] == equal[1]
    np.testing.assert_allclose(
        _trainability.equalised(np.array([5.0, 7.0]), np.array([5.0, 6.0, 7.0, 8.0])), [0.25, 0.75]
    )
    assert _trainability.equalised(np.empty(0)).size == 0
    np.testing.assert_array_equal(_trainability.equalised(-np.array([3.0, 9.0])), [-0.25, -1.0])


def test_trainability_reserves_colours_for_what_has_no_value(trained):
    value, computed = trained["value"].copy(), np.ones((7, 5), dtype=bool)
    value[0, :2], value[6, 3:] = np.inf, np.nan
    computed[6, 3:] = False
    ax = plotting.trainability(replace(trained.assign(value=value), computed=computed))
    np.testing.assert_array_equal(np.ma.getmaskarray(mesh_of(ax).get_array()), ~np.isfinite(value).T)
    assert legend(ax)[-2:] == ["not finite (2)", "not computed (2)"]
    ax.figure.canvas.draw()
    faces = ax.collections[1].get_facecolors().reshape(5, 7, 4)
    np.testing.assert_allclose(faces[1, 0, :3], to_rgb(_style.NOT_FINITE))
    np.testing.assert_allclose(faces[3, 6, :3], to_rgb(_style.NOT_COMPUTED))
    assert faces[2, 3, 3] == 0  # a measured cell stays uncovered


def test_trainability_of_one_side_and_with_a_reference(trained):
    ax = plotting.trainability(trained.assign(value=trained["value"] + 200), reference=[50.0, 99.5, np.nan, 2000.0])
    assert legend(ax)[:2] == ["converged: 100 %", "did not converge: 0.0 %"]
    assert mesh_of(ax).get_array().min() == pytest.approx(0.25 + 0.75 / 2)
    with pytest.raises(ValueError, match="trainability draws 2 axes"):
        plotting.trainability(trained.slice(lr0=2))


# Disconnectivity


def segments_of(ax):
    """The straight pieces of all branches, shape (n, 2, 2)."""
    (lines,) = (c for c in ax.collections if isinstance(c, LineCollection))
    return np.array([piece for line in lines.get_segments() for piece in pairwise(line)])


@pytest.fixture
def tree():
    values = [-5.0, -4.0, -4.5, -3.0]
    return analysis.merge_tree_of_graph(values, [(0, 1, -1.0), (2, 3, -2.0), (1, 3, 2.5)])


def test_branches_join_at_their_heights(tree):
    ax = plotting.disconnectivity(tree, label="energy", names=["A", "B", "C", "D"])
    pieces = segments_of(ax)
    level = pieces[pieces[:, 0, 1] == pieces[:, 1, 1]]
    joins = {float(a[1]): sorted((float(a[0]), float(b[0]))) for a, b in level}
    assert joins == {-2.0: [2.0, 3.0], -1.0: [0.0, 1.0], 2.5: [0.5, 2.5]}
    leaves = {float(line.get_xdata()[0]): float(line.get_ydata()[0]) for line in ax.lines}
    assert leaves == {0.0: -5.0, 1.0: -4.0, 2.0: -4.5, 3.0: -3.0}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["A", "B", "C", "D"]
    assert ax.get_ylabel() == "energy"
    (text,) = ax.texts
    assert text.get_text() == "global minimum −5"
    assert [line.get_marker() for line in ax.lines] == ["*", "o", "o", "o"]
    assert [line.get_color() for line in ax.lines] == [_labels.label_color(k) for k in range(4)]


def test_branches_never_cross():
    tree = analysis.merge_tree(np.random.default_rng(13).normal(size=(30, 30)))
    assert len(tree) > 60
    pieces = segments_of(plotting.disconnectivity(tree))
    level = pieces[:, 0, 1] == pieces[:, 1, 1]
    x = np.sort(pieces[level][..., 0], axis=1)
    height = pieces[level][:, 0, 1]
    upright, ends = pieces[~level][:, 0, 0], np.sort(pieces[~level][..., 1], axis=1)
    inside = (upright[None] > x[:, :1]) & (upright[None] < x[:, 1:])
    crossed = (ends[None, :, 0] < height[:, None]) & (ends[None, :, 1] > height[:, None])
    assert not np.any(inside & crossed)


def test_a_pruned_tree_keeps_its_labels_and_many_minima_go_unnamed():
    rough = analysis.merge_tree(np.random.default_rng(14).normal(size=(40, 40)))
    pruned = rough.pruned(np.sort(rough.persistence)[-9])
    ax = plotting.disconnectivity(pruned)
    assert sorted(int(t.get_text()) for t in ax.get_xticklabels()) == sorted(pruned.labels.tolist())
    ax = plotting.disconnectivity(rough)
    assert (len(ax.get_xticks()), ax.get_xlabel()) == (0, f"{len(rough)} minima")


def test_forests_and_single_minima_are_drawn():
    ax = plotting.disconnectivity(analysis.merge_tree(np.array([3.0, 2.0, np.nan, 2.5, 4.0])))
    assert np.sum(segments_of(ax)[:, 1, 1] == ax.get_ylim()[1]) == 2
    ax = plotting.disconnectivity(analysis.merge_tree_of_graph([2.0], []), top=7.0)
    assert segments_of(ax).tolist() == [[[0.0, 2.0], [0.0, 7.0]]]


def test_errors_of_disconnectivity(tree):
    with pytest.raises(ValueError, match="no minima to draw"):
        plotting.disconnectivity(analysis.merge_tree(np.full((3, 3), np.nan)))
    with pytest.raises(ValueError, match="each of the 4 minima, got 2"):
        plotting.disconnectivity(tree, names=["A", "B"])


# Endpoints


@pytest.fixture
def ends():
    """40 runs: 20 of minimum 0, 12 of minimum 2, 6 not converged, 2 diverged."""
    labels = np.repeat([0, 2, -1, -2], [20, 12, 6, 2])
    losses = np.concatenate([np.full(20, 0.5), np.full(12, 0.75), np.linspace(0.55, 0.9, 6), [np.inf, np.nan]])
    return losses, labels


def heights_of(ax):
    """How many runs each colour has."""
    totals = {}
    for patch in ax.patches:
        corners = patch.get_xy()
        x, y = corners.T
        totals[to_rgb(patch.get_facecolor())] = 0.5 * abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1)))
    return totals


def test_endpoints_are_stacked_in_the_colours_of_their_minima(ends):
    losses, labels = ends
    ax = plotting.endpoints(losses, labels=labels, bins=np.linspace(0.4, 1.0, 13))
    runs = {k: area / 0.05 for k, area in heights_of(ax).items()}
    assert runs == {rgb(0): pytest.approx(20), rgb(2): pytest.approx(12), rgb(-1): pytest.approx(6)}
    assert legend(ax) == [
        "minimum 0: 50.0 %",
        "minimum 2: 30.0 %",
        "none reached: 15.0 %",
        "diverged: 5.0 %",
        "not drawn: not finite (2)",
    ]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("loss at the end", "runs", "linear")


def test_endpoints_on_a_log_scale_count_what_has_no_place(ends):
    losses = np.where(np.arange(40) < 7, 0.0, ends[0])
    ax = plotting.endpoints(losses, scale="log", label="test loss")
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "test loss (log scale)")
    assert legend(ax) == ["not drawn: not finite (2)", "not drawn: zero or below (7)"]
    assert plotting.endpoints(np.geomspace(1e-9, 0.5, 30)).get_xscale() == "log"
    assert plotting.endpoints(np.geomspace(1e-9, 0.5, 30), bins=np.linspace(0, 1, 9)).get_xscale() == "linear"
    assert plotting.endpoints(ends[0]).get_legend() is not None
    assert plotting.endpoints(ends[0], legend=False).get_legend() is None


def test_endpoints_draw_one_value_and_none():
    plotting.endpoints(np.full((3, 4), 2.5)).figure.canvas.draw()
    ax = plotting.endpoints([np.nan, np.inf], scale="log")
    ax.figure.canvas.draw()
    assert legend(ax) == ["not drawn: not finite (2)"]


def test_errors_of_endpoints(ends):
    losses, labels = ends
    with pytest.raises(TypeError, match="real losses, got complex128"):
        plotting.endpoints([0.5 + 2j])
    with pytest.raises(ValueError, match="no losses to draw"):
        plotting.endpoints([])
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        plotting.endpoints(losses, labels=labels * 1.0)
    with pytest.raises(ValueError, match=r"shape of the losses, \(40,\), got \(39,\)"):
        plotting.endpoints(losses, labels=labels[1:])
    with pytest.raises(ValueError, match="auto, linear, log, got 'symlog'"):
        plotting.endpoints(losses, scale="symlog")
    with pytest.raises(ValueError, match="positive edges, got bins from -1"):
        plotting.endpoints(losses, scale="log", bins=[-1.0, 2.0])
