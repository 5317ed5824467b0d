"""That every directly called transformer does what `Bare` promises, and what foreseer makes of it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import foreseer
from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.models import transformers_with_blocks
from foreseer.adapters.rows import take_rows
from tiny import TINY
from tiny.bare import BARE, NOT_RUN, Bare
from tiny.bare_parts import quiet
from tiny.common import NO_BATCH

STEPS, BATCH = 6, 2
NAMES = list(BARE)
RECYCLING = "RFD4ProteinaTransformer:recycling"
MODULES = "taylorseer:interval=3"
JUDGED = ("cg_taylor:threshold=0.5", "speca:threshold=0.5,threshold_decay=1,max_order=1")
POLICIES = (MODULES, "taylorseer:interval=3,target=last_block", "taylorseer:interval=3,target=output", *JUDGED)
NO_PARTS = {
    "GlmImageTransformer2DModel": "a part of a block is called several times",
    "Kandinsky6Transformer3DModel": "no known module parts",
    "T5FilmDecoder": "no known module parts",
    RECYCLING: "a block is called several times",
}
NO_LAST_BLOCK = {RECYCLING: "a block is called several times"}
NO_ROWS = {
    "AnyFlowFARTransformer3DModel": "kv_cache holds the state of all rows",
    "WanAnimate2Transformer3DModel": "kv_cache holds the state of all rows",
}
UNUSED = {"Flux3Transformer2DModel": "mode_blocks.image_cond"}


@pytest.fixture(autouse=True)
def _quietly() -> Iterator[None]:
    with quiet(), torch.no_grad():
        yield


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def loop(model: nn.Module, bare: Bare, batch: int = BATCH) -> list[list[Tensor]]:
    return [tensors(model(**bare.inputs(step, batch))) for step in range(STEPS)]


def driven(model: nn.Module, bare: Bare, policy: str) -> tuple[list[list[Tensor]], foreseer.Report]:
    with foreseer.attach(model, foreseer.registry.parse_policy(policy)) as attached, attached.run(num_steps=STEPS):
        return loop(model, bare), attached.report


def test_every_class_is_run_or_has_a_reason() -> None:
    """Where diffusers has a new class this fails: build it here, or say why not."""
    in_pipelines = {
        type(part).__name__ for tiny in TINY.values() for name, part in tiny.build().components.items() if name.startswith("transformer") and part is not None
    }
    classes = set(transformers_with_blocks()) - in_pipelines
    assert {bare.cls for bare in BARE.values()} | NOT_RUN.keys() == classes
    assert not {bare.cls for bare in BARE.values()} & NOT_RUN.keys()


@pytest.mark.parametrize("name", NAMES)
def test_equal_builds_and_calls_give_equal_finite_output_that_moves(name: str) -> None:
    bare = BARE[name]
    state = torch.get_rng_state()
    first, second = bare.build(), bare.build()
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float32}
    outputs = loop(first, bare)
    assert same(outputs, loop(second, bare))
    assert same(outputs, loop(first, bare))
    assert all(tensor.isfinite().all() for tensor in tensors(outputs))
    assert not same(outputs[0], outputs[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_called_and_matters(name: str) -> None:
    bare = BARE[name]
    model = bare.build()
    inputs = bare.inputs(1, BATCH)
    blocks = {path: block for path, block in find_blocks(model) if not path.startswith(UNUSED.get(name, "none"))}
    called: set[str] = set()
    for path, block in blocks.items():
        block.register_forward_hook(lambda *_, path=path: called.add(path))
    output = model(**inputs)
    assert called == blocks.keys()
    for block in blocks.values():
        weights = {parameter: parameter.data for parameter in block.parameters()}
        for parameter in weights:
            parameter.data = parameter.data * 0.5
        assert not same(model(**inputs), output)
        for parameter, data in weights.items():
            parameter.data = data


@pytest.mark.parametrize("name", [name for name in NAMES if NO_BATCH not in BARE[name].notes])
def test_a_row_alone_is_that_row_of_the_batch(name: str) -> None:
    """Both for inputs made for one row, and for those that foreseer takes out of a batch."""
    bare = BARE[name]
    model = bare.build()
    both = tensors(model(**bare.inputs(1, BATCH)))
    cut = [] if name in NO_ROWS else [(row, take_rows(bare.inputs(1, BATCH), [row], BATCH)) for row in range(BATCH)]
    for row, inputs in [(0, bare.inputs(1, 1)), *cut]:
        alone = tensors(model(**inputs))
        listed = len(both) == BATCH * len(alone)  # a tensor for each row
        for whole, part in zip(both[row::BATCH] if listed else both, alone, strict=True):
            if listed or len(part) == 1:  # not a cache
                expected = whole if listed else whole[row : row + 1]
                torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_policy_none_is_bitwise_the_bare_model(name: str) -> None:
    bare = BARE[name]
    model = bare.build()
    assert same(driven(model, bare, "none")[0], loop(model, bare))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", NAMES)
def test_policies_run_alike_twice_and_leave_the_model_as_it_was(name: str, policy: str) -> None:
    bare = BARE[name]
    model = bare.build()
    truth = loop(model, bare)
    if policy in JUDGED and name in NO_LAST_BLOCK:
        with pytest.raises(foreseer.UnsupportedModelError, match=NO_LAST_BLOCK[name]):
            driven(model, bare, policy)
        assert same(loop(model, bare), truth)
        return
    outputs, report = driven(model, bare, policy)
    again, second = driven(model, bare, policy)
    assert same(outputs, again)
    assert report.full_steps == second.full_steps
    assert same(loop(model, bare), truth)
    for step in report.full_steps:
        assert same(outputs[step], truth[step])
    assert all(tensor.isfinite().all() for tensor in tensors(outputs))
    if policy not in JUDGED:
        assert report.full_steps == [0, 1, 4]
    check_warnings(name, policy, report)


def check_warnings(name: str, policy: str, report: foreseer.Report) -> None:
    """Everything that does not work is said, and nothing else."""
    expected = []
    if "target" not in policy and "cg_taylor" not in policy and name in NO_PARTS:
        expected.append(NO_PARTS[name])
    parted = any(0 < sum(outcome.computed) < report.run.rows for outcome in report.outcomes)
    if policy in JUDGED and name in NO_ROWS and parted:
        expected.append(NO_ROWS[name])
    if name in NO_LAST_BLOCK:
        expected.append(NO_LAST_BLOCK[name])
    said = [warning for warning in report.warnings if "nothing was accelerated" not in warning]
    assert all(any(reason in warning for warning in said) for reason in expected), said
    assert all(any(reason in warning for reason in (*expected, "no known module parts")) for warning in said), said
    if not expected:
        assert not said
    if policy == MODULES:
        assert (name in NO_PARTS) != any(site.part not in ("block", "output") for site in report.bytes_held)


@pytest.mark.parametrize("policy", ["taylorseer:interval=3,target=last_block", *JUDGED])
def test_a_cache_that_a_call_fills_is_left_as_that_call_left_it(policy: str) -> None:
    """A row evaluated on its own, to find out whether it can be, must not put its own keys and values there."""
    bare = BARE["QwenImage21Transformer2DModel"]
    model = bare.build()

    def filled() -> QwenImage21KVCache:
        cache = QwenImage21KVCache(3)
        model(**bare.inputs(0, BATCH), kv_cache=cache, kv_cache_mode="extract")
        return cache

    def keys_and_values(cache: QwenImage21KVCache) -> list[Tensor]:
        return [tensor for layer in cache.layer_caches for tensor in layer.get()]

    expected = filled()
    with foreseer.attach(model, foreseer.registry.parse_policy(policy)) as attached:
        with attached.run(num_steps=1):
            cache = filled()
        assert same(keys_and_values(cache), keys_and_values(expected))
        with attached.run(num_steps=STEPS - 1):
            outputs = [model(**bare.inputs(step, BATCH), kv_cache=cache, kv_cache_mode="cached").sample for step in range(1, STEPS)]
        full = attached.report.full_steps
    assert 0 < len(full) < STEPS - 1
    for index in full:
        assert torch.equal(outputs[index], model(**bare.inputs(index + 1, BATCH), kv_cache=expected, kv_cache_mode="cached").sample)


def test_the_first_block_of_flux3_is_of_the_image() -> None:
    """The text's blocks are at time 0: a gate on the first of them would let everything pass."""
    paths = [path for path, _ in find_blocks(BARE["Flux3Transformer2DModel"].build())]
    assert paths[0] == "mode_blocks.image.0"
    assert not any(path.startswith("txt") for path in paths)
