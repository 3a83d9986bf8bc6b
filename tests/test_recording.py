"""The recorder: every snapshot that was committed is there, whole, whatever happened to the loop."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zarr
from jax.experimental import io_callback
from recording_loop import snapshot

import landscape as ls
from landscape.recording import _copies, _disk
from landscape.recording._schedule import due, too_many
from landscape.store import PlanMismatch, StoreError

TESTS = Path(__file__).parent
TREE = {"dense": {"kernel": np.float32([[1.5, -2.25], [0.5, 3.0]]), "bias": np.float32([0.75, -1.25])}}


def scaled(factor):
    return jax.tree.map(lambda x: jnp.asarray(x) * factor, TREE)


def assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(expected)):
        assert ours.dtype == theirs.dtype
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def record(path, steps, **options):
    with ls.Recorder(path, **options) as recorder:
        for step in steps:
            recorder(step, scaled(1.5 + step), train_loss=0.5 * step)
    return ls.Trajectory(path)


# ------------------------------------------------------------------------------------------------------- what is kept


def test_snapshots_and_scalars_come_back_to_the_bit(tmp_path):
    run = record(tmp_path / "run.zarr", range(4))
    assert len(run) == 4
    np.testing.assert_array_equal(run.steps, [0, 1, 2, 3])
    np.testing.assert_array_equal(run.scalars["train_loss"], [0.0, 0.5, 1.0, 1.5])
    for step, tree in enumerate(run):
        assert_same(tree, jax.tree.map(np.asarray, scaled(1.5 + step)))
    assert_same(run[-1], run[3])
    assert_same(run.at_step(2), run[2])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_type_and_shape_comes_back(tmp_path, dtype):
    values = np.asarray(jnp.asarray([2.5, -0.375, np.nan, np.inf, -np.inf, 3e-5])).astype(jnp.dtype(dtype))
    tree = {"vector": values, "number": values[1], "none": values[:0], "matrix": values.reshape(2, 3), "plain": 2.5}
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        recorder(3, tree)
    expected = {**tree, "plain": np.float32(2.5)}
    assert_same(ls.Trajectory(tmp_path / "run.zarr")[0], jax.tree.map(np.asarray, expected))


def test_zarr_reads_a_recording_without_us(tmp_path):
    record(tmp_path / "run.zarr", range(3))
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")
    names = {array.attrs["long_name"]: array for _, array in group["params"].arrays()}
    for step in range(3):
        np.testing.assert_array_equal(names["dense.kernel"][step], TREE["dense"]["kernel"] * np.float32(1.5 + step))
    assert group["scalars/train_loss"][2] == 1.0
    assert names["dense.kernel"].metadata.dimension_names[0] == "step"


def test_update_and_gradient_are_recorded_beside(tmp_path):
    with ls.Recorder(tmp_path / "run.zarr", every=2) as recorder:
        for step in range(3):
            recorder(step, scaled(2.5), update=scaled(-step - 0.5), gradient=scaled(step + 3.5))
    run = ls.Trajectory(tmp_path / "run.zarr")
    assert_same(run.update[1], jax.tree.map(np.asarray, scaled(-2.5)))
    assert_same(run.gradient[-1], jax.tree.map(np.asarray, scaled(5.5)))
    assert record(tmp_path / "plain.zarr", [0]).update is None


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (3, [0, 3, 6, 9]),
        ([2, 5, 11], [2, 5]),
        (np.array([4, 1]), [1, 4]),
        (range(7, 9), [7, 8]),
    ],
)
def test_every_says_which_steps(tmp_path, every, expected):
    np.testing.assert_array_equal(record(tmp_path / "run.zarr", range(10), every=every).steps, expected)


def test_log_is_dense_early():
    steps = [step for step in range(200) if due("log")(step)]
    doubling = [*range(64, 128, 8), *range(128, 200, 16)]
    assert steps == [*range(16), *range(16, 32, 2), *range(32, 64, 4), *doubling]


def test_the_last_step_can_be_recorded_whatever_every_says(tmp_path):
    with ls.Recorder(tmp_path / "run.zarr", every=10) as recorder:
        for step in range(14):
            recorder(step, scaled(step + 0.5))
        recorder.record(13, scaled(13.5), train_loss=2.5)
    run = ls.Trajectory(tmp_path / "run.zarr")
    np.testing.assert_array_equal(run.steps, [0, 10, 13])
    np.testing.assert_array_equal(run.scalars["train_loss"], [np.nan, np.nan, 2.5])


def test_keep_thins_the_old_ones(tmp_path):
    run = record(tmp_path / "run.zarr", range(40), keep=8)
    assert len(run) == 8
    assert (run.steps[0], run.steps[-1]) == (0, 39)
    gaps = np.diff(run.steps)
    assert gaps.max() <= 2 * 39 / 7 * 1.5
    kept = {f"c.{step}.0.0" for step in run.steps}
    assert {p.name for p in (tmp_path / "run.zarr/params/1").iterdir() if p.name != "zarr.json"} == kept
    for step, tree in zip(run.steps, run):
        assert_same(tree, jax.tree.map(np.asarray, scaled(1.5 + step)))


def test_thinning_keeps_the_ends_and_takes_the_smallest_gaps():
    assert too_many([0, 10, 11, 20], 3, relative=False) == [11]  # the gaps about 10 and 11 are 11 and 10
    assert too_many([0, 2, 4, 6, 8], 3, relative=False) == [
        2,
        6,
    ]  # the oldest, then what is closest
    assert too_many([0, 1, 3, 7, 15, 31], 5, relative=True) == [1]  # equal ratios of step + 1
    assert too_many([5, 6, 7], None, relative=False) == too_many([5, 6, 7], 3, relative=False) == []


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 2.0**-8), ("float32", 2.0**-24)])
def test_a_narrow_type_halves_the_disk_and_says_so(tmp_path, dtype, bound):
    tree = {"w": np.random.default_rng(5).normal(size=(40, 60)).astype("f4" if dtype == "bfloat16" else "f8")}
    with ls.Recorder(tmp_path / "full.zarr") as full, ls.Recorder(tmp_path / "half.zarr", dtype=dtype) as half:
        full(0, tree)
        half(0, tree)
    run = ls.Trajectory(tmp_path / "half.zarr")
    size = [(tmp_path / name / "params/0/c.0.0.0").stat().st_size - 4 for name in ("full.zarr", "half.zarr")]
    assert size[0] == 2 * size[1] == tree["w"].nbytes
    assert run.dtype == dtype
    assert f"stored in {dtype}" in repr(run)
    assert run[0]["w"].dtype == tree["w"].dtype
    error = np.abs(run[0]["w"] / tree["w"] - 1)
    assert 0 < error.max() <= bound
    assert ls.Trajectory(tmp_path / "full.zarr").dtype is None


def test_the_loss_along_the_path_is_that_of_the_recording(tmp_path):
    problem = ls.problems.student_teacher(3, 4)
    objective, optimizer = problem.objectives["train"], optax.adam(0.03)
    step_fn = jax.jit(lambda o, p: jax.value_and_grad(o)(p))
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        params = problem.init(jax.random.key(3))
        state = optimizer.init(params)
        for step in range(6):
            loss, gradient = step_fn(objective, params)
            recorder(step, params, train_loss=loss)
            updates, state = optimizer.update(gradient, state)
            params = optax.apply_updates(params, updates)
    run = ls.Trajectory(tmp_path / "run.zarr")
    again = [float(step_fn(objective, jax.tree.map(jnp.asarray, tree))[0]) for tree in run]
    np.testing.assert_array_equal(run.scalars["train_loss"], again)


# ------------------------------------------------------------------------------------------------- in whatever loop


def test_donated_arrays_are_recorded_as_they_were(tmp_path):
    step_fn = jax.jit(lambda p: jax.tree.map(lambda x: 1.5 * x - 0.25, p), donate_argnums=0)
    params = scaled(1.0)
    expected = jax.tree.map(np.array, params)
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        for step in range(6):
            recorder(step, params)
            params = step_fn(params)
        with pytest.raises(ValueError, match=r"params\.dense\.bias was donated"):
            given = params
            step_fn(params)
            recorder(6, given)
    run = ls.Trajectory(tmp_path / "run.zarr")
    for tree in run:
        assert_same(tree, expected)
        expected = jax.tree.map(lambda x: np.float32(1.5) * x - np.float32(0.25), expected)


def test_arrays_of_numpy_may_be_changed_after_the_call(tmp_path):
    values, loss = np.float32([1.5, 2.5]), np.array(0.75)
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        recorder(0, {"w": values}, train_loss=loss)
        values += 9.0
        loss += 9.0
    run = ls.Trajectory(tmp_path / "run.zarr")
    np.testing.assert_array_equal(run[0]["w"], [1.5, 2.5])
    assert run.scalars["train_loss"][0] == 0.75


@pytest.mark.parametrize("through", ["io_callback", "debug.callback"])
def test_inside_a_compiled_loop_through_the_host(tmp_path, through):
    def call(recorder, *arguments):
        if through == "io_callback":
            io_callback(recorder, None, *arguments, ordered=True)
        else:
            jax.debug.callback(recorder, *arguments, ordered=True)

    def train(params):
        def body(step, params):
            call(recorder, step, params)
            return jax.tree.map(lambda x: 0.5 * x, params)

        return jax.lax.fori_loop(0, 5, body, params)

    with ls.Recorder(tmp_path / "run.zarr", every=2) as recorder:
        jax.jit(train)(scaled(4.0))
        jax.effects_barrier()
    run = ls.Trajectory(tmp_path / "run.zarr")
    np.testing.assert_array_equal(run.steps, [0, 2, 4])
    for step, tree in zip(run.steps, run):
        np.testing.assert_array_equal(tree["dense"]["bias"], TREE["dense"]["bias"] * np.float32(4.0 * 0.5**step))


def test_equinox_modules(tmp_path):
    eqx = pytest.importorskip("equinox", reason="extra: test")
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(1))
    params, _ = eqx.partition(model, eqx.is_inexact_array)
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        recorder(0, params)
    assert_same(ls.Trajectory(tmp_path / "run.zarr", like=params)[0], jax.tree.map(np.asarray, params))
    plain = ls.Trajectory(tmp_path / "run.zarr")[0]
    np.testing.assert_array_equal(plain["layers"][1]["bias"], params.layers[1].bias)


def test_flax_modules(tmp_path):
    nnx = pytest.importorskip("flax.nnx", reason="extra: test")
    linen = pytest.importorskip("flax.linen", reason="extra: test")
    variables = linen.Dense(4).init(jax.random.key(2), jnp.ones((1, 3)))
    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    for name, tree in (("linen", variables["params"]), ("nnx", state)):
        with ls.Recorder(tmp_path / f"{name}.zarr") as recorder:
            recorder(0, tree)
        assert_same(ls.Trajectory(tmp_path / f"{name}.zarr", like=tree)[0], jax.tree.map(np.asarray, tree))


def test_torch_tensors(tmp_path, torch):
    module = torch.nn.Linear(3, 2)
    half = {"w": torch.tensor([1.5, -2.25], dtype=torch.bfloat16)}
    with ls.Recorder(tmp_path / "run.zarr") as recorder, ls.Recorder(tmp_path / "half.zarr") as other:
        with pytest.raises(TypeError, match=r"give dict\(module\.named_parameters\(\)\)"):
            recorder(0, module)
        recorder(0, dict(module.named_parameters()), train_loss=torch.tensor(2.5))
        before = module.weight.detach().numpy().copy()
        with torch.no_grad():
            module.weight += 1.0
        other(torch.tensor(3), half)
    run = ls.Trajectory(tmp_path / "run.zarr")
    np.testing.assert_array_equal(run[0]["weight"], before)
    assert run.scalars["train_loss"][0] == 2.5
    np.testing.assert_array_equal(ls.Trajectory(tmp_path / "half.zarr")[0]["w"].astype("f4"), [1.5, -2.25])


SHARDED = """
import sys, jax, jax.numpy as jnp, numpy as np, landscape as ls
from jax.sharding import NamedSharding, PartitionSpec as P
assert len(jax.devices()) == 8
mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
specs = {"both": P("x", "y"), "rows": P("x"), "columns": P(None, "y"), "whole": P()}
values = {k: np.arange(48, dtype="f4").reshape(8, 6) * (i + 1.5) for i, k in enumerate(specs)}
put = lambda factor: {k: jax.device_put(v * factor, NamedSharding(mesh, specs[k])) for k, v in values.items()}
with ls.Recorder(sys.argv[1]) as recorder:
    for step in range(2):
        recorder(step, put(step + 0.5))
with ls.Recorder(sys.argv[1]) as recorder:  # goes on with another sharding, and repeats what it did
    recorder(1, {k: v * np.float32(1.5) for k, v in values.items()})
    recorder(2, {k: v * np.float32(2.5) for k, v in values.items()})
run = ls.Trajectory(sys.argv[1])
for step, tree in enumerate(run):
    for k, v in values.items():
        np.testing.assert_array_equal(tree[k], v * np.float32(step + 0.5))
        np.testing.assert_array_equal(run.rows(list(tree).index(k), 5, 31)[step], tree[k].reshape(-1)[5:31])
"""


def test_sharded_parameters_are_written_shard_by_shard(tmp_path):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    env |= {"PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, str(tmp_path / "run.zarr")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")
    chunks = {array.attrs["long_name"]: array.chunks[1:] for _, array in group["params"].arrays()}
    assert chunks == {"both": (2, 3), "rows": (2, 6), "columns": (8, 3), "whole": (8, 6)}
    both = next(array for _, array in group["params"].arrays() if array.attrs["long_name"] == "both")
    np.testing.assert_array_equal(both[1], np.arange(48, dtype="f4").reshape(8, 6) * 1.5 * 1.5)


PROCESSES = """
import sys, jax, numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
index, port, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, index)
import landscape as ls
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
values = {"rows": np.arange(24, dtype="f4").reshape(4, 6) + 1.5, "whole": np.arange(3, dtype="f4") - 0.5}
specs = {"rows": P("x"), "whole": P()}
def put(name, factor):
    sharding, value = NamedSharding(mesh, specs[name]), values[name] * np.float32(factor)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
with ls.Recorder(path) as recorder:
    for step in range(5):
        recorder(step, {name: put(name, step + 0.5) for name in values}, train_loss=2.5 - step)
multihost_utils.sync_global_devices("done")
run = ls.Trajectory(path)
np.testing.assert_array_equal(run.steps, range(5))
np.testing.assert_array_equal(run.scalars["train_loss"], [2.5, 1.5, 0.5, -0.5, -1.5])
for step, tree in enumerate(run):
    for name, value in values.items():
        np.testing.assert_array_equal(tree[name], value * np.float32(step + 0.5))
"""


@pytest.mark.slow
def test_each_process_writes_its_shards_and_a_snapshot_counts_when_all_have(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"PYTHONPATH": str(TESTS.parent), "JAX_PLATFORMS": "cpu"}
    path = tmp_path / "run.zarr"
    both = [subprocess.Popen([sys.executable, "-c", PROCESSES, str(i), port, str(path)], env=env) for i in (0, 1)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert {p.name for p in (path / "params/0").glob("c.3.*")} == {"c.3.0.0", "c.3.1.0"}
    (path / "committed" / "c.3.1").unlink()  # one process was killed before its mark
    np.testing.assert_array_equal(ls.Trajectory(path).steps, [0, 1, 2, 4])


# ---------------------------------------------------------------------------------------------- nothing stalls the loop


class Gate:
    """Holds the writer back, and counts what is being held at a time."""

    def __init__(self, monkeypatch):
        self.open, self.writing = threading.Event(), threading.Event()
        put = _disk.Recording.put

        def held(recording, *arguments):
            self.writing.set()
            assert self.open.wait(20)
            return put(recording, *arguments)

        monkeypatch.setattr(_disk.Recording, "put", held)


def test_a_call_waits_for_neither_disk_nor_device_until_two_are_under_way(tmp_path, monkeypatch):
    gate, copies = Gate(monkeypatch), []
    copied = _copies.copied
    monkeypatch.setattr(_copies, "copied", lambda *a: copies.append(1) or copied(*a))
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        recorder(0, scaled(1.5))
        assert gate.writing.wait(20)
        recorder(1, scaled(2.5))
        third = threading.Thread(target=recorder, args=(2, scaled(3.5)))
        third.start()
        third.join(0.2)
        assert third.is_alive()
        assert len(copies) == 2  # the third one is not even copied
        gate.open.set()
        third.join(20)
    assert len(ls.Trajectory(tmp_path / "run.zarr")) == 3


def test_steps_that_are_not_due_cost_no_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(_copies, "copied", None)
    with ls.Recorder(tmp_path / "run.zarr", every=5) as recorder:
        recorder(3, object(), train_loss=object())
    assert not (tmp_path / "run.zarr").exists()


def test_errors_of_the_writer_come_with_the_next_call_and_at_the_end(tmp_path, monkeypatch):
    def full(*_):
        raise StoreError("the disk is full; free some space")

    monkeypatch.setattr(_disk.Recording, "put", full)
    recorder = ls.Recorder(tmp_path / "run.zarr")
    recorder(0, scaled(1.5))
    with pytest.raises(StoreError, match="the disk is full"):
        while True:
            recorder(1, scaled(1.5))
    with pytest.raises(StoreError, match="the disk is full"):
        recorder.close()
    with pytest.raises(StoreError, match="the disk is full"):
        with ls.Recorder(tmp_path / "other.zarr") as other:
            other(0, scaled(1.5))
    with pytest.raises(RuntimeError, match="mine") as caught:
        with ls.Recorder(tmp_path / "third.zarr") as third:
            third(0, scaled(1.5))
            raise RuntimeError("mine")
    assert "not complete either: the disk is full" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_loop_leaves_what_was_recorded(tmp_path, error):
    with pytest.raises(error):
        with ls.Recorder(tmp_path / "run.zarr") as recorder:
            for step in range(5):
                recorder(step, scaled(step + 1.5))
            raise error
    np.testing.assert_array_equal(ls.Trajectory(tmp_path / "run.zarr").steps, range(5))


def test_a_recorder_that_is_never_closed_writes_at_the_end_of_the_process(tmp_path):
    code = "import sys, numpy as np, landscape as ls; r = ls.Recorder(sys.argv[1]); r(4, {'w': np.full(3, 2.5)})"
    env = os.environ | {"PYTHONPATH": str(TESTS.parent), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.zarr")], env=env, check=True)
    np.testing.assert_array_equal(ls.Trajectory(tmp_path / "run.zarr")[0]["w"], [2.5, 2.5, 2.5])


# --------------------------------------------------------------------------------------------------------- kill, go on


def committed_in(path):
    """Steps whose commit mark has got its name; a half of one is a file of another name."""
    return {int(p.name.split(".")[1]) for p in path.glob("committed/c.*") if p.suffix != ".partial"}


def kill_at(path, size):
    """Kill the loop when it has written so many bytes; the steps that were committed then."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "JAX_PLATFORMS": "cpu"}
    loop = subprocess.Popen([sys.executable, str(TESTS / "recording_loop.py"), str(path)], env=env,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert loop.stdout.readline().startswith("begin")
    before, until = len(committed_in(path)), time.monotonic() + 60
    while len(committed_in(path)) < before + size and time.monotonic() < until:
        time.sleep(0.003)
    seen = committed_in(path)
    loop.send_signal(signal.SIGKILL)
    loop.wait()
    loop.stdout.close()
    return seen


def assert_whole(path, seen):
    run = ls.Trajectory(path)
    assert seen <= set(run.steps.tolist())
    np.testing.assert_array_equal(run.steps, np.arange(len(run)))
    for step, tree in zip(run.steps.tolist(), run):
        assert_same(tree, snapshot(step))
    np.testing.assert_array_equal(run.scalars["train_loss"], 1.5 * run.steps)


def kill_and_go_on(path, times, seed):
    seen = set()
    for size in np.random.default_rng(seed).integers(1, 9, times):
        seen |= kill_at(path, int(size))
        assert_whole(path, seen)
    assert len(seen) >= times


def test_killed_three_times_nothing_committed_is_lost_and_nothing_torn_is_read(tmp_path):
    kill_and_go_on(tmp_path / "run.zarr", 3, 5)


@pytest.mark.slow
def test_killed_thirty_times_nothing_committed_is_lost_and_nothing_torn_is_read(tmp_path):
    kill_and_go_on(tmp_path / "run.zarr", 30, 6)


def test_halves_of_killed_writers_are_no_snapshots_and_are_swept_up(tmp_path):
    path = tmp_path / "run.zarr"
    record(path, range(2))
    (path / "committed" / "c.1.0").unlink()  # killed before the mark
    half = path / "params" / "0" / "c.2.0.abc.partial"
    half.write_bytes(b"half")
    np.testing.assert_array_equal(ls.Trajectory(path).steps, [0])
    old = time.time() - 7200
    for file in (half, path / "params" / "1" / "c.1.0.0"):
        os.utime(file, (old, old))
    with ls.Recorder(path) as recorder:
        assert recorder.steps == [0]
        recorder(5, scaled(6.5), train_loss=2.5)
    assert not half.exists()
    assert not (path / "params" / "1" / "c.1.0.0").exists()
    assert (path / "params" / "0" / "c.1.0").exists()  # younger than an hour: another process may be writing it
    np.testing.assert_array_equal(ls.Trajectory(path).steps, [0, 5])


def test_a_step_recorded_twice_is_the_same_or_an_error(tmp_path):
    path = tmp_path / "run.zarr"
    record(path, range(3))
    before = {p: p.stat().st_mtime_ns for p in path.rglob("c.*")}
    assert record(path, range(3)).steps.tolist() == [0, 1, 2]
    assert {p: p.stat().st_mtime_ns for p in path.rglob("c.*")} == before
    for changed, what in (
        ({"train_loss": 0.75}, "train_loss"),
        ({}, "train_loss"),
        ({"train_loss": 0.5, "test_loss": 1.5}, "test_loss"),
    ):
        with pytest.raises(ValueError, match=f"step 1 is in .* already, with another {what}"):
            with ls.Recorder(path) as recorder:
                recorder(1, scaled(2.5), **changed)
    with pytest.raises(ValueError, match=r"with another params\.dense\.bias"):
        with ls.Recorder(path) as recorder:
            recorder(1, scaled(2.75), train_loss=0.5)


def test_a_recording_of_other_parameters_is_refused(tmp_path):
    path = tmp_path / "run.zarr"
    record(path, range(2))
    others = [
        ({"dense": {"kernel": TREE["dense"]["kernel"]}}, {}, "dense.bias"),
        (jax.tree.map(lambda x: x.astype("f8"), TREE), {}, "float64"),
        (TREE, {"dtype": "bfloat16"}, "bfloat16"),
    ]
    for tree, options, words in others:
        with pytest.raises(PlanMismatch, match=words):
            with ls.Recorder(path, **options) as recorder:
                recorder(7, tree)
    with pytest.raises(PlanMismatch, match="gradient"):
        with ls.Recorder(path) as recorder:
            recorder(7, TREE, gradient=TREE)
    np.testing.assert_array_equal(ls.Trajectory(path).steps, [0, 1])


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": -3}, ValueError, "every must be at least 1, got -3"),
        ({"every": True}, TypeError, "every must be a number of steps, a list of steps or 'log'"),
        ({"every": 2.5}, TypeError, "every must be a number of steps"),
        ({"every": None}, TypeError, "every must be a number of steps"),
        ({"every": "often"}, ValueError, "or 'log', got 'often'"),
        ({"every": []}, ValueError, "every holds no steps"),
        ({"every": [1, -2]}, ValueError, "a step of every must be at least 0"),
        ({"every": [1, "x"]}, TypeError, "a step of every must be an integer"),
        ({"keep": 2}, ValueError, "keep must be at least 3, got 2"),
        ({"keep": "all"}, TypeError, "keep must be an integer"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of 'bfloat16', 'float32'"),
        ({"dtype": 16}, TypeError, "dtype must be one of"),
    ],
)
def test_bad_options_are_named(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        ls.Recorder(tmp_path / "run.zarr", **options)


@pytest.mark.parametrize(
    ("arguments", "scalars", "error", "message"),
    [
        ((-1, TREE), {}, ValueError, "step must be at least 0"),
        ((True, TREE), {}, TypeError, "step must be an integer"),
        ((1.5, TREE), {}, TypeError, "step must be an integer"),
        (("one", TREE), {}, TypeError, "step must be an integer"),
        ((None, TREE), {}, TypeError, "step must be an integer"),
        ((2**31 - 1, TREE), {}, ValueError, "step must be below"),
        ((1, None), {}, ValueError, "params holds no arrays"),
        ((1, {}), {}, ValueError, "params holds no arrays"),
        ((1, {"w": np.arange(3)}), {}, TypeError, "params.w must be a real floating-point array"),
        ((1, {"w": "text"}), {}, TypeError, "params.w must be a real floating-point array"),
        ((1, TREE), {"gradient": 0.5}, ValueError, "gradient must have the structure of params"),
        ((1, TREE), {"loss": "low"}, TypeError, "loss must be one real number, got str"),
        ((1, TREE), {"loss": None}, TypeError, "loss must be one real number"),
        ((1, TREE), {"loss": True}, TypeError, "loss must be one real number"),
        ((1, TREE), {"loss": np.ones(2)}, TypeError, "loss must be one real number"),
        ((1, TREE), {"loss": 2.5j}, TypeError, "loss must be one real number"),
        ((1, TREE), {"a/b": 2.5}, ValueError, "the name of a scalar must be a word"),
    ],
)
def test_bad_arguments_are_named_and_leave_nothing(tmp_path, arguments, scalars, error, message):
    with pytest.raises(error, match=message):
        with ls.Recorder(tmp_path / "run.zarr") as recorder:
            recorder(*arguments, **scalars)
    assert not (tmp_path / "run.zarr").exists()


def test_parameters_must_stay_alike(tmp_path):
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        recorder(0, TREE, update=TREE)
        with pytest.raises(ValueError, match=r"params\.dense\.bias must have shape \(2,\)"):
            recorder(1, {"dense": {"kernel": TREE["dense"]["kernel"], "bias": np.ones(3, "f4")}}, update=TREE)
        with pytest.raises(ValueError, match="update must be recorded at all steps or at none"):
            recorder(1, TREE)


def test_inside_a_trace_the_way_out_is_said(tmp_path):
    with ls.Recorder(tmp_path / "run.zarr") as recorder:
        with pytest.raises(TypeError, match=r"being traced by JAX: .*io_callback\(recorder, None, step, params"):
            jax.jit(lambda p: recorder(0, p))(TREE)
        with pytest.raises(TypeError, match="step is being traced"):
            jax.jit(lambda s: recorder(s, TREE))(3)


def test_what_is_no_recording_is_refused(tmp_path):
    landscape = ls.Landscape(ls.Grid.of(x=[1.5, 2.5]), {"loss": np.array([0.5, 1.5])}, np.ones(2, bool))
    ls.save(landscape, tmp_path / "map.zarr")
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match="is no recording: it holds a landscape"):
        ls.Recorder(tmp_path / "map.zarr")
    with pytest.raises(StoreError, match="is a file"):
        ls.Recorder(tmp_path / "file")
    with pytest.raises(ValueError, match="local or mounted"):
        ls.Recorder("s3://bucket/run.zarr")
    with pytest.raises(StoreError, match="no recording at"):
        ls.Trajectory(tmp_path / "nothing.zarr")
    with pytest.raises(StoreError, match="is no recording"):
        ls.Trajectory(tmp_path / "map.zarr")


def test_damage_is_named(tmp_path):
    path = tmp_path / "run.zarr"
    run = record(path, range(2))
    file = path / "params" / "1" / "c.1.0.0"
    content = bytearray(file.read_bytes())
    content[5] ^= 4
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"c\.1\.0\.0: it is damaged"):
        run[1]
    assert_same(run[0], jax.tree.map(np.asarray, scaled(1.5)))
    file.unlink()
    with pytest.raises(StoreError, match=r"the snapshot of step 1 is not whole: .*c\.1\.0\.0 is missing"):
        run[1]
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        ls.Trajectory(path)
