"""The checkpoint that is to be proven, with the training run that made it: its data, its split, its targets."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from parfocal.errors import ConfigError, MismatchError, ParfocalDeprecationWarning, StoreError
from parfocal.lab.prove.layout import Layout, Slots, Tiles
from parfocal.pretrain import PretrainSettings
from parfocal.pretrain.data import SlideCache
from parfocal.pretrain.holdout import Split, split_set
from parfocal.pretrain.setup import describe_set, take_statistics
from parfocal.pretrain.trainee import Trainee
from parfocal.region_encoder import RegionModel
from parfocal.region_encoder.batch import RegionBatch
from parfocal.region_encoder.checkpoint import FINISHED
from parfocal.run.cache import StepCache, content_digest
from parfocal.store import EmbeddingSet, LeftOut, Source, only_mpps, open_sets, with_readable_index, with_readable_rows

Result = TypeVar("Result")

_CACHE_MIB = 1024


@dataclass(frozen=True, eq=False)
class Subject:
    """What is proven.

    Attributes:
        path: the checkpoint.
        digest: of its weights.
        trainee: the model with its target transform.
        settings: how it was trained.
        steps: for how long.
        tiles: the set it was trained on, as it was then.
        split: which of its regions were training regions.
        cache: reads its slides.
        n_later: slides that came into the store since, and are left out.
        unreadable: which slides cannot be read and are left out, in a sentence.
        content: a digest of the tiles of each slide.
        kept: finished steps of its proof.
    """

    path: Path
    digest: str
    trainee: Trainee
    settings: PretrainSettings
    steps: int
    tiles: EmbeddingSet
    split: Split
    cache: SlideCache
    n_later: int
    unreadable: str | None
    content: Mapping[str, str]
    kept: StepCache

    def step(self, name: str, inputs: Sequence[Any], work: Callable[[], Result]) -> Result:
        """The result of a step that model and tiles decide, and `inputs`; see `StepCache`."""
        identity = [self.digest, self.settings.identity(), self.steps, self.content]
        return self.kept.step(name, [*identity, *inputs], work)


def open_subject(model: Path, tiles: EmbeddingSet, kept: StepCache | None = None) -> Subject:
    """Load a checkpoint of `pretrain` and find out what it was trained on.

    Args:
        model: the checkpoint's folder.
        tiles: the set that it was trained on.
        kept: where finished steps of its proof are; nothing is kept without it.

    Raises:
        ConfigError: it was not pretrained, or predicts nothing that a baseline could be compared with.
        MismatchError: the store is not what it was trained on.
        StoreError: the folder cannot be read.
    """
    entries = _pretraining_of(model)
    settings = _settings_of(model, entries)
    if not settings.predicts_tokens:
        raise ConfigError(
            f"cannot prove {model}: it was trained to tell regions apart (contrastive) and predicts no tile."
        )
    if settings.targets == "latent":
        raise ConfigError(
            f"cannot prove {model}: it predicts tokens of its own teacher (targets=latent), which no baseline can "
            "know. Pretrain with targets=standardised or whitened."
        )
    then, left_out = dict(entries["set"]), LeftOut()
    missing = sorted(set(then["slides"]) - set(tiles.slides))
    if missing:
        raise MismatchError(
            f"cannot prove {model} on {tiles.path}: {len(missing)} of the {len(then['slides'])} slides that it was "
            f"pretrained with are not there ({', '.join(missing[:3])}). Give the store that it was pretrained on."
        )
    tiles = only_mpps(tiles, settings.mpps)
    n_later = len(tiles.slides) - len(then["slides"])
    tiles = replace(tiles, slides=tuple(slide for slide in tiles.slides if slide in then["slides"]))
    tiles = with_readable_index(tiles, left_out)
    then["slides"] = {slide: count for slide, count in then["slides"].items() if slide not in left_out.reasons}
    now = json.loads(json.dumps(describe_set(tiles)))
    differing = [name for name in now if name != "name" and now[name] != then.get(name)]
    if differing:
        raise MismatchError(
            f"cannot prove {model} on {tiles.path}: the store has other {', '.join(differing)} than the one that the "
            "model was pretrained on. Give that one."
        )
    known = left_out.keep(entries["held_out_slides"])
    # A draw among other slides than there were then would hold out others.
    named = known if left_out.reasons and len(then["slides"]) > 1 else settings.holdout_slides
    split = split_set(tiles, share=settings.holdout, slides=named, seed=settings.seed)
    held_out = [part.slide for part in split.held_out]
    if held_out != list(known):
        raise MismatchError(f"cannot prove {model}: another version of parfocal held out other slides. Pretrain again.")
    region_model = RegionModel.from_pretrained(model)
    trainee = Trainee(region_model, settings)
    cache = SlideCache(tiles, max_bytes=_CACHE_MIB << 20)
    content: dict[str, str] = {}

    def read(slide: str) -> None:
        content[slide] = content_digest(cache.read(slide))

    with_readable_rows(tiles, left_out, read)
    split = split.without(left_out)
    left_out.notes(stacklevel=3)
    if settings.targets == "whitened":
        # The checkpoint does not hold what whitens: it is a function of the training regions.
        mean, sd = region_model.encoder.standardiser.mean.clone(), region_model.encoder.standardiser.sd.clone()
        take_statistics(trainee, split, cache)
        region_model.encoder.standardiser.mean.copy_(mean)
        region_model.encoder.standardiser.sd.copy_(sd)
    trainee.eval()
    return Subject(
        model,
        region_model.digest,
        trainee,
        settings,
        int(entries["steps"]),
        tiles,
        split,
        cache,
        n_later,
        left_out.note(),
        content,
        kept or StepCache(None),
    )


def tiles_of(model: Path, store: Source) -> EmbeddingSet:
    """The set of a store that a checkpoint was pretrained on; the only set of tiles where none has its name.

    Raises:
        MismatchError: there are several sets of tiles, and none of them has that name.
        StoreError: the store or the model cannot be read.
    """
    name = _pretraining_of(model)["set"]["name"]
    sets = [one for one in open_sets(store) if one.kind == "tiles"]
    named = [one for one in sets if one.name == name] or sets
    if len(named) != 1:
        raise MismatchError(
            f"cannot prove {model} on {store}: it was pretrained on {name}, and there are "
            f"{', '.join(one.name for one in sets) or 'no tile embeddings'}. Give the store that it was pretrained on."
        )
    return named[0]


def _pretraining_of(model: Path) -> dict[str, Any]:
    file = model / "config.json"
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read the model {model}: {error}. Give the folder that pretrain wrote.") from error
    entries = content.get(FINISHED) if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ConfigError(
            f"cannot prove {model}: its config.json does not say what it was pretrained on, so nothing is known to be "
            "held out. Give the folder of a finished `parfocal pretrain`."
        )
    return entries


def _settings_of(model: Path, entries: dict[str, Any]) -> PretrainSettings:
    try:
        with warnings.catch_warnings():  # what an earlier version has written is nobody's mistake
            warnings.simplefilter("ignore", ParfocalDeprecationWarning)
            # A run of before there was a choice had none.
            return PretrainSettings(**{"decoder_bias": "none", **entries["settings"]})
    except ValidationError as error:
        raise StoreError(f"cannot prove {model}: its training settings are not understood: {error}") from error


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model that fills in hidden tiles, in standardised numbers."""

    trainee: Trainee
    layout: Layout
    device: torch.device
    batch: int

    @torch.inference_mode()
    def standardise(self, regions: RegionBatch) -> Tiles:
        """Tiles as the model standardises (and clips) them; 0 where absent."""
        encoder = self.trainee.model.encoder
        found = encoder.standardise(regions.tokens.to(self.device), regions.mpp.to(self.device)).float().cpu()
        return (found * regions.present[..., None]).numpy()

    @torch.inference_mode()
    def predict(self, shown: RegionBatch, hidden: Slots) -> tuple[Tiles, Tiles]:
        """Mean and variance of the hidden tiles from the shown ones; 0 at all others, and where nothing is shown."""
        mean, variance = (np.zeros(shown.tokens.shape, dtype=np.float32) for _ in range(2))
        is_asked = torch.from_numpy(hidden)
        useful = (is_asked.any(dim=1) & shown.present.any(dim=1)).nonzero().flatten()
        for rows in torch.split(useful, self.batch):
            regions = shown.take(rows).to(self.device)
            encoded = self.trainee.encode(regions, regions.present)
            # Every slot is asked, hidden or not: one width for all regions, and no order to get wrong.
            decoded = self.trainee.model.decode(encoded, regions.present, regions.xy_um, regions.mpp)
            predicted, spread = self._in_standard_space(decoded.mean.float(), decoded.log_variance.float().exp())
            of_hidden = is_asked[rows][..., None]
            mean[rows] = torch.where(of_hidden, predicted.cpu(), 0.0).numpy()
            variance[rows] = torch.where(of_hidden, spread.cpu(), 0.0).numpy()
        return mean, variance

    def _in_standard_space(
        self, mean: Float[Tensor, "region slot dim"], variance: Float[Tensor, "region slot dim"]
    ) -> tuple[Float[Tensor, "region slot dim"], Float[Tensor, "region slot dim"]]:
        """Whitened predictions as standardised ones; their variances are taken as those of independent numbers."""
        if self.trainee.settings.targets != "whitened":
            return mean, variance
        mean, variance = mean.clone(), variance.clone()
        for k, matrix in enumerate(self.trainee.unwhiten):
            mine = torch.from_numpy(np.flatnonzero(self.layout.level == k)).to(mean.device)
            mean[:, mine] = mean[:, mine] @ matrix.T
            variance[:, mine] = variance[:, mine] @ matrix.square().T
        return mean, variance
