"""The files of an exploration: every run, every cell and every effect as tables, all of it as JSON, and the page."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parfocal.lab.explore.page import exploration_page
from parfocal.lab.explore.scoring import Failure
from parfocal.lab.explore.summary import AUC, R2, CellSummary, Exploration, Spread
from parfocal.report import make_report
from parfocal.report.writer import Field, to_records, write_json, write_table
from parfocal.version import __version__

FAILURE = (Field("cell"), Field("seed"), Field("error"), Field("message"))
"""A row of `failures.csv`."""


@dataclass(frozen=True, eq=False)
class _Row:
    """A cell, or one run of it; `summary` is None where no run of the cell has a result."""

    name: str
    summary: CellSummary | None
    seed: int = 0
    failed: str = ""
    failed_seeds: int = 0


def write_exploration(
    found: Exploration,
    failures: Sequence[Failure],
    out: Path,
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int,
    holdout: str,
) -> Path:
    """Write everything into `out`, each file whole or not at all, the page last; what comes back is the page."""
    everything = {one.cell.name: one for one in (*found.cells, *found.controls)}
    reasons = {(one.cell, one.seed): f"{one.error}: {one.message}" for one in failures}
    runs = [
        _Row(name, one, of_seed, reasons.pop((name, of_seed), ""))
        for name, one in everything.items()
        for of_seed in one.r2.by_seed
    ]
    runs += [_Row(name, None, of_seed, reason) for (name, of_seed), reason in reasons.items()]
    write_table(out / "results.csv", _run_fields(found, everything.values()), runs)
    names = dict.fromkeys([*everything, *(one.cell for one in failures)])
    cells = [_Row(name, everything.get(name), failed_seeds=sum(one.cell == name for one in failures)) for name in names]
    write_table(out / "cells.csv", _CELL, cells)
    write_table(out / "effects.csv", _EFFECT, found.effects)
    content = {
        "parfocal_version": __version__,
        "settings": settings,
        "inputs": inputs,
        "holdout": holdout,
        "ranked_by": found.ranked_by,
        "cells": [_cell_json(one) for one in found.cells],
        "controls": [_cell_json(one) for one in found.controls],
        "effects": to_records(_EFFECT_JSON, found.effects),
        "gains": to_records(_GAIN_JSON, found.gains),
        "impossible": [{"cell": name, "reason": reason} for name, reason in found.impossible],
        "failures": failures,
    }
    write_json(out / "results.json", content)
    page = exploration_page(found, failures, settings=settings, inputs=inputs, seed=seed, holdout=holdout)
    return make_report(page, out / "report.html")


def _seeded(name: str, spread: Callable[[CellSummary], Spread | None]) -> Field:
    """A number of a run."""

    def value(row: _Row) -> float | None:
        found = spread(row.summary) if row.summary else None
        return None if found is None else found.by_seed.get(row.seed)

    return Field(name, value)


def _of(name: str, key: Hashable, one: CellSummary) -> Spread | None:
    """One of the spreads that an attribute holds."""
    spreads: Mapping[Hashable, Spread] = getattr(one, name)
    return spreads.get(key)


def _run_fields(found: Exploration, cells: Iterable[CellSummary]) -> list[Field]:
    def level(axis: str) -> Callable[[_Row], str | None]:
        return lambda row: row.summary.cell.levels[axis] if row.summary and row.summary.cell.kind == "trained" else None

    parts = dict.fromkeys(key for one in cells for key in one.r2_parts)
    arms = dict.fromkeys(label for one in found.cells for label in one.arms)
    return [
        Field("cell", "name"),
        Field("kind", "summary.cell.kind"),
        *(Field(axis, level(axis)) for axis in found.axes),
        Field("seed"),
        _seeded("r2", lambda one: one.r2),
        _seeded("r2_decoder", lambda one: one.r2_decoder),
        *(_seeded(" ".join(("r2", *key)), partial(_of, "r2_parts", key)) for key in parts),
        _seeded("auc", lambda one: one.auc),
        *(_seeded(f"auc {label}", partial(_of, "arms", label)) for label in arms),
        _seeded("training_seconds", lambda one: one.training_seconds),
        Field("parameters", "summary.parameters"),
        Field("failed"),
    ]


def _mean_sd(name: str, path: str) -> tuple[Field, Field]:
    return Field(name, f"{path}.mean"), Field(f"{name}_sd", f"{path}.sd")


def _place(metric: str) -> Callable[[_Row], int | None]:
    return lambda row: row.summary.rank[metric][0] if row.summary and metric in row.summary.rank else None


_CELL = (
    Field("cell", "name"),
    Field("kind", "summary.cell.kind"),
    Field("seeds", lambda row: row.summary.n_seeds if row.summary else 0),
    *_mean_sd("r2", "summary.r2"),
    Field("r2_rank", _place(R2)),
    *_mean_sd("r2_decoder", "summary.r2_decoder"),
    *_mean_sd("auc", "summary.auc"),
    Field("auc_rank", _place(AUC)),
    Field("training_seconds", "summary.training_seconds.mean"),
    Field("parameters", "summary.parameters"),
    Field("failed_seeds"),
)

_OF_EFFECT = (Field("axis"), Field("value", "level"), Field("against"), Field("pairs", "n_pairs"))
_EFFECT = (*_OF_EFFECT, *_mean_sd("r2", "r2"), *_mean_sd("auc", "auc"))


def _spread(spread: Spread) -> dict[str, Any] | None:
    return {"mean": spread.mean, "sd": spread.sd, "by_seed": spread.by_seed} if spread.by_seed else None


_EFFECT_JSON = (*_OF_EFFECT, Field("r2", lambda one: _spread(one.r2)), Field("auc", lambda one: _spread(one.auc)))
_GAIN_JSON = (
    Field("cell"),
    Field("metric"),
    Field("reference"),
    Field("reference_value"),
    Field("random", lambda one: _spread(one.random)),
    Field("trained", lambda one: _spread(one.trained)),
    Field("share_of_training", "share"),
)


def _cell_json(one: CellSummary) -> dict[str, Any]:
    return {
        "cell": one.cell.name,
        "digest": one.cell.digest,
        **one.cell.content,
        "levels": one.cell.levels if one.cell.kind == "trained" else {},
        "r2": _spread(one.r2),
        "r2_decoder": _spread(one.r2_decoder),
        "r2_parts": {" ".join(key): _spread(spread) for key, spread in one.r2_parts.items()},
        "auc": _spread(one.auc),
        "arms": {label: _spread(spread) for label, spread in one.arms.items()},
        "monitors": {name: _spread(spread) for name, spread in one.monitors.items()},
        "rank": {
            metric: dict(zip(("mean", "best_seed", "worst_seed"), places, strict=True))
            for metric, places in one.rank.items()
        },
        "training_seconds": _spread(one.training_seconds),
        "parameters": one.parameters,
        "warnings": one.warnings,
    }
