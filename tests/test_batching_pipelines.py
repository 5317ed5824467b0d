"""Laws of requests in one batch on real models: pipelines that know nothing of it, each in a thread, with one transformer for all."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import pytest
import torch
from tiny import TINY, Tiny
from torch import Tensor

import foreseer
from foreseer import Report
from foreseer.adapters.batching import Batch
from foreseer.adapters.denoisers import find_denoisers

STEPS, SEEDS = 5, (0, 7)
POLICIES = ("taylorseer:interval=3,target=last_block", "taylorseer:interval=3", "cg_taylor:threshold=0.5,warmup_steps=2", "agreement")
ONE_BY_ONE = {
    "Flux2KleinKVPipeline": "holds the state of its rows",
    "HunyuanVideoFramepackPipeline": "do not lie in one dimension",
    "ZImagePipeline": "is a list with a tensor for each row",
    "ZImagePipeline:cfg_truncation": "is a list with a tensor for each row",
    "ZImageImg2ImgPipeline": "is a list with a tensor for each row",
}
"""Whose calls cannot be joined, and what is said of it."""
SINGLE = [name for name in TINY if ":2.2" not in name or name.endswith("5B")]
CASES = [(name, POLICIES[i % len(POLICIES)]) for i, name in enumerate(SINGLE)]


@attrs.define(eq=False)
class Drawn:
    image: Tensor | BaseException
    reports: dict[str, Report]


def drawn_alone(tiny: Tiny, policy: Any, seed: int, steps: int = STEPS) -> Drawn:
    pipe = tiny.build()
    (model,) = find_denoisers(pipe)[0].values()
    with foreseer.attach(model, policy) as attached, attached.generation(num_steps=steps, by_itself=True) as generation, generation.call(groups=1):
        image = tiny.call(pipe, steps=steps, seed=seed)
    return Drawn(image, attached.reports)


def drawn_together(tiny: Tiny, policy: Any, steps: int = STEPS) -> tuple[list[Drawn], int]:
    """Draw for all seeds at once. Returns what was drawn, and how many calls of the model it took."""
    pipes = [tiny.build() for _ in SEEDS]
    ((name, model),) = find_denoisers(pipes[0])[0].items()
    found: dict[int, Drawn] = {}
    ready = threading.Barrier(len(SEEDS))
    with Batch(model, linger=5.0) as batch:

        def draw(index: int, pipe: Any) -> None:
            with batch.join(policy, num_steps=steps, groups=1) as request:
                pipe.__dict__[name] = request.model
                ready.wait(60)
                try:
                    image: Tensor | BaseException = tiny.call(pipe, steps=steps, seed=SEEDS[index])
                except BaseException as error:
                    image = error
                found[index] = Drawn(image, dict(request.reports))

        threads = [threading.Thread(target=draw, args=(index, pipe)) for index, pipe in enumerate(pipes)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            batch.tick(wait=0.02)
        return [found[index] for index in range(len(SEEDS))], batch.calls


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize(("name", "policy"), CASES)
def test_a_pipeline_gets_what_it_gets_alone(name: str, policy: str) -> None:
    """Law: to the row tolerance, with the same decisions; where calls cannot be joined the report says why."""
    tiny = TINY[name]
    together, _ = drawn_together(tiny, policy)
    for seed, drawn in zip(SEEDS, together, strict=True):
        alone = drawn_alone(tiny, policy, seed)
        assert isinstance(drawn.image, Tensor), drawn.image
        assert isinstance(alone.image, Tensor)
        assert bool((drawn.image - alone.image).norm() <= 1e-3 * alone.image.norm() + 1e-6)
        assert [[o.computed for o in report.outcomes] for report in drawn.reports.values()] == [
            [o.computed for o in report.outcomes] for report in alone.reports.values()
        ]
        said = [note for report in drawn.reports.values() for note in report.warnings if "one by one" in note]
        assert bool(said) == (name in ONE_BY_ONE)
        assert all(ONE_BY_ONE[name] in note for note in said)


class Gate:
    """Forecasts what the blocks behind the first add up to, and lets through what the first block's output says in some steps."""

    @foreseer.hookimpl
    def setup(self, run: foreseer.Run) -> foreseer.Needs:
        self.site = foreseer.Site(run.depth - 1, since=0)
        return foreseer.Needs(sites=(self.site,), evidence=(foreseer.Site(0),))

    @foreseer.hookimpl
    def before_step(self, step: foreseer.Step) -> foreseer.Plan | None:
        return foreseer.Plan(forecast=(self.site,), probe=foreseer.Probe(block=0, on="input")) if step.index else None

    @foreseer.hookimpl
    def predict_features(self, step: foreseer.Step, sites: tuple[foreseer.Site, ...], history: foreseer.History) -> Any:
        return {self.site: history.features(self.site)[0]}

    @foreseer.hookimpl
    def verify(self, step: foreseer.Step, evidence: foreseer.Evidence) -> foreseer.Verdict:
        rows = evidence.computed.flatten(1).mean(1)
        return foreseer.Verdict(rows.abs().float(), torch.full((len(rows),), step.index % 3 != 0), 1.0)


def test_a_gate_that_refuses_beside_others_keeps_what_it_forecasts() -> None:
    """Law: a pass that goes on computing beside others is held bit for bit against none that was made alone."""
    tiny, policy = TINY["FluxPipeline"], lambda: (Gate(),)
    together, calls = drawn_together(tiny, policy, steps=9)
    for seed, drawn in zip(SEEDS, together, strict=True):
        alone = drawn_alone(tiny, policy, seed, steps=9)
        assert torch.allclose(drawn.image, alone.image, atol=1e-4)
        assert [[o.computed for o in r.outcomes] for r in drawn.reports.values()] == [[o.computed for o in r.outcomes] for r in alone.reports.values()]
        assert not any("forecast instead" in note for report in drawn.reports.values() for note in report.warnings)
    assert calls < 2 * 9 + 6


def test_calls_are_joined() -> None:
    """Law: two requests in step make as many calls as one, but for what is found out about the model."""
    calls = drawn_together(TINY["FluxPipeline"], "none", steps=12)[1]
    assert 12 <= calls <= 12 + 6


def test_prompts_of_other_lengths_and_other_sizes_are_calls_of_their_own() -> None:
    """Law: what cannot be one call is several, and each gets what it gets alone."""
    from foreseer.zoo import load_flux

    transformer = load_flux().transformer
    times = [1.0, 0.75, 0.5, 0.25]

    def call(side: int, length: int, step: int) -> dict[str, Any]:
        drawn = torch.Generator().manual_seed(side + length)
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
        return {
            "hidden_states": torch.randn(1, side * side, 4, generator=drawn),
            "timestep": torch.tensor([times[step]]),
            "guidance": torch.tensor([3.5]),
            "pooled_projections": torch.randn(1, 32, generator=drawn),
            "encoder_hidden_states": torch.randn(1, length, 32, generator=drawn),
            "txt_ids": torch.zeros(length, 3),
            "img_ids": torch.nn.functional.pad(places, (1, 0)),
        }

    kinds = [(8, 4), (8, 4), (8, 6), (4, 4)]
    with Batch(transformer) as batch, torch.no_grad():
        requests = [batch.join("taylorseer:interval=2,target=last_block", timesteps=times) for _ in kinds]
        outputs = []
        for step in range(len(times)):
            before = batch.calls
            futures = [request(**call(side, length, step)) for request, (side, length) in zip(requests, kinds, strict=True)]
            batch.tick()
            outputs.append([future.result().sample for future in futures])
        assert batch.calls - before == 3
    with torch.no_grad():
        for index, (side, length) in enumerate(kinds):
            with foreseer.attach(transformer, "taylorseer:interval=2,target=last_block") as attached, attached.run(timesteps=times):
                for step in range(len(times)):
                    torch.testing.assert_close(outputs[step][index], transformer(**call(side, length, step)).sample, rtol=1e-4, atol=1e-5)
