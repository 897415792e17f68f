"""What people see and do on the viewer's page, in a real browser."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .browsing import (
    HOSTILE,
    LEFT,
    MPP,
    RIGHT,
    SIZE_PX,
    Shown,
    mpps,
    on_screen,
    pixel,
    place,
    settled,
    show_cohort,
    wait_for_mpps,
    wait_for_region,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

REGION_UM = 448.0
WAIT_MS = 10_000  # a state that does not come by then never comes
USUAL: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def shown(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with show_cohort(tmp_path_factory.mktemp("shown")) as shown:
        yield shown


@pytest.fixture(scope="module")
def context(browser: "Browser") -> Iterator["BrowserContext"]:
    """What most pages are opened in, one after the other."""
    with browser.new_context(**USUAL) as context:
        yield context


@pytest.fixture
def open_page(browser: "Browser", context: "BrowserContext", shown: Shown) -> Iterator[Open]:
    """Opens the page and waits for its slide; at the end nothing was refused by the policy and no script has failed."""
    opened, failures = [], list[str]()

    def open_page(
        fragment: str = f"#slide={shown.ids[1]}", *, routes: dict[str, Any] | None = None, **how: Any
    ) -> "Page":
        page = browser.new_page(**USUAL | how) if how else context.new_page()
        opened.append(page)
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda said: failures.append(said.text) if "Content Security Policy" in said.text else None)
        for pattern, answer in (routes or {}).items():
            page.route(pattern, answer)
        page.goto(shown.address + fragment)
        settled(page)
        return page

    yield open_page
    for page in opened:
        page.close()
    assert failures == []


def choose_overlay(page: "Page", key: str) -> None:
    page.locator(f"#overlays [data-key='{key}']").click()
    page.wait_for_selector(f".colour-bar[data-key='{key}']")


def region_at(page: "Page", x_um: float, y_um: float) -> int:
    """Click a place of the slide; the number of the region that the panel shows."""
    page.mouse.click(*on_screen(page, x_um, y_um))
    heading = page.locator("#region h2")
    heading.wait_for()
    return int(heading.inner_text().removeprefix("Region "))


def test_a_slide_is_picked_from_the_list_and_seen_with_its_prediction(open_page: Open, shown: Shown) -> None:
    page = open_page("")
    page.get_by_label("Filter slides by name").fill("00003")
    assert page.locator("#count").inner_text() == "1 of 16 slides"
    page.locator("#list li:visible").click()

    page.wait_for_selector(f"#slide h2:text-is('{shown.ids[2]}')")
    settled(page)
    share = page.locator("#slide .share")
    share.wait_for()
    assert re.fullmatch(r"\d+(\.\d)? %", share.inner_text())
    page.wait_for_selector('#slide .sum:has-text("the slide\'s score before calibration")')
    total = re.match(r"These add up to (\S+), ", page.locator("#slide .sum").inner_text())
    base = page.locator("#slide .bars .value").first.inner_text()
    sentence = page.locator("#slide p:has-text('The score of pairing (1)')").inner_text()
    assert f"before calibration is {total.group(1)}: {base} with no magnification" in sentence

    # The slide's own pixels, left and right of its middle: it is not mirrored, and lies where the address says.
    for away, colour in ((-300, LEFT), (300, RIGHT)):
        spot = on_screen(page, SIZE_PX[0] * MPP / 2 + away, SIZE_PX[1] * MPP / 2)
        page.wait_for_function(
            """([x, y, wanted]) => { const canvas = document.querySelector(".openseadragon-canvas canvas");
            const box = canvas.getBoundingClientRect();
            const at = [(x - box.left), (y - box.top)].map(value => value * canvas.width / box.width);
            const found = canvas.getContext("2d").getImageData(...at, 1, 1).data;
            return wanted.every((value, i) => Math.abs(value - found[i]) < 12); }""",
            arg=[*spot, list(colour)],
        )


def test_a_number_with_its_interval_and_what_is_wrong_with_a_slide_are_in_the_list(open_page: Open) -> None:
    said = {"probabilities": [], "call": None, "value": 3.25, "low": 1.5, "high": 5.0, "calibrated": False}
    said |= {"doubt": "it was read in part.", "settled": True}

    def slides(route: "Route") -> None:
        answer = route.fetch()
        known = answer.json()
        known[1] |= {"pending": False, "shares_read": {"10x": 0.3, "20x": 0.1}}
        known[1]["prediction"] = {**said, "outside": True, "percentile": 97.2}
        known[2] |= {"pending": False, "prediction": None, "error": "it has no tile at 2 mpp."}
        route.fulfill(response=answer, json=known)

    nothing = {"next": 0, "slides": []}
    routes = {"**/api/slides": slides, "**/news?*": lambda route: route.fulfill(json=nothing)}
    page = open_page(routes=routes)
    row = page.locator("#list li").nth(1)
    assert row.locator(".verdict").inner_text() == "pairing 3.25 (1.5 to 5)"
    assert row.locator(".flag").all_inner_texts() == [
        "unlike training",
        "in doubt",
        "settled",
        "10x 30 %, 20x 10 % read",
    ]
    row.get_by_text("unlike training").hover()
    assert "further off than 97 % of the training patients" in page.locator("#hint").inner_text()
    row.get_by_text("in doubt").hover()
    assert page.locator("#hint").inner_text() == "This prediction is in doubt: it was read in part."
    assert page.locator("#list li").nth(2).locator(".problem").inner_text() == "No prediction: it has no tile at 2 mpp."


def test_keys_and_the_wheel_zoom_and_move(open_page: Open) -> None:
    page = open_page()
    whole = mpps(page)[0]
    page.keyboard.press("2")
    wait_for_mpps(page, [1.0])
    page.keyboard.press("+")
    wait_for_mpps(page, [1 / 1.5])
    before = place(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    page.wait_for_function(
        "before => ![`x=${before.x}&`, `y=${before.y}&`].some(one => location.hash.includes(one))", arg=before
    )
    after = place(page)
    assert float(after["x"]) > float(before["x"])
    assert float(after["y"]) > float(before["y"])
    page.mouse.move(*on_screen(page, float(after["x"]), float(after["y"])))
    page.mouse.wheel(0, 200)
    wait_for_mpps(page, [1.25 / 1.5])
    page.keyboard.press("0")
    wait_for_mpps(page, [whole])
    page.set_viewport_size({"width": 1100, "height": 700})  # what is whole stays whole
    page.wait_for_function(
        """width => { const pane = document.querySelector(".pane");
        return pane.dataset.mpp * pane.clientWidth >= width && pane.dataset.mpp * pane.clientWidth < 1.2 * width; }""",
        arg=SIZE_PX[0] * MPP,
    )


def test_the_magnification_and_the_scale_bar_are_those_of_the_screen(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("1")
    wait_for_mpps(page, [2.0])
    assert page.locator(".at").inner_text() == "5x · 2 µm per pixel"
    bar = page.locator(".scale-bar")
    assert bar.inner_text() == "200 µm"
    assert bar.bounding_box()["width"] == pytest.approx(200 / 2.0, abs=1)


def test_linked_panes_keep_their_ratio_and_show_where_the_finer_ones_look(open_page: Open) -> None:
    page = open_page(reduced_motion="no-preference")
    page.keyboard.press("v")
    wait_for_mpps(page, [2.0, 1.0, 0.5])
    assert [label.inner_text().split(" ")[0] for label in page.locator(".at").all()] == ["5x", "10x", "20x"]

    finest = page.locator(".stage").nth(2).bounding_box()
    page.mouse.move(finest["x"] + 40, finest["y"] + 60)
    page.mouse.wheel(0, -200)
    wait_for_mpps(page, [1.6, 0.8, 0.4])
    before = place(page)
    page.mouse.down()
    page.mouse.move(finest["x"] + 90, finest["y"] + 160, steps=3)
    page.mouse.up()
    page.wait_for_function("before => !location.hash.includes(`x=${before.x}`)", arg=before)
    wait_for_mpps(page, [1.6, 0.8, 0.4])

    # The 10x pane sees half as much as the 5x pane: the left edge of its footprint lies a quarter from the left.
    coarse = page.locator(".stage").first.bounding_box()
    edge = pixel(page, ".overlay", coarse["x"] + coarse["width"] / 4, coarse["y"] + coarse["height"] / 2)
    assert edge == [0xC2, 0x41, 0x0C, 255]

    page.locator("#overlays [data-key=own]").click()
    page.wait_for_function("() => document.querySelectorAll('.colour-bar').length === 3")
    assert [bar.get_attribute("data-key") for bar in page.locator(".colour-bar").all()] == ["2", "1", "0.5"]


def test_a_clicked_region_shows_its_tiles_its_parts_and_regions_like_it(open_page: Open, shown: Shown) -> None:
    page = open_page()
    number = region_at(page, 3.5 * REGION_UM, 1.5 * REGION_UM)
    assert number == 8 + 3  # eight regions to a row
    titles = [one.inner_text() for one in page.locator(".tiles figcaption").all()]
    assert titles == ["5x: 1 read", "10x: 4 read", "20x: 16 read"]
    assert [grid.locator(".tile").count() for grid in page.locator(".grid").all()] == [1, 4, 16]
    crop = page.locator(".tile img").first
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=crop.element_handle())
    assert page.locator("#region .sum").inner_text().startswith("These add up to ")
    assert page.locator("#region .bars dt").all_inner_texts() == [
        *("5x alone", "10x alone", "20x alone"),
        *("5x with 10x", "5x with 20x", "10x with 20x"),
    ]

    alike = page.locator("#similar .places button")
    alike.first.wait_for()
    assert alike.count() == 12
    target = alike.first.get_attribute("aria-label") or ""
    region, slide = re.match(r"Region (\d+) of (.+?)\. Similarity", target).groups()
    assert alike.first.inner_text().split("\n")[-3:-1] == [slide, f"region {region}"]
    alike.first.click()
    wait_for_region(page, slide, region)


def test_tiles_that_were_not_read_or_are_absent_are_marked(open_page: Open) -> None:
    def changed(route: "Route") -> None:
        answer = route.fetch()
        region = answer.json()
        for tile, status in zip(region["tiles"]["0.5"], ["unread", "unread", "absent"], strict=False):
            tile["status"] = status
        route.fulfill(response=answer, json=region)

    page = open_page(routes={"**/regions/0": changed})
    region_at(page, 100, 100)
    assert page.locator(".tiles figcaption").last.inner_text() == "20x: 13 read, 2 not read, 1 absent"
    assert page.locator(".tile.absent img").count() == 0
    page.locator(".tile.unread").first.hover()
    assert "was not read" in page.locator("#hint").inner_text()


def test_overlays_colour_regions_by_their_sign_and_the_slider_fades_them(open_page: Open, shown: Shown) -> None:
    page = open_page()
    values = page.evaluate("fetch('api/slides/1/overlays/score').then(answer => answer.json())")["values"]
    low, high = min(range(24), key=values.__getitem__), max(range(24), key=values.__getitem__)
    spots = [on_screen(page, (n % 8 + 0.5) * REGION_UM, (n // 8 + 0.5) * REGION_UM) for n in (low, high)]
    choose_overlay(page, "score")
    red, _, blue, alpha = pixel(page, ".overlay", *spots[0])
    assert blue > red + 50
    assert alpha == pytest.approx(128, abs=1)
    red, _, blue, alpha = pixel(page, ".overlay", *spots[1])
    assert red > blue + 50

    before = [pixel(page, ".overlay", *spot) for spot in spots]
    choose_overlay(page, "differs-2")
    assert [pixel(page, ".overlay", *spot) for spot in spots] != before
    bar = page.locator(".colour-bar")
    assert "standard deviations" in bar.inner_text()

    page.locator("#opacity").evaluate("slider => { slider.value = 0.2; slider.dispatchEvent(new Event('input')); }")
    page.wait_for_function("() => location.hash.includes('opacity=0.2')")
    assert pixel(page, ".overlay", *spots[0])[3] == pytest.approx(51, abs=1)


def test_a_deep_link_restores_the_view(open_page: Open, shown: Shown) -> None:
    page = open_page()
    region_at(page, 5.5 * REGION_UM, 0.5 * REGION_UM)
    page.keyboard.press("v")
    wait_for_mpps(page, [2.0, 1.0, 0.5])
    page.keyboard.press("+")
    wait_for_mpps(page, [2 / 1.5, 1 / 1.5, 0.5 / 1.5])
    choose_overlay(page, "2+0.5")
    page.get_by_label("Dark or light").click()
    page.wait_for_function("() => location.hash.includes('theme=dark')")

    other = open_page("#" + page.url.split("#")[1])
    wait_for_mpps(other, [2 / 1.5, 1 / 1.5, 0.5 / 1.5])
    other.wait_for_selector("#region h2:text-is('Region 5')")
    assert other.locator("#overlays [aria-checked=true]").get_attribute("data-key") == "2+0.5"
    assert other.locator("html").get_attribute("data-theme") == "dark"
    assert other.locator("#list [aria-selected=true] .name").inner_text() == shown.ids[1]
    assert place(other) == place(page)


def test_a_link_to_a_region_goes_there_at_its_magnification(open_page: Open, shown: Shown) -> None:
    page = open_page(f"#slide={shown.ids[1]}&region=11&mpp=1.5")
    wait_for_region(page, shown.ids[1], "11")
    wait_for_mpps(page, [1.5])
    at = place(page)
    assert (float(at["x"]), float(at["y"])) == pytest.approx((3.5 * REGION_UM, 1.5 * REGION_UM), abs=0.1)


def test_a_link_to_what_is_not_there_says_so_in_one_line(open_page: Open, shown: Shown) -> None:
    page = open_page("#slide=nobody")
    assert page.get_by_role("alert").inner_text() == "This store has no slide nobody; the first one is shown."
    page = open_page(f"#slide={shown.ids[1]}&region=99")
    assert page.get_by_role("alert").inner_text() == f"{shown.ids[1]} has regions 0 to 23, and not 99."


def test_what_the_server_refuses_is_said_in_its_own_line(open_page: Open) -> None:
    def refuse(route: "Route") -> None:
        route.fulfill(status=404, json={"error": "the index of the slide is damaged."})

    page = open_page(routes={"**/regions/0": refuse})
    page.mouse.click(*on_screen(page, 100, 100))
    page.wait_for_selector("[role=alert]:text-is('the index of the slide is damaged.')")


def test_a_slide_whose_file_was_removed_keeps_its_overlays(open_page: Open, shown: Shown) -> None:
    page = open_page()
    file = shown.slides / f"{shown.ids[3]}.tif"  # not one that the server holds open
    away = file.rename(file.with_suffix(".away"))
    try:
        page.locator("#list li").nth(3).click()
        page.wait_for_selector(f"#slide h2:text-is('{shown.ids[3]}')")
        settled(page)
        assert str(file) in page.locator(".why").inner_text()
        assert int(page.locator(".overlay").get_attribute("data-regions") or 0) == 24
        choose_overlay(page, "score")
        assert pixel(page, ".overlay", *on_screen(page, 700, 700))[3] > 0
    finally:
        away.rename(file)


def test_markup_in_a_slides_name_stays_text(open_page: Open, shown: Shown) -> None:
    page = open_page("")
    assert shown.ids[0] == HOSTILE
    assert page.locator("#list .name").first.inner_text() == HOSTILE
    assert page.locator("#slide h2").inner_text() == HOSTILE
    assert page.locator("#list img, #list b, h2 img, h2 b").count() == 0
    assert page.title() == f"{HOSTILE} · parfocal"


def test_both_ends_of_a_direction_are_shown_and_gone_to(open_page: Open) -> None:
    def unlike(route: "Route") -> None:
        answer = route.fetch()
        known = answer.json()
        known["top"][0]["outside"] = True
        route.fulfill(response=answer, json=known)

    page = open_page(routes={"**/api/directions/*": unlike})
    page.locator("#directions .group button").first.click()
    page.wait_for_selector("#directions h2:has-text(': bottom')")
    assert "at the same end of both, top or bottom, raises the score" in page.locator("#directions").inner_text()
    assert "unlike training" in page.locator("#directions .places button").first.inner_text()
    ends = page.locator("#directions .places button")
    label = ends.last.get_attribute("aria-label") or ""
    region, slide = re.match(r"Region (\d+) of (.+?)\. It lies", label).groups()
    ends.last.click()
    wait_for_region(page, slide, region)
    assert page.locator("#list [aria-selected=true] .name").inner_text() == slide


def test_fifty_thousand_regions_are_drawn_and_found(open_page: Open, shown: Shown) -> None:
    n, across, side = 50_000, 250, 14.0

    def many(route: "Route") -> None:
        answer = route.fetch()
        columns = answer.json()
        columns["x_um"] = [number % across * side for number in range(n)]
        columns["y_um"] = [number // across * side / 2 for number in range(n)]  # each overlaps the one below by half
        route.fulfill(response=answer, json=columns)

    def slide(route: "Route") -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "region_um": side})

    def values(route: "Route") -> None:
        route.fulfill(
            json={"key": "score", "values": [number / n - 0.5 for number in range(n)], "low": -0.5, "high": 0.5}
        )

    asked = []

    def region(route: "Route") -> None:
        asked.append(route.request.url)
        route.fulfill(status=404, json={"error": "asked"})

    routes = {"**/slides/1": slide, "**/slides/1/regions": many, "**/overlays/score": values, "**/regions/*": region}
    page = open_page(routes=routes, reduced_motion="no-preference")
    assert int(page.locator(".overlay").get_attribute("data-regions") or 0) == n
    # While it zooms, half of the frames come within the time of ten on a screen at rest: nothing stands still, and a
    # machine that does other things meanwhile is slower.
    page.keyboard.press("+")
    frames = page.evaluate(
        """async () => { const times = [];
        for (let i = 0; i < 20; i++) times.push(await new Promise(requestAnimationFrame));
        return times.slice(1).map((time, i) => time - times[i]).sort((a, b) => a - b); }"""
    )
    assert frames[len(frames) // 2] < 10 * 1000 / 60
    mpp = mpps(page)[0]
    page.keyboard.press("0")
    page.wait_for_function("mpp => document.querySelector('.pane').dataset.mpp > 1.4 * mpp", arg=mpp)
    page.keyboard.press("1")
    wait_for_mpps(page, [2.0])
    # Two regions hold this place: the middle of row 106's is 1 um away, that of row 105's 6 um.
    page.mouse.click(*on_screen(page, 130.5 * side, 106 * side / 2 + 8))
    page.wait_for_selector("[role=alert]:text-is('asked')")
    assert asked[0].endswith(f"/regions/{106 * across + 130}")


def test_a_tablet_has_no_sideways_scroll_and_works_by_touch(open_page: Open, shown: Shown) -> None:
    page = open_page(viewport={"width": 768, "height": 1024}, has_touch=True)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 768
    assert not page.locator("#list").is_visible()
    page.get_by_role("button", name="Slides").tap()
    page.locator("#list li").nth(2).tap()
    page.wait_for_selector(f"#slide h2:text-is('{shown.ids[2]}')")
    settled(page)
    page.wait_for_selector("#list", state="hidden")
    page.touchscreen.tap(*on_screen(page, 1.5 * REGION_UM, 0.5 * REGION_UM))
    page.wait_for_selector("#region h2:text-is('Region 1')")
    page.locator("#region dd").first.tap()
    assert "adds to the region's score by itself" in page.locator("#hint").inner_text()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 768


def test_n_and_p_go_through_the_slides_and_back_leads_to_the_one_before(open_page: Open, shown: Shown) -> None:
    page = open_page()
    for key, number in (("n", 2), ("p", 1), ("n", 2)):
        page.keyboard.press(key)
        page.wait_for_selector(f"#slide h2:text-is('{shown.ids[number]}')")
        page.wait_for_function("slide => location.hash.includes(slide)", arg=shown.ids[number])
    page.go_back()
    page.wait_for_selector(f"#slide h2:text-is('{shown.ids[1]}')")


def test_the_keys_are_listed_and_escape_closes(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("n")  # keys of the page rest while the list is open
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    region_at(page, 100, 100)
    page.keyboard.press("Escape")
    page.wait_for_selector("#region h2", state="detached")
    page.wait_for_function("() => !location.hash.includes('region=')")
