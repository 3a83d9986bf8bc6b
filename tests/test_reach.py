"""Oracles for the worst direction, the critical sharpness, typical planes and extents: quadratics first."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest

import landscape as ls
from landscape import cli, reach, subspace
from landscape.maps import Fall, Radius, Reached

matplotlib.use("Agg")

RISE = 0.3


def bowl(params, batch):
    x = params.astype(batch["h"].dtype)
    return 3 + jnp.sum(batch["g"][0] * x) + jnp.sum(batch["h"][0] * x**2) / 2


def quadratic(eigenvalues, gradient=0.0):
    h = jnp.asarray(eigenvalues, jnp.result_type(float))
    return ls.Objective(bowl, {"h": h[None], "g": jnp.broadcast_to(jnp.asarray(gradient, h.dtype), h.shape)[None]})


SPECTRA = [np.geomspace(0.02, top, 120) for top in (3.0, 40.0)] + [np.linspace(-0.5, top, 120) for top in (0.8, 7.0)]


@pytest.mark.parametrize("quadratic_too", [True, False])
def test_worst_radius_of_quadratics(quadratic_too):
    """Never below the smallest there is; near it from the eigenvector, and from random starts alone."""
    ratios = []
    for spectrum in SPECTRA:
        found = reach.worst_radius(
            jax.random.key(4), quadratic(spectrum), jnp.zeros(120), rise=RISE, starts=4, quadratic=quadratic_too
        )
        true = np.sqrt(2 * RISE / spectrum.max())
        ratios.append(found.value / true)
        if quadratic_too:
            assert found.quadratic.lower <= true * (1 + 1e-5) <= found.quadratic.upper * (1 + 2e-5)
            assert "upper" not in str(found) or found.value >= true
    assert min(ratios) >= 1 - 1e-5
    assert np.quantile(ratios, 0.9) <= 1.1
    if quadratic_too:
        assert max(ratios) <= 1.002


def test_the_ascent_is_what_finds_it():
    found = reach.worst_radius(
        jax.random.key(4), quadratic(SPECTRA[1]), jnp.zeros(120), rise=RISE, starts=3, quadratic=False
    )
    assert np.all(found.before > 1.8 * found.value)
    assert np.all(found.radii <= found.before)
    direction = np.asarray(found.direction, np.float64)
    assert np.linalg.norm(direction) == pytest.approx(1, rel=1e-5)
    curved = direction**2 @ SPECTRA[1]
    assert found.value == pytest.approx(np.sqrt(2 * RISE / curved), rel=2e-3)
    assert found.quadratic is None


def test_worst_radius_of_a_cliff_that_the_quadratic_does_not_see():
    """A wall at x = 0.4 in a flat coordinate, nearer than the quadratic's radius of .775 by curvature 1."""
    wall = ls.Objective(lambda p, _: jnp.sum(p**2) / 2 + 50 * jnp.maximum(p[3] - 0.4, 0.0) ** 2)
    found = reach.worst_radius(jax.random.key(1), wall, jnp.zeros(6), rise=RISE, starts=6)
    true = 0.4 + (-0.4 + np.sqrt(0.16 + 101 * 2 * (RISE - 0.08))) / 101  # along the coordinate itself
    assert found.quadratic.value == pytest.approx(np.sqrt(2 * RISE), rel=1e-3)
    assert true * (1 - 1e-4) <= found.value <= 1.1 * true


def test_worst_radius_of_some_leaves():
    params = {"a": jnp.zeros(30), "b": jnp.zeros(30)}
    objective = ls.Objective(lambda p, _: jnp.sum(jnp.arange(1, 31) * p["a"] ** 2) / 2 + 400 * jnp.sum(p["b"] ** 2))
    found = reach.worst_radius(jax.random.key(1), objective, params, rise=RISE, where="^a$", starts=3)
    assert found.value == pytest.approx(np.sqrt(2 * RISE / 30), rel=2e-3)
    assert found.quadratic.eigenvalue == pytest.approx(30, rel=1e-3)
    np.testing.assert_array_equal(found.direction["b"], 0)


def test_critical_sharpness_of_a_quadratic_along_its_gradient():
    rng = np.random.default_rng(3)
    h, x = np.geomspace(0.02, 30, 200), rng.normal(size=200)
    gradient = h * x
    expected = gradient @ (h * gradient) / (gradient @ gradient)
    for rate in (0.3 / expected, 1.9 / expected, 11 / expected):
        found = reach.critical_sharpness(quadratic(h), jnp.asarray(x, jnp.float32), learning_rate=rate)
        assert float(found.value) == pytest.approx(expected, rel=1e-3)
        assert found.lower <= expected <= found.upper
        assert found.upper / found.lower <= 1.06
        assert found.evaluations <= 6
        assert float(found.rate) == pytest.approx(2 / expected, rel=1e-3)
        assert found.status == Reached.RISEN


def test_critical_sharpness_along_an_update_of_an_optimizer():
    h, x = np.geomspace(0.5, 30, 50), np.random.default_rng(4).normal(size=50)
    params, objective = jnp.asarray(x, jnp.float32), quadratic(h)
    optimizer = optax.adam(0.02)
    update, _ = optimizer.update(objective.value_and_grad(params)[1], optimizer.init(params), params)
    step = np.asarray(update, np.float64)
    critical = -2 * (h * x) @ step / (step @ (h * step)) * 0.02  # where slope r + curvature r^2 / 2 is 0 again
    found = reach.critical_sharpness(objective, params, update, learning_rate=0.02)
    assert float(found.rate) == pytest.approx(critical, rel=1e-3)


def test_relative_critical_sharpness_is_that_of_one_loss_along_the_update_of_another():
    rng = np.random.default_rng(5)
    h, other, x = np.geomspace(0.5, 30, 50), np.linspace(9, 1, 50), rng.normal(size=50)
    params = jnp.asarray(x, jnp.float32)
    one, two = quadratic(h), quadratic(other)
    found = reach.critical_sharpness(two, params, learning_rate=0.05, of=one)
    step = -h * x
    assert float(found.rate) == pytest.approx(-2 * (other * x) @ step / (step @ (other * step)), rel=1e-3)
    itself = reach.critical_sharpness(one, params, learning_rate=0.05)
    again = reach.critical_sharpness(one, params, learning_rate=0.05, of=one)
    np.testing.assert_array_equal(itself.value, again.value)


def test_critical_sharpness_of_an_update_that_does_not_descend_and_of_none_that_rises():
    x = jnp.full(5, 2.0)
    uphill = reach.critical_sharpness(quadratic(np.ones(5)), x, x, learning_rate=0.1)
    assert (uphill.status, uphill.value) == (Reached.WITHIN, np.inf)
    slope = ls.Objective(lambda p, _: jnp.sum(p))
    endless = reach.critical_sharpness(slope, x, learning_rate=0.1)
    assert (endless.status, endless.value) == (Reached.BEYOND, 0.0)
    assert endless.evaluations == 16
    rounded = reach.critical_sharpness(quadratic(np.ones(5)), 1e-5 * x, learning_rate=0.1)
    assert rounded.status == Reached.UNRESOLVED


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_critical_sharpness_at_the_edge_of_stability(rate):
    """Along full-batch training it settles at two over the rate, as the sharpness does (Cohen et al. 2021)."""
    problem = ls.problems.chebyshev_regression(4)
    objective, start = problem.objectives["train"], problem.init(jax.random.fold_in(jax.random.key(0), 1))
    run = ls.train(objective, optax.sgd(rate), start, num_steps=6000, record_every=100, snapshots=True)

    @jax.jit
    def along(snapshots):
        return jax.lax.map(lambda p: reach.critical_sharpness(objective, p, learning_rate=rate), snapshots)

    found = along(jax.tree.map(lambda x: x[-20:], run.snapshots))
    np.testing.assert_allclose(np.median(found.value), 2 / rate, rtol=0.05)
    np.testing.assert_allclose(found.value, 2 / rate, rtol=0.1)
    assert np.all(np.asarray(found.evaluations) <= 6)


@pytest.mark.parametrize("kind", [None, "filter", "layer"])
def test_mean_curvature_over_all_directions_is_a_weighted_trace(kind):
    """Beside a plain average over directions, for each kind of them."""
    rng = np.random.default_rng(6)
    params = {"kernel": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32), "bias": jnp.full(4, 0.3)}
    h = jax.tree.map(lambda x: jnp.asarray(rng.uniform(1, 9, size=x.shape)), params)
    objective = ls.Objective(lambda p, _: sum(jnp.sum(a * b**2) / 2 for a, b in zip(*map(jax.tree.leaves, (h, p)))))
    options = {"normalization": kind, "filter_axis": "flax" if kind == "filter" else None}
    draw = subspace.Draws(jax.random.key(2), params, **options)
    exact = sum(np.sum(np.asarray(a) * np.square(b)) for a, b in zip(*map(jax.tree.leaves, (h, draw.scale()))))

    def curvature_along(number):
        pairs = list(zip(*map(jax.tree.leaves, (h, draw(number)))))
        return sum(jnp.sum(a * b**2) for a, b in pairs) / sum(jnp.sum(b**2) for _, b in pairs)

    curved = jax.jit(jax.vmap(curvature_along))(jnp.arange(3000))
    assert abs(np.mean(curved) - exact) < 4 * np.std(curved) / np.sqrt(3000)
    plane = ls.Subspace(params, ls.subspace.random_directions(jax.random.key(3), params))
    found = reach.typical(jax.random.key(1), objective, plane, num_planes=8, distances=[0.5], **options)
    assert float(found.mean.mean) == pytest.approx(exact, rel=1e-4)


def test_a_steep_plane_and_a_typical_one():
    dim = 300
    spectrum = np.concatenate([[500.0, 400.0], np.full(dim - 2, 2.0)])
    steep = ls.Subspace(jnp.zeros(dim), jnp.eye(dim)[:2] * 0.5)
    found = reach.typical(jax.random.key(1), quadratic(spectrum), steep, distances=[0.1, 0.3])
    assert found.curvature == pytest.approx(450, rel=1e-4)
    np.testing.assert_allclose(found.rise, 450 / 2 * np.square([0.1, 0.3]), rtol=1e-3)
    assert found.curvature_percentile.share == 1
    assert 0.9 < found.curvature_percentile.lower < 1
    assert all(place.share == 1 for place in found.rise_percentiles)
    middle, low, high = found.band()
    assert np.all(low <= middle)
    assert np.all(middle <= high)
    drawn = subspace.random_directions(jax.random.key(9), jnp.zeros(dim))
    usual = reach.typical(jax.random.key(1), quadratic(spectrum), ls.Subspace(jnp.zeros(dim), drawn))
    d = np.asarray(drawn, np.float64)
    assert usual.curvature == pytest.approx(np.mean(d**2 @ spectrum / np.sum(d**2, axis=1)), rel=1e-4)
    assert 0 < usual.curvature_percentile.share < 1
    assert float(usual.mean.mean) == pytest.approx(spectrum.mean(), rel=0.02)
    assert "random planes" in str(usual)


def test_percentiles_are_uniform_for_planes_of_the_kind():
    """A plane drawn like the others is above a uniform share of them; its interval covers that at the stated rate."""
    dim, num = 60, 20
    spectrum = np.geomspace(0.1, 90, dim)
    planes = subspace.random_directions(jax.random.key(8), jnp.zeros(dim), 80)
    objective = quadratic(spectrum)
    shares = []
    for i in range(40):
        plane = ls.Subspace(jnp.zeros(dim), planes[2 * i : 2 * i + 2])
        found = reach.typical(jax.random.key(i), objective, plane, num_planes=num, distances=[0.2])
        shares.append(found.curvature_percentile.share)
    assert 0.5 - 4 * np.sqrt(1 / 12 / 40) < np.mean(shares) < 0.5 + 4 * np.sqrt(1 / 12 / 40)


def test_auto_extent_of_a_quadratic():
    h = np.array([2.0, 8.0, 1.0])
    directions = jnp.asarray([[0.5, 0, 0], [0, 0.5, 0]])
    found = ls.auto_extent(quadratic(h), ls.Subspace(jnp.zeros(3), directions))
    # from 3 to 6, as the loss at zero weights is that at the origin: x'Hx / 2 = 3 in coordinates of half a unit
    angles = 2 * np.pi * (np.arange(8) + 0.5) / 8
    curved = 2 * np.cos(angles) ** 2 + 8 * np.sin(angles) ** 2
    radii = np.sort(2 * np.sqrt(2 * 3 / curved))
    assert found.value == pytest.approx(radii[3], rel=0.06)  # rounded to two digits
    assert found.lower == pytest.approx(radii[0], rel=0.02)
    assert found.upper == pytest.approx(radii[-1], rel=0.02)
    assert found.base == 3.0
    assert "has doubled, from 3 to 6" in found.why


def test_auto_extent_of_a_loss_that_was_trained_to_nothing():
    """It goes half-way to the loss of zero weights, where doubling would draw rounding."""
    objective = ls.Objective(lambda p, _: 1e-9 + jnp.sum((p - 1.0) ** 2) / 4)
    found = ls.auto_extent(objective, ls.Subspace(jnp.ones(4), jnp.eye(4)[:2]))
    assert found.rise == pytest.approx(0.5)
    assert found.value == pytest.approx(np.sqrt(2), rel=0.02)
    assert "half-way to that of zero weights" in found.why
    flat = ls.Objective(lambda p, _: jnp.sum(p**2))
    centred = ls.auto_extent(flat, ls.Subspace(jnp.zeros(4), 2 * jnp.eye(4)[:2]))
    assert centred.value == pytest.approx(np.sqrt(0.5), rel=0.02)
    assert "one unit away" in centred.why


def test_auto_extent_of_a_loss_that_levels_off():
    """At 1.4 times that of the origin: it never doubles, and a quarter of it is risen at sqrt(5 / 3)."""
    level = ls.Objective(lambda p, _: 1 + 0.4 * jnp.sum(p**2) / (1 + jnp.sum(p**2)))
    found = ls.auto_extent(level, ls.Subspace(jnp.zeros(3), jnp.eye(3)[:2]))
    assert found.rise == 0.25
    assert found.value == pytest.approx(np.sqrt(5 / 3), rel=0.03)
    assert "has risen from 1 to 1.25, as it rises by no more than twice that" in found.why


def test_auto_extent_refuses_what_has_none():
    plane = ls.Subspace(jnp.ones(3), jnp.eye(3)[:2])
    with pytest.raises(ValueError, match="does not rise about it: give the extent as a number"):
        ls.auto_extent(ls.Objective(lambda p, _: 0 * p[0]), plane)
    with pytest.raises(ValueError, match="has not risen by 0.01562 within"):
        ls.auto_extent(ls.Objective(lambda p, _: 2 + 0 * p[0]), plane)
    with pytest.raises(ValueError, match="the loss at the origin is nan"):
        ls.auto_extent(ls.Objective(lambda p, _: jnp.nan * p[0]), plane)
    with pytest.raises(TypeError, match="at must be a Subspace"):
        ls.auto_extent(quadratic(np.ones(3)), None)
    with pytest.raises(ValueError, match="factor must be positive"):
        ls.auto_extent(quadratic(np.ones(3)), plane, factor=0.0)
    with pytest.raises(TypeError, match="num_directions must be an integer"):
        ls.auto_extent(quadratic(np.ones(3)), plane, num_directions="many")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda o, p: reach.worst_radius(jax.random.key(0), o, p, rise=0.1, starts=2), ValueError, "starts must be at"),
        (lambda o, p: reach.worst_radius(jax.random.key(0), o, p, rise=0.1, steps=0), ValueError, "steps must be at"),
        (lambda o, p: reach.worst_radius(jax.random.key(0), o, p, rise=Fall(0.1)), ValueError, "no metric 'accuracy'"),
        (lambda o, p: reach.worst_radius(jax.random.key(0), o, p, rise=0.1, where="x"), ValueError, "mask keeps no"),
        (lambda o, p: reach.critical_sharpness(o, p, learning_rate=0.0), ValueError, "learning_rate must be positive"),
        (lambda o, p: reach.critical_sharpness(o, p, p[:1], learning_rate=0.1), ValueError, "update must have shape"),
        (lambda o, p: reach.critical_sharpness(o, p, p, learning_rate=0.1, of=o), ValueError, "give one of them"),
        (lambda o, p: reach.critical_sharpness(None, p, learning_rate=0.1), TypeError, "objective"),
        (
            lambda o, p: reach.critical_sharpness(o, p, learning_rate=0.1, of=p),
            TypeError,
            r"of must be a landscape\.Objective",
        ),
        (lambda o, p: reach.typical(jax.random.key(0), o, p), TypeError, "plane must be a Subspace"),
        (
            lambda o, p: reach.typical(jax.random.key(0), o, ls.Subspace(p, jnp.eye(3)[:2]), distances=[-1.0]),
            ValueError,
            "distances must be positive",
        ),
        (
            lambda o, p: reach.typical(jax.random.key(0), o, ls.Subspace(p, jnp.eye(3)[:2]), num_planes=1),
            ValueError,
            "num_planes must be at least 2",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(quadratic(np.ones(3)), jnp.ones(3))


def test_small_multiples_share_a_colour_scale_and_show_the_profile():
    dim = 40
    objective = quadratic(np.linspace(1, 4, dim))
    draw = subspace.Draws(jax.random.key(5), jnp.zeros(dim))
    surface = ls.LossSurface(subspace.Planes(jnp.zeros(dim), draw), objective)
    axis = np.linspace(-0.5, 0.5, 11)
    many = ls.sweep(surface, ls.Grid.of(plane=range(6), alpha=axis, beta=axis), batch=1, progress=False)
    figure = ls.plotting.planes(many, "loss", most=4)
    panels = [ax for ax in figure.axes if ax.collections and ax.get_title().startswith("plane")]
    assert [ax.get_title() for ax in panels] == ["plane 0", "plane 1", "plane 2", "plane 3"]
    assert len({id(ax.collections[0].norm) for ax in panels}) == 1
    assert panels[0].collections[0].norm.vmin <= many["loss"][:4].min()
    distance, means = ls.plotting._planes.circle_means(many, "loss")
    assert means.shape == (6, len(distance))
    np.testing.assert_allclose(means[:, 0], 3.0, rtol=1e-6)
    own = many.slice(plane=5)
    labels = [text.get_text() for text in ls.plotting.radial_profile(many, "loss", own=own).get_legend().get_texts()]
    assert labels == ["90 % of 6 planes", "median", "this plane"]
    with pytest.raises(ValueError, match="most must be at least 1"):
        ls.plotting.planes(many, "loss", most=0)
    with pytest.raises(ValueError, match="scale must be"):
        ls.plotting.radial_profile(many, "loss", scale="wide")


def small_problem():
    x = np.random.default_rng(4).normal(size=(40, 3)).astype("float32")
    data = {"x": x, "y": np.sin(2 * x[:, 0])}

    def loss(params, batch):
        return (jnp.tanh(batch["x"] @ params["w1"]["kernel"]) @ params["w2"]["kernel"] - batch["y"]) ** 2

    def init(key):
        keys = jax.random.split(key)
        return {
            "w1": {"kernel": jax.random.normal(keys[0], (3, 5))},
            "w2": {"kernel": jax.random.normal(keys[1], (5,)) / 2},
        }

    return ls.Problem(init, {"train": ls.Objective(loss, data), "test": ls.Objective(loss, data)}, name="mine")


def test_report_of_a_problem(tmp_path, capsys):
    found = ls.report(small_problem(), resolution=7, store=tmp_path / "report", batch=1)
    numbers = found.landscape.meta["report"]
    params = {"model", "extent", "radius", "worst", "curvature", "typical", "seconds"}
    assert set(numbers) == params
    np.testing.assert_allclose(found.landscape["train_loss"][3, 3], numbers["model"]["losses"]["train"], rtol=1e-5)
    assert numbers["worst"]["value"] < numbers["radius"]["value"]
    assert numbers["model"]["trained_here"] == "200 steps of Adam"
    assert "Not looked at" in found.text
    assert "95% of directions" in str(found)
    assert [what for what, _ in found.table][:3] == ["model", "train loss", "test loss"]
    assert cli.main(["report", str(tmp_path / "report")]) == 0
    assert capsys.readouterr().out.rstrip().endswith(found.text)
    kept = ls.load(tmp_path / "report")
    assert ls.analysis.report_text(kept) == found.text
    titles = [ax.get_title(loc="left") for ax in ls.plotting.report(kept).axes]
    assert titles[:4] == [
        "(a) training loss, one plane",
        "(b) how the loss rises in random planes",
        "(c) radii of random directions",
        "(d) spectrum",
    ]


def test_report_agrees_with_its_parts():
    """Of a quadratic whose spectrum, radii and extent are known."""
    spectrum = np.linspace(1, 9, 60)
    start = jnp.zeros(60)
    problem = ls.Problem(lambda key: start, {"train": quadratic(spectrum)}, params=start, name="bowl")
    found = ls.report(problem, resolution=5, batch=1)
    numbers = found.landscape.meta["report"]
    assert numbers["extent"]["rise"] == pytest.approx(3.0)
    assert numbers["model"]["kind"] == "Gaussian"
    assert numbers["curvature"]["eigenvalues"][0] == pytest.approx(9, rel=1e-3)
    assert numbers["curvature"]["lowest"] == pytest.approx(1, rel=1e-3)
    assert numbers["curvature"]["trace"] == pytest.approx(spectrum.sum(), rel=1e-3)
    assert numbers["curvature"]["gradient_norm"] == 0
    assert numbers["worst"]["value"] == pytest.approx(np.sqrt(2 * 3 / 9), rel=2e-3)
    assert "no way down by curvature" in found.text


def test_report_of_a_saddle_says_so():
    spectrum = np.linspace(-2, 9, 60)
    start = jnp.zeros(60)
    problem = ls.Problem(lambda key: start, {"train": quadratic(spectrum)}, params=start, name="saddle")
    assert "at no minimum, the loss falls that way" in ls.report(problem, resolution=5, batch=1).text


def test_report_refuses_what_is_no_problem():
    with pytest.raises(TypeError, match=r"problem must be a landscape\.Problem"):
        ls.report(quadratic(np.ones(3)))
    with pytest.raises(ValueError, match="holds no report"):
        ls.analysis.report_table(
            ls.Landscape(ls.Grid.square(1.0, 3), {"loss": np.zeros((3, 3))}, np.ones((3, 3), bool))
        )
    with pytest.raises(ValueError, match="resolution must be at least 3"):
        ls.report(small_problem(), resolution=1)


def test_a_radius_along_the_directions_of_an_ascent_is_a_sweep_too():
    objective = quadratic(np.linspace(1, 9, 30))
    found = Radius(jnp.zeros(30), objective, subspace.Draws(jax.random.key(1), jnp.zeros(30)), rise=RISE)
    climbed = dataclasses.replace(found, draw=reach.Ascended(found, rounds=2, steps=6))
    radii = ls.sweep(climbed, ls.Grid.of(start=range(3)), batch=1, progress=False)["radius"]
    assert np.all(radii < 1.05 * np.sqrt(2 * RISE / 9))
    assert np.all(radii >= np.sqrt(2 * RISE / 9) * (1 - 1e-3))
