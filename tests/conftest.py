"""Shared fixtures. Tests that need no model use `ArrayBackbone`; those that need one use the small reference DiT or a tiny random one."""

import json
import math
import os
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("foreseer", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("foreseer")

torch.set_num_threads(1)  # tensors this small are computed fastest by one thread; processes share the cores
QUICK = bool(os.environ.get("FORESEER_QUICK"))
"""`make quick`: what would import diffusers or start a process is skipped."""
if QUICK:
    sys.modules["diffusers"] = None

DATA = Path(__file__).parent / "data"

SHARES = {
    # laws over every tiny model
    "test_bystanders": 6, "test_changed_midway": 6, "test_generations": 6, "test_guiders": 6, "test_leaving": 6,
    "test_left_as_it_was": 9, "test_lists_of_latents": 6, "test_model_changes": 9, "test_pauses_of_models": 6,
    "test_residuals_of_models": 5, "test_prompt_lengths": 8, "test_shared_objects": 9, "test_whose_call": 6, "test_whose_call_is_told": 6,
    "test_batching_pipelines": 7, "test_bare": 6, "test_ecosystem": 5, "test_observers_change_nothing": 3,
    "test_pipelines": 15, "test_soak": 3, "test_tiny": 6,
    "test_ecosystem::test_blocks_compiled_one_by_one_keep_their_graphs_whatever_the_policy": 4,
    "test_ecosystem::test_callback_that_raises_ends_the_run_and_the_next_is_clean": 6,
    "test_ecosystem::test_dtype_changed_between_runs_gives_what_a_fresh_attachment_gives": 3,
    "test_ecosystem::test_half_precision_pipelines_run_and_repeat_and_none_is_bitwise_bare": 6,
    "test_ecosystem::test_lora_loaded_fused_and_unloaded_between_runs_gives_what_a_fresh_attachment_gives": 6,
    "test_ecosystem::test_offloading_changes_nothing_whichever_comes_first": 9,
    "test_ecosystem::test_scheduler_exchanged_between_runs_gives_what_a_fresh_attachment_gives": 4,
    "test_modular::test_a_modular_pipeline_is_driven_as_any_other": 9,
    "test_modular::test_guiders_that_only_some_models_have_and_guidance_for_part_of_the_steps": 5,
    # laws of the kit over every policy
    "test_kit::test_built_in": 6, "test_kit::test_built_in_with_other_options": 8,
    "test_kit::test_policies_that_act_one_step_later": 3, "test_kit::test_a_policy_that_accepts_unseen": 3,
    "test_kit::test_planned": 6,
    "test_kit_catches_wrong_policies::test_what_the_faults_were_put_into_is_right": 7,
    # others that take long
    "test_estimate::test_every_published_model_can_be_estimated": 3,
    "test_installed::test_a_new_project_passes_its_own_tests": 6,
    "test_installed::test_an_example_passes_its_own_tests": 6,
    "test_pauses::test_a_stream_that_comes_back_or_begins_late_is_as_one_that_begins_then": 4,
    "test_pauses::test_no_forecast_reaches_further_back_than_the_policy_says": 4,
    "test_report_pictures::test_timeline_draws_every_report": 3,
    "test_soak::test_120_runs_of_one_long_lived_attachment_hold_no_more_than_the_first_few": 3,
    "test_zoo_flow::test_policies_accelerate_both": 2,
}  # fmt: skip
"""File, or file and law -> n: one case in n is tried. Of a law that only its file names, where it has many cases.

Those are chosen whose models, policies and checks were chosen least in their file, so that each of them is tried by
some law. ``FORESEER_ALL=1`` (`make test-all`) tries all: an hour and a half of processor time.
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("FORESEER_ALL"):
        return
    laws: dict[tuple[str, str, str], list[Any]] = {}
    for item in items:
        key = (item.path.stem, getattr(item, "originalname", item.name), item.parent.nodeid if item.parent else "")
        laws.setdefault(key, []).append(item)
    times: dict[str, Counter[int]] = defaultdict(Counter)
    kept = {item for (file, law, _), cases in laws.items() for item in tried(file, law, cases, times[file])}
    if not os.environ.get("FORESEER_SITE"):  # `make docs` builds the site, and looks at it
        kept = {item for item in kept if "site" not in item.fixturenames}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def tried(file: str, law: str, cases: list[Any], times: Counter[int]) -> list[Any]:
    """The cases of a law that `make test` tries; `times` counts how often each value was chosen in this file."""
    share = SHARES.get(f"{file}::{law}", 0)
    if not share:
        share = SHARES.get(file, 1) if len(cases) > 2 * SHARES.get(file, 1) else 1
    if share == 1 or not hasattr(cases[0], "callspec"):
        return cases
    rest, chosen = list(cases), []
    for _ in range(math.ceil(len(cases) / share)):
        chosen.append(min(rest, key=lambda case: sum(times[id(value)] for value in case.callspec.params.values())))
        rest.remove(chosen[-1])
        times.update(id(value) for value in chosen[-1].callspec.params.values())
    return chosen


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch):
    """What happens to be installed beside foreseer changes no test; those about other people's plugins take this away again."""
    monkeypatch.setenv("FORESEER_NO_PLUGINS", "1")


@pytest.fixture(autouse=QUICK)
def _no_process(monkeypatch):
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.skip("starts a process"))


@pytest.fixture(scope="session")
def reference_model():
    """The trained DiT behind the reference cases: 28 blocks, 48 wide."""
    from diffusers import DiTTransformer2DModel
    from safetensors.torch import load_file

    folder = DATA / "reference" / "dit_digits"
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if not k.startswith("_")}
    model = DiTTransformer2DModel(**config)
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return model.float().eval()


@pytest.fixture(scope="session")
def reference_cases():
    folder = DATA / "reference"
    return json.loads((folder / "cases.json").read_text()), dict(np.load(folder / "cases.npz"))


@pytest.fixture
def toy(monkeypatch):
    """The workload `toy`, by that name, which draws in milliseconds."""
    from toy_family import ToyFamily

    from foreseer.bench.workload import HERE

    family = ToyFamily()
    monkeypatch.setitem(HERE, "toy", lambda device, dtype: family)
    return family


@pytest.fixture
def tiny_dit():
    """A random DiT of four blocks, with adaLN gates that are not zero."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 4, "sample_size": 4, "patch_size": 1}
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.DiTTransformer2DModel(in_channels=1, out_channels=1, num_embeds_ada_norm=10, **sizes)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def _example_packages(tmp_path_factory):
    """Metadata of the example plugins in one folder, as an editable install leaves it, and the folders of their code."""
    site, path = tmp_path_factory.mktemp("site"), []
    for folder in sorted((Path(__file__).parents[1] / "plugins_example").glob("*/")):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
        groups = project.get("entry-points", {}).items()
        (info / "entry_points.txt").write_text("".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups))
        path.append(str(folder))
    return [str(site), *path]


@pytest.fixture
def example_plugins(_example_packages, _own_plugins, monkeypatch):
    """The plugins of ``plugins_example`` are installed, as far as this process can tell. Returns the folders, for others' ``PYTHONPATH``."""
    monkeypatch.delenv("FORESEER_NO_PLUGINS")
    for folder in _example_packages:
        monkeypatch.syspath_prepend(folder)
    return _example_packages
