"""What forecasting costs on a CPU is measured by `laws.py` and `kept.py`; here they are run once, on a tiny model and for a few steps."""

import torch
from benchmarks.kept import KINDS, Lane, evaluations, kept
from benchmarks.laws import STEPS, laws

from foreseer.adapters.blocks import find_blocks
from foreseer.bench.gpu.loop import Loop
from foreseer.bench.gpu.shapes import calls_of, random_model, shapes_of, timesteps


def test_laws_tell_blocks_from_what_is_beyond_them() -> None:
    """Law: on each kind of step something is outside of blocks, and never more than all; nothing is left on the model."""
    (shape,), kind = shapes_of(("flux-dev",), "tiny"), {"device": torch.device("cpu"), "dtype": torch.float32}
    loop = Loop(random_model(shape, **kind), calls_of(shape, **kind), timesteps(shape, STEPS, **kind))
    found = laws(loop, repeats=1)
    assert {(line["policy"], line["kind"]) for line in found["steps"]} == {
        (policy, kind) for policy in ("last block", "first block as gate", "modules") for kind in ("computed", "forecast")
    }
    assert all(0 < line["seconds_outside_of_blocks"] <= line["seconds"] for line in found["steps"])
    forecast = next(line for line in found["steps"] if (line["policy"], line["kind"]) == ("last block", "forecast"))
    assert forecast["seconds"] == forecast["seconds_outside_of_blocks"], "no block runs where the last one is forecast"
    assert not any("forward" in vars(block) for _, block in find_blocks(loop.transformer))


def test_what_is_kept_is_told_with_its_floor() -> None:
    """Law: the floor has nothing but what must be done, so that its parts take less than a bare step; nothing is left on the model."""
    line = kept(Lane("taylorseer:interval=2,max_order=1,warmup_steps=2", 2), 1, steps=6, bare_steps=2, repeats=1)
    assert line["block_rows"] == 4 / 6
    assert line["kept"] > 0
    assert all(0 < line["floor"][f"{part}_seconds"] < line["bare_step_seconds"] for part in ("copies", "sums", "outside"))


def test_evaluations_are_told_of_schedules_and_gates() -> None:
    found = evaluations(rounds=1)
    assert [*found["seconds"]] == [policy for _, policy in KINDS]
    assert all(0 < seconds < 1 for seconds in found["seconds"].values())
