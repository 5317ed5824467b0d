"""Shared fixtures. Tests that need no model use `ArrayBackbone`; those that need one use the small reference DiT or a tiny random one."""

import json
import os
import tomllib
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("foreseer", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("foreseer")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the processes share the cores

DATA = Path(__file__).parent / "data"

OVER_ALL_MODELS = {
    "test_bystanders", "test_changed_midway", "test_generations", "test_guiders", "test_leaving", "test_left_as_it_was",
    "test_lists_of_latents", "test_model_changes", "test_pauses_of_models", "test_prompt_lengths",
    "test_shared_objects", "test_whose_call", "test_whose_call_is_told",
}  # fmt: skip
"""Files of laws over every tiny model: an hour of processor time. Of each law with many cases every sixth is tried, another sixth for each law;
``FORESEER_ALL=1`` (`make test-all`) tries all."""
SHARE = 6


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("FORESEER_ALL"):
        return
    laws = [(item.path.stem, getattr(item, "originalname", item.name)) for item in items]
    cases, seen, kept, others = Counter(laws), Counter[tuple[str, str]](), [], []
    for item, law in zip(items, laws, strict=True):
        many = law[0] in OVER_ALL_MODELS and cases[law] > 2 * SHARE
        chosen = not many or seen[law] % SHARE == zlib.crc32(law[1].encode()) % SHARE
        seen[law] += 1
        (kept if chosen else others).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=others)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch):
    """What happens to be installed beside foreseer changes no test; those about other people's plugins take this away again."""
    monkeypatch.setenv("FORESEER_NO_PLUGINS", "1")


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
def tiny_dit():
    """A random DiT of four blocks, with adaLN gates that are not zero."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1, num_layers=4, sample_size=4, patch_size=1, num_embeds_ada_norm=10
    )
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
        groups = project["entry-points"].items()
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
