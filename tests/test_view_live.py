"""Live planes: what the session computes, what the server refuses, and the page and the widget that ask."""

import base64
import gc
import gzip
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls
from landscape.cli import main
from landscape.subspace import redrawn
from landscape.view._packing import pack
from landscape.view._session import Session, View, turned

GRID = ls.Grid.square(1.5, 65)
WAIT = 240.0  # seconds, on a machine that does other things too


def waves(coords):
    return {"loss": jnp.sin(3 * coords[0]) + coords[1] ** 2}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Bowl:
    """A loss of three coordinates, on a subspace as the live plane asks for its dimension."""

    at: ls.Subspace

    def __call__(self, coords):
        x = self.at(coords)
        return {"loss": x[0] ** 2 + 3.0 * x[1] ** 2 + 7.0 * x[2] ** 2}


BOWL = Bowl(ls.Subspace(jnp.zeros(3), jnp.eye(3)))


class Heard:
    """What a session published, to be waited for."""

    def __init__(self):
        self.messages, self.news = [], threading.Condition()

    def __call__(self, message):
        with self.news:
            self.messages.append(message)
            self.news.notify_all()

    def wait(self, number, stage):
        def found():
            return [m for m in self.messages if m["id"] == number and m["stage"] in (stage, "error")]

        with self.news:
            assert self.news.wait_for(found, WAIT)
            assert found()[0]["stage"] == stage, found()[0]
            return found()[0]


@pytest.fixture
def session():
    opened = []

    def start(fn, grid=GRID, **options):
        opened.append(Session(fn, grid, heard := Heard(), **options))
        return opened[-1], heard

    yield start
    for one in opened:
        one.close()


def ask(session, number, low=(-1.5, -1.5), high=(1.5, 1.5), turn=()):
    session.ask({"id": number, "low": list(low), "high": list(high), "turn": list(turn)})


def same(message, name, values):
    assert message["content"]["outputs"][name]["values"] == pack(np.asarray(values))


def unpacked(packed):
    """The array that a page makes of packed data."""
    kind = np.dtype(packed["type"])
    shuffled = np.frombuffer(gzip.decompress(base64.b64decode(packed["data"])), np.uint8).reshape(kind.itemsize, -1)
    steps = np.ascontiguousarray(shuffled.T).view(f"<u{kind.itemsize}").reshape(-1)
    return np.cumsum(steps, dtype=steps.dtype).view(kind).reshape(packed["shape"])


# -------------------------------------------------------------------------------------------------- the session


def test_a_view_comes_coarse_and_then_as_sweep_computes_it(session):
    live, heard = session(waves, tolerance=None)
    ask(live, 3, (-0.5, 0.25), (1.0, 0.75))
    axes = [ls.Axis.linspace("alpha", -0.5, 1.0, 65), ls.Axis.linspace("beta", 0.25, 0.75, 65)]
    coarse = ls.Grid((ls.Axis.linspace("alpha", -0.5, 1.0, 33), ls.Axis.linspace("beta", 0.25, 0.75, 33)))
    same(heard.wait(3, "coarse"), "loss", ls.sweep(waves, coarse, progress=False)["loss"])
    same(heard.wait(3, "final"), "loss", ls.sweep(waves, ls.Grid(tuple(axes)), progress=False)["loss"])


def test_at_a_tolerance_the_values_are_those_of_sweep_and_their_promise_is_kept(session):
    live, heard = session(waves, ls.Grid.square(1.5, 129))
    ask(live, 1)
    message = heard.wait(1, "final")
    expected = ls.sweep(waves, ls.Grid.square(1.5, 129), tolerance=0.01, progress=False)
    assert not expected.computed.all()
    same(message, "loss", expected["loss"])
    assert message["content"]["computed"] == pack(expected.computed)


def test_what_was_computed_is_read_again(session, tmp_path):
    calls = []

    def counted(coords):
        calls.append(1)  # once for every trace
        return waves(coords)

    live, heard = session(counted, tolerance=None, store=tmp_path)
    ask(live, 1)
    first = heard.wait(1, "final")
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("c/*")}
    ask(live, 2)
    again = heard.wait(2, "final")
    assert again["content"]["outputs"] == first["content"]["outputs"]
    assert not [m for m in heard.messages if (m["id"], m["stage"]) == (2, "coarse")]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("c/*")} == made


def test_a_newer_request_gives_an_older_one_up(session):
    started, go_on = threading.Event(), threading.Event()

    def slow(coords):  # traced in the thread of the session
        started.set()
        assert go_on.wait(WAIT)
        return waves(coords)

    live, heard = session(slow, ls.Grid.square(1.5, 5), tolerance=None)
    ask(live, 1)
    assert started.wait(WAIT)
    for number in range(2, 6):
        ask(live, number)
    go_on.set()
    heard.wait(5, "final")
    # the one under way may have been too far to be given up; those between were never begun
    assert {m["id"] for m in heard.messages} <= {1, 5}


def test_errors_of_the_function_and_of_the_request_are_told_and_survived(session):
    def broken(coords):
        raise RuntimeError("no such layer")

    live, heard = session(broken)
    ask(live, 1)
    assert "RuntimeError: no such layer" in heard.wait(1, "error")["text"]
    live, heard = session(waves, tolerance=None)
    for number, request in enumerate(
        [{}, {"low": [1], "high": [2], "turn": []}, {"low": "ab", "high": 3, "turn": None}]
    ):
        live.ask({"id": number, **request})
        assert "a view has" in heard.wait(number, "error")["text"]
    ask(live, 7, (1.5, 0.0), (0.5, 1.0))
    assert "low < high" in heard.wait(7, "error")["text"]
    ask(live, 8)
    heard.wait(8, "final")


def test_a_zoom_beyond_the_precision_says_so(session):
    plane = ls.Subspace(jnp.array([2.5, 3.5]), jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    surface = ls.LossSurface(plane, ls.Objective(lambda p, _: jnp.sum(p**2)))
    live, heard = session(surface, tolerance=None)
    ask(live, 1, (0.0, 0.0), (1e-9, 1e-9))
    assert "float" in heard.wait(1, "error")["text"]


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def eventually(holds):
    """Whether it holds, at the latest after a while: the thread of a call that is over ends a little later."""
    deadline = time.monotonic() + WAIT
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def children():
    """Processes that this one started and that are still there."""
    return sorted(p.read_text() for p in Path("/proc/self/task").glob("*/children") if p.read_text())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory and processes are read from Linux's /proc")
def test_many_zooms_leave_no_threads_no_memory_and_no_files(session):
    live, heard = session(waves, ls.Grid.square(1.5, 129))
    folder = live.folder

    def zoom(number):
        ask(live, number, (-1.5 / 1.1**number,) * 2, (1.5 / 1.1**number,) * 2)
        heard.wait(number, "final")
        heard.messages.clear()  # what a page would have drawn and forgotten

    def held():
        """Arrays on devices, and landscapes in memory."""
        gc.collect()
        return len(jax.live_arrays()), sum(type(one) is ls.Landscape for one in gc.get_objects())

    for number in range(5):
        zoom(number)
    threads, processes, memory, kept = threading.active_count(), children(), resident(), held()
    for number in range(5, 25):
        zoom(number)
    assert held() == kept
    assert resident() - memory < 5e7  # of all else; the system gives and takes in large pieces
    assert eventually(lambda: threading.active_count() <= threads)
    assert children() == processes
    live.close()
    assert not folder.exists()
    assert "landscape-live" not in [thread.name for thread in threading.enumerate()]


def test_a_view_at_a_tolerance_comes_coarse_to_fine_and_says_what_is_predicted(session):
    live, heard = session(waves, ls.Grid.square(1.5, 129))
    ask(live, 1)
    heard.wait(1, "final")
    coarse = [m["content"] for m in heard.messages if m["stage"] == "coarse"]
    counts = [int(unpacked(one["computed"]).sum()) for one in coarse]
    assert counts[:3] == [9 * 9, 17 * 17, 33 * 33]
    assert all(one["outputs"]["loss"]["predicts"] for one in coarse)
    assert "nothing is promised yet" in coarse[0]["outputs"]["loss"]["promise"]


def test_a_newer_request_ends_the_pictures_of_an_older_one(session):
    class Impatient(Heard):
        """Asks for another view as soon as there is a picture of the first."""

        def __call__(self, message):
            if message["id"] == 1:
                ask(live, 2, (-0.5, -0.5), (0.5, 0.5))
            super().__call__(message)

    heard = Impatient()
    live = Session(waves, ls.Grid.square(1.5, 129), heard)
    try:
        ask(live, 1)
        heard.wait(2, "final")
        assert [(m["id"], m["stage"]) for m in heard.messages if m["id"] == 1] == [(1, "coarse")]
    finally:
        live.close()


def test_directions_turn_within_the_span():
    angle = 0.7
    np.testing.assert_allclose(turned(3, (0.0, 0.0)), np.eye(3)[:2])
    expected = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0]]
    np.testing.assert_allclose(turned(3, (angle, 0.0)), expected)
    many = turned(5, tuple(np.random.default_rng(7).uniform(-3, 3, 6)))
    np.testing.assert_allclose(many @ many.T, np.eye(2), atol=1e-12)


def test_a_turned_plane_has_the_values_of_the_span(session):
    live, heard = session(BOWL, num_axes=3, tolerance=None)
    ask(live, 1, turn=(np.pi / 2, 0.0))
    message = heard.wait(1, "final")
    x, y = np.meshgrid(*(axis.values for axis in GRID.axes), indexing="ij")
    # the first axis now runs along the third direction
    values = unpacked(message["content"]["outputs"]["loss"]["values"])
    np.testing.assert_allclose(values, 7 * x**2 + 3 * y**2, rtol=1e-5, atol=1e-6)


def test_a_random_direction_takes_the_place_of_the_last_one_with_its_norms(session):
    params = {"a": jnp.array([0.5, -0.5, 1.5]), "b": jnp.array([[2.5, 0.3]])}
    given = [
        {"a": jnp.array([3.0, 4.0, 0.0]), "b": jnp.zeros((1, 2))},
        {"a": jnp.ones(3), "b": jnp.array([[0.6, 0.8]])},
    ]
    surface = ls.LossSurface(ls.Subspace(params, given), ls.Objective(lambda p, _: jnp.sum(p["a"] ** 2) + p["b"][0, 1]))
    first, second, again = (redrawn(surface.at, number).directions for number in (1, 2, 1))
    for name, size in (("a", 3**0.5), ("b", 1.0)):
        np.testing.assert_array_equal(first[name][0], given[0][name])
        np.testing.assert_allclose(np.linalg.norm(first[name][1]), size, rtol=1e-6)
        np.testing.assert_array_equal(first[name], again[name])
        assert np.linalg.norm(first[name][1] - second[name][1]) > 0.01
        assert np.linalg.norm(first[name][1] - given[1][name]) > 0.01
    live, heard = session(surface, ls.Grid.square(1.5, 9), tolerance=None)
    live.ask({"id": 1, "low": [-1.5, -1.5], "high": [1.5, 1.5], "turn": [], "draw": 1})
    x, y = np.meshgrid(*(axis.values for axis in ls.Grid.square(1.5, 9).axes), indexing="ij")
    moved = {k: params[k] + np.multiply.outer(x, given[0][k]) + np.multiply.outer(y, first[k][1]) for k in params}
    expected = np.sum(moved["a"] ** 2, axis=-1) + moved["b"][..., 0, 1]
    found = unpacked(heard.wait(1, "final")["content"]["outputs"]["loss"]["values"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("draw", [1, -1, True, 0.5, "1"])
def test_random_directions_of_what_has_none_are_refused(session, draw):
    live, heard = session(waves)
    live.ask({"id": 1, "low": [-1.5, -1.5], "high": [1.5, 1.5], "turn": [], "draw": draw})
    assert "has no directions to draw" in heard.wait(1, "error")["text"]


@pytest.mark.parametrize("angles", [3.5, (1.0,), (np.nan, 0.0)])
def test_angles_that_are_none_are_refused(angles):
    with pytest.raises(ValueError, match="a view has"):
        View.read({"low": [0.5, 0.5], "high": [1.5, 1.5], "turn": angles}, 2)


@pytest.mark.parametrize(
    ("surface", "grid", "error", "match"),
    [
        (None, GRID, TypeError, "point function"),
        (ls.Landscape(GRID, {"loss": np.zeros(GRID.shape)}, np.ones(GRID.shape, bool)), GRID, TypeError, "with page"),
        (waves, 3, TypeError, "must be a Grid"),
        (waves, ls.Grid.line((0.5, 2.5), 5), ValueError, "two axes"),
        (waves, ls.Grid.of(x=[0.5, 1.5, 4.5], y=[0.5, 2.5]), ValueError, "equal steps"),
    ],
)
def test_what_cannot_be_live_is_refused(surface, grid, error, match):
    pytest.importorskip("aiohttp", reason="live planes need the extra `view`")
    with pytest.raises(error, match=match):
        ls.view.serve(surface, grid)
    with pytest.raises(error, match=match):
        ls.view.explore(surface, grid)


# ---------------------------------------------------------------------------------------------------- the server

MODEL = """
import jax.numpy as jnp
import landscape as ls

def factory():
    return (lambda c: {"loss": jnp.sin(3 * c[0]) + c[1] ** 2}), ls.Grid.square(1.5, 9)

def nothing():
    return 3
"""


@pytest.fixture
def server(tmp_path):
    """A server in a process of its own: its address."""
    pytest.importorskip("aiohttp", reason="live planes need the extra `view`")
    pytest.importorskip("plotly", reason="pages need the extra `view`")
    (tmp_path / "model.py").write_text(MODEL)
    command = [sys.executable, "-m", "landscape", "serve", "model.py:factory", "--store", "views", "--tolerance", "0"]
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", process.stdout.readline()), process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.stdout.close()


def reply(port, path, method="GET", host=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": host or f"127.0.0.1:{port}", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read().decode()
    connection.close()
    return found


def test_only_its_own_page_is_served_and_ctrl_c_ends_with_everything_stored(server, tmp_path):
    address, process = server
    port, token = address.groups()
    status, headers, text = reply(port, f"/{token}/")
    assert status == 200
    assert f"connect-src ws://127.0.0.1:{port}" in text
    assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "no-store")
    assert len(token) >= 32
    assert reply(port, f"/{token[:-1]}x/")[0] == 404
    assert reply(port, "/")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert reply(port, f"/{token}/", method)[0] == 405
    for host in ("evil.example", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{int(port) + 1}"):
        assert reply(port, f"/{token}/", host=host)[0] == 403
    assert reply(port, f"/{token}/", Origin="http://evil.example")[0] == 403
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = base64.b64encode(b"0123456789abcdef").decode()
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert reply(port, f"/{token}/live", **upgrade, **origin)[0] == 403
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.browser
def test_the_page_of_a_server_zooms_and_its_values_are_those_of_sweep(server, tmp_path):
    browser = pytest.importorskip("test_view_browser")
    if browser.CHROMIUM is None:
        pytest.skip("no chromium is installed, and $CHROMIUM names none")
    address, process = server
    errors, requests = [], []
    with browser.sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser.CHROMIUM, args=browser.FLAGS)
        page = running.new_page(viewport={"width": 1280, "height": 500})
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address[0])

        def answered(text):
            page.wait_for_function(
                "t => document.querySelector('#page').dataset.answered === t", arg=text, timeout=1000 * WAIT
            )

        answered("1 final")
        page.locator(".plot > svg").focus()
        page.keyboard.press("ArrowRight")
        page.locator("#zoom-in").click()
        answered("2 final")
        read = [float(page.locator(f"#{name}").inner_text()) for name in ("coord-0", "coord-1", "value-0")]
        running.close()
    # closer about the cursor at (1.5 / 4, 0): its range is half as wide
    x = np.linspace(0.375 - 0.9375, 0.375 + 0.5625, 9)
    grid = ls.Grid((ls.Axis("alpha", x), ls.Axis("beta", np.linspace(-0.75, 0.75, 9))))
    expected = ls.sweep(waves, grid, progress=False)["loss"]
    i, j = np.abs(x - read[0]).argmin(), np.abs(grid.axes[1].values - read[1]).argmin()
    assert np.float32(read[2]) == expected[i, j]
    assert errors == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [address[0]]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert len(list((tmp_path / "views").glob("view-*-all.zarr"))) == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model.py", "give module:factory or file.py:factory"),
        ("absent.py:factory", "there is no file"),
        ("absent_module_of_nobody:factory", "there is no module"),
        ("model.py:missing", "has no function 'missing'"),
        ("model.py:nothing", r"must return \(surface, grid\)"),
    ],
)
def test_factories_that_are_none_are_refused(tmp_path, monkeypatch, capsys, target, message):
    pytest.importorskip("aiohttp", reason="live planes need the extra `view`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "model.py").write_text(MODEL)
    assert main(["serve", target]) == 2
    assert re.search(message, capsys.readouterr().err)


# ---------------------------------------------------------------------------------------------------- the widget


def test_a_widget_answers_what_its_page_asks(monkeypatch):
    pytest.importorskip("anywidget", reason="live planes in notebooks need the extra `view`")
    pytest.importorskip("plotly", reason="pages need the extra `view`")
    widget, heard = ls.view.explore(waves, ls.Grid.square(1.5, 9), tolerance=None), Heard()
    monkeypatch.setattr(widget, "send", heard)
    try:
        view = widget.content["view"]
        assert view == {"low": (-1.5, -1.5), "high": (1.5, 1.5), "turn": [], "draw": 0}
        widget._handle_custom_msg({"id": 4, **json.loads(json.dumps(view))}, [])
        same(heard.wait(4, "final"), "loss", ls.sweep(waves, ls.Grid.square(1.5, 9), progress=False)["loss"])
    finally:
        widget.close()
    assert eventually(lambda: "landscape-live" not in [thread.name for thread in threading.enumerate()])


IMPORT = """async ({ module, style, content, plotly }) => {
    const state = { content, plotly };
    globalThis.heard = {};
    const model = { get: (name) => state[name], send: (request) => toKernel(request) };
    model.on = (name, run) => (heard[name] = run);
    document.head.append(Object.assign(document.createElement("style"), { textContent: style }));
    const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
    await (await import(url)).default.render({ model, el: document.body });
}"""


@pytest.mark.browser
def test_the_module_of_a_widget_zooms_turns_and_draws_as_a_notebook_loads_it(monkeypatch, tmp_path):
    browser = pytest.importorskip("test_view_browser")
    pytest.importorskip("anywidget", reason="live planes in notebooks need the extra `view`")
    if browser.CHROMIUM is None:
        pytest.skip("no chromium is installed, and $CHROMIUM names none")
    weights = jnp.array([1.0, 3.0, 7.0])
    surface = ls.LossSurface(ls.Subspace(jnp.zeros(3), jnp.eye(3)), ls.Objective(lambda p, _: jnp.sum(weights * p**2)))
    widget, kernel, errors = ls.view.explore(surface, ls.Grid.square(1.5, 9), tolerance=None), Heard(), []
    monkeypatch.setattr(widget, "send", kernel)
    with browser.sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser.CHROMIUM, args=browser.FLAGS)
        page = running.new_page(viewport={"width": 900, "height": 700})
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.expose_function("toKernel", lambda request: widget._handle_custom_msg(request, []))
        page.goto("about:blank")
        parts = {"module": widget._esm, "style": widget._css, "content": widget.content, "plotly": widget.plotly}
        page.evaluate(IMPORT, parts)

        def answered(number):
            """Hands over what the kernel sends, and waits until it is drawn; what the page shows at the cursor."""
            page.wait_for_function(
                "n => document.querySelector('.landscape-page').dataset.asked === n", arg=str(number)
            )
            message = kernel.wait(number, "final")
            page.evaluate("(m) => heard['msg:custom'](m)", message)
            page.wait_for_function(
                "t => document.querySelector('.landscape-page').dataset.answered === t", arg=f"{number} final"
            )
            return [float(page.locator(f"#{name}").inner_text()) for name in ("coord-0", "coord-1", "value-0")]

        assert answered(1) == [0, 0, 0]
        page.locator(".plot > svg").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowUp")
        page.locator("#zoom-in").click()
        x, y, value = answered(2)
        assert np.float32(value) == np.float32(x * x) + np.float32(3 * y * y)
        page.locator("#turn-0").focus()
        page.keyboard.press("End")  # by half a turn, the first axis runs backwards
        x, y, value = answered(3)
        assert value == pytest.approx(x * x + 3 * y * y, rel=1e-5)
        assert page.locator(".slider output").first.inner_text() == "180°"
        page.locator("#draw").click()
        answered(4)
        assert page.locator("#drawn").inner_text() == "direction 3: random, number 1"
        page.locator("#reset").click()
        answered(5)
        assert page.locator("#drawn").inner_text() == ""
        assert page.locator(".slider output").first.inner_text() == "0°"
        page.screenshot(path=tmp_path / "widget.png")
        running.close()
    widget.close()
    assert errors == []
