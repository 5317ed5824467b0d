"""Laws of a model that is changed between two steps of a run: it is found anew, and forecasts come from steps behind the change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny import TINY
from torch import Tensor, nn

import foreseer
from foreseer.registry import parse_policy

STEPS, AT = 14, 4
POLICIES = [
    "taylorseer:interval=5,max_order=1",
    "taylorseer:interval=5,target=last_block",
    "reuse:interval=5,target=output",
    "cg_taylor:threshold=1e9,warmup_steps=2",
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.scale = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.scale(x)) * self.mlp(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def other(module: nn.Module) -> Any:
    return type(module)(*((8, 8) if isinstance(module, nn.Linear) else ())).requires_grad_(False)


def hook_a_layer(net: Any) -> None:
    net.blocks[1].mlp[0].register_forward_hook(lambda _module, _args, output: 2 * output)


def hook_a_block(net: Any) -> None:
    net.blocks[1].register_forward_hook(lambda _module, args, _output: args[0])


def hook_the_model(net: Any) -> None:
    net.register_forward_pre_hook(lambda _module, args: (2 * args[0], args[1]))


def skip_a_block(net: Any) -> None:
    net.blocks[1].forward = lambda x: x


def exchange_a_layer(net: Any) -> None:
    net.blocks[1].mlp[2] = other(net.blocks[1].mlp[2])


def exchange_what_is_no_part(net: Any) -> None:
    net.blocks[2].scale = other(net.blocks[2].scale)


def exchange_the_head(net: Any) -> None:
    net.head = other(net.head)


def append_a_block(net: Any) -> None:
    net.blocks.append(other(net.blocks[0]))


def delete_a_block(net: Any) -> None:
    del net.blocks[0]


def another_list(net: Any) -> None:
    net.blocks = nn.ModuleList(other(block) for block in net.blocks)


CHANGES = [
    hook_a_layer,
    hook_a_block,
    hook_the_model,
    skip_a_block,
    exchange_a_layer,
    exchange_what_is_no_part,
    exchange_the_head,
    append_a_block,
    delete_a_block,
    another_list,
]


def held(model: nn.Module, policy: str, change: Callable[[Any], None], *args: Any, **kwargs: Any) -> None:
    """Hold a model that is changed in the middle of a run against the changed model. Its arguments stay, so that every right forecast is exact."""
    outputs = []
    with torch.no_grad(), foreseer.attach(model, parse_policy(policy)) as attached:
        with attached.run(num_steps=STEPS):
            for step in range(STEPS):
                if step == AT:
                    change(model)
                outputs.append(model(*args, **kwargs))
        report = attached.report
        wanted = model(*args, **kwargs)
    wanted, after = torch.utils._pytree.tree_leaves(wanted)[0], [torch.utils._pytree.tree_leaves(output)[0] for output in outputs[AT:]]
    for output in after:
        torch.testing.assert_close(output, wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(torch.utils._pytree.tree_leaves(outputs[0])[0], wanted, rtol=1e-2, atol=1e-2), "the change changes nothing"
    assert AT in report.full_steps
    assert len(report.full_steps) < STEPS - 4
    assert any(f"step {AT}:" in warning and "began anew" in warning for warning in report.warnings)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("change", CHANGES)
def test_forecasts_come_from_steps_behind_the_change(change: Callable[[Any], None], policy: str) -> None:
    """Law: whatever is exchanged, hooked, appended or replaced, and wherever in the model; the report names the step."""
    torch.manual_seed(0)
    held(Net().requires_grad_(False), policy, change, torch.randn(2, 4, 8), torch.full((2,), 500.0))


def a_lora(model: Any) -> None:
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False), "style")
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.eval().requires_grad_(False)


def call_of(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A pipeline's model and the arguments of one of its calls."""
    pipe, given = TINY[name].build(), {}
    handle = pipe.transformer.register_forward_pre_hook(lambda _module, _args, kwargs: given.update(kwargs), with_kwargs=True)
    TINY[name].call(pipe, steps=1)
    handle.remove()
    return pipe.transformer, given


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["WanPipeline", "StableDiffusion3Pipeline"])
def test_a_lora_inside_of_the_parts_is_seen(name: str, policy: str) -> None:
    """Law: likewise an adapter on layers that no policy records, and switching it off."""
    model, given = call_of(name)
    held(model, policy, a_lora, **given)
    held(model, policy, lambda model: model.disable_adapters(), **given)


@pytest.mark.parametrize("policy", POLICIES)
def test_chunking_that_begins_between_two_steps_is_seen(policy: str) -> None:
    """Law: no part is forecast whole in the place of each chunk."""
    tiny = TINY["StableDiffusion3Pipeline"]
    pipe, steps = tiny.build(), 10

    def chunk(pipe: Any, step: int, _time: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            pipe.transformer.enable_forward_chunking(2, 1)
        return inputs

    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        tiny.call(pipe, steps=steps, callback_on_step_end=chunk)
        assert any("step 4:" in warning and "began anew" in warning for warning in attached.report.warnings)
