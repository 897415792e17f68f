"""A design file: which axes with which values, and which cells they make."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from parfocal.config import Settings
from parfocal.errors import ConfigError
from parfocal.pretrain import PretrainSettings
from parfocal.studies.exploration.axes import REGION, SHARED_BY_ALL, TILES, Level, label_of, levels_of
from parfocal.studies.exploration.cells import Cell

__all__ = ["CellPlan", "Design", "plan_cells", "read_design"]


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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the design {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no design: it must hold axes with their values.")
    try:
        return Design(**content)
    except ValidationError as error:
        raise ConfigError(f"{path} is no design: {_first_error(error)}") from error


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
        name = _name(chosen, levels, changed)
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
        raise ConfigError(f"the cell {name!r} cannot be pretrained: {_first_error(error)}") from error


def _name(chosen: Mapping[str, Level], levels: Mapping[str, tuple[Level, ...]], changed: frozenset[str]) -> str:
    """The axes that differ from the base cell, in the order of the design."""
    return ", ".join(f"{axis}={chosen[axis].label}" for axis in levels if axis in changed) or "base"


def _check_distinct(cells: list[Cell]) -> None:
    seen: dict[str, str] = {}
    for cell in cells:
        if cell.name in seen.values():
            raise ConfigError(f"two cells are called {cell.name!r}. Give one another name.")
        twin = seen.setdefault(cell.digest, cell.name)
        if twin != cell.name:
            raise ConfigError(f"the cells {twin!r} and {cell.name!r} have the same settings. Leave one out.")


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "there is no such setting"
    return f"{where}: {message}" if where else message
