"""One report as one HTML file: a small model of what a page holds, and the verb that writes it.

The file needs no network and runs no script: styles, drawings and pictures are inside it, and its content policy
forbids everything else, so that it can be mailed, archived and opened behind a hospital's firewall. Every text is
escaped.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from parfocal.files import digest8, writing
from parfocal.version import __version__


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain sentences."""

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """One thing that must not be overlooked, set off from the text: what few slides cannot show, what was left out."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column: its heading, where its cells stand, and a sentence shown under the pointer."""

    title: str
    align: Literal["left", "right", "center"] = "left"
    help: str = ""


RowKind = Literal["plain", "highlight", "muted", "group"]


@dataclass(frozen=True)
class Row:
    """A table's row. One cell and `kind="group"` make a heading over the rows that follow."""

    cells: tuple[str, ...]
    kind: RowKind = "plain"


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of each row is its heading.

    Raises:
        ValueError: a row has another number of cells than there are columns, or a group row more than one.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            expected = 1 if row.kind == "group" else len(self.columns)
            if len(row.cells) != expected:
                raise ValueError(
                    f"row {number} of the table {self.caption!r} has {len(row.cells)} cells, not {expected}"
                )


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: an SVG drawing or a PNG, what it shows in words, and a short label.

    An SVG is placed into the page as it is, so it must come from code and not from a user; `parfocal.report.figures`
    escapes the texts it draws.
    """

    image: bytes
    alt: str
    label: str = ""

    @property
    def is_svg(self) -> bool:
        """Whether the picture is a drawing that goes into the page as markup."""
        return self.image.lstrip()[:5] in (b"<svg ", b"<?xml")

    def __post_init__(self) -> None:
        if not self.is_svg and not self.image.startswith(b"\x89PNG"):
            raise ValueError(f"a panel is an SVG or a PNG; this one starts with {self.image[:8]!r}")
        if not self.alt.strip():
            raise ValueError("a panel needs a text that says what it shows (alt)")


@dataclass(frozen=True)
class Figure:
    """One or more panels with a caption: side by side, or under each other with their labels on the left."""

    panels: tuple[Panel, ...]
    caption: str
    layout: Literal["row", "stack"] = "row"

    @classmethod
    def of(cls, image: bytes, caption: str, alt: str) -> "Figure":
        """A figure of one picture."""
        return cls((Panel(image, alt),), caption)

    def __post_init__(self) -> None:
        if not self.panels:
            raise ValueError(f"the figure {self.caption!r} has no panel")


Block = Text | Note | Table | Figure


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class ReportPage:
    """Everything that a report says, in the order in which it says it.

    No time of writing is recorded: the same results give the same file, byte for byte.

    Args:
        title: what was asked.
        lead: the answer in a few sentences, before any table.
        sections: the parts; from four on, a list of links stands before them.
        first: a table and a figure that stand below the answer, before any heading.
        settings: every setting that made the results, as JSON-able values; folded away at the end, and digested.
        seeds: the seeds of splits, models and permutations, by name.
        inputs: the digests of what went in (stores, models, labels), by name.
    """

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    first: tuple[Block, ...] = field(default=(), kw_only=True)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


def make_report(page: ReportPage, path: Path) -> Path:
    """Write the page to `path`, whole or not at all, over a page that was there before.

    Returns:
        `path`.

    Raises:
        TypeError: a setting is not JSON-able.
        ValueError: a setting is infinite or not a number.
    """
    html = _render(page)
    with writing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")
    return path


def _render(page: ReportPage) -> str:
    environment = Environment(
        loader=PackageLoader("parfocal.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["drawing"] = _drawing
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    environment.tests["note"] = lambda block: isinstance(block, Note)
    environment.tests["table"] = lambda block: isinstance(block, Table)
    style, _, _ = PackageLoader("parfocal.report", "templates").get_source(environment, "page.css")
    return environment.get_template("page.html.jinja").render(
        page=page,
        style=Markup(style),
        version=__version__,
        settings_json=json.dumps(page.settings, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False),
        settings_digest=digest8(page.settings),
    )


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def _drawing(image: bytes) -> Markup:
    """The SVG element alone: an XML declaration has no place inside HTML."""
    text = image.decode("utf-8")
    return Markup(text[text.index("<svg") :])
