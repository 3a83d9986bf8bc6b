"""Oracles for the test functions: published minima, NumPy's roots and eigenvalues, SciPy's searches."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats

from landscape import problems, train
from landscape.problems.functions import KnownFunction

PLANE = ["himmelblau", "six_hump_camel", "three_hump_camel", "styblinski_tang", "goldstein_price", "mueller_brown"]
pytestmark = pytest.mark.usefixtures("x64")


def known(name):
    return problems.rastrigin(2) if name == "rastrigin" else getattr(problems, name)


def turned(dim=2, seed=3):
    return scipy.stats.ortho_group.rvs(dim, random_state=seed)


def assert_same_points(found, expected, atol):
    """Both sets hold the same points, in any order."""
    assert len(found) == len(expected)
    distances = np.linalg.norm(np.asarray(found)[:, None] - np.asarray(expected)[None], axis=-1)
    rows, columns = scipy.optimize.linear_sum_assignment(distances)
    assert distances[rows, columns].max() < atol


@pytest.mark.parametrize("name", [*PLANE, "rastrigin"])
@pytest.mark.parametrize("moved", [False, True])
def test_gradient_vanishes_and_the_index_is_that_of_the_hessian(name, moved):
    function = known(name)
    if moved:
        function = function.moved(rotation=turned(), shift=[0.7, -2.3], scale=1.5)
    points = jnp.asarray(function.critical_points)
    gradients = jax.jit(jax.vmap(jax.grad(function)))(points)
    assert np.linalg.norm(gradients, axis=1).max() < 1e-9
    eigenvalues = np.linalg.eigvalsh(jax.jit(jax.vmap(jax.hessian(function)))(points))
    assert np.abs(eigenvalues).min() > 0.1  # none is degenerate
    np.testing.assert_array_equal((eigenvalues < 0).sum(axis=1), function.indices)
    np.testing.assert_allclose(jax.vmap(function)(points), function.values, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("himmelblau", (4, 4, 1)),
        ("six_hump_camel", (6, 7, 2)),
        ("three_hump_camel", (3, 2, 0)),
        ("styblinski_tang", (4, 4, 1)),
        ("goldstein_price", (4, 4, 1)),
        ("mueller_brown", (3, 2, 0)),
        ("rastrigin", (11**2, 2 * 11 * 10, 10**2)),
    ],
)
def test_published_counts_and_the_euler_check(name, counts):
    function = known(name)
    assert function.counts == counts
    np.testing.assert_array_equal(np.bincount(function.indices, minlength=3), counts)
    minima, saddles, maxima = function.counts
    assert function.coercive
    assert minima - saddles + maxima == 1
    assert len(function.minima) == minima
    distances = np.linalg.norm(function.critical_points[:, None] - function.critical_points[None], axis=-1)
    assert distances[~np.eye(len(distances), dtype=bool)].min() > 0.1  # nor is one listed twice


@pytest.mark.parametrize(
    ("name", "minima"),
    [
        (
            "himmelblau",
            {(3, 2): 0, (-2.805118, 3.131313): 0, (3.584428, -1.848127): 0, (-3.779310, -3.283186): 0},
        ),
        ("goldstein_price", {(0, -1): 3, (-0.6, -0.4): 30, (1.8, 0.2): 84, (1.2, 0.8): 840}),
        (
            "mueller_brown",
            {
                (-0.558224, 1.441726): -146.699517,
                (0.623499, 0.028038): -108.166724,
                (-0.050011, 0.466694): -80.767818,
            },
        ),
    ],
)
def test_published_minima(name, minima):
    function = known(name)
    found = function.minima
    assert_same_points(found, list(minima), atol=2e-6)
    for point, value in minima.items():
        nearest = np.argmin(np.linalg.norm(found - point, axis=1))
        assert function.values[function.indices == 0][nearest] == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize(
    ("name", "index", "values"),
    [
        ("six_hump_camel", 0, [-1.031628, -1.031628, -0.215464, -0.215464, 2.104250, 2.104250]),
        ("styblinski_tang", 0, [-78.332331, -64.195612, -64.195612, -50.058893]),
        ("mueller_brown", 1, [-72.248940, -40.664844]),
    ],
)
def test_published_values(name, index, values):
    function = known(name)
    np.testing.assert_allclose(np.sort(function.values[function.indices == index]), values, atol=6e-7)


def test_formulas_against_scipy_and_plain_numpy():
    x = np.array([0.37, -1.42])
    assert float(known("rastrigin")(x)) == pytest.approx(20 + sum(x**2 - 10 * np.cos(2 * np.pi * x)))
    assert float(problems.styblinski_tang(x)) == pytest.approx(np.polyval([0.5, 0, -8, 2.5, 0], x).sum())
    # Mueller and Brown write it as a sum of four Gaussians, table 1
    table = [(-200, -1, 0, -10, 1, 0), (-100, -1, 0, -10, 0, 0.5), (-170, -6.5, 11, -6.5, -0.5, 1.5)]
    table.append((15, 0.7, 0.6, 0.7, -1, 1))
    terms = [
        a * math.exp(b * (x[0] - p) ** 2 + c * (x[0] - p) * (x[1] - q) + d * (x[1] - q) ** 2)
        for a, b, c, d, p, q in table
    ]
    assert float(problems.mueller_brown(x)) == pytest.approx(sum(terms))


def eliminated(name):
    """Critical points once more, by eliminating one unknown and taking NumPy's roots of what is left."""
    if name == "three_hump_camel":
        x = np.roots([1, 0, -4.2, 0, 4 - 0.5, 0])
        return np.stack([x, -x / 2], axis=1)
    if name == "six_hump_camel":
        y = np.poly1d([1.0, 0.0])
        x = 8 * y - 16 * y**3
        roots = (8 * x - 8.4 * x**3 + 2 * x**5 + y).roots
        return np.stack([x(roots), roots], axis=1)
    if name == "goldstein_price":
        s, t = np.poly1d([1.0, 0.0]), np.poly1d([1.0, 0.0])
        first, second = 1 + (s + 1) ** 2 * (3 * s**2 - 14 * s + 19), 30 + t**2 * (3 * t**2 - 16 * t + 18)
        assert not np.isreal(first.roots).any()
        assert not np.isreal(second.roots).any()
        pairs = itertools.product(first.deriv().roots, second.deriv().roots)
        return np.array([((3 * a + b) / 5, (2 * a - b) / 5) for a, b in pairs])
    roots = np.roots([4, 0, -32, 5])
    return np.array(list(itertools.product(roots, roots)))


@pytest.mark.parametrize("name", ["three_hump_camel", "six_hump_camel", "goldstein_price", "styblinski_tang"])
def test_all_roots_of_the_polynomial_equations(name):
    points = eliminated(name)
    assert np.abs(points.imag).max() < 1e-9  # every root is real, so none was overlooked
    assert_same_points(points.real, known(name).critical_points, atol=1e-8)


def test_himmelblau_by_the_resultant():
    # of y^2 + 2xy + (2x^3 - 21x - 7) and 2y^3 + (2x - 13)y + (x^2 - 11) in y: the determinant of Sylvester's matrix
    def sylvester(x):
        a, b = [1, 2 * x, 2 * x**3 - 21 * x - 7], [2, 0, 2 * x - 13, x**2 - 11]
        return np.array([np.pad(a, (i, 2 - i)) for i in range(3)] + [np.pad(b, (i, 1 - i)) for i in range(2)])

    nodes = 4.5 * np.cos(np.pi * (np.arange(10) + 0.5) / 10)
    values = [np.linalg.det(sylvester(x)) for x in nodes]
    roots = np.polynomial.Chebyshev.fit(nodes, values, 9, domain=[-4.5, 4.5]).roots()
    assert np.abs(roots.imag).max() < 1e-9
    np.testing.assert_allclose(np.sort(roots.real), np.sort(problems.himmelblau.critical_points[:, 0]), atol=1e-7)


def search(function, low, high, num):
    """Critical points that SciPy's root finder reaches from a grid of starts, each once."""
    gradient, hessian = jax.jit(jax.grad(function)), jax.jit(jax.hessian(function))
    starts = itertools.product(*(np.linspace(a, b, num) for a, b in zip(low, high)))
    found = np.empty((0, 2))
    for start in starts:
        end = scipy.optimize.root(
            lambda p: np.asarray(gradient(p)), np.array(start), jac=lambda p: np.asarray(hessian(p)), tol=1e-12
        )
        residual = np.linalg.norm(gradient(end.x))
        if residual < 1e-7 and (np.linalg.norm(found - end.x, axis=1) > 1e-5).all():
            found = np.concatenate([found, end.x[None]])
    return found


@pytest.mark.parametrize("name", ["himmelblau", "mueller_brown"])
def test_a_search_from_many_starts_finds_the_same(name):
    function = known(name)
    low, high = ([-2.0, -1.0], [1.5, 2.5]) if name == "mueller_brown" else function.box
    assert_same_points(search(function, low, high, 15), function.critical_points, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANE)
def test_an_exhaustive_search_finds_the_same(name):
    function = known(name)
    low, high = ([-3.0, -2.0], [2.5, 4.0]) if name == "mueller_brown" else function.box
    assert_same_points(search(function, low, high, 60), function.critical_points, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_rastrigin_in_any_dimension(dim):
    function = problems.rastrigin(dim)
    assert function.minima.shape == (11**dim, dim)
    assert function.critical_points.shape == (21**dim, dim)
    np.testing.assert_array_equal(np.bincount(function.indices, minlength=dim + 1), function.counts)
    assert sum((-1) ** k * n for k, n in enumerate(function.counts)) == 1
    low, high = function.box
    assert ((function.critical_points > low) & (function.critical_points < high)).all()


def test_rastrigin_line_by_brentq():
    def slope(x):
        return x + 10 * np.pi * np.sin(2 * np.pi * x)

    grid = np.linspace(-5.12, 5.12, 20_001) + 1e-7  # no node at 0, a root
    starts = grid[:-1][np.sign(slope(grid[:-1])) != np.sign(slope(grid[1:]))]
    roots = [scipy.optimize.brentq(slope, a, a + grid[1] - grid[0], xtol=1e-15) for a in starts]
    np.testing.assert_allclose(problems.rastrigin(1).critical_points[:, 0], roots, atol=1e-13)


def test_many_dimensions_are_lazy():
    function = problems.rastrigin(12)
    assert sum(function.counts) == 21**12  # far more than fit in memory
    assert float(function(jnp.zeros(12))) == 0.0


def test_styblinski_tang_in_more_dimensions():
    function = problems.styblinski_tang.in_dimensions(4)
    assert (function.dim, function.counts[0], len(function.critical_points)) == (4, 2**4, 3**4)
    # the published minimum is -39.16599 per dimension
    assert function.values.min() / 4 == pytest.approx(-39.166166, abs=6e-7)
    gradients = jax.jit(jax.vmap(jax.grad(function)))(jnp.asarray(function.critical_points))
    assert np.abs(gradients).max() < 1e-9


@pytest.mark.parametrize("name", PLANE)
def test_moving_keeps_values_and_moves_points(name):
    function, rotation = known(name), turned(seed=8)
    moved = function.moved(rotation=rotation, shift=[-3.1, 0.6], scale=0.4)
    x = np.random.default_rng(0).uniform(*function.box, (20, 2))
    np.testing.assert_allclose(
        jax.vmap(moved)([-3.1, 0.6] + 0.4 * x @ rotation.T), jax.vmap(function)(x), rtol=1e-9, atol=1e-9
    )
    corners = [-3.1, 0.6] + 0.4 * np.array(list(itertools.product(*zip(*function.box)))) @ rotation.T
    np.testing.assert_allclose(moved.box, [corners.min(axis=0), corners.max(axis=0)])


def test_moving_twice():
    first, second = (
        {"rotation": turned(seed=1), "shift": [2.0, 3.0], "scale": 0.5},
        {"shift": [1.0, -4.0], "scale": 3.0},
    )
    twice = problems.himmelblau.moved(**first).moved(**second)
    once = problems.himmelblau.moved(turned(seed=1), 3.0 * np.array([2.0, 3.0]) + [1.0, -4.0], 1.5)
    np.testing.assert_allclose(twice.critical_points, once.critical_points, rtol=1e-13)
    x = jnp.array([4.0, 5.0])
    assert float(twice(x)) == pytest.approx(float(once(x)))


def test_moved_copies_share_one_program():
    traces = []

    @jax.jit
    def value(function, x):
        traces.append(function.name)
        return function(x)

    for shift in ([1.5, 2.0], [-0.3, 4.0]):
        value(problems.six_hump_camel.moved(shift=shift), jnp.array([0.2, 0.3]))
    value(problems.rastrigin(2), jnp.array([0.2, 0.3]))
    value(problems.rastrigin(2), jnp.array([0.4, 0.3]))
    assert traces == ["six-hump camel", "Rastrigin 2-D"]


def test_the_census_cannot_be_spoilt_by_writing_into_it():
    for attribute in ("critical_points", "indices", "values", "minima"):
        getattr(problems.three_hump_camel, attribute)[:] = 7
    assert problems.three_hump_camel.counts == (3, 2, 0)
    assert problems.three_hump_camel.values[0] == 0.0


def test_objective_is_the_function():
    function = problems.goldstein_price.moved(shift=[0.25, 0.5])
    objective = function.objective
    assert objective.data is None
    x = jnp.array([0.6, -0.7])
    value, gradient = objective.value_and_grad(x)
    assert float(value) == pytest.approx(float(problems.goldstein_price(x - jnp.array([0.25, 0.5]))))
    expected = scipy.optimize.approx_fprime(np.asarray(x), lambda p: float(function(p)), 1e-7)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


def test_training_from_the_problem_ends_in_a_known_minimum():
    function = problems.himmelblau.moved(turned(), [20.0, -9.0], 2.0)
    function.problem.check()
    starts = jax.vmap(function.problem.init)(jax.random.split(jax.random.key(5), 6))

    def run(start):
        return train(function.objective, optax.sgd(0.02), start, num_steps=600, record_every=600).params

    distances = np.linalg.norm(jax.vmap(run)(starts)[:, None] - function.minima, axis=-1)
    assert distances.min(axis=1).max() < 1e-6


def test_starts_fill_the_search_domain():
    function = problems.mueller_brown.moved(shift=[5.0, 7.0])
    starts = jax.vmap(function.problem.init)(jax.random.split(jax.random.key(0), 2000))
    for axis, (low, high) in enumerate(zip(*function.box)):
        uniform = scipy.stats.uniform(low, high - low)
        assert scipy.stats.kstest(np.asarray(starts[:, axis]), uniform.cdf).pvalue > 1e-3


def test_single_precision_stays_single():
    with jax.enable_x64(False):
        x = jnp.array([0.3, 0.4], jnp.float32)
        for name in [*PLANE, "rastrigin"]:
            for function in (known(name), known(name).moved(shift=[1.0, 2.0])):
                assert function(x).dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotation": np.eye(3)}, r"rotation must have shape \(2, 2\), got \(3, 3\)"),
        ({"rotation": 2 * np.eye(2)}, r"rotation must be orthogonal, but its rows are off by 3; take np\.linalg\.qr"),
        ({"rotation": np.full((2, 2), np.nan)}, "rotation must be orthogonal"),
        ({"shift": [1.0]}, r"shift must be 2 finite numbers, got shape \(1,\)"),
        ({"shift": [1.0, np.inf]}, r"shift must be 2 finite numbers, got shape \(2,\)"),
        ({"scale": 0.0}, r"scale must be a positive number, got 0\.0"),
        ({"scale": np.array([2.0])}, "scale must be a positive number, got array"),
    ],
)
def test_wrong_moves(arguments, message):
    with pytest.raises(ValueError, match=message):
        problems.himmelblau.moved(**arguments)


def test_wrong_dimensions():
    with pytest.raises(TypeError, match=r"dim must be an integer, got float 2\.0"):
        problems.rastrigin(2.0)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        problems.styblinski_tang.in_dimensions(0)
    for function in (problems.himmelblau, problems.styblinski_tang.moved(shift=[2.0, 3.0])):
        with pytest.raises(ValueError, match="only separable functions that were not moved exist in any dimension"):
            function.in_dimensions(3)
    assert all(isinstance(known(name), KnownFunction) for name in PLANE)
