"""Which parameters move: patterns, masks and filters, programs without constants, adapters, integer leaves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls

RNG = np.random.default_rng(2)
PARAMS = {
    "encoder": {"kernel": RNG.normal(size=(5, 4)).astype(np.float32), "bias": RNG.normal(size=4).astype(np.float32)},
    "decoder": {"kernel": RNG.normal(size=(4, 3)).astype(np.float32), "table": np.array([2, 0, 1], np.int8)},
    "steps": np.int32(7),
}
DATA = {"x": RNG.normal(size=(11, 5)).astype(np.float32), "y": RNG.integers(0, 3, 11)}


def loss_fn(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["encoder"]["kernel"] + params["encoder"]["bias"])
    logits = (hidden @ params["decoder"]["kernel"])[:, params["decoder"]["table"]]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]) * params["steps"] / 7


def names(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def is_kernel(name, leaf):
    return name.endswith("kernel") and leaf.ndim == 2


def is_small(leaf):
    return leaf.size < 13


KERNELS = ["['decoder']['kernel']", "['encoder']['kernel']"]


@pytest.mark.parametrize(
    ("trainable", "moving"),
    [
        ("*kernel", KERNELS),
        (re.compile("kern"), KERNELS),
        ({"encoder.kernel": True, "decoder.kernel": True}, KERNELS),
        ("encoder.*", ["['encoder']['bias']", "['encoder']['kernel']"]),
        (["decoder.*", "*.bias"], ["['decoder']['kernel']", "['encoder']['bias']"]),
        (is_kernel, KERNELS),
        (is_small, ["['decoder']['kernel']", "['encoder']['bias']"]),
        (jax.tree.map(lambda x: np.ndim(x) == 2, PARAMS), KERNELS),
        (jax.tree.map(lambda x: jnp.bool_(np.ndim(x) == 2), PARAMS), KERNELS),
    ],
)
def test_what_moves(trainable, moving):
    parts = ls.subspace.split(PARAMS, trainable)
    assert names(parts.moving) == moving
    assert sorted(names(parts.moving) + names(parts.frozen)) == sorted(names(PARAMS))
    whole = ls.subspace.join(*parts)
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(PARAMS)))


def test_integers_are_set_aside_in_one_line():
    with pytest.warns(UserWarning, match=r"stay as they are: decoder\.table int8\[3\], steps int32\[\]$") as said:
        parts = ls.subspace.split(PARAMS)
    assert len(said) == 1
    assert names(parts.frozen) == ["['decoder']['table']", "['steps']"]


def test_a_pattern_that_matches_everything_says_so():
    with pytest.warns(UserWarning, match="chooses all 3 parameters, so nothing is frozen"):
        ls.subspace.split(PARAMS, "*")


@pytest.mark.parametrize(
    ("trainable", "kind", "match"),
    [
        (
            "*lora*",
            ValueError,
            r"matches no parameter; they are called decoder\.kernel, encoder\.bias, encoder\.kernel",
        ),
        ("*table", ValueError, "matches no parameter"),
        (3, TypeError, "must be a pattern such as"),
        ([], ValueError, "leaves nothing that moves"),
        ({"encoder": True}, ValueError, "has no parameters called encoder"),
        ([True, False], ValueError, "trainable must have the structure of params"),
        (lambda leaf: False, ValueError, "leaves nothing that moves; the parameters are"),
    ],
)
def test_what_cannot_be_told(trainable, kind, match):
    with pytest.raises(kind, match=match):
        ls.subspace.split(PARAMS, trainable)
    with pytest.raises(ValueError, match="no floating-point array, so nothing can move"):
        ls.subspace.split({"steps": 3})


def parted(trainable="*kernel"):
    parts = ls.subspace.split(PARAMS, trainable)
    return parts.moving, ls.Objective(loss_fn, DATA, frozen=parts.frozen)


def test_everything_sees_what_moves():
    """Against the loss as a function of the moving leaves alone, closed over by hand."""
    moving, objective = parted()

    def by_hand(p, batch):
        whole = {
            "encoder": {"kernel": p[0], "bias": PARAMS["encoder"]["bias"]},
            "decoder": {"kernel": p[1], "table": PARAMS["decoder"]["table"]},
            "steps": 7,
        }
        return loss_fn(whole, batch)

    p, plain = [PARAMS["encoder"]["kernel"], PARAMS["decoder"]["kernel"]], ls.Objective(by_hand, DATA)
    measured = jax.jit(lambda o, p: o.value_and_grad(p))  # operation by operation, each is compiled
    (loss, slope), (expected, slope_by_hand) = measured(objective, moving), measured(plain, p)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert np.allclose(slope["encoder"]["kernel"], slope_by_hand[0], rtol=1e-5, atol=1e-7)
    assert slope["encoder"]["bias"] is None
    vector = jax.tree.map(jnp.ones_like, moving)
    ours = ls.curvature.hvp(objective, moving, vector)
    assert np.allclose(
        ours["decoder"]["kernel"], ls.curvature.hvp(plain, p, [jnp.ones((5, 4)), jnp.ones((4, 3))])[1], atol=1e-6
    )
    assert ls.curvature.hessian(objective, moving).shape == (32, 32)
    top, theirs = (
        ls.curvature.eigenpairs(jax.random.key(1), o, at, 1).values for o, at in ((objective, moving), (plain, p))
    )
    assert float(top[0]) == pytest.approx(float(theirs[0]), rel=1e-4)
    run = ls.train(objective, optax.sgd(0.2), moving, num_steps=3)
    other = ls.train(plain, optax.sgd(0.2), p, num_steps=3)
    assert np.allclose(run.params["encoder"]["kernel"], other.params[0], rtol=1e-5)
    assert float(run.history["grad_norm"][0]) == pytest.approx(float(other.history["grad_norm"][0]), rel=1e-5)
    directions = ls.subspace.random_directions(jax.random.key(3), moving)
    directions = ls.subspace.filter_normalize(directions, moving, filter_axis="flax")
    assert names(directions) == KERNELS
    fn = ls.LossSurface(ls.Subspace(moving, directions), objective, outputs=("gradient_norm",))
    found = ls.sweep(fn, ls.Grid.square(0.5, 3), batch=1, progress=False)
    assert found["loss"][1, 1] == pytest.approx(float(expected), rel=1e-6)
    assert found["gradient_norm"][1, 1] == pytest.approx(float(other.history["grad_norm"][0]), rel=1e-5)


def test_integers_do_not_stop_a_newcomer():
    """A training and curvature of all floating-point arrays, by the whole tree; the parts are the oracle."""
    with pytest.warns(UserWarning, match="set aside"):
        moving, frozen = ls.subspace.split(PARAMS)
    of_parts, plain = ls.Objective(loss_fn, DATA, frozen=frozen), ls.Objective(loss_fn, DATA)
    with pytest.warns(UserWarning, match="set aside.*decoder.table"):
        run = ls.train(plain, optax.sgd(0.2), PARAMS, num_steps=2, track={"test": plain})
    parts = ls.train(of_parts, optax.sgd(0.2), moving, num_steps=2)
    assert np.array_equal(run.params["decoder"]["table"], PARAMS["decoder"]["table"])
    assert np.allclose(run.params["encoder"]["bias"], parts.params["encoder"]["bias"])
    assert float(run.history["test_loss"][-1]) == pytest.approx(float(plain(run.params)), rel=1e-6)
    with pytest.warns(UserWarning, match="set aside"):
        ours = ls.curvature.hvp(plain, PARAMS, PARAMS)
    theirs = ls.curvature.hvp(of_parts, moving, moving)
    assert np.allclose(ours["encoder"]["kernel"], theirs["encoder"]["kernel"])
    with pytest.warns(UserWarning, match="set aside"):
        assert (
            ls.curvature.trace(jax.random.key(0), plain, PARAMS).mean
            == ls.curvature.trace(jax.random.key(0), of_parts, moving).mean
        )


CONVEX = {"x": DATA["x"], "y": DATA["y"] % 2}


def ridge(params, batch):
    """A convex loss of a model with a table and a counter in it."""
    logits = (batch["x"] @ params["kernel"] + params["bias"])[:, params["table"]]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]) * params["steps"] / 7
    return losses + 0.3 * jnp.sum(params["kernel"] ** 2) + 0.2 * jnp.sum(params["bias"] ** 2)


WHOLE = {
    "kernel": RNG.normal(size=(5, 2)).astype(np.float32),
    "bias": RNG.normal(size=2).astype(np.float32),
    "table": np.array([1, 0], np.int8),
    "steps": np.int32(9),
}
OTHER = {**WHOLE, "kernel": 2 * WHOLE["kernel"], "bias": -WHOLE["bias"]}
MOVING, REST = ({name: WHOLE[name] if name in keep else None for name in WHOLE} for keep in (
    ("kernel", "bias"), ("table", "steps")
))  # fmt: skip
OTHERS = {**MOVING, "kernel": OTHER["kernel"], "bias": OTHER["bias"]}
WHOLE_LOSS, PARTS_LOSS = ls.Objective(ridge, CONVEX), ls.Objective(ridge, CONVEX, frozen=REST)


def aside(fn):
    """What a call gives, with one warning of one line that names what is set aside."""
    with pytest.warns(UserWarning, match=r"set aside.*stay as they are: steps int32.*, table int8.*\]$") as said:
        found = fn()
    assert [one.filename for one in said] == [__file__]
    return found


def of_runs(objective, inits, **options):
    return ls.train_many(objective, optax.sgd(0.2), inits, num_steps=3, progress=False, **options)


@pytest.mark.parametrize("kind", ["stack", "list", "function"])
def test_integers_in_many_runs(kind):
    def stack(*trees):
        return jax.tree.map(lambda *x: np.stack(x), *trees)

    if kind == "function":
        options = {"num_runs": 2, "key": jax.random.key(1)}
        ours = aside(lambda: of_runs(WHOLE_LOSS, lambda key: jax.tree.map(jnp.asarray, WHOLE), **options))
        theirs = of_runs(PARTS_LOSS, lambda key: jax.tree.map(jnp.asarray, MOVING), **options)
    else:
        starts = [WHOLE, OTHER] if kind == "list" else stack(WHOLE, OTHER)
        ours = aside(lambda: of_runs(WHOLE_LOSS, starts, track={"test": WHOLE_LOSS}))
        theirs = of_runs(PARTS_LOSS, stack(MOVING, OTHERS), track={"test": PARTS_LOSS})
        np.testing.assert_allclose(ours.history["test_loss"], theirs.history["test_loss"], rtol=1e-6)
    np.testing.assert_allclose(ours.params["kernel"], theirs.params["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(ours.params["table"], [[1, 0], [1, 0]])
    assert ours.params["steps"].dtype == np.int32


def test_integers_in_minima():
    ours = aside(lambda: ls.minima.polish(WHOLE_LOSS, WHOLE))
    theirs = ls.minima.polish(PARTS_LOSS, MOVING)
    assert bool(ours.converged)
    np.testing.assert_allclose(ours.params["kernel"], theirs.params["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(ours.params["table"], [1, 0])
    index, values = aside(lambda: ls.minima.classify(WHOLE_LOSS, ours.params))
    assert (index, len(values)) == (0, 12)
    np.testing.assert_allclose(values, ls.minima.classify(PARTS_LOSS, theirs.params).eigenvalues, rtol=1e-4)
    found = aside(lambda: ls.minima.distinct([WHOLE, OTHER, WHOLE], [1.5, 2.5, 1.5]))
    assert found.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(found.representatives["table"], [[1, 0], [1, 0]])


def test_integers_in_maps():
    """A plane and the basins on it, labels by a function that sees the whole model and by the nearest minimum."""
    directions = aside(lambda: ls.subspace.random_directions(jax.random.key(3), WHOLE))
    directions = ls.subspace.filter_normalize(directions, WHOLE)
    ours, theirs = ls.Subspace(WHOLE, directions), ls.Subspace(MOVING, directions)
    at = jnp.array([0.5, -0.25])
    np.testing.assert_array_equal(ours(at)["table"], [1, 0])
    np.testing.assert_allclose(ours.project(ours(at)), at, atol=1e-6)
    assert float(ours.residual(ours(at))) < 1e-6
    grid = ls.Grid.square(0.7, 3)
    outputs = ("gradient", "gradient_norm", "off_plane")
    of_whole, of_parts = (
        ls.sweep(ls.LossSurface(plane, objective, outputs=outputs), grid, batch=1, progress=False)
        for plane, objective in ((ours, WHOLE_LOSS), (theirs, PARTS_LOSS))
    )
    for name in of_parts.names:
        np.testing.assert_allclose(of_whole[name], of_parts[name], rtol=1e-5)
    minimum = ls.minima.polish(PARTS_LOSS, MOVING).params
    near = {"minima": [{**WHOLE, "kernel": minimum["kernel"], "bias": minimum["bias"]}], "radius": 0.1}
    for how in (near, {"labels": lambda params: params["steps"] - 9}):
        basins = ls.BasinMap(ours, WHOLE_LOSS, optax.sgd(0.3), 200, **how)
        found = aside(lambda basins=basins: ls.sweep(basins, grid, batch=1, progress=False))
        assert np.all(found["label"] == 0)


def test_integers_in_paths():
    ours = aside(lambda: ls.paths.fit_bezier(jax.random.key(2), WHOLE_LOSS, WHOLE, OTHER, num_steps=3))
    theirs = ls.paths.fit_bezier(jax.random.key(2), PARTS_LOSS, MOVING, OTHERS, num_steps=3)
    np.testing.assert_allclose(ours.path(0.4)["kernel"], theirs.path(0.4)["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(ours.path(0.4)["table"], [1, 0])
    ours = aside(lambda: ls.paths.elastic_band(WHOLE_LOSS, WHOLE, OTHER, num_images=3, num_steps=3))
    theirs = ls.paths.elastic_band(PARTS_LOSS, MOVING, OTHERS, num_images=3, num_steps=3)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-6)
    np.testing.assert_array_equal(ours.path(0.4)["table"], [1, 0])
    with pytest.warns(UserWarning, match="set aside"), pytest.raises(ValueError, match="those of b differ from a's"):
        ls.subspace.line(WHOLE, {**OTHER, "steps": np.int32(4)})


def test_what_stays_is_an_argument_and_no_constant():
    moving, objective = parted()
    program = jax.make_jaxpr(lambda o, p: o(p))(objective, moving)
    assert not program.consts
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    evaluate = jax.jit(lambda o, p: o(p))
    for seed in (1, 2):
        encoder = jax.tree.map(lambda x, seed=seed: x * seed, PARAMS["encoder"])
        parts = ls.subspace.split({**PARAMS, "encoder": encoder}, "decoder.*")
        evaluate(ls.Objective(counted, DATA, frozen=parts.frozen), parts.moving)
    assert len(traces) == 1


def test_batches_and_frozen_parameters_go_together():
    moving, objective = parted()
    read = ls.Objective(loss_fn, ls.Batches([jax.tree.map(lambda x: x[i : i + 4], DATA) for i in (0, 4, 8)]))  # noqa: B023
    read = ls.Objective(loss_fn, read.data, frozen=objective.frozen)
    assert float(read(moving)) == pytest.approx(float(objective(moving)), rel=1e-6)


def test_parts_of_another_tree():
    _, objective = parted()
    with pytest.raises(ValueError, match="must be the two parts of one tree"):
        objective({"encoder": PARAMS["encoder"]["kernel"]})


def test_a_problem_of_some_parameters():
    problem = ls.Problem(
        lambda key: jax.tree.map(lambda x: x * 2 if x.dtype == np.float32 else x, PARAMS),
        {"train": ls.Objective(loss_fn, DATA)},
        predict=lambda params, x: x @ params["encoder"]["kernel"] + params["encoder"]["bias"],
        params=PARAMS,
        snapshots=jax.tree.map(lambda x: np.stack([x, x, x]), PARAMS),
    )
    only = problem.only("*kernel")
    assert names(only.params) == names(only.init(jax.random.key(0))) == names(only.snapshots) == KERNELS
    assert only.snapshots["encoder"]["kernel"].shape == (3, 5, 4)
    assert only.init(jax.random.key(0))["encoder"]["kernel"][0, 0] == 2 * PARAMS["encoder"]["kernel"][0, 0]
    assert float(only.objectives["train"](only.params)) == pytest.approx(
        float(ls.Objective(loss_fn, DATA)(PARAMS)), rel=1e-6
    )
    assert np.allclose(only.predict(only.params, DATA["x"]), problem.predict(PARAMS, DATA["x"]))
    with pytest.warns(UserWarning, match="set aside"):
        assert len(names(problem.only().params)) == 3


# ------------------------------------------------------------------------------------------------------- adapters

BASE = {"kernel": RNG.normal(size=(5, 3)).astype(np.float32), "bias": RNG.normal(size=3).astype(np.float32)}
SCALE = 0.5


def adapted(params, batch):
    base, lora = params["base"], params["lora"]
    logits = batch["x"] @ (base["kernel"] + SCALE * lora["a"] @ lora["b"]) + base["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


def adapter(b):
    return {"base": BASE, "lora": {"a": RNG.normal(size=(5, 2)).astype(np.float32), "b": b}}


def test_an_adapter_and_the_merged_matrix():
    params = adapter(RNG.normal(size=(2, 3)).astype(np.float32))
    moving, frozen = ls.subspace.split(params, "lora.*")
    directions = ls.subspace.random_directions(jax.random.key(4), moving)
    directions = ls.subspace.filter_normalize(directions, moving, filter_axis=-1)
    grid = ls.Grid.square(0.7, 3)
    own = ls.LossSurface(ls.Subspace(moving, directions), ls.Objective(adapted, DATA, frozen=frozen))
    of_adapter = ls.sweep(own, grid, batch=1, progress=False)["loss"]
    a, b = (
        np.asarray(moving["lora"][n] + 0.7 * directions["lora"][n][0] - 0.7 * directions["lora"][n][1]) for n in "ab"
    )
    logits = DATA["x"] @ (BASE["kernel"] + SCALE * a @ b) + BASE["bias"]
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert of_adapter[2, 0] == pytest.approx(-logp[np.arange(11), DATA["y"]].mean(), rel=1e-5)
    lora = params["lora"]
    merged = {
        "base": BASE | {"kernel": BASE["kernel"] + SCALE * lora["a"] @ lora["b"]},
        "lora": jax.tree.map(np.zeros_like, lora),
    }
    moving, frozen = ls.subspace.split(merged, "base.kernel")
    directions = ls.subspace.random_directions(jax.random.key(4), moving)
    directions = ls.subspace.filter_normalize(directions, moving, filter_axis=-1)
    fn = ls.LossSurface(ls.Subspace(moving, directions), ls.Objective(adapted, DATA, frozen=frozen))
    of_matrix = ls.sweep(fn, grid, batch=1, progress=False)["loss"]
    assert of_matrix[1, 1] == pytest.approx(of_adapter[1, 1], rel=1e-5)
    assert abs(of_matrix[0, 0] - of_adapter[0, 0]) > 1e-3


def test_an_untrained_adapter_is_warned_of():
    moving, _ = ls.subspace.split(adapter(np.zeros((2, 3), np.float32)), "lora.*")
    directions = ls.subspace.random_directions(jax.random.key(4), moving)
    with pytest.warns(UserWarning, match=r"lora\.b of params are all zero.*the picture is blank"):
        ls.subspace.filter_normalize(directions, moving, filter_axis=-1)


# ----------------------------------------------------------------------------------------------- equinox, flax.nnx


def test_an_equinox_filter():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")
    model = eqx.nn.MLP(5, 3, 4, 1, key=jax.random.key(0))
    with pytest.warns(UserWarning, match="chooses all 4"):
        parts = ls.subspace.split(model, eqx.is_inexact_array)
    objective = ls.Objective(
        lambda m, b: optax.softmax_cross_entropy_with_integer_labels(jax.vmap(m)(b["x"]), b["y"]),
        DATA,
        frozen=parts.frozen,
    )
    direct = optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(jnp.asarray(DATA["x"])), DATA["y"]).mean()
    assert float(objective(parts.moving)) == pytest.approx(float(direct), rel=1e-6)
    run = ls.train(objective, optax.sgd(0.1), parts.moving, num_steps=2)
    assert float(run.history["loss"][-1]) < float(direct)


def test_an_nnx_filter():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(5, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
            self.last = nnx.Linear(4, 3, rngs=rngs)

    _, state = nnx.split(Net(nnx.Rngs(0)))
    parts = ls.subspace.split(state, nnx.Param)
    assert len(jax.tree.leaves(parts.moving)) == 6
    assert len(jax.tree.leaves(parts.frozen)) == 2  # the running mean and variance
    last = ls.subspace.split(state, nnx.PathContains("last")).moving
    assert len(jax.tree.leaves(last)) == 2


@pytest.mark.parametrize("params", [np.array(["a", "b"]), np.array([None, object()])], ids=["text", "objects"])
def test_arrays_of_no_numbers_are_refused_as_parameters(params):
    objective = ls.Objective(lambda p, x: jnp.sum((x - p) ** 2, -1), jnp.ones((3, 2)))
    for call in (
        lambda: ls.curvature.hvp(objective, params, np.ones(2, np.float32)),
        lambda: ls.train(objective, optax.sgd(0.1), params, num_steps=2),
    ):
        with pytest.raises(TypeError, match=r"^params must be a real floating-point array, got (<U1|object)\[2\]"):
            call()
