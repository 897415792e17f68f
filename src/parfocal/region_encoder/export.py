"""The encoder as one file that runs wherever torch runs, without parfocal.

The traced graph has one shape for all inputs, so it cannot leave absent tokens out as the encoder does: it computes
every slot and hides the absent ones from attention. The results are the same; only the speed is not.
"""

import copy
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from parfocal.errors import ConfigError
from parfocal.files import canonical_json, writing
from parfocal.region_encoder.attention import Block, attend_fused
from parfocal.region_encoder.batch import Centres, Mpps, TokenMask, Tokens
from parfocal.region_encoder.encoder import RegionEncoder
from parfocal.region_encoder.standardise import nearest_levels
from parfocal.version import __version__


class DenseEncoder(nn.Module):
    """The same function as a `RegionEncoder`, on all slots at once, with tensors in and tensors out."""

    def __init__(self, encoder: RegionEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        tokens: Tokens,
        xy_um: Centres,
        mpp: Mpps,
        present: TokenMask,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """CLS, registers, contextual tokens (0 where absent) and CLS's attention to each tile."""
        encoder, config = self.encoder, self.encoder.config
        specials = config.specials
        tokens = torch.where(present[..., None], tokens, 0.0)
        xy_um = torch.where(present[..., None], xy_um, 0.0)
        mpp = torch.where(present, mpp, 1.0)
        level = nearest_levels(mpp, config)
        scale, shift = encoder.standardiser.affine(mpp.flatten())
        z = torch.addcmul(shift.view(tokens.shape), tokens.to(shift.dtype), scale.view(tokens.shape))
        z = z.clamp(-config.clip_sd, config.clip_sd)
        x = encoder.position(xy_um, mpp)
        for projector, group in zip(encoder.projectors, config.projector_groups, strict=True):
            own = torch.isin(level, torch.tensor(group, device=level.device))
            x = x + torch.where(own[..., None], projector(z[..., : config.dims[group[0]]]), 0.0)
        x = torch.cat([encoder.specials.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        bias = encoder.relative(xy_um, mpp).permute(0, 3, 1, 2)
        is_key = torch.cat([present.new_ones(present.shape[0], specials), present], dim=1)
        bias = bias.masked_fill(~is_key[:, None, None, :], float("-inf"))
        expert = nn.functional.pad(level + 1, (specials, 0))
        cls_weights = x[..., 0]
        for block in encoder.blocks:
            x, cls_weights = _dense_block(cast(Block, block), x, bias, expert)
        x = encoder.norm(x)
        contextual = torch.where(present[..., None], x[:, specials:], 0.0)
        return x[:, 0], x[:, 1:specials], contextual, torch.where(present, cls_weights[:, specials:], 0.0)


def _dense_block(block: Block, x: Tensor, bias: Tensor, expert: Tensor) -> tuple[Tensor, Tensor]:
    attention = block.attention
    qkv = attention.qkv(block.norm(x)).view(*x.shape[:2], 3, attention.heads, -1)
    attended = attend_fused(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], bias)
    x = x + attention.out(attended.values) * block.attention_scale
    if len(block.experts) == 1:
        return x + block.experts[0](x) * block.mlp_scale, attended.cls_weights
    lifted = torch.zeros_like(x)
    for k, one in enumerate(block.experts):
        lifted = torch.where((expert == k)[..., None], one(x), lifted)
    return x + lifted * block.mlp_scale, attended.cls_weights


def export_model(model: str | Path | RegionEncoder, out: str | Path) -> str:
    """Write a region encoder as one file that runs without parfocal; its digest.

    Args:
        model: a checkpoint's folder, its id on the hub, or an encoder.
        out: the file, which ends in `.pt2`.

    Raises:
        StoreError: the checkpoint cannot be read.
        ConfigError: `out` has another ending.
    """
    if Path(out).suffix != ".pt2":
        raise ConfigError(f"cannot write the model to {out}: an exported program ends in .pt2. Name such a file.")
    encoder = model if isinstance(model, RegionEncoder) else RegionEncoder.from_pretrained(model)
    export_encoder(encoder, out)
    return encoder.digest


def export_encoder(encoder: RegionEncoder, path: str | Path) -> None:
    """Write the encoder as an exported program (`.pt2`), on its device and in its precision.

    `torch.export.load(path).module()` maps tokens, xy_um, mpp and present, as `RegionEncoder.forward` takes them, to
    CLS, registers, contextual tokens and CLS's attention, for any number of regions and of tokens from two on. The
    entry `parfocal.json` of the file says which settings and which version it comes from.
    """
    path, device = Path(path), encoder.specials.device
    regions, slots, dim = 3, 4, encoder.config.dim
    example = (
        torch.zeros(regions, slots, dim, device=device),
        torch.zeros(regions, slots, 2, device=device),
        torch.ones(regions, slots, device=device),
        torch.ones(regions, slots, dtype=torch.bool, device=device),
    )
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    frozen = copy.deepcopy(encoder).requires_grad_(False).eval()
    program = torch.export.export(DenseEncoder(frozen), example, dynamic_shapes=(axes, axes, axes, axes))
    about = {"parfocal_version": __version__, "region_encoder": encoder.config.model_dump(mode="json")}
    with writing(path) as temporary:
        torch.export.save(program, temporary, extra_files={"parfocal.json": canonical_json(about)})
