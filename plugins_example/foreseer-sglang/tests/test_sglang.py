"""Laws of the native backend, on the stand-in of `conftest.py`."""

import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from foreseer.errors import ForeseerError, OptionError, PluginError

STEPS = 9
PLAIN = SimpleNamespace()
NAMES = ["forward", "_predict_noise_with_cfg", "_predict_noise"]
REFUSED = {
    "cache-dit is on for this request too": {"stage": {"_cache_dit_enabled": True}},
    "TeaCache is on for this request too": {"batch": {"enable_teacache": True}},
    "Spectrum is on for this request too": {"batch": {"enable_spectrum": True}},
    "leave --enable-breakable-cuda-graph away": {"server": {"enable_breakable_cuda_graph": True}},
    "leave --use-fsdp-inference away": {"server": {"use_fsdp_inference": True}},
}


@pytest.fixture(autouse=True)
def _heard(caplog):
    caplog.set_level(logging.INFO, "foreseer")


@pytest.fixture
def bare(engine, models, ask):
    """What comes without the plugin."""
    return {label: engine.Stage(models[0])(ask(label=label), PLAIN).latents for label in (3, 7)}


def test_none_is_the_bare_run_bit_for_bit(engine, models, ask, bare):
    requests = engine.load("none")
    assert torch.equal(engine.Stage(models[0])(ask(), PLAIN).latents, bare[3])
    (served,) = requests.served
    assert list(served.reports) == ["cond", "uncond"]
    assert all(report.full_steps == list(range(STEPS)) and report.finished for report in served.reports.values())


def test_a_policy_saves_steps_and_the_log_has_its_account(engine, models, ask, bare, caplog):
    requests = engine.load("taylorseer:interval=3,warmup_steps=2")
    image = engine.Stage(models[0])(ask(), PLAIN).latents
    (served,) = requests.served
    for report in served.reports.values():
        assert len(report.outcomes) == report.run.num_steps == STEPS
        assert len(report.full_steps) < STEPS / 2 + 1
        assert report.run.timesteps == tuple(torch.linspace(900, 100, STEPS).tolist())
    assert 0 < (image - bare[3]).abs().max() < 0.1 * bare[3].abs().max()
    assert f"foreseer: {served}" in caplog.messages
    assert str(served).startswith(f"request r1: cond {served.reports['cond'].steps_computed:g} of 9 steps computed")


def test_each_branch_is_forecast_from_its_own_history(engine, models, ask):
    """`reuse` repeats the output of the same stream's last computed step, bit for bit; another stream's would show."""
    requests = engine.load("reuse:interval=3,target=output")
    stage = engine.Stage(models[0])
    stage(ask(), PLAIN)
    for name, report in requests.served[-1].reports.items():
        skipped = [step for step in range(STEPS) if step not in report.full_steps]
        assert skipped
        assert all(torch.equal(stage.outputs[name][step], stage.outputs[name][step - 1]) for step in skipped)
    assert not torch.equal(stage.outputs["cond"][0], stage.outputs["uncond"][0])


def test_a_second_request_begins_anew(engine, models, ask):
    requests = engine.load("taylorseer:interval=3")
    stage = engine.Stage(models[0])
    first, other, again = (stage(ask(label=label), PLAIN).latents for label in (3, 7, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(served.reports["cond"].full_steps) for served in requests.served}) == 1
    assert requests.served[-1].reports["cond"].full_steps[0] == 0


def test_a_request_that_fails_leaves_nothing(engine, models, ask, bare):
    requests = engine.load("taylorseer:interval=3")
    stage = engine.Stage(models[0])
    clean = stage(ask(), PLAIN).latents
    with pytest.raises(RuntimeError, match="the client has left"):
        stage(ask(label=7, fails_at=4), PLAIN)
    failed = requests.served[-1]
    assert failed.ended == "RuntimeError"
    assert len(failed.reports["cond"].outcomes) == 4
    assert failed.reports["cond"].finished
    assert torch.equal(stage(ask(), PLAIN).latents, clean)
    requests.detach()
    assert torch.equal(engine.Stage(models[0])(ask(is_warmup=True), PLAIN).latents, bare[3])


def test_reports_hold_no_model_and_the_last_are_kept(engine, models, ask):
    requests = engine.load("reuse:interval=3")
    for number in range(20):
        engine.Stage(models[0])(ask(request_id=f"r{number}", timesteps=torch.tensor([900.0])), PLAIN)
    assert [served.name for served in requests.served] == [f"r{number}" for number in range(4, 20)]


def test_two_experts_have_histories_of_their_own(engine, models, ask):
    """Wan 2.2: the first model makes the noisy steps, the second the others; steps are those of the request."""
    bare = engine.Stage(*models)(ask(boundary=500), PLAIN).latents
    requests = engine.load("none")
    assert torch.equal(engine.Stage(*models)(ask(boundary=500), PLAIN).latents, bare)
    assert list(requests.served[-1].reports) == [f"{model}: {branch}" for model in ("transformer", "transformer_2") for branch in ("cond", "uncond")]
    firsts = {name: report.outcomes[0].step.index for name, report in requests.served[-1].reports.items()}
    assert firsts["transformer: cond"] == 0
    assert sum(len(report.outcomes) for report in requests.served[-1].reports.values()) == 2 * STEPS


def test_what_sglang_resets_begins_anew(engine, models, ask):
    requests = engine.load("taylorseer:interval=3")
    engine.Stage(models[0])(ask(chunks=2), PLAIN)
    first, second = requests.served
    assert first.reports["cond"].full_steps == second.reports["cond"].full_steps
    assert len(second.reports["cond"].outcomes) == STEPS


def test_a_warm_up_is_left_alone(engine, models, ask, bare):
    requests = engine.load("taylorseer:interval=3")
    assert torch.equal(engine.Stage(models[0])(ask(is_warmup=True), PLAIN).latents, bare[3])
    assert not requests.served


@pytest.mark.parametrize("why", REFUSED)
def test_a_request_that_is_refused_is_computed_and_the_log_says_why(engine, models, ask, bare, caplog, why):
    requests = engine.load("taylorseer:interval=3")
    stage = engine.Stage(models[0])
    stage(ask(), PLAIN)
    vars(stage).update(REFUSED[why].get("stage", {}))
    image = stage(ask(request_id="r2", **REFUSED[why].get("batch", {})), SimpleNamespace(**REFUSED[why].get("server", {}))).latents
    assert torch.equal(image, bare[3])
    assert not requests.served[-1].reports
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("foreseer: request r2: computed in full: ")
    assert why in said


def test_where_a_policy_cannot_go_on_the_request_is_computed(engine, models, ask, bare):
    """A schedule of other steps than the request's, which shows only in its first call."""
    requests = engine.load("planned:schedule=0+1+3/5")
    assert torch.equal(engine.Stage(models[0])(ask(), PLAIN).latents, bare[3])
    assert "5" in requests.served[-1].refused
    assert not requests.served[-1].ended


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["missing", "other"])
def test_a_name_that_is_missing_or_another_is_refused_when_the_worker_starts(engine, caplog, name, how):
    if how == "missing":
        delattr(engine.Stage, name)
    else:
        setattr(engine.Stage, name, lambda self, *, request: None)
    engine.load("taylorseer:interval=3")
    assert not [target for target, _, _ in engine.registry.hooks if "DenoisingStage" in target]
    assert [target for target, _, _ in engine.registry.hooks if "Diffusers" in target], "the other backend has its hooks"
    (said,) = caplog.messages
    assert name in said
    assert said.endswith("with SGLang's native backend everything is computed")


def test_without_a_hook_registry_everything_is_computed(engine, caplog):
    del sys.modules["sglang.multimodal_gen.plugins"].HookType
    assert engine.load("taylorseer:interval=3") is None
    (said,) = caplog.messages
    assert "no hook registry" in said


@pytest.mark.parametrize(("policy", "error"), [("taylorseer:intervall=3", OptionError), ("taylorseer:interval=0", OptionError), ("tailor", PluginError)])
def test_a_wrong_policy_is_refused_when_the_worker_starts(engine, policy, error):
    with pytest.raises(error) as refused:
        engine.load(policy)
    assert isinstance(refused.value, ForeseerError)
    assert not engine.registry.hooks


def test_without_a_policy_nothing_is_hooked(engine, caplog):
    assert engine.load("  ") is None
    assert not engine.registry.hooks
    assert "write FORESEER_POLICY=" in caplog.text


def own_loop(stage):
    class OwnLoop(stage):
        def forward(self, batch, server_args):
            self._loop(batch, server_args)
            return batch

    return OwnLoop


def own_guidance(stage):
    class OwnLoop(stage):
        _predict_noise_with_cfg = stage.bare

    return OwnLoop


@pytest.mark.parametrize("kind", [own_loop, own_guidance])
def test_a_stage_with_a_loop_of_its_own_is_computed(engine, models, ask, bare, caplog, kind):
    """It overrides a part of what is hooked, so that the hook is not called; the log says it once."""
    engine.Stage.bare = engine.Stage._predict_noise_with_cfg
    requests = engine.load("taylorseer:interval=3")
    stage = kind(engine.Stage)(models[0])
    stage(ask(is_warmup=True), PLAIN)
    assert not caplog.messages
    for _ in range(2):
        assert torch.equal(stage(ask(), PLAIN).latents, bare[3])
    (said,) = caplog.messages
    assert said == "foreseer: OwnLoop has a loop of its own, which is not followed; it is computed in full"
    assert not requests.served


def test_a_stage_inside_of_another_is_computed_with_it(engine, models, ask, bare):
    """Both call one model, and nobody could tell whose a call is."""
    requests = engine.load("taylorseer:interval=3")
    inner = engine.Stage(models[0])

    class Outer(engine.Stage):
        def _loop(self, batch, server_args):
            batch.timesteps, rest = batch.timesteps[:4], batch.timesteps[4:]
            super()._loop(batch, server_args)
            batch.inner = inner(ask(label=7), server_args).latents
            batch.timesteps = rest
            super()._loop(batch, server_args)

    image = Outer(models[0])(ask(), PLAIN)
    assert torch.equal(image.inner, bare[7])
    assert all("two requests were under way at once" in served.refused for served in requests.served)
    engine.Stage(models[0])(ask(), PLAIN)
    assert not requests.served[-1].refused


def test_reports_are_written_where_they_are_asked_for(engine, models, ask, tmp_path, monkeypatch):
    monkeypatch.setenv("FORESEER_REPORTS", str(tmp_path / "reports"))
    requests = engine.load("taylorseer:interval=3")
    engine.Stage(models[0])(ask(request_id="a/b"), PLAIN)
    assert sorted(file.name for file in (tmp_path / "reports").iterdir()) == ["a_b-cond.json", "a_b-uncond.json"]
    written = json.loads((tmp_path / "reports" / "a_b-cond.json").read_text())
    assert written["full_steps"] == requests.served[-1].reports["cond"].full_steps
