"""Other libraries' caches on the same models, the same inputs and the same loop: cache-dit's DBCache, and
diffusers' own hooks.
"""

from __future__ import annotations

import itertools
import statistics
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.published import Published
from foreseer.bench.counting import BlockCalls, count_blocks
from foreseer.bench.gpu.loop import Clock, Loop
from foreseer.bench.gpu.making import PACE, Length, Making
from foreseer.bench.peers import PeerSpec, Request
from foreseer.errors import ContractError, MissingPackageError

__all__ = ["PEERS", "time_peers"]

STEPS = 30
"""Of a run, at most."""
EVERY_FIFTH = {"threshold": 1000.0, "first_blocks": 1, "warmup_steps": 3, "max_continuous_cached_steps": 4}
PEERS: tuple[PeerSpec, ...] = (
    PeerSpec("dbcache", EVERY_FIFTH),
    PeerSpec("diffusers_taylorseer", {"interval": 5, "order": 1, "warmup_steps": 3, "mode": "modules"}),
    PeerSpec("first_block_cache", {"threshold": 1000.0}),
    PeerSpec("dbcache", {**EVERY_FIFTH, "calibrator": "taylorseer"}),
    PeerSpec("diffusers_taylorseer", {"interval": 5, "order": 1, "warmup_steps": 3, "mode": "lite"}),
    PeerSpec("first_block_cache", {"threshold": 0.05}),
)
"""In order of worth. ``dbcache`` and ``diffusers_taylorseer`` compute about every fifth step whatever the
weights are, as ``taylorseer-5`` does. ``first_block_cache`` decides for itself, by its own threshold and by one
that lets every step be cached that may be: which steps were computed is counted.
"""
PEER_MODELS = ("flux-dev", "dit-xl-2-256")


def time_peers(making: Making, shape: Published) -> None:
    """Time each peer on a freshly built model: what one leaves behind is no other's."""
    for peer in PEERS if shape.name in PEER_MODELS else ():
        building, full = making.seconds(shape)
        length = making.length(shape, 0.24, "peers", longest=STEPS, repeats=1)
        # the counted run comes on top
        work = building + length.work + full * length.steps * 0.34
        measure = partial(_figures, making, shape, peer, length)
        making.kept.attempt("peers", shape.name, str(peer), work=work, usual=PACE, measure=measure, shortened=length.said)
        making.refuse_leftovers(shape)


def _figures(making: Making, shape: Published, peer: PeerSpec, length: Length) -> dict[str, Any]:
    model, steps, full_steps = making.model(shape), length.steps, length.full_steps
    loop = making.loop(model, shape, steps)
    enable = peer.enable()

    def calibrate() -> None:
        raise ContractError("a peer that is calibrated on samples cannot be timed on random weights; choose another")

    request = Request(cast("Any", SimpleNamespace(model=model, pipeline=None)), steps, calibrate)
    clock, cuda = Clock(making.device), making.device.type == "cuda"
    loop(clock.mark, 1)
    clock.seconds()
    loop(clock.mark, full_steps)
    full = clock.seconds()
    try:
        computed = _computed(loop, request, enable)
    except ImportError as error:
        raise MissingPackageError(f"{error.name or error} is not installed: pip install 'foreseer[peers]'") from error
    if cuda:
        torch.cuda.reset_peak_memory_stats(making.device)
    runs: list[list[float]] = []
    for _ in range(length.repeats):
        with enable(request):
            loop(clock.mark)
        runs.append(clock.seconds())
    loop(clock.mark, full_steps)
    full += clock.seconds()
    seconds = [list(step) for step in zip(*runs, strict=True)]
    kinds = {
        kind: [s for step, share in zip(seconds, computed, strict=True) if (share >= 0.5) == (kind == "computed") for s in step]
        for kind in ("computed", "cached")
    }
    whole, run = statistics.median(full), statistics.median(sum(run) for run in runs)
    return {
        "steps": steps,
        "steps_computed": sum(share >= 0.5 for share in computed),
        "block_share_of_a_cached_step": statistics.median([share for share in computed if share < 0.5] or [0.0]),
        "seconds_per_run": run,
        "seconds_per_full_step": whole,
        "seconds_per_computed_step": statistics.median(kinds["computed"]) if kinds["computed"] else None,
        "seconds_per_cached_step": statistics.median(kinds["cached"]) if kinds["cached"] else None,
        "speedup": steps * whole / run,
        "peak_bytes": int(torch.cuda.max_memory_allocated(making.device)) if cuda else None,
    }


def _computed(loop: Loop, request: Request, enable: Any) -> list[float]:
    """The part of the blocks that ran in each step, in a run of its own: counting takes time."""
    marks: list[float] = []
    blocks = [block for _, block in find_blocks(loop.transformer)]
    with count_blocks(blocks) as counted, enable(request):
        loop(lambda: marks.append(_rows(counted)))
    each = len(blocks) * len(loop.calls)
    rows = len(loop.times[0])
    return [(after - before) / (each * rows) for before, after in itertools.pairwise(marks)]


def _rows(counted: BlockCalls) -> float:
    return counted.block_rows
