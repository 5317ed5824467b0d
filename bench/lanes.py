"""The lanes of `foreseer compare`: ways of sampling the same noise, and what one batch of each takes."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from foreseer.adapters import attach
from foreseer.registry import PolicySpec
from foreseer.report import Report
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps

__all__ = [
    "CLASSES",
    "FULL",
    "SAMPLE",
    "Lane",
    "LaneOf",
    "Measurement",
    "fewer_lane",
    "generator_of",
    "keep_freed_memory",
    "labels_of",
    "measure",
    "noise_of",
    "wait_for",
    "warm_up",
]

CLASSES = 10
SAMPLE = (1, 8, 8)
WARM_UP_STEPS = 8


@attrs.frozen(eq=False)
class Lane:
    """One way of sampling.

    Attributes:
        name: What tables call it.
        kind: ``"full"``: the bare model with all steps. ``"policy"``: all steps, driven by a policy. ``"fewer"``: the bare model with fewer steps.
            ``"static"`` and ``"hindsight"``: all steps, under schedules that were planned on the compared samples, see `foreseer.workbench.headroom`.
        num_steps: DDIM steps.
        spec: The policy; None for the bare model.
        observers: Plugins that watch the policy's runs.
    """

    name: str
    kind: Literal["full", "policy", "fewer", "static", "hindsight"]
    num_steps: int
    spec: PolicySpec | None = None
    observers: tuple[object, ...] = ()


FULL = "full"
"""Name of the lane that every other is compared with."""


def fewer_lane(num_steps: int) -> Lane:
    """Return plain DDIM with fewer steps: what a cache of the same cost must beat."""
    return Lane(f"full, {num_steps} step{'s' * (num_steps != 1)}", "fewer", num_steps)


@attrs.frozen(eq=False)
class LaneOf:
    """A lane whose policy may differ from batch to batch.

    Attributes:
        name: What tables call it.
        of: ``indices of a batch -> the lane``.
    """

    name: str
    of: Callable[[range], Lane] = attrs.field(repr=False)


@attrs.frozen(eq=False)
class Measurement:
    """One lane on one batch of B samples.

    Attributes:
        samples: ``(B, 1, H, W)`` float32 on the CPU.
        seconds: Wall-clock time of the sampling loop; the device has finished when it is read.
        steps: ``(B,)`` steps computed for each sample.
        block_rows: Blocks evaluated x rows.
        report: The account of the run; None for the bare model.
    """

    samples: Tensor = attrs.field(repr=False)
    seconds: float
    steps: tuple[int, ...] = attrs.field(repr=False)
    block_rows: int
    report: Report | None = attrs.field(repr=False)


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory instead of giving it back to the system. Returns whether it could be asked (glibc).

    Otherwise whole steps pay for fetching the same pages again and again: on the bundled model up to a quarter of a step, in spells that hit one lane
    and not the next. PyTorch's tuning guide recommends other allocators for this reason.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold = -1, -3
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**25))


def noise_of(indices: Sequence[int], *, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the initial noise of samples, each sample's own whatever batch it is in.

    Args:
        indices: Which samples, B of them.
        seed: Of the whole comparison.
        shape: Of one sample, ``(C, H, W)``.

    Returns:
        ``(B, C, H, W)`` float32, on the CPU.
    """
    return torch.stack([torch.randn(shape, generator=generator_of(index, seed=seed)) for index in indices])


def generator_of(index: int, *, seed: int) -> torch.Generator:
    """Return a sample's own generator, on the CPU: what it draws depends on the two numbers only."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1)[0]))


def labels_of(indices: Sequence[int]) -> Tensor:
    """Return the classes of samples, ``(B,)`` int64: sample i is of class i modulo 10."""
    return torch.tensor([index % CLASSES for index in indices])


def measure(
    model: nn.Module,
    lane: Lane,
    noise: Tensor,
    labels: Tensor,
    *,
    guidance: float,
    on_step: Callable[[int], None] | None = None,
    stop_after: int | None = None,
) -> Measurement:
    """Sample one batch and time it.

    Args:
        model: The zoo's DiT.
        lane: How to sample.
        noise: ``(B, 1, H, W)`` on the model's device and of its dtype.
        labels: ``(B,)`` on the model's device.
        guidance: Weight of the guidance.
        on_step: Called with the step's index after each step.
        stop_after: Steps after which to stop; the policy is told of all of them. None goes on to the end.
    """
    timesteps = ddim_timesteps(lane.num_steps)
    if lane.spec is None:
        samples, seconds = _timed(model, noise, labels, timesteps[:stop_after], guidance, on_step)
        return Measurement(samples, seconds, (lane.num_steps,) * len(labels), lane.num_steps * _depth(model) * 2 * len(labels), None)
    # groups=B: rows r and r + B, with and without the class, are one sample
    with attach(model, lane.spec, observers=lane.observers) as attached, attached.run(timesteps=timesteps, groups=len(labels)):
        samples, seconds = _timed(model, noise, labels, timesteps[:stop_after], guidance, on_step)
    report = attached.report
    steps = tuple(int(n) for n in report.computed.sum(axis=0)[: len(labels)])
    return Measurement(samples, seconds, steps, report.block_rows, report)


def warm_up(model: nn.Module, lane: Lane, noise: Tensor, labels: Tensor, *, guidance: float) -> None:
    """Run a lane for a few steps, untimed. A policy that cannot drive this model fails here, before anything long has begun."""
    measure(model, attrs.evolve(lane, observers=()), noise, labels, guidance=guidance, stop_after=WARM_UP_STEPS)


def _timed(
    model: nn.Module, noise: Tensor, labels: Tensor, timesteps: list[int], guidance: float, on_step: Callable[[int], None] | None
) -> tuple[Tensor, float]:
    wait_for(noise.device)
    started = time.perf_counter()
    samples = ddim_sample(model, noise, labels, timesteps, guidance=guidance, on_step=on_step)
    wait_for(noise.device)
    seconds = time.perf_counter() - started
    return samples.float().cpu(), seconds


def wait_for(device: torch.device) -> None:
    """Let an accelerator finish what was given to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _depth(model: nn.Module) -> int:
    blocks = model.transformer_blocks
    assert isinstance(blocks, nn.ModuleList)
    return len(blocks)
