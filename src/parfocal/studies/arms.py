"""The arms of an evaluation: which bags, which pooling, and under which heading; one table, one code path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from parfocal.bags import Bag
from parfocal.cohort import Fold
from parfocal.embeddings import EmbeddingSet
from parfocal.geometry import format_mpp
from parfocal.probes import FoldPrediction, ProbeSettings, fit_attention, fit_contrast, fit_mean

__all__ = ["Arm", "ArmKind", "Pool", "set_label", "table_of_arms"]

ArmKind = Literal["single", "late", "mixed"]
"""What an arm can know: one magnification, unordered bags of several, or which tiles lie in one region."""

Pool = Callable[[Sequence[Bag], Bool[np.ndarray, " slide"], Sequence[Fold], ProbeSettings], list[FoldPrediction]]
"""What every probe is: bags, labels, folds, settings in; one prediction for each fold out."""

MEAN, ATTENTION = "mean, logistic regression", "gated attention"
_CONTRAST, _SECOND_MOMENT = "cross-scale contrast", "second moment of regions"


@dataclass(frozen=True, eq=False)
class Arm:
    """One line of the table.

    Attributes:
        name: what goes in.
        family: the heading it stands under.
        pooling: how a slide becomes a number.
        kind: what it can know.
        bags: what is pooled: (number of the set, magnification as text or `region`).
        pool: the probe; None for an arm that averages the predictions of others.
        average_of: the numbers of these others in the table.
    """

    name: str
    family: str
    pooling: str
    kind: ArmKind
    bags: tuple[tuple[int, str], ...]
    pool: Pool | None
    average_of: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The arm in one piece of text, unique in its table."""
        return f"{self.name}: {self.pooling}"


def table_of_arms(sets: Sequence[EmbeddingSet]) -> tuple[Arm, ...]:
    """All arms that the given sets allow, those of a heading following each other.

    Tile embeddings give every magnification alone, late fusion and the pairing of magnifications without a region
    encoder; what `represent` wrote gives the region encoder's arms.
    """
    tiles = [number for number, one in enumerate(sets) if _readout(one) is None]
    made = [number for number, one in enumerate(sets) if _readout(one) is not None]
    arms: list[Arm] = []
    for number in tiles:
        suffix = f", {sets[number].name}" if len(tiles) > 1 else ""
        arms += _single_arms(number, sets[number], suffix)
    for number in tiles:
        suffix = f", {sets[number].name}" if len(tiles) > 1 else ""
        arms += _late_arms(number, sets[number], suffix, arms)
    for number in tiles:
        suffix = f", {sets[number].name}" if len(tiles) > 1 else ""
        if len(sets[number].mpps) > 1:
            name = f"{_listed(sets[number])}, tile embeddings{suffix}"
            bags = _all(number, sets[number])
            arms.append(Arm(name, "Pairing without a region encoder", _CONTRAST, "mixed", bags, fit_contrast))
    for number in made:
        arms += _region_encoder_arms(number, sets[number])
    return tuple(arms)


def set_label(one: EmbeddingSet) -> str:
    """A short name of a set: its folder's, or model and readout of what a region encoder made."""
    readout = _readout(one)
    return one.name if readout is None else f"{one.settings['model']}, {readout}"


def _single_arms(number: int, one: EmbeddingSet, suffix: str) -> list[Arm]:
    arms: list[Arm] = []
    for mpp in one.mpps:
        name = f"{_magnification(mpp)}{suffix}"
        bags: tuple[tuple[int, str], ...] = ((number, format_mpp(mpp)),)
        for pooling, pool in ((MEAN, fit_mean), (ATTENTION, fit_attention), (_SECOND_MOMENT, fit_contrast)):
            arms.append(Arm(name, "One magnification", pooling, "single", bags, pool))
    return arms


def _late_arms(number: int, one: EmbeddingSet, suffix: str, arms: Sequence[Arm]) -> list[Arm]:
    if len(one.mpps) < 2:
        return []
    family, bags = "Late fusion of unordered bags", _all(number, one)
    name = f"{_listed(one)}{suffix}"
    branches = tuple(place for place, arm in enumerate(arms) if arm.pooling == ATTENTION and arm.bags[0][0] == number)
    return [
        Arm(name, family, f"means side by side, {MEAN.split(', ')[1]}", "late", bags, fit_mean),
        Arm(name, family, "one gated attention each, averaged", "late", bags, None, branches),
        Arm(name, family, "gated attention over all tiles", "late", bags, fit_attention),
    ]


def _region_encoder_arms(number: int, one: EmbeddingSet) -> list[Arm]:
    family = f"Region encoder {one.settings['model']}"
    if one.kind == "regions":
        readout = _readout(one)
        name = "CLS of regions" if readout == "cls" else f"{readout} readout of regions"
        bags: tuple[tuple[int, str], ...] = ((number, "region"),)
        pools: tuple[tuple[str, Pool], ...] = (
            (MEAN, fit_mean),
            (ATTENTION, fit_attention),
            (_SECOND_MOMENT, fit_contrast),
        )
    else:
        name, bags = "contextual tokens", _all(number, one)
        contrast = (_CONTRAST if len(one.mpps) > 1 else _SECOND_MOMENT, fit_contrast)
        pools = ((MEAN, fit_mean), (ATTENTION, fit_attention), contrast)
    return [Arm(name, family, pooling, "mixed", bags, pool) for pooling, pool in pools]


def _readout(one: EmbeddingSet) -> str | None:
    """The readout of a region encoder, None for the embeddings of tiles themselves."""
    value = one.settings.get("readout") if "model" in one.settings else None
    return None if value is None else str(value)


def _all(number: int, one: EmbeddingSet) -> tuple[tuple[int, str], ...]:
    return tuple((number, format_mpp(mpp)) for mpp in one.mpps)


def _magnification(mpp: float) -> str:
    return f"{10 / mpp:g}x ({format_mpp(mpp)} mpp)"


def _listed(one: EmbeddingSet) -> str:
    return " + ".join(f"{10 / mpp:g}x" for mpp in one.mpps)
