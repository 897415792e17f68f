"""A store never changes the id of a slide that it has."""

import os
import shutil
from pathlib import Path

import pytest

from parfocal.embed import EmbedSettings, embed_slides, estimate_run
from parfocal.store import open_set


def test_another_way_to_name_slides_is_refused_for_those_that_are_there(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    for number in (1, 2):
        make_slide(f"case{number}/s{number}.tif", seed=number)
    store, scans = tmp_path / "store", tmp_path / "slides"
    assert open_set(embed_slides([scans], store, small_settings).set_path).slides == ("case1/s1", "case2/s2")
    make_slide("case3/s3.tif", seed=3)

    by_name = small_settings.model_copy(update={"ids": "name"})
    estimate = estimate_run([scans], store, by_name)
    summary = embed_slides([scans], store, by_name)

    assert [one.slide for one in summary.done] == ["s3"]
    assert [one.slide for one in summary.failed] == ["s1", "s2"]
    assert summary.exit_status == estimate.exit_status == 3
    message = summary.failed[0].message
    assert message == estimate.slides[0].problem
    assert f"{scans / 'case1' / 's1.tif'} is in the store as case1/s1" in message
    assert "--ids" in message
    assert open_set(summary.set_path).slides == ("case1/s1", "case2/s2", "s3")
    # A folder further up names them otherwise too; the ids that are there are kept as they are.
    assert {one.slide for one in embed_slides([scans / "case1"], store, small_settings).failed} == {"s1"}
    assert embed_slides([scans / "case1" / "s1.tif"], tmp_path / "other", small_settings).exit_status == 0


@pytest.mark.parametrize("keeps_times", [True, False])
def test_a_slide_that_was_moved_keeps_its_id(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, keeps_times: bool
) -> None:
    first = make_slide("a/s.tif")
    store = tmp_path / "store"
    embed_slides([tmp_path / "slides"], store, small_settings)
    moved = tmp_path / "archive" / "s.tif"
    moved.parent.mkdir()
    shutil.move(first, moved)
    if not keeps_times:
        os.utime(moved, (1, 1))

    (failed,) = embed_slides([moved], store, small_settings).failed
    assert "is in the store as a/s" in failed.message
    # Under the id that it has, it is the slide that is there.
    table = tmp_path / "slides.csv"
    table.write_text("slide,path\na/s,archive/s.tif\n")
    assert [one.kept for one in embed_slides([table], store, small_settings).done] == [True]


def test_a_copy_beside_its_original_and_another_file_of_its_name_are_slides_of_their_own(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    first = make_slide("a/s.tif")
    store = tmp_path / "store"
    embed_slides([first], store, small_settings)
    shutil.copy2(first, first.with_name("copy.tif"))
    make_slide("b/other/s.tif", seed=5)

    summary = embed_slides([first.with_name("copy.tif"), tmp_path / "slides" / "b"], store, small_settings)
    assert summary.exit_status == 0
    assert open_set(summary.set_path).slides == ("copy", "other/s", "s")


def test_a_slide_whose_name_is_no_utf8_is_embedded_and_kept(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    path = make_slide("plain.tif")
    odd = path.rename(path.with_name(os.fsdecode(b"odd\xff.tif")))

    first = embed_slides([odd], tmp_path / "store", small_settings)
    again = embed_slides([odd], tmp_path / "store", small_settings)
    assert [(one.slide, one.kept) for one in (*first.done, *again.done)] == [("odd%FF", False), ("odd%FF", True)]
