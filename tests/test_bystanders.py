"""Laws of denoisers that no policy drives: the report says which were called, and from where on."""

import copy
from typing import Any

import diffusers
import pytest
import torch
from tiny import TINY, wan
from tiny.common import drawn
from torch import nn

import foreseer

STEPS = 12


class Pipeline(diffusers.DiffusionPipeline):
    """With experts for its later steps, which it finds as it likes."""

    def __init__(self, transformer: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.experts: Any = None
        self.exchanged: Any = None
        self.first = 6

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        latents = torch.ones(1, 4, 2, 4, 4)
        self.scheduler.set_timesteps(STEPS)
        for i, time in enumerate(self.scheduler.timesteps):
            if i == 5 and self.exchanged is not None:
                self.transformer = self.exchanged()
            model = self.transformer if i < self.first or self.experts is None else expert(self.experts)
            velocity = model(hidden_states=latents, timestep=time.expand(1), encoder_hidden_states=drawn("prompt", 6, 16)[None], return_dict=False)[0]
            latents = self.scheduler.step(velocity, time, latents, return_dict=False)[0]
        self.maybe_free_model_hooks()
        return latents


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Holder:
    def __init__(self, model: nn.Module) -> None:
        self.model = model


def expert(held: Any) -> nn.Module:
    if isinstance(held, (Wrapper, Holder)):
        return held.model
    return held["low"] if isinstance(held, (dict, nn.ModuleDict)) else held[0]


@pytest.mark.parametrize(
    ("held", "name"),
    [
        (lambda model: nn.ModuleList([model]), "experts.0"),
        (lambda model: nn.ModuleDict({"low": model}), "experts.low"),
        (lambda model: [model], "experts.0"),
        (lambda model: {"low": model}, "experts.low"),
        (Wrapper, "experts.model"),
        (Holder, "experts.model"),
    ],
)
def test_a_denoiser_inside_of_something_is_named_where_it_is_called(held: Any, name: str) -> None:
    """Law: wherever a pipeline holds it; what is not called is not named, and nothing stays on either."""
    pipe = Pipeline(wan.transformer(), wan.unipc())
    bare = pipe()
    pipe.experts = held(wan.transformer(seed=1))
    mixed = pipe()
    assert not torch.equal(bare, mixed)
    with foreseer.attach(pipe, "reuse", interval=3) as attached:
        pipe()
        said = [warning for warning in attached.report.warnings if "is not driven" in warning]
        assert [warning.split(" ")[0] for warning in said] == [name]
        assert "6 steps" in said[0]
    assert torch.equal(pipe(), mixed)
    assert not any("_compiled_call_impl" in vars(module) for part in (pipe.transformer, expert(pipe.experts)) for module in part.modules())


def test_a_denoiser_that_is_exchanged_in_the_middle_of_a_generation_is_named() -> None:
    """Law: with the step; the next generation is refused, as ever."""
    pipe = Pipeline(wan.transformer(), wan.unipc())
    before, pipe.exchanged = pipe.transformer, lambda: wan.transformer(seed=5)
    with foreseer.attach(pipe, "reuse", interval=3) as attached:
        pipe()
        assert any("transformer was exchanged behind step 4" in warning for warning in attached.report.warnings)
        with pytest.raises(foreseer.ContractError, match="exchanged"):
            pipe()
        pipe.transformer, pipe.exchanged = before, None
        pipe()
        assert not any("exchanged" in warning for warning in attached.report.warnings)
    assert len(attached.report.outcomes) == STEPS


def test_a_scheduler_that_is_exchanged_in_the_middle_of_a_generation_is_named() -> None:
    """Law: what is behind it is a generation of its own, driven, and the report says so; the one after it has nothing to say."""
    tiny = TINY["FluxPipeline"]
    pipe = tiny.build()

    def exchange(pipe: Any, step: int, _time: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            pipe.scheduler = copy.deepcopy(pipe.scheduler)
        return inputs

    with foreseer.attach(pipe, "reuse", interval=3) as attached:
        tiny.call(pipe, steps=8, callback_on_step_end=exchange)
        assert any("scheduler was exchanged behind step 3" in warning for warning in attached.report.warnings)
        tiny.call(pipe, steps=8)
        assert not any("exchanged" in warning for warning in attached.report.warnings)
        assert len(attached.report.outcomes) == 8
