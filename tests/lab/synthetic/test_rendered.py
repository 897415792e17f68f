"""Rendered cohorts: their design, their files, and what of them leaks through our reader, tissue mask and filter bank.

All of it is asked of one small cohort, which is rendered once.
"""

import csv
import math
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import openslide
import pytest

from parfocal.config import GridConfig
from parfocal.encoders import FilterBank
from parfocal.errors import MismatchError
from parfocal.lab.synthetic import rendered
from parfocal.lab.synthetic.adversary import measure_densities, pixel_adversary
from parfocal.lab.synthetic.readability import attribute_readability, read_attribute
from parfocal.lab.synthetic.rendered import (
    RenderedCohort,
    RenderSettings,
    design_cohort,
    render_cohort,
    render_slide,
)
from parfocal.regions import plan_regions
from parfocal.regions.tiles import iter_tiles
from parfocal.run.events import Event, Progress
from parfocal.slides import open_slide
from parfocal.stats.auc import auc
from parfocal.store import SlideTokens

GRID = GridConfig()
# Of the four 10x and the sixteen 20x tiles of a region these are embedded here, one in each row and column.
SOME = {1.0: np.array([0, 3]), 0.5: np.array([0, 5, 10, 15])}
SETTINGS = RenderSettings(n_slides=4, seed=11)


@pytest.fixture(scope="module")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> RenderedCohort:
    folder: Path = tmp_path_factory.mktemp("cohort")
    return render_cohort(folder, SETTINGS, workers=1)


@pytest.fixture(scope="module")
def other_chromatin(small_cohort: RenderedCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first slide with the other chromatin in all of its regions, and else the same."""
    path: Path = tmp_path_factory.mktemp("other") / "other.tif"
    design = small_cohort.design[0]
    regions = tuple(
        replace(region, attributes=replace(region.attributes, checkerboard=not region.attributes.checkerboard))
        for region in design.regions
    )
    render_slide(replace(design, regions=regions), SETTINGS, path)
    return path


def test_the_label_is_in_the_pairing_alone() -> None:
    for design in design_cohort(RenderSettings(n_slides=16, seed=5)):
        truth = [region.attributes for region in design.regions]
        for solid in (False, True):
            of_type = [region for region in truth if region.solid == solid]
            assert len(of_type) in (4, 12)
            assert sum(region.diagonal for region in of_type) == len(of_type) // 2
            assert sum(region.checkerboard for region in of_type) == len(of_type) // 2
        assert all((region.diagonal == region.checkerboard) == design.pairing for region in truth)
        assert sum(region.solid for region in truth) == (12 if design.mostly_solid else 4)


def test_the_two_labels_are_independent() -> None:
    designs = design_cohort(RenderSettings(n_slides=48, seed=1))

    assert set(Counter((design.pairing, design.mostly_solid) for design in designs).values()) == {12}
    assert len({design.patient for design in designs}) == 48


def test_finite_odds_grade_the_pairing() -> None:
    def share_equal(omega: float | None, pairing: bool) -> float:
        designs = design_cohort(RenderSettings(n_slides=200, seed=2, omega=omega))
        equal = [
            region.attributes.diagonal == region.attributes.checkerboard
            for design in designs
            if design.pairing == pairing
            for region in design.regions
        ]
        return float(np.mean(equal))

    assert share_equal(None, True) == 1.0
    # Strata of 4 and 12: the mean of Fisher's law at omega 3 is 1.3636 of 2 and 3.8776 of 6 (scipy), hence a share of
    # (2 * 1.3636 + 2 * 3.8776) / 16 = .655. The tolerance is three standard errors of 100 slides of 16 regions.
    assert math.isclose(share_equal(3.0, True), 0.655, abs_tol=0.04)
    assert math.isclose(share_equal(3.0, False), 1 - 0.655, abs_tol=0.04)


def test_the_ceiling_of_pairing_is_that_of_its_designs() -> None:
    settings = RenderSettings(n_slides=1500, seed=3, omega=2.0)
    designs = design_cohort(settings)
    agreement = [
        float(np.mean([region.attributes.diagonal == region.attributes.checkerboard for region in design.regions]))
        for design in designs
    ]

    reached = auc(np.array([design.pairing for design in designs]), np.array(agreement))

    assert settings.pairing_ceiling == pytest.approx(reached, abs=0.04)  # three standard errors
    assert RenderSettings().pairing_ceiling == 1.0


def test_slides_are_calibrated_pyramids_with_tissue_on_the_lattice(small_cohort: RenderedCohort) -> None:
    assert len(small_cohort.slides) == 4
    for path in small_cohort.slides:
        with openslide.OpenSlide(path) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == 0.5
            assert slide.dimensions == (4 * 896 + 208, 4 * 896 + 96)
            assert slide.level_downsamples == (1.0, 2.0, 4.0)
            thumbnail = np.asarray(slide.read_region((0, 0), 2, slide.level_dimensions[2]))[..., :3]
        tissue = thumbnail.min(axis=2) < 230
        per_region = tissue[:896, :896].reshape(4, 224, 4, 224).mean(axis=(1, 3))
        assert per_region.min() > 0.5
        assert not tissue[896:].any()
        assert not tissue[:, 896:].any()


def test_tables_tell_the_truth(small_cohort: RenderedCohort) -> None:
    with small_cohort.labels_csv.open() as file:
        labels = list(csv.DictReader(file))
    with small_cohort.regions_csv.open() as file:
        regions = list(csv.DictReader(file))

    assert [row["slide"] for row in labels] == [path.stem for path in small_cohort.slides]
    for row in labels:
        own = [region for region in regions if region["slide"] == row["slide"]]
        assert len({(region["column"], region["row"]) for region in own}) == 16
        assert all((region["A"] == region["C"]) == (row["pairing"] == "1") for region in own)
        assert (Counter(region["type"] for region in own)[row["gland_type"]]) == 12


def test_a_rerun_renders_only_what_is_missing_and_worker_processes_render_the_same_pixels(
    small_cohort: RenderedCohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    *lost, kept = small_cohort.slides[1:]
    before = [path.read_bytes() for path in lost]
    stamp = kept.stat().st_mtime_ns
    for path in lost:
        path.unlink()
    calls: list[Event] = []

    render_cohort(small_cohort.folder, SETTINGS, workers=2, on_event=calls.append)

    assert calls == [Progress("slides", done, 4) for done in (2, 3, 4)]
    assert [path.read_bytes() for path in lost] == before
    assert kept.stat().st_mtime_ns == stamp
    monkeypatch.setattr(rendered, "render_slide", lambda *_: pytest.fail("nothing is missing"))
    render_cohort(small_cohort.folder, SETTINGS, workers=1)


def test_a_folder_of_another_cohort_is_refused(small_cohort: RenderedCohort) -> None:
    with pytest.raises(MismatchError, match="Name another folder"):
        render_cohort(small_cohort.folder, SETTINGS.model_copy(update={"seed": 12}), workers=1)


def test_a_slide_that_differs_in_chromatin_only_has_the_same_coarser_levels(
    small_cohort: RenderedCohort, other_chromatin: Path
) -> None:
    with openslide.OpenSlide(small_cohort.slides[0]) as one, openslide.OpenSlide(other_chromatin) as other:
        for level in (1, 2):
            assert np.array_equal(
                *(np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level])) for slide in (one, other))
            )
        for x, y in product(range(0, 4 * 896, 896), repeat=2):
            assert not np.array_equal(*(np.asarray(slide.read_region((x, y), 0, (224, 224))) for slide in (one, other)))


def test_a_region_grid_that_cannot_be_quartered_is_refused() -> None:
    with pytest.raises(ValueError, match="Use 4 or 8"):
        RenderSettings(regions_per_side=6)


@pytest.fixture(scope="module")
def embedded(small_cohort: RenderedCohort) -> list[SlideTokens]:
    return [_embed(path) for path in small_cohort.slides]


def _embed(path: Path) -> SlideTokens:
    bank = FilterBank()
    with open_slide(path) as slide:
        plan = plan_regions(slide, GRID)
        assert {mpp: plan.n_tiles(mpp) for mpp in GRID.mpps} == {2.0: 16, 1.0: 64, 0.5: 256}  # nothing is left out
        rows: dict[float, list[np.ndarray]] = {mpp: [] for mpp in GRID.mpps}
        for region in iter_tiles(slide, plan):
            for mpp, tiles in region.tiles.items():
                rows[mpp].append(bank.encode(tiles[SOME[mpp]] if mpp in SOME else tiles))
        planned = {mpp: plan.tiles(mpp) for mpp in GRID.mpps}
        per_region = {2.0: 1, 1.0: 4, 0.5: 16}
        kept = {
            mpp: (n * np.arange(16)[:, None] + SOME.get(mpp, np.arange(n))).ravel() for mpp, n in per_region.items()
        }
        return SlideTokens(
            slide=path.stem,
            region_um=GRID.region_um,
            slide_mpp=slide.mpp,
            region_xy_um=plan.region_xy_um(),
            features={mpp: np.concatenate(own) for mpp, own in rows.items()},
            region={mpp: own.region[kept[mpp]] for mpp, own in planned.items()},
            center_um={mpp: own.center_um[kept[mpp]] for mpp, own in planned.items()},
        )


def test_every_region_of_every_slide_is_read(embedded: list[SlideTokens]) -> None:
    for slide in embedded:
        assert slide.n_regions == 16
        assert {mpp: len(rows) for mpp, rows in slide.features.items()} == {2.0: 16, 1.0: 32, 0.5: 64}


@pytest.mark.parametrize("coarse", ["derived", "native"])
def test_the_reader_cannot_see_chromatin_below_the_finest_magnification(
    small_cohort: RenderedCohort, other_chromatin: Path, coarse: str
) -> None:
    first = small_cohort.design[0].regions[0]
    read = []
    for path in (small_cohort.slides[0], other_chromatin):
        with open_slide(path) as slide:
            assert slide.mpp == 0.5
            plan = plan_regions(slide, GRID)
            number = int(np.flatnonzero((plan.lattice == [first.column, first.row]).all(axis=1))[0])
            read.append(next(iter_tiles(slide, plan, coarse=coarse, start=number)).tiles)

    assert np.array_equal(read[0][2.0], read[1][2.0])
    assert np.array_equal(read[0][1.0], read[1][1.0])
    assert not any(np.array_equal(one, other) for one, other in zip(read[0][0.5], read[1][0.5], strict=True))


def test_each_attribute_is_read_where_it_should_be_and_nowhere_else(
    embedded: list[SlideTokens], small_cohort: RenderedCohort
) -> None:
    readings = {
        (one.attribute, one.mpp, one.unit): one
        for one in attribute_readability(embedded, small_cohort.design, n_folds=2)
    }

    assert readings["A", 2.0, "region"].auc > 0.95
    assert readings["C", 0.5, "region"].auc > 0.95
    assert all(readings["type", mpp, "region"].auc > 0.99 for mpp in GRID.mpps)
    # 64 regions: a standard error of .07 at chance.
    for key in (("A", 0.5, "tile"), ("A", 1.0, "tile"), ("C", 2.0, "region"), ("C", 1.0, "region"), ("C", 1.0, "tile")):
        assert 0.25 < readings[key].auc < 0.75, key
        assert readings[key].low < 0.6
    assert ("A", 2.0, "tile") not in readings  # a region is one tile there
    assert readings["A", 0.5, "tile"].n_regions == 64


def test_readings_need_slides_of_both_labels_in_every_fold(
    embedded: list[SlideTokens], small_cohort: RenderedCohort
) -> None:
    with pytest.raises(ValueError, match="2 positive and 2 negative"):
        attribute_readability(embedded, small_cohort.design, n_folds=3)
    with pytest.raises(ValueError, match="slide-004"):
        attribute_readability(embedded, small_cohort.design[:3], n_folds=2)


def test_a_reader_is_never_fitted_on_the_fold_it_reads() -> None:
    rng = np.random.default_rng(0)
    fold = np.repeat([0, 1], 30)
    truth = rng.random(60) < 0.5
    rows = np.column_stack([truth.astype(float), rng.standard_normal(60)])
    rows[fold == 1, 0] = 1 - rows[fold == 1, 0]  # the other fold says the opposite

    scores = read_attribute(rows, truth, fold)

    assert ((scores > 0) != truth).mean() > 0.9


def test_densities_of_a_region_agree_between_magnifications(small_cohort: RenderedCohort) -> None:
    coarse, fine = measure_densities(small_cohort.slides[0], small_cohort.design[0])

    assert coarse.shape == (16,)
    assert fine.shape == (16, 16)
    # The mean of a logarithm is not the logarithm of a mean, so they differ a little, and alike in all regions.
    assert np.corrcoef(coarse, fine.mean(axis=1))[0, 1] > 0.95


def test_density_re_pairs_the_bags_and_gland_type_does_not(small_cohort: RenderedCohort) -> None:
    adversary = pixel_adversary(small_cohort, workers=1)

    assert adversary.by_density == 1.0
    assert 0.0 <= adversary.by_density_of_tiles <= 1.0
    assert adversary.by_gland_type == pytest.approx(0.5, abs=0.2)  # four slides, 50 draws of the ties
