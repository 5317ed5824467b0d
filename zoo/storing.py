"""How the models of the zoo lie on disk: ``weights.safetensors`` and ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["load", "save"]

Model = TypeVar("Model", bound=nn.Module)


def save(
    model: nn.Module,
    folder: Path,
    *,
    config: dict[str, Any],
    dtype: torch.dtype = torch.float16,
    stored_as: Callable[[str], str] = str,
) -> Path:
    """Write a model's tensors, rounded to ``dtype``, and the configuration that `load` builds it from, into a
    folder that is made if it is missing. Return the weights' path. Of tensors with one name under
    ``stored_as``, that which bears it is stored.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if stored_as(name) == name}
    path = folder / "weights.safetensors"
    save_file({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}, path)
    return path


def load(
    build: Callable[[dict[str, Any]], Model],
    folder: Path,
    *,
    stored_as: Callable[[str], str] = str,
) -> Model:
    """Build a model from the configuration that `save` wrote, and fill it: on the CPU, in eval mode.

    Raises:
        FileNotFoundError: If there is no configuration, or there are no weights.
    """
    from safetensors.torch import load_file

    model = build(json.loads((folder / "config.json").read_text()))
    stored = load_file(folder / "weights.safetensors")
    model.load_state_dict({name: stored[stored_as(name)] for name in model.state_dict()})
    return model.eval()
