"""What a policy would hold on a model, from shapes alone: one pass on the meta device, without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from foreseer.adapters.calls import Call
from foreseer.adapters.module_backbone import ModuleBackbone
from foreseer.adapters.published import published
from foreseer.adapters.rows import count_rows
from foreseer.adapters.wires import Wires
from foreseer.contract import features_to_keep
from foreseer.declared import refuse_schedule
from foreseer.errors import OptionError
from foreseer.plugins import Policy
from foreseer.registry import PolicySpec
from foreseer.registry import policy as named
from foreseer.storage import Storage
from foreseer.types import Run, Site

__all__ = ["Estimate", "estimate", "estimate_published"]


@attrs.frozen
class Estimate:
    """What a policy would hold.

    Attributes:
        policy: As on the command line.
        model: Its name or class.
        rows: Rows of one call.
        depth: Blocks.
        bytes_by_site: For each site the bytes of its features in one stream.
        streams: Streams with a history of their own (guidance in two calls).
        notes: What the policy would do otherwise than it was asked.
    """

    policy: str
    model: str
    rows: int
    depth: int
    bytes_by_site: Mapping[Site, int] = attrs.field(repr=False)
    streams: int = 1
    notes: tuple[str, ...] = ()

    @property
    def bytes_held(self) -> int:
        """All of it, over all streams."""
        return self.streams * sum(self.bytes_by_site.values())


def estimate(
    model: nn.Module,
    policy: str | Callable[..., Any] | PolicySpec,
    inputs: Mapping[str, Any],
    *,
    num_steps: int = 50,
    blocks: str | None = None,
    storage: Storage | None = None,
    name: str = "",
    streams: int = 1,
    **options: Any,
) -> Estimate:
    """Say what a policy would hold on a model that is called with these arguments. Nothing is forecast.

    Args:
        model: On the meta device, or a real one (then one real pass is made).
        policy: See `foreseer.attach`.
        inputs: Keyword arguments of one call.
        num_steps: Steps of the run: no more features are kept per site.
        blocks: See `foreseer.attach`.
        storage: See `foreseer.attach`.
        name: For the answer; empty takes the class.
        streams: Streams with a history of their own.
        **options: The policy's own options.

    Raises:
        PluginError: As `foreseer.attach` raises it.
        OptionError: Likewise.
        UnsupportedModelError: Likewise.
    """
    spec = named(policy, **options)
    wires = Wires(model, blocks)
    backbone = ModuleBackbone(wires)
    rows = count_rows((), inputs)
    refuse_schedule(num_steps, None, None)
    run = Run(backbone.depth, rows, tuple(range(rows)), num_steps, tuple(float(t) for t in range(num_steps)), None, backbone.sites, places=backbone.places)
    needs = Policy(str(spec), spec()).setup(run)
    keep = features_to_keep(needs, run)
    wires.install()
    try:
        backbone.watch(keep)
        with torch.no_grad():
            features = backbone.features_of(Call(model._call_impl, (), dict(inputs)), keep)
    finally:
        wires.restore()
    dtype = None if storage is None else storage.dtype
    sizes = {site: kept * features[site].numel() * (dtype or features[site].dtype).itemsize for site, kept in keep.items()}
    return Estimate(str(spec), name or type(model).__name__, rows, backbone.depth, sizes, streams, needs.notes)


def estimate_published(
    model: str,
    policy: str | Callable[..., Any] | PolicySpec,
    *,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    batch: int = 1,
    num_steps: int = 50,
    storage: Storage | None = None,
    **options: Any,
) -> Estimate:
    """Say what a policy would hold on a published model in bfloat16.

    Args:
        model: One of `foreseer.adapters.published.PUBLISHED`, such as ``"flux-dev"``.
        policy: See `foreseer.attach`.
        height: In pixels; None takes the model's usual size.
        width: Likewise.
        frames: Likewise; ignored for images.
        batch: Samples that are drawn together.
        num_steps: See `estimate`.
        storage: See `foreseer.attach`.
        **options: The policy's own options.

    Raises:
        OptionError: The model is unknown or a size is out of range.
        ImportError: Without diffusers.
    """
    found = published(model)
    size = [given if given is not None else usual for given, usual in zip((height, width, frames), found.size, strict=True)]
    for what, value in zip(("height", "width", "frames", "batch"), (*size, batch), strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{what}={value!r} is out of range; write a whole number >= 1")
    inputs = found.inputs(found, batch * found.rows_per_sample, *size)
    spec = named(policy, **options)
    return estimate(found.build(), spec, inputs, num_steps=num_steps, storage=storage, name=found.name, streams=found.calls_per_step)
