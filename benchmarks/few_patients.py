"""What few patients can promise: false alarms of the flag "outside", and probabilities of new patients.

    python benchmarks/few_patients.py OUT alarms         [--cohorts 60]
    python benchmarks/few_patients.py OUT probabilities  [--cohorts 40] [--arms contrast concat 0.5/mean]
    python benchmarks/few_patients.py OUT real --fields FOLDER --others SLIDE ...

Cohorts are drawn in feature space (the observation model of XScale). Patients differ in stain and in the tissue that
they have; a patient's slides differ less.

alarms: cohorts of 8, 20, 40 and 100 patients with one to five slides each, and 40 new patients of the same kind. A
false alarm is a new patient with at least one slide that is called outside. Slides of another stain lie four standard
deviations of the patients away; those of another organ have other means and directions.

probabilities: cohorts of 8 patients with 8 fields of two regions each, through `fit` and `predict`; 24 new patients
with two fields. The label shifts the share of a 5x and of a 20x factor by 0, .15, .3 or .45, in turn. Printed: the
Brier score of new patients minus that of cross-validation (which head.json states), and the probability nearest to 0
or 1.

real: what the flag's distance separates, and no rate: labelled fields of few patients (file, label, slide, case; read
as in benchmarks/osteosarcoma.py), each case left out in turn, and slides of another organ, cut into the same regions.
"""

import argparse
import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag, read_bags
from parfocal.cohort import LabelColumns
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ParfocalWarning
from parfocal.lab.synthetic.feature_model import COARSE, FINE, MIDDLE, FeatureModel, FeatureSpace, RegionFactors
from parfocal.predict import FitSettings, fit_habits, fit_head, predict_slides
from parfocal.stats import auc
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, settings_digest, write_tokens

SIZES = (8, 20, 40, 100)
NEW = 40
MODEL = FeatureModel(dim=64)
SPACE = FeatureSpace(MODEL)
OTHER = FeatureSpace(MODEL.model_copy(update={"seed": 1}))
STRENGTHS = (0.0, 0.15, 0.3, 0.45)
FIELDS_GRID = GridConfig(region_um=896, mpps=(4.0, 2.0, 1.0), min_tissue=0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", choices=("alarms", "probabilities", "real"))
    parser.add_argument("--cohorts", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--arms", nargs="+", default=("contrast", "concat", "0.5/mean"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fields", type=Path)
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--encoder", default="filterbank")
    arguments = parser.parse_args()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        if arguments.what == "alarms":
            for n in arguments.sizes:
                alarms(n, arguments.cohorts)
        elif arguments.what == "probabilities":
            for arm in arguments.arms:
                probabilities(arguments.out, arm, arguments.cohorts, arguments.repeats)
        else:
            real(arguments.out, arguments.fields, arguments.others, arguments.encoder)
    return 0


def alarms(n: int, cohorts: int) -> None:
    found = []
    for seed in range(cohorts):
        rng = np.random.default_rng([seed, n])
        whose: dict[str, list[str]] = {}
        bags: dict[str, list[Bag]] = {}
        cohorts_of = (
            ("old", n, 0.0, SPACE),
            ("new", NEW, 0.0, SPACE),
            ("stain", NEW, 4.0, SPACE),
            ("organ", 9, 0.0, OTHER),
        )
        for what, patients, stain, space in cohorts_of:
            drawn = list(draw_patients(what, patients, rng, fields=(1, 5), regions=6, stain=stain, space=space))
            whose[what] = [patient for patient, _ in drawn]
            bags[what] = [bag_of([tokens for _, tokens in drawn], mpp) for mpp in (COARSE, MIDDLE, FINE)]
        habits = fit_habits(bags["old"], whose["old"], seed=seed)
        new, stain, organ = (
            np.array([habits.distance(bags[what], slide).value for slide in range(len(whose[what]))])
            for what in ("new", "stain", "organ")
        )
        names = np.array(whose["new"])
        by_patient = [(new[names == one] > habits.limit.cut).any() for one in np.unique(names)]
        separated = [
            auc(np.repeat([False, True], [len(new), len(far)]), np.concatenate([new, far])) for far in (stain, organ)
        ]
        beyond = [np.mean(one > habits.limit.cut) for one in (new, stain, organ)]
        found.append((np.mean(by_patient), *beyond, *separated, habits.limit.rate))
    table = np.array(found)
    low, high = interval(table[:, 0])
    print(
        f"{n} patients, {cohorts} cohorts: stated {table[:, 6].mean():.3f} (smallest {1 / (n + 1):.3f}); false alarms "
        f"by patient {table[:, 0].mean():.3f} ({low:.3f} to {high:.3f}), by slide {table[:, 1].mean():.3f}; called "
        f"outside, and AUC of the distance: another stain {table[:, 2].mean():.2f}, {table[:, 4].mean():.2f}; another "
        f"organ {table[:, 3].mean():.2f}, {table[:, 5].mean():.2f}",
        flush=True,
    )


def probabilities(out: Path, arm: str, cohorts: int, repeats: int) -> None:
    rows = []
    for seed in range(cohorts):
        strength = STRENGTHS[seed % len(STRENGTHS)]
        rng = np.random.default_rng([seed, 1])
        folder = out / f"cohort-{seed}"
        path, labels = folder / "done.csv", folder / "labels.csv"
        if not path.exists():
            sets = {what: new_set(folder / what) for what in ("old", "new")}
            positive = {"old": rng.permutation(8) < rng.integers(3, 6)}
            positive["new"] = rng.random(24) < positive["old"].mean()
            written = []
            for what, fields in (("old", 8), ("new", 2)):
                shift = strength * (2 * positive[what] - 1)
                of = {f"{what}-{number:03d}": int(label) for number, label in enumerate(positive[what])}
                drawn = draw_patients(what, len(shift), rng, fields=(fields, fields), regions=2, shift=shift)
                for patient, tokens in drawn:
                    write_tokens(sets[what], tokens)
                    written.append((tokens.slide, patient, of[patient]))
            write_csv(labels, ("slide", "patient", "label"), [row for row in written if row[0].startswith("old")])
            write_csv(path, ("slide", "patient", "label"), [row for row in written if row[0].startswith("new")])
        truth = {row["slide"]: (row["patient"], int(row["label"])) for row in csv.DictReader(path.open(newline=""))}
        head = fit_head(
            [folder / "old"], labels, "label", arm, folder / "head", FitSettings(repeats=repeats),
            columns=LabelColumns(group="patient"),
        )  # fmt: skip
        predicted = predict_slides([folder / "new"], folder / "head", folder / "predictions.csv").predicted
        said = {one.slide: one.probability[1] for one in predicted}
        error: dict[str, list[float]] = {}
        for slide, (patient, label) in truth.items():
            error.setdefault(patient, []).append((said[slide] - label) ** 2)
        new = float(np.mean([np.mean(one) for one in error.values()]))
        values = np.array(list(said.values()))
        separated = auc(np.array([truth[slide][1] > 0 for slide in said]), values)
        rows.append((strength, new, head.facts.metric.brier, min(values.min(), 1 - values.max()), separated))
    table = np.array(rows, dtype=float)
    difference = table[:, 1] - table[:, 2]
    low, high = interval(difference)
    print(
        f"{arm}, {cohorts} cohorts of 8 patients: Brier of new patients {table[:, 1].mean():.3f}, cross-validated "
        f"{table[:, 2].mean():.3f}, difference {difference.mean():+.3f} ({low:+.3f} to {high:+.3f}); nearest to 0 or 1 "
        f"{table[:, 3].min():.3f} (bound {1 / 10:.3f})"
    )
    for strength in STRENGTHS:
        own = table[table[:, 0] == strength]
        if len(own):
            print(
                f"  strength {strength}: new {own[:, 1].mean():.3f}, cross-validated {own[:, 2].mean():.3f}, AUC of "
                f"new slides {own[:, 4].mean():.2f}",
                flush=True,
            )


def real(out: Path, fields: Path, others: list[Path], encoder: str) -> None:
    rows = list(csv.DictReader((fields / "labels.csv").open(newline="")))
    out.mkdir(parents=True, exist_ok=True)
    case = {Path(row["file"]).stem: row["case"] for row in rows}
    files = [(Path(r["file"]).stem, (fields / "images" / r["file"]).resolve(), 1.0) for r in rows]
    write_csv(out / "fields.csv", ("slide", "path", "mpp"), files)
    settings = EmbedSettings(encoder=encoder, grid=FIELDS_GRID)
    own = open_set(embed_slides([out / "fields.csv"], out / "store", settings).set_path)
    foreign = open_set(embed_slides(list(others), out / "others", settings).set_path)
    usable = [slide for slide in own.slides if all(own.n_tiles(slide).values())]
    cases = [case[slide] for slide in usable]
    bags = means(own, usable)
    # Of a slide of another organ each region is a field of its own, as large as those of training.
    strange = [single_regions(bag) for bag in means(foreign, list(foreign.slides))]
    n_strange = len(strange[0].slides)
    for left in sorted(set(cases)):
        inside = [number for number, one in enumerate(cases) if one != left]
        tested = [number for number, one in enumerate(cases) if one == left]
        habits = fit_habits([bag.of_slides(inside) for bag in bags], [cases[number] for number in inside])
        new = [habits.distance(bags, number).value for number in tested]
        far = [habits.distance(strange, number).value for number in range(n_strange)]
        is_far = np.repeat([False, True], [len(new), len(far)])
        print(
            f"case {left} left out: distance {np.median(new):.1f} of its {len(new)} fields, {np.median(far):.1f} of "
            f"{len(far)} regions of {', '.join(foreign.slides)}, AUC {auc(is_far, np.array([*new, *far])):.2f}; beyond "
            f"the cut {habits.limit.cut:.1f}: {np.mean(np.array(new) > habits.limit.cut):.2f} and "
            f"{np.mean(np.array(far) > habits.limit.cut):.2f}; {habits.limit.sentence()}",
            flush=True,
        )


def new_set(root: Path) -> Path:
    described = {"encoder": "few-patients", "space": MODEL.model_dump(mode="json")}
    mpps = (COARSE, MIDDLE, FINE)
    return create_set(
        root,
        f"few-{settings_digest(described)}",
        "tiles",
        region_um=GridConfig().region_um,
        dims=dict.fromkeys(mpps, MODEL.dim),
        settings=described,
        encoder_digests=dict.fromkeys(mpps, settings_digest(described)),
        tile_px=GridConfig().tile_px,
        dtype="float32",
    )


def draw_patients(
    what: str,
    patients: int,
    rng: np.random.Generator,
    *,
    fields: tuple[int, int],
    regions: int,
    stain: float = 0.0,
    shift: np.ndarray | None = None,
    space: FeatureSpace = SPACE,
) -> Iterator[tuple[str, SlideTokens]]:
    """The slides of some patients, each with whose it is."""
    away = rng.normal(size=6)
    away *= stain / np.linalg.norm(away)
    for patient in range(patients):
        name, own_stain = f"{what}-{patient:03d}", rng.normal(size=6) + away
        share = np.clip(0.5 + (0.0 if shift is None else shift[patient]) + 0.1 * rng.normal(size=2), 0.05, 0.95)
        types = rng.beta(3, 3)
        for number in range(int(rng.integers(fields[0], fields[1] + 1))):
            a, c = rng.random((2, regions)) < share[:, None]
            h1, h2 = rng.choice([-1.0, 1.0], (2, regions))
            kind = (rng.random(regions) < types).astype(np.int64)
            factors = RegionFactors(a=a, c=c, tissue_type=kind, orientation=np.zeros(regions), h1=h1, h2=h2)
            vector = own_stain + 0.4 * rng.normal(size=6)
            yield name, space.draw(f"{name}-{number:02d}", factors, rng, slide_vector=vector)


def bag_of(slides: list[SlideTokens], mpp: float) -> Bag:
    """The means of one magnification, which are all that the flag looks at."""
    regions = [slide.features[mpp].reshape(slide.n_regions, -1, MODEL.dim).mean(axis=1) for slide in slides]
    mean = np.stack([one.mean(axis=0) for one in regions])
    bounds = np.cumsum([0, *(len(one) for one in regions)])
    return Bag(
        name=f"{mpp:g}",
        slides=tuple(slide.slide for slide in slides),
        rows=mean,
        start=np.arange(len(slides) + 1),
        n_instances=np.ones(len(slides), dtype=np.int64),
        mean=mean,
        region_mean=np.concatenate(regions),
        region_start=bounds,
        region_present=np.ones(bounds[-1], dtype=bool),
    )


def means(tiles: EmbeddingSet, slides: list[str]) -> tuple[Bag, ...]:
    return read_bags(tiles, slides, most_instances=1)


def single_regions(bag: Bag) -> Bag:
    """A bag in which every region is a slide."""
    rows = bag.region_mean[bag.region_present]
    bounds = np.arange(len(rows) + 1)
    return Bag(
        name=bag.name,
        slides=tuple(f"region-{number}" for number in range(len(rows))),
        rows=rows,
        start=bounds,
        n_instances=np.ones(len(rows), dtype=np.int64),
        mean=rows,
        region_mean=rows,
        region_start=bounds,
        region_present=np.ones(len(rows), dtype=bool),
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """Two-sided 95 % interval of a mean over cohorts, by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


if __name__ == "__main__":
    raise SystemExit(main())
