"""Pictures show what the encoder was given, under names that nothing else has."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.embed.conftest import slide_bytes

from parfocal import export_features, export_pictures, index_features, load_tile_encoder, open_set
from parfocal.cli import main
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ConfigError
from parfocal.export import ExportSettings, PictureSettings
from parfocal.export.tiles import features_of
from parfocal.store import EmbeddingSet, create_set

SPEC = "filterbank,tile_px=64"


def embed(folder: Path, *, width: int = 1900, **grid: object) -> EmbeddingSet:
    (folder / "one.tif").write_bytes(slide_bytes(0, 0.4985, width=width))
    settings = EmbedSettings(
        grid=GridConfig(**{"region_um": 128.0, "tile_px": 64, **grid}), encoder=SPEC, dtype="float32"
    )
    embed_slides([folder / "one.tif"], folder / "store", settings)
    return open_set(folder / "store")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    """A slide of 1,900 x 1,130 px, in regions of 128 um with 21 tiles."""
    return embed(tmp_path_factory.mktemp("embedded"))


def rows_of(pictures: dict[str, np.ndarray], embeddings: EmbeddingSet) -> None:
    """The encoder makes of each picture the row that the store has at its place."""
    encoder = load_tile_encoder(SPEC)
    seen = 0
    for features in features_of(embeddings, "one", in_um=False):
        keys = [f"one/{features.mpp:g}/{x}_{y}" for x, y in features.xy_l0px.tolist()]
        rows = encoder.encode(np.stack([pictures[key] for key in keys]))
        np.testing.assert_allclose(rows, features.rows, atol=1e-5)  # batches of another size add up in another order
        seen += len(keys)
    assert seen == len(pictures)


def read_shards(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, dict[str, object]]]:
    pictures, facts = {}, {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as opened:
            for member in opened:
                name, _, suffix = member.name.rpartition(".")
                content = opened.extractfile(member).read()
                if suffix == "json":
                    facts[name] = json.loads(content)
                else:
                    pictures[name] = np.asarray(Image.open(io.BytesIO(content)))
    return pictures, facts


def test_shards_hold_the_pixels_that_the_encoder_was_given(tiles: EmbeddingSet, tmp_path: Path) -> None:
    done = export_pictures(tiles, tmp_path, PictureSettings(shard_mb=0.5))

    pictures, facts = read_shards(tmp_path)
    rows_of(pictures, tiles)
    assert done.done[0].n_tiles == len(pictures) == len(facts)
    shards = sorted(tmp_path.glob("*.tar"))
    assert len(shards) > 2
    assert all(shard.stat().st_size <= 500_000 for shard in shards)
    for name, said in facts.items():
        slide, mpp, place = name.split("/")
        assert (said["slide"], f"{said['mpp']:g}", f"{said['x']}_{said['y']}") == (slide, mpp, place)
        assert said["magnification"] == 10 / said["mpp"]
        region = tiles.region_xy_um("one")[said["region"]]
        assert (region <= np.array([said["x_um"], said["y_um"]]) + 1e-3).all()
        assert (region + 128 >= np.array([said["x_um"], said["y_um"]]) + said["side_um"] - 1e-3).all()


def test_tiles_that_overlapping_regions_share_are_one_picture_with_the_pixels_that_were_encoded(
    tmp_path: Path,
) -> None:
    shared = embed(tmp_path, width=900, stride_um=96.0, mpps=(2.0, 0.5))

    export_pictures(shared, tmp_path / "out", PictureSettings())

    rows_of(read_shards(tmp_path / "out")[0], shared)


def test_files_are_called_by_their_place_and_are_kept(tiles: EmbeddingSet, tmp_path: Path) -> None:
    settings = PictureSettings(pictures="png", mpps=(1.0,))
    n_tiles = export_pictures(tiles, tmp_path, settings).done[0].n_tiles
    files = sorted((tmp_path / "one" / "1").glob("*_*.png"))
    assert len(files) == n_tiles == tiles.n_tiles("one")[1.0]

    assert export_pictures(tiles, tmp_path, settings).done[0].n_kept == n_tiles
    files[0].write_bytes(b"mine")
    files[1].unlink()
    refused = export_pictures(tiles, tmp_path, settings)
    assert "holds other pictures" in refused.failed[0].message
    assert files[0].read_bytes() == b"mine"
    assert not files[1].exists()
    export_pictures(tiles, tmp_path, settings.model_copy(update={"overwrite": True}))
    with Image.open(files[0]) as picture:
        assert picture.size == (64, 64)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    # The same tiles in another kind of file are not laid beside them.
    other = settings.model_copy(update={"jpeg": 90})
    assert "holds other pictures" in export_pictures(tiles, tmp_path, other).failed[0].message
    export_pictures(tiles, tmp_path, other.model_copy(update={"overwrite": True}))
    assert {path.suffix for path in (tmp_path / "one" / "1").iterdir()} == {".jpg"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--jpeg", "0"], "--jpeg needs --pictures"),
        (["--shard-mb", "0", "--pictures", "png"], "--shard-mb says nothing of --pictures png"),
        (["--shard-mb", "0", "--pictures", "tar"], "shard"),
        (["--per", "cohort"], "--per says nothing"),
    ],
)
def test_a_number_of_nothing_is_told_like_any_other(
    tiles: EmbeddingSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["export", str(tiles.path), "-o", str(tmp_path / "out"), *options]) != 0
    assert said in capsys.readouterr().err


def test_shards_of_before_are_not_mixed_with_those_of_now(tiles: EmbeddingSet, tmp_path: Path) -> None:
    export_pictures(tiles, tmp_path, PictureSettings(shard_mb=0.5))

    coarse = PictureSettings(mpps=(2.0,))
    assert export_pictures(tiles, tmp_path, coarse).exit_status == 1
    export_pictures(tiles, tmp_path, coarse.model_copy(update={"overwrite": True}))
    assert len(read_shards(tmp_path)[0]) == tiles.n_tiles("one")[2.0]


def test_of_an_indexed_set_tiles_are_read_at_their_footprints(tiles: EmbeddingSet, tmp_path: Path) -> None:
    export_features(tiles, tmp_path / "trident", ExportSettings())
    slides = [tiles.path.parents[1] / "one.tif"]
    indexed = index_features([tmp_path / "trident"], tmp_path / "index", slide_mpp=0.4985).embeddings
    without = export_pictures(indexed, tmp_path / "none", PictureSettings())
    assert "--slides" in without.failed[0].message

    export_pictures(indexed, tmp_path / "out", PictureSettings(mpps=(2.0,), jpeg=95), slides=slides)
    export_pictures(tiles, tmp_path / "own", PictureSettings(mpps=(2.0,)))

    found, own = (read_shards(tmp_path / name)[0] for name in ("out", "own"))
    assert found.keys() == own.keys()
    for name, pixels in own.items():
        assert np.abs(found[name].astype(int) - pixels).mean() < 8  # JPEG, and half a pixel of level 0


def test_a_slide_that_is_gone_or_changed_is_one_line(tmp_path: Path) -> None:
    made = embed(tmp_path, mpps=(2.0,))
    slide = tmp_path / "one.tif"
    slide.write_bytes(slide_bytes(5, 0.4985))
    assert "has changed" in export_pictures(made, tmp_path / "out").failed[0].message
    slide.unlink()
    gone = export_pictures(made, tmp_path / "out")
    assert gone.exit_status == 1
    assert "--slides" in gone.failed[0].message
    assert "one," in (tmp_path / "out" / "failures.csv").read_text()


def test_regions_have_no_pictures(tiles: EmbeddingSet, tmp_path: Path) -> None:
    path = create_set(
        tmp_path, "m-cls", "regions", region_um=128.0, dims=3, settings={}, encoder_digests={1.0: "d"}, dtype="float32"
    )
    with pytest.raises(ConfigError, match="set of tiles"):
        export_pictures(open_set(path), tmp_path / "out")
