"""What `head.json` says: everything about a head that is no array, checked when it is read."""

from typing import Any, Literal

from pydantic import Field

from parfocal.cohort import OutcomeKind
from parfocal.config import Settings
from parfocal.files import digest8
from parfocal.store import RowDtype

FORMAT_VERSION = 4
"""3 knew no slides that are read in part. Heads of places began with it. 2 knew no predicted tiles. 1 counted slides:
its probabilities know no bound, its cut no rate of false alarms, its distances no regions; and contrast had no powers
and products."""


class TileFacts(Settings):
    """The tile embeddings that a head takes."""

    encoder: str = Field(description="Name of the tile encoder.")
    encoder_digests: dict[str, str] = Field(description="Digest of the tile encoder, for each magnification.")
    encoder_digest: str = Field(description="One digest for all of them.")
    spec: str | None = Field(description="How the tile encoder is loaded; None where no spec is known to give it.")
    mpps: tuple[float, ...] = Field(min_length=1, description="Micrometres per pixel, coarse to fine.")
    region_um: float = Field(gt=0, description="Side of a region, in micrometres.")
    tile_px: int = Field(gt=0, description="Side of a tile, in pixels.")
    dtype: RowDtype = Field(description="Type of the stored rows.")
    settings: dict[str, Any] = Field(description="Everything that changes a row.")


class ModelFacts(Settings):
    """The region encoder inside a head."""

    digest: str = Field(description="Digest of its weights and settings.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(description="Precision that it ran in.")
    dtype: RowDtype = Field(description="Type of the rows that it wrote.")
    read_mpps: tuple[float, ...] = Field((), description="Magnifications that it was given; all of the tiles if empty.")
    predict_mpp: float | None = Field(
        None, description="Magnification of the tiles that its decoder is asked for; None where it is not asked."
    )


class BranchFacts(Settings):
    """One probe of a head; the scores of several are averaged."""

    bags: tuple[tuple[str, str], ...] = Field(
        min_length=1, description="What is pooled: `tiles` or a readout of the model, and the name of the bag."
    )
    probe: str = Field(description="The kind of the probe.")
    facts: dict[str, Any] = Field(description="What is no array of it.")


class TrainedOn(Settings):
    """The cohort that a head was fitted on, in numbers: a head is given away, and ids of slides are not."""

    slides: int
    patients: int | None = Field(description="None where nothing said which slides come from one patient.")
    classes: dict[str, int] = Field(description="Slides of each class; empty for numbers and times.")
    labels: str = Field(description="Digest of the table of labels.")
    notes: tuple[str, ...] = Field((), description="What is to be known of its groups, in sentences.")


class MetricFacts(Settings):
    """What the arm reached on slides that it was not fitted on."""

    name: str
    estimate: float
    low: float
    high: float
    level: float
    method: str
    brier: float | None = Field(
        None, description="Brier score on patients whom neither probe nor calibration had seen; None without classes."
    )


class CalibrationFacts(Settings):
    """The calibration's numbers; see `Calibration`."""

    slope: float = Field(ge=0)
    intercept: tuple[float, ...]
    spread: float = Field(ge=0)
    n: int = Field(ge=3, description="Patients; of format 1 slides.")
    least: float = Field(0.0, ge=0, lt=0.5, description="No class gets a smaller probability; 0 in format 1.")


class StoppingFacts(Settings):
    """When a slide has been read far enough; see `Stopping`."""

    policy: str = Field(description="By which the finest tiles are read.")
    rungs: tuple[float, ...] = Field(description="Shares of a slide's finest tiles at which its class is looked at.")
    usual: tuple[float, ...] = Field(description="What the rest of the tiles usually moves the log odds by, at each.")
    limit: float = Field(ge=0, description="The least margin that settles a class, in these units.")
    call_at: float = Field(description="Of two classes the second is called from this probability on.")
    rate: float = Field(description="Most patients that may be called otherwise than when read whole, as a share.")
    confidence: float = Field(description="That no more are.")
    n: int = Field(description="Patients that the limit was found on.")
    share: float = Field(description="Mean share of the finest tiles that was read of these.")
    other: float = Field(description="Share of these that was called otherwise than when read whole.")
    metric: MetricFacts = Field(description="What the arm reached on these.")


class PartsFacts(Settings):
    """How training slides were shown in part, beside whole."""

    budgets: tuple[float, ...] = Field(min_length=1, description="Shares of the finest tiles, one more showing each.")
    policy: str = Field(description="What said which of them.")
    unread: Literal["absent", "decoded"] = Field(
        description="Whether an unread tile is absent, or is what the head's model expects of it."
    )
    branches: tuple[BranchFacts, ...] = Field((), description="The probes of slides that are read in part.")
    metrics: tuple[MetricFacts, ...] = Field(
        (), description="What is reached with each budget read of held-out slides."
    )
    calibrations: tuple[CalibrationFacts, ...] = Field((), description="Of the scores of these.")


class OutsideFacts(Settings):
    """Where the usual ends; see `Habits`."""

    cut: float
    n: int = Field(description="Patients whose distances are known; of format 1 slides.")
    bags: tuple[str, ...]
    false_alarms: float | None = Field(
        None, gt=0, lt=1, description="The rate that was asked for; None in format 1, which knew none."
    )
    rate: float | None = Field(None, description="The rate that is held.")
    smallest_rate: float | None = Field(None, description="The smallest rate that so many patients can hold.")


class AnyHeadFacts(Settings):
    """What `head.json` says of every head."""

    parfocal_head: int = Field(description="Version of the format.")
    parfocal_version: str = Field(description="The parfocal that wrote it.")
    arm: str = Field(description="Id of the arm.")
    arm_label: str = Field(description="The arm as a report names it.")
    tiles: TileFacts
    model: ModelFacts | None
    settings: dict[str, Any] = Field(description="Folds, repeats and what the arm chose among.")
    arrays_digest: str = Field(description="SHA-256 of head.safetensors.")

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over everything in the head."""
        # Without what the file does not say: a head of format 1 keeps the digest that its predictions name.
        return digest8(self.model_dump(mode="json", exclude_unset=True))


class HeadFacts(AnyHeadFacts):
    """The whole of `head.json` of a head that predicts slides."""

    target: str
    kind: OutcomeKind
    classes: tuple[str, ...]
    branches: tuple[BranchFacts, ...] = Field(min_length=1)
    parts: PartsFacts | None = Field(None, description="None where training slides were shown whole alone.")
    trained_on: TrainedOn
    metric: MetricFacts
    calibration: CalibrationFacts
    outside: OutsideFacts
    stopping: StoppingFacts | None = Field(None, description="None where a slide is read whole, or as far as is asked.")


class PlaceTargetFacts(Settings):
    """One target of a head of places."""

    name: str = Field(description="As tables of predictions call it; of a class `column=class`.")
    column: str = Field(description="The column of the table of places that it comes from.")
    class_name: str | None = Field(description="The class that is told from the others; None for a number.")
    metric: str = Field(description="Name of the number that says how well it is known.")
    estimate: float | None = Field(description="That number, the mean over held-out slides; None where none has one.")
    low: float | None = Field(description="Lower end of its interval over slides; None with a single one.")
    high: float | None = Field(description="Upper end.")


class PlacesTrainedOn(Settings):
    """The places that a head was fitted on, in numbers."""

    places: int
    slides: int
    groups: int | None = Field(description="Groups of slides, such as patients; None where slides were not grouped.")
    table: str | None = Field(description="Digest of the file of places; None for a folder.")
    notes: tuple[str, ...] = Field((), description="What was left out, in sentences.")


class PlaceHeadFacts(AnyHeadFacts):
    """The whole of `head.json` of a head that predicts places inside slides."""

    kind: Literal["places"]
    targets: tuple[PlaceTargetFacts, ...] = Field(min_length=1)
    blocks: tuple[tuple[str, str], ...] = Field(
        min_length=1, description="What is put side by side: `tiles` or a readout of the model, and the block's name."
    )
    centred: bool = Field(description="Whether rows and targets were centred within their slide.")
    preparation: str = Field(
        description="Rotated or whitened components, as inner folds preferred; of a head that was trained with its "
        "encoders standardised."
    )
    penalty: float | None = Field(gt=0, description="Of the ridge, likewise; None where there was no ridge.")
    trained_on: PlacesTrainedOn
    metric: PlaceTargetFacts = Field(description="The mean over all targets.")
