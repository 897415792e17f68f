"""What the viewer answers, and what it never does."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from parfocal.store import SlideOrigin, write_tokens
from parfocal.store.fingerprint import slide_digest, slide_state
from parfocal.view import Viewer, open_viewer
from parfocal.view.app import make_app

from .stores import (
    DIM,
    MPPS,
    REGION_UM,
    TOKEN,
    ask,
    empty_set,
    read,
    refused,
    tokens,
    write_part,
    write_slide,
    write_store,
)

HOSTILE = "<img src=x onerror=alert(1)>"
PLACES = [(0.0, 0.0), (56.0, 0.0), (0.0, 56.0), (28.0, 28.0)]  # the last one overlaps all others


@dataclass(frozen=True)
class Small:
    """A viewer of four slides: a pyramid, one level, a file that is gone, and one that is another slide's."""

    folder: Path
    viewer: Viewer
    app: Any
    pixels: dict[str, np.ndarray]

    def picture(self, path: str, query: str = "") -> np.ndarray:
        status, headers, body = ask(self.app, f"/{TOKEN}{path}", query=query)
        assert (status, headers["content-type"]) == (200, "image/jpeg"), body
        return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    folder = tmp_path_factory.mktemp("small")
    sizes = {"b-pyramid": (1300, 904), "c-level": (2600, 1100), "d-other": (640, 480)}
    levels = {"b-pyramid": 3, "c-level": 1, "d-other": 1}
    pixels, files = {}, {}
    for seed, (slide, (width, height)) in enumerate(sizes.items()):
        path = folder / "slides" / f"{slide}.tif"
        pixels[slide] = write_slide(path, width, height, levels[slide], seed)
        files[slide] = path, (width + 1 if slide == "d-other" else width, height)
    files[HOSTILE] = folder / "slides" / "gone.tif", (700, 500)
    slides = [tokens(slide, PLACES, seed, (2,)) for seed, slide in enumerate([HOSTILE, *sizes])]
    write_store(folder / "store", slides, files)
    with open_viewer(folder / "store") as viewer:
        viewer._background.join()  # all slides have been looked through
        yield Small(folder, viewer, make_app(viewer, TOKEN), pixels)


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are alike but for what JPEG does to a smooth one."""
    return one.shape == other.shape and float(np.abs(one.astype(int) - other.astype(int)).mean()) < 2.5


def test_slides_come_at_once_with_what_is_known_and_whether_their_file_is_there(small: Small) -> None:
    slides = read(small.app, "/api/slides")

    assert [one["id"] for one in slides] == [HOSTILE, "b-pyramid", "c-level", "d-other"]
    assert [one["is_there"] for one in slides] == [False, True, True, True]
    assert "gone.tif cannot be shown: it does not exist" in slides[0]["why"]
    assert "--slides" in slides[0]["why"]
    assert {one["n_regions"] for one in slides} == {4}
    assert slides[1]["n_tiles"] == {"2": 4, "0.5": 48}
    assert not any(one["pending"] for one in slides)


def test_news_are_the_slides_of_which_more_is_known(small: Small) -> None:
    first = read(small.app, "/api/slides/news", "after=0")
    then = read(small.app, "/api/slides/news", f"after={first['next']}")

    assert [one["number"] for one in first["slides"]] == [0, 1, 2, 3]
    assert then == {"next": first["next"], "slides": []}


def test_tiles_cover_every_level_once_with_the_pixels_of_the_slide(small: Small) -> None:
    slide = read(small.app, "/api/slides/1")
    size, expected = slide["tile_size"], small.pixels["b-pyramid"]

    assert [(one["w"], one["h"]) for one in slide["levels"]] == [(1300, 904), (650, 452), (325, 226)]
    for level, one in enumerate(slide["levels"]):
        whole = np.zeros((one["h"], one["w"], 3), np.uint8)
        for row in range(-(-one["h"] // size)):
            for column in range(-(-one["w"] // size)):
                tile = small.picture(f"/slides/1/tiles/{level}/{column}_{row}.jpg")
                y, x = row * size, column * size
                assert tile.shape[:2] == (min(size, one["h"] - y), min(size, one["w"] - x))
                whole[y : y + size, x : x + size] = tile
        assert near(whole, cv2.resize(expected, (one["w"], one["h"]), interpolation=cv2.INTER_AREA))


def test_a_slide_of_one_level_gets_coarser_ones(small: Small) -> None:
    levels = read(small.app, "/api/slides/2")["levels"]

    assert [(one["w"], one["h"], one["downsample"], one["mpp"]) for one in levels] == [
        (2600, 1100, 1.0, 0.5),
        (1300, 550, 2.0, 1.0),
        (650, 275, 4.0, 2.0),
    ]
    tile = small.picture("/slides/2/tiles/2/1_0.jpg")
    whole = cv2.resize(small.pixels["c-level"], (650, 275), interpolation=cv2.INTER_AREA)
    assert near(tile, whole[:, 512:])


def test_a_level_that_is_too_coarse_to_be_read_by_windows_comes_from_the_small_picture(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parfocal.view.pictures._WINDOW_PX", 600)

    tile = small.picture("/slides/2/tiles/2/0_0.jpg")

    whole = cv2.resize(small.pixels["c-level"], (650, 275), interpolation=cv2.INTER_AREA)
    assert tile.shape == (275, 512, 3)
    assert float(np.abs(tile.astype(int) - whole[:, :512].astype(int)).mean()) < 4  # 8 um per pixel, enlarged


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/slides/1/tiles/3/0_0.jpg", "no level 3"),
        ("/slides/1/tiles/0/3_0.jpg", "outside the slide"),
        ("/slides/1/tiles/0/0_2.jpg", "outside the slide"),
        ("/slides/1/tiles/0/-1_0.jpg", "whole number"),
        ("/slides/1/tiles/0/0_99999999999999999999.jpg", "whole number"),
        ("/slides/1/tiles/0/\u0663_0.jpg", "whole number"),
        ("/slides/4/tiles/0/0_0.jpg", "no slide 4"),
        ("/api/slides/4", "no slide 4"),
        ("/api/slides/b-pyramid", "whole number"),
        ("/api/slides/1/regions/4", "no region 4"),
        ("/api/slides/1/regions/-1", "whole number"),
        ("/api/slides/1/regions/4/similar", "no region 4"),
        ("/api/slides/1/overlays/label", "no overlay 'label'"),
        ("/api/slides/1/explanation", "--head"),
        ("/api/directions/0", "--head"),
        ("/slides/0/tiles/0/0_0.jpg", "gone.tif cannot be shown"),
        ("/slides/3/tiles/0/0_0.jpg", "another slide"),
    ],
)
def test_what_is_not_there_is_one_line(small: Small, path: str, why: str) -> None:
    said = refused(small.app, path)

    assert why in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("x_um=0&y_um=0&side_um=nan", "numbers of micrometres"),
        ("x_um=inf&y_um=0&side_um=10", "numbers of micrometres"),
        ("x_um=0&y_um=0&side_um=-5", "above 0"),
        ("x_um=0&y_um=0&side_um=0", "above 0"),
        ("x_um=1e300&y_um=0&side_um=9", "numbers of micrometres"),
        ("x_um=0&y_um=0&side_um=1e8", "at most"),
        ("x_um=0&y_um=0&side_um=50&px=100000", "16 to 512 px"),
        ("x_um=0&y_um=0&side_um=50&px=-1", "whole number"),
        ("x_um=0&y_um=0&side_um=ten", "number of micrometres"),
        ("x_um=0&y_um=0", "number of micrometres"),
    ],
)
def test_a_crop_of_impossible_size_is_refused(small: Small, query: str, why: str) -> None:
    assert why in refused(small.app, "/slides/1/crop.jpg", query)


def test_a_crop_is_white_outside_the_slide(small: Small) -> None:
    crop = small.picture("/slides/1/crop.jpg", "x_um=-28&y_um=-14&side_um=56&px=112")
    far = small.picture("/slides/1/crop.jpg", "x_um=900000&y_um=0&side_um=56&px=64")

    expected = np.full((112, 112, 3), 255, np.uint8)
    expected[28:, 56:] = small.pixels["b-pyramid"][:84, :56]
    assert near(crop, expected)
    assert (far == 255).all()


def test_few_slides_stay_open(small: Small, tmp_path: Path) -> None:
    files = {}
    for number in range(6):
        path = tmp_path / f"s{number}.tif"
        write_slide(path, 160, 112, 1)
        files[f"s{number}"] = path, (160, 112)
    write_store(tmp_path / "store", [tokens(slide, PLACES) for slide in files], files)
    with open_viewer(tmp_path / "store") as viewer:
        for number in range(6):
            viewer.tile(number, 0, 0, 0)
        opened = dict(viewer.pictures._open)

        assert list(opened) == [2, 3, 4, 5]
    with pytest.raises(Exception, match="has been closed"):
        opened[5].slide.read_level(0, 0, 0, 8, 8)


def test_a_label_has_no_address_however_large(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    scan, label = write_slide(tmp_path / "bare.tif", 640, 480, 1), np.zeros((300, 10_000, 3), np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(scan, tile=(256, 256), photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER")
        tiff.write(label, tile=(256, 256), photometric="rgb", description="label", subfiletype=1)
    write_store(tmp_path / "store", [tokens("s", PLACES)], {"s": (path, (640, 480))})
    with open_viewer(tmp_path / "store") as viewer:
        levels = viewer.slide(0)["levels"]
        app = make_app(viewer, TOKEN)
        overview = refused(app, "/slides/0/tiles/1/0_0.jpg")

    assert [(one["w"], one["h"]) for one in levels] == [(640, 480)]
    assert "no level 1" in overview


def test_regions_are_columns(small: Small) -> None:
    regions = read(small.app, "/api/slides/1/regions")

    assert list(zip(regions["x_um"], regions["y_um"], strict=True)) == PLACES
    assert regions["n_read"] == regions["n_planned"] == {"2": [1] * 4, "0.5": [16, 16, 0, 16]}
    assert regions["tissue"] is None
    assert [one["key"] for one in regions["overlays"]] == ["differs-2", "differs-0.5"]


def test_an_unusual_region_differs_from_the_others(small: Small) -> None:
    rows = tokens("b-pyramid", PLACES, 1, (2,)).features[2.0].astype(np.float64)
    expected = np.sqrt((((rows - rows.mean(0)) / rows.std(0)) ** 2).mean(1))

    drawn = read(small.app, "/api/slides/1/overlays/differs-2")
    with_gap = read(small.app, "/api/slides/1/overlays/differs-0.5")

    assert drawn["values"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert [value is None for value in with_gap["values"]] == [False, False, True, False]


def test_a_region_shows_its_tiles_where_they_lie(small: Small) -> None:
    whole = read(small.app, "/api/slides/1/regions/3")
    gap = read(small.app, "/api/slides/1/regions/2")

    (coarse,), fine = whole["tiles"]["2"], whole["tiles"]["0.5"]
    assert (coarse["x_um"], coarse["y_um"], coarse["side_um"], coarse["status"]) == (28, 28, 56, "read")
    assert [(one["x_um"], one["y_um"]) for one in fine[:5]] == [(28, 28), (42, 28), (56, 28), (70, 28), (28, 42)]
    assert {one["side_um"] for one in fine} == {14}
    assert {one["status"] for one in gap["tiles"]["0.5"]} == {"absent"}
    assert whole["parts"] is None


def test_tiles_that_were_left_out_are_told_from_those_that_are_absent(tmp_path: Path) -> None:
    one = tokens("s", PLACES[:3], 0, (2,))
    write_part(empty_set(tmp_path / "store"), one, [1, 2, 16, 17, 18, 19])
    with open_viewer(tmp_path / "store") as viewer:
        app = make_app(viewer, TOKEN)
        regions, drawn = read(app, "/api/slides/0/regions"), read(app, "/api/slides/0/overlays/share_read-0.5")
        statuses = [
            [tile["status"] for tile in read(app, f"/api/slides/0/regions/{region}")["tiles"]["0.5"]]
            for region in range(3)
        ]
        (entry,) = read(app, "/api/slides")

    assert statuses[0] == ["read", "unread", "unread", *["read"] * 13]
    assert statuses[1] == [*["unread"] * 4, *["read"] * 12]
    assert statuses[2] == ["absent"] * 16
    assert regions["n_read"]["0.5"] == [14, 12, 0]
    assert regions["n_planned"]["0.5"] == [16, 16, 0]
    assert drawn["values"] == [14 / 16, 12 / 16, 1]
    assert (drawn["low"], drawn["high"]) == (0, 1)
    assert entry["shares_read"] == {"20x": pytest.approx(26 / 32)}


def test_a_coarser_magnification_that_was_read_in_part_is_told_too(tmp_path: Path) -> None:
    write_part(empty_set(tmp_path / "store"), tokens("s", PLACES), [1, 2], coarser=[1])
    with open_viewer(tmp_path / "store") as viewer:
        app = make_app(viewer, TOKEN)
        regions = read(app, "/api/slides/0/regions")
        drawn = {name: read(app, f"/api/slides/0/overlays/share_read-{name}")["values"] for name in ("2", "0.5")}
        ((tile,), fine) = read(app, "/api/slides/0/regions/1")["tiles"].values()
        viewer._background.join()
        (entry,) = read(app, "/api/slides")

    assert [one["key"] for one in regions["overlays"]] == ["share_read-2", "share_read-0.5", "differs-2", "differs-0.5"]
    assert [one["label"] for one in regions["overlays"]][:2] == ["share of 5x read", "share of 20x read"]
    assert regions["n_read"]["2"] == [1, 0, 1, 1]
    assert regions["n_planned"]["2"] == [1, 1, 1, 1]
    assert drawn == {"2": [1, 0, 1, 1], "0.5": [14 / 16, 1, 1, 1]}
    assert tile["status"] == "unread"
    assert {one["status"] for one in fine} == {"read"}
    assert entry["shares_read"] == {"5x": pytest.approx(3 / 4), "20x": pytest.approx(62 / 64)}


def test_a_file_that_has_changed_is_not_shown_under_the_old_regions(tmp_path: Path) -> None:
    folder, paths = empty_set(tmp_path / "store"), [tmp_path / f"{name}.tif" for name in "abc"]
    for path in paths:
        write_slide(path, 160, 112, 1)
        origin = SlideOrigin(
            path=str(path), fingerprint=slide_digest(path), state=slide_state(path), size_l0px=(160, 112)
        )
        write_tokens(folder, tokens(path.stem, PLACES), origin=origin)
    touched, other, longer = (path.read_bytes() for path in paths)
    paths[0].write_bytes(touched)  # the same file, written later
    os.utime(paths[0], ns=(1, 1))
    paths[1].write_bytes(other[:-1] + bytes([other[-1] ^ 1]))
    os.utime(paths[1], ns=(1, 1))
    paths[2].write_bytes(longer + b"more")
    with open_viewer(tmp_path / "store") as viewer:
        viewer._background.join()
        app = make_app(viewer, TOKEN)
        before = [one["is_there"] for one in read(app, "/api/slides")]
        one, two, three = (read(app, f"/api/slides/{number}") for number in range(3))
        after = [one["is_there"] for one in read(app, "/api/slides")]
        picture = refused(app, "/slides/1/tiles/0/0_0.jpg")

    assert before == [True, True, False]  # no file is read before it is looked at
    assert after == [one["is_there"], two["is_there"], three["is_there"]] == [True, False, False]
    assert two["why"] == picture
    for said in (two["why"], three["why"]):
        assert said.startswith("the file has changed since it was embedded: ")
        assert "embed it again" in said


def test_likeness_to_a_region_is_an_overlay(small: Small) -> None:
    drawn = read(small.app, "/api/slides/1/overlays/similar", "region=1")
    found = read(small.app, "/api/slides/1/regions/1/similar", "k=40")

    own = {one["region"]: one["similarity"] for one in found if one["slide"] == 1}
    assert drawn["values"][1] == pytest.approx(1, abs=1e-6)
    # The last region overlaps it; the others touch it at most.
    assert own == {region: pytest.approx(drawn["values"][region], abs=1e-3) for region in (0, 2)}


def test_only_the_token_and_a_name_of_this_machine_open_the_page(small: Small) -> None:
    page = f"/{TOKEN}/"

    assert ask(small.app, page)[0] == 200
    assert ask(small.app, page, host="localhost:9000")[0] == 200
    for path in ("/", "/wrong/", f"/{TOKEN}", f"/{TOKEN}x/", f"//{TOKEN}/", "/api/store", f"/x/{TOKEN}/", "*", ""):
        assert ask(small.app, path)[0] == 404, path
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "127.0.0.1:80:80", "", "[::1]"):
        assert ask(small.app, page, host=host)[0] == 421, host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_only_shows(small: Small, method: str) -> None:
    status, _, body = ask(small.app, f"/{TOKEN}/api/store", method=method)

    assert status == 405
    assert "GET and HEAD" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py", "/page/..", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/index.html/../../app.py",
        "/../../../etc/passwd", "/page/..\\app.py", "/page/app.py", "/page/index.html\0.js", "/slides/../1/crop.jpg",
        "/api/slides/../../etc/passwd", "/api/slides/1/overlays/../../../x", "/slides/1/tiles/0/../../../x.jpg",
        "/slides/label.jpg", "/slides/1/label.jpg", "/slides/1/macro.jpg",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(small: Small, path: str) -> None:
    status, _, body = ask(small.app, f"/{TOKEN}{path}")

    assert status == 404
    assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize("path", ["/", "/api/store", "/slides/1/tiles/0/0_0.jpg", "/nothing", "/api/slides/9"])
def test_every_answer_forbids_what_the_page_does_not_need(small: Small, path: str) -> None:
    _, headers, _ = ask(small.app, f"/{TOKEN}{path}")
    _, refused_headers, _ = ask(small.app, path, host="evil.example")

    for one in (headers, refused_headers):
        assert one["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in one["content-security-policy"]
        assert one["x-content-type-options"] == "nosniff"
        assert one["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in one
        assert "access-control-allow-origin" not in one


def test_markup_in_a_name_is_never_sent_as_a_page(small: Small) -> None:
    _, headers, body = ask(small.app, f"/{TOKEN}/api/slides")
    _, _, page = ask(small.app, f"/{TOKEN}/")

    assert headers["content-type"] == "application/json"
    assert HOSTILE in body.decode()
    assert HOSTILE not in page.decode()


def test_a_fault_of_ours_is_a_line_and_not_a_traceback(
    small: Small, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(small.viewer, "store", broken)
    status, _, body = ask(small.app, f"/{TOKEN}/api/store")

    assert status == 500
    assert json.loads(body)["error"] == "RuntimeError: unforeseen (a fault of parfocal)"
    assert "RuntimeError: unforeseen" in capsys.readouterr().err


def test_a_slide_without_a_resolution_is_shown_by_its_regions_and_by_its_file_where_that_is_named(
    tmp_path: Path,
) -> None:
    """As of features that were indexed from files in micrometres, which know no pixel of level 0."""
    pixels = write_slide(tmp_path / "slides" / "a.tif", 640, 480, 1)
    write_store(tmp_path / "store", [replace(tokens("a", PLACES), slide_mpp=float("nan"))], {})

    with open_viewer(tmp_path / "store") as viewer:
        app = make_app(viewer, TOKEN)
        slide = read(app, "/api/slides/0")
        assert (slide["mpp"], slide["size_um"], slide["is_there"]) == (None, None, False)
        assert read(app, "/api/slides/0/regions")["x_um"] == [x for x, _ in PLACES]
    with open_viewer(tmp_path / "store", slides=[tmp_path / "slides"]) as viewer:
        slide = read(make_app(viewer, TOKEN), "/api/slides/0")
        height, width = pixels.shape[:2]
        assert (slide["mpp"], slide["size_um"], slide["is_there"]) == (0.5, [width / 2, height / 2], True)


def test_a_damaged_slide_leaves_the_others_alone(tmp_path: Path) -> None:
    tiles = write_store(tmp_path / "store", [tokens("a", PLACES), tokens("b", PLACES, 1)], {})
    index = tiles.path / "index" / "a.h5"
    index.write_bytes(index.read_bytes()[:-40])
    with open_viewer(tmp_path / "store") as viewer:
        app = make_app(viewer, TOKEN)
        viewer._background.join()
        first, second = read(app, "/api/slides")
        said = refused(app, "/api/slides/0")

    assert "a.h5" in first["error"]
    assert (first["pending"], first["n_regions"]) == (False, None)
    assert second["n_regions"] == 4
    assert "a.h5" in said


def test_rows_are_known_by_the_store(small: Small) -> None:
    store = read(small.app, "/api/store")

    assert store["set"].startswith("small-1")
    assert store["encoder"] == "small"
    assert store["region_um"] == REGION_UM
    assert store["magnifications"] == [{"mpp": 2.0, "label": "5x"}, {"mpp": 0.5, "label": "20x"}]
    assert store["head"] is None
    assert (len(MPPS), DIM) == (2, 5)


def test_pictures_and_lists_wait_for_nothing_that_is_computed(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, statuses = threading.Event(), list[int]()

    def held(*asked: object, **how: object) -> list[object]:
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(small.viewer.search, "nearest", held)
    path = f"/{TOKEN}/api/slides/1/regions/0/similar"
    many = [threading.Thread(target=lambda: statuses.append(ask(small.app, path)[0])) for _ in range(20)]
    for one in many:
        one.start()

    assert len(read(small.app, "/api/slides")) == 4
    assert read(small.app, "/api/slides/1/regions")["x_um"]
    assert small.picture("/slides/1/tiles/1/0_0.jpg").shape == (452, 512, 3)
    assert not statuses
    go_on.set()
    for one in many:
        one.join()
    assert statuses == [200] * 20
