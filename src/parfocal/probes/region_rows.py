"""Slide means and region means of several bags, prepared for networks that take them side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64

from parfocal.bags import Bag
from parfocal.probes.moments import is_partly_read, region_numbers, slide_sums
from parfocal.probes.preparing import RowMap, fit_map
from parfocal.probes.settings import ProbeSettings
from parfocal.probes.whitening import Preparation

__all__ = [
    "check_same_regions",
    "fit_mean_maps",
    "fit_region_maps",
    "prepared_means",
    "prepared_regions",
    "present_in_all",
]


def check_same_regions(bags: Sequence[Bag]) -> None:
    """Return if the rows of all bags' regions stand for the same regions.

    Raises:
        ValueError: they do not.
    """
    if any(not np.array_equal(bag.region_start, bags[0].region_start) for bag in bags):
        raise ValueError(f"bags {[bag.name for bag in bags]} are not of the same regions")


def fit_mean_maps(
    bags: Sequence[Bag], train: Int64[np.ndarray, " train"], preparation: Preparation, settings: ProbeSettings
) -> dict[str, np.ndarray]:
    """How each bag's slide means are prepared: centred on the training mean, whitened by the spread between slides."""
    arrays: dict[str, np.ndarray] = {}
    for number, bag in enumerate(bags):
        fitted = fit_map(bag.mean, train, np.arange(len(train)), None, preparation, settings)
        arrays |= fitted.arrays(f"mean {number}")
    return arrays


def prepared_means(
    bags: Sequence[Bag], slides: Int64[np.ndarray, " picked"], fitted: Mapping[str, np.ndarray]
) -> Float32[np.ndarray, "picked kept"]:
    """The means of some slides, all bags side by side."""
    of_slide = np.arange(len(slides))
    return np.concatenate(
        [
            RowMap.from_arrays(f"mean {number}", fitted)(bag.mean[slides], of_slide, bag.mean[slides])
            for number, bag in enumerate(bags)
        ],
        axis=1,
    )


def fit_region_maps(
    bags: Sequence[Bag],
    train: Int64[np.ndarray, " train"],
    preparation: Preparation,
    settings: ProbeSettings,
    *,
    by_slide: bool,
) -> dict[str, np.ndarray]:
    """How each bag's region means are prepared.

    Args:
        bags: of the same regions.
        train: the training slides.
        preparation: whitened or not.
        settings: the most components.
        by_slide: whether regions are centred on their slide's mean. A bag that is partly read in the training slides
            is centred on its training mean instead: the mean of the regions that were read depends on which they were.
    """
    arrays: dict[str, np.ndarray] = {}
    for number, bag in enumerate(bags):
        numbers, of_slide = _present_numbers(bag, train)
        centre = None if not by_slide or is_partly_read(bag, train) else _present_mean(bag, train)
        arrays |= fit_map(bag.region_mean, numbers, of_slide, centre, preparation, settings).arrays(f"region {number}")
    return arrays


def prepared_regions(
    bags: Sequence[Bag], slides: Int64[np.ndarray, " picked"], fitted: Mapping[str, np.ndarray]
) -> list[Float32[np.ndarray, "region _kept"]]:
    """All regions of some slides, one array for each bag; NaN where a bag has nothing of a region."""
    prepared = []
    for number, bag in enumerate(bags):
        row_map = RowMap.from_arrays(f"region {number}", fitted)
        there, of_slide = _present_numbers(bag, slides)
        numbers = region_numbers(bag, slides)
        result = np.full((len(numbers), row_map.matrix.shape[1]), np.nan, dtype=np.float32)
        result[bag.region_present[numbers]] = row_map(bag.region_mean[there], of_slide, _present_mean(bag, slides))
        prepared.append(result)
    return prepared


def present_in_all(bags: Sequence[Bag], slides: Int64[np.ndarray, " picked"]) -> Bool[np.ndarray, " region"]:
    """Which regions of some slides are present in every bag."""
    present = [bag.region_present[region_numbers(bag, slides)] for bag in bags]
    everywhere: Bool[np.ndarray, " region"] = np.logical_and.reduce(present)
    return everywhere


def _present_numbers(
    bag: Bag, slides: Int64[np.ndarray, " picked"]
) -> tuple[Int64[np.ndarray, " row"], Int64[np.ndarray, " row"]]:
    """The numbers of the present regions of some slides, and the place of each one's slide."""
    numbers = region_numbers(bag, slides)
    of_slide = np.repeat(np.arange(len(slides)), np.diff(bag.region_start)[slides])
    there = bag.region_present[numbers]
    return numbers[there], of_slide[there]


def _present_mean(bag: Bag, slides: Int64[np.ndarray, " picked"]) -> Float32[np.ndarray, "picked dim"]:
    """The mean over the present regions of each slide; 0 for a slide without any."""
    numbers, of_slide = _present_numbers(bag, slides)
    counts = np.bincount(of_slide, minlength=len(slides))
    mean = slide_sums(bag.region_mean[numbers], counts) / np.maximum(counts, 1)[:, None]
    return mean.astype(np.float32)
