"""Regions that overlap: every tile is embedded once, and regions side by side are those of a store without a stride."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides, estimate_run, run
from parfocal.embed.settings import load_encoders
from parfocal.errors import MismatchError
from parfocal.evaluate.sources import matching_sets
from parfocal.geometry import format_mpp
from parfocal.predict.source import describe_tiles, embed_settings
from parfocal.pretrain.holdout import split_set
from parfocal.store import EmbeddingSet, SlideTokens, open_set
from parfocal.store.layout import features_path
from parfocal.study import Study
from parfocal.study.plan_tiles import plan_tiles

from .conftest import SlideMaker, slide_bytes

MPPS = (2.0, 1.0, 0.5)


def every(settings: EmbedSettings, stride_um: float | None) -> EmbedSettings:
    grid = GridConfig.model_validate({**settings.grid.model_dump(), "stride_um": stride_um})
    return settings.model_copy(update={"grid": grid})


def embedded(slide: Path, store: Path, settings: EmbedSettings) -> EmbeddingSet:
    return open_set(embed_slides([slide], store, settings).set_path)


def by_place(tokens: SlideTokens, mpp: float) -> dict[tuple[float, float, float, float], np.ndarray]:
    """The row of every tile of every region, by the corner of the region and the centre of the tile in it."""
    corner = tokens.region_xy_um[tokens.region[mpp]]
    keys = np.column_stack([corner, tokens.center_um[mpp]]).round(3).tolist()
    return {tuple(key): row for key, row in zip(keys, tokens.features[mpp], strict=True)}


Both = tuple[EmbeddingSet, EmbeddingSet]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A store without a stride, and one in which a region begins at every other finest tile."""
    folder = tmp_path_factory.mktemp("stride")
    slide = folder / "one.tif"
    slide.write_bytes(slide_bytes())
    grid = GridConfig(region_um=128.0, tile_px=64)
    settings = EmbedSettings(grid=grid, encoder="filterbank,tile_px=64", dtype="float32")
    plain, strided = (embedded(slide, folder / str(s), every(settings, s)) for s in (None, 64.0))
    return plain, strided


def test_regions_side_by_side_have_the_rows_that_they_have_without_a_stride(both: Both) -> None:
    plain, strided = (one.read("one") for one in both)

    assert strided.n_regions > 3 * plain.n_regions
    for mpp in MPPS:
        alone, among = by_place(plain, mpp), by_place(strided, mpp)
        assert alone.keys() <= among.keys()
        for place, row in alone.items():
            np.testing.assert_array_equal(among[place], row)


def test_every_tile_is_embedded_once_and_regions_share_its_row(both: Both) -> None:
    plain, strided = both
    tokens = strided.read("one")
    rows, places = strided.n_rows("one"), strided.n_tiles("one")

    for mpp in MPPS:
        at = (tokens.region_xy_um[tokens.region[mpp]] + tokens.center_um[mpp]).round(3)
        distinct, which = np.unique(at, axis=0, return_inverse=True)
        assert len(distinct) == rows[mpp] <= places[mpp] == len(at)
        first = np.unique(which, return_index=True)[1]
        np.testing.assert_array_equal(tokens.features[mpp], tokens.features[mpp][first][which.reshape(-1)])
    # At the step of a tile of 1 mpp, these and the finest ones lie where they lie anyway; the coarsest do not.
    assert rows[0.5] < 1.2 * plain.n_rows("one")[0.5]
    assert places[0.5] > 3 * rows[0.5]
    assert rows[2.0] == places[2.0] == tokens.n_regions


def test_a_dry_run_counts_what_is_embedded(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path
) -> None:
    settings, slide = every(small_settings, 64.0), make_slide()
    estimate = estimate_run([slide], tmp_path / "store", settings)
    summary = embed_slides([slide], tmp_path / "store", settings)
    [done] = summary.done
    tiles = open_set(summary.set_path)

    assert estimate.n_tiles == done.n_tiles == tiles.n_rows("one")
    assert estimate.slides[0].n_regions == done.n_regions == tiles.n_regions("one")
    written = sum(path.stat().st_size for path in summary.set_path.rglob("*.h5"))
    assert estimate.n_bytes == pytest.approx(written, rel=0.2)
    [kept] = embed_slides([slide], tmp_path / "store", settings).done
    assert kept.kept
    assert kept.n_tiles == done.n_tiles


def test_another_stride_is_another_set_and_none_is_the_set_of_before(small_settings: EmbedSettings) -> None:
    encoders = load_encoders(small_settings)
    before, whole, half = (
        run.set_name(run.row_settings(every(small_settings, stride), encoders)) for stride in (None, 128.0, 64.0)
    )
    described = small_settings.grid.describe()

    assert before == whole != half
    assert "stride_um" not in described
    assert every(small_settings, 64.0).grid.describe()["stride_um"] == 64.0


def test_a_run_that_was_stopped_goes_on_to_the_same_store(
    make_slide: SlideMaker, small_settings: EmbedSettings, tmp_path: Path, content
) -> None:
    # Two magnifications: a quarter of the tiles.
    coarse = GridConfig(region_um=128.0, tile_px=64, mpps=(2.0, 1.0))
    settings = every(small_settings.model_copy(update={"grid": coarse}), 64.0)
    slides = [make_slide("one.tif"), make_slide("two.tif", seed=1)]

    def stop(event: object) -> None:
        if getattr(event, "line", "").startswith("one"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_slides(slides, tmp_path / "stopped", settings, on_event=stop)
    stopped = embed_slides(slides, tmp_path / "stopped", settings)
    whole = embed_slides(slides, tmp_path / "whole", settings)

    assert [one.kept for one in stopped.done] == [True, False]
    assert content(stopped.set_path) == content(whole.set_path)


@pytest.mark.parametrize("stride", [300.0, 10.0, 0.0])
def test_a_stride_that_leaves_gaps_or_is_below_a_tile_is_refused(small_settings: EmbedSettings, stride: float) -> None:
    with pytest.raises(ValidationError, match="stride_um"):
        every(small_settings, stride)


def test_places_and_a_stride_are_two_ways_to_lay_regions(small_settings: EmbedSettings) -> None:
    with pytest.raises(ValidationError, match="places say where regions lie"):
        EmbedSettings(grid=every(small_settings, 64.0).grid, encoder="filterbank", places=Path("spots.csv"))


def test_what_is_held_out_is_what_is_held_out_without_a_stride(both: Both) -> None:
    plain, strided = (split_set(one, share=0.3, seed=0) for one in both)
    xy_um, alone = (one.region_xy_um("one") for one in reversed(both))
    training, held = (split[0].regions for split in (strided.training, strided.held_out))

    np.testing.assert_array_equal(xy_um[held], alone[plain.held_out[0].regions])
    assert len(training) > 3 * len(plain.training[0].regions)
    assert np.abs(xy_um[training][:, None] - xy_um[held][None]).max(axis=2).min() > 128.0
    assert strided.training[0].n_apart == len(plain.training[0].regions)
    assert strided.sentence == plain.sentence.replace(" regions", " regions side by side", 1)


def test_a_test_cohort_of_another_stride_is_refused(both: Both) -> None:
    plain, strided = both
    with pytest.raises(MismatchError, match="a region every 64 um, the training cohort every 128 um"):
        matching_sets([plain], [strided])
    assert matching_sets([strided], [strided]) == [strided]


def test_a_head_of_overlapping_regions_may_be_asked_at_places(both: Both) -> None:
    facts, encoder = describe_tiles(both[1]), "filterbank,tile_px=64"
    assert embed_settings(facts, Path("head"), encoder=encoder).grid.stride_um == 64.0
    at_places = embed_settings(facts, Path("head"), encoder=encoder, places=Path("spots.csv"))
    assert at_places.grid.step_um == 128.0


def test_other_tools_are_told_that_tiles_overlap(both: Both) -> None:
    plain, strided = both
    found = {
        (name, mpp): h5py.File(features_path(one.path, "one", mpp))["coords"].attrs["overlap"]
        for name, one in (("plain", plain), ("strided", strided))
        for mpp in MPPS
    }
    # Tiles of 64 px at 2 mpp, one every 64 um; those of 1 and 0.5 mpp lie side by side either way.
    assert found.pop(("strided", 2.0)) == 32
    assert set(found.values()) == {0}


def test_a_study_plans_every_tile_once_and_a_token_for_each_region_that_holds_it(both: Both, tmp_path: Path) -> None:
    _, strided = both
    labels = {"file": tmp_path / "labels.csv", "targets": {"grade": {}}}
    anew = {
        "slides": strided.path.parents[1] / "one.tif",
        "grid": GridConfig(**strided.settings["grid"]),
        "encoder": "filterbank,tile_px=64",
    }

    for source in ({"store": strided.path}, anew):
        study = Study.model_validate({**source, "labels": labels})
        planned = plan_tiles(study, study, tmp_path / "store", "cpu")
        assert planned.regions == {"one": strided.n_regions("one")}
        assert planned.tiles.tiles == {format_mpp(mpp): n for mpp, n in strided.n_rows("one").items()}
        assert planned.counts == {"one": {format_mpp(mpp): n for mpp, n in strided.n_tiles("one").items()}}
