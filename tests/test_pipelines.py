"""Every pipeline in miniature under every policy: laws that hold whatever the model is called and however its pipeline drives it."""

import inspect
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from counting import counted
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from tiny import TINY, Tiny
from tiny.common import ALWAYS_GUIDED, NO_BATCH
from torch import Tensor, nn

import foreseer
from foreseer import Report
from foreseer.registry import parse_policy

STEPS = 5
MODULES = "taylorseer:interval=3"
CG_TAYLOR = "cg_taylor:threshold=0.5,warmup_steps=2"
SPECA = "speca:threshold=0.5,threshold_decay=1,max_order=1,warmup_steps=2"
THREE = [MODULES, CG_TAYLOR, SPECA]
POLICIES = [
    "none",
    "reuse:interval=3",
    f"{MODULES},target=last_block",
    f"{MODULES},target=output",
    f"{CG_TAYLOR},decide=batch",
    "speca_released",
    *THREE,
]
MAIN = [
    "FluxPipeline",
    "FluxControlNetPipeline",
    "Flux2Pipeline",
    "Flux2KleinPipeline",
    "DiTPipeline",
    "HunyuanVideoPipeline",
    "WanPipeline",
    "WanPipeline:2.2",
    "WanVACEPipeline",
    "QwenImagePipeline",
    "StableDiffusion3Pipeline:skip_layers",
    "ZImagePipeline",
    "LTX2Pipeline",
    "LattePipeline",
    "Lumina2Pipeline:cfg_trunc_ratio",
]
OTHERS = [name for name in TINY if name not in MAIN]

PARTS_REPEAT = "module parts cannot be forecast: a part of a block is called several times"
DOWNGRADED = {
    "CogView4Pipeline": PARTS_REPEAT,  # its feed-forward runs once for the text and once for the image
    "EasyAnimatePipeline": PARTS_REPEAT,  # likewise
    "Flux2KleinKVPipeline": "one kind of call is always computed",  # the first returns its keys and values
    "SkyReelsV2DiffusionForcingPipeline": "later evaluations are computed",  # more iterations than its scheduler has timesteps
}
"""What a report says of a pipeline that does not get all that was asked for. Of every other pipeline no report may say anything of the kind."""
NOT_REPORTED = {"Flux2KleinKVPipeline": 3 * 6}
"""Block-rows of two calls that no report holds: of its first kind of call, computed twice and tried once, which the report says in words."""
IN_WORDS = (
    "nothing was accelerated",
    "this is the first of",
    "no known module parts",
    "steps are few",
    "ControlNetModel) was called in",
    "that it was the last could not be known",
)
"""What a report may say of any pipeline: that a policy gained nothing, that there are more streams, what follows from a downgrade, that these runs have few
steps or ended earlier than was scheduled, and what is called beside the denoiser."""


def transformers(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if name.startswith("transformer") and part is not None}


class Log:
    """An observer that keeps the report of every run: a call of a pipeline may make several."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    @foreseer.hookimpl
    def on_run_end(self, report: Report) -> None:
        self.reports.append(report)


@attrs.define(eq=False)
class Subject:
    """One pipeline, its bare output, and what it gives under a policy that was attached for one call."""

    tiny: Tiny
    pipe: Any
    bare: Tensor
    attributes: dict[str, set[str]]
    known: dict[tuple[str, str], Tensor] = attrs.field(factory=dict)

    @classmethod
    def build(cls, name: str) -> "Subject":
        tiny = TINY[name]
        pipe = tiny.build()
        return cls(tiny, pipe, tiny.call(pipe, steps=STEPS), attributes_of(pipe))

    def call(self, **settings: Any) -> Tensor:
        return self.tiny.call(self.pipe, **{"steps": STEPS, **settings})

    def fresh(self, policy: str, **settings: Any) -> Tensor:
        """The output of a call with an attachment of its own."""
        key = (policy, str(settings))
        if key not in self.known:
            with foreseer.attach(self.pipe, parse_policy(policy)):
                self.known[key] = self.call(**settings)
        return self.known[key]

    def settings(self, *changes: dict[str, Any]) -> list[dict[str, Any]]:
        """The changes that the pipeline can follow: some take one sample only."""
        alone = NO_BATCH in self.tiny.notes
        return [{k: v for k, v in change.items() if not (alone and k == "batch")} for change in changes]


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject.build(request.param)


def attributes_of(pipe: Any) -> dict[str, set[str]]:
    """The names of all instance attributes of the pipeline, its scheduler, its models and their submodules."""
    found = {"pipe": set(vars(pipe)), "scheduler": set(vars(pipe.scheduler))}
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            found |= {f"{name}.{path}": set(vars(module)) for path, module in part.named_modules()}
    return found


def decisions(reports: Sequence[Report]) -> list[Any]:
    return [report.computed.tolist() for report in reports]


def downgrades(sentences: Sequence[str]) -> set[str]:
    return {sentence for sentence in sentences if not any(words in sentence for words in IN_WORDS)}


class Stopped(Exception):  # noqa: N818
    """What a user raises to stop a model: let through wherever it is raised, also in a self-check."""


def raise_by_callback(subject: Subject) -> None:
    def callback(_pipe: Any, step: int, _timestep: Any, _values: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            raise Stopped
        return {}

    subject.call(callback_on_step_end=callback)


def raise_in_the_model(subject: Subject) -> None:
    calls = []

    def hook(*_args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stopped

    handles = [model.register_forward_hook(hook) for model in transformers(subject.pipe).values()]
    try:
        subject.call()
    finally:
        for handle in handles:
            handle.remove()


def takes_callbacks(subject: Subject) -> bool:
    return "callback_on_step_end" in inspect.signature(type(subject.pipe).__call__).parameters


class Laws:
    """What holds for any pipeline and any policy."""

    changes: tuple[dict[str, Any], ...]
    """The settings that are changed from call to call."""
    both_ways: bool
    """Whether to raise in the model where the pipeline takes callbacks, too."""

    def test_equal_calls_are_equal_and_counted_and_leave_nothing_behind(self, subject: Subject, policy: str) -> None:
        log, name = Log(), subject.tiny.name
        with counted(*transformers(subject.pipe).values()) as count, foreseer.attach(subject.pipe, parse_policy(policy), observers=[log]) as attached:
            outputs = [subject.call(), subject.call()]
            sentences = list(attached.report.warnings)
        assert torch.equal(*outputs)
        subject.known[policy, "{}"] = outputs[0]
        if policy == "none":
            assert torch.equal(outputs[0], subject.bare)

        half = len(log.reports) // 2
        assert decisions(log.reports[:half]) == decisions(log.reports[half:])
        assert all(report.finished for report in log.reports)

        reported = sum(report.block_rows + report.check_block_rows for report in log.reports)
        assert count[0] == reported + (NOT_REPORTED.get(name, 0) if policy != "none" else 0)
        sentences = [*sentences, *(warning for report in log.reports for warning in report.warnings)]
        assert policy == "none" or any(not report.computed.all() for report in log.reports) or "nothing was accelerated" in str(sentences)
        said = downgrades(sentences)
        assert all(DOWNGRADED.get(name, "?") in sentence for sentence in said), said

        assert attributes_of(subject.pipe) == subject.attributes
        assert torch.equal(subject.call(), subject.bare)

    def test_a_call_after_an_exception_equals_a_clean_call(self, subject: Subject, policy: str) -> None:
        ways = [raise_by_callback] if takes_callbacks(subject) else []
        if self.both_ways or not ways:
            ways.append(raise_in_the_model)
        with foreseer.attach(subject.pipe, parse_policy(policy)):
            for way in ways:
                with pytest.raises(Stopped):
                    way(subject)
            after = subject.call()
        assert torch.equal(after, subject.fresh(policy))
        assert attributes_of(subject.pipe) == subject.attributes

    def test_changed_settings_give_what_fresh_attachments_give(self, subject: Subject, policy: str) -> None:
        settings = subject.settings(*self.changes, {})
        with foreseer.attach(subject.pipe, parse_policy(policy)):
            outputs = [subject.call(**changed) for changed in settings]
        for changed, output in zip(settings, outputs, strict=True):
            assert torch.equal(output, subject.fresh(policy, **changed)), changed


@pytest.mark.parametrize("subject", MAIN, indirect=True, scope="module")
@pytest.mark.parametrize("policy", POLICIES)
class TestMainPipelines(Laws):
    changes = ({"steps": 7}, {"size": "large"}, {"batch": 2})
    both_ways = True


@pytest.mark.parametrize("subject", OTHERS, indirect=True, scope="module")
@pytest.mark.parametrize("policy", THREE)
class TestOtherPipelines(Laws):
    changes = ({"steps": 4, "size": "large", "batch": 2},)
    both_ways = False


@pytest.mark.parametrize("name", OTHERS)
def test_policy_none_is_the_bare_pipeline_bit_for_bit(name: str) -> None:
    tiny = TINY[name]
    pipe = tiny.build()
    bare = tiny.call(pipe, steps=3)
    with foreseer.attach(pipe, "none"):
        assert torch.equal(tiny.call(pipe, steps=3), bare)


def run(name: str, policy: str = "none", *, pipe: Any = None, streams: Any = "independent", **settings: Any) -> tuple[Tensor, list[Report], dict[str, Report]]:
    """One call: its output, the reports of all its runs, and those that the attachment has at the end."""
    pipe, log = pipe or TINY[name].build(), Log()
    with foreseer.attach(pipe, parse_policy(policy), streams=streams, observers=[log]) as attached:
        output = TINY[name].call(pipe, **settings)
        reports = attached.reports
    return output, log.reports, reports


BATCHED = [name for name, tiny in TINY.items() if tiny.guidance == "batched" and NO_BATCH not in tiny.notes]
SEQUENTIAL = [name for name, tiny in TINY.items() if tiny.guidance == "sequential"]


@pytest.mark.parametrize("name", BATCHED)
def test_concatenated_guidance_makes_groups_of_two_rows(name: str) -> None:
    _, _, reports = run(name, steps=2, batch=2)
    assert next(iter(reports.values())).run.groups == (0, 1, 0, 1)
    if ALWAYS_GUIDED not in TINY[name].notes:
        _, _, reports = run(name, steps=2, batch=2, guidance=False)
        assert [report.run.groups for report in reports.values()] == [(0, 1)]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sequential_guidance_makes_two_streams(name: str) -> None:
    pipe = TINY[name].build()
    models = len(transformers(pipe))
    _, _, reports = run(name, steps=4, pipe=pipe)
    assert len(reports) == 2 * models
    assert all(report.run.rows == 1 for report in reports.values())
    _, _, reports = run(name, steps=4, pipe=pipe, guidance=False)
    assert len(reports) == models


def test_guidance_that_stops_half_way_ends_its_stream() -> None:
    _, _, reports = run("Lumina2Pipeline:cfg_trunc_ratio", steps=6)
    assert [[o.step.index for o in report.outcomes] for report in reports.values()] == [[0, 1, 2, 3, 4, 5], [0, 1, 2]]


def test_a_batch_that_shrinks_half_way_goes_on_in_a_session_of_its_own() -> None:
    _, _, reports = run("ZImagePipeline:cfg_truncation", MODULES, steps=6, batch=2)
    assert [(report.run.groups, len(report.outcomes)) for report in reports.values()] == [((0, 1, 0, 1), 4), ((0, 1), 2)]
    assert [report.full_steps for report in reports.values()] == [[0, 1], [0, 1]], "each begins with a warm-up of its own"


def test_skipped_layers_make_a_kind_of_call_of_their_own() -> None:
    _, _, reports = run("StableDiffusion3Pipeline:skip_layers", MODULES, steps=8, batch=2)
    both, skipping = reports.values()
    assert (both.run.depth, both.run.rows, len(both.outcomes)) == (3, 4, 8)
    assert (skipping.run.depth, skipping.run.rows) == (2, 2)
    assert 0 < len(skipping.outcomes) < 8


def test_two_transformers_have_sessions_of_their_own() -> None:
    _, _, reports = run("WanPipeline:2.2", MODULES, steps=8)
    counts = {name: len(report.outcomes) for name, report in reports.items()}
    first, second = counts["transformer: cond"], counts["transformer_2: cond"]
    assert first + second == 8
    assert counts == {"transformer: cond": first, "transformer: uncond": first, "transformer_2: cond": second, "transformer_2: uncond": second}
    assert reports["transformer_2: cond"].full_steps[:2] == [0, 1], "the second warms up too"
    assert reports["transformer_2: cond"].run.num_steps == second


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("SkyReelsV2DiffusionForcingPipeline", [6, 6]),  # 4 scheduled steps are 6 iterations, in two streams
        ("HunyuanVideoFramepackPipeline", [4, 4]),  # two sections
        ("HeliosPipeline", [4, 4, 4, 4]),  # two chunks, in two streams
    ],
)
def test_several_loops_in_one_call_are_runs_of_their_own(name: str, counts: list[int]) -> None:
    _, every, last = run(name, steps=4)
    assert [len(report.outcomes) for report in every] == counts
    assert [[o.step.index for o in report.outcomes] for report in every] == [list(range(count)) for count in counts]
    assert decisions(list(last.values())) == decisions(every[-len(last) :])


@pytest.mark.parametrize("name", ["FluxPipeline:true_cfg", "WanPipeline", "QwenImagePipeline", "Flux2KleinPipeline", "ChromaPipeline"])
@pytest.mark.parametrize("policy", THREE)
def test_a_following_stream_computes_the_steps_of_the_first_and_judges_none(name: str, policy: str) -> None:
    _, _, reports = run(name, policy, streams="follow_first", steps=6, batch=2)
    first, second = reports.values()
    assert second.computed.tolist() == first.computed.tolist()
    assert not second.judged.any()
    for outcome in second.outcomes:
        assert outcome.block_rows == sum(outcome.computed) * second.run.depth, "no probe"
    assert ("cg" not in policy and "speca" not in policy) or first.judged.any()


PER_ROW = [
    ("FluxPipeline", 0.5, 0.1),
    ("StableDiffusion3Pipeline", 0.5, 0.2),
    ("WanPipeline", 0.5, 0.1),
    ("QwenImagePipeline", 0.5, 0.1),
    ("HunyuanVideoPipeline", 0.4, 0.2),
    ("HunyuanVideoFramepackPipeline", 0.5, 0.3),  # three indices of latent frames beside three rows
]
"""A pipeline, and thresholds of CG-Taylor and SpeCa that part its samples."""


@pytest.mark.parametrize("policy", ["cg_taylor", "speca"])
@pytest.mark.parametrize(("name", "cg_taylor", "speca"), PER_ROW)
def test_samples_of_a_batch_are_decided_and_drawn_as_they_are_alone(name: str, cg_taylor: float, speca: float, policy: str) -> None:
    pipe = TINY[name].build()
    text = f"cg_taylor:threshold={cg_taylor},warmup_steps=2"
    if policy == "speca":
        text = f"speca:threshold={speca},threshold_decay=1,max_order=1,warmup_steps=2"
    together, reports, _ = run(name, text, pipe=pipe, steps=6, batch=3)
    assert any(len(set(row)) > 1 for report in reports for row in report.computed.tolist()), "the threshold parts the samples"
    assert not any("whole batch" in warning for report in reports for warning in report.warnings)
    for sample in range(3):
        alone, own, _ = run(name, text, pipe=pipe, steps=6, seed=sample)
        torch.testing.assert_close(together[sample : sample + 1], alone, rtol=0, atol=2e-5 * together.abs().max().item())
        assert [r.computed[:, 0].tolist() for r in own] == [r.computed[:, sample].tolist() for r in reports]


@pytest.mark.parametrize("policy", ["cg_taylor:threshold=0.5,warmup_steps=2", "speca:threshold=0.2,threshold_decay=1,max_order=1,warmup_steps=2"])
def test_rows_of_one_sample_share_one_fate(policy: str) -> None:
    _, (report,), _ = run("StableDiffusion3Pipeline", policy, steps=6, batch=3)
    assert report.run.groups == (0, 1, 2, 0, 1, 2)
    assert report.computed[:, :3].tolist() == report.computed[:, 3:].tolist()
    assert any(len(set(row)) > 1 for row in report.computed.tolist())


def test_rows_that_are_not_where_they_seem_to_be_are_found() -> None:
    """ERNIE-Image's blocks return 22 tokens x rows x width: with two rows this looks like eleven tensors folded into each."""
    pipe = TINY["ErnieImagePipeline"].build()
    policy, settings = "cg_taylor:threshold=0.303,warmup_steps=2", {"pipe": pipe, "steps": 6, "guidance": False}
    together, (report,), _ = run("ErnieImagePipeline", policy, batch=2, **settings)
    assert not any("whole batch" in warning for warning in report.warnings)
    assert any(len(set(row)) > 1 for row in report.computed.tolist()), "the threshold parts the samples"
    for sample in range(2):
        alone, (own,), _ = run("ErnieImagePipeline", policy, seed=sample, **settings)
        torch.testing.assert_close(together[sample : sample + 1], alone, rtol=0, atol=2e-5 * together.abs().max().item())
        assert own.computed[:, 0].tolist() == report.computed[:, sample].tolist()


@pytest.mark.parametrize("target", ["modules", "last_block"])
@pytest.mark.parametrize("block", [0, 2, 3, 4, -1])
def test_a_draft_is_verified_at_whatever_block_is_named(block: int, target: str) -> None:
    subject = Subject.build("FluxPipeline")
    options = f"threshold_decay=1,warmup_steps=2,verify_block={block},target={target}"
    assert torch.equal(subject.fresh(f"speca:threshold=0,{options}"), subject.bare), "a draft is never right to the last bit"
    _, (report,), _ = run("FluxPipeline", f"speca:threshold=100,{options}", pipe=subject.pipe, steps=STEPS)
    assert report.judged.tolist() == [False, False, True, True, True]
    assert [outcome.block_rows for outcome in report.outcomes] == [6, 6, 1, 1, 1]


STRENGTH = [name for name, tiny in TINY.items() if "3 of 4 steps are run" in tiny.notes]


@pytest.mark.parametrize("name", STRENGTH)
def test_the_last_step_that_is_run_is_computed_where_fewer_run_than_are_scheduled(name: str) -> None:
    _, reports, _ = run(name, "cg_taylor:threshold=100,warmup_steps=1", steps=8)
    for report in reports:
        assert report.run.num_steps == len(report.outcomes) == 6
        assert report.full_steps == [0, 5]
        assert report.reasons[5] == "last step"


def test_a_scheduler_of_second_order_has_a_step_for_each_evaluation() -> None:
    tiny = TINY["StableDiffusion3Pipeline"]
    pipe = tiny.build()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    calls: list[int] = []
    handle = pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    _, (plain,), _ = run("StableDiffusion3Pipeline", pipe=pipe, steps=5)
    handle.remove()
    assert len(plain.outcomes) == plain.run.num_steps == len(calls) == 9
    _, (report,), _ = run("StableDiffusion3Pipeline", "cg_taylor:threshold=100,warmup_steps=1", pipe=pipe, steps=5)
    assert report.full_steps == [0, 8]


@pytest.mark.parametrize("policy", THREE)
def test_a_scheduler_that_is_exchanged_after_attaching_is_followed(policy: str) -> None:
    subject = Subject.build("StableDiffusion3Pipeline")
    before, after = subject.pipe.scheduler, FlowMatchEulerDiscreteScheduler(shift=2.0)
    with foreseer.attach(subject.pipe, parse_policy(policy)) as attached:
        first = subject.call()
        subject.pipe.scheduler = after
        exchanged = [subject.call(), subject.call()]
        assert len(attached.report.outcomes) == STEPS
    known = set(vars(after))
    assert not {"step", "set_timesteps"} & (set(vars(before)) | known)
    assert torch.equal(*exchanged)
    assert not torch.equal(first, exchanged[0])
    assert torch.equal(exchanged[0], subject.fresh(policy))
    subject.pipe.scheduler = before
    assert torch.equal(subject.call(), subject.bare)


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline", "StableDiffusion3Pipeline"])
@pytest.mark.parametrize("policy", THREE)
def test_an_interrupted_call_is_reported_as_far_as_it_went_and_leaves_nothing(name: str, policy: str) -> None:
    def interrupt(pipe: Any, step: int, _timestep: Any, _values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step >= 2
        return {}

    subject = Subject.build(name)
    with foreseer.attach(subject.pipe, parse_policy(policy)) as attached:
        subject.call(callback_on_step_end=interrupt)
        assert {len(report.outcomes) for report in attached.reports.values()} == {3}
        assert all(report.finished for report in attached.reports.values())
        after = subject.call()
    assert torch.equal(after, subject.fresh(policy))
