"""The regions of a slide as AnnData, for scanpy, squidpy and what else reads it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.errors import ConfigError
from parfocal.explain.heatmaps import PartMap
from parfocal.explain.result import SlideExplanation
from parfocal.files import writing
from parfocal.version import __version__


def need_anndata() -> None:
    """Return if AnnData can be written.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import anndata  # noqa: F401  # only who writes such files needs it
    except ImportError as error:
        raise ConfigError(
            "cannot write AnnData: anndata is not installed. pip install 'parfocal[anndata]', or leave out --anndata."
        ) from error


def write_anndata(
    one: SlideExplanation, maps: Sequence[PartMap], scores: Sequence[str], path: Path, *, described: Mapping[str, Any]
) -> None:
    """Write a slide's regions as observations, whole or not at all.

    `obsm["spatial"]` is the middle of each region in pixels of level 0, which is what squidpy and LazySlide take it
    for, and `uns["spatial"]` says how large a region is there. Micrometres are in `obs`.

    Args:
        one: the slide.
        maps: its parts.
        scores: their names.
        path: ends in `.h5ad`.
        described: what else is to be known, kept as JSON in `uns["parfocal"]`.
    """
    import anndata
    import pandas as pd

    slide, n_regions = one.parts.slide, len(one.xy_um)
    obs = pd.DataFrame(
        {
            "slide": pd.Categorical([slide] * n_regions),
            "x_um": one.xy_um[:, 0],
            "y_um": one.xy_um[:, 1],
            **{
                "score" if len(scores) == 1 else f"score_{place + 1}": np.full(n_regions, one.parts.score[place])
                for place in range(len(scores))
            },
            **{each.key: each.values for each in maps},
        },
        index=[f"{slide}:{number + 1}" for number in range(n_regions)],
    )
    side_px = one.side_um / one.slide_mpp
    known = {
        "parfocal_version": __version__,
        "slide_mpp": one.slide_mpp,
        "region_um": one.side_um,
        "scores": np.array(scores, dtype=object),
        "base": one.parts.base,
        "settings": json.dumps(described, sort_keys=True),
    }
    # A key of an HDF5 file holds no slash.
    library = {slide.replace("/", "_"): {"scalefactors": {"spot_diameter_fullres": side_px}, "images": {}}}
    data = anndata.AnnData(
        obs=obs,
        obsm={"spatial": (one.xy_um + one.side_um / 2) / one.slide_mpp},
        uns={"parfocal": known, "spatial": library},
    )
    with writing(path) as temporary:
        data.write_h5ad(temporary, compression="gzip")
