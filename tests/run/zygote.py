"""Fresh processes of Python at once: a server that has imported the libraries, and nothing of parfocal, forks them.

A start costs .3 to 5 s of imports, nearly all of them of libraries. What comes from the server is what a new
interpreter would be: it has the command line, variables, folder, descriptors, signals and limits of its caller, no
module of parfocal or of the tests, and nothing that a test has replaced; and it is a child of its caller, which waits
for it and kills it. Where this cannot be, the caller starts an interpreter.
"""

import ctypes
import inspect
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Variables that libraries or Python read once, as they begin: with another value, an interpreter is started.
_READ_ONCE = ("PYTHON", "OMP_", "OPENBLAS_", "MKL_", "HDF5_", "LD_PRELOAD", "LC_", "LANG", "TORCH_", "CUDA_", "MALLOC_")
_READ_LATER = ("PYTHONPATH", "TORCH_NCCL_")
_OF_EXECUTE_CHILD = inspect.signature(subprocess.Popen._execute_child)
_SERVER = Path(__file__).with_name("zygote_server.py")
_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
NUMBER = struct.Struct("=q")
MOST_DESCRIPTORS = 250
_PR_SET_CHILD_SUBREAPER = 36
# What multiprocessing writes into the command line of each process that it spawns.
SPAWNED = "--multiprocessing-fork"


@dataclass(frozen=True)
class Request:
    """A process that is asked for.

    Attributes:
        command: the command line of the interpreter.
        variables: its environment.
        folder: where it works.
        descriptors: the numbers that the descriptors get there which come with this.
        leads_session: whether it has a session of its own.
        ignored: the signals that it ignores.
        blocked: the signals that wait.
        umask: the rights that its files do not have.
        limits: of its resources, soft and hard.
        cores: those that it may use.
    """

    command: tuple[str, ...]
    variables: dict[str, str]
    folder: str
    descriptors: tuple[int, ...]
    leads_session: bool
    ignored: frozenset[int]
    blocked: frozenset[int]
    umask: int
    limits: dict[int, tuple[int, int]]
    cores: frozenset[int]


@dataclass
class Zygote:
    """The server of this process, which is started when it is first asked.

    Attributes:
        variables: the environment that the libraries are imported in.
        pipe: the way to the server.
        program: the server; None before its start, and where it was forked.
        owner: the process that its processes are children of.
    """

    variables: dict[str, str]
    pipe: socket.socket | None = None
    program: subprocess.Popen | None = None
    owner: int = field(default_factory=os.getpid)
    _lock: Any = field(default_factory=threading.Lock)

    def fork(
        self,
        command: Sequence[str],
        descriptors: Mapping[int, int],
        *,
        variables: Mapping[str, str] | None = None,
        folder: str | None = None,
        leads_session: bool = False,
    ) -> int | None:
        """Start a process that does what the command line says; its number, or None where it cannot be done here.

        Args:
            command: of this interpreter.
            descriptors: those of this process, by the numbers that they have there.
            variables: its environment; that of this process where None.
            folder: where it works; where this process does where None.
            leads_session: whether it has a session of its own.
        """
        variables = dict(os.environ if variables is None else variables)
        if (
            sys.platform != "linux"
            or os.getpid() != self.owner
            or parts_of(command) is None
            or len(descriptors) > MOST_DESCRIPTORS
            or _read_once(variables) != _read_once(self.variables)
            or _customize(variables) != _customize(self.variables)
        ):
            return None
        request = Request(
            command=tuple(map(os.fsdecode, command)),
            variables=variables,
            folder=os.getcwd() if folder is None else os.path.abspath(folder),
            descriptors=tuple(descriptors),
            leads_session=leads_session,
            ignored=frozenset(one for one in signal.valid_signals() if signal.getsignal(one) is signal.SIG_IGN),
            blocked=frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            umask=_umask(),
            limits={kind: resource.getrlimit(kind) for kind in _LIMITS},
            cores=frozenset(os.sched_getaffinity(0)),
        )
        with self._lock:
            return self._ask(request, list(descriptors.values()))

    def serve_spawn(self) -> None:
        """From here on what multiprocessing spawns in this process is forked there, where that can be."""
        from multiprocessing import util

        interpreter = util.spawnv_passfds

        def spawn(path: bytes | str, command: list[str], passed: Sequence[int]) -> int:
            number = None
            if os.fsdecode(path) == sys.executable and SPAWNED in command:
                number = self.fork(command, {one: one for one in (0, 1, 2, *passed)})
            return interpreter(path, command, passed) if number is None else number

        util.spawnv_passfds = spawn

    def start(self, popen: subprocess.Popen, *given: Any) -> bool:
        """Start what a `subprocess.Popen` is to be, given what its `_execute_child` is; whether this was done."""
        how = _OF_EXECUTE_CHILD.bind(popen, *given).arguments
        plain = {"executable": None, "preexec_fn": None, "shell": False, "close_fds": True, "pass_fds": (), "umask": -1}
        plain |= {"uid": None, "gid": None, "gids": None, "process_group": -1}
        command = how["args"]
        if not isinstance(command, list | tuple) or any(how[name] != value for name, value in plain.items()):
            return False
        command = [os.fspath(part) for part in command]
        if command[0] != sys.executable:
            return False
        streams = {0: how["p2cread"], 1: how["c2pwrite"], 2: how["errwrite"]}
        number = self.fork(
            command,
            {stream: stream if given == -1 else given for stream, given in streams.items()},
            variables=how["env"],
            folder=how["cwd"],
            leads_session=how["start_new_session"],
        )
        if number is None:
            return False
        popen.pid, popen._child_created = number, True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        popen._close_pipe_fds(*(how[name] for name in ends))
        return True

    def serve_all(self) -> None:
        """From here on every process of Python that this process starts is forked there, where that can be."""
        self.serve_spawn()
        interpreter = subprocess.Popen._execute_child

        def execute(popen: subprocess.Popen, *given: Any) -> None:
            if not self.start(popen, *given):
                interpreter(popen, *given)

        subprocess.Popen._execute_child = execute

    def end(self) -> None:
        """End the server, and wait for that."""
        if self.pipe is not None and os.getpid() == self.owner:
            self.pipe.close()
            if self.program is not None:
                self.program.wait()

    def _ask(self, request: Request, descriptors: list[int]) -> int | None:
        if self.pipe is None:
            self.pipe, theirs = socket.socketpair()
            with theirs:
                call = [sys.executable, str(_SERVER), str(theirs.fileno())]
                self.program = subprocess.Popen(
                    call, env=self.variables, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2
                )
        control = ctypes.CDLL(None).prctl
        # Who loses its parent becomes a child of this process. Only now: other orphans have others to wait for them.
        if control(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            return None
        try:
            text = pickle.dumps(vars(request))
            socket.send_fds(self.pipe, [NUMBER.pack(len(text))], descriptors)
            self.pipe.sendall(text)
            return _receive_number(self.pipe)
        except OSError:  # the server has ended, or a descriptor is closed
            return None
        finally:
            control(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def parts_of(command: Sequence[str]) -> tuple[list[str], str, list[str]] | None:
    """A command line as options, the kind of what is run, and that with its arguments; None for one that is not known.

    The kind is `-c` (code), `-m` (a module) or empty (a file).
    """
    rest = list(command[1:])
    options: list[str] = []
    while rest and rest[0] in {"-B", "-u", "-W"}:
        options.append(rest.pop(0))
        if options[-1] == "-W":
            options.append(rest.pop(0) if rest and rest[0] in {"error", "ignore"} else "")
    if len(rest) > 1 and rest[0] in {"-c", "-m"} and "" not in options:
        return options, rest[0], rest[1:]
    return (options, "", rest) if rest and rest[0].endswith(".py") and "" not in options else None


def _read_once(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(_READ_ONCE) and not name.startswith(_READ_LATER)
    }


def python_path(variables: Mapping[str, str]) -> list[str]:
    """Where modules are looked for before all other places."""
    said = variables.get("PYTHONPATH")
    return list(dict.fromkeys(map(os.path.abspath, said.split(os.pathsep)))) if said else []


def _customize(variables: Mapping[str, str]) -> set[Path]:
    """Modules there that an interpreter would import at its start."""
    return {file for place in python_path(variables) if (file := Path(place, "sitecustomize.py")).exists()}


def _umask() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))


def receive(pipe: socket.socket, size: int) -> bytes:
    """So many bytes.

    Raises:
        ConnectionResetError: the other side has ended.
    """
    received = bytearray()
    while len(received) < size:
        if not (part := pipe.recv(size - len(received))):
            raise ConnectionResetError("the other side has ended")
        received += part
    return bytes(received)


def _receive_number(pipe: socket.socket) -> int:
    return int(NUMBER.unpack(receive(pipe, NUMBER.size))[0])
