r"""Affine subspaces of parameter space, and the directions that span them.

A point of a `Subspace` is $\theta(c) = \theta_0 + \sum_i c_i d_i$. The directions are stacked: each leaf has a
leading axis of length `k`.

>>> import jax, jax.numpy as jnp
>>> from landscape import Subspace, subspace
>>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
>>> directions = subspace.random_directions(jax.random.key(0), params)
>>> directions = subspace.filter_normalize(directions, params)
>>> plane = Subspace(params, directions)
>>> plane(jnp.zeros(2))["kernel"].shape
(3, 2)
>>> [round(float(c), 5) for c in plane.project(plane(jnp.array([0.5, -0.25])))]
[0.5, -0.25]
"""

from landscape.moving import Parts, join, split
from landscape.subspace._draws import Draws, Planes
from landscape.subspace._draws import check_draw as check_draw
from landscape.subspace._draws import direction_of as direction_of
from landscape.subspace._draws import size_of as size_of
from landscape.subspace._draws import units_of as units_of
from landscape.subspace._filters import LAYOUTS, Description, FilterAxis, flax_filter_axis, torch_filter_axis
from landscape.subspace._low_rank import LowRank
from landscape.subspace._normalize import describe, filter_normalize, layer_normalize, mask, random_directions
from landscape.subspace._seeded import Seeded
from landscape.subspace._span import (
    gram,
    least_squares,
    orthonormalize,
    pca_directions,
    random_walk_explained,
    random_walks_explained,
)
from landscape.subspace._subspace import Subspace, as_stack, line, plane_through
from landscape.subspace._subspace import check_pair as check_pair
from landscape.subspace._subspace import redrawn as redrawn

__all__ = [
    "Description", "Draws", "FilterAxis", "LAYOUTS", "LowRank", "Parts", "Planes", "Seeded", "Subspace", "as_stack",
    "describe", "filter_normalize", "flax_filter_axis", "gram", "join", "layer_normalize", "least_squares", "line",
    "mask", "orthonormalize", "pca_directions", "plane_through", "random_directions", "random_walk_explained",
    "random_walks_explained", "split", "torch_filter_axis",
]  # fmt: skip
