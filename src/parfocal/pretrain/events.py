"""What is said of a run of `pretrain`: its numbers beside how far it is, and whether it is long enough."""

import math
from collections.abc import Mapping, Sequence

from parfocal.geometry import format_mpp
from parfocal.pretrain.holdout import Split
from parfocal.pretrain.settings import PretrainSettings
from parfocal.run.events import Progress


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
        f"this pretraining is short for the cohort: {settings.epochs:g} epochs of {n_regions} regions of "
        f"{len(split.training)} slides are {n_steps} steps of {per_step} regions, and in fewer than {_FEW} hardly more "
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
