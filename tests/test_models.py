"""Models of other frameworks, by the recipes of `docs/your_own_model.md`, whose code blocks are what runs here."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls
from landscape import _tree

pytestmark = pytest.mark.xdist_group("models")  # the recipes are run once for all tests

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "your_own_model.md"
SIZES = ("NUM_DIGITS, STEPS, POINTS = 500, 100, 25", "NUM_DIGITS, STEPS, POINTS = 250, 20, 3")
NUM_PARAMS = 80 + 16 + 1168 + 32 + 7850  # two convolutions 3x3, each with batch norm, and the dense layer
FRAMEWORKS = ("flax linen", "flax nnx", "equinox")
LAYOUTS = {"flax linen": "flax", "flax nnx": "flax", "equinox": "equinox"}
GOES_ON_WITH = {"PyTorch weights": "flax linen", "The same model in the experiments": "flax linen"}
GOES_ON_WITH |= dict.fromkeys(
    ("Only some parameters move", "Means that are not plain", "Data larger than memory"), "Plain JAX"
)


@functools.cache
def sections():
    """The python code of each section of the document, with small sizes."""
    parts = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    titled = (part.split("\n", 1) for part in parts)
    code = {title: "\n".join(re.findall(r"^```python\n(.*?)^```$", body, re.M | re.S)) for title, body in titled}
    assert SIZES[0] in code["Preamble"]
    return {title: text.replace(*SIZES) for title, text in code.items() if text}


@functools.cache
def common():
    """What all recipes share; executed once, so functions compiled for one test serve the next."""
    names = {}
    exec(sections()["Preamble"] + sections()["Batch norm"], names)
    return names


@functools.cache
def recipe(title):
    """The names that a section of the document leaves behind."""
    names = dict(recipe(GOES_ON_WITH[title]) if title in GOES_ON_WITH else common())
    exec(compile(sections()[title], f"{DOCUMENT.name}: {title}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def measured(objective, params):
    """The objective at one point, compiled as in a sweep."""
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda o, p: o.evaluate(p))(objective, params)


def relatives(landscape, other, name="train_loss"):
    return np.abs(landscape[name] / other[name] - 1)


# ------------------------------------------------------------------------------------------------ the document


def test_all_sections_with_code_are_known_here():
    known = {"Preamble", "Batch norm", "Plain JAX", *FRAMEWORKS, *GOES_ON_WITH}
    assert set(sections()) == known


def test_plain_recipe_draws_the_trained_network():
    names = recipe("Plain JAX")
    for part, objective in names["objectives"](names["loss_fn"]).items():
        for metric, value in measured(objective, names["params"]).items():
            assert names["landscape"][f"{part}_{metric}"][1, 1] == value
    assert names["landscape"].argmin("train_loss") == (1, 1)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_centre_is_the_loss_of_the_parameters(framework):
    names = recipe(framework)
    for landscape, objectives in (("frozen", "stored"), ("batch_statistics", "by_batch")):
        for part, objective in names[objectives].items():
            for metric, value in measured(objective, names["params"]).items():
                assert names[landscape][f"{part}_{metric}"][1, 1] == value


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_recalibrating_at_the_centre_gives_the_loss_by_stored_statistics(framework):
    names = recipe(framework)
    assert relatives(names["recalibrated"], names["frozen"])[1, 1] < 1e-5


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_modes_differ_away_from_the_centre(framework):
    names = recipe(framework)
    away = np.arange(9).reshape(3, 3) != 4
    for one, other in (("recalibrated", "frozen"), ("batch_statistics", "frozen")):
        difference = relatives(names[one], names[other])[away]
        assert np.all(difference > 1e-3)
        assert np.median(difference) > 0.1
    assert np.all(relatives(names["batch_statistics"], names["recalibrated"])[away] > 1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_running_statistics_are_not_among_the_parameters(framework):
    names = recipe(framework)
    assert _tree.size(names["params"]) == NUM_PARAMS
    state = names["stored"]["train"].state
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert sum(x.size for x in floats) == 2 * (8 + 16)


def test_factory_describes_the_network():
    problem = recipe("The same model in the experiments")["factory"]()
    problem.check()
    test = problem.objectives["test"]
    right = np.argmax(jax.jit(problem.predict)(problem.params, test.data["x"]), axis=1) == test.data["y"]
    assert np.mean(right) == pytest.approx(float(measured(test, problem.params)["accuracy"]))
    shapes = jax.eval_shape(problem.init, jax.random.key(3))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, problem.params)


# ------------------------------------------------------------------------------------------------ the frameworks


def as_nnx(linen, like):
    """A linen tree `{"Conv_0": {"kernel": ..}}` in the structure of an nnx one, `conv0.kernel.value`."""

    def leaf(name, _):
        layer, kind, *_ = name.split(".")
        at = {"conv0": "Conv_0", "conv1": "Conv_1", "norm0": "BatchNorm_0", "norm1": "BatchNorm_1", "dense": "Dense_0"}
        return linen[at[layer]][kind]

    return _tree.map_with_name(leaf, like)


@pytest.mark.parametrize("recalibrate", [False, True])
def test_linen_and_nnx_with_the_same_weights_have_the_same_surface(recalibrate):
    linen, nnx = recipe("flax linen"), recipe("flax nnx")
    directions = ls.subspace.random_directions(jax.random.key(5), linen["params"])
    directions = ls.subspace.filter_normalize(directions, linen["params"], filter_axis="flax")
    params = as_nnx(linen["params"], nnx["params"])
    state = as_nnx(linen["stored"]["train"].state, nnx["stored"]["train"].state)
    objectives = nnx["objectives"](
        nnx["stored"]["train"].loss_fn, state=state, update_state=nnx["stored"]["train"].update_state
    )
    ours = ls.LossSurface(ls.Subspace(linen["params"], directions), linen["stored"], recalibrate=recalibrate)
    theirs = ls.LossSurface(ls.Subspace(params, as_nnx(directions, nnx["params"])), objectives, recalibrate=recalibrate)
    grid = ls.Grid.of(alpha=[-0.5, 0.75], beta=[0.25, 1.0])
    a, b = (ls.sweep(fn, grid, batch=1, progress=False) for fn in (ours, theirs))
    for name in a.names:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-5)


def first_convolution(kernel, bias, x):
    """A 3x3 convolution of `(n, 28, 28, 1)` with stride 2 and padding 1, in float64."""
    padded = np.pad(np.asarray(x, np.float64)[..., 0], ((0, 0), (1, 1), (1, 1)))
    patches = [[padded[:, i : i + 27 : 2, j : j + 27 : 2] for j in range(3)] for i in range(3)]
    return np.einsum("ijnhw,ijc->nhwc", np.asarray(patches), np.asarray(kernel, np.float64)) + bias


def first_layer(framework, params):
    """Kernel `(3, 3, channels)` and bias of the first convolution."""
    if framework == "equinox":
        return np.moveaxis(np.asarray(params.convs[0].weight)[:, 0], 0, -1), np.asarray(params.convs[0].bias).ravel()
    layer = params["Conv_0"] if framework == "flax linen" else params["conv0"]
    return np.asarray(layer["kernel"][...])[:, :, 0], np.asarray(layer["bias"][...])


def first_statistics(framework, state):
    """Mean and variance of the first batch norm."""
    if framework == "equinox":
        floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating) and x.shape == (8,)]
        return np.asarray(floats[0]), np.asarray(floats[1])
    layer = state["BatchNorm_0"] if framework == "flax linen" else state["norm0"]
    return np.asarray(layer["mean"][...]), np.asarray(layer["var"][...])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_statistics_are_those_of_each_batch_averaged_by_size(framework):
    names = recipe(framework)
    x = names["data"]["train"]["x"]
    activations = first_convolution(*first_layer(framework, names["params"]), x)
    parts = [activations[:200], activations[200:]]
    weights = [200 / 250, 50 / 250]
    mean = sum(w * part.mean(axis=(0, 1, 2)) for w, part in zip(weights, parts))
    var = sum(w * part.var(axis=(0, 1, 2)) for w, part in zip(weights, parts))
    found = first_statistics(framework, names["stored"]["train"].state)
    np.testing.assert_allclose(found[0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], var, rtol=1e-4)


def test_momentum_can_be_undone_by_starting_from_zeros():
    from flax import linen as nn

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False, momentum=0.75)(x)

    x = jax.random.normal(jax.random.key(0), (40, 3)) * 3 + 2
    state = {"BatchNorm_0": {"mean": jnp.full(3, 7.0), "var": jnp.full(3, 5.0)}}
    params = {"BatchNorm_0": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    zeros = jax.tree.map(jnp.zeros_like, state)
    _, new = Norm().apply({"params": params, "batch_stats": zeros}, x, mutable=["batch_stats"])
    alone = jax.tree.map(lambda s: s / (1 - 0.75), new["batch_stats"]["BatchNorm_0"])
    np.testing.assert_allclose(alone["mean"], np.mean(x, axis=0), rtol=1e-5)
    np.testing.assert_allclose(alone["var"], np.var(x, axis=0), rtol=1e-5)


def test_equinox_statistics_of_another_momentum_need_one_division():
    import equinox as eqx

    def layer(momentum):
        return eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", momentum=momentum, mode="batch")

    def run(norm, x, state, inference):
        one = functools.partial(norm, inference=inference)
        return jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    (running, state), (forgetting, _) = layer(0.75), layer(0.0)
    batches = jax.random.normal(jax.random.key(0), (5, 20, 3)) * 2 + 3
    for batch in batches:
        _, state = run(running, batch, state, False)
    expected, _ = run(running, batches[0], state, True)
    divided = jax.tree.map(lambda s: s / (1 - 0.75**5) if jnp.issubdtype(s.dtype, jnp.floating) else s, state)
    found, _ = run(forgetting, batches[0], divided, True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_nnx_without_copy_is_refused_under_jit():
    from flax import errors, nnx

    norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    graphdef, params, state = nnx.split(norm, nnx.Param, nnx.BatchStat)
    with pytest.raises(errors.TraceContextError, match="Cannot mutate BatchStat from a different trace level"):
        jax.jit(lambda p: nnx.merge(graphdef, p, state)(jnp.ones((4, 3))))(params)


def test_integers_among_the_parameters_are_named_and_stay():
    params = {"kernel": jnp.ones((3, 2)), "table": jnp.arange(4)}
    with pytest.warns(UserWarning, match=r"set aside.*: table int32\[4\]$"):
        directions = ls.subspace.random_directions(jax.random.key(0), params)
    assert directions["table"] is None


# ------------------------------------------------------------------------------------------------ PyTorch


def test_torch_weights_give_torch_outputs():
    names = recipe("PyTorch weights")
    images = jnp.asarray(names["weights"]["inputs"].transpose(0, 2, 3, 1))
    logits, _ = jax.jit(names["forward"], static_argnames="train")(names["params"], images, names["state"], train=False)
    np.testing.assert_allclose(logits, names["weights"]["outputs"], atol=1e-5, rtol=1e-5)


def test_torch_network_is_trained_and_its_statistics_are_its_own():
    names = recipe("PyTorch weights")
    assert names["frozen"]["test_accuracy"][1, 1] > 0.85
    for statistics in names["state"].values():
        assert np.all(np.abs(statistics["mean"]) > 0)
        assert np.all(np.abs(statistics["var"] - 1) > 1e-3)
    assert relatives(names["recalibrated"], names["frozen"])[1, 1] > 1e-6  # measured on other digits, and by n - 1


# ------------------------------------------------------------------------------------------------ filters


@functools.partial(jax.jit, static_argnames="layout")
def directions_of(params, layout):
    directions = ls.subspace.random_directions(jax.random.key(7), params, 2)
    return ls.subspace.filter_normalize(directions, params, filter_axis=layout)


def check_filters(params, layout, subscripts):
    """Compare norms of filters, `subscripts[name]` saying which axes they live on: `io->o` for a flax kernel."""
    directions = directions_of(params, layout)
    seen = set()
    for (path, w), (_, d) in zip(*(jax.tree_util.tree_leaves_with_path(t) for t in (params, directions))):
        name = _tree.key_name(path)
        rule = next((rule for end, rule in subscripts.items() if name.removesuffix(".value").endswith(end)), None)
        if rule is None:
            assert not np.any(d), f"{name} moves"
            continue
        seen.add(next(end for end in subscripts if name.removesuffix(".value").endswith(end)))
        before, after = rule.split("->")
        wanted = np.sqrt(np.einsum(f"{before},{before}->{after}", w, w))
        for one in np.asarray(d):
            norms = np.sqrt(np.einsum(f"{before},{before}->{after}", one, one))
            np.testing.assert_allclose(norms / wanted, 1, rtol=1e-5, err_msg=name)
    assert seen == set(subscripts)


FLAX = {
    "dense.kernel": "io->o",
    "conv.kernel": "hwio->o",
    "embed.embedding": "rf->r",
    "query.kernel": "ihd->hd",
    "key.kernel": "ihd->hd",
    "value.kernel": "ihd->hd",
    "out.kernel": "hdo->o",
}


def filled(shapes):
    """Parameters of the given shapes, none of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape).astype(np.float32)), shapes)


def test_filters_of_linen_layers():
    from flax import linen as nn

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, tokens, images):
            x = nn.LayerNorm()(nn.Embed(7, 6, name="embed")(tokens))
            x = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, name="attention")(x, x)
            y = nn.GroupNorm(num_groups=1)(nn.Conv(5, (3, 3), name="conv")(images))
            return nn.Dense(4, name="dense")(x), y

    tokens, images = jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 4, 4, 2))
    params = filled(jax.eval_shape(Layers().init, jax.random.key(0), tokens, images)["params"])
    assert params["attention"]["query"]["bias"].shape == (2, 4)
    check_filters(params, "flax", FLAX)


def test_filters_of_nnx_layers():
    from flax import nnx

    class Layers(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.norm = nnx.Embed(7, 6, rngs=rngs), nnx.LayerNorm(6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, in_features=6, qkv_features=8, decode=False, rngs=rngs)
            self.conv, self.dense = nnx.Conv(2, 5, (3, 3), rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    _, params, _ = nnx.split(nnx.eval_shape(lambda: Layers(nnx.Rngs(0))), nnx.Param, ...)
    check_filters(filled(params), "flax", FLAX)


def test_filters_of_equinox_layers():
    import equinox as eqx

    def layers(key):
        return {
            "dense": eqx.nn.Linear(6, 4, key=key),
            "conv": eqx.nn.Conv2d(2, 5, 3, key=key),
            "embed": eqx.nn.Embedding(7, 6, key=key),
            "attention": eqx.nn.MultiheadAttention(2, 6, use_query_bias=True, use_output_bias=True, key=key),
            "norm": eqx.nn.LayerNorm(6),
        }

    shapes = eqx.filter_eval_shape(layers, jax.random.key(0))
    params = filled(eqx.filter(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct)))
    assert params["conv"].bias.shape == (5, 1, 1)
    projections = {f"{name}_proj.weight": "oi->o" for name in ("query", "key", "value", "output")}
    kernels = {"dense.weight": "oi->o", "conv.weight": "oihw->o", "embed.weight": "rf->r"}
    check_filters(params, "equinox", kernels | projections)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_directions_of_the_recipes_leave_biases_and_norms_alone(framework):
    params = recipe(framework)["params"]
    kernels = {"flax": "kernel", "equinox": "weight"}[LAYOUTS[framework]]
    for name, d in _named(directions_of(params, LAYOUTS[framework])):
        moves = name.removesuffix(".value").endswith(kernels) and "norm" not in name
        assert np.any(np.asarray(d)) == moves, name


def _named(tree):
    return [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.slow
def test_surface_script_draws_the_documented_model(tmp_path):
    titles = ("Preamble", "Batch norm", "flax linen", "The same model in the experiments")
    file = tmp_path / "my_model.py"
    file.write_text("\n\n".join(sections()[title] for title in titles), encoding="utf-8")
    flags = f"--problem {file}:factory --directions filter --smoke --recalibrate --out {tmp_path}/out"
    done = subprocess.run(
        [sys.executable, "experiments/surface.py", *flags.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train loss at the centre" in done.stdout


def test_only_some_parameters_move():
    names = recipe("Only some parameters move")
    moving, params = names["moving"], names["params"]
    assert set(moving["second"]) == {"kernel", "bias"}
    assert moving["first"] == {"kernel": None, "bias": None}
    whole = float(measured(names["objectives"](names["loss_fn"])["train"], params)["loss"])
    assert names["last_layer"]["train_loss"][1, 1] == pytest.approx(whole, rel=1e-5)
    assert names["curvature"].vectors["second"]["kernel"].shape == (1, 32, 10)
    assert [x.shape for x in jax.tree.leaves(names["adapter"])] == [(784, 4), (4, 32)]
    assert names["of_matrix"]["train_loss"][1, 1] == pytest.approx(names["of_adapter"]["train_loss"][1, 1], rel=1e-4)


def test_means_that_are_not_plain():
    names = recipe("Means that are not plain")
    params, data = names["params"], names["data"]["train"]
    logits = np.asarray(names["predict"](params, data["x"]), float)
    y, w = np.asarray(data["y"]), np.linspace(0.5, 2.0, 10)[np.asarray(data["y"])]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
    assert float(names["by_class"]["train"](params)) == pytest.approx(np.sum(w * losses) / np.sum(w), rel=1e-5)
    there = np.asarray(names["sentences"]["x"], float)[np.asarray(names["sentences"]["mask"])]
    assert len(there) == 20
    assert float(names["tokens"](1.5)) == pytest.approx(np.mean((1.5 * there - 1) ** 2), rel=1e-5)
    inside = np.linspace(0, 1, 40)
    assert float(names["at_once"](1.5)) == pytest.approx(np.mean((1.5 * inside - 0.5) ** 2) + 1.5**2 / 2, rel=1e-5)


def test_data_larger_than_memory():
    names = recipe("Data larger than memory")
    params = names["params"]
    held = names["objectives"](names["loss_fn"], batch_size=64)["train"]
    assert names["landscape"]["loss"][1, 1] == float(measured(held, params)["loss"])
    assert names["landscape"]["gradient"].shape == (3, 3, 2)
    expected = ls.curvature.hvp(held, params, params)
    for a, b in zip(jax.tree.leaves(names["product"]), jax.tree.leaves(expected)):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max()))
