"""The tiles come first that the model is least sure of, given the coarse ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parfocal.bags import TileDecoder
from parfocal.embed.unfolding import LEAST, Unfolding
from parfocal.errors import MismatchError
from parfocal.region_encoder import collate_regions
from parfocal.store import SlideTokens
from parfocal.zoom import POLICIES, Glance

from ...region_encoder.toy import DIM, model_of
from ..glances import full, glance_of


def by_hand(glance: Glance, known: SlideTokens | None = None) -> np.ndarray:
    """One tile at a time; a standard deviation that is the same for all tiles changes no order."""
    model, found, known = model_of(), [], known or glance.coarse
    for region, center in zip(glance.region, glance.center_um, strict=True):
        given = [np.flatnonzero(numbers == region) for numbers in known.region.values()]
        if not any(map(len, given)):
            found.append(-np.inf)
            continue
        batch = collate_regions([(known, [int(region)])])
        with torch.inference_mode():
            encoded = model.encoder(batch.tokens, batch.xy_um, batch.mpp, batch.present)
            asked = torch.tensor(center, dtype=torch.float32).view(1, 1, 2)
            decoded = model.decode(encoded, batch.present, asked, torch.full((1, 1), 0.5))
        found.append(float(decoded.log_variance.sum()) / 2)
    return np.array(found)


@pytest.mark.parametrize("absent", [0.0, 0.5])
def test_the_order_is_that_of_single_questions(absent: float) -> None:
    glance = full(glance_of(5, dim=DIM, absent=absent))
    n_tiles = np.bincount(glance.region, minlength=5)
    # Absent tiles count as glass: a standard deviation of each number that is so much smaller.
    entropy = by_hand(glance) + DIM * np.log(n_tiles / n_tiles.max())[glance.region]

    order = POLICIES.get("entropy").bound(TileDecoder(model_of(), 0.5, whitened=False))(glance)

    # Sums of floats depend on the batch; tiles closer than that may change places.
    assert (np.diff(np.nan_to_num(entropy[order], neginf=-1e6)) <= 1e-3).all()


def test_another_magnification_is_refused() -> None:
    policy = POLICIES.get("entropy").bound(TileDecoder(model_of(), 0.5, whitened=False))

    with pytest.raises(MismatchError, match=r"trained at 2, 1, 0\.5 mpp and cannot say what is expected at 0\.25"):
        policy(replace(glance_of(dim=DIM), mpp=0.25))


def test_the_model_is_asked_for_what_is_to_be_read() -> None:
    glance = replace(full(glance_of(9, dim=DIM, mpps=(2.0,))), mpp=1.0)
    orders = [POLICIES.get("entropy").bound(TileDecoder(model_of(), mpp, whitened=False))(glance) for mpp in (1.0, 0.5)]

    assert np.array_equal(*orders)


def test_in_rounds_the_model_is_given_what_was_read_and_asked_again() -> None:
    glance = full(glance_of(4, dim=DIM, absent=0.2))
    rows = np.random.default_rng(7).standard_normal((glance.n_tiles, DIM)).astype(np.float32)
    policy = POLICIES.get("entropy-rounds").bound(TileDecoder(model_of(), 0.5, whitened=False))
    order = Unfolding("entropy-rounds", glance, policy.ranked(glance))
    begins = order.known[:LEAST]
    order.first(LEAST + 1, lambda read: (rows[read], read))
    read, left = np.sort(begins), order.known[LEAST:]

    coarse = glance.coarse
    given = replace(
        coarse,
        features={**coarse.features, 0.5: rows[read]},
        region={**coarse.region, 0.5: glance.region[read]},
        center_um={**coarse.center_um, 0.5: glance.center_um[read]},
    )
    n_tiles = np.bincount(glance.region, minlength=4)
    share = DIM * np.log(n_tiles / n_tiles.max())[glance.region]
    by_now, before = by_hand(glance, given) + share, by_hand(glance) + share

    beforehand = POLICIES.get("entropy").bound(TileDecoder(model_of(), 0.5, whitened=False))(glance)
    assert np.array_equal(begins, beforehand[:LEAST])
    assert (np.diff(np.nan_to_num(by_now[left], neginf=-1e6)) <= 1e-3).all()
    assert np.abs(by_now - before)[np.isin(glance.region, glance.region[read])].max() > 1e-2  # it did change something
