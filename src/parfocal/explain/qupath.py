"""The regions of a slide as QuPath reads them: squares with measurements, in pixels of level 0."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from parfocal.explain.result import RegionParts, SlideExplanation, named_score, region_part_names
from parfocal.files import writing


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
    found = _measurements(one.regions, scores, mpps)
    for region, ((x_um, y_um), measurements) in enumerate(zip(one.xy_um.tolist(), found, strict=True), 1):
        left, top, right, bottom = (
            round(edge / one.slide_mpp, 3) for edge in (x_um, y_um, x_um + one.side_um, y_um + one.side_um)
        )
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        properties = {"objectType": "detection", "name": f"region {region}", "measurements": measurements}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    with writing(path) as temporary:
        text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
        temporary.write_text(text, encoding="utf-8")


def _measurements(
    regions: RegionParts, scores: Sequence[str], mpps: Sequence[float]
) -> Iterator[list[dict[str, object]]]:
    """Of each region what it adds, by what a person reads."""
    names = [named_score(label, score, scores) for score in scores for label in region_part_names(mpps).values()]
    values = np.concatenate([regions.of_column(place) for place in range(len(scores))], axis=1)
    for own in values.tolist():
        yield [{"name": name, "value": value} for name, value in zip(names, own, strict=True)]
