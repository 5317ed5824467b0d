"""Module parts: which submodules of a block are forecast on their own, per block class.

TaylorSeer and SpeCa forecast raw module outputs *before* the adaLN gate; norms, modulation and gates of the current
step stay live. For each block class this file says which submodules those are and how the block's output is put
together from their outputs. Putting it together here, instead of running the block with its submodules replaced, skips
the work whose result nobody reads: the norms and the shift and scale in front of each submodule. The backbone compares
the two bit for bit on the first computed step and falls back to running the block where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor, nn

__all__ = ["Parts", "parts_of"]

Assemble = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Mapping[str, Tensor]], Tensor]


@attrs.frozen
class Parts:
    """How a block class is cut into parts.

    Attributes:
        modules: Part name -> attribute of the block, in execution order. Each module's output is the part's feature.
        assemble: ``(block, args, kwargs, features) -> output``: the block's output from its parts' features.
    """

    modules: Mapping[str, str]
    assemble: Assemble


def _assemble_ada_norm_zero(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], features: Mapping[str, Tensor]) -> Tensor:
    """Diffusers' BasicTransformerBlock with adaLN-zero, as in DiTTransformer2DModel: x + gate_msa * attn + gate_mlp * mlp."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    norm: Any = block.norm1
    emb = norm.emb(kwargs["timestep"], kwargs["class_labels"], hidden_dtype=hidden.dtype)
    _, _, gate_msa, _, _, gate_mlp = norm.linear(norm.silu(emb)).chunk(6, dim=1)
    hidden = gate_msa.unsqueeze(1) * features["attn"] + hidden
    output: Tensor = gate_mlp.unsqueeze(1) * features["mlp"] + hidden
    return output


def parts_of(block: nn.Module) -> Parts | None:
    """Return how this block is cut into parts, or None where the table has no entry for it."""
    if (
        type(block).__name__ == "BasicTransformerBlock"
        and getattr(block, "norm_type", None) == "ada_norm_zero"
        and block.attn2 is None
        and getattr(block, "_chunk_size", None) is None  # chunked feed-forward calls `ff` several times per step
    ):
        return Parts({"attn": "attn1", "mlp": "ff"}, _assemble_ada_norm_zero)
    return None
