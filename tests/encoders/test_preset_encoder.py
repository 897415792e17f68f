import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from parfocal.encoders import TileEncoder, check_trained_mpps, load_tile_encoder, symmetries_of_square
from parfocal.encoders.preset import PRESETS
from parfocal.encoders.timm_encoder import build_timm
from parfocal.errors import EncoderError

Tiles = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def lunit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest preset's network with random weights, saved as its owners would save it."""
    preset = PRESETS["kaiko-vits16"]
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(build_timm(preset.architecture, preset.arguments, seed=3).network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def lite0() -> TileEncoder:
    return load_tile_encoder("efficientnet-lite0", dtype="float32")


@pytest.fixture(scope="module")
def lite0_grid() -> TileEncoder:
    return load_tile_encoder("efficientnet-lite0+grid2", dtype="float32")


@pytest.fixture(scope="module")
def lite0_half() -> TileEncoder:
    return load_tile_encoder("efficientnet-lite0", dtype="bfloat16")


def test_the_real_network_knows_the_cat(lite0: TileEncoder) -> None:
    # Independent of our own encode: the classifier of the same tensors calls the picture an Egyptian cat (class 285).
    import skimage.data
    import timm

    from parfocal.encoders.weights import efficientnet_lite0_tensors

    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(efficientnet_lite0_tensors())
    picture = cv2.resize(skimage.data.chelsea(), (224, 224), interpolation=cv2.INTER_LINEAR)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    with torch.inference_mode():
        share = network((image.float() - 127) / 128).softmax(dim=1)[0]
    row = torch.from_numpy(lite0.encode(picture[None]))
    ours = (row @ network.classifier.weight.T + network.classifier.bias).softmax(dim=1)[0]

    assert int(share.argmax()) == 285
    assert float(share[285]) == pytest.approx(0.79, abs=0.02)  # how the picture is shrunk moves it by .01
    # Our encoder normalises and pools as the network was trained: its row gives the same answer.
    torch.testing.assert_close(ours, share, atol=1e-4, rtol=1e-3)


def test_half_precision_stays_close_to_full(lite0: TileEncoder, lite0_half: TileEncoder, tiles: Tiles) -> None:
    full, half = lite0.encode(tiles(4)), lite0_half.encode(tiles(4))

    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    # bfloat16 keeps 8 bits: a relative error near 1/256 for each product, averaged down.
    assert cosine.min() > 0.98
    assert full.dtype == half.dtype == np.float32


def test_precision_and_readout_are_part_of_the_digest(
    lite0: TileEncoder, lite0_half: TileEncoder, lite0_grid: TileEncoder
) -> None:
    assert len({lite0.digest, lite0_half.digest, lite0_grid.digest}) == 3


def test_grid_readout_sees_where_and_the_pooled_one_does_not(
    lite0: TileEncoder, lite0_grid: TileEncoder, tiles: Tiles
) -> None:
    tile = np.full((1, 224, 224, 3), 230, dtype=np.uint8)
    tile[:, 16:96, 16:96] = tiles(1, 80)[:, :80, :80]
    blank = lite0_grid.encode(np.full((1, 224, 224, 3), 230, dtype=np.uint8)).reshape(4, -1)

    cells = lite0_grid.encode(tile).reshape(4, -1)
    changed = np.linalg.norm(cells - blank, axis=1)

    assert lite0_grid.dim == 4 * lite0.dim
    assert int(changed.argmax()) == 0
    # The receptive field spreads over the whole tile, so the far corner changes too, but less.
    assert changed[0] > 2 * changed[3]


def test_a_preset_takes_its_weights_from_a_local_file(lunit_weights: Path, tiles: Tiles) -> None:
    encoder = load_tile_encoder(f"kaiko-vits16,checkpoint={lunit_weights}", dtype="float32")
    network = build_timm("vit_small_patch16_224", PRESETS["kaiko-vits16"].arguments).network.eval()
    from safetensors.torch import load_file

    network.load_state_dict(load_file(lunit_weights))
    batch = tiles(2)
    with torch.inference_mode():
        expected = network((torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).numpy()

    np.testing.assert_allclose(encoder.encode(batch), expected, atol=1e-4)
    assert encoder.symmetry.kind == "invariant"


def test_weights_given_as_an_argument_are_the_same_encoder(lunit_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    # What a training framework writes: wrapped, prefixed, with a head that nobody needs.
    state = {f"module.{name}": tensor for name, tensor in load_file(lunit_weights).items()}
    state["module.head.weight"] = torch.zeros(3, 384)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")

    by_spec = load_tile_encoder(f"kaiko-vits16,checkpoint={lunit_weights}")
    by_argument = load_tile_encoder("kaiko-vits16", weights=tmp_path / "checkpoint.pth")

    assert by_spec.digest == by_argument.digest
    with pytest.raises(EncoderError, match="named twice"):
        load_tile_encoder(f"kaiko-vits16,checkpoint={lunit_weights}", weights=lunit_weights)


def test_weights_of_another_network_are_refused_by_name_and_shape(lunit_weights: Path) -> None:
    with pytest.raises(EncoderError, match=r"patch_embed.proj.weight is \(384, 3, 16, 16\).*\(384, 3, 8, 8\)"):
        load_tile_encoder(f"kaiko-vits8,checkpoint={lunit_weights}")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this code ran",)


def test_a_pickle_in_a_checkpoint_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": _Evil()}, tmp_path / "evil.pth")

    with pytest.raises(EncoderError, match="without running code"):
        load_tile_encoder(f"kaiko-vits16,checkpoint={tmp_path / 'evil.pth'}")

    assert "this code ran" not in capsys.readouterr().out


def test_an_absent_file_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no file of weights .*absent.pth"):
        load_tile_encoder(f"kaiko-vits16,checkpoint={tmp_path / 'absent.pth'}")


def test_without_a_hub_the_message_comes_fast_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this machine answers nothing: the same as no network, wherever the test runs.
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)

    def patient(*arguments: object) -> None:
        raise AssertionError("the hub's own client was asked: it tries for half a minute")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", patient)

    with pytest.raises(EncoderError, match="checkpoint=PATH") as caught:
        load_tile_encoder("virchow2")

    message = str(caught.value)
    assert "https://huggingface.co/paige-ai/Virchow2" in message
    assert "HF_TOKEN" in message
    assert "\n" not in message
    with pytest.raises(EncoderError, match="timm:resnet18,checkpoint=PATH"):
        load_tile_encoder("timm:resnet18,pretrained")


def test_a_closed_door_at_the_hub_names_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_: object, **__: object) -> str:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise GatedRepoError("Access to model paige-ai/Virchow2 is restricted.", response=response)

    monkeypatch.setattr("parfocal.encoders.weights.hub_is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)

    with pytest.raises(EncoderError, match=r"restricted.*accept the terms at https://huggingface.co/paige-ai/Virchow2"):
        load_tile_encoder("virchow2")


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))

    with pytest.raises(EncoderError, match=r"package transformers.*pip install 'parfocal\[transformers\]'"):
        load_tile_encoder("phikon-v2")


@pytest.fixture
def fake_transformers(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A stand-in for the library: a transformer of 257 tokens, whose loading is recorded."""
    calls: dict[str, object] = {}

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(hidden_size=1536, num_register_tokens=0)
            self.embed = nn.Conv2d(3, 1536, 14, stride=14)

        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            patches = self.embed(pixel_values).flatten(2).transpose(1, 2)
            return SimpleNamespace(last_hidden_state=torch.cat([patches[:, :1] * 0 + 7, patches], dim=1))

    def from_pretrained(source: str, **arguments: object) -> nn.Module:
        calls.update(source=source, **arguments)
        return Network()

    fake = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=from_pretrained), __spec__=object())
    monkeypatch.setitem(sys.modules, "transformers", fake)
    return calls


def test_class_token_and_mean_patch_are_read_from_a_folder(
    fake_transformers: dict[str, object], tmp_path: Path, tiles: Tiles
) -> None:
    (tmp_path / "config.json").write_text("{}")
    encoder = load_tile_encoder(f"midnight,checkpoint={tmp_path}", dtype="float32")
    row = encoder.encode(tiles(1))[0]

    assert encoder.dim == len(row) == 3072
    assert (row[:1536] == 7).all()
    assert not (row[1536:] == 7).any()
    assert fake_transformers == {"source": str(tmp_path), "trust_remote_code": False, "local_files_only": True}
    with pytest.raises(EncoderError, match=r"config.json"):
        load_tile_encoder(f"midnight,checkpoint={tmp_path / 'elsewhere'}")


def test_code_of_others_runs_only_when_allowed(fake_transformers: dict[str, object]) -> None:
    with pytest.raises(EncoderError, match="hibou-l,trust_remote_code"):
        load_tile_encoder("hibou-l")

    assert fake_transformers == {}


def test_grid_of_an_invariant_encoder_is_a_permutation_of_cells(lunit_weights: Path) -> None:
    encoder = load_tile_encoder(f"kaiko-vits16+grid2,checkpoint={lunit_weights}")
    permutation = encoder.symmetry.permutation
    assert permutation is not None
    row = np.arange(encoder.dim)

    for element in range(8):
        cells = symmetries_of_square(row.reshape(2, 2, -1), element)
        assert np.array_equal(row[permutation[element]], cells.ravel())


def test_a_magnification_outside_the_training_draws_one_sentence(lunit_weights: Path) -> None:
    encoder = load_tile_encoder("timm:resnet18,random=0")
    encoder.trained_mpps = (0.5,)

    assert check_trained_mpps(encoder, (0.5, 0.5015)) is None
    warning = check_trained_mpps(encoder, (2.0, 1.0, 0.5))
    assert warning is not None
    assert "trained at 0.5" in warning
    assert "used at 2, 1" in warning
    encoder.trained_mpps = None
    assert check_trained_mpps(encoder, (2.0,)) is None
