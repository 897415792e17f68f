"""How the archives of format 1 were made, with parfocal 0.1.0 before its folders moved: `python make.py FOLDER`.

The smallest of everything: a set of tiles at two magnifications, features in TRIDENT's layout with the set that an
index made of them, a pretraining stopped halfway, its finished model, regions that it represented, and two heads.
`golden.json` holds what was read of them.
"""

import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
from parfocal.embeddings import SlideTokens, create_set, index_features, open_set, write_tokens
from parfocal.probes import ProbeSettings
from parfocal.studies import fit, predict
from parfocal.studies.head import FitSettings

from parfocal.bags import RepresentSettings, represent
from parfocal.pretrain import PretrainSettings, pretrain
from parfocal.region_encoder import config as region_config

SLIDES, REGIONS, DIMS = 8, 3, {2.0: 3, 1.0: 3}
region_config.SIZES["T"].update(width=8, depth=1, heads=2)  # a checkpoint of a few KiB


class StoppedError(Exception):
    """A pretraining is killed."""


def tokens_of(number: int) -> SlideTokens:
    rng = np.random.default_rng(number)
    region = {2.0: np.arange(REGIONS, dtype=np.int32), 1.0: np.repeat(np.arange(REGIONS, dtype=np.int32), 4)}
    corner = np.array([[-112, -112], [112, -112], [-112, 112], [112, 112]], np.float32)
    centre = {2.0: np.zeros((REGIONS, 2), np.float32), 1.0: np.tile(corner, (REGIONS, 1))}
    features = {
        m: (rng.standard_normal((len(region[m]), dim)) + number % 2).astype(np.float16) for m, dim in DIMS.items()
    }
    xy_um = np.array([[448.0 * (r + 1), 448.0] for r in range(REGIONS)])
    return SlideTokens(f"s{number}", 448.0, 0.5, xy_um, features, region, centre)


def main(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    settings = {"encoder": "toy", "mpps": [2.0, 1.0]}
    path = create_set(
        out / "store",
        "toy-1",
        "tiles",
        region_um=448.0,
        dims=DIMS,
        settings=settings,
        encoder_digests=dict.fromkeys(DIMS, "0123abcd"),
        tile_px=224,
    )
    for number in range(SLIDES):
        write_tokens(path, tokens_of(number))
    tiles = open_set(path)
    labels = out / "labels.csv"
    labels.write_text("slide,patient,kind\n" + "".join(f"s{n},p{n},{'ab'[n % 2]}\n" for n in range(SLIDES)))

    for folder, side in (("5x_224px_0px_overlap", 896), ("10x_224px_0px_overlap", 448)):
        (out / "job" / folder / "features_toy").mkdir(parents=True)
        n = 896 // side
        xy = [(1792 + side * x, 896 + side * y) for y in range(n) for x in range(n)]
        with h5py.File(out / "job" / folder / "features_toy" / "s0.h5", "w") as file:
            file["features"] = np.random.default_rng(side).standard_normal((len(xy), 3)).astype(np.float32)
            file["coords"] = np.array(xy)
            file["coords"].attrs.update(
                {
                    "patch_size": 224,
                    "patch_size_level0": side,
                    "name": "s0",
                    "target_magnification": 10 if side == 448 else 5,
                }
            )
    index_features([out / "job"], out / "indexed", slide_mpp=0.5)

    how = PretrainSettings(
        size="T",
        steps=6,
        batch=4,
        device="cpu",
        precision="float32",
        checkpoint_every=3,
        holdout=0.2,
        monitor_every=3,
        monitor_regions=8,
        log_every=1,
    )
    try:

        def stop(event: object) -> None:
            if getattr(event, "values", {}).get("step", 0) >= 4:
                raise StoppedError

        pretrain(tiles, out / "halfway", how, on_event=stop)
    except StoppedError:
        pass
    pretrain(tiles, out / "model", how)
    represent(tiles, out / "model", out / "regions", RepresentSettings(readouts=("cls",), device="cpu"))
    quick = ProbeSettings(components=(2,), inner_folds=2, attention_steps=4, growth=1, mlp_steps=4)
    for arm in ("concat", "1/mlp"):
        head = out / f"head-{arm.split('/')[-1]}"
        fit([tiles], labels, "kind", arm, head, FitSettings(folds=2, repeats=1, probes=quick))
        predict([path], head, out / f"{head.name}.csv")
    golden = {
        "s0": {f"{m:g}": tiles.read("s0").features[m].astype(float).tolist() for m in DIMS},
        "indexed": {f"{m:g}": one.tolist() for m, one in open_set(out / "indexed").read("s0").features.items()},
        "regions": open_set(out / "regions").read_regions("s0").features.astype(float).tolist(),
    }
    (out / "golden.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
