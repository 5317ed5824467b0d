"""Faults that were found in released caching libraries by running them. Each test begins with what the other one does, and shows that foreseer does not."""

import contextlib
import gc
import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from tiny import TINY
from torch import Tensor, nn

import foreseer
from foreseer import ContractError, OptionError, PluginError, UnsupportedModelError, hookimpl
from foreseer.bank import FeatureBank
from foreseer.policies import taylor_weights
from foreseer.registry import parse_policy
from foreseer.types import Needs, Plan, Run, Site, Weights

FLUX = TINY["FluxPipeline"]
SKIP_ALL = "cg_taylor:threshold=100,warmup_steps=2"


@pytest.fixture
def flux() -> Any:
    return FLUX.build()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x)) * (1 + t / 10)[:, None]


class Blocks(nn.Module):
    """A model of one's own: six blocks, a head, and nothing of diffusers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(6))
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, t)
        result: Tensor = self.head(x)
        return result


@pytest.fixture
def blocks() -> nn.Module:
    return Blocks().eval().requires_grad_(False)


def walk(model: nn.Module, steps: int, rows: int = 1) -> list[Tensor]:
    """What a loop of one's own does."""
    x = torch.linspace(-1, 1, 8).expand(rows, 8)
    with torch.no_grad():
        return [model(x + 0.02 * step, torch.full((rows,), float(steps - step))) for step in range(steps)]


@contextmanager
def calls_of(modules: nn.ModuleList) -> Iterator[list[int]]:
    """How often each of these modules is called, counted by hooks."""
    counts = [0] * len(modules)

    def count(index: int) -> Any:
        def hook(*_args: Any) -> None:
            counts[index] += 1

        return hook

    handles = [module.register_forward_hook(count(i)) for i, module in enumerate(modules)]
    yield counts
    for handle in handles:
        handle.remove()


def fresh(name: str, policy: str, pipe: Any, **settings: Any) -> Tensor:
    with foreseer.attach(pipe, parse_policy(policy)):
        return TINY[name].call(pipe, **settings)


# What a user may get wrong.


@pytest.mark.parametrize(
    ("policy", "options", "error", "says"),
    [
        # cache-dit 1.5.3: a misspelt threshold given to enable_cache is ignored, and 0.08 stays in force.
        ("cg_taylor", {"treshold": 0.9}, OptionError, "did you mean 'threshold'"),
        # cache-dit 1.5.3: a threshold that is text raises a TypeError fifteen frames deep, at the first step that could be skipped.
        ("speca", {"threshold": "0.1"}, OptionError, "threshold='0.1'"),
        # cache-dit 1.5.3: a negative threshold is accepted and means "never".
        ("cg_taylor", {"threshold": -0.1}, OptionError, r"threshold=-0.1"),
        # cache-dit 1.5.3: order -1 is an IndexError when the pipeline is called.
        ("taylorseer", {"max_order": -1}, OptionError, "max_order=-1"),
        # cache-dit 1.5.3: 99 blocks of 6 are an AssertionError, but only when the pipeline is called.
        ("taylorseer", {"interval": 0}, OptionError, "interval=0"),
        # cache-dit 1.5.3: steps_computation_policy="statik" is taken for dynamic in silence.
        ("cg_taylor", {"decide": "bacth"}, OptionError, "'row', 'batch'"),
        # cache-dit 1.5.3: calibrator_cache_type="residuals" is taken for hidden_states in silence.
        ("taylorseer", {"target": "residuals"}, OptionError, "'modules', 'last_block', 'residual', 'residual_after_first', 'output'"),
        # cache-dit 1.5.3: calibrator_type="hermite" is an AssertionError when the pipeline is called.
        ("cg_taylor", {"predictor": "hermite"}, PluginError, "hermite"),
        # cache-dit 1.5.3: an unknown name is refused without saying which there are.
        ("teacache", {}, PluginError, "cg_taylor"),
    ],
)
def test_a_wrong_option_is_refused_at_once_and_by_name(policy: str, options: dict[str, Any], error: type[Exception], says: str, flux: Any) -> None:
    with pytest.raises(error, match=says):
        foreseer.attach(flux, policy, **options)
    foreseer.attach(flux, "none").detach()


@pytest.mark.parametrize("target", [None, "black-forest-labs/FLUX.1-dev", 3])
def test_what_is_no_model_is_refused_in_plain_words(target: Any) -> None:
    """cache-dit 1.5.3: None is answered with "pipe_or_adapter can only be None when use_ray=True and ray_transfer_fn is set"."""
    with pytest.raises(UnsupportedModelError, match=r"a diffusers pipeline with a scheduler and a transformer, or a torch\.nn\.Module"):
        foreseer.attach(target, "none")


def test_a_model_that_nobody_registered_is_driven(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: "MyDiT is not officially supported by cache-dit, please set BlockAdapter instead!"."""
    with foreseer.attach(blocks, parse_policy(SKIP_ALL)) as attached, attached.run(num_steps=8):
        walk(blocks, 8)
    assert attached.report.full_steps == [0, 1, 7]


def test_second_attachment_is_refused_and_the_first_stays_in_force(flux: Any) -> None:
    """cache-dit 1.5.3: enabling a second time with another configuration drops the second one in silence."""
    with foreseer.attach(flux, "reuse", interval=2) as attached:
        with pytest.raises(ContractError, match="reuse:interval=2"):
            foreseer.attach(flux, "cg_taylor")
        FLUX.call(flux, steps=5)
        assert attached.report.full_steps == [0, 2, 4]


def test_a_model_without_a_place_to_forecast_is_an_error_and_no_silent_nothing() -> None:
    """diffusers 0.42.1: TaylorSeer with default settings hooks no module of 39 of 60 transformer classes and says nothing."""
    with pytest.raises(UnsupportedModelError, match="no list of blocks"):
        foreseer.attach(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "taylorseer")


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "CogVideoXPipeline", "MochiPipeline", "PixArtSigmaPipeline", "DiTPipeline", "SanaPipeline"])
def test_default_taylorseer_finds_what_to_forecast(name: str) -> None:
    """diffusers 0.42.1: `TaylorSeerCacheConfig()` on these runs uncached, bit for bit, since no module's name matches its pattern."""
    pipe = TINY[name].build()
    with foreseer.attach(pipe, "taylorseer") as attached:
        TINY[name].call(pipe, steps=6)
    assert all(report.full_steps == [0, 1, 5] and report.block_rows_ratio == 0.5 for report in attached.reports.values())
    assert any(site.part != "block" for site in attached.report.bytes_held)


def test_a_cache_of_diffusers_on_the_same_model_is_refused() -> None:
    """diffusers 0.42.1: of two hooks that replace a forward, removing the first kills the second, and removing the second revives the first."""
    pipe = TINY["WanPipeline"].build()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(UnsupportedModelError, match=r"disable_cache\(\)"):
        foreseer.attach(pipe, "cg_taylor")
    pipe.transformer.disable_cache()
    foreseer.attach(pipe, "cg_taylor").detach()


# What must never be computed wrongly.


def test_a_probe_at_any_block_computes_no_block_twice_in_an_accepted_step(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: four blocks in front and four behind, of six, run eight blocks and give a wrong output even where no step is skipped."""
    bare = walk(blocks, 6)
    for block in (0, 3, 5):
        with foreseer.attach(blocks, "speca", threshold=0, verify_block=block) as attached, attached.run(num_steps=6):
            outputs = walk(blocks, 6)
        assert all(torch.equal(a, b) for a, b in zip(outputs, bare, strict=True))
        assert [o.block_rows for o in attached.report.outcomes] == [6, 6, 6, 7, 7, 7], "the probe and the step, nothing else"


def test_steps_beyond_the_declared_ones_are_computed(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: with a mask that is shorter than the run every later step is skipped, in silence."""
    with foreseer.attach(blocks, "taylorseer", interval=9) as attached, attached.run(num_steps=4):
        walk(blocks, 8)
    assert attached.report.full_steps == [0, 1, 4, 5, 6, 7]
    assert any("declared with 4 steps" in warning for warning in attached.report.warnings)


def test_a_batch_that_changes_within_a_run_is_another_stream_and_between_runs_welcome(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: the residual of a batch of one is broadcast onto a batch of two, without an error and 5 % off."""
    bare = walk(blocks, 2, rows=2)
    with foreseer.attach(blocks, "reuse") as attached:
        with attached.run(num_steps=4):
            walk(blocks, 2)
            assert torch.equal(walk(blocks, 2, rows=2)[0], bare[0])
        assert [report.full_steps for report in attached.reports.values()] == [[0], [0]]
        with attached.run(num_steps=4):
            walk(blocks, 4, rows=2)
        assert attached.report.full_steps == [0, 3]


@pytest.mark.parametrize("name", ["WanVACEPipeline", "QwenImageControlNetPipeline", "FluxControlNetPipeline", "StableDiffusion3ControlNetPipeline"])
def test_residuals_from_a_control_branch_are_counted_once(name: str) -> None:
    """diffusers 0.42.1: a cached residual holds what ControlNet or VACE added, which is then added again: 11 to 31 % off for an unchanged input."""
    pipe = TINY[name].build()
    kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = pipe.transformer.register_forward_pre_hook(lambda _module, args, kwargs: kept.append((args, kwargs)), with_kwargs=True)
    TINY[name].call(pipe, steps=1)
    handle.remove()
    args, kwargs = kept[0]
    with foreseer.attach(pipe.transformer, "reuse", target="last_block", interval=3) as attached, attached.run(num_steps=3), torch.no_grad():
        outputs = [pipe.transformer(*args, **kwargs)[0] for _ in range(3)]
    assert attached.report.full_steps == [0]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    "name", ["Flux2Pipeline", "Flux2KleinPipeline", "StableDiffusion3Pipeline", "LattePipeline", "Kandinsky5T2VPipeline", "ZImagePipeline", "SanaPipeline"]
)
def test_a_first_block_gate_works_whatever_the_blocks_return(name: str) -> None:
    """diffusers 0.42.1: FirstBlockCache raises on each of these: a tuple minus a tensor, None minus a tensor, shapes, a name of an argument, no registry."""
    pipe = TINY[name].build()
    with foreseer.attach(pipe, parse_policy(SKIP_ALL)) as attached:
        assert torch.isfinite(TINY[name].call(pipe, steps=6)).all()
    assert all(report.full_steps == [0, 1, 5] for report in attached.reports.values())


def test_an_error_that_is_no_number_is_a_rejection(blocks: nn.Module) -> None:
    """diffusers 0.42.1: `diff > threshold` is False for NaN, so that a broken step is skipped and the old residual used."""
    bad = torch.full((1, 8), float("nan"))
    with foreseer.attach(blocks, parse_policy(f"{SKIP_ALL},first_order=1")) as attached, attached.run(num_steps=8), torch.no_grad():
        for step in range(8):
            blocks(bad if step == 3 else torch.ones(1, 8), torch.ones(1))
    report = attached.report
    assert report.full_steps == [0, 1, 3, 4, 5, 7], "the step itself, and those that would be forecast from it"
    assert report.rejected[3].all()


def test_gradients_are_not_lost() -> None:
    """diffusers 0.42.1: nothing guards gradients: a skipped step has none, and cached residuals keep the graph of an earlier one alive."""
    model = Blocks()
    with foreseer.attach(model, "reuse", interval=4) as attached, attached.run(num_steps=3):
        for _ in range(3):
            model(torch.ones(1, 8), torch.ones(1)).sum().backward()
    assert attached.report.full_steps == [0, 1, 2]
    assert any("no_grad" in warning for warning in attached.report.warnings)


def test_a_sample_does_not_depend_on_its_neighbours(flux: Any) -> None:
    """cache-dit 1.5.3: one decision per batch: a sample that skips nothing alone skips steps 2, 4 and 6 beside an outlier."""
    policy = "cg_taylor:threshold=0.5,warmup_steps=2"
    with foreseer.attach(flux, parse_policy(policy)) as attached:
        together = FLUX.call(flux, steps=6, batch=3)
        fates = attached.report.computed
        assert any(len(set(row)) > 1 for row in fates.tolist())
        for sample in range(3):
            alone = FLUX.call(flux, steps=6, seed=sample)
            assert attached.report.computed[:, 0].tolist() == fates[:, sample].tolist()
            torch.testing.assert_close(together[sample : sample + 1], alone, rtol=0, atol=1e-4)


# What an attachment must not carry from one run to the next.


def test_every_run_of_a_loop_of_ones_own_is_the_first(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: in the documented mode without a pipeline each request is one step late, so that its first step reuses the previous request."""
    with foreseer.attach(blocks, "taylorseer", interval=3) as attached:
        outputs, full, counted = [], [], []
        for _ in range(3):
            with calls_of(blocks.layers) as calls, attached.run(num_steps=8):
                outputs.append(walk(blocks, 8))
            full.append(attached.report.full_steps)
            counted.append(sum(calls) == attached.report.block_rows + attached.report.check_block_rows)
    assert full == [[0, 1, 4, 7]] * 3
    assert all(counted), "and the report says what was done, not what the first run did"
    for later in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(later, outputs[0], strict=True))


def test_a_run_of_unknown_length_warms_up_too(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: with num_inference_steps=None nothing is ever reset, and the second request has no warm-up."""
    with foreseer.attach(blocks, "taylorseer", interval=4) as attached:
        for _ in range(2):
            with attached.run():
                walk(blocks, 7)
            assert attached.report.full_steps == [0, 1, 5]


def test_a_cancelled_run_leaks_nothing_into_the_next(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: after a cancelled run without a pipeline the next one skips steps 1 to 3."""
    with foreseer.attach(blocks, "taylorseer", interval=4) as attached:
        with contextlib.suppress(KeyboardInterrupt), attached.run(num_steps=8):
            walk(blocks, 4)
            raise KeyboardInterrupt
        with attached.run(num_steps=8):
            walk(blocks, 8)
        assert attached.report.full_steps == [0, 1, 5]


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline", "StableDiffusion3Pipeline"])
@pytest.mark.parametrize("policy", ["taylorseer:interval=3", SKIP_ALL])
def test_another_resolution_after_an_exception_works(name: str, policy: str) -> None:
    """diffusers 0.42.1: after an exception and a change of resolution every later call raises a shape error until the cache is taken off."""

    def fail(_pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        return {} if step < 2 else {"never": 1 / 0}

    tiny = TINY[name]
    pipe = tiny.build()
    with foreseer.attach(pipe, parse_policy(policy)):
        with pytest.raises(ZeroDivisionError):
            tiny.call(pipe, steps=5, callback_on_step_end=fail)
        outputs = [tiny.call(pipe, steps=5, size="large"), tiny.call(pipe, steps=5)]
    assert torch.equal(outputs[0], fresh(name, policy, pipe, steps=5, size="large"))
    assert torch.equal(outputs[1], fresh(name, policy, pipe, steps=5))


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "PixArtAlphaPipeline", "SanaPipeline", "Lumina2Pipeline", "ZImagePipeline"])
def test_models_without_the_mixin_need_no_context_and_are_reset(name: str) -> None:
    """diffusers 0.42.1: on these "No cache context is set", and their state is never reset, since they are no CacheMixin."""
    pipe = TINY[name].build()
    with foreseer.attach(pipe, "taylorseer", interval=3) as attached:
        first, full = TINY[name].call(pipe, steps=5), attached.report.full_steps
        assert torch.equal(TINY[name].call(pipe, steps=5), first)
    assert attached.report.full_steps == full == [0, 1, 4]


def test_drafting_goes_on_after_a_forced_step(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: once the accumulated difference has passed its limit, caching is off for the rest of the run."""
    options = {"threshold": 100, "threshold_decay": 1, "max_draft_steps": 2, "warmup_steps": 2}
    with foreseer.attach(blocks, "speca", **options) as attached, attached.run(num_steps=11):
        walk(blocks, 11)
    assert attached.report.full_steps == [0, 1, 4, 7, 10]


def test_steps_are_counted_as_they_are_run_and_not_as_they_are_scheduled() -> None:
    """diffusers 0.42.1: with image to image fewer steps are run than scheduled, so that guards of the last steps look at the wrong ones."""
    tiny = TINY["FluxImg2ImgPipeline"]
    pipe = tiny.build()
    with foreseer.attach(pipe, parse_policy(SKIP_ALL)) as attached:
        tiny.call(pipe, steps=8, strength=0.5)
    assert attached.report.run.num_steps == len(attached.report.outcomes) == 4
    assert attached.report.reasons[-1] == "last step"


def test_each_transformer_of_wan_2_2_has_a_history_and_a_warm_up_of_its_own() -> None:
    """diffusers 0.42.1: MagCache miscounts on two transformers: its state is never reset and its calibration never ends."""
    tiny = TINY["WanPipeline:2.2"]
    pipe = tiny.build()
    with foreseer.attach(pipe, "taylorseer", interval=3) as attached:
        first = tiny.call(pipe, steps=8)
        full = {name: report.full_steps for name, report in attached.reports.items()}
        assert torch.equal(tiny.call(pipe, steps=8), first)
    assert all(steps[:2] == [0, 1] for steps in full.values())
    assert len(full) == 4


# What belongs to one pipeline, and to nobody else.


def test_two_pipelines_of_one_class_go_side_by_side_with_reports_of_their_own() -> None:
    """cache-dit 1.5.3: running the second pipeline overwrites the first one's statistics."""
    first, second = FLUX.build(), FLUX.build()
    with foreseer.attach(first, "taylorseer", interval=3) as one, foreseer.attach(second, parse_policy(SKIP_ALL)) as other:
        outputs = FLUX.call(first, steps=6), FLUX.call(second, steps=6)
        assert (one.report.policy, other.report.policy) == ("taylorseer:interval=3", SKIP_ALL)
        assert (one.report.full_steps, other.report.full_steps) == ([0, 1, 4], [0, 1, 5])
        assert torch.equal(FLUX.call(first, steps=6), outputs[0])
    assert torch.equal(fresh("FluxPipeline", SKIP_ALL, first, steps=6), outputs[1])


def test_detaching_two_of_one_class_leaves_nothing_on_the_class() -> None:
    """cache-dit 1.5.3: after both are disabled `__call__` of the class stays wrapped, and every later pipeline raises an AttributeError."""
    first, second = FLUX.build(), FLUX.build()
    bare = FLUX.call(first, steps=3)
    classes = [*type(first).__mro__, *type(first.transformer).__mro__, *type(first.scheduler).__mro__]
    before = [dict(vars(cls)) for cls in classes]
    attachments = [foreseer.attach(first, "reuse"), foreseer.attach(second, "reuse")]
    assert [dict(vars(cls)) for cls in classes] == before, "nothing is ever put on a class"
    for attached in attachments:
        attached.detach()
    assert [dict(vars(cls)) for cls in classes] == before
    assert torch.equal(FLUX.call(FLUX.build(), steps=3), bare)


@pytest.mark.parametrize("detach", [True, False])
def test_memory_is_freed_with_the_pipeline(detach: bool) -> None:
    """cache-dit 1.5.3: `del pipe` without disabling keeps the transformer alive through a closure on the class; three rebuilds hold three models."""
    pipe = FLUX.build()
    attached = foreseer.attach(pipe, "taylorseer")
    FLUX.call(pipe, steps=4)
    if detach:
        attached.detach()
    model = weakref.ref(pipe.transformer)
    del pipe, attached
    gc.collect()
    assert model() is None


def test_detaching_holds_no_features_and_keeps_the_report() -> None:
    """diffusers 0.42.1: states outlive a call that raised, and are held until the cache is taken off."""
    pipe = FLUX.build()
    attached = foreseer.attach(pipe, "taylorseer")
    FLUX.call(pipe, steps=4)
    attached.detach()
    assert attached.report.full_steps == [0, 1]
    assert torch.equal(FLUX.call(pipe, steps=4), FLUX.call(FLUX.build(), steps=4))


def test_two_pipelines_that_share_a_transformer_do_not_share_a_policy() -> None:
    """diffusers 0.42.1: of two pipelines that share a transformer the second one is cached too, with the first one's state."""
    first, second = FLUX.build(), FLUX.build()
    second.transformer = first.transformer
    bare = FLUX.call(second, steps=4)
    with foreseer.attach(first, "reuse") as attached:
        with pytest.raises(ContractError):
            foreseer.attach(second, "reuse")
        FLUX.call(first, steps=4)
        assert torch.equal(FLUX.call(second, steps=4), bare)
        assert any("calls came outside of a run" in warning for warning in attached.report.warnings)
        assert len(attached.report.outcomes) == 4


def test_hooks_that_come_later_survive_detaching(flux: Any) -> None:
    """diffusers 0.42.1: hooks are not removed last in, first out: taking one off silently kills another that came later."""
    attached = foreseer.attach(flux, "reuse")
    with calls_of(flux.transformer.transformer_blocks) as calls:
        attached.detach()
        FLUX.call(flux, steps=3)
    assert calls == [3, 3, 3]


def test_the_scheduler_keeps_its_class_and_its_signatures(flux: Any) -> None:
    """diffusers 0.42.1: pipelines compare `type(scheduler)` and look at the signature of `set_timesteps`, so that a wrapper in its place fails."""
    scheduler = flux.scheduler
    before = {name: inspect.signature(getattr(scheduler, name)) for name in ("set_timesteps", "step")}
    with foreseer.attach(flux, "reuse"):
        assert type(flux.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
        assert {name: inspect.signature(getattr(scheduler, name)) for name in before} == before


# What must not pass unnoticed.


def test_true_cfg_on_flux_accelerates_both_streams() -> None:
    """cache-dit 1.5.3: with true_cfg_scale=4 cond and uncond alternate in one context: 0 of 16 steps are cached, silently without a speed-up."""
    tiny = TINY["FluxPipeline:true_cfg"]
    pipe = tiny.build()
    with foreseer.attach(pipe, parse_policy(SKIP_ALL)) as attached:
        tiny.call(pipe, steps=8)
    assert {name: report.full_steps for name, report in attached.reports.items()} == {"cond": [0, 1, 7], "uncond": [0, 1, 7]}


@pytest.mark.parametrize(
    ("policy", "says"),
    [("cg_taylor:threshold=0", "drafts were rejected"), ("taylorseer:warmup_steps=50", "all 5 steps were computed (warm-up")],
)
def test_a_run_that_gained_nothing_says_so_and_why(policy: str, says: str, flux: Any) -> None:
    """cache-dit 1.5.3: a run in which no step was cached looks like any other; nobody notices that it was as slow as without."""
    with foreseer.attach(flux, parse_policy(policy)) as attached:
        FLUX.call(flux, steps=5)
    assert any("nothing was accelerated" in warning and says in warning for warning in attached.report.warnings)
    assert "nothing was accelerated" in str(attached.report)


def test_every_step_has_a_reason(flux: Any) -> None:
    """cache-dit 1.5.3: the summary holds residual differences and the numbers of the cached steps, and not why the others were computed."""
    with foreseer.attach(flux, "cg_taylor", threshold=0.5, warmup_steps=2) as attached:
        FLUX.call(flux, steps=6)
    reasons = attached.report.reasons
    assert [reasons[0], reasons[1], reasons[5]] == ["warm-up", "warm-up", "last step"]
    assert all("error" in reason and "threshold 0.5" in reason for reason in reasons[2:5])


# What a forecast must get right.


@pytest.mark.parametrize("anchors", [(2.0, 1.0, 0.0), (11.0, 8.0, 5.0), (8.0, 4.0, 2.0), (5.0, 2.0, 1.0)])
@pytest.mark.parametrize("order", [1, 2])
def test_a_linear_signal_is_forecast_exactly_whatever_the_anchors(anchors: tuple[float, ...], order: int) -> None:
    """cache-dit 1.5.3: FoCa takes the last difference for the slope without dividing by its interval: worse than reuse for anchors that are not consecutive."""
    for target in (anchors[0] + 1, anchors[0] + 2):
        weights = taylor_weights(anchors, target, max_order=order)
        forecast = sum(w * (1 + 0.5 * a) for w, a in zip(weights, anchors, strict=False))
        assert forecast == pytest.approx(1 + 0.5 * target, rel=1e-14)


def test_the_slope_is_that_of_the_two_newest_anchors() -> None:
    """cache-dit 1.5.3: DMD's fallback takes the anchor before the last but the last interval: 4.167 and 4.833 on 1 + t / 2 in place of 4.0 and 4.5."""
    anchors = (5.0, 2.0, 1.0, 0.0)
    forecasts = [sum(w * (1 + a / 2) for w, a in zip(taylor_weights(anchors, t, max_order=1), anchors, strict=False)) for t in (6.0, 7.0)]
    assert forecasts == pytest.approx([4.0, 4.5])


def test_two_anchors_are_enough_for_a_slope(blocks: nn.Module) -> None:
    """cache-dit 1.5.3: TaylorSeer in a fresh context gives plain reuse until the fourth anchor: 2.0 and 2.0 after 0, 1, 2."""
    assert taylor_weights((1.0, 0.0), 2.0, max_order=1) == (2.0, -1.0)

    class Ramp(nn.Module):
        """A last block whose output rises by one a step."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(2))
            for layer in self.layers:
                layer.weight.data.fill_(1.0)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    model = Ramp().requires_grad_(False)
    with foreseer.attach(model, "taylorseer", interval=5, max_order=1, target="last_block") as attached, attached.run(num_steps=4), torch.no_grad():
        outputs = [model(torch.full((1, 1), float(step))).item() for step in range(4)]
    assert attached.report.full_steps == [0, 1]
    assert outputs == [0.0, 1.0, 2.0, 3.0]


def test_differences_are_not_taken_in_half_precision() -> None:
    """diffusers 0.42.1: TaylorSeer keeps its differences in bfloat16 by default, divided again at every computed step."""
    site = Site(0)
    bank = FeatureBank({site: 3}, 1)
    anchors = (8.0, 4.0, 0.0)
    features = {anchor: torch.tensor([[100.0 + 0.5 * anchor]]).bfloat16() for anchor in anchors}
    for anchor in reversed(anchors):
        bank.commit(int(anchor), None, {site: features[anchor]})
    weights = Weights(np.array([taylor_weights(anchors, 10.0, max_order=2)]))
    exact = sum(w * features[a].double() for w, a in zip(weights.values[0], anchors, strict=True))
    assert torch.equal(bank.forecast(site, weights), exact.bfloat16()), "the only rounding is that of the result"


def test_a_policy_of_ones_own_needs_no_fork(flux: Any) -> None:
    """cache-dit 1.5.3: a third party cannot add a gate or a calibrator without changing the library."""

    class EveryOther:
        @hookimpl
        def setup(self, run: Run) -> Needs:
            self.last = Site(run.depth - 1)
            return Needs(sites=(self.last,))

        @hookimpl
        def before_step(self, step: Any) -> Plan | None:
            return Plan(forecast=(self.last,)) if step.index % 2 else None

    with foreseer.attach(flux, lambda: (EveryOther(), foreseer.policies.taylor(max_order=1))) as attached:
        FLUX.call(flux, steps=6)
    assert attached.report.full_steps == [0, 2, 4]
