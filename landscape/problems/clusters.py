r"""Points that repel or bind each other, whose stable arrangements are counted: `lennard_jones`, `thomson`.

The energy is a sum over pairs at distance $r$: $4 (r^{-12} - r^{-6})$ for Lennard-Jones atoms (lengths in units of
$\sigma$, energies in units of $\epsilon$), $1 / r$ for electrons on a sphere (Thomson 1904). Neither changes when the
whole is turned (or, for atoms, moved), nor when points trade places: a minimum is a whole family of parameters with
equal energies, and its Hessian has as many zero eigenvalues as there are free motions.

>>> import jax
>>> from landscape.problems import lennard_jones
>>> problem = lennard_jones(5)
>>> start = problem.init(jax.random.key(0))
>>> start["x"].shape, float(problem.objectives["train"](start)) < 100.0
((5, 3), True)
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape import _tree
from landscape.objective import Objective, Problem

LENNARD_JONES_MINIMA: Mapping[int, tuple[float, ...]] = {7: (-16.505384, -15.935043, -15.593211, -15.533060)}
"""Energies of all minima by number of atoms, to six decimals (Hoare & McInnes 1976; Tsai & Jordan 1993)."""

THOMSON_MINIMA: Mapping[int, tuple[float, ...]] = {16: (92.911655, 92.920354)}
"""Energies of all minima by number of points, to six decimals (Erber & Hockney 1991, J. Phys. A 24)."""


def lennard_jones(num_atoms: int = 7, *, radius: float | None = None, min_distance: float = 0.8) -> Problem:
    """A cluster of atoms with the Lennard-Jones energy, in reduced units.

    A minimum has six zero eigenvalues, three shifts and three turns. The minima of seven atoms are in
    `LENNARD_JONES_MINIMA`.

    Args:
        num_atoms: number of atoms, at least 2.
        radius: the initial positions are uniform in a ball of this radius, `0.8 num_atoms^(1/3)` by default: close
            enough to relax into one cluster.
        min_distance: atoms nearer to each other than this are drawn again (up to 64 times, then the farthest draw
            is kept), because the energy of overlapping atoms is beyond any step size; 0 leaves them.

    Returns:
        Problem with parameters `{"x": (num_atoms, 3)}`, in units of sigma.

    Raises:
        TypeError: `num_atoms` is not an integer.
        ValueError: fewer than 2 atoms; a radius that is not positive or a distance that is negative.
    """
    _tree.check_count("num_atoms", num_atoms, 2)
    radius = 0.8 * num_atoms ** (1 / 3) if radius is None else radius
    if not (0 < radius < np.inf and 0 <= min_distance < np.inf):
        raise ValueError(f"needs radius > 0 and min_distance >= 0, got {radius} and {min_distance}")

    def init(key: Array) -> dict[str, Array]:
        return {"x": _apart_in_ball(key, num_atoms, radius, min_distance)}

    loss_fn = _over_pairs(_lennard_jones_energy, None, num_atoms)
    return Problem(init, {"train": Objective(loss_fn)}, name=f"Lennard-Jones {num_atoms}")


def _lennard_jones_energy(square: Array) -> Array:
    attraction = square**-3
    return 4 * attraction * (attraction - 1)


def thomson(num_points: int = 16) -> Problem:
    """Electrons on the unit sphere (Thomson's problem), with the sum of inverse distances as energy.

    The parameters are any vectors in space; each is divided by its length first, so the energy does not depend on
    lengths. A minimum has `num_points + 3` zero eigenvalues: the lengths, and three turns. The minima of 16 points
    are in `THOMSON_MINIMA`.

    Args:
        num_points: number of points, at least 2.

    Returns:
        Problem with parameters `{"x": (num_points, 3)}` that start uniformly on the sphere.

    Raises:
        TypeError: `num_points` is not an integer.
        ValueError: fewer than 2 points.
    """
    _tree.check_count("num_points", num_points, 2)

    def init(key: Array) -> dict[str, Array]:
        return {"x": _on_sphere(jax.random.normal(key, (num_points, 3)))}

    loss_fn = _over_pairs(_inverse_distance, _on_sphere, num_points)
    return Problem(init, {"train": Objective(loss_fn)}, name=f"Thomson {num_points}")


def _on_sphere(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _inverse_distance(square: Array) -> Array:
    return square**-0.5


@lru_cache
def _over_pairs(
    energy: Callable[[Array], Array], place: Callable[[Array], Array] | None, count: int
) -> Callable[..., Array]:
    """The sum of an energy, a function of the squared distance, over all pairs of points.

    The same object in every call, so that problems of one size share their compiled programs.
    """
    first, second = np.triu_indices(count, 1)

    def loss_fn(params: Mapping[str, Array], _: None) -> Float[Array, ""]:
        x = params["x"] if place is None else place(params["x"])
        return jnp.sum(energy(jnp.sum((x[first] - x[second]) ** 2, axis=-1)))

    return loss_fn


def _apart_in_ball(
    key: Array, count: int, radius: float, min_distance: float, num_tries: int = 64
) -> Float[Array, "count 3"]:
    """Points drawn one after the other, uniformly in a ball where no earlier point is near."""
    tries = _in_ball(key, (count, num_tries), radius)

    def place(placed: Array, tried: tuple[Array, Array]) -> tuple[Array, None]:
        index, candidates = tried
        distances = jnp.linalg.norm(candidates[:, None] - placed[None], axis=-1)
        nearest = jnp.min(jnp.where(jnp.arange(count)[None] < index, distances, jnp.inf), axis=1)
        fits = nearest >= min_distance
        chosen = jnp.where(fits.any(), jnp.argmax(fits), jnp.argmax(nearest))
        return placed.at[index].set(candidates[chosen]), None

    return jax.lax.scan(place, jnp.zeros((count, 3), tries.dtype), (jnp.arange(count), tries))[0]


def _in_ball(key: Array, shape: tuple[int, ...], radius: float) -> Float[Array, "*shape 3"]:
    """Uniform points in a ball: a direction, and the cube root of a uniform number as distance."""
    for_direction, for_distance = jax.random.split(key)
    x = jax.random.normal(for_direction, (*shape, 3))
    distance = radius * jnp.cbrt(jax.random.uniform(for_distance, (*shape, 1)))
    return distance * x / jnp.linalg.norm(x, axis=-1, keepdims=True)
