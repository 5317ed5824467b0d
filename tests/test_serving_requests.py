"""Laws of `foreseer.adapters.serving`, and of what it stands on: several models in one attachment, and generations whose steps begin by themselves.

The plugins for SGLang and vLLM-Omni test the rest of it, in `plugins_example`.
"""

import contextlib
import gc
import logging
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer
from foreseer.adapters import serving
from foreseer.adapters.serving import Request, Requests, deciding_together
from foreseer.errors import ContractError, OptionError, PluginError, UnsupportedModelError

STEPS = 8
LOG = logging.getLogger("test of serving")


class Plain(nn.Module):
    """Three blocks over rows of features, with a text."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        x = x + prompt + timestep.sin()
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return x


def plain(seed: int = 0) -> Plain:
    torch.manual_seed(seed)
    return Plain()


PROMPTS = {"cond": torch.ones(1, 4), "uncond": torch.zeros(1, 4)}
TIMES = [torch.tensor(float(STEPS - step)) for step in range(STEPS)]


def sample(model: nn.Module, request: Any = None, *, other: nn.Module | None = None) -> Tensor:
    """A loop with guidance in two calls, the second half of its steps with another model."""
    x = torch.full((1, 4), 0.5)
    for index, time in enumerate(TIMES):
        now = model if other is None or index < STEPS / 2 else other
        if request is not None:
            request.step()
        outputs = []
        for name, prompt in PROMPTS.items():
            with contextlib.nullcontext() if request is None else request.call(name):
                outputs.append(now(x, time, prompt))
        x = x - 0.1 * (outputs[1] + 1.5 * (outputs[0] - outputs[1]))
    return x


def requests_of(policy: str = "taylorseer:interval=3", **given: Any) -> Requests:
    return Requests(policy, log=LOG, **given)


@pytest.mark.parametrize("policy", ["taylorseer:interval=3", "reuse:interval=2,target=output"])
def test_steps_that_begin_by_themselves_are_those_that_are_said(policy: str) -> None:
    model, outcomes = plain(), []
    for by_itself in (False, True):
        with foreseer.attach(model, policy) as attached, attached.generation(num_steps=STEPS, by_itself=by_itself) as generation:
            for time in TIMES:
                if not by_itself:
                    generation.step()
                for name, prompt in PROMPTS.items():
                    with generation.call(stream=name):
                        outcomes.append(model(torch.full((1, 4), 0.5), time, prompt))
        assert {name: len(report.outcomes) for name, report in attached.reports.items()} == dict.fromkeys(PROMPTS, STEPS)
    assert all(torch.equal(said, begun) for said, begun in zip(outcomes[: 2 * STEPS], outcomes[2 * STEPS :], strict=True))


def test_several_models_of_one_loop_are_attached_to_at_once() -> None:
    high, low = plain(0), plain(1)
    bare = sample(high, other=low)
    with foreseer.attach({"high": high, "low": low}, "none") as attached, attached.generation(num_steps=STEPS) as generation:
        calls = SimpleNamespace(step=generation.step, call=lambda name: contextlib.nullcontext())
        assert torch.equal(sample(high, calls, other=low), bare)
        assert list(attached.reports) == ["high", "high: call 2", "low", "low: call 2"]
    assert torch.equal(sample(high, other=low), bare)
    assert foreseer.attach({"high": high, "low": low}, "none")
    assert foreseer.detach({"high": high})
    assert not foreseer.detach({"high": high, "low": low})


def test_a_mapping_that_says_no_models_is_refused() -> None:
    model = plain()
    for wrong in ({}, {"transformer": None}, {"one": model, "two": model}):
        with pytest.raises(UnsupportedModelError):
            foreseer.attach(wrong, "none")
    with foreseer.attach(model, "none"):
        pass


def test_a_policy_stays_attached_until_the_models_are_others() -> None:
    requests, model, other = requests_of(), plain(), plain(1)
    first = requests.attach({"transformer": model})
    with requests.serve({"transformer": model}, num_steps=STEPS) as request:
        sample(model, request)
    assert requests.attach({"transformer": model}) is first
    with requests.serve({"transformer": other}, num_steps=STEPS) as request:
        sample(other, request)
    foreseer.attach(model, "none").detach()  # nobody is attached to it any more
    assert [list(served.reports) for served in requests.served] == [["cond", "uncond"]] * 2
    requests.detach()
    foreseer.attach(other, "none").detach()


def test_a_model_that_was_compiled_or_wrapped_since_is_attached_to_anew() -> None:
    requests, model = requests_of(), plain()
    with requests.serve({"": model}, num_steps=STEPS) as request:
        first = sample(model, request)
    calls: list[int] = []
    model._compiled_call_impl = lambda *args, **kwargs: (calls.append(1), model._call_impl(*args, **kwargs))[1]
    with requests.serve({"": model}, num_steps=STEPS) as request:
        assert torch.allclose(sample(model, request), first, atol=1.0)
    assert calls
    assert not requests.served[-1].refused
    assert requests.served[-1].reports["cond"].steps_computed < STEPS
    requests.detach()


def test_a_model_that_cannot_be_driven_is_computed(caplog: pytest.LogCaptureFixture) -> None:
    requests, model = requests_of(), nn.Linear(4, 4)
    with requests.serve({"": model}, name="a") as request:
        with request.call("cond"):
            assert torch.equal(model(torch.zeros(1, 4)), model.bias[None])
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == f"foreseer: request a: computed in full: {requests.served[-1].refused}"
    assert "Linear" in said


class Stubborn(Plain):
    """A model that raises one of foreseer's errors in a call, and knows how often it was called."""

    calls, raises = 0, -1

    def forward(self, x: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.raises:
            raise ContractError("no further")
        return super().forward(x, timestep, prompt)


def test_a_call_in_which_foreseer_raises_is_made_again_without_it() -> None:
    """The engine sees nothing of it, whether it says whose the call is or not; the next request is driven again."""
    torch.manual_seed(0)
    requests, model = requests_of("none"), Stubborn()
    bare, model.calls, model.raises = sample(model), 0, 7
    with requests.serve({"": model}, num_steps=STEPS) as request:
        assert torch.equal(sample(model, request), bare)
    assert model.calls == 2 * STEPS + 1
    assert requests.served[-1].refused == "no further"
    assert len(requests.served[-1].reports["cond"].outcomes) == 3
    with requests.serve({"": model}, num_steps=STEPS, by_itself=True):
        assert torch.equal(sample(model), bare)
    assert not requests.served[-1].refused
    requests.detach()
    assert not foreseer.detach(model)


def test_an_error_outside_of_a_request_is_the_callers() -> None:
    requests, model = requests_of("none"), Stubborn()
    requests.attach({"": model})
    model.raises = 1
    with pytest.raises(ContractError, match="no further"):
        sample(model)
    requests.detach()


def test_requests_that_cross_leave_nothing_behind() -> None:
    """Law: two that are under way at once are computed, in whatever order they end; the next is driven."""
    model, requests = plain(), requests_of()
    bare = sample(model)
    one, other = (requests.serve({"model": model}, name=name, num_steps=6) for name in ("one", "other"))
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert all("two requests were under way at once" in served.refused for served in requests.served)
    with requests.serve({"model": model}, name="next", num_steps=6) as request:
        found = sample(model, request)
    assert not torch.equal(found, bare)
    assert requests.served[-1].refused == ""


def test_accounts_hold_no_model() -> None:
    requests, model = requests_of(), plain()
    with requests.serve({"": model}, num_steps=STEPS) as request:
        sample(model, request)
    requests.detach()
    gone = weakref.ref(model)
    del model, request
    gc.collect()
    assert gone() is None
    assert requests.served[-1].reports["cond"].finished


def test_accounts_are_numbered_and_the_last_are_kept() -> None:
    requests = requests_of(keep=2)
    for name in ("", "mine", ""):
        with requests.serve({}, name=name, refused="because"):
            pass
    assert [str(served) for served in requests.served] == ["request mine: computed in full: because", "request 2: computed in full: because"]


def test_a_report_that_cannot_be_written_fails_no_request(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    requests, model = requests_of(folder=tmp_path / "file"), plain()
    with requests.serve({"": model}, name="a", num_steps=STEPS) as request:
        sample(model, request)
    assert "the report of request a was not written" in caplog.text
    requests.detach()


def test_what_a_report_notes_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    requests, model = requests_of(), plain()
    for _ in range(2):
        with requests.serve({"": model}, num_steps=STEPS) as request:
            sample(model, request)
    notes = {note for report in requests.served[-1].reports.values() for note in report.warnings if "streams" not in note}
    assert notes
    assert "streams" not in caplog.text, "that there are others is seen"
    assert all(sum(note in message for message in caplog.messages) == 1 for note in notes)
    requests.detach()


def test_wrong_settings_are_refused_at_once() -> None:
    for wrong, error in ({"keep": 0}, OptionError), ({"policy": "tailor"}, PluginError), ({"intervall": 3}, OptionError):
        with pytest.raises(error):
            Requests(**{"policy": "taylorseer", "log": LOG, **wrong})


def test_who_decides_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group of processes has one vote; what is not known is refused."""
    one, two, three = (SimpleNamespace(world_size=size, device_group=f"group of {size}") for size in (1, 2, 3))
    assert deciding_together(lambda: 1 / 0) == (None, ""), "a single process asks nobody"
    monkeypatch.setattr(serving, "_several", lambda: True)
    assert deciding_together(lambda: (one, one)) == (None, "")
    assert deciding_together(lambda: (one, two)) == ("group of 2", "")
    assert deciding_together(lambda: (three, one)) == ("group of 3", "")
    assert "use one of them" in deciding_together(lambda: (two, three))[1]

    def unknown() -> Any:
        raise AssertionError("not initialized")

    assert "not initialized" in deciding_together(unknown)[1]


def test_a_request_that_nobody_made_does_nothing() -> None:
    request = Request("a")
    request.step()
    request.give_up("b")
    with request.call("cond"):
        assert (request.reports(), request.refused) == ({}, "b")
