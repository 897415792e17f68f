"""The arms table on 60 labelled fields of four patients, and what four patients can show.

    python benchmarks/osteosarcoma.py FOLDER out [--encoder efficientnet-lite0] [--steps 200]

FOLDER holds `images/` and `labels.csv` (file, label, slide, case) of the osteosarcoma data of UT Southwestern and UT
Dallas (The Cancer Imaging Archive, CC BY 3.0): fields of 1,024 x 1,024 pixels at 10x. They are read at 4, 2 and 1 um
per pixel as one region of 896 um each (1 + 4 + 16 tiles), embedded, and a small region encoder is pretrained on them.
Every arm is tested leaving one case out, tumour against no tumour. (The three classes cannot be: non-viable tumour
comes from two cases.)
"""

import argparse
import csv
import sys
from pathlib import Path

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cohort import CohortColumns, Target
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.store import open_set

GRID = GridConfig(
    region_um=896, mpps=(4.0, 2.0, 1.0), min_tissue=0.2
)  # the margin of 128 um around the region is no region of its own
MPP = 1.0  # 10x; the files do not carry it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader((arguments.folder / "labels.csv").open(newline="")))
    names = [Path(row["file"]).stem for row in rows]
    _write(
        out / "manifest.csv",
        ("slide", "path", "mpp"),
        [(n, (arguments.folder / "images" / r["file"]).resolve(), MPP) for n, r in zip(names, rows, strict=True)],
    )
    _write(
        out / "labels.csv",
        ("slide", "case", "tumour", "class"),
        [
            (n, r["case"], "no tumour" if r["label"] == "Non-Tumor" else "tumour", r["label"])
            for n, r in zip(names, rows, strict=True)
        ],
    )
    summary = embed_slides(
        [out / "manifest.csv"], out / "store", EmbedSettings(encoder=arguments.encoder, grid=GRID, workers=2)
    )
    if summary.failed:
        print(f"{len(summary.failed)} fields failed; see {summary.log}", file=sys.stderr)
        return 1
    tiles = open_set(summary.set_path)
    pretrain_encoder(
        tiles,
        out / "model",
        PretrainSettings(
            size="T",
            decoder_bias="none",
            bottleneck=0.5,
            steps=arguments.steps,
            batch=32,
            lr=1e-3,
            device="cpu",
            seed=arguments.seed,
        ),
    )
    made = represent_regions(tiles, out / "model", out / "regions", RepresentSettings(readouts=("cls", "tokens")))
    result = evaluate_arms(
        [tiles.path, *(one.path for one in made.sets)],
        out / "labels.csv",
        [Target(name="tumour", positive="tumour")],
        out / "report",
        EvaluateSettings(scheme="leave-one-group-out"),
        columns=CohortColumns(group="case", count="slide"),
    )
    for run in result.targets["tumour"].runs:
        print(f"{run.interval.estimate:.2f} ({run.interval.low:.2f} to {run.interval.high:.2f})  {run.arm.label}")
    return 0


def _write(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


if __name__ == "__main__":
    raise SystemExit(main())
