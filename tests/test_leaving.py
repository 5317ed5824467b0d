"""Laws of modules that several hold, and of leaving them: in any order, from anywhere and whatever raises, nothing of ours stays."""

from typing import Any

import pytest
import torch
from tiny import TINY
from torch import Tensor, nn

import foreseer
from foreseer import hookimpl

TIMES = [1000.0 - 60 * step for step in range(12)]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x) + time)


class Net(nn.Module):
    def __init__(self, blocks: nn.ModuleList | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3)) if blocks is None else blocks
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, torch.sin(timestep / 300).reshape(-1, 1, 1))
        return self.head(x)


def touched(*models: nn.Module) -> int:
    """How many modules calls are led away from."""
    return sum("_compiled_call_impl" in vars(module) for model in models for module in model.modules())


def loop(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [model(torch.ones(2, 4, 8), torch.full((2,), time)) for time in TIMES]


def driven(model: nn.Module, attached: foreseer.Attachment) -> list[Tensor]:
    with attached.run(timesteps=TIMES):
        return loop(model)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize(("name", "second"), [("FluxPipeline", "dit"), ("WanPipeline", "dit"), ("WanPipeline:2.2", "transformer_2")])
def test_a_denoiser_under_two_names_is_one(name: str, second: str) -> None:
    """Law: it is driven once, as under one name, and bare after detaching."""
    tiny, pipe = TINY[name], TINY[name].build()
    if second == "transformer_2":
        pipe.register_modules(transformer_2=pipe.transformer)
    else:
        with foreseer.attach(pipe, "reuse", interval=3) as attached:
            wanted, streams = tiny.call(pipe, steps=8), list(attached.reports)
        setattr(pipe, second, pipe.transformer)
    bare = tiny.call(pipe, steps=8)
    with foreseer.attach(pipe, "reuse", interval=3) as attached:
        output = tiny.call(pipe, steps=8)
        assert len(attached.report.full_steps) < 8
    assert not torch.equal(output, bare)
    assert second == "transformer_2" or (torch.equal(output, wanted) and list(attached.reports) == streams)
    assert not touched(pipe.transformer)
    assert torch.equal(tiny.call(pipe, steps=8), bare)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_models_that_share_their_blocks_are_attached_and_detached_in_any_order(order: tuple[int, int]) -> None:
    """Law: each gives what it gives alone while both are attached, and nothing stays on the blocks."""
    one = Net()
    models = [one, Net(one.blocks)]
    bare, alone = [loop(model) for model in models], []
    for model in models:
        with foreseer.attach(model, "reuse", interval=3) as attached:
            alone.append(driven(model, attached))
    both = [foreseer.attach(model, "reuse", interval=3) for model in models]
    for model, attached, wanted in zip(models, both, alone, strict=True):
        assert equal(driven(model, attached), wanted)
    both[order[0]].detach()
    assert equal(driven(models[order[1]], both[order[1]]), alone[order[1]])
    both[order[1]].detach()
    assert not touched(*models)
    assert all(equal(loop(model), wanted) for model, wanted in zip(models, bare, strict=True))


def test_pipelines_that_share_a_component_leave_nothing_on_it() -> None:
    """Law: likewise what is only looked at, as a VAE."""
    pipes = [TINY["FluxPipeline"].build() for _ in range(2)]
    pipes[1].vae = pipes[0].vae
    both = [foreseer.attach(pipe, "reuse", interval=3) for pipe in pipes]
    for attached in both:
        attached.detach()
    assert not touched(pipes[0].vae)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_detaching_comes_to_its_end_whatever_is_raised(raised: type[BaseException]) -> None:
    """Law: what an observer raises as a run ends reaches who detaches, and the model is bare all the same."""

    class Raises:
        @hookimpl
        def on_run_end(self, report: Any) -> None:
            raise raised

    model = Net()
    attached = foreseer.attach(model, "reuse", interval=3, observers=[Raises()])
    under_way = attached.run(timesteps=TIMES)
    under_way.__enter__()
    loop(model)
    with pytest.raises(raised):
        attached.detach()
    assert not touched(model)
    assert len(attached.report.outcomes) == len(TIMES)
    foreseer.attach(model, "reuse").detach()


@pytest.mark.parametrize("policy", ["reuse:interval=3,target=last_block", "reuse:interval=3,target=output", "speca:threshold=0.5,target=last_block"])
@pytest.mark.parametrize("at", [2, 3, 4])
def test_who_detaches_from_within_a_call_gets_that_call_to_its_end(at: int, policy: str) -> None:
    """Law: the call gives what it would have given, later ones are bare, and nothing of ours is left."""
    model, calls = Net(), [0]
    bare = loop(model)
    with foreseer.attach(model, policy) as attached:
        wanted = driven(model, attached)
    attached = foreseer.attach(model, policy)

    def leave(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == at:
            attached.detach()
            attached.detach()

    handle = model.blocks[0].register_forward_hook(leave)
    outputs = driven(model, attached)
    handle.remove()
    assert calls[0] >= at
    over = len(attached.report.outcomes)
    assert equal(outputs, [*wanted[:over], *bare[over:]])
    assert not touched(model)
    assert equal(loop(model), bare)
