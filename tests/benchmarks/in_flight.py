"""What batching requests at different steps costs: sixteen that started at random against a static batch of as many.

    python tests/benchmarks/in_flight.py --out docs/results/in_flight.json

*Static*: the samples of all requests are the rows of one loop, which `foreseer.attach` drives. *In flight*: each
request is a loop of its own in one `Batch`, and who has ended is replaced, so that their steps stay spread. Both
make as many evaluations of as many rows. Time is that of the processor on one thread, told apart by what is spent
inside of the model's blocks, whose batches are smaller where requests are at different steps, and the rest.
Every repeat has full computation and each policy once, both ways; medians of what was paired.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
import torch
from laws import Inside, watched
from torch import Tensor, nn

import foreseer
from foreseer.adapters.batching import Batch
from foreseer.adapters.requests import Request
from foreseer.bench.machine import git_state, machine, threads, versions
from foreseer.zoo import load_dit, load_flux
from foreseer.zoo.ddim import ddim_timesteps
from foreseer.zoo.dit import CONFIG, NULL_CLASS, alphas_cumprod, build

REQUESTS = 16
STEPS = 20
WANTED = 0.9
POLICIES = (
    "taylorseer:interval=4,target=last_block",
    "taylorseer:interval=4",
    "agreement",
    "cg_taylor:threshold=0.06",
    "speca:threshold=0.1",
)


class Sampler(Protocol):
    """How a model is sampled. ``times``: ``(T,)`` its timesteps; ``policies``: what is measured on it."""

    model: nn.Module
    policies: Sequence[str]
    times: Sequence[float]

    def inputs(self, seed: int, samples: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return initial noise of so many samples, and what else every call is given."""

    def call(self, step: int, x: Tensor, given: dict[str, Tensor]) -> dict[str, Any]:
        """Return the arguments of the evaluation of a step."""

    def update(self, step: int, x: Tensor, output: Any) -> Tensor:
        """Return the next latents."""


class Dit:
    """DDIM with guidance by concatenation: two rows a sample."""

    policies, side = POLICIES, 8

    def __init__(self) -> None:
        self.model, self.times = self.build(), ddim_timesteps(STEPS)
        self._kept = [*alphas_cumprod()[self.times].tolist(), 1.0]

    def build(self) -> nn.Module:
        """Return the model."""
        model: nn.Module = load_dit()
        return model

    def inputs(self, seed: int, samples: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Sampler`."""
        noise = torch.randn(samples, 1, self.side, self.side, generator=torch.Generator().manual_seed(seed))
        labels = (torch.arange(samples) + seed) % 10
        return noise, {"class_labels": torch.cat([labels, torch.full_like(labels, NULL_CLASS)])}

    def call(self, step: int, x: Tensor, given: dict[str, Tensor]) -> dict[str, Any]:
        """See `Sampler`."""
        return {"hidden_states": torch.cat([x, x]), "timestep": torch.full((2 * len(x),), self.times[step]), **given}

    def update(self, step: int, x: Tensor, output: Any) -> Tensor:
        """See `Sampler`."""
        cond, uncond = output.sample[:, :1].chunk(2)
        noise, a, a_next = uncond + 1.5 * (cond - uncond), self._kept[step], self._kept[step + 1]
        return a_next**0.5 * (x - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - a_next) ** 0.5 * noise


class Wide(Dit):
    """The same on images of 16 by 16, 256 wide, with random weights: four times the tokens, and nine times the work. What a gate
    decides there means nothing, so that only schedules are measured.
    """

    policies, side = POLICIES[:2], 16

    def build(self) -> nn.Module:
        """See `Dit`."""
        torch.manual_seed(0)
        model: nn.Module = build({**CONFIG, "num_attention_heads": 8, "sample_size": self.side})
        return model.eval().requires_grad_(False)


class Flux:
    """Euler with distilled guidance: one row a sample."""

    policies = POLICIES

    def __init__(self) -> None:
        self._pipe = load_flux()
        self.model = self._pipe.transformer
        self._pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=0.47)
        self.times, self._sigmas = self._pipe.scheduler.timesteps.tolist(), self._pipe.scheduler.sigmas.tolist()

    def inputs(self, seed: int, samples: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Sampler`."""
        text, pooled, ids = self._pipe.encode_prompt([str((index + seed) % 10) for index in range(samples)], None)
        noise, places = self._pipe.prepare_latents(samples, 1, 16, 16, text.dtype, text.device, torch.Generator().manual_seed(seed))
        same = {"encoder_hidden_states": text, "pooled_projections": pooled, "txt_ids": ids, "img_ids": places}
        return noise, {**same, "guidance": torch.full((samples,), 3.5)}

    def call(self, step: int, x: Tensor, given: dict[str, Tensor]) -> dict[str, Any]:
        """See `Sampler`."""
        return {"hidden_states": x, "timestep": torch.full((len(x),), self.times[step] / 1000), **given}

    def update(self, step: int, x: Tensor, output: Any) -> Tensor:
        """See `Sampler`."""
        return x + (self._sigmas[step + 1] - self._sigmas[step]) * output.sample


@attrs.define
class Spent:
    """Processor seconds of an evaluation of all requests, and those of them inside of blocks."""

    seconds: float
    inside: float

    @property
    def beside(self) -> float:
        """What is outside of blocks."""
        return self.seconds - self.inside


class Clock:
    """Takes the processor's time, and that inside of a model's blocks: within whatever is attached around it."""

    def __init__(self) -> None:
        self._inside = Inside()

    def watching(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Watch the blocks."""
        return watched(model, self._inside)

    def take(self, work: Callable[[], object], times: int) -> Spent:
        """Do it so often, and return what each time took in the mean."""
        inside, began = self._inside.seconds, time.process_time()
        for _ in range(times):
            work()
        return Spent((time.process_time() - began) / times, (self._inside.seconds - inside) / times)


def static(sampler: Sampler, policy: str, samples: int, clock: Clock) -> Spent:
    """Measure a static batch: a whole sampling, after a few steps of another."""
    x, given = sampler.inputs(0, samples)

    def sample(steps: int) -> None:
        y = x
        for step in range(steps):
            y = sampler.update(step, y, sampler.model(**sampler.call(step, y, given)))

    with contextlib.ExitStack() as stack:
        attached = stack.enter_context(foreseer.attach(sampler.model, policy)) if policy != "none" else None

        def run(steps: int) -> None:
            with contextlib.nullcontext() if attached is None else attached.run(timesteps=sampler.times, groups=samples):
                sample(steps)

        run(4)
        whole = clock.take(lambda: run(STEPS), 1)
    return Spent(whole.seconds / STEPS, whole.inside / STEPS)


def in_flight(sampler: Sampler, policy: str, samples: int, clock: Clock) -> tuple[Spent, float]:
    """Measure requests in flight for as many ticks as one has steps, and the calls of the model in each."""
    draw, live, joined = random.Random(0), list[_Loop](), 0
    starts = [0, *sorted(draw.randrange(STEPS) for _ in range(REQUESTS - 1))]
    with Batch(sampler.model) as batch:

        def tick() -> None:
            nonlocal joined
            while len(live) < REQUESTS and (not starts or starts[0] <= ticks):
                if starts:
                    starts.pop(0)
                live.append(_Loop(batch.join(policy, timesteps=sampler.times, groups=samples), sampler, joined, samples))
                joined += 1
            futures = [loop.ask() for loop in live]
            batch.tick()
            for loop, future in zip(list(live), futures, strict=True):
                if loop.go_on(future.result()):
                    live.remove(loop)

        ticks = 0
        while starts:
            tick()
            ticks += 1
        called = batch.calls
        spent = clock.take(tick, STEPS)
        return spent, (batch.calls - called) / STEPS


class _Loop:
    """A request's loop."""

    def __init__(self, request: Request, sampler: Sampler, seed: int, samples: int) -> None:
        self._request, self._sampler, self._step = request, sampler, 0
        self._x, self._given = sampler.inputs(seed, samples)

    def ask(self) -> Any:
        """Ask for the evaluation of its step."""
        return self._request(**self._sampler.call(self._step, self._x, self._given))

    def go_on(self, output: Any) -> bool:
        """Go to the next step. Returns whether it has left after its last."""
        self._x, self._step = self._sampler.update(self._step, self._x, output), self._step + 1
        if self._step == STEPS:
            self._request.leave()
        return self._step == STEPS


def measure(sampler: Sampler, samples: int, repeats: int, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Measure each policy both ways, beside full computation both ways.

    Returns:
        For each policy medians over the repeats: ``static`` and ``in_flight``, the speed-ups over full
        computation served the same way; ``share``, the second over the first; ``of_static``, the time of the static
        batch over that in flight. ``lost_inside`` and ``lost_beside``: what an evaluation in flight takes more than in
        the static batch, inside of the blocks and outside, over all that the static batch takes. ``seconds``: of an
        evaluation of all requests, static and in flight. ``calls``: of the model in a tick.
    """
    clock, found = Clock(), dict[str, list[dict[str, float]]]()
    with threads(1), torch.no_grad(), clock.watching(sampler.model):
        for repeat in range(repeats):
            tell(f"{type(sampler).__name__}, {samples} a request, repeat {repeat + 1} of {repeats}")
            both = {}
            for policy in ("none", *sampler.policies):
                both[policy] = alike, (spread, calls) = static(sampler, policy, REQUESTS * samples, clock), in_flight(sampler, policy, samples, clock)
                full, (full_in_flight, _) = both["none"]
                line = {
                    "static": full.seconds / alike.seconds,
                    "in_flight": full_in_flight.seconds / spread.seconds,
                    "of_static": alike.seconds / spread.seconds,
                    "lost_inside": (spread.inside - alike.inside) / alike.seconds,
                    "lost_beside": (spread.beside - alike.beside) / alike.seconds,
                    "static_seconds": alike.seconds,
                    "in_flight_seconds": spread.seconds,
                    "calls": calls,
                }
                line["share"] = line["in_flight"] / line["static"]
                found.setdefault(policy, []).append(line)
    return [{"policy": policy, **{key: statistics.median(line[key] for line in lines) for key in lines[0]}} for policy, lines in found.items()]


def main(out: Path, models: Sequence[str], counts: Sequence[int], repeats: int) -> None:
    """Measure, write the file after each part, and print what was found."""
    content = {"machine": machine("cpu"), "versions": versions(), "git": git_state(), "requests": REQUESTS, "steps": STEPS, "parts": list[Any]()}
    for samples in counts:
        for model in models:
            fewer = max(1, repeats // samples // (3 if model == "wide" else 1))  # as many samples take as much longer
            if model == "wide" and samples > 1:
                continue
            lines = measure({"dit": Dit, "flux": Flux, "wide": Wide}[model](), samples, fewer, print)
            content["parts"].append({"model": model, "samples": samples, "repeats": fewer, "lines": lines})
            out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            for line in lines:
                told = ", ".join(f"{key} {line[key]:.2f}" for key in ("static", "in_flight", "share", "of_static", "lost_inside", "lost_beside", "calls"))
                print(f"{model}, {samples} a request, {line['policy']}: {told}; wanted is a share of {WANTED}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=("dit", "flux", "wide"), default=("flux", "dit", "wide"))
    parser.add_argument("--samples", nargs="+", type=int, default=(1, 4))
    parser.add_argument("--repeats", type=int, default=3, help="of one sample a request; fewer where there are more")
    given = parser.parse_args()
    main(given.out, given.models, given.samples, given.repeats)
