"""That every tiny pipeline does what `Tiny` promises; the other tests rely on it."""

from typing import Any

import pytest
import torch
from torch import nn

from tiny import TINY
from tiny.common import ALWAYS_GUIDED, NO_BATCH, SHARED_NOISE

BLOCK_LISTS = {
    "transformer_blocks",
    "single_transformer_blocks",
    "temporal_transformer_blocks",
    "joint_transformer_blocks",
    "double_stream_blocks",
    "single_stream_blocks",
    "text_transformer_blocks",
    "visual_transformer_blocks",
    "vace_blocks",
    "blocks",
    "layers",
    "noise_refiner",
    "context_refiner",
}
NAMES = list(TINY)


def transformers(pipe: Any) -> dict[str, nn.Module]:
    found = {name: getattr(pipe, name, None) for name in ("transformer", "transformer_2")}
    return {name: module for name, module in found.items() if module is not None}


def record(modules: dict[str, nn.Module]) -> dict[str, list[int]]:
    """The rows of every call of the modules, by name, filled in while they are called."""
    calls: dict[str, list[int]] = {name: [] for name in modules}

    def hook(name: str) -> Any:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = kwargs.get("hidden_states", args[0] if args else None)
            calls[name].append(0 if first is None else len(first))

        return before

    for name, module in modules.items():
        module.register_forward_pre_hook(hook(name), with_kwargs=True)
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_equal_builds_and_calls_give_equal_finite_output(name: str) -> None:
    tiny = TINY[name]
    state = torch.get_rng_state()
    first, second = tiny.build(), tiny.build()
    output = tiny.call(first)
    assert torch.isfinite(output).all()
    assert output.std() > 0
    assert torch.equal(output, tiny.call(second))
    assert torch.equal(output, tiny.call(first))
    assert not torch.equal(output, tiny.call(first, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_has_twice_the_rows_and_the_same_samples(name: str) -> None:
    tiny = TINY[name]
    pipe = tiny.build()
    if NO_BATCH in tiny.notes:
        with pytest.raises((ValueError, RuntimeError)):
            tiny.call(pipe, batch=2)
        return
    singles = [tiny.call(pipe, seed=seed) for seed in (0, 1)]
    calls = record(transformers(pipe))
    both = tiny.call(pipe, batch=2)
    assert len(both) == 2 * len(singles[0])
    assert calls["transformer"][0] == 2 * tiny.rows_per_sample
    if SHARED_NOISE not in tiny.notes:
        scale = torch.cat(singles).abs().max().item()
        torch.testing.assert_close(both, torch.cat(singles), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_a_large_call_has_another_shape(name: str) -> None:
    tiny = TINY[name]
    pipe = tiny.build()
    shape = tiny.call(pipe, steps=2).shape
    assert tiny.call(pipe, steps=2, size="large").shape != shape
    assert tiny.call(pipe, steps=2).shape == shape


@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_what_it_says(name: str) -> None:
    tiny = TINY[name]
    pipe = tiny.build()
    calls = record(transformers(pipe))

    def run(guidance: bool) -> tuple[int, int]:
        for rows in calls.values():
            rows.clear()
        tiny.call(pipe, guidance=guidance)
        rows = [row for rows in calls.values() for row in rows]
        return len(rows), rows[0]

    (count, rows), (plain_count, plain_rows) = run(True), run(False)
    assert plain_rows == (rows if ALWAYS_GUIDED in tiny.notes else 1)
    assert rows == tiny.rows_per_sample
    if tiny.guidance == "sequential":
        assert count > plain_count
    elif ":" not in name:
        assert count == plain_count


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_called_and_matters(name: str) -> None:
    tiny = TINY[name]
    pipe = tiny.build()
    for root_name, root in transformers(pipe).items():
        lists = {label: child for label, child in root.named_children() if isinstance(child, nn.ModuleList) and label in BLOCK_LISTS and len(child)}
        assert lists, f"{root_name} has no known block list"
        blocks = {f"{root_name}.{label}.{i}": block for label, child in lists.items() for i, block in enumerate(child)}
        calls = record(blocks)
        output = tiny.call(pipe)
        assert all(calls.values()), [block for block, rows in calls.items() if not rows]
        for block in blocks.values():
            weights = {parameter: parameter.data for parameter in block.parameters()}
            for parameter in weights:
                parameter.data = parameter.data * 0.5
            changed = tiny.call(pipe)
            for parameter, data in weights.items():
                parameter.data = data
            assert not torch.equal(changed, output)
