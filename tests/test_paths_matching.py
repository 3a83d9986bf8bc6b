"""Permutations: outputs do not change, permuted copies are recognised, assignments are optimal."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import paths
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
