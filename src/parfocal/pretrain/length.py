"""Whether a run is long enough: what is said before it begins, and when it has ended while it still improved."""

import math
from collections.abc import Mapping, Sequence

from parfocal.pretrain.holdout import Split
from parfocal.pretrain.settings import PretrainSettings

__all__ = ["remarks_after", "remarks_before"]

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
