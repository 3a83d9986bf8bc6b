"""Pages in a real browser: what they draw and say after clicks, drags, hovers and keys, beside the stored values."""

import csv
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from landscape import Axis, Grid, Landscape, load, save
from landscape.analysis import wilson_interval
from landscape.plotting._scale import resolve

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright (extra `test`)")
pytest.importorskip("plotly", reason="pages need the extra `view`")
from landscape import view  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WAIT = 60_000  # milliseconds, on a machine that does other things too
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed, and $CHROMIUM names none"),
]

X, Y = np.linspace(-2.0, 2.5, 31), np.linspace(-1.25, 1.75, 21)
GRID = Grid((Axis("alpha", X, "along PC 1"), Axis("beta", Y)))
A, B = np.meshgrid(X, Y, indexing="ij")
TRAIN = (0.3 + A**2 + 3.1 * B**2 + 0.7 * A * B).astype(np.float32)
TEST = (0.9 + A**2 + 2.7 * (B - 0.2) ** 2).astype(np.float32)
LABELS = np.where(A > 0.4, 1, 0).astype(np.int32)
COMPUTED = (np.arange(X.size)[:, None] % 3 == 0) & (np.arange(Y.size)[None, :] % 2 == 0)
REFINEMENT = {
    "confidence": 0.95,
    "outputs": {"train_loss": {"driver": "smooth", "transform": None, "error": 0.0375, "fraction": 0.0125}},
}
PATH = {"coords": [[-1.5, -1.0], [-0.5, 0.25], [0.25, 0.5]], "loss": [4.75, 1.5, 0.625], "residual": [2.25, 1.5, 0.0]}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens pages; at the end, none has asked for anything but itself, or logged an error."""
    requests, errors, contexts = [], [], []

    def open_page(html, fragment="", **options):
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 500}, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(WAIT)
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("#page[data-complete]", timeout=WAIT)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    own = [url for url in requests if url.startswith(("data:", "blob:")) or url.split("#")[0].endswith(".html")]
    assert requests == own


@pytest.fixture
def stored(tmp_path):
    """A surface from a store, as a page shows it."""
    test = TEST.copy()
    test[4, 5], test[6, 7] = np.nan, np.inf
    values = {
        "train_loss": TRAIN,
        "train_loss_sem": (TRAIN / 37).astype(np.float32),
        "test_loss": test,
        "label": LABELS,
        "half": TRAIN.astype(np.float16),
        "wide": TRAIN.astype(np.float64) / 3,
    }
    save(Landscape(GRID, values, np.ones(GRID.shape, bool), {}, {"paths": {"Adam": PATH}}), tmp_path / "run.zarr")
    return load(tmp_path / "run.zarr")


def place(page, ix, iy, number=0):
    """Where the cell (ix, iy) is on the screen."""
    box = page.locator(".plot canvas").nth(2 * number).bounding_box()
    x = box["x"] + (ix + 0.5) / X.size * box["width"]
    return x, box["y"] + (1 - (iy + 0.5) / Y.size) * box["height"]


def hover(page, ix, iy, number=0):
    page.mouse.move(*place(page, ix, iy, number))
    page.wait_for_function(
        "([x, y]) => document.querySelector('#coord-0').textContent === x && "
        "document.querySelector('#coord-1').textContent === y",
        arg=[shortest(X[ix]), shortest(Y[iy])],
    )


def shortest(value):
    """A float64 in the fewest digits, as a browser writes it."""
    return repr(float(value)).removesuffix(".0")


def said(page, name):
    return page.locator(f"#{name}").inner_text()


def choose(page, name, value):
    drawn = page.locator("#page").get_attribute("data-drawn")
    page.select_option(f"#choose-{name}", value)
    page.wait_for_function("n => document.querySelector('#page').dataset.drawn !== n", arg=drawn)


# -------------------------------------------------------------------------------------------------- the cursor


@pytest.mark.parametrize("name", ["train_loss", "test_loss", "half", "wide"])
def test_hovering_shows_what_the_store_holds_to_the_last_bit(opened, stored, name):
    page = opened(view.page(stored, output=name))
    kind = np.float32 if stored[name].dtype == np.float16 else stored[name].dtype.type
    for ix, iy in [(0, 0), (30, 20), (4, 5), (6, 7), (17, 3), (9, 14)]:
        hover(page, ix, iy)
        text, value = said(page, "value-0"), stored[name][ix, iy]
        assert kind(text).tobytes() == kind(value).tobytes()
        if np.isfinite(value) and name != "half":
            assert len(text.replace("-", "").replace(".", "").lstrip("0")) <= len(
                np.format_float_scientific(value).split("e")[0].replace("-", "").replace(".", "")
            )


def test_values_that_are_not_finite_say_so(opened, stored):
    page = opened(view.page(stored, output="test_loss"))
    hover(page, 4, 5)
    assert (said(page, "value-0"), said(page, "state-0")) == ("NaN", "measured, and is not a number")
    hover(page, 6, 7)
    assert (said(page, "value-0"), said(page, "state-0")) == ("inf", "measured, and is infinite")
    assert "not finite: NaN or infinite (2)" in page.locator(".legend").inner_text()
    colour = page.evaluate(
        "() => [...document.querySelector('.plot canvas').getContext('2d').getImageData(4, 20 - 5, 1, 1).data]"
    )
    assert colour == [0xE0, 0x21, 0x8A, 255]


def test_the_standard_error_stands_beside_the_value(opened, stored):
    page = opened(view.page(stored, output="train_loss"))
    hover(page, 13, 8)
    assert np.float32(said(page, "sem-0")) == stored["train_loss_sem"][13, 8]
    page.locator("summary", has_text="all other outputs here").click()
    assert shortest(stored["wide"][13, 8]) in page.locator("details .read").inner_text()


def test_a_pixel_of_the_map_has_the_colour_that_plotting_gives_it(opened, stored):
    from matplotlib import colormaps

    page = opened(view.page(stored, output="train_loss"))
    scale = resolve(stored["train_loss"].ravel().astype(np.float64))
    expected = np.round(255 * colormaps["viridis"](scale.norm(stored["train_loss"].astype(np.float64))))
    width, height = X.size, Y.size
    pixels = page.evaluate(
        "() => { const c = document.querySelector('.plot canvas');"
        "return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
    )
    assert pixels[:2] == [width, height]
    drawn = np.array(pixels[2:], np.uint8).reshape(height, width, 4)[::-1].transpose(1, 0, 2)
    # the logarithms of two libraries may differ in the last bit, which moves a value that lies between two colours
    assert np.mean(np.any(drawn != expected, axis=-1)) < 0.01
    assert np.max(np.abs(drawn.astype(int) - expected)) <= 6


@pytest.mark.parametrize("kind", ["linear", "log", "symlog"])
@pytest.mark.parametrize("robust", [False, True])
def test_the_legend_has_the_limits_of_plotting(opened, stored, kind, robust):
    page = opened(view.page(stored, output="train_loss"), f"#s={kind}&r={int(robust)}")
    bar, scale = page.locator(".bar"), resolve(stored["train_loss"].ravel().astype(np.float64), kind, robust=robust)
    low, high = (float(bar.get_attribute(f"data-{end}")) for end in ("low", "high"))
    np.testing.assert_allclose([low, high], [scale.low, scale.high], rtol=1e-12)


def test_arrow_keys_move_the_cursor_and_tab_reaches_everything(opened, stored):
    page = opened(view.page(stored, output="train_loss"))
    page.locator(".plot > svg").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    assert np.float64(said(page, "coord-0")) == X[15 + 2 - 10]
    assert np.float64(said(page, "coord-1")) == Y[10 + 1]
    assert np.float32(said(page, "value-0")) == stored["train_loss"][7, 11]
    page.keyboard.press("Home")
    assert np.float64(said(page, "coord-0")) == X[0]
    page.evaluate("document.activeElement.blur(); window.seen = new Set()")
    for _ in range(60):
        page.keyboard.press("Tab")
        page.evaluate("window.seen.add(document.activeElement)")
    missed = page.evaluate(
        "[...document.querySelectorAll('#page select, #page input, #page button, #page summary, #page [tabindex]')]"
        ".filter(e => e.checkVisibility() && !e.closest('.chart') && !window.seen.has(e)).map(e => e.outerHTML)"
    )
    assert missed == []


def test_every_control_has_a_name(opened, stored):
    page = opened(view.page(stored, output="train_loss"))
    unnamed = page.evaluate(
        "[...document.querySelectorAll('#page select, #page input, #page button, #page [role]')].filter(e => "
        "!e.closest('.js-plotly-plot') && "
        "!(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_a_click_holds_the_cursor_and_escape_lets_go(opened, stored):
    page = opened(view.page(stored, output="train_loss"))
    hover(page, 5, 6)
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(*place(page, 20, 15))
    page.mouse.move(*place(page, 21, 15))
    assert np.float64(said(page, "coord-0")) == X[5]
    page.locator(".plot > svg").focus()
    page.keyboard.press("Escape")
    hover(page, 20, 15)


# ------------------------------------------------------------------------------------- predicted and measured


def test_what_was_predicted_is_hatched_and_says_what_is_promised(opened):
    values = {"train_loss": TRAIN, "count": np.where(COMPUTED, 7, 0)}
    landscape = Landscape(GRID, values, COMPUTED, {"train_loss": 0.0375}, {"refinement": REFINEMENT})
    page = opened(view.page(landscape))
    hover(page, 3, 4)
    assert said(page, "state-0") == "measured"
    hover(page, 4, 4)
    assert said(page, "state-0").startswith(
        "predicted from measured neighbours; estimated largest error 0.0375; with 95%"
    )
    assert np.float32(said(page, "value-0")) == TRAIN[4, 4]
    num = int((~COMPUTED).sum())
    assert f"({num})" in page.locator(".reserved").inner_text()
    inked = (
        "() => { const c = document.querySelectorAll('.plot canvas')[1]; const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0;"
        "return n / (d.length / 4); }"
    )
    page.uncheck("#choose-contours")
    page.wait_for_timeout(300)
    # of 8 diagonals two are drawn, over the cells that were predicted
    assert page.evaluate(inked) == pytest.approx(0.25 * num / COMPUTED.size, rel=0.1)
    page.uncheck("#choose-hatch")
    page.wait_for_timeout(300)
    assert page.evaluate(inked) == 0
    choose(page, "output", "count")
    hover(page, 4, 4)
    assert said(page, "value-0") == "not computed"
    assert f"not computed ({num})" in page.locator(".legend").inner_text()


# -------------------------------------------------------------------------------------- the line and its profile


def saved(page, button):
    with page.expect_download() as download:
        page.locator(f"#save-{button}").click()
    return Path(download.value.path()).read_bytes()


def profile(page):
    rows = list(csv.reader(io.StringIO(saved(page, "csv").decode())))
    return rows[0], rows[1:]


def test_a_dragged_line_gives_the_stored_values_along_it(opened, stored):
    page = opened(view.page(stored, output="train_loss"))
    page.mouse.move(*place(page, 2, 3))
    page.mouse.down()
    page.mouse.move(*place(page, 10, 9), steps=4)
    page.mouse.move(*place(page, 14, 11), steps=4)
    page.mouse.up()
    head, rows = profile(page)
    assert head[:2] == ["alpha", "beta"]
    steps = np.arange(13)
    ix, iy = 2 + steps, 3 + np.floor(steps * 8 / 12 + 0.5).astype(int)
    table = np.array([[float(cell) for cell in row[:3]] for row in rows])
    np.testing.assert_array_equal(table[:, 0], X[ix])
    np.testing.assert_array_equal(table[:, 1], Y[iy])
    np.testing.assert_array_equal(table[:, 2].astype(np.float32), stored["train_loss"][ix, iy])
    assert {row[3] for row in rows} == {"measured"}


def test_handles_of_the_line_are_dragged_and_moved_by_keys(opened, stored):
    page = opened(view.page(stored, output="train_loss"))
    grip = page.locator(".grip").nth(1)
    box = grip.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(*place(page, 25, 18), steps=5)
    page.mouse.up()
    grip.focus()
    page.keyboard.press("ArrowDown")
    _, rows = profile(page)
    assert [float(cell) for cell in rows[-1][:2]] == [X[25], Y[17]]
    hover(page, 7, 5)
    page.locator(".plot > svg").focus()
    page.keyboard.press("v")
    _, rows = profile(page)
    assert len(rows) == Y.size
    assert {float(row[0]) for row in rows} == {X[7]}


def test_the_profile_draws_the_values_along_the_line(opened, stored):
    page = opened(view.page(stored, output="train_loss"), "#d=0,4,30,4&s=linear")
    page.wait_for_selector(".profile .js-plotly-plot .trace")
    drawn = page.evaluate("Array.from(document.querySelector('.profile .js-plotly-plot').data[0].y)")
    np.testing.assert_array_equal(np.array(drawn, np.float32), stored["train_loss"][:, 4])
    hover(page, 9, 4)
    page.wait_for_function("x => document.querySelector('.profile .js-plotly-plot').data[1].x[0] === x", arg=X[9])


def test_the_surface_has_the_heights_of_the_map(opened, stored):
    page = opened(view.page(stored, output="train_loss"), "#s=linear")
    page.locator(".surface").scroll_into_view_if_needed()
    page.wait_for_selector(".surface .js-plotly-plot canvas")
    drawn = page.evaluate("document.querySelector('.surface .js-plotly-plot').data[0].z")
    np.testing.assert_array_equal(np.array(drawn, np.float32).T, stored["train_loss"])
    assert "Every point is drawn." in page.locator(".surface .note").inner_text()
    hover(page, 9, 4)
    page.wait_for_function("x => document.querySelector('.surface .js-plotly-plot').data[1].x[0] === x", arg=X[9])


def test_a_large_surface_is_thinned_and_says_so(opened):
    grid = Grid.square(2.5, 301)
    values = grid.points().sum(axis=1).reshape(grid.shape).astype(np.float32)
    page = opened(view.page(Landscape(grid, {"loss": values}, np.ones(grid.shape, bool))))
    page.locator(".surface").scroll_into_view_if_needed()
    page.wait_for_selector(".surface .js-plotly-plot canvas")
    size = page.evaluate("document.querySelector('.surface .js-plotly-plot').data[0].z.length")
    assert size == 89
    assert "Thinned so that it turns smoothly: 89 × 89 of 301 × 301" in page.locator(".surface .note").inner_text()


# -------------------------------------------------------------------------------------------- several landscapes


def test_landscapes_of_one_grid_share_the_cursor_and_show_their_difference(opened):
    first, second = (Landscape(GRID, {"train_loss": v}, np.ones(GRID.shape, bool)) for v in (TRAIN, TEST))
    page = opened(view.page({"SGD": first, "Adam": second}))
    assert page.locator(".map").count() == 2
    hover(page, 12, 7, number=1)
    assert np.float32(said(page, "value-0")) == TRAIN[12, 7]
    assert np.float32(said(page, "value-1")) == TEST[12, 7]
    choose(page, "compare", "1")
    assert page.locator(".map").count() == 3
    hover(page, 12, 7)
    assert np.float64(said(page, "value-2")) == np.float64(TRAIN[12, 7]) - np.float64(TEST[12, 7])


def test_the_gap_is_taken_of_the_stored_losses(opened, stored):
    page = opened(view.page(stored, output="train_loss"), "#o=~gap")
    hover(page, 11, 6)
    gap = np.float64(stored["test_loss"][11, 6]) - np.float64(stored["train_loss"][11, 6])
    assert np.float64(said(page, "value-0")) == gap
    assert "centred on 0" in page.locator(".legend").inner_text()


def test_landscapes_of_other_grids_are_chosen_from_a_list(opened):
    line = Grid.line((0.5, 2.5), 7)
    other = Landscape(line, {"loss": np.arange(7, dtype=np.float32) + 0.1}, np.ones(7, bool))
    page = opened(view.page({"plane": Landscape(GRID, {"loss": TRAIN}, np.ones(GRID.shape, bool)), "line": other}))
    choose(page, "landscape", "1")
    page.locator(".plot > svg").focus()
    page.keyboard.press("End")
    assert np.float32(said(page, "value-0")) == np.float32(6.1)
    assert page.locator(".surface").is_hidden()


# --------------------------------------------------------------------------------------------------- further axes


def test_sliders_and_choices_of_axes_cut_a_cube(opened):
    grid = Grid(
        (Axis("x", np.linspace(0.5, 2.5, 5)), Axis("y", np.linspace(1.5, 4.5, 4)), Axis("time", [2.0, 3.0, 7.0]))
    )
    cube = np.random.default_rng(7).normal(size=grid.shape).astype(np.float32)
    page = opened(view.page(Landscape(grid, {"loss": cube}, np.ones(grid.shape, bool))))
    page.locator("#slide-2").focus()
    page.keyboard.press("End")
    page.locator(".plot > svg").focus()
    page.keyboard.press("Home")
    assert np.float32(said(page, "value-0")) == cube[0, 2, 2]
    choose(page, "view1", "2")
    page.locator(".plot > svg").focus()
    page.keyboard.press("Shift+ArrowDown")
    assert np.float32(said(page, "value-0")) == cube[0, 2, 0]
    assert [page.locator("#coord-2").inner_text()] == ["2"]


def test_the_landscape_over_time_has_a_slider_for_its_step(opened):
    film = load(Path(__file__).parents[1] / "docs" / "landscapes" / "over_time.zarr")
    page = opened(view.page(film))
    steps, slider = film.grid.axes[2].values, page.locator("#slide-2")
    assert page.locator("label.slider").inner_text().split()[0] == "step"
    slider.focus()
    for key, k in (("End", len(steps) - 1), ("ArrowLeft", len(steps) - 2), ("Home", 0)):
        page.keyboard.press(key)
        page.wait_for_function("x => document.querySelector('#coord-2').textContent === x", arg=shortest(steps[k]))
        assert page.locator("label.slider output").inner_text() == shortest(steps[k])
        assert np.float32(said(page, "value-0")) == film["train_loss"][16, 16, k]


# ----------------------------------------------------------------------------------------------- labels and paths


def test_a_label_shows_its_share_with_an_interval(opened, stored):
    page = opened(view.page(stored, output="label", points={"minima": [[1.5, 0.5]], "saddles": [[0.4, 0.25]]}))
    hits, num = int((LABELS == 1).sum()), LABELS.size
    page.locator(".kind[data-value='1']").click()
    low, high = wilson_interval(hits, num)
    text = page.locator(".share").inner_text()
    assert f"{hits} of {num} points, {100 * hits / num:.2f} %" in text
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in text
    assert page.locator(".kind[data-value='1']").get_attribute("aria-pressed") == "true"
    assert page.locator(".plot > svg text title").all_inner_texts() or page.locator(".plot svg title").count() == 2
    hover(page, 25, 3)
    assert said(page, "value-0") == "1 (minimum 1)"


def test_the_profile_of_labels_names_them(opened, stored):
    page = opened(view.page(stored, output="label"))
    page.locator(".profile").scroll_into_view_if_needed()
    texts = page.locator(".profile .ytick text").all_inner_texts()
    assert texts == ["minimum 0", "minimum 1"]


def test_trainability_has_the_shades_of_plotting(opened):
    from matplotlib import colormaps

    from landscape.plotting._trainability import equalised

    values = (np.sin(3 * A) + B - 0.3).astype(np.float32)
    page = opened(view.page(Landscape(GRID, {"value": values, "converged": values > 0}, np.ones(GRID.shape, bool))))
    expected = np.round(255 * colormaps["RdYlBu"]((equalised(values.astype(np.float64)) + 1) / 2))
    pixels = page.evaluate(
        "() => { const c = document.querySelector('.plot canvas');"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
    )
    drawn = np.array(pixels, np.uint8).reshape(Y.size, X.size, 4)[::-1].transpose(1, 0, 2)
    assert np.mean(np.any(drawn != expected, axis=-1)) < 0.02
    choose(page, "output", "converged")
    assert "yes:" in page.locator(".kinds").inner_text()


def test_the_steps_of_a_path_say_where_they_are_and_how_far_off_the_plane(opened, stored):
    path = PATH | {"distance": [9.0, 6.0, 0.0], "step": [5, 25, 125]}
    page = opened(view.page(stored, paths={"Adam": path}))
    slider = page.locator("#slide-step")
    text = page.locator("#path-text")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function("() => document.querySelector('#path-text').textContent.includes('point 1 of 3')")
    words = text.inner_text()
    assert words.startswith("Step 5 (point 1 of 3) at −1.5, −1.")
    assert "Loss on the path 4.75." in words
    # 2.25 of 9
    assert "Off the plane by 2.25, 25 % of its length." in words
    i, j = np.abs(X + 1.5).argmin(), np.abs(Y + 1.0).argmin()
    assert f"in the cell there, {stored['train_loss'][i, j]!s} (measured)" in words
    page.keyboard.press("End")
    page.wait_for_function("() => document.querySelector('#path-text').textContent.includes('It lies in the plane.')")
    circles = page.locator("circle.step")
    box, (x, y) = circles.first.bounding_box(), (0.25, 0.5)
    step = X[1] - X[0], Y[1] - Y[0]
    expected = place(page, (x - X[0]) / step[0], (y - Y[0]) / step[1])
    assert box["x"] + box["width"] / 2 == pytest.approx(expected[0], abs=1.5)
    assert box["y"] + box["height"] / 2 == pytest.approx(expected[1], abs=1.5)
    page.locator("#play").click()
    page.wait_for_function("() => document.querySelector('#path-text').textContent.includes('point 3 of 3')")


# ------------------------------------------------------------------------------------- the address, files, looks


def test_the_address_holds_the_view(opened, stored):
    page = opened(view.page(stored, output="train_loss"))
    choose(page, "output", "test_loss")
    choose(page, "scale", "log")
    page.uncheck("#choose-contours")
    page.locator(".plot > svg").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => location.hash.includes('p=16')")
    fragment = page.evaluate("location.hash")
    again = opened(view.page(stored, output="train_loss"), fragment)
    assert again.locator("#choose-output").input_value() == "test_loss"
    assert again.locator("#choose-scale").input_value() == "log"
    assert not again.locator("#choose-contours").is_checked()
    assert np.float64(said(again, "coord-0")) == X[16]


@pytest.mark.parametrize(
    "fragment",
    ["#o=__proto__&p=9999,1&d=1&l=7&v=0,0&c=<b>&s=constructor", "#p=1.5,x&t=0,99&d=1,2,3,NaN", "#%E0%A4%A", "#"],
)
def test_an_address_that_means_nothing_is_taken_as_none(opened, stored, fragment):
    page = opened(view.page(stored, output="train_loss"), fragment)
    assert page.locator("#choose-output").input_value() == "train_loss"
    assert np.float64(said(page, "coord-0")) == X[15]


def test_pictures_of_the_view_are_whole_files(opened, stored):
    from xml.etree import ElementTree

    from matplotlib import image

    page = opened(view.page(stored, output="train_loss"))
    root = ElementTree.fromstring(saved(page, "svg"))
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("along PC 1" in text for text in texts)
    assert any("train loss" in text for text in texts)
    picture = image.imread(io.BytesIO(saved(page, "png")))
    assert picture.shape[0] > 500
    assert picture[..., :3].std() > 0.1
    assert len(np.unique(picture.reshape(-1, picture.shape[-1])[::7], axis=0)) > 100


@pytest.mark.parametrize(("width", "height"), [(400, 800), (1280, 900), (3840, 2160)])
def test_nothing_is_wider_than_the_screen(opened, stored, width, height):
    page = opened(view.page({"a": stored, "b": stored}))
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".plot > svg").first.focus()
    page.keyboard.press("ArrowRight")
    assert np.float64(said(page, "coord-0")) == X[16]
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('#page')).fontSize)")
    assert size >= (15 if width < 2000 else 22)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_by_day_and_by_night(opened, stored, scheme):
    page = opened(view.page(stored, output="train_loss"), color_scheme=scheme)
    colours = page.evaluate(
        "() => { const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number); "
        "const body = getComputedStyle(document.body);"
        "const soft = getComputedStyle(document.querySelector('.note')).color;"
        "const panel = getComputedStyle(document.querySelector('.panel')).backgroundColor;"
        "return [body.color, body.backgroundColor, soft, panel].map(rgb); }"
    )

    def luminance(rgb):
        linear = [c / 3294.6 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    light = [luminance(rgb) for rgb in colours]
    assert (light[1] < 0.1) == (scheme == "dark")
    for text, ground in ((0, 1), (0, 3), (2, 3)):
        low, high = sorted((light[text], light[ground]))
        assert (high + 0.05) / (low + 0.05) >= 4.5


# ----------------------------------------------------------------------------------------------------- bad inputs


def test_hostile_names_are_text(opened):
    hostile = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>\"'&amp;\u202eabc\u200f</script><!--"
    grid = Grid((Axis("x", X, hostile), Axis("y", Y, "y" * 10_000)))
    meta = {"provenance": {"jax": hostile}, hostile: {hostile: hostile}, "paths": {hostile: PATH}}
    one = Landscape(grid, {hostile + 10_000 * "z": TRAIN, "train_loss": TRAIN}, np.ones(GRID.shape, bool), {}, meta)
    page = opened(view.page({hostile: one, "z" * 10_000: one}, title=hostile, output=hostile + 10_000 * "z"))
    assert page.evaluate("window.hit === undefined")
    assert page.locator("#page script, #page img").count() == 0
    assert "<script>window.hit = 1</script>" in page.locator("h1").inner_text()
    assert "[U+202E]" in page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for kind in ("svg", "csv"):
        assert len(saved(page, kind)) > 500
    assert page.evaluate("window.hit === undefined")


@pytest.mark.parametrize("shape", [(9, 9), (9,)])
def test_nothing_but_nan_is_said(opened, shape):
    grid = Grid(tuple(Axis(name, np.linspace(0.5, 2.5, n)) for name, n in zip("xy", shape)))
    page = opened(view.page(Landscape(grid, {"loss": np.full(shape, np.nan)}, np.ones(shape, bool))))
    assert "loss: no finite value" in page.locator(".legend").inner_text()
    assert said(page, "value-0") == "NaN"


def test_one_pixel_is_a_page(opened):
    grid = Grid.of(x=[2.5], y=[3.5])
    page = opened(view.page(Landscape(grid, {"loss": np.full((1, 1), 0.1, np.float32)}, np.ones((1, 1), bool))))
    assert said(page, "value-0") == "0.1"
    assert len(profile(page)[1]) == 1


def test_ten_axes_are_a_page(opened):
    grid = Grid(tuple(Axis(f"a{i}", np.arange(2.0) + 0.5) for i in range(10)))
    values = np.arange(1024, dtype=np.float32).reshape(grid.shape) + 0.5
    page = opened(view.page(Landscape(grid, {"loss": values}, np.ones(grid.shape, bool))))
    page.locator("#slide-9").focus()
    page.keyboard.press("Home")
    assert np.float32(said(page, "value-0")) == values[(1,) * 9 + (0,)]
