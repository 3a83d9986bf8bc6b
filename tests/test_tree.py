"""Oracles for the pytree algebra: NumPy on the flattened leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landscape import BasinMap, Grid, Objective, _tree, minima, paths, train_many


def example(rng, k=None):
    lead = () if k is None else (k,)
    return {"w": rng.normal(size=(*lead, 3, 4)), "layers": [rng.normal(size=(*lead, 5)), rng.normal(size=lead)]}


def flat(tree, k):
    return np.concatenate([np.asarray(x).reshape(k, -1) for x in jax.tree.leaves(tree)], axis=1)


def test_key_names_are_written_as_people_write_them():
    tree = {"layers": [{"weight": 2.0}], "b": (3.0,)}
    names = [_tree.key_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert names == ["b.0", "layers.0.weight"]
    assert _tree.key_name(()) == "(root)"


def test_inner_and_combine_against_numpy(x64):
    rng = np.random.default_rng(4)
    a, b, c = example(rng, 3), example(rng, 2), np.array([0.3, -1.7, 2.5])
    np.testing.assert_allclose(_tree.inner(a, b), flat(a, 3) @ flat(b, 2).T, rtol=1e-13)
    combined = _tree.combine(jnp.asarray(c), a)
    np.testing.assert_allclose(flat(_tree.as_stack(combined), 1)[0], c @ flat(a, 3), rtol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_inner_of_half_precision_neither_overflows_nor_drowns(dtype):
    # 5000 * 6^2 = 180,000 lies beyond float16; added one by one in bfloat16 the sum would stop at 36 * 256
    x = {"w": jnp.full((2, 5000), 6.0, dtype)}
    inner = _tree.inner(x, x)
    assert inner.dtype == jnp.float32
    np.testing.assert_allclose(inner, np.full((2, 2), 180_000.0), rtol=1e-6)


def test_combine_of_numpy_double_directions_without_x64_is_single_precision():
    combined = _tree.combine(jnp.array([0.5, 0.25]), {"w": np.full((2, 3), 4.0)})
    assert combined["w"].dtype == jnp.float32
    np.testing.assert_allclose(combined["w"], 3.0)


def test_stack_size_and_num_stacked():
    rng = np.random.default_rng(0)
    trees = [example(rng) for _ in range(3)]
    stacked = _tree.stack(trees)
    assert _tree.num_stacked(stacked) == 3
    assert _tree.size(trees[0]) == 12 + 5 + 1
    np.testing.assert_allclose(stacked["w"][2], trees[2]["w"], rtol=1e-6)


def test_map_with_name():
    tree = {"a": [2.0, 3.0]}
    assert _tree.map_with_name(lambda name, x, y: (name, x * y), tree, {"a": [5.0, 7.0]}) == {
        "a": [("a.0", 10.0), ("a.1", 21.0)]
    }


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (np.arange(3), r"p\.layers\.0 .*int64\[3\]"),
        (np.array([True]), r"p\.layers\.0 .*bool\[1\]"),
        (np.ones(2, np.complex64), r"p\.layers\.0 .*complex64\[2\]"),
        ("relu", r"p\.layers\.0 .*str 'relu'"),
        (7, r"p\.layers\.0 .*int 7"),
    ],
)
def test_check_params_names_the_leaf(leaf, said):
    with pytest.raises(TypeError, match=said):
        _tree.check_params({"w": np.ones((2, 2)), "layers": [leaf]}, "p")


def test_check_params_says_what_to_do_about_a_function():
    with pytest.raises(TypeError, match=r"p\.act must .* got .*; this is a function: .* eqx\.partition\(model, eqx\."):
        _tree.check_params({"w": np.ones(2), "act": jax.nn.relu}, "p")


def test_check_params_says_what_to_do_about_a_tensor(torch):
    for tensor in (torch.ones(3), torch.nn.Linear(3, 2).weight):
        with pytest.raises(TypeError, match=r"p\.w must .* torch\.float32.*; .* pass leaf\.detach\(\)\.cpu\(\)\.numpy"):
            _tree.check_params({"w": tensor}, "p")


def test_check_count():
    for count in (3, np.int64(3), np.uint8(7)):
        _tree.check_count("num", count, 3)
    _tree.check_count("num", -5)
    for other in (3.0, True, "3", np.float32(4), np.bool_(True), None):
        with pytest.raises(TypeError, match=f"num must be an integer, got {type(other).__name__} "):
            _tree.check_count("num", other, 3)
    with pytest.raises(ValueError, match="num must be at least 3, got 2"):
        _tree.check_count("num", np.int32(2), 3)


def test_what_is_traced_cannot_be_looked_at():
    seen = []
    jax.jit(lambda x: seen.append(_tree.is_traced(x)))(2.5)
    assert seen == [True]
    assert not any(map(_tree.is_traced, (2.5, np.ones(2), jnp.ones(2))))


def test_check_params_accepts_floats_of_any_precision_and_refuses_nothing_at_all():
    _tree.check_params({"a": 2.5, "b": jnp.ones(2, jnp.bfloat16), "c": None, "d": np.float64(3.0)})
    with pytest.raises(ValueError, match="params holds no arrays: got dict without leaves"):
        _tree.check_params({})


def test_check_like_names_missing_extra_and_misshapen_leaves():
    reference = {"w": np.ones((2, 3)), "b": np.ones(3)}
    with pytest.raises(ValueError, match=r"dirs must have the structure of params: missing leaves \['b'\].*\['c'\]"):
        _tree.check_like({"w": np.ones((2, 3)), "c": np.ones(3)}, reference, "dirs", "params")
    with pytest.raises(ValueError, match=r"dirs\.w must have shape \(2, 3\) like params, got float64\[3, 2\]"):
        _tree.check_like({"w": np.ones((3, 2)), "b": np.ones(3)}, reference, "dirs", "params")
    with pytest.raises(ValueError, match=r"dirs\.b must have shape \(num, \*shape\) with shape \(3,\)"):
        _tree.check_like({"w": np.ones((5, 2, 3)), "b": np.ones(3)}, reference, "dirs", "params", stacked=True)
    _tree.check_like({"w": np.ones((5, 2, 3)), "b": np.ones((5, 3))}, reference, "dirs", "params", stacked=True)


def test_check_like_refuses_another_container_and_a_scalar_stack():
    with pytest.raises(ValueError, match="the containers differ"):
        _tree.check_like([np.ones(2)], (np.ones(2),), "dirs", "params")
    with pytest.raises(ValueError, match=r"must have shape \(num, \*shape\) with shape \(\)"):
        _tree.check_like({"a": 2.0}, {"a": 3.0}, "dirs", "params", stacked=True)


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 3.0, 1e21, 1e37])
def test_norm_neither_underflows_nor_overflows(scale):
    values = np.array([3.0, -4.0, 12.0], np.float32) * np.float32(scale) / np.float32(13)
    tree = {"a": jnp.asarray(values[:2]), "b": [jnp.asarray(values[2])]}
    expected = np.linalg.norm(values.astype(np.float64))
    np.testing.assert_allclose(_tree.norm(tree), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(_tree.norm)(tree), expected, rtol=1e-6)


def test_norm_at_ordinary_scales_is_to_the_bit_what_it_was():
    x = jnp.asarray(np.random.default_rng(5).normal(size=777), jnp.float32)
    assert _tree.norm(x) == jnp.sqrt(jnp.sum(jnp.square(x)))


def test_norm_of_what_is_not_finite_and_of_nothing_but_zeros():
    assert _tree.norm({"a": jnp.zeros(3)}) == 0
    assert np.isinf(_tree.norm({"a": jnp.array([2.0, -jnp.inf])}))
    assert np.isnan(_tree.norm({"a": jnp.array([2.0, jnp.nan]), "b": jnp.array(1e30)}))


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 3.0, 1e21, 1e30])
def test_norms_along_axes_each_have_a_scale_of_their_own(scale):
    x = np.array([[3.0, 4.0], [5e-7, 12e-7], [0.0, 0.0]], np.float32) * np.float32(scale)
    powers, roots = _tree.scaled_norms(jnp.asarray(x), 1)
    expected = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(powers, np.float64) * np.asarray(roots, np.float64), expected, rtol=1e-6)
    assert np.all(np.frexp(np.asarray(powers))[0] == 0.5)


# -------------------------------------------------------------------------------------------- a list is a tree too


def net(rng, width=4):
    return {"w": rng.normal(size=(3, width)).astype(np.float32), "b": rng.normal(size=width).astype(np.float32)}


def layers(rng):
    """A tree that is a list of layers of equal shapes, so that a stack of it looks like a list of trees."""
    return [{"w": rng.normal(size=(4, 4)), "b": rng.normal(size=4)} for _ in range(3)]


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_trees_is_stacked_and_a_stack_stays(kind):
    trees = [net(np.random.default_rng(i)) for i in range(5)]
    expected = {name: np.stack([tree[name] for tree in trees]) for name in "wb"}
    equal(_tree.read_stack(kind(trees), "dirs"), expected)
    equal(_tree.read_stack(expected, "dirs"), expected)
    equal(_tree.read_stack(kind(trees), "dirs", trees[0]), expected)
    equal(_tree.read_stack(expected, "dirs", trees[0]), expected)
    equal(_tree.read_stack(kind([2.0, 3.0, 5.0]), "dirs"), np.array([2.0, 3.0, 5.0]))


def test_lists_of_numpy_keep_their_precision_on_the_host():
    stacked = _tree.read_stack([{"w": np.array([1 / 3, 2 / 3]), "b": np.array(5 / 3)}] * 3, "minima")
    assert stacked["w"].dtype == np.float64


def test_a_list_that_could_be_both_is_refused_unless_a_tree_or_the_number_tells():
    trees = [layers(np.random.default_rng(i)) for i in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *trees)
    with pytest.raises(ValueError, match=r"dirs is a list that could be 3 trees, or one stack of 2 trees, each a list"):
        _tree.read_stack(stacked, "dirs")
    equal(_tree.read_stack(stacked, "dirs", trees[0]), stacked)
    equal(_tree.read_stack(trees, "dirs", trees[0]), stacked)
    equal(_tree.read_stack(stacked, "dirs", num=2), stacked)
    three = [{"w": np.full((2, 2), 3.0), "b": np.full(2, 5.0)}] * 3
    assert _tree.read_stack(three, "dirs", num=3)["w"].shape == (3, 2, 2)
    with pytest.raises(ValueError, match="could be 3 trees, or one stack of 7 trees"):
        _tree.read_stack([jnp.ones(7), jnp.zeros(7), jnp.ones(7)], "dirs")
    with pytest.raises(ValueError, match="could be 3 trees, or one stack of 2"):
        _tree.read_stack(three, "dirs", num=5)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ([net(np.random.default_rng(0)), net(np.random.default_rng(0), 7)], ValueError, "of one structure and equal"),
        ([net(np.random.default_rng(0)), {"w": np.ones((3, 4))}], ValueError, "of one structure and equal shapes"),
        ({"w": np.ones((3, 4)), "b": np.ones(4)}, ValueError, r"got leaves b \(4,\), w \(3, 4\)"),
        ({"w": np.ones((0, 4))}, ValueError, "must hold at least one tree"),
        ([], ValueError, "dirs holds no arrays: got list"),
        (None, ValueError, "dirs holds no arrays: got NoneType"),
        ("path.npz", TypeError, r"dirs must be a real floating-point array, got str 'path.npz'; give the arrays"),
        (np.array([{"w": 1.0}], object), TypeError, r"dirs must be a real floating-point array, got object\[1\]"),
        ([{"w": np.ones(2), "num_batches_tracked": np.array(7)}] * 3, TypeError, r"dirs\.0\.num_batches_tracked must"),
        ({"w": np.ones((3, 2), complex)}, TypeError, r"dirs\.w must be a real floating-point array, got complex128"),
    ],
)
def test_what_is_no_stack_is_refused(value, error, said):
    with pytest.raises(error, match=said):
        _tree.read_stack(value, "dirs")


def test_a_list_of_other_trees_than_the_reference_names_the_element_and_the_leaf():
    good = net(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"dirs\[1\]\.b must have shape \(4,\) like params"):
        _tree.read_stack([good, net(np.random.default_rng(1), 5)], "dirs", good)
    with pytest.raises(ValueError, match=r"dirs must hold at least one tree, the same number in every leaf"):
        _tree.read_stack({"w": np.ones((2, 3, 4)), "b": np.ones((5, 4))}, "dirs", good)


def test_curves_through_a_list_of_nodes():
    rng = np.random.default_rng(3)
    nodes = [net(rng) for _ in range(3)]
    t = 0.3
    shares = np.array([(1 - t) ** 2, 2 * t * (1 - t), t**2])
    at = paths.Bezier(nodes)(t)
    np.testing.assert_allclose(at["w"], sum(s * node["w"] for s, node in zip(shares, nodes)), rtol=1e-5)
    assert paths.Bezier(nodes).num_nodes == 3
    equal(paths.Chain(nodes)(0.5)["b"], jnp.asarray(nodes[1]["b"]))
    equal(jax.device_get(paths.Bezier(nodes).ends[1]), nodes[2])
    with pytest.raises(ValueError, match="nodes is a list that could be 3 trees, .* pass stacked=True"):
        paths.Bezier([jnp.ones(4), jnp.zeros(4), jnp.ones(4)])(0.5)


def test_a_trained_curve_between_lists_of_equal_layers_is_known_to_be_one():
    a, b = ([jnp.full((2, 2), x), jnp.full((2, 2), -x)] for x in (2.0, 5.0))
    bowl = Objective(lambda p, _: jnp.sum(p[0] ** 2) + jnp.sum(p[1] ** 2))
    path = paths.fit_bezier(jax.random.key(0), bowl, a, b, num_steps=2).path
    equal(path(1.0), b)


def test_many_trainings_from_a_list_of_starts():
    starts = [{"x": np.float32(x) * np.ones(3, np.float32), "y": np.float32(x)} for x in (2.0, -3.0, 5.0)]
    bowl = Objective(lambda p, _: jnp.sum(p["x"] ** 2) + p["y"] ** 2)
    runs = train_many(bowl, optax.sgd(0.25), starts, num_steps=3, batch=1, progress=False)
    np.testing.assert_allclose(runs.params["x"], np.array([2.0, -3.0, 5.0])[:, None] * np.full(3, 0.125), rtol=1e-6)
    with pytest.raises(
        ValueError, match="inits is a list that could be 2 trees, .* say how many runs there are by num_"
    ):
        train_many(bowl, optax.sgd(0.25), [jnp.ones(3), jnp.zeros(3)], num_steps=3, progress=False)
    with pytest.raises(TypeError, match=r"inits\.0\.x must be a real floating-point array"):
        train_many(bowl, optax.sgd(0.25), [{"x": jnp.arange(3)}] * 2, num_steps=3, progress=False)
    same = [jnp.ones(3), jnp.zeros(3)]
    runs = train_many(Objective(lambda p, _: jnp.sum(p**2)), optax.sgd(0.25), same, num_runs=2, num_steps=0, batch=1,
                      progress=False)  # fmt: skip
    np.testing.assert_array_equal(runs.params, np.stack(same))


def test_basins_of_a_list_of_minima_and_a_list_of_minima_told_apart():
    wells = Objective(lambda p, _: (p["x"] ** 2 - 4.0) ** 2)
    ends = [{"x": np.float32(-2.0)}, {"x": np.float32(2.0)}]
    basins = BasinMap(lambda c: {"x": c[0]}, wells, optax.sgd(0.01), 60, minima=ends, radius=0.1)
    basins.check_grid(Grid.of(x=[-3.0, 3.0]))
    assert [int(basins(np.array([x]))["label"]) for x in (-1.0, 1.5)] == [0, 1]
    points = [{"x": np.array([2.0, 3.0])}, {"x": np.array([7.0, 3.0])}, {"x": np.array([2.0, 3.0])}]
    told = minima.distinct(points, [0.5, 0.7, 0.5])
    assert told.labels.tolist() == [0, 1, 0]
    assert told.representatives["x"].dtype == np.float64
    with pytest.raises(TypeError, match=r"minima\.n must be a real floating-point array, got int64\[2\]"):
        minima.distinct({"n": np.arange(2)}, [0.5, 0.7])
