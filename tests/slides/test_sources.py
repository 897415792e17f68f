from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.slides import SlideSource, find_slides, read_manifest

from .folder import ids, touch


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

    with pytest.warns(ParfocalWarning, match=r"3 files of other kinds passed over \(\.csv 1, \.dat 1, \.txt 1\)"):
        assert ids(find_slides([tmp_path])) == ["a/x", "b"]


def test_pictures_count_only_where_they_cannot_be_thumbnails(tmp_path: Path) -> None:
    touch(tmp_path, "slides/s.svs", "slides/s-label.jpg", "fields/f1.jpg", "fields/f2.png")

    with pytest.warns(ParfocalWarning, match="1 picture beside slides taken for their thumbnails"):
        assert ids(find_slides([tmp_path])) == ["fields/f1", "fields/f2", "slides/s"]


def test_a_file_that_is_named_is_always_taken(tmp_path: Path) -> None:
    touch(tmp_path, "plain", "s.txt")

    assert ids(find_slides([tmp_path / "plain", tmp_path / "s.txt"])) == ["plain", "s"]


def test_a_hidden_file_needs_an_id_that_a_store_shows(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden.svs")
    table = tmp_path / "slides.csv"
    table.write_text("slide,path\nshown,.hidden.svs\n")

    with pytest.raises(ConfigError, match=r"'\.hidden': no part of it may be empty or start with a dot.*manifest"):
        find_slides([tmp_path / ".hidden.svs"])
    assert ids(find_slides([table])) == ["shown"]


def test_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "s.svs")

    assert ids(find_slides([tmp_path, tmp_path / "s.svs", tmp_path])) == ["s"]


def test_ids_by_name_are_those_of_the_files_wherever_they_lie(tmp_path: Path) -> None:
    touch(tmp_path, "gdc/0a1b/TCGA-1.svs", "gdc/2c3d/deep/TCGA-2.ome.tif", "alone/x.svs")
    table = tmp_path / "slides.csv"
    table.write_text("slide,path\nmine/x,alone/x.svs\n")

    assert ids(find_slides([tmp_path / "gdc", table], ids="name")) == ["TCGA-1", "TCGA-2.ome", "mine/x"]
    assert ids(find_slides([tmp_path / "gdc", table])) == ["0a1b/TCGA-1", "2c3d/deep/TCGA-2.ome", "mine/x"]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["s", "t", "u.v"]), st.sampled_from([".svs", ".tif", ".ndpi"])
        ),
        min_size=1,
        unique=True,
    ),
    st.integers(1, 3),
)
def test_ids_by_name_refuse_two_alike_over_the_whole_input(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, str]], n_inputs: int
) -> None:
    folder = tmp_path_factory.mktemp("gdc")
    touch(folder, *(f"{below}/{name}{suffix}" for below, name, suffix in files))
    names = [name for _, name, _ in files]
    inputs = [folder] if n_inputs == 1 else sorted({folder / below for below, _, _ in files})

    if len(set(names)) == len(names):
        assert sorted(ids(find_slides(inputs, ids="name"))) == sorted(names)
        return
    with pytest.raises(ConfigError) as caught:
        find_slides(inputs, ids="name")
    # Both are named, and what to do.
    slide = str(caught.value).split("'")[1]
    alike = [f"{below}/{name}{suffix}" for below, name, suffix in files if name == slide]
    assert sum(one in str(caught.value) for one in alike) == 2
    assert "--ids path" in str(caught.value)


def test_the_scans_of_one_file_are_slides_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "two.tif")
    table = tmp_path / "slides.csv"
    table.write_text("slide,path,scan,mpp\nfirst,two.tif,0,\nsecond,two.tif,1,0.25\n")
    path = tmp_path / "two.tif"

    expected = [SlideSource("first", path, None, 0), SlideSource("second", path, 0.25, 1)]
    assert find_slides([table]) == expected
    assert find_slides([table, table]) == expected
    # The file as a whole is one of them too, under another id.
    with pytest.raises(ConfigError, match=r"given twice: as 'first' \(no mpp, scan 0\) and as 'two' \(no mpp\)"):
        find_slides([table, path])


def test_two_files_under_one_id_are_refused_with_both_names(tmp_path: Path) -> None:
    touch(tmp_path, "a/s.svs", "b/s.svs", "c/s.svs", "c/s.tif")

    with pytest.raises(ConfigError, match=r"id 's': .*a/s\.svs and .*b/s\.svs"):
        find_slides([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match=r"c/s\.svs and .*c/s\.tif.* differ in their suffix only.*manifest"):
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


def test_a_resolution_of_one_file_of_a_dicom_series_is_not_lost(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "odd-slides"
    for name in ("boxes_0", "boxes_1"):
        table = tmp_path / "slides.csv"
        table.write_text(f"slide,path,mpp\n{name},{folder / name}.dcm,0.25\n")
        with pytest.raises(ConfigError, match="one DICOM series"):
            find_slides([folder / "boxes_0.dcm", table])
    table.write_text(f"slide,path,mpp\nmine,{folder / 'boxes_0.dcm'},\n")
    with pytest.raises(ConfigError, match="given twice"):
        find_slides([folder / "boxes_0.dcm", table])


def test_a_manifest_gives_ids_paths_and_resolutions(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("\ufeffpath,slide,mpp,scanner\nsub/a.svs,p1/a,0.25,X\n/data/b.svs,b,,Y\n", encoding="utf-8")

    expected = [SlideSource("p1/a", tmp_path / "sub/a.svs", 0.25), SlideSource("b", Path("/data/b.svs"), None)]
    with pytest.warns(ParfocalWarning, match="the manifest's column scanner is not read"):
        assert read_manifest(table) == expected
    with pytest.warns(ParfocalWarning, match="scanner"):
        assert find_slides([table]) == expected


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_manifest_may_come_from_a_spreadsheet(tmp_path: Path, coding: str, separator: str) -> None:
    table = tmp_path / "slides.csv"
    rows = [["slide", "path", "mpp", "scan"], ["a", "\u00e4.svs", "0,25", ""], ["b", "b.svs"]]
    table.write_text("\n".join(map(separator.join, rows)), encoding=coding)

    assert read_manifest(table) == [
        SlideSource("a", tmp_path / "\u00e4.svs", 0.25),
        SlideSource("b", tmp_path / "b.svs"),
    ]


@pytest.mark.parametrize("header", ["slide,path, mpp", "Slide,PATH,MPP", " slide , path ,Mpp "])
def test_a_header_may_have_spaces_and_capitals(tmp_path: Path, header: str) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"{header}\na,a.svs,0.25\n")

    assert read_manifest(table) == [SlideSource("a", tmp_path / "a.svs", 0.25)]


@pytest.mark.parametrize("mpp", ["0", "nan", "inf", "-1", "352.8", "0.079", "1e-400"])
def test_a_manifest_with_an_mpp_that_no_slide_has_is_refused_with_its_line(tmp_path: Path, mpp: str) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,path,mpp\na,a.svs,0.08\nb,b.svs,{mpp}\n")

    with pytest.raises(ConfigError, match=r"line 3: mpp of b cannot be .*0\.08 to 20 microns per pixel.*Correct it"):
        read_manifest(table)


@pytest.mark.parametrize("row", ["p1,s.svs,0.25", "p1,s.svs,", "s,s.svs,0.25"])
def test_one_file_under_two_ids_or_resolutions_is_refused_with_both(tmp_path: Path, row: str) -> None:
    touch(tmp_path, "s.svs")
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,path,mpp\n{row}\n")
    slide, _, mpp = row.split(",")

    for inputs in ([tmp_path / "s.svs", table], [table, tmp_path]):
        with pytest.raises(ConfigError) as caught:
            find_slides(inputs)
        assert "s.svs is given twice" in str(caught.value)
        assert "'s' (no mpp)" in str(caught.value)
        assert f"{slide!r} ({f'mpp {mpp}' if mpp else 'no mpp'})" in str(caught.value)


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
        ("slide,path,scan\na,x.svs,1\nb,x.svs,1\n", "x.svs (scan 1)' on several lines"),
        ("slide,path,scan\na,x.svs,-1\n", "line 2: scan of a is '-1'; expected is a whole number"),
        ("slide,path,scan\na,x.svs,first\n", "line 2: scan of a is 'first'"),
        ("slide,path\n../a,x.svs\n", "cannot name a file"),
        ("slide,path\n.a,x.svs\n", "line 2: the slide id '.a' cannot name a file"),
        ("slide,path\nb,y.svs\np/.a/b,x.svs\n", "line 3: the slide id 'p/.a/b' cannot name a file"),
        ("slide,path\n/a,x.svs\n", "cannot name a file"),
        ("slide,path\na\x1b[31m,x.svs\n", "leave out characters that do not print"),
        ("slide,path\na,x\0.svs\n", "line 2: the path of a holds a NUL character"),
        ("slide,path,mpp\na,x.svs,0,5\n", "line 2: '5' stands beyond the last column"),
        ("slide,path,mpp,MPP\na,x.svs,0.5,0.25\n", "has the column mpp twice"),
    ],
)
def test_a_wrong_manifest_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(text)

    with pytest.raises(ConfigError) as caught:
        read_manifest(table)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "named"),
    [("slide_mpp", "column slide_mpp is"), ("MPP,mpp_x,note", "columns mpp_x, note are"), ("mpp", "")],
)
def test_columns_of_a_manifest_that_are_not_read_are_named(tmp_path: Path, header: str, named: str) -> None:
    touch(tmp_path, "s.svs")
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,path,{header}\nx,s.svs,{','.join(['0.5'] * (header.count(',') + 1))}\n")

    with pytest.warns(ParfocalWarning, match=named) if named else nullcontext():
        (source,) = read_manifest(table)
    assert source.slide_mpp == (0.5 if "mpp" in header.lower().split(",") else None)
