import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from diapir.errors import RunError
from diapir.report.figures import coverage_histogram
from diapir.report.html import (
    Card,
    Picture,
    ReportContent,
    Section,
    Table,
    keep_picture,
    read_report_origin,
    render_report,
    write_report,
)

DATA = {"type": "application/json", "id": "origin"}
"""The one script element: of a type that no browser runs (HTML standard, 4.12.1)."""
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects the elements of a page and whether they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words, self.scripts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def png(width=3, height=2):
    buffer = io.BytesIO()
    Image.new("L", (width, height), 7).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def content():
    return ReportContent(
        title="Run 7",
        subtitle="on a test",
        cards=[Card("score", "0.834", "0.81 to 0.85"), Card("time", "3 min")],
        sections=[
            Section(
                "Scores",
                text=["First paragraph.", "Second paragraph."],
                tables=[Table("By part", ["part", "tiles", "score"], [["val", 1200, 0.5]])],
                pictures=[Picture(png(), "A curve.", "It rises.")],
            ),
            Section("Next", pictures=[Picture(png(), "B.", "b")], commands=["do a", "do b"]),
        ],
        provenance=[("data", "/somewhere"), ("seed", "0")],
    )


def test_the_page_is_well_formed_and_holds_everything_in_order(content):
    page = Page(render_report(content))
    assert page.open == []
    places = [
        page.text.index(words)
        for words in (
            "on a test",
            "0.834",
            "0.81 to 0.85",
            "First paragraph.",
            "Second paragraph.",
            "By part",
            "1,200",
            "0.5000",
            "Figure 1.",
            "A curve.",
            "Figure 2.",
            "do a do b",
            "/somewhere",
        )
    ]
    assert places == sorted(places)
    assert [page.all(tag)[0] for tag in ("title", "h1", "main")]
    assert page.all("html") == [{"lang": "en"}]


def test_the_page_loads_nothing_and_runs_nothing(content):
    text = render_report(content)
    page = Page(text)
    assert page.all("script") == [DATA]
    for _, attrs in page.elements:
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attrs)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?://|@import|url\(", without_pictures)
    (policy,) = [a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'")


def test_pictures_are_whole_sized_and_described(content):
    first, _ = Page(render_report(content)).all("img")
    assert first["alt"] == "It rises."
    assert (first["width"], first["height"]) == ("3", "2")
    kind, data = first["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == png()


def test_contents_lead_to_headings_and_tables_name_their_cells(content):
    page = Page(render_report(content))
    targets = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    links = [attrs["href"] for attrs in page.all("a")]
    assert len(links) == 4  # skip link, two sections, provenance
    assert {link[1:] for link in links} <= targets
    assert {attrs["scope"] for attrs in page.all("th")} == {"col", "row"}
    assert len(page.all("caption")) == len(page.all("table")) == 2
    labelled = [attrs["aria-labelledby"] for attrs in page.all("section")]
    assert set(labelled) <= targets


def test_light_dark_phone_and_paper_are_provided_for(content):
    text = render_report(content)
    for rule in ("prefers-color-scheme: dark", "max-width: 40rem", "@media print", "viewport"):
        assert rule in text


def relative_luminance(color):
    channels = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_text_stands_out_in_light_and_dark(content):
    # WCAG 2.1, success criterion 1.4.3: at least 4.5 to 1.
    schemes = re.findall(r"--page: (.*?)\}", render_report(content), flags=re.DOTALL)[:2]
    assert len(schemes) == 2
    for scheme in schemes:
        colors = dict(re.findall(r"--(\w+): (#\w{6})", f"--page: {scheme}"))
        for front in ("ink", "quiet", "accent"):
            for back in ("page", "panel", "stripe"):
                pair = sorted(relative_luminance(colors[name]) for name in (front, back))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (front, back)


def test_text_from_outside_stays_text():
    nasty = "<script>alert(1)</script> & \"quotes' {{ 7 * 7 }}"
    content = ReportContent(
        nasty,
        nasty,
        [Card(nasty, nasty, nasty)],
        [
            Section(
                nasty,
                [nasty],
                [Table(nasty, [nasty], [[nasty]])],
                [Picture(png(), nasty, nasty)],
                [nasty],
            )
        ],
        [(nasty, nasty)],
    )
    page = Page(render_report(content))
    assert page.all("script") == [DATA]
    assert page.all("img")[0]["alt"] == nasty
    # title, h1, subtitle, 3 on the card, contents, h2, paragraph, caption, column, cell, figure,
    # command, 2 of provenance
    assert page.text.count("alert(1)") == 16
    assert "49" not in page.text


def test_the_origin_is_read_back_whatever_it_holds(tmp_path):
    nasty = "</script><script>alert(1)</script><!-- & \u2028 \\u003c"
    origin = {nasty: nasty, "metrics": {"score": 0.5, "none": float("nan")}, "list": [1, nasty]}
    path = tmp_path / "report.html"
    write_report(path, ReportContent("Run 7", origin=origin))
    page = Page(path.read_text(encoding="utf-8"))
    assert page.all("script") == [DATA]
    assert page.open == []
    (text,) = page.scripts
    assert not set("<>&") & set(text)
    found = read_report_origin(path)
    assert found == json.loads(text)
    assert found[nasty] == nasty
    assert found["metrics"] == {"score": 0.5, "none": None}
    assert found["title"] == "Run 7"
    assert found["report_by"].startswith("Diapir ")


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<html></html>", "does not say how it was made"),
        ('<script type="application/json" id="origin">[1]</script>', "does not say"),
        ('<script type="application/json" id="origin">{"a": </script>', "cannot read the report"),
        ('<script type="application/json" id="origin">' + "[" * 99999 + "</script>", "cannot read"),
        (None, "No such file"),
    ],
)
def test_pages_that_say_nothing_are_told(tmp_path, page, words):
    path = tmp_path / "report.html"
    if page is not None:
        path.write_text(page, encoding="utf-8")
    with pytest.raises(RunError, match=words):
        read_report_origin(path)


def test_a_file_larger_than_any_report_is_not_read(tmp_path):
    path = tmp_path / "report.html"
    with path.open("wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(RunError, match="more than any report"):
        read_report_origin(path)


def test_an_empty_page_is_a_page():
    page = Page(render_report(ReportContent("Only a title")))
    assert page.open == []
    for tag in ("nav", "dl", "section", "table", "figure"):
        assert not page.all(tag)


def test_numbers_are_set_flush_right_and_words_are_not():
    table = Table(
        "c",
        ["name", "count", "share", "mixed", "missing", "flag"],
        [
            ["a", 1234567, "12 %", "3", None, True],
            ["b", -2, "< 1 %", "x", float("nan"), False],
        ],
        decimals=2,
    )
    assert table.numeric == [False, True, True, False, False, False]
    dash = "\N{EN DASH}"
    assert table.texts == [
        ["a", "1,234,567", "12 %", "3", dash, "yes"],
        ["b", "-2", "< 1 %", "x", dash, "no"],
    ]
    assert Table("c", ["x"], [[0.12345], [None]], decimals=3).texts == [["0.123"], [dash]]
    assert Table("c", ["x"], [[0.12345], [None]]).numeric == [True]
    assert Table("c", ["x", "y"], []).numeric == [False, False]


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="row 1 of the table 'c' has 1 cells for 2 columns"):
        Table("c", ["x", "y"], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("data", "caption", "alt", "words"),
    [
        (b"JFIF", "c", "a", "no PNG"),
        (b"\x89PNG\r\n\x1a\n", "c", "a", "no PNG"),
        (None, "c", " ", "alternative"),
        (None, "", "a", "caption"),
    ],
)
def test_pictures_without_png_or_words_are_refused(data, caption, alt, words):
    with pytest.raises(ValueError, match=words):
        Picture(png() if data is None else data, caption, alt)


def test_the_description_of_a_figure_becomes_the_alternative_text(tmp_path):
    figure = coverage_histogram([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
    path = tmp_path / "f.png"
    read = keep_picture(figure, path, "c", dpi=40)
    assert Picture.from_figure(figure, "c").alt == figure.get_label()
    assert Picture.from_figure(figure, "c", alt="mine").alt == "mine"
    assert read.alt == figure.get_label()
    assert read.png == path.read_bytes()
    assert Picture.from_file(path, "c", alt="mine").alt == "mine"
    with Image.open(path) as image:
        assert read.size == image.size
    (tmp_path / "bare.png").write_bytes(png())
    with pytest.raises(ValueError, match="alternative"):
        Picture.from_file(tmp_path / "bare.png", "c")


def test_the_page_is_written_whole_or_not_at_all(content, tmp_path):
    path = tmp_path / "run" / "report.html"
    write_report(path, content)
    assert path.read_text(encoding="utf-8") == render_report(content)
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(RunError):
        write_report(path / "below.html", content)
