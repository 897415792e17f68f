"""What a proof found, as one value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from parfocal.geometry import format_mpp
from parfocal.lab.prove.layout import Layout
from parfocal.lab.prove.scores import LEVELS, Calibration, Retrieval, ScoreTable
from parfocal.lab.prove.verdict import OF_RANDOM_WEIGHTS, PatternVerdict, show_signed3
from parfocal.stats import Interval

__all__ = ["ProofResult", "smallest_leads", "summary_table"]


@dataclass(frozen=True, eq=False)
class ProofResult:
    """Scores, controls and the verdict.

    Attributes:
        layout: magnifications and places.
        scores: sums behind every R2.
        intervals: (method, pattern) -> interval of its R2; None where there is none.
        differences: (method, pattern) -> model minus method, paired.
        verdicts: the rule applied to each pattern.
        sentences: the answer in words.
        what: what was looked at, in a sentence.
        notes: how it was sampled, for the page's end.
        remarks: what must not be overlooked.
        one_slide: whether training and held-out regions are parts of one slide.
        clusters: what intervals draw again.
        retrieval: (pattern, magnification) -> how often the true tile is picked.
        retrieved: the methods that were asked to pick.
        calibration: (pattern, magnification) -> method -> what its variance is worth.
        choices: pattern -> what baselines chose.
        report: the page.
    """

    layout: Layout
    scores: ScoreTable
    intervals: Mapping[tuple[str, str], Interval | None]
    differences: Mapping[tuple[str, str], Interval | None]
    verdicts: tuple[PatternVerdict, ...]
    sentences: tuple[str, ...]
    what: str
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    one_slide: bool
    clusters: str
    retrieval: Mapping[tuple[str, int], Retrieval]
    retrieved: tuple[str, ...]
    calibration: Mapping[tuple[str, int], Mapping[str, Calibration]]
    choices: Mapping[str, Mapping[str, float]]
    report: Path

    @property
    def learnt_at(self) -> tuple[float, ...]:
        """The magnifications for which cross-scale structure is shown to be learnt."""
        return tuple(self.layout.mpps[one.pattern.level or 0] for one in self.verdicts if self._counts(one))

    @staticmethod
    def _counts(verdict: PatternVerdict) -> bool:
        return verdict.pattern.is_cross_scale and verdict.holds

    def describe(self) -> dict[str, Any]:
        """Everything as plain values; what could not be computed is null."""
        mpp = [format_mpp(one) for one in self.layout.mpps]
        return {
            "verdict": list(self.sentences),
            "learnt_at_mpp": list(self.learnt_at),
            "what": self.what,
            "one_slide": self.one_slide,
            "intervals_over": self.clusters,
            "patterns": {one.pattern.name: self._describe_pattern(one) for one in self.verdicts},
            "retrieval_top1": {
                f"{pattern}, {mpp[level]}": {
                    **found.top1,
                    "chance": found.chance,
                    "n_asked": found.n_queries,
                    "n_candidates": found.n_candidates,
                }
                for (pattern, level), found in self.retrieval.items()
            },
            "calibration": {
                f"{pattern}, {mpp[level]}": {
                    method: {
                        "coverage": {f"{nominal:g}": one.at(nominal) for nominal in LEVELS},
                        "spearman": _plain(one.spearman),
                        "n_tiles": one.n_tiles,
                    }
                    for method, one in found.items()
                }
                for (pattern, level), found in self.calibration.items()
            },
            "chosen": {pattern: dict(values) for pattern, values in self.choices.items()},
            "notes": [*self.notes, *self.remarks],
        }

    def _describe_pattern(self, verdict: PatternVerdict) -> dict[str, Any]:
        name = verdict.pattern.name
        methods = [method for method in self.scores.methods() if (method, name) in self.scores.error]
        return {
            "hidden": verdict.pattern.sentence,
            "holds": verdict.holds,
            "beats_b5_and_b9": verdict.beats_rivals,
            "beats_random_weights": verdict.beats_random_weights,
            "trained_minus_random_weights": {
                f"{trained} minus {control}": _ends(verdict.over_random[trained, control])
                for trained, control in OF_RANDOM_WEIGHTS
            },
            "gain_over_b1": _plain(verdict.gain),
            "share_lost_with_c1": _plain(verdict.lost),
            "share_lost_with_c1x": _plain(verdict.foreign_lost),
            "r2": {
                method: {
                    "all": _plain(self.scores.r2(method, name)),
                    "interval": _ends(self.intervals.get((method, name))),
                    "model_minus_it": _ends(self.differences.get((method, name))),
                    **{
                        format_mpp(self.layout.mpps[level]): _plain(self.scores.r2(method, name, level))
                        for level in self.scores.levels(name)
                    },
                }
                for method in methods
            },
        }


_SHOWN = ("model", "B1", "B5", "B9", "B10", "C1", "C3", "C3s", "E1", "E0", "E0s")


def summary_table(result: ProofResult) -> Table:
    """The strongest rivals of the model under every pattern, for a terminal."""
    table = Table(title="R2 of hidden tiles on held-out regions")
    for title in (
        "hidden",
        *_SHOWN,
        "model - B5",
        "model - B9",
        "model - C3",
        "model - E0",
        "E1 - E0",
        "lost with C1",
        "holds",
    ):
        table.add_column(title, justify="left" if title == "hidden" else "right")
    for one in result.verdicts:
        name = one.pattern.name
        table.add_row(
            name,
            *(_three(result.scores.r2(method, name)) for method in _SHOWN),
            *(show_signed3(interval) if interval else "-" for interval in (*one.minus.values(), *smallest_leads(one))),
            "-" if math.isnan(one.lost) else f"{one.lost:.0%}",
            "yes" if one.holds else "no",
        )
    return table


def smallest_leads(verdict: PatternVerdict) -> list[Interval | None]:
    """Over random weights that mix fully or hardly: of the model over C3, over E0, and of E1 over E0."""
    found = []
    for trained, control in (("model", "C3"), ("model", "E0"), ("E1", "E0")):
        both = [verdict.over_random[trained, f"{control}{kind}"] for kind in ("", "s")]
        found.append(min((one for one in both if one is not None), key=lambda one: one.low, default=None))
    return found


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _ends(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {key: value for key, value in interval.to_dict().items() if key != "method"}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
