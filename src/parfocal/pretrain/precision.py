"""Whether products run in bfloat16: a matter of the processor, so that the same command gives the same numbers.

It is not measured: a measurement depends on what else the machine does at that moment, and two runs of one command
would differ in the third digit of their loss.
"""

from typing import Literal

import torch

__all__ = ["choose_autocast"]

_AMPERE = 8
"""The first compute capability with bfloat16; before, it is emulated and slow."""


def choose_autocast(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> tuple[bool, str]:
    """Whether to use bfloat16, and why in a few words.

    Auto means: where the processor has instructions for it, which are compute capability 8 and above on a GPU, and
    AVX-512 BF16 or AMX on a CPU.
    """
    if wanted != "auto":
        return wanted == "bfloat16", f"{wanted}, as asked"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        has_it, why = major >= _AMPERE, f"compute capability {major}.{minor}"
    else:
        has_it = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        why = f"this processor {'has' if has_it else 'does not have'} bfloat16"
    return has_it, f"{'bfloat16' if has_it else 'float32'} ({why})"
