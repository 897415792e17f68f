"""A checkpoint: a folder with `model.safetensors` and `config.json`. Nothing in it is ever executed."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parfocal.errors import FormatVersionError, StoreError
from parfocal.files import canonical_json, check_permission, writing
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.version import __version__

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_FORMAT_VERSION = 1
FINISHED = "pretraining"
"""The entry of config.json that says how the model came about; it is there when its run is finished."""


def write_checkpoint(folder: Path, config: RegionEncoderConfig, weights: Mapping[str, Tensor]) -> None:
    """Write weights, then settings: a folder with a config.json is whole."""
    with writing(folder / WEIGHTS_FILE) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)
    content = {
        "model_type": "parfocal-region-encoder",
        "format_version": _FORMAT_VERSION,
        "parfocal_version": __version__,
        "region_encoder": config.model_dump(mode="json"),
    }
    with writing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True))


def resolve(folder_or_hub_id: str | Path) -> Path:
    """The folder of a checkpoint; an id such as `owner/name` that is no folder here is fetched from the hub.

    Raises:
        StoreError: there is neither such a folder nor such a model on the hub.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return folder
    parts = str(folder_or_hub_id).split("/")
    if isinstance(folder_or_hub_id, Path) or len(parts) != 2 or not all(parts) or parts[0] in {".", "..", "~"}:
        raise StoreError(
            f"there is no model at {folder}: the folder is absent. Name a folder that `pretrain` has written."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(folder_or_hub_id), allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StoreError(
            f"there is no model {folder_or_hub_id}: no such folder here, and the hub gave none ({reason}). "
            "Check the name, the network and `hf auth login`, or name a local folder."
        ) from error


def read_config(folder: Path) -> RegionEncoderConfig:
    """The settings of a checkpoint.

    Raises:
        StoreError: config.json is absent, damaged or of something else.
        FormatVersionError: a newer parfocal wrote it.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise StoreError(
            f"{folder} holds no finished model: it has no {CONFIG_FILE}. Name a folder that `pretrain` has finished."
        )
    try:
        content = json.loads(file.read_text())
        version, settings = int(content["format_version"]), content["region_encoder"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file} is not the {CONFIG_FILE} of a region encoder ({type(error).__name__}: {error})."
        ) from error
    if version > _FORMAT_VERSION:
        raise FormatVersionError(
            f"{file} has format {version}; this parfocal ({__version__}) reads up to {_FORMAT_VERSION}. "
            "Update parfocal."
        )
    try:
        return RegionEncoderConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreError(f"{file} holds settings that make no model ({first['loc']}: {first['msg']}).") from error


def read_pretraining(folder: Path) -> dict[str, Any]:
    """How a checkpoint came about; empty where it does not say, as when an encoder was saved by hand.

    Raises:
        StoreError: its config.json is absent or damaged.
    """
    file = folder / CONFIG_FILE
    try:
        entries = json.loads(file.read_text())[FINISHED]
    except KeyError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"cannot read {file}: {error}. Name a folder that `pretrain` has finished.") from error
    return dict(entries) if isinstance(entries, dict) else {}


def holds_decoder(folder: Path) -> bool:
    """Whether a checkpoint holds the decoder beside the encoder.

    Raises:
        StoreError: its weights are absent or damaged.
    """
    return any(name.startswith("decoder.") for name in _read_weights(folder))


Module = TypeVar("Module", bound=nn.Module)


def read_model(
    make: Callable[[RegionEncoderConfig], Module], folder_or_hub_id: str | Path, *, prefix: str = ""
) -> Module:
    """What is made of a checkpoint's settings, with the weights whose names begin with `prefix`, to be evaluated.

    Raises:
        StoreError: there is no checkpoint, or it is damaged, or it does not hold exactly what is needed.
        FormatVersionError: a newer parfocal wrote it.
    """
    folder = resolve(folder_or_hub_id)
    module = make(read_config(folder))
    load_weights(module, folder, prefix=prefix)
    return module.eval()


def load_weights(module: nn.Module, folder: Path, *, prefix: str) -> None:
    """Fill a module with the weights whose names begin with `prefix`.

    Raises:
        StoreError: the file is absent or damaged, or does not hold exactly what the module needs.
    """
    file, weights = folder / WEIGHTS_FILE, _read_weights(folder)
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    expected = {name: value.shape for name, value in module.state_dict().items()}
    wrong = sorted(
        name for name in expected.keys() | found.keys() if name not in found or expected.get(name) != found[name].shape
    )
    if wrong:
        alone = (
            " It holds an encoder alone; use RegionEncoder."
            if all(name.startswith("decoder.") for name in wrong)
            else ""
        )
        raise StoreError(
            f"{file} does not fit its {CONFIG_FILE}: {len(wrong)} of {len(expected)} tensors differ, "
            f"first {wrong[0]}.{alone}"
        )
    module.load_state_dict(found)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise StoreError(f"{folder} holds no finished model: it has no {WEIGHTS_FILE}.")
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        check_permission(error, file)
        raise StoreError(f"cannot read {file}: it is damaged ({error}). Copy or train it again.") from error
    return weights


def weights_digest(config: RegionEncoderConfig, weights: Mapping[str, Tensor]) -> str:
    """Eight hexadecimal digits over settings and weights: the same model has the same on every machine."""
    digest = hashlib.sha256(canonical_json(config.identity()).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:8]
