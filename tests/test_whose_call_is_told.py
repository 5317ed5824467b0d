"""Laws of what tells calls apart: many texts, texts in containers and buffers, numbers of windows, timesteps, turns, and the places of a pipeline's code."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import diffusers
import pytest
import torch
from tiny import TINY, wan
from tiny.common import drawn
from torch import Tensor, nn

import foreseer

STEPS = 12
TIMES = [1000 - 80.0 * step for step in range(STEPS)]
REUSE = "reuse:interval=3,target=last_block"


class Net(nn.Module):
    """Its output follows from latents and text alone, so that with latents that stay a reused one is right."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, timestep: Any = None, context: Any = None) -> Tensor:
        found = context.values() if isinstance(context, dict) else [] if context is None else context if isinstance(context, (list, tuple)) else [context]
        for text in found:
            x = x + text.mean(1, keepdim=True)
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


def noise(seed: int) -> Tensor:
    return torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed))


def followed(
    calls: Callable[[int], Sequence[tuple[Tensor, Any]]], *, by: str = "generation", policy: str = REUSE
) -> tuple[list[list[float]], dict[str, foreseer.Report], int]:
    """How far each output is from the computed one, step by step; the reports; how often the blocks ran."""
    model, away, runs = Net(), [], []
    given: Any = {"timesteps": TIMES} if by.endswith("times") else {"num_steps": STEPS}
    with torch.no_grad(), foreseer.attach(model, policy) as attached:
        wanted = Net()
        model.blocks[1].register_forward_hook(lambda *_: runs.append(1))
        how: Any = attached.run(**given) if by.startswith("run") else attached.generation(**given)
        with how as generation:
            for step, time in enumerate(TIMES):
                if not by.startswith("run"):
                    generation.step()
                away.append([float((model(x, torch.tensor([time]), text) - wanted(x, None, text)).abs().max()) for x, text in calls(step)])
        return away, attached.reports, len(runs)


def words(reports: dict[str, foreseer.Report]) -> str:
    return "\n".join(warning for report in reports.values() for warning in report.warnings)


@pytest.mark.parametrize("by", ["generation", "run", "run with times"])
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("texts", [3, 8, 9, 12])
def test_texts_of_one_step_never_share_a_history_however_many_they_are(texts: int, turning: bool, by: str) -> None:
    """Law: that a text never comes again is seen over steps, and not before the second."""
    if turning and by == "run":
        pytest.skip("turns without timesteps look like pauses")
    handed = [(noise(99), 3 * noise(seed)) for seed in range(texts)]
    away, reports, runs = followed(lambda step: [handed[(place + turning * step) % texts] for place in range(texts)], by=by)
    assert max(max(step) for step in away) < 1e-5
    assert runs < texts * STEPS
    assert ("more than 8 of one model in a step" in words(reports)) == (texts > 8)
    assert "outside of a run" not in words(reports)


@pytest.mark.parametrize("by", ["generation", "run", "run with times"])
@pytest.mark.parametrize("held", ["tensor", "tuple", "list", "dictionary", "buffer", "buffer of numpy"])
def test_texts_are_known_in_any_container_and_in_a_buffer_that_is_written_anew(held: str, by: str) -> None:
    """Law: a text is its numbers, wherever they lie."""
    buffer, array = torch.empty(1, 4, 8), torch.empty(1, 4, 8).numpy()
    texts = [(3 * noise(seed), noise(seed + 5)) for seed in range(2)]

    def given(which: int) -> Any:
        first, second = texts[which]
        if held == "buffer":
            return buffer.copy_(first)
        if held == "buffer of numpy":
            array[:] = first.numpy()
            return torch.from_numpy(array)
        return {"tensor": first, "tuple": (first, second), "list": [first, second], "dictionary": {"a": first, "b": second}}[held]

    def calls(step: int) -> Iterator[tuple[Tensor, Any]]:
        for which in range(2):
            yield noise(99), given(which)

    away, reports, _ = followed(calls, by=by)  # type: ignore[arg-type]
    assert max(max(step) for step in away) < 1e-5
    assert [(len(report.outcomes), len(report.full_steps)) for report in reports.values()] == [(STEPS, 4)] * 2


@pytest.mark.parametrize("by", ["generation", "run with times"])
@pytest.mark.parametrize("there", [lambda step: step % 3 > 0, lambda step: step > 4, lambda step: step < 5, lambda step: step % 5 == 0])
def test_windows_of_one_text_whose_number_changes_are_computed_with_a_word(there: Callable[[int], bool], by: str) -> None:
    """Law: of calls that their place alone tells apart, nobody knows whose they are once their number is another."""
    latents = [noise(seed) for seed in range(2)]
    away, reports, _ = followed(lambda step: [(latents[which], noise(5)) for which in range(2) if which or there(step)], by=by)
    numbers = [1 + there(step) for step in range(STEPS)]
    changed = next(step for step in range(1, STEPS) if numbers[step] != numbers[step - 1])
    assert max(max(step) for step in away[:changed] + away[changed + 1 + (numbers[changed] < numbers[changed - 1]) :]) < 1e-5
    assert f"were {numbers[changed - 1]} in a step and then {numbers[changed]}" in words(reports)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [1, 7])
@pytest.mark.parametrize("conditioning", [None, 0.0, 1000.0])
@pytest.mark.parametrize("calls", [1, 2])
def test_steps_are_told_by_timesteps_of_tokens_and_by_such_as_round_to_the_same(kind: torch.dtype, shift: int, conditioning: float | None, calls: int) -> None:
    """Law: a token that is given keeps its timestep, and two steps may bring one; each call of a text is its next step's all the same."""
    even = torch.linspace(1, 0, 51)[:-1]
    times = (1000 * shift * even / (1 + (shift - 1) * even)).tolist()
    with torch.no_grad(), foreseer.attach(model := Net(), "reuse:interval=5,target=last_block") as attached, attached.run(timesteps=times):
        for time in times:
            brought = torch.full((1, 4), time)
            if conditioning is not None:
                brought[:, 0] = conditioning
            for which in range(calls):
                model(noise(99), brought.to(kind), noise(which))
        reports = attached.reports
    assert [(len(report.outcomes), report.outcomes[-1].step.timestep) for report in reports.values()] == [(50, times[-1])] * calls
    assert [len(report.full_steps) for report in reports.values()] == [10] * calls


@pytest.mark.parametrize("first", ["paused", "other"])
@pytest.mark.parametrize(
    "there", [lambda step: step % 2 == 0, lambda step: step % 3 == 0, lambda step: step < 3 or step > 8, lambda step: step in (0, 1, 6, 7, 8)]
)
def test_a_stream_that_pauses_is_told_its_own_steps_in_a_run_without_timesteps(there: Callable[[int], bool], first: str) -> None:
    """Law: a step begins where a stream's turn comes again, also of one that was not called in the last."""
    texts = [noise(0), noise(1)]

    def calls(step: int) -> list[tuple[Tensor, Any]]:
        found = [(noise(99), texts[0])] * there(step) + [(noise(99), texts[1])]
        return found if first == "paused" else found[::-1]

    _, reports, _ = followed(calls, by="run")
    paused, other = list(reports.values())[:: 1 if first == "paused" else -1]
    assert [outcome.step.index for outcome in paused.outcomes] == [step for step in range(STEPS) if there(step)]
    assert len(other.outcomes) == STEPS


def test_named_streams_beyond_eight_are_said_to_be_many() -> None:
    """Law: the report gives the reason for which calls were computed."""
    with torch.no_grad(), foreseer.attach(model := Net(), REUSE) as attached, attached.generation(num_steps=4) as generation:
        for _ in range(4):
            generation.step()
            for name in range(10):
                with generation.call(stream=f"window{name}"):
                    model(noise(name))
        assert "8 calls were computed: more than 8 of one model in a step" in words(attached.reports)
        assert "outside of a run" not in words(attached.reports)


class Odd(diffusers.DiffusionPipeline):  # type: ignore[misc,no-any-unimported]
    """Its call does not name its pipeline ``self``, and leaves the work to another method, which may be called too."""

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def generate(self, steps: int) -> None:
        self.scheduler.set_timesteps(steps)
        latents, text = torch.ones(1, 4, 2, 4, 4), drawn("prompt", 6, 16)[None]
        for time in self.scheduler.timesteps:
            output = self.transformer(hidden_states=latents, timestep=time.expand(1), encoder_hidden_states=text, return_dict=False)[0]
            latents = self.scheduler.step(output, time, latents, return_dict=False)[0]

    def __call__(pipe, steps: int) -> None:  # noqa: N805
        pipe.generate(steps)


@pytest.mark.parametrize("how", ["__call__", "generate"])
def test_a_pipeline_is_driven_by_whatever_method_it_is_run(how: str) -> None:
    """Law: a run is what a pipeline's own code does between its scheduler's timesteps and its end."""
    with foreseer.attach(pipe := Odd(wan.transformer(), wan.unipc()), "taylorseer", interval=3) as attached:
        for _ in range(2):
            getattr(pipe, how)(9)
            assert attached.report.full_steps == [0, 1, 4, 7]


@pytest.mark.parametrize("name", TINY)
def test_a_preview_in_a_callback_is_a_stream_of_its_own(name: str) -> None:
    """Law: what is evaluated between two steps, with the loop's own text, takes nothing from the loop."""
    tiny = TINY[name]
    pipe = tiny.build()
    if "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters or not hasattr(pipe, "transformer"):
        pytest.skip("no callback")
    last: list[Any] = []

    def preview(pipe: Any, step: int, time: Any, values: Any) -> Any:
        handle.remove()
        args, kwargs = last[-1]
        changed = {key: value * 0.5 if key == "hidden_states" and isinstance(value, Tensor) else value for key, value in kwargs.items()}
        with torch.no_grad():
            pipe.transformer(*args, **changed)
        listen()
        return values

    def listen() -> None:
        nonlocal handle
        handle = pipe.transformer.register_forward_pre_hook(lambda module, args, kwargs: last.append((args, kwargs)), with_kwargs=True)

    handle: Any = None
    outputs = []
    for callback in (lambda pipe, step, time, values: values, preview):
        listen()
        with foreseer.attach(pipe, "reuse:interval=3") as attached:
            outputs.append(tiny.call(pipe, steps=8, callback_on_step_end=callback))
            steps = [[outcome.step.index for outcome in report.outcomes if not all(outcome.computed)] for report in attached.reports.values()]
        handle.remove()
        outputs.append(steps[0])
    assert torch.equal(outputs[0], outputs[2])
    assert outputs[1] == outputs[3]
