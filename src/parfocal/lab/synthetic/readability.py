"""What an encoder reads of a cohort's attributes at each magnification, on slides that the reader was not fitted on.

A cohort can only tell arms apart if A is read at the coarsest magnification and C at the finest; and it is only what it
claims to be if A is not read from a single finer tile and C not from a coarser one. Both are measured here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from parfocal.lab.synthetic.rendered import SlideDesign
from parfocal.stats.auc import auc, weighted_auc
from parfocal.store import SlideTokens

Unit = Literal["region", "tile"]
_N_BOOTSTRAP = 200


@dataclass(frozen=True)
class AttributeReading:
    """How well one attribute of the regions is read at one magnification.

    Attributes:
        attribute: `A` (arrangement), `C` (chromatin) or `type` (gland type).
        mpp: the magnification.
        unit: `region` reads the mean embedding of a region's tiles, `tile` one tile of each region, drawn at random.
        auc: over all held-out regions; 0.5 is chance.
        low: lower end of the 95 % interval, slides resampled.
        high: its upper end.
        n_regions: how many regions were read.
    """

    attribute: str
    mpp: float
    unit: Unit
    auc: float
    low: float
    high: float
    n_regions: int


def attribute_readability(
    slides: Sequence[SlideTokens],
    designs: Sequence[SlideDesign],
    *,
    n_folds: int = 5,
    seed: int = 0,
) -> tuple[AttributeReading, ...]:
    """Read every attribute at every magnification, from whole regions and from single tiles.

    Args:
        slides: the embedded slides of a rendered cohort; regions are found again by their place on the lattice.
        designs: the truth; slides that are not embedded are left out.
        n_folds: folds by slide.
        seed: draws the single tiles and the bootstrap.

    Returns:
        In the order A, C, type; coarse to fine; region before tile. Where a region is one tile, there is no tile row.

    Raises:
        ValueError: fewer slides of a label than folds, or a slide that the design does not know.
    """
    known = {design.slide: design for design in designs}
    strange = sorted(slide.slide for slide in slides if slide.slide not in known)
    if strange:
        raise ValueError(f"the design knows nothing of {', '.join(strange)}; it is of another cohort")
    positive = sum(known[slide.slide].pairing for slide in slides)
    if min(positive, len(slides) - positive) < n_folds:
        raise ValueError(
            f"{n_folds} folds need as many slides of each label, there are {positive} positive "
            f"and {len(slides) - positive} negative ones"
        )
    fold = _folds([known[slide.slide] for slide in slides], n_folds, np.random.default_rng([seed, 1]))
    readings = []
    for attribute in ("A", "C", "type"):
        for mpp in slides[0].mpps:
            for unit in ("region", "tile"):
                rows, truth, group = _table(slides, known, attribute, mpp, unit, seed)
                if unit == "tile" and all(len(slide.region[mpp]) <= slide.n_regions for slide in slides):
                    continue
                scores = read_attribute(rows, truth, fold[group])
                low, high = _interval(scores, truth, group, np.random.default_rng(seed))
                readings.append(
                    AttributeReading(attribute, mpp, unit, auc(truth, scores), low, high, n_regions=len(truth))
                )
    return tuple(readings)


def read_attribute(
    rows: Float[np.ndarray, "region dim"],
    truth: Bool[np.ndarray, "region"],
    fold: Int[np.ndarray, "region"],
) -> Float[np.ndarray, "region"]:
    """Log odds of the attribute for every region, by a logistic regression fitted on the other folds."""
    scores = np.zeros(len(truth))
    for held_out in np.unique(fold):
        test = fold == held_out
        reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        scores[test] = reader.fit(rows[~test], truth[~test]).decision_function(rows[test])
    return scores


def _folds(designs: Sequence[SlideDesign], n_folds: int, rng: np.random.Generator) -> Int[np.ndarray, "slide"]:
    """Folds of slides with as many positive as negative ones in each.

    A and C agree in positive slides and differ in negative ones. A training fold with more of the former would teach a
    reader of A to pass for one of C, and the held-out slides would then prove it wrong: AUCs well below one half.
    """
    fold = np.zeros(len(designs), dtype=np.int64)
    for pairing in (False, True):
        members = rng.permutation([number for number, design in enumerate(designs) if design.pairing == pairing])
        fold[members] = np.arange(len(members)) % n_folds
    return fold


def _table(
    slides: Sequence[SlideTokens], known: Mapping[str, SlideDesign], attribute: str, mpp: float, unit: Unit, seed: int
) -> tuple[Float[np.ndarray, "region dim"], Bool[np.ndarray, "region"], Int[np.ndarray, "region"]]:
    """One row per region that has a tile at this magnification, with its truth and the number of its slide."""
    rng = np.random.default_rng(seed)
    rows, truth, group = [], [], []
    for number, slide in enumerate(slides):
        value = {
            (region.column, region.row): {
                "A": region.attributes.diagonal,
                "C": region.attributes.checkerboard,
                "type": region.attributes.solid,
            }[attribute]
            for region in known[slide.slide].regions
        }
        lattice = np.rint(slide.region_xy_um / slide.region_um).astype(int)
        # Where regions overlap, those between two regions of the design are of neither.
        is_whole = np.abs(lattice - slide.region_xy_um / slide.region_um).max(axis=1) < 1e-3
        for region in range(slide.n_regions):
            place = (int(lattice[region, 0]), int(lattice[region, 1]))
            own = np.flatnonzero(slide.region[mpp] == region)
            if not len(own) or place not in value or not is_whole[region]:
                continue
            features = slide.features[mpp][own].astype(np.float64)
            rows.append(features.mean(axis=0) if unit == "region" else features[rng.integers(len(own))])
            truth.append(value[place])
            group.append(number)
    return np.array(rows), np.array(truth), np.array(group)


def _interval(
    scores: Float[np.ndarray, "region"],
    truth: Bool[np.ndarray, "region"],
    group: Int[np.ndarray, "region"],
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of the AUC with slides, not regions, as what is resampled."""
    slides, member = np.unique(group, return_inverse=True)
    drawn = rng.integers(0, len(slides), (_N_BOOTSTRAP, len(slides)))
    times = (drawn[:, :, None] == np.arange(len(slides))).sum(axis=1)  # (draw, slide)
    values = weighted_auc(truth, scores, times[:, member].astype(np.float32))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
