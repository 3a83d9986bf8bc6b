"""A small experiment on the shared runner, used by the tests of resuming, sharding and exit codes."""

import os
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from _lab import main

import landscape as ls
from landscape.engine import _job


@dataclass(frozen=True)
class Config:
    """Settings."""

    resolution: int = 40
    """Points along each axis."""
    work: int = 2000
    """Size of the sum at every point."""
    curvature: float = 3.0
    """A number that the values depend on."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Ripples:
    """A smooth function whose cost is set by the length of its array."""

    phases: jax.Array

    def __call__(self, coords):
        waves = jnp.sin(self.phases * coords[0]) * jnp.cos(self.phases + coords[1])
        return {"train_loss": jnp.mean(waves**2), "peak": jnp.max(waves)}


def run(config, lab):
    phases = config.curvature * jax.random.normal(jax.random.key(3), (config.work,))
    return {"ripples": lab.sweep("ripples", Ripples(phases), ls.Grid.square(1.0, config.resolution))}


def plot(result):
    return {}


def findings(result):
    return [("smallest value", "positive", f"{result['ripples']['train_loss'].min():.4g}")]


if __name__ == "__main__":
    _job.TILE_SECONDS = float(os.environ.get("TILE_SECONDS", "0.02"))
    main("tiny", Config, Config(resolution=5), run, plot, findings)
