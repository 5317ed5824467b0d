"""The laws of what forecasting may cost are measured on a CPU by `laws.py`; here it is run once, on a tiny model."""

import torch
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
