"""The server of `zygote.py`: a script that imports the libraries, and forks what it is asked for."""

import atexit
import contextlib
import gc
import importlib
import os
import pickle
import resource
import runpy
import signal
import socket
import sys
import time
import warnings
import weakref
from collections.abc import Sequence
from types import ModuleType

from zygote import MOST_DESCRIPTORS, NUMBER, SPAWNED, Request, Zygote, parts_of, python_path, receive

# What processes of the tests import, and what takes time; scikit-learn would load pandas, and that begins a thread.
_LIBRARIES = (
    "numpy", "cv2", "h5py", "imagecodecs", "openslide", "PIL.Image", "simplejpeg", "tifffile", "scipy.ndimage",
    "scipy.spatial", "scipy.stats", "jaxtyping", "pydantic", "rich.progress", "ruamel.yaml", "tyro", "jinja2",
    "safetensors.torch", "torch", "torch._dynamo", "lightning_fabric", "starlette", "uvicorn", "pytest",
    "hypothesis", "pydantic.main", "pydantic.json_schema", "pydantic.plugin._schema_validator", "threadpoolctl",
    "tyro._backends._tyro_backend", "tyro.constructors._struct_spec_pydantic", "typeguard", "xml.etree.ElementTree",
    "PIL.ImageDraw", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "imagecodecs._png", "tomllib", "safetensors.numpy",
    "multiprocessing.popen_spawn_posix",
)  # fmt: skip


def _serve(pipe: socket.socket) -> Request:
    """Fork what is asked for until the other side ends, and with it this process; it returns in each that is forked."""
    while True:
        try:
            size, descriptors, _, _ = socket.recv_fds(pipe, NUMBER.size, MOST_DESCRIPTORS)
            if not size:
                os._exit(0)
            request = Request(**pickle.loads(receive(pipe, *NUMBER.unpack(size))))
            number = _fork_away()
            if number is None:
                pipe.detach()
                _place(descriptors, request.descriptors)
                return request
            for one in descriptors:
                os.close(one)
            pipe.sendall(NUMBER.pack(number))
        except OSError:
            os._exit(1)


def _fork_away() -> int | None:
    """Fork a process that is no child of this one: its number here, None there."""
    reading, writing = os.pipe()
    between = os.fork()
    if between:
        (number,) = NUMBER.unpack(os.read(reading, NUMBER.size))
        os.close(reading)
        os.close(writing)
        os.waitpid(between, 0)  # the one that it has forked has its new parent by then
        return int(number)
    own = os.getpid()
    number = os.fork()
    if number:
        os.write(writing, NUMBER.pack(number))
        os._exit(0)
    while os.getppid() == own:
        time.sleep(0.0002)
    return None


def _place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give descriptors their numbers, and close all that are not among these."""
    free = max(2, *descriptors, *numbers) + 1
    for place, one in enumerate(descriptors):
        os.dup2(one, free + place, inheritable=False)
    for place, number in enumerate(numbers):
        os.dup2(free + place, number)
    begin = 0
    for number in (*sorted(numbers), free + len(numbers)):
        if begin < number:  # an empty range would be all
            os.closerange(begin, number)
        begin = number + 1


def _fork_own_server(variables: dict[str, str]) -> Request | None:
    """Fork a server for this process: None here, and in what it forks in turn, what that is to become."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        Zygote(variables, ours).serve_all()
        return None
    nothing = os.open(os.devnull, os.O_RDWR)
    ours.detach()
    _place([nothing, nothing, nothing, theirs.detach()], [0, 1, 2, 3])
    return _serve(socket.socket(fileno=3))


def _become(request: Request, libraries: Sequence[str], variables: dict[str, str]) -> None:
    """Do in this process what a new interpreter would."""
    from multiprocessing import process

    if request.leads_session:
        os.setsid()
    inner = None if SPAWNED in request.command else _fork_own_server(variables)
    if inner is not None:
        return _become(inner, libraries, variables)
    os.chdir(request.folder)
    os.umask(request.umask)
    for kind, limits in request.limits.items():
        if resource.getrlimit(kind) != limits:
            resource.setrlimit(kind, limits)
    os.sched_setaffinity(0, request.cores)
    os.environ.clear()
    os.environ.update(request.variables)
    time.tzset()
    sys.modules["numpy"].random.seed()  # another one in each, as elsewhere
    gc.enable()
    for one in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(one, signal.SIG_IGN if one in request.ignored else signal.SIG_DFL)
    # As Python does at its start.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if signal.SIGINT not in request.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    parts = parts_of(request.command)
    assert parts is not None
    options, kind, (what, *arguments) = parts
    for action in {"error", "ignore"} & set(options):
        warnings.simplefilter(action)
    sys.dont_write_bytecode = "-B" in options
    if "-u" in options:
        sys.stdout.reconfigure(write_through=True)
    sys.orig_argv = list(request.command)
    sys.argv = [kind or what, *arguments]
    first = {"-c": "", "-m": os.getcwd()}.get(kind, os.path.dirname(os.path.realpath(what)))
    sys.path[:] = [first, *dict.fromkeys([*python_path(request.variables), *libraries])]
    importlib.invalidate_caches()
    del sys.modules["zygote"]
    main = ModuleType("__main__")
    vars(main)["__builtins__"] = __builtins__
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    process.ORIGINAL_DIR = request.folder
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    try:
        if kind == "-m":
            runpy._run_module_as_main(what)
        elif kind == "-c":
            exec(compile(what, "<string>", "exec"), vars(main))
        else:
            vars(main)["__file__"] = what = os.path.abspath(what)
            with open(what, "rb") as file:
                code = compile(file.read(), what, "exec")
            exec(code, vars(main))
        _status.append(0)
    except SystemExit as end:
        _status.append(0 if end.code is None else end.code if isinstance(end.code, int) else 1)
        raise
    except Exception:
        _status.append(1)
        raise


_status: list[int] = []
"""The status that this process will end with, once it is known."""


def _end() -> None:
    """End at the last moment of Python, before it frees all that the libraries have made, which takes half a second."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
        if _status:
            os._exit(_status[0] & 0xFF)


def _main(descriptor: int) -> None:
    atexit.register(_end)  # before all others, so it is the last that runs
    variables = dict(os.environ)
    libraries = sys.path[1 + len(python_path(variables)) :]  # the first is the folder of this file
    # What a signal to the whole group does is done to what was forked; this ends with the other side.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    gc.disable()
    for library in _LIBRARIES:
        importlib.import_module(library)
    sys.modules["pydantic"].create_model("First")  # it looks through all installed packages for plugins, once
    for one in list(weakref.finalize._registry):
        one.atexit = False  # libraries would take down at the end, piece by piece, what the end takes down
    if len(os.listdir("/proc/self/task")) > 1:
        sys.exit("a library has begun a thread, which a fork would lose")
    gc.collect()
    gc.freeze()
    _become(_serve(socket.socket(fileno=descriptor)), libraries, variables)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
