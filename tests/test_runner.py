"""The shared runner: settings and findings that belong together, the row of changed settings, points at a time."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import _runner
import numpy as np
import pytest
from _runner import Flags, Lab, UsageError, settings_rows

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
