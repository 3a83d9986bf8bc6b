"""A surface as triangles with the colours of `heatmap`, for programs that show or print solids."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps

from landscape.grid import Landscape
from landscape.plotting._field import Field, check_extended, field_of, scale_of

HEIGHT = 0.4  # of the surface, as a share of the longer side of its ground
PLATE = 0.05  # thickness of a solid below its lowest point, likewise


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with a colour at each corner.

    Attributes:
        vertices: float64, shape `(n, 3)`: both coordinates and the height.
        faces: indices of vertices, counter-clockwise from outside, shape `(m, 3)`.
        colors: uint8 RGBA in sRGB, shape `(n, 4)`.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray


def surface_mesh(landscape: Landscape, name: str, scale: str = "auto") -> Mesh:
    """The surface of an output over two axes, without the triangles that have a corner without a finite value.

    The ground keeps its coordinates; heights are brought to `HEIGHT` of its longer side, on the scale of the colours.

    Raises:
        KeyError: there is no such output.
        TypeError: the output is not real.
        ValueError: another number of axes, several values a point, fewer than two points along an axis, or no triangle
            whose corners all have a value.
    """
    field = field_of(landscape, name, "a mesh", 2)
    check_extended(landscape.grid, "a mesh")
    if not field.shown.any():
        raise ValueError(f"a mesh needs finite values, and {name!r} has none")
    resolved = scale_of([field], scale)
    faces = _triangles(field)
    if not len(faces):
        raise ValueError(f"no three neighbours of {name!r} are all finite, so there is no surface")
    ground = landscape.grid.points()
    side = np.ptp(ground, axis=0).max()
    shown = np.where(field.shown, field.values, resolved.low)
    heights = _heights(shown.reshape(-1), resolved.kind == "log")
    vertices = np.column_stack([ground, HEIGHT * side * heights])
    colors = colormaps.get_cmap(resolved.cmap)(resolved.norm(shown.reshape(-1)), bytes=True)
    return _compact(Mesh(vertices, faces, np.asarray(colors, np.uint8)))


def solid(mesh: Mesh) -> Mesh:
    """The same surface with walls and a flat ground, which a printer can fill: every edge belongs to two triangles."""
    vertices, num = mesh.vertices, len(mesh.vertices)
    low = vertices[:, 2].min() - PLATE * np.ptp(vertices[:, :2], axis=0).max()
    below = np.column_stack([vertices[:, :2], np.full(num, low)])
    a, b = _border(mesh.faces).T
    walls = np.concatenate([np.stack([b, a, a + num], axis=1), np.stack([b, a + num, b + num], axis=1)])
    faces = np.concatenate([mesh.faces, mesh.faces[:, ::-1] + num, walls])
    return Mesh(np.concatenate([vertices, below]), faces, np.concatenate([mesh.colors, mesh.colors]))


def _triangles(field: Field) -> np.ndarray:
    """Two triangles for each cell of the grid, where all corners are shown, shape `(m, 3)`."""
    index = np.arange(field.values.size).reshape(field.values.shape)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return faces[field.shown.reshape(-1)[faces].all(axis=1)]


def _heights(values: np.ndarray, log: bool) -> np.ndarray:
    """Values brought to [0, 1], on a log scale of their logarithms; a constant is flat."""
    raised = np.log(np.maximum(values, values[values > 0].min())) if log else values
    low, high = raised.min(), raised.max()
    return (raised / 2 - low / 2) / (high / 2 - low / 2) if high > low else np.zeros_like(raised)


def _border(faces: np.ndarray) -> np.ndarray:
    """Edges of one triangle alone, in its direction, shape `(k, 2)`."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, index, counts = np.unique(np.sort(edges, axis=1), axis=0, return_index=True, return_counts=True)
    return edges[index[counts == 1]]


def _compact(mesh: Mesh) -> Mesh:
    """The mesh without vertices that no triangle has."""
    used, faces = np.unique(mesh.faces, return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3), mesh.colors[used])
