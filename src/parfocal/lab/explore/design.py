"""A design file: which axes with which values, and which cells they make.

Each value of an axis stands for pretraining settings, and a cell has a control of its architecture without training.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from parfocal.config import Settings, first_problem, read_yaml
from parfocal.errors import ConfigError
from parfocal.files import digest8
from parfocal.pretrain import MaskSettings, PretrainSettings

REGION, TILES = "region_um", "tiles"
"""The two axes that change the data and not the training: the side of a region, and the set of tile embeddings."""

SHARED_BY_ALL = frozenset(
    {
        "seed",
        "holdout",
        "holdout_slides",
        "mpps",
        "device",
        "read_threads",
        "cache_mib",
        "checkpoint_every",
        "log_every",
        "monitor_every",
        "monitor_regions",
    }
)
"""Settings of pretraining that no cell may choose: where it runs, and what all cells are scored by."""

_MIX = ("random", "whole", "subtree", "coarse_only")
_DEFAULT_MIX = dict(zip(_MIX, MaskSettings().mix, strict=True))
_MIXES: dict[str, dict[str, float]] = {
    "mixed": _DEFAULT_MIX,
    "random": {"random": 1.0},
    "whole": {"whole": 1.0},
    "subtree": {"subtree": 1.0},
    "coarse-only": {"coarse_only": 1.0},
    "no-random": {**_DEFAULT_MIX, "random": 0.0},
}

AXES: dict[str, str] = {
    "objective": "mem, cmem, contrastive, or latent (targets from an averaged teacher)",
    "targets": "raw (standardised), whitened, or latent",
    "masks": f"a mix: {', '.join(_MIXES)}, or shares such as {{random: 1, whole: 2}}",
    "mask_rate": "the share that the random pattern hides: a number, or a smallest and a largest",
    "region_subsampling": "the share of visible tokens that is left out without being a target",
    REGION: "the side of a region: that of the set, or a whole multiple of it",
    TILES: "a set of the store, by its name or how the name begins: another tile encoder, or one per magnification",
    "projector": "shared or separate for each magnification",
    "trunk": "shared or separate for each magnification",
    "bottleneck": "the share of steps where the decoder sees only CLS and registers",
}
"""The axes that have a name of their own; any other setting of `pretrain` is an axis under its own name."""


@dataclass(frozen=True)
class Level:
    """A value of an axis.

    Attributes:
        label: how it is called in tables and in `cells`.
        changes: settings of `pretrain`, `region_um`, `tiles`, and what they become.
    """

    label: str
    changes: Mapping[str, Any]


def levels_of(axis: str, values: Any) -> tuple[Level, ...]:
    """The levels of an axis as a design writes them: a list of values, or a mapping of labels to values.

    Raises:
        ConfigError: pretraining has no such axis, or a value that it does not take.
    """
    _check_axis(axis)
    named = dict(values) if isinstance(values, Mapping) else {label_of(value): value for value in _listed(axis, values)}
    if not isinstance(values, Mapping) and len(named) < len(values):
        raise ConfigError(f"the axis {axis} names a value twice: {', '.join(map(label_of, values))}. Keep one.")
    if not named:
        raise ConfigError(f"the axis {axis} has no value. Give it some, or leave it out.")
    return tuple(Level(str(label), _changes(axis, value)) for label, value in named.items())


def _check_axis(axis: str) -> None:
    settings = [name for name in PretrainSettings.model_fields if name not in SHARED_BY_ALL]
    if axis in AXES or axis in settings:
        return
    if axis in SHARED_BY_ALL:
        raise ConfigError(f"{axis} cannot be an axis: it is the same for all cells, so that they can be compared.")
    known = [*AXES, *(name for name in settings if name not in AXES)]
    close = difflib.get_close_matches(axis, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(f"pretraining has no axis {axis!r}; it has {', '.join(known)}.{hint}")


def _changes(axis: str, value: Any) -> dict[str, Any]:
    match axis:
        case "objective":
            return {"objective": "mem", "targets": "latent"} if value == "latent" else {"objective": value}
        case "targets":
            return {"targets": "standardised" if value == "raw" else value}
        case "masks":
            return _mix_changes(value)
        case "mask_rate":
            return {"mask_rate": tuple(value) if isinstance(value, list | tuple) else (value, value)}
        case "region_subsampling":
            return {"token_dropout": value}
        case "region_um":
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"region_um={value!r} is not a side in micrometres.")
            return {REGION: float(value)}
        case "tiles":
            return {TILES: str(value)}
    return {axis: value}


def _mix_changes(value: Any) -> dict[str, Any]:
    mix = value if isinstance(value, Mapping) else _MIXES.get(value)
    if mix is None:
        raise ConfigError(
            f"masks={value!r} is no mix; choose one of {', '.join(_MIXES)}, or give shares of {', '.join(_MIX)}."
        )
    unknown = sorted(set(mix) - set(_MIX))
    if unknown:
        raise ConfigError(f"a mix of masks has no pattern {unknown[0]!r}; the patterns are {', '.join(_MIX)}.")
    return {f"mask_{pattern}": mix.get(pattern, 0.0) for pattern in _MIX}


def _listed(axis: str, values: Any) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise ConfigError(f"the axis {axis} is {values!r}; write a list of values, or a mapping of labels to values.")
    return list(values)


def label_of(value: Any) -> str:
    """How a value is called where its axis gives it no name of its own."""
    if isinstance(value, list | tuple):
        return " to ".join(map(label_of, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key} {label_of(one)}" for key, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


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
    return _once_each(cells, "random", "random weights")


def references_of(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """One cell of tile embeddings without a region encoder for each set and side of a region."""
    return _once_each(cells, "tiles", "no region encoder")


def _once_each(cells: Sequence[Cell], kind: Kind, what: str) -> tuple[Cell, ...]:
    """Controls of a kind for all cells; several cells share one where what differs between them is not in it."""
    found: dict[str, Cell] = {}
    for cell in cells:
        control = replace(cell, kind=kind, changed=frozenset(), extra=True)
        if control.digest not in found:
            found[control.digest] = replace(control, name=_control_name(what, control, cells[0]))
    return tuple(found.values())


def _control_name(what: str, cell: Cell, first: Cell) -> str:
    own, others = cell.content, replace(first, kind=cell.kind).content
    pairs = {**own["settings"], "region_um": own["region_um"], "tiles": own["tiles"]}
    base = {**others["settings"], "region_um": others["region_um"], "tiles": others["tiles"]}
    differing = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in pairs.items()
        if value != base[name]
    ]
    return f"{what} ({', '.join(differing)})" if differing else what


class Design(Settings):
    """The content of a design file."""

    mode: Literal["one-at-a-time", "grid"] = Field(
        "one-at-a-time", description="A base cell and one change at a time, or all combinations."
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Seeds that every cell is run with.")
    base: dict[str, Any] = Field({}, description="Pretraining settings that all cells share.")
    axes: dict[str, Any] = Field(description="Values of each axis; the first of each makes the base cell.")
    cells: dict[str, dict[str, Any]] = Field(
        {}, description="Further cells: a name, and the label of each axis that differs from the base cell."
    )


@dataclass(frozen=True)
class CellPlan:
    """The cells of a design.

    Attributes:
        axes: labels of each axis, the base first.
        cells: the base cell first in a design of one change at a time.
        impossible: combinations of a grid that contradict themselves, with the reason.
    """

    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    impossible: tuple[tuple[str, str], ...]


def read_design(path: Path) -> Design:
    """The design in a YAML file.

    Raises:
        ConfigError: the file cannot be read, or it is no design.
    """
    try:
        return Design.model_validate(read_yaml(path, "design"))
    except ValidationError as error:
        raise ConfigError(f"{path} is no design: {first_problem(error)}") from error


def plan_cells(design: Design) -> CellPlan:
    """All cells of a design, checked before anything is run.

    Raises:
        ConfigError: an axis or a value that pretraining does not have, two axes that decide the same setting, or two
            cells that are the same.
    """
    base = {"size": "S", **design.base}
    for name in base:
        if name in SHARED_BY_ALL:
            raise ConfigError(f"base holds {name}, which the exploration decides for all cells. Leave it out.")
    _settings("base", base)
    if len(set(design.seeds)) < len(design.seeds) or any(seed < 0 for seed in design.seeds):
        raise ConfigError(f"seeds={list(design.seeds)} must be different numbers from 0 on.")
    levels = {axis: levels_of(axis, values) for axis, values in design.axes.items()}
    cells: list[Cell] = []
    impossible: list[tuple[str, str]] = []
    for chosen, changed in _combinations(design, levels):
        name = ", ".join(f"{axis}={chosen[axis].label}" for axis in levels if axis in changed) or "base"
        try:
            cells.append(_cell(name, chosen, changed, base))
        except ConfigError as error:
            if design.mode == "one-at-a-time":
                raise
            impossible.append((name, str(error)))
    for name, labels in design.cells.items():
        chosen = {axis: own[0] for axis, own in levels.items()} | _picked(name, labels, levels)
        cells.append(_cell(name, chosen, frozenset(labels), base, extra=True))
    _check_distinct(cells)
    if not cells:
        raise ConfigError(f"no cell of the grid is possible: {impossible[0][1]}")
    return CellPlan(
        {axis: tuple(level.label for level in own) for axis, own in levels.items()}, tuple(cells), tuple(impossible)
    )


def _combinations(
    design: Design, levels: Mapping[str, tuple[Level, ...]]
) -> Iterator[tuple[dict[str, Level], frozenset[str]]]:
    """The level of each axis, and the axes that differ from the base."""
    base = {axis: own[0] for axis, own in levels.items()}
    if design.mode == "one-at-a-time":
        yield base, frozenset()
        for axis, own in levels.items():
            for level in own[1:]:
                yield base | {axis: level}, frozenset({axis})
        return
    for combination in product(*levels.values()):
        chosen = dict(zip(levels, combination, strict=True))
        yield chosen, frozenset(axis for axis, level in chosen.items() if level is not base[axis])


def _picked(name: str, labels: Mapping[str, Any], levels: Mapping[str, tuple[Level, ...]]) -> dict[str, Level]:
    picked = {}
    for axis, label in labels.items():
        found = [level for level in levels.get(axis, ()) if level.label == label_of(label)]
        if not found:
            known = ", ".join(level.label for level in levels.get(axis, ())) or "no such axis"
            raise ConfigError(f"the cell {name!r} asks for {axis}={label_of(label)}; the design has {known}.")
        picked[axis] = found[0]
    return picked


def _cell(
    name: str,
    chosen: Mapping[str, Level],
    changed: frozenset[str],
    base: Mapping[str, Any],
    *,
    extra: bool = False,
) -> Cell:
    """One cell; what differs from the base cell wins over what the base levels of other axes say."""
    values: dict[str, Any] = {}
    decided: dict[str, str] = {}
    for axis in sorted(chosen, key=lambda axis: axis in changed):
        for field, value in chosen[axis].changes.items():
            if field in decided and decided[field] in changed and axis in changed and values[field] != value:
                raise ConfigError(
                    f"the cell {name!r} contradicts itself: the axes {decided[field]} and {axis} both decide {field} "
                    f"({values[field]} and {value})."
                )
            values[field], decided[field] = value, axis
    region_um, tiles = values.pop(REGION, None), values.pop(TILES, None)
    labels = {axis: level.label for axis, level in chosen.items()}
    return Cell(name, labels, changed, _settings(name, {**base, **values}), region_um, tiles, extra=extra)


def _settings(name: str, values: Mapping[str, Any]) -> PretrainSettings:
    try:
        return PretrainSettings(**values)
    except ValidationError as error:
        raise ConfigError(f"the cell {name!r} cannot be pretrained: {first_problem(error)}") from error


def _check_distinct(cells: list[Cell]) -> None:
    seen: dict[str, str] = {}
    for cell in cells:
        if cell.name in seen.values():
            raise ConfigError(f"two cells are called {cell.name!r}. Give one another name.")
        twin = seen.setdefault(cell.digest, cell.name)
        if twin != cell.name:
            raise ConfigError(f"the cells {twin!r} and {cell.name!r} have the same settings. Leave one out.")
