"""Where arrays live that are spread over devices: their `NamedSharding`, kept by what is computed from them.

What the parameters of a model came with is theirs: a product with its Hessian, an eigenvector and a gradient are spread
in the same way, leaf by leaf, so that nothing of the size of the model is ever whole on one device. Places are static:
they are read where arrays are at hand, before a program is traced, and are a part of that program.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

Places = tuple[NamedSharding | None, ...]


def places_of(tree: PyTree) -> Places:
    """The sharding of each leaf; `None` where it is on one device, on the host, or being traced."""
    return tuple(map(_place, jax.tree.leaves(tree)))


def _place(leaf: Any) -> NamedSharding | None:
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):  # ty: ignore[possibly-missing-submodule]
        return None
    place = leaf.sharding
    return place if isinstance(place, NamedSharding) and len(place.device_set) > 1 else None


def kept(tree: PyTree, places: Places, lead: int = 0) -> PyTree:
    """The leaves spread as `places` say, with as many leading axes, of which every device has all."""
    if not any(places):
        return tree
    leaves, structure = jax.tree.flatten(tree)
    spread = [
        x if place is None else jax.lax.with_sharding_constraint(x, led(place, lead))
        for x, place in zip(leaves, places)
    ]
    return jax.tree.unflatten(structure, spread)


def led(place: NamedSharding, lead: int) -> NamedSharding:
    """The sharding of a stack of such arrays."""
    return NamedSharding(place.mesh, PartitionSpec(*(None,) * lead, *place.spec))


def by_compiler(tree: PyTree) -> PyTree:
    """Arrays on meshes of explicit axes as the same arrays on meshes whose axes the compiler spreads by itself.

    Explicit axes are a part of the type of an array, and a contraction over one has to say where its result goes: no
    function that was written for one device does.
    """
    return jax.tree.map(_by_compiler, tree)


def _by_compiler(leaf: Any) -> Any:
    place = _place(leaf)
    if place is None or not isinstance(place.mesh, Mesh) or AxisType.Explicit not in place.mesh.axis_types:
        return leaf
    mesh = Mesh(place.mesh.devices, place.mesh.axis_names, axis_types=(AxisType.Auto,) * len(place.mesh.axis_names))
    return jax.device_put(leaf, NamedSharding(mesh, place.spec))
