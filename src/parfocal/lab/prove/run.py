"""Whether a pretrained region encoder has learnt how magnifications belong together: baselines, controls, a verdict."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from parfocal.errors import ConfigError
from parfocal.files import provenance
from parfocal.geometry import format_mpp
from parfocal.lab.prove.baselines import KEPT, FittedBaselines, fit_baselines
from parfocal.lab.prove.controls import (
    other_region,
    other_slide,
    predict_with_foreign_scales,
    random_control,
    show,
    train_decoder,
)
from parfocal.lab.prove.data import HeldOutRegions, ProveSettings, held_out_regions, read_regions, sample_parts
from parfocal.lab.prove.gaussian import affordable_rows
from parfocal.lab.prove.layout import Layout, Pattern, Query, Regions, Slots, Tiles, draw_hidden, patterns_of, query_of
from parfocal.lab.prove.networks import fit_region_network
from parfocal.lab.prove.page import proof_page
from parfocal.lab.prove.readout import TokenReadout, fit_readout
from parfocal.lab.prove.result import METHODS, RETRIEVED, MethodRow, PatternResult, ProofResult
from parfocal.lab.prove.scores import Calibration, PatternScores, Retrieval, ScoreTable, calibrate, retrieve
from parfocal.lab.prove.subject import Predictor, Subject, open_subject, tiles_of
from parfocal.lab.prove.verdict import judge, verdict_sentences
from parfocal.region_encoder.batch import RegionBatch
from parfocal.report import make_report
from parfocal.report.writer import write_json
from parfocal.run.cache import StepCache
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, warn_of
from parfocal.store import Source

_VARIANCE_FLOPS = 2e10
# Arrays as large as the held-out tiles that live at a time.
_ARRAYS = 14

# What finished steps are made of.
_KEPT = (*KEPT, PatternScores, ScoreTable, Retrieval, Calibration)


def prove_encoder(
    model: Path,
    store: Source,
    out: Path,
    settings: ProveSettings | None = None,
    *,
    on_event: OnEvent | None = None,
) -> ProofResult:
    """Compare a checkpoint with what could explain its score, on regions it never saw, and write a report.

    What is finished is kept in `out/steps`, above all the trained controls, so that the same call goes on where it was
    stopped; when all is done the folder may be removed.
    Baselines are fitted on the checkpoint's own training regions. A baseline sees the visible tiles of the asked region
    (and, for B1, the other regions of its slide), never the hidden ones.

    Args:
        model: the folder that `pretrain` wrote.
        store: the store that it was pretrained on.
        out: folder of `report.html`, `prove.json` and the finished steps.
        settings: how much is looked at.
        on_event: told what happens next.

    Raises:
        ConfigError: the checkpoint predicts nothing comparable, no pattern hides anything, as where every region has
            one tile, or the device is not there.
        MismatchError: the store is not the one of the checkpoint.
        StoreError: model or store cannot be read.
    """
    settings = settings or ProveSettings()
    listen = on_event or warn_of

    def tell(sentence: str) -> None:
        listen(Notice(sentence))

    device = find_device(settings.device)
    subject = open_subject(model, tiles_of(model, store), StepCache(out / "steps", _KEPT))
    subject.trainee.to(device)
    layout = Layout.of_set(subject.tiles)
    patterns = patterns_of(layout)
    predictor = Predictor(subject.trainee, layout, device, settings.batch)
    held_out = held_out_regions(
        subject.cache,
        subject.split.held_out,
        layout,
        predictor.standardise,
        most=settings.affordable(settings.eval_regions, _ARRAYS, layout),
        rng=np.random.default_rng([settings.seed, 0]),
    )
    baselines = fit_baselines(subject, predictor, patterns, settings, tell=tell)
    steps = subject.steps if settings.control_steps is None else settings.control_steps
    if steps:
        tell(f"B10: {steps} steps")
        bases = next(iter(baselines.linear.values())).bases
        network = fit_region_network(
            subject, layout, bases, predictor.standardise, steps=steps, seed=settings.seed, device=device
        )
        baselines = replace(baselines, region_network=network)
    seeds = [settings.seed + number for number in range(settings.control_seeds)]
    random: dict[str, tuple[Predictor, ...]] = {}
    for name, mixes in (("", True), ("s", False)):
        encoders = [random_control(subject, mixes=mixes, seed=seed).to(device) for seed in seeds]
        if steps:
            for seed, trainee in zip(seeds, encoders, strict=True):
                tell(f"C3{name}: {steps} steps of a decoder on a random encoder, seed {seed}")
                train_decoder(subject, trainee, steps=steps, seed=seed, device=device)
        random[name] = tuple(Predictor(one, layout, device, settings.batch) for one in encoders)
    tell("ridge regressions on tokens")
    chosen = sample_parts(subject.split.training, settings.readout_regions, np.random.default_rng([settings.seed, 9]))
    regions = RegionBatch.join(list(read_regions(subject.cache, subject.split.training, chosen, layout)))
    readouts = {
        name: tuple(
            fit_readout(one, regions, patterns, rate=subject.settings.mask_rate, seed=settings.seed, kept=subject.kept)
            for one in several
        )
        for name, several in {"E1": (predictor,), **{f"E0{name}": several for name, several in random.items()}}.items()
    }
    controls = {f"C3{name}": several for name, several in random.items()} if steps else {}
    jury = _Jury(settings, subject, layout, held_out, baselines, predictor, controls, readouts)
    # Where something runs does not change what comes of it.
    described = settings.model_dump(mode="json", exclude={"device", "batch"})
    deciding = {name: value for name, value in described.items() if name != "draws"}
    scored: dict[Pattern, PatternScores] = {}
    for number, pattern in enumerate(patterns):
        tell(f"scoring: {pattern.name} hidden")
        scores = subject.step(
            f"scores {pattern.name}", [pattern, number, deciding], partial(jury.score, pattern, number)
        )
        if scores is not None:
            scored[pattern] = scores
    if not scored:
        raise ConfigError(f"cannot prove {subject.path}: no held-out region has two tiles, so nothing can be hidden.")
    tell("intervals")
    result = _result(jury, scored, steps, out / "report.html")
    inputs = {"model": subject.digest, "tile embeddings": subject.tiles.name}
    make_report(proof_page(result, settings=described, seed=settings.seed, inputs=inputs), result.report)
    write_json(out / "prove.json", {**provenance({**described, "inputs": inputs}), **result.describe()})
    return result


@dataclass(frozen=True, eq=False)
class _Jury:
    """Everybody that is asked, and the regions that they are asked about."""

    settings: ProveSettings
    subject: Subject
    layout: Layout
    held_out: HeldOutRegions
    baselines: FittedBaselines
    predictor: Predictor
    controls: Mapping[str, tuple[Predictor, ...]]
    readouts: Mapping[str, tuple[TokenReadout, ...]]

    @cached_property
    def strangers(self) -> tuple[Regions, Regions | None]:
        """For each region another one of its slide, and one of another slide, where there is one."""
        rng = np.random.default_rng([self.settings.seed, 5])
        return other_region(self.held_out.slide, rng), other_slide(self.held_out.slide, rng)

    @property
    def one_slide(self) -> bool:
        """Whether training and held-out regions are parts of one slide."""
        split = self.subject.split
        return split.held_out[0].slide in {part.slide for part in split.training}

    def score(self, pattern: Pattern, number: int) -> PatternScores | None:
        """Ask everybody about one pattern; None where it hides nothing."""
        held_out, layout, settings = self.held_out, self.layout, self.settings
        hidden = draw_hidden(
            pattern,
            layout,
            held_out.present,
            rate=self.subject.settings.mask_rate,
            most=settings.random_regions if pattern.mask == "random" else None,
            seed=1000 * settings.seed + number,
        )
        if not hidden.any():
            return None
        scores, retrieved = ScoreTable(held_out.n_clusters), dict[str, Tiles]()
        mean, variance = self.predictor.predict(show(held_out.raw, hidden), hidden)
        query = query_of(held_out.target, held_out.present, hidden, held_out.slide_mean)
        for name, share, predicted in self._predictions(pattern, hidden, mean, query):
            where = (held_out.target, hidden, layout, held_out.cluster)
            scores.add(name, pattern.name, predicted, *where, share=share)
            if name in RETRIEVED:
                retrieved[name] = predicted
        retrieval = {}
        for level in scores.levels(pattern.name):
            picked = retrieve(
                {name: retrieved[name] for name in RETRIEVED if name in retrieved},
                held_out.target,
                held_out.present,
                hidden,
                held_out.slide,
                layout,
                level,
                most=settings.queries,
                rng=np.random.default_rng([settings.seed, 6, number, level]),
            )
            if picked is not None:
                retrieval[level] = picked
        kriging = self.baselines.kriging[pattern.name]
        # A variance costs about five times the solve for a mean.
        rows = affordable_rows(query, n_predictors=kriging.bases.n_predictors, most_flops=_VARIANCE_FLOPS / 5)
        target = held_out.target
        compared = {
            "B9": (retrieved["B9"][rows], kriging.variance(query.take(rows), layout), target[rows], hidden[rows])
        }
        if self.subject.settings.variance_weight > 0 and self.subject.settings.variance_from < 1:
            compared = {"model": (mean, variance, target, hidden), **compared}
        calibration = {}
        for level in scores.levels(pattern.name):
            by_method = {name: calibrate(*arrays, layout, level) for name, arrays in compared.items()}
            known = {name: one for name, one in by_method.items() if one is not None}
            if known:
                calibration[level] = known
        return PatternScores(scores, retrieval, calibration)

    def _predictions(
        self, pattern: Pattern, hidden: Slots, mean: Tiles, query: Query
    ) -> Iterator[tuple[str, float, Tiles]]:
        """Each method with one over the number of its seeds, and what it predicts, one after another."""
        raw, (sister, stranger) = self.held_out.raw, self.strangers
        yield "model", 1.0, mean
        for name, predicted in self.baselines.predictions(pattern.name, query):
            yield name, 1.0, predicted
        yield "C1", 1.0, self.predictor.predict(show(raw, hidden, sister), hidden)[0]
        yield "C1x", 1.0, predict_with_foreign_scales(self.predictor, raw, hidden, sister, self.layout)
        if stranger is not None:
            yield "C2", 1.0, self.predictor.predict(show(raw, hidden, stranger), hidden)[0]
        for name, controls in self.controls.items():
            for control in controls:
                yield name, 1 / len(controls), control.predict(show(raw, hidden), hidden)[0]
        for name, readouts in self.readouts.items():
            for readout in readouts:
                yield name, 1 / len(readouts), readout.predict(pattern.name, raw, hidden)


def _result(jury: _Jury, scored: Mapping[Pattern, PatternScores], control_steps: int, report: Path) -> ProofResult:
    """Intervals and the verdict."""
    held_out, layout, settings = jury.held_out, jury.layout, jury.settings
    scores, choices = ScoreTable(held_out.n_clusters), jury.baselines.choices()
    for of_pattern in scored.values():
        scores.error.update(of_pattern.scores.error)
        scores.spread.update(of_pattern.scores.spread)
    interval = partial(scores.interval, draws=settings.draws, seed=settings.seed)
    equal_steps = control_steps >= jury.subject.steps
    patterns = []
    for pattern, of_pattern in scored.items():
        name = pattern.name
        mpps = {level: format_mpp(layout.mpps[level]) for level in scores.levels(name)}
        rows = tuple(
            MethodRow(
                method,
                scores.r2(method, name),
                {mpp: scores.r2(method, name, level) for level, mpp in mpps.items()},
                interval(method, name),
                None if method == "model" else interval("model", name, minus=(method,)),
            )
            for method in METHODS
            if (method, name) in scores.error
        )
        verdict = judge(scores, pattern, draws=settings.draws, seed=settings.seed, equal_steps=equal_steps)
        retrieval = {mpps[level]: picked for level, picked in of_pattern.retrieval.items()}
        calibration = {mpps[level]: by_method for level, by_method in of_pattern.calibration.items()}
        patterns.append(PatternResult(verdict, rows, retrieval, calibration, choices[name]))
    sentences = verdict_sentences(
        [one.verdict for one in patterns],
        layout,
        clusters=held_out.cluster_word,
        n_clusters=held_out.n_clusters,
        one_slide=jury.one_slide,
    )
    return ProofResult(
        layout=layout,
        scores=scores,
        patterns=tuple(patterns),
        sentences=sentences,
        what=_what(jury),
        notes=_notes(jury, control_steps),
        remarks=_remarks(jury),
        one_slide=jury.one_slide,
        clusters=held_out.cluster_word,
        report=report,
    )


def _what(jury: _Jury) -> str:
    n_slides = len(np.unique(jury.held_out.slide))
    return (
        f"{jury.subject.path.name}, {jury.subject.steps:,} steps of pretraining, on {jury.subject.tiles.name}: "
        f"{jury.subject.split.sentence}. {len(jury.held_out.raw):,} held-out regions of {n_slides} "
        f"slide{'s' if n_slides > 1 else ''} are scored; intervals draw {jury.held_out.n_clusters} "
        f"{jury.held_out.cluster_word} again."
    )


def _notes(jury: _Jury, control_steps: int) -> tuple[str, ...]:
    first = next(iter(jury.baselines.linear.values()))
    k, q = first.bases.n_predictors, first.bases.directions.shape[2]
    sample = next(iter(jury.baselines.nearest.values())).tokens
    notes = [
        f"Linear baselines rest on {jury.baselines.n_regions:,} training regions; B4, B7 and B8 on "
        f"{len(sample):,}. A visible tile is described by its leading {k} directions and a hidden one by {q}, of "
        f"{jury.layout.dim} numbers. Ridge and rank are chosen on a quarter of the training slides.",
        f"Under the random pattern at most {jury.settings.random_regions} regions are scored. The slide's mean "
        "(B1) is that of the other scored regions.",
        "Standardised embeddings are clipped as the model clips them; training tiles have mean 0.",
    ]
    seeds = jury.settings.control_seeds
    notes.append(
        f"B10 and the decoders of C3 and C3s were trained for {control_steps:,} steps, the model for "
        f"{jury.subject.steps:,}, with the same batches, masks and optimiser; {seeds} random encoder"
        f"{'s' if seeds > 1 else ''} of each kind."
    )
    notes.append(
        "Nothing here was chosen on the scored regions. Where settings of pretraining were chosen by its monitors, "
        "they were chosen on these regions: then prove a model of other held-out slides."
    )
    return tuple(notes)


def _remarks(jury: _Jury) -> tuple[str, ...]:
    remarks = [] if jury.subject.unreadable is None else [jury.subject.unreadable]
    if jury.subject.n_later:
        remarks.append(f"{jury.subject.n_later} slides came into the store after pretraining and are left out.")
    if jury.held_out.n_dropped:
        remarks.append(
            f"{jury.held_out.n_dropped} held-out tiles lie on another tile's place in the region's raster "
            "and are left out."
        )
    if jury.strangers[1] is None:
        remarks.append("C2 needs two held-out slides and is left out.")
    if not jury.controls:
        remarks.append("B10, C3 and C3s are left out, as asked; without them there is no verdict.")
    if not jury.one_slide and jury.held_out.n_clusters < 10:
        remarks.append(
            f"Only {jury.held_out.n_clusters} slides are held out; intervals from so few are too narrow as a rule."
        )
    return tuple(remarks)
