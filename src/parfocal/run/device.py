"""Where networks run: one name for a device, checked before anything is done there."""

from typing import TYPE_CHECKING

from parfocal.errors import ConfigError

if TYPE_CHECKING:
    import torch


def find_device(name: str) -> "torch.device":
    """The device, if this machine has it; `auto` is a GPU where there is one, and `gpu` another word for `cuda`.

    Asked for before long work, and where no network will run: a device that is not there is a wrong call in any case.

    Raises:
        ConfigError: the name is unknown or the device is absent.
    """
    import torch  # only here, so that steps without a network do without it

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device("cuda" + name[3:] if name.startswith("gpu") else name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device {name!r}: use cpu, cuda, cuda:1 or mps.") from error
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= here.get(device.type, 0):
        raise ConfigError(f"this machine has no device {name!r} that torch can use. Use --device cpu.")
    return device


def has_fast_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 (AVX-512 BF16 or AMX); elsewhere it is emulated and slow."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
