"""A head: the distance of a slide's median tile from the medians of the two classes."""

from dataclasses import dataclass

import numpy as np

from parfocal.heads import FittedProbe, ProbeState, RegisteredHead


@dataclass(frozen=True, eq=False)
class Median(FittedProbe):
    directions: np.ndarray  # (column, all dims)

    @property
    def chosen(self) -> str:
        return "medians"

    def score(self, bags, slides):
        return medians(bags, slides) @ self.directions.T

    def state(self) -> ProbeState:
        return ProbeState("median", {}, {"directions": self.directions})


def medians(bags, slides):
    of_bags = [[np.median(bag.rows_of(slide), axis=0) for slide in slides] for bag in bags]
    return np.concatenate([np.asarray(rows, dtype=np.float64) for rows in of_bags], axis=1)


def fit(bags, outcome, folds, settings):
    probes = []
    for fold in folds:
        rows = medians(bags, fold.train)
        values = [column.of(fold.train).value for column in outcome.columns]
        centred = [value - value.mean() for value in values]
        probes.append(Median(np.stack([value @ rows / np.abs(value).sum() for value in centred])))
    return probes


def load(state: ProbeState) -> Median:
    return Median(np.asarray(state.arrays["directions"]))


HEAD = RegisteredHead("median", "median of tiles, difference of classes", "tiles", load, fit, takes_several=True)
