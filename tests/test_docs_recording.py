"""The page on recording: its code is what runs here, on the real frameworks where they are installed."""

import functools
import os
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot

import landscape as ls

DOCUMENT = Path(__file__).parents[1] / "docs" / "recording.md"
pytestmark = pytest.mark.xdist_group("docs_recording")  # the first section is run once for all


THEIRS = pytest.mark.filterwarnings("ignore")  # a framework warns of its own dependencies


@functools.cache
def sections():
    """The python code of each section."""
    parts = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    titled = (part.split("\n", 1) for part in parts)
    return {title: "\n".join(re.findall(r"^```python\n(.*?)^```$", body, re.M | re.S)) for title, body in titled}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Where the first section ran, and its names."""
    folder, here, names = tmp_path_factory.mktemp("recorded"), Path.cwd(), {}
    os.chdir(folder)
    yield_names = exec(compile(sections()["A plain loop"], "recording.md", "exec"), names)
    assert yield_names is None
    yield folder, names
    os.chdir(here)
    pyplot.close("all")


def run(title, plain, *packages):
    """The names that a section leaves behind."""
    for package in packages:
        pytest.importorskip(package, reason="a framework that is no dependency")
    names = dict(plain[1])
    exec(compile(sections()[title], f"recording.md: {title}", "exec"), names)
    return names


def test_a_plain_loop(plain):
    path = plain[1]["run"]
    np.testing.assert_array_equal(path.steps, np.arange(0, 60, 5))
    assert "12 snapshots of 1,210 parameters" in repr(path)
    losses = [float(plain[1]["objective"](tree)) for tree in path]
    np.testing.assert_allclose(path.scalars["train_loss"], losses, rtol=1e-6)
    assert losses[-1] < 0.8 * losses[0]


def test_a_compiled_loop(plain):
    run("In a compiled loop", plain)
    compiled, loop = ls.Trajectory("compiled.zarr"), ls.Trajectory("run.zarr")
    np.testing.assert_array_equal(compiled.steps, [0, 10, 20, 30])
    for step in (0, 10):
        for ours, theirs in zip(*(np.asarray(path.at_step(step)[0]["kernel"]) for path in (compiled, loop))):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_flax(plain):
    run("flax", plain, "flax")


def test_equinox(plain):
    names = run("equinox", plain, "equinox")
    assert names["model"].layers[0].weight.shape == (16, 64)


def test_torch(plain, torch):
    names = run("PyTorch", plain, "torch")
    path = ls.Trajectory("torch.zarr")
    np.testing.assert_array_equal(path.steps, [0, 2])
    weight, bias = path[1]["weight"], path[1]["bias"]
    assert path.scalars["train_loss"][1] == pytest.approx(np.mean((np.ones(64) @ weight.T + bias) ** 2), rel=1e-5)
    assert np.any(weight != names["module"].weight.detach().numpy())


@THEIRS
def test_keras(plain):
    os.environ.setdefault("KERAS_BACKEND", "jax")  # read when it is first imported
    pytest.importorskip("keras", reason="a framework that is no dependency")
    names = run("Keras", plain)
    path = ls.Trajectory("keras.zarr")
    np.testing.assert_array_equal(path.steps, [0, 3, 6])
    assert len(path[0]) == 4
    first, last = (next(iter(path[i].values())) for i in (0, -1))
    assert np.any(first != last)
    assert np.any(last != np.asarray(names["network"].trainable_variables[0].value))


@THEIRS
def test_hugging_face(plain, tmp_path, torch):
    transformers = pytest.importorskip("transformers", reason="a framework that is no dependency")
    pytest.importorskip("accelerate", reason="transformers.Trainer needs it")
    names = run("Hugging Face Trainer", plain)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x, labels=None):
            return {"loss": (self.layer(x)[:, 0] - labels).square().mean()}

    data = [{"x": torch.full((3,), 0.5 * i), "labels": torch.tensor(1.5)} for i in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=tmp_path, max_steps=4, per_device_train_batch_size=2, report_to=[], save_strategy="no", use_cpu=True
    )
    with ls.Recorder(tmp_path / "hf.zarr", every=2) as recorder:
        callbacks = [names["RecordTrainer"](recorder)]
        model = Model()
        transformers.Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train()
    path = ls.Trajectory(tmp_path / "hf.zarr")
    np.testing.assert_array_equal(path.steps, [2, 4])
    np.testing.assert_array_equal(path[1]["layer.weight"], model.layer.weight.detach().numpy())
    assert np.any(path[0]["layer.weight"] != path[1]["layer.weight"])


@THEIRS
def test_lightning(plain, tmp_path, torch):
    lightning = pytest.importorskip("lightning", reason="a framework that is no dependency")
    names = run("Lightning", plain)

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch, index):
            return (self.layer(batch)[:, 0] - 1.5).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = torch.utils.data.DataLoader(torch.ones(8, 3), batch_size=2)
    with ls.Recorder(tmp_path / "pl.zarr") as recorder:
        model, callback = Model(), names["RecordLightning"](recorder)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        lightning.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[callback], default_root_dir=tmp_path, **quiet
        ).fit(model, loader)
    path = ls.Trajectory(tmp_path / "pl.zarr")
    np.testing.assert_array_equal(path.steps, [1, 2, 3, 4])
    np.testing.assert_array_equal(path[-1]["layer.weight"], model.layer.weight.detach().numpy())


def test_several_runs_and_the_landscape_over_time(plain):
    names = run("Several runs in one picture", plain)
    assert set(names["runs"]) == {"Adam", "SGD"}
    assert len(names["ax"].lines) >= 2
    film = dict(plain[1]) | names
    exec(compile(sections()["The landscape over time"], "recording.md: over time", "exec"), film)
    assert film["over_time"].grid.shape == (15, 15, 4)
    assert Path("film.gif").exists()
    exec(compile(sections()["A table over the steps"], "recording.md: table", "exec"), film)
    table, path = film["table"], names["paths"][0]
    assert list(table.grid.axes[0].values) == [path.steps[i] for i in (0, 4, 7, 11)]
    assert all(np.all(np.isfinite(table[name])) and np.all(table[name] > 0) for name in table)
    assert np.all(table["top_share"] < 1)
