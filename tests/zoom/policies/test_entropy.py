"""The tiles come first that the model is least sure of, given the coarse ones."""

import numpy as np
import pytest
import torch

from parfocal.bags import TileDecoder
from parfocal.errors import MismatchError
from parfocal.region_encoder import collate_regions
from parfocal.zoom import POLICIES, Glance

from ...region_encoder.toy import DIM, model_of
from ..glances import full, glance_of


def by_hand(glance: Glance) -> np.ndarray:
    """One tile at a time; a standard deviation that is the same for all tiles changes no order."""
    model, found = model_of(), []
    for region, center in zip(glance.region, glance.center_um, strict=True):
        given = [np.flatnonzero(numbers == region) for numbers in glance.coarse.region.values()]
        if not any(map(len, given)):
            found.append(-np.inf)
            continue
        batch = collate_regions([(glance.coarse, [int(region)])])
        with torch.inference_mode():
            encoded = model.encoder(batch.tokens, batch.xy_um, batch.mpp, batch.present)
            asked = torch.tensor(center, dtype=torch.float32).view(1, 1, 2)
            decoded = model.decode(encoded, batch.present, asked, torch.full((1, 1), 0.5))
        found.append(float(decoded.log_variance.sum()) / 2)
    return np.array(found)


@pytest.mark.parametrize("absent", [0.0, 0.5])
def test_the_order_is_that_of_single_questions(absent: float) -> None:
    glance = full(glance_of(9, dim=DIM, absent=absent))
    n_tiles = np.bincount(glance.region, minlength=9)
    # Absent tiles count as glass: a standard deviation of each number that is so much smaller.
    entropy = by_hand(glance) + DIM * np.log(n_tiles / n_tiles.max())[glance.region]

    order = POLICIES.get("entropy").bound(TileDecoder(model_of(), 0.5, whitened=False))(glance)

    # Sums of floats depend on the batch; tiles closer than that may change places.
    assert (np.diff(np.nan_to_num(entropy[order], neginf=-1e6)) <= 1e-3).all()


def test_another_magnification_is_refused() -> None:
    decoder = TileDecoder(model_of(), 1.0, whitened=False)

    with pytest.raises(MismatchError, match=r"asked for tiles at 1 mpp, and 0\.5 is what"):
        POLICIES.get("entropy").bound(decoder)(glance_of(dim=DIM, mpps=(2.0,)))
