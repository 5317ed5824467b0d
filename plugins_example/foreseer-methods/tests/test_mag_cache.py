"""MagCache: the published numbers, a loop written from its description, and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreseer_methods.mag_cache import mag_cache, mag_computed_steps
from foreseer_methods.mag_ratios import FLUX, mag_calibration, mag_ratios, mag_ratios_of_products, mag_table, rescaled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foreseer
from foreseer.registry import parse_policy
from foreseer.testing.worlds import DEPTH, ROWS, World, constant, mixed
from foreseer.types import STREAM, Site

RESIDUAL, STEPS = Site(DEPTH - 1, since=-1), 20
tables = st.lists(st.floats(0.8, 1.25), min_size=1, max_size=40)


def run(world: World, steps: int = STEPS, policy: Any = mag_cache, **options: Any) -> tuple[list[Tensor], foreseer.Report]:
    outputs: list[Tensor] = []
    spec = parse_policy(policy) if isinstance(policy, str) else foreseer.policy(policy, **options)
    told: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, i: outputs.append(output.clone())}
    _, report = foreseer.sample(world, None, list(range(steps)), policy=spec, **told)
    return outputs, report


def released(world: World, ratios: list[float], threshold: float, max_skip: int, retained: int) -> tuple[list[Tensor], list[int]]:
    """The published loop."""
    ratio, error, skipped, kept, outputs, computed = 1.0, 0.0, 0, None, [], []
    for step, entry in enumerate(ratios):
        done = world.forward(step, substitute={}, record=(Site(DEPTH - 1),), see=(STREAM,))
        stream, last = done.seen[STREAM], done.features[Site(DEPTH - 1)]
        if step >= retained:
            ratio, skipped = ratio * entry, skipped + 1
            error += abs(1 - ratio)
            if kept is not None and error <= threshold and skipped <= max_skip:
                outputs.append(stream + kept)
                continue
            ratio, error, skipped = 1.0, 0.0, 0
        kept = last - stream
        computed.append(step)
        outputs.append(last)
    return outputs, computed


@pytest.mark.parametrize(
    ("options", "steps", "computed"),
    [
        ({"threshold": 0.24, "max_skip": 5, "retention": 0.1, "whose": "flux"}, 28, [0, 1, 2, 5, 9, 11, 17, 23, 26]),
        ({"threshold": 0.24, "max_skip": 5, "retention": 0.1}, 28, [0, 1, 2, 5, 9, 15, 21, 26]),
        ({}, 28, [*range(6), 7, 9, 13, 17, 21, 24, 26, 27]),
        ({}, 50, [*range(10), 11, 13, 15, 17, 19, 23, 27, 31, 35, 39, 42, 44, 46, 47, 48, 49]),
    ],
)
def test_the_published_numbers(options: dict[str, Any], steps: int, computed: list[int]) -> None:
    assert run(World(mixed), steps=steps, ratios="flux", **options)[1].full_steps == computed


@settings(deadline=None, max_examples=50)
@given(tables, st.floats(0, 0.5), st.integers(0, 5), st.floats(0, 1))
def test_it_is_the_published_loop(ratios: list[float], threshold: float, max_skip: int, retention: float) -> None:
    retained = int(retention * len(ratios) + 0.5)
    outputs, report = run(World(mixed), steps=len(ratios), ratios=ratios, threshold=threshold, max_skip=max_skip, retention=retention, whose="flux")
    wanted, computed = released(World(mixed), ratios, threshold, max_skip, retained)
    if len(ratios) != 28:
        assert report.full_steps == computed
        assert all(torch.equal(a, b) for a, b in zip(outputs, wanted, strict=True))


def test_equal_to_the_threshold_is_reused_but_in_the_wan_code() -> None:
    ratios = [1.0, 1.5, 1.0, 1.0]
    common: dict[str, Any] = {"threshold": 0.5, "max_skip": 1, "retained": 0}
    assert mag_computed_steps(ratios, **common) == mag_computed_steps(ratios, whose="flux", **common) == (0, 2)
    assert mag_computed_steps(ratios, whose="wan", **common) == (0, 1, 3)


def test_the_wan_code_retains_calls_of_both_streams_in_turn() -> None:
    for stream, retained in (("cond", 5), ("uncond", 4), ("", 5)):
        world = World(constant)
        run = foreseer.Run(DEPTH, ROWS, (0, 1, 2), num_steps=12, sites=world.sites, places=world.places, stream=stream)
        session = foreseer.Session(world, foreseer.policy(mag_cache, ratios=[1.0] * 12, whose="wan", retention=0.38, max_skip=99), run)
        for step in range(12):
            session.evaluate(step)
        assert session.finish().full_steps == list(range(retained)), "int(2 * 12 * 0.38) = 9 calls"


def test_edges_of_the_threshold() -> None:
    assert run(World(mixed), ratios=[1.01] * STEPS, threshold=0.0, retention=0.0)[1].full_steps == list(range(STEPS))
    assert run(World(mixed), ratios=[1.01] * STEPS, threshold=float("inf"), retention=0.0, max_skip=STEPS)[1].full_steps == [0]
    assert run(World(mixed), ratios=[1.0] * STEPS, max_skip=0)[1].full_steps == list(range(STEPS))


def test_without_a_table_everything_is_computed_and_told() -> None:
    _, report = run(World(mixed))
    assert report.full_steps == list(range(STEPS))
    assert "has no table" in report.warnings[0]


def test_a_run_of_unknown_length_is_refused_and_one_that_begins_later_has_the_rest() -> None:
    world = World(mixed)
    given: dict[str, Any] = {"sites": world.sites, "places": world.places}
    with pytest.raises(foreseer.OptionError, match="give the run timesteps= or num_steps="):
        foreseer.Session(world, foreseer.policy(mag_cache, ratios="flux"), foreseer.Run(DEPTH, ROWS, (0, 1, 2), **given))
    session = foreseer.Session(
        world, foreseer.policy(mag_cache, ratios=[1.0] * 12, max_skip=2), foreseer.Run(DEPTH, ROWS, (0, 1, 2), num_steps=8, start=4, **given)
    )
    for step in range(8):
        session.evaluate(step)
    assert session.finish().full_steps == [0, 3, 6]


def test_each_stream_may_have_a_table() -> None:
    world = World(mixed)
    spec = foreseer.policy(mag_cache, ratios={"cond": [1.0] * 4, "uncond": [2.0] * 4}, retention=0.0, max_skip=9)
    for stream, full in (("cond", [0]), ("uncond", [0, 1, 2, 3])):
        run = foreseer.Run(DEPTH, ROWS, (0, 1, 2), num_steps=4, sites=world.sites, places=world.places, stream=stream)
        session = foreseer.Session(world, spec, run)
        for step in range(4):
            session.evaluate(step)
        assert session.finish().full_steps == full
    run_of = foreseer.Run(DEPTH, ROWS, (0, 1, 2), num_steps=4, sites=world.sites, places=world.places)
    with pytest.raises(foreseer.OptionError, match="none for stream ''"):
        foreseer.Session(world, spec, run_of)


@given(tables.filter(lambda table: len(table) > 1), st.integers(2, 60))
def test_rescaled_by_logarithms_keeps_what_the_ratios_multiply_up_to(ratios: list[float], steps: int) -> None:
    ratios[0] = 1.0
    assert np.prod(rescaled(ratios, steps, "log")) == pytest.approx(np.prod(ratios), rel=1e-9)
    assert rescaled(ratios, len(ratios), "log") == tuple(ratios)


def test_with_half_the_steps_the_nearest_ratio_is_the_root_of_the_true_one() -> None:
    ratios = [1.0] + [1.1] * 20
    assert rescaled(ratios, 11)[1:] == pytest.approx([1.1] * 10)
    assert rescaled(ratios, 11, "log")[1:] == pytest.approx([1.21] * 10)
    assert rescaled([1.0, 2.0, 3.0], 1) == (3.0,)


def growing(site: Site, step: float) -> Tensor:
    return constant(site) * 1.1**step


def features(world: World) -> Tensor:
    return torch.stack([world.forward(k, substitute={}, record=(RESIDUAL,)).features[RESIDUAL] for k in range(STEPS)])


def test_a_table_is_measured_while_everything_is_computed() -> None:
    """By a policy, from the features, and from inner products; where all changes alike they are one."""
    world = World(growing, tokens=3)
    _, report = run(world, policy=mag_calibration)
    assert report.full_steps == list(range(STEPS))
    assert report.block_rows == STEPS * DEPTH * ROWS
    flat = features(world).flatten(2).double()
    products = torch.einsum("trc,src->rts", flat, flat).numpy()
    for table in (mag_table(report), mag_ratios(features(world)), mag_ratios_of_products(products)):
        assert table[0] == 1
        assert table[1:] == pytest.approx([1.1] * (STEPS - 1), rel=1e-5)


def test_a_table_is_the_mean_over_tokens_and_rows() -> None:
    then, now = torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert mag_ratios(torch.stack([now, then])) == pytest.approx((1, (5 + 2 + 1 + 1) / 4))
    world = World(mixed, tokens=3)
    outputs, report = run(world, policy=mag_calibration)
    assert mag_table(report) == pytest.approx(mag_ratios(features(world)), rel=1e-5)
    assert all(torch.equal(output, world.output(step)) for step, output in enumerate(outputs))


def test_another_policys_run_has_no_table() -> None:
    _, report = run(World(mixed), policy="none")
    with pytest.raises(foreseer.OptionError, match="sample with policy 'mag_calibration'"):
        mag_table(report)


def test_a_table_may_be_a_file_or_a_tensor(tmp_path: Path) -> None:
    file = tmp_path / "ratios.json"
    file.write_text(json.dumps(list(FLUX)))
    computed = run(World(mixed), steps=28, ratios="flux")[1].full_steps
    assert run(World(mixed), steps=28, ratios=str(file))[1].full_steps == computed
    assert run(World(mixed), steps=28, ratios=torch.tensor(FLUX))[1].full_steps == computed


@pytest.mark.parametrize("ratios", ["flxu", [], [1.0, -1.0], [1.0, float("nan")], [1.0, "a"], 3, {"cond": []}])
def test_what_is_no_table_is_refused(ratios: Any) -> None:
    with pytest.raises(foreseer.OptionError, match="ratios="):
        foreseer.policy(mag_cache, ratios=ratios)
