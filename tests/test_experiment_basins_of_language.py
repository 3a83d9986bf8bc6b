"""Basins of small language models: what is measured, and that a run goes on where it was."""

import basins_of_language
import numpy as np
import pytest
from scripts import run_script

pytestmark = pytest.mark.slow  # of its minutes, most are spent in the compiler


def test_radii_of_small_models(smoke):
    done, out, _ = smoke
    assert "most-case radius, norms of the filters" in done.stdout
    assert (out / "basins.png").exists()
    config = basins_of_language.SMOKE
    assert len(list(out.glob("training_*.npz"))) == len(config.widths) * config.seeds
    again = run_script("basins_of_language", "--smoke", "--out", out)
    assert again.stdout == done.stdout
    assert "training" not in again.stderr


def test_rows_of_what_was_found():
    names = basins_of_language.NAMES
    grid = basins_of_language.ls.Grid.of(width=[8, 16], seed=range(2))
    values = {name: np.full(grid.shape, 0.5, np.float32) for name in names}
    values["radius"] = np.array([[8.0, 10.0], [14.0, 18.0]], np.float32)
    values["lower"], values["upper"] = 0.98 * values["radius"], 1.01 * values["radius"]
    result = {"basins": basins_of_language.ls.Landscape(grid, values, np.ones(grid.shape, bool))}
    rows = {what: found for what, _, found in basins_of_language.findings(result)}
    assert rows["most-case radius, norms of the filters"] == "18, 32"
    assert rows["most-case over worst-case radius"] == "16 ... 36"
    assert rows["interval of each, width over value"] == "largest 3.0%"
