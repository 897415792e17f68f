"""A small cohort of numbers with the demo's structure: a label in the pairing, a label in one magnification."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cohort import Cohort, Fold, Outcome, make_splits


@dataclass(frozen=True, eq=False)
class Numbers:
    """Bags of a coarse and a fine magnification, and two labels.

    `pairing`: every slide has as many regions with A (coarse) as with C (fine); in positive slides they are the same
    regions, in negative ones the others. `kind`: shifts a third direction of both magnifications.
    """

    coarse: Bag
    fine: Bag
    pairing: np.ndarray
    kind: np.ndarray

    def folds(self, label: np.ndarray | Outcome, *, folds: int = 4, repeats: int = 1) -> list[Fold]:
        slides = self.coarse.slides
        outcome = label if isinstance(label, Outcome) else Outcome.binary(label)
        cohort = Cohort(slides, slides, outcome)
        return make_splits(cohort, folds=folds, repeats=repeats).folds(cohort, inner=3, seed=0)


def bag_of(name: str, regions: list[list[np.ndarray]]) -> Bag:
    """A bag from the rows of each region of each slide; a region without rows is absent."""
    slides = tuple(f"s{number:02d}" for number in range(len(regions)))
    rows = [np.concatenate(slide) for slide in regions]
    counts = np.array([len(one) for slide in regions for one in slide])
    together, there = np.concatenate(rows), counts > 0
    region_mean = np.full((len(counts), together.shape[1]), np.nan)
    begin = (np.cumsum(counts) - counts)[there]
    region_mean[there] = np.add.reduceat(together, begin, axis=0) / counts[there, None]
    return Bag(
        name=name,
        slides=slides,
        rows=together.astype(np.float32),
        start=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        n_instances=np.array([len(one) for one in rows], dtype=np.int64),
        mean=np.stack([one.mean(axis=0) for one in rows]).astype(np.float32),
        region_mean=region_mean.astype(np.float32),
        region_start=np.cumsum([0, *map(len, regions)]).astype(np.int64),
        region_present=there,
    )


def draw(n: int = 40, n_regions: int = 16, dim: int = 24, seed: int = 0, unread: float = 0.0) -> Numbers:
    rng = np.random.default_rng(seed)
    mixing = [np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(2)]
    spread = 1 / np.sqrt(np.arange(1, dim + 1))
    pairing, kind = np.arange(n) % 2 == 0, np.arange(n) // 2 % 2 == 0
    coarse, fine = [], []
    for slide in range(n):
        a = rng.permutation(np.arange(n_regions) % 2 == 0)
        c = a if pairing[slide] else ~a
        stain = rng.standard_normal(3) * 2
        slide_coarse, slide_fine = [], []
        for region in range(n_regions):
            for rows, per, factor, matrix in ((slide_coarse, 1, a, 0), (slide_fine, 4, c, 1)):
                z = rng.standard_normal((per, dim))
                z[:, 4] += 3.0 * factor[region]
                z[:, 2] += 1.0 * kind[slide]
                z[:, :2] += stain[:2]
                if matrix == 1 and rng.random() < unread:
                    z = z[:0]
                rows.append((z * spread) @ mixing[matrix].T + 5)
        coarse.append(slide_coarse)
        fine.append(slide_fine)
    return Numbers(bag_of("2", coarse), bag_of("0.5", fine), pairing, kind)


@pytest.fixture(scope="session")
def numbers() -> Numbers:
    return draw()


@pytest.fixture(scope="session")
def draw_numbers() -> Callable[..., Numbers]:
    return draw


@pytest.fixture(scope="session")
def make_bag() -> Callable[[str, list[list[np.ndarray]]], Bag]:
    return bag_of
