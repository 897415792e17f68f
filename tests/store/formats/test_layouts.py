"""Folders as other tools leave them, at three magnifications, found and indexed through the files that are written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.errors import StoreError
from parfocal.store import index_features
from parfocal.store.folders import find_feature_folders
from parfocal.store.formats.format import FORMATS, FeaturesToWrite

SIDE_L0PX = 450  # at 0.5 mpp; of a slide of 0.249 um per pixel, whole numbers of pixels are no whole number of um
SLIDE_MPP = 112 / SIDE_L0PX


def features(slide: str, power: int, encoder: str = "toy", dim: int = 6) -> FeaturesToWrite:
    """The tiles of a slide at one magnification on the lattice of all; one of them is absent."""
    times = 20 // power
    side, columns, rows = SIDE_L0PX * times, 12 // times, 8 // times
    xy = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)[:-1] * side
    values = np.random.default_rng([power, *slide.encode()]).normal(size=(len(xy), dim)).astype(np.float32)
    size = (SIDE_L0PX * 13, SIDE_L0PX * 9)
    return FeaturesToWrite(slide, values, xy, 224, side, side, 10 / power, SLIDE_MPP, size, encoder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each layout a folder with one run for each magnification, of three slides, one of them in a folder."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("atlaspatch", "clam", "stamp", "trident"):
        write = FORMATS.get(name).write
        assert write is not None
        for power in (20, 10, 5):
            for slide in ("a", "b", "of/c"):
                write(root / name / f"{power}x", features(slide, power))
    return root


@pytest.mark.parametrize("name", ["atlaspatch", "clam", "stamp", "trident"])
def test_three_runs_of_a_layout_become_regions(runs: Path, tmp_path: Path, name: str) -> None:
    summary = index_features([runs / name], tmp_path / "store", slide_mpp=SLIDE_MPP)

    assert [one.slide for one in summary.slides] == ["a", "b", "of/c"]
    for one in summary.slides:
        # The place of the absent 5x tile is a region too: finer ones lie there.
        assert one.n_regions == 6
        assert one.n_tiles == {2.0: 5, 1.0: 23, 0.5: 95}
        assert one.largest_misalignment_um < 0.01
        assert one.remarks == ()
    # Region by region, and in each row by row: the tiles of the first one are in the upper left corner.
    order = [column + 12 * row for row in range(4) for column in range(4)]
    found = summary.embeddings.read("a").features[0.5]
    assert np.allclose(found[:16], features("a", 20).rows[order], atol=1e-2)


def test_a_tensor_finds_its_places_in_the_folder_of_patches(runs: Path, tmp_path: Path) -> None:
    """CLAM's .pt alone, as they are shared, with the folders of patches beside them."""
    for power in (20, 10, 5):
        for slide in ("a", "b"):
            path = tmp_path / f"{power}x" / "pt_files" / f"{slide}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((runs / "clam" / f"{power}x" / "pt_files" / f"{slide}.pt").read_bytes())
    torch.save({"rows": torch.zeros(3, 6)}, tmp_path / "5x" / "pt_files" / "b.pt")
    patches = [runs / "clam" / f"{power}x" / "patches" for power in (20, 10, 5)]

    summary = index_features([tmp_path, *patches], tmp_path / "store", slide_mpp=SLIDE_MPP)

    (one,), (bad,) = summary.slides, summary.failed
    assert (one.slide, one.n_tiles) == ("a", {2.0: 5, 1.0: 23, 0.5: 95})
    assert bad.slide == "b"
    assert "no file of one tensor" in bad.message


def test_one_of_several_encoders_is_chosen(tmp_path: Path) -> None:
    write = FORMATS.get("atlaspatch").write
    assert write is not None
    for encoder in ("toy", "other"):
        write(tmp_path / "run", features("a", 20, encoder))

    with pytest.raises(StoreError, match="several encoders are there: other, toy"):
        index_features([tmp_path / "run"], tmp_path / "store", slide_mpp=SLIDE_MPP)
    summary = index_features([tmp_path / "run"], tmp_path / "store", slide_mpp=SLIDE_MPP, encoder="toy")
    assert [one.slide for one in summary.slides] == ["a"]


def test_encoders_of_stamp_without_a_digest_are_told_apart(tmp_path: Path) -> None:
    """STAMP's `generate_hash: false` calls the folder by the encoder alone."""
    write = FORMATS.get("stamp").write
    assert write is not None
    for encoder in ("uni", "virchow2"):
        path = write(tmp_path / "made", features("of/c", 20, encoder))
        renamed = tmp_path / "run" / encoder / "of" / "c.h5"
        renamed.parent.mkdir(parents=True)
        path.rename(renamed)
    (tmp_path / "run" / "uni" / "broken.h5").write_text("no HDF5")

    folders = find_feature_folders([tmp_path / "run"], encoder="uni")

    (folder,) = folders
    assert (folder.path.name, folder.encoder, sorted(folder.sources)) == ("uni", "uni", ["broken", "of/c"])
    with pytest.raises(StoreError, match="several encoders are there: uni, virchow2"):
        find_feature_folders([tmp_path / "run"])


def test_a_file_that_is_cut_is_one_line_and_the_others_are_indexed(runs: Path, tmp_path: Path) -> None:
    for name in ("atlaspatch", "clam", "stamp"):
        folder = tmp_path / name
        for path in (runs / name / "20x").rglob("*"):
            if path.is_file():
                copy = folder / path.relative_to(runs / name / "20x")
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
        (cut,) = (path for path in folder.rglob("b.h5") if path.parent.name != "patches" or name == "atlaspatch")
        cut.write_bytes(cut.read_bytes()[:3000])

        summary = index_features([folder], tmp_path / f"store-{name}", slide_mpp=SLIDE_MPP)

        assert [one.slide for one in summary.slides] == ["a", "of/c"]
        assert [one.slide for one in summary.failed] == ["b"]
        assert str(cut.name) in summary.failed[0].message
