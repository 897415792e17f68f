"""What of a cohort is named beside the p-values: classes that differ, slides that are there twice, nothing to pair."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.errors import ConfigError
from parfocal.lab.synergy.caveats import (
    differences,
    near_identical,
    nuisances,
    units_together,
    unusable_slides,
)
from parfocal.lab.synergy.moments import Units, pair_moments, read_rows
from parfocal.store import SlideTokens

from .drawn import MPPS, draw, draw_slide, each_alone, rows_of, without_tiles


def warned(slides: list[SlideTokens], units: Units, label: np.ndarray, *, is_class: bool = True) -> list[str]:
    rows = rows_of(slides)
    found = nuisances(rows, units, [pair_moments(rows, *MPPS, units.of_slide)])
    return [one.split(" (")[0] for one in differences(found, label, is_class=is_class)]


def test_alike_classes_are_not_warned_of() -> None:
    names = []
    for seed in range(5):
        slides, label, _ = draw("none", n=40, seed=seed)
        names += warned(slides, each_alone(40), label)
    assert not names


def test_what_the_classes_differ_in_is_named() -> None:
    rng = np.random.default_rng(0)
    world = rng.standard_normal((8, 10))
    label = (np.arange(40) % 2).astype(float)

    def cohort(sizes: np.ndarray) -> list[SlideTokens]:
        return [draw_slide(rng, world, f"s{n:03d}", n=int(size))[0] for n, size in enumerate(sizes)]

    assert "regions per slide" in warned(cohort(np.where(label > 0, 24, 12)), each_alone(40), label)
    alike = cohort(np.full(40, 24))
    noisy = [
        replace(one, features={m: x + own * rng.standard_normal(x.shape).astype(np.float32) for m, x in tiles.items()})
        for one, own, tiles in ((one, own, one.features) for one, own in zip(alike, label, strict=True))
    ]
    assert "variance within slides at 2 um per pixel" in warned(noisy, each_alone(40), label)
    half = np.arange(24 * 16) % 2 == 0
    fewer = [without_tiles(one, half) if y else one for one, y in zip(alike, label, strict=True)]
    assert "tiles per region at 0.5 um per pixel" in warned(fewer, each_alone(40), label)
    gone = [without_tiles(one, one.region[0.5] % 3 > 0) if y else one for one, y in zip(alike, label, strict=True)]
    assert "share of regions without a tile at 0.5 um per pixel" in warned(gone, each_alone(40), label)
    owner = np.concatenate([np.arange(10), np.repeat(np.arange(10, 20), 3)])
    of_patient = (np.arange(20) >= 10).astype(float)
    patients = Units(tuple(map(str, range(20))), owner)
    assert "slides per patient" in warned(alike, patients, of_patient)
    dose = np.linspace(0, 1, 40)
    assert "regions per slide" in warned(cohort(np.arange(8, 48)), each_alone(40), dose, is_class=False)


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.2]), st.sampled_from([1.0, 0.7]), st.sampled_from([0.0, 0.5]))
@settings(max_examples=12)
def test_a_slide_that_is_there_twice_is_found(seed: int, noise: float, part: float, stain: float) -> None:
    slides, _, _ = draw("none", n=24, seed=seed)
    rng = np.random.default_rng(seed)
    one = slides[3]
    order = rng.permutation(24)[: round(part * 24)]  # the copy is cut otherwise and begins elsewhere
    rows = {2.0: order, 0.5: (16 * order[:, None] + np.arange(16)).reshape(-1)}
    slides[17] = SlideTokens(
        slide=slides[17].slide,
        region_um=one.region_um,
        slide_mpp=one.slide_mpp,
        region_xy_um=one.region_xy_um[order],
        features={
            m: (
                one.features[m][own] + noise * rng.standard_normal((len(own), 10)) + stain * rng.standard_normal(10)
            ).astype(np.float32)
            for m, own in rows.items()
        },
        region={m: np.repeat(np.arange(len(order), dtype=np.int32), len(own) // len(order)) for m, own in rows.items()},
        center_um={m: one.center_um[m][own] for m, own in rows.items()},
    )
    cohort = rows_of(slides)

    assert near_identical(cohort, np.arange(24)) == [(3, 17)]
    same_patient = np.arange(24)
    same_patient[17] = 3
    assert not near_identical(cohort, np.unique(same_patient, return_inverse=True)[1])


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_cohort_of_copies_is_found_although_nothing_else_is_there_to_compare(noise: float) -> None:
    slides, _, _ = draw("none", n=20)
    rng = np.random.default_rng(0)
    copies = [
        replace(
            slides[0],
            slide=one.slide,
            features={
                m: (x + noise * rng.standard_normal(x.shape)).astype(np.float32) for m, x in slides[0].features.items()
            },
        )
        for one in slides
    ]

    assert len(set(units_together(near_identical(rows_of(copies), np.arange(20)), np.arange(20), 20))) == 1


def test_magnifications_that_hold_the_same_numbers_have_nothing_to_pair() -> None:
    slides, _, _ = draw("none", n=20)
    copied = [
        replace(one, features={2.0: one.features[2.0], 0.5: np.repeat(one.features[2.0], 16, axis=0)}) for one in slides
    ]
    with pytest.raises(ConfigError, match=r"embeddings of 2 and 0\.5 um per pixel are the same numbers in drawn"):
        unusable_slides(rows_of(copied), "drawn")
    silent, notes = unusable_slides(rows_of(copied[:2] + slides[2:]), "drawn")
    assert silent == ["s000", "s001"]
    assert "2 of 20 slides have the same numbers as embeddings of 2 and 0.5 um per pixel" in notes[0]


def test_units_that_share_a_slide_share_a_fold() -> None:
    unit = np.array([0, 0, 1, 2, 3, 4])
    together = units_together([(1, 2), (2, 4)], unit, 5)

    assert together[0] == together[1] == together[3]
    assert len({*together}) == 3


def single(slides: list[SlideTokens], which: range) -> list[SlideTokens]:
    """These slides with their first region only."""
    cut = []
    for number, one in enumerate(slides):
        if number not in which:
            cut.append(one)
            continue
        first = {m: one.region[m] == 0 for m in MPPS}
        cut.append(
            SlideTokens(
                slide=one.slide,
                region_um=one.region_um,
                slide_mpp=one.slide_mpp,
                region_xy_um=one.region_xy_um[:1],
                features={m: one.features[m][own] for m, own in first.items()},
                region={m: one.region[m][own] for m, own in first.items()},
                center_um={m: one.center_um[m][own] for m, own in first.items()},
            )
        )
    return cut


def test_slides_that_say_nothing_are_named_or_refused() -> None:
    slides, _, _ = draw("none", n=20)
    silent, notes = unusable_slides(rows_of(single(slides, range(3))), "drawn")
    assert silent == ["s000", "s001", "s002"]
    assert "3 of 20 slides have at most one region" in notes[0]
    alone = single(slides, range(20))
    with pytest.raises(ConfigError, match=r"each slide in drawn has at most one region: .* name --within patient"):
        unusable_slides(rows_of(alone), "drawn")
    within = {one.slide: f"p{number // 2}" for number, one in enumerate(alone)}
    by_name = {one.slide: one for one in alone}
    assert unusable_slides(
        read_rows(by_name.__getitem__, MPPS, sorted(by_name), components=8, within=within), "drawn", "patient"
    ) == ([], [])
    for few in (range(4), range(20)):
        flat = [
            replace(
                one, features={**one.features, 0.5: np.repeat(one.features[0.5][:1], len(one.features[0.5]), axis=0)}
            )
            if number in few
            else one
            for number, one in enumerate(slides)
        ]
        if len(few) == 20:
            with pytest.raises(ConfigError, match=r"regions of every slide in drawn are the same at 0.5 um per pixel"):
                unusable_slides(rows_of(flat), "drawn")
        else:
            silent, notes = unusable_slides(rows_of(flat), "drawn")
            assert silent == ["s000", "s001", "s002", "s003"]
            assert "all the same at 0.5 um per pixel" in notes[0]


def test_rows_without_some_slides_are_those_of_the_others() -> None:
    slides, _, _ = draw("none", n=8)
    rows = rows_of(slides)
    fewer = rows.without({"s002", "s005"})

    assert fewer.slides == ("s000", "s001", "s003", "s004", "s006", "s007")
    kept = [slice(a, b) for n, (a, b) in enumerate(pairwise(rows.start)) if n not in (2, 5)]
    np.testing.assert_array_equal(fewer.rows[0.5], np.concatenate([rows.rows[0.5][one] for one in kept]))
    assert len(fewer.group) == len(fewer.of_region) == len(fewer.rows[2.0])
