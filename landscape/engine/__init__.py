"""The engine: `sweep` evaluates a point function on every point of a grid.

This is the one place that compiles, loops, distributes, saves and resumes. The host loop goes over tiles, blocks of
the grid in C order (`_every_point`), or rounds of points that `adaptive` asks for (`_at_tolerance`);
`_kernel` evaluates points on the devices; `store` keeps what is finished. The answer does not depend on tiles,
devices, order, sharding or resuming.

>>> import jax.numpy as jnp
>>> from landscape import Grid, sweep
>>> bowl = sweep(lambda c: {"loss": c[0] ** 2 + 3.0 * c[1] ** 2}, Grid.square(1.0, 5))
>>> float(bowl["loss"][0, 2]), float(bowl["loss"][2, 0])      # the first index is the first axis
(1.0, 3.0)
"""

from landscape.engine._fingerprint import function_digests as function_digests
from landscape.engine._kernel import Kernel as Kernel
from landscape.engine._kernel import Strategy
from landscape.engine._kernel import default_memory as default_memory
from landscape.engine._progress import Interrupted
from landscape.engine._progress import observed as observed
from landscape.engine._progress import stoppable as stoppable
from landscape.engine._runners import Local as Local
from landscape.engine._sweep import Devices as Devices
from landscape.engine._sweep import Plan, plan, sweep
from landscape.engine._tuning import Timing as Timing
from landscape.engine._tuning import choices as choices
from landscape.engine._tuning import forgotten as forgotten
from landscape.engine._tuning import measure as measure

__all__ = ["Interrupted", "Plan", "Strategy", "plan", "sweep"]
