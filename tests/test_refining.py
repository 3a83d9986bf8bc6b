"""Sweeps at a tolerance: errors against exact sweeps, the journal, kills, executors, and what is stated."""

import concurrent.futures
import dataclasses
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape.adaptive import Labels, Smooth
from landscape.engine import _at_tolerance, _job
from landscape.store import JOURNAL, PlanMismatch

GRID = ls.Grid.of(x=np.linspace(-1.0, 1.5, 193), y=np.linspace(-2.0, 0.5, 161))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Hills:
    """A smooth loss, a label with a curved boundary, and a metric that jumps."""

    slope: jax.Array
    traces: list = dataclasses.field(default_factory=list, metadata={"static": True})

    def __call__(self, coords):
        self.traces.append(1)
        x, y = coords
        loss = jnp.sin(self.slope * x) * jnp.exp(0.5 * y) + 0.3 * x * y
        return {
            "loss": loss,
            "label": (x**2 + 2 * y**2 < 1.7).astype(jnp.int32),
            "accuracy": jnp.round(7 * x) / 7,
            "pair": jnp.stack([loss, y]),
        }


def hills(slope=2.5):
    return Hills(jnp.float32(slope))


@pytest.fixture(scope="module")
def exact():
    return ls.sweep(hills(), GRID, batch=16)


def refined(tolerance, **options):
    return ls.sweep(hills(), GRID, tolerance=tolerance, batch=16, progress=False, **options)


def test_predictions_keep_the_stated_error_and_evaluated_points_are_exact(exact):
    result = refined({"loss": 1e-3})
    assert result.computed.sum() < 0.1 * GRID.size
    for name in exact:
        np.testing.assert_array_equal(result[name][result.computed], exact[name][result.computed])
    assert np.abs(result["loss"] - exact["loss"]).max() <= result.error["loss"]
    span = np.ptp(exact["loss"])
    assert result.error["loss"] == pytest.approx(1e-3 * span, rel=0.05)
    assert result.error["label"] is None


def test_outputs_that_take_no_part_are_known_only_where_computed():
    result = refined({"loss": 1e-2})
    assert np.isnan(result["accuracy"][~result.computed]).all()
    assert np.isnan(result["pair"][~result.computed]).all()
    assert not result["label"][~result.computed].any()
    assert np.isfinite(result["loss"]).all()


def test_labels_are_refined_where_they_change(exact):
    result = refined({"label": Labels(1e-2)})
    assert result.computed.mean() < 0.5
    np.testing.assert_array_equal(result["label"], exact["label"])
    assert 0 < result.promise.outputs["label"].fraction <= 1e-2


def test_the_meta_says_what_is_promised():
    said = refined({"loss": 1e-2, "label": Labels(0.05)}).meta["refinement"]
    assert said["points"] == GRID.size
    assert said["evaluations"] < GRID.size
    assert said["validation"]["points"] >= 128
    assert 0 < said["outputs"]["loss"]["fraction"] < 0.1


def test_a_point_function_names_what_a_plain_number_applies_to():
    data = jax.random.normal(jax.random.key(3), (40, 3))

    def loss_fn(params, batch):
        return (batch @ params) ** 2, {"right": (batch @ params > 0.3).astype(jnp.float32)}

    plane = ls.Subspace(jnp.array([0.5, -2.0, 0.3]), jnp.array([[0.5, 2.0, -1.5], [2.5, 0.25, 0.75]]))
    surface = ls.LossSurface(plane, {"train": ls.Objective(loss_fn, data, has_aux=True)})
    assert surface.refined == ("train_loss",)
    result = ls.sweep(surface, ls.Grid.square(1.5, 129), tolerance=1e-3)
    assert result.error["train_loss"] > 0
    assert result.error["train_right"] is None
    assert result.computed.mean() < 0.2


@pytest.mark.parametrize(("num_steps", "extent"), [(30, 0.3), (0, 1.0)])
def test_the_losses_of_a_small_net_are_predicted(num_steps, extent):
    problem = ls.problems.digits_mlp(hidden=(16,))
    keys = jax.random.split(jax.random.key(3))
    params, optimizer = problem.init(keys[0]), optax.adam(1e-2)
    state, gradient = optimizer.init(params), jax.jit(jax.grad(problem.objectives["train"]))
    for _ in range(num_steps):
        updates, state = optimizer.update(gradient(params), state)
        params = optax.apply_updates(params, updates)
    directions = ls.subspace.filter_normalize(ls.subspace.random_directions(keys[1], params), params)
    plane, grid = ls.Subspace(params, directions), ls.Grid.square(extent, 129)
    result = ls.sweep(ls.LossSurface(plane, problem.objectives), grid, tolerance=1e-2, batch=32, progress=False)
    assert result.promise.left_out == {}
    assert result.computed.mean() < 0.3
    for flat in np.random.default_rng(1).choice(np.flatnonzero(~result.computed), 40, replace=False):
        coords = grid.points_at(np.array([flat]))[0]
        for name, objective in problem.objectives.items():
            off = abs(result[f"{name}_loss"].ravel()[flat] - loss_in_float64(plane, coords, objective.data))
            assert off <= result.error[f"{name}_loss"] + 1e-5
    assert "predicted elsewhere: test_loss, train_loss; known only where computed: test_accuracy" in repr(result)


def loss_in_float64(plane, coords, data):
    """Cross-entropy of a tanh network, in NumPy."""
    along = jax.tree.map(lambda o, d: np.float64(o) + np.tensordot(coords, np.float64(d), 1), *plane_parts(plane))
    h = np.asarray(data["x"], np.float64)
    for i, layer in enumerate(along):
        h = (np.tanh(h) if i else h) @ layer["kernel"] + layer["bias"]
    h -= h.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(h).sum(axis=1)) - h[np.arange(len(h)), np.asarray(data["y"])])


def plane_parts(plane):
    return plane.origin, plane.directions


def test_a_loss_that_jumps_is_known_everywhere_all_the_same():
    data = {"x": np.random.default_rng(2).normal(size=(30, 3)).astype(np.float32)}
    smooth = ls.Objective(lambda p, batch: jnp.tanh(batch["x"] @ p) ** 2, data)
    jumps = ls.Objective(lambda p, batch: (batch["x"] @ p > 0.3).astype(jnp.float32), data)
    plane = ls.Subspace(jnp.array([0.5, -0.2, 0.3]), jnp.array([[0.5, 0.2, -0.5], [0.5, 0.25, 0.75]]))
    surface, grid = ls.LossSurface(plane, {"train": smooth, "test": jumps}), ls.Grid.square(1.5, 97)
    exact = ls.sweep(surface, grid, batch=64, progress=False)
    with pytest.warns(UserWarning, match=r"points were evaluated: 'test_loss' cannot be known to"):
        result = ls.sweep(surface, grid, tolerance=1e-2, batch=64, progress=False)
    for name in exact:
        assert np.abs(result[name] - exact[name]).max() <= result.error[name]


def test_what_is_left_out_is_said_in_a_warning_and_in_the_repr(tmp_path):
    grid, path = ls.Grid.square(1.0, 129), tmp_path / "run.zarr"
    options = {"tolerance": 1e-2, "batch": 16, "progress": False, "store": path}

    def fn(c):
        return {"loss": jnp.sin(3 * c[0]) * jnp.exp(c[1]), "accuracy": jnp.round(8 * c[0] + c[1]) / 8, "pair": c}

    said = r"'accuracy' is NaN at the 15,280 points that were not evaluated, since it looks piecewise constant"
    for _ in range(2):  # also where a finished run is read
        with pytest.warns(UserWarning, match=said):
            result = ls.sweep(fn, grid, **options)
        assert repr(result).endswith(
            "accuracy, loss, pair, 1361 of 16641 computed; predicted elsewhere: loss; known only where computed: "
            "accuracy (left out: looks piecewise constant in the first round), pair)"
        )
    assert np.isnan(result["accuracy"]).sum() == 15280
    assert repr(ls.load(path)) == repr(result)


def test_a_sweep_that_saves_nothing_says_so():
    with pytest.warns(UserWarning, match=r"16,641 of 16,641 points were evaluated: 'loss' cannot be known to 0.02 "):
        result = ls.sweep(
            lambda c: {"loss": jnp.sin(900 * c[0] + 800 * c[1])},
            ls.Grid.square(1.0, 129),
            tolerance=1e-2,
            batch=64,
            progress=False,
        )
    assert "computed" not in repr(result)


@pytest.mark.parametrize("tolerance", [None, {"loss": 1e-2}])
def test_labels_of_axes_are_those_of_the_call(tmp_path, tolerance):
    path = tmp_path / "run.zarr"
    for label in ("first", "second", "third"):
        axes = tuple(dataclasses.replace(axis, label=f"{label} {axis.name}") for axis in GRID.axes)
        grid = ls.Grid(axes)
        result = ls.sweep(hills(), grid, tolerance=tolerance, batch=16, store=path, progress=False)
        assert result.grid is grid
        assert [axis.label for axis in result.grid.axes] == [f"{label} x", f"{label} y"]
    assert len(result.meta["calls"]) == 1


def test_one_trace_serves_all_rounds():
    point = hills()
    ls.sweep(point, GRID, tolerance={"loss": 1e-4}, batch=16, progress=False)
    assert len(point.traces) == 1


def test_small_grids_and_three_axes():
    tiny = ls.sweep(hills(), ls.Grid.square(1.0, 9), tolerance={"loss": 1e-2})
    assert tiny.computed.all()
    assert tiny.error["loss"] == 0.0
    grid = ls.Grid.of(**{name: np.linspace(-1, 1, 97) for name in "xyz"})
    solid = ls.sweep(lambda c: {"v": jnp.sin(c[0]) * c[1] + c[2] ** 2}, grid, tolerance=1e-2)
    x, y, z = np.meshgrid(*(a.values for a in grid.axes), indexing="ij")
    assert solid.computed.mean() < 0.2
    assert np.abs(solid["v"] - (np.sin(x) * y + z**2)).max() <= solid.error["v"]


def test_stored_resumed_and_reloaded_are_the_same(tmp_path):
    path, tolerance = tmp_path / "run.zarr", {"loss": 1e-3, "label": Labels(0.01)}
    plain, stored = refined(tolerance), refined(tolerance, store=path)
    again, loaded = refined(tolerance, store=path), ls.load(path)
    for other in (stored, again, loaded):
        np.testing.assert_array_equal(other.computed, plain.computed)
        assert other.error == plain.error
        assert other.meta["refinement"] == plain.meta["refinement"]
        for name in plain:
            np.testing.assert_array_equal(other[name], plain[name])
    assert len(again.meta["calls"]) == 1
    assert not (path / JOURNAL).exists()


def test_the_error_survives_saving(tmp_path):
    result = refined({"loss": 1e-2})
    ls.save(result, tmp_path / "saved.zarr")
    loaded = ls.load(tmp_path / "saved.zarr")
    assert loaded.error == result.error
    assert "error" not in loaded.meta
    np.testing.assert_array_equal(loaded["loss"], result["loss"])


def test_other_tolerances_and_exact_sweeps_are_other_plans(tmp_path):
    path = tmp_path / "run.zarr"
    refined({"loss": 1e-2}, store=path)
    with pytest.raises(PlanMismatch, match=r"tolerance.loss.tolerance: stored 0.01, asked for 0.001"):
        refined({"loss": 1e-3}, store=path)
    with pytest.raises(PlanMismatch, match=r"tolerance.loss.tolerance: stored 0.01, asked for None"):
        ls.sweep(hills(), GRID, store=path)


def test_an_executor_gives_the_same_bits():
    tolerance = {"loss": 1e-3}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        far = ls.sweep(hills(), GRID, tolerance=tolerance, batch=16, executor=pool, progress=False)
    near = refined(tolerance)
    np.testing.assert_array_equal(far["loss"], near["loss"])
    np.testing.assert_array_equal(far.computed, near.computed)


def test_shards_are_refused(tmp_path):
    with pytest.raises(ValueError, match="its rounds depend on each other; use executor="):
        refined({"loss": 1e-2}, store=tmp_path / "run.zarr", shard=(0, 2))


@pytest.mark.parametrize(
    ("tolerance", "kind", "message"),
    [
        ({"lost": 1e-2}, ValueError, "tolerance names 'lost', which is not an output; there are"),
        ({"pair": 1e-2}, TypeError, "'pair' has shape"),
        ({"label": Smooth(1e-2)}, TypeError, "use Labels"),
        (-1.0, ValueError, "tolerance must be positive and finite, got -1.0"),
        ("fine", TypeError, "tolerance must be a number"),
    ],
)
def test_bad_tolerances_are_named(tolerance, kind, message):
    with pytest.raises(kind, match=message):
        refined(tolerance)


def test_an_output_named_like_the_journal_is_refused(tmp_path):
    for name in ("grid_index", "evaluations", "evaluation"):
        with pytest.raises(ValueError, match=f"'{name}' is a name under which evaluated points are kept"):
            ls.sweep(lambda c, name=name: {name: c[0]}, GRID, tolerance=1e-2, store=tmp_path / "run.zarr")
    with pytest.raises(ValueError, match="'evaluation' is a name"):
        grid = ls.Grid.line(num=99, name="evaluation")
        ls.sweep(lambda c: {"loss": c[0]}, grid, tolerance=1e-2, store=tmp_path / "run.zarr")


_SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import test_refining as t
from landscape.engine import _at_tolerance
_at_tolerance.MAX_PIECE = 64
write = _at_tolerance._StoredJournal.write
def slowly(self, piece, values):
    write(self, piece, values)
    time.sleep(0.05)
_at_tolerance._StoredJournal.write = slowly
t.refined({{"loss": 1e-4}}, store={path!r})
"""


def _start(path):
    script = _SCRIPT.format(tests=str(Path(__file__).parent), path=str(path))
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)


def _wait_for_pieces(path, count, process):
    while len(list((path / JOURNAL / "computed" / "c").glob("*"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("sent", "pieces"), [(signal.SIGKILL, 2), (signal.SIGKILL, 12), (signal.SIGINT, 5)])
def test_stopped_in_the_middle_and_resumed_gives_the_same_bits(tmp_path, monkeypatch, sent, pieces):
    monkeypatch.setattr(_at_tolerance, "MAX_PIECE", 64)
    path = tmp_path / "run.zarr"
    process = _start(path)
    _wait_for_pieces(path, pieces, process)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    if sent == signal.SIGINT:
        assert "the same call resumes from" in said
    partial = ls.load(path)
    done = int(partial.computed.sum())
    assert 0 < done < GRID.size
    resumed, whole = refined({"loss": 1e-4}, store=path), refined({"loss": 1e-4})
    np.testing.assert_array_equal(resumed["loss"], whole["loss"])
    np.testing.assert_array_equal(resumed.computed, whole.computed)
    np.testing.assert_array_equal(partial["loss"][partial.computed], whole["loss"][partial.computed])
    assert resumed.meta["calls"][-1]["evaluations"] <= int(whole.computed.sum()) - done


def test_a_damaged_piece_of_the_journal_is_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(_at_tolerance, "MAX_PIECE", 256)
    monkeypatch.setattr(_at_tolerance._StoredJournal, "discard", lambda self: None)
    path = tmp_path / "run.zarr"
    whole = refined({"loss": 1e-3}, store=path)
    for mark in (path / "computed" / "c").rglob("*"):
        if mark.is_file():
            mark.unlink()
    (path / JOURNAL / "loss" / "c" / "1").write_bytes(b"not a chunk")
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        again = refined({"loss": 1e-3}, store=path)
    np.testing.assert_array_equal(again["loss"], whole["loss"])
    assert again.meta["calls"][-1]["evaluations"] == 256


def test_tuning_expects_few_points(monkeypatch):
    asked = []
    timing = _job.Task.timing
    monkeypatch.setattr(_job.Task, "timing", lambda self, n: asked.append(n) or timing(self, n))
    ls.sweep(hills(), ls.Grid.square(1.0, 513), tolerance={"loss": 1e-2})
    assert asked == [513**2 // 16]


def test_a_finished_map_with_a_damaged_chunk_is_repaired(tmp_path):
    path = tmp_path / "run.zarr"
    whole = refined({"loss": 1e-3}, store=path)
    chunk = next(p for p in (path / "loss" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(b"not a chunk")
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        again = refined({"loss": 1e-3}, store=path)
    np.testing.assert_array_equal(again["loss"], whole["loss"])


def test_killed_while_the_map_is_written_the_journal_still_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(_at_tolerance._StoredJournal, "discard", lambda self: None)
    path = tmp_path / "run.zarr"
    whole = refined({"loss": 1e-3}, store=path)
    marks = sorted(p for p in (path / "computed" / "c").rglob("*") if p.is_file())
    marks[-1].unlink()
    partial = ls.load(path)
    np.testing.assert_array_equal(partial.computed, whole.computed)
    assert partial.error["loss"] is None
    assert "refinement" not in partial.meta


def test_large_outputs_in_memory_are_taken_in_small_pieces():
    grid = ls.Grid.square(1.0, 65)

    def wide(c):
        return {"loss": jnp.sin(c[0]) + c[1], "many": jnp.full(9000, c[0])}

    result = ls.sweep(wide, grid, tolerance={"loss": 1e-2}, batch=4, progress=False)
    at = np.argwhere(result.computed)[7]
    np.testing.assert_allclose(result["many"][tuple(at)], grid.axes[0].values[at[0]], rtol=1e-6)


def test_shares_of_a_refined_label_map_count_all_points(exact):
    result = refined({"label": Labels(1e-2)})
    assert not result.computed.all()
    named = {"optimizer": "none", "initialisation": "grid"}
    few, all_ = (ls.analysis.basin_fractions(r, **named) for r in (result, exact))
    np.testing.assert_allclose(few.fractions, all_.fractions, atol=1e-2)
    kept = ls.plotting.basins(result)
    assert not any("not computed" in t.get_text() for t in kept.get_legend().get_texts())
