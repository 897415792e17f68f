"""Step 2 of the path: from an open slide to its tissue, its regions and the places of their tiles.

In goes a `Slide` and a `GridConfig`, out comes a `RegionPlan`: the lattice of regions in micrometres and, for every
magnification, which tiles are kept. Only the tissue raster is read here, no tile.
"""

from parfocal.regions.inspect import SlideReport, inspect_slide, inspect_slides
from parfocal.regions.places import Places, read_places
from parfocal.regions.plan import PlannedTiles, RegionPlan, plan_places, plan_regions
from parfocal.regions.qc import draw_qc, qc_path, write_qc
from parfocal.regions.tissue import TissueMask, find_tissue, read_thumbnail

__all__ = [
    "Places",
    "PlannedTiles",
    "RegionPlan",
    "SlideReport",
    "TissueMask",
    "draw_qc",
    "find_tissue",
    "inspect_slide",
    "inspect_slides",
    "plan_places",
    "plan_regions",
    "qc_path",
    "read_places",
    "read_thumbnail",
    "write_qc",
]
