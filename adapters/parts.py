"""Module parts: which submodules of a block are forecast on their own, per block class.

TaylorSeer and SpeCa forecast raw module outputs *before* the adaLN gate; norms, modulation and gates of the current
step stay live. For each block class this file says which submodules those are and how the block's output is put
together from their outputs. Putting it together here, instead of running the block with its submodules replaced, skips
the work whose result nobody reads: the norms and the shift and scale in front of each submodule. The backbone compares
each way of doing so with the block, bit for bit, on the first computed step; where none equals it the block is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Assemble", "Parts", "parts_of"]

Assemble = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Mapping[str, Tensor]], Tensor]


@attrs.frozen
class Parts:
    """How a block class is cut into parts.

    Attributes:
        modules: Part name -> attribute of the block, in execution order. Each module's output is the part's feature.
        assemblies: ``(block, args, kwargs, features) -> output``: ways to put the block's output together from its
            parts' features, the cheapest first. The first that equals the block bit for bit is used.
    """

    modules: Mapping[str, str]
    assemblies: tuple[Assemble, ...]


def _all_modulations(linear: nn.Module, embedding: Tensor) -> tuple[Tensor, Tensor]:
    _, _, gate_msa, _, _, gate_mlp = linear(embedding).chunk(6, dim=1)
    return gate_msa, gate_mlp


def _gates_alone(linear: nn.Module, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """A third of the products, since only gates are needed; for a plain layer that nothing hooks, wraps, quantizes or offloads."""
    if type(linear) is not nn.Linear or type(linear.weight) is not nn.Parameter or linear.bias is None:
        return _all_modulations(linear, embedding)
    if linear._forward_hooks or linear._forward_pre_hooks or "forward" in vars(linear) or linear.weight.device != embedding.device:
        return _all_modulations(linear, embedding)
    width = linear.out_features // 6
    msa, mlp = (slice(i * width, (i + 1) * width) for i in (2, 5))
    return F.linear(embedding, linear.weight[msa], linear.bias[msa]), F.linear(embedding, linear.weight[mlp], linear.bias[mlp])


def _ada_norm_zero(gates: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]) -> Assemble:
    """Diffusers' BasicTransformerBlock with adaLN-zero, as in DiTTransformer2DModel: x + gate_msa * attn + gate_mlp * mlp."""

    def assemble(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], features: Mapping[str, Tensor]) -> Tensor:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        norm: Any = block.norm1
        emb = norm.emb(kwargs["timestep"], kwargs["class_labels"], hidden_dtype=hidden.dtype)
        gate_msa, gate_mlp = gates(norm.linear, norm.silu(emb))
        hidden = gate_msa.unsqueeze(1) * features["attn"] + hidden
        output: Tensor = gate_mlp.unsqueeze(1) * features["mlp"] + hidden
        return output

    return assemble


def parts_of(block: nn.Module) -> Parts | None:
    """Return how this block is cut into parts, or None where the table has no entry for it."""
    if (
        type(block).__name__ == "BasicTransformerBlock"
        and getattr(block, "norm_type", None) == "ada_norm_zero"
        and block.attn2 is None
        and getattr(block, "_chunk_size", None) is None  # chunked feed-forward calls `ff` several times per step
    ):
        return Parts({"attn": "attn1", "mlp": "ff"}, (_ada_norm_zero(_gates_alone), _ada_norm_zero(_all_modulations)))
    return None
