"""Meshes, read back by readers of a few lines that follow the published formats and know nothing of their writer."""

import json
import struct

import numpy as np
import pytest
from matplotlib import colormaps

from landscape import Axis, Grid, Landscape, save
from landscape.cli import main
from landscape.export import export

pytest.importorskip("trimesh", reason="meshes need the extra `io`")

X, Y = np.array([-2.0, -0.5, 1.0, 3.0, 4.0]), np.array([0.5, 1.5, 3.5, 4.5])
A, B = np.meshgrid(X, Y, indexing="ij")
LOSS = (3.0 + A + 0.5 * B).astype(np.float32)


def surface(loss=LOSS, **values):
    grid = Grid((Axis("x", X), Axis("y", Y)))
    return Landscape(grid, {"steps": np.arange(20).reshape(5, 4), "loss": loss, **values}, np.ones((5, 4), bool))


def read_glb(path):
    """glTF 2.0, section 4.4: a header, a JSON chunk and a binary one."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size = struct.unpack_from("<I", data, 12)[0]
    tree, binary = json.loads(data[20 : 20 + size]), data[28 + size :]

    def accessor(number):
        said = tree["accessors"][number]
        view = tree["bufferViews"][said["bufferView"]]
        dtype = {5121: np.uint8, 5125: np.uint32, 5126: np.float32}[said["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[said["type"]]
        start = view.get("byteOffset", 0) + said.get("byteOffset", 0)
        return np.frombuffer(binary, dtype, said["count"] * width, start).reshape(-1, width)

    part = tree["meshes"][0]["primitives"][0]
    attributes = {name: accessor(number) for name, number in part["attributes"].items()}
    return attributes["POSITION"], accessor(part["indices"]).reshape(-1, 3), attributes["COLOR_0"]


def read_ply(path):
    """Binary PLY: a header in text, then rows."""
    head, _, data = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().split("\n")
    assert "format binary_little_endian 1.0" in lines
    counts = [int(line.split()[2]) for line in lines if line.startswith("element")]
    kinds = {"float": "<f4", "double": "<f8", "uchar": "u1"}
    fields = [tuple(line.split()[1:][::-1]) for line in lines if line.startswith("property") and "list" not in line]
    row = np.dtype([(name, kinds[kind]) for name, kind in fields])
    vertices = np.frombuffer(data, row, counts[0])
    faces = np.frombuffer(data, np.dtype([("n", "u1"), ("i", "<i4", 3)]), counts[1], counts[0] * row.itemsize)
    assert set(faces["n"]) == {3}
    points = np.stack([vertices[name] for name in "xyz"], axis=1)
    return points, faces["i"], np.stack([vertices[name] for name in ("red", "green", "blue", "alpha")], axis=1)


def read_stl(path):
    """Binary STL: 80 bytes, a count, 50 bytes for each triangle."""
    data = path.read_bytes()
    row = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    count = struct.unpack_from("<I", data, 80)[0]
    assert len(data) == 84 + 50 * count
    return np.frombuffer(data, row, count, 84)["corners"].astype(np.float64)


def expected_colors():
    return np.asarray(colormaps["viridis"]((LOSS - LOSS.min()) / np.ptp(LOSS), bytes=True)).reshape(-1, 4)


def by_place(points, *columns):
    order = np.lexsort((points[:, 1], points[:, 0]))
    return [column[order] for column in (points, *columns)]


def test_ply_has_the_coordinates_heights_and_colours_of_the_map(tmp_path):
    points, faces, colors = read_ply(export(surface(), tmp_path / "a.ply"))
    points, colors = by_place(points, colors)
    np.testing.assert_allclose(points[:, :2], np.stack([A, B], axis=-1).reshape(-1, 2), rtol=1e-6)
    # 0.4 of the longer side of the ground, which is 6
    heights = 2.4 * (LOSS - LOSS.min()) / np.ptp(LOSS)
    np.testing.assert_allclose(points[:, 2], heights.reshape(-1), atol=1e-5)
    assert np.abs(colors.astype(int) - expected_colors()).max() <= 1
    assert len(faces) == 2 * 4 * 3


def test_faces_look_up(tmp_path):
    points, faces, _ = read_ply(export(surface(), tmp_path / "a.ply"))
    a, b, c = (points[faces[:, k]] for k in range(3))
    assert np.all(np.cross(b - a, c - a)[:, 2] > 0)


def test_glb_stands_upright_with_linear_colours(tmp_path):
    points, faces, colors = read_glb(export(surface(), tmp_path / "a.glb"))
    points, colors = by_place(np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1), colors)
    np.testing.assert_allclose(points[:, :2], np.stack([A, B], axis=-1).reshape(-1, 2), rtol=1e-6)
    linear = ((expected_colors()[:, :3] / 255 + 0.055) / 1.055) ** 2.4
    bright = expected_colors()[:, :3] > 15  # below, sRGB is a straight line
    assert np.abs(colors[:, :3] / 255 - linear)[bright].max() < 2 / 255
    assert len(faces) == 24


def test_stl_is_a_closed_solid_of_the_volume_of_its_prisms(tmp_path):
    corners = read_stl(export(surface(), tmp_path / "a.stl"))
    volume = np.einsum("ni,ni->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    # a plane, whose mean height is that of its middle, over a ground of 6 x 4 with a plate of 0.05 * 6
    middle = 2.4 * (3.0 + 1.0 + 0.5 * 2.5 - LOSS.min()) / np.ptp(LOSS)
    assert volume == pytest.approx(24 * (middle + 0.3), rel=1e-5)
    edges = np.round(np.concatenate([corners[:, [i, (i + 1) % 3]] for i in range(3)]), 4).reshape(-1, 6)
    there = {tuple(edge) for edge in edges}
    assert len(there) == len(edges)
    assert {(*edge[3:], *edge[:3]) for edge in there} == there


def test_what_is_not_finite_is_a_hole_and_the_solid_stays_closed(tmp_path):
    loss = LOSS.copy()
    loss[2, 1], loss[4, 3] = np.nan, np.inf
    points, faces, _ = read_ply(export(surface(loss), tmp_path / "a.ply"))
    # an inner point has six triangles, the last corner two
    assert len(faces) == 24 - 6 - 2
    assert np.isfinite(points).all()
    assert len(points) == 18
    corners = read_stl(export(surface(loss), tmp_path / "a.stl"))
    edges = np.round(np.concatenate([corners[:, [i, (i + 1) % 3]] for i in range(3)]), 4).reshape(-1, 6)
    there = {tuple(edge) for edge in edges}
    assert {(*edge[3:], *edge[:3]) for edge in there} == there


def test_another_output_and_a_log_scale(tmp_path):
    wide = 10.0 ** (A / 2)
    points, _, _ = read_ply(export(surface(wide=wide), tmp_path / "a.ply", output="wide"))
    (points,) = by_place(points)
    # three decades are drawn on a log scale, on which the height follows x
    np.testing.assert_allclose(points[:, 2], 2.4 * ((A + 2) / 6).reshape(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("landscape", "options", "error", "match"),
    [
        (surface(), {"output": "test_loss"}, KeyError, "no output 'test_loss'"),
        (surface(), {"output": 3}, TypeError, "output must be the name"),
        (surface(np.full((5, 4), np.nan)), {}, ValueError, "needs finite values"),
        (Landscape(Grid.line((0.5, 2.5), 5), {"loss": X}, np.ones(5, bool)), {}, ValueError, "2 axes"),
        (
            Landscape(Grid.of(x=[2.5], y=Y), {"loss": LOSS[:1]}, np.ones((1, 4), bool)),
            {},
            ValueError,
            "at least 2 points",
        ),
    ],
)
def test_what_makes_no_surface_is_refused(tmp_path, landscape, options, error, match):
    with pytest.raises(error, match=match):
        export(landscape, tmp_path / "a.ply", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_makes_meshes(tmp_path, capsys):
    save(surface(), tmp_path / "run.zarr")
    for kind in ("glb", "ply", "stl"):
        assert main(["export", str(tmp_path / "run.zarr"), str(tmp_path / f"a.{kind}"), "--output", "steps"]) == 0
    assert main(["export", str(tmp_path / "run.zarr"), str(tmp_path / "b.ply"), "--output", "acc"]) == 2
    assert "no output 'acc'" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run.zarr"), str(tmp_path / "b.csv"), "--output", "loss"]) == 2
    assert "output is for meshes" in capsys.readouterr().err
