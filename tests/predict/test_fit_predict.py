"""From labelled slides to a head, and from new slides to probabilities: every kind of arm, and what may go wrong."""

import csv
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from parfocal.cli import main
from parfocal.cohort import LabelColumns, Target, make_splits, read_cohort
from parfocal.errors import ConfigError, StoreError
from parfocal.evaluate.arms import read_arm_bags, table_of_arms
from parfocal.evaluate.fitting import cross_validate
from parfocal.files import digest8
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.predict import (
    FitSettings,
    Head,
    PredictSettings,
    fit_calibration,
    fit_head,
    fit_study,
    load_head,
    predict_slides,
)
from parfocal.stats import auc
from parfocal.store import open_set
from parfocal.study import read_study, run_study

from .scans import QUICK, Scanned, draw_slide

PATIENTS = LabelColumns(group="patient")


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def fit_red(scanned: Scanned, out: Path, arm: str = "contrast", target: str | Target = "red") -> Head:
    inputs, models = [scanned.store, scanned.regions], [scanned.model]
    return fit_head(inputs, scanned.labels, target, arm, out, QUICK, columns=PATIENTS, models=models)


@pytest.fixture(scope="module")
def head(scanned: Scanned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_red(scanned, tmp_path_factory.mktemp("heads") / "head").path


@pytest.mark.parametrize("arm", ["late", "mem/tokens/contrast"])
def test_an_arm_tells_new_slides_as_its_cross_validation_promises(scanned: Scanned, tmp_path: Path, arm: str) -> None:
    head = fit_red(scanned, tmp_path / "head", arm)
    again = load_head(tmp_path / "head")

    summary = predict_slides([scanned.new_store], tmp_path / "head", tmp_path / "new.csv")

    probability = np.array([one.probability[1] for one in summary.predicted])
    is_red = np.array([scanned.new_is_red[one.slide] for one in summary.predicted])
    assert summary.exit_status == 0
    assert head.digest == again.digest == summary.head.digest
    assert head.facts.metric.estimate > 0.8
    assert auc(is_red, probability) > 0.8
    assert again.readouts == (("tokens",) if arm.startswith("mem") else ())


def test_slides_are_embedded_as_the_head_expects_and_give_what_the_store_gives(
    scanned: Scanned, head: Path, tmp_path: Path
) -> None:
    by_store = predict_slides([scanned.new_store], head, tmp_path / "store.csv")
    by_slides = predict_slides(
        [scanned.new_slides], head, tmp_path / "slides.csv", PredictSettings(encoder=scanned.encoder)
    )
    embedded = sorted((tmp_path / "slides-store").rglob("n0.h5"))
    times = [path.stat().st_mtime_ns for path in embedded]
    again = predict_slides(
        [scanned.new_slides], head, tmp_path / "slides.csv", PredictSettings(encoder=scanned.encoder)
    )

    assert (tmp_path / "store.csv").read_text() == (tmp_path / "slides.csv").read_text()
    assert [path.stat().st_mtime_ns for path in embedded] == times
    assert len(by_store.predicted) == len(by_slides.predicted) == len(again.predicted) == len(scanned.new_is_red)


@pytest.mark.parametrize("arm", ["mem/tokens/gated-attention"])
def test_a_prediction_does_not_depend_on_the_other_slides(scanned: Scanned, tmp_path: Path, arm: str) -> None:
    head = fit_red(scanned, tmp_path / "head", arm).path
    together = predict_slides([scanned.new_store], head, tmp_path / "together.csv")
    alone = predict_slides(
        [scanned.new_slides / "n3.tif"], head, tmp_path / "alone.csv", PredictSettings(encoder=scanned.encoder)
    )

    assert rows_of(together.out)["n3"] == rows_of(alone.out)["n3"]


def test_an_open_set_is_predicted_as_its_store_is(scanned: Scanned, head: Path, tmp_path: Path) -> None:
    by_path = predict_slides([scanned.new_store], head, tmp_path / "path.csv")
    tiles = open_set(scanned.new_store)
    by_set = predict_slides([tiles], head, tmp_path / "set.csv")
    some = predict_slides([replace(tiles, slides=tiles.slides[1:3])], head, tmp_path / "some.csv")

    assert rows_of(by_set.out) == rows_of(by_path.out)
    assert rows_of(some.out) == {slide: rows_of(by_path.out)[slide] for slide in tiles.slides[1:3]}
    with pytest.raises(ConfigError, match="Predict one at a time"):
        predict_slides([tiles, scanned.new_slides], head, tmp_path / "both.csv")


def test_another_store_with_the_same_ids_gets_no_kept_region_embeddings(scanned: Scanned, tmp_path: Path) -> None:
    head = fit_red(scanned, tmp_path / "head", "mem/cls/mean").path
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "n0.tif").write_bytes((scanned.new_slides / "n1.tif").read_bytes())
    apart = predict_slides([tmp_path / "scans"], head, tmp_path / "apart.csv", PredictSettings(encoder=scanned.encoder))

    first = predict_slides([scanned.new_store], head, tmp_path / "same.csv", store=tmp_path / "kept")
    second = predict_slides([apart.tiles.path], head, tmp_path / "same.csv", store=tmp_path / "kept")

    by_slide = {one.slide: one.probability[1] for one in first.predicted}
    assert [one.probability[1] for one in second.predicted] == [by_slide["n1"]]
    assert by_slide["n0"] != by_slide["n1"]


def test_scores_are_calibrated_on_slides_that_their_probe_had_not_seen(scanned: Scanned, head: Path) -> None:
    """The same cross-validation, run as an evaluation runs it, gives the same calibration."""
    tiles = open_set(scanned.store)
    cohort = read_cohort(scanned.labels, "red", PATIENTS)
    splits = make_splits(cohort, folds=QUICK.folds, repeats=QUICK.repeats, seed=0)
    arms = [arm for arm in table_of_arms([tiles]) if arm.id == "contrast"]
    bags = read_arm_bags(arms, [tiles], cohort.slides, most_instances=1024, seed=0)
    run = cross_validate(arms, bags, cohort, splits, QUICK.probes).runs[0]
    score = np.zeros((QUICK.repeats, len(cohort.slides), 1))
    for fold, prediction in zip(splits.folds(cohort, inner=3, seed=0), run.predictions, strict=True):
        score[fold.repeat, fold.test] = prediction.score

    expected = fit_calibration(cohort.outcome, score, cohort.groups)

    found = load_head(head)
    assert found.calibration.slope == pytest.approx(expected.slope)
    assert found.facts.metric.estimate == pytest.approx(run.interval.estimate)


def test_a_broken_slide_has_a_row_with_the_reason_and_stops_nothing(
    scanned: Scanned, head: Path, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.tif").write_bytes(b"no slide at all")
    (tmp_path / "scans" / "n0.tif").write_bytes((scanned.new_slides / "n0.tif").read_bytes())
    write_pyramid(tmp_path / "scans" / "glass.tif", np.full((264, 404, 3), 245, np.uint8), mpp=0.5, n_levels=2)

    summary = predict_slides([tmp_path / "scans"], head, tmp_path / "out.csv", PredictSettings(encoder=scanned.encoder))

    rows = rows_of(tmp_path / "out.csv")
    assert summary.exit_status == 3
    assert [one.slide for one in summary.failed] == ["broken", "glass"]
    assert rows["broken"]["probability_1"] == rows["glass"]["probability_1"] == ""
    assert "broken.tif" in rows["broken"]["problem"]
    assert "no vector to pool" in rows["glass"]["problem"]
    assert rows["n0"]["problem"] == ""
    assert rows["n0"]["probability_1"] != ""
    assert {row["head"] for row in rows.values()} == {load_head(head).digest}
    # The store remembers what is missing from it.
    by_store = predict_slides([tmp_path / "out-store"], head, tmp_path / "again.csv")
    assert [one.slide for one in by_store.failed] == ["broken", "glass"]


def test_absent_tiles_are_counted_and_another_stain_is_outside(scanned: Scanned, head: Path, tmp_path: Path) -> None:
    picture = draw_slide(np.random.default_rng(9), is_red=True)
    picture[140:224, 280:336] = 245  # a corner of the last region is glass: its coarse tile stays, some fine ones go
    write_pyramid(tmp_path / "scans" / "hole.tif", picture, mpp=0.5, n_levels=3)
    grey = draw_slide(np.random.default_rng(9), is_red=True).mean(axis=2, keepdims=True).repeat(3, axis=2)
    grey = (grey * np.array([1.0, 0.6, 0.6])).astype(np.uint8)
    write_pyramid(tmp_path / "scans" / "strange.tif", grey, mpp=0.5, n_levels=3)

    hole, strange = predict_slides(
        [tmp_path / "scans"], head, tmp_path / "out.csv", PredictSettings(encoder=scanned.encoder)
    ).predicted

    # Six regions of one coarse and sixteen fine tiles each; the store knows how many fine ones are there.
    fine = open_set(tmp_path / "out-store").n_tiles("hole")[0.5]
    assert (hole.n_regions, fine < 96) == (6, True)
    assert hole.absent_share == {"2": 0, "0.5": pytest.approx((96 - fine) / 96)}
    assert hole.absent_overall == pytest.approx((96 - fine) / 102)
    assert strange.is_outside
    row = rows_of(tmp_path / "out.csv")["strange"]
    # Further than all eight patients, who can hold a rate of 1 in 9 and no smaller one.
    assert (row["outside"], row["rank"], row["rank_of"]) == ("1", "1", "9")
    assert float(row["false_alarm_rate"]) == pytest.approx(1 / 9, abs=1e-4)


def test_the_page_says_how_sure_so_many_patients_make(scanned: Scanned, head: Path) -> None:
    facts = load_head(head).facts
    page = (head / "head.html").read_text()

    assert (facts.trained_on.slides, facts.trained_on.patients, facts.calibration.n) == (16, 8, 8)
    assert facts.calibration.least == pytest.approx(1 / 10)
    assert facts.outside.rate == facts.outside.smallest_rate == pytest.approx(1 / 9)
    assert "16 slides of 8 patients" in page
    assert "No probability below 0.1 or above 0.9" in page
    assert "the smallest rate that 8 patients can hold is 0.11, 1 in 9" in page
    assert facts.metric.brier is not None
    assert 1 / 10**2 < facts.metric.brier < 0.25


def test_slides_of_which_nothing_says_whose_they_are_are_called_slides(
    scanned: Scanned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--repeats", "1", "--components", "2"]
    args = [str(scanned.store), "--labels", str(scanned.labels), "--target", "red", "--arm", "2/mean", *few]
    assert main(["fit", *args, "-o", str(tmp_path / "alone")]) == 0
    said = capsys.readouterr()
    assert main(["fit", *args, "--group", "patient", "-o", str(tmp_path / "grouped")]) == 0
    grouped = capsys.readouterr()

    alone, facts = load_head(tmp_path / "alone").facts, (tmp_path / "alone" / "head.json").read_text()
    page = " ".join((tmp_path / "alone" / "head.html").read_text().split())
    assert alone.trained_on.patients is None
    for text in (said.out + said.err, page):
        assert "16 slides, taken as independent" in text
        assert "nothing says which of them come from one patient" in text
    for text in (said.out, facts, page):
        assert not re.search(r"\d+ (groups \()?patients", text)
    assert "16 slides of 8 patients" in grouped.out
    assert "taken as independent" not in grouped.out + grouped.err + (tmp_path / "grouped" / "head.html").read_text()


def test_a_head_of_an_older_parfocal_says_what_it_said_and_that_its_rate_is_not_known(
    scanned: Scanned, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = predict_slides([scanned.new_store], head, tmp_path / "new.csv").predicted
    old = tmp_path / "old"
    old.mkdir()
    arrays = load_file(head / "head.safetensors")
    for name in ("outside.patients", "calibration.weight"):
        del arrays[name]
    (old / "head.safetensors").write_bytes(save(arrays))
    facts = json.loads((head / "head.json").read_text())
    facts["parfocal_head"] = 1
    for place, names in {
        "calibration": ["least"], "outside": ["false_alarms", "rate", "smallest_rate"], "metric": ["brier"],
        "trained_on": ["notes"],
    }.items():  # fmt: skip
        for name in names:
            del facts[place][name]
    facts["arrays_digest"] = hashlib.sha256((old / "head.safetensors").read_bytes()).hexdigest()
    (old / "head.json").write_text(json.dumps(facts))

    assert main(["predict", str(scanned.new_store), "--head", str(old), "-o", str(tmp_path / "old.csv")]) == 0

    for one in new:
        row = rows_of(tmp_path / "old.csv")[one.slide]
        # 1/10 + (1 - 2/10) p is what eight patients make of a probability that knew no bound.
        unbounded = (one.probability[1] - 1 / 10) / (1 - 2 / 10)
        assert float(row["probability_1"]) == pytest.approx(unbounded, abs=1e-5)
        assert (row["rank"], row["rank_of"], row["false_alarm_rate"]) == ("", "", "")
        assert float(row["distance"]) == pytest.approx(one.distance.value, rel=1e-3)
    assert "older parfocal" in capsys.readouterr().err
    assert load_head(old).digest == digest8(facts)  # what is in the file, as that parfocal had it


def test_a_number_comes_with_its_interval(scanned: Scanned, tmp_path: Path) -> None:
    head = fit_red(scanned, tmp_path / "head", "2/mean", "amount")
    summary = predict_slides([scanned.new_store], head.path, tmp_path / "out.csv")

    for one in summary.predicted:
        row = rows_of(summary.out)[one.slide]
        assert float(row["low"]) < float(row["amount"]) < float(row["high"])
    # Red slides have 10 more; nine of ten intervals hold a value, of four slides at least two (p < .004 otherwise).
    held = [one.interval[0] < 10 * scanned.new_is_red[one.slide] < one.interval[1] for one in summary.predicted]  # type: ignore[index]
    assert sum(held) >= 2


def test_a_study_says_itself_what_it_was_about(
    scanned: Scanned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "store": str(scanned.store),
        "labels": {"file": str(scanned.labels), "group": "patient", "targets": ["red", "amount"]},
        "evaluation": {
            "arms": ["2/mean"], "folds": QUICK.folds, "repeats": QUICK.repeats,
            "probes": QUICK.probes.model_dump(mode="json"),
        },
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(content))
    run_study(read_study(tmp_path / "study.yaml"), tmp_path / "made")
    promised = json.loads((tmp_path / "made" / "report" / "results.json").read_text())["targets"]["red"]["arms"]

    fitted = fit_study(tmp_path / "made", "2/mean", tmp_path / "head", target="red")

    by_hand = fit_red(scanned, tmp_path / "by-hand", "2/mean")
    assert fitted.facts.tiles == by_hand.facts.tiles
    assert fitted.calibration.slope == pytest.approx(by_hand.calibration.slope)
    assert [one["value"]["estimate"] for one in promised] == [pytest.approx(fitted.facts.metric.estimate)]
    with pytest.raises(ConfigError, match=r"2 targets \(red, amount\)"):
        fit_study(tmp_path / "made", "2/mean", tmp_path / "head")
    with pytest.raises(ConfigError, match="no target 'msi'"):
        fit_study(tmp_path / "made", "2/mean", tmp_path / "head", target="msi")
    # What is asked for differs from the study, and all else stays as the study has it.
    more = fit_study(tmp_path / "made", "2/mean", tmp_path / "more", FitSettings(repeats=1), target="red")
    assert (more.facts.settings["repeats"], more.facts.settings["probes"]) == (1, fitted.facts.settings["probes"])
    assert more.calibration.slope != fitted.calibration.slope
    assert main(["fit", str(tmp_path / "made"), "--arm", "2/mean", "--group", "case", "-o", "x"]) == 2
    assert "says itself what --group would" in capsys.readouterr().err


def test_results_of_a_plain_evaluation_are_no_study(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"settings": {}}))

    with pytest.raises(StoreError, match="--labels CSV"):
        fit_study(tmp_path, "contrast", tmp_path / "head")


def test_an_unknown_arm_lists_those_that_there_are(scanned: Scanned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no arm 'magic'; these sets allow 2/mean, .*contrast"):
        fit_red(scanned, tmp_path / "head", "magic")
    assert not (tmp_path / "head").exists()


def test_what_a_region_encoder_made_needs_its_tiles_and_its_model(scanned: Scanned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name its store too"):
        fit_head(
            [scanned.regions], scanned.labels, "red", "mem/cls/mean", tmp_path / "head", QUICK, models=[scanned.model]
        )
    with pytest.raises(ConfigError, match="--model FOLDER"):
        fit_head([scanned.store, scanned.regions], scanned.labels, "red", "mem/cls/mean", tmp_path / "head", QUICK)
