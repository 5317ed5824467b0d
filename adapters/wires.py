"""The interceptions of one model: calls of its blocks and of their parts, led to whatever walk is under way."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.calls import Interception, intercept, is_compiled, own_forward
from foreseer.adapters.parts import Parts, covered, parts_of

if TYPE_CHECKING:
    from foreseer.adapters.walk import Walk

__all__ = ["Wires"]


def _traits(module: nn.Module) -> object:
    """What of a module can be changed from outside, and changes what a call of it does: hooks, a `forward` of its own, chunking, the dtype of its weights."""
    hooks = len(module._forward_hooks), len(module._forward_pre_hooks), own_forward(module), getattr(module, "_chunk_size", None)
    return hooks, [parameter.dtype for parameter in module._parameters.values() if parameter is not None]


class Wires:
    """Intercepts a model's blocks, and the parts that a policy asks for. Outside of a walk every call passes through.

    Args:
        model: The denoiser.
        blocks: Dotted path of its block list; None to find it.

    Attributes:
        blocks: The blocks as declared.
        parts: How each block is cut into parts; None where it is not, or where that was found not to work.
        covered: Share of the blocks' work that lies in their parts, 0 to 1.
        opaque: The model is compiled as a whole: its blocks are part of one graph and cannot be seen.
        second: Blocks whose outputs were found to have their rows in the second dimension.
        version: Counts how often everything was found anew; what was learnt about the model holds for one version.
        walk: The walk under way.

    Raises:
        UnsupportedModelError: The model has no block list.
    """

    def __init__(self, model: nn.Module, blocks: str | None = None) -> None:
        self.model = model
        self._blocks_path = blocks
        self.opaque = is_compiled(model)
        self.walk: Walk | None = None
        self.blocks: list[nn.Module] = []
        self.parts: list[Parts | None] = []
        self.notes: list[str] = []
        self.version = 0
        self.second: set[int] = set()
        self._watched: set[int] = set()
        self._links: dict[tuple[int, str], tuple[dict[str, Any], str, nn.Module | None]] = {}
        self._interceptions: list[Interception] = []
        self._find()

    def _find(self) -> None:
        found = find_blocks(self.model, self._blocks_path)
        self._paths = [path for path, _ in found]
        self.blocks = [block for _, block in found]
        # A wrapper inside of a compiled block would break its graph.
        self.parts = [None if is_compiled(block) else parts_of(block) for block in self.blocks]
        self.notes = []
        self.covered = covered(self.blocks, self.parts)
        if any(is_compiled(block) for block in self.blocks):
            self.notes.append("the blocks are compiled, so that their parts cannot be forecast one by one")
        self._traits = self._traits_now()

    def install(self) -> None:
        """Intercept the blocks."""
        if self.opaque:
            return
        for index, (path, block) in enumerate(zip(self._paths, self.blocks, strict=True)):
            self._wire(path, block, functools.partial(self._around_block, index))

    def watch(self, blocks: Collection[int]) -> None:
        """Intercept the parts of these blocks too; blocks that are watched already stay so."""
        for index in sorted(set(blocks) - self._watched):
            parts = self.parts[index]
            if parts is None:
                continue
            self._watched.add(index)
            block, at = self.blocks[index], self._paths[index]
            for part, path in parts.modules.items():
                self._wire(f"{at}.{path}", block.get_submodule(path), functools.partial(self._around_part, index, part))
            for path in parts.idle:
                self._wire(f"{at}.{path}", block.get_submodule(path), functools.partial(self._around_idle, index, path))

    def _wire(self, path: str, module: nn.Module, around: Callable[..., Any]) -> None:
        at = self.model
        for name in path.split("."):
            modules = at._modules
            self._links.setdefault((id(modules), name), (modules, name, modules[name]))
            at = cast(nn.Module, modules[name])
        self._interceptions.append(intercept(module, around))

    def restore(self) -> None:
        """Put the model back as it was."""
        while self._interceptions:
            self._interceptions.pop().restore()
        self._links.clear()
        self._watched.clear()

    @property
    def intact(self) -> bool:
        """Whether calls still arrive here; compiling a block after attaching takes them away."""
        return all(interception.intact for interception in self._interceptions)

    @property
    def stale(self) -> bool:
        """Whether a module was exchanged for another since it was intercepted, as loading a LoRA does. Cheap enough for every call."""
        return any(modules.get(name) is not module for modules, name, module in self._links.values())

    @property
    def changed(self) -> bool:
        """Whether what decides how blocks are cut and put together is other than it was: hooks, chunked feed-forwards, the dtype."""
        return self._traits_now() != self._traits

    def _traits_now(self) -> list[object]:
        return [(parts_of(block), [_traits(module) for module in block.modules()]) for block in self.blocks if not is_compiled(block)]

    def rewire(self) -> None:
        """Find everything anew."""
        self.restore()
        self.version += 1
        self._find()
        self.install()

    def _here(self) -> Walk | None:
        """The walk under way in this thread. Another thread's calls of the same modules are none of its business."""
        walk = self.walk
        return walk if walk is not None and walk.thread == threading.get_ident() else None

    def _around_block(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        walk = self._here()
        return inner(*args, **kwargs) if walk is None else walk.block(index, inner, args, kwargs)

    def _around_part(self, index: int, part: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        walk = self._here()
        return inner(*args, **kwargs) if walk is None else walk.part(index, part, inner, args, kwargs)

    def _around_idle(self, index: int, path: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        walk = self._here()
        return inner(*args, **kwargs) if walk is None else walk.idle(index, path, inner, args, kwargs)
