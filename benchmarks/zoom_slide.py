"""How near region embeddings of a slide that was read in part are to those of the whole slide, by policy.

    python benchmarks/zoom_slide.py SLIDE [--slide-mpp 0.5] [--encoder filterbank] [--budget 0.1] -o OUT

The slide is embedded whole with coarse tiles of its own levels, a region model is pretrained on it, and its CLS of
every region is compared with that of stores of which each policy has read a share: the mean cosine over regions, of
vectors about the mean of the whole slide and in units of its spread, so that what all regions share does not count.
Beside it the same for the slide read at the coarser magnifications alone (a budget of 0), and the share of the tiles
read that lie at the edge of the tissue: in regions with less than half as many tiles as the fullest one.
OUT/POLICY-BUDGET/qc holds a picture of what was read. What is done is kept.
"""

import argparse
from pathlib import Path

import numpy as np

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.predict import zoom_by
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.store import EmbeddingSet, open_set

POLICIES = ("random", "random-regions", "stride", "tissue", "change", "diversity", "entropy=MODEL")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slide-mpp", type=float)
    parser.add_argument("--encoder", default="filterbank")
    parser.add_argument("--budget", type=float, default=0.1)
    parser.add_argument(
        "--policies", nargs="+", default=list(POLICIES), help="MODEL is the one that is pretrained here"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    out, model = arguments.output, arguments.output / "model"
    settings = EmbedSettings(encoder=arguments.encoder, slide_mpp=arguments.slide_mpp, coarse="native")
    whole = open_set(embed_slides([arguments.slide], out / "whole", settings).set_path)
    training = PretrainSettings(size="T", batch=64, steps=arguments.steps, lr=1e-3, holdout=0.3, device="cpu")
    pretrain_encoder(whole, model, training)
    n_tiles = np.bincount(whole.read(whole.slides[0]).region[min(whole.mpps)])
    reference = regions(whole, model, out / "whole-regions")
    centre, spread = (function(list(reference.values()), axis=0) for function in (np.mean, np.std))
    scale = 1 / np.maximum(spread, 1e-6)

    def cosines(found: dict[tuple[float, float], np.ndarray]) -> np.ndarray:
        pairs = [((found[place] - centre) * scale, (row - centre) * scale) for place, row in reference.items()]
        return np.array([one @ other / np.linalg.norm(one) / np.linalg.norm(other) for one, other in pairs])

    print(
        "| policy | budget | regions with a fine tile | tiles at the edge | mean cosine "
        "| 5 % of regions are below |\n|---|---|---|---|---|---|"
    )
    asked = [("stride", 0.0), *((policy, arguments.budget) for policy in arguments.policies)]
    for policy, budget in asked:
        zoom = zoom_by(policy.replace("MODEL", str(model)), budget)
        folder = out / f"{zoom.policy}-{budget:g}"
        part = open_set(embed_slides([arguments.slide], folder, settings, zoom=zoom).set_path)
        found = cosines(regions(part, model, out / f"{zoom.policy}-{budget:g}-regions"))
        read = part.read(part.slides[0]).region[min(part.mpps)]
        touched, at_edge = len(np.unique(read)), f"{(n_tiles[read] < n_tiles.max() / 2).mean():.2f}" if budget else ""
        name = "coarse alone" if budget == 0 else zoom.policy
        numbers = f"{found.mean():.3f} | {np.quantile(found, 0.05):.3f}"
        print(f"| {name} | {budget:g} | {touched} of {len(reference)} | {at_edge} | {numbers} |", flush=True)


def regions(tiles: EmbeddingSet, model: Path, out: Path) -> dict[tuple[float, float], np.ndarray]:
    """CLS of every region of the only slide, by where it lies; those without a coarse tile are left out."""
    made = represent_regions(tiles, model, out, RepresentSettings(readouts=("cls",), dtype="float32"))
    found = made.sets[0].read_regions(tiles.slides[0])
    tokens = tiles.read(tiles.slides[0])
    seen = np.isin(np.arange(tokens.n_regions), tokens.region[max(tokens.mpps)])
    places = map(tuple, found.region_xy_um.tolist())
    return {place: row for place, row, is_seen in zip(places, found.features, seen, strict=True) if is_seen}


if __name__ == "__main__":
    main()
