"""Files of another tool, each odd in its own way: read, or one line that names the slide; the others are indexed."""

import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parfocal.cli import main
from parfocal.errors import MismatchError, ParfocalWarning, StoreError
from parfocal.run import read_failures
from parfocal.store import EmbeddingSet, index_features
from parfocal.store.folders import find_feature_folders
from parfocal.store.formats.format import FeatureSource
from parfocal.store.formats.trident import read_places
from parfocal.store.index import IndexSummary
from parfocal.store.survey import FeatureSettings, survey_features

from .trident import DIM, SIDES, trident_file, trident_job

NAMES = ["a", "b", "c", "d", "e"]
SMALL = {5: 1792, 20: 448}


def job(root: Path, names: list[str] = NAMES) -> Path:
    """Slides in two magnifications; all that is asked of them is to be alike."""
    for path, data in job_files(tuple(names)).items():
        (root / "job" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "job" / path).write_bytes(data)
    return root / "job"


@lru_cache(maxsize=8)
def job_files(names: tuple[str, ...]) -> dict[Path, bytes]:
    """The files of a job by their paths in it; making them takes longer than what most tests do with them."""
    with TemporaryDirectory() as folder:
        root = Path(folder) / "job"
        for number, name in enumerate(names):
            trident_job(root, name, sides=SMALL, seed=number, coarse=(5, 3))
        return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.h5"))}


def file_of(folder: Path, slide: str, power: int = 20, encoder: str = "toy") -> Path:
    return folder / f"{power}x_224px_0px_overlap" / f"features_{encoder}" / f"{slide}.h5"


def index(folder: Path, store: str = "store") -> IndexSummary:
    return index_features([folder], folder.parent / store, slide_mpp=0.25)


def replace_array(path: Path, name: str, make: Callable[[np.ndarray], Any]) -> None:
    """Another array in the place of one, with its attributes."""
    with h5py.File(path, "r+") as file:
        attributes, values = dict(file[name].attrs), file[name][...]
        del file[name]
        made = make(values)
        file[name] = made
        file[name].attrs.update(attributes)


def places(embeddings: EmbeddingSet, slide: str) -> list[tuple[float, ...]]:
    tokens = embeddings.read(slide)
    return [tuple(center) for mpp in tokens.mpps for center in tokens.center_um[mpp].tolist()]


# The same number as tools write it.
ENCODINGS: dict[str, Callable[[int], Any]] = {
    "int": int,
    "float": float,
    "int32": np.int32,
    "uint16": np.uint16,
    "float32": np.float32,
    "big-endian": lambda value: np.array(value, dtype=">i8"),
    "text": str,
    "text with a fraction": lambda value: f" {value}.0 ",
    "text with a unit": lambda value: f"{value}px",
    "bytes": lambda value: np.bytes_(str(value)),
    "no axis": np.array,
    "one element": lambda value: np.array([value]),
    "one text": lambda value: np.array([str(value)], dtype=h5py.string_dtype()),
    "twice": lambda value: np.array([value, value]),
    "a matrix of one": lambda value: np.array([[value]], dtype=np.float64),
}
# What says no number, for an attribute that is needed.
NONSENSE: dict[str, Any] = {
    "nothing": h5py.Empty("f"),
    "a word": "large",
    "None": "None",
    "no number": float("nan"),
    "infinite": np.inf,
    "two": np.array([224, 448]),
    "no element": np.zeros(0),
    "zero": 0,
    "negative": -224,
    "a fraction": 0.0,
    "complex": 224 + 0j,
    "a record": np.array((224, 1), dtype=[("a", "i4"), ("b", "f4")]),
    "beyond all slides": 1e300,
    "bytes": np.void(b"\x00\xff\x00"),
}
# Coordinates that are nowhere on a slide.
NOWHERE: dict[str, Callable[[np.ndarray], Any]] = {
    "not a number": lambda xy: np.where(np.arange(xy.size).reshape(xy.shape) == 3, np.nan, xy),
    "infinite": lambda xy: np.where(np.arange(xy.size).reshape(xy.shape) == 0, -np.inf, xy),
    "negative": lambda xy: xy - 1792 * 9,
    "one pixel before": lambda xy: np.where(np.arange(xy.size).reshape(xy.shape) == 1, -1, xy),
    "beyond": lambda xy: xy + (1 << 40),
    "the largest": lambda xy: np.full(xy.shape, np.iinfo(np.uint64).max),
    "text": lambda xy: xy.astype("S8"),
    "records": lambda xy: np.array([tuple(row) for row in xy.tolist()], dtype=[("x", "i8"), ("y", "i8")]),
    "three columns": lambda xy: np.column_stack([xy, xy[:, 0]]),
    "flat": np.ravel,
    "one row less": lambda xy: xy[1:],
    "nothing": lambda xy: h5py.Empty("i8"),
}
ROWS: dict[str, Callable[[np.ndarray], Any]] = {
    "a NaN": lambda rows: np.where(np.arange(rows.size).reshape(rows.shape) == 7, np.nan, rows),
    "infinite": lambda rows: np.where(np.arange(rows.size).reshape(rows.shape) == 11, np.inf, rows).astype(np.float16),
    "too large for a float": lambda rows: rows.astype(np.float64) * 1e300,
    "whole numbers": lambda rows: rows.astype(np.int32),
    "text": lambda rows: rows.astype("S4"),
    "complex": lambda rows: rows.astype(np.complex64),
    "flat": np.ravel,
    "one number": lambda rows: rows[0, 0],
    "no column": lambda rows: rows[:, :0],
    "nothing": lambda rows: h5py.Empty("f4"),
    "one vector of the slide": lambda rows: rows[:1],
}


@settings(max_examples=8)
@given(data=st.data())
def test_a_number_is_read_however_it_is_written(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = job(tmp_path_factory.mktemp("types"), ["a"])
    written_by_tool = index(folder, "as-written").embeddings
    expected = written_by_tool.mpps, places(written_by_tool, "a")
    for power, side in SMALL.items():
        written = {"patch_size": 224, "patch_size_level0": side, "overlap": 0, "target_magnification": power}
        with h5py.File(file_of(folder, "a", power), "r+") as file:
            for name, value in written.items():
                encoding = data.draw(st.sampled_from(sorted(ENCODINGS)), label=f"{name} at {power}")
                file["coords"].attrs[name] = ENCODINGS[encoding](value)

    found = index(folder).embeddings

    assert found.mpps == (2.0, 0.5)
    assert (found.mpps, places(found, "a")) == expected


@settings(max_examples=6)
@given(
    coords=st.sampled_from(["<i4", ">i4", "<u2", "<u8", "<f4", ">f8", "<f8"]),
    rows=st.sampled_from(["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]),
    leading=st.booleans(),
)
def test_arrays_of_any_type_of_number_give_the_same_tokens(
    tmp_path_factory: pytest.TempPathFactory, coords: str, rows: str, leading: bool
) -> None:
    folder = job(tmp_path_factory.mktemp("arrays"), ["a"])
    # Eighths are exact in all types.
    for power in SMALL:
        replace_array(file_of(folder, "a", power), "features", lambda values: np.rint(values * 8) / 8)
    expected = index(folder, "as-written").embeddings.read("a")
    for power in SMALL:
        for name, dtype in (("coords", coords), ("features", rows)):
            replace_array(
                file_of(folder, "a", power),
                name,
                lambda values, dtype=dtype: values.astype(dtype)[None][... if leading else 0],
            )

    found = index(folder).embeddings.read("a")

    for mpp in expected.mpps:
        assert found.features[mpp].dtype.isnative
        np.testing.assert_array_equal(found.features[mpp], expected.features[mpp])
        np.testing.assert_array_equal(found.center_um[mpp], expected.center_um[mpp])


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["coords"].attrs[name] = value

    return spoil


def array(name: str, make: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    return lambda path: replace_array(path, name, make)


def one_vector(path: Path) -> None:
    for name in ("features", "coords"):
        replace_array(path, name, lambda values: values[:1])


def unwritten(path: Path) -> None:
    """As a run that was killed leaves it: all rows announced, the last ones never written."""
    with h5py.File(path, "r+") as file:
        rows = file["features"][...]
        del file["features"]
        made = file.create_dataset("features", rows.shape, rows.dtype, chunks=(1, DIM))
        made[:-3] = rows[:-3]


def never_written(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        shape = file["features"].shape
        del file["features"]
        file.create_dataset("features", shape, np.float32)


def compressed_zeros(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for name in ("features", "coords"):
            attributes = dict(file[name].attrs)
            del file[name]
            made = file.create_dataset(name, (10**12, 2), "f4", chunks=(10**6, 2), compression="gzip")
            made.attrs.update(attributes)


def another_file(path: Path) -> None:
    other = path.with_name(".other")
    path.rename(other)
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = (h5py.ExternalLink(str(other), name) for name in ("features", "coords"))


def without_features(there: Any = None, *, called: str = "features") -> Callable[[Path], None]:
    """What an extraction leaves that crashed, or a program that calls them otherwise."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            rows = file["features"][...]
            del file["features"]
            if called != "features":
                file[called] = rows
            elif there == "a group":
                file.create_group("features")
            elif there is not None:
                file["features"] = there

    return spoil


def another_thing(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


SPOILT: dict[str, Callable[[Path], None]] = {
    **{f"patch_size: {name}": attribute("patch_size", value) for name, value in NONSENSE.items()},
    **{f"patch_size_level0: {name}": attribute("patch_size_level0", value) for name, value in NONSENSE.items()},
    "overlap: a word": attribute("overlap", "some"),
    "overlap: half": attribute("overlap", np.array([112])),
    "level0_width: a record": attribute("level0_width", NONSENSE["a record"]),
    **{f"coords: {name}": array("coords", make) for name, make in NOWHERE.items()},
    **{f"features: {name}": array("features", make) for name, make in ROWS.items()},
    "one vector": one_vector,
    "unwritten": unwritten,
    "never written": never_written,
    "compressed zeros": compressed_zeros,
    "another file": another_file,
    "no features": without_features(),
    "features called otherwise": without_features(called="embeddings"),
    "features: a group": without_features("a group"),
    "features: a link to nowhere": without_features(h5py.ExternalLink("absent.h5", "features")),
    "a folder": another_thing(Path.mkdir),
    "a pipe": another_thing(os.mkfifo),
    "empty": another_thing(Path.touch),
    "text": another_thing(lambda path: path.write_text("slide,path\n")),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2000]),
    "nowhere": another_thing(lambda path: path.symlink_to("absent.h5")),
    "itself": another_thing(lambda path: path.symlink_to(path.name)),
    "no arrays": another_thing(lambda path: h5py.File(path, "w").close()),
    "forbidden by its name": another_thing(lambda path: h5py.File(path, "w").create_group("features").file.close()),
}


@example(kind="no features", which=0, power=20)
@settings(max_examples=28)
@given(kind=st.sampled_from(sorted(SPOILT)), which=st.integers(0, 1), power=st.sampled_from(sorted(SMALL)))
def test_a_slide_that_cannot_be_used_is_named_and_the_others_are_indexed(
    tmp_path_factory: pytest.TempPathFactory, kind: str, which: int, power: int
) -> None:
    if kind == "one vector":
        power = 20  # at the coarsest magnification a slide may well have one tile
    names = NAMES[:2]
    folder = job(tmp_path_factory.mktemp("spoilt"), names)
    path = file_of(folder, names[which], power)
    SPOILT[kind](path)

    summary = index(folder)

    assert [one.slide for one in summary.slides] == [name for name in names if name != names[which]]
    assert [one.slide for one in summary.failed] == [names[which]]
    assert str(path) in summary.failed[0].message or NAMES[which] in summary.failed[0].message
    assert "\n" not in summary.failed[0].message
    assert summary.exit_status == 3
    assert [row.slide for row in read_failures(folder.parent / "store")] == [NAMES[which]]
    assert summary.embeddings.slides == tuple(one.slide for one in summary.slides)


def another_width(folder: Path, slide: str) -> None:
    for power in SMALL:
        replace_array(file_of(folder, slide, power), "features", lambda rows: np.concatenate([rows, rows], axis=1))


def another_side(folder: Path, slide: str) -> None:
    for power in SMALL:
        attribute("patch_size", 256)(file_of(folder, slide, power))


def one_magnification_less(folder: Path, slide: str) -> None:
    file_of(folder, slide, 20).unlink()


def one_magnification_more(folder: Path, slide: str) -> None:
    trident_job(folder, slide, sides={10: 896})


def another_resolution(folder: Path, slide: str) -> None:
    """As of a slide that was scanned at another magnification, extracted as if it had been like the others."""
    for power in SMALL:
        with h5py.File(file_of(folder, slide, power), "r+") as file:
            for name in ("patch_size_level0", "target_magnification", "level0_width", "level0_height"):
                file["coords"].attrs[name] *= 2
        replace_array(file_of(folder, slide, power), "coords", lambda xy: xy * 2)


ODD: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "width": (another_width, "rows of width 12, and 4 of 5 slides have 6"),
    "side": (another_side, "256 px in .*, and 4 of 5 slides have 224 px"),
    "less": (one_magnification_less, "has no features in .*20x"),
    "more": (one_magnification_more, "has features in .*10x.*, where 4 of 5 slides have none"),
    "resolution": (another_resolution, "more than 5% from the set's"),
}


@pytest.mark.parametrize("kind", sorted(ODD))
@pytest.mark.parametrize("which", [0, 2, 4])
@pytest.mark.filterwarnings("ignore:.*is not used. most slides:parfocal.errors.ParfocalWarning")
def test_most_slides_decide_and_the_odd_one_is_named_wherever_it_stands(tmp_path: Path, kind: str, which: int) -> None:
    folder = job(tmp_path)
    spoil, says = ODD[kind]
    spoil(folder, NAMES[which])

    summary = index(folder)

    assert [one.slide for one in summary.failed] == [NAMES[which]]
    assert summary.embeddings.mpps == (2.0, 0.5)
    assert summary.embeddings.dims == {2.0: DIM, 0.5: DIM}
    with pytest.raises(StoreError, match=says):
        raise StoreError(summary.failed[0].message)


@pytest.mark.parametrize("spoil", [another_width, another_side, another_resolution])
def test_two_kinds_of_slides_as_frequent_are_refused_with_both_named(
    tmp_path: Path, spoil: Callable[[Path, str], None]
) -> None:
    folder = job(tmp_path, ["a", "b", "c", "d"])
    for slide in "bd":
        spoil(folder, slide)

    with pytest.raises(MismatchError, match=r"\((a, c|b, d)\).*\((a, c|b, d)\)"):
        index(folder)
    assert not (tmp_path / "store").exists()


def test_a_magnification_that_few_slides_have_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    folder = job(tmp_path)
    trident_job(folder, "c", sides={10: 896})

    with pytest.warns(ParfocalWarning, match=r"10x.*is not used: most slides have no features there \(1 have\)"):
        index(folder)


def test_with_as_many_slides_the_larger_choice_of_magnifications_is_taken(tmp_path: Path) -> None:
    folder = job(tmp_path, ["a", "b"])
    one_magnification_less(folder, "a")

    summary = index(folder)

    assert [one.slide for one in summary.slides] == ["b"]
    assert summary.embeddings.mpps == (2.0, 0.5)


def test_the_type_of_most_slides_is_that_of_the_set(tmp_path: Path) -> None:
    folder = job(tmp_path)
    for slide in NAMES[1:]:
        for power in SMALL:
            replace_array(file_of(folder, slide, power), "features", lambda rows: rows.astype(np.float16))

    summary = index(folder)

    assert summary.embeddings.content["dtype"] == "float16"
    assert len(summary.slides) == len(NAMES)


def test_linked_folders_are_followed_and_a_loop_is_noticed(tmp_path: Path) -> None:
    elsewhere = job(tmp_path / "elsewhere", ["a", "b"])
    (tmp_path / "job").mkdir()
    for power in SMALL:
        (tmp_path / "job" / f"{power}x").symlink_to(file_of(elsewhere, "a", power).parent.parent)
        (file_of(elsewhere, "a", power).parent / "again").symlink_to(elsewhere.parent.parent)
    (tmp_path / "job" / "loop").symlink_to(tmp_path / "job")

    folders = find_feature_folders([tmp_path / "job", tmp_path / "job" / "5x"])

    assert [sorted(folder.sources) for folder in folders] == [["a", "b"], ["a", "b"]]


def without_progress(said: str) -> list[str]:
    """What a command says beside how far it is, which without a terminal is lines such as `slides: 2/5  b`."""
    return [line for line in said.splitlines() if not re.fullmatch(r"slides: \d/\d  [a-e]", line)]


def test_when_no_slide_can_be_used_one_line_says_why_and_how_many(tmp_path: Path, capsys) -> None:
    folder = job(tmp_path)
    for slide in NAMES:
        array("features", ROWS["a NaN"])(file_of(folder, slide))

    status = main(["index", str(folder), "-o", str(tmp_path / "store"), "--slide-mpp", "0.25"])

    said = capsys.readouterr().err
    assert status == 1
    for part in ("a.h5", "not finite", "4 more slides"):
        assert part in said
    assert len(without_progress(said)) == 1


def test_the_command_names_every_slide_that_is_left_out(tmp_path: Path, capsys) -> None:
    folder = job(tmp_path)
    array("features", ROWS["infinite"])(file_of(folder, "b"))
    another_width(folder, "a")

    status = main(["index", str(folder), "-o", str(tmp_path / "store"), "--slide-mpp", "0.25"])

    said = without_progress(capsys.readouterr().err)
    assert status == 3
    assert [line.split(":")[0] for line in said] == ["a failed", "b failed", "3 of 5 slides are indexed"]


def test_rows_that_were_exchanged_after_indexing_are_refused(tmp_path: Path) -> None:
    folder = job(tmp_path)
    store = index(folder).embeddings
    replace_array(file_of(folder, "c"), "features", lambda rows: rows[::-1])

    with pytest.raises(StoreError, match=r"c\.h5"):
        store.read("c")
    assert store.read("d").n_regions > 0


@settings(max_examples=30)
@given(number=st.integers(1, 60_000), text=st.sampled_from(["{}", " {} ", "{}.0", "+{}", "{}e0", "{} px", "{}X"]))
def test_a_number_in_text_is_that_number(tmp_path_factory: pytest.TempPathFactory, number: int, text: str) -> None:
    path = tmp_path_factory.mktemp("text") / "s.h5"
    trident_file(path, np.zeros((1, 2)), power=20, side_l0px=448.0, features=np.ones((1, 3), np.float32))
    attribute("patch_size", text.format(number))(path)

    assert read_places(FeatureSource(path)).tile_px == number


def test_the_sides_of_the_toy_job_nest() -> None:
    assert set(SMALL.items()) <= set(SIDES.items())


def test_a_plan_names_what_the_run_would_leave_out(tmp_path: Path) -> None:
    folder = job(tmp_path)
    another_width(folder, "a")
    SPOILT["a pipe"](file_of(folder, "d"))

    survey = survey_features([folder], FeatureSettings(slide_mpp=0.25))

    assert sorted(survey.slides) == ["b", "c", "e"]
    assert sorted(one.slide for one in survey.trouble.failed) == ["a", "d"]
    assert [len(one.files[0].xy) for one in survey.slides.values()] == [0, 0, 0]
    assert all(one.n_tiles == (11, 180) for one in survey.slides.values())


@pytest.mark.parametrize("name", ["otherslide", "otherslide.svs", np.bytes_("b")])
def test_features_that_say_they_are_of_another_slide_are_its_failure(tmp_path: Path, name: Any) -> None:
    folder = job(tmp_path)
    with h5py.File(file_of(folder, "a"), "r+") as file:
        file["coords"].attrs["name"] = name

    summary = index(folder)

    assert [failed.slide for failed in summary.failed] == ["a"]
    assert "not of a" in summary.failed[0].message
    assert [one.slide for one in summary.slides] == ["b", "c", "d", "e"]


@pytest.mark.parametrize("name", ["a", "a.svs", "None"])
def test_the_name_of_a_slide_with_or_without_its_ending_is_its_own(tmp_path: Path, name: str) -> None:
    folder = job(tmp_path)
    with h5py.File(file_of(folder, "a"), "r+") as file:
        file["coords"].attrs["name"] = name

    assert not index(folder).failed


def test_two_slides_with_one_file_are_named(tmp_path: Path) -> None:
    folder = job(tmp_path)
    for power in SMALL:
        file_of(folder, "b", power).write_bytes(file_of(folder, "a", power).read_bytes())
        for slide in ("a", "b"):
            with h5py.File(file_of(folder, slide, power), "r+") as file:
                file["coords"].attrs["name"] = "None"

    with pytest.warns(ParfocalWarning, match="same features, byte for byte: a and b"):
        index(folder)


@pytest.mark.parametrize("rows", [slice(None), slice(5, None)])
def test_rows_of_nothing_but_zeros_were_never_written(tmp_path: Path, rows: slice) -> None:
    folder = job(tmp_path)

    def stopped(values: np.ndarray) -> np.ndarray:
        values[rows] = 0
        return values

    replace_array(file_of(folder, "a"), "features", stopped)  # contiguous, so HDF5 itself calls them written

    summary = index(folder)

    assert [failed.slide for failed in summary.failed] == ["a"]
    assert "nothing but zeros" in summary.failed[0].message
