"""What is asked of a fit of a head, on the command line and in Python."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from parfocal.config import Settings
from parfocal.heads import ProbeSettings
from parfocal.predict.facts import PartsFacts
from parfocal.predict.outside import FALSE_ALARMS


class FitSettings(Settings):
    """How an arm is fitted, and how its scores are calibrated."""

    folds: int = Field(5, ge=2, description="Folds of the cross-validation that gives the scores to calibrate on.")
    repeats: int = Field(5, ge=1, description="How often the cross-validation is repeated with other folds.")
    seeds: int = Field(1, ge=1, description="Seeds that a network is fitted with; their scores are averaged.")
    most_instances: int = Field(
        1024, ge=1, description="Instances of a slide and magnification that attention is fitted on; means use all."
    )
    false_alarms: float = Field(
        FALSE_ALARMS,
        gt=0,
        lt=1,
        description="Share of new patients, like those of training, of whom a slide may be called outside by mistake; "
        "n patients hold no smaller one than 1 in n + 1.",
    )
    parts: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (),
        description="Budgets, such as 0.05 0.1 0.25: every training slide is shown whole and, for each of them, again "
        "with that share of its finest tiles read, so that the head knows slides which are read in part.",
    )
    parts_by: str = Field(
        "stride", description="The policy that says which tiles these are, one that asks no head and no model."
    )
    unread: Literal["absent", "decoded"] = Field(
        "absent",
        description="What stands for a tile that is not read: nothing, or the embedding that the model of --model "
        "expects of it. The head keeps the model.",
    )
    drop_magnifications: float | None = Field(
        None,
        ge=0.1,
        lt=1,
        description="Share of the showings of a training slide in which some of its magnifications are left out, such "
        "as 0.5, so that `explain` can ask concat and concat-mlp without them.",
    )
    stop_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Make a head that reads new slides until their class is settled: share of patients who may be "
        "called otherwise than when their slides are read whole. Of contrast on a store with --coarse native.",
    )
    stop_confidence: float = Field(0.95, gt=0, lt=1, description="That no more patients than that are.")
    stop_policy: str = Field("contrast-tiles", description="Policy by which the fine tiles are then read.")
    call_at: float = Field(
        0.5, gt=0, lt=1, description="Of two classes the second is called from this probability on, for --stop-rate."
    )
    probes: ProbeSettings = ProbeSettings()

    @model_validator(mode="after")
    def _parts_are_asked_for(self) -> "FitSettings":
        if not self.parts and (self.parts_by != "stride" or self.unread != "absent"):
            raise ValueError("parts_by and unread say how slides are shown in part. Name budgets: --parts 0.1 0.25.")
        if self.unread == "absent" and 0 in self.parts:
            raise ValueError(
                "a budget of 0 in parts shows no fine tile at all. Leave it out, or fill them in: --unread decoded."
            )
        if len(set(self.parts)) < len(self.parts):
            raise ValueError("parts names a budget twice. Name each once.")
        if self.parts and self.stop_rate is not None:
            raise ValueError("a head is shown slides in part or says when it has seen enough: parts, or stop_rate.")
        if self.drop_magnifications is not None and (self.parts or self.stop_rate is not None):
            raise ValueError(
                "a head knows slides without some magnifications, or such that are read in part: drop_magnifications, "
                "or parts or stop_rate."
            )
        fields = type(self).model_fields
        said = [
            name
            for name in ("stop_confidence", "stop_policy", "call_at")
            if getattr(self, name) != fields[name].default
        ]
        if said and self.stop_rate is None:
            raise ValueError(f"{' and '.join(said)} say how slides are read until they are settled: --stop-rate 0.05.")
        return self

    @property
    def parts_facts(self) -> PartsFacts | None:
        """What a head keeps of these settings; None where slides are shown whole alone."""
        return PartsFacts(budgets=self.parts, policy=self.parts_by, unread=self.unread) if self.parts else None
