"""The laws of `foreseer explain`: what it says of a step is what that step did, and looking changes nothing."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_family import STEPS, ToyFamily, times_of
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.adapters import attach
from foreseer.bench.lanes import Sampler
from foreseer.bench.workload import noise_of
from foreseer.errors import OptionError
from foreseer.policies.drafting import Whole
from foreseer.registry import policy
from foreseer.workbench.explain import ExplainSettings, explain
from foreseer.workbench.explained import Explained, Likeness, Replaced, StepAccount
from foreseer.workbench.gauge import NotFiniteError
from foreseer.workbench.shadowing import Watch, draw_watched
from foreseer.workbench.stricter import stricter_than

pytestmark = pytest.mark.usefixtures("toy")

POLICY = "taylorseer:interval=3,max_order=0,target=last_block"


def explained(given: str = POLICY, **changes: Any) -> Explained:
    return explain(ExplainSettings(**{"policy": given, "workload": "toy", "sample": 2, "replaced": None, **changes}))


def by_hand(family: ToyFamily, given: str, sample: int, computed: tuple[int, ...] = ()) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Sample in a loop of our own: the final latent, and at each step the latent, the output that was used, and what a copy of the
    model gives. In some steps the latter is used, if asked for."""
    bare, arrived, used, truth = copy.deepcopy(family.model), [], [], []
    x = noise_of([sample], seed=0, shape=(8,))
    with torch.no_grad(), attach(family.model, policy(given)) as attached, attached.run(timesteps=times_of(STEPS)):
        for step, t in enumerate(times_of(STEPS)):
            time = torch.full((1,), t)
            own, real = family.model(x, time), bare(x, time)
            arrived.append(x)
            used.append(own)
            truth.append(real)
            x = x - (real if step in computed else own) / STEPS
    return x, arrived, used, truth


def test_each_number_is_what_a_loop_by_hand_finds(toy: ToyFamily) -> None:
    """Law: the error of a forecast, the drift of the latent, and what one computed output gives back."""
    found = explained()
    full, came, *_ = by_hand(toy, "none", 2)
    own, arrived, used, truth = by_hand(toy, POLICY, 2)
    assert [step.forecast for step in found.steps] == [not torch.equal(a, b) for a, b in zip(used, truth, strict=True)]
    for step in found.steps:
        k = step.step
        assert step.off == pytest.approx(((used[k] - truth[k]).norm() / truth[k].norm()).item(), rel=1e-4, abs=1e-6)
        assert step.drift == pytest.approx(((arrived[k] - came[k]).norm() / came[k].norm()).item(), rel=1e-4, abs=1e-6)
    assert found.likeness.error == pytest.approx(((own - full).norm() / full.norm()).item(), rel=1e-4)
    assert [step for one in found.runs for step in one.steps] == [step.step for step in found.steps if step.forecast]
    assert found.worst_run is not None
    assert [one.steps for one in found.replaced] == [(step,) for step in found.worst_run.steps]
    for one in (*found.runs, *found.replaced):
        other = by_hand(toy, POLICY, 2, computed=one.steps)[0]
        assert one.likeness.error == pytest.approx(((other - full).norm() / full.norm()).item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("given", [POLICY, "agreement:tolerance=0.3,target=last_block", "cg_taylor:threshold=0.4,warmup_steps=2"])
def test_looking_changes_nothing_and_replacing_every_output_is_full_computation(toy: ToyFamily, given: str) -> None:
    sampler = Sampler.of(toy, seed=0, num_steps=None, guidance=None)
    plain = sampler.run([1], driven=sampler.policy(policy(given), [1])).latents
    full = sampler.draw([1])
    assert not torch.equal(plain, full), "nothing was forecast"
    assert torch.equal(draw_watched(sampler, 1, policy(given), watch=Watch())[0].latents, plain)
    assert torch.equal(draw_watched(sampler, 1, policy(given), watch=Watch(replace=True))[0].latents, full)
    assert torch.equal(sampler.draw([1]), full), "something stayed behind on the model"


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline"])
def test_so_it_is_on_pipelines_and_where_a_step_is_two_calls(name: str) -> None:
    pytest.importorskip("diffusers")
    from tiny_workload import TinyWorkload

    sampler = Sampler.of(TinyWorkload(name), seed=0, num_steps=6, guidance=None)
    spec = policy("taylorseer:interval=3,target=last_block")
    full, watch = sampler.draw([0]), Watch(replace=True)
    assert not torch.equal(sampler.run([0], driven=sampler.policy(spec, [0])).latents, full)
    assert torch.equal(draw_watched(sampler, 0, spec, watch=watch)[0].latents, full)
    assert len({shadow.stream for shadow in watch.shadows}) == (2 if name == "WanPipeline" else 1)
    assert all(shadow.off > 0 for shadow in watch.shadows)
    found = explain(ExplainSettings(policy=str(spec), workload=sampler.workload, steps=6, replaced=2, stricter=1))
    assert found.likeness.error > 0
    assert [step.step for step in found.steps] == list(range(6))
    assert all(math.isfinite(step.drift) for step in found.steps)


def test_the_one_step_that_was_forecast_is_found_and_blamed() -> None:
    found = explained("planned:schedule=0+1+2+3+4+5+7+8+9/10,max_order=0")
    assert found.worst is not None
    assert found.worst.step == 6
    assert found.runs[0].likeness.psnr == math.inf
    assert found.gain(found.runs[0]) == math.inf
    assert found.replaced == ()
    said = str(found)
    assert "The forecast of step 6 did the damage, of the one run of forecasts: with its output computed and all else as it was, exact" in said
    assert "No gate looked at it: it was forecast no. 1 in a row, behind step 5" in said
    assert "no option among steps, budget, tolerance, threshold and interval" in said


@pytest.mark.parametrize(
    ("given", "changes", "says"),
    [
        ("taylorseer:interval=2,max_order=0", {}, "It cannot be made stricter: interval=2 is as strict as it goes without computing every step"),
        ("taylorseer:interval=3,max_order=0", {"stricter": 0}, "No stricter setting was drawn; write --stricter 6"),
    ],
)
def test_why_nothing_stricter_was_tried_is_said(given: str, changes: dict[str, Any], says: str) -> None:
    found = explained(given, **changes)
    assert found.stricter == ()
    assert says in str(found)
    assert "has no option" not in str(found)


def test_how_many_runs_were_tried_is_said_where_it_is_not_all() -> None:
    found = explained("taylorseer:interval=2,max_order=0,warmup_steps=1", replaced=2, stricter=0)
    assert len(found.runs) == 2
    said = str(found)
    assert " runs of forecasts (2 were tried)" in said
    assert ",:" not in said


def test_of_a_sample_that_is_not_finite_the_run_is_blamed_without_which_it_is() -> None:
    steps = tuple(
        StepAccount(step=k, fate="forecast" if k in (1, 3) else "computed", reason="", error=math.nan, threshold=math.nan, behind=k - 1, off=0.1, drift=0.1)
        for k in range(5)
    )
    broken, healed = (Likeness(psnr=psnr, error=error, computed=3) for psnr, error in ((math.nan, math.nan), (31.0, 0.03)))
    runs = (Replaced(steps=(1,), likeness=broken), Replaced(steps=(3,), likeness=healed))
    given: dict[str, Any] = {"policy": "p", "workload": "w", "sample": 0, "asked": "a fox", "num_steps": 5, "stricter": (), "images": {}}
    found = Explained(**given, likeness=broken, steps=steps, runs=runs, replaced=())
    assert found.worst is steps[3]
    assert "(a fox) of w: not finite.\nThe forecast of step 3 did the damage, of the 2 runs of forecasts: with its output computed" in str(found)
    assert "all else as it was, 31.0 dB." in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_full_computation_that_is_not_finite_is_said(toy: ToyFamily) -> None:
    toy.model.head.bias.data[:] = math.nan
    with pytest.raises(NotFiniteError, match="fully computed; write another --dtype"):
        explained()


def test_nothing_is_blamed_where_nothing_broke() -> None:
    found = explained("none")
    assert found.worst is None
    assert found.runs == found.replaced == found.stricter == ()
    assert found.sentences()[-1].endswith("draws what full computation draws: nothing broke.")


def test_a_gate_is_told_what_it_saw_and_a_stricter_one_catches_the_step() -> None:
    found = explained("cg_taylor:threshold=0.4,warmup_steps=2")
    worst, caught = found.worst, found.caught
    assert worst is not None
    assert caught is not None
    assert worst.fate == "accepted"
    assert worst.error <= worst.threshold == 0.4
    assert f"saw an error of {worst.error:.3g} at a threshold of 0.4" in str(found)
    assert caught.off <= worst.off / 2
    assert caught.policy.startswith("cg_taylor:threshold=0.")
    assert caught.policy in str(found)


@given(
    st.sampled_from(["cg_taylor:threshold=0.1", "speca:threshold=0.3", "agreement:tolerance=0.2", "agreement:steps=6", "taylorseer:interval=6"]),
    st.floats(0.001, 1), st.integers(1, 8), st.booleans(),
)  # fmt: skip
def test_stricter_settings_are_stricter_each_than_the_one_before(given: str, share: float, most: int, judged: bool) -> None:
    spec = policy(given)
    name, value = next(iter(spec.options.items()))
    saw = {"error": share * value, "threshold": value} if judged else {"error": math.nan, "threshold": math.nan}
    worst = StepAccount(step=5, fate="accepted", reason="", behind=3, off=0.1, drift=0.1, **saw)
    found = [spec.options[name] for spec in stricter_than(spec, worst, most=most)]
    assert found == sorted(set(found), reverse=name != "steps")
    assert 1 <= len(found) <= most
    assert all(own > value if name == "steps" else own < value for own in found)
    if judged and isinstance(value, float):
        assert 0.99 * saw["error"] < found[0] < saw["error"]


def test_a_stopped_one_goes_on_and_draws_nothing_twice(tmp_path: Path, toy: ToyFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: stopped in any draw, with three finished in each attempt, it comes to the same."""
    whole, drawn = explained(), []

    def counted(*args: Any, **given: Any) -> Tensor:
        if len(drawn) % 4 == 3 and drawn[-1] != "stopped":
            drawn.append("stopped")
            raise KeyboardInterrupt
        drawn.append("draw")
        return ToyFamily.draw(toy, *args, **given)

    monkeypatch.setattr(toy, "draw", counted)
    for _ in range(20):
        try:
            found = explained(out=tmp_path / "here")
            break
        except KeyboardInterrupt:
            continue
    assert found.to_dict() == whole.to_dict()
    assert drawn.count("stopped") >= 2
    assert drawn.count("draw") == 2 + len(whole.runs) + len(whole.replaced) + len(whole.stricter)
    with pytest.raises(OptionError, match=r"begun with other settings: .*sample was 2, is 3; write another --out$"):
        explained(out=tmp_path / "here", sample=3)
    (next((tmp_path / "here" / "draws").glob("*"))).write_bytes(b"{")
    with pytest.raises(OptionError, match=r"is damaged: .*; delete it, and the same command draws it again"):
        explained(out=tmp_path / "here")


def test_the_command_writes_words_numbers_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["explain", POLICY, "--workload", "toy", "--sample", "2", "--replaced", "3", "--out", str(out)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert "of sample 2 (2) of toy" in " ".join(result.stdout.split())
    assert f"picture: {out / 'explain.png'}" in " ".join(result.stdout.split()) or str(out) in result.stdout
    assert (out / "explain.png").read_bytes()[:4] == b"\x89PNG"
    kept = json.loads((out / "explain.json").read_text())
    assert len(kept["runs"]) == 3
    assert len(kept["gains_db"]) == len(kept["runs"]) + len(kept["replaced"])
    assert kept["worst_step"] in [one["steps"][0] for one in kept["replaced"]]
    found = explained(replaced=3, stricter=0)
    assert found.plot().get_axes()
    assert found._repr_html_().count("<p>") == len([said for said in found.sentences() if said])
    assert "image/png" in found._repr_html_()
    again = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(again.stdout) == kept
    wrong = CliRunner().invoke(app, ["explain", "qqq", "--workload", "toy"])
    assert wrong.exit_code == 2
    assert "qqq" in wrong.output


@pytest.mark.parametrize("target", ["last_block", "residual", "output"])
def test_other_targets(target: Whole) -> None:
    assert explained(f"taylorseer:interval=3,max_order=0,target={target}", replaced=1, stricter=0).worst is not None
