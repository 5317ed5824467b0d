"""Laws of the cache backend, on the stand-in of `conftest.py`."""

import json
import logging
import types

import pytest
import torch
from torch import nn

from foreseer.errors import OptionError, PluginError

STEPS = 9


@pytest.fixture(autouse=True)
def _heard(caplog):
    caplog.set_level(logging.INFO, "vllm.foreseer")


@pytest.fixture
def bare(engine, models, pipe_of, request_of):
    """What comes without a cache backend."""
    return engine.DiffusionModelRunner(pipe_of(models[0])).execute_model(request_of(1))


@pytest.mark.parametrize("guided", [True, False])
def test_none_is_the_bare_run_bit_for_bit(start, models, pipe_of, request_of, bare, guided):
    """Whether the pipeline asks vLLM-Omni for guidance or calls its model itself."""
    runner, requests = start(pipe_of(models[0], guided=guided), policy="none")
    assert torch.equal(runner.execute_model(request_of()), bare)
    (served,) = requests.served
    assert list(served.reports) == (["cond", "uncond"] if guided else ["model", "call 2"])
    assert all(report.full_steps == list(range(STEPS)) and report.finished for report in served.reports.values())


@pytest.mark.parametrize("guided", [True, False])
def test_a_policy_saves_steps_and_the_log_has_its_account(start, models, pipe_of, request_of, bare, caplog, guided):
    runner, requests = start(pipe_of(models[0], guided=guided), policy="taylorseer", interval=3, warmup_steps=2)
    image = runner.execute_model(request_of())
    (served,) = requests.served
    for report in served.reports.values():
        assert len(report.outcomes) == report.run.num_steps == STEPS
        assert len(report.full_steps) < STEPS / 2 + 1
    assert 0 < (image - bare).abs().max() < 0.1 * bare.abs().max()
    assert f"foreseer: {served}" in caplog.messages


def test_each_branch_is_forecast_from_its_own_history(start, models, pipe_of, request_of):
    """`reuse` repeats the output of the same stream's last computed step, bit for bit; another stream's would show."""
    pipeline = pipe_of(models[0])
    runner, requests = start(pipeline, policy="reuse", interval=3, target="output")
    runner.execute_model(request_of())
    for name, report in requests.served[-1].reports.items():
        skipped = [step for step in range(STEPS) if step not in report.full_steps]
        assert skipped
        assert all(torch.equal(pipeline.outputs[name][step], pipeline.outputs[name][step - 1]) for step in skipped)
    assert not torch.equal(pipeline.outputs["cond"][0], pipeline.outputs["uncond"][0])


def test_a_second_request_begins_anew(start, models, pipe_of, request_of):
    runner, requests = start(pipe_of(models[0]), policy="taylorseer:interval=3")
    first, other, again = (runner.execute_model(request_of(seed)) for seed in (1, 2, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert {served.reports["cond"].full_steps[0] for served in requests.served} == {0}
    assert len({tuple(served.reports["cond"].full_steps) for served in requests.served}) == 1


def test_a_request_that_fails_leaves_nothing(engine, start, models, pipe_of, request_of, bare):
    pipeline = pipe_of(models[0])
    runner, requests = start(pipeline, policy="taylorseer:interval=3")
    clean = runner.execute_model(request_of())
    pipeline.fails_at = 4
    with pytest.raises(RuntimeError, match="the client has left"):
        runner.execute_model(request_of(2))
    failed = requests.served[-1]
    assert failed.ended == "RuntimeError"
    assert len(failed.reports["cond"].outcomes) == 4
    pipeline.fails_at = None
    assert torch.equal(runner.execute_model(request_of()), clean)
    requests.detach()
    assert torch.equal(engine.DiffusionModelRunner(pipe_of(models[0])).execute_model(request_of()), bare)


def test_two_models_have_histories_of_their_own(engine, start, models, pipe_of, request_of):
    bare = engine.DiffusionModelRunner(pipe_of(*models)).execute_model(request_of())
    runner, requests = start(pipe_of(*models), policy="none")
    assert torch.equal(runner.execute_model(request_of()), bare)
    assert list(requests.served[-1].reports) == [f"{model}: {branch}" for model in ("transformer", "transformer_2") for branch in ("cond", "uncond")]
    assert [len(report.outcomes) for report in requests.served[-1].reports.values()] == [5, 5, 4, 4]


def test_requests_in_a_batch_are_rows_of_their_own(start, models, pipe_of, request_of, bare):
    """Each row gets what it gets alone, up to the arithmetic of a batch."""
    runner, requests = start(pipe_of(models[0]), policy="taylorseer:interval=3")
    alone = [runner.execute_model(request_of(seed)) for seed in (1, 2)]
    together = runner.execute_model(request_of(1, "a"), request_of(2, "b"))
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert requests.served[-1].name == "a+b"
    assert requests.served[-1].reports["cond"].run.groups == (0, 1)


def test_without_a_number_of_steps_a_request_is_driven_too(start, models, pipe_of, request_of):
    """vLLM-Omni then leaves `refresh` out."""
    runner, requests = start(pipe_of(models[0]), policy="taylorseer:interval=3")
    runner.execute_model(request_of(), steps=None)
    assert requests.served[-1].reports["cond"].run.num_steps is None
    assert len(requests.served[-1].reports["cond"].full_steps) < STEPS / 2 + 1


def test_branches_that_are_more_than_two_are_named(start, models, pipe_of, request_of):
    class Three(pipe_of):
        def guide(self, positive, negative):
            return self.predict_noise_with_multi_branch_cfg(True, 1.5, [positive, negative, {**negative, "encoder_hidden_states": torch.ones(1, 3, 6)}])

        def predict_noise_with_multi_branch_cfg(self, do_true_cfg, true_cfg_scale, branches_kwargs):
            return sum(self.predict_noise(**each) for each in branches_kwargs) / 3

    runner, requests = start(Three(models[0]), policy="taylorseer:interval=3")
    runner.execute_model(request_of())
    assert list(requests.served[-1].reports) == ["cond", "branch 1", "branch 2"]


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def cached(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.transformer, "_hook_registry", types.SimpleNamespace(_hooks={"teacache": object()}), raising=False)


def sharded(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.transformer, "__class__", type("FSDPDiT", (type(pipeline.transformer), type("FSDPModule", (), {})), {}))


REFUSED = {"another cache, teacache, is on transformer too": cached, "transformer is sharded (HSDP)": sharded}


@pytest.mark.parametrize("why", REFUSED)
def test_a_request_that_is_refused_is_computed_and_the_log_says_why(start, models, pipe_of, request_of, bare, caplog, monkeypatch, why):
    pipeline = pipe_of(models[0])
    runner, requests = start(pipeline, policy="taylorseer:interval=3")
    runner.execute_model(request_of())
    REFUSED[why](pipeline, monkeypatch)
    assert torch.equal(runner.execute_model(request_of(1, "r2")), bare)
    assert not requests.served[-1].reports
    (said,) = told(caplog)
    assert said.startswith("foreseer: request r2: computed in full: ")
    assert why in said


def test_a_pipeline_without_a_transformer_is_refused_when_it_is_loaded(start, request_of, caplog):
    class Other(nn.Module):
        def forward(self, batch):
            return torch.ones(1)

    runner, _ = start(Other(), policy="taylorseer:interval=3")
    assert told(caplog) == ["foreseer: requests of this Other are computed in full: Other has no transformer"]
    assert torch.equal(runner.execute_model(request_of()), torch.ones(1))


@pytest.mark.parametrize("guided", [True, False])
def test_where_a_policy_cannot_go_on_the_request_is_computed(start, models, pipe_of, request_of, bare, guided):
    """A schedule of other steps than the request's, which shows only in its first call."""
    runner, requests = start(pipe_of(models[0], guided=guided), policy="planned:schedule=0+1+3/5")
    assert torch.equal(runner.execute_model(request_of()), bare)
    assert "5" in requests.served[-1].refused
    assert not requests.served[-1].ended


WRONG = [({"policy": "taylorseer", "intervall": 3}, OptionError), ({"interval": 3}, OptionError), ({"policy": "tailor"}, PluginError)]


@pytest.mark.parametrize(("config", "error"), WRONG)
def test_a_wrong_policy_is_refused_when_the_worker_starts(start, models, pipe_of, config, error):
    with pytest.raises(error, match=r"interval|tailor"):
        start(pipe_of(models[0]), **config)


def test_other_backends_are_chosen_as_before(engine, start, models, pipe_of):
    start(pipe_of(models[0]), policy="none")
    assert engine.get_cache_backend("none", None) is None
    with pytest.raises(ValueError, match="Unsupported cache backend: tea"):
        engine.get_cache_backend("tea", None)


def test_loading_it_twice_is_loading_it_once(engine):
    import foreseer_vllm_omni

    foreseer_vllm_omni.register()
    once = engine.get_cache_backend
    foreseer_vllm_omni.register()
    assert engine.get_cache_backend is once


ANOTHER = {
    "get_cache_backend takes (od_config)": lambda engine: setattr(engine, "get_cache_backend", lambda od_config: None),
    "cannot be extended (AttributeError": lambda engine: delattr(engine, "get_cache_backend"),
}


@pytest.mark.parametrize("why", ANOTHER)
def test_an_engine_that_is_another_is_left_alone(engine, caplog, why):
    import foreseer_vllm_omni

    ANOTHER[why](engine)
    before = dict(vars(engine))
    foreseer_vllm_omni.register()
    assert vars(engine) == before
    (said,) = told(caplog)
    assert why in said
    assert said.endswith("--cache-backend foreseer is not there")


def test_reports_are_written_where_they_are_asked_for(start, models, pipe_of, request_of, tmp_path, monkeypatch):
    monkeypatch.setenv("FORESEER_REPORTS", str(tmp_path / "reports"))
    runner, requests = start(pipe_of(models[0]), policy="taylorseer:interval=3")
    runner.execute_model(request_of())
    written = json.loads((tmp_path / "reports" / "r1-cond.json").read_text())
    assert written["full_steps"] == requests.served[-1].reports["cond"].full_steps
