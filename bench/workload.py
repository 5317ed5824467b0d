"""What a benchmark draws with, whatever the model: a workload, found by its name.

A sample's condition and noise depend on its index and the seed only, whatever the batch, the lane or the
machine. The zoo brings three workloads, `foreseer.bench.families`; others are entry points of the group
``foreseer.workloads``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from foreseer.adapters.attachment import Attachment
from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.denoisers import find_denoisers
from foreseer.adapters.identity import identity_of
from foreseer.bench.fields import DTYPES
from foreseer.errors import OptionError
from foreseer.listing import WORKLOADS, list_plugins, load_factory
from foreseer.registry import PolicySpec

__all__ = [
    "HERE",
    "OfDigits",
    "Workload",
    "all_blocks_of",
    "blocks_of",
    "device_of",
    "dtype_of",
    "generator_of",
    "how_many",
    "labels_of",
    "load_workload",
    "noise_of",
]

CLASSES = 10


class Workload(Protocol):
    """A model to measure on, with everything that lanes have in common."""

    @property
    def name(self) -> str:
        """What settings call it."""

    @property
    def num_steps(self) -> int:
        """Denoising steps where the settings do not say."""

    @property
    def guidance(self) -> float | None:
        """Weight of the guidance where the settings do not say; None for what the pipeline does by itself."""

    @property
    def model(self) -> nn.Module:
        """The denoiser."""

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline around it; None where the loop is our own."""

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float | None) -> Tensor:
        """Sample, with whatever is attached to the model.

        Returns:
            ``(B, ...)`` final latents, on the model's device.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` images or ``(B, F, C, H, W)`` videos: about [-1, 1], float32, on the CPU."""

    def words(self, indices: Sequence[int]) -> list[str]:
        """Return what each sample is asked to be, for readers."""

    def attached(
        self,
        spec: PolicySpec,
        *,
        num_steps: int,
        samples: int,
        observers: Sequence[object] = (),
    ) -> AbstractContextManager[Attachment]:
        """Attach a policy, and observers of its runs, for one `draw` of so many samples."""


@runtime_checkable
class OfDigits(Protocol):
    """A workload whose samples are digits, as the bundled ones are: they have an accuracy, distances of features
    and a Frechet distance besides.
    """

    def digits(self, frames: Tensor) -> Tensor | None:
        """Return what the digit classifier is to see of ``(N, C, H, W)`` images or frames: ``(N, 1, 8, 8)``;
        None where they are no digits.
        """


HERE: dict[str, Callable[[str, torch.dtype], Workload]] = {}
"""Workloads of this process, by name: a function of device and dtype. They come before what is installed."""


def load_workload(name: str, *, device: str, dtype: str) -> Workload:
    """Load a workload by its name, in `HERE` or of an entry point of the group ``foreseer.workloads``, onto a
    device and with a dtype of `foreseer.bench.fields.DTYPES`.

    Raises:
        OptionError: There is none of that name, or it lacks a package.
        PluginError, PolicyConflictError: It cannot be imported, or two packages bring one of that name.
    """
    names = ", ".join(dict.fromkeys([*HERE, *(listing.name for listing in list_plugins(WORKLOADS))]))
    if name.rpartition(":")[2] not in names.split(", "):
        raise OptionError(f"workload={name!r} is unknown; write one of {names}, or a pipeline of yours (--pipeline)")
    try:
        load = HERE.get(name) or load_factory(name, group=WORKLOADS)
        found: Workload = load(device, DTYPES[dtype])
    except ImportError as error:
        problem = f"workload={name!r} cannot be loaded here: {error}"
        raise OptionError(f"{problem}; install that (pip install 'foreseer[bench]' brings what the bundled ones need), or write another of {names}") from error
    return found


def blocks_of(workload: Workload) -> list[nn.Module]:
    """Return the denoiser's blocks, in the order in which they are declared; of several models the first's."""
    return [block for _, block in find_blocks(workload.model)]


def all_blocks_of(workload: Workload) -> list[nn.Module]:
    """Return the blocks of all denoisers."""
    models = [workload.model] if workload.pipeline is None else find_denoisers(workload.pipeline)[0].values()
    return [block for model in models for _, block in find_blocks(model)]


def identities_of(workload: Workload) -> dict[str, str]:
    """Return the identities of the denoiser and of the scheduler: ``model`` and ``scheduler``, which is empty
    in a loop of the caller's own.
    """
    scheduler = "" if workload.pipeline is None else identity_of(workload.pipeline.scheduler)
    return {"model": identity_of(workload.model), "scheduler": scheduler}


def device_of(workload: Workload) -> torch.device:
    """Return where a workload computes; a pipeline that is offloaded says so itself."""
    place = getattr(workload.pipeline, "_execution_device", None)
    return place if isinstance(place, torch.device) else next(workload.model.parameters()).device


def dtype_of(workload: Workload) -> str:
    """Return the dtype of the denoiser's weights, such as ``"float32"``."""
    return str(next(workload.model.parameters()).dtype).removeprefix("torch.")


def prompts_of(workload: object) -> Sized | None:
    """Return the prompts of a pipeline of the user's, a `foreseer.bench.prompts.Prompts`; None of another
    workload. Where there are prompts a sample may take minutes, and only the pipeline knows what a step is.
    """
    found: Sized | None = getattr(workload, "prompts", None)
    return found


def how_many(workload: object, *, samples: int | None, batch: int | None, usual: tuple[int, int]) -> tuple[int, int]:
    """Return how many samples to draw and how many of them together, where nothing was said: as usual, or of a
    pipeline with prompts each prompt once, and one at a time.
    """
    prompts = prompts_of(workload)
    of_its_own = usual if prompts is None else (len(prompts), 1)
    return samples or of_its_own[0], batch or of_its_own[1]


def noise_of(indices: Sequence[int], *, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the initial noise of B samples, each sample's own whatever batch it is in: ``(B, C, H, W)``
    float32, on the CPU. ``shape`` is that of one sample, ``(C, H, W)``.
    """
    return torch.stack([torch.randn(shape, generator=generator_of(index, seed=seed)) for index in indices])


def generator_of(index: int, *, seed: int) -> torch.Generator:
    """Return a sample's own generator, on the CPU: what it draws depends on the two numbers only."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1)[0]))


def labels_of(indices: Sequence[int]) -> Tensor:
    """Return the classes of samples, ``(B,)`` int64: sample i is of class i modulo 10."""
    return torch.tensor([index % CLASSES for index in indices])
