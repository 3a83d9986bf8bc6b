"""The engine: same numbers whatever the tiles, widths, devices and traces; checks before compiling."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.interpreters import mlir

import landscape as ls
from landscape.engine import _job, _kernel, _runners, _tuning
from landscape.engine._kernel import Strategy

GRID = ls.Grid.of(x=np.linspace(-1.5, 1.25, 7), y=np.linspace(-2.0, 0.75, 11))
HESSIAN = np.array([[3.5, 0.75], [0.75, 0.25]])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Bowl:
    """1/2 (c - m)' H (c - m)."""

    hessian: jax.Array
    minimum: jax.Array

    def __call__(self, coords):
        offset = coords - self.minimum
        return {"loss": 0.5 * offset @ self.hessian @ offset, "offset": offset, "right": offset[0] > 0}


def bowl(scale=1.0):
    return Bowl(jnp.asarray(scale * HESSIAN, jnp.float32), jnp.array([0.3, -0.6], jnp.float32))


def bowl_in_numpy(grid=GRID):
    x, y = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    offset = np.stack([x - 0.3, y + 0.6], axis=-1)
    return 0.5 * np.einsum("xyi,ij,xyj->xy", offset, HESSIAN, offset)


@pytest.mark.parametrize("batch", ["auto", 1, 8, 100])
def test_asymmetric_bowl_on_a_non_square_grid_equals_the_closed_form(batch):
    result = ls.sweep(bowl(), GRID, batch=batch)
    assert result["loss"].shape == (7, 11)
    np.testing.assert_allclose(result["loss"], bowl_in_numpy(), rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(
        result["offset"][2, 3], [GRID.axes[0].values[2] - 0.3, GRID.axes[1].values[3] + 0.6], atol=1e-6
    )
    assert result["right"].dtype == bool
    assert result.computed.all()
    assert result.error == {"loss": None, "offset": None, "right": None}


def test_double_precision_bowl_is_exact_to_rounding():
    with jax.enable_x64(True):
        point = Bowl(jnp.asarray(HESSIAN), jnp.array([0.3, -0.6]))
        result = ls.sweep(point, GRID, batch=4)
    assert result["loss"].dtype == np.float64
    np.testing.assert_allclose(result["loss"], bowl_in_numpy(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("shape", [(9,), (3, 4), (2, 3, 4), (2, 3, 2, 3), (1, 1)])
def test_any_number_of_dimensions(shape):
    grid = ls.Grid.of(**{f"c{i}": np.linspace(0.5, 2.0 + i, n) for i, n in enumerate(shape)})
    result = ls.sweep(lambda c: jnp.sum(c * jnp.arange(2.0, 2.0 + len(shape))), grid)
    mesh = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    np.testing.assert_allclose(result["value"], sum((2.0 + i) * m for i, m in enumerate(mesh)), rtol=1e-6)


@pytest.mark.parametrize("tile_seconds", [1e-9, 3e-6, 1e-4, 10.0])
@pytest.mark.parametrize("width", [1, 8])
def test_tiles_change_no_bit(monkeypatch, tile_seconds, width):
    reference = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=width)
    monkeypatch.setattr(_job, "TILE_SECONDS", tile_seconds)
    monkeypatch.setattr(_job, "MAX_TILES", 10**9)
    result = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=width)
    np.testing.assert_array_equal(result["loss"], reference["loss"])


@functools.cache
def _network():
    """A small tanh network with a loss surface around random weights."""
    init, predict = ls.problems.mlp((5, 7, 3))
    params = init(jax.random.key(2))
    x, y = jax.random.normal(jax.random.key(3), (33, 5)), jax.random.normal(jax.random.key(4), (33, 3))
    objective = ls.Objective(lambda p, b: jnp.sum((predict(p, b["x"]) - b["y"]) ** 2, -1), {"x": x, "y": y})
    directions = ls.subspace.random_directions(jax.random.key(5), params)
    return ls.LossSurface(ls.Subspace(params, directions), objective)


def test_widths_agree_to_rounding_and_with_a_plain_loop():
    grid, surface = ls.Grid.square(0.7, 9), _network()
    loop = np.array([float(jax.jit(surface)(jnp.asarray(p, jnp.float32))["loss"]) for p in grid.points()]).reshape(9, 9)
    for width in (1, 2, 8, 32, 81, 200):
        np.testing.assert_allclose(ls.sweep(surface, grid, batch=width)["loss"], loop, rtol=2e-6)


def test_centre_equals_the_unperturbed_loss_to_the_bit():
    """By the same program with all directions zero; a program of another shape may round differently."""
    surface = _network()
    still = ls.Subspace(surface.at.origin, jax.tree.map(jnp.zeros_like, surface.at.directions))
    plain = jax.jit(lambda o, p: o(p))(surface.objectives, surface.at.origin)
    for width in (1, 8, 64):
        centre = ls.sweep(surface, ls.Grid.square(0.7, 9), batch=width)["loss"][4, 4]
        nowhere = ls.sweep(dataclasses.replace(surface, at=still), ls.Grid.square(0.7, 3), batch=width)["loss"]
        np.testing.assert_array_equal(nowhere, centre)
        np.testing.assert_allclose(centre, plain, rtol=1e-6)


def test_one_trace_per_sweep_and_none_for_new_data_of_the_same_shape():
    traces = []

    def loss_fn(params, batch):
        traces.append(1)
        return (batch @ params) ** 2

    def surface(seed):
        data = jax.random.normal(jax.random.key(seed), (6, 3))
        directions = jnp.array([[0.5, 2.0, -1.5], [2.5, 0.25, 0.75]])
        return ls.LossSurface(ls.Subspace(jnp.array([0.5, -2.0, 3.0]), directions), ls.Objective(loss_fn, data))

    ls.sweep(surface(1), ls.Grid.square(1.0, 13))
    assert len(traces) == 1
    ls.sweep(surface(2), ls.Grid.square(2.0, 31))
    assert len(traces) == 1


def test_nan_and_infinity_are_kept_where_they_were_found():
    result = ls.sweep(
        lambda c: {"loss": jnp.log(c[0]), "inverse": 1.0 / c[1]}, ls.Grid.of(x=[-2.0, 0.0, 3.0], y=[0.0, 4.0])
    )
    np.testing.assert_array_equal(np.isnan(result["loss"][0]), [True, True])
    np.testing.assert_array_equal(result["loss"][1], [-np.inf, -np.inf])
    np.testing.assert_array_equal(result["inverse"][:, 0], np.inf)


_DEVICES = """
import os, sys, warnings, numpy as np, jax
sys.path.insert(0, {tests!r})
from test_engine import _network
import landscape as ls
from landscape.engine import _kernel
assert len(jax.local_devices()) == 3
for width in (1, 4):
    one = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=width, devices=1)
    three = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=width)
    assert len(three.meta["calls"][0]["devices"]) == 3
    np.testing.assert_array_equal(one["loss"], three["loss"])
auto = ls.sweep(_network(), ls.Grid.square(0.7, 9))
np.testing.assert_allclose(one["loss"], auto["loss"], rtol=2e-6)
meshes = [jax.make_mesh((3,), ("d",)), jax.make_mesh((3,), ("e",))]
spread = [jax.device_put(np.arange(6.0), jax.NamedSharding(mesh, jax.P(*mesh.axis_names))) for mesh in meshes]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = ls.sweep(jax.tree_util.Partial(lambda s, t, c: s @ t * c[0], *spread), ls.Grid.square(2.0, 3))
np.testing.assert_allclose(found["value"], [[-110.0] * 3, [0.0] * 3, [110.0] * 3])
assert "2 arrays of the point function are sharded over 3 devices, by no one" in str(caught[0].message), caught
memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
assert _kernel.default_memory(jax.local_devices()[0]) == memory // 4 // 3
"""


def test_all_local_devices_share_the_points_and_give_the_same_bits():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        "JAX_PLATFORMS": "cpu",
    }
    script = _DEVICES.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def threads(monkeypatch):
    """`threads(n)`: sweeps may use so many, and forget what was tuned before."""
    with _tuning.forgotten():
        yield lambda num: monkeypatch.setattr(_kernel, "threads_for", lambda devices: num)


@pytest.mark.parametrize("batch", [1, 4, Strategy(4, hoist=True)])
def test_the_answer_does_not_depend_on_the_number_of_threads(threads, batch):
    surface, grid = _network(), ls.Grid.square(0.7, 9)
    threads(1)
    alone = ls.sweep(surface, grid, batch=batch)
    threads(3)  # 81 points in steps of 4 are 7 steps for each of three threads
    assert ls.plan(surface, grid, batch=batch).threads in (1, 3)
    together = ls.sweep(surface, grid, batch=batch)
    np.testing.assert_array_equal(alone["loss"], together["loss"])


def test_calls_of_one_device_overlap(threads, monkeypatch):
    """Two calls wait for each other: a single thread would wait in vain."""
    meeting, run = threading.Barrier(2, timeout=60), _kernel._run

    def meet(*arguments):
        meeting.wait()
        return run(*arguments)

    monkeypatch.setattr(_kernel, "_run", meet)
    threads(2)
    result = ls.sweep(lambda c: 2.5 * c[0], ls.Grid.of(x=[0.5, 1.5]), batch=1)
    np.testing.assert_array_equal(result["value"], [1.25, 3.75])
    assert meeting.n_waiting == 0


@pytest.mark.parametrize(
    "point",
    [
        lambda c: jnp.linalg.solve(jnp.diag(c + 2.0), jnp.ones(2))[1],
        lambda c: jnp.linalg.eigvalsh(jnp.diag(c + 2.0))[1],
        lambda c: jnp.abs(jnp.fft.fft(c))[1],
        lambda c: jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((), c.dtype), c[1], vmap_method="sequential"),
    ],
)
def test_calls_that_could_lock_up_do_not_overlap(threads, point):
    threads(2)
    assert ls.plan(point, GRID).threads == ls.plan(point, GRID, batch=4).threads == 1
    kernel = _kernel.Kernel.build(jax.tree_util.Partial(point), 2, jax.local_devices()[:1])
    assert kernel.threads == 2  # as for any other program, before it is compiled
    assert not kernel.overlaps
    pending = kernel(GRID.points())  # even for a single thread, the device would begin the next call before this ends
    assert all(value.is_ready() for result in pending.results for value in result().values())


def test_arithmetic_products_and_sorting_overlap(threads):
    threads(2)
    point = jax.tree_util.Partial(lambda c: jax.lax.top_k(jnp.sort(jnp.sin(jnp.outer(c, c) @ c)), 1)[0][0])
    kernel = _kernel.Kernel.build(point, 2, jax.local_devices()[:1])
    assert kernel.checked() is kernel


def test_threads_compute_in_the_precision_of_the_caller(threads):
    threads(3)
    with jax.enable_x64(True):
        found = ls.sweep(lambda c: c[0] ** 2 / 3, ls.Grid.of(x=np.linspace(0.1, 0.9, 30)), batch=2)
    np.testing.assert_allclose(found["value"], np.linspace(0.1, 0.9, 30) ** 2 / 3, rtol=1e-15)


def test_what_a_thread_raises_is_raised_by_the_sweep(threads, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the device's own trouble")

    threads(2)
    monkeypatch.setattr(_kernel, "_run", fail)
    with pytest.raises(RuntimeError, match="the device's own trouble"):
        ls.sweep(lambda c: 3.5 * c[0], ls.Grid.of(x=[0.3, 0.7, 1.3]), batch=1)


def test_who_uses_threads(monkeypatch):
    cpu, gpu = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="gpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert _kernel.threads_for([cpu]) == cores
    assert _kernel.threads_for([cpu, cpu]) == _kernel.threads_for([gpu]) == 1
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "a pool of processes")
    assert _kernel.threads_for([cpu]) == 1


def test_the_kernel_lowers_for_a_gpu():
    kernel = _kernel.Kernel.build(_network(), 2, jax.local_devices()).using(Strategy(8))
    coords = jax.ShapeDtypeStruct((kernel.capacity, 2), jnp.float32)
    counts = jax.ShapeDtypeStruct((1,), jnp.int32)
    traced = _kernel._evaluate.trace(kernel.fn, coords, counts, strategy=Strategy(8), mesh=None)
    assert "stablehlo" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_out_of_memory_halves_the_width_says_so_once_and_changes_nothing(monkeypatch, capsys):
    reference = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=2)
    true_call = _kernel.Kernel.__call__

    def small(kernel, points):
        if kernel.width > 2 and len(points) > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory while allocating")
        return true_call(kernel, points)

    monkeypatch.setattr(_kernel.Kernel, "__call__", small)
    timing = _tuning.Timing(Strategy(8), 0.05)
    monkeypatch.setattr(_runners, "time_once", lambda kernel, points, num_points: timing)
    result = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=8)
    np.testing.assert_array_equal(result["loss"], reference["loss"])
    assert capsys.readouterr().err.count("out of memory") == 1


def test_max_memory_bounds_the_width_that_is_chosen():
    def heavy(c):
        return jnp.sum(jnp.sin(jnp.linspace(c[0], c[1], 50_000)) ** 2 * jnp.cumsum(jnp.full(50_000, c[0])))

    grid = ls.Grid.square(1.0, 150)
    kernel = _kernel.Kernel.build(jax.tree_util.Partial(heavy), 2, jax.local_devices())
    limit = 4 * 2**20
    timing = _tuning.tune(kernel, np.resize(grid.points(), (kernel.max_points, 2)), grid.size, limit)
    assert timing.strategy.width == 1 or timing.temp_bytes <= limit


@pytest.mark.parametrize("num", [12, 40])  # one step of the width asked for does it all, or several do
def test_max_memory_narrows_a_batch_that_was_given(monkeypatch, capsys, num):
    def heavy(c):
        return jnp.sort(jnp.sin(c[0] * jnp.arange(10_000.0)))[::2500]

    grid, point = ls.Grid.of(x=np.linspace(0.3, 2.0, num)), jax.tree_util.Partial(heavy)
    asked = _kernel.Kernel.build(point, 1, jax.local_devices(), num).using(Strategy(16))
    limit, used, call = asked.temp_bytes // asked.threads // 3, [], _kernel.Kernel.__call__
    monkeypatch.setattr(_kernel.Kernel, "__call__", lambda kernel, at: used.append(kernel) or call(kernel, at))
    result = ls.sweep(point, grid, batch=16, max_memory=limit)
    assert used
    assert all(kernel.temp_bytes <= limit for kernel in used)
    assert max(kernel.width for kernel in used) in (2, 4)
    said = capsys.readouterr().err  # nothing ran out: it was asked for
    assert said.count(f"max_memory={limit:,} bytes: going on with") == 1
    assert "out of memory" not in said
    expected = np.sort(np.sin(grid.axes[0].values[:, None].astype(np.float32) * np.arange(10_000, dtype=np.float32)))
    np.testing.assert_allclose(result["value"], expected[:, ::2500], atol=1e-5)


def test_plan_estimates_without_computing_the_grid():
    plan = ls.plan(_network(), ls.Grid.square(0.7, 1001), batch=64)
    assert plan.points == 1001**2
    assert plan.strategy.width == 64
    assert plan.num_tiles == np.prod([-(-1001 // t) for t in plan.tile])
    assert plan.disk_bytes == 1001**2 * 5
    assert "1,002,001" in str(plan)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"grid": "a grid"}, TypeError, "must be a landscape.Grid, got str"),
        ({"fn": 3}, TypeError, "must be callable"),
        ({"fn": lambda c: None}, TypeError, r"fn\(coords\) must be an array of numbers, .* is a `return` missing"),
        ({"fn": lambda c: {"a": None}}, TypeError, "the output 'a' must be .* is a `return` missing"),
        ({"fn": lambda c: "low"}, TypeError, r"fn\(coords\) must be an array of numbers, .* got str 'low'"),
        ({"fn": lambda c: (c[0], c[1])}, TypeError, r"got tuple .*: return \{\"loss\": .., \"accuracy\": ..\}"),
        ({"fn": lambda c: {"a": {"b": c[0]}}}, TypeError, "the output 'a' must be .* no further dicts"),
        ({"fn": lambda c: {1: c[0]}}, TypeError, "the names of outputs must be strings, got 1"),
        ({"fn": lambda c: np.array(["low"])}, TypeError, r"must be an array of numbers, .* got <U3\[1\]"),
        ({"fn": lambda x, y: x}, TypeError, r"called as fn\(coords\), but it takes \(x, y\): .*come as one array"),
        ({"fn": lambda: 1.5}, TypeError, r"fn is called as fn\(coords\), but it takes \(\)"),
        ({"grid": ls.Grid(())}, ValueError, "no axes"),
        ({"grid": ls.Grid.of(x=[], y=[2.0])}, ValueError, "at least one coordinate"),
        ({"grid": ls.Grid.of(x=[2.0, 0.5], y=[2.0])}, ValueError, "strictly increasing"),
        ({"grid": ls.Grid.of(x=[2.0, np.nan], y=[2.0])}, ValueError, "finite"),
        ({"grid": ls.Grid.of(x=np.linspace(1, 1 + 1e-7, 512))}, ValueError, "collapse to 2; use float64"),
        ({"batch": 0}, ValueError, "batch must be 'auto', a positive"),
        ({"batch": "big"}, ValueError, "batch must be 'auto', a positive"),
        ({"batch": 10**12}, ValueError, "more than the 1,048,576 that may be asked for on this grid of 77"),
        ({"batch": Strategy(2**20 + 1, hoist=True)}, ValueError, "more than the 1,048,576"),
        ({"batch": 2.5}, TypeError, "batch must be 'auto', a number of points or a Strategy of one, got float 2.5"),
        ({"batch": True}, TypeError, "got bool True"),
        ({"batch": Strategy(2, "yes")}, TypeError, "batch must be 'auto', a number of points or a Strategy"),
        ({"devices": 99}, ValueError, "devices=99, but there are"),
        ({"devices": []}, ValueError, "devices is empty"),
        ({"devices": ["cpu"]}, TypeError, r"a number of local devices or a list of them, .* got list \['cpu'\]"),
        ({"devices": True}, TypeError, "devices must be a number of local devices or a list of them"),
        ({"devices": 2 * jax.local_devices()[:1]}, ValueError, "each device can be given once"),
        ({"max_memory": -1}, ValueError, "max_memory must be a positive"),
        ({"max_memory": float("nan")}, ValueError, "max_memory must be a positive number of bytes, got nan"),
        ({"max_memory": "1 GB"}, TypeError, "max_memory must be a number, got '1 GB'"),
        ({"executor": 3}, TypeError, "executor must be a concurrent.futures.Executor, .* got int 3"),
        ({"executor": concurrent.futures.ThreadPoolExecutor}, TypeError, "executor must be a concurrent.futures.Exec"),
        ({"progress": "yes"}, ValueError, "progress must be 'auto', True or False, got 'yes'"),
        ({"progress": None}, TypeError, "progress must be 'auto', True or False, got NoneType"),
        ({"store": 3}, TypeError, "store must be the path of a directory, got int 3"),
        ({"shard": (True, 2), "store": "x"}, TypeError, r"i of shard=\(i, n\) must be an integer, got bool True"),
        ({"shard": "02", "store": "x"}, TypeError, r"shard must be a pair \(i, n\) of whole numbers"),
        ({"shard": (2, 2), "store": "x"}, ValueError, "0 <= i < n"),
        ({"shard": (0, 2)}, ValueError, "shard= needs store="),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ls.sweep(**{"fn": lambda c: c[0], "grid": GRID} | arguments)


def _surface(loss_fn, origin=None, **kwargs):
    origin = {"w": jnp.array([0.5, 2.0])} if origin is None else origin
    directions = kwargs.pop("directions", {"w": jnp.array([[0.25, 3.0], [2.0, 0.5]])})
    return ls.LossSurface(ls.Subspace(origin, directions), ls.Objective(loss_fn, jnp.ones((6, 2)), **kwargs))


@pytest.mark.parametrize(
    ("surface", "error", "message"),
    [
        (_surface(lambda p, b: jnp.ones(4)), ValueError, r"shape \(6,\).*got shape \(4,\)"),
        (_surface(lambda p, b: "low"), TypeError, "real numbers, got str 'low'"),
        (_surface(lambda p, b: jnp.sum(p["w"]) * 1j), TypeError, "got complex complex64"),
        (_surface(lambda p, b: (jnp.sum(b), {})), TypeError, "pass has_aux=True"),
        (_surface(lambda p, b: jnp.sum(b), has_aux=True), TypeError, "must return \\(loss, "),
        (
            _surface(lambda p, b: b @ p["w"], origin={"w": jnp.array([3, 2])}),
            TypeError,
            "origin.w must be a real float",
        ),
        (
            _surface(lambda p, b: b @ p["w"], directions={"v": jnp.ones((2, 2))}),
            ValueError,
            "missing leaves \\['w'\\]",
        ),
        (
            _surface(lambda p, b: b @ p["w"], directions={"w": jnp.ones((2, 3))}),
            ValueError,
            "directions.w must have shape",
        ),
        (
            _surface(lambda p, b: b @ p["w"], directions={"w": jnp.ones((3, 2))}),
            ValueError,
            "3 directions, the grid 2 axes",
        ),
    ],
)
def test_bad_functions_are_refused_before_compiling(surface, error, message):
    with pytest.raises(error, match=message):
        ls.sweep(surface, ls.Grid.square(1.0, 5))


def test_a_grid_finer_than_the_parameters_is_refused_with_advice():
    surface = _surface(lambda p, b: b @ p["w"])
    with pytest.raises(ValueError, match=r"finer than float32 resolves.*use float64"):
        ls.sweep(surface, ls.Grid.square(1e-7, 512))


def test_outputs_must_be_a_tuple_of_known_names():
    plane, objective = ls.Subspace(jnp.ones(2), jnp.ones((2, 2))), ls.Objective(lambda p, b: jnp.sum(p))
    with pytest.raises(TypeError, match="outputs must be a tuple"):
        ls.sweep(ls.LossSurface(plane, objective, outputs=["sem"]), GRID)
    with pytest.raises(ValueError, match="unknown output 'hessian'; built in are sem"):
        ls.sweep(ls.LossSurface(plane, objective, outputs=("hessian",)), GRID)


def test_an_empty_result_is_refused():
    with pytest.raises(ValueError, match="nothing to map"):
        ls.sweep(lambda c: {}, GRID)


def test_functions_among_the_leaves_become_part_of_the_program():
    surface = ls.LossSurface(lambda c: {"w": jnp.tanh(c)}, ls.Objective(lambda p, b: jnp.sum(p["w"] ** 2)))
    result = ls.sweep(surface, GRID)
    x, y = np.meshgrid(*(axis.values for axis in GRID.axes), indexing="ij")
    np.testing.assert_allclose(result["loss"], np.tanh(x) ** 2 + np.tanh(y) ** 2, rtol=1e-5)


def test_other_leaves_are_refused_by_name():
    surface = ls.LossSurface(ls.Subspace({"w": "heavy"}, {"w": jnp.ones((2, 1))}), ls.Objective(lambda p, b: 2.0))
    with pytest.raises(TypeError, match=r"origin.w must be a real floating-point array, got str"):
        ls.sweep(surface, GRID)
    with pytest.raises(TypeError, match=r"holds str 'slow' at 0.0, which is neither"):
        ls.sweep(jax.tree_util.Partial(lambda s, c: c[0], "slow"), GRID)


def test_tiles_in_flight_halve_the_width_once_each(monkeypatch):
    monkeypatch.setattr(_job, "layout_for", _rows(_job.layout_for))
    true_call = _kernel.Kernel.__call__

    def tiny(kernel, points):
        if kernel.width > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory while allocating")
        return true_call(kernel, points)

    reference = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=1)
    monkeypatch.setattr(_kernel.Kernel, "__call__", tiny)
    result = ls.sweep(_network(), ls.Grid.square(0.7, 9), batch=4)
    np.testing.assert_array_equal(result["loss"], reference["loss"])


def _rows(layout):
    def one_row(fn, grid, timing):
        whole = layout(fn, grid, timing)
        return type(whole)(whole.grid, whole.outputs, (1, 9))

    return one_row


def test_precision_is_part_of_what_is_remembered():
    point = jax.tree_util.Partial(lambda c: c[0] * 2.5)
    ls.sweep(point, GRID, batch=4)
    with jax.enable_x64(True):
        assert ls.sweep(point, GRID, batch=4)["value"].dtype == np.float64


def test_outputs_that_are_not_numbers_are_refused():
    with pytest.raises(TypeError, match="must hold numbers"):
        ls.sweep(lambda c: {"key": jax.random.key(3)}, GRID)
    with pytest.raises(TypeError, match="must hold numbers"):
        ls.sweep(lambda c: {"none": jnp.zeros((3, 0))}, GRID)
    with pytest.raises(ValueError, match="leave devices= away"):
        ls.sweep(lambda c: c[0], GRID, executor=object(), devices=1)


# ----------------------------------------------------------------------------------------- what vmap does not like


def _sine(method=None, host=np.sin):
    """The sine by NumPy, plus 3 y."""

    def point(c):
        return jax.pure_callback(host, jax.ShapeDtypeStruct((), c.dtype), c[0], vmap_method=method) + 3 * c[1]

    return point


def _cube_without_batching_rule():
    cube = jex.Primitive("cube")
    cube.def_abstract_eval(lambda x: x)
    mlir.register_lowering(cube, mlir.lower_fun(lambda x: x**3, multiple_results=False))
    return lambda c: cube.bind(c[0]) + 3 * c[1]


def _shifted(f, grid):
    x, y = np.meshgrid(*(axis.values.astype(np.float32) for axis in grid.axes), indexing="ij")
    return f(x) + 3 * y


@pytest.mark.parametrize("num", [3, 40, 400])
@pytest.mark.parametrize(
    ("point", "f"), [(_sine(), np.sin), (_cube_without_batching_rule(), lambda x: x**3)], ids=["callback", "primitive"]
)
def test_what_cannot_be_vmapped_goes_point_by_point_on_any_grid(point, f, num):
    grid = ls.Grid.of(x=np.linspace(-1.5, 2.0, num), y=np.linspace(0.25, 3.0, 5))
    with _tuning.forgotten():
        found = ls.sweep(point, grid)
        assert ls.sweep(point, grid).meta["plan"]["batching"] == {"width": 1}
    np.testing.assert_allclose(found["value"], _shifted(f, grid), rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize("batch", [2, 400, Strategy(3, hoist=True)])
def test_asking_for_a_width_of_what_cannot_be_vmapped_is_refused(batch):
    for call in (ls.sweep, ls.plan):
        with pytest.raises(ValueError, match=r"does not allow; pass batch=1.*vmap_method=.*NotImplementedError"):
            call(_sine(), GRID, batch=batch)


def test_a_trial_that_fails_is_no_reason_to_stop(monkeypatch, capfd):
    """A host function that takes one number where `vmap_method` promises that it takes many."""
    monkeypatch.setattr(_tuning._Climb, "_pays", lambda climb, *arguments, **options: True)
    with _tuning.forgotten(), pytest.warns(UserWarning, match=r"points at a time were tried, and fail.*TypeError"):
        found = ls.sweep(_sine("expand_dims", lambda x: np.float32(np.sin(float(x)))), ls.Grid.square(1.5, 9))
    np.testing.assert_allclose(found["value"], _shifted(np.sin, found.grid), rtol=1e-6, atol=3e-6)


def test_a_trial_that_does_not_end_is_given_up_and_not_tried_again(monkeypatch):
    released, trials = threading.Event(), []

    def host(x):
        if np.ndim(x):
            trials.append(len(x))
            released.wait(60)
        return np.sin(np.asarray(x))

    monkeypatch.setattr(_tuning._Climb, "_pays", lambda climb, *arguments, **options: True)
    monkeypatch.setattr(_tuning, "GRACE", 0.5)
    monkeypatch.setattr(_tuning, "TRIAL", 3)
    point = jax.tree_util.Partial(_sine("expand_dims", host))
    try:
        with _tuning.forgotten():
            with pytest.warns(UserWarning, match="is given up. XLA cannot stop it: it keeps a core busy.*batch=1"):
                found = ls.sweep(point, ls.Grid.square(1.5, 9))
            again = ls.sweep(point, ls.Grid.square(1.5, 50))  # of another size, and so another program
    finally:
        released.set()
    for result in (found, again):
        np.testing.assert_allclose(result["value"], _shifted(np.sin, result.grid), rtol=1e-6, atol=3e-6)
    assert len(trials) == 1


@pytest.fixture
def ctrl_c():
    """`with ctrl_c(event):` presses Ctrl-C once the event is set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def pressed(event):
        def press():
            event.wait(60)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            yield

    yield pressed
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("batch", ["auto", 4])
def test_ctrl_c_interrupts_a_call(ctrl_c, batch):
    """Also one that would never end, and what comes after does not wait for it."""
    under_way, released = threading.Event(), threading.Event()

    def host(x):
        if not released.is_set():
            under_way.set()
            released.wait(60)
        return np.sin(np.asarray(x))

    point = jax.tree_util.Partial(_sine("expand_dims", host))
    try:
        with _tuning.forgotten(), ctrl_c(under_way):
            ls.sweep(point, GRID, batch=batch)
        assert not released.is_set()
        other = ls.sweep(_sine("expand_dims"), GRID, batch=4)
    finally:
        released.set()
    np.testing.assert_allclose(other["value"], _shifted(np.sin, GRID), rtol=1e-6, atol=3e-6)


def test_ctrl_c_interrupts_a_compilation(ctrl_c, monkeypatch):
    under_way, released = threading.Event(), threading.Event()

    def compile_for_ever(*arguments):
        under_way.set()
        released.wait(60)

    monkeypatch.setattr(_kernel, "_compile", compile_for_ever)
    with ctrl_c(under_way):
        ls.sweep(lambda c: 0.3 * c[0], GRID, batch=4)
    released.set()


_ENDLESS = """
import os, signal, threading, jax, jax.numpy as jnp, landscape as ls
from landscape.engine import _kernel
run, w = _kernel._run, jnp.ones((64, 64))
def interrupted(*arguments):
    _kernel._run = run  # one Ctrl-C, however many calls there are
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    return run(*arguments)
_kernel._run = interrupted
def endless(c):
    return jax.lax.while_loop(lambda x: x > -1.0, lambda x: jnp.abs(x + 0.0 * jnp.tanh(w @ w).sum()), c[0] + 2.0)
try:
    ls.sweep(endless, ls.Grid.square(1.0, 3))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_process_ends_whose_program_does_not():
    done = subprocess.run([sys.executable, "-c", _ENDLESS], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("interrupted", 0), done.stderr


# ------------------------------------------------------------------------------------------- devices and processes


class _Global(np.ndarray):
    """An array of which another process holds some."""

    is_fully_addressable, is_fully_replicated = False, False


class _Replicated(_Global):
    """An array of which each process has a copy."""

    is_fully_replicated = True
    sharding = SimpleNamespace(device_set={0, 1})

    def addressable_data(self, index):
        return np.asarray(self)


def test_arrays_of_other_processes():
    host = np.array([0.5, 2.0], np.float32)
    expected = ls.sweep(_surface(lambda p, b: jnp.sum(p["w"] ** 2), origin={"w": host}), GRID, batch=4)
    with pytest.raises(ValueError, match=r"at.origin.w float32\[2\] is a global array.*process_allgather"):
        ls.sweep(_surface(lambda p, b: jnp.sum(p["w"] ** 2), origin={"w": host.view(_Global)}), GRID)
    found = ls.sweep(_surface(lambda p, b: jnp.sum(p["w"] ** 2), origin={"w": host.view(_Replicated)}), GRID, batch=4)
    np.testing.assert_array_equal(found["loss"], expected["loss"])


def test_several_processes_that_do_the_same_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.warns(UserWarning, match=r"each of the 4 processes.*shard=\(jax.process_index"):
        ls.sweep(lambda c: 1.5 * c[0], GRID, batch=4)
    ls.sweep(lambda c: 1.5 * c[0], GRID, batch=4, shard=(0, 4), store=tmp_path / "run.zarr")


def test_devices_of_another_process_are_refused():
    device = SimpleNamespace(process_index=3, platform="gpu", id=7)
    with pytest.raises(ValueError, match=r"must be those of this process, as jax.local_devices\(\) lists them"):
        ls.sweep(lambda c: c[0], GRID, devices=[device])


# --------------------------------------------------------------------------------------------------------- warnings


def test_warnings_point_at_the_line_of_the_user(tmp_path):
    weight = {"fc.weight": jnp.full((2, 3), 0.5)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ls.sweep(_sine(), GRID, batch=1, store=tmp_path / "run.zarr")
        jax.jit(lambda: ls.subspace.filter_normalize(jax.tree.map(lambda w: w[None], weight), weight))()
    assert [warning.filename for warning in caught] == [__file__] * 2
    first, second = (Path(__file__).read_text().splitlines()[warning.lineno - 1] for warning in caught)
    assert "ls.sweep(_sine()" in first
    assert "ls.subspace.filter_normalize" in second


def test_what_cannot_be_traced_comes_with_advice():
    with pytest.raises(TypeError) as caught:
        ls.sweep(lambda c: np.sin(c[0]), GRID)
    assert any("jax.numpy" in note and "jax.pure_callback" in note for note in caught.value.__notes__)


def test_a_number_of_points_of_numpy_is_one(tmp_path):
    for _ in range(2):  # the second call resumes the first
        result = ls.sweep(lambda c: 2.5 * c[0], GRID, batch=np.int64(4), store=tmp_path / "run.zarr", progress=False)
    np.testing.assert_allclose(result["value"][:, 0], 2.5 * GRID.axes[0].values, rtol=1e-6)


@dataclass(frozen=True)
class Scaled:
    """Cannot be hashed, and compares arrays."""

    factors: np.ndarray

    def __call__(self, coords):
        return jnp.sum(jnp.asarray(self.factors) * coords)


def test_point_functions_with_state_are_told_apart():
    for factors in ([0.5, 2.0], [1.5, -0.25]):
        result = ls.sweep(Scaled(np.array(factors)), GRID, batch=1, progress=False)
        x, y = np.meshgrid(*(axis.values for axis in GRID.axes), indexing="ij")
        np.testing.assert_allclose(result["value"], factors[0] * x + factors[1] * y, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 1e39], r"the coordinate 1e\+39 of 'rate' is beyond float32, where it would be infinite: use float64"),
        ([-1e39, 2.0], r"the coordinate -1e\+39 of 'rate' is beyond float32, where it would be infinite"),
        ([1e-60, 1e-3], r"the coordinate 1e-60 of 'rate' is beyond float32, where it would be 0: .* its logarithm"),
        ([1e-60], "is beyond float32, where it would be 0"),
    ],
)
def test_coordinates_beyond_their_precision_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        ls.sweep(lambda c: c[0], ls.Grid.of(rate=values), progress=False)


def test_coordinates_of_any_size_in_double_precision(x64):
    values = [-1e300, 1e-60, 1e39]
    np.testing.assert_array_equal(ls.sweep(lambda c: 2 * c[0], ls.Grid.of(rate=values), progress=False)["value"],
                                  2 * np.array(values))  # fmt: skip


# ------------------------------------------------------------------------------------------------------ precision


def _products(fn):
    """The precisions at which the matrix products of a function are traced."""
    precisions = []

    def spy(c):
        precisions.append(jax.config.jax_default_matmul_precision)
        return fn(c)

    return spy, precisions


@pytest.mark.parametrize(("asked", "around", "expected"), [
    (None, None, "highest"), ("bfloat16", None, "bfloat16"), (None, "high", "high"), ("default", "high", "default"),
])  # fmt: skip
def test_products_have_the_precision_asked_for(asked, around, expected):
    spy, seen = _products(lambda c: {"value": c @ jnp.full((2, 2), 1.5) @ c})
    options = {} if asked is None else {"precision": asked}
    with jax.default_matmul_precision(around):
        ls.sweep(spy, ls.Grid.square(1.0, 5), **options)
        ls.plan(spy, ls.Grid.square(1.0, 5), **options)
    assert set(seen) == {expected}


def test_another_precision_is_another_plan(tmp_path):
    def value(c):
        return c @ jnp.full((2, 2), 1.5) @ c

    grid = ls.Grid.square(1.0, 5)
    first = ls.sweep(value, grid, store=tmp_path / "run.zarr")
    assert first.meta["provenance"]["matmul_precision"] == "highest"
    with pytest.raises(ls.PlanMismatch, match="matmul_precision"):
        ls.sweep(value, grid, store=tmp_path / "run.zarr", precision="high")
    other = ls.sweep(value, grid, store=tmp_path / "other.zarr", precision="high")
    assert other.meta["plan"]["matmul_precision"] == other.meta["provenance"]["matmul_precision"] == "high"


@pytest.mark.parametrize(("asked", "error"), [(3, TypeError), ("sharp", ValueError), (True, TypeError)])
def test_unknown_precisions_are_named(asked, error):
    with pytest.raises(error, match="precision"):
        ls.sweep(lambda c: c[0], ls.Grid.square(1.0, 3), precision=asked)


def test_training_and_curvature_keep_the_users_precision():
    seen = []

    def loss(p, _):
        seen.append(jax.config.jax_default_matmul_precision)
        return jnp.sum((jnp.full((3, 3), 0.5) @ p) ** 2)

    with jax.default_matmul_precision("high"):
        ls.train(ls.Objective(loss), optax.sgd(0.1), jnp.ones(3), num_steps=2)
        ls.curvature.hvp(ls.Objective(loss), jnp.ones(3), jnp.ones(3))
    assert "highest" not in seen
    seen.clear()
    ls.curvature.eigenpairs(jax.random.key(0), ls.Objective(loss), jnp.ones(3), 1)
    assert "highest" in seen
