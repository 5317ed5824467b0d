"""Module parts: which submodules of a block are forecast on their own.

TaylorSeer and SpeCa forecast raw module outputs *before* the adaLN gate; norms, modulation and gates of the
current step stay live. This file says which submodules of a block those are, and
`foreseer.adapters.assemblies` how the outputs of some blocks are put together from theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import attrs
from torch import nn

from foreseer.adapters.assemblies import ADA_NORM_ZERO, ASSEMBLIES, Assemble

__all__ = ["Parts", "covered", "parts_of"]


@attrs.frozen
class Parts:
    """How a block is cut into parts.

    Attributes:
        modules: Part name -> path of the submodule from the block, in execution order. Each module's raw
            output is the part's feature.
        idle: Paths of submodules whose results nobody reads where all parts are forecast, and which need not
            run.
        inline: What the block computes itself, in none of its modules, so that it runs in every step; empty for
            nothing that counts.
        assemblies: Ways to put the block's output together from what its parts return, the cheapest first.
            The first that equals the block bit for bit is used; where there is none the block runs with its
            parts replaced.
    """

    modules: Mapping[str, str]
    idle: tuple[str, ...] = ()
    assemblies: tuple[Assemble, ...] = ()
    inline: str = ""


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
    "ff_i": "mlp",
    "mlp_moe_gen": "mlp",
    "txt_ff": "context_mlp",
    "ff_t": "context_mlp",
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

    Single-stream blocks, which project attention and MLP together (FLUX, HunyuanVideo), have one part,
    ``total``, as in the papers' code: the output of that projection. Whether the cut is right is not assumed:
    the backbone's self-check substitutes what was just recorded and wants the same output, bit for bit.
    """
    children = {name: child for name, child in block.named_children() if child is not None}
    assemblies = ASSEMBLIES.get(type(block).__name__, ())
    if {"proj_mlp", "proj_out"} <= children.keys():
        return Parts({"total": "proj_out"}, tuple(name for name in ("attn", "proj_mlp", "act_mlp") if name in children), assemblies)
    if {
        "linear1",
        "linear2",
    } <= children.keys() and not _NAMES.keys() & children.keys():  # the same as Black Forest Labs wrote it, with its attention in the block (ComfyUI)
        return Parts({"total": "linear2"}, ("linear1",), assemblies, inline="attention")
    found: dict[str, str] = {}
    bare = [name for name in ("img_attn", "txt_attn") if {"qkv", "proj"} <= {part for part, _ in children.get(name, block).named_children()}]
    for name in children:
        if name in bare:
            found["attn" if name == "img_attn" else "context_attn"] = f"{name}.proj"
        if name in _NAMES:
            part = _NAMES[name]
            found[name if part in found else part] = name
    if not found and len(children) == 1:  # a block wrapped in another (HiDream)
        ((name, child),) = children.items()
        inner = None if isinstance(child, (nn.ModuleList, nn.Sequential)) else parts_of(child)
        within = None if inner is None else {part: f"{name}.{path}" for part, path in inner.modules.items()}
        return inner and Parts(within or {}, tuple(f"{name}.{path}" for path in inner.idle), inline=inner.inline)
    if getattr(block, "_chunk_size", None) is not None:  # a chunked feed-forward is called several times in a step
        return None
    if type(block).__name__ == "BasicTransformerBlock" and getattr(block, "norm_type", None) == "ada_norm_zero" and block.attn2 is None:
        return Parts({"attn": "attn1", "mlp": "ff"}, assemblies=ADA_NORM_ZERO)
    # MLPs that are written out in the block (MiniMax Music, PRX)
    idle: tuple[str, ...] = ("ff_in",) if {"ff_in", "ff_out"} <= children.keys() else tuple(f"{name}.qkv" for name in bare)
    if "mlp" not in found and {"gate_proj", "up_proj", "down_proj"} <= children.keys():
        found["mlp"], idle = "down_proj", ("gate_proj", "up_proj")
    return Parts(found, idle, assemblies, inline="attention" if bare else "") if found else None


_SMALL = re.compile(r"norm|ada|gate|temb|time|embed|scale_shift|modulation|(?:^|[._])mod(?:$|[._])")
"""Names of modules whose work does not grow with the tokens, or little."""


def covered(blocks: Sequence[nn.Module], parts: Sequence[Parts | None]) -> float:
    """Return the share of the blocks' work that forecasting all parts saves, 0 to 1, as their weights tell:
    those that are multiplied with every token.
    """
    inside = total = 0
    for block, cut in zip(blocks, parts, strict=True):
        own = tuple(f"{path}." for path in (*cut.modules.values(), *cut.idle)) if cut is not None else ()
        for name, weight in block.named_parameters():
            mine = name.startswith(own)
            if weight.ndim > 1 and (mine or not _SMALL.search(name)):
                total += weight.numel()
                inside += weight.numel() if mine else 0
    return inside / total if total else float(any(parts))
