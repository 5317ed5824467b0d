"""A long life of one attachment, drawn at random beside a fresh one: whatever happens in between, a call gives what an attachment made for it gives."""

import copy
import gc
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from counting import counted
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from peft import LoraConfig
from tiny import TINY
from tiny.common import accepted
from torch import Tensor, nn

import foreseer
from foreseer.adapters.blocks import find_blocks
from foreseer.registry import parse_policy

POLICIES = [
    "none",
    "reuse:interval=2",
    "taylorseer:interval=3,max_order=1",
    "taylorseer:interval=3,target=last_block",
    "taylorseer:interval=2,target=output",
    "cg_taylor:threshold=0.5,warmup_steps=2",
    "speca:threshold=0.5,threshold_decay=1,warmup_steps=2,max_order=1",
    "speca:threshold=0.3,threshold_decay=1,warmup_steps=2,target=last_block",
]
ADAPTED = {"FluxPipeline": ["to_q", "proj_out"], "WanPipeline": ["to_k", "proj"], "StableDiffusion3Pipeline": ["to_v", "proj"]}
"""Layers that a LoRA is put on: inside of parts, and parts themselves."""


class Stopped(Exception):  # noqa: N818
    """What a user raises to stop a model."""


class Shortened:
    """A pipeline whose prompts are cut to some length."""

    def __init__(self, pipe: Any, length: int) -> None:
        self._pipe, self._length = pipe, length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def __call__(self, **arguments: Any) -> Any:
        for name, value in arguments.items():
            if "embeds" in name and "pooled" not in name and isinstance(value, Tensor) and value.ndim == 3:
                arguments[name] = value[:, : self._length]
        return self._pipe(**arguments)


def live_tensors() -> int:
    gc.collect()
    return sum(type(found) in (Tensor, nn.Parameter) for found in gc.get_objects())


class LongLife(RuleBasedStateMachine):
    """Two equal pipelines. One has the attachment that lives; to the other the same happens, and it gets a fresh attachment for each call."""

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = TINY[self.name]
        self.pipe, self.mirror = self.tiny.build(), self.tiny.build()
        self.undo: list[Callable[[], None]] = []
        self.attached: foreseer.Attachment | None = None
        self.alive = live_tensors()

    def both(self) -> tuple[Any, Any]:
        return self.pipe, self.mirror

    @initialize(policy=st.sampled_from(POLICIES))
    def begin(self, policy: str) -> None:
        self.policy = policy
        self.attached = foreseer.attach(self.pipe, parse_policy(policy))

    def draw(self, pipe: Any, ask: dict[str, Any], length: int, cast: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=cast), accepted():
            return self.tiny.call(Shortened(pipe, length), **ask)

    calls = {  # noqa: RUF012
        "ask": st.fixed_dictionaries(
            {
                "steps": st.integers(2, 7),
                "batch": st.integers(1, 2),
                "size": st.sampled_from([None, None, "large"]),
                "guidance": st.booleans(),
                "seed": st.integers(0, 3),
            }
        ),
        "length": st.sampled_from([6, 6, 4, 2]),
        "cast": st.sampled_from([False, False, False, True]),
    }

    @rule(**calls)
    def call(self, ask: dict[str, Any], length: int, cast: bool) -> None:
        """Law: the output is a fresh attachment's, bit for bit, `none` is the bare model's, and block calls are the report's."""
        with foreseer.attach(self.mirror, parse_policy(self.policy)) as fresh:
            wanted = self.draw(self.mirror, ask, length, cast)
        output = self.draw(self.pipe, ask, length, cast)
        assert torch.equal(output, wanted)
        assert self.attached is not None
        ours, theirs = self.attached.reports, fresh.reports
        assert list(ours) == list(theirs)
        for one, other in zip(ours.values(), theirs.values(), strict=True):
            assert one.finished
            assert one.computed.tolist() == other.computed.tolist()
        if self.policy == "none":
            assert torch.equal(output, self.draw(self.mirror, ask, length, cast))

    @rule(**calls)
    def count(self, ask: dict[str, Any], length: int, cast: bool) -> None:
        """Law: what the reports say was computed is what was computed. The hooks that count are another change that is followed."""
        with counted(self.pipe.transformer) as count:
            self.draw(self.pipe, ask, length, cast)
        assert self.attached is not None
        assert count[0] == sum(report.block_rows + report.check_block_rows for report in self.attached.reports.values())

    @rule(block=st.integers(0, 5), at=st.integers(1, 12), **calls)
    def stop(self, block: int, at: int, ask: dict[str, Any], length: int, cast: bool) -> None:
        """Law: a run that somebody stops inside of a block ends, its report too, and nothing of it is left."""
        blocks, calls = [module for _, module in find_blocks(self.pipe.transformer)], [0]

        def raise_in_time(*_: Any) -> None:
            calls[0] += 1
            if calls[0] == at:
                raise Stopped

        handle = blocks[block % len(blocks)].register_forward_pre_hook(raise_in_time)
        try:
            self.draw(self.pipe, ask, length, cast)
        except Stopped:
            assert self.attached is not None
            assert all(report.finished for report in self.attached.reports.values())
        finally:
            handle.remove()

    @rule(block=st.integers(0, 5))
    def hook(self, block: int) -> None:
        """Somebody takes part in a block."""

        def larger(_module: nn.Module, _args: Any, output: Any) -> Any:
            return tuple(o if o is None else 1.25 * o for o in output) if isinstance(output, tuple) else 1.25 * output

        for pipe in self.both():
            blocks = [module for _, module in find_blocks(pipe.transformer)]
            self.undo.append(blocks[block % len(blocks)].register_forward_hook(larger).remove)

    @rule(block=st.integers(0, 5))
    def hand_through(self, block: int) -> None:
        """A block's `forward` hands its streams through, as a hook that skips layers does."""

        def restore(module: nn.Module) -> Callable[[], None]:
            def back() -> None:
                module.__dict__.pop("forward", None)

            return back

        for pipe in self.both():
            module = [module for _, module in find_blocks(pipe.transformer)][block % len(find_blocks(pipe.transformer))]

            def through(hidden_states: Tensor, encoder_hidden_states: Any = None, *args: Any, like: nn.Module = module, **kwargs: Any) -> Any:
                if "Flux" in type(like).__name__:
                    return encoder_hidden_states, hidden_states
                return (encoder_hidden_states, hidden_states) if "Joint" in type(like).__name__ else hidden_states

            object.__setattr__(module, "forward", through)
            self.undo.append(restore(module))

    @precondition(lambda self: self.undo)
    @rule()
    def unhook(self) -> None:
        """Both lose what was put on last."""
        self.undo.pop()()
        self.undo.pop()()

    @precondition(lambda self: not hasattr(self.pipe.transformer, "peft_config"))
    @rule()
    def load_lora(self) -> None:
        """Layers are exchanged for others that wrap them."""
        for pipe in self.both():
            pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=ADAPTED[self.name], init_lora_weights=False), "style")
            generator = torch.Generator().manual_seed(5)
            for name, parameter in pipe.transformer.named_parameters():
                if "lora_" in name:
                    parameter.data = (0.3 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
            pipe.transformer.eval().requires_grad_(False)

    @precondition(lambda self: hasattr(self.pipe.transformer, "peft_config"))
    @rule()
    def delete_lora(self) -> None:
        """They come back."""
        for pipe in self.both():
            pipe.transformer.unload_lora()
            pipe.transformer.__dict__.pop("peft_config", None)

    @rule(ask=calls["ask"], deep=st.booleans())
    def use_a_copy(self, ask: dict[str, Any], deep: bool) -> None:
        """Law: a copy that is made meanwhile is bare; one with a scheduler of its own disturbs nobody."""
        view = copy.deepcopy(self.pipe) if deep else copy.copy(self.pipe)
        if not deep:
            view.scheduler = copy.copy(self.pipe.scheduler)
        assert torch.equal(self.draw(view, ask, 6, False), self.draw(self.mirror, ask, 6, False))

    @rule(ask=calls["ask"], share=st.sampled_from(["scheduler", "transformer", "both"]))
    def use_another_pipeline(self, ask: dict[str, Any], share: str) -> None:
        """Law: another pipeline with the same scheduler or model is bare."""
        other = type(self.pipe)(**self.mirror.components)
        other.set_progress_bar_config(disable=True)
        if share != "transformer":
            other.scheduler = self.pipe.scheduler
        if share != "scheduler":
            other.transformer = self.pipe.transformer
        assert torch.equal(self.draw(other, ask, 6, False), self.draw(self.mirror, ask, 6, False))

    @rule()
    def read(self) -> None:
        """Law: a report can be read at any time."""
        assert self.attached is not None
        for report in self.attached.reports.values():
            assert json.loads(report.to_json())["policy"] == report.policy
            assert str(report)

    @rule(policy=st.sampled_from(POLICIES), ask=calls["ask"])
    def detach(self, policy: str, ask: dict[str, Any]) -> None:
        """Law: what is detached is bare bit for bit, keeps no model, and another policy may come."""
        assert self.attached is not None
        old = self.attached
        old.detach()
        assert torch.equal(self.draw(self.pipe, ask, 6, False), self.draw(self.mirror, ask, 6, False))
        self.policy = policy
        self.attached = foreseer.attach(self.pipe, parse_policy(policy))
        assert len(old.reports) in (0, 1, 2)

    def teardown(self) -> None:
        """Law: when everything is taken off, no tensor is alive that was not before, but what schedulers keep of their last call."""
        while self.undo:
            self.undo.pop()()
        if self.attached is not None:
            if hasattr(self.pipe.transformer, "peft_config"):
                self.delete_lora()
            self.attached.detach()
            assert live_tensors() <= self.alive + SCHEDULED


LIVES = settings(
    max_examples=int(os.environ.get("FORESEER_LIVES", "12" if os.environ.get("FORESEER_ALL") else "2")),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a life takes longer than to read it
)
SCHEDULED = 40
"""Tensors that schedulers and pipelines themselves keep of their last call."""


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:Mismatch dtype", "ignore:In CPU autocast")
@pytest.mark.parametrize("name", list(ADAPTED))
def test_a_long_life_of_one_attachment(name: str) -> None:
    """Law: see `LongLife`."""
    machine = type(f"LongLifeOf{name}", (LongLife,), {"name": name})
    run_state_machine_as_test(machine, settings=LIVES)
