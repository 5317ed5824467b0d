"""Lanes on other solvers, and the converged reference beside every one: what tables then say, and what is drawn once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreseer.bench.families import DiTFamily
from foreseer.bench.harness import run_benchmark
from foreseer.bench.lanes import Sampler, Solved
from foreseer.bench.reference import AGREED, Reference, fingerprint, told
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.sentences import sentence_of
from foreseer.bench.settings import BenchSettings, read_settings
from foreseer.bench.solvers import Solver
from foreseer.bench.source import Source
from foreseer.bench.summary import gain, lines_of, mean_of
from foreseer.bench.workload import HERE
from foreseer.errors import OptionError
from foreseer.registry import parse_policy
from foreseer.zoo.dit import CONFIG, build

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # diffusers hands tensors to numpy

SOLVER, OTHER = Solver.read("dpmpp_2m"), Solver.read("heun:spacing=own")
POLICY = "taylorseer:interval=2,warmup_steps=1,max_order=1"


def tiny(seed: int = 0) -> DiTFamily:
    torch.manual_seed(seed)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2})
    return DiTFamily(model=model.eval().requires_grad_(False))


@pytest.fixture(scope="module")
def family() -> DiTFamily:
    return tiny()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, family: DiTFamily, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORESEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(HERE, "dit", lambda device, dtype: family)
    return tmp_path / "cache"


def settings(**changes: Any) -> BenchSettings:
    lanes = (parse_policy(POLICY), Solved(parse_policy(POLICY), SOLVER, 8))
    return BenchSettings(
        **{"workload": "dit", "samples": 3, "batch": 2, "steps": 6, "timed": "draws", "lanes": lanes}
        | {"solvers": ("dpmpp_2m", "heun:spacing=own"), "counts": (3, 8), "reference": "dpmpp_2m", "reference_steps": 40}
        | changes
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, family: DiTFamily) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORESEER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(HERE, "dit", lambda device, dtype: family)
        return run_benchmark(settings(), tmp_path_factory.mktemp("bench"))


def test_every_lane_has_its_distance_to_the_truth(results: Results) -> None:
    """Law: full computation too; and what takes many steps of a solver is nearer than what takes few."""
    assert not [lane.error for lane in results.lanes if lane.error]
    assert all(lane.has("truth") and np.isfinite(lane.values("truth")).all() for lane in results.lanes)
    assert mean_of(results.lane("dpmpp_2m, 8 steps"), "truth") > mean_of(results.lane("dpmpp_2m, 3 steps"), "truth")
    assert set(results.reference["agreement"]) == {"0", "1", "2"}
    assert f"dpmpp_2m with {results.reference['steps']} steps" in told(results.reference)


def test_solvers_are_drawn_where_lanes_need_them_and_where_they_were_asked_for(results: Results) -> None:
    """Law: as many evaluations as a lane computed, and at the counts; Heun's method at odd numbers only."""
    plain = {(lane.solver, lane.num_steps) for lane in results.lanes if lane.kind == "fewer"}
    computed = {int(line.steps + 0.5) for line in lines_of(results, 2) if line.lane.kind == "policy"}
    asked = {3, 8} | computed
    assert {count for solver, count in plain if solver == str(SOLVER)} == asked
    assert {count for solver, count in plain if solver == str(OTHER)} == {count for count in asked if count % 2}
    assert {count for solver, count in plain if not solver} == {count for count in asked if count < 6}


def test_what_a_policy_must_beat_is_the_best_of_all_solvers(results: Results) -> None:
    """Law: of those with as many evaluations; in each figure by that figure."""
    for line in lines_of(results, 2):
        if line.lane.kind == "policy":
            alike = [lane for lane in results.lanes if lane.kind == "fewer" and lane.num_steps == int(line.steps + 0.5)]
            for figure, chosen, over in (("psnr", line.fewer, line.gain), ("truth", line.solver, line.truth_gain)):
                best = max(alike, key=lambda lane: mean_of(lane, figure))
                assert chosen == best.name
                found = gain(results, line.lane, best, figure=figure)
                assert found is not None
                assert over == found.mean
            assert "To the converged solution it has" in sentence_of(results, line)


def test_a_policy_on_a_solver_forecasts_steps_of_it(results: Results) -> None:
    lane = results.lane(f"{POLICY} on dpmpp_2m, 8 steps")
    assert (lane.kind, lane.solver, lane.num_steps) == ("policy", "dpmpp_2m", 8)
    assert set(lane.steps) == {4.0}  # the first, and every second after it
    assert results.cost(lane) == pytest.approx(4 / 6)


def test_nothing_is_drawn_twice(tmp_path: Path, cache: Path, family: DiTFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same command goes on with lanes and reference alike; another benchmark has the reference already."""
    drawn: list[tuple[int, int]] = []
    draw = DiTFamily.draw

    def counted(self: DiTFamily, indices: Any, **how: Any) -> torch.Tensor:
        drawn.append((len(indices), how["num_steps"]))
        return draw(self, indices, **how)

    monkeypatch.setattr(DiTFamily, "draw", counted)
    small = settings(samples=2, lanes=(), solvers=(), counts=())
    first = run_benchmark(small, tmp_path / "one")
    assert drawn.count((2, 40)) == drawn.count((2, 20)) == 1
    drawn.clear()
    again = run_benchmark(small, tmp_path / "one")
    assert again.reference == first.reference
    other = run_benchmark(attrs.evolve(small, steps=5, samples=3), tmp_path / "two")
    assert drawn.count((2, 40)) == 0
    assert drawn.count((1, 40)) == 1, "only the sample that was new"
    assert {k: v for k, v in other.reference["agreement"].items() if k != "2"} == first.reference["agreement"]


def test_a_reference_is_of_these_weights_and_whatever_is_asked_together(tmp_path: Path, family: DiTFamily) -> None:
    """Law: the order and the company of samples change nothing; other weights have references of their own."""

    def of(workload: Any) -> Reference:
        sampler = Sampler.of(workload, seed=0, num_steps=6, guidance=None)
        return Reference(sampler, Source(workload="dit"), SOLVER, 12, folder=tmp_path)

    both = of(family).images([0, 1])
    assert torch.equal(of(family).images([1, 0]), both.flip(0))
    assert torch.equal(of(family).images([1]), both[1:])
    other = tiny(seed=1)
    assert fingerprint(other) != fingerprint(family) == fingerprint(tiny())
    assert not torch.allclose(of(other).images([0]), both[:1])
    velocity = DiTFamily(model=family.model, prediction="v_prediction")  # the same weights
    assert not torch.allclose(of(velocity).images([0]), both[:1])
    assert len(list((tmp_path / "references").iterdir())) == 3


def test_steps_that_a_reference_cannot_have_are_named(family: DiTFamily, tmp_path: Path) -> None:
    sampler = Sampler.of(family, seed=0, num_steps=6, guidance=None)
    with pytest.raises(OptionError, match=r"reference_steps=400: .* write 399 or 401"):
        Reference(sampler, Source(workload="dit"), Solver.read("heun"), 400, folder=tmp_path)


@given(st.lists(st.floats(10, 90), min_size=1, max_size=9))
def test_what_has_not_converged_is_said(agreements: list[float]) -> None:
    said = told({"solver": "dpmpp_2m", "steps": 40, "agreement": {str(i): value for i, value in enumerate(agreements)}})
    assert ("it has not converged" in said) == (min(agreements) < AGREED)


def test_results_of_before_have_no_truth() -> None:
    assert told({}) == ""
    lane = LaneResult(name="x", kind="policy", batch=1, num_steps=3)
    assert lane.solver == ""


def test_settings_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    given = 'workload = "dit"\nsolvers = ["unipc:spacing=karras"]\ncounts = [9, 4]\nreference = "dpmpp_2m"\n'
    lane = '[[lanes]]\npolicy = "taylorseer"\ngrid = { interval = [2, 3] }\nsolver = ["dpmpp_2m", "unipc"]\nsteps = [20, 25]\n'
    path.write_text(given + lane)
    found = read_settings(path)
    assert len(found.lanes) == 8
    assert str(found.lanes[0]) == "taylorseer:interval=2 on dpmpp_2m, 20 steps"
    assert found.counts == (4, 9)
    plain = found.to_dict()
    assert plain["solvers"] == ["unipc:spacing=karras"]
    assert plain["reference"] == "dpmpp_2m"
    assert "reference_steps" in plain
    assert not {"solvers", "counts", "reference", "reference_steps"} & set(BenchSettings(workload="dit").to_dict())
    for wrong, said in (
        ('solvers = ["unipcs"]', "did you mean 'unipc'"),
        ("counts = [0]", "whole numbers from 1 to 1000"),
        ('reference = "euler:spacing=even"', "spacing='even' is unknown"),
        ('[[lanes]]\npolicy = "none"\nsolver = "unipc"', "has solver alone"),
        ('[[lanes]]\npolicy = "none"\nsolver = "unipc"\nsteps = 1', "write a whole number >= 2"),
    ):
        path.write_text(f'workload = "dit"\n{wrong}\n')
        with pytest.raises(OptionError) as error:
            read_settings(path)
        assert said in str(error.value)
