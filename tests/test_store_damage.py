"""What disks, people and other versions do to a store: noticed, told apart, named, and never made worse."""

import errno
import json
import math
import os
import shutil
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import landscape as ls
from landscape import store
from landscape.cli import main
from landscape.engine import _job
from landscape.store import PlanMismatch, RunStore, StoreError, _files, _layout, decode, encode

DATA = Path(__file__).parent / "data"
X, Y = np.linspace(-1.5, 1.25, 5), np.array([-2.0, 0.3, 0.75])  # of the stores that version 0.1.0 wrote
GRID = ls.Grid((ls.Axis("x", X, "first direction"), ls.Axis("y", Y)))
LOSS = 2.5 * X[:, None] ** 2 - 0.5 * Y
STEPS = 3 + (X[:, None] > 0) + np.zeros(3, int)


def saddle(c):
    return {"loss": 2.5 * c[0] ** 2 - 0.5 * c[1], "steps": jnp.int32(3) + (c[0] > 0)}


def old(folder, which):
    """A store as version 0.1.0 wrote it: no digests, no seal."""
    shutil.unpack_archive(DATA / f"store_0.1.0_{which}.zip", folder)
    return folder / f"{which}.zarr"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of five tiles, each a row."""
    path, layout = tmp_path_factory.mktemp("finished") / "run.zarr", _job.layout_for

    def tiles_of_a_row(fn, grid, timing):
        full = layout(fn, grid, timing)
        return _layout.Layout(full.grid, full.outputs, (1, full.tile[1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_job, "layout_for", tiles_of_a_row)
        ls.sweep(saddle, GRID, store=path, batch=2)
    return path


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(finished, tmp_path / "run.zarr")


def resume(path):
    return ls.sweep(saddle, GRID, store=path, batch=2)


@pytest.fixture
def saved(tmp_path):
    """A run written by `save`, of two tiles, without JAX."""
    values = {"loss": LOSS, "pair": np.stack([LOSS, STEPS], axis=-1)}
    meta = {"paths": {"a": {"coords": [[0.5, math.nan]]}}}
    ls.save(ls.Landscape(GRID, values, np.ones(GRID.shape, bool), {"loss": 0.25}, meta), tmp_path / "saved.zarr")
    return tmp_path / "saved.zarr"


def assert_right(landscape):
    np.testing.assert_array_equal(landscape.grid.axes[0].values, X)
    np.testing.assert_array_equal(landscape.grid.axes[1].values, Y)
    assert landscape.grid.axes[0].label == "first direction"
    assert landscape.computed.all()
    np.testing.assert_allclose(landscape["loss"], LOSS, rtol=1e-6, atol=1e-6)


def chunks(path):
    return {p: p.read_bytes() for p in path.rglob("c/**/*") if p.is_file()}


def edit(file, change):
    """Change the JSON of a file in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# -------------------------------------------------------------------------------------------------- coordinates


def lose_chunks(axis):
    shutil.rmtree(axis / "c")


def swap_coordinates(axis):
    zarr.open_array(axis)[:] = X[::-1]


def truncate(axis):
    (axis / "c" / "0").write_bytes((axis / "c" / "0").read_bytes()[:11])


def empty_metadata(axis):
    (axis / "zarr.json").write_text("")


@pytest.mark.parametrize("damage", [lose_chunks, shutil.rmtree, swap_coordinates, truncate, empty_metadata])
def test_damaged_coordinates_are_refused_and_written_anew_on_resume(run, damage):
    damage(run / "x")
    with pytest.raises(StoreError, match=r"damaged coordinates: x/.* run the sweep again"):
        ls.load(run)
    before = chunks(run)
    with pytest.warns(UserWarning, match="coordinates of .* are damaged and written anew: x/"):
        assert_right(resume(run))
    assert_right(ls.load(run))
    assert {p: c for p, c in chunks(run).items() if p.parts[-3] != "x"}.items() >= {
        (p, c) for p, c in before.items() if "x" not in p.relative_to(run).parts
    }
    assert len(ls.load(run).meta["calls"]) == 1


@pytest.mark.parametrize("command", ["info", "plot", "export"])
def test_the_commands_show_no_invented_coordinates(saved, tmp_path, capsys, command):
    shutil.rmtree(saved / "x" / "c")
    out = {"info": [], "plot": ["--out", str(tmp_path / "a.png")], "export": [str(tmp_path / "a.csv")]}[command]
    assert main([command, str(saved), *out]) == 2
    assert "damaged coordinates: x/c/0 (missing)" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["old", "new"])
def test_no_flipped_bit_of_a_coordinate_is_believed(tmp_path, saved, version):
    path = old(tmp_path, "finished") if version == "old" else saved
    file = path / "x" / "c" / "0"
    content = file.read_bytes()
    refused = 0
    for bit in range(0, 8 * len(content), 3):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            assert_right(ls.load(path))
        except StoreError:
            refused += 1
    assert refused > 4 * len(content) // 3


def test_no_flipped_bit_anywhere_changes_what_is_loaded(saved):
    files = sorted(p for p in saved.rglob("*") if p.is_file())
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(120):
        file = files[rng.integers(len(files))]
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        try:
            found = ls.load(saved)
        except StoreError:
            refused += 1
        else:
            assert_right(found)
            assert found.error == {"loss": 0.25, "pair": None}
            np.testing.assert_array_equal(found["pair"][..., 1], STEPS)
        file.write_bytes(content)
    assert refused > 40


def destroy(rng, path):
    """One of many things that happen to files; returns what it was."""
    victim = rng.choice(sorted(path.rglob("*")))
    kind = rng.choice(["remove", "truncate", "zero", "flip", "append", "folder", "link", "stray"])
    if kind == "remove" or (kind == "folder" and victim.is_dir()):
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    elif victim.is_dir():
        (victim / "77").write_text("stray")
    elif kind in ("folder", "link"):
        victim.unlink()
        victim.mkdir() if kind == "folder" else victim.symlink_to("nowhere")
    else:
        content = bytearray(victim.read_bytes())
        where = rng.integers(len(content))
        flipped = content[:where] + bytes([content[where] ^ 1 << int(rng.integers(8))]) + content[where + 1 :]
        new = {"truncate": content[:where], "zero": bytes(len(content)), "flip": flipped}
        victim.write_bytes(new.get(kind, content + b"junk"))
    return f"{kind} {victim}"


@pytest.mark.filterwarnings("ignore:.*damaged:UserWarning")
def test_whatever_happens_to_the_files_nothing_is_silently_wrong(run, tmp_path):
    reference, rng = ls.load(run), np.random.default_rng(3)
    outcomes = []
    for _ in range(16):
        broken = tmp_path / "broken.zarr"
        shutil.copytree(run, broken)
        what = destroy(rng, broken)
        for attempt in (ls.load, resume):
            try:
                found = attempt(broken)
            except StoreError:
                outcomes.append("refused")
                continue
            outcomes.append("read")
            assert_same(found, reference, what, all_computed=attempt is resume)
        shutil.rmtree(broken)
    assert outcomes.count("refused") > 5
    assert outcomes.count("read") > 5


def assert_same(found, reference, what, all_computed):
    for axis, old_axis in zip(found.grid.axes, reference.grid.axes):
        np.testing.assert_array_equal(axis.values, old_axis.values, err_msg=what)
    assert found.computed.all() or not all_computed, what  # a tile without its mark is not finished
    for name in reference:
        np.testing.assert_array_equal(found[name][found.computed], reference[name][found.computed], err_msg=what)


# ----------------------------------------------------------------------- metadata, and what keeps it from being read


@pytest.mark.parametrize("name", ["computed", "loss"])
@pytest.mark.parametrize("damage", ["missing", "[]", '{"zarr_format": 3, "node_type": "array"}'])
def test_without_the_metadata_of_an_array_nothing_is_discarded(run, name, damage):
    file, before = run / name / "zarr.json", chunks(run)
    content = file.read_text()
    file.unlink() if damage == "missing" else file.write_text(damage)
    for attempt in (ls.load, resume):
        with pytest.raises(StoreError, match=rf"{name}/zarr.json \({'missing' if damage == 'missing' else 'damaged'}"):
            attempt(run)
    assert chunks(run) == before
    file.write_text(content)
    assert_right(ls.load(run))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("what", ["loss/c/3", "computed/c/1", "x/c", "loss/zarr.json", "run.zarr/zarr.json"])
def test_what_cannot_be_read_is_no_damage(run, monkeypatch, code, what):
    before, read = chunks(run), Path.read_bytes

    def failing(path):
        if what in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        for attempt in (ls.load, resume):
            with pytest.raises(StoreError, match="cannot read"):
                attempt(run)
    assert chunks(run) == before
    assert_right(ls.load(run))


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 TiB"), RuntimeError("can't start new thread")])
def test_a_machine_out_of_memory_or_threads_is_no_damage(run, monkeypatch, error):
    before = chunks(run)

    def failing(array, region):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__getitem__", failing)
        for attempt in (ls.load, resume):
            with pytest.raises(StoreError, match="too little memory|can't start new thread"):
                attempt(run)
    assert chunks(run) == before


@pytest.mark.parametrize("folder", ["computed/c", "loss/c/3"])
def test_a_folder_that_cannot_be_listed_is_no_damage(run, monkeypatch, folder):
    before, scan = chunks(run), os.scandir

    def failing(path):
        if str(path).endswith(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        for attempt in (ls.load, resume):
            with pytest.raises(StoreError, match="permission denied; let this user read it"):
                attempt(run)
    assert chunks(run) == before


def test_all_chunks_are_read_before_any_is_discarded(run, monkeypatch):
    (run / "loss" / "c" / "0" / "0").write_bytes(b"")
    before, read = chunks(run), Path.read_bytes

    def failing(path):
        if "loss/c/4" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(StoreError, match="disk failed to read"):
        resume(run)
    monkeypatch.undo()
    assert chunks(run) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff\xfe\x00",
        b'{"attributes": [3]}',
        b'{"attributes": {"landscape": 3}}',
        b'{"a": ' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"n": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda content: content[:12],
)
def test_a_root_that_makes_no_sense_is_named_with_a_remedy(saved, content):
    (saved / "zarr.json").write_bytes(content)
    for attempt in (ls.load, resume, lambda path: ls.store.annotate(path, note="late")):
        with pytest.raises(StoreError, match=r"zarr.json .*; restore the file|give the directory that a sweep wrote"):
            attempt(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tile", [0, 3]),
        ("tile", ["5", 3]),
        ("tile", 5),
        ("tile", [10**30, 3]),
        ("outputs", {"loss": 1}),
        ("outputs", ["../../secret"]),
        ("outputs", ["loss", "loss"]),
        ("outputs", [3]),
        ("axes", []),
        ("axes", [{"name": "x"}, {"name": "y"}]),
        ("axes", [{"name": "..", "label": ""}, {"name": "y", "label": ""}]),
        ("plan", "text"),
        ("format", 99),
        ("format", None),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(tmp_path, key, value):
    path = old(tmp_path, "finished")
    edit(path / "zarr.json", lambda root: root["attributes"]["landscape"].update({key: value}))
    with pytest.raises(StoreError, match=r"the record of .* is damaged|has format|does not fit together"):
        ls.load(path)


def test_a_changed_record_is_noticed_and_may_be_accepted(saved):
    edit(saved / "zarr.json", lambda root: root["attributes"]["meta"]["error"].update(loss=0.125))
    with pytest.raises(StoreError, match=r"do not fit its checksum; restore .*remove its entry 'checksum'"):
        ls.load(saved)
    edit(saved / "zarr.json", lambda root: root["attributes"].pop("checksum"))
    assert ls.load(saved).error["loss"] == 0.125


def test_files_in_the_way_are_named(run):
    chunk = run / "loss" / "c" / "2"
    shutil.move(chunk, run.parent / "aside")
    chunk.write_text("a file")
    with pytest.raises(StoreError, match=r"loss/c/2 is a file where chunks have a folder; remove it"):
        resume(run)
    chunk.unlink()
    shutil.move(run.parent / "aside", chunk)
    for name in ("computed", "x"):
        shutil.move(run / name / "c", run.parent / "aside")
        (run / name / "c").write_text("a file")
        for attempt in (ls.load, resume):
            with pytest.raises(StoreError, match=rf"{name}/c is a file where a folder of chunks belongs; remove it"):
                attempt(run)
        (run / name / "c").unlink()
        shutil.move(run.parent / "aside", run / name / "c")
    assert_right(ls.load(run))


def test_stray_files_are_passed_over(run):
    for name in (".DS_Store", "loss/c/notes.txt", "computed/c/3/.nfs001", "x/c/0.bak", "loss/c/07"):
        (run / name).write_text("stray")
    for name in ("loss/c/99", "computed/c/99"):
        (run / name).mkdir()
        (run / name / "0").write_text("stray")
    assert_right(ls.load(run))
    assert len(resume(run).meta["calls"]) == 1


def test_a_link_that_leads_nowhere_is_a_missing_chunk(run):
    chunk = run / "loss" / "c" / "1" / "0"
    chunk.unlink()
    chunk.symlink_to(run / "nowhere")
    with pytest.raises(StoreError, match=r"damaged chunks: loss/c/1/0 \(missing\)"):
        ls.load(run)
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        assert_right(resume(run))


# ------------------------------------------------------------------------------------------------ shapes and sizes


def reshape(path, names, shape, chunk):
    for name in names:
        edit(
            path / name / "zarr.json",
            lambda array: array.update(
                shape=shape, chunk_grid={"name": "regular", "configuration": {"chunk_shape": chunk}}
            ),
        )


def test_arrays_of_another_shape_than_their_axes_are_refused(tmp_path, saved, capsys):
    path = old(tmp_path, "finished")
    reshape(path, ["loss"], [3, 3], [1, 3])
    with pytest.raises(StoreError, match=r"does not fit together: the array 'loss' holds float32\[3, 3\]"):
        ls.load(path)
    reshape(path, ["steps", "computed"], [3, 3], [1, 3])
    with pytest.raises(StoreError, match=r"x/zarr.json \(float64\[5\] .*, where the values have 3 points\)"):
        ls.load(path)
    edit(saved / "pair" / "zarr.json", lambda array: array.update(data_type="int64", fill_value=0))
    assert main(["info", str(saved)]) == 2
    assert "'pair' holds int64[5, 3, 2]" in capsys.readouterr().err


def test_a_lie_about_sizes_costs_no_memory(tmp_path):
    path, huge = old(tmp_path, "finished"), 10**12
    reshape(path, ["loss", "steps", "computed"], [huge, 3], [1, 3])
    with pytest.raises(StoreError, match=r"x/zarr.json .* the values have 1000000000000 points"):
        ls.load(path)
    reshape(path, ["x"], [huge], [huge])
    with pytest.raises(StoreError, match=r"too few for 1000000000000 coordinates"):
        ls.load(path)


def test_a_landscape_of_arrays_that_do_not_fit_cannot_be_made():
    with pytest.raises(ValueError, match=r"loss must have shape \(5, 3\) .*, got \(3, 3\)"):
        ls.Landscape(GRID, {"loss": LOSS[:3]}, np.ones(GRID.shape, bool))
    with pytest.raises(ValueError, match=r"computed must have shape \(5, 3\)"):
        ls.Landscape(GRID, {"loss": LOSS}, np.ones((3, 5), bool))
    with pytest.raises(ValueError, match=r"computed must be True or False .*, got float64\[5, 3\]"):
        ls.Landscape(GRID, {"loss": LOSS}, np.ones((5, 3)))


# -------------------------------------------------------------------------------------------------- meta entries

keys = st.sampled_from(["float", "mapping", "é"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["nan", "32", "inf"])
dicts = lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=2)  # noqa: E731
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | dicts(inner))


@given(plain)
def test_plain_data_come_back_as_they_were(value):
    assert repr(decode(json.loads(json.dumps(encode(value), allow_nan=False)))) == repr(value)


NOTES = [
    {"float": "text"},
    {"float": "32"},
    {"float": "nan"},
    {"float": math.nan},
    {"float": {"float": "inf"}},
    {"mapping": {"float": "nan"}},
    {"mapping": {"mapping": {"float": 3}}},
    [{"float": "nan"}, math.inf, [math.nan, -0.0]],
    {"error": {"float": "1"}},
]


def test_annotations_come_back_as_they_were(saved):
    for i, note in enumerate(NOTES):
        ls.store.annotate(saved, **{f"note{i}": note})
    meta = ls.load(saved).meta
    assert [repr(meta[f"note{i}"]) for i in range(len(NOTES))] == [repr(note) for note in NOTES]
    again = saved.parent / "again.zarr"
    ls.save(ls.load(saved), again)
    assert repr(ls.load(again).meta["note0"]) == repr(NOTES[0])
    assert ls.load(again).error == {"loss": 0.25, "pair": None}


def test_a_store_that_an_earlier_version_spoilt_can_be_read(tmp_path):
    path = old(tmp_path, "finished")
    spoilt = {"note": {"float": "text"}, "error": 3, "size": {"float": "32"}, "gap": {"float": "-inf"}}
    edit(path / "zarr.json", lambda root: root["attributes"]["meta"].update(spoilt))
    found = ls.load(path)
    assert_right(found)
    assert found.error == {"loss": None, "steps": None}
    assert {key: found.meta[key] for key in spoilt} == spoilt | {"gap": -math.inf}


@pytest.mark.parametrize("name", ["error", "plan", "calls", "provenance", "refinement"])
def test_what_a_sweep_writes_itself_cannot_be_annotated(saved, name):
    with pytest.raises(ValueError, match=f"annotate cannot set '{name}'"):
        ls.store.annotate(saved, **{name: 3})
    assert ls.load(saved).error["loss"] == 0.25


def itself():
    entry = []
    entry.append(entry)
    return entry


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (2j, TypeError, "complex"),
        (np.array([2j]), TypeError, "array of complex128"),
        (b"bytes", TypeError, "bytes"),
        ({3}, TypeError, "set"),
        ([object()], TypeError, r"annotate\['note'\]\[0\] is of type object"),
        (np.array(["2026-12-01"], "M8[D]"), TypeError, r"datetime64\[D\]"),
        ({1: 2.5, "1": 3.5}, ValueError, "two keys .* are the same text"),
        (itself(), ValueError, "nested more than 64 levels deep"),
        (10**4000, ValueError, "3,000 digits"),
    ],
)
def test_what_json_cannot_keep_is_refused_before_anything_is_written(saved, entry, error, message):
    before = (saved / "zarr.json").read_bytes()
    with pytest.raises(error, match=message):
        ls.store.annotate(saved, note=entry)
    assert (saved / "zarr.json").read_bytes() == before
    with pytest.raises(error):
        ls.save(ls.load(saved).with_meta(note=entry), saved.parent / "again.zarr")
    assert not (saved.parent / "again.zarr").exists()


def test_arrays_of_short_floats_and_scalars_are_plain(saved):
    ls.store.annotate(saved, note=[jnp.bfloat16(2.5), np.float32(0.5), jnp.arange(3), np.bool_(True), (1, 2)])
    assert ls.load(saved).meta["note"] == [2.5, 0.5, [0, 1, 2], True, [1, 2]]


# ------------------------------------------------------------------------------------------------- paths and names


@pytest.mark.parametrize(
    "address", ["s3://bucket/run.zarr", "memory://run", "file:///tmp/run.zarr", "gs://b/r", "simplecache::s3://b/r"]
)
def test_addresses_are_no_folders(tmp_path, monkeypatch, saved, address):
    monkeypatch.chdir(tmp_path)
    landscape = ls.load(saved)
    before = sorted(tmp_path.iterdir())
    for attempt in (
        lambda: ls.load(address),
        lambda: ls.load(Path(address)),
        lambda: ls.save(landscape, address),
        lambda: ls.store.annotate(address, note=3),
        lambda: ls.sweep(saddle, GRID, store=address),
        lambda: ls.export.export(landscape, f"{address}.csv"),
    ):
        with pytest.raises(ValueError, match="must be a path of a local or mounted file system, got the address"):
            attempt()
    assert main(["info", address]) == 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("wrong", [None, 3, 2.5, b"run.zarr", ["run.zarr"], {"path": 3}, np.ones(3)], ids=repr)
def test_what_is_no_path_is_refused(saved, wrong):
    landscape = ls.load(saved)
    for attempt in (
        lambda: ls.load(wrong),
        lambda: ls.save(landscape, wrong),
        lambda: ls.store.annotate(wrong, note=3),
        lambda: ls.export.export(landscape, wrong),
        lambda: store.check_place(wrong),
    ):
        with pytest.raises(TypeError, match="must be a path, got"):
            attempt()
    for attempt in (lambda: ls.save(wrong, saved), lambda: ls.export.export(wrong, saved)):
        with pytest.raises(TypeError, match="takes a Landscape, got"):
            attempt()


def test_other_paths_that_hold_no_run(tmp_path, saved):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, message in {
        tmp_path / "file": "found a file",
        tmp_path / "file" / "run.zarr": "found nothing",
        saved / "loss": "one array of a run; give the run's own directory",
        tmp_path / "loop": "links lead in a circle",
        "x" * 300: "a name is longer than the file system allows .*255",
        "~/run.zarr": "only a shell expands",
        "a\0b": "null character",
    }.items():
        with pytest.raises((StoreError, ValueError), match=message):
            ls.load(path)


def test_names_as_long_as_the_file_system_allows(tmp_path):
    name, axis = "é" * 127, "a" * 255
    run = tmp_path / ("r" * 250 + ".zarr")
    landscape = ls.Landscape(ls.Grid.of(**{axis: X}), {name: X**2}, np.ones(5, bool))
    ls.save(landscape, run)
    np.testing.assert_array_equal(ls.load(run)[name], X**2)
    ls.export.export(landscape, tmp_path / ("e" * 251 + ".csv"))
    with pytest.raises(ValueError, match="has 256 bytes, and file systems hold names of up to 255"):
        ls.save(landscape.assign(**{"é" * 128: X}), tmp_path / "long.zarr")
    with pytest.raises(StoreError, match="longer than the file system allows"):
        ls.save(landscape, tmp_path / ("r" * 256))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["zarr.json", "meta.lock.partial", "loss.partial", "a\0b", "a\ud800"])
def test_names_that_the_store_needs_itself(tmp_path, monkeypatch, name):
    monkeypatch.setattr("landscape.engine._runners.Local.timing", lambda *_: pytest.fail("it was tuned first"))
    with pytest.raises(ValueError, match="a name that the store needs itself|cannot name one"):
        ls.sweep(lambda c: {name: c[0]}, GRID, store=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


def test_axes_named_like_what_a_store_has(tmp_path):
    for name in ("landscape", "evaluations", "meta", "c"):
        landscape = ls.Landscape(ls.Grid.of(**{name: X}), {"loss": X**2}, np.arange(5) < 4)
        ls.save(landscape, tmp_path / f"{name}.zarr")
        np.testing.assert_array_equal(ls.load(tmp_path / f"{name}.zarr").grid.axes[0].values, X)
    with pytest.raises(ValueError, match="an axis cannot be called 'computed'"):
        ls.sweep(lambda c: {"loss": c[0]}, ls.Grid.of(computed=X), store=tmp_path / "run.zarr")
    with pytest.raises(ValueError, match="'landscape' has a name that the file needs"):
        ls.export.export(ls.load(tmp_path / "landscape.zarr"), tmp_path / "a.npz")


def test_names_that_differ_in_case_only(tmp_path):
    both = ls.Landscape(GRID, {"loss": LOSS, "Loss": 2 * LOSS}, np.ones(GRID.shape, bool))
    ls.save(both, tmp_path / "run.zarr")
    np.testing.assert_array_equal(ls.load(tmp_path / "run.zarr")["Loss"], 2 * LOSS)
    (tmp_path / "zarr.json").write_text("{}")
    (tmp_path / "ZARR.JSON").write_text("{}")  # as a file system shows it that does not tell case
    with pytest.raises(ValueError, match="does not tell 'loss' and 'Loss' apart"):
        _files._check_case(tmp_path, ["loss", "Loss", "x"])


def test_what_a_store_cannot_hold(tmp_path):
    for value, message in ((np.full(5, "text"), "holds <U4"), (X.astype("M8[s]"), "datetime64")):
        with pytest.raises(TypeError, match=message):
            ls.save(ls.Landscape(ls.Grid.of(x=X), {"loss": value}, np.ones(5, bool)), tmp_path / "run.zarr")
    with pytest.raises(ValueError, match="holds no entry a point"):
        ls.save(ls.Landscape(ls.Grid.of(x=X), {"loss": np.ones((5, 0))}, np.ones(5, bool)), tmp_path / "run.zarr")
    with pytest.raises(ValueError, match="must be finite and strictly increasing"):
        ls.save(ls.Landscape(ls.Grid.of(x=X[::-1]), {"loss": X}, np.ones(5, bool)), tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())
    ls.save(ls.Landscape(ls.Grid.of(x=X), {"loss": X.astype(">f8")}, np.ones(5, bool)), tmp_path / "run.zarr")
    np.testing.assert_array_equal(ls.load(tmp_path / "run.zarr")["loss"], X)


def test_a_full_disk_leaves_nothing_of_a_saved_landscape(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.RunStore, "_check_arrays", full)
    with pytest.raises(StoreError, match="the disk is full; free some space$"):
        ls.save(ls.Landscape(GRID, {"loss": LOSS}, np.ones(GRID.shape, bool)), tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- journal, other versions


def test_a_journal_that_a_kill_left_behind_is_removed(tmp_path, monkeypatch):
    def bowl(c):
        return {"loss": c[0] ** 2 + 0.5 * c[1]}

    call = {"tolerance": 0.05, "store": tmp_path / "run.zarr", "batch": 8, "progress": False}
    grid = ls.Grid.square(1.5, 33)
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "discard_journal", lambda self: None)  # as if killed after the last tile
        first = ls.sweep(bowl, grid, **call)
    assert (tmp_path / "run.zarr" / "evaluations").exists()
    again = ls.sweep(bowl, grid, **call)
    np.testing.assert_array_equal(again["loss"], first["loss"])
    assert not (tmp_path / "run.zarr" / "evaluations").exists()


def test_a_finished_store_of_version_0_1_0_is_read(tmp_path):
    path = old(tmp_path, "finished")
    found = ls.load(path)
    assert_right(found)
    np.testing.assert_array_equal(found["steps"], STEPS)
    np.testing.assert_equal(found.meta["paths"]["Adam"]["loss"], [math.nan, 2.5])
    ls.store.annotate(path, note={"float": "text"})
    assert ls.load(path).meta["note"] == {"float": "text"}


def test_a_half_finished_store_of_version_0_1_0_is_resumed(tmp_path, monkeypatch):
    path = old(tmp_path, "half")
    before = chunks(path)
    half = ls.load(path)
    assert half.computed.sum() == 9
    np.testing.assert_allclose(half["loss"][::2], LOSS[::2], rtol=1e-6)
    with pytest.raises(PlanMismatch):
        ls.sweep(lambda c: {"loss": c[0], "steps": jnp.int32(2)}, GRID, store=path, batch=2)
    planned = {key: value for key, value in RunStore(path).plan.items() if key != "batching"}
    monkeypatch.setattr(_job, "fingerprint", lambda fn, grid: planned)  # of the JAX that wrote it
    shutil.rmtree(path / "x" / "c")
    with pytest.warns(UserWarning, match="written anew"):
        whole = ls.sweep(saddle, GRID, store=path, batch=2)
    assert_right(whole)
    assert whole.meta["calls"][-1]["evaluations"] == 6
    assert chunks(path).items() >= {k: v for k, v in before.items() if "x" not in k.relative_to(path).parts}.items()
    assert_right(ls.load(path))


def test_a_saved_landscape_is_no_store_to_sweep_into(saved):
    with pytest.raises(PlanMismatch, match="saved: stored True, asked for None"):
        ls.sweep(saddle, GRID, store=saved)


# ------------------------------------------------------------------------------------------------- wrong arguments

WRONG = [None, 3, -2.5, math.nan, True, "text", b"bytes", [], [1, "a"], [[1], [2, 3]], {}, {"a": 3}, {3}, 2j, object()]
WRONG += [
    np.ones(3),
    np.ones((2, 2), complex),
    np.array(["a"]),
    np.array([None]),
    range(3),
    print,
    GRID,
    Path("nowhere"),
]


def calls(path):
    """Every public function of stores, grids and landscapes, as a function of one argument."""
    landscape = ls.load(path)
    axis, grid = ls.Axis, ls.Grid
    yield from {
        "load": ls.load,
        "save": lambda v: ls.save(v, path.parent / "new.zarr"),
        "save to": lambda v: ls.save(landscape, v),
        "annotate": lambda v: ls.store.annotate(v, note=3),
        "annotate with": lambda v: ls.store.annotate(path, note=v),
        "export": lambda v: ls.export.export(v, path.parent / "new.csv"),
        "export to": lambda v: ls.export.export(landscape, v),
        "export as": lambda v: ls.export.export(landscape, path.parent / "new.csv", v),
        "Axis": lambda v: axis(v, X),
        "Axis of": lambda v: grid((axis("x", v),)).check(),
        "Axis label": lambda v: axis("x", X, v),
        "linspace low": lambda v: axis.linspace("x", v, 7.0, 5),
        "linspace high": lambda v: axis.linspace("x", -7.0, v, 5),
        "linspace num": lambda v: axis.linspace("x", -7.0, 7.0, v),
        "covering": lambda v: axis.covering("x", -1.0, 7.0, 5, through=v),
        "Grid": lambda v: grid(v).check(),
        "line": lambda v: grid.line(v, 5),
        "square": lambda v: grid.square(v, 5),
        "square names": lambda v: grid.square(1.5, 5, v),
        "of": lambda v: grid.of(x=v).check(),
        "zoom": lambda v: GRID.zoom(v, 2.0),
        "zoom factor": lambda v: GRID.zoom(0.5, v),
        "refined": GRID.refined,
        "index": GRID.index,
        "Landscape grid": lambda v: ls.Landscape(v, {"loss": LOSS}, np.ones(GRID.shape, bool)),
        "Landscape values": lambda v: ls.Landscape(GRID, v, np.ones(GRID.shape, bool)),
        "Landscape value": lambda v: ls.Landscape(GRID, {"loss": v}, np.ones(GRID.shape, bool)),
        "Landscape computed": lambda v: ls.Landscape(GRID, {"loss": LOSS}, v),
        "Landscape error": lambda v: ls.Landscape(GRID, {"loss": LOSS}, np.ones(GRID.shape, bool), v),
        "Landscape meta": lambda v: ls.Landscape(GRID, {"loss": LOSS}, np.ones(GRID.shape, bool), {}, v),
        "getitem": lambda v: landscape[v],
        "slice": lambda v: landscape.slice(x=v),
        "assign": lambda v: landscape.assign(new=v),
        "argmin": landscape.argmin,
        "coords": landscape.coords,
    }.items()


def test_wrong_arguments_are_refused_in_our_own_words(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    tried, unclear = 0, []
    for name, call in calls(saved):
        for value in WRONG:
            tried += 1
            try:
                with warnings.catch_warnings(action="error"):
                    call(value)
            except (TypeError, ValueError, OSError, KeyError) as error:
                frame = error.__traceback__
                while frame.tb_next is not None:
                    frame = frame.tb_next
                if "landscape" not in Path(frame.tb_frame.f_code.co_filename).parts or len(str(error)) < 30:
                    unclear.append(f"{name}({value!r}): {type(error).__name__}: {error}")
            except Exception as error:
                unclear.append(f"{name}({value!r}): {type(error).__name__}: {error}")
    print(f"{tried} tried, {len(unclear)} unclear")
    assert not unclear, "\n".join(unclear)


# ------------------------------------------------------------------------------------------ chunks in another place


def exchange(first, second):
    between = first.with_name("between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


@pytest.mark.parametrize("name", ["loss", "steps"])
def test_intact_chunks_that_changed_places_are_noticed_and_computed_anew(run, name):
    exchange(run / name / "c" / "0" / "0", run / name / "c" / "3" / "0")
    assert zarr.open_group(run, mode="r")[name][...].shape == GRID.shape  # zarr sees nothing wrong
    with pytest.raises(StoreError, match=rf"{name}/c/0/0 \(not the one that was written there\).*{name}/c/3/0"):
        ls.load(run)
    with pytest.warns(UserWarning, match="tile [03] of .* is damaged and is computed again"):
        assert_right(resume(run))
    assert_right(ls.load(run))


def test_a_chunk_of_another_array_is_noticed(tmp_path):
    two = tmp_path / "two.zarr"
    ls.save(ls.Landscape(GRID, {"loss": LOSS, "more": LOSS + 1.5}, np.ones(GRID.shape, bool)), two)
    exchange(two / "loss" / "c" / "0" / "0", two / "more" / "c" / "0" / "0")
    with pytest.raises(StoreError, match="not the one that was written there"):
        ls.load(two)


def test_a_mask_of_another_tile_is_noticed(tmp_path):
    mask = np.ones((6, 2**17), bool)
    mask[0, ::3] = False
    grid = ls.Grid((ls.Axis("x", np.arange(6.0) + 0.5), ls.Axis("y", np.arange(2.0**17))))
    path = tmp_path / "run.zarr"
    ls.save(ls.Landscape(grid, {"steps": np.full(mask.shape, 7, np.int8)}, mask), path)
    blocks = sorted((path / "computed" / "c").iterdir())
    assert len(blocks) > 1
    exchange(blocks[0] / "0", blocks[1] / "0")
    with pytest.raises(StoreError, match="not the one that was written there"):
        ls.load(path)
