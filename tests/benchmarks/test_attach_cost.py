"""What attaching costs on a model as deep as FLUX: 19 double and 38 single blocks, so narrow that the blocks themselves take almost nothing.

Benchmarks, not tests: run them with `make bench`; nothing here fails because a machine is slow. The goals are 50 ms for attaching and detaching and
1 ms for what a step costs outside of the blocks: the median of `none` less that of `bare`, best seen where the blocks do nothing.
"""

import pytest
import torch

import foreseer

WIDTH = 8


@pytest.fixture(scope="module")
def deep():
    """FLUX's depth, and two heads of four: what remains is calling 57 blocks."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(0, 2, 2),
    )
    return model.eval().requires_grad_(False)


@pytest.fixture
def inputs():
    """Four image tokens and two of text."""
    return {
        "hidden_states": torch.randn(1, 4, 4),
        "encoder_hidden_states": torch.randn(1, 2, WIDTH),
        "pooled_projections": torch.randn(1, WIDTH),
        "timestep": torch.full((1,), 0.5),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(2, 3),
        "return_dict": False,
    }


@pytest.mark.parametrize("policy", ["none", "taylorseer", "cg_taylor", "speca"])
def test_attaching_to_fifty_seven_blocks_and_detaching(benchmark, deep, policy):
    benchmark(lambda: foreseer.attach(deep, policy).detach())


def test_attaching_with_every_part_intercepted_and_detaching(benchmark, deep, inputs):
    """The parts are intercepted at the first call; restoring them is part of detaching. The call is subtracted by comparing with a step of `bare`."""

    def whole():
        with foreseer.attach(deep, "taylorseer") as attached, attached.run(num_steps=1), torch.no_grad():
            deep(**inputs)

    benchmark(whole)


STEPS = ["bare", "none", "taylorseer:target=last_block,interval=1", "taylorseer:interval=1"]


def time_a_step(benchmark, model, inputs, policy):
    with torch.no_grad():
        if policy == "bare":
            benchmark(lambda: model(**inputs))
            return
        with foreseer.attach(model, foreseer.registry.parse_policy(policy)) as attached, attached.run():
            model(**inputs)
            benchmark(lambda: model(**inputs))


@pytest.mark.parametrize("policy", STEPS)
def test_a_full_step_of_fifty_seven_blocks(benchmark, deep, inputs, policy):
    """`none` less `bare` is what a step costs outside of the blocks; the others record the last block, or every part, as well."""
    time_a_step(benchmark, deep, inputs, policy)


@pytest.mark.parametrize("policy", STEPS[:3])
def test_a_full_step_of_fifty_seven_blocks_that_do_nothing(benchmark, deep, inputs, policy, monkeypatch):
    """The same model with blocks that return what they are given, so that the difference is not lost in the noise of the blocks."""
    for block in (*deep.transformer_blocks, *deep.single_transformer_blocks):
        monkeypatch.setattr(block, "forward", lambda hidden_states, encoder_hidden_states, **_others: (encoder_hidden_states, hidden_states))
    time_a_step(benchmark, deep, inputs, policy)
