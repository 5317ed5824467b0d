"""The laws of the parts of `foreseer bench gpu` beside its lanes, on tiny shapes on the CPU."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import foreseer
from foreseer.bench.gpu import beside, checks, kept, kernel, ways
from foreseer.bench.gpu.kept import Kept
from foreseer.bench.gpu.settings import Settings
from foreseer.bench.gpu.suite import time_all
from foreseer.bench.gpu.tables import print_timings

CPU, DIT = torch.device("cpu"), "dit-xl-2-256"
TINY = Settings(scale="tiny", device="cpu", dtype="float32", steps=8, repeats=1, full_steps=1)
HOME = Path(foreseer.__file__).resolve().parents[1]


def opened(out: Path, **options: Any) -> Kept:
    return Kept.open(out, settings=attrs.asdict(TINY), note="", **options)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every part but the lanes, which have tests of their own, and the suite's tests."""
    out = tmp_path_factory.mktemp("gpu") / "a.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORESEER_NO_PLUGINS", "1")
        patch.setattr(kernel, "FEATURES", kernel.FEATURES[::5])
        time_all(TINY, (DIT,), (), out, parts=("kernel", "peers", "ways"))
        patch.setattr(ways, "WAYS", {"group offload": ways.WAYS["group offload"]})
        return time_all(TINY, ("flux-dev",), (), out, parts=("ways",))


def test_the_sum_alone_is_measured_against_its_floor_and_a_copy(measured: dict[str, Any]) -> None:
    """Law: of each feature the bytes are those of what is kept and the sum, and the sum is right."""
    assert len(measured["kernel"]) == len(kernel.FEATURES[::5])
    for entry in measured["kernel"]:
        assert not entry["skipped"]
        assert entry["bytes_moved"] == (entry["kept"] + 1) * entry["rows"] * entry["width"] * 4
        assert entry["over_floor"] == pytest.approx(entry["seconds"] / entry["floor_seconds"])
        assert entry["seconds"] == entry["tried"][entry["what"]] > 0
        assert entry["relative_error"] < 1e-5


def test_every_peer_is_timed_and_its_computed_steps_counted(measured: dict[str, Any]) -> None:
    """Law: those that compute every fifth step do; who decides by a threshold that none reaches computes the first."""
    found = {entry["peer"]: entry for entry in measured["peers"]}
    assert list(found) == [str(peer) for peer in beside.PEERS]
    assert not any(entry["skipped"] for entry in found.values())
    computed = {name: entry["steps_computed"] for name, entry in found.items()}
    assert {computed[str(peer)] for peer in beside.PEERS if peer.name in ("dbcache", "diffusers_taylorseer")} == {4}
    assert computed["first_block_cache:threshold=1000.0"] == 1
    assert all(entry["seconds_per_cached_step"] > 0 for entry in found.values() if entry["steps_computed"] < 8)


def test_every_way_has_figures_or_the_words_of_who_refuses(measured: dict[str, Any]) -> None:
    """Law: nothing is left out in silence, and what holds is the same to the rounding of the plain model's."""
    found = {(entry["model"], entry["way"]): entry for entry in measured["ways"]}
    tried = {(DIT, name) for name, way in ways.WAYS.items() if DIT in way.models} | {("flux-dev", "group offload")}
    assert found.keys() == tried
    assert found[DIT, "blocks in CUDA graphs"]["skipped"] == "CUDA graphs need CUDA"
    assert "does not support group offloading" in found[DIT, "group offload"]["skipped"]
    done = [entry for entry in measured["ways"] if not entry["skipped"]]
    assert {entry["way"] for entry in done} == {"blocks compiled", "features on the host", "group offload", "model compiled"}
    for entry in done:
        assert entry["apart"] < 1e-4
        for lane in entry["lanes"]:
            assert lane["refused"] or lane["speedup"] > 0
            falls_back = any("instead" in warning or "only its output" in warning for warning in lane.get("warnings", ()))
            assert lane["refused"] or falls_back or lane["apart"] < 1e-4
    (refused,) = [lane["refused"] for entry in done for lane in entry["lanes"] if lane["refused"]]
    assert "looks at single blocks, and the model is compiled as a whole" in refused


def test_tables_show_every_part(measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Law: each entry is named, with its figures or why there are none."""
    failed = {"selection": "tests", "skipped": "", "summary": "1 failed, 2 passed", "failed": ["FAILED a"], "exit_status": 1}
    print_timings({**measured, "checks": [failed], "unfinished": ["lanes: time is short"]})
    said = "".join(capsys.readouterr().out.split())
    for words in (
        "CUDA graphs need CUDA",
        "1 failed, 2 passed",
        "FAILED a",
        "lanes: time is short",
        "over floor",
        "cached ms",
        *(peer.name for peer in beside.PEERS),
    ):
        assert words.replace(" ", "") in said


def test_the_page_reads_every_part(measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: each entry is in a table or in the list of what was not measured, and without a file there is no section."""
    monkeypatch.syspath_prepend(str(HOME / "docs" / "_build"))
    page = importlib.import_module("evidence_gpu")
    assert not list(page.gpu_sections(tmp_path))
    waits = {"holds": False, "most": {"forecast": {"waits": 2, "allowed": 0}}, "said": "1 of 10 steps waited"}
    lane = {"model": DIT, "policy": "speca", "skipped": "", "steps": 50, "steps_computed": 5, "speedup": 2.0, "of_promised": 0.5, "peak_bytes": 10**9}
    lane |= {"seconds_per_full_step": 1.0, "seconds_per_forecast_step": 0.1, "forecast_over_floor": 1.5, "device_work": None, "waits": waits}
    short = {"model": DIT, "policy": "agreement", "skipped": "time is short"}
    failed = {"selection": "tests", "skipped": "", "summary": "1 failed", "failed": ["FAILED a"], "exit_status": 1}
    content = {**measured, "lanes": [lane, short], "checks": [failed], "unfinished": ["lanes wan-1.3b: late"]}
    (tmp_path / "gpu_here.json").write_text(json.dumps(content))
    said = "\n".join(page.gpu_sections(tmp_path))
    for part, key in (("lanes", "policy"), ("kernel", "feature"), ("peers", "peer"), ("ways", "way")):
        assert all(entry[key] in said for entry in content[part])
    assert all(entry["skipped"] in said for part in ("lanes", "ways") for entry in content[part])
    for words in (
        "forecast 2 (allowed 0)",
        "holds in 0 of 1 lanes",
        "1 of 10 steps waited",
        "1 failed",
        "FAILED a",
        "lanes wan-1.3b: late",
        "looks at single blocks",
    ):
        assert words in said
    (tmp_path / "gpu_here.json").write_text(
        json.dumps({**{part: [] for part in kept.NAMES}, **{k: content[k] for k in ("settings", "machine", "git", "versions")}, "bandwidth": None})
    )
    assert "Nothing was measured yet" in "\n".join(page.gpu_sections(tmp_path))


def test_tests_of_the_suite_are_run_from_a_checkout_and_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the summary line, and the names of what failed; without tests or pytest it says so."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_two.py").write_text("def test_a():\n    assert 1\n\ndef test_b():\n    assert 0\n")
    monkeypatch.setattr(checks, "SELECTION", ("test_two.py",))
    monkeypatch.setattr(checks, "_tests", lambda: tmp_path / "tests")
    own = opened(tmp_path / "a.json")
    checks.run_checks(own)
    (entry,) = own.content["checks"]
    assert entry["summary"].startswith("1 failed, 1 passed")
    assert entry["failed"] == ["FAILED test_two.py::test_b - assert 0"]
    monkeypatch.setattr(checks, "_tests", lambda: None)
    own = opened(tmp_path / "b.json")
    checks.run_checks(own)
    assert own.content["checks"][0]["skipped"] == "the tests are not here: run it from a checkout"


def test_the_selection_of_tests_is_there() -> None:
    assert checks._tests() == HOME / "tests"
