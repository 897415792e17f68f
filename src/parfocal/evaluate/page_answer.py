"""The first screen of an evaluation of slides: one sentence, one table and one figure that answer its question.

Whether the mixture is better than the best single magnification, by how much, whether that is context or
magnification, and what it costs. The comparison is the one that was named before anything was measured, and what it
shows is decided once (`AcrossTargets.shown`), so that no sentence of the page can say otherwise than another.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from parfocal.evaluate.arm import Arm
from parfocal.evaluate.page_split import mean_split
from parfocal.evaluate.result import AcrossTargets, ArmRun, TargetResult
from parfocal.evaluate.split import SplitGain, show_part
from parfocal.report import Field, Note, Table, compared_figure, page_table, show, show_difference
from parfocal.report.page import Block
from parfocal.stats import Interval, Verdict
from parfocal.table import some_of

_MOST_ROWS, _MOST_SAID = 3, 2
_QUESTION: Mapping[Verdict, str] = {
    "better": "mixing magnifications is better{} than the best single one",
    "worse": "mixing magnifications is worse{} than the best single one",
    "open": "it is open whether mixing magnifications is better{} than the best single one",
}
_OPEN = (
    "Open: chance can explain a number of this size with so few patients. The mixture was named before anything was "
    "measured; the single magnification is the best of those named above by its result here, which favours it."
)
_SPLIT = (
    "Context is what means of fine tiles over the areas of coarse ones add to the finest magnification, magnification "
    "is what coarse tiles add beyond, both in one linear readout."
)
_NOTHING = "no mixture stands against a single magnification here"


@dataclass(frozen=True)
class _Row:
    """One line of the table: a target, or the mean over targets."""

    name: str
    single: Interval
    mixed: Interval
    difference: Interval
    shown: str
    gain: SplitGain | None
    tiles: float | None
    tiles_alone: float | None
    alone: str
    of_single: Arm | None = None
    of_mixed: Arm | None = None


def missing_sentences(results: Mapping[str, TargetResult]) -> tuple[str, ...]:
    """The targets that have no primary comparison because an arm of it failed, each with the reason."""
    return tuple(f"{name}: {one.missing_primary}" for name, one in results.items() if one.missing_primary)


def answer_sentence(results: Mapping[str, TargetResult], primary: AcrossTargets | None) -> str:
    """The answer in one sentence; where nothing was compared, what is there."""
    missing = [name for name, one in results.items() if one.missing_primary]
    failed = f"an arm of the comparison failed for {some_of(missing)}" if missing else ""
    if primary is None:
        parts = [f"{_NOTHING}: {failed}" if missing else _NOTHING, _best_words(results)]
    else:
        whole = _rows(results, primary)[-1]
        gain, about = whole.gain, " on average" if len(primary.targets) > 1 else ""
        parts = [
            _compared(results, primary, whole),
            "" if gain is None else f"in a linear readout {gain.brought}{about}",
            _cost(whole),
            failed,
        ]
    text = "; ".join(part for part in parts if part)
    return f"{text[0].upper()}{text[1:]}."


def answer_blocks(results: Mapping[str, TargetResult], primary: AcrossTargets | None) -> tuple[Block, ...]:
    """The table and the figure, and a note for each target whose comparison is missing."""
    notes = tuple(Note(one, "A comparison that is missing") for one in missing_sentences(results))
    if primary is None:
        return (*notes, *_best_blocks(results))
    rows = _rows(results, primary)
    of_targets = rows[: len(primary.targets)]
    intervals = {row.name: {"best single magnification": row.single, "mixture": row.mixed} for row in of_targets}
    return (_table(results, rows), compared_figure(intervals, metric=_metric(results, primary.targets)), *notes)


def _compared(results: Mapping[str, TargetResult], primary: AcrossTargets, whole: _Row) -> str:
    """Of one target what it shows, of few each of them and the mean, of more the mean."""
    numbers = f"{whole.mixed.estimate:.2f} against {whole.single.estimate:.2f}, {show_difference(whole.difference)}"
    targets = primary.targets
    if len(targets) == 1:
        said = _QUESTION[primary.shown[targets[0]]].format("")
        return f"for {targets[0]} {said}: {results[targets[0]].metric.name} {numbers}"
    numbers = f"{numbers}, ahead in {primary.ahead} of {len(targets)} targets"
    if whole.difference.has_ends:
        return f"over {len(targets)} targets {_QUESTION[primary.shown_on_average].format(' on average')}: {numbers}"
    sides = {side: [name for name in targets if primary.shown[name] == side] for side in _QUESTION}
    said = " and ".join(f"{side} for {_listed(sides[side])}" for side in ("better", "worse") if sides[side])
    if not said:
        return f"for {_listed(targets)} {_QUESTION['open'].format('')}: on average {numbers}"
    still = f", and open for {_listed(sides['open'])}" if sides["open"] else ""
    return f"mixing magnifications is {said} than the best single one{still}: on average {numbers}"


def _cost(whole: _Row) -> str:
    if whole.tiles is None:
        return ""
    against = "" if whole.tiles_alone is None else f", {whole.alone} alone {whole.tiles_alone:,.0f}"
    return f"the mixture reads {whole.tiles:,.0f} tiles per slide{against}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _rows(results: Mapping[str, TargetResult], primary: AcrossTargets) -> list[_Row]:
    """A row for each target, and one for their mean where there are several."""
    rows = [_row_of(target, results[target], primary.shown[target]) for target in primary.targets]
    if primary.single is None or primary.mixed is None or primary.difference is None:
        return rows
    ahead = f"ahead in {primary.ahead} of {len(rows)}"
    gains = [row.gain for row in rows if row.gain is not None]
    mean = _Row(
        f"Mean of {len(rows)} targets",
        primary.single,
        primary.mixed,
        primary.difference,
        f"{primary.shown_on_average}, {ahead}" if primary.difference.has_ends else ahead,
        mean_split(gains) if len(gains) == len(rows) else None,
        _mean([row.tiles for row in rows]),
        _mean([row.tiles_alone for row in rows]),
        rows[0].alone,
    )
    return [*rows, mean]


def _row_of(target: str, result: TargetResult, shown: Verdict) -> _Row:
    pair = result.primary
    assert pair is not None, f"{target!r} has no primary comparison"
    single, mixed = result.runs[pair.single], result.runs[pair.mixed]
    # Of single magnifications the finest has the most tiles.
    alone = [run for run in result.runs if run.arm.knows == "single"]
    finest = max(alone or [single], key=lambda run: run.encodings_per_slide or 0.0)
    return _Row(
        target,
        single.interval,
        mixed.interval,
        pair.test.difference,
        shown,
        next(iter(result.gains.values()), None),
        mixed.encodings_per_slide,
        finest.encodings_per_slide,
        finest.arm.name,
        single.arm,
        mixed.arm,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _metric(results: Mapping[str, TargetResult], targets: Iterable[str]) -> str:
    names = " or ".join(dict.fromkeys(results[target].metric.name for target in targets))
    return names[0].upper() + names[1:]


def _table(results: Mapping[str, TargetResult], rows: Sequence[_Row]) -> Table:
    """A line for each of few targets and for the mean; what all have in common is said above it."""
    single, mixed = ([arm for row in rows if (arm := getattr(row, of))] for of in ("of_single", "of_mixed"))
    is_one_mixture, is_one_pooling = len({arm.id for arm in mixed}) == 1, len({arm.pooling for arm in single}) == 1

    def of_single(row: _Row) -> str:
        arm = row.of_single
        return _with_arm(row.single, "" if arm is None else arm.name if is_one_pooling else arm.label)

    def of_mixed(row: _Row) -> str:
        arm = row.of_mixed
        return _with_arm(row.mixed, "" if arm is None or is_one_mixture else arm.label)

    fields = (
        Field("Target", "name"),
        Field("Best single magnification", of_single),
        Field("Mixture", of_mixed),
        Field("Difference", "difference", show=show_difference, align="right"),
        Field("Mixture is", "shown"),
        Field("Context", "gain.context", show=show_part, align="right", is_optional=True),
        Field("Magnification", "gain.magnification", show=show_part, align="right", is_optional=True),
        Field("Tiles per slide", "tiles", show=",.0f", align="right", is_optional=True),
        Field(f"{rows[0].alone} alone", "tiles_alone", show=",.0f", align="right", is_optional=True),
    )
    caption = [f"{_metric(results, results)} with 95 % intervals"]
    if is_one_pooling:
        caption.append(f"single magnifications by {single[0].pooling}")
    if is_one_mixture:
        caption.append(f"the mixture is {mixed[0].label}")
    worded = next(iter(results.values())).cohort.worded
    notes = [worded(_OPEN), *([_SPLIT] if any(row.gain for row in rows) else [])]
    return page_table(
        "; ".join(caption),
        fields,
        rows if len(single) <= _MOST_ROWS else rows[-1:],
        kind=lambda row: "plain" if row.of_single else "highlight",
        footnotes=(" ".join(notes),),
    )


def _with_arm(interval: Interval, arm: str) -> str:
    """The number and its ends, in one piece that no line breaks, and the arm where it is named."""
    number = show(interval).replace(" ", "\u00a0")
    return f"{number} {arm}" if arm else number


def _best(results: Mapping[str, TargetResult]) -> dict[str, ArmRun]:
    return {
        target: max(result.runs, key=lambda run: run.interval.estimate)
        for target, result in results.items()
        if result.runs
    }


def _best_words(results: Mapping[str, TargetResult]) -> str:
    """What there is where no mixture stands against a single magnification."""
    best = _best(results)
    said = [
        f"of {len(results[target].runs)} arms for {target} the best is {run.arm.label}, "
        f"{results[target].metric.name} {show(run.interval)}"
        for target, run in best.items()
    ]
    if len(said) > _MOST_SAID:
        return f"the best arm of each of {len(said)} targets stands below"
    return "; ".join(said)


def _best_blocks(results: Mapping[str, TargetResult]) -> tuple[Block, ...]:
    best = _best(results)
    if not best:
        return ()
    fields = (
        Field("Target", "0"),
        Field("Best arm", "1.arm.label"),
        Field("Measured by", lambda row: results[row[0]].metric.name),
        Field("Value (interval)", "1.interval", align="right"),
        Field("Tiles per slide", "1.encodings_per_slide", show=",.0f", align="right", is_optional=True),
    )
    figure = compared_figure(
        {name: {"best arm": run.interval} for name, run in best.items()}, metric=_metric(results, best)
    )
    rows = list(best.items())
    caption, more = "The best arm of each target", len(rows) - _MOST_ROWS
    notes = (f"The first {_MOST_ROWS}; {more} more have their part below.",) if more > 0 else ()
    return page_table(caption, fields, rows[:_MOST_ROWS], footnotes=notes), figure
