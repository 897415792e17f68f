"""The table of predictions: what is said of each slide, how much of it that rests on, and whether to trust it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.files import write_csv
from parfocal.geometry import format_mpp
from parfocal.predict.head import Head
from parfocal.predict.outside import Distance
from parfocal.run.failures import FailedSlide, exit_status
from parfocal.store import EmbeddingSet
from parfocal.version import __version__


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """What a head says about one slide.

    Attributes:
        slide: its id.
        probability: of each class; empty for numbers and times.
        value: the number, or the percentile of the risk; None for classes.
        interval: what holds nine of ten new values; None for other kinds than numbers.
        absent_share: share of the tiles of the slide's regions that are absent, for each magnification.
        absent_overall: the same over all magnifications.
        n_regions: regions of the slide.
        distance: from the training slides.
        rank: its place among the training patients' distances and its own, 1 where it is further than all; None where
            the head does not know them.
        is_outside: whether that is beyond what is usual.
    """

    slide: str
    probability: Float64[np.ndarray, " class"]
    value: float | None
    interval: tuple[float, float] | None
    absent_share: Mapping[str, float]
    absent_overall: float
    n_regions: int
    distance: Distance
    rank: int | None
    is_outside: bool


@dataclass(frozen=True, eq=False)
class PredictSummary:
    """What came of a run.

    Attributes:
        out: the table.
        head: what predicted.
        tiles: the tile embeddings that were read.
        slides: the predictions, and the failures in between, in the order of the input.
    """

    out: Path
    head: Head
    tiles: EmbeddingSet
    slides: tuple[SlidePrediction | FailedSlide, ...]

    @property
    def predicted(self) -> tuple[SlidePrediction, ...]:
        """The slides with a prediction."""
        return tuple(one for one in self.slides if isinstance(one, SlidePrediction))

    @property
    def failed(self) -> tuple[FailedSlide, ...]:
        """The slides without."""
        return tuple(one for one in self.slides if isinstance(one, FailedSlide))

    @property
    def exit_status(self) -> int:
        """0 when all slides are predicted, 1 when none is, 3 when some are."""
        return exit_status(len(self.failed), len(self.slides))


def prediction_columns(head: Head) -> tuple[str, ...]:
    """The columns of the table: what is said, how much of the slide it rests on, whether to trust it, and by what."""
    kind, classes = head.facts.kind, head.facts.classes
    if kind == "binary":
        said = [f"probability_{classes[1]}"]
    elif kind == "continuous":
        said = [head.facts.target, "low", "high"]
    elif kind == "survival":
        said = ["risk_percentile"]
    else:
        said = [f"probability_{name}" for name in classes]
    absent = [f"absent_share_{format_mpp(mpp)}" for mpp in head.facts.tiles.mpps]
    trust = ["n_regions", "outside", "distance", "cut", "rank", "rank_of", "false_alarm_rate", "furthest"]
    return ("slide", *said, "absent_share", *absent, *trust, "problem", "parfocal_version", "head", "encoder")


def write_predictions(summary: PredictSummary) -> None:
    """Write the table, whole or not at all."""
    write_csv(summary.out, prediction_columns(summary.head), _rows(summary))


def _rows(summary: PredictSummary) -> Iterator[list[str]]:
    head = summary.head
    by = [__version__, head.digest, head.facts.tiles.encoder_digest]
    empty = len(prediction_columns(head)) - 2 - len(by)
    for one in summary.slides:
        if isinstance(one, FailedSlide):
            yield [one.slide, *[""] * empty, f"{one.error}: {one.message}", *by]
            continue
        if head.facts.kind == "binary":
            said = [float(one.probability[1])]
        elif head.facts.classes:
            said = one.probability.tolist()
        else:
            said = [float("nan") if one.value is None else one.value, *(one.interval or ())]
        shares = [one.absent_overall, *one.absent_share.values()]
        limit = head.habits.limit
        ranked = ["", "", ""] if one.rank is None else [str(one.rank), str(limit.n + 1), f"{limit.rate:.4g}"]
        far = [f"{one.distance.value:.4g}", f"{limit.cut:.4g}"]
        trust = [str(int(one.is_outside)), *far, *ranked, one.distance.furthest]
        numbers = [f"{number:.6g}" for number in (*said, *shares)]
        yield [one.slide, *numbers, str(one.n_regions), *trust, "", *by]
