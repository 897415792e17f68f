"""Standardisation and the magnification that an arbitrary mpp belongs to."""

import numpy as np
import pytest
import torch

from parfocal.region_encoder import RegionEncoderConfig
from parfocal.region_encoder.standardise import Standardiser, level_shares, nearest_levels


def standardiser_of(**settings: object) -> Standardiser:
    config = RegionEncoderConfig(**({"width": 8, "depth": 1, "heads": 1, "dims": (4, 4, 4)} | settings))  # type: ignore[arg-type]
    return Standardiser(config)


def test_training_features_get_mean_0_and_standard_deviation_1() -> None:
    rng = np.random.default_rng(0)
    rows = {mpp: rng.normal(10 * mpp, 1 + mpp, (500, 4)) for mpp in (2.0, 1.0, 0.5)}
    standardiser = standardiser_of(clip_sd=100.0)
    standardiser.set({m: r.mean(0) for m, r in rows.items()}, {m: r.std(0) for m, r in rows.items()})

    for mpp, values in rows.items():
        z = standardiser(torch.from_numpy(values).float()[None], torch.full((1, 500), mpp))[0]
        torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_outliers_are_clipped_at_the_asked_number_of_standard_deviations() -> None:
    z = standardiser_of(clip_sd=3.0)(torch.tensor([[100.0, -100.0, 1.0, 0.0]]), torch.tensor([1.0]))

    assert z.tolist() == [[3.0, -3.0, 1.0, 0.0]]


def test_statistics_of_an_unseen_mpp_lie_between_its_neighbours_in_log2_mpp() -> None:
    standardiser = standardiser_of(clip_sd=1000.0)
    means = {2.0: np.zeros(4), 1.0: np.full(4, 8.0), 0.5: np.full(4, 10.0)}
    standardiser.set(means, {2.0: np.full(4, 1.0), 1.0: np.full(4, 3.0), 0.5: np.full(4, 3.0)})
    # By hand: 2**0.5 is half an octave from 2 and from 1, so mean 4 and sd 2. Outside, the nearest counts.
    for mpp, mean, sd in ((2**0.5, 4.0, 2.0), (2**-0.25, 8.5, 3.0), (0.25, 10.0, 3.0), (8.0, 0.0, 1.0)):
        z = standardiser(torch.full((1, 4), 20.0), torch.tensor([mpp]))
        torch.testing.assert_close(z, torch.full((1, 4), (20.0 - mean) / sd), atol=1e-4, rtol=1e-5)


def test_statistics_of_different_tile_encoders_are_never_mixed() -> None:
    config = RegionEncoderConfig(dims=(5, 4, 4), encoders=("a", "b", "b"))

    shares = level_shares(torch.tensor([1.5, 1.4, 0.75]), config)

    assert shares[0].tolist() == [1.0, 0.0, 0.0]
    assert shares[1].tolist() == [0.0, 1.0, 0.0]
    assert shares[2].tolist() == pytest.approx([0.0, 1 - (1 - np.log2(1.5)), 1 - np.log2(1.5)], abs=1e-6)


def test_the_nearest_magnification_is_nearest_in_octaves() -> None:
    config = RegionEncoderConfig(dims=(4, 4, 4))
    asked = torch.tensor([9.0, 2.0, 1.42, 1.41, 1.0, 0.7, 0.1, 0.0, float("nan")])

    assert nearest_levels(asked, config)[:7].tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_a_model_in_half_precision_keeps_its_statistics_exact() -> None:
    standardiser = standardiser_of()
    standardiser.mean.fill_(1000.123)

    standardiser.to(torch.bfloat16)

    assert standardiser.mean.dtype == torch.float32
    assert standardiser.mean[0, 0] == torch.tensor(1000.123)
    assert standardiser.double().mean.dtype == torch.float64


def test_a_feature_that_never_changes_stays_at_zero() -> None:
    standardiser = standardiser_of()
    sd = np.array([0.0, 1.0, 2.0, 3.0])
    standardiser.set(dict.fromkeys((2.0, 1.0, 0.5), np.full(4, 7.0)), dict.fromkeys((2.0, 1.0, 0.5), sd))

    z = standardiser(torch.full((1, 4), 7.0), torch.tensor([1.0]))

    # The shift is rounded to float32, and a sd of 1 instead of 0 keeps that rounding small.
    torch.testing.assert_close(z, torch.zeros(1, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("mean", "sd", "says"),
    [
        ({2.0: np.zeros(4), 1.0: np.zeros(4)}, {}, "no statistics for 2 mpp"),
        (dict.fromkeys((2.0, 1.0, 0.5), np.zeros(3)), dict.fromkeys((2.0, 1.0, 0.5), np.ones(3)), "has 4 features"),
        (dict.fromkeys((2.0, 1.0, 0.5), np.zeros(4)), dict.fromkeys((2.0, 1.0, 0.5), -np.ones(4)), "negative sd"),
        (dict.fromkeys((2.0, 1.0, 0.5), np.full(4, np.nan)), dict.fromkeys((2.0, 1.0, 0.5), np.ones(4)), "not finite"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(
    mean: dict[float, np.ndarray], sd: dict[float, np.ndarray], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        standardiser_of().set(mean, sd)
