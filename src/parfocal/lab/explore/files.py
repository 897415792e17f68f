"""The files of an exploration: every run, every cell and every effect as tables, all of it as JSON, and the page."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parfocal.files import write_csv, writing
from parfocal.lab.explore.page import exploration_page
from parfocal.lab.explore.scoring import Failure
from parfocal.lab.explore.summary import AUC, R2, CellSummary, Exploration, Spread
from parfocal.report import make_report
from parfocal.version import __version__

__all__ = ["write_exploration"]


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
    everything = (*found.cells, *found.controls)
    arms = list(dict.fromkeys(label for one in found.cells for label in one.arms))
    parts = list(dict.fromkeys(key for one in everything for key in one.r2_parts))
    columns = ("cell", "kind", *found.axes, "seed", "r2", "r2_decoder", *(f"r2 {p} {m}" for p, m in parts))
    columns += ("auc", *(f"auc {label}" for label in arms), "training_seconds", "parameters", "failed")
    reasons = {(one.cell, one.seed): f"{one.error}: {one.message}" for one in failures}
    runs = [
        [*row, reasons.pop((one.cell.name, seed), "")]
        for one in everything
        for seed, row in _run_rows(one, found, parts, arms)
    ]
    place = columns.index("seed")
    for (cell, seed), reason in reasons.items():
        runs.append([cell, *[""] * (place - 1), seed, *[""] * (len(columns) - place - 2), reason])
    write_csv(out / "results.csv", columns, runs)
    cells = [[*_cell_row(one), sum(failure.cell == one.cell.name for failure in failures)] for one in everything]
    known = {one.cell.name for one in everything}
    for name in dict.fromkeys(one.cell for one in failures if one.cell not in known):
        count = sum(one.cell == name for one in failures)
        cells.append([name, "", 0, *[""] * (len(_CELL_COLUMNS) - 4), count])
    write_csv(out / "cells.csv", _CELL_COLUMNS, cells)
    write_csv(
        out / "effects.csv",
        ("axis", "value", "against", "pairs", "r2", "r2_sd", "auc", "auc_sd"),
        (
            (one.axis, one.level, one.against, one.n_pairs, *_mean_sd(one.r2), *_mean_sd(one.auc))
            for one in found.effects
        ),
    )
    content = {
        "parfocal_version": __version__,
        "settings": dict(settings),
        "inputs": dict(inputs),
        "holdout": holdout,
        "ranked_by": found.ranked_by,
        "cells": [_cell_json(one) for one in found.cells],
        "controls": [_cell_json(one) for one in found.controls],
        "effects": [
            {
                "axis": one.axis,
                "value": one.level,
                "against": one.against,
                "pairs": one.n_pairs,
                "r2": _spread_json(one.r2),
                "auc": _spread_json(one.auc),
            }
            for one in found.effects
        ],
        "gains": [
            {
                "cell": one.cell,
                "metric": one.metric,
                "reference": one.reference,
                "reference_value": _number(one.reference_value),
                "random": _spread_json(one.random),
                "trained": _spread_json(one.trained),
                "share_of_training": _number(one.share),
            }
            for one in found.gains
        ],
        "impossible": [{"cell": name, "reason": reason} for name, reason in found.impossible],
        "failures": [
            {"cell": one.cell, "seed": one.seed, "error": one.error, "message": one.message} for one in failures
        ],
    }
    with writing(out / "results.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    page = exploration_page(found, failures, settings=settings, inputs=inputs, seed=seed, holdout=holdout)
    return make_report(page, out / "report.html")


_CELL_COLUMNS = (
    "cell", "kind", "seeds", "r2", "r2_sd", "r2_rank", "r2_decoder", "r2_decoder_sd", "auc", "auc_sd", "auc_rank",
    "training_seconds", "parameters", "failed_seeds",
)  # fmt: skip


def _run_rows(
    one: CellSummary, found: Exploration, parts: Sequence[tuple[str, str]], arms: Sequence[str]
) -> Iterable[tuple[int, Sequence[Any]]]:
    """Each seed with its row."""
    for seed in one.r2.by_seed:
        own = [one.r2_parts[key].by_seed.get(seed, "") if key in one.r2_parts else "" for key in parts]
        by_arm = [one.arms[label].by_seed.get(seed, "") if label in one.arms else "" for label in arms]
        yield (
            seed,
            [
                one.cell.name,
                one.cell.kind,
                *(one.cell.levels[axis] if one.cell.kind == "trained" else "" for axis in found.axes),
                seed,
                one.r2.by_seed[seed],
                one.r2_decoder.by_seed.get(seed, ""),
                *own,
                one.auc.by_seed.get(seed, "") if one.cell.kind != "tiles" else "",
                *by_arm,
                one.training_seconds.by_seed[seed],
                one.parameters,
            ],
        )


def _cell_row(one: CellSummary) -> Sequence[Any]:
    place = {metric: ranks[0] for metric, ranks in one.rank.items()}
    # The arms of tile embeddings are others than those of a region encoder: their mean is no number to compare.
    auc = _mean_sd(one.auc) if one.cell.kind != "tiles" else ("", "")
    return [
        one.cell.name, one.cell.kind, one.n_seeds, *_mean_sd(one.r2), place.get(R2, ""), *_mean_sd(one.r2_decoder),
        *auc, place.get(AUC, ""), one.training_seconds.mean, one.parameters,
    ]  # fmt: skip


def _cell_json(one: CellSummary) -> dict[str, Any]:
    return {
        "cell": one.cell.name,
        "digest": one.cell.digest,
        **one.cell.content,
        "levels": dict(one.cell.levels) if one.cell.kind == "trained" else {},
        "r2": _spread_json(one.r2),
        "r2_decoder": _spread_json(one.r2_decoder),
        "r2_parts": {f"{pattern} {mpp}": _spread_json(spread) for (pattern, mpp), spread in one.r2_parts.items()},
        "auc": _spread_json(one.auc) if one.cell.kind != "tiles" else None,
        "arms": {label: _spread_json(spread) for label, spread in one.arms.items()},
        "monitors": {name: _spread_json(spread) for name, spread in one.monitors.items()},
        "rank": {metric: {"mean": a, "best_seed": b, "worst_seed": c} for metric, (a, b, c) in one.rank.items()},
        "training_seconds": _spread_json(one.training_seconds),
        "parameters": one.parameters,
        "warnings": dict(one.warnings),
    }


def _spread_json(spread: Spread) -> dict[str, Any] | None:
    if not spread.by_seed:
        return None
    return {
        "mean": _number(spread.mean),
        "sd": _number(spread.sd),
        "by_seed": {str(seed): _number(value) for seed, value in spread.by_seed.items()},
    }


def _mean_sd(spread: Spread) -> tuple[Any, Any]:
    return tuple("" if math.isnan(value) else value for value in (spread.mean, spread.sd))  # type: ignore[return-value]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
