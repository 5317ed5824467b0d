"""Laws of the models of ComfyUI: with `none` each gives its bits, with a policy it saves steps, and says what it did."""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest import mock

import attrs
import pytest
import torch
from foreseer_comfyui.handle import Handle
from foreseer_comfyui.nodes import OPTIONS
from foreseer_comfyui.sampling import Applied
from tiny_comfy import TINY, Asked, patcher_of, sampled

import foreseer
from foreseer.adapters.examination import Examination

NODE = f"taylorseer:{OPTIONS.replace(' ', '')}"
"""What the node does where nothing is chosen."""


def put(patcher: Any, policy: str, **settings: Any) -> tuple[Any, Handle]:
    applied = Applied(spec=foreseer.policy(policy), handle=Handle(), **settings)
    return applied.put_on(patcher), applied.handle


@pytest.mark.parametrize("name", TINY)
def test_a_model_is_driven(name: str) -> None:
    """Law: `none` is bit for bit the bare run; a schedule computes what it says; afterwards the model is as it was."""
    patcher, asked = patcher_of(name), Asked(name=name)
    bare = sampled(patcher, asked)
    assert bare.isfinite().all()
    assert bare.std() > 0
    with_none, handle = put(patcher, "none")
    assert torch.equal(sampled(with_none, asked), bare)
    assert len(handle.newest().reports["negative + positive"].outcomes) == 8
    with_policy, handle = put(patcher, NODE)
    found, (report,) = sampled(with_policy, asked), handle.newest().reports.values()
    assert not torch.equal(found, bare)
    assert found.isfinite().all()
    assert report.full_steps == [0, 1, 4, 7]
    assert report.block_rows_ratio == 0.5
    assert torch.equal(sampled(patcher, asked), bare)


@pytest.mark.parametrize(
    "policy", ["taylorseer:interval=3,max_order=1", "cg_taylor:threshold=0.05", "speca:target=last_block,threshold=0.3", "agreement:tolerance=0.3"]
)
@pytest.mark.parametrize("name", ["Flux", "WAN21_T2V", "SD3"])
def test_any_policy_drives_it_twice_alike(name: str, policy: str) -> None:
    """Law: the same prompt gives the same bits, and a model is examined once in a process."""
    patcher, asked = patcher_of(name), Asked(name=name, batch=3)
    driven, handle = put(patcher, policy)
    with mock.patch.object(Examination, "check", autospec=True, side_effect=Examination.check) as check:
        first, looked = sampled(driven, asked), check.call_count
        sampled(driven, attrs.evolve(asked, batch=1))
        other_size = check.call_count
        sampled(driven, attrs.evolve(asked, batch=1, steps=9))
        second = sampled(driven, asked)
    assert 0 < looked < other_size == check.call_count
    assert torch.equal(first, second)
    (one,), *_, (other,) = (sampling.reports.values() for sampling in handle.samplings)
    assert one.run.groups == (0, 1, 2, 0, 1, 2)
    assert one.full_steps == other.full_steps


def test_what_is_kept_holds_no_model() -> None:
    """Law: when ComfyUI drops a model, its memory is free, whatever handles and reports are kept."""
    patcher = patcher_of("Flux")
    driven, handle = put(patcher, "speca:threshold=0.3")
    sampled(driven, Asked())
    gone = weakref.ref(patcher.model.diffusion_model)
    del patcher, driven
    gc.collect()
    assert gone() is None
    assert handle.newest() is not None


@pytest.mark.parametrize("cast", [None, torch.float32], ids=["bfloat16", "cast to float32"])
def test_weights_of_half_precision(cast: torch.dtype | None) -> None:
    """Law: bf16 weights, cast or not, are driven; `none` is exact."""
    patcher, asked = patcher_of("Flux", dtype=torch.bfloat16, cast=cast), Asked()
    bare = sampled(patcher, asked)
    assert torch.equal(sampled(put(patcher, "none")[0], asked), bare)
    driven, handle = put(patcher, NODE)
    assert sampled(driven, asked).isfinite().all()
    assert next(iter(handle.newest().reports.values())).block_rows_ratio == 0.5


@pytest.mark.parametrize("name", ["Flux", "HunyuanVideo"])
def test_module_parts_of_the_flux_family(name: str) -> None:
    """Law: their projections are parts, and run in computed steps alone; what runs in every step is said."""
    patcher, asked, calls = patcher_of(name), Asked(name=name), list[str]()
    model = patcher.model.diffusion_model
    for path in ("double_blocks.0.img_attn.qkv", "double_blocks.0.txt_attn.proj", "single_blocks.0.linear1"):
        model.get_submodule(path).register_forward_hook(lambda module, args, output, path=path: calls.append(path))
    driven, handle = put(patcher, "taylorseer:interval=3,max_order=1")
    sampled(driven, asked)
    calls.clear()
    sampled(driven, asked)
    (report,) = handle.newest().reports.values()
    assert {path: calls.count(path) for path in calls} == dict.fromkeys(calls, len(report.full_steps))
    assert any("compute their attention themselves, so that it runs in every step" in warning for warning in report.warnings)
