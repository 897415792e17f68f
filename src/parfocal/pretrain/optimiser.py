"""How weights move: AdamW for all of them, or orthogonalised steps (Muon) for the matrices and AdamW for the rest.

Whether products run in bfloat16 is a matter of the processor, so that the same command gives the same numbers. It is
not measured: a measurement depends on what else the machine does at that moment, and two runs of one command
would differ in the third digit of their loss.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from parfocal.pretrain.settings import PretrainSettings
from parfocal.run.device import has_fast_bfloat16

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
        has_it = device.type == "cpu" and has_fast_bfloat16()
        why = f"this processor {'has' if has_it else 'does not have'} bfloat16"
    return has_it, f"{'bfloat16' if has_it else 'float32'} ({why})"


_FEWEST = 16
"""Rows and columns that a matrix has at least to be orthogonalised: a map between a few numbers has no spectrum."""

# What the state of the first runs with Muon was called before torch had it.
_FORMER_NAMES = {"momentum": "momentum_buffer", "first": "exp_avg", "second": "exp_avg_sq"}


def new_optimizer(module: nn.Module, settings: PretrainSettings, *, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser that the settings ask for."""
    if settings.optimizer == "muon":
        return MuonAdamW(module, lr=settings.lr, weight_decay=settings.weight_decay)
    groups = parameter_groups(module, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=device.type != "mps")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms, scales and learnt tokens do not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


class MuonAdamW(torch.optim.Optimizer):
    """Muon for matrices, AdamW for everything else, with one learning rate.

    AdamW scales each number of a matrix by itself. Directions of the input that carry little variance then learn late,
    though a stain or a faint texture may lie just there. Muon makes all singular values of a step alike, so that weak
    directions learn as fast as strong ones. A step of an (n, m) matrix is scaled by 0.2 sqrt(max(n, m)), which gives
    its numbers the size of AdamW's (Liu et al. 2025, arXiv 2502.16982): one learning rate fits both.
    """

    def __init__(self, module: nn.Module, *, lr: float, weight_decay: float) -> None:
        """Sort the trained weights of a module."""
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and min(p.shape) >= _FEWEST]
        chosen = {id(p) for p in matrices}
        others = [p for p in trained if id(p) not in chosen]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=0.0))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient.

        Raises:
            ValueError: a closure is given; losses are computed once.
        """
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure: compute the gradient, then step")
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, also from that of a run that began before torch had Muon."""
        groups = [
            {**now, **{key: value for key, value in saved.items() if key != "orthogonal"}}
            for now, saved in zip(self.param_groups, state_dict["param_groups"], strict=True)
        ]
        state = {
            number: {_FORMER_NAMES.get(name, name): value for name, value in one.items()}
            for number, one in state_dict["state"].items()
        }
        super().load_state_dict({"state": state, "param_groups": groups})
        self._share()

    def _share(self) -> None:
        """Let the parts see the groups and the state of the whole, which a scheduler changes and a checkpoint holds."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
