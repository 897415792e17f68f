"""The stream: slides weigh the same, every region comes, any batch can be named, and threads change nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.errors import StoreError
from parfocal.pretrain.data import RegionOrder, RegionStream, SlideCache
from parfocal.pretrain.holdout import SlidePart
from parfocal.pretrain.moments import training_moments, whitening_of
from parfocal.region_encoder.batch import RegionBatch, gather_regions
from parfocal.store import EmbeddingSet

from .conftest import MakeSet, toy_tokens


def order_of(sizes: list[int], **changes: int) -> RegionOrder:
    parts = tuple(SlidePart(f"s{i}", np.arange(n)) for i, n in enumerate(sizes))
    values = {
        "batch": 4,
        "per_visit": 4,
        "per_window": 3,
        "neighbours": 1,
        "seed": 5,
        "stream": 0,
        "n_streams": 1,
    } | changes
    return RegionOrder(parts, **values)


def drawn(order: RegionOrder, windows: int) -> list[tuple[int, int]]:
    return [(v.part, int(r)) for w in range(windows) for v in order.visits(w) for r in v.regions]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 8), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=60)
def test_slides_weigh_the_same_and_no_region_is_missed(
    sizes: list[int], per_visit: int, per_window: int, seed: int
) -> None:
    order = order_of(sizes, per_visit=per_visit, per_window=per_window, seed=seed)
    passes = -(-max(sizes) // per_visit)
    windows = -(-passes * len(sizes) // per_window)

    counts = np.zeros(len(sizes), dtype=int)
    for part, _ in drawn(order, windows):
        counts[part] += 1
    # A pass may be unfinished at the end: one visit more or less.
    assert counts.max() - counts.min() <= per_visit
    assert set(drawn(order, windows)) == {(i, r) for i, n in enumerate(sizes) for r in range(n)}


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=60)
def test_batches_cut_the_windows_without_gap(batch: int, per_visit: int, per_window: int, neighbours: int) -> None:
    order = order_of([7, 5], batch=batch, per_visit=per_visit, per_window=per_window, neighbours=neighbours)

    places = [(w, i) for step in range(12) for w, a, b in order.places(step) for i in range(a, b)]
    size = order.window_size
    assert places == [divmod(i, size) for i in range(12 * batch)]
    assert sorted(order.shuffle(3).tolist()) == list(range(size))


def test_processes_share_no_visit_and_together_make_one_pass() -> None:
    sizes = [8] * 6
    both = [order_of(sizes, stream=stream, n_streams=2, per_window=3) for stream in (0, 1)]

    first, second = ({part for part, _ in drawn(order, 1)} for order in both)
    assert first.isdisjoint(second)
    assert first | second == set(range(6))
    assert not np.array_equal(both[0].shuffle(0), both[1].shuffle(0))


def test_neighbours_bring_several_regions_of_a_slide_into_a_batch() -> None:
    order = order_of([40] * 40, per_visit=8, per_window=40, batch=32, neighbours=8)
    visits = order.visits(0)
    parts = np.concatenate([np.full(8, v.part) for v in visits])[order.shuffle(0)[:32]]

    assert np.bincount(parts).max() == 8
    assert len(set(parts.tolist())) == 4


def test_gathered_regions_hold_the_rows_of_the_slide() -> None:
    tokens = toy_tokens("s", 6, dim=5, seed=1, absent=0.4)
    wanted = np.array([4, 0, 4])
    regions = gather_regions(tokens, wanted, slide=3, dim=7)

    assert regions.slide.tolist() == [3, 3, 3]
    assert regions.region.tolist() == [4, 0, 4]
    for place, number in enumerate(wanted):
        rows = [(m, i) for m in tokens.mpps for i in np.flatnonzero(tokens.region[m] == number)]
        assert int(regions.present[place].sum()) == len(rows)
        for column, (mpp, row) in enumerate(rows):
            assert regions.mpp[place, column] == mpp
            assert np.array_equal(regions.tokens[place, column, :5], tokens.features[mpp][row])
            assert np.array_equal(regions.xy_um[place, column], tokens.center_um[mpp][row])
    assert not regions.tokens[..., 5:].any()
    assert not regions.tokens[~regions.present].any()
    assert regions.tokens.dtype == torch.float16


def test_packing_fills_up_with_absent_tokens() -> None:
    tokens = toy_tokens("s", 6, dim=5, seed=1, absent=0.9)
    parts = [gather_regions(tokens, np.array([r]), slide=0, dim=5) for r in range(6)]
    together = RegionBatch.join(parts)
    at_once = gather_regions(tokens, np.arange(6), slide=0, dim=5)

    assert torch.equal(together.present, at_once.present)
    assert torch.equal(together.tokens, at_once.tokens)


def stream(tiles: EmbeddingSet, *, workers: int, first: int, cache_bytes: int = 0) -> list[RegionBatch]:
    order = order_of([tiles.n_regions(slide) for slide in tiles.slides], batch=7)
    with RegionStream(order, SlideCache(tiles, max_bytes=cache_bytes), workers=workers) as source:
        return list(source.batches(first, 12))


def same(a: list[RegionBatch], b: list[RegionBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.tokens, y.tokens) and torch.equal(x.region, y.region) and torch.equal(x.slide, y.slide)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_threads_memory_or_where_one_starts(make_set: MakeSet, workers: int) -> None:
    tiles = make_set((5, 9, 3, 8), absent=0.3)
    reference = stream(tiles, workers=0, first=0)

    assert same(stream(tiles, workers=workers, first=0), reference)
    assert same(stream(tiles, workers=workers, first=5), reference[5:])
    assert same(stream(tiles, workers=workers, first=0, cache_bytes=1 << 20), reference)


def test_a_failing_reader_stops_the_stream(make_set: MakeSet) -> None:
    tiles = make_set((5, 9))
    next(tiles.path.glob("0.5/s1.h5")).write_bytes(b"damaged")

    with pytest.raises(StoreError, match=r"0\.5/s1\.h5"):
        stream(tiles, workers=2, first=0)


def test_only_a_small_set_is_kept_in_memory(make_set: MakeSet) -> None:
    tiles = make_set((4, 4))
    # 8 regions of 21 tokens of 8 float16 numbers.
    needed = 8 * 21 * 8 * 2

    assert SlideCache(tiles, max_bytes=needed).keeps
    assert not SlideCache(tiles, max_bytes=needed - 1).keeps


def test_moments_agree_with_numpy(make_set: MakeSet) -> None:
    tiles = make_set((5, 9, 3), absent=0.3)
    parts = [SlidePart(slide, np.arange(tiles.n_regions(slide))) for slide in tiles.slides]
    moments = training_moments(parts, tiles.read, covariance=True)

    for mpp in tiles.mpps:
        rows = [tiles.read(slide).features[mpp].astype(np.float64) for slide in tiles.slides]
        mean = np.mean([r.mean(axis=0) for r in rows], axis=0)
        sd = np.sqrt(np.mean([((r - mean) ** 2).mean(axis=0) for r in rows], axis=0))
        assert moments.mean[mpp] == pytest.approx(mean, rel=1e-9)
        assert moments.sd[mpp] == pytest.approx(sd, rel=1e-9)
        assert training_moments(parts, tiles.read).sd[mpp] == pytest.approx(sd, rel=1e-9)
        rows = [r - moments.mean[mpp] for r in rows]
        assert moments.covariance[mpp] == pytest.approx(np.mean([r.T @ r / len(r) for r in rows], axis=0), abs=1e-9)


def test_moments_read_only_the_training_regions() -> None:
    tokens = toy_tokens("s", 10, dim=4, seed=0)
    moments = training_moments([SlidePart("s", np.array([2, 3, 7]))], lambda _: tokens)

    rows = tokens.features[0.5][np.isin(tokens.region[0.5], [2, 3, 7])].astype(np.float64)
    assert moments.mean[0.5] == pytest.approx(rows.mean(axis=0))
    assert moments.sd[0.5] == pytest.approx(rows.std(axis=0))


@pytest.mark.parametrize("shrinkage", [0.05, 0.5])
def test_whitened_embeddings_have_the_stated_variance(shrinkage: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    rows[:, 5] = 0.0
    covariance, sd = np.cov(rows.T, bias=True), rows.std(axis=0)
    whitening = whitening_of(covariance, sd, shrinkage=shrinkage)

    z = (rows - rows.mean(axis=0)) / np.where(sd > 0, sd, 1)
    y = whitening.whitened().apply(z)
    variance = np.sort(np.linalg.eigvalsh(np.cov(z.T, bias=True)))
    assert np.sort(y.var(axis=0)) == pytest.approx(
        np.sort(variance / ((1 - shrinkage) * variance + shrinkage)), abs=1e-9
    )
    assert np.abs(np.cov(y.T, bias=True) - np.diag(y.var(axis=0))).max() < 1e-9
    assert y @ whitening.inverse() == pytest.approx(z, abs=1e-9)
