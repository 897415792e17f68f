"""What QuPath is given: its own keys, and squares that lie where the regions do."""

import json
from pathlib import Path

import numpy as np
import pytest

from parfocal.explain import RegionParts, SlideExplanation, SlideParts
from parfocal.explain.qupath import write_geojson


def explanation(columns: int, *, regions: bool = True) -> SlideExplanation:
    """Three regions of 448 um on a slide of a quarter of a micrometre per pixel."""
    rng = np.random.default_rng(0)
    of = RegionParts(rng.normal(size=(3, columns)), rng.normal(size=(2, 3, columns)), rng.normal(size=(1, 3, columns)))
    none = np.zeros((2, columns))
    parts = SlideParts("case", none[0], none[0], none, none, none[:1], {})
    xy_um = np.array([[112.0, 0.0], [560.0, 0.0], [112.0, 448.0]])
    return SlideExplanation(parts, xy_um, 448.0, 0.25, of if regions else None, {})


def test_regions_are_closed_squares_in_pixels_of_level_0_with_their_numbers(tmp_path: Path) -> None:
    one = explanation(1)
    assert one.regions is not None

    write_geojson(one, ["1"], (2.0, 0.5), tmp_path / "a" / "case.geojson")

    # As QuPath's importer takes it apart (PathObjectTypeAdapters): a collection, in it features, in these an
    # `objectType` and `measurements`, which are a list of `name` and `value`.
    found = json.loads((tmp_path / "a" / "case.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    assert len(found["features"]) == 3
    for number, feature in enumerate(found["features"]):
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) == 5
        corner = one.xy_um[number] / 0.25
        assert np.array_equal(np.min(ring, axis=0), corner)
        assert np.array_equal(np.max(ring, axis=0), corner + 1792)
        assert feature["properties"]["objectType"] == "detection"
        said = {each["name"]: each["value"] for each in feature["properties"]["measurements"]}
        assert said == {
            "Adds": one.regions.contribution[number, 0],
            "Shapley value of 2 mpp": one.regions.shapley[0, number, 0],
            "Shapley value of 0.5 mpp": one.regions.shapley[1, number, 0],
            "Interaction of 2 and 0.5 mpp": one.regions.interaction[0, number, 0],
        }


def test_several_scores_are_told_apart_by_name(tmp_path: Path) -> None:
    write_geojson(explanation(2), ["a", "b"], (2.0, 0.5), tmp_path / "case.geojson")

    (first, *_) = json.loads((tmp_path / "case.geojson").read_text())["features"]
    names = [each["name"] for each in first["properties"]["measurements"]]
    assert len(set(names)) == 8
    assert names[0] == "Adds to a"
    assert names[4] == "Adds to b"


def test_a_score_that_is_no_sum_over_regions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sum over regions"):
        write_geojson(explanation(1, regions=False), ["1"], (2.0, 0.5), tmp_path / "case.geojson")
    assert not list(tmp_path.iterdir())
