"""Gene expression at sequenced spots from three magnifications: `python benchmarks/her2st.py FOLDER -o OUT`.

FOLDER holds for every section `NAME.jpg`, `NAME-spots.tsv` (x, y, pixel_x, pixel_y, selected) and `NAME-counts.tsv.gz`
(one row a spot, one column a gene), as in the repository almaan/her2st. Counts are normalised to 10,000 a spot and
log(1 + x) is taken; spots and genes become one AnnData file; the product's own commands embed regions on every spot and
compare all arms, leaving one section out, on the 50 genes that vary most at the training spots of each fold.
"""

import argparse
import csv
import gzip
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np

MPPS = ("2.76", "1.38", "0.69")
REGION_UM = 4 * 224 * 0.69


def read_spots(folder: Path, name: str) -> dict[str, tuple[float, float]]:
    """The places (pixels) of the spots that were selected, by their ids."""
    with (folder / f"{name}-spots.tsv").open() as file:
        return {
            f"{row['x']}x{row['y']}": (float(row["pixel_x"]), float(row["pixel_y"]))
            for row in csv.DictReader(file, delimiter="\t")
            if row["selected"] == "1"
        }


def read_section(folder: Path, name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Genes, places (pixels) and normalised logarithms of the spots that were selected and sequenced."""
    spots = read_spots(folder, name)
    with gzip.open(folder / f"{name}-counts.tsv.gz", "rt") as file:
        genes = file.readline().rstrip("\n").split("\t")[1:]
        rows = [line.rstrip("\n").split("\t") for line in file]
    rows = [row for row in rows if row[0] in spots]
    counts = np.array([[float(cell) for cell in row[1:]] for row in rows])
    counts *= 10_000 / counts.sum(axis=1, keepdims=True)
    xy = np.array([spots[row[0]] for row in rows])
    return genes, xy, np.log1p(counts)


def write_places(folder: Path, sections: list[str], path: Path) -> None:
    """All sections in one AnnData file, with the genes that every section has."""
    read = {name: read_section(folder, name) for name in sections}
    shared = sorted(set.intersection(*(set(genes) for genes, _, _ in read.values())))
    blocks, places, slides = [], [], []
    for name, (genes, xy, values) in read.items():
        column = {gene: number for number, gene in enumerate(genes)}
        blocks.append(values[:, [column[gene] for gene in shared]])
        places.append(xy)
        slides += [name] * len(xy)
    data = anndata.AnnData(np.concatenate(blocks).astype(np.float32))
    data.obs_names = [f"{slide}-{number}" for number, slide in enumerate(slides)]
    data.var_names = shared
    data.obs["slide"] = slides
    data.obsm["spatial"] = np.concatenate(places)
    data.write_h5ad(path)


def find_sections(folder: Path) -> list[str]:
    """The names of the sections."""
    return sorted(path.name.removesuffix("-counts.tsv.gz") for path in folder.glob("*-counts.tsv.gz"))


def parfocal(*words: object) -> None:
    """Run a command of the product."""
    print("$ parfocal", *words, flush=True)
    subprocess.run([sys.executable, "-m", "parfocal", *map(str, words)], check=True)


def embed(folder: Path, store: Path, places: Path, encoder: str, *, min_tissue: str = "0") -> None:
    """Embed a region on every place of every section."""
    slides = [folder / f"{name}.jpg" for name in find_sections(folder)]
    grid = ["--mpps", *MPPS, "--region-um", f"{REGION_UM:g}", "--slide-mpp", "0.69", "--min-tissue", min_tissue]
    parfocal("embed", *slides, "-o", store, "--encoder", encoder, *grid, "--places", places)


def main() -> None:
    """Embed, evaluate, print where the tables are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--genes", default="50", help="how many genes, those that vary most at the training spots")
    parser.add_argument("--min-tissue", default="0", help="0 keeps every tile around a spot, glass too")
    parser.add_argument("regions", nargs="*", help="sets of region embeddings to compare as well")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    places, store = options.output / "spots.h5ad", options.output / "store"
    if not places.exists():
        write_places(options.folder, find_sections(options.folder), places)
    embed(options.folder, store, places, options.encoder, min_tissue=options.min_tissue)
    question = ["--places", places, "--target", "all", "--most-variable", options.genes]
    parfocal("evaluate", store, *options.regions, *question, "-o", options.output / "report")


if __name__ == "__main__":
    main()
