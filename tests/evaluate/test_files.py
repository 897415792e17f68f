"""What an evaluation writes, for all kinds of outcome side by side, and what its page says."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.cohort import read_splits
from parfocal.evaluate import EvaluateResult, TargetResult, across_targets, compare_arms, write_evaluation
from parfocal.stats import holm, wilcoxon_signed_rank

from .drawn import ARMS, cohort_of, drawn

KINDS = ("binary", "multiclass", "ordinal", "continuous", "survival")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    results: dict[str, TargetResult] = {}
    for kind in KINDS:
        outside = cohort_of(kind, n=40, seed=9, target=f"{kind} label")
        scanner = ["one" if number % 2 else "two" for number in range(60)]
        cohort = cohort_of(kind, by={"scanner": scanner}, target=f"{kind} label")
        made = drawn(cohort, external=outside if kind == "binary" else None, seeds=2)
        results[f"{kind} label"] = made.result(external=outside if kind == "binary" else None)
    out = tmp_path_factory.mktemp("evaluation")
    settings = {"probes": {"balanced": True}}
    return write_evaluation(results, out, settings=settings, seed=0, inputs={"tiles": "abc"})


def test_every_table_names_its_metric_and_agrees_with_the_results(written: EvaluateResult) -> None:
    table = rows(written.out / "results.csv")

    assert len(table) == len(KINDS) * len(ARMS)
    named = {row["target"]: row["metric"] for row in table}
    assert named["binary label"] == "AUC"
    assert named["multiclass label"] == "mean AUC"
    assert named["survival label"] == "Harrell's concordance"
    for row in table:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        assert bool(row["brier"]) == (row["outcome"] == "binary")
        assert bool(row["r2"]) == bool(row["spearman"]) == (row["outcome"] == "continuous")
        assert bool(row["quadratic_kappa"]) == (row["outcome"] == "ordinal")
        assert float(row["encodings_per_slide"]) == 21
    predictions = [row for row in rows(written.out / "predictions.csv") if row["target"] == "survival label"]
    assert {row["event"] for row in predictions} == {"0", "1"}
    assert len(predictions) == len(ARMS) * 2 * 60
    assert len(rows(written.out / "subgroups.csv")) == len(KINDS) * 2 * len(ARMS)
    assert {row["target"] for row in rows(written.out / "external.csv")} == {"binary label"}


def test_the_papers_table_has_a_row_for_each_target_the_mean_and_its_tests(written: EvaluateResult) -> None:
    primary = written.primary
    assert primary is not None
    table = [row for row in rows(written.out / "summary.csv") if row["comparison"] == "primary"]
    differences = [float(row["difference"]) for row in table[:-1]]

    assert [row["target"] for row in table] == [*(f"{kind} label" for kind in KINDS), "mean over targets"]
    assert {row["mixed"] for row in table[:-1]} == {"contextual tokens: gated attention"}
    assert float(table[-1]["difference"]) == pytest.approx(np.mean(differences))
    # Five targets say nothing of others: no interval over them, and no p-value.
    assert [table[-1][name] for name in ("p", "difference_low", "difference_high", "single_low")] == [""] * 4
    assert primary.signed_rank.rank_sum == wilcoxon_signed_rank(differences).rank_sum
    assert primary.signed_rank.smallest_p == 0.0625
    raw = [float(row["p"]) for row in table[:-1]]
    assert [float(row["p_holm"]) for row in table[:-1]] == pytest.approx(holm(raw).tolist())


def test_json_holds_all_of_it(written: EvaluateResult) -> None:
    content = json.loads((written.out / "results.json").read_text())
    binary = content["targets"]["binary label"]

    primary = content["across_targets"]["primary"]
    assert primary["wilcoxon"]["smallest_possible_p"] == 0.0625
    assert (primary["wilcoxon"]["p"], primary["difference"]["low"]) == (None, None)
    assert content["answer"] == written.answer
    assert binary["external_cohort"]["slides"] == 40
    assert binary["arms"][4]["external"]["against_best_single"]["bootstrap"]["method"].startswith("patient bootstrap")
    assert sum(one["n"] for one in binary["arms"][4]["calibration"]["bins"]) == 60
    assert content["targets"]["survival label"]["events"] > 0
    assert binary["primary"]["mixed"] == "contextual tokens: gated attention"


def test_the_page_says_what_was_named_before_and_what_was_picked_after(written: EvaluateResult) -> None:
    page = written.report.read_text()

    for said in (
        "named before anything was measured",
        "Picked after looking",
        "Mean of 5 targets",
        "from 6 on the mean has an interval",
        "Harrell&#39;s concordance",
        "By scanner",
        "External cohort: 40 slides",
        "calibration",
        "sd over seeds",
        "What each way of pooling does",
        "Tiles encoded per slide",
        "The two classes weigh alike in every fit",
    ):
        assert said in page, said
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert re.search(r"\bnan\b", page) is None


def test_tables_of_an_earlier_run_with_more_settings_do_not_stay(tmp_path: Path) -> None:
    for name in ("subgroups.csv", "external.csv"):
        (tmp_path / name).write_text("old")
    result = drawn(cohort_of("binary")).result()

    found = write_evaluation({"t": result}, tmp_path, settings={}, seed=0, inputs={})

    assert not (tmp_path / "subgroups.csv").exists()
    assert not (tmp_path / "external.csv").exists()
    assert found.primary is not None
    assert found.primary.difference is None  # one target has no spread over targets


def test_a_target_where_the_mixture_is_worse_is_not_sold_as_a_gain(tmp_path: Path) -> None:
    results = {
        name: drawn(cohort_of("binary", n=200, target=name), signal=(0.1, 0.1, 0.1, 0.1, 0.1, signal)).result()
        for name, signal in (("gains", 2.0), ("nothing", 0.1))
    }
    results["loses"] = drawn(cohort_of("binary", n=200, target="loses"), signal=(0.1, 2.0, 0.1, 0.1, 0.1, 0.1)).result()

    page = write_evaluation(results, tmp_path, settings={}, seed=0, inputs={}).report.read_text()

    assert "the mixture is shown to differ in 2: gains (better), loses (worse)" in page
    assert re.search("Even the best arm that mixes is behind the best single magnification in .*loses", page)
    alone = write_evaluation({"loses": results["loses"]}, tmp_path / "alone", settings={}, seed=0, inputs={})
    assert re.search(r"Primary comparison for loses: .*: worse \(p", alone.report.read_text())
    assert alone.answer.startswith("For loses mixing magnifications is worse than the best single one: AUC 0.")


def test_without_a_mixed_arm_nothing_is_compared_over_targets() -> None:
    assert across_targets({}, lambda result: result.primary) is None


def test_names_are_text_in_the_page_and_in_the_tables_and_read_back_as_they_were(tmp_path: Path) -> None:
    tag, formula = "<script>alert(1)</script>", "=HYPERLINK(1)"
    cohort = cohort_of("binary", by={tag: [tag, formula] * 30}, target=formula)
    cohort = replace(cohort, slides=(tag, formula, *cohort.slides[2:]))
    arms = [replace(ARMS[0], name=tag), *ARMS[1:]]
    made = drawn(cohort)
    result = compare_arms(arms, made.fits, cohort, made.splits, made.folds)
    written = write_evaluation({formula: result}, tmp_path, settings={tag: tag}, seed=0, inputs={tag: formula})

    page = written.report.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for path in tmp_path.glob("*.csv"):
        assert not any(cell.startswith("=") for row in rows(path) for cell in row.values()), path
    splits = read_splits(tmp_path / "splits.csv")
    assert set(splits) == {formula}
    assert {tag, formula} < set(splits[formula].slides)


@pytest.mark.parametrize("is_grouped", [True, False])
def test_a_page_calls_nothing_a_patient_of_which_nothing_says_whose_it_is(tmp_path: Path, is_grouped: bool) -> None:
    results: dict[str, TargetResult] = {}
    for kind in ("binary", "multiclass", "continuous"):
        scanner = ["one" if number % 2 else "two" for number in range(60)]
        cohort = replace(cohort_of(kind, by={"scanner": scanner}, target=f"{kind} label"), is_grouped=is_grouped)
        outside = replace(cohort_of(kind, n=40, seed=9, target=f"{kind} label"), is_grouped=is_grouped)
        test = outside if kind == "binary" else None
        noted = replace(cohort, notes=tuple(cohort.group_notes()))
        results[f"{kind} label"] = drawn(noted, external=test, seeds=2).result(external=test)

    written = write_evaluation(results, tmp_path, settings={}, seed=0, inputs={"tiles": "abc"})

    page = " ".join(re.sub(r"<[^>]*>", " ", written.report.read_text()).split())
    caveat = "nothing says which of them come from one patient"
    about = re.findall(r"[^.:;]*\b[Pp]atients?\b[^.:;]*", page.replace("--patient-of", ""))
    if is_grouped:
        assert len(about) > 20
        assert caveat not in page
    else:
        assert page.count("60 slides, taken as independent") >= 6  # in the text and in the caveat of each target
        # Only the caveat, and the page's foot, may name patients: they call no slide one.
        left = {" ".join(one.split()) for one in about if "one patient" not in one}
        assert left == {"not for decisions about a patient"}
        assert caveat in page
    grouped = json.loads((tmp_path / "results.json").read_text())["targets"]["binary label"]["is_grouped"]
    assert grouped is is_grouped
