"""How long the policy `value` takes to choose, by the number of regions of a slide and the head that it asks.

    python benchmarks/zoom_value.py [--regions 250 1000] [--heads mean mlp] [--dim 384]

Embeddings are random and so is the model (size T), because neither changes the time: a slide of regions side by side
with one tile at 2 mpp and sixteen at 0.5, and heads that are fitted on thirty slides of eight. Beside `value`
stands `entropy`, which asks the same model and no head. Seconds are those that processor cores were busy, so it does
not matter what else a machine does.
"""

import argparse
import time

import numpy as np

from parfocal.bags import Bag, TileDecoder
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.geometry import lattice_um
from parfocal.heads import HEADS, FittedProbe, ProbeSettings
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.store import SlideTokens
from parfocal.zoom import POLICIES, Glance, HeadOfBags

SLIDES = 30
MPPS = (2.0, 0.5)


def slide_of(name: str, n_regions: int, dim: int) -> SlideTokens:
    """Random tiles of both magnifications."""
    rng = np.random.default_rng([len(name), n_regions])
    number, side = np.arange(n_regions), int(np.ceil(np.sqrt(n_regions)))
    features, region, center = {}, {}, {}
    for mpp in MPPS:
        places = lattice_um(448.0, round(2 / mpp)).astype(np.float32)
        region[mpp] = np.repeat(number, len(places)).astype(np.int32)
        center[mpp] = np.tile(places, (n_regions, 1))
        features[mpp] = rng.standard_normal((len(region[mpp]), dim), dtype=np.float32)
    xy_um = 448.0 * np.column_stack([number % side, number // side]).astype(np.float64)
    return SlideTokens(name, 448.0, 0.5, xy_um, features, region, center)


def glance_of(tokens: SlideTokens) -> Glance:
    """What a policy sees of it."""
    coarse, fine = MPPS
    parts = ({coarse: part[coarse]} for part in (tokens.features, tokens.region, tokens.center_um))
    region = tokens.region[fine]
    known = SlideTokens(tokens.slide, 448.0, 0.5, tokens.region_xy_um, *parts)
    return Glance(known, region, tokens.center_um[fine], fine, np.ones(len(region)), 0)


def fitted(head: str, dim: int) -> FittedProbe:
    """A head on random slides with random labels."""
    rng, bags, regions = np.random.default_rng(0), [], 8
    for mpp, tiles in zip(MPPS, (1, 16), strict=True):
        rows = rng.standard_normal((SLIDES, regions, tiles, dim), dtype=np.float32)
        bags.append(
            Bag(
                name=f"{mpp:g}",
                slides=tuple(f"s{number}" for number in range(SLIDES)),
                rows=rows.reshape(-1, dim),
                start=np.arange(SLIDES + 1) * regions * tiles,
                n_instances=np.full(SLIDES, regions * tiles),
                mean=rows.mean(axis=(1, 2)),
                region_mean=rows.mean(axis=2).reshape(-1, dim),
                region_start=np.arange(SLIDES + 1) * regions,
                region_present=np.ones(SLIDES * regions, dtype=bool),
            )
        )
    train, label = np.arange(SLIDES), np.arange(SLIDES) % 2 == 0
    fold = Fold(0, 0, train, train[:0], deal_folds(train, label, 2, rng))
    fit = HEADS.get(head).fit
    assert fit is not None
    (probe,) = fit(bags, Outcome.binary(label), [fold], ProbeSettings(inner_folds=2, growth=1))
    return probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, nargs="+", default=[250, 1000])
    parser.add_argument("--heads", nargs="+", default=["mean", "mlp", "contrast", "region_mlp", "attention"])
    parser.add_argument("--dim", type=int, default=384)
    arguments = parser.parse_args()
    config = RegionEncoderConfig.of_size("T", mpps=MPPS, dims=(arguments.dim,) * 2)
    decoder = TileDecoder(RegionModel(config).eval(), MPPS[1], whitened=False)
    bound = {"entropy": POLICIES.get("entropy").bound(decoder)}
    for name in arguments.heads:
        head = HeadOfBags(fitted(name, arguments.dim), tuple(f"{mpp:g}" for mpp in MPPS))
        bound[f"value, {name}"] = POLICIES.get("value").bound(head, decoder)
    print("| policy | regions | seconds of a core |\n|---|---|---|")
    for n_regions in arguments.regions:
        glance = glance_of(slide_of("a", n_regions, arguments.dim))
        for name, policy in bound.items():
            began = time.process_time()
            policy(glance)
            print(f"| {name} | {n_regions} | {time.process_time() - began:.1f} |", flush=True)


if __name__ == "__main__":
    main()
