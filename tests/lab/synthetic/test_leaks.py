"""The leaks of the rendered cohort through our own reader, tissue mask and filter bank."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.config import GridConfig
from parfocal.encoders import FilterBank
from parfocal.lab.synthetic.adversary import measure_densities, pixel_adversary
from parfocal.lab.synthetic.readability import attribute_readability, read_attribute
from parfocal.lab.synthetic.rendered import RenderedCohort, RenderSettings, render_slide
from parfocal.regions import plan_regions
from parfocal.regions.tiles import iter_tiles
from parfocal.slides import open_slide
from parfocal.store import SlideTokens

GRID = GridConfig()


# Of the four 10x and the sixteen 20x tiles of a region these are embedded here, one in each row and column.
SOME = {1.0: np.array([0, 3]), 0.5: np.array([0, 5, 10, 15])}


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
    small_cohort: RenderedCohort, tmp_path: Path, coarse: str
) -> None:
    design = small_cohort.design[1]
    first = design.regions[0]
    flipped = replace(first.attributes, checkerboard=not first.attributes.checkerboard)
    other = replace(design, regions=(replace(first, attributes=flipped), *design.regions[1:]))
    render_slide(other, RenderSettings(n_slides=4, seed=11), tmp_path / "other.tif")

    read = []
    for path in (small_cohort.slides[1], tmp_path / "other.tif"):
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
