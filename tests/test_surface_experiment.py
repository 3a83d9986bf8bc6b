"""The main job: every plane, the table, the figures, a user's own model, and resuming."""

import dataclasses
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import surface
from _lab import Lab, UsageError
from scripts import run_script

import landscape as ls

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("surface")  # the tests share compiled programs

MY_MODEL = """
import jax.numpy as jnp, numpy as np
import landscape as ls

def loss(params, batch):  # with a penalty, so that it rises in every direction
    return (jnp.tanh(batch["x"] @ params["w1"]) @ params["w2"] - batch["y"]) ** 2 + 0.02 * jnp.sum(params["w1"] ** 2)

def factory():
    x = np.random.default_rng(4).normal(size=(90, 3)).astype("float32")
    data = {"x": x, "y": np.sin(x[:, 0] * 2)}
    part = lambda a, b: {k: v[a:b] for k, v in data.items()}
    init = lambda key: {"w1": ls.subspace.random_directions(key, jnp.ones((3, 5)), 1)[0] / 2, "w2": jnp.full(5, 0.3)}
    objectives = {"train": ls.Objective(loss, part(0, 60)), "test": ls.Objective(loss, part(60, 90))}
    return ls.Problem(init, objectives, name="mine")

def trained():
    problem = factory()
    import dataclasses, jax
    return dataclasses.replace(problem, params=problem.init(jax.random.key(5)))

def broken():
    raise RuntimeError("my own mistake")
"""


def trained(config, *arguments):
    return surface.train(surface.Settings.of(config), *arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "my_model.py"
    path.write_text(MY_MODEL)
    return path


@pytest.fixture(scope="module")
def lab(model):
    from _lab import load_problem

    return Lab(problem=load_problem(f"{model}:factory"), options={"progress": False})


SMALL = surface.Config(resolution=7, steps=24, snapshots=6, metrics=("sem", "gradient", "off_plane"))


@pytest.fixture(scope="module")
def result(lab):
    every = ("filter", "layer", "none", "pca", "three-point")
    return surface.run(surface.Config(**{**vars(SMALL), "directions": every}), lab)


def test_every_plane_is_swept_with_all_outputs_in_one_pass(result):
    assert list(result) == ["filter", "layer", "none", "pca", "three-point"]
    for landscape in result.values():
        assert landscape.grid.shape == (7, 7)
        assert {"train_loss", "test_loss", "train_loss_sem", "test_gradient", "train_off_plane"} <= set(landscape)
        assert len(landscape.meta["calls"]) == 1


def test_centre_equals_the_trained_loss_to_the_bit(result):
    for landscape in result.values():
        centre = landscape.grid.index(0.0)
        np.testing.assert_array_equal(landscape.coords(centre), 0.0)
        for name, loss in landscape.meta["surface"]["trained"].items():
            assert landscape[f"{name}_loss"][centre] == np.float32(loss)


def test_random_planes_of_a_model_reach_to_where_the_loss_has_risen(result):
    """The rise at the border is that of the rule, which the figure says; planes along a path go by the path."""
    for kind in ("filter", "layer", "none"):
        landscape = result[kind]
        ends = np.abs([axis.values[[0, -1]] for axis in landscape.grid.axes])
        assert np.all(ends == ends[0, 0])
        loss, said = landscape["train_loss"], landscape.meta["surface"]["extent"]
        assert said.startswith(f"drawn to {ends[0, 0]:g}, where the training loss has ")
        level = float(said.split(" to ")[-1].split(",")[0])
        border = np.concatenate([loss[0], loss[-1], loss[:, 0], loss[:, -1]])
        assert np.median(border) == pytest.approx(level, rel=0.8)  # the border is a square, and not a circle
    assert "extent" not in result["pca"].meta["surface"]


def test_an_extent_that_is_given_is_taken(lab):
    config = dataclasses.replace(SMALL, directions=("none",), metrics=(), extent=0.25)
    landscape = surface.run(config, lab)["none"]
    assert landscape.grid.axes[0].values[-1] == 0.25
    assert "extent" not in landscape.meta["surface"]


def test_the_trained_loss_is_that_of_the_parameters(result, lab):
    run = trained(SMALL, lab, lab.problem, 0)
    for name, objective in lab.problem.objectives.items():
        w1, w2 = np.asarray(run.params["w1"], float), np.asarray(run.params["w2"], float)
        misses = np.tanh(objective.data["x"] @ w1) @ w2 - objective.data["y"]
        expected = np.mean(misses**2) + 0.02 * np.sum(w1**2)
        np.testing.assert_allclose(result["filter"].meta["surface"]["trained"][name], expected, rtol=1e-5)


def test_a_plane_through_other_parameters_is_noticed(lab, monkeypatch):
    """The reference is that of the trained parameters, wherever the plane lies."""
    usual = surface.plane_of

    def beside(*arguments):
        plane, grid, about = usual(*arguments)
        return dataclasses.replace(plane, origin=jax.tree.map(lambda leaf: leaf + 0.25, plane.origin)), grid, about

    monkeypatch.setattr(surface, "plane_of", beside)
    config = dataclasses.replace(SMALL, directions=("none",), metrics=())
    result = surface.run(config, lab)
    objective, run = (
        lab.problem.objectives["train"],
        trained(config, lab, lab.problem, config.seed),
    )
    expected, found = next(row[1:] for row in surface.findings(result) if row[0] == "none: train loss at the centre")
    here, shifted = (
        float(jax.jit(lambda o, p: o(p))(objective, p))
        for p in (run.params, jax.tree.map(lambda leaf: leaf + 0.25, run.params))
    )
    assert float(expected.split()[0]) == pytest.approx(here, rel=1e-5)
    assert float(found.split()[0]) == pytest.approx(shifted, rel=1e-5)
    assert f"({shifted - here:+.1e})" in found


def test_the_three_point_plane_passes_through_three_solutions(result, lab):
    plane = result["three-point"]
    corners = np.asarray(plane.meta["surface"]["corners"])
    np.testing.assert_allclose(corners[:2], [[0, 0], [1, 0]], atol=1e-5)
    for axis, (low, high) in zip(plane.grid.axes, zip(corners.min(0), corners.max(0))):
        assert axis.values[0] <= low <= high <= axis.values[-1]


def test_the_path_lies_where_its_losses_say(result):
    landscape = result["pca"]
    path = landscape.meta["paths"]["training path"]
    np.testing.assert_allclose(path["coords"][-1], 0.0, atol=1e-6)
    assert path["residual"][-1] < 1e-5
    assert len(path["loss"]) == len(path["coords"]) == 7
    assert sum(landscape.meta["surface"]["explained"]) <= 1 + 1e-6


def test_findings_name_every_promised_number(result):
    text = "\n".join(" ".join(row) for row in surface.findings(result))
    for words in (
        "loss at the centre",
        "train minimum",
        "test minimum",
        "random walk",
        "distance of the path",
        "gradient in the plane",
    ):
        assert words in text


def test_figures_are_drawn_from_the_saved_result_alone(result, tmp_path):
    saved = {}
    for kind in ("filter", "pca"):
        ls.save(result[kind], tmp_path / f"{kind}.zarr")
        saved[kind] = ls.load(tmp_path / f"{kind}.zarr")
    with ls.plotting.style("paper"):
        figures = surface.plot(saved)
        assert list(figures) == ["filter", "filter_3d", "filter_outputs", "pca", "pca_3d", "pca_outputs", "summary"]
        for name, figure in figures.items():
            paths = ls.plotting.save_figure(figure, tmp_path / name)
            assert sorted(p.suffix for p in paths) == [".pdf", ".png"]
            matplotlib.pyplot.close(figure)


def test_the_hessian_plane_curves_as_its_eigenvalues_say(lab):
    config = surface.Config(directions=("hessian",), resolution=21, extent=0.05, steps=40, snapshots=8)
    landscape = surface.run(config, lab)["hessian"]
    about, loss = landscape.meta["surface"], landscape["train_loss"].astype(np.float64)
    step = 0.05 / 10
    for axis in (0, 1):
        line = loss[:, 10] if axis == 0 else loss[10]
        fitted = np.polyfit((np.arange(21) - 10) * step, line, 4)
        assert 2 * fitted[2] == pytest.approx(about["eigenvalues"][axis], rel=0.02)
    rows = {what: (expected, found) for what, expected, found in surface.findings({"hessian": landscape})}
    assert "eigenvalue, within" in rows["hessian: curvature along axis 1"][0]


def test_a_tolerance_is_reported_and_keeps_the_losses(lab):
    exact = surface.run(surface.Config(resolution=97, steps=40, snapshots=8, extent=1.0, directions=("filter",)), lab)[
        "filter"
    ]
    config = surface.Config(resolution=97, steps=40, snapshots=8, extent=1.0, directions=("filter",), tolerance=1e-2)
    refined = surface.run(config, lab)["filter"]
    assert refined.computed.mean() < 0.5
    for name in ("train_loss", "test_loss"):
        assert np.abs(refined[name] - exact[name]).max() <= refined.error[name]
    rows = {what: found for what, _, found in surface.findings({"filter": refined})}
    assert "of 9,409" in rows["filter: points evaluated"]
    assert "of the points (95 %)" in rows["filter: train_loss, largest error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 2}, "--resolution must be at least 3, got 2"),
        ({"extent": -1.0}, "--extent must be positive and finite, got -1.0"),
        ({"extent": float("nan")}, "--extent must be positive and finite, got nan"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive and finite, got 0.0"),
        ({"tolerance": 1.5}, "--tolerance is a share of the range of a loss, between 0 and 1; got 1.5"),
        ({"snapshots": 0}, "--snapshots must be at least 1, got 0"),
        ({"train_batch": 61}, "--train-batch must be between 1 and the 60 examples, got 61"),
        ({"steps": 1, "directions": ("pca",)}, "--directions pca needs a training path"),
    ],
)
def test_bad_settings_name_their_flag_before_any_work(lab, changes, message):
    with pytest.raises(UsageError, match=message):
        surface.run(dataclasses.replace(SMALL, **changes), lab)


def test_another_model_in_the_same_folder_is_trained_anew(model, tmp_path):
    from _lab import load_problem

    problem = load_problem(f"{model}:factory")
    objective = problem.objectives["train"]
    changed = dataclasses.replace(objective, data={**objective.data, "y": objective.data["y"] * 1.5})
    other = dataclasses.replace(problem, objectives={**problem.objectives, "train": changed})
    runs = [trained(SMALL, Lab(out=tmp_path, problem=p), p, 0) for p in (problem, problem, other)]
    np.testing.assert_array_equal(runs[0].params["w1"], runs[1].params["w1"])
    assert np.any(np.asarray(runs[0].history["train_loss"]) != np.asarray(runs[2].history["train_loss"]))


def test_a_model_without_a_finite_loss_is_drawn_and_described(lab):
    nowhere = ls.Objective(lambda p, b: jnp.sum(p["w"]) * jnp.nan + b, jnp.ones(4))
    problem = ls.Problem(lambda key: {"w": jax.random.normal(key, (3, 2))}, {"train": nowhere}, name="nan")
    result = surface.run(
        surface.Config(resolution=3, directions=("filter",), steps=3), dataclasses.replace(lab, problem=problem)
    )
    assert "none is finite" in str(surface.findings(result))


def test_no_resume_leaves_other_files_alone(tmp_path):
    from _lab.command import _forget

    (tmp_path / "precious.npz").write_text("mine")
    with pytest.raises(UsageError, match="does not hold results of this experiment"):
        _forget(tmp_path, "surface")
    (tmp_path / "config.json").write_text('{"experiment": "surface"}')
    (tmp_path / "my.zarr").mkdir()
    _forget(tmp_path, "surface")
    assert {p.name for p in tmp_path.iterdir()} == {"precious.npz", "config.json", "my.zarr"}


def test_given_parameters_are_not_trained_again(model, capsys):
    from _lab import load_problem

    problem = load_problem(f"{model}:trained")
    lab = Lab(problem=problem, options={"progress": False})
    result = surface.run(surface.Config(resolution=5), lab)
    assert list(result) == ["filter"]
    assert "w1    3x5    1     5        yes    kernel (.., in, out)" in capsys.readouterr().err.splitlines()
    expected = float(jax.jit(lambda o, p: o(p))(problem.objectives["train"], problem.params))
    np.testing.assert_allclose(result["filter"]["train_loss"][2, 2], expected, rtol=1e-6)
    assert surface.findings(result)
    with pytest.raises(UsageError, match="needs a training path of some steps, and there is none"):
        surface.run(surface.Config(directions=("pca",)), lab)


def script(*arguments):
    return run_script("surface", *arguments)


def test_the_script_runs_on_a_users_model_and_resumes(model, tmp_path):
    flags = ("--problem", f"{model}:factory", "--smoke", "--resolution", "7", "--out", tmp_path / "out")
    first = script(*flags)
    assert first.returncode == 0, first.stderr
    assert "filter: train loss at the centre" in first.stdout
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert {
        "filter.zarr",
        "pca.zarr",
        "config.json",
        "findings.json",
        "summary.png",
        "summary.pdf",
        "pca_3d.png",
    } <= files
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["config"]["resolution"] == 7
    again = script(*flags, "--no-figures")
    assert again.stdout == first.stdout
    assert "training mine for" not in again.stderr
    other = script(*flags[:-4], "--resolution", "5", *flags[-2:], "--no-figures")
    assert other.returncode == 3, other.stderr
    assert "grid.alpha" in other.stderr


def test_a_mistake_in_the_users_model_keeps_its_traceback(model, tmp_path):
    done = script("--problem", f"{model}:broken", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "my own mistake" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_the_defaults_on_the_digits(tmp_path):
    done = script("--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    landscape = ls.load(tmp_path / "out" / "filter.zarr")
    assert landscape.grid.shape == (101, 101)
    assert landscape["test_accuracy"][50, 50] > 0.95
    assert jnp.all(landscape.computed)


def test_only_some_parameters_move(tmp_path, capsys):
    """By --trainable; a table of integers is set aside without being told to."""
    start = {"w1": jnp.full((3, 5), 0.3), "w2": jnp.linspace(0.2, 0.7, 5), "order": np.array([4, 2, 0, 1, 3])}

    def loss(params, batch):
        hidden = jnp.tanh(batch["x"] @ params["w1"])[:, params["order"]]
        return (hidden @ params["w2"] - batch["y"]) ** 2

    x = np.random.default_rng(4).normal(size=(30, 3)).astype("float32")
    problem = ls.Problem(
        lambda key: start, {"train": ls.Objective(loss, {"x": x, "y": np.sin(2 * x[:, 0])})}, params=start
    )
    config = dataclasses.replace(surface.SMOKE, trainable="w1", resolution=3, extent=1.0)
    found = surface.run(config, Lab(tmp_path, {"progress": False}, problem))["filter"]
    assert found["train_loss"][1, 1] == pytest.approx(float(problem.objectives["train"](start)), rel=1e-5)
    assert "15 of 25 parameters move" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="set aside.*order"):
        assert set(jax.tree.leaves(surface._parted(surface.SMOKE, problem).params)[0].shape) == {3, 5}
    with pytest.raises(UsageError, match="--trainable.*matches no parameter"):
        surface._parted(dataclasses.replace(config, trainable="lora*"), problem)
