"""What a run is made of before its first step: processes, model, order of the data, statistics, optimiser.

The model's folder says whose run it is, where the run can go on, and what is there when it is finished:

run.json           settings and data of the run, from its start; another run is refused
resume.pt          the point to go on from; removed at the end
metrics.csv        the curve
model.safetensors  and config.json: the model; config.json comes last and marks a finished run
"""

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.files import canonical_json, check_permission, writing
from parfocal.geometry import format_mpp
from parfocal.pretrain.data import RegionOrder, SlideCache, visit_size
from parfocal.pretrain.holdout import Split, shared_groups
from parfocal.pretrain.metrics import read_metrics
from parfocal.pretrain.moments import training_moments, whitening_of
from parfocal.pretrain.settings import PretrainSettings
from parfocal.pretrain.trainee import Trainee
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.region_encoder.checkpoint import FINISHED
from parfocal.run.device import find_device
from parfocal.store import EmbeddingSet, LeftOut
from parfocal.version import __version__


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: where it is.
        identity: settings and data, as plain values: what decides which model comes out.
        verb: what the run does, for messages.
        record: the file that comes last.
        entry: what in it marks a finished run.
    """

    path: Path
    identity: Mapping[str, Any]
    verb: str = "pretrain"
    record: str = "config.json"
    entry: str = FINISHED

    @property
    def metrics(self) -> Path:
        """The curve."""
        return self.path / "metrics.csv"

    @property
    def resume(self) -> Path:
        """The point to go on from."""
        return self.path / "resume.pt"

    @property
    def _claimed(self) -> Path:
        return self.path / "run.json"

    def claim(self) -> bool:
        """Make the folder ours; whether the run is finished already.

        Raises:
            MismatchError: the folder holds a run with other settings or data; the message names the first difference.
            StoreError: the folder holds a model of another origin.
        """
        file = self._claimed
        if file.is_file():
            found = _read_json(file).get("identity", {})
            ours = json.loads(canonical_json(dict(self.identity)))
            differences = _differences(found, ours)
            if differences:
                raise MismatchError(
                    f"cannot {self.verb} into {self.path}: it holds a run with {differences[0]}"
                    + (f" (and {len(differences) - 1} other differences)" if len(differences) > 1 else "")
                    + ". Choose another folder, or remove this one."
                )
        elif (self.path / self.record).is_file():
            raise StoreError(
                f"cannot {self.verb} into {self.path}: it holds a model that was not trained there. "
                "Choose another folder."
            )
        else:
            with writing(file) as temporary:
                content = {"parfocal_version": __version__, "identity": self.identity}
                temporary.write_text(json.dumps(content, indent=2, sort_keys=True))
        return bool(self.finished())

    def release(self) -> None:
        """Give the folder up where nothing has been learnt in it, so that a corrected run may have it."""
        if not (self.resume.is_file() or read_metrics(self.metrics) or self.finished()):
            self._claimed.unlink(missing_ok=True)

    def finished(self) -> dict[str, Any]:
        """What `finish` has noted; nothing where the run is not finished."""
        file = self.path / self.record
        return dict(_read_json(file).get(self.entry, {})) if file.is_file() else {}

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a point to resume from: tensors and plain values only, written whole or not at all."""
        with writing(self.resume) as temporary:
            torch.save(dict(state), temporary)

    def load(self) -> dict[str, Any] | None:
        """The point to resume from, if there is one.

        Raises:
            StoreError: the file is damaged.
        """
        if not self.resume.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.resume, map_location="cpu", weights_only=True)
        except Exception as error:  # of a crafted file the unpickler may raise anything
            check_permission(error, self.resume)
            raise StoreError(
                f"cannot resume from {self.resume}: it is damaged, or parfocal did not write it. "
                "Remove the folder to start again."
            ) from error
        return state

    def finish(self, entries: Mapping[str, Any]) -> None:
        """Add how the model came about to the record, which marks the run as finished, and drop the rest."""
        file = self.path / self.record
        content = (_read_json(file) if file.is_file() else {}) | {self.entry: dict(entries)}
        with writing(file) as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True))
        self.resume.unlink(missing_ok=True)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {file}: {error}. Choose another folder.") from error
    return content if isinstance(content, dict) else {}


def _differences(found: Any, ours: Any, name: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(ours, dict):
        names = sorted({*found, *ours})
        return [line for key in names for line in _differences(found.get(key), ours.get(key), f"{name}{key} ")]
    if found == ours:
        return []
    return [f"{name.strip()}={_short(found)}, now it is {_short(ours)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def launch(names: Sequence[str]) -> Fabric:
    """The processes and the device; under torchrun, this process and its share.

    Args:
        names: of devices, one for each process.

    Raises:
        ConfigError: this machine has no such device, or not as many.
    """
    for name in names:
        if name != "auto":
            find_device(name)
    accelerator, *others = dict.fromkeys(name.partition(":")[0] for name in names)
    indices = [int(index) for name in names if (index := name.partition(":")[2]).isdigit()]
    if others or len(indices) not in (0, len(names)):
        raise ConfigError(f"cannot train on {' '.join(names)}: name devices of one kind, such as cuda:0 cuda:1.")
    devices: int | list[int] = indices or len(names)
    nodes = 1
    # torchrun says so in the environment; Fabric wants to hear the number of this machine's processes all the same.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    many = nodes > 1 or (devices if isinstance(devices, int) else len(devices)) > 1
    try:
        with warnings.catch_warnings():
            # Where SLURM is installed it advises to start everything by srun, one process too.
            warnings.filterwarnings("ignore", "The `srun` command is available")
            fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                num_nodes=nodes,
                # The variance head, or the whole decoder, has no gradient in some steps.
                strategy=DDPStrategy(find_unused_parameters=True) if many else "auto",
            )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot train on {' '.join(names)}: {error}") from error
    fabric.launch()
    return fabric


def describe_set(tiles: EmbeddingSet) -> dict[str, Any]:
    """What of a set decides which model comes out, as plain values."""
    return {
        "name": tiles.name,
        "mpps": list(tiles.mpps),
        "dims": [tiles.dims[mpp] for mpp in tiles.mpps],
        "encoder_digests": [tiles.encoder_digests[mpp] for mpp in tiles.mpps],
        "region_um": tiles.region_um,
        "slides": {slide: tiles.n_regions(slide) for slide in tiles.slides},
    }


def run_identity(
    settings: PretrainSettings, tiles: EmbeddingSet, groups: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """All that decides which model comes out: settings, data, and groups that are held out whole, where some are."""
    shared = shared_groups(tiles.slides, groups)
    return {
        "settings": settings.identity(),
        "set": describe_set(tiles),
        **({"groups": shared} if shared else {}),
    }


def new_model(tiles: EmbeddingSet, settings: PretrainSettings, *, seed: int) -> RegionModel:
    """A model for the set, with random weights that only `seed` decides."""
    if tiles.tile_px is None:
        raise ConfigError(f"cannot pretrain on {tiles.path}: it does not say how many pixels a tile has.")
    tiles.refuse_several_sides()
    config = RegionEncoderConfig.of_size(
        settings.size,
        mpps=tiles.mpps,
        dims=tuple(tiles.dims[mpp] for mpp in tiles.mpps),
        encoders=tuple(tiles.encoder_digests[mpp] for mpp in tiles.mpps),
        region_um=tiles.region_um,
        tile_px=tiles.tile_px,
        projector=settings.projector,
        trunk=settings.trunk,
        decoder_bias=settings.decoder_bias,
        # LayerScale starts at 1e-4 for the sake of training. A model that is left untrained would hardly mix its
        # tokens with it: its CLS would differ between regions by a thousandth (what float16 rounds away), and as a
        # control of what mixing alone brings it would lose for that reason.
        **({"layer_scale": 1.0} if settings.steps == 0 else {}),
    )
    torch.manual_seed(seed)
    model = RegionModel(config)
    start_weights(model)
    return model


def start_weights(model: nn.Module) -> None:
    """Draw all matrices with a standard deviation of one over the root of their inputs.

    The 0.02 of vision transformers is for widths near 768 and long training. At size T, 100 steps at batch 64 on a
    linear toy set reached a held-out R2 of .27 with it and of .60 with this.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)


def own_streams(settings: PretrainSettings, *, rank: int, world: int) -> range:
    """The streams of a process; each gives an equal part of a step.

    Raises:
        ConfigError: processes cannot share them evenly, or a part would be of one region.
    """
    every = settings.streams or world
    if every % world:
        raise ConfigError(f"{every} streams cannot be shared by {world} processes evenly. Use a multiple (--streams).")
    own = every // world
    if settings.batch % own or settings.batch // own < 2:
        raise ConfigError(
            f"a batch of {settings.batch} regions cannot be drawn from {own} streams: each gives as many, 2 or more. "
            "Change --batch or --streams."
        )
    return range(rank * own, (rank + 1) * own)


def new_order(tiles: EmbeddingSet, split: Split, settings: PretrainSettings, *, stream: int, world: int) -> RegionOrder:
    """The order of the training regions of one stream; its window fits the buffer."""
    n_streams = settings.streams or world
    per_visit = visit_size(split.training, settings.per_visit)
    tokens_per_region = sum((tiles.region_um / ((tiles.tile_px or 224) * mpp)) ** 2 for mpp in tiles.mpps)
    # Four bytes a number, whatever is stored: the order must not depend on it.
    visit_bytes = per_visit * tokens_per_region * max(tiles.dims.values()) * 4
    fitting = max(1, int((settings.buffer_mib << 20) / visit_bytes))
    # More than the whole training data would only bring its second pass forward.
    n_regions = sum(len(part.regions) for part in split.training)
    useful = math.ceil(n_regions / (per_visit * n_streams))
    return RegionOrder(
        split.training,
        batch=settings.batch * world // n_streams,
        per_visit=per_visit,
        per_window=min(fitting, useful),
        # Contrast needs several regions of a slide in each batch.
        neighbours=8 if settings.contrasts and settings.same_slide_negatives else 1,
        seed=settings.seed,
        stream=stream,
        n_streams=n_streams,
    )


def count_steps(split: Split, settings: PretrainSettings, *, world: int) -> int:
    """How many steps the run has: as asked for, or as many as its epochs need."""
    n_regions = sum(len(part.regions) for part in split.training)
    from_epochs = max(1, math.ceil(settings.epochs * n_regions / (settings.batch * world)))
    return from_epochs if settings.steps is None else settings.steps


def take_statistics(trainee: Trainee, split: Split, cache: SlideCache, left_out: LeftOut | None = None) -> None:
    """Standardise by the training regions, and whiten the targets where that is asked.

    Every training slide is read for it, so `left_out` knows afterwards which ones cannot be.

    Raises:
        ConfigError: a magnification has no tile among the training regions.
    """
    settings, left_out = trainee.settings, left_out or LeftOut(strict=True)
    moments = training_moments(split.training, cache.read, covariance=settings.targets == "whitened", left_out=left_out)
    left_out.refuse_none_left([part.slide for part in split.training], f"the training slides of {cache.tiles.name}")
    missing = [format_mpp(mpp) for mpp in trainee.mpps if mpp not in moments.mean]
    if missing:
        raise ConfigError(
            f"cannot pretrain on {cache.tiles.path}: no training region has a tile at {', '.join(missing)} mpp."
        )
    trainee.model.encoder.standardiser.set(moments.mean, moments.sd)
    if settings.targets == "whitened":
        trainee.set_whitening(
            {
                mpp: whitening_of(moments.covariance[mpp], moments.sd[mpp], shrinkage=settings.whiten_shrinkage)
                for mpp in trainee.mpps
            }
        )


def learning_rate(step: int, n_steps: int, settings: PretrainSettings) -> float:
    """Linear warm-up, then half a cosine down to nothing."""
    return rate_at(step, n_steps, lr=settings.lr, warmup=settings.warmup)


def rate_at(step: int, n_steps: int, *, lr: float, warmup: float) -> float:
    """The same for a largest rate `lr` that is reached after the share `warmup` of the steps."""
    warm = warmup * n_steps
    if step < warm:
        return lr * (step + 1) / (math.floor(warm) + 1)
    return lr * (1 + math.cos(math.pi * (step - warm) / max(n_steps - warm, 1))) / 2


def derived_seed(*numbers: int) -> int:
    """One seed from several numbers, for a random stream of its own."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
