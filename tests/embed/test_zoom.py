"""Coarse first, and of the finest magnification what a policy puts first: what is read, stored, grown and refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.bags import glance_at
from parfocal.embed import EmbedSettings, Glance, Zoom, embed_slides, estimate_run
from parfocal.embed import reading as reading_module
from parfocal.embed import slide as slide_module
from parfocal.embed.glance import n_chosen
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.regions import RegionPlan
from parfocal.regions import tiles as tiles_module
from parfocal.regions.tiles import AbsentTile, RegionTiles
from parfocal.run.events import Event, Notice
from parfocal.slides import Slide
from parfocal.store import EmbeddingSet, Reading, open_set
from parfocal.store.write import write_tokens

FINEST = 0.5


def by_region(glance: Glance) -> np.ndarray:
    """Tiles of the region whose coarse row is largest first."""
    value = np.zeros(glance.coarse.n_regions)
    value[glance.coarse.region[2.0]] = glance.coarse.features[2.0].sum(axis=1)
    return np.lexsort((np.arange(len(glance.region)), -value[glance.region]))


def backwards(glance: Glance) -> np.ndarray:
    """The last tile first."""
    return np.arange(len(glance.region))[::-1]


def zoom(budget: float, policy: str = "by-region", **others: object) -> Zoom:
    """One of the two."""
    order = {"by-region": by_region, "backwards": backwards}[policy]
    return Zoom(policy, lambda: order, budget, **others)  # type: ignore[arg-type]


def embed(scans: Path, store: Path, settings: EmbedSettings, how: Zoom | None) -> EmbeddingSet:
    """The set that comes of a run on which no slide fails."""
    summary = embed_slides([scans], store, settings, zoom=how)
    assert not summary.failed, summary.failed
    return open_set(summary.set_path)


@pytest.mark.parametrize("policy", ["by-region", "backwards"])
def test_the_tiles_that_a_policy_puts_first_have_the_rows_of_the_whole_slide(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, policy: str
) -> None:
    whole = embed(scans, tmp_path / "whole", small_settings.model_copy(update={"coarse": "native"}), None)
    seen: dict[str, Glance] = {}

    def order(glance: Glance) -> np.ndarray:
        seen[glance.coarse.slide] = glance
        return {"by-region": by_region, "backwards": backwards}[policy](glance)

    part = embed(scans, tmp_path / "part", small_settings, Zoom(policy, lambda: order, 0.3))

    for slide in whole.slides:
        everything, read = whole.read(slide), part.read(slide)
        for mpp in (2.0, 1.0):
            assert np.array_equal(read.features[mpp], everything.features[mpp])
            assert np.array_equal(seen[slide].coarse.features[mpp], everything.features[mpp].astype(np.float32))
        first = np.sort(order(seen[slide])[: n_chosen(len(everything.region[FINEST]), 0.3)])
        assert 0 < len(first) < len(everything.region[FINEST])
        assert np.array_equal(read.features[FINEST], everything.features[FINEST][first])
        assert np.array_equal(read.region[FINEST], everything.region[FINEST][first])
        assert np.array_equal(read.center_um[FINEST], everything.center_um[FINEST][first])
        assert part.n_unread(slide) == {2.0: 0, 1.0: 0, FINEST: len(everything.region[FINEST]) - len(first)}
        stored = part.attributes(slide)
        assert (stored["zoom_policy"], stored["zoom_budget"]) == (policy, 0.3)
        assert "zoom_seed" not in stored  # they draw nothing


def test_what_is_tried_on_a_whole_slide_sees_what_embed_has_seen(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    seen: dict[str, Glance] = {}

    def order(glance: Glance) -> np.ndarray:
        seen[glance.coarse.slide] = glance
        return np.argsort(-glance.tissue, kind="stable")

    part = embed(scans, tmp_path / "store", small_settings, Zoom("fullest", lambda: order, 0.3))
    read = {slide: part.read(slide).tissue[FINEST] for slide in part.slides}
    whole = embed(scans, tmp_path / "store", small_settings, Zoom("fullest", lambda: order, 1.0))

    for slide in whole.slides:
        ours, theirs = glance_at(whole.read(slide), 0), seen[slide]
        assert np.array_equal(ours.tissue, theirs.tissue)
        assert 0 < ours.tissue.min() < ours.tissue.max() <= 1
        assert np.array_equal(ours.region, theirs.region)
        assert np.array_equal(ours.center_um, theirs.center_um)
        first = np.sort(order(theirs)[: len(read[slide])])
        assert np.array_equal(read[slide], theirs.tissue[first])  # those of the tiles that are there
        assert whole.has_tissue(slide)


def test_a_share_of_tissue_that_is_none_is_damage(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    found = embed(scans, tmp_path / "store", small_settings, zoom(0.3))
    tokens = found.read("a")
    write_tokens(found.path, replace(tokens, tissue={FINEST: tokens.tissue[FINEST] + 1}))

    with pytest.raises(StoreError, match=r"a\.h5.*share of tissue is not between 0 and 1"):
        open_set(found.path).read("a")


def test_what_is_not_chosen_is_never_read_from_the_slide(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    real = tiles_module._window

    def counted(slide: Slide, level: int, place: tuple[int, int, int, int]) -> object:
        levels.append(level)
        return real(slide, level, place)

    monkeypatch.setattr(tiles_module, "_window", counted)

    found = embed(scans, tmp_path / "store", small_settings, zoom(0.1))

    n_read = sum(len(np.unique(found.read(slide).region[FINEST])) for slide in found.slides)
    n_regions = sum(found.n_regions(slide) for slide in found.slides)
    assert levels.count(0) == n_read < 0.3 * n_regions


Same = Callable[[EmbeddingSet, EmbeddingSet], None]


def test_a_budget_of_one_gives_the_whole_store(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same
) -> None:
    native = small_settings.model_copy(update={"coarse": "native"})
    whole = embed(scans, tmp_path / "whole", native, None)
    everything = embed(scans, tmp_path / "everything", small_settings, zoom(1.0))

    assert everything.name == whole.name
    assert_same(everything, whole)
    assert all(one.kept for one in embed_slides([scans], tmp_path / "everything", native).done)


@pytest.mark.parametrize("policy", ["by-region", "backwards"])
def test_a_store_that_has_grown_is_the_one_that_is_made_at_once(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, assert_same: Same, policy: str
) -> None:
    embed(scans, tmp_path / "grown", small_settings, zoom(0.1, policy))
    encoded: list[int] = []
    real = slide_module.TileRows.read

    def counted(self: object, wanted: object = None) -> object:
        for mpp, rows in real(self, wanted):  # type: ignore[arg-type]
            encoded.append(len(rows))
            yield mpp, rows

    at_once = embed(scans, tmp_path / "once", small_settings, zoom(0.3, policy))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(slide_module.TileRows, "read", counted)
        grown = embed(scans, tmp_path / "grown", small_settings, zoom(0.3, policy))

    assert_same(grown, at_once)
    n_fine = [len(one.region[FINEST]) + grown.n_unread(one.slide)[FINEST] for one in map(grown.read, grown.slides)]
    assert sum(encoded) == sum(n_chosen(n, 0.3) - n_chosen(n, 0.1) for n in n_fine)
    assert all(
        one.kept for one in embed_slides([scans], tmp_path / "grown", small_settings, zoom=zoom(0.3, policy)).done
    )


@pytest.mark.parametrize("first", [None, 0.1])
def test_a_killed_run_is_gone_on_with(
    scans: Path,
    tmp_path: Path,
    small_settings: EmbedSettings,
    assert_same: Same,
    monkeypatch: pytest.MonkeyPatch,
    first: float | None,
) -> None:
    once = embed(scans, tmp_path / "once", small_settings, zoom(0.3))
    if first is not None:
        embed(scans, tmp_path / "store", small_settings, zoom(first))

    class Killed(BaseException):
        pass

    def die(*given: object, **others: object) -> None:
        raise Killed

    for place in ("set_fingerprint", "leave_out"):
        with monkeypatch.context() as patched:
            patched.setattr(slide_module.SlideWriter, place, die)
            with pytest.raises(Killed):
                embed(scans, tmp_path / "store", small_settings, zoom(0.3))
    with monkeypatch.context() as patched:
        # Between the features of a slide and its index.
        patched.setattr("parfocal.store.write.write_index", die)
        with pytest.raises(Killed):
            embed(scans, tmp_path / "store", small_settings, zoom(0.3))

    assert_same(embed(scans, tmp_path / "store", small_settings, zoom(0.3)), once)


def test_other_readings_of_a_slide_are_refused(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    store = tmp_path / "store"
    embed(scans, store, small_settings, zoom(0.3))

    def message(settings: EmbedSettings, how: Zoom | None) -> str:
        failed = embed_slides([scans], store, settings, zoom=how).failed
        assert len(failed) == 2
        assert failed[0].error == "MismatchError"
        return failed[0].message

    assert "as the policy by-region has read it, and backwards is asked now" in message(
        small_settings, zoom(0.3, "backwards")
    )
    assert "by-region with the head or model c0ffee00 is asked" in message(small_settings, zoom(0.3, bound="c0ffee00"))
    assert "budget of 0.3 by the policy by-region, and 0.2 is asked now" in message(small_settings, zoom(0.2))
    native = small_settings.model_copy(update={"coarse": "native"})
    assert "Read the rest with --zoom by-region --budget 1" in message(native, None)
    embed(scans, store, small_settings, zoom(1.0))
    assert all(one.kept for one in embed_slides([scans], store, small_settings, zoom=zoom(0.5, "backwards")).done)
    assert all(one.kept for one in embed_slides([scans], store, native).done)


def test_another_seed_is_refused_where_the_policy_draws(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    for draws in (True, False):
        first, second = (zoom(0.3, seed=seed, draws=draws) for seed in (1, 2))
        store = tmp_path / f"store-{draws}"
        embed(scans, store, small_settings, first)
        summary = embed_slides([scans], store, small_settings, zoom=second)
        assert len(summary.failed) == (2 if draws else 0)
        if draws:
            text = "by-region with the seed 1 has read it, and by-region with the seed 2 is asked now"
            assert text in summary.failed[0].message


def test_whole_slides_are_left_alone_and_no_set_holds_both(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    native = small_settings.model_copy(update={"coarse": "native"})
    embed_slides([scans / "a.tif"], tmp_path / "whole", native)
    summary = embed_slides([scans / "a.tif"], tmp_path / "whole", small_settings, zoom=zoom(0.1))
    assert [one.status for one in summary.done] == ["kept"]  # whole
    first, again = (
        embed_slides([scans / "a.tif"], tmp_path / "part", small_settings, zoom=zoom(0.1)) for _ in range(2)
    )
    assert [one.status for one in (*first.done, *again.done)] == ["done, 0.1 read", "kept, 0.1 read"]
    with pytest.raises(MismatchError, match="have been read whole, such as a, and b would be read in part"):
        embed_slides([scans], tmp_path / "whole", small_settings, zoom=zoom(0.1))
    with pytest.raises(MismatchError, match="has read in part, such as a, and b would be read whole"):
        embed_slides([scans], tmp_path / "part", native)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"grid": {"mpps": (0.5,)}}, "one alone is asked"),
        ({"grid": {"stride_um": 56.0}}, "leave --places and --stride-um out"),
        ({"coarse": "derived"}, "Leave --coarse out"),
    ],
)
def test_what_leaves_nothing_to_zoom_into_is_refused(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, changes: dict, text: str
) -> None:
    values = small_settings.model_dump(exclude_unset=True)
    values = {**values, **changes, "grid": {**values["grid"], **changes.get("grid", {})}}
    with pytest.raises(ConfigError, match=text):
        embed_slides([scans], tmp_path / "store", EmbedSettings(**values), zoom=zoom(0.1))
    with pytest.raises(ConfigError, match=r"--budget 1\.5 is no share"):
        zoom(1.5)


def test_a_policy_that_names_a_tile_twice_is_refused(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    twice = Zoom("twice", lambda: lambda glance: np.zeros(len(glance.region), np.int64), 0.1)
    failed = embed_slides([scans], tmp_path / "store", small_settings, zoom=twice).failed
    assert "the policy twice does not name each of the" in failed[0].message


def test_a_slide_without_coarser_levels_is_said_to_be_read_whole(
    tmp_path: Path, make_slide: Callable[..., Path], small_settings: EmbedSettings, assert_same: Same
) -> None:
    make_slide("flat.tif")
    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    summary = embed_slides([tmp_path / "slides"], tmp_path / "all", small_settings, zoom=zoom(1.0), on_event=listen)

    assert any("flat.tif has no level of its own for 2 and 1 mpp" in text for text in told), told
    native = embed(
        tmp_path / "slides", tmp_path / "native", small_settings.model_copy(update={"coarse": "native"}), None
    )
    assert_same(open_set(summary.set_path), native)


def test_a_set_keeps_one_policy_and_a_complete_one_takes_whole_slides(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    part, complete = tmp_path / "part", tmp_path / "complete"
    embed_slides([scans / "a.tif"], part, small_settings, zoom=zoom(0.1))
    for run in (embed_slides, estimate_run):
        with pytest.raises(MismatchError, match=r"policy by-region .* and backwards is asked now"):
            run([scans / "b.tif"], part, small_settings, zoom=zoom(0.5, "backwards"))
    native = small_settings.model_copy(update={"coarse": "native"})
    embed_slides([scans / "a.tif"], complete, small_settings, zoom=zoom(1.0))
    assert not embed_slides([scans / "b.tif"], complete, native).failed
    embed_slides([scans / "a.tif"], tmp_path / "damaged", small_settings, zoom=zoom(0.1))
    index = next((tmp_path / "damaged").rglob("index/a.h5"))
    index.write_bytes(index.read_bytes()[:-100])
    summary = embed_slides([scans], tmp_path / "damaged", small_settings, zoom=zoom(0.1))
    assert [one.slide for one in summary.failed] == ["a"]
    assert [one.slide for one in summary.done] == ["b"]


def test_a_slide_that_is_planned_otherwise_by_now_is_not_gone_on_with(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(scans, tmp_path / "store", small_settings, zoom(0.1))
    real = slide_module.plan_slide

    def moved(*given: object) -> RegionPlan:
        plan = real(*given)  # type: ignore[arg-type]
        kept = {mpp: slots.copy() for mpp, slots in plan.kept.items()}
        # As many tiles as before, one of them another: what a changed mask does.
        there, free = np.argwhere(kept[FINEST])[0], np.argwhere(~kept[FINEST])[0]
        kept[FINEST][tuple(there)], kept[FINEST][tuple(free)] = False, True
        return replace(plan, kept=kept)

    monkeypatch.setattr(slide_module, "plan_slide", moved)
    failed = embed_slides([scans], tmp_path / "store", small_settings, zoom=zoom(0.3)).failed
    assert len(failed) == 2
    assert "has other tiles than are planned now" in failed[0].message


def test_a_dry_run_counts_what_the_run_reads(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    estimate = estimate_run([scans], tmp_path / "store", small_settings, zoom=zoom(0.2))
    found = embed(scans, tmp_path / "store", small_settings, zoom(0.2))
    assert estimate.n_tiles == {mpp: sum(found.n_tiles(slide)[mpp] for slide in found.slides) for mpp in found.mpps}


@pytest.fixture
def lose_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every reading of fine tiles the first one is absent."""

    def broken(*given: Any, **others: Any) -> Iterator[RegionTiles]:
        lost = False
        for one in tiles_module.iter_tiles(*given, **others):
            if not lost and len(one.tiles[FINEST]):
                lost, left = True, {**one.tiles, FINEST: one.tiles[FINEST][1:]}
                yield RegionTiles(one.region, left, {FINEST: (AbsentTile(0, "it is broken"),)})
            else:
                yield one

    monkeypatch.setattr(reading_module, "iter_tiles", broken)


@pytest.mark.usefixtures("lose_one")
def test_absent_tiles_are_a_share_of_the_slide_and_not_of_what_is_read(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    found = embed(scans, tmp_path / "store", small_settings, zoom(0.01))

    for slide in found.slides:
        read, lost, left = found.n_tiles(slide)[FINEST], found.n_absent(slide)[FINEST], found.n_unread(slide)[FINEST]
        assert lost == 1 > small_settings.max_absent * (read + lost)
        assert read + lost == n_chosen(read + lost + left, 0.01)


@pytest.mark.usefixtures("lose_one")
def test_absent_tiles_of_all_readings_count_together(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    found = embed(scans, tmp_path / "store", small_settings, zoom(0.2))
    planned = sum(sum(counts("a").values()) for counts in (found.n_tiles, found.n_absent, found.n_unread))
    few = small_settings.model_copy(update={"max_absent": 1.5 / planned})

    grown = embed_slides([scans / "a.tif"], tmp_path / "store", few, zoom=zoom(0.5))

    assert [one.error for one in grown.failed] == ["UnreadableSlideError"]
    assert f"no pixels for 2 of its {planned} planned tiles" in grown.failed[0].message
    assert open_set(grown.set_path).reading("a") == Reading("by-region", 0.2)  # what is done is kept


def test_a_run_that_reads_less_and_ends_later_replaces_nothing(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    embed(scans, store, small_settings, zoom(0.1))
    real = slide_module.SlideWriter.set_fingerprint

    def meanwhile(*given: Any) -> None:
        monkeypatch.setattr(slide_module.SlideWriter, "set_fingerprint", real)
        embed(scans, store, small_settings, zoom(0.5))
        real(*given)

    monkeypatch.setattr(slide_module.SlideWriter, "set_fingerprint", meanwhile)
    failed = embed_slides([scans / "a.tif"], store, small_settings, zoom=zoom(0.3)).failed

    assert "has been read further by another run" in failed[0].message
    assert open_set(next(store.glob("*/settings.json")).parent).reading("a") == Reading("by-region", 0.5)
