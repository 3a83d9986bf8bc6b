"""Checkpoints: what other libraries have written comes back, into the tree that is asked for; damage is named."""

import gc
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from safetensors import numpy as safetensors

import landscape as ls

TREE = {
    "dense": {
        "bias": np.array([0.5, -3.0], ml_dtypes.bfloat16),
        "kernel": np.arange(6, dtype=np.float32).reshape(3, 2),
    },
    "step": np.array(7, np.int32),
}
FLAT = {"dense.bias": TREE["dense"]["bias"], "dense.kernel": TREE["dense"]["kernel"], "step": TREE["step"]}
LIKE = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), TREE)
FLOATS = {name: array for name, array in FLAT.items() if name != "dense.bias"}  # NumPy's own files know no bfloat16


def write_safetensors(folder):
    safetensors.save_file(FLAT, folder / "model.safetensors")
    return folder / "model.safetensors"


def write_shards(folder):
    parts = {"a-1.safetensors": ["dense.bias"], "a-2.safetensors": ["dense.kernel", "step"]}
    for name, held in parts.items():
        safetensors.save_file({key: FLAT[key] for key in held}, folder / name)
    where = {key: name for name, held in parts.items() for key in held}
    index = folder / "a.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def write_msgpack(folder):
    (folder / "model.msgpack").write_bytes(serialization.to_bytes(TREE))
    return folder / "model.msgpack"


def write_orbax(folder):
    checkpoint = pytest.importorskip("orbax.checkpoint", reason="needs orbax")
    with checkpoint.StandardCheckpointer() as writer:
        writer.save(folder / "orbax", jax.tree.map(jnp.asarray, TREE))
    return folder / "orbax"


WRITERS = {"safetensors": write_safetensors, "shards": write_shards, "msgpack": write_msgpack, "orbax": write_orbax}


def assert_equal(ours, theirs):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(np.asarray(ours, np.float64), np.asarray(theirs, np.float64))


@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_written_comes_back(tmp_path, kind):
    place = WRITERS[kind](tmp_path)
    jax.tree.map(assert_equal, ls.bridges.load(str(place)), TREE if kind in ("msgpack", "orbax") else FLAT)
    into = ls.bridges.load(place, LIKE)
    assert jax.tree.structure(into) == jax.tree.structure(LIKE)
    jax.tree.map(assert_equal, into, TREE)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(into))


def test_npz_with_any_separator(tmp_path):
    np.savez(tmp_path / "model.npz", **{name.replace(".", "/"): array for name, array in FLOATS.items()})
    assert set(ls.bridges.load(tmp_path / "model.npz")) == {"dense/kernel", "step"}
    like = {"dense": {"kernel": LIKE["dense"]["kernel"]}, "step": LIKE["step"]}
    assert_equal(ls.bridges.load(tmp_path / "model.npz", like)["dense"]["kernel"], FLAT["dense.kernel"])


def test_a_folder_with_one_checkpoint_is_that_checkpoint(tmp_path):
    write_shards(tmp_path)
    jax.tree.map(assert_equal, ls.bridges.load(tmp_path), FLAT)
    write_msgpack(tmp_path)
    jax.tree.map(assert_equal, ls.bridges.load(tmp_path), FLAT)  # an index comes first


def test_arrays_go_where_those_of_like_are(tmp_path):
    place = write_safetensors(tmp_path)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), TREE)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(ls.bridges.load(place, shapes)))


def test_a_list_is_a_stack(tmp_path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", w=np.full((2,), i + 0.5, np.float32))
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    assert_equal(ls.bridges.load(paths)["w"], np.array([[0.5, 0.5], [1.5, 1.5], [2.5, 2.5]], np.float32))
    assert ls.bridges.load(paths, {"w": jnp.zeros(2)})["w"].shape == (3, 2)
    np.savez(tmp_path / "2.npz", w=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"2\.npz\.w must have shape \(2,\) like .*0\.npz"):
        ls.bridges.load(paths)
    with pytest.raises(ValueError, match="empty list"):
        ls.bridges.load([])


# ------------------------------------------------------------------------------------------------------------ refused


def test_everything_that_does_not_fit_is_named(tmp_path):
    place = write_safetensors(tmp_path)
    like = {
        "dense": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(2)},
        "dance": jnp.zeros(()),
    }
    with pytest.raises(ValueError, match="does not fit") as caught:
        ls.bridges.load(place, like)
    for part in (
        "missing dance",
        "dense.kernel of shape (3, 2) and not (2, 3)",
        "dense.bias of type bfloat16 and not float32",
        "superfluous step",
        "strict=False",
    ):
        assert part in str(caught.value)


def test_superfluous_arrays_are_left_aside_where_asked(tmp_path):
    place = write_safetensors(tmp_path)
    with pytest.warns(UserWarning, match="left aside dense.bias, step"):
        tree = ls.bridges.load(place, {"dense": {"kernel": LIKE["dense"]["kernel"]}}, strict=False)
    assert_equal(tree["dense"]["kernel"], FLAT["dense.kernel"])


@pytest.mark.parametrize("kind", ["safetensors", "msgpack", "npz"])
@pytest.mark.parametrize("keep", [0, 0.6])
def test_a_file_that_is_cut_off_is_damaged(tmp_path, kind, keep):
    np.savez(tmp_path / "model.npz", **FLOATS)
    place = {"safetensors": write_safetensors, "msgpack": write_msgpack}.get(kind, lambda f: f / "model.npz")(tmp_path)
    whole = place.read_bytes()
    place.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ValueError, match=r"model.* cannot be read, it is damaged or cut off"):
        ls.bridges.load(place)


def test_damaged_shards_and_folders(tmp_path):
    index = write_shards(tmp_path)
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names shards that are not there: a-2\.safetensors"):
        ls.bridges.load(index)
    safetensors.save_file({"step": FLAT["step"]}, tmp_path / "a-2.safetensors")
    with pytest.raises(ValueError, match=r"lack dense\.kernel, which the index names"):
        ls.bridges.load(index)
    index.write_text("{")
    with pytest.raises(ValueError, match="damaged or cut off"):
        ls.bridges.load(index)
    index.unlink()
    with pytest.raises(ValueError, match=r"holds a-1\.safetensors, a-2\.safetensors: say which"):
        ls.bridges.load(tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a loop that orbax leaves behind
def test_damaged_orbax(tmp_path):
    place = write_orbax(tmp_path)
    for file in place.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(ValueError, match="orbax cannot be read, it is damaged or cut off"):
        ls.bridges.load(place)
    gc.collect()  # here, where it is ignored


def test_other_files(tmp_path):
    for name in ("model.pt", "model.txt"):
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ValueError, match=r"may run code when it is opened.*safetensors\.torch\.save_file"):
        ls.bridges.load(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"no checkpoint that is known: \.safetensors"):
        ls.bridges.load(tmp_path / "model.txt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*model\.pth: is it model\.pt"):
        ls.bridges.load(tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"holds no checkpoint that is known, but model\.pt, model\.txt"):
        ls.bridges.load(tmp_path)
    with pytest.raises(TypeError, match="path must be the name of a checkpoint"):
        ls.bridges.load(None)
    with pytest.raises(TypeError, match="strict must be True or False"):
        ls.bridges.load(tmp_path / "model.pt", strict="no")


def test_objects_are_not_read(tmp_path):
    np.savez(tmp_path / "words.npz", words=np.array(["a", "b"]))
    with pytest.raises(TypeError, match="words in .* holds no numbers"):
        ls.bridges.load(tmp_path / "words.npz", {"words": jnp.zeros(2)})
    np.savez(tmp_path / "any.npz", any=np.array([None, 1.5], object))
    with pytest.raises(TypeError, match="holds objects and not only numbers"):
        ls.bridges.load(tmp_path / "any.npz")
