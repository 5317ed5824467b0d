"""Assemblies: a block's output, put together from its parts' outputs and its live modulation.

A block that runs with its parts replaced still normalizes, shifts, scales and concatenates what nobody will
read. An assembly computes the rest: gates, and sums. Each is written after a block of diffusers, and in its
order of operations, so that the result is the same bit for bit. That is not assumed: the backbone compares
the two on the first computed step. What that step need not show, such as the clipping of 16-bit streams that
run over, is why blocks are listed by name, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from foreseer.adapters.calls import is_hooked
from foreseer.adapters.sameness import same_bits

__all__ = ["ADA_NORM_ZERO", "ASSEMBLIES", "Assemble", "leaves_out_hooks", "tried"]

_Shared = dict[object, Tensor]
Assemble = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Mapping[str, Any], _Shared], Any]
"""``(block, args, kwargs, features, shared) -> output``. ``features`` holds what each part's module returns, and
may be written to; the arguments are read. In ``shared`` lies what the blocks of one pass have in common.
"""

_Gates = Callable[[nn.Module, Tensor, int, Sequence[int]], list[Tensor]]
"""``(linear, embedding, of, which) -> gates``: of a layer's output ``(R, of * width)``, these of its ``of``
pieces.
"""


def leaves_out_hooks(block: nn.Module) -> bool:
    """Whether somebody takes part in the calls of a block or of its modulation, so that it must be run.

    What they do may begin at a later step than the one on which an assembly was compared with the block.
    """
    norms = (block._modules.get(name) for name in ("norm", "norm1", "norm1_context"))
    return is_hooked(block) or any(is_hooked(norm) for norm in norms if norm is not None)


def _all_modulations(linear: nn.Module, embedding: Tensor, of: int, which: Sequence[int]) -> list[Tensor]:
    pieces = linear(embedding).chunk(of, dim=1)
    return [pieces[i] for i in which]


def _gates_alone(linear: nn.Module, embedding: Tensor, of: int, which: Sequence[int]) -> list[Tensor]:
    """A third of the products, since only gates are needed; for a plain layer that nothing hooks, wraps,
    quantizes or offloads.
    """
    if type(linear) is not nn.Linear or type(linear.weight) is not nn.Parameter or linear.bias is None:
        return _all_modulations(linear, embedding, of, which)
    if is_hooked(linear) or linear.weight.device != embedding.device:
        return _all_modulations(linear, embedding, of, which)
    width = linear.out_features // of
    rows = [slice(i * width, (i + 1) * width) for i in which]
    return [F.linear(embedding, linear.weight[piece], linear.bias[piece]) for piece in rows]


def _gated(gate: Tensor, own: Tensor) -> Tensor:
    """Return ``gate * own``, likewise, where the gate is one for all tokens of a row."""
    if len(gate) == len(own) and gate.ndim == own.ndim and gate.shape[1] == 1 and own.dtype == torch.result_type(own, gate):
        return own.mul_(gate)
    return gate * own


def _onto(stream: Tensor, own: Tensor) -> Tensor:
    """Return ``stream + own``, in the memory of ``own`` where it fits: on a CPU, the first use of fresh
    memory takes longer than the sum.
    """
    if own.shape == stream.shape and own.dtype == torch.result_type(own, stream):
        return own.add_(stream)
    return stream + own


def _clipped(stream: Tensor) -> Tensor:
    """As FLUX keeps its streams finite in float16."""
    return stream.clip(-65504, 65504) if stream.dtype == torch.float16 else stream


def _streams(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None, Tensor]:
    """The arguments that a block of two streams is called with: hidden states, those of the text (None if
    they are not apart), embedding of the time.
    """
    given = {**dict(zip(("hidden_states", "encoder_hidden_states", "temb"), args, strict=False)), **kwargs}
    return given["hidden_states"], given.get("encoder_hidden_states"), given["temb"]


def _embedded(emb: Any, timestep: Tensor, labels: Tensor, dtype: torch.dtype, shared: _Shared) -> Tensor:
    """What a block makes of time and class. The waves of the time have no weights: one for all blocks."""
    if type(emb).__name__ != "CombinedTimestepLabelEmbeddings" or is_hooked(emb) or is_hooked(emb.time_proj):
        embedded: Tensor = emb(timestep, labels, hidden_dtype=dtype)
        return embedded
    waves = emb.time_proj
    key = (id(timestep), timestep.dtype, dtype, waves.num_channels, waves.flip_sin_to_cos, waves.downscale_freq_shift, waves.scale)
    if key not in shared:
        shared[key] = waves(timestep).to(dtype=dtype)
    made: Tensor = emb.timestep_embedder(shared[key]) + emb.class_embedder(labels)
    return made


def _ada_norm_zero(gates: _Gates) -> Assemble:
    """BasicTransformerBlock with adaLN-zero, as in DiTTransformer2DModel: x + gate_msa * attn + gate_mlp *
    mlp.
    """

    def assemble(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], features: Mapping[str, Any], shared: _Shared) -> Tensor:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        norm: Any = block.norm1
        emb = _embedded(norm.emb, kwargs["timestep"], kwargs["class_labels"], hidden.dtype, shared)
        gate_msa, gate_mlp = gates(norm.linear, norm.silu(emb), 6, (2, 5))
        hidden = _onto(hidden, _gated(gate_msa.unsqueeze(1), features["attn"]))
        return _onto(hidden, _gated(gate_mlp.unsqueeze(1), features["mlp"]))

    return assemble


def _two_streams(gates: _Gates, *, text_first: bool) -> Assemble:
    """The blocks of FLUX and HunyuanVideo in which image and text have weights of their own: each is x +
    gate_msa * attn + gate_mlp * mlp.

    FLUX (``text_first``) returns the text first and clips it, and adds what an IP-adapter attends to.
    """

    def one(norm: Any, temb: Tensor, stream: Tensor, attn: Tensor, mlp: Tensor) -> Tensor:
        gate_msa, gate_mlp = gates(norm.linear, norm.silu(temb), 6, (2, 5))
        stream = _onto(stream, _gated(gate_msa.unsqueeze(1), attn))
        return _onto(stream, _gated(gate_mlp.unsqueeze(1), mlp))

    def assemble(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], features: Mapping[str, Any], shared: _Shared) -> tuple[Tensor, Tensor]:
        hidden, text, temb = _streams(args, kwargs)
        assert text is not None
        attn, text_attn, *adapted = features["attn"]
        hidden = one(block.norm1, temb, hidden, attn, features["mlp"])
        for more in adapted:
            hidden = _onto(more, hidden)
        text = one(block.norm1_context, temb, text, text_attn, features["context_mlp"])
        return (_clipped(text), hidden) if text_first else (hidden, text)

    return assemble


def _joined_streams(gates: _Gates, *, text_first: bool) -> Assemble:
    """The blocks of FLUX and HunyuanVideo that run over image and text as one: x + gate * total. FLUX
    (``text_first``) clips both.
    """

    def assemble(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], features: Mapping[str, Any], shared: _Shared) -> Any:
        hidden, text, temb = _streams(args, kwargs)
        norm: Any = block.norm
        gate = gates(norm.linear, norm.silu(temb), 3, (2,))[0].unsqueeze(1)
        total: Tensor = features["total"]
        if text is None:  # they were put together in front of the block
            return _clipped(_onto(hidden, _gated(gate, total)))
        first, second = (text, hidden) if text_first else (hidden, text)
        length = first.shape[1]
        first, second = _onto(first, _gated(gate, total[:, :length])), _onto(second, _gated(gate, total[:, length:]))
        return (_clipped(first), _clipped(second)) if text_first else (first, second)

    return assemble


def _wan(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], features: Mapping[str, Any], shared: _Shared) -> Tensor:
    """WanTransformerBlock: x + gate_msa * attn + cross_attn + gate_mlp * mlp, the gated sums in float32, as
    the gates are.
    """
    hidden, _, temb = _streams(args, kwargs)
    table: Any = block.scale_shift_table
    if temb.ndim == 4:  # one time for each token: (R, tokens, 6, width)
        gate_msa, gate_mlp = (table[:, i] + temb[:, :, i].float() for i in (2, 5))
    else:
        gate_msa, gate_mlp = (table[:, i : i + 1] + temb[:, i : i + 1].float() for i in (2, 5))
    stream = _onto(hidden, _gated(gate_msa, features["attn"])).type_as(hidden)
    stream = _onto(features["cross_attn"], stream)
    return _onto(stream, _gated(gate_mlp, features["mlp"])).type_as(hidden)


ADA_NORM_ZERO: tuple[Assemble, ...] = (_ada_norm_zero(_gates_alone), _ada_norm_zero(_all_modulations))
"""For DiT's block, whose class has other forms too."""

_AS_FLUX = ("Flux", "Bria", "BriaFibo", "LongCatImage", "OvisImage")
_GATES = (_gates_alone, _all_modulations)
ASSEMBLIES: dict[str, tuple[Assemble, ...]] = {
    **{f"{name}TransformerBlock": tuple(_two_streams(gates, text_first=True) for gates in _GATES) for name in _AS_FLUX},
    **{f"{name}SingleTransformerBlock": tuple(_joined_streams(gates, text_first=True) for gates in _GATES) for name in _AS_FLUX},
    **{f"{name}TransformerBlock": tuple(_two_streams(gates, text_first=False) for gates in _GATES) for name in ("HunyuanVideo", "HunyuanVideo15")},
    "HunyuanVideoSingleTransformerBlock": tuple(_joined_streams(gates, text_first=False) for gates in _GATES),
    "WanTransformerBlock": (_wan,),
}
"""Class name of a block in diffusers -> ways to put it together, the cheapest first. A class derived from one
of them has another name, and none.
"""


def tried(ways: Iterable[Callable[[], Any]], output: Any, *, all_ways: bool) -> list[bool]:
    """Return of ways to put a block together whether each gives what the block returned, bit for bit. With
    ``all_ways`` try all; else up to the first that does.
    """
    found: list[bool] = []
    for way in () if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(output)) else ways:
        try:
            found.append(same_bits(way(), output))
        except Exception:  # a block that is not what its name says, or whose weights are where only its own hooks find them: it goes on being run
            found.append(False)
        if found[-1] and not all_ways:
            break
    return found
