"""Maps of training runs: over starts (the double well, Himmelblau) and over hyper-parameters, each beside NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape import BasinMap, Grid, Objective, Outcome, TrainabilityMap, sweep

QUIET = {"progress": False}


def double_well(x, _):
    return jnp.sum((x**2 - 1) ** 2) / 4


def himmelblau(p, _):
    x, y = p
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


WELL = Objective(double_well)
MINIMA = np.array([[-1.0], [1.0]])
FOUR = np.array([[3.0, 2.0], [-2.805118, 3.131313], [3.584428, -1.848127], [-3.779310, -3.283186]])
# neither 0, where the gradient vanishes, nor beyond sqrt(1 + 2 / eta), where gradient descent leaves
STARTS = Grid.of(x=np.linspace(-2.3, 2.45, 48))


def well(**options):
    return BasinMap(None, WELL, optax.sgd(0.15), 400, **options)


def minima(points=MINIMA):
    return jnp.asarray(points, jnp.result_type(float))


# ------------------------------------------------------------------------------------------------------- basins


@pytest.mark.parametrize("batch", [1, 16])
def test_the_double_well_is_divided_by_the_sign_of_the_start(x64, batch):
    # below sqrt(1 + 1 / eta) = 2.77 no step changes the sign
    result = sweep(well(minima=minima(), radius=1e-3, tol=1e-6), STARTS, batch=batch, **QUIET)
    np.testing.assert_array_equal(result["label"], np.sign(STARTS.points()[:, 0]) > 0)
    np.testing.assert_array_equal(result["outcome"], np.full(48, Outcome.CONVERGED))
    assert {result[name].dtype for name in ("label", "outcome", "steps")} == {np.dtype(np.int32)}
    assert np.all(result["steps"] % 100 == 0)
    assert np.all(result["grad_norm"] <= 1e-6)
    assert np.all(result["train_loss"] < 1e-11)


def test_unbounded_runs_are_labelled_diverged(x64):
    # bounded iff |x0| < sqrt(1 + 2 / eta)
    eta, starts = 0.4, np.array([-3.2, -2.5, -2.4, 0.3, 2.44, 2.46, 2.9])
    point = BasinMap(None, WELL, optax.sgd(eta), 300, minima=minima(), radius=0.1, max_loss=1e6, check_every=7)
    result = sweep(point, Grid.of(x=starts), **QUIET)
    bounded = np.abs(starts) < np.sqrt(1 + 2 / eta)
    assert 2 < bounded.sum() < 6
    np.testing.assert_array_equal(result["label"] != -2, bounded)
    np.testing.assert_array_equal(result["outcome"] == Outcome.DIVERGED, ~bounded)
    assert np.all(result["steps"][~bounded] < 300)


def test_himmelblau_agrees_with_gradient_descent_in_numpy(x64):
    grid = Grid.of(x=np.linspace(-5.2, 4.9, 12), y=np.linspace(-4.8, 5.1, 9))
    x, y = grid.points().T
    for _ in range(600):
        a, b = x**2 + y - 11, x + y**2 - 7
        x, y = x - 0.007 * (4 * x * a + 2 * b), y - 0.007 * (2 * a + 4 * y * b)
    ends = np.stack([x, y], axis=-1)
    distances = np.linalg.norm(ends[:, None] - FOUR, axis=-1)
    expected = np.where(distances.min(1) <= 1e-2, distances.argmin(1), -1).reshape(12, 9)
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    objective = Objective(himmelblau)
    result = sweep(BasinMap(None, objective, optax.sgd(0.007), 600, minima=minima(FOUR), radius=1e-2), grid, **QUIET)
    np.testing.assert_array_equal(result["label"], expected)
    ended = sweep(BasinMap(None, objective, optax.sgd(0.007), 600), grid, **QUIET)
    assert "label" not in ended
    np.testing.assert_allclose(ended["end"].reshape(-1, 2), ends, atol=1e-8)


def test_runs_that_reach_nothing_are_labelled_so(x64):
    start = Grid.of(x=[-0.02, 0.7, 0.9])
    for options in ({"minima": minima(), "radius": 0.2}, {"minima": minima(), "radius": 0.2, "tol": 1e-9}):
        point = BasinMap(None, WELL, optax.sgd(0.1), 5, **options)
        expected = [-1, -1, -1] if "tol" in options else [-1, 1, 1]
        np.testing.assert_array_equal(sweep(point, start, **QUIET)["label"], expected)


def plane_loss(params, batch):
    return (batch @ params["w"] - 1.5) ** 2 + (params["b"] ** 2 - 4.0) ** 2


def test_starts_in_a_subspace_further_losses_and_labels_up_to_a_symmetry(x64):
    origin = {"w": jnp.array([0.3, -0.2]), "b": jnp.array(0.5)}
    directions = {"w": jnp.array([[1.0, 2.0]]), "b": jnp.array([0.7])}
    plane = ls.Subspace(origin, directions)
    train, test = (Objective(plane_loss, jnp.asarray(v)) for v in ([[2.0, 0.5]], [[1.0, -3.0], [0.5, 2.0]]))
    point = BasinMap(plane, train, optax.sgd(0.02), 900, labels=lambda p: p["b"] > 0, track={"test": test}, tol=1e-8)
    grid = Grid.of(alpha=[-1.9, -0.8, -0.6, 0.9])
    result = sweep(point, grid, batch=2, **QUIET)
    np.testing.assert_array_equal(result["label"], 0.5 + 0.7 * grid.points()[:, 0] > 0)
    assert np.all(result["train_loss"] < 1e-15)
    for i, coord in enumerate(grid.points()[:, 0]):
        w, x = np.array([0.3, -0.2]) + coord * np.array([1.0, 2.0]), np.array([2.0, 0.5])
        w = w + x * (1.5 - w @ x) / (x @ x)  # the gradient is along x
        np.testing.assert_allclose(
            result["test_loss"][i], np.mean((np.array([[1.0, -3.0], [0.5, 2.0]]) @ w - 1.5) ** 2), rtol=1e-7
        )


def test_every_point_draws_the_same_minibatches():
    objective = Objective(lambda p, batch: (p[0] - batch) ** 2, jnp.asarray([2.0, -3.0, 0.7, 1.1]))
    key = jax.random.key(1)
    point = BasinMap(None, objective, optax.sgd(0.2), 25, batch_size=1, key=key)
    ends = sweep(point, Grid.of(x=[-4.0, 1.0, 5.0]), **QUIET)["end"][:, 0]
    alone = ls.train(objective, optax.sgd(0.2), jnp.array([1.0]), num_steps=25, batch_size=1, key=key)
    np.testing.assert_allclose(ends[1], alone.params[0], rtol=1e-5)
    np.testing.assert_allclose(np.diff(ends), 0.6**25 * np.array([5.0, 4.0]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"objective": double_well}, TypeError, "objective must be a landscape.Objective, got function"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be an optax optimizer"),
        ({"at": 3.0}, TypeError, "at must be a function, called as at.coords., got float 3.0; None where"),
        ({"at": lambda c: {"x": c > 0}}, TypeError, r"the result of at\(coords\)\.x must be a real floating"),
        ({"num_steps": -3}, ValueError, "num_steps must be at least 0, got -3"),
        ({"minima": np.ones((2, 1))}, ValueError, "minima= and radius= belong together"),
        ({"radius": 0.1}, ValueError, "minima= and radius= belong together"),
        ({"minima": np.ones((2, 1)), "radius": -0.1}, ValueError, "radius must be a positive distance, got -0.1"),
        ({"minima": np.ones((2, 3)), "radius": 0.1}, ValueError, r"minima.* must have shape \(num, \*shape\)"),
        ({"labels": 3}, TypeError, "labels must be a function, called as labels.params., got int 3"),
        ({"labels": int, "minima": np.ones((2, 1))}, ValueError, "both say what a minimum is"),
        ({"batch_size": 2}, ValueError, "batch_size= draws minibatches at random"),
        ({"track": {"test": 3}}, TypeError, r"track\['test'\] must be a landscape.Objective, got int"),
    ],
)
def test_basin_maps_that_cannot_be(options, error, said):
    point = BasinMap(**{"at": None, "objective": WELL, "optimizer": optax.sgd(0.1), "num_steps": 5, **options})
    with pytest.raises(error, match=said):
        sweep(point, STARTS, **QUIET)


def test_a_subspace_of_another_dimension_is_refused():
    plane = ls.Subspace(jnp.ones(3), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="2 directions, the grid 1 ax"):
        sweep(BasinMap(plane, WELL, optax.sgd(0.1), 5), STARTS, **QUIET)


def test_a_plain_tolerance_is_refused_where_labels_are_meant():
    with pytest.raises(ValueError, match="applies to none of the outputs of this function: name those to refine"):
        sweep(well(minima=minima(), radius=1e-3), STARTS, tolerance=0.01, **QUIET)


# ------------------------------------------------------------------------------------------------- trainability

RNG = np.random.default_rng(4)
W0, W1 = RNG.normal(size=(4, 4)), RNG.normal(size=(4, 1))
X, Y = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 1))
RATES = Grid.of(first=np.linspace(-1.2, 3.1, 7), second=np.linspace(-0.8, 3.2, 5))


def mean_field_loss(params, batch):
    """Two layers without bias in mean-field scaling, for rows of `x` (Sohl-Dickstein 2024)."""
    w0, w1 = params
    x, y = batch
    hidden = jnp.tanh(x @ w0 / 2 * np.sqrt(2))
    return jnp.mean((hidden @ w1 / 4 - y) ** 2)


def curve_by_numpy(rates, steps, moved=0.0):
    """Losses of gradient descent with hand-written gradients, up to the first that is not finite; the loss after."""
    w0, w1, losses = W0 * (1 + moved), W1.copy(), []
    with np.errstate(all="ignore"):
        for _ in range(steps):
            hidden = np.tanh(X @ w0 / 2 * np.sqrt(2))
            error = hidden @ w1 / 4 - Y
            losses.append(np.mean(error**2))
            if not np.isfinite(losses[-1]):
                break
            slope = 2 * error / 3
            before = slope @ w1.T / 4 * (1 - hidden**2) / 2 * np.sqrt(2)
            w0, w1 = w0 - rates[0] * X.T @ before, w1 - rates[1] * hidden.T @ slope / 4
        hidden = np.tanh(X @ w0 / 2 * np.sqrt(2))
        return np.array(losses), np.mean((hidden @ w1 / 4 - Y) ** 2)


def verdict_by_numpy(losses, steps):
    """From the whole curve."""
    with np.errstate(all="ignore"):
        v = losses / losses[0]
    over = len(losses) < steps or not np.isfinite(losses[-1])
    if over:
        v = np.append(v[:-1], np.full(steps - len(v) + 1, 1e6))
    v = np.minimum(np.where(np.isfinite(v), v, 1e6), 1e6)
    converged = np.mean(v[-20:]) < 1
    return converged, v.sum() if converged else -np.sum(1 / v)


def verdict_and_end(rates, steps, moved):
    losses, end = curve_by_numpy(rates, steps, moved)
    return *verdict_by_numpy(losses, steps), end


def by_rates(coords):
    first, second = 10.0**coords
    optimizer = optax.partition({"first": optax.sgd(first), "second": optax.sgd(second)}, ("first", "second"))
    return optimizer, (jnp.asarray(W0, coords.dtype), jnp.asarray(W1, coords.dtype))


def mean_field():
    return Objective(mean_field_loss, (jnp.asarray(X, jnp.result_type(float)), jnp.asarray(Y, jnp.result_type(float))))


@pytest.mark.parametrize(("steps", "batch"), [(60, 8), (13, 1)])
def test_trainability_agrees_with_numpy(x64, steps, batch):
    point = TrainabilityMap(by_rates, mean_field(), steps, track={"test": mean_field()})
    result = sweep(point, RATES, batch=batch, **QUIET)
    found = [[verdict_and_end(10.0**c, steps, moved) for c in RATES.points()] for moved in (0.0, 1e-12)]
    (converged, values, ends), (_, nearby, nearby_ends) = (map(np.array, zip(*one)) for one in found)
    assert 5 < np.sum(converged) < 30
    np.testing.assert_array_equal(result["converged"].ravel(), converged)
    # a run amplifies rounding: the digits that must agree are those that survive a start moved by 1e-12
    every = np.full(35, True)
    for name, which, here, there in (("value", every, values, nearby), ("train_loss", converged, ends, nearby_ends)):
        ours, here, there = result[name].ravel()[which], here[which], there[which]
        assert np.all(np.abs(ours - here) <= 1e-10 * np.abs(here) + np.abs(there - here)), name
    np.testing.assert_array_equal(result["test_loss"], result["train_loss"])
    assert result["converged"].dtype == result["diverged"].dtype == bool


def steep(coords):
    """Gradient descent on x^2 (1 + eps cos(2 pi x / lam)), Liu 2024."""
    return optax.sgd(coords[0]), jnp.ones((), coords.dtype)


def ripples(x, _):
    return x**2 * (1 + 0.2 * jnp.cos(2 * jnp.pi * x / 0.1))


def test_the_first_loss_beyond_the_limit_ends_a_run(x64):
    # adjacent unequal labels at 2^k + 1 learning rates: 1, 1, 1, 1, 3, 5 for k = 0..5 (published)
    found = []
    for k in range(6):
        grid = Grid.of(rate=np.linspace(0, 1.5, 2**k + 1))
        result = sweep(TrainabilityMap(steep, Objective(ripples), 1000, max_loss=1e8), grid, **QUIET)
        found.append(int(np.sum(np.diff(result["diverged"].astype(int)) != 0)))
        over = result["diverged"]
        assert np.all(result["train_loss"][over] > 1e8)
        assert np.all(np.isfinite(result["train_loss"]))
    assert found == [1, 1, 1, 1, 3, 5]


def test_diverged_runs_count_the_largest_ratio_to_the_end(x64):
    # x -> -2 x: losses 9 * 4^t; beyond 9e3 from t = 5 on, where the loss is 9216
    objective = Objective(lambda x, _: x**2)
    point = TrainabilityMap(lambda c: (optax.sgd(1.5), 3.0 * c[0]), objective, 300, max_loss=9e3)
    result = point(jnp.array([1.0]))
    assert bool(result["diverged"])
    assert not bool(result["converged"])
    np.testing.assert_allclose(result["value"], -(np.sum(0.25 ** np.arange(5)) + 295e-6), rtol=1e-12)
    np.testing.assert_allclose(result["train_loss"], 9216.0, rtol=1e-12)


def test_the_objective_may_depend_on_the_coordinates(x64):
    def setup(coords):
        return optax.sgd(0.25), jnp.array(3.0), Objective(lambda x, batch: (x - batch) ** 2, coords)

    result = sweep(TrainabilityMap(setup, None, 8), Grid.of(target=[-2.0, 0.5, 2.5]), **QUIET)
    # the rest is halved at each step
    np.testing.assert_allclose(result["train_loss"], (np.array([5.0, 2.5, 0.5]) * 2.0**-8) ** 2, rtol=1e-10)
    np.testing.assert_allclose(result["value"], np.full(3, np.sum(0.25 ** np.arange(8))), rtol=1e-12)
    assert result["converged"].all()


def test_minibatches_are_stepped_on_and_the_full_loss_is_judged(x64):
    data = jnp.asarray([2.0, -3.0, 0.7, 1.1])
    objective = Objective(lambda p, batch: (p - batch) ** 2, data)
    key = jax.random.key(6)
    point = TrainabilityMap(lambda c: (optax.sgd(c[0]), jnp.array(9.0)), objective, 30, batch_size=2, key=key)
    run = ls.train(objective, optax.sgd(0.3), jnp.array(9.0), num_steps=30, record_every=1, batch_size=2, key=key)
    result = sweep(point, Grid.of(rate=[0.3]), **QUIET)
    np.testing.assert_allclose(result["train_loss"][0], run.history["loss"][-1], rtol=1e-10)
    np.testing.assert_allclose(
        result["value"][0], np.sum(run.history["loss"][:30] / run.history["loss"][0]), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"setup": 3}, TypeError, r"setup must be a function, called as setup\(coords\), got int 3"),
        ({"setup": lambda c: optax.sgd(c[0])}, TypeError, r"setup\(coords\) must return \(optimizer, params\)"),
        ({"setup": lambda c: c}, TypeError, r"setup\(coords\) must return \(optimizer, params\)"),
        ({"setup": lambda c: (c[0], c)}, TypeError, r"the optimizer of setup\(coords\) must be an optax optimizer"),
        ({"setup": lambda c: (optax.sgd(0.1), c > 0)}, TypeError, r"the params of setup\(coords\).* must be a real"),
        ({"objective": None}, TypeError, "objective must be a landscape.Objective, got NoneType"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1, got 0"),
        ({"max_ratio": 0.5}, ValueError, "max_ratio must be larger than 1, got 0.5"),
        ({"batch_size": 9}, ValueError, "batch_size= draws minibatches at random"),
        ({"track": {"test": 3}}, TypeError, r"track\['test'\] must be a landscape.Objective, got int"),
    ],
)
def test_trainability_maps_that_cannot_be(options, error, said):
    point = TrainabilityMap(**{"setup": steep, "objective": Objective(ripples), "num_steps": 5, **options})
    with pytest.raises(error, match=said):
        sweep(point, Grid.of(rate=[0.2, 0.3]), **QUIET)


def test_a_loss_that_starts_below_zero_has_a_verdict_but_no_value():
    shifted = ls.Objective(lambda p, _: jnp.sum(p**2) - 5.0)
    fn = ls.TrainabilityMap(lambda c: (optax.sgd(c[0]), jnp.array([2.0])), shifted, 60)
    result = ls.sweep(fn, ls.Grid.of(rate=[0.01, 0.1, 1.5]), progress=False)
    assert result["converged"].tolist() == [True, True, False]
    assert np.isnan(result["value"][:2]).all()


def test_values_do_not_depend_on_the_neighbours():
    fn = ls.TrainabilityMap(lambda c: (optax.sgd(c[0]), jnp.array([2.0])), ls.Objective(lambda p, _: jnp.sum(p**2)), 70)
    rates = np.linspace(0.3, 40.0, 37)
    together = ls.sweep(fn, ls.Grid.of(rate=rates), batch=16, progress=False)
    alone = [ls.sweep(fn, ls.Grid.of(rate=[rate]), batch=16, progress=False)["value"][0] for rate in rates[::6]]
    np.testing.assert_array_equal(together["value"][::6], alone)


def test_an_unknown_minimum_is_not_reached():
    bowl = ls.Objective(lambda p, _: jnp.sum((p - 0.5) ** 2))
    minima = jnp.array([[jnp.nan], [0.5]])
    fn = ls.BasinMap(None, bowl, optax.sgd(0.3), 200, minima=minima, radius=0.1, tol=1e-5)
    assert ls.sweep(fn, ls.Grid.of(x=[-2.0, 3.0]), progress=False)["label"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"track": {"train": "objective"}}, ValueError, "two outputs are called 'train_loss'; rename"),
        ({"labels": lambda p: p[0]}, TypeError, r"labels\(params\) must return one integer, got float"),
        ({"minima": jnp.zeros((0, 1)), "radius": 0.5}, ValueError, "must hold at least one minimum"),
        ({"minima": jnp.full((3, 1), 0.5), "radius": np.array([0.5, 2.0])}, TypeError, "radius must be one distance"),
    ],
)
def test_labels_and_names_that_would_mislead(options, kind, message):
    bowl = ls.Objective(lambda p, _: jnp.sum((p - 0.5) ** 2))
    if "track" in options:
        options = {"track": {"train": bowl}}
    with pytest.raises(kind, match=message):
        ls.sweep(ls.BasinMap(None, bowl, optax.sgd(0.3), 20, **options), ls.Grid.of(x=[-2.0, 3.0]))


def test_labels_and_setups_with_state_are_told_apart():
    class Alike:
        __hash__ = None

        def __init__(self, number):
            self.number = number

        def __eq__(self, other):
            return True

    class Label(Alike):
        def __call__(self, params):
            return jnp.int32(self.number)

    class Setup(Alike):
        def __call__(self, coords):
            return optax.sgd(coords[0]), jnp.array([self.number + 0.5])

    bowl, grid = ls.Objective(lambda p, _: jnp.sum(p**2)), Grid.of(x=[0.0])
    for number in (3, 5):
        basins = sweep(BasinMap(None, bowl, optax.sgd(0.1), 1, labels=Label(number)), grid, **QUIET)
        assert basins["label"].tolist() == [number]
        trained = sweep(TrainabilityMap(Setup(number), bowl, 1), grid, **QUIET)
        np.testing.assert_allclose(trained["train_loss"], [(number + 0.5) ** 2])


def test_tracked_outputs_of_one_name_are_refused():
    def loss_fn(params, _):
        return jnp.sum(params**2), {"norm": 1.5, "b_loss": 2.5}

    both = ls.Objective(loss_fn, has_aux=True)
    with pytest.raises(ValueError, match="two outputs are called 'grad_norm'"):
        sweep(BasinMap(None, both, optax.sgd(0.1), 2, track={"grad": both}), Grid.of(x=[0.5]))
    with pytest.raises(ValueError, match="two outputs are called 'a_b_loss'"):
        track = {"a": both, "a_b": both}
        sweep(TrainabilityMap(lambda c: (optax.sgd(0.1), c), both, 2, track=track), Grid.of(x=[0.5]))
