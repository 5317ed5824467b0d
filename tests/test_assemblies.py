"""Blocks that are put together from their parts: the same bits as the block that runs, and where that is not so, the block runs."""

import copy
from collections.abc import Callable
from typing import Any

import attrs
import diffusers.models.transformers as diffusers_models
import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformerBlock
from tiny import TINY
from tiny.bare import BARE
from tiny.common import redraw
from tiny.flux import transformer as tiny_flux
from torch import Tensor, nn

import foreseer
from foreseer import Site
from foreseer.adapters import ModuleBackbone, Wires
from foreseer.adapters.assemblies import ASSEMBLIES
from foreseer.adapters.module_backbone import Call
from foreseer.adapters.parts import parts_of
from foreseer.registry import parse_policy

MODULES = "taylorseer:interval=2,max_order=1,warmup_steps=1"
HEADS, WIDTH = 2, 32


@pytest.fixture
def none_known(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and what is attached from then on runs its blocks with their parts replaced."""
    return lambda: monkeypatch.setattr("foreseer.adapters.parts.ASSEMBLIES", {})


# One block.


def block_of(name: str) -> nn.Module:
    """A random block of that class, 32 wide."""
    files = [file for file in vars(diffusers_models).values() if hasattr(file, name)]
    cls = getattr(files[0], name)
    if name.startswith("Wan"):
        return redraw(cls(WIDTH, 48, HEADS, cross_attn_norm=True), 1)
    if name.startswith("Hunyuan"):
        return redraw(cls(HEADS, WIDTH // HEADS, mlp_ratio=2.0), 1)
    return redraw(cls(WIDTH, HEADS, WIDTH // HEADS), 1)


def arguments_of(name: str, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a model calls such a block with; of the text 3 tokens, of the image 5."""
    g = torch.Generator().manual_seed(rows)
    hidden, text, temb = (torch.randn(rows, n, WIDTH, generator=g) for n in (5, 3, 6))
    given = {"hidden_states": hidden.to(dtype), "encoder_hidden_states": text.to(dtype)}
    if name.startswith("Wan"):
        return {**given, "temb": temb.to(dtype), "rotary_emb": None}
    if name == "BriaFiboSingleTransformerBlock":  # its model puts the streams together
        del given["encoder_hidden_states"]
    if name == "HunyuanVideo15TransformerBlock":
        return {**given, "temb": temb[:, 0].to(dtype), "attention_mask": torch.ones(rows, 3, dtype=torch.bool)}
    return {**given, "temb": temb[:, 0].to(dtype)}


def returned_by_parts(block: nn.Module, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the block returns, and what its parts do meanwhile."""
    parts, found, handles = parts_of(block), {}, []
    assert parts is not None
    for part, path in parts.modules.items():
        handles.append(block.get_submodule(path).register_forward_hook(lambda module, args, output, part=part: found.update({part: output})))
    with torch.no_grad():
        output = block(**given)
    for handle in handles:
        handle.remove()
    return output, found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", sorted(ASSEMBLIES))
def test_a_block_equals_its_parts_put_together_bit_for_bit(name: str, rows: int, dtype: torch.dtype) -> None:
    """The last of the ways makes the block's own products, and so is equal whatever kernels a machine has. None writes to its arguments."""
    block = block_of(name).to(dtype)
    if hasattr(block, "scale_shift_table"):
        block.scale_shift_table.data = block.scale_shift_table.data.float()  # as Wan's class asks for
    given = arguments_of(name, rows, dtype)
    output, found = returned_by_parts(block, given)
    before = [tensor.clone() for tensor in given.values() if isinstance(tensor, Tensor)]
    with torch.no_grad():
        assert same(ASSEMBLIES[name][-1](block, (), given, copy.deepcopy(found), {}), output)
        positional = tuple(given.values()) if "encoder_hidden_states" in given else ()
        for way in ASSEMBLIES[name]:
            made = way(block, positional, {} if positional else given, copy.deepcopy(found), {})
            torch.testing.assert_close(made, output, rtol=0.02, atol=0.02)
    assert all(torch.equal(a, b) for a, b in zip(before, (t for t in given.values() if isinstance(t, Tensor)), strict=True))


@pytest.mark.parametrize("name", sorted(ASSEMBLIES))
def test_a_stream_that_overflows_is_clipped_where_the_block_clips_it(name: str) -> None:
    block = block_of(name).half()
    parts = parts_of(block)
    assert parts is not None

    def times(factor: float) -> Callable[..., Any]:
        return lambda module, args, output: tuple(factor * x for x in output) if isinstance(output, tuple) else factor * output

    # The last part overflows: what overflows before it is not a number behind the next norm.
    handles = [block.get_submodule(path).register_forward_hook(times(1000 if "attn" in part else 30000)) for part, path in parts.modules.items()]
    given = arguments_of(name, 2, torch.float16)
    streams = ("hidden_states",) if name.startswith("Wan") else ("hidden_states", "encoder_hidden_states")
    given |= {stream: 60000 * given[stream].sign() for stream in streams if stream in given}
    output, found = returned_by_parts(block, given)
    assert any((x.abs() >= 65504).any() for x in (output if isinstance(output, tuple) else (output,))), "the case is one of overflow"
    with torch.no_grad():
        made = ASSEMBLIES[name][-1](block, (), given, found, {})
    torch.testing.assert_close(made, output, rtol=0, atol=0, equal_nan=True)
    for handle in handles:
        handle.remove()


def test_a_time_for_each_token_gives_wan_a_gate_for_each() -> None:
    block, given = block_of("WanTransformerBlock"), arguments_of("WanTransformerBlock", 2, torch.float32)
    given["temb"] = torch.randn(2, 5, 6, WIDTH)
    output, found = returned_by_parts(block, given)
    assert same(ASSEMBLIES["WanTransformerBlock"][-1](block, (), given, found, {}), output)


# Models.


@attrs.frozen
class Found:
    """What a run gave: the output, the decisions, and of each backbone whether each block was put together."""

    output: Tensor
    computed: list[Any]
    together: list[list[bool]]


def drawn(pipe: Any, name: str, policy: str, **settings: Any) -> Found:
    with foreseer.attach(pipe, parse_policy(policy)) as attached:
        output = TINY[name].call(pipe, **{"steps": 4, **settings})
        backbones = list(attached._driver._streams._backbones.values())
        together = [[backbone.anatomy.assemblies.get(index) is not None for index in range(backbone.depth)] for backbone in backbones]
        return Found(output, [report.computed.tolist() for report in attached.reports.values()], together)


PIPELINES = {
    "FluxPipeline": 6,
    "FluxPipeline:true_cfg": 6,
    "FluxControlNetPipeline": 6,
    "BriaPipeline": 6,
    "BriaFiboPipeline": 6,
    "OvisImagePipeline": 6,
    "HunyuanVideoPipeline": 6,
    "HunyuanVideoFramepackPipeline": 6,
    "HunyuanVideo15Pipeline": 3,
    "WanPipeline": 3,
    "WanPipeline:2.2": 3,
    "WanPipeline:2.2-5B": 3,
    "WanVACEPipeline": 3,
    "WanAnimatePipeline": 3,
    "ChronoEditPipeline": 3,
    "DiTPipeline": 3,
}
"""A pipeline, and the blocks of its transformer, all of which can be put together."""


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_draws_the_same_whether_its_blocks_are_put_together_or_run(name: str, none_known: Callable[[], None]) -> None:
    pipe = TINY[name].build()
    together = drawn(pipe, name, MODULES)
    assert together.together
    assert all(blocks == [True] * PIPELINES[name] for blocks in together.together)
    none_known()
    run = drawn(pipe, name, MODULES)
    assert not any(any(blocks) for blocks in run.together) or name == "DiTPipeline"  # whose block is not known by its name alone
    assert torch.equal(together.output, run.output)
    assert together.computed == run.computed


@pytest.mark.parametrize(("name", "threshold"), [("FluxPipeline", 0.1), ("WanPipeline", 0.1), ("HunyuanVideoPipeline", 0.2)])
def test_rows_that_are_rejected_alone_change_nothing_in_that(name: str, threshold: float, none_known: Callable[[], None]) -> None:
    """A judged block is put together too, and some rows of the batch are computed."""
    pipe, policy = TINY[name].build(), f"speca:threshold={threshold},threshold_decay=1,max_order=1,warmup_steps=2"
    together = drawn(pipe, name, policy, steps=6, batch=3)
    assert any(any(rows) and not all(rows) for run in together.computed for rows in run), "the threshold was chosen so that it parts the rows"
    none_known()
    run = drawn(pipe, name, policy, steps=6, batch=3)
    assert torch.equal(together.output, run.output)
    assert together.computed == run.computed


def flux_call(step: int, rows: int, dtype: torch.dtype, *, guidance: bool) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    hidden, drift, text, pooled = (torch.randn(rows, *shape, generator=g) for shape in ((16, 16), (16, 16), (6, 16), (16,)))
    given = {
        "hidden_states": (hidden + 0.05 * step * drift).to(dtype),
        "encoder_hidden_states": text.to(dtype),
        "pooled_projections": pooled.to(dtype),
        "timestep": torch.full((rows,), 1 - 0.1 * step, dtype=dtype),
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        "txt_ids": torch.zeros(6, 3),
    }
    return given | ({"guidance": torch.full((rows,), 3.5, dtype=dtype)} if guidance else {})


@torch.no_grad()
def steps_of(model: nn.Module, rows: int, dtype: torch.dtype, *, guidance: bool = True, steps: int = 6) -> tuple[list[Tensor], list[bool]]:
    """The outputs of a FLUX's steps under a policy that forecasts every second, and which blocks were put together."""
    with foreseer.attach(model, parse_policy(MODULES)) as attached, attached.run(num_steps=steps):
        outputs = [model(**flux_call(step, rows, dtype, guidance=guidance)).sample.clone() for step in range(steps)]
        (backbone,) = attached._driver._streams._backbones.values()
    assert attached.report.full_steps == [0, 2, 4]
    return outputs, [backbone.anatomy.assemblies.get(index) is not None for index in range(backbone.depth)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "guidance"), [(1, True), (3, False)])
def test_flux_with_and_without_guidance_in_any_precision(rows: int, guidance: bool, dtype: torch.dtype, none_known: Callable[[], None]) -> None:
    model = tiny_flux(guidance=guidance).to(dtype)
    outputs, together = steps_of(model, rows, dtype, guidance=guidance)
    assert together == [True] * 6
    none_known()
    run, none = steps_of(model, rows, dtype, guidance=guidance)
    assert none == [False] * 6
    assert all(torch.equal(a, b) for a, b in zip(outputs, run, strict=True))


def test_what_nobody_reads_is_not_computed() -> None:
    model, ran = tiny_flux(), []
    for name, module in model.named_modules():
        if name.endswith(("norm2", "norm2_context", "norm1.norm", "norm.norm", "act_mlp", "norm1.linear")):
            module.register_forward_hook(lambda module, args, output, name=name: ran.append(name))
    steps_of(model, 1, torch.float32)
    computed = 3  # of 6 steps
    assert len(set(ran)) == 3 * 4 + 3 * 2
    assert {name: ran.count(name) for name in ran if not name.endswith("linear")} == {name: computed for name in ran if not name.endswith("linear")}
    for name in ran:
        if name.endswith("linear"):  # a layer that is hooked is called
            assert ran.count(name) >= 6


def test_substituting_what_was_recorded_is_the_identity_for_any_parts() -> None:
    """Blocks of which all parts are forecast are put together, others run."""
    model = tiny_flux()
    wires = Wires(model)
    wires.install()
    backbone = ModuleBackbone(wires)
    backbone.watch(backbone.sites)
    call = Call(model._call_impl, (), flux_call(2, 2, torch.float32, guidance=True))
    with torch.no_grad():
        full = backbone.forward(call, substitute={}, record=backbone.sites)
        assert all(backbone.anatomy.assemblies[index] is not None for index in range(6))
        for chosen in (
            [site for site in backbone.sites if site.part != "block"],
            [Site(1, "attn"), Site(1, "mlp"), Site(1, "context_mlp"), Site(4, "total")],
            [Site(0, "attn"), Site(2, "context_mlp")],
            [Site(0), Site(3, "total"), Site(5)],
        ):
            again = backbone.forward(call, substitute={site: full.features[site].clone() for site in chosen})
            assert torch.equal(again.output.sample, full.output.sample), chosen
    wires.restore()


def test_long_cat_is_put_together_too(none_known: Callable[[], None]) -> None:
    bare = BARE["LongCatImageTransformer2DModel"]
    model, found = bare.build(), []
    for _ in range(2):
        with foreseer.attach(model, parse_policy(MODULES)) as attached, attached.run(num_steps=4), torch.no_grad():
            outputs = [model(**bare.inputs(step, 2)).sample.clone() for step in range(4)]
            (backbone,) = attached._driver._streams._backbones.values()
        found.append((outputs, [way is not None for way in backbone.anatomy.assemblies.values()]))
        none_known()
    assert found[0][1] == [True] * 6
    assert not found[1][1]
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))


# Blocks that deviate.


class OwnBlock(FluxTransformerBlock):
    """Derived under a name of its own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        text, hidden = super().forward(*args, **kwargs)
        return text, hidden * 1.01


def other_arithmetic(self: Any, *args: Any, **kwargs: Any) -> Any:
    return OwnBlock.forward(self, *args, **kwargs)


def without_the_texts_mlp(
    self: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, image_rotary_emb: Any, joint_attention_kwargs: Any = None
) -> Any:
    hidden, gate, *_ = self.norm1(hidden_states, emb=temb)
    text, *_ = self.norm1_context(encoder_hidden_states, emb=temb)
    attn, text_attn = self.attn(hidden_states=hidden, encoder_hidden_states=text, image_rotary_emb=image_rotary_emb)
    hidden_states = hidden_states + gate[:, None] * attn
    return encoder_hidden_states + text_attn, hidden_states + self.ff(hidden_states)


class Wrapped(nn.Module):
    """A modulation whose layer is elsewhere."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def of_the_same_name(model: Any, forward: Callable[..., Any]) -> None:
    """Block 1 becomes another's class that is called as diffusers' is."""
    block = model.transformer_blocks[1]
    block.__class__ = type("FluxTransformerBlock", (OwnBlock,), {"forward": forward})


def wrap_the_modulation(model: Any) -> None:
    block = model.transformer_blocks[1]
    block.norm1 = Wrapped(block.norm1)


def derive(model: Any) -> None:
    model.transformer_blocks[1].__class__ = OwnBlock


DEVIATING: dict[str, Callable[[Any], None]] = {
    "derived": derive,
    "the same name": lambda model: of_the_same_name(model, other_arithmetic),
    "a part that is not called": lambda model: of_the_same_name(model, without_the_texts_mlp),
    "another modulation": wrap_the_modulation,
}


@pytest.mark.parametrize("name", DEVIATING)
def test_a_block_that_deviates_is_run(name: str, none_known: Callable[[], None]) -> None:
    model = tiny_flux()
    DEVIATING[name](model)
    outputs, together = steps_of(model, 2, torch.float32)
    assert together == [True, False, True, True, True, True]
    none_known()
    run, _ = steps_of(model, 2, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(outputs, run, strict=True))


def test_what_an_adapter_attends_to_is_added_where_the_block_adds_it(none_known: Callable[[], None]) -> None:
    """The attention then returns three tensors."""
    model = tiny_flux()
    for block in model.transformer_blocks:
        block.attn.register_forward_hook(lambda module, args, output: (*output, 0.3 * output[0]))
    outputs, together = steps_of(model, 2, torch.float32)
    assert together == [True] * 6
    none_known()
    run, _ = steps_of(model, 2, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(outputs, run, strict=True))


def on_the_block(model: Any, later: Callable[[], bool]) -> None:
    model.transformer_blocks[1].register_forward_hook(lambda module, args, output: (output[0], output[1] + 1) if later() else None)


def by_a_forward_of_its_own(model: Any, later: Callable[[], bool]) -> None:
    block = model.transformer_blocks[1]
    plain = block.forward
    block.forward = lambda *args, **kwargs: tuple(x + 1 for x in plain(*args, **kwargs)) if later() else plain(*args, **kwargs)


def on_the_modulation(model: Any, later: Callable[[], bool]) -> None:
    norm = model.transformer_blocks[1].norm1
    norm.register_forward_hook(lambda module, args, output: (output[0], output[1] + 1, *output[2:]) if later() else None)


@pytest.mark.parametrize("hook", [on_the_block, by_a_forward_of_its_own, on_the_modulation])
def test_who_takes_part_in_a_block_from_a_later_step_on_is_heard(hook: Callable[..., None], none_known: Callable[[], None]) -> None:
    """Nothing tells them from the block on the first step; on a forecast step the block runs all the same."""
    model, given = tiny_flux(), []
    hook(model, lambda: bool(given) and given[-1] < 0.85)
    model.register_forward_pre_hook(lambda module, args, kwargs: given.append(float(kwargs["timestep"][0])), with_kwargs=True)
    outputs, _ = steps_of(model, 1, torch.float32)
    none_known()
    run, _ = steps_of(model, 1, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(outputs, run, strict=True))
    bare, _ = steps_of(tiny_flux(), 1, torch.float32)
    assert torch.equal(outputs[1], bare[1])
    assert not torch.equal(outputs[3], bare[3]), "it takes part in a forecast step"


def test_chroma_has_a_modulation_of_its_own_and_is_run() -> None:
    found = drawn(TINY["ChromaPipeline"].build(), "ChromaPipeline", MODULES)
    assert not any(any(blocks) for blocks in found.together)
