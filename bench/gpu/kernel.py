"""The weighted sum alone, on features of the sizes that the models have, against its floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.bench.gpu.graphs import captured
from foreseer.bench.gpu.loop import Clock
from foreseer.bench.gpu.making import Making

__all__ = ["FEATURES", "Feature", "time_kernel"]

COLD = 2**28
"""Bytes that sums are taken from in turn: more than a cache holds, so that each is read from memory, as in a
step.
"""
SUMS = 30
"""At least so many in one go."""
CHOICES = ((2048, 4), (1024, 4), (2048, 8), (4096, 8), (8192, 8))
"""Entries that one program of the kernel sums, and its warps. The first is what is used."""
SECONDS = 3.0
"""For one feature, where none was measured yet."""


@attrs.frozen
class Feature:
    """What a site records.

    Attributes:
        name: The model and the site.
        rows: Of a call.
        width: Entries of a row.
        keep: Features that are kept.
    """

    name: str
    rows: int
    width: int
    keep: int


def _features() -> tuple[Feature, ...]:
    sizes = (("flux-dev block", 1, 4608 * 3072), ("flux-dev text", 1, 512 * 3072), ("dit-xl-2-256 block", 2, 256 * 1152), ("wan-1.3b block", 1, 32760 * 1536))
    return tuple(Feature(f"{name}, {keep} kept", rows, width, keep) for name, rows, width in sizes for keep in (1, 2, 3, 4))


FEATURES = _features()
"""Text and image of FLUX.1-dev at 1024x1024 and its text alone, DiT-XL/2 at 256x256 with guidance, Wan2.1-1.3B
at 480x832, 81 frames.
"""


def time_kernel(making: Making) -> None:
    """Time the sum of each feature, and a copy that moves as many bytes; for two kept features also with other
    sizes of its programs. On the CPU, where there is no kernel, the matrix product that is the sum there.
    """
    settings, kept = making.settings, making.kept
    scale = 4096 if settings.scale == "tiny" else 1
    for feature in FEATURES:
        smaller = attrs.evolve(feature, width=max(feature.width // scale, 16))
        kept.attempt("kernel", feature.name, work=SECONDS if making.device.type == "cuda" else 0.1, usual=1.0, measure=partial(_figures, making, smaller))


def _figures(making: Making, feature: Feature) -> dict[str, Any]:
    device, dtype = making.device, making.settings.torch_dtype
    size = feature.rows * feature.width * dtype.itemsize
    moved = (feature.keep + 1) * size
    # the tiny ones are there to be tried out: two rings are enough
    copies = 2 if making.settings.scale == "tiny" else max(2, -(-COLD // (feature.keep * size)))
    rings = [torch.randn(feature.rows, feature.keep, feature.width, device=device).to(dtype) for _ in range(copies)]
    table = torch.full((feature.rows, feature.keep), 1 / feature.keep, device=device)
    sums = _sums(device)
    expected = (rings[0].double() * table[:, :, None].double()).sum(1)
    apart = float(((sums[0][1](rings[0], table, dtype) - expected).abs().max() / expected.abs().max()).item())
    floor = moved / making.kept.content["bandwidth"]["bytes_per_second"]
    # a copy within one buffer of the same size moves twice what it writes
    flat = [torch.empty(moved // 2 // dtype.itemsize, device=device, dtype=dtype) for _ in range(2 * max(2, copies // 2))]
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    copy = _seconds(device, [partial(b.copy_, a) for a, b in pairs])
    tried = {}
    for said, add in sums if feature.keep == 2 else sums[:1]:
        tried[said] = _seconds(device, [partial(add, ring, table, dtype) for ring in rings])
    seconds = tried[sums[0][0]]
    return {
        "rows": feature.rows,
        "width": feature.width,
        "kept": feature.keep,
        "what": sums[0][0],
        "bytes_moved": moved,
        "seconds": seconds,
        "seconds_of_a_copy": copy,
        "floor_seconds": floor,
        "over_floor": seconds / floor,
        "over_copy": seconds / copy,
        "relative_error": apart,
        "tried": tried,
    }


Sum = Callable[[Tensor, Tensor, torch.dtype], Tensor]


def _sums(device: torch.device) -> list[tuple[str, Sum]]:
    if device.type != "cuda":
        return [("a matrix product", lambda ring, table, dtype: torch.bmm(table[:, None].to(ring.dtype), ring)[:, 0].to(dtype))]
    from foreseer.fused_sum import fused_sum

    return [(f"{block} entries, {warps} warps", partial(fused_sum, block=block, warps=warps)) for block, warps in CHOICES]


def _seconds(device: torch.device, calls: list[Callable[[], object]]) -> float:
    """The seconds of one call: on CUDA in a graph of at least `SUMS`, so that the host counts for nothing."""
    each = -(-SUMS // len(calls))
    if device.type != "cuda":
        clock = Clock(device, time.perf_counter)
        calls[0]()
        clock.mark()
        for call in calls:
            call()
        clock.mark()
        return clock.seconds()[0] / len(calls)
    _, replay = captured(device)(lambda: [call() for _ in range(each) for call in calls])
    replay()
    clock = Clock(device)
    clock.mark()
    for _ in range(5):
        replay()
        clock.mark()
    return min(clock.seconds()) / (each * len(calls))
