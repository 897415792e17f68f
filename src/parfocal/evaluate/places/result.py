"""What an evaluation at places found: scores, intervals over slides, comparisons, and how the gain is split."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from rich.table import Table as TerminalTable
from scipy import stats

from parfocal.errors import ConfigError
from parfocal.evaluate.places.fitting import PlaceArm, PlacePredictions
from parfocal.evaluate.places.reading import PlaceData
from parfocal.evaluate.split import SplitGain, show3, show_signed3
from parfocal.report import Field, show_difference, terminal_table
from parfocal.stats import Interval, Verdict, auc, verdict
from parfocal.stats.agreement import spearman
from parfocal.stats.tasks import mean_over_targets

_PARTS = ("whole", "context", "magnification")
METRICS: Mapping[str, str] = {"r": "Pearson r", "spearman": "Spearman", "r2": "R2", "auc": "AUC"}


@dataclass(frozen=True, eq=False)
class PlaceArmResult:
    """What an arm reached.

    Attributes:
        arm: which.
        scores: by metric, of each slide and target; NaN where it is not defined, as of a target without spread.
        interval: of the mean over slides of the mean over targets, in the metric of the table.
        by_slide: that mean of each slide.
        by_target: of each target, the mean over slides.
        candidates: what the inner folds preferred.
        prediction: of each place and target.
    """

    arm: PlaceArm
    scores: Mapping[str, Float64[np.ndarray, "slide target"]]
    interval: Interval
    by_slide: Float64[np.ndarray, " slide"]
    by_target: Float64[np.ndarray, " target"]
    candidates: tuple[str, ...]
    prediction: Float64[np.ndarray, "place target"]


@dataclass(frozen=True)
class PlaceComparison:
    """One arm against another, over slides.

    Attributes:
        first: the arm that is asked about.
        second: the other one.
        difference: of the mean over targets; paired, over slides (or over their groups).
        p_value: of the paired t test over these; NaN where there is only one.
        slides_better: in how many slides the first is ahead.
        n_slides: of how many.
        targets_better: for how many targets.
        n_targets: of how many.
    """

    first: str
    second: str
    difference: Interval
    p_value: float
    slides_better: int
    n_slides: int
    targets_better: int
    n_targets: int


@dataclass(frozen=True, eq=False)
class PlacesResult:
    """All of an evaluation at places.

    Attributes:
        data: the places.
        metric: the name of the number that arms are compared by.
        slides: those that have a number.
        arms: in the order of the table.
        gain: of everything over the finest magnification alone; `context` and `magnification` are its parts.
        comparisons: of every arm with the finest magnification alone, and with context.
        report: the page.
        sentences: how the gain is split, and what the best region encoder adds.
    """

    data: PlaceData
    metric: str
    slides: tuple[str, ...]
    arms: tuple[PlaceArmResult, ...]
    gain: Mapping[str, PlaceComparison]
    comparisons: tuple[PlaceComparison, ...]
    report: Path
    sentences: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """How much was measured."""
        data = self.data
        return f"{len(data.slides):,} places of {len(self.slides)} slides, {len(data.names)} targets"

    @property
    def split(self) -> SplitGain | None:
        """How the gain over the finest magnification alone is split; None with one magnification."""
        if not self.gain:
            return None
        alone, everything = (self.arm(name).interval.estimate for name in (self.finest, "mixed+context"))
        return SplitGain(alone, everything, *(self.gain[part].difference for part in _PARTS))

    @property
    def shown(self) -> Verdict:
        """What all tiles with their context show against the finest magnification alone."""
        return verdict(self.gain["whole"].difference, self.gain["whole"].p_value) if self.gain else "open"

    @property
    def answer(self) -> str:
        """What was asked, in one sentence; with one magnification, what it reaches."""
        split = self.split
        if split is None:
            only = self.arms[0]
            return f"{only.arm.name} reaches a {self.metric} of {show3(only.interval)} ({self.size})."
        finest = f"{self.finest} um per pixel alone"
        said = {
            "better": f"All magnifications with their context are better than {finest}",
            "worse": f"All magnifications with their context are worse than {finest}",
            "open": f"It is open whether all magnifications with their context are better than {finest}",
        }[self.shown]
        return (
            f"{said}: {self.metric} {split.everything:.2f} against {split.alone:.2f}, {show_difference(split.whole)}; "
            f"{split.brought} ({self.size})."
        )

    @property
    def finest(self) -> str:
        """The finest magnification alone."""
        return [one.arm.id for one in self.arms if one.arm.kind == "single"][-1]

    @property
    def fullest(self) -> PlaceArmResult:
        """The arm with every magnification and the context, or the only magnification."""
        return self.arm("mixed+context" if self.gain else self.finest)

    def arm(self, name: str) -> PlaceArmResult:
        """The arm with this id."""
        return next(one for one in self.arms if one.arm.id == name)


def summarise_places(
    data: PlaceData, arms: Sequence[PlaceArm], predicted: Mapping[str, PlacePredictions], report: Path
) -> PlacesResult:
    """Scores, intervals over slides, comparisons, and how the gain is split.

    Raises:
        ConfigError: no slide has two places with different values.
    """
    slides = measured_slides(data, predicted[arms[0].id])
    results = [score_arm(data, arm, predicted[arm.id], slides) for arm in arms]
    known = {one.arm.id: one for one in results}
    singles = [arm.id for arm in arms if arm.kind == "single"]
    finest = singles[-1]
    gain, comparisons = {}, []
    if "context" in known:
        gain = {
            "whole": _compare(known["mixed+context"], known[finest], slides, data),
            "context": _compare(known["context"], known[finest], slides, data),
            "magnification": _compare(known["mixed+context"], known["context"], slides, data),
        }
        for one in results:
            comparisons += [
                _compare(one, known[other], slides, data)
                for other in (finest, "context")
                if one.arm.id != other and not (other == "context" and one.arm.kind == "single")
            ]
    result = PlacesResult(data, METRICS[metric_of(data)], slides, tuple(results), gain, tuple(comparisons), report)
    return replace(result, sentences=_sentences(result))


def metric_of(data: PlaceData) -> str:
    """The key of the metric that arms are compared by: AUC where all targets are classes, else the correlation."""
    return "auc" if data.is_class.all() else "r"


def measured_slides(data: PlaceData, predicted: PlacePredictions) -> tuple[str, ...]:
    """The slides with a prediction: those that were never held out have no number."""
    measured = np.isfinite(predicted.value).any(axis=1)
    return tuple(sorted(set(np.array(data.slides)[measured].tolist())))


def score_arm(data: PlaceData, arm: PlaceArm, predicted: PlacePredictions, slides: Sequence[str]) -> PlaceArmResult:
    """The scores of an arm on some slides.

    Raises:
        ConfigError: no slide has two places with different values.
    """
    every, value = np.array(data.slides), predicted.value
    scores = {name: np.full((len(slides), len(data.names)), np.nan) for name in METRICS}
    for slide, name_of_slide in enumerate(slides):
        own = np.flatnonzero(every == name_of_slide)
        for target in range(len(data.names)):
            for name, score in _scores(
                data.target[own, target], value[own, target], bool(data.is_class[target])
            ).items():
                scores[name][slide, target] = score
    table = scores[metric_of(data)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of slides and targets without a number
        by_slide, by_target = np.nanmean(table, axis=1), np.nanmean(table, axis=0)
    if not np.isfinite(by_slide).any():
        raise ConfigError("no slide has places with different values of a target; nothing can be measured.")
    interval = interval_over_slides(by_slide, slides, data)
    return PlaceArmResult(arm, scores, interval, by_slide, by_target, predicted.candidates, value)


def _scores(
    truth: Float64[np.ndarray, " place"], predicted: Float64[np.ndarray, " place"], is_class: bool
) -> dict[str, float]:
    """The metrics of one target in one slide; none where the truth is the same everywhere or nothing was predicted."""
    if len(truth) < 2 or np.ptp(truth) == 0 or not np.isfinite(predicted).all():
        return {}
    if is_class:
        return {"auc": auc(truth > 0.5, predicted)}
    if np.ptp(predicted) == 0:
        return {"r": 0.0, "spearman": 0.0, "r2": 0.0}
    about = truth - truth.mean()
    # About the slide's own mean on both sides: a slide's level is no part of the question.
    off = about - (predicted - predicted.mean())
    return {
        "r": float(np.corrcoef(truth, predicted)[0, 1]),
        "spearman": spearman(truth, predicted),
        "r2": float(1 - (off**2).sum() / (about**2).sum()),
    }


def _by_unit(
    values: Float64[np.ndarray, " slide"], slides: Sequence[str], data: PlaceData
) -> Float64[np.ndarray, " unit"]:
    """The mean of the slides of each group that have a number."""
    parts: dict[str, list[float]] = {}
    unit_of_slide = data.unit_of_slide
    for slide, value in zip(slides, values.tolist(), strict=True):
        if np.isfinite(value):
            parts.setdefault(unit_of_slide[slide], []).append(value)
    return np.array([np.mean(part) for part in parts.values()])


def interval_over_slides(by_slide: Float64[np.ndarray, " slide"], slides: Sequence[str], data: PlaceData) -> Interval:
    """The mean of what slides reached, with its interval over them or their groups; at least one has a number."""
    return _interval(_by_unit(by_slide, slides, data))


def _interval(values: Float64[np.ndarray, " unit"]) -> Interval:
    if len(values) > 1:
        return replace(mean_over_targets(values), method="t over slides")
    return Interval(float(values[0]), -np.inf, np.inf, 0.95, "one slide has no interval")


def _compare(first: PlaceArmResult, second: PlaceArmResult, slides: Sequence[str], data: PlaceData) -> PlaceComparison:
    per_slide, per_target = first.by_slide - second.by_slide, first.by_target - second.by_target
    per_unit = _by_unit(per_slide, slides, data)
    return PlaceComparison(
        first.arm.id,
        second.arm.id,
        _interval(per_unit),
        float(stats.ttest_1samp(per_unit, 0).pvalue) if len(per_unit) > 1 and np.ptp(per_unit) > 0 else np.nan,
        int((per_slide > 0).sum()),
        int(np.isfinite(per_slide).sum()),
        int((per_target > 0).sum()),
        int(np.isfinite(per_target).sum()),
    )


def _sentences(result: PlacesResult) -> tuple[str, ...]:
    """How the gain is split, and what the best region encoder adds."""
    unit_of_slide = result.data.unit_of_slide
    n = len({unit_of_slide[slide] for slide in result.slides})
    units = "slides" if n == len(result.slides) else "groups of slides"
    split = result.split
    if split is None:
        return (result.answer,)
    said = split.sentences(
        f"{result.finest} um per pixel",
        result.metric,
        "fine tiles around the place bring as well",
        f"{result.size}; 95 % intervals over {units}",
        f"{n} {units}" if n > 1 else "One slide or group",
    )
    lines = list(said)
    models = [one for one in result.arms if one.arm.kind == "region encoder"]
    if models:
        best = max(models, key=lambda one: one.interval.estimate)
        against = _compare(best, result.arm("mixed+context"), result.slides, result.data)
        # It was picked by the number that is told, and the reader must know of how many.
        picked = f" It is the best of {len(models)} on these very slides." if len(models) > 1 else ""
        lines.append(
            f"The best region encoder, {best.arm.name}, reaches {show3(best.interval)}: "
            f"{show_signed3(against.difference)} against all tiles with their context (mixed+context), "
            f"ahead in {against.slides_better} of {against.n_slides} slides.{picked}"
        )
    return tuple(lines)


_TERMINAL = (
    Field("arm", "arm.name"),
    Field("kind", "arm.kind"),
    Field("value", "interval.estimate", show=".3f"),
    Field("95 % interval", lambda one: show3(one.interval).partition(" ")[2], show=str),
)


def places_table(result: PlacesResult) -> TerminalTable:
    """The arms for a terminal."""
    return terminal_table(_TERMINAL, result.arms, title=f"{result.metric} at held-out places")
