"""The laws of peers in a benchmark: a peer that fails is a row, and none can spoil the next lane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreseer.bench.peers as module
from foreseer.bench.families import DiTFamily
from foreseer.bench.harness import run_benchmark
from foreseer.bench.peers import PeerSpec, Request
from foreseer.bench.results import Results
from foreseer.bench.settings import BenchSettings
from foreseer.bench.workload import HERE
from foreseer.registry import parse_policy
from foreseer.zoo.dit import CONFIG, build

STEPS = 8


def dit() -> DiTFamily:
    torch.manual_seed(0)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 4})
    return DiTFamily(model=model.eval().requires_grad_(False))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HERE, "dit", lambda device, dtype: dit())


def run(out: Path, *peers: PeerSpec) -> Results:
    return run_benchmark(BenchSettings(workload="dit", samples=2, batch=2, steps=STEPS, repeats=0, lanes=(parse_policy("none"),), peers=peers), out)


def peer(enable: Callable[[Request], Iterator[None]]) -> Callable[[], Any]:
    return lambda: contextmanager(enable)


def test_a_peer_that_raises_is_a_row_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the run goes on, and the row says in one line what was raised."""

    def raises(request: Request) -> Iterator[None]:
        raise ValueError("blocks are\nnot supported")
        yield

    def missing(request: Request) -> Iterator[None]:
        raise ModuleNotFoundError("No module named 'cache_dit'", name="cache_dit")
        yield

    monkeypatch.setitem(module.PEERS, "raises", peer(raises))
    monkeypatch.setitem(module.PEERS, "missing", peer(missing))
    found = run(tmp_path, PeerSpec("raises"), PeerSpec("missing"))
    assert found.lane("raises").error == "ValueError: blocks are not supported"
    assert found.lane("missing").error == "cache_dit is not installed: pip install 'foreseer[peers]'"
    assert np.isposinf(found.lane("none").values("psnr")).all()
    assert found.finished


def test_a_peer_that_leaves_the_model_changed_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: each peer has a model of its own, which is checked on one input after it; where the output is another, the row says so."""

    def spoils(request: Request) -> Iterator[None]:
        yield
        request.family.model.transformer_blocks[0].ff.net[2].weight.data += 1  # type: ignore[index, operator, union-attr]

    monkeypatch.setitem(module.PEERS, "spoils", peer(spoils))
    monkeypatch.setitem(module.PEERS, "idle", peer(lambda request: iter([None])))
    found = run(tmp_path, PeerSpec("spoils"), PeerSpec("idle"))
    assert "it left its model changed" in found.lane("spoils").error
    assert np.isposinf(found.lane("idle").values("psnr")).all()
    assert found.lane("idle").steps == [STEPS, STEPS]


def test_caches_of_diffusers_are_counted_from_outside(tmp_path: Path) -> None:
    """Law: what a peer computed is what its blocks were called for, whatever it says itself; calibration is not counted."""
    expected = [
        (PeerSpec("first_block_cache", {"threshold": 1e6}), 1),  # it has no warm-up: everything after the first step is reused
        (PeerSpec("first_block_cache", {"threshold": 0.0}), STEPS),
        (PeerSpec("diffusers_taylorseer", {"mode": "modules", "interval": 3}), 5),  # 0, 1, 2, then 4 and 7
        (PeerSpec("diffusers_taylorseer", {"mode": "default"}), STEPS),  # it finds nothing to hook on this model, and says nothing
        (PeerSpec("magcache", {"threshold": 0.0}), STEPS),
        (PeerSpec("magcache", {"threshold": 1e6, "max_skip_steps": 8, "retention_ratio": 0.25}), 2),
    ]
    found = run(tmp_path, *(spec for spec, _ in expected))
    for spec, steps in expected:
        lane = found.lane(str(spec))
        assert not lane.error
        assert lane.steps == [steps, steps], spec
        assert (found.cost(lane) < 1) == (steps < STEPS)


def test_dbcache_is_counted_from_outside(tmp_path: Path) -> None:
    """Law: as above; the first block always runs, so that block-rows are more than steps."""
    specs = [PeerSpec("dbcache", {"threshold": 1e6, "first_blocks": 1, "warmup_steps": 2, "calibrator": c}) for c in ("none", "taylorseer", "foca")]
    found = run(tmp_path, *specs)
    for spec in specs:
        lane = found.lane(str(spec))
        assert not lane.error
        assert lane.steps == [2, 2]
        assert found.cost(lane) == pytest.approx((2 + (STEPS - 2) / 4) / STEPS)
