"""The error measures against literal formulas, and the laws of pooling."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from foreseer import OptionError
from foreseer.metrics import METRICS, metric, pool, relative_l1, relative_l2

laws = settings(deadline=None, max_examples=60)
names = st.sampled_from(sorted(METRICS))
seeds = st.integers(0, 2**32 - 1)


def relative_l1_formula(h: np.ndarray, f: np.ndarray) -> float:
    return float(np.abs(f - h).sum() / np.abs(h).sum())


def relative_l2_formula(h: np.ndarray, f: np.ndarray) -> float:
    return float(np.linalg.norm((f - h).ravel()) / (np.linalg.norm(h.ravel()) + 1e-8))


def elementwise_l1_formula(h: np.ndarray, f: np.ndarray) -> float:
    return float(np.mean(np.abs(f - h) / (np.abs(h) + 1e-10)))


def elementwise_l2_formula(h: np.ndarray, f: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.abs(f - h) / (np.abs(h) + 1e-10)) ** 2)))


def cosine_formula(h: np.ndarray, f: np.ndarray) -> float:
    return float(1 - (h * f).sum() / (np.linalg.norm(h.ravel()) * np.linalg.norm(f.ravel())))


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "relative_l1": relative_l1_formula,
    "relative_l2": relative_l2_formula,
    "elementwise_l1": elementwise_l1_formula,
    "elementwise_l2": elementwise_l2_formula,
    "cosine": cosine_formula,
}


@st.composite
def pairs(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """What was computed and what was forecast, ``(R, ...)`` with R of 1 to 5."""
    shape = (draw(st.integers(1, 5)), *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    generator = torch.Generator().manual_seed(draw(seeds))
    computed = torch.randn(shape, generator=generator, dtype=torch.float64)
    forecast = computed + draw(st.floats(1e-3, 3.0)) * torch.randn(shape, generator=generator, dtype=torch.float64)
    return computed.to(dtype), forecast.to(dtype)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    computed, forecast = draw(pairs())
    return computed, forecast, draw(st.lists(st.integers(0, 2), min_size=len(computed), max_size=len(computed)))


def test_every_metric_has_a_formula_here() -> None:
    assert FORMULAS.keys() == METRICS.keys()


@laws
@given(name=names, pair=pairs())
def test_a_row_has_the_error_of_its_formula(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Row by row, each metric is the published formula; the answer is ``(R,)`` float32."""
    computed, forecast = pair
    got = metric(name)(computed, forecast)
    assert got.dtype == torch.float32
    expected = [FORMULAS[name](h, f) for h, f in zip(computed.numpy(), forecast.numpy(), strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@laws
@given(name=names, case=grouped())
def test_a_group_has_the_error_of_its_rows_taken_as_one(name: str, case: tuple[torch.Tensor, torch.Tensor, list[int]]) -> None:
    """Pooling adds the sums: a group's error is that of its rows laid end to end."""
    computed, forecast, groups = case
    got = metric(name)(computed, forecast, groups=groups)
    for row, group in enumerate(groups):
        mates = [r for r, g in enumerate(groups) if g == group]
        h, f = computed[mates].numpy(), forecast[mates].numpy()
        assert got[row] == pytest.approx(FORMULAS[name](h, f), rel=1e-5, abs=1e-6)


def test_the_ratio_of_means_is_not_the_mean_of_ratios() -> None:
    """A row with small features and a large relative error hardly counts in a pool: 1.1 / 11 against (1/1 + 0.1/10) / 2."""
    computed, forecast = torch.tensor([[1.0], [10.0]]), torch.tensor([[2.0], [10.1]])
    together = relative_l1(computed, forecast, groups=(0, 0))
    assert together.tolist() == pytest.approx([0.1, 0.1], rel=1e-5)
    assert relative_l1(computed, forecast).mean().item() == pytest.approx(0.505, rel=1e-5)


@laws
@given(name=names, case=grouped(), seed=seeds)
def test_permuting_rows_permutes_errors(name: str, case: tuple[torch.Tensor, torch.Tensor, list[int]], seed: int) -> None:
    """Which place a row has in the batch is nothing to its error, alone or with its group."""
    computed, forecast, groups = case
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    moved_groups = [groups[r] for r in order]
    alone, moved = metric(name)(computed, forecast), metric(name)(computed[order], forecast[order])
    assert torch.equal(moved, alone[order])
    pooled, moved = metric(name)(computed, forecast, groups=groups), metric(name)(computed[order], forecast[order], groups=moved_groups)
    np.testing.assert_allclose(moved, pooled[order], rtol=1e-6, atol=1e-7)  # a group's sum is taken in another order


@laws
@given(name=names, case=grouped(), data=st.data(), poison=st.sampled_from([math.nan, math.inf, -math.inf]), where=st.sampled_from([0, 1]))
def test_a_row_that_is_not_finite_spoils_its_own_group_only(
    name: str, case: tuple[torch.Tensor, torch.Tensor, list[int]], data: st.DataObject, poison: float, where: int
) -> None:
    """NaN or infinity in a row's forecast makes its own error, and its group's, not finite, so that the session rejects it; every other row's error is
    what it was. NaN in what was computed does the same.
    """
    computed, forecast, groups = case
    bad = data.draw(st.integers(0, len(groups) - 1), label="bad row")
    dirty = [computed.clone(), forecast.clone()]
    dirty[where][bad].view(-1)[0] = math.nan if where == 0 else poison
    alone, pooled = metric(name)(*dirty), metric(name)(*dirty, groups=groups)
    clean, clean_pooled = metric(name)(computed, forecast), metric(name)(computed, forecast, groups=groups)
    for row, group in enumerate(groups):
        assert math.isfinite(alone[row]) == (row != bad)
        assert math.isfinite(pooled[row]) == (group != groups[bad])
        if row != bad:
            assert alone[row] == clean[row]
        if group != groups[bad]:
            assert pooled[row] == pytest.approx(clean_pooled[row].item(), rel=1e-6)


@laws
@given(name=names, pair=pairs())
def test_groups_of_one_are_rows(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Groups of one row each, whatever their names and order, change nothing."""
    computed, forecast = pair
    groups = [7 * (len(computed) - r) for r in range(len(computed))]
    assert torch.equal(metric(name)(computed, forecast, groups=groups), metric(name)(computed, forecast))


@given(values=st.lists(st.integers(-100, 100), min_size=1, max_size=6), data=st.data())
@laws
def test_pool_adds_over_the_group(values: list[int], data: st.DataObject) -> None:
    """Every row of a group gets the group's sum. (Whole numbers: the sums are exact.)"""
    groups = data.draw(st.lists(st.integers(-2, 2), min_size=len(values), max_size=len(values)))
    expected = [float(sum(v for v, g in zip(values, groups, strict=True) if g == group)) for group in groups]
    assert pool(torch.tensor(values, dtype=torch.float64), groups).tolist() == expected


@laws
@given(name=names, pair=pairs(torch.bfloat16))
def test_bfloat16_loses_nothing_but_its_own_rounding(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Half-precision features give the error of their exact values: differences, ratios and sums are formed in float32."""
    computed, forecast = pair
    got = metric(name)(computed, forecast)
    assert got.dtype == torch.float32
    exact = metric(name)(computed.double(), forecast.double())
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-5 if name == "cosine" else 0)  # 1 - cos cancels


def test_bfloat16_differences_would_round() -> None:
    """The case that a bf16 difference gets wrong: 1.0078125 - 300 has no bf16, and its error is far above float32's."""
    computed, forecast = torch.tensor([[300.0, 2.0]], dtype=torch.bfloat16), torch.tensor([[1.0078125, 2.0]], dtype=torch.bfloat16)
    exact = 298.9921875 / 302
    narrow = ((forecast - computed).abs().sum() / computed.abs().sum()).item()
    assert abs(narrow / exact - 1) > 1e-3
    assert relative_l1(computed, forecast).item() == pytest.approx(exact, rel=1e-6)


def test_nothing_over_nothing_is_nan() -> None:
    """Features that are all zero and are forecast as zero have no relative L1 error: NaN, which the session rejects. relative_l2 has a floor, 0."""
    zero = torch.zeros(2, 3)
    assert relative_l1(zero, zero).isnan().all()
    assert relative_l1(zero, torch.ones(2, 3)).isinf().all()
    assert relative_l2(zero, zero).tolist() == [0.0, 0.0]


def test_an_unknown_metric_is_named_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"metric='l3' is unknown; write one of 'relative_l1', .*'cosine'"):
        metric("l3")
