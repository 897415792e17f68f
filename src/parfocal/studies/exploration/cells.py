"""A cell of the design space, and the control that has its architecture but no training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from parfocal.pretrain import PretrainSettings
from parfocal.provenance import digest8

__all__ = ["Cell", "Kind", "controls_of", "references_of"]

Kind = Literal["trained", "random", "tiles"]
"""Pretrained; the same architecture with random weights; tile embeddings as they are, without a region encoder."""

_ARCHITECTURE = ("size", "projector", "trunk")


@dataclass(frozen=True)
class Cell:
    """One point of the design space; the seed is chosen apart.

    Attributes:
        name: what differs from the base cell.
        levels: the label of each axis.
        changed: the axes that differ from the base cell.
        settings: how it is pretrained.
        region_um: side of a region; None is that of the set.
        tiles: the set of tile embeddings; None is the only one.
        kind: what it is.
        extra: whether it was named beside the axes; then it has no part in their effects.
    """

    name: str
    levels: Mapping[str, str]
    changed: frozenset[str]
    settings: PretrainSettings
    region_um: float | None = None
    tiles: str | None = None
    kind: Kind = "trained"
    extra: bool = False

    @cached_property
    def content(self) -> dict[str, Any]:
        """What decides its results, but for the seed, the data and how it is scored."""
        settings = self.settings.identity()
        if self.kind != "trained":
            settings = {name: settings[name] for name in _ARCHITECTURE} if self.kind == "random" else {}
        settings = {name: value for name, value in settings.items() if name != "seed"}
        return {"kind": self.kind, "settings": settings, "region_um": self.region_um, "tiles": self.tiles}

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over `content`."""
        return digest8(self.content)

    @property
    def data(self) -> tuple[str | None, float | None]:
        """Which set, and which regions: cells with other data answer other questions."""
        return self.tiles, self.region_um

    @property
    def architecture(self) -> str:
        """Equal for cells whose models have the same shape and see the same data."""
        return replace(self, kind="random").digest


def controls_of(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """One cell of random weights for each architecture; its name says how it differs from the first one."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if cell.architecture not in found:
            control = replace(cell, kind="random", changed=frozenset(), extra=True)
            found[cell.architecture] = replace(control, name=_name("random weights", control, cells[0]))
    return tuple(found.values())


def references_of(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """One cell of tile embeddings without a region encoder for each set and side of a region."""
    found: dict[tuple[str | None, float | None], Cell] = {}
    for cell in cells:
        if cell.data not in found:
            reference = replace(cell, kind="tiles", changed=frozenset(), extra=True)
            found[cell.data] = replace(reference, name=_name("no region encoder", reference, cells[0]))
    return tuple(found.values())


def _name(what: str, cell: Cell, first: Cell) -> str:
    own, others = cell.content, replace(first, kind=cell.kind).content
    pairs = {**own["settings"], "region_um": own["region_um"], "tiles": own["tiles"]}
    base = {**others["settings"], "region_um": others["region_um"], "tiles": others["tiles"]}
    differing = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in pairs.items()
        if value != base[name]
    ]
    return f"{what} ({', '.join(differing)})" if differing else what
