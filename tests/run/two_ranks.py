"""Two processes that train one model, as torchrun starts them; what they import is imported once, before they part."""

import os
import socket
import sys

from . import fresh

_PART = """
import os, sys, torch
import torch._dynamo  # which an optimiser imports
torch.set_num_threads(1)
{imports}
other = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
{code}
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def run_two_ranks(imports: str, code: str, *arguments: object) -> str:
    """Do the same in two processes, told apart by the variables of torchrun, and return what both wrote to stdout.

    Args:
        imports: lines of imports.
        code: lines that are done in each process; they find `arguments` in `sys.argv`.
        arguments: as texts.

    Raises:
        AssertionError: one of them failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torchrun = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    script = _PART.format(imports=imports, code=code)
    call = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = fresh.run(call, env=os.environ | torchrun, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout
