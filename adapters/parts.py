"""Module parts: which submodules of a block are forecast on their own.

TaylorSeer and SpeCa forecast raw module outputs *before* the adaLN gate; norms, modulation and gates of the current
step stay live. This file says which submodules of a block those are. For DiT's block it also says how the output is put
together from theirs: doing that, instead of running the block with its submodules replaced, skips the work whose
result nobody reads (norms, shift and scale). The backbone compares each way of doing so with the block, bit for bit,
on the first computed step.
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
    """How a block is cut into parts.

    Attributes:
        modules: Part name -> path of the submodule from the block, in execution order. Each module's raw output is the
            part's feature.
        idle: Paths of submodules whose results nobody reads where all parts are forecast, and which need not run.
        assemblies: ``(block, args, kwargs, features) -> output``: ways to put the block's output together from its
            parts' features, the cheapest first. The first that equals the block bit for bit is used; where there is
            none the block runs with its parts replaced.
    """

    modules: Mapping[str, str]
    idle: tuple[str, ...] = ()
    assemblies: tuple[Assemble, ...] = ()


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


_NAMES = {
    "attn": "attn",
    "attn1": "attn",
    "self_attn": "attn",
    "self_attention": "attn",
    "attention": "attn",
    "attn2": "cross_attn",
    "cross_attn": "cross_attn",
    "cross_attention": "cross_attn",
    "ff": "mlp",
    "ffn": "mlp",
    "ff_out": "mlp",
    "mhba": "attn",
    "mlp": "mlp",
    "feed_forward": "mlp",
    "img_mlp": "mlp",
    "ff_context": "context_mlp",
    "transition": "mlp",
    "txt_mlp": "context_mlp",
    "audio_attn1": "audio_attn",
    "audio_attn2": "audio_cross_attn",
    "audio_to_video_attn": "audio_to_video_attn",
    "video_to_audio_attn": "video_to_audio_attn",
    "audio_ff": "audio_mlp",
}
"""What diffusers calls the modules of a block, and what the papers do."""


def parts_of(block: nn.Module) -> Parts | None:
    """Return how a block is cut into parts, by the names of its submodules; None where it has no known ones.

    Single-stream blocks, which project attention and MLP together (FLUX, HunyuanVideo), have one part, ``total``, as in
    the papers' code: the output of that projection. Whether the cut is right is not assumed: the backbone's self-check
    substitutes what was just recorded and wants the same output, bit for bit.
    """
    children = {name: child for name, child in block.named_children() if child is not None}
    if {"proj_mlp", "proj_out"} <= children.keys():
        return Parts({"total": "proj_out"}, idle=tuple(name for name in ("attn", "proj_mlp", "act_mlp") if name in children))
    found: dict[str, str] = {}
    for name in children:
        if name in _NAMES:
            part = _NAMES[name]
            found[name if part in found else part] = name
    if not found and len(children) == 1:  # a block wrapped in another (HiDream)
        ((name, child),) = children.items()
        inner = None if isinstance(child, (nn.ModuleList, nn.Sequential)) else parts_of(child)
        return inner and Parts({part: f"{name}.{path}" for part, path in inner.modules.items()}, tuple(f"{name}.{path}" for path in inner.idle))
    if getattr(block, "_chunk_size", None) is not None:  # a chunked feed-forward is called several times in a step
        return None
    if type(block).__name__ == "BasicTransformerBlock" and getattr(block, "norm_type", None) == "ada_norm_zero" and block.attn2 is None:
        return Parts({"attn": "attn1", "mlp": "ff"}, assemblies=(_ada_norm_zero(_gates_alone), _ada_norm_zero(_all_modulations)))
    idle = ("ff_in",) if {"ff_in", "ff_out"} <= children.keys() else ()  # an MLP written out in the block (MiniMax Music)
    return Parts(found, idle) if found else None
