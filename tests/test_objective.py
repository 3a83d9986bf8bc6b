"""Oracles for means over data: NumPy on all examples at once, gradients of linear and softmax regression."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import landscape as ls
from landscape import Objective, Problem
from landscape import objective as module

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


# ------------------------------------------------------------------------- what it is given, and what it may be given


@pytest.mark.parametrize("batch_size", [None, 3, 7])
def test_loss_fn_is_given_jax_arrays_whatever_comes_in(batch_size):
    seen = []

    def loss_fn(params, batch, state):
        seen.append(all(isinstance(x, jax.Array) for x in (params, batch["x"], state)))
        return batch["x"].at[:, 0].set(0.0) @ params + state  # NumPy has no `at`

    objective = Objective(loss_fn, {"x": X}, batch_size=batch_size, state=np.float64(1.5))
    expected = X[:, 1:] @ W[1:] + 1.5
    np.testing.assert_allclose(objective(W), expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(objective.per_example(W), expected, rtol=1e-4, atol=1e-6)
    assert objective.value_and_grad(W)[1].shape == (3,)
    assert all(seen)


def test_update_state_is_given_jax_arrays():
    def update(params, batch, state):
        return {"mean": batch.at[0].set(0.0).sum() * params + 0 * state["mean"]}

    objective = Objective(normalised, Y, state={"mean": np.float32(0.5)}, update_state=update)
    np.testing.assert_allclose(objective.recalibrated(2.0).state["mean"], 2 * Y[1:].sum(), rtol=1e-5)


class Loader:
    """Gives batches of pairs, like a DataLoader of PyTorch."""

    def __iter__(self):
        return iter([[X[:4], Y[:4]], [X[4:], Y[4:]]])


class Tensor:
    """Looks like a tensor of PyTorch."""

    shape, ndim, dtype = (7,), 1, np.dtype("float32")

    def __array__(self, *_, **__):
        return Y

    def numpy(self):
        return Y


Tensor.__module__ = "torch"


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        ((x for x in [1.5]), TypeError, r"got generator .* data = jax.tree.map\(lambda \*parts: np.concatenate"),
        (Loader(), TypeError, r"Objective.data must be an array of NumPy or JAX, got Loader .*, \*batches\)"),
        ({"x": X, "y": Tensor()}, TypeError, r"data.y must be .*a torch tensor: pass tensor.detach\(\).cpu\(\).numpy"),
        (["a", "b"], TypeError, "Objective.data.0 .* got str 'a'; encode text as numbers"),
        (np.array(["a", "b"]), TypeError, "Objective.data must hold numbers, got an array of <U1: encode text"),
        (np.array([[1], [1, 2]], object), TypeError, "got an array of object: .* pad ragged rows"),
        ([1.5, 2.5], ValueError, r"the same leading axis .*'1': None\}; make arrays of numbers"),
        (object(), TypeError, "must be an array of NumPy or JAX, got object"),
        (lambda: 3, TypeError, "must be an array of NumPy or JAX, got function"),
    ],
)
def test_data_that_are_no_arrays_come_with_advice(bad, error, said):
    objective = Objective(lambda p, b: p, bad)
    with pytest.raises(error, match=said):
        objective(0.5)
    with pytest.raises(error, match=said):
        ls.train(objective, None, 0.5, num_steps=1)


def test_the_advice_for_batches_can_be_followed():
    first, second = jax.tree.map(lambda *parts: np.concatenate(parts), *Loader())
    np.testing.assert_array_equal(first, X)
    np.testing.assert_array_equal(second, Y)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"loss_fn": None}, TypeError, r"loss_fn must be a function, called as loss_fn\(params, batch\), got NoneType"),
        ({"loss_fn": lambda p: p}, TypeError, r"called as loss_fn\(params, batch\), but it takes \(p\): too many"),
        ({"loss_fn": lambda p, b, s: p}, TypeError, r"but it takes \(p, b, s\): missing a required argument: 's'"),
        ({"state": 1.5}, TypeError, r"called as loss_fn\(params, batch, state\), but it takes \(p, b\)"),
        ({"has_aux": "yes"}, TypeError, "objective.has_aux must be True or False, got str 'yes'"),
        ({"update_state": 3}, TypeError, r"objective.update_state must be a function, .*got int 3"),
        ({"update_state": lambda p: p}, TypeError, "objective.update_state is called as update_state"),
        ({"batch_size": "all"}, TypeError, "Objective.batch_size must be an integer, got str 'all'"),
    ],
)
def test_fields_are_checked_at_the_entry(fields, error, said):
    objective = Objective(**{"loss_fn": lambda p, b: b * p, "data": Y} | fields)
    for call in (
        lambda: ls.train(objective, None, 0.5, num_steps=1),
        lambda: ls.curvature.hvp(objective, jnp.float32(0.5), jnp.float32(1.0)),
        lambda: Problem(init=lambda key: key, objectives={"train": objective}).check(),
    ):
        with pytest.raises(error, match=said.replace("objective.", "")):
            call()


def test_calls_that_cannot_be():
    objective = Objective(lambda p, b: b * p, Y)
    with pytest.raises(TypeError, match=r"fn must be a function, called as fn\(batch\), got int 3"):
        objective.mean(3)
    with pytest.raises(TypeError, match="indices must be an array of integers, got float64"):
        objective.take(np.array([0.5]))
    with pytest.raises(ValueError, match="has no data to take examples from"):
        Objective(lambda p, b: p).take(jnp.array([0]))
    with pytest.raises(TypeError, match=r"metrics must be named by strings, got \[1\]"):
        Objective(lambda p, b: (b, {1: b}), Y, has_aux=True)(0.5)


# --------------------------------------------------------------------------------------------- callables with state


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Compares arrays, and cannot be hashed."""

    scale: jax.Array

    def __call__(self, params, batch):
        return jnp.sum(self.scale) * batch * params


@dataclasses.dataclass
class Changing:
    """Has an `__eq__` and therefore no hash."""

    scale: float

    def __call__(self, params, batch):
        return self.scale * batch * params


class Alike:
    """Says that it is equal to whatever comes."""

    __hash__ = None

    def __init__(self, scale):
        self.scale = scale

    def __eq__(self, other):
        return True

    def __call__(self, params, batch):
        return jnp.sum(jnp.asarray(self.scale)) * batch * params


class Elementwise(Alike):
    """Compares like an array, and can be hashed."""

    def __hash__(self):
        return 3

    def __eq__(self, other):
        return self.scale == other.scale


def method_of_equinox(scale):
    import equinox as eqx

    class Model(eqx.Module):
        scale: jax.Array

        def loss(self, params, batch):
            return jnp.sum(self.scale) * batch * params

    return Model(scale).loss


@pytest.mark.parametrize("kind", [Frozen, Changing, Alike, Elementwise, method_of_equinox])
def test_a_second_callable_with_other_arrays_is_another_one(kind):
    mean = jax.jit(lambda objective: objective(2.0))
    for size in (0.25, 1.5, 0.25):
        scale = size if kind is Changing else jnp.array([size, size])
        expected = 2.0 * Y.mean() * (size if kind is Changing else 2 * size)
        objective = Objective(kind(scale), jnp.asarray(Y))
        np.testing.assert_allclose(mean(objective), expected, rtol=1e-5)
        assert objective.loss_fn is jax.tree.map(lambda x: x, objective).loss_fn


def test_callables_of_the_same_parts_share_a_program():
    traces, scale = [], jnp.array([0.5, 2.0])

    @dataclasses.dataclass(frozen=True)
    class Loss:
        scale: jax.Array

        def __call__(self, params, batch):
            traces.append(1)
            return jnp.sum(self.scale) * batch * params

    mean = jax.jit(lambda objective: objective(2.0))
    for _ in range(3):
        mean(Objective(Loss(scale), jnp.asarray(Y)))
    assert len(traces) == 1
    mean(Objective(Loss(jnp.array([0.5, 2.5])), jnp.asarray(Y)))
    assert len(traces) == 2


def test_a_changed_dataclass_is_another_one():
    loss, mean = Changing(0.5), jax.jit(lambda objective: objective(2.0))
    np.testing.assert_allclose(mean(Objective(loss, jnp.asarray(Y))), Y.mean(), rtol=1e-5)
    loss.scale = 1.5
    np.testing.assert_allclose(mean(Objective(loss, jnp.asarray(Y))), 3 * Y.mean(), rtol=1e-5)


# ------------------------------------------------------------------------------------------ what makes it a mean

ROWS = {"x": RNG.normal(size=(30, 3)).astype(np.float32), "y": RNG.normal(size=30).astype(np.float32)}
ROWS["mask"] = (RNG.random((30, 4)) < 0.6).astype(np.float32)
AT = jnp.array([0.3, -1.25, 0.75])


def residuals(params, batch):
    return (batch["x"] @ params - batch["y"]) ** 2


def batch_normed(params, batch):
    z = batch["x"] @ params
    return ((z - z.mean()) / jnp.sqrt(z.var() + 1e-5) - batch["y"]) ** 2


def recurrent(params, batch):
    return jax.lax.scan(lambda h, row: (0.9 * h + row @ params, (h - row[0]) ** 2), 0.0, batch["x"])[1]


def masked(params, batch):
    return jnp.sum(residuals(params, batch)[:, None] * batch["mask"]) / jnp.sum(batch["mask"])


def through_moments(params, batch):
    """A mean over examples, by another road: it is a small difference of large numbers."""
    x, y = batch["x"], batch["y"]
    return params @ (x.T @ x / len(y)) @ params - 2 * params @ (x.T @ y) / len(y) + jnp.mean(y**2)


LOSSES = {
    "each": residuals,
    "their mean": lambda p, b: jnp.mean(residuals(p, b)),
    "moments": through_moments,
    "bfloat16": lambda p, b: residuals(p.astype(jnp.bfloat16), jax.tree.map(lambda x: x.astype(jnp.bfloat16), b)),
    "bfloat16 mean": lambda p, b: jnp.mean(LOSSES["bfloat16"](p, b)).astype(jnp.float32),
    "batch norm": batch_normed,
    "its mean": lambda p, b: jnp.mean(batch_normed(p, b)),
    "its bfloat16": lambda p, b: batch_normed(p.astype(jnp.bfloat16), b).astype(jnp.bfloat16),
    "recurrent": recurrent,
    "contrastive": lambda p, b: jax.nn.logsumexp(jnp.outer(b["x"] @ p, b["y"]), axis=1),
    "root": lambda p, b: jnp.sqrt(jnp.mean(residuals(p, b))),
    "masked": masked,
    "median": lambda p, b: jnp.median(residuals(p, b)),
    "maximum": lambda p, b: jnp.max(residuals(p, b)),
    "sum": lambda p, b: jnp.sum(residuals(p, b)),
    "each over n": lambda p, b: residuals(p, b) / len(b["y"]),
}
DIVIDE = {"each", "their mean", "moments", "bfloat16", "bfloat16 mean"}


@pytest.mark.parametrize("name", LOSSES)
def test_a_mean_that_depends_on_the_batch_size_is_noticed(name):
    loss = LOSSES[name]
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 10], ROWS) for i in range(0, 30, 10)]
    by_tens = np.mean([np.mean(np.asarray(loss(AT, part), np.float64)) for part in parts])
    at_once = np.mean(np.asarray(loss(AT, ROWS), np.float64))
    assert (abs(by_tens / at_once - 1) < (1e-2 if "bfloat16" in name else 1e-5)) == (name in DIVIDE)
    objective = Objective(loss, ROWS, batch_size=10)
    if name in DIVIDE:
        module.check_means(objective, lambda: AT)
    else:
        with pytest.warns(UserWarning, match="objective: the loss of .* so the answer depends on batch_size=10; leave"):
            module.check_means(objective, lambda: AT)
    module.check_means(dataclasses.replace(objective, batch_size=None), lambda: AT)  # as documented: any function


def test_tiny_losses_of_large_logits_are_no_alarm():
    def loss_fn(params, batch):
        logits = jnp.stack([batch["x"] @ params, batch["y"]], axis=1) * 40.0
        losses = jax.nn.logsumexp(logits, axis=1) - jnp.max(logits, axis=1)  # most are at rounding, or 0
        return losses, {"wrong": losses > 0.5}

    for size in (8, 15):
        module.check_means(Objective(loss_fn, ROWS, has_aux=True, batch_size=size), lambda: AT)


def test_metrics_are_looked_at_too_and_what_divides_is_looked_at_once(monkeypatch):
    def loss_fn(params, batch):
        losses = residuals(params, batch)
        return losses, {"perplexity": jnp.exp(jnp.mean(losses))}

    with pytest.warns(UserWarning, match="the perplexity of an example depends on the others"):
        module.check_means(Objective(loss_fn, ROWS, has_aux=True, batch_size=10), lambda: AT)
    module.check_means(Objective(residuals, ROWS, batch_size=5), lambda: AT)
    monkeypatch.setattr("landscape.objective._division._compare", lambda *_: pytest.fail("looked at twice"))
    module.check_means(Objective(residuals, ROWS, batch_size=5), lambda: AT)


@pytest.mark.parametrize(
    "call",
    [
        lambda o: ls.train(o, optax.sgd(0.1), AT, num_steps=1),
        lambda o: ls.train(Objective(residuals, ROWS), optax.sgd(0.1), AT, num_steps=1, track={"test": o}),
        lambda o: ls.curvature.hvp(o, AT, AT),
        lambda o: ls.LossSurface(ls.Subspace(AT, jnp.eye(3)[:2]), {"train": o}).check_grid(ls.Grid.square(1.0, 3)),
        lambda o: ls.BasinMap(None, o, optax.sgd(0.1), 5).check_grid(ls.Grid.of(a=[0.5], b=[1.0], c=[2.0])),
        lambda o: ls.TrainabilityMap(lambda c: (optax.sgd(c[0]), AT), o, 5).check_grid(ls.Grid.of(rate=[0.1])),
    ],
)
def test_every_entry_looks(call):
    with pytest.warns(UserWarning, match=r"depends on the others of its batch.*'Batches as examples' in docs"):
        call(Objective(batch_normed, ROWS, batch_size=10))


def test_traced_objectives_are_let_pass():
    objective = Objective(batch_normed, ROWS, batch_size=10)
    assert jax.jit(ls.curvature.hvp)(objective, AT, AT).shape == (3,)


def test_a_standard_error_over_examples_that_interact_is_refused():
    surface = ls.LossSurface(ls.Subspace(AT, jnp.eye(3)[:2]), Objective(batch_normed, ROWS), ("sem",))
    with pytest.raises(ValueError, match="depends on the others of its batch.* no independent examples to measure"):
        surface.check_grid(ls.Grid.square(1.0, 3))
    with pytest.raises(ValueError, match=r"EmpiricalFisher.objective: .* no independent examples"):
        ls.curvature.product(ls.curvature.EmpiricalFisher(Objective(batch_normed, ROWS)), AT, AT)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_batches_as_examples_have_a_mean_and_a_standard_error(batch_size):
    batches = jax.tree.map(lambda x: x.reshape(6, 5, *x.shape[1:]), ROWS)

    def loss_fn(params, batches):
        return jax.lax.map(lambda batch: jnp.mean(batch_normed(params, batch)), batches)

    objective = Objective(loss_fn, batches, batch_size=batch_size)
    surface = ls.LossSurface(ls.Subspace(AT, jnp.eye(3)[:1]), objective, ("sem",))
    result = ls.sweep(surface, ls.Grid.of(a=[0.0]), progress=False, batch=1)
    x, y = np.asarray(batches["x"], np.float64), batches["y"]
    z = x @ np.asarray(AT, np.float64)
    z = (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
    each = np.mean((z - y) ** 2, axis=1)
    np.testing.assert_allclose(result["loss"], [each.mean()], rtol=1e-5)
    np.testing.assert_allclose(result["loss_sem"], [each.std(ddof=1) / np.sqrt(6)], rtol=1e-4)


def test_one_number_a_class_is_not_one_an_example():
    def loss_fn(params, batch):
        return batch * params, {"per_class": jnp.arange(7.0) * params}

    objective = Objective(loss_fn, jnp.asarray(Y, jnp.float32), has_aux=True)
    with pytest.raises(
        ValueError, match="returns 7 numbers as its per_class for 7 examples and for 3: one for each cl"
    ):
        ls.train(objective, optax.sgd(0.1), jnp.float32(0.5), num_steps=1)


def test_outputs_are_joined_unless_one_would_be_lost():
    assert module.joined({"a": 1}, {"b": 2}, {}) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="two outputs are called 'b'; rename a metric or an objective"):
        module.joined({"a": 1, "b": 1}, {"b": 2})
