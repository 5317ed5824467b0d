"""The laws of the whole of `foreseer bench gpu`: parts, seconds, processes. On tiny shapes on the CPU, and on clocks
and processes that are made up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import foreseer
from foreseer.__main__ import app
from foreseer.bench.gpu import beside, checks, kept, kernel, suite, ways, whole
from foreseer.bench.gpu.budget import Budget, pace_of
from foreseer.bench.gpu.kept import DeviceLostError, Kept
from foreseer.bench.gpu.making import LANE_SECONDS, Making
from foreseer.bench.gpu.settings import Settings
from foreseer.bench.gpu.shapes import shapes_of
from foreseer.bench.gpu.suite import PARTS, time_all
from foreseer.bench.gpu.whole import GROUPS, LOST, run_whole
from foreseer.errors import OptionError

CPU, DIT = torch.device("cpu"), "dit-xl-2-256"
TINY = Settings(scale="tiny", device="cpu", dtype="float32", steps=8, repeats=1, full_steps=1)
HOME = Path(foreseer.__file__).resolve().parents[1]


def opened(out: Path, **options: Any) -> Kept:
    return Kept.open(out, settings=attrs.asdict(TINY), note="", **options)


class Clock:
    """Seconds that somebody turns on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_time_skips_everything_in_words_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with no second left nothing is built or measured."""
    monkeypatch.setattr(checks, "_run", lambda tests, seconds: {"summary": "3 passed", "failed": [], "exit_status": 0})
    monkeypatch.setattr(kernel, "FEATURES", kernel.FEATURES[:2])
    monkeypatch.setattr(suite, "LANES", ("taylorseer-5-last", "cg_taylor"))
    out = tmp_path / "a.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Making, "model", lambda *given: pytest.fail("it was built"))
        first = time_all(TINY, (DIT,), (), out, parts=PARTS, budget=Budget(0.0))
    entries = [entry for part in PARTS for entry in first[part]]
    assert all(entry["skipped"].startswith("time is short: ") or entry["for_good"] for entry in entries)
    assert {part for part in PARTS if first[part]} == set(PARTS)
    assert not first["finished"]
    monkeypatch.setattr(suite, "lane_figures", lambda loop, lane, **others: {})
    monkeypatch.setattr(beside, "_figures", lambda *given: {})
    monkeypatch.setattr(ways, "WAYS", {})
    second = time_all(TINY, (DIT,), (), out, parts=PARTS)
    assert [bool(entry["skipped"]) for part in ("kernel", "lanes", "peers", "checks") for entry in second[part]] == [False] * (2 + 2 + 6 + 1)


def test_what_raises_is_a_sentence_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the next lane is timed; what raised is not tried again on the same machine and commit."""

    def raises(loop: Any, lane: Any, **others: Any) -> dict[str, Any]:
        if lane.name == "taylorseer-5":
            raise ValueError("blocks are\nnot there")
        return {"apart": float("nan")}

    monkeypatch.setattr(suite, "lane_figures", raises)
    for _ in range(2):
        found = time_all(TINY, (DIT,), ("taylorseer-5", "taylorseer-6"), tmp_path / "a.json")["lanes"]
    assert [entry["skipped"] for entry in found] == ["ValueError: blocks are not there", ""]
    assert json.loads((tmp_path / "a.json").read_text())["lanes"][1]["apart"] is None, "a number that is none"


def test_a_model_that_cannot_be_built_is_a_sentence_and_the_next_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the results are not finished, and the next call tries it again."""
    real = Making.model

    def refuses(making: Making, shape: Any) -> Any:
        if shape.name == "flux-dev":
            raise RuntimeError("no room")
        return real(making, shape)

    monkeypatch.setattr(suite, "lane_figures", lambda loop, lane, **others: {})
    with monkeypatch.context() as patch:
        patch.setattr(Making, "model", refuses)
        found = time_all(TINY, ("flux-dev", DIT), ("taylorseer-5-last",), tmp_path / "a.json")
    assert found["unfinished"] == ["flux-dev, lanes: RuntimeError: no room"]
    assert not found["finished"]
    assert [entry["model"] for entry in found["lanes"]] == [DIT]
    assert time_all(TINY, ("flux-dev", DIT), ("taylorseer-5-last",), tmp_path / "a.json")["finished"]


def test_a_device_that_answers_nothing_ends_the_process_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what was under way is kept, and the exit status says that another process can go on."""
    monkeypatch.setattr(kept, "answers", lambda device: False)
    monkeypatch.setattr(suite, "lane_figures", lambda loop, lane, **others: {})
    with pytest.raises(DeviceLostError, match="cpu answers nothing any more after"):
        time_all(TINY, (DIT,), ("taylorseer-5", "taylorseer-6"), tmp_path / "a.json")
    words = ["bench", "gpu", "--here", "--scale", "tiny", "--device", "cpu", "--steps", "8", "--repeats", "1", "--full-steps", "1"]
    result = CliRunner().invoke(app, [*words, "--parts", "lanes", "--models", DIT, "--policies", "taylorseer-6", "--out", str(tmp_path / "b.json")])
    assert result.exit_code == LOST
    assert len(json.loads((tmp_path / "b.json").read_text())["lanes"]) == 1


@given(st.floats(0, 500), st.floats(1e-4, 5), st.floats(0.1, 1))
def test_what_is_begun_fits_or_is_the_least_there_is(left: float, full: float, share: float) -> None:
    """Law: a lane's length is the first that fits the time that is left, and one lane's share of it; else the shortest."""
    (shape,) = shapes_of((DIT,), "tiny")
    content: dict[str, Any] = {"lanes": [], "models": {DIT: {"seconds_to_build": 0.0, "seconds_per_step_first": full}}}
    own = Kept(content, Path("a"), 0.0, Budget(left, now=lambda: 0.0), lambda what: None, CPU)
    making = Making(attrs.evolve(TINY, steps=50, full_steps=6), own)
    length = making.length(shape, share)
    assert length.steps in (50, 30, 20, 10)
    assert own.seconds_of("lanes", length.work, 1.2) <= min(left, LANE_SECONDS) or length.steps == 10
    assert bool(length.said) == (length.steps < 50)
    assert not attrs.evolve(length, said="").said
    forever = attrs.evolve(making, kept=attrs.evolve(own, budget=Budget(None)))
    assert forever.length(shape, share).steps == 50, "without a limit nothing is cut short"


def test_estimates_follow_what_was_measured() -> None:
    """Law: the median of what work took so far, or what was expected."""
    clock = Clock()
    budget = Budget(10.0, now=clock)
    clock.now = 4.0
    assert budget.left == 6.0
    assert budget.shortage(7.0) == "time is short: about 7 s needed, 6 s of 10 s left; the same command goes on"
    assert not budget.shortage(6.0)
    clock.now = 11.0
    assert budget.left == 0.0
    assert budget.shortage(0.0)
    assert not Budget(None).shortage(1e9)
    done = [{"wall_seconds": wall, "work_seconds": 2.0} for wall in (2.0, 6.0, 4.0)]
    assert pace_of([*done, {"skipped": "time"}], 9.0) == 2.0
    assert pace_of([{"skipped": "time"}], 9.0) == 9.0


class Processes:
    """Processes that are made up: each does what a function does with the results and says how it ended."""

    def __init__(self, *ends: Callable[[Kept, Sequence[str]], int | None]) -> None:
        self.ends, self.asked = list(ends), []

    def __call__(self, arguments: Sequence[str], seconds: float) -> int | None:
        words = list(arguments)
        self.asked.append(words)
        own = opened(Path(words[words.index("--out") + 1]), since=float(words[words.index("--since") + 1]))
        return self.ends.pop(0)(own, words)


def crash(own: Kept, words: Sequence[str]) -> int:
    own.content["under_way"] = ["lanes", DIT, "speca"]
    own.write()
    return -11


def fine(own: Kept, words: Sequence[str]) -> int:
    assert own.settled("lanes", DIT, "speca"), "it is not tried again in the same call"
    own.keep("lanes", DIT, "cg_taylor", speedup=2.0)
    return 0


def only(processes: Processes, out: Path, **options: Any) -> dict[str, Any]:
    return run_whole(TINY, out, **{"parts": ("lanes",), "models": (DIT,), "policies": (), "budget": 500.0, "launch": processes, **options})


def test_a_process_that_dies_loses_one_piece_of_work(tmp_path: Path) -> None:
    """Law: what was under way says how it ended; another process goes on, and the next call tries it again."""
    found = only(Processes(crash, fine), tmp_path / "a.json")
    assert [(entry["policy"], entry["skipped"]) for entry in found["lanes"]] == [("speca", "its process ended with SIGSEGV"), ("cg_taylor", "")]
    assert not found["done"]
    again = Processes(lambda own, words: 0 if not own.settled("lanes", DIT, "speca") else 1)
    only(again, tmp_path / "a.json")
    assert len(again.asked) == 1


def test_a_group_without_anything_left_is_not_begun_again(tmp_path: Path) -> None:
    """Law: no process is started for nothing."""
    found = only(Processes(lambda own, words: own.keep("lanes", DIT, "cg_taylor", speedup=2.0) or 0), tmp_path / "a.json")
    assert found["finished"]
    assert only(Processes(), tmp_path / "a.json") == found


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (lambda own, words: None, "it took longer than 390 s before anything was under way"),
        (lambda own, words: 2, "its process ended with exit status 2 before anything was under way"),
        (lambda own, words: None if own.content.update(under_way=["lanes", DIT, "speca"]) or own.write() is None else 0, "speca: it took longer than 390 s"),
    ],
)
def test_a_process_that_hangs_or_fails_is_told_and_not_the_end(end: Any, says: str, tmp_path: Path) -> None:
    """Law: the next group is begun."""
    processes = Processes(end, lambda own, words: 0)
    found = only(processes, tmp_path / "a.json", parts=("lanes", "peers"))
    assert [words[words.index("--parts") + 1] for words in processes.asked] == ["lanes", "peers"]
    assert says in found["unfinished"][0]
    assert not found["finished"]


def test_a_lost_device_is_gone_on_with_in_another_process(tmp_path: Path) -> None:
    processes = Processes(lambda own, words: own.keep("lanes", DIT, "speca", skipped="CUDA error", for_good=True) or LOST, fine)
    assert only(processes, tmp_path / "a.json")["finished"]


def test_groups_are_in_order_of_worth_within_what_was_asked(tmp_path: Path) -> None:
    """Law: each part of each model once; with no time left none is begun, and each says so."""
    processes = Processes(*[lambda own, words: 0] * 20)
    found = only(processes, tmp_path / "a.json", parts=(), models=())
    assert len(processes.asked) == len(GROUPS)
    assert all(float(words[words.index("--until") + 1]) > 0 for words in processes.asked)
    own = [(part, model) for group in GROUPS for part in group.parts for model in group.models]
    assert len(own) == len(set(own))
    assert {model for _, model in own} == {shape.name for shape in shapes_of((), "published")}
    assert found["finished"]
    late = only(Processes(), tmp_path / "b.json", parts=(), models=(), budget=0.0)
    assert len(late["unfinished"]) == len(GROUPS)
    assert all("time is short" in said for said in late["unfinished"])
    asked = Processes(*[lambda own, words: 0] * 3)
    only(asked, tmp_path / "c.json", parts=("kernel", "peers"), models=("wan-1.3b",))
    assert [words[words.index("--parts") + 1] for words in asked.asked] == ["kernel", "peers"], "and what is in no group, where it is named"
    with pytest.raises(OptionError, match="parts='kernels' is unknown; write one of kernel, lanes"):
        only(Processes(), tmp_path / "d.json", parts=("kernels",))


def test_the_command_runs_a_group_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with the real process, and what it wrote is what is printed."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # as many threads there as here
    out = tmp_path / "a.json"
    words = ["bench", "gpu", "--scale", "tiny", "--device", "cpu", "--steps", "6", "--repeats", "1", "--full-steps", "1"]
    result = CliRunner().invoke(app, [*words, "--parts", "lanes", "--models", DIT, "--policies", "taylorseer-5-last", "--out", str(out), "--budget", "200"])
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert [(entry["policy"], entry["skipped"]) for entry in content["lanes"]] == [("taylorseer-5-last", "")]
    assert content["finished"]
    assert "taylorseer-5-last" in "".join(result.output.split())


def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole.sys, "executable", "/bin/sleep")
    monkeypatch.setattr(whole.subprocess, "Popen", lambda command, real=whole.subprocess.Popen, **options: real(["/bin/sleep", "60"], **options))
    assert whole._process([], 0.2) is None


def test_a_group_takes_what_later_ones_do_not_want(tmp_path: Path) -> None:
    """Law: while others wait a group has its own seconds, and where none does all that is left."""
    processes = Processes(*[lambda own, words: 0] * 2)
    before = time.time()
    only(processes, tmp_path / "a.json", parts=("ways",), models=(), budget=500.0)
    until = [float(words[words.index("--until") + 1]) - before for words in processes.asked]
    own = [group.seconds for group in GROUPS if "ways" in group.parts]
    assert until[0] == pytest.approx(500 - own[1], abs=20)
    assert until[1] == pytest.approx(495, abs=20)
