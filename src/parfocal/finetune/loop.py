"""The training loop of `finetune`: tiles, regions and head together, and on a killed run's last point."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from lightning_fabric import Fabric
from torch import Tensor

from parfocal.errors import MismatchError, ParfocalError
from parfocal.files import digest8
from parfocal.finetune.goals import Drawn, Goal
from parfocal.finetune.gradients import cached_backward
from parfocal.finetune.reading import PreparedRegion, TileReader
from parfocal.finetune.scorer import Layout, Scorer, part_widths
from parfocal.finetune.settings import FinetuneSettings
from parfocal.finetune.tuning import TunedEncoder
from parfocal.pretrain.metrics import MetricsFile
from parfocal.pretrain.optimiser import parameter_groups
from parfocal.pretrain.setup import RunFolder, derived_seed, rate_at
from parfocal.run.events import Notice, OnEvent, Progress

# Each kind of draw has its own stream of random numbers, so that a step can be repeated without those before it.
_ORDER, _REGIONS, _DROP_PATH, _START, _LOOK, _PICKED = 31, 32, 33, 34, 35, 36
COLUMNS = ("step", "loss", "lr", "held_out")
_LEAST_SPREAD = 0.05  # of a dim, over the root mean square of all


def _all_tiles(region: PreparedRegion) -> PreparedRegion:
    return region


class Training:
    """The steps of one run in one process."""

    def __init__(
        self,
        fabric: Fabric,
        folder: RunFolder,
        goal: Goal,
        reader: TileReader,
        tuned: TunedEncoder,
        scorer: Scorer,
        settings: FinetuneSettings,
        *,
        is_new: bool,
        tell: OnEvent,
    ) -> None:
        """Put together what is trained; everything is on the device.

        Args:
            fabric: the processes.
            folder: of the run.
            goal: what is learnt.
            reader: of the regions.
            tuned: the tile encoder.
            scorer: region encoder and head.
            settings: how.
            is_new: whether the region encoder has learnt nothing yet, so that its statistics are taken here.
            tell: told of the progress.
        """
        self.fabric, self.folder, self.goal, self.reader = fabric, folder, goal, reader
        self.tuned, self.scorer, self.settings = tuned, scorer, settings
        self.is_new, self.tell = is_new, tell
        self.mpps = scorer.region.config.mpps
        self.metrics = MetricsFile(folder.metrics, COLUMNS)
        groups = [
            {"params": list(scorer.head.parameters()), "weight_decay": settings.head_decay, "most": settings.lr},
            *({**one, "most": settings.region_lr} for one in parameter_groups(scorer.region, settings.weight_decay)),
        ]
        self.trains_tiles = bool(tuned.trained) and settings.tile_lr > 0
        if self.trains_tiles:
            groups += [{**one, "most": settings.tile_lr} for one in parameter_groups(tuned, settings.weight_decay)]
        self.optimizer = torch.optim.AdamW([one for one in groups if one["params"]])
        self.parameters: list[torch.nn.Parameter] = [p for one in self.optimizer.param_groups for p in one["params"]]

        self._scores: Mapping[int, Float64[np.ndarray, "column _unit"]] | None = None  # of the last look

    def run(self) -> Mapping[int, Float64[np.ndarray, "column _unit"]]:
        """Do the steps that are left; the scores of the held-out slides afterwards."""
        settings, n_steps = self.settings, self.settings.steps
        state = self.fabric.broadcast(self.folder.load() if self.fabric.is_global_zero else None)
        first, total, logged = 0, 0.0, 0
        if state is not None:
            first, total, logged = self._go_on(state)
        else:
            if self.fabric.is_global_zero:
                self._start()
            self.scorer.load_state_dict(self.fabric.broadcast(self.scorer.state_dict()))
        if self.fabric.is_global_zero:
            self.metrics.cut(first if state is not None else -1)
        if state is None:
            self._log(0, math.nan, 0.0, looks=True)
            self._save(0, 0.0, 0)
        for step in range(first, n_steps):
            share = rate_at(step, n_steps, lr=1.0, warmup=settings.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = share * group["most"]
            total += self._step(step)
            done, last = step + 1, step + 1 == n_steps
            looks = last or bool(settings.look_every and done % settings.look_every == 0)
            if looks or done % settings.log_every == 0:
                self._log(done, total / (done - logged), share * settings.lr, looks=looks)
                total, logged = 0.0, done
            if done % settings.checkpoint_every == 0:
                self._save(done, total, logged)
        return self._scores if self._scores is not None else self._held_out_scores()

    def _step(self, step: int) -> float:
        """One step; the loss, as the mean over processes."""
        settings, rank = self.settings, self.fabric.global_rank
        drawn = self._draw(step)
        keys, units = self.goal.keys(drawn), self.goal.units(drawn)
        generator = torch.Generator(device=self.fabric.device)
        generator.manual_seed(derived_seed(settings.seed, _DROP_PATH, step, rank))
        regions: list[PreparedRegion] = []

        def read() -> Any:
            regions.clear()
            return self.reader.chunks(keys, regions.append, self._picking(_PICKED, step, rank))

        def loss_of(rows: Float[Tensor, "tile dim"]) -> Float[Tensor, ""]:
            layout = Layout.of(regions, self.mpps, at_places=self.goal.at_places)
            with self.tuned.products():
                scores = self.scorer(rows, layout, units, generator=generator)
            return self.goal.loss(scores.float(), drawn)

        self.scorer.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = cached_backward(self.tuned, read, loss_of, trains_tiles=self.trains_tiles)
        if self.fabric.world_size > 1:
            self._share_gradients()
            loss = self.fabric.all_reduce(loss, reduce_op="mean")
        value = float(loss)
        if not math.isfinite(value):
            raise ParfocalError(
                f"fine-tuning stopped at step {step + 1}: the loss is {value}. Begin again in another folder with "
                "smaller learning rates or precision=float32."
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimizer.step()
        return value

    def _share_gradients(self) -> None:
        """Give every process the mean gradient; what had none in one of them counts as 0 there."""
        for parameter in self.parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.fabric.all_reduce(own, reduce_op="mean")

    def _picking(self, *stream: int) -> Callable[[PreparedRegion], PreparedRegion]:
        """Draws tiles of regions, the same ones for the same stream."""
        count, rng = self.settings.tiles_per_region, np.random.default_rng([self.settings.seed, *stream])
        if not count:
            return _all_tiles
        return lambda region: region.some(count, rng, at_place=self.goal.at_places)

    def _draw(self, step: int) -> list[Drawn]:
        """The slides and regions of a step: slides in random order, again and again; regions of each at random."""
        settings, slides = self.settings, self.goal.training
        world, rank = self.fabric.world_size, self.fabric.global_rank
        count = min(settings.slides_per_step, len(slides))
        rng = np.random.default_rng([settings.seed, _REGIONS, step, rank])
        drawn = []
        for place in range((step * world + rank) * count, (step * world + rank + 1) * count):
            turn, at = divmod(place, len(slides))
            order = np.random.default_rng([settings.seed, _ORDER, turn]).permutation(len(slides))
            slide = int(slides[order[at]])
            own = len(self.goal.regions[slide])
            drawn.append(Drawn(slide, rng.permutation(own)[: settings.regions_per_slide]))
        return drawn

    def _start(self) -> None:
        """Take the statistics of a new region encoder, and let the head learn from untuned vectors."""
        settings, goal = self.settings, self.goal
        rng = np.random.default_rng([settings.seed, _START])
        most = max(1, settings.start_regions // len(goal.training))
        drawn = [Drawn(int(one), rng.permutation(len(goal.regions[one]))[:most]) for one in goal.training]
        rows, regions = self._rows(drawn, self._picking(_START, 1))
        if self.is_new:
            self._standardise(torch.cat(rows), [one for own in regions for one in own])
        vectors = torch.cat([self._vectors(*one) for one in zip(rows, regions, strict=True)])
        head = self.scorer.head
        head.mean.copy_(vectors.mean(dim=0))
        # A dim that hardly changes is not blown up: the first steps of the encoders would move it by many spreads.
        spread = vectors.std(dim=0, correction=0)
        spread = spread.clamp(min=_LEAST_SPREAD * float(spread.square().mean().sqrt().clamp(min=1e-6)))
        # Each part with as much say as the others, and the whole with as much as one number, however wide it is: a step
        # of Adam moves every weight alike.
        widths = part_widths(self.scorer.region, self.scorer.readout)
        head.sd.copy_(spread * torch.cat([spread.new_full((one,), (one * len(widths)) ** 0.5) for one in widths]))
        optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.head_decay)
        units = goal.units(drawn)
        for step in range(settings.head_steps):
            loss = goal.loss(self.scorer.score(vectors, units), drawn)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % settings.log_every == 0:
                self.tell(Progress("head", step, settings.head_steps, item=f"loss {float(loss.detach()):.3f}"))

    def _standardise(self, rows: Float[Tensor, "tile dim"], regions: Sequence[PreparedRegion]) -> None:
        """Give the region encoder the means and spreads of the tile embeddings of each magnification."""
        mpp = np.concatenate([one.mpp for one in regions])
        own = {one: rows.cpu().numpy()[mpp == np.float32(one)] for one in self.mpps}
        missing = [one for one, values in own.items() if not len(values)]
        if missing:
            raise ParfocalError(f"no training region has a tile at {missing[0]:g} mpp. Leave it out of --mpps.")
        means = {one: values.mean(axis=0, dtype=np.float64) for one, values in own.items()}
        spreads = {one: values.std(axis=0, dtype=np.float64) for one, values in own.items()}
        self.scorer.region.standardiser.set(means, spreads)

    @torch.no_grad()
    def _rows(
        self, drawn: Sequence[Drawn], pick: Callable[[PreparedRegion], PreparedRegion]
    ) -> tuple[list[Float[Tensor, "_tile dim"]], list[list[PreparedRegion]]]:
        """The embeddings of the tiles of each slide's drawn regions, and these."""
        rows, regions = [], []
        for number, one in enumerate(drawn):
            self.tell(Progress("slides", number, len(drawn)))
            own: list[PreparedRegion] = []
            parts = self.reader.chunks(self.goal.keys([one]), own.append, pick)
            rows.append(torch.cat([self.tuned(part) for part in parts]))
            regions.append([replace(region, tiles=region.tiles[:0]) for region in own])
        return rows, regions

    @torch.no_grad()
    def _vectors(
        self, rows: Float[Tensor, "tile dim"], regions: Sequence[PreparedRegion]
    ) -> Float[Tensor, "region width"]:
        self.scorer.eval()
        layout = Layout.of(regions, self.mpps, at_places=self.goal.at_places)
        with self.tuned.products():
            return self.scorer.vectors(rows, layout)

    @torch.no_grad()
    def _held_out_scores(self) -> dict[int, Float64[np.ndarray, "column _unit"]]:
        """The scores of the held-out slides, each alone; in the first process."""
        if not self.fabric.is_global_zero:
            return {}
        scores = {}
        for drawn in self._looked_at:
            (rows,), (regions,) = self._rows([drawn], _all_tiles)
            found = self.scorer.score(self._vectors(rows, regions), self.goal.units([drawn]))
            scores[drawn.slide] = found.double().cpu().numpy()
        return scores

    @cached_property
    def _looked_at(self) -> list[Drawn]:
        """All places of the held-out slides, or some regions of each."""
        goal, drawn = self.goal, []
        for slide in goal.held_out:
            picked = np.arange(len(goal.regions[slide]))
            if not goal.at_places:
                rng = np.random.default_rng([self.settings.seed, _LOOK, int(slide)])
                picked = np.sort(rng.permutation(picked)[: self.settings.held_out_regions])
            drawn.append(Drawn(int(slide), picked))
        return drawn

    def _log(self, step: int, loss: float, rate: float, *, looks: bool) -> None:
        if self.fabric.is_global_zero:
            row = {"step": float(step), "loss": loss, "lr": rate}
            shown = [] if math.isnan(loss) else [f"loss {loss:.3f}"]
            if looks and len(self.goal.held_out):
                self._scores = self._held_out_scores()
                row["held_out"] = self.goal.measure(self._scores)
                shown.append(f"held-out {self.goal.metric} {row['held_out']:.3f}")
            self.metrics.append(row)
            self.tell(Progress("steps", step, self.settings.steps, item=", ".join(shown)))
        self.fabric.barrier()

    @cached_property
    def _goal_digest(self) -> str:
        goal = self.goal
        parts = [goal.slides, goal.names, goal.is_held_out.tolist(), [one.tolist() for one in goal.regions]]
        return digest8(parts)

    def _save(self, step: int, total: float, logged: int) -> None:
        if self.fabric.is_global_zero:
            self.folder.save(
                {
                    "step": step,
                    "total": total,
                    "logged": logged,
                    "world": self.fabric.world_size,
                    "autocast": [self.tuned.stem_autocast, self.tuned.autocast],
                    "goal": self._goal_digest,
                    "tiles": self.tuned.trained_state(),
                    "scorer": self.scorer.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                }
            )

    def _go_on(self, state: Mapping[str, Any]) -> tuple[int, float, int]:
        """Take over a killed run's last point.

        Raises:
            MismatchError: it was begun with another number of processes, or other regions.
        """
        if state["world"] != self.fabric.world_size:
            raise MismatchError(
                f"cannot resume {self.folder.path}: it was begun with {state['world']} processes, now there are "
                f"{self.fabric.world_size}. Use {state['world']}, or another folder."
            )
        if state["goal"] != self._goal_digest:
            raise MismatchError(
                f"cannot resume {self.folder.path}: slides, labels or places are not those that it was begun with. "
                "Choose another folder."
            )
        self.tuned.stem_autocast, self.tuned.autocast = state["autocast"]
        self.tuned.load_trained(state["tiles"])
        self.scorer.load_state_dict(state["scorer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.tell(Notice(f"going on behind step {state['step']}"))
        return int(state["step"]), float(state["total"]), int(state["logged"])
