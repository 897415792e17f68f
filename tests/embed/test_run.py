"""Many slides: one that fails does not stop the rest, and whatever ends a run, the next one completes the store."""

import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from parfocal.embed import (
    EmbedSettings,
    EmbedSummary,
    embed_slides,
    estimate_run,
    estimate_table,
    summary_table,
)
from parfocal.errors import ConfigError
from parfocal.run import FailedSlide, read_failures
from parfocal.run.events import Notice, Progress
from parfocal.run.progress import Bars
from parfocal.store import open_set


def test_a_broken_slide_is_one_row_and_the_rest_goes_on(
    tmp_path: Path, real_data: Path, make_slide, small_settings: EmbedSettings, content
) -> None:
    good = make_slide("good.tif")
    odd = sorted(path for path in (real_data / "odd-slides").iterdir() if path.suffix != ".md")
    store, events = tmp_path / "store", []

    alone = embed_slides([good], tmp_path / "alone", small_settings)
    summary = embed_slides([good, *odd], store, small_settings, on_event=events.append)

    assert {one.slide for one in summary.failed} >= {"broken", "unreadable", "unopenable", "boxes", "small_HE_levels"}
    assert "good" in {one.slide for one in summary.done}
    assert summary.exit_status == 3
    for failed in summary.failed:
        assert "\n" not in failed.message
        assert failed.error in {"UnreadableSlideError", "CalibrationError", "ResolutionError", "SlideError"}, failed
    rows = read_failures(store)
    assert {row.slide for row in rows} == {one.slide for one in summary.failed}
    assert all(row.path and row.message and row.time for row in rows)
    mine = {name: value for name, value in content(summary.set_path).items() if "/good.h5" in name}
    assert mine == content(alone.set_path)
    slides = [event for event in events if isinstance(event, Progress) and event.stage == "slides"]
    assert slides[0] == Progress("slides", 0, len(summary.outcomes))
    assert sorted((event.result for event in slides[1:]), key=lambda one: one.slide) == sorted(
        summary.outcomes, key=lambda one: one.slide
    )
    log = summary.log.read_text()
    assert "done good" in log
    assert "failed broken: UnreadableSlideError" in log


def test_a_slide_that_is_mended_leaves_the_table_of_failures(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    make_slide("good.tif")
    unknown = make_slide("unknown.tif", mpp=None)
    store = tmp_path / "store"

    first = embed_slides([tmp_path / "slides"], store, small_settings)
    assert first.exit_status == 3
    assert [row.slide for row in read_failures(store)] == ["unknown"]
    with (store / "failures.csv").open() as text:
        assert next(csv.reader(text)) == ["slide", "path", "error", "message", "time", "set"]
    assert "--slide-mpp" in read_failures(store)[0].message

    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"slide,path,mpp\ngood,slides/good.tif,\nunknown,{unknown},0.5\n")
    second = embed_slides([manifest], store, small_settings)

    assert second.exit_status == 0
    assert [one.kept for one in second.done] == [True, False]
    assert not (store / "failures.csv").exists()
    assert open_set(store).slides == ("good", "unknown")
    assert open_set(store).read("unknown").slide_mpp == 0.5


def test_slides_without_tissue_are_counted_and_named_now_and_later(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    unknown, glass, good = make_slide("u.tif", mpp=None), make_slide("glass.tif", tissue=False), make_slide("good.tif")

    assert embed_slides([unknown], tmp_path / "a", small_settings).exit_status == 1
    for _ in range(2):  # kept slides without tissue are told too
        assert embed_slides([glass], tmp_path / "b", small_settings).exit_status == 1
        summary = embed_slides([glass, good], tmp_path / "b", small_settings)
        assert summary.exit_status == 3
        assert [one.slide for one in summary.no_tissue] == ["glass"]
    assert summary.describe()["no_tissue"] == ["glass"]
    assert summary.describe()["counts"] == {"kept": 1, "no tissue found": 1}
    assert summary.describe()["slides"][0]["status"] == "kept, no tissue found"
    assert embed_slides([good, unknown, glass], tmp_path / "b", small_settings).exit_status == 3
    assert embed_slides([unknown, glass], tmp_path / "b", small_settings).exit_status == 1
    assert embed_slides([good], tmp_path / "b", small_settings).exit_status == 0


def test_two_slides_of_one_name_are_refused(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    slides = [make_slide("a/one.tif"), make_slide("b/one.tif", seed=1)]

    with pytest.raises(ConfigError, match="'one'"):
        embed_slides(slides, tmp_path / "store", small_settings)
    summary = embed_slides([tmp_path / "slides"], tmp_path / "store", small_settings)
    assert open_set(summary.set_path).slides == ("a/one", "b/one")


def test_a_dry_run_counts_what_the_run_does(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    make_slide("a.tif")
    make_slide("b.tif", mpp=None)
    store = tmp_path / "store"

    estimate = estimate_run([tmp_path / "slides"], store, small_settings)

    assert not store.exists()
    assert estimate.slides[1].problem is not None
    assert "--slide-mpp" in estimate.slides[1].problem
    assert estimate.seconds is not None
    assert estimate.seconds > 0
    summary = embed_slides([tmp_path / "slides"], store, small_settings)
    assert summary.set_path == estimate.set_path
    assert estimate.n_tiles == summary.done[0].n_tiles
    written = sum(file.stat().st_size for file in summary.set_path.rglob("*.h5"))
    assert written == pytest.approx(estimate.n_bytes, rel=0.25)
    after = estimate_run([tmp_path / "slides"], store, small_settings)
    assert after.slides[0].done
    assert after.n_bytes == 0


def test_a_dry_run_tells_what_the_run_would_say_of_a_finished_slide(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    one, two = make_slide("a.tif"), make_slide("b.tif", seed=1)
    store = tmp_path / "store"
    set_path = embed_slides([one, two], store, small_settings).set_path
    (set_path / "0.5" / "b.h5").unlink()

    estimate = estimate_run([one, two], store, small_settings)

    assert [slide.done for slide in estimate.slides] == [True, False]
    assert "index/b.h5 and embed" in (estimate.slides[1].problem or "")
    assert estimate.exit_status == 3
    assert estimate_run([one], store, small_settings).exit_status == 0
    assert estimate_run([two], store, small_settings).exit_status == 1
    assert embed_slides([one, two], store, small_settings).exit_status == 3


@pytest.mark.parametrize("mpp", [0.0, float("nan"), 352.8])
def test_a_resolution_for_all_slides_that_none_has_is_refused_at_once(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, mpp: float
) -> None:
    settings = small_settings.model_copy(update={"slide_mpp": mpp})
    for call in (embed_slides, estimate_run):
        with pytest.raises(ConfigError, match=r"--slide-mpp .* cannot be"):
            call([make_slide()], tmp_path / "store", settings)
    assert not (tmp_path / "store").exists()


def test_progress_and_tables_say_what_happened(tmp_path: Path) -> None:
    console = Console(file=(tmp_path / "text").open("w"), width=80)
    failed = FailedSlide("b", Path("b.svs"), "CalibrationError", "no mpp")
    with Bars(console) as progress:
        for event in (
            Progress("slides", 0, 1),
            Progress("tiles", 1, 10),
            Notice("look", is_warning=True),
            Progress("slides", 1, 1, "1 failed", f"b failed: {failed.error}: {failed.message}"),
        ):
            progress(event)
    console.print(summary_table(EmbedSummary(tmp_path, (failed,), 1.0, tmp_path / "log")))
    console.file.close()

    text = (tmp_path / "text").read_text()
    assert "[1/1, 1 failed] b failed: CalibrationError: no mpp" in text
    assert "warning: look" in text
    assert text.count("no mpp") == 1
    assert "failed: CalibrationError" in " ".join(text.split())


def test_the_dry_run_has_a_table(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    estimate = estimate_run([make_slide("a.tif")], tmp_path / "store", small_settings)
    with (tmp_path / "text").open("w") as file:
        Console(file=file, width=150).print(estimate_table(estimate))

    text = (tmp_path / "text").read_text()
    assert f"{estimate.slides[0].n_tiles[0.5]}" in text
    assert "about" in text


def test_rows_do_not_depend_on_the_batch(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    path = make_slide()
    first = embed_slides([path], tmp_path / "a", small_settings)
    second = embed_slides([path], tmp_path / "b", small_settings.model_copy(update={"batch": 33}))

    a, b = open_set(first.set_path).read("one"), open_set(second.set_path).read("one")
    assert all(np.array_equal(a.features[mpp], b.features[mpp]) for mpp in a.mpps)


def test_a_warning_that_every_slide_gives_is_said_once_and_counted(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    for number in range(3):
        make_slide(f"slide-{number}.tif", seed=number, mpp=0.5015)
    events: list[object] = []

    summary = embed_slides([tmp_path / "slides"], tmp_path / "store", small_settings, on_event=events.append)

    texts = [event.text for event in events if isinstance(event, Notice)]
    assert len(texts) == 2
    assert "slide-0.tif: 0.5 mpp is 0.3% finer" in texts[0]
    assert "2 more warnings" in texts[1]
    assert "slide-2.tif: 0.5 mpp is 0.3% finer" in summary.log.read_text()
