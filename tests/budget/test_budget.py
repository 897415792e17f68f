"""Curves of a drawn cohort in which a sixth of the regions holds what only the pairing of magnifications knows."""

import csv
import json
import shutil
import signal
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import fine_bag, glance_at
from parfocal.budget import BudgetResult, BudgetSettings, measure_budgets
from parfocal.budget.curve import Costs, draw_curves
from parfocal.budget.reading import (
    KEPT,
    Asked,
    BudgetScores,
    Oracle,
    head_of,
    read_slide,
    score_budgets,
)
from parfocal.budget.settings import choose_policies
from parfocal.cli import main
from parfocal.cohort import Cohort, CohortColumns, Fold, Outcome, make_splits, read_cohort
from parfocal.errors import ConfigError, MismatchError, ParfocalError, StoreError
from parfocal.evaluate import EvaluateSettings, evaluate_arms
from parfocal.evaluate.arms import all_arms, read_arm_bags
from parfocal.evaluate.fitting import Bags, FitsWhere, each_fit
from parfocal.evaluate.held_out import HeldOut
from parfocal.heads import ProbeSettings
from parfocal.lab.synthetic import FeatureModel, IidSettings, draw_cohort, write_cohort
from parfocal.run.cache import StepCache
from parfocal.run.processes import Death
from parfocal.store import EmbeddingSet, open_set
from parfocal.store.files import SlideOrigin
from parfocal.store.layout import BUDGET, POLICY
from parfocal.store.set import only_mpps
from parfocal.store.write import SlideWriter
from parfocal.zoom import POLICIES, Glance, Policy, TileOrder, chosen

MODEL = FeatureModel(dim=32, separation_a=5.0, shift_c=1.5)
COHORT = IidSettings(n_slides=60, n_regions=24, a=0.15, kappa=0.06, model=MODEL)
PROBES = ProbeSettings(components=(8,), lifted=(), inner_folds=3, attention_steps=8, growth=1)
QUICK = BudgetSettings(
    policies=("contrast", "random-regions"),
    budgets=(0.125, 0.5),
    folds=3,
    repeats=1,
    probes=PROBES,
)
PATIENTS = CohortColumns(group="patient")


@dataclass(frozen=True)
class Written:
    tiles: Path
    labels: Path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("cohort")
    return Written(write_cohort(draw_cohort(COHORT), root), root / "labels.csv")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A cohort for a run of which it does not matter what it finds."""
    root = tmp_path_factory.mktemp("few")
    law = COHORT.model_copy(update={"n_slides": 16, "n_regions": 6})
    return Written(write_cohort(draw_cohort(law), root), root / "labels.csv")


@pytest.fixture(scope="module")
def result(cohort: Written, tmp_path_factory: pytest.TempPathFactory) -> BudgetResult:
    return measure_budgets(
        cohort.tiles, cohort.labels, "label", tmp_path_factory.mktemp("budget"), QUICK, columns=PATIENTS
    )


def auc_at(result: BudgetResult, policy: str, budget: float, head: str = "contrast") -> float:
    (curve,) = (one for one in result.curves if (one.policy, one.head.id) == (policy, head))
    (point,) = (one for one in curve.points if one.budget == budget)
    return float(point.auc.estimate)


def test_where_contrast_looks_an_eighth_tells_more_than_an_eighth_at_random(result: BudgetResult) -> None:
    assert auc_at(result, "contrast", 0.125) > auc_at(result, "random-regions", 0.125) + 0.1
    assert auc_at(result, "contrast", 0.125) > auc_at(result, "contrast", 1.0) - 0.05


def test_a_head_of_means_is_told_nothing_and_of_its_budgets_nothing_is_said(result: BudgetResult) -> None:
    own = [one for one in result.curves if one.head.id == "concat"]

    assert [one.policy for one in own] == ["contrast", "random-regions"]
    assert all(one.least is None and one.least_of_best is None for one in own)
    assert any("the head concat" in text and "not shown to tell the label" in text for text in result.sentences)


def test_reading_everything_is_the_arm_of_evaluate(cohort: Written, result: BudgetResult, tmp_path: Path) -> None:
    settings = EvaluateSettings(folds=3, repeats=1, arms=("contrast", "concat"), probes=PROBES)

    evaluated = evaluate_arms([cohort.tiles], cohort.labels, ["label"], tmp_path, settings, columns=PATIENTS)

    for run in evaluated.targets["label"].runs:
        assert auc_at(result, "contrast", 1.0, run.arm.id) == run.interval.estimate
        (reader,) = (one for one in result.readers if one.arm.id == run.arm.id)
        assert (reader.auc, reader.encodings) == (run.interval, run.encodings_per_slide)


def test_every_tile_that_is_read_is_counted_and_coarse_ones_too(result: BudgetResult) -> None:
    # 24 regions of one tile at 2 mpp, four at 1 mpp and sixteen at 0.5 mpp.
    costs = {one.budget: (one.share, one.encodings) for one in result.curves[0].points}

    assert costs == {0: (0, 120), 0.125: (0.125, 120 + 48), 0.5: (0.5, 120 + 192), 1: (1, 120 + 384)}


@dataclass(frozen=True, eq=False)
class Opened:
    source: EmbeddingSet
    cohort: Cohort
    bags: Bags
    folds: list[Fold]
    asked: Asked

    def scores(self, outcome: Outcome) -> BudgetScores:
        asked = self.asked
        return score_budgets(
            asked.heads, self.bags, replace(self.cohort, outcome=outcome), self.folds, self.source.read, asked, PROBES,
            StepCache(None, KEPT), lambda _: None,
        )  # fmt: skip


@pytest.fixture(scope="module")
def opened(cohort: Written) -> Opened:
    source, own = open_set(cohort.tiles), read_cohort(cohort.labels, "label", PATIENTS)
    by_id = {arm.id: arm for arm in all_arms([source])}
    heads = (by_id["contrast"], by_id["concat"])
    bags = read_arm_bags(heads, [source], own.slides, most_instances=1024, seed=0)
    folds = make_splits(own, folds=2, repeats=1, seed=0).folds(own, inner=3, seed=0)
    return Opened(source, own, bags, folds, Asked(heads, None, ("contrast", "stride"), (0.0, 0.25), 0))


@pytest.fixture(scope="module")
def scores(opened: Opened) -> BudgetScores:
    return opened.scores(opened.cohort.outcome)


def test_fine_values_that_are_not_read_change_nothing(opened: Opened) -> None:
    fold, asked = opened.folds[0], opened.asked
    probes = {
        arm.id: arm.pool([opened.bags[key] for key in arm.bags], opened.cohort.outcome, [fold], PROBES)[0]
        for arm in asked.heads
        if arm.pool is not None
    }
    heads, usual = [head_of(arm, probes) for arm in asked.heads], np.zeros(32, dtype=np.float32)

    for slide in fold.test[:5]:
        tokens = opened.source.read(opened.cohort.slides[slide])
        for policy in asked.bound(probes):
            read = chosen(policy(glance_at(tokens, 0)), 0.25)
            fine = np.where(read[:, None], tokens.features[0.5], np.nan)
            poisoned = replace(tokens, features={**tokens.features, 0.5: fine})
            before, _ = read_slide(tokens, heads, [policy], (0.0, 0.25), usual, 0)
            after, _ = read_slide(poisoned, heads, [policy], (0.0, 0.25), usual, 0)

            assert np.isfinite(before).all()
            assert np.array_equal(before, after)
            assert np.isnan(read_slide(poisoned, heads, [policy], (0.5,), usual, 0)[0]).all()  # the poison is one


def test_a_policy_sees_no_fine_value(opened: Opened) -> None:
    tokens = opened.source.read(opened.cohort.slides[0])
    blind = replace(tokens, features={**tokens.features, 0.5: np.full_like(tokens.features[0.5], np.nan)})

    assert glance_at(blind, 0).coarse.mpps == (2.0, 1.0)
    for name in ("change", "diversity", "random", "stride"):
        assert np.array_equal(POLICIES.get(name)(glance_at(blind, 0)), POLICIES.get(name)(glance_at(tokens, 0)))


def test_the_region_that_the_oracle_reads_first_moves_the_score_most(opened: Opened) -> None:
    fold, asked = opened.folds[0], replace(opened.asked, policies=("oracle",))
    arm = asked.heads[0]
    assert arm.pool is not None
    probe = arm.pool([opened.bags[key] for key in arm.bags], opened.cohort.outcome, [fold], PROBES)[0]
    head, usual = head_of(arm, {arm.id: probe}), np.zeros(32, dtype=np.float32)
    tokens = opened.source.read(opened.cohort.slides[fold.test[0]])

    def moved(policy: Policy | Oracle, budget: float) -> float:
        nothing, some = read_slide(tokens, [head], [policy], (0.0, budget), usual, 0)[0][0, 0]
        return abs(float(some - nothing))

    def from_region(first: int) -> Policy:
        return Policy("one", lambda glance: np.argsort((glance.region - first) % 24, kind="stable"))

    (oracle,) = asked.bound({arm.id: probe})
    each = [moved(from_region(number), 1 / 24) for number in range(24)]

    assert moved(oracle, 1 / 24) == max(each)
    assert len(set(each)) == 24
    assert moved(oracle, 1.0) == pytest.approx(moved(from_region(0), 1.0))


def test_labels_of_held_out_slides_reach_nothing(opened: Opened, scores: BudgetScores) -> None:
    outcome, fold = opened.cohort.outcome, opened.folds[0]
    value = outcome.value.copy()
    value[fold.test] = 1 - value[fold.test]

    after = opened.scores(replace(outcome, value=value))

    assert np.array_equal(scores.part[0], after.part[0])
    assert not np.array_equal(scores.part[1], after.part[1])  # there the same slides are training ones


def test_a_policy_that_cannot_say_where_to_read_reads_a_stride_and_has_no_curve_where_it_never_can(
    opened: Opened, scores: BudgetScores
) -> None:
    def nowhere(_: Glance) -> TileOrder:
        raise ConfigError("the head pairs nothing")

    asked = opened.asked
    probe = asked.heads[1].pool(
        [opened.bags[key] for key in asked.heads[1].bags], opened.cohort.outcome, opened.folds[:1], PROBES
    )[0]
    head = head_of(asked.heads[1], {"concat": probe})
    tokens, usual = opened.source.read(opened.cohort.slides[0]), np.zeros(32, dtype=np.float32)
    found, silent = read_slide(tokens, [head], [Policy("lost", nowhere), POLICIES.get("stride")], (0.25,), usual, 0)
    (unable,) = replace(asked, heads=asked.heads[1:], policies=("contrast",)).bound({"concat": probe})
    with pytest.raises(ConfigError, match="needs a contrast head"):  # as `read_slide` takes it, and not before
        unable(glance_at(tokens, 0))
    held_out = HeldOut.of(opened.cohort, opened.folds)

    def policies(n_silent: int) -> set[str]:
        told = replace(scores, silent={"contrast": (n_silent, "it pairs nothing")})
        costs = Costs(np.full(60, 120.0), np.full(60, 384.0))
        return {one.policy for one in draw_curves(told, asked, asked.heads[0], costs, held_out, 0.01)}

    assert silent == {"lost": "the head pairs nothing"}
    assert found[0, 0, 0] == found[0, 1, 0]
    assert policies(1) == {"contrast", "stride"}
    assert policies(2) == {"stride"}


def test_a_slide_of_which_nothing_is_read_has_the_usual_mean_and_no_region(opened: Opened) -> None:
    tokens = opened.source.read(opened.cohort.slides[0])
    usual = np.arange(32, dtype=np.float32)

    bag = fine_bag(tokens, np.zeros(len(tokens.region[0.5]), dtype=bool), usual)

    assert np.array_equal(bag.mean[0], usual)
    assert not bag.region_present.any()
    assert len(bag.region_present) == 24


FEW = QUICK.model_copy(
    update={
        "policies": ("contrast", "oracle"),
        "folds": 2,
        "repeats": 2,
        "probes": PROBES.model_copy(update={"components": (4,), "sharpen": False, "inner_folds": 2}),
    }
)


def measure_few(few: Written, out: Path, on_event: Callable[[object], None], **changed: object) -> BudgetResult:
    settings = FEW.model_copy(update=changed)
    return measure_budgets(few.tiles, few.labels, "label", out, settings, columns=PATIENTS, on_event=on_event)


@pytest.fixture(scope="module")
def whole(few: Written, tmp_path_factory: pytest.TempPathFactory) -> BudgetResult:
    """Two repeats measured in threads of this process, in one go."""
    return measure_few(few, tmp_path_factory.mktemp("whole"), lambda _: None)


def test_the_page_begins_with_the_answer_and_every_file_is_there(whole: BudgetResult) -> None:
    written = json.loads((whole.out / "budget.json").read_text())
    with (whole.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert written["sentences"] == list(whole.sentences)
    assert written["parfocal_version"]
    assert written["settings"]["probes"]["seed"] == 0
    assert [(row["head"], row["policy"]) for row in rows[::4]] == [
        ("contrast", "contrast"), ("contrast", "oracle"), ("concat", "contrast"),
    ]  # fmt: skip
    assert len(rows) == 3 * 4
    assert sum(row["against_whole_bound"] == "" for row in rows) == 3  # everything against itself
    assert all(row["flops"] == row["seconds"] == "" for row in rows)
    page = whole.report.read_text()
    assert page.count("data:image/png") == 3 * 2  # what two policies read of three slides
    assert page.count("does not say how its encoder") == 1
    assert page.count("--timed SLIDES embeds a few slides") == 2
    assert "Seconds per slide" not in page
    assert page.index(whole.sentences[0][:40]) < page.index("<svg")
    assert {path.name for path in whole.out.iterdir()} == {
        "budget.json", "readers.csv", "report.html", "results.csv", "splits.csv",
    }  # fmt: skip


def assert_same(one: BudgetResult, other: BudgetResult) -> None:
    assert one.sentences == other.sentences
    for name in ("results.csv", "readers.csv", "budget.json"):
        assert (one.out / name).read_bytes() == (other.out / name).read_bytes()


def test_a_run_that_was_stopped_goes_on_where_it_was(few: Written, whole: BudgetResult, tmp_path: Path) -> None:
    kept, stays = tmp_path / "kept", set[str]()

    def stop(event: object) -> None:
        if "fold 2 of repeat 1" in str(event):
            raise KeyboardInterrupt

    def look(_: object) -> None:
        stays.update(path.name for path in kept.iterdir() if before.get(path.name) == path.stat().st_mtime_ns)

    with pytest.raises(KeyboardInterrupt):
        measure_few(few, tmp_path, stop, executor="serial")
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(before) == 4 * 2 + 2  # the fits of four arms in two repeats, and two of four folds
    again = measure_few(few, tmp_path, look, executor="serial")

    assert stays == set(before)
    assert not kept.exists()
    assert_same(again, whole)


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_fits_and_readings_elsewhere_give_what_they_give_here(
    few: Written, whole: BudgetResult, tmp_path: Path, executor: str
) -> None:
    if executor == "ray":
        pytest.importorskip("ray")

    there = measure_few(few, tmp_path, lambda _: None, executor=executor, hold_gib=0.0, arms_at_a_time=1)

    assert_same(there, whole)


def test_a_fit_that_takes_its_process_with_it_is_one_line_and_what_was_done_is_kept(
    few: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(
        tasks: Sequence[tuple[int, int]], work: Callable[[tuple[int, int]], object], where: FitsWhere
    ) -> Generator[tuple[tuple[int, int], object]]:
        """Give what a crew gives of a process that died in the last fit, when all others are done."""
        yield from each_fit(tasks[:-1], work, where)
        yield tasks[-1], Death(-signal.SIGKILL)

    monkeypatch.setattr("parfocal.budget.reading.each_fit", deadly)
    with pytest.raises(ParfocalError, match=r"gated attention: its process died twice.*SIGKILL.*same command again"):
        measure_few(few, tmp_path, lambda _: None, repeats=1)

    assert len(list((tmp_path / "kept").iterdir())) == 3  # the fits of the other arms


def test_what_cannot_be_compared_is_refused_in_one_line(cohort: Written, tmp_path: Path) -> None:
    def refused(error: type[Exception], text: str, **changed: object) -> None:
        settings = QUICK.model_copy(update=changed)
        with pytest.raises(error, match=text):
            measure_budgets(cohort.tiles, cohort.labels, "label", tmp_path, settings, columns=PATIENTS)

    refused(ConfigError, "no policy 'guess'.* and oracle", policies=("guess",))
    refused(ConfigError, "tissue.*does not keep how much.*Leave it out", policies=("tissue",))
    refused(ConfigError, "pretrained model.*Leave it out", policies=("entropy",))
    refused(ConfigError, "averages others", readers=("late",))
    with pytest.raises(ConfigError, match="above 0 and below 1, and 1 is none"):
        BudgetSettings(budgets=(0.2, 1))
    with pytest.raises(ConfigError, match="and there is none"):
        BudgetSettings(budgets=())
    with pytest.raises(ConfigError, match="margin: 0 is no loss"):
        BudgetSettings(margin=0)
    three = tmp_path / "labels.csv"
    three.write_text(
        "slide,stage\n" + "".join(f"{name},{n % 3}\n" for n, name in enumerate(open_set(cohort.tiles).slides))
    )
    with pytest.raises(ConfigError, match="two classes"):
        measure_budgets(cohort.tiles, three, "stage", tmp_path, QUICK)
    coarse = only_mpps(open_set(cohort.tiles), [2.0])
    with pytest.raises(StoreError, match="2 mpp alone"):
        measure_budgets(coarse, cohort.labels, "label", tmp_path, QUICK, columns=PATIENTS)


def test_tissue_has_a_curve_where_it_is_known_of_every_slide(cohort: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_set(cohort.tiles)
    monkeypatch.setattr(type(source), "has_tissue", lambda own, slide: True)
    assert choose_policies(("tissue",), source) == (("tissue",), {})
    monkeypatch.setattr(type(source), "has_tissue", lambda own, slide: slide != "slide-00001")
    names, left_out = choose_policies((), source)
    assert "tissue" not in names
    assert "does not keep" in left_out["tissue"]


def test_slides_that_were_read_in_part_are_refused(cohort: Written, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(cohort.tiles, copied)
    tokens = open_set(copied).read("slide-00001")
    with SlideWriter(copied, tokens.places, origin=SlideOrigin(reading={POLICY: "stride", BUDGET: 0.5})) as writer:
        for mpp, rows in tokens.features.items():
            writer.append(mpp, rows)

    with pytest.raises(MismatchError, match=r"1 slides .* were read in part .*--budget 1"):
        measure_budgets(copied, cohort.labels, "label", tmp_path / "out", QUICK, columns=PATIENTS)


def test_a_wrong_budget_is_one_line_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", "store", "--labels", "l.csv", "--target", "t", "-o", "out", "--budgets", "0.2", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["budget", "store", "-o", "out"]) == 2
    assert "name --labels CSV and --target COLUMN" in capsys.readouterr().err


def test_the_command_prints_the_answer_and_writes_the_page(
    few: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "budget", str(few.tiles), "--labels", str(few.labels), "--target", "label", "--group", "patient",
        "-o", str(tmp_path), "--policies", "attention", "--budgets", "0.25", "--margin", "0.2", "--folds", "2",
        "--repeats", "1", "--components", "4", "--lifted", "2", "--attention-steps", "4", "--growth", "1",
        "--inner-folds", "2",
    ]  # fmt: skip

    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "5x (2 mpp): gated attention" in out
    written = json.loads((tmp_path / "budget.json").read_text())
    assert out.splitlines()[-len(written["sentences"]) :] == written["sentences"]
    assert f"report: {tmp_path / 'report.html'}" in err
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4
    assert written["settings"]["margin"] == 0.2
    assert main([*argv, "--splits", str(tmp_path / "splits.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        key: value
        for key, value in json.loads((tmp_path / "budget.json").read_text()).items()
        if key not in ("parfocal_version", "settings", "inputs")
    }
