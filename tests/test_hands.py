"""The laws of who carries out a sweep: in whatever order units come back, and on however many places, results are those of one process."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import toy_tuning
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bench import without_times
from toy_family import ToyFamily
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.board import Board, Wanted
from foreseer.bench.hands import Call, Came, Here, Take
from foreseer.bench.harness import Harness, run_benchmark
from foreseer.bench.lanes import FULL
from foreseer.bench.ray_settings import RaySettings
from foreseer.bench.settings import BenchSettings
from foreseer.bench.simulate import Costs, simulate
from foreseer.console import ADDRESS, _alone
from foreseer.errors import OptionError
from foreseer.registry import parse_policy
from foreseer.workbench.recording import record
from foreseer.workbench.tune import tune

LANES = ("none", "taylorseer:interval=2,warmup_steps=1,max_order=1", "speca:threshold=0.5,warmup_steps=1")


class Several(Here):
    """Several places, whose calls come back in any order; some are lost with their place and begin again."""

    elsewhere = True

    def __init__(self, workload: Any, *, places: int, seed: int, lost: float = 0.2) -> None:
        super().__init__(workload)
        self.places, self._dice, self._lost = places, random.Random(seed), lost
        self.began = Counter[Any]()

    def carry_out(self, take: Take) -> Iterator[Came]:
        under_way: dict[int, Call] = {}
        while True:
            for place in range(self.places):
                if place not in under_way and (call := take(place)) is not None:
                    under_way[place] = call
            if not under_way:
                return
            place = self._dice.choice(list(under_way))
            self.began[under_way[place].about] += 1
            if self._dice.random() < self._lost:
                continue
            call = under_way.pop(place)
            (came,) = super().carry_out(_once(call))
            yield attrs.evolve(came, where={"node": str(place)})


def _once(call: Call) -> Take:
    left = [call]
    return lambda place: left.pop() if left else None


class Failing(ToyFamily):
    """A toy on which a policy fails from one batch on."""

    def draw(self, indices: Any, **how: Any) -> Any:
        if self._attached and 4 in indices:
            raise RuntimeError("no")
        return super().draw(indices, **how)


def asked(workload: Any, **changes: Any) -> BenchSettings:
    given: dict[str, Any] = {"samples": 7, "batch": (2, 3), "steps": 6, "timed": "draws", "lanes": tuple(map(parse_policy, LANES))}
    return BenchSettings(workload=workload, **{**given, **changes})


def told(folder: Path) -> Any:
    content = without_times(folder)
    for lane in content["lanes"]:
        for unit in lane["units"]:
            del unit["where"]
    return content


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[ToyFamily]], Any]:
    found: dict[type[ToyFamily], Any] = {}

    def of(kind: type[ToyFamily]) -> Any:
        if kind not in found:
            folder = tmp_path_factory.mktemp("alone")
            run_benchmark(asked(kind()), folder)
            found[kind] = told(folder)
        return found[kind]

    return of


@settings(max_examples=5, derandomize=True)
@given(seed=st.integers(0, 999), places=st.integers(1, 5), kind=st.sampled_from([ToyFamily, Failing]))
def test_results_are_those_of_one_process(seed: int, places: int, kind: type[ToyFamily], tmp_path_factory: Any, alone: Any) -> None:
    """Law: whatever the order, whatever is lost, and where a lane fails, results are the same; each unit is there once."""
    workload, folder = kind(), tmp_path_factory.mktemp("several")
    harness = Harness(asked(workload), folder, Several(workload, places=places, seed=seed))
    whole = [harness.whole for _ in harness.batches()]
    assert whole == sorted(whole)
    assert told(folder) == alone(kind)


def test_one_place_takes_everything_in_order() -> None:
    """Law: full computation first, then what was added, batch by batch."""
    for gathered in (True, False):
        board = Board(gathered=gathered)
        for number in range(2):
            board.add(4, number, [(FULL, 4), ("a", 4), ("b", 4)], full_is_there=False)
        order = []
        while (unit := board.take(0)) is not None:
            order.append((unit.key[0], unit.number))
            board.done(unit)
        assert order == [(name, number) for number in range(2) for name in (FULL, "a", "b")]


def test_nothing_begins_before_full_computation_of_its_batch() -> None:
    """Law: two places never wait for one another where there is another batch, and a place keeps to its batch where draws are timed."""
    board = Board(gathered=True)
    for number in range(2):
        board.add(4, number, [(FULL, 4), ("a", 4)], full_is_there=False)
    first, second = board.take(1), board.take(2)
    assert (first, second) == (Wanted((FULL, 4), 0), Wanted((FULL, 4), 1))
    assert board.take(3) is None
    board.done(second)
    assert board.take(2) == Wanted(("a", 4), 1)
    board.done(first)
    assert board.take(1) == Wanted(("a", 4), 0)
    assert board.first_open(4) == 0
    board.drop(("a", 4), since=0)
    assert board.take(1) is None


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["run", "--ray", "set.toml"], ["run", "--ray=", "set.toml"]),
        (["--ray", "auto", "set.toml"], ["--ray=auto", "set.toml"]),
        (["--ray", "ray://head:10001"], ["--ray=ray://head:10001"]),
        (["--ray", "10.0.0.1:6379", "--out", "x"], ["--ray=10.0.0.1:6379", "--out", "x"]),
        (["--ray", "--out", "x"], ["--ray=", "--out", "x"]),
        (["taylorseer:interval=4", "--ray"], ["taylorseer:interval=4", "--ray="]),
        (["--ray", "speca:threshold=0.2"], ["--ray=", "speca:threshold=0.2"]),
        (["--ray=local"], ["--ray=local"]),
    ],
)
def test_an_address_may_be_left_out(typed: list[str], read: list[str]) -> None:
    """Law: what follows `--ray` is its value only if it is an address; files and policies are none."""
    assert list(_alone("--ray", typed)) == read
    assert not ADDRESS.fullmatch("set.toml")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ray": "nonsense"}, "ray='nonsense' is no address; write --ray alone"),
        ({"ray_workers": 4}, "ray_workers=4 is for workers of a cluster; write --ray with it"),
        ({"ray": "", "ray_gpus": 1.5}, "ray_gpus=1.5 is out of range"),
        ({"ray": "", "ray_resources": "GPU=1"}, "ray_resources: GPU=1 is no resource of yours"),
    ],
)
def test_wrong_settings_of_a_cluster_are_refused_in_words(given: dict[str, Any], words: str) -> None:
    """Law: the message names the option, the value and what to write."""
    with pytest.raises(OptionError, match=words):
        RaySettings(**given)


def test_ray_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: one sentence says which extra brings it."""
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    file = tmp_path / "small.toml"
    file.write_text("workload = 'dit'\nsamples = 2\nlanes = [{policy = 'none'}]\n")
    done = CliRunner().invoke(app, ["bench", "run", str(file), "--out", str(tmp_path / "out"), "--ray"])
    assert done.exit_code == 2
    assert "--ray needs ray: pip install 'foreseer[ray]'" in " ".join(done.output.split())


@pytest.mark.parametrize("timed", ["pairs", "draws"])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_a_simulated_sweep_does_the_work_that_there_is(timed: str, workers: int) -> None:
    """Law: every unit is measured once; no worker does two things at once; one alone takes as long as the sum."""
    sweep, costs = asked("dit", timed=timed, batch=(2,), repeats=4), Costs(full=3.0, computed=0.5, load=10.0, write=0.1)
    found = simulate(sweep, costs, workers=workers)
    assert found.units == 4 * (1 + 3 + 3)  # full computation, three lanes, and plain sampling beside each
    assert found.worked <= (found.seconds - costs.load) * workers
    pairs = 4 * (1.5 + 3.0) * 2 * 6 if timed == "pairs" else 0.0  # in each of four batches one, of two samples but the last
    warm = 3.0 * (1 + 3 * 0.5) if timed == "draws" else 0.0  # at most at each place
    work = 7 * 3.0 * (1 + 6 * 0.5) + pairs * 7 / 8
    assert work <= found.worked <= work + found.again * 6.0 + warm * workers + 1e-9
    if workers == 1:
        assert found.again == 0
        assert found.worked == pytest.approx(work + warm)
        assert found.seconds == pytest.approx(costs.load + found.worked + costs.write * found.units)
        assert found.busy < 1
    else:
        assert found.seconds < simulate(sweep, costs, workers=1).seconds


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 7, "at_once": 3},
        {"target": None, "promise": "psnr>=10 for 60% of samples", "confidence": 0.7, "trials": 5, "batch": None, "tested": 6},
        {"policies": (), "ranges": (), "trials": 7},
    ],
)
def test_a_search_is_that_of_one_process(changes: dict[str, Any], seed: int, toy: ToyFamily, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: trials, those that fail among them, tests of a promise, choice and preset are the same, whoever draws and in whatever order; with a study nothing
    is drawn again.
    """
    asked = toy_tuning.settings(**changes)
    here = tune(asked)
    hands = Several(toy, places=4, seed=seed)
    monkeypatch.setattr("foreseer.workbench.tune.hands_for", lambda *_, **__: nullcontext(hands))
    kept = attrs.evolve(asked, study=tmp_path / "study.db", at_once=asked.at_once or 1)
    found = tune(kept)
    assert toy_tuning.without_times(found) == toy_tuning.without_times(here)
    assert found.preset == here.preset
    assert [(test.policy, test.reached, test.held) for test in found.tests] == [(test.policy, test.reached, test.held) for test in here.tests]
    bare = len(toy.bare)
    assert tune(kept).preset == here.preset
    assert len(toy.bare) == bare


def test_a_recording_is_that_of_one_process(toy: ToyFamily, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: inner products and sensitivities are the same, in whatever order batches and steps come back."""
    here = record(toy, tmp_path / "here.safetensors", samples=7, batch=2).trace
    monkeypatch.setattr("foreseer.workbench.recording.hands_for", lambda *_, **__: nullcontext(Several(toy, places=3, seed=5)))
    there = record(toy, tmp_path / "there.safetensors", samples=7, batch=2).trace
    assert (there.measured, there.evaluations, there.labels) == (here.measured, here.evaluations, here.labels)
    assert np.array_equal(there.sensitivity, here.sensitivity, equal_nan=True)
    assert all(np.array_equal(there.grams[key], value) for key, value in here.grams.items())
