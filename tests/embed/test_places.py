"""Regions on places: what the store gets, what is kept, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.embed import EmbedSettings, embed_slides, estimate_run
from parfocal.errors import ConfigError
from parfocal.store import open_set

from .conftest import SlideMaker


def spots(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "spots.csv"
    path.write_text("\n".join(["slide,x_um,y_um,gene", *rows]) + "\n")
    return path


def at_places(settings: EmbedSettings, path: Path) -> EmbedSettings:
    return settings.model_copy(update={"places": path})


def test_the_store_has_a_region_around_every_place(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path
) -> None:
    slide = make_slide("one.tif")
    rows = ["one,250.3,240.7,1", "one,700,350,2", "one,251,300,3", "two,1,1,4"]
    asked = at_places(small_settings, spots(tmp_path, *rows))

    estimate = estimate_run([slide], tmp_path / "store", asked)
    summary = embed_slides([slide], tmp_path / "store", asked)

    tokens = open_set(summary.set_path).read("one")
    middles = tokens.region_xy_um + tokens.region_um / 2
    np.testing.assert_allclose(sorted(middles.tolist()), [[250.3, 240.7], [251, 300], [700, 350]], atol=1e-6)
    for mpp in (2.0, 1.0, 0.5):
        at_middle = np.abs(tokens.center_um[mpp]).max(axis=1) == 0
        assert np.bincount(tokens.region[mpp][at_middle]).tolist() == [1, 1, 1]
    assert estimate.n_tiles == {mpp: len(rows) for mpp, rows in tokens.features.items()}
    # The same places on a lattice are another set.
    assert embed_slides([slide], tmp_path / "store", small_settings).set_path != summary.set_path


def test_a_tile_in_the_middle_is_the_same_wherever_else_places_are(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path
) -> None:
    slide = make_slide("one.tif")
    alone = embed_slides([slide], tmp_path / "a", at_places(small_settings, spots(tmp_path, "one,250,240,1")))
    many = spots(tmp_path, "one,250,240,1", "one,240,250,1", "one,700,350,1")
    together = embed_slides([slide], tmp_path / "b", at_places(small_settings, many))

    found = []
    for summary in (alone, together):
        tokens = open_set(summary.set_path).read("one")
        number = int(np.flatnonzero((tokens.region_xy_um == [250 - 64, 240 - 64]).all(axis=1))[0])
        found.append([tokens.features[mpp][tokens.region[mpp] == number] for mpp in tokens.mpps])
    for first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


def test_a_slide_is_kept_at_its_places_and_refused_at_others(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path
) -> None:
    slides = [make_slide("one.tif"), make_slide("two.tif", seed=1)]
    first = at_places(small_settings, spots(tmp_path, "one,250,240,1"))
    failed = embed_slides(slides, tmp_path / "store", first)
    # Another slide's places, in another order and with other targets, change nothing.
    same = at_places(small_settings, spots(tmp_path, "two,300,240,9", "one,250,240,2"))
    kept = embed_slides(slides, tmp_path / "store", same)
    moved = embed_slides(slides, tmp_path / "store", at_places(small_settings, spots(tmp_path, "one,250,250,1")))

    assert [one.slide for one in failed.done] == ["one"]
    assert [one.slide for one in failed.failed] == ["two"]
    assert "has no place on the slide two" in failed.failed[0].message
    assert [(one.slide, one.kept) for one in kept.done] == [("one", True), ("two", False)]
    assert "regions on other places" in moved.failed[0].message


def test_two_slides_of_one_name_do_not_share_places(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path
) -> None:
    first, _ = make_slide("a/one.tif"), make_slide("b/one.tif", seed=1)
    asked = at_places(small_settings, spots(tmp_path, "one,250,240,1"))

    for run in (embed_slides, estimate_run):
        with pytest.raises(ConfigError, match="both a/one and b/one are called so"):
            run([first.parents[1]], tmp_path / "store", asked)
    assert not list((tmp_path / "store").rglob("*.h5"))


def test_a_dry_run_reads_places_that_have_changed(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path
) -> None:
    slide = make_slide("one.tif")
    before = estimate_run([slide], tmp_path / "store", at_places(small_settings, spots(tmp_path, "one,250,240,1")))
    both = spots(tmp_path, "one,250,240,1", "one,700,350,1")
    after = estimate_run([slide], tmp_path / "store", at_places(small_settings, both))

    assert [one.slides[0].n_regions for one in (before, after)] == [1, 2]


@pytest.mark.parametrize("where", ["one,250,4000,1", "one,-3,240,1"])
def test_a_place_beside_the_slide_fails_the_slide(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path, where: str
) -> None:
    asked = at_places(small_settings, spots(tmp_path, "one,250,240,1", where))

    summary = embed_slides([make_slide("one.tif")], tmp_path / "store", asked)

    assert "1 of 2 places lie beside" in summary.failed[0].message
