"""The laws of ``foreseer bench gpu``, on tiny shapes of the same kinds. Nothing here depends on how fast a machine is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from typer.testing import CliRunner

import foreseer
from foreseer.__main__ import app
from foreseer.bench.gpu import making, suite
from foreseer.bench.gpu.lanes import FORCED, LANES, lane_of
from foreseer.bench.gpu.loop import Clock, Loop
from foreseer.bench.gpu.measure import timed_run
from foreseer.bench.gpu.memory import needs_of
from foreseer.bench.gpu.settings import Settings
from foreseer.bench.gpu.shapes import SCALES, calls_of, random_model, shapes_of, timesteps
from foreseer.bench.gpu.suite import time_all
from foreseer.errors import OptionError, PluginError

CPU, STEPS_HERE = torch.device("cpu"), 8
TINY = Settings(scale="tiny", device="cpu", dtype="float32", steps=STEPS_HERE, repeats=1, full_steps=1)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """All lanes on all models."""
    path = tmp_path_factory.mktemp("gpu") / "tiny.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORESEER_NO_PLUGINS", "1")  # as every test has it
        time_all(TINY, (), (), path)
    return json.loads(path.read_text()), path


def loop_of(name: str, steps: int, dtype: torch.dtype = torch.float32) -> Loop:
    (shape,) = shapes_of((name,), "tiny")
    return Loop(random_model(shape, device=CPU, dtype=dtype), calls_of(shape, device=CPU, dtype=dtype), timesteps(shape, steps, device=CPU, dtype=dtype))


def lane_in(content: dict[str, Any], model: str, policy: str) -> dict[str, Any]:
    return next(lane for lane in content["lanes"] if (lane["model"], lane["policy"]) == (model, policy))


def test_every_lane_runs_on_every_model_and_says_everything(timed: tuple[dict[str, Any], Path]) -> None:
    """Law: each model has each lane once, with every figure, or the reason why it was skipped."""
    content, _ = timed
    assert [(lane["model"], lane["policy"]) for lane in content["lanes"]] == [(model, policy) for model in SCALES["tiny"] for policy in LANES]
    skipped = {(lane["model"], lane["policy"]) for lane in content["lanes"] if lane["skipped"]}
    unpublished = {(model, policy) for policy, models in FORCED.items() for model in SCALES["tiny"] if model not in models}
    missing = {(model, "first_block_cache") for model in FORCED["first_block_cache"]}
    assert skipped == unpublished | missing
    assert all("foreseer-methods, which is not installed" in lane_in(content, *lane)["skipped"] for lane in missing)
    done = [lane for lane in content["lanes"] if not lane["skipped"]]
    assert all(lane.keys() == done[0].keys() for lane in done)
    unknown = {key for lane in done for key, value in lane.items() if value is None}
    assert unknown <= {"peak_bytes", "full_peak_bytes", "device_work", "waits", "seconds_per_rejected_step"}, (
        "the CPU counts neither peak nor kernels, and not every gate rejects"
    )
    assert all(lane["steps_computed"] < STEPS_HERE and lane["seconds_per_run"] > 0 and lane["history_bytes"] > 0 for lane in done)
    assert content["finished"]
    assert content["under_way"] is None
    assert "of quality nothing is said" in content["note"]
    assert set(content["models"]) == set(SCALES["tiny"])


def test_guidance_in_two_calls_has_two_histories_and_one_decision(timed: tuple[dict[str, Any], Path]) -> None:
    """Law: what the pipeline of each model does is done: Wan calls twice, DiT once with two rows, the others once."""
    content, _ = timed
    calls = {model: (facts["calls_per_step"], facts["rows_per_call"]) for model, facts in content["models"].items()}
    assert calls == {"flux-dev": (1, 1), "dit-xl-2-256": (1, 2), "hunyuan-video": (1, 1), "wan-1.3b": (2, 1)}
    lane = lane_in(content, "wan-1.3b", "cg_taylor")
    assert len(lane["streams"]) == 2
    loop, wan = loop_of("wan-1.3b", 10), lane_of("cg_taylor", "wan-1.3b")
    assert wan is not None
    reports = list(timed_run(loop, wan, Clock(CPU)).reports.values())
    assert reports[0].full_steps == reports[1].full_steps
    assert reports[0].judged.any()
    assert not reports[1].judged.any()


def test_forecasts_hold_as_many_features_as_the_order_wants_and_no_more() -> None:
    """Law: module-level TaylorSeer of order O holds O + 1 outputs of each forecast module, counted here by torch's own hooks."""
    loop, sizes = loop_of("flux-dev", 6), []
    parts = [m for n, m in loop.transformer.named_modules() if n.split(".")[-1] in ("ff", "ff_context", "proj_out") and n.count(".") == 2]
    parts += [m for n, m in loop.transformer.named_modules() if n.startswith("transformer_blocks") and n.endswith(".attn")]
    assert len(parts) == 2 * 3 + 2
    handles = [
        part.register_forward_hook(lambda module, args, out: sizes.extend(t.nbytes for t in (out if isinstance(out, tuple) else (out,)))) for part in parts
    ]
    loop(Clock(CPU).mark, 1)
    for handle in handles:
        handle.remove()
    for order in (0, 1, 2):
        spec = foreseer.policy("taylorseer", max_order=order, interval=3, warmup_steps=1)
        with foreseer.attach(loop, spec) as attached:
            loop(Clock(CPU).mark)
        assert sum(attached.report.bytes_held.values()) == (order + 1) * sum(sizes)


def test_what_a_forecast_must_move_is_what_it_sums(timed: tuple[dict[str, Any], Path]) -> None:
    """Law: order 1 reads two features and writes one; of the last block alone where it alone is forecast."""
    content, _ = timed
    last = lane_in(content, "flux-dev", "taylorseer-5-last")
    feature = (512 + 16) * 16 * 4  # 512 tokens of text and 16 of image, 16 wide, float32
    assert (last["forecast_bytes_read"], last["forecast_bytes_written"], last["history_bytes"]) == (2 * feature, feature, 2 * feature)
    parts = lane_in(content, "flux-dev", "taylorseer-5")
    assert parts["forecast_bytes_read"] == 2 * parts["forecast_bytes_written"] == parts["history_bytes"]
    gated = lane_in(content, "flux-dev", "cg_taylor")  # the first block is compared, the last one used, both of order 1
    assert gated["forecast_bytes_read"] == 4 * feature


def test_the_same_command_goes_on_with_what_is_there(timed: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what was timed is not timed again; other lanes may be added; other settings are refused."""
    content, path = timed
    (tmp_path / "copy.json").write_text(path.read_text())
    asked: list[str] = []
    monkeypatch.setattr(suite, "lane_figures", lambda loop, lane, **others: asked.append(lane.name) or {"speedup": 1.0})
    assert time_all(TINY, (), (), tmp_path / "copy.json")["lanes"] == content["lanes"], "what cannot be is not even said again"
    assert not asked
    time_all(TINY, ("flux-dev",), ("speca", "reuse:interval=2"), tmp_path / "copy.json")
    assert asked == ["reuse:interval=2"]
    with pytest.raises(OptionError, match=r"steps was 8, is 9.*--restart"):
        time_all(Settings(**{**attrs.asdict(TINY), "steps": 9}), (), (), tmp_path / "copy.json")
    time_all(TINY, ("flux-dev",), ("speca",), tmp_path / "copy.json", restart=True)
    assert asked == ["reuse:interval=2", "speca"]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(OptionError, match="holds no timings"):
        time_all(TINY, (), (), tmp_path / "other.json")


def test_an_interruption_keeps_finished_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: Ctrl-C loses the lane under way, exits with 130, and the same command goes on."""
    real, seen = suite.lane_figures, []

    def interrupted(loop: Any, lane: Any, **others: Any) -> Any:
        seen.append(lane.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(loop, lane, **others)

    monkeypatch.setattr(suite, "lane_figures", interrupted)
    out = tmp_path / "results" / "a.json"
    words = [
        "bench",
        "gpu",
        "--here",
        "--parts",
        "lanes",
        "--scale",
        "tiny",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--steps",
        "4",
        "--repeats",
        "2",
        "--models",
        "flux-dev",
    ]
    words += ["--policies", "taylorseer-5", "taylorseer-5-last"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130
    assert "Not finished: the same command goes on" in result.output
    assert [lane["policy"] for lane in json.loads(out.read_text())["lanes"]] == ["taylorseer-5"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert seen == ["taylorseer-5", "taylorseer-5-last", "taylorseer-5-last"]
    assert "of quality nothing is said" in " ".join(result.output.split())


def test_short_memory_skips_lanes_and_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a lane is skipped before anything is allocated; lanes that hold less are not; and what was skipped is tried again."""
    (shape,) = shapes_of(("flux-dev",), "tiny")
    specs = {name: lane_of(name, "flux-dev").spec for name in ("taylorseer-5", "taylorseer-5-last")}
    parts, last = needs_of(shape, specs, steps=STEPS_HERE, dtype=torch.float32).values()
    between = last.parameters + last.activations + (last.history + parts.history) // 2
    monkeypatch.setattr(suite, "free_bytes", lambda device: between)
    monkeypatch.setattr(suite, "lane_figures", lambda loop, lane, **others: {})
    lanes = ("taylorseer-5", "taylorseer-5-last")
    found = time_all(TINY, ("flux-dev",), lanes, tmp_path / "a.json")["lanes"]
    assert [bool(lane["skipped"]) for lane in found] == [True, False]
    assert "memory is short: " in found[0]["skipped"]
    assert " for features" in found[0]["skipped"]
    monkeypatch.setattr(making, "random_model", lambda *args, **others: pytest.fail("it was built"))
    monkeypatch.setattr(suite, "free_bytes", lambda device: 0)
    assert all(lane["skipped"] for lane in time_all(TINY, (), lanes, tmp_path / "b.json")["lanes"])
    monkeypatch.undo()
    monkeypatch.setattr(suite, "lane_figures", lambda loop, lane, **others: {})
    assert not any(lane["skipped"] for lane in time_all(TINY, ("flux-dev",), lanes, tmp_path / "a.json")["lanes"])


def test_memory_that_runs_out_ends_a_lane_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: where the estimate was wrong, the lane says so and the next one is timed."""

    def short(loop: Any, lane: Any, **others: Any) -> dict[str, Any]:
        if lane.name == "taylorseer-5":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return {}

    monkeypatch.setattr(suite, "lane_figures", short)
    found = time_all(TINY, ("flux-dev",), ("taylorseer-5", "taylorseer-6"), tmp_path / "a.json")["lanes"]
    assert found[0]["skipped"] == "memory ran out, against the estimate: CUDA out of memory. Tried to allocate 2 GiB"
    assert not found[1]["skipped"]


@pytest.mark.parametrize("model", list(SCALES["tiny"]))
def test_models_run_in_bfloat16_on_their_inputs(model: str) -> None:
    """Law: weights are bfloat16 but for what the class keeps in float32, and outputs are finite."""
    loop = loop_of(model, 2, torch.bfloat16)
    kept = getattr(loop.transformer, "_keep_in_fp32_modules", None) or ()
    for name, parameter in loop.transformer.named_parameters():
        assert parameter.dtype == (torch.float32 if set(kept) & set(name.split(".")) else torch.bfloat16), name
    assert loop(Clock(CPU).mark).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale": "huge"}, "scale='huge' is unknown; write one of published, tiny"),
        ({"steps": 0}, "steps=0 is out of range"),
        ({"repeats": 0}, "repeats=0 is out of range"),
        ({"full_steps": 9}, "full_steps=9 is out of range; write a whole number from 1 to steps=8"),
        ({"device": "abacus"}, "device='abacus' is unknown"),
        ({"device": "meta"}, "device='meta' is unknown"),
        ({"dtype": "int8"}, "dtype='int8' is unknown; write one of float32, bfloat16"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Law: errors name the option, the value and what to write, and nothing is written."""
    with pytest.raises(OptionError, match=says):
        time_all(Settings(**{**attrs.asdict(TINY), **changes}), (), (), tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("models", "policies", "says"),
    [
        (("flux",), (), "models='flux' is not there at scale='tiny'; write one of flux-dev"),
        ((), ("taylorseer-1",), "policies='taylorseer-1' is unknown; write one of taylorseer-5"),
        ((), ("spca:threshold=0.2",), "did you mean 'speca'"),
        ((), ("speca:treshold=0.2",), "did you mean 'threshold'"),
    ],
)
def test_names_that_are_not_there_are_refused(models: tuple[str, ...], policies: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """Law: as above."""
    with pytest.raises((OptionError, PluginError), match=says):
        time_all(TINY, models, policies, tmp_path / "a.json")


def test_a_device_that_is_not_there_is_told_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: one line, exit status 2."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["bench", "gpu", "--out", str(tmp_path / "a.json")])
    assert result.exit_code == 2
    assert "torch finds no CUDA device; write --device cpu --scale tiny" in result.output
