"""The example packages are installed with pip, which is all that parfocal needs to find them, and run by commands."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.cli import main
from parfocal.store import open_set

from .run.forked import Ended, forked

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = ROOT / "tests" / "data" / "archives" / "format-1.zip"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the three packages; it asks no index and builds with what is here."""
    folder = tmp_path_factory.mktemp("plugins")
    packages = [
        shutil.copytree(ROOT / "examples" / "plugins" / name, folder / name) for name in ("encoder", "head", "format")
    ]
    how = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *how, "--target", folder / "site", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def _commands(site: Path, commands: list[list[str]]) -> int:
    sys.path.insert(0, str(site))
    return next(filter(None, map(main, commands)), 0)


def parfocal(site: Path, *commands: tuple[object, ...], status: int = 0) -> Ended:
    """Run commands where the packages are installed; all succeed, or the last one ends with the status."""
    ended = forked(_commands, site, [[str(word) for word in command] for command in commands])
    assert ended.status == status, ended.stderr
    return ended


def _sums(site: Path, store: Path) -> None:
    sys.path.insert(0, str(site))
    print({mpp: round(float(rows.sum()), 3) for mpp, rows in open_set(store).read("s0").features.items()})


def test_pip_installs_each_as_a_package_of_one_file(site: Path) -> None:
    files = {file.name for file in site.glob("*.py")}
    entry_points = [file.read_text() for file in site.glob("*.dist-info/entry_points.txt")]

    assert files == {"parfocal_stain_means.py", "parfocal_median.py", "parfocal_npz.py"}
    assert len(entry_points) == 3
    assert all("[parfocal." in text for text in entry_points)


def test_a_tile_encoder_of_another_package_embeds(site: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (1000, 1100, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slide.png")

    how = ("--encoder", "stain-means", "--slide-mpp", "0.5", "--mpps", "1", "0.5", "--tissue", "none", "--workers", "1")
    embed = ("embed", tmp_path / "slide.png", "-o", tmp_path / "store", *how)
    said = parfocal(site, ("encoders", "--json"), embed).stdout

    listed, _ = json.JSONDecoder().raw_decode(said)
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

    embed = ("embed", slide, "-o", tmp_path / "store", "--encoder", "stain-means", "--slide-mpp", "0.5")
    done = parfocal(broken, ("encoders", "--json"), embed, status=1)

    said = done.stderr.strip()
    assert len(said.splitlines()) == 1
    assert "PluginError" in said
    assert "of the package parfocal-stain-means 1.0: it cannot be imported (ModuleNotFoundError" in said
    listed = {info["name"]: info for info in json.loads(done.stdout)}
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
    parfocal(site, ("index", *folders, "-o", tmp_path / "store", "--slide-mpp", "0.25"))
    done = forked(_sums, site, tmp_path / "store")

    assert done.stdout.strip() == str({mpp: round(float(rows.sum()), 3) for mpp, rows in written.items()})
    file.write_bytes(file.read_bytes()[:-1])
    assert forked(_sums, site, tmp_path / "store").status == 1


def test_a_head_of_another_package_is_evaluated_fitted_and_predicts(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zipfile.ZipFile(ARCHIVE).extractall(tmp_path)
    labels = ("--labels", tmp_path / "labels.csv", "--target", "kind", "--group", "patient")
    how = ("--folds", "2", "--repeats", "1", "--inner-folds", "2")

    def predict(to: str) -> tuple[object, ...]:
        return ("predict", tmp_path / "store", "--head", tmp_path / "head", "-o", tmp_path / to)

    parfocal(
        site,
        ("evaluate", tmp_path / "store", *labels, "--arms", "median", "-o", tmp_path / "out", *how),
        ("fit", tmp_path / "store", *labels, "--arm", "1/median", "-o", tmp_path / "head", *how),
        predict("p.csv"),
    )
    results = (tmp_path / "out" / "results.csv").read_text()
    assert {row.split(",")[2] for row in results.splitlines()[1:]} == {"1/median", "2/median"}
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 1 + 8

    # Without the package, as in the process of the tests, the head says where it came from.
    assert main([str(word) for word in predict("q.csv")]) == 1
    assert "from a package that is not installed here" in capsys.readouterr().err
