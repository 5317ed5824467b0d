"""Other processes, each of a hash seed of its own, in which a policy is tried. One is started for each seed when
it is first asked for, which takes two seconds of importing torch, and then makes a copy of itself for every
task, which takes none. It ends with the process that asked.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import attrs

__all__ = ["Done", "in_processes", "serve"]

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from foreseer.testing.elsewhere import serve; serve()"
SECONDS = 300
"""After which a task is ended."""
COPIES = sys.platform == "linux"
"""Whether a process can be copied safely once torch is loaded. Where not, each task has a new process."""


@attrs.frozen
class Done:
    """How a task ended.

    Attributes:
        code: 0 where all went well.
        output: What its function returned; empty unless all went well.
        message: The last line of what was printed as an error.
    """

    code: int
    output: list[str]
    message: str


def in_processes(task: Callable[[dict[str, Any]], list[str]], given: dict[str, Any], seeds: Sequence[int]) -> list[Done]:
    """Carry out a task in one process of each hash seed, side by side, with this process's path, environment
    and folder.

    Args:
        task: A function of an importable module.
        given: What it is called with. Goes through JSON.
        seeds: Hash seeds, 0 to 4294967295.
    """
    path = [entry for entry in sys.path if entry]
    shared = {"path": path, "environment": dict(os.environ), "folder": os.getcwd(), "copy": COPIES}
    asked = {"task": [task.__module__, task.__qualname__], "given": given, **shared}
    with _LOCK:
        if any(server.poll() is not None for _, server in _SERVERS):
            _end_all()
        try:
            servers = [_server(seed, os.getpid()) for seed in seeds]
            for server in servers:
                _send(server, asked)
            done = [_receive(server) for server in servers]
        except BaseException:  # an answer that comes late would be taken for the next one's
            _end_all()
            raise
        if not COPIES:
            _end_all()
    return done


_LOCK = threading.Lock()
_SERVERS: list[tuple[int, subprocess.Popen[str]]] = []


@functools.lru_cache(maxsize=8)
def _server(seed: int, owner: int) -> subprocess.Popen[str]:
    """A process of this hash seed. ``owner`` is this one's number: a copy of it has to start its own."""
    command = [sys.executable, "-c", BOOT, json.dumps([entry for entry in sys.path if entry])]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    _SERVERS.append((owner, server))
    return server


@atexit.register
def _end_all() -> None:
    for owner, server in _SERVERS:
        if owner == os.getpid():
            server.kill()
            server.communicate()
    _SERVERS.clear()
    _server.cache_clear()


def _send(server: subprocess.Popen[str], asked: dict[str, Any]) -> None:
    assert server.stdin is not None
    try:
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
    except BrokenPipeError:
        pass  # told by the missing answer


def _receive(server: subprocess.Popen[str]) -> Done:
    assert server.stdout is not None
    line = server.stdout.readline()
    if line:
        return Done(**json.loads(line))
    return Done(server.wait() or 1, [], "the process in which it was tried ended")


def serve() -> None:
    """Carry out the tasks that come as lines of JSON, and answer each with a line."""
    importlib.import_module("foreseer.testing.process")  # before anything is copied
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        asked = json.loads(line)
        done = _in_a_copy(asked) if asked["copy"] else _carry_out(asked)
        print(json.dumps(attrs.asdict(done)), file=answers, flush=True)


def _carry_out(asked: dict[str, Any]) -> Done:
    if hasattr(signal, "alarm"):
        signal.alarm(SECONDS)
    try:
        sys.path[:] = asked["path"]
        os.chdir(asked["folder"])
        seed = os.environ["PYTHONHASHSEED"]
        os.environ.clear()
        os.environ.update(asked["environment"], PYTHONHASHSEED=seed)
        importlib.invalidate_caches()
        module, name = asked["task"]
        return Done(0, getattr(importlib.import_module(module), name)(asked["given"]), "")
    except BaseException as error:
        return Done(1, [], "".join(traceback.format_exception_only(error)).strip().splitlines()[-1])


def _in_a_copy(asked: dict[str, Any]) -> Done:
    with tempfile.TemporaryFile() as answer:
        number = os.fork()
        if not number:
            try:
                answer.write(pickle.dumps(_carry_out(asked)))
                answer.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(number, 0)
        answer.seek(0)
        told = answer.read()
    if not told:
        return Done(1, [], f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended without an answer")
    done: Done = pickle.loads(told)
    return done
