"""`parfocal embed` and `parfocal inspect` on slides of which some fail: which, why, once, and with what status."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from parfocal.cli import main
from parfocal.store import open_set

GRID = ["--region-um", "128", "--tile-px", "64"]
QUICK = ["--encoder", "filterbank,tile_px=64", *GRID]


def make_slide(path: Path, *, mpp: float | None = 0.5, width: int = 900) -> Path:
    """Purple speckled tissue on glass, wider than high."""
    height = 530
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (400, 260), (330, 220), 20, 0, 360, 1, -1)
    noise = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
    speckle = cv2.GaussianBlur(noise, (0, 0), 3)
    stained = np.clip(np.array((190, 120, 175)) - 35 * (speckle / speckle.std())[..., None], 0, 255)
    pixels = np.where(mask[..., None] > 0, stained, 243).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="zlib", **resolution)
    return path


def test_a_failure_is_told_once_as_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_slide(tmp_path / "scans" / "good.tif")
    make_slide(tmp_path / "scans" / "unknown.tif", mpp=None)

    status = main(["embed", str(tmp_path / "scans"), "-o", str(tmp_path / "store"), *QUICK])
    told = capsys.readouterr()

    assert status == 3
    lines = [line for line in told.err.splitlines() if "does not say how many microns" in line]
    assert len(lines) == 1
    assert "unknown failed: CalibrationError: " in lines[0]
    assert "--slide-mpp" in lines[0]
    assert "microns" not in told.out
    assert "failed: CalibrationError" in told.out


def test_a_dry_run_has_the_status_of_the_run_and_tells_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make_slide(tmp_path / "scans" / "good.tif")
    unknown = make_slide(tmp_path / "scans" / "unknown.tif", mpp=None)
    call = ["-o", str(tmp_path / "store"), *QUICK, "--dry-run", "--workers", "0"]

    assert main(["embed", str(good), *call]) == 0
    assert main(["embed", str(good), str(unknown), *call]) == 3
    capsys.readouterr()
    assert main(["embed", str(unknown), *call]) == 1
    told = capsys.readouterr()

    (line,) = [line for line in told.err.splitlines() if "would fail" in line]
    assert line.startswith("unknown would fail: ")
    assert "--slide-mpp" in line
    assert "microns" not in told.out
    assert not (tmp_path / "store").exists()


def test_a_call_that_failed_leaves_no_set_in_the_way(tmp_path: Path) -> None:
    unknown = make_slide(tmp_path / "unknown.tif", mpp=None)
    store = tmp_path / "store"

    call = ["embed", str(unknown), "-o", str(store), *QUICK, "--workers", "0"]

    assert main(call) == 1
    assert main([*call, "--slide-mpp", "0.5", "--min-tissue", "0.3"]) == 0

    assert open_set(store).slides == ("unknown",)


@pytest.mark.parametrize("command", ["embed", "inspect"])
@pytest.mark.parametrize("mpp", ["0", "nan", "352.8"])
def test_a_resolution_that_no_slide_has_is_one_line_and_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, mpp: str
) -> None:
    slide = make_slide(tmp_path / "one.tif")
    options = ["-o", str(tmp_path / "store"), *QUICK] if command == "embed" else GRID

    assert main([command, str(slide), *options, "--slide-mpp", mpp]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--slide-mpp" in line
    assert "0.08 to 20" in line


def test_inspect_tells_slides_of_one_file_name_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_slide(tmp_path / "scans" / "a" / "s.tif")
    make_slide(tmp_path / "scans" / "b" / "s.tif", mpp=None, width=1000)

    assert main(["inspect", str(tmp_path / "scans"), *GRID]) == 3
    told = capsys.readouterr()
    assert "a/s " in told.out
    assert "b/s " in told.out
    assert [line.split(": ")[0] for line in told.err.splitlines()] == ["b/s", "2 slides"]
    main(["inspect", str(tmp_path / "scans"), *GRID, "--json", "--workers", "0"])
    described = json.loads(capsys.readouterr().out)
    assert [one["slide"] for one in described] == ["a/s", "b/s"]
    assert [one["path"] for one in described] == [str(tmp_path / "scans" / name / "s.tif") for name in "ab"]


def test_inspect_takes_the_manifest_before_the_value_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_slide(tmp_path / "s.tif", mpp=None)
    make_slide(tmp_path / "t.tif", mpp=None, width=1000)
    table = tmp_path / "slides.csv"
    table.write_text("Slide,Path, MPP\np1,s.tif,0.25\np2,t.tif,\n")

    main(["inspect", str(table), *GRID, "--slide-mpp", "0.4", "--json", "--workers", "0"])

    assert [(one["slide"], one["mpp"]) for one in json.loads(capsys.readouterr().out)] == [("p1", 0.25), ("p2", 0.4)]


def test_inspect_counts_slides_without_tissue_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_slide(tmp_path / "scans" / "good.tif")
    Image.fromarray(np.full((1200, 1500, 3), 243, np.uint8)).save(tmp_path / "scans" / "glass.tif")
    (tmp_path / "scans" / "gone.svs").symlink_to("nowhere")
    options = [*GRID, "--slide-mpp", "0.5"]

    assert main(["inspect", str(tmp_path / "scans"), *options]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("glass: no tissue found in ") and "--tissue" in line for line in lines)
    assert any(line.startswith("gone: ") and "dangling link to nowhere" in line for line in lines)
    assert lines[-1] == "3 slides: 1 usable, 1 no tissue found, 1 failed"
    assert main(["inspect", str(tmp_path / "scans" / "glass.tif"), *options, "--workers", "0"]) == 1
    assert main(["inspect", str(tmp_path / "scans" / "good.tif"), *GRID, "--workers", "0"]) == 0
