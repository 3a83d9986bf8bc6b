"""Oracles for subspaces: NumPy's lstsq and SVD, scikit-learn's PCA, norms by hand, invariances, a published null."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from landscape import Grid, Objective, Subspace, _tree, subspace

KEY = jax.random.key(3)


def tree(rng, *lead, scale=1.0):
    return {"w": scale * rng.normal(size=(*lead, 3, 4)), "layers": [scale * rng.normal(size=(*lead, 5))]}


def flat(t, k=1):
    return np.concatenate([np.asarray(x, np.float64).reshape(k, -1) for x in jax.tree.leaves(t)], axis=1)


def to_jax(t):
    return jax.tree.map(jnp.asarray, t)


# ------------------------------------------------------------------------------------------ the affine map


def test_origin_at_zero_to_the_bit_and_affine_elsewhere():
    rng = np.random.default_rng(1)
    origin, directions = to_jax(tree(rng, scale=1e3)), to_jax(tree(rng, 2, scale=1e-3))
    plane = Subspace(origin, directions)
    assert plane.dim == 2
    np.testing.assert_array_equal(flat(plane(jnp.zeros(2))), flat(origin))
    expected = flat(origin)[0] + np.array([0.3, -1.7]) @ flat(directions, 2)
    np.testing.assert_allclose(flat(plane(np.array([0.3, -1.7])))[0], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters_stay_so_and_are_rounded_once(dtype):
    origin = {"w": jnp.asarray([2.0, 3.0, 300.0], dtype)}
    plane = Subspace(origin, {"w": jnp.asarray([[0.7, 5.0, 0.0], [0.25, -2.5, 30.0]], dtype)})
    at = plane(jnp.array([0.3, 1.7]))["w"]
    assert at.dtype == dtype
    d = np.asarray(plane.directions["w"], np.float64)
    expected = jnp.asarray(np.array([2.0, 3.0, 300.0]) + np.array([0.3, 1.7]) @ d, dtype)
    np.testing.assert_array_equal(np.asarray(at, np.float64), np.asarray(expected, np.float64))


def test_subspace_is_a_pytree():
    rng = np.random.default_rng(2)
    plane = Subspace(to_jax(tree(rng)), to_jax(tree(rng, 2)))
    coords = jnp.array([[0.3, -1.7], [2.5, 0.4]])
    batch = jax.jit(jax.vmap(Subspace.__call__, in_axes=(None, 0)))(plane, coords)
    np.testing.assert_allclose(flat(batch, 2)[1], flat(plane(coords[1]))[0], rtol=1e-6)


# --------------------------------------------------------------------------------------------- projection


@jax.jit
def measure(plane, point):
    return plane.project(point), plane.residual(point), plane.gram()


@given(st.sampled_from([1, 2, 4]), st.integers(0, 10**6), st.lists(st.floats(-4, 4), min_size=4, max_size=4))
def test_project_is_least_squares_for_skew_directions_of_any_length(k, seed, powers):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        lengths = 10.0 ** np.array(powers[:k])
        directions = jax.tree.map(lambda x: x * lengths.reshape(-1, *[1] * (x.ndim - 1)), tree(rng, k))
        plane, point = Subspace(to_jax(tree(rng)), to_jax(directions)), to_jax(tree(rng))
        v = (flat(point) - flat(plane.origin))[0]
        expected, *_ = np.linalg.lstsq(flat(directions, k).T / lengths, v, rcond=None)
        coords, residual, gram = measure(plane, point)
        np.testing.assert_allclose(coords * lengths, expected, rtol=1e-8, atol=1e-10)
        distance = np.linalg.norm(v - expected @ (flat(directions, k) / lengths[:, None]))
        np.testing.assert_allclose(residual, distance, rtol=1e-8)
        np.testing.assert_allclose(gram, flat(directions, k) @ flat(directions, k).T, rtol=1e-9)


@pytest.mark.parametrize("angle", [0.3, 0.01, 0.002])
def test_project_survives_nearly_parallel_directions_in_single_precision(angle):
    # through the Gram matrix the error would be eps / angle^2: a tenth at 0.003 rad
    a, b = np.random.default_rng(0).normal(size=(2, 20_000))
    b = np.linalg.norm(a) * np.cos(angle) * a / np.linalg.norm(a) + np.sin(angle) * b
    plane = Subspace(jnp.zeros(20_000), jnp.asarray(np.stack([a, 50 * b]), jnp.float32))
    coords = plane.project(plane(jnp.array([0.7, -1.3])))
    np.testing.assert_allclose(coords, [0.7, -1.3], rtol=0.01 * 0.002 / angle)


def test_project_on_parallel_directions_gives_the_least_norm_in_units_of_their_lengths():
    d = np.random.default_rng(5).normal(size=30_000).astype(np.float32)
    plane = Subspace(jnp.zeros(30_000), jnp.asarray(np.stack([d, 3 * d])))
    # 2 d = c1 d + c2 3d with c1 = 3 c2
    np.testing.assert_allclose(plane.project(jnp.asarray(2 * d)), [1.0, 1 / 3], rtol=1e-4)


def test_project_on_a_zero_direction_and_on_more_directions_than_parameters():
    d = jnp.array([[2.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(Subspace(jnp.zeros(2), d).project(jnp.array([3.0, 4.5])), [1.5, 0.0], atol=1e-6)
    many = np.random.default_rng(6).normal(size=(3, 2))
    unit = many / np.linalg.norm(many, axis=1, keepdims=True)
    expected = np.linalg.lstsq(unit.T, np.array([0.7, -2.0]), rcond=None)[0]
    coords = Subspace(jnp.zeros(2), jnp.asarray(unit, jnp.float32)).project(jnp.array([0.7, -2.0]))
    np.testing.assert_allclose(coords, expected, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------- checks


def test_check_grid_names_what_does_not_fit():
    origin = {"w": jnp.full((3, 2), 0.7)}
    plane = Subspace(origin, {"w": jnp.full((2, 3, 2), 0.4)})
    plane.check_grid(Grid.square(2.0, 5))
    with pytest.raises(ValueError, match="2 directions, the grid 1 axes"):
        plane.check_grid(Grid.line())
    with pytest.raises(TypeError, match=r"origin\.steps must be a real floating-point array, got int32\[\]"):
        Subspace({**origin, "steps": jnp.int32(4)}, plane.directions).check_grid(Grid.square())
    with pytest.raises(ValueError, match=r"directions must have the structure of the origin: missing leaves \['w'\]"):
        Subspace(origin, {"v": jnp.ones((2, 3))}).check_grid(Grid.square())
    with pytest.raises(ValueError, match=r"directions\.w must have shape \(num, \*shape\) with shape \(3, 2\)"):
        Subspace(origin, {"w": jnp.ones((3, 2))}).check_grid(Grid.square())


def zooms():
    origin = jax.random.normal(KEY, (64,))
    return (
        origin,
        jax.random.normal(jax.random.key(8), (2, 64)),
        Grid.of(alpha=np.linspace(-5e-8, 5e-8, 512), beta=np.linspace(-0.5, 0.5, 3)),
    )


def test_a_grid_finer_than_single_precision_is_refused_and_would_collapse():
    origin, directions, grid = zooms()
    plane = Subspace(origin, directions)
    columns = jax.vmap(plane)(jnp.asarray(grid.points()[1::3], jnp.float32))
    assert len(np.unique(np.asarray(columns), axis=0)) < 512
    with pytest.raises(ValueError, match="finer than float32 resolves: one step of 'alpha'.*use float64"):
        plane.check_grid(grid)
    with pytest.raises(ValueError, match="finer than float32 resolves"):
        Subspace({"a": 0.5}, {"a": jnp.full((1,), 2.0)}).check_grid(Grid.line(1e-8, 99))


def test_the_same_grid_is_resolved_in_double_precision(x64):
    origin, directions, grid = zooms()
    plane = Subspace(origin.astype(jnp.float64), directions.astype(jnp.float64))
    plane.check_grid(grid)
    columns = jax.vmap(plane)(jnp.asarray(grid.points()[1::3]))
    assert len(np.unique(np.asarray(columns), axis=0)) == 512


@pytest.mark.parametrize("num", [5, 51, 2001])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_reasonable_grids_pass(num, dtype):
    if dtype == jnp.bfloat16 and num > 51:
        return
    origin = {"w": jax.random.normal(KEY, (40, 30), dtype), "b": jnp.zeros(30, dtype)}
    directions = subspace.filter_normalize(subspace.random_directions(jax.random.key(1), origin), origin)
    Subspace(origin, directions).check_grid(Grid.square(1.0, num))
    Subspace(origin, jax.tree.map(jnp.zeros_like, directions)).check_grid(Grid.square(1.0, num))


# ----------------------------------------------------------------------------------------- random directions


def test_random_directions_are_standard_normal_and_independent():
    params = {"w": jnp.ones((200, 300), jnp.float32), "b": jnp.ones(50, jnp.bfloat16), "s": 0.5}
    dirs = subspace.random_directions(KEY, params, 3)
    assert [x.shape for x in jax.tree.leaves(dirs)] == [(3, 50), (3,), (3, 200, 300)]
    assert [str(x.dtype) for x in jax.tree.leaves(dirs)] == ["bfloat16", "float32", "float32"]
    correlation = flat(dirs, 3) @ flat(dirs, 3).T / 60_051
    np.testing.assert_allclose(correlation, np.eye(3), atol=5 / np.sqrt(60_051) * np.sqrt(2))
    assert not np.array_equal(dirs["b"][0], dirs["b"][1])
    with pytest.raises(TypeError, match=r"params\.n must be a real floating-point array"):
        subspace.random_directions(KEY, {"n": jnp.arange(3)})


# ------------------------------------------------------------------------------------- filter normalisation


def norms(x, keep):
    """Norms over all axes but `keep`, by an explicit loop over the filters."""
    x = np.asarray(x, np.float64)
    moved = np.moveaxis(x, keep, range(len(keep)))
    return np.array([np.linalg.norm(f) for f in moved.reshape(int(np.prod(moved.shape[: len(keep)])), -1)])


FLAX = {
    "Dense_0": {"kernel": ((5, 4), (1,)), "bias": ((4,), None)},
    "Conv_0": {"kernel": ((3, 3, 2, 4), (3,)), "bias": ((4,), None)},
    "Embed_0": {"embedding": ((7, 3), (0,))},
    "embedding": {"kernel": ((4, 4, 3, 6), (3,))},  # the patch embedding of a vision transformer is a convolution
    "BatchNorm_0": {"scale": ((4,), None), "bias": ((4,), None)},
    "attention": {
        "query": {"kernel": ((6, 2, 3), (1, 2)), "bias": ((2, 3), None)},
        "out": {"kernel": ((2, 3, 6), (2,)), "bias": ((6,), None)},
    },
}
TORCH = {
    "fc": {"weight": ((4, 5), (0,)), "bias": ((4,), None)},
    "conv": {"weight": ((4, 2, 3, 3), (0,)), "bias": ((4, 1, 1), None)},
    "embedding": {"weight": ((7, 3), (0,))},
    "in_proj_weight": ((12, 4), (0,)),
}


def is_spec(x):
    return isinstance(x, tuple)


@pytest.mark.parametrize(("layout", "specs"), [("flax", FLAX), ("torch", TORCH)])
@pytest.mark.parametrize("include_vectors", [False, True])
def test_every_filter_gets_the_norm_of_its_weights(layout, specs, include_vectors):
    rng = np.random.default_rng(9)
    params = jax.tree.map(lambda s: np.float32(rng.normal(size=s[0]) * 3 + 0.4), specs, is_leaf=is_spec)
    dirs = jax.tree.map(lambda w: np.float32(rng.normal(size=(2, *w.shape))), params)
    normalize = partial(subspace.filter_normalize, filter_axis=layout, include_vectors=include_vectors)

    def check(spec, w, drawn, new):
        for d, n in zip(drawn, new):
            if spec[1] is None and not include_vectors:
                np.testing.assert_array_equal(n, np.zeros(spec[0]))
                continue
            keep = spec[1] or ()
            np.testing.assert_allclose(norms(n, keep), norms(w, keep), rtol=1e-5)
            # each filter is scaled by one positive number: cosine 1 with what was drawn
            np.testing.assert_allclose(norms(n / w_norm(n, keep) - d / w_norm(d, keep), keep), 0, atol=1e-6)

    def w_norm(x, keep):
        over = tuple(axis for axis in range(x.ndim) if axis not in keep)
        return np.sqrt(np.sum(np.square(x), axis=over, keepdims=True))

    jax.tree.map(check, specs, params, dirs, jax.device_get(jax.jit(normalize)(dirs, params)), is_leaf=is_spec)


def test_layouts_that_agree_share_their_rule():
    assert subspace.LAYOUTS["flax"] is subspace.LAYOUTS["haiku"]
    assert subspace.LAYOUTS["torch"] is subspace.LAYOUTS["equinox"]


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("conv.kernel.value", (3, 4, 5), -1),  # nnx ends every path in `value`, which is no value of attention
        ("conv.kernel", (3, 4, 5), -1),
        ("attention.value.kernel.value", (6, 2, 3), (1, 2)),
        ("attention.value.kernel", (6, 2, 3), (1, 2)),
        ("embed.embedding.value", (7, 3), 0),
        ("value", (5, 4), -1),
        ("low_rank.b", (4, 6), -1),
        ("norm.scale", (3, 4), -1),
        ("norm.scale", (1, 1, 1, 4), None),
        ("conv.b", (4, 1, 1), None),
        ("attention.query.bias.value", (2, 3), None),
        ("step", (), None),
    ],
)
def test_flax_filters_by_name_and_shape(name, shape, axis):
    assert subspace.flax_filter_axis(name, jax.ShapeDtypeStruct(shape, jnp.float32)) == axis


by_last_axis = partial(subspace.filter_normalize, filter_axis=-1)  # said, for names that no rule knows


@pytest.mark.parametrize("normalize", [by_last_axis, subspace.layer_normalize])
def test_a_matrix_called_b_moves(normalize):
    params = {"a": jnp.full((3, 4), 2.0), "b": jnp.full((4, 5), 3.0)}
    new = normalize(subspace.random_directions(KEY, params, 1), params)
    np.testing.assert_allclose([np.linalg.norm(new[name]) for name in "ab"], [2 * 12**0.5, 3 * 20**0.5], rtol=1e-6)


def test_weights_stored_by_row_are_not_taken_for_columns_in_silence():
    params = {"fc": {"weight": jnp.full((4, 5), 2.0), "bias": jnp.ones(4)}, "norm": {"weight": jnp.ones(5)}}
    dirs = subspace.random_directions(KEY, params, 1)
    with pytest.warns(UserWarning, match=r"fc\.weight looks like a PyTorch or equinox weight.*filter_axis=\"torch\""):
        new = subspace.filter_normalize(dirs, params)
    said = subspace.filter_normalize(dirs, params, filter_axis=-1)
    np.testing.assert_array_equal(new["fc"]["weight"], said["fc"]["weight"])
    subspace.filter_normalize(dirs["norm"], params["norm"])  # a vector has no filters, so nothing is to be said


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (2, 2))(x).reshape(x.shape[0], -1)
        x = nn.LayerNorm()(nn.Dense(5)(x))
        return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(x[:, None])


def test_flax_names_its_parameters_as_the_layout_expects():
    shapes = jax.eval_shape(Net().init, KEY, jnp.ones((2, 4, 4, 1)))["params"]
    rules = _tree.map_with_name(lambda name, leaf: (name, subspace.flax_filter_axis(name, leaf)), shapes)
    axes = dict(jax.tree.leaves(rules, is_leaf=lambda x: isinstance(x, tuple)))
    assert {axis for name, axis in axes.items() if "bias" in name or "scale" in name} == {None}
    assert axes["Conv_0.kernel"] == axes["Dense_0.kernel"] == -1
    attention = "MultiHeadDotProductAttention_0"
    assert shapes[attention]["query"]["kernel"].shape == (5, 2, 2)
    assert [axes[f"{attention}.{part}.kernel"] for part in ("query", "key", "value", "out")] == [(1, 2)] * 3 + [-1]


def test_zero_filters_zero_draws_and_half_precision():
    w = jnp.asarray(np.array([[300.0, 0.0], [400.0, 0.0]]), jnp.float16)  # 300^2 is beyond float16
    d = jnp.asarray(np.array([[[3.0, 5.0], [4.0, 7.0]], [[0.0, 2.0], [0.0, 3.0]]]), jnp.float16)
    new = subspace.filter_normalize({"w": d}, {"w": w})["w"]
    assert new.dtype == jnp.float16
    np.testing.assert_allclose(new[0], [[300.0, 0.0], [400.0, 0.0]])
    np.testing.assert_array_equal(new[1], np.zeros((2, 2)))


def test_own_rules_and_errors():
    params = {"a": jnp.full((3, 4), 2.0), "c": jnp.full((3, 4), 5.0)}
    dirs = subspace.random_directions(KEY, params, 1)
    new = subspace.filter_normalize(dirs, params, filter_axis=lambda name, leaf: 0 if name == "a" else None)
    np.testing.assert_allclose(norms(new["a"][0], (0,)), [4.0, 4.0, 4.0], rtol=1e-6)
    assert not np.any(new["c"])
    with pytest.raises(ValueError, match="filter_axis must be an axis, a function or one of .*'torch'.*got 'keras'"):
        subspace.filter_normalize(dirs, params, filter_axis="keras")
    with pytest.raises(ValueError, match=r"filter_axis \(2,\) does not exist in a, float32\[3, 4\]"):
        subspace.filter_normalize(dirs, params, filter_axis=2)
    with pytest.raises(ValueError, match=r"dirs\.a must have shape \(num, \*shape\)"):
        subspace.filter_normalize(params, params)


def test_layer_normalize_matches_whole_leaves():
    rng = np.random.default_rng(2)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 4)) * 7), "bias": jnp.asarray(rng.normal(size=4))}
    dirs = subspace.random_directions(KEY, params, 2)
    new = subspace.layer_normalize(dirs, params)
    np.testing.assert_allclose(
        np.linalg.norm(new["kernel"], axis=(1, 2)), np.linalg.norm(params["kernel"]) * np.ones(2), rtol=1e-6
    )
    assert not np.any(new["bias"])
    with_vectors = subspace.layer_normalize(dirs, params, include_vectors=True)
    np.testing.assert_allclose(
        np.linalg.norm(with_vectors["bias"], axis=1), [np.linalg.norm(params["bias"])] * 2, rtol=1e-6
    )


@pytest.mark.parametrize("normalize", [by_last_axis, subspace.layer_normalize])
def test_scale_invariant_twins_give_the_same_picture(x64, normalize):
    # relu(x W1 a) W2 / a is the same function for all a > 0 (Li et al. 2018, section 3)
    rng = np.random.default_rng(3)
    x, y = jnp.asarray(rng.normal(size=(20, 4))), jnp.asarray(rng.normal(size=(20, 2)))
    one = [jnp.asarray(rng.normal(size=(4, 6))), jnp.asarray(rng.normal(size=(6, 2)))]
    twin = [one[0] * 25.0, one[1] / 25.0]

    def loss_fn(params, batch):
        return jnp.sum((jax.nn.relu(batch[0] @ params[0]) @ params[1] - batch[1]) ** 2, axis=1)

    objective, dirs = Objective(loss_fn, (x, y)), subspace.random_directions(KEY, one)
    points = jnp.asarray(Grid.square(1.0, 3).points())

    @jax.jit
    def picture(params, dirs):
        return jax.vmap(lambda c: objective(Subspace(params, dirs)(c)))(points)

    np.testing.assert_allclose(picture(one, normalize(dirs, one)), picture(twin, normalize(dirs, twin)), rtol=1e-10)
    assert not np.allclose(picture(one, dirs), picture(twin, dirs), rtol=0.1)


# ------------------------------------------------------------------------------------------ orthonormal, mask


@pytest.mark.parametrize("k", [1, 2, 5])
def test_orthonormalize_against_numpy_qr(x64, k):
    rng = np.random.default_rng(k)
    dirs = tree(rng, k, scale=30.0)
    new = flat(subspace.orthonormalize(to_jax(dirs)), k)
    q, r = np.linalg.qr(flat(dirs, k).T)
    np.testing.assert_allclose(new, (q * np.sign(np.diag(r))).T, rtol=1e-9, atol=1e-12)


def test_orthonormal_to_rounding_in_single_precision_even_for_nearly_parallel_directions():
    d = np.random.default_rng(0).normal(size=(3, 50_000))
    d[1] = 40 * (d[0] + 1e-3 * d[1])
    new = flat(subspace.orthonormalize(jnp.asarray(d, jnp.float32)), 3)
    np.testing.assert_allclose(new @ new.T, np.eye(3), atol=2e-6)


def test_orthonormalize_refuses_dependent_directions():
    d = np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32)
    for dependent in ([d[0], -7 * d[0]], [d[0], d[1], 2 * d[0] - 3 * d[1]], [d[0], 0 * d[0]], np.eye(3, 2) + 0.5):
        with pytest.raises(ValueError, match="the directions are linearly dependent"):
            subspace.orthonormalize(jnp.asarray(np.array(dependent), jnp.float32))


def test_orthonormalize_in_double_precision_accepts_what_double_resolves(x64):
    d = np.array([[2.0, 3.0], [2.0, 3.0 + 1e-7]])
    new = np.asarray(subspace.orthonormalize(jnp.asarray(d)))
    np.testing.assert_allclose(new @ new.T, np.eye(2), atol=1e-12)


def test_mask_by_name_and_by_function():
    dirs = {
        "layers": [{"kernel": jnp.full((2, 3, 4), 5.0)}, {"kernel": jnp.full((2, 4), 7.0)}],
        "head": jnp.full((2, 3), 3.0),
    }
    by_name = subspace.mask(dirs, r"layers\.0|head$")
    assert [float(x.max()) for x in jax.tree.leaves(by_name)] == [3.0, 5.0, 0.0]
    by_function = subspace.mask(dirs, lambda name, leaf: leaf.ndim == 2 and name.startswith("layers"))
    assert [float(x.max()) for x in jax.tree.leaves(by_function)] == [0.0, 0.0, 7.0]
    with pytest.raises(ValueError, match=r"mask keeps no leaf; the leaves are head, layers\.0\.kernel, layers\.1"):
        subspace.mask(dirs, "decoder")


# -------------------------------------------------------------------------------------------------- PCA


def path(rng, length):
    """Snapshots with strongly unequal, known principal directions."""
    q, _ = np.linalg.qr(rng.normal(size=(17, 5)))
    steps = rng.normal(size=(length, 5)) * np.array([9.0, 4.0, 2.0, 0.5, 0.1])
    return 3.0 + steps @ q.T


def unflat(rows):
    return {"layers": [jnp.asarray(rows[:, :5])], "w": jnp.asarray(rows[:, 5:].reshape(-1, 3, 4))}


@pytest.mark.parametrize("length", [4, 9, 40])
def test_pca_against_scikit_learn_and_numpy(x64, length):
    rows = path(np.random.default_rng(length), length)
    dirs, explained = subspace.pca_directions(unflat(rows), 3)
    reference = PCA(3).fit(rows)
    np.testing.assert_allclose(explained, reference.explained_variance_ratio_, rtol=1e-9)
    ours = flat(dirs, 3)
    np.testing.assert_allclose(np.abs(np.sum(ours * reference.components_, axis=1)), 1.0, rtol=1e-9)
    _, _, v = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(ours, v[:3] * np.sign(np.sum(ours * v[:3], axis=1))[:, None], atol=1e-8)
    np.testing.assert_allclose(ours @ ours.T, np.eye(3), atol=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_pca_path_ends_on_the_positive_side(seed):
    rows = path(np.random.default_rng(seed), 6).astype(np.float32)
    dirs, _ = subspace.pca_directions(unflat(rows), 2)
    moved = flat(dirs, 2) @ (rows[-1] - rows[0])
    assert np.all(moved >= -1e-4)
    mirrored, _ = subspace.pca_directions(unflat(rows[::-1]), 2)
    np.testing.assert_allclose(flat(mirrored, 2), -flat(dirs, 2), atol=1e-3)


def test_pca_of_a_small_movement_far_from_zero_in_single_precision():
    # movement of a thousandth of the norm: centring about the mean first would lose four digits for nothing
    rows = (1.0 + 1e-3 * path(np.random.default_rng(1), 12)).astype(np.float32)
    _, explained = subspace.pca_directions(unflat(rows), 2)
    np.testing.assert_allclose(explained, PCA(2).fit(rows.astype(np.float64)).explained_variance_ratio_, rtol=1e-4)


@pytest.mark.parametrize("num", [0, 4, 9])
def test_pca_needs_more_snapshots_than_directions(num):
    with pytest.raises(ValueError, match=rf"{num} principal directions need at least {num + 1} snapshots, got 4"):
        subspace.pca_directions(unflat(path(np.random.default_rng(0), 4)), num)


@pytest.mark.parametrize("length", [3, 7, 50])
@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_pca_of_snapshots_that_stand_still_is_refused(length, value):
    # 0.1 averaged in float32 is not 0.1: a direction of pure rounding would explain 100 %
    with pytest.raises(ValueError, match="the snapshots vary in fewer than 1 directions"):
        subspace.pca_directions({"w": jnp.full((length, 50), value)}, 1)


def test_pca_of_a_straight_path_has_one_direction():
    d = jax.random.normal(KEY, (1, 500))
    straight = {"w": jnp.linspace(0.0, 5.0, 9)[:, None] * d}
    dirs, explained = subspace.pca_directions(straight, 1)
    np.testing.assert_allclose(explained, [1.0], rtol=1e-6)
    np.testing.assert_allclose(dirs["w"][0], d[0] / jnp.linalg.norm(d), atol=1e-6)
    with pytest.raises(ValueError, match="the snapshots vary in fewer than 2 directions"):
        subspace.pca_directions(straight, 2)


def test_pca_of_half_precision_snapshots():
    rows = path(np.random.default_rng(1), 12)
    dirs, explained = subspace.pca_directions(jax.tree.map(lambda x: x.astype(jnp.bfloat16), unflat(rows)), 2)
    assert dirs["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(explained, PCA(2).fit(rows).explained_variance_ratio_, rtol=0.02)


@pytest.mark.parametrize("length", [3, 20, 200])
def test_random_walk_null_is_exact_in_high_dimension(x64, length):
    # T snapshots of a walk in infinitely many dimensions: the Gram matrix tends to that of the cumulative sums
    sums = np.tril(np.ones((length, length)))
    centre = np.eye(length) - 1 / length
    eigenvalues = np.linalg.eigvalsh(centre @ sums @ sums.T @ centre)[::-1][: length - 1]
    expected = eigenvalues / eigenvalues.sum()
    np.testing.assert_allclose(subspace.random_walk_explained(length, length - 1), expected, rtol=1e-8)


def test_random_walk_null_against_a_simulated_walk_and_its_limit():
    walk = np.cumsum(np.random.default_rng(0).normal(size=(60, 20_000)), axis=0).astype(np.float32)
    _, explained = subspace.pca_directions({"w": jnp.asarray(walk)}, 4)
    np.testing.assert_allclose(explained, subspace.random_walk_explained(60, 4), rtol=0.05)
    # Antognini & Sohl-Dickstein 2018: 60.8 % and 15.2 %
    limit = 6 / (np.pi * np.arange(1, 5)) ** 2
    np.testing.assert_allclose(limit[:2], [0.608, 0.152], atol=5e-4)
    np.testing.assert_allclose(subspace.random_walk_explained(10**5, 4), limit, rtol=1e-4)


# ------------------------------------------------------------------------------------- lines and planes


def test_line_from_a_to_b():
    rng = np.random.default_rng(0)
    a, b = to_jax(tree(rng)), to_jax(tree(rng))
    between = subspace.line(a, b)
    np.testing.assert_array_equal(flat(between(jnp.zeros(1))), flat(a))
    np.testing.assert_allclose(flat(between(jnp.ones(1))), flat(b), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(between(jnp.array([-0.5]))), 1.5 * flat(a) - 0.5 * flat(b), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="b must have the structure of a: missing leaves"):
        subspace.line(a, {"w": b["w"]})
    with pytest.raises(TypeError, match="a must be|a.n must be"):
        subspace.line({"n": jnp.arange(3)}, {"n": jnp.arange(3)})


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_plane_through_three_points_preserves_their_distances(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (to_jax(tree(rng, scale=s)) for s in (2.0, 0.3, 5.0))
    plane = subspace.plane_through(a, b, c)
    unit = np.linalg.norm(flat(b) - flat(a))
    at = [np.asarray(plane.project(p), np.float64) for p in (a, b, c)]
    np.testing.assert_allclose(at[0], [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(at[1], [1.0, 0.0], atol=1e-5)
    assert at[2][1] > 0
    for i, p in enumerate((a, b, c)):
        assert float(plane.residual(p)) < 1e-4
        for j, q in enumerate((a, b, c)):
            distance = np.linalg.norm(flat(p) - flat(q)) / unit
            np.testing.assert_allclose(np.linalg.norm(at[i] - at[j]), distance, rtol=1e-4, atol=1e-6)


def test_plane_through_points_on_a_line_is_refused():
    a, b = jnp.array([2.0, 3.0, 5.0]), jnp.array([-1.0, 0.5, 4.0])
    for c in (a + 2.5 * (b - a), a, b):
        with pytest.raises(ValueError, match="lie on one line, so they span no plane"):
            subspace.plane_through(a, b, c)
    with pytest.raises(ValueError, match="lie on one line"):
        subspace.plane_through(a, a, b)
