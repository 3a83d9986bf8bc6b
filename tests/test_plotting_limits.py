"""What views refuse, what they draw at the ends of float64, and where their texts lie."""

import warnings

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from landscape import analysis, plotting
from landscape.grid import Axis, Grid, Landscape
from landscape.plotting import _style, _text


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


X = np.linspace(-1, 1, 5)
GRID = Grid.of(alpha=X, beta=2 * X)
BOWL = np.add.outer(X**2, X**2) + 0.3
MASK = np.ones((5, 5), dtype=bool)


def plane(values, name="loss", grid=GRID, **more):
    arrays = {name: np.asarray(values), **more}
    return Landscape(grid, arrays, np.ones(grid.shape, dtype=bool))


MAP = plane(BOWL, train_loss=BOWL, test_loss=BOWL + 1, label=(BOWL * 2).astype(int), wave=BOWL * 1j)
LINE = Landscape(Grid.of(alpha=X), {"loss": X**2 + 1}, np.ones(5, dtype=bool))
RUNS = plane(BOWL, "history.loss").assign(**{"history.test_loss": BOWL + 1}).values
RUNS = Landscape(Grid.of(run=X), RUNS, np.ones(5, dtype=bool))
VIEWS = {
    "heatmap": (MAP, "loss"),
    "contours": (MAP, "loss"),
    "surface3d": (MAP, "loss"),
    "trainability": (MAP, "loss"),
    "profile": (LINE, "loss"),
    "overview": (MAP,),
    "basins": (MAP,),
    "verdict_change": (MAP, MAP),
    "trajectory": (MAP, np.stack([X, X], axis=1)),
    "train_test": (RUNS,),
    "spectrum": (BOWL,),
    "endpoints": (BOWL,),
    "disconnectivity": (analysis.merge_tree(np.cos(9 * X) + X),),
}


# What is refused


@pytest.mark.parametrize("view", [view for view, (first, *_) in VIEWS.items() if isinstance(first, Landscape)])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "must be a Landscape, as sweep and load return it, got None"),
        (BOWL, r"got ndarray of float64 and shape \(5, 5\): give it a grid first"),
        ({"loss": BOWL}, "got dict: give it a grid first"),
        ("run.zarr", r"got 'run.zarr': open a stored one with landscape.load\(path\)"),
        (plane(BOWL, grid=Grid.of(a=X[::-1], b=X)), "coordinates of axis 'a' must be finite and increase"),
        (plane(BOWL, grid=Grid.of(a=X * np.nan, b=X)), "coordinates of axis 'a' must be finite and increase"),
        (plane(BOWL, grid=Grid.of(a=1e200 * X, b=X)), "axis 'a' reaches to 1e.200, which is too far to be drawn"),
        (plane(BOWL, grid=Grid.of(a=7 + 1e-15 * np.arange(5), b=X)), "axis 'a', 7 to .* is too narrow to be drawn"),
    ],
)
def test_what_is_no_landscape_is_refused_by_name(view, given, message):
    with pytest.raises((TypeError, ValueError), match=f"{view}: (landscape|before).*{message}"):
        getattr(plotting, view)(given, *VIEWS[view][1:])


def test_coordinates_of_single_precision_are_drawn_without_a_warning():
    ax = plotting.heatmap(plane(BOWL, grid=Grid([Axis("a", X.astype(np.float32)), Axis("b", X)])), "loss")
    assert ax.get_xlim()[0] < X[0]


HUGE = 10**7
OPTIONS = [
    ("heatmap", "center", np.nan, "center must be finite, got nan"),
    ("heatmap", "center", "middle", "center must be 'auto', None or a number, got 'middle'"),
    ("heatmap", "vmin", np.inf, "vmin must be finite, got inf"),
    ("heatmap", "vmax", "3", "vmax must be a real number, got '3'"),
    ("heatmap", "vmax", 1e200, "vmax must be between -1e.150 and 1e.150 to be drawn"),
    ("heatmap", "robust", 2, "robust must be True or False, got 2"),
    ("heatmap", "contours", HUGE, "contours must be between 0 and 500 levels, or the levels, got 10000000"),
    ("heatmap", "contours", [0.5, np.nan], "contours must be at most 500 finite levels"),
    ("heatmap", "aspect", np.nan, "aspect must be finite, got nan"),
    ("heatmap", "aspect", "wide", "aspect must be 'auto', 'equal' or a positive number, got 'wide'"),
    ("heatmap", "cmap", "viridiss", "matplotlib knows no colour map 'viridiss'"),
    ("heatmap", "ax", np.array([1]), r"ax must be matplotlib Axes or None, got ndarray .*: choose one of them"),
    ("contours", "levels", HUGE, "levels must be between 1 and 500 levels, or the levels, got 10000000"),
    ("contours", "levels", 0, "levels must be between 1 and 500 levels, or the levels, got 0"),
    ("contours", "levels", -3, "levels must be between 1 and 500"),
    ("contours", "levels", 7.5, "levels must be a whole number of levels, or the levels themselves, got 7.5"),
    ("contours", "levels", "many", "levels must be a whole number of levels, or the levels themselves, got 'many'"),
    ("contours", "levels", np.linspace(0, 1, 10**4), "levels must be at most 500 finite levels"),
    ("surface3d", "floor", HUGE, "floor must be between 0 and 500"),
    ("surface3d", "zmax", np.nan, "zmax must be finite, got nan"),
    ("surface3d", "elev", np.inf, "elev must be finite, got inf"),
    ("overview", "contours", HUGE, "contours must be between 0 and 500"),
    ("overview", "vmin", np.nan, "vmin must be finite, got nan"),
    ("overview", "names", 3, "names must be a string or a list of strings, got 3"),
    ("profile", "twin", {"a": 1}, "twin must be a string or a list of strings, got dict"),
    ("basins", "shade", 3, "shade must be a string, got 3"),
    ("basins", "points", {"minima": "here"}, "minima must be real numbers, got 'here'"),
    ("trainability", "reference", [np.nan], "reference must hold a finite number to rank by"),
    ("verdict_change", "names", ["a"], r"names must be two strings, got \['a'\]"),
    ("train_test", "every", 0, "every must be positive, got 0"),
    ("spectrum", "width", np.nan, "width must be finite, got nan"),
    ("spectrum", "outliers", [1j], "outliers must be real numbers"),
    ("endpoints", "bins", 0, "bins must be between 1 and 100,000, or the edges, got 0"),
    ("endpoints", "bins", 10**9, "bins must be between 1 and 100,000"),
    ("endpoints", "bins", [2.0, 1.0], "bins must be at least two finite edges that increase"),
    ("disconnectivity", "top", np.nan, "top must be finite, got nan"),
    ("disconnectivity", "names", 5, "names must be a list, got 5"),
]


@pytest.mark.parametrize(("view", "option", "value", "message"), OPTIONS)
def test_options_that_make_no_picture_are_refused_at_once(view, option, value, message):
    before = plt.get_fignums()
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(plotting, view)(*VIEWS[view], **{option: value})
    assert plt.get_fignums() == before


@pytest.mark.parametrize("view", [view for view in VIEWS if view not in ("verdict_change", "train_test")])
def test_misspelt_options_are_named(view):
    with pytest.raises(TypeError, match=f"{view} has no option colur, and matplotlib refused"):
        getattr(plotting, view)(*VIEWS[view], colur="red")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.trajectory(MAP, {"a": {"coords": "x"}}), "path 'a': coords must be real numbers, got 'x'"),
        (lambda: plotting.trajectory(MAP, {}), "there are no paths to draw"),
        (lambda: plotting.trajectory(MAP, [[1, 2], [3]]), "path 'path': coords must be real numbers, got list"),
        (lambda: plotting.spectrum({"a": 1}), "density must be a SpectralDensity or an array of eigenvalues, got dict"),
        (lambda: plotting.disconnectivity(BOWL), "tree must be a MergeTree, as analysis.merge_tree returns it"),
        (lambda: plotting.endpoints([[1.0], [1.0, 2.0]]), "losses must be real numbers, got list"),
        (lambda: plotting.heatmap(plane(np.full((5, 5), "a")), "loss"), "draws real numbers, 'loss' holds <U1"),
        (lambda: plotting.style(["paper"]).__enter__(), "unknown style list; the styles are paper, doodle"),
        (lambda: plotting.save_figure(plt.subplots()[1], "a"), "fig must be a matplotlib Figure, got Axes: give ax.f"),
        (lambda: plotting.save_figure(plt.figure(), 3), "path must be the path of a file without its suffix, got 3"),
        (lambda: plotting.save_figure(plt.figure(), "a", [1]), "meta must be a mapping of names to values, got list"),
        (lambda: plotting.save_figure(plt.figure(), "a", formats="png"), r"formats must be a list such as \['png'"),
    ],
)
def test_what_is_not_drawn_is_refused_in_words(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_one_pixel_and_nothing_finite_are_drawn():
    pixel = plane([[2.5]], grid=Grid.of(a=[1.0], b=[0.0]), label=np.array([[1]]))
    for view, name in (("heatmap", "loss"), ("trainability", "loss"), ("basins", "label")):
        getattr(plotting, view)(pixel, name).figure.draw_without_rendering()
    plotting.overview(plane(BOWL * np.nan)).draw_without_rendering()


# The ends of float64


LARGE = np.finfo(np.float64).max
EXTREMES = {
    "1e300": 1e300 * BOWL,
    "1e308 of both signs": np.where(BOWL > 1, 1e308, -1e308),
    "the largest": np.where(BOWL > 1, LARGE, -LARGE),
    "one at 1e308": np.where(BOWL > 2, 1e308, BOWL),
    "one at -1e308": np.where(BOWL > 2, -1e308, BOWL),
    "denormals": 1e-320 * (1 + np.round(10 * BOWL)),
    "all": 10 ** np.linspace(-320, 308, 25).reshape(5, 5),
    "a large constant": np.full((5, 5), 1e308),
    "a tiny constant": np.full((5, 5), 5e-324),
    "units in the last place": 1 + np.finfo(np.float64).eps * np.round(3 * BOWL),
}


def call_with(view, values):
    match view:
        case "profile":
            return plotting.profile(Landscape(LINE.grid, {"loss": values[:, 0]}, LINE.computed), "loss")
        case "train_test":
            arrays = {"history.loss": values, "history.test_loss": values[::-1]}
            return plotting.train_test(Landscape(RUNS.grid, arrays, RUNS.computed), steps=None)
        case "disconnectivity":
            return plotting.disconnectivity(analysis.merge_tree(values))
        case "trajectory":
            return plotting.trajectory(MAP, {"a": {"coords": values[:, :2], "loss": values[:, 0]}})
        case "basins":
            return plotting.basins(MAP.assign(depth=values), shade="depth")
        case "overview":
            return plotting.overview(plane(values, "train_loss", test_loss=values[::-1]))
        case "spectrum" | "endpoints":
            return getattr(plotting, view)(values)
    return getattr(plotting, view)(plane(values), "loss")


@pytest.mark.parametrize("values", EXTREMES)
@pytest.mark.parametrize("view", [view for view in VIEWS if view != "verdict_change"])
def test_extremes_are_drawn_or_refused_with_advice(view, values):
    try:
        drawn = call_with(view, EXTREMES[values])
    except ValueError as error:
        if "to be drawn in float64: give them in other units" in str(error):
            return
        raise
    (drawn if hasattr(drawn, "savefig") else drawn.figure).draw_without_rendering()


@pytest.mark.parametrize("scale", ["auto", "linear", "log", "symlog"])
def test_a_value_beyond_the_scale_has_the_colour_of_its_end_and_the_bar_a_tip(scale):
    ax = plotting.heatmap(plane(EXTREMES["one at 1e308"]), "loss", scale=scale, contours=True)
    norm, bar = ax.collections[0].norm, ax.child_axes[0]
    assert bar._colorbar.extend == "max"
    assert norm(1e308) >= 1
    assert 0 <= norm(0.3) < 1
    ax.figure.draw_without_rendering()


# Texts


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("37.1 %", r"37.1 \%"),
        ("a_b #3 & c", r"a\_b \#3 \& c"),
        ("costs $5", r"costs \$5"),
        (r"$\alpha_1 50%$ of a_b", r"$\alpha_1 50\%$ of a\_b"),
        (r"already \% and \_", r"already \% and \_"),
        ("a → b ± 2", r"a $\rightarrow$ b $\pm$ 2"),
        ("< 0.1 %", r"$<$ 0.1 \%"),
        ("x^2 ~ y", r"x\textasciicircum{}2 \textasciitilde{} y"),
    ],
)
def test_texts_for_latex(text, latex):
    assert _text.as_latex(text) == latex
    assert _text.as_latex(latex) == latex


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


ODD = Grid((Axis("alpha", X, "50 % of a_b & #1"), Axis("beta", 2 * X, "$\\beta_1$: 37.1 %")))


@pytest.mark.parametrize("view", ["heatmap", "basins", "trainability", "verdict_change", "surface3d", "trajectory"])
def test_with_latex_on_every_text_can_be_set(view):
    landscape = Landscape(ODD, MAP.values, MASK, meta={"optimizer": "sgd_0.1 & 5 %"})
    arguments = [landscape if argument is MAP else argument for argument in VIEWS[view]]
    if view == "trajectory":
        arguments[1] = {"run_1 #2 (5 %)": {"coords": VIEWS[view][1], "loss": X**2, "residual": X**2}}
    with matplotlib.rc_context({"text.usetex": True}):
        ax = getattr(plotting, view)(*arguments)
        written = [t for t in texts_of(ax.figure) if not t.startswith(("$\\mathdefault", "\\mathdefault"))]
        handles = ax.get_legend_handles_labels()[1]
    assert {r"50 \% of a\_b \& \#1", r"$\beta_1$: 37.1 \%"} <= set(written)
    for text in (*written, *handles):
        outside = "".join(text.split("$")[::2])
        for character in "%#&_":
            assert character not in outside.replace(f"\\{character}", ""), text
        assert text.isascii() or text.replace("\N{MINUS SIGN}", "").isascii(), text


def test_without_latex_texts_stay():
    assert "50 % of a_b & #1" in texts_of(plotting.heatmap(plane(BOWL, grid=ODD), "loss").figure)


LONG = "a label of eighty characters that says at length what no reader would read at all"[:80]


VIEWS_WITH_TEXTS = ("heatmap", "contours", "surface3d", "basins", "profile", "trajectory", "overview")
WORD, FORMULA = "x" * 80, r"$\alpha_1$ and " + "W" * 68


@pytest.mark.parametrize(
    ("view", "label"),
    [*((view, LONG) for view in VIEWS_WITH_TEXTS), ("contours", WORD), ("surface3d", FORMULA), ("heatmap", FORMULA)],
)
def test_long_texts_stay_in_the_figure(view, label):
    grid = Grid((Axis("alpha", X, label), Axis("beta", 1.5 * X, label)))
    name = "loss_" + 5 * "of_the_network_"
    more = {"label": (2 * BOWL).astype(int), "train_loss": BOWL}
    landscape = plane(BOWL, name, grid, **more)
    line = Landscape(Grid((grid.axes[0],)), {name: X**2 + 1, "train_loss": X**2 + 2}, np.ones(5, dtype=bool))
    calls = {
        "profile": lambda: plotting.profile(line, [name, "train_loss"], label=label),
        "basins": lambda: plotting.basins(landscape, label=label),
        "trajectory": lambda: plotting.trajectory(landscape, {label: {"coords": VIEWS["trajectory"][1], "loss": X**2}}),
        "overview": lambda: plotting.overview(landscape, [name, "train_loss"]),
    }
    with plotting.style("paper"):
        drawn = calls.get(view, lambda: getattr(plotting, view)(landscape, name))()
        figure = drawn if hasattr(drawn, "savefig") else drawn.figure
        figure.canvas.draw()
    outer = figure.bbox
    written = [text for text in figure.findobj(Text) if len(text.get_text()) > 20 and text.get_visible()]
    assert written
    for text in written:
        box = text.get_window_extent()
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < outer.x1 + 1, text
        assert box.y1 < outer.y1 + 1, text


@pytest.mark.parametrize("text", ["one two three", LONG, "x" * 90, r"the rate $\eta_1 = 10^{-3}$ of " + "y" * 40])
def test_lines_are_broken_to_fit_and_lose_nothing(text):
    font = matplotlib.font_manager.FontProperties(size=9)
    lines = _text.wrapped(text, font, 80.0).split("\n")
    assert "".join("".join(lines).split()) == "".join(text.split())
    formula = r"$\eta_1 = 10^{-3}$"
    assert (formula in text) == any(formula in line for line in lines)
    assert all(_text.width(line, font) <= 80 or line == formula for line in lines)


# Colours


def test_paper_is_white_on_a_dark_background():
    with plt.style.context("dark_background"):
        ax = plotting.heatmap(MAP, "loss", style="paper")
    figure = ax.figure
    dark = [text.get_text() for text in figure.findobj(Text) if _style.luminance(text.get_color()) > 0.2]
    assert not [text for text in dark if text]
    for patch in (figure.patch, ax.patch):
        assert _style.luminance(patch.get_facecolor()) > 0.99
    assert _style.luminance(ax.spines["left"].get_edgecolor()) < 0.01


def test_words_beside_axes_that_are_given_have_their_colour():
    with plt.style.context("dark_background"):
        figure, ax = plt.subplots()
        plotting.heatmap(MAP, "loss", ax=ax, style="paper")
        words = [*ax.get_legend().get_texts(), ax.child_axes[0].yaxis.label, *ax.child_axes[0].get_yticklabels()]
    assert all(_style.luminance(text.get_color()) > 0.9 for text in words)
    assert _style.luminance(figure.patch.get_facecolor()) < 0.01


# Files


def test_a_full_disk_leaves_the_earlier_figure_and_nothing_else(tmp_path, monkeypatch):
    figure = plt.figure(figsize=(1, 1))
    before = {path: path.read_bytes() for path in plotting.save_figure(figure, tmp_path / "plane")}
    write = type(figure).savefig

    def savefig(self, path, **options):
        if options["format"] == "pdf":
            path.write_bytes(b"%PDF-1.4 half a fig")
            raise OSError(28, "No space left on device")
        write(self, path, **options)

    monkeypatch.setattr(type(figure), "savefig", savefig)
    with pytest.raises(OSError, match="No space left"):
        plotting.save_figure(figure, tmp_path / "plane")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_figure_keeps_its_layout_engine_when_it_is_saved(tmp_path):
    figure, _ = plt.subplots(figsize=(2, 2), layout="constrained")
    engine, dpi = figure.get_layout_engine(), figure.dpi
    with warnings.catch_warnings():
        plotting.save_figure(figure, tmp_path / "plane", formats=["png"])
    assert (figure.get_layout_engine(), figure.dpi) == (engine, dpi)
