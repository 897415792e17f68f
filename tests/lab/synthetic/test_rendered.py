import csv
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest

from parfocal.errors import MismatchError
from parfocal.lab.synthetic import rendered
from parfocal.lab.synthetic.rendered import RenderedCohort, RenderSettings, design_cohort, render_cohort, render_slide
from parfocal.run.events import Event, Progress
from parfocal.stats.auc import auc


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


def test_a_rerun_renders_only_what_is_missing(small_cohort: RenderedCohort, monkeypatch: pytest.MonkeyPatch) -> None:
    lost, kept = small_cohort.slides[1], small_cohort.slides[2]
    before = lost.read_bytes()
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    calls: list[Event] = []

    render_cohort(
        small_cohort.folder,
        RenderSettings(n_slides=4, seed=11),
        workers=1,
        on_event=calls.append,
    )

    assert calls == [Progress("slides", 3, 4), Progress("slides", 4, 4)]
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    monkeypatch.setattr(rendered, "render_slide", lambda *_: pytest.fail("nothing is missing"))
    render_cohort(small_cohort.folder, RenderSettings(n_slides=4, seed=11), workers=1)


def test_worker_processes_render_the_same_pixels(small_cohort: RenderedCohort, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    for path in small_cohort.slides[2:]:
        (tmp_path / "slides" / path.name).symlink_to(path)

    again = render_cohort(tmp_path, RenderSettings(n_slides=4, seed=11), workers=2)

    assert again.slides[0].read_bytes() == small_cohort.slides[0].read_bytes()


def test_a_folder_of_another_cohort_is_refused(small_cohort: RenderedCohort) -> None:
    with pytest.raises(MismatchError, match="Name another folder"):
        render_cohort(small_cohort.folder, RenderSettings(n_slides=4, seed=12), workers=1)


def test_a_slide_that_differs_in_chromatin_only_has_the_same_coarser_levels(
    small_cohort: RenderedCohort, tmp_path: Path
) -> None:
    design = small_cohort.design[0]
    flipped = replace(
        design,
        regions=tuple(
            replace(region, attributes=replace(region.attributes, checkerboard=not region.attributes.checkerboard))
            for region in design.regions
        ),
    )
    render_slide(flipped, RenderSettings(n_slides=4, seed=11), tmp_path / "flipped.tif")

    with openslide.OpenSlide(small_cohort.slides[0]) as one, openslide.OpenSlide(tmp_path / "flipped.tif") as other:
        for level, same in ((0, False), (1, True), (2, True)):
            read = [
                np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level])) for slide in (one, other)
            ]
            assert np.array_equal(*read) == same


def test_a_region_grid_that_cannot_be_quartered_is_refused() -> None:
    with pytest.raises(ValueError, match="Use 4 or 8"):
        RenderSettings(regions_per_side=6)
