"""`embed --add-to`: magnifications on the lattice of tiles that another tool has encoded, whose files stay as is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from parfocal.cli import main
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.encoders import TileEncoder, load_tile_encoder
from parfocal.errors import ConfigError, MismatchError
from parfocal.geometry import Box
from parfocal.slides import open_slide, read_tile
from parfocal.store import EmbeddingSet, index_features, open_set, open_sets

from .conftest import slide_bytes

TILE, MPP = 64, 0.4985
SPEC = f"filterbank,tile_px={TILE}"
# Where the other tool's lattice begins, in pixels: at no whole number of tiles, nor of regions.
START = (23, 41)


_ROWS: dict[tuple[int, int], np.ndarray] = {}


class Lab:
    """Slides, and the 20x features of them that a lab has, as TRIDENT writes them."""

    def __init__(self, root: Path, encoder: TileEncoder) -> None:
        self.root, self.slides, self.encoder = root, root / "slides", encoder
        self.folder = root / "job" / f"20x_{TILE}px_0px_overlap" / "features_other"

    def add(self, name: str, seed: int, *, shift_px: int = 0, features: np.ndarray | None = None) -> np.ndarray:
        """A slide with features at 20x; `shift_px` says by how much their coordinates are wrong."""
        self.slides.mkdir(parents=True, exist_ok=True)
        path = self.slides / f"{name}.tif"
        path.write_bytes(slide_bytes(seed, MPP))
        columns, rows = np.meshgrid(np.arange(3, 11), np.arange(2, 9))
        coords = np.column_stack([columns.ravel(), rows.ravel()]) * TILE + START
        # A hole of one region, and rows in no order.
        coords = coords[~((coords[:, 0] // 256 == 1) & (coords[:, 1] // 256 == 2))]
        coords = coords[np.random.default_rng(seed).permutation(len(coords))]
        if features is None:
            key = (seed, len(coords))
            if key not in _ROWS:
                with open_slide(path) as slide:
                    tiles = [slide.read_level(0, x, y, TILE, TILE) for x, y in coords.tolist()]
                _ROWS[key] = self.encoder.encode(np.stack(tiles))
            features = _ROWS[key]
        self.folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(self.folder / f"{name}.h5", "w") as file:
            file["features"] = features
            file["features"].attrs["encoder"] = "other"
            file["coords"] = coords + shift_px
            file["coords"].attrs.update(
                patch_size=TILE, patch_size_level0=TILE, level0_magnification=20, target_magnification=20, overlap=0,
                name=name, level0_width=1900, level0_height=1130,
            )  # fmt: skip
        return coords

    def index(self, store: str = "store") -> EmbeddingSet:
        return index_features([self.folder.parent], self.root / store, slides=[self.slides]).embeddings


@pytest.fixture(scope="module")
def encoder() -> TileEncoder:
    return load_tile_encoder(SPEC)


@pytest.fixture
def lab(tmp_path: Path, encoder: TileEncoder) -> Lab:
    return Lab(tmp_path, encoder)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, encoder: TileEncoder) -> tuple[Lab, EmbeddingSet, EmbeddingSet]:
    """A lab of two slides, its index, and the set that has 10x and 5x too."""
    lab = Lab(tmp_path_factory.mktemp("lab"), encoder)
    for seed, name in enumerate("ab"):
        lab.add(name, seed)
    index = lab.index()
    summary = embed_slides([lab.slides], lab.root / "store", adding(index))
    return lab, index, open_set(summary.set_path)


def adding(index: EmbeddingSet, spec: str = SPEC, mpps: tuple[float, ...] = (2.0, 1.0), **more: Any) -> EmbedSettings:
    grid = more.pop("grid", None) or GridConfig(mpps=mpps)
    values = {"encoder": spec, "grid": grid, "dtype": "float32", "add_to": index.path, "batch": 16, "qc": False}
    return EmbedSettings(**{**values, **more})


def state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*.h5"))}


def test_added_tiles_nest_exactly_in_those_that_are_there(done: tuple[Lab, EmbeddingSet, EmbeddingSet]) -> None:
    _, index, made = done
    tokens = made.read("a")

    assert made.mpps == (2.0, 1.0, 0.5)
    assert tokens.region_um == pytest.approx(4 * TILE * MPP, rel=1e-12)
    corners = tokens.region_xy_um / MPP
    # Whole pixels, on the lattice of the tiles: 23 = 23 mod 64, 41 = 41 mod 64.
    assert corners == pytest.approx(np.rint(corners), abs=1e-6)
    assert set(map(tuple, np.rint(corners).astype(int) % TILE)) == {START}
    for mpp, n in ((2.0, 1), (1.0, 2), (0.5, 4)):
        side_um = tokens.region_um / n
        slot = (tokens.center_um[mpp] + tokens.region_um / 2) / side_um - 0.5
        assert slot == pytest.approx(np.rint(slot), abs=1e-4)
    # No region without a tile that was there, no tile lost.
    assert set(tokens.region[0.5].tolist()) == set(range(tokens.n_regions)) == set(tokens.region[2.0].tolist())
    assert len(tokens.region[0.5]) == len(index.read("a").region[0.5])


def test_added_rows_are_what_the_encoder_gives_of_the_pixels_around_the_tiles(
    done: tuple[Lab, EmbeddingSet, EmbeddingSet], encoder: TileEncoder
) -> None:
    lab, _, made = done
    tokens = made.read("b")
    for mpp, n in ((2.0, 4), (1.0, 2)):
        # Another way to the same pixels: read_tile of the footprint, on the slide as it is.
        side_um = n * TILE * MPP
        corner_um = tokens.region_xy_um[tokens.region[mpp]] + tokens.region_um / 2 + tokens.center_um[mpp] - side_um / 2
        with open_slide(lab.slides / "b.tif") as slide:
            tiles = [read_tile(slide, Box(x, y, side_um, side_um), mpp=n * MPP) for x, y in corner_um.tolist()]
        expected = encoder.encode(np.stack(tiles))
        # Halving twice and averaging 4 x 4 differ by a grey level at most.
        cosine = (expected * tokens.features[mpp]).sum(1)
        cosine /= np.linalg.norm(expected, axis=1) * np.linalg.norm(tokens.features[mpp], axis=1)
        assert cosine.min() > 0.9999


def test_rows_that_are_there_keep_their_places_and_their_files(done: tuple[Lab, EmbeddingSet, EmbeddingSet]) -> None:
    lab, _, made = done
    tokens = made.read("a")
    with h5py.File(lab.folder / "a.h5") as file:
        by_place = {tuple(xy): row for xy, row in zip(file["coords"][...].tolist(), file["features"][...], strict=True)}
    corners = tokens.region_xy_um[tokens.region[0.5]] + tokens.region_um / 2 + tokens.center_um[0.5] - TILE * MPP / 2
    for xy, row in zip(np.rint(corners / MPP).astype(int).tolist(), tokens.features[0.5], strict=True):
        assert np.array_equal(by_place[tuple(xy)], row)
    assert not (made.path / "0.5").exists()


def test_no_stored_tile_is_encoded_beyond_those_that_are_verified(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    coords = lab.add("a", 0)
    index, kind, counted = lab.index(), type(lab.encoder), list[int]()
    encode: Callable[..., np.ndarray] = kind.encode
    monkeypatch.setattr(kind, "encode", lambda self, tiles: counted.append(len(tiles)) or encode(self, tiles))

    summary = embed_slides([lab.slides], lab.root / "store", adding(index, verify=5))

    new = sum(summary.done[0].n_tiles.values())
    assert sum(counted) == new + 5
    assert set(summary.done[0].n_tiles) == {2.0, 1.0}
    assert new < len(coords)


def test_verified_rows_count_as_the_encoders_and_others_do_not(
    done: tuple[Lab, EmbeddingSet, EmbeddingSet], encoder: TileEncoder
) -> None:
    lab, index, made = done
    assert made.encoder_digest == encoder.digest
    unverified = embed_slides([lab.slides / "a.tif"], lab.root / "other", adding(index, verify=0))
    other = open_set(unverified.set_path)

    assert other.encoder_digests[0.5] == index.encoder_digests[0.5] != encoder.digest
    assert other.encoder_digests[2.0] == encoder.digest
    assert other.name != made.name


def test_rows_of_another_encoder_or_place_are_refused_with_how_far_off_they_are(lab: Lab) -> None:
    coords = lab.add("good", 0)
    lab.add("encoder", 1)
    with h5py.File(lab.folder / "encoder.h5", "r+") as file:
        file["features"][...] = file["features"][...][:, ::-1]
    lab.add("coordinates", 1, shift_px=TILE // 2)
    lab.add("slide", 2, features=lab.encoder.encode(noise(len(coords))))
    summary = embed_slides([lab.slides], lab.root / "store", adding(lab.index(), verify=12))

    assert {failed.slide for failed in summary.failed} == {"encoder", "coordinates", "slide"}
    for failed in summary.failed:
        assert failed.error == "MismatchError"
        assert "of 12 tiles encoded again" in failed.message
        assert "median" in failed.message
    assert summary.exit_status == 3
    assert open_set(summary.set_path).slides == ("good",)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 255, (n, TILE, TILE, 3), dtype=np.uint8)


def test_rows_of_another_width_are_refused_before_a_slide_is_read(lab: Lab) -> None:
    n = len(lab.add("a", 0))
    lab.add("a", 0, features=np.random.default_rng(0).normal(size=(n, 7)).astype(np.float32))
    index = lab.index()
    (lab.slides / "a.tif").write_bytes(b"no slide")

    with pytest.raises(MismatchError, match=r"have 7 numbers, and .* gives 115: another encoder made them"):
        embed_slides([lab.slides], lab.root / "store", adding(index))


def test_source_files_stay_as_they_are_and_a_second_run_keeps_all_until_they_change(lab: Lab) -> None:
    lab.add("a", 0)
    index = lab.index()
    sources = {**state(lab.folder), **state(index.path)}
    first = embed_slides([lab.slides], lab.root / "store", adding(index))
    assert {**state(lab.folder), **state(index.path)} == sources
    before = state(first.set_path)

    again = embed_slides([lab.slides], lab.root / "store", adding(index))

    assert [one.kept for one in again.done] == [True]
    assert state(first.set_path) == before
    with h5py.File(lab.folder / "a.h5", "r+") as file:
        file["features"][0] = 0.5
    changed = embed_slides([lab.slides], lab.root / "store", adding(index))
    assert "has changed since it was indexed" in changed.failed[0].message


def test_the_same_command_goes_on_and_another_adds_more(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.add("a", 0)
    index = lab.index()
    call = ["embed", str(lab.slides), "--add-to", str(index.path.parent), "--encoder", SPEC, "--workers", "0", "--json"]

    assert main([*call, "--mpps", "2", "1"]) == 0
    assert main([*call, "--mpps", "2", "1"]) == 0
    said = capsys.readouterr().out
    assert main([*call, "--mpps", "1"]) == 0

    assert '"kept": 1' in said
    assert len(open_sets(index.path.parent)) == 3


def test_a_run_that_was_killed_leaves_what_one_without_a_pause_does(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, content: Callable[[Path], dict[str, object]]
) -> None:
    lab.add("a", 0)
    lab.add("b", 1)
    index = lab.index()
    kind = type(lab.encoder)
    encode, calls = kind.encode, list[int]()

    def dies(self: TileEncoder, tiles: np.ndarray) -> np.ndarray:
        calls.append(len(tiles))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return np.asarray(encode(self, tiles))

    with monkeypatch.context() as killed:
        killed.setattr(kind, "encode", dies)
        with pytest.raises(KeyboardInterrupt):
            embed_slides([lab.slides], lab.root / "store", adding(index))
    resumed = embed_slides([lab.slides], lab.root / "store", adding(index))
    whole = embed_slides([lab.slides], lab.root / "whole", adding(index))

    one, other = content(resumed.set_path), content(whole.set_path)
    assert {name: value for name, value in one.items() if "features_file" not in name} == {
        name: value for name, value in other.items() if "features_file" not in name
    }


def test_slides_and_features_without_each_other_are_one_line_each(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate("ab"):
        lab.add(name, seed)
    index = lab.index()
    (lab.slides / "b.tif").rename(lab.slides / "c.tif")

    status = main(
        ["embed", str(lab.slides), "--add-to", str(lab.root / "store"), "--mpps", "2", "1", "--encoder", SPEC,
         "--workers", "0"]
    )  # fmt: skip
    told = capsys.readouterr().err

    assert status == 3
    assert "c.tif has no features in" in told
    assert "b has features in" in told
    [made] = [path for path in (lab.root / "store").iterdir() if (path / "1").is_dir()]
    assert open_set(made).slides == ("a",)
    assert made != index.path


def test_tiles_on_several_lattices_are_refused_and_the_others_go_on(lab: Lab) -> None:
    lab.add("a", 0)
    lab.add("b", 1)
    with h5py.File(lab.folder / "b.h5", "r+") as file:
        coords = file["coords"][...]
        coords[coords[:, 0] > 500] += 20
        file["coords"][...] = coords
    summary = embed_slides([lab.slides], lab.root / "store", adding(lab.index(), verify=0))

    assert [one.slide for one in summary.done] == ["a"]
    assert "lie on no one lattice" in summary.failed[0].message


def test_finer_tiles_are_cut_out_of_coarse_ones(lab: Lab, tmp_path: Path) -> None:
    lab.add("a", 0)
    coarse = embed_slides([lab.slides], tmp_path / "own", EmbedSettings(
        grid=GridConfig(mpps=(2.0,), tile_px=TILE, region_um=128.0), encoder=SPEC, dtype="float32", qc=False
    ))  # fmt: skip
    index = open_set(coarse.set_path)

    made = open_set(embed_slides([lab.slides], tmp_path / "own", adding(index, mpps=(1.0,))).set_path)

    whole = embed_slides([lab.slides], tmp_path / "whole", EmbedSettings(
        grid=GridConfig(mpps=(2.0, 1.0), tile_px=TILE, region_um=128.0, min_tissue=0), encoder=SPEC, dtype="float32"
    ))  # fmt: skip
    ours, theirs = made.read("a"), open_set(whole.set_path).read("a")
    place = {tuple(np.rint(xy).astype(int)): n for n, xy in enumerate(theirs.region_xy_um)}
    for region, xy in enumerate(ours.region_xy_um):
        other = place[tuple(np.rint(xy).astype(int))]
        mine, its = ours.features[1.0][ours.region[1.0] == region], theirs.features[1.0][theirs.region[1.0] == other]
        assert np.allclose(mine, its, atol=1e-5)
    assert len(ours.features[2.0]) == ours.n_regions > 0


@pytest.mark.parametrize(
    ("change", "help"),
    [
        ({"mpps": (0.5,)}, "has all of these magnifications"),
        ({"grid": GridConfig(mpps=(2.0,), tile_px=56)}, "Leave --tile-px out"),
        ({"grid": GridConfig(mpps=(0.8,), region_um=179.2)}, "do not fill a region"),
    ],
)
def test_a_grid_that_does_not_fit_is_told_before_a_slide_is_read(
    done: tuple[Lab, EmbeddingSet, EmbeddingSet], tmp_path: Path, change: dict[str, object], help: str
) -> None:
    lab, index, _ = done
    with pytest.raises(ConfigError, match=help):
        embed_slides([lab.slides], tmp_path, adding(index, **change))
