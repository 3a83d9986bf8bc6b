"""The code of `docs/bridges.md` as it stands there, with small sizes."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import landscape as ls

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "bridges.md"
SIZES = ("COUNT, EPOCHS, POINTS = 500, 10, 25", "COUNT, EPOCHS, POINTS = 100, 1, 2")


def blocks():
    """Blocks of Python by the first word that they import or assign; those marked `py` are no whole programs."""
    return re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)


def run(code, names):
    exec(compile(code.replace(*SIZES), DOCUMENT.name, "exec"), names)


def test_pytorch_and_checkpoints(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks()[:4]:
        run(code, names)
    assert names["problem"].difference < 1e-4
    assert list(names["head"].params) == ["8.weight", "8.bias"]
    names["model"].eval()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(names["model"](names["x"]), names["y"])
    np.testing.assert_allclose(names["problem"].objectives["train"](names["problem"].params), expected, rtol=1e-5)
    maps = [names[name]["train_loss"] for name in ("frozen", "recalibrated", "batch_statistics")]
    assert all(np.all(np.isfinite(one)) for one in maps)
    assert not np.allclose(maps[0], maps[1])
    assert not np.allclose(maps[1], maps[2])
    twice = jax.tree.map(lambda one, two: np.allclose(2 * one, two[1]), names["params"], names["stack"])
    assert all(jax.tree.leaves(twice))


@pytest.mark.parametrize(
    ("library", "block", "name"), [("haiku", 4, "haiku"), ("flax", 5, "nnx"), ("equinox", 6, "eqx")]
)
def test_recipes_of_jax_libraries(library, block, name):
    pytest.importorskip(library, reason="an optional library")
    import jax.numpy as jnp
    import optax

    train, _ = ls.problems.mnist5k()
    images = {part: jnp.asarray(train[part][:40]) for part in ("x", "y")}
    names = {"jax": jax, "ls": ls, "optax": optax, "train": train, "images": images, "COUNT": 40}
    run(blocks()[block], names)
    objective, params = names[f"{name}_objective"], names[f"{name}_params"]
    values = objective.per_example(params)
    assert values.shape == (40,)
    assert 1 < np.mean(values) < 5  # of ten classes, untrained: about log(10)
    leaves = {"haiku": 4, "nnx": 2, "eqx": 1}[name]
    assert len(jax.tree.leaves(params)) == leaves
    surface = ls.LossSurface(ls.Subspace(params, ls.subspace.random_directions(jax.random.key(0), params)), objective)
    assert np.ptp(ls.sweep(surface, ls.Grid.square(0.5, 2), batch=1, progress=False)["loss"]) > 1e-4
