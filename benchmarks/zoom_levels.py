"""One magnification chosen after the other on the demo's slides: tiles encoded, and what a contrast head makes of them.

    python benchmarks/zoom_levels.py OUT
    python benchmarks/zoom_levels.py OUT --encoder efficientnet-lite0+grid2

Renders the cohort of `zoom_demo.py` into OUT, embeds it whole at 5x, 10x and 20x from the slides' own levels, fits a
contrast head on each training fold, and reads the held-out slides to the shares of each budget as `embed --zoom` does.
Prints for each policy and budget the tiles that are encoded of a slide, coarse ones included, and the mean AUC of the
repeats with the lowest and the highest. What is done already is kept.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from parfocal.bags import bag_of_slide, empty_bag, read_bags
from parfocal.cohort import Cohort, CohortColumns, make_splits, read_cohort
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, Glance, Zoom, embed_slides
from parfocal.embed.unfolding import Unfolding
from parfocal.embed.zoom import split_shares
from parfocal.geometry import format_mpp
from parfocal.heads import ProbeSettings, fit_contrast, score_partly_read
from parfocal.lab.synthetic.rendered import RenderSettings, render_cohort
from parfocal.stats import auc
from parfocal.store import EmbeddingSet, SlideTokens, open_set
from parfocal.zoom import POLICIES, HeadOfBags, n_chosen
from parfocal.zoom.policies.policy import Order

BUDGETS = ("0", "0.1", "0.3 0.1", "0.1 0.1", "0.01", "0.1 0.01", "0.03 0.01")


def read_by(order: Order, tokens: SlideTokens, shares: Sequence[float], seed: int) -> SlideTokens:
    """The slide as it is when its last magnifications are read to some shares; rows of other tiles are not touched."""
    coarser, last = split_shares(shares)
    zoom, after = Zoom("tried", lambda: order, last, seed, coarser=coarser), None
    known = tokens
    for mpp, share in zoom.shares_of(tokens.slide, tokens.mpps).items():
        own = tokens.region[mpp]
        coarse = only(known, {one: np.ones(len(known.region[one]), dtype=bool) for one in tokens.mpps if one > mpp})
        tissue = np.ones(len(own))
        glance = Glance(coarse, own, tokens.center_um[mpp], mpp, tissue, seed)
        rows = tokens.features[mpp]
        order = Unfolding("tried", glance, zoom.ordered(glance, after))
        read = order.first(n_chosen(len(own), share), lambda asked, rows=rows: (rows[asked], asked))
        kept = {one: np.ones(len(known.region[one]), dtype=bool) for one in tokens.mpps}
        known, after = only(known, {**kept, mpp: read}), mpp
    return known


def only(tokens: SlideTokens, kept: dict[float, np.ndarray]) -> SlideTokens:
    """Some tiles of some magnifications of a slide."""
    parts = [
        {mpp: own[mpp][there] for mpp, there in kept.items()}
        for own in (tokens.features, tokens.region, tokens.center_um)
    ]
    return replace(tokens, features=parts[0], region=parts[1], center_um=parts[2], tissue={})


def score(head: HeadOfBags, whole: SlideTokens, known: SlideTokens) -> float:
    """What the head says of a slide that was read in part."""
    bags, share = [], {}
    for number, mpp in enumerate(whole.mpps):
        n_read, planned = (np.bincount(one.region[mpp], minlength=whole.n_regions) for one in (known, whole))
        nothing = np.zeros(whole.features[mpp].shape[1], dtype=np.float32)
        bags.append(bag_of_slide(known, mpp) if n_read.any() else empty_bag(whole.slide, mpp, whole.n_regions, nothing))
        if (n_read < planned).any():
            share[number] = n_read / np.maximum(planned, 1)
    return float(score_partly_read(head.probe, bags, np.array([0]), set(share), share=share)[0, 0])


def compare(tiles: EmbeddingSet, cohort: Cohort, arguments: argparse.Namespace) -> None:
    """Fit on training slides, read and score the others, and print a row for each policy and budget."""
    names = tuple(map(format_mpp, tiles.mpps))
    bags = read_bags(tiles, cohort.slides, names=names, seed=arguments.seed)
    folds = make_splits(cohort, repeats=arguments.repeats, seed=arguments.seed).folds(cohort, inner=5, seed=0)
    truth = cohort.outcome.value > 0
    fits = fit_contrast(bags, cohort.outcome, folds, ProbeSettings(seed=arguments.seed))
    slides = {slide: tiles.read(slide) for slide in cohort.slides}
    whole = [auc(truth[fold.test], probe.score(bags, fold.test)[:, 0]) for fold, probe in zip(folds, fits, strict=True)]
    n_whole = np.mean([sum(map(len, one.region.values())) for one in slides.values()])
    print("| policy | budget | tiles of a slide | AUC | of the repeats |\n|---|---|---|---|---|")
    print(f"| everything is read | | {n_whole:.0f} | {row(whole, arguments.repeats)} |")
    for policy in map(POLICIES.get, arguments.policies):
        for budget in arguments.budgets:
            shares, found, n_tiles = tuple(map(float, budget.split())), [], []
            for fold, probe in zip(folds, fits, strict=True):
                head = HeadOfBags(probe, names)
                order = policy.with_head(head).ranked
                known = [read_by(order, slides[cohort.slides[n]], shares, arguments.seed) for n in fold.test]
                scores = [score(head, slides[one.slide], one) for one in known]
                found.append(auc(truth[fold.test], np.array(scores)))
                n_tiles += [sum(map(len, one.region.values())) for one in known]
            cells = row(found, arguments.repeats)
            print(f"| `{policy.name}` | {budget} | {np.mean(n_tiles):.0f} | {cells} |", flush=True)


def row(of_folds: Sequence[float], repeats: int) -> str:
    """The mean AUC of the folds, and that of the repeats with the lowest and with the highest."""
    means = np.reshape(of_folds, (repeats, -1)).mean(axis=1)
    return f"{means.mean():.3f} | {means.min():.3f} to {means.max():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", default="filterbank")
    parser.add_argument("--slides", type=int, default=96)
    parser.add_argument("--regions-per-side", type=int, default=4)
    parser.add_argument("--first", type=int, default=None, help="only so many of the slides are embedded and compared")
    parser.add_argument("--repeats", type=int, default=3, help="of the cross-validation")
    parser.add_argument("--policies", nargs="+", default=["stride", "diversity", "contrast", "contrast-tiles"])
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), help='shares, coarse to fine: "0.3 0.1"')
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    how = RenderSettings(n_slides=arguments.slides, regions_per_side=arguments.regions_per_side)
    rendered = render_cohort(arguments.out / "cohort", how)
    settings = EmbedSettings(
        grid=GridConfig(mpps=(2.0, 1.0, 0.5)),
        encoder=arguments.encoder,
        coarse="native",
        workers=arguments.workers,
        qc=False,
    )
    slides = rendered.slides[: arguments.first]
    summary = embed_slides(slides, arguments.out / arguments.encoder.replace(":", "-") / "levels", settings)
    assert not summary.failed, summary.failed
    labels = arguments.out / f"labels-{len(slides)}.csv"
    labels.write_text("".join(rendered.labels_csv.read_text().splitlines(keepends=True)[: 1 + len(slides)]))
    tiles = open_set(summary.set_path)
    cohort = read_cohort(labels, "pairing", CohortColumns(group="patient"))
    with threadpool_limits(1):
        compare(tiles, cohort, arguments)


if __name__ == "__main__":
    main()
