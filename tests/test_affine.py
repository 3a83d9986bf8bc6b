"""`affine_vmap` against `jax.vmap` on one table of unusual programs, and the work that it saves, counted in jaxprs."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from landscape import LossSurface, Objective, Subspace, affine
from landscape.affine import _program, _rewrite, affine_vmap, distribute, num_hoisted

POINTS = 5  # no array of the programs has a side that 5 divides, so a side that it divides counts points
N, D, H = 12, 9, 11


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of one point, made in the precision of the moment, and what is to be expected of it."""

    build: Callable[[], Callable[[Any], Any]]
    hoisted: int
    coords: Callable[[], Any]
    differentiable: bool
    rtol: float
    rtol_in_double: float


PROGRAMS: dict[str, Program] = {}


def plane_coords(num=2):
    return jnp.asarray(np.random.default_rng(num).uniform(-1.3, 1.3, size=(POINTS, num)), jnp.result_type(float))


def program(hoisted, coords=plane_coords, differentiable=True, rtol=1e-5, rtol_in_double=1e-12):
    def register(build):
        PROGRAMS[build.__name__] = Program(build, hoisted, coords, differentiable, rtol, rtol_in_double)
        return build

    return register


def array(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


def line(seed, *shape):
    """A parameter as a function of the coordinates."""
    w0, w1, w2 = (array(seed + i, *shape) for i in range(3))
    return lambda c: w0 + c[0] * w1 + c[1] * w2


X = functools.partial(array, 100, N, D)
W = functools.partial(line, 0, D, H)
B = functools.partial(line, 10, H)
V = functools.partial(line, 20, H, 3)


# ------------------------------------------------------------------------------------ the table: plain arithmetic


@program(1)
def two_layers():
    x, w, b, v = X(), W(), B(), V()
    return lambda c: {"out": jnp.tanh(x @ w(c) + b(c)) @ v(c), "norm": jnp.sum(w(c) ** 2)}


@program(1)
def tensordot_of_a_short_contraction():
    x, d = X(), array(1, 2, D, H)
    return lambda c: jnp.tanh(x @ jnp.tensordot(c, d, axes=1)).sum(0)


@program(1)
def broadcast_and_sum_over_the_directions():
    x, d = X(), array(1, 2, D, H)
    return lambda c: jnp.tanh(x @ jnp.sum(c[:, None, None] * d, axis=0))


@program(1)
def ravelled_subspace():
    tree = {"w": array(1, D, H), "b": array(2, H), "v": array(3, H, 3)}
    flat, unravel = ravel_pytree(tree)
    x, directions = X(), array(4, 2, flat.size)

    def fn(c):
        p = unravel(flat + c @ directions)
        return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]

    return fn


@program(1, coords=lambda: {"a": plane_coords(1)[:, 0], "rest": [plane_coords(2), jnp.arange(POINTS)]})
def dict_coordinates():
    x, w = X(), [array(i, D, H) for i in range(3)]

    def fn(c):
        moved = c["a"] * w[0] + c["rest"][0][0] * w[1] + jnp.exp(c["rest"][0][1]) * w[2]
        return jnp.tanh(x @ moved), c["rest"][1] * 3

    return fn


@program(2)
def einsum():
    x, w = array(1, 3, 7, D), line(2, 4, D, 6)
    return lambda c: jnp.sin(jnp.einsum("btd,hdk->bhtk", x, w(c))) + jnp.einsum("btd,hdk->bk", x, w(c))[:, None, None]


@program(2)
def bilinear_product():
    x, w, v = X(), W(), line(40, D, H)
    return lambda c: (x @ w(c)) * (x @ v(c)) + jnp.sum(w(c) * v(c)) + jnp.sum(w(c).T @ v(c))


@program(3)
def deep_linear_network():
    x, y, w, v = X(), array(5, N, 3), W(), V()
    return lambda c: jnp.mean((x @ w(c) @ v(c) - y) ** 2) + jnp.mean(x @ w(c) @ array(8, H, 3))


@program(1)
def complex_arithmetic_and_fft():
    x, w = X(), W()
    return lambda c: jnp.abs(jnp.fft.fft(x @ w(c), axis=0)) + jnp.fft.irfft(jnp.fft.rfft(w(c)[:, 0])).sum()


@program(1)
def linear_solves():
    x, w = X(), W()
    a = array(4, D, D) + 4 * jnp.eye(D)

    def fn(c):
        solved = jnp.linalg.solve(a, w(c))
        triangular = jax.scipy.linalg.solve_triangular(jnp.triu(a), w(c))
        return jnp.tanh(x @ triangular).sum(0) + jnp.linalg.solve(a + c[0] * jnp.eye(D), solved).sum()

    return fn


@program(1)
def where_with_constant_and_moving_masks():
    x, w, mask = X(), W(), array(1, D, H) > 0.3

    def fn(c):
        masked = jnp.where(mask, w(c), 0.5)
        return jnp.tanh(x @ masked), jnp.where(w(c) > 0, w(c), -2.0), jnp.where(mask, 3.0, -w(c))

    return fn


@program(1)
def shape_juggling():
    x, w = X(), W()

    def fn(c):
        m = jnp.concatenate([w(c), jnp.flip(w(c), 0)[:3], array(7, 2, H)], axis=0)
        m = jnp.pad(jnp.cumsum(m, axis=0), ((1, 2), (0, 0)), constant_values=0.7)
        first, second = jnp.split(m.T[:, ::-1][None].squeeze(0), [D], axis=1)
        return jnp.tanh(x @ first.T), second.reshape(-1)[:7], jnp.stack([c[0], c[1] ** 2, 3.0])

    return fn


@program(1)
def indexed_updates():
    x, w, b = X(), W(), B()

    def fn(c):
        m = w(c).at[2].set(0.25).at[jnp.array([1, 1, 4])].add(b(c)).at[3].set(b(c))
        m = m.at[jnp.array([0, 6])].set(b(c)[None]).at[7].multiply(b(c))
        zeros = jnp.zeros((D, H), m.dtype).at[1].set(b(c)).at[2, 3].add(c[0])
        return jnp.tanh(x @ zeros), m, c.at[0].set(0.7)

    return fn


@program(0)
def gather_from_an_embedding():
    table, ids = line(1, 7, H), jnp.array([[0, 3, 6, 3], [2, 2, 1, 0]])
    return lambda c: (jnp.tanh(table(c)[ids]), table(c).at[ids + 4].get(mode="fill", fill_value=6.5))


@program(1)
def dynamic_slices():
    x, w = X(), line(1, 2 * D, H)

    def fn(c):
        m = lax.dynamic_update_slice(w(c), jnp.full((2, H), 0.4, c.dtype), (3, 0))
        moving = lax.dynamic_slice_in_dim(w(c), jnp.int32(c[0] > 0), D)
        return jnp.tanh(x @ lax.dynamic_slice_in_dim(m, 2, D)), jnp.tanh(x @ moving)

    return fn


@program(1)
def stop_gradient():
    x, w = X(), W()
    return lambda c: jnp.tanh(x @ w(lax.stop_gradient(c))) + w(c)[0] + lax.stop_gradient(w(c))[1] * w(c)[2]


@program(1)
def long_chains_of_linear_operations():
    x, w = array(1, 3, 8, 8, D), line(2, D, 6)

    def fn(c):
        h = x @ w(c)
        pooled = lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        return jnp.tanh(jnp.transpose(-pooled, (0, 3, 1, 2)) - 0.7).mean((2, 3)) * 1.5

    return fn


@program(1, coords=lambda: plane_coords(1)[:, 0])
def bezier_curve():
    x, w = X(), [array(i, D, H) for i in range(3)]
    return lambda t: jnp.tanh(x @ ((1 - t) ** 2 * w[0] + 2 * t * (1 - t) * w[1] + t**2 * w[2])).sum(0)


@program(1)
def polar_coordinates():
    x, w0, w1, w2 = X(), array(1, D, H), array(2, D, H), array(3, D, H)
    return lambda c: jnp.tanh(x @ (w0 + c[0] * jnp.cos(c[1]) * w1 + c[0] * jnp.sin(c[1]) * w2)).sum(0)


@program(0)
def coordinates_as_the_input_of_a_network():
    w, v = array(1, 2, H), array(2, H, 3)
    return lambda c: jax.nn.softmax(jnp.tanh(c @ w) @ v)


@program(0)
def unused_coordinates():
    return lambda c: {"constant": X().sum(), "python": 3.5, "none": None, "again": c}


# ----------------------------------------------------------------------------------------------- the table: dtypes


@program(0, rtol=0.02)
def bfloat16_parameters():
    x, w, v = X().astype(jnp.bfloat16), W(), V()

    def fn(c):
        h = jnp.tanh(x @ w(c).astype(jnp.bfloat16))
        return h @ v(c).astype(jnp.bfloat16), jnp.mean(h.astype(jnp.float32))

    return fn


@program(1, rtol=0.02, rtol_in_double=0.02)
def float16_data_and_widening():
    x, w = X(), jnp.stack([array(i, D, H) for i in range(2)]).astype(jnp.float16)
    return lambda c: jnp.tanh(x.astype(jnp.float16) @ jnp.tensordot(c.astype(jnp.float16), w, axes=1)).astype("float32")


@program(1, rtol_in_double=1e-5)
def single_precision_parameters_whatever_the_coordinates():
    x, w = X().astype(jnp.float32), jnp.stack([array(i, D, H) for i in range(2)]).astype(jnp.float32)
    return lambda c: jnp.tanh(x @ jnp.tensordot(c.astype(jnp.float32), w, axes=1)).astype(c.dtype)


@program(2)
def integers_and_booleans():
    x, w = X(), W()
    return lambda c: (jnp.int32(10 * (x @ w(c))), x @ w(c) > 0.2, jnp.argmax(w(c)), jnp.floor(c))


@program(0)
def weak_types():
    return lambda c: (3.0, jnp.asarray(2), 2.5 * jnp.asarray(1.5) + 0 * c[0], jnp.where(c[0] > 0, 1.0, 2.0), c * 2)


# ---------------------------------------------------------------------------------------- the table: control flow


@program(1)
def scan_over_the_data():
    xs, w, v = array(1, 3, N, D), W(), V()

    def fn(c):
        def step(total, x):
            h = jnp.tanh(x @ w(c))
            return total + jnp.mean(h @ v(c)), h[0, 0]

        return lax.scan(step, 0.0, xs)

    return fn


@program(2)
def scan_that_closes_over_parameters():
    xs, w, v = array(1, 3, N, D), W(), V()

    def fn(c):
        weights, head = w(c), v(c)

        def step(total, x):
            return total + jnp.mean(jnp.tanh(x @ weights) @ head) + jnp.sum(head[0] ** 2), (x @ weights).mean(0)

        return lax.scan(step, 0.0, xs, reverse=True)

    return fn


@program(0)
def scan_over_stacked_layers():
    x, ws, bs = X(), line(1, 3, D, D), line(2, 3, D)
    return lambda c: lax.scan(lambda h, p: (jnp.tanh(h @ p[0] + p[1]), p[1]), x, (ws(c), bs(c)))


@program(2)
def linear_scan():
    a, b = 0.3 * array(1, D, D), line(2, 4, D)

    def fn(c):
        last, path = lax.scan(lambda h, drive: (a @ h + drive, 2 * h), jnp.zeros(D, c.dtype), b(c))
        return jnp.tanh(last), jnp.tanh(path @ array(3, D, 3))

    return fn


@program(1)
def fori_loop_with_an_affine_carry():
    x, w0, w1 = X(), array(1, D, H), array(2, D, H)

    def fn(c):
        step = c[0] * w1
        return jnp.tanh(x @ lax.fori_loop(0, 3, lambda i, w: w * 0.5 + i * step, w0 + c[1] * w1)).sum(0)

    return fn


@program(2)
def nested_scans():
    xs, w, v = array(1, 2, 3, N, D), W(), V()

    def fn(c):
        def outer(total, batch):
            inner = lax.scan(lambda t, x: (t + jnp.tanh(x @ w(c)).mean(), t), total, batch)
            return inner[0] + jnp.sum(jnp.tanh(batch[0] @ w(c)) @ v(c)), inner[1]

        return lax.scan(outer, jnp.asarray(0.5, c.dtype), xs)

    return fn


@program(1)
def scan_over_the_coordinates():
    x, w = X(), array(1, D, H)
    return lambda c: lax.scan(lambda t, ci: (t + jnp.tanh(x @ (ci * w)).mean(), ci), 0.7, c)


@program(1, differentiable=False)
def while_loop():
    x, w = X(), W()

    def fn(c):
        h = jnp.abs(x @ w(c))
        return lax.while_loop(lambda s: jnp.mean(s[0]) > 0.1, lambda s: (0.5 * s[0], s[1] + 1), (h, 0))

    return fn


@program(1)
def cond_and_switch_on_a_coordinate():
    x, w, b = X(), W(), B()

    def fn(c):
        h = lax.cond(c[0] > 0, lambda m: jnp.tanh(x @ m), lambda m: -m[0] + x @ m, w(c))
        return h, lax.switch(jnp.int32(2 + c[1]), [jnp.sin, jnp.cos, lambda y: 2 * y, jnp.exp], x @ w(c) + b(c))

    return fn


@program(1)
def inner_vmap_and_inner_map():
    x, w, b = X(), W(), B()

    def fn(c):
        rows = jax.vmap(lambda row: jnp.tanh(row @ w(c) + b(c)))(x)
        return rows, lax.map(lambda row: jnp.sin(row * b(c)), array(3, 4, H)), lax.map(jnp.exp, w(c), batch_size=4)

    return fn


# ------------------------------------------------------------------------------- the table: derivatives and effects


@jax.custom_jvp
def cube(x):
    return x**3


cube.defjvp(lambda primals, tangents: (cube(*primals), 30.0 * tangents[0]))  # not the derivative, to tell it apart


@jax.custom_vjp
def clipped(x):
    return 2.0 * x


clipped.defvjp(lambda x: (2.0 * x, None), lambda _, g: (jnp.clip(g, -0.3, 0.3),))


@program(1)
def custom_jvp():
    x, w = X(), W()
    return lambda c: (cube(x @ w(c)).mean(0), jax.jvp(lambda c: cube(w(c)[0]), (c,), (c,))[1], cube(c))


@program(2)
def custom_vjp_under_grad():
    x, w = X(), W()

    def loss(p):
        return jnp.sum(jnp.tanh(clipped(0.1 * x @ p)))

    return lambda c: (jax.grad(loss)(w(c)), loss(w(c)))


@program(2)
def gradients_inside():
    x, w, v = X(), W(), V()

    def loss(c):
        return jnp.mean(jnp.tanh(x @ w(c)) @ v(c)) ** 2

    return lambda c: (jax.value_and_grad(loss)(c), jax.jacfwd(loss)(c))


@program(2)
def rematerialised_gradient():
    x, w, v = X(), W(), V()
    block = jax.checkpoint(lambda m, h: jnp.tanh(h @ m))
    return lambda c: jax.value_and_grad(lambda m: jnp.sum(jnp.sin(block(v(c), block(m, x)))))(w(c))


@program(1, rtol=1e-4)
def hessian():
    x, w, v = X(), W(), V()
    return lambda c: jax.hessian(lambda c: jnp.mean((jnp.tanh(x @ w(c)) @ v(c)) ** 2))(c)


@program(1)
def dropout_with_a_fixed_key():
    x, w = X(), W()
    keep = functools.partial(jax.random.bernoulli, jax.random.key(3), 0.7)
    return lambda c: jnp.where(keep((N, H)), x @ w(c), 0.0) / 0.7 + jax.random.normal(jax.random.key(4), (H,)) * c[0]


@program(0, coords=lambda: (plane_coords(), jnp.arange(3, 3 + POINTS)))
def a_key_for_each_point():
    def fn(c):
        key = jax.random.fold_in(jax.random.key(7), c[1])
        return c[0][0] * jax.random.normal(key, (D,), c[0].dtype), jax.random.key_data(key)

    return fn


@program(1)
def debug_callback():
    x, w = X(), W()

    def fn(c):
        h = x @ w(c)
        jax.debug.callback(lambda *_: None, h, w(c))
        return jnp.tanh(h)

    return fn


@program(1, differentiable=False)
def pure_callback():
    x, w = X(), W()

    def fn(c):
        h = x @ w(c)
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(h.shape, h.dtype), h, vmap_method="expand_dims")

    return fn


# ------------------------------------------------------------------------------------------------ the table: models


def random_plane(shapes):
    """A plane of random parameters of a model that was never initialised."""
    shapes, treedef = jax.tree.flatten(shapes)
    origin = [0.5 * array(i, *leaf.shape) for i, leaf in enumerate(shapes)]
    directions = [0.3 * array(50 + i, 2, *leaf.shape) for i, leaf in enumerate(shapes)]
    return Subspace(jax.tree.unflatten(treedef, origin), jax.tree.unflatten(treedef, directions))


@program(1)
def convolution():
    x, w, v = array(1, 2, 8, 8, 3), line(2, 3, 3, 3, 4), line(3, 3, 3, 4, 2)

    def fn(c):
        conv = functools.partial(
            lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(conv(jnp.tanh(conv(x, w(c))), v(c)), (1, 2))

    return fn


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(jnp.tanh(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(3)(nn.LayerNorm()(x.reshape(x.shape[0], -1)))


@program(1)
def flax_linen():
    x = array(1, 2, 6, 6, 2)
    model = LinenNet()
    plane = random_plane(jax.eval_shape(model.init, jax.random.key(0), x))
    return lambda c: jax.nn.log_softmax(model.apply(plane(c), x))


@program(1)
def equinox():
    x = X()
    layers = functools.partial(eqx.nn.MLP, D, 3, H, 2, activation=jnp.tanh)
    model = eqx.filter_eval_shape(layers, key=jax.random.key(1))
    params, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    plane = random_plane(params)
    return lambda c: jax.vmap(eqx.combine(plane(c), static))(x)


def network_loss(params, batch):
    h = jnp.tanh(batch["x"] @ params["w"] + params["b"])
    losses = jnp.sum((h @ params["v"] - batch["y"]) ** 2, axis=1)
    return losses, {"small": losses < 3.0}


def loss_surface(batch_size, outputs):
    params = {"w": array(1, D, H), "b": array(2, H), "v": array(3, H, 3)}
    data = {"x": array(4, N + 1, D), "y": array(6, N + 1, 3)}
    objective = Objective(network_loss, data, has_aux=True, batch_size=batch_size)
    return LossSurface(random_plane(params), {"train": objective}, outputs)


@program(1)
def loss_surface_in_one_batch():
    return loss_surface(None, ("sem",))


@program(2)
def loss_surface_over_scanned_batches():
    return loss_surface(4, ("sem",))


@program(6, rtol=3e-5)
def loss_surface_with_gradients():
    return loss_surface(6, ("gradient", "gradient_norm", "off_plane"))


# ---------------------------------------------------------------------------------------------------- its properties

names = pytest.mark.parametrize("name", PROGRAMS)


def once(fn):
    """The function, which may be traced once only: a second call means that the rewrite gave up."""
    calls = []

    @functools.wraps(fn)
    def counted(c):
        calls.append(1)
        assert len(calls) == 1, "the rewrite fell back on the plain function"
        return fn(c)

    return counted


def compiled(fn):
    """Jitted; compiled without much optimisation, as each program runs once."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def described(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x), jax.typeof(x).weak_type), tree)


def assert_equal(result, expected, rtol):
    """Equal to `rtol`, relative to each entry, or to the largest one of its array where it is small."""
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected)):
        a, b = (np.asarray(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def contractions(jaxpr):
    """How many matrix products and convolutions work on all points at once, and how many on each separately."""
    eqns = [e for e in jaxpr.eqns if e.primitive.name in ("dot_general", "conv_general_dilated")]
    separate = sum(any(side % POINTS == 0 for v in e.invars for side in v.aval.shape) for e in eqns)
    below = [contractions(inner) for inner in jex.subjaxprs(jaxpr)]
    return np.array([len(eqns) - separate, separate]) + sum(below)


def gradient(fn, coords):
    """By reverse mode from outside, of a weighted sum of everything that has a derivative."""

    def total(c):
        leaves = [x.ravel() for x in jax.tree.leaves(fn(c)) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum((x.astype(jnp.float32) @ jnp.cos(jnp.arange(x.size)) for x in leaves), start=jnp.float32(0))

    gradients = jax.grad(total, allow_int=True)(coords)
    return [g for g in jax.tree.leaves(gradients) if g.dtype != jax.dtypes.float0]


def in_every_way(case, fn, coords):
    """What `vmap` returns, what the rewritten function returns where it is used, and both gradients."""
    mesh, spec = Mesh(np.array(jax.devices()[:1]), ("points",)), PartitionSpec("points")

    def mapped(coords):
        return lax.map(distribute(once(fn)), coords)

    sharded = jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    pairs = [(affine_vmap(once(fn))(coords), jax.vmap(fn)(coords)), (sharded(coords), jax.vmap(fn)(coords))]
    if case.differentiable:
        pairs.append((gradient(affine_vmap(fn), coords), gradient(jax.vmap(fn), coords)))
    return pairs


@names
def test_equal_to_vmap(name):
    case = PROGRAMS[name]
    fn, coords = case.build(), case.coords()
    for result, expected in compiled(functools.partial(in_every_way, case, fn))(coords):
        assert described(result) == described(expected)
        assert_equal(result, expected, case.rtol)


@names
def test_equal_to_vmap_in_double_precision(name, x64):
    case = PROGRAMS[name]
    fn, coords = case.build(), case.coords()
    expected, result = compiled(lambda c: (jax.vmap(fn)(c), affine_vmap(once(fn))(c)))(coords)
    assert described(result) == described(expected)
    assert_equal(result, expected, case.rtol_in_double)


@names
def test_contractions_are_shared(name):
    case = PROGRAMS[name]
    fn, coords = case.build(), case.coords()
    shared, separate = contractions(jax.make_jaxpr(affine_vmap(fn))(coords).jaxpr)
    shared_before, separate_before = contractions(jax.make_jaxpr(jax.vmap(fn))(coords).jaxpr)
    assert num_hoisted(fn, jax.tree.map(lambda x: x[0], coords)) == case.hoisted
    assert separate <= separate_before - case.hoisted
    assert shared >= shared_before + case.hoisted


# ---------------------------------------------------------------------------------------------- what the rewrite does


def equations(jaxpr):
    """All equations of a program, those of its loops and calls included."""
    yield from jaxpr.eqns
    for inner in jex.subjaxprs(jaxpr):
        yield from equations(inner)


def outputs(fn, *args, of):
    """Shapes of the results of all equations with these names."""
    traced = jax.make_jaxpr(fn)(*args).jaxpr
    return [eqn.outvars[0].aval.shape for eqn in equations(traced) if eqn.primitive.name in of]


def num_products(fn, *args):
    return outputs(fn, *args, of=["dot_general"]).count((N, H))


def test_one_product_for_the_origin_and_one_for_each_direction():
    x, w0, d = X(), array(1, D, H), array(2, 3, D, H)
    flat = jnp.concatenate([w0.ravel(), jnp.ones(4)])
    rows = jnp.concatenate([d.reshape(3, -1), jnp.ones((3, 4))], axis=1)
    ways = [
        lambda c: w0 + c[0] * d[0] + c[1] * d[1] + c[2] * d[2],
        lambda c: w0 + jnp.tensordot(c, d, axes=1),
        lambda c: w0 + jnp.einsum("k,kij->ij", c, d),
        lambda c: w0 + sum(ci * di for ci, di in zip(c, d)),
        lambda c: (flat + c @ rows)[: D * H].reshape(D, H),
        Subspace(w0, d),
    ]
    for at in ways:
        shapes = outputs(affine_vmap(lambda c, at=at: jnp.tanh(x @ at(c))), plane_coords(3), of=["dot_general"])
        assert shapes.count((N, H)) == 4
        assert not [shape for shape in shapes if len(shape) == 3]


def test_a_sparse_parameter_costs_only_the_directions_that_move_it():
    x, w0, w1 = X(), array(1, D, H), array(2, D, H)
    for at, count in ((lambda c: w0 + c[1] * w1, 2), (lambda c: c[2] * w1 - 0.0, 1), (lambda c: 0.0 + w0 * c[0], 1)):
        fn = affine_vmap(lambda c, at=at: jnp.tanh(x @ at(c)))
        assert outputs(fn, plane_coords(3), of=["dot_general"]) == [(N, H)] * count


def test_short_products_are_not_shared_unless_their_result_is_small():
    w = line(1, 3, H)

    def fn(c):
        return jnp.tanh(array(2, N, 3) @ w(c)), jnp.tanh(array(3, 2, 3) @ w(c))

    assert sorted(outputs(affine_vmap(fn), plane_coords(), of=["dot_general"]))[:3] == [(2, H)] * 3
    assert num_hoisted(fn, jnp.ones(2)) == 1


def test_a_bias_is_summed_before_it_is_broadcast():
    x, w, v, b, scale = X(), W(), line(20, H, 7), line(30, 7), line(40, 7)

    def fn(c):
        wide = jnp.broadcast_to(b(c), (N, 7))
        return jnp.tanh((jnp.tanh(x @ w(c)) @ v(c)) * scale(c) + 0.5 * wide)

    big = [shape for shape in outputs(affine_vmap(fn), plane_coords(), of=["mul"]) if shape == (POINTS, N, 7)]
    assert len(big) == 2  # by the scale and by 0.5, as written; sums over the coordinates would be two more


def test_a_coordinate_that_is_written_twice_is_one():
    x, w, b = X(), W(), B()

    def fn(c):
        return jnp.tanh(x @ w(c) + b(c))

    assert outputs(affine_vmap(fn), plane_coords(), of=["mul"]).count((POINTS, N, H)) == 2


def test_a_loop_sums_its_constants_outside_and_keeps_its_own_sums_inside():
    xs, w, v = array(1, 3, N, D), W(), V()

    def fn(c):
        first, head = w(c), v(c)

        def step(total, x):
            inside = 2.5 * head  # made in the body, from a value of outside
            return total + jnp.mean(jnp.tanh(x @ first) @ head) + jnp.mean(jnp.sin(inside)), None

        total, _ = lax.scan(step, jnp.asarray(0.0, c.dtype), xs)
        return total + jnp.mean(jnp.tanh(first) @ jnp.sin(head)) + jnp.mean(jnp.cos(2.5 * head))

    def reference(c):
        h, head = np.tanh(xs @ w(c)), v(c)
        return sum((h_i @ head).mean() + np.sin(2.5 * head).mean() for h_i in h) + (
            (np.tanh(w(c)) @ np.sin(head)).mean() + np.cos(2.5 * head).mean()
        )

    coords = plane_coords()
    np.testing.assert_allclose(compiled(affine_vmap(once(fn)))(coords), [reference(c) for c in coords], rtol=1e-5)
    (loop,) = [e for e in jax.make_jaxpr(affine_vmap(fn))(coords).eqns if e.primitive.name == "scan"]
    body = [e for e in equations(loop.params["jaxpr"].jaxpr) if e.primitive.name == "mul"]
    sums = [e for e in body if e.outvars[0].aval.shape == (POINTS, H, 3)]
    assert len(sums) == 1  # 2.5 * head, from the sum of outside


def test_what_a_gradient_recomputes_stays_behind_a_barrier():
    case = PROGRAMS["rematerialised_gradient"]
    barriers = outputs(affine_vmap(case.build()), case.coords(), of=["optimization_barrier"])
    assert (POINTS,) in barriers  # the coordinates, of which the first layer is made


def test_weights_may_be_tracers_of_an_outer_jit():
    x, w0, d = X(), array(1, D, H), array(2, 2, D, H)
    traces = []  # data and weights are arguments, so other values run through the same program

    @jax.jit
    def evaluate(plane, x, coords):
        traces.append(1)
        return affine_vmap(functools.partial(lambda at, c: jnp.tanh(x @ at(c)).sum(), plane))(coords)

    coords = plane_coords()
    for scale in (1.0, -0.6):
        plane = Subspace(scale * w0, d)
        expected = [np.tanh(x @ (scale * w0 + np.tensordot(c, d, 1))).sum() for c in coords]
        np.testing.assert_allclose(evaluate(plane, x, coords), expected, rtol=1e-5)
    assert len(traces) == 1
    assert num_products(evaluate, Subspace(w0, d), x, coords) == 3


def test_shard_map_with_its_own_checks():
    fn, coords = PROGRAMS["two_layers"].build(), plane_coords()
    mesh, spec = Mesh(np.array(jax.devices()[:1]), ("points",)), PartitionSpec("points")
    sharded = jax.jit(jax.shard_map(affine_vmap(fn), mesh=mesh, in_specs=spec, out_specs=spec))
    assert_equal(sharded(coords), jax.vmap(fn)(coords), 1e-5)


def test_many_coordinates_and_many_terms_are_summed_at_each_point():
    x, w0, d = X(), array(1, D, H), array(2, 18, D, H)
    for fn in (
        lambda c: jnp.tanh(x @ (w0 + jnp.tensordot(c, d, axes=1))).sum(),
        lambda c: jnp.tanh(x @ (w0 + sum(jnp.sin(i * c[0]) * di for i, di in enumerate(d)))).sum(),
    ):
        coords = plane_coords(18)
        assert num_hoisted(fn, coords[0]) == 0
        assert_equal(jax.jit(affine_vmap(once(fn)))(coords), jax.jit(jax.vmap(fn))(coords), 1e-5)


def test_what_cannot_be_rewritten_is_called_as_it_is_and_says_so_once(monkeypatch):
    fn, coords = PROGRAMS["two_layers"].build(), plane_coords()
    monkeypatch.setattr(_rewrite, "_equation", lambda *_: [][0])
    monkeypatch.setattr(_rewrite, "_SAID", set())
    with pytest.warns(RuntimeWarning, match="could not rewrite this function for jax .* without the speed"):
        assert_equal(affine_vmap(fn)(coords), jax.vmap(fn)(coords), 1e-5)
    assert num_hoisted(fn, coords[0]) == 0  # and no second warning


def test_operands_of_a_scan_are_told_apart_by_their_variables():
    def fn(c, w, xs):
        def body(carry, x):
            return (carry[0] @ w + x[0] + c[0], carry[1] + 1), (x[1] * c[1], carry[0])

        return jax.lax.scan(body, (jnp.ones(3), 0), xs)

    program = jax.make_jaxpr(fn)(jnp.ones(2), jnp.ones((3, 3)), (jnp.ones((5, 3)), jnp.ones(5)))
    (scan,) = (eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "scan")
    consts, carry = _program.num_consts_and_carry(scan)
    shapes = [v.aval.shape for v in scan.invars]
    assert carry == 2
    assert shapes[consts + carry :] == [(5, 3), (5,)]
    assert (3, 3) in shapes[:consts]


def test_errors_of_the_function_come_through():
    def fn(c):
        raise ValueError("a learning rate of 0.3 is too large")

    with pytest.raises(ValueError, match=r"rate of 0.3 is too large"):
        affine_vmap(fn)(plane_coords())


def test_it_compiles_for_a_gpu():
    case = PROGRAMS["loss_surface_over_scanned_batches"]
    jax.jit(affine_vmap(case.build())).trace(case.coords()).lower(lowering_platforms=("cuda",))


# -------------------------------------------------------------------------------------------------- work and accuracy


def test_a_network_with_a_wide_first_layer_takes_at_most_0_45_of_the_operations():
    sizes = (784, 128, 128, 10)
    params = [{"w": 0.05 * array(i, a, b), "b": array(9 + i, b)} for i, (a, b) in enumerate(itertools.pairwise(sizes))]
    plane = random_plane(params)
    x, y = array(1, 256, 784), jnp.arange(256) % 10

    def loss(plane, x, c):
        h = x
        for layer in (layers := plane(c))[:-1]:
            h = jax.nn.relu(h @ layer["w"] + layer["b"])
        logits = jax.nn.log_softmax(h @ layers[-1]["w"] + layers[-1]["b"])
        return -jnp.mean(jnp.take_along_axis(logits, y[:, None], axis=1))

    def flops(batched):
        run = jax.jit(lambda plane, x, c: batched(functools.partial(loss, plane, x))(c))
        return run.lower(plane, x, jnp.ones((16, 2))).compile().cost_analysis()["flops"]

    assert flops(affine_vmap) <= 0.45 * flops(jax.vmap)


def test_a_squared_loss_keeps_its_accuracy_far_from_the_origin():
    """At the minimum, the loss is less than 1 % of what its powers of the coordinates are: their sum would cancel."""
    rng = np.random.default_rng(4)
    x, d = rng.normal(size=(64, D)), rng.normal(size=(2, D))
    w0, best = rng.normal(size=D), np.array([0.7, -2.3])
    y = x @ (w0 + best @ d) + 0.3 * rng.normal(size=64)
    coords = np.float32(best + 1e-3 * rng.normal(size=(POINTS, 2)))
    exact = [np.mean((x @ (w0 + c @ d) - y) ** 2) for c in np.float64(coords)]
    single = [jnp.asarray(a, jnp.float32) for a in (x, y, w0, d)]

    def loss(c):
        x, y, w0, d = single
        return jnp.mean((x @ (w0 + c @ d) - y) ** 2)

    found, plain = jax.jit(lambda c: (affine_vmap(once(loss))(c), jax.vmap(loss)(c)))(coords)
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    terms = np.stack([x @ w0 - y, *(d @ x.T)])
    powers = np.float32(terms @ terms.T / len(y))
    expanded = np.array([np.r_[np.float32(1), c] @ powers @ np.r_[np.float32(1), c] for c in coords])
    assert np.max(np.abs(expanded / exact - 1)) > 1e-5


SIDE = 9
STEPS = {
    "product from the left": lambda c, m: array(1, SIDE, SIDE) @ m / 3,
    "product from the right": lambda c, m: m @ array(2, SIDE, SIDE) / 3,
    "shift": lambda c, m: m + array(3, SIDE, SIDE),
    "move": lambda c, m: m + c[0] * array(4, SIDE, SIDE),
    "scale by a coordinate": lambda c, m: m * c[1],
    "scale": lambda c, m: 0.7 * m,
    "square": lambda c, m: jnp.sin(m) * m,
    "tanh": lambda c, m: jnp.tanh(m),
    "transpose": lambda c, m: m.T,
    "rows": lambda c, m: jnp.concatenate([m[4:], m[:4][::-1]]),
    "sum": lambda c, m: m - m.mean(0),
    "mask": lambda c, m: jnp.where(array(5, SIDE, SIDE) > 0, m, 0.3),
    "itself": lambda c, m: m @ m / 9,
    "loop": lambda c, m: lax.fori_loop(0, 2, lambda i, a: a + 0.3 * m + i, m),
    "cut": lambda c, m: lax.stop_gradient(m) + 0.5 * m[::-1],
}


@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6))
@settings(max_examples=15)
def test_random_programs(steps):
    def fn(c):
        m = c[0] * array(6, SIDE, SIDE) + array(7, SIDE, SIDE)
        for step in steps:
            m = STEPS[step](c, m)
        return m

    coords = plane_coords()
    result, expected = compiled(lambda c: (affine_vmap(once(fn))(c), jax.vmap(fn)(c)))(coords)
    assert described(result) == described(expected)
    assert_equal(result, expected, 2e-5)


def _write_and_read(c):
    ref = jax.new_ref(c[0])
    first = ref[...]
    ref[...] = first - 1.0
    second = ref[...]
    ref[...] = second + 0.6 + first
    return jnp.stack([first, second, ref[...]])


def _two_callbacks(c):
    tables = [np.full(2000, 0.5), np.full(2000, 5.0)]
    look_up = [functools.partial(lambda table, x: np.asarray(table[1000] * x, np.float32), table) for table in tables]
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jnp.stack([jax.pure_callback(f, shape, c[0], vmap_method="sequential") for f in look_up])


def _signed_zeros(c):
    return jnp.stack([jnp.arctan2(c[0], jnp.float32(-0.0)), jnp.arctan2(c[0], jnp.float32(0.0))])


@pytest.mark.parametrize("fn", [_write_and_read, _two_callbacks, _signed_zeros])
def test_equations_that_look_alike_are_not_taken_for_one(fn):
    coords = jnp.array([[0.3, 2.0], [0.0, -1.5], [-0.7, 0.25]], jnp.float32)
    np.testing.assert_allclose(affine.affine_vmap(fn)(coords), jax.vmap(fn)(coords), rtol=1e-6)
