import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from parfocal.config import GridConfig
from parfocal.errors import ParfocalWarning
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.regions import inspect as report
from parfocal.regions import inspect_slide, inspect_slides
from parfocal.run.executors import RunsSlides
from parfocal.slides import SlideSource


def test_a_slide_is_described(colon: Path) -> None:
    report = inspect_slide(colon, GridConfig())

    assert report.problem is None
    assert (report.width_px, report.height_px, report.levels) == (15360, 30976, (1, 2, 4, 8, 16, 32))
    assert (report.mpp, report.mpp_source, report.format) == (0.5, "TIFF resolution tag", "tiled TIFF")
    assert report.tissue_share == pytest.approx(0.33, abs=0.05)
    assert report.n_regions is not None
    assert report.n_tiles is not None
    assert list(report.n_tiles) == ["2", "1", "0.5"]
    # Some regions at the edge lie mostly beyond it.
    assert report.n_regions - 10 < report.n_tiles["2"] < report.n_regions
    assert report.n_regions * 10 < report.n_tiles["0.5"] < report.n_regions * 16
    assert json.loads(json.dumps(report.to_dict()))["levels"] == [1, 2, 4, 8, 16, 32]


def test_without_a_resolution_the_rest_is_still_told(real_data: Path) -> None:
    report = inspect_slide(real_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs", GridConfig())

    assert report.width_px == 4443
    assert report.mpp is None
    assert report.n_tiles is None
    assert report.problem is not None
    assert "--slide-mpp" in report.problem


def test_no_strange_file_stops_the_table(real_data: Path) -> None:
    paths = sorted((real_data / "odd-slides").iterdir())
    reports = {path.name: inspect_slide(path, GridConfig()) for path in paths}

    assert all(report.problem for report in reports.values())
    assert "smaller than a tile" in (reports["boxes_0.dcm"].problem or "")
    assert all("\n" not in (report.problem or "") for report in reports.values())
    assert reports["unreadable.svs"].mpp == 0.499


def test_too_coarse_a_slide_is_a_problem_not_an_error(real_data: Path) -> None:
    path = sorted((real_data / "labelled" / "osteosarcoma" / "images").glob("*.jpg"))[0]

    report = inspect_slide(path, GridConfig(), slide_mpp=1.0)

    assert report.problem is not None
    assert "Ask for 1 mpp or coarser" in report.problem
    assert report.tissue_share is not None


def test_whatever_a_library_raises_is_the_problem_of_one_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(slide: object, tissue: str, **_: object) -> None:
        warnings.warn("inside of a library", RuntimeWarning, stacklevel=1)
        warnings.warn("something was guessed", ParfocalWarning, stacklevel=1)
        raise ZeroDivisionError("integer division\nor \x1b[31mmodulo")

    path = tmp_path / "s.tif"
    write_pyramid(path, np.full((300, 500, 3), 128, np.uint8), mpp=0.5, n_levels=1)
    monkeypatch.setattr(report, "find_tissue", broken)

    described = inspect_slide(path, GridConfig())
    assert described.problem == "ZeroDivisionError: integer division or \\x1b[31mmodulo"
    assert described.width_px == 500
    # Warnings are errors here: what the library warned of reached nobody.
    assert described.notices == ("something was guessed",)


def test_a_crash_costs_one_slide_and_the_order_is_that_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A library that crashes on one file, in whichever process reads it.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nfrom PIL import Image\nplain = Image.open\n"
        "def fatal(file, *args, **options):\n"
        "    os.abort() if 'fatal' in str(getattr(file, 'name', file)) else None\n"
        "    return plain(file, *args, **options)\n"
        "Image.open = fatal\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    sources = []
    for name in ("a", "fatal", "c"):
        path = tmp_path / f"{name}.png"
        Image.fromarray(np.full((300, 500, 3), 128, np.uint8)).save(path)
        sources.append(SlideSource(name, path, 0.5))

    reports = inspect_slides(sources, GridConfig(), runs=RunsSlides(workers=1))

    assert [one.slide for one in reports] == ["a", "fatal", "c"]
    assert [one.width_px for one in reports] == [500, None, 500]
    assert reports[1].problem is not None
    assert "the process that read fatal died twice" in reports[1].problem


def test_what_a_source_says_goes_before_what_is_said_of_all(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    rgb = np.full((300, 500, 3), 243, np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        for one in (rgb, rgb[:, :400]):
            tiff.write(one, photometric="rgb", tile=(128, 128), metadata=None)

    sources = [SlideSource("a", path, 0.25, 0), SlideSource("b", path, None, None), SlideSource("c", path, None, 7)]
    reports = inspect_slides(sources, GridConfig(), slide_mpp=0.5, scan=1)

    assert [(one.mpp, one.width_px) for one in reports] == [(0.25, 500), (0.5, 400), (None, None)]
    assert "scan 7" in str(reports[2].problem)
    assert [one.has_no_tissue for one in reports] == [True, True, False]
    assert [one.is_usable for one in reports] == [False, False, False]


def test_slides_are_named_as_for_embedding(tmp_path: Path) -> None:
    for name in ("b", "a"):
        Image.fromarray(np.full((300, 500, 3), 128, np.uint8)).save(tmp_path / f"{name}.png")

    of_folder = inspect_slides([tmp_path], GridConfig(), slide_mpp=0.5)
    of_text = inspect_slides([str(tmp_path / "a.png")], GridConfig(), slide_mpp=0.5)

    assert [one.slide for one in of_folder] == ["a", "b"]
    assert of_text == of_folder[:1]
