"""Trajectories: read leaf by leaf, with the planes of NumPy's own decomposition; the landscape over time."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape import subspace
from landscape.recording import along, osculating_plane
from landscape.store import StoreError
from landscape.subspace import _streams

SHAPES = {"a": {"k": (4, 5), "b": (5,)}, "c": [(3,), (2, 2, 3)]}
SIZE = 20 + 5 + 3 + 12


def tree_of(vector, dtype=np.float32):
    """A row of a matrix as a tree, in the order of the leaves."""
    leaves, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in leaves)])
    parts = [vector[a:b].reshape(shape).astype(dtype) for shape, a, b in zip(leaves, ends, ends[1:])]
    return jax.tree.unflatten(treedef, parts)


def row_of(tree):
    return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in jax.tree.leaves(tree)])


def rows_of(stack):
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(stack)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


def walk(seed, length=12, start=None):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=SIZE) if start is None else start
    steps = rng.normal(size=(length - 1, SIZE)) * np.linspace(0.05, 0.4, SIZE)
    return np.float32(start + np.concatenate([np.zeros((1, SIZE)), np.cumsum(steps, axis=0)])).astype(np.float64)


def recorded(path, matrix, **options):
    with ls.Recorder(path, **options) as recorder:
        for step, row in enumerate(matrix):
            recorder(10 * step, tree_of(row), train_loss=2.5 - step)
    return ls.Trajectory(path)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few entries, so that every leaf is read in parts."""
    monkeypatch.setattr(_streams, "BLOCK_BYTES", 8 * 12 * 7)


def angle(directions, reference):
    """The largest principal angle between two planes, in degrees."""
    a, b = (np.linalg.qr(np.asarray(x, np.float64).T)[0] for x in (directions, reference))
    sine = np.linalg.norm(a - b @ (b.T @ a), 2)
    return np.degrees(np.arcsin(min(1.0, sine)))


# ------------------------------------------------------------------------------------------------------- planes of it


def test_principal_directions_are_those_of_the_singular_value_decomposition(tmp_path, small_blocks):
    matrix = walk(3)
    directions, explained = subspace.pca_directions(recorded(tmp_path / "run.zarr", matrix), 3)
    _, singular, right = np.linalg.svd(matrix - matrix.mean(axis=0))
    np.testing.assert_allclose(explained, singular[:3] ** 2 / np.sum(singular**2), rtol=1e-6)
    found = rows_of(directions)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(found * right[:3], axis=1)), 1, atol=1e-6)
    assert np.all(found @ (matrix[-1] - matrix[0]) >= 0)
    assert angle(found[:2], right[:2]) < 1e-3


def test_a_path_far_from_zero_has_the_same_plane(tmp_path):
    """Differences a millionth of the parameters: what inner products of the parameters in float32 would lose."""
    matrix = np.float32(1000 + np.float32(walk(4) * 0.02)).astype(np.float64)
    directions, _ = subspace.pca_directions(recorded(tmp_path / "run.zarr", matrix))
    right = np.linalg.svd(matrix - matrix.mean(axis=0))[2]
    assert angle(rows_of(directions), right[:2]) < 1e-2


def test_a_recording_is_a_stack_wherever_one_is_taken(tmp_path):
    matrix = walk(5)
    run, stack = recorded(tmp_path / "run.zarr", matrix), jax.tree.map(lambda *x: jnp.stack(x), *map(tree_of, walk(5)))
    ours, theirs = subspace.pca_directions(run), subspace.pca_directions(stack, like=tree_of(matrix[0]))
    np.testing.assert_allclose(rows_of(ours[0]), rows_of(theirs[0]), atol=2e-6)
    assert jax.tree.structure(run[0]) == jax.tree.structure(tree_of(matrix[0]))
    few = run[:2]
    np.testing.assert_array_equal(rows_of(subspace.orthonormalize(few)), rows_of(
        subspace.orthonormalize(jax.tree.map(lambda x: x[:2], stack), like=tree_of(matrix[0]))))  # fmt: skip
    plane = ls.Subspace(tree_of(matrix[0]), few)
    assert plane.dim == 2
    np.testing.assert_allclose(plane.gram(), matrix[:2] @ matrix[:2].T, rtol=1e-5)
    last = jax.jit(lambda snapshots: jax.tree.map(lambda x: x[-1], snapshots))(run)  # it is a pytree that holds a stack
    np.testing.assert_array_equal(row_of(last), matrix[-1])


def test_inner_products_coordinates_and_distances(tmp_path, small_blocks):
    matrix, rng = walk(6), np.random.default_rng(7)
    run = recorded(tmp_path / "run.zarr", matrix)
    np.testing.assert_allclose(subspace.gram(run), matrix @ matrix.T, rtol=1e-12)
    np.testing.assert_allclose(subspace.gram([tree_of(row) for row in matrix]), matrix @ matrix.T, rtol=1e-12)
    basis = np.float32(rng.normal(size=(2, SIZE))) * [[1e-3], [40.0]]  # neither orthogonal nor of one length
    basis[1] += basis[0] * 3e4
    basis = np.float32(basis).astype(np.float64)
    plane = ls.Subspace(tree_of(matrix[4]), [tree_of(row) for row in basis])
    expected = np.linalg.lstsq(basis.T, (matrix - matrix[4]).T, rcond=None)[0].T
    np.testing.assert_allclose(plane.project(run), expected, rtol=2e-5, atol=1e-6 * np.abs(expected).max())
    distances = np.linalg.norm(matrix - matrix[4] - expected @ basis, axis=1)
    np.testing.assert_allclose(plane.residual(run), distances, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose([plane.residual(tree) for tree in run], distances, rtol=1e-4, atol=1e-4)


def test_dependent_and_zero_directions_as_for_one_tree(tmp_path):
    matrix = walk(8)
    one = tree_of(walk(9)[0])
    plane = ls.Subspace(
        tree_of(matrix[0]), [one, jax.tree.map(lambda x: 2.5 * x, one), jax.tree.map(np.zeros_like, one)]
    )
    expected = np.stack([plane.project(tree_of(row)) for row in matrix])
    np.testing.assert_allclose(plane.project(recorded(tmp_path / "run.zarr", matrix)), expected, rtol=1e-3, atol=1e-5)


def test_a_common_plane_of_several_runs(tmp_path, small_blocks):
    matrices = [walk(seed, 9, start=np.linspace(-1.5, 2.0, SIZE)) for seed in (10, 11, 12)]
    runs = [recorded(tmp_path / f"{i}.zarr", matrix) for i, matrix in enumerate(matrices)]
    directions, explained = subspace.pca_directions(runs)
    whole = np.concatenate(matrices)
    _, singular, right = np.linalg.svd(whole - whole.mean(axis=0))
    np.testing.assert_allclose(explained, singular[:2] ** 2 / np.sum(singular**2), rtol=1e-6)
    assert angle(rows_of(directions), right[:2]) < 1e-3
    plane = ls.Subspace(runs[0][0], directions)
    np.testing.assert_allclose(plane.project(runs), np.concatenate([plane.project(run) for run in runs]), rtol=1e-6)
    np.testing.assert_allclose(subspace.gram(runs), whole @ whole.T, rtol=1e-12)
    ends = [run[-1] for run in runs]
    through = subspace.plane_through(*ends)
    assert max(float(through.residual(end)) for end in ends) < 1e-5


# ----------------------------------------------------------------------------------------------- what is no good path


def test_paths_without_a_plane_are_told_so(tmp_path):
    row = walk(13)[0]
    still = recorded(tmp_path / "still.zarr", [row] * 5)
    with pytest.raises(ValueError, match="vary in fewer than 2 directions beyond rounding"):
        subspace.pca_directions(still)
    with pytest.raises(ValueError, match="vary in fewer than 1 directions"):
        subspace.pca_directions(still, 1)
    with pytest.raises(ValueError, match="2 principal directions need at least 3 snapshots, got 2"):
        subspace.pca_directions(still[:2])
    way = walk(14)[0]
    line = recorded(tmp_path / "line.zarr", np.float32(row + np.linspace(0, 1.5, 7)[:, None] * way))
    with pytest.raises(ValueError, match="vary in fewer than 2 directions beyond rounding"):
        subspace.pca_directions(line)
    directions, explained = subspace.pca_directions(line, 1)
    assert explained[0] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(
        np.abs(rows_of(directions)[0]), np.abs(walk(14)[0]) / np.linalg.norm(walk(14)[0]), atol=1e-6
    )


def test_two_identical_snapshots_among_others_change_nothing_but_the_weights(tmp_path):
    matrix = walk(15)[[0, 1, 1, 2, 3]]
    directions, _ = subspace.pca_directions(recorded(tmp_path / "run.zarr", matrix))
    assert angle(rows_of(directions), np.linalg.svd(matrix - matrix.mean(axis=0))[2][:2]) < 1e-3


def test_rounding_to_bfloat16_is_no_direction(tmp_path):
    """A straight line whose snapshots were rounded coarsely: the second direction is that rounding."""
    start, way = walk(16)[:2]
    line = np.float32(start + np.linspace(0, 0.5, 9)[:, None] * way)
    with pytest.raises(ValueError, match="fewer than 2 directions beyond rounding"):
        subspace.pca_directions(recorded(tmp_path / "run.zarr", line, dtype="bfloat16"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_snapshot_that_is_not_finite_is_named(tmp_path, bad):
    matrix = walk(17)
    matrix[7, 22] = bad
    run = recorded(tmp_path / "run.zarr", matrix)
    assert np.isnan(run[7]["a"]["k"]).any() or not np.isfinite(row_of(run[7])).all()
    with pytest.raises(ValueError, match=r"snapshot 7 \(step 70\) holds NaN or infinity in a\.k"):
        subspace.pca_directions(run)
    with pytest.raises(ValueError, match=r"snapshot 7 \(step 70\) of stack 1"):
        subspace.pca_directions([run[:3], run])
    assert len(subspace.pca_directions(run[:7])[1]) == 2


MEMORY = """
import resource, sys, numpy as np, landscape as ls
from landscape.subspace import _streams
_streams.BLOCK_BYTES = 2**19
path, n, length = sys.argv[1], 100_000, 60
rng = np.random.default_rng(0)
with ls.Recorder(path) as recorder:
    x = {"one": np.zeros(n, "f4"), "two": np.zeros((n // 4, 4), "f4")}
    for step in range(length):
        x = {k: v + rng.standard_normal(v.shape, "f4") for k, v in x.items()}
        recorder(step, x)
run = ls.Trajectory(path)
ls.subspace.pca_directions(run[:3])  # what is loaded once is no memory of the path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
directions, explained = ls.subspace.pca_directions(run)
plane = ls.Subspace(run[0], directions)
plane.residual(run)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, length * 2 * n * 4 // 1024)
"""


def test_a_path_is_never_in_memory_as_a_whole(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "run.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    taken, path = map(int, done.stdout.split())
    assert taken < path / 3


# --------------------------------------------------------------------------------------------------- several walks


def test_walks_from_one_start_share_variance_as_simulated_ones_do():
    rng = np.random.default_rng(18)
    steps, points = [np.array([0, 2, 3, 7, 12]), np.array([0, 5, 6]), np.array([0, 1, 9, 10])], []
    for walked in steps:
        gaps = np.diff(walked)[:, None]
        moves = rng.normal(size=(len(gaps), 60_000)) * np.sqrt(gaps)
        points += [np.zeros((1, 60_000)), np.cumsum(moves, axis=0)]
    points = np.concatenate(points)
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    expected = singular[:4] ** 2 / np.sum(singular**2)
    np.testing.assert_allclose(subspace.random_walks_explained(steps, 4), expected, rtol=0.03)


def test_one_walk_at_equal_steps_is_the_known_case():
    for steps in (np.arange(3, 25), [0, 10, 20, 30], [np.arange(6) * 7]):
        num = len(steps[0]) if isinstance(steps[0], np.ndarray) else len(steps)
        np.testing.assert_allclose(subspace.random_walks_explained(steps, 3), subspace.random_walk_explained(num, 3))


@pytest.mark.parametrize(
    ("steps", "num", "error", "message"),
    [
        ([0, 2, 1], 2, ValueError, "numbers that increase"),
        ([[0, 1], [3, 3]], 2, ValueError, "numbers that increase"),
        ([0, 1], 2, ValueError, "need at least 3 snapshots, got 2"),
        ([[0], [0], [0]], 2, ValueError, "do not vary"),
        ("steps", 2, TypeError, "steps must be an array of real numbers"),
        (None, 2, TypeError, "steps must be an array of real numbers"),
        ([0, 1, 2], 1.5, TypeError, "num must be an integer"),
    ],
)
def test_bad_walks_are_named(steps, num, error, message):
    with pytest.raises(error, match=message):
        subspace.random_walks_explained(steps, num)


# ----------------------------------------------------------------------------------------------------------- sources


def test_checkpoints_of_every_kind(tmp_path):
    matrix, trees = walk(19, 4), []
    for i, row in enumerate(matrix):
        trees.append(tree_of(row))
        named = {
            ".".join(str(getattr(k, "key", getattr(k, "idx", ""))) for k in path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(trees[-1])
        }
        np.savez(tmp_path / f"{i}.npz", **named)
    files = [tmp_path / f"{i}.npz" for i in range(4)]
    held = ls.Trajectory(trees, steps=[0, 10, 30, 70], scalars={"train_loss": [3.5, 2.5, 1.5, 0.5]})
    np.testing.assert_array_equal(held.steps, [0, 10, 30, 70])
    assert held[1:3].scalars["train_loss"].tolist() == [2.5, 1.5]
    flat, like = ls.Trajectory(files), ls.Trajectory(files, like=trees[0])
    assert sorted(flat[2]) == ["a.b", "a.k", "c.0", "c.1"]
    for run in (held, flat, like):
        np.testing.assert_allclose(subspace.gram(run), matrix @ matrix.T, rtol=1e-12)
    for ours, theirs in zip(like, trees):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    mixed = ls.Trajectory([trees[0], str(files[1])], like=trees[0])
    np.testing.assert_array_equal(row_of(mixed[1]), matrix[1])


def test_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy", reason="extra: io").save_file
    trees = [{"w": np.float32([[1.5, -2.5]]) * i, "b": np.full(2, 0.5 * i, jnp.bfloat16)} for i in (1, 2)]
    for i, tree in enumerate(trees):
        save_file(tree, tmp_path / f"{i}.safetensors")
    run = ls.Trajectory([tmp_path / "0.safetensors", tmp_path / "1.safetensors"])
    for ours, theirs in zip(run, trees):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert ours["b"].dtype == jnp.bfloat16


def test_checkpoints_that_bridges_load(tmp_path):
    serialization = pytest.importorskip("flax.serialization", reason="extra: test")
    trees = [tree_of(row) for row in walk(28, 3)]
    for i, tree in enumerate(trees):
        (tmp_path / f"{i}.msgpack").write_bytes(serialization.to_bytes(tree["a"]))
    run = ls.Trajectory([tmp_path / f"{i}.msgpack" for i in range(3)])
    for ours, theirs in zip(run, trees):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs["a"])
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(ValueError, match="text"):
        ls.Trajectory([tmp_path / "text.txt"])


def test_a_stack_in_memory_and_the_path_of_a_training(tmp_path):
    himmelblau = ls.problems.himmelblau
    run = ls.train(himmelblau.objective, optax.sgd(0.01), jnp.array([1.5, 2.5]), num_steps=6, snapshots=True)
    path = ls.Trajectory(run.snapshots, steps=run.history["step"], scalars={"loss": run.history["loss"]})
    np.testing.assert_array_equal(path.steps, run.history["step"])
    np.testing.assert_array_equal(path[3], run.snapshots[3])
    with pytest.raises(TypeError, match=r"give run\.snapshots"):
        ls.Trajectory(run)


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one checkpoint"),
        (None, {}, ValueError, "source holds no arrays"),
        (3, {}, TypeError, "source must be a real"),
        (
            [{"w": np.ones(2)}, {"v": np.ones(2)}],
            {},
            ValueError,
            "checkpoint 1 must have the structure of checkpoint 0",
        ),
        ([{"w": np.ones(2)}, {"w": np.ones(3)}], {}, ValueError, "checkpoint 1.w must have shape"),
        ([{"w": np.arange(2)}], {}, TypeError, "checkpoint 0.w must be a real floating-point array"),
        ([{"w": np.ones(2)}] * 2, {"steps": [1, 1]}, ValueError, "whole numbers that increase"),
        ([{"w": np.ones(2)}] * 2, {"steps": [1, 2.5]}, ValueError, "whole numbers that increase"),
        ([{"w": np.ones(2)}] * 2, {"steps": "all"}, TypeError, "steps must be an array of real numbers"),
        (
            [{"w": np.ones(2)}] * 2,
            {"scalars": {"loss": [1.5]}},
            ValueError,
            r"scalars\['loss'\] must have shape \(2,\)",
        ),
        (["nothing.npz"], {}, StoreError, "no checkpoint at nothing.npz"),
    ],
)
def test_bad_sources_are_named(source, options, error, message):
    with pytest.raises(error, match=message):
        ls.Trajectory(source, **options)


def test_what_does_not_fit_is_named(tmp_path):
    run = recorded(tmp_path / "run.zarr", walk(20, 3))
    other = {**tree_of(walk(20)[0]), "d": np.ones(2)}
    for like in (other, {"w": np.ones(2)}):
        with pytest.raises(ValueError, match="like must be a tree like those in"):
            ls.Trajectory(tmp_path / "run.zarr", like=like)
    with pytest.raises(ValueError, match="snapshots must have the structure of like"):
        subspace.pca_directions(run, like=other)
    with pytest.raises(ValueError, match=r"snapshots\[1\] must have the structure of snapshots\[0\]"):
        subspace.pca_directions([run, ls.Trajectory([other, other])])
    with pytest.raises(ValueError, match="params must have the structure of the origin"):
        ls.Subspace(other, [other]).project(run)
    for index, error in ((3, IndexError), (-4, IndexError), (1.5, TypeError), ("a", TypeError), (True, TypeError)):
        with pytest.raises(error):
            run[index]
    with pytest.raises(ValueError, match="no snapshot in"):
        run[2:2]
    with pytest.raises(KeyError, match="step 15 was not recorded; the nearest one is 10"):
        run.at_step(15)
    with pytest.raises(TypeError, match="a Trajectory already"):
        ls.Trajectory(run)
    with pytest.raises(ValueError, match="read-only"):
        run.steps[0] = 5


# -------------------------------------------------------------------------------------------------- planes of a moment


def test_the_osculating_plane_of_a_helix_holds_its_tangent_and_its_normal():
    time, radius, pitch = np.array([0.0, 0.9, 1.0, 1.1, 3.0]), 2.5, 0.7
    path = [np.float64([radius * np.cos(t), radius * np.sin(t), pitch * t]) for t in time]
    with jax.enable_x64(True):
        plane = osculating_plane([{"x": p} for p in path], 2, steps=time * 10)
    tangent = np.array([-radius * np.sin(1.0), radius * np.cos(1.0), pitch])
    normal = -np.array([np.cos(1.0), np.sin(1.0), 0])
    np.testing.assert_array_equal(plane.origin["x"], path[2])
    np.testing.assert_allclose(plane.directions["x"], [tangent / np.linalg.norm(tangent), normal], atol=2e-3)


def test_the_osculating_plane_of_a_parabola_is_its_plane_at_unequal_steps(tmp_path):
    rng = np.random.default_rng(21)
    a, b, c = rng.normal(size=(3, SIZE))
    steps = [0, 1, 4, 6]
    run = ls.Trajectory([tree_of(a + t * b + t * t * c) for t in steps], steps=steps)
    plane = osculating_plane(run, 2)
    velocity = b + 2 * 4 * c
    assert angle(rows_of(plane.directions), [b, c]) < 0.01
    assert angle(rows_of(plane.directions)[:1], [velocity]) < 0.01
    for index, error, message in (
        (0, ValueError, "1 to 2, got 0"),
        (3, ValueError, "1 to 2, got 3"),
        (1.5, TypeError, "index must be an integer"),
    ):
        with pytest.raises(error, match=message):
            osculating_plane(run, index)
    line = ls.Trajectory([tree_of(a + t * b) for t in (0, 1, 2)])
    with pytest.raises(ValueError, match="straight there"):
        osculating_plane(line, 1)
    with pytest.raises(ValueError, match="stands still"):
        osculating_plane(ls.Trajectory([tree_of(a)] * 3), 1)


# -------------------------------------------------------------------------------------------------- landscape over time


def bowl(params, batch):
    return jnp.mean((batch @ params["c"][0] - 0.5) ** 2) + 0.1 * jnp.sum(params["a"]["k"] ** 2)


BATCH = np.random.default_rng(22).normal(size=(6, 3)).astype("f4")


def loss_of(row):
    tree = tree_of(row, np.float64)
    return np.mean((BATCH.astype("f8") @ tree["c"][0] - 0.5) ** 2) + 0.1 * np.sum(tree["a"]["k"] ** 2)


@pytest.mark.parametrize("follow", [False, True])
def test_the_landscape_over_time(tmp_path, follow):
    matrix = walk(23)
    run = recorded(tmp_path / "run.zarr", matrix)
    directions, _ = subspace.pca_directions(run)
    plane = ls.Subspace(run[-1], directions)
    at = along(run, plane, follow=follow)
    grid = ls.Grid((ls.Axis("alpha", [-0.5, 0.25, 2.0]), ls.Axis("beta", [-1.5, 0.75]), at.axis(4)))
    np.testing.assert_array_equal(grid.axes[2].values, [0, 40, 70, 110])
    landscape = ls.sweep(ls.LossSurface(at, {"train": ls.Objective(bowl, BATCH)}), grid, progress=False)
    basis = rows_of(directions)
    for k, step in enumerate((0, 4, 7, 11)):
        centre = np.zeros(2) if follow else basis @ (matrix[step] - matrix[-1])
        for i, alpha in enumerate(grid.axes[0].values):
            for j, beta in enumerate(grid.axes[1].values):
                expected = loss_of(matrix[step] + (np.array([alpha, beta]) - centre) @ basis)
                assert landscape["train_loss"][i, j, k] == pytest.approx(expected, rel=2e-5)


def test_where_the_path_is_the_surface_has_the_loss_of_the_run(tmp_path):
    matrix = walk(24)
    run = recorded(tmp_path / "run.zarr", matrix)
    plane = ls.Subspace(run[-1], subspace.pca_directions(run)[0])
    at, coords = along(run, plane), plane.project(run)
    surface = ls.LossSurface(at, {"train": ls.Objective(bowl, BATCH)})
    for step, (alpha, beta), row in zip(run.steps, np.asarray(coords), matrix):
        found = surface(jnp.array([alpha, beta, step]))["train_loss"]
        assert float(found) == pytest.approx(loss_of(row), rel=2e-5)


def test_each_step_of_the_landscape_over_time_at_a_tolerance():
    run = ls.Trajectory([tree_of(row) for row in walk(25)])
    at = along(run, ls.Subspace(run[-1], subspace.pca_directions(run)[0]))
    surface = ls.LossSurface(at, {"train": ls.Objective(bowl, BATCH)})
    axes = [ls.Axis.linspace(name, -2, 2, 65) for name in ("alpha", "beta")]
    for step in (0.0, 7.0):
        grid = ls.Grid((*axes, ls.Axis("step", [step])))
        exact, refined = (ls.sweep(surface, grid, tolerance=t, progress=False) for t in (None, 1e-3))
        assert refined.computed.mean() < 0.5
        assert np.abs(refined["train_loss"] - exact["train_loss"]).max() <= 2e-3 * np.ptp(exact["train_loss"])


def test_sharpness_along_a_path_is_a_sweep_over_its_steps(tmp_path):
    """A point function of the step alone: what can be computed of parameters, as one table over steps."""
    matrix = walk(26, 5)
    run = recorded(tmp_path / "run.zarr", matrix)
    at, objective = along(run), ls.Objective(bowl, BATCH)

    def largest_curvature(params):
        return jnp.max(jnp.abs(params["c"][0]))

    grid = ls.Grid((at.axis(),))
    table = ls.sweep(ls.LossSurface(at, objective, ("gradient_norm", largest_curvature)), grid, progress=False)
    np.testing.assert_allclose(table["loss"], [loss_of(row) for row in matrix], rtol=2e-5)
    np.testing.assert_allclose(table["largest_curvature"], [np.abs(tree["c"][0]).max() for tree in run], rtol=1e-6)


def test_grids_that_do_not_fit_the_path_are_refused(tmp_path):
    run = recorded(tmp_path / "run.zarr", walk(27, 4))
    plane = ls.Subspace(run[-1], subspace.pca_directions(run)[0])
    at, xy = along(run, plane), (ls.Axis("alpha", [0.0, 1.5]), ls.Axis("beta", [0.0, 1.5]))
    surface = ls.LossSurface(at, {"train": ls.Objective(bowl, BATCH)})
    with pytest.raises(ValueError, match="needs 3 axes, the last one the step; the grid has 2"):
        ls.sweep(surface, ls.Grid(xy), progress=False)
    with pytest.raises(ValueError, match="step 14 of the axis 'step' was not recorded, the nearest is 10"):
        ls.sweep(surface, ls.Grid((*xy, ls.Axis("step", [0.0, 14.0]))), progress=False)
    with pytest.raises(TypeError, match="plane must be a Subspace"):
        along(run, 3)
    with pytest.raises(TypeError, match="follow must be True or False"):
        along(run, plane, follow=1)
    with pytest.raises(ValueError, match="leave them away"):
        along(run, plane, steps=[1, 2, 3, 4])
    huge = ls.Trajectory(list(run), steps=[2**24, 2**24 + 1, 2**24 + 2, 2**24 + 4])
    with pytest.raises(ValueError, match="float32 does not tell these steps apart"):
        along(huge, plane)
