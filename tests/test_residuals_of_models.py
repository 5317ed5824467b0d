"""Residuals of every pipeline in miniature, held against hooks of torch's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import torch
from tiny import TINY
from torch import Tensor
from torch.utils._pytree import tree_leaves

import foreseer
from foreseer import Needs, Plan, Site, hookimpl
from foreseer.adapters.blocks import find_blocks
from foreseer.types import MODULATED, STREAM, TIME, Run, Step

LAID_OUT_OTHERWISE = {"LattePipeline"}
"""Behind its last block frames are folded into the batch, in front of the first places are."""
ALWAYS_COMPUTED = {"Flux2KleinKVPipeline"}
"""Its first kind of call returns keys and values."""
REFUSED = {"ChromaImg2ImgPipeline", "ChromaPipeline", "CosmosTextToWorldPipeline"}
"""What their blocks give to their first norm is made inside of the block."""


@attrs.define(eq=False)
class Showing:
    """An observer that keeps what all blocks added in each step."""

    added: list[Tensor] = attrs.field(factory=list)
    site: Site | None = None

    @hookimpl
    def features_wanted(self, run: Run) -> tuple[Site, ...]:
        self.site = Site(run.depth - 1, since=-1)
        return (self.site,)

    @hookimpl
    def on_features(self, features: Mapping[Site, Tensor]) -> None:
        self.added.append(features[self.site].clone())  # type: ignore[index]


class Looking:
    """A policy that computes everything and looks at all that lies in front of the first block."""

    @hookimpl
    def setup(self, run: Run) -> Needs:
        return Needs(evidence=tuple(place for place in run.places if place not in (MODULATED, TIME)))

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        return None


def stream_into(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    given = kwargs.get("hidden_states", next((leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None))
    assert isinstance(given, Tensor)
    return given.clone()


@pytest.mark.parametrize("name", sorted(TINY.keys() - LAID_OUT_OTHERWISE - ALWAYS_COMPUTED))
def test_what_is_recorded_is_the_last_output_less_the_first_input(name: str) -> None:
    """Law: of the image's tokens, the recorded residual is what torch's hooks see leave the last block less what they see enter the first."""
    pipe = TINY[name].build()
    with foreseer.attach(pipe, "none") as attached:
        blocks = [block for _, block in find_blocks(attached.model, None)]
    entered: list[Tensor] = []
    left: list[list[Tensor]] = []
    blocks[0].register_forward_pre_hook(lambda m, args, kwargs: entered.append(stream_into(args, kwargs)), with_kwargs=True)
    blocks[-1].register_forward_hook(lambda m, args, output: left.append([leaf.clone() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]))
    showing = Showing()
    with foreseer.attach(pipe, Looking, observers=[showing]) as attached:
        TINY[name].call(pipe, steps=2, batch=1)
    assert not any("laid out" in warning for report in attached.reports.values() for warning in report.warnings)
    stream, outputs = entered[-1], left[-1]
    assert any(is_less(added, outputs, stream) for added in showing.added)


def is_less(added: Tensor, outputs: list[Tensor], stream: Tensor) -> bool:
    """Whether a packed feature holds an output less a stream, at the output's beginning or end."""
    start = 0
    for leaf in outputs:
        size = leaf.numel() // len(added)
        flat = added.reshape(len(added), -1)[:, start : start + size]
        if flat.shape[1] < size:  # of another stream, or another model
            return False
        piece = flat.reshape(leaf.shape)
        start += size
        if leaf.ndim == stream.ndim and leaf.shape[-1] == stream.shape[-1] and leaf.shape[1] >= stream.shape[1]:
            ends = (slice(0, stream.shape[1]), slice(leaf.shape[1] - stream.shape[1], None))
            if any(torch.equal(piece[:, tokens], leaf[:, tokens] - stream) for tokens in ends):
                return True
    return False


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline", "DiTPipeline", "StableDiffusion3Pipeline", "ChromaPipeline", "HunyuanVideoPipeline"])
@pytest.mark.parametrize("target", ["residual", "residual_after_first"])
def test_nothing_of_a_residual_is_lost_where_nothing_moves(name: str, target: str) -> None:
    """Law: forecasting what was just recorded, in a call with the same latents, is computing, to rounding."""
    pipe = TINY[name].build()
    bare = TINY[name].call(pipe, steps=3, batch=2)
    with foreseer.attach(pipe, f"reuse:interval=1,target={target}") as attached:
        assert torch.equal(bare, TINY[name].call(pipe, steps=3, batch=2))
    assert all(outcome.full for report in attached.reports.values() for outcome in report.outcomes)
    assert all(STREAM in report.run.places for report in attached.reports.values())


@attrs.define(eq=False)
class LookingAtTheSignal:
    """A policy that computes everything and looks at what block 0's first norm makes of its input."""

    runs: list[Run]

    @hookimpl
    def setup(self, run: Run) -> Needs:
        self.runs.append(run)
        return Needs(evidence=(MODULATED,) if MODULATED in run.places else ())


@pytest.mark.parametrize("name", sorted(TINY))
def test_the_modulated_input_is_the_blocks_own_or_refused(name: str) -> None:
    """Law: what is seen at `MODULATED` is what block 0's own first norm returns, or the first step says that it cannot be seen."""
    pipe, runs = TINY[name].build(), list[Run]()
    offered = name not in REFUSED
    with foreseer.attach(pipe, lambda: LookingAtTheSignal(runs)):
        if offered:
            TINY[name].call(pipe, steps=2, batch=1)
        else:
            with pytest.raises(foreseer.ContractError, match="made inside of it; choose another signal"):
                TINY[name].call(pipe, steps=2, batch=1)
    if name in ("FluxPipeline", "DiTPipeline", "StableDiffusion3Pipeline", "HunyuanVideoPipeline", "CogVideoXPipeline", "MochiPipeline"):
        assert all(MODULATED in run.places for run in runs)
