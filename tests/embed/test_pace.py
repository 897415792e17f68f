"""A run that falls behind what is expected of it says so once, with what it waited for. Times are given, not taken."""

from pathlib import Path

import pytest

from parfocal.embed import EmbedSettings, embed_slides, estimate_run
from parfocal.embed import run as run_module
from parfocal.embed.pace import PaceWatch, TilesDone
from parfocal.run.events import Notice


def said(watch: PaceWatch, parts: list[tuple[float, TilesDone]], *, step: float = 0.25) -> list[tuple[float, str]]:
    """What is said during a run of parts: seconds, and what is done in each of these seconds."""
    now, spent, lines = 1000.0, [0.0] * 4, []
    for seconds, each in parts:
        for _ in range(round(seconds / step)):
            now += step
            spent = [a + step * b for a, b in zip(spent, each.spent, strict=True)]
            done = TilesDone(round(spent[0]), 10**6, *spent[1:])
            # Tiles of several slides count together.
            line = watch.look(now, {"a": done, "b": TilesDone(0, 0), "c": TilesDone(7, 7)})
            if line is not None:
                lines.append((now - 1000.0, line))
    return lines


FAST = TilesDone(400, 0, 0.9, 0.05, 0.05)
SLOW_TO_READ = TilesDone(120, 0, 0.3, 0.65, 0.05)
THROTTLED = TilesDone(200, 0, 0.95, 0.03, 0.02)
BETWEEN = TilesDone(200, 0, 0.2, 0.1, 0.7)


@pytest.mark.parametrize(
    ("slow", "share", "rate", "stage"),
    [
        (SLOW_TO_READ, "65%", "120 tiles/s", "waiting for tiles to be read"),
        (THROTTLED, "95%", "200 tiles/s", "encoding"),
        (BETWEEN, "70%", "200 tiles/s", "opening slides"),
    ],
)
def test_a_run_that_is_slower_than_was_said_tells_once_what_it_waits_for(
    slow: TilesDone, share: str, rate: str, stage: str
) -> None:
    ((when, line),) = said(PaceWatch(400.0), [(1000, slow)])

    assert 120 <= when < 125
    assert rate in line
    assert "the 400 tiles/s that are expected" in line
    assert f"{share} of the time of its slides went into {stage}" in line


def test_without_a_word_of_the_user_a_run_is_compared_with_its_own_beginning() -> None:
    ((when, line),) = said(PaceWatch(), [(600, FAST), (1000, SLOW_TO_READ)])

    # 400 tiles/s fall to 280 in two minutes when 51 of them have had 120.
    assert 651 <= when < 660
    assert "of the 400 tiles/s of the first minute" in line
    assert said(PaceWatch(), [(2000, SLOW_TO_READ)]) == []


def test_a_run_that_is_a_little_slower_and_one_that_hesitates_say_nothing() -> None:
    a_little = TilesDone(290, 0, 0.7, 0.2, 0.1)
    still = TilesDone(0, 0, 0.0, 1.0, 0.0)

    assert said(PaceWatch(400.0), [(1000, a_little)]) == []
    assert said(PaceWatch(), [(300, FAST), (30, still), (300, FAST)]) == []
    assert said(PaceWatch(400.0), [(110, SLOW_TO_READ)]) == []


def test_the_last_slides_of_several_workers_are_no_measure() -> None:
    watch = PaceWatch(400.0)
    watch.end()

    assert said(watch, [(1000, SLOW_TO_READ)]) == []


def test_the_warning_is_an_event_of_the_run_and_stands_in_its_log(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        """Every look is half a minute after the one before."""

        def __init__(self) -> None:
            self.now = 0.0

        def monotonic(self) -> float:
            self.now += 30
            return self.now

    monkeypatch.setattr(run_module, "time", Clock())
    slides, events = [make_slide(f"{name}.tif", seed=number) for number, name in enumerate("ab")], []

    summary = embed_slides(
        slides, tmp_path / "store", small_settings.model_copy(update={"expect": 1e6}), on_event=events.append
    )

    lines = [event.text for event in events if isinstance(event, Notice) and event.is_warning]
    assert [line.startswith("the run is slow: ") for line in lines] == [True]
    assert f"warning: {lines[0]}" in summary.log.read_text()


def test_a_dry_run_tells_the_rate_that_may_be_expected(tmp_path: Path, make_slide, small_settings) -> None:
    estimate = estimate_run([make_slide()], tmp_path / "store", small_settings)

    assert estimate.seconds is not None
    assert estimate.rate == pytest.approx(sum(estimate.n_tiles.values()) / estimate.seconds)
    assert estimate.describe()["tiles_per_second"] == estimate.rate
