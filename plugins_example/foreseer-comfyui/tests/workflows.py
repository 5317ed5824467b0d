"""ComfyUI's executor without its server, nodes that stand for others, and workflows of them."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import execution
import torch
from foreseer_comfyui import nodes as ours
from tiny_comfy import TINY, prompt


class LoadTiny:
    """Stands for a loader of checkpoints: a tiny model, two prompts and an empty latent."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "load", ("MODEL", "CONDITIONING", "CONDITIONING", "LATENT")
    patcher: Any = None
    calls = 0

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}}

    def load(self) -> tuple[Any, ...]:
        LoadTiny.calls += 1
        return LoadTiny.patcher, prompt("Flux", seed=1), prompt("Flux", seed=2), {"samples": torch.zeros(1, *TINY["Flux"].latent)}


class Say:
    """A node that says a text."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "say", ("STRING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"text": ("STRING", {})}}

    def say(self, text: str) -> tuple[str]:
        return (text,)


class Keep:
    """An output node that keeps what it is given."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "keep", (), True
    kept: Any = None

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"samples": ("LATENT",)}}

    def keep(self, samples: Any) -> dict[str, Any]:
        Keep.kept = samples["samples"].clone()
        return {}


class Host:
    """ComfyUI's executor without its server."""

    def __init__(self) -> None:
        server = SimpleNamespace(
            client_id=None, last_node_id=None, last_prompt_id=None, sockets_metadata={}, send_sync=lambda *args: None, queue_updated=lambda: None
        )
        self.executor = execution.PromptExecutor(server, cache_type=execution.CacheType.CLASSIC, cache_args={"lru": 0, "ram": 0})

    def run(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Run a workflow; returns what its output nodes show."""
        name = uuid.uuid4().hex
        valid, error, outputs, errors = asyncio.run(execution.validate_prompt(name, workflow, None))
        assert valid, (error, errors)
        self.executor.execute(workflow, name, {}, outputs)
        found: dict[str, Any] = self.executor.history_result["outputs"]
        return found

    @property
    def error(self) -> dict[str, Any]:
        """What went wrong in the last run."""
        found: dict[str, Any] = next(data for event, data in self.executor.status_messages if event == "execution_error")
        return found


def workflow(options: str = ours.OPTIONS, *, seed: int = 7, policy: str = "taylorseer", **given: Any) -> dict[str, Any]:
    """A loader, the policy, a sampler and the report."""
    chosen = {"start_percent": 0.0, "end_percent": 1.0, "history": "device", "max_history_gb": 0.0, "on_error": "compute", "blocks": "", **given}
    sampler = {"seed": seed, "steps": 8, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["2", 0], "positive": ["1", 1], "negative": ["1", 2], "latent_image": ["1", 3]}
    return {
        "1": {"class_type": "LoadTiny", "inputs": {}},
        "2": {"class_type": "ForeseerPolicy", "inputs": {"model": ["1", 0], "policy": policy, "options": options, **chosen}},
        "3": {"class_type": "KSampler", "inputs": {**sampler, **links}},
        "4": {"class_type": "ForeseerReport", "inputs": {"latent": ["3", 0], "foreseer": ["2", 1]}},
        "5": {"class_type": "Keep", "inputs": {"samples": ["4", 0]}},
    }
