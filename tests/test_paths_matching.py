"""Permutations: outputs do not change, permuted copies are recognised, assignments are optimal."""

import collections
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import Objective, paths
from landscape.analysis import barrier
from landscape.paths import PermutationSpec, _matching, match_weights, permute

RNG = np.random.default_rng(3)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def mlp(*widths):
    return [{"kernel": normal(m, n), "bias": normal(n)} for m, n in itertools.pairwise(widths)]


def run_mlp(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def shuffled(spec, params, seed=0):
    rng = np.random.default_rng(seed)
    return {group: rng.permutation(size) for group, size in spec.sizes(params).items()}


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))


def test_permuting_hidden_units_of_an_mlp_leaves_its_outputs():
    params, x = mlp(5, 7, 6, 3), normal(11, 5)
    spec = PermutationSpec.sequential(params)
    assert spec.sizes(params) == {"0": 7, "1": 6}
    moved = permute(params, shuffled(spec, params), spec)
    assert not equal(moved, params)
    np.testing.assert_allclose(run_mlp(moved, x), run_mlp(params, x), rtol=1e-4, atol=1e-5)


CNN_ORDER = ("stem", "norm", "deep", "hidden", "out")


def cnn():
    params = {
        "stem": {"kernel": normal(3, 3, 2, 4), "bias": normal(4)},
        "norm": {"scale": normal(4), "bias": normal(4)},
        "deep": {"kernel": normal(2, 2, 4, 5), "bias": normal(5)},
        "hidden": {"kernel": normal(3 * 3 * 5, 6), "bias": normal(6)},
        "out": {"kernel": normal(6, 3), "bias": normal(3)},
    }
    return params, {"norm": {"mean": normal(4), "var": jnp.abs(normal(4)) + 0.5}}


def convolved(x, layer):
    out = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out + layer["bias"]


def run_cnn(params, state, x):
    x = convolved(x, params["stem"])
    x = (x - state["norm"]["mean"]) / jnp.sqrt(state["norm"]["var"]) * params["norm"]["scale"] + params["norm"]["bias"]
    x = jax.nn.relu(convolved(jax.nn.relu(x), params["deep"]))
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def test_permuting_channels_of_a_cnn_leaves_its_outputs():
    (params, state), x = cnn(), normal(5, 6, 6, 2)
    spec = PermutationSpec.sequential(params, order=CNN_ORDER, state=state)
    assert spec.axes["hidden.kernel"] == ("deep", "hidden")
    assert spec.axes["norm.mean"] == spec.axes["norm.scale"] == ("stem",)
    orders = shuffled(spec, params)
    moved, moved_state = permute(params, orders, spec), permute(state, orders, spec)
    assert not equal(moved_state, state)
    before, after = run_cnn(params, state, x), run_cnn(moved, moved_state, x)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)
    # statistics that stay behind are another network
    assert jnp.max(jnp.abs(run_cnn(moved, state, x) - before)) > 0.1


def test_the_layout_of_torch_permutes_a_torch_network(torch):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 5),
        torch.nn.Tanh(), torch.nn.Linear(5, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for leaf in (*net.parameters(), net[1].running_mean, net[1].running_var):
            leaf.copy_(torch.as_tensor(RNG.uniform(0.5, 1.5, size=tuple(leaf.shape))))
    params = {name: jnp.asarray(p.detach().numpy()) for name, p in net.named_parameters()}
    state = {f"1.{name}": jnp.asarray(getattr(net[1], name).numpy()) for name in ("running_mean", "running_var")}
    spec = PermutationSpec.sequential(params, state=state, layout="torch")
    assert spec.axes["4.weight"] == ("4", "0")
    orders, x = shuffled(spec, params), torch.as_tensor(np.array(normal(4, 2, 6, 6)))
    before = net(x)
    moved = {**permute(params, orders, spec), **permute(state, orders, spec)}
    assert not equal(moved["0.weight"], params["0.weight"])
    net.load_state_dict({name: torch.as_tensor(np.array(leaf)) for name, leaf in moved.items()}, strict=False)
    np.testing.assert_allclose(net(x).detach().numpy(), before.detach().numpy(), rtol=1e-4)


def barrier_on_the_line(a, b, x, y):
    way = paths.line(a, b)
    losses = jax.vmap(lambda t: jnp.mean((run_mlp(way(t), x) - y) ** 2))(jnp.linspace(0, 1, 9)[:, None])
    return barrier(losses).above_line


def test_a_permuted_copy_has_a_barrier_before_matching_and_none_after():
    params, x = mlp(5, 8, 7, 3), normal(20, 5)
    spec = PermutationSpec.sequential(params)
    copy = permute(params, shuffled(spec, params), spec)
    found = match_weights(params, copy, spec)
    assert equal(found.params, params)
    assert found.distances[-1] == 0
    target = run_mlp(params, x)
    assert barrier_on_the_line(params, copy, x, target) > 1
    assert barrier_on_the_line(params, found.params, x, target) == 0
    back = {group: np.argsort(order) for group, order in shuffled(spec, params).items()}
    assert all(np.array_equal(found.permutations[group], order) for group, order in back.items())


def test_a_permuted_cnn_is_recognised_with_its_statistics():
    params, state = cnn()
    spec = PermutationSpec.sequential(params, order=CNN_ORDER, state=state)
    orders = shuffled(spec, params)
    found = match_weights(params, permute(params, orders, spec), spec)
    assert equal(found.params, params)
    assert equal(permute(permute(state, orders, spec), found.permutations, spec), state)


def distance(a, b):
    return np.sqrt(sum(np.sum((np.asarray(x, float) - y) ** 2) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))))


def test_one_hidden_layer_is_matched_as_well_as_by_all_orders():
    a, b = mlp(3, 5, 2), mlp(3, 5, 2)
    spec = PermutationSpec.sequential(a)
    best = min(distance(a, permute(b, {"0": np.array(p)}, spec)) for p in itertools.permutations(range(5)))
    found = match_weights(a, b, spec)
    np.testing.assert_allclose(found.distances[-1], best, rtol=1e-6)
    np.testing.assert_allclose(distance(a, found.params), best, rtol=1e-6)
    np.testing.assert_allclose(found.distances[0], distance(a, b), rtol=1e-6)


@pytest.mark.parametrize("seed", [None, 2, 3])
def test_no_single_layer_can_be_matched_better(seed):
    a, b = mlp(3, 4, 4, 2), mlp(3, 4, 4, 2)
    spec = PermutationSpec.sequential(a)
    found = match_weights(a, b, spec, key=None if seed is None else jax.random.key(seed))
    assert np.all(np.diff(found.distances) <= 0)
    every = [np.array(p) for p in itertools.permutations(range(4))]
    for group in spec.groups:
        others = [distance(a, permute(found.params, {group: p}, spec)) for p in every]
        assert min(others) >= found.distances[-1] - 1e-6


def test_skip_connections_by_a_spec_of_ones_own():
    """Residual blocks share one group, which then indexes both axes of a kernel."""
    params = {"in": normal(4, 6), "block": normal(6, 6), "out": normal(6, 2)}
    spec = PermutationSpec({"in": (None, "stream"), "block": ("stream", "stream"), "out": ("stream", None)})

    def forward(p, x):
        h = x @ p["in"]
        return (h + jax.nn.relu(h @ p["block"])) @ p["out"]

    orders, x = shuffled(spec, params, 5), normal(7, 4)
    copy = permute(params, orders, spec)
    np.testing.assert_allclose(forward(copy, x), forward(params, x), rtol=1e-4, atol=1e-4)
    found = match_weights(params, copy, spec)
    assert equal(found.params, params)
    assert np.all(np.diff(match_weights(params, jax.tree.map(lambda w: -0.7 * w, copy), spec).distances) <= 0)


@pytest.mark.parametrize("name", ["Dense_{}", "layer{}", "{}"])
def test_numbered_layers_come_in_the_order_of_their_numbers(name):
    """With all widths equal nothing but the order tells the layers apart: as text, 10 comes before 2."""
    layers, x = mlp(*[4] * 13), normal(6, 4)
    params = {name.format(i): layer for i, layer in enumerate(layers)}
    spec = PermutationSpec.sequential(params)
    for i in range(1, 12):
        last = None if i == 11 else name.format(i)
        assert spec.axes[f"{name.format(i)}.kernel"] == (name.format(i - 1), last)
    moved = permute(params, shuffled(spec, params), spec)
    unnamed = [moved[name.format(i)] for i in range(12)]
    assert not equal(unnamed, layers)
    np.testing.assert_allclose(run_mlp(unnamed, x), run_mlp(layers, x), rtol=1e-3, atol=1e-4)


def test_an_order_of_ones_own_stays():
    layers = mlp(4, 4, 4, 4)
    params = collections.OrderedDict(zip(("b10", "b9", "a"), layers))
    assert PermutationSpec.sequential(params).axes["b9.kernel"] == ("b10", "b9")


def test_a_group_looks_at_its_own_leaves_only(monkeypatch):
    calls = []
    laid = _matching._Pair._laid
    monkeypatch.setattr(_matching._Pair, "_laid", lambda self, *a, **k: calls.append(1) or laid(self, *a, **k))

    def visits(depth):
        a, b = mlp(*[3] * (depth + 1)), mlp(*[3] * (depth + 1))
        calls.clear()
        match_weights(a, b, PermutationSpec.sequential(a), max_sweeps=1)
        return len(calls) - 2 * 2 * depth  # the distances before and after look at all of them

    assert visits(9) == 8 * visits(2) > 0


def test_permute_is_pure_and_takes_some_of_the_groups():
    params = mlp(5, 4, 4, 3)
    spec = PermutationSpec.sequential(params)
    orders = {"1": jnp.array([2, 0, 3, 1])}
    moved = jax.jit(lambda p, o: permute(p, o, spec))(params, orders)
    assert equal(moved, permute(params, orders, spec))
    assert equal(moved[0], params[0])
    np.testing.assert_array_equal(moved[1]["bias"], np.asarray(params[1]["bias"])[[2, 0, 3, 1]])


# ------------------------------------------------------------------------------------- the order, and the program


class Normed(nn.Module):
    """Its norms sort before its convolutions, and after its dense layers; all widths are equal."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (2, 2), padding="VALID")(x)))
        x = nn.max_pool(x, (2, 1)).reshape(x.shape[0], -1)
        x = jax.nn.gelu(nn.LayerNorm()(nn.Dense(4)(x)))
        inside = nn.tanh(nn.Dense(4)(x))
        x = nn.LayerNorm()(x + nn.Dense(4)(inside))
        return nn.softmax(nn.Dense(4)(x))


@functools.cache
def normed():
    x = normal(5, 4, 4, 4)
    variables = jax.jit(Normed().init)(jax.random.key(1), x)
    leaves, treedef = jax.tree.flatten(variables)
    return jax.tree.unflatten(treedef, [jnp.abs(normal(*leaf.shape)) + 0.3 for leaf in leaves]), x


def apply(params, x, state):
    return Normed().apply({"params": params, "batch_stats": state}, x)


def test_a_flax_network_with_norms_and_a_skip_is_read_off_its_program():
    variables, x = normed()
    params, state = variables["params"], variables["batch_stats"]
    spec = PermutationSpec.traced(apply, params, x, state=state)
    assert spec.axes["BatchNorm_0.scale"] == spec.axes["BatchNorm_0.mean"] == spec.axes["Conv_0.bias"] == ("Conv_0",)
    assert spec.axes["Dense_0.kernel"] == ("Conv_1", "Dense_0")
    assert spec.axes["Dense_2.kernel"] == ("Dense_1", "Dense_0")  # the skip makes the two streams one
    assert spec.axes["LayerNorm_1.bias"] == ("Dense_0",)
    assert spec.axes["Dense_3.kernel"] == ("Dense_0", None)
    assert spec.sizes(params) == {"Conv_0": 4, "Conv_1": 4, "Dense_0": 4, "Dense_1": 4}
    orders = shuffled(spec, params, 5)
    moved, moved_state = permute(params, orders, spec), permute(state, orders, spec)
    with jax.enable_x64(True):  # in float32 two sums of other orders differ by what the norms make of their rounding
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, moved, state, moved_state, x))
        np.testing.assert_allclose(apply(wide[1], wide[4], wide[3]), apply(wide[0], wide[4], wide[2]), rtol=1e-10)
    before = apply(params, x, state)
    assert np.max(np.abs(apply({**moved, "LayerNorm_0": params["LayerNorm_0"]}, x, moved_state) - before)) > 1e-3
    found = match_weights(params, moved, spec, predict=apply, inputs=x, state=moved_state)
    assert equal(found.params, params)


@pytest.mark.parametrize("with_order", [False, True])
def test_an_order_by_names_alone_is_refused_where_norms_are_sorted_apart(with_order):
    params = normed()[0]["params"]
    params = {name: params[name] for name in ("BatchNorm_0", "BatchNorm_1", "Conv_0", "Conv_1", "LayerNorm_0")}
    order = ("Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "LayerNorm_0")
    if with_order:
        axes = PermutationSpec.sequential(params, order=order).axes
        assert (axes["BatchNorm_0.scale"], axes["BatchNorm_1.scale"]) == (("Conv_0",), (None,))
        return
    with pytest.raises(ValueError, match=r"sorted by name.* more than one order fits .*order=, or read .*\.traced\("):
        PermutationSpec.sequential(params)


def test_shapes_that_leave_one_order_tell_it():
    params = {
        "BatchNorm_0": {"scale": normal(5)}, "Dense_0": {"kernel": normal(7, 5), "bias": normal(5)},
        "Dense_1": {"kernel": normal(5, 3), "bias": normal(3)}, "LayerNorm_0": {"scale": normal(3)},
    }  # fmt: skip
    axes = PermutationSpec.sequential(params).axes
    assert axes["BatchNorm_0.scale"] == ("Dense_0",)
    assert axes["LayerNorm_0.scale"] == (None,)
    named = {"hidden": {"kernel": normal(4, 6)}, "embed": {"kernel": normal(6, 8)}, "a": {"kernel": normal(8, 3)}}
    assert PermutationSpec.sequential(named).axes["a.kernel"] == ("embed", None)
    with pytest.raises(ValueError, match="more than one order fits"):
        PermutationSpec.sequential({"encoder": {"kernel": normal(4, 4)}, "decoder": {"kernel": normal(4, 4)}})


@pytest.mark.parametrize(
    "layers",
    [
        [{"scale": normal(4)}, *mlp(5, 4, 3)],  # before the first kernel: not as long as its inputs
        [*mlp(5, 4, 3), {"scale": normal(4)}],  # after the last one: not as long as its outputs
        [mlp(5, 4)[0], {"kernel": normal(4, 3), "bias": normal(4)}],
    ],
)
def test_vectors_at_both_ends_are_checked(layers):
    with pytest.raises(ValueError, match=r"must have one number for each of the [35] units .* say by order="):
        PermutationSpec.sequential(layers)


def tied(params, x):
    kernel = params["encoder"]["kernel"]
    return jnp.tanh(x @ kernel + params["encoder"]["bias"]) @ kernel.T + params["decoder"]["bias"]


def test_an_autoencoder_with_tied_weights_is_read_off_its_program():
    params = {"encoder": {"kernel": normal(6, 4), "bias": normal(4)}, "decoder": {"bias": normal(6)}}
    spec = PermutationSpec.traced(tied, params, normal(7, 6))
    assert spec.axes == {"decoder.bias": (None,), "encoder.bias": ("encoder",), "encoder.kernel": (None, "encoder")}
    for leaves in (params, {"encoder": params["encoder"]}):
        with pytest.raises(
            ValueError, match=r"got 1: .* tied weights, read it off the program by PermutationSpec.traced"
        ):
            PermutationSpec.sequential(leaves, order=tuple(sorted(leaves, reverse=True)))


def test_attention_is_followed_and_shapes_are_enough():
    attention = nn.MultiHeadDotProductAttention(2, qkv_features=6)
    x = jax.ShapeDtypeStruct((3, 5, 4), jnp.float32)
    params = jax.eval_shape(attention.init, jax.random.key(0), x)["params"]
    axes = PermutationSpec.traced(lambda p, x: attention.apply({"params": p}, x), params, x).axes
    assert axes["query.kernel"] == axes["key.kernel"] == (None, "key_2", "key")
    assert axes["value.kernel"] == (None, "key_2", "value")
    assert axes["out.kernel"] == ("key_2", "value", None)


def forward_with(change):
    return lambda p, x: change(jnp.tanh(x @ p[0]["kernel"] + p[0]["bias"])) @ p[1]["kernel"] + p[1]["bias"]


@pytest.mark.parametrize(
    ("change", "follows"),
    [
        (lambda h: h / jnp.linalg.norm(h, axis=1, keepdims=True), True),
        (lambda h: jax.nn.softmax(h) + jnp.max(h, axis=1, keepdims=True), True),
        (lambda h: jnp.where(h > 0, h, 0.1 * h), True),
        (lambda h: h.reshape(2, 3, 6).transpose(1, 0, 2).swapaxes(0, 1).reshape(6, 6), True),
        (lambda h: jnp.concatenate([h[::2], h[1::2]]), True),
        (lambda h: h[:, ::-1], False),
        (lambda h: jnp.cumsum(h, axis=1), False),
        (lambda h: h * jnp.arange(6.0), False),
        (lambda h: jnp.sort(h, axis=1), False),
        (lambda h: jnp.roll(h, 1, axis=1), False),
        (lambda h: h.at[:, 2].multiply(3.0), False),
        (lambda h: jnp.concatenate([h[:, 3:], h[:, :3]], axis=1), False),
        (lambda h: h.reshape(6, 2, 3).swapaxes(1, 2).reshape(6, 6), False),
        (lambda h: jax.nn.one_hot(jnp.argmax(h, axis=1), 6), False),
        (lambda h: jax.lax.scan(lambda c, row: (c, row), 0.0, h)[1], False),
    ],
)
def test_what_looks_at_the_order_of_units_keeps_them(change, follows):
    params, x = mlp(5, 6, 3), normal(6, 5)
    if not follows:
        with pytest.raises(ValueError, match="no axis of the parameters can be permuted without changing the outputs"):
            PermutationSpec.traced(forward_with(change), params, x)
        return
    assert PermutationSpec.traced(forward_with(change), params, x).axes["1.kernel"] == ("0", None)


def test_outputs_are_compared_on_a_batch():
    a, b, x = mlp(4, 4, 4, 4), mlp(4, 4, 4, 4), normal(9, 4)
    spec = PermutationSpec.sequential(a)
    found = match_weights(a, b, spec, predict=run_mlp, inputs=x)
    assert not equal(found.params, b)
    wrong = PermutationSpec.sequential(a, order=("1", "0", "2"))  # fits the shapes, and is another network
    with pytest.raises(
        ValueError, match=r"changes the outputs by [0-9.]+ .*it is not the spec of this network: read it"
    ):
        match_weights(a, b, wrong, predict=run_mlp, inputs=x)
    assert len(match_weights(a, b, wrong).permutations) == 2  # without a batch nothing can be said

    def narrow(p, x):
        return run_mlp(jax.tree.map(jnp.bfloat16, p), x.astype(jnp.bfloat16))

    half = match_weights(a, b, spec, predict=narrow, inputs=x)
    assert equal(half.params, found.params)
    bowl = Objective(lambda p, batch: jnp.sum(run_mlp(p, batch) ** 2, axis=1), x)
    assert equal(match_weights(a, b, spec, predict=bowl).params, found.params)
    assert PermutationSpec.traced(bowl, a).axes["1.kernel"] == ("0", "1")


# --------------------------------------------------------------------------------------------------------- errors

PARAMS = mlp(5, 4, 3)
SPEC = PermutationSpec.sequential(PARAMS)


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (PARAMS, {"layout": "keras"}, "layout must be one of"),
        (PARAMS, {"order": ("0",)}, r"order must name each of the layers \['0', '1'\] once"),
        ([PARAMS[1], PARAMS[0]], {}, "takes 5 inputs, but the layer before it has 3 units"),
        ([PARAMS[0], mlp(8, 3)[0]], {}, "takes 8 inputs, but the layer before it has 4 units"),
        (
            [{"kernel": normal(3, 3, 2, 4)}, {"kernel": normal(3, 3, 8, 4)}],
            {},
            "takes 8 inputs, but the layer before it has 4 units",
        ),
        ({"a": {"q": normal(2, 2), "k": normal(2, 2)}}, {}, "one kernel of a dense layer or a convolution"),
        ({"a": {"kernel": normal(2, 4), "bias": normal(3)}, "b": {"kernel": normal(4, 2)}}, {}, "each of the 4 units"),
        (PARAMS, {"state": {"norm": {"mean": normal(4)}}}, r"layers that the parameters lack, \['norm'\]"),
    ],
)
def test_networks_that_are_not_sequential_are_refused(params, options, message):
    with pytest.raises(ValueError, match=message):
        PermutationSpec.sequential(params, **options)


@pytest.mark.parametrize(
    ("spec", "permutations", "error", "message"),
    [
        (SPEC, {"2": [0, 1]}, ValueError, "has no group '2'; its groups are 0"),
        (SPEC, {"0": [0.0, 1.0]}, TypeError, "must hold integers"),
        (SPEC, {"0": [0, 2, 2, 1]}, ValueError, r"each of 0 \.\. n-1 once"),
        (SPEC, {"0": [1, 0, 2]}, ValueError, "one entry for each of its 4 units, got 3"),
        (SPEC, {"0": [1, 0]}, ValueError, "one entry for each of its 4 units, got 2"),
        (SPEC, {"0": [1, 0, 2, 3, 4]}, ValueError, "one entry for each of its 4 units, got 5"),
        (PermutationSpec({"0.kernel": (None, "u")}), {"u": [1, 0, 2, 3]}, ValueError, "does not name the leaf 0.bias"),
        (PermutationSpec({**SPEC.axes, "0.bias": ("0", None)}), {}, ValueError, "gives 0.bias the axes"),
    ],
)
def test_bad_permutations_are_refused(spec, permutations, error, message):
    with pytest.raises(error, match=message):
        permute(PARAMS, {group: np.array(order) for group, order in permutations.items()}, spec)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"spec": {"0": 4}}, TypeError, "spec must be a PermutationSpec, got dict"),
        ({"b": mlp(5, 6, 3)}, ValueError, "like a"),
        ({"a": jax.tree.map(lambda x: x.astype(int), PARAMS)}, TypeError, "real floating-point"),
        ({"max_sweeps": 0}, ValueError, "max_sweeps must be at least 1"),
        ({"key": 7}, TypeError, "pass jax.random.key"),
        ({"spec": PermutationSpec({**SPEC.axes, "0.kernel": ("0", "0")})}, ValueError, "must have one length"),
        ({"spec": PermutationSpec(SPEC.axes, flatten="middle")}, ValueError, "flatten must be 'last' or 'first'"),
    ],
)
def test_bad_matchings_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        match_weights(**{"a": PARAMS, "b": PARAMS, "spec": SPEC, **changes})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PermutationSpec.traced(3, PARAMS), TypeError, "predict must be a function"),
        (lambda: PermutationSpec.traced(run_mlp, [jnp.arange(3)], 0), TypeError, "params.0 must be a real floating"),
        (lambda: match_weights(PARAMS, PARAMS, SPEC, predict="f"), TypeError, "predict must be a function"),
        (
            lambda: match_weights(PARAMS, jax.tree.map(lambda x: x.astype(int), PARAMS), SPEC),
            TypeError,
            r"b\.0\.bias must",
        ),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
