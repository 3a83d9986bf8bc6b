"""Oracles for problems with published minima: Monte Carlo, finite differences, tables of energies, NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from landscape import problems, train
from landscape.problems.clusters import LENNARD_JONES_MINIMA, THOMSON_MINIMA
from landscape.problems.students import _arccos, _loss, kernel

pytestmark = pytest.mark.usefixtures("x64")


def student_loss(problem):
    """The training loss as a function of the student's weights."""
    return jax.jit(lambda w: problem.objectives["train"]({"w": w}))


def gradient_of(loss):
    return jax.jit(jax.grad(loss))


def hessian_of(loss):
    return jax.jit(jax.hessian(loss))


def relu(x):
    return np.maximum(x, 0)


# students and teachers


@pytest.mark.parametrize(("k", "n", "d"), [(3, 4, 5), (4, 2, 3)])
def test_population_loss_against_monte_carlo(k, n, d):
    rng = np.random.default_rng(7)
    teacher, w, x = rng.normal(size=(k, d)), rng.normal(size=(n, d)), rng.normal(size=(400_000, d))
    losses = (relu(x @ w.T).sum(1) - relu(x @ teacher.T).sum(1)) ** 2 / 2
    standard_error = losses.std() / np.sqrt(len(x))
    problem = problems.student_teacher(k, n, teacher)
    exact = float(student_loss(problem)(jnp.asarray(w)))
    assert standard_error < 0.01 * exact
    assert abs(losses.mean() - exact) < 3.3 * standard_error  # 1 in 1,000
    # the loss is that of the network that predict returns
    np.testing.assert_allclose(problem.predict({"w": jnp.asarray(w)}, jnp.asarray(x[:50])), relu(x[:50] @ w.T).sum(1))


def test_kernel_against_an_integral():
    # E relu(x) relu(x cos + y sin) by quadrature over the circle: E r^2 = 2, the angle is uniform
    for angle in (0.3, 1.2, np.pi / 2, 2.9):
        integral = scipy.integrate.quad(lambda t, a=angle: np.cos(t) * np.cos(t - a), angle - np.pi / 2, np.pi / 2)[0]
        assert float(kernel(jnp.cos(angle))) == pytest.approx(2 * integral, rel=1e-12)
    np.testing.assert_allclose(kernel(jnp.array([-1.0, 0.0, 1.0])), [0.0, 1.0, np.pi], atol=1e-15)


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float64, 2), (np.float32, 2)])
def test_inverse_cosine_against_numpy(dtype, ulps):
    near = np.logspace(-16, -1, 500)
    x = np.concatenate([np.linspace(-1, 1, 20_001), near - 1, 1 - near, near, -near, [0.5, -0.5]]).astype(dtype)
    exact = np.arccos(x.astype(np.longdouble))
    np.testing.assert_array_less(
        np.abs(np.asarray(_arccos(jnp.asarray(x))) - exact), (ulps + 0.5) * np.spacing(exact.astype(dtype))
    )
    assert _arccos(jnp.asarray(x)).dtype == dtype
    assert np.isnan(_arccos(jnp.array(np.nan)))


def test_gradient_against_safran_and_shamir():
    # their closed form: the part of one pair is (|v| sin(theta) w/|w| + (pi - theta) v) / 2 pi
    rng = np.random.default_rng(1)
    w, v = rng.normal(size=(4, 3)), rng.normal(size=(2, 3))

    def of_pair(a, b):
        theta = np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
        return (np.linalg.norm(b) * np.sin(theta) * a / np.linalg.norm(a) + (np.pi - theta) * b) / (2 * np.pi)

    expected = [
        a / 2 + sum(of_pair(a, b) for j, b in enumerate(w) if j != i) - sum(of_pair(a, b) for b in v)
        for i, a in enumerate(w)
    ]
    gradient = gradient_of(student_loss(problems.student_teacher(2, 4, v)))(jnp.asarray(w))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


def test_derivatives_against_finite_differences():
    loss = student_loss(problems.student_teacher(3, 4, np.random.default_rng(2).normal(size=(3, 5))))
    w = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5)))
    step, directions = 1e-5, np.eye(20).reshape(20, 4, 5)
    gradient, hessian = gradient_of(loss), hessian_of(loss)(w).reshape(20, 20)
    slopes = [(loss(w + step * u) - loss(w - step * u)) / (2 * step) for u in directions]
    np.testing.assert_allclose(gradient(w).ravel(), slopes, rtol=1e-6, atol=1e-9)
    curvatures = [((gradient(w + step * u) - gradient(w - step * u)) / (2 * step)).ravel() for u in directions]
    np.testing.assert_allclose(hessian, curvatures, rtol=1e-5, atol=1e-8)


def parallel_students():
    """Weights with every special pair: equal, parallel and opposite students, on and against a teacher."""
    v = np.eye(4)
    return {
        "equal": np.stack([v[0] * 0.7 + v[1] * 0.4] * 2 + [v[2], v[3]]),
        "parallel": np.stack([v[0] + v[1], 2.5 * (v[0] + v[1]), 0.3 * v[2], v[3] - v[0]]),
        "opposite": np.stack([v[0] - 0.2 * v[1], 0.5 * (0.2 * v[1] - v[0]), -1.7 * v[2], 0.4 * v[3]]),
    }


@pytest.mark.parametrize("case", ["equal", "parallel", "opposite"])
def test_parallel_and_opposite_neurons(case):
    loss = student_loss(problems.student_teacher(4))
    w, rng = jnp.asarray(parallel_students()[case]), np.random.default_rng(4)
    gradient_at, hessian_at = gradient_of(loss), hessian_of(loss)
    gradient, hessian = gradient_at(w), hessian_at(w)
    assert np.isfinite(gradient).all()
    assert np.isfinite(hessian).all()
    # the loss is twice, not three times differentiable here: a step h leaves an error of order h in the curvature
    step = 1e-5
    for u in rng.normal(size=(5, 4, 4)):
        up, down = gradient_at(w + step * u), gradient_at(w - step * u)
        slope = (loss(w + step * u) - loss(w - step * u)) / (2 * step)
        assert float(jnp.vdot(gradient, u)) == pytest.approx(float(slope), abs=1e-8)
        product = jnp.einsum("abcd,cd->ab", hessian, u)
        np.testing.assert_allclose(product, (up - down) / (2 * step), atol=20 * step)
        # the Hessian is continuous
        np.testing.assert_allclose(hessian_at(w + 1e-7 * u), hessian, atol=1e-5)


def test_a_neuron_that_is_zero_has_finite_derivatives():
    loss = student_loss(problems.student_teacher(3))
    w = jnp.asarray(np.diag([0.8, 0.0, 1.3]))
    assert float(loss(w)) == pytest.approx(float(loss(w.at[1].set(1e-12))), abs=1e-11)
    assert np.isfinite(gradient_of(loss)(w)).all()
    assert np.isfinite(hessian_of(loss)(w)).all()
    # all neurons 0: half the mean square of the teacher, k/4 + k(k-1)/(4 pi)
    assert float(loss(jnp.zeros((3, 3)))) == pytest.approx(3 / 4 + 6 / (4 * np.pi), rel=1e-14)


@pytest.mark.parametrize("k", [5, 7])
@pytest.mark.parametrize("basis", ["identity", "turned"])
def test_hessian_at_the_global_minimum(k, basis):
    # the smallest eigenvalue is 1/4 - 1/(2 pi) for the loss with 1/2; without, it would be twice that
    teacher = np.eye(k) if basis == "identity" else scipy.stats.ortho_group.rvs(k, random_state=2)
    loss = student_loss(problems.student_teacher(k, teacher=teacher))
    w = jnp.asarray(teacher[np.random.default_rng(0).permutation(k)])
    assert abs(float(loss(w))) < 1e-14
    assert np.abs(gradient_of(loss)(w)).max() < 1e-14
    eigenvalues = np.linalg.eigvalsh(hessian_of(loss)(w).reshape(k * k, k * k))
    assert eigenvalues[0] == pytest.approx(1 / 4 - 1 / (2 * np.pi), abs=1e-7)


def test_the_basis_of_the_teacher_does_not_matter():
    rotation, w = scipy.stats.ortho_group.rvs(6, random_state=5), np.random.default_rng(6).normal(size=(7, 6))
    plain, turned = (student_loss(problems.student_teacher(6, 7, t)) for t in (np.eye(6), rotation))
    assert float(turned(jnp.asarray(w @ rotation))) == pytest.approx(float(plain(jnp.asarray(w))), rel=1e-13)


def descend(problem, num_runs, num_steps, seed):
    """Gradient descent with step 0.1 from `num_runs` starts, then Newton's method to the nearest critical point."""
    loss = student_loss(problem)
    starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(seed), num_runs))["w"]
    gradients = jax.vmap(jax.grad(loss))
    size = starts[0].size

    def newton(w):
        hessian = jax.hessian(loss)(w).reshape(size, size)
        return w - jnp.linalg.solve(hessian, jax.grad(loss)(w).ravel()).reshape(w.shape)

    @jax.jit
    def run(w):
        w = jax.lax.fori_loop(0, num_steps, lambda _, w: w - 0.1 * gradients(w), w)
        w = jax.lax.fori_loop(0, 6, lambda _, w: jax.lax.map(newton, w), w)
        hessians = jax.lax.map(jax.hessian(loss), w).reshape(-1, size, size)
        return jax.vmap(loss)(w), jnp.linalg.norm(gradients(w), axis=(1, 2)), jnp.linalg.eigvalsh(hessians)[:, 0]

    return jax.device_get(run(starts))


def assert_families(losses, eigenvalues, published):
    """Every end is the global minimum or a published family."""
    table = {0.0: 1 / 4 - 1 / (2 * np.pi), **published}
    nearest = np.array(list(table))[np.argmin(np.abs(losses[:, None] - np.array(list(table))), axis=1)]
    np.testing.assert_allclose(losses, nearest, atol=1e-5)
    np.testing.assert_allclose(eigenvalues, [table[value] for value in nearest], atol=1e-4)
    return set(nearest)


def test_descent_reaches_the_published_families():
    losses, gradients, eigenvalues = descend(problems.student_teacher(10), 40, 4000, seed=1)
    assert gradients.max() < 1e-12
    found = assert_families(losses, eigenvalues, {0.01870: 0.0320, 0.03533: 0.0160})
    assert {0.0, 0.01870} <= found


@pytest.mark.slow
def test_share_of_stuck_students():
    # Safran & Shamir 2018, table 1, of 1,000 runs each: 0.3 % at k=6, 34.6 % at k=10; 99 % two-sample band
    for k, published, families in [
        (6, 0.003, {0.02508: 0.0047}),
        (8, 0.126, {0.02151: 0.0213}),
        (10, 0.346, {0.01870: 0.0320, 0.03533: 0.0160}),
    ]:
        losses, gradients, eigenvalues = descend(problems.student_teacher(k), 1000, 20_000, seed=k)
        assert gradients.max() < 1e-9
        assert_families(losses, eigenvalues, families)
        share = np.mean(losses >= 1e-3)
        pooled = (share + published) / 2
        assert abs(share - published) < 2.576 * np.sqrt(pooled * (1 - pooled) * 2 / 1000)


def test_slope_of_the_student_loss_after_student_and_teacher(x64):
    keys = jax.random.split(jax.random.key(3), 3)
    teacher = np.asarray(jax.random.normal(keys[0], (3, 5)))
    w, dw, dv = (jax.random.normal(key, shape) for key, shape in zip(keys, [(4, 5), (4, 5), (3, 5)], strict=True))
    objective = problems.student_teacher(3, 4, teacher).objectives["train"]
    step = 1e-5

    def loss(w, v):
        return _loss({"w": w}, {**objective.data, "teacher": v[None]})[0]

    def difference(along):
        ahead, behind = (loss(*(p + s * d for p, d in zip((w, teacher), along, strict=True))) for s in (step, -step))
        return (ahead - behind) / (2 * step)

    for along in [(dw, 0 * dv), (0 * dw, dv), (dw, dv)]:
        slope = jax.jvp(loss, (w, jnp.asarray(teacher)), along)[1]
        assert float(slope) == pytest.approx(float(difference(along)), rel=1e-8)
    only = jax.grad(loss, argnums=1)(w, jnp.asarray(teacher))
    assert float(jnp.vdot(only, dv)) == pytest.approx(float(difference((0 * dw, dv))), rel=1e-8)


def test_students_in_single_precision_and_their_starts():
    problem = problems.student_teacher(4, 3, np.random.default_rng(0).normal(size=(4, 6)), scale=2.0)
    problem.check()
    w = jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 3000))["w"]
    assert w.shape == (3000, 3, 6)
    assert float(w.std()) == pytest.approx(2.0 / np.sqrt(6), rel=0.02)
    single = w[0].astype(jnp.float32)
    loss = student_loss(problem)
    assert loss(single).dtype == jnp.float32
    assert float(loss(single)) == pytest.approx(float(loss(w[0])), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 2.0}, TypeError, r"k must be an integer, got float 2\.0"),
        ({"k": 2, "n": True}, TypeError, "n must be an integer, got bool True"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": 3, "n": -1}, ValueError, "n must be at least 1, got -1"),
        ({"k": 3, "teacher": np.eye(2)}, ValueError, r"teacher must have shape \(k, d\) with k=3 rows, got \(2, 2\)"),
        ({"k": 2, "teacher": np.diag([3.0, 0.0])}, ValueError, "every row of teacher, .* must be finite and not 0"),
        ({"k": 2, "scale": 0}, ValueError, "scale must be a positive number, got 0"),
    ],
)
def test_wrong_students(arguments, error, message):
    with pytest.raises(error, match=message):
        problems.student_teacher(**arguments)


# clusters


def pair_distances(x):
    first, second = np.triu_indices(len(x), 1)
    return np.linalg.norm(x[first] - x[second], axis=1)


def numpy_energy(kind, x):
    if kind == "lennard_jones":
        r = pair_distances(x)
        return 4 * np.sum(r**-12 - r**-6)
    return np.sum(1 / pair_distances(x / np.linalg.norm(x, axis=1, keepdims=True)))


CLUSTERS = [("lennard_jones", 7, LENNARD_JONES_MINIMA), ("thomson", 16, THOMSON_MINIMA)]


@pytest.mark.parametrize(("kind", "count", "table"), CLUSTERS)
def test_cluster_energies_against_numpy(kind, count, table):
    problem = getattr(problems, kind)(count)
    problem.check()
    x = problem.init(jax.random.key(3))["x"]
    assert x.shape == (count, 3)
    objective = problem.objectives["train"]
    assert float(objective({"x": x})) == pytest.approx(numpy_energy(kind, np.asarray(x)), rel=1e-12)
    # turned, and for atoms shifted, for charges lengthened, the energy stays
    rotation = scipy.stats.ortho_group.rvs(3, random_state=1)
    other = x @ rotation + 2.5 if kind == "lennard_jones" else x @ rotation * np.linspace(0.5, 4, count)[:, None]
    assert float(objective({"x": other})) == pytest.approx(float(objective({"x": x})), rel=1e-9)


@pytest.mark.parametrize(("kind", "count", "table"), CLUSTERS)
def test_scipy_finds_the_published_energies(kind, count, table):
    # SciPy minimises the energy written in NumPy, ours judges where it ends
    problem = getattr(problems, kind)(count)
    first, second = np.triu_indices(count, 1)

    def energy_and_gradient(flat):
        x = flat.reshape(count, 3)
        lengths = np.linalg.norm(x, axis=1, keepdims=True) if kind == "thomson" else np.ones((count, 1))
        u = x / lengths
        apart = u[first] - u[second]
        r = np.linalg.norm(apart, axis=1)
        slope = -1 / r**2 if kind == "thomson" else 4 * (6 * r**-7 - 12 * r**-13)
        forces, pull = np.zeros_like(u), (slope / r)[:, None] * apart
        np.add.at(forces, first, pull)
        np.add.at(forces, second, -pull)
        if kind == "thomson":
            forces = (forces - u * np.sum(u * forces, axis=1, keepdims=True)) / lengths
        return numpy_energy(kind, x), forces.ravel()

    starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(2), 60))["x"]
    ends = [
        scipy.optimize.minimize(energy_and_gradient, np.asarray(x).ravel(), jac=True, options={"gtol": 1e-7})
        for x in starts
    ]
    energies = np.array([end.fun for end in ends])
    distance = np.abs(energies[:, None] - np.array(table[count]))
    assert distance.min(axis=1).max() < 2e-6  # every start ends in a listed minimum
    assert distance.min(axis=0).max() < 2e-6  # and every listed minimum is found

    def energy(x):
        return problem.objectives["train"]({"x": x})

    x = jnp.asarray(ends[0].x.reshape(count, 3))
    assert np.abs(gradient_of(energy)(x)).max() < 1e-5
    hessian = hessian_of(energy)(x).reshape(3 * count, 3 * count)
    free = 6 if kind == "lennard_jones" else count + 3
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert np.abs(eigenvalues[:free]).max() < 1e-4
    assert eigenvalues[free] > 0.1


def test_atoms_start_apart_in_a_ball():
    def starts(min_distance):
        problem = problems.lennard_jones(9, radius=2.0, min_distance=min_distance)
        keys = jax.random.split(jax.random.key(1), 300)
        return np.asarray(jax.jit(jax.vmap(problem.init))(keys)["x"])

    assert min(pair_distances(x).min() for x in starts(0.9)) >= 0.9
    # without a core they are uniform: the cube of the distance to the centre is
    free = starts(0.0)
    assert scipy.stats.kstest((np.linalg.norm(free, axis=-1).ravel() / 2.0) ** 3, "uniform").pvalue > 1e-3
    assert abs(free.mean()) < 5 * free.std() / np.sqrt(free.size)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: problems.lennard_jones(7.0), TypeError, r"num_atoms must be an integer, got float 7\.0"),
        (lambda: problems.lennard_jones(1), ValueError, "num_atoms must be at least 2, got 1"),
        (lambda: problems.lennard_jones(radius=-2.0), ValueError, r"needs radius > 0 and min_distance >= 0, got -2\.0"),
        (lambda: problems.lennard_jones(min_distance=-0.5), ValueError, r"min_distance >= 0, got .* and -0\.5"),
        (lambda: problems.thomson("16"), TypeError, "num_points must be an integer, got str '16'"),
        (lambda: problems.thomson(0), ValueError, "num_points must be at least 2, got 0"),
        (lambda: problems.xor(2.5), TypeError, r"hidden must be an integer, got float 2\.5"),
        (lambda: problems.xor(0), ValueError, "hidden must be at least 1, got 0"),
        (lambda: problems.mean_field_net(4.0), TypeError, r"width must be an integer, got float 4\.0"),
        (lambda: problems.mean_field_net(0), ValueError, "width must be at least 1, got 0"),
        (lambda: problems.mean_field_net(4, 0), ValueError, "num_examples must be at least 1, got 0"),
        (
            lambda: problems.mean_field_net(activation="gelu"),
            ValueError,
            "activation must be one of tanh, relu, identity, got 'gelu'",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


# exclusive or


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("hidden", [2, 5])
def test_xor_against_numpy(hidden):
    problem = problems.xor(hidden)
    problem.check()
    params = problem.init(jax.random.key(2))
    first, second = jax.device_get(params)
    x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    outputs = sigmoid(sigmoid(x @ first["kernel"] + first["bias"]) @ second["kernel"] + second["bias"])[:, 0]
    np.testing.assert_allclose(problem.predict(params, x), outputs, rtol=1e-12)
    np.testing.assert_allclose(problem.objectives["train"].per_example(params), (outputs - y) ** 2, rtol=1e-12)
    assert float(problem.objectives["train"](params)) == pytest.approx(np.mean((outputs - y) ** 2))


def test_xor_starts_uniformly():
    starts = jax.vmap(problems.xor().init)(jax.random.split(jax.random.key(0), 700))
    entries = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(starts)])
    assert scipy.stats.kstest(entries, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_xor_plateaus():
    # saturated units by hand: both outputs of a pair of unlike targets are 1/2, or 1/3 and 2/3 share three examples
    problem, big = problems.xor(), 60.0
    loss = problem.objectives["train"]
    hidden = {"kernel": jnp.array([[big, 0.0], [-big, 0.0]]), "bias": jnp.array([-big / 2, 0.0])}
    # the first unit knows (1, 0); the other three have targets 0, 1, 0, mean 1/3
    sixth = {"kernel": jnp.array([[big + np.log(2.0)], [0.0]]), "bias": jnp.array([np.log(1 / 2)])}
    assert float(loss([hidden, sixth])) == pytest.approx(1 / 6, abs=1e-12)
    # the second unit knows (0, 0); (0, 1) is lumped with (1, 1), targets 1 and 0
    pair = {"kernel": jnp.array([[big, -big], [-big, -big]]), "bias": jnp.array([-big / 2, big / 2])}
    eighth = {"kernel": jnp.array([[big], [-big]]), "bias": jnp.array([0.0])}
    assert float(loss([pair, eighth])) == pytest.approx(1 / 8, abs=1e-12)


def test_xor_is_learned_or_ends_on_a_plateau():
    problem = problems.xor()
    starts = jax.vmap(problem.init)(jax.random.split(jax.random.key(4), 100))

    def run(params):
        return train(problem.objectives["train"], optax.sgd(2.0), params, num_steps=20_000, record_every=20_000)

    losses = jax.device_get(jax.vmap(run)(starts).history["loss"][:, -1])
    solved, eighth, sixth = losses < 0.01, np.abs(losses - 1 / 8) < 0.005, np.abs(losses - 1 / 6) < 0.005
    assert (solved | eighth | sixth).mean() > 0.98
    assert 0.7 < solved.mean() < 0.92  # about 81 %
    assert 0.08 < eighth.mean() < 0.3  # about 18 %


# random networks


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_mean_field_net_against_numpy(activation):
    problem = problems.mean_field_net(width=5, activation=activation, seed=3)
    problem.check()
    objective, params = problem.objectives["train"], problem.init(jax.random.key(1))
    w0, w1 = (np.asarray(params[name]) for name in ("w0", "w1"))
    assert (w0.shape, w1.shape, objective.num_examples) == ((5, 5), (5,), 5 if activation == "identity" else 30)
    # the notebook: z = x w / sqrt(fan in) in each layer, sqrt(2) with the non-linearities, 1 / sqrt(fan in) at the end
    z = objective.data["x"] @ w0 / np.sqrt(5)
    hidden = {"tanh": np.tanh(z * np.sqrt(2)), "relu": relu(z) * np.sqrt(2), "identity": z}[activation]
    outputs = hidden @ w1 / np.sqrt(5) / np.sqrt(5)
    np.testing.assert_allclose(problem.predict(params, objective.data["x"]), outputs, rtol=1e-12)
    assert float(objective(params)) == pytest.approx(np.mean((outputs - objective.data["y"]) ** 2), rel=1e-12)


def test_mean_field_net_draws_standard_normal_numbers():
    problem = problems.mean_field_net(width=40)
    data = problem.objectives["train"].data
    params = problem.init(jax.random.key(0))
    for draws in (data["x"], data["y"], *params.values()):
        assert scipy.stats.kstest(np.ravel(draws), "norm").pvalue > 1e-3
    other = problems.mean_field_net(width=40, seed=1).objectives["train"].data
    assert not np.array_equal(other["x"], data["x"])


def test_mean_field_net_in_the_other_configurations():
    assert problems.mean_field_net().objectives["train"].num_examples == 272
    assert problems.mean_field_net(num_examples=1).objectives["train"].num_examples == 1
    problem = problems.mean_field_net()
    params = problem.init(jax.random.key(0))
    run = train(
        problem.objectives["train"],
        optax.sgd(1.0),
        params,
        num_steps=40,
        record_every=40,
        batch_size=16,
        key=jax.random.key(1),
    )
    assert run.history["loss"][-1] < run.history["loss"][0]
    batched = problems.mean_field_net(batch_size=50).objectives["train"]
    assert float(batched(params)) == pytest.approx(float(problem.objectives["train"](params)), rel=1e-12)


def test_single_precision_stays_single():
    for problem in (problems.mean_field_net(4), problems.xor(), problems.lennard_jones(3), problems.thomson(3)):
        params = jax.tree.map(lambda x: x.astype(jnp.float32), problem.init(jax.random.key(0)))
        assert jax.eval_shape(problem.objectives["train"], params).dtype == jnp.float32
    # and a problem made in double precision serves in single
    problem = problems.mean_field_net(4)
    with jax.enable_x64(False):
        assert jax.jit(problem.objectives["train"])(problem.init(jax.random.key(0))).dtype == jnp.float32
