"""First Block Cache, DBCache and MagCache against their references, on tiny models: diffusers' hooks and
cache-dit (`pip install 'foreseer[peers]'`). The same computed steps, and the same output bit for bit.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from foreseer_methods.mag_ratios import FLUX, mag_table
from foreseer_methods.step_masks import step_mask
from torch import Tensor

import foreseer
from foreseer.zoo import load_dit

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
diffusers = pytest.importorskip("diffusers")
tiny = pytest.importorskip("tiny")

MODELS: list[Any] = [("FluxPipeline", {}), ("FluxPipeline", {"batch": 2}), ("WanPipeline", {}), ("LTXPipeline", {"guidance": False})]
names = [f"{name}-{'-'.join(map(str, settings.values())) or 'plain'}" for name, settings in MODELS]
models = pytest.mark.parametrize(("name", "settings"), MODELS, ids=names)


@contextmanager
def counted(transformer: Any, calls_a_step: int, block: int = 1) -> Iterator[list[int]]:
    """The steps in which a block's first norm was called."""
    computed: list[int] = []
    calls = [-1]
    blocks = getattr(transformer, "transformer_blocks", None) or transformer.blocks

    def call(*_: Any) -> None:
        calls[0] += 1

    def compute(*_: Any) -> None:
        if calls[0] % calls_a_step == 0:  # of two streams, the first
            computed.append(calls[0] // calls_a_step)

    handles = [transformer.register_forward_pre_hook(call), blocks[block].norm1.register_forward_pre_hook(compute)]
    try:
        yield computed
    finally:
        for handle in handles:
            handle.remove()


def theirs(
    name: str, settings: dict[str, Any], enable: Callable[[Any], None], disable: Callable[[Any], None], steps: int, block: int = 1
) -> tuple[list[int], Tensor]:
    pipe, calls = tiny.TINY[name].build(), 2 if name == "WanPipeline" else 1
    enable(pipe)
    with counted(pipe.transformer, calls, block) as computed:
        output = tiny.TINY[name].call(pipe, steps=steps, **settings)
    disable(pipe)
    return computed, output


def ours(name: str, settings: dict[str, Any], policy: str, steps: int, **options: Any) -> tuple[list[int], Tensor]:
    pipe = tiny.TINY[name].build()
    with foreseer.attach(pipe, policy, **options) as attached:
        output = tiny.TINY[name].call(pipe, steps=steps, **settings)
    return attached.report.full_steps, output


def hooked(config: Any) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    return lambda pipe: pipe.transformer.enable_cache(config), lambda pipe: pipe.transformer.disable_cache()


def same(found: tuple[list[int], Tensor], wanted: tuple[list[int], Tensor]) -> None:
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("threshold", [0.25, 0.4, 0.7, 1e6])
@models
def test_first_block_cache_is_that_of_diffusers(name: str, settings: dict[str, Any], threshold: float) -> None:
    wanted = theirs(name, settings, *hooked(diffusers.FirstBlockCacheConfig(threshold=threshold)), steps=8)
    same(ours(name, settings, "first_block_cache", 8, threshold=threshold, decide="batch"), wanted)


@pytest.mark.parametrize(("threshold", "max_skip", "retention"), [(0.06, 3, 0.2), (0.24, 5, 0.1), (1e6, 2, 0.0)])
@models
def test_mag_cache_is_that_of_diffusers(name: str, settings: dict[str, Any], threshold: float, max_skip: int, retention: float) -> None:
    """A table of 28 steps, taken for 9."""
    given: dict[str, Any] = {"threshold": threshold, "num_inference_steps": 9, "mag_ratios": list(FLUX)}
    config = diffusers.MagCacheConfig(max_skip_steps=max_skip, retention_ratio=retention, **given)
    wanted = theirs(name, settings, *hooked(config), steps=9)
    same(ours(name, settings, "mag_cache", 9, ratios="flux", threshold=threshold, max_skip=max_skip, retention=retention), wanted)


OTHERS = ["QwenImagePipeline", "HunyuanVideoPipeline", "CogVideoXPipeline", "MochiPipeline", "FluxPipeline:true_cfg"]


@pytest.mark.parametrize("name", OTHERS)
def test_both_are_those_of_diffusers_on_other_models(name: str) -> None:
    """Streams of text and image, in one call, two, or a batch of both."""
    config = diffusers.FirstBlockCacheConfig(threshold=0.6)
    pipe = tiny.TINY[name].build()
    pipe.transformer.enable_cache(config)
    wanted = tiny.TINY[name].call(pipe, steps=8)
    computed, output = ours(name, {}, "first_block_cache", 8, threshold=0.6, decide="batch")
    assert torch.equal(output, wanted)
    assert len(computed) < 8
    pipe = tiny.TINY[name].build()
    pipe.transformer.enable_cache(diffusers.MagCacheConfig(threshold=0.1, num_inference_steps=8, mag_ratios=list(FLUX)))
    wanted = tiny.TINY[name].call(pipe, steps=8)
    assert torch.equal(ours(name, {}, "mag_cache", 8, ratios="flux", threshold=0.1)[1], wanted)


@models
def test_the_table_of_a_model_is_the_one_that_diffusers_measures(name: str, settings: dict[str, Any]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        theirs(name, settings, *hooked(diffusers.MagCacheConfig(num_inference_steps=6, calibrate=True)), steps=6)
    lists = [ast.literal_eval(line) for line in printed.getvalue().splitlines() if line.startswith("[") and "MagCache" not in line]
    pipe = tiny.TINY[name].build()
    with foreseer.attach(pipe, "mag_calibration") as attached:
        tiny.TINY[name].call(pipe, steps=6, **settings)
    assert len(attached.reports) == len(lists)
    for report, wanted in zip(attached.reports.values(), lists, strict=True):
        assert mag_table(report) == pytest.approx(wanted, rel=1e-5)


def dit(steps: int) -> list[Tensor]:
    """What a DiT is called with in each step of a loop."""
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn((2, 2, 1, 8, 8), generator=generator)
    return [start + (end - start) * step / steps for step in range(steps)]


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.5])
def test_first_block_cache_is_that_of_diffusers_on_the_bundled_dit(threshold: float) -> None:
    """Its class has no cache, and is given one."""
    steps, found = 14, []
    given: dict[str, Any] = {"class_labels": torch.tensor([3, 7]), "return_dict": False}
    for peer in (True, False):
        model: Any = load_dit()
        with contextlib.ExitStack() as stack:
            if peer:
                model.__class__ = type("Cached", (type(model), diffusers.models.cache_utils.CacheMixin), {})
                model.enable_cache(diffusers.FirstBlockCacheConfig(threshold=threshold))
                stack.enter_context(model.cache_context("cond"))
            else:
                attached = stack.enter_context(foreseer.attach(model, "first_block_cache", threshold=threshold, decide="batch"))
                stack.enter_context(attached.run(num_steps=steps))
            computed = stack.enter_context(counted(model, 1))
            stack.enter_context(torch.no_grad())
            outputs = [model(latents, timestep=torch.full((2,), 999 - 70 * step), **given)[0] for step, latents in enumerate(dit(steps))]
        found.append((computed if peer else attached.report.full_steps, torch.stack(outputs)))
    same(found[1], found[0])
    assert 1 < len(found[0][0]) < steps


MASK = [1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1]
CONFIGS: list[dict[str, Any]] = [
    {"fn": 1, "bn": 0, "threshold": 0.7, "warmup_steps": 2},
    {"fn": 2, "bn": 1, "threshold": 0.6, "warmup_steps": 1},
    {"fn": 1, "bn": 2, "threshold": 0.9, "warmup_steps": 4, "warmup_interval": 2},
    {"fn": 1, "bn": 0, "threshold": 0.9, "warmup_steps": 3, "max_continuous": 2, "max_cached_steps": 5},
    {"fn": 1, "bn": 0, "threshold": 0.8, "warmup_steps": 8, "mask": MASK},
    {"fn": 2, "bn": 0, "threshold": 0.08, "warmup_steps": 2, "mask": MASK, "mask_policy": "static"},
    {"fn": 1, "bn": 0, "threshold": 0.7, "warmup_steps": 2, "max_difference_sum": 2.5},
    {"fn": 2, "bn": 0, "threshold": 1.0, "warmup_steps": 2, "max_continuous": 3},
]
THEIR_NAMES = {
    "fn": "Fn_compute_blocks",
    "bn": "Bn_compute_blocks",
    "threshold": "residual_diff_threshold",
    "warmup_steps": "max_warmup_steps",
    "warmup_interval": "warmup_interval",
    "max_cached_steps": "max_cached_steps",
    "max_continuous": "max_continuous_cached_steps",
    "max_difference_sum": "max_accumulated_residual_diff_threshold",
    "mask": "steps_computation_mask",
    "mask_policy": "steps_computation_policy",
}


def their_db_cache(name: str, settings: dict[str, Any], config: dict[str, Any], order: int = 0, of: str = "residual") -> tuple[list[int], Tensor]:
    """In pipeline mode: without a pipeline it runs a mask one step late from the second request on."""
    cache_dit = pytest.importorskip("cache_dit")
    logging.getLogger("CACHE_DIT").setLevel(logging.ERROR)
    told = cache_dit.DBCacheConfig(**{THEIR_NAMES[name]: value for name, value in config.items()})
    chosen = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order, calibrator_cache_type=of) if order else None
    enable = lambda pipe: cache_dit.enable_cache(pipe, cache_config=told, calibrator_config=chosen)  # noqa: E731
    return theirs(name, settings, enable, cache_dit.disable_cache, 12, config["fn"])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(f"{value}" for value in config.values() if value is not MASK))
def test_db_cache_is_that_of_cache_dit(config: dict[str, Any]) -> None:
    wanted = their_db_cache("FluxPipeline", {"batch": 2}, config)
    same(ours("FluxPipeline", {"batch": 2}, "db_cache", 12, decide="batch", **config), wanted)
    assert len(wanted[0]) < 12


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "DiTPipeline"])
def test_db_cache_is_that_of_cache_dit_on_other_models(name: str) -> None:
    config = {"fn": 1, "bn": 1, "threshold": 0.7, "warmup_steps": 3}
    wanted = their_db_cache(name, {}, config)
    same(ours(name, {}, "db_cache", 12, decide="batch", **config), wanted)
    assert len(wanted[0]) < 12


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("forecasts", ["residual", "stream"])
def test_taylor_sums_are_the_taylorseer_calibrator_of_cache_dit(order: int, forecasts: str) -> None:
    config: dict[str, Any] = {"fn": 1, "bn": 0, "threshold": 0.9, "warmup_steps": 3, "max_continuous": 3}
    wanted = their_db_cache("FluxPipeline", {}, config, order, {"residual": "residual", "stream": "hidden_states"}[forecasts])
    computed, output = ours("FluxPipeline", {}, "db_cache", 12, decide="batch", max_order=order, forecasts=forecasts, **config)
    assert computed == wanted[0]
    torch.testing.assert_close(output, wanted[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["slow", "medium", "fast", "ultra"])
def test_masks_are_those_of_cache_dit(name: str) -> None:
    cache_dit = pytest.importorskip("cache_dit")
    for steps in (4, 6, 8, 28, 30, 32, 36, 40, 45, 48, 50, 60, 100):
        assert list(step_mask(name, steps)) == cache_dit.steps_mask(mask_policy=name, total_steps=steps)
