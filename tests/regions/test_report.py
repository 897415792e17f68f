import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from parfocal.config import GridConfig
from parfocal.errors import ParfocalWarning
from parfocal.regions import inspect_slide, report
from parfocal.synthetic.pyramid import write_pyramid


def test_a_slide_is_described(colon: Path) -> None:
    report = inspect_slide(colon, GridConfig())

    assert report.problem is None
    assert (report.width_px, report.height_px, report.levels) == (15360, 30976, (1, 2, 4, 8, 16, 32))
    assert (report.mpp, report.mpp_source, report.format) == (0.5, "TIFF resolution tag", "tiled TIFF")
    assert report.tissue_share == pytest.approx(0.33, abs=0.05)
    assert report.n_regions is not None
    assert report.n_tiles is not None
    assert list(report.n_tiles) == ["2", "1", "0.5"]
    assert report.n_tiles["2"] == report.n_regions
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

    assert {name for name, report in reports.items() if report.problem is None} == {"boxes_0.dcm", "boxes_1.dcm"}
    assert all("\n" not in (report.problem or "") for report in reports.values())
    assert reports["unreadable.svs"].mpp == 0.499


def test_too_coarse_a_slide_is_a_problem_not_an_error(real_data: Path) -> None:
    path = sorted((real_data / "labelled" / "osteosarcoma" / "images").glob("*.jpg"))[0]

    report = inspect_slide(path, GridConfig(), slide_mpp=1.0)

    assert report.problem is not None
    assert "Ask for 1 mpp or coarser" in report.problem
    assert report.tissue_share is not None


def test_whatever_a_library_raises_is_the_problem_of_one_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(slide: object) -> None:
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
