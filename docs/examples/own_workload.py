"""A model and a loop of one's own as a workload: `foreseer compare --pipeline own_workload.py:build`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import foreseer
from foreseer.bench.workload import noise_of


class Denoiser(nn.Module):
    """Any module with a list of blocks will do; this one has random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True) for _ in range(6))
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity at time t, ``(B, 16, 32)``."""
        x = x + torch.sin(t * torch.arange(1, 33))
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.head(x))


class Mine:
    """A workload: what `foreseer.bench.workload.Workload` asks for."""

    name, num_steps, guidance, pipeline = "mine", 30, None, None

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Denoiser().eval().requires_grad_(False)

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float | None) -> Tensor:
        """The loop."""
        x = noise_of(indices, seed=seed, shape=(16, 32))
        for k in range(num_steps):
            x = x + self.model(x, torch.tensor(k / num_steps)) / num_steps
        return x

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of one channel."""
        return latents[:, None].clamp(-1, 1)

    def words(self, indices: Sequence[int]) -> list[str]:
        """What each sample is to be."""
        return [f"noise {index}" for index in indices]

    @contextmanager
    def attached(self, spec: Any, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Any]:
        """Let a policy drive one draw."""
        with foreseer.attach(self.model, spec, observers=observers) as attached, attached.run(num_steps=num_steps, groups=samples):
            yield attached


def build() -> Mine:
    """What ``--pipeline own_workload.py:build`` calls."""
    return Mine()
