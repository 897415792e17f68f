"""The pretraining loop: many processes, exact resume, metrics, and the model's folder at the end."""

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from parfocal.errors import MismatchError, ParfocalError, ParfocalWarning
from parfocal.files import writable_folder
from parfocal.geometry import format_mpp
from parfocal.pretrain.augment import SquareSymmetries, declared_symmetries
from parfocal.pretrain.data import RegionStream, SlideCache
from parfocal.pretrain.evaluation import HeldOut, choose_held_out, look
from parfocal.pretrain.holdout import Split, check_hidable, regions_in_words, shared_groups, split_set
from parfocal.pretrain.masks import draw_masks
from parfocal.pretrain.metrics import (
    MetricsFile,
    RateClock,
    metric_columns,
    read_metrics,
    remarks_after,
    remarks_before,
    steps_done,
)
from parfocal.pretrain.monitors import CollapseWatch
from parfocal.pretrain.optimiser import choose_autocast, new_optimizer
from parfocal.pretrain.settings import PretrainSettings
from parfocal.pretrain.setup import (
    RunFolder,
    count_steps,
    derived_seed,
    launch,
    learning_rate,
    new_model,
    new_order,
    own_streams,
    run_identity,
    take_statistics,
)
from parfocal.pretrain.trainee import LOSS_PARTS, Trainee
from parfocal.region_encoder.batch import RegionBatch
from parfocal.run.events import Event, Notice, OnEvent, Progress
from parfocal.store import EmbeddingSet, LeftOut, Source, only_mpps, open_set, with_readable_index

# Each kind of draw has its own stream of random numbers, so that a step can be repeated without those before it.
_STEP, _SHARED, _DROP_PATH, _HELD_OUT, _MODEL = 11, 12, 13, 14, 15


@dataclass(frozen=True)
class PretrainResult:
    """What came of a run.

    Attributes:
        model: the model's folder.
        was_finished: the same run had been finished before, so nothing was done.
        steps: steps in all.
        metrics: the last value of each column of metrics.csv.
        holdout: one sentence about what was held out.
    """

    model: Path
    was_finished: bool
    steps: int
    metrics: dict[str, float]
    holdout: str


def pretrain_encoder(
    tiles: Source,
    out: Path,
    settings: PretrainSettings | None = None,
    *,
    groups: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> PretrainResult:
    """Pretrain a region encoder on a set of tile embeddings, and leave the model in the folder `out`.

    A killed run goes on from its last point when it is called again, and on the CPU its curve is that of a run that
    was never killed. A finished run is not repeated. Under torchrun every process calls this function; `batch` is
    that of one process. One process with so many `streams` as there would be processes, and as many times their
    `batch`, gives their curve.

    Args:
        tiles: a set of tile embeddings, or the store or the folder that holds it.
        out: the model's folder; made when absent.
        settings: how; the defaults when None.
        groups: what stays on one side of the hold-out, such as the patient, for slides by their ids; a slide that is
            not in it stands for itself. None holds out slides.
        on_event: told of the progress, in the first process only; what it raises ends the run.

    Raises:
        ConfigError: the set cannot be split, or the settings do not fit the machine.
        MismatchError: the folder holds another run, the run was begun with another number of processes, or the set
            lacks a magnification that the settings name.
        StoreError: a file of the set or of the folder cannot be read.
        ParfocalError: the loss is no longer finite.
    """
    settings = settings or PretrainSettings()
    left_out = LeftOut()
    tiles = with_readable_index(only_mpps(open_set(tiles), settings.mpps), left_out)
    fabric = launch(settings.device)
    # A group of one slide decides nothing, so that runs of before it was named go on.
    groups = shared_groups(tiles.slides, groups)
    split = split_set(tiles, share=settings.holdout, slides=settings.holdout_slides, seed=settings.seed, groups=groups)
    check_hidable(tiles, split)
    own_streams(settings, rank=fabric.global_rank, world=fabric.world_size)  # refused before anything is made
    writable_folder(out)
    folder = RunFolder(out, run_identity(settings, tiles, groups))
    finished = fabric.broadcast(folder.claim() if fabric.is_global_zero else None)
    sentence = split.sentence
    if not finished:
        # The caller's random state is left as it was.
        with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
            run = _Run(fabric, folder, tiles, split, left_out, settings, on_event if fabric.is_global_zero else None)
            run.train()
        sentence = run.split.sentence
    metrics = {name: value for row in read_metrics(folder.metrics) for name, value in row.items()}
    return PretrainResult(out, bool(finished), int(metrics.get("step", 0)), metrics, sentence)


class _Run:
    """One call of `pretrain` in one process."""

    def __init__(
        self,
        fabric: Fabric,
        folder: RunFolder,
        tiles: EmbeddingSet,
        split: Split,
        left_out: LeftOut,
        settings: PretrainSettings,
        on_event: OnEvent | None,
    ) -> None:
        self.fabric, self.folder, self.tiles, self.settings = fabric, folder, tiles, settings
        self.whole_split = self.split = split
        self.left_out = left_out
        self.on_event = on_event
        self.cache = SlideCache(tiles, max_bytes=settings.cache_mib << 20)
        model = new_model(tiles, settings, seed=derived_seed(settings.seed, _MODEL))
        self.trainee = Trainee(model, settings)
        self.tile_px = model.encoder.config.tile_px
        declared = declared_symmetries(tiles)
        self.symmetries = SquareSymmetries.of(declared, dim=model.encoder.config.dim, wanted=settings.symmetry)
        self.watch = CollapseWatch()
        self.metrics = MetricsFile(folder.metrics, metric_columns(tiles.mpps))
        self.logged = 0
        self.autocast = False
        self.remarks: tuple[str, ...] = ()

    def train(self) -> None:
        """Run the steps that are left, and leave the finished folder."""
        fabric, settings = self.fabric, self.settings
        state = fabric.broadcast(self.folder.load() if fabric.is_global_zero else None)
        if state is not None:
            self._check(state)
            self.trainee.load_state_dict(state["trainee"])
            self.left_out.reasons |= state.get("left_out", {})
        else:
            take_statistics(self.trainee, self.split, self.cache, self.left_out)
        held_out = self._held_out() if settings.steps != 0 else None
        self.left_out.reasons = fabric.broadcast(self.left_out.reasons)
        self.split = self.whole_split.without(self.left_out)
        if fabric.is_global_zero:
            self.left_out.notes(stacklevel=3)
        world = fabric.world_size
        self.streams = own_streams(settings, rank=fabric.global_rank, world=world)
        orders = [new_order(self.tiles, self.split, settings, stream=one, world=world) for one in self.streams]
        self.n_steps = count_steps(self.split, settings, world=fabric.world_size)
        reason = self._choose_precision(state) if self.n_steps else "not used"
        self.trainee.to(fabric.device)
        module, optimizer = fabric.setup(self.trainee, new_optimizer(self.trainee, settings, device=fabric.device))
        first = 0
        sums = torch.zeros(len(LOSS_PARTS) + 1, device=fabric.device)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            first, self.logged = state["step"], state["logged"]
            sums = state["sums"].to(fabric.device)
            self.watch = CollapseWatch(dict(state["peak"]), list(state["said"]))
        if fabric.is_global_zero:
            self.metrics.cut(first)
        for sentence in self._sentences(reason):
            self._tell(Notice(sentence))
        self._tell(Progress("steps", first, self.n_steps))
        self.remarks = remarks_before(settings, self.n_steps, self.split, world=fabric.world_size)
        self._warn(self.remarks)
        clock = RateClock()
        with ExitStack() as stack:
            streams = [
                stack.enter_context(RegionStream(order, self.cache, workers=settings.read_threads)) for order in orders
            ]
            batches = zip(*(stream.batches(first, self.n_steps) for stream in streams), strict=True)
            for step, parts in enumerate(batches, start=first):
                rate = learning_rate(step, self.n_steps, settings)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                sums += self._step(step, module, optimizer, parts)
                clock.regions += sum(map(len, parts)) * world
                done, last = step + 1, step + 1 == self.n_steps
                if last or done % settings.log_every == 0 or done % settings.monitor_every == 0:
                    self._log(done, rate, sums, clock, held_out)
                    sums = torch.zeros_like(sums)
                if last or done % settings.checkpoint_every == 0:
                    self._save(done, optimizer, sums)
        if fabric.is_global_zero:
            late = remarks_after(read_metrics(self.folder.metrics), self.n_steps, warmup=settings.warmup)
            self._warn(late)
            self.remarks += late
            self._finish(reason)
        fabric.barrier()

    def _step(self, step: int, module: Any, optimizer: Any, parts: Sequence[RegionBatch]) -> Float[Tensor, " part"]:
        """One step; the parts of the loss, and how many regions had nothing to hide, as means over streams."""
        # One draw for all streams: a step is a bottleneck step or it is not.
        shared = torch.Generator().manual_seed(derived_seed(self.settings.seed, _SHARED, step))
        bottleneck = bool(torch.rand((), generator=shared) < self.settings.bottleneck)
        found = []
        for stream, regions in zip(self.streams, parts, strict=True):
            with self.fabric.no_backward_sync(module, enabled=stream != self.streams[-1]):
                found.append(self._part(step, stream, module, regions, bottleneck=bottleneck))
        self.fabric.clip_gradients(module, optimizer, max_norm=self.settings.clip, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.trainee.follow(step / self.n_steps)
        return torch.stack(found).mean(dim=0)

    def _part(
        self, step: int, stream: int, module: Any, regions: RegionBatch, *, bottleneck: bool
    ) -> Float[Tensor, " part"]:
        """The gradient of one stream's part of a step, added to those before it."""
        settings, device = self.settings, self.fabric.device
        generator = torch.Generator().manual_seed(derived_seed(settings.seed, _STEP, step, stream))
        # Dropped paths draw from torch's own state.
        torch.manual_seed(derived_seed(settings.seed, _DROP_PATH, step, stream))
        regions = self.symmetries.apply(regions, generator)
        masks = [
            draw_masks(regions.xy_um, regions.mpp, regions.present, settings, tile_px=self.tile_px, generator=generator)
            for _ in range(self.trainee.n_views)
        ]
        hidden = torch.stack([one.hidden for one in masks]).to(device, non_blocking=True)
        visible = torch.stack([one.visible(regions.present) for one in masks]).to(device, non_blocking=True)
        regions = regions.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            with_variance = step >= settings.variance_from * self.n_steps
            parts = module(*vars(regions).values(), hidden, visible, bottleneck, with_variance)
        self.fabric.backward(parts[0] / len(self.streams))
        # Of all streams of this process: what is averaged over them is their sum again.
        skipped = parts.new_tensor([float(sum(one.n_skipped for one in masks)) * len(self.streams)])
        return torch.cat([parts.detach(), skipped])

    def _log(
        self, step: int, rate: float, sums: Float[Tensor, " part"], clock: RateClock, held_out: HeldOut | None
    ) -> None:
        """Write a row; with a look at the held-out regions where it is time for one.

        Raises:
            ParfocalError: the loss is not finite, in all processes at once.
        """
        settings, world = self.settings, self.fabric.world_size
        if world > 1:
            sums = self.fabric.all_reduce(sums, reduce_op="sum")
        *means, skipped = sums.tolist()
        means = [value / ((step - self.logged) * world) for value in means]
        self.logged = step
        if not math.isfinite(means[0]):
            raise ParfocalError(
                f"pretraining stopped at step {step}: the loss is {means[0]}. "
                "Begin again in another folder with a smaller lr or precision=float32."
            )
        if held_out is not None:
            row = {"step": float(step), "lr": rate, "regions_per_s": clock.rate(), "skipped_regions": skipped}
            row |= dict(zip(LOSS_PARTS, means, strict=True))
            looks = step % settings.monitor_every == 0 or step == self.n_steps
            said = self._look(step, held_out, row) if looks else []
            self.metrics.append(row)
            self._tell(steps_done(row, self.n_steps, self.tiles.mpps))
            self._warn(said)
        self.fabric.barrier()
        clock.restart()

    def _look(self, step: int, held_out: HeldOut, row: dict[str, float]) -> list[str]:
        """Add the held-out numbers to the row; what they warn of."""
        seed = derived_seed(self.settings.seed, _HELD_OUT, 1)
        values, most = look(self.trainee, held_out, device=self.fabric.device, autocast=self.autocast, seed=seed)
        row |= values
        # Before the end of the warm-up the numbers are those of random weights.
        return self.watch.look(step, values, most) if step >= self.settings.warmup * self.n_steps else []

    def _held_out(self) -> HeldOut | None:
        """What the first process looks at."""
        if not self.fabric.is_global_zero:
            return None
        return choose_held_out(
            self.whole_split.held_out,
            self.cache,
            most=self.settings.monitor_regions,
            masks=self.settings,
            tile_px=self.tile_px,
            seed=derived_seed(self.settings.seed, _HELD_OUT),
            left_out=self.left_out,
        )

    def _choose_precision(self, state: dict[str, Any] | None) -> str:
        """Decide once in a run, so that going on elsewhere goes on as it began; why, in a few words."""
        if state is not None:
            self.autocast = state["autocast"]
            return f"{'bfloat16' if self.autocast else 'float32'}, as it began"
        choice = choose_autocast(self.settings.precision, self.fabric.device)
        # Processes may sit on machines of several kinds; the first decides for all.
        self.autocast, reason = self.fabric.broadcast(choice)
        return str(reason)

    def _check(self, state: dict[str, Any]) -> None:
        """Refuse to go on with another number of processes: each would see other regions."""
        if state["world"] != self.fabric.world_size:
            raise MismatchError(
                f"cannot resume {self.folder.path}: it was begun with {state['world']} processes, now there are "
                f"{self.fabric.world_size}. Use {state['world']}, or another folder."
            )

    def _save(self, step: int, optimizer: Any, sums: Float[Tensor, " part"]) -> None:
        """Keep a point to go on from. Sums of other processes are lost, so it lies at a row where there are many."""
        if self.fabric.world_size > 1 and self.logged != step:
            sums = self.fabric.all_reduce(sums, reduce_op="sum") / self.fabric.world_size
        if self.fabric.is_global_zero:
            self.folder.save(
                {
                    "step": step,
                    "logged": self.logged,
                    "world": self.fabric.world_size,
                    "autocast": self.autocast,
                    "left_out": self.left_out.reasons,
                    "trainee": self.trainee.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "sums": sums,
                    "peak": self.watch.peak,
                    "said": self.watch.said,
                }
            )

    def _finish(self, precision: str) -> None:
        """Write the model; its config.json comes last.

        Raises:
            ParfocalError: a weight is not finite: the last step diverged, after its loss was seen.
        """
        if not all(bool(torch.isfinite(one).all()) for one in self.trainee.model.parameters()):
            raise ParfocalError(
                f"pretraining into {self.folder.path} diverged in its last steps: its weights are not finite. "
                "Begin again in another folder with a smaller lr or precision=float32."
            )
        self.trainee.model.save_pretrained(self.folder.path)
        self.folder.finish(
            {
                **self.folder.identity,
                "steps": self.n_steps,
                "weights": "trained" if self.n_steps else "random",
                "predicts": self.settings.targets if self.settings.predicts_tokens else "nothing",
                "processes": self.fabric.world_size,
                "precision": precision,
                "device": str(self.fabric.device),
                "holdout": self.split.sentence,
                "remarks": list(self.remarks),
                "held_out_slides": [part.slide for part in self.whole_split.held_out],
                "left_out": self.left_out.reasons,
                "r2_space": "latent" if self.settings.targets == "latent" else "standardised",
            }
        )

    def _sentences(self, precision: str) -> tuple[str, ...]:
        """What is trained on what, in a few lines."""
        mpps = ", ".join(map(format_mpp, self.tiles.mpps))
        parameters = sum(p.numel() for p in self.trainee.parameters() if p.requires_grad)
        return (
            f"pretraining size {self.settings.size} ({parameters / 1e6:.1f} M parameters) on {self.tiles.name}: "
            f"{regions_in_words(self.split.training)} at {mpps} mpp, {self.n_steps} steps",
            self.split.sentence,
            *(() if self.n_steps else ("no step: the model keeps its random weights, as a control",)),
            f"{self.fabric.world_size} process{'es' if self.fabric.world_size > 1 else ''} on "
            f"{self.fabric.device.type}; precision {precision}; {self.symmetries.sentence}; "
            f"the set is {'kept in memory' if self.cache.keeps else 'read again in each pass'}",
        )

    def _warn(self, sentences: Sequence[str]) -> None:
        """Say what is remarkable, as events and as warnings, in the first process."""
        for sentence in sentences if self.fabric.is_global_zero else ():
            self._tell(Notice(sentence, is_warning=True))
            warnings.warn(sentence, ParfocalWarning, stacklevel=5)

    def _tell(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)
