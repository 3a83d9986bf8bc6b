"""The README's API block and the pages of the docs run as they stand."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"


def test_the_fifteen_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
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
