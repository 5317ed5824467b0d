"""The bundled class-conditional DiT on handwritten digits, in diffusers' own class.

The adaLN projection matrix and the conditioning embedder are shared by all blocks (PixArt-alpha, arXiv 2310.00426,
shares them too), each block keeps a bias of its own. The file holds them once and they are copied out on loading, so
the loaded model is an ordinary `DiTTransformer2DModel` in which no two modules share a tensor. That is what lets 12
blocks of width 160 fit in 8 MB of float16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

__all__ = ["CONFIG", "NULL_CLASS", "alphas_cumprod", "build", "load_weights", "save_weights", "share_conditioning"]

NULL_CLASS = 10
"""The class that stands for "no class" in classifier-free guidance."""

CONFIG: dict[str, Any] = {
    "num_attention_heads": 5,
    "attention_head_dim": 32,
    "in_channels": 1,
    "out_channels": 1,
    "num_layers": 12,
    "sample_size": 8,
    "patch_size": 1,
    "num_embeds_ada_norm": 10,
    "attention_bias": False,
}
_SHARED = ("norm1.emb.", "norm1.linear.weight")


def alphas_cumprod(*, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Return the cumulative product of 1 - beta of the linear schedule, ``(num_train_timesteps,)`` float64."""
    betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1.0 - betas, dim=0)


def build(config: dict[str, Any] | None = None) -> DiTTransformer2DModel:
    """Return an untrained model of the given configuration (default: `CONFIG`)."""
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(**(CONFIG if config is None else config))


def share_conditioning(model: DiTTransformer2DModel) -> None:
    """Make all blocks use block 0's conditioning embedder and adaLN matrix, in place (for training)."""
    first = model.transformer_blocks[0].norm1
    for block in model.transformer_blocks[1:]:
        block.norm1.emb = first.emb
        block.norm1.linear.weight = first.linear.weight


def _is_shared_copy(name: str) -> bool:
    parts = name.split(".", 2)
    return parts[0] == "transformer_blocks" and parts[1] != "0" and parts[2].startswith(_SHARED)


def save_weights(state: dict[str, Tensor], folder: Path, *, config: dict[str, Any] | None = None) -> Path:
    """Write ``config.json`` and ``weights.safetensors`` (float16, shared tensors once). Returns the weights' path."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in state.items() if not _is_shared_copy(k)}
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config, indent=1) + "\n")
    save_file(tensors, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def load_weights(folder: Path) -> DiTTransformer2DModel:
    """Build the model that `save_weights` wrote: float32, on the CPU, in eval mode, no tensor shared between modules."""
    from safetensors.torch import load_file

    model = build(json.loads((folder / "config.json").read_text()))
    stored = load_file(folder / "weights.safetensors")
    state = {}
    for name in model.state_dict():
        source = ".".join(("transformer_blocks.0", name.split(".", 2)[2])) if _is_shared_copy(name) else name
        state[name] = stored[source].float()
    model.load_state_dict(state)
    return model.eval()
