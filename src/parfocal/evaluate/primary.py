"""The one comparison that is named before anyone looks, and what it says over several targets."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from parfocal.errors import ConfigError
from parfocal.evaluate.arm import ATTENTIVE, Arm, places_of
from parfocal.evaluate.result import AcrossTargets, TargetComparison, TargetResult
from parfocal.stats import Interval, holm, mean_over_targets, wilcoxon_signed_rank


def choose_primary(arms: Sequence[Arm], named: str | None) -> tuple[int | None, tuple[int, ...]]:
    """The mixed arm of the primary comparison, and the single magnifications that it has to beat.

    Nothing that was measured has a say in the mixed arm. Where the user names none it is gated attention over the
    contextual tokens of the first region encoder that has learnt, else gated attention over what else one reads out,
    else the first mixed arm of the table. It is set against the best single magnification with gated attention (all
    singles where none has attention): that one is picked by its results, which favours it.

    Args:
        arms: in the order of the table.
        named: an arm's id or label, or how one of them begins.

    Raises:
        ConfigError: no mixed arm, or several, are called so.
    """
    mixed = [place for place, arm in enumerate(arms) if arm.kind == "mixed"]
    singles = [place for place, arm in enumerate(arms) if arm.kind == "single"]
    attentive = tuple(place for place in singles if arms[place].method == ATTENTIVE)
    rivals = attentive or tuple(singles)
    if named is not None:
        exact = [place for place in places_of(arms, named) if place in mixed]
        asked_for = exact or [place for place in mixed if _begins(arms[place], named)]
        if len(asked_for) != 1:
            listed = "; ".join(arms[place].id for place in mixed) or "none"
            raise ConfigError(
                f"the primary comparison is about {named!r}, and {len(asked_for)} mixed arms are called so. "
                f"Name one of: {listed}."
            )
        return asked_for[0], rivals
    # A model of random weights is a control: it would make a comparison that nobody asks for.
    preferred = [place for place in mixed if arms[place].method == ATTENTIVE and not arms[place].is_control]
    tokens = [place for place in preferred if arms[place].readout == "tokens"]
    return next(iter([*tokens, *preferred, *mixed]), None), rivals


def _begins(arm: Arm, text: str) -> bool:
    return arm.label.startswith(text) or arm.id.startswith(text)


def across_targets(
    results: Mapping[str, TargetResult], which: Callable[[TargetResult], TargetComparison | None]
) -> AcrossTargets | None:
    """One comparison over all targets that have it; None where none has.

    Args:
        results: by target.
        which: takes the comparison out of a result, such as `lambda result: result.primary`.
    """
    found = {target: one for target, result in results.items() if (one := which(result)) is not None}
    if not found:
        return None
    adjusted = holm(np.array([one.test.p_value for one in found.values()]))
    differences = [one.test.difference.estimate for one in found.values()]
    runs = {target: results[target].runs for target in found}

    def mean(values: Sequence[float | int], lowest: float = 0.0) -> Interval | None:
        return mean_over_targets(values).clipped(lowest, 1.0) if len(values) > 1 else None

    return AcrossTargets(
        targets=tuple(found),
        p_holm={target: float(value) for target, value in zip(found, adjusted, strict=True)},
        single=mean([runs[target][one.single].interval.estimate for target, one in found.items()]),
        mixed=mean([runs[target][one.mixed].interval.estimate for target, one in found.items()]),
        difference=mean(differences, -1.0),
        signed_rank=wilcoxon_signed_rank(differences),
    )
