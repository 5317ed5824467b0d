"""Laws of the diffusers backend, on the stand-in of `conftest.py`. How policies drive diffusers' pipelines is tested in foreseer."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch

import foreseer
from foreseer.errors import ContractError

STEPS = 9


@pytest.fixture
def pipe(engine, models):
    return engine.Pipe(models[0])


@pytest.fixture
def serve(engine, pipe):
    """A worker's start, and what it then does with a request's seed."""

    def started(policy, **server):
        requests, pipeline = engine.load(policy), engine.Pipeline(pipe, SimpleNamespace(**server))
        return requests, lambda seed: engine.Execution(pipeline.diffusers_pipe).forward(SimpleNamespace(label=3, seed=seed), SimpleNamespace()).output

    yield started
    foreseer.detach(pipe)


def test_none_is_exact_and_each_request_has_its_account(engine, serve, pipe):
    bare = engine.Execution(pipe).forward(SimpleNamespace(label=3, seed=1), SimpleNamespace()).output
    requests, ask = serve("none")
    assert torch.equal(ask(1), bare)
    ask(2)
    assert [served.name for served in requests.served] == ["1", "2"]
    assert all(report.full_steps == list(range(STEPS)) for served in requests.served for report in served.reports.values())


def test_a_policy_saves_steps(serve):
    requests, ask = serve("taylorseer:interval=3")
    assert torch.equal(ask(1), ask(1)), "a second request begins anew"
    assert all(0 < report.steps_computed < STEPS for served in requests.served for report in served.reports.values())


def test_beside_cache_dit_everything_is_computed(engine, serve, pipe, caplog):
    caplog.set_level(logging.INFO, "foreseer")
    bare = engine.Execution(pipe).forward(SimpleNamespace(label=3, seed=1), SimpleNamespace()).output
    requests, ask = serve("taylorseer:interval=3", cache_dit_config="cache.yaml")
    assert torch.equal(ask(1), bare)
    assert not requests.served[-1].reports
    assert "foreseer: every request is computed in full: cache-dit is on too; leave --cache-dit-config away" in caplog.messages


def test_an_error_of_foreseer_takes_it_off(serve, pipe, monkeypatch):
    """Here a request cannot be asked again without another noise: it fails, and the next is computed."""
    requests, ask = serve("taylorseer:interval=3")
    ask(1)
    monkeypatch.setattr(pipe, "transformer", copy.deepcopy(pipe.transformer))
    with pytest.raises(ContractError, match="exchanged"):
        ask(1)
    assert requests.served[-1].ended == "ContractError"
    ask(1)
    assert "exchanged" in requests.served[-1].refused
