"""Settings of a region encoder: its size, the tiles it takes, and what its magnifications share."""

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from parfocal.config import Settings
from parfocal.geometry import format_mpp

Size = Literal["T", "S", "B"]
DecoderBias = Literal["none", "nearness"]

SIZES: dict[Size, dict[str, int]] = {
    "T": {"width": 128, "depth": 4, "heads": 4},
    "S": {"width": 384, "depth": 6, "heads": 6},
    "B": {"width": 768, "depth": 6, "heads": 12},
}


class RegionEncoderConfig(Settings):
    """What a region encoder is made of; with the weights it is all that a checkpoint holds."""

    width: int = Field(384, gt=0, description="Length of a contextual token and of the region's vector.")
    depth: int = Field(6, gt=0, description="Number of transformer blocks.")
    heads: int = Field(6, gt=0, description="Attention heads; they divide the width.")
    registers: int = Field(4, ge=0, description="Extra tokens that belong to no tile, beside CLS.")
    decoder_depth: int = Field(2, gt=0, description="Cross-attention blocks of the decoder.")
    decoder_bias: DecoderBias = Field(
        "none",
        description="What the decoder knows of places beside the position embedding: nothing, or which tiles lie over, "
        "in and near the place that is asked about (nearness).",
    )

    mpps: tuple[float, ...] = Field(
        (2.0, 1.0, 0.5), min_length=1, description="Micrometres per pixel that it is trained at, coarse to fine."
    )
    dims: tuple[int, ...] = Field(description="Width of a tile embedding, for each of mpps.")
    encoders: tuple[str, ...] = Field(
        (), description="Digest of the tile encoder, for each of mpps; empty when one unnamed encoder serves all."
    )
    region_um: float = Field(448.0, gt=0, description="Side of a region, in micrometres.")
    tile_px: int = Field(224, gt=0, description="Side of a tile, in pixels: with its mpp this is the tile's footprint.")

    projector: Literal["shared", "separate"] = Field(
        "shared",
        description="One projector for each tile encoder (shared), or for each magnification (separate).",
    )
    trunk: Literal["shared", "separate"] = Field(
        "shared",
        description=(
            "One trunk for all tokens (shared), or, in every block, an own norm and MLP for each magnification and for "
            "CLS with its registers, while attention stays common (separate)."
        ),
    )
    clip_sd: float = Field(5.0, gt=0, description="Standardised features are clipped to this many standard deviations.")
    layer_scale: float = Field(1e-4, gt=0, description="Start value of the scale of each block's two branches.")
    drop_path: float = Field(
        0.1, ge=0, lt=1, description="Share of regions that skip a branch of the last block, in training."
    )

    @classmethod
    def of_size(cls, size: Size, **settings: Any) -> "RegionEncoderConfig":
        """The settings with width, depth and heads of a named size: T, S or B."""
        return cls(**{**SIZES[size], **settings})

    @field_validator("mpps")
    @classmethod
    def _coarse_to_fine(cls, mpps: tuple[float, ...]) -> tuple[float, ...]:
        # Not sorted here, as a grid does it: dims and encoders are given in the same order.
        if any(not mpp > 0 for mpp in mpps) or any(a <= b for a, b in pairwise(mpps)):
            raise ValueError(f"mpps={mpps} is not a falling row of values above 0; write the coarsest first.")
        return mpps

    @model_validator(mode="after")
    def _fit_together(self) -> "RegionEncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}.")
        if len(self.dims) != len(self.mpps) or any(dim < 1 for dim in self.dims):
            raise ValueError(f"dims={self.dims} does not give one width for each of mpps={self.mpps}.")
        if self.encoders and len(self.encoders) != len(self.mpps):
            raise ValueError(f"encoders={self.encoders} does not give one digest for each of mpps={self.mpps}.")
        for group in self.encoder_groups:
            if len({self.dims[k] for k in group}) > 1:
                names = ", ".join(f"{format_mpp(self.mpps[k])} mpp: {self.dims[k]}" for k in group)
                raise ValueError(f"one tile encoder has several widths ({names}); name each encoder in `encoders`.")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that another value of would make another model."""
        # A digest of before there was a choice stays what it was.
        return self.model_dump(mode="json", exclude={"decoder_bias"} if self.decoder_bias == "none" else None)

    @property
    def dim(self) -> int:
        """Width of a token in a batch: the widest of all magnifications; a narrower one uses its leading features."""
        return max(self.dims)

    @property
    def specials(self) -> int:
        """Tokens that belong to no tile: CLS and the registers."""
        return 1 + self.registers

    @property
    def encoder_groups(self) -> tuple[tuple[int, ...], ...]:
        """The magnifications (as places in `mpps`) of each tile encoder."""
        names = self.encoders or ("",) * len(self.mpps)
        return tuple(tuple(k for k, one in enumerate(names) if one == name) for name in dict.fromkeys(names))

    @property
    def projector_groups(self) -> tuple[tuple[int, ...], ...]:
        """The magnifications (as places in `mpps`) that use one projector."""
        return self.encoder_groups if self.projector == "shared" else tuple((k,) for k in range(len(self.mpps)))

    @property
    def finest_tile_um(self) -> float:
        """Side of a tile of the finest magnification, in micrometres: the unit of distance between tiles."""
        return self.tile_px * min(self.mpps)
