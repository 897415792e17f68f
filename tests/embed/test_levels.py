"""Several magnifications chosen one after the other: what is read of each, grown, refused and said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parfocal.embed import EmbedSettings, Glance, Stop, Zoom, embed_slides, estimate_run
from parfocal.embed import slide as slide_module
from parfocal.embed.glance import n_chosen
from parfocal.errors import ConfigError, MismatchError
from parfocal.predict import zoom_by
from parfocal.regions import draw_qc
from parfocal.store import EmbeddingSet, Reading, SlideTokens, open_set

MIDDLE, FINEST = 1.0, 0.5
Same = Callable[[EmbeddingSet, EmbeddingSet], None]


def by_look(glance: Glance) -> np.ndarray:
    """Tiles of the region whose rows at the magnification before are largest come first; unknown regions are last."""
    before = min(glance.coarse.mpps)
    worth = np.full(glance.coarse.n_regions, -np.inf)
    for region in np.unique(glance.coarse.region[before]):
        worth[region] = glance.coarse.features[before][glance.coarse.region[before] == region].mean()
    return np.lexsort((np.arange(glance.n_tiles), -worth[glance.region]))


def backwards(glance: Glance) -> np.ndarray:
    """The last tile first, whatever was read."""
    return np.arange(glance.n_tiles)[::-1]


ORDERS = {"by-look": by_look, "backwards": backwards}


def zoom(*shares: float, policy: str = "by-look") -> Zoom:
    """Shares of the last magnifications, coarse to fine."""
    *coarser, finest = shares
    order = ORDERS[policy]
    return Zoom(policy, lambda: order, finest, coarser=tuple(coarser))


def embed(scans: Path, store: Path, settings: EmbedSettings, how: Zoom | None) -> EmbeddingSet:
    """The set that comes of a run on which no slide fails."""
    summary = embed_slides([scans], store, settings, zoom=how)
    assert not summary.failed, summary.failed
    return open_set(summary.set_path)


def glance_by_hand(tokens: SlideTokens, mpp: float, middle: np.ndarray | None) -> Glance:
    """What is known before a magnification is read, of a slide that was read whole; what is unknown is NaN there."""
    features, region, center = {}, {}, {}
    for one in tokens.mpps:
        if one > mpp:
            kept = np.ones(len(tokens.region[one]), dtype=bool) if one != MIDDLE else middle
            features[one] = tokens.features[one][kept]
            region[one], center[one] = tokens.region[one][kept], tokens.center_um[one][kept]
    coarse = SlideTokens(
        tokens.slide, tokens.region_um, tokens.slide_mpp, tokens.region_xy_um, features, region, center
    )
    own = tokens.region[mpp]
    return Glance(coarse, own, tokens.center_um[mpp], mpp, np.ones(len(own)), 0)


@pytest.mark.parametrize("policy", ["by-look", "backwards"])
def test_one_magnification_is_chosen_after_the_other(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, policy: str
) -> None:
    whole = embed(scans, tmp_path / "whole", small_settings.model_copy(update={"coarse": "native"}), None)
    part = embed(scans, tmp_path / "part", small_settings, zoom(0.3, 0.1, policy=policy))

    for slide in whole.slides:
        everything, read = whole.read(slide), part.read(slide)
        n_middle, n_fine = (len(everything.region[mpp]) for mpp in (MIDDLE, FINEST))
        middle, fine = (np.zeros(n, dtype=bool) for n in (n_middle, n_fine))
        middle[ORDERS[policy](glance_by_hand(everything, MIDDLE, None))[: n_chosen(n_middle, 0.3)]] = True
        order = ORDERS[policy](glance_by_hand(everything, FINEST, middle))
        opened = set(everything.region[MIDDLE][middle].tolist())
        is_open = [tile for tile in order if everything.region[FINEST][tile] in opened]
        shut = [tile for tile in order if everything.region[FINEST][tile] not in opened]
        fine[[*is_open, *shut][: n_chosen(n_fine, 0.1)]] = True

        assert np.array_equal(read.features[2.0], everything.features[2.0])
        for mpp, kept in ((MIDDLE, middle), (FINEST, fine)):
            assert np.array_equal(read.features[mpp], everything.features[mpp][kept])
            assert np.array_equal(read.center_um[mpp], everything.center_um[mpp][kept])
        assert part.n_unread(slide) == {2.0: 0, MIDDLE: int((~middle).sum()), FINEST: int((~fine).sum())}
        # A region has the first alone, the first two, or all: never the last without the one before.
        assert {*read.region[FINEST].tolist()} <= {*read.region[MIDDLE].tolist()} < {*read.region[2.0].tolist()}
        share = part.share_read(slide, MIDDLE)
        n_read, planned = (np.bincount(one.region[MIDDLE], minlength=len(share)) for one in (read, everything))
        assert np.array_equal(share, np.where(planned > 0, n_read / np.maximum(planned, 1), 1.0))
        assert part.reading(slide) == Reading(policy, 0.1, (0.3,))


def test_a_share_that_opened_regions_do_not_hold_is_read_all_the_same(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    found = embed(scans, tmp_path / "store", small_settings, zoom(0.1, 0.5))
    for slide in found.slides:
        tokens, unread = found.read(slide), found.n_unread(slide)
        n_fine = len(tokens.region[FINEST])
        assert n_fine == n_chosen(n_fine + unread[FINEST], 0.5)
        assert not {*tokens.region[FINEST].tolist()} <= {*tokens.region[MIDDLE].tolist()}


def test_the_last_share_may_grow_and_gives_the_store_that_is_made_at_once(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same
) -> None:
    once = embed(scans, tmp_path / "once", small_settings, zoom(0.3, 0.4))
    embed(scans, tmp_path / "grown", small_settings, zoom(0.3, 0.1))
    encoded: dict[float, int] = {}
    real = slide_module.TileRows.read

    def counted(self: object, wanted: object = None) -> object:
        for mpp, rows in real(self, wanted):  # type: ignore[arg-type]
            encoded[mpp] = encoded.get(mpp, 0) + len(rows)
            yield mpp, rows

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(slide_module.TileRows, "read", counted)
        grown = embed(scans, tmp_path / "grown", small_settings, zoom(0.3, 0.4))

    assert_same(grown, once)
    assert set(encoded) == {FINEST}
    every = embed(scans, tmp_path / "grown", small_settings, zoom(0.3, 1.0))
    assert all(every.reading(slide) == Reading("by-look", 1.0, (0.3,)) for slide in every.slides)
    assert all(one.status == "kept, 0.3 1 read" for one in _kept(scans, tmp_path / "grown", small_settings))


def _kept(scans: Path, store: Path, settings: EmbedSettings) -> list:
    return list(embed_slides([scans], store, settings, zoom=zoom(0.3, 1.0)).done)


def test_a_killed_run_is_gone_on_with(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = embed(scans, tmp_path / "once", small_settings, zoom(0.3, 0.2))

    class Killed(BaseException):
        pass

    def die(*given: object, **others: object) -> None:
        raise Killed

    for place in (f"{slide_module.__name__}.SlideWriter.leave_out", "parfocal.store.write.write_index"):
        with monkeypatch.context() as patched:
            patched.setattr(place, die)
            with pytest.raises(Killed):
                embed(scans, tmp_path / "store", small_settings, zoom(0.3, 0.2))

    assert_same(embed(scans, tmp_path / "store", small_settings, zoom(0.3, 0.2)), once)


def test_another_share_of_a_coarser_magnification_is_another_reading(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    store = tmp_path / "store"
    summary = embed_slides([scans / "a.tif"], store, small_settings, zoom=zoom(0.3, 0.2))

    def message(how: Zoom | None) -> str:
        settings = small_settings if how else small_settings.model_copy(update={"coarse": "native"})
        (failed,) = embed_slides([scans / "a.tif"], store, settings, zoom=how).failed
        assert failed.error == "MismatchError"
        return failed.message

    was = "the policy by-look with the share 0.3 of a coarser magnification has read it"
    assert f"{was}, and by-look with the share 0.5 of a coarser magnification is asked" in message(zoom(0.5, 0.2))
    assert f"{was}, and by-look is asked" in message(zoom(0.2))
    assert f"{was}, and by-look is asked" in message(zoom(1.0))
    assert "budget of 0.2 by the policy by-look, and 0.1 is asked" in message(zoom(0.3, 0.1))
    assert "budget of 0.3 0.2 by the policy by-look. Nothing reads the rest of a coarser" in message(None)
    with pytest.raises(MismatchError, match=r"the share 0\.3 of a coarser magnification"):
        embed_slides([scans], store, small_settings, zoom=zoom(0.5, 0.2))
    with pytest.raises(MismatchError, match="has read in part, such as a, and b would be read whole"):
        embed_slides([scans], store, small_settings.model_copy(update={"coarse": "native"}))
    assert open_set(summary.set_path).reading("a") == Reading("by-look", 0.2, (0.3,))  # nothing was touched


def test_a_share_of_one_is_the_reading_of_before(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    assert zoom_by("stride", (1.0, 0.1)).coarser == zoom_by("stride", 0.1).coarser == ()
    assert zoom_by("stride", (1.0, 0.3, 0.1)).coarser == (0.3,)
    embed(scans, tmp_path / "store", small_settings, zoom_by("stride", (1.0, 0.1)))
    again = embed_slides([scans], tmp_path / "store", small_settings, zoom=zoom_by("stride", 0.1))
    assert all(one.kept for one in again.done)
    assert not again.failed


def test_what_cannot_be_chosen_level_by_level_is_refused(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    for run in (embed_slides, estimate_run):
        with pytest.raises(ConfigError, match=r"names 3 shares, and of 2 1 0\.5 mpp the first is always read whole"):
            run([scans], tmp_path / "store", small_settings, zoom=zoom(0.5, 0.3, 0.1))
    with pytest.raises(ConfigError, match="a budget of all slides together is of the finest magnification alone"):
        Zoom("by-look", lambda: by_look, 0.1, shares={}, coarser=(0.3,))
    with pytest.raises(ConfigError, match="until a slide is settled is of the finest magnification alone"):
        Zoom("by-look", lambda: by_look, 0.1, stop=Stop("rule", (), lambda: None), coarser=(0.3,))  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"--budget 1\.2 is no share"):
        zoom(1.2, 0.1)
    with pytest.raises(ConfigError, match="Leave that one out of --mpps"):
        zoom(0.0, 0.1)
    with pytest.raises(ConfigError, match="names no share"):
        zoom_by("stride", ())


def test_a_dry_run_counts_what_the_run_reads(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    how = zoom(0.3, 0.2)
    estimate = estimate_run([scans], tmp_path / "store", small_settings, zoom=how)
    found = embed(scans, tmp_path / "store", small_settings, how)
    assert estimate.n_tiles == {mpp: sum(found.n_tiles(slide)[mpp] for slide in found.slides) for mpp in found.mpps}


def test_the_picture_shades_what_was_read_of_each_magnification(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, dict[float, int]] = {}

    def watched(slide: object, plan: object, **others: object) -> np.ndarray:
        drawn[str(others["slide_id"])] = {mpp: int(own.sum()) for mpp, own in others["read"].items()}  # type: ignore[attr-defined]
        return draw_qc(slide, plan, **others)  # type: ignore[arg-type]

    monkeypatch.setattr("parfocal.regions.qc.draw_qc", watched)
    found = embed(scans, tmp_path / "store", small_settings, zoom(0.3, 0.2))

    assert drawn == {slide: {mpp: found.n_tiles(slide)[mpp] for mpp in (MIDDLE, FINEST)} for slide in found.slides}
