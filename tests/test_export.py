"""Exports are read back by programs that know nothing of this package."""

import csv
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from landscape.export import export
from landscape.grid import Axis, Grid, Landscape
from landscape.store import decode

FORMATS = ("json", "npz", "csv", "nc", "h5", "vti", "vtr")
X, Y = np.linspace(-1.0, 1.0, 7), np.linspace(-2.0, 1.0, 11)
NAN, INF, MINUS_INF, SKIPPED = (1, 2), (3, 4), (5, 6), (6, 9)
META = {"provenance": {"jax": "0.10.2"}, "worst": float("nan"), "paths": {"sgd": {"coords": [[0.25, 0.5]] * 9000}}}


def asymmetric(x, y):
    return np.exp(x) + 3.0 * y**2 + x * y


def tilted() -> Landscape:
    """A 7 x 11 landscape that no swap or flip of its axes leaves alone, with holes in it."""
    grid = Grid((Axis("alpha", X, "first direction"), Axis("beta", Y)))
    x, y = np.meshgrid(X, Y, indexing="ij")
    loss = asymmetric(x, y)
    loss[NAN], loss[INF], loss[MINUS_INF], loss[SKIPPED] = np.nan, np.inf, -np.inf, np.nan
    computed = np.ones(grid.shape, dtype=bool)
    computed[SKIPPED] = False
    values = {
        "train_loss": loss,
        "train_accuracy": (1.0 / (2.0 + x**2 + y**2)).astype(np.float32),
        "gradient": np.stack([np.exp(x) + y, 6.0 * y + x], axis=-1),
        "steps": np.arange(grid.size).reshape(grid.shape) + 2**40,
    }
    return Landscape(grid, values, computed, {"train_loss": 0.25, "steps": None}, META)


def line() -> Landscape:
    grid = Grid.of(t=[0.5, 2.0, 2.25, 7.0])
    return Landscape(grid, {"loss": np.array([4.0, np.nan, 2.5, 3.0])}, np.ones(4, dtype=bool))


def cube() -> Landscape:
    grid = Grid.of(x=[2.0, 3.0], y=[5.0, 7.0, 9.0], z=[1.5, 2.0, 2.5, 3.0])
    x, y, z = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    return Landscape(grid, {"loss": 100 * x + 10 * y + z}, np.ones(grid.shape, dtype=bool))


def read_vtk(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """A VTK XML file with raw appended data: the attributes of its grid and its arrays, C order of the file."""
    head, _, tail = path.read_bytes().partition(b'<AppendedData encoding="raw">')
    raw = tail[tail.index(b"_") + 1 :]
    root = ElementTree.fromstring(head + b"</VTKFile>")
    types = {"Float32": "<f4", "Float64": "<f8", "Int64": "<i8", "UInt8": "<u1"}
    arrays = {}
    for entry in root.iter("DataArray"):
        start = int(entry.attrib["offset"])
        size = int(np.frombuffer(raw, "<u8", 1, start)[0])
        arrays[entry.attrib["Name"]] = np.frombuffer(raw[start + 8 : start + 8 + size], types[entry.attrib["type"]])
    return root[0].attrib, arrays


def same(found, expected) -> None:
    """Equal to the bit, holes included."""
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), strict=True)


# --------------------------------------------------------------------------------------- array order and values


def test_json_is_standard_and_keeps_order_and_holes(tmp_path):
    text = export(tilted(), tmp_path / "a.json").read_text()
    found = json.loads(text, parse_constant=lambda literal: pytest.fail(f"{literal} is not JSON"))
    assert [(a["name"], a["label"]) for a in found["axes"]] == [("alpha", "first direction"), ("beta", "")]
    same(np.array(found["axes"][1]["values"]), Y)
    loss = found["outputs"]["train_loss"]
    assert loss["dims"] == ["alpha", "beta"]
    assert loss["values"][2][7] == asymmetric(X[2], Y[7])
    assert loss["values"][3][4] == {"float": "inf"}
    same(np.array(decode(loss["values"])), tilted()["train_loss"])
    same(np.array(found["outputs"]["gradient"]["values"]), tilted()["gradient"])
    same(np.array(found["computed"]), tilted().computed)
    assert found["error"] == {"train_loss": 0.25, "steps": None}
    assert found["meta"]["worst"] == {"float": "nan"}


def test_npz_needs_no_pickle(tmp_path):
    with np.load(export(tilted(), tmp_path / "a.npz"), allow_pickle=False) as found:
        same(found["alpha"], X)
        for name, value in tilted().values.items():
            same(found[name], value)
        same(found["computed"], tilted().computed)
        record = json.loads(str(found["landscape"]))
    assert [axis["name"] for axis in record["axes"]] == ["alpha", "beta"]
    assert record["meta"]["paths"] == META["paths"]


def test_csv_is_a_row_a_point_with_the_last_axis_fastest(tmp_path):
    with export(tilted(), tmp_path / "a.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    gradient = ["gradient_0", "gradient_1"]
    assert header == ["alpha", "beta", "train_loss", "train_accuracy", *gradient, "steps", "computed"]
    table = np.array(rows, dtype=np.float64)
    same(table[:, 0], np.repeat(X, 11))
    same(table[:, 1], np.tile(Y, 7))
    same(table[:, 2].reshape(7, 11), tilted()["train_loss"])
    same(table[:, 5].reshape(7, 11), tilted()["gradient"][..., 1])
    assert int(rows[30][6]) == 2**40 + 30
    assert [row[7] for row in rows].count("0") == 1


def test_netcdf_is_labelled(tmp_path):
    with xarray.open_dataset(export(tilted(), tmp_path / "a.nc"), engine="h5netcdf") as found:
        assert found["train_loss"].dims == ("alpha", "beta")
        assert found["gradient"].dims == ("alpha", "beta", "gradient_0")
        assert found["alpha"].attrs["long_name"] == "first direction"
        assert float(found["train_loss"].sel(alpha=X[2], beta=Y[7])) == asymmetric(X[2], Y[7])
        for name, value in tilted().values.items():
            same(found[name], value)
        same(found["computed"], tilted().computed)
        assert len(json.loads(found["landscape"].item())["meta"]["paths"]["sgd"]["coords"]) == 9000


def test_h5_is_what_li_et_al_read(tmp_path):
    with h5py.File(export(tilted(), tmp_path / "a.h5")) as file:
        found = {key: file[key][()] for key in file}
    same(found["xcoordinates"], X)
    same(found["ycoordinates"], Y)
    # The pairing of their plot_2D.py: contour(*np.meshgrid(x, y), Z).
    mesh = np.meshgrid(found["xcoordinates"], found["ycoordinates"])
    assert found["train_loss"].shape == mesh[0].shape == (11, 7)
    usable = np.isfinite(found["train_loss"])
    same(found["train_loss"][usable], asymmetric(*mesh)[usable])
    assert np.isnan(found["train_loss"][NAN[::-1]])
    assert found["train_loss"][INF[::-1]] == np.inf
    same(found["train_acc"], 100.0 * tilted()["train_accuracy"].T.astype(np.float64))
    same(found["gradient"], tilted()["gradient"].swapaxes(0, 1))
    same(found["computed"], tilted().computed.T)
    assert json.loads(found["landscape"])["meta"]["provenance"] == {"jax": "0.10.2"}


def test_h5_of_a_line_names_the_loss_of_one_objective(tmp_path):
    with h5py.File(export(line(), tmp_path / "a.h5")) as file:
        same(file["xcoordinates"][()], line().grid.axes[0].values)
        same(file["train_loss"][()], line()["loss"])
        assert "ycoordinates" not in file
        assert "train_acc" not in file


@pytest.mark.parametrize("kind", ["vti", "vtr"])
def test_vtk_runs_x_fastest(tmp_path, kind):
    about, found = read_vtk(export(tilted(), tmp_path / f"a.{kind}"))
    assert about["WholeExtent"] == "0 6 0 10 0 0"
    same(found["train_loss"].reshape(11, 7).T, tilted()["train_loss"])
    same(found["train_accuracy"].reshape(11, 7).T, tilted()["train_accuracy"])
    same(found["gradient_1"].reshape(11, 7).T, tilted()["gradient"][..., 1])
    same(found["computed"].reshape(11, 7).T, tilted().computed.astype(np.uint8))


def test_vti_places_points_by_origin_and_spacing(tmp_path):
    about, _ = read_vtk(export(tilted(), tmp_path / "a.vti"))
    assert [float(c) for c in about["Origin"].split()] == [-1.0, -2.0, 0.0]
    np.testing.assert_allclose([float(c) for c in about["Spacing"].split()], [1 / 3, 0.3, 1.0], rtol=1e-15)


def test_vtr_keeps_uneven_coordinates(tmp_path):
    _, found = read_vtk(export(line(), tmp_path / "a.vtr"))
    same(found["x_coordinates"], line().grid.axes[0].values)
    same(found["y_coordinates"], np.zeros(1))
    same(found["loss"], line()["loss"])


@pytest.mark.parametrize("kind", ["vti", "vtr"])
def test_vtk_of_three_axes(tmp_path, kind):
    about, found = read_vtk(export(cube(), tmp_path / f"a.{kind}"))
    assert about["WholeExtent"] == "0 1 0 2 0 3"
    same(found["loss"].reshape(4, 3, 2).transpose(), cube()["loss"])


def _losses_of_json(path):
    return json.loads(path.read_text())["outputs"]["loss"]["values"]


def _losses_of_npz(path):
    with np.load(path) as found:
        return found["loss"]


def _losses_of_csv(path):
    with path.open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def _losses_of_nc(path):
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        return found["loss"].transpose(*"abcd").to_numpy()


READERS = {"json": _losses_of_json, "npz": _losses_of_npz, "csv": _losses_of_csv, "nc": _losses_of_nc}


@pytest.mark.parametrize("kind", READERS)
def test_any_dimension_where_the_format_has_it(tmp_path, kind):
    grid = Grid.of(**{name: [2.0, 3.0] for name in "abcd"})
    values = {"loss": np.arange(16.0).reshape(grid.shape), "ok": np.arange(16).reshape(grid.shape) % 3 == 2}
    path = export(Landscape(grid, values, np.ones(grid.shape, dtype=bool)), tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(np.reshape(READERS[kind](path), grid.shape), values["loss"])


def test_names_are_escaped_in_xml(tmp_path):
    awkward = line().assign(**{'a<"&': np.array([2.0, 3.0, 5.0, 7.0], dtype=np.float16)})
    _, found = read_vtk(export(awkward, tmp_path / "a.vtr"))
    same(found['a<"&'], np.array([2.0, 3.0, 5.0, 7.0], dtype=np.float32))


# --------------------------------------------------------------------------------------------- files and errors


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_overwritten_unasked(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="there already"):
        export(tilted(), path)
    assert path.read_text() == "precious"
    assert export(tilted(), path, overwrite=True) == path
    assert path.stat().st_size > 100
    assert list(tmp_path.iterdir()) == [path]


class _BreaksHalfway(np.ndarray):
    """An array that fails when it is at last to be written."""

    def tolist(self):
        raise OSError(28, "No space left on device")


def test_an_error_leaves_the_old_file_and_no_half_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("precious")
    late = np.full(4, 2.5).view(_BreaksHalfway)
    broken = Landscape(line().grid, {"loss": late}, np.ones(4, dtype=bool))
    with pytest.raises(OSError, match=r"cannot write .*a\.csv: No space left on device"):
        export(broken, path, overwrite=True)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_the_format_may_be_named(tmp_path):
    path = export(line(), tmp_path / "new" / "folder" / "loss.dat", format="json")
    assert "axes" in json.loads(path.read_text())
    assert export(line(), str(tmp_path / "UPPER.CSV")).is_file()
    assert export(cube(), tmp_path / "odd.name", format="vti").read_bytes().startswith(b"<?xml")


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(FileExistsError, match="is a directory"):
        export(line(), tmp_path, format="csv", overwrite=True)


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        export(line(), tmp_path / "file" / "a.csv")


@pytest.mark.parametrize(("path", "format"), [("a.xlsx", None), ("plain", None), ("a.csv", "parquet")])
def test_unknown_formats_are_named(tmp_path, path, format):
    with pytest.raises(ValueError, match="no export format .* json, npz, csv, nc, h5, vti, vtr"):
        export(line(), tmp_path / path, format)


@pytest.mark.parametrize(("kind", "limit"), [("h5", 2), ("vti", 3), ("vtr", 3)])
def test_too_many_axes(tmp_path, kind, limit):
    grid = Grid.of(**{name: [2.0, 3.0] for name in "abcd"[: limit + 1]})
    landscape = Landscape(grid, {"loss": np.full(grid.shape, 2.5)}, np.ones(grid.shape, dtype=bool))
    with pytest.raises(
        ValueError, match=rf"at most {limit} axes, this landscape has {limit + 1}.*slice..=3.0. at a coordinate"
    ):
        export(landscape, tmp_path / f"a.{kind}")


def test_uneven_axes_are_sent_to_vtr(tmp_path):
    with pytest.raises(ValueError, match=r"'t'.*write \.vtr"):
        export(line(), tmp_path / "a.vti")
    assert not list(tmp_path.iterdir())


def test_h5_needs_a_loss_and_fractions(tmp_path):
    with pytest.raises(ValueError, match="needs an output train_loss or loss.* has curvature"):
        export(Landscape(line().grid, {"curvature": np.ones(4)}, np.ones(4, dtype=bool)), tmp_path / "a.h5")
    with pytest.raises(ValueError, match="'accuracy' must be a fraction.* 12 to 97"):
        export(line().assign(accuracy=[12.0, 50.0, np.nan, 97.0]), tmp_path / "a.h5")


def test_names_and_types_that_files_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="'computed' has a name"):
        export(line().assign(computed=np.ones(4)), tmp_path / "a.npz")
    with pytest.raises(ValueError, match="'phase'.*complex128"):
        export(line().assign(phase=np.ones(4) * 2j), tmp_path / "a.json")
    with pytest.raises(ValueError, match="two columns would be called 'g_0'"):
        export(line().assign(g=np.ones((4, 2)), g_0=np.ones(4)), tmp_path / "a.csv")
    with pytest.raises(TypeError, match="takes a Landscape, got dict"):
        export({}, tmp_path / "a.csv")  # ty: ignore


@pytest.mark.parametrize(
    ("kind", "library"), [("nc", "h5netcdf"), ("nc", "xarray"), ("h5", "h5py"), ("vti", "pyevtk"), ("vtr", "pyevtk")]
)
def test_missing_libraries_are_named(tmp_path, monkeypatch, kind, library):
    for module in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{library}: pip install 'loss-atlas\[io\]'"):
        export(tilted(), tmp_path / f"a.{kind}")
    assert not list(tmp_path.iterdir())
