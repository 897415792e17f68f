"""How weights move: AdamW for all of them, or orthogonalised steps (Muon) for the matrices and AdamW for the rest.

Whether products run in bfloat16: a matter of the processor, so that the same command gives the same numbers.

It is not measured: a measurement depends on what else the machine does at that moment, and two runs of one command
would differ in the third digit of their loss.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.pretrain.settings import PretrainSettings

__all__ = ["MuonAdamW", "choose_autocast", "new_optimizer", "orthogonalised", "parameter_groups"]

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


_FEWEST = 16
"""Rows and columns that a matrix has at least to be orthogonalised: a map between a few numbers has no spectrum."""

# The quintic iteration of Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/: steepest at 0, so that weak
# directions grow fast; singular values end between 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_MOMENTUM = 0.95
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


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
        groups = [
            {"params": matrices, "orthogonal": True, "weight_decay": weight_decay},
            {"params": others, "orthogonal": False, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient.

        Raises:
            ValueError: a closure is given; losses are computed once.
        """
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure: compute the gradient, then step")
        for group in self.param_groups:
            move = self._move_matrix if group["orthogonal"] else self._move_other
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move(parameter, parameter.grad, group["lr"])

    def _move_matrix(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(momentum, _MOMENTUM)
        weight.add_(orthogonalised(ahead), alpha=-lr * 0.2 * max(weight.shape) ** 0.5)

    def _move_other(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["first"], state["second"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        first, second = state["first"], state["second"]
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        done = float(state["step"])
        spread = (second / (1 - _BETAS[1] ** done)).sqrt_().add_(_EPSILON)
        weight.addcdiv_(first, spread, value=-lr / (1 - _BETAS[0] ** done))


def orthogonalised(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """The matrix with all singular values near 1 (0.7 to 1.2) and its singular vectors kept; of 0, 0.

    In bfloat16 where the device multiplies it fast: the iteration forgives rounding.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    is_fast = matrix.device.type == "cuda" or (matrix.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    x = wide.to(torch.bfloat16 if is_fast and matrix.dtype == torch.float32 else matrix.dtype)
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if len(matrix) <= matrix.shape[1] else x.T).to(matrix.dtype)
