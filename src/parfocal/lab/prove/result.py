"""What a proof found, as one value; its files, its table for a terminal and the tables of its page are read from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from parfocal.lab.prove.baselines import BASELINES
from parfocal.lab.prove.controls import CONTROLS
from parfocal.lab.prove.layout import Layout
from parfocal.lab.prove.scores import Calibration, Retrieval, ScoreTable
from parfocal.lab.prove.verdict import RIVALS, PatternVerdict, show_signed3
from parfocal.report.writer import Field, pick, plain, terminal_table
from parfocal.stats import Interval

METHODS: Mapping[str, str] = {"model": "the pretrained region encoder and its decoder", **BASELINES, **CONTROLS}
"""Every row of the tables in a few words."""

RETRIEVED = ("model", "B1", "B3", "B5", "B8", "B9", "B10", "C1", "C3")
"""The methods that are asked to pick the true tile."""


def _ends(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {key: value for key, value in interval.to_dict().items() if key != "method"}


@dataclass(frozen=True, eq=False)
class MethodRow:
    """What a method reaches under a pattern.

    Attributes:
        method: which.
        r2: the mean over the hidden magnifications.
        by_mpp: of each of them.
        interval: of `r2`; None where there is none.
        difference: the model's R2 minus it, paired.
    """

    method: str
    r2: float
    by_mpp: Mapping[str, float]
    interval: Interval | None
    difference: Interval | None


@dataclass(frozen=True, eq=False)
class PatternResult:
    """Everything about one pattern.

    Attributes:
        verdict: the rule applied to it.
        rows: what each method reaches.
        retrieval: magnification -> how often the true tile is picked.
        calibration: magnification -> method -> what its variance is worth.
        choices: what baselines chose.
    """

    verdict: PatternVerdict
    rows: tuple[MethodRow, ...]
    retrieval: Mapping[str, Retrieval]
    calibration: Mapping[str, Mapping[str, Calibration]]
    choices: Mapping[str, float]

    @property
    def name(self) -> str:
        """Of the pattern."""
        return self.verdict.pattern.name

    def r2(self, method: str) -> float | None:
        """The R2 of a method; None where it is not there."""
        return next((row.r2 for row in self.rows if row.method == method), None)

    def smallest_lead(self, trained: str, control: str) -> Interval | None:
        """What was trained over random weights, those that mix fully or hardly: the lead with the lower end."""
        both = [self.verdict.over_random[trained, f"{control}{kind}"] for kind in ("", "s")]
        return min((one for one in both if one is not None), key=lambda one: one.low, default=None)

    def describe(self) -> dict[str, Any]:
        """The verdict and every row as plain values."""
        said = {"hidden": "pattern.sentence", "beats_b5_and_b9": "beats_rivals", "gain_over_b1": "gain"}
        lost = {"share_lost_with_c1": "lost", "share_lost_with_c1x": "foreign_lost"}
        return {
            **pick(self.verdict, "holds", "beats_random_weights", **said, **lost),
            "trained_minus_random_weights": {
                " minus ".join(pair): _ends(interval) for pair, interval in self.verdict.over_random.items()
            },
            "r2": {
                row.method: {
                    "all": row.r2,
                    "interval": _ends(row.interval),
                    "model_minus_it": _ends(row.difference),
                    **row.by_mpp,
                }
                for row in self.rows
            },
        }


@dataclass(frozen=True, eq=False)
class ProofResult:
    """Scores, controls and the verdict.

    Attributes:
        layout: magnifications and places.
        scores: sums behind every R2.
        patterns: what was found under each pattern.
        sentences: the answer in words.
        what: what was looked at, in a sentence.
        notes: how it was sampled, for the page's end.
        remarks: what must not be overlooked.
        one_slide: whether training and held-out regions are parts of one slide.
        clusters: what intervals draw again.
        report: the page.
    """

    layout: Layout
    scores: ScoreTable
    patterns: tuple[PatternResult, ...]
    sentences: tuple[str, ...]
    what: str
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    one_slide: bool
    clusters: str
    report: Path

    @property
    def learnt_at(self) -> tuple[float, ...]:
        """The magnifications for which cross-scale structure is shown to be learnt."""
        verdicts = [one.verdict for one in self.patterns]
        return tuple(
            self.layout.mpps[one.pattern.level or 0] for one in verdicts if one.pattern.is_cross_scale and one.holds
        )

    @property
    def choices(self) -> dict[str, Mapping[str, float]]:
        """Pattern -> what baselines chose."""
        return {one.name: one.choices for one in self.patterns}

    def describe(self) -> dict[str, Any]:
        """Everything as plain values; what could not be computed is null."""
        asked = {"chance": "chance", "n_asked": "n_queries", "n_candidates": "n_candidates"}
        of_proof = {"verdict": "sentences", "learnt_at_mpp": "learnt_at", "intervals_over": "clusters"}
        found = {
            **pick(self, "what", "one_slide", **of_proof),
            "patterns": {one.name: one.describe() for one in self.patterns},
            "retrieval_top1": {
                f"{one.name}, {mpp}": {**picked.top1, **pick(picked, **asked)}
                for one in self.patterns
                for mpp, picked in one.retrieval.items()
            },
            "calibration": {
                f"{one.name}, {mpp}": {method: of_method.describe() for method, of_method in by_method.items()}
                for one in self.patterns
                for mpp, by_method in one.calibration.items()
            },
            "chosen": self.choices,
            "notes": [*self.notes, *self.remarks],
        }
        return dict(plain(found))


def _share(value: float) -> str:
    return "all" if value >= 1 else f"{value:.0%}".replace("%", " %").replace("-", "\u2212")


def _lead(trained: str, control: str, title: str, help_: str) -> Field:
    return Field(
        f"{trained} - {control}", lambda one: one.smallest_lead(trained, control), title, show_signed3, help_, "right"
    )


_OF_R2 = "Difference of R2, with its 95 % interval."

SUMMARY = (
    *(
        Field(f"model - {rival}", f"verdict.minus.{rival}", f"Model minus {rival}", show_signed3, _OF_R2, "right")
        for rival in RIVALS
    ),
    _lead("model", "C3", "Model minus C3", "Over the decoders on random weights, C3 or C3s; the smaller lead."),
    _lead("model", "E0", "Model minus E0", "Over the ridge on random weights, E0 or E0s; the smaller lead."),
    _lead("E1", "E0", "E1 minus E0", "The same ridge on the model's tokens over it; the smaller lead."),
    Field(
        "lost with C1",
        "verdict.lost",
        "Lost with C1",
        _share,
        "Share of the gain over B1 that is gone with another region's visible tiles.",
        "right",
        "no gain",
    ),
    Field(
        "lost with C1x",
        "verdict.foreign_lost",
        "Lost with C1x",
        _share,
        "The same, when only the other magnifications are another region's.",
        "right",
        "no gain",
    ),
    Field(
        "holds",
        "verdict.holds",
        "Holds",
        help="Above B5, B9 and random weights, no baseline ahead, and more than half lost with C1.",
        align="center",
    ),
)
"""How a pattern's result stands against what must be beaten."""

_SHOWN = ("model", "B1", "B5", "B9", "B10", "C1", "C3", "C3s", "E1", "E0", "E0s")


def summary_table(result: ProofResult) -> Table:
    """The strongest rivals of the model under every pattern, for a terminal."""
    columns = [
        Field("hidden", "name"),
        *(Field(method, partial(PatternResult.r2, method=method), show=".3f", align="right") for method in _SHOWN),
        *SUMMARY,
    ]
    return terminal_table(columns, result.patterns, title="R2 of hidden tiles on held-out regions")
