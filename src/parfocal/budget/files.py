"""The files of a comparison of budgets: its tables, and all of it as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

from parfocal.budget.result import BudgetResult
from parfocal.cohort import write_splits
from parfocal.report import Field, columns, interval_columns, pick, write_json, write_table
from parfocal.version import __version__

_AGAINST = {"against_whole": "against_whole_", "against_best": "against_best_"}


def _against(of: str, prefix: str) -> list[Field]:
    difference = interval_columns(f"{of}.difference", f"{prefix}difference", prefix)
    return [*difference, *columns(of=of, **{f"{prefix}bound": "bound"})]


_RESULTS = (
    *columns("target", "policy", head="head.id"),
    *columns("budget", "share", "encodings", "flops", "seconds", of="point"),
    *interval_columns("point.auc", "auc"),
    *(field for name, prefix in _AGAINST.items() for field in _against(f"point.{name}", prefix)),
)
_READERS = (
    *columns("target", reader="reader.arm.id", name="reader.arm.label"),
    *columns("encodings", "flops", "seconds", of="reader"),
    *interval_columns("reader.auc", "auc"),
    *_against("reader.against_best", "against_best_"),
)


def write_budgets(result: BudgetResult, *, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Write the tables, the folds, and all of it as JSON into the result's folder, each file whole or not at all."""
    target = result.cohort.target
    write_table(result.out / "results.csv", _RESULTS, _rows(result))
    write_table(
        result.out / "readers.csv", _READERS, ({"target": target, "reader": reader} for reader in result.readers)
    )
    write_splits(result.out / "splits.csv", {target: result.splits})
    write_json(
        result.out / "budget.json",
        {"parfocal_version": __version__, "settings": settings, "inputs": inputs, **describe(result)},
    )


def describe(result: BudgetResult) -> dict[str, Any]:
    """All of it as plain values, for JSON."""
    curve = ("policy", "least", "least_of_best", "area", "share_of_gain", "could_show", "could_show_all", "points")
    return {
        "target": result.cohort.target,
        "slides": len(result.cohort.slides),
        **pick(result.cohort, "is_grouped", "positive", "negative", groups="n_groups"),
        **pick(result, "sentences", "notes", "seconds"),
        "readers": [
            pick(one, "auc", "encodings", "flops", "seconds", "against_best", id="arm.id", name="arm.label")
            for one in result.readers
        ],
        "curves": [pick(one, *curve, head="head.id") for one in result.curves],
    }


def _rows(result: BudgetResult) -> Iterator[Mapping[str, Any]]:
    """One row for each head, policy and budget."""
    for curve in result.curves:
        for point in curve.points:
            yield {"target": result.cohort.target, "policy": curve.policy, "head": curve.head, "point": point}
