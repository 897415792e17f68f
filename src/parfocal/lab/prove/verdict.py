"""What the scores allow to be said: the rule, applied to each pattern, and the sentences of the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parfocal.geometry import format_mpp
from parfocal.lab.prove.layout import Layout, Pattern
from parfocal.lab.prove.scores import ScoreTable
from parfocal.stats import Interval

RIVALS = {"B5": "a linear map (B5)", "B9": "a Gaussian field (B9)"}
"""What a model must beat: everything linear, and everything Gaussian, that the visible tiles say of the hidden ones."""

OF_RANDOM_WEIGHTS = (
    ("model", "C3"),
    ("model", "C3s"),
    ("model", "E0"),
    ("model", "E0s"),
    ("E1", "E0"),
    ("E1", "E0s"),
)
"""What must be above random weights: the model above decoder and ridge on them, the ridge on the model's tokens
above that on theirs. Else what was learnt may be the decoder's or the readout's, and not the encoder's."""


@dataclass(frozen=True)
class PatternVerdict:
    """The rule applied to one pattern.

    Attributes:
        pattern: what was hidden.
        r2: of the model.
        minus: the model's R2 minus that of a rival, over the same slides; None where no interval can be given.
        over_random: what was trained minus what has random weights, for each of `OF_RANDOM_WEIGHTS`; None where no
            interval can be given, or where it was left out.
        equal_steps: whether the decoders on random weights were trained for as many steps as the model.
        gain: the model's R2 minus that of B1, the mean of the slide.
        lost: the share of the gain that is gone when the model is shown another region of the same slide (C1); NaN
            where there is no gain. Above 1 the wrong context misleads.
        foreign_lost: the same when only the other magnifications are another region's (C1x).
        best_baseline: the baseline with the highest R2.
        best_r2: its R2.
    """

    pattern: Pattern
    r2: float
    minus: dict[str, Interval | None]
    over_random: dict[tuple[str, str], Interval | None]
    equal_steps: bool
    gain: float
    lost: float
    foreign_lost: float
    best_baseline: str
    best_r2: float

    @property
    def beats_rivals(self) -> bool:
        """Whether the lower ends of both differences are above 0."""
        return all(one is not None and one.low > 0 for one in self.minus.values())

    @property
    def beats_random_weights(self) -> bool:
        """Whether model and ridge are above the same on random weights, trained for as long."""
        return self.equal_steps and all(one is not None and one.low > 0 for one in self.over_random.values())

    @property
    def holds(self) -> bool:
        """Whether the model beats its rivals and random weights, no baseline is ahead, and the gain is the region's.

        That no baseline is ahead is for few regions, where a simple one can be ahead of what ought to be strongest, and
        for B10, which is not linear. Most of the gain over B1 must be gone with another region's tiles.
        """
        hangs_on_region = self.gain > 0 and self.lost > 0.5
        return self.beats_rivals and self.beats_random_weights and self.best_r2 < self.r2 and hangs_on_region


def judge(scores: ScoreTable, pattern: Pattern, *, draws: int, seed: int, equal_steps: bool = True) -> PatternVerdict:
    """Apply the rule to a pattern; `equal_steps` says whether C3 and C3s were trained as long as the model."""
    name = pattern.name
    r2 = scores.r2("model", name)
    gain = r2 - scores.r2("B1", name)

    def lost(control: str) -> float:
        return (r2 - scores.r2(control, name)) / gain if gain > 0 else math.nan

    minus = {rival: scores.interval("model", name, minus=(rival,), draws=draws, seed=seed) for rival in RIVALS}
    over_random = {
        (trained, control): scores.interval(trained, name, minus=(control,), draws=draws, seed=seed)
        for trained, control in OF_RANDOM_WEIGHTS
    }
    baselines = [method for method in scores.methods() if method.startswith("B")]
    best = max(baselines, key=lambda method: scores.r2(method, name))
    return PatternVerdict(
        pattern,
        r2,
        minus,
        over_random,
        equal_steps,
        gain,
        lost("C1"),
        lost("C1x"),
        best,
        scores.r2(best, name),
    )


def verdict_sentences(
    verdicts: Sequence[PatternVerdict], layout: Layout, *, clusters: str, n_clusters: int, one_slide: bool
) -> tuple[str, ...]:
    """The answer in words. Only patterns that hide a whole magnification count: there nothing else can be at work."""
    deciding = [one for one in verdicts if one.pattern.is_cross_scale]
    if not deciding:
        return (
            f"The set has one magnification, {format_mpp(layout.mpps[0])} mpp: there is nothing cross-scale to show.",
        )
    if any(one is None for verdict in deciding for one in verdict.minus.values()):
        return (
            f"No verdict: only {n_clusters} of the {clusters} were held out, and a difference needs at least two to "
            "have an interval. Hold out more, or embed more slides.",
        )
    yes = [one for one in deciding if one.holds]
    no = [one for one in deciding if not one.holds]
    where = "Within this one slide, cross-scale structure" if one_slide else "Cross-scale structure"
    if not all(one.equal_steps for one in deciding):
        first = (
            "No verdict: the decoders on random weights (C3, C3s) were left out or trained for fewer steps than the "
            "model, so what is the encoder's cannot be told from what is the decoder's. Leave --control-steps out."
        )
    elif not yes:
        first = f"{where} is not shown to be learnt."
    else:
        first = f"{where} is learnt: tiles at {_names(yes, layout)} mpp are predicted from the other magnifications."
        if no:
            first += f" For {_names(no, layout)} mpp it is not shown."
    sentences = [first]
    sentences += [_because(one, layout, one_slide) for one in deciding]
    if one_slide:
        sentences.append(
            f"One slide says nothing about other slides: the intervals draw {n_clusters} {clusters} again, which share "
            "stain, scanner and patient."
        )
    return tuple(sentences)


def _names(verdicts: Sequence[PatternVerdict], layout: Layout) -> str:
    names = [format_mpp(layout.mpps[one.pattern.level or 0]) for one in verdicts]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _because(verdict: PatternVerdict, layout: Layout, one_slide: bool) -> str:
    mpp = format_mpp(layout.mpps[verdict.pattern.level or 0])
    parts = []
    for rival, interval in verdict.minus.items():
        if interval is not None:
            word = "beats" if interval.low > 0 else "loses to" if interval.high < 0 else "is level with"
            parts.append(f"{word} {RIVALS[rival]}, {show_signed3(interval)}")
    text = f"Hidden {mpp} mpp: the model explains {verdict.r2:.3f} of the variance; it " + ", and ".join(parts)
    if verdict.best_r2 > verdict.r2 and verdict.best_baseline not in RIVALS:
        text += f"; {verdict.best_baseline} is ahead of it with {verdict.best_r2:.3f}"
    text += _beside_random_weights(verdict)
    if not verdict.gain > 0:
        return text + "; it is no better than the mean of the slide (B1)."
    if verdict.lost >= 1:
        kept = "nothing of its gain over the slide's mean is left"
    else:
        kept = f"{verdict.lost:.0%} of its gain over the slide's mean are gone".replace("%", " %")
    return text + f"; shown another region of the {'' if one_slide else 'same '}slide, {kept}."


def _beside_random_weights(verdict: PatternVerdict) -> str:
    """Which differences are above 0, and which are not, with their intervals."""
    parts = []
    for word, is_above in (("above random weights in", True), ("not above them in", False)):
        own = [
            f"{trained} minus {control} {show_signed3(interval)}"
            for (trained, control), interval in verdict.over_random.items()
            if interval is not None and (interval.low > 0) == is_above
        ]
        if own:
            parts.append(f"{word} {', '.join(own)}")
    return f"; it is {'; '.join(parts)}" if parts else ""


def show_signed3(interval: Interval) -> str:
    """A difference of R2 with its interval, three decimals."""
    return f"{_signed3(interval.estimate)} ({_signed3(interval.low)} to {_signed3(interval.high)})"


def _signed3(value: float) -> str:
    text = f"{abs(value):.3f}"
    return text if float(text) == 0 else ("+" if value > 0 else "\u2212") + text
