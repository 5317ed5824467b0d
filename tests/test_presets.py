"""The laws of presets: read as they were written or not at all, and refused where they were not tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY
from tiny.common import accepted
from torch import Tensor
from toy_family import STEPS, WIDTH, ToyModel, times_of

import foreseer
from foreseer import Run, Session
from foreseer.adapters import ArrayBackbone
from foreseer.adapters.identity import identity_of
from foreseer.bench.settings import read_settings
from foreseer.errors import ContractError, OptionError, PluginError
from foreseer.presets import Measured, find_preset
from foreseer.workbench import Preset, Signature
from foreseer.zoo import presets

POLICY = "taylorseer:interval=2,max_order=1,target=last_block,warmup_steps=1"
MEASURED = Measured(samples=4, first=0, seed=0, block_rows_ratio=0.5, steps_computed=5.0, psnr_mean=40.0, psnr_worst=30.0)


def preset_of(model: torch.nn.Module, **changes: Any) -> Preset:
    signature = Signature(model=identity_of(model), num_steps=STEPS, timesteps=times_of(STEPS))
    return Preset(name="mine", policy=POLICY, signature=attrs.evolve(signature, **changes), tuned=MEASURED, held_out=attrs.evolve(MEASURED, first=4))


@torch.no_grad()
def drawn(model: torch.nn.Module, num_steps: int = STEPS) -> Tensor:
    x = torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH)
    for t in times_of(num_steps):
        x = x - model(x, torch.full((2,), t)) / num_steps
    return x


@pytest.fixture
def model() -> ToyModel:
    return ToyModel().eval().requires_grad_(False)


numbers = st.floats(0.01, 100, allow_nan=False)


@given(ratio=numbers, mean=numbers, fewer=st.one_of(st.none(), numbers), about=st.text(max_size=8))
def test_a_file_is_read_as_it_was_written(ratio: float, mean: float, fewer: float | None, about: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Law: to the digit."""
    measured = attrs.evolve(MEASURED, block_rows_ratio=ratio, psnr_mean=mean, fewer_psnr_mean=fewer)
    preset = attrs.evolve(preset_of(ToyModel()), tuned=measured, held_out=None, about=about, found={"trials": 3, "search": ["a=0..1"]})
    file = preset.save(tmp_path_factory.mktemp("preset") / "p.json")
    assert Preset.load(file) == preset
    assert find_preset(file) == find_preset(str(file)) == find_preset(file.name, folder=file.parent) == preset
    assert not list(file.parent.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: {**content, "policy": "none"}, "its content has checksum [0-9a-f]{12}, it says"),
        (lambda content: {**content, "tuned": {**content["tuned"], "psnr_mean": 50.0}}, "was changed since"),
        (lambda content: {key: value for key, value in content.items() if key != "sha256"}, "it says None"),
        (lambda content: {**content, "format": "foreseer preset 2"}, "says it is 'foreseer preset 2', and this foreseer reads 'foreseer preset 1'"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_with_what_differs(change: Any, says: str, model: ToyModel, tmp_path: Path) -> None:
    """Law: a preset is what was measured, or it is none."""
    file = preset_of(model).save(tmp_path / "p.json")
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(OptionError, match=says) as caught:
        Preset.load(file)
    assert "p.json" in str(caught.value)


def test_what_is_not_json_or_not_there_is_refused(tmp_path: Path) -> None:
    """Law: errors name the file, and what there is."""
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(OptionError, match=r"text\.json' is not JSON"):
        find_preset(tmp_path / "text.json")
    with pytest.raises(OptionError, match=r"'.*tekst\.json' is neither a file nor a bundled preset; did you mean 'text\.json'.*there are text\.json"):
        find_preset(tmp_path / "tekst.json")
    with pytest.raises(OptionError, match="'nothing like it' is neither a file nor a bundled preset; bundled: "):
        find_preset("nothing like it")
    with pytest.raises(OptionError, match="preset=3 is a int"):
        find_preset(3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="psnr_mean=nan is no measurement"):
        attrs.evolve(MEASURED, psnr_mean=float("nan"))


def test_attaching_a_preset_is_attaching_its_policy(model: ToyModel, tmp_path: Path) -> None:
    """Law: bit for bit, by object and by file, and without a warning."""
    preset = preset_of(model)
    with foreseer.attach(model, "taylorseer", interval=2, max_order=1, target="last_block", warmup_steps=1) as attached:
        with attached.run(timesteps=times_of(STEPS)):
            truth = drawn(model)
    for given_preset in (preset, preset.save(tmp_path / "p.json")):
        with foreseer.attach(model, given_preset) as attached, attached.run(timesteps=times_of(STEPS)):
            assert torch.equal(drawn(model), truth)
        assert attached.report.policy == POLICY
        assert not attached.report.warnings


@pytest.mark.parametrize(
    ("policy", "options", "says"),
    [
        ("x.json", {}, "'x.json' is neither a file nor a bundled preset"),
        (..., {"interval": 3}, "preset 'mine' brings its options, and interval was given too"),
        (..., {"any_model": 1}, "any_model=1 is out of range; write True or False"),
        ("taylorseer", {"any_model": True}, "policy 'taylorseer' has no option 'any_model'"),
    ],
)
def test_a_preset_takes_no_options_but_one(policy: Any, options: dict[str, Any], says: str, model: ToyModel) -> None:
    """Law: whatever is refused leaves the model as it was."""
    with pytest.raises(OptionError, match=says):
        foreseer.attach(model, preset_of(model) if policy is ... else policy, **options)
    foreseer.attach(model, "none").detach()


def test_a_preset_is_written_wherever_a_policy_is(model: ToyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: as object, path, file's name and installed name, with any_model in the text or beside it, for loops of one's own too."""
    preset = preset_of(model)
    file = preset.save(tmp_path / "p.json")
    monkeypatch.chdir(tmp_path)
    for written in (preset, file, str(file), "p.json", "p.json:any_model=True"):
        spec = foreseer.policy(written)
        assert str(spec) == POLICY
        assert spec.preset == preset
        assert spec.any_model == (written == "p.json:any_model=True")
    assert foreseer.policy(foreseer.policy(preset), any_model=True).any_model
    bundled = foreseer.policy(sorted(presets())[0])
    assert bundled.preset == find_preset(sorted(presets())[0])
    with pytest.raises(PluginError, match="no policy is named 'digits'"):
        foreseer.policy("digits")
    with pytest.raises(OptionError, match="10 steps before, 3 now"):
        Session(ArrayBackbone(lambda site, t: np.zeros((1, 2)), depth=1), foreseer.policy(preset), Run(depth=1, rows=1, groups=(0,), num_steps=3))


def test_a_policy_that_is_not_installed_is_told(model: ToyModel) -> None:
    """Law: a preset is text until it is attached."""
    with pytest.raises(PluginError, match="no policy is named 'lost'"):
        foreseer.attach(model, attrs.evolve(preset_of(model), policy="lost:threshold=1"))


def test_another_model_is_refused_at_once(model: ToyModel) -> None:
    """Law: before anything is attached; with any_model the report says what differs."""
    other = ToyModel(width=4).eval().requires_grad_(False)
    with pytest.raises(OptionError, match=r"tuned elsewhere: model ToyModel-\w+ before, ToyModel-\w+ now; tune anew"):
        foreseer.attach(model, preset_of(other))
    with foreseer.attach(model, preset_of(other), any_model=True) as attached, attached.run(timesteps=times_of(STEPS)):
        drawn(model)
    assert [w for w in attached.report.warnings if "preset 'mine' was tuned elsewhere" in w and "model ToyModel" in w]


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ({"timesteps": times_of(STEPS + 2)}, "10 steps before, 12 now"),
        ({"num_steps": STEPS - 1}, "10 steps before, 9 now"),
        ({"timesteps": [t / 2 for t in times_of(STEPS)]}, "timesteps that differ by up to 500 of 1e"),
    ],
)
def test_another_schedule_is_refused_at_the_runs_start(run: dict[str, Any], says: str, model: ToyModel) -> None:
    """Law: nothing is forecast by what was not made for it; a run that fits may follow."""
    with foreseer.attach(model, preset_of(model)) as attached:
        with pytest.raises(OptionError, match=says), attached.run(**run):
            drawn(model)
        with pytest.raises(ContractError):
            _ = attached.report
        with attached.run(timesteps=times_of(STEPS)):
            drawn(model)
        assert not attached.report.warnings
    with foreseer.attach(model, preset_of(model), any_model=True) as attached, attached.run(**run):
        drawn(model)
    assert [w for w in attached.report.warnings if says.removesuffix("1e") in w]


def test_on_pipelines_the_scheduler_counts_too() -> None:
    """Law: on a real pipeline: a run that fits is driven, another scheduler is refused at once, another number of steps at the run's start."""
    kind = TINY["FluxPipeline"]
    pipe = kind.build()
    with accepted():
        with foreseer.attach(pipe, POLICY.partition(":")[0], interval=2, max_order=1, target="last_block", warmup_steps=1) as attached:
            truth = kind.call(pipe, steps=6)
        run = attached.report.run
        signature = Signature(model=run.model, scheduler=run.scheduler, num_steps=6, timesteps=run.timesteps)
        preset = Preset(name="tiny", policy=POLICY, signature=signature, tuned=MEASURED)
        with foreseer.attach(pipe, preset) as attached:
            assert torch.equal(kind.call(pipe, steps=6), truth)
            assert all("steps are few" in warning for warning in attached.report.warnings)
            with pytest.raises(OptionError, match="6 steps before, 5 now"):
                kind.call(pipe, steps=5)
            assert torch.equal(kind.call(pipe, steps=6), truth)
        elsewhere = attrs.evolve(preset, signature=attrs.evolve(signature, scheduler="Other-000000000000"))
        with pytest.raises(OptionError, match="scheduler Other-000000000000 before, FlowMatchEuler"):
            foreseer.attach(pipe, elsewhere)
        with foreseer.attach(pipe, elsewhere, any_model=True) as attached:
            kind.call(pipe, steps=5)
        warning = next(w for w in attached.report.warnings if "tuned elsewhere" in w)
        assert "scheduler Other" in warning
        assert "6 steps before, 5 now" in warning


def test_guidance_in_two_calls_is_two_streams_of_one_preset() -> None:
    """Law: every stream of a run is held to the preset, and fits where the run does."""
    kind = TINY["WanPipeline"]
    pipe = kind.build()
    with accepted():
        with foreseer.attach(pipe, "none") as attached:
            kind.call(pipe, steps=4)
        run = attached.report.run
        signature = Signature(model=run.model, scheduler=run.scheduler, num_steps=4, timesteps=run.timesteps)
        with foreseer.attach(pipe, Preset(name="tiny", policy=POLICY, signature=signature, tuned=MEASURED)) as attached:
            kind.call(pipe, steps=4)
        assert len(attached.reports) == 2
        assert all(report.policy == POLICY for report in attached.reports.values())
        said = [warning for report in attached.reports.values() for warning in report.warnings]
        assert all("steps are few" in warning or "first of 2 streams" in warning for warning in said)


def test_a_second_denoiser_of_another_kind_is_not_what_the_preset_speaks_of() -> None:
    """Law: a preset says which the first of a pipeline's denoisers is, and its streams are held to the same schedule."""
    kind = TINY["WanPipeline:2.2"]
    pipe = kind.build()
    pipe.transformer_2.register_to_config(note="another")
    assert identity_of(pipe.transformer) != identity_of(pipe.transformer_2)
    with accepted():
        with foreseer.attach(pipe, "none") as attached:
            kind.call(pipe, steps=6)
        run = attached.report.run
        signature = Signature(model=run.model, scheduler=run.scheduler, num_steps=6, timesteps=run.timesteps)
        preset = Preset(name="tiny", policy="taylorseer:target=last_block,interval=2", signature=signature, tuned=MEASURED)
        with foreseer.attach(pipe, preset) as attached:
            kind.call(pipe, steps=6)
            assert any(name.startswith("transformer_2") for name in attached.reports)
            with pytest.raises(OptionError):
                kind.call(pipe, steps=5)


def test_a_lane_of_a_benchmark_is_a_preset(model: ToyModel, tmp_path: Path) -> None:
    """Law: beside the settings' file, alone, and named after its policy."""
    preset_of(model).save(tmp_path / "mine.json")
    file = tmp_path / "settings.toml"
    file.write_text("workload = 'dit'\n[[lanes]]\npreset = 'mine.json'\n[[lanes]]\npolicy = 'none'\n")
    read = read_settings(file)
    assert [str(lane) for lane in read.lanes] == [POLICY, "none"]
    assert [lane.preset for lane in read.lanes] == [preset_of(model), None]
    assert read.to_dict()["presets"] == {POLICY: "mine"}
    for lane, says in (("preset = 'mine.json'\npolicy = 'none'", "write preset = 'mine.json' alone"), ("preset = 'my.json'", "did you mean 'mine.json'")):
        file.write_text(f"workload = 'dit'\n[[lanes]]\n{lane}\n")
        with pytest.raises(OptionError, match=says):
            read_settings(file)


def test_compare_takes_presets_and_refuses_those_of_other_models(model: ToyModel, tmp_path: Path) -> None:
    """Law: before anything is drawn."""
    from foreseer.bench.compared import CompareSettings
    from foreseer.bench.comparison import run_comparison as compare

    settings = CompareSettings(policies=preset_of(model), out=tmp_path / "out", samples=1)
    assert [str(spec) for spec in settings.specs()] == [POLICY]
    with pytest.raises(OptionError, match=r"tuned elsewhere: model ToyModel.* DiTTransformer2DModel.*; 10 steps before, 50 now"):
        compare(settings, show=False)
    assert not list((tmp_path / "out").glob("*"))


def test_a_planned_preset_is_stretched_where_it_may_be_used_elsewhere(model: ToyModel) -> None:
    """Law: with any_model a schedule made for another number of steps runs, and the report says both that and what differs."""
    preset = attrs.evolve(preset_of(model), policy=f"planned:schedule=0+1+4+7/{STEPS},target=last_block")
    with pytest.raises(OptionError, match="10 steps before, 20 now"), foreseer.attach(model, preset) as attached, attached.run(timesteps=times_of(20)):
        drawn(model, 20)
    with foreseer.attach(model, preset, any_model=True) as attached, attached.run(timesteps=times_of(20)):
        drawn(model, 20)
    assert [w for w in attached.report.warnings if "10 steps before, 20 now" in w]
    assert [w for w in attached.report.warnings if "stretched to 20" in w]
    assert attached.report.full_steps == [0, 2, 8, 15]


def test_a_list_without_a_length_is_used_elsewhere_as_it_is(model: ToyModel) -> None:
    """Law: any_model refuses nothing that fits."""
    preset = attrs.evolve(preset_of(model), policy="planned:schedule=0+1+4+7,target=last_block")
    with foreseer.attach(model, preset, any_model=True) as attached, attached.run(timesteps=times_of(STEPS)):
        drawn(model)
    assert attached.report.full_steps == [0, 1, 4, 7]
    chosen = foreseer.policy(attrs.evolve(preset, policy="planned:schedule=0+1+4+7/10,interpolate=False"), any_model=True)
    assert chosen.options["interpolate"] is False


def test_compare_uses_presets_of_other_models_where_it_is_told_to(model: ToyModel, tmp_path: Path) -> None:
    """Law: the results say what differs."""
    from foreseer.bench.compared import CompareSettings
    from foreseer.bench.comparison import run_comparison as compare

    file = preset_of(model).save(tmp_path / "mine.json")
    settings = CompareSettings(policies=[f"{file}:any_model=True"], out=tmp_path, samples=1, steps=6)
    found = compare(settings, show=False)
    assert found.row(POLICY).steps == 3
    assert "tuned elsewhere" in found.facts["preset mine"]
    assert "10 steps before, 6 now" in found.facts["preset mine"]


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_bundled_preset_is_whole(name: str) -> None:
    """Law: it loads, its policy is installed, it was checked on other samples than it was chosen by, and its name says which family it is for."""
    preset = find_preset(name)
    assert preset.name == name
    assert str(foreseer.policy(name)) == preset.policy
    assert preset.held_out is not None
    assert preset.held_out.seed != preset.tuned.seed or preset.held_out.first >= preset.tuned.first + preset.tuned.samples
    assert preset.signature.model
    assert name.startswith(f"{preset.found['family']}_")
