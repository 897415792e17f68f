"""One slide, one job: what is stored is what the encoder says of the tiles that the plan names."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from parfocal.embed import EmbedSettings, create_embedding_set, embed_slide, load_encoders
from parfocal.embed.pace import TilesDone
from parfocal.embed.reading import batches
from parfocal.encoders import TileEncoder
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.regions import plan_regions
from parfocal.regions.tiles import RegionTiles, iter_tiles
from parfocal.run.jobs import prefetched
from parfocal.slides import SlideSource, open_slide
from parfocal.store import open_set


def test_the_store_holds_the_rows_of_the_planned_tiles(tmp_path: Path, make_slide, small_settings) -> None:
    path = make_slide()
    encoders = load_encoders(small_settings)
    set_path = create_embedding_set(tmp_path / "store", small_settings, encoders)
    told: list[TilesDone] = []

    embedded = embed_slide(SlideSource("one", path), encoders, small_settings, set_path, on_tiles=told.append)

    with open_slide(path) as slide:
        plan = plan_regions(slide, small_settings.grid)
        regions = list(iter_tiles(slide, plan))
    tokens = open_set(set_path).read("one")
    assert embedded.n_regions == plan.n_regions == tokens.n_regions >= 20
    assert told[0] == TilesDone(0, sum(embedded.n_tiles.values()))
    assert told[-1].done == told[-1].total == told[0].total
    assert (told[-1].encode_seconds, told[-1].wait_seconds) <= (embedded.encode_seconds, embedded.wait_seconds)
    assert np.array_equal(tokens.region_xy_um, plan.region_xy_um())
    for mpp in (2.0, 1.0, 0.5):
        # One tile at a time, whatever the batches were.
        rows = [encoders[mpp].encode(tile[None])[0] for region in regions for tile in region.tiles[mpp]]
        assert np.array_equal(tokens.features[mpp], np.stack(rows))
        planned = plan.tiles(mpp)
        assert np.array_equal(tokens.region[mpp], planned.region)
        assert np.array_equal(tokens.center_um[mpp], planned.center_um)
        with h5py.File(set_path / f"{mpp:g}" / "one.h5") as file:
            assert np.array_equal(file["coords"][:], planned.coords_l0px)
            assert file["coords"].attrs["level0_width"] == 1900
            assert file["coords"].attrs["level0_height"] == 1130
            assert abs(file.attrs["slide_mpp"] - 0.4985) < 1e-6
            assert file.attrs["realised_mpp_min"] < mpp < file.attrs["realised_mpp_max"]
    assert 0 < embedded.n_tiles[0.5] < 16 * embedded.n_regions


def test_a_finished_slide_is_not_touched(tmp_path: Path, make_slide, small_settings) -> None:
    path = make_slide()
    encoders = load_encoders(small_settings)
    set_path = create_embedding_set(tmp_path / "store", small_settings, encoders)
    first = embed_slide(SlideSource("one", path), encoders, small_settings, set_path)
    before = {file: file.stat().st_mtime_ns for file in set_path.rglob("*.h5")}

    again = embed_slide(SlideSource("one", path), {}, small_settings, set_path)

    assert again.kept
    assert not first.kept
    assert (again.n_regions, again.n_tiles) == (first.n_regions, first.n_tiles)
    assert {file: file.stat().st_mtime_ns for file in set_path.rglob("*.h5")} == before


def test_another_slide_under_the_same_id_is_refused(tmp_path: Path, make_slide, small_settings) -> None:
    encoders = load_encoders(small_settings)
    set_path = create_embedding_set(tmp_path / "store", small_settings, encoders)
    embed_slide(SlideSource("one", make_slide()), encoders, small_settings, set_path)

    with pytest.raises(MismatchError, match=r"another file .* Remove .*index/one\.h5"):
        embed_slide(SlideSource("one", make_slide(seed=1)), encoders, small_settings, set_path)
    with pytest.raises(MismatchError, match=r"with 0\.4985 um per pixel, and 0\.25 is asked now"):
        embed_slide(SlideSource("one", make_slide(), 0.25), encoders, small_settings, set_path)


@pytest.mark.parametrize("mpp", [0.0, float("nan"), -1.0, 352.8])
def test_a_resolution_that_no_slide_has_never_touches_a_finished_slide(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, mpp: float
) -> None:
    encoders = load_encoders(small_settings)
    set_path = create_embedding_set(tmp_path / "store", small_settings, encoders)
    embed_slide(SlideSource("one", make_slide()), encoders, small_settings, set_path)

    for source, settings in (
        (SlideSource("one", make_slide(), mpp), small_settings),
        (SlideSource("one", make_slide()), small_settings.model_copy(update={"slide_mpp": mpp})),
    ):
        with pytest.raises(ConfigError, match=r"0\.08 to 20") as caught:
            embed_slide(source, encoders, settings, set_path)
        assert "Remove" not in str(caught.value)
    assert open_set(set_path).slides == ("one",)


@pytest.mark.parametrize("damage", ["lost", "truncated", "rows", "other"])
def test_a_finished_slide_whose_features_are_damaged_is_not_called_kept(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, damage: str
) -> None:
    encoders = load_encoders(small_settings)
    set_path = create_embedding_set(tmp_path / "store", small_settings, encoders)
    source = SlideSource("one", make_slide())
    embed_slide(source, encoders, small_settings, set_path)
    features = set_path / "1" / "one.h5"
    whole = features.read_bytes()
    if damage == "lost":
        features.unlink()
    elif damage == "truncated":
        features.write_bytes(whole[: len(whole) // 2])
    elif damage == "rows":
        with h5py.File(features, "r+") as file:
            file["features"].resize((3, encoders[1.0].dim))
    else:
        with h5py.File(features, "w") as file:
            file["coords"] = np.zeros((3, 2), np.int64)
    others = {file: file.stat().st_mtime_ns for file in set_path.rglob("*.h5") if file != features}

    with pytest.raises(StoreError, match=r"1/one\.h5.* Put it back, or remove .*index/one\.h5 and embed") as caught:
        embed_slide(source, encoders, small_settings, set_path)

    assert "\n" not in str(caught.value)
    assert {file: file.stat().st_mtime_ns for file in others} == others
    (set_path / "index" / "one.h5").unlink()
    assert not embed_slide(source, encoders, small_settings, set_path).kept
    assert features.stat().st_size == len(whole)
    assert embed_slide(source, encoders, small_settings, set_path).kept


def test_glass_is_a_finished_slide_without_regions(tmp_path: Path, make_slide, small_settings) -> None:
    encoders = load_encoders(small_settings)
    set_path = create_embedding_set(tmp_path / "store", small_settings, encoders)

    embedded = embed_slide(SlideSource("glass", make_slide(tissue=False)), encoders, small_settings, set_path)

    assert embedded.n_regions == 0
    assert open_set(set_path).read("glass").features[0.5].shape == (0, encoders[0.5].dim)


def test_rows_that_fail_leave_no_file(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    settings = small_settings.model_copy(update={"dtype": "float16"})
    real = load_encoders(settings)
    set_path = create_embedding_set(tmp_path / "store", settings, real)
    huge = {mpp: _Wide(encoder, after=3) for mpp, encoder in real.items()}
    threads = threading.active_count()

    with pytest.raises(StoreError, match="does not fit float16"):
        embed_slide(SlideSource("one", make_slide()), huge, settings, set_path)

    assert not list(set_path.rglob("*.h5"))
    assert threading.active_count() == threads


def test_settings_decide_the_set_and_the_batch_does_not(tmp_path: Path, small_settings: EmbedSettings) -> None:
    def name(**changes: object) -> str:
        settings = small_settings.model_copy(update=changes)
        return create_embedding_set(tmp_path, settings, load_encoders(settings)).name

    assert name() == name(batch=3, workers=2, device=("cpu",))
    grids = [small_settings.grid.model_copy(update=change) for change in ({"min_tissue": 0.2}, {"mpps": (2.0, 1.0)})]
    assert len({name(), name(dtype="float16"), name(coarse="native"), *(name(grid=grid) for grid in grids)}) == 5


def test_no_encoder_is_no_silent_default(small_settings: EmbedSettings) -> None:
    with pytest.raises(ConfigError, match="filterbank"):
        load_encoders(EmbedSettings())
    with pytest.raises(ConfigError, match="--tile-px 224"):
        load_encoders(small_settings.model_copy(update={"encoder": "filterbank"}))


def test_batches_cross_regions_and_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    regions = [
        RegionTiles(
            number,
            {mpp: rng.integers(0, 255, (count, 2, 2, 3), dtype=np.uint8) for mpp, count in ((2.0, 1), (0.5, fine))},
        )
        for number, fine in enumerate([5, 0, 9, 2])
    ]
    found: dict[float, list[np.ndarray]] = {2.0: [], 0.5: []}
    for mpp, tiles in batches(regions, {2.0: 4, 0.5: 4}):
        found[mpp].append(tiles)

    assert [len(tiles) for tiles in found[0.5]] == [4, 4, 4, 4]
    assert [len(tiles) for tiles in found[2.0]] == [4]
    for mpp, tiles in found.items():
        assert np.array_equal(np.concatenate(tiles), np.concatenate([region.tiles[mpp] for region in regions]))


def test_reading_ahead_keeps_order_and_passes_errors_on() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="disk is gone"), prefetched(numbers()) as ready:
        seen.extend(ready)

    assert seen == [0, 1, 2, 3, 4]


def test_reading_ahead_is_bounded_and_ends_with_its_reader() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    threads = threading.active_count()
    with prefetched(numbers(), depth=2) as ready:
        assert next(ready) == 0

    assert threading.active_count() == threads
    assert len(made) < 10


@pytest.mark.parametrize("begins_first", [True, False])
def test_a_signal_while_the_thread_is_started_leaves_no_thread_behind(
    monkeypatch: pytest.MonkeyPatch, begins_first: bool
) -> None:
    made, gate = [], threading.Event()
    start, run = threading.Thread.start, threading.Thread.run

    def numbers() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if not begins_first:
            thread._started.clear()  # as where the signal came before the thread had begun
        raise KeyboardInterrupt

    def late(thread: threading.Thread) -> None:
        if not begins_first:
            gate.wait()
        run(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(threading.Thread, "run", late)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), prefetched(numbers(), depth=2):
        raise AssertionError("the block was entered")
    gate.set()
    deadline = time.monotonic() + 60
    while not begins_first and threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)

    assert threading.active_count() == threads
    assert len(made) < 10 if begins_first else not made


class _Wide(TileEncoder):
    """An encoder whose rows grow beyond float16 after some batches."""

    def __init__(self, encoder: TileEncoder, *, after: int) -> None:
        self.encoder, self.after = encoder, after
        self.name, self.spec, self.dim, self.tile_px = "wide", "wide", encoder.dim, encoder.tile_px
        self.trained_mpps, self.symmetry = None, encoder.symmetry

    def describe(self) -> dict[str, object]:
        return {}

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        self.after -= 1
        rows = self.encoder.encode(tiles)
        return rows if self.after > 0 else rows + np.float32(1e6)
