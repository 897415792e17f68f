"""What an evaluation of slides says of its gain: how much of it is context and how much magnification."""

from collections.abc import Mapping, Sequence

import numpy as np

from parfocal.evaluate.result import TargetResult
from parfocal.evaluate.split import SplitGain
from parfocal.report import Field, Section, Text, page_table, show_difference
from parfocal.stats import FEWEST_TARGETS, Interval, mean_over_targets

# Of more targets their mean is said, and a table has each.
_MOST_ONE_BY_ONE = 2
_FINEST = "the finest magnification"
_BROUGHT = "means of fine tiles over the areas of coarse ones bring as well"


def split_sentences(results: Mapping[str, TargetResult]) -> tuple[str, ...]:
    """The answer for each set of tiles: of one or two targets each, of more their mean; none where nobody measured."""
    sets = dict.fromkeys(name for result in results.values() for name in result.gains)
    said = []
    for name in sets:
        found = {target: result for target, result in results.items() if name in result.gains}
        if len(found) <= _MOST_ONE_BY_ONE:
            lines = {target: _of_target(result, result.gains[name]) for target, result in found.items()}
        else:
            lines = {
                f"{len(found)} targets": _of_several(
                    mean_split([one.gains[name] for one in found.values()]), len(found)
                )
            }
        said += [f"{f'{name}, ' if name else ''}{about}: {line}" for about, line in lines.items()]
    return tuple(said)


def _of_target(result: TargetResult, split: SplitGain) -> str:
    patients = result.cohort.worded("patients")
    units = f"{result.cohort.n_groups:,} {patients}"
    who = f"{units}; slide means and second moments; 95 % intervals over {patients}"
    return " ".join(split.sentences(_FINEST, result.metric.name, _BROUGHT, who, units))


def _of_several(split: SplitGain, n: int) -> str:
    ends = ", with 95 % intervals over them" if split.whole.has_ends else ""
    who = f"means over {n} targets{ends}; slide means and second moments"
    return " ".join(split.sentences(_FINEST, "mean", _BROUGHT, who, f"{n} targets"))


def mean_split(splits: Sequence[SplitGain]) -> SplitGain:
    """The mean over several targets; its intervals take targets as drawn, and have no ends with few of them."""

    def mean(part: str) -> float:
        return float(np.mean([getattr(one, part) for one in splits]))

    def over_targets(part: str) -> Interval:
        values = [getattr(one, part).estimate for one in splits]
        return mean_over_targets(values, fewest=FEWEST_TARGETS).clipped(-1.0, 1.0)

    parts = map(over_targets, ("whole", "context", "magnification"))
    return SplitGain(mean("alone"), mean("everything"), *parts)


_HOW = (
    "Context and magnification are told apart by one readout that was fixed beforehand: a linear model of slide means "
    "and of second moments, which say how vectors vary together. The finest tiles stand one by one; then their means "
    "over the areas that coarse tiles show join them, with no pixel of a coarse tile; then the coarse tiles, and their "
    "products with the fine tiles of their region. A mean alone could not tell, because a mean of means is the mean. "
    "The arm that takes the coarse tiles of other regions of the slide says what they bring wherever they lie."
)
_GAINS = (
    Field("Target", "0"),
    Field("Tiles", "1"),
    Field("Finest alone", "2.alone"),
    Field("Everything", "2.everything"),
    *(
        Field(f"{title} (interval)", f"2.{part}", show=show_difference, align="right")
        for title, part in (("Gain", "whole"), ("of it context", "context"), ("of it magnification", "magnification"))
    ),
)


def split_section(results: Mapping[str, TargetResult], sentences: Sequence[str]) -> Section | None:
    """How the gain of every target is split, and how that is measured; None where nobody measured it."""
    if not sentences:
        return None
    rows = [(target, name, one) for target, result in results.items() for name, one in result.gains.items()]
    fields = [field for field in _GAINS if field.name != "Tiles" or any(name for _, name, _ in rows)]
    worded = next(iter(results.values())).cohort.worded
    caption = "The gain over the finest magnification alone, and its two parts"
    return Section(
        "Context or magnification", (Text(tuple(sentences)), page_table(caption, fields, rows), Text((worded(_HOW),)))
    )
