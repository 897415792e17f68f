"""Mean pooling and logistic regression; with several bags their slide means side by side (late fusion)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from parfocal.bags import Bag
from parfocal.cohort import Fold
from parfocal.probes.logistic import fit_logistic, log_loss, predict_logit, row_space
from parfocal.probes.settings import FoldPrediction, ProbeSettings
from parfocal.probes.whitening import Preparation, fit_whitening, preparations

__all__ = ["MeanFit", "fit_mean", "fit_mean_fold"]

# Rows have a mean square norm of one, whatever their width, so one grid serves all.
_PENALTIES = np.array([1e-1, 1e-2, 1e-3, 1e-4])


@dataclass(frozen=True, eq=False)
class MeanFit:
    """One fold: log odds of the test slides, and of the training slides by models that had not seen them."""

    test_logit: Float64[np.ndarray, " test"]
    held_out_logit: Float64[np.ndarray, " train"]
    chosen: str


def fit_mean(
    bags: Sequence[Bag], is_positive: Bool[np.ndarray, " slide"], folds: Sequence[Fold], settings: ProbeSettings
) -> list[FoldPrediction]:
    """Predict each fold's test slides from their means.

    Offered inside the training fold: each preparation of the slide means x four penalties. Centring within the slide
    is not among them, because it leaves nothing of a mean (see `whitening`).
    """
    fits = [fit_mean_fold(bags, is_positive, fold, settings) for fold in folds]
    return [FoldPrediction(fit.test_logit, fit.chosen) for fit in fits]


def fit_mean_fold(
    bags: Sequence[Bag], is_positive: Bool[np.ndarray, " slide"], fold: Fold, settings: ProbeSettings
) -> MeanFit:
    """One fold of `fit_mean`, with the out-of-fold log odds that stacking needs."""
    label = is_positive[fold.train].astype(np.float64)
    weight = inner_weights(fold)
    n_problems, n_strengths = len(weight), len(_PENALTIES)
    best: tuple[float, MeanFit] | None = None
    for preparation in preparations(settings.components):
        train, test = _prepared_means(bags, fold, preparation, settings)
        coefficient = fit_logistic(
            train[None], label, np.repeat(weight, n_strengths, axis=0), np.tile(_PENALTIES, n_problems)
        )
        train_logit = predict_logit(train[None], coefficient).reshape(n_problems, n_strengths, -1)
        held_out = train_logit[fold.inner, :, np.arange(len(label))].T  # (strength, train)
        loss = log_loss(held_out, label)
        strength = int(loss.argmin())
        if best is None or loss[strength] < best[0]:
            logit = predict_logit(test[None], coefficient[-n_strengths:][[strength]])[0]
            name = f"{preparation.label}, penalty {_PENALTIES[strength]:g}"
            best = float(loss[strength]), MeanFit(logit, held_out[strength], name)
    assert best is not None  # there is always one preparation
    return best[1]


def inner_weights(fold: Fold) -> Float64[np.ndarray, "problem train"]:
    """Which training slides each fit uses: one row without each inner fold, and a last row with all."""
    inner = np.arange(int(fold.inner.max()) + 1)
    without = (fold.inner[None] != inner[:, None]).astype(np.float64)
    return np.concatenate([without, np.ones((1, len(fold.train)))])


def _prepared_means(
    bags: Sequence[Bag], fold: Fold, preparation: Preparation, settings: ProbeSettings
) -> tuple[Float64[np.ndarray, "train dim"], Float64[np.ndarray, "test dim"]]:
    train, test = [], []
    for bag in bags:
        mean, scale = bag.mean[fold.train].mean(axis=0), bag.mean[fold.train].std(axis=0)
        if preparation.components is None:
            # All columns, however many: the span of the training slides holds everything a ridge penalty can use.
            varies = scale > 1e-6 * max(float(scale.max()), 1e-300)
            mapping = np.where(varies, 1 / np.where(varies, scale, 1.0), 0.0) / np.sqrt(max(int(varies.sum()), 1))
            train.append((bag.mean[fold.train] - mean) * mapping)
            test.append((bag.mean[fold.test] - mean) * mapping)
        else:
            whitening = fit_whitening(
                bag.mean[fold.train],
                np.ones(len(fold.train)),
                widest=preparation.components,
                centred=False,
                seed=settings.seed,
            )
            matrix = whitening.map_of(preparation) / np.sqrt(whitening.basis.shape[1])
            train.append((bag.mean[fold.train] - whitening.mean) @ matrix)
            test.append((bag.mean[fold.test] - whitening.mean) @ matrix)
    scale = 1 / np.sqrt(len(bags))
    return row_space(np.concatenate(train, axis=1) * scale, np.concatenate(test, axis=1) * scale)
