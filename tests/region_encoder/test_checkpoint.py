"""A checkpoint gives back the same numbers, and what is no checkpoint is refused in one line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parfocal.errors import FormatVersionError, StoreError
from parfocal.files import canonical_json
from parfocal.region_encoder import RegionEncoder, RegionModel

from .toy import batch_of, model_of


def test_what_is_saved_and_loaded_gives_the_same_numbers(tmp_path: Path) -> None:
    model = model_of(trunk="separate", encoders=("a", "b", "b"), dims=(9, 24, 24))
    tokens, xy, mpp, present = batch_of(3, absent=0.3)
    model.save_pretrained(tmp_path / "model")

    again = RegionModel.from_pretrained(tmp_path / "model")
    encoder = RegionEncoder.from_pretrained(tmp_path / "model")

    before = model.encoder.encode(tokens, xy, mpp, present)
    assert torch.equal(again.encoder.encode(tokens, xy, mpp, present).tokens, before.tokens)
    assert torch.equal(encoder.encode(tokens, xy, mpp, present).tokens, before.tokens)
    assert torch.equal(again.decode(before, present, xy, mpp).mean, model.decode(before, present, xy, mpp).mean)
    assert again.config == model.config
    assert again.digest == model.digest
    assert encoder.digest == model.encoder.digest
    assert not encoder.training


def test_a_model_of_before_the_decoder_had_a_choice_keeps_its_digest() -> None:
    model = model_of()
    former = {key: value for key, value in model.config.model_dump(mode="json").items() if key != "decoder_bias"}
    weights = sorted(model.state_dict().items())

    digest = hashlib.sha256(canonical_json(former).encode())
    for name, value in weights:
        digest.update(name.encode() + value.to(torch.float32).numpy().tobytes())

    assert model.digest == digest.hexdigest()[:8]
    assert model_of(decoder_bias="nearness").config.identity()["decoder_bias"] == "nearness"


def test_other_weights_have_another_digest() -> None:
    assert model_of(seed=0).digest != model_of(seed=1).digest


def test_an_encoder_saved_alone_is_loaded_alone(tmp_path: Path) -> None:
    encoder = model_of().encoder
    encoder.save_pretrained(tmp_path)

    assert RegionEncoder.from_pretrained(str(tmp_path), dtype="bfloat16").specials.dtype == torch.bfloat16
    with pytest.raises(StoreError, match="holds an encoder alone; use RegionEncoder"):
        RegionModel.from_pretrained(tmp_path)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _half_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def _other_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def _impossible_settings(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["region_encoder"]["heads"] = 5
    (folder / "config.json").write_text(json.dumps(content))


def _wider_settings(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["region_encoder"]["width"] = 64
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_config, "no finished model: it has no config.json"),
        (_no_weights, "it has no model.safetensors"),
        (_half_weights, "it is damaged"),
        (_other_config, "is not the config.json of a region encoder"),
        (_impossible_settings, "make no model"),
        (_wider_settings, "does not fit its config.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_named(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    model_of().save_pretrained(tmp_path)
    damage(tmp_path)

    with pytest.raises(StoreError, match=says) as caught:
        RegionEncoder.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_checkpoint_of_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | {"format_version": 99}
    (tmp_path / "config.json").write_text(json.dumps(content))

    with pytest.raises(FormatVersionError, match="Update parfocal"):
        RegionEncoder.from_pretrained(tmp_path)


def test_a_folder_that_is_absent_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the folder is absent"):
        RegionEncoder.from_pretrained(tmp_path / "nothing")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args: object, **settings: object) -> str:
        raise LocalEntryNotFoundError("no connection\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(StoreError, match=r"no model someone/something: .*\(no connection\).*local folder"):
        RegionEncoder.from_pretrained("someone/something")


def test_a_model_on_the_hub_is_loaded_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    model = model_of()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **settings: str(tmp_path))

    assert RegionEncoder.from_pretrained("someone/something").digest == model.encoder.digest


def test_whoever_may_read_the_settings_may_read_the_weights(tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path)

    assert len({(tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}) == 1
