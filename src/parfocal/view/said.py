"""What a head says of the slides that are looked at: predictions, explanations, and the ends of its directions.

All of it comes from the functions of `predict` and `explain`, slide by slide, and none of it is written down: what a
head's region encoder makes lies in a folder that goes with the viewer.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from threadpoolctl import threadpool_limits

from parfocal.errors import ConfigError, ParfocalError, SlideError
from parfocal.explain.directions import Direction, EndRegion
from parfocal.explain.result import SlideExplanation
from parfocal.explain.run import see_ends, sources_of
from parfocal.explain.settings import ExplainSettings
from parfocal.explain.shapley import own_parts, pairs_of_players
from parfocal.explain.slide import Branch, Sources, branches_of, explain_slide, score_names
from parfocal.geometry import format_mpp
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.mlp import MeanNetwork
from parfocal.heads.network import FittedNetwork
from parfocal.predict import Head, PredictSettings, SlidePrediction, predict_slide, sources_for
from parfocal.predict.predict import read_in_part_at, refuse_nothing_to_pool
from parfocal.predict.stopping import calls_of
from parfocal.run.failures import FailedSlide
from parfocal.store import EmbeddingSet
from parfocal.view.overlays import PartName
from parfocal.view.plain import magnification_label, plain_number

_KEPT = 8  # explanations of slides

_ENDS = ExplainSettings(ends=6)


def _no_event(event: object) -> None:
    """Nobody watches."""


@dataclass(eq=False)
class HeadOpinions:
    """A head and what it has said so far.

    Its methods are called by one thread at a time.

    Attributes:
        head: what is asked.
        tiles: the set that it fits.
        scratch: a folder that what its region encoder makes is written to.
        no_parts: why it cannot be explained; None where it can.
    """

    head: Head
    tiles: EmbeddingSet
    scratch: Path
    no_parts: str | None = None
    ends: dict[Direction, list[EndRegion]] = field(default_factory=dict)
    n_seen: int = 0
    _branches: tuple[Branch, ...] = ()
    _explained: OrderedDict[str, SlideExplanation] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        try:
            self._branches = branches_of(self.head)
        except ConfigError as error:
            self.no_parts = str(error)

    @property
    def has_directions(self) -> bool:
        """Whether it knows directions whose ends can be looked for in every slide."""
        return any(one.of_tiles and isinstance(one.probe, FittedContrast) for one in self._branches)

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts of a score: each magnification alone, then every pair; none where it cannot be explained."""
        if self.no_parts is not None:
            return ()
        mpps = self.tiles.mpps
        names, labels = [format_mpp(mpp) for mpp in mpps], [magnification_label(mpp) for mpp in mpps]
        alone = [PartName(name, f"{label} alone") for name, label in zip(names, labels, strict=True)]
        pairs = [
            PartName(f"{names[a]}+{names[b]}", f"{labels[a]} with {labels[b]}") for a, b in pairs_of_players(len(mpps))
        ]
        return (*alone, *pairs)

    @property
    def sums_over_regions(self) -> bool:
        """Whether regions have a part of a slide's score, which is not so where a network reads slide means."""
        probes = [one.probe for one in self._branches]
        return not any(isinstance(one, FittedNetwork) and isinstance(one.network, MeanNetwork) for one in probes)

    def describe(self) -> dict[str, Any]:
        """The head, as plain values."""
        facts = self.head.facts
        return {
            "name": self.head.path.name,
            "kind": facts.arm_label,
            "target": facts.target,
            "outcome": facts.kind,
            "classes": list(facts.classes),
            "call_at": None if self.head.stopping is None or len(facts.classes) != 2 else self.head.stopping.call_at,
            "parts": [{"key": one.key, "label": one.label} for one in self.parts],
        }

    def predict(self, slide: str) -> tuple[dict[str, Any] | None, str | None]:
        """The prediction of a slide as plain values, or why there is none."""
        one = replace(self.tiles, slides=(slide,))
        sources, failed = sources_for(self.head, one, self.scratch, PredictSettings(), _no_event)
        doubts = list[str]()
        with threadpool_limits(1):
            said = failed.get(slide) or predict_slide(self.head, sources, slide, doubts)
        if isinstance(said, FailedSlide):
            return None, said.message
        return self._plain(said, doubts[0] if doubts else None), None

    def _called(self, probability: Float64[np.ndarray, " class"]) -> int:
        """The class that is called: by the probability that the head's rule of stopping calls at, where it has one."""
        stopping = self.head.stopping
        return int(probability.argmax() if stopping is None else calls_of(probability[None], stopping.call_at)[0][0])

    def _plain(self, said: SlidePrediction, doubt: str | None) -> dict[str, Any]:
        n, classes = self.head.habits.limit.n, self.head.facts.classes
        nearer = None if said.rank is None else 100 * (n + 1 - said.rank) / n
        low, high = said.interval or (None, None)
        return {
            "probabilities": [plain_number(value, 4) for value in said.probability.tolist()],
            "call": classes[self._called(said.probability)] if classes else None,
            "value": None if said.value is None else plain_number(said.value, 4),
            "low": None if low is None else plain_number(low, 4),
            "high": None if high is None else plain_number(high, 4),
            "calibrated": doubt is None,
            "doubt": doubt,
            "settled": bool(said.is_settled),
            "outside": said.is_outside,
            "percentile": None if nearer is None else round(nearer, 1),
        }

    def why_not(self, slide: str) -> str | None:
        """Why the parts of a slide's score cannot be told; None where they can. No row is read; any thread may ask."""
        try:
            if self.no_parts is not None:
                raise ConfigError(self.no_parts)
            refuse_nothing_to_pool(self.head, self.tiles, slide)
            branches_of(self.head, in_part=bool(read_in_part_at(self.tiles, slide)))
        except ParfocalError as error:
            return str(error)
        return None

    def explanation(self, slide: str) -> SlideExplanation:
        """What each magnification, region and tile of a slide adds.

        Raises:
            ConfigError: the head cannot be explained.
            SlideError: the slide has no tile of a magnification.
        """
        if self.no_parts is not None:
            raise ConfigError(self.no_parts)
        if slide not in self._explained:
            sources = Sources(self.tiles)
            if self.head.readouts or self.head.fills_in:
                refuse_nothing_to_pool(self.head, self.tiles, slide)  # before the region encoder works
                one = replace(self.tiles, slides=(slide,))
                sources, failed = sources_of(self.head, one, self.scratch, ExplainSettings(), _no_event)
                if slide in failed:
                    raise SlideError(failed[slide].message)
            self._explained[slide] = explain_slide(self.head, sources, slide)
            while len(self._explained) > _KEPT:
                self._explained.popitem(last=False)
        self._explained.move_to_end(slide)
        return self._explained[slide]

    def column(self, one: SlideExplanation) -> int:
        """Which of a head's scores is shown: that of the class that is called, or the only one."""
        names, classes = score_names(self.head), self.head.facts.classes
        if len(names) == 1 or not classes:
            return 0
        reading = self.tiles.reading(one.parts.slide) if read_in_part_at(self.tiles, one.parts.slide) else None
        calibration = self.head.calibration_at(None if reading is None else reading.budget)
        called = classes[self._called(calibration.probability(one.parts.score[None])[0])]
        return names.index(called) if called in names else 0

    def describe_slide(self, slide: str) -> dict[str, Any]:
        """The parts of a slide's score, as plain values, and what it is the score of."""
        one = self.explanation(slide)
        column = self.column(one)
        parts = one.parts
        values = np.concatenate([parts.own[:, column], parts.interaction[:, column]])
        score, base = float(parts.score[column]), float(parts.base[column])
        name = score_names(self.head)[column]
        target = self.head.facts.target
        return {
            "score_of": target if name == target else f"{target} ({name})",
            "score": plain_number(score, 9),
            "baseline": plain_number(base, 9),
            "parts": {each.key: plain_number(value, 9) for each, value in zip(self.parts, values, strict=True)},
        }

    def of_regions(self, slide: str) -> dict[str, Float64[np.ndarray, " region"]]:
        """What each region adds, by part and all together (`score`); nothing where the score is no sum over regions."""
        one = self.explanation(slide)
        if one.regions is None:
            return {}
        column = self.column(one)
        shapley, pairs = one.regions.shapley[..., column], one.regions.interaction[..., column]
        values = [one.regions.contribution[:, column], *own_parts(shapley, pairs), *pairs]
        return dict(zip(("score", *(part.key for part in self.parts)), values, strict=True))

    def of_tiles(self, slide: str, mpp: float) -> Float64[np.ndarray, " _tile"] | None:
        """What each tile of one magnification adds by itself, in the set's order; None where nothing says so.

        Nothing does either where a model filled in tiles that were not read.
        """
        one = self.explanation(slide)
        for each, tiles in one.tiles.items():
            if format_mpp(each) == format_mpp(mpp) and len(tiles.contribution) == self.tiles.n_tiles(slide)[each]:
                return tiles.contribution[:, self.column(one)]
        return None

    def look_for_ends(self, slide: str) -> None:
        """Look through one slide more for the ends of directions; one that was read in part has none."""
        self.n_seen += 1
        if read_in_part_at(self.tiles, slide) or not all(self.tiles.n_tiles(slide).values()):
            return
        branches = [one for one in self._branches if one.of_tiles]
        see_ends(self.ends, branches, score_names(self.head), Sources(self.tiles), self.tiles.read(slide), _ENDS)

    def ends_of(self, number: int) -> list[dict[str, Any]]:
        """The regions at the ends of a direction, as plain values: which end, where, and how far along."""
        return [
            {"end": one.end, "slide": one.slide, "x_um": one.x_um, "y_um": one.y_um, "value": one.projection}
            for one in self.ends[list(self.ends)[number]]
        ]

    def directions(self) -> list[dict[str, Any]]:
        """The directions that are known so far, with numbers and labels."""
        return [{"number": number, "label": direction_label(one)} for number, one in enumerate(list(self.ends))]


def direction_label(one: Direction) -> str:
    """A direction for people."""
    first, second = (magnification_label(float(name)) if _is_number(name) else name for name in one.pair)
    own = magnification_label(float(one.mpp)) if _is_number(one.mpp) else one.mpp
    side = f", side {one.side}" if one.pair[0] == one.pair[1] else ""
    return f"{own} in {first} with {second}, direction {one.number}{side}"


def _is_number(name: str) -> bool:
    return name.replace(".", "", 1).isdigit()
