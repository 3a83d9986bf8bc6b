"""Parameters that come divided over eight devices stay so through every function, and the numbers are the same."""

import os
import subprocess
import sys

import pytest

START = """
import warnings
import jax, jax.numpy as jnp, numpy as np, optax
import landscape as ls
from landscape import placement
from landscape.engine import _kernel
warnings.simplefilter("error")
assert jax.device_count() == 8
rng = np.random.default_rng(0)
host = {name: rng.normal(size=s).astype(np.float32) / 8 for name, s in (("up", (16, 64)), ("down", (64, 16)))}
over, alone = {"up": (None, "model"), "down": ("model", None)}, jax.tree.map(jnp.asarray, host)

def spread(tree, mesh, lead=()):
    return {k: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*lead, *over[k]))) for k, x in tree.items()}

def divided(tree, by=8):
    for name, x in tree.items():
        assert {s.data.nbytes for s in x.addressable_shards} == {x.nbytes // by}, (name, x.sharding)

def loss(p, x):
    return jnp.mean((jnp.tanh(x @ p["up"]) @ p["down"] - x) ** 2, -1)

objective, key = ls.Objective(loss, jnp.asarray(rng.normal(size=(24, 16)), jnp.float32)), jax.random.key(3)
auto = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
for mesh in (auto, jax.make_mesh((8,), ("model",))):  # whose axes are explicit, which JAX makes where nothing is said
    many = spread(host, mesh)
    product = ls.curvature.hvp(objective, many, many)
    divided(product)
    expected = ls.curvature.hvp(objective, alone, alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), product, expected)
many = spread(host, auto)
value, slope = objective.value_and_grad(many)
divided(slope)
np.testing.assert_allclose(value, objective(alone), rtol=1e-5)
"""

SWEEP = """
grid, devices = ls.Grid.square(0.5, 5), jax.devices()
directions = {k: rng.normal(size=(2, *x.shape)).astype(np.float32) / 8 for k, x in host.items()}
def surface(params, directions):
    return ls.LossSurface(ls.Subspace(params, directions), objective)
whole = ls.sweep(surface(alone, directions), grid, devices=1, batch=1)["loss"]
for size, groups in ((8, 1), (4, 2)):  # all devices for a point; two groups of four that share the points
    mesh = jax.make_mesh((size,), ("model",), devices=devices[:size])
    point = surface(spread(host, mesh), spread(directions, mesh, (None,)))
    np.testing.assert_allclose(ls.sweep(point, grid, batch=5 - size // 2)["loss"], whole, rtol=1e-5)
    kernel = _kernel.Kernel.build(placement.by_compiler(point), 2, devices, grid.size)
    assert kernel.groups == groups
    divided(kernel.fn.at.origin, size)
    divided(kernel.fn.at.directions, size)
    held = kernel.program.memory_analysis()
    model = 3 * sum(x.nbytes for x in host.values())
    assert held.argument_size_in_bytes < model / size + objective.data.nbytes + 2**13 + 2**10, held
"""


SPECTRUM = """
run = ls.train(objective, optax.sgd(0.1), many, num_steps=3)
divided(run.params)

dense = np.linalg.eigvalsh(np.asarray(ls.curvature.hessian(objective, alone), np.float64))
pairs = ls.curvature.eigenpairs(key, objective, many, 1, max_vectors=12)
divided(pairs.vectors)
np.testing.assert_allclose(pairs.values, dense[-1:], rtol=1e-4)
density = ls.curvature.spectral_density(key, objective, many, num_probes=4, num_steps=5)
mean, sem = density.average(lambda t: t)
assert abs(mean - dense.mean()) < 5 * sem
mean, sem = ls.curvature.trace(key, objective, many, method="hutchinson", num_products=40)
assert abs(mean - dense.sum()) < 5 * sem
"""


def run(*parts):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    script = "".join(parts)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_products_gradients_and_sweeps_over_eight_devices_give_the_numbers_of_one():
    run(START, SWEEP)


@pytest.mark.slow
def test_eigenpairs_density_trace_and_training_over_eight_devices():
    run(START, SPECTRUM)
