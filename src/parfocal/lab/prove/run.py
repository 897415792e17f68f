"""Whether a pretrained region encoder has learnt how magnifications belong together: baselines, controls, a verdict."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from pydantic import Field

from parfocal.config import Settings
from parfocal.errors import ConfigError
from parfocal.files import provenance, writing
from parfocal.lab.prove.baselines import FittedBaselines, Sampling, fit_baselines
from parfocal.lab.prove.controls import (
    other_region,
    other_slide,
    predict_with_foreign_scales,
    random_control,
    show,
    train_decoder,
)
from parfocal.lab.prove.data import HeldOutRegions, held_out_regions, read_regions, sample_parts
from parfocal.lab.prove.gaussian import affordable_rows
from parfocal.lab.prove.layout import Layout, query_of
from parfocal.lab.prove.networks import fit_region_network
from parfocal.lab.prove.page import proof_page
from parfocal.lab.prove.patterns import Pattern, draw_hidden, patterns_of
from parfocal.lab.prove.readout import TokenReadout, fit_readout
from parfocal.lab.prove.result import ProofResult
from parfocal.lab.prove.scores import Calibration, Retrieval, ScoreTable, calibrate, retrieve
from parfocal.lab.prove.subject import Predictor, Subject, open_subject, tiles_of
from parfocal.lab.prove.verdict import judge, verdict_sentences
from parfocal.region_encoder.batch import RegionBatch
from parfocal.report import make_report
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, warn_of
from parfocal.stats import Interval
from parfocal.store import Source

__all__ = ["ProveSettings", "prove_encoder"]

_RETRIEVED = ("model", "B1", "B3", "B5", "B8", "B9", "B10", "C1", "C3")
_VARIANCE_FLOPS = 2e10
# Arrays as large as the held-out tiles that live at a time.
_ARRAYS = 14

Tiles = Float32[np.ndarray, "region slot dim"]


class ProveSettings(Settings):
    """How much is looked at, and how long controls are trained."""

    eval_regions: int = Field(1000, ge=8, description="Most held-out regions that are scored.")
    random_regions: int = Field(128, ge=1, description="Most of them under the random pattern, where each is a solve.")
    train_regions: int = Field(20_000, ge=8, description="Most training regions behind the linear baselines.")
    memory_regions: int = Field(4096, ge=8, description="Most training regions that are kept in memory.")
    memory_mib: int = Field(1024, ge=16, description="Memory for training regions and for predictions each, in MiB.")
    network_steps: int = Field(1000, ge=1, description="Steps of the network B8, of 256 tiles each.")
    control_steps: int | None = Field(
        None,
        ge=0,
        description="Steps of B10 and of the decoders on random encoders (C3); as many as the model had, unless named. "
        "With fewer there is no verdict; 0: none of them.",
    )
    control_seeds: int = Field(
        1, ge=1, description="Random encoders of each kind; what they reach is averaged, and each costs a training."
    )
    readout_regions: int = Field(
        1024, ge=16, description="Most training regions that the ridge on an encoder's tokens is fitted on."
    )
    queries: int = Field(100, ge=1, description="Hidden tiles of a slide that are searched among all of its tiles.")
    draws: int = Field(1000, ge=100, description="Draws of a bootstrap interval.")
    batch: int = Field(128, ge=1, description="Regions that the model sees at a time.")
    device: str = Field("cpu", description="Where the model runs: cpu, cuda, mps.")
    seed: int = Field(0, ge=0, description="Of samples, masks, networks and intervals.")


def prove_encoder(
    model: Path,
    store: Source,
    out: Path,
    settings: ProveSettings | None = None,
    *,
    on_event: OnEvent | None = None,
) -> ProofResult:
    """Compare a checkpoint with what could explain its score, on regions it never saw, and write a report.

    Baselines are fitted on the checkpoint's own training regions. A baseline sees the visible tiles of the asked region
    (and, for B1, the other regions of its slide), never the hidden ones.

    Args:
        model: the folder that `pretrain` wrote.
        store: the store that it was pretrained on.
        out: folder of `report.html` and `prove.json`.
        settings: how much is looked at.
        on_event: told what happens next.

    Raises:
        ConfigError: the checkpoint predicts nothing comparable, or the device is not there.
        MismatchError: the store is not the one of the checkpoint.
        StoreError: model or store cannot be read.
    """
    settings = settings or ProveSettings()
    listen = on_event or warn_of

    def tell(sentence: str) -> None:
        listen(Notice(sentence))

    device = find_device(settings.device)
    subject = open_subject(model, tiles_of(model, store))
    subject.trainee.to(device)
    layout = Layout.of_set(subject.tiles)
    patterns = patterns_of(layout)
    predictor = Predictor(subject.trainee, layout, device, settings.batch)
    region_bytes = layout.n_slots * layout.dim * 4
    most = max(8, min(settings.eval_regions, (settings.memory_mib << 20) // (_ARRAYS * region_bytes)))
    held_out = held_out_regions(
        subject.cache,
        subject.split.held_out,
        layout,
        predictor.standardise,
        most=most,
        rng=np.random.default_rng([settings.seed, 0]),
    )
    low, high = subject.settings.mask_rate
    sampling = Sampling(
        train_regions=settings.train_regions,
        memory_regions=max(8, min(settings.memory_regions, (settings.memory_mib << 20) // (2 * region_bytes))),
        network_steps=settings.network_steps,
        rate=(low, high),
        seed=settings.seed,
    )
    baselines = fit_baselines(
        subject.cache, subject.split, layout, predictor.standardise, patterns, sampling, tell=tell
    )
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
    seen = RegionBatch.join(list(read_regions(subject.cache, subject.split.training, chosen, layout)))
    readouts = {
        name: tuple(fit_readout(one, seen, patterns, rate=(low, high), seed=settings.seed) for one in several)
        for name, several in {"E1": (predictor,), **{f"E0{name}": found for name, found in random.items()}}.items()
    }
    controls = {f"C3{name}": several for name, several in random.items()} if steps else {}
    run = _Run(settings, subject, layout, held_out, baselines, predictor, controls, readouts, steps)
    for number, pattern in enumerate(patterns):
        tell(f"scoring: {pattern.name} hidden")
        run.score(pattern, number)
    tell("intervals")
    return run.finish(out, patterns)


class _Run:
    """The scores of one proof while they come in."""

    def __init__(
        self,
        settings: ProveSettings,
        subject: Subject,
        layout: Layout,
        held_out: HeldOutRegions,
        baselines: FittedBaselines,
        predictor: Predictor,
        controls: Mapping[str, tuple[Predictor, ...]],
        readouts: Mapping[str, tuple[TokenReadout, ...]],
        control_steps: int,
    ) -> None:
        self.settings, self.subject, self.layout = settings, subject, layout
        self.held_out, self.baselines = held_out, baselines
        self.predictor, self.controls, self.readouts = predictor, controls, readouts
        self.control_steps = control_steps
        self.scores = ScoreTable(held_out.n_clusters)
        self.retrieval: dict[tuple[str, int], Retrieval] = {}
        self.calibration: dict[tuple[str, int], dict[str, Calibration]] = {}
        rng = np.random.default_rng([settings.seed, 5])
        self.sister = other_region(held_out.slide, rng)
        self.stranger = other_slide(held_out.slide, rng)
        self.one_slide = subject.split.held_out[0].slide in {part.slide for part in subject.split.training}

    def score(self, pattern: Pattern, number: int) -> None:
        """Ask everybody about one pattern."""
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
            return
        kept: dict[str, Tiles] = {}

        def take(name: str, predicted: Tiles, share: float = 1.0) -> None:
            where = (held_out.target, hidden, layout, held_out.cluster)
            self.scores.add(name, pattern.name, predicted, *where, share=share)
            if name in _RETRIEVED:
                kept[name] = predicted

        raw = held_out.raw
        mean, variance = self.predictor.predict(show(raw, hidden), hidden)
        take("model", mean)
        query = query_of(held_out.target, held_out.present, hidden, held_out.slide_mean)
        for name, predicted in self.baselines.predictions(pattern.name, query):
            take(name, predicted)
        take("C1", self.predictor.predict(show(raw, hidden, self.sister), hidden)[0])
        take("C1x", predict_with_foreign_scales(self.predictor, raw, hidden, self.sister, layout))
        if self.stranger is not None:
            take("C2", self.predictor.predict(show(raw, hidden, self.stranger), hidden)[0])
        for name, several in self.controls.items():
            for control in several:
                take(name, control.predict(show(raw, hidden), hidden)[0], 1 / len(several))
        for name, readouts in self.readouts.items():
            for readout in readouts:
                take(name, readout.predict(pattern.name, raw, hidden), 1 / len(readouts))
        for level in self.scores.levels(pattern.name):
            found = retrieve(
                {name: kept[name] for name in _RETRIEVED if name in kept},
                held_out.target,
                held_out.present,
                hidden,
                held_out.slide,
                layout,
                level,
                most=settings.queries,
                rng=np.random.default_rng([settings.seed, 6, number, level]),
            )
            if found is not None:
                self.retrieval[pattern.name, level] = found
        self._calibrate(pattern, hidden, mean, variance, kept["B9"])

    def _calibrate(
        self, pattern: Pattern, hidden: Bool[np.ndarray, "region slot"], mean: Tiles, variance: Tiles, kriged: Tiles
    ) -> None:
        settings, held_out, layout = self.subject.settings, self.held_out, self.layout
        kriging = self.baselines.kriging[pattern.name]
        query = query_of(held_out.target, held_out.present, hidden, held_out.slide_mean)
        # A variance costs about five times the solve for a mean.
        rows = affordable_rows(query, n_predictors=kriging.bases.n_predictors, most_flops=_VARIANCE_FLOPS / 5)
        of_field = kriging.variance(query.take(rows), layout)
        target = held_out.target
        compared = {"B9": (kriged[rows], of_field, target[rows], hidden[rows])}
        if settings.variance_weight > 0 and settings.variance_from < 1:
            compared = {"model": (mean, variance, target, hidden), **compared}
        for level in self.scores.levels(pattern.name):
            found = {}
            for name, (predicted, spread, truth, asked) in compared.items():
                one = calibrate(predicted, spread, truth, asked, layout, level)
                if one is not None:
                    found[name] = one
            if found:
                self.calibration[pattern.name, level] = found

    def finish(self, out: Path, patterns: tuple[Pattern, ...]) -> ProofResult:
        """Intervals, verdict, files.

        Raises:
            ConfigError: no pattern hides anything, as where every region has one tile.
        """
        settings, scores = self.settings, self.scores
        scored = [one for one in patterns if one.name in scores.spread]
        if not scored:
            raise ConfigError(
                f"cannot prove {self.subject.path}: no held-out region has two tiles, so nothing can be hidden."
            )
        intervals: dict[tuple[str, str], Interval | None] = {}
        differences: dict[tuple[str, str], Interval | None] = {}
        for method, name in scores.error:
            intervals[method, name] = scores.interval(method, name, draws=settings.draws, seed=settings.seed)
            if method != "model":
                differences[method, name] = scores.interval(
                    "model", name, minus=(method,), draws=settings.draws, seed=settings.seed
                )
        equal_steps = self.control_steps >= self.subject.steps
        verdicts = tuple(
            judge(scores, one, draws=settings.draws, seed=settings.seed, equal_steps=equal_steps) for one in scored
        )
        held_out = self.held_out
        result = ProofResult(
            layout=self.layout,
            scores=scores,
            intervals=intervals,
            differences=differences,
            verdicts=verdicts,
            sentences=verdict_sentences(
                verdicts,
                self.layout,
                clusters=held_out.cluster_word,
                n_clusters=held_out.n_clusters,
                one_slide=self.one_slide,
            ),
            what=self._what(),
            notes=self._notes(),
            remarks=self._remarks(),
            one_slide=self.one_slide,
            clusters=held_out.cluster_word,
            retrieval=self.retrieval,
            retrieved=tuple(name for name in _RETRIEVED if any(name in one.top1 for one in self.retrieval.values())),
            calibration=self.calibration,
            choices=self.baselines.choices(),
            report=out / "report.html",
        )
        # Where something ran does not change what came of it.
        described = settings.model_dump(mode="json", exclude={"device", "batch"})
        inputs = {"model": self.subject.digest, "tile embeddings": self.subject.tiles.name}
        make_report(proof_page(result, settings=described, seed=settings.seed, inputs=inputs), result.report)
        with writing(out / "prove.json") as temporary:
            content = {**provenance({**described, "inputs": inputs}), **result.describe()}
            temporary.write_text(json.dumps(content, indent=2, allow_nan=False))
        return result

    def _what(self) -> str:
        n_slides = len(np.unique(self.held_out.slide))
        return (
            f"{self.subject.path.name}, {self.subject.steps:,} steps of pretraining, on {self.subject.tiles.name}: "
            f"{self.subject.split.sentence}. {len(self.held_out.raw):,} held-out regions of {n_slides} "
            f"slide{'s' if n_slides > 1 else ''} are scored; intervals draw {self.held_out.n_clusters} "
            f"{self.held_out.cluster_word} again."
        )

    def _notes(self) -> tuple[str, ...]:
        first = next(iter(self.baselines.linear.values()))
        k, q = first.bases.n_predictors, first.bases.directions.shape[2]
        sample = next(iter(self.baselines.nearest.values())).tokens
        notes = [
            f"Linear baselines rest on {self.baselines.n_regions:,} training regions; B4, B7 and B8 on "
            f"{len(sample):,}. A visible tile is described by its leading {k} directions and a hidden one by {q}, of "
            f"{self.layout.dim} numbers. Ridge and rank are chosen on a quarter of the training slides.",
            f"Under the random pattern at most {self.settings.random_regions} regions are scored. The slide's mean "
            "(B1) is that of the other scored regions.",
            "Standardised embeddings are clipped as the model clips them; training tiles have mean 0.",
        ]
        seeds = self.settings.control_seeds
        notes.append(
            f"B10 and the decoders of C3 and C3s were trained for {self.control_steps:,} steps, the model for "
            f"{self.subject.steps:,}, with the same batches, masks and optimiser; {seeds} random encoder"
            f"{'s' if seeds > 1 else ''} of each kind."
        )
        notes.append(
            "Nothing here was chosen on the scored regions. Where settings of pretraining were chosen by its monitors, "
            "they were chosen on these regions: then prove a model of other held-out slides."
        )
        return tuple(notes)

    def _remarks(self) -> tuple[str, ...]:
        remarks = [] if self.subject.unreadable is None else [self.subject.unreadable]
        if self.subject.n_later:
            remarks.append(f"{self.subject.n_later} slides came into the store after pretraining and are left out.")
        if self.held_out.n_dropped:
            remarks.append(
                f"{self.held_out.n_dropped} held-out tiles lie on another tile's place in the region's raster "
                "and are left out."
            )
        if self.stranger is None:
            remarks.append("C2 needs two held-out slides and is left out.")
        if not self.controls:
            remarks.append("B10, C3 and C3s are left out, as asked; without them there is no verdict.")
        if not self.one_slide and self.held_out.n_clusters < 10:
            remarks.append(
                f"Only {self.held_out.n_clusters} slides are held out; intervals from so few are too narrow as a rule."
            )
        return tuple(remarks)
