"""The views, asserted on their artists: limits, cells, masks, norms, labels, legends and the files they become."""

import os
import subprocess
import sys
import zlib
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backend_bases import MouseEvent
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm, LogNorm, Normalize, SymLogNorm, to_rgba
from matplotlib.contour import ContourSet
from PIL import Image

from landscape import plotting
from landscape.analysis import generalization_gap
from landscape.grid import Axis, Grid, Landscape
from landscape.plotting import _field, _scale, _style


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def make(grid, **values):
    return Landscape(grid, {k: np.asarray(v) for k, v in values.items()}, np.ones(grid.shape, dtype=bool))


@pytest.fixture
def plane():
    """A 7 x 11 grid with a function that tells the axes apart: 2.5 to 26.8, about one decade."""
    x, y = Axis.linspace("alpha", -1.0, 2.0, 7, "1st PC: 85.3 %"), Axis.linspace("beta", 0.0, 5.0, 11)
    loss = 2.5 + np.add.outer((x.values - 0.5) ** 2, 0.9 * (y.values - 1.5) ** 2 + 2 * y.values)
    return make(Grid((x, y)), train_loss=loss, test_loss=loss * 1.3 - 2.0)


def wide(plane):
    """The same plane over 3 decades."""
    return plane.assign(train_loss=10 ** (plane["train_loss"] / 8))


@pytest.fixture
def curve():
    grid = Grid.line(num=9)
    x = grid.axes[0].values
    return make(grid, train_loss=1.2 + x**2, test_loss=1.4 + 1.1 * x**2, test_accuracy=0.9 - 0.2 * x**2)


def mesh_of(ax):
    return next(c for c in ax.collections if isinstance(c, QuadMesh))


def lines_of(ax):
    return next(c for c in ax.collections if isinstance(c, ContourSet))


def bar_of(ax):
    return ax.child_axes[0]


def corners_of(ax):
    """Corners of the surface's polygons, shape `(n, 3)`; matplotlib offers no public way to them.

    Polygons with fewer corners than others are padded with memory that nobody has written to, and these are left out.
    """
    faces, padding = np.asarray(ax.collections[0]._faces), ax.collections[0]._invalid_vertices
    return faces[~np.broadcast_to(padding, faces.shape[:2])]


def legend(ax):
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


def value_at(ax, x, y):
    """What the cursor reads at a point of the data."""
    ax.figure.canvas.draw()
    event = MouseEvent("motion_notify_event", ax.figure.canvas, *ax.transData.transform((x, y)))
    return mesh_of(ax).get_cursor_data(event)


# Heat maps


def test_heatmap_turns_the_array_and_reads_right_under_the_cursor(plane):
    ax = plotting.heatmap(plane, "train_loss")
    assert mesh_of(ax).get_array().shape == (11, 7)
    for i, j in ((1, 9), (6, 0), (2, 3)):
        x, y = plane.coords((i, j))
        assert value_at(ax, x + 0.2, y - 0.2) == plane["train_loss"][i, j]


def test_heatmap_labels_and_limits(plane):
    ax = plotting.heatmap(plane, "train_loss")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("1st PC: 85.3 %", "beta")
    np.testing.assert_allclose(ax.get_xlim(), (-1.25, 2.25))
    np.testing.assert_allclose(ax.get_ylim(), (-0.25, 5.25))
    assert ax.get_aspect() == "auto"
    assert bar_of(ax).get_ylabel() == "train loss (linear scale)"
    assert mesh_of(ax).get_cmap().name == "viridis"
    assert mesh_of(ax).get_rasterized()


def test_axes_of_one_range_are_drawn_square():
    square = make(Grid.square(1.5, 5), train_loss=np.arange(25.0).reshape(5, 5) + 3)
    assert plotting.heatmap(square, "train_loss").get_aspect() == 1.0


def test_unequal_steps_get_cells_that_meet_midway():
    grid = Grid.of(x=[-2.0, 0.0, 1.0, 4.0], y=[0.5, 1.5, 4.5])
    ax = plotting.heatmap(make(grid, loss=np.arange(12.0).reshape(4, 3) + 2), "loss")
    corners = mesh_of(ax).get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [-3.0, -1.0, 0.5, 2.5, 5.5])
    np.testing.assert_allclose(corners[:, 0, 1], [0.0, 1.0, 3.0, 6.0])
    assert value_at(ax, 2.4, 3.2) == 2 + 2 * 3 + 2


def test_one_point_along_an_axis():
    ax = plotting.heatmap(make(Grid.of(x=[3.0], y=[0.5, 1.5]), loss=[[2.0, 3.0]]), "loss")
    np.testing.assert_allclose(ax.get_xlim(), (2.5, 3.5))


def test_measured_values_are_not_altered(plane):
    values = plane["train_loss"].copy()
    values[2, 3], values[4, 4] = np.nan, np.inf
    before = values.copy()
    plotting.heatmap(plane.assign(train_loss=values), "train_loss", contours=True)
    np.testing.assert_array_equal(values, before)


def test_cells_without_a_value_have_colors_and_counts_of_their_own(plane):
    values = plane["train_loss"].copy()
    values[0, :3], values[5, 10] = np.nan, -np.inf
    values[3, 4:9] = np.nan
    computed = plane.computed.copy()
    computed[3, 4:9] = False
    ax = plotting.heatmap(replace(plane.assign(train_loss=values), computed=computed), "train_loss")
    assert legend(ax) == ["not finite (4)", "not computed (5)", f"minimum {plane['train_loss'].min():.3g}"]
    main, reserved = (c for c in ax.collections if isinstance(c, QuadMesh))
    np.testing.assert_array_equal(np.ma.getmaskarray(main.get_array()), ~np.isfinite(values).T)
    ax.figure.canvas.draw()
    drawn = reserved.get_facecolors().reshape(11, 7, 4)
    np.testing.assert_allclose(drawn[10, 5], to_rgba(_style.NOT_FINITE))
    np.testing.assert_allclose(drawn[4:9, 3], np.tile(to_rgba(_style.NOT_COMPUTED), (5, 1)))
    assert drawn[0, 1, 3] == 0  # a measured cell stays uncovered


def test_integers_not_computed_are_not_zeros_but_predicted_ones_are_drawn(plane):
    labels = np.full((7, 11), 3)
    labels[2] = 0
    computed = np.ones((7, 11), dtype=bool)
    computed[2] = False
    landscape = replace(plane.assign(label=labels), computed=computed)
    assert "not computed (11)" in legend(plotting.heatmap(landscape, "label"))
    assert legend(plotting.heatmap(replace(landscape, error={"label": 0.1}), "label")) == ["minimum 3"]


def test_values_predicted_by_a_sweep_with_a_tolerance_are_drawn_but_not_the_minimum(plane):
    computed = np.ones((7, 11), dtype=bool)
    computed[plane.argmin("train_loss")] = False
    landscape = replace(plane, computed=computed)
    ax = plotting.heatmap(landscape, "train_loss")
    second = plane["train_loss"][landscape.argmin("train_loss")]
    assert legend(ax) == [f"minimum {second:.3g}"]


@pytest.mark.parametrize("view", ["heatmap", "contours", "surface3d"])
def test_nothing_finite_is_drawn_not_raised(plane, view):
    landscape = plane.assign(train_loss=np.full((7, 11), np.nan))
    ax = getattr(plotting, view)(landscape, "train_loss")
    ax.figure.canvas.draw()
    assert legend(ax) == ["not finite (77)"]
    texts = [ax.get_title(), *(a.get_ylabel() for a in ax.child_axes), getattr(ax, "get_zlabel", str)()]
    assert "train loss (no finite value)" in texts


def test_auto_scale_is_log_over_many_decades_of_positive_values(plane):
    assert not isinstance(mesh_of(plotting.heatmap(plane, "train_loss")).norm, LogNorm)
    ax = plotting.heatmap(wide(plane), "train_loss")
    assert isinstance(mesh_of(ax).norm, LogNorm)
    assert bar_of(ax).get_ylabel() == "train loss (log scale)"
    with_zero = wide(plane).assign(train_loss=wide(plane)["train_loss"] - wide(plane)["train_loss"].min())
    assert not isinstance(mesh_of(plotting.heatmap(with_zero, "train_loss")).norm, LogNorm)


def test_accuracy_is_linear_and_its_maximum_is_marked(plane):
    accuracy = 1 / plane["train_loss"] ** 3
    ax = plotting.heatmap(plane.assign(test_accuracy=accuracy), "test_accuracy")
    assert bar_of(ax).get_ylabel() == "test accuracy (linear scale)"
    assert legend(ax)[0].startswith("maximum 0.0")
    np.testing.assert_allclose(ax.lines[0].get_xydata()[0], plane.coords(plane.argmin("train_loss")))


def test_log_scale_takes_zero_as_below_the_scale(plane):
    values = plane["train_loss"].copy()
    values[3, 4], values[3, 5] = 0.0, -2.0
    ax = plotting.heatmap(plane.assign(train_loss=values), "train_loss", scale="log")
    norm = mesh_of(ax).norm
    assert norm.vmin == values[values > 0].min()
    assert norm(0.0) < 0
    assert norm(-2.0) < 0
    assert bar_of(ax)._colorbar.extend == "min"
    assert legend(ax) == ["minimum −2"]
    lines = lines_of(plotting.contours(plane.assign(train_loss=values), "train_loss", scale="log"))
    levels = np.asarray(lines.levels)
    np.testing.assert_allclose(lines.get_edgecolor(), matplotlib.colormaps["viridis"](norm(levels)))


def test_limits_are_honoured_and_clipping_is_shown(plane):
    for limits, extend in (({"vmin": 5, "vmax": 20}, "both"), ({"vmax": 20}, "max"), ({"vmin": 0.1}, "neither")):
        ax = plotting.heatmap(plane, "train_loss", **limits)
        assert limits.items() <= {"vmin": mesh_of(ax).norm.vmin, "vmax": mesh_of(ax).norm.vmax}.items()
        assert bar_of(ax)._colorbar.extend == extend
    ax = plotting.heatmap(plane, "train_loss", robust=True)
    assert (mesh_of(ax).norm.vmin, mesh_of(ax).norm.vmax) == tuple(np.percentile(plane["train_loss"], [2, 98]))
    assert bar_of(ax)._colorbar.extend == "both"


def test_values_of_both_signs_are_centred_on_zero(plane):
    landscape = plane.assign(gap=np.linspace(-0.5, 2.0, 77).reshape(7, 11))
    mesh = mesh_of(plotting.heatmap(landscape, "gap"))
    assert isinstance(mesh.norm, CenteredNorm)
    assert (mesh.get_cmap().name, mesh.norm(0.0), mesh.norm(2.0)) == ("RdBu_r", 0.5, 1.0)
    ax = plotting.heatmap(landscape, "gap")
    np.testing.assert_allclose(bar_of(ax).get_ylim(), (-0.5, 2.0))  # no colour that the picture lacks
    assert bar_of(ax)._colorbar.extend == "neither"


def test_the_centre_can_be_chosen(plane):
    landscape = plane.assign(gap=np.linspace(-0.5, 2.0, 77).reshape(7, 11))
    ax = plotting.heatmap(landscape, "gap", vmin=-0.3, vmax=1.2)
    # one slope, as the words "linear scale" say: the half-width of the colours is 1.2 on both sides
    np.testing.assert_allclose(mesh_of(ax).norm([-0.3, 0.0, 0.6, 1.2]), [0.375, 0.5, 0.75, 1.0])
    assert mesh_of(ax).norm(-0.5) == mesh_of(ax).norm(-0.3)  # clipped, as the tip of the bar shows
    assert (bar_of(ax).get_ylim(), bar_of(ax)._colorbar.extend) == ((-0.3, 1.2), "both")
    mesh = mesh_of(plotting.heatmap(landscape, "gap", center=None))
    assert (type(mesh.norm), mesh.get_cmap().name) == (Normalize, "viridis")
    assert mesh_of(plotting.heatmap(plane, "train_loss", center=9.0)).norm(9.0) == 0.5
    assert mesh_of(plotting.heatmap(landscape, "gap", cmap="PuOr")).get_cmap().name == "PuOr"


def share_of_depth(mesh, value):
    """How far the colour of a value is from the middle colour, of the way to the end of the map."""
    return abs(2 * float(mesh.norm(value)) - 1)


def test_panels_with_shared_limits_have_the_same_colours_and_a_small_negative_one_is_pale(plane):
    small = np.linspace(-0.07, -0.03, 77).reshape(7, 11)
    wide = np.linspace(-0.02, 3.0, 77).reshape(7, 11)
    landscape = make(plane.grid, train_loss=small, test_loss=wide)
    overview = plotting.overview(landscape, ["train_loss", "test_loss"])
    alone = [plotting.heatmap(landscape, name, vmin=-0.07, vmax=3.0).figure for name in landscape]
    for panels in (overview.axes[:2], [figure.axes[0] for figure in alone]):
        meshes = [mesh_of(ax) for ax in panels]
        for mesh in meshes:
            assert share_of_depth(mesh, -0.07) == pytest.approx(0.07 / 3)
            assert share_of_depth(mesh, 1.5) == pytest.approx(0.5)
        assert len({mesh.get_cmap().name for mesh in meshes}) == 1
        assert bar_of(panels[1]).get_ylabel().endswith("loss (linear scale)")
        np.testing.assert_allclose(bar_of(panels[1]).get_ylim(), (-0.07, 3.0))


@pytest.mark.parametrize("limits", [(-0.07, 3.0), (0.02, 30.0), (-4.0, 5.0)])
@pytest.mark.parametrize("scale", ["auto", "symlog"])
def test_both_limits_alone_decide_the_scale(plane, limits, scale):
    panels = [np.linspace(*ends, 77).reshape(7, 11) for ends in ((-9.0, -8.0), (0.5, 0.6), (1e-3, 40.0), (-2.0, 2.0))]
    probe = np.linspace(-10, 50, 23)
    drawn = []
    for values in panels:
        ax = plotting.heatmap(make(plane.grid, loss=values), "loss", scale=scale, vmin=limits[0], vmax=limits[1])
        drawn.append((np.ma.filled(mesh_of(ax).norm(probe), -1), bar_of(ax).get_ylabel(), bar_of(ax).get_ylim()))
    for norm, *words in drawn[1:]:
        np.testing.assert_array_equal(norm, drawn[0][0])
        assert words == list(drawn[0][1:])


def test_a_constant_of_one_sign_has_no_centre(plane):
    assert type(mesh_of(plotting.heatmap(plane.assign(loss=np.zeros((7, 11))), "loss")).norm) is Normalize


def test_a_centre_that_a_scale_cannot_have_is_refused(plane):
    with pytest.raises(ValueError, match=r"a log scale has no middle, got center=9.0: use scale='linear'"):
        plotting.heatmap(plane, "train_loss", scale="log", center=9.0)
    with pytest.raises(ValueError, match="a symlog scale has its middle at 0, got center=2"):
        plotting.heatmap(plane, "train_loss", scale="symlog", center=2)
    assert mesh_of(plotting.heatmap(wide(plane), "train_loss", center=9.0)).norm(9.0) == 0.5


def test_symlog_is_symmetric_and_says_where_it_is_linear(plane):
    landscape = plane.assign(gap=np.sinh(np.linspace(-3.0, 6.0, 77)).reshape(7, 11))
    ax = plotting.heatmap(landscape, "gap", scale="symlog")
    norm = mesh_of(ax).norm
    assert isinstance(norm, SymLogNorm)
    assert norm(0.0) == pytest.approx(0.5)
    assert bar_of(ax).get_ylabel() == f"gap (symlog scale, linear within ±{norm.linthresh:.2g})"


def test_a_constant_is_drawn(plane):
    for scale in ("linear", "log", "symlog"):
        ax = plotting.heatmap(plane.assign(train_loss=np.full((7, 11), 3.5)), "train_loss", scale=scale, contours=True)
        ax.figure.canvas.draw()
        assert mesh_of(ax).norm.vmin < 3.5 < mesh_of(ax).norm.vmax


def test_the_minimum_is_where_it_is(plane):
    ax = plotting.heatmap(plane, "train_loss")
    (star,) = ax.lines
    assert (star.get_marker(), star.get_color(), star.get_markeredgecolor()) == ("*", "white", "black")
    np.testing.assert_allclose(star.get_xydata()[0], plane.coords(plane.argmin("train_loss")))
    assert not plotting.heatmap(plane, "train_loss", minimum=False).lines


def test_given_axes_are_used(plane):
    _, axes = plt.subplots(2)
    assert plotting.heatmap(plane, "train_loss", ax=axes[1], colorbar=False) is axes[1]
    assert not axes[0].collections
    assert not axes[1].child_axes


def test_colour_bar_ticks_are_plain_numbers_over_few_decades(plane):
    ax = plotting.heatmap(plane, "train_loss", scale="log")
    ax.figure.canvas.draw()
    shown = [t.get_text() for t in bar_of(ax).get_yticklabels()]
    assert {"5", "10", "20"} <= set(shown)


# Contours


def test_contour_levels_are_in_equal_ratios_on_a_log_scale(plane):
    levels = lines_of(plotting.contours(wide(plane), "train_loss")).levels
    assert 5 <= len(levels) <= 14
    np.testing.assert_allclose(np.diff(np.log10(levels)), np.log10(levels[1] / levels[0]))
    assert any(np.isclose(levels, 100.0))


def test_contour_levels_are_round_on_a_linear_scale(plane):
    levels = lines_of(plotting.contours(plane, "train_loss")).levels
    np.testing.assert_allclose(np.diff(levels), levels[1] - levels[0])
    np.testing.assert_allclose(levels, np.round(levels, 1))


def test_contours_lie_where_the_values_are(plane):
    lines = lines_of(plotting.contours(plane, "train_loss", levels=[7.0]))
    x, y = lines.get_paths()[0].vertices.T
    # The true curve is (x - 1/2)^2 + 0.9 (y - 3/2)^2 + 2 y = 4.5; linear interpolation is off by a share of a step.
    np.testing.assert_allclose((x - 0.5) ** 2 + 0.9 * (y - 1.5) ** 2 + 2 * y, 4.5, atol=0.1)


def test_contour_labels_do_not_collide(plane):
    ax = plotting.contours(plane, "train_loss", levels=25)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in lines_of(ax).labelTexts]
    assert len(boxes) >= 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(box.contains(*ax.transData.transform(ax.lines[0].get_xydata()[0])) for box in boxes)


def test_labels_under_a_path_are_removed(plane):
    ax = plotting.contours(plane, "train_loss", minimum=False)
    ax.figure.canvas.draw()
    text = lines_of(ax).labelTexts[0]
    x, y = ax.transData.inverted().transform(text.get_window_extent().get_points().mean(axis=0))
    plotting.trajectory(plane, [[x - 0.3, y], [x + 0.3, y]], ax=ax)
    assert text not in ax.texts


def test_contours_draw_around_what_is_not_finite(plane):
    values = plane["train_loss"].copy()
    values[:3, :5] = np.nan
    ax = plotting.contours(plane.assign(train_loss=values), "train_loss")
    points = np.concatenate([path.vertices for path in lines_of(ax).get_paths()])
    assert not np.any((points[:, 0] < -0.01) & (points[:, 1] < 1.99))
    assert "not finite (15)" in legend(ax)


def test_contours_on_a_heat_map_contrast_with_it(plane):
    ax = plotting.heatmap(plane, "train_loss", contours=[4.0, 25.0])
    np.testing.assert_allclose(lines_of(ax).get_edgecolor()[:, :3], [[1, 1, 1], [0, 0, 0]])
    assert {t.get_text() for t in lines_of(ax).labelTexts} <= {"4", "25"}


def test_contours_of_one_colour(plane):
    ax = plotting.contours(plane, "train_loss", colors="black", labels=False)
    np.testing.assert_allclose(lines_of(ax).get_edgecolor()[:, :3], 0)
    assert ax.get_title() == "train loss"


@pytest.mark.parametrize(
    ("levels", "texts"),
    [
        ([1.0, 1.25, 1.5, 1.75], ["1", "1.25", "1.5", "1.75"]),
        (10 ** np.arange(-1, 0.5, 0.2), ["0.1", "0.16", "0.25", "0.4", "0.63", "1", "1.6", "2.5"]),
        ([100.0, 316.2], ["100", "320"]),
        ([-0.5, 0.0, 1e-7], ["−0.5", "0", "$10^{-7}$"]),
        ([3.5e8], [r"$3.5\times 10^{8}$"]),
    ],
)
def test_level_texts(levels, texts):
    assert list(_scale.level_texts(levels).values()) == texts


# Surfaces


def test_surface_has_the_heights_and_its_axes(plane):
    ax = plotting.surface3d(plane, "train_loss")
    vertices = corners_of(ax)
    i, j = 5, 2
    x, y = plane.coords((i, j))
    here = vertices[np.isclose(vertices[:, 0], x) & np.isclose(vertices[:, 1], y)]
    assert len(here)
    np.testing.assert_allclose(here[:, 2], plane["train_loss"][i, j])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == ("1st PC: 85.3 %", "beta", "train loss")
    np.testing.assert_allclose(ax.get_xlim(), (-1.0, 2.0))
    low, high = ax.get_zlim()
    assert low < plane["train_loss"].min() < high == plane["train_loss"].max()
    assert min(ax.get_zticks()) >= plane["train_loss"].min()
    assert ax.collections[0].get_rasterized()


def test_log_surface_is_named_on_the_axis(plane):
    ax = plotting.surface3d(wide(plane), "train_loss")
    assert ax.get_zlabel() == r"$\log_{10}$ train loss"
    assert ax.get_zlim()[1] == pytest.approx(plane["train_loss"].max() / 8)


def test_surface_is_cut_at_zmax(plane):
    ax = plotting.surface3d(plane, "train_loss", zmax=9.5, floor=False)
    heights = corners_of(ax)[:, 2]
    assert np.nanmax(heights) == 9.5
    assert ax.get_zlim() == (plane["train_loss"].min(), 9.5)
    assert legend(ax) == [f"cut above 9.5:\n{np.sum(plane['train_loss'] > 9.5)} points"]


def test_surface_leaves_holes_and_marks_them_on_the_floor(plane):
    values = plane["train_loss"].copy()
    values[2, 3] = np.nan
    ax = plotting.surface3d(plane.assign(train_loss=values), "train_loss")
    assert legend(ax) == ["not finite (1)"]
    vertices = corners_of(ax)
    x, y = plane.coords((2, 3))
    inside = (np.abs(vertices[:, 0] - x) < 0.4) & (np.abs(vertices[:, 1] - y) < 0.4)
    assert not inside.any()


def test_surface_wants_3d_axes_and_the_others_do_not(plane):
    flat, solid = plt.subplots()[1], plt.figure().add_subplot(projection="3d")
    with pytest.raises(ValueError, match="3-D axes, got flat ones"):
        plotting.surface3d(plane, "train_loss", ax=flat)
    for view in (plotting.heatmap, plotting.contours):
        with pytest.raises(ValueError, match="flat axes, got 3-D ones"):
            view(plane, "train_loss", ax=solid)
    assert plotting.surface3d(plane, "train_loss", ax=solid) is solid


# Profiles


def test_profile_styles_tell_the_sets_and_colours_the_metrics(curve):
    ax = plotting.profile(curve, ["train_loss", "test_loss"], twin="test_accuracy")
    train, test = ax.lines
    right = ax.figure.axes[-1]
    assert (train.get_linestyle(), test.get_linestyle(), right.lines[0].get_linestyle()) == ("-", "--", "--")
    assert train.get_color() == test.get_color() != right.lines[0].get_color()
    assert (ax.get_xlabel(), ax.get_ylabel(), right.get_ylabel()) == ("alpha", "loss", "accuracy")
    assert legend(ax) == ["train loss", "test loss", "test accuracy"]
    np.testing.assert_allclose(ax.get_xlim(), (-0.5, 1.5))
    np.testing.assert_array_equal(test.get_ydata(), curve["test_loss"])


def test_profile_has_no_second_axis_unless_asked(curve):
    assert len(plotting.profile(curve, "train_loss").figure.axes) == 1


def test_profile_draws_the_band_that_the_legend_states(curve):
    sem = np.linspace(0.1, 0.3, 9)
    ax = plotting.profile(curve.assign(test_loss_sem=sem), ["train_loss", "test_loss"])
    assert legend(ax) == ["train loss", "test loss (± 2 standard errors)"]
    (band,) = ax.collections
    y = band.get_paths()[0].vertices[:, 1]
    assert y.max() == pytest.approx((curve["test_loss"] + 2 * sem).max())
    assert not plotting.profile(curve.assign(test_loss_sem=sem), "test_loss", bands=False).collections


def test_profile_marks_gaps(curve):
    values = curve["test_loss"].copy()
    values[2], values[4] = np.nan, np.inf
    computed = curve.computed.copy()
    computed[2] = False
    ax = plotting.profile(replace(curve.assign(test_loss=values), computed=computed), "test_loss")
    assert legend(ax) == ["test loss", "test loss not finite (1)", "test loss not computed (1)"]
    x = curve.grid.axes[0].values
    squares = [line for line in ax.lines if line.get_marker() == "s" and len(line.get_xdata())]
    assert {tuple(line.get_xdata()) for line in squares} == {(x[2],), (x[4],)}
    (dot,) = [line for line in ax.lines if line.get_marker() == "."]  # the point between the gaps has no line
    np.testing.assert_array_equal(dot.get_xydata(), [[x[3], values[3]]])
    np.testing.assert_array_equal(np.isnan(ax.lines[0].get_ydata()), ~np.isfinite(values))


def test_profile_log_scale_is_named(curve):
    ax = plotting.profile(curve.assign(train_loss=10 ** curve["train_loss"]), "train_loss", scale="log")
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "loss (log scale)")


# Paths


@pytest.fixture
def path():
    t = np.linspace(0, 1, 6)
    return {"coords": np.stack([-0.75 + 3.6 * t, 4 * t], axis=1), "loss": 3.5 - 3.25 * t, "residual": 1.25 * t}


def test_trajectory_says_what_the_picture_hides(plane, path):
    ax = plotting.trajectory(plane, {"Adam": path}, ax=plotting.heatmap(plane, "train_loss"))
    np.testing.assert_allclose(ax.get_xlim(), (-1.25, 2.25))  # the range of the grid, although the path leaves it
    assert legend(ax)[-1] == "Adam: loss 3.5 → 0.25,\nup to 1.2 off the plane, 1 point outside"
    line, start, end = ax.lines[-3:]
    np.testing.assert_allclose(line.get_xydata(), path["coords"])
    assert line.get_path_effects()
    assert (start.get_marker(), end.get_marker()) == ("o", "X")
    np.testing.assert_allclose([start.get_xydata()[0], end.get_xydata()[0]], path["coords"][[0, -1]])


def test_trajectories_take_arrays_and_what_is_stored(plane, path):
    ax = plotting.trajectory(plane, path["coords"][:4])
    assert legend(ax) == ["path"]
    stored = plane.with_meta(paths={"a": {"coords": path["coords"].tolist()}, "b": path["coords"][:3]})
    assert [text.split(":")[0] for text in legend(plotting.trajectory(stored))] == ["a", "b"]
    ax = plotting.trajectory(stored, "b")
    assert legend(ax) == ["b"]
    colors = [line.get_color() for line in plotting.trajectory(stored).lines[::3]]
    assert len(set(colors)) == 2


def test_trajectory_counts_points_that_are_not_finite_as_outside(plane):
    ax = plotting.trajectory(plane, [[0.5, 2.0], [np.nan, 2.0], [0.5, np.inf]])
    assert legend(ax) == ["path: 2 points outside"]


# The whole


def test_overview_shares_the_scale_of_both_losses(plane):
    fig = plotting.overview(plane)
    train, test, gap = fig.axes[:3] if not fig.axes[0].child_axes else fig.axes
    assert [ax.get_title() for ax in (train, test, gap)] == ["train loss", "test loss", "generalization gap"]
    norms = [mesh_of(ax).norm for ax in (train, test)]
    low = min(plane["train_loss"].min(), plane["test_loss"].min())
    high = max(plane["train_loss"].max(), plane["test_loss"].max())
    assert [(n.vmin, n.vmax) for n in norms] == [(low, high)] * 2
    assert not train.child_axes
    assert bar_of(test).get_ylabel().startswith("loss (")
    values = mesh_of(gap).get_array().T
    np.testing.assert_allclose(values, plane["test_loss"] - plane["train_loss"])


def test_overview_of_a_line_has_a_panel_for_each_metric(curve):
    fig = plotting.overview(curve)
    assert [ax.get_ylabel() for ax in fig.axes] == ["loss", "accuracy"]


def test_overview_of_other_outputs_and_of_none(plane):
    only = make(plane.grid, sharpness=plane["train_loss"], spectrum=np.ones((7, 11, 3)))
    assert [ax.get_title() for ax in plotting.overview(only).axes[:1]] == ["sharpness"]
    with pytest.raises(ValueError, match="there is none"):
        plotting.overview(make(plane.grid, spectrum=np.ones((7, 11, 3))))


def test_overview_draws_stored_paths_and_explains_them_once(plane, path):
    axes = plotting.overview(plane.with_meta(paths={"Adam": path}), ["train_loss", "test_loss"]).axes
    assert sum("Adam" in text for ax in axes for text in legend(ax)) == 1
    assert all(any(line.get_marker() == "X" for line in ax.lines) for ax in axes[:2])


def test_gap():
    grid = Grid.line(num=4)
    landscape = make(grid, train_loss=[0.5, np.inf, 0.25, np.nan], test_loss=[0.75, np.inf, np.inf, 2.0])
    np.testing.assert_array_equal(generalization_gap(landscape), [0.25, np.nan, np.inf, np.nan])
    with pytest.raises(ValueError, match="lacks validation_loss"):
        generalization_gap(landscape, test="validation_loss")
    with pytest.raises(ValueError, match=r"one shape, got \(4,\) and \(4, 2\)"):
        generalization_gap(landscape.assign(test_loss=np.ones((4, 2))))


# Style and files


def test_paper_style_holds_inside_only():
    before = matplotlib.rcParams["savefig.dpi"], matplotlib.rcParams["pdf.fonttype"]
    with plotting.style("paper"):
        assert (matplotlib.rcParams["savefig.dpi"], matplotlib.rcParams["pdf.fonttype"]) == (300, 42)
    assert (matplotlib.rcParams["savefig.dpi"], matplotlib.rcParams["pdf.fonttype"]) == before
    with pytest.raises(ValueError, match="unknown style 'poster'; the styles are paper"), plotting.style("poster"):
        pass


def test_paper_fonts_ship_with_matplotlib():
    from matplotlib import font_manager

    for family in _style.PAPER["font.family"]:
        path = font_manager.findfont(family, fallback_to_default=False)
        assert path.startswith(matplotlib.get_data_path())


def test_save_figure_writes_its_provenance(plane, tmp_path):
    meta = {"seed": 3, "commit": "d6bc0d7", "Subject": "train loss of the digits", "angle": "π"}
    with plotting.style("paper"):
        ax = plotting.heatmap(plane, "train_loss")
    png, pdf = plotting.save_figure(ax.figure, tmp_path / "new" / "plane.v2", meta)
    assert (png.name, pdf.name) == ("plane.v2.png", "plane.v2.pdf")
    with Image.open(png) as image:
        assert {key: image.text[key] for key in meta} == {key: str(value) for key, value in meta.items()}
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.size == pytest.approx(300 * ax.figure.get_size_inches(), abs=1)
    content = pdf.read_bytes()
    assert b"/Subject (train loss of the digits)" in content
    keywords = "seed=3; commit=d6bc0d7; Subject=train loss of the digits; angle=π"
    assert b"/Keywords" in content
    assert keywords.encode("utf-16-be") in content.replace(b"\\", b"")
    assert b"Type3" not in content + b"".join(_streams(content))


def _streams(content):
    for part in content.split(b"stream\n")[1:]:
        try:
            yield zlib.decompress(part.split(b"\nendstream")[0])
        except zlib.error:
            continue


def test_save_figure_without_meta_and_with_a_nested_one(plane, tmp_path):
    fig = plt.figure()
    assert all(path.exists() for path in plotting.save_figure(fig, tmp_path / "empty"))
    with pytest.raises(TypeError, match="'plan' is a mapping"):
        plotting.save_figure(fig, tmp_path / "nested", {"plan": {"num": 7}})
    with pytest.raises(ValueError, match="ASCII characters, as PNG demands; got 'θ'"):
        plotting.save_figure(fig, tmp_path / "nested", {"θ": 3})


# Errors


@pytest.mark.parametrize("view", ["heatmap", "contours", "surface3d"])
def test_unknown_names_and_other_dimensions(plane, curve, view):
    draw = getattr(plotting, view)
    with pytest.raises(KeyError, match="no output 'los' in this landscape; it has train_loss, test_loss"):
        draw(plane, "los")
    with pytest.raises(ValueError, match=rf"{view} draws 2 axes, this landscape has 1 \(alpha\): draw it with profile"):
        draw(curve, "train_loss")
    grid = Grid.of(alpha=[0.0, 1.0], beta=[0.0, 1.0], gamma=[2.0, 3.0])
    with pytest.raises(ValueError, match=r"has 3 \(alpha, beta, gamma\): fix some with landscape.slice\(gamma=0\)"):
        draw(make(grid, loss=np.ones((2, 2, 2))), "loss")
    with pytest.raises(ValueError, match=r"holds an array of shape \(3,\) a point"):
        draw(plane.assign(spectrum=np.ones((7, 11, 3))), "spectrum")
    with pytest.raises(TypeError, match="real numbers, 'wave' holds complex128"):
        draw(plane.assign(wave=np.ones((7, 11)) * 1j), "wave")
    with pytest.raises(ValueError, match="scale must be one of"):
        draw(plane, "train_loss", scale="cubic")


def test_errors_of_profile(plane, curve):
    with pytest.raises(ValueError, match=r"profile draws 1 axis, this landscape has 2 .*landscape.slice\(beta=0\)"):
        plotting.profile(plane, "train_loss")
    with pytest.raises(ValueError, match="at least one output"):
        plotting.profile(curve, [])
    with pytest.raises(KeyError, match="no output 'los'"):
        plotting.profile(curve, ["train_loss", "los"])
    with pytest.raises(ValueError, match="auto, linear, log, got 'symlog'"):
        plotting.profile(curve, "train_loss", scale="symlog")


def test_errors_of_colour_scales(plane):
    with pytest.raises(ValueError, match="colour scale is empty: it would go from 20 to 5"):
        plotting.heatmap(plane, "train_loss", vmin=20, vmax=5)
    with pytest.raises(ValueError, match="positive limits, got vmin=-1"):
        plotting.heatmap(plane, "train_loss", scale="log", vmin=-1)
    with pytest.raises(ValueError, match="needs a positive value"):
        plotting.heatmap(plane.assign(train_loss=-plane["train_loss"]), "train_loss", scale="log")


def test_lines_and_surfaces_need_two_points_along_each_axis():
    thin = make(Grid.of(x=[3.0], y=[0.5, 1.5]), loss=[[2.0, 3.0]])
    for view in (plotting.contours, plotting.surface3d):
        with pytest.raises(ValueError, match=r"at least 2 points along each axis, this grid has \(1, 2\): use heatmap"):
            view(thin, "loss")


def test_errors_of_trajectory(plane, curve, path):
    with pytest.raises(ValueError, match="holds no paths"):
        plotting.trajectory(plane)
    with pytest.raises(KeyError, match="no path 'SGD' in this landscape; it has Adam"):
        plotting.trajectory(plane.with_meta(paths={"Adam": path}), "SGD")
    with pytest.raises(ValueError, match=r"coords must have shape \(6, 2\), got \(6, 3\)"):
        plotting.trajectory(plane, np.ones((6, 3)))
    with pytest.raises(ValueError, match=r"loss must have shape \(6,\), got \(4,\)"):
        plotting.trajectory(plane, {"Adam": {**path, "loss": path["loss"][:4]}})
    with pytest.raises(ValueError, match="lacks 'coords'"):
        plotting.trajectory(plane, {"Adam": {"loss": path["loss"]}})
    with pytest.raises(ValueError, match="trajectory draws 2 axes"):
        plotting.trajectory(curve, {"Adam": path})


def test_importing_landscape_or_its_plotting_loads_no_pyplot_and_no_jax():
    code = (
        "import sys, landscape; assert 'matplotlib' not in sys.modules\n"
        "import landscape.plotting\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_cell_edges():
    np.testing.assert_allclose(_field.cell_edges(np.array([2.0, 3.0, 7.0])), [1.5, 2.5, 5.0, 9.0])


@pytest.mark.parametrize(
    "values",
    [
        np.geomspace(1e-4, 10, 11), [0.01, 0.1, 1.0], [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0], [1.0, 2.0, 5.0, 10.0],
        2.0 ** np.arange(-6, 3), [1e-3, 1.0], [1e-4, 1e-3, 1e-1, 1.0], np.geomspace(1.0, 1.2, 9),
    ],
)  # fmt: skip
def test_edges_on_a_log_spaced_axis_are_geometric_means(values):
    values = np.asarray(values)
    edges = _field.cell_edges(values)
    np.testing.assert_allclose(edges[1:-1], np.sqrt(values[:-1] * values[1:]))
    np.testing.assert_allclose(edges[[0, -1]] * edges[[1, -2]], values[[0, -1]] ** 2)
    assert edges[0] > 0


@pytest.mark.parametrize(
    "values",
    [np.linspace(0.1, 20.1, 9), np.linspace(100, 110, 11), [-1.0, 10.0, 100.0, 1000.0], [0.5, 1.5], [0.0, 1.0]],
)
def test_edges_on_other_axes_are_arithmetic_means(values):
    values = np.asarray(values)
    np.testing.assert_allclose(_field.cell_edges(values)[1:-1], 0.5 * (values[:-1] + values[1:]))


@pytest.mark.parametrize("value", [-1e9, -2.0, 0.0, 0.003, 3.0, 4e200])
def test_edges_of_one_point_keep_its_sign_and_are_apart(value):
    low, high = _field.cell_edges(np.array([value]))
    assert low < value < high
    assert value <= 0 or low > 0


def test_log_spaced_axes_are_drawn_on_a_log_scale():
    rates = Axis("rate", np.geomspace(1e-3, 10, 9))
    grid = Grid((rates, Axis.linspace("beta", 0.0, 2.0, 5)))
    values = np.log10(rates.values)[:, None] ** 2 + grid.axes[1].values + 0.5
    landscape = make(grid, loss=values, label=np.arange(45).reshape(9, 5) % 3)
    for view, name in (("heatmap", "loss"), ("contours", "loss"), ("trainability", "loss"), ("basins", "label")):
        ax = getattr(plotting, view)(landscape, name)
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear"), view
        np.testing.assert_allclose(ax.get_xlim(), [1e-3 / 10**0.25, 10 * 10**0.25])
    line = plotting.profile(make(Grid((rates,)), loss=values[:, 0]), "loss")
    assert (line.get_xscale(), line.get_xlim()) == ("log", (1e-3, 10.0))
    solid = plotting.surface3d(landscape, "loss")
    np.testing.assert_allclose(solid.get_xlim(), (-3, 1))
    assert solid.get_xlabel() == r"$\log_{10}$ rate"


def test_tiny_axes_are_square_only_if_their_ranges_are_alike():
    grid = Grid((Axis.linspace("x", -1e-10, 1e-10, 3), Axis.linspace("y", -1e-12, 1e-12, 3)))
    assert plotting.heatmap(make(grid, loss=np.arange(9.0).reshape(3, 3)), "loss").get_aspect() == "auto"
