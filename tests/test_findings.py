"""Laws of what one attachment hands to the next on the same model: it is not examined twice, and never trusted on
another.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest import mock

import pytest
import torch
from tiny import TINY
from torch import Tensor, nn

import foreseer
from foreseer import ContractError, OptionError
from foreseer.adapters.examination import Examination
from foreseer.adapters.findings import Findings

GATE, SCHEDULE = "speca:threshold=0.5,max_order=1,target=modules", "taylorseer:interval=3,max_order=1"


def drawn(pipe: Any, policy: str, findings: Findings | None = None) -> tuple[Tensor, foreseer.Report, Findings]:
    with foreseer.attach(pipe, policy, findings=findings) as attached:
        latents = TINY[type(pipe).__name__].call(pipe, steps=7, batch=3)
        return latents, attached.report, attached.findings


def examined(pipe: Any, findings: Findings) -> bool:
    """Whether the model was examined."""
    with mock.patch.object(Examination, "check", autospec=True, side_effect=Examination.check) as check:
        drawn(pipe, GATE, findings)
    return check.called


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusion3Pipeline", "WanPipeline"])
@pytest.mark.parametrize("policy", [GATE, SCHEDULE])
def test_what_was_found_out_is_not_asked_again(name: str, policy: str) -> None:
    """Law: the same outputs, and no block-row is spent on examining."""
    pipe = TINY[name].build()
    first, report, findings = drawn(pipe, policy)
    again, second, _ = drawn(pipe, policy, findings)
    assert torch.equal(first, again)
    assert not examined(pipe, findings)
    assert (second.check_block_rows, second.warnings) == (0, report.warnings)


def test_kinds_of_call_that_take_turns_are_each_examined_once() -> None:
    """Law: what was taken over and not needed for a while is handed on."""
    pipe, findings, asked = TINY["FluxPipeline"].build(), None, []
    with mock.patch.object(Examination, "check", autospec=True, side_effect=Examination.check) as check:
        for batch in (3, 2, 3, 2):
            with foreseer.attach(pipe, GATE, findings=findings) as attached:
                TINY["FluxPipeline"].call(pipe, steps=5, batch=batch)
                findings = attached.findings
            asked.append(check.call_count)
    assert 0 < asked[0] < asked[1] == asked[2] == asked[3]


def test_a_limit_of_memory_is_no_fact_about_the_model() -> None:
    """Law: what one attachment left out for want of memory the next one forecasts."""
    pipe, limit = TINY["FluxPipeline"].build(), foreseer.Storage(max_bytes=60_000, on_over_budget="last_block")
    with foreseer.attach(pipe, SCHEDULE, storage=limit) as attached:
        TINY["FluxPipeline"].call(pipe, steps=7, batch=3)
        assert any("memory" in warning for warning in attached.report.warnings)
        findings = attached.findings
    assert drawn(pipe, SCHEDULE, findings)[1].warnings == drawn(pipe, SCHEDULE)[1].warnings


def test_a_model_that_was_changed_is_examined_anew() -> None:
    """Law: a hook, an exchanged module, another dtype or another model: nothing is believed of it."""
    pipe = TINY["FluxPipeline"].build()
    _, known, findings = drawn(pipe, GATE)
    assert known.check_block_rows > 0
    hook = pipe.transformer.transformer_blocks[0].register_forward_hook(lambda module, args, output: (output[0] * 1.5, output[1]))
    assert examined(pipe, findings)
    hook.remove()
    assert not examined(pipe, findings)
    block = pipe.transformer.single_transformer_blocks[0]
    block.proj_out = nn.Linear(*reversed(block.proj_out.weight.shape))
    assert examined(pipe, findings)
    findings = drawn(pipe, GATE)[2]
    assert not examined(pipe, findings)
    pipe.transformer.time_text_embed.double().float()  # the weights are others, and what they are is the same
    assert not examined(pipe, findings)
    assert examined(TINY["FluxPipeline"].build(), findings)


def test_findings_keep_nothing_alive() -> None:
    """Law: a host may keep them as long as it likes."""
    pipe = TINY["FluxPipeline"].build()
    findings = drawn(pipe, GATE)[2]
    gone = [*map(weakref.ref, pipe.transformer.modules()), *map(weakref.ref, pipe.transformer.parameters())]
    del pipe
    gc.collect()
    assert not any(one() is not None for one in gone)
    assert examined(TINY["FluxPipeline"].build(), findings)


def test_what_is_no_finding_is_refused() -> None:
    """Law: bad input is said at once; a detached attachment has none."""
    pipe = TINY["FluxPipeline"].build()
    with pytest.raises(OptionError, match=r"write those of an earlier attachment, attached\.findings"):
        foreseer.attach(pipe, GATE, findings={})  # type: ignore[arg-type]
    with foreseer.attach(pipe, GATE) as attached:
        pass
    with pytest.raises(ContractError, match="attach anew"):
        _ = attached.findings
