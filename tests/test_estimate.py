"""Estimates from shapes alone, and the table of models."""

import json

import pytest
import torch
from tiny import TINY
from typer.testing import CliRunner

import foreseer
from foreseer.__main__ import app
from foreseer.adapters.estimate import estimate, estimate_published
from foreseer.adapters.models import findings, transformers_with_blocks
from foreseer.adapters.published import PUBLISHED


def call(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "160"})


@pytest.mark.parametrize("policy", ["taylorseer:max_order=2", "taylorseer:target=last_block", "taylorseer:target=output", "cg_taylor", "speca", "agreement"])
@pytest.mark.parametrize("name", ["FluxPipeline", "QwenImagePipeline", "DiTPipeline", "WanPipeline"])
def test_an_estimate_is_what_a_run_then_holds(name, policy):
    pipe = TINY[name].build()
    spec = foreseer.registry.parse_policy(policy)
    caught = {}
    handle = pipe.transformer.register_forward_pre_hook(lambda module, args, kwargs: caught.update(args=args, kwargs=kwargs), with_kwargs=True)
    TINY[name].call(pipe, steps=4)
    handle.remove()
    inputs = dict(caught["kwargs"])
    if caught["args"]:
        inputs["hidden_states"] = caught["args"][0]
    expected = estimate(pipe.transformer, spec, inputs, num_steps=8)
    with foreseer.attach(pipe, spec) as attached:
        TINY[name].call(pipe, steps=8)
    assert dict(attached.report.bytes_held) == dict(expected.bytes_by_site)


def test_published_models_hold_what_is_known_of_them():
    """Known from shapes: a FLUX feature of 4608 tokens and width 3072 is 28.3 MB; Wan-14B at 480p keeps 161 GB of module features."""
    last = estimate_published("flux-dev", "taylorseer", target="last_block", max_order=1)
    assert last.bytes_held == 2 * 4608 * 3072 * 2
    wan = estimate_published("wan-14b", "taylorseer", max_order=1)
    assert (wan.depth, wan.streams, len(wan.bytes_by_site)) == (40, 2, 120)
    assert wan.bytes_held == 40 * 3 * 2 * 2 * 32760 * 5120 * 2
    half = estimate_published("dit-xl-2-256", "taylorseer", storage=foreseer.Storage(dtype=torch.float32))
    assert half.bytes_held == 2 * estimate_published("dit-xl-2-256", "taylorseer").bytes_held


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_published_model_can_be_estimated(name):
    parts = estimate_published(name, "taylorseer", max_order=1)
    block = estimate_published(name, "cg_taylor")
    assert 0 < block.bytes_held < parts.bytes_held
    assert not parts.notes


def test_estimate_on_the_command_line():
    result = call("estimate", "--model", "flux-dev", "--policy", "taylorseer:max_order=1", "cg_taylor", "--height", "512", "--width", "512", "--json")
    assert result.exit_code == 0
    entries = json.loads(result.stdout)["estimates"]
    assert [e["policy"] for e in entries] == ["taylorseer:max_order=1", "cg_taylor"]
    table = call("estimate", "--model", "flux-dev", "--policy", "cg_taylor")
    assert "169.9 MB" in table.stdout
    for words, says in (
        (("--model", "flux", "--policy", "none"), "flux-dev"),
        (("--model", "flux-dev", "--policy", "taylorsear"), "'taylorseer'"),
        (("--model", "flux-dev", "--policy", "none", "--height", "0"), "height=0 is out of range"),
        (("--model", "flux-dev", "--policy", "none", "--history-dtype", "int8"), "float32, bfloat16 or float16"),
    ):
        failed = call("estimate", *words)
        assert failed.exit_code == 2
        assert says in failed.stderr


def test_the_table_of_models_covers_every_transformer_with_blocks():
    _, found = findings()
    assert set(transformers_with_blocks()) <= {f.transformer for f in found}
    assert {f.pipeline for f in found} >= set(TINY), "make the table anew: python tests/survey_models.py"
    for f in found:
        if f.pipeline:
            assert f.output == "yes", "the weakest level works everywhere"
            assert all(answer == "yes" or len(answer) > 10 for answer in (f.modules, f.last_block, f.rows)), "what does not work says why"


@pytest.mark.parametrize("name", ["FluxPipeline", "CogView4Pipeline", "Flux2KleinKVPipeline"])
def test_the_table_of_models_is_what_running_gives(name):
    from survey_models import survey

    _, found = findings()
    assert survey(TINY[name]) == [f for f in found if f.pipeline == name]


def test_models_on_the_command_line():
    shown = call("models", "flux")
    assert shown.exit_code == 0
    assert "FluxTransformer2DModel" in shown.stdout
    assert "WanTransformer3DModel" not in shown.stdout
    facts = json.loads(call("models", "--json").stdout)
    assert len(facts["findings"]) >= 97
