"""Small inputs rebuilt from public bug reports, one folder a kind: right, or refused in one line.

The files lie beside the checkout (`shared/data/cases`); without them every test here is skipped. The same kinds are
made with drawn parameters by the tests of the stages, which need no file.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from parfocal.cli import main
from parfocal.cohort import CohortColumns, read_cohort
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ConfigError, ParfocalWarning, SlideError
from parfocal.regions import inspect_slide, plan_regions
from parfocal.slides import find_slides, open_slide
from parfocal.store import index_features, open_set

from .run.memory import needs_peak, run_measured

SMALL = GridConfig(region_um=448, mpps=(2.0, 1.0, 0.5))

pytestmark = pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")


@pytest.fixture
def cases(real_data: Path) -> Path:
    folder = real_data / "cases"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def parfocal_with_peak(*calls: tuple[object, ...]) -> tuple[subprocess.CompletedProcess[str], list[int], int]:
    """Commands in one process of their own, their exit status, and the most memory in MiB that the process had."""
    code = (
        "import json, sys\n"
        "from parfocal.cli import main\n"
        "status = [main(call) for call in json.loads(sys.argv[1])]\n"
        "print(*status, peak_kib() // 1024, file=sys.stderr)\n"
    )
    answer = run_measured(code, json.dumps([[str(word) for word in call] for call in calls]))
    *status, mib = map(int, answer.stderr.splitlines()[-1].split())
    return answer, status, mib


def mean_colour(path: Path, **how: Any) -> np.ndarray:
    with open_slide(path, slide_mpp=0.5, **how) as slide:
        return slide.read_level(0, 0, 0, slide.width_px, slide.height_px).reshape(-1, 3).mean(axis=0)


def one_line(text: str | None) -> str:
    assert text
    assert "\n" not in text.strip()
    return text


@needs_peak
def test_every_slide_of_all_cases_is_described_in_one_call_and_a_sparse_one_embedded_flat_in_memory(
    cases: Path, tmp_path: Path
) -> None:
    sparse = cases / "21-very-wide" / "wide-sparse-one-level.tif"
    (tmp_path / "one.py").write_text("def mean(tiles):\n    return tiles.mean(axis=(1, 2))\n")
    how = ("--encoder", f"python:{tmp_path / 'one.py'}:mean", "--slide-mpp", "0.5", "--workers", "0")
    answer, status, mib = parfocal_with_peak(
        ("inspect", cases, "--json", "--workers", "0"), ("embed", sparse, "-o", tmp_path / "store", *how)
    )
    assert status == [3, 0], answer.stderr
    assert mib < 400  # the sparse one is a gigapixel that is mostly not there
    assert "Traceback" not in answer.stdout + answer.stderr
    reports, _ = json.JSONDecoder().raw_decode(answer.stdout)
    assert len(reports) >= 25
    for report in reports:
        assert report["problem"] is not None or report["n_regions"], report["slide"]


@pytest.mark.parametrize("name", ["bfconvert.ome.tiff", "generic.tif"])
def test_01_levels_in_strips_are_levels(cases: Path, name: str) -> None:
    path = cases / "01-ome-strip-subifds" / name
    with open_slide(path, slide_mpp=0.5) as slide:
        assert [level.downsample for level in slide.levels][:3] == [1, 2, 4]
        coarse = slide.read_level(2, 0, 0, 475, 375).astype(float)
        fine = slide.read_level(0, 0, 0, 1900, 1500).reshape(375, 4, 475, 4, 3).mean(axis=(1, 3))
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.98


def test_02_planes_of_colour_are_colour_and_channels_of_fluorescence_are_refused(cases: Path) -> None:
    folder = cases / "02-ome-planes-cyx"
    for name in ("planar-separate.ome.tif", "cyx-with-tag.ome.tif"):
        try:
            red, green, blue = mean_colour(folder / name)
        except SlideError as error:
            one_line(str(error))
            continue
        assert max(abs(red - green), abs(green - blue)) > 5, name
    with pytest.raises(SlideError, match="eight-channels"):
        mean_colour(folder / "eight-channels.ome.tif")


@pytest.mark.parametrize("name", ["overview-first.ome.tif", "thumbnail-first.tif"])
def test_03_the_largest_page_is_the_slide(cases: Path, name: str) -> None:
    with open_slide(cases / "03-ome-thumbnail-first" / name, slide_mpp=0.5) as slide:
        assert (slide.width_px, slide.height_px) == (3800, 3000)


def test_04_a_second_scan_is_told_and_can_be_chosen(cases: Path) -> None:
    path = cases / "04-ome-two-scenes" / "two-sections.ome.tif"
    with pytest.warns(ParfocalWarning, match="--scan"), open_slide(path, slide_mpp=0.5) as slide:
        assert (slide.width_px, slide.height_px) == (1900, 1500)
    with open_slide(path, slide_mpp=0.5, scan=1) as slide:
        assert (slide.width_px, slide.height_px) == (2500, 2000)
    with pytest.raises((SlideError, ConfigError), match="two-sections"):
        open_slide(path, slide_mpp=0.5, scan=2)


def test_05_xml_that_is_not_well_formed_is_one_line_or_read_without(cases: Path) -> None:
    report = inspect_slide(cases / "05-ome-xml-ampersand" / "he-unescaped.ome.tif", SMALL)
    assert report.problem is None or one_line(report.problem)
    assert mean_colour(cases / "05-ome-xml-ampersand" / "he-unescaped.ome.tif").max() > 100


def test_07_padded_levels_give_the_regions_of_the_same_slide_without_padding(cases: Path) -> None:
    plans = {}
    for name in ("padded", "cropped"):
        with open_slide(cases / "07-tiff-padded-levels" / f"{name}.tif", slide_mpp=0.5) as slide:
            plans[name] = plan_regions(slide, SMALL)
    assert plans["padded"].n_regions == plans["cropped"].n_regions > 0
    np.testing.assert_array_equal(plans["padded"].region_xy_um(), plans["cropped"].region_xy_um())
    for mpp in SMALL.mpps:
        np.testing.assert_array_equal(plans["padded"].kept[mpp], plans["cropped"].kept[mpp])


@pytest.mark.parametrize("name", ["dapi-grey.tif", "dapi-blue-rgb.tif"])
def test_11_fluorescence_is_refused_as_not_brightfield(cases: Path, name: str) -> None:
    report = inspect_slide(cases / "11-fluorescence-grey" / name, SMALL, slide_mpp=0.5)
    assert "brightfield" in one_line(report.problem)


@pytest.mark.parametrize("name", ["exact-grey-as-rgb.tif", "silver-brownish.tif"])
def test_13_grey_stain_is_tissue(cases: Path, name: str) -> None:
    report = inspect_slide(cases / "13-grey-stain" / name, SMALL, slide_mpp=0.5)
    assert report.problem is None
    assert report.n_regions
    assert report.tissue_share is not None
    assert 0.05 < report.tissue_share < 0.9


@pytest.mark.parametrize("name", ["20x-claims-0.05.tif", "40x-claims-0.025.tif"])
def test_14_a_value_finer_than_any_scanners_is_refused(cases: Path, name: str) -> None:
    report = inspect_slide(cases / "14-converter-wrong-unit" / name, SMALL)
    assert "0.08" in one_line(report.problem)
    assert "--slide-mpp" in one_line(report.problem)


def test_16_units_of_length_are_converted(cases: Path) -> None:
    mpps = []
    for name in ("um", "angstrom", "pm"):
        with open_slide(cases / "16-ome-units" / f"{name}.ome.tif") as slide:
            mpps.append(slide.mpp)
    assert mpps == pytest.approx([mpps[0]] * 3)


def test_20_colours_are_those_of_the_jpeg(cases: Path) -> None:
    folder = cases / "20-jpeg-colour-lies"
    truth = mean_colour(folder / "ycbcr-called-ycbcr.tif")
    for name in ("rgb-called-rgb", "ycbcr-bare-called-rgb", "ycbcr-jfif-called-rgb"):
        try:
            found = mean_colour(folder / f"{name}.tif")
        except SlideError as error:
            one_line(str(error))
            continue
        np.testing.assert_allclose(found, truth, atol=3, err_msg=name)


@pytest.mark.parametrize("name", ["patch-0100.tif", "patch-0224.tif", "patch-0512.tif"])
def test_22_a_picture_of_tissue_is_never_without_tissue(cases: Path, name: str) -> None:
    report = inspect_slide(cases / "22-tiny-slides" / name, SMALL, slide_mpp=0.5)
    assert report.n_regions == 1 or "smaller than" in one_line(report.problem)


def test_24_a_dicom_series_without_suffixes_is_one_slide(cases: Path) -> None:
    assert len(find_slides([cases / "24-dicom-names"])) == 1


@pytest.mark.parametrize("name", ["zstd.ome.tif", "rgba.ome.tif"])
def test_29_the_mpp_of_a_file_is_kept_whoever_reads_its_pixels(cases: Path, name: str) -> None:
    report = inspect_slide(cases / "29-ome-fallback-loses-mpp" / name, SMALL)
    assert report.mpp is not None
    assert 0.2 < report.mpp < 1


def test_30_files_of_every_type_are_read_or_named(cases: Path, tmp_path: Path) -> None:
    summary = index_features([cases / "30-h5-types" / "job"], tmp_path, slide_mpp=0.25)
    indexed = {one.slide for one in summary.slides}
    failed = {one.slide: one.message for one in summary.failed}
    names = {path.stem for path in (cases / "30-h5-types" / "job").rglob("*.h5")}
    assert indexed | set(failed) == names
    assert {"ordinary", "gzip", "float16", "float64", "leading-axis", "int32-coords", "uint16-coords"} <= indexed
    assert {"zero-side", "none-side"} <= set(failed)
    for message in failed.values():
        one_line(message)
    ordinary = open_set(summary.embeddings.path).read("ordinary")
    for slide in indexed:
        tokens = open_set(summary.embeddings.path).read(slide)
        np.testing.assert_allclose(tokens.region_xy_um, ordinary.region_xy_um, err_msg=slide)


def test_31_a_row_that_is_not_finite_names_its_slide_and_the_rest_goes_on(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cases / "31-h5-nan-inf"
    status = main(["index", str(folder / "nan-row"), "-o", str(tmp_path / "store"), "--slide-mpp", "0.25"])
    said = capsys.readouterr().err
    with_nan = {
        path.stem
        for path in (folder / "nan-row").rglob("*.h5")
        if not np.isfinite(h5py.File(path)["features"][...]).all()
    }
    assert with_nan
    assert status == 3, said
    for slide in with_nan:
        assert f"{slide} failed: NotFiniteError" in said
    store = open_set(tmp_path / "store")
    assert len(store.slides) == 24 - len(with_nan)
    assert not with_nan & set(store.slides)
    for slide in store.slides:
        assert all(np.isfinite(rows).all() for rows in store.read(slide).features.values())


def test_37_the_first_file_never_decides(cases: Path, tmp_path: Path) -> None:
    summary = index_features([cases / "37-h5-broken" / "first-is-odd"], tmp_path / "a", slide_mpp=0.25)
    assert len(summary.slides) == 11
    assert len(summary.failed) == 1
    assert "width" in one_line(summary.failed[0].message)
    summary = index_features([cases / "37-h5-broken" / "job"], tmp_path / "b", slide_mpp=0.25)
    assert [one.slide for one in summary.slides] == ["ordinary"]
    assert {one.slide for one in summary.failed} >= {"cut", "missing-20x", "no-coords", "rows-differ", "zero-bytes"}


def ids_of(cases: Path) -> list[str]:
    folder = cases / "40-cohort-tables" / "job"
    return sorted({path.stem for path in folder.rglob("*.h5")})


READ = {
    "ordinary": ("binary", {"0": 20, "1": 20}),
    "semicolon": ("binary", {"0": 20, "1": 20}),
    "tab": ("binary", {"0": 20, "1": 20}),
    "utf16": ("binary", {"0": 20, "1": 20}),
    "with-h5-slide": ("binary", {"0": 20, "1": 20}),
    "blank": ("binary", {"MSI": 20, "MSS": 20}),
    "three-positive": ("binary", {"0": 37, "1": 3}),
}
REFUSED = {
    "latin1": "latin1.csv",
    "numbers-as-text": "'01'",
    "one-class": "one class",
    "one-patient-all-positive": "1 groups",
    "one-stray-word": "pending",
    "with-h5": "column 'slide'",
    "patient-two-sites": "two sites",
}


@pytest.mark.parametrize("name", READ)
def test_40_tables_of_every_habit_are_read(cases: Path, name: str) -> None:
    table = cases / "40-cohort-tables" / "csv" / f"{name}.csv"
    cohort = read_cohort(table, "msi", CohortColumns(group="patient")).restricted_to(ids_of(cases), "the job")
    kind, counts = READ[name]
    names = [cohort.outcome.classes[int(value)] for value in cohort.outcome.value]
    assert cohort.outcome.kind == kind
    assert {one: names.count(one) for one in set(names)} == counts


@pytest.mark.parametrize("name", REFUSED)
def test_40_tables_that_cannot_be_read_say_why(cases: Path, name: str) -> None:
    table = cases / "40-cohort-tables" / "csv" / f"{name}.csv"
    site = "site" if name == "patient-two-sites" else None
    with pytest.raises(ConfigError, match=re.escape(REFUSED[name])):
        read_cohort(table, "msi", CohortColumns(group="patient", site=site))


def test_all_good_slides_of_the_cases_embed_in_one_run(cases: Path, tmp_path: Path) -> None:
    settings = EmbedSettings(encoder="filterbank", grid=SMALL, slide_mpp=0.5)
    summary = embed_slides([cases / name for name in ("01-ome-strip-subifds", "13-grey-stain")], tmp_path, settings)
    assert not summary.failed
    store = open_set(summary.set_path)
    assert all(store.n_regions(slide) for slide in store.slides)
