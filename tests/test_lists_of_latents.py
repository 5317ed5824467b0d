"""Laws of what a list in a call is, one tensor for each row or several streams that hold all rows, and of arguments that are one for all rows."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer
from foreseer import ContractError, Needs, Plan, Site, hookimpl
from foreseer.adapters.rows import Batch, batch_of, copies_in, merge_rows, select_rows, take_rows
from foreseer.policies import taylor

TIMES = tuple(1000.0 - 60 * step for step in range(12))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, z: Any, time: Tensor) -> Any:
        if isinstance(z, list):
            video, audio = z
            return [video + torch.tanh(self.inner(video) + time), audio + torch.tanh(self.inner(audio) + video.mean(1, keepdim=True))]
        return z + torch.tanh(self.inner(z) + time)


class Streams(nn.Module):
    """Video and audio, as one sequence or, ``apart``, as a list that its blocks hand on."""

    def __init__(self, apart: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head, self.apart = nn.ModuleList(Block() for _ in range(3)), nn.Linear(8, 8), apart
        self.requires_grad_(False)

    def forward(self, hidden_states: Any, timestep: Tensor, encoder_hidden_states: Tensor | None = None) -> Any:
        time = torch.sin(timestep / 300).reshape(-1, 1, 1)
        if encoder_hidden_states is not None:
            time = time + encoder_hidden_states.mean(1, keepdim=True)
        z = list(hidden_states) if self.apart else torch.cat(list(hidden_states), 1)
        for block in self.blocks:
            z = block(z, time)
        return [self.head(one) for one in (z if self.apart else z.split([one.shape[1] for one in hidden_states], 1))]


class FirstRow:
    """Computes the first row in each step, and forecasts the others but for the first two."""

    @hookimpl
    def setup(self, run: foreseer.Run) -> Needs:
        self.rows = run.rows
        return Needs(sites=(Site(run.depth - 1),))

    @hookimpl
    def before_step(self, step: foreseer.Step) -> Plan | None:
        return None if step.index < 2 else Plan(forecast=(Site(2),), compute=(True, *[False] * (self.rows - 1)))


def sampled(model: nn.Module, streams: Any, text: Tensor | None = None, times: int | None = None) -> list[Tensor]:
    for time in TIMES:
        given = {} if text is None else {"encoder_hidden_states": text}
        out = model(hidden_states=streams, timestep=torch.full((times or len(streams[0]),), time), **given)
        streams = type(streams)(one - 0.3 * change for one, change in zip(streams, out, strict=True))
    return list(streams)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("tokens", [4, 3])
@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("kind", [list, tuple])
def test_streams_of_latents_hold_all_rows(kind: type, rows: int, tokens: int, apart: bool) -> None:
    """Law: a row that is computed is the bare model's in each stream, and each row decides as it does alone."""
    model, streams = Streams(apart), kind((noise(rows, 4, 8), noise(rows, tokens, 8, seed=1)))
    with torch.no_grad():
        bare = sampled(model, streams)
        with foreseer.attach(model, lambda: (FirstRow(), taylor(max_order=0))) as attached, attached.run(timesteps=TIMES):
            driven = sampled(model, streams)
    report = attached.report
    assert [outcome.computed for outcome in report.outcomes[2:]] == [(True, *[False] * (rows - 1))] * (len(TIMES) - 2)
    assert not [word for word in report.warnings if "cannot" in word or "batch" in word]
    for one, other in zip(driven, bare, strict=True):
        torch.testing.assert_close(one[0], other[0])
        assert not torch.allclose(one[1], other[1], atol=1e-3)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("policy", ["cg_taylor:threshold=0.05,warmup_steps=2", "speca:threshold=0.2"])
def test_one_text_and_one_time_for_all_rows(policy: str, kind: type) -> None:
    """Law: what is given once for all rows makes them no single row; each decides as it does alone."""
    model, text = Streams(), noise(1, 5, 8, seed=3)
    streams = kind(noise(4, tokens, 8, seed=tokens) * torch.tensor([0.1, 1, 3, 9]).reshape(4, 1, 1) for tokens in (4, 3))
    with torch.no_grad():
        with foreseer.attach(model, policy) as attached, attached.run(timesteps=TIMES, groups=4):
            together = sampled(model, streams, text, times=1)
        assert attached.report.run.rows == 4
        for row in range(4):
            with foreseer.attach(model, policy) as attached, attached.run(timesteps=TIMES):
                alone = sampled(model, kind(one[row : row + 1] for one in streams), text, times=1)
            for one, other in zip(together, alone, strict=True):
                torch.testing.assert_close(one[row : row + 1], other)


def images(rows: int, channels: int = 16) -> list[Tensor]:
    return [noise(channels, 1, 2, 2, seed=row) for row in range(rows)]


def texts(rows: int, tokens: int = 6) -> list[Tensor]:
    return [noise(tokens + row % 2, 8, seed=row) for row in range(rows)]


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], Batch]] = {
    "a list of images": ((images(3), torch.ones(3), texts(3)), {}, Batch(3, 4)),
    "as many images as channels": ((images(4, 4), torch.ones(4), texts(4)), {}, Batch(4, 4)),
    "and as tokens": ((images(4, 4), torch.ones(4), [noise(4, 8)] * 4), {}, Batch(4, 4)),
    "as many channels as tokens": ((), {"hidden_states": images(2), "timestep": torch.ones(2), "encoder_hidden_states": [noise(16, 8)] * 2}, Batch(2, 4)),
    "one image": ((images(1), torch.ones(1), texts(1)), {}, Batch(1, 4)),
    "streams": ((), {"hidden_states": [noise(2, 4, 8), noise(2, 4, 8)], "timestep": torch.ones(2)}, Batch(2)),
    "streams with residuals": ((), {"hidden_states": [noise(2, 4, 8)] * 2, "residuals": [noise(2, 4, 8)] * 2}, Batch(2)),
    "three rows in two streams": (([noise(3, 4, 8), noise(3, 4, 8)], torch.ones(3)), {}, Batch(3)),
    "a tuple of streams": (((noise(2, 4, 8), noise(2, 5, 8)), torch.ones(2)), {}, Batch(2)),
    "one text and one time": ((), {"hidden_states": noise(4, 5, 8), "timestep": torch.ones(1), "encoder_hidden_states": noise(1, 3, 8)}, Batch(4)),
    "texts of one row in a list": ((), {"hidden_states": noise(4, 5, 8), "timestep": torch.ones(1), "encoder_hidden_states": [noise(1, 3, 8)] * 2}, Batch(4)),
    "a packed row": ((), {"hidden_states": noise(9, 8), "timestep": torch.ones(1), "encoder_hidden_states": noise(1, 3, 8)}, Batch(1)),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_how_a_call_holds_its_rows(name: str) -> None:
    """Law: counting, taking, choosing and putting back go by one decision."""
    args, kwargs, batch = CALLS[name]
    assert batch_of(args, kwargs) == batch
    latents = args[0] if args else kwargs["hidden_states"]
    if batch.rows > 1:
        part = take_rows(latents, [1], batch.rows, listed=batch.listed)
        if isinstance(latents, Tensor):
            assert torch.equal(part, latents[1:2])
        else:
            assert len(part) == (1 if batch.listed else len(latents))
            assert all(torch.equal(one, two if batch.listed else two[1:2]) for one, two in zip(part, latents[1:] if batch.listed else latents, strict=False))
        chosen = select_rows(latents, [1, 0], batch)
        merged = merge_rows(latents, [0, 1], chosen, batch)
        swapped = merge_rows(merged, [1, 0], chosen, batch)
        assert all(torch.equal(a, b) for a, b in zip(swapped, latents, strict=True))


def test_copies_of_streams_are_rows_that_are_equal_in_each() -> None:
    video, audio = noise(2, 4, 8), noise(2, 4, 8, seed=1)
    assert copies_in((), {"hidden_states": [video, audio]}, 2) == 1
    assert copies_in((), {"hidden_states": [video, video]}, 2) == 1
    assert copies_in((), {"hidden_states": [video[[0, 0]], audio[[0, 0]]]}, 2) == 2
    assert copies_in((), {"hidden_states": [video[[0, 0]], audio]}, 2) == 1
    assert copies_in((images(2) * 2, torch.ones(4), texts(4)), {}, 4) == 2


def test_a_call_without_rows_is_refused_in_words() -> None:
    with pytest.raises(ContractError, match="without a tensor that has a batch dimension"):
        batch_of((), {"hidden_states": None, "timestep": torch.tensor(3.0)})
