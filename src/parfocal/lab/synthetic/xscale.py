"""XScale: cohorts of tile embeddings whose label is known to sit in one place only.

*strat*: the label is in the pairing of A (5x) and C (20x) within regions and nowhere else; every variable that two
magnifications of a region share is a stratum, so late fusion is at 1/2 by theorem. *panel*: the same slides with five
labels more: redundant, unique to 5x, unique to 20x, confounded, and none. *iid*: regions are independent and every
ceiling can be set. *rare* and *hetero*: iid with a rare A, for reading only a part of the fine tiles.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, model_validator

from parfocal.config import GridConfig, Settings
from parfocal.files import digest8, write_csv
from parfocal.lab.synthetic.ceilings import iid_cell_law
from parfocal.lab.synthetic.design import balanced_labels, deal_overlap, deal_pairing
from parfocal.lab.synthetic.feature_model import COARSE, FINE, MIDDLE, FeatureModel, FeatureSpace, RegionFactors
from parfocal.store import SlideTokens, create_set, settings_digest, write_tokens

_MAX_TYPES = 8


class StratSettings(Settings):
    """A cohort whose only label, `pairing`, is in which regions have both A and C."""

    n_slides: int = Field(400, ge=2, description="Number of slides, half of them positive.")
    n_types: int = Field(2, ge=1, le=_MAX_TYPES, description="Tissue types; each is a stratum.")
    orientation: bool = Field(False, description="Whether regions have one of two orientations, each a stratum.")
    product: bool = Field(True, description="Whether h1 and h2 vary; their four combinations are strata.")
    stratum: int = Field(8, ge=2, multiple_of=2, description="Regions of each stratum; half have A=1, half C=1.")
    omega: float = Field(2.0, gt=1, description="Odds of A and C lying in one region of a positive slide.")
    model: FeatureModel = FeatureModel()
    seed: int = Field(0, ge=0, description="Seed of labels, factors and noise.")

    @property
    def n_strata(self) -> int:
        """How many strata a slide has."""
        return self.n_types * (2 if self.orientation else 1) * (4 if self.product else 1)


class PanelSettings(Settings):
    """One cohort with a label for every way in which two magnifications can know something.

    `redundant` shifts the tissue types, which both show; `coarse` shifts A, `fine` shifts C; `pairing` couples A and C
    within strata; `permuted` is drawn at random; `confounded` follows the stain in the slides of the split `train` and
    nothing in those of `test`.
    """

    n_slides: int = Field(400, ge=4, description="Number of slides; half belong to each split.")
    n_regions: int = Field(64, ge=2, description="Regions of a slide.")
    tau: float = Field(0.06, gt=0, lt=0.5, description="Each shifted probability is one half plus or minus this.")
    omega: float = Field(2.0, gt=1, description="Odds of A and C lying in one region where `pairing` is positive.")
    product: bool = Field(True, description="Whether h1 and h2 vary; their combinations are strata.")
    model: FeatureModel = FeatureModel()
    seed: int = Field(0, ge=0, description="Seed of labels, factors and noise.")


class IidSettings(Settings):
    """A cohort of independent regions; its only label is `label`."""

    n_slides: int = Field(400, ge=2, description="Number of slides, half of them positive.")
    n_regions: int = Field(64, ge=1, description="Regions of a slide.")
    a: float = Field(0.5, gt=0, lt=1, description="Mean probability of A=1.")
    c: float = Field(0.5, gt=0, lt=1, description="Mean probability of C=1.")
    tau_a: float = Field(0.0, ge=0, description="Main effect: A's probability is its mean plus or minus this.")
    tau_c: float = Field(0.0, ge=0, description="Main effect of C.")
    kappa: float = Field(0.05, description="P(A and C) is the product of their probabilities plus or minus this.")
    model: FeatureModel = FeatureModel()
    seed: int = Field(0, ge=0, description="Seed of labels, factors and noise.")

    @model_validator(mode="after")
    def _is_a_law(self) -> "IidSettings":
        for positive in (False, True):
            iid_cell_law(self.a, self.c, self.tau_a, self.tau_c, self.kappa, positive=positive)
        return self

    @property
    def rho(self) -> float:
        """Correlation of A and C in a class when there are no main effects."""
        return self.kappa / math.sqrt(self.a * (1 - self.a) * self.c * (1 - self.c))


def rare_settings(n_slides: int = 400, *, model: FeatureModel | None = None, seed: int = 0) -> IidSettings:
    """XScale-rare: a tenth of the regions has A=1 and holds nine tenths of the information; C is equally uncertain.

    C is independent of A over both classes together, so predictive uncertainty cannot tell where to read.
    """
    model = model or FeatureModel(separation_a=4.0, shift_c=1.0)
    return IidSettings(n_slides=n_slides, a=0.1, kappa=0.025, model=model, seed=seed)


def hetero_settings(
    n_slides: int = 400, *, fine_noise: float = 2.0, model: FeatureModel | None = None, seed: int = 0
) -> IidSettings:
    """XScale-hetero: rare, and where A=1 the 20x tiles are noisier, so that predictive uncertainty finds the regions.

    Its 20x tiles therefore show A: it is a cohort for policies of what to read, not for what pairing knows.
    """
    rare = rare_settings(n_slides, model=model, seed=seed)
    return rare.model_copy(update={"model": rare.model.model_copy(update={"fine_noise": fine_noise})})


CohortSettings = StratSettings | PanelSettings | IidSettings


@dataclass(frozen=True, eq=False)
class FeatureCohort:
    """A drawn cohort: labels and hidden states at hand, embeddings drawn when asked for, the same ones every time.

    Attributes:
        settings: what it was drawn from.
        space: its observation model, with the exact way back from embeddings to factors.
        slides: ids.
        labels: each label of every slide.
        split: `train` or `test` of every slide; all `train` where the cohort has no splits.
        factors: the hidden states of every slide's regions.
        slide_vectors: what all tiles of a slide have in common.
    """

    settings: CohortSettings
    space: FeatureSpace
    slides: tuple[str, ...]
    labels: Mapping[str, Bool[np.ndarray, " slide"]]
    split: tuple[str, ...]
    factors: tuple[RegionFactors, ...]
    slide_vectors: Float[np.ndarray, "slide 6"]

    def tokens(self, number: int) -> SlideTokens:
        """The tile embeddings of slide `number`."""
        rng = np.random.default_rng([self.settings.seed, 2, number])
        return self.space.draw(self.slides[number], self.factors[number], rng, slide_vector=self.slide_vectors[number])

    def __iter__(self) -> Iterator[SlideTokens]:
        return (self.tokens(number) for number in range(len(self.slides)))


def draw_cohort(settings: CohortSettings) -> FeatureCohort:
    """Draw labels and hidden states of a cohort; embeddings are drawn later, slide by slide."""
    rng = np.random.default_rng([settings.seed, 1])
    vectors = rng.standard_normal((settings.n_slides, 6))
    split = ["train"] * settings.n_slides
    match settings:
        case StratSettings():
            labels = {"pairing": balanced_labels(settings.n_slides, 1, rng)[:, 0]}
            factors = [_strat_factors(settings, bool(label), rng) for label in labels["pairing"]]
        case PanelSettings():
            split = ["train" if number % 2 == 0 else "test" for number in range(settings.n_slides)]
            labels = _panel_labels(settings, vectors, split, rng)
            factors = [
                _panel_factors(settings, {name: bool(values[number]) for name, values in labels.items()}, rng)
                for number in range(settings.n_slides)
            ]
        case IidSettings():
            labels = {"label": balanced_labels(settings.n_slides, 1, rng)[:, 0]}
            factors = [_iid_factors(settings, bool(label), rng) for label in labels["label"]]
    return FeatureCohort(
        settings=settings,
        space=FeatureSpace(settings.model),
        slides=tuple(f"slide-{number + 1:05d}" for number in range(settings.n_slides)),
        labels=labels,
        split=tuple(split),
        factors=tuple(factors),
        slide_vectors=vectors,
    )


def write_cohort(cohort: FeatureCohort, root: Path) -> Path:
    """Write a cohort as a set of tile embeddings and a `labels.csv` into the folder `root`.

    Returns:
        The folder of the set, for everything that takes embeddings of real slides.

    Raises:
        MismatchError: the folder holds a set of other settings under that name.
    """
    kind = type(cohort.settings).__name__.removesuffix("Settings").lower()
    described: dict[str, Any] = {"encoder": f"xscale-{kind}", "cohort": cohort.settings.model_dump(mode="json")}
    dim = cohort.settings.model.dim
    # One "encoder" for all three: what a magnification shows is part of the cohort's settings.
    digest = digest8(cohort.settings.model.model_dump(mode="json"))
    mpps = (COARSE, MIDDLE, FINE)
    path = create_set(
        root,
        f"xscale-{kind}-{settings_digest(described)}",
        "tiles",
        region_um=GridConfig().region_um,
        dims=dict.fromkeys(mpps, dim),
        settings=described,
        encoder_digests=dict.fromkeys(mpps, digest),
        tile_px=GridConfig().tile_px,
        dtype="float32",
    )
    for tokens in cohort:
        write_tokens(path, tokens)
    rows = (
        (slide, slide.replace("slide", "patient"), split, *(int(label[number]) for label in cohort.labels.values()))
        for number, (slide, split) in enumerate(zip(cohort.slides, cohort.split, strict=True))
    )
    write_csv(root / "labels.csv", ("slide", "patient", "split", *cohort.labels), rows)
    return path


def _strat_factors(settings: StratSettings, positive: bool, rng: np.random.Generator) -> RegionFactors:
    strata = rng.permutation(np.repeat(np.arange(settings.n_strata), settings.stratum))
    a, c = deal_pairing(strata, positive=positive, omega=settings.omega, rng=rng)
    tissue_type, rest = strata % settings.n_types, strata // settings.n_types
    ones = np.ones(len(strata))
    if settings.orientation:
        orientation, rest = 2.0 * (rest % 2) - 1, rest // 2
    else:
        orientation = 0 * ones
    h1, h2 = (2.0 * (rest % 2) - 1, 2.0 * (rest // 2) - 1) if settings.product else (0 * ones, 0 * ones)
    return RegionFactors(a=a, c=c, tissue_type=tissue_type, orientation=orientation, h1=h1, h2=h2)


def _panel_labels(
    settings: PanelSettings, vectors: Float[np.ndarray, "slide 6"], split: list[str], rng: np.random.Generator
) -> dict[str, Bool[np.ndarray, "slide"]]:
    balanced = balanced_labels(settings.n_slides, 4, rng)
    labels = {name: balanced[:, column] for column, name in enumerate(("pairing", "redundant", "coarse", "fine"))}
    labels["permuted"] = rng.permutation(np.arange(settings.n_slides) % 2 == 0)
    # Nine of ten training slides follow the first direction of what a slide's tiles have in common.
    follows = (rng.random(settings.n_slides) < 0.9) == (vectors[:, 0] > 0)
    training = np.array(split) == "train"
    labels["confounded"] = np.where(training, follows, rng.random(settings.n_slides) < 0.5)
    return labels


def _panel_factors(settings: PanelSettings, labels: Mapping[str, bool], rng: np.random.Generator) -> RegionFactors:
    n = settings.n_regions

    def share(name: str) -> float:
        return 0.5 + settings.tau * (1 if labels[name] else -1)

    tissue_type = (rng.random(n) < share("redundant")).astype(np.int64)
    h1, h2 = rng.choice([-1.0, 1.0], (2, n)) if settings.product else np.zeros((2, n))
    strata = tissue_type + 2 * (h1 > 0) + 4 * (h2 > 0)
    a, c = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    odds = settings.omega if labels["pairing"] else 1 / settings.omega
    for stratum in np.unique(strata):
        regions = np.flatnonzero(strata == stratum)
        # The counts are drawn before the pairing and without it, so they know nothing of its label.
        n_a = int(rng.binomial(len(regions), share("coarse")))
        n_c = int(rng.binomial(len(regions), share("fine")))
        a[regions], c[regions] = deal_overlap(len(regions), n_a, n_c, odds, rng)
    return RegionFactors(a=a, c=c, tissue_type=tissue_type, orientation=np.zeros(n), h1=h1, h2=h2)


def _iid_factors(settings: IidSettings, positive: bool, rng: np.random.Generator) -> RegionFactors:
    law = iid_cell_law(settings.a, settings.c, settings.tau_a, settings.tau_c, settings.kappa, positive=positive)
    cell = rng.choice(4, settings.n_regions, p=law.ravel())
    nothing = np.zeros(settings.n_regions)
    return RegionFactors(
        a=cell >= 2,
        c=cell % 2 == 1,
        tissue_type=np.zeros(settings.n_regions, dtype=np.int64),
        orientation=nothing,
        h1=nothing,
        h2=nothing,
    )
