"""Methods that forecast, on pipelines in miniature: with the options that make them a built-in policy, they are it."""

import pytest
import torch

import foreseer

TINY = pytest.importorskip("tiny", reason="the pipelines in miniature are foreseer's own tests").TINY
STEPS = 14

SAME = [
    ("spectrum:window=3.0,growth=0.0,warmup_steps=4,predictor=(chebyshev:mix=0.0)", "taylorseer:interval=3,max_order=1,warmup_steps=4"),
    ("freqca:interval=3,high_order=0,warmup_steps=2", "reuse:interval=3,warmup_steps=2"),
    ("ada_cache:codebook=inf:3", "reuse:interval=3,warmup_steps=2"),
    ("racer:interval=3,risk=1e9,shrink=False,max_order=2,warmup_steps=2", "taylorseer:interval=3,max_order=2,warmup_steps=2,predictor=(taylor:warmup_steps=1)"),
]


def run(name, policy):
    pipe = TINY[name].build()
    with foreseer.attach(pipe, policy) as attached:
        output = TINY[name].call(pipe, steps=STEPS, batch=2)
    return output, {stream: report.full_steps for stream, report in attached.reports.items()}


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline", "DiTPipeline"])
@pytest.mark.parametrize("target", ["last_block", "residual", "modules"])
@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=[ours.split(":")[0] for ours, _ in SAME])
def test_with_these_options_it_is_a_built_in(name, target, ours, theirs):
    mine, steps = run(name, f"{ours},target={target}")
    other, known = run(name, f"{theirs},target={target}")
    assert steps == known
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", ["", ",split=dct", ",target=residual"])
def test_freqca_finds_the_image_in_a_packed_row(options):
    """FLUX hands text and image over as one row of numbers; of tokens of 16 channels the last 16 are a square."""
    output, steps = run("FluxPipeline", f"freqca:interval=3,channels=16,height=4,width=4{options}")
    plain, _ = run("FluxPipeline", "none")
    assert list(steps.values()) == [[0, 1, 2, 5, 8, 11]]
    assert torch.isfinite(output).all()
    assert torch.linalg.norm(output - plain) < 0.5 * torch.linalg.norm(plain)
