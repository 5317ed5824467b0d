"""Which Ray cluster draws, and what each of its workers takes of it. Ray itself is imported where it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import optional

from foreseer.bench.fields import whole
from foreseer.errors import OptionError
from foreseer.spelling import read_spec

__all__ = ["RaySettings"]

ADDRESS = re.compile(r"auto|local|(ray://)?[^\s/:=]+:\d+")


def _check_address(settings: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if value and not ADDRESS.fullmatch(value):
        raise OptionError(f"ray={value!r} is no address; write --ray alone, --ray auto, --ray local, --ray HOST:PORT or --ray ray://HOST:PORT")


def _check_amount(settings: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < 1 or (value >= 0 and value == int(value))):
        raise OptionError(f"{attribute.name}={value!r} is out of range; write 0, a whole number, or a share of one such as 0.5")


def _resources(value: str | Mapping[str, float] | None) -> Mapping[str, Any] | None:
    return read_spec(f"resources:{value}")[1] if isinstance(value, str) else value


def _check_resources(settings: object, attribute: attrs.Attribute[Any], value: Mapping[str, Any] | None) -> None:
    for name, amount in (value or {}).items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount <= 0 or name in ("CPU", "GPU"):
            raise OptionError(
                f"ray_resources: {name}={amount!r} is no resource of yours; write --ray-resources h100=1, and --ray-cpus and --ray-gpus for those"
            )


@attrs.frozen(kw_only=True)
class RaySettings:
    """Workers of a Ray cluster, in the place of this process.

    Attributes:
        ray: Draw on the workers of a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT; without an address,
            the cluster of this machine, or a new one on it. None for this process alone.
        ray_workers: How many workers at most, each with a model of its own; None for as many as fit into the
            cluster.
        ray_cpus: CPUs that each worker takes; None for one for each of its threads.
        ray_gpus: GPUs that each worker takes; None for one where the device is a GPU.
        ray_resources: What else each worker takes of a node, by the names that the nodes were started with, such
            as h100=1: so a sweep keeps to nodes of one kind. None for nothing.

    Raises:
        OptionError: A value is out of range, or there is no ``ray`` for the others.
    """

    ray: str | None = attrs.field(default=None, validator=optional(_check_address))
    ray_workers: int | None = attrs.field(default=None, validator=optional(whole(1, 100_000)))
    ray_cpus: float | None = attrs.field(default=None, validator=optional(_check_amount))
    ray_gpus: float | None = attrs.field(default=None, validator=optional(_check_amount))
    ray_resources: Mapping[str, float] | None = attrs.field(default=None, converter=_resources, validator=_check_resources)

    def __attrs_post_init__(self) -> None:
        others = {name: value for name in ("ray_workers", "ray_cpus", "ray_gpus", "ray_resources") if (value := getattr(self, name)) is not None}
        if self.ray is None and others:
            name, value = next(iter(others.items()))
            raise OptionError(f"{name}={value!r} is for workers of a cluster; write --ray with it")

    @property
    def threads(self) -> int | None:
        """Threads of the CPU that the CPUs of a worker stand for; None where nothing was said."""
        return max(1, int(self.ray_cpus)) if self.ray_cpus else None
