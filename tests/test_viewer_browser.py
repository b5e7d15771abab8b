"""The viewer's page in a real Chromium: open, step, predict, correct, save, reload, download.

Skipped where there is no Chromium; with DIAPIR_BROWSER_TESTS=required that is a failure.
Screenshots go to `artifacts/`. Where DIAPIR_PICTURES names a folder, the pictures of the README and
of docs/viewer.md are drawn into it; CONTRIBUTING.md has the command.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from io import BytesIO
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

from diapir.config import Recipe
from diapir.data.competition import write_competition
from diapir.data.survey import SurveyPlan, generate_survey, write_survey
from diapir.data.synthetic import generate_tiles
from diapir.io.labels import UNLABELLED, read_labels
from diapir.io.opening import open_volume
from diapir.io.volume import Geometry, amplitude_statistics, make_volume
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import save_model
from diapir.models.packaged import packaged_model
from diapir.models.unet import SaltNet
from diapir.serve.address import listen
from diapir.serve.viewer import window
from diapir.serve.viewer.library import Library, open_library
from diapir.serve.viewer.models import ModelShelf
from diapir.serve.viewer.server import viewer_app
from diapir.serve.viewer.sources import SurveyPaths, SurveySource

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "artifacts"
PICTURES = os.environ.get("DIAPIR_PICTURES", "")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 60  # a busy machine is slow, which says nothing about the page


class Bright:
    """A model to which bright is salt."""

    def __init__(self):
        self.calls = 0
        self.model_seconds = 0.0

    def predict_probs(self, images, z_feet=None, *, advance=None):
        self.calls += 1
        if advance is not None:
            advance(len(images))
        return images.astype(np.float32) / 255


@pytest.fixture(scope="module")
def chromium():
    """A headless browser; missing, the tests are skipped, or fail where they are required."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        if os.environ.get("DIAPIR_BROWSER_TESTS") == "required":
            pytest.fail("browser tests are required, and there is no Chromium or no playwright")
        pytest.skip("needs Chromium and playwright")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A synthetic survey with its truth, and tiles."""
    folder = tmp_path_factory.mktemp("viewer")
    survey = generate_survey(SurveyPlan(shape=(36, 60, 80), seed=3, gaps=0.02))
    write_survey(survey, folder / "survey.sgy", folder / "truth.sgy")
    write_competition(folder / "tiles", generate_tiles(50, 2), generate_tiles(4, 3))
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"encoder": "scratch", "scratch_channels": (2, 4), "decoder_channels": (2,)},
        }
    )
    save_model(folder / "bright.safetensors", SaltNet(recipe.model), ModelCard(recipe, 0.5))
    return folder


class Served:
    """A viewer that runs in a thread, and what it serves."""

    def __init__(self, library):
        import uvicorn

        self.library = library
        self.model = Bright()
        library.models._loaded["bright"] = self.model
        listener = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        config = uvicorn.Config(viewer_app(library), log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def stop(self):
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="module")
def served(data):
    library = open_library(
        [data / "survey.sgy"],
        models=[data / "bright.safetensors"],
        truth=data / "truth.sgy",
        labels=data / "labels",
    )
    viewer = Served(library)
    yield viewer
    viewer.stop()


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The survey of docs/viewer.md and its truth, with the packaged model."""
    folder = tmp_path_factory.mktemp("tour")
    survey = generate_survey(SurveyPlan(azimuth=30.0, gaps=0.05))
    write_survey(survey, folder / "survey.sgy", folder / "truth.sgy")
    library = open_library(
        [folder / "survey.sgy"],
        models=[packaged_model()],
        truth=folder / "truth.sgy",
        labels=folder / "labels",
    )
    viewer = Served(library)
    yield viewer
    viewer.stop()


@pytest.fixture(scope="module")
def tiles(data):
    library = open_library(
        [data / "tiles"], models=[data / "bright.safetensors"], labels=data / "tile-labels"
    )
    viewer = Served(library)
    yield viewer
    viewer.stop()


@pytest.fixture
def visit(chromium):
    """Opens pages, and fails on errors in them and on anything that comes from elsewhere."""
    pages, problems = [], []

    def go(address):
        page = chromium.new_page(viewport={"width": 1280, "height": 720})
        pages.append(page)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda line: problems.append(line.text) if line.type == "error" else None,
        )
        page.on("request", lambda request: _check_host(request.url, problems))
        page.set_default_timeout(1000 * WAIT_S)
        page.goto(address)
        page.get_by_text("Keys", exact=True).wait_for(timeout=1000 * WAIT_S)
        page.locator("body[data-keys=ready]").wait_for(timeout=1000 * WAIT_S)
        return page

    yield go
    for page in pages:
        page.close()
    assert not problems


def _check_host(address, problems):
    if urlparse(address).hostname not in ("127.0.0.1", None):
        problems.append(f"asks another host: {address}")


def until(condition, told=lambda: ""):
    """Wait for a condition; fail with what is told then."""
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail(f"it did not happen in time {told()}")
        time.sleep(0.05)
    return found


def shot(page, name, folder=SHOTS):
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"viewer-{name}.png")


def text_of(page, selector):
    """Return the text inside an element, that of widgets, which lies in shadow trees, included."""
    return page.evaluate(
        """(selector) => {
          const gather = (node) => {
            if (node.nodeType === Node.TEXT_NODE) return node.textContent;
            if (node.tagName === 'STYLE') return '';
            const children = [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes];
            return children.map(gather).join('');
          };
          return gather(document.querySelector(selector));
        }""",
        selector,
    )


def url(page):
    return page.evaluate("window.location.href")


def title(page):
    return text_of(page, "header")


def facts(page):
    return text_of(page, "footer .facts")


def share(page):
    return float(facts(page).split("Salt")[1].split("%")[0])


def plot_box(page):
    """Return the rectangle of the figure's inner plot on screen, from what the page draws."""
    box = page.locator(".bk-Canvas").first.bounding_box()
    return box["x"] + 60, box["y"] + 10, box["width"] - 110, box["height"] - 60


def at(page, across, down):
    left, top, width, height = plot_box(page)
    return left + across * width, top + down * height


def test_open_and_step(served, visit):
    page = visit(served.address + "?theme=default")
    until(lambda: "Inline 1019" in title(page), lambda: title(page))
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    until(lambda: "Inline 1022" in title(page))
    page.keyboard.press("PageUp")
    until(lambda: "Inline 1012" in title(page))
    page.keyboard.press("2")
    until(lambda: "Crossline 2031" in title(page))
    page.keyboard.press("3")
    until(lambda: "Time slice" in title(page))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("1")
    until(lambda: "Inline" in title(page) and "number" not in title(page))
    readout = page.locator("#readout")

    def of_inline():
        # the title may turn before the picture does, and the readout follows the pointer
        for across in (0.4, 0.5):
            page.mouse.move(*at(page, across, 0.5))
        return "ms " in readout.inner_text()

    until(of_inline)
    assert "crossline 20" in readout.inner_text()
    assert "amplitude" in readout.inner_text()
    until(lambda: "number=" in url(page) or "Inline 1019" in title(page))
    shot(page, "light")


def test_the_readout_follows_a_step_and_fits(served, visit):
    page = visit(served.address + "?theme=default&number=1015&layers=%5B%22truth%22%5D")
    until(lambda: "Inline 1015" in title(page))
    page.keyboard.press("p")
    until(lambda: "IoU" in facts(page))
    readout = page.locator("#readout")

    def read():
        page.mouse.move(*at(page, 0.5, 0.5))
        page.mouse.move(*at(page, 0.5, 0.51))
        return readout.inner_text()

    before = until(read)
    assert "probability" in before
    cut = page.evaluate(
        """() => ['#readout', 'footer .facts'].filter((name) => {
          const box = document.querySelector(name);
          return box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight + 2;
        })"""
    )
    assert cut == []
    shot(page, "readout")
    page.keyboard.press("ArrowRight")  # the pointer stays where it is
    until(lambda: "Inline 1016" in title(page))
    until(lambda: readout.inner_text() != before, readout.inner_text)
    assert readout.inner_text().split("amplitude")[0] == before.split("amplitude")[0]
    assert "probability" not in readout.inner_text()  # this one was not predicted
    page.mouse.move(5, 5)
    until(lambda: readout.inner_text() == "")


AMPLITUDES = """() => {
  const data = Bokeh.documents.map((one) => one.get_model_by_name('amplitude')).find(Boolean).data;
  const [height, width] = data.image[0].shape;
  return { cell: data.dw[0] / width, left: data.x[0], across: data.dw[0], pixels: height * width };
}"""


def test_zooming_into_a_large_section_brings_finer_data(served, visit, monkeypatch):
    monkeypatch.setattr(window, "MOST_PIXELS", 600)  # so that one of 60 x 80 is large
    page = visit(served.address + "?theme=default&number=1019")
    until(lambda: "Inline 1019" in title(page))
    coarse = page.evaluate(AMPLITUDES)
    assert coarse["cell"] == 3
    assert coarse["across"] == 60
    for _ in range(6):
        page.keyboard.press("+")
    fine = until(lambda: (now := page.evaluate(AMPLITUDES))["cell"] < 3 and now)
    assert fine["across"] < 60
    assert fine["pixels"] <= 600
    for _ in range(14):
        page.keyboard.press("Shift+ArrowRight")  # beyond what was sent
    until(lambda: page.evaluate(AMPLITUDES)["left"] > fine["left"])
    page.keyboard.press("0")
    until(lambda: page.evaluate(AMPLITUDES)["cell"] == 3)


def test_a_slow_read_holds_up_nothing_and_the_newest_wins(served, visit, monkeypatch):
    source = served.library.sources["survey"]
    let_go, read, whole = threading.Event(), [], source.section

    def slow(direction, index, what="amplitude", moved=0):
        if what == "amplitude":
            read.append(index)
            let_go.wait()
        return whole(direction, index, what, moved)

    page = visit(served.address + "?theme=default&number=1020")
    until(lambda: "Inline 1020" in title(page))
    monkeypatch.setattr(source, "section", slow)
    try:
        number = page.locator("header input.bk-input")
        for wanted in ("1001", "1002", "1003"):
            number.fill(wanted)
            number.press("Enter")
            until(lambda: 0 in read)  # the first one is being read when the others come
        until(lambda: "number=1003" in url(page), lambda: url(page))
        other = visit(served.address + "?theme=dark")  # is served while the first one reads
        other.close()
        number.evaluate("element => element.blur()")
        page.keyboard.press("v")
        until(lambda: "reverse=true" in url(page))
        assert "Inline 1020" in title(page)
    finally:
        let_go.set()
    until(lambda: "Inline 1003" in title(page), lambda: title(page))
    assert [index for index in read if index < 3] == [0, 2]  # 1002 was not read for nothing


def test_predict_and_change_the_threshold(served, visit):
    page = visit(served.address + "?theme=dark&number=1010")
    until(lambda: "press P" in facts(page))
    page.keyboard.press("p")
    until(lambda: "Salt" in facts(page))
    before, calls = share(page), served.model.calls
    assert 0 < before < 100
    for _ in range(5):
        page.keyboard.press("]")
    until(lambda: share(page) < before)
    assert "IoU" in facts(page)
    assert "Top salt" in facts(page)
    assert served.model.calls == calls  # a threshold needs no prediction
    page.keyboard.press("t")
    until(lambda: "truth" in url(page))
    shot(page, "dark-truth")
    page.keyboard.press("ArrowRight")
    until(lambda: "press P" in facts(page))
    page.keyboard.press("ArrowLeft")
    until(lambda: "Salt" in facts(page))
    assert served.model.calls == calls  # what was predicted is remembered


def test_a_slice_says_why_it_is_not_predicted(served, visit):
    page = visit(served.address + "?direction=slice&theme=default")
    until(lambda: "Time slice" in title(page))
    page.keyboard.press("p")
    until(lambda: "models read vertical sections" in text_of(page, "#message"))
    shot(page, "message")
    page.keyboard.press("1")
    until(lambda: not page.locator("#message .error").is_visible())


def labels_of(data, name):
    survey = open_volume(data / "survey.sgy")
    lines = {f"{one.direction}_{one.number}": one for one in read_labels(data / "labels", survey)}
    return lines[name].labels


def test_draw_save_reload_and_find_it_again(served, visit, data):
    page = visit(served.address + "?theme=default&number=1005")
    page.get_by_text("Correct", exact=True).click()
    page.get_by_text("Polygon", exact=True).click()
    for corner in ((0.2, 0.2), (0.6, 0.2), (0.6, 0.6)):
        page.mouse.click(*at(page, *corner))
        time.sleep(0.4)  # two clicks in a row would be a double click
    page.mouse.dblclick(*at(page, 0.2, 0.6))
    draft = data / "labels" / ".drafts" / "inline_1005.png"
    until(draft.exists)
    until(lambda: "Draft" in text_of(page, "aside"))
    polygon = np.asarray(Image.open(draft)) == 255
    assert 0.08 < polygon.mean() < 0.25
    page.get_by_text("Brush", exact=True).click()
    page.get_by_text("Remove salt", exact=True).click()
    page.mouse.move(*at(page, 0.3, 0.8))
    page.mouse.down()
    for part in range(10):
        page.mouse.move(*at(page, 0.3 + part * 0.03, 0.8))
    page.mouse.up()
    until(lambda: (np.asarray(Image.open(draft)) == 0).any())
    shot(page, "correct")
    page.close()  # by accident: nothing was saved

    page = visit(served.address + "?theme=default&number=1005")
    page.get_by_text("Correct", exact=True).click()
    until(lambda: "inline_1005" in text_of(page, "aside"))
    until(lambda: "Draft" in text_of(page, "aside"))
    page.keyboard.press("s")
    until(lambda: (data / "labels" / "inline_1005.png").exists() and not draft.exists())
    labels = labels_of(data, "inline_1005")
    np.testing.assert_array_equal(labels.T == 1, polygon)
    assert (labels == 0).any()
    assert (labels == UNLABELLED).any()
    page.keyboard.press("u")  # a saved section has no steps to take back
    page.keyboard.press("ArrowRight")
    until(lambda: "Inline 1006" in title(page))
    page.get_by_role("option", name="inline_1005").click()
    until(lambda: "Inline 1005" in title(page))


STROKES = """() => {
  const one = Bokeh.documents.map((doc) => doc.get_model_by_name('strokes')).find(Boolean);
  return { visible: one.visible, points: one.data_source.data.xs.flat().length };
}"""


def drag(page, places):
    """Draw along places, the first of which is where it begins; the button stays down."""
    page.mouse.move(*at(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*at(page, *place))


def line_of(down, start=0.2, stop=0.5):
    return [(start + (stop - start) * part / 9, down) for part in range(10)]


def test_a_stroke_begun_while_the_last_one_is_processed_is_taken(served, visit, data):
    page = visit(served.address + "?theme=default&number=1008")
    until(lambda: "Inline 1008" in title(page))
    page.get_by_text("Correct", exact=True).click()
    page.get_by_text("Brush", exact=True).click()
    draft = data / "labels" / ".drafts" / "inline_1008.png"

    def salt(part):
        """Return over how many traces there is salt in the upper (0) or lower (1) half."""
        if not draft.exists():
            return 0
        mask = np.asarray(Image.open(draft)) == 255
        return np.array_split(mask, 2)[part].any(axis=0).sum()

    drag(page, line_of(0.2))
    page.mouse.up()
    drag(page, line_of(0.8))  # the answer to the first one comes while this one is drawn
    until(lambda: salt(0))
    time.sleep(0.5)
    assert page.evaluate(STROKES)["visible"]
    assert not salt(1)
    for place in line_of(0.8, 0.5, 0.8):
        page.mouse.move(*at(page, *place))
    page.mouse.up()
    until(lambda: salt(1))
    below = salt(1)
    assert below > 1.8 * salt(0)  # it is twice as long as the first
    until(lambda: not page.evaluate(STROKES)["visible"])

    box = page.locator(".bk-Canvas").first.bounding_box()
    page.get_by_text("Remove salt", exact=True).click()
    page.mouse.move(box["x"] + 3, at(page, 0, 0.5)[1])  # on the axis
    page.mouse.down()
    for place in line_of(0.5, 0.2, 0.4):
        page.mouse.move(*at(page, *place))
    page.mouse.up()
    until(lambda: (np.asarray(Image.open(draft)) == 0).any())
    assert salt(1) == below  # the stroke before was not drawn again
    until(lambda: not page.evaluate(STROKES)["visible"])


def test_a_step_drops_the_corners_of_a_polygon(served, visit, data):
    page = visit(served.address + "?theme=default&number=1016")
    until(lambda: "Inline 1016" in title(page))
    page.get_by_text("Correct", exact=True).click()
    page.get_by_text("Polygon", exact=True).click()
    for corner in ((0.2, 0.2), (0.7, 0.2), (0.7, 0.7)):
        page.mouse.click(*at(page, *corner))
        time.sleep(0.4)
    overlay = page.evaluate_handle(
        """() => Bokeh.documents.flatMap((doc) => doc.roots().flatMap((root) =>
          [...root.references()])).find((one) => one.type === 'PolySelectTool').overlay"""
    )
    assert overlay.evaluate("one => one.xs.length") == 3
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    until(lambda: "Inline 1017" in title(page))
    until(lambda: overlay.evaluate("one => one.xs.length") == 0)
    page.mouse.dblclick(*at(page, 0.2, 0.7))
    page.get_by_text("Lasso", exact=True).click()
    drag(page, [(0.4, 0.4), (0.5, 0.4), (0.5, 0.5), (0.4, 0.5)])
    page.mouse.up()
    draft = data / "labels" / ".drafts" / "inline_1017.png"
    until(draft.exists)
    assert (np.asarray(Image.open(draft)) == 255).mean() < 0.03  # the lasso's alone
    assert not (draft.parent / "inline_1016.png").exists()


def test_keys_go_to_whoever_uses_them(served, tiles, visit):
    page = visit(served.address + "?theme=default&number=1012")
    until(lambda: "Inline 1012" in title(page))
    taken = """(key) => !document.body.dispatchEvent(new KeyboardEvent('keydown',
      { key, bubbles: true, cancelable: true, altKey: key === 'ArrowLeft' }))"""
    for key in ("ArrowUp", "ArrowDown", "ArrowLeft", "Enter"):  # alt + left: back
        assert not page.evaluate(taken, key)
    page.locator("aside input[type=checkbox]").last.click()  # the polarity
    until(lambda: "reverse=true" in url(page))
    page.keyboard.press("ArrowRight")
    until(lambda: "Inline 1013" in title(page))
    page.keyboard.press("Space")
    until(lambda: "reverse" not in url(page))
    header = page.locator(".bk-tab", has_text="Correct")
    header.focus()
    page.keyboard.press("Enter")
    until(lambda: page.get_by_text("Brush", exact=True).is_visible())
    values = page.locator("aside input[type=radio]")
    values.nth(1).click()
    page.keyboard.press("ArrowUp")  # the widget's own
    until(lambda: values.nth(0).is_checked())
    page.keyboard.press("k")
    until(lambda: page.evaluate(taken, "ArrowUp"))
    page.keyboard.press("Escape")
    page.locator(".bk-tab", has_text="Keys").focus()
    page.keyboard.press("Space")
    until(lambda: page.get_by_text("polarity", exact=True).is_visible())

    page = visit(tiles.address + "?theme=default")
    until(lambda: page.locator(".tiles button").count() == 40)
    until(lambda: "gallery" in url(page))
    for key in ("PageDown", "ArrowRight"):
        assert not page.evaluate(taken, key)
    page.keyboard.press("g")
    until(lambda: "gallery" not in url(page))
    number = url(page)
    assert page.evaluate(taken, "PageDown")
    until(lambda: url(page) != number)


def test_the_address_follows_without_filling_the_history(served, visit):
    page = visit(served.address + "?theme=default&number=1012")
    until(lambda: "Inline 1012" in title(page))
    before = page.evaluate("window.history.length")
    for number in range(1013, 1016):
        page.keyboard.press("ArrowRight")
        until(lambda number=number: f"number={number}" in url(page))
    assert page.evaluate("window.history.length") == before
    told = []
    page.on("dialog", lambda dialog: told.append(dialog.default_value) or dialog.dismiss())
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_text("Export", exact=True).click()
    page.get_by_text("Copy the link to this view", exact=True).click()
    until(lambda: told)
    assert told == [url(page)]


def test_large_numbers_are_read_out_in_full(visit, tmp_path):
    numbers = np.arange(40) + 1_234_560
    geometry = Geometry({"trace": numbers}, 0.004 * np.arange(50), "ms", numbers > 0)
    values = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    volume = make_volume(
        values, geometry, source="line.sgy", fingerprint="",
        statistics=amplitude_statistics(values),
    )  # fmt: skip
    source = SurveySource("line", volume, SurveyPaths(tmp_path / "line.npy"))
    viewer = Served(Library({"line": source}, ModelShelf(), tmp_path / "labels"))
    try:
        page = visit(viewer.address + "?theme=default")
        readout = page.locator("#readout")

        def read(across):
            for down in (0.5, 0.51):
                page.mouse.move(*at(page, across, down))
            return readout.inner_text().split()

        until(lambda: read(0.5))
        found = [read(0.3 + 0.04 * k) for k in range(8)]
        traces = {int(words[1]) for words in found}
        assert len(traces) == 8
        assert traces <= set(numbers)
        assert {float(words[3]) for words in found} <= set(np.round(geometry.sample, 9))
    finally:
        viewer.stop()


def test_correct_with_the_keyboard_alone(served, visit, data):
    page = visit(served.address + "?theme=default&number=1030&direction=inline")
    until(lambda: "Inline 1030" in title(page))
    page.keyboard.press("k")
    for moves in ((), ("Alt+ArrowRight",), ("Alt+ArrowDown", "ArrowDown"), ("Alt+ArrowLeft",)):
        for key in moves:
            page.keyboard.press(key)
        page.keyboard.press("Enter")
    page.keyboard.press("Shift+Enter")
    draft = data / "labels" / ".drafts" / "inline_1030.png"
    until(draft.exists)
    assert (np.asarray(Image.open(draft)) == 255).sum() == 10 * 11
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    until(lambda: not draft.exists())
    page.keyboard.press("ArrowRight")
    until(lambda: "Inline 1031" in title(page), lambda: title(page) + text_of(page, "#message"))


def saved(page, button):
    """Press a button that downloads, until it does, and return the bytes."""
    with page.expect_download(timeout=1000 * WAIT_S) as download:
        page.get_by_text(button, exact=True).click()
    return Path(download.value.path()).read_bytes(), download.value.suggested_filename


def test_download(served, visit, tmp_path):
    page = visit(served.address + "?theme=default&direction=crossline&number=2020")
    page.keyboard.press("p")
    until(lambda: "Salt" in facts(page))
    page.get_by_text("Export", exact=True).click()
    picture, name = saved(page, "View as PNG")
    assert name == "survey-crossline_2020.png"
    assert min(Image.open(BytesIO(picture)).size) > 300
    mask, name = saved(page, "Mask as PNG")
    assert name == "survey-crossline_2020-mask.png"
    found = np.asarray(Image.open(BytesIO(mask)))
    assert found.shape == (80, 36)
    assert set(np.unique(found)) == {0, 255}
    segy, _ = saved(page, "Mask of this section as SEG-Y")
    (tmp_path / "mask.sgy").write_bytes(segy)
    read = open_volume(tmp_path / "mask.sgy")["amplitude"].to_numpy().reshape(-1, 80)
    live = served.library.sources["survey"].geometry.trace_mask[:, 19]
    np.testing.assert_array_equal(read[: live.sum()] > 0.5, found.T[live] > 0)


def test_a_link_reopens_the_view(served, visit):
    page = visit(served.address + "?theme=default")
    page.keyboard.press("2")
    until(lambda: "crossline" in url(page))
    page.keyboard.press("v")
    page.keyboard.press("h")
    until(lambda: "reverse=true" in url(page) and "heat" in url(page))
    address, shown = url(page), title(page)
    again = visit(address)
    until(lambda: title(again) == shown)
    checked = again.locator("aside input:checked").count()
    assert checked == 6  # four layers, the polarity, and what strokes do
    odd = visit(served.address + "?theme=default&threshold=9&direction=sideways")
    until(lambda: "threshold" in text_of(odd, "#message"))


def test_tiles(tiles, visit, data):
    page = visit(tiles.address + "?theme=default")
    pictures = page.locator(".tiles button")
    until(lambda: pictures.count() == 40)
    shot(page, "gallery")
    page.get_by_label("Sort by").select_option("score")
    until(lambda: "no score" in text_of(page, "#message"))
    page.get_by_text("Predict all tiles", exact=True).click()
    first = pictures.first
    until(lambda: first.inner_text().startswith("0 "))
    page.get_by_label("Sort by").select_option("uncertainty")
    page.locator("aside input[type=checkbox]").first.click()
    until(lambda: "falling" in url(page))
    name = first.inner_text().split()[-1]
    page.get_by_label("Only with").select_option(index=1)
    until(lambda: pictures.count() < 40)
    page.get_by_label("Only with").select_option(index=0)
    until(lambda: pictures.count() == 40)
    assert first.inner_text().split()[-1] == name
    first.focus()
    page.keyboard.press("Enter")
    until(lambda: f"Tile {name}" in title(page))
    shot(page, "tile")
    page.keyboard.press("ArrowRight")
    until(lambda: f"Tile {name}" not in title(page))
    page.keyboard.press("g")
    until(lambda: pictures.first.is_visible(), lambda: text_of(page, "#message"))


@pytest.mark.skipif(not PICTURES, reason="DIAPIR_PICTURES names no folder for the pictures")
@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("light", "theme=default&opacity=0.4"),
        ("dark", "theme=dark&opacity=0.5&layers=%5B%22outline%22%2C%22truth%22%5D"),
    ],
)
def test_pictures_of_the_pages(tour, visit, name, look):
    page = visit(f"{tour.address}?number=1065&{look}")
    until(lambda: "Inline 1065" in title(page))
    page.keyboard.press("p")
    until(lambda: "IoU" in facts(page), lambda: facts(page) + text_of(page, "#message"))

    def probability_under_the_pointer():
        for down in (0.49, 0.5):
            page.mouse.move(*at(page, 0.5, down))
        return "probability" in page.locator("#readout").inner_text()

    until(probability_under_the_pointer)
    shot(page, name, Path(PICTURES))


def test_the_command_serves_until_interrupted(data):
    command = [sys.executable, "-m", "diapir", "view", str(data / "survey.sgy"), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=data) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("Look at http://127.0.0.1:")
            address = line.split()[2]
            with urllib.request.urlopen(address, timeout=WAIT_S) as answer:  # noqa: S310
                assert b"Diapir" in answer.read()
            refused = urllib.request.Request(address, headers={"Host": "evil.example"})  # noqa: S310
            with pytest.raises(OSError, match="400"):
                urllib.request.urlopen(refused, timeout=WAIT_S)  # noqa: S310
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) in (0, 130)
