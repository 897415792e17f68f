"""A budget of all slides together against one of each slide, at the same number of fine tiles.

    python benchmarks/zoom_total.py
    python benchmarks/zoom_total.py --slides 1600 --test 2000 --policies contrast

XScale-rare with separations 4 and 4, whose slides have 8 to 128 regions, as many of 8 to 16 as of 64 to 128. Contrast
is fitted on whole slides, and test slides are read to the same share of all their fine tiles in two ways: each of them
to that share, or all together where a tile is worth most. Prints for each policy and share how many tiles that are, the
AUC of both, their difference with DeLong's 95 % interval, the same difference among slides of up to 16 and of 64 and
more regions, and the share of slides of which the total reads nothing. A quarter of a second for a slide.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from slide_sizes import FEWEST, LARGE, MOST, SMALL
from threadpoolctl import threadpool_limits
from zoom_xscale import BAGS, generator

from parfocal.bags import glance_at, read_bags
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.config import GridConfig
from parfocal.embed.total import n_of_each
from parfocal.heads import ProbeSettings, fit_contrast
from parfocal.lab.synthetic import FeatureModel, draw_cohort, rare_settings
from parfocal.lab.synthetic.feature_model import COARSE, FINE
from parfocal.stats import auc, delong_test
from parfocal.store import SlideTokens, open_set
from parfocal.store.layout import create_set
from parfocal.store.write import write_tokens
from parfocal.zoom import POLICIES, HeadOfBags, PartReader, n_chosen

BUDGETS = (0.01, 3 / 64, 6 / 64, 13 / 64)


def first_regions(tokens: SlideTokens, n_regions: int) -> SlideTokens:
    """A smaller slide of the same kind, at the coarse and the fine magnification: regions are independent."""
    kept = {mpp: tokens.region[mpp] < n_regions for mpp in (COARSE, FINE)}
    parts = [
        {mpp: rows[mpp][there] for mpp, there in kept.items()}
        for rows in (tokens.features, tokens.region, tokens.center_um)
    ]
    xy_um = tokens.region_xy_um[:n_regions]
    return replace(tokens, region_xy_um=xy_um, features=parts[0], region=parts[1], center_um=parts[2])


def write(n: int, seed: int, folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """The set of `n` slides, their labels, and how many regions each has."""
    settings = rare_settings(n, model=FeatureModel(separation_a=4.0, shift_c=1.0), seed=seed)
    cohort = draw_cohort(settings.model_copy(update={"n_regions": MOST}))
    counts = np.exp2(generator(seed).uniform(np.log2(FEWEST), np.log2(MOST), n)).round().astype(int)
    path = create_set(
        folder,
        "sizes",
        "tiles",
        region_um=GridConfig().region_um,
        dims=dict.fromkeys((COARSE, FINE), settings.model.dim),
        settings={"encoder": "xscale-rare"},
        encoder_digests=dict.fromkeys((COARSE, FINE), "xscale"),
        tile_px=GridConfig().tile_px,
        dtype="float32",
    )
    for tokens, count in zip(cohort, counts, strict=True):
        write_tokens(path, first_regions(tokens, int(count)))
    return path, np.asarray(cohort.labels["label"]), counts


def compare(path: Path, label: np.ndarray, counts: np.ndarray, slides: int, arguments: argparse.Namespace) -> None:
    """Fit on the first slides and read the others."""
    tiles, seed = open_set(path), arguments.seed
    train, test = np.arange(slides), np.arange(slides, len(label))
    fold = Fold(0, 0, train, test, deal_folds(train, label[:slides], 5, generator(seed)))
    bags = read_bags(tiles, tiles.slides, names=BAGS, most_instances=64, seed=seed)
    probes = ProbeSettings(components=(16, 32, 64), seed=seed, lifted=(6,))
    (probe,) = fit_contrast(bags, Outcome.binary(label), [fold], probes)
    head, names, truth = HeadOfBags(probe, BAGS), [tiles.slides[number] for number in test], label[test]
    ranked = {
        policy: {slide: POLICIES.get(policy).bound(head).ranked(glance_at(tiles.read(slide), seed)) for slide in names}
        for policy in arguments.policies
    }
    n_tiles = {slide: len(one.order) for slide, one in ranked[arguments.policies[0]].items()}
    wanted = dict[tuple[str, str, float], dict[str, int]]()
    for policy, orders in ranked.items():
        worth = {slide: one.worth for slide, one in orders.items() if one.worth is not None}
        for budget in arguments.budgets:
            wanted[policy, "each", budget] = {slide: n_chosen(n, budget) for slide, n in n_tiles.items()}
            wanted[policy, "total", budget] = n_of_each(worth, dict.fromkeys(worth, 0), budget)
    scores = {key: np.empty(len(names)) for key in wanted}
    for place, slide in enumerate(names):
        tokens = tiles.read(slide)
        reader = PartReader.of(glance_at(tokens, seed))
        for (policy, way, budget), counted in wanted.items():
            read = np.zeros(n_tiles[slide], dtype=bool)
            read[ranked[policy][slide].order[: counted[slide]]] = True
            ((score,),) = reader.scores([head], tokens.features[FINE][read], read)
            scores[policy, way, budget][place] = score
    whole = probe.score(bags, test)[:, 0]
    print(f"{slides} labelled and {len(test)} test slides; read whole {auc(truth, whole):.3f}\n")
    print(
        "| policy | share | tiles | of each slide | of all together | difference | up to 16 regions | 64 and more | "
        "slides without |\n|---|---|---|---|---|---|---|---|---|"
    )
    sizes = counts[test]
    for policy in arguments.policies:
        for budget in arguments.budgets:
            each, total = (scores[policy, way, budget] for way in ("each", "total"))
            groups = [np.ones(len(test), dtype=bool), sizes <= SMALL, sizes >= LARGE]
            cells = [difference(truth[own], total[own], each[own]) for own in groups]
            spent = [sum(wanted[policy, way, budget].values()) for way in ("each", "total")]
            without = np.mean([n == 0 for n in wanted[policy, "total", budget].values()])
            print(
                f"| `{policy}` | {budget:.1%} | {spent[0]:,} and {spent[1]:,} | {auc(truth, each):.3f} | "
                f"{auc(truth, total):.3f} | {' | '.join(cells)} | {without:.2f} |",
                flush=True,
            )


def difference(label: np.ndarray, one: np.ndarray, other: np.ndarray) -> str:
    """Of two AUCs, with its interval."""
    found = delong_test(label, one, other).difference
    return f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=400, help="labelled slides")
    parser.add_argument("--test", type=int, default=400, help="test slides")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS), help="shares of the fine tiles")
    parser.add_argument("--policies", nargs="+", default=["contrast", "contrast-tiles"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    with threadpool_limits(1), TemporaryDirectory() as folder:
        path, label, counts = write(arguments.slides + arguments.test, arguments.seed, Path(folder))
        compare(path, label, counts, arguments.slides, arguments)


if __name__ == "__main__":
    main()
