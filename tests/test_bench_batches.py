"""The laws of batches and of timed pairs: nothing is lost, hard samples are dealt out, runs are spread, and a machine that stands still counts for nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreseer.bench.clock import Took, timed
from foreseer.bench.lanes import mixed, pairs_of, split
from foreseer.bench.summary import LEVEL, standard_errors


@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=40), st.integers(1, 12))
def test_mixed_batches_hold_every_sample_once_and_one_of_each_stratum(difficulty: list[float], batch: int) -> None:
    """Law: a batch's k-th sample is harder than no other batch's k + 1-th; batches differ by one sample at most."""
    found = mixed(difficulty, batch)
    assert sorted(i for indices in found for i in indices) == list(range(len(difficulty)))
    assert max(map(len, found)) <= batch
    assert max(map(len, found)) - min(map(len, found)) <= 1
    hard = [[math.inf if math.isnan(difficulty[i]) else difficulty[i] for i in indices] for indices in found]
    for k in range(max(map(len, found)) - 1):
        assert max(h[k] for h in hard if len(h) > k) <= min(h[k + 1] for h in hard if len(h) > k + 1)


@given(st.integers(1, 40), st.integers(1, 12))
def test_batches_as_drawn_are_in_order(samples: int, batch: int) -> None:
    """Law: cut, not shuffled; only the last may be short."""
    found = split(range(samples), batch)
    assert [i for indices in found for i in indices] == list(range(samples))
    assert all(len(indices) == batch for indices in found[:-1])


@given(st.integers(0, 30), st.integers(1, 30))
def test_timed_runs_are_spread_over_the_batches(repeats: int, batches: int) -> None:
    """Law: each run falls to one batch, no batch has two more than another, and the gaps between those that have one are even."""
    found = [pairs_of(number, repeats=repeats, batches=batches) for number in range(batches)]
    assert [pair for pairs in found for pair in pairs] == list(range(repeats))
    counts = [len(pairs) for pairs in found]
    assert max(counts) - min(counts) <= 1
    with_one = [number for number, count in enumerate(counts) if count]
    gaps = [b - a for a, b in itertools.pairwise(with_one)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_on_a_cpu_the_processors_time_counts_and_what_others_take_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: however long a machine stands still; the clock is a second number. Of a GPU nobody can say, and the clock counts."""
    now = {"clock": 10.0, "processor": 4.0}
    monkeypatch.setattr("foreseer.bench.clock.time.perf_counter", lambda: now["clock"])
    monkeypatch.setattr("foreseer.bench.clock.time.process_time", lambda: now["processor"])
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)

    def run() -> str:
        now["clock"] += 9.0
        now["processor"] += 2.0
        return "found"

    assert timed(run, torch.device("cpu")) == ("found", Took(2.0, 9.0))
    assert timed(run, torch.device("cuda")) == ("found", Took(9.0, 9.0))


@given(st.integers(2, 500))
def test_fewer_samples_must_differ_by_more(samples: int) -> None:
    """Law: Student's t, from above to three standard errors; one sample says nothing."""
    from scipy.stats import t

    assert 3 < standard_errors(samples + 1) < standard_errors(samples) < standard_errors(1) == math.inf
    assert 2 * t.sf(standard_errors(samples), samples - 1) == pytest.approx(LEVEL)
