"""The regions of a slide as QuPath reads them: squares with measurements, in pixels of level 0."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parfocal.explain.result import RegionParts, SlideExplanation
from parfocal.explain.shapley import pairs_of_players
from parfocal.files import writing
from parfocal.geometry import format_mpp


def write_geojson(one: SlideExplanation, scores: Sequence[str], mpps: Sequence[float], path: Path) -> None:
    """Write a slide's regions as a GeoJSON collection of QuPath detections, whole or not at all.

    They are detections and not annotations because QuPath colours detections by a measurement (*Measure > Show
    measurement maps*). Measurements are a list of names and values, which every version since 0.2 reads.

    Raises:
        ValueError: the score is no sum over regions.
    """
    if one.regions is None:
        raise ValueError(f"{one.parts.slide} has nothing to write: its score is no sum over regions")
    features = []
    for region, (x_um, y_um) in enumerate(one.xy_um.tolist()):
        left, top, right, bottom = (
            round(edge / one.slide_mpp, 3) for edge in (x_um, y_um, x_um + one.side_um, y_um + one.side_um)
        )
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        found = [{"name": name, "value": value} for name, value in _measurements(one.regions, scores, mpps, region)]
        properties: dict[str, Any] = {"objectType": "detection", "name": f"region {region + 1}", "measurements": found}
        features.append(
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
        )
    with writing(path) as temporary:
        text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
        temporary.write_text(text, encoding="utf-8")


def _measurements(
    regions: RegionParts, scores: Sequence[str], mpps: Sequence[float], region: int
) -> Iterator[tuple[str, float]]:
    """What a region adds, by what a person reads; the score is named only where there are several."""
    names = [format_mpp(mpp) for mpp in mpps]
    for place, score in enumerate(scores):
        of = f" to {score}" if len(scores) > 1 else ""
        yield f"Adds{of}", float(regions.contribution[region, place])
        for name, value in zip(names, regions.shapley[:, region, place].tolist(), strict=True):
            yield f"Shapley value of {name} mpp{of}", value
        pairs = regions.interaction[:, region, place].tolist()
        for (a, b), value in zip(pairs_of_players(len(names)), pairs, strict=True):
            yield f"Interaction of {names[a]} and {names[b]} mpp{of}", value
