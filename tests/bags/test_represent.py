"""Region embeddings are those of the encoder, slide by slide; killed runs go on, wrong models are refused."""

import errno
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from parfocal.bags import RepresentSettings, represent, represent_regions
from parfocal.errors import MismatchError
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig, collate_regions
from parfocal.run.events import Event, Progress
from parfocal.run.failures import read_failures
from parfocal.run.records import read_records
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, open_sets, write_regions, write_tokens
from parfocal.store.layout import features_path, index_path

from ..slides.bucket import serving_bucket

DIMS = {2.0: 6, 0.5: 6}
EVERYTHING = RepresentSettings(readouts=("cls", "tokens", "attention"), batch=2, dtype="float32")


@pytest.fixture
def source(tmp_path: Path) -> EmbeddingSet:
    """Two slides of 3 regions; the second region of each has no fine tile, the third one no tile at all."""
    rng = np.random.default_rng(0)
    path = create_set(
        tmp_path / "store", "toy", "tiles", region_um=448.0, dims=DIMS, settings={"encoder": "toy"},
        encoder_digests={2.0: "aa", 0.5: "aa"}, tile_px=224, dtype="float32",
    )  # fmt: skip
    for slide in ("a", "b/c"):
        region = {2.0: np.array([0, 1], dtype=np.int32), 0.5: np.array([0, 0, 0], dtype=np.int32)}
        center = {2.0: np.zeros((2, 2)), 0.5: np.array([[-168, -168], [56, -56], [168, 168]])}
        write_tokens(
            path,
            SlideTokens(
                slide, 448.0, 0.5, np.array([[0.0, 0.0], [448.0, 0.0], [896.0, 0.0]]),
                {mpp: rng.standard_normal((len(rows), 6)).astype(np.float32) for mpp, rows in region.items()},
                region, {mpp: rows.astype(np.float32) for mpp, rows in center.items()},
            ),
        )  # fmt: skip
    return open_set(path)


def model(folder: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    settings = {"width": 8, "depth": 1, "heads": 2, "mpps": (2.0, 0.5), "dims": (6, 6), "encoders": ("aa", "aa")}
    RegionEncoder(RegionEncoderConfig(**{**settings, **changes})).save_pretrained(folder)
    return folder


def test_rows_are_what_the_encoder_says(source: EmbeddingSet, tmp_path: Path) -> None:
    folder = model(tmp_path / "mem")
    encoder = RegionEncoder.from_pretrained(folder)
    batch = collate_regions([(source.read("a"), [0, 1])])
    encoded = encoder.encode(batch.tokens, batch.xy_um, batch.mpp, batch.present)

    summary = represent_regions(source, folder, tmp_path / "out", EVERYTHING)

    assert summary.failed == ()
    cls, tokens, attention = summary.sets
    assert [one.name.rsplit("-", 1)[1] for one in summary.sets] == ["cls", "tokens", "attention"]
    # 2e-6: the encoder may put regions of other lengths into one product.
    np.testing.assert_allclose(cls.read_regions("a").features, encoded.cls.numpy(), atol=2e-6)
    assert attention.read_regions("a").features.shape == (2, 8 * 3)
    back, own = tokens.read("a"), source.read("a")
    np.testing.assert_array_equal(back.region[0.5], own.region[0.5])
    np.testing.assert_array_equal(back.center_um[0.5], own.center_um[0.5])
    fine = batch.mpp[0] == 0.5
    np.testing.assert_allclose(back.features[0.5], encoded.tokens[0][fine & batch.present[0]].numpy(), atol=2e-6)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_store_that_was_copied_to_a_bucket_gives_the_same(
    source: EmbeddingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = model(tmp_path / "mem"), RepresentSettings(readouts=("cls",), dtype="float32")
    here = represent_regions(source, folder, tmp_path / "here", settings)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    with serving_bucket("lab") as files:
        files.put(str(source.path.parent), "lab/deep/store", recursive=True)
        there = represent_regions("s3://lab/deep/store", folder, tmp_path / "there", settings)

    assert there.sets[0].slides == ("a", "b/c")
    for slide in there.sets[0].slides:
        own, other = (one.sets[0].read_regions(slide).features for one in (here, there))
        np.testing.assert_array_equal(own, other)


def test_a_region_without_a_tile_gets_no_row(source: EmbeddingSet, tmp_path: Path) -> None:
    summary = represent_regions(source, model(tmp_path / "mem"), tmp_path / "out", EVERYTHING)

    assert summary.sets[0].read_regions("a").region_xy_um.tolist() == [[0.0, 0.0], [448.0, 0.0]]
    assert summary.sets[1].n_regions("a") == 3


def test_a_stopped_run_is_continued_and_what_is_done_is_kept(source: EmbeddingSet, tmp_path: Path) -> None:
    folder = model(tmp_path / "mem")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        represent_regions(source, folder, tmp_path / "out", EVERYTHING, on_event=stop)
    (first,) = {one.slides for one in open_sets(tmp_path / "out")}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("a.h5")}
    summary = represent_regions(source, folder, tmp_path / "out", EVERYTHING)

    assert first == ("a",)
    assert summary.done == ("a", "b/c")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    whole = represent_regions(source, folder, tmp_path / "whole", EVERYTHING)
    for one, other in zip(summary.sets, whole.sets, strict=True):
        assert one.name == other.name
        with h5py.File(_first_features(one)) as a, h5py.File(_first_features(other)) as b:
            np.testing.assert_array_equal(a["features"][...], b["features"][...])


def _first_features(one: EmbeddingSet) -> Path:
    return features_path(one.path, "b/c", 2.0 if one.kind == "tiles" else None)


def test_a_damaged_slide_is_recorded_and_the_rest_is_done(source: EmbeddingSet, tmp_path: Path) -> None:
    features_path(source.path, "a", 0.5).write_bytes(b"nothing")
    folder, out = model(tmp_path / "mem"), tmp_path / "out"

    summary = represent_regions(source, folder, out)

    assert (summary.done, [one.slide for one in summary.failed]) == (("b/c",), ["a"])
    assert summary.exit_status == 3
    assert [one.slide for one in read_failures(out)] == ["a"]
    assert not index_path(summary.sets[0].path, "a").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": ("bb", "bb")}, "trained on the tile encoder bb and toy was embedded by aa"),
        ({"dims": (5, 5)}, "takes vectors of width 5"),
        ({"mpps": (2.0, 1.0)}, "trained at 2, 1 mpp and toy has 0.5"),
        ({"region_um": 896.0}, "regions of 896 um"),
    ],
)
def test_a_model_of_something_else_is_refused(
    source: EmbeddingSet, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(MismatchError, match=message) as caught:
        represent_regions(source, model(tmp_path / "mem", **changes), tmp_path / "out")

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_magnifications_are_interpolated_when_asked(source: EmbeddingSet, tmp_path: Path) -> None:
    folder = model(tmp_path / "mem", mpps=(2.0, 1.0))

    summary = represent_regions(source, folder, tmp_path / "out", RepresentSettings(other_mpps=True))

    assert summary.done == source.slides


def poison(source: EmbeddingSet, mpp: float) -> None:
    """Write NaN into every row of one magnification; no embedding can have been stored like that."""
    for slide in source.slides:
        with h5py.File(features_path(source.path, slide, mpp), "r+") as file:
            file["features"][...] = np.nan


def seeing(folder: Path, mpps: tuple[float, ...], *, steps: int = 5) -> Path:
    """A model of the fine magnification alone, as `pretrain` leaves it."""
    model(folder, mpps=mpps, dims=(6,) * len(mpps), encoders=("aa",) * len(mpps))
    config = json.loads((folder / "config.json").read_text())
    config["pretraining"] = {"steps": steps, "settings": {"mpps": list(mpps)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_model_of_one_magnification_reads_no_other(source: EmbeddingSet, tmp_path: Path) -> None:
    folder = seeing(tmp_path / "fine", (0.5,))

    clean = represent_regions(source, folder, tmp_path / "clean", EVERYTHING)
    poison(source, 2.0)
    dirty = represent_regions(source, folder, tmp_path / "dirty", EVERYTHING)

    assert (clean.failed, dirty.failed) == ((), ())
    assert [one.mpps for one in clean.sets] == [(0.5,)] * 3
    for one, other in zip(clean.sets, dirty.sets, strict=True):
        for slide in source.slides:
            if one.kind == "regions":
                # Region 1 has a coarse tile only: for this model it is not there.
                assert one.n_regions(slide) == 1
                rows, others = one.read_regions(slide).features, other.read_regions(slide).features
            else:
                rows, others = one.read(slide).features[0.5], other.read(slide).features[0.5]
            assert np.isfinite(rows).all()
            np.testing.assert_array_equal(rows, others)


def test_a_model_of_both_magnifications_does_read_the_poison(source: EmbeddingSet, tmp_path: Path) -> None:
    """The twin of the test above: its poison is found where there is something to find."""
    folder = seeing(tmp_path / "both", (2.0, 0.5))

    poison(source, 2.0)
    dirty = represent_regions(source, folder, tmp_path / "dirty", EVERYTHING)

    assert len(dirty.failed) == len(source.slides)


def test_random_weights_are_said_in_the_set(source: EmbeddingSet, tmp_path: Path) -> None:
    random = represent_regions(source, seeing(tmp_path / "random", (2.0, 0.5), steps=0), tmp_path / "out").sets[0]
    trained = represent_regions(source, seeing(tmp_path / "trained", (2.0, 0.5)), tmp_path / "out").sets[0]

    assert random.settings["weights"] == "random"
    assert "weights" not in trained.settings
    assert random.name != trained.name


def test_shards_make_the_sets_of_one_run_and_record_each_slide(source: EmbeddingSet, tmp_path: Path) -> None:
    folder, how = model(tmp_path / "mem"), RepresentSettings(dtype="float32")
    single = represent_regions(source, folder, tmp_path / "single", how).sets[0]

    for number in range(3):
        represent_regions(source, folder, tmp_path / "out", how.model_copy(update={"shard": f"{number}/3"}))
    found, _ = read_records(tmp_path / "out" / "run.jsonl")

    joined = open_set(tmp_path / "out")
    assert (joined.name, joined.slides) == (single.name, single.slides)
    for slide in single.slides:
        np.testing.assert_array_equal(joined.read_regions(slide).features, single.read_regions(slide).features)
    done = {one.slide: one for one in found if one.status == "done"}
    assert set(done) == {*source.slides}
    # Two coarse tiles and three fine ones; the file of rows and the index.
    assert {one.tiles for one in done.values()} == {5}
    sizes = {slide: sum(file.stat().st_size for file in joined.path.rglob(f"{slide}.h5")) for slide in done}
    assert {slide: one.bytes for slide, one in done.items()} == sizes


def test_a_full_disk_ends_the_run_in_a_line_and_the_same_call_goes_on(
    source: EmbeddingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, is_full = model(tmp_path / "mem"), tmp_path / "out", [True]

    def full(*arguments: object, **options: object) -> None:
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device", str(out / "x.h5"))
        write_regions(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(represent, "write_regions", full)
    first = represent_regions(source, folder, out)
    is_full[0] = False
    found, _ = read_records(out / "run.jsonl")
    again = represent_regions(source, folder, out)

    assert [(one.slide, one.error) for one in first.failed] == [("a", "DiskFull"), ("b/c", "NotTried")]
    assert "Make room" in first.failed[0].message
    assert [(one.slide, one.status) for one in found][-2:] == [("a", "failed"), ("b/c", "not tried")]
    assert (again.done, again.failed) == (("a", "b/c"), ())
    assert read_failures(out) == []


def test_processes_write_the_rows_that_this_one_writes(source: EmbeddingSet, tmp_path: Path) -> None:
    folder = model(tmp_path / "mem")
    here = represent_regions(source, folder, tmp_path / "here", EVERYTHING)
    there = EVERYTHING.model_copy(update={"workers": 1})

    summary = represent_regions(source, folder, tmp_path / "there", there)

    assert (summary.done, summary.failed) == (("a", "b/c"), ())
    for one, other in zip(here.sets, summary.sets, strict=True):
        assert one.name == other.name
        for slide in one.slides:
            for file in (tmp_path / "here").rglob(f"{slide}*.h5"):
                same = tmp_path / "there" / file.relative_to(tmp_path / "here")
                assert _datasets(file) == _datasets(same)


def _datasets(file: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with h5py.File(file) as opened:
        opened.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found
