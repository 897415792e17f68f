from pathlib import Path

import pytest

from parfocal.errors import ConfigError
from parfocal.slides import SlideSource, find_slides, read_manifest


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ids(sources: list[SlideSource]) -> list[str]:
    return [source.slide for source in sources]


def test_a_folder_gives_its_slides_and_nothing_else(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.SVS",
        "a/x.tif",
        "a/x.txt",
        ".hidden.svs",
        "._b.svs",
        ".cache/y.svs",
        "a/notes.csv",
        "m/Data0001.dat",
    )

    assert ids(find_slides([tmp_path])) == ["a/x", "b"]


def test_pictures_count_only_where_they_cannot_be_thumbnails(tmp_path: Path) -> None:
    touch(tmp_path, "slides/s.svs", "slides/s-label.jpg", "fields/f1.jpg", "fields/f2.png")

    assert ids(find_slides([tmp_path])) == ["fields/f1", "fields/f2", "slides/s"]


def test_a_file_that_is_named_is_always_taken(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden.svs", "plain", "s.txt")

    found = find_slides([tmp_path / ".hidden.svs", tmp_path / "plain", tmp_path / "s.txt"])

    assert ids(found) == [".hidden", "plain", "s"]


def test_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "s.svs")

    assert ids(find_slides([tmp_path, tmp_path / "s.svs", tmp_path])) == ["s"]


def test_two_files_under_one_id_are_refused_with_both_names(tmp_path: Path) -> None:
    touch(tmp_path, "a/s.svs", "b/s.svs", "c/s.svs", "c/s.tif")

    with pytest.raises(ConfigError, match=r"id 's': .*a/s\.svs and .*b/s\.svs"):
        find_slides([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match=r"c/s\.svs and .*c/s\.tif"):
        find_slides([tmp_path / "c"])
    assert ids(find_slides([tmp_path / "a"])) == ["s"]


def test_nothing_found_and_nothing_there_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "readme.txt")

    with pytest.raises(ConfigError, match="holds no slide"):
        find_slides([tmp_path])
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_slides([tmp_path / "absent"])


def test_a_dicom_series_is_one_slide(real_data: Path) -> None:
    folder = real_data / "odd-slides"

    assert ids(find_slides([folder / "boxes_0.dcm", folder / "boxes_1.dcm"])) == ["boxes_0"]
    found = ids(find_slides([folder]))
    assert "boxes_0" in found
    assert "small_dicom" in found
    assert "boxes_1" not in found


def test_a_manifest_gives_ids_paths_and_resolutions(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("\ufeffpath,slide,mpp,scanner\nsub/a.svs,p1/a,0.25,X\n/data/b.svs,b,,Y\n", encoding="utf-8")

    expected = [SlideSource("p1/a", tmp_path / "sub/a.svs", 0.25), SlideSource("b", Path("/data/b.svs"), None)]
    assert read_manifest(table) == expected
    assert find_slides([table]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,file\na,b\n", "lacks the column path: it has slide, file"),
        ("", "lacks the column slide and path: it has nothing"),
        ("slide,path\n", "lists no slide"),
        ("slide,path,mpp\na,a.svs,0.5\nb,b.svs,forty\n", "line 3: mpp of b is 'forty'"),
        ("slide,path\na,\n", "line 2: slide and path must not be empty"),
        ("slide,path\na,x.svs\na,y.svs\n", "has the slide 'a' on several lines"),
        ("slide,path\na,x.svs\nb,x.svs\n", "x.svs' on several lines"),
        ("slide,path\n../a,x.svs\n", "cannot name a file"),
    ],
)
def test_a_wrong_manifest_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(text)

    with pytest.raises(ConfigError) as caught:
        read_manifest(table)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
