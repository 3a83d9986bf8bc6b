"""Data that come in blocks: the same numbers as in memory, one reading for each tile, and loaders that go wrong."""

import collections
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls

NUM, SIZE = 23, 5
GRID = ls.Grid.of(x=[-0.7, 0.2, 1.1], y=[-1.3, 0.4])
POINTS = GRID.points().reshape(*GRID.shape, 2)


def numbers(seed=3):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(NUM, 4)).astype(np.float32), rng.normal(size=NUM).astype(np.float32)
    return {"x": x, "y": y, "w": rng.integers(0, 6, NUM).astype(np.float32)}


DATA = numbers()


def loss_fn(params, batch):
    off = jnp.tanh(batch["x"] @ params["a"]) @ params["b"] - batch["y"]
    return 0.7 * off**2, {"far": jnp.abs(off) > 0.9}


class Loader:
    """Batches of the data; counts how often each is read."""

    def __init__(self, data=DATA, size=SIZE):
        self.data, self.size, self.reads = data, size, collections.Counter()

    def __call__(self):
        for start in range(0, NUM, self.size):
            self.reads[start] += 1
            yield jax.tree.map(lambda x: x[start : start + self.size], self.data)  # noqa: B023


def weight(batch):
    return batch["w"]


def subspace():
    rng = np.random.default_rng(4)
    stack = {"a": rng.normal(size=(3, 4, 6)).astype(np.float32), "b": rng.normal(size=(3, 6)).astype(np.float32)}
    origin = jax.tree.map(lambda x: jnp.asarray(x[0]), stack)
    return ls.Subspace(origin, jax.tree.map(lambda x: jnp.asarray(x[1:]), stack))


def surfaces(outputs=(), weight_fn=None, loader=None):
    """The same surface in memory, batches of SIZE, and over batches that are read."""
    options = {"has_aux": True, "weight_fn": weight_fn}
    held = ls.Objective(loss_fn, jax.tree.map(jnp.asarray, DATA), batch_size=SIZE, **options)
    read = ls.Objective(loss_fn, ls.Batches(loader or Loader()), **options)
    return tuple(ls.LossSurface(subspace(), objective, outputs=outputs) for objective in (held, read))


@pytest.mark.parametrize("weight_fn", [None, weight])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_same_numbers_as_in_memory_losses_without_weights_to_the_bit(weight_fn, batch):
    held, read = (ls.sweep(fn, GRID, batch=batch, progress=False) for fn in surfaces(("gradient",), weight_fn))
    assert sorted(read.values) == sorted(held.values) == ["far", "gradient", "loss"]
    for name in held.values:
        if weight_fn is None and name != "gradient":
            assert np.array_equal(held[name], read[name]), name
        else:  # XLA rounds these terms otherwise in a loop of its own: sums of 23 examples and 5 batches
            size = float(np.abs(held[name]).max())
            assert np.allclose(held[name], read[name], rtol=0, atol=(NUM + 5) * 2.0**-24 * size), name


@pytest.mark.parametrize("weight_fn", [None, weight])
def test_standard_errors_by_numpy(weight_fn):
    _, fn = surfaces(("sem",), weight_fn)
    found = ls.sweep(fn, GRID, batch=1, progress=False)
    w = np.ones(NUM) if weight_fn is None else DATA["w"].astype(float)
    for i, j in np.ndindex(GRID.shape):
        params = jax.tree.map(lambda x: np.asarray(x, float), subspace()(POINTS[i, j]))
        off = np.tanh(DATA["x"] @ params["a"]) @ params["b"] - DATA["y"]
        for name, values in {"loss": 0.7 * off**2, "far": (np.abs(off) > 0.9).astype(float)}.items():
            mean = np.sum(w * values) / w.sum()
            sem = np.sqrt(NUM / (NUM - 1) * np.sum(w**2 * (values - mean) ** 2)) / w.sum()
            assert found[name][i, j] == pytest.approx(mean, rel=2e-6)
            assert found[f"{name}_sem"][i, j] == pytest.approx(sem, rel=4e-6)


def test_data_are_read_once_beforehand_and_once_for_each_tile(tmp_path):
    loader = Loader()
    fn = surfaces(loader=loader)[1]
    plan = ls.plan(fn, GRID, batch=1)
    before = loader.reads[5]
    assert before == 1  # a first batch alone is read more often: for types, checks and timing
    ls.sweep(fn, GRID, batch=1, progress=False)
    assert loader.reads[5] == before + plan.num_tiles == 2


def test_several_objectives_and_what_is_beside_them():
    loader, batches = Loader(), None
    batches = ls.Batches(loader)
    held = ls.Objective(loss_fn, DATA, has_aux=True)
    objectives = {
        "train": ls.Objective(loss_fn, batches, has_aux=True),
        "weighted": ls.Objective(loss_fn, batches, has_aux=True, weight_fn=weight),
        "held": held,
    }
    fn = ls.LossSurface(subspace(), objectives, outputs=(("size", lambda p: jnp.sum(p["b"] ** 2)), "sem"))
    found = ls.sweep(fn, GRID, batch=1, progress=False)
    alone = ls.sweep(ls.LossSurface(subspace(), held, outputs=("sem",)), GRID, batch=1, progress=False)
    assert np.allclose(found["train_loss"], alone["loss"], rtol=2e-6)
    assert np.allclose(found["train_loss_sem"], alone["loss_sem"], rtol=4e-6)
    assert np.array_equal(found["held_loss"], alone["loss"])
    assert not np.allclose(found["weighted_loss"], alone["loss"], rtol=1e-2)
    assert found["size"][1, 1] == pytest.approx(float(np.sum(np.asarray(subspace()(POINTS[1, 1])["b"]) ** 2)))
    assert loader.reads[5] == 3  # the first pass, one for weights, one for the tile, which both objectives share


def test_a_sweep_goes_on_where_it_was_stopped_and_knows_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr("landscape.engine._job.TILE_SECONDS", 0.0)  # tiles of one step
    monkeypatch.setattr("landscape.engine._job.READING_SHARE", 1e9)

    class Failing(Loader):
        def __call__(self):
            if self.reads[5] == 4:  # the first pass and three tiles
                raise OSError("the disk went away")
            yield from super().__call__()

    store, whole = tmp_path / "run", ls.sweep(surfaces()[1], GRID, batch=1, progress=False)
    with pytest.raises(OSError, match="the disk went away"):
        ls.sweep(surfaces(loader=Failing())[1], GRID, batch=1, store=store, progress=False)
    assert 1 <= ls.load(store).computed.sum() <= 3
    loader = Loader()
    again = ls.sweep(surfaces(loader=loader)[1], GRID, batch=1, store=store, progress=False)
    assert np.array_equal(again["loss"], whole["loss"])
    assert loader.reads[5] <= 1 + 5  # what was there is not computed again
    other = {**DATA, "y": DATA["y"] + (np.arange(NUM) == 20).astype(np.float32)}  # in the last batch
    with pytest.raises(ls.PlanMismatch, match="data"):
        ls.sweep(surfaces(loader=Loader(other))[1], GRID, batch=1, store=store, progress=False)


def test_at_a_tolerance():
    _, fn = surfaces()
    found = ls.sweep(fn, ls.Grid.square(0.3, 81), tolerance=1e-2, batch=64, progress=False)
    held, _ = surfaces()
    exact = ls.sweep(held, ls.Grid.square(0.3, 81), batch=64, progress=False)
    span = np.ptp(exact["loss"])
    assert np.max(np.abs(found["loss"] - exact["loss"])) < 2e-2 * span
    assert found.meta["calls"][-1]["evaluations"] < 81**2 / 2


def predict(params, batch):
    return jnp.tanh(batch["x"] @ params["a"]) @ params["b"]


def fisher(objective):
    return ls.curvature.Fisher(predict, objective.data, "gaussian", weight_fn=objective.weight_fn)


def gauss_newton(objective):
    def output_loss(z, batch):
        return (z - batch["y"]) ** 2

    return ls.curvature.GaussNewton(predict, output_loss, objective.data, weight_fn=objective.weight_fn)


@pytest.mark.parametrize("weight_fn", [None, weight])
def test_curvature_by_passes_over_the_data(weight_fn):
    """The matrix of the whole is that of the data in memory; its parts rest on it."""
    held, read = (
        ls.Objective(lambda p, b: loss_fn(p, b)[0], data, weight_fn=weight_fn) for data in (DATA, ls.Batches(Loader()))
    )
    at, key = subspace()(jnp.array([0.3, -0.4])), jax.random.key(5)
    matrix = np.asarray(ls.curvature.hessian(held, at), float)
    scale = np.abs(matrix).max()
    assert np.allclose(ls.curvature.hessian(read, at), matrix, rtol=0, atol=2e-6 * scale)
    top = np.linalg.eigvalsh(matrix)[-1]
    assert float(ls.curvature.eigenpairs(key, read, at, 1).values[0]) == pytest.approx(top, rel=1e-5)
    assert float(ls.curvature.trace(key, read, at).mean) == pytest.approx(np.trace(matrix), abs=1e-5 * scale)
    density = ls.curvature.spectral_density(key, read, at, num_probes=2, num_steps=8)
    theirs = ls.curvature.spectral_density(key, held, at, num_probes=2, num_steps=8)
    assert np.allclose(density.nodes.max(axis=1), theirs.nodes.max(axis=1), rtol=1e-4)
    assert np.allclose(density.average(lambda x: x**2).mean, theirs.average(lambda x: x**2).mean, rtol=1e-4)
    assert np.allclose(density.weights.sum(axis=1), 1, atol=1e-5)
    for make in (ls.curvature.EmpiricalFisher, fisher, gauss_newton):
        ours, theirs = (ls.curvature.product(make(o), at, at) for o in (read, held))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
            assert np.allclose(a, b, rtol=1e-5, atol=1e-6 * float(jnp.abs(b).max()))


def test_an_objective_by_itself():
    objective = ls.Objective(loss_fn, ls.Batches(Loader()), has_aux=True)
    held = ls.Objective(loss_fn, DATA, has_aux=True, batch_size=SIZE)
    at = subspace()(jnp.array([0.3, -0.4]))
    assert objective.num_examples == NUM
    assert float(objective(at)) == float(jax.jit(held)(at))
    assert np.allclose(objective.per_example(at), held.per_example(at), rtol=1e-6)
    loss, slope = objective.value_and_grad(at)
    expected = held.value_and_grad(at)
    assert float(loss) == pytest.approx(float(expected[0]), rel=1e-6)
    assert np.allclose(slope["a"], expected[1]["a"], rtol=1e-5, atol=1e-6)
    assert float(objective.mean(lambda batch: jnp.mean(batch["x"] ** 2))) == pytest.approx(
        np.mean(DATA["x"] ** 2), rel=1e-6
    )
    with pytest.raises(TypeError, match=r"cannot be part of jax.jit, grad or vmap"):
        jax.grad(objective)(at)


# ------------------------------------------------------------------------------------------------ loaders gone wrong


def used(source, **options):
    objective = ls.Objective(lambda p, b: p * b["x"][:, 0], ls.Batches(source), **options)
    objective(jnp.float32(1.5))
    return objective(jnp.float32(1.5))


def cut(data=DATA, sizes=(5, 5, 5, 5, 3)):
    for start, size in zip(np.cumsum((0, *sizes)), sizes):
        yield jax.tree.map(lambda x: x[start : start + size], data)  # noqa: B023


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (cut(), r"can be read only once: pass the function that makes it"),
        (DATA, "takes a function that yields batches"),
        (DATA["x"], "cut arrays into batches by"),
        ("digits", "takes a function that yields batches"),
        (None, "takes a function that yields batches, or what gives them anew"),
        (lambda key: cut(), "make_iterator is called as make_iterator"),
    ],
)
def test_sources_that_are_none(source, match):
    with pytest.raises(TypeError, match=match):
        ls.Batches(source)


def passes(*iterators):
    queue = list(iterators)
    return lambda: queue.pop(0)() if len(queue) > 1 else queue[0]()


ODD = {**DATA, "x": DATA["x"] + (np.arange(NUM) == 21)[:, None].astype(np.float32)}


@pytest.mark.parametrize(
    ("source", "kind", "match"),
    [
        (lambda: 7, TypeError, "must give an iterator of batches, got int 7"),
        (lambda: iter(()), ValueError, "no batch at all"),
        (lambda: iter([{}]), ValueError, "got no leaves"),
        (lambda: iter(["text"]), TypeError, "batch 0 must be an array.*encode text"),
        (lambda: iter([{"x": np.array(["a", "b"])}]), TypeError, r"batch 0\.x must hold numbers"),
        (lambda: iter([{"x": np.float32(3)}]), ValueError, "is one number: its first axis"),
        (lambda: iter([{"x": np.ones((0, 2))}]), ValueError, "at least 1, on their first axes"),
        (lambda: iter([{"x": np.ones((3, 2)), "y": np.ones(2)}]), ValueError, r"got \[2, 3\]"),
        (lambda: iter([{"x": np.ones((3, 2))}, {"x": np.ones((3, 4))}]), ValueError, r"batch 1 holds .*pad rows"),
        (lambda: iter([{"x": np.ones((3, 2))}, {"x": np.ones((3, 2), int)}]), ValueError, "batch 1 holds x int64"),
        (lambda: iter([{"x": np.ones((3, 2))}, {"z": np.ones((3, 2))}]), ValueError, "batch 1 holds z"),
        (lambda: cut(sizes=(5, 4, 5)), ValueError, "batch 1 of 4 examples is not the last one"),
        (passes(cut, lambda: cut(sizes=(5, 5))), ValueError, "ended after 2 of 5 batches"),
        (passes(lambda: cut(sizes=(5, 5)), cut), ValueError, "more than the 2 batches of the first pass"),
        (passes(cut, lambda: cut(ODD)), ValueError, "batch 4 is not the one that the first pass saw.*shuffle=False"),
        (lambda it=cut(): it, ValueError, "ended after 0 of 5 batches.*new iterator each time"),  # noqa: B008
    ],
)
def test_loaders_gone_wrong(source, kind, match):
    with pytest.raises(kind, match=match):
        used(source)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"batch_size": 2}, "batch_size=2 does not go with Batches"), ({"batched": False}, "batched=False")],
)
def test_options_that_do_not_go_with_batches(options, match):
    with pytest.raises(ValueError, match=match):
        used(cut, **options)


def test_weights_are_looked_at_beforehand():
    for bad, match in ((-2.0, "negative, NaN or infinite"), (0.0, "every example the weight 0")):
        objective = ls.Objective(lambda p, b: p * b["y"], ls.Batches(cut), weight_fn=lambda b, bad=bad: bad * b["w"])
        with pytest.raises(ValueError, match=match):
            ls.sweep(ls.LossSurface(lambda c: c[0], objective), ls.Grid.of(t=[0.5]), progress=False)


def test_what_takes_no_batches_says_so():
    objective = ls.Objective(lambda p, b: p * b["y"], ls.Batches(cut))
    with pytest.raises(TypeError, match=r"has its data in Batches, which LossSurface .* in memory: collect them"):
        ls.train(objective, optax.sgd(0.1), jnp.float32(1.0), num_steps=1)
    grid = ls.Grid.of(t=[0.5, 0.7])
    with pytest.raises(TypeError, match="cannot be part of jax.jit"):
        ls.sweep(lambda c: objective(c[0]), grid, progress=False)
    fn = ls.LossSurface(lambda c: c[0], objective, outputs=("gradient_norm",))
    with pytest.raises(ValueError, match="'gradient_norm' takes the whole gradient"):
        ls.sweep(fn, grid, progress=False)

    class Pool:
        def submit(self, fn, *arguments):
            raise AssertionError

    with pytest.raises(ValueError, match="executor= sends the data"):
        ls.sweep(ls.LossSurface(lambda c: c[0], objective), grid, executor=Pool(), progress=False)


def test_losses_of_batches_that_interact_are_warned_of():
    objective = ls.Objective(lambda p, b: p * b["y"] / jnp.std(b["y"]), ls.Batches(cut))
    with pytest.warns(UserWarning, match="depends on how the data are cut into batches"):
        ls.curvature.hvp(objective, jnp.float32(1.5), jnp.float32(1.0))


def test_a_loader_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch.utils.data import DataLoader, TensorDataset

    dataset = TensorDataset(torch.from_numpy(DATA["x"]), torch.from_numpy(DATA["y"]))
    objective = ls.Objective(lambda p, b: (b[0] @ p - b[1]) ** 2, ls.Batches(DataLoader(dataset, batch_size=SIZE)))
    p = np.array([0.3, -0.4, 0.5, 1.1])
    assert float(objective(jnp.asarray(p, jnp.float32))) == pytest.approx(
        np.mean((DATA["x"] @ p - DATA["y"]) ** 2), rel=1e-6
    )
    shuffled = ls.Objective(lambda p, b: b[1] * p, ls.Batches(DataLoader(dataset, batch_size=SIZE, shuffle=True)))
    with pytest.raises(ValueError, match="is not the one that the first pass saw"):
        shuffled(jnp.float32(1.5))


def test_a_loader_of_grain():
    grain = pytest.importorskip("grain.python", reason="grain is not installed")
    rows = [{"x": DATA["x"][i], "y": DATA["y"][i]} for i in range(NUM)]
    dataset = grain.MapDataset.source(rows).batch(SIZE).to_iter_dataset()
    objective = ls.Objective(lambda p, b: (b["x"] @ p - b["y"]) ** 2, ls.Batches(dataset))
    p = np.array([0.3, -0.4, 0.5, 1.1])
    assert float(objective(jnp.asarray(p, jnp.float32))) == pytest.approx(
        np.mean((DATA["x"] @ p - DATA["y"]) ** 2), rel=1e-6
    )


TEN_GIGABYTES = """
import resource, sys
import jax.numpy as jnp, numpy as np
import landscape as ls

path, rows, size = sys.argv[1], 40_000_000, 400_000
ones = np.memmap(path, np.float32, "r+", shape=(rows, 64))
ones[::rows // 50] = 1.0                  # fifty rows of ones, all others are holes of the file
del ones

def read():
    for start in range(0, rows, size):
        yield np.memmap(path, np.float32, "r", shape=(rows, 64))[start : start + size]

objective = ls.Objective(lambda w, x: jnp.sum(x, axis=1) * w, ls.Batches(read))
found = ls.sweep(ls.LossSurface(lambda c: c[0], objective), ls.Grid.of(w=[0.5, 1.25]), batch=1, progress=False)
print(*found["loss"].tolist(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_ten_gigabytes_take_the_memory_of_a_block(tmp_path):
    path = tmp_path / "x.bin"
    with path.open("wb") as file:
        file.truncate(40_000_000 * 64 * 4)
    done = subprocess.run([sys.executable, "-c", TEN_GIGABYTES, path], capture_output=True, text=True, check=True)
    low, high, gigabytes = map(float, done.stdout.split())
    assert [low, high] == pytest.approx([50 * 64 * w / 40_000_000 for w in (0.5, 1.25)], rel=1e-5)
    assert gigabytes < 1.5, gigabytes
    print(f"peak {gigabytes:.2f} GiB")


def test_a_file_that_is_mapped_into_memory(tmp_path):
    path = tmp_path / "x.bin"
    DATA["x"].tofile(path)

    def read():
        for start in range(0, NUM, SIZE):
            yield {"x": np.memmap(path, np.float32, "r", shape=(NUM, 4))[start : start + SIZE]}

    objective = ls.Objective(lambda p, b: (b["x"] @ p) ** 2, ls.Batches(read))
    p = np.array([0.3, -0.4, 0.5, 1.1])
    assert float(objective(jnp.asarray(p, jnp.float32))) == pytest.approx(np.mean((DATA["x"] @ p) ** 2), rel=1e-6)
