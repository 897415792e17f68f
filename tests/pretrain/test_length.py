"""A run that is too short says so, with numbers; one that was asked for, or that has levelled off, does not."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.errors import ParfocalWarning
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.pretrain.holdout import SlidePart, Split
from parfocal.pretrain.metrics import remarks_after, remarks_before
from parfocal.region_encoder.checkpoint import read_pretraining

from .conftest import MakeSet

SPLIT = Split((SlidePart("a", np.arange(400)), SlidePart("b", np.arange(240))), (), "")


def test_few_steps_from_epochs_are_told_with_what_would_do() -> None:
    (said,) = remarks_before(PretrainSettings(), 50, SPLIT, world=1)

    assert "20 epochs of 640 regions of 2 slides are 50 steps of 256 regions" in said
    assert "--steps 1500 (or --epochs 600)" in said  # 1,500 x 256 / 640
    overlapping = Split((SlidePart("a", np.arange(400), 100), SlidePart("b", np.arange(240), 60)), (), "")
    (said,) = remarks_before(PretrainSettings(), 50, overlapping, world=1)
    assert "20 epochs of 640 regions that overlap, on the tissue of 160, of 2 slides are 50 steps" in said
    assert remarks_before(PretrainSettings(), 500, SPLIT, world=1) == ()
    assert remarks_before(PretrainSettings(steps=50), 50, SPLIT, world=1) == ()


def rows(*values: float) -> list[dict[str, float]]:
    """A look every hundred steps, and rows between them that have none."""
    looks = [{"step": 100.0 * (place + 1), "r2": value} for place, value in enumerate(values)]
    return [{"step": one["step"] - 50} for one in looks] + looks


@pytest.mark.parametrize(
    ("values", "is_rising"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), True),
        ((0.1, 0.4, 0.5, 0.50, 0.505), False),
        ((0.1, 0.6, 0.3, 0.4, 0.5), False),
        ((0.1, 0.5), False),
        ((float("nan"),) * 5, False),
        ((0.1, 0.2, 0.3, 0.4, float("nan")), False),
    ],
)
def test_a_run_that_still_improves_is_told(values: tuple[float, ...], is_rising: bool) -> None:
    found = remarks_after(rows(*values), 100 * len(values), warmup=0.05)

    assert bool(found) == is_rising
    if is_rising:
        assert "held-out R2 was 0.400 at step 400 and is 0.500 at the last, 500" in found[0]
        assert "--steps 1000" in found[0]


def test_a_default_pretraining_of_a_small_cohort_warns_and_the_model_remembers(
    make_set: MakeSet, tmp_path: Path
) -> None:
    settings = PretrainSettings(size="T", batch=16, precision="float32")
    with pytest.warns(ParfocalWarning, match="20 epochs of 9 regions of 3 slides are 12 steps of 16 regions"):
        pretrain_encoder(make_set((3, 4, 2, 3)), tmp_path / "m", settings)

    (said,) = read_pretraining(tmp_path / "m")["remarks"]
    assert "short for the cohort" in said
