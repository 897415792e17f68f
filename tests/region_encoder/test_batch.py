"""Collating regions of slides."""

import numpy as np
import pytest
import torch

from parfocal.region_encoder import RegionBatch, collate_regions
from parfocal.region_encoder.batch import number_ranges
from parfocal.store import SlideTokens


def slide_of(name: str, seed: int, dims: dict[float, int]) -> SlideTokens:
    """Three regions: the second has no tile at all, the third lacks its coarse tile."""
    rng = np.random.default_rng(seed)
    region = {2.0: [0], 0.5: [0, 0, 2]}
    return SlideTokens(
        slide=name,
        region_um=448.0,
        slide_mpp=0.5,
        region_xy_um=np.zeros((3, 2)),
        features={m: rng.normal(size=(len(region[m]), d)).astype(np.float16) for m, d in dims.items()},
        region={m: np.array(region[m], dtype=np.int32) for m in dims},
        center_um={m: rng.normal(size=(len(region[m]), 2)).astype(np.float32) for m in dims},
    )


def test_the_tiles_of_each_region_come_out_with_their_places() -> None:
    a, b = slide_of("a", 0, {2.0: 3, 0.5: 5}), slide_of("b", 1, {2.0: 3, 0.5: 5})

    batch = collate_regions([(a, [2, 0, 1]), (b, np.array([0]))])

    assert [(a, b)[number].slide for number in batch.slide] == ["a", "a", "a", "b"]
    assert batch.region.tolist() == [2, 0, 1, 0]
    assert batch.present.sum(dim=1).tolist() == [1, 3, 0, 3]
    assert batch.tokens.shape == (4, 3, 5)
    for row, slide in ((1, a), (3, b)):
        assert batch.mpp[row].tolist() == [2.0, 0.5, 0.5]
        np.testing.assert_array_equal(batch.tokens[row, 0, :3], slide.features[2.0][0].astype(np.float32))
        np.testing.assert_array_equal(batch.tokens[row, 1:], slide.features[0.5][:2].astype(np.float32))
        np.testing.assert_array_equal(batch.xy_um[row, 1:], slide.center_um[0.5][:2])
    np.testing.assert_array_equal(batch.tokens[0, 0], a.features[0.5][2].astype(np.float32))
    assert batch.to("cpu").tokens.dtype == torch.float32


def test_a_region_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="regions 0 to 2; there is no region 3"):
        collate_regions([(slide_of("a", 0, {2.0: 3, 0.5: 5}), [0, 3])])


def test_nothing_to_collate_is_said() -> None:
    with pytest.raises(ValueError, match="no slide"):
        collate_regions([])


def test_rows_below_one_another_become_the_batch_that_their_slide_gives() -> None:
    slide = slide_of("a", 0, {2.0: 5, 0.5: 5})
    expected = collate_regions([(slide, [0, 1, 2])])
    rows = np.concatenate([slide.features[2.0], slide.features[0.5]]).astype(np.float32)
    place = np.concatenate(
        [np.column_stack([slide.center_um[m], np.full(len(slide.region[m]), m)]) for m in (2.0, 0.5)]
    )

    numbers = np.arange(3)
    batch = RegionBatch.of_rows(
        rows, place.astype(np.float32), np.array([0, 3, 3, 4]), slide=np.zeros(3, np.int64), region=numbers
    )

    for name, values in vars(expected).items():
        torch.testing.assert_close(getattr(batch, name), values, rtol=0, atol=0)
    assert number_ranges(np.array([4, 0, 2]), np.array([2, 0, 3])).tolist() == [4, 5, 2, 3, 4]
