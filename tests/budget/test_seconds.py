"""What embedding takes: on a clock that counts tiles, so that every way is known by hand."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from parfocal.budget import seconds as timing
from parfocal.budget.seconds import ROUNDS, embed_again, measure_seconds
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, EmbedSummary, embed_slides
from parfocal.embed.settings import SlideOpening
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.run.events import Event, Progress
from parfocal.store import EmbeddingSet, open_set
from parfocal.zoom import POLICIES


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two slides of one region and of two: 5 coarse tiles and 16 fine ones in each region."""
    root = tmp_path_factory.mktemp("scans")
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(-9, 9, (992, 896 * number + 160, 1))
        rgb = (np.array([180, 110, 165]) + noise).astype(np.uint8)
        rgb[896:], rgb[:, 896 * number :] = 240, 240
        write_pyramid(root / f"case-{number}.tif", rgb, mpp=0.5, n_levels=3)
    return sorted(root.iterdir())


@pytest.fixture(scope="module")
def source(slides: list[Path], tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    store = tmp_path_factory.mktemp("store")
    embed_slides(slides, store, EmbedSettings(encoder="filterbank", grid=GridConfig(min_tissue=0.5), qc=False))
    return open_set(store)


def test_every_way_reads_what_it_says_and_its_seconds_are_per_slide(
    source: EmbeddingSet, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = [0.0], list[Event]()

    def counting(*given: object, **named: object) -> EmbedSummary:
        summary = embed_slides(*given, **named)  # type: ignore[arg-type]
        clock[0] += sum(sum(one.n_tiles.values()) for one in summary.done)
        return summary

    monkeypatch.setattr(timing, "embed_slides", counting)
    monkeypatch.setattr(timing.time, "monotonic", lambda: clock[0])
    how = embed_again(source, slides, "", "cpu")
    monkeypatch.setattr(timing, "ROUNDS", 2)

    found = measure_seconds(slides, how, POLICIES.get("stride"), (0.0, 0.25), 0, told.append)

    assert how.grid.min_tissue == 0.5
    assert found.slides == ("case-1", "case-2")
    assert (found.policy, found.rounds) == ("stride", 2)
    # Three regions on two slides.
    assert (found.whole, found.finest) == (3 * 21 / 2, 3 * 16 / 2)
    assert found.at == {0.0: 3 * 5 / 2, 0.25: 3 * (5 + 4) / 2}
    steps = [one for one in told if isinstance(one, Progress)]
    assert [(one.done, one.total) for one in steps] == [(number + 1, 8) for number in range(8)]


def test_seconds_are_of_the_encoder_of_the_set_and_of_slides_that_are_there(
    source: EmbeddingSet, slides: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(MismatchError, match=r"embedded with .* is .*Name its encoder"):
        embed_again(source, slides, "efficientnet-lite0", "cpu")
    with pytest.raises(ConfigError, match=r"absent\.tif"):
        embed_again(source, [tmp_path / "absent.tif"], "", "cpu")
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\x00 and no slide")
    with pytest.raises(StoreError, match="no seconds could be measured: broken failed"):
        measure_seconds([broken], embed_again(source, [broken], "", "cpu"), POLICIES.get("stride"), (0.5,), 0, print)


def test_of_several_rounds_the_middle_one_counts() -> None:
    assert ROUNDS % 2 == 1


def test_timed_slides_are_opened_as_is_asked(source: EmbeddingSet, slides: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare.tif"
    with tifffile.TiffFile(slides[0]) as file:
        tifffile.imwrite(bare, file.asarray(), photometric="rgb", tile=(256, 256))
    stride = POLICIES.get("stride")

    with pytest.raises(StoreError, match=r"bare failed: .*--slide-mpp"):
        measure_seconds([bare], embed_again(source, [bare], "", "cpu"), stride, (), 0, print)
    how = embed_again(source, [bare], "", "cpu", SlideOpening(slide_mpp=0.5))
    assert measure_seconds([bare], how, stride, (), 0, lambda event: None).slides == ("bare",)
