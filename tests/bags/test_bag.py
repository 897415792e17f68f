"""A bag holds every slide once: means over all tiles, one row for every region, and no value where there is no tile."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import read_bags
from parfocal.errors import ParfocalWarning
from parfocal.store import EmbeddingSet, SlideRegions, SlideTokens, create_set, open_set, write_regions, write_tokens


def two_slides(root: Path) -> EmbeddingSet:
    """`a` has 3 regions, the second without fine tiles; `b` has one region."""
    rng = np.random.default_rng(0)
    path = create_set(
        root, "toy", "tiles", region_um=448.0, dims={2.0: 4, 0.5: 3}, settings={"encoder": "toy"},
        encoder_digests={2.0: "x", 0.5: "x"}, tile_px=224, dtype="float32",
    )  # fmt: skip
    fine = {"a": np.array([0, 0, 2, 2, 2]), "b": np.array([0])}
    for slide, n_regions in (("a", 3), ("b", 1)):
        region = {2.0: np.arange(n_regions, dtype=np.int32), 0.5: fine[slide].astype(np.int32)}
        write_tokens(
            path,
            SlideTokens(
                slide=slide,
                region_um=448.0,
                slide_mpp=0.5,
                region_xy_um=np.arange(2.0 * n_regions).reshape(-1, 2) * 448,
                features={
                    mpp: rng.standard_normal((len(region[mpp]), dim)).astype(np.float32)
                    for mpp, dim in ((2.0, 4), (0.5, 3))
                },
                region=region,
                center_um={mpp: np.zeros((len(rows), 2), np.float32) for mpp, rows in region.items()},
            ),
        )
    return open_set(path)


def test_means_are_those_of_the_tiles(tmp_path: Path) -> None:
    source = two_slides(tmp_path)
    rows = source.read("a").features[0.5]

    coarse, fine = read_bags(source, ["b", "a"])

    assert (coarse.name, fine.name) == ("2", "0.5")
    assert fine.start.tolist() == [0, 1, 6]
    assert fine.region_start.tolist() == coarse.region_start.tolist() == [0, 1, 4]
    np.testing.assert_allclose(fine.mean[1], rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fine.region_mean[1], rows[:2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fine.region_mean[3], rows[2:].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(fine.rows_of(1), rows)


def test_a_region_without_a_tile_is_absent_and_poison(tmp_path: Path) -> None:
    _, fine = read_bags(two_slides(tmp_path), ["a", "b"])

    assert fine.region_present.tolist() == [True, False, True, True]
    assert np.isnan(fine.region_mean[1]).all()
    assert fine.region_present.mean() < 0.99


def test_some_slides_of_a_bag_are_a_bag(tmp_path: Path) -> None:
    source = two_slides(tmp_path)
    _, both = read_bags(source, ["a", "b"])
    _, alone = read_bags(source, ["b"])

    part = both.of_slides([1])

    for name in ("rows", "start", "n_instances", "mean", "region_mean", "region_start", "region_present"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    assert both.of_slides([0, 1]) is both


def test_many_instances_are_limited_and_said_but_means_are_not(tmp_path: Path) -> None:
    source = two_slides(tmp_path)
    whole = read_bags(source, ["a", "b"])[1]

    with pytest.warns(ParfocalWarning, match="more than 2 instances"):
        fine = read_bags(source, ["a", "b"], most_instances=2)[1]

    assert np.diff(fine.start).tolist() == [2, 1]
    assert fine.n_instances.tolist() == [5, 1]
    np.testing.assert_array_equal(fine.mean, whole.mean)
    assert {tuple(row) for row in fine.rows_of(0)} <= {tuple(row) for row in whole.rows_of(0)}


def test_regions_are_their_own_instances(tmp_path: Path) -> None:
    path = create_set(
        tmp_path, "r", "regions", region_um=448.0, dims=2, settings={"model": "m", "readout": "cls"},
        encoder_digests={2.0: "x"}, dtype="float32",
    )  # fmt: skip
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    write_regions(path, SlideRegions("a", 448.0, 0.5, np.zeros((3, 2)), rows))

    (bag,) = read_bags(open_set(path), ["a"])

    assert bag.name == "region"
    np.testing.assert_array_equal(bag.rows, rows)
    np.testing.assert_array_equal(bag.region_mean, rows)
