"""Cohorts whose ceilings are known: rendered slides for the whole path, and tile embeddings for its later half.

In: settings and a seed. Out: slides with labels (`render_cohort`), embeddings with labels (`draw_cohort`), the exact
AUC that each kind of observer can reach, and the adversaries that look for leaks.
"""

from parfocal.synthetic.rendered import (
    RegionTruth,
    RenderedCohort,
    RenderSettings,
    SlideDesign,
    design_cohort,
    render_cohort,
    render_slide,
)

__all__ = [
    "RegionTruth",
    "RenderSettings",
    "RenderedCohort",
    "SlideDesign",
    "design_cohort",
    "render_cohort",
    "render_slide",
]
