"""A worker: a process of a Ray cluster with a workload, loaded once, and what calls are carried out on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch

from foreseer.bench.machine import git_state, machine, versions
from foreseer.bench.source import Drawing, loaded
from foreseer.bench.workload import Workload

__all__ = ["Place", "Worker"]


@attrs.frozen(kw_only=True)
class Place:
    """Where a worker is.

    Attributes:
        node_id: Of the cluster's node.
        node: Host and node, in words.
        machine: See `foreseer.bench.machine.machine`.
        versions: See `foreseer.bench.machine.versions`.
        git: See `foreseer.bench.machine.git_state`.
    """

    node_id: str
    node: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    git: Mapping[str, Any]

    @property
    def where(self) -> dict[str, str]:
        """What a result says of where it was measured."""
        return {"node": self.node, **{name: self.machine[name] for name in ("processor", "GPU") if name in self.machine}}


class Worker:
    """Carries out calls, one after the other; an actor of Ray.

    Args:
        drawing: Where samples come from.
        threads: Of the CPU.
        folder: Where who asks was started; names of files are meant from there.
        gpu: Whether it was given one.
    """

    def __init__(self, drawing: Drawing, *, threads: int, folder: str, gpu: bool) -> None:
        with contextlib.suppress(OSError):  # another machine need not have it
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._drawing, self._gpu = drawing, gpu
        self._workload: Workload | None = None
        self._desk: Any = None

    def place(self) -> Place:
        """Say where this is; nothing is loaded for it."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        device = getattr(self._drawing, "device", None) or ("cuda" if self._gpu else "cpu")
        said = machine(device)
        return Place(node_id=node, node=f"{socket.gethostname()} ({node[:8]})", machine=said, versions=versions(), git=git_state())

    def look(self, ask: Callable[[Workload], Any]) -> Any:
        """See `foreseer.bench.hands.Hands.look`."""
        if self._workload is None:
            self._workload = loaded(self._drawing)
        return ask(self._workload)

    def open(self, make: Callable[[Workload], Any]) -> None:
        """See `foreseer.bench.hands.Hands.open`."""
        self._desk = self.look(make)

    def do(self, do: Callable[..., Any], *shared: Any) -> Any:
        """Carry out a call."""
        return do(self._desk, *shared)
