"""Checkpoints read into a tree: safetensors, orbax, npz and flax msgpack, by `load`."""

import difflib
import importlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape import _tree
from landscape.checks import check_flag, warn
from landscape.moving import listed

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".h5", ".keras")
INDEX = ".safetensors.index.json"
ORBAX = ("_METADATA", "manifest.ocdbt")


def load(path: Any, like: Any = None, *, strict: bool = True) -> Any:
    """Read a checkpoint.

    Args:
        path: a file `.safetensors`, `.npz` or `.msgpack` (flax), an index of shards `*.safetensors.index.json`, a
            folder that holds one of them, or a folder of orbax. A list of these becomes a stack: one tree whose leaves
            have a leading axis.
        like: a tree of arrays or `jax.ShapeDtypeStruct`s that says the structure, the shapes, the types and where
            the arrays go (their shardings). Leaves are found by their names, `dense.kernel` in a flat checkpoint being
            `{"dense": {"kernel": ..}}` in a tree. `None` gives what the file holds: a flat dict of safetensors or npz,
            a nested one of msgpack or orbax.
        strict: refuse what the checkpoint has and `like` has not; otherwise it is left aside, with a warning.

    Returns:
        The tree, in NumPy without `like`, in JAX with it.

    Raises:
        FileNotFoundError: there is nothing of that name.
        TypeError: `path` is no path, or the checkpoint holds no numbers.
        ValueError: another kind of file; one that is damaged; with `like`, arrays that are missing, superfluous, or of
            another shape or type: the message names all of them.
    """
    check_flag("strict", strict)
    if isinstance(path, list | tuple):
        if not path:
            raise ValueError("path is an empty list: there is no checkpoint to load")
        return _stacked([load(one, like, strict=strict) for one in path], list(map(str, path)))
    place = _checked_path(path)
    tree = _read(place)
    return tree if like is None else _like(tree, like, str(place), strict)


def _checked_path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be the name of a checkpoint, or a list of them, got {_tree.describe(path)}")
    place = Path(path)
    if not place.exists():
        beside = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        near = difflib.get_close_matches(place.name, beside, n=3)
        raise FileNotFoundError(f"there is no checkpoint {place}{': is it ' + ' or '.join(near) + '?' if near else ''}")
    return place


def _stacked(trees: list[Any], names: list[str]) -> Any:
    for tree, name in zip(trees, names):
        _tree.check_like(tree, trees[0], name, names[0])
    return _tree.stack(trees)


# ------------------------------------------------------------------------------------------------------------- reading


def _read(place: Path) -> Any:
    """The tree of a file or folder, in NumPy."""
    if place.is_dir():
        return _read_folder(place)
    if place.name.endswith(INDEX):
        return _read_shards(place)
    reader = {".safetensors": _read_safetensors, ".npz": _read_npz, ".msgpack": _read_msgpack}.get(place.suffix)
    if reader is None:
        raise ValueError(_unknown_kind(place))
    return reader(place)


def _unknown_kind(place: Path) -> str:
    advice = ""
    if place.suffix in PICKLED:
        advice = (
            "; this kind may run code when it is opened, so it is not read: save the weights as safetensors where they "
            "were made (safetensors.torch.save_file(module.state_dict(), ..)), or load them into the model there"
        )
    return f"{place} is no checkpoint that is known: .safetensors, {INDEX}, .npz, .msgpack or a folder of orbax{advice}"


def _read_folder(place: Path) -> Any:
    for inner in (place, place / "default"):  # of a step of a CheckpointManager
        if any((inner / name).exists() for name in ORBAX):
            return _read_orbax(inner)
    for pattern in (f"*{INDEX}", "*.safetensors", "*.npz", "*.msgpack"):
        found = sorted(place.glob(pattern))
        if len(found) > 1:
            raise ValueError(f"the folder {place} holds {listed([p.name for p in found])}: say which")
        if found:
            return _read(found[0])
    inside = [p.name for p in sorted(place.iterdir())]
    steps = [name for name in inside if (place / name / "_METADATA").exists() or (place / name / "default").exists()]
    if steps:
        raise ValueError(f"the folder {place} holds the steps {listed(steps)}: say which")
    raise ValueError(f"the folder {place} holds no checkpoint that is known, but {listed(inside) or 'nothing'}")


def _damaged(place: Path, error: Exception) -> ValueError:
    said = str(error).strip().split("\n")[0][:200]
    return ValueError(f"{place} cannot be read, it is damaged or cut off: {type(error).__name__}: {said}")


def _needs(module: str, kind: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"reading {kind} needs {module.split('.')[0]}: pip install 'loss-atlas[bridges]'") from error


def _read_safetensors(place: Path) -> dict[str, Any]:
    safetensors = _needs("safetensors", "safetensors")
    _needs("ml_dtypes", "safetensors")  # NumPy learns bfloat16 from it
    numpy = _needs("safetensors.numpy", "safetensors")
    try:
        return numpy.load_file(place)
    except safetensors.SafetensorError as error:
        raise _damaged(place, error) from error


def _read_shards(place: Path) -> dict[str, Any]:
    """Arrays in several files, and an index that says which is where."""
    try:
        where = json.loads(place.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(place, error) from error
    absent = [name for name in files if not (place.parent / name).exists()]
    if absent:
        raise FileNotFoundError(f"{place} names shards that are not there: {listed(absent)}")
    found: dict[str, Any] = {}
    for name in files:
        found |= _read_safetensors(place.parent / name)
    missing = sorted(where.keys() - found.keys())
    if missing:
        raise ValueError(f"the shards of {place} lack {listed(missing)}, which the index names")
    return found


def _read_npz(place: Path) -> dict[str, Any]:
    try:
        with place.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise TypeError(f"{place} holds objects and not only numbers, and these are not read") from error
        raise _damaged(place, error) from error


def _read_msgpack(place: Path) -> Any:
    serialization = _needs("flax.serialization", "flax msgpack")
    try:
        tree = serialization.msgpack_restore(place.read_bytes())
    except Exception as error:  # msgpack has no one class of its own for what is damaged
        raise _damaged(place, error) from error
    if not isinstance(tree, Mapping):
        raise _damaged(place, TypeError(f"it holds {_tree.describe(tree)} and no tree"))
    return tree


def _read_orbax(place: Path) -> Any:
    checkpoint = _needs("orbax.checkpoint", "orbax")
    try:
        with checkpoint.PyTreeCheckpointer() as reader:
            kinds = jax.tree.map(
                lambda _: checkpoint.RestoreArgs(restore_type=np.ndarray), _orbax_structure(reader, place)
            )
            return reader.restore(place.resolve(), args=checkpoint.args.PyTreeRestore(restore_args=kinds))
    except Exception as error:  # of the layers below, which have many
        raise _damaged(place, error) from error


def _orbax_structure(reader: Any, place: Path) -> Any:
    found = reader.metadata(place.resolve())
    found = getattr(found, "item_metadata", found)
    return getattr(found, "tree", found)


# -------------------------------------------------------------------------------------------------------- into a tree


def _like(tree: Any, like: Any, place: str, strict: bool) -> Any:
    """The arrays of a checkpoint in the structure and on the devices of another tree."""
    found = dict(_named_arrays(tree, place))
    wanted = [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(like)]
    if not wanted:
        raise ValueError(f"like holds no arrays, got {type(like).__name__}")
    names = {name for name, _ in wanted}
    superfluous = [name for name in found if name not in names]
    wrong = [*_wrong(found, wanted), *(f"superfluous {name}" for name in superfluous if strict)]
    if wrong:
        leave = " (strict=False leaves superfluous ones aside)" if strict and superfluous else ""
        raise ValueError(f"{place} does not fit: {listed(wrong)}{leave}")
    if superfluous:
        warn(f"{place}: left aside {listed(superfluous)}")
    leaves = [_placed(found[name], leaf) for name, leaf in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named_arrays(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Arrays by dotted names, whatever separates the words of a name."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _tree.key_name(path).replace("/", ".")
        if not hasattr(leaf, "dtype"):
            leaf = np.asarray(leaf)
        if leaf.dtype.kind in _tree.NO_NUMBERS:
            raise TypeError(f"{name} in {place} holds no numbers, but {leaf.dtype}")
        yield name, leaf


def _wrong(found: Mapping[str, Any], wanted: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """What does not fit: missing, another shape, another type."""
    for name, leaf in wanted:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            yield f"missing {name}{f' (there is {near[0]})' if near else ''}"
            continue
        array = found[name]
        if jnp.shape(array) != jnp.shape(leaf):
            yield f"{name} of shape {jnp.shape(array)} and not {jnp.shape(leaf)}"
        elif jnp.dtype(array.dtype) != jnp.result_type(leaf):
            yield f"{name} of type {array.dtype} and not {jnp.result_type(leaf)}"


def _placed(array: Any, leaf: Any) -> Any:
    """On the device, or in the shards, of the leaf that it stands for."""
    sharding = getattr(leaf, "sharding", None)
    return jnp.asarray(array) if sharding is None else jax.device_put(array, sharding)
