"""The command line as a user meets it: what it prints, what it writes, and how it fails."""

import csv
import gc
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import landscape as ls
from landscape import __version__, cli, store
from landscape.cli import main
from landscape.grid import Axis, Grid, Landscape
from landscape.store import Layout, open_run, save

GRID = Grid((Axis("alpha", np.linspace(-1.0, 1.0, 7), "first direction"), Axis("beta", np.linspace(-2.0, 1.0, 11))))
ALPHA, BETA = np.meshgrid(*(axis.values for axis in GRID.axes), indexing="ij")
HEAVY = {"jax", "numpy", "zarr", "matplotlib", "optax", "xarray", "tyro"}


@pytest.fixture
def plane(tmp_path) -> Path:
    """A plane with one NaN, one infinity and one point left out; minimum at alpha = -1, beta = 0.1."""
    loss = np.exp(ALPHA) + 3.0 * (BETA - 0.1) ** 2
    loss[1, 2], loss[3, 4] = np.nan, np.inf
    computed = np.ones(GRID.shape, dtype=bool)
    computed[6, 0] = False
    values = {
        "train_loss": loss.astype(np.float32),
        "gradient": np.stack([np.exp(ALPHA), 6.0 * (BETA - 0.1)], axis=-1),
        "steps": np.arange(77).reshape(GRID.shape) + 5,
    }
    call = {"evaluations": 1234, "seconds": 5.5, "devices": ["cpu:0 cpu"]}
    paths = {"Adam": {"coords": [[-0.5, -1.5], [0.25, -0.75], [0.5, 0.5]]}}
    meta = {"provenance": {"jax": "0.10.2", "precision": "float32"}, "calls": [call], "paths": paths}
    save(Landscape(GRID, values, computed, {}, meta), tmp_path / "plane.zarr")
    return tmp_path / "plane.zarr"


@pytest.fixture
def line(tmp_path) -> Path:
    grid = Grid.line((-0.5, 1.5), num=9)
    t = grid.axes[0].values
    values = {"train_loss": 2.5 + t**2, "test_loss": 3.0 + t**2}
    save(Landscape(grid, values, np.ones(9, dtype=bool)), tmp_path / "line.zarr")
    return tmp_path / "line.zarr"


@pytest.fixture
def unfinished(tmp_path) -> Path:
    """A run that stopped after the first of three tiles."""
    layout = Layout(GRID, {"loss": ((), np.dtype(np.float32))}, (3, 11))
    run = open_run(tmp_path / "unfinished.zarr", {"precision": "float32"}, layout, {})
    run.write(layout, 0, {"loss": np.arange(33, dtype=np.float32) + 2.5})
    return run.path


def failing(capsys, *arguments) -> str:
    """What stderr says of a command that must end with status 2."""
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("landscape: ")
    assert err.count("\n") == 1
    return err


def process(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


# ---------------------------------------------------------------------------------------------------- the process


@pytest.mark.parametrize("arguments", [["--help"], ["plot", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    done = process("-X", "importtime", "-m", "landscape", *arguments)
    assert done.returncode == 0
    assert ("usage: landscape" in done.stdout) or (done.stdout == f"landscape {__version__}\n")
    imported = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert "landscape" in imported
    assert not imported & HEAVY


def test_info_needs_no_jax(plane):
    done = process("-X", "importtime", "-m", "landscape", "info", str(plane))
    assert done.returncode == 0
    imported = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert "zarr" in imported
    assert not imported & {"jax", "matplotlib"}


@pytest.mark.parametrize("arguments", [[], ["look"], ["info"], ["plot", "a.zarr", "--kind", "pie"]])
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: landscape" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(plane):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "landscape", "info", str(plane)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_ends_with_130(plane, capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "load", interrupted)
    assert main(["info", str(plane)]) == 130
    assert "interrupted" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- info


def test_info_tells_axes_extremes_and_provenance(plane, capsys):
    assert main(["info", str(plane)]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert "76 of 77 computed" in text
    assert ["alpha", "7", "in", "[-1,", "1]", "first", "direction"] in rows
    loss = next(row for row in rows if row[:1] == ["train_loss"])
    assert loss == ["train_loss", "float32", "0.367879", "(-1,", "0.1)", "15.1777", "(0.6667,", "-2)", "1", "1"]
    gradient = next(row for row in rows if row[:1] == ["gradient"])
    assert gradient[:6] == ["gradient", "float64", "2", "-12.6", "(-1,", "-2)[1]"]
    assert ["Adam", "3", "points"] in rows
    assert ["jax", "0.10.2"] in rows
    assert "1,234 points in 5.5 s on cpu:0 cpu" in text


def test_info_json_is_standard(plane, capsys):
    assert main(["info", str(plane), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert found["axes"][1] == {"name": "beta", "label": "", "num": 11, "low": -2.0, "high": 1.0}
    assert found["points"] == {"computed": 76, "total": 77}
    loss = found["outputs"]["train_loss"]
    assert (loss["nan"], loss["inf"], loss["dtype"], loss["shape"]) == (1, 1, "float32", [])
    assert loss["min"]["value"] == np.float32(np.exp(-1.0))
    assert loss["min"]["at"] == pytest.approx({"alpha": -1.0, "beta": 0.1})
    assert found["outputs"]["gradient"]["max"]["component"] == [1]
    assert found["outputs"]["steps"]["max"]["value"] == 81
    assert found["paths"] == {"Adam": 3}
    assert found["meta"]["provenance"]["jax"] == "0.10.2"


def test_info_of_an_unfinished_run(unfinished, capsys):
    assert main(["info", str(unfinished)]) == 0
    text = capsys.readouterr().out
    assert "33 of 77 computed (42.9%)" in text
    assert " 2.5 " in text
    assert ["precision", "float32"] in [line.split() for line in text.splitlines()]


def test_info_where_nothing_is_computed_or_finite(tmp_path, capsys):
    open_run(tmp_path / "empty.zarr", {}, Layout(GRID, {"n": ((), np.dtype(np.int32))}, (7, 11)), {})
    assert main(["info", str(tmp_path / "empty.zarr")]) == 0
    assert ["n", "int32", "-", "-", "-", "-", "0", "0"] in [r.split() for r in capsys.readouterr().out.splitlines()]


# -------------------------------------------------------------------------------------------------------- export


def test_export_writes_once(plane, tmp_path, capsys):
    out = tmp_path / "loss.csv"
    assert main(["export", str(plane), str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert (rows[1]["alpha"], float(rows[1]["beta"])) == ("-1.0", pytest.approx(-1.7))
    assert "there already; choose another name, or give --force" in failing(capsys, "export", plane, out)
    out.write_text("old")
    assert main(["export", str(plane), str(out), "--force"]) == 0
    assert len(out.read_text()) > 3


# ---------------------------------------------------------------------------------------------------------- plot


@pytest.mark.parametrize("kind", ["heatmap", "contours", "surface3d"])
def test_plot_of_a_plane(plane, tmp_path, kind):
    out = tmp_path / "pictures" / f"{kind}.png"
    assert main(["plot", str(plane), "--kind", kind, "--out", str(out), "--vmin", "0.25", "--vmax", "9.5"]) == 0
    with Image.open(out) as picture:
        assert picture.text["jax"] == "0.10.2"
        assert picture.text["Run"] == str(plane)
        assert min(picture.size) > 600
        assert len(picture.convert("RGB").getcolors(2**24)) > 50
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")])
def test_plot_of_a_line_in_every_format(line, tmp_path, suffix, start):
    out = tmp_path / f"picture.{suffix}"
    assert main(["plot", str(line), "--out", str(out), "--scale", "log"]) == 0
    assert out.read_bytes().startswith(start)


def test_plot_of_both_losses_is_an_overview(tmp_path, monkeypatch, capsys):
    losses = {"train_loss": np.exp(ALPHA) + 3.0 * BETA**2, "test_loss": np.exp(ALPHA) + 3.0 * (BETA - 0.2) ** 2}
    save(Landscape(GRID, losses, np.ones(GRID.shape, dtype=bool)), tmp_path / "run.zarr")
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "run.zarr"]) == 0
    assert capsys.readouterr().out == "wrote run.png\n"
    assert (tmp_path / "run.png").stat().st_size > 1000


def figure_of(monkeypatch, *arguments):
    """The figure that the command saves."""
    figures = []
    monkeypatch.setattr(cli, "_save_picture", lambda figure, *_: figures.append(figure))
    assert main([str(a) for a in arguments]) == 0
    return figures[0]


def test_a_picture_can_wear_the_doodle_style(plane, monkeypatch):
    plain = figure_of(monkeypatch, "plot", plane, "--output", "train_loss", "--kind", "heatmap")
    drawn = figure_of(monkeypatch, "plot", plane, "--output", "train_loss", "--kind", "heatmap", "--style", "doodle")
    sketched = [figure.axes[0].spines["left"].get_sketch_params() for figure in (plain, drawn)]
    assert sketched[0] is None
    assert sketched[1] is not None


@pytest.mark.parametrize(("suffix", "dpi"), [("png", 300), ("pdf", 72)])
def test_a_doodle_is_as_wavy_as_one_of_the_library(line, tmp_path, monkeypatch, suffix, dpi):
    """matplotlib takes its waves in dots: 1.1 of those of a picture of 150 an inch."""
    saved, seen = Figure.savefig, []

    def spy(figure, *arguments, **options):
        seen.append(figure.axes[0].spines["left"].get_sketch_params()[0])
        return saved(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    assert main(["plot", str(line), "--style", "doodle", "--out", str(tmp_path / f"waves.{suffix}")]) == 0
    assert seen == [pytest.approx(1.1 * dpi / 150)]


def test_each_output_has_a_panel_with_the_paths(plane, monkeypatch):
    figure = figure_of(monkeypatch, "plot", plane, "--output", "train_loss", "steps", "--vmin", "3", "--vmax", "40")
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("first direction", "beta")
        assert axes.collections[0].norm.vmin == 3
        assert axes.collections[0].norm.vmax == 40
        assert any(np.array_equal(drawn.get_xdata(), [-0.5, 0.25, 0.5]) for drawn in axes.lines)


def test_limits_of_a_profile_are_those_of_its_values(line, monkeypatch):
    figure = figure_of(monkeypatch, "plot", line, "--output", "test_loss", "--vmin", "2.75", "--vmax", "6.5")
    assert figure.axes[0].get_ylim() == (2.75, 6.5)


# --------------------------------------------------------------------------------- slices, and what is there already


def test_a_slice_is_at_a_coordinate_or_at_an_index(tmp_path, monkeypatch, capsys):
    cube = _cube(tmp_path)  # z = 1.5, 2.5
    for at, z in (("z=2.5", 2.5), ("z=1", 2.5), ("z=0", 1.5), ("z=1.5e0", 1.5)):
        assert main(["export", str(cube), str(tmp_path / "a.csv"), "--force", "--slice", at]) == 0
        rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
        assert [float(row["loss"]) for row in rows] == [250 + z, 270 + z, 350 + z, 370 + z]
        assert list(rows[0]) == ["x", "y", "loss", "computed"]
    figure = figure_of(monkeypatch, "plot", cube, "--slice", "x=2.0", "y=1", "--out", tmp_path / "a.png")
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [271.5, 272.5])
    out = tmp_path / "b.csv"
    capsys.readouterr()
    assert "'z' has no coordinate 2.25; the nearest is" in failing(capsys, "export", cube, out, "--slice", "z=2.25")
    assert "no axis 'w'; the axes are x, y, z" in failing(capsys, "export", cube, out, "--slice", "w=0")
    assert "cuts 'z' twice" in failing(capsys, "export", cube, out, "--slice", "z=0", "--slice", "z=2.5")
    assert not out.exists()


@pytest.mark.parametrize("at", ["z", "z=", "z=here", "=0.5="])
def test_a_slice_that_makes_no_sense_is_wrong_usage(plane, at, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plot", str(plane), "--slice", at])
    assert "wants AXIS=NUMBER, such as c=0.5 (a coordinate) or c=3 (an index)" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "name"), [("plot", "a.png"), ("export", "a.csv")])
def test_plot_and_export_treat_existing_files_alike(line, tmp_path, capsys, command, name):
    out = tmp_path / name
    target = ["--out", str(out)] if command == "plot" else [str(out)]
    out.write_text("precious")
    assert "there already; choose another name, or give --force" in failing(capsys, command, line, *target)
    assert out.read_text() == "precious"
    assert main([command, str(line), *target, "--force"]) == 0
    assert out.stat().st_size > 20
    capsys.readouterr()
    out.unlink()
    out.mkdir()
    assert "is a directory; give the name of a file" in failing(capsys, command, line, *target, "--force")


class Full:
    """A disk on which no file may grow beyond 2 kB."""

    def __enter__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, self.limits[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg", "json", "csv", "npz", "nc", "h5", "vti", "vtr"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of files that others leave open
def test_a_full_disk_leaves_no_truncated_file(tmp_path, capsys, kind):
    grid = Grid.square(1.0, 41)
    noise = np.random.default_rng(5).normal(size=grid.shape)
    save(Landscape(grid, {"train_loss": noise}, np.ones(grid.shape, dtype=bool)), tmp_path / "noise.zarr")
    out = tmp_path / "out" / f"a.{kind}"
    out.parent.mkdir()
    out.write_text("precious")
    words = ["plot", "--out"] if out.suffix in cli.PICTURES else ["export"]
    with Full():
        err = failing(capsys, words[0], tmp_path / "noise.zarr", *words[1:], out, "--force")
    gc.collect()
    assert "cannot write" in err
    assert out.read_text() == "precious"
    assert list(out.parent.iterdir()) == [out]


# ------------------------------------------------------------------------------------------ the other distribution


def test_the_command_has_a_name_that_no_other_distribution_has():
    scripts = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["loss-atlas"] == scripts["landscape"] == "landscape.cli:main"


def test_the_other_distribution_is_noticed(line, monkeypatch, capsys):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.1" if name == "landscape" else version(name))
    assert main(["info", str(line)]) == 0
    assert "landscape 0.1.1 is installed too" in capsys.readouterr().err
    with pytest.raises(AttributeError, match=r"no attribute 'forest'; .* pip uninstall landscape; pip install"):
        ls.forest  # noqa: B018  (the attribute access is the test)


# -------------------------------------------------------------------------------------------------------- errors


def test_paths_that_are_no_run(plane, tmp_path, capsys):
    assert "found nothing" in failing(capsys, "info", tmp_path / "absent.zarr")
    assert "found a file" in failing(capsys, "plot", plane / "zarr.json")
    assert "without zarr.json" in failing(capsys, "export", tmp_path, tmp_path / "a.csv")
    assert "one array of a run" in failing(capsys, "info", plane / "train_loss")
    (plane / "zarr.json").write_text("{}")
    assert "not one of a landscape" in failing(capsys, "info", plane)
    (plane / "zarr.json").write_text("{")
    assert "cannot read the run store" in failing(capsys, "info", plane)


def test_damage_is_located(plane, capsys):
    chunk = plane / "train_loss" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:15])
    for arguments in (["info", plane], ["plot", plane], ["export", plane, "a.csv"]):
        assert "damaged chunks: train_loss/c/0/0" in failing(capsys, *arguments)


def test_a_lost_array_is_named(plane, capsys):
    for file in (plane / "steps").rglob("*"):
        if file.is_file():
            file.unlink()
    assert "steps" in failing(capsys, "info", plane)


def test_requests_that_cannot_be_met(plane, line, tmp_path, capsys):
    out = tmp_path / "a.png"
    assert "no output 'test'" in failing(capsys, "plot", plane, "--output", "test")
    assert ".png, .pdf, .svg" in failing(capsys, "plot", plane, "--out", "a.gif")
    assert "one number a point" in failing(capsys, "plot", plane, "--output", "gradient", "--out", out)
    assert "1 axis" in failing(capsys, "plot", plane, "--kind", "profile", "--out", out)
    assert "2 axes" in failing(capsys, "plot", line, "--kind", "heatmap", "--out", out)
    assert "choose another --kind" in failing(capsys, "plot", plane, "--kind", "overview", "--vmax", "3")
    assert "no export format 'xlsx'" in failing(capsys, "export", plane, "a.xlsx")
    assert "write .nc or .npz" in failing(capsys, "export", _cube(tmp_path), tmp_path / "a.h5")
    assert not out.exists()


def _cube(folder: Path) -> Path:
    grid = Grid.of(x=[2.0, 3.0], y=[5.0, 7.0], z=[1.5, 2.5])
    x, y, z = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    save(Landscape(grid, {"loss": 100 * x + 10 * y + z}, np.ones(grid.shape, dtype=bool)), folder / "cube.zarr")
    return folder / "cube.zarr"


@pytest.fixture
def verdicts(tmp_path) -> Path:
    """A basin map that is a trainability map too."""
    label = (ALPHA > 0.2).astype(np.int32) + (BETA > 0.4) - 1
    values = {
        "label": label,
        "outcome": np.where(label < 0, 1, 0).astype(np.int32),
        "value": np.where(label < 0, -1.0, 1.0) * (2.5 + ALPHA),
        "converged": label >= 0,
        "train_loss": 2.5 + ALPHA,
    }
    save(Landscape(GRID, values, np.ones(GRID.shape, dtype=bool)), tmp_path / "verdicts.zarr")
    return tmp_path / "verdicts.zarr"


def test_maps_of_verdicts_have_views_of_their_own(verdicts, plane, tmp_path, monkeypatch, capsys):
    from landscape import plotting

    drawn = []
    for kind in ("basins", "trainability"):
        view = getattr(plotting, kind)
        spy = lambda landscape, name, kind=kind, view=view: drawn.append((kind, name)) or view(landscape, name)  # noqa: E731
        monkeypatch.setattr(plotting, kind, spy)
    out = str(tmp_path / "out.png")
    assert main(["plot", str(verdicts), "--force", "--out", out]) == 0
    assert main(["plot", str(verdicts), "--force", "--out", out, "--kind", "trainability"]) == 0
    assert main(["plot", str(verdicts), "--force", "--out", out, "--output", "train_loss"]) == 0
    assert main(["plot", str(plane), "--force", "--out", out]) == 0
    assert drawn == [("basins", "label"), ("trainability", "value")]
    assert main(["plot", str(verdicts), "--force", "--out", out, "--kind", "basins", "--vmin", "0.5"]) == 2
    assert "--kind basins has colours of its own" in capsys.readouterr().err
    assert main(["plot", str(verdicts), "--force", "--out", out, "--kind", "basins", "--output", "label", "value"]) == 2
    assert "--kind basins draws one output, got label, value" in capsys.readouterr().err
