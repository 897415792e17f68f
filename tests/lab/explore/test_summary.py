import math
from typing import Any

import pytest

from parfocal.lab.explore.design import Cell, Design, controls_of, plan_cells, references_of
from parfocal.lab.explore.page import exploration_page
from parfocal.lab.explore.summary import AUC, R2, Exploration, Gain, Spread, summarise

MEAN = "mean, linear model"


def result(seed: int, r2: float, auc: float | None = None, label: str = f"cls of regions: {MEAN}") -> dict[str, Any]:
    scores: dict[str, Any] = {"seed": seed, "r2": {"random": {"2": r2 + 0.1}, "whole": {"2": r2 - 0.1}}}
    return (
        scores
        | {"parameters": 10, "training_seconds": 2.0}
        | ({} if auc is None else {"auc": {label: {"auc": auc, "low": auc - 0.02, "high": auc + 0.02}}})
    )


def summary_of(design: Design, r2: dict[str, list[float]], auc: dict[str, list[float]] | None = None) -> Exploration:
    plan = plan_cells(design)
    cells = (*plan.cells, *controls_of(plan.cells), *references_of(plan.cells))
    results: list[tuple[Cell, dict[str, Any]]] = []
    for cell in cells:
        for seed, value in enumerate(r2.get(cell.name, [])):
            label = f"20x (0.5 mpp): {MEAN}" if cell.kind == "tiles" else f"cls of regions: {MEAN}"
            results.append((cell, result(seed, value, auc[cell.name][seed] if auc else None, label)))
    return summarise(plan, design, results, rank_by="r2")


DESIGN = Design(axes={"objective": ["mem", "cmem"], "trunk": ["shared", "separate"]})


def test_cells_are_ranked_by_their_mean_with_the_places_of_single_seeds() -> None:
    found = summary_of(DESIGN, {"base": [0.5, 0.2], "objective=cmem": [0.4, 0.4], "trunk=separate": [0.1, 0.1]})

    assert [one.cell.name for one in found.cells] == ["objective=cmem", "base", "trunk=separate"]
    assert [one.rank[R2] for one in found.cells] == [(1, 1, 2), (2, 1, 2), (3, 3, 3)]
    # The plain mean over patterns; the sd by hand.
    assert found.cells[1].r2.mean == pytest.approx(0.35)
    assert found.cells[1].r2.sd == pytest.approx(0.3 / math.sqrt(2))


def test_effects_are_paired_by_seed_and_average_a_grid() -> None:
    design = DESIGN.model_copy(update={"mode": "grid"})
    found = summary_of(
        design,
        {
            "base": [0.1, 0.2],
            "objective=cmem": [0.2, 0.3],
            "trunk=separate": [0.4, 0.5],
            "objective=cmem, trunk=separate": [0.7, 0.8],
        },
    )

    effects = {(one.axis, one.level): one for one in found.effects}
    cmem = effects["objective", "cmem"]
    assert cmem.n_pairs == 2
    assert cmem.r2.by_seed == pytest.approx({0: 0.2, 1: 0.2})
    assert effects["trunk", "separate"].r2.mean == pytest.approx(0.4)


def test_cells_with_other_regions_have_no_rank_by_r2_but_one_by_auc() -> None:
    design = Design(axes={"region_um": [448, 896]})
    values = {"base": [0.1, 0.1], "region_um=896": [0.9, 0.9]}
    found = summary_of(design, values, {"base": [0.6, 0.6], "region_um=896": [0.7, 0.7]})

    assert found.best.cell.name == "base"
    larger = found.cells[1]
    assert R2 not in larger.rank
    assert larger.rank[AUC][0] == 1
    assert not found.effects[0].r2.by_seed
    assert found.effects[0].auc.mean == pytest.approx(0.1)


def test_the_share_of_training_is_counted_from_the_reference() -> None:
    # The numbers that the paper's summary gives: +3.9 over 20x alone, +3.2 over random weights.
    gain = Gain("base", "AUC", "20x", 0.700, Spread({0: 0.707, 1: 0.707}), Spread({0: 0.738, 1: 0.740}))

    assert gain.share == pytest.approx(32 / 39, abs=1e-6)


def test_a_gain_inside_its_interval_has_no_share() -> None:
    trained, random = Spread({0: 0.75, 1: 0.75}), Spread({0: 0.7, 1: 0.7})

    assert Gain("base", "AUC", "20x", 0.7, random, trained, interval=0.04).share == pytest.approx(1.0)
    assert math.isnan(Gain("base", "AUC", "20x", 0.7, random, trained, interval=0.06).share)


@pytest.mark.parametrize("trained", [{0: 0.70, 1: 0.702}, {0: 0.5, 1: 0.95}])
def test_there_is_no_share_without_a_gain_that_stands_out(trained: dict[int, float]) -> None:
    assert math.isnan(Gain("base", "AUC", "20x", 0.7, Spread({0: 0.6, 1: 0.6}), Spread(trained)).share)


def test_a_cell_far_below_its_reference_is_worse() -> None:
    random = Spread({0: 0.7, 1: 0.7})

    assert Gain("base", "AUC", "20x", 0.7, random, Spread({0: 0.6, 1: 0.61}), interval=0.05).is_worse
    assert not Gain("base", "AUC", "20x", 0.7, random, Spread({0: 0.6, 1: 0.61}), interval=0.2).is_worse
    assert not Gain("base", "AUC", "20x", 0.7, random, Spread({0: 0.8, 1: 0.81})).is_worse


def test_gains_compare_a_readout_with_the_finest_magnification_pooled_alike() -> None:
    r2 = {"base": [0.3, 0.3], "random weights": [0.1, 0.1], "no region encoder": [0.05, 0.05]}
    auc = {"base": [0.8, 0.82], "random weights": [0.6, 0.6], "no region encoder": [0.55, 0.55]}
    found = summary_of(Design(axes={"objective": ["mem"]}), r2, auc)

    gains = {(one.metric, one.reference): one for one in found.gains}
    by_auc = gains[f"AUC, cls of regions: {MEAN}", f"20x (0.5 mpp): {MEAN}"]
    assert by_auc.share == pytest.approx((0.81 - 0.6) / (0.81 - 0.55))
    assert gains[R2, "the training mean of each magnification"].share == pytest.approx(2 / 3)
    assert gains[R2, "a linear reader of the tile embeddings"].share == pytest.approx(0.2 / 0.25)


def test_the_page_names_the_best_cell_and_what_cannot_be_told_from_it() -> None:
    found = summary_of(
        DESIGN, {"base": [0.5, 0.2, 0.3], "objective=cmem": [0.4, 0.4, 0.4], "trunk=separate": [0.1, 0.1, 0.1]}
    )
    page = exploration_page(found, (), settings={}, inputs={}, seed=0, holdout="held out: 1 of 5 slides")

    assert "The best is objective=cmem" in page.lead[0]
    assert "1 cell cannot be told from it by these seeds: base." in page.lead[1]


def test_a_cell_whose_networks_wanted_more_steps_says_so() -> None:
    plan = plan_cells(DESIGN)
    rows = [(cell, result(seed, 0.1, 0.7)) for cell in plan.cells for seed in (0, 1)]
    for arm in rows[0][1]["auc"].values():
        arm["folds_with_most_steps"] = 3

    found = summarise(plan, DESIGN, rows, rank_by="r2")

    said = {one.cell.name: dict(one.warnings) for one in found.cells}
    ((sentence, count),) = said.pop("base").items()
    assert "most training steps" in sentence
    assert count == 1
    assert not any(said.values())
