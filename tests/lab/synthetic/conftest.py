"""A small rendered cohort, rendered once for all tests of this folder."""

from pathlib import Path

import pytest

from parfocal.lab.synthetic.rendered import RenderedCohort, RenderSettings, render_cohort


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> RenderedCohort:
    folder: Path = tmp_path_factory.mktemp("cohort")
    return render_cohort(folder, RenderSettings(n_slides=4, seed=11), workers=1)
