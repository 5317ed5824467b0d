"""A model whose arithmetic does not depend on the batch, its requests, and a driver of many of them for the tests of batching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

import foreseer
from foreseer.adapters.batching import Batch
from foreseer.adapters.requests import Request
from foreseer.report import Report

TIMES = tuple(float(t) for t in range(12, 0, -1))
WIDTH, DEPTH = 5, 4


class Block(nn.Module):
    """Element by element, so that a row's bits do not depend on the rows beside it."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 0.4, WIDTH, dtype=torch.float64) + 0.05 * index, requires_grad=False)
        self.rows: list[int] = []

    def forward(self, hidden_states: Tensor, temb: Tensor, shift: Tensor) -> Tensor:
        self.rows.append(len(hidden_states))
        x = hidden_states
        return x + (self.weight * x + shift - 0.1 * x * x * x) * temb[:, None, None]


@attrs.frozen(eq=False)
class Held:
    """An output that only its model's author knows how to take apart."""

    value: Tensor


class Model(nn.Module):
    """``mixed`` makes a row depend on those beside it."""

    def __init__(self, mixed: str = "", most: int | None = None) -> None:
        super().__init__()
        self.blocks, self.mixed, self.most = nn.ModuleList(Block(index) for index in range(DEPTH)), mixed, most
        self.calls: list[int] = []

    def forward(self, hidden_states: Tensor, timestep: Tensor, label: Tensor, shift: Tensor) -> Tensor:
        self.calls.append(len(hidden_states))
        if self.most is not None and len(hidden_states) > self.most:
            raise torch.OutOfMemoryError("too many rows")
        if int(label.max()) > 9:
            raise IndexError(f"label {int(label.max())} is out of range")
        temb = (timestep / 100 + label / 200).expand(len(hidden_states))
        x = hidden_states * 0.5
        if self.mixed == "first time":
            temb = temb[:1].expand(len(hidden_states))
        if self.mixed == "largest":
            x = (x / x.abs().max()).round(decimals=2) * x.abs().max()
        if self.mixed == "mean":
            x = x - x.mean()
        for block in self.blocks:
            x = block(x, temb, shift)
        return Held(x * 0.9) if self.mixed == "of a class" else x * 0.9

    def took(self) -> tuple[int, int]:
        """Return how often it was called, and how many block-rows were evaluated, since this was last asked."""
        counts = len(self.calls), sum(sum(block.rows) for block in self.blocks)
        self.calls.clear()
        for block in self.blocks:
            block.rows.clear()
        return counts


@attrs.define(eq=False)
class Sampling:
    """What a request samples: by a loop that needs to know nothing of batches."""

    policy: Any
    seed: int = 0
    samples: int = 1
    tokens: int = 3
    texts: int = 1
    steps: int = len(TIMES)
    spoil: Callable[[int, Tensor], Tensor] = lambda step, x: x
    groups: Any = None
    how: dict[str, Any] = attrs.field(factory=dict)

    def calls(self, step: int, x: Tensor) -> list[dict[str, Tensor]]:
        time = torch.full((self.samples,), TIMES[step], dtype=torch.float64)
        shift = torch.linspace(-0.1, 0.1, WIDTH, dtype=torch.float64)
        return [
            {"hidden_states": self.spoil(step, x), "timestep": time, "label": torch.full((self.samples,), 3 * text), "shift": shift}
            for text in range(self.texts)
        ]

    def start(self) -> Tensor:
        return torch.randn(self.samples, self.tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed))

    def update(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        return x - 0.2 * sum((output.value if isinstance(output, Held) else output for output in outputs), torch.zeros(()))

    def alone(self, model: nn.Module) -> tuple[list[Tensor], dict[str, Report]]:
        """Return what each step gives, and the reports, with nobody beside."""
        x, states = self.start(), []
        with torch.no_grad(), foreseer.attach(model, self.policy, **self.how) as attached, attached.run(timesteps=TIMES, groups=self.groups):
            for step in range(self.steps):
                x = self.update(x, [model(**call) for call in self.calls(step, x)])
                states.append(x)
        return states, attached.reports


@attrs.define(eq=False)
class Traffic:
    """Samplings in one batch: each joins at its tick."""

    batch: Batch
    samplings: Sequence[Sampling]
    joins: Sequence[int]
    leaves: dict[int, int] = attrs.field(factory=dict)
    states: dict[int, list[Tensor]] = attrs.field(factory=dict)
    reports: dict[int, dict[str, Report]] = attrs.field(factory=dict)
    errors: dict[int, BaseException] = attrs.field(factory=dict)

    def run(self, each: Callable[[int], object] = lambda tick: None) -> Traffic:
        under_way: dict[int, tuple[Request, Tensor]] = {}
        tick = 0
        while tick <= max(self.joins) or under_way:
            for index, joins in enumerate(self.joins):
                if joins == tick:
                    sampling = self.samplings[index]
                    under_way[index] = self.batch.join(sampling.policy, timesteps=TIMES, groups=sampling.groups, **sampling.how), sampling.start()
                    self.states[index] = []
            wanted = {index: [request(**call) for call in self.samplings[index].calls(len(self.states[index]), x)] for index, (request, x) in under_way.items()}
            self.batch.tick()
            each(tick)
            for index, futures in wanted.items():
                request, x = under_way[index]
                error = next((found for future in futures if (found := future.exception()) is not None), None)
                if error is None:
                    x = self.samplings[index].update(x, [future.result() for future in futures])
                    self.states[index].append(x)
                    under_way[index] = request, x
                made = len(self.states[index])
                if error is not None or made == self.samplings[index].steps or made == self.leaves.get(index):
                    if error is not None:
                        self.errors[index] = error
                    request.leave()
                    self.reports[index] = dict(request.reports)
                    del under_way[index]
            tick += 1
        return self


def decisions(reports: dict[str, Report]) -> list[list[tuple[Any, ...]]]:
    """What was decided in each stream and step: what a policy could tell."""
    return [[(o.step, o.computed, o.kind, o.accept, o.error) for o in report.outcomes] for report in reports.values()]
