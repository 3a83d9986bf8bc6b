"""Directions that are not stored, against the stacks that they stand for: values, norms, memory and shardings."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import landscape as ls
from landscape import subspace
from landscape.engine import _kernel
from landscape.problems import language

KEY = jax.random.key(5)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


PARAMS = {
    "first": {"kernel": 0.3 * normal(1, 20, 12), "bias": 0.2 * normal(2, 12)},
    "query": {"kernel": normal(3, 12, 2, 6)},
    "last": {"kernel": 0.4 * normal(4, 12, 3)},
}
DATA = normal(5, 30, 20), normal(6, 30, 3)


def misses(params, batch):
    x = jnp.tanh(batch[0] @ params["first"]["kernel"] + params["first"]["bias"])
    x = jnp.einsum("nw,whd->nhd", x, params["query"]["kernel"]).reshape(-1, 12)
    return jnp.mean((x @ params["last"]["kernel"] - batch[1]) ** 2, axis=-1)


OBJECTIVE = ls.Objective(misses, DATA)
GRID = ls.Grid.of(x=[-0.7, 0.3, 1.1], y=[-0.4, 0.9])


def close(tree, other, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), tree, other)


@pytest.fixture(scope="module", params=["seeded", "low rank"])
def directions(request):
    if request.param == "seeded":
        return subspace.Seeded(KEY, PARAMS, 2, "filter", filter_axis="flax")
    return subspace.LowRank(KEY, PARAMS, 2, 3, "filter", filter_axis="flax")


@pytest.mark.parametrize("batch", [1, 3, ls.Strategy(3, hoist=True)])
def test_a_surface_is_that_of_the_stack(directions, batch):
    found, expected = (
        ls.sweep(ls.LossSurface(ls.Subspace(PARAMS, d), OBJECTIVE), GRID, batch=batch, progress=False)["loss"]
        for d in (directions, directions.stacked())
    )
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_filters_have_the_norms_of_the_parameters(directions):
    stack = directions.stacked()
    for name, axes in (("first", 0), ("query", 0), ("last", 0)):
        expected = np.linalg.norm(np.asarray(PARAMS[name]["kernel"], np.float64), axis=axes)
        for row in np.asarray(stack[name]["kernel"], np.float64):
            np.testing.assert_allclose(np.linalg.norm(row, axis=axes), expected, rtol=1e-5)
    np.testing.assert_array_equal(stack["first"]["bias"], 0)


def test_they_stand_wherever_stacks_do(directions):
    stack = directions.stacked()
    plane, stored = (ls.Subspace(PARAMS, d) for d in (directions, stack))
    assert (len(directions), plane.dim) == (2, 2)
    close(directions[-1], jax.tree.map(lambda x: x[1], stack))
    close(directions(jnp.int32(1)), directions[1])
    close(plane.gram(), stored.gram())
    there = plane(jnp.array([0.5, -0.25]))
    close(plane.project(there), [0.5, -0.25])
    assert plane.residual(there) < 1e-5
    close(subspace.layer_normalize(directions, PARAMS), subspace.layer_normalize(stack, PARAMS))
    close(subspace.orthonormalize(directions), subspace.orthonormalize(stack))
    options = {"filter_axis": "flax"}
    assert str(subspace.describe(directions, PARAMS, **options)) == str(subspace.describe(stack, PARAMS, **options))
    pair = [
        ls.sweep(ls.maps.Radius(PARAMS, OBJECTIVE, d, rise=0.4), ls.Grid.of(direction=range(2)), batch=1)["radius"]
        for d in (directions, stack)
    ]
    np.testing.assert_allclose(*pair, rtol=1e-5)
    with pytest.raises(IndexError):
        directions[2]
    with pytest.raises(ValueError, match="draw holds 2 directions, and number 2 is asked for"):
        ls.sweep(ls.maps.Radius(PARAMS, OBJECTIVE, directions, rise=0.4), ls.Grid.of(direction=range(3)))
    with pytest.raises(ValueError, match="directions must have the structure of the origin"):
        ls.Subspace({"other": jnp.ones(3)}, directions)(jnp.ones(2))


@pytest.mark.parametrize("normalize", [None, "filter", "layer"])
def test_seeded_are_random_directions_normalised(normalize):
    dirs = subspace.random_directions(KEY, PARAMS, 3)
    if normalize == "filter":
        dirs = subspace.filter_normalize(dirs, PARAMS, filter_axis="flax")
    elif normalize == "layer":
        dirs = subspace.layer_normalize(dirs, PARAMS)
    axis = "flax" if normalize == "filter" else None
    close(subspace.Seeded(KEY, PARAMS, 3, normalize, filter_axis=axis).stacked(), dirs)
    low = subspace.LowRank(KEY, PARAMS, 3, 2, normalize, filter_axis="flax")
    close(low.stacked(), subspace.Seeded(KEY, PARAMS, 3, normalize, filter_axis="flax", rank=2).stacked())
    assert np.linalg.matrix_rank(np.asarray(low[2]["first"]["kernel"])) == 2


def test_half_precision_is_rounded_once_and_double_is_double(x64):
    for dtype, eps in ((jnp.bfloat16, 2.0**-8), (jnp.float64, 1e-14)):
        params = {"w": normal(1, 20, 12).astype(dtype)}
        dirs = subspace.Seeded(KEY, params, 2, "layer")
        stack = dirs.stacked()
        assert stack["w"].dtype == dtype
        moved, stored = (np.asarray(ls.Subspace(params, d)(jnp.array([0.3, -0.9]))["w"], float) for d in (dirs, stack))
        np.testing.assert_allclose(moved, stored, rtol=eps, atol=eps)
    numbers = np.asarray(subspace.Seeded(KEY, jnp.zeros(4000), 1)[0])
    assert len(np.unique(np.float32(numbers) - numbers)) > 3990  # digits beyond those of single precision


def test_numbers_are_normal_and_independent():
    like = {"a": jnp.zeros((200, 100)), "b": jnp.zeros((200, 100))}
    rows = np.stack([np.ravel(x) for tree in map(subspace.Seeded(KEY, like, 3), range(3)) for x in tree.values()])
    num = rows.shape[1]
    # family-wise: 6 rows, 15 pairs and lags of 1 and a row of the matrix, each at five standard deviations
    for row in rows:
        assert stats.kstest(row, "norm").pvalue > 1e-6
        for lag in (1, 100):
            assert abs(np.corrcoef(row[lag:], row[:-lag])[0, 1]) < 5 / num**0.5
    assert np.max(np.abs(np.corrcoef(rows) - np.eye(6))) < 5 / num**0.5
    assert np.max(np.abs(np.corrcoef(rows**2) - np.eye(6))) < 5 / num**0.5


def test_squared_lengths_of_rank_one_scatter_as_they_must():
    r"""For normal a, b of m and n entries, Var(|a|^2 |b|^2) = m (m + 2) n (n + 2) - (m n)^2; of full ones, 2 m n."""
    m, n, num = 9, 6, 4000
    like = {"w": jnp.zeros((m, n))}
    for dirs, variance in (
        (subspace.Seeded(KEY, like, num), 2 * m * n),
        (subspace.LowRank(KEY, like, num, 1), 2 * m * n * (m + n + 2)),
    ):
        lengths = np.sum(np.asarray(dirs.stacked()["w"], np.float64) ** 2, axis=(1, 2))
        assert abs(np.mean(lengths) - m * n) < 5 * (variance / num) ** 0.5
        centred = (lengths - np.mean(lengths)) ** 2
        assert abs(np.mean(centred) - variance) < 5 * np.std(centred) / num**0.5


@pytest.mark.slow
def test_a_real_network_scatters_more_along_directions_of_low_rank():
    """What `docs/unstored_directions.md` says of the digits network."""
    problem = ls.problems.digits_mlp()
    train = problem.objectives["train"]
    params = ls.train(train, optax.adam(1e-2), problem.init(jax.random.key(0)), num_steps=200).params
    key, num, options = jax.random.key(1), 60, {"normalize": "filter", "filter_axis": "flax"}
    grid = ls.Grid.of(direction=range(num), distance=[0.45])
    spread = {}
    for rank in (None, 1, 4):
        dirs = subspace.Seeded(key, params, num, **options, rank=rank)
        surface = ls.LossSurface(subspace.Planes(params, dirs, 1), train)
        rises = ls.sweep(surface, grid, progress=False)["loss"][:, 0] - float(train(params))
        assert 0.01 < np.median(rises) < 0.05
        spread[rank] = np.std(rises) / np.mean(rises)
    assert 2 * spread[None] < min(spread[1], spread[4])


def test_given_factors_are_normalised_without_their_product():
    like = {"w": PARAMS["first"]["kernel"], "v": normal(7, 9, 20), "b": jnp.ones(4)}
    left = {"w": normal(8, 2, 20, 3), "v": normal(9, 2, 9, 2), "b": None}
    right = {"w": normal(10, 2, 3, 12), "v": normal(11, 2, 2, 20), "b": None}

    def axes(name, leaf):
        return {"w": 1, "v": 0, "b": None}[name]

    plain = {name: np.asarray(left[name] @ right[name], np.float64) for name in ("w", "v")}
    found = subspace.LowRank.of(left, right, like, "filter", filter_axis=axes).stacked()
    for name, over in (("w", 0), ("v", 1)):
        ratio = np.linalg.norm(like[name], axis=over, keepdims=True) / np.linalg.norm(
            plain[name], axis=over + 1, keepdims=True
        )
        np.testing.assert_allclose(found[name], plain[name] * ratio, rtol=2e-5, atol=1e-6)
    layers = subspace.LowRank.of(left, right, like, "layer").stacked()
    for name in ("w", "v"):
        sizes = [np.linalg.norm(x) for x in layers[name]]
        np.testing.assert_allclose(sizes, np.linalg.norm(like[name]), rtol=1e-5)
    np.testing.assert_array_equal(found["b"], 0)
    close({name: x for name, x in subspace.LowRank.of(left, right, like).stacked().items() if name != "b"}, plain)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, PARAMS), TypeError, "key must be a random key"),
        ((KEY, None), ValueError, "like holds no arrays"),
        ((KEY, {"w": jnp.ones(3, int)}), TypeError, "real floating-point array"),
        ((KEY, PARAMS, 0), ValueError, "num must be at least 1"),
        ((KEY, PARAMS, True), TypeError, "num must be an integer"),
        ((KEY, PARAMS, 2.0), TypeError, "num must be an integer"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    for kind in (subspace.Seeded, subspace.LowRank):
        with pytest.raises(error, match=message):
            kind(*arguments)


def test_wrong_options():
    with pytest.raises(ValueError, match="normalize must be one of 'filter', 'layer'"):
        subspace.Seeded(KEY, PARAMS, 2, "filters")
    with pytest.raises(TypeError, match="normalize must be one of"):
        subspace.Seeded(KEY, PARAMS, 2, 3)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        subspace.LowRank(KEY, PARAMS, 2, 0)
    with pytest.raises(ValueError, match="keeps no leaf"):
        subspace.Seeded(KEY, PARAMS, where="nothing")
    with pytest.raises(TypeError, match="without end"):
        ls.Subspace(PARAMS, subspace.Seeded(KEY, PARAMS, None))(jnp.ones(2))
    one = {"w": jnp.ones((4, 3))}
    with pytest.raises(ValueError, match="w has shape .4, 3.: left must be"):
        subspace.LowRank.of({"w": jnp.ones((2, 4, 1))}, {"w": jnp.ones((2, 1, 5))}, one)
    with pytest.raises(ValueError, match="left holds no arrays"):
        subspace.LowRank.of({"w": None}, {"w": None}, one)
    two = {"v": jnp.ones((2, 3)), "w": jnp.ones((4, 3))}
    with pytest.raises(ValueError, match="one number of directions"):
        subspace.LowRank.of(
            {"v": jnp.ones((3, 2, 1)), "w": jnp.ones((2, 4, 1))},
            {"v": jnp.ones((3, 1, 3)), "w": jnp.ones((2, 1, 3))},
            two,
        )
    with pytest.raises(ValueError, match="must have the structure of like"):
        subspace.LowRank.of({"v": jnp.ones((2, 4, 1))}, {"w": jnp.ones((2, 1, 3))}, one)
    with pytest.raises(ValueError, match="lie on axes of both factors"):
        both = {"left": {"w": jnp.ones((2, 4, 1))}, "right": {"w": jnp.ones((2, 1, 3))}}
        subspace.LowRank.of(**both, like=one, normalize="filter", filter_axis=lambda name, leaf: (0, 1))


# -------------------------------------------------------------------------------------------------------------- memory


def total(memory):
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


@pytest.fixture(scope="module")
def model():
    """A decoder whose largest leaf is a thirteenth of it, its size in bytes, and what a point takes besides weights."""
    shapes = jax.eval_shape(lambda key: language.decoder(key, 64, 4, 4, 8), KEY)
    params = jax.tree.map(lambda x: jnp.full(x.shape, 0.1, x.dtype), shapes)
    objective = ls.Objective(language.byte_losses, {"bytes": jnp.ones((2, 9), jnp.int32)}, has_aux=True)
    alone = jax.jit(lambda objective, params: objective.evaluate(params)).lower(objective, params).compile()
    return params, objective, _tree_bytes(params), alone.memory_analysis().temp_size_in_bytes


def _tree_bytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("kind", ["seeded", "low rank"])
def test_a_surface_takes_its_weights_and_activations(model, kind):
    params, objective, size, activations = model
    make = {"seeded": subspace.Seeded, "low rank": functools.partial(subspace.LowRank, rank=2)}[kind]
    directions = make(KEY, params, 2, normalize="filter", filter_axis="flax")
    surface = ls.LossSurface(ls.Subspace(params, directions), objective)
    program = _kernel.Kernel.build(surface, 2, jax.devices()[:1], 64).program
    assert total(program.memory_analysis()) <= 1.3 * size + activations


def normalised(key, params):
    return subspace.Seeded(key, params, 2, "filter", filter_axis="flax").stacked()


def test_drawing_and_normalising_in_one_program(model):
    params, _, size, _ = model
    program = jax.jit(normalised).lower(KEY, params).compile(compiler_options=_kernel.LEAN)
    assert total(program.memory_analysis()) <= 3.2 * size


# ----------------------------------------------------------------------------------------------------------- shardings

_EIGHT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import landscape as ls
from landscape import subspace
assert len(jax.devices()) == 8
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
shapes = {"down": (16, 24), "heads": (16, 8, 3)}
specs = {"down": P("model", None), "heads": P(None, "model", None)}
one = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
many = {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in one.items()}
key, coords = jax.random.key(3), jnp.array([0.4, -0.7])


def eighths(tree):
    for x in jax.tree.leaves(tree):
        assert len(x.sharding.device_set) == 8, x.sharding
        assert {s.data.nbytes for s in x.addressable_shards} == {x.nbytes // 8}, x.sharding
    return tree


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def stacks(params):
    drawn = subspace.random_directions(key, params)
    yield drawn
    yield subspace.filter_normalize(drawn, params, filter_axis=-1)
    yield subspace.layer_normalize(drawn, params)
    yield subspace.orthonormalize(drawn)
    for unstored in kinds(params):
        yield unstored.stacked()
        yield unstored[1]
        yield ls.Subspace(params, unstored)(coords)
        yield jax.jit(lambda plane, c: plane(c))(ls.Subspace(params, unstored), coords)
    yield ls.Subspace(params, drawn)(coords)
    corners = [ls.Subspace(params, drawn)(c) for c in (coords, -2 * coords[::-1])]
    yield subspace.plane_through(params, *corners).directions


def kinds(params):
    yield subspace.Seeded(key, params, 2, "filter", filter_axis=-1)
    yield subspace.LowRank(key, params, 2, 3, "filter", filter_axis=-1)


for a, b in zip(stacks(one), stacks(many)):
    same(a, eighths(b))
for params in (one, many):
    plane = ls.Subspace(params, subspace.random_directions(key, params))
    there = plane(coords)
    np.testing.assert_allclose(plane.project(there), coords, rtol=1e-5)
    np.testing.assert_allclose(plane.gram(), ls.Subspace(one, subspace.random_directions(key, one)).gram(), rtol=1e-5)
program = jax.jit(subspace.least_squares).lower(plane.directions, there).compile().as_text()
assert "all-gather" not in program
program = jax.jit(lambda plane, c: plane(c)).lower(ls.Subspace(many, next(kinds(many))), coords).compile().as_text()
assert "all-gather" not in program

# drawing and normalising, leaf by leaf: beside the parameters are the directions, and one leaf before and after
held, rescaled = [], subspace._normalize._match_norms


def size_of(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def watched(*arguments):
    made = rescaled(*arguments)
    held.append(size_of(jax.live_arrays()))
    return made


subspace._normalize._match_norms = watched
params = {f"layer{i}": jnp.full((40, 30), 2.0 + i) for i in range(20)}
before = size_of(jax.live_arrays())
dirs = subspace.filter_normalize(subspace.random_directions(key, params), params, filter_axis=-1)
assert size_of(dirs) == 2 * size_of(params)
assert max(held) - before <= 2.2 * size_of(params), (max(held) - before) / size_of(params)
"""


def test_shardings_are_kept_and_what_was_drawn_is_freed():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    script = [sys.executable, "-W", "ignore", "-c", _EIGHT]
    done = subprocess.run(script, env=os.environ | flags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
