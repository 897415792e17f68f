"""How few fine tiles are enough for the labels of a study: measured on its tiles, in the folds of its evaluation."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from parfocal.budget import BudgetResult, BudgetSettings, measure_budgets
from parfocal.budget.run import arms_of, refuse_parts, whole_set
from parfocal.budget.settings import choose_policies
from parfocal.cohort import Target, read_cohort
from parfocal.embed.settings import SlideOpening
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.evaluate.fitting import FitsWhere
from parfocal.evaluate.run import FoldSettings
from parfocal.files import digest8, writable_folder
from parfocal.run import FailedSlide
from parfocal.run.device import find_device
from parfocal.run.events import Event, OnEvent, Progress, as_stage, warn_of
from parfocal.store import EmbeddingSet
from parfocal.study.settings import BudgetSection, Study
from parfocal.study.stages import StageClock, make_tiles, tiles_stage


@dataclass(frozen=True, eq=False)
class StudyBudgets:
    """What budgets of a study were found to be worth.

    Attributes:
        targets: what was found for each target.
        failed: slides that have no tile embeddings.
    """

    targets: Mapping[str, BudgetResult]
    failed: tuple[FailedSlide, ...]

    @property
    def exit_status(self) -> int:
        """0 when all slides are in, 3 when some failed."""
        return 3 if self.failed else 0


def budget_study(
    study: Study, out: Path, *, timed: Sequence[Path] = (), on_event: OnEvent | None = None
) -> StudyBudgets:
    """Measure budgets on the tiles of a study, which are embedded or indexed first where `run_study` has not yet.

    No region encoder is needed or trained. Labels, group, targets and folds are those of the study, and the folds are
    dealt as its evaluation deals them.

    Args:
        study: what `read_study` gives; without a section `budget` everything is as it is by default.
        out: the folder of the study; each target gets a folder in its `budget`.
        timed: slides whose seconds are measured, see `measure_budgets`.
        on_event: told how far the tiles and each target are, and what each target holds.

    Raises:
        ConfigError: the labels, the slides and the settings do not fit together, or the study is about places.
        ParfocalError: no slide could be embedded, or one that was to be timed could not be.
    """
    if study.places is not None:
        raise ConfigError("budgets are compared for labels of slides, and this study is about places inside slides.")
    study = study if study.budget is not None else study.model_copy(update={"budget": BudgetSection()})
    writable_folder(out)
    tell, device = on_event or warn_of, str(find_device(study.run.device))
    stage = tiles_stage(study)
    work = partial(make_tiles, study, study, out / "store", partial(as_stage, tell, stage))
    made = StageClock(out / "stages.json").run(stage, work)
    (tiles,) = made.sets
    check_budget(study, tiles)
    return StudyBudgets(measure_targets(study, tiles, out, device, timed=timed, on_event=tell), made.failed)


def measure_targets(
    study: Study, tiles: EmbeddingSet, out: Path, device: str, *, timed: Sequence[Path] = (), on_event: OnEvent
) -> dict[str, BudgetResult]:
    """Measure the budgets of each target that a study asks about; other arguments as of `budget_study`.

    Args:
        study: with a section `budget`.
        tiles: its tile embeddings.
        out: the folder of the study.
        device: where networks run.
        timed: slides whose seconds are measured.
        on_event: told how far each target is.
    """
    labels, settings = study.of_slides, settings_of(study, device)
    opening = study.slides and SlideOpening(**{name: getattr(study.slides, name) for name in SlideOpening.model_fields})

    def told(target: str, event: Event) -> None:
        if isinstance(event, Progress):
            event = replace(event, stage=f"budgets for {target}, {event.stage}")
        on_event(event)

    return {
        target.name: measure_budgets(
            tiles,
            labels.file,
            target,
            out / "budget" / _folder(target.name),
            settings,
            columns=labels.columns,
            splits=labels.splits,
            encoder=study.encoder,
            timed=timed,
            opening=opening,
            on_event=partial(told, target.name),
        )
        for target in targets_of(study)
    }


def settings_of(study: Study, device: str) -> BudgetSettings:
    """The folds and fits of a study's evaluation with the choices of its section `budget`.

    Args:
        study: with a section `budget`.
        device: where networks run, where the evaluation names none.
    """
    evaluation, asked = study.evaluation_on(device), study.budget or BudgetSection()
    choices = {name: getattr(asked, name) for name in type(asked).model_fields if name != "targets"}
    shared = {name: getattr(evaluation, name) for name in (*FoldSettings.model_fields, *FitsWhere.model_fields)}
    return BudgetSettings(**shared, **choices)


def targets_of(study: Study) -> tuple[Target, ...]:
    """The targets that budgets are compared for: those that the section names, or all of two classes.

    Raises:
        ConfigError: there is none, or one that is named has not two classes.
    """
    labels, named = study.of_slides, (study.budget or BudgetSection()).targets
    asked = [one for one in labels.named_targets if not named or one.name in named]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)  # said when the target is measured
        kinds = {one.name: read_cohort(labels.file, one, labels.columns).outcome.kind for one in asked}
    others = {name: kind for name, kind in kinds.items() if kind != "binary"}
    if others and (named or len(others) == len(kinds)):
        name, kind = next(iter(others.items()))
        raise ConfigError(
            f"budgets are compared by AUC, which needs two classes; {name!r} is {kind}. Name the positive class of a "
            f"target (targets: {{{name}: {{positive: CLASS}}}}), or other targets (budget.targets)."
        )
    return tuple(one for one in asked if one.name not in others)


def check_budget(study: Study, tiles: EmbeddingSet) -> tuple[int, tuple[Target, ...]]:
    """Raise where the section `budget` of a study cannot be done, before hours are spent on anything else.

    Returns:
        How many arms are fitted for it, and for which targets; none without such a section.

    Args:
        study: with or without such a section.
        tiles: the cohort's set, or one that `pictured_set` gives.

    Raises:
        ConfigError: a target, a policy or a reader does not exist or cannot be compared.
        MismatchError: slides were read in part.
        StoreError: the set has one magnification, or overlapping regions.
    """
    if study.budget is None:
        return 0, ()
    settings = settings_of(study, "cpu")
    policies, _ = choose_policies(settings.policies, tiles)
    targets = targets_of(study)
    _, arms = arms_of(whole_set(tiles), policies, settings)
    refuse_parts(tiles, tiles.slides)
    return len(arms), targets


def _folder(target: str) -> str:
    """A name that no file system minds; what had to be changed is told apart by a digest."""
    name = re.sub(r"[^\w.+-]+|^\.+", "-", target)
    return name if name == target else f"{name}-{digest8(target)}"
