"""Laws of one sampling: what is ahead, what is refused, and what an interrupt leaves behind."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
import torch
from foreseer_comfyui.rehearsal import sigmas_ahead
from test_models import NODE, put
from tiny_comfy import Asked, patcher_of, prompt, sampled

from foreseer import UnsupportedModelError

ADAPTIVE = "dpm_adaptive"


class Counting:
    """A guider that counts what it is asked."""

    def __init__(self, patcher: Any) -> None:
        self.inner_model, self.model_patcher, self.model_options, self.heard = patcher.model, patcher, {}, list[float]()

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, model_options: Any = None, seed: Any = None) -> torch.Tensor:
        self.heard.append(float(sigma.flatten()[0]))
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            function({"denoised": x * 0.5, "uncond_denoised": x * 0.4, "cond_denoised": x * 0.5, "sigma": sigma, "model_options": model_options, "input": x})
        return x * 0.5


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_what_is_ahead_is_known(name: str) -> None:
    """Law: rehearsed sigmas are those that come, of every sampler but the one that adapts; no random number is used up."""
    patcher = patcher_of("Flux")
    sampler = comfy.samplers.sampler_object(name)
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "normal", 6)
    state = torch.random.get_rng_state()
    ahead = sigmas_ahead(sampler, Counting(patcher), sigmas, {"model_options": {}, "seed": 3})
    assert torch.equal(torch.random.get_rng_state(), state)
    guider, latent = Counting(patcher), torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    sampler.sample(guider, sigmas, {"model_options": {}, "seed": 3}, None, latent, latent, None, True)
    assert len(guider.heard) > 0
    if name == ADAPTIVE:
        assert len(ahead) <= len(guider.heard)
    else:
        assert ahead == pytest.approx(guider.heard)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde", "uni_pc", "euler_ancestral", ADAPTIVE])
def test_steps_are_evaluations(sampler: str) -> None:
    """Law: steps are counted in evaluations, whatever a sampler calls a step; `none` is exact."""
    patcher, asked = patcher_of("Flux"), Asked(sampler=sampler, steps=6)
    bare = sampled(patcher, asked)
    exact, handle = put(patcher, "none")
    assert torch.equal(sampled(exact, asked), bare)
    (report,) = handle.newest().reports.values()
    if sampler != ADAPTIVE:
        assert len(report.outcomes) == report.run.num_steps
        assert report.run.sigmas == tuple(outcome.step.sigma for outcome in report.outcomes)
    driven, handle = put(patcher, NODE)
    assert sampled(driven, asked).isfinite().all()
    assert next(iter(handle.newest().reports.values())).block_rows_ratio < 1


def test_low_memory_splits_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: where memory runs low after two steps, the calls that come then are streams of their own, which warm up."""
    import comfy.model_management

    free, steps = comfy.model_management.get_free_memory, list[int]()
    monkeypatch.setattr(
        comfy.samplers.model_management, "get_free_memory", lambda *args, **kwargs: free(*args, **kwargs) if kwargs or len(args) > 1 or len(steps) < 2 else 0
    )
    driven, handle = put(patcher_of("Flux"), NODE)
    sampled(driven, Asked(steps=10, callback=lambda step, *args: steps.append(step)))
    reports = handle.newest().reports
    assert set(reports) == {"negative + positive", "negative", "positive"}
    assert {name: len(report.outcomes) for name, report in reports.items()} == {"negative + positive": 2, "negative": 8, "positive": 8}
    assert all(reports["positive"].outcomes[0].computed)


def test_outside_of_the_percents_everything_is_computed() -> None:
    """Law: before the start and after the end of the shares the policy is not asked, and learns."""
    patcher, asked = patcher_of("Flux"), Asked(steps=12)
    driven, handle = put(patcher, NODE, start=0.3, end=0.7)
    sampled(driven, asked)
    (report,) = handle.newest().reports.values()
    levels = [patcher.get_model_object("model_sampling").percent_to_sigma(share) for share in (0.3, 0.7)]
    inside = [levels[1] <= outcome.step.sigma <= levels[0] for outcome in report.outcomes]
    assert 2 < sum(inside) < 12
    assert all(all(outcome.computed) for outcome, within in zip(report.outcomes, inside, strict=True) if not within)
    assert not all(all(outcome.computed) for outcome, within in zip(report.outcomes, inside, strict=True) if within)
    assert any("outside of 0.3 to 0.7" in warning for warning in report.warnings)


def test_an_interrupt_leaves_nothing() -> None:
    """Law: the report is kept, the model is bare, and the next sampling is that of a fresh process."""
    import comfy.model_management

    def stop(step: int, *args: Any) -> None:
        if step == 3:
            raise comfy.model_management.InterruptProcessingException

    patcher = patcher_of("Flux")
    bare, driven = sampled(patcher, Asked()), put(patcher, NODE)
    clean = sampled(driven[0], Asked())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sampled(driven[0], Asked(callback=stop))
    assert len(next(iter(driven[1].newest().reports.values())).outcomes) == 4
    assert torch.equal(sampled(patcher, Asked()), bare)
    assert torch.equal(sampled(driven[0], Asked()), clean)


def test_two_policies_take_turns() -> None:
    """Law: on clones of one model each is its own; the second on one handle takes the first's place."""
    patcher = patcher_of("Flux")
    bare = sampled(patcher, Asked())
    one, two = put(patcher, NODE), put(patcher, "reuse:interval=2,target=last_block")
    alone = sampled(one[0], Asked())
    other = sampled(two[0], Asked())
    assert not torch.equal(alone, other)
    assert torch.equal(sampled(one[0], Asked()), alone)
    again, handle = put(one[0], "none")
    assert torch.equal(sampled(again, Asked()), bare)
    assert len(one[1].samplings) == 2
    assert len(handle.samplings) == 1


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_a_second_cache_is_refused(name: str) -> None:
    """Law: two caches on one model are refused in words, whichever was applied first; the model stays bare."""
    import comfy_extras.nodes_easycache

    node = getattr(comfy_extras.nodes_easycache, f"{name}Node")
    patcher = patcher_of("Flux")
    bare = sampled(patcher, Asked())
    cached = node.execute(patcher, reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False).result[0]
    for driven in (put(cached, NODE)[0], node.execute(put(patcher, NODE)[0], 0.2, 0.15, 0.95, False).result[0]):
        with pytest.raises(UnsupportedModelError, match=f"foreseer: {name} is applied too; remove one of them"):
            sampled(driven, Asked())
    assert torch.equal(sampled(patcher, Asked()), bare)


def test_a_model_that_is_compiled_as_a_whole_is_refused() -> None:
    """Law: it says what to compile instead."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    driven, _ = put(patcher_of("Flux"), NODE)
    set_torch_compile_wrapper(driven, backend="eager")
    with pytest.raises(UnsupportedModelError, match=r"foreseer: the model is compiled as a whole.*compile its blocks instead"):
        sampled(driven, Asked())


def test_copies_on_other_devices_are_computed() -> None:
    """Law: where ComfyUI spreads a model over several GPUs nothing is forecast, and the report says so."""
    patcher = patcher_of("Flux")
    bare = sampled(patcher, Asked())
    driven, handle = put(patcher, NODE)
    driven.model_options["multigpu_clones"] = {"cuda:1": None}
    assert torch.equal(sampled(driven, Asked()), bare)
    assert handle.newest().reports == {}
    assert "several GPUs" in str(handle.newest())


def test_the_compiler_of_newer_versions_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: for the length of a sampling forwards may differ, and afterwards it is as it was."""
    import sys
    import types

    import comfy

    module, seen = types.ModuleType("comfy.model_prefetch"), []
    module.malloc_graph_enabled = before = lambda: True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", module)
    monkeypatch.setattr(comfy, "model_prefetch", module, raising=False)
    driven, _ = put(patcher_of("Flux"), NODE)
    sampled(driven, Asked(callback=lambda *args: seen.append(module.malloc_graph_enabled())))
    assert seen == [False] * 8
    assert module.malloc_graph_enabled is before
    assert driven.model_options["transformer_options"]["disable_comfy_compiler"] is True


def test_what_looks_like_another_cache_is_told() -> None:
    """Law: a node that replaces calls of the model is not refused, as it may do no harm; the report names it."""

    def wrapper(apply: Any, call: dict[str, Any]) -> torch.Tensor:
        found: torch.Tensor = apply(call["input"], call["timestep"], **call["c"])
        return found

    wrapper.__module__ = "custom_nodes.ComfyUI-TeaCache.nodes"
    driven, handle = put(patcher_of("Flux"), NODE)
    driven.set_model_unet_function_wrapper(wrapper)
    sampled(driven, Asked())
    assert "ComfyUI-TeaCache.nodes seems to cache too" in str(handle.newest())


def test_few_steps_are_told() -> None:
    """Law: distilled models run, and the report says that they have nothing to forecast from."""
    driven, handle = put(patcher_of("Flux"), NODE)
    sampled(driven, Asked(steps=4, cfg=1.0))
    assert any("4 steps are few" in warning for report in handle.newest().reports.values() for warning in report.warnings)


def test_unequal_prompts_in_a_batch_of_streams() -> None:
    """Law: each stream has a history of its own: it gets what it gets where the other is not there."""
    patcher = patcher_of("Flux")
    driven, handle = put(patcher, NODE)
    sampled(driven, Asked(cfg=3.0, negative=prompt("Flux", seed=2, tokens=9)))
    assert {name: report.full_steps for name, report in handle.newest().reports.items()} == {"positive": [0, 1, 4, 7], "negative": [0, 1, 4, 7]}


def test_what_runs_bare_runs() -> None:
    """Law: no evaluation at all, noise levels above a flow's highest, and a node that calls chunk by chunk: nothing fails."""

    def one_by_one(apply: Any, call: dict[str, Any]) -> torch.Tensor:
        parts = [apply(x, t, **{**call["c"], "c_crossattn": c, "y": y, "guidance": g}) for x, t, c, y, g in zip(*_chunks(call), strict=True)]
        return torch.cat(parts)

    def _chunks(call: dict[str, Any]) -> list[Any]:
        given = [call["input"], call["timestep"], *(call["c"][name] for name in ("c_crossattn", "y", "guidance"))]
        return [value.chunk(2) if len(value) == 2 else (value, value) for value in given]

    for sigmas in (torch.tensor([0.7]), torch.tensor([1.5, 0.8, 0.4, 0.0])):
        patcher = patcher_of("Flux")
        asked = Asked(more={"sigmas": sigmas})
        bare = sampled(patcher, asked)
        assert torch.equal(sampled(put(patcher, "none")[0], asked), bare)
        assert sampled(put(patcher, NODE)[0], asked).isfinite().all()
    split = patcher_of("Flux").clone()
    split.set_model_unet_function_wrapper(one_by_one)
    bare = sampled(split, Asked())
    assert torch.equal(sampled(put(split, "none")[0], Asked()), bare)
    assert sampled(put(split, NODE)[0], Asked()).isfinite().all()


def test_evaluations_that_were_not_foreseen_are_computed() -> None:
    """Law: the sampler that adapts evaluates more often than it was rehearsed; those later ones are computed."""
    driven, handle = put(patcher_of("Flux"), NODE)
    sampled(driven, Asked(sampler=ADAPTIVE, steps=6))
    (report,) = handle.newest().reports.values()
    later = report.outcomes[report.run.num_steps :]
    assert later
    assert all(all(outcome.computed) for outcome in later)
