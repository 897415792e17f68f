"""Stores whose policy orders tiles anew after every round: grown, killed, stopped early, and level by level."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import glance_at
from parfocal.embed import EmbedSettings, Glance, Stop, Zoom, embed_slides
from parfocal.embed import slide as slide_module
from parfocal.embed.glance import Ranked, ReadSoFar, n_chosen
from parfocal.store import EmbeddingSet, open_set
from parfocal.zoom import Policy, replayed

FINEST = 0.5
Same = Callable[[EmbeddingSet, EmbeddingSet], None]


def by_looks(glance: Glance) -> Ranked:
    """The tile next that the last bit of all that was read points at."""

    def ranked(left: np.ndarray, seed: int) -> Ranked:
        def goes_on(so_far: ReadSoFar) -> Ranked:
            assert not np.isnan(so_far.rows).any()
            return ranked(so_far.left, int.from_bytes(so_far.rows[-3:].tobytes()[-12:], "big"))

        return Ranked(np.random.default_rng(seed).permutation(left), goes_on=goes_on)

    return ranked(np.arange(glance.n_tiles), 0)


def zoom(budget: float, **others: object) -> Zoom:
    return Zoom("by-looks", lambda: by_looks, budget, **others)  # type: ignore[arg-type]


def embed(scans: Path, store: Path, settings: EmbedSettings, how: Zoom | None) -> EmbeddingSet:
    """The set that comes of a run on which no slide fails."""
    summary = embed_slides([scans], store, settings, zoom=how)
    assert not summary.failed, summary.failed
    return open_set(summary.set_path)


def test_a_store_is_what_a_replay_of_the_whole_slide_says_and_grows_to_what_is_made_at_once(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = embed(scans, tmp_path / "store", small_settings, zoom(0.1))
    n_small = {slide: small.n_tiles(slide)[FINEST] for slide in small.slides}
    encoded: list[int] = []
    real = slide_module.TileRows.read

    def counted(self: object, wanted: object = None) -> object:
        for mpp, rows in real(self, wanted):  # type: ignore[arg-type]
            encoded.append(len(rows))
            yield mpp, rows

    once = embed(scans, tmp_path / "once", small_settings, zoom(0.3))
    with monkeypatch.context() as patched:
        patched.setattr(slide_module.TileRows, "read", counted)
        grown = embed(scans, tmp_path / "store", small_settings, zoom(0.3))
    assert_same(grown, once)
    assert sum(encoded) == sum(once.n_tiles(slide)[FINEST] - n for slide, n in n_small.items())

    whole = embed(scans, tmp_path / "whole", small_settings.model_copy(update={"coarse": "native"}), None)
    for slide in whole.slides:
        tokens = whole.read(slide)
        # A set that was read whole does not keep how much of a tile is tissue, and this policy does not ask.
        order = replayed(Policy("by-looks", by_looks), tokens, glance_at(tokens, 0), budget=0.3)
        read = np.sort(order[: n_chosen(len(order), 0.3)])
        assert 1 < len(read) < len(order)
        assert np.array_equal(once.read(slide).features[FINEST], tokens.features[FINEST][read])


def test_a_killed_run_is_gone_on_with(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = embed(scans, tmp_path / "once", small_settings, zoom(0.2))
    embed(scans, tmp_path / "store", small_settings, zoom(0.1))

    class Killed(BaseException):
        pass

    def die(*given: object, **others: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("parfocal.store.write.write_index", die)
        with pytest.raises(Killed):
            embed(scans, tmp_path / "store", small_settings, zoom(0.2))
    assert_same(embed(scans, tmp_path / "store", small_settings, zoom(0.2)), once)


def test_stopping_early_cuts_the_same_order(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same
) -> None:
    def question(glance: Glance) -> Callable[..., bool]:
        return lambda rows, there, unread, rung: rung == 1

    rule = Stop("rule", (0.07, 0.15), lambda: question)
    stopped = embed(scans, tmp_path / "stopped", small_settings, zoom(0.3, stop=rule))
    fixed = embed(scans, tmp_path / "fixed", small_settings, zoom(0.15))
    for slide in fixed.slides:
        ours, theirs = stopped.read(slide), fixed.read(slide)
        assert np.array_equal(ours.features[FINEST], theirs.features[FINEST])
    never = Stop("rule", (0.07, 0.15), lambda: lambda glance: lambda *given: False)
    asked = embed(scans, tmp_path / "asked", small_settings, zoom(0.3, stop=never))
    once = embed(scans, tmp_path / "once", small_settings, zoom(0.3))
    for slide in once.slides:
        assert np.array_equal(asked.read(slide).features[FINEST], once.read(slide).features[FINEST])


def test_a_coarser_magnification_is_read_in_rounds_too(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same
) -> None:
    embed(scans, tmp_path / "grown", small_settings, zoom(0.1, coarser=(0.3,)))
    grown = embed(scans, tmp_path / "grown", small_settings, zoom(0.2, coarser=(0.3,)))
    assert_same(grown, embed(scans, tmp_path / "once", small_settings, zoom(0.2, coarser=(0.3,))))
    for slide in grown.slides:
        tokens = grown.read(slide)
        assert {*tokens.region[FINEST].tolist()} <= {*tokens.region[1.0].tolist()} < {*tokens.region[2.0].tolist()}


def test_rows_that_are_no_longer_those_of_the_order_are_not_gone_on_with(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    embed(scans, tmp_path / "store", small_settings, zoom(0.1))
    other = replace(zoom(0.2), prepare=lambda: lambda glance: by_looks(glance).changed(lambda order: order[::-1]))
    failed = embed_slides([scans], tmp_path / "store", small_settings, zoom=other).failed
    assert len(failed) == 2
    assert "does not put those tiles first that have been read" in failed[0].message
