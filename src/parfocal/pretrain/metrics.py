"""The numbers of a run: `metrics.csv`, what is told of them while it goes on, and whether the run is long enough.

The file has one row every few steps, with the numbers of the held-out regions in some of them.
"""

import csv
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from parfocal.files import writing
from parfocal.geometry import format_mpp
from parfocal.pretrain.holdout import Split, regions_in_words
from parfocal.pretrain.masks import PATTERNS
from parfocal.pretrain.settings import PretrainSettings
from parfocal.run.events import Progress


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


def steps_done(row: Mapping[str, float], n_steps: int, mpps: Sequence[float]) -> Progress:
    """How far a run is, with a row of `metrics.csv` as the result; a look at held-out regions has a line of its own."""
    look = held_out_numbers(row, mpps)
    numbers = [f"loss {row['loss']:.4f}"] if "loss" in row else []
    numbers += [f"{row['regions_per_s']:.0f} regions/s"] if "regions_per_s" in row else []
    return Progress("steps", int(row["step"]), n_steps, "  ".join(numbers), look, row)


def held_out_numbers(row: Mapping[str, float], mpps: Sequence[float]) -> str:
    """R2 of each magnification, and how often a region's other view is found; empty where nothing was looked at."""
    said = []
    if not math.isnan(row.get("r2", math.nan)):
        r2 = [f"{format_mpp(m)} mpp {row.get(f'r2_{format_mpp(m)}', math.nan):.3f}" for m in mpps]
        said.append(f"held-out R2 {', '.join(r2)}")
    if not math.isnan(row.get("contrast_top1_same_slide", math.nan)):
        said.append(f"own view found {row['contrast_top1_same_slide']:.2f}")
    return "  ".join(said)


_FEW = 500
"""Steps. In docs/prove.md what magnifications share beyond a linear map shows after 500 to 1,500 of them, not before;
epochs that suit a hundred thousand regions are far fewer steps on a small cohort."""
_GOOD = 1500
_SINCE = (0.6, 0.85)
"""The share of the steps after which the look lies that the last one is compared with: by then the rate is low."""
_GAIN = 0.01
"""Of held-out R2 since then."""


def remarks_before(settings: PretrainSettings, n_steps: int, split: Split, *, world: int) -> tuple[str, ...]:
    """What is to be said of a number of steps that comes from epochs; one that was asked for is not doubted."""
    if settings.steps is not None or n_steps >= _FEW:
        return ()
    n_regions, per_step = sum(len(part.regions) for part in split.training), settings.batch * world
    epochs = math.ceil(_GOOD * per_step / n_regions)
    return (
        f"this pretraining is short for the cohort: {settings.epochs:g} epochs of {regions_in_words(split.training)} "
        f"are {n_steps} steps of {per_step} regions, and in fewer than {_FEW} hardly more "
        f"than means is learnt; train longer with --steps {_GOOD} (or --epochs {epochs}), or embed more slides",
    )


def remarks_after(rows: Sequence[Mapping[str, float]], n_steps: int, *, warmup: float) -> tuple[str, ...]:
    """What is to be said of a run whose held-out R2 was still rising when it ended.

    Args:
        rows: of `metrics.csv`.
        n_steps: of the run.
        warmup: share of the steps before which a look says nothing.
    """
    looks = {int(row["step"]): row["r2"] for row in rows if math.isfinite(row.get("r2", math.nan))}
    looks = {step: value for step, value in looks.items() if step >= warmup * n_steps}
    before = [step for step in looks if _SINCE[0] * n_steps <= step <= _SINCE[1] * n_steps]
    last = looks.get(n_steps, -math.inf)
    if not before or last < max(looks.values()) or last - looks[before[-1]] <= _GAIN:
        return ()
    return (
        f"still improving when it ended: held-out R2 was {looks[before[-1]]:.3f} at step {before[-1]} and is "
        f"{last:.3f} at the last, {n_steps}, the best of {len(looks)} looks; train longer, for example with "
        f"--steps {2 * n_steps}",
    )
