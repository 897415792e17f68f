"""The example packages are installed, which is all that parfocal needs to find them, and run through the commands."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.store import open_set

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = ROOT / "tests" / "data" / "archives" / "format-1.zip"


def install(folder: Path, target: Path) -> None:
    """What an installer leaves of a package of one file, without a network or a build tool."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for file in folder.glob("*.py"):
        shutil.copy(file, target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    for folder in ("encoder", "head", "format"):
        install(ROOT / "examples" / "plugins" / folder, target)
    return target


def parfocal(site: Path, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "parfocal", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == status, done.stderr
    return done


def test_a_tile_encoder_of_another_package_embeds(site: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (1000, 1100, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slide.png")

    listed = json.loads(parfocal(site, "encoders", "--json").stdout)
    parfocal(
        site, "embed", tmp_path / "slide.png", "-o", tmp_path / "store", "--encoder", "stain-means",
        "--slide-mpp", "0.5", "--mpps", "1", "0.5", "--tissue", "none",
    )  # fmt: skip

    assert "stain-means" in {info["name"] for info in listed}
    tiles = open_set(tmp_path / "store")
    assert tiles.dims == {1.0: 24, 0.5: 24}
    assert tiles.read("slide").features[0.5].any()


def test_a_tile_encoder_that_cannot_be_imported_is_one_line_with_its_package(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "site"
    shutil.copytree(site, broken)
    (broken / "parfocal_stain_means.py").write_text("import nothing_of_the_kind\n")
    slide = tmp_path / "slide.png"
    Image.fromarray(np.zeros((1000, 1100, 3), np.uint8)).save(slide)

    said = parfocal(
        broken, "embed", slide, "-o", tmp_path / "store", "--encoder", "stain-means", "--slide-mpp", "0.5", status=1
    ).stderr.strip()  # fmt: skip

    assert len(said.splitlines()) == 1
    assert "PluginError" in said
    assert "of the package parfocal-stain-means 1.0: it cannot be imported (ModuleNotFoundError" in said
    listed = {info["name"]: info for info in json.loads(parfocal(broken, "encoders", "--json").stdout)}
    assert not listed["stain-means"]["installed"]


def test_a_feature_format_of_another_package_is_indexed(site: Path, tmp_path: Path) -> None:
    rng, written = np.random.default_rng(0), {}
    for mpp, side in ((2.0, 1792), (1.0, 896)):
        n = 3584 // side
        xy = np.array([(side * x, side * y) for y in range(n) for x in range(n)])
        written[mpp] = rng.standard_normal((len(xy), 5)).astype(np.float32)
        (tmp_path / "job" / f"{mpp:g}").mkdir(parents=True)
        file = tmp_path / "job" / f"{mpp:g}" / "s0.npz"
        np.savez(file, rows=written[mpp], xy=xy, tile_px=224, tile_l0px=side)

    folders = sorted((tmp_path / "job").iterdir())
    parfocal(site, "index", *folders, "-o", tmp_path / "store", "--slide-mpp", "0.25")
    code = (
        "import sys, parfocal; tiles = parfocal.open_set(sys.argv[1]); tokens = tiles.read('s0'); "
        "print({mpp: round(float(rows.sum()), 3) for mpp, rows in tokens.features.items()})"
    )
    path = os.pathsep.join([str(site), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "store"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip

    assert done.stdout.strip() == str({mpp: round(float(rows.sum()), 3) for mpp, rows in written.items()})
    file.write_bytes(file.read_bytes()[:-1])
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "store"], capture_output=True).returncode == 1


def test_a_head_of_another_package_is_evaluated_fitted_and_predicts(site: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(ARCHIVE).extractall(tmp_path)
    labels = ("--labels", tmp_path / "labels.csv", "--target", "kind", "--group", "patient")
    how = ("--folds", "2", "--repeats", "1", "--inner-folds", "2")

    parfocal(site, "evaluate", tmp_path / "store", *labels, "--arms", "median", "-o", tmp_path / "out", *how)
    results = (tmp_path / "out" / "results.csv").read_text()
    assert "median" in results
    ids = {row.split(",")[2] for row in results.splitlines()[1:]}
    parfocal(site, "fit", tmp_path / "store", *labels, "--arm", min(ids), "-o", tmp_path / "head", *how)
    parfocal(site, "predict", tmp_path / "store", "--head", tmp_path / "head", "-o", tmp_path / "p.csv")

    assert len((tmp_path / "p.csv").read_text().splitlines()) == 1 + 8
    # Without the package the head says where it came from.
    (tmp_path / "nothing").mkdir()
    again = ("predict", tmp_path / "store", "--head", tmp_path / "head", "-o", tmp_path / "q.csv")
    said = parfocal(tmp_path / "nothing", *again, status=1).stderr
    assert "from a package that is not installed here" in said
