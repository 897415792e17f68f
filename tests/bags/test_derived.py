"""What is made of tiles while a set is read: against a loop over every tile, and with tiles that are absent."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.bags import (
    PARENTS,
    PLACED,
    derived_names,
    elsewhere_name,
    mpps_behind,
    one_by_one,
    pseudo_name,
    read_bags,
)
from parfocal.bags.derived import derive, find_parents, mean_of_cells
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

TILE_PX = 224
# Whole numbers of tiles; 1.5 and 1 mpp have centres of one on borders of the other. The last side is that of an
# indexed slide whose tiles are 1 % larger than its set says.
LAYOUTS = [
    ((2.0, 1.0, 0.5), 448.0, 1.0),
    ((1.5, 0.75), 672.0, 1.0),
    ((1.5, 1.0), 672.0, 1.0),
    ((0.9, 0.3), 604.8, 1.0),
    ((2.0, 0.5), 896.0, 1.01),
]


@dataclass(frozen=True, eq=False)
class Drawn:
    source: EmbeddingSet
    tokens: SlideTokens
    unit_um: float


def draw_tokens(
    mpps: tuple[float, ...], region_um: float, stretch: float, *, absent: float, seed: int, slide: str = "a"
) -> SlideTokens:
    """Regions in two rows of different lengths, some of their tiles absent; every magnification has its own width."""
    rng = np.random.default_rng(seed)
    n_regions, actual = 5, region_um * stretch
    xy = np.array([(x, y) for y, n in ((0, 2), (1, 3)) for x in range(n)]) * actual + (137.0, 59.0)
    features, region, center = {}, {}, {}
    for place, mpp in enumerate(mpps):
        side = TILE_PX * mpp * stretch
        n = round(actual / side)
        grid = (np.array([(x, y) for y in range(n) for x in range(n)]) + 0.5) * side - actual / 2
        kept = rng.random((n_regions, n * n)) >= absent
        if mpp == mpps[-1]:
            kept[0, 0] = True  # a slide has one finest tile at least
        region[mpp] = np.repeat(np.arange(n_regions), n * n)[kept.ravel()].astype(np.int32)
        center[mpp] = np.tile(grid, (n_regions, 1))[kept.ravel()].astype(np.float32)
        features[mpp] = rng.standard_normal((len(region[mpp]), 3 + place)).astype(np.float32)
    return SlideTokens(slide, actual, 0.25, xy, features, region, center)


def write_set(root: Path, layout: int, *slides: SlideTokens) -> EmbeddingSet:
    mpps, region_um, _ = LAYOUTS[layout]
    path = create_set(
        root, "toy", "tiles", region_um=region_um, dims={mpp: 3 + place for place, mpp in enumerate(mpps)},
        settings={"encoder": "toy"}, encoder_digests=dict.fromkeys(mpps, "x"), tile_px=TILE_PX, dtype="float32",
    )  # fmt: skip
    for tokens in slides:
        write_tokens(path, tokens)
    return open_set(path)


def inside(x: float, low: float, high: float) -> bool:
    """Whether x lies in [low, high), a border counting as such to within a thousandth of its side."""
    return low - 1e-3 * (high - low) <= x < high - 1e-3 * (high - low)


layouts = st.integers(0, len(LAYOUTS) - 1)
absences = st.sampled_from([0.0, 0.2, 0.7])


@settings(max_examples=40)
@given(layouts, absences, st.integers(0, 1000))
def test_a_parent_is_the_tile_that_holds_the_centre(layout: int, absent: float, seed: int) -> None:
    mpps, region_um, stretch = LAYOUTS[layout]
    tokens = draw_tokens(mpps, region_um, stretch, absent=absent, seed=seed)
    fine = mpps[-1]
    for mpp in mpps[:-1]:
        half = TILE_PX * mpp * stretch / 2
        found = find_parents(
            tokens.center_um[fine],
            tokens.region[fine].astype(np.int64),
            tokens.center_um[mpp],
            tokens.region[mpp].astype(np.int64),
            side_um=2 * half,
        )
        for tile, parent in enumerate(found):
            x, y = tokens.center_um[fine][tile]
            holding = [
                number
                for number, (cx, cy) in enumerate(tokens.center_um[mpp])
                if tokens.region[mpp][number] == tokens.region[fine][tile]
                and inside(x, cx - half, cx + half)
                and inside(y, cy - half, cy + half)
            ]
            assert ([parent] if parent >= 0 else []) == holding


@settings(max_examples=30)
@given(layouts, absences, st.integers(0, 1000))
def test_cells_are_means_of_the_finest_tiles_inside(layout: int, absent: float, seed: int) -> None:
    mpps, region_um, stretch = LAYOUTS[layout]
    tokens = draw_tokens(mpps, region_um, stretch, absent=absent, seed=seed)
    fine, actual = mpps[-1], region_um * stretch
    for mpp in mpps[:-1]:
        side = TILE_PX * mpp * stretch
        n = round(actual / side)
        rows, region = mean_of_cells(
            tokens.features[fine],
            tokens.center_um[fine],
            tokens.region[fine].astype(np.int64),
            cell_um=side,
            region_um=actual,
        )
        expected = []
        for number in range(tokens.n_regions):
            for row in range(n):
                for column in range(n):
                    own = [
                        feature
                        for feature, (x, y), where in zip(
                            tokens.features[fine], tokens.center_um[fine], tokens.region[fine], strict=True
                        )
                        if where == number
                        and inside(x + actual / 2, column * side, (column + 1) * side)
                        and inside(y + actual / 2, row * side, (row + 1) * side)
                    ]
                    if own:
                        expected.append((number, np.mean(own, axis=0)))
        assert region.tolist() == [number for number, _ in expected]
        # float32 means in another order of summation
        np.testing.assert_allclose(rows, np.stack([mean for _, mean in expected]), atol=1e-6)


def test_overlapping_parents_are_told_apart_by_their_centres() -> None:
    zeros = np.zeros(2, dtype=np.int64)
    coarse = np.array([[-60.0, 0.0], [60.0, 0.0]])

    found = find_parents(np.array([[10.0, 0.0], [-10.0, 0.0]]), zeros, coarse, zeros, side_um=448.0)

    assert found.tolist() == [1, 0]


def test_rows_stand_beside_their_parents_coarse_to_fine(tmp_path: Path) -> None:
    tokens = draw_tokens(*LAYOUTS[0], absent=0.0, seed=3)
    source = write_set(tmp_path, 0, tokens)

    (bag,) = read_bags(source, ["a"], names=[PARENTS])

    assert bag.rows.shape == (5 * 16, 3 + 4 + 5)
    # The last finest tile of a region lies in the last tile of each magnification.
    for number in range(5):
        row = bag.rows[16 * number + 15]
        parts = [tokens.features[mpp][(number + 1) * n - 1] for mpp, n in ((2.0, 1), (1.0, 4), (0.5, 16))]
        np.testing.assert_array_equal(row, np.concatenate(parts))
    assert bag.region_present.all()


def test_tiles_without_a_parent_are_left_out_and_counted(tmp_path: Path) -> None:
    tokens = draw_tokens(*LAYOUTS[1], absent=0.3, seed=1)
    source = write_set(tmp_path, 1, tokens)
    derived = derive(source, tokens, PARENTS)
    assert 0 < derived.n_without < len(tokens.features[0.75])

    with pytest.warns(ParfocalWarning, match=f"{derived.n_without} of {len(tokens.features[0.75])} finest tiles"):
        (bag,) = read_bags(source, ["a"], names=[PARENTS])

    assert bag.n_instances.tolist() == [len(tokens.features[0.75]) - derived.n_without]


def test_a_slide_without_any_pair_is_one_line(tmp_path: Path) -> None:
    tokens = draw_tokens(*LAYOUTS[0], absent=0.0, seed=3)
    # Coarse tiles of the first region, fine tiles of the last one.
    kept = {mpp: tokens.region[mpp] == (4 if mpp == 0.5 else 0) for mpp in tokens.mpps}
    tokens = replace(
        tokens,
        features={mpp: rows[kept[mpp]] for mpp, rows in tokens.features.items()},
        region={mpp: rows[kept[mpp]] for mpp, rows in tokens.region.items()},
        center_um={mpp: rows[kept[mpp]] for mpp, rows in tokens.center_um.items()},
    )

    with pytest.raises(ConfigError, match="Leave out the slide, or the arm `parents`"):
        read_bags(write_set(tmp_path, 0, tokens), ["a"], names=[PARENTS])


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_pseudo_coarse_tiles_know_nothing_of_the_coarse_ones(tmp_path: Path, layout: int) -> None:
    mpps, region_um, stretch = LAYOUTS[layout]
    tokens = draw_tokens(mpps, region_um, stretch, absent=0.2, seed=layout)
    source = write_set(tmp_path / "all", layout, tokens)
    names = [pseudo_name(mpp) for mpp in mpps[:-1]]
    before = read_bags(source, ["a"], names=names)
    # Half of the coarse tiles are taken away, and the values of the others are poison: one of them in a mean shows.
    without = {
        mpp: np.full_like(rows[: len(rows) // 2], 1e9) if mpp != mpps[-1] else rows
        for mpp, rows in tokens.features.items()
    }
    fewer = replace(
        tokens,
        features=without,
        region={mpp: rows[: len(without[mpp])] for mpp, rows in tokens.region.items()},
        center_um={mpp: rows[: len(without[mpp])] for mpp, rows in tokens.center_um.items()},
    )
    poisoned = write_set(tmp_path / "fewer", layout, fewer)
    after = read_bags(poisoned, ["a"], names=names)

    for one, other in zip(before, after, strict=True):
        assert len(one.rows)
        for name in ("rows", "mean", "region_mean", "region_present"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_tiles_in_place_are_all_tiles_region_by_region(tmp_path: Path) -> None:
    slides = [draw_tokens(*LAYOUTS[0], absent=0.3, seed=seed, slide=name) for seed, name in ((1, "a"), (2, "b"))]
    source = write_set(tmp_path, 0, *slides)

    (bag,) = read_bags(source, ["b", "a"], names=[PLACED])

    assert bag.place is not None
    for number, tokens in ((0, slides[1]), (1, slides[0])):
        own = slice(int(bag.start[number]), int(bag.start[number + 1]))
        place, rows = bag.place[own], bag.rows[own]
        assert (np.diff(place[:, 3]) >= 0).all()
        for mpp in source.mpps:
            of_mpp = place[:, 2] == np.float32(mpp)
            np.testing.assert_array_equal(place[of_mpp][:, 3], tokens.region[mpp])
            np.testing.assert_array_equal(place[of_mpp][:, :2], tokens.center_um[mpp])
            np.testing.assert_array_equal(rows[of_mpp, : source.dims[mpp]], tokens.features[mpp])
            assert not rows[of_mpp, source.dims[mpp] :].any()
    swapped = bag.of_slides([1])
    assert swapped.place is not None
    np.testing.assert_array_equal(swapped.place, bag.place[bag.start[1] :])


def test_tiles_in_place_are_limited_by_whole_regions(tmp_path: Path) -> None:
    source = write_set(tmp_path, 0, draw_tokens(*LAYOUTS[0], absent=0.0, seed=1))

    with pytest.warns(ParfocalWarning, match="more than 50 instances"):
        (bag,) = read_bags(source, ["a"], names=[PLACED], most_instances=50)
    with pytest.warns(ParfocalWarning, match="more than 3 instances"):
        (one,) = read_bags(source, ["a"], names=[PLACED], most_instances=3)

    assert bag.place is not None
    assert one.place is not None
    assert np.unique(bag.place[:, 3], return_counts=True)[1].tolist() == [21, 21]
    assert len(one.rows) == 21


def test_tiles_of_other_regions_are_those_of_the_slide_and_no_region_has_its_own(tmp_path: Path) -> None:
    tokens = draw_tokens(*LAYOUTS[0], absent=0.3, seed=3)
    source = write_set(tmp_path, 0, tokens)

    own, other = read_bags(source, ["a"], names=["1", elsewhere_name(1.0)])

    np.testing.assert_allclose(other.mean, own.mean, rtol=1e-5)
    np.testing.assert_array_equal(np.sort(other.rows, axis=0), np.sort(own.rows, axis=0))
    number = {row.tobytes(): region for region, row in enumerate(own.region_mean) if own.region_present[region]}
    from_region = [number[row.tobytes()] for row in other.region_mean[other.region_present]]
    here = np.flatnonzero(other.region_present)
    assert sorted(from_region) == np.flatnonzero(own.region_present).tolist()
    assert (np.array(from_region) != here).all()


def test_instances_one_by_one_are_regions_of_their_own_and_share_their_rows(tmp_path: Path) -> None:
    slides = [draw_tokens(*LAYOUTS[0], absent=0.3, seed=seed, slide=name) for seed, name in ((1, "a"), (2, "b"))]
    source = write_set(tmp_path, 0, *slides)

    stand_in, alone, plain = read_bags(source, ["a", "b"], names=["pseudo 1", one_by_one("pseudo 1"), "0.5"])

    assert (alone.name, alone.is_one_by_one, stand_in.is_one_by_one, plain.is_one_by_one) == (
        "pseudo 1, one by one", True, False, False,
    )  # fmt: skip
    for bag in (alone, alone.of_slides([1, 0]), alone.without(["a"])):
        assert bag.region_mean is bag.rows  # they take no memory of their own
        np.testing.assert_array_equal(bag.region_start, bag.start)
        assert bag.region_present.all()
    np.testing.assert_array_equal(alone.rows, stand_in.rows)
    np.testing.assert_array_equal(alone.mean, stand_in.mean)


def test_each_bag_says_which_magnifications_it_is_made_of(tmp_path: Path) -> None:
    source = write_set(tmp_path, 0, draw_tokens(*LAYOUTS[0], absent=0.0, seed=1))

    said = {name: mpps_behind(source, name) for name in ("1", one_by_one("0.5"), "pseudo 2", "2 of other regions")}

    assert list(said.values()) == [(1.0,), (0.5,), (0.5,), (2.0,)]
    assert mpps_behind(source, PARENTS) == mpps_behind(source, PLACED) == (2.0, 1.0, 0.5)


def test_what_is_kept_of_a_bag_does_not_depend_on_the_others(tmp_path: Path) -> None:
    source = write_set(tmp_path, 0, draw_tokens(*LAYOUTS[0], absent=0.0, seed=1))
    with pytest.warns(ParfocalWarning):
        _, alone = read_bags(source, ["a"], names=["1", "0.5"], most_instances=7)
    with pytest.warns(ParfocalWarning):
        together = read_bags(source, ["a"], names=(*derived_names(source), "0.5"), most_instances=7)[-1]

    np.testing.assert_array_equal(alone.rows, together.rows)


def test_a_name_that_a_set_does_not_have_is_refused(tmp_path: Path) -> None:
    source = write_set(tmp_path, 1, draw_tokens(*LAYOUTS[1], absent=0.0, seed=1))

    assert derived_names(source) == ("parents", "pseudo 1.5", "tiles in place", "1.5 of other regions")
    assert format_mpp(0.75) in {bag.name for bag in read_bags(source, ["a"])}
    with pytest.raises(ValueError, match=r"no bag 'pseudo 2'; it has 1.5, 0.75, parents"):
        read_bags(source, ["a"], names=["pseudo 2"])
