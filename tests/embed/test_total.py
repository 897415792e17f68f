"""A budget of all slides together: which tiles it reads, and how that grows, is gone on with and refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from parfocal.embed import EmbedSettings, EmbedSummary, Glance, Stop, Zoom, embed_slides, estimate_run
from parfocal.embed import slide as slide_module
from parfocal.embed.glance import n_chosen
from parfocal.embed.total import n_of_each
from parfocal.errors import ConfigError, MismatchError
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.run.events import Event, Notice
from parfocal.store import EmbeddingSet, Reading, open_set
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import index_path

from .conftest import slide_bytes
from .worth import BASE, by_number, prepare_by_number

FINEST = 0.5


@st.composite
def slides_of(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """The worth of the tiles of some slides, in few steps so that many are equal; of some nothing is known."""
    steps = st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 1.0, 2.0]), max_size=12)
    found = draw(st.dictionaries(st.text("abc/.", min_size=1, max_size=3), steps, max_size=6))
    return {slide: np.array(sorted(worth, reverse=True), dtype=np.float64) for slide, worth in found.items()}


def nothing(worth: dict[str, np.ndarray]) -> dict[str, int]:
    return dict.fromkeys(worth, 0)


def one_by_one(worth: dict[str, np.ndarray], budget: float) -> dict[str, int]:
    """The same as a sorted list of all tiles."""
    tiles = sorted((-own[tile], slide, tile) for slide, own in worth.items() for tile in range(len(own)))
    taken = [slide for _, slide, _ in tiles[: n_chosen(len(tiles), budget)]]
    return {slide: taken.count(slide) for slide in worth}


@given(slides_of(), st.floats(0, 1))
def test_the_tiles_that_are_worth_most_are_read_and_no_more_than_the_budget_pays_for(
    worth: dict[str, np.ndarray], budget: float
) -> None:
    assert n_of_each(worth, nothing(worth), budget) == one_by_one(worth, budget)


@given(slides_of(), st.floats(0, 1), st.floats(0, 1))
def test_a_budget_that_grows_reads_what_a_large_one_reads_at_once(
    worth: dict[str, np.ndarray], one: float, other: float
) -> None:
    small, large = sorted((one, other))
    before = n_of_each(worth, nothing(worth), small)

    assert n_of_each(worth, before, large) == n_of_each(worth, nothing(worth), large)


@given(slides_of(), st.floats(0, 1), st.integers(0, 100))
def test_what_was_read_stays_whatever_slides_come_later(worth: dict[str, np.ndarray], budget: float, seed: int) -> None:
    first = {slide: own for number, (slide, own) in enumerate(worth.items()) if (seed >> number) % 2}
    before = nothing(worth) | n_of_each(first, nothing(first), budget)
    n_tiles = sum(map(len, worth.values()))

    if sum(before.values()) > n_chosen(n_tiles, budget):
        with pytest.raises(MismatchError, match="Ask for at least as much"):
            n_of_each(worth, before, budget)
    else:
        after = n_of_each(worth, before, budget)
        assert sum(after.values()) == n_chosen(n_tiles, budget)
        assert all(before[slide] <= n <= len(worth[slide]) for slide, n in after.items())


def total(budget: float, order: Callable[[Glance], Any] = by_number, **others: Any) -> Zoom:
    return Zoom("by-number", lambda: order, budget, shares={}, **others)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides with levels of their own, of unlike sizes."""
    folder = tmp_path_factory.mktemp("total") / "slides"
    for name, seed, wider in (("a", 1, 0), ("b", 2, 0), ("c", 3, 224)):
        pixels = tifffile.imread(BytesIO(slide_bytes(seed)))[:796, :700]
        write_pyramid(
            folder / f"{name}.tif", np.pad(pixels, ((0, 0), (0, wider), (0, 0)), mode="edge"), mpp=0.4985, n_levels=3
        )
    return folder


@pytest.fixture
def scans(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "slides"))


def run(scans: Path, store: Path, settings: EmbedSettings, how: Zoom | None) -> EmbedSummary:
    summary = embed_slides([scans], store, settings, zoom=how)
    assert not summary.failed, summary.failed
    return summary


def embed(scans: Path, store: Path, settings: EmbedSettings, how: Zoom | None) -> EmbeddingSet:
    return open_set(run(scans, store, settings, how).set_path)


def n_read(found: EmbeddingSet) -> dict[str, int]:
    return {slide: found.n_tiles(slide)[FINEST] for slide in found.slides}


def n_planned(found: EmbeddingSet) -> dict[str, int]:
    return {slide: found.n_tiles(slide)[FINEST] + found.n_unread(slide)[FINEST] for slide in found.slides}


@pytest.fixture
def assert_same(content: Callable[[Path], dict[str, object]]) -> Callable[[EmbeddingSet, EmbeddingSet], None]:
    """Dataset by dataset; how they came about may differ."""

    def compare(one: EmbeddingSet, other: EmbeddingSet) -> None:
        ours, theirs = (
            {key: value for key, value in content(found.path).items() if "@" not in key} for found in (one, other)
        )
        assert ours == theirs

    return compare


@pytest.fixture(scope="module")
def half(drawn: Path, tmp_path_factory: pytest.TempPathFactory, small_settings: EmbedSettings) -> EmbeddingSet:
    """Half of all tiles, read at once."""
    return embed(drawn, tmp_path_factory.mktemp("half"), small_settings, total(0.5))


@pytest.fixture(scope="module")
def whole(drawn: Path, tmp_path_factory: pytest.TempPathFactory, small_settings: EmbedSettings) -> EmbeddingSet:
    """All tiles, each magnification read from the slide."""
    return embed(drawn, tmp_path_factory.mktemp("whole"), small_settings.model_copy(update={"coarse": "native"}), None)


Same = Callable[[EmbeddingSet, EmbeddingSet], None]


@pytest.mark.parametrize("workers", [0, 1])
def test_tiles_are_read_where_they_are_worth_most_over_all_slides(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, whole: EmbeddingSet, workers: int
) -> None:
    if workers:
        small_settings = small_settings.model_copy(update={"workers": workers})
    zoom = Zoom("by-number", prepare_by_number, 0.5, shares={})

    summary = run(scans, tmp_path / "part", small_settings, zoom)

    part, planned = open_set(summary.set_path), n_read(whole)
    tiles = sorted((-(n - tile) / n - BASE[slide], slide, tile) for slide, n in planned.items() for tile in range(n))
    taken = [slide for _, slide, _ in tiles[: n_chosen(len(tiles), 0.5)]]
    expected = {slide: taken.count(slide) for slide in planned}
    assert 0 < expected["a"] < expected["c"] < planned["c"]
    assert expected["b"] == planned["b"]  # read whole
    assert n_read(part) == expected
    assert n_planned(part) == planned
    for slide, n in expected.items():
        ours, theirs = part.read(slide), whole.read(slide)
        assert np.array_equal(ours.features[FINEST], theirs.features[FINEST][:n])
        assert np.array_equal(ours.features[2.0], theirs.features[2.0])
        stored = part.attributes(slide)
        assert (stored["zoom_total"], stored["zoom_budget"]) == (0.5, n / planned[slide])
        assert part.reading(slide) == (None if slide == "b" else Reading("by-number", n / planned[slide]))
    assert [one.kept for one in summary.done] == [False] * 3
    assert [one.n_tiles[FINEST] for one in summary.done] == [expected[one.slide] for one in summary.done]


def test_a_slide_may_get_nothing_and_is_done_all_the_same(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    summary = run(scans, tmp_path / "store", small_settings, total(0.01))

    found = open_set(summary.set_path)
    assert n_read(found) == {"a": 0, "b": n_chosen(sum(n_planned(found).values()), 0.01), "c": 0}
    assert found.reading("a") == Reading("by-number", 0.0)
    assert [one.status.split(",")[0] for one in summary.done] == ["done"] * 3
    again = run(scans, tmp_path / "store", small_settings, total(0.01))
    assert [one.status.split(",")[0] for one in again.done] == ["kept"] * 3


def test_a_total_that_grows_reads_only_what_is_missing(
    scans: Path,
    tmp_path: Path,
    small_settings: EmbedSettings,
    half: EmbeddingSet,
    assert_same: Same,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = embed(scans, tmp_path / "grown", small_settings, total(0.2))
    before = sum(n_read(small).values())
    encoded: list[int] = []
    real = slide_module.TileRows.read

    def counted(self: object, wanted: object = None) -> object:
        for mpp, rows in real(self, wanted):  # type: ignore[arg-type]
            encoded.append(len(rows))
            yield mpp, rows

    monkeypatch.setattr(slide_module.TileRows, "read", counted)
    grown = embed(scans, tmp_path / "grown", small_settings, total(0.5))
    monkeypatch.undo()

    assert sum(encoded) == sum(n_read(grown).values()) - before > 0
    assert_same(grown, half)


def test_a_total_of_one_gives_the_whole_store_but_for_what_tiles_are_worth(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings, whole: EmbeddingSet
) -> None:
    native = small_settings.model_copy(update={"coarse": "native"})
    embed(scans, tmp_path / "grown", small_settings, total(0.4))  # of which b is read whole
    for folder in ("grown", "once"):
        found = embed(scans, tmp_path / folder, small_settings, total(1.0))
        for slide in whole.slides:
            ours, theirs = found.read(slide), whole.read(slide)
            assert np.array_equal(ours.features[FINEST], theirs.features[FINEST])
            assert np.array_equal(ours.region[FINEST], theirs.region[FINEST])
            assert found.attributes(slide)["zoom_total"] == 1.0
        assert all(one.kept for one in run(scans, tmp_path / folder, native, None).done)


@pytest.mark.parametrize("die_at", [2, 5])
def test_a_killed_run_is_gone_on_with(
    scans: Path,
    tmp_path: Path,
    small_settings: EmbedSettings,
    half: EmbeddingSet,
    assert_same: Same,
    monkeypatch: pytest.MonkeyPatch,
    die_at: int,
) -> None:
    """In the coarse pass between two slides, and when the second of two slides is read further."""

    class Killed(BaseException):
        pass

    calls = 0
    real = slide_module.SlideWriter.set_fingerprint

    def die(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == die_at:
            raise Killed
        real(*given)

    monkeypatch.setattr(slide_module.SlideWriter, "set_fingerprint", die)
    with pytest.raises(Killed):
        embed(scans, tmp_path / "store", small_settings, total(0.5))
    monkeypatch.undo()

    again = embed(scans, tmp_path / "store", small_settings, total(0.5))
    assert_same(again, half)


def test_a_slide_that_fails_is_left_out_and_counted(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    (scans / "b.tif").write_bytes(b"no slide")
    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    summary = embed_slides([scans], tmp_path / "store", small_settings, zoom=total(0.3), on_event=listen)

    found = open_set(summary.set_path)
    assert [one.slide for one in summary.failed] == ["b"]
    assert "1 of 3 slides failed; the budget is a share of the fine tiles of the others." in told
    assert sum(n_read(found).values()) == n_chosen(sum(n_planned(found).values()), 0.3)


def test_a_slide_without_tissue_takes_nothing(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    write_pyramid(scans / "d.tif", np.full((448, 560, 3), 245, np.uint8), mpp=0.4985, n_levels=3)

    summary = run(scans, tmp_path / "store", small_settings, total(0.3))

    assert [one.slide for one in summary.no_tissue] == ["d"]
    found = open_set(summary.set_path)
    assert sum(n_read(found).values()) == n_chosen(sum(n_planned(found).values()), 0.3)
    assert all(one.kept for one in run(scans, tmp_path / "store", small_settings, total(0.3)).done)


def test_slides_that_come_later_take_nothing_from_those_that_are_there(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    for name in ("a", "c"):
        embed_slides([scans / f"{name}.tif"], tmp_path / "store", small_settings, zoom=total(0.3))
    before = n_read(open_set(next((tmp_path / "store").glob("*/settings.json")).parent))

    found = embed(scans, tmp_path / "store", small_settings, total(0.6))

    after = n_read(found)
    assert all(after[slide] >= n for slide, n in before.items())
    assert after["b"] == n_planned(found)["b"]
    assert sum(after.values()) == n_chosen(sum(n_planned(found).values()), 0.6)


def test_other_readings_are_refused(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    store = tmp_path / "store"
    embed(scans, store, small_settings, total(0.4))

    with pytest.raises(MismatchError, match=r"a budget of 0\.2 of all slides together pays for"):
        embed_slides([scans], store, small_settings, zoom=total(0.2))
    each = Zoom("by-number", lambda: by_number, 0.5)
    failed = embed_slides([scans], store, small_settings, zoom=each).failed
    assert [one.slide for one in failed] == ["a", "b", "c"]
    assert "as the policy by-number over all slides together has read it, and by-number is" in failed[0].message
    native = small_settings.model_copy(update={"coarse": "native"})
    failed = embed_slides([scans], store, native).failed
    assert [one.slide for one in failed] == ["a", "c"]
    assert "Read the rest with --zoom by-number --budget-total 1" in failed[0].message
    embed(scans, tmp_path / "each", small_settings, each)
    failed = embed_slides([scans], tmp_path / "each", small_settings, zoom=total(0.6)).failed
    assert len(failed) == 3
    assert "by-number has read it, and by-number over all slides together is asked" in failed[0].message


def test_a_policy_without_worth_fails_before_a_fine_tile_is_read(
    scans: Path, tmp_path: Path, small_settings: EmbedSettings
) -> None:
    alone = total(0.3, lambda glance: np.arange(glance.n_tiles))
    failed = embed_slides([scans], tmp_path / "store", small_settings, zoom=alone).failed
    assert len(failed) == 3
    assert "does not say what the tiles of a are worth" in failed[0].message


def test_a_total_until_slides_are_settled_is_refused() -> None:
    with pytest.raises(ConfigError, match="Use one of the two"):
        total(0.3, stop=Stop("rule", (0.0,), lambda: lambda glance: lambda *given: True))


def test_a_dry_run_counts_a_total_as_spread_evenly(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    estimate = estimate_run([scans], tmp_path / "store", small_settings, zoom=total(0.4))
    found = embed(scans, tmp_path / "store", small_settings, total(0.4))
    assert estimate.n_tiles[FINEST] == sum(n_chosen(n, 0.4) for n in n_planned(found).values())


def test_the_index_keeps_what_tiles_are_worth(scans: Path, tmp_path: Path, small_settings: EmbedSettings) -> None:
    found = embed(scans, tmp_path / "store", small_settings, total(0.4))
    for slide, n in n_planned(found).items():
        with opened_h5(index_path(found.path, slide)) as index:
            worth = index["0.5"]["worth"][...]
        np.testing.assert_allclose(worth, (n - np.arange(n)) / n + BASE[slide], rtol=1e-6)
    each = embed(scans, tmp_path / "each", small_settings, replace(total(0.4), shares=None))
    with opened_h5(index_path(each.path, "a")) as index:
        assert "worth" not in index["0.5"]
