"""Gauss-Newton, Fisher and empirical Fisher: closed forms, enumeration of labels, ranks, and one batch at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from landscape import Objective, curvature

KEY = jax.random.key(5)
NUM, INPUTS, CLASSES = 23, 4, 3


def examples(num=NUM):
    rng = np.random.default_rng(2)
    return {
        "x": jnp.asarray(rng.normal(size=(num, INPUTS))),
        "y": jnp.asarray(rng.integers(0, CLASSES, num)),
        "target": jnp.asarray(rng.normal(size=(num, CLASSES))),
    }


def net(seed=4, hidden=5):
    rng = np.random.default_rng(seed)
    return {
        "in": jnp.asarray(rng.normal(size=(INPUTS, hidden))),
        "out": jnp.asarray(rng.normal(size=(hidden, CLASSES))),
    }


def predict(params, batch):
    return jnp.tanh(batch["x"] @ params["in"]) @ params["out"]


def linear(params, batch):
    return batch["x"] @ params["w"]


def cross_entropy(outputs, batch):
    return -jax.nn.log_softmax(outputs)[jnp.arange(len(outputs)), batch["y"]]


def half_square(outputs, batch):
    return 0.5 * jnp.sum((outputs - batch["target"]) ** 2, axis=1)


def jacobians(params, data):
    """Of each example's outputs by reverse mode, in NumPy: (n, c, parameters)."""
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacrev(lambda w: predict(unravel(w), data))(flat)
    return np.asarray(jacobian)


def output_hessians(data, params):
    """diag p - p p' of each example."""
    p = np.asarray(jax.nn.softmax(predict(params, data)))
    return np.stack([np.diag(q) - np.outer(q, q) for q in p])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [7, pytest.param(None, marks=pytest.mark.slow)])
def test_gauss_newton_and_fisher_of_a_net_are_the_sandwich_of_its_jacobian(batch_size):
    data, params = examples(), net()
    j = jacobians(params, data)
    soft = np.einsum("nap,nab,nbq->pq", j, output_hessians(data, params), j) / NUM
    square = np.einsum("nap,naq->pq", j, j) / NUM
    operators = {
        curvature.GaussNewton(predict, cross_entropy, data, batch_size): soft,
        curvature.Fisher(predict, data, "categorical", batch_size): soft,
        curvature.GaussNewton(predict, half_square, data, batch_size): square,
        curvature.Fisher(predict, data, "gaussian", batch_size): square,
    }
    for operator, expected in operators.items():
        np.testing.assert_allclose(curvature.hessian(operator, params), expected, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_fisher_is_the_mean_outer_product_of_gradients_over_labels_drawn_from_the_model():
    data, params = examples(), net()
    flat, unravel = ravel_pytree(params)
    p = np.asarray(jax.nn.softmax(predict(params, data)))
    expected = np.zeros((len(flat), len(flat)))
    for label in range(CLASSES):  # all labels, weighted by their probability
        labelled = data | {"y": jnp.full(NUM, label)}
        g = np.asarray(jax.jacrev(lambda w, d=labelled: cross_entropy(predict(unravel(w), d), d))(flat))
        expected += np.einsum("n,np,nq->pq", p[:, label], g, g) / NUM
    found = curvature.hessian(curvature.Fisher(predict, data), params)
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [None, 7])
def test_empirical_fisher_is_the_mean_outer_product_of_per_example_gradients(batch_size):
    data, params = examples(), net()
    flat, unravel = ravel_pytree(params)
    g = np.asarray(jax.jacrev(lambda w: cross_entropy(predict(unravel(w), data), data))(flat))
    objective = Objective(lambda p, b: cross_entropy(predict(p, b), b), data, batch_size=batch_size)
    found = curvature.hessian(curvature.EmpiricalFisher(objective), params)
    np.testing.assert_allclose(found, g.T @ g / NUM, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", [cross_entropy, half_square])
def test_of_a_linear_model_gauss_newton_is_the_hessian(loss):
    data, params = examples(), {"w": jnp.asarray(np.random.default_rng(8).normal(size=(INPUTS, CLASSES)))}
    operator = curvature.GaussNewton(linear, loss, data)
    x = np.asarray(data["x"])
    p = np.asarray(jax.nn.softmax(linear(params, data)))
    inner = [np.diag(q) - np.outer(q, q) if loss is cross_entropy else np.eye(CLASSES) for q in p]
    expected = np.mean([np.kron(np.outer(a, a), c) for a, c in zip(x, inner)], axis=0)
    np.testing.assert_allclose(curvature.hessian(operator, params), expected, atol=1e-14)
    np.testing.assert_allclose(curvature.hessian(operator.objective, params), expected, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_the_rank_of_gauss_newton_is_at_most_examples_times_classes():
    data, params = examples(num=4), net(hidden=9)  # 63 parameters
    values = {
        loss: np.linalg.eigvalsh(curvature.hessian(curvature.GaussNewton(predict, loss, data), params))
        for loss in (cross_entropy, half_square)
    }
    assert np.sum(values[half_square] > 1e-10) == 4 * CLASSES
    assert np.sum(values[cross_entropy] > 1e-10) == 4 * (CLASSES - 1)  # adding one number to all logits changes nothing
    assert min(v.min() for v in values.values()) > -1e-13


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_eigenpairs_and_trace_take_operators():
    data, params = examples(), net()
    operator = curvature.GaussNewton(predict, cross_entropy, data, batch_size=10)
    dense = np.linalg.eigvalsh(curvature.hessian(operator, params))[::-1]
    np.testing.assert_allclose(curvature.eigenpairs(KEY, operator, params, 4).values, dense[:4], atol=1e-12)
    mean, sem = curvature.trace(KEY, operator, params)
    assert float(mean) == pytest.approx(dense.sum(), rel=1e-12)  # 35 parameters: exactly
    assert float(sem) == 0


def test_other_data_share_the_program_of_the_objective():
    operators = [curvature.GaussNewton(predict, half_square, examples(num)) for num in (5, 9)]
    first, second = (operator.objective.loss_fn for operator in operators)
    assert first == second
    assert hash(first) == hash(second)
    assert first != curvature.GaussNewton(predict, cross_entropy, examples()).objective.loss_fn


def test_products_are_taken_at_the_highest_precision():
    data, params = examples(), net()
    for operator in (curvature.GaussNewton(predict, half_square, data), curvature.Fisher(predict, data, "gaussian")):
        lowered = jax.jit(curvature.product).lower(operator, params, params).as_text()
        products = [line for line in lowered.splitlines() if "dot_general" in line]
        assert products
        assert all("[HIGHEST, HIGHEST]" in line for line in products)


def test_a_product_takes_the_memory_of_one_batch():
    def temporaries(batch_size):
        data = {"x": jnp.ones((4096, INPUTS)), "y": jnp.zeros(4096, int)}
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), net(hidden=40))
        operator = curvature.GaussNewton(predict, cross_entropy, data, batch_size)
        program = jax.jit(curvature.product).lower(operator, params, params).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(64) < temporaries(None) / 8


def test_errors():
    data, params = examples(), net()
    with pytest.raises(TypeError, match="or pass a GaussNewton, Fisher or EmpiricalFisher"):
        curvature.product(predict, params, params)
    with pytest.raises(ValueError, match=r"vector: missing leaves|vector must have the structure of params"):
        curvature.product(curvature.Fisher(predict, data), params, {"in": params["in"]})
    with pytest.raises(ValueError, match="family must be 'categorical' or 'gaussian', got 'poisson'"):
        curvature.product(curvature.Fisher(predict, data, "poisson"), params, params)
    with pytest.raises(TypeError, match="EmpiricalFisher.objective must be a landscape.Objective, got function"):
        curvature.product(curvature.EmpiricalFisher(predict), params, params)
    mean_only = Objective(lambda p, b: jnp.mean(cross_entropy(predict(p, b), b)), data)
    with pytest.raises(ValueError, match="this needs the loss of each example"):
        curvature.product(curvature.EmpiricalFisher(mean_only), params, params)


def test_losses_of_each_class_are_refused_and_their_mean_is_taken_as_it_is():
    data, params = examples(), net()

    def by_class(outputs, batch):
        return 0.5 * (outputs - batch["target"]) ** 2

    with pytest.raises(
        ValueError, match=rf"shape \({NUM},\), one number per example, .* got shape \({NUM}, {CLASSES}\)"
    ):
        curvature.product(curvature.GaussNewton(predict, by_class, data), params, params)
    mean = curvature.GaussNewton(predict, lambda z, b: jnp.mean(by_class(z, b)), data)
    summed = curvature.GaussNewton(predict, half_square, data)
    found, whole = (curvature.product(operator, params, params)["out"] for operator in (mean, summed))
    np.testing.assert_allclose(CLASSES * found, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", [lambda p, b: predict(p, b)[:, 0], lambda p, b: predict(p, b)[:, :1]])
def test_a_categorical_fisher_refuses_what_are_no_logits(outputs):
    data, params = examples(), net()
    with pytest.raises(ValueError, match=rf"needs logits \(n, c\), two classes two logits, got float32\[{NUM}"):
        curvature.product(curvature.Fisher(outputs, data), params, params)


# ------------------------------------------------------------------------------------------------- no derivative


@jax.custom_vjp
def _backwards_only(x):
    return x**2


_backwards_only.defvjp(lambda x: (x**2, x), lambda x, up: (2 * x * up,))
ROWS = np.array([[0.5, 2.0], [-1.5, 0.25], [3.0, -0.75]], np.float32)


def _until(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 0.5 * c[1]), (0, x))[1]


def _operators(inner):
    def loss(p, batch):
        return jnp.sum(inner(batch * p), axis=1)

    data = jnp.asarray(ROWS)
    return {
        "GaussNewton": curvature.GaussNewton(lambda p, x: inner(x * p), lambda z, x: jnp.sum(z**2, axis=1), data),
        "Fisher": curvature.Fisher(lambda p, x: inner(x * p), data),
        "EmpiricalFisher": curvature.EmpiricalFisher(Objective(loss, data)),
        "the Hessian": Objective(loss, data),
    }


@pytest.mark.parametrize("inner", [_backwards_only, _until], ids=["custom_vjp", "while_loop"])
@pytest.mark.parametrize("name", ["GaussNewton", "Fisher", "EmpiricalFisher"])
def test_operators_that_cannot_be_differentiated_are_named(name, inner):
    at = jnp.array([0.5, -0.25])
    operator = _operators(inner)[name]
    words = rf"products of {name} need derivatives.*and JAX has none: .*What helps: .*jax.custom_jvp"
    with pytest.raises(ValueError, match=words):
        curvature.hvp(operator, at, at)
    with pytest.raises(ValueError, match=words):
        curvature.eigenpairs(jax.random.key(2), operator, at, 1)


def test_a_hessian_over_a_loop_of_no_known_length_is_refused_by_name():
    at = jnp.array([0.5, -0.25])
    words = r"the Hessian needs second derivatives.*JAX has none: Reverse-mode.*jax.lax.scan"
    with pytest.raises(ValueError, match=words):
        curvature.hvp(_operators(_until)["the Hessian"], at, at)


def test_a_hessian_over_a_custom_vjp_is_that_of_its_rule():
    at = jnp.array([0.5, -0.25])
    found = curvature.hessian(_operators(_backwards_only)["the Hessian"], at)
    np.testing.assert_allclose(found, np.diag(2 * np.mean(ROWS**2, axis=0)), rtol=1e-6)


def test_what_the_loss_itself_raises_is_not_called_a_missing_derivative():
    def broken(p, batch):
        raise ValueError("my own words")

    with pytest.raises(ValueError, match="^my own words"):
        curvature.hvp(Objective(broken), jnp.ones(2), jnp.ones(2))
