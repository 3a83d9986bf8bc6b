"""Five optimizers in one plane: the plane, the losses along the paths, recordings from elsewhere, the figures."""

import dataclasses
import json

import matplotlib

matplotlib.use("Agg")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paths
import pytest
from _lab import Lab, UsageError
from matplotlib import pyplot
from matplotlib.animation import Animation
from scripts import run_script

import landscape as ls

pytestmark = pytest.mark.xdist_group("paths")  # the tests share compiled programs


def mine():
    """A small regression, whose loss NumPy can compute."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 3)).astype("f4")
    data = {"x": x, "y": np.sin(x[:, 0] * 2).astype("f4")}

    def loss(params, batch):
        return (jnp.tanh(batch["x"] @ params["w1"]) @ params["w2"] - batch["y"]) ** 2

    def part(a, b):
        return {key: value[a:b] for key, value in data.items()}

    def init(key):
        first, second = jax.random.split(key)
        return {"w1": jax.random.normal(first, (3, 4)) / 2, "w2": jax.random.normal(second, (4,)) / 2}

    return ls.Problem(
        init, {"train": ls.Objective(loss, part(0, 30)), "test": ls.Objective(loss, part(30, 40))}, name="mine"
    )


PROBLEM = mine()
LAB = Lab(problem=PROBLEM, options={"progress": False})
SMALL = dataclasses.replace(paths.SMOKE, optimizers=("momentum", "sam"), rates=(0.01, 0.1), batch_size=0, film="sam")


@pytest.fixture(scope="module")
def result():
    return paths.run(SMALL, LAB)


def loss_of(params, part="train"):
    data = PROBLEM.objectives[part].data
    w1, w2 = (np.asarray(params[name], np.float64) for name in ("w1", "w2"))
    return np.mean((np.tanh(data["x"].astype("f8") @ w1) @ w2 - data["y"]) ** 2)


def test_the_smoke_run_has_its_table_and_its_pictures(smoke):
    done, out, landscapes = smoke
    assert set(landscapes) == {"plane", "film"}
    assert list(landscapes["plane"].meta["paths"]) == ["heavy ball", "Muon", "SAM"]
    rows = {row["what"]: row["found"] for row in json.loads((out / "findings.json").read_text())}
    for label in landscapes["plane"].meta["paths"]:
        assert float(rows[f"{label}: recorded loss, evaluated again"].split()[-1]) < 1e-5
    assert "random walks" in done.stdout
    names = {"paths.png", "train_test.png", "film.gif"}
    assert names <= {path.name for path in out.iterdir()}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert '"title": "film"' in page
    assert '"name": "step"' in page  # which has a slider, as every third axis


def test_the_losses_along_a_path_are_those_of_its_parameters(result):
    start = PROBLEM.init(jax.random.key(0))
    for path in result["plane"].meta["paths"].values():
        for part in ("train", "test"):
            assert path[f"{part}_loss"][0] == pytest.approx(loss_of(start, part), rel=1e-5)
        np.testing.assert_allclose(path["recorded"], path["loss"], rtol=1e-5)
        np.testing.assert_allclose(path["coords"][0], 0, atol=1e-6)
        assert path["residual"][0] < 1e-6
        inside = np.linalg.norm(path["coords"], axis=1)
        np.testing.assert_allclose(np.hypot(inside, path["residual"]), path["distance"], rtol=1e-3, atol=1e-5)


def test_gradients_are_counted_alike(result):
    for path in result["plane"].meta["paths"].values():
        assert (path["step"][0], path["step"][-1]) == (0, SMALL.steps)


def test_the_film_shows_the_loss_of_the_run_where_the_run_is(result):
    film = result["film"]
    (path,) = film.meta["paths"].values()
    whole = result["plane"].meta["paths"]["SAM"]
    for k, step in enumerate(film.grid.axes[2].values):
        where = np.asarray(path["coords"])[list(path["step"]).index(step)]
        index = [int(np.argmin(np.abs(axis.values - c))) for axis, c in zip(film.grid.axes, where)]
        loss = whole["loss"][list(whole["step"]).index(step)]
        assert film["train_loss"][index[0], index[1], k] == pytest.approx(loss, rel=0.25)  # of the nearest grid point


def test_the_plane_is_that_of_numpy():
    rng = np.random.default_rng(5)
    start = rng.normal(size=(1, 30))
    walks = [
        np.float32(start + np.concatenate([np.zeros((1, 30)), np.cumsum(rng.normal(size=(7, 30)), axis=0)]))
        for _ in "ab"
    ]
    plane, about = paths._common_plane(
        {name: ls.Trajectory([{"w": r} for r in walk]) for name, walk in zip("ab", walks)}
    )
    rows = np.concatenate(walks).astype(np.float64)
    _, singular, right = np.linalg.svd(rows - rows.mean(axis=0))
    np.testing.assert_allclose(about["explained"], singular[:2] ** 2 / np.sum(singular**2), rtol=1e-5)
    found = np.abs(np.asarray(plane.directions["w"]) @ right[:2].T)
    np.testing.assert_allclose(found, np.eye(2), atol=1e-4)
    ways = [walk[-1].astype("f8") - walk[0] for walk in walks]
    cosine = ways[0] @ ways[1] / np.linalg.norm(ways[0]) / np.linalg.norm(ways[1])
    assert about["cosines"]["a and b"] == pytest.approx(cosine, rel=1e-5)


def test_recordings_take_the_place_of_the_runs(tmp_path):
    for name, rate in (("slow", 0.05), ("fast", 0.2)):
        params, optimizer = PROBLEM.init(jax.random.key(1)), optax.sgd(rate)
        state = optimizer.init(params)
        with ls.Recorder(tmp_path / f"{name}.zarr") as recorder:
            for step in range(5):
                loss, gradient = jax.value_and_grad(PROBLEM.objectives["train"])(params)
                recorder(step, params, train_loss=loss)
                updates, state = optimizer.update(gradient, state)
                params = optax.apply_updates(params, updates)
    recordings = tuple(tmp_path / f"{name}.zarr" for name in ("slow", "fast"))
    result = paths.run(dataclasses.replace(SMALL, recording=recordings, film="last"), LAB)
    found = result["plane"].meta["paths"]
    assert list(found) == ["slow", "fast"]
    for name, path in found.items():
        run = ls.Trajectory(tmp_path / f"{name}.zarr")
        np.testing.assert_allclose(path["loss"], [loss_of(tree) for tree in run], rtol=1e-5)
    rows = {what: found for what, _, found in paths.findings(result)}
    assert "learning rates chosen" not in rows
    assert list(result["film"].meta["paths"]) == ["fast"]


def test_figures_come_from_the_landscapes_alone(result):
    with ls.plotting.style("paper"):
        figures = paths.plot(result)
    assert list(figures) == ["paths", "train_test", "film"]
    texts = [text.get_text() for ax in figures["paths"].axes for text in ax.texts]
    assert {"heavy ball", "SAM"} <= set(texts)
    assert isinstance(figures["film"], Animation)
    figures["film"]._draw_was_started = True  # not saved here
    pyplot.close("all")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1}, "--steps must be at least 2, got 1"),
        ({"film_resolution": 2}, "--film-resolution must be at least 3, got 2"),
        ({"optimizers": ()}, "--optimizers must be at least one"),
        ({"optimizers": ("sam", "sam")}, "--optimizers must be at least one, each once"),
        ({"rates": (0.1, 0.0)}, "--rates must be positive"),
        ({"film": "adam"}, "--film must be last, none or one of the runs, got adam"),
        ({"batch_size": 31}, "--batch-size must be at most the examples, got 31"),
    ],
)
def test_bad_settings_name_their_flag_before_any_work(changes, message):
    with pytest.raises(UsageError, match=message):
        paths.run(dataclasses.replace(SMALL, **changes), LAB)


def test_a_plan_trains_nothing(capsys):
    assert paths.run(SMALL, dataclasses.replace(LAB, planning=True)) == {}
    assert "tiles of 9x9" in capsys.readouterr().out


@pytest.mark.slow
def test_the_defaults_on_the_digits(tmp_path):
    done = run_script("paths", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = ls.load(tmp_path / "out" / "plane.zarr").meta["paths"]
    assert list(found) == ["SGD", "heavy ball", "Adam", "Muon", "SAM"]
    for path in found.values():
        assert path["loss"][-1] < 0.1 * path["loss"][0]
        assert path["test_loss"][-1] < 0.1 * path["test_loss"][0]
