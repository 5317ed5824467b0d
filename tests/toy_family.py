"""A family that draws in milliseconds: a residual network over a smooth trajectory, in a loop of its own. Samples are "images" of 1x2x4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foreseer.adapters import Attachment, attach
from foreseer.bench.workload import noise_of
from foreseer.registry import PolicySpec

DEPTH, WIDTH, STEPS = 3, 8, 10


class ToyModel(nn.Module):
    """Takes ``(B, 8)`` and ``(B,)`` times."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(DEPTH))
            self.head = nn.Linear(width, width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = x + torch.sin(t / 300)[:, None]
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.head(x))


def times_of(num_steps: int) -> list[float]:
    return [1000.0 * (num_steps - k) / num_steps for k in range(num_steps)]


class ToyFamily:
    """See `foreseer.bench.workload.Workload`. Remembers how often it drew with nothing attached."""

    name, num_steps, guidance, pipeline = "toy", STEPS, 1.0, None

    def __init__(self) -> None:
        self.model: nn.Module = ToyModel().eval().requires_grad_(False)
        self.bare: list[tuple[tuple[int, ...], int]] = []
        self._attached = False

    @torch.no_grad()
    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float) -> Tensor:
        if not self._attached:
            self.bare.append((tuple(indices), num_steps))
        x = noise_of(indices, seed=seed, shape=(WIDTH,))
        for t in times_of(num_steps):
            x = x - guidance * self.model(x, torch.full((len(x),), t)) / num_steps
        return x

    def decode(self, latents: Tensor) -> Tensor:
        return latents.view(-1, 1, 2, 4)

    def words(self, indices: Sequence[int]) -> list[str]:
        return list(map(str, indices))

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Attachment]:
        self._attached = True
        try:
            with attach(self.model, spec, observers=observers) as attached, attached.run(timesteps=times_of(num_steps)):
                yield attached
        finally:
            self._attached = False
