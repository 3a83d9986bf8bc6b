"""The recipe for a new map, followed as it stands in CONTRIBUTING.md."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def path_length():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) < 60
    exec(compile(code, PAGE.name, "exec"), scope := {"__name__": "recipe"})
    return scope["PathLength"]


def test_the_map_of_the_recipe_is_right(path_length, tmp_path):
    bowl = ls.Objective(lambda p, _: 0.5 * jnp.sum(p**2))
    plane = ls.Subspace(jnp.array([0.0, 0.0, 3.0]), jnp.eye(3)[:2])
    grid = ls.Grid.square(2.0, 5)
    found = ls.sweep(path_length(plane, bowl, 0.125, 200), grid, store=tmp_path / "run.zarr")
    x, y = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    np.testing.assert_allclose(found["length"], np.sqrt(x**2 + y**2 + 9), rtol=1e-5)
    np.testing.assert_allclose(found["loss"], 0, atol=1e-9)
    assert ls.load(tmp_path / "run.zarr").computed.all()
    with pytest.raises(ValueError, match="num_steps"):
        ls.sweep(path_length(plane, bowl, 0.125, 0), grid)
