"""How the flow-matching models of the zoo lie on disk: ``weights.safetensors`` in float16, and ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["load", "read_config", "save"]

Model = TypeVar("Model", bound=nn.Module)


def save(model: nn.Module, folder: Path, *, config: dict[str, Any]) -> Path:
    """Write a model's tensors, rounded to float16, and its configuration. Returns the weights' path."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in model.state_dict().items()}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration that `save` wrote.

    Raises:
        FileNotFoundError: If there is none.
    """
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def load(model: Model, folder: Path) -> Model:
    """Fill a model of the same configuration with the tensors that `save` wrote, in place, and return it in eval mode, in the dtype it has."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()
