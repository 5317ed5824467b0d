"""Laws of the public seam for loops that know what their calls are: `attached.generation`, `.step` and `.call`."""

import contextlib
from typing import Any

import pytest
import torch
from replayed import same, two
from tiny import TINY
from torch import Tensor, nn

import foreseer
from foreseer import ContractError, OptionError, hookimpl
from foreseer.registry import parse_policy

POLICIES = [
    "none",
    "reuse:interval=3",
    "taylorseer:interval=3,max_order=1",
    "taylorseer:interval=2,target=output",
    "cg_taylor:threshold=0.5,warmup_steps=2",
    "speca:threshold=0.5,max_order=1",
    "speca:threshold=0.5,target=last_block",
    "planned:schedule=0+1+3+5/8",
]
STEPS = 8
TIMES = [float(time) for time in range(900, 100, -100)]
NEVER_FORECAST = ("Flux2KleinKVPipeline",)
MIXED = [(name, POLICIES[at % len(POLICIES)]) for at, name in enumerate(TINY) if name not in NEVER_FORECAST]


class Plain(nn.Module):
    """Three blocks over rows of features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


class Steps:
    """Remembers which steps it was told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, Any, Any]] = []

    @hookimpl
    def on_step(self, run: foreseer.Run, step: foreseer.Step) -> None:
        self.told.append((run.stream, step.index, step.timestep, step.sigma))


@pytest.mark.parametrize(("name", "policy"), MIXED)
def test_a_named_stream_gets_what_it_gets_alone(name: str, policy: str) -> None:
    """Law: streams that take turns in a step, in any order, are each a `run` of its own."""
    streams = two(name)
    outputs: dict[str, list[list[Tensor]]] = {stream: [] for stream in streams}
    model = streams["one"].model
    with foreseer.attach(model, parse_policy(policy)) as attached, attached.generation(timesteps=TIMES) as generation:
        for step in range(STEPS):
            generation.step()
            for stream in sorted(streams, reverse=step % 2 == 1):
                with generation.call(stream=stream):
                    outputs[stream].append(streams[stream].at(step))
    assert sorted(attached.reports) == ["one", "other"]
    for stream, handed in streams.items():
        with foreseer.attach(model, parse_policy(policy)) as alone, alone.run(num_steps=STEPS, stream=stream):
            wanted = [handed.at(step) for step in range(STEPS)]
        assert same(outputs[stream], wanted)
        assert attached.reports[stream].computed.tolist() == alone.report.computed.tolist()


SCHEDULES = {
    "times": {"timesteps": TIMES},
    "tensors": {"timesteps": torch.tensor(TIMES), "sigmas": torch.linspace(1, 0, STEPS + 1)},
    "sigmas": {"timesteps": TIMES, "sigmas": [1 - step / STEPS for step in range(STEPS)]},
    "sigmas alone": {"num_steps": STEPS, "sigmas": [1 - step / STEPS for step in range(STEPS + 1)]},
    "both": {"num_steps": STEPS, "timesteps": TIMES},
}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("late", [0, 3])
def test_each_step_is_told_with_its_time_and_noise_level(schedule: str, late: int) -> None:
    """Law: timestep and sigma are the step's, also of a stream that begins later and of steps in which nobody was called."""
    model, seen = Plain(), Steps()
    given = SCHEDULES[schedule]
    times, sigmas = (given[key] if key in given else [None] * STEPS for key in ("timesteps", "sigmas"))
    with foreseer.attach(model, "taylorseer", interval=2, observers=[seen]) as attached, torch.no_grad():
        with attached.generation(**given) as generation:
            for step in range(STEPS):
                generation.step()
                if step >= late and step != 5:
                    model(torch.ones(2, 4) * step)
    called = [step for step in range(late, STEPS) if step != 5]
    assert [(round(t, 4) if t else t, round(s, 4) if s else s) for _, _, t, s in seen.told] == [
        (times[i] and round(float(times[i]), 4), sigmas[i] and round(float(sigmas[i]), 4)) for i in called
    ]
    assert [index for _, index, *_ in seen.told] == [step - late for step in called]


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("by", ["call", "step", "step and one more"])
def test_noise_levels_are_the_steps_where_timesteps_are_listed_call_by_call(calls: int, by: str) -> None:
    """Law: a list that has each timestep once for each call is one of steps; so are noise levels, listed by call or by step."""
    model, seen = Plain(), Steps()
    levels = [1 - step / STEPS for step in range(STEPS)]
    sigmas = [s for s in levels for _ in range(calls)] if by == "call" else [*levels, 0.0] if "more" in by else levels
    with foreseer.attach(model, "none", observers=[seen]) as attached, torch.no_grad():
        with attached.run(timesteps=[t for t in TIMES for _ in range(calls)], sigmas=sigmas):
            for step in range(STEPS):
                for _ in range(calls):
                    model(torch.ones(2, 4) * step)
    assert [(time, sigma) for _, _, time, sigma in seen.told] == [pair for pair in zip(TIMES, levels, strict=True) for _ in range(calls)]


CONTRADICTIONS = {
    "fewer steps": ({"num_steps": STEPS - 1, "timesteps": TIMES}, rf"num_steps={STEPS - 1} but timesteps has {STEPS} entries"),
    "more steps": ({"num_steps": STEPS + 1, "timesteps": TIMES}, rf"num_steps={STEPS + 1} but timesteps has {STEPS} entries"),
    "fewer sigmas": ({"timesteps": TIMES, "sigmas": [1.0, 0.5]}, r"sigmas has 2 entries and the run has 8 steps"),
    "more sigmas": ({"num_steps": 2, "sigmas": [1.0, 0.5, 0.25, 0.0]}, r"sigmas has 4 entries and the run has 2 steps"),
    "no steps": ({"num_steps": 0}, r"num_steps=0 is out of range"),
}


@pytest.mark.parametrize("how", ["run", "generation"])
@pytest.mark.parametrize("what", list(CONTRADICTIONS))
def test_a_schedule_that_contradicts_itself_is_refused(what: str, how: str) -> None:
    """Law: with the option and its value, before anything is begun; the next generation is a clean one."""
    given, says = CONTRADICTIONS[what]
    model = Plain()
    with foreseer.attach(model, "taylorseer", interval=2) as attached:
        with pytest.raises(OptionError, match=says), getattr(attached, how)(**given):
            pass
        with attached.run(num_steps=2), torch.no_grad():
            model(torch.ones(2, 4))
        assert len(attached.report.outcomes) == 1


@pytest.mark.parametrize("stream", ["call 2", "cond call 3"])
def test_a_name_that_nameless_streams_have_is_refused(stream: str) -> None:
    """Law: never one history for two things, whatever somebody calls them."""
    model = Plain()
    with foreseer.attach(model, "none") as attached, attached.generation(num_steps=2) as generation:
        generation.step()
        with pytest.raises(OptionError, match=f"stream='{stream}'.*write another name"), generation.call(stream=stream):
            pass


def test_a_call_before_the_first_step_is_refused_in_words() -> None:
    """Law: a loop that forgets `step` is told so."""
    model = Plain()
    with foreseer.attach(model, "none") as attached, attached.generation(num_steps=2), pytest.raises(ContractError, match=r"call generation.step\(\)"):
        model(torch.ones(2, 4))


def test_rows_of_one_sample_are_said_by_the_call() -> None:
    """Law: ``groups`` of a call are that call's, of others the rows are samples; a name inside of another holds until it ends, also by an exception."""
    model = Plain()
    with foreseer.attach(model, "none") as attached, attached.generation(num_steps=2) as generation, torch.no_grad():
        for _ in range(2):
            generation.step()
            with generation.call(stream="outer", groups=2):
                model(torch.ones(4, 4))
                with contextlib.suppress(ZeroDivisionError), generation.call(stream="inner", groups=[0, 0, 1]):
                    model(torch.ones(3, 4))
                    raise ZeroDivisionError
                model(torch.ones(4, 4) * 2)
            model(torch.ones(2, 4))
        groups = {stream: report.run.groups for stream, report in attached.reports.items()}
    assert groups == {"outer": (0, 1, 0, 1), "inner": (0, 0, 1), "outer call 2": (0, 1, 0, 1), "model": (0, 1)}
    with foreseer.attach(model, "none") as attached, attached.generation(num_steps=2) as generation:
        generation.step()
        with generation.call(groups=[0, 1]), pytest.raises(ContractError, match="groups has 2 labels"):
            model(torch.ones(3, 4))


def test_the_samples_of_a_stream_stay() -> None:
    """Law: other groups in a later call of a stream are refused in words, and not passed over."""
    model = Plain()
    with foreseer.attach(model, "reuse", interval=3) as attached, torch.no_grad():
        with attached.generation(num_steps=9) as generation:
            for groups in (2, [0, 1, 0, 1], 2):
                generation.step()
                with generation.call(groups=groups):
                    model(torch.ones(4, 4))
            generation.step()
            with generation.call(groups=4), pytest.raises(foreseer.OptionError, match=r"groups=.* were .* before"):
                model(torch.ones(4, 4))


def test_a_generation_that_ends_by_an_exception_is_over_and_holds_nothing() -> None:
    """Law: its reports are finished, calls after it are computed and counted, and the next generation begins at step 0."""
    model = Plain()
    with foreseer.attach(model, "taylorseer", interval=2) as attached, torch.no_grad():
        with contextlib.suppress(ZeroDivisionError), attached.generation(num_steps=9) as generation:
            generation.step()
            model(torch.ones(2, 4))
            raise ZeroDivisionError
        assert attached.report.finished
        model(torch.ones(2, 4))
        assert "1 calls came outside of a run and were computed" in attached.report.warnings
        with attached.generation(num_steps=2) as generation:
            for _ in range(2):
                generation.step()
                model(torch.ones(2, 4))
            assert [o.step.index for o in attached.report.outcomes] == [0, 1]
            with pytest.raises(ContractError), attached.run(num_steps=2):
                pass


def test_a_pipelines_calls_are_its_generations() -> None:
    """Law: the seam is for models; a pipeline is just called."""
    pipe = TINY["WanPipeline"].build()
    with foreseer.attach(pipe, "none") as attached, pytest.raises(ContractError, match="just call the pipeline"), attached.generation(num_steps=2):
        pass


def test_what_a_host_computes_is_learnt_from() -> None:
    """Law: calls inside of `call(compute=...)` are computed, the report says why, and forecasts go on from them."""
    model, inputs = Plain(), torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(1))
    with foreseer.attach(model, "reuse:interval=8", blocks="blocks") as attached, torch.no_grad():
        with attached.generation(timesteps=TIMES) as generation:
            for index, x in enumerate(inputs):
                generation.step()
                with generation.call(compute="outside of the percents" if 2 <= index < 4 else ""):
                    out = model(x)
        kinds = [str(outcome.kind) for outcome in attached.report.outcomes]
    assert [all(outcome.computed) for outcome in attached.report.outcomes] == [True, False, True, True, False, False, False, False]
    assert kinds[2] == kinds[3] != kinds[0]
    assert "outside of the percents" in attached.report.warnings
    assert torch.equal(out, Plain()(inputs[3]))  # reused from the last that was computed
