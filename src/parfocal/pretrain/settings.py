"""The settings of `pretrain`, and which of them make another model."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from parfocal.config import Devices, renamed
from parfocal.pretrain.masks import MaskSettings
from parfocal.pretrain.objectives import OBJECTIVES
from parfocal.region_encoder import DecoderBias, Size

# They decide where and how fast a run goes, not what comes of it (up to rounding): a run may go on with others.
_EXECUTION = frozenset({"device", "read_threads", "cache_mib", "checkpoint_every"})


class PretrainSettings(MaskSettings):
    """How a region encoder is pretrained."""

    size: Size = Field("S", description="Size of the region encoder: T 128 wide x 4, S 384 x 6, B 768 x 6.")
    projector: Literal["shared", "separate"] = Field(
        "shared", description="One projector for each tile encoder (shared), or for each magnification (separate)."
    )
    trunk: Literal["shared", "separate"] = Field(
        "shared", description="Whether norms and MLPs of the blocks are shared by all magnifications."
    )
    decoder_bias: DecoderBias = Field(
        "nearness",
        description="What the decoder knows of places beside the position embedding: which tiles lie over, in and near "
        "the place that is asked about (nearness), or nothing (none).",
    )
    objective: str = Field(
        "mem",
        description="Predict hidden tokens (mem), that and tell regions apart (cmem), or only the latter "
        "(contrastive); or the objective of another package.",
    )
    targets: Literal["standardised", "whitened", "latent"] = Field(
        "standardised",
        description="What is predicted: standardised tile embeddings, whitened ones, or tokens of an averaged teacher.",
    )
    whiten_shrinkage: float = Field(
        0.1, gt=0, le=1, description="Share of the identity in the correlation matrix that whitened targets use."
    )
    contrast_weight: float = Field(0.25, ge=0, description="Weight of telling regions apart in cmem.")
    temperature: float = Field(0.2, gt=0, description="Temperature of telling regions apart.")
    same_slide_negatives: bool = Field(
        True, description="Whether regions must be told from others of their own slide too."
    )
    bottleneck: float = Field(
        0.1, ge=0, le=1, description="Share of the steps where the decoder sees only CLS and the registers."
    )
    variance_from: float = Field(
        0.5, ge=0, le=1, description="Share of the steps after which the predicted variance is trained."
    )
    variance_weight: float = Field(0.1, ge=0, description="Weight of the predicted variance's loss.")
    symmetry: Literal["declared", "invariant", "off"] = Field(
        "declared",
        description="Turn and mirror regions where the tile encoder declares how its rows change (declared), "
        "always, with rows taken as unchanged (invariant), or never (off).",
    )
    mpps: tuple[float, ...] = Field(
        (), description="Magnifications of the set that the model sees, in micrometres per pixel; all when empty."
    )
    steps: int | None = Field(
        None, ge=0, description="Number of steps, in place of epochs; 0 leaves random weights, as a control."
    )
    epochs: float = Field(20.0, gt=0, description="Times that as many regions are seen as there are to train on.")
    batch: int = Field(256, gt=1, description="Regions of a step, of each process.")
    streams: int = Field(
        0,
        ge=0,
        description="Parts that a step of all processes consists of, each drawn on its own and averaged; as many as "
        "processes when 0. With the same number fewer processes do what more do, one part after the other.",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="AdamW, or Muon for matrices with AdamW for the rest: weak structure is learnt in fewer steps, and "
        "a step takes longer where the model is wide and the batch small.",
    )
    lr: float = Field(3e-4, gt=0, description="Largest learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of matrices.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps over which the learning rate rises.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    seed: int = Field(0, ge=0, description="Of everything random.")
    holdout: float = Field(
        0.1, gt=0, lt=1, description="Share of the slides that is held out, or of the only slide's regions."
    )
    holdout_slides: tuple[str, ...] = Field((), description="Slides to hold out, in place of a share.")
    per_visit: int = Field(64, gt=0, description="Regions that are taken from a slide at a time.")
    buffer_mib: int = Field(256, gt=0, description="Size of the shuffled buffer, in MiB.")
    monitor_every: int = Field(500, gt=0, description="Steps from one look at the held-out regions to the next.")
    monitor_regions: int = Field(2048, gt=1, description="Most held-out regions that are looked at.")
    log_every: int = Field(10, gt=0, description="Steps from one row of metrics.csv to the next.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of products. Auto: bfloat16 where the processor has it (a GPU of capability 8, a CPU with AVX-512 "
        "BF16 or AMX), else float32.",
    )
    device: Devices = Field(
        ("auto",),
        description="Where to train: auto, cpu, cuda, cuda:1, mps; of several, such as cuda:0 cuda:1, each is a "
        "process. Under torchrun its processes count.",
    )
    read_threads: int = Field(1, ge=0, description="Threads that read ahead.")
    cache_mib: int = Field(512, ge=0, description="A set of at most this size is kept in memory, in MiB.")
    checkpoint_every: int = Field(500, gt=0, description="Steps from one point to resume from to the next.")

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        return renamed(values, {"devices": "device", "workers": "read_threads"})

    @model_validator(mode="before")
    @classmethod
    def _without_decoder(cls, values: Any) -> Any:
        """An objective that predicts no tokens leaves nothing that a decoder could know of places."""
        objective = values.get("objective", "mem") if isinstance(values, Mapping) else "mem"
        if objective not in OBJECTIVES or OBJECTIVES.get(objective).tokens is not None:
            return values
        return {"decoder_bias": "none", **values}

    @field_validator("mpps")
    @classmethod
    def _coarse_to_fine(cls, mpps: tuple[float, ...]) -> tuple[float, ...]:
        if any(not mpp > 0 for mpp in mpps):
            raise ValueError(f"mpps={mpps} holds a value that is not above 0.")
        return tuple(sorted(set(mpps), reverse=True))

    @field_validator("objective")
    @classmethod
    def _is_there(cls, objective: str) -> str:
        if objective not in OBJECTIVES:
            raise ValueError(f"there is no objective {objective!r}, only {', '.join(OBJECTIVES.names)}.")
        return objective

    @model_validator(mode="after")
    def _fit_together(self) -> "PretrainSettings":
        if not self.predicts_tokens and self.targets != "standardised":
            raise ValueError(
                f"objective={self.objective} predicts no tokens, so targets={self.targets} would do nothing. "
                "Leave targets at standardised, or use cmem."
            )
        if not self.predicts_tokens and self.decoder_bias != "none":
            raise ValueError(
                f"objective={self.objective} predicts no tokens, so decoder_bias={self.decoder_bias} would do nothing. "
                "Leave it out, or use cmem."
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that another value of would give another model."""
        # Runs begun before there was a choice go on.
        unchosen = {"mpps"} if not self.mpps else set()
        unchosen |= {"decoder_bias"} if self.decoder_bias == "none" else set()
        unchosen |= {"streams"} if not self.streams else set()
        unchanged = _EXECUTION | unchosen
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in unchanged}

    @property
    def predicts_tokens(self) -> bool:
        """Whether hidden tokens are predicted."""
        return OBJECTIVES.get(self.objective).tokens is not None

    @property
    def contrasts(self) -> bool:
        """Whether two views of each region are needed."""
        return OBJECTIVES.get(self.objective).contrasts(self)
