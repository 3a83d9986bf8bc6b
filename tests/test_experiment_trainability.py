"""The trainability experiment: the paper's draw and rule, the way down, the frames, the estimator, its files."""

import dataclasses
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainability
from _exact import trainability_figures as _trainability_figures
from _exact.trainability_figures import dimension
from _lab import Lab, UsageError

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
    value, error = dimension([[1.25, 1.5], [1.25, 1.75], []])
    assert value == 1.375
    assert 0 < error < 0.25
    assert dimension([[1.5, 1.5], [1.5]]) == (1.5, 0.0)
    assert all(np.isnan(dimension([[], []])))


def test_learning_rates_belong_to_their_layers():
    params = {"w0": jnp.full((2, 2), 0.5), "w1": jnp.full(2, 3.0)}
    optimizer, start = trainability.LearningRates(params)(jnp.array([-1.0, 2.0]))
    gradient = {"w0": jnp.full((2, 2), 4.0), "w1": jnp.full(2, 0.25)}
    updates, _ = optimizer.update(gradient, optimizer.init(start), start)
    np.testing.assert_allclose(updates["w0"], -0.4, rtol=1e-6)
    np.testing.assert_allclose(updates["w1"], -25.0, rtol=1e-6)


# ------------------------------------------------------------------------------------------- the paper's own network


def drawn_by_the_notebook(seed, width, num_examples):
    """The lines of `gen_img` and `init` that draw, in the mode of the JAX they were run with."""
    with jax.threefry_partitionable(False):
        rng = jax.random.PRNGKey(seed)
        rng, srng = jax.random.split(rng)
        layers = jax.random.split(srng, 2)
        theta = [jax.random.normal(layers[0], (width, width)), jax.random.normal(layers[1], (width, 1))]
        rng, srng = jax.random.split(rng)
        X = jax.random.normal(srng, (num_examples, width))
        rng, srng = jax.random.split(rng)
        return theta, X, jax.random.normal(srng, (num_examples, 1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("seed", "width", "num_examples"), [(0, 16, 16), (0, 16, 1), (3, 5, 7)])
def test_the_draw_is_that_of_the_notebook(seed, width, num_examples):
    theta, X, Y = drawn_by_the_notebook(seed, width, num_examples)
    params, data = trainability.draw(seed, width, num_examples)
    for ours, theirs in [(params["w0"], theta[0]), (params["w1"], theta[1]), (data["x"], X), (data["y"], Y)]:
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, np.reshape(theirs, ours.shape))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("deep-linear", [1.8020351263179202, -0.02586337681663514, -0.5649917671206677, 1.0878905026513086]),
        ("single-datapoint", [1.8020351263179202, -0.02586337681663514, -0.2466355215159786, -0.8910532700801874]),
        ("tanh", [1.8020351263179202, -0.02586337681663514, -0.7365180591012189, 0.1333345508007231]),
    ],
)
def test_seed_0_draws_the_numbers_of_the_paper(name, golden):
    """First weight, last weight, last input and last target, and the loss they give: the notebook's code, run as is."""
    loss = {"deep-linear": 0.36241308057580773, "single-datapoint": 0.3170585722540862, "tanh": 1.0872451432900097}
    fn = trainability._map(name, trainability.Config())
    params, data = fn.setup.params, fn.objective.data
    found = [params["w0"][0, 0], params["w1"][-1], data["x"][-1, -1], data["y"][-1]]
    np.testing.assert_allclose(found, golden, rtol=1e-14)
    assert fn.objective(params) == pytest.approx(loss[name], rel=1e-13)


def losses_of_the_notebook(nonlinearity, theta, X, Y, rates, num_steps):
    """`net`, `loss` and `train_step` of the notebook."""

    def net(theta):
        hidden = X
        for W in theta:
            Z = jnp.dot(hidden, W) / jnp.sqrt(W.shape[0])
            hidden = jax.nn.tanh(Z * jnp.sqrt(2)) if nonlinearity == "tanh" else Z
        return Z / jnp.sqrt(W.shape[0])

    def step(theta, _):
        value, gradient = jax.value_and_grad(lambda t: jnp.mean((net(t) - Y) ** 2))(theta)
        return [t - rate * g for t, g, rate in zip(theta, gradient, rates)], value

    return jax.lax.scan(step, theta, None, length=num_steps)[1]


def measure_of_the_notebook(v, max_val=1e6):
    """`convergence_measure`, with the mask as meant: the compiler makes a selection of the factor."""
    v = np.where(np.isfinite(v), v, max_val)
    v = np.minimum(v / v[0], max_val)
    return -np.sum(v) if np.mean(v[-20:]) < 1 else np.sum(1 / v)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "nonlinearity"), [("deep-linear", "identity"), ("single-datapoint", "tanh")])
def test_values_and_verdicts_are_those_of_the_notebook(name, nonlinearity):
    """At rates from where nothing moves to where all overflows, also beside the boundary."""
    config = trainability.Config(steps=60)
    fn = trainability._map(name, config)
    draws = drawn_by_the_notebook(0, 16, fn.objective.num_examples)
    curve = jax.jit(lambda rates: losses_of_the_notebook(nonlinearity, *draws, rates, config.steps))
    rates = np.array(
        [[-2.5, -2.5], [0.3, 0.7], [-1.2, 1.45], [-1.2, 1.75], [1.1, 1.3], [1.3, 1.9], [2.4, 3.1], [5.5, 5.5]]
    )
    theirs = np.array([measure_of_the_notebook(np.asarray(curve(10.0**pair))) for pair in rates])
    ours = jax.jit(jax.vmap(fn))(rates)
    np.testing.assert_array_equal(ours["converged"], theirs < 0)
    assert 0 < np.mean(theirs < 0) < 1
    np.testing.assert_allclose(ours["value"], -theirs, rtol=1e-6)


# ---------------------------------------------------------------------------------------- the way down and the frames


@pytest.mark.parametrize(("toward", "most"), [("random", 1), ("most", 1), ("rough", trainability.CANDIDATES)])
def test_windows_lie_about_the_boundary_and_stay_inside(toward, most):
    config = trainability.Config(toward=toward)
    grid = ls.Grid.square((-3.0, 6.0), 65)
    x, _ = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    landscape = ls.Landscape(grid, {"converged": x < 1.3}, np.ones(grid.shape, dtype=bool))
    for seed in range(20):
        centers = trainability._centers(landscape, config, np.random.default_rng(seed))
        assert 1 <= len(centers) <= most
        for center in centers:
            assert abs(center[0] - 1.3) <= 9 / 64
            assert -3 + 9 / 8 - 0.2 <= center[1] <= 6 - 9 / 8 + 0.2
    flat = ls.Landscape(grid, {"converged": x < 99}, np.ones(grid.shape, dtype=bool))
    assert trainability._centers(flat, config, np.random.default_rng(3)) == []


def test_windows_cover_the_boundary_and_the_first_holds_most_of_it():
    edges = np.random.default_rng(5).random((60, 60)) < 0.03
    corners = np.argwhere(edges)
    chosen = trainability._cover(edges, corners, 8, 99)
    first = [edges[tuple(slice(max(0, c - 8), c + 8) for c in corner)].sum() for corner in corners]
    assert trainability._held(edges, np.array(chosen[:1]), 8) == max(first)
    left = edges.copy()
    for corner in chosen:
        window = tuple(slice(max(0, c - 8), c + 8) for c in corner)
        assert left[window].any()
        left[window] = False
    assert not left.any()


def test_the_roughness_of_a_line_a_plane_and_nothing():
    line, plane = np.eye(128, dtype=bool), np.ones((128, 128), dtype=bool)
    assert trainability._roughness(line) == pytest.approx(1.0)
    assert trainability._roughness(plane) == pytest.approx(2.0)
    assert trainability._roughness(np.zeros((9, 9), dtype=bool)) == -np.inf


def test_the_way_down_goes_to_where_the_boundary_is_rough():
    """A checkerboard of pixels in one corner, at any scale, and a long smooth edge elsewhere."""

    class Corner:
        def sweep(self, name, fn, grid, about=None, **options):
            x, y = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
            i, j = np.indices(x.shape)
            rough = (np.hypot(x - 4.0, y + 1.5) < 0.5) & ((i // 2 + j) % 2 == 0)
            return ls.Landscape(grid, {"converged": (x < 0.4) ^ rough}, np.ones(grid.shape, dtype=bool))

    config = trainability.Config(finest=1e-3, search=65)
    window = trainability._search("deep-linear", None, config, Corner())
    assert np.hypot(window.center[0] - 4.0, window.center[1] + 1.5) < 0.75


def test_a_window_holds_what_a_count_by_hand_finds():
    edges = np.random.default_rng(3).random((90, 70)) < 0.2
    corners = np.argwhere(edges)
    held = trainability._held(edges, corners, 9)
    for corner, count in list(zip(corners, held))[::37]:
        assert count == edges[tuple(slice(max(0, c - 9), c + 9) for c in corner)].sum()


@dataclasses.dataclass
class Staircase:
    """In place of a lab: labels that have a boundary at `log_rate_0 = edge`, and the grids that were asked for."""

    edge: float
    grids: dict = dataclasses.field(default_factory=dict)

    def sweep(self, name, fn, grid, about=None, **options):
        self.grids[name] = grid
        x, _ = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
        return ls.Landscape(grid, {"converged": x < self.edge}, np.ones(grid.shape, dtype=bool))


def test_the_way_down_ends_on_the_boundary_ten_decades_below():
    """Every window holds the edge, so the last centre is within half a pixel of the last map but one."""
    lab = Staircase(np.sqrt(2.0))
    window = trainability._search("deep-linear", None, trainability.Config(search=65, toward="most"), lab)
    assert window.width == 9 / 4**17 <= 6e-10 < 9 / 4**16
    assert abs(window.center[0] - np.sqrt(2.0)) <= 9 / 4**16 / 64
    assert list(lab.grids) == ["search-deep-linear", *(f"search-deep-linear_{level}_0" for level in range(17))]
    widths = [np.ptp(grid.axes[1].values) for grid in lab.grids.values()]
    np.testing.assert_allclose(widths, 9.0 / 4.0 ** np.arange(18), rtol=1e-5)


def test_without_a_boundary_the_overview_is_the_only_frame(capsys):
    window = trainability._search("deep-linear", None, trainability.Config(), Staircase(99.0))
    assert window == trainability.OVERVIEW
    assert trainability._frames(window) == [window]
    assert "no boundary in window 0" in capsys.readouterr().err


def test_frames_are_those_of_the_notebook():
    """`zoom_out_sequence`, for a window that is square."""
    finest = trainability.Window((1.234567890123, -0.75), 5.5e-10)
    mnmx = [1.234567890123 - 2.75e-10, 1.234567890123 + 2.75e-10, -0.75 - 2.75e-10, -0.75 + 2.75e-10]
    center, width = np.array([(mnmx[0] + mnmx[1]) / 2, (mnmx[2] + mnmx[3]) / 2]), mnmx[1] - mnmx[0]
    expected, scale = [mnmx], 1.0
    while width * scale < 6:
        scale *= 2
        half = scale * width / 2
        expected.insert(0, [center[0] - half, center[0] + half, center[1] - half, center[1] + half])
    frames = trainability._frames(finest)
    assert len(frames) == len(expected) == 35
    assert 6 <= frames[0].width < 12
    for frame, ends in zip(frames, expected):
        found = [end for axis in frame.grid(9).axes for end in axis.values[[0, -1]]]
        np.testing.assert_allclose(found, ends, rtol=0, atol=1e-6 * frame.width)


def test_all_frames_have_one_centre_and_both_maps(tmp_path):
    lab = Staircase(1.25)
    frames = trainability._frames(trainability.Window((1.25, 2.5), 1.7))
    result = trainability._framed("deep-linear", None, trainability.Config(resolution=65, picture=17), lab, frames)
    assert list(result) == [
        "deep-linear_0",
        "picture-deep-linear_0",
        "deep-linear_1",
        "picture-deep-linear_1",
        "deep-linear_2",
        "picture-deep-linear_2",
    ]
    for level, width in enumerate([6.8, 3.4, 1.7]):
        for key, num in ((f"deep-linear_{level}", 65), (f"picture-deep-linear_{level}", 17)):
            grid = result[key].grid
            assert grid.shape == (num, num)
            np.testing.assert_allclose(grid.axes[1].values[[0, -1]], [2.5 - width / 2, 2.5 + width / 2])


def test_the_window_of_the_animation_moves_from_map_to_map():
    windows = np.array([[(-3.0, 6.0), (-3.0, 6.0)], [(0.5, 2.75), (3.0, 5.25)], [(1.0, 1.5625), (4.0, 4.5625)]])
    for level in range(3):
        np.testing.assert_allclose(_trainability_figures._limits(windows, float(level)), windows[level], atol=1e-12)
    halfway = _trainability_figures._limits(windows, 0.5)
    np.testing.assert_allclose(np.ptp(halfway, axis=1), 4.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 64}, "--resolution must be at least 65, got 64"),
        ({"steps": 5}, "--steps must be at least 20, got 5"),
        ({"search": 17}, "--search must be at least 33, got 17"),
        ({"zoom": 1.0}, "--zoom must be larger than 1"),
        ({"finest": 1e-13}, "--finest must lie between 4e-12, where doubles end, and 9, got 1e-13"),
        ({"finest": 12.5}, "--finest must lie between 4e-12, where doubles end, and 9, got 12.5"),
    ],
)
def test_settings_that_cannot_be_used(changes, message):
    with pytest.raises(UsageError, match=message):
        trainability.run(trainability.Config(**changes), Lab())


def test_smoke_run_leaves_maps_figures_and_an_animation(smoke):
    _, out, maps = smoke
    names = {p.name for p in out.iterdir()}
    assert {"deep-linear.png", "deep-linear_zoom.gif", "dimension.pdf", "search-deep-linear_0_0.zarr"} <= names
    rows = {row["what"]: row["found"] for row in json.loads((out / "findings.json").read_text())}
    assert "of a circle" in rows["deep-linear: dimension, toward rough"]
    assert rows["deep-linear: frames"] == "5 frames over 1.2 decades, 9 to 0.56 wide"
    center = [float(number) for number in rows["deep-linear: their centre"].split(", ")]
    for level in range(5):
        record = maps[f"deep-linear_{level}"].meta["trainability"]
        assert list(record["center"]) == center
        assert record["width"] == 9 / 2**level
    widest = maps["picture-deep-linear_0"]
    assert 0 < widest["converged"].mean() < 1
    assert (widest["value"] > 0).tolist() == widest["converged"].tolist()
    assert widest["value"].dtype == np.float64
    assert not jax.config.jax_enable_x64


def test_the_gallery_shows_a_bounded_number_of_frames_and_the_shades_of_neighbours(smoke):
    _, _, maps = smoke
    pictures = [maps[f"picture-deep-linear_{level % 5}"] for level in range(35)]
    figure = _trainability_figures._gallery("deep-linear", pictures)
    assert len([axes for axes in figure.axes if axes.collections]) == _trainability_figures.PANELS
    shades = _trainability_figures._shades(pictures[:4], figure.axes[0])
    assert sorted(shades) == [(i, j) for i in range(4) for j in range(4) if i - 2 <= j <= i + 1]
    assert np.all(np.abs(shades[2, 2]) <= 1)
    matplotlib.pyplot.close(figure)


@pytest.mark.slow
def test_the_boundary_of_the_deep_linear_network_is_rough_over_ten_decades():
    """The paper's claim, about the point with most boundary; a smooth boundary has slopes about 1 (circle)."""
    config = trainability.Config(configurations=("deep-linear",), toward="most", resolution=129, picture=3)
    result = trainability.run(config, Lab(options={"progress": False}))
    records = [m.meta["trainability"] for m in trainability.levels(result, "deep-linear")]
    assert records[0]["width"] / records[-1]["width"] > 1e10
    smooth = np.median(trainability._slopes(dict(trainability._known_sets(129))["circle"])["slopes"])
    value, error = dimension([record["slopes"] for record in records])
    assert value - 3 * error > smooth
    assert all(np.median(record["slopes"]) > smooth for record in records if record["width"] < 0.1)
