"""A tiny pipeline as a workload: see `foreseer.bench.workload.Workload`. Samples are drawn by their seed, and are pictured by their latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
from tiny import TINY
from torch import Tensor, nn

from foreseer.adapters import Attachment, attach
from foreseer.registry import PolicySpec


@attrs.define(eq=False)
class TinyWorkload:
    name: str
    num_steps: int = 6
    guidance: float | None = None
    pipeline: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.pipeline = TINY[self.name].build()
        self.pipeline.set_progress_bar_config(disable=True)

    @property
    def model(self) -> nn.Module:
        found: nn.Module = self.pipeline.transformer
        return found

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float | None) -> Tensor:
        return TINY[self.name].call(self.pipeline, steps=num_steps, batch=len(indices), seed=seed + indices[0])

    def decode(self, latents: Tensor) -> Tensor:
        return latents.float().cpu().flatten(1)[:, None, None]

    def digits(self, frames: Tensor) -> None:
        return None

    def words(self, indices: Sequence[int]) -> list[str]:
        return list(map(str, indices))

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Attachment]:
        with attach(self.pipeline, spec, observers=observers) as attached:
            yield attached
