"""`metrics.csv`: one row every few steps, with the numbers of the held-out regions in some of them."""

import csv
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from parfocal.files import writing
from parfocal.geometry import format_mpp
from parfocal.pretrain.masks import PATTERNS


def metric_columns(mpps: Sequence[float]) -> tuple[str, ...]:
    """The columns, in order; an empty cell was not measured at that step.

    `loss` and its parts are means over the steps since the last row, over processes. `r2` and all that begins with it
    are R2 of hidden tokens on held-out regions (`monitors.R2Sums`): over all of them, by magnification, by mask
    pattern, and by both.
    """
    names = [format_mpp(mpp) for mpp in mpps]
    return (
        "step",
        "loss",
        "loss_tokens",
        "loss_variance",
        "loss_contrast",
        "loss_guard",
        "lr",
        "regions_per_s",
        "skipped_regions",
        "r2",
        *(f"r2_{name}" for name in names),
        *(f"r2_{pattern}" for pattern in PATTERNS),
        *(f"r2_{pattern}_{name}" for pattern in PATTERNS for name in names),
        *(f"r2_bottleneck_{name}" for name in names),
        "contrast_top1",
        "contrast_top1_same_slide",
        "rank_me_cls",
        *(f"rank_me_tokens_{name}" for name in names),
        "token_cosine",
        "slide_probe",
        "slide_probe_chance",
        "retention_r2",
    )


class MetricsFile:
    """Appends rows, each flushed, so that a killed run loses none that it had written."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)

    def cut(self, step: int) -> None:
        """Drop the rows after `step`, and make the file when it is absent.

        A resumed run writes them again; a row that a kill left half-written goes too.
        """
        kept = [row for row in _rows(self.path) if row["step"].isdigit() and int(row["step"]) <= step]
        with writing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n", restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in kept if None not in row.values())

    def append(self, values: Mapping[str, float]) -> None:
        """Write one row; NaN and absent values are empty cells."""
        cells = {key: _text(value) for key, value in values.items() if not math.isnan(value)}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n", restval="").writerow(cells)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`; what was not measured is not in a row."""
    return [{key: float(value) for key, value in row.items() if value} for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _text(value: float) -> str:
    # Nine digits name any float32 exactly.
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.9g}"


class RateClock:
    """Regions per second since the last row; time for looks at held-out regions and for files does not count."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from here."""
        self.regions: int
        self._since: float
        self.regions, self._since = 0, time.perf_counter()

    def rate(self) -> float:
        """Regions per second; call it before anything else is done."""
        return self.regions / max(time.perf_counter() - self._since, 1e-9)
