"""The regions of a slide and what they add to a score as AnnData, for scanpy, squidpy and what else reads it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal import export
from parfocal.explain.heatmaps import PartMap
from parfocal.explain.result import SlideExplanation


def need_anndata() -> None:
    """Return if AnnData can be written.

    Raises:
        ConfigError: it is not installed.
    """
    export.need_anndata("leave out --anndata")


def write_anndata(
    one: SlideExplanation, maps: Sequence[PartMap], scores: Sequence[str], path: Path, *, described: Mapping[str, Any]
) -> None:
    """Write a slide's regions as observations, whole or not at all; micrometres are in `obs`.

    Args:
        one: the slide.
        maps: its parts.
        scores: their names.
        path: ends in `.h5ad`.
        described: what else is to be known, kept as JSON in `uns["parfocal"]`.
    """
    slide, n_regions = one.parts.slide, len(one.xy_um)
    columns = {
        "slide": np.full(n_regions, slide, dtype=object),
        "x_um": one.xy_um[:, 0],
        "y_um": one.xy_um[:, 1],
        **{
            "score" if len(scores) == 1 else f"score_{place + 1}": np.full(n_regions, one.parts.score[place])
            for place in range(len(scores))
        },
        **{each.key: each.values for each in maps},
    }
    known = {
        "slide_mpp": one.slide_mpp,
        "region_um": one.side_um,
        "scores": np.array(scores, dtype=object),
        "base": one.parts.base,
        "settings": json.dumps(described, sort_keys=True),
    }
    middle_l0px = (one.xy_um + one.side_um / 2) / one.slide_mpp
    observed = export.Observations(slide, columns, middle_l0px, one.side_um / one.slide_mpp)
    export.write_anndata(path, [observed], known=known)
