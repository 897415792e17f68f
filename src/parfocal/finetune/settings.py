"""The settings of `finetune`, and which of them make another model."""

from typing import Any, Literal

from pydantic import Field, field_validator

from parfocal.config import Devices, GridConfig
from parfocal.embed.settings import EncoderPrecision, SlideOpening
from parfocal.evaluate.places import PlaceChoices
from parfocal.finetune.heads import HeadKind
from parfocal.finetune.scorer import Readout
from parfocal.finetune.tuning import Tune
from parfocal.region_encoder import Size

# They decide where and how fast a run goes, not what comes of it (up to rounding): a run may go on with others.
_EXECUTION = frozenset({"device", "cache_mib", "chunk", "checkpoint_every"})


class FinetuneSettings(SlideOpening, EncoderPrecision, PlaceChoices):
    """How a tile encoder, a region encoder and a head are trained together."""

    encoder: str = Field("", description="The tile encoder that is trained on, a network of timm or a preset of one.")
    tune: str = Field(
        "last-stages:1",
        description="What of it is trained: lora:RANK (vision transformers of timm), last-stages:N (EfficientNet, "
        "ResNet, ConvNeXt), or none, as a control.",
    )
    grid: GridConfig = Field(GridConfig(), description="How a slide is cut into regions and tiles.")
    size: Size = Field("T", description="Size of a new region encoder, where no pretrained one is given.")
    readout: Readout = Field(
        "tokens+mixed",
        description="What the head reads of a region: CLS, or a contextual token of each magnification (at places the "
        "one in the middle, else their mean); with +mixed the tile embeddings themselves beside.",
    )
    head: HeadKind = Field(
        "linear",
        description="How a slide's regions are pooled: their mean, gated attention, or ABMILX, whose attention is "
        "refined by what alike regions get. Places are regions themselves.",
    )
    slides_per_step: int = Field(4, ge=1, description="Slides of a step, of each process.")
    regions_per_slide: int = Field(8, ge=1, description="Regions (or places) of each of them, drawn at random.")
    tiles_per_region: int = Field(
        0,
        ge=0,
        description="Tiles of each of them in a step, drawn at random, of each magnification one (at places that in "
        "the middle) before any other; 0 takes all.",
    )
    steps: int = Field(200, ge=0, description="Number of steps; with 0 only the head has learnt, as a control.")
    lr: float = Field(1e-3, gt=0, description="Largest learning rate of the head.")
    region_lr: float = Field(1e-4, gt=0, description="Largest learning rate of the region encoder.")
    tile_lr: float = Field(
        1e-4, ge=0, description="Largest learning rate of the tile encoder; 0 leaves it as it is, as a control."
    )
    head_decay: float = Field(10.0, ge=0, description="Weight decay of the head.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of the other matrices.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which learning rates rise.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    head_steps: int = Field(
        100, ge=0, description="Steps in which the head alone learns first, from the untuned vectors of some regions."
    )
    start_regions: int = Field(2048, ge=1, description="Most regions that it learns from there.")
    holdout: float = Field(
        0.2, ge=0, lt=1, description="Share of the slides that is held out, patients whole; 0 holds out none."
    )
    holdout_slides: tuple[str, ...] = Field((), description="Slides to hold out, in place of a share.")
    held_out_regions: int = Field(
        256, ge=1, description="Most regions of a held-out slide that are looked at; of places all are."
    )
    look_every: int = Field(
        0, ge=0, description="Steps from one look at what is held out to the next; 0 looks first and last only."
    )
    log_every: int = Field(10, ge=1, description="Steps from one row of metrics.csv to the next.")
    checkpoint_every: int = Field(50, ge=1, description="Steps from one point to resume from to the next.")
    chunk: int = Field(64, ge=1, description="Tiles at a time: what memory for activations grows with.")
    cache_mib: int = Field(
        2048, ge=0, description="Of prepared tiles that are kept in memory, in MiB; others are read again."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of products. Auto: bfloat16 where the processor has it, else float32; on a CPU of what is frozen "
        "alone.",
    )
    device: Devices = Field(
        ("auto",),
        description="Where to train: auto, cpu, cuda, cuda:1, mps; of several, such as cuda:0 cuda:1, each is a "
        "process. Under torchrun its processes count.",
    )
    seed: int = Field(0, ge=0, description="Of everything random.")

    @field_validator("tune")
    @classmethod
    def _is_a_way(cls, tune: str) -> str:
        Tune.of(tune)
        return tune

    def identity(self) -> dict[str, Any]:
        """The settings that another value of would give another model."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in _EXECUTION}
