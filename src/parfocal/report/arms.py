"""The table that compares arms on one target, and the sentences that read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parfocal.report.page import Table
from parfocal.report.writer import Field, page_table, show_difference, show_interval, show_p
from parfocal.stats import FoldTest, Interval, holm
from parfocal.stats.interval import Number


@dataclass(frozen=True)
class Reference:
    """A number to hold beside an arm's metric: a ceiling that no reader of the same input passes, or another reader."""

    value: Number
    label: str
    is_ceiling: bool = True


@dataclass(frozen=True)
class ArmResult:
    """How one arm did on one target.

    Args:
        name: what goes in, "5x" or "5x + 10x + 20x".
        family: the group it is listed under, "One magnification"; arms of a family follow each other.
        pooling: how instances become a prediction.
        value: the metric, such as the AUC: the mean over folds with its interval.
        beside: second numbers by name, such as the balanced accuracy; the same names in every arm of a table.
        seed_sd: the sd of the metric over seeds of the fit, where there are several.
        instances_per_slide: mean number of vectors that the pooling sees, where known.
        references: ceilings and other readers to print beside it.
        against_best_single: this arm minus the best single magnification over the same folds; None for that arm itself
            and where there is none.
        is_single_magnification: whether it may be the best single magnification.
        has_slide_vector: whether it reads the vector of a whole-slide encoder; it stands apart from arms of our own.
        highlight: set off in table and plot.
    """

    name: str
    family: str
    pooling: str
    value: Interval
    beside: Mapping[str, float] = field(default_factory=dict)
    seed_sd: float | None = None
    instances_per_slide: Number | None = None
    references: tuple[Reference, ...] = ()
    against_best_single: FoldTest | None = None
    is_single_magnification: bool = False
    has_slide_vector: bool = False
    highlight: bool = False


def arms_table(
    target: str, arms: Sequence[ArmResult], *, metric: str = "AUC", footnotes: tuple[str, ...] = ()
) -> Table:
    """One row for each arm under its family, with what is known beside what was measured.

    The columns of references, instances, seeds and differences are left out where no arm has them.

    Args:
        target: the label's name.
        arms: those of a family one after the other.
        metric: what `value` of the arms is called.
        footnotes: sentences to stand below.

    Raises:
        ValueError: no arm, or two levels of interval in one table.
    """
    levels = {arm.value.level for arm in arms}
    if len(levels) != 1:
        raise ValueError(f"the arms of one table share one level of interval, got {sorted(levels)}")
    level = f"{levels.pop():.0%}".replace("%", " %")
    adjusted = dict(zip(map(id, arms), _holm_over(arms), strict=True))
    columns = (
        Field("name", title="Arm"),
        Field("pooling", title="Pooling"),
        Field("value.estimate", title=metric),
        Field("value", title=f"{level} interval", show=show_interval),
        *(
            Field(name, f"beside.{name}", help="The mean over folds; it does not compare arms.")
            for name in arms[0].beside
        ),
        Field(
            "references",
            lambda arm: "; ".join(map(_show_reference, arm.references)) or None,
            "Known",
            help="A ceiling by theorem, or what another reader of the same input reaches.",
            is_optional=True,
        ),
        Field(
            "gain",
            "against_best_single.difference",
            "Minus best single (interval)",
            show_difference,
            "Above 0 better, below 0 worse; over the same folds.",
            is_optional=True,
        ),
        Field(
            "p_holm",
            lambda arm: adjusted[id(arm)],
            "p (Holm)",
            show_p,
            "Of no difference, two-sided, corrected for the arms of this table.",
            is_optional=True,
        ),
        Field(
            "seed_sd",
            title="sd over seeds",
            show=".3f",
            help="The same slides and folds, fitted from other random numbers.",
            is_optional=True,
        ),
        Field(
            "instances_per_slide",
            title="Instances per slide",
            show=",.0f",
            help="Mean number of vectors that the pooling sees.",
            is_optional=True,
        ),
    )
    notes = list(footnotes)
    if any(arm.against_best_single is not None for arm in arms):
        notes.append(
            f"The best single magnification is the one with the highest {metric} in this very table: that choice "
            "favours it, so a gain over it is understated and a loss overstated. The p-values are corrected for the "
            "number of arms (Holm); the intervals are not."
        )
    return page_table(
        f"{target}: every arm on the same folds",
        columns,
        arms,
        by="family",
        kind=lambda arm: "highlight" if arm.highlight else "plain",
        footnotes=notes,
    )


def arms_sentences(
    target: str,
    arms: Sequence[ArmResult],
    *,
    n_patients: int,
    detectable: float | None = None,
    metric: str = "AUC",
    patients: str = "patients",
) -> tuple[str, ...]:
    """What the table says, in words: the best single magnification, the best other arm, and what could be seen at all.

    Arms that read another encoder's slide vectors have a sentence of their own.

    Args:
        target: the label's name.
        arms: as in the table.
        n_patients: number of distinct patients.
        detectable: the difference that this cohort would have shown with 80 % power (`detectable_difference`); None or
            NaN where that is not known.
        metric: what `value` of the arms is called.
        patients: what they are called, where nothing says whose a slide is.
    """
    singles = [arm for arm in arms if arm.is_single_magnification]
    foreign = [place for place, arm in enumerate(arms) if arm.has_slide_vector]
    others = [place for place, arm in enumerate(arms) if not arm.is_single_magnification and place not in foreign]
    said = []
    if singles:
        best = max(singles, key=lambda arm: arm.value.estimate)
        said.append(
            f"{target}: the best single magnification is {best.name} ({best.pooling}): {metric} "
            f"{best.value.estimate:.2f} ({show_interval(best.value)})."
        )
    for head, places in (("that reads several", others), ("with slide vectors", foreign)):
        if not places:
            continue
        place = max(places, key=lambda other: arms[other].value.estimate)
        best = arms[place]
        text = (
            f"The best arm {head} is {best.name} ({best.pooling}): {metric} "
            f"{best.value.estimate:.2f} ({show_interval(best.value)})"
        )
        if best.against_best_single is not None:
            difference, p_value = best.against_best_single.difference, _holm_over(arms)[place]
            # Nothing is said to be shown: both were picked by these very numbers.
            text += (
                f"; against the best single magnification that is {show_difference(difference)} "
                f"(p {show_p(p_value)} after Holm's correction), both picked after looking"
            )
        said.append(text + ".")
    if detectable is not None and detectable == detectable:
        said.append(
            f"With {n_patients:,} {patients} a true difference of {detectable:.2f} in {metric} would have been seen "
            "four times in five; smaller ones can be there and not show."
            if detectable < 1
            else f"With {n_patients:,} {patients} in these folds no possible difference in {metric} would have been "
            "seen four times in five: this comparison cannot tell the arms apart."
        )
    return tuple(said)


def _holm_over(arms: Sequence[ArmResult]) -> list[float]:
    """The corrected p-value of each arm; NaN where it was not compared."""
    tests = [one.against_best_single for one in arms]
    adjusted = holm(np.array([float("nan") if test is None else test.p_value for test in tests]))
    return [float(p_value) for p_value in adjusted]


def _show_reference(reference: Reference) -> str:
    """Label and number; only a long label may be broken, and never before its number."""
    label = reference.label if len(reference.label) > 14 else reference.label.replace(" ", "\u00a0")
    return f"{label}\u00a0{reference.value:.2f}"
