"""A head: all that turns the embeddings of a slide into a prediction, in a folder. Nothing in it is ever executed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.bags import Bag
from parfocal.errors import ConfigError
from parfocal.heads import FittedProbe, ProbeState, load_probe
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import score_partly_read
from parfocal.predict.calibration import Calibration
from parfocal.predict.facts import HeadFacts
from parfocal.predict.folder import is_place_head, model_folder, read_facts, reading_arrays, write_folder
from parfocal.predict.outside import PARTS, BagHabit, Habits, Limit
from parfocal.predict.page import write_head_page
from parfocal.stats.whitening import Whitening

TILES = "tiles"
"""The source of bags that are made of the tile embeddings themselves; other sources are readouts of the model."""

SourceBag = tuple[str, str]
"""A bag by its source and its name."""


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
        return self.facts.digest

    @property
    def bags(self) -> tuple[SourceBag, ...]:
        """The bags that are pooled, each once."""
        return tuple(dict.fromkeys(bag for branch in self.facts.branches for bag in branch.bags))

    @property
    def readouts(self) -> tuple[str, ...]:
        """The readouts of the model that are pooled, each once."""
        return tuple(dict.fromkeys(source for source, _ in self.bags if source != TILES))

    @property
    def knows_parts(self) -> bool:
        """Whether it knows what to make of slides whose finest tiles were read in part."""
        return not self.readouts and all(isinstance(probe, FittedContrast) for probe in self.probes)

    def score(
        self,
        bags: Mapping[SourceBag, Bag],
        slide: int,
        partly: Mapping[SourceBag, Float64[np.ndarray, " region"]] | None = None,
    ) -> Float64[np.ndarray, "one column"]:
        """The mean score of the probes for one slide.

        Args:
            bags: all that it pools.
            slide: its number in the bags.
            partly: those of which a part of the tiles was read, and of each of the slide's regions the share. Contrast
                counts what was read and adds nothing for the rest; other probes take it for all there is.
        """
        picked, known = np.array([slide]), partly or {}
        scores = []
        for probe, branch in zip(self.probes, self.facts.branches, strict=True):
            own = [bags[bag] for bag in branch.bags]
            share = {number: known[bag] for number, bag in enumerate(branch.bags) if bag in known}
            if share and isinstance(probe, FittedContrast):
                scores.append(score_partly_read(probe, own, picked, set(share), share=share))
            else:
                scores.append(probe.score(own, picked))
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

    def write_page(facts: HeadFacts, path: Path) -> None:
        write_head_page(facts, head.calibration, head.habits.limit, path)

    facts = write_folder(head.facts, _arrays(head), head.model, write_page, out)
    return replace(head, facts=facts, model=model_folder(out, facts), path=out)


def load_head(path: Path) -> Head:
    """The head in a folder.

    Raises:
        StoreError: there is none, or it is damaged.
        FormatVersionError: a newer parfocal wrote it.
        MismatchError: it holds a probe that this parfocal does not know.
        ConfigError: it predicts places and not slides.
    """
    if is_place_head(path):
        raise ConfigError(
            f"the head {path} predicts places inside slides: use `predict_places`, or `parfocal predict`."
        )
    facts = read_facts(path, HeadFacts)
    with reading_arrays(path, facts) as arrays:
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
    return Head(facts, probes, calibration, habits, model_folder(path, facts), path)


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
    return arrays


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
