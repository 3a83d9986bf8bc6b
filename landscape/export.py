"""Files of a landscape for other programs: JSON, NPZ, CSV, netCDF, Li et al.'s HDF5, ParaView and meshes.

Every format but one keeps the array order of `Landscape`: `values[i, j]` belongs to `axes[0].values[i]` and
`axes[1].values[j]`. The exception is `.h5`, whose order is that of Li et al. (2018), `[y, x]`: see `export`.

Measured values are written as they are: NaN and infinity stay, and the mask `computed` is always written
beside them. The target appears by a rename, so it is whole or not there.

>>> import tempfile, numpy as np
>>> from landscape.grid import Grid, Landscape
>>> grid = Grid.line((0.0, 1.0), num=3)
>>> ramp = Landscape(grid, {"loss": np.array([2.5, np.nan, 4.0])}, np.array([True, True, False]))
>>> path = export(ramp, tempfile.mkdtemp() + "/ramp.csv")
>>> print(path.read_text().strip())
alpha,loss,computed
0.0,2.5,1
0.5,nan,1
1.0,4.0,0
"""

import contextlib
import csv
import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from landscape.grid import Axis, Landscape, dims, slice_advice
from landscape.store import DONE, beside, check_plain, encode, local_path

RECORD = "landscape"  # the name under which a file keeps axes, errors and meta as JSON text
MESHES = ("glb", "ply", "stl")
UNIFORM = 1e-6  # largest distance from equal spacing, in steps, of an axis of ImageData
LI_KEYS = {  # key of Li et al.: the output that it holds, the first one that is there
    "train_loss": ("train_loss", "loss"),
    "train_acc": ("train_acc", "train_accuracy", "accuracy"),
    "test_loss": ("test_loss",),
    "test_acc": ("test_acc", "test_accuracy"),
}


def export(
    landscape: Landscape,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    overwrite: bool = False,
    output: str | None = None,
) -> Path:
    """Write a landscape to one file that other programs read.

    `json`: nested lists `[i, j]`, any dimension, with meta. JSON has no NaN and no infinity: they are
        `{"float": "nan"}`, `{"float": "inf"}` and `{"float": "-inf"}`; `landscape.store.decode` undoes it.
    `npz`: one array for each axis, each output and `computed`, order `[i, j]`, any dimension. The array
        `landscape` is JSON text with the names of the axes in order, and meta.
    `csv`: a row for each point in C order, the last axis fastest: coordinates, outputs, `computed` (1 or 0).
        NaN is `nan`, infinity `inf`. Any dimension, no meta.
    `nc`: netCDF-4 with named dimensions and coordinates, order `[i, j]`, any dimension. The variable
        `landscape` is JSON text with meta.
    `h5`: the keys of Li et al. (2018) for one or two axes, order `[y, x]`, see below. `landscape` as in `nc`.
    `vti`: ParaView ImageData for one to three equally spaced axes, which become x, y, z. No meta.
    `vtr`: ParaView RectilinearGrid for one to three axes with any spacing. No meta.

    `glb`, `ply`, `stl`: the surface of one output over two axes as a mesh of triangles, for slides, Blender and
        3-D printing. The ground has the coordinates of the grid; heights are brought to 0.4 of its longer side, on
        the scale of the colours (logarithmic where `plotting` draws it so). `glb` and `ply` have the colours of
        `plotting.heatmap` at their vertices; `glb` lies with its height along y, as glTF has it, and its colours are
        linear. `stl` has no colours, and is a solid with walls and a ground, in no unit. Triangles with a corner that
        is not finite are left out.

    Numbers are exact in all but meshes. Outputs that hold several numbers a point keep their shape, but in
    `csv`, `vti` and `vtr` they become `name_0`, `name_1`, ... (`name_0_1` for a matrix).

    In `h5`, `xcoordinates` is the first axis, `ycoordinates` the second, and arrays have shape `(ny, nx)`.
    This is what `plot_2D.py` and `h52vtp.py` of github.com/tomgoldstein/loss-landscape read: they pair an
    array with `np.meshgrid(x, y)`, so `train_loss[j, i]` belongs to `xcoordinates[i]` and `ycoordinates[j]`.
    (Their writer fills in that order an array that it declared `(nx, ny)`: its own files are right for square
    grids only.) `train_loss` and `test_loss` are float64, `train_acc` and `test_acc` percent, where our
    accuracies are fractions. A landscape of one objective gives its `loss` and `accuracy` as `train_loss` and
    `train_acc`. Points that were not computed hold NaN, where Li et al. write -1. Other outputs keep their
    names.

    Args:
        landscape: what to write.
        path: the file; missing folders are made.
        format: one of the names above, by default the suffix of `path`.
        overwrite: replace a file that is there.
        output: the output of which a mesh is made; the training loss, or the first with one number a point.

    Returns:
        The path written.

    Raises:
        TypeError: `landscape` is not a `Landscape`, `path` no path, or a value no real number.
        KeyError: there is no such output.
        ValueError: an unknown format, or one that cannot hold this landscape; the message says which can.
        FileExistsError: the file is there and `overwrite` is off.
        OSError: the file cannot be written; what was there before is.
        ImportError: the format needs a library of the extra `io`.
    """
    if not isinstance(landscape, Landscape):
        raise TypeError(f"export takes a Landscape, got {type(landscape).__name__}")
    path = local_path(path)
    kind = _format(path, format)
    _check(landscape, kind)
    landscape = _cut(landscape, kind, output)
    if not overwrite or path.is_dir():
        refuse_existing(path, "pass overwrite=True")
    with appearing(path, f".{kind}") as building:
        _WRITERS[kind](landscape, building)
    return path


def refuse_existing(path: Path, remedy: str) -> None:
    """Raise `FileExistsError` where something is at `path`; the remedy says how it may be replaced."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a directory; give the name of a file")
    if path.exists():
        raise FileExistsError(f"{path} is there already; choose another name, or {remedy}")


def _format(path: Path, asked: Any) -> str:
    if asked is not None and not isinstance(asked, str):
        raise TypeError(f"format must be one of {', '.join(_WRITERS)}, got {asked!r}")
    kind = (asked or path.suffix).lower().removeprefix(".")
    if kind not in _WRITERS:
        raise ValueError(f"no export format {kind!r} (for {path}); there are {', '.join(_WRITERS)}")
    return kind


def _check(landscape: Any, kind: str) -> None:
    axes = {*landscape.grid.names}
    clash = {*landscape.names} & {*axes, DONE, RECORD} | axes & {DONE, RECORD}
    if clash:
        raise ValueError(f"the output or axis {clash.pop()!r} has a name that the file needs for itself; rename it")
    landscape.grid.check()
    check_plain(landscape.meta, "meta")
    for name, value in landscape.values.items():
        if value.dtype.kind not in "biuf":
            raise ValueError(f"cannot export {name!r}: {kind} holds real numbers, not {value.dtype}; leave it out")
    limit = {"h5": 2, "vti": 3, "vtr": 3, **dict.fromkeys(MESHES, 2)}.get(kind, landscape.grid.ndim)
    if landscape.grid.ndim > limit:
        raise ValueError(
            f".{kind} holds at most {limit} axes, this landscape has {landscape.grid.ndim}; fix some, as in "
            f"{slice_advice(landscape.grid, limit)}, or write .nc or .npz"
        )


def _cut(landscape: Landscape, kind: str, output: Any) -> Landscape:
    """The landscape with the output of which a mesh is made alone; other formats take all."""
    if output is not None and not isinstance(output, str):
        raise TypeError(f"output must be the name of one, got {output!r}")
    if kind not in MESHES:
        if output is not None:
            raise ValueError(f".{kind} holds all outputs; output is for meshes ({', '.join(MESHES)})")
        return landscape
    plain = [name for name in landscape if landscape[name].ndim == landscape.grid.ndim]
    first = [name for name in ("train_loss", "loss") if name in plain] + plain
    if output is None and not first:
        raise ValueError(f"no output of this landscape is one number a point, so .{kind} has no surface to hold")
    name = output or first[0]
    return dataclasses.replace(landscape, values={name: landscape[name]})


@contextlib.contextmanager
def appearing(path: Path, suffix: str) -> Generator[Path]:
    """A name beside `path` to write to; renamed to it at the end, removed on any error."""
    building = beside(path, suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield building
        building.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            building.unlink()


def _record(landscape: Landscape) -> dict[str, Any]:
    """What is known beside the arrays, as JSON data."""
    axes = [{"name": axis.name, "label": axis.label} for axis in landscape.grid.axes]
    return {"axes": axes, "error": encode(landscape.error), "meta": encode(landscape.meta)}


def _record_text(landscape: Landscape) -> str:
    return json.dumps(_record(landscape), allow_nan=False)


def _library(name: str, kind: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f".{kind} files need {name.split('.')[0]}: pip install 'loss-atlas[io]'") from error


# --------------------------------------------------------------------------------------- text and NumPy files


def _write_json(landscape: Landscape, path: Path) -> None:
    record = _record(landscape)
    for axis, entry in zip(landscape.grid.axes, record["axes"]):
        entry["values"] = encode(axis.values)
    record["outputs"] = {
        name: {
            "dims": dims(landscape.grid, name, value.ndim),
            "dtype": value.dtype.name,
            "values": encode(value),
        }
        for name, value in landscape.values.items()
    }
    record[DONE] = encode(landscape.computed)
    path.write_text(json.dumps(record, allow_nan=False), encoding="utf-8")


def _write_npz(landscape: Landscape, path: Path) -> None:
    arrays = {axis.name: axis.values for axis in landscape.grid.axes} | dict(landscape.values)
    arrays |= {DONE: landscape.computed, RECORD: np.array(_record_text(landscape))}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _write_csv(landscape: Landscape, path: Path) -> None:
    grid, columns = landscape.grid, _columns(landscape)
    cells = [*grid.points().T, *(column.reshape(-1) for column in columns.values())]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*grid.names, *columns])
        writer.writerows(zip(*(cell.tolist() for cell in cells)))


def _columns(landscape: Landscape) -> dict[str, np.ndarray]:
    """One number a point each, shape `grid.shape`: outputs by component, then the mask. Booleans as 1, 0."""
    columns: dict[str, np.ndarray] = {}
    for name, value in {**landscape.values, DONE: landscape.computed}.items():
        value = value.astype(np.uint8) if value.dtype == bool else value
        for component in np.ndindex(value.shape[landscape.grid.ndim :]):
            column = "_".join([name, *map(str, component)])
            if column in columns or column in landscape.grid.names:
                raise ValueError(f"two columns would be called {column!r}; rename an output")
            columns[column] = value[(..., *component)]
    return columns


# ----------------------------------------------------------------------------------------------- HDF5, netCDF


def _write_nc(landscape: Landscape, path: Path) -> None:
    _library("h5netcdf", "nc")
    dataset = landscape.to_xarray()
    # A variable, not an attribute: HDF5 refuses attributes above 64 kB, and meta may hold long paths.
    dataset[RECORD] = ((), _record_text(landscape))
    _try_room(path, landscape)
    dataset.to_netcdf(path, engine="h5netcdf")


def _write_h5(landscape: Landscape, path: Path) -> None:
    h5py, outputs = _library("h5py", "h5"), _li_outputs(landscape)
    _try_room(path, landscape)
    with h5py.File(path, "w") as file:
        for key, axis in zip(("xcoordinates", "ycoordinates"), landscape.grid.axes):
            file[key] = axis.values
        for key, value in {**outputs, DONE: landscape.computed}.items():
            file[key] = value if landscape.grid.ndim == 1 else value.swapaxes(0, 1)
        file[RECORD] = _record_text(landscape)


def _try_room(path: Path, landscape: Landscape) -> None:
    """Fill a file as large as the one to come and delete it: HDF5 does not survive a disk that gets full under it."""
    size = sum(8 * value.size for value in landscape.values.values()) + len(_record_text(landscape)) + 2**16
    with path.open("wb") as file:
        for start in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - start)))
    path.unlink()


def _li_outputs(landscape: Landscape) -> dict[str, np.ndarray]:
    """All outputs under the keys of Li et al. where there is one, in their units."""
    sources = {key: next((n for n in names if n in landscape), None) for key, names in LI_KEYS.items()}
    if sources["train_loss"] is None:
        raise ValueError(f"h5 needs an output train_loss or loss; this landscape has {', '.join(landscape)}")
    used = {key: source for key, source in sources.items() if source is not None}
    known = {key: _percent(n, landscape[n]) if "acc" in key else landscape[n] for key, n in used.items()}
    others = {name: landscape[name] for name in landscape if name not in used.values()}
    return {key: value.astype(np.float64) for key, value in known.items()} | others


def _percent(name: str, value: np.ndarray) -> np.ndarray:
    finite = value[np.isfinite(value)]
    if np.any(finite < 0) or np.any(finite > 1 + 1e-6):
        raise ValueError(f"{name!r} must be a fraction, in [0, 1], got {finite.min():.4g} to {finite.max():.4g}")
    return 100.0 * value.astype(np.float64)


# --------------------------------------------------------------------------------------------------- ParaView


def _write_vti(landscape: Landscape, path: Path) -> None:
    axes = landscape.grid.axes
    origin = [float(axis.values[0]) for axis in axes] + [0.0] * (3 - len(axes))
    spacing = [_step(axis) for axis in axes] + [1.0] * (3 - len(axes))
    data = _point_data(landscape)
    _library("pyevtk.hl", "vti").imageToVTK(str(path.with_suffix("")), origin, spacing, pointData=data)


def _write_vtr(landscape: Landscape, path: Path) -> None:
    coords = [axis.values for axis in landscape.grid.axes] + [np.zeros(1)] * (3 - landscape.grid.ndim)
    data = _point_data(landscape)
    _library("pyevtk.hl", "vtr").gridToVTK(str(path.with_suffix("")), *coords, pointData=data)


def _step(axis: Axis) -> float:
    """The distance between coordinates, as a Python float: pyevtk prints NumPy 2's as `np.float64(0.5)`."""
    if len(axis) == 1:
        return 1.0
    step = float(axis.values[-1] - axis.values[0]) / (len(axis) - 1)
    if np.any(np.abs(axis.values[0] + step * np.arange(len(axis)) - axis.values) > UNIFORM * step):
        raise ValueError(f".vti needs equal steps, and those of {axis.name!r} are not; write .vtr")
    return step


def _point_data(landscape: Landscape) -> dict[str, np.ndarray]:
    """Columns as VTK arrays of shape `(nx, ny, nz)`; pyevtk neither escapes names nor knows short floats."""
    shape = landscape.grid.shape + (1,) * (3 - landscape.grid.ndim)
    data: dict[str, np.ndarray] = {}
    for name, column in _columns(landscape).items():
        column = column.astype(np.float32) if column.dtype == np.float16 else column
        data[escape(name, {'"': "&quot;"})] = np.ascontiguousarray(column).reshape(shape)
    return data


# ----------------------------------------------------------------------------------------------------- meshes


def _write_mesh(landscape: Landscape, path: Path) -> None:
    from landscape.plotting._mesh import solid, surface_mesh

    kind, trimesh = path.suffix[1:], _library("trimesh", path.suffix[1:])
    mesh = surface_mesh(landscape, landscape.names[0])
    mesh = solid(mesh) if kind == "stl" else mesh
    vertices, colors = mesh.vertices, mesh.colors
    if kind == "glb":  # height along y, and linear colours: glTF 2.0, 3.4 and 3.7.2.1
        vertices, colors = vertices[:, [0, 2, 1]] * [1, 1, -1], _linear(colors)
    made = trimesh.Trimesh(vertices, mesh.faces, vertex_colors=colors, process=False)
    path.write_bytes(made.export(file_type=kind))


def _linear(colors: np.ndarray) -> np.ndarray:
    """sRGB bytes as bytes of linear light; opacity stays."""
    share = colors[:, :3] / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.column_stack([np.round(255 * linear).astype(np.uint8), colors[:, 3]])


_WRITERS: dict[str, Callable[[Landscape, Path], None]] = {
    "json": _write_json,
    "npz": _write_npz,
    "csv": _write_csv,
    "nc": _write_nc,
    "h5": _write_h5,
    "vti": _write_vti,
    "vtr": _write_vtr,
    **dict.fromkeys(MESHES, _write_mesh),
}
