"""A head: all that turns the embeddings of a slide into a prediction, in a folder. Nothing in it is ever executed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.bags import Bag
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.heads import FittedProbe, ProbeState, load_probe
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import score_partly_read
from parfocal.predict.calibration import Calibration
from parfocal.predict.facts import BranchFacts, CalibrationFacts, HeadFacts
from parfocal.predict.folder import is_place_head, model_folder, read_facts, reading_arrays, write_folder
from parfocal.predict.outside import PARTS, BagHabit, Habits, Limit
from parfocal.predict.page import write_head_page
from parfocal.predict.stopping import Stopping
from parfocal.stats.whitening import Whitening
from parfocal.store import Reading

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
        part_probes: one for each branch, for slides that are read in part; none where none was fitted for these.
        of_parts: the calibration of each budget that slides were shown with.
    """

    facts: HeadFacts
    probes: tuple[FittedProbe, ...]
    calibration: Calibration
    habits: Habits
    model: Path | None
    path: Path
    part_probes: tuple[FittedProbe, ...] = ()
    of_parts: tuple[Calibration, ...] = ()

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
    def stopping(self) -> Stopping | None:
        """When a slide has been read far enough; None where the head does not say."""
        facts = self.facts.stopping
        if facts is None:
            return None
        known = facts.model_dump(exclude={"share", "other", "metric", "usual"})
        return Stopping(usual=np.array(facts.usual), **known)

    def _pools_nothing_of(self, names: Collection[str]) -> bool:
        """Whether it pools tiles of other magnifications alone."""
        others = {format_mpp(mpp) for mpp in self.facts.tiles.mpps}.difference(names)
        return all(source == TILES and name in others for source, name in self.bags)

    @property
    def adds_up(self) -> bool:
        """Whether its score is a sum over what was read, to which unread tiles add nothing."""
        return not self.readouts and all(isinstance(probe, FittedContrast) for probe in self.probes)

    @property
    def fills_in(self) -> bool:
        """Whether a model says what stands for tiles that were not read."""
        return self.facts.parts is not None and self.facts.parts.unread == "decoded"

    @property
    def knows_absent(self) -> bool:
        """Whether it was fitted on slides without some of their magnifications too."""
        return self.facts.settings.get("drop_magnifications") is not None

    def probes_of(self, *, in_part: bool) -> tuple[FittedProbe, ...]:
        """The probe of each branch for slides that were read whole or in part."""
        return self.part_probes if in_part and self.part_probes else self.probes

    def doubt(self, reading: Reading, partly: Collection[str]) -> str | None:
        """What is wrong with a slide that was read in part, as what the head does; None where nothing is.

        An unread tile that is absent makes of every policy a kind of slide of its own; one that is filled in does not.

        Args:
            reading: how.
            partly: the magnifications of which a part was read, as text.
        """
        parts, policy, budget = self.facts.parts, reading.policy, reading.budget
        if self._pools_nothing_of(partly):
            return None
        coarser = {*partly} - {format_mpp(self.facts.tiles.mpps[-1])}
        if parts is not None and coarser and not self._pools_nothing_of(coarser):
            return "was shown no slide of which a coarser magnification was read in part. Read with one --budget"
        if parts is None and not self.adds_up:
            return (
                "takes that for all there is. Fit it with --parts, or use a contrast head of tile embeddings, which "
                "knows what it has not seen"
            )
        if parts is not None and parts.unread == "absent" and policy != parts.policy:
            return (
                f"was shown slides that were read in part by {parts.policy}. Read with --zoom {parts.policy}, or fit "
                "with --unread decoded or another --parts-by"
            )
        if parts is not None and budget < min(parts.budgets):
            return f"was shown no slide with less than {min(parts.budgets):g} read. Fit it with smaller --parts"
        if parts is None and self.facts.classes:
            return (
                "orders such slides well and was calibrated on slides that were read whole: do not take its "
                "probabilities as they are. Fit it with --stop-rate to read slides until their class is settled"
            )
        return None

    def calibration_at(self, budget: float | None) -> Calibration:
        """From scores to what they mean, of a slide read to a budget, or whole (None).

        That of the largest budget that slides were shown with and that is not larger, so that less is promised rather
        than more; of a head that was not shown such slides that of whole ones.
        """
        if budget is None or self.facts.parts is None:
            return self.calibration
        budgets = self.facts.parts.budgets
        reached = [one for one in budgets if one <= budget]
        return self.of_parts[budgets.index(max(reached) if reached else min(budgets))]

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
            partly: None where the slide was read whole. Else the bags of which a part of the tiles was read, and of
                each of the slide's regions the share; none where unread tiles are filled in. Contrast counts what was
                read and adds nothing for the rest; other probes take it for all there is, unless there are some of
                slides that are read in part.
        """
        picked, known = np.array([slide]), partly or {}
        scores = []
        probes = self.probes_of(in_part=partly is not None)
        for probe, branch in zip(probes, self.facts.branches, strict=True):
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
        calibration = _load_calibration(facts, facts.calibration, _below(arrays, "calibration."))
        probes, parts = _load_probes(facts.branches, arrays), facts.parts
        part_probes = () if parts is None else _load_probes(parts.branches, _below(arrays, "part."))
        of_parts = tuple(
            _load_calibration(facts, one, _below(arrays, f"part.{number}.calibration."))
            for number, one in enumerate(() if parts is None else parts.calibrations)
        )
        habits = _load_habits(facts, arrays)
    return Head(facts, probes, calibration, habits, model_folder(path, facts), path, part_probes, of_parts)


def _load_probes(branches: Sequence[BranchFacts], arrays: Mapping[str, np.ndarray]) -> tuple[FittedProbe, ...]:
    return tuple(
        load_probe(ProbeState(branch.probe, branch.facts, _below(arrays, f"probe.{number}.")))
        for number, branch in enumerate(branches)
    )


def _load_calibration(facts: HeadFacts, own: CalibrationFacts, arrays: Mapping[str, np.ndarray]) -> Calibration:
    reference = arrays["reference"]
    weight = arrays.get("weight", np.ones(len(reference)))
    intercept = np.array(own.intercept)
    return Calibration(facts.kind, own.slope, intercept, own.spread, own.n, reference, weight, own.least)


def _arrays(head: Head) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    of_parts = {f"part.{number}.": one for number, one in enumerate(head.of_parts)}
    for place, one in ({"": head.calibration} | of_parts).items():
        arrays |= {f"{place}calibration.reference": one.reference, f"{place}calibration.weight": one.weight}
    for place, probes in (("", head.probes), ("part.", head.part_probes)):
        for number, probe in enumerate(probes):
            arrays |= {f"{place}probe.{number}.{name}": array for name, array in probe.state().arrays.items()}
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
