"""Laws that hold on every device that is here. On a machine with a GPU `make gpu` runs them on both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import foreseer
from foreseer import Site, Storage, Weights
from foreseer.bank import FeatureBank
from foreseer.zoo.dit import CONFIG, build

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SITE = Site(0)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 16), (2, 2049), (1, 64, 3072)])
def test_a_forecast_is_the_weighted_sum_to_the_rounding_of_its_dtype(device: str, dtype: torch.dtype, keep: int, shape: tuple[int, ...]) -> None:
    """Law: whichever kernel forms it, of sizes that are no multiple of anything too."""
    generator = torch.Generator().manual_seed(keep)
    features = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(keep)]
    bank = FeatureBank({SITE: keep}, shape[0])
    for step, feature in enumerate(features):
        bank.commit(step, None, {SITE: feature})
    values = np.random.default_rng(keep).normal(size=(shape[0], keep))
    newest_first = torch.stack(features[::-1], 1).double().cpu()
    expected = (newest_first * torch.tensor(values).reshape(shape[0], keep, *[1] * (len(shape) - 1))).sum(1)
    found = bank.forecast(SITE, Weights(values))
    assert found.dtype == dtype
    assert found.device.type == device
    size = (newest_first.abs() * torch.tensor(values).abs().reshape(shape[0], keep, *[1] * (len(shape) - 1))).sum(1)
    within = ROUNDING[dtype] * (size + expected.abs()) + torch.finfo(dtype).smallest_normal
    assert ((found.double().cpu() - expected).abs() <= within).all()


def small(device: str) -> Any:
    torch.manual_seed(0)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 4})
    return model.eval().requires_grad_(False).to(device)


def drawn(model: Any, policy: str, device: str, **options: Any) -> list[torch.Tensor]:
    """What eight steps return, under a policy."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, model.config.in_channels, model.config.sample_size, model.config.sample_size, generator=generator).to(device)
    labels = torch.tensor([1, 2], device=device)
    with foreseer.attach(model, policy, **options) as attached, torch.no_grad(), attached.run(num_steps=8):
        return [model(noise, timestep=torch.full((2,), 999 - 100 * step, device=device), class_labels=labels).sample.cpu() for step in range(8)]


@pytest.mark.parametrize("device", DEVICES)
def test_none_changes_no_bit(device: str) -> None:
    """Law: computing everything through foreseer is computing everything."""
    model = small(device)
    bare = drawn(model, "none", device)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(2, model.config.in_channels, model.config.sample_size, model.config.sample_size, generator=generator).to(device)
        own = model(noise, timestep=torch.full((2,), 999, device=device), class_labels=torch.tensor([1, 2], device=device)).sample.cpu()
    assert torch.equal(bare[0], own)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", ["taylorseer:interval=3,warmup_steps=2", "cg_taylor", "agreement:steps=4"])
def test_features_on_the_host_are_the_features_of_the_device(device: str, policy: str) -> None:
    """Law: where they are kept changes nothing but the rounding of a sum, and no copy is read before it is done."""
    model = small(device)
    here, there = drawn(model, policy, device), drawn(model, policy, device, storage=Storage(device="cpu"))
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
