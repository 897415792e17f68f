"""Fine tiles that were not read, at sequenced spots: `python benchmarks/her2st_decoded.py FOLDER -o OUT`.

OUT is that of `benchmarks/her2st.py` and `benchmarks/her2st_mem.py`, which are run before: for every section there is a
region model that was pretrained on the regions of the others, without a target, and one with random weights. At test
time tiles of 2.76 um per pixel are read alone, on the labelled sections too, and the model's predictions of the .69
tiles are compared with the tiles that were read, by the number of labelled sections: the mean over all choices of them.
The tiles of .69 themselves stand beside, as what is predicted. What is done is kept by the commands: the same call goes
on where it was stopped.
"""

import argparse
import csv
from itertools import combinations
from pathlib import Path

import anndata
import numpy as np
from her2st import MPPS, find_sections, parfocal

READOUTS = ("decoded", "decoded-middle", "tokens")
MODELS = ("mem", "random")
MODEL_ARMS = tuple(f"{model}/{readout}/from-{MPPS[0]}" for model in MODELS for readout in READOUTS)


def write_subset(spots: Path, sections: tuple[str, ...], path: Path) -> None:
    """The places of some sections."""
    data = anndata.read_h5ad(spots)
    data[np.isin(data.obs["slide"], sections)].copy().write_h5ad(path)


def main() -> None:
    """Represent and evaluate for every section, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder that her2st.py wrote")
    parser.add_argument("--name", default="region-encoders", help="the folder in OUT with the models")
    parser.add_argument("--hold-out", nargs="+", help="sections to score; all by default")
    options = parser.parse_args()
    sections, store, coarse = find_sections(options.folder), options.output / "store", MPPS[0]
    r: dict[tuple[int, str], list[float]] = {}
    for held_out in options.hold_out or sections:
        folder = options.output / options.name / held_out / "coarse"
        words = ("--readouts", *READOUTS, "--read-mpps", coarse)
        for model in MODELS:
            parfocal("represent", store, "--model", folder.parent / model, "-o", folder / "read", *words)
        others = [section for section in sections if section != held_out]
        for n in range(1, len(sections)):
            for labelled in combinations(others, n):
                out = folder / "-".join(labelled)
                if not (out / "results.json").is_file():
                    out.mkdir(parents=True, exist_ok=True)
                    write_subset(options.output / "spots.h5ad", (*labelled, held_out), out / "spots.h5ad")
                    question = ("--places", out / "spots.h5ad", "--target", "all", "--most-variable", 50)
                    arms = ("--arms", coarse, *MODEL_ARMS)
                    parfocal("evaluate", store, folder / "read", *question, "--hold-out", held_out, *arms, "-o", out)
                with (out / "summary.csv").open() as file:
                    for row in csv.DictReader(file):
                        r.setdefault((n, row["id"]), []).append(float(row["value"]))
    counts = range(1, len(sections))
    print("| read | " + " | ".join(f"{n} labelled" for n in counts) + " |\n" + "|---" * len(sections) + "|")
    for arm in (coarse, *MODEL_ARMS, MPPS[-1]):
        found = [r[n, arm] for n in counts]
        print(f"| {arm} | " + " | ".join(f"{np.mean(values):.3f}" for values in found) + " |")


if __name__ == "__main__":
    main()
