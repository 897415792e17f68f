"""One training step as a function of a batch: what the encoder sees, what the decoder is asked, what it costs.

Latent targets have a teacher, an average of the encoder that moves slowly.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from parfocal.pretrain.losses import beta_nll, variance_covariance
from parfocal.pretrain.objectives import OBJECTIVES
from parfocal.pretrain.settings import PretrainSettings
from parfocal.region_encoder import EncodedRegions, RegionEncoder, RegionModel
from parfocal.region_encoder.batch import Centres, Mpps, RegionBatch, TokenMask, Tokens
from parfocal.stats.whitening import Whitening

_FIRST_MOMENTUM = 0.996
_LAYERS = 3


class Teacher(nn.Module):
    """An exponential average of the encoder, which sees all present tokens.

    Its targets are the mean of what the three last blocks give, each layer-normalised (data2vec), and normalised once
    more, so that no dim can grow; they are constants to the gradient. The average moves ever more slowly, from 0.996
    to 1 along half a cosine (as in BYOL and DINO).
    """

    def __init__(self, encoder: RegionEncoder) -> None:
        """Start as a copy."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self._layers: list[Tensor] = []
        # The encoder's packing of rows is its own affair: the last block hands on the mean in place of its rows.
        *before, last = list(self.encoder.blocks)[-_LAYERS:]
        for block in before:
            block.register_forward_hook(self._keep)
        last.register_forward_hook(self._average)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation: a teacher drops no paths."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self,
        tokens: Tokens,
        xy_um: Centres,
        mpp: Mpps,
        present: TokenMask,
    ) -> Float[Tensor, "region token width"]:
        """The target of every token."""
        return _normalised(self.encoder(tokens, xy_um, mpp, present).tokens)

    def _keep(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self._layers.append(_normalised(output[0]))

    def _average(self, block: nn.Module, inputs: Any, output: Any) -> Any:
        rows, *rest = output
        mean = torch.stack([*self._layers, _normalised(rows)]).mean(dim=0)
        self._layers.clear()
        return (mean.to(rows.dtype), *rest)

    @torch.no_grad()
    def follow(self, encoder: RegionEncoder, share_done: float) -> None:
        """Move towards the encoder."""
        momentum = 1 - (1 - _FIRST_MOMENTUM) * (1 + math.cos(math.pi * share_done)) / 2
        for mine, its in zip(self.encoder.parameters(), encoder.parameters(), strict=True):
            mine.lerp_(its, 1 - momentum)


def _normalised(rows: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    return functional.layer_norm(rows.float(), rows.shape[-1:])


LOSS_PARTS = ("loss", "loss_tokens", "loss_variance", "loss_contrast", "loss_guard")
"""The columns that a step fills, in the order of what `Trainee.forward` returns."""

GUARD_WEIGHT = 0.1
_QUERY_GROUPS, _GROUP_REGIONS = 4, 32


@dataclass(frozen=True, eq=False)
class HiddenTokens:
    """The hidden tokens of a batch as rows, in the space of the targets.

    Attributes:
        predicted: what the decoder says.
        log_variance: its logarithm of the variance of each number.
        target: what there was.
        level: magnification of each row, as a place in `Trainee.mpps`.
        region: the region of each row, as a place in the batch.
    """

    predicted: Float[Tensor, "token dim"]
    log_variance: Float[Tensor, "token dim"]
    target: Float[Tensor, "token dim"]
    level: Int[Tensor, " token"]
    region: Int[Tensor, " token"]


class Trainee(nn.Module):
    """The model with what only training needs: target transform, teacher, loss."""

    used: Tensor
    whiten: Tensor
    unwhiten: Tensor

    def __init__(self, model: RegionModel, settings: PretrainSettings) -> None:
        """Wrap a model; whitening starts as the identity, a teacher as a copy of the encoder."""
        super().__init__()
        self.model = model
        self.settings = settings
        self.objective = OBJECTIVES.get(settings.objective)
        config = model.encoder.config
        self.mpps: tuple[float, ...] = config.mpps
        used = torch.zeros(len(config.mpps), config.dim, dtype=torch.bool)
        for k, dim in enumerate(config.dims):
            used[k, :dim] = True
        self.register_buffer("used", used, persistent=False)
        whitens = settings.targets == "whitened"
        eye = torch.eye(config.dim).repeat(len(config.mpps), 1, 1) if whitens else torch.empty(0, 0, 0)
        self.register_buffer("whiten", eye.clone())
        self.register_buffer("unwhiten", eye.clone())
        self.teacher = Teacher(model.encoder) if settings.targets == "latent" else None
        self.to_latent = nn.Linear(config.dim, config.width) if settings.targets == "latent" else None

    @property
    def n_views(self) -> int:
        """How many masks of each region a step needs."""
        return 2 if self.settings.contrasts else 1

    def set_whitening(self, whitening: Mapping[float, Whitening]) -> None:
        """Take over the whitening of each magnification."""
        for k, mpp in enumerate(self.mpps):
            matrix, inverse = whitening[mpp].whitened().matrix, whitening[mpp].inverse()
            dim = len(matrix)
            for buffer, values in ((self.whiten, matrix.T), (self.unwhiten, inverse.T)):
                buffer[k, :dim, :dim] = torch.from_numpy(values.copy())

    def level_of(self, mpp: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """The place of each token's magnification in `mpps`; 0 at absent tokens."""
        level = torch.zeros_like(mpp, dtype=torch.long)
        for k, one in enumerate(self.mpps):
            level = torch.where(mpp == one, k, level)
        return level

    def standardise(self, regions: RegionBatch) -> Tokens:
        """The standardised tile embeddings."""
        return self.model.encoder.standardise(regions.tokens.float(), regions.mpp)

    def encode(self, regions: RegionBatch, visible: TokenMask) -> EncodedRegions:
        """What the encoder makes of the visible tokens."""
        encoded: EncodedRegions = self.model.encoder(regions.tokens.float(), regions.xy_um, regions.mpp, visible)
        return encoded

    def predict(
        self,
        regions: RegionBatch,
        encoded: EncodedRegions,
        visible: TokenMask,
        hidden: TokenMask,
        *,
        bottleneck: bool,
    ) -> HiddenTokens:
        """Ask the decoder for the hidden tokens; with `bottleneck` it sees only CLS and the registers."""
        standardised, latent = None, None
        if self.teacher is None:
            standardised = self.standardise(regions)
        else:
            latent = self.teacher(regions.tokens.float(), regions.xy_um, regions.mpp, regions.present)
        # The hidden tokens of a region side by side. Regions with about as many are asked together: a quarter of the
        # batch each, since with one width for all nearly half of the queries would be filling. Of a few regions that is
        # cheaper than asking four times.
        count = hidden.sum(dim=1)
        found: list[HiddenTokens] = []
        together = max(_GROUP_REGIONS, math.ceil(len(count) / _QUERY_GROUPS))
        for rows in torch.split(count.argsort(descending=True, stable=True), together):
            n_queries = int(count[rows[0]])
            if n_queries == 0 and found:
                break
            place = hidden[rows].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(1, n_queries)]
            asked = hidden[rows].gather(1, place)
            # What fills up a region's queries is some other token, with a magnification that exists; it is not read.
            mpp = torch.where(asked, regions.mpp[rows].gather(1, place), self.mpps[0])
            xy_um = regions.xy_um[rows].gather(1, place[..., None].expand(-1, -1, 2))
            decoded = self.model.decode(
                encoded.take(rows), visible[rows], xy_um, mpp, query_present=asked, bottleneck=bottleneck
            )
            level = self.level_of(mpp)[asked]
            predicted, log_variance = decoded.mean[asked], decoded.log_variance[asked]
            at = rows[:, None].expand_as(place)[asked], place[asked]
            if latent is not None and self.to_latent is not None:
                target = latent[at]
                found.append(HiddenTokens(self.to_latent(predicted), torch.zeros_like(target), target, level, at[0]))
            elif standardised is not None:
                target = self._as_target(standardised[at], level)
                found.append(HiddenTokens(predicted, log_variance, target, level, at[0]))
        return HiddenTokens(*(torch.cat(parts) for parts in zip(*(vars(one).values() for one in found), strict=True)))

    def in_standard_space(self, tokens: HiddenTokens) -> tuple[Float[Tensor, "token dim"], Float[Tensor, "token dim"]]:
        """Predictions and targets as standardised embeddings; latent ones stay latent, about each level's mean."""
        if self.settings.targets == "whitened":
            predicted, target = (
                _by_level(self.unwhiten, one, tokens.level) for one in (tokens.predicted, tokens.target)
            )
            return predicted, target
        return tokens.predicted.float(), tokens.target.float()

    def forward(
        self,
        tokens: Tokens,
        xy_um: Centres,
        mpp: Mpps,
        present: TokenMask,
        slide: Int[Tensor, " region"],
        region: Int[Tensor, " region"],
        hidden: Bool[Tensor, "view region token"],
        visible: Bool[Tensor, "view region token"],
        bottleneck: bool,
        with_variance: bool,
    ) -> Float[Tensor, " part"]:
        """The parts of the loss (`LOSS_PARTS`) of a batch; the first is what is minimised.

        Tensors one by one, as wrappers for many processes do not look into our dataclasses.
        """
        settings, objective, views = self.settings, self.objective, len(hidden)
        regions = RegionBatch(tokens, xy_um, mpp, present, slide, region)
        if views > 1:
            regions = regions.take(torch.arange(len(present), device=present.device).repeat(views))
        hidden, visible = hidden.flatten(0, 1), visible.flatten(0, 1)
        encoded = self.encode(regions, visible)
        zero = encoded.cls.new_zeros((), dtype=torch.float32)
        for_tokens = for_variance = for_contrast = for_guard = zero
        if objective.tokens is not None:
            found = self.predict(regions, encoded, visible, hidden, bottleneck=bottleneck)
            predicted, target = found.predicted.float(), found.target.float()
            if self.teacher is not None:
                every_dim = torch.ones(len(self.mpps), target.shape[1], dtype=torch.bool, device=target.device)
                for_tokens = objective.tokens(predicted, target, found.level, every_dim)
                for_guard = variance_covariance(encoded.cls.float()) + variance_covariance(
                    encoded.tokens[visible].float()
                )
            else:
                for_tokens = objective.tokens(predicted, target, found.level, self.used)
                if with_variance:
                    # The mean is a constant here: the variance learns from its errors and does not move it.
                    for_variance = beta_nll(
                        predicted.detach(), found.log_variance.float(), target, found.level, self.used
                    )
        if objective.views is not None and settings.contrasts:
            first, second = encoded.cls.float().chunk(2)
            for_contrast = objective.views(first, second, slide, region, settings)
        loss = (
            for_tokens
            + settings.variance_weight * for_variance
            + (objective.view_weight(settings) * for_contrast if settings.contrasts else 0.0)
            + GUARD_WEIGHT * for_guard
        )
        return torch.stack([loss, for_tokens, for_variance, for_contrast, for_guard])

    def follow(self, share_done: float) -> None:
        """Let the teacher, if there is one, move towards the encoder."""
        if self.teacher is not None:
            self.teacher.follow(self.model.encoder, share_done)

    def _as_target(
        self, standardised: Float[Tensor, "token dim"], level: Int[Tensor, " token"]
    ) -> Float[Tensor, "token dim"]:
        if self.settings.targets != "whitened":
            return standardised
        return _by_level(self.whiten, standardised, level)


def _by_level(
    matrices: Float[Tensor, "level dim dim"], rows: Float[Tensor, "token dim"], level: Int[Tensor, " token"]
) -> Float[Tensor, "token dim"]:
    """Each row times the matrix of its magnification, in float32."""
    rows = rows.float()
    result = torch.zeros_like(rows)
    with torch.autocast(rows.device.type, enabled=False):
        for k, matrix in enumerate(matrices):
            mine = level == k
            result[mine] = rows[mine] @ matrix.T
    return result
