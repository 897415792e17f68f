"""An XScale panel whose labels are known to lie in one magnification or in the pairing of two, and heads of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from parfocal.cohort import LabelColumns, Target
from parfocal.heads import ProbeSettings
from parfocal.lab.synthetic import FeatureModel, PanelSettings, draw_cohort, write_cohort
from parfocal.predict import FitSettings, Head, fit_head
from parfocal.store import EmbeddingSet, open_set

QUICK = FitSettings(
    folds=2,
    repeats=1,
    probes=ProbeSettings(
        components=(6,), lifted=(), attention_steps=8, attention_validation=1, mlp_steps=8, growth=1, inner_folds=3
    ),
)
# For heads that only have to be there.
LEAN = QUICK.model_copy(
    update={
        "probes": QUICK.probes.model_copy(update={"sharpen": False, "attention_steps": 4, "inner_folds": 2}),
    }
)


@dataclass(frozen=True, eq=False)
class Panel:
    """Slides in a store, and a head for each label and arm that is asked for."""

    folder: Path
    tiles: EmbeddingSet
    head: Callable[[str, str], Head]


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    """60 slides of 24 regions: enough for heads to find where the label lies."""
    return make_panel(tmp_path_factory.mktemp("panel"), 60, 24, QUICK)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    """15 slides of 8 regions, for what is true of any head."""
    return make_panel(tmp_path_factory.mktemp("few"), 15, 8, LEAN)


def make_panel(folder: Path, n_slides: int, n_regions: int, how: FitSettings) -> Panel:
    law = PanelSettings(
        n_slides=n_slides, n_regions=n_regions, tau=0.25, omega=20.0, product=False, model=FeatureModel(dim=32)
    )
    tiles, fitted = open_set(write_cohort(draw_cohort(law), folder)), dict[tuple[str, str], Head]()
    labels = (folder / "labels.csv").read_text().splitlines()
    three = [f"{line},{'abc'[number % 3]}" for number, line in enumerate(labels[1:])]
    (folder / "labels.csv").write_text("\n".join([f"{labels[0]},three", *three]) + "\n")

    def head(label: str, arm: str) -> Head:
        if (label, arm) not in fitted:
            out = folder / "heads" / f"{label}-{arm.replace('/', '-')}"
            columns = LabelColumns(group="patient")
            fitted[label, arm] = fit_head(
                [tiles], folder / "labels.csv", Target(name=label), arm, out, how, columns=columns
            )
        return fitted[label, arm]

    return Panel(folder, tiles, head)
