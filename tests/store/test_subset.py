"""A set with some of its magnifications is like one that never had the others; with fewer slides it stays checked."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.errors import MismatchError
from parfocal.store import EmbeddingSet, SlideTokens, create_set, only_mpps, open_set, write_tokens
from parfocal.store.layout import features_path

DIMS = {2.0: 3, 1.0: 4, 0.5: 5}


@pytest.fixture
def three(tmp_path: Path) -> EmbeddingSet:
    path = create_set(
        tmp_path, "toy", "tiles", region_um=448.0, dims=DIMS, settings={"encoder": "toy"},
        encoder_digests={2.0: "a", 1.0: "b", 0.5: "c"}, tile_px=224, dtype="float32",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    region = {mpp: np.array([0, 2], dtype=np.int32) for mpp in DIMS}
    features = {mpp: rng.standard_normal((2, dim)).astype(np.float32) for mpp, dim in DIMS.items()}
    center = {mpp: np.zeros((2, 2), np.float32) for mpp in DIMS}
    write_tokens(path, SlideTokens("a", 448.0, 0.5, np.zeros((3, 2)), features, region, center))
    return open_set(path)


def test_the_others_are_never_opened(three: EmbeddingSet) -> None:
    kept = only_mpps(three, (0.5, 2.0))
    features_path(three.path, "a", 1.0).unlink()

    tokens = kept.read("a")

    assert kept.mpps == tokens.mpps == (2.0, 0.5)
    assert kept.dims == {2.0: 3, 0.5: 5}
    assert kept.encoder_digests == {2.0: "a", 0.5: "c"}
    assert only_mpps(three, (0.5,)).encoder_digest == "c"
    assert kept.n_tiles("a") == {2.0: 2, 0.5: 2}
    assert tokens.n_regions == 3


def test_none_and_all_stand_for_the_set_itself(three: EmbeddingSet) -> None:
    assert only_mpps(three, ()) is three
    assert only_mpps(three, (0.5, 1.0, 2.0)) is three


def test_a_magnification_that_is_not_there_is_refused(three: EmbeddingSet) -> None:
    with pytest.raises(MismatchError, match=r"no tiles at 0.25 mpp; it has 2, 1, 0.5"):
        only_mpps(three, (0.25, 1.0))


def test_a_file_that_was_checked_is_checked_again_through_fewer_slides_only_once_it_has_changed(
    three: EmbeddingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = three.read("a").features[0.5]
    digested: list[Path] = []
    monkeypatch.setattr("parfocal.store.h5.check_seal", lambda path, *_: digested.append(path))

    assert np.array_equal(replace(three, slides=("a",)).read("a").features[0.5], before)
    assert not digested
    changed = features_path(three.path, "a", 0.5)
    os.utime(changed, ns=(1, 1))
    replace(three, slides=("a",)).read("a")
    assert digested == [changed]
