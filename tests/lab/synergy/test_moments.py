"""The within-region moments of a cohort: what they are, whatever is absent, and what they are centred within."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.lab.synergy.main_effects import cluster_types, types_within
from parfocal.lab.synergy.moments import pair_moments, read_rows
from parfocal.store import SlideTokens

from .drawn import MPPS, draw, draw_slide, rows_of, without_tiles


@given(st.integers(0, 2**31), st.integers(2, 5))
@settings(max_examples=15)
def test_moments_are_the_covariances_of_the_regions_that_have_both(seed: int, n_slides: int) -> None:
    rng = np.random.default_rng(seed)
    slides, _, _ = draw("none", n=n_slides + 2, seed=seed)
    gone = [rng.random(len(one.region_xy_um)) < 0.6 for one in slides]
    rows = rows_of([without_tiles(one, ~own[one.region[0.5]]) for one, own in zip(slides, gone, strict=True)])
    moments = pair_moments(rows, *MPPS, np.arange(len(slides)))

    for number, own in enumerate(gone):
        here = np.flatnonzero(~own) + rows.start[number]
        if len(here) < 2:
            continue  # it has the mean of the others
        a, b = (rows.rows[mpp][here].astype(np.float64) for mpp in MPPS)
        k = a.shape[1]
        known = np.cov(a, b, rowvar=False)  # numpy divides by n - 1
        np.testing.assert_allclose(moments.cross[number], known[:k, k:], atol=1e-5)
        np.testing.assert_allclose(moments.first[number], known[:k, :k], atol=1e-5)
        np.testing.assert_allclose(moments.second[number], known[k:, k:], atol=1e-5)


def test_small_slides_show_as_much_of_what_goes_together() -> None:
    rng = np.random.default_rng(0)
    world = rng.standard_normal((8, 10))
    sizes = np.array([3] * 400 + [24] * 400)
    slides = [draw_slide(rng, world, f"s{n:03d}", pairing=0.9, n=int(size))[0] for n, size in enumerate(sizes)]
    trace = np.einsum("sij,ij->s", *_with_their_mean(pair_moments(rows_of(slides), *MPPS, np.arange(800)).cross))

    # Without R / (R - 1) it would be 2/3 against 23/24. The standard error of each mean is about .03 of it.
    assert trace[sizes == 3].mean() == pytest.approx(trace[sizes == 24].mean(), rel=0.12)


def _with_their_mean(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return moments, moments.mean(axis=0)


def test_regions_can_be_centred_within_a_group_of_slides() -> None:
    slides, _, _ = draw("none", n=12)
    within = {one.slide: f"tma{number % 3}" for number, one in enumerate(slides)}
    by_name = {one.slide: one for one in slides}
    rows = read_rows(by_name.__getitem__, MPPS, sorted(by_name), components=8, within=within)

    for tma in range(3):
        there = np.isin(rows.of_region, np.arange(tma, 12, 3))
        np.testing.assert_allclose(rows.rows[0.5][there].mean(axis=0), 0, atol=1e-4)  # float32
    assert np.abs(rows.rows[0.5][rows.of_region == 0].mean(axis=0)).max() > 0.1


def test_types_are_groups_within_their_slide() -> None:
    slides, _, _ = draw("composition", n=12)
    rows = rows_of(slides)
    types = cluster_types(rows, 3, seed=0)
    group = types_within(rows, types)

    assert len(np.unique(group)) == len(set(zip(rows.of_region.tolist(), types.tolist(), strict=True)))
    for one in np.unique(group):
        assert len({*rows.of_region[group == one]}) == len({*types[group == one]}) == 1


def test_a_slides_stain_changes_nothing() -> None:
    slides, label, _ = draw("pairing", n=30)
    plain = rows_of(slides)
    rng = np.random.default_rng(1)
    stained = [
        SlideTokens(
            slide=one.slide,
            region_um=one.region_um,
            slide_mpp=one.slide_mpp,
            region_xy_um=one.region_xy_um,
            features={mpp: x + rng.standard_normal(x.shape[1]).astype(np.float32) for mpp, x in one.features.items()},
            region=one.region,
            center_um=one.center_um,
        )
        for one in slides
    ]
    first, second = (pair_moments(rows, *MPPS, np.arange(30)).cross for rows in (plain, rows_of(stained)))

    # Directions of equal variance may turn; what does not depend on the basis is kept. float32 embeddings: 1e-3.
    np.testing.assert_allclose(np.linalg.norm(first, axis=(1, 2)), np.linalg.norm(second, axis=(1, 2)), rtol=1e-3)
    assert len(label) == len(first)
