import os
from pathlib import Path

import pytest

from parfocal.errors import ConfigError, ParfocalWarning, UnreadableSlideError
from parfocal.slides import find_slides, open_slide

from .folder import ids, touch


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "disk/deep/x.svs", "disk/y.svs", "blob", "scans/a.svs")
    (tmp_path / "scans" / "more").symlink_to("../disk")
    (tmp_path / "scans" / "b.svs").symlink_to(tmp_path / "blob")

    assert ids(find_slides([tmp_path / "scans"])) == ["a", "b", "more/deep/x", "more/y"]


def test_links_that_lead_in_circles_are_noticed(tmp_path: Path) -> None:
    touch(tmp_path, "scans/a.svs", "scans/sub/b.svs", "beside/c.svs")
    (tmp_path / "scans" / "up").symlink_to("..")
    (tmp_path / "scans" / "sub" / "self").symlink_to(".")
    (tmp_path / "scans" / "aside").symlink_to("../beside")
    (tmp_path / "beside" / "back").symlink_to("../scans")

    with pytest.warns(ParfocalWarning, match="3 links to what is searched already"):
        assert ids(find_slides([tmp_path / "scans"])) == ["a", "aside/c", "sub/b"]


def test_a_link_never_takes_the_id_of_what_is_there_itself(tmp_path: Path) -> None:
    touch(tmp_path, "z/s.svs")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "first.svs").symlink_to("z/s.svs")

    with pytest.warns(ParfocalWarning, match="2 links to what is searched already"):
        assert ids(find_slides([tmp_path])) == ["z/s"]


def test_what_cannot_be_opened_fails_alone_and_says_why(tmp_path: Path) -> None:
    touch(tmp_path, "good.svs")
    (tmp_path / "gone.svs").symlink_to("nowhere/x.svs")
    (tmp_path / "ring.tif").symlink_to("ring.tif")
    os.mkfifo(tmp_path / "pipe.svs")
    touch(tmp_path, "void.ndpi")

    found = find_slides([tmp_path])
    assert ids(found) == ["gone", "good", "pipe", "ring", "void"]
    for slide, reason in {
        "gone": "it is a dangling link to nowhere/x.svs",
        "pipe": "it is a pipe, a socket or a device",
        "void": "it is empty",
        "ring": "it is a link to ring.tif that leads to no file",
    }.items():
        path = next(source.path for source in found if source.slide == slide)
        with pytest.raises(UnreadableSlideError, match=reason) as caught:
            open_slide(path)
        assert str(path) in str(caught.value)
        # Named by itself, as a shell's pattern does, it is the same one failure.
        assert ids(find_slides([tmp_path / "good.svs", path])) == ["good", slide]


def test_a_folder_without_permission_is_a_line_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "fields/a.png", "fields/locked/b.png")
    scandir = os.scandir

    def refuse(path: Path) -> "os.ScandirIterator[str]":
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[return-value]

    monkeypatch.setattr(os, "scandir", refuse)

    found = find_slides([tmp_path / "fields"])
    assert ids(found) == ["a", "locked"]
    with pytest.raises(UnreadableSlideError, match=r"locked: it is a folder that cannot be searched \(Permission"):
        open_slide(found[1].path)
    assert ids(find_slides([tmp_path / "fields" / "locked"])) == ["locked"]


def test_files_of_other_kinds_are_counted_and_companions_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "s.svs", "a.zip", "sub/b.ZIP", "notes.txt", "README", "labels.csv")
    touch(tmp_path, "m.mrxs", "m/Slidedat.ini", "m/Data0001.dat", "Thumbs.db", ".cache/x.bin", "old.zarr/0/0.0")
    touch(tmp_path, "vms/h.vms", "vms/h(0,0).jpg", "vms/h.opt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.txt").symlink_to("nowhere")

    with pytest.warns(ParfocalWarning) as caught:
        assert ids(find_slides([tmp_path])) == ["m", "s", "vms/h"]
    (warning,) = caught
    assert f"{tmp_path}: 8 files of other kinds passed over (.zip 2, " in str(warning.message)
    for kind in (".txt 1", "without suffix 1", ".csv 1", ".zarr 1", "pipe, socket or device 1", "dangling link 1"):
        assert kind in str(warning.message) or "more kinds" in str(warning.message)


def test_a_manifest_that_is_given_too_is_not_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "s.svs", "t.svs")
    table = tmp_path / "slides.csv"
    table.write_text("slide,path\nt,t.svs\n")

    # Warnings are errors here.
    assert ids(find_slides([table, tmp_path])) == ["t", "s"]


def test_a_folder_without_a_slide_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a.zip", "b.zip")

    with pytest.raises(ConfigError, match=r"holds no slide: .*2 files of other kinds .*\.zip 2"):
        find_slides([tmp_path])


@pytest.mark.parametrize(
    ("name", "slide"),
    [
        ("line\nbreak.svs", "line%0Abreak"),
        ("red\x1b[31m.svs", "red%1B[31m"),
        ("back\\slash.svs", "back%5Cslash"),
        (os.fsdecode(b"broken\xff.svs"), "broken%FF"),
        ("turned\u202egnp.svs", "turned%E2%80%AEgnp"),
        ("Präparat 7 (α).svs", "Präparat 7 (α)"),
    ],
)
def test_characters_that_do_not_print_stand_in_an_id_as_percent_signs(tmp_path: Path, name: str, slide: str) -> None:
    touch(tmp_path, f"sub/{name}")

    assert ids(find_slides([tmp_path])) == [f"sub/{slide}"]
    assert ids(find_slides([tmp_path / "sub" / name])) == [slide]
