"""Slides in a bucket, as moto plays S3: listed by prefix, read by ranges, refused in one line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.addresses import shown_path
from parfocal.errors import ConfigError, ParfocalWarning, UnreadableSlideError
from parfocal.slides import find_slides, open_slide, remote_state

from .bucket import serving_bucket

pytest.importorskip("zarr", reason="OME-Zarr needs zarr (the extra `zarr`)")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with serving_bucket("scans") as files:
        yield files


@pytest.mark.filterwarnings("ignore")  # of botocore and moto
def test_a_prefix_is_listed_and_its_slides_are_those_of_the_disk(
    bucket: Any, write_tiff: Callable[..., Path], pixels: np.ndarray
) -> None:
    path = write_tiff(pixels, levels=2)
    for name in ("cohort/b/two.tif", "cohort/one.svs", "cohort/notes.txt", "cohort/.hidden.svs", "cohorts/other.svs"):
        bucket.put_file(str(path), f"scans/{name}")

    with pytest.warns(ParfocalWarning, match=r"s3://scans/cohort: 2 objects of other kinds passed over"):
        found = find_slides(["s3://scans/cohort"])

    assert [(one.slide, shown_path(one.path)) for one in found] == [
        ("b/two", "s3://scans/cohort/b/two.tif"),
        ("one", "s3://scans/cohort/one.svs"),
    ]
    for one in found:
        with open_slide(one.path) as slide:
            assert np.array_equal(slide.read_level(0, 0, 0, 331, 203), pixels)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_in_a_bucket_is_one_line(bucket: Any) -> None:
    with pytest.raises(UnreadableSlideError, match=r"^cannot read s3://scans/absent.svs: there is no such file\.$"):
        open_slide("s3://scans/absent.svs")
    with pytest.raises(UnreadableSlideError, match=r"cannot read s3://nowhere/absent.svs: there is no such file"):
        open_slide("s3://nowhere/absent.svs")
    with pytest.raises(ConfigError, match=r"s3://scans/empty holds no slide: none of 0 objects"):
        find_slides(["s3://scans/empty"])


@pytest.mark.filterwarnings("ignore")
def test_an_object_that_was_changed_is_noticed_while_it_is_read_and_after(
    bucket: Any, write_tiff: Callable[..., Path]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (603, 931, 3), np.uint8)
    bucket.put_file(str(write_tiff(noise)), "scans/changing.tif")
    before = remote_state("s3://scans/changing.tif")
    with open_slide("s3://scans/changing.tif") as slide:
        bucket.put_file(str(write_tiff(noise[::-1])), "scans/changing.tif")

        with pytest.raises(UnreadableSlideError, match=r"the file changed while it was read"):
            slide.read_level(0, 0, 0, 931, 603)
    after = remote_state("s3://scans/changing.tif")
    assert before.n_bytes == after.n_bytes
    assert before.tag != after.tag


@pytest.mark.filterwarnings("ignore")
def test_ome_zarr_is_read_from_a_bucket_and_known_by_all_its_objects(
    bucket: Any, pixels: np.ndarray, tmp_path: Path
) -> None:
    import zarr

    root = zarr.open_group(tmp_path / "scan.zarr", mode="w")
    root.create_array("0", shape=pixels.shape, chunks=(64, 96, 3), dtype="uint8")[:] = pixels + 1
    axes = [{"name": "y", "type": "space", "unit": "micrometer"}, {"name": "x", "type": "space", "unit": "micrometer"}]
    steps = [{"type": "scale", "scale": [0.5, 0.5, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    image = {"axes": [*axes, {"name": "c", "type": "channel"}], "datasets": datasets}
    root.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    bucket.put(str(tmp_path / "scan.zarr"), "scans/zarrs/scan.zarr", recursive=True)

    (found,) = find_slides(["s3://scans/zarrs"])
    assert (found.slide, shown_path(found.path)) == ("scan", "s3://scans/zarrs/scan.zarr")
    with open_slide(found.path) as slide:
        assert slide.mpp == 0.5
        assert np.array_equal(slide.read_level(0, 0, 0, 331, 203), pixels + 1)
    before = remote_state("s3://scans/zarrs/scan.zarr")
    bucket.pipe_file("scans/zarrs/scan.zarr/0/c/1/1/0", b"another chunk")
    assert remote_state("s3://scans/zarrs/scan.zarr").tag != before.tag
    with pytest.raises(UnreadableSlideError, match=r"s3://scans/zarrs/none\.zarr"):
        open_slide("s3://scans/zarrs/none.zarr")
    with pytest.raises(UnreadableSlideError, match="a web server does not list them"):
        open_slide("https://host/scan.zarr")
