"""The arms of a cohort whose ceilings are known: only pairing finds `pairing`, one magnification finds `gland_type`."""

import csv
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import read_bags
from parfocal.cohort import make_splits, read_cohort, read_splits
from parfocal.embeddings import SlideRegions, SlideTokens, create_set, open_set, write_regions, write_tokens
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.probes import ProbeSettings
from parfocal.report import Reference
from parfocal.studies.arms import table_of_arms
from parfocal.studies.evaluate import EvaluateSettings, cross_validate, evaluate
from parfocal.studies.evaluation import EvaluateResult

N_SLIDES, SIDE, DIM = 48, 4, 40
N_REGIONS = SIDE * SIDE
QUICK = EvaluateSettings(repeats=2, probes=ProbeSettings(components=(8, 16), attention_steps=12, inner_folds=4))
COARSE, FINE = 2.0, 0.5


@dataclass(frozen=True, eq=False)
class Written:
    tiles: Path
    regions: Path
    labels: Path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The structure of the demo's cohort in feature space.

    A at 2 mpp and C at 0.5 mpp, each in half of the regions of each gland type: the same regions in positive slides,
    the other ones in negative slides. `gland_type`: a quarter or three quarters of the regions are of one type, which
    both magnifications show. The set of regions holds the product of what shows A and what shows C, as a perfect
    region encoder would.
    """
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    basis = {mpp: np.linalg.qr(rng.standard_normal((DIM, DIM)))[0] for mpp in (COARSE, FINE)}
    spread = 1 / np.sqrt(np.arange(1, DIM + 1))
    tiles = create_set(
        root, "toy-tiles", "tiles", region_um=448.0, dims={COARSE: DIM, FINE: DIM}, settings={"encoder": "toy"},
        encoder_digests={COARSE: "x", FINE: "x"}, tile_px=224, dtype="float32",
    )  # fmt: skip
    regions = create_set(
        root, "toy-cls", "regions", region_um=448.0, dims=6, settings={"model": "oracle", "readout": "cls"},
        encoder_digests={COARSE: "x", FINE: "x"}, dtype="float32",
    )  # fmt: skip
    offset = np.array([[-168.0, -168.0], [56.0, -168.0], [-56.0, 56.0], [168.0, 168.0]])  # 4 of 16 tiles are there
    columns = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2) * 448.0
    labels = rng.permutation(np.arange(N_SLIDES) % 4)
    rows = []
    for number, both in enumerate(labels):
        pairing, solid = bool(both % 2), bool(both // 2)
        kind = rng.permutation(np.arange(N_REGIONS) < (12 if solid else 4))
        a, c = np.zeros(N_REGIONS, dtype=bool), np.zeros(N_REGIONS, dtype=bool)
        for one in (False, True):
            own = rng.permutation(np.flatnonzero(kind == one))
            half = len(own) // 2
            a[own[:half]] = True
            c[own[:half] if pairing else own[half:]] = True
        stain = rng.standard_normal(2)
        features, region, center = {}, {}, {}
        for mpp, per, factor in ((COARSE, 1, a), (FINE, 4, c)):
            z = rng.standard_normal((N_REGIONS, per, DIM))
            z[..., :2] += stain
            z[..., 3] += 3.0 * kind[:, None]
            z[..., 5] += 3.0 * factor[:, None]
            features[mpp] = ((z * spread) @ basis[mpp].T + 2).reshape(-1, DIM).astype(np.float32)
            region[mpp] = np.repeat(np.arange(N_REGIONS), per).astype(np.int32)
            center[mpp] = np.tile(offset if per == 4 else np.zeros((1, 2)), (N_REGIONS, 1)).astype(np.float32)
        slide = f"case-{number:02d}"
        write_tokens(tiles, SlideTokens(slide, 448.0, 0.5, columns, features, region, center))
        vector = rng.standard_normal((N_REGIONS, 6))
        vector[:, 0] += 3.0 * (a == c)
        write_regions(regions, SlideRegions(slide, 448.0, 0.5, columns, vector.astype(np.float32)))
        rows.append([slide, f"patient-{number:02d}", int(pairing), "solid" if solid else "tubular"])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["slide", "patient", "pairing", "gland_type"], *rows])
    return Written(tiles, regions, root / "labels.csv")


@pytest.fixture(scope="module")
def result(cohort: Written, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    return evaluate(
        [cohort.tiles, cohort.regions],
        cohort.labels,
        ["pairing", "gland_type"],
        tmp_path_factory.mktemp("report"),
        QUICK,
        group="patient",
        references={
            "pairing": {"single": [Reference(0.5, "by theorem")], "late": [Reference(0.93, "re-paired", False)]}
        },
    )


def test_no_single_magnification_knows_the_pairing_and_contrast_does(result: EvaluateResult) -> None:
    runs = result.targets["pairing"].runs
    singles = [run for run in runs if run.arm.kind == "single"]

    assert len(singles) == 6
    assert all(0.5 in run.interval for run in singles), [(run.arm.label, run.interval) for run in singles]
    assert all(0.5 in run.interval for run in runs if run.arm.kind == "late")
    contrast = next(run for run in runs if run.arm.pooling == "cross-scale contrast")
    assert contrast.interval.estimate > 0.9
    assert contrast.against_best_single is not None
    assert contrast.against_best_single.p_value < 0.01


def test_the_region_encoder_that_knows_the_pairing_is_found(result: EvaluateResult) -> None:
    mixed = {run.arm.label: run for run in result.targets["pairing"].runs if run.arm.family == "Region encoder oracle"}

    assert mixed["CLS of regions: mean, logistic regression"].interval.estimate > 0.9


def test_one_magnification_is_as_good_as_the_mix_for_the_gland_type(result: EvaluateResult) -> None:
    target = result.targets["gland_type"]
    assert target.best_single is not None
    best = target.runs[target.best_single]

    assert best.interval.estimate > 0.9
    for run in target.runs:
        if run.against_best_single is not None:
            assert run.against_best_single.difference.estimate < 0.02


def test_files_say_what_was_found(result: EvaluateResult) -> None:
    with (result.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (result.out / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    content = json.loads((result.out / "results.json").read_text())
    page = result.report.read_text()

    assert len(rows) == 2 * len(result.targets["pairing"].runs)
    # Every slide once in each repeat, for every arm and target.
    assert len(predictions) == len(rows) * N_SLIDES * QUICK.repeats
    assert content["settings"]["probes"]["seed"] == 0
    assert content["targets"]["gland_type"]["positive"] == "tubular"
    assert content["targets"]["pairing"]["references"]["late"][0]["value"] == 0.93
    assert set(content["inputs"]) == {"toy-tiles", "oracle, cls", "labels.csv"}
    for row in rows:
        assert float(row["low"]) <= float(row["auc"]) <= float(row["high"])
        assert row["pooling"] in page
    assert "0.93" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_the_same_splits_and_seed_give_the_same_numbers(
    cohort: Written, result: EvaluateResult, tmp_path: Path
) -> None:
    again = evaluate(
        [cohort.regions], cohort.labels, ["pairing"], tmp_path, QUICK.model_copy(update={"arms_at_a_time": 1}),
        group="patient", splits=result.out / "splits.csv",
    )  # fmt: skip

    before = {run.arm.label: run for run in result.targets["pairing"].runs}
    assert (read_splits(tmp_path / "splits.csv")["pairing"].fold == result.targets["pairing"].splits.fold).all()
    for run in again.targets["pairing"].runs:
        np.testing.assert_allclose(run.fold_auc, before[run.arm.label].fold_auc)


def test_labels_of_a_test_fold_reach_no_arm(cohort: Written) -> None:
    sets = [open_set(cohort.tiles)]
    labels = read_cohort(cohort.labels, "pairing", group="patient")
    splits = make_splits(labels, folds=4, repeats=1)
    bags = {(0, bag.name): bag for bag in read_bags(sets[0], labels.slides)}
    arms = [arm for arm in table_of_arms(sets) if arm.pool is not None]
    settings = ProbeSettings(components=(8,), attention_steps=4, inner_folds=3)
    tested = splits.fold[0] == 0
    flipped = replace(labels, is_positive=np.where(tested, ~labels.is_positive, labels.is_positive))

    before = cross_validate(arms, bags, labels, splits, settings)
    after = cross_validate(arms, bags, flipped, splits, settings)

    for one, other in zip(before.runs, after.runs, strict=True):
        np.testing.assert_array_equal(one.predictions[0].logit, other.predictions[0].logit)
        # The twin: the other folds have learnt from these labels.
        assert (one.predictions[1].logit != other.predictions[1].logit).any()


def test_folds_of_one_class_are_left_out_and_counted(cohort: Written, tmp_path: Path) -> None:
    rare = tmp_path / "labels.csv"
    slides = open_set(cohort.regions).slides
    rare.write_text("slide,rare\n" + "".join(f"{slide},{int(n < 4)}\n" for n, slide in enumerate(slides)))

    with pytest.warns(ParfocalWarning, match="2 of 10 folds of 'rare' test one class only"):
        found = evaluate([cohort.regions], rare, ["rare"], tmp_path / "out", QUICK)

    run = found.targets["rare"].runs[0]
    assert np.isnan(run.fold_auc).sum() == 2
    assert math.isfinite(run.interval.estimate)
    assert "2 of 10 folds" in found.report.read_text()


def test_slides_without_a_label_are_left_out_and_said(cohort: Written, tmp_path: Path) -> None:
    lines = cohort.labels.read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join([*lines[:-2], "elsewhere,p,1,solid"]))

    with pytest.warns(ParfocalWarning) as said:
        found = evaluate([cohort.regions], tmp_path / "labels.csv", ["pairing"], tmp_path / "out", QUICK)

    texts = [str(one.message) for one in said]
    assert any("1 slides with a label have no embeddings in toy-cls: elsewhere" in text for text in texts)
    assert any("2 slides in toy-cls have no label" in text for text in texts)
    assert len(found.targets["pairing"].cohort.slides) == N_SLIDES - 2


def test_nothing_to_evaluate_is_one_line(cohort: Written, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one store"):
        evaluate([], cohort.labels, ["pairing"], tmp_path)
    with pytest.raises(ConfigError, match="no column 'stage'"):
        evaluate([cohort.regions], cohort.labels, ["stage"], tmp_path)
