"""Oracles for subspaces: NumPy's lstsq and SVD, scikit-learn's PCA, norms by hand, invariances, a published null."""

import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from landscape import Grid, LossSurface, Objective, Subspace, _tree, subspace
from landscape.subspace import _filters

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
    with pytest.raises(TypeError, match=r"origin\.w must be a real floating-point array, got int32\[3, 2\]"):
        Subspace({"w": jnp.ones((3, 2), jnp.int32)}, plane.directions).check_grid(Grid.square())
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
    Subspace(origin, jax.tree.map(jnp.zeros_like, directions)).check_grid(Grid.of(alpha=[0.0], beta=[0.5]))


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


# ---------------------------------------------------------------------------------- lists of trees, and what is none


def few(num=3, seed=0):
    return [to_jax(tree(np.random.default_rng(seed + i))) for i in range(num)]


def test_lists_of_trees_give_what_their_stack_gives():
    trees = few(4)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)

    def same(a, b):
        jax.tree.map(np.testing.assert_array_equal, a, b)

    same(subspace.orthonormalize(trees), subspace.orthonormalize(stacked))
    same(subspace.pca_directions(trees, 2), subspace.pca_directions(stacked, 2))
    same(subspace.mask(trees, "layers"), subspace.mask(stacked, "layers"))
    same(subspace.layer_normalize(trees[1:], trees[0]), subspace.layer_normalize(_tree.stack(trees[1:]), trees[0]))
    same(by_last_axis(trees[1:], trees[0]), by_last_axis(_tree.stack(trees[1:]), trees[0]))
    plane, listed = Subspace(trees[0], _tree.stack(trees[1:3])), Subspace(trees[0], trees[1:3])
    assert listed.dim == 2
    same(listed(jnp.array([0.3, -1.7])), plane(jnp.array([0.3, -1.7])))
    same((listed.project(trees[3]), listed.gram()), (plane.project(trees[3]), plane.gram()))
    listed.check_grid(Grid.square())


def test_a_stack_of_lists_of_equal_layers_needs_one_of_them():
    params = [jnp.full((3, 3), 2.0), jnp.full((3, 3), 5.0)]
    dirs = subspace.random_directions(KEY, params)
    with pytest.raises(ValueError, match="dirs is a list that could be 2 trees, .* pass like=, one such tree"):
        subspace.orthonormalize(dirs)
    new = flat(subspace.orthonormalize(dirs, like=params), 2)
    np.testing.assert_allclose(new @ new.T, np.eye(2), atol=1e-6)
    assert subspace.mask(dirs, "^1$", like=params)[0].max() == 0
    assert Subspace(params, dirs).dim == 2  # the origin tells


def test_counters_in_snapshots_of_a_whole_state_dict_are_set_aside():
    rng = np.random.default_rng(0)
    weights = np.cumsum(rng.normal(size=(6, 40)), axis=0)
    snapshots = {"w": jnp.asarray(weights, jnp.float32), "norm": {"num_batches_tracked": jnp.arange(6) * 100}}
    with pytest.warns(UserWarning, match=r"set aside, .*: norm\.num_batches_tracked int32\[6\]$"):
        directions, explained = subspace.pca_directions(snapshots)
    assert directions["norm"]["num_batches_tracked"] is None
    np.testing.assert_allclose(explained, PCA(2).fit(weights).explained_variance_ratio_, rtol=1e-4)


WHOLE = {"w": np.arange(6).reshape(2, 3)}
COMPLEX = {"w": np.ones((2, 3), np.complex64)}
GOOD = {"w": jnp.array([[2.0, 3.0, 5.0], [1.0, 0.5, 0.25]])}
ORIGIN = {"w": jnp.array([0.3, 0.4, 0.5])}


@pytest.mark.parametrize("bad", [WHOLE, COMPLEX, {"w": "text"}, {"w": np.array([[None] * 3] * 2)}, {"w": [None, str]}])
@pytest.mark.parametrize(
    "call",
    [
        subspace.orthonormalize,
        partial(subspace.pca_directions, num=1),
        partial(subspace.mask, keep="w"),
        lambda x: subspace.filter_normalize(x, ORIGIN),
        lambda x: subspace.layer_normalize(x, ORIGIN),
        lambda x: subspace.describe(x, ORIGIN),
        lambda x: Subspace(ORIGIN, x)(np.ones(2)),
        lambda x: Subspace(ORIGIN, x).gram(),
        lambda x: Subspace(ORIGIN, x).check_grid(Grid.square()),
        lambda x: Subspace(x, GOOD)(np.ones(2)),
        lambda x: Subspace(ORIGIN, GOOD).project(x),
        lambda x: Subspace(ORIGIN, GOOD).residual(x),
        lambda x: subspace.line(ORIGIN, x),
        lambda x: subspace.plane_through(ORIGIN, ORIGIN, x),
        lambda x: subspace.filter_normalize(GOOD, x),
    ],
)
def test_leaves_that_are_no_real_numbers_are_refused_by_name(call, bad):
    with pytest.raises(TypeError, match=r"\w+\.w.* must be a real floating-point array, got"):
        call(bad)


@pytest.mark.parametrize(
    "other", [{"v": jnp.ones(3)}, {"w": jnp.ones(4)}, [jnp.ones(3)], jnp.ones(3), None, "p.npz", 3]
)
def test_points_that_are_no_such_parameters_are_refused(other):
    plane = Subspace(ORIGIN, GOOD)
    for call in (plane.project, plane.residual, lambda x: subspace.line(ORIGIN, x)):
        with pytest.raises(
            (TypeError, ValueError), match="must have the structure of|must have shape|must be a real|no a"
        ):
            call(other)


@pytest.mark.parametrize("coords", [np.ones(3), 1.0, np.ones((2, 1)), 1j * np.ones(2), np.ones(2, bool), None, "01"])
def test_coordinates_of_another_number_or_kind_are_refused(coords):
    with pytest.raises(
        (TypeError, ValueError), match="coords must (have one number for each of the 2|be an array of re)"
    ):
        Subspace(ORIGIN, GOOD)(coords)


def test_counts_are_counts():
    for num in (0, -1):
        with pytest.raises(ValueError, match=f"num must be at least 1, got {num}"):
            subspace.random_directions(KEY, ORIGIN, num)
    for num in (2.5, True, None, "2"):
        with pytest.raises(TypeError, match="num must be an integer"):
            subspace.random_directions(KEY, ORIGIN, num)
        with pytest.raises(TypeError, match="num must be an integer"):
            subspace.pca_directions({"w": jnp.eye(4)}, num)
    with pytest.raises(ValueError, match="num_snapshots must be at least 2"):
        subspace.random_walk_explained(1)
    with pytest.raises(ValueError, match="5 principal directions need at least 6 snapshots, got 5"):
        subspace.random_walk_explained(5, 5)
    with pytest.raises(TypeError, match="keep must be a regular expression or a function"):
        subspace.mask(GOOD, 3)
    for axis in (1.5, True, [0]):
        with pytest.raises(TypeError, match="filter_axis must be an integer"):
            subspace.filter_normalize(GOOD, ORIGIN, filter_axis=axis)


# -------------------------------------------------------------------------------------------------- any scale


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 1e21, 1e30])
def test_everything_at_scales_whose_squares_leave_single_precision(scale):
    rng = np.random.default_rng(4)
    origin, point = tree(rng), tree(rng)
    scaled = to_jax(jax.tree.map(lambda x: np.float32(scale * x), origin))
    drawn = subspace.random_directions(KEY, scaled)
    for normalize in (by_last_axis, subspace.layer_normalize):
        dirs = jax.device_get(normalize(drawn, scaled, include_vectors=True))
        one = jax.device_get(normalize(drawn, to_jax(origin), include_vectors=True))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x / np.float32(scale), y, rtol=1e-5), dirs, one)
    plane = Subspace(scaled, jax.tree.map(jnp.asarray, dirs))
    moved = jax.tree.map(lambda o, p: jnp.asarray(o + np.float32(scale) * np.float32(p)), scaled, point)
    matrix, v = flat(plane.directions, 2), (flat(moved) - flat(scaled))[0]
    expected, *_ = np.linalg.lstsq(matrix.T / scale, v / scale, rcond=None)
    np.testing.assert_allclose(plane.project(moved), expected, rtol=1e-4)
    distance = np.linalg.norm(v / scale - expected @ matrix / scale)
    np.testing.assert_allclose(np.float64(plane.residual(moved)) / scale, distance, rtol=1e-4)
    unit = flat(subspace.orthonormalize(plane.directions), 2)
    np.testing.assert_allclose(unit @ unit.T, np.eye(2), atol=1e-5)
    plane.check_grid(Grid.square(1.0, 51))
    with pytest.raises(ValueError, match="finer than float32 resolves"):
        plane.check_grid(Grid.square(1e-7, 51))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_principal_directions_and_planes_at_any_scale(scale):
    rows = path(np.random.default_rng(2), 12)
    dirs, explained = subspace.pca_directions(unflat(np.float32(rows * scale)), 2)
    reference = PCA(2).fit(rows)
    np.testing.assert_allclose(explained, reference.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(flat(dirs, 2) * reference.components_, axis=1)), 1.0, rtol=1e-4)
    points = [
        jnp.asarray(np.float32(scale * np.array(x))) for x in ([2.0, 3.0, 5.0], [-1.0, 0.5, 4.0], [3.0, 3.0, 0.5])
    ]
    plane = subspace.plane_through(*points)
    np.testing.assert_allclose(plane.project(points[1]), [1.0, 0.0], atol=1e-5)
    assert float(plane.residual(points[2])) < 1e-5 * scale


def test_filters_of_one_leaf_have_scales_of_their_own():
    w = np.float32([[3e-30, 3.0, 3e30], [4e-30, 4.0, 4e30]])
    new = subspace.filter_normalize({"kernel": jnp.ones((1, 2, 3))}, {"kernel": jnp.asarray(w)})["kernel"][0]
    np.testing.assert_allclose(new, np.float32([5e-30, 5.0, 5e30]) / np.sqrt(2) * np.ones((2, 1)), rtol=1e-6)


# ------------------------------------------------------------------------------------------- precision of the picture


def picture(dtype, num, extent=1.0):
    origin = {"dense": {"kernel": jax.random.normal(KEY, (40, 30), dtype)}, "scale": jnp.ones(3, jnp.float32)}
    dirs = subspace.filter_normalize(subspace.random_directions(jax.random.key(1), origin), origin)
    return Subspace(origin, dirs), Grid.square(extent, num)


def test_a_grid_too_fine_for_bfloat16_names_the_leaf_and_the_type_that_suffices():
    plane, grid = picture(jnp.bfloat16, 4001)
    remedy = r"use float32 parameters \(jax\.tree\.map\(lambda x: x\.astype\(jnp\.float32\), params\)\), with which"
    with pytest.raises(ValueError, match=rf"finer than bfloat16 resolves.*most of it in dense\.kernel, .*{remedy}"):
        plane.check_grid(grid)
    picture(jnp.float32, 4001)[0].check_grid(grid)
    plane, grid = picture(jnp.bfloat16, 4001, extent=1e-5)
    with pytest.raises(ValueError, match=r"finer than bfloat16 resolves.*use float64 \(jax\.config\.update"):
        plane.check_grid(grid)


def test_noise_of_narrow_compute_is_said_where_it_is_the_picture():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 40)), jnp.float32)

    def loss(params, batch, dtype):
        kernel = params["dense"]["kernel"].astype(dtype)
        return jnp.mean(jnp.tanh(batch.astype(dtype) @ kernel).astype(jnp.float32) ** 2, axis=1)

    narrow = Objective(partial(loss, dtype=jnp.bfloat16), x)
    wide = Objective(lambda p, batch: loss(p, batch.astype(jnp.bfloat16).astype(jnp.float32), jnp.float32), x)
    plane, grid = picture(jnp.float32, 41, extent=0.003)
    with pytest.warns(UserWarning, match="bfloat16 rounds the parameters by 38% of the way .* compute in a wider type"):
        LossSurface(plane, narrow).check_grid(grid)
    LossSurface(plane, wide).check_grid(grid)  # it rounds the data alone, alike at all points
    LossSurface(plane, narrow).check_grid(Grid.square(1.0, 41))
    measure = jax.jit(jax.vmap(lambda c: (narrow(plane(c)), wide(plane(c)))))
    rounded, exact = measure(jnp.asarray(grid.points()[: 41 * 41 : 42], jnp.float32))
    noise = np.asarray(rounded - exact)
    assert np.std(noise) > 0.05 * np.ptp(exact)  # what the warning says is so


def _layers(activation):
    def logits(params, x, dtype):
        hidden = activation(x.astype(dtype) @ params["in"].astype(dtype))
        return hidden @ params["out"].astype(dtype)

    return logits, {"in": (20, 32), "out": (32, 5)}, (128, 20)


def _convolution(params, x, dtype):
    image = x.astype(dtype).reshape(len(x), 8, 8, 1)
    layout = ("NHWC", "HWIO", "NHWC")
    seen = jax.lax.conv_general_dilated(image, params["in"].astype(dtype), (2, 2), "SAME", dimension_numbers=layout)
    return jax.nn.relu(seen).reshape(len(x), -1) @ params["out"].astype(dtype)


@pytest.mark.parametrize(
    "net",
    [_layers(jnp.tanh), _layers(jax.nn.relu), (_convolution, {"in": (3, 3, 1, 6), "out": (96, 5)}, (64, 64))],
    ids=["tanh", "relu", "convolution"],
)
def test_noise_of_narrow_compute_is_said_where_it_is_and_nowhere_else(net):
    logits, shapes, of_inputs = net
    rng = np.random.default_rng(0)
    x, labels = jnp.asarray(rng.normal(size=of_inputs), jnp.float32), jnp.asarray(rng.integers(0, 5, of_inputs[0]))
    params = {n: jnp.asarray(rng.normal(size=s) / np.prod(s[:-1]) ** 0.5, jnp.float32) for n, s in shapes.items()}

    def loss(params, batch, dtype):
        scores = jax.nn.log_softmax(logits(params, batch["x"], dtype).astype(jnp.float32))
        return -jnp.take_along_axis(scores, batch["y"][:, None], 1)[:, 0]

    narrow, wide = (Objective(partial(loss, dtype=t), {"x": x, "y": labels}) for t in (jnp.bfloat16, jnp.float32))
    dirs = subspace.filter_normalize(subspace.random_directions(KEY, params), params, filter_axis=-1)
    plane = Subspace(params, dirs)
    measure = jax.jit(jax.vmap(lambda c: (narrow(plane(c)), wide(plane(c)))))
    for extent, said in ((0.1, False), (0.003, True)):
        grid = Grid.square(extent, 15)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            LossSurface(plane, narrow).check_grid(grid)
        assert any("bfloat16 rounds the parameters" in str(one.message) for one in caught) == said
        rounded, exact = map(np.asarray, measure(jnp.asarray(grid.points(), jnp.float32)))
        spread = np.quantile(rounded - exact, 0.975) - np.quantile(rounded - exact, 0.025)
        assert (spread > 0.1 * np.ptp(exact)) == said


# -------------------------------------------------------------------------------------------------- many leaves


def test_draws_are_those_of_seeded_in_the_type_of_each_leaf():
    params = {"w": jnp.ones((7, 3)), "b": jnp.ones(5, jnp.bfloat16), "s": 0.5}
    dirs = subspace.random_directions(KEY, params, 3)
    assert {name: (x.shape, x.dtype.name) for name, x in dirs.items()} == {
        "w": ((3, 7, 3), "float32"), "b": ((3, 5), "bfloat16"), "s": ((3,), "float32")
    }  # fmt: skip
    traced = jax.jit(lambda key: subspace.random_directions(key, params, 3))(KEY)
    jax.tree.map(np.testing.assert_array_equal, traced, dirs)
    jax.tree.map(np.testing.assert_array_equal, subspace.Seeded(KEY, params, 3).stacked(), dirs)
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda x: x[:2], dirs), subspace.random_directions(KEY, params)
    )


def test_directions_of_many_leaves_take_no_program_for_each():
    params = {f"layer{i}": {"kernel": jnp.full((4, 3), 2.0 + i), "bias": jnp.ones(3)} for i in range(300)}
    programs = []
    listener = lambda event, _, **kwargs: programs.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        dirs = subspace.filter_normalize(subspace.random_directions(KEY, params), params)
        subspace.orthonormalize(dirs)
        Subspace(params, dirs).project(params)
        explained = subspace.pca_directions(subspace.random_directions(KEY, params, 4))[1]
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert sum("backend_compile" in event for event in programs) < 150  # of 600 leaves
    assert explained.shape == (2,)
    np.testing.assert_allclose(np.linalg.norm(dirs["layer7"]["kernel"], axis=1), 9 * 2 * np.ones((2, 3)), rtol=1e-5)


def test_directions_lie_where_the_parameters_lie():
    device = jax.devices()[-1]
    mesh = jax.sharding.Mesh(np.array([device]), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "model"))
    params = {"kernel": jax.device_put(jnp.ones((4, 3)), sharding), "bias": jax.device_put(jnp.ones(3), device)}
    dirs = subspace.random_directions(KEY, params)
    assert dirs["kernel"].sharding.spec == jax.sharding.PartitionSpec(None, None, "model")
    assert subspace.orthonormalize(dirs)["kernel"].sharding.spec == jax.sharding.PartitionSpec(None, None, "model")
    assert dirs["bias"].devices() == {device}


# -------------------------------------------------------------------------------------------------- whose filters


def shapes_of(**layers):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in layers.items()}


@pytest.mark.parametrize(
    ("layout", "params", "axes"),
    [
        # attention whose query, key and value are one kernel, with and without a bias
        ("flax", {"qkv": shapes_of(kernel=(12, 3, 2, 4), bias=(3, 2, 4))}, {"qkv.kernel": (1, 2, 3)}),
        ("flax", {"to_qkv": shapes_of(kernel=(12, 3, 2, 4))}, {"to_qkv.kernel": (1, 2, 3)}),
        ("flax", {"kv_proj": shapes_of(kernel=(12, 2, 2, 4))}, {"kv_proj.kernel": (1, 2, 3)}),
        ("flax", {"mix": shapes_of(kernel=(12, 3, 2, 4), bias=(3, 2, 4))}, {"mix.kernel": (1, 2, 3)}),
        # layers stacked by scan: their biases count filters by layer and unit
        ("flax", {"blocks": shapes_of(kernel=(5, 6, 7), bias=(5, 7))}, {"blocks.kernel": (0, 2)}),
        # Hugging Face's Conv1D, also where it is square, and dense layers that are called the same
        (
            "torch",
            {
                "attn": {"c_attn": shapes_of(weight=(6, 18), bias=(18,)), "c_proj": shapes_of(weight=(6, 6))},
                "mlp": {"c_fc": shapes_of(weight=(6, 24), bias=(24,)), "c_proj": shapes_of(weight=(24, 6), bias=(6,))},
                "wte": shapes_of(weight=(50, 6)),
            },
            {"attn.c_attn.weight": (1,), "attn.c_proj.weight": (1,), "mlp.c_fc.weight": (1,), "mlp.c_proj.weight": (1,),
             "wte.weight": (0,)},
        ),
        (
            "torch",
            {"c_attn": shapes_of(weight=(18, 6)), "c_proj": shapes_of(weight=(6, 6)), "fc": shapes_of(weight=(3, 6))},
            {"c_attn.weight": (0,), "c_proj.weight": (0,), "fc.weight": (0,)},
        ),
        # recurrent weights, whichever way they are stored
        ("torch", {"rnn": shapes_of(weight_ih_l0=(20, 3), weight_hh_l0=(20, 5), bias_ih_l0=(20,), bias_hh_l0=(20,))},
         {"rnn.weight_ih_l0": (0,), "rnn.weight_hh_l0": (0,)}),
        ("equinox", {"cell": shapes_of(weight_ih=(15, 3), weight_hh=(15, 5), bias=(15,), bias_n=(5,))},
         {"cell.weight_ih": (0,), "cell.weight_hh": (0,)}),
        ("flax", shapes_of(enc_w_ih=(20, 3), enc_w_hh=(20, 5), enc_b=(20,)), {"enc_w_ih": (0,), "enc_w_hh": (0,)}),
        ("flax", shapes_of(enc_w_ih=(3, 20), enc_w_hh=(5, 20)), {"enc_w_ih": (1,), "enc_w_hh": (1,)}),
        ("torch", shapes_of(enc_w_ih=(3, 20), enc_w_hh=(5, 20)), {"enc_w_ih": (1,), "enc_w_hh": (1,)}),
        ("flax", shapes_of(weight_ih=(5, 3), weight_hh=(5, 5)), {"weight_ih": (0,), "weight_hh": (0,)}),
        # a transposed convolution of PyTorch, told by its bias
        ("torch", {"up": shapes_of(weight=(8, 4, 3, 3), bias=(4,))}, {"up.weight": (1,)}),
        # a norm over several axes, whose scale is called weight
        ("torch", {"norm": shapes_of(weight=(4, 5), bias=(4, 5))}, {"norm.weight": None}),
        # low-rank factors, also of rank one, and biases of two axes
        ("flax", {"lora": shapes_of(a=(6, 1), b=(1, 5))}, {"lora.b": (1,)}),
        ("torch", {"lora": shapes_of(a=(1, 6), b=(5, 1))}, {"lora.b": (0,)}),
        ("flax", {"dense": shapes_of(w=(6, 5), b=(1, 5))}, {"dense.w": (1,), "dense.b": None}),
        ("equinox", {"conv": shapes_of(weight=(5, 2, 3, 3), bias=(5, 1, 1))}, {"conv.weight": (0,), "conv.bias": None}),
        ("flax", {"pos_embedding": jax.ShapeDtypeStruct((1, 9, 4), jnp.float32)}, {"pos_embedding": (0, 1)}),
    ],
)  # fmt: skip
def test_the_filters_of_layers_by_name_and_by_the_shapes_beside(layout, params, axes):
    rows = {row.name: row for row in _filters.filters_of(params, layout)}
    assert {name: rows[name].axes for name in axes} == axes
    assert all(rows[name].why for name in axes if "lora" not in name or name.endswith("b"))


@pytest.mark.parametrize("layout", ["flax", "torch"])
def test_recurrent_layers_of_flax_and_torch_get_the_norms_of_their_units(layout, torch):
    if layout == "flax":
        cell = nn.GRUCell(5)
        params = cell.init(KEY, cell.initialize_carry(KEY, (2, 3)), jnp.ones((2, 3)))["params"]
    else:
        params = {name: jnp.asarray(p.detach().numpy()) for name, p in torch.nn.LSTM(3, 5).named_parameters()}
    new = subspace.filter_normalize(subspace.random_directions(KEY, params, 1), params, filter_axis=layout)
    for w, d in zip(jax.tree.leaves(params), jax.tree.leaves(new)):
        if w.ndim == 2:
            over = int(layout == "torch")
            np.testing.assert_allclose(np.linalg.norm(d[0], axis=over), np.linalg.norm(w, axis=over), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "params", "said"),
    [
        (
            {"filter_axis": "flax"},
            {"mix": jnp.ones((3, 4, 5))},
            r"'flax' has no rule for the filters of mix \[3, 4, 5\], a",
        ),
        (
            {"filter_axis": "flax"},
            {"x": {"kernel": jnp.ones((9, 3, 2, 4))}},
            r"has no rule for the filters of x\.kernel",
        ),
        ({"filter_axis": "torch"}, {"table": jnp.ones((3, 4)), "s": jnp.ones((5, 2))}, r"s \[5, 2\].*table \[3, 4\]"),
        ({"filter_axis": "torch"}, {"c_proj": {"weight": jnp.ones((6, 6))}}, r"has no rule for the filters of c_proj"),
        (
            {"filter_axis": "torch"},
            {"3": {"weight": jnp.ones((6, 6, 4, 4))}},
            r"filters of 3\.weight \[6, 6, 4, 4\], a",
        ),
        (
            {"filter_axis": "torch"},
            {
                "0": {"weight": jnp.ones((5, 6, 3, 3)), "bias": jnp.ones(6)},  # in, out: transposed
                "2": {"weight": jnp.ones((6, 6, 3, 3)), "bias": jnp.ones(6)},
            },
            r"has no rule for the filters of 2\.weight \[6, 6, 3, 3\], axis 0 taken: give",
        ),
        ({}, {"w_ih": jnp.ones((6, 6)), "w_hh": jnp.ones((6, 6))}, r"no rule knows the filters of w_hh"),
        ({}, {"embed": {"embedding": jnp.ones((7, 3))}}, r"the filters of embed\.embedding \[7, 3\] are on axis 0"),
        ({}, {"cell": {"weight_ih": jnp.ones((15, 3)), "bias": jnp.ones(15)}}, r"weight_ih \[15, 3\] are on axis 0"),
        ({}, {"fc": {"weight": jnp.ones((4, 5))}}, 'looks like a PyTorch or equinox weight.*filter_axis="torch"'),
        ({}, {"W": jnp.ones((4, 5)), "matrix": jnp.ones((4, 5))}, r"no rule knows the filters of matrix \[4, 5\]:"),
    ],
)
def test_leaves_that_no_rule_knows_are_named(options, params, said):
    dirs = subspace.random_directions(KEY, params, 1)
    with pytest.warns(UserWarning, match=said):
        subspace.filter_normalize(dirs, params, **options)


def test_square_kernels_of_ordinary_convolutions_are_read_without_a_word():
    layers = {"1": jnp.ones((6, 3, 3, 3)), "2": jnp.ones((6, 6, 3, 3)), "3": jnp.ones((6, 6, 1, 1))}
    params = {name: {"weight": kernel, "bias": jnp.ones(6)} for name, kernel in layers.items()}
    dirs = subspace.filter_normalize(subspace.random_directions(KEY, params, 1), params, filter_axis="torch")
    np.testing.assert_allclose(np.sqrt(np.sum(np.square(dirs["2"]["weight"][0]), axis=(1, 2, 3))), 54**0.5, rtol=1e-5)


def test_conv1d_gets_no_advice_that_would_be_wrong():
    params = {"c_attn": {"weight": jnp.ones((6, 18)), "bias": jnp.ones(18)}, "c_proj": {"weight": jnp.ones((6, 6))}}
    subspace.filter_normalize(subspace.random_directions(KEY, params, 1), params)  # warns of nothing: -1 is right


def test_description_says_what_is_moved_and_why():
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
        "dead": {"kernel": jnp.zeros((4, 5))},
        "head": {"kernel": jnp.ones((5, 6))},
        "odd": jnp.ones((2, 3)),
    }
    with pytest.warns(UserWarning, match="dead.* of params are all zero"):
        dirs = subspace.filter_normalize(subspace.random_directions(KEY, params), params, filter_axis=-1)
    table = subspace.describe(subspace.mask(dirs, "conv|dead|odd"), params, filter_axis="flax")
    assert [(row.name, row.axes, row.num_filters, row.moved) for row in table] == [
        ("conv.bias", None, 1, False), ("conv.kernel", (3,), 4, True), ("dead.kernel", (1,), 5, False),
        ("head.kernel", (1,), 6, False), ("odd", (1,), 3, True),
    ]  # fmt: skip
    assert [row.why for row in table] == [
        "bias or scale of a norm layer: no filters", "kernel (.., in, out)", "0 in the parameters",
        "0 in the directions; kernel (.., in, out)", "no rule knows it: this axis is taken for want of another",
    ]  # fmt: skip
    lines = str(table).splitlines()
    assert lines[0].split() == ["leaf", "shape", "axis", "filters", "moved", "why"]
    assert lines[2].split()[:5] == ["conv.kernel", "3x3x2x4", "3", "4", "yes"]
    assert repr(table) == str(table)
    assert len(table) == 5
