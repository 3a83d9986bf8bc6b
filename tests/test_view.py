"""The page of a landscape as text: what travels, what is refused, what the command line does. No browser is needed."""

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from landscape import Axis, Grid, Landscape, save
from landscape.cli import main
from landscape.view._packing import pack

pytest.importorskip("plotly", reason="pages need the extra `view`")
from landscape import view

GRID = Grid.of(x=[-2.0, -0.5, 0.25, 3.5], y=[0.5, 1.5, 2.75])
LOSS = np.array([[2.5, 3.5, 7.25], [1.75, np.nan, 2.125], [0.1, np.inf, 5.5], [-np.inf, 6.5, -0.0]], np.float32)
HOSTILE = "<script>alert('x')</script> \"&amp; \u202eabc\u200f <!-- " + 10_000 * "y"


def plane(values=None, grid=GRID, **options):
    values = {"train_loss": LOSS} if values is None else values
    return Landscape(grid, values, np.ones(grid.shape, dtype=bool), **options)


class Parts(HTMLParser):
    """The scripts and meta tags of a page, read by Python's own parser."""

    def __init__(self, html):
        super().__init__()
        self.scripts, self.meta, self.tags, self.inside = [], {}, [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "meta":
            self.meta[attrs.get("http-equiv") or attrs.get("name") or "charset"] = attrs.get("content")
        self.inside = attrs if tag == "script" else None
        if tag == "script":
            self.scripts.append((attrs, ""))

    def handle_data(self, data):
        if self.inside is not None:
            attrs, text = self.scripts.pop()
            self.scripts.append((attrs, text + data))

    def handle_endtag(self, tag):
        self.inside = None

    @property
    def content(self):
        return json.loads(next(text for attrs, text in self.scripts if attrs.get("id") == "content"))


# ------------------------------------------------------------------------------------------------------ what travels


def unpacked(packed):
    """Another way back: by sums modulo 2**n over columns of bytes."""
    data = gzip.decompress(base64.b64decode(packed["data"]))
    dtype = np.dtype(packed["type"])
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1).astype(object)
    steps = sum(planes[k] * 256**k for k in range(dtype.itemsize))
    total, bits = 0, []
    for step in steps:
        total = (total + int(step)) % 2 ** (8 * dtype.itemsize)
        bits.append(total)
    return np.array(bits, f"<u{dtype.itemsize}").view(dtype).reshape(packed["shape"])


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        (LOSS, "float32"),
        (LOSS.astype(np.float64) / 3, "float64"),
        (np.array([0.1, 2.5], np.float16), "float32"),
        (np.array([-7, 3, 2**31 - 1], np.int64), "int32"),
        (np.array([-(2**53), 5, 2**53]), "float64"),
        (np.array([3, 2**32 - 1], np.uint32), "float64"),
        (np.array([[True, False], [False, True]]), "uint8"),
    ],
)
def test_arrays_come_back_to_the_last_bit(values, sent):
    packed = pack(values)
    assert packed["type"] == sent
    back = unpacked(packed)
    assert back.dtype == sent
    assert back.tobytes() == values.astype(sent).tobytes()


def test_not_a_number_keeps_its_payload():
    values = np.array([0x7FC00123, 0xFFC00001], np.uint32).view(np.float32)
    assert unpacked(pack(values)).tobytes() == values.tobytes()


def test_a_page_is_the_same_every_time():
    assert view.page(plane()) == view.page(plane())


def test_a_page_names_no_address_and_allows_none():
    parts = Parts(view.page(plane()))
    policy = parts.meta["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert rules["style-src"] == "'unsafe-inline'"
    assert not re.search(r"unsafe-eval|https?:|\*", policy)
    assert "unsafe-inline" not in rules["script-src"]
    run = [text for attrs, text in parts.scripts if "type" not in attrs]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    addresses = [attrs[key] for _, attrs in parts.tags for key in ("src", "href") if key in attrs]
    assert addresses == ["data:,"]


def test_names_stay_in_the_data_whatever_they_hold():
    grid = Grid((Axis("x", [0.5, 2.5], HOSTILE), Axis("y", [1.5, 2.5])))
    hostile = Landscape(grid, {HOSTILE: np.full((2, 2), 2.5)}, np.ones((2, 2), bool), {}, {HOSTILE: {"k": HOSTILE}})
    harmless, page = view.page(plane()), view.page({HOSTILE: hostile}, title=HOSTILE, output=HOSTILE)
    parts = Parts(page)
    assert parts.content["title"] == HOSTILE
    assert list(parts.content["landscapes"][0]["outputs"]) == [HOSTILE]
    kinds = [(attrs.get("type"), attrs.get("id")) for attrs, _ in parts.scripts]
    assert kinds == [(attrs.get("type"), attrs.get("id")) for attrs, _ in Parts(harmless).scripts]
    assert "alert('x')</script>" not in page


def test_what_a_page_cannot_show_is_named_on_it():
    values = {
        "loss": LOSS,
        "ends": np.zeros((*GRID.shape, 2)),
        "wide": np.zeros((*GRID.shape, 17)),
        "wave": LOSS.astype(np.complex64),
        "huge": np.full(GRID.shape, 2**60),
    }
    one = Parts(view.page(plane(values))).content["landscapes"][0]
    assert list(one["outputs"]) == ["loss", "ends_0", "ends_1"]
    said = " ".join(one["trust"])
    for name in ("wide", "wave", "huge"):
        assert f"“{name}” is not on this page" in said


# ---------------------------------------------------------------------------------------------------- words


def test_promises_of_a_sweep_at_a_tolerance_are_in_words():
    computed = np.ones(GRID.shape, bool)
    computed[2, 1] = False
    refinement = {
        "confidence": 0.95,
        "outputs": {"train_loss": {"driver": "smooth", "transform": None, "error": 0.0375, "fraction": 0.0125}},
        "left_out": {"steps": "looks piecewise constant"},
        "warnings": ["a doubt of the sweep"],
    }
    landscape = Landscape(
        GRID,
        {"train_loss": LOSS, "steps": np.full(GRID.shape, 7)},
        computed,
        {"train_loss": 0.0375},
        {"refinement": refinement},
    )
    one = Parts(view.page(landscape)).content["landscapes"][0]
    promise = one["outputs"]["train_loss"]["promise"]
    assert "estimated largest error 0.0375" in promise
    assert "95% confidence at most 1.25% of all points are off by more" in promise
    assert not one["outputs"]["steps"]["predicts"]
    assert "11 of 12 were measured" in one["about"][0]
    assert any("steps" in line and "piecewise constant" in line for line in one["trust"])
    assert "a doubt of the sweep." in one["trust"]


def test_the_geometry_of_the_plane_is_in_words():
    # lengths 2 and 5 at 60 degrees: the off-diagonal is 2 * 5 / 2
    surface = {
        "gram": [[4.0, 5.0], [5.0, 25.0]],
        "path_residual": 1.5,
        "path_length": 6.0,
        "gradient_share": [0.5, 0.25],
    }
    said = " ".join(Parts(view.page(plane(meta={"surface": surface}))).content["landscapes"][0]["trust"])
    assert "lengths 2, 5 and meet at 60.0°" in said
    assert "up to 1.5 off this plane, 25% of its length" in said
    assert "37.5% of the squared gradient lies in this plane, 25.0% at the end" in said


def test_labels_have_the_colours_and_names_of_the_plots():
    from landscape.plotting._labels import label_color

    labels = np.array([[0, 1, -1], [3, -2, 0], [1, 1, 1], [3, 3, 0]], np.int32)
    output = Parts(view.page(plane({"label": labels}))).content["landscapes"][0]["outputs"]["label"]
    kinds = {c["value"]: (c["name"], c["color"]) for c in output["categories"]}
    assert set(kinds) == {-2, -1, 0, 1, 3}
    assert kinds[-2][0] == "diverged"
    assert kinds[3] == ("minimum 3", label_color(3))


# ---------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize("value", [None, 3.5, "run.zarr", [plane(), 3], {"a": None}, {3: plane()}])
def test_what_is_no_landscape_is_refused(value):
    with pytest.raises(TypeError, match="Landscape|text"):
        view.page(value)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"output": "test_loss"}, KeyError, "no output 'test_loss'.*train_loss"),
        ({"output": 3}, TypeError, "output must be text, got int 3"),
        ({"title": ["a"]}, TypeError, "title must be text"),
        ({"paths": "Adam"}, TypeError, "paths must be"),
        ({"paths": {"Adam": {"loss": [2.5]}}}, ValueError, "lacks 'coords'"),
        ({"paths": {"Adam": [[2.5], [3.5]]}}, ValueError, r"coords must have shape \(T, 2\)"),
        ({"paths": {"Adam": [[2.5, 3.5], [4.5]]}}, ValueError, "rows of one length"),
        ({"paths": {3: [[2.5, 3.5]]}}, TypeError, "label of a path"),
        ({"paths": {"Adam": {"coords": [[2.5, 3.5]], "residual": [2.5, 3.5]}}}, ValueError, "residual must have shape"),
        ({"points": {"hills": [[2.5, 3.5]]}}, ValueError, "hills"),
        ({"points": 3}, TypeError, "points"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        view.page(plane(), **options)


def test_no_landscape_and_nothing_to_show_are_refused():
    with pytest.raises(ValueError, match="no landscape to show"):
        view.page([])
    with pytest.raises(ValueError, match="no output can be shown.*complex64"):
        view.page(plane({"wave": LOSS.astype(np.complex64)}))
    with pytest.raises(ValueError, match="the grid has no axes"):
        view.page(Landscape(Grid(()), {"loss": np.array(2.5)}, np.array(True)))


def test_too_much_for_a_browser_is_refused():
    grid = Grid.square(2.5, 2**13)
    values = np.broadcast_to(np.float64(3.5), grid.shape)
    with pytest.raises(ValueError, match=r"512 MiB, and a page holds at most 256.*slice"):
        view.page(Landscape(grid, {"loss": values}, np.broadcast_to(True, grid.shape)))


def test_without_plotly_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"plotly 6 or later: pip install 'loss-atlas\[view\]'"):
        view.page(plane())


# ---------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(plane(), tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def failing(capsys, *arguments):
    assert main(["view", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("landscape: ")
    return err


def test_view_writes_a_page_named_after_the_run(run, capsys):
    assert main(["view", str(run)]) == 0
    assert capsys.readouterr().out == "wrote run.html\n"
    content = Parts(Path("run.html").read_text(encoding="utf-8")).content
    assert [one["title"] for one in content["landscapes"]] == ["run"]


def test_view_takes_several_runs_an_output_and_a_slice(run, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    shutil.copytree(run, tmp_path / "other" / "run.zarr")
    out = tmp_path / "new" / "page.htm"
    words = [run, tmp_path / "other" / "run.zarr", "--out", out, "--output", "train_loss", "--slice", "y=1"]
    assert main(["view", *map(str, words)]) == 0
    content = Parts(out.read_text(encoding="utf-8")).content
    assert [one["title"] for one in content["landscapes"]] == [str(run), str(tmp_path / "other" / "run.zarr")]
    assert [[axis["name"] for axis in one["axes"]] for one in content["landscapes"]] == [["x"], ["x"]]


def test_view_opens_the_page(run, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    assert main(["view", str(run), "--open"]) == 0
    assert opened == [Path("run.html").resolve().as_uri()]
    assert "no browser was found; open run.html in one" in capsys.readouterr().err


def test_view_refuses_what_is_there_and_what_it_cannot_read(run, tmp_path, capsys):
    Path("run.html").write_text("mine")
    assert "run.html is there already" in failing(capsys, run)
    assert Path("run.html").read_text() == "mine"
    assert main(["view", str(run), "--force"]) == 0
    capsys.readouterr()
    assert "a page is .html or .htm" in failing(capsys, run, "--out", "page.png")
    assert "no output 'acc'" in failing(capsys, run, "--output", "acc", "--out", "a.html")
    (tmp_path / "foreign.zarr").mkdir()
    (tmp_path / "foreign.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert "not one of a landscape" in failing(capsys, tmp_path / "foreign.zarr", "--out", "b.html")
    assert "found nothing" in failing(capsys, tmp_path / "absent.zarr", "--out", "c.html")
    (tmp_path / "file").write_text("")
    assert "cannot write" in failing(capsys, run, "--out", tmp_path / "file" / "d.html")


def test_pages_load_no_jax():
    code = "import sys; from landscape import view; view.page; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------------------------------------------- notebooks


def picture_in(html):
    from matplotlib import image

    data = re.search(r'src="data:image/png;base64,([^"]+)"', html)[1]
    return image.imread(io.BytesIO(base64.b64decode(data)))


def test_a_notebook_shows_a_table_and_a_picture():
    html = plane({"train_loss": LOSS, "steps": np.arange(12).reshape(GRID.shape) + 5})._repr_html_()
    assert len(html) < 100_000
    rows = re.findall(r"<tr><td><bdi>(\w+)</bdi></td><td>([^<]+)</td><td>([^<]+)</td><td>([^<]+)</td>", html)
    # NaN, inf and -inf are not finite; the least of the others is -0
    assert rows == [("train_loss", "-0", "7.25", "3"), ("steps", "5", "16", "0")]
    assert picture_in(html)[..., :3].std() > 0.05


@pytest.mark.parametrize("shape", [(9,), (700, 600), (4, 5, 3), (1, 1)])
def test_notebook_pictures_of_any_shape_are_small(shape):
    grid = Grid(tuple(Axis(f"a{i}", np.linspace(0.5, 2.5, n) if n > 1 else [0.5]) for i, n in enumerate(shape)))
    noise = np.random.default_rng(7).normal(size=shape) + 7.5
    html = plane({"loss": noise}, grid)._repr_html_()
    assert len(html) < 100_000
    assert picture_in(html).size


def test_notebooks_show_hostile_names_as_text_and_what_cannot_be_drawn_without_a_picture():
    html = plane({HOSTILE: LOSS.astype(np.complex64)})._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in html
    assert "<img" not in html
    assert len(html) < 5000


@pytest.mark.parametrize("given", [{"step": [10, 20, 30, 40]}, {}], ids=["steps", "a point a frame"])
def test_a_path_over_time_may_leave_the_played_axis_out(given):
    from landscape.view._paths import paths_of

    grid = Grid(tuple(Axis.linspace(n, -1, 1, 3) for n in "ab") + (Axis("step", np.arange(10.0, 50, 10)),))
    film = Landscape(grid, {"loss": np.zeros(grid.shape)}, np.ones(grid.shape, bool), {"loss": None})
    coords = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    taken = paths_of(film, {"SGD": {"coords": coords, **given}})["SGD"]["coords"]
    np.testing.assert_array_equal(taken, np.column_stack([coords, [10, 20, 30, 40]]))
    with pytest.raises(ValueError, match=r"coords must have shape \(T, 3\)"):
        paths_of(film, {"SGD": coords[:3]})
    assert '"name": "step"' in view.page(film, paths={"SGD": {"coords": coords, **given}})
