"""Laws of the nodes, in ComfyUI's own executor: what a workflow shows, caches, refuses before it begins, and leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import engine
import execution
import folder_paths
import latent_preview
import nodes
import numpy as np
import pytest
import torch
from foreseer_comfyui import nodes as ours
from foreseer_comfyui.__main__ import SOURCE, main
from PIL import Image
from tiny_comfy import Asked, patcher_of, sampled
from workflows import Host, Keep, LoadTiny, Say, workflow

FOLDER = Path(SOURCE)


@pytest.fixture(autouse=True)
def ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes of ComfyUI and ours, loaded by its own loader; its folders are the test's."""
    assert asyncio.run(nodes.load_custom_node(str(FOLDER)))
    nodes.NODE_CLASS_MAPPINGS |= {"LoadTiny": LoadTiny, "Keep": Keep, "Say": Say}
    LoadTiny.patcher, LoadTiny.calls, Keep.kept = patcher_of("Flux"), 0, None
    for name in ("temp", "output"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))


def wrong(policy_inputs: dict[str, Any]) -> str:
    """What ComfyUI shows on the policy node before anything runs."""
    asked = workflow(**policy_inputs)
    valid, _, _, errors = asyncio.run(execution.validate_prompt("x", asked, None))
    assert not valid
    assert list(errors) == ["2"]
    return " ".join(error["details"] for error in errors["2"]["errors"])


def test_a_workflow_shows_what_was_computed() -> None:
    """Law: the report's text and picture reach the UI; the picture is where ComfyUI shows it from."""
    host = Host()
    shown = host.run(workflow())["4"]
    assert "taylorseer" in shown["text"][0]
    assert "8 steps" in shown["text"][0]
    (image,) = shown["images"]
    assert image["type"] == "temp"
    drawn = np.asarray(Image.open(Path(folder_paths.temp_directory) / image["filename"]))
    assert drawn.shape[1] > 600
    assert drawn.std() > 5
    assert torch.equal(Keep.kept, sampled_with_policy())


def sampled_with_policy() -> torch.Tensor:
    model, _ = ours.ForeseerPolicy().apply(LoadTiny.patcher, "taylorseer", ours.OPTIONS, 0.0, 1.0, "device", 0.0, "compute", "")
    return sampled(model, Asked())


def test_removing_the_node_restores_the_image() -> None:
    """Law: without the node the image is bit for bit what it was before there was one."""
    host, bare = Host(), sampled(LoadTiny.patcher, Asked())
    host.run(workflow())
    assert not torch.equal(Keep.kept, bare)
    without = workflow()
    without["3"]["inputs"]["model"], without["5"]["inputs"]["samples"] = ["1", 0], ["3", 0]
    del without["2"], without["4"]
    host.run(without)
    assert torch.equal(Keep.kept, bare)


def test_what_did_not_change_is_not_run_again() -> None:
    """Law: an equal prompt runs nothing; another seed samples anew, and the report is that sampling's."""
    host = Host()
    host.run(workflow())
    Keep.kept = None
    host.run(workflow())
    assert Keep.kept is None
    assert "4" in host.run(workflow(seed=8))
    assert LoadTiny.calls == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"options": "intervall=3"}, "did you mean 'interval'"),
        ({"options": "interval=0"}, "interval=0"),
        ({"options": "interval"}, "write taylorseer:interval=value"),
        ({"policy": "taylor_seer"}, "did you mean 'taylorseer'"),
        ({"policy": "of_a_plugin_that_is_gone", "options": ""}, "no policy is named 'of_a_plugin_that_is_gone'"),
    ],
)
def test_what_is_wrong_is_shown_on_the_node(given: dict[str, Any], says: str) -> None:
    """Law: a typo, a bad value or a plugin that is missing is said on the policy node, before anything is loaded."""
    found = wrong(given)
    assert "foreseer: " in found
    assert says in found
    assert LoadTiny.calls == 0


def test_what_another_node_says_is_looked_at_when_it_is_there() -> None:
    """Law: linked options are no error before the run, and wrong ones are said by the policy's node in the run."""
    host, asked = Host(), workflow()
    asked["6"] = {"class_type": "Say", "inputs": {"text": "interval=2, max_order=1"}}
    asked["2"]["inputs"]["options"] = ["6", 0]
    assert "interval=2" in host.run(asked)["4"]["text"][0]
    asked["6"]["inputs"]["text"] = "intervall=2"
    host.run(asked)
    assert host.error["node_id"] == "2"
    assert "did you mean 'interval'" in host.error["exception_message"]


def test_two_samplers_on_one_model_have_a_report_each() -> None:
    """Law: a report is of the sampler that its latent came from, whichever ran last."""
    host, asked = Host(), workflow()
    asked["7"] = {"class_type": "KSampler", "inputs": {**asked["3"]["inputs"], "steps": 12, "latent_image": ["3", 0], "denoise": 0.5}}
    asked["8"] = {"class_type": "ForeseerReport", "inputs": {"latent": ["7", 0], "foreseer": ["2", 1]}}
    shown = host.run(asked)
    assert "8 steps" in shown["4"]["text"][0]
    assert "12 steps" in shown["8"]["text"][0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"start_percent": 0.8, "end_percent": 0.2}, "end_percent=0.2 lies before start_percent=0.8"),
        ({"history": "cpu bfloat16", "max_history_gb": 1e-6, "options": "interval=3"}, "over max_bytes=1000"),
        ({"history": "cpu", "on_error": "raise"}, "4 of 8 steps"),
    ],
)
def test_every_choice_does_what_it_says(given: dict[str, Any], says: str) -> None:
    """Law: what can be chosen on the node reaches the sampling."""
    host = Host()
    shown = host.run(workflow(**given))
    assert says in (shown["4"]["text"][0] if "4" in shown else host.error["exception_message"])


def test_what_only_shows_while_sampling_is_shown_on_the_sampler() -> None:
    """Law: the error names the sampler's node and begins with our name; the model stays bare, the next prompt runs."""
    host, bare = Host(), sampled(LoadTiny.patcher, Asked())
    host.run(workflow(blocks="nowhere"))
    assert host.error["node_id"] == "3"
    assert host.error["exception_message"].startswith("foreseer: blocks='nowhere'")
    assert torch.equal(sampled(LoadTiny.patcher, Asked()), bare)
    assert "4" in host.run(workflow())


def test_an_interrupt_from_the_ui() -> None:
    """Law: the button stops the sampling, and the next prompt is as if nothing had been."""
    host = Host()
    host.run(workflow())
    clean = Keep.kept
    with after_each_step(lambda step: comfy.model_management.interrupt_current_processing(step == 3)):
        host.run(workflow(seed=9))
    assert any(event == "execution_interrupted" for event, _ in host.executor.status_messages)
    Keep.kept = None
    host.run(workflow(seed=10))
    host.run(workflow(seed=7))
    assert torch.equal(Keep.kept, clean)


@contextlib.contextmanager
def after_each_step(called: Callable[[int], None]) -> Iterator[None]:
    """Let something be called after each step of ComfyUI's own progress."""

    def prepare(*args: Any) -> Any:
        inner = before(*args)

        def after(step: int, x0: Any, x: Any, total: int) -> None:
            inner(step, x0, x, total)
            called(step)

        return after

    before = latent_preview.prepare_callback
    with mock.patch.object(latent_preview, "prepare_callback", prepare):
        yield


def test_nothing_sampled_yet_is_a_sentence() -> None:
    """Law: a report of nothing is no error."""
    _, handle = ours.ForeseerPolicy().apply(LoadTiny.patcher, "none", "", 0.0, 1.0, "device", 0.0, "compute", "")
    found = ours.ForeseerReport().show({"samples": None}, handle)
    assert found["ui"]["text"] == ("Nothing was sampled yet.",)


def test_a_recording_becomes_a_plan_and_a_preset() -> None:
    """Law: Record computes everything and writes what it saw; Preset plans from it, and follows the plan on the next image."""
    host, recording = Host(), workflow()
    bare = sampled(LoadTiny.patcher, Asked())
    recording["2"] = {"class_type": "ForeseerRecord", "inputs": {"model": ["1", 0], "name": "flux-8", "blocks": ""}}
    for seed in (7, 8, 9):
        recording["3"]["inputs"]["seed"] = seed
        text = host.run(recording)["4"]["text"][0]
        if seed == 7:
            assert torch.equal(Keep.kept, bare)
    assert "3 samples of 8 evaluations are recorded" in text
    first = Path(folder_paths.output_directory) / "foreseer" / "flux-8.safetensors"
    before = first.read_bytes()
    assert "flux-8-2.safetensors" in Host().run(recording)["4"]["text"][0]  # another session: what is there stays
    assert first.read_bytes() == before
    planned = workflow()
    planned["2"] = {
        "class_type": "ForeseerPreset",
        "inputs": {"model": ["1", 0], "recording": "flux-8.safetensors", "steps": 4, "target": "last_block", "blocks": ""},
    }
    text = host.run(planned)["4"]["text"][0]
    assert "planned" in text
    assert "computed    4 of 8 steps" in text
    planned["2"]["inputs"]["recording"] = "gone.safetensors"
    valid, _, _, errors = asyncio.run(execution.validate_prompt("x", planned, None))
    assert not valid
    assert "there are flux-8-2.safetensors, flux-8-4-last_block.json, flux-8.safetensors" in str(errors["2"])


def test_the_folder_is_put_into_a_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: one command; what it writes is a node folder that the registry accepts, without code of ours or of ComfyUI."""
    import tomllib

    (tmp_path / "custom_nodes").mkdir()
    monkeypatch.setattr("sys.argv", ["foreseer_comfyui", str(tmp_path)])
    main()
    assert "wrote" in capsys.readouterr().out
    written = tmp_path / "custom_nodes" / "foreseer"
    assert {path.name for path in written.iterdir()} == {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "example_workflows"}
    about = tomllib.loads((written / "pyproject.toml").read_text())
    assert "comfyui" not in about["project"]["name"].lower()
    assert about["project"]["version"].count(".") == 2
    assert len(about["project"]["name"]) < 100
    assert (written / about["project"]["license"]["file"]).read_text().lstrip().startswith("Apache License")
    assert about["project"]["urls"]["Repository"]
    assert about["tool"]["comfy"]["PublisherId"]
    monkeypatch.setattr("sys.argv", ["foreseer_comfyui", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="has no folder custom_nodes"):
        main()


def test_where_foreseer_cannot_be_imported_a_node_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a broken installation shows a node whose tooltip says what to do."""
    shutil.copytree(FOLDER, tmp_path / "broken")
    monkeypatch.setitem(__import__("sys").modules, "foreseer_comfyui.nodes", None)
    assert asyncio.run(nodes.load_custom_node(str(tmp_path / "broken")))
    hint = nodes.NODE_CLASS_MAPPINGS.pop("ForeseerMissing")
    assert "pip install foreseer-comfyui" in hint.INPUT_TYPES()["required"]["hint"][1]["tooltip"]


@pytest.mark.parametrize("path", sorted((FOLDER / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_an_example_is_whole(path: Path) -> None:
    """Law: every link of an example exists at both of its ends, and types fit; each has a picture beside it."""
    graph = json.loads(path.read_text())
    known = {node["id"]: node for node in graph["nodes"]}
    for number, source, out, target, into, kind in graph["links"]:
        assert known[source]["outputs"][out]["type"] == known[target]["inputs"][into]["type"] == kind
        assert known[target]["inputs"][into]["link"] == number
        assert number in known[source]["outputs"][out]["links"]
    assert path.with_suffix(".jpg").exists()


def test_the_engine_is_outside_of_the_repository() -> None:
    """Law: ComfyUI lies in a cache elsewhere."""
    assert Path(__file__).parents[3] not in engine.folder().parents
