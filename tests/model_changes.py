"""What people do to a model while a policy is attached to it, and the calls of one model to do it between.

Each change takes a model and returns what takes it back, or None where the model has nothing to change. Equal models are changed equally.
"""

import copy
from collections.abc import Callable
from typing import Any

import attrs
import diffusers
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny import TINY
from tiny.bare import BARE
from tiny.bare_parts import quiet
from tiny.common import NO_BATCH, redraw
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from foreseer.adapters.arguments import signature_of_call
from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.parts import parts_of

__all__ = ["CACHED", "CHANGES", "MODELS", "STEPS", "Subject"]

STEPS = 6
Undo = Callable[[], None]
Call = tuple[tuple[Any, ...], dict[str, Any]]


@attrs.frozen
class Subject:
    """One model, and what a sampling loop gives it.

    Attributes:
        build: A new model, with equal weights at each call.
        calls: Makes the arguments of each step of its first stream, ``(T,)``.
    """

    build: Callable[[], nn.Module]
    calls: Callable[[], list[Call]]

    @classmethod
    def of(cls, name: str) -> "Subject":
        """The model of a tiny pipeline, or one that is called directly."""
        if name in BARE:
            return cls(BARE[name].build, lambda: [((), BARE[name].inputs(step, 2)) for step in range(STEPS)])
        tiny, calls = TINY[name], []
        pipe = tiny.build()

        def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(_copied((args, kwargs)))

        pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
        tiny.call(pipe, steps=STEPS, batch=1 if NO_BATCH in tiny.notes else 2)
        alike = [call for call in calls if signature_of_call(*call) == signature_of_call(*calls[-1])]
        each = max(1, len(alike) // STEPS)
        return cls(lambda: tiny.build().transformer, lambda: alike[::each][:STEPS])

    def run(self, model: nn.Module, *, change: Callable[[nn.Module], Undo | None] | None = None, at: int = -1) -> list[Any]:
        """Call a model step after step; changed before one of them."""
        outputs = []
        with torch.no_grad(), quiet():
            for step, call in enumerate(self.calls()):
                if step == at and change is not None:
                    change(model)
                args, kwargs = _copied(call, next(model.parameters()).dtype)
                outputs.append(_copied(model(*args, **kwargs)))
        return outputs


def _copied(what: Any, dtype: torch.dtype | None = None) -> Any:
    """Copies of all tensors, those of floating-point numbers in a dtype."""
    return tree_map(lambda leaf: leaf.to(dtype if leaf.is_floating_point() else None, copy=True) if isinstance(leaf, Tensor) else leaf, what)


def _families() -> dict[str, Any]:
    """A pipeline for each family of blocks, and the models that no pipeline holds; with their models' classes."""
    found: dict[Any, tuple[str, Any]] = {}
    for name in TINY:
        model = TINY[name].build().transformer
        kinds = tuple(dict.fromkeys(type(block).__name__ for _, block in find_blocks(model)))
        found.setdefault((type(model).__name__, kinds), (name, type(model)))
    return dict(found.values()) | {name: getattr(diffusers, bare.cls) for name, bare in BARE.items()}


_CLASSES = _families()
MODELS = list(_CLASSES)
CACHED = [name for name, kind in _CLASSES.items() if hasattr(kind, "enable_cache")]
"""Models of diffusers for which it has caches."""


def _middle(model: nn.Module) -> tuple[nn.Module, str, nn.Module]:
    """The list that holds the second block, its name there, and the block."""
    path, block = find_blocks(model)[1]
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name, block


def _part(model: nn.Module) -> tuple[nn.Module, str, nn.Module] | None:
    """What holds the second block's first part, its name there, and the part."""
    _, _, block = _middle(model)
    parts = parts_of(block)
    if parts is None:
        return None
    parent, _, name = next(iter(parts.modules.values())).rpartition(".")
    holder = block.get_submodule(parent)
    return holder, name, getattr(holder, name)


def _put(holder: nn.Module, name: str, module: nn.Module) -> Undo:
    before = holder._modules[name]
    holder._modules[name] = module
    return lambda: holder._modules.__setitem__(name, before)


def exchange_a_part(model: nn.Module) -> Undo | None:
    """Another module in a part's place, with other weights."""
    found = _part(model)
    return found and _put(found[0], found[1], redraw(copy.deepcopy(found[2]), 7).requires_grad_(False))


def exchange_a_block(model: nn.Module) -> Undo | None:
    """Another block in a block's place."""
    holder, name, block = _middle(model)
    return _put(holder, name, redraw(copy.deepcopy(block), 7).requires_grad_(False))


def add_a_lora(model: nn.Module) -> Undo | None:
    """Low-rank layers around linear ones: inside of parts, and parts themselves."""
    targets = []
    for path, block in find_blocks(model):
        parts = parts_of(block)
        for part in parts.modules.values() if parts else ():
            inside = [f"{path}.{part}.{name}".rstrip(".") for name, layer in block.get_submodule(part).named_modules() if type(layer) is nn.Linear]
            targets += inside[:1]
    if not targets:
        return None
    inject_adapter_in_model(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), model, "style")
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.eval().requires_grad_(False)

    def undo() -> None:
        for path in targets:
            parent, _, name = path.rpartition(".")
            holder = model.get_submodule(parent)
            holder._modules[name] = holder._modules[name].base_layer
        vars(model).pop("peft_config", None)

    return undo


def _scaled(output: Any) -> Any:
    return tree_map(lambda leaf: 1.25 * leaf if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, output)


def hook_a_block(model: nn.Module) -> Undo | None:
    """A forward hook that changes what a block returns."""
    return _middle(model)[2].register_forward_hook(lambda _module, _args, output: _scaled(output)).remove


def hook_a_part(model: nn.Module) -> Undo | None:
    """A forward hook that changes what a part returns."""
    found = _part(model)
    return found and found[2].register_forward_hook(lambda _module, _args, output: _scaled(output)).remove


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Undo:
    object.__setattr__(module, "forward", forward)
    return lambda: object.__delattr__(module, "forward")


def skip_a_block(model: nn.Module) -> Undo | None:
    """A block's `forward` hands its streams through, as layer skipping does: for each tensor that it returns the first argument of that shape."""
    _, _, block = _middle(model)
    inner = block.forward

    def through(*args: Any, **kwargs: Any) -> Any:
        made, spec = tree_flatten(inner(*args, **kwargs))
        given = [leaf for leaf in tree_leaves((kwargs.get("hidden_states"), args, kwargs)) if isinstance(leaf, Tensor)]
        return tree_unflatten([_like(leaf, given) for leaf in made], spec)

    return _replace_forward(block, through)


def _like(made: Any, given: list[Tensor]) -> Any:
    if not isinstance(made, Tensor):
        return made
    return next((leaf.clone() for leaf in given if leaf.shape == made.shape and leaf.dtype == made.dtype), made)


def skip_a_part(model: nn.Module) -> Undo | None:
    """A part's `forward` returns zeros, as skipping an attention does."""
    found = _part(model)
    if found is None:
        return None
    inner = found[2].forward
    return _replace_forward(found[2], lambda *args, **kwargs: tree_map(lambda leaf: 0 * leaf if isinstance(leaf, Tensor) else leaf, inner(*args, **kwargs)))


def chunk_feed_forwards(model: nn.Module) -> Undo | None:
    """Feed-forwards in two chunks each."""
    blocks: list[Any] = [block for _, block in find_blocks(model) if hasattr(block, "set_chunk_feed_forward")]
    if not blocks:
        return None
    for block in blocks:
        block.set_chunk_feed_forward(2, dim=0)

    def undo() -> None:
        for block in blocks:
            block.set_chunk_feed_forward(None, dim=0)

    return undo


def fuse_projections(model: Any) -> Undo | None:
    """Queries, keys and values in one product."""
    if not hasattr(model, "fuse_qkv_projections"):
        return None
    before = {path for path, _ in model.named_modules()}
    model.fuse_qkv_projections()
    fused = [path.rpartition(".") for path, _ in model.named_modules() if path not in before]
    if not fused:
        return None

    def undo() -> None:
        model.unfuse_qkv_projections()
        for parent, _, name in fused:  # which most leave there
            model.get_submodule(parent)._modules.pop(name, None)

    return undo


def checkpoint_gradients(model: Any) -> Undo | None:
    """Which changes nothing without gradients."""
    if not getattr(model, "_supports_gradient_checkpointing", False):
        return None
    model.enable_gradient_checkpointing()
    return lambda: model.disable_gradient_checkpointing()


def choose_a_backend(model: Any) -> Undo | None:
    """Attention by another function."""
    if not hasattr(model, "set_attention_backend"):
        return None
    model.set_attention_backend("_native_math")
    return lambda: model.set_attention_backend("native")


def autocast(_model: nn.Module) -> Undo | None:
    """Products in 16 bits."""
    context = torch.autocast("cpu", torch.bfloat16)
    context.__enter__()
    return lambda: context.__exit__(None, None, None)


def go_to_16_bits(model: nn.Module) -> Undo | None:
    """All weights in bfloat16, and with them what the model computes; and back."""
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    model.to(torch.bfloat16)

    def undo() -> None:
        model.to(torch.float32)
        for parameter, data in weights:
            parameter.data = data
        for module, held in buffers:  # which were rounded
            module._buffers.update(held)

    return undo


def compile_a_block(model: nn.Module) -> Undo | None:
    """What `torch.compile` makes of a block in the block's place."""
    holder, name, block = _middle(model)
    undo = _put(holder, name, torch.compile(block, backend="eager"))

    def back() -> None:
        undo()
        torch.compiler.reset()

    return back


CHANGES: list[Callable[[Any], Undo | None]] = [
    exchange_a_part,
    exchange_a_block,
    add_a_lora,
    hook_a_block,
    hook_a_part,
    skip_a_block,
    skip_a_part,
    chunk_feed_forwards,
    fuse_projections,
    checkpoint_gradients,
    choose_a_backend,
    autocast,
    go_to_16_bits,
    compile_a_block,
]
