"""Moving pictures: one scale for all frames, the path up to the frame, files that are whole."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.animation import FFMpegWriter
from matplotlib.collections import QuadMesh

import landscape as ls
from landscape import plotting

X, Y, STEPS = np.linspace(-1.5, 2.5, 6), np.linspace(-2.0, 0.5, 5), np.array([0.0, 10.0, 40.0, 70.0])


@pytest.fixture
def landscape():
    grid = ls.Grid((ls.Axis("alpha", X), ls.Axis("beta", Y), ls.Axis("step", STEPS)))
    x, y, step = np.meshgrid(X, Y, STEPS, indexing="ij")
    values = (x - step / 40) ** 2 + 0.3 * y + 2.5 + 0.01 * step
    values[2, 3, 1] = np.nan
    path = {
        "coords": np.stack([[0.5, 0.7, 1.0, 1.2, 1.75], [-0.5, -0.25, 0.0, 0.0, -1.0]], 1),
        "step": [0, 5, 10, 60, 70],
    }
    return ls.Landscape(grid, {"loss": values}, np.ones(grid.shape, bool), meta={"paths": {"Adam": path}})


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def drawn(animation, frame):
    animation._func(frame)
    (ax,) = (ax for ax in animation._fig.axes if ax.get_title())
    mesh = next(c for c in ax.collections if isinstance(c, QuadMesh))
    return ax, mesh


def silent(animation):
    """An animation that is not saved warns when it is deleted, unless it has begun."""
    animation._draw_was_started = True
    return animation


def test_frames_share_one_scale_and_show_their_own_values(landscape):
    animation = silent(plotting.animate(landscape, "loss", contours=4))
    finite = landscape["loss"][np.isfinite(landscape["loss"])]
    limits = set()
    for i, step in enumerate(STEPS):
        ax, mesh = drawn(animation, i)
        np.testing.assert_array_equal(
            np.ma.filled(mesh.get_array().reshape(5, 6), np.nan), landscape["loss"][:, :, i].T
        )
        limits.add((mesh.norm.vmin, mesh.norm.vmax))
        assert ax.get_title() == f"step {step:g}"
    assert limits == {(finite.min(), finite.max())}


def test_a_path_is_shown_up_to_the_frame(landscape):
    animation = silent(plotting.animate(landscape, "loss"))
    coords = landscape.meta["paths"]["Adam"]["coords"]
    for frame, count in enumerate((1, 3, 3, 5)):
        ax, _ = drawn(animation, frame)
        trail, dot = ax.lines[-2:]
        np.testing.assert_array_equal(np.transpose(trail.get_data()), coords[:count])
        np.testing.assert_array_equal(np.transpose(dot.get_data()), coords[count - 1 : count])
        assert ax.get_xlim() == (X[0] - 0.4, X[-1] + 0.4)


def test_another_axis_can_be_played_and_paths_may_have_a_point_a_frame(landscape):
    other = ls.Landscape(landscape.grid, dict(landscape.values), landscape.computed)
    coords = np.stack([np.full(6, -1.0), np.linspace(5, 60, 6)], 1)
    animation = silent(plotting.animate(other, "loss", axis="alpha", paths={"run": {"coords": coords}}, contours=False))
    ax, mesh = drawn(animation, 3)
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array().reshape(4, 5), np.nan), other["loss"][3].T)
    np.testing.assert_array_equal(np.transpose(ax.lines[-2].get_data()), coords[:4])


def test_files_are_whole_and_have_every_frame(landscape, tmp_path):
    from PIL import Image

    animation = plotting.animate(landscape, "loss", hold=2, contours=False)
    written = plotting.save_animation(animation, tmp_path / "new" / "film")
    assert [path.suffix for path in written] == [".gif", ".mp4"][: 1 + FFMpegWriter.isAvailable()]
    with Image.open(written[0]) as film:
        assert film.n_frames == len(STEPS)  # equal frames are one that lasts
        lasting = []
        for frame in range(film.n_frames):
            film.seek(frame)
            lasting.append(film.info["duration"])
    assert lasting == [100, 100, 100, 300]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in written}


def test_a_film_without_ffmpeg_is_refused_where_it_is_asked_for(landscape, tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    animation = silent(plotting.animate(landscape, "loss"))
    with pytest.raises(ValueError, match="the format 'mp4' needs ffmpeg"):
        plotting.save_animation(animation, tmp_path / "film", formats=["mp4"])
    with pytest.raises(ValueError, match="'avi' is not among gif, mp4"):
        plotting.save_animation(animation, tmp_path / "film", formats=["avi"])
    with pytest.raises(TypeError, match="as animate returns, got None"):
        plotting.save_animation(None, tmp_path / "film")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"axis": "gamma"}, ValueError, "axis must be one of alpha, beta, step, got 'gamma'"),
        ({"interval": -1}, ValueError, "interval must be positive"),
        ({"interval": "fast"}, TypeError, "interval must be a real number"),
        ({"paths": {"run": np.ones((3, 2))}}, ValueError, "path 'run': step must be 3 numbers"),
        ({"paths": {"run": {"coords": np.ones((2, 2)), "step": [3, 1]}}}, ValueError, "that do not decrease"),
        ({"scale": 5}, TypeError, "scale must be a string"),
        ({"contours": "many"}, TypeError, "contours"),
    ],
)
def test_bad_options_are_named(landscape, options, error, message):
    with pytest.raises(error, match=message):
        plotting.animate(landscape, "loss", **options)


def test_other_landscapes_are_refused(landscape):
    with pytest.raises(KeyError):
        plotting.animate(landscape, "accuracy")
    with pytest.raises(ValueError, match="animate draws 3 axes, this landscape has 2"):
        plotting.animate(landscape.slice(step=0), "loss")
