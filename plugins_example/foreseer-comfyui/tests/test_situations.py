"""Laws of what happens in workflows: in each the image with `none` is bit for bit the bare one, and streams are whose
they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from test_models import NODE, put
from tiny_comfy import Asked, patcher_of, prompt, sampled
from torch import Tensor

Situation = Callable[[Any], tuple[Any, Asked]]
"""What is done to a model's handle, and what is asked for."""


def unequal_prompts(patcher: Any) -> tuple[Any, Asked]:
    return patcher, Asked(negative=prompt("Flux", seed=2, tokens=9))


def areas(patcher: Any) -> tuple[Any, Asked]:
    left, right = ({"area": (8, 4, 0, x), "strength": 1.0, "set_area_to_bounds": False} for x in (0, 4))
    return patcher, Asked(positive=[*prompt("Flux", seed=1, **left), *prompt("Flux", seed=3, **right)])


def scheduled(patcher: Any) -> tuple[Any, Asked]:
    parts = [*prompt("Flux", seed=1, start_percent=0.0, end_percent=0.5), *prompt("Flux", seed=3, start_percent=0.5, end_percent=1.0)]
    return patcher, Asked(positive=parts, steps=12)


def guidance_for_a_part(patcher: Any) -> tuple[Any, Asked]:
    return patcher, Asked(negative=prompt("Flux", seed=2, start_percent=0.0, end_percent=0.6), steps=12)


def controlled(patcher: Any) -> tuple[Any, Asked]:
    import comfy.controlnet

    class Residuals(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, transformer_options: Any) -> dict[str, list[Tensor]]:
            tokens = torch.ones(len(x_noisy), 16, 64) * 0.3
            return {"input": [tokens, tokens], "output": [tokens]}

        def copy(self) -> Any:
            return self

    hint = {"control": Residuals(), "control_apply_to_uncond": True}
    return patcher, Asked(positive=prompt("Flux", seed=1, **hint))


def skipped_layers(patcher: Any) -> tuple[Any, Asked]:
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    return SkipLayerGuidanceDiT.execute(patcher, 3.0, 0.0, 0.6, "1", "1").result[0], Asked(steps=10)


def tiles(patcher: Any) -> tuple[Any, Asked]:
    def two(apply: Any, call: dict[str, Any]) -> Tensor:
        halves = call["input"].chunk(2, dim=-1)
        return torch.cat([apply(half, call["timestep"], **call["c"]) for half in halves], dim=-1)

    clone = patcher.clone()
    clone.set_model_unet_function_wrapper(two)
    return clone, Asked()


def masked(patcher: Any) -> tuple[Any, Asked]:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    return patcher, Asked(more={"noise_mask": mask})


def part_of_the_steps(patcher: Any) -> tuple[Any, Asked]:
    return patcher, Asked(steps=12, more={"start_step": 4, "last_step": 10, "force_full_denoise": True})


def image_to_image(patcher: Any) -> tuple[Any, Asked]:
    return patcher, Asked(steps=12, denoise=0.5)


def low_rank(patcher: Any) -> tuple[Any, Asked]:
    clone, key = patcher.clone(), "diffusion_model.double_blocks.0.img_mlp.0.weight"
    weight = dict(patcher.model.named_parameters())[key]
    clone.add_patches({key: ("diff", (torch.full(weight.shape, 0.01),))}, 1.0)
    return clone, Asked()


def hooked(patcher: Any) -> tuple[Any, Asked]:
    import comfy.hooks

    key = "diffusion_model.double_blocks.0.img_mlp.0.weight"
    weight = dict(patcher.model.named_parameters())[key]
    hooks = comfy.hooks.create_hook_lora({f"{key.removesuffix('.weight')}.diff": torch.full(weight.shape, 0.01)}, 1.0, 1.0)
    clone = patcher.clone()
    return clone, Asked(positive=comfy.hooks.set_hooks_for_conditioning(prompt("Flux", seed=1), hooks))


def compiled_blocks(patcher: Any) -> tuple[Any, Asked]:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = patcher.clone()
    set_torch_compile_wrapper(clone, backend="eager", keys=[f"diffusion_model.double_blocks.{index}" for index in range(2)])
    return clone, Asked(steps=6)


def windows(schedule: str) -> Situation:
    def moving(patcher: Any) -> tuple[Any, Asked]:
        from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

        given = {"context_length": 9, "context_overlap": 4, "context_schedule": schedule, "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid"}
        return WanContextWindowsManualNode.execute(patcher, **given).result[0], Asked(name="WAN21_T2V", steps=6, frames=5)

    return moving


def three_prompts(patcher: Any) -> tuple[Any, Asked]:
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    def guider(driven: Any, asked: Asked) -> Any:
        found = Guider_DualCFG(driven)
        found.set_conds(*(prompt("Flux", seed=seed) for seed in (1, 3, 2)))
        found.set_cfg(3.0, 2.0)
        return found

    return patcher, Asked(guider=guider)


BOTH = {"negative + positive"}
SITUATIONS: dict[str, tuple[Situation, set[str]]] = {
    "unequal prompts": (unequal_prompts, {"positive", "negative"}),
    "areas": (areas, {"negative + negative 2 + positive + positive 2", "negative 3"}),
    "a prompt from the middle on": (scheduled, {"negative + positive", "negative + positive 2"}),
    "guidance for a part of the steps": (guidance_for_a_part, {*BOTH, "positive"}),
    "ControlNet": (controlled, BOTH),
    "layers skipped for guidance": (skipped_layers, {*BOTH, "positive"}),
    "tiles": (tiles, {*BOTH, "negative + positive (2)"}),
    "a mask": (masked, BOTH),
    "steps 4 to 10 of 12": (part_of_the_steps, BOTH),
    "image to image": (image_to_image, BOTH),
    "LoRA": (low_rank, BOTH),
    "LoRA of one prompt": (hooked, {"positive", "negative"}),
    "compiled blocks": (compiled_blocks, BOTH),
    "static windows": (windows("standard_static"), {f"negative + positive frames {start}..{start + 2}" for start in (0, 2)}),
    "moving windows": (windows("standard_uniform"), {f"negative + positive frames {start}..{start + 2}" for start in (0, 1, 2)}),
    "looped windows": (windows("looped_uniform"), {f"negative + positive frames {frames}" for frames in ("0..2", "1..3", "2..4", "3..4,0..0", "4..4,0..1")}),
    "three prompts": (three_prompts, {"cond 2 + negative + positive"}),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_with_none_it_is_exact_and_streams_are_told(name: str) -> None:
    """Law: see the module; with a policy it runs, and the bare model is as it was."""
    arrange, streams = SITUATIONS[name]
    patcher, asked = arrange(patcher_of("WAN21_T2V" if "windows" in name else "Flux"))
    bare = sampled(patcher, asked)
    exact, handle = put(patcher, "none")
    assert torch.equal(sampled(exact, asked), bare)
    driven, handle = put(patcher, NODE)
    found, sampling = sampled(driven, asked), handle.newest()
    assert found.isfinite().all()
    assert set(sampling.reports) == streams
    assert any(report.block_rows_ratio < 1 for report in sampling.reports.values())
    assert torch.equal(sampled(driven, asked), found)
    assert torch.equal(sampled(patcher, asked), bare)


def test_rows_of_one_sample_share_one_fate() -> None:
    """Law: two areas and guidance make four rows of each sample, whatever their latents are."""
    patcher, asked = areas(patcher_of("Flux"))
    driven, handle = put(patcher, "cg_taylor:threshold=0.05,target=last_block")
    sampled(driven, attrs.evolve(asked, batch=2))
    assert handle.newest().reports["negative + negative 2 + positive + positive 2"].run.groups == (0, 1, 0, 1, 0, 1, 0, 1)


def test_weights_that_change_in_a_sampling_are_told() -> None:
    """Law: a LoRA of one prompt is applied between calls; the report says that forecasts reach over it."""
    patcher, asked = hooked(patcher_of("Flux"))
    driven, handle = put(patcher, NODE)
    sampled(driven, asked)
    assert "weights are changed by hooks" in str(handle.newest())


def test_blocks_that_are_compiled_after_the_policy_was_chosen() -> None:
    """Law: the order of the two nodes does not matter; parts of compiled blocks are not forecast, and the report says so."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    patcher, asked = patcher_of("Flux"), Asked(steps=6)
    driven, handle = put(patcher, "taylorseer:interval=3,max_order=1,target=modules")
    set_torch_compile_wrapper(driven, backend="eager", keys=[f"diffusion_model.single_blocks.{index}" for index in range(3)])
    assert sampled(driven, asked).isfinite().all()
    (report,) = handle.newest().reports.values()
    assert any("compiled" in warning for warning in report.warnings)
    assert report.block_rows_ratio < 1


def test_a_stream_that_pauses_begins_anew() -> None:
    """Law: where a second prompt joins for a while, the first call comes again, and nothing is forecast over the pause."""
    both = [*prompt("Flux", seed=1), *prompt("Flux", seed=3, start_percent=0.3, end_percent=0.7)]
    driven, handle = put(patcher_of("Flux"), NODE)
    sampled(driven, Asked(positive=both, steps=20))
    outcomes = handle.newest().reports["negative + positive"].outcomes
    gaps = [(one, other) for one, other in itertools.pairwise(outcomes) if other.step.index > one.step.index + 2]
    assert len(gaps) == 1
    assert all(gaps[0][1].computed)
