"""A head: a folder with all that turns the embeddings of a slide into a prediction. Nothing in it is ever executed.

head.safetensors   every array: probes, calibration, what is usual
head.html          the page for people
head.json          everything else, with the digest of the arrays; comes last and marks a whole head
model/             the region encoder, where the arm reads its embeddings
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from parfocal.bags import Bag
from parfocal.errors import ConfigError, FormatVersionError, StoreError
from parfocal.files import check_permission, digest8, file_sha256
from parfocal.heads import FittedProbe, ProbeState, load_probe
from parfocal.predict.calibration import Calibration
from parfocal.predict.facts import FORMAT_VERSION, HeadFacts
from parfocal.predict.outside import PARTS, BagHabit, Habits, Limit
from parfocal.predict.page import write_head_page
from parfocal.stats.whitening import Whitening
from parfocal.version import __version__

TILES = "tiles"
"""The source of bags that are made of the tile embeddings themselves; other sources are readouts of the model."""

SourceBag = tuple[str, str]
"""A bag by its source and its name."""

_FACTS_FILE, _ARRAYS_FILE, _PAGE_FILE, _MODEL_FOLDER = "head.json", "head.safetensors", "head.html", "model"
_MODEL_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted, calibrated arm.

    Attributes:
        facts: what is no array.
        probes: one for each branch.
        calibration: from scores to probabilities or values.
        habits: what was usual among the training slides, for every magnification of the tile embeddings.
        model: the folder of the region encoder; None where none is needed.
        path: the folder of the head.
    """

    facts: HeadFacts
    probes: tuple[FittedProbe, ...]
    calibration: Calibration
    habits: Habits
    model: Path | None
    path: Path

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over everything in it."""
        # Without what the file does not say: a head of format 1 keeps the digest that its predictions name.
        return digest8(self.facts.model_dump(mode="json", exclude_unset=True))

    @property
    def bags(self) -> tuple[SourceBag, ...]:
        """The bags that are pooled, each once."""
        return tuple(dict.fromkeys(bag for branch in self.facts.branches for bag in branch.bags))

    @property
    def readouts(self) -> tuple[str, ...]:
        """The readouts of the model that are pooled, each once."""
        return tuple(dict.fromkeys(source for source, _ in self.bags if source != TILES))

    def score(self, bags: Mapping[SourceBag, Bag], slide: int) -> Float64[np.ndarray, "one column"]:
        """The mean score of the probes for one slide, by its number in the bags."""
        picked = np.array([slide])
        scores = [
            probe.score([bags[bag] for bag in branch.bags], picked)
            for probe, branch in zip(self.probes, self.facts.branches, strict=True)
        ]
        return np.asarray(np.mean(scores, axis=0))


def write_head(head: Head, out: Path) -> Head:
    """Write a head into a new folder; one that is there is replaced when the new one is whole.

    Args:
        head: what to write; its digest of the arrays is filled in here.
        out: the folder.

    Returns:
        The head as it is in the folder.

    Raises:
        ConfigError: `out` is there and is no head.
    """
    if out.exists() and not (out / _FACTS_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"cannot write a head to {out}: it is there and is no head. Name another folder.")
    token = secrets.token_hex(4)
    fresh, old = (out.with_name(f".{out.name}.{what}-{token}") for what in ("partial", "old"))
    try:
        fresh.mkdir(parents=True)
        # Not save_file, whose files only their owner can read.
        (fresh / _ARRAYS_FILE).write_bytes(save(_arrays(head)))
        if head.model is not None:
            (fresh / _MODEL_FOLDER).mkdir()
            for name in _MODEL_FILES:
                shutil.copyfile(head.model / name, fresh / _MODEL_FOLDER / name)
        facts = head.facts.model_copy(update={"arrays_digest": file_sha256(fresh / _ARRAYS_FILE)})
        write_head_page(facts, head.calibration, head.habits.limit, fresh / _PAGE_FILE)
        content = json.dumps(facts.model_dump(mode="json"), indent=2, allow_nan=False)
        (fresh / _FACTS_FILE).write_text(content + "\n", encoding="utf-8")
        if out.exists():
            out.replace(old)
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    model = None if head.model is None else out / _MODEL_FOLDER
    return replace(head, facts=facts, model=model, path=out)


def load_head(path: Path) -> Head:
    """The head in a folder.

    Raises:
        StoreError: there is none, or it is damaged.
        FormatVersionError: a newer parfocal wrote it.
        MismatchError: it holds a probe that this parfocal does not know.
    """
    facts = _read_facts(path)
    file = path / _ARRAYS_FILE
    try:
        if file_sha256(file) != facts.arrays_digest:
            raise StoreError(f"cannot use the head {path}: {_ARRAYS_FILE} is not the file that {_FACTS_FILE} names.")
        arrays = load_file(file)
        calibration = Calibration(
            facts.kind,
            facts.calibration.slope,
            np.array(facts.calibration.intercept),
            facts.calibration.spread,
            facts.calibration.n,
            arrays["calibration.reference"],
            arrays.get("calibration.weight", np.ones(len(arrays["calibration.reference"]))),
            facts.calibration.least,
        )
        probes = tuple(
            load_probe(ProbeState(branch.probe, branch.facts, _below(arrays, f"probe.{number}.")))
            for number, branch in enumerate(facts.branches)
        )
        habits = _load_habits(facts, arrays)
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        check_permission(error, path / _ARRAYS_FILE)
        raise StoreError(f"cannot use the head {path}: it is damaged ({reason}). Copy or fit it again.") from error
    model = None if facts.model is None else path / _MODEL_FOLDER
    if model is not None:
        lost = [name for name in _MODEL_FILES if not (model / name).is_file()]
        if lost:
            raise StoreError(f"cannot use the head {path}: its {_MODEL_FOLDER}/{lost[0]} is absent. Copy it again.")
    return Head(facts, probes, calibration, habits, model, path)


def _read_facts(path: Path) -> HeadFacts:
    file = path / _FACTS_FILE
    if not file.is_file():
        raise StoreError(f"there is no head at {path}: it has no {_FACTS_FILE}. Name a folder that `fit` has written.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = int(content["parfocal_head"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        check_permission(error, file)
        raise StoreError(f"cannot read {file}: it is damaged ({type(error).__name__}: {error}).") from error
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"cannot read {file}: it has format {version}; this parfocal ({__version__}) reads up to {FORMAT_VERSION}. "
            "Install the parfocal that wrote it, or a newer one."
        )
    try:
        return HeadFacts.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StoreError(f"cannot read {file}: it is damaged ({place}: {first['msg']}).") from error


def _arrays(head: Head) -> dict[str, np.ndarray]:
    arrays = {"calibration.reference": head.calibration.reference, "calibration.weight": head.calibration.weight}
    for number, probe in enumerate(head.probes):
        arrays |= {f"probe.{number}.{name}": array for name, array in probe.state().arrays.items()}
    habits = head.habits
    arrays |= {"outside.centre": habits.centre, "outside.scale": habits.scale}
    if habits.limit.asked is not None:
        arrays["outside.patients"] = habits.limit.patients
    for number, bag in enumerate(habits.bags):
        place = f"outside.{number}."
        arrays |= {f"{place}level": bag.level, f"{place}variance": bag.variance}
        arrays |= {f"{place}inside": bag.inside, f"{place}residue": bag.residue}
        arrays |= bag.means.state(f"{place}means") | bag.regions.state(f"{place}regions")
    # The format knows no strides; a copy in C order keeps an array without an axis as it is.
    return {name: np.array(array, order="C") for name, array in arrays.items()}


def _load_habits(facts: HeadFacts, arrays: Mapping[str, np.ndarray]) -> Habits:
    bags = []
    for number, name in enumerate(facts.outside.bags):
        own = _below(arrays, f"outside.{number}.")
        means, regions = Whitening.load("means", own), Whitening.load("regions", own)
        # The first heads did not know what a single region adds.
        inside = own.get("inside", np.stack([means.spread**2, 0 * means.spread]))
        residue = own.get("residue", np.array([float(len(means.scale)), 0.0]))
        bags.append(BagHabit(name, means, regions, own["level"], own["variance"], inside, residue))
    centre, scale = arrays["outside.centre"], arrays["outside.scale"]
    if not centre.shape == scale.shape == (len(bags), len(PARTS)):
        raise ValueError(f"what is usual has the shape {centre.shape} for {len(bags)} bags")
    asked = facts.outside.false_alarms
    limit = Limit(np.array([facts.outside.cut]) if asked is None else arrays["outside.patients"], asked)
    if asked is not None and (limit.n != facts.outside.n or limit.cut != facts.outside.cut):
        raise ValueError(f"the distances of {limit.n} patients do not give the cut {facts.outside.cut:g}")
    return Habits(tuple(bags), centre, scale, limit)


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
