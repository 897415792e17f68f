"""Whether a prediction picks the true tile out of all tiles of its slide: a score that knows nothing of slide means."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from parfocal.studies.proof.layout import Layout

__all__ = ["Retrieval", "retrieve"]


@dataclass(frozen=True)
class Retrieval:
    """Top-1 of the true tile at one magnification.

    Attributes:
        top1: share of the hidden tiles whose prediction is most similar to the true tile.
        chance: the same by guessing.
        n_queries: how many hidden tiles were asked for.
        n_candidates: tiles of a slide that it was picked from, on average over the asked tiles.
    """

    top1: Mapping[str, float]
    chance: float
    n_queries: int
    n_candidates: float


def retrieve(
    predictions: Mapping[str, Float32[np.ndarray, "region slot dim"]],
    target: Float32[np.ndarray, "region slot dim"],
    present: Bool[np.ndarray, "region slot"],
    hidden: Bool[np.ndarray, "region slot"],
    slide: Int64[np.ndarray, " region"],
    layout: Layout,
    level: int,
    *,
    most: int,
    rng: np.random.Generator,
) -> Retrieval | None:
    """Ask every method for the same tiles; the candidates are all tiles of the slide among the looked-at regions.

    The similarity is the cosine about the mean of the slide's candidates, so that predicting the slide's mean, however
    well, is no better than guessing. The first of equal candidates counts as picked only by its share of them.

    Args:
        predictions: of each method.
        target: standardised tiles.
        present: which there are.
        hidden: which are asked for.
        slide: number of each region's slide.
        layout: where slots lie.
        level: the magnification to look at.
        most: at most so many asked tiles of a slide.
        rng: draws them.

    Returns:
        None where no tile of that magnification is hidden.
    """
    at_level = layout.level == level
    hits = dict.fromkeys(predictions, 0.0)
    chance, n_queries, n_candidates = 0.0, 0, 0.0
    for one in np.unique(slide):
        rows = np.flatnonzero(slide == one)
        candidate_row, candidate_slot = np.nonzero(present[rows] & at_level)
        asked = np.flatnonzero(hidden[rows][candidate_row, candidate_slot])
        if not len(asked):
            continue
        asked = asked[rng.permutation(len(asked))[:most]]
        candidates = target[rows[candidate_row], candidate_slot]
        mean = candidates.mean(axis=0)
        candidates = candidates - mean
        candidates = candidates / np.maximum(np.linalg.norm(candidates, axis=1, keepdims=True), 1e-12)
        for name, predicted in predictions.items():
            similarity = (predicted[rows[candidate_row[asked]], candidate_slot[asked]] - mean) @ candidates.T
            best = similarity.max(axis=1, keepdims=True)
            tied = similarity >= best - 1e-6 * np.maximum(np.abs(best), 1e-12)
            is_true = tied[np.arange(len(asked)), asked]
            hits[name] += float((is_true / tied.sum(axis=1)).sum())
        chance += len(asked) / len(candidates)
        n_queries += len(asked)
        n_candidates += len(asked) * len(candidates)
    if not n_queries:
        return None
    return Retrieval(
        {name: count / n_queries for name, count in hits.items()},
        chance / n_queries,
        n_queries,
        n_candidates / n_queries,
    )
