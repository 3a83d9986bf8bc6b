"""The doodle style: every view wears it, in black, white and one accent, and what was measured stays where it was."""

import colorsys
import inspect
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from PIL import Image

import landscape as ls
from landscape import plotting
from landscape.plotting import _labels, _style

PATH = np.array([[-1.5, 1.2], [-0.7, 0.4], [0.6, -0.8]])


@pytest.fixture
def plane():
    """A landscape with everything that a view may draw: gaps, both signs, labels, steps, paths."""
    grid = ls.Grid((ls.Axis.linspace("a", -2, 2, 13), ls.Axis.linspace("b", -1.5, 1.5, 11)))
    x, y = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    loss = (x**2 + 0.3 * y - 1) ** 2 + 0.7 * y**2 + 0.05
    computed = np.ones(grid.shape, bool)
    computed[9:11, 7:9] = False
    values = {
        "train_loss": loss,
        "test_loss": 1.4 * loss + 0.1,
        "signed": loss - 2,
        "value": np.where(loss > 1, -loss, 1 / loss),
    }
    for value in values.values():
        value[2, 3], value[~computed] = np.nan, np.nan
    values["label"] = np.clip(np.floor(3 * np.hypot(x, y)).astype(np.int32) - 2, -2, 6)
    values["steps"] = (40 + 90 * np.hypot(x, y)).astype(np.int32)
    return ls.Landscape(grid, values, computed, meta={"paths": {"way": {"coords": PATH}}})


def curve():
    t = np.linspace(-1, 2, 9)
    values = {"train_loss": t**2 + 0.3, "test_loss": t**2 + 0.6, "test_accuracy": 0.5 + t / 9}
    return ls.Landscape(ls.Grid.of(t=t), values, np.ones(9, bool))


def runs():
    step = np.tile([0, 10, 20, 40], (3, 1))
    losses = 2.0 / (1 + step) + np.array([[0.1], [0.2], [0.4]])
    values = {"history.loss": losses, "history.test_loss": losses + 0.02 * step, "history.step": step}
    return ls.Landscape(ls.Grid.of(run=np.arange(3)), values, np.ones(3, bool))


VIEWS = {
    "heatmap": lambda p, **o: plotting.heatmap(p, "train_loss", contours=4, **o),
    "contours": lambda p, **o: plotting.contours(p, "signed", **o),
    "surface3d": lambda p, **o: plotting.surface3d(p, "train_loss", **o),
    "profile": lambda p, **o: plotting.profile(curve(), ["train_loss", "test_loss"], twin="test_accuracy", **o),
    "trajectory": lambda p, **o: plotting.trajectory(p, **o),
    "overview": lambda p, **o: plotting.overview(p, **o),
    "basins": lambda p, **o: plotting.basins(p, points={"minima": np.array([[0.9, 0.1]]), "saddles": PATH[:1]}, **o),
    "verdict_change": lambda p, **o: plotting.verdict_change(p, p.assign(label=p["label"][::-1].copy()), **o),
    "trainability": lambda p, **o: plotting.trainability(p, **o),
    "train_test": lambda p, **o: plotting.train_test(runs(), **o),
    "spectrum": lambda p, **o: plotting.spectrum(np.array([0.2, 0.3, 0.35, 0.9, 4.0]), outliers=np.array([4.0]), **o),
    "disconnectivity": lambda p, **o: plotting.disconnectivity(
        ls.analysis.merge_tree(np.array([3.0, 7.0, 4.0, 9.0, 2.0])), **o
    ),
    "endpoints": lambda p, **o: plotting.endpoints(np.array([2.0, 3.0, 3.5, 5.0]), labels=np.array([3, 1, 1, -1]), **o),
}


def test_every_view_is_looked_at_here():
    tools = {"ACCENT", "animate", "dress_log_ticks", "label_color", "label_name", "plain", "thin_labels"}
    tools |= {"planes", "radial_profile", "report"}  # of several views, in the style that is worn
    assert set(VIEWS) == set(plotting.__all__) - {"style", "save_figure", "save_animation"} - tools


def figure_of(drawn):
    return drawn if isinstance(drawn, plt.Figure) else drawn.figure


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_wears_ink_and_one_accent(view, plane, tmp_path):
    assert inspect.signature(getattr(plotting, view)).parameters["style"].default is None
    figure = figure_of(VIEWS[view](plane, style="doodle"))
    texts = [text for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
    assert len(texts) > 4
    assert {tuple(text.get_fontfamily()) for text in texts} == {("DejaVu Sans",)}
    figure.savefig(tmp_path / "it.png", dpi=60)
    plt.close(figure)
    pixels = np.asarray(Image.open(tmp_path / "it.png").convert("RGB"), float).reshape(-1, 3) / 255
    wanted = colorsys.rgb_to_hsv(*to_rgb(_style.ACCENT))[0]
    coloured = pixels[np.ptp(pixels, axis=1) > 0.06]
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in np.unique(coloured, axis=0)])
    assert np.all(np.abs((hues - wanted + 0.5) % 1 - 0.5) < 0.04)
    assert pixels.min() < 0.1
    assert np.mean(pixels.min(axis=1) > 0.99) > 0.2


def test_the_font_ships_with_matplotlib():
    (family,) = _style.DOODLE["font.family"]
    for weight in ("normal", "bold"):
        properties = font_manager.FontProperties(family=family, weight=weight)
        assert Path(font_manager.findfont(properties, fallback_to_default=False)).is_relative_to(
            matplotlib.get_data_path()
        )


def test_lines_are_drawn_by_hand_and_cells_exactly(plane):
    ax = plotting.heatmap(plane, "train_loss", style="doodle")
    assert ax.spines["left"].get_sketch_params() == (1.1, 110.0, 2.5)
    assert ax.spines["left"].get_path_effects()
    meshes = ax.figure.findobj(QuadMesh)
    assert len(meshes) > 1
    assert {mesh.get_sketch_params() for mesh in meshes} == {None}
    assert not any(mesh.get_path_effects() for mesh in meshes)
    plt.close(ax.figure)
    ax = plotting.trajectory(plane, style="doodle")
    way = max(ax.lines, key=lambda line: len(line.get_xdata()))
    np.testing.assert_array_equal(way.get_xydata(), PATH)
    assert way.get_sketch_params() is None
    plt.close(ax.figure)


def test_the_style_ends_with_its_context(plane):
    with plotting.style("doodle"):
        assert _style.inks().by_hand
        with plotting.style("paper"):
            assert _style.inks().sequential == "viridis"
        assert _labels.label_color(1) == "#ffffff"
    assert matplotlib.rcParams["path.sketch"] is None
    assert _labels.label_color(1) == _labels.LABEL_CYCLE[1]
    ax = plotting.heatmap(plane, "train_loss")
    assert ax.collections[0].get_cmap().name == "viridis"
    assert ax.spines["left"].get_sketch_params() is None
    plt.close(ax.figure)


def test_an_error_inside_ends_it_too(plane):
    with pytest.raises(KeyError):
        plotting.heatmap(plane, "no_such_output", style="doodle")
    assert not _style.inks().by_hand


def test_labels_are_told_apart_by_grey_or_hatching():
    with plotting.style("doodle"):
        looks = [(_labels.label_color(k), _labels.label_hatch(k)) for k in range(8)]
        assert len(set(looks)) == 8
        assert _labels.label_hatch(-1) == ""
    assert _labels.label_hatch(3) == ""


def test_hatched_labels_are_hatched_in_the_legend_too(plane):
    ax = plotting.basins(plane, style="doodle")
    handles, texts = ax.get_legend_handles_labels()
    hatch = {
        text.split(":")[0]: handle.get_hatch() for handle, text in zip(handles, texts) if hasattr(handle, "get_hatch")
    }
    assert hatch["minimum 3"] == "////"
    assert not hatch["minimum 2"]
    drawn = [h for area in ax.collections for h in getattr(area, "hatches", []) if h]
    assert {"////", "...."} <= set(drawn)
    assert len(ax.figure.axes) == 1  # greys tell the minima apart, so nothing is shaded
    plt.close(ax.figure)


def test_an_unknown_style_is_refused(plane):
    with pytest.raises(ValueError, match="unknown style 'chalk'; the styles are paper, doodle"):
        plotting.heatmap(plane, "train_loss", style="chalk")


def test_save_figure_writes_the_formats_asked_for(plane, tmp_path):
    ax = plotting.contours(plane, "train_loss", style="doodle")
    paths = plotting.save_figure(ax.figure, tmp_path / "it", {"seed": 7}, formats=("svg", "png"))
    assert [path.name for path in paths] == ["it.svg", "it.png"]
    assert "seed=7" in paths[0].read_text()
    again = plotting.save_figure(ax.figure, tmp_path / "again", formats=("pdf",))
    assert again[0].read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="formats must be among png, pdf, svg, got 'gif'"):
        plotting.save_figure(ax.figure, tmp_path / "it", formats=("gif",))
    plt.close(ax.figure)


def test_lines_are_as_wavy_in_every_file(tmp_path):
    """A straight line drawn by hand strays as far from straight in a PNG as in an SVG, in points."""
    with plotting.style("doodle"):
        figure = plt.figure(figsize=(4, 1), layout="none")
        line = plt.Line2D([0.05, 0.95], [0.5, 0.5], color="black", path_effects=[])
        figure.add_artist(line)
        png, svg = plotting.save_figure(figure, tmp_path / "line", formats=("png", "svg"))
        assert line.get_sketch_params() == (1.1, 110.0, 2.5)
    plt.close(figure)
    dark = np.asarray(Image.open(png).convert("L")) < 100
    columns = [np.flatnonzero(column).mean() for column in dark.T if column.any()]
    text = svg.read_text()
    path = text[text.index("clip-path") if "stroke: #000000" not in text else 0 :]
    drawn = [p for p in path.split("<path d=")[1:] if "stroke: #000000" in p.split("/>")[0]]
    heights = [float(pair.split()[-1]) for pair in drawn[0].split('"')[1].strip().split("\n")]
    assert np.ptp(columns) * 72 / 300 == pytest.approx(np.ptp(heights), rel=0.4)
    assert 0.2 < np.ptp(heights) < 2.0
