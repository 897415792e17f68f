"""The query decoder: what a tile at any place and any magnification should look like, given an encoded region."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.region_encoder.attention import FeedForward, attend
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.encoder import initialise
from parfocal.region_encoder.position import PositionEmbedding

__all__ = ["Decoded", "EmbeddingDecoder"]

# A log-variance outside this says nothing about standardised features, and its exponential would only overflow.
_LOG_VARIANCE = (-10.0, 10.0)


@dataclass(frozen=True, eq=False)
class Decoded:
    """The embedding that is expected at each query, in standardised features; 0 beyond a magnification's width."""

    mean: Float[Tensor, "region query dim"]
    log_variance: Float[Tensor, "region query dim"]


class EmbeddingDecoder(nn.Module):
    """Cross-attention from queries (x, y, mpp) to the encoded region. Queries do not see each other.

    So the answer at a place does not depend on what else is asked, and a tile can be asked about that was never read.
    """

    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.position = PositionEmbedding(config.width)
        self.blocks = nn.ModuleList(_CrossBlock(config) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(config.width)
        self.memory_norm = nn.LayerNorm(config.width)
        # Each magnification has its own answer sheet: their features are standardised separately.
        self.outputs = nn.ModuleList(nn.Linear(config.width, 2 * dim) for dim in config.dims)
        self.apply(initialise)

    def forward(
        self,
        memory: Float[Tensor, "region slot width"],
        memory_present: Bool[Tensor, "region slot"],
        xy_um: Float[Tensor, "region query 2"],
        mpp: Float[Tensor, "region query"],
    ) -> Decoded:
        """Ask for embeddings.

        Args:
            memory: what may be looked at: CLS and registers alone (the bottleneck), or with the contextual tokens.
            memory_present: which of it there is; at least one slot of each region. Other values are never read.
            xy_um: centres of the asked tiles about the region's centre, in micrometres.
            mpp: micrometres per pixel of the asked tiles; the output layer is that of the nearest magnification.
        """
        x = self.position(xy_um, mpp)
        is_full = bool(memory_present.all())
        if not is_full:
            memory = torch.where(memory_present[..., None], memory, 0.0)
        bias = None
        if not is_full:
            bias = torch.zeros_like(memory_present, dtype=memory.dtype).masked_fill(~memory_present, float("-inf"))
            bias = bias[:, None, None, :].expand(-1, self.config.heads, -1, -1)
        seen = self.memory_norm(memory)
        for block in self.blocks:
            x = block(x, seen, bias)
        return self._answer(self.norm(x), mpp)

    def _answer(self, x: Float[Tensor, "region query width"], mpp: Float[Tensor, "region query"]) -> Decoded:
        dim, flat = self.config.dim, x.flatten(0, 1)
        values, index = torch.unique(mpp.flatten(), return_inverse=True)
        levels = torch.tensor(
            [self.config.nearest(value) for value in values.tolist()], device=x.device, dtype=torch.long
        )
        level = levels[index]
        answers = None
        for k, output in enumerate(self.outputs):
            own = (level == k).nonzero().flatten()
            answer = output(flat.index_select(0, own)).unflatten(1, (2, -1))
            answer = nn.functional.pad(answer, (0, dim - answer.shape[-1]))
            answers = answer.new_zeros(len(flat), 2, dim) if answers is None else answers
            answers = answers.index_copy(0, own, answer)
        assert answers is not None
        mean, log_variance = answers.view(*x.shape[:2], 2, dim).unbind(dim=2)
        return Decoded(mean, log_variance.clamp(*_LOG_VARIANCE))


class _CrossBlock(nn.Module):
    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.mlp = FeedForward(config.width)

    def forward(
        self,
        x: Float[Tensor, "region query width"],
        memory: Float[Tensor, "region slot width"],
        bias: Float[Tensor, "region head 1 slot"] | None,
    ) -> Float[Tensor, "region query width"]:
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).unbind(dim=2)
        x = x + self.out(attend(query, key, value, bias).values)
        return x + self.mlp(x)
