"""How often `synergy` calls pairing where there is none, and how often it finds pairs of known strength.

OMP_NUM_THREADS=1 python benchmarks/synergy_null.py [--cohorts 200] [--only none,composition]

Each cohort has 120 patients with a slide of 64 regions, two magnifications of 24 numbers, four tissue types whose
shares vary from slide to slide, what a slide's tiles have in common (six numbers, the same in both magnifications), a
factor A at the coarse and C at the fine magnification (separation 3), and a continuous factor that both share. A cohort
draws a world of its own. `NULLS` says what follows the label in each kind; pairing does in none. Every kind is a row
with the share of cohorts in which the permutation test, the cross-fitted test, and both have p <= .05.
"""

import argparse
import time
import zlib
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from parfocal.lab.synergy.analysis import SynergySettings, Units, analyse_label
from parfocal.lab.synergy.moments import read_rows
from parfocal.lab.synergy.permutation import Power
from parfocal.store import SlideTokens

DIM, SEPARATION = 24, 3.0
MPPS = (2.0, 0.5)


@dataclass(frozen=True)
class Kind:
    """What a cohort is like, and what follows its label; in pairs, the value of the negative class comes first.

    Attributes:
        says: the row's name.
        share: of patients in the positive class.
        patients: how many.
        kappa: A and C lie together with probability 1/4 plus or minus this.
        main: both magnifications are shifted in positive slides, and A and C are this much more frequent there.
        tilt: the types' shares differ, as the exponent of a slope over the types.
        spread: log spread of the factor that both magnifications share, more and less.
        regions: of a slide.
        noise: of every tile.
        tiles: fine tiles in a region.
        slides: of a patient.
        absent: share of the first type's regions that have no fine tile.
        absent_anywhere: the same, of all regions.
        types: how many tissue types.
        artefact: share of regions with an artefact that both magnifications see.
        gain: what the fine magnification is multiplied with.
        typed: A and C lie together in half of the types with probability 1/4 plus this, in the others 1/4 minus this.
        tails: degrees of freedom of Student's t noise; 0 is normal noise.
        turned: by how many radians the shared factor is turned in the coarse and in the fine embedding, one way in one
            class and the other way in the other, in a plane of the world's own.
        read: how strongly the fine embedding reads the shared factor.
        misaligned: share of regions that have the fine tile of their neighbour.
        pale: share of the regions with neither A nor C that are left out, as a tissue mask leaves out pale ones.
    """

    says: str
    share: float = 0.5
    patients: int = 120
    kappa: float = 0.0
    main: float = 0.0
    tilt: float = 0.0
    spread: float = 0.0
    regions: tuple[int, int] = (64, 64)
    noise: tuple[float, float] = (1.0, 1.0)
    tiles: tuple[int, int] = (1, 1)
    slides: tuple[int, int] = (1, 1)
    absent: tuple[float, float] = (0.0, 0.0)
    absent_anywhere: tuple[float, float] = (0.0, 0.0)
    types: int = 4
    artefact: tuple[float, float] = (0.0, 0.0)
    gain: tuple[float, float] = (1.0, 1.0)
    typed: float = 0.0
    tails: tuple[int, int] = (0, 0)
    turned: tuple[float, float] = (0.0, 0.0)
    read: float = 1.0
    misaligned: tuple[float, float] = (0.0, 0.0)
    pale: tuple[float, float] = (0.0, 0.0)


NULLS = {
    "none": Kind("nothing"),
    "main": Kind("main effects in both magnifications", main=0.06),
    "composition": Kind("composition", tilt=0.6),
    "composition-strong": Kind("composition, stronger", tilt=1.0),
    "spread": Kind("shared factor whose spread differs", spread=0.15),
    "spread-strong": Kind("the same, stronger", spread=0.3),
    "small": Kind("slides of 12 regions in one class", regions=(64, 12)),
    "small-rare": Kind("the same, and it is the rarer class", regions=(64, 12), share=0.2),
    "noise-10": Kind("noise 10 % less and more", noise=(0.9, 1.1)),
    "noise-20": Kind("noise 20 % less and more", noise=(0.8, 1.2)),
    "noise-40": Kind("noise 40 % less and more", noise=(0.6, 1.4)),
    "tiles": Kind("one fine tile per region in one class, else 4", tiles=(4, 1), noise=(1.5, 1.5)),
    "slides": Kind("one slide per patient in the rarer class, else 4", slides=(4, 1), regions=(16, 16), share=0.3),
    "absent": Kind("fine tiles absent in a type, by class", absent=(0.0, 0.6)),
    "absent-all": Kind("the same, all of them", absent=(0.0, 1.0)),
    "absent-anywhere": Kind("fine tiles absent anywhere, by class", absent_anywhere=(0.0, 0.5)),
    "types": Kind("composition of 16 types", types=16, tilt=0.6),
    "artefact": Kind("artefacts in the rarer class only", artefact=(0.0, 0.1), share=0.25),
    "gain": Kind("fine embeddings scaled by .85 and 1.15", gain=(0.85, 1.15)),
    "tails": Kind("heavy tails in the rarer class", tails=(0, 3), share=0.2),
    "typed": Kind("types that pair differently, and composition", typed=0.1, tilt=0.6),
    "few": Kind("50 patients, noise 40 %, the noisy class rarer", patients=50, noise=(0.6, 1.4), share=0.3),
    "turned": Kind("shared factor turned by .15 in the fine embedding", turned=(0.0, 0.15)),
    "turned-far": Kind("the same by .30", turned=(0.0, 0.3)),
    "turned-faint": Kind("the same by .30, where it is read half as strongly", turned=(0.0, 0.3), read=0.5),
    "turned-coarse": Kind("the same by .15, in the coarse embedding", turned=(0.15, 0.0)),
    "turned-both": Kind("the same by .15, in both", turned=(0.15, 0.15)),
    "misaligned": Kind("a neighbour's fine tile in 10 and 40 % of regions", misaligned=(0.1, 0.4)),
    "pale": Kind("15 and 60 % of regions left out that are pale in both", pale=(0.15, 0.6)),
    "several": Kind(
        "several of these at once", noise=(0.8, 1.2), tiles=(2, 1), regions=(64, 24), absent=(0.0, 0.4), share=0.35
    ),
}
POWERS = {
    "power-120": Kind("pairing in 120 patients", kappa=0.033),
    "power-60": Kind("pairing in 60 patients", kappa=0.048, patients=60),
}


def draw(kind: Kind, rng: np.random.Generator) -> tuple[list[SlideTokens], np.ndarray, np.ndarray]:
    """The slides of a cohort, the patient of each, and the label of each patient."""
    label = rng.permutation(np.arange(kind.patients) < round(kind.share * kind.patients)).astype(float)
    types = 1.5 * rng.standard_normal((2, kind.types, DIM))
    directions = rng.standard_normal((4, DIM))
    a_along, c_along, *shared_along = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    artefact = rng.standard_normal((2, DIM))
    slide_along = rng.standard_normal((2, 6, DIM))
    shared_along = [_turned(along, angle, rng) for along, angle in zip(shared_along, kind.turned, strict=True)]
    cohort, patient = [], []
    for number, value in enumerate(label.astype(int)):
        sign = 2 * value - 1
        tilt = np.exp(sign * kind.tilt * np.linspace(-1, 1, kind.types))
        for _ in range(kind.slides[value]):
            n = kind.regions[value]
            of_region = rng.choice(kind.types, n, p=rng.dirichlet(4 * kind.types * tilt / tilt.sum()))
            shift, couple = sign * kind.main, 2 * sign * kind.kappa
            a = rng.random(n) < 0.5 + shift
            couple = couple + 2 * kind.typed * np.where(of_region % 2, 1, -1)
            c = rng.random(n) < 0.5 + shift + np.where(a, couple, -couple)
            spread = np.exp(sign * kind.spread + 0.1 * rng.standard_normal())
            shared = 1.5 * spread * rng.standard_normal(n)
            common = rng.standard_normal(6)
            mean = types[:, of_region] + (common @ slide_along)[:, None]
            mean[0] += SEPARATION * np.outer(a - 0.5, a_along) + np.outer(shared, shared_along[0][value])
            mean[1] += SEPARATION * np.outer(c - 0.5, c_along) + kind.read * np.outer(shared, shared_along[1][value])
            if kind.main:
                mean[0] += 0.5 * sign * slide_along[0, 0]
                mean[1] += 0.5 * sign * slide_along[1, 1]
            dirt = rng.random(n) < kind.artefact[value]
            mean += 3.0 * dirt[:, None] * artefact[:, None]
            if kind.pale[value]:
                kept = a | c | (rng.random(n) >= kind.pale[value])
                mean, of_region, n = mean[:, kept], of_region[kept], int(kept.sum())
            gone = kind.absent_anywhere[value] + kind.absent[value] * (of_region == 0)
            fine = np.repeat(np.flatnonzero(rng.random(n) >= gone), kind.tiles[value])
            fine_of = np.arange(n)
            if kind.misaligned[value]:
                fine_of = np.where(rng.random(n) < kind.misaligned[value], np.roll(fine_of, 1), fine_of)
            mean[1] = mean[1][fine_of]
            region = {MPPS[0]: np.arange(n, dtype=np.int32), MPPS[1]: fine.astype(np.int32)}
            features = {
                mpp: (kind.gain[value] if m else 1.0)
                * (mean[m][own] + kind.noise[value] * _noise(kind.tails[value], len(own), rng))
                for m, (mpp, own) in enumerate(region.items())
            }
            cohort.append(
                SlideTokens(
                    slide=str(len(cohort)),
                    region_um=448.0,
                    slide_mpp=0.5,
                    region_xy_um=np.zeros((n, 2)),
                    features={mpp: one.astype(np.float32) for mpp, one in features.items()},
                    region=region,
                    center_um={mpp: np.zeros((len(own), 2), dtype=np.float32) for mpp, own in region.items()},
                )
            )
            patient.append(number)
    return cohort, np.array(patient), label


def _turned(along: np.ndarray, angle: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A direction in each class: turned to one side in the negative class and to the other in the positive one."""
    if not angle:
        return along, along
    across = rng.standard_normal(len(along))
    across -= along * (along @ across)
    across /= np.linalg.norm(across)
    return np.cos(angle) * along - np.sin(angle) * across, np.cos(angle) * along + np.sin(angle) * across


def _noise(tails: int, n: int, rng: np.random.Generator) -> np.ndarray:
    if not tails:
        return rng.standard_normal((n, DIM))
    return rng.standard_t(tails, (n, 1)) * rng.standard_normal((n, DIM))


def run(name: str, number: int, settings: SynergySettings) -> tuple[dict[str, float], Power | None]:
    """The p-values of a cohort (both tests', the larger, those within types), and what it says it could have shown."""
    kind = {**NULLS, **POWERS}[name]
    cohort, patient, label = draw(kind, np.random.default_rng([zlib.crc32(name.encode()), number]))
    slides = [tokens.slide for tokens in cohort]
    rows = read_rows(lambda slide: cohort[int(slide)], MPPS, slides, components=max(settings.components), seed=number)
    units = Units(tuple(map(str, range(len(label)))), patient)
    settings = settings.model_copy(update={"seed": number})
    result = analyse_label(rows, units, {name: label}, settings, is_class=True)[0]
    permuted, crossed = result.test.p_value, result.crossed.p_value
    p_values = {"permutation": permuted, "cross-fitted": crossed, "both": max(permuted, crossed)}
    return p_values | {f"{one.n_types} types": one.p_value for one in result.opinions}, result.power


def interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper-Pearson, 95 %."""
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first cohort, to continue an earlier run")
    parser.add_argument("--only", default=",".join((*NULLS, *POWERS)))
    parser.add_argument("--types", type=int, nargs="*", default=[], help="second opinions too")
    parser.add_argument(
        "--asked", type=int, default=10, help="cohorts of each power that say what they could have shown"
    )
    parser.add_argument("--permutations", type=int, default=199)
    given = parser.parse_args()
    settings = SynergySettings(
        permutations=given.permutations,
        types=tuple(given.types),
        power_permutations=0,
        main_repeats=0,
        tiles=0,
        maps=0,
    )
    names = ["permutation", "cross-fitted", "both", *(f"{n} types" for n in given.types)]
    print(f"{'kind':<50}" + "".join(f"{name:>20}" for name in names) + f"{'seconds':>10}", flush=True)
    for name in given.only.split(","):
        start = time.perf_counter()
        found: dict[str, int] = dict.fromkeys(names, 0)
        for number in range(given.first, given.first + given.cohorts):
            for test, p in run(name, number, settings)[0].items():
                found[test] += p <= 0.05
        cells = ""
        for test in names:
            low, high = interval(found[test], given.cohorts)
            cells += f"{found[test] / given.cohorts:.3f} ({low:.2f}-{high:.2f})".rjust(20)
        says = {**NULLS, **POWERS}[name].says
        print(f"{says:<50}{cells}{time.perf_counter() - start:>10.0f}", flush=True)
        if name in POWERS and given.asked:
            asks = settings.model_copy(update={"power_permutations": 100})
            powers = [run(name, number, asks)[1] for number in range(given.asked)]
            detectable = [one.detectable for one in powers if one is not None and one.detectable is not None]
            # P(A and C) is 1/4 plus or minus kappa, so rho = 4 kappa; D is 2 rho times what both sides read of theirs.
            effect = 8 * POWERS[name].kappa * (SEPARATION / 2) ** 2 / (1 + SEPARATION**2 / 4)
            says = f"{np.median(detectable):.3f}" if detectable else "none"
            print(
                f"    effect {effect:.3f}; detectable with 80 % power by permutation, as synergy says: {says}",
                flush=True,
            )


if __name__ == "__main__":
    main()
