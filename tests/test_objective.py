"""Oracles for means over data: NumPy on all examples at once, gradients of linear and softmax regression."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from landscape import Objective, Problem

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(7, 3)), RNG.normal(size=7) + 2.0
LABELS = np.array([2, 0, 1, 3, 3, 1, 2])
W = RNG.normal(size=3) + 0.5
V = RNG.normal(size=(3, 4))


def squared_error(params, batch):
    residuals = batch["x"] @ params["w"] - batch["y"]
    return residuals**2, {"wrong": residuals > 0.7, "size": jnp.abs(residuals).astype(jnp.bfloat16)}


def mean_squared_error(params, batch):
    losses, metrics = squared_error(params, batch)
    return jnp.mean(losses), {"wrong": jnp.mean(metrics["wrong"])}


def cross_entropy(params, batch):
    logits = batch["x"] @ params["v"]
    return jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, batch["label"][:, None], 1)[:, 0]


def data():
    return {"x": jnp.asarray(X), "y": jnp.asarray(Y)}


def linear(**options):
    return Objective(squared_error, data(), has_aux=True, **options)


RESIDUALS = X @ W - Y


# ---------------------------------------------------------------------------------------------------- means


@jax.jit
def everything(objective, params):
    loss, gradient = objective.value_and_grad(params)
    return objective.evaluate(params), loss, gradient, jax.grad(objective)(params), objective(params)


@pytest.mark.parametrize("batch_size", [None, *range(1, 10)])
def test_loss_metrics_and_gradient_are_example_weighted_for_every_batch_size(x64, batch_size):
    values, loss, gradient, outside, mean = everything(linear(batch_size=batch_size), {"w": jnp.asarray(W)})
    np.testing.assert_allclose(values["loss"], np.mean(RESIDUALS**2), rtol=1e-14)
    np.testing.assert_allclose(values["wrong"], np.mean(RESIDUALS > 0.7), rtol=1e-6)
    np.testing.assert_allclose([loss, mean], np.mean(RESIDUALS**2), rtol=1e-14)
    np.testing.assert_allclose(gradient["w"], 2 * X.T @ RESIDUALS / 7, rtol=1e-13)
    np.testing.assert_allclose(outside["w"], 2 * X.T @ RESIDUALS / 7, rtol=1e-13)


@pytest.mark.parametrize("batch_size", [None, 2, 3, 7])
def test_scalar_mean_losses_give_the_same(x64, batch_size):
    objective = Objective(mean_squared_error, data(), has_aux=True, batch_size=batch_size)
    values = objective.evaluate({"w": jnp.asarray(W)})
    np.testing.assert_allclose(values["loss"], np.mean(RESIDUALS**2), rtol=1e-14)
    np.testing.assert_allclose(values["wrong"], np.mean(RESIDUALS > 0.7), rtol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 2, 3, 8])
def test_examples_keep_their_order(x64, batch_size):
    objective, params = linear(batch_size=batch_size), {"w": jnp.asarray(W)}
    np.testing.assert_allclose(objective.per_example(params), RESIDUALS**2, rtol=1e-13)
    examples = objective.examples(params)
    np.testing.assert_array_equal(examples["wrong"], RESIDUALS > 0.7)
    np.testing.assert_allclose(examples["size"], np.abs(RESIDUALS), rtol=2**-8)


def test_metrics_that_are_means_are_left_out_of_the_examples():
    objective = Objective(lambda p, b: (p * b, {"level": 3.5, "double": 2 * b}), jnp.arange(2.0, 6.0), has_aux=True)
    assert set(objective.examples(jnp.float32(1.5))) == {"loss", "double"}
    assert float(objective.evaluate(jnp.float32(1.5))["level"]) == 3.5


def test_booleans_integers_and_bfloat16_are_averaged_in_single_precision():
    # 257 ones and 43 zeros: in bfloat16 the sum 257 cannot be written, nor the mean 0.8567
    flags = jnp.arange(300) < 257

    def loss_fn(params, batch):
        return batch.astype(jnp.bfloat16) * params, {"flag": batch, "count": 3 * batch.astype(jnp.int32)}

    for batch_size in (None, 77):
        objective = Objective(loss_fn, flags, has_aux=True, batch_size=batch_size)
        values = jax.jit(Objective.evaluate)(objective, jnp.bfloat16(2.0))
        assert {v.dtype for v in values.values()} == {jnp.dtype(jnp.float32)}
        np.testing.assert_allclose(
            [values["loss"], values["flag"], values["count"]], np.array([2, 1, 3]) * 257 / 300, rtol=1e-6
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays(bad):
    values = Objective(lambda p, b: p * b, jnp.array([2.0, bad, 3.0]), batch_size=2)(jnp.float32(1.5))
    assert np.isnan(values) if np.isnan(bad) else np.isposinf(values)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_mean_of_any_pytree(x64, batch_size):
    objective = linear(batch_size=batch_size)
    second = objective.mean(lambda b: {"xx": b["x"].T @ b["x"] / len(b["x"]), "y": (jnp.mean(b["y"]),)})
    np.testing.assert_allclose(second["xx"], X.T @ X / 7, rtol=1e-13)
    np.testing.assert_allclose(second["y"][0], Y.mean(), rtol=1e-14)


# ------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("batch_size", [None, 4])
def test_softmax_regression_in_closed_form(x64, batch_size):
    objective = Objective(cross_entropy, {"x": jnp.asarray(X), "label": jnp.asarray(LABELS)}, batch_size=batch_size)
    logits, onehot = X @ V, np.eye(4)[LABELS]
    loss, gradient = jax.jit(Objective.value_and_grad)(objective, {"v": jnp.asarray(V)})
    np.testing.assert_allclose(loss, -np.mean(np.sum(onehot * scipy.special.log_softmax(logits, 1), 1)), rtol=1e-13)
    expected = X.T @ (scipy.special.softmax(logits, 1) - onehot) / 7
    np.testing.assert_allclose(gradient["v"], expected, rtol=1e-12, atol=1e-15)


def test_hessian_of_linear_regression_through_forward_over_reverse(x64):
    hessian = jax.jit(jax.jacfwd(lambda w: linear(batch_size=3).value_and_grad({"w": w})[1]["w"]))(jnp.asarray(W))
    np.testing.assert_allclose(hessian, 2 * X.T @ X / 7, rtol=1e-12)


# --------------------------------------------------------------------------------------------------- state


def normalised(params, batch, state):
    return params * (batch - state["mean"]) ** 2 / state["scale"]


def measure(params, batch, state):
    return {"mean": jnp.mean(batch) * params, "scale": jnp.mean(batch**2), "count": state["count"] + 1}


@pytest.mark.parametrize("batch_size", [None, 2, 3])
def test_state_is_used_and_recalibrated_with_example_weights(x64, batch_size):
    batch = jnp.asarray(Y)
    state = {"mean": jnp.float64(0.3), "scale": jnp.float32(2.5), "count": jnp.int32(11)}
    objective = Objective(normalised, batch, batch_size=batch_size, state=state, update_state=measure)
    np.testing.assert_allclose(objective(1.7), 1.7 * np.mean((Y - 0.3) ** 2) / 2.5, rtol=1e-6)
    new = jax.jit(Objective.recalibrated)(objective, 1.7)
    np.testing.assert_allclose(new.state["mean"], 1.7 * Y.mean(), rtol=1e-13)
    np.testing.assert_allclose(new.state["scale"], np.mean(Y**2), rtol=1e-6)
    assert (new.state["scale"].dtype, new.state["count"].dtype) == (jnp.float32, jnp.int32)
    assert int(new.state["count"]) == 11
    np.testing.assert_allclose(new(1.7), 1.7 * np.mean((Y - 1.7 * Y.mean()) ** 2) / np.mean(Y**2), rtol=1e-6)


def test_recalibrating_refuses():
    with pytest.raises(ValueError, match="recalibrating needs Objective\\(update_state="):
        linear().recalibrated({"w": jnp.asarray(W)})
    state = {"mean": jnp.float32(0.3)}
    objective = Objective(normalised, jnp.asarray(Y), state=state, update_state=lambda p, b, s: {"other": s["mean"]})
    with pytest.raises(ValueError, match=r"the result of update_state must have the structure of Objective.state"):
        objective.recalibrated(1.7)


# ---------------------------------------------------------------------------------------------------- data


def test_take_is_one_batch_of_some_examples(x64):
    part = linear(batch_size=2).take(jnp.array([5, 1, 1, 6]))
    assert (part.num_examples, part.batch_size, part.has_aux) == (4, None, True)
    np.testing.assert_allclose(part({"w": jnp.asarray(W)}), np.mean(RESIDUALS[[5, 1, 1, 6]] ** 2), rtol=1e-13)


@pytest.mark.parametrize("batch_size", [None, 5])
def test_plain_functions_need_no_data(batch_size):
    objective = Objective(lambda p, batch: jnp.sum((p - 3.0) ** 2), batch_size=batch_size)
    assert objective.num_examples is None
    assert float(objective(jnp.array([5.0, 2.5]))) == 4.25
    with pytest.raises(ValueError, match="needs the loss of each example, but loss_fn returns a scalar"):
        objective.per_example(jnp.array([5.0, 2.5]))


def test_new_data_of_the_same_shape_does_not_retrace():
    traces = []

    def loss_fn(params, batch):
        traces.append(batch)
        return params * batch

    evaluate = jax.jit(lambda objective, params: objective(params))
    objective = Objective(loss_fn, jnp.arange(2.0, 9.0), batch_size=3)
    np.testing.assert_allclose(evaluate(objective, 2.0), 10.0, rtol=1e-6)
    before = len(traces)
    again = dataclasses.replace(objective, data=jnp.arange(3.0, 10.0))
    np.testing.assert_allclose(evaluate(again, 2.0), 12.0, rtol=1e-6)
    assert len(traces) == before > 0


def test_vmap_over_objectives_and_over_params():
    data = jnp.array([[2.0, 4.0], [5.0, 9.0], [3.0, 3.5]])
    objective = Objective(lambda p, b: p * b, data, batch_size=1)
    np.testing.assert_allclose(jax.vmap(lambda o: o(2.0))(objective), [6.0, 14.0, 6.5])
    flat = Objective(lambda p, b: p * b, data[0], batch_size=1)
    np.testing.assert_allclose(jax.vmap(flat)(jnp.array([2.0, -3.0])), [6.0, -9.0])


@pytest.mark.parametrize("leaf", [jnp.ones(6), jnp.float32(3.0)])
def test_data_leaves_that_disagree_are_listed(leaf):
    with pytest.raises(ValueError, match=r"need the same leading axis \(examples\), got \{'x': 7, 'y': (6|None)\}"):
        Objective(squared_error, {"x": jnp.asarray(X), "y": leaf}, has_aux=True)({"w": W})


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("batch_size", "error", "said"),
    [(0, ValueError, "at least 1, got 0"), (-1, ValueError, "at least 1, got -1"), (2.0, TypeError, "an integer, got")],
)
def test_batch_size_must_be_a_positive_integer(batch_size, error, said):
    for call in (Objective.__call__, Objective.per_example):
        with pytest.raises(error, match=rf"Objective\.batch_size must be {said}"):
            call(linear(batch_size=batch_size), {"w": W})


def test_a_batch_size_of_numpy_widens_nothing(x64):
    objective = Objective(lambda p, b: p * b, jnp.arange(2.0, 9.0, dtype=jnp.float32), batch_size=np.int64(3))
    assert objective(jnp.float32(2.0)).dtype == jnp.float32
    assert float(objective(jnp.float32(2.0))) == pytest.approx(10.0, rel=1e-6)


def test_data_without_examples_are_refused():
    with pytest.raises(ValueError, match=r"Objective\.data holds no examples, .* \{'x': 0, 'y': 0\}"):
        Objective(squared_error, {"x": jnp.zeros((0, 3)), "y": jnp.zeros(0)}, has_aux=True)({"w": W})


@pytest.mark.parametrize(
    ("returned", "has_aux", "error", "said"),
    [
        (lambda b: b[:-1], False, ValueError, r"shape \(7,\), one number per example, .* loss, got shape \(6,\)"),
        (lambda b: b[:, None], False, ValueError, r"shape \(7,\), one number per example, .* got shape \(7, 1\)"),
        (lambda b: "high", False, TypeError, "must return real numbers, got str 'high' as its loss"),
        (lambda b: None, False, TypeError, "must return real numbers, got None as its loss: is a `return` missing"),
        (lambda b: [b], False, TypeError, "must return real numbers, got list"),
        (lambda b: b * 2j, False, TypeError, r"real numbers, got complex complex64\[7\] .*take jnp.abs"),
        (lambda b: (b, {"error": b}), False, TypeError, "returned a tuple as its loss; pass has_aux=True"),
        (lambda b: b, True, TypeError, r"with has_aux=True, loss_fn must return \(loss, \{name: metric\}\), got"),
        (lambda b: (b, b), True, TypeError, "with has_aux=True, loss_fn must return"),
        (lambda b: (b, {"loss": b}), True, ValueError, "a metric cannot be called 'loss'"),
        (lambda b: (b, {"error": b[1:]}), True, ValueError, r"as its error, got shape \(6,\)"),
        (lambda b: (b, {"error": "x"}), True, TypeError, "got str 'x' as its error"),
    ],
)
def test_what_loss_fn_may_return(returned, has_aux, error, said):
    with pytest.raises(error, match=said):
        Objective(lambda params, batch: returned(batch), jnp.arange(2.0, 9.0), has_aux=has_aux)(0.5)


def test_without_data_only_a_scalar_will_do():
    with pytest.raises(ValueError, match=r"must return a scalar as its loss, got shape \(2,\)"):
        Objective(lambda p, _: p)(jnp.array([2.0, 3.0]))


def test_problem_check_names_the_field():
    good = Problem(init=lambda key: key, objectives={"train": linear(), "test": linear()})
    good.check()
    with pytest.raises(TypeError, match="Problem.init must be a function of a random key, got int"):
        dataclasses.replace(good, init=3).check()
    with pytest.raises(ValueError, match=r"must be a dict with the key 'train', got \['test'\]"):
        dataclasses.replace(good, objectives={"test": linear()}).check()
    with pytest.raises(ValueError, match="must be a dict with the key 'train', got Objective"):
        dataclasses.replace(good, objectives=linear()).check()
    with pytest.raises(TypeError, match=r"Problem.objectives\['test'\] must be a landscape.Objective, got function"):
        dataclasses.replace(good, objectives={"train": linear(), "test": squared_error}).check()
