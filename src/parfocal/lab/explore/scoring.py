"""One cell with one seed: pretrain it, freeze it, and score it as all others; a job that can be run twice."""

import json
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from parfocal.bags.represent import RepresentSettings, represent_regions
from parfocal.cohort import LabelColumns, Target, read_cohort, read_splits
from parfocal.errors import ParfocalError, ParfocalWarning
from parfocal.evaluate.arm import choose_arms
from parfocal.evaluate.arms import read_arm_bags, table_of_arms
from parfocal.evaluate.fitting import cross_validate
from parfocal.files import canonical_json
from parfocal.geometry import format_mpp
from parfocal.heads import ProbeSettings
from parfocal.lab.explore.design import Cell
from parfocal.lab.explore.linear_r2 import Contextualise, linear_r2
from parfocal.pretrain import PATTERNS, MaskSettings, PretrainSettings, R2Sums, pretrain_encoder, read_metrics
from parfocal.pretrain.data import SlideCache
from parfocal.pretrain.evaluation import HeldOut, choose_held_out, look
from parfocal.pretrain.holdout import Split, split_set
from parfocal.pretrain.setup import derived_seed, new_model, take_statistics
from parfocal.pretrain.trainee import Trainee
from parfocal.region_encoder import RegionModel
from parfocal.region_encoder.batch import RegionBatch
from parfocal.report.writer import pick, write_json
from parfocal.run.device import find_device
from parfocal.run.jobs import attempt, own_warnings
from parfocal.store import EmbeddingSet, open_set

RESULT = "result.json"
# What says most of a cell; the other poolings would take most of the time, cell by cell.
_METHODS = frozenset({"mean", "gated-attention", "second-moment", "contrast", "concat", "late", "union"})
_RANDOM_WEIGHTS, _FIT, _SCORE = 21, 22, 23
_AUC = {
    "auc": "interval.estimate",
    "low": "interval.low",
    "high": "interval.high",
    "kind": "arm.kind",
    "pooling": "arm.pooling",
    "folds_with_most_steps": "at_edge",
}
_MONITORS = ("rank_me_cls", "token_cosine", "retention_r2", "slide_probe", "slide_probe_chance")


@dataclass(frozen=True)
class Labels:
    """What the slide classifiers are to predict, and the folds that all cells share."""

    path: Path
    target: Target
    columns: LabelColumns
    splits: Path
    most_instances: int


@dataclass(frozen=True)
class Protocol:
    """What is the same for all cells.

    Attributes:
        regions: most regions that the linear readout is fitted on, and most that it is scored on.
        probes: what slide classifiers choose among; its seed is that of masks and of regions that are looked at.
        labels: None scores by held-out R2 alone.
    """

    regions: int
    probes: ProbeSettings
    labels: Labels | None


@dataclass(frozen=True)
class CellJob:
    """One cell with one seed.

    Attributes:
        cell: what is run.
        settings: its pretraining settings with seed, held-out slides and device.
        tiles: the folder of the set.
        slides: those of its slides that all cells are run on.
        folder: where its model and its result go.
        protocol: how it is scored.
        identity: everything that decides the result, as plain values; a result of another identity is not used.
        device: where it runs.
    """

    cell: Cell
    settings: PretrainSettings
    tiles: Path
    slides: tuple[str, ...]
    folder: Path
    protocol: Protocol
    identity: Mapping[str, Any]
    device: str

    @property
    def label(self) -> str:
        """The cell and its seed in one piece of text."""
        return f"{self.cell.name}, seed {self.settings.seed}"


@dataclass(frozen=True)
class Failure:
    """A cell that has no result, and why, in one line."""

    cell: str
    seed: int
    error: str
    message: str


def read_result(job: CellJob) -> dict[str, Any] | None:
    """The result of a job that is done; None when it is not, or was done for other data or another protocol."""
    file = job.folder / RESULT
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content if content.get("identity") == json.loads(canonical_json(dict(job.identity))) else None


def is_done(job: CellJob) -> bool:
    """Whether nothing of a job is left: it has a result, in which no slide classifier failed."""
    found = read_result(job)
    return found is not None and not found.get("failed_arms")


def attempt_job(job: CellJob) -> Failure | None:
    """Run a job; what goes wrong with this cell, whatever it is, is its recorded failure, and the others go on."""
    failed = attempt(partial(run_job, job))
    if failed is None:
        return None
    return Failure(job.cell.name, job.settings.seed, failed.error, failed.message or "no message")


def run_job(job: CellJob) -> None:
    """Pretrain, freeze and score a cell; `result.json` comes last and marks it as done.

    Raises:
        ParfocalError: its training diverged, or some slide classifier failed; in that case the result is written, with
            the other numbers.
    """
    started = time.monotonic()
    with own_warnings() as caught:
        scores = _run(job)
    notes = sorted({str(one.message) for one in caught})
    content = {
        "identity": dict(job.identity),
        "cell": job.cell.name,
        "kind": job.cell.kind,
        "levels": dict(job.cell.levels),
        "seed": job.settings.seed,
        "device": job.device,
        "seconds": round(time.monotonic() - started, 2),
        "warnings": notes,
        **scores,
    }
    write_json(job.folder / RESULT, content)
    failed = scores.get("failed_arms")
    if failed:
        first = next(iter(failed))
        raise ParfocalError(f"{len(failed)} slide classifiers failed; the first, {first}: {failed[first]}")


@dataclass(frozen=True, eq=False)
class _Bench:
    """What a cell is pretrained and scored on."""

    job: CellJob
    tiles: EmbeddingSet
    split: Split
    cache: SlideCache
    device: torch.device

    @classmethod
    def of(cls, job: CellJob) -> "_Bench":
        tiles, settings = replace(open_set(job.tiles), slides=job.slides), job.settings
        split = split_set(tiles, share=settings.holdout, slides=settings.holdout_slides, seed=settings.seed)
        return cls(job, tiles, split, SlideCache(tiles, max_bytes=settings.cache_mib << 20), find_device(job.device))

    def trainee(self, model: RegionModel) -> Trainee:
        """The model with the statistics that training takes; whitened targets need what no checkpoint holds."""
        trainee = Trainee(model, self.job.settings)
        take_statistics(trainee, self.split, self.cache)
        return trainee

    def looked_at(self, parts: Any, stream: int) -> HeldOut:
        """Regions and masks: the same for all cells, whatever they were trained with."""
        return choose_held_out(
            parts,
            self.cache,
            most=self.job.protocol.regions,
            masks=MaskSettings(),
            tile_px=int(self.tiles.tile_px or 0),
            seed=derived_seed(self.job.protocol.probes.seed, stream),
        )

    def linear_scores(
        self,
        contextualise: Contextualise,
        standardise: Callable[[RegionBatch], Float[Tensor, "region token dim"]],
    ) -> dict[str, Any]:
        sums = linear_r2(
            contextualise,
            standardise,
            self.looked_at(self.split.training, _FIT),
            self.looked_at(self.split.held_out, _SCORE),
            self.tiles.mpps,
            tile_px=int(self.tiles.tile_px or 0),
            dims=list(self.tiles.dims.values()),
            device=self.device,
        )
        return {"r2": _by_pattern(sums, self.tiles.mpps)}


def _run(job: CellJob) -> dict[str, Any]:
    bench = _Bench.of(job)
    if job.cell.kind == "tiles":
        scores = {"parameters": 0, "training_seconds": 0.0, "holdout": bench.split.sentence}
        return scores | _scores_without_encoder(bench) | _slide_aucs(bench, [bench.tiles])
    model = _pretrained(bench)
    trainee = bench.trainee(model)
    trainee.to(bench.device).eval()
    scores = {
        "parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "parameters_of_decoder": sum(parameter.numel() for parameter in model.decoder.parameters()),
        "training_seconds": _training_seconds(job),
        "holdout": bench.split.sentence,
    }
    scores |= _decoder_scores(bench, trainee)

    def contextualise(
        regions: RegionBatch, visible: Bool[Tensor, "region token"]
    ) -> tuple[Float[Tensor, "region cls"], Float[Tensor, "region token width"]]:
        encoded = trainee.encode(regions, visible)
        return encoded.cls, encoded.tokens

    def standardise_on_cpu(regions: RegionBatch) -> Float[Tensor, "region token dim"]:
        return trainee.standardise(regions.to(bench.device)).cpu()

    scores |= bench.linear_scores(contextualise, standardise_on_cpu)
    if job.protocol.labels:
        with tempfile.TemporaryDirectory(dir=job.folder, prefix="regions-") as scratch:
            how = RepresentSettings(readouts=("cls", "tokens"), device=(str(bench.device),))
            made = represent_regions(bench.tiles, job.folder / "model", Path(scratch), how)
            if made.failed:
                first = made.failed[0]
                raise ParfocalError(
                    f"{len(made.failed)} slides have no region embeddings: {first.slide}: {first.message}"
                )
            scores |= _slide_aucs(bench, made.sets)
    return scores


def _pretrained(bench: _Bench) -> RegionModel:
    job, folder = bench.job, bench.job.folder / "model"
    if job.cell.kind == "trained":
        return RegionModel.from_pretrained(pretrain_encoder(bench.tiles, folder, job.settings).model)
    model = new_model(bench.tiles, job.settings, seed=derived_seed(job.settings.seed, _RANDOM_WEIGHTS))
    bench.trainee(model)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    return model.eval()


def _training_seconds(job: CellJob) -> float:
    """Seconds of the training steps alone, from the rates in metrics.csv, so that a resumed run counts whole."""
    if job.cell.kind != "trained":
        return 0.0
    seconds, before = 0.0, 0.0
    for row in read_metrics(job.folder / "model" / "metrics.csv"):
        seconds += (row["step"] - before) * job.settings.batch / row["regions_per_s"]
        before = row["step"]
    return round(seconds, 2)


def _decoder_scores(bench: _Bench, trainee: Trainee) -> dict[str, Any]:
    """What the cell's own decoder predicts, where it predicts embeddings, and the monitors."""
    job = bench.job
    held_out, seed = bench.looked_at(bench.split.held_out, _SCORE), job.protocol.probes.seed
    values, _ = look(trainee, held_out, device=bench.device, autocast=False, seed=seed)
    scores: dict[str, Any] = {"monitors": _finite({name: values[name] for name in _MONITORS if name in values})}
    if job.cell.kind == "trained" and job.settings.predicts_tokens and job.settings.targets != "latent":
        names = list(map(format_mpp, bench.tiles.mpps))
        found = {
            pattern: _finite({name: values[f"r2_{pattern}_{name}"] for name in names})
            for pattern in (*PATTERNS, "bottleneck")
        }
        scores |= {"r2_bottleneck": found.pop("bottleneck"), "r2_decoder": found}
    return scores


def _scores_without_encoder(bench: _Bench) -> dict[str, Any]:
    """Of standardised tile embeddings in the place of contextual tokens, and nothing in that of CLS."""
    trainee = bench.trainee(new_model(bench.tiles, bench.job.settings, seed=0))

    def contextualise(
        regions: RegionBatch, visible: Bool[Tensor, "region token"]
    ) -> tuple[Float[Tensor, "region cls"], Float[Tensor, "region token width"]]:
        return torch.zeros(len(regions), 1), trainee.standardise(regions.to(torch.device("cpu")))

    return bench.linear_scores(contextualise, trainee.standardise)


def _slide_aucs(bench: _Bench, sets: Sequence[EmbeddingSet]) -> dict[str, Any]:
    """The AUC of every arm that the sets allow, on the folds that all cells share, and why some have none."""
    labels, probes = bench.job.protocol.labels, bench.job.protocol.probes
    if labels is None:
        return {}
    cohort = read_cohort(labels.path, labels.target, labels.columns)
    cohort = cohort.restricted_to(sets[0].slides, sets[0].name)
    splits = read_splits(labels.splits)[labels.target.name]
    known = table_of_arms(sets)
    arms = choose_arms(known, sorted({arm.method for arm in known} & _METHODS))
    bags = read_arm_bags(arms, sets, cohort.slides, most_instances=labels.most_instances, seed=probes.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)  # arms that failed are in the result
        result = cross_validate(arms, bags, cohort, splits, probes.model_copy(update={"device": str(bench.device)}))
    aucs = {run.arm.label: pick(run, **_AUC) for run in result.runs}
    return {"auc": aucs, "failed_arms": {one.arm.label: one.reason for one in result.failed}}


def _by_pattern(sums: R2Sums, mpps: Sequence[float]) -> dict[str, dict[str, float]]:
    broken = [
        f"{pattern} at {format_mpp(mpp)} mpp"
        for (pattern, mpp), error in sums.error.items()
        if not math.isfinite(error)
    ]
    if broken:
        raise ParfocalError(f"its vectors give predictions that are not finite ({', '.join(broken)})")
    return {
        pattern: _finite({format_mpp(mpp): sums.of(pattern=pattern, mpp=mpp) for mpp in mpps}) for pattern in PATTERNS
    }


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value == value}
