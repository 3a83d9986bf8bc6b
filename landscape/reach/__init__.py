r"""How far a minimum reaches: in most directions, in the worst one, and along the optimizer's own step.

A picture shows one plane of a million dimensions. The questions behind it are about all directions, and each has an
answer with an error: the radius within which a share of directions stays under a rise of the loss (`radius`), the
smallest radius that an ascent finds (`worst_radius`), the largest step along an update before the loss rises
(`critical_sharpness`), how a plane compares with others of its kind (`typical`), and how far a picture should reach
(`auto_extent`). All are sweeps of the point function `maps.Radius`, or of a `LossSurface` over `subspace.Planes`.

>>> import jax, jax.numpy as jnp
>>> from landscape import Objective, reach
>>> bowl = Objective(lambda p, _: 0.5 * jnp.sum(jnp.linspace(1.0, 3.0, 400) * p**2))
>>> found = reach.radius(jax.random.key(0), bowl, jnp.zeros(400), rise=0.25, share=0.9)
>>> bool(found.interval[0] <= found.value <= found.interval[1])
True
>>> round(found.median, 2)                                       # sqrt(2 rise / mean eigenvalue)
0.5
"""

from landscape.reach._extent import Extent, auto_extent
from landscape.reach._quantile import Reach, radius
from landscape.reach._typical import Percentile, PlaneProfile, Typical, typical
from landscape.reach._update import CriticalSharpness, critical_sharpness
from landscape.reach._worst import Ascended, Prediction, WorstRadius, worst_radius

__all__ = [
    "Ascended", "CriticalSharpness", "Extent", "Percentile", "PlaneProfile", "Prediction", "Reach", "Typical",
    "WorstRadius", "auto_extent", "critical_sharpness", "radius", "typical", "worst_radius",
]  # fmt: skip
