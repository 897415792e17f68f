"""What a run writes takes the place of what the run before wrote, and of nothing else."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from parfocal.errors import ConfigError
from parfocal.explain.folder import EMBEDDINGS, replacing


def write(out: Path, names: Iterable[str], text: str = "new") -> None:
    with replacing(out) as fresh:
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_text(text)


def files(out: Path) -> dict[str, str]:
    found = {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}
    found.pop("files.json", None)
    return found


def test_files_of_slides_that_are_not_in_a_run_are_gone_and_those_of_others_stay(tmp_path: Path) -> None:
    out = tmp_path / "why"
    write(out, ["slides.csv", "regions/a.csv", "regions/deep/b.csv"], "old")
    for name in ("notes.txt", "files-of-mine.json", "regions/mine.csv", f"{EMBEDDINGS}/set/index.h5"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")

    write(out, ["slides.csv", "regions/a.csv", "tiles/a.csv"])

    assert files(out) == {
        "slides.csv": "new",
        "regions/a.csv": "new",
        "tiles/a.csv": "new",
        "notes.txt": "mine",
        "files-of-mine.json": "mine",
        "regions/mine.csv": "mine",
        f"{EMBEDDINGS}/set/index.h5": "mine",
    }
    assert not (out / "regions" / "deep").exists()


def test_a_run_that_is_stopped_leaves_the_one_before_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "why"
    write(out, ["slides.csv", "regions/a.csv"], "old")

    def stopped() -> Iterable[str]:
        yield "slides.csv"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(out, stopped())
    assert files(out) == {"slides.csv": "old", "regions/a.csv": "old"}
    write(out, ["slides.csv"])
    assert files(out) == {"slides.csv": "new"}


def test_a_first_run_that_was_stopped_may_have_left_embeddings(tmp_path: Path) -> None:
    (tmp_path / "why" / EMBEDDINGS).mkdir(parents=True)

    write(tmp_path / "why", ["slides.csv"])

    assert files(tmp_path / "why") == {"slides.csv": "new"}


@pytest.mark.parametrize("name", ["thesis.docx", "explain.json"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")

    with pytest.raises(ConfigError, match=r"holds no files\.json, so nothing says .* Name another folder"):
        write(tmp_path, ["slides.csv"])
    assert files(tmp_path) == {name: "mine"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "why").write_text("mine")

    with pytest.raises(ConfigError, match="Name another folder"):
        write(tmp_path / "why", ["slides.csv"])
    assert (tmp_path / "why").read_text() == "mine"


def test_a_list_that_names_files_elsewhere_removes_nothing_there(tmp_path: Path) -> None:
    out, other = tmp_path / "why", tmp_path / "other"
    other.mkdir()
    (other / "a.csv").write_text("mine")
    write(out, ["slides.csv"])
    (out / "link").symlink_to(other)
    (out / "files.json").write_text(f'["../other/a.csv", "{other}/a.csv", "link/a.csv", "x/../../other/a.csv", ""]')

    write(out, ["slides.csv"])

    assert (other / "a.csv").read_text() == "mine"


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_a_damaged_list_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "why", ["slides.csv"])
    (tmp_path / "why" / "files.json").write_text(text)

    with pytest.raises(ConfigError, match=r"files\.json: it is damaged"):
        write(tmp_path / "why", ["slides.csv"])
