"""Laws of diffusers' modular pipelines: as of ordinary ones, and each call of a model is known by what the guider calls it."""

import functools
import gc
import importlib.util
import threading
import warnings
from typing import Any

import diffusers
import diffusers.guiders
import diffusers.modular_pipelines
import pytest
import torch
from test_left_as_it_was import looks
from tiny.common import accepted, drawn
from tiny.modular import GUIDED, MODULAR, Modular

import foreseer
from foreseer.bank import FeatureBank
from foreseer.registry import parse_policy

POLICIES = [
    "none",
    "reuse:interval=2",
    "taylorseer:interval=2,target=output",
    "cg_taylor:threshold=0.5,warmup_steps=2",
    "speca:threshold=100,threshold_decay=1,target=last_block",
]
STEPS = 8


class Ends:
    """Counts ends of runs."""

    def __init__(self) -> None:
        self.count = 0

    @foreseer.hookimpl
    def on_run_end(self) -> None:
        self.count += 1


def guider(name: str, **config: Any) -> Any:
    with accepted():
        return getattr(diffusers.guiders, name)(**config)


def names(attached: Any) -> list[str]:
    return list(attached.reports)


def held() -> int:
    """How many histories of features are alive."""
    gc.collect()
    return sum(type(each) is FeatureBank for each in gc.get_objects())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("blocks", list(MODULAR))
def test_a_modular_pipeline_is_driven_as_any_other(blocks: str, policy: str) -> None:
    """Law: `none` is bit for bit bare, streams are the guider's predictions, the next call is the same, detaching leaves nothing."""
    modular, ends = MODULAR[blocks], Ends()
    pipe = modular.build()
    bare = modular.call(pipe, steps=STEPS)
    looked = looks(pipe)
    with foreseer.attach(pipe, parse_policy(policy), observers=[ends]) as attached:
        output = modular.call(pipe, steps=STEPS)
        assert ends.count % len(modular.streams) == 0 < ends.count  # nobody has asked for a report
        reports = attached.reports
        assert torch.equal(modular.call(pipe, steps=STEPS), output)
    assert tuple(reports) == modular.streams
    assert all(report.finished for report in reports.values())
    for prediction in {name.split(": ")[-1] for name in modular.streams}:
        assert sum(len(report.outcomes) for name, report in reports.items() if name.split(": ")[-1] == prediction) == STEPS
    if not policy.startswith("cg_taylor"):  # a gate may reject everything
        assert torch.equal(output, bare) == (policy == "none")
    if policy.startswith("reuse"):
        assert all(len(report.full_steps) < len(report.outcomes) for report in reports.values())
    assert looks(pipe) == looked
    assert torch.equal(modular.call(pipe, steps=STEPS), bare)


@pytest.mark.parametrize("blocks", ["WanBlocks", "HeliosAutoBlocks"])
def test_features_are_freed_when_the_call_is_over(blocks: str) -> None:
    """Law: also where a loop shows a bar of its own (Helios), of which nobody is told."""
    modular = MODULAR[blocks]
    pipe, before = modular.build(), held()
    with foreseer.attach(pipe, "reuse", interval=2):
        modular.call(pipe, steps=3)
        assert held() == before


@pytest.mark.parametrize(("blocks", "given", "evaluations"), [("WanBlocks", {}, (7, 4)), ("StableDiffusion3AutoBlocks", {"strength": 0.5}, (4, 4))])
def test_a_run_has_all_evaluations_of_its_loop(blocks: str, given: dict[str, Any], evaluations: tuple[int, int]) -> None:
    """Law: its end is neither early nor late, with a solver that makes two evaluations a step, and from an image on.

    diffusers tells the guider of Heun's seven evaluations as of steps, of which it knows four: then it guides no more.
    """
    modular, ends = MODULAR[blocks], Ends()
    pipe = modular.build()
    if given:
        given = {**given, "image_latents": drawn("image", 1, 4, 8, 8)}
    else:
        with accepted():
            pipe.update_components(scheduler=diffusers.HeunDiscreteScheduler())
    with foreseer.attach(pipe, "reuse", interval=2, observers=[ends]) as attached:
        modular.call(pipe, steps=8 if given else 4, **given)
        assert ends.count == 2
        reports = attached.reports.values()
        assert tuple(len(report.outcomes) for report in reports) == evaluations
        assert all(report.finished and report.run.num_steps == evaluations[0] for report in reports)
        assert not any("outside" in warning for warning in attached.report.warnings)


SKIPPED = {"indices": [1], "fqn": "blocks", "skip_attention": True, "skip_ff": True}
PERTURBED = {"indices": [1], "fqn": "transformer_blocks", "skip_attention": False, "skip_attention_scores": True, "skip_ff": False}
ELSEWHERE: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("QwenImageAutoBlocks", "MagnitudeAwareGuidance", {}, GUIDED),
    (
        "QwenImageAutoBlocks",
        "PerturbedAttentionGuidance",
        {"perturbed_guidance_config": PERTURBED, "perturbed_guidance_stop": 0.9},
        (*GUIDED, "pred_cond_skip"),
    ),
    ("ZImageAutoBlocks", "SmoothedEnergyGuidance", {"seg_guidance_config": {"indices": [1], "fqn": "layers"}}, (*GUIDED, "pred_cond_seg")),
    (
        "WanBlocks",
        "SkipLayerGuidance",
        {"skip_layer_config": SKIPPED, "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.6},
        (*GUIDED, "pred_cond_skip"),
    ),
    ("WanBlocks", "ClassifierFreeGuidance", {"start": 0.3, "stop": 0.8}, GUIDED),
]
DECOUPLED = ("StableDiffusion3AutoBlocks", "FrequencyDecoupledGuidance", {"guidance_scales": [5.0, 3.0], "parallel_weights": [1.0, 1.0]}, GUIDED)
if importlib.util.find_spec("kornia") is not None:  # which this guider needs, and no extra of ours
    ELSEWHERE.append(DECOUPLED)


@pytest.mark.parametrize("policy", ["none", "reuse:interval=2", "speca:threshold=100,threshold_decay=1,target=last_block"])
@pytest.mark.parametrize(("blocks", "name", "config", "streams"), ELSEWHERE, ids=[f"{blocks}-{name}" for blocks, name, *_ in ELSEWHERE])
def test_guiders_that_only_some_models_have_and_guidance_for_part_of_the_steps(
    blocks: str, name: str, config: dict[str, Any], streams: tuple[str, ...], policy: str
) -> None:
    """Law: the same; a prediction that is made in some steps is in the report of those."""
    modular = MODULAR[blocks]
    bare = modular.call(modular.build(guider=guider(name, **config)), steps=STEPS)
    pipe = modular.build(guider=guider(name, **config))
    asked: list[str] = []

    def note(prepare: Any, *args: Any) -> Any:
        states = prepare(*args)
        asked.extend(getattr(state, pipe.guider._identifier_key) for state in states)
        return states

    for method in ("prepare_inputs", "prepare_inputs_from_block_state"):
        setattr(pipe.guider, method, functools.partial(note, getattr(pipe.guider, method)))
    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        output = modular.call(pipe, steps=STEPS)
        reports = attached.reports
        assert {stream: len(report.outcomes) for stream, report in reports.items()} == {stream: asked.count(stream) for stream in streams}
        assert torch.equal(modular.call(pipe, steps=STEPS), output)
    assert torch.equal(output, bare) == (policy == "none")
    assert torch.equal(modular.call(pipe, steps=STEPS), bare)


@pytest.mark.parametrize("which", ["guider", "guider_2"])
def test_each_of_two_guiders_names_the_calls_of_its_transformer_and_may_be_exchanged(which: str) -> None:
    modular = MODULAR["Wan22Blocks"]
    model = "transformer" if which == "guider" else "transformer_2"
    pipe = modular.build()
    with foreseer.attach(pipe, "reuse", interval=2) as attached:
        modular.call(pipe, steps=STEPS)
        gone = getattr(pipe, which)
        pipe.update_components(**{which: guider("ClassifierFreeGuidance", enabled=False)})
        modular.call(pipe, steps=STEPS)
        assert names(attached) == [name for name in modular.streams if name != f"{model}: pred_uncond"]
        assert not [key for key, value in vars(gone).items() if callable(value)]


def test_one_guider_in_two_places_names_both() -> None:
    modular, shared = MODULAR["Wan22Blocks"], guider("ClassifierFreeGuidance")
    pipe = modular.build(guider=shared, guider_2=shared)
    with foreseer.attach(pipe, "none") as attached:
        modular.call(pipe)
        assert tuple(names(attached)) == modular.streams


def test_guiders_of_picture_and_sound_may_ask_for_different_predictions() -> None:
    """LTX 2 makes a prediction that one of them asks for; it is called what that one calls it."""
    modular = MODULAR["LTX2AutoBlocks"]
    blocks = {"spatio_temporal_guidance_blocks": [1]}
    picture, sound = guider("LTX2Guidance", guidance_scale=3.0, stop=0.5, **blocks), guider("LTX2Guidance", stg_scale=1.0, **blocks)
    pipe = modular.build(guider=picture, audio_guider=sound)
    with foreseer.attach(pipe, "reuse", interval=2) as attached:
        modular.call(pipe, steps=STEPS)
        assert {name: len(report.outcomes) for name, report in attached.reports.items()} == {"pred_cond": 8, "pred_uncond": 4, "pred_cond_stg": 8}


def test_skip_layer_guidance_without_text_guidance_is_two_things() -> None:
    """There diffusers gives the negative prompt to `pred_cond_skip` (index 1 of two): no history is shared with what has the prompt."""
    modular = MODULAR["WanBlocks"]
    config = {"skip_layer_config": SKIPPED, "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0, "start": 0.5}
    pipe = modular.build(guider=guider("SkipLayerGuidance", **config))
    with foreseer.attach(pipe, "reuse", interval=2) as attached:
        modular.call(pipe, steps=STEPS)
        assert {name: len(report.outcomes) for name, report in attached.reports.items()} == {
            "pred_cond": 8,
            "pred_cond_skip": 3,
            "pred_uncond": 4,
            "pred_cond_skip call 2": 4,
        }


def test_a_call_that_raises_ends_its_run_and_leaves_nothing_to_the_next() -> None:
    modular: Modular = MODULAR["WanBlocks"]
    pipe = modular.build()
    with foreseer.attach(pipe, "reuse", interval=2) as attached:
        output = modular.call(pipe, steps=STEPS)
        calls = [0]

        def fail(*_: Any) -> None:
            calls[0] += 1
            if calls[0] == 6:
                raise KeyboardInterrupt

        handle = pipe.transformer.register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            modular.call(pipe, steps=STEPS)
        handle.remove()
        assert all(0 < len(report.outcomes) < STEPS for report in attached.reports.values())
        assert torch.equal(modular.call(pipe, steps=STEPS), output)
        assert names(attached) == list(GUIDED)


def test_a_call_in_another_thread_is_refused_while_one_is_under_way() -> None:
    modular = MODULAR["WanBlocks"]
    pipe = modular.build()
    refused: list[BaseException] = []

    def intrude() -> None:
        try:
            modular.call(pipe)
        except foreseer.ContractError as error:
            refused.append(error)

    def another(*_: Any) -> None:
        if not refused:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join(60)

    with foreseer.attach(pipe, "reuse", interval=2) as attached:
        output = modular.call(pipe, steps=STEPS)
        handle = pipe.transformer.register_forward_pre_hook(another)
        assert torch.equal(modular.call(pipe, steps=STEPS), output)
        handle.remove()
        assert [len(report.outcomes) for report in attached.reports.values()] == [STEPS, STEPS]
    assert len(refused) == 1
    assert "one worker or a lock" in str(refused[0])


@pytest.mark.parametrize("how", ["update_components", "assigned", "with its guider"])
def test_a_scheduler_that_is_exchanged_is_followed(how: str) -> None:
    """Law: the next call gives what a fresh attachment gives, under the same names."""
    modular = MODULAR["WanBlocks"]
    pipe, other = modular.build(), modular.build()
    with foreseer.attach(other, "reuse", interval=2):
        wanted = modular.call(other, steps=STEPS)
    with foreseer.attach(pipe, "reuse", interval=2) as attached:
        modular.call(pipe, steps=3)
        if how == "assigned":
            pipe.scheduler = other.scheduler
        else:
            pipe.update_components(scheduler=other.scheduler, **({"guider": other.guider} if how == "with its guider" else {}))
        assert torch.equal(modular.call(pipe, steps=STEPS), wanted)
        assert names(attached) == list(GUIDED)
        assert all(report.finished for report in attached.reports.values())
    assert not [key for key, value in vars(pipe.scheduler).items() if callable(value)]


def test_a_transformer_that_is_exchanged_is_refused_in_words() -> None:
    modular = MODULAR["WanBlocks"]
    pipe = modular.build()
    with foreseer.attach(pipe, "reuse", interval=2):
        pipe.update_components(transformer=modular.build().transformer)
        with pytest.raises(foreseer.ContractError, match="transformer"):
            modular.call(pipe, steps=STEPS)


@pytest.mark.parametrize(("blocks", "what_to_do"), [("WanBlocks", "after load_components"), ("EchoBlocks", "with a scheduler")])
def test_what_cannot_be_attached_is_refused_in_words(blocks: str, what_to_do: str) -> None:
    """A pipeline that has no components yet; one whose loop has no scheduler."""
    with accepted(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of repositories that nobody loads from
        pipe = getattr(diffusers.modular_pipelines, blocks)().init_pipeline()
    with pytest.raises(foreseer.UnsupportedModelError, match=what_to_do):
        foreseer.attach(pipe, "none")
