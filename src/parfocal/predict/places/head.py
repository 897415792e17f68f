"""A head of places: a fitted arm in a folder of the same kind as that of a head of slides."""

from dataclasses import dataclass, replace
from pathlib import Path

from parfocal.errors import ConfigError
from parfocal.evaluate.places.fitting import FittedPlaceArm
from parfocal.predict.facts import PlaceHeadFacts
from parfocal.predict.folder import is_place_head, model_folder, read_facts, reading_arrays, write_folder
from parfocal.predict.head import TILES
from parfocal.predict.places.page import write_place_head_page


@dataclass(frozen=True, eq=False)
class PlaceHead:
    """An arm that has been fitted on places.

    Attributes:
        facts: what is no array.
        fitted: the arm.
        model: the folder of the region encoder; None where none is needed.
        path: the folder of the head.
    """

    facts: PlaceHeadFacts
    fitted: FittedPlaceArm
    model: Path | None
    path: Path

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over everything in it."""
        return self.facts.digest

    @property
    def readouts(self) -> tuple[str, ...]:
        """The readouts of the region encoder that it reads, each once."""
        return tuple(dict.fromkeys(source for source, _ in self.facts.blocks if source != TILES))


def write_place_head(head: PlaceHead, out: Path) -> PlaceHead:
    """Write a head into a new folder; one that is there is replaced when the new one is whole.

    Returns:
        The head as it is in the folder.

    Raises:
        ConfigError: `out` is there and is no head.
    """
    facts = write_folder(head.facts, head.fitted.state(), head.model, write_place_head_page, out)
    return replace(head, facts=facts, model=model_folder(out, facts), path=out)


def load_place_head(path: Path) -> PlaceHead:
    """The head of places in a folder.

    Raises:
        StoreError: there is none, or it is damaged.
        FormatVersionError: a newer parfocal wrote it.
        ConfigError: it predicts slides and not places.
    """
    if not is_place_head(path):
        raise ConfigError(
            f"the head {path} predicts slides and not places inside them: use `predict_slides`, or fit with --places."
        )
    facts = read_facts(path, PlaceHeadFacts)
    blocks = tuple(name for _, name in facts.blocks)
    with reading_arrays(path, facts) as arrays:
        fitted = FittedPlaceArm.load(arrays, blocks, facts.preparation, facts.penalty, facts.centred)
        widths = sum(one.matrix.shape[-1] for one in fitted.maps), len(facts.targets)
        if fitted.linear.coefficient.shape != widths:
            raise ValueError(f"its coefficients have the shape {fitted.linear.coefficient.shape} and not {widths}")
    return PlaceHead(facts, fitted, model_folder(path, facts), path)
