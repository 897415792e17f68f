"""A slide that is read in part: nothing of the rest is touched, and what a model expects of it may stand beside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import (
    RepresentSettings,
    bag_of_slide,
    fine_bag,
    open_filler,
    read_bags,
    read_in_part,
    represent_regions,
)
from parfocal.errors import ConfigError, MismatchError
from parfocal.store import EmbeddingSet, SlideTokens

from ..region_encoder.toy import DIM, MPPS, model_of
from .test_decoded import CLOSE, saved, tiles_in

FINEST = MPPS[-1]


@pytest.fixture
def tiles(tmp_path: Path) -> EmbeddingSet:
    return tiles_in(tmp_path / "store", MPPS)


def some_of(tokens: SlideTokens, share: float) -> np.ndarray:
    return np.random.default_rng(3).random(len(tokens.region[FINEST])) < share


def poisoned(tokens: SlideTokens, read: np.ndarray) -> SlideTokens:
    fine = tokens.features[FINEST].copy()
    fine[~read] = np.nan
    return replace(tokens, features={**tokens.features, FINEST: fine})


def filled(tiles: EmbeddingSet, model: Path, tokens: SlideTokens, read: np.ndarray) -> SlideTokens:
    unread = tokens.region[FINEST][~read], tokens.center_um[FINEST][~read]
    return open_filler(tiles, model).fill(read_in_part(tokens, read), *unread)


def test_values_of_unread_tiles_are_never_touched(tiles: EmbeddingSet, tmp_path: Path) -> None:
    model, tokens = saved(tmp_path / "mem"), tiles.read("a")
    read = some_of(tokens, 0.3)

    bag = fine_bag(poisoned(tokens, read), read, np.zeros(DIM, np.float32))
    whole = filled(tiles, model, poisoned(tokens, read), read)

    assert np.isfinite(bag.rows).all()
    assert bag.n_instances.tolist() == [read.sum()]
    assert np.isfinite(whole.features[FINEST]).all()
    assert np.array_equal(whole.features[FINEST], filled(tiles, model, tokens, read).features[FINEST])


def test_read_tiles_stay_and_every_unread_one_has_its_place(tiles: EmbeddingSet, tmp_path: Path) -> None:
    tokens = tiles.read("a")
    read = some_of(tokens, 0.3)

    found = filled(tiles, saved(tmp_path / "mem"), tokens, read)

    def at_places(one: SlideTokens) -> dict[tuple[float, ...], np.ndarray]:
        where = np.column_stack([one.region[FINEST], one.center_um[FINEST]])
        return dict(zip(map(tuple, where.tolist()), one.features[FINEST], strict=True))

    before, after = at_places(tokens), at_places(found)
    assert before.keys() == after.keys()
    kept = [place for place in before if np.array_equal(before[place], after[place])]
    assert len(kept) == read.sum()
    for mpp in MPPS[:-1]:
        assert np.array_equal(found.features[mpp], tokens.features[mpp])


def test_what_is_expected_depends_on_what_was_read_of_the_region(tiles: EmbeddingSet, tmp_path: Path) -> None:
    model, tokens = saved(tmp_path / "mem"), tiles.read("a")
    none, first = np.zeros(80, bool), np.arange(80) == 0  # the first tile of region 0

    without, beside = (filled(tiles, model, tokens, read).features[FINEST] for read in (none, first))

    assert np.abs(beside[:16] - without[:16]).max() > 100 * CLOSE
    np.testing.assert_allclose(beside[16:], without[16:], atol=CLOSE)


def test_with_nothing_read_it_is_what_represent_decodes_from_the_coarser_magnifications(
    tiles: EmbeddingSet, tmp_path: Path
) -> None:
    model, tokens = saved(tmp_path / "mem"), tiles.read("a")
    settings = RepresentSettings(readouts=("decoded",), read_mpps=MPPS[:-1], dtype="float32")
    (decoded,) = represent_regions(tiles, model, tmp_path / "out", settings).sets

    found = filled(tiles, model, tokens, np.zeros(80, bool))

    bag = bag_of_slide(found, FINEST)
    np.testing.assert_allclose(bag.region_mean, decoded.read_regions("a").features, atol=CLOSE)
    np.testing.assert_allclose(bag.mean[0], decoded.read_regions("a").features.mean(axis=0), atol=CLOSE)


def test_a_tile_of_a_region_of_which_nothing_is_known_stays_absent(tiles: EmbeddingSet, tmp_path: Path) -> None:
    tokens = tiles.read("a")
    coarse = [tokens.region[mpp] != 2 for mpp in MPPS[:-1]]
    alone = replace(
        tokens,
        **{
            name: {mpp: values[there] for (mpp, values), there in zip(of.items(), [*coarse, slice(None)], strict=True)}
            for name, of in (("features", tokens.features), ("region", tokens.region), ("center_um", tokens.center_um))
        },
    )  # region 2 has no coarse tile

    nothing = filled(tiles, saved(tmp_path / "mem"), alone, np.zeros(80, bool))
    one = filled(tiles, tmp_path / "mem", alone, np.arange(80) == 32)

    assert np.unique(nothing.region[FINEST]).tolist() == [0, 1, 3, 4]
    assert np.bincount(one.region[FINEST]).tolist() == [16] * 5


def test_bags_of_a_slide_that_is_seen_several_times_are_those_of_each_sight(tiles: EmbeddingSet) -> None:
    def seen_as(tokens: SlideTokens) -> list[SlideTokens]:
        return [tokens, read_in_part(tokens, some_of(tokens, 0.3))]

    (bag,) = read_bags(tiles, tiles.slides, names=["0.5"], seen_as=seen_as)
    (whole,) = read_bags(tiles, tiles.slides, names=["0.5"])

    assert bag.slides == ("a", "a", "b", "b")
    assert np.array_equal(bag.of_slides([0, 2]).mean, whole.mean)
    for number, slide in ((1, "a"), (3, "b")):
        tokens = tiles.read(slide)
        part = fine_bag(tokens, some_of(tokens, 0.3), np.zeros(DIM, np.float32))
        assert np.array_equal(bag.rows_of(number), part.rows)
        assert np.array_equal(bag.mean[number], part.mean[0])


@pytest.mark.filterwarnings("ignore:.*attention sees a random part")
def test_which_instances_are_kept_of_a_slide_does_not_depend_on_how_often_it_is_seen(tiles: EmbeddingSet) -> None:
    (seen,) = read_bags(tiles, tiles.slides, names=["0.5"], seen_as=lambda one: [one, one], most_instances=20)
    (once,) = read_bags(tiles, tiles.slides, names=["0.5"], most_instances=20)

    assert np.array_equal(seen.of_slides([0, 2]).rows, once.rows)
    assert not np.array_equal(seen.rows_of(0), seen.rows_of(1))


def test_a_model_that_cannot_fill_in_is_refused(tiles: EmbeddingSet, tmp_path: Path) -> None:
    whitened = saved(tmp_path / "whitened", {"settings": {"targets": "whitened"}})
    with pytest.raises(ConfigError, match="predicts whitened embeddings, which cannot stand beside"):
        open_filler(tiles, whitened)
    model_of(encoders=("bb",) * 3).save_pretrained(tmp_path / "other")
    with pytest.raises(MismatchError, match="was trained on the tile encoder bb"):
        open_filler(tiles, tmp_path / "other")
