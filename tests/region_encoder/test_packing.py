"""Packing: every present token is computed once, absent ones never."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.region_encoder.plan import ROW_MULTIPLE, find_places, pack

masks = st.tuples(st.integers(1, 9), st.integers(0, 7), st.integers(0, 2**20)).map(
    lambda made: torch.rand(made[0], made[1], generator=torch.Generator().manual_seed(made[2])) < 0.6
)


@settings(max_examples=60)
@given(masks, st.integers(1, 40))
def test_each_present_token_has_one_row_and_chunks_stay_small(present: torch.Tensor, max_rows: int) -> None:
    packing = pack(present, specials=2, max_rows=max_rows)

    assert sorted(packing.source.tolist()) == present.flatten().nonzero().flatten().tolist()
    assert sorted(packing.order.tolist()) == list(range(len(present)))
    sizes = present.sum(dim=1)[packing.order].tolist()
    lengths = [span.length for chunk in packing.chunks for span in chunk.spans for _ in range(span.regions)]
    assert lengths == [size + 2 for size in sizes]
    for chunk in packing.chunks:
        rows = chunk.spans[-1].stop
        assert rows <= max_rows or chunk.regions.stop - chunk.regions.start == 1
        assert (rows + chunk.filling) % ROW_MULTIPLE == 0
        assert sum(span.regions * (span.length - 2) for span in chunk.spans) == chunk.tiles.stop - chunk.tiles.start


@settings(max_examples=60)
@given(masks, st.integers(0, 2**20), st.booleans())
def test_the_places_give_back_the_position_of_every_present_token(
    present: torch.Tensor, seed: int, one_layout: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    xy = torch.randint(-2, 3, (*present.shape, 2), generator=generator).float()
    mpp = torch.tensor([2.0, 0.5])[torch.randint(0, 2, present.shape, generator=generator)]
    if one_layout:
        xy, mpp = xy[:1].expand_as(xy), mpp[:1].expand_as(mpp)
    packing = pack(present, specials=1, max_rows=100)

    places = find_places(xy, mpp, packing)

    assert torch.equal(places.xy_um[places.index], xy.flatten(0, 1)[packing.source])
    assert torch.equal(places.mpp[places.index], mpp.flatten()[packing.source])
    # Where all regions have one layout its slots are the places as they are.
    if not (torch.equal(xy, xy[:1].expand_as(xy)) and torch.equal(mpp, mpp[:1].expand_as(mpp))):
        rows = {(*xy, mpp) for xy, mpp in zip(places.xy_um.tolist(), places.mpp.tolist(), strict=True)}
        assert len(rows) == len(places.mpp)
