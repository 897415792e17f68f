"""A run draws each slide with its tissue and regions, beside the store."""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.store import open_set
from parfocal.store.layout import index_path


def pictures(store: Path) -> list[str]:
    return sorted(str(path.relative_to(store)) for path in store.rglob("*.jpg"))


def test_every_slide_has_a_picture_unless_asked_not_to(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    paths = [make_slide("one.tif"), make_slide("two.tif")]

    drawn = embed_slides(paths, tmp_path / "drawn", small_settings)
    plain = embed_slides(paths, tmp_path / "plain", small_settings.model_copy(update={"qc": False}))

    assert pictures(tmp_path / "drawn") == ["qc/one.jpg", "qc/two.jpg"]
    assert pictures(tmp_path / "plain") == []
    assert drawn.set_path.name == plain.set_path.name
    assert open_set(tmp_path / "drawn").slides == ("one", "two")


def test_a_mask_decides_the_rows_and_stands_in_the_index(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    path = make_slide("one.tif")
    masks = tmp_path / "masks"
    masks.mkdir()
    with Image.open(path) as picture:
        width, height = picture.size
    marked = np.zeros((height // 4, width // 4), np.uint8)
    marked[:, : width // 16] = 255
    Image.fromarray(marked).save(masks / "one.png")

    def settings(tissue: str) -> EmbedSettings:
        grid = GridConfig.model_validate({**small_settings.grid.model_dump(), "tissue": tissue})
        return small_settings.model_copy(update={"grid": grid})

    of_mask = embed_slides([path], tmp_path / "store", settings(str(masks)))
    of_all = embed_slides([path], tmp_path / "store", settings("none"))
    empty = Image.fromarray(np.zeros_like(marked))
    empty.save(masks / "one.png")
    nothing = embed_slides([path], tmp_path / "empty", settings(str(masks / "one.png")))

    few, every = (open_set(one.set_path).read("one") for one in (of_mask, of_all))
    assert 0 < few.n_regions < every.n_regions
    assert few.region_xy_um[:, 0].max() <= width / 4 * 0.5
    with h5py.File(index_path(of_mask.set_path, "one")) as index:
        assert str(index.attrs["tissue_mask"]).startswith("one.png ")
    assert pictures(tmp_path / "empty") == ["qc/one.jpg"]
    assert open_set(nothing.set_path).read("one").n_regions == 0
