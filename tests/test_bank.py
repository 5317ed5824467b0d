"""The feature bank against a model that keeps, for every row, a plain list of what was committed."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

import foreseer.bank
from foreseer import ContractError, OverBudgetError, Site, Weights
from foreseer.bank import FeatureBank, in_range
from foreseer.storage import Allowance, Storage
from foreseer.trial import LazyDrafts

SHAPES = {Site(0): (3,), Site(2, "attn"): (2, 2)}
seeds = st.integers(0, 2**32 - 1)


class BankMachine(RuleBasedStateMachine):
    """Commits of all rows and of some, forecasts in between. As in a session, the first commit is of all rows."""

    dtype = torch.float64
    rounding = 1e-14  # of an accumulated sum, relative to the sum of its terms' sizes
    storing = 0.0  # of the result, where it is stored in fewer bits than it was summed in

    @initialize(rows=st.integers(1, 4), keep=st.lists(st.integers(1, 4), min_size=2, max_size=2), seed=seeds)
    def start(self, rows: int, keep: list[int], seed: int) -> None:
        self.rows, self.keep = rows, dict(zip(SHAPES, keep, strict=True))
        self.bank = FeatureBank(self.keep, rows)
        self.step = 0
        self.kept: list[list[tuple[int, dict[Site, Tensor]]]] = [[] for _ in range(rows)]
        self.last: dict[Site, Tensor] = {}
        assert self.bank.out_of_reach(0, None) == [True] * rows
        self.commit(None, seed, gap=1)

    def commit(self, rows: list[int] | None, seed: int, gap: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        chosen = list(range(self.rows)) if rows is None else rows
        features = {site: torch.randn(len(chosen), *shape, generator=generator).to(self.dtype) for site, shape in SHAPES.items()}
        self.step += gap
        self.bank.commit(self.step, rows, features)
        for position, row in enumerate(chosen):
            self.kept[row].insert(0, (self.step, {site: feature[position].clone() for site, feature in features.items()}))
            del self.kept[row][max(self.keep.values()) :]
        self.last = features

    @rule(seed=seeds, gap=st.integers(1, 5))
    def commit_all_rows(self, seed: int, gap: int) -> None:
        self.commit(None, seed, gap)

    @rule(data=st.data(), seed=seeds, gap=st.integers(1, 5))
    def commit_some_rows(self, data: st.DataObject, seed: int, gap: int) -> None:
        rows = data.draw(st.lists(st.integers(0, self.rows - 1), min_size=1, unique=True), label="rows")
        self.commit(sorted(rows), seed, gap)

    def recorded(self, site: Site, row: int) -> list[Tensor]:
        return [features[site] for _, features in self.kept[row]][: self.keep[site]]

    @rule(site=st.sampled_from(list(SHAPES)), alike=st.booleans(), seed=seeds)
    def forecast(self, site: Site, alike: bool, seed: int) -> None:
        """A forecast is each row's own weighted sum, formed in float32 or wider and stored in the dtype of the features."""
        values = np.random.default_rng(seed).uniform(-3, 3, (self.rows, max(self.keep.values())))
        if alike:
            values[:] = values[0]
        counts = [len(self.recorded(site, row)) for row in range(self.rows)]
        for row, count in enumerate(counts):
            values[row, min(counts) if alike else count :] = 0
        got = self.bank.forecast(site, Weights(values))
        assert got.dtype == self.dtype
        assert got.shape == (self.rows, *SHAPES[site])
        for row in range(self.rows):
            terms = [w * f.double() for w, f in zip(values[row].tolist(), self.recorded(site, row), strict=False)]
            expected, size = sum(terms), sum(term.abs() for term in terms)
            assert isinstance(expected, Tensor)
            assert ((got[row].double() - expected).abs() <= self.rounding * size + self.storing * expected.abs()).all()

    @rule(site=st.sampled_from(list(SHAPES)), data=st.data())
    def reach_too_far(self, site: Site, data: st.DataObject) -> None:
        """A weight on a feature that a row does not have is an error, not a silent zero."""
        row = data.draw(st.integers(0, self.rows - 1), label="row")
        values = np.zeros((self.rows, max(self.keep.values())))
        beyond = len(self.recorded(site, row))
        if beyond < values.shape[1]:
            values[:, 0] = 1
            values[row, beyond:] = 0.5
            with pytest.raises(ContractError, match=f"{site} reach back {beyond + 1} anchors for row {row}, of which {beyond} are recorded"):
                self.bank.forecast(site, Weights(values))

    @rule(site=st.sampled_from(list(SHAPES)))
    def buffers_of_the_host_are_its_own(self, site: Site) -> None:
        """A commit copies: what the host does to its tensor afterwards (CUDA graphs overwrite theirs) never shows in a forecast."""
        newest = np.zeros((self.rows, max(self.keep.values())))
        newest[:, 0] = 1
        before = self.bank.forecast(site, Weights(newest))
        self.last[site].fill_(7)
        assert torch.equal(self.bank.forecast(site, Weights(newest)), before)

    @invariant()
    def anchors_are_those_committed(self) -> None:
        expected = np.full((self.rows, max(self.keep.values())), np.nan)
        for row, kept in enumerate(self.kept):
            expected[row, : len(kept)] = [step for step, _ in kept]
        np.testing.assert_array_equal(self.bank.anchors, expected)
        assert self.bank.out_of_reach(0, None) == [False] * self.rows
        for later, reach in ((1, 1), (3, 2)):
            far = [self.step + later - kept[0][0] > reach for kept in self.kept]
            assert self.bank.out_of_reach(self.step + later, reach) == far

    @invariant()
    def features_are_those_committed(self) -> None:
        """To the bit, newest first, zero where a row has fewer; so rows that were not committed have not changed."""
        for site, shape in SHAPES.items():
            expected = torch.zeros(self.keep[site], self.rows, *shape, dtype=self.dtype)
            for row in range(self.rows):
                for slot, feature in enumerate(self.recorded(site, row)):
                    expected[slot, row] = feature
            assert torch.equal(self.bank.features(site), expected)

    @invariant()
    def products_are_those_of_the_features(self) -> None:
        for site, found in self.bank.products(lambda sums: sums).items():
            kept = self.bank.features(site).double().flatten(2)
            np.testing.assert_allclose(found, torch.einsum("krx,lrx->rkl", kept, kept), atol=1e-12)

    @invariant()
    def memory_is_bounded(self) -> None:
        """Every site occupies K x R features from its first commit on, however long the run."""
        for site, held in self.bank.bytes_held().items():
            one = torch.zeros(SHAPES[site], dtype=self.dtype).nbytes
            assert held == self.keep[site] * self.rows * one


class Float32Machine(BankMachine):
    dtype = torch.float32
    rounding = 1e-6


class BFloat16Machine(BankMachine):
    dtype = torch.bfloat16
    rounding = 1e-6
    storing = 2.0**-8


for machine in (BankMachine, Float32Machine, BFloat16Machine):
    machine.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=20)

TestFloat64Bank: Any = BankMachine.TestCase
TestFloat32Bank: Any = Float32Machine.TestCase
TestBFloat16Bank: Any = BFloat16Machine.TestCase


@pytest.mark.parametrize("apart", [False, True], ids=["together", "rows apart"])
@pytest.mark.parametrize("alike", [True, False], ids=["one set of weights", "weights per row"])
def test_bfloat16_is_summed_in_float32(apart: bool, alike: bool) -> None:
    """Extrapolating 100, 101, 102 by weights 10, -16, 7 cancels four digits: summed in bf16 the answer is off by units, summed in
    float32 and rounded once it is the nearest bf16.
    """
    site = Site(0)
    features = [torch.tensor([[v], [v]], dtype=torch.bfloat16) for v in (102.0, 101.0, 100.0)]
    weights = np.array([[10.3, -16.6, 7.3], [10.3, -16.6, 7.3] if alike else [1.0, 0.0, 0.0]])
    bank = FeatureBank({site: 3}, 2)
    for step, feature in enumerate(reversed(features)):
        bank.commit(step, [0, 1] if apart and step else None, {site: feature})
    exact = sum(w * f[0].double() for w, f in zip(weights[0], features, strict=True))
    narrow = torch.zeros(1, dtype=torch.bfloat16)
    for w, f in zip(weights[0], features, strict=True):
        narrow = narrow + f[0] * torch.tensor(w, dtype=torch.bfloat16)
    assert abs(float(narrow) - float(exact)) > 1
    assert bank.forecast(site, Weights(weights))[0] == exact.to(torch.bfloat16)


def test_a_host_that_gives_less_than_is_recorded_is_told_what_is_missing() -> None:
    bank = FeatureBank({Site(0): 1, Site(1): 1}, 2)
    with pytest.raises(ContractError, match=rf"computed step 3 without features of {Site(1)}, which"):
        bank.commit(3, None, {Site(0): torch.ones(2, 3)})


def test_a_policy_without_sites_keeps_nothing() -> None:
    """A bank of no sites takes commits and holds no bytes."""
    bank = FeatureBank({}, 2)
    bank.commit(0, None, {})
    bank.commit(1, [0], {})
    assert bank.bytes_held() == {}
    assert bank.anchors.shape == (2, 0)


@pytest.mark.parametrize("apart", [False, True], ids=["together", "rows apart"])
@pytest.mark.parametrize(
    "draft",
    [torch.zeros(2, 4, dtype=torch.float32), torch.zeros(2, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float32)],
    ids=["shape", "dtype", "rows"],
)
def test_a_ready_made_forecast_must_look_like_what_was_recorded(draft: Tensor, apart: bool) -> None:
    """A forecast that a plugin made itself has the recorded shape and dtype; the error says both."""
    site = Site(0)
    bank = FeatureBank({site: 1}, 2)
    bank.commit(0, None, {site: torch.ones(2, 3)})
    if apart:
        bank.commit(1, [0], {site: torch.ones(1, 3)})
    bank.check(site, torch.zeros(2, 3))
    with pytest.raises(ContractError, match=r"recorded is torch.float32 \(2, 3\)"):
        bank.check(site, draft)


def test_a_table_of_weights_is_made_once_for_all_sites_of_a_step(monkeypatch):
    """Law: and anew for other weights, for sites that keep another number, and after a commit."""
    made: list[Any] = []
    monkeypatch.setattr(foreseer.bank, "on_device", lambda values, device, dtype=None: made.append(values) or torch.as_tensor(values, dtype=dtype))
    bank = FeatureBank({Site(0): 2, Site(1): 2, Site(2): 1}, 1)
    features = {Site(block): torch.ones(1, 3) for block in range(3)}
    bank.commit(0, None, features)
    one, other = (Weights(np.array([[weight, 0.0]])) for weight in (1.0, 2.0))
    for weights, sites in ((one, 2), (one, 4), (other, 6), (one, 8)):
        bank.commit(1, None, features)
        assert [float(bank.forecast(Site(block), weights)[0, 0]) for block in (0, 1, 2, 0, 1, 2)] == [weights.values[0, 0]] * 6
        assert len(made) == sites
    assert float(bank.forecast(Site(0), other)[0, 0]) == 2.0


def test_numbers_beyond_a_narrower_history_are_kept_at_its_largest():
    """Law: what float16 cannot hold is no infinity in the history; a dtype of the same range takes everything as it is."""
    wide = torch.tensor([1.0, -70000.0, 1e30, math.nan])
    narrow = in_range(wide, torch.float16).half()
    assert narrow[:3].tolist() == [1.0, -65504.0, 65504.0]
    assert narrow[3].isnan()
    for same in (torch.bfloat16, torch.float32, torch.float64):
        assert in_range(wide, same) is wide


@pytest.mark.skipif(not torch.cuda.is_available(), reason="on the CPU an infinite forecast is looked at and rejected")
@pytest.mark.parametrize("rows", [None, [0, 1]])
def test_no_infinity_enters_a_float16_history_on_an_accelerator(rows):
    site = Site(0)
    bank = FeatureBank({site: 2}, 2, Storage(dtype=torch.float16))
    for step in range(2):
        bank.commit(step, rows, {site: torch.full((2, 3), 1e6, device="cuda")})
    assert bool(torch.isfinite(bank.forecast(site, Weights(np.full((2, 2), 0.5)))).all())


@pytest.mark.parametrize("rows", [None, [0]])
def test_what_was_recorded_in_inference_mode_is_written_to_outside_of_it(rows):
    """Law: a history outlives its step, so it belongs to no mode of the step that began it."""
    site, bank = Site(0), FeatureBank({Site(0): 2}, 2)
    with torch.inference_mode():
        bank.commit(0, None, {site: torch.ones(2, 3)})
    with torch.no_grad():
        bank.commit(1, rows, {site: torch.ones(2 if rows is None else 1, 3)})
    with torch.inference_mode():
        bank.commit(2, rows, {site: torch.ones(2 if rows is None else 1, 3)})
        assert bank.forecast(site, Weights(np.array([[1.0, 0.0]] * 2))).tolist() == [[1.0] * 3] * 2


def test_a_draft_that_runs_over_is_noticed_wherever_it_is():
    """Law: in float16, where a sum of numbers in range may run over, each draft is looked at and not the last one alone."""
    bank, sites = FeatureBank({Site(0): 2, Site(1): 2}, 2), (Site(0), Site(1))
    for step, large in enumerate((-6e4, 6e4)):
        half = {Site(0): torch.tensor([[large], [1.0]]).half(), Site(1): torch.ones(2, 1).half()}
        bank.commit(step, None, half)
    drafts = LazyDrafts(bank, sites, dict.fromkeys(sites, Weights(np.array([[2.0, -1.0], [2.0, -1.0]]))))
    assert drafts[Site(0)].isinf().tolist() == [[True], [False]]
    assert drafts[Site(1)].isfinite().all()
    assert drafts.broken == {0}


@given(
    rows=st.integers(1, 3),
    keep=st.integers(1, 4),
    size=st.integers(1, 5),
    dtype=st.sampled_from([None, torch.bfloat16, torch.float64]),
    held=st.integers(0, 40),
    spare=st.integers(-9, 9),
)
def test_no_more_is_held_than_is_allowed(rows: int, keep: int, size: int, dtype: torch.dtype | None, held: int, spare: int) -> None:
    """Law: what will be held is known at the first commit, and refused where it and what others hold exceed the limit; clearing gives it back."""
    needed = rows * keep * size * (dtype or torch.float32).itemsize
    allowance = Allowance(max(needed + held + spare, 0), held)
    bank = FeatureBank({Site(0): keep}, rows, Storage(dtype=dtype), allowance=allowance)
    features = {Site(0): torch.ones(rows, size)}
    if needed + held > allowance.limit:
        beside = f", beside {held} B that .*" if held else ""
        words = rf"would hold {needed} B \(1 sites, up to {keep} anchors, {rows} rows\){beside}, over max_bytes={allowance.limit} "
        with pytest.raises(OverBudgetError, match=words + rf".* holds {needed // keep} B per anchor"):
            bank.commit(0, None, features)
        assert allowance.held == held
        assert bank.filled is False
        return
    bank.commit(0, None, features)
    assert bank.filled is True
    assert bank.bytes_held() == {Site(0): needed}
    assert allowance.held == held + needed
    bank.clear()
    assert (allowance.held, bank.bytes_held(), bank.filled) == (held, {}, False)
