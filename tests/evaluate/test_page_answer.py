"""The first screen of an evaluation: a sentence, a table and a figure, and nothing on the page that denies them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from parfocal.evaluate import TargetResult, across_targets, evaluation_page
from parfocal.evaluate.page_answer import answer_blocks, answer_sentence
from parfocal.evaluate.page_split import split_sentences
from parfocal.evaluate.result import AcrossTargets, TargetComparison
from parfocal.evaluate.split import SplitGain
from parfocal.report import Figure, Note, ReportPage, Table, Text
from parfocal.stats import FoldTest, Interval, holm

from .drawn import cohort_of, drawn

# Estimate and half width of the difference, and its p-value before correction.
Gain = tuple[float, float, float]
BETTER, WORSE, OPEN = (0.2, 0.05, 0.0001), (-0.2, 0.05, 0.0001), (0.02, 0.1, 0.6)


@cache  # a fixture would stand among the arguments that hypothesis shrinks and prints
def base() -> TargetResult:
    return drawn(cohort_of("continuous"), repeats=1).result()


def with_gains(gains: Sequence[Gain], *, split: SplitGain | None = None) -> dict[str, TargetResult]:
    """Targets whose primary and picked comparison are given."""
    results = {}
    for number, (estimate, reach, p_value) in enumerate(gains):
        difference = Interval(estimate, estimate - reach, estimate + reach)
        test = FoldTest(difference, 0.0, 10.0, p_value)
        pair = TargetComparison(5, 1, test, 0.1)
        runs = tuple(replace(run, against_best_single=test if run.against_best_single else None) for run in base().runs)
        results[f"t{number}"] = replace(
            base(), primary=pair, picked=pair, runs=runs, gains={} if split is None else {"": split}
        )
    return results


def over(results: Mapping[str, TargetResult]) -> AcrossTargets:
    primary = across_targets(results, lambda result: result.primary)
    assert primary is not None
    return primary


def page_of(results: Mapping[str, TargetResult]) -> ReportPage:
    primary = over(results)
    return evaluation_page(
        results,
        answer=answer_sentence(results, primary),
        settings={},
        seed=0,
        inputs={},
        split=split_sentences(results),
        primary=primary,
        picked=across_targets(results, lambda result: result.picked),
    )


def texts(page: ReportPage) -> list[str]:
    """Every sentence and cell of the page."""
    said = list(page.lead)
    for block in (*page.first, *(block for section in page.sections for block in section.blocks)):
        if isinstance(block, Text):
            said += block.paragraphs
        elif isinstance(block, Note):
            said.append(block.text)
        elif isinstance(block, Figure):
            said.append(block.caption)
        else:
            said += [block.caption, *block.footnotes, *(cell for row in block.rows for cell in row.cells)]
    return said


def first_table(page: ReportPage) -> dict[str, dict[str, str]]:
    table = page.first[0]
    assert isinstance(table, Table)
    names = [column.title for column in table.columns]
    return {row.cells[0]: dict(zip(names, row.cells, strict=True)) for row in table.rows}


GAINS = st.tuples(
    st.integers(-60, 60).map(lambda one: one / 100),
    st.integers(0, 40).map(lambda one: one / 100),
    st.sampled_from([0.0001, 0.004, 0.01, 0.03, 0.049, 0.051, 0.3, 1.0, float("nan")]),
)


@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.generate))  # shrinking takes minutes
@given(st.lists(GAINS, min_size=1, max_size=8), st.booleans())
def test_no_two_sentences_of_a_page_contradict(gains: list[Gain], with_split: bool) -> None:
    """Every target is called better, worse or open, and by every sentence and cell of the page the same."""
    part = Interval(gains[0][0], gains[0][0] - gains[0][1], gains[0][0] + gains[0][1])
    results = with_gains(gains, split=SplitGain(0.5, 0.6, part, part, part) if with_split else None)
    page = page_of(results)
    said = texts(page)

    corrected = holm([p for _, _, p in gains])
    truth = {}
    for target, (estimate, reach, _), p_value in zip(results, gains, corrected, strict=True):
        is_shown = abs(estimate) > reach and not p_value >= 0.05
        truth[target] = ("better" if estimate > 0 else "worse") if is_shown else "open"

    table, n = first_table(page), len(gains)
    if n <= 3:
        assert {target: table[target]["Mixture is"] for target in truth} == truth
    holms = [text for text in said if text.startswith("After Holm")]
    assert len(holms) == (n > 1)
    for text in holms:
        assert dict(re.findall(r"(t\d) \((better|worse)\)", text)) == {t: v for t, v in truth.items() if v != "open"}
    if n == 1:
        assert any(re.search(rf"Primary comparison for t0: .*: {truth['t0']} \(p", text) for text in said)
        assert ("open whether" in page.lead[0]) == (truth["t0"] == "open")
    elif n < 6:
        named = {side: set(re.findall(r"t\d", text)) for side, text in sides_of(page.lead[0]).items()}
        assert named == {side: {t for t, v in truth.items() if v == side} for side in set(truth.values())}
        assert not any("Wilcoxon" in text for text in said)
    assert sum("chance can explain" in text for text in said) == 1
    assert not any("more than chance" in text for text in said)
    if with_split and (n == 1 or n >= 6):
        (brief,) = re.findall(r"context brings \S+ \((\w+)\)", page.lead[0])
        (at_length,) = [text for text in said if "which only coarse tiles bring" in text]
        assert ("Context helps in this data" in at_length) == (brief == "helps")
        assert ("Context costs in this data" in at_length) == (brief == "costs")
        assert ("do not show whether context helps" in at_length) == (brief == "open")


def sides_of(sentence: str) -> dict[str, str]:
    """Which targets the sentence of a few targets calls what."""
    head = sentence.split(": on average")[0]
    if head.startswith("For "):
        return {"open": head}
    found = dict(re.findall(r"(better|worse|open) for ((?:t\d|, (?=t)| and (?=t))+)", head))
    assert found
    return found


def test_of_one_target_the_sentence_says_how_much_what_of_it_and_what_it_costs() -> None:
    split = SplitGain(0.5, 0.7, Interval(0.2, 0.1, 0.3), Interval(0.01, -0.1, 0.12), Interval(0.19, 0.1, 0.28))
    results = with_gains([BETTER], split=split)
    runs = list(results["t0"].runs)
    for place, tiles in ((0, 16.0), (1, 1024.0), (5, 1344.0)):
        runs[place] = replace(runs[place], encodings_per_slide=tiles)
    results["t0"] = replace(results["t0"], runs=tuple(runs))

    said = answer_sentence(results, over(results))

    values = f"{runs[5].interval.estimate:.2f} against {runs[1].interval.estimate:.2f}"
    assert said == (
        f"For t0 mixing magnifications is better than the best single one: {base().metric.name} {values}, "
        "+0.20 (+0.15 to +0.25); in a linear readout context brings +0.01 (open) and magnification +0.19 (helps); the "
        "mixture reads 1,344 tiles per slide, 20x alone 1,024."
    )


@pytest.mark.parametrize(
    ("gains", "begins"),
    [
        (
            [BETTER, OPEN],
            "Mixing magnifications is better for t0 than the best single one, and open for t1: on",
        ),
        (
            [BETTER, WORSE, BETTER],
            "Mixing magnifications is better for t0 and t2 and worse for t1 than the best ",
        ),
        ([OPEN] * 5, "For t0, t1, t2, t3 and t4 it is open whether mixing magnifications is better than the best "),
        ([BETTER] * 6, "Over 6 targets mixing magnifications is better on average than the best single one: 0."),
        ([BETTER, WORSE] * 3, "Over 6 targets it is open whether mixing magnifications is better on average than "),
        ([WORSE] * 7, "Over 7 targets mixing magnifications is worse on average than the best single one: 0."),
    ],
)
def test_from_six_targets_on_the_mean_is_judged_and_before_each_target(gains: list[Gain], begins: str) -> None:
    # Targets that all gain alike have no spread; a little of it makes an interval.
    spread = [(estimate + 0.001 * number, reach, p) for number, (estimate, reach, p) in enumerate(gains)]
    results = with_gains(spread)
    primary = over(results)

    said = answer_sentence(results, primary)

    assert said.startswith(begins)
    assert f"ahead in {sum(one[0] > 0 for one in gains)} of {len(gains)} targets" in said
    assert primary.difference is not None
    assert primary.difference.has_ends == (len(gains) >= 6)
    mean = first_table(page_of(results))[f"Mean of {len(gains)} targets"]
    assert ("to" in mean["Difference"].split()) == (len(gains) >= 6)
    assert any("Wilcoxon" in text for text in texts(page_of(results))) == (len(gains) >= 6)


def test_the_table_and_the_figure_stay_small_with_many_targets() -> None:
    gains = [((number - 6) / 40, 0.05, 0.01) for number in range(14)]
    table, figure = answer_blocks(results := with_gains(gains), over(results))

    assert isinstance(table, Table)
    assert isinstance(figure, Figure)
    assert [row.cells[0] for row in table.rows] == ["Mean of 14 targets"]
    assert 'height="' in figure.panels[0].image.decode()
    assert figure.panels[0].image.decode().count('class="l1"') == 8


def test_where_nothing_was_compared_the_sentence_says_what_is_there() -> None:
    results = {"t0": replace(base(), primary=None, picked=None)}
    best = max(base().runs, key=lambda run: run.interval.estimate)

    said = answer_sentence(results, None)
    table, _ = answer_blocks(results, None)

    assert said.startswith("No mixture stands against a single magnification here; of 6 arms for t0 the best is ")
    assert f"{best.arm.label}, {base().metric.name} {best.interval.estimate:.2f} (" in said
    assert isinstance(table, Table)
    assert table.rows[0].cells[1] == best.arm.label


def test_a_comparison_that_failed_is_said_in_the_sentence_and_below_it() -> None:
    results = with_gains([BETTER, OPEN])
    results["t1"] = replace(results["t1"], primary=None, picked=None, missing_primary="it failed (no memory).")

    said = answer_sentence(results, over(results))
    notes = [block for block in answer_blocks(results, over(results)) if isinstance(block, Note)]

    assert said.startswith("For t0 mixing magnifications is better")
    assert said.endswith("; an arm of the comparison failed for t1.")
    assert [one.text for one in notes] == ["t1: it failed (no memory)."]
    alone = {"t1": results["t1"]}
    assert "an arm of the comparison failed for t1" in answer_sentence(alone, None)
