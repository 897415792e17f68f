"""Heads that were saved before whitening, maps and regions were each made one thing still load and say the same.

The archives hold the state of each kind as version 0.1 wrote it, fitted on the cohort below, and its scores.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.heads import ProbeState, load_probe

ARCHIVES = Path(__file__).parents[1] / "data" / "heads"


@pytest.mark.parametrize("name", ["mean", "attention", "bilinear", "contrast", "mlp", "region_mlp"])
def test_a_head_of_an_earlier_version_scores_as_it_did(name: str, draw_numbers: Callable[..., Any]) -> None:
    numbers = draw_numbers(n=24, n_regions=6, dim=6)
    with np.load(ARCHIVES / f"{name}.npz") as archive:
        saved = json.loads(str(archive["facts"]))
        arrays = {
            key.removeprefix("array/").replace("|", "/"): archive[key] for key in archive if key.startswith("array/")
        }
        expected = archive["scores"]

    probe = load_probe(ProbeState(saved["probe"], saved["facts"], arrays))
    scores = probe.score([numbers.coarse, numbers.fine], numbers.folds(numbers.kind)[0].test)

    # Networks compute in float32, on processors that add in other orders.
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
