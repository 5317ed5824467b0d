"""Laws of `auto`: what it records is full computation and whole, what is like it shares a plan, and whatever lies in the folder, a run goes on."""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer import OUTPUT, OptionError, Run, Session, Site, Storage
from foreseer.adapters import ArrayBackbone
from foreseer.adapters.rows import latents_in_words
from foreseer.bench.cache_folder import cache_folder
from foreseer.errors import FileError, MissingPackageError
from foreseer.files import write_whole
from foreseer.schedule_plan import SchedulePlan
from foreseer.signature import Signature
from foreseer.workbench import Trace
from foreseer.workbench import auto as module
from foreseer.workbench.auto import Auto
from foreseer.workbench.few import plan_from_few

STEPS, DEPTH = 9, 3


def waves(rows: int = 2, *, broken: bool = False) -> ArrayBackbone:
    def feature(site: Site, t: int) -> Any:
        value = np.sin(np.arange(1, rows + 1)[:, None] * 0.05 * t**2 + np.arange(4)) + 2.0
        return (np.full_like(value, math.nan) if broken and t == 5 else value).astype(np.float32)

    return ArrayBackbone(feature, depth=DEPTH)


def run(folder: Path, *, host: Any = None, spec: str = "auto:steps=4,samples=2", upto: int | None = None, storage: Any = None, **other: Any) -> Any:
    """A run of a model by that name; what is kept of it lies in the folder."""
    host = host or waves()
    facts = {"rows": 2, "groups": (0, 1), "num_steps": STEPS, "model": "Waves-1", "scheduler": "S-1", "latent": "4 float32"} | other
    session = Session(host, foreseer.policy(spec, cache=str(folder)), Run(depth=DEPTH, sites=host.sites, **facts), storage=storage)
    try:
        for index in range(facts["num_steps"] if upto is None else upto):
            session.evaluate(index)
    finally:
        report = session.finish()
    return report


def recordings(folder: Path) -> list[Path]:
    return sorted(folder.rglob("run-*.safetensors"))


def test_the_first_samples_are_computed_and_recorded_and_the_next_follow_the_plan(tmp_path: Path) -> None:
    """Law: until so many samples are there every step is computed; what is kept are the outputs' inner products; from then on exactly
    the planned steps are computed, also by who never recorded anything.
    """
    for before in (0, 2):
        report = run(tmp_path, spec="auto:steps=4,samples=4")
        assert report.full_steps == list(range(STEPS))
        assert f"auto: {before} of 4 samples were recorded before" in report.warnings[0]
    outputs = np.stack([waves().forward(t, substitute={}, record=(OUTPUT,)).features[OUTPUT] for t in range(STEPS)], axis=1).astype(np.float64)
    for path in recordings(tmp_path):
        np.testing.assert_allclose(Trace.load(path).gram(OUTPUT), outputs @ outputs.swapaxes(1, 2), rtol=1e-6)
    plan = None
    for _ in range(2):
        report = run(tmp_path, spec="auto:steps=4,samples=4")
        (path,) = tmp_path.rglob("plan.json")
        assert plan is None or plan.read_bytes() == path.read_bytes()
        plan = path
        steps = SchedulePlan.load(path).budget(4).steps
        assert tuple(report.full_steps) == steps
        assert (steps[0], steps[-1]) == (0, STEPS - 1)
        assert f"planned from 4 samples: 4 of 9 steps, {'+'.join(map(str, steps))}" in report.warnings[0]
    assert len(recordings(tmp_path)) == 2
    assert "4 of 6 samples" in run(tmp_path, spec="auto:steps=4,samples=6").warnings[0]


@pytest.mark.parametrize(
    "other",
    [{"model": "Waves-2"}, {"scheduler": "S-2"}, {"num_steps": STEPS + 1}, {"timesteps": tuple(range(STEPS))}, {"latent": "8 float32"}, {"groups": (0, 0)}],
    ids=lambda other: next(iter(other)),
)
def test_runs_of_another_kind_are_recorded_by_themselves(other: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path)
    assert "auto: 0 of 2 samples" in run(tmp_path, **other).warnings[0]
    assert len({path.parent for path in recordings(tmp_path)}) == 2


def test_streams_share_a_plan_and_so_do_batches(tmp_path: Path) -> None:
    """Law: guidance in two calls computes both at the same steps, since it amplifies what makes them differ."""
    run(tmp_path, stream="cond")
    run(tmp_path, stream="uncond")
    steps = {
        tuple(run(tmp_path, host=waves(rows), stream=stream, rows=rows, groups=tuple(range(rows))).full_steps) for stream in ("", "cond") for rows in (1, 3)
    }
    assert [len(found) for found in steps] == [4]
    (path,) = tmp_path.rglob("plan.json")
    assert SchedulePlan.load(path).samples == 2


@pytest.mark.parametrize("what", [{"upto": STEPS - 1}, {"host": waves(broken=True)}], ids=["interrupted", "not finite"])
def test_what_is_not_whole_is_not_kept(what: Any, tmp_path: Path) -> None:
    run(tmp_path, **what)
    assert not recordings(tmp_path)


def test_a_damaged_file_is_told_of_and_written_anew(tmp_path: Path) -> None:
    run(tmp_path)
    good = run(tmp_path).full_steps
    (plan,), (recording,) = tmp_path.rglob("plan.json"), recordings(tmp_path)
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-40])
    report = run(tmp_path)
    assert report.full_steps == good
    assert "written anew" in report.warnings[0]
    assert plan.read_bytes() == whole
    plan.unlink()
    recording.write_bytes(recording.read_bytes()[:-40])
    report = run(tmp_path)
    assert "written anew" in report.warnings[0]
    assert "0 of 2 samples" in report.warnings[1]
    assert len(recordings(tmp_path)) == 1
    assert not any("anew" in warning for warning in run(tmp_path).warnings)


def test_what_has_no_room_is_computed_and_not_recorded(tmp_path: Path) -> None:
    report = run(tmp_path, storage=Storage(max_bytes=STEPS * 2 * 4 * 4 - 1))
    assert report.full_steps == list(range(STEPS))
    assert any("memory: this policy would hold" in warning for warning in report.warnings)
    assert not recordings(tmp_path)
    run(tmp_path, storage=Storage(max_bytes=STEPS * 2 * 4 * 4))
    assert recordings(tmp_path)


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    report = run(tmp_path / "file")
    assert report.full_steps == list(range(STEPS))
    assert "cannot be recorded" in report.warnings[0]

    def full(*given: Any) -> Path:
        raise FileError("no space left on device")

    monkeypatch.setattr(Trace, "save", full)
    assert run(tmp_path).full_steps == list(range(STEPS))
    monkeypatch.undo()
    run(tmp_path)
    monkeypatch.setattr(SchedulePlan, "save", full)
    report = run(tmp_path)
    assert len(report.full_steps) == 4
    assert "made anew for each run" in report.warnings[0]


def test_several_processes_follow_what_is_there_and_record_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_several_processes", lambda: True)
    assert "several processes" in run(tmp_path).warnings[0]
    assert not recordings(tmp_path)


@pytest.mark.parametrize(
    ("facts", "said"), [({"model": ""}, "does not say which model"), ({"num_steps": 3}, "4 to 100 steps"), ({"rows": 3, "groups": (0, 0, 1)}, "rows")]
)
def test_runs_that_cannot_be_planned_are_computed(facts: Any, said: str, tmp_path: Path) -> None:
    report = run(tmp_path, host=waves(facts.get("rows", 2)), **facts)
    assert said in report.warnings[0]
    assert report.full_steps == list(range(facts.get("num_steps", STEPS)))


def test_writers_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    contents, problems = [bytes([65 + n]) * 200_000 for n in range(6)], list[BaseException]()

    def write(content: bytes) -> None:
        try:
            for _ in range(5):
                write_whole(tmp_path / "file", content)
                assert (tmp_path / "file").read_bytes() in contents
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(st.integers(4, 8), st.integers(0, 10**6))
@settings(max_examples=15)
def test_a_plan_begins_and_ends_with_a_computed_step_and_more_steps_are_never_worse(num_steps: int, seed: int) -> None:
    features = np.cumsum(np.random.default_rng(seed).normal(size=(2, num_steps, 5)), axis=1)
    grams = {("", OUTPUT): features @ features.swapaxes(1, 2)}
    trace = Trace(signature=Signature(num_steps=num_steps), depth=1, labels=("", ""), grams=grams, target=OUTPUT)
    budgets = plan_from_few(trace, samples=2).budgets
    assert list(budgets) == list(range(2, num_steps + 1))
    for count, budget in budgets.items():
        assert (len(budget.steps), budget.steps[0], budget.steps[-1]) == (count, 0, num_steps - 1)
        assert budget.error <= budgets.get(count - 1, budget).error


def test_how_many_steps_are_asked_for(tmp_path: Path) -> None:
    def wanted(**options: Any) -> Any:
        (plugin,) = foreseer.policy("auto", cache=tmp_path, **options)()
        assert isinstance(plugin, Auto)
        return plugin.wanted

    run(tmp_path)
    run(tmp_path)
    plan = SchedulePlan.load(next(tmp_path.rglob("plan.json")))
    assert wanted().of(plan) == wanted(speedup=3).of(plan) == 3
    assert wanted(speedup=2).of(plan) == 4
    assert wanted(speedup=100).of(plan) == 2
    assert wanted(steps=50).of(plan) == STEPS
    counts = [wanted(target_psnr=float(psnr)).of(plan) for psnr in (0.01, 10, 20, 40, 200)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    with pytest.raises(OptionError, match=r"speedup=2.*steps=4.*write one of them"):
        wanted(speedup=2.0, steps=4)
    for option in ({"speedup": 1.0}, {"steps": 1}, {"target_psnr": 0.0}, {"samples": 0}):
        with pytest.raises(OptionError, match="is out of range"):
            wanted(**option)


def test_where_things_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESEER_CACHE", str(tmp_path / "set"))
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder(None) == tmp_path / "set"
    monkeypatch.delenv("FORESEER_CACHE")
    assert cache_folder(None).name == "foreseer"
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(MissingPackageError, match=r"foreseer\[diffusers\]"):
        cache_folder(None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingPackageError, match=r"safetensors.*foreseer\[diffusers\]"):
        foreseer.policy("auto", cache=str(tmp_path))


def test_a_latent_in_words() -> None:
    image, text = torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16), torch.zeros(2, 7, 3)
    assert latents_in_words((), {"hidden_states": image, "encoder_hidden_states": text}) == "4x8x8 bfloat16"
    assert latents_in_words((image[:1], text), {}) == "4x8x8 bfloat16"
    assert latents_in_words((list(image[:, :, None]), torch.zeros(2)), {}) == "4x1x8x8 bfloat16"
