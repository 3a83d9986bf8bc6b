"""Oracles for the pytree algebra: NumPy on the flattened leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import _tree


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
