"""Features that TRIDENT has written at several magnifications become regions by an index; nothing is copied.

    python examples/features_of_trident.py out

Here two magnifications of a store stand in for a TRIDENT job: their files have TRIDENT's layout.
"""

import sys
from pathlib import Path

from embed_and_read import main as embed

from parfocal import index_features


def main(out: Path) -> None:
    """Index two folders of feature files, and say how well their tiles lie on each other."""
    embed(out)
    (made,) = (path for path in (out / "store").iterdir() if path.is_dir() and path.name.startswith("filterbank"))

    indexed = index_features([made / "1", made / "0.5"], out / "indexed", slide_mpp=0.5)
    for slide in indexed.slides:
        print(f"{slide.slide}: {slide.n_regions} regions, tiles {slide.largest_misalignment_um:g} um beside each other")
    print(f"a set like any other: {indexed.embeddings.mpps} um per pixel")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
