"""Store and resume: killed, interrupted, sharded, distributed, damaged; nothing lost, nothing computed twice."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import landscape as ls
from landscape import store
from landscape.engine import _job, _kernel, _runners
from landscape.store import PlanMismatch, StoreError, _files, _layout

TESTS = Path(__file__).parent
GRID = ls.Grid.of(x=np.linspace(-1.5, 1.25, 7), y=np.linspace(-2.0, 0.75, 11))


def saddle(c):
    return {"loss": 2.5 * c[0] ** 2 - 0.5 * c[1], "steps": jnp.int32(3) + (c[0] > 0)}


def start(out, *arguments, **environment):
    """The tiny experiment in a process of its own."""
    command = [
        sys.executable,
        str(TESTS / "tiny_experiment.py"),
        "--out",
        str(out),
        "--batch",
        "8",
        *arguments,
    ]
    paths = os.pathsep.join([str(TESTS.parent / "experiments"), str(TESTS.parent)])
    env = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def marks(out):
    return sorted(p for p in (out / "ripples.zarr" / "computed" / "c").rglob("*") if p.is_file())


def wait_for_marks(out, count, process):
    while len(marks(out)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


SLOW = ("--resolution", "60", "--work", "30000")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    status, _, err = finish(start(out, *SLOW))
    assert status == 0, err
    return ls.load(out / "ripples.zarr")


def assert_same_bits(out, reference):
    result = ls.load(out / "ripples.zarr")
    assert result.computed.all()
    for name in reference:
        np.testing.assert_array_equal(result[name], reference[name])


@pytest.mark.parametrize("num_marks", [0, 1, 4])
def test_killed_and_resumed_is_bit_identical_and_computes_no_finished_tile_again(tmp_path, undisturbed, num_marks):
    process = start(tmp_path, *SLOW)
    wait_for_marks(tmp_path, num_marks, process)
    process.kill()
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in marks(tmp_path)}
    status, _, err = finish(start(tmp_path, *SLOW))
    assert status == 0, err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same_bits(tmp_path, undisturbed)


def test_ctrl_c_finishes_the_tile_says_how_to_go_on_and_exits_130(tmp_path, undisturbed):
    process = start(tmp_path, *SLOW)
    wait_for_marks(tmp_path, 2, process)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert "resumes from" in err
    assert 0 < ls.load(tmp_path / "ripples.zarr").computed.sum() < 3600
    assert finish(start(tmp_path, *SLOW))[0] == 0
    assert_same_bits(tmp_path, undisturbed)


def test_two_shards_on_one_store_give_the_same_bits(tmp_path, undisturbed):
    processes = [start(tmp_path, *SLOW, "--shard", f"{i}/2") for i in (0, 1)]
    results = [finish(p) for p in processes]
    assert [status for status, _, _ in results] == [0, 0], results
    assert_same_bits(tmp_path, undisturbed)
    calls = ls.load(tmp_path / "ripples.zarr").meta["calls"]
    assert sum(call["evaluations"] for call in calls) <= 3600


def test_a_third_process_finds_everything_done_and_draws_the_table(tmp_path):
    assert finish(start(tmp_path))[0] == 0
    status, out, _ = finish(start(tmp_path))
    assert status == 0
    assert "smallest value" in out.splitlines()[-1]
    assert len(ls.load(tmp_path / "ripples.zarr").meta["calls"]) == 1


def test_another_plan_on_the_same_store_exits_3_and_overwrites_nothing(tmp_path):
    assert finish(start(tmp_path))[0] == 0
    before = ls.load(tmp_path / "ripples.zarr")
    status, _, err = finish(start(tmp_path, "--resolution", "41", "--curvature", "2.5"))
    assert status == 3
    assert "grid.alpha" in err
    assert "function.arrays.phases" in err
    np.testing.assert_array_equal(ls.load(tmp_path / "ripples.zarr")["peak"], before["peak"])
    assert finish(start(tmp_path, "--resolution", "41", "--no-resume"))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--problem", "no_such_module:factory"), "there is no module 'no_such_module'"),
        (("--problem", "nowhere.py:factory"), "there is no file"),
        (("--problem", "json:no_such_name"), "json has no function 'no_such_name'"),
        (("--problem", "json:loads_nothing:"), "module:factory"),
        (("--problem", "math"), "wants module:factory or file.py:factory"),
        (("--problem", "time:time"), "must return a landscape.Problem, got float"),
        (("--resolution", "0"), "must be at least 1, got 0"),
        (("--shard", "2/2"), "wants i/n with 0 <= i < n"),
    ],
)
def test_bad_flags_exit_2_with_one_clear_message(tmp_path, arguments, message):
    status, _, err = finish(start(tmp_path, *arguments))
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("mine")
    status, _, err = finish(start(tmp_path / "taken"))
    assert status == 2
    assert "is a file; give a folder" in err
    assert (tmp_path / "taken").read_text() == "mine"


def test_plan_writes_nothing(tmp_path):
    status, out, _ = finish(start(tmp_path / "none", "--plan"))
    assert status == 0
    assert "points    1,600" in out
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore")  # distributed's own shutdown warnings, when a worker was killed
def test_dask_cluster_with_a_killed_worker_gives_the_same_bits(tmp_path):
    distributed = pytest.importorskip("distributed", reason="extra: cluster")
    phases = np.random.default_rng(3).normal(size=20_000).astype(np.float32)

    def ripples(c):
        return {"loss": jnp.mean(jnp.sin(phases * c[0]) * jnp.cos(phases + c[1]))}

    grid = ls.Grid.square(1.0, 32)
    reference = ls.sweep(ripples, grid, batch=8)
    path = tmp_path / "run.zarr"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        pids = [worker.pid for worker in cluster.workers.values()]

        def kill_one():
            while not list(path.glob("computed/c/*/*")):
                time.sleep(0.01)
            os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        with distributed.Client(cluster) as client, pytest.MonkeyPatch.context() as patch:
            patch.setattr(_job, "layout_for", small_tiles(_job.layout_for))
            result = ls.sweep(ripples, grid, batch=8, store=path, executor=client.get_executor())
        killer.join()
    assert result.computed.all()
    np.testing.assert_array_equal(result["loss"], reference["loss"])
    assert result.meta["calls"][0]["devices"] == ["workers of ClientExecutor"]


def small_tiles(layout):
    def tiles_of_a_row(fn, grid, timing):
        full = layout(fn, grid, timing)
        return _layout.Layout(full.grid, full.outputs, (1, full.tile[1]))

    return tiles_of_a_row


def test_a_function_that_cannot_be_pickled_is_refused(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    lock = threading.Lock()

    def locked(c):
        return c[0] * (2.0 if lock else 3.0)

    with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError, match="cannot be pickled"):
        ls.sweep(locked, GRID, executor=pool)


def test_any_executor_will_do():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        result = ls.sweep(saddle, GRID, executor=pool, batch=4)
    np.testing.assert_array_equal(result["loss"], ls.sweep(saddle, GRID, batch=4)["loss"])


class Counting(ProcessPoolExecutor):
    """One worker, and the sizes of what it is sent."""

    def __init__(self):
        super().__init__(1, mp_context=multiprocessing.get_context("spawn"))
        self.sent = []

    def submit(self, fn, /, *arguments):
        self.sent.append(len(pickle.dumps(arguments)))
        return super().submit(fn, *arguments)


def waves(seed):
    """A function with data of 80 kB, and the size of those."""
    phases = np.random.default_rng(seed).normal(size=20_000).astype(np.float32)
    return (lambda c: {"loss": jnp.mean(jnp.sin(phases * c[0]) * jnp.cos(phases + c[1]))}), phases.nbytes


def test_a_worker_is_sent_the_data_once(monkeypatch):
    monkeypatch.setattr(_job, "layout_for", small_tiles(_job.layout_for))
    monkeypatch.setattr(_runners, "IN_FLIGHT", 1)
    (timed, size), (new, _) = waves(3), waves(5)
    rows = [(i, GRID.points(11 * i, 11 * i + 11)) for i in range(7)]
    with Counting() as pool:
        far = ls.sweep(timed, GRID, batch=4, executor=pool)
        assert [n > size for n in pool.sent] == [True] + [False] * 7  # with the timing, not with the tiles
        pool.sent.clear()
        runner = _runners.Remote(jax.tree_util.Partial(new), GRID, pool)
        untimed = dict(runner.values(_kernel.Strategy(4), None, rows, print))
        assert [n > size for n in pool.sent] == [False, True] + [False] * 6  # once it has said that it is new
    np.testing.assert_array_equal(far["loss"], ls.sweep(timed, GRID, batch=4)["loss"])
    np.testing.assert_array_equal([untimed[i]["loss"] for i in range(7)], ls.sweep(new, GRID, batch=4)["loss"])


def out_of_memory_beyond(width, failed):
    """`Kernel.__call__` on a device that holds so many points at a time."""
    call = _kernel.Kernel.__call__

    def tiny(kernel, points):
        if kernel.width > width:
            failed.append(kernel.width)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory while allocating")
        return call(kernel, points)

    return tiny


def test_a_worker_remembers_how_many_points_it_holds(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    failed = []
    monkeypatch.setattr(_job, "layout_for", small_tiles(_job.layout_for))
    monkeypatch.setattr(_kernel.Kernel, "__call__", out_of_memory_beyond(2, failed))
    with ThreadPoolExecutor(1) as pool:
        ls.sweep(lambda c: saddle(0.7 * c), GRID, executor=pool, batch=8)
    assert len(failed) == 2 + (_kernel.threads_for(jax.local_devices()) > 1)  # each of these failed once
    assert sorted(set(failed)) == [4, 8]


def test_a_batch_that_had_to_be_halved_is_resumed_by_the_same_call(tmp_path, monkeypatch):
    failed = []
    monkeypatch.setattr(_job, "layout_for", small_tiles(_job.layout_for))
    monkeypatch.setattr(_kernel.Kernel, "__call__", out_of_memory_beyond(2, failed))
    point = jax.tree_util.Partial(lambda c: saddle(0.3 * c))
    ls.sweep(point, GRID, batch=8, store=tmp_path / "run.zarr", shard=(0, 2))
    assert sorted(set(failed)) == [4, 8]
    whole = ls.sweep(point, GRID, batch=8, store=tmp_path / "run.zarr")
    assert whole.computed.all()
    assert whole.meta["plan"]["batching"] == {"width": 8}
    np.testing.assert_array_equal(whole["loss"], ls.sweep(point, GRID, batch=2)["loss"])


def test_xarray_reads_a_run_without_this_package(tmp_path):
    xarray = pytest.importorskip("xarray", reason="extra: io")
    result = ls.sweep(saddle, GRID, store=tmp_path / "run.zarr")
    with xarray.open_zarr(tmp_path / "run.zarr", consolidated=False) as opened:
        assert opened["loss"].dims == ("x", "y")
        np.testing.assert_array_equal(opened["loss"], result["loss"])
        np.testing.assert_array_equal(opened["x"], GRID.axes[0].values)
        assert opened["computed"].all()
        assert opened["loss"].sel(x=1.25, y=0.75) == np.float32(2.5 * 1.25**2 - 0.5 * 0.75)


def test_an_all_nan_tile_is_stored_and_not_computed_again(tmp_path):
    def nowhere(c):
        return {"loss": c[0] * jnp.nan}

    ls.sweep(nowhere, GRID, store=tmp_path / "run.zarr")
    again = ls.sweep(nowhere, GRID, store=tmp_path / "run.zarr")
    assert np.isnan(again["loss"]).all()
    assert again.computed.all()
    assert len(again.meta["calls"]) == 1


def test_save_and_load_keep_every_bit_and_the_meta(tmp_path):
    values = {
        "loss": np.array([[np.nan, 2.5], [np.inf, -3.0], [0.25, 7.0]]),
        "label": np.arange(6).reshape(3, 2),
    }
    grid = ls.Grid((ls.Axis("x", np.array([0.5, 2.0, 4.0]), "1st PC"), ls.Axis("y", np.array([-3.0, 9.0]))))
    computed = np.array([[True, True], [True, False], [True, True]])
    meta = {"paths": {"run": {"coords": np.array([[0.5, -1.0]]), "loss": [np.nan, np.inf, 2.0]}}}
    ls.save(ls.Landscape(grid, values, computed, {}, meta), tmp_path / "saved.zarr")
    loaded = ls.load(tmp_path / "saved.zarr")
    np.testing.assert_array_equal(loaded["loss"], np.where(computed, values["loss"], np.nan))
    np.testing.assert_array_equal(loaded.computed, computed)
    assert loaded["label"].dtype == values["label"].dtype
    assert loaded.grid.axes[0].label == "1st PC"
    np.testing.assert_equal(loaded.meta["paths"]["run"]["loss"], [np.nan, np.inf, 2.0])
    with pytest.raises(StoreError, match="exists already"):
        ls.save(loaded, tmp_path / "saved.zarr")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of several tiles."""
    monkeypatch.setattr(_job, "layout_for", small_tiles(_job.layout_for))
    return tmp_path / "run.zarr", ls.sweep(saddle, GRID, store=tmp_path / "run.zarr", batch=4)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_chunk_is_named_and_computed_again(run, damage):
    path, reference = run
    chunk = path / "loss" / "c" / "3" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(
        {"truncate": content[:9], "flip": content[:-6] + b"\x00\xff" + content[-4:], "empty": b""}[damage]
    )
    with pytest.raises(StoreError, match=r"damaged chunks: loss/c/3/0.*run the sweep again"):
        ls.load(path)
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        again = ls.sweep(saddle, GRID, store=path, batch=4)
    np.testing.assert_array_equal(again["loss"], reference["loss"])
    assert again.meta["calls"][-1]["evaluations"] == 11


def test_a_missing_chunk_of_a_finished_tile_is_noticed(run):
    path, reference = run
    (path / "loss" / "c" / "3" / "0").unlink()
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        again = ls.sweep(saddle, GRID, store=path, batch=4)
    np.testing.assert_array_equal(again["loss"], reference["loss"])


def test_a_tile_finished_during_the_check_is_not_taken_for_damaged(run, monkeypatch):
    path, _ = run
    opened = store.RunStore(path)
    layout, listing = opened.layout, store.RunStore._stored_tiles
    late = path / "loss" / "c" / "3" / "0"
    content = late.read_bytes()
    mark = path / "computed" / "c" / "3" / "0"
    marked = mark.read_bytes()
    late.unlink()
    mark.unlink()

    def another_process_finishes_a_tile(self, name):
        found = listing(self, name)
        late.write_bytes(content)
        mark.write_bytes(marked)
        return found

    monkeypatch.setattr(store.RunStore, "_stored_tiles", another_process_finishes_a_tile)
    assert opened.damaged(layout) == {}


def test_a_shard_checks_its_own_tiles_only(run, monkeypatch):
    path, _ = run
    looked_at, damage = [], store.RunStore._damage

    def spy(self, layout, tile, stored):
        looked_at.append(tile)
        return damage(self, layout, tile, stored)

    monkeypatch.setattr(store.RunStore, "_damage", spy)
    ls.sweep(saddle, GRID, store=path, batch=4, shard=(1, 3))
    assert looked_at == [1, 4]


def test_plan_mismatch_lists_the_fields(run):
    path, _ = run
    with pytest.raises(PlanMismatch, match=r"grid.y: stored .* asked for") as caught:
        ls.sweep(saddle, ls.Grid.of(x=GRID.axes[0].values, y=[0.5, 2.0]), store=path)
    assert "batching.width" not in caught.value.differences
    with pytest.raises(PlanMismatch, match=r"function.program"):
        ls.sweep(lambda c: {"loss": c[0], "steps": jnp.int32(2)}, GRID, store=path)
    with pytest.raises(PlanMismatch, match=r"batching.width: stored 4, asked for 2"):
        ls.sweep(saddle, GRID, store=path, batch=2)


def hidden(array):
    inner = jax.jit(lambda x: jnp.sum(jnp.asarray(array) * x))
    return lambda c: {"loss": inner(c[0]) + c[1]}


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ((hidden(np.arange(3.0)), GRID), (hidden(np.arange(3.0) + 10), GRID), "function.constants"),
        (
            (lambda c: {"v": c[0] + 10 * c[1]}, ls.Grid.of(x=[0.5, 1.0], y=[0.5, 2.0])),
            (lambda c: {"v": c[0] + 10 * c[1]}, ls.Grid.of(y=[0.5, 2.0], x=[0.5, 1.0])),
            "axes",
        ),
        ((lambda c: {"a": c[0], "b": 2 * c[1]}, GRID), (lambda c: {"b": c[0], "c": 2 * c[1]}, GRID), "outputs.a"),
        (
            (jax.tree_util.Partial(lambda p, c: p["a"]["b"] * c[0], {"a.b": 2.0, "a": {"b": 3.0}}), GRID),
            (jax.tree_util.Partial(lambda p, c: p["a"]["b"] * c[0], {"a.b": 2.0, "a": {"b": 5.0}}), GRID),
            "function.all_arrays",
        ),
    ],
)
def test_runs_that_look_alike_are_told_apart(tmp_path, first, second, field):
    ls.sweep(*first, store=tmp_path / "run.zarr", batch=4)
    with pytest.raises(PlanMismatch) as caught:
        ls.sweep(*second, store=tmp_path / "run.zarr", batch=4)
    assert field in caught.value.differences


def test_a_half_written_tile_without_a_mark_harms_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(_job, "layout_for", small_tiles(_job.layout_for))
    path, reference = tmp_path / "run.zarr", ls.sweep(saddle, GRID, batch=4)
    ls.sweep(saddle, GRID, store=path, batch=4, shard=(0, 2))
    (path / "loss" / "c" / "1").mkdir()
    (path / "loss" / "c" / "1" / "0").write_bytes(b"")
    half = ls.load(path)
    assert half.computed.sum() == 44
    np.testing.assert_array_equal(half["loss"][::2], reference["loss"][::2])
    whole = ls.sweep(saddle, GRID, store=path, batch=4, shard=(1, 2))
    np.testing.assert_array_equal(whole["loss"], reference["loss"])


def test_meta_of_processes_side_by_side_is_kept(run):
    path, _ = run
    first, second = store.RunStore(path), store.RunStore(path)
    first.update_meta(lambda meta: meta | {"paths": {"a": [2.5]}})
    second.update_meta(lambda meta: meta | {"note": "late"})
    meta = ls.load(path).meta
    assert meta["paths"] == {"a": [2.5]}
    assert meta["note"] == "late"
    assert not list(path.glob("*.lock*"))


def test_reading_a_finished_run_again_leaves_its_record_alone(run):
    path, _ = run
    before = (path / "zarr.json").read_bytes()
    ls.sweep(saddle, GRID, store=path, batch=4)
    assert (path / "zarr.json").read_bytes() == before


def test_ctrl_c_during_the_last_tile_still_stops_the_program(tmp_path, monkeypatch):
    write = store.RunStore.write

    def pressed(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        write(self, *arguments)

    monkeypatch.setattr(store.RunStore, "write", pressed)
    with pytest.raises(KeyboardInterrupt, match="finished and stored"):
        ls.sweep(saddle, GRID, store=tmp_path / "run.zarr")
    assert ls.load(tmp_path / "run.zarr").computed.all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_callbacks_cannot_be_compared_and_that_is_said(tmp_path):
    def called(c):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), c[0], vmap_method="sequential")

    with pytest.warns(UserWarning, match="calls back to Python"):
        ls.sweep(called, ls.Grid.of(x=[0.5]), store=tmp_path / "run.zarr")


def test_store_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="is a file; give a directory"):
        ls.sweep(saddle, GRID, store=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_store_in_a_folder_with_other_contents(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="other contents; give an empty or a new one"):
        ls.sweep(saddle, GRID, store=tmp_path)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(StoreError, match="not one of a landscape"):
        ls.sweep(saddle, GRID, store=tmp_path / "other.zarr")


def test_loading_what_is_not_a_run(tmp_path):
    with pytest.raises(StoreError, match="found nothing; give the .zarr directory"):
        ls.load(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match=r"a directory without zarr.json"):
        ls.load(tmp_path)


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.EROFS, "read-only; choose another folder"), (errno.EACCES, "permission denied; choose a folder")],
)
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, code, message):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(_files, "fill", refuse)
    with pytest.raises(StoreError, match=message):
        ls.sweep(saddle, GRID, store=tmp_path / "run.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_real_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied"):
        ls.sweep(saddle, GRID, store=tmp_path / "run.zarr")


def test_a_full_disk_keeps_the_finished_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(_job, "layout_for", small_tiles(_job.layout_for))
    reference = ls.sweep(saddle, GRID, batch=4)
    written, put = [], zarr.storage.LocalStore.set

    async def full(self, key, value):
        written.append(key)
        if len(written) > 25:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await put(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.LocalStore, "set", full)
        with pytest.raises(StoreError, match=r"disk is full.*Finished tiles are safe"):
            ls.sweep(saddle, GRID, store=tmp_path / "run.zarr", batch=4)
    done = ls.load(tmp_path / "run.zarr").computed.sum()
    assert 0 < done < 77
    result = ls.sweep(saddle, GRID, store=tmp_path / "run.zarr", batch=4)
    np.testing.assert_array_equal(result["loss"], reference["loss"])
    assert result.meta["calls"][-1]["evaluations"] == 77 - done


def test_an_output_named_like_an_axis_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'x' has the name of an axis"):
        ls.sweep(lambda c: {"x": c[0]}, GRID, store=tmp_path / "run.zarr")


@pytest.mark.parametrize(
    ("name", "dtype", "error", "message"),
    [
        ("loss", jnp.bfloat16, TypeError, "cannot hold bfloat16: cast the output 'loss' to float32"),
        ("cifar/train_loss", jnp.float32, ValueError, "'cifar/train_loss' cannot name one.*'cifar_train_loss'"),
        ("..", jnp.float32, ValueError, r"'\.\.' cannot name one.*'value'"),
    ],
)
def test_outputs_that_a_store_cannot_hold_are_refused_before_anything_is_tuned(
    tmp_path, monkeypatch, name, dtype, error, message
):
    monkeypatch.setattr(_runners.Local, "timing", lambda *_: pytest.fail("it was tuned first"))
    with pytest.raises(error, match=message):
        ls.sweep(lambda c: {name: c[0].astype(dtype)}, GRID, store=tmp_path / "run.zarr")
    values = {name: np.zeros(GRID.shape, dtype)}
    with pytest.raises(error, match=message):
        ls.save(ls.Landscape(GRID, values, np.ones(GRID.shape, bool)), tmp_path / "saved.zarr")
    assert list(tmp_path.iterdir()) == []


def test_what_a_sweep_raises_has_a_public_name():
    assert (ls.PlanMismatch, ls.StoreError) == (ls.store.PlanMismatch, ls.store.StoreError)
    assert issubclass(ls.Interrupted, KeyboardInterrupt)


def test_old_leftovers_are_swept_up_and_young_ones_are_not(run):
    path, _ = run
    for name, age in (("old.partial", 7200), ("young.partial", 5)):
        (path / "loss" / name).write_text("half")
        os.utime(path / "loss" / name, (time.time() - age,) * 2)
    ls.sweep(saddle, GRID, store=path, batch=4)
    assert [p.name for p in (path / "loss").glob("*.partial")] == ["young.partial"]


def test_meta_is_plain_json(run):
    path, _ = run
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    assert attributes["landscape"]["plan"]["precision"] == "float32"
    assert attributes["meta"]["provenance"]["matmul_precision"] == "highest"


@pytest.mark.parametrize(
    ("shape", "target"), [((7, 11), 5), ((101, 101), 1000), ((3, 4, 5), 20), ((9,), 4), ((5, 6), 999)]
)
def test_tiles_cover_the_grid_once_in_contiguous_runs(shape, target):
    tile = _layout.row_tile(shape, target)
    assert np.prod(tile) <= max(target, 1)
    layout = _layout.Layout(ls.Grid.of(**{f"c{i}": np.arange(n) for i, n in enumerate(shape)}), {}, tile)
    count = np.zeros(shape, dtype=int)
    order = np.arange(np.prod(shape)).reshape(shape)
    for number in range(layout.num_tiles):
        region = layout.region(number)
        count[region] += 1
        flat = order[region].ravel()
        np.testing.assert_array_equal(flat, np.arange(flat[0], flat[0] + layout.size(number)))
    assert (count == 1).all()


@pytest.mark.parametrize(("target", "step"), [(384, 256), (384, 64), (2000, 1024), (125, 64)])
def test_tiles_waste_little_on_whole_steps(target, step):
    for side in (51, 101):
        layout = _layout.Layout(ls.Grid.square(1.0, side), {}, _layout.row_tile((side, side), target, step))
        computed = sum(-(-layout.size(tile) // step) * step for tile in range(layout.num_tiles))
        assert computed <= 1.3 * side**2
