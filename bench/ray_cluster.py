"""A Ray cluster as a sweep sees it: joined or started, room for workers on its nodes, and workers on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container
from typing import Any

import attrs
import torch

from foreseer.bench.ray_settings import RaySettings
from foreseer.bench.ray_worker import Place, Worker
from foreseer.bench.source import Drawing
from foreseer.errors import MissingPackageError, OptionError, in_one_line

__all__ = ["Cluster", "Hired"]


@attrs.define(eq=False)
class Hired:
    """A worker, from when it is asked for.

    Attributes:
        number: Its own.
        actor: Ray's.
        node: Where it was asked for; None for anywhere.
        place: Where it is; None before it says so.
        opened: Whether it can be given calls.
    """

    number: int
    actor: Any
    node: str | None
    place: Place | None = None
    opened: bool = False

    @property
    def name(self) -> str:
        """Where it is, in words."""
        return "a node" if self.place is None else self.place.node


class Cluster:
    """A cluster, joined until `leave`.

    Args:
        settings: Which cluster, and what a worker takes of it.
        drawing: Where samples come from.
        threads: Of the CPU, of each worker; None for as many as it takes CPUs, or as this process has.

    Attributes:
        ray: The package.

    Raises:
        OptionError: There is no such cluster, or no node of it has what a worker takes.
        MissingPackageError: Ray is not installed.
    """

    def __init__(self, settings: RaySettings, drawing: Drawing, *, threads: int | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError("--ray needs ray: pip install 'foreseer[ray]'") from error
        device = str(getattr(drawing, "device", None) or "cpu")
        if device.startswith("cuda:"):
            raise OptionError(f"device={device!r} names a GPU, and a worker sees those alone that the cluster gives it; write --device cuda")
        self.ray, self._settings, self._drawing = ray, settings, drawing
        self._threads = threads or settings.threads or torch.get_num_threads()
        self._cpus = settings.ray_cpus if settings.ray_cpus is not None else float(self._threads)
        self._gpus = settings.ray_gpus if settings.ray_gpus is not None else float(device == "cuda")
        self._count = 0
        self._mine = not ray.is_initialized()
        if self._mine:
            self._join()
        if settings.ray_workers is None and not self.room():
            self.leave()
            asked = ", ".join(f"{amount:g} {name}" for name, amount in self._takes.items())
            raise OptionError(f"no node of the cluster has what a worker takes, {asked}; write other --ray-cpus, --ray-gpus or --ray-resources")

    def _join(self) -> None:
        how: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        address = self._settings.ray or os.environ.get("RAY_ADDRESS")
        try:
            if not address:  # that of this machine, or a new one
                with contextlib.suppress(ConnectionError):
                    self.ray.init(address="auto", **how)
                    return
            alone = {} if address and address != "local" else {"include_dashboard": False}
            self.ray.init(address=address or "local", **how, **alone)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            said = f"ray={self._settings.ray!r} cannot be reached: {in_one_line(error)}"
            raise OptionError(f"{said}; start a cluster with `ray start --head`, or write --ray local") from error

    def leave(self) -> None:
        """Leave it, and end it where it was started here."""
        if self._mine:
            self.ray.shutdown()

    @property
    def _takes(self) -> dict[str, float]:
        return {name: amount for name, amount in {"CPU": self._cpus, "GPU": self._gpus, **(self._settings.ray_resources or {})}.items() if amount}

    def room(self, without: Container[str] = ()) -> dict[str, int]:
        """Return how many workers a node has room for, whatever else runs there, by node; ``without`` some."""
        found = {}
        for node in self.ray.nodes():
            if node["Alive"] and node["NodeID"] not in without:
                fit = [int(node["Resources"].get(name, 0.0) / amount + 1e-6) for name, amount in self._takes.items()]
                found[node["NodeID"]] = min(fit, default=1)
        return {node: count for node, count in found.items() if count}

    def hire(self, node: str | None) -> tuple[Hired, Any]:
        """Ask for a worker on a node, or anywhere. Returns it, and what will be its `Place`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = {} if node is None else {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
        takes: dict[str, Any] = {"num_cpus": self._cpus, "num_gpus": self._gpus, "resources": dict(self._settings.ray_resources or {})}
        kind = self.ray.remote(**takes, max_restarts=0, **where)(Worker)
        actor = kind.remote(self._drawing, threads=self._threads, folder=os.getcwd(), gpu=self._gpus > 0)
        self._count += 1
        return Hired(self._count, actor, node), actor.place.remote()

    def dismiss(self, hired: Hired) -> None:
        """Let go of a worker; it may be gone."""
        with contextlib.suppress(Exception):
            self.ray.kill(hired.actor)
