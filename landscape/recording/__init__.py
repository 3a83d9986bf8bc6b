"""Parameters of a run while it trains, on the disk: `Recorder` writes them, `Trajectory` reads them leaf by leaf.

`along` makes the landscape over time of a path, one more axis of the grid; `Course` is a table over its steps;
`osculating_plane` is the plane in which a path moves and turns.

>>> import tempfile, jax.numpy as jnp
>>> import landscape as ls
>>> path = tempfile.mkdtemp() + "/run.zarr"
>>> with ls.Recorder(path, every=2) as recorder:
...     for step in range(5):
...         recorder(step, {"w": jnp.full(3, 0.5 * step)}, train_loss=2.0 - step)
>>> run = ls.Trajectory(path)
>>> len(run), run.steps, run.scalars["train_loss"], run[-1]["w"]
(3, array([0, 2, 4]), array([ 2.,  0., -2.]), array([2., 2., 2.], dtype=float32))
"""

from landscape.recording._course import Course
from landscape.recording._planes import PathSubspace, along, osculating_plane
from landscape.recording._recorder import Recorder
from landscape.recording._trajectory import Trajectory

__all__ = ["Recorder", "Trajectory", "Course", "PathSubspace", "along", "osculating_plane"]
