"""The arms of a cohort whose ceilings are known: only pairing finds `pairing`, one magnification finds `gland_type`."""

import csv
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.cohort import CohortColumns, Target, make_splits, read_cohort, read_splits
from parfocal.errors import ConfigError, MismatchError, ParfocalWarning
from parfocal.evaluate import EvaluateResult, TargetResult
from parfocal.evaluate.arms import read_arm_bags, table_of_arms
from parfocal.evaluate.fitting import cross_validate
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.evaluate.sources import encodings_per_slide, open_all
from parfocal.heads import ProbeSettings
from parfocal.predict.source import find_arm
from parfocal.report import Reference
from parfocal.store import SlideRegions, SlideTokens, create_set, open_set, write_regions, write_tokens

N_SLIDES, N_FEW, SIDE, DIM = 48, 24, 4, 40
N_REGIONS = SIDE * SIDE
QUICK = EvaluateSettings(
    folds=2,
    repeats=2,
    probes=ProbeSettings(components=(8,), lifted=(), sharpen=False, attention_steps=4, growth=1, inner_folds=2),
)
MEANS = QUICK.model_copy(update={"arms": ("mean",), "folds": 5})
ARMS = ("mean", "gated-attention", "second-moment", "concat", "late", "union", "contrast")
COARSE, FINE = 2.0, 0.5

PATIENTS = CohortColumns(group="patient")


@dataclass(frozen=True, eq=False)
class Written:
    tiles: Path
    regions: Path
    labels: Path


def write_cohort(
    root: Path, *, n_slides: int, seed: int, prefix: str = "case", encoder: str = "x", coarse: str = "derived"
) -> Written:
    """The structure of the demo's cohort in feature space.

    A at 2 mpp and C at 0.5 mpp, each in half of the regions of each gland type: the same regions in positive slides,
    the other ones in negative slides. `gland_type`: a quarter or three quarters of the regions are of one type, which
    both magnifications show. The set of regions holds the product of what shows A and what shows C, as a perfect
    region encoder would. `grade`, `share`, `days` and `died` follow the gland type, with noise.
    """
    shown, rng = np.random.default_rng(0), np.random.default_rng(seed)
    basis = {mpp: np.linalg.qr(shown.standard_normal((DIM, DIM)))[0] for mpp in (COARSE, FINE)}
    spread = 1 / np.sqrt(np.arange(1, DIM + 1))
    tiles = create_set(
        root, "toy-tiles", "tiles", region_um=448.0, dims={COARSE: DIM, FINE: DIM},
        settings={"encoder": "toy", "coarse": coarse},
        encoder_digests={COARSE: encoder, FINE: encoder}, tile_px=224, dtype="float32",
    )  # fmt: skip
    regions = create_set(
        root, "toy-cls", "regions", region_um=448.0, dims=6,
        settings={"model": "oracle", "model_digest": "o", "readout": "cls"},
        encoder_digests={COARSE: encoder, FINE: encoder}, dtype="float32",
    )  # fmt: skip
    offset = np.array([[-168.0, -168.0], [56.0, -168.0], [-56.0, 56.0], [168.0, 168.0]])  # 4 of 16 tiles are there
    columns = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2) * 448.0
    labels = rng.permutation(np.arange(n_slides) % 4)
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
        slide = f"{prefix}-{number:02d}"
        write_tokens(tiles, SlideTokens(slide, 448.0, 0.5, columns, features, region, center))
        vector = rng.standard_normal((N_REGIONS, 6))
        vector[:, 0] += 3.0 * (a == c)
        write_regions(regions, SlideRegions(slide, 448.0, 0.5, columns, vector.astype(np.float32)))
        level = solid + 0.3 * rng.standard_normal()
        rows.append(
            [slide, f"{prefix}-patient-{number:02d}", int(pairing), "solid" if solid else "tubular",
             ("low", "mid", "high")[int(np.searchsorted([0.2, 0.8], level))], f"{level:.4f}",
             f"{100 * np.exp(-level):.3f}", int(rng.random() < 0.7), f"site-{number % 4}", "ab"[number % 2]]
        )  # fmt: skip
    header = ["slide", "patient", "pairing", "gland_type", "grade", "share", "days", "died", "site", "scanner"]
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return Written(tiles, regions, root / "labels.csv")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_cohort(tmp_path_factory.mktemp("cohort"), n_slides=N_SLIDES, seed=0)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Half as many slides, where it is not asked how good an arm is."""
    return write_cohort(tmp_path_factory.mktemp("few"), n_slides=N_FEW, seed=0)


@pytest.fixture(scope="module")
def result(cohort: Written, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    return evaluate_arms(
        [cohort.tiles, cohort.regions],
        cohort.labels,
        ["pairing", "gland_type"],
        tmp_path_factory.mktemp("report"),
        QUICK.model_copy(update={"arms": ARMS}),
        columns=PATIENTS,
        references={
            "pairing": {"single": [Reference(0.5, "by theorem")], "late": [Reference(0.93, "re-paired", False)]}
        },
    )


def test_no_single_magnification_knows_the_pairing_and_contrast_does(result: EvaluateResult) -> None:
    runs = result.targets["pairing"].runs
    singles = [run for run in runs if run.arm.kind == "single"]

    assert len(singles) == 6  # two magnifications, three poolings
    assert all(0.5 in run.interval for run in singles), [(run.arm.label, run.interval) for run in singles]
    assert all(0.5 in run.interval for run in runs if run.arm.kind == "late")
    contrast = next(run for run in runs if run.arm.pooling == "cross-scale contrast")
    assert contrast.interval.estimate > 0.9
    assert contrast.against_best_single is not None
    assert contrast.against_best_single.p_value < 0.01


def test_the_region_encoder_that_knows_the_pairing_is_found(result: EvaluateResult) -> None:
    mixed = {run.arm.label: run for run in result.targets["pairing"].runs if run.arm.family == "Region encoder oracle"}

    assert mixed["CLS of regions: mean, linear model"].interval.estimate > 0.9


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
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        assert row["pooling"] in page
    assert "0.93" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_the_same_splits_and_seed_give_the_same_numbers(
    cohort: Written, result: EvaluateResult, tmp_path: Path
) -> None:
    again = evaluate_arms(
        [cohort.regions], cohort.labels, ["pairing"], tmp_path, QUICK.model_copy(update={"arms_at_a_time": 1}),
        columns=PATIENTS, splits=result.out / "splits.csv",
    )  # fmt: skip

    before = {run.arm.label: run for run in result.targets["pairing"].runs}
    assert (read_splits(tmp_path / "splits.csv")["pairing"].fold == result.targets["pairing"].splits.fold).all()
    for run in again.targets["pairing"].runs:
        np.testing.assert_allclose(run.fold_value, before[run.arm.label].fold_value)


def test_labels_of_a_test_fold_reach_no_arm(few: Written) -> None:
    sets = [open_set(few.tiles)]
    labels = read_cohort(few.labels, "gland_type", PATIENTS)
    splits = make_splits(labels, folds=2, repeats=1)
    arms = table_of_arms(sets)
    bags = read_arm_bags(arms, sets, labels.slides, most_instances=1024, seed=0)
    settings = ProbeSettings(
        components=(8,), lifted=(2,), attention_steps=4, mlp_steps=4, bilinear_steps=4, growth=1, inner_folds=2
    )
    tested = splits.fold[0] == 0
    value = np.where(tested, 1 - labels.outcome.value, labels.outcome.value)
    flipped = replace(labels, outcome=replace(labels.outcome, value=value))

    before = cross_validate(arms, bags, labels, splits, settings)
    after = cross_validate(arms, bags, flipped, splits, settings)

    for one, other in zip(before.runs, after.runs, strict=True):
        np.testing.assert_array_equal(one.predictions[0].score, other.predictions[0].score)
        # The twin: the other fold has learnt from these labels.
        assert (one.predictions[1].score != other.predictions[1].score).any()


def test_folds_of_one_class_are_left_out_and_counted(cohort: Written, tmp_path: Path) -> None:
    rare = tmp_path / "labels.csv"
    slides = open_set(cohort.regions).slides
    rare.write_text("slide,rare\n" + "".join(f"{slide},{int(n < 4)}\n" for n, slide in enumerate(slides)))

    with pytest.warns(ParfocalWarning, match="2 of 10 folds of 'rare' test one class only"):
        found = evaluate_arms([cohort.regions], rare, ["rare"], tmp_path / "out", MEANS)

    run = found.targets["rare"].runs[0]
    assert np.isnan(run.fold_value).sum() == 2
    assert math.isfinite(run.interval.estimate)
    assert "2 of 10 folds" in found.report.read_text()


def test_slides_without_a_label_are_left_out_and_said(cohort: Written, tmp_path: Path) -> None:
    lines = cohort.labels.read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join([*lines[:-2], "elsewhere,p,1,solid" + "," * 6]))

    with pytest.warns(ParfocalWarning) as said:
        found = evaluate_arms([cohort.regions], tmp_path / "labels.csv", ["pairing"], tmp_path / "out", MEANS)

    texts = [str(one.message) for one in said]
    assert any("1 slides with a label have no embeddings in toy-cls: elsewhere" in text for text in texts)
    assert any("2 slides in toy-cls have no label" in text for text in texts)
    assert len(found.targets["pairing"].cohort.slides) == N_SLIDES - 2


def test_an_arm_by_request_is_fitted_where_it_is_named(
    few: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parfocal.heads.abmil._EPOCHS", 2)
    named = MEANS.model_copy(update={"arms": ("0.5/abmil", "0.5/mean"), "folds": 2, "repeats": 1, "arms_at_a_time": 1})

    found = evaluate_arms([few.tiles], few.labels, ["gland_type"], tmp_path / "out", named, columns=PATIENTS)
    chosen, _ = find_arm([open_set(few.tiles)], [], "0.5/abmil")  # as `fit` asks for it

    assert [run.arm.id for run in found.targets["gland_type"].runs] == ["0.5/mean", "0.5/abmil"]
    assert chosen.id == "0.5/abmil"


def test_one_set_needs_no_list(cohort: Written) -> None:
    for given in (cohort.tiles, [cohort.tiles], open_set(cohort.tiles)):
        assert [one.path for one in open_all(given)] == [cohort.tiles]


def test_nothing_to_evaluate_is_one_line(cohort: Written, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one store"):
        evaluate_arms([], cohort.labels, ["pairing"], tmp_path)
    with pytest.raises(ConfigError, match="no column 'stage'"):
        evaluate_arms([cohort.regions], cohort.labels, ["stage"], tmp_path)


def test_splits_of_another_target_are_not_replaced_by_new_ones(
    cohort: Written, result: EvaluateResult, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"deals no folds for grade; it does for pairing, gland_type"):
        evaluate_arms([cohort.regions], cohort.labels, ["grade"], tmp_path, splits=result.out / "splits.csv")


@pytest.mark.parametrize(
    ("target", "kind", "event", "order", "least"),
    [
        ("grade", "multiclass", None, (), 0.6),
        ("grade", "ordinal", None, ("low", "mid", "high"), 0.7),
        ("share", "continuous", None, (), 0.7),
        ("days", "survival", "died", (), 0.65),
    ],
)
def test_every_kind_of_target_goes_the_same_way(
    cohort: Written, tmp_path: Path, target: str, kind: str, event: str | None, order: tuple[str, ...], least: float
) -> None:
    asked = Target(name=target, event=event, order=order)
    probes = QUICK.probes.model_copy(update={"inner_folds": 3})
    arms = ("2/mean", "0.5/mean", "concat")
    settings = QUICK.model_copy(update={"arms": arms, "folds": 4, "repeats": 1, "probes": probes})

    result = evaluate_arms([cohort.tiles], cohort.labels, [asked], tmp_path, settings, columns=PATIENTS).targets[target]

    assert result.cohort.outcome.kind == kind
    for run in result.runs:
        assert run.interval.estimate > least, (run.arm.label, run.interval)
        assert run.predictions[0].score.shape == (len(result.folds[0].test), len(result.cohort.outcome.columns))


def test_a_test_cohort_is_scored_by_fits_on_all_training_slides(
    cohort: Written, result: EvaluateResult, tmp_path: Path
) -> None:
    other = write_cohort(tmp_path / "elsewhere", n_slides=24, seed=5, prefix="other")
    settings = QUICK.model_copy(update={"arms": ("2/mean", "contrast"), "folds": 2, "repeats": 1})

    def run(test: Written) -> EvaluateResult:
        return evaluate_arms(
            [cohort.tiles], cohort.labels, ["pairing"], tmp_path / "out", settings,
            columns=PATIENTS, test=[test.tiles], test_labels=test.labels,
        )  # fmt: skip

    found = run(other).targets["pairing"]

    single, contrast = found.runs
    assert found.external_cohort is not None
    assert len(found.external_cohort.slides) == 24
    assert single.external is not None
    assert contrast.external is not None
    assert 0.5 in single.external.interval
    assert contrast.external.interval.estimate > 0.9
    with pytest.raises(MismatchError, match=r"its tile encoder is .*, that of the training cohort"):
        run(write_cohort(tmp_path / "encoder", n_slides=4, seed=6, prefix="third", encoder="y"))
    with pytest.raises(MismatchError, match="coarse tiles are native, those of the training cohort derived"):
        run(write_cohort(tmp_path / "native", n_slides=4, seed=6, prefix="fourth", coarse="native"))
    with pytest.raises(ConfigError, match="48 slides of the test cohort are in the training cohort too: case-00"):
        run(cohort)
    with pytest.raises(MismatchError, match="no set like toy-tiles; it has oracle, cls"):
        run(replace(other, tiles=other.regions))
    with pytest.raises(ConfigError, match="name both"):
        evaluate_arms([cohort.tiles], cohort.labels, ["pairing"], tmp_path, test=[other.tiles])


def test_seeds_of_a_network_are_averaged_and_their_spread_is_told_apart(few: Written, tmp_path: Path) -> None:
    def run(seeds: int, seed: int = 0) -> TargetResult:
        probes = QUICK.probes.model_copy(update={"attention_steps": 4, "seed": seed})
        settings = QUICK.model_copy(
            update={"arms": ("late", "2/mean"), "folds": 2, "repeats": 1, "seeds": seeds, "probes": probes}
        )
        return evaluate_arms(
            [few.tiles], few.labels, ["gland_type"], tmp_path, settings, columns=PATIENTS, keep=tmp_path / "keep"
        ).targets["gland_type"]

    one, two = run(1), run(2)

    assert [run.arm.method for run in two.runs] == ["mean", "gated-attention", "gated-attention", "late"]
    assert [run.seed_sd is None for run in two.runs] == [True, False, False, False]
    assert all(run.seed_sd is None for run in one.runs)
    np.testing.assert_array_equal(one.runs[0].predictions[0].score, two.runs[0].predictions[0].score)
    assert (one.runs[1].predictions[0].score != two.runs[1].predictions[0].score).any()
    branches = [two.runs[place].predictions[0].score for place in (1, 2)]
    np.testing.assert_allclose(two.runs[3].predictions[0].score, np.mean(branches, axis=0))
    # Finished fits are kept: one of the mean, and two seeds of each attention.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "keep").iterdir()}
    assert len(kept) == 5
    again = run(2)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "keep").iterdir()} == kept
    np.testing.assert_array_equal(again.runs[3].predictions[0].score, two.runs[3].predictions[0].score)


def test_sites_are_left_out_one_by_one_and_results_shown_by_a_column(few: Written, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"arms": ("2/mean",), "scheme": "leave-one-site-out"})

    found = evaluate_arms(
        [few.tiles], few.labels, ["gland_type"], tmp_path, settings,
        columns=CohortColumns(group="patient", site="site", by=("scanner",)),
    ).targets["gland_type"]  # fmt: skip

    sites = found.cohort.sites
    assert sites is not None
    assert [{sites[slide] for slide in fold.test} for fold in found.folds] == [{f"site-{n}"} for n in range(4)]
    assert [(one.column, one.value, one.slides) for one in found.subgroups] == [
        ("scanner", "a", N_FEW // 2),
        ("scanner", "b", N_FEW // 2),
    ]
    assert [run.encodings_per_slide for run in found.runs] == [float(N_REGIONS)]


def test_a_patient_counts_once_however_many_slides_there_are(few: Written, tmp_path: Path) -> None:
    lines = [line.split(",") for line in few.labels.read_text().splitlines()]
    doubled = tmp_path / "labels.csv"
    solid = sorted(row[0] for row in lines[1:] if row[3] == "solid")
    tubular = sorted(row[0] for row in lines[1:] if row[3] == "tubular")
    rows = [
        (slide, f"{name}-{n // 2}", name) for name, of in (("s", solid), ("t", tubular)) for n, slide in enumerate(of)
    ]
    doubled.write_text("slide,patient,t\n" + "".join(",".join(row) + "\n" for row in rows))
    settings = QUICK.model_copy(update={"arms": ("2/mean",), "repeats": 1})

    found = evaluate_arms([few.tiles], doubled, ["t"], tmp_path / "out", settings, columns=PATIENTS).targets["t"]

    assert found.notes[0].startswith("24 slides come from 12 groups (patients): scores of a group's slides")
    fold, score = found.folds[0], found.runs[0].predictions[0].score[:, 0]
    joined = {
        patient: score[[found.cohort.groups[slide] == patient for slide in fold.test]].mean()
        for patient in {found.cohort.groups[slide] for slide in fold.test}
    }
    positive = [value for patient, value in joined.items() if patient.startswith("t")]
    negative = [value for patient, value in joined.items() if patient.startswith("s")]
    by_hand = np.mean([(a > b) + 0.5 * (a == b) for a in positive for b in negative])
    assert found.runs[0].fold_value[0] == pytest.approx(by_hand)


def test_an_arm_costs_the_tiles_that_must_be_embedded_for_it(few: Written) -> None:
    tiles, regions = open_set(few.tiles), open_set(few.regions)
    arms = table_of_arms([tiles, regions])

    found = dict(zip([arm.id for arm in arms], encodings_per_slide([tiles, regions], arms, tiles.slides), strict=True))

    coarse, fine = float(N_REGIONS), 4.0 * N_REGIONS
    assert (found["2/mean"], found["0.5/gated-attention"]) == (coarse, fine)
    assert {found[name] for name in ("pseudo-coarse", "pseudo-contrast")} == {fine}  # coarse tiles are not read
    assert {found[name] for name in ("concat", "parents", "contrast", "oracle/cls/mean")} == {coarse + fine}
    alone = table_of_arms([regions])
    assert encodings_per_slide([regions], alone, regions.slides) == [None] * len(alone)
