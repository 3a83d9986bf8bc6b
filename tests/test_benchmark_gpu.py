"""The benchmark for accelerators: all of it, on the CPU at small sizes, so that it works where somebody has one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_claim_has_a_row_in_one_table_with_the_name_of_the_device(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu", "--quick", "--allow-load", "--json", tmp_path / "gpu.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (entry,) = (e for e in json.loads((tmp_path / "gpu.json").read_text())["entries"] if "table" in e)
    assert entry["device"] == "cpu"
    names = " ".join(row["row"] for row in entry["table"])
    for claim in ("digits", "trainings", "eigenvalues", "ResNet", "language model", "bfloat16"):
        assert claim in names
    assert all(row["rate"] > 0 and row["first"] > 0 for row in entry["table"])
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(entry["table"])
    assert lines[0].startswith("| cpu, jax ")
