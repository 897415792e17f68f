"""The command `view` as a process of its own, asked over a socket as a browser and as an attacker would."""

import json
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from parfocal.cli import main
from parfocal.errors import ConfigError
from parfocal.view import open_viewer, view_store

from ..run import fresh
from .stores import empty_set, tokens, write_store

PLACES = [(0.0, 0.0), (56.0, 0.0)]


class Served:
    """A running viewer, and its address in parts."""

    def __init__(self, store: Path) -> None:
        call = [sys.executable, "-m", "parfocal", "view", str(store), "--no-browser"]
        self.process = fresh.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        host, self.token = self.address.removeprefix("http://").strip("/").split("/")
        self.host, self.port = host.split(":")[0], int(host.split(":")[1])

    def ask(self, request: str) -> tuple[int, bytes]:
        """What is answered to the very bytes of a request."""
        with socket.create_connection((self.host, self.port), timeout=20) as connection:
            connection.sendall(request.replace("\n", "\r\n").encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    store = tmp_path_factory.mktemp("served") / "store"
    write_store(store, [tokens("s", PLACES)], {})
    one = Served(store)
    yield one
    one.process.kill()
    one.process.communicate()


def test_the_address_is_of_this_machine_and_cannot_be_guessed(served: Served) -> None:
    assert served.host == "127.0.0.1"
    assert len(served.token) >= 20
    status, body = served.ask(f"GET /{served.token}/api/store HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n\n")

    assert status == 200
    assert json.loads(body)["n_slides"] == 1


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("HEAD /TOKEN/api/store", "Host: localhost:8000", 200),
        ("GET /TOKEN/page/%2e%2e%2fapp.py", "Host: localhost", 404),
        ("GET /TOKEN/page/%2e%2e/%2e%2e/serve.py", "Host: localhost", 404),
        ("GET /TOKEN/%2e%2e/%2e%2e/etc/passwd", "Host: localhost", 404),
        ("GET /TOKEN/page/%252e%252e%252fapp.py", "Host: localhost", 404),
        ("GET /TOKEN%2fapi/store", "Host: localhost", 200),  # the same address, written otherwise
        ("GET http://evil.example/TOKEN/api/store", "Host: evil.example", 421),
        ("GET /TOKEN/api/store", "Host: localhost\nHost: evil.example", 400),
        ("GET /TOKEN/api/store", "Host: rebound.evil.example", 421),
        ("GET /api/store", "Host: localhost", 404),
        ("POST /TOKEN/api/store", "Host: localhost\nContent-Length: 0", 405),
        ("GET /TOKEN/slides/0/crop.jpg?x_um=0&y_um=0&side_um=9&path=/etc/passwd", "Host: localhost", 422),
    ],
)
def test_what_a_browser_would_not_send_is_refused(served: Served, request_line: str, headers: str, status: int) -> None:
    line = request_line.replace("TOKEN", served.token)
    found, body = served.ask(f"{line} HTTP/1.1\n{headers}\nConnection: close\n\n")

    assert found == status
    assert b"root:" not in body
    assert b"import " not in body
    if request_line.startswith("HEAD"):
        assert body == b""


def test_ctrl_c_ends_it_in_one_line(served: Served) -> None:
    served.process.send_signal(signal.SIGINT)
    _, said = served.process.communicate(timeout=30)

    assert served.process.returncode == 130
    assert said == "parfocal view: stopped.\n"


def test_a_taken_port_is_refused_with_a_line(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [tokens("s", PLACES)], {})
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as taken:
            view_store(tmp_path / "store", port=port, browser=False, on_address=print)
    with pytest.raises(ConfigError, match=r"port 99999: ports are 0 to 65535\. Name another"):
        view_store(tmp_path / "store", port=99999, browser=False, on_address=print)

    assert str(taken.value) == f"cannot use port {port}: another program uses it. Name another, or 0 for a free one."


def test_a_head_that_is_not_there_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [tokens("s", PLACES)], {})
    code = (
        "import sys\nfrom parfocal.cli import main\n"
        f"assert main(['view', {str(tmp_path / 'store')!r}, '--head', {str(tmp_path / 'nope')!r}]) == 1\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "nope: it is no folder. Name a folder that `fit` has written." in done.stderr


def test_a_store_of_several_sets_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiles = write_store(tmp_path / "store", [tokens("s", PLACES)], {})
    (empty_set(tmp_path / "store", "other-2") / "index").mkdir(exist_ok=True)
    for folder in ("index", "2", "0.5"):
        target = tmp_path / "store" / "other-2" / folder
        target.mkdir(exist_ok=True)
        (target / "s.h5").write_bytes((tiles.path / folder / "s.h5").read_bytes())

    with open_viewer(tmp_path / "store", set_name="other") as viewer:
        assert viewer.store()["set"] == "other-2"
    for name, why in ((None, "holds 2 sets. Name one with --set"), ("third", "holds 0 sets whose name begins with")):
        with pytest.raises(ConfigError, match=why), open_viewer(tmp_path / "store", set_name=name):
            pass
    assert main(["view", str(tmp_path / "none"), "--no-browser"]) == 1
    assert "holds no embeddings" in capsys.readouterr().err


def test_the_demo_ends_with_the_command_that_shows_its_slides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my demo"  # a name that a shell would take for two
    result = SimpleNamespace(
        report=out / "report.html",
        tiles=SimpleNamespace(path=out / "store" / "set-1"),
        head=out / "head",
        seconds={"fit a head": 1.5},
        evaluation=SimpleNamespace(exit_status=0, answer="Mixing magnifications is better."),
    )
    monkeypatch.setattr("parfocal.cli.cohorts.run_demo", lambda *given, **how: result)

    assert main(["demo", "-o", str(out)]) == 0
    last = capsys.readouterr().err.splitlines()[-1]

    assert shlex.split(last.removeprefix("look at its slides: ")) == [
        "parfocal", "view", str(out / "store"), "--head", str(out / "head"),
    ]  # fmt: skip
