"""The containers of a pytree as plain data, so that a tree can be made again where only its leaves were stored."""

from typing import Any

import jax
from jaxtyping import PyTree

from landscape._tree import key_name

PLAIN = {dict: "dict", list: "list", tuple: "tuple"}


def described(tree: PyTree) -> Any:
    """The containers, with the numbers of the leaves in the places of the leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    return _described(jax.tree.unflatten(treedef, range(len(leaves))))


def _described(node: Any) -> Any:
    if isinstance(node, int):
        return node
    if node is None:
        return {"kind": "none"}
    children = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda inner: inner is not node)
    named = [[_key(path), _described(child)] for path, child in children]
    return {"kind": PLAIN.get(type(node), "other"), "type": type(node).__name__, "children": named}


def _key(path: Any) -> Any:
    """A key of a dict as it is where JSON can hold it."""
    key = getattr(path[-1], "key", None)
    return key if isinstance(key, str | int) else key_name(path[-1:])


def made(structure: Any, leaves: list[Any]) -> PyTree:
    """The tree again. Dicts, lists and tuples are what they were; of other containers, dicts are made."""
    if isinstance(structure, int):
        return leaves[structure]
    if structure["kind"] == "none":
        return None
    children = [(key, made(child, leaves)) for key, child in structure["children"]]
    if structure["kind"] in ("list", "tuple"):
        values = [child for _, child in children]
        return values if structure["kind"] == "list" else tuple(values)
    return dict(children)


def is_plain(structure: Any) -> bool:
    """Whether all containers are made again as they were."""
    if isinstance(structure, int) or structure["kind"] == "none":
        return True
    return structure["kind"] != "other" and all(is_plain(child) for _, child in structure["children"])
