"""What an evaluation of slides says first: how much of the gain is context and how much magnification."""

from collections.abc import Mapping, Sequence

import numpy as np

from parfocal.evaluate.result import TargetResult
from parfocal.evaluate.split import SplitGain
from parfocal.stats import mean_over_targets

# More sentences than those of two targets would bury the answer.
MOST_IN_LEAD = 2
_FINEST = "the finest magnification"
_BROUGHT = "means of fine tiles over the areas of coarse ones bring as well"


def split_sentences(results: Mapping[str, TargetResult]) -> tuple[str, ...]:
    """The answer for each set of tiles: of one or two targets each, of more their mean; none where nobody measured."""
    sets = dict.fromkeys(name for result in results.values() for name in result.gains)
    said = []
    for name in sets:
        found = {target: result for target, result in results.items() if name in result.gains}
        if len(found) <= MOST_IN_LEAD:
            lines = {target: _of_target(result, result.gains[name]) for target, result in found.items()}
        else:
            lines = {f"{len(found)} targets": _of_several([result.gains[name] for result in found.values()])}
        said += [f"{f'{name}, ' if name else ''}{about}: {line}" for about, line in lines.items()]
    return tuple(said)


def _of_target(result: TargetResult, split: SplitGain) -> str:
    patients = result.cohort.worded("patients")
    units = f"{result.cohort.n_groups:,} {patients}"
    who = f"{units}; slide means and second moments; 95 % intervals over {patients}"
    return " ".join(split.sentences(_FINEST, result.metric.name, _BROUGHT, who, units))


def _of_several(splits: Sequence[SplitGain]) -> str:
    def mean(part: str) -> float:
        return float(np.mean([getattr(one, part) for one in splits]))

    whole, context, magnification = (
        mean_over_targets([getattr(one, part).estimate for one in splits]).clipped(-1.0, 1.0)
        for part in ("whole", "context", "magnification")
    )
    units = f"{len(splits)} targets"
    who = f"means over {units}, with 95 % intervals over them; slide means and second moments"
    split = SplitGain(mean("alone"), mean("everything"), whole, context, magnification)
    return " ".join(split.sentences(_FINEST, "mean", _BROUGHT, who, units))
