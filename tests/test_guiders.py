"""Laws of guiders and of second denoisers: each call is driven under the guider's name, or the report says what is not driven."""

import inspect
from typing import Any

import diffusers.guiders
import pytest
import torch
from diffusers.guiders import guider_utils
from replayed import handed_over
from test_modular import DECOUPLED, ELSEWHERE
from tiny import TINY, wan
from tiny.common import accepted, drawn
from torch import Tensor, nn

import foreseer
from foreseer.registry import parse_policy

POLICIES = [
    "none",
    "reuse:interval=2",
    "taylorseer:interval=2,target=output",
    "cg_taylor:threshold=0.5,warmup_steps=2",
    "speca:threshold=100,threshold_decay=1,target=last_block",
]
SKIPPED = {"indices": [1], "fqn": "blocks", "skip_attention": True, "skip_ff": True}
GUIDERS = {
    "ClassifierFreeGuidance": {},
    "ClassifierFreeZeroStarGuidance": {},
    "AdaptiveProjectedGuidance": {},
    "AdaptiveProjectedMixGuidance": {"adaptive_projected_guidance_start_step": 2},
    "TangentialClassifierFreeGuidance": {},
    "SkipLayerGuidance": {"skip_layer_config": SKIPPED, "skip_layer_guidance_start": 0.2, "skip_layer_guidance_stop": 0.9},
    "SmoothedEnergyGuidance": {"seg_guidance_config": {"indices": [1], "fqn": "blocks"}, "seg_guidance_start": 0.2},
    "AutoGuidance": {"auto_guidance_config": {"indices": [1], "fqn": "blocks", "dropout": 1.0, "skip_attention": False}},
}
STEPS = 8
METHODS = ["prepare_inputs", "prepare_inputs_from_block_state"]


class Guided:
    """The loop of diffusers' modular pipelines: the guider prepares inputs and model for each call of a step."""

    def __init__(self, transformer: nn.Module, scheduler: Any, guider: Any, by: str) -> None:
        self.transformer, self.scheduler, self.guider, self.by = transformer, scheduler, guider, by
        self.components = {"transformer": transformer, "scheduler": scheduler, "guider": guider}
        self.called: list[str] = []

    @torch.no_grad()
    def __call__(self, steps: int = STEPS) -> Tensor:
        latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        texts = drawn("prompt", 6, 16)[None], drawn("", 6, 16)[None]
        self.scheduler.set_timesteps(steps)
        self.called = []
        for step, time in enumerate(self.scheduler.timesteps):
            self.guider.set_state(step=step, num_inference_steps=steps, timestep=time)
            if self.by == "prepare_inputs":
                states = self.guider.prepare_inputs({"encoder_hidden_states": texts})
            else:
                block = diffusers.modular_pipelines.BlockState(text=texts[0], negative=texts[1])
                states = self.guider.prepare_inputs_from_block_state(block, {"encoder_hidden_states": ("text", "negative")})
            for state in states:
                self.guider.prepare_models(self.transformer)
                self.called.append(getattr(state, self.guider._identifier_key))
                state.noise_pred = self.transformer(
                    hidden_states=latents, timestep=time.expand(1), encoder_hidden_states=state.encoder_hidden_states, return_dict=False
                )[0]
                self.guider.cleanup_models(self.transformer)
            latents = self.scheduler.step(self.guider(states)[0], time, latents, return_dict=False)[0]
        return latents


def guider(name: str) -> Any:
    return getattr(diffusers.guiders, name)(**GUIDERS[name])


def guided(name: str, by: str = METHODS[0]) -> Guided:
    with accepted():
        return Guided(wan.transformer(), wan.unipc(), guider(name), by)


@pytest.mark.parametrize("by", METHODS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", list(GUIDERS))
def test_calls_of_a_guider_are_streams_under_its_names(name: str, policy: str, by: str) -> None:
    """Law: a stream for each prediction, named as the guider names it, called when it calls it; with `none` bit for bit bare; the next call is the same."""
    bare = guided(name, by)()
    pipe = guided(name, by)
    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        output = pipe()
        reports = attached.reports
        assert torch.equal(pipe(), output)
    assert {stream: len(report.outcomes) for stream, report in reports.items()} == {stream: pipe.called.count(stream) for stream in dict.fromkeys(pipe.called)}
    assert all(report.finished for report in reports.values())
    if policy.startswith("reuse"):
        assert all(any(not all(outcome.computed) for outcome in report.outcomes) for report in reports.values())
    if policy == "none":
        assert torch.equal(output, bare)
    else:
        assert not torch.equal(output, bare)
    assert torch.equal(pipe(), bare)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", list(GUIDERS))
def test_a_guider_that_is_exchanged_while_attached_is_followed(name: str, policy: str) -> None:
    """Law: the next call gives what a fresh attachment gives, and the guider that went is as it was."""
    fresh = guided(name)
    with foreseer.attach(fresh, parse_policy(policy)) as anew:
        wanted = fresh()
    pipe = guided("ClassifierFreeGuidance")
    gone = pipe.guider
    before = set(vars(gone))
    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        pipe()
        pipe.guider = guider(name)
        assert torch.equal(pipe(), wanted)
        assert list(attached.reports) == list(anew.reports)
        assert set(vars(gone)) - before == set()
    assert not [key for key, value in vars(pipe.guider).items() if callable(value) and key in METHODS]


def test_every_guider_of_diffusers_is_tested() -> None:
    """Law: here, or on the modular pipelines whose models it fits."""
    known = {name for name, kind in vars(diffusers.guiders).items() if inspect.isclass(kind) and issubclass(kind, guider_utils.BaseGuidance)}
    on_modular_pipelines = {name for _, name, *_ in (*ELSEWHERE, DECOUPLED)} | {"LTX2Guidance"}
    assert known - set(GUIDERS) - on_modular_pipelines == {"BaseGuidance"}


@pytest.mark.parametrize("kind", ["same class", "other class"])
@pytest.mark.parametrize("called", ["unconditional_transformer", "refiner", "denoiser_2"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_second_denoiser_under_any_name_is_driven_or_named(policy: str, called: str, kind: str) -> None:
    """Law: one of the class of the first is driven; another that is called in several steps is named in the report, by its name and class."""

    class Both:
        def __init__(self, scheduler: Any, **parts: nn.Module) -> None:
            self.components = {"scheduler": scheduler, **parts}
            vars(self).update(self.components)

        @torch.no_grad()
        def __call__(self, name: str) -> Tensor:
            latents, text = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)), drawn("prompt", 6, 16)[None]
            self.scheduler.set_timesteps(STEPS)
            for step, time in enumerate(self.scheduler.timesteps):
                value = self.transformer(hidden_states=latents, timestep=time.expand(1), encoder_hidden_states=text, return_dict=False)[0]
                second = getattr(self, name)
                if kind == "same class":
                    second(hidden_states=latents, timestep=time.expand(1), encoder_hidden_states=text, return_dict=False)
                else:
                    with accepted():
                        second(**other.kwargs | {"hidden_states": other.kwargs["hidden_states"] * (1 + step)})
                latents = self.scheduler.step(value, time, latents, return_dict=False)[0]
            return latents

    other = handed_over("FluxPipeline")[0]
    pipe = Both(wan.unipc(), transformer=wan.transformer(), **{called: wan.transformer() if kind == "same class" else other.model})
    bare = pipe(called)
    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        output = pipe(called)
    assert torch.equal(output, bare) == (policy == "none")
    said = [warning for warning in attached.report.warnings if warning.startswith(f"{called} (FluxTransformer2DModel) was called in {STEPS} steps")]
    assert list(attached.reports) == (["transformer", called] if kind == "same class" else ["model"])
    assert bool(said) == (kind == "other class")


@pytest.mark.parametrize("name", [name for name, tiny in TINY.items() if tiny.build().components.get("transformer_2") is not None])
def test_all_denoisers_of_a_pipeline_are_driven(name: str) -> None:
    """Law: what a tiny pipeline calls in its steps is in a report."""
    pipe = TINY[name].build()
    with foreseer.attach(pipe, "reuse", interval=2) as attached:
        TINY[name].call(pipe, steps=STEPS)
    assert {stream.split(":")[0] for stream in attached.reports} == {"transformer", "transformer_2"}
