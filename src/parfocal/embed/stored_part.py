"""What a store keeps of a slide that has been read in part: how it is called, how more is asked for, and its rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float

from parfocal.errors import StoreError
from parfocal.geometry import format_mpp
from parfocal.regions import PlannedTiles
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import (
    BOUND,
    BUDGET,
    COARSER,
    POLICY,
    RULE,
    SEED,
    TOTAL,
    features_path,
    index_path,
    repair_advice,
)
from parfocal.store.set import open_set


def in_part(stored: Mapping[str, Any]) -> bool:
    """Whether the slide of an index was read in part; one that a rule or a total has read whole counts."""
    return min(float(stored.get(BUDGET, 1.0)), float(stored.get(TOTAL, 1.0))) < 1 or RULE in stored or COARSER in stored


def called(attributes: Mapping[str, Any]) -> str:
    """A policy with all that decides its order, from what an index keeps of it."""
    given = [f"the seed {attributes[SEED]}"] if SEED in attributes else []
    if attributes.get(BOUND):
        given.append(f"the head or model {attributes[BOUND]}")
    shares = [f"{share:g}" for share in attributes.get(COARSER, ())]
    if shares:
        given.append(
            f"the share {shares[0]} of a coarser magnification"
            if len(shares) == 1
            else f"the shares {' and '.join(shares)} of coarser magnifications"
        )
    name = str(attributes[POLICY]) + (f" with {' and '.join(given)}" if given else "")
    name += f", until settled by the head {attributes[RULE]}" if RULE in attributes else ""
    return name + (" over all slides together" if TOTAL in attributes else "")


def as_word(stored: Mapping[str, Any]) -> str:
    """How the policy of a slide's index is asked for."""
    if RULE in stored:
        return f"predict and the head {stored[RULE]}"
    bound = str(stored.get(BOUND, ""))
    return f"--zoom {stored[POLICY]}" + ("=" + ",".join("FOLDER" for _ in bound.split("+")) if bound else "")


def as_rest(stored: Mapping[str, Any]) -> str:
    """How the rest of the slide of an index is asked for; some have none."""
    if RULE in stored:
        return f"It was read until settled by the head {stored[RULE]}, and nothing reads the rest: use another store"
    if COARSER in stored:
        return "Nothing reads the rest of a coarser magnification: use another store"
    budget = "--budget-total" if TOTAL in stored else "--budget"
    return f"Read the rest with {as_word(stored)} {budget} 1, use another store"


@dataclass(frozen=True, eq=False)
class StoredRows:
    """The rows of a slide that has been read in part.

    Attributes:
        rows: per magnification, as stored.
        absent: per magnification, which of the planned tiles are absent, and why.
        is_read: per magnification, which of the planned tiles have been read; those that are absent among them.
    """

    rows: Mapping[float, Float[np.ndarray, "_tile _dim"]]
    absent: Mapping[float, Mapping[int, str]]
    is_read: Mapping[float, Bool[np.ndarray, " _tile"]]


def stored_rows_of(set_path: Path, slide: str, planned: Mapping[float, PlannedTiles]) -> StoredRows:
    """What a set has of a slide that has been read in part, by the numbers of its planned tiles.

    Raises:
        StoreError: a file is damaged, or it holds other tiles than are planned now.
    """
    path = index_path(set_path, slide)
    rows = open_set(set_path).read(slide).features
    absent, unread = dict[float, dict[int, str]](), dict[float, list[int]]()
    with opened_h5(path, f"Remove it to embed {slide} anew.") as index:
        for mpp, tiles in planned.items():
            group = index[format_mpp(mpp)]
            number = {tuple(place): row for row, place in enumerate(tiles.coords_l0px.tolist())}
            lost = [number.get(tuple(place), -1) for place in _coords(group, "absent_coords")]
            why = group["absent_reason"].asstr()[...].tolist() if lost else []
            absent[mpp] = dict(zip(lost, why, strict=True))
            unread[mpp] = [number.get(tuple(place), -1) for place in _coords(group, "unread_coords")]
    for mpp, tiles in planned.items():
        others = {*absent[mpp], *unread[mpp]}
        there = np.setdiff1d(np.arange(len(tiles)), list(others))
        features = features_path(set_path, slide, mpp)
        with opened_h5(features, repair_advice(set_path, slide)) as file:
            coords = file["coords"][...]
        if -1 in others or not np.array_equal(coords, tiles.coords_l0px[there]):
            raise StoreError(
                f"cannot go on with {slide}: {path} has other tiles than are planned now. "
                "Remove it to embed the slide anew."
            )
    is_read = {mpp: ~np.isin(np.arange(len(tiles)), unread[mpp]) for mpp, tiles in planned.items()}
    return StoredRows(rows, {mpp: found for mpp, found in absent.items() if found}, is_read)


def _coords(group: h5py.Group, name: str) -> list[list[int]]:
    found: list[list[int]] = group[name][...].tolist() if name in group else []
    return found
