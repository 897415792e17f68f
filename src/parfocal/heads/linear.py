"""Mean pooling and one linear score for each column; with several bags their slide means side by side (late fusion)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from parfocal.bags import Bag
from parfocal.cohort import Column, Fold, Outcome
from parfocal.heads.base import Bags, FittedProbe, ProbeSettings, ProbeState, Scores, Slides, name_choices
from parfocal.heads.preparation import Preparation, has_mean, preparations, prepare_means
from parfocal.heads.registry import RegisteredHead
from parfocal.heads.regression import column_weight, fit_column, held_out_loss, inner_weights, predict_column, row_space
from parfocal.stats.whitening import AffineMap, fit_whitening

# Rows have a mean square norm of one, whatever their width, so one grid serves all.
_PENALTIES = np.array([1e-1, 1e-2, 1e-3, 1e-4])
_TILES_AT_A_TIME = 4096


@dataclass(frozen=True, eq=False)
class FittedMean(FittedProbe):
    """Slide means times coefficients, in the columns of the embeddings as they are.

    Attributes:
        offset: what is subtracted from the slide means of each bag.
        coefficient: of each column of each bag's embeddings, for each column of the outcome.
        intercept: of each column of the outcome.
        choice: preparation and penalty.
    """

    offset: tuple[Float64[np.ndarray, " _dim"], ...]
    coefficient: tuple[Float64[np.ndarray, "_dim column"], ...]
    intercept: Float64[np.ndarray, " column"]
    choice: str

    @property
    def chosen(self) -> str:
        """Preparation and penalty."""
        return self.choice

    def score(self, bags: Bags, slides: Slides) -> Scores:
        """The score of each column for some slides."""
        total = np.tile(self.intercept, (len(slides), 1))
        for bag, offset, coefficient in zip(bags, self.offset, self.coefficient, strict=True):
            total += np.where(has_mean(bag, slides)[:, None], bag.mean[slides] - offset, 0.0) @ coefficient
        return total

    def of_tiles(self, bag: Bag, number: int) -> Float64[np.ndarray, "tile column"]:
        """What each tile of one slide adds to the score of each column; a tile that is as the mean slide adds nothing.

        Args:
            bag: of one slide, all of its tiles kept.
            number: which of the probe's bags it is.
        """
        coefficient = self.coefficient[number]
        # In steps, because a slide of a hundred thousand tiles in double precision is twice as large as its store.
        steps = range(0, len(bag.rows), _TILES_AT_A_TIME)
        parts = [bag.rows[at : at + _TILES_AT_A_TIME].astype(np.float64) @ coefficient for at in steps]
        nothing = np.zeros((0, coefficient.shape[1]))  # of a slide that was read in part there may be no tile
        return np.asarray((np.concatenate([nothing, *parts]) - self.offset[number] @ coefficient) / len(bag.rows))

    def state(self) -> ProbeState:
        """All of it as plain data."""
        arrays = {"intercept": self.intercept}
        for number, (offset, coefficient) in enumerate(zip(self.offset, self.coefficient, strict=True)):
            arrays |= {f"offset.{number}": offset, f"coefficient.{number}": coefficient}
        return ProbeState("mean", {"chosen": self.choice, "bags": len(self.offset)}, arrays)

    @staticmethod
    def load(state: ProbeState) -> "FittedMean":
        """What `state` came from."""
        bags = range(int(state.facts["bags"]))
        return FittedMean(
            tuple(state.arrays[f"offset.{number}"] for number in bags),
            tuple(state.arrays[f"coefficient.{number}"] for number in bags),
            state.arrays["intercept"],
            str(state.facts["chosen"]),
        )


@dataclass(frozen=True, eq=False)
class MeanFit:
    """One fold: the probe, and what models that had not seen a training slide say about it."""

    probe: FittedMean
    held_out: Float64[np.ndarray, "column train"]


def fit_mean(bags: Bags, outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings) -> list[FittedProbe]:
    """Fit a linear score of the slide means on each fold's training slides.

    Offered inside the training fold, to each column of the outcome: each preparation of the slide means x four
    penalties. Centring within the slide is not among them, because it leaves nothing of a mean (see `preparation`).
    """
    return [fit_mean_fold(bags, outcome, fold, settings).probe for fold in folds]


def fit_mean_fold(bags: Bags, outcome: Outcome, fold: Fold, settings: ProbeSettings) -> MeanFit:
    """One fold of `fit_mean`, with the held-out scores that stacking needs."""
    columns = [column.of(fold.train) for column in outcome.columns]
    best: list[_Candidate | None] = [None] * len(columns)
    for preparation in preparations(settings.components):
        maps = [_map_of(bag, fold, preparation, len(bags), settings) for bag in bags]
        mapped = [
            prepare_means(one, bag.mean[fold.train].astype(np.float64), has_mean(bag, fold.train))
            for bag, one in zip(bags, maps, strict=True)
        ]
        train, basis = row_space(np.concatenate(mapped, axis=1))
        for number, column in enumerate(columns):
            found = _fit_column(train, column, fold, settings)
            kept = best[number]
            if kept is None or found.loss < kept.loss:
                slope = found.slope if basis is None else basis @ found.slope
                parts = np.split(slope, np.cumsum([one.shape[1] for one in mapped])[:-1])
                in_columns = [one.back(part) for one, part in zip(maps, parts, strict=True)]
                best[number] = _Candidate(
                    found.loss,
                    found.held_out,
                    # Each preparation has its own offset; what differs from the first one's goes to the intercept.
                    found.intercept - sum(float(one.offset @ part) for one, part in zip(maps, in_columns, strict=True)),
                    np.concatenate(in_columns),
                    f"{preparation.label}, {found.name}",
                )
    done = [one for one in best if one is not None]
    coefficient = np.split(np.stack([one.slope for one in done], axis=1), np.cumsum([bag.dim for bag in bags])[:-1])
    offset = [_known_means(bag, fold).mean(axis=0, dtype=np.float64) for bag in bags]
    intercept = np.array([one.intercept for one in done])
    intercept += sum(mean @ part for mean, part in zip(offset, coefficient, strict=True))
    name = name_choices(tuple(column.name for column in columns), tuple(one.name for one in done))
    probe = FittedMean(tuple(offset), tuple(coefficient), intercept, name)
    return MeanFit(probe, np.stack([one.held_out for one in done]))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """The best penalty of one preparation for one column."""

    loss: float
    held_out: Float64[np.ndarray, " train"]
    intercept: float
    slope: Float64[np.ndarray, " dim"]
    name: str


def _fit_column(
    train: Float64[np.ndarray, "train dim"], column: Column, fold: Fold, settings: ProbeSettings
) -> _Candidate:
    weight = inner_weights(fold) * column_weight(column, balanced=settings.balanced)
    n_problems, n_strengths = len(weight), len(_PENALTIES)
    coefficient = fit_column(
        train[None], column, np.repeat(weight, n_strengths, axis=0), np.tile(_PENALTIES, n_problems)
    )
    score = predict_column(train[None], coefficient).reshape(n_problems, n_strengths, -1)
    held_out = score[fold.inner, :, np.arange(len(fold.train))].T  # (strength, train)
    loss = held_out_loss(held_out, column, fold.inner, balanced=settings.balanced)
    strength = int(loss.argmin())
    final = coefficient[-n_strengths + strength]
    name = f"penalty {_PENALTIES[strength]:g}"
    return _Candidate(float(loss[strength]), held_out[strength], float(final[-1]), final[:-1], name)


def _map_of(bag: Bag, fold: Fold, preparation: Preparation, n_bags: int, settings: ProbeSettings) -> AffineMap:
    """How a preparation turns a slide mean into features; rows have a mean square norm of one."""
    means = _known_means(bag, fold).astype(np.float64)
    if preparation.components is None:
        # All columns, however many: the span of the training slides holds everything a ridge penalty can use.
        scores = AffineMap.standardising(means)
        n_varies = max(int((scores.matrix > 0).sum()), 1)
        return AffineMap(scores.offset, scores.matrix / np.sqrt(n_varies * n_bags))
    whitened = fit_whitening(
        means, np.ones(len(means)), widest=preparation.components, centred=False, seed=settings.seed
    ).whitened()
    return AffineMap(whitened.offset, whitened.matrix / np.sqrt(whitened.matrix.shape[1] * n_bags))


def _known_means(bag: Bag, fold: Fold) -> Float[np.ndarray, "train dim"]:
    """The means of the training slides that have one."""
    return np.asarray(bag.mean[fold.train][has_mean(bag, fold.train)])


HEAD = RegisteredHead(
    "mean", "mean, linear model", "means", FittedMean.load, fit_mean, takes_several=True, may_lack=True
)
