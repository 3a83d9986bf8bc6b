"""Checks that need an accelerator: `pytest -m gpu -n 0`."""

import jax
import numpy as np
import pytest
from test_engine import GRID, _network, bowl, bowl_in_numpy

import landscape as ls

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="there is no accelerator here"),
]


def test_bowl_equals_the_closed_form():
    result = ls.sweep(bowl(), GRID)
    np.testing.assert_allclose(result["loss"], bowl_in_numpy(), rtol=2e-6, atol=2e-7)
    assert "cpu" not in result.meta["calls"][0]["devices"][0]


def test_surface_agrees_with_the_cpu_in_full_single_precision():
    on_gpu = ls.sweep(_network(), ls.Grid.square(0.7, 33))
    on_cpu = ls.sweep(_network(), ls.Grid.square(0.7, 33), devices=jax.local_devices(backend="cpu"))
    np.testing.assert_allclose(on_gpu["loss"], on_cpu["loss"], rtol=2e-5)


def test_resuming_is_bit_identical(tmp_path):
    grid = ls.Grid.square(0.7, 33)
    whole = ls.sweep(_network(), grid, batch=64, store=tmp_path / "whole.zarr")
    for shard in ((0, 2), (1, 2)):
        parts = ls.sweep(_network(), grid, batch=64, store=tmp_path / "parts.zarr", shard=shard)
    np.testing.assert_array_equal(parts["loss"], whole["loss"])
