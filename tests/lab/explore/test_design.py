from pathlib import Path
from typing import Any

import pytest

from parfocal.errors import ConfigError
from parfocal.lab.explore.design import AXES, Design, controls_of, plan_cells, read_design, references_of

DESIGNS = Path(__file__).resolve().parents[3] / "studies"


def planned(**content: Any) -> dict[str, Any]:
    return {cell.name: cell for cell in plan_cells(Design(**content)).cells}


def test_one_change_at_a_time_has_the_base_and_every_other_value() -> None:
    cells = planned(axes={"objective": ["mem", "cmem"], "bottleneck": [0.5, 0.0, 1.0]})

    assert list(cells) == ["base", "objective=cmem", "bottleneck=0", "bottleneck=1"]
    assert cells["objective=cmem"].settings.objective == "cmem"
    assert cells["objective=cmem"].settings.bottleneck == 0.5


def test_a_grid_has_all_combinations() -> None:
    cells = planned(mode="grid", axes={"trunk": ["shared", "separate"], "mask_rate": [0.5, [0.2, 0.4]]})

    assert len(cells) == 4
    assert cells["trunk=separate, mask_rate=0.2 to 0.4"].settings.mask_rate == (0.2, 0.4)
    assert cells["base"].settings.mask_rate == (0.5, 0.5)


def test_a_combination_that_contradicts_itself_is_left_out_of_a_grid_with_its_reason() -> None:
    plan = plan_cells(
        Design(mode="grid", axes={"objective": ["mem", "contrastive", "latent"], "targets": ["raw", "whitened"]})
    )

    assert [cell.name for cell in plan.cells] == [
        "base",
        "targets=whitened",
        "objective=contrastive",
        "objective=latent",
    ]
    reasons = dict(plan.impossible)
    assert "predicts no tokens" in reasons["objective=contrastive, targets=whitened"]
    assert "both decide targets" in reasons["objective=latent, targets=whitened"]


def test_latent_objective_wins_over_the_base_targets() -> None:
    cells = planned(axes={"objective": ["mem", "latent"], "targets": ["raw", "whitened"]})

    assert cells["objective=latent"].settings.targets == "latent"
    assert cells["targets=whitened"].settings.targets == "whitened"


OTHER_VALUES: dict[str, list[Any]] = {
    "objective": ["mem", "latent"],
    "targets": ["raw", "whitened"],
    "masks": ["mixed", {"whole": 1}],
    "mask_rate": [[0.3, 0.75], 0.9],
    "region_subsampling": [0.1, 0.4],
    "region_um": [448, 896],
    "tiles": ["one", "two"],
    "projector": ["shared", "separate"],
    "trunk": ["shared", "separate"],
    "bottleneck": [0.5, 0],
}


@pytest.mark.parametrize("axis", AXES)
def test_no_axis_is_ignored(axis: str) -> None:
    cells = plan_cells(Design(axes={axis: OTHER_VALUES[axis]})).cells

    first, second = (cell.content for cell in cells)
    assert first != second


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"axes": {"positions": ["rope"]}}, "no axis 'positions'"),
        ({"axes": {"objectiv": ["mem"]}}, "Did you mean objective"),
        ({"axes": {"seed": [0, 1]}}, "same for all cells"),
        ({"axes": {"objective": ["mem", "dino"]}}, "objective=dino.*cannot be pretrained"),
        ({"axes": {"masks": ["blocks"]}}, "choose one of mixed"),
        ({"axes": {"masks": [{"blocks": 1}]}}, "no pattern 'blocks'"),
        ({"axes": {"mask_rate": [0.5, 1.5]}}, "rising pair"),
        ({"axes": {"bottleneck": []}}, "no value"),
        ({"axes": {"bottleneck": 0.5}}, "list of values"),
        ({"axes": {"objective": ["mem"]}, "base": {"device": "cpu"}}, "Leave it out"),
        ({"axes": {"objective": ["mem"]}, "base": {"sise": "T"}}, "no such setting"),
        ({"axes": {"objective": ["mem"]}, "seeds": [1, 1]}, "different numbers"),
        ({"axes": {"objective": ["mem", "latent"], "targets": ["raw", "latent"]}}, "same settings"),
        ({"axes": {"objective": ["mem"]}, "cells": {"mine": {"objective": "cmem"}}}, "the design has mem"),
    ],
)
def test_what_pretraining_does_not_offer_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_cells(Design(**content))


def test_named_cells_stand_beside_the_axes() -> None:
    cells = planned(
        axes={"objective": ["mem", "cmem"], "trunk": ["shared", "separate"]},
        cells={"both": {"objective": "cmem", "trunk": "separate"}},
    )

    assert cells["both"].extra
    assert (cells["both"].settings.objective, cells["both"].settings.trunk) == ("cmem", "separate")


def test_there_is_one_control_for_each_architecture_and_one_reference_for_each_set() -> None:
    plan = plan_cells(
        Design(axes={"objective": ["mem", "cmem"], "trunk": ["shared", "separate"], "region_um": [448, 896]})
    )

    controls = [cell.name for cell in controls_of(plan.cells)]
    assert controls == ["random weights", "random weights (trunk=separate)", "random weights (region_um=896)"]
    assert [cell.name for cell in references_of(plan.cells)] == [
        "no region encoder",
        "no region encoder (region_um=896)",
    ]


def test_the_design_in_the_documents_is_possible(tmp_path: Path) -> None:
    page = (DESIGNS.parent / "docs" / "explore.md").read_text()
    file = tmp_path / "design.yaml"
    file.write_text(page.split("```yaml\n")[1].split("```")[0])

    both = next(cell for cell in plan_cells(read_design(file)).cells if cell.name == "both")
    assert (both.settings.objective, both.settings.mask_rate) == ("cmem", (0.9, 0.9))


@pytest.mark.parametrize("file", sorted(DESIGNS.glob("design-*.yaml")), ids=lambda file: file.name)
def test_shipped_designs_are_possible(file: Path) -> None:
    assert not plan_cells(read_design(file)).impossible


def test_the_design_of_the_evidence_has_at_least_fourteen_cells_and_three_seeds() -> None:
    design = read_design(DESIGNS / "design-xscale.yaml")

    assert len(plan_cells(design).cells) >= 14
    assert len(design.seeds) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [("axes: [", "cannot read"), ("- 1", "must hold sections"), ("seed: [1]\naxes: {}", "no such setting")],
)
def test_a_file_that_is_no_design_is_refused_with_its_name(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=says) as caught:
        read_design(file)
    assert "mine.yaml" in str(caught.value)
