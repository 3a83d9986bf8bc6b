"""Oracles for minima: textbook and published critical points, closed forms, SciPy, symmetric copies made by hand."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.stats import ortho_group

from landscape import Objective, curvature, minima
from landscape.problems import student_teacher

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(11)


def plain(fn):
    return Objective(lambda p, _: fn(p))


# ---------------------------------------------------------------------------------------------------------- polish


def logistic(n=80, d=6):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(n, d)), np.sign(rng.normal(size=n))

    def loss(w, batch):
        return jnp.logaddexp(0, -batch[1] * (batch[0] @ w)) + 0.02 * jnp.sum(w**2)

    return Objective(loss, (jnp.asarray(x), jnp.asarray(y)), batch_size=32)


def test_a_convex_loss_ends_where_scipy_ends():
    objective = logistic()
    end = minima.polish(objective, jnp.full(6, 5.0))
    fun = jax.jit(jax.value_and_grad(objective))
    ours = scipy.optimize.minimize(
        lambda w: tuple(map(np.asarray, fun(w))), np.zeros(6), jac=True, method="BFGS", tol=1e-9
    )
    assert bool(end.converged)
    assert float(end.grad_norm) < 1e-15
    np.testing.assert_allclose(end.params, ours.x, atol=1e-7)


def test_rosenbrock_to_the_last_digit_and_many_starts_at_once():
    objective = plain(lambda p: 100 * (p[1] - p[0] ** 2) ** 2 + (2.5 - p[0]) ** 2)
    starts = jnp.array([[-1.2, 1.0], [3.0, -4.0], [0.4, 9.0]])
    ends = jax.vmap(partial(minima.polish, objective))(starts)
    np.testing.assert_allclose(ends.params, np.tile([2.5, 6.25], (3, 1)), rtol=4e-15)
    assert np.all(ends.converged)
    one = minima.polish(objective, starts[1])
    np.testing.assert_allclose(one.params, ends.params[1], rtol=4e-15)


def test_it_leaves_a_saddle_where_the_gradient_is_exactly_zero_or_stays_as_asked():
    saddle = plain(lambda p: 3 * p["x"] ** 2 - p["y"] ** 2 + 2 * p["y"] ** 4 + 0.5)
    start = {"x": jnp.array(0.0), "y": jnp.array(0.0)}
    end = minima.polish(saddle, start)
    assert abs(float(end.params["y"])) == pytest.approx(0.5, abs=1e-14)
    assert float(end.loss) == pytest.approx(0.375, abs=1e-15)
    near = {"x": jnp.array(0.3), "y": jnp.array(0.1)}
    critical = minima.polish(saddle, near, to="critical")
    assert bool(critical.converged)
    assert max(abs(float(x)) for x in critical.params.values()) < 1e-14


WIDE = {"c": np.linspace(0.5, 3, 1200), "a": np.random.default_rng(8).normal(size=1200)}


def test_a_large_problem_by_conjugate_gradients():
    c, a = jnp.asarray(WIDE["c"]), jnp.asarray(WIDE["a"])
    end = minima.polish(plain(lambda p: jnp.sum(c * jnp.cosh(p - a))), jnp.zeros(1200))
    assert bool(end.converged)
    np.testing.assert_allclose(end.params, a, atol=1e-13)
    assert float(end.loss) == pytest.approx(WIDE["c"].sum(), rel=1e-14)


def test_a_large_saddle_and_its_smallest_eigenvalues():
    signs = np.where(np.arange(1200) < 3, -1.0, 1.0)  # three ways down
    c, a = jnp.asarray(WIDE["c"] * signs), jnp.asarray(WIDE["a"])
    objective = plain(lambda p: jnp.sum(c * jnp.cosh(p - a)))
    end = minima.polish(objective, a + 0.3, to="critical")
    assert bool(end.converged)
    np.testing.assert_allclose(end.params, a, atol=1e-12)
    verdict = minima.classify(objective, end.params)
    assert (verdict.kind, verdict.index, verdict.complete) == ("saddle", 3, False)
    expected = np.sort(WIDE["c"] * signs)[:6]
    np.testing.assert_allclose(verdict.eigenvalues, expected, atol=1e-8)
    assert verdict.residuals.max() < 1e-6


def test_a_large_point_whose_smallest_eigenvalue_was_not_found_is_no_local_minimum(monkeypatch):
    curvatures = jnp.asarray(np.r_[-0.05, np.linspace(0.5, 3, 1199)])
    few = partial(curvature.eigenpairs, max_products=8)  # which do not meet the one direction that goes down
    monkeypatch.setattr(curvature, "eigenpairs", few)
    verdict = minima.classify(plain(lambda p: 0.5 * jnp.sum(curvatures * p**2)), jnp.zeros(1200))
    assert verdict.index == 0
    assert verdict.eigenvalues[0] > 0.1
    assert verdict.is_critical
    assert verdict.kind == "unconverged"


@pytest.mark.parametrize(
    ("fn", "start"),
    [(lambda p: jnp.exp(-p[0]) + p[1] ** 2, [0.3, 0.2]), (lambda p: jnp.sqrt(p[0]) + p[1] ** 2, [-1.0, 2.0])],
    ids=["minimum at infinity", "not finite"],
)
def test_what_has_no_minimum_is_not_converged_and_raises_nothing(fn, start):
    assert not bool(minima.polish(plain(fn), jnp.array(start)).converged)


def test_a_tolerance_that_was_asked_for_is_met_and_not_exceeded():
    bowl = plain(lambda p: jnp.sum(p**4 + p**2))
    loose, tight = (minima.polish(bowl, jnp.full(3, 2.0), tol=tol) for tol in (1e-1, 1e-9))
    assert float(loose.grad_norm) <= 1e-1 < 1e6 * float(tight.grad_norm) + 1e-1
    assert int(loose.steps) < int(tight.steps)
    assert bool(loose.converged)


def test_single_precision_reaches_its_own_rounding():
    end = minima.polish(plain(lambda p: jnp.sum((p - 3) ** 2) + p[0] ** 2), jnp.zeros(2, jnp.float32))
    assert end.params.dtype == jnp.float32
    assert bool(end.converged)
    np.testing.assert_allclose(end.params, [1.5, 3], rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- classify


@pytest.mark.parametrize(
    ("fn", "at", "kind", "index", "eigenvalues"),
    [
        (lambda p: 2 * p[0] ** 2 + 3.5 * p[1] ** 2, [0, 0], "local", 0, [4, 7]),
        (lambda p: 2 * p[0] ** 2 - 3.5 * p[1] ** 2, [0, 0], "saddle", 1, [-7, 4]),
        (lambda p: -2 * p[0] ** 2 - 3.5 * p[1] ** 2, [0, 0], "maximum", 2, [-7, -4]),
        (lambda p: (p @ p - 4) ** 2, [1.2, 1.6], "degenerate", 0, [0, 32]),
        (lambda p: p[0] ** 2 * p[1] ** 2, [1e-9, -1.5], "degenerate", 0, [0, 4.5]),
        (lambda p: p[0] ** 3 - 3 * p[0] * p[1] ** 2, [1e-14, 2e-14], "degenerate", 0, [0, 0]),
        (lambda p: p[0] ** 2 - p[1] ** 2 + 0 * p[2], [0, 0, 3], "saddle", 1, [-2, 0, 2]),
        (lambda p: 2 * p[0] ** 2 + 3.5 * p[1] ** 2, [0.1, 0], "unconverged", 0, [4, 7]),
    ],
    ids=["bowl", "saddle", "dome", "ring", "valley", "monkey saddle", "saddle with a flat direction", "slope"],
)
def test_kinds_and_morse_indices_of_closed_forms(fn, at, kind, index, eigenvalues):
    verdict = minima.classify(plain(fn), jnp.array(at, float))
    assert (verdict.kind, verdict.index) == (kind, index)
    np.testing.assert_allclose(verdict.eigenvalues, eigenvalues, atol=1e-7)
    assert verdict.complete
    unpacked, values = verdict
    assert unpacked == index
    assert values is verdict.eigenvalues


def test_global_is_said_only_of_a_known_loss_and_nan_is_diverged():
    bowl = plain(lambda p: jnp.sum((p - 2) ** 2) + 1.5)
    assert minima.classify(bowl, jnp.full(2, 2.0)).kind == "local"
    assert minima.classify(bowl, jnp.full(2, 2.0), global_loss=1.5).kind == "global"
    assert minima.classify(bowl, jnp.full(2, 2.0), global_loss=1.4).kind == "local"
    assert minima.classify(bowl, jnp.full(2, 2.2), global_loss=1.4, loss_tol=0.5).kind == "global"
    lost = minima.classify(bowl, jnp.array([jnp.nan, 2.0]), global_loss=1.5)
    assert (lost.kind, lost.index) == ("diverged", -1)


def xor():
    """XOR through two hidden sigmoid units, mean squared error; U(-1, 1) starts, learning rate 2, 20,000 steps."""

    def loss(p, batch):
        hidden = jax.nn.sigmoid(batch[0] @ p["w"] + p["b"])
        return (jax.nn.sigmoid(hidden @ p["v"] + p["c"]) - batch[1]) ** 2

    objective = Objective(loss, (jnp.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]), jnp.array([0, 1, 1, 0.0])))
    rng = np.random.default_rng(21)
    shapes = {"w": (2, 2), "b": (2,), "v": (2,), "c": ()}
    starts = {name: jnp.asarray(rng.uniform(-1, 1, (30, *shape))) for name, shape in shapes.items()}

    def step(_, p):
        return jax.tree.map(lambda x, g: x - 2.0 * g, p, jax.grad(objective)(p))

    return objective, jax.jit(jax.vmap(lambda p: jax.lax.fori_loop(0, 20_000, step, p)))(starts)


def test_xor_stops_on_plateaus_that_are_called_plateaus():
    objective, ends = xor()
    losses = np.asarray(jax.vmap(objective)(ends))
    stuck = losses > 0.1
    assert 2 <= stuck.sum() <= 15  # about 19 % of runs
    assert np.all(np.min(np.abs(losses[stuck, None] - [1 / 8, 1 / 6]), axis=1) < 2e-3)
    for i in range(len(losses)):
        verdict = minima.classify(objective, jax.tree.map(lambda x: x[i], ends), global_loss=0.0, loss_tol=1e-2)  # noqa: B023
        assert verdict.kind == ("plateau" if stuck[i] else "global")
        if stuck[i]:
            assert verdict.grad_norm > 1e-6
            assert abs(verdict.eigenvalues[0]) < 1e-3 * verdict.eigenvalues[-1]


# -------------------------------------------------------------------------------------------------------- distinct


def mlp_params(sizes, seed):
    rng = np.random.default_rng(seed)
    return [{"kernel": rng.normal(size=(a, b)), "bias": rng.normal(size=b)} for a, b in pairwise(sizes)]


def exchanged(params, seed, signs=False):
    """A copy with the units of every hidden layer in another order and, with `signs`, of either sign."""
    rng = np.random.default_rng(seed)
    layers = [dict(layer) for layer in params]
    for here, after in pairwise(layers):
        order = rng.permutation(len(here["bias"]))
        sign = rng.choice([-1.0, 1.0], len(order)) if signs else np.ones(len(order))
        here["kernel"], here["bias"] = here["kernel"][:, order] * sign, here["bias"][order] * sign
        after["kernel"] = after["kernel"][order] * sign[:, None]
    return layers


def forward(params, x):
    for layer in params[:-1]:
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@pytest.mark.parametrize("sizes", [(3, 7, 2), (4, 9, 6, 3)], ids=["one hidden layer", "two"])
def test_units_in_another_order_and_of_another_sign_are_one_minimum(sizes):
    a, b = mlp_params(sizes, 1), mlp_params(sizes, 2)
    x = RNG.normal(size=(5, sizes[0]))
    copies = [exchanged(a, seed, signs=True) for seed in range(4)]
    np.testing.assert_allclose(forward(copies[2], x), forward(a, x), atol=1e-12)
    near = exchanged(a, 9, signs=True)
    near[0]["kernel"] = near[0]["kernel"] + 0.02 * RNG.normal(size=near[0]["kernel"].shape)
    points = stacked([a, b, *copies, near])
    losses = np.array([0.3, 0.3 + 1e-9, 0.3, 0.3 + 1e-12, 0.3, 0.3, 0.3 + 2e-9])
    odd = minima.distinct(points, losses, symmetry=minima.HiddenUnits("odd"))
    np.testing.assert_array_equal(odd.labels, [0, 1, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(odd.counts, [5, 1, 1])
    np.testing.assert_array_equal(odd.representatives[0]["kernel"][0], a[0]["kernel"])
    assert minima.distinct(points, losses).counts.tolist() == [1] * 7  # without the symmetry all differ
    signless = minima.HiddenUnits("none")
    assert signless.distance(a, exchanged(a, 5)) < 1e-12
    assert signless.distance(a, exchanged(a, 5, signs=True)) > 1


def test_the_same_norms_in_another_net_are_told_apart_by_matching():
    """Turning what enters each unit by its own rotation keeps all norms, but is another function."""
    a = mlp_params((3, 6, 2), 4)
    b = [dict(layer) for layer in a]
    turns = ortho_group.rvs(4, size=6, random_state=5)
    incoming = np.vstack([a[0]["kernel"], a[0]["bias"]])
    turned = np.stack([turn @ column for turn, column in zip(turns, incoming.T)], axis=1)
    b[0] = {"kernel": turned[:3], "bias": turned[3]}
    symmetry = minima.HiddenUnits("odd", layers=(0,))
    units_a, units_b = (np.sort(np.linalg.norm(np.vstack([p[0]["kernel"], p[0]["bias"]]), axis=0)) for p in (a, b))
    np.testing.assert_allclose(units_a, units_b)
    assert minima.distinct(stacked([a, b]), np.array([0.7, 0.7]), symmetry=symmetry).counts.tolist() == [1, 1]


@pytest.mark.parametrize("dim", [2, 3])
def test_moved_turned_mirrored_and_renumbered_points_are_one(dim):
    rng = np.random.default_rng(dim)
    a, b = rng.normal(size=(7, dim)), rng.normal(size=(7, dim))

    def moved(points):
        turn = ortho_group.rvs(dim, random_state=rng)  # rotations and reflections
        return points[rng.permutation(7)] @ turn + rng.normal(size=dim)

    points = np.stack([a, moved(a), b, moved(b), moved(a), a + 0.01 * rng.normal(size=a.shape)])
    found = minima.distinct({"x": points}, np.full(6, -2.5), symmetry=minima.Points())
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 0, 2])


def test_a_symmetric_cluster_whose_points_look_alike_is_matched():
    angles = 2 * np.pi * np.arange(5) / 5
    ring = np.c_[np.cos(angles), np.sin(angles), 0 * angles]
    bipyramid = np.r_[ring, [[0, 0, 0.6], [0, 0, -0.6]]]  # seven atoms, the Lennard-Jones ground state
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(7)
        turned = bipyramid[order] @ ortho_group.rvs(3, random_state=seed) - 3.0
        assert minima.Points().distance(bipyramid, turned) < 1e-12


def test_values_that_are_not_finite_belong_nowhere_and_eigenvalues_tell_apart():
    points, losses = np.array([[2.0], [np.nan], [2.0], [2.0]]), np.array([0.5, 0.5, np.inf, 0.5])
    assert minima.distinct(points, losses).labels.tolist() == [0, -1, -1, 0]
    by_curvature = minima.distinct(points, losses, eigenvalues=np.array([[3.0], [3], [3], [4]]))
    assert by_curvature.labels.tolist() == [0, -1, -1, 1]


# ------------------------------------------------------------------------------------------------- student and teacher


def arc_cosine(u, v, skip):
    """Mean of relu(u . x) relu(v . x) over standard normal x (Cho & Saul 2009), away from parallel vectors."""
    lengths = jnp.linalg.norm(u, axis=1)[:, None] * jnp.linalg.norm(v, axis=1)
    cosine = jnp.where(skip, 0.5, jnp.clip(u @ v.T / lengths, -1 + 1e-14, 1 - 1e-14))
    angle = jnp.arccos(cosine)
    return lengths * (jnp.sin(angle) + (jnp.pi - angle) * cosine) / (2 * jnp.pi)


def student_loss(p, batch):
    w, teacher = p["w"], batch[0]
    same = np.eye(len(w), dtype=bool)
    own = jnp.sum(jnp.where(same, 0, arc_cosine(w, w, same))) + jnp.sum(w**2) / 2
    k = len(teacher)
    between = (k**2 - k) / (2 * jnp.pi) + k / 2
    return (own - 2 * jnp.sum(arc_cosine(w, teacher, False)) + between) / 2


@pytest.mark.slow
def test_student_teacher_minima_fall_into_their_published_family_in_any_basis():
    """Safran & Shamir 2018: (1, 7) at k = n = 8 has loss .02151 and smallest eigenvalue .0213."""
    k, teacher = 8, ortho_group.rvs(8, random_state=2)
    objective = Objective(student_loss, jnp.asarray(teacher)[None])
    starts = {"w": jnp.asarray(RNG.normal(size=(40, k, k)) / k**0.5)}

    def step(_, p):
        return jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(objective)(p))

    ends = jax.jit(jax.vmap(lambda p: jax.lax.fori_loop(0, 6000, step, p)))(starts)
    bad = np.asarray(jax.vmap(objective)(ends)) >= 1e-3
    assert 1 <= bad.sum() <= 14  # 12.6 % in the paper
    ends = jax.vmap(partial(minima.polish, objective))(jax.tree.map(lambda x: x[bad], ends))
    assert np.all(ends.converged)
    for seed, symmetry in [(3, minima.Neurons()), (4, minima.Neurons(teacher))]:
        rng = np.random.default_rng(seed)
        copies = np.stack(
            [rng.permutation(w) @ teacher.T @ rng.permutation(teacher) for w in np.asarray(ends.params["w"])]
        )
        points = {"w": np.concatenate([ends.params["w"], copies])}
        losses = np.asarray(jax.vmap(objective)(points))
        np.testing.assert_allclose(losses[: len(copies)], losses[len(copies) :], atol=1e-12)
        found = minima.distinct(points, losses, symmetry=symmetry)
        families = [minima.student_family(w) for w in found.representatives["w"]]
        assert families[0] == (1, 7)
        assert len(set(families)) == len(families)
        assert found.losses[0] == pytest.approx(0.02151, abs=1e-5)
    best = {"w": jnp.asarray(found.representatives["w"][0])}
    index, eigenvalues = minima.classify(objective, best)
    assert index == 0
    assert eigenvalues[0] == pytest.approx(0.0213, abs=1e-4)


def test_students_with_the_same_norms_and_another_gram_matrix_are_distinct():
    w = RNG.normal(size=(5, 5))
    turned = w.copy()
    turned[:2] = turned[:2] @ ortho_group.rvs(5, random_state=7)
    points = {"w": np.stack([w, w[::-1] @ ortho_group.rvs(5, random_state=8), turned])}
    assert minima.distinct(points, np.full(3, 0.2), symmetry=minima.Neurons()).labels.tolist() == [0, 0, 1]


def test_the_family_of_a_student_made_of_three_kinds():
    gram = 3 * np.eye(9) + 0.1
    gram[0, 1:] = gram[1:, 0] = -0.4
    gram[1:3, 3:] = gram[3:, 1:3] = 0.25
    w = np.linalg.cholesky(gram) @ ortho_group.rvs(9, random_state=1)
    assert minima.student_family(RNG.permutation(w)) == (1, 2, 6)
    assert minima.student_family(ortho_group.rvs(9, random_state=3)) == (9,)


# ---------------------------------------------------------------------------------------------------------- census


def himmelblau(p):
    return (p[0] ** 2 + p[1] - 11) ** 2 + (p[0] + p[1] ** 2 - 7) ** 2


def six_hump_camel(p):
    x, y = p
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (4 * y**2 - 4) * y**2


def three_hump_camel(p):
    x, y = p
    return 2 * x**2 - 1.05 * x**4 + x**6 / 6 + x * y + y**2


def styblinski_tang(p):
    return jnp.sum(p**4 - 16 * p**2 + 5 * p) / 2


def mueller_brown(p):
    a, b, c = jnp.array([[-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]])
    x, y = p[0] - jnp.array([1, 0, -0.5, -1]), p[1] - jnp.array([0, 0.5, 1.5, 1])
    return jnp.sum(jnp.array([-200, -100, -170, 15]) * jnp.exp(a * x**2 + b * x * y + c * y**2))


def rastrigin(p):
    return jnp.sum(p**2 - 10 * jnp.cos(2 * jnp.pi * p) + 10)


FUNCTIONS = [himmelblau, six_hump_camel, three_hump_camel, styblinski_tang, mueller_brown, rastrigin]


def moved_function(p, batch):
    """One program for all functions, turned, shifted and scaled by its data."""
    which, turn, shift, scale = (x[0] for x in batch)
    return scale * jax.lax.switch(which, FUNCTIONS, turn @ (p - shift)) + 2.5


def data(fn, angle, shift, scale):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Objective(moved_function, tuple(jnp.asarray(x)[None] for x in (FUNCTIONS.index(fn), turn, shift, scale)))


PUBLISHED = {
    himmelblau: ((4, 4, 1), 6.0, [[3, 2], [-2.805118, 3.131313], [3.584428, -1.848127], [-3.779310, -3.283186]],
                 [0, 0, 0, 0]),
    six_hump_camel: ((6, 7, 2), 2.6, [[0.089842, -0.712656], [-0.089842, 0.712656]],
                     [-1.031628, -1.031628, -0.215464, -0.215464, 2.104250, 2.104250]),
    three_hump_camel: ((3, 2, 0), 3.0, [[0, 0]], [0, 0.298638, 0.298638]),
    styblinski_tang: ((4, 4, 1), 4.5, [[-2.903534, -2.903534]], [-78.332331, -64.195612, -64.195612, -50.058893]),
    mueller_brown: ((3, 2, 0), 2.2, [[-0.558224, 1.441726], [0.623499, 0.028038], [-0.050011, 0.466694]],
                    [-146.699517, -108.166724, -80.767818]),
}  # fmt: skip
SADDLES = {mueller_brown: [-72.248940, -40.664844]}


@pytest.mark.parametrize("fn", PUBLISHED, ids=lambda fn: fn.__name__)
@pytest.mark.parametrize(
    ("angle", "shift", "scale"),
    [
        pytest.param(0.0, (0.0, 0.0), 1.0, id="plain", marks=pytest.mark.slow),  # the census experiment does it too
        pytest.param(0.7, (13.0, -40.0), 300.0, id="moved"),
    ],
)
def test_the_whole_census_of_textbook_functions(fn, angle, shift, scale):
    counts, half, points, values = PUBLISHED[fn]
    objective = data(fn, angle, shift, scale)
    half = half if angle == 0 else 1.15 * half
    found = minima.census(objective, [(s - half, s + half) for s in shift])
    assert found.counts == counts
    assert found.euler == 1
    assert found.complete
    assert found.new_per_round[-2:] == (0, 0)
    assert found.found_once == 0
    assert not found.degenerate.any()
    least = np.sort((found.values[found.indices == 0] - 2.5) / scale)
    np.testing.assert_allclose(least, np.sort(values), atol=1e-6)
    turn = np.asarray(objective.data[1][0])
    back = (found.points - np.asarray(shift)) @ turn.T
    for point in points:
        assert np.linalg.norm(back - point, axis=1).min() < 1e-6
    if fn in SADDLES:
        np.testing.assert_allclose((found.values[found.indices == 1] - 2.5) / scale, SADDLES[fn], atol=1e-6)


def test_rastrigin_has_eleven_minima_and_ten_maxima_along_each_axis():
    found = minima.census(data(rastrigin, 0.0, (0.0, 0.0), 1.0), [(-5.12, 5.12)] * 2)
    assert found.counts == (121, 220, 100)
    assert found.euler == 1
    assert found.complete
    assert "121-220-100" in str(found)


def test_a_plain_function_of_one_variable_and_a_ring_that_no_census_can_count():
    well = minima.census(lambda p: (p[0] ** 2 - 4) ** 2 + p[0], [(-3, 3)], num_starts=50)
    assert well.counts == (2, 1)
    roots = np.sort(np.roots([4, 0, -16, 1]).real)
    np.testing.assert_allclose(np.sort(well.points[:, 0]), roots, atol=1e-12)
    ring = minima.census(lambda p: (p @ p - 4) ** 2, [(-3, 3)] * 2, num_starts=50, max_rounds=3)
    assert not ring.complete
    assert ring.degenerate.sum() == len(ring.points) - 1  # all but the top of the hat


# ---------------------------------------------------------------------------------------------------------- errors


def test_errors():
    bowl, at = plain(lambda p: jnp.sum(p**2)), jnp.ones(2)
    with pytest.raises(TypeError, match="must be a landscape.Objective, got function"):
        minima.polish(lambda p: p, at)
    with pytest.raises(TypeError, match="must be a real floating-point array"):
        minima.classify(bowl, jnp.ones(2, int))
    with pytest.raises(ValueError, match="to must be 'minimum' or 'critical', got 'saddle'"):
        minima.polish(bowl, at, to="saddle")
    with pytest.raises(ValueError, match="tol must be positive and finite, got 0"):
        minima.polish(bowl, at, tol=0)
    with pytest.raises(ValueError, match=r"stall must lie in \(0, 1\), got"):
        minima.classify(bowl, at, stall=2.0)
    with pytest.raises(TypeError, match="fn must be a function of a vector"):
        minima.census(3, [(0, 2)])
    with pytest.raises(ValueError, match=r"box must be \(low, high\)"):
        minima.census(bowl, [(2, 0)])
    with pytest.raises(ValueError, match="num_starts must be at least 1"):
        minima.census(bowl, [(0, 2)], num_starts=0)
    with pytest.raises(ValueError, match=r"census is for few variables: a grid over 30 of them has 2\^30 cells"):
        minima.census(bowl, [(-1, 1)] * 30)


def test_errors_of_distinct():
    points, losses = RNG.normal(size=(3, 4)), np.full(3, 0.5)
    with pytest.raises(ValueError, match="one tree per loss"):
        minima.distinct(points, losses[:2])
    with pytest.raises(ValueError, match=r"eigenvalues must be \(n, m\) for 3 points"):
        minima.distinct(points, losses, eigenvalues=np.zeros(3))
    with pytest.raises(ValueError, match="tol must be positive"):
        minima.distinct(points, losses, tol=0)
    with pytest.raises(TypeError, match="HiddenUnits needs params as a list of layers"):
        minima.distinct({"w": points}, losses, symmetry=minima.HiddenUnits())
    with pytest.raises(TypeError, match=r"Points needs params with one array \(N, d\)"):
        minima.distinct(points, losses, symmetry=minima.Points())
    with pytest.raises(TypeError, match="expected neurons as"):
        minima.distinct(points, losses, symmetry=minima.Neurons())
    nets = stacked([mlp_params((2, 3, 2), seed) for seed in range(3)])
    with pytest.raises(ValueError, match=r"layers=\(1,\), but the hidden layers are numbered \[0\]"):
        minima.distinct(nets, losses, symmetry=minima.HiddenUnits(layers=(1,)))
    with pytest.raises(ValueError, match="activation_sign must be 'none' or 'odd', got 'even'"):
        minima.distinct(nets, losses, symmetry=minima.HiddenUnits("even"))
    with pytest.raises(ValueError, match="orthogonal rows of one length"):
        minima.distinct(RNG.normal(size=(3, 4, 2)), losses, symmetry=minima.Neurons(RNG.normal(size=(2, 2))))
    with pytest.raises(ValueError, match="must be finite"):
        minima.student_family(np.full((3, 3), np.nan))


def test_global_minima_of_a_loss_that_is_a_difference_of_large_numbers_are_converged():
    """At the teacher the loss is 0 by cancellation, so near it steps change it by less than its rounding."""
    objective = student_teacher(6).objectives["train"]
    spread = jnp.repeat(jnp.array([1e-3, 0.1]), 6)[:, None, None]
    starts = {"w": jnp.eye(6) + spread * jax.random.normal(jax.random.key(3), (12, 6, 6))}
    ends = jax.jit(jax.vmap(partial(minima.polish, objective)))(starts)
    assert np.all(ends.converged)
    assert np.max(ends.grad_norm) < 1e-14
    assert np.max(np.abs(ends.params["w"] - np.eye(6))) < 1e-13  # the teacher itself: no other order is nearer


def test_an_offset_that_hides_the_loss_leaves_the_gradient_to_judge():
    scale = jnp.array([1.0, 30.0, 400.0])
    hidden = plain(lambda p: (jnp.sum(scale * (jnp.cosh(p) - 1)) + 1e9) - 1e9)  # known to 1e-7, and 0 at the minimum
    end = minima.polish(hidden, jnp.array([0.3, -0.2, 0.1]))
    assert bool(end.converged)
    assert np.max(np.abs(end.params)) < 1e-12


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"tol": np.inf}, ValueError, "tol must be positive and finite, got inf"),
        ({"tol": np.nan}, ValueError, "tol must be positive and finite, got nan"),
        ({"tol": -1.0}, ValueError, "tol must be positive and finite, got -1.0"),
        ({"tol": True}, TypeError, "tol must be a number, got True"),
        ({"radius": np.inf}, ValueError, "radius must be positive and finite, got inf"),
        ({"radius": "wide"}, TypeError, "radius must be a number, got 'wide'"),
        ({"max_steps": 2.5}, TypeError, "max_steps must be an integer, got float 2.5"),
        ({"max_steps": 10**12}, ValueError, "max_steps must be at most 2147483647"),
    ],
)
def test_options_of_polish_are_checked(option, error, message):
    with pytest.raises(error, match=message):
        minima.polish(plain(lambda p: jnp.sum(p**2)), jnp.ones(2), **option)


BOWL = plain(lambda p: jnp.sum(p**2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: minima.census(BOWL, [(0, 2)], num_starts=2.5), TypeError, "num_starts must be an integer, got float"),
        (lambda: minima.census(BOWL, [(0, 2)], max_rounds=True), TypeError, "max_rounds must be an integer, got bool"),
        (lambda: minima.census(BOWL, [(0, 2)], tol=np.nan), ValueError, r"tol must lie in \(0, 1\), got nan"),
        (lambda: minima.census(BOWL, "box"), TypeError, "box must be an array of real numbers, got str 'box'"),
        (lambda: minima.census(BOWL, [(0, 2)], key=7), TypeError, r"key must be a random key, got int 7"),
        (lambda: minima.classify(BOWL, jnp.ones(2), global_loss=np.nan), ValueError, "global_loss must be finite, got"),
        (lambda: minima.classify(BOWL, jnp.ones(2), loss_tol=-1.0), ValueError, "loss_tol must be .*not negative"),
        (lambda: minima.classify(BOWL, jnp.ones(2), stall=None), TypeError, "stall must be a number, got None"),
        (lambda: minima.classify(BOWL, jnp.ones(2), key="k"), TypeError, "key must be a random key, got str"),
        (lambda: minima.distinct(np.eye(2), [[1], [1, 2]]), ValueError, "losses must be .* rows of one length"),
        (
            lambda: minima.distinct(np.eye(2), ["a", "b"]),
            TypeError,
            "losses must be an array of real numbers",
        ),
        (lambda: minima.distinct({"w": ["a", "b"]}, [1, 2]), (TypeError, ValueError), "minima"),
        (lambda: minima.distinct(np.eye(2), [1, 2], tol=np.inf), ValueError, "tol must be positive and finite"),
        (lambda: minima.distinct(np.eye(2), [1, 2], symmetry=0), TypeError, "symmetry must be an object with"),
        (lambda: minima.distinct(np.eye(2), [1, 2], symmetry=minima.Points), TypeError, "symmetry must be an object"),
        (lambda: minima.student_family(np.eye(3), tol=-1), ValueError, "tol must be positive and finite, got -1"),
        (lambda: minima.student_family(None), TypeError, r"neurons, .* must be an array of real numbers, got NoneType"),
        (lambda: minima.student_family(np.eye(3), np.ones(3)), ValueError, r"teacher must be neurons \(k, 3\)"),
        (lambda: minima.HiddenUnits().invariants(None), TypeError, "HiddenUnits needs params as a list of layers"),
    ],
)
def test_what_makes_no_sense_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
