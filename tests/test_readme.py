"""The README's API block and the pages of the docs run as they stand."""

import re
from pathlib import Path

import jax
import matplotlib
import numpy as np

matplotlib.use("Agg")

from landscape import curvature

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"


def test_a_plain_function_is_swept_in_five_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    exec(compile(code, "README.md", "exec"), scope := {})
    x, y = np.meshgrid(np.linspace(-1, 1, 201), np.linspace(-1, 1, 201), indexing="ij")
    np.testing.assert_allclose(scope["waves"]["value"], np.sin(3 * x) * np.exp(y), atol=1e-6)
    assert (tmp_path / "waves.png").stat().st_size > 10_000


def test_the_fifteen_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), {})
    assert "train_loss" in capsys.readouterr().out
    assert (tmp_path / "train_loss.png").stat().st_size > 10_000
    assert (tmp_path / "surface.zarr").is_dir()


def test_the_page_on_starts_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "which_start.md").read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), "which_start.md", "exec"), {})
    said = capsys.readouterr().out
    assert "minima - saddles + maxima = 1" in said
    assert "share of 66049 runs" in said


def test_the_two_commands_are_there():
    lines = README.read_text().splitlines()
    assert "pip install -e '.[experiments]' && python experiments/surface.py" in lines
    assert "pip install -e '.[test]' && pytest" in lines


def test_the_page_on_choosing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "choosing.md").read_text(), re.DOTALL)
    exec(compile(code, "choosing.md", "exec"), scope := {})
    layers, whole = scope["layers"], curvature.trace(jax.random.key(3), scope["train"], scope["run"].params)
    means, errors = (np.array([float(leaf) for leaf in jax.tree.leaves(part)]) for part in layers)
    assert abs(means.sum() - float(whole.mean)) < 5 * (np.hypot.reduce(errors) + float(whole.sem))
    assert float(scope["rise"]) > 0  # uphill


def test_the_page_on_ways_between_minima_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "between_minima.md").read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), "between_minima.md", "exec"), scope := {})
    assert scope["loss"]["chain"].max() < 0.5 * scope["loss"]["line"].max()
    band = scope["band"]
    np.testing.assert_allclose(np.sort(band.losses[band.is_peak]), [-72.249, -40.665], atol=2e-3)
