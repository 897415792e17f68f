"""Pages as a browser lays them out: one screen, a phone, and paper."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parfocal.evaluate import write_evaluation
from parfocal.report import (
    Column,
    Figure,
    Note,
    ReportPage,
    Row,
    Section,
    Table,
    Text,
    compared_figure,
    curves_panel,
    make_report,
)
from parfocal.stats import Interval

from ..evaluate.drawn import cohort_of, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

A4_PX = 718  # 190 mm between its margins, at 96 px per inch
LONG = "a_name_without_any_space_" * 12


def everything() -> ReportPage:
    """A page with wide tables, names that no line breaks, drawings, a note and long settings."""
    columns = (Column("Arm"), *(Column(f"Column {number}", "right") for number in range(14)))
    wide = Table(
        LONG,
        columns,
        (Row((LONG,), "group"), Row((LONG, *["+0.25 (\u22120.10 to +0.60)"] * 14), "highlight")),
        (LONG,),
    )
    curves = curves_panel([1, 2], {LONG: [0.1, 0.2]}, x_label="step", y_label="loss", label=LONG, width=900)
    blocks = (Text((LONG, "Two words.")), Note(LONG, LONG), wide, Figure((curves, curves), LONG, "stack"))
    sections = tuple(Section(f"{LONG} {number}", blocks) for number in range(4))
    return ReportPage(LONG, (LONG,), sections, {"name": LONG}, {"splits": 7}, {LONG: LONG}, first=answer())


def answer(rows: int = 4, drawn: int = 3) -> tuple[Table | Figure, ...]:
    """A table and a figure as the first screen of an evaluation has them."""
    titles = ("Target", "Best", "Mixture", "Difference", "Mixture is", "Context", "Magnification", "Tiles", "20x alone")
    numbers = ("0.77 (0.66 to 0.86) 20x", "0.97 (0.93 to 1.00)", "+0.20 (+0.10 to +0.30)", "better")
    columns = tuple(Column(title, "right" if title in titles[5:] else "left") for title in titles)
    lines = tuple(Row((f"target {number}", *numbers, *["+0.10 (open)"] * 4)) for number in range(rows))
    one = Interval(0.8, 0.7, 0.9)
    figure = compared_figure({f"target {number}": {"single": one, "mixture": one} for number in range(drawn)})
    return Table("AUC", columns, lines, ("A sentence of a footnote. " * 12,)), figure


@pytest.fixture(scope="module")
def opened(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> "Page":
    path = make_report(everything(), tmp_path_factory.mktemp("page") / "report.html")
    return open_page(browser, path)


def open_page(browser: "Browser", path: Path) -> "Page":
    page = browser.new_page()
    page.goto(path.as_uri())
    return page


def overhang(page: "Page") -> int:
    """How many px the page can be scrolled sideways."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("width", [400, 768, 1200])
def test_nothing_makes_the_page_scroll_sideways(opened: "Page", width: int) -> None:
    opened.emulate_media(media="screen")
    opened.set_viewport_size({"width": width, "height": 900})

    assert overhang(opened) == 0
    # The twin: what is wider than the page can be reached inside its own box.
    wide = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert opened.evaluate(wide) >= 4


def test_the_page_of_an_evaluation_begins_with_its_answer_on_one_screen_and_fits_a_phone(
    browser: "Browser", tmp_path: Path
) -> None:
    kinds = ("binary", "multiclass", "survival")
    scanner = {"scanner": ["one" if number % 2 else "two" for number in range(60)]}
    results = {kind: drawn(cohort_of(kind, by=scanner, target=kind)).result() for kind in kinds}
    written = write_evaluation(results, tmp_path, settings={}, seed=0, inputs={})
    page = open_page(browser, written.report)

    page.set_viewport_size({"width": 1200, "height": 900})
    assert page.locator(".lead").all_inner_texts() == [written.answer]
    assert page.locator("header figure").evaluate("one => one.getBoundingClientRect().bottom") <= 900
    page.set_viewport_size({"width": 400, "height": 900})
    assert overhang(page) == 0


def test_on_a_phone_the_first_table_stands_as_lines_with_their_names(opened: "Page") -> None:
    opened.emulate_media(media="screen")
    opened.set_viewport_size({"width": 400, "height": 900})

    first = opened.locator(".answer td").first
    box = opened.locator(".answer").first

    assert first.evaluate("one => getComputedStyle(one, '::before').content") == '"Best"'
    assert box.evaluate("one => one.scrollWidth <= one.clientWidth")


def test_on_paper_nothing_is_cut_and_nothing_is_folded(opened: "Page") -> None:
    opened.set_viewport_size({"width": A4_PX, "height": 1000})
    opened.emulate_media(media="print")

    beyond = "[...document.querySelectorAll('table, svg, img, pre, p')].filter(one => one.getBoundingClientRect().right"
    assert overhang(opened) == 0
    assert opened.evaluate(f"{beyond} > {A4_PX + 1}).length") == 0
    assert opened.locator("details pre").evaluate("one => one.checkVisibility() && one.clientHeight") > 10
    opened.emulate_media(media="screen")
    assert not opened.locator("details pre").evaluate("one => one.checkVisibility()")


@pytest.mark.parametrize(("rows", "drawn"), [(4, 3), (1, 14)], ids=["three targets and their mean", "many targets"])
def test_one_sentence_the_table_and_the_figure_fit_a_screen(
    browser: "Browser", tmp_path: Path, rows: int, drawn: int
) -> None:
    said = "Mixing magnifications is better for pairing than the best single one, and open for gland_type: " * 2
    shown = ReportPage("Magnifications compared", (said,), (Section("Below", ()),), first=answer(rows, drawn))
    page = open_page(browser, make_report(shown, tmp_path / "report.html"))
    page.set_viewport_size({"width": 1200, "height": 900})

    bottom = page.locator("header figure").evaluate("one => one.getBoundingClientRect().bottom")

    assert page.locator(".lead").count() == page.locator("header table").count() == 1
    assert bottom <= 900
    assert page.locator(".answer").first.evaluate("one => one.scrollWidth <= one.clientWidth")
    assert page.locator("h2").first.evaluate("one => one.getBoundingClientRect().top") > bottom
