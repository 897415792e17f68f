"""Bags that are read as needed are those that are held, slide by slide, and change with nothing."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import PARENTS, PLACED, Bag, derived_names, one_by_one, own_names, read_bags
from parfocal.errors import StoreError
from parfocal.run.cache import content_digest
from parfocal.store import (
    EmbeddingSet,
    LeftOut,
    SlideRegions,
    SlideTokens,
    create_set,
    open_set,
    write_regions,
    write_tokens,
)
from parfocal.store.layout import features_path

MPPS = (2.0, 1.0, 0.5)
SLIDES = ("c", "a", "b")


def write_slide(path: Path, slide: str, n_regions: int, seed: int) -> None:
    """Tiles of a lattice of 1, 4 and 16 a region; of the last region no tile is there but the coarse one."""
    rng = np.random.default_rng(seed)
    features, region, center = {}, {}, {}
    for mpp, side in zip(MPPS, (1, 2, 4), strict=True):
        own = np.repeat(np.arange(n_regions if side == 1 else n_regions - 1), side**2)
        place = (np.arange(side) + 0.5) * 448 / side - 224
        lattice = np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)
        features[mpp] = rng.standard_normal((len(own), 3 + side)).astype(np.float32)
        region[mpp] = own.astype(np.int32)
        center[mpp] = np.tile(lattice, (len(own) // side**2, 1)).astype(np.float32)
    xy_um = np.arange(2.0 * n_regions).reshape(-1, 2) * 448
    write_tokens(path, SlideTokens(slide, 448.0, 0.5, xy_um, features, region, center))


@pytest.fixture
def tiles(tmp_path: Path) -> EmbeddingSet:
    path = create_set(
        tmp_path, "toy", "tiles", region_um=448.0, dims=dict(zip(MPPS, (4, 5, 7), strict=True)),
        settings={"encoder": "toy"}, encoder_digests=dict.fromkeys(MPPS, "x"), tile_px=224, dtype="float16",
    )  # fmt: skip
    for number, slide in enumerate(SLIDES):
        write_slide(path, slide, 3 + number, number)
    return open_set(path)


def assert_same(one: Bag, other: Bag) -> None:
    assert (one.name, one.slides, one.dim) == (other.name, other.slides, other.dim)
    for name in ("rows", "start", "n_instances", "mean", "region_mean", "region_start", "region_present"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=f"{one.name} {name}")


@pytest.mark.filterwarnings("ignore:.*attention sees a random part:parfocal.errors.ParfocalWarning")
def test_every_bag_is_the_same_read_as_needed_and_held(tiles: EmbeddingSet) -> None:
    names = [*own_names(tiles), *derived_names(tiles), one_by_one("0.5"), one_by_one("pseudo 2")]
    assert {PARENTS, PLACED} < set(names)
    held = read_bags(tiles, SLIDES, names=names, most_instances=20, seed=3)

    bags = read_bags(tiles, SLIDES, names=names, most_instances=20, seed=3, most_bytes=0)

    for needed, whole in zip(bags, held, strict=True):
        assert whole.is_held
        assert not needed.is_held
        assert_same(needed, whole)
        assert_same(needed.of_slides([2, 0]), whole.of_slides([2, 0]))
        assert_same(needed.without(["a"]), whole.without(["a"]))
        assert needed.held().is_held
        assert_same(needed.held(), whole)
        np.testing.assert_array_equal(needed.rows_of(1), whole.rows_of(1))


def test_regions_are_read_as_needed_too(tmp_path: Path) -> None:
    path = create_set(
        tmp_path, "cls", "regions", region_um=448.0, dims=3, settings={"model": "m", "readout": "cls"},
        encoder_digests={2.0: "x"}, dtype="float16",
    )  # fmt: skip
    for number in range(3):
        rows = np.random.default_rng(number).standard_normal((2 + number, 3)).astype(np.float32)
        write_regions(path, SlideRegions(f"s{number}", 448.0, 0.5, np.zeros((2 + number, 2)), rows))
    source = open_set(path)

    (needed,), (held,) = read_bags(source, source.slides, most_bytes=0), read_bags(source, source.slides)

    assert not needed.is_held
    assert_same(needed, held)


def test_vectors_are_held_up_to_what_may_be_and_not_beyond(tiles: EmbeddingSet) -> None:
    total = sum(bag.n_bytes for bag in read_bags(tiles, SLIDES))

    assert all(bag.is_held for bag in read_bags(tiles, SLIDES, most_bytes=total))
    assert not any(bag.is_held for bag in read_bags(tiles, SLIDES, most_bytes=total - 1))


def test_a_magnification_is_read_again_without_the_others(tiles: EmbeddingSet) -> None:
    coarse, fine, _ = read_bags(tiles, SLIDES, names=["2", "0.5", "1"], most_bytes=0)
    for slide in SLIDES:
        features_path(tiles.path, slide, 0.5).unlink()

    assert np.isfinite(coarse.rows[:]).all()
    with pytest.raises(StoreError, match="absent"):
        fine.rows_of(0)


def test_a_slide_that_is_changed_while_it_is_in_use_is_refused(tiles: EmbeddingSet) -> None:
    (_, _, fine) = read_bags(tiles, SLIDES, most_bytes=0)
    before = fine.rows_of(1).copy()
    write_slide(tiles.path, "c", 3, 77)  # as many tiles as before

    np.testing.assert_array_equal(fine.rows_of(1), before)
    with pytest.raises(StoreError, match=r"c of .* was changed while it was in use"):
        fine.rows_of(0)


def test_what_was_kept_of_a_fit_is_found_again_by_the_same_slides_alone(tiles: EmbeddingSet) -> None:
    def digests() -> list[str]:
        return [content_digest(bag) for bag in read_bags(tiles, SLIDES, most_bytes=0)]

    before = digests()
    assert before == digests()
    assert len(set(before)) == len(before)

    write_slide(tiles.path, "a", 4, 77)

    assert not set(before) & set(digests())


def test_slides_are_dealt_a_few_at_a_time_in_their_order(tiles: EmbeddingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, _, held), (_, _, needed) = read_bags(tiles, SLIDES), read_bags(tiles, SLIDES, most_bytes=0)
    slides = np.array([2, 0, 1])
    assert list(held.together(slides)) == list(needed.together(slides)) == [slice(0, 3)]
    assert list(needed.together([])) == [slice(0, 0)]

    # 64, 32 and 48 tiles of 7 numbers: two slides are at most 80 tiles.
    for most, parts in ((0, [(0, 1), (1, 2), (2, 3)]), (7 * 80, [(0, 1), (1, 3)]), (7 * 96, [(0, 2), (2, 3)])):
        monkeypatch.setattr("parfocal.bags.bag._TOGETHER", most)
        assert [(part.start, part.stop) for part in needed.together(slides)] == parts


def test_slides_that_cannot_be_read_are_left_out_as_ever(tiles: EmbeddingSet) -> None:
    left_out = LeftOut()

    bags = read_bags(tiles, ["nobody", *SLIDES], left_out=left_out, most_bytes=0)

    assert list(left_out.reasons) == ["nobody"]
    for needed, held in zip(bags, read_bags(tiles, SLIDES), strict=True):
        assert_same(needed, held)
