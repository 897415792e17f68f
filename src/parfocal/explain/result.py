"""What an explanation is made of: parts of the scores of slides, of regions and of tiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.explain.directions import EndRegion
from parfocal.explain.shapley import pairs_of_players
from parfocal.geometry import format_mpp
from parfocal.predict import Head
from parfocal.run.failures import FailedSlide, SlideOutcomes
from parfocal.store import EmbeddingSet


@dataclass(frozen=True, eq=False)
class SlideParts:
    """The parts of a slide's scores before calibration.

    Magnifications and their pairs are in the order of the head's, coarse to fine; columns are the head's scores, of
    which there is one but for several or ordered classes.

    Attributes:
        slide: its id.
        base: the score with no magnification.
        score: the score with all of them; `base` and the Shapley values add up to it.
        shapley: Shapley value of each magnification.
        own: the same without the halves of its interactions; `base`, these and the interactions add up to the score.
        interaction: Shapley interaction index of each pair of magnifications.
        prediction: what the score means after calibration, by the name of its column in a table of predictions.
    """

    slide: str
    base: Float64[np.ndarray, " column"]
    score: Float64[np.ndarray, " column"]
    shapley: Float64[np.ndarray, "mpp column"]
    own: Float64[np.ndarray, "mpp column"]
    interaction: Float64[np.ndarray, "pair column"]
    prediction: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class RegionParts:
    """What each region of a slide adds to its scores; over regions each adds up to the same part of the slide.

    Attributes:
        contribution: to the score; with the base they add up to it.
        shapley: of that, the Shapley value of each magnification.
        interaction: Shapley interaction index of each pair.
    """

    contribution: Float64[np.ndarray, "region column"]
    shapley: Float64[np.ndarray, "mpp region column"]
    interaction: Float64[np.ndarray, "pair region column"]

    def of_column(self, column: int) -> Float64[np.ndarray, "region part"]:
        """All of it for one score, in the order of `region_part_names`."""
        parts = [self.contribution[:, column], *self.shapley[:, :, column], *self.interaction[:, :, column]]
        return np.stack(parts, axis=1)


def region_part_names(mpps: Sequence[float]) -> dict[str, str]:
    """What is known of a region and a score: the names of columns of tables, and what people read."""
    names = [format_mpp(mpp) for mpp in mpps]
    pairs = [(names[a], names[b]) for a, b in pairs_of_players(len(names))]
    return {
        "contribution": "Adds",
        **{f"shapley_{name}": f"Shapley value of {name} mpp" for name in names},
        **{f"interaction_{a}_{b}": f"Interaction of {a} and {b} mpp" for a, b in pairs},
    }


def named_score(label: str, score: str, scores: Sequence[str]) -> str:
    """What is said of a score; it is named only where there are several."""
    return label if len(scores) == 1 else f"{label} to {score}"


@dataclass(frozen=True, eq=False)
class TileParts:
    """What each tile of one magnification adds by itself.

    Of attention and of a mean it is all that there is; of contrast it is the part of the slide means, and what pairs of
    magnifications say of a region is said by its tiles together.

    Attributes:
        xy_um: top left of each tile in the slide's frame, in micrometres.
        side_um: side of a tile, in micrometres.
        contribution: to the scores.
    """

    xy_um: Float64[np.ndarray, "tile 2"]
    side_um: float
    contribution: Float64[np.ndarray, "tile column"]


@dataclass(frozen=True, eq=False)
class SlideExplanation:
    """One slide, with its regions and tiles.

    Attributes:
        parts: of the slide's scores.
        xy_um: top left of each region in the slide's frame, in micrometres.
        side_um: side of a region, in micrometres.
        slide_mpp: micrometres per pixel of level 0.
        regions: None where the score is no sum over regions, as that of a network on the slide mean.
        tiles: by micrometres per pixel; the magnifications whose tiles add something by themselves.
    """

    parts: SlideParts
    xy_um: Float64[np.ndarray, "region 2"]
    side_um: float
    slide_mpp: float
    regions: RegionParts | None
    tiles: Mapping[float, TileParts]


@dataclass(frozen=True, eq=False)
class PartOfScore:
    """One part of the scores of all slides.

    Attributes:
        column: the score's name.
        name: of the part, such as `2 mpp alone` or `2 with 0.5 mpp`.
        mean: over slides.
        spread: standard deviation over slides; None with less than ten.
        share: of the variance of the score, its covariance with the score over that variance: all parts of a score add
            up to 1, and one that goes against the others is below 0. None with less than ten slides, or where all
            have one score.
    """

    column: str
    name: str
    mean: float
    spread: float | None
    share: float | None


@dataclass(frozen=True, eq=False)
class ExplainSummary(SlideOutcomes[SlideParts]):
    """What came of a run.

    Attributes:
        out: the folder.
        report: its page; None of a shard, which has none.
        head: what is explained.
        tiles: the tile embeddings that were read.
        columns: the names of its scores.
        slides: the parts of every slide, and the failures in between, in the order of the set.
        parts: of the scores of all slides.
        ends: regions at the ends of contrast directions; none for other heads.
        sentences: the answer in words; none of a shard.
    """

    out: Path
    report: Path | None
    head: Head
    tiles: EmbeddingSet
    columns: tuple[str, ...]
    slides: tuple[SlideParts | FailedSlide, ...]
    parts: tuple[PartOfScore, ...]
    ends: tuple[EndRegion, ...]
    sentences: tuple[str, ...]

    @property
    def explained(self) -> tuple[SlideParts, ...]:
        """The slides that are explained."""
        return self.done
