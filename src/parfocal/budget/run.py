"""How few fine tiles are enough for a label: measured on a set whose slides were read whole."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from parfocal.budget.curve import Costs, draw_curves, least_of, whole_readers
from parfocal.budget.encoder import flops_per_tile
from parfocal.budget.files import write_budgets
from parfocal.budget.page import budget_page, sentences
from parfocal.budget.pictures import read_figures
from parfocal.budget.reading import KEPT, Asked, BudgetScores, score_budgets
from parfocal.budget.result import BudgetResult, Curve, Seconds
from parfocal.budget.seconds import embed_again, measure_seconds
from parfocal.budget.settings import BudgetSettings, choose_policies
from parfocal.cohort import Cohort, CohortColumns, LabelColumns, Target, read_cohort
from parfocal.embed.settings import SlideOpening
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.evaluate.arm import Arm, choose_arms
from parfocal.evaluate.arms import all_arms, read_arm_bags
from parfocal.evaluate.fitting import one_thread_each
from parfocal.evaluate.held_out import HeldOut
from parfocal.evaluate.run import ELSEWHERE, deal, read_dealt
from parfocal.evaluate.sources import common_slides, tiles_per_slide
from parfocal.files import digest8, file_digest8, writable_folder
from parfocal.geometry import format_mpp
from parfocal.report import make_report
from parfocal.run.cache import StepCache
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.store import EmbeddingSet, LeftOut, Source, open_sets
from parfocal.table import some_of
from parfocal.zoom import POLICIES, Policy

_HEADS = ("contrast", "concat")
"""The arms that score slides which are read in part: one that knows what it has not seen, and means as its control."""


def measure_budgets(
    store: Source,
    labels: Path,
    target: str | Target,
    out: Path,
    settings: BudgetSettings | None = None,
    *,
    columns: LabelColumns | None = None,
    splits: Path | None = None,
    encoder: str = "",
    timed: Sequence[Path] = (),
    opening: SlideOpening | None = None,
    on_event: OnEvent | None = None,
) -> BudgetResult:
    """Draw the curve of AUC against the share of fine tiles for every policy and head, and write tables and a report.

    Slides were read whole, so every budget is tried by leaving tiles out. Heads are fitted on whole training slides of
    each fold, and so are those that policies ask; held-out slides are read by the policy. A run that was stopped goes
    on.

    Args:
        store: a store, the folder of one set, or an open set of tile embeddings at two magnifications or more.
        labels: a CSV or an Excel workbook with a column `slide`, the target and the group.
        target: a column of two classes; a text stands for a target whose kind is seen from its values.
        out: folder of `report.html`, `budget.json`, `results.csv`, `readers.csv` and `splits.csv`.
        settings: policies, budgets, margin and folds.
        columns: the other columns of `labels`, such as that of the patient.
        splits: a CSV to take the folds from, as `splits.csv` of an earlier run or of `evaluate`.
        encoder: the spec of the tile encoder, whose operations are counted; told by the set's settings where empty.
        timed: slide files, folders or manifests that are embedded in every way, three times, to measure seconds; they
            need not be of the cohort. Without any there are no seconds.
        opening: how these are opened.
        on_event: told what the target holds, before anything is fitted, and how many `steps` and `timed runs` are done.

    Raises:
        ConfigError: labels, policies and set do not fit together, the target has not two classes, or a slide that is to
            be timed is not there.
        EncoderError: slides are to be timed, and the encoder cannot be loaded.
        MismatchError: slides of the set were read in part, or the encoder is another one.
        StoreError: the set cannot be read, or holds no tiles at two magnifications.
    """
    settings, columns = settings or BudgetSettings(), columns or CohortColumns()
    find_device(settings.probes.device)
    writable_folder(out)
    source, asked_target = whole_set(store), Target(name=target) if isinstance(target, str) else target
    policies, left_out = choose_policies(settings.policies, source)
    labelled = read_cohort(labels, asked_target, columns)
    if labelled.outcome.kind != "binary":
        raise ConfigError(
            f"budgets are compared by AUC, which needs two classes; {labelled.target!r} is {labelled.outcome.kind}. "
            "Name the positive class (--positive), which is then set against the others."
        )
    refuse_parts(source, source.slides)
    slides, notes = common_slides([source])
    cohort, tell = labelled.restricted_to(slides, source.name), on_event or warn_of
    tell(Notice(cohort.sentence()))
    asked, arms = arms_of(source, policies, settings)
    how = embed_again(source, timed, encoder, settings.probes.device, opening) if timed else None
    unread = LeftOut()
    bags = read_arm_bags(
        arms,
        [source],
        cohort.slides,
        most_instances=settings.most_instances,
        seed=settings.probes.seed,
        left_out=unread,
        most_bytes=settings.most_bytes,
    )
    cohort = cohort.without(unread.reasons)
    cohort = replace(cohort, notes=(*notes, *unread.notes(), *cohort.notes, *cohort.group_notes()))
    dealt = deal(cohort, settings, read_dealt(splits, [cohort.target]) if splits else {})
    folds = dealt.folds(cohort, inner=settings.probes.inner_folds, seed=settings.probes.seed)
    held_out, kept = HeldOut.of(cohort, folds), out / "kept"
    done, total = 0, len(arms) * dealt.n_repeats + len(folds)

    def report(item: str) -> None:
        nonlocal done
        done += 1
        tell(Progress("steps", done, total, item))

    with one_thread_each():
        scores = score_budgets(
            arms, bags, cohort, folds, source.read, asked, settings.probes, StepCache(kept, KEPT), report, settings
        )
    tiles = [one or {} for one in tiles_per_slide([source], arms, cohort.slides)]
    flops, uncounted = flops_per_tile(source, encoder)
    readers = whole_readers(arms, scores, tiles, held_out, flops)
    best, costs = next(one.arm for one in readers if one.against_best is None), _costs(source, cohort, flops)
    curves = draw_curves(scores, asked, best, costs, held_out, settings.margin)
    seconds = None
    if how is not None:
        policy = _timed_policy(curves, asked, scores)
        seconds = measure_seconds(timed, how, policy, asked.budgets, asked.seed, tell)
        curves = tuple(_with_seconds(one, seconds) for one in curves)
        at = {source.mpps: seconds.whole, source.mpps[-1:]: seconds.finest}
        readers = tuple(replace(one, seconds=at.get(tuple(read))) for one, read in zip(readers, tiles, strict=True))
    said = [
        *cohort.notes,
        *([held_out.note] if held_out.note else []),
        *(f"The policy {name} is left out: {why}." for name, why in left_out.items()),
        *(_silence(name, count, len(folds), why) for name, (count, why) in scores.silent.items()),
        *_derived_note(source),
        *([uncounted] if uncounted else []),
    ]
    described = {
        # Where it ran, and in how much memory, decides nothing.
        **settings.model_dump(mode="json", exclude={"probes": {"device"}, **dict.fromkeys(ELSEWHERE, True)}),
        **columns.model_dump(mode="json"),
        "target": asked_target.model_dump(mode="json"),
        "splits": None if splits is None else splits.name,
        "policies": [*policies],
        "budgets": [*asked.budgets],
    }
    answer = sentences(cohort.target, readers, curves, settings.margin, seconds)
    inputs = {source.name: digest8(source.settings), labels.name: file_digest8(labels)}
    result = BudgetResult(cohort, readers, curves, answer, tuple(said), out / "report.html", out, dealt, seconds)
    write_budgets(result, settings=described, inputs=inputs)
    figures = read_figures(source, cohort, folds, asked, scores, costs.fine.astype(int).tolist())
    page = budget_page(result, figures, settings=described, seed=settings.probes.seed, inputs=inputs)
    make_report(page, result.report)
    shutil.rmtree(kept, ignore_errors=True)
    return result


def whole_set(store: Source) -> EmbeddingSet:
    """The one set of tile embeddings on which budgets can be compared.

    Raises:
        StoreError: there is not one, or its regions overlap or have one magnification.
    """
    tiles = [one for one in open_sets(store) if one.kind == "tiles"]
    if len(tiles) != 1:
        found = f"{len(tiles)} sets of tile embeddings: {', '.join(one.name for one in tiles)}" if tiles else "none"
        raise StoreError(f"budgets are compared on one set of tile embeddings, and {store} holds {found}. Name one.")
    source = tiles[0]
    if len(source.mpps) < 2:
        raise StoreError(
            f"what is read closely is chosen by coarser tiles, and {source.name} has {format_mpp(source.mpps[0])} mpp "
            "alone. Embed its slides at two magnifications or more."
        )
    if source.step_um < source.region_um:
        raise StoreError(f"budgets are compared on regions side by side, and those of {source.name} overlap.")
    return source


def refuse_parts(source: EmbeddingSet, slides: Sequence[str]) -> None:
    """Raise where slides were read in part.

    Raises:
        MismatchError: some were; the text names a few.
    """
    parts = [slide for slide in slides if source.reading(slide) is not None]
    if parts:
        raise MismatchError(
            f"{len(parts)} slides of {source.name} were read in part ({some_of(parts)}), and every budget is compared "
            "with reading everything. Embed them without --zoom, or with --budget 1."
        )


def arms_of(source: EmbeddingSet, policies: tuple[str, ...], settings: BudgetSettings) -> tuple[Asked, tuple[Arm, ...]]:
    """What is asked, and every arm that is fitted: the heads, the finest magnification alone, and further readers.

    Raises:
        ConfigError: a further reader does not exist, or averages others.
    """
    known = all_arms([source])
    by_id = {arm.id: arm for arm in known}
    coarsest, finest = format_mpp(source.mpps[0]), format_mpp(source.mpps[-1])
    heads = tuple(by_id[name] for name in _HEADS)
    attention = by_id[f"{coarsest}/gated-attention"] if "attention" in policies else None
    alone = [by_id[f"{finest}/{method}"] for method in ("mean", "gated-attention")]
    further = choose_arms(known, settings.readers) if settings.readers else ()
    averages = [arm.id for arm in further if arm.pool is None]
    if averages:
        raise ConfigError(f"the arm {averages[0]} averages others; name those to --readers that it averages.")
    arms = {arm.id: arm for arm in (*heads, *alone, *([attention] if attention else ()), *further)}
    budgets = (0.0, *sorted(set(settings.budgets)))
    return Asked(heads, attention, policies, budgets, settings.probes.seed), tuple(arms.values())


def _costs(source: EmbeddingSet, cohort: Cohort, flops: Mapping[float, float] | None) -> Costs:
    tiles = [source.n_tiles(slide) for slide in cohort.slides]
    *coarser, finest = source.mpps
    fine = np.array([one[finest] for one in tiles], dtype=np.float64)
    coarse = np.array([sum(one[mpp] for mpp in coarser) for one in tiles], dtype=np.float64)
    if flops is None:
        return Costs(coarse, fine)
    of_slide = [sum(one[mpp] * flops[mpp] for mpp in coarser) for one in tiles]
    return Costs(coarse, fine, float(np.mean(of_slide)), flops[finest])


def _timed_policy(curves: Sequence[Curve], asked: Asked, scores: BudgetScores) -> Policy:
    """The policy of the answer, or of the best curve where there is none; a stride where none can always say."""
    known = [one for one in curves if one.is_attainable and one.policy not in scores.silent]
    if not known:
        return POLICIES.get("stride")
    curve = least_of(known) or max(known, key=lambda one: one.area)
    policy = scores.policies[0][asked.policies.index(curve.policy)]
    assert isinstance(policy, Policy)
    return policy


def _with_seconds(curve: Curve, seconds: Seconds) -> Curve:
    if curve.policy != seconds.policy:
        return curve
    at = {**seconds.at, 1.0: seconds.whole}
    return replace(curve, points=tuple(replace(one, seconds=at[one.budget]) for one in curve.points))


def _silence(name: str, count: int, n_folds: int, why: str) -> str:
    where = f"In {count} of {n_folds} folds" if count < n_folds else "In all folds"
    instead = "a stride is read there" if count < n_folds else "it has no curve"
    return f"{where} the policy {name} could not say where to read, and {instead}: {why}"


def _derived_note(source: EmbeddingSet) -> list[str]:
    if source.settings.get("coarse") != "derived":
        return []
    return [
        "The coarse tiles of this set are averaged from fine ones (--coarse derived). A slide that is read in part has "
        "coarse tiles of its own levels, which look a little different (--coarse native)."
    ]
