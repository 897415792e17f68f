"""Whole slides are held out; of a single slide, whole fragments; never random regions."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.errors import ConfigError
from parfocal.pretrain.holdout import regions_in_words, shared_groups, split_set, tissue_fragments
from parfocal.store import EmbeddingSet

from .conftest import MakeSet


def test_a_share_of_the_slides_is_held_out_whole(make_set: MakeSet) -> None:
    split = split_set(make_set((5, 6, 7, 8, 9)), share=0.4, seed=0)

    training = {part.slide: len(part.regions) for part in split.training}
    held = {part.slide: len(part.regions) for part in split.held_out}
    assert len(held) == 2
    assert training | held == {"s0": 5, "s1": 6, "s2": 7, "s3": 8, "s4": 9}
    assert training.keys().isdisjoint(held)
    assert split.sentence == "held out: 2 of 5 slides"


def test_named_slides_are_held_out(make_set: MakeSet) -> None:
    tiles = make_set((5, 6, 7))

    assert [part.slide for part in split_set(tiles, share=0.1, slides=("s1",), seed=0).held_out] == ["s1"]
    with pytest.raises(ConfigError, match="no such slide"):
        split_set(tiles, share=0.1, slides=("s9",), seed=0)
    with pytest.raises(ConfigError, match="both need at least one"):
        split_set(tiles, share=0.1, slides=("s0", "s1", "s2"), seed=0)


def test_fragments_touch_at_corners_too() -> None:
    xy_um = np.array([[0, 0], [448, 448], [1344, 0], [1344, 448], [448, 0], [3000.0, 3000.0]])

    assert len(set(tissue_fragments(xy_um, 448.0).tolist())) == 3
    assert tissue_fragments(np.array([[0.0, 0.0]]), 448.0).tolist() == [0]


def test_of_a_single_slide_whole_fragments_are_held_out(make_set: MakeSet) -> None:
    tiles = make_set((30,), gap=True)
    split = split_set(tiles, share=0.3, seed=0)

    assert split.held_out[0].regions.tolist() == list(range(20, 30))
    assert split.training[0].regions.tolist() == list(range(20))
    assert "1 of 2 tissue fragments of the only slide (10 of 30 regions)" in split.sentence


def test_a_fragment_larger_than_the_share_is_held_out_whole(make_set: MakeSet) -> None:
    split = split_set(make_set((30,), gap=True), share=0.1, seed=0)

    assert split.held_out[0].regions.tolist() == list(range(20, 30))


def test_a_single_fragment_loses_one_end_with_a_gap(make_set: MakeSet) -> None:
    split = split_set(make_set((30,)), share=0.2, seed=0)

    training, held = split.training[0].regions, split.held_out[0].regions
    assert len(held) == 6
    assert held.min() - training.max() == 2
    assert "one end of the only slide" in split.sentence
    assert "1 more left out as a gap" in split.sentence


def test_a_set_without_tissue_is_refused(make_set: MakeSet) -> None:
    with pytest.raises(ConfigError, match="none of its 1 slides has a region"):
        split_set(make_set((0,)), share=0.2, seed=0)
    with pytest.raises(ConfigError, match="Embed more slides"):
        split_set(make_set((2,), name="other"), share=0.2, seed=0)


def test_the_last_row_of_a_compact_fragment_can_be_held_out(make_set: MakeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    # Four rows of five: no row holds as few regions as are wanted, so the nearest number of whole rows is taken.
    tiles = make_set((20,))
    compact = np.array([[448.0 * (k // 5), 448.0 * (k % 5) * 0.1] for k in range(20)])
    monkeypatch.setattr(type(tiles), "region_xy_um", lambda self, slide: compact)

    split = split_set(tiles, share=0.1, seed=0)

    assert split.held_out[0].regions.tolist() == [15, 16, 17, 18, 19]
    assert split.training[0].regions.tolist() == list(range(10))


class Counted(EmbeddingSet):
    """A set of slides that are nowhere, as far as a split of several slides looks at it."""

    def n_regions(self, slide: str) -> int:
        return 3


def counted(slides: Iterable[str]) -> EmbeddingSet:
    return Counted(Path("toy"), {"region_um": 448.0, "settings": {}}, tuple(sorted(slides)))


class Laid(EmbeddingSet):
    """A set whose regions of every slide lie where its content says."""

    def n_regions(self, slide: str) -> int:
        return len(self.content["places"][slide])

    def region_xy_um(self, slide: str) -> np.ndarray:
        return self.content["places"][slide]


def laid(pieces: list[list[tuple[float, float]]], reach_um: float, stride_um: float) -> EmbeddingSet:
    """Slides of 4.5 mm with a few pieces of tissue each, a region of 448 um at every stride that meets one."""
    at = stride_um * np.arange(int(10 * 448 / stride_um))
    xy_um = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    near = [[np.abs(xy_um + 224 - middle).max(axis=1) < reach_um for middle in middles] for middles in pieces]
    places = {f"s{number}": xy_um[np.any(own, axis=0)] for number, own in enumerate(near)}
    content = {"region_um": 448.0, "settings": {"grid": {"stride_um": stride_um}}, "places": places}
    return Laid(Path("toy"), content, tuple(places))


POINT = st.tuples(st.floats(0, 4480), st.floats(0, 4480))


@settings(max_examples=80)
@given(
    pieces=st.lists(st.lists(POINT, min_size=1, max_size=4), min_size=1, max_size=3),
    reach_um=st.floats(300, 1500),
    stride_um=st.sampled_from([448.0, 224.0, 112.0, 448.0 / 3, 300.0]),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 99),
)
def test_the_held_out_share_no_tissue_with_training_nor_each_other_and_are_those_without_a_stride(
    pieces: list[list[tuple[float, float]]], reach_um: float, stride_um: float, share: float, seed: int
) -> None:
    tiles, plain = laid(pieces, reach_um, stride_um), laid(pieces, reach_um, 448.0)
    try:
        split = split_set(tiles, share=share, seed=seed)
    except ConfigError:
        return  # one small piece of tissue: there is nothing to hold out
    in_training = {part.slide: part for part in split.training}
    for held in split.held_out:
        xy_um = tiles.region_xy_um(held.slide)
        scored = xy_um[held.regions]
        assert len(scored)
        apart = np.abs(scored[:, None] - scored[None]).max(axis=2)[~np.eye(len(scored), dtype=bool)]
        assert apart.min(initial=np.inf) > 447.9
        if held.slide in in_training:
            seen = xy_um[in_training[held.slide].regions]
            assert np.abs(scored[:, None] - seen[None]).max(axis=2).min() > 448.0
    overlaps = tiles.step_um < 448
    assert ("side by side" in split.sentence) == overlaps
    assert ("that overlap, on the tissue of" in regions_in_words(split.training)) == overlaps
    if stride_um != 300 and all(plain.n_regions(slide) for slide in plain.slides):
        held_out = [
            (held.slide, np.rint(one.region_xy_um(held.slide)[held.regions]).tolist())
            for one in (tiles, plain)
            for held in split_set(one, share=share, seed=seed).held_out
        ]
        assert held_out[: len(held_out) // 2] == held_out[len(held_out) // 2 :]


@settings(max_examples=80)
@given(
    patients=st.lists(st.integers(1, 5), min_size=2, max_size=9),
    without=st.integers(0, 3),
    share=st.floats(0.02, 0.9),
    seed=st.integers(0, 99),
)
def test_no_patient_is_on_both_sides_whatever_there_is(
    patients: list[int], without: int, share: float, seed: int
) -> None:
    groups = {f"s{p}-{n}": f"p{p}" for p, count in enumerate(patients) for n in range(count)}
    tiles = counted([*groups, *(f"lone{n}" for n in range(without))])
    split = split_set(tiles, share=share, seed=seed, groups=groups)
    training, held = ({part.slide for part in parts} for parts in (split.training, split.held_out))

    assert training | held == set(tiles.slides)
    assert training
    assert held
    assert {groups[one] for one in training & groups.keys()}.isdisjoint(groups[one] for one in held & groups.keys())
    # No more is held out than asked for, unless even the smallest patient is more than that.
    assert len(held) <= max(1, round(share * len(tiles.slides)), 1 if without else min(patients))
    assert split_set(tiles, share=share, seed=seed, groups=groups).sentence == split.sentence


def test_groups_of_one_slide_change_nothing() -> None:
    tiles = counted(f"s{n}" for n in range(12))
    plain = split_set(tiles, share=0.3, seed=4)
    alone = split_set(tiles, share=0.3, seed=4, groups={f"s{n}": f"p{n}" for n in range(12)})

    assert [part.slide for part in alone.held_out] == [part.slide for part in plain.held_out]
    assert alone.sentence == plain.sentence == "held out: 4 of 12 slides"
    assert shared_groups(tiles.slides, {f"s{n}": f"p{n}" for n in range(12)}) == {}
    assert shared_groups(("a", "b", "c"), {"a": "p", "b": "p", "c": "q", "gone": "q"}) == {"a": "p", "b": "p"}


def test_named_slides_may_not_leave_others_of_their_patient_behind() -> None:
    tiles = counted(["a1", "a2", "b1"])
    groups = {"a1": "ann", "a2": "ann", "b1": "bob"}

    with pytest.raises(ConfigError, match="hold out a1 and train on a2: both are of 'ann'"):
        split_set(tiles, share=0.1, slides=("a1",), seed=0, groups=groups)
    split = split_set(tiles, share=0.1, slides=("a1", "a2"), seed=0, groups=groups)
    assert split.sentence == "held out: 2 of 3 slides, 1 of 2 groups"
    with pytest.raises(ConfigError, match="all 3 slides are of 'ann'"):
        split_set(tiles, share=0.1, seed=0, groups=dict.fromkeys(groups, "ann"))
