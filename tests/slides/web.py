"""A web server with ranges of bytes on this machine, which counts what it is asked for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Web:
    """What the server does, and what it was asked.

    Attributes:
        address: where its files are.
        ranges: start and end of each range that was sent.
        answers: the status that is sent for a name in place of the file.
        with_ranges: False sends the whole file whatever was asked.
        with_tags: False sends no ETag and no time.
        lost: so many of the next requests for bytes are answered 503.
    """

    address: str = ""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    with_ranges: bool = True
    with_tags: bool = True
    lost: int = 0

    @property
    def n_bytes(self) -> int:
        return sum(end - start for start, end in self.ranges)


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    """Serve the files of a folder; the ETag is of size and time, as servers make it."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            status = web.answers.get(path.name, 0) or (200 if path.is_file() else 404)
            if status == 200 and self.command == "GET" and web.lost:
                web.lost -= 1
                status = 503
            if status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            tag = f'"{size:x}-{path.stat().st_mtime_ns:x}"'
            start, end = 0, size
            asked = self.headers.get("Range")
            if self.headers.get("If-Match", tag) != tag:
                status = 412
            elif asked and web.with_ranges:
                first, last = asked.removeprefix("bytes=").split("-")
                start, end, status = int(first), min(int(last) + 1, size), 206
            self.send_response(status)
            self.send_header("Content-Length", str(end - start if status != 412 else 0))
            if web.with_tags:
                self.send_header("ETag", tag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            if self.command == "GET" and status != 412:
                with path.open("rb") as file:
                    file.seek(start)
                    data = file.read(end - start)
                # Before it is sent: who has asked may look at once.
                web.ranges.append((start, end))
                try:
                    self.wfile.write(data)
                except OSError:  # who asked has left
                    web.ranges.remove((start, end))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
