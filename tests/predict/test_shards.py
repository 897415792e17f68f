"""Tables of shards are joined into the table of one run, or the missing and the odd ones are named."""

from pathlib import Path
from typing import Any

import pytest

from parfocal import cli, read_status
from parfocal.cohort import LabelColumns
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import MismatchError, StoreError
from parfocal.files import write_csv
from parfocal.predict import PredictSettings, fit_head, merge_predictions, predict_slides
from parfocal.predict.shards import mark_done, table_of
from parfocal.run.shards import Shard

from .scans import GRID, LEAN, Scanned

SLIDES = ["b/1", "a", "=c", "d", "e"]
ABOUT = {"head": "h", "tiles": "t", "opening": {}, "zoom": None, "places": None, "version": "1"}


def write_shard(out: Path, part: Shard, slides: list[str] = SLIDES, **about: Any) -> None:
    table = table_of(out, part)
    rows = [[slide, f"0.{len(slide)}", "failed" if slide == "d" else ""] for slide in slides if part.holds(slide)]
    write_csv(table, ("slide", "probability_1", "problem"), rows)
    mark_done(table, part, slides, {**ABOUT, **about})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three shards beside a table that is not there yet."""
    for number in range(3):
        write_shard(tmp_path / "out.csv", Shard(number, 3))
    return tmp_path / "out.csv"


def test_joined_rows_are_in_the_order_of_one_run(out: Path) -> None:
    merged = merge_predictions(out, head="h")

    assert (merged.shards, merged.slides, merged.problems) == (3, 5, 1)
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["slide", "b/1", "a", "'=c", "d", "e"]


def test_missing_and_unfinished_shards_are_named(out: Path) -> None:
    table_of(out, Shard(0, 3)).with_suffix(".json").unlink()  # killed before the mark
    with table_of(out, Shard(2, 3)).open("a") as table:  # run anew, and not done yet
        table.write("x,1,\n")

    with pytest.raises(StoreError, match=r"shards 0/3, 2/3 are missing or not finished"):
        merge_predictions(out)
    assert not out.exists()


def test_shards_of_nothing_and_of_two_runs_are_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no other\.shard-0-of-4\.csv or the like"):
        merge_predictions(tmp_path / "other.csv")
    write_shard(out, Shard(1, 2))
    with pytest.raises(StoreError, match="shards of 2 and of 3"):
        merge_predictions(out)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"head": "other"}, "shards 1/3 are of another head than 0/3"),
        ({"zoom": ["stride", 0.1]}, "another share of tiles that is read"),
        ({"opening": {"slide_mpp": 0.5}}, "another way to open slides"),
        ({"version": "2"}, "another version of parfocal"),
        ({"slides": [*SLIDES, "f"]}, r"another list of slides than 0/3 \(5 and 6 slides\)"),
    ],
)
def test_shards_of_different_settings_are_refused(out: Path, odd: dict[str, Any], said: str) -> None:
    write_shard(out, Shard(1, 3), **odd)

    with pytest.raises(MismatchError, match=said):
        merge_predictions(out)


def test_shards_of_another_head_than_the_asked_one_are_refused(out: Path) -> None:
    with pytest.raises(MismatchError, match="its shards are of the head h, and --head is g"):
        merge_predictions(out, head="g")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"shard": "1/3", "table": "x", "order": 3}'])
def test_a_damaged_mark_is_named_and_what_to_do(out: Path, content: str) -> None:
    table_of(out, Shard(1, 3)).with_suffix(".json").write_text(content)

    with pytest.raises(StoreError, match=r"out\.shard-1-of-3\.json is damaged. Run shard 1/3 again"):
        merge_predictions(out)


def test_shards_of_slide_files_are_joined_to_the_table_of_one_run(
    scanned: Scanned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = tmp_path / "head"
    fit_head([scanned.store], scanned.labels, "red", "late", head, LEAN, columns=LabelColumns(group="patient"))
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in sorted(scanned.new_slides.glob("n[0-3].tif")):
        (scans / path.name).symlink_to(path)
    (scans / "odd.svs").write_bytes(b"no slide")
    embed_slides([scans], tmp_path / "store", EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32"))
    single, out = tmp_path / "single.csv", tmp_path / "out.csv"
    predict_slides([scans], head, single, PredictSettings(encoder=scanned.encoder), store=tmp_path / "store")

    for number in range(2):
        how = PredictSettings(encoder=scanned.encoder, shard=f"{number}/2")
        predict_slides([scans], head, out, how, store=tmp_path / "store")
        assert cli.main(["predict", "--head", str(head), "-o", str(out), "--merge"]) == (3 if number else 1)

    assert "shard 1/2 is missing or not finished" in capsys.readouterr().err
    assert out.read_bytes() == single.read_bytes()
    (status,) = read_status(out, [scans]).sets
    assert (len(status.done), status.n_failed, status.missing) == (4, 1, ())
    assert cli.main(["predict", str(scans), "--head", str(head), "-o", str(out), "--merge"]) == 2
    assert "Name only --head and --output" in capsys.readouterr().err
