"""The laws of `foreseer bench run`: pairing, resumption, interruption, and what full computation and doing nothing come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from tiny import TINY
from tiny.common import accepted, drawn, wan_vae
from torch import Tensor
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.counting import count_blocks, count_cost
from foreseer.bench.families import DiTFamily, PipelineFamily, decode_flux, decode_wan
from foreseer.bench.harness import run_benchmark
from foreseer.bench.results import FILE, Results
from foreseer.bench.settings import BenchSettings
from foreseer.bench.store import Store
from foreseer.bench.summary import lines_of
from foreseer.bench.workload import HERE, Workload, blocks_of, load_workload
from foreseer.errors import OptionError
from foreseer.presets import Measured, Preset
from foreseer.registry import parse_policy
from foreseer.registry import policy as named
from foreseer.signature import Signature
from foreseer.zoo.dit import CONFIG, build

POLICIES = ("none", "taylorseer:interval=2,warmup_steps=1,max_order=1", "speca:threshold=0.5,warmup_steps=1")
DEPTH, STEPS = 3, 6


@pytest.fixture(scope="module")
def tiny() -> DiTFamily:
    torch.manual_seed(0)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": DEPTH})
    return DiTFamily(model=model.eval().requires_grad_(False))


@pytest.fixture(autouse=True)
def small_families(tiny: DiTFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HERE, "dit", lambda device, dtype: tiny)


def settings(**changes: Any) -> BenchSettings:
    given: dict[str, Any] = {"workload": "dit", "samples": 3, "batch": 2, "steps": STEPS, "repeats": 2, "lanes": [parse_policy(p) for p in POLICIES]}
    return BenchSettings(**{**given, **changes, "lanes": tuple({**given, **changes}["lanes"])})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny: DiTFamily) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HERE, "dit", lambda device, dtype: tiny)
        return run_benchmark(settings(), tmp_path_factory.mktemp("bench"))


def without_times(folder: Path) -> Any:
    content = json.loads((folder / FILE).read_text())
    for lane in content["lanes"]:
        for unit in lane["units"]:
            for name in ("seconds", "full_seconds", "clock_seconds"):
                unit[name] = len(unit[name])
        for report in lane["reports"].values():
            for step in report["steps"]:
                del step["seconds"]
    return content


def test_policy_none_is_full_computation(results: Results) -> None:
    """Law: doing nothing is bit for bit full computation, and costs as much."""
    full, none = results.full(2), results.lane("none")
    assert np.isposinf(none.values("psnr")).all()
    assert not any(none.values("latent_error"))
    assert results.cost(none) == 1.0
    assert none.steps == [STEPS] * 3
    assert none.counted.flops == full.counted.flops
    assert none.counted.held_bytes - full.counted.held_bytes <= 1000, "the texts by which calls are told apart, here labels"
    assert none.frechet == full.frechet


def test_fewer_steps_stand_beside_every_lane(results: Results) -> None:
    """Law: each lane that saved steps has a lane of plain sampling with as many beside it."""
    for line in lines_of(results, 2):
        if line.lane.kind == "policy" and round(line.steps) < STEPS:
            beside = results.lane(line.fewer)
            assert beside.num_steps == int(line.steps + 0.5)
            assert beside.steps == [beside.num_steps] * 3
            assert np.isfinite(line.gain)


def test_every_lane_but_full_is_timed_beside_full_computation(results: Results) -> None:
    """Law: a lane has as many pairs as the settings say, over all its batches."""
    for lane in results.lanes:
        pairs = sum(len(unit.seconds) for unit in lane.units)
        assert pairs == sum(len(unit.full_seconds) for unit in lane.units) == (0 if lane.kind == "full" else 2)


def test_what_is_counted_from_outside_is_what_the_report_says(tiny: DiTFamily) -> None:
    """Law: counters in linear layers see the block-rows that a policy's report counts, those of its self-check added."""
    for policy in POLICIES:
        with count_blocks(blocks_of(tiny)) as calls, tiny.attached(parse_policy(policy), num_steps=STEPS, samples=2) as attached:
            tiny.draw([0, 1], seed=0, num_steps=STEPS, guidance=1.5)
        assert calls.block_rows == attached.report.block_rows + attached.report.check_block_rows
        assert not any("forward" in module.__dict__ for module in tiny.model.modules())


def test_flops_are_those_of_the_blocks_formula(tiny: DiTFamily) -> None:
    """Law: what torch counts is twice the multiplications of every linear layer, attention and the patch embedding."""
    rows, tokens, width, heads = 2, 64, 32, 2
    with count_cost(torch.device("cpu")) as cost:
        tiny.draw([0], seed=0, num_steps=1, guidance=1.5)
    linear = sum(2 * m.weight.numel() * (tokens if per_token(name) else 1) for name, m in tiny.model.named_modules() if isinstance(m, torch.nn.Linear))
    attention = DEPTH * heads * 2 * (2 * tokens * tokens * (width // heads))
    # diffusers reads the first block's embedder once more, for the head
    again = sum(2 * m.weight.numel() for m in tiny.model.transformer_blocks[0].norm1.emb.modules() if isinstance(m, torch.nn.Linear))
    assert cost.flops == rows * (linear + attention + 2 * tokens * width + again)
    assert cost.peak_bytes > 0


def test_what_is_held_is_what_lives_on_and_the_peak_is_no_less() -> None:
    with count_cost(torch.device("cpu")) as cost:
        kept = [torch.ones(1000) + 1 for _ in range(3)]
        torch.ones(5000).add(1)
    assert cost.held_bytes == sum(tensor.nbytes for tensor in kept) == 12_000
    assert cost.peak_bytes >= cost.held_bytes + 2 * 20_000


def per_token(name: str) -> bool:
    return name == "proj_out_2" or (name.startswith("transformer_blocks") and "norm" not in name)


@pytest.mark.parametrize("batches", [(1, 4), (2, 3)])
def test_a_sample_begins_with_its_own_noise_whatever_the_batch(batches: tuple[int, int], tiny: DiTFamily) -> None:
    """Law: pairing. Noise and condition depend on index and seed only."""
    found = [torch.cat([tiny.draw(range(i, min(i + b, 4)), seed=3, num_steps=2, guidance=1.5) for i in range(0, 4, b)]) for b in batches]
    assert torch.allclose(*found, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], tiny.draw(range(4), seed=4, num_steps=2, guidance=1.5), rtol=0.1)


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(tmp_path: Path) -> None:
    """Law: stopped after any unit and started again, the file is that of a run without a stop, times excepted."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    chosen = settings(steps=3, repeats=1, lanes=[parse_policy("taylorseer:interval=2,warmup_steps=1")])
    run_benchmark(chosen, whole)
    units = []

    def stop_at_third(what: str, done: int, total: int) -> None:
        units.append(what)
        if len(units) in (1, 4, 7):
            raise KeyboardInterrupt

    stops = 0
    while True:
        try:
            run_benchmark(chosen, parts, tell=stop_at_third)
            break
        except KeyboardInterrupt:
            stops += 1
            if (parts / FILE).exists():
                assert sum(len(lane.units) for lane in Results.load(parts).lanes) == len(units) - stops
                assert not Results.load(parts).finished
    assert stops == 3
    assert without_times(parts) == without_times(whole)
    assert not list(parts.rglob("*.part"))


def test_a_finished_run_is_read_and_not_repeated(tmp_path: Path) -> None:
    """Law: the same command on finished results computes nothing and changes nothing."""
    chosen = settings(repeats=0, lanes=[parse_policy("none")])
    done = run_benchmark(chosen, tmp_path)
    told: list[str] = []
    assert run_benchmark(chosen, tmp_path, tell=lambda what, *_: told.append(what)) == done
    assert not told
    assert Results.load(tmp_path) == done


def test_changed_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    """Law: results of different settings never mix; --restart begins anew."""
    run_benchmark(settings(repeats=0, lanes=[]), tmp_path)
    with pytest.raises(OptionError, match=r"seed was 0, is 1.*--restart"):
        run_benchmark(settings(repeats=0, lanes=[], seed=1), tmp_path)
    assert run_benchmark(settings(repeats=0, lanes=[], seed=1), tmp_path, restart=True).seed == 1


def test_a_policy_that_fails_is_a_row_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: one lane's failure costs the others nothing."""
    lanes = [parse_policy("speca:verify_block=7"), parse_policy("none")]  # this model has three blocks
    found = run_benchmark(settings(repeats=0, lanes=lanes), tmp_path)
    assert "verify_block=7" in found.lane("speca:verify_block=7").error
    assert found.lane("none").indices == [0, 1, 2]
    assert found.finished


def test_what_failed_is_tried_again_by_the_same_command(tmp_path: Path, tiny: DiTFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a passing cause costs a lane nothing: what was finished stays, the rest is drawn, and the error is gone."""
    chosen, given = settings(repeats=0, lanes=[parse_policy(POLICIES[1])]), DiTFamily.attached
    calls = []

    def fail_second(self: DiTFamily, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("the wind blew")
        return given(self, *args, **kwargs)

    monkeypatch.setattr(DiTFamily, "attached", fail_second)
    found = run_benchmark(chosen, tmp_path)
    assert (found.lane(POLICIES[1]).error, len(found.lane(POLICIES[1]).units)) == ("RuntimeError: the wind blew", 1)
    again = run_benchmark(chosen, tmp_path)
    assert (again.lane(POLICIES[1]).error, again.lane(POLICIES[1]).indices) == ("", [0, 1, 2])
    assert len(calls) == 3
    assert again.lane(POLICIES[1]).units[0] == found.lane(POLICIES[1]).units[0]


def test_a_full_disk_is_no_fault_of_a_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what cannot be written ends the run, and what was finished goes on once there is room."""
    chosen, keep, kept = settings(repeats=0, lanes=[parse_policy("none")]), Store.keep, []

    def full(self: Store, *args: Any) -> None:
        kept.append(args)
        if len(kept) == 3:
            raise OSError(28, "No space left on device")
        keep(self, *args)

    monkeypatch.setattr(Store, "keep", full)
    with pytest.raises(OSError, match="No space left"):
        run_benchmark(chosen, tmp_path)
    assert not any(lane.error for lane in Results.load(tmp_path).lanes)
    found = run_benchmark(chosen, tmp_path)
    assert found.finished
    assert len(kept) == 5


def test_samples_that_are_gone_or_damaged_are_drawn_again(tmp_path: Path) -> None:
    """Law: an unfinished run needs what it drew; a file that is gone is made again, one that is damaged is named."""
    chosen = settings(repeats=0, lanes=[parse_policy(POLICIES[1])])

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("full, 3 steps"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_benchmark(chosen, tmp_path, tell=stop)
    first = sorted((tmp_path / "samples").glob("2-full-*.npz"))[0]
    was = first.read_bytes()
    first.write_bytes(was[:100])
    with pytest.raises(OptionError, match=f"{first.name}' is damaged.*delete it"):
        run_benchmark(chosen, tmp_path)
    first.unlink()
    told: list[str] = []
    assert run_benchmark(chosen, tmp_path, tell=lambda what, *_: told.append(what)).finished
    assert told == ["full, batch 1 of 2", "full, 3 steps, batch 1 of 2", "full, 3 steps, batch 2 of 2"]
    assert first.read_bytes() == was


def test_a_lane_that_is_tried_again_costs_the_finished_ones_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: in a folder whose samples are gone, only full computation is drawn again beside it."""
    lanes = [parse_policy("none"), parse_policy("speca:verify_block=7")]
    first = run_benchmark(settings(repeats=0, lanes=lanes), tmp_path)
    for file in (tmp_path / "samples").glob("*.npz"):
        file.unlink()
    told: list[str] = []
    again = run_benchmark(settings(repeats=0, lanes=lanes), tmp_path, tell=lambda what, *_: told.append(what.partition(",")[0]))
    assert set(told) == {"full", "speca:verify_block=7"}
    assert again.lane("none") == first.lane("none")
    assert again.finished


def test_a_package_that_was_missing_may_be_installed_meanwhile(tmp_path: Path) -> None:
    """Law: a peer that failed for want of its package is tried again; another version of one that was there is refused."""
    chosen = settings(repeats=0, lanes=[])
    done = run_benchmark(chosen, tmp_path)
    attrs.evolve(done, versions={k: v for k, v in done.versions.items() if k != "scikit-image"}).save(tmp_path)
    assert run_benchmark(chosen, tmp_path).versions == done.versions
    attrs.evolve(done, versions={**done.versions, "torch": "0.1"}).save(tmp_path)
    with pytest.raises(OptionError, match=r"version of torch was 0\.1"):
        run_benchmark(chosen, tmp_path)


def test_mixed_batches_hold_easy_and_hard_samples_and_are_kept(tmp_path: Path) -> None:
    """Law: samples are paired by their numbers whichever batch they are in, and a run that goes on keeps its batches."""
    chosen = settings(samples=4, repeats=0, lanes=[parse_policy(POLICIES[1])])
    plain, together = run_benchmark(chosen, tmp_path / "a"), run_benchmark(attrs.evolve(chosen, together="mixed"), tmp_path / "b")
    for name in ("full", POLICIES[1]):
        one, other = (dict(zip(found.lane(name).indices, found.lane(name).values("latent_error"), strict=True)) for found in (plain, together))
        assert one.keys() == other.keys() == set(range(4))
        assert all(one[i] == pytest.approx(other[i], rel=1e-3, abs=1e-6) for i in one)
    assert [unit.indices for unit in together.lane("full").units] == [unit.indices for unit in together.lane(POLICIES[1]).units]
    assert run_benchmark(attrs.evolve(chosen, together="mixed"), tmp_path / "b") == together
    assert together.batches == {"2": tuple(unit.indices for unit in together.lane("full").units)}
    other = tuple(tuple(reversed(batch)) for batch in together.batches["2"])
    attrs.evolve(together, batches={"2": other}, lanes=(), finished=False).save(tmp_path / "b")
    again = run_benchmark(attrs.evolve(chosen, together="mixed"), tmp_path / "b")
    assert [unit.indices for unit in again.lane("full").units] == list(other), "batches are those that were dealt first"
    with pytest.raises(OptionError, match="together was None, is mixed"):
        run_benchmark(attrs.evolve(chosen, together="mixed"), tmp_path / "a")


def test_a_lane_whose_preset_was_tuned_on_something_else_is_a_row_that_says_so(tmp_path: Path, tiny: DiTFamily) -> None:
    """Law: a preset runs on what it was tuned on; elsewhere nothing is drawn under its name, the row says what differs, and the other lanes go on."""
    with tiny.attached(parse_policy("none"), num_steps=STEPS, samples=1) as attached:
        tiny.draw([0], seed=0, num_steps=STEPS, guidance=tiny.guidance)
    run = next(iter(attached.reports.values())).run
    fits = Signature(model=run.model, scheduler=run.scheduler, num_steps=STEPS, timesteps=run.timesteps)
    measured = Measured(samples=1, first=0, seed=0, block_rows_ratio=0.5, steps_computed=3.0, psnr_mean=30.0, psnr_worst=30.0)
    for name, signature, says in (
        ("fits", fits, ""),
        ("model", attrs.evolve(fits, model="Another-000000000000"), f"model Another-000000000000 before, {run.model} now"),
        ("steps", attrs.evolve(fits, num_steps=9, timesteps=()), "9 steps before, 6 now"),
    ):
        preset = Preset(name="mine", policy=POLICIES[1], signature=signature, tuned=measured)
        lanes = [parse_policy(POLICIES[0]), named(preset)]
        found = run_benchmark(settings(repeats=0, lanes=lanes), tmp_path / name)
        lane = found.lane(POLICIES[1])
        assert (says in lane.error) if says else not lane.error
        assert len(lane.units) == (0 if says else 2)
        assert found.lane("none").indices == [0, 1, 2]
        assert found.finished


def test_several_batch_sizes_are_lanes_of_their_own(tmp_path: Path) -> None:
    """Law: at each batch size a lane is compared with full computation at that size."""
    found = run_benchmark(settings(repeats=0, batch=[1, 3], lanes=[parse_policy("none")]), tmp_path)
    assert [(lane.name, lane.batch) for lane in found.lanes] == [("full", 1), ("none", 1), ("full", 3), ("none", 3)]
    assert all(np.isposinf(found.lane("none", batch).values("psnr")).all() for batch in (1, 3))


def test_results_of_another_major_schema_are_refused(tmp_path: Path, results: Results) -> None:
    """Law: a file is read as what it is, or not at all; keys of later minor versions are left out."""
    results.save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**content, "schema": "1.9", "novelty": 1}))
    assert attrs.evolve(Results.load(tmp_path), schema=results.schema) == results
    (tmp_path / FILE).write_text(json.dumps({**content, "schema": "2.0"}))
    with pytest.raises(OptionError, match=r"schema '2\.0'"):
        Results.load(tmp_path)


@pytest.mark.parametrize("broken", [{"lanes": [{"name": "full"}]}, {"lanes": 3}, {"family": None, "lanes": [3]}])
def test_a_file_that_no_benchmark_wrote_is_told(tmp_path: Path, results: Results, broken: dict[str, Any]) -> None:
    """Law: what is incomplete is refused by name."""
    results.save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**content, **broken}))
    with pytest.raises(OptionError, match="is not what a benchmark writes"):
        Results.load(tmp_path)


def flux_family() -> Workload:
    pipe = TINY["FluxPipeline"].build()
    pipe.default_sample_size = 8

    def arguments(indices: Any, guidance: float) -> dict[str, Any]:
        text: Tensor = torch.stack([drawn(str(i), 6, 16) for i in indices])
        return {"prompt_embeds": text, "pooled_prompt_embeds": text[:, 0], "guidance_scale": guidance}

    return PipelineFamily(name="flux", pipeline=pipe, arguments=arguments, decoder=decode_flux)


def wan_family() -> Workload:
    pipe = TINY["WanPipeline"].build()
    pipe.vae = wan_vae(pipe.transformer.config.in_channels)

    def arguments(indices: Any, guidance: float) -> dict[str, Any]:
        width = pipe.transformer.config.text_dim
        text: Tensor = torch.stack([drawn(str(i), 6, width) for i in indices])
        shape = {"height": 16, "width": 16, "num_frames": 5}
        return {"prompt_embeds": text, "negative_prompt_embeds": torch.zeros_like(text), "guidance_scale": guidance, **shape}

    return PipelineFamily(name="wan", pipeline=pipe, arguments=arguments, decoder=decode_wan, guidance=3.0)


@pytest.mark.parametrize("made", [flux_family, wan_family])
def test_pipelines_keep_the_same_laws(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with guidance in one call or in two, images or videos: doing nothing is full computation, and a schedule costs its share."""
    family = made()
    monkeypatch.setitem(HERE, "dit", lambda device, dtype: family)
    lanes = [parse_policy("none"), parse_policy("taylorseer:interval=2,warmup_steps=1")]
    with accepted():
        found = run_benchmark(settings(samples=2, steps=4, repeats=1, lanes=lanes), tmp_path)
    none, schedule = found.lane("none"), found.lane(str(lanes[1]))
    assert np.isposinf(none.values("psnr")).all()
    assert found.cost(schedule) == pytest.approx(0.5)
    assert schedule.steps == [2.0, 2.0]
    assert found.lane("full, 2 steps").steps == [2.0, 2.0]
    assert ("temporal_psnr" in schedule.units[0].figures) == (family.name == "wan")
    assert len(schedule.reports) == (2 if family.name == "wan" else 1)


def test_a_family_that_is_not_there_says_what_is() -> None:
    """Law: errors name the value and what to write."""
    with pytest.raises(OptionError, match="workload='sd3' is unknown; write one of dit, fashion, fashion_unlike, flux, wan"):
        load_workload("sd3", device="cpu", dtype="float32")


SETTINGS = "workload = 'dit'\nsamples = 2\nbatch = 2\nsteps = 3\nrepeats = 0\n[[lanes]]\npolicy = 'none'\n"


def test_the_command_line_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: Ctrl-C ends with status 130 and keeps what is there; other settings end with 2 and a line that says what differs."""
    file, out = tmp_path / "small.toml", tmp_path / "out"
    file.write_text(SETTINGS)
    command = ["bench", "run", str(file), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "dit, 3 steps, 2 samples in batches of 2" in done.output
    file.write_text(SETTINGS.replace("steps = 3", "steps = 4"))
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "steps was 3, is 4" in " ".join(refused.output.split())

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foreseer.bench.harness.run_benchmark", interrupted)
    assert CliRunner().invoke(app, command).exit_code == 130
    assert Results.load(out).finished
