"""What is asked of an explanation."""

from pydantic import Field

from parfocal.run.shards import Sharding


class ExplainSettings(Sharding):
    """How much of an explanation is listed and drawn, and of which slides; no number in it depends on this."""

    ends: int = Field(10, ge=0, description="Regions that are listed at each end of a contrast direction.")
    directions: int = Field(
        4, ge=1, description="Directions of a pair of magnifications whose ends are listed, the strongest first."
    )
    pictures: bool = Field(True, description="Write heatmaps (OME-TIFF and PNG) and a page of every slide.")
    anndata: bool = Field(False, description="Write the regions of every slide as AnnData; needs parfocal[anndata].")
    maps: int = Field(3, ge=0, description="Slides whose regions are drawn on the page, from low scores to high ones.")
    device: str = Field("cpu", description="Where the region encoder of a head runs: cpu, cuda, cuda:1, mps.")
