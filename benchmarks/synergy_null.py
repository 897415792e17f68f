"""How often `synergy` rejects where pairing knows nothing, and how often it finds pairs of known strength.

OMP_NUM_THREADS=1 python benchmarks/synergy_null.py [--cohorts 400] [--only none,composition] [--power 100]

Each cohort has 120 slides of 64 regions, two magnifications of 24 numbers, four tissue types whose shares vary from
slide to slide, what a slide's tiles have in common (six numbers, the same in both magnifications), a factor A at the
coarse and C at the fine magnification (separation 3), and a continuous factor that both share. A cohort draws a world
of its own. Null kinds, all of them clear main effects or nothing:

none          labels at random
main          both magnifications are shifted in positive slides, and A and C are more frequent there
composition   the types' shares differ by class
spread        the factor shared by both magnifications has another spread in each class
"""

import argparse
import time

import numpy as np
from scipy.stats import beta

from parfocal.embeddings import SlideTokens
from parfocal.studies.pairing.analysis import SynergySettings, Units, analyse_label
from parfocal.studies.pairing.moments import read_rows

SLIDES, REGIONS, DIM, TYPES, SEPARATION = 120, 64, 24, 4, 3.0
MPPS = (2.0, 0.5)
NULLS = {"none": 0.0, "main": 0.06, "composition": 0.6, "spread": 0.15}
STRONG = {"composition": 1.0, "spread": 0.3}
_ASKED = 10  # cohorts of each strength that say what they could have shown
POWERS = (0.01, 0.015, 0.02, 0.03, 0.05)


def draw(kind: str, size: float, rng: np.random.Generator) -> tuple[list[SlideTokens], np.ndarray]:
    label = rng.permutation(np.arange(SLIDES) % 2).astype(float)
    types = 1.5 * rng.standard_normal((2, TYPES, DIM))
    directions = rng.standard_normal((4, DIM))
    a_along, c_along, *shared_along = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    slide_along = rng.standard_normal((2, 6, DIM))
    cohort = []
    for number, sign in enumerate(2 * label - 1):
        tilt = np.exp(sign * size * np.linspace(-1, 1, TYPES)) if "composition" in kind else np.ones(TYPES)
        of_region = rng.choice(TYPES, REGIONS, p=rng.dirichlet(16 * tilt / tilt.sum()))
        shift = sign * size if kind == "main" else 0.0
        couple = 2 * sign * size if kind == "pairing" else 0.0
        a = rng.random(REGIONS) < 0.5 + shift
        c = rng.random(REGIONS) < 0.5 + shift + np.where(a, couple, -couple)
        spread = np.exp((sign * size if kind == "spread" else 0.0) + 0.1 * rng.standard_normal())
        shared = 1.5 * spread * rng.standard_normal(REGIONS)
        common = rng.standard_normal(6)
        x = rng.standard_normal((2, REGIONS, DIM)) + types[:, of_region] + (common @ slide_along)[:, None]
        x[0] += SEPARATION * np.outer(a - 0.5, a_along) + np.outer(shared, shared_along[0])
        x[1] += SEPARATION * np.outer(c - 0.5, c_along) + np.outer(shared, shared_along[1])
        if kind == "main":
            x[0] += 0.5 * sign * slide_along[0, 0]
            x[1] += 0.5 * sign * slide_along[1, 1]
        region = np.arange(REGIONS, dtype=np.int32)
        cohort.append(
            SlideTokens(
                slide=str(number),
                region_um=448.0,
                slide_mpp=0.5,
                region_xy_um=np.zeros((REGIONS, 2)),
                features={mpp: x[m].astype(np.float32) for m, mpp in enumerate(MPPS)},
                region=dict.fromkeys(MPPS, region),
                center_um=dict.fromkeys(MPPS, np.zeros((REGIONS, 2), dtype=np.float32)),
            )
        )
    return cohort, label


def run(kind: str, size: float, number: int, settings: SynergySettings) -> tuple[dict[str, float], float | None]:
    """The p-values of one cohort (the test's, and centred within each number of types), and the detectable effect."""
    rng = np.random.default_rng([sorted({*NULLS, "pairing"}).index(kind), int(1000 * size), number])
    cohort, label = draw(kind, size, rng)
    slides = [tokens.slide for tokens in cohort]
    rows = read_rows(lambda slide: cohort[int(slide)], MPPS, slides, components=max(settings.components), seed=number)
    units = Units(tuple(slides), np.arange(SLIDES))
    settings = settings.model_copy(update={"seed": number})
    result = analyse_label(rows, units, {kind: label}, settings, is_class=True)[0]
    p_values = {"synergy": result.test.p_value}
    p_values |= {f"{one.n_types} types": one.p_value for one in result.opinions}
    return p_values, result.power.detectable if result.power else None


def upper_bound(hits: int, n: int) -> float:
    """One-sided 95 % Clopper-Pearson."""
    return float(beta.ppf(0.95, hits + 1, n - hits)) if hits < n else 1.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cohorts", type=int, default=400)
    parser.add_argument("--power", type=int, default=100, help="cohorts at each strength; 0 leaves them out")
    parser.add_argument("--only", default=",".join(NULLS))
    parser.add_argument("--opinions", type=int, default=100, help="cohorts of each kind with second opinions")
    parser.add_argument("--types", type=int, nargs="*", default=[4, 8])
    given = parser.parse_args()
    settings = SynergySettings(
        permutations=999, types=tuple(given.types), power_permutations=0, main_repeats=0, tiles=0, maps=0
    )
    alone = settings.model_copy(update={"types": ()})
    names = ["synergy", *(f"{n} types" for n in given.types)]
    print(f"{'kind':<14}{'size':>6}  " + "".join(f"{name:>22}" for name in names) + f"{'seconds':>10}", flush=True)
    kinds = [kind for kind in given.only.split(",") if kind]
    tables = [(k, NULLS[k], settings) for k in kinds] + [(k, STRONG[k], alone) for k in kinds if k in STRONG]
    for kind, size, own in tables:
        start = time.perf_counter()
        found: dict[str, list[bool]] = {}
        for number in range(given.cohorts):
            for name, p in run(kind, size, number, own if number < given.opinions else alone)[0].items():
                found.setdefault(name, []).append(p <= 0.05)
        cells = "".join(
            f"{np.mean(found[name]):.3f} (< {upper_bound(sum(found[name]), len(found[name])):.3f})".rjust(22)
            for name in names
            if name in found
        ).ljust(22 * len(names))
        print(f"{kind:<14}{size:>6.3f}  {cells}{time.perf_counter() - start:>10.0f}", flush=True)
    if not given.power:
        return
    # P(A and C) is 1/4 plus or minus kappa, so rho = 4 kappa; D is 2 rho times what each side reads of its factor.
    reads = (SEPARATION / 2) / np.sqrt(1 + SEPARATION**2 / 4)
    print(f"\n{'kappa':>8}{'effect':>8}{'found':>8}   detectable with 80 % power, as synergy says in the same cohorts")
    for kappa in POWERS:
        asks = alone.model_copy(update={"power_permutations": 100})
        n_found, detectable = 0, []
        for number in range(given.power):
            p_values, strength = run("pairing", kappa, number, asks if number < _ASKED else alone)
            n_found += p_values["synergy"] <= 0.05
            if strength is not None:
                detectable.append(strength)
        says = f"{np.median(detectable):.3f}" if detectable else "-"
        print(f"{kappa:>8.3f}{8 * kappa * reads**2:>8.3f}{n_found / given.power:>8.2f}   {says}", flush=True)


if __name__ == "__main__":
    main()
