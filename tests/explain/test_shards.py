"""Shards of an explanation share a folder, and joined they are what a run without shards writes."""

from pathlib import Path

import pytest

from parfocal.cli import main
from parfocal.errors import MismatchError, StoreError
from parfocal.explain import ExplainSettings, explain_slides, merge_explanations
from parfocal.explain.directions import Direction, EndRegion, joined_ends
from parfocal.run.shards import Shard

from .conftest import Panel

QUIET = ExplainSettings(ends=3, maps=1, pictures=False)


def files(out: Path) -> dict[str, bytes]:
    """What a run wrote, without what shards keep for themselves."""
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if ".shard-" not in name and name != "files.json"}


def test_shards_joined_are_the_run_without_shards_byte_by_byte(few: Panel, tmp_path: Path) -> None:
    head, slides = few.head("pairing", "contrast").path, [*few.tiles.slides[:8], few.tiles.slides[14]]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    explain_slides(few.tiles, head, shared, QUIET, slides=few.tiles.slides[:11])  # a run before, of other slides
    count = 3
    for number in (2, 0, 1):
        part = QUIET.model_copy(update={"shard": f"{number}/{count}"})
        found = explain_slides(few.tiles, head, shared, part, slides=slides)
        assert [one.slide for one in found.explained] == [one for one in slides if Shard(number, count).holds(one)]
        assert found.report is None

    merge_explanations(few.tiles, head, shared)
    explain_slides(few.tiles, head, whole, QUIET, slides=slides)

    assert files(shared) == files(whole)
    merge_explanations(few.tiles, head, shared)  # and once more
    assert files(shared) == files(whole)
    explain_slides(few.tiles, head, shared, QUIET, slides=slides[:2])
    assert not list(shared.glob("*.shard-*"))


def test_a_shard_takes_the_place_of_itself_alone_and_a_missing_one_is_named(
    few: Panel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, out = few.head("pairing", "contrast").path, tmp_path / "why"
    own = {number: [one for one in few.tiles.slides if Shard(number, 20).holds(one)] for number in (3, 7)}
    call = ["explain", str(few.tiles.path), "--head", str(head), "-o", str(out), "--no-pictures"]
    for number in (3, 7, 3):
        assert main([*call, "--shard", f"{number}/20"]) == 0
    assert f"{len(own[3])} slides of shard 3/20" in capsys.readouterr().out

    assert {path.stem for path in (out / "regions").iterdir()} == {*own[3], *own[7]}
    assert main([*call, "--merge"]) == 2  # pictures are what the shards were told
    assert "Name only STORE, --head" in capsys.readouterr().err
    with pytest.raises(StoreError, match=r"shards 0/20, 1/20.* are missing or not finished"):
        merge_explanations(few.tiles, head, out)


def test_shards_of_other_settings_are_refused(few: Panel, tmp_path: Path) -> None:
    head = few.head("pairing", "contrast").path
    for number, ends in ((0, 3), (1, 4)):
        how = QUIET.model_copy(update={"shard": f"{number}/2", "ends": ends})
        explain_slides(few.tiles, head, tmp_path / "why", how, slides=few.tiles.slides[:3])

    with pytest.raises(MismatchError, match="another settings"):
        merge_explanations(few.tiles, head, tmp_path / "why")


def test_ends_of_shards_are_the_furthest_of_all_and_equal_ones_come_in_the_order_of_slides() -> None:
    direction = Direction("1", ("2", "0.5"), 1, "2", 1)

    def end(which: str, place: int, slide: str, projection: float) -> EndRegion:
        return EndRegion(direction, which, place, slide, 0.0, 0.0, 448.0, projection)

    first = [end("top", 1, "b", 3.0), end("top", 2, "d", 1.0), end("bottom", 1, "d", -2.0)]
    second = [end("top", 1, "a", 3.0), end("top", 2, "c", 2.0), end("bottom", 1, "a", -1.0)]

    found = joined_ends([first, second], {"a": 0, "b": 1, "c": 2, "d": 3}, 3)

    assert [(one.end, one.place, one.slide) for one in found] == [
        ("top", 1, "a"), ("top", 2, "b"), ("top", 3, "c"), ("bottom", 1, "d"), ("bottom", 2, "a"),
    ]  # fmt: skip
