"""The page of a synergy study: the answer, the numbers behind it, and pictures of the two directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parfocal.geometry import format_mpp
from parfocal.report import Column, Figure, Note, ReportPage, Row, Section, Table, Text, curves_panel, show_p
from parfocal.report.page import Block
from parfocal.studies.pairing.analysis import LabelResult, SynergySettings

__all__ = ["LabelPictures", "pair_name", "sentences", "synergy_page"]

_LARGEST = 2.0  # the effect of two factors that are read perfectly, always together in one class, never in the other
_METHOD = (
    "For every slide, the embeddings of each region are averaged at each magnification, centred within the slide and "
    "whitened to k components; the within-region cross-moment of two magnifications is F = mean of x y^T over regions. "
    "No function of unordered tiles knows F: it changes when only the pairing of coarse and fine does.",
    "Whitening, covariates and tissue types use all slides and no label, so they are the same for every permutation of "
    "the labels, and the test needs no training fold.",
    "Label and F are projected off the leading components of the slide means, of each magnification's own second "
    "moments within slides, and off the sites. The leading pair of directions u, v of what is left is tested after "
    "the second moments along u and v are taken out as well. The labels are permuted (patients, within sites) in a "
    "basis of the residuals. The largest statistic over all pairs of magnifications and all k is compared with the "
    "largest of each permutation: one p-value.",
    "The effect is the difference between the classes (for a number: by standard deviation of it) of the mean product "
    "of the two scores, each with variance one, with the inflation by noise taken off. Two factors that are read "
    "perfectly, always together in one class and always apart in the other, give 2.",
    "What a small p-value says: the within-region cross-moment is associated with the label beyond what leading slide "
    "means and the moments inside each magnification know. It does not say why.",
)


@dataclass(frozen=True)
class LabelPictures:
    """The pictures of one label, and why some are missing."""

    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)


def pair_name(mpps: tuple[float, float]) -> str:
    """How a pair of magnifications is called."""
    return f"{format_mpp(mpps[0])} and {format_mpp(mpps[1])} um per pixel"


def sentences(target: str, result: LabelResult, adjusted_p: float, settings: SynergySettings) -> tuple[str, ...]:
    """The answer in plain sentences."""
    name = target if result.label == target else f"{target} = {result.label}"
    pair = pair_name(result.test.best.mpps)
    holm = "" if adjusted_p == result.test.p_value else f"; {_equals(adjusted_p)} after Holm over the classes"
    found = adjusted_p <= settings.level
    lines = [
        f"{name}: the pairing of {pair} within regions is associated with the label beyond slide means and the moments "
        f"of each magnification ({_equals(result.test.p_value)}{holm})."
        if found
        else f"{name}: no association of the pairing of magnifications with the label was found beyond slide means and "
        f"the moments of each magnification ({_equals(result.test.p_value)}{holm})."
    ]
    lines.append(_power_sentence(result, settings, found=found))
    opinions = ", ".join(f"{one.p_value:.3f} with {one.n_types} types" for one in result.opinions)
    if opinions:
        lines.append(f"Second opinion, centred within tissue types: p = {opinions}.")
    means = "; ".join(
        f"{one.name}: {one.measure} {one.value.estimate:.2f} ({one.value.low:.2f} to {one.value.high:.2f})"
        for one in result.main
    )
    if means:
        lines.append(f"Slide means alone, cross-validated: {means}.")
    return tuple(lines)


def synergy_page(
    target: str,
    results: Sequence[LabelResult],
    adjusted: Sequence[float],
    pictures: Sequence[LabelPictures],
    settings: SynergySettings,
    *,
    notes: Sequence[str],
    n_slides: int,
    n_sites: int | None,
    described: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> ReportPage:
    """The page, one section for each label."""
    lead = tuple(
        line for result, p in zip(results, adjusted, strict=True) for line in sentences(target, result, p, settings)
    )
    what = f"{n_slides} slides of {len(results[0].values)} patients" + (f" at {n_sites} sites." if n_sites else ".")
    sections = [Section("Cohort", (Text((what,)), *(Note(note, "Left out or remarkable") for note in notes)))]
    for result, own in zip(results, pictures, strict=True):
        sections.append(Section(_title(target, result), _blocks(result, own)))
    sections.append(Section("How it was measured", (Text(_METHOD),)))
    return ReportPage(
        title=f"Does pairing magnifications know {target}?",
        lead=lead,
        sections=tuple(sections),
        settings=described,
        seeds={"permutations, planted pairs, types, folds": settings.seed},
        inputs=inputs,
    )


def _equals(p: float) -> str:
    shown = show_p(p)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _title(target: str, result: LabelResult) -> str:
    return target if result.label == target or not result.is_class else f"{target} = {result.label}, against the rest"


def _power_sentence(result: LabelResult, settings: SynergySettings, *, found: bool) -> str:
    parts = [f"The effect is {result.effect:.3f}, its inflation by noise taken off" if found else _not_found(result)]
    if result.power is not None:
        share = f"{settings.power:.0%}".replace("%", " %")
        n, detectable = len(result.values), result.power.detectable
        if detectable is None and (not result.is_class or result.power.strength[-1] < _LARGEST):
            parts.append(f"no planted effect up to {result.power.strength[-1]:.2f} is found with {share} power")
        elif detectable is None or (result.is_class and detectable > _LARGEST):
            parts.append(f"no effect that there can be would be found with {share} power in these {n}")
        else:
            parts.append(f"this cohort of {n} could have shown one of {detectable:.3f} with {share} power")
            if result.needed is not None and not _impossible(result):
                size = "one as large as the observed one" if found else "the observed one, if it is real,"
                parts.append(f"{size} needs about {result.needed} patients")
    if result.label_left < 0.5 * (len(result.values) - result.n_covariates) / (len(result.values) - 1):
        left = f"{result.label_left:.0%}".replace("%", " %")
        parts.append(f"slide means and moments leave only {left} of the label's variance for pairing to explain")
    return "; ".join(parts) + "."


def _not_found(result: LabelResult) -> str:
    if not result.effect or _impossible(result):
        return "No effect is visible above the noise"
    return f"The largest contrast seen, {result.effect:.3f}, cannot be told from chance"


def _impossible(result: LabelResult) -> bool:
    """Whether the contrast is larger than any can be: the covariates leave so little of the label that it is noise."""
    return result.is_class and result.effect > _LARGEST


def _blocks(result: LabelResult, pictures: LabelPictures) -> tuple[Block, ...]:
    blocks: list[Block] = [_candidates(result)]
    if result.main:
        blocks.append(_main_table(result))
    if result.power is not None:
        panel = curves_panel(
            result.power.strength,
            {"share of planted pairs that the test finds": result.power.power},
            x_label="planted effect",
            y_label="power",
            label="Power of this cohort",
        )
        caption = (
            f"Pairs of known strength planted into this cohort's own moments ({pair_name(result.test.best.mpps)}) "
            f"under permuted labels. By the formula nothing below {result.power.edge:.3f} is visible."
        )
        blocks.append(Figure((panel,), caption))
    blocks += [Note(note, "Pictures") for note in pictures.notes]
    blocks += pictures.figures
    return tuple(blocks)


def _candidates(result: LabelResult) -> Table:
    columns = (
        Column("Pair"),
        Column("k", "right", "Whitened components of each magnification."),
        Column("Leading singular value", "right", "Of the label's residual contrast; inflated by noise."),
        Column("Of noise alone", "right", "2 sigma sqrt(k), the edge of noise."),
        Column("z", "right", "The statistic in standard deviations of its permutations."),
        Column("p alone", "right", "Not corrected for the other rows."),
    )
    rows = [
        Row(
            (
                pair_name(one.mpps),
                str(one.components),
                f"{one.singular_value:.3f}",
                f"{2 * (one.noise_variance * one.components) ** 0.5:.3f}",
                f"{one.z:.2f}",
                show_p(one.p_value),
            ),
            "highlight" if one is result.test.best else "plain",
        )
        for one in result.test.candidates
    ]
    foot = f"One p-value for the maximum over all rows: {show_p(result.test.p_value)}. "
    n, left = len(result.values), f"{result.label_left:.0%}".replace("%", " %")
    expected = f"{(n - result.n_covariates) / (n - 1):.0%}".replace("%", " %")
    foot += (
        f"{result.n_covariates} covariates are taken out of {n} patients; they leave {left} of the label's variance "
    )
    foot += f"({expected} if they knew nothing of it)."
    return Table("Every pair of magnifications and number of components", columns, tuple(rows), (foot,))


def _main_table(result: LabelResult) -> Table:
    columns = (Column("Slide means of"), Column("Measure"), Column("Value", "right"), Column("95 % interval", "right"))
    rows = tuple(
        Row(
            (
                one.name if one.name == "all together" else f"{one.name} um per pixel",
                one.measure,
                f"{one.value.estimate:.2f}",
                f"{one.value.low:.2f} to {one.value.high:.2f}",
            )
        )
        for one in result.main
    )
    return Table("Main effects: ridge regression on slide means, repeated five-fold cross-validation", columns, rows)
