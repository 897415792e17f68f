"""The page of a synergy study: the answer, the numbers behind it, and pictures of the two directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parfocal.geometry import format_mpp
from parfocal.lab.synergy.analysis import LabelResult, SynergySettings
from parfocal.lab.synergy.moments import Units
from parfocal.report import (
    Field,
    Figure,
    Note,
    ReportPage,
    Section,
    Table,
    Text,
    curves_panel,
    page_table,
    show_interval,
    show_p,
)
from parfocal.report.page import Block

_LARGEST = 2.0  # the effect of two factors that are read perfectly, always together in one class, never in the other
_METHOD = (
    "For every slide, the embeddings of each region are averaged at each magnification, centred within the slide (or "
    "within what --within names) and whitened to k components; the within-region cross-moment of two magnifications "
    "is F = mean of x y^T over the regions that have both, times R / (R - 1), because centring R regions on their own "
    "mean takes an R-th of it. No function of unordered tiles knows F: it changes when only the pairing of coarse and "
    "fine does.",
    "Whitening, covariates and tissue types use all slides and no label, so they are the same for every permutation "
    "of the labels.",
    "Label and F are projected off the leading components of the slide means, of each magnification's own second "
    "moments within slides, and off the sites. The leading pair of directions u, v of what is left is tested after "
    "the second moments along u and v are taken out as well. The labels are permuted (patients, within sites) in a "
    "basis of the residuals. The largest statistic over all pairs of magnifications and all k is compared with the "
    "largest of each permutation: one p-value.",
    "A permutation test takes the classes to be alike but for their label. Where slides of one class are smaller, "
    "noisier or fewer, its directions fit that noise and it rejects although nothing is paired. So a second test is "
    "cross-fitted: u and v come from four fifths of the patients, with the covariates taken out among these; the "
    "scores u^T F v of the other fifth are regressed on the label, the covariates and the second moments along u and "
    "v, with errors that give every patient a variance of its own (HC3). Where one magnification reads with the label "
    "another way what both share (its own second moment between v and where F takes u goes with the label), twice of "
    "that is taken off the score first, and the larger p counts. The p-value is one-sided and the median over five "
    "splits. Pairing is said only where both tests reject.",
    "The effect is the difference between the classes (for a number: by standard deviation of it) of the mean product "
    "of the two scores, each with variance one, with the inflation by noise taken off. Two factors that are read "
    "perfectly, always together in one class and always apart in the other, give 2.",
    "What a small p-value says: the within-region cross-moment is associated with the label beyond what leading slide "
    "means and the moments inside each magnification know. It does not say why: fine tiles that lie beside their "
    "coarse one more often in one class, as after a worse registration, and regions that are left out for what they "
    "show at both magnifications, look like pairing.",
)


@dataclass(frozen=True)
class LabelPictures:
    """The pictures of one label, and why some are missing."""

    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)


def pair_name(mpps: tuple[float, float]) -> str:
    """How a pair of magnifications is called."""
    return f"{format_mpp(mpps[0])} and {format_mpp(mpps[1])} um per pixel"


@dataclass(frozen=True)
class CohortWords:
    """What is said of a cohort whatever the label.

    Attributes:
        n_slides: how many slides were used.
        units: whose they are.
        same_slides: pairs of slides that are nearly the same under two patients, in words.
    """

    n_slides: int
    units: Units
    same_slides: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """How many slides of how many patients there are; no slide is called a patient unasked."""
        if self.units.called == "slide":
            return f"{self.n_slides} slides, taken as independent"
        sites = "" if self.units.site is None else f" at {int(self.units.site.max()) + 1} sites"
        return f"{self.n_slides} slides of {len(self.units.names)} patients{sites}"

    def worded(self, text: str) -> str:
        """A text about patients as it is, or about slides where nothing says whose they are."""
        return text if self.units.called == "patient" else text.replace("patient", "slide")

    def caveats(self) -> tuple[str, ...]:
        """Why the cohort may hold less than it seems to."""
        said = []
        if self.units.called == "slide":
            said.append(
                f"{self.size}: nothing says which of them come from one patient (--group COLUMN, --patient-of REGEX). "
                "If some do, both tests call pairing too often."
            )
        if self.same_slides:
            n, listed = len(self.same_slides), "; ".join(self.same_slides[:5])
            more = "" if n <= 5 else f"; and {n - 5} more"
            one = "pair of slides is" if n == 1 else "pairs of slides are"
            said.append(
                f"Warning: {n} {one} nearly the same and counted as of two {self.units.called}s: {listed}{more}. Both "
                "tests then call pairing too often: give them one patient in --group, or drop one of each."
            )
        return tuple(said)


def sentences(target: str, result: LabelResult, called: str, settings: SynergySettings) -> tuple[str, ...]:
    """The answer for one label.

    Args:
        target: the column.
        result: of the label.
        called: what a unit is, patient or slide.
        settings: of the study.
    """
    permuted, crossed, found = result.p_holm, result.p_crossed_holm, result.is_paired
    name = target if result.label == target else f"{target} = {result.label}"
    pair = pair_name(result.test.best.mpps)
    holm = (
        ", after Holm over the classes" if (permuted, crossed) != (result.test.p_value, result.crossed.p_value) else ""
    )
    both = f"permutation test {_equals(permuted)}, cross-fitted test {_equals(crossed)}{holm}"
    beyond = "beyond slide means and the moments of each magnification"
    if found:
        first = (
            f"the pairing of {pair} within regions is associated with the label {beyond}; both tests agree ({both})."
        )
    elif permuted <= settings.level:
        first = (
            f"not called pairing: the permutation test rejects and the cross-fitted test does not ({both}). The "
            f"permutation test does so too where {called}s of one class have smaller, noisier or fewer slides."
        )
    elif crossed <= settings.level:
        first = f"not called pairing: the cross-fitted test rejects and the permutation test does not ({both})."
    else:
        first = f"no association of the pairing of magnifications with the label was found {beyond} ({both})."
    lines = [f"{name}: {first}", _warning(result, called), _power_sentence(result, settings, called, found=found)]
    opinions = ", ".join(f"{p:.3f} with {n_types} types" for n_types, p in result.opinions.items())
    if opinions:
        lines.append(f"Second opinion, the permutation test centred within tissue types: p = {opinions}.")
    means = "; ".join(
        f"{one.name}: {one.measure} {one.value.estimate:.2f} ({one.value.low:.2f} to {one.value.high:.2f})"
        for one in result.main
    )
    if means:
        lines.append(f"Slide means alone, cross-validated: {means}.")
    return tuple(lines)


def _warning(result: LabelResult, called: str) -> str:
    """In what the classes differ although the permutation test takes them to be alike."""
    who = "The classes differ in" if result.is_class else "With the number go"
    if result.warnings:
        return (
            f"Warning: {who} {'; '.join(result.warnings)}. The permutation test alone may reject for that. The "
            "cross-fitted test allows for more noise and for smaller or fewer slides, but not for a selection: where "
            "regions or slides are left out for what they show, or magnifications lie on each other less well, what "
            "lies together differs by itself."
        )
    slides = "" if called == "slide" else "slides per patient, "
    alike = "the classes are alike in" if result.is_class else "with the number goes none of"
    return (
        f"No warning: {alike} regions per slide, {slides}tiles per region, absent tiles, slides left out and variance "
        "within slides."
    )


def synergy_page(
    target: str,
    results: Sequence[LabelResult],
    cohort: CohortWords,
    pictures: Sequence[LabelPictures],
    settings: SynergySettings,
    *,
    notes: Sequence[str],
    described: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> ReportPage:
    """The page: the answer for each label and what is to be known of the cohort, then one section for each label."""
    answer = [line for one in results for line in sentences(target, one, cohort.units.called, settings)]
    warnings = tuple(
        Note(_warning(result, cohort.units.called), _title(target, result)) for result in results if result.warnings
    )
    remarks = tuple(Note(note, "Left out or remarkable") for note in notes)
    caveats = tuple(Note(note, "Not independent") for note in cohort.caveats())
    sections = [Section("Cohort", (Text((f"{cohort.size}.",)), *caveats, *warnings, *remarks))]
    for result, own in zip(results, pictures, strict=True):
        sections.append(Section(_title(target, result), _blocks(result, own, cohort.units.called)))
    sections.append(Section("How it was measured", (Text(tuple(map(cohort.worded, _METHOD))),)))
    return ReportPage(
        title=f"Does pairing magnifications know {target}?",
        lead=(*answer, *cohort.caveats()),
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


def _power_sentence(result: LabelResult, settings: SynergySettings, called: str, *, found: bool) -> str:
    parts = [f"The effect is {result.effect:.3f}, its inflation by noise taken off" if found else _not_found(result)]
    if result.power is not None:
        share = _percent(settings.power)
        n, detectable = len(result.values), result.power.detectable
        if detectable is None and (not result.is_class or result.power.strength[-1] < _LARGEST):
            parts.append(f"no planted effect up to {result.power.strength[-1]:.2f} is found with {share} power")
        elif detectable is None or (result.is_class and detectable > _LARGEST):
            parts.append(f"no effect that there can be would be found with {share} power in these {n}")
        else:
            parts.append(
                f"the permutation test alone would have shown one of {detectable:.3f} in these {n} with {share} power"
            )
            if result.needed is not None and not _impossible(result):
                size = "one as large as the observed one" if found else "the observed one, if it is real,"
                parts.append(f"{size} needs about {result.needed} {called}s, and more for both tests to agree")
    if result.label_left < 0.5 * (len(result.values) - result.n_covariates) / (len(result.values) - 1):
        left = _percent(result.label_left)
        parts.append(f"slide means and moments leave only {left} of the label's variance for pairing to explain")
    return "; ".join(parts) + "."


def _not_found(result: LabelResult) -> str:
    if not result.effect or _impossible(result):
        return "No effect is visible above the noise"
    return f"The largest contrast seen, {result.effect:.3f}, cannot be told from chance"


def _impossible(result: LabelResult) -> bool:
    """Whether the contrast is larger than any can be: the covariates leave so little of the label that it is noise."""
    return result.is_class and result.effect > _LARGEST


def _blocks(result: LabelResult, pictures: LabelPictures, called: str) -> tuple[Block, ...]:
    blocks: list[Block] = [_candidates(result, called)]
    if result.main:
        caption = "Main effects: ridge regression on slide means, repeated five-fold cross-validation"
        blocks.append(page_table(caption, _MAIN_EFFECTS, result.main))
    if result.power is not None:
        panel = curves_panel(
            result.power.strength,
            {"share of planted pairs that the permutation test finds": result.power.power},
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


def _candidates(result: LabelResult, called: str) -> Table:
    columns = (
        Field("Pair", lambda one: pair_name(one.mpps)),
        Field("k", "components", help="Whitened components of each magnification."),
        Field(
            "Leading singular value",
            "singular_value",
            show=".3f",
            help="Of the label's residual contrast; inflated by noise.",
        ),
        Field(
            "Of noise alone",
            lambda one: 2 * (one.noise_variance * one.components) ** 0.5,
            show=".3f",
            help="2 sigma sqrt(k), the edge of noise.",
        ),
        Field("z", show=".2f", help="The statistic in standard deviations of its permutations."),
        Field("p alone", "p_value", show=show_p, help="Not corrected for the other rows."),
    )
    splits = ", ".join(f"{p:.2g}" for p in result.crossed.of_splits)
    n = len(result.values)
    foot = (
        f"Permutation test, one p-value for the maximum over all rows: {show_p(result.test.p_value)}. "
        f"Cross-fitted test: {show_p(result.crossed.p_value)}, the median of five splits ({splits}). "
        f"{result.n_covariates} covariates are taken out of {n} {called}s; they leave {_percent(result.label_left)} of "
        f"the label's variance ({_percent((n - result.n_covariates) / (n - 1))} if they knew nothing of it)."
    )
    return page_table(
        "Every pair of magnifications and number of components",
        columns,
        result.test.candidates,
        kind=lambda one: "highlight" if one is result.test.best else "plain",
        footnotes=(foot,),
    )


_MAIN_EFFECTS = (
    Field("Slide means of", lambda one: one.name if one.name == "all together" else f"{one.name} um per pixel"),
    Field("Measure", "measure"),
    Field("Value", "value.estimate"),
    Field("95 % interval", "value", show=show_interval, align="right"),
)


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
