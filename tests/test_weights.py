"""Weighted means: token losses, class weights, and losses that do not divide into examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape.objective import drawn

NUM, WIDTH, CLASSES, LENGTH = 23, 4, 3, 5
SIZES = [1, 7, None]


@pytest.fixture(scope="module", autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def tokens():
    """Sentences of 0 to 5 tokens, padded."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, LENGTH + 1, NUM)
    lengths[:9] = 0  # whole batches of one weigh nothing, and so does the first batch of seven
    mask = np.arange(LENGTH) < lengths[:, None]
    return {"x": rng.normal(size=(NUM, LENGTH, WIDTH)), "y": rng.integers(0, CLASSES, (NUM, LENGTH)), "mask": mask}


@pytest.fixture(scope="module")
def params():
    return np.random.default_rng(6).normal(size=(WIDTH, CLASSES)) * 0.7


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def token_losses(params, batch):
    logits = batch["x"] @ params
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][..., None], axis=-1)[..., 0]
    right = jnp.argmax(logits, -1) == batch["y"]
    return -logp, right


def sentence_loss(params, batch):
    """The mean over the tokens of each sentence."""
    losses, right = token_losses(params, batch)
    count = jnp.maximum(batch["mask"].sum(1), 1)
    return (losses * batch["mask"]).sum(1) / count, {"accuracy": (right * batch["mask"]).sum(1) / count}


def batch_loss(params, batch):
    """The mean over the tokens of the batch, as most training code has it."""
    losses, right = token_losses(params, batch)
    count = batch["mask"].sum()
    return (losses * batch["mask"]).sum() / count, {"accuracy": (right * batch["mask"]).sum() / count}


def num_tokens(batch):
    return batch["mask"].sum(axis=1)


def over_all_tokens(tokens, params):
    """Loss, accuracy and gradient by NumPy, over the tokens that are there."""
    x, y = tokens["x"][tokens["mask"]], tokens["y"][tokens["mask"]]
    logp = log_softmax(x @ params)
    gradient = x.T @ (np.exp(logp) - np.eye(CLASSES)[y]) / len(y)
    return -logp[np.arange(len(y)), y].mean(), (logp.argmax(1) == y).mean(), gradient


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("loss_fn", [sentence_loss, batch_loss])
def test_a_loss_over_tokens_is_that_over_all_tokens(tokens, params, loss_fn, size):
    objective = ls.Objective(loss_fn, tokens, has_aux=True, batch_size=size, weight_fn=num_tokens)
    loss, accuracy, gradient = over_all_tokens(tokens, params)
    measured = objective.evaluate(params)
    assert float(objective(params)) == pytest.approx(loss, rel=1e-13)
    assert float(measured["loss"]) == pytest.approx(loss, rel=1e-13)
    assert float(measured["accuracy"]) == pytest.approx(accuracy, rel=1e-13)
    assert np.allclose(objective.value_and_grad(params)[1], gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_a_surface_with_class_weights(size):
    rng = np.random.default_rng(7)
    x, y, of_class = rng.normal(size=(NUM, WIDTH)), rng.integers(0, CLASSES, NUM), np.array([0.4, 2.5, 7.0])
    objective = ls.Objective(
        lambda p, b: -jnp.take_along_axis(jax.nn.log_softmax(b["x"] @ p), b["y"][:, None], axis=1)[:, 0],
        {"x": x, "y": y},
        batch_size=size,
        weight_fn=lambda b: jnp.asarray(of_class)[b["y"]],
    )
    origin, along = rng.normal(size=(2, WIDTH, CLASSES))
    fn = ls.LossSurface(
        ls.Subspace(jnp.asarray(origin), jnp.asarray(along)[None]), objective, outputs=("sem", "gradient")
    )
    got = ls.sweep(fn, ls.Grid.of(t=[-0.7, 0.3, 1.9]), batch=1, progress=False)
    w = of_class[y]
    for i, t in enumerate([-0.7, 0.3, 1.9]):
        losses = -log_softmax(x @ (origin + t * along))[np.arange(NUM), y]
        mean = np.sum(w * losses) / np.sum(w)
        slopes = x.T @ ((np.exp(log_softmax(x @ (origin + t * along))) - np.eye(CLASSES)[y]) * w[:, None]) / w.sum()
        sem = np.sqrt(NUM / (NUM - 1) * np.sum(w**2 * (losses - mean) ** 2)) / w.sum()
        assert got["loss"][i] == pytest.approx(mean, rel=1e-13)
        assert got["gradient"][i, 0] == pytest.approx(np.sum(slopes * along), rel=1e-11)
        assert got["loss_sem"][i] == pytest.approx(sem, rel=1e-12)


def test_the_standard_error_is_that_of_the_bootstrap():
    """Examples are drawn together with their weights. 4,000 resamples know a standard deviation to 1.1 %."""
    rng = np.random.default_rng(8)
    w = rng.integers(1, 40, 500).astype(float)
    losses = rng.gamma(2.0, 1.5, 500) + 0.05 * w  # longer ones are harder
    objective = ls.Objective(lambda p, b: b["l"] + p, {"l": losses, "w": w}, weight_fn=lambda b: b["w"])
    fn = ls.LossSurface(lambda c: c[0], objective, outputs=("sem",))
    sem = ls.sweep(fn, ls.Grid.of(t=[0.5]), batch=1, progress=False)["loss_sem"][0]
    index = rng.integers(0, 500, (4000, 500))
    resampled = np.sum(w[index] * losses[index], axis=1) / np.sum(w[index], axis=1)
    assert sem == pytest.approx(np.std(resampled), rel=0.04)
    naive = np.std(losses, ddof=1) / 500**0.5
    assert abs(naive / np.std(resampled) - 1) > 0.04  # so it would not pass


@pytest.mark.parametrize("size", SIZES)
def test_curvature_follows_the_weights(size):
    """Least squares and logits have closed forms."""
    rng = np.random.default_rng(9)
    x, y, w = rng.normal(size=(NUM, WIDTH)), rng.normal(size=NUM), rng.uniform(0.3, 4.0, NUM) * (np.arange(NUM) % 5 > 0)
    data, at = {"x": x, "y": y, "w": w}, rng.normal(size=WIDTH)
    options = {"batch_size": size, "weight_fn": lambda b: b["w"]}
    objective = ls.Objective(lambda p, b: 1.5 * (b["x"] @ p - b["y"]) ** 2, data, **options)
    whole = 3 * (x.T * w) @ x / w.sum()
    assert np.allclose(ls.curvature.hessian(objective, at), whole, rtol=1e-12)
    newton = ls.curvature.GaussNewton(lambda p, b: b["x"] @ p, lambda z, b: 1.5 * (z - b["y"]) ** 2, data, **options)
    assert np.allclose(ls.curvature.hessian(newton, at), whole, rtol=1e-12)
    assert float(newton.objective(at)) == pytest.approx(float(objective(at)), rel=1e-13)
    slopes = 3 * (x @ at - y)[:, None] * x
    empirical = (slopes.T * w) @ slopes / w.sum()
    assert np.allclose(ls.curvature.hessian(ls.curvature.EmpiricalFisher(objective), at), empirical, rtol=1e-12)
    fisher = ls.curvature.Fisher(lambda p, b: b["x"] @ p, data, "gaussian", **options)
    assert np.allclose(ls.curvature.hessian(fisher, at), whole / 3, rtol=1e-12)
    logits = ls.curvature.Fisher(lambda p, b: jnp.stack([b["x"] @ p, jnp.zeros(len(b["y"]))], 1), data, **options)
    p = 1 / (1 + np.exp(-x @ at))
    assert np.allclose(ls.curvature.hessian(logits, at), (x.T * (w * p * (1 - p))) @ x / w.sum(), rtol=1e-12)
    key = jax.random.key(1)
    assert float(ls.curvature.trace(key, objective, at).mean) == pytest.approx(np.trace(whole), rel=1e-12)
    top = ls.curvature.eigenpairs(key, objective, at, 1).values[0]
    assert float(top) == pytest.approx(np.linalg.eigvalsh(whole)[-1], rel=1e-7)
    density = ls.curvature.spectral_density(key, objective, at, num_probes=3, num_steps=4)
    assert float(density.nodes.max()) == pytest.approx(np.linalg.eigvalsh(whole)[-1], rel=1e-9)


def test_a_minibatch_has_the_ratio_of_its_own_sums():
    rng = np.random.default_rng(10)
    data = {"x": rng.normal(size=(NUM, WIDTH)), "w": rng.uniform(0.2, 5.0, NUM)}
    objective = ls.Objective(lambda p, b: 0.5 * jnp.sum((p - b["x"]) ** 2, axis=1), data, weight_fn=lambda b: b["w"])
    key, start = jax.random.key(4), rng.normal(size=WIDTH)
    run = ls.train(objective, optax.sgd(0.3), jnp.asarray(start), num_steps=1, key=key, batch_size=5)
    index = np.asarray(drawn(jax.random.fold_in(key, 0), NUM, 5))
    x, w = data["x"][index], data["w"][index]
    assert np.allclose(run.params, start - 0.3 * (start - w @ x / w.sum()), rtol=1e-12)
    assert float(run.history["loss"][0]) == pytest.approx(
        np.sum(data["w"] * 0.5 * np.sum((start - data["x"]) ** 2, axis=1)) / data["w"].sum(), rel=1e-13
    )


@pytest.mark.parametrize("size", SIZES)
def test_what_weighs_nothing_does_not_count_whatever_its_loss(size):
    w = np.array([2.0, 0.0, 3.0, 0.0])
    data = {"l": np.array([1.5, np.nan, 4.0, np.inf]), "w": w}
    objective = ls.Objective(lambda p, b: b["l"] * p, data, batch_size=size, weight_fn=lambda b: b["w"])
    assert float(objective(jnp.float64(1.1))) == pytest.approx(1.1 * 15 / 5, rel=1e-14)


@pytest.mark.parametrize("size", [1, None])
@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf])
def test_weights_that_are_none(bad, size):
    data = {"x": np.array([1.2, 3.4, 5.6]), "w": np.array([2.0, bad, 3.0])}
    objective = ls.Objective(lambda p, b: p * b["x"], data, batch_size=size, weight_fn=lambda b: b["w"])
    with pytest.raises(ValueError, match="negative, NaN or infinite"):
        objective.check()
    assert np.isnan(jax.jit(objective)(jnp.float64(1.5)))


@pytest.mark.parametrize("size", [2, None])
def test_no_weight_at_all(size):
    data = {"x": np.array([1.2, 3.4, 5.6])}
    objective = ls.Objective(lambda p, b: p * b["x"], data, batch_size=size, weight_fn=lambda b: 0 * b["x"])
    with pytest.raises(ValueError, match="every example the weight 0"):
        ls.train(objective, optax.sgd(0.1), jnp.float64(1.5), num_steps=2)
    assert np.isnan(objective(jnp.float64(1.5)))
    assert np.isnan(objective.value_and_grad(jnp.float64(1.5))[1])


@pytest.mark.parametrize(
    ("weight_fn", "kind", "match"),
    [
        (3.0, TypeError, "weight_fn must be a function"),
        (lambda: 1, TypeError, "weight_fn is called as weight_fn"),
        (lambda b: None, TypeError, "real array, one weight for each example"),
        (lambda b: b["x"] * 1j, TypeError, "real array"),
        (lambda b: b["x"][:2], ValueError, "one weight for each example"),
        (lambda b: b["x"].sum(), ValueError, "one weight for each example"),
    ],
)
def test_weight_functions_of_the_wrong_kind(weight_fn, kind, match):
    objective = ls.Objective(lambda p, b: p * b["x"], {"x": np.array([1.2, 3.4, 5.6])}, weight_fn=weight_fn)
    with pytest.raises(kind, match=match):
        ls.curvature.hvp(objective, jnp.float64(1.5), jnp.float64(1.0))


def test_weights_that_depend_on_the_batch_are_noticed():
    data = {"x": np.linspace(0.3, 2.1, 12)}
    objective = ls.Objective(lambda p, b: p * b["x"], data, batch_size=5, weight_fn=lambda b: b["x"] / jnp.sum(b["x"]))
    with pytest.warns(UserWarning, match="weight_fn.* depends on the others of its batch"):
        ls.curvature.hvp(objective, jnp.float64(1.5), jnp.float64(1.0))


def test_sound_weighted_losses_are_not_warned_of(tokens, params):
    """Warnings are errors here."""
    for loss_fn in (sentence_loss, batch_loss):
        dense = jax.tree.map(lambda x: x[9:], tokens)
        objective = ls.Objective(loss_fn, dense, has_aux=True, batch_size=7, weight_fn=num_tokens)
        ls.curvature.hvp(objective, jnp.asarray(params), jnp.ones_like(params))


def contrastive(params, batch):
    z = batch["a"] @ params
    return -jnp.mean(jax.nn.log_softmax(z @ z.T)[jnp.arange(len(z)), ::-1])


def test_a_loss_of_all_data_at_once():
    rng = np.random.default_rng(11)
    data = {"a": rng.normal(size=(6, WIDTH)), "edges": np.arange(9), "scale": np.float64(0.7)}
    objective = ls.Objective(contrastive, data, batched=False)
    at = jnp.asarray(rng.normal(size=(WIDTH, 2)))
    z = data["a"] @ np.asarray(at)
    expected = -np.mean(log_softmax(z @ z.T)[np.arange(6), ::-1])
    assert float(objective(at)) == pytest.approx(expected, rel=1e-13)
    assert objective.num_examples is None
    fn = ls.LossSurface(ls.Subspace(at, jnp.ones((1, WIDTH, 2))), objective)
    assert ls.sweep(fn, ls.Grid.of(t=[0.0]), progress=False)["loss"][0] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("option", [{"batch_size": 3}, {"weight_fn": lambda b: b["a"][:, 0] ** 2}])
def test_a_loss_of_all_data_at_once_is_not_divided(option):
    objective = ls.Objective(contrastive, {"a": np.ones((6, WIDTH))}, batched=False, **option)
    for use in (objective, objective.check):
        with pytest.raises(ValueError, match="batched=False says that the loss takes them all at once"):
            use(*([jnp.ones((WIDTH, 2))] if use is objective else []))


def test_what_needs_examples_refuses_a_loss_of_all_data_at_once():
    objective, at = ls.Objective(contrastive, {"a": np.ones((6, WIDTH))}, batched=False), jnp.ones((WIDTH, 2))
    with pytest.raises(ValueError, match="batched=False"):
        ls.train(objective, optax.sgd(0.1), at, num_steps=1, key=jax.random.key(0), batch_size=2)
    with pytest.raises(ValueError, match="batched=False"):
        objective.take(np.array([1, 2]))
    with pytest.raises(ValueError, match="batched=False"):
        objective.per_example(at)
    fn = ls.LossSurface(ls.Subspace(at, jnp.ones((1, WIDTH, 2))), objective, outputs=("sem",))
    with pytest.raises(ValueError, match="batched=False"):
        ls.sweep(fn, ls.Grid.of(t=[0.0]), progress=False)
    with pytest.raises(TypeError, match="batched must be True or False"):
        ls.Objective(contrastive, {"a": np.ones((6, WIDTH))}, batched="no").check()
