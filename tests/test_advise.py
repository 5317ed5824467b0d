"""The laws of `foreseer advise`: its numbers are those of draws, and what it says follows from them."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_family import ToyFamily
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.solvers import solved_by
from foreseer.errors import OptionError
from foreseer.psnr import psnr
from foreseer.workbench.advise import AdviseSettings, advise
from foreseer.workbench.advised import Advice, Kind, Lane, difference
from foreseer.workbench.character import Character, character_of, siblings

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),  # of diffusers' schedulers
    pytest.mark.usefixtures("toy"),
]

OWN_LOOP = Character(scheduler="", order=None, distilled="", guided="", stochastic=False)


def advised(**changes: Any) -> Advice:
    return advise(AdviseSettings(**{"workload": "toy", "samples": 3, "batch": 2, "steps": 16, "psnr": 30.0, **changes}))


def test_each_number_is_that_of_a_draw(toy: ToyFamily) -> None:
    """Law: fewer steps and the limit are plain draws of the same noise; the cache computes what it was told, and costs its share."""
    found = advised()

    def drawn(count: int) -> torch.Tensor:
        return toy.decode(torch.cat([toy.draw(batch, seed=0, num_steps=count, guidance=1.0) for batch in ([0, 1], [2])]))

    now, limit = drawn(16), drawn(64)
    assert [lane.name for lane in found.of("fewer")] == ["full, 8 steps", "full, 5 steps", "full, 4 steps"]
    for lane in found.of("fewer"):
        own = drawn(round(lane.computed))
        assert lane.psnr == pytest.approx(psnr(own, now).tolist())
        assert lane.to_limit == pytest.approx(psnr(own, limit).tolist())
        assert lane.cost == lane.computed / 16
    (full,), (most,) = found.of("full"), found.of("limit")
    assert full.to_limit == most.psnr == pytest.approx(psnr(now, limit).tolist())
    assert full.psnr == most.to_limit == (math.inf,) * 3
    for kind in ("cache", "planned", "hindsight"):
        assert [lane.computed for lane in found.of(kind)] == [8, 5, 4]
    for lane in (*found.of("cache"), *found.of("planned"), *found.of("hindsight")):
        assert lane.cost == pytest.approx(lane.computed / 16)


@pytest.mark.parametrize("changes", [{"steps": 8, "samples": 2}, {"steps": 3, "no_bound": True}])
def test_few_steps_are_measured_at_4_8_and_12(changes: Any) -> None:
    found = advised(**changes)
    assert found.totals == sorted({4, 8, 12, changes["steps"]})
    assert not found.of("limit")
    for total in found.totals:
        assert {lane.kind for lane in found.lanes if lane.total == total} >= {"full", "fewer", "cache"}
        assert f"at {total} steps " in found.recommendation()
    assert bool(found.of("hindsight")) != changes.get("no_bound", False)


def lane(kind: Kind, computed: int, mean: float, *, spread: float = 0.01) -> Lane:
    values = tuple(mean + spread * k for k in (-1, 0, 1, 0))
    return Lane(name=f"{kind} {computed}", kind=kind, total=20, computed=computed, cost=computed / 20, psnr=values)


def advice(*lanes: Lane, character: Character = OWN_LOOP, wanted: float = 30.0) -> Advice:
    return Advice(workload="w", num_steps=20, samples=4, psnr=wanted, character=character, lanes=(lane("full", 20, 100.0), *lanes))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["fewer", "solver", "cache", "planned"]), st.integers(2, 19), st.floats(20, 60)), unique_by=lambda one: one[:2]))
def test_what_is_chosen_is_near_enough_and_nothing_cheaper_is(given: list[tuple[Kind, int, float]]) -> None:
    found = advice(*(lane(*one) for one in given))
    near = [one for one in found.lanes if one.kind != "full" and one.mean >= 30]
    chosen = found.choice(20)
    if not near:
        assert chosen is None
        assert "leave it" in found.recommendation()
        return
    assert chosen is not None
    assert chosen.mean >= 30
    assert chosen.computed == min(one.computed for one in near)
    alike = [one for one in near if one.computed == chosen.computed]
    assert not any((over := difference(one, chosen)).clear and over.mean > 0 for one in alike), "another is nearer beyond noise"
    verb = {"fewer": "run", "solver": "run solver", "cache": "use cache", "planned": "plan a schedule of"}[chosen.kind]
    assert f"{verb} {round(chosen.computed)}" in found.recommendation()


def test_the_simplest_wins_where_noise_does_not_decide() -> None:
    near, noisy = lane("fewer", 10, 35.0), lane("cache", 10, 37.0, spread=5.0)
    assert advice(near, noisy).choice(20) == near
    assert advice(near, clear := lane("cache", 10, 37.0)).choice(20) == clear
    assert "2.0 dB nearer than as many plain steps (within the noise of 4 samples)" in str(advice(near, noisy))
    assert "2.0 dB nearer than as many plain steps." in str(advice(near, clear))
    assert str(advice(near, clear)).endswith("use cache 10: 37.0 dB, the worst 37.0 dB, at 0.50 of the cost.")
    assert str(advice(lane("fewer", 10, 29.0))).endswith("leave it (the nearest, fewer 10, reaches 29.0 dB).")
    noise = Character(scheduler="EulerAncestral", order=1, distilled="", guided="", stochastic=True)
    assert str(advice(near, character=noise)).endswith("by PSNR nothing can be advised here.")


def test_a_stopped_one_goes_on_and_draws_nothing_twice(tmp_path: Path, toy: ToyFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, drawn = advised(no_bound=True), []

    def counted(*args: Any, **given: Any) -> torch.Tensor:
        if len(drawn) % 7 == 6 and drawn[-1] != "stopped":
            drawn.append("stopped")
            raise KeyboardInterrupt
        drawn.append("draw")
        return ToyFamily.draw(toy, *args, **given)

    monkeypatch.setattr(toy, "draw", counted)
    for _ in range(20):
        with contextlib.suppress(KeyboardInterrupt):
            found = advised(no_bound=True, out=tmp_path)
            break
    assert found.to_dict() == whole.to_dict()
    lanes = len(found.lanes)
    assert lanes == 8
    assert drawn.count("stopped") >= 2
    assert 2 * lanes <= drawn.count("draw") <= 2 * lanes + drawn.count("stopped"), "but for the lane that was stopped, each batch is drawn once"
    with pytest.raises(OptionError, match=r"seed was 0, is 1; write another --out$"):
        advised(no_bound=True, out=tmp_path, seed=1)


def test_what_is_finished_is_read(tmp_path: Path, toy: ToyFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the bound's recording too."""
    first = advised(samples=2, counts=(5,), out=tmp_path)
    monkeypatch.setattr(toy, "draw", lambda *_, **__: pytest.fail("drawn again"))
    assert advised(samples=2, counts=(5,), out=tmp_path).to_dict() == first.to_dict()
    assert first.of("hindsight")


def test_the_command_prints_tables_and_ends_with_what_to_do(tmp_path: Path) -> None:
    words = ["advise", "--workload", "toy", "--samples", "2", "--steps", "8", "--no-bound", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert result.stdout.count("of 8 steps") >= 1
    assert "of 12 steps" in result.stdout
    assert "On 2 samples, asking for 30 dB in the mean: at 4 steps" in " ".join(result.stdout.split())
    kept = json.loads((tmp_path / "advice.json").read_text())
    assert kept["sentences"][-1].startswith("On 2 samples")
    assert set(kept["chosen"]) == {"4", "8", "12"}
    wrong = CliRunner().invoke(app, ["advise", "--workload", "toy", "--steps", "8", "--counts", "30"])
    assert wrong.exit_code == 2
    assert "counts=[30] has none below 8 steps; write whole numbers from 2 to 7" in " ".join(wrong.output.split())


def schedulers() -> dict[str, Any]:
    diffusers = pytest.importorskip("diffusers")
    return {
        "shifted flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        "DDIM": diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="epsilon", clip_sample=False, timestep_spacing="trailing"),
    }


def solved(scheduler: Any, steps: int, kind: str) -> np.ndarray[Any, Any]:
    """Sample data that are normal with a standard deviation of 1/2, for which a denoiser's best answer is known."""
    scheduler.set_timesteps(steps)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    alphas = getattr(scheduler, "alphas_cumprod", None)
    for t in scheduler.timesteps:
        if "flow" in kind:
            sigma = float(t) / 1000
            variance = (1 - sigma) ** 2 / 4 + sigma**2
            output = x * (sigma - (1 - sigma) / 4) / variance
        else:
            kept = float(alphas[int(t)])
            output = x * (1 - kept) ** 0.5 / (kept / 4 + 1 - kept)
        x = scheduler.step(output, t, x).prev_sample
    return x.numpy()


@pytest.mark.parametrize("name", ["shifted flow", "DDIM"])
def test_siblings_solve_the_same_and_are_nearer_in_as_many_steps(name: str) -> None:
    """Law: on data whose denoiser is known, all go to the same end, and the siblings come nearer in 12 steps."""
    own = schedulers()[name]
    found = siblings(own)
    assert set(found) == {"UniPCMultistepScheduler", "DPMSolverMultistepScheduler"}
    limit = solved(own, 500, name)
    off = np.abs(solved(own, 12, name) - limit).max()
    for better in found.values():
        assert np.abs(solved(better, 100, name) - limit).max() < off / 4, "it goes elsewhere"
        assert np.abs(solved(better, 12, name) - limit).max() < off


def test_what_is_no_first_order_solver_of_an_equation_has_no_siblings() -> None:
    diffusers = pytest.importorskip("diffusers")
    assert siblings(None) == {}
    for other in (
        diffusers.UniPCMultistepScheduler(),
        diffusers.EulerAncestralDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        diffusers.FlowMatchHeunDiscreteScheduler(),
        diffusers.LCMScheduler(),
    ):
        assert siblings(other) == {}, type(other).__name__


def test_a_pipeline_is_read_and_drawn_with_other_solvers_and_gets_its_own_back() -> None:
    pytest.importorskip("diffusers")
    from tiny_workload import TinyWorkload

    family = TinyWorkload("FluxPipeline", num_steps=14)
    own = family.pipeline.scheduler
    found = advise(AdviseSettings(workload=family, samples=2, counts=(5,), no_bound=True))
    assert family.pipeline.scheduler is own
    tried = {lane.name.removesuffix(", 5 steps") for lane in found.of("solver")} | {note.partition(" does not fit here: ")[0] for note in found.notes}
    assert tried == {"UniPCMultistepScheduler", "DPMSolverMultistepScheduler"}
    assert found.of("limit")[0].name == "28 steps of UniPCMultistepScheduler"
    assert found.sentences()[0] == "14 steps with FlowMatchEulerDiscreteScheduler, of first order."
    with pytest.raises(RuntimeError), solved_by(family, siblings(own)["UniPCMultistepScheduler"]):
        raise RuntimeError
    assert family.pipeline.scheduler is own
    assert character_of(family).guided == "Guidance is distilled into the model: one call a step"
    family.pipeline.transformer.register_to_config(guidance_embeds=False)
    assert "schnell" in character_of(family).distilled
