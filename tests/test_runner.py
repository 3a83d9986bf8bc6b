"""The shared runner: settings and findings that belong together, the row of changed settings, points at a time."""

import ast
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from _lab import Lab, UsageError
from _lab import command as _runner
from _lab.command import Flags, settings_rows
from scripts import ROOT, run_script

import landscape as ls
from landscape.adaptive import Labels
from landscape.store import PlanMismatch


@dataclass(frozen=True)
class Config:
    """Settings."""

    slope: float = 2.5
    names: tuple[str, ...] = ("a", "b")


SMOKE = Config(slope=0.5)


def run(config, lab):
    grid = ls.Grid.of(x=np.array([-0.5, 0.25, 1.75]))
    return {"line": ls.Landscape(grid, {"loss": config.slope * grid.axes[0].values}, np.ones(3, bool))}


def findings(result):
    return [("largest", "4.375", f"{result['line']['loss'].max():g}")]


def execute(out, config=Config(), run=run, plot=lambda result: {}, **flags):
    flags = Flags(out, compile_cache=False, **flags)
    return _runner._execute("lines", config, flags, run, plot, findings)


def settings_of(out):
    return json.loads((out / "config.json").read_text())["config"]


def found_in(out):
    return [row["found"] for row in json.loads((out / "findings.json").read_text())]


def stopped(error):
    def run(config, lab):
        raise error

    return run


def test_settings_are_those_of_the_findings_beside_them(tmp_path):
    assert execute(tmp_path) == 0
    assert (settings_of(tmp_path)["slope"], found_in(tmp_path)) == (2.5, ["4.375"])
    assert execute(tmp_path, Config(slope=-3.0)) == 0
    assert (settings_of(tmp_path)["slope"], found_in(tmp_path)) == (-3.0, ["1.5"])


def test_a_run_that_breaks_off_leaves_no_findings_of_another(tmp_path):
    assert execute(tmp_path) == 0
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, Config(slope=7.5), stopped(KeyboardInterrupt()))
    assert settings_of(tmp_path)["slope"] == 7.5
    assert not (tmp_path / "findings.json").exists()


@pytest.mark.parametrize("error", [UsageError("no such thing"), PlanMismatch(Path("line.zarr"), {"slope": (2.5, 7.5)})])
def test_a_run_that_is_refused_changes_nothing(tmp_path, error):
    assert execute(tmp_path) == 0
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(type(error)):
        execute(tmp_path, Config(slope=7.5), stopped(error))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_starting_over_forgets_the_findings_too(tmp_path):
    assert execute(tmp_path) == 0
    with pytest.raises(UsageError):
        execute(tmp_path, run=stopped(UsageError("no such thing")), resume=False)
    assert not (tmp_path / "findings.json").exists()


def test_a_figure_that_fails_loses_no_findings(tmp_path):
    with pytest.raises(ZeroDivisionError):
        execute(tmp_path, plot=lambda result: 1 / 0)
    assert found_in(tmp_path) == ["4.375"]


def test_a_page_stands_beside_the_findings_unless_it_is_not_wanted(tmp_path, capsys):
    pytest.importorskip("plotly", reason="pages need the extra `view`")
    assert execute(tmp_path / "with") == 0
    assert '"label": "loss"' in (tmp_path / "with" / "index.html").read_text(encoding="utf-8")
    assert execute(tmp_path / "without", page=False) == 0
    assert not (tmp_path / "without" / "index.html").exists()
    assert found_in(tmp_path / "without") == ["4.375"]


def test_without_plotly_there_is_no_page_and_no_harm(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert execute(tmp_path) == 0
    assert "no page: a page needs plotly" in "".join(capsys.readouterr())
    assert found_in(tmp_path) == ["4.375"]


def test_the_tiny_configuration_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert execute(None) == 0
    assert execute(None, SMOKE, smoke=True) == 0
    assert {path.parent.name: found_in(path.parent) for path in tmp_path.glob("results/*/findings.json")} == {
        "lines": ["4.375"],
        "lines_smoke": ["0.875"],
    }


def test_settings_that_are_not_the_defaults_are_named():
    assert settings_rows(Config()) == []
    ((_, expected, found),) = settings_rows(replace(Config(), slope=-1.5, names=("c",)))
    assert (expected, found) == ("none", "slope = -1.5, names = ('c',)")
    assert settings_rows(SMOKE, SMOKE)[0][2] == "those of --smoke"
    assert settings_rows(replace(SMOKE, names=()), SMOKE)[0][2] == "those of --smoke, names = ()"


def test_points_at_a_time(monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "cpu")
    assert Lab().at_once(17).options["batch"] == 17
    assert Lab(options={"batch": 5}).at_once(17).options["batch"] == 5
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert Lab().at_once(17, 300).options["batch"] == 300
    assert "batch" not in Lab().at_once(17).options
    assert Lab(options={"batch": "auto", "devices": 2}).at_once(17, 300).options == {"batch": 300, "devices": 2}


def test_a_tolerance_cannot_be_divided_among_shards():
    lab = Lab(options={"shard": (1, 3)})
    with pytest.raises(UsageError, match="--shard needs every point computed, and basins computes as many as"):
        lab.sweep("basins", lambda c: {"label": c[0]}, ls.Grid.square(1.5, 9), tolerance={"label": Labels(1e-3)})


# What is refused before any work


def never(config, lab):
    raise AssertionError("the run began")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"devices": 99}, r"--devices must be between 1 and \d+, the number of local devices, got 99"),
        ({"devices": 0}, "--devices must be between 1 and .*, got 0"),
        ({"batch": 0}, "--batch must be at least 1 point at a time, or auto, got 0"),
        ({"batch": -7}, "--batch must be at least 1 .*, got -7"),
        ({"shard": "2/2"}, "--shard wants i/n with 0 <= i < n"),
        ({"shard": "0/0"}, "--shard wants i/n with 0 <= i < n"),
    ],
)
@pytest.mark.parametrize("plan", [False, True])
def test_flags_that_cannot_be_are_refused_before_the_run(tmp_path, flags, message, plan):
    with pytest.raises(UsageError, match=message):
        execute(tmp_path / "new", run=never, plan=plan, **flags)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_a_file_in_the_way_of_the_folder_is_named_before_the_run(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    message = "is a file; give a folder" if not below else "lies under .*file, which is a file; give a folder"
    with pytest.raises(UsageError, match=message):
        execute(tmp_path / "file" / below, run=never)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--out .*: File name too long; give another folder"):
        execute(tmp_path / ("x" * 300), run=never)


@dataclass(frozen=True)
class Counts:
    """Settings."""

    steps: int = 3
    shift: int = -1
    rates: tuple[float, ...] = (0.1,)
    box: tuple[float, float] | None = None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "--steps must not be negative, got -1"),
        ({"rates": (0.1, np.nan)}, "--rates must be finite, got nan"),
        ({"box": (-np.inf, 1.0)}, "--box must be finite, got -inf"),
    ],
)
def test_settings_that_are_no_numbers_are_refused_before_the_run(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        execute(tmp_path, Counts(**changes), run=never)
    with pytest.raises(AssertionError, match="the run began"):
        execute(tmp_path, Counts(shift=-5, rates=(-0.5,), box=(-1.0, 1.0)), run=never)


# What is remembered


TREE = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": np.int32(4)}


def remembered(lab, key="a", tree=TREE):
    """The arrays, and how often they were computed."""
    calls = []

    def compute():
        calls.append(1)
        return {name: jnp.asarray(value) for name, value in tree.items()}

    found = lab.remember("training_0", key, compute, "training")
    return found, len(calls)


def damaged(content, how):
    at = content.index(b"leaf_1.npy") + 30
    return {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "text": b"no archive",
        "flipped": content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :],
        "one bit of a value": content[: at - 64] + bytes([content[at - 64] ^ 1]) + content[at - 63 :],
    }[how]


def test_what_is_remembered_is_not_computed_again(tmp_path):
    lab = Lab(tmp_path)
    first, _ = remembered(lab)
    again, calls = remembered(lab)
    assert calls == 1  # only to find out its shapes
    for name, value in TREE.items():
        np.testing.assert_array_equal(first[name], value)
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "flipped", "one bit of a value"])
def test_a_damaged_file_is_computed_anew(tmp_path, capsys, how):
    lab, file = Lab(tmp_path), tmp_path / "training_0.npz"
    remembered(lab)
    file.write_bytes(damaged(file.read_bytes(), how))
    found, _ = remembered(lab)
    np.testing.assert_array_equal(found["w"], TREE["w"])
    said = capsys.readouterr().err
    assert "training_0.npz is damaged and not used" in said
    assert said.count("training\n") == 2
    np.testing.assert_array_equal(remembered(lab)[0]["w"], TREE["w"])
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["training_0.npz"]


@pytest.mark.parametrize(
    "other",
    [{**TREE, "w": np.ones((3, 2), np.float32)}, {**TREE, "w": np.ones((2, 3), np.int32)}, {"w": TREE["w"]}],
)
def test_arrays_of_another_shape_or_kind_are_not_used(tmp_path, other):
    remembered(Lab(tmp_path), tree=other)
    found, _ = remembered(Lab(tmp_path))
    assert {name: value.dtype for name, value in found.items()} == {name: value.dtype for name, value in TREE.items()}
    np.testing.assert_array_equal(found["w"], TREE["w"])


def test_an_error_of_the_disk_is_no_damage(tmp_path, monkeypatch):
    remembered(Lab(tmp_path))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("zipfile.is_zipfile", refuse)
    with pytest.raises(PermissionError):
        remembered(Lab(tmp_path))
    assert (tmp_path / "training_0.npz").exists()


def test_a_full_disk_leaves_no_partial_files(tmp_path, monkeypatch):
    def refuse(file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", refuse)
    with pytest.raises(OSError, match="No space left"):
        remembered(Lab(tmp_path))
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_be_read_are_those_of_no_experiment(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UsageError, match="does not hold results of this experiment"):
        execute(tmp_path, run=never, resume=False)


SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))
WITHOUT = [script.stem for script in SCRIPTS if "takes_problem=False" in script.read_text()]


@pytest.mark.parametrize("name", WITHOUT)
def test_experiments_with_problems_of_their_own_refuse_another(name, tmp_path):
    done = run_script(name, "--problem", "mine.py:factory", "--out", tmp_path)
    assert done.returncode == 2
    assert f"{name} has problems of its own; leave --problem away" in done.stderr


def test_every_experiment_without_a_problem_says_so_in_its_help():
    assert len(WITHOUT) >= 15
    for name in WITHOUT:
        doc = ast.get_docstring(ast.parse((ROOT / "experiments" / f"{name}.py").read_text()))
        assert "no --problem" in " ".join(doc.split()) or "of its own" in doc
