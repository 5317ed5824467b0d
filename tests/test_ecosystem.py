"""What people do with pipelines around us: compiling, offloading, LoRA, quantizing, saving, copying, other dtypes. Attached or not, it must hold."""

import copy

import accelerate
import attrs
import diffusers
import peft
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers.hooks import apply_group_offloading
from tiny import TINY
from tiny.common import accepted
from torch import nn
from torch._dynamo.utils import counters

import foreseer

FLUX, DIT = TINY["FluxPipeline"], TINY["DiTPipeline"]
STEPS = 10
NONE = "none"
LAST = "taylorseer:interval=3,target=last_block"
PARTS = "taylorseer:interval=3"
OUTPUT = "taylorseer:interval=3,target=output"
GATE = "cg_taylor:threshold=0.5"
DRAFT = "speca:threshold=0.5,threshold_decay=1"
POLICIES = [NONE, LAST, PARTS, OUTPUT, GATE, DRAFT]
CPU = torch.device("cpu")


@pytest.fixture
def _fresh_dynamo():
    """Nothing compiled yet, nothing counted."""
    torch._dynamo.reset()
    counters.clear()


def attach(target, text):
    return foreseer.attach(target, foreseer.registry.parse_policy(text))


def driven(pipe, text, tiny=FLUX, **ask):
    """One attached call: its output and its report."""
    with attach(pipe, text) as attached:
        output = tiny.call(pipe, **{"steps": STEPS, **ask})
    return output, attached.report


_expected = {}


def expected(text, tiny=FLUX):
    """What a policy gives on an untouched pipeline, and which steps it computes; `none` is checked to be the bare pipeline."""
    if (tiny.name, text) not in _expected:
        output, report = driven(tiny.build(), text, tiny)
        assert not report.warnings
        if text == NONE:
            assert torch.equal(output, tiny.call(tiny.build(), steps=STEPS))
        else:
            assert 0 < len(report.full_steps) < STEPS, "the policy was chosen so that it forecasts some steps"
        _expected[tiny.name, text] = output, report.full_steps
    return _expected[tiny.name, text]


class Counting:
    """A backend of torch.compile that runs graphs as they are and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, module, inputs):
        self.graphs += 1
        return module.forward


def left_behind(pipe):
    """Names of instance attributes that an attachment puts on modules and forgot."""
    return [name for name, module in pipe.transformer.named_modules() if {"_compiled_call_impl", "cache_context"} & vars(module).keys()]


# Compiling

compiling = pytest.mark.usefixtures("_fresh_dynamo")


RESIDUALS = ["taylorseer:interval=3,target=residual", "taylorseer:interval=3,target=residual_after_first", "agreement:tolerance=0.5"]


@pytest.mark.parametrize("text", [NONE, LAST, OUTPUT, GATE, *RESIDUALS, "speca:threshold=0.5,threshold_decay=1,target=last_block"])
@compiling
def test_blocks_compiled_one_by_one_keep_their_graphs_whatever_the_policy(text):
    pipe, backend = FLUX.build(), Counting()
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
    FLUX.call(pipe, steps=STEPS)
    bare = backend.graphs
    assert bare == 3, "one for the double blocks, two for the single ones"
    with attach(pipe, text) as attached:
        for _ in range(2):
            output = FLUX.call(pipe, steps=STEPS)
            torch.testing.assert_close(output, driven(FLUX.build(), text)[0], rtol=0, atol=1e-5)
    assert backend.graphs == bare, "nothing was compiled again"
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == bare
    assert (len(attached.report.full_steps) < STEPS) == (text != NONE)


@compiling
def test_rows_computed_alone_compile_for_their_number_once():
    """A rejected row is computed without the others: another batch size, which torch.compile takes as a new kind of call, once."""
    pipe, backend, text = FLUX.build(), Counting(), "cg_taylor:threshold=0.3"
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
    FLUX.call(pipe, steps=STEPS, batch=3)
    bare = backend.graphs
    with attach(pipe, text):
        FLUX.call(pipe, steps=STEPS, batch=3)
        first = backend.graphs
        FLUX.call(pipe, steps=STEPS, batch=3)
    assert bare < first <= bare + 2 * 4, "four graphs for one row, four for any number of rows"
    assert backend.graphs == first
    assert not counters["graph_break"]


@pytest.mark.parametrize("text", [PARTS, DRAFT])
@compiling
def test_module_parts_of_compiled_blocks_fall_back_to_the_last_block_and_the_report_says_so(text):
    pipe, backend = FLUX.build(), Counting()
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
    output, report = driven(pipe, text)
    assert any("blocks are compiled" in warning and "parts cannot be forecast" in warning for warning in report.warnings)
    assert any("last block's output is forecast instead" in warning for warning in report.warnings)
    last, _ = driven(FLUX.build(), f"{text},target=last_block" if text == DRAFT else LAST)
    torch.testing.assert_close(output, last, rtol=0, atol=1e-5)
    assert all(site.part in ("block", "output") for site in report.bytes_held)


def compile_in_place(pipe, backend):
    pipe.transformer.compile(backend=backend)


def compile_as_wrapper(pipe, backend):
    pipe.transformer = torch.compile(pipe.transformer, backend=backend)


@pytest.mark.parametrize("compiled", [compile_in_place, compile_as_wrapper])
@compiling
def test_model_compiled_as_a_whole_has_its_output_forecast_and_the_report_says_so(compiled):
    pipe, backend = FLUX.build(), Counting()
    compiled(pipe, backend)
    bare = FLUX.call(pipe, steps=STEPS)
    assert backend.graphs == 1
    for text in (NONE, OUTPUT, LAST, PARTS):
        output, report = driven(pipe, text)
        torch.testing.assert_close(output, expected(text if text == NONE else OUTPUT)[0], rtol=0, atol=1e-5)
        assert report.full_steps == expected(text)[1]
        assert any("compiled as a whole" in warning and "compile_repeated_blocks" in warning for warning in report.warnings)
    assert backend.graphs == 1
    assert torch.equal(FLUX.call(pipe, steps=STEPS), bare)


@pytest.mark.parametrize("compiled", [compile_in_place, compile_as_wrapper])
@compiling
def test_policy_that_looks_at_blocks_gets_one_clear_error_on_a_model_compiled_as_a_whole(compiled):
    pipe = FLUX.build()
    compiled(pipe, Counting())
    for text in (GATE, DRAFT, "cg_taylor:target=output", "speca_released"):
        with attach(pipe, text), pytest.raises(foreseer.UnsupportedModelError, match=r"compiled as a whole.*compile_repeated_blocks.*target='output'"):
            FLUX.call(pipe, steps=STEPS)
    torch.testing.assert_close(FLUX.call(pipe, steps=STEPS), expected(NONE)[0], rtol=0, atol=1e-5)


def compile_blocks(pipe, backend):
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)


def compile_one_block(pipe, backend):
    pipe.transformer.single_transformer_blocks[1].compile(backend=backend)


@pytest.mark.parametrize("compiled", [compile_in_place, compile_as_wrapper, compile_blocks, compile_one_block])
@compiling
def test_compiling_after_attaching_is_noticed_at_the_next_run_and_the_model_is_usable_after_detaching(compiled):
    pipe, bare = FLUX.build(), expected(NONE)[0]
    with attach(pipe, PARTS):
        FLUX.call(pipe, steps=STEPS)
        compiled(pipe, "eager")
        with pytest.raises(foreseer.ContractError, match="compile first, attach last"):
            FLUX.call(pipe, steps=STEPS)
    torch.testing.assert_close(FLUX.call(pipe, steps=STEPS), bare, rtol=0, atol=1e-5)
    output, report = driven(pipe, LAST)
    assert report.full_steps == expected(LAST)[1]
    assert torch.isfinite(output).all()


def test_transformer_exchanged_after_attaching_is_noticed_at_the_next_run():
    pipe = FLUX.build()
    with attach(pipe, LAST):
        FLUX.call(pipe, steps=STEPS)
        pipe.transformer = FLUX.build().transformer
        with pytest.raises(foreseer.ContractError, match="transformer was exchanged"):
            FLUX.call(pipe, steps=STEPS)
    assert torch.equal(FLUX.call(pipe, steps=STEPS), expected(NONE)[0])
    assert torch.equal(driven(pipe, LAST)[0], expected(LAST)[0])


# Offloading


def offload_models(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def offload_one_model(pipe):
    accelerate.cpu_offload_with_hook(pipe.transformer, execution_device=CPU)


def offload_sequentially(pipe):
    """As `enable_sequential_cpu_offload`, whose buffers this accelerate cannot move with this torch, attached or not."""
    for model in (pipe.transformer, pipe.vae):
        accelerate.cpu_offload(model, execution_device=CPU)


def dispatch(pipe):
    accelerate.dispatch_model(pipe.transformer, {"": "cpu"}, main_device="cpu", force_hooks=True)


def align_devices(pipe):
    add_hook_to_module(pipe.transformer, AlignDevicesHook(execution_device=CPU, io_same_device=True))
    add_hook_to_module(pipe.transformer.transformer_blocks[0], AlignDevicesHook(execution_device=CPU, io_same_device=True))


def offload_groups_of_blocks(pipe):
    apply_group_offloading(pipe.transformer, onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1)


def offload_groups_of_leaves(pipe):
    apply_group_offloading(pipe.transformer, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


OFFLOADS = [offload_models, offload_one_model, offload_sequentially, dispatch, align_devices, offload_groups_of_blocks, offload_groups_of_leaves]


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("order", ["offloaded first", "attached first"])
def test_offloading_changes_nothing_whichever_comes_first(order, offload, text):
    output, full_steps = expected(text)
    pipe = FLUX.build()
    if order == "offloaded first":
        offload(pipe)
    with attach(pipe, text) as attached:
        if order == "attached first":
            offload(pipe)
        for _ in range(2):
            assert torch.equal(FLUX.call(pipe, steps=STEPS), output)
            assert attached.report.full_steps == full_steps
            assert not attached.report.warnings
    assert torch.equal(FLUX.call(pipe, steps=STEPS), expected(NONE)[0])


# LoRA


several_adapters = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model:UserWarning")
"""What peft says where a second adapter joins the first, attached or not."""


def add_lora(model, targets, name="style"):
    torch.manual_seed(7)
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, target_modules=targets), adapter_name=name)


STAGES = {
    "loaded": add_lora,
    "fused": lambda model, targets: model.fuse_lora(),
    "unfused": lambda model, targets: model.unfuse_lora(),
    "disabled": lambda model, targets: model.disable_adapters(),
    "enabled": lambda model, targets: model.enable_adapters(),
    "second loaded": lambda model, targets: add_lora(model, ["to_k"], "second"),
    "both": lambda model, targets: model.set_adapters(["style", "second"], [0.5, 1.0]),
    "first deleted": lambda model, targets: model.delete_adapters("style"),
    "unloaded": lambda model, targets: model.unload_lora(),
}


@several_adapters
@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("targets", [["to_q", "to_v"], ["proj_out", "proj_mlp", "net.2"]], ids=["attention", "the parts themselves"])
def test_lora_loaded_fused_and_unloaded_between_runs_gives_what_a_fresh_attachment_gives(targets, text):
    pipe, twin = FLUX.build(), FLUX.build()
    with attach(pipe, text) as attached:
        outputs = {"before": FLUX.call(pipe, steps=STEPS)}
        for stage, change in STAGES.items():
            change(pipe.transformer, targets)
            change(twin.transformer, targets)
            outputs[stage] = FLUX.call(pipe, steps=STEPS)
            output, report = driven(twin, text)
            assert torch.equal(outputs[stage], output), stage
            assert attached.report.full_steps == report.full_steps
            assert attached.report.warnings == report.warnings
    assert not torch.equal(outputs["loaded"], outputs["before"])
    assert torch.equal(outputs["disabled"], driven(pipe, text)[0])
    assert not left_behind(pipe)


def test_lora_on_a_part_is_a_module_around_it_and_detaching_restores_both():
    """`proj_out` of a single block, whose output is forecast, becomes a LoRA layer that holds the old one."""
    pipe = FLUX.build()
    plain = pipe.transformer.single_transformer_blocks[0].proj_out
    with attach(pipe, PARTS):
        FLUX.call(pipe, steps=STEPS)
        add_lora(pipe.transformer, ["proj_out"])
        FLUX.call(pipe, steps=STEPS)
        around = pipe.transformer.single_transformer_blocks[0].proj_out
        assert around is not plain
        assert around.base_layer is plain
        assert "_compiled_call_impl" in vars(around)
        assert "_compiled_call_impl" not in vars(plain)
    assert not left_behind(pipe)


def test_lora_file_loaded_while_attached_gives_what_a_fresh_attachment_gives(tmp_path):
    trained = FLUX.build()
    add_lora(trained.transformer, ["to_q", "proj_out"])
    trained.transformer.save_lora_adapter(str(tmp_path), adapter_name="style")
    pipe, fresh = FLUX.build(), FLUX.build()
    with attach(pipe, PARTS):
        before = FLUX.call(pipe, steps=STEPS)
        for target in (pipe, fresh):
            target.transformer.load_lora_adapter(str(tmp_path), weight_name="pytorch_lora_weights.safetensors", adapter_name="style", prefix=None)
        loaded = FLUX.call(pipe, steps=STEPS)
        pipe.transformer.delete_adapters("style")
        assert torch.equal(FLUX.call(pipe, steps=STEPS), before)
    assert torch.equal(loaded, driven(fresh, PARTS)[0])
    assert not torch.equal(loaded, before)


# Saving and copying


@pytest.mark.parametrize("text", [LAST, PARTS, GATE])
def test_saved_files_of_an_attached_pipeline_load_into_an_equal_clean_one(text, tmp_path):
    pipe = FLUX.build()
    empty = {name: None for name, part in pipe.components.items() if part is None}
    with attach(pipe, text) as attached:
        FLUX.call(pipe, steps=STEPS)
        pipe.save_pretrained(tmp_path)
        loaded = diffusers.FluxPipeline.from_pretrained(tmp_path, **empty)
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(FLUX.call(loaded, steps=STEPS), expected(NONE)[0])
        assert not left_behind(loaded)
        assert "step" not in vars(loaded.scheduler)
        assert torch.equal(FLUX.call(pipe, steps=STEPS), expected(text)[0])
        assert attached.report.full_steps == expected(text)[1]
    assert loaded.transformer.state_dict().keys() == pipe.transformer.state_dict().keys()


@pytest.mark.parametrize("text", [LAST, PARTS, GATE])
def test_copy_of_an_attached_pipeline_is_clean_and_independent_and_the_original_stays_attached(text):
    pipe, bare = FLUX.build(), expected(NONE)[0]
    output, full_steps = expected(text)
    with attach(pipe, text) as attached:
        FLUX.call(pipe, steps=STEPS)
        twin = copy.deepcopy(pipe)
        assert twin.transformer is not pipe.transformer
        assert torch.equal(FLUX.call(twin, steps=4), FLUX.call(FLUX.build(), steps=4)), "the copy is not attached"
        assert len(attached.report.outcomes) == STEPS, "what the copy does is not told to the original's attachment"
        copied = []

        def use_the_copy(_pipe, step, _time, values):
            copied.append(FLUX.call(twin, steps=2) if step == 2 else None)
            return values

        assert torch.equal(FLUX.call(pipe, steps=STEPS, callback_on_step_end=use_the_copy), output), "not even in the middle of a run"
        assert attached.report.full_steps == full_steps
        assert torch.equal(driven(twin, text)[0], output), "the copy can be attached beside it"
        assert torch.equal(FLUX.call(pipe, steps=STEPS), output)
    for each in (pipe, twin):
        assert torch.equal(FLUX.call(each, steps=STEPS), bare)
    assert torch.equal(FLUX.call(copy.deepcopy(twin), steps=STEPS), bare)


def test_copy_of_an_attached_transformer_is_clean():
    pipe = FLUX.build()
    with attach(pipe, PARTS):
        FLUX.call(pipe, steps=STEPS)
        twin = copy.deepcopy(pipe.transformer)
    clean = FLUX.build()
    clean.transformer = twin
    assert torch.equal(FLUX.call(clean, steps=STEPS), expected(NONE)[0])
    assert torch.equal(driven(clean, PARTS)[0], expected(PARTS)[0])


# Quantized layers


class Int8Linear(nn.Module):
    """A stand-in for the quantized layers of bitsandbytes, torchao and others: int8 weights, dequantized at each call, and no `weight` to multiply by."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("quantized", (linear.weight / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.quantized.to(x.dtype) * self.scale.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def quantize(blocks):
    for block in blocks:
        for path, linear in [(path, module) for path, module in block.named_modules() if type(module) is nn.Linear]:
            block.set_submodule(path, Int8Linear(linear))


def block_lists(pipe):
    model = pipe.transformer
    return [*model.transformer_blocks, *getattr(model, "single_transformer_blocks", ())]


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("tiny", [FLUX, DIT], ids=lambda tiny: tiny.name)
def test_quantized_linear_layers_are_driven_like_others(tiny, text):
    pipe = tiny.build()
    quantize(block_lists(pipe))
    bare = tiny.call(pipe, steps=STEPS)
    output, report = driven(pipe, text, tiny)
    again, _ = driven(pipe, text, tiny)
    assert torch.equal(output, again)
    assert not report.warnings
    assert torch.equal(tiny.call(pipe, steps=STEPS), bare)
    if text == NONE:
        assert torch.equal(output, bare)
        assert not torch.equal(bare, expected(NONE, tiny)[0]), "it is quantized indeed"
    else:
        assert len(report.full_steps) < STEPS
        # int8 moves the output a little, the policy's forecast with it; a forecast in units of another scale would be far away
        torch.testing.assert_close(output, expected(text, tiny)[0], rtol=0, atol=0.1 * float(bare.abs().max()))


def test_layers_quantized_between_runs_are_followed():
    pipe = FLUX.build()
    with attach(pipe, PARTS) as attached:
        assert torch.equal(FLUX.call(pipe, steps=STEPS), expected(PARTS)[0])
        quantize(block_lists(pipe))
        after = FLUX.call(pipe, steps=STEPS)
        assert attached.report.full_steps == expected(PARTS)[1]
    assert torch.equal(after, driven(pipe, PARTS)[0])
    assert not left_behind(pipe)


# Gradients and modes


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("tiny", [FLUX, DIT], ids=lambda tiny: tiny.name)
def test_with_gradients_everything_is_computed_and_the_gradients_are_those_of_the_bare_model(tiny, text):
    pipe = tiny.build()
    model = pipe.transformer.requires_grad_(True)
    arguments = []
    handle = model.register_forward_pre_hook(lambda _model, args, kwargs: arguments.append((args, kwargs)), with_kwargs=True)
    tiny.call(pipe, steps=STEPS)
    handle.remove()

    def gradients():
        model.zero_grad()
        total = sum(model(*args, **{**kwargs, "return_dict": False})[0].square().mean() for args, kwargs in arguments)
        total.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}

    bare = gradients()
    with attach(model, text) as attached, attached.run(num_steps=len(arguments)):
        found = gradients()
    assert found.keys() == bare.keys()
    assert len(bare) > 20
    for name in bare:
        assert torch.equal(found[name], bare[name]), name
    assert attached.report.full_steps == list(range(STEPS))
    assert any("gradients are enabled" in warning and "no_grad" in warning for warning in attached.report.warnings)


@pytest.mark.parametrize("text", POLICIES)
def test_inference_mode_gives_what_no_grad_gives(text):
    pipe = FLUX.build()
    output, full_steps = expected(text)
    with attach(pipe, text) as attached:
        for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.equal(FLUX.call(pipe, steps=STEPS), output)
            assert attached.report.full_steps == full_steps
            assert not attached.report.warnings


# Dtypes


def halved(tiny, dtype):
    """Keyword arguments that bring the embeddings in that dtype, as a text encoder of that dtype would."""
    if tiny is DIT:
        return {}
    ask = {}

    class Catch(Exception):  # noqa: N818
        pass

    class Pipe:
        def __call__(self, **kwargs):
            ask.update(kwargs)
            raise Catch

    with pytest.raises(Catch):
        tiny.call(Pipe(), steps=STEPS)
    return {name: value.to(dtype) for name, value in ask.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tiny", [FLUX, DIT], ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("text", POLICIES)
def test_half_precision_pipelines_run_and_repeat_and_none_is_bitwise_bare(text, tiny, dtype):
    """Current PyTorch has all their operations in fp16 on the CPU too."""
    pipe, ask = tiny.build().to(dtype), halved(tiny, dtype)
    bare = tiny.call(pipe, steps=STEPS, **ask)
    seen = []
    handle = pipe.transformer.register_forward_hook(lambda _module, _args, output: seen.append(output[0].dtype))
    first, report = driven(pipe, text, tiny, **ask)
    again, _ = driven(pipe, text, tiny, **ask)
    handle.remove()
    assert set(seen) == {dtype}
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()
    assert not report.warnings
    if text == NONE:
        assert torch.equal(first, bare)
    else:
        assert len(report.full_steps) < STEPS
    assert torch.equal(tiny.call(pipe, steps=STEPS, **ask), bare)


@pytest.mark.parametrize("text", POLICIES)
def test_dtype_changed_between_runs_gives_what_a_fresh_attachment_gives(text):
    pipe = FLUX.build()
    with attach(pipe, text) as attached:
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.bfloat16):
            pipe.to(dtype)
            fresh = FLUX.build().to(torch.bfloat16).to(dtype) if dtype != torch.float32 else FLUX.build()
            output = FLUX.call(pipe, steps=STEPS, **halved(FLUX, dtype))
            again, report = driven(fresh, text, **halved(FLUX, dtype))
            assert torch.equal(output, again), dtype
            assert attached.report.full_steps == report.full_steps
            assert not attached.report.warnings


# The loop


FLOW_SCHEDULERS = {
    "UniPCMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0},
    "FlowMatchEulerDiscreteScheduler": {"use_dynamic_shifting": True, "shift": 2.0, "stochastic_sampling": True},
    "DPMSolverMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_dynamic_shifting": True},
}
"""For FLUX, whose pipeline hands sigmas to its scheduler."""
DIFFUSION_SCHEDULERS = {"DPMSolverMultistepScheduler": {}, "DDPMScheduler": {"clip_sample": False}, "EulerDiscreteScheduler": {}, "HeunDiscreteScheduler": {}}
"""For DiT. Heun's evaluates the model twice in each step but the last."""


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize(("tiny", "kinds"), [(FLUX, FLOW_SCHEDULERS), (DIT, DIFFUSION_SCHEDULERS)], ids=["FluxPipeline", "DiTPipeline"])
def test_scheduler_exchanged_between_runs_gives_what_a_fresh_attachment_gives(tiny, kinds, text):
    pipe, twin = tiny.build(), tiny.build()
    first = pipe.scheduler
    with accepted():  # what Heun's says while it is built
        others = [getattr(diffusers, name)(**config) for name, config in kinds.items()]
    with attach(pipe, text) as attached:
        tiny.call(pipe, steps=STEPS)
        for scheduler in (*others, first):
            pipe.scheduler = scheduler
            outputs = [tiny.call(pipe, steps=STEPS) for _ in range(2)]
            with accepted():
                twin.scheduler = type(scheduler).from_config(scheduler.config)
            output, report = driven(twin, text, tiny)
            for each in outputs:
                assert torch.equal(each, output), type(scheduler).__name__
            assert attached.report.full_steps == report.full_steps
            assert attrs.asdict(attached.report.run) == attrs.asdict(report.run), type(scheduler).__name__
            if "Heun" in type(scheduler).__name__:
                assert len(report.outcomes) == 2 * STEPS - 1
    for scheduler in (*others, first):
        assert not {"step", "set_timesteps"} & vars(scheduler).keys()


@pytest.mark.parametrize("text", POLICIES)
def test_soft_interrupt_in_a_callback_ends_the_run_and_the_next_is_clean(text):
    pipe = FLUX.build()

    def interrupt(pipe, step, _time, values):
        pipe._interrupt = step >= 2
        return values

    with attach(pipe, text) as attached:
        FLUX.call(pipe, steps=STEPS, callback_on_step_end=interrupt)
        assert attached.report.finished
        assert len(attached.report.outcomes) == 3
        assert torch.equal(FLUX.call(pipe, steps=STEPS), expected(text)[0])
        assert attached.report.full_steps == expected(text)[1]


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_callback_that_raises_ends_the_run_and_the_next_is_clean(error, text):
    pipe = FLUX.build()

    def cancel(_pipe, step, _time, values):
        if step == 3:
            raise error
        return values

    with attach(pipe, text) as attached:
        with pytest.raises(error):
            FLUX.call(pipe, steps=STEPS, callback_on_step_end=cancel)
        assert len(attached.report.outcomes) == 4, "what happened so far can be read"
        assert torch.equal(FLUX.call(pipe, steps=STEPS), expected(text)[0])
        assert attached.report.full_steps == expected(text)[1]
    with attach(pipe, text), pytest.raises(error):
        FLUX.call(pipe, steps=STEPS, callback_on_step_end=cancel)
    assert torch.equal(FLUX.call(pipe, steps=STEPS), expected(NONE)[0]), "and detaching in the middle leaves nothing"
