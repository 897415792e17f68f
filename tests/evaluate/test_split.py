"""Cohorts whose gain is known to be context or magnification, and what an evaluation says of them first."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.cohort import CohortColumns
from parfocal.evaluate import EvaluateResult
from parfocal.evaluate.page_split import split_sentences
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.evaluate.split import SplitGain
from parfocal.heads import ProbeSettings
from parfocal.stats import Interval
from parfocal.store import SlideTokens, create_set, write_tokens

WORLDS = ("areas", "coarse", "pairing", "spread")
N_SLIDES, N_REGIONS, DIM, MPPS = 40, 12, 6, (2.0, 0.5)
QUICK = EvaluateSettings(
    folds=3,
    repeats=1,
    arms=("split",),
    probes=ProbeSettings(components=(4,), lifted=(), sharpen=False, inner_folds=3),
)


def write_worlds(root: Path) -> tuple[Path, Path]:
    """Four labels, each of which one thing tells; a region has one coarse tile and four fine ones.

    `areas`: the fine tiles of a region are of one kind, or of both; each kind is half of the tiles in every slide.
    `coarse`: coarse tiles are shifted. `pairing`: fine tiles and the coarse one of a region are shifted together, or
    one without the other; each of them is in half of the regions of every slide. `spread`: single fine tiles lie
    further from their mean.
    """
    path = create_set(
        root, "toy", "tiles", region_um=448.0, dims=dict.fromkeys(MPPS, DIM), settings={"encoder": "toy"},
        encoder_digests=dict.fromkeys(MPPS, "toy"), tile_px=224, dtype="float32",
    )  # fmt: skip
    rng = np.random.default_rng(5)
    corners = np.array([[-168.0, -168.0], [56.0, -168.0], [-56.0, 56.0], [168.0, 168.0]])
    center = {2.0: np.zeros((N_REGIONS, 2), np.float32), 0.5: np.tile(corners, (N_REGIONS, 1)).astype(np.float32)}
    region = {2.0: np.arange(N_REGIONS, dtype=np.int32), 0.5: np.repeat(np.arange(N_REGIONS), 4).astype(np.int32)}
    xy_um = np.stack([np.arange(N_REGIONS) * 448.0, np.zeros(N_REGIONS)], axis=1)
    rows = [["slide", "patient", *WORLDS]]
    for number in range(N_SLIDES):
        areas, coarse, pairing, spread = labels = rng.integers(0, 2, 4)
        coarse_rows, fine_rows = rng.standard_normal((N_REGIONS, DIM)), rng.standard_normal((N_REGIONS, 4, DIM))
        half = rng.permutation(N_REGIONS) < N_REGIONS // 2
        kind = (
            np.repeat(half[:, None], 4, axis=1)
            if areas
            else rng.permuted(np.tile([0, 0, 1, 1], (N_REGIONS, 1)), axis=1)
        )
        fine_rows[:, :, 0] += 6.0 * kind
        coarse_rows[:, 1] += 3.0 * coarse
        a = rng.permutation(N_REGIONS) < N_REGIONS // 2
        c = a if pairing else ~a
        coarse_rows[:, 2] += 5.0 * a
        fine_rows[:, :, 2] += 5.0 * c[:, None]
        fine_rows[:, :, 3] *= 2.5 if spread else 1.0
        features = {2.0: coarse_rows.astype(np.float32), 0.5: fine_rows.reshape(-1, DIM).astype(np.float32)}
        write_tokens(path, SlideTokens(f"s{number:02d}", 448.0, 0.25, xy_um, features, region, center))
        rows.append([f"s{number:02d}", f"p{number:02d}", *map(str, labels)])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path, root / "labels.csv"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_worlds(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="module")
def result(worlds: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    store, labels = worlds
    out = tmp_path_factory.mktemp("report")
    return evaluate_arms([store], labels, WORLDS, out, QUICK, columns=CohortColumns(group="patient"))


def gain_of(result: EvaluateResult, target: str) -> SplitGain:
    (gain,) = result.targets[target].gains.values()
    return gain


def test_what_the_arrangement_of_fine_tiles_tells_is_context(result: EvaluateResult) -> None:
    gain = gain_of(result, "areas")

    assert gain.alone < 0.75  # unordered tiles are alike in both classes
    assert gain.context.low > 0.1
    assert 0.5 in gain.context  # from knowing nothing to knowing all
    assert gain.everything > 0.9
    assert 0.0 in gain.magnification


@pytest.mark.parametrize("target", ["coarse", "pairing"])
def test_what_coarse_tiles_alone_or_with_fine_ones_tell_is_magnification(result: EvaluateResult, target: str) -> None:
    gain = gain_of(result, target)

    assert gain.alone < 0.75
    assert gain.magnification.low > 0.1
    assert 0.5 in gain.magnification
    assert gain.everything > 0.9
    assert 0.0 in gain.context


def test_what_single_tiles_tell_by_their_spread_is_neither(result: EvaluateResult) -> None:
    gain = gain_of(result, "spread")

    assert gain.alone > 0.9
    assert 0.0 in gain.context
    assert 0.0 in gain.magnification


def test_the_parts_add_up_to_the_whole(result: EvaluateResult) -> None:
    for target in WORLDS:
        gain = gain_of(result, target)
        parts = gain.context.estimate + gain.magnification.estimate
        assert gain.whole.estimate == pytest.approx(parts) == pytest.approx(gain.everything - gain.alone)


def test_pairs_with_tiles_of_other_regions_know_what_coarse_tiles_show_and_not_what_pairing_shows(
    result: EvaluateResult,
) -> None:
    def value(target: str) -> float:
        runs = {run.arm.id: run for run in result.targets[target].runs}
        return runs["split/elsewhere"].interval.estimate

    assert value("coarse") > 0.9
    assert value("pairing") < 0.75


def test_the_answer_stands_first_on_the_page_and_in_the_file(result: EvaluateResult) -> None:
    """Of four targets it is the mean of their gains; of one, the target's own."""
    (sentence,) = result.sentences
    mean = np.mean([gain_of(result, target).context.estimate for target in WORLDS])
    assert sentence.startswith("4 targets: Against the finest magnification alone (mean 0.")
    assert f"Of this +{mean:.3f} is context" in sentence  # four targets have no interval over them
    assert json.loads((result.out / "results.json").read_text())["sentences"] == [sentence]
    page = result.report.read_text()
    assert f"in a linear readout context brings +{mean:.2f} and magnification +0." in result.answer
    assert page.index(result.answer) < page.index("Mean of 4 targets") < page.index("Is a label predicted better")
    assert page.index("Is a label predicted better") < page.index("Against the finest magnification alone")

    (own,) = split_sentences({"areas": result.targets["areas"]})
    gain = gain_of(result, "areas")
    assert own.startswith(f"areas: Against the finest magnification alone (AUC {gain.alone:.3f})")
    assert "Context helps in this data. 40 patients do not show whether magnification helps." in own


def test_nothing_is_said_where_the_arms_are_not_there(worlds: tuple[Path, Path], tmp_path: Path) -> None:
    store, labels = worlds
    columns = CohortColumns(group="patient")
    few = QUICK.model_copy(update={"arms": ("0.5/mean", "split/context")})

    found = evaluate_arms([store], labels, ["coarse"], tmp_path / "few", few, columns=columns)

    assert (found.sentences, dict(found.targets["coarse"].gains)) == ((), {})
    assert "context and coarser magnifications" not in found.report.read_text()


def test_verdicts_follow_the_intervals() -> None:
    better, open_, worse = (Interval(x, x - 0.1, x + 0.1, 0.95, "") for x in (0.2, 0.0, -0.2))
    gain = SplitGain(0.5, 0.7, better, worse, better)

    def verdict(one: SplitGain) -> str:
        return one.sentences("fine", "AUC", "x", "y", "7 patients")[1]

    assert verdict(gain) == "Context costs in this data. Magnification helps in this data."
    assert verdict(replace(gain, context=open_)).startswith("7 patients do not show whether context helps.")


def test_a_split_of_several_sets_names_them(result: EvaluateResult) -> None:
    areas = result.targets["areas"]
    (gain,) = areas.gains.values()
    both = replace(areas, gains={"one": gain, "other": gain})

    said = split_sentences({"areas": both})

    assert [text.split(":")[0] for text in said] == ["one, areas", "other, areas"]
