"""What is predicted of tiles that were not read is what the decoder says, in the units of tile embeddings."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from parfocal.bags import RepresentSettings, open_decoder, readout_label, represent_regions
from parfocal.cli import main
from parfocal.errors import ConfigError, MismatchError, ParfocalWarning
from parfocal.evaluate import table_of_arms
from parfocal.region_encoder import RegionEncoder, RegionModel, collate_regions
from parfocal.store import EmbeddingSet, SlideTokens, create_set, only_mpps, open_set, write_tokens
from parfocal.store.layout import features_path

from ..region_encoder.toy import DIM, MPPS, model_of, raster

# The encoder and the decoder put other numbers of rows into one product, whose sums then differ in their last bits.
CLOSE = 5e-5
ALL = ("decoded", "decoded-middle", "decoded-variance")
FROM_COARSE = RepresentSettings(readouts=ALL, read_mpps=(2.0,), dtype="float32", batch=2)


def tiles_in(folder: Path, mpps: tuple[float, ...]) -> EmbeddingSet:
    """Two slides of five regions with every tile of these magnifications; the last region has no coarse tile."""
    xy_um, mpp = (values.numpy() for values in raster())
    path = create_set(
        folder, "toy", "tiles", region_um=448.0, dims=dict.fromkeys(mpps, DIM), settings={"encoder": "toy"},
        encoder_digests=dict.fromkeys(mpps, "aa"), tile_px=224, dtype="float32",
    )  # fmt: skip
    for slide in ("a", "b"):
        rng = np.random.default_rng(len(slide))
        features, region, center = {}, {}, {}
        for one in MPPS:
            own = xy_um[mpp == one]
            n = 4 if one == MPPS[0] else 5
            features[one] = rng.normal(3, 2, (n * len(own), DIM)).astype(np.float32)
            region[one] = np.repeat(np.arange(n, dtype=np.int32), len(own))
            center[one] = np.tile(own, (n, 1)).astype(np.float32)
        place = np.array([[448.0 * number, 96.0] for number in range(5)])
        given = [{one: values[one] for one in mpps} for values in (features, region, center)]
        write_tokens(path, SlideTokens(slide, 448.0, 0.5, place, *given))
    return open_set(path)


@pytest.fixture
def tiles(tmp_path: Path) -> EmbeddingSet:
    return tiles_in(tmp_path / "store", MPPS)


def saved(folder: Path, pretraining: dict[str, object] | None = None) -> Path:
    model_of(encoders=("aa",) * 3).save_pretrained(folder)
    if pretraining is not None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | {"pretraining": pretraining}))
    return folder


def by_hand(tiles: EmbeddingSet, model: Path, mpp: float, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances at places of slide a's first four regions, from 5x tiles, one question at a time."""
    loaded = RegionModel.from_pretrained(model)
    batch = collate_regions([(only_mpps(tiles, (2.0,)).read("a"), [0, 1, 2, 3])])
    standardiser, level = loaded.encoder.standardiser, MPPS.index(mpp)
    means, variances = [], []
    with torch.inference_mode():
        encoded = loaded.encoder(batch.tokens, batch.xy_um, batch.mpp, batch.present)
        for place in places:
            asked = torch.tensor(place, dtype=torch.float32).expand(4, 1, 2)
            found = loaded.decode(encoded, batch.present, asked, torch.full((4, 1), mpp))
            means.append(found.mean[:, 0] * standardiser.sd[level] + standardiser.mean[level])
            variances.append(found.log_variance[:, 0].exp() * standardiser.sd[level] ** 2)
    return torch.stack(means, dim=1).numpy(), torch.stack(variances, dim=1).numpy()


def test_rows_are_what_the_decoder_says_at_every_place_of_the_finest_magnification(
    tiles: EmbeddingSet, tmp_path: Path
) -> None:
    model = saved(tmp_path / "mem")
    xy_um, mpp = raster()
    mean, variance = by_hand(tiles, model, 0.5, xy_um[mpp == 0.5].numpy())
    middle, _ = by_hand(tiles, model, 0.5, np.zeros((1, 2)))

    summary = represent_regions(tiles, model, tmp_path / "out", FROM_COARSE)

    decoded, at_middle, spread = (one.read_regions("a") for one in summary.sets)
    assert mean.shape == (4, 16, DIM)
    np.testing.assert_allclose(decoded.features, mean.mean(axis=1), atol=CLOSE)
    np.testing.assert_allclose(at_middle.features, middle[:, 0], atol=CLOSE)
    np.testing.assert_allclose(spread.features, variance.mean(axis=1), rtol=CLOSE)
    # The region without a 5x tile is not there, though it has tiles that were not to be read.
    assert decoded.region_xy_um.tolist() == tiles.read("a").region_xy_um[:4].tolist()
    assert [one.name.split("-", 2)[2] for one in summary.sets] == list(ALL)


def test_another_magnification_is_predicted_at_its_own_places(tiles: EmbeddingSet, tmp_path: Path) -> None:
    model = saved(tmp_path / "mem")
    xy_um, mpp = raster()
    mean, _ = by_hand(tiles, model, 1.0, xy_um[mpp == 1.0].numpy())
    settings = RepresentSettings(readouts=("decoded",), read_mpps=(2.0,), predict_mpp=1.0, dtype="float32")

    (one,) = represent_regions(tiles, model, tmp_path / "out", settings).sets

    np.testing.assert_allclose(one.read_regions("a").features, mean.mean(axis=1), atol=CLOSE)
    assert readout_label(one) == "decoded/at-1/from-2"
    # Beside that of the finest magnification, and as an arm of its own.
    (finest,) = represent_regions(tiles, model, tmp_path / "out", settings.model_copy(update={"predict_mpp": 0.5})).sets
    ids = {arm.id for arm in table_of_arms([finest, one])}
    assert {"mem/decoded/from-2/mean", "mem/decoded/at-1/from-2/mean"} <= ids


def test_a_store_of_one_magnification_gives_what_a_whole_one_gives(tiles: EmbeddingSet, tmp_path: Path) -> None:
    model = saved(tmp_path / "mem")
    only = tiles_in(tmp_path / "only", (2.0,))
    for mpp in (1.0, 0.5):  # nothing of what is not read is opened
        for slide in tiles.slides:
            with h5py.File(features_path(tiles.path, slide, mpp), "r+") as file:
                file["features"][...] = np.nan

    of_whole = represent_regions(tiles, model, tmp_path / "out", FROM_COARSE).sets[0]
    of_only = represent_regions(only, model, tmp_path / "out", FROM_COARSE.model_copy(update={"read_mpps": ()})).sets[0]

    np.testing.assert_array_equal(of_whole.read_regions("b").features, of_only.read_regions("b").features)
    assert readout_label(of_only) == "decoded"
    assert of_whole.mpps == of_only.mpps == (2.0,)


def test_the_other_readouts_see_only_what_is_read_too(tiles: EmbeddingSet, tmp_path: Path) -> None:
    model = saved(tmp_path / "mem")
    settings = RepresentSettings(readouts=("cls", "tokens", "decoded"), read_mpps=(2.0, 1.0), dtype="float32")
    batch = collate_regions([(only_mpps(tiles, (2.0, 1.0)).read("a"), range(5))])
    encoded = RegionEncoder.from_pretrained(model).encode(batch.tokens, batch.xy_um, batch.mpp, batch.present)

    cls, tokens, decoded = represent_regions(tiles, model, tmp_path / "out", settings).sets
    (whole,) = represent_regions(tiles, model, tmp_path / "out").sets

    np.testing.assert_allclose(cls.read_regions("a").features, encoded.cls.numpy(), atol=CLOSE)
    assert tokens.mpps == (2.0, 1.0)
    assert readout_label(cls) == "cls/from-2+1"
    assert (readout_label(whole), decoded.n_regions("a")) == ("cls", 5)


def test_predicting_what_was_read_is_said(tiles: EmbeddingSet, tmp_path: Path) -> None:
    with pytest.warns(ParfocalWarning, match=r"at 0\.5 mpp .* --read-mpps 2 1 "):
        represent_regions(tiles, saved(tmp_path / "mem"), tmp_path / "out", RepresentSettings(readouts=("decoded",)))


def test_whitened_predictions_stay_whitened(tiles: EmbeddingSet, tmp_path: Path) -> None:
    how = {"settings": {"targets": "whitened"}}
    decoder = open_decoder(saved(tmp_path / "mem", how), ["decoded"])
    batch = collate_regions([(tiles.read("a"), [0, 1])])
    encoded = decoder.model.encoder.encode(batch.tokens, batch.xy_um, batch.mpp, batch.present)
    xy_um = torch.tensor([[[10.0, -20.0]]]).expand(2, -1, -1)
    said = decoder.model.decode(encoded, batch.present, xy_um, torch.full((2, 1), 0.5))

    np.testing.assert_allclose(decoder.ask(encoded, batch.present, xy_um).mean, said.mean.detach(), atol=CLOSE)


@pytest.mark.parametrize(
    ("pretraining", "readout", "message"),
    [
        ({"settings": {"objective": "contrastive"}}, "decoded", "was trained to predict no tile"),
        ({"settings": {"objective": "theirs"}, "predicts": "nothing"}, "decoded", "was trained to predict no tile"),
        ({"settings": {"targets": "latent"}}, "decoded", "tokens of its own teacher"),
        ({"settings": {"variance_weight": 0.0}}, "decoded-variance", "trained without a variance"),
        ({"settings": {}, "steps": 0}, "decoded-variance", "trained without a variance"),
    ],
)
def test_a_model_that_predicts_no_such_thing_is_refused_in_one_line(
    tiles: EmbeddingSet, tmp_path: Path, pretraining: dict[str, object], readout: str, message: str
) -> None:
    settings = RepresentSettings.model_validate({"readouts": [readout], "read_mpps": [2.0]})

    with pytest.raises(ConfigError, match=message) as caught:
        represent_regions(tiles, saved(tmp_path / "mem", pretraining), tmp_path / "out", settings)

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_encoder_alone_and_a_magnification_it_never_saw_are_refused(tiles: EmbeddingSet, tmp_path: Path) -> None:
    model_of(encoders=("aa",) * 3).encoder.save_pretrained(tmp_path / "alone")
    unseen = FROM_COARSE.model_copy(update={"predict_mpp": 0.7})

    with pytest.raises(ConfigError, match=r"alone: it holds a region encoder alone.*ask for cls or tokens"):
        represent_regions(tiles, tmp_path / "alone", tmp_path / "out", FROM_COARSE)
    with pytest.raises(MismatchError, match=r"trained at 2, 1, 0\.5 mpp and cannot predict 0\.7"):
        represent_regions(tiles, saved(tmp_path / "mem"), tmp_path / "out", unseen)
    interpolated = unseen.model_copy(update={"other_mpps": True})
    assert represent_regions(tiles, tmp_path / "mem", tmp_path / "out", interpolated).exit_status == 0
    with pytest.raises(ValueError, match="Add decoded to readouts"):
        RepresentSettings(predict_mpp=0.5)


def test_the_command_says_which_magnifications_are_read_and_predicted(
    tiles: EmbeddingSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, model, out = (str(one) for one in (tiles.path, saved(tmp_path / "mem"), tmp_path / "out"))

    status = main(
        ["represent", store, "--model", model, "-o", out, "--readouts", "decoded", "--read-mpps", "2",
         "--predict-mpp", "0.5"]
    )  # fmt: skip

    assert status == 0
    assert open_set(tmp_path / "out").settings["predict_mpp"] == 0.5
    assert "decoded: 2 slides" in capsys.readouterr().out
