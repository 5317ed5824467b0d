"""Values that nobody should write: each is refused in a sentence that names it, or carried out, and never ends in a traceback of somebody else's."""

import contextlib
import inspect
import json
import math
from typing import get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY
from typer.testing import CliRunner

import foreseer
from foreseer import ContractError, ForeseerError, Needs, OptionError, Plan, Run, Session, Site, hookimpl, sample
from foreseer.__main__ import app
from foreseer.adapters.estimate import estimate_published
from foreseer.contract import MOST_ANCHORS
from foreseer.declared import groups_of
from foreseer.listing import list_plugins
from foreseer.options import alternatives
from foreseer.registry import parse_plugin, signature_of
from foreseer.testing.worlds import World, constant

BUILT_IN = [plugin.name for plugin in list_plugins() if plugin.distribution == "foreseer"]
NO_STEPS = [math.nan, "6", -1, 0, 2.5, True]
NO_TIMES = [(1.0, math.inf), (math.nan,), ("1.0",), (None, 0.5)]


@given(st.text(alphabet="{}[]()'\",:=+-*eE_0123456789abcdNoneTrue \\\x00", max_size=40))
def test_any_text_is_a_plugin_or_refused(text):
    for spelled in (text, f"speca:threshold={text}", f"taylorseer:interval={text},max_order={text}"):
        with contextlib.suppress(ForeseerError):
            parse_plugin(spelled)


@pytest.mark.parametrize("value", ["{[]}", "[" * 5000 + "]" * 5000, "-" * 100_000 + "1", "{1: 2}[1]", "9" * 5000, "\\x", "{{}: 1}"])
def test_literals_that_python_refuses_by_other_errors(value):
    with pytest.raises(ForeseerError):
        parse_plugin(f"speca:threshold={value}")


@pytest.mark.parametrize("name", BUILT_IN)
def test_whole_numbers_beyond_any_float_are_refused_by_name_or_taken(name):
    factory = foreseer.policy(name).factory if name != "planned" else foreseer.registry.parse_policy("planned:budget=3").factory
    hints = get_type_hints(inspect.unwrap(factory), include_extras=True)
    tried = 0
    for option in signature_of(factory).parameters:
        if not any(hasattr(part, "kind") for part in alternatives(hints.get(option))):
            continue
        for value in (10**400, -(10**400)):
            said = option
            try:
                foreseer.policy(name, **{option: value})
            except ForeseerError as refusal:
                said = str(refusal)
            assert option in said
            tried += 1
    assert tried or name in ("none", "reuse", "planned")


class Asks:
    def __init__(self, anchors):
        self.anchors = anchors

    @hookimpl
    def setup(self, run):
        self.sites = (Site(run.depth - 1),)
        return Needs(sites=self.sites, anchors=self.anchors)

    @hookimpl
    def before_step(self, step):
        return None if step.index % 2 == 0 else Plan(forecast=self.sites)


def session_of(anchors, **known):
    world = World(constant)
    return Session(world, foreseer.policy(lambda: Asks(anchors)), Run(world.depth, 3, (0, 1, 2), sites=world.sites, **known))


@pytest.mark.parametrize("policy", ["taylorseer:max_order=200", f"taylorseer:max_order={10**12}", f"taylorseer:target=last_block,max_order={10**12}"])
def test_no_more_features_are_kept_than_the_run_has_steps(policy):
    tiny = TINY["FluxPipeline"]
    held = {}
    for spelled in (policy, policy.partition("max_order")[0] + "max_order=9"):
        pipe = tiny.build()
        with foreseer.attach(pipe, foreseer.registry.parse_policy(spelled)) as attached:
            tiny.call(pipe, steps=10)
        held[spelled] = dict(attached.report.bytes_held)
    first, second = held.values()
    assert first == second


@pytest.mark.parametrize("anchors", [0, -1, 1.5, math.nan, "2", True])
def test_needs_that_are_no_number_of_features_are_an_answer_error(anchors):
    with pytest.raises(foreseer.AnswerError, match=r"Needs\(anchors="):
        session_of(anchors)


def test_anchors_without_a_number_of_steps_have_an_end():
    assert session_of(10**12).tenure._bank.anchors.shape == (3, MOST_ANCHORS)


def test_estimate_knows_that_a_run_keeps_no_more_than_its_steps():
    many, all_steps = (estimate_published("flux-dev", "taylorseer", max_order=order, num_steps=10, target="last_block") for order in (200, 9))
    assert many.bytes_held == all_steps.bytes_held
    command = ("estimate", "--model", "flux-dev", "--policy", "taylorseer:max_order=200,target=last_block", "--steps", "10", "--json")
    said = CliRunner().invoke(app, list(command))
    assert json.loads(said.stdout)["estimates"][0]["bytes_held"] == many.bytes_held


@pytest.mark.parametrize("steps", NO_STEPS)
def test_numbers_of_steps_that_are_none(steps):
    with pytest.raises(OptionError, match="num_steps="):
        Run(2, 1, (0,), num_steps=steps)
    with pytest.raises(OptionError, match="num_steps="):
        estimate_published("dit-xl-2-256", "none", num_steps=steps)
    attached = foreseer.attach(TINY["FluxPipeline"].build().transformer, "taylorseer")
    for begin in (attached.run, attached.generation):
        with pytest.raises(OptionError, match="num_steps="), begin(num_steps=steps):
            pass


@pytest.mark.parametrize("times", NO_TIMES)
@pytest.mark.parametrize("name", ["timesteps", "sigmas"])
def test_times_that_are_no_numbers(name, times):
    with pytest.raises(OptionError, match=f"{name} has"):
        Run(2, 1, (0,), **{name: times})
    attached = foreseer.attach(TINY["FluxPipeline"].build().transformer, "taylorseer")
    for begin in (attached.run, attached.generation):
        with pytest.raises(OptionError, match=name), begin(**{name: times}):
            pass


def test_a_loop_of_ones_own_refuses_times_that_are_no_numbers():
    with pytest.raises(OptionError, match="timesteps has inf"):
        sample(World(constant), torch.zeros(3, 4), (1.0, math.inf), policy="none", inputs=lambda x, t: 0, update=lambda x, out, k: out)


def test_a_schedulers_times_that_are_no_numbers_are_not_known_and_the_report_stays_json():
    tiny = TINY["FluxPipeline"]
    pipe = tiny.build()
    inner = pipe.scheduler.set_timesteps

    def set_timesteps(num_inference_steps=None, device=None, sigmas=None, mu=None):
        inner(num_inference_steps, device, sigmas, mu)
        pipe.scheduler.timesteps = pipe.scheduler.timesteps.clone()
        pipe.scheduler.timesteps[0] = math.inf

    pipe.scheduler.set_timesteps = set_timesteps
    pipe.scheduler.index_for_timestep = lambda *_, **__: 0
    with foreseer.attach(pipe, "reuse") as attached:
        tiny.call(pipe, steps=4)

    def refuse(word):
        raise AssertionError(word)

    json.loads(attached.report.to_json(), parse_constant=refuse)
    assert attached.report.run.timesteps is None


@pytest.mark.parametrize("groups", [(0.5, 0.7), np.array([0.0, 0.4]), torch.tensor([1.5, 2.0])])
def test_groups_are_not_cut_to_whole_numbers(groups):
    with pytest.raises(ContractError, match=r"groups has the label .*whole numbers"):
        groups_of(groups, 2)
    assert groups_of((1.0, 2.0), 2) == (1, 2)


@pytest.mark.parametrize("groups", ["ab", 1.5, (None, 0), ("a", "b"), True, np.float64(1.5), torch.tensor(0.5)], ids=repr)
def test_groups_that_say_no_samples(groups):
    with pytest.raises(ContractError, match=r"groups.* whole numbers, one per row"):
        groups_of(groups, 2)
    assert groups_of(np.int64(1), 2) == groups_of(torch.tensor(1), 2) == (0, 0)


@pytest.mark.parametrize("name", ["timesteps", "sigmas"])
@pytest.mark.parametrize("value", [5, 5.0, torch.tensor(5.0), np.float32(5)], ids=repr)
def test_a_schedule_that_is_no_sequence(name, value):
    attached = foreseer.attach(TINY["FluxPipeline"].build().transformer, "taylorseer")
    for begin in (attached.run, attached.generation):
        with pytest.raises(OptionError, match=f"{name}=.*finite numbers"), begin(**{name: value}):
            pass


@pytest.mark.parametrize("stream", [3, None, b"cond", "call 2", "cond call 3"], ids=repr)
def test_streams_whose_name_is_none(stream):
    with foreseer.attach(TINY["FluxPipeline"].build().transformer, "taylorseer") as attached:
        with pytest.raises(OptionError, match=r"stream=.*; write "), attached.run(num_steps=3, stream=stream):
            pass
        with attached.generation(num_steps=3) as generation, pytest.raises(OptionError, match=r"stream=.*; write "), generation.call(stream=stream):
            pass


@pytest.mark.parametrize("options", [{"storage": value} for value in ("cpu", 3.5, {"dtype": None})] + [{"blocks": 3}, {"blocks": ("a",)}], ids=repr)
def test_arguments_of_attach_that_are_none(options):
    model = TINY["FluxPipeline"].build().transformer
    (name,) = options
    with pytest.raises(OptionError, match=rf"{name}=.*; write "):
        foreseer.attach(model, "taylorseer", **options)
    foreseer.attach(model, "taylorseer").detach()


@pytest.mark.parametrize("device", ["nonsense", 3.5, "meta", "cuda:99"])
def test_devices_of_a_storage_that_keep_nothing(device):
    with pytest.raises(OptionError, match=r"device=.*; write "):
        foreseer.Storage(device=device)


@pytest.mark.parametrize("answer", ["everything", Site(0), Needs(sites=Site(0)), [3]], ids=repr)
def test_a_setup_that_needs_nothing_that_can_be_kept(answer):
    class Setup(Asks):
        @hookimpl
        def setup(self, run):
            return answer

    world = World(constant)
    with pytest.raises(foreseer.AnswerError, match=r"setup gave .*foreseer\.Needs"):
        Session(world, foreseer.policy(lambda: Setup(1)), Run(world.depth, 3, (0, 1, 2), sites=world.sites))


@pytest.mark.parametrize("timesteps", [3.0, None, (), [float("nan")], ["soon"], torch.tensor([float("inf")]), "12"], ids=repr)
def test_a_loop_without_steps_is_refused(timesteps):
    world = World(constant)
    with pytest.raises(OptionError, match=r"timesteps.* write "):
        foreseer.sample(world, None, timesteps, policy="none", inputs=lambda x, t: t, update=lambda x, output, index: None)


@pytest.mark.parametrize("groups", ["abc", 2.5, [0.5, 1, 2], [0, 1], float("nan")], ids=repr)
def test_a_loop_whose_groups_say_no_samples_is_refused(groups):
    world = World(constant)
    with pytest.raises(ContractError, match=r"groups.* (write|give) "):
        foreseer.sample(world, None, [0, 1], policy="none", inputs=lambda x, t: t, update=lambda x, output, index: None, groups=groups)


@pytest.mark.parametrize(
    "values",
    [
        {"depth": 2.5},
        {"rows": -1},
        {"rows": True},
        {"groups": (float("nan"),) * 3},
        {"groups": (0, 1)},
        {"groups": "abc"},
        {"start": float("nan")},
        {"start": -1},
    ],
    ids=repr,
)
def test_a_run_without_a_shape_is_refused(values):
    (name,) = values
    with pytest.raises(OptionError, match=rf"{name}=.* of a Run .*write whole|{name}=.* of a Run .*; write"):
        foreseer.Run(**{"depth": 4, "rows": 3, "groups": (0, 1, 2)} | values)
