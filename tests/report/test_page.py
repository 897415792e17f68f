"""The page: self-contained, escaped, accessible, and written whole or not at all."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from parfocal.report import Column, Figure, Note, Panel, ReportPage, Row, Section, Table, Text, make_report, png
from parfocal.version import __version__

NASTY = '<script>alert("x")</script> & "quoted" \'too\''
PIXELS = png(np.full((5, 7, 3), 200, dtype=np.uint8))
DRAWING = b'<?xml version="1.0"?>\n<svg width="10" height="10"><text>A &amp; B</text></svg>'


class Tags(HTMLParser):
    """Every start tag with its attributes, and the visible text of each tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br", "line", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # every tag is closed where it was opened

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1], data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def full_page(text: str = "plain") -> ReportPage:
    table = Table(
        text,
        (Column("Arm", help=text), Column("AUC", "right")),
        (Row((text,), "group"), Row(("5x", "0.50")), Row((text, "0.97"), "highlight")),
        (text,),
    )
    figure = Figure((Panel(PIXELS, text, text), Panel(DRAWING, text)), text, "stack")
    blocks = (Text((text, "second")), Note(text, text), table, figure)
    sections = tuple(Section(f"{text} {number}", blocks) for number in range(4))
    return ReportPage(text, (text,), sections, {"mpps": [2.0, 0.5], "note": text}, {"splits": 7}, {"store": text})


def written(page: ReportPage, folder: Path) -> str:
    return make_report(page, folder / "report.html").read_text(encoding="utf-8")


def test_every_text_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    html = written(full_page(NASTY), tmp_path)
    tags = Tags(html)

    assert "<script" not in html
    assert not tags.of("script")
    for place in ("h1", "h2", "p", "caption", "th", "figcaption", "pre", "code", "a", "title"):
        assert any("alert(" in text for tag, text in tags.text if tag == place), place
    assert all(image["alt"] == NASTY for image in tags.of("img"))


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    html = written(full_page(), tmp_path)
    tags = Tags(html)
    sources = [attributes[name] for _, attributes in tags.tags for name in ("src", "href") if name in attributes]

    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#section-")) for source in sources if source)
    assert not tags.of("link")
    assert "url(" not in html
    assert "@import" not in html
    (policy,) = [meta["content"] for meta in tags.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_tables_and_pictures_speak_to_a_screen_reader(tmp_path: Path) -> None:
    tags = Tags(written(full_page("said"), tmp_path))

    assert len(tags.of("caption")) == len(tags.of("table")) == 4
    assert {th["scope"] for th in tags.of("th")} == {"col", "row", "rowgroup"}
    assert all(image["alt"] for image in tags.of("img"))
    drawings = [div for div in tags.of("div") if div.get("class") == "drawing"]
    assert len(drawings) == 4
    assert all(div["role"] == "img" and div["aria-label"] == "said" for div in drawings)
    assert len(tags.of("figcaption")) == len(tags.of("figure"))
    assert all(html["lang"] == "en" for html in tags.of("html"))


def test_a_drawing_is_placed_without_its_xml_declaration(tmp_path: Path) -> None:
    html = written(full_page(), tmp_path)

    assert "<?xml" not in html
    assert '<svg width="10" height="10"><text>A &amp; B</text></svg>' in html


def test_the_foot_says_what_made_the_page(tmp_path: Path) -> None:
    html = written(full_page(), tmp_path)
    other = written(ReportPage("t", (), (), {"mpps": [2.0]}), tmp_path)

    assert f"parfocal {__version__}" in html
    assert "splits 7" in html
    digests = [re.findall(r"digest ([0-9a-f]{8})", one) for one in (html, other)]
    assert digests[0] != digests[1]
    assert "&#34;mpps&#34;" in html


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    assert written(full_page(), tmp_path / "a") == written(full_page(), tmp_path / "b")


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    path = make_report(full_page(), tmp_path / "report.html")
    before = path.read_bytes()

    with pytest.raises(ValueError, match="not JSON compliant"):
        make_report(ReportPage("t", (), (), {"rate": float("nan")}), path)

    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_links_to_sections_come_from_four_sections_on(tmp_path: Path) -> None:
    few = ReportPage("t", (), tuple(Section(f"s{n}", ()) for n in range(3)))

    assert not Tags(written(few, tmp_path)).of("nav")
    assert len(Tags(written(full_page(), tmp_path)).of("a")) == 4


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 of the table 'arms' has 3 cells, not 2"):
        Table("arms", (Column("a"), Column("b")), (Row(("1", "2")), Row(("1", "2", "3"))))


def test_a_picture_needs_a_kind_and_words() -> None:
    with pytest.raises(ValueError, match="an SVG or a PNG"):
        Panel(b"\xff\xd8\xff a JPEG", "alt")
    with pytest.raises(ValueError, match="says what it shows"):
        Panel(PIXELS, " ")
    with pytest.raises(ValueError, match="'empty' has no panel"):
        Figure((), "empty")
