"""Cohorts whose ceilings are known: rendered slides for the whole path, and tile embeddings for its later half.

In: settings and a seed. Out: slides with labels (`render_cohort`) or embeddings with labels (`draw_cohort`), the exact
AUC that each kind of observer can reach (`ceilings`), what an encoder reads of the attributes
(`attribute_readability`), and the adversary that looks for leaks (`pixel_adversary`).
"""

from parfocal.lab.synthetic import ceilings
from parfocal.lab.synthetic.adversary import (
    PixelAdversary,
    UnorderedBags,
    match_bags,
    measure_densities,
    pixel_adversary,
    repairing_auc,
)
from parfocal.lab.synthetic.feature_model import FeatureModel, FeatureSpace, RegionFactors
from parfocal.lab.synthetic.readability import AttributeReading, attribute_readability, read_attribute
from parfocal.lab.synthetic.rendered import (
    RegionTruth,
    RenderedCohort,
    RenderSettings,
    SlideDesign,
    design_cohort,
    render_cohort,
    render_slide,
)
from parfocal.lab.synthetic.tissue import RegionAttributes
from parfocal.lab.synthetic.xscale import (
    FeatureCohort,
    IidSettings,
    PanelSettings,
    StratSettings,
    draw_cohort,
    hetero_settings,
    rare_settings,
    write_cohort,
)

__all__ = [
    "AttributeReading",
    "FeatureCohort",
    "FeatureModel",
    "FeatureSpace",
    "IidSettings",
    "PanelSettings",
    "PixelAdversary",
    "RegionAttributes",
    "RegionFactors",
    "RegionTruth",
    "RenderSettings",
    "RenderedCohort",
    "SlideDesign",
    "StratSettings",
    "UnorderedBags",
    "attribute_readability",
    "ceilings",
    "design_cohort",
    "draw_cohort",
    "hetero_settings",
    "match_bags",
    "measure_densities",
    "pixel_adversary",
    "rare_settings",
    "read_attribute",
    "render_cohort",
    "render_slide",
    "repairing_auc",
    "write_cohort",
]
