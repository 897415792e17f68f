"""The page of a comparison of budgets: the answer, the curves, the least budgets, and every number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parfocal.budget.curve import least_of, tells
from parfocal.budget.result import Against, BudgetResult, Curve, Point, Seconds, WholeReader
from parfocal.report import (
    Field,
    Figure,
    Note,
    Panel,
    ReportPage,
    Section,
    Table,
    Text,
    curves_panel,
    page_table,
)
from parfocal.stats import Interval
from parfocal.table import some_of

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")

_METHOD = (
    "The slides of the set were read whole. Heads are fitted on whole slides of the training patients of each fold, "
    "and a policy that asks a head asks that of the fold. A held-out slide shows its coarse tiles to the policy, which "
    "says in which order its fine ones are read; a budget reads the first of them, and the head scores what was read.",
    "The head contrast knows what it has not seen: a region that was not read adds nothing. The mean takes what was "
    "read for all there is, as a head does that knows nothing of budgets; where nothing is read its fine mean is that "
    "of the training slides.",
    "A budget is non-inferior where the one-sided lower bound at 95 % of its difference to reading everything lies "
    "above minus the margin; no bound is nearer than m patients of the smaller class allow who would all be ranked "
    "alike, 1 - 0.05^(1/m) (the rule of three). Budgets are tested from the largest down, and the first that fails "
    "ends it, so that many budgets of one curve cost nothing (Maurer, Hothorn and Lehmacher 1995). Policies are not "
    "corrected for one another: whoever chooses one after looking has been favoured by chance. The best head that "
    "reads everything is picked by its result too, which favours it.",
    "The margin that could be shown is the distance of a lower bound below its difference: were nothing lost at all, "
    "no smaller margin could be shown. It is given for the largest budget below everything, where testing begins, and "
    "as the largest distance over all budgets of a curve that read something.",
    "nAUBC is (area under the curve over the share that is read - AUC of reading nothing) / (AUC of reading everything "
    "- AUC of reading nothing), as the active learning challenge (Guyon et al. 2011) scores curves over numbers of "
    "labels. It is left out where reading everything gains less than 0.01.",
    "A pass through the tile encoder is counted for every tile that is read, coarse ones included; its floating-point "
    "operations are those of matrix products, convolutions and attention, two for each multiplication with its "
    "addition, counted on one tile. AUC is the mean over folds, with the interval of repeated cross-validation "
    "(docs/evaluate.md).",
)
_ORACLE = (
    "The oracle reads first the regions that change the score of the head contrast most when they alone are read. It "
    "has to read them all to know that, so no policy can be it, and it takes no part in what is said of least budgets. "
    "It is no bound either: what it puts last may be what misleads the head."
)
_NO_SECONDS = (
    "Seconds were not measured: --timed SLIDES embeds a few slides whole, at the finest magnification alone and to "
    "each budget."
)
_READ = (
    "What each policy puts first, for the slides with the fewest, the middle and the most fine tiles. A policy that "
    "asks a head asks that of the first fold that holds the slide out. Drawn from the coordinates in the set."
)


def sentences(
    target: str,
    readers: Sequence[WholeReader],
    curves: Sequence[Curve],
    margin: float,
    seconds: Seconds | None = None,
) -> tuple[str, ...]:
    """What was found: the least budget of all, what it is compared with, and what could have been shown.

    Args:
        target: the label's column.
        readers: heads that read everything.
        curves: each head with each policy.
        margin: what may be lost.
        seconds: what embedding takes; None where it was not measured.
    """
    best = next(one for one in readers if one.against_best is None)
    if not tells(best.auc):
        return (
            f"No head that reads everything is shown to tell {target} (the best is {best.arm.label}, AUC "
            f"{_show_auc(best.auc)}), so this cohort cannot say how few tiles are enough.",
        )
    everything = f"reading everything ({best.arm.label}, AUC {best.auc.estimate:.3f})"
    curves, oracle = [one for one in curves if one.is_attainable], [one for one in curves if not one.is_attainable]
    found = least_of(curves)
    if found is not None and found.least_of_best is not None:
        curve, point = found, found.at(found.least_of_best)
        assert point.against_best is not None
        answer = (
            f"{_share(point.budget)} of the fine tiles are enough for {target}: with the policy {curve.policy} and the "
            f"head {curve.head.method} AUC is {point.auc.estimate:.3f}, and shown to be no more than {margin:g} below "
            f"{everything}, the lower 95 % bound being {_signed(point.against_best.bound)}; {point.encodings:,.1f} "
            f"tiles are encoded per slide in place of {best.encodings:,.1f}{_in_flops(point, best)}."
        )
        if len(curves) > 1:
            answer += f" It is the least of {len(curves)} curves, picked after looking."
    else:
        answer = (
            f"No budget below everything is shown to lose no more than {margin:g} AUC for {target} against "
            f"{everything}."
        )
        parts = [
            (one.against_best.bound, curve, one)
            for curve in curves
            for one in curve.points
            if one.budget < 1 and one.against_best is not None
        ]
        if parts:
            bound, curve, point = max(parts, key=lambda part: part[0])
            answer += (
                f" The nearest is {_share(point.budget)} by {curve.policy}, read by {curve.head.method}: AUC "
                f"{point.auc.estimate:.3f}, lower 95 % bound of the difference {_signed(bound)}."
            )
    return (
        answer,
        *_least_sentences(curves, margin),
        *_could_show(curves, margin),
        _finest_sentence(readers),
        *([] if seconds is None else [_seconds_sentence(seconds)]),
        *map(_oracle_sentence, oracle),
    )


def _least_sentences(curves: Sequence[Curve], margin: float) -> tuple[str, ...]:
    """For each head, which of its curves lose nothing against the same head reading everything."""
    said = []
    for head in dict.fromkeys(one.head.id for one in curves):
        own = [one for one in curves if one.head.id == head]
        whole = own[0].points[-1].auc
        against = f"Against the head {own[0].head.method} itself reading everything, AUC {_show_auc(whole)},"
        found = sorted((one.least, one.policy) for one in own if one.least is not None)
        if not tells(whole):
            said.append(f"{against} nothing is said: it is not shown to tell the label.")
        elif found:
            listed = ", ".join(f"{_share(least)} by {policy}" for least, policy in found)
            said.append(f"{against} the least non-inferior budgets are {listed}.")
        else:
            said.append(f"{against} no budget is non-inferior with a margin of {margin:g}.")
    return tuple(said)


def _could_show(curves: Sequence[Curve], margin: float) -> tuple[str, ...]:
    """Which margin the cohort could have shown at all."""
    known = [one for one in curves if tells(one.points[-1].auc)]
    if not known:
        return ()
    curve = min(known, key=lambda one: one.could_show)
    if margin <= curve.could_show:
        verdict = f"a margin of {margin:g} is more than it can show"
    elif margin <= curve.could_show_all:
        verdict = f"a margin of {margin:g} can be shown at some budgets and not at all of them"
    else:
        verdict = f"a margin of {margin:g} can be shown at every budget"
    return (
        f"If nothing at all were lost, this cohort could at best show a margin of {curve.could_show:.3f} at "
        f"{_share(curve.points[-2].budget)}, and of {curve.could_show_all:.3f} at every budget ({curve.policy}, read "
        f"by {curve.head.method}): {verdict}.",
    )


def _finest_sentence(readers: Sequence[WholeReader]) -> str:
    alone = [one for one in readers if len(one.arm.bags) == 1 and one.arm.kind == "single"]
    fewest = max(alone, key=lambda one: (one.encodings, one.auc.estimate))
    return (
        f"The finest magnification alone, read whole, gives {fewest.auc.estimate:.3f} ({fewest.arm.pooling}) for "
        f"{fewest.encodings:,.1f} encodings per slide"
        + ("." if fewest.flops is None else f", {show_flops(fewest.flops)}.")
    )


def _oracle_sentence(curve: Curve) -> str:
    listed = ", ".join(f"{one.auc.estimate:.3f} at {_share(one.budget)}" for one in curve.points if 0 < one.budget < 1)
    return (
        f"If the policy knew what reading each region does to the score of the head {curve.head.method}, which it "
        f"cannot, AUC would be {listed} (oracle)."
    )


def _seconds_sentence(seconds: Seconds) -> str:
    listed = ", ".join(f"{taken:.1f} to a budget of {_share(budget)}" for budget, taken in seconds.at.items())
    return (
        f"Embedding took {seconds.whole:.1f} seconds per slide for everything, {seconds.finest:.1f} for the finest "
        f"magnification alone, and by {seconds.policy} {listed} ({some_of(seconds.slides)}; start, coarse tiles and "
        f"choosing included, medians of {seconds.rounds} rounds in turns)."
    )


def _in_flops(point: Point, best: WholeReader) -> str:
    if point.flops is None or best.flops is None:
        return ""
    return f", which takes the encoder {show_flops(point.flops)} in place of {show_flops(best.flops)}"


def show_flops(value: float) -> str:
    """Floating-point operations with three figures and a prefix of 1,000, such as `16.9 GFLOP`."""
    rounded = float(f"{value:.3g}")  # first, so that 999.9 thousands are a million
    power = min(max(int(np.log10(max(rounded, 1.0)) // 3), 0), len(_PREFIXES) - 1)
    return f"{rounded / 1000**power:.3g} {_PREFIXES[power]}FLOP"


def _share(budget: float) -> str:
    return f"{100 * budget:.3g} %"


def _least(budget: float) -> str:
    return "all" if budget == 1 else _share(budget)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\u2212")


def _show_auc(auc: Interval) -> str:
    return f"{auc.estimate:.3f} ({auc.low:.3f} to {auc.high:.3f})"


def _show_against(one: Against) -> str:
    ends = f"{_signed(float(one.difference.low))} to {_signed(float(one.difference.high))}"
    return f"{_signed(float(one.difference.estimate))} ({ends}), bound {_signed(one.bound)}"


READERS = (
    Field("reader", "arm.label", "Reads whole slides"),
    Field("auc", "auc", "AUC (interval)", _show_auc, align="right"),
    Field("encodings", "encodings", "Tiles encoded per slide", ",.1f"),
    Field("flops", "flops", "Encoder", show_flops, "Floating-point operations per slide.", "right", is_optional=True),
    Field("seconds", "seconds", "Seconds per slide", ".1f", "To embed what it reads.", is_optional=True),
    Field("against", "against_best", "Against the best", _show_against, align="right", missing="the best"),
)
CURVES = (
    Field("policy", "label", "Policy"),
    Field("least_of_best", "least_of_best", "Least budget, best head", _least, align="right", missing="none"),
    Field("least", "least", "Least budget, same head", _share, align="right", missing="none"),
    Field("share_of_gain", "share_of_gain", "nAUBC", ".3f"),
    Field("area", "area", "Mean AUC", ".3f", "Over budgets from 0 to 1."),
    Field("could_show", "could_show", "Margin that could be shown", ".3f", "At the largest budget below everything."),
    Field(
        "could_show_all", "could_show_all", "At every budget", ".3f", "The margin that could be shown at all of them."
    ),
)
POINTS = (
    Field("policy", "curve.label", "Policy"),
    Field("budget", "point.budget", "Budget", _share, align="right"),
    Field("share", "point.share", "Really read", _share, align="right"),
    Field("encodings", "point.encodings", "Tiles encoded per slide", ",.1f"),
    Field("flops", "point.flops", "Encoder", show_flops, "Operations per slide.", "right", is_optional=True),
    Field("seconds", "point.seconds", "Seconds per slide", ".1f", "To embed it.", is_optional=True),
    Field("auc", "point.auc", "AUC (interval)", _show_auc, align="right"),
    Field("whole", "point.against_whole", "Against the same head", _show_against, align="right", missing="the same"),
    Field("best", "point.against_best", "Against the best head", _show_against, align="right", missing="the best"),
)


def budget_page(
    result: BudgetResult,
    figures: Sequence[Figure] = (),
    *,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
) -> ReportPage:
    """The page.

    Args:
        result: what was found.
        figures: what policies read of some slides.
        settings: everything that made it.
        seed: of folds, fits and policies that draw.
        inputs: the digests of what went in.
    """
    heads = list(dict.fromkeys(one.head.id for one in result.curves))
    of_head = {name: [one for one in result.curves if one.head.id == name] for name in heads}
    has_oracle = not all(one.is_attainable for one in result.curves)
    method = [*map(result.cohort.worded, _METHOD), *([_ORACLE] if has_oracle else [])]
    untimed = () if result.seconds else (_NO_SECONDS,)
    sections = [
        Section("Curves", tuple(_figure(own, result.readers) for own in of_head.values())),
        Section(
            "How few are enough",
            (
                page_table(
                    "Each policy and head against reading everything",
                    CURVES,
                    result.curves,
                    by=lambda one: f"Read by {one.head.label}",
                    footnotes=(f"Margin {settings['margin']:g}; see how it was measured, below.",),
                ),
                page_table("Heads that read whole slides", READERS, result.readers),
            ),
        ),
        *([Section("What was read", (Text((_READ,)), *figures))] if figures else []),
        Section("Every budget", tuple(_points(own, untimed) for own in of_head.values())),
        Section("How it was measured", (Text(tuple(method)),)),
    ]
    if result.notes:
        notes = tuple(Note(result.cohort.worded(text)) for text in result.notes)
        sections.insert(1, Section("To be known", notes))
    return ReportPage(
        title=f"How few fine tiles are enough: {result.cohort.target}",
        lead=result.sentences,
        sections=tuple(sections),
        settings=settings,
        seeds={"splits, fits and policies that draw": seed},
        inputs=inputs,
    )


def _points(curves: Sequence[Curve], footnotes: Sequence[str]) -> Table:
    rows = [{"curve": curve, "point": point} for curve in curves for point in curve.points]
    return page_table(f"Every budget, read by {curves[0].head.label}", POINTS, rows, footnotes=footnotes)


def _figure(curves: Sequence[Curve], readers: Sequence[WholeReader]) -> Figure:
    """The curves of one head, over the share that is read and over its logarithm, with what reads everything."""
    budgets = np.array([one.budget for one in curves[0].points])
    best = next(one for one in readers if one.against_best is None)
    lines = {curve.label: np.array([float(one.auc.estimate) for one in curve.points]) for curve in curves}
    lines[f"everything: {best.arm.pooling}"] = np.full(len(budgets), float(best.auc.estimate))
    panels: list[Panel] = [
        curves_panel(budgets, lines, x_label="share of fine tiles that is read", y_label="AUC"),
        curves_panel(
            np.log2(budgets[budgets > 0]),
            {name: values[budgets > 0] for name, values in lines.items()},
            x_label="its logarithm to base 2: \u22123 is an eighth",
            y_label="AUC",
        ),
    ]
    return Figure(tuple(panels), f"AUC over what is read, by {curves[0].head.label}.")
