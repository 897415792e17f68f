"""What is asked of places, and how the answer is found: one declaration for evaluation, fit and their commands."""

from pydantic import Field

from parfocal.config import Settings
from parfocal.evaluate.run import EvaluateSettings
from parfocal.heads import ProbeSettings


class PlaceChoices(Settings):
    """What is predicted at places."""

    centre: bool = Field(
        True,
        description="Whether vectors and targets are centred within each slide, so that the question is which of its "
        "places have more of a target, or taken as they are.",
    )
    most_variable: int | None = Field(
        None, ge=1, description="Keep so many targets in each fold, those that vary most at its training places."
    )


class PlaceQuestion(PlaceChoices):
    """What is asked of places."""

    hold_out: tuple[str, ...] = Field(
        (), description="Slides (or groups) to hold out, one after another; none holds out all, in folds."
    )


class PlaceFitSettings(PlaceChoices):
    """How an arm is fitted on places, and how well that works is found out."""

    folds: int = Field(5, ge=2, description="Folds; with no more groups than that, each group is a fold.")
    inner_folds: int = Field(5, ge=2, description="Folds among the training groups, which choose the penalty.")
    components: int = Field(64, ge=1, description="Principal components of each magnification.")
    seed: int = Field(0, ge=0, description="Of folds, of exchanged places and of noise.")

    @staticmethod
    def of_probes(folds: int, probes: ProbeSettings, choices: PlaceChoices) -> "PlaceFitSettings":
        """The settings that slides have too, with what is asked of places."""
        return PlaceFitSettings(
            centre=choices.centre,
            most_variable=choices.most_variable,
            folds=folds,
            inner_folds=probes.inner_folds,
            components=max(probes.components),
            seed=probes.seed,
        )


class PlaceSettings(PlaceFitSettings, PlaceQuestion):
    """How targets at places are predicted and compared."""

    arms: tuple[str, ...] = Field((), description="Arms to compare beside those that split the gain; none is all.")

    @staticmethod
    def of(settings: EvaluateSettings, question: PlaceQuestion) -> "PlaceSettings":
        """The settings that an evaluation of slides has too, with what is asked of places."""
        shared = PlaceFitSettings.of_probes(settings.folds, settings.probes, question)
        return PlaceSettings(**dict(shared), hold_out=question.hold_out, arms=settings.arms)
