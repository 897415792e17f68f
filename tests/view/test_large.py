"""A list of slides does not wait for them, and a page learns what has changed."""

from pathlib import Path

import pytest

from parfocal.similar import RegionSearch
from parfocal.view.app import make_app
from parfocal.view.viewed import viewed_set
from parfocal.view.viewer import Viewer

from .stores import TOKEN, read, tokens, write_slide, write_store

PLACES = [(0.0, 0.0), (56.0, 0.0)]


def test_the_list_comes_before_any_slide_has_been_looked_at(tmp_path: Path) -> None:
    tiles = write_store(tmp_path / "store", [tokens(slide, PLACES) for slide in "abc"], {})
    viewer = Viewer(viewed_set(tiles, None, ()), RegionSearch(tiles))
    app = make_app(viewer, TOKEN)

    early = read(app, "/api/slides")
    none_yet = read(app, "/api/slides/news", "after=0")
    viewer.start()
    viewer._background.join()
    later = read(app, "/api/slides")
    news = read(app, "/api/slides/news", f"after={none_yet['next']}")
    viewer.close()
    viewer.search.close()

    assert [(one["id"], one["pending"], one["n_regions"], one["is_there"]) for one in early] == [
        (slide, True, None, None) for slide in "abc"
    ]
    assert none_yet == {"next": 0, "slides": []}
    assert [(one["pending"], one["n_regions"]) for one in later] == [(False, 2)] * 3
    assert news["slides"] == later


def test_a_slide_that_goes_while_it_is_looked_at_is_news(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_slide(path, 160, 112, 1)
    tiles = write_store(tmp_path / "store", [tokens("a", PLACES)], {"a": (path, (160, 112))})
    with RegionSearch(tiles) as search:
        viewer = Viewer(viewed_set(tiles, None, ()), search)
        viewer.start()
        viewer._background.join()
        app = make_app(viewer, TOKEN)
        before = read(app, "/api/slides/news", "after=0")
        path.rename(tmp_path / "b.tif")
        gone = read(app, "/api/slides/0")
        after = read(app, "/api/slides/news", f"after={before['next']}")
        (tmp_path / "b.tif").rename(path)
        back = read(app, "/api/slides/0")
        viewer.close()

    assert before["slides"][0]["is_there"]
    assert not gone["is_there"]
    assert (gone["levels"], gone["size_px"]) == ([], [160, 112])
    assert [(one["is_there"], one["why"]) for one in after["slides"]] == [(False, gone["why"])]
    assert back["is_there"]


def test_slides_that_have_moved_are_found_by_name(tmp_path: Path) -> None:
    write_slide(tmp_path / "now" / "deep" / "a.tif", 160, 112, 1)
    tiles = write_store(tmp_path / "store", [tokens("a", PLACES)], {"a": (tmp_path / "then" / "a.tif", (160, 112))})

    assert "does not exist" in str(viewed_set(tiles, None, ()).problem(0))
    moved = viewed_set(tiles, None, [tmp_path / "now"])
    assert moved.problem(0) is None
    source = moved.facts(0).source
    assert source is not None
    assert source.path == tmp_path / "now" / "deep" / "a.tif"
    assert source.slide_mpp == pytest.approx(0.5)
