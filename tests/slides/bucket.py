"""A bucket to test with, as moto plays S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def serving_bucket(name: str) -> Iterator[Any]:
    """An empty bucket; what asks for it finds the server by the variables of its own library.

    Skips the test where s3fs or moto is not installed.
    """
    s3fs = pytest.importorskip("s3fs", reason="reading from S3 needs s3fs (the extra `cloud`)")
    reason = "a bucket to test with needs moto: pip install 'moto[s3,server]'"
    moto = pytest.importorskip("moto.server", reason=reason)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(variable, value)
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        files.mkdir(name)
        yield files
        _close_what_zarr_left_open()
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def _close_what_zarr_left_open() -> None:
    """zarr has a client of its own for each bucket, which lives as long as the process."""
    import s3fs

    left = [files for files in s3fs.S3FileSystem._cache.values() if files.asynchronous and files._s3 is not None]
    if left:
        from zarr.core.sync import sync

        for files in left:
            sync(files._s3creator.__aexit__(None, None, None))
