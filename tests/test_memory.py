"""What policies hold, where, and how much of it they may."""

import pytest
import torch
from tiny import TINY

import foreseer
from foreseer import Site, Weights
from foreseer.bank import FeatureBank
from foreseer.storage import Storage


def flux(**options):
    tiny = TINY["FluxPipeline"]
    pipe = tiny.build()
    with foreseer.attach(pipe, "taylorseer", interval=3, max_order=2, **options) as attached:
        image = tiny.call(pipe, steps=8)
    return image, attached.report


def test_sixteen_bits_hold_half_and_change_little():
    whole, report = flux()
    half, lighter = flux(storage=Storage(dtype=torch.bfloat16))
    assert sum(lighter.bytes_held.values()) * 2 == sum(report.bytes_held.values())
    assert not torch.equal(whole, half)
    assert (whole - half).norm() < 0.05 * whole.norm()


def test_history_on_another_device_changes_nothing(monkeypatch):
    """The CPU stands in for both devices: the layout of an offloaded ring is used, and the numbers are the same."""
    whole, _ = flux()
    bank = FeatureBank({Site(0): 3}, 2, Storage())
    feature = torch.randn(2, 5)
    for step in range(4):
        bank.commit(step, None, {Site(0): feature + step})
    elsewhere = Storage()
    object.__setattr__(elsewhere, "device", torch.device("meta"))  # which keeps nothing, so that a Storage refuses it
    away = FeatureBank({Site(0): 3}, 2, elsewhere)
    away.commit(0, None, {Site(0): feature})
    assert away._rings[Site(0)].device.type == "meta"
    assert away._rings[Site(0)][:, 0].is_contiguous(), "a slot is one piece, so that it is copied in one piece"
    same, _ = flux(storage=Storage(device="cpu"))
    assert torch.equal(whole, same)


def test_a_budget_is_held_before_anything_is():
    with pytest.raises(foreseer.OverBudgetError, match=r"would hold .* over max_bytes=1000 .*dtype.*target='last_block'"):
        flux(storage=Storage(max_bytes=1000))


def test_over_budget_the_last_block_is_forecast_instead_and_the_report_says_so():
    _, full = flux()
    needed = sum(full.bytes_held.values())
    _, report = flux(storage=Storage(max_bytes=needed - 1, on_over_budget="last_block"))
    assert [site.part for site in report.bytes_held] == ["block"]
    assert sum(report.bytes_held.values()) < needed
    assert any("module parts are not forecast: memory" in warning for warning in report.warnings)
    assert len(report.full_steps) < 8
    with pytest.raises(foreseer.OverBudgetError):
        flux(storage=Storage(max_bytes=10, on_over_budget="last_block"))


def test_a_budget_that_suffices_changes_nothing():
    whole, full = flux()
    same, _ = flux(storage=Storage(max_bytes=sum(full.bytes_held.values())))
    assert torch.equal(whole, same)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_bytes": -1}, "whole number of bytes"),
        ({"max_bytes": 1.5}, "whole number of bytes"),
        ({"dtype": torch.int8}, "floating point"),
        ({"dtype": "bfloat16"}, "floating point"),
        ({"on_over_budget": "drop"}, "'raise' or 'last_block'"),
        ({"device": "cuda:99"}, "device='cuda:99' of a Storage keeps nothing here"),
    ],
)
def test_a_storage_refuses_what_cannot_be(options, says):
    with pytest.raises(foreseer.OptionError, match=says):
        Storage(**options)


def test_what_is_no_storage_is_refused_at_attach():
    pipe = TINY["FluxPipeline"].build()
    with pytest.raises(foreseer.OptionError, match=r"write foreseer\.Storage"):
        foreseer.attach(pipe, "taylorseer", storage=torch.bfloat16)
    foreseer.attach(pipe, "none").detach()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_kept_in_sixteen_bits_is_summed_in_float32(dtype):
    """Weights 10, -16, 7 cancel: the sum of the stored numbers is formed in float32 and returned in the dtype of the model."""
    bank = FeatureBank({Site(0): 3}, 1, Storage(dtype=dtype))
    values = [100.25, 101.5, 102.75]
    for step, value in enumerate(values):
        bank.commit(step, None, {Site(0): torch.full((1, 4), value)})
    weights = torch.tensor([[10.3, -16.6, 7.3]], dtype=torch.float64).numpy()
    stored = [torch.tensor(v).to(dtype).double().item() for v in reversed(values)]
    expected = sum(w * v for w, v in zip(weights[0], stored, strict=True))
    forecast = bank.forecast(Site(0), Weights(weights))
    assert forecast.dtype == torch.float32
    assert forecast[0, 0].item() == pytest.approx(expected, rel=1e-5)
