"""The interceptions of one model: calls of its blocks and of their parts, led to whatever walk is under way."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection
from typing import Any, Protocol

from torch import nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.calls import Interception, intercept, is_compiled
from foreseer.adapters.likeness import Likeness
from foreseer.adapters.parts import Parts, covered, parts_of

__all__ = ["Visitor", "Wires"]

Inner = Callable[..., Any]


KNOWN = 8
"""Likenesses of a model that are remembered."""


class Visitor(Protocol):
    """Who is led to the calls while a model's forward is under way. Each answers with what the call returns."""

    def block(self, index: int, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take a block's place."""

    def part(self, index: int, part: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take the place of a block's part."""

    def idle(self, index: int, path: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take the place of a module that need not run where its part does not."""


class Wires:
    """Intercepts a model's blocks, and the parts that a policy asks for. Outside of a walk every call passes
    through.

    Args:
        model: The denoiser.
        blocks: Dotted path of its block list; None to find it.

    Attributes:
        blocks: The blocks as declared.
        parts: How each block is cut into parts; None where it is not, or where that was found not to work.
        covered: Share of the blocks' work that lies in their parts, 0 to 1.
        opaque: The model is compiled as a whole: its blocks are part of one graph and cannot be seen.
        second: Blocks whose outputs were found to have their rows in the second dimension.
        version: Counts how often everything was found anew; what was learnt about the model holds for one
            version.
        walks: Those under way, by the thread of each.
        several: Whether more than one may be, each in a thread of its own.
        looked: Whether the model was just looked at, and need not be again.
        owner: Who installed them, kept alive as long as they are in place.

    Raises:
        UnsupportedModelError: The model has no block list.
    """

    def __init__(self, model: nn.Module, blocks: str | None = None) -> None:
        self.model = model
        self._blocks_path = blocks
        self.opaque = is_compiled(model)
        self.walks: dict[int, Visitor] = {}
        self.several = self.looked = False
        self.owner: object = None
        self.blocks: list[nn.Module] = []
        self.parts: list[Parts | None] = []
        self.notes: list[str] = []
        self.version = self._versions = 0
        self._known: list[tuple[Likeness, int]] = []
        self.second: set[int] = set()
        self._watched: set[int] = set()
        self._interceptions: list[Interception] = []
        self._find()

    def _find(self) -> None:
        self.blocks = [block for _, block in find_blocks(self.model, self._blocks_path)]
        # A wrapper inside of a compiled block would break its graph.
        self.parts = [None if is_compiled(block) else parts_of(block) for block in self.blocks]
        self.notes = []
        self.covered = covered(self.blocks, self.parts)
        if any(is_compiled(block) for block in self.blocks):
            self.notes.append("the blocks are compiled, so that their parts cannot be forecast one by one")
        self._likeness = Likeness(self.model)

    def install(self, owner: object = None) -> None:
        """Intercept the blocks, for somebody who is kept alive as long as they are."""
        self.owner = owner
        if self.opaque:
            return
        for index, block in enumerate(self.blocks):
            self._interceptions.append(intercept(block, functools.partial(self._around_block, index)))

    def watch(self, blocks: Collection[int]) -> None:
        """Intercept the parts of these blocks too; blocks that are watched already stay so."""
        for index in sorted(set(blocks) - self._watched):
            parts = self.parts[index]
            if parts is None:
                continue
            self._watched.add(index)
            block = self.blocks[index]
            around = {path: functools.partial(self._around_part, index, part) for part, path in parts.modules.items()}
            around |= {path: functools.partial(self._around_idle, index, path) for path in parts.idle}
            self._interceptions += [intercept(block.get_submodule(path), each) for path, each in around.items()]

    def restore(self) -> None:
        """Put the model back as it was."""
        while self._interceptions:
            self._interceptions.pop().restore()
        self._watched.clear()

    @property
    def intact(self) -> bool:
        """Whether calls still arrive here; compiling a block after attaching takes them away."""
        return all(interception.intact for interception in self._interceptions)

    @property
    def stale(self) -> bool:
        """Whether something of the model is other than when it was looked at, as loading a LoRA makes it.
        Cheap enough for every call.
        """
        return not self.looked and self._likeness.lost

    @property
    def fingerprint(self) -> object:
        """What equals that of other wires of the same model where both found the same in it."""
        return self._blocks_path, self.opaque, self.notes, self._likeness.fingerprint

    @property
    def changed(self) -> bool:
        """Whether it is stale, or of another dtype."""
        return self.stale or self._likeness.lost_dtype

    def knows(self, version: int) -> bool:
        """Whether what was learnt in a version may hold again."""
        return version == self.version or any(version == known for _, known in self._known)

    def rewire(self) -> None:
        """Find everything anew. A model that is again what it was before, as with hooks that skip layers in
        one call of each step, has its version again.
        """
        self._known = [*self._known[-KNOWN:], (self._likeness, self.version)]
        again = next((version for likeness, version in self._known if not likeness.lost), None)
        watched = set(self._watched)
        self.restore()
        self._versions += again is None
        self.version = self._versions if again is None else again
        self._find()
        self.install(self.owner)
        if again is not None:
            self.watch(watched)

    def _here(self) -> Visitor | None:
        """The walk under way in this thread. Another thread's calls of the same modules are none of its
        business.
        """
        return self.walks.get(threading.get_ident()) if self.walks else None

    def _around_block(self, index: int, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        walk = self._here()
        return inner(*args, **kwargs) if walk is None else walk.block(index, inner, args, kwargs)

    def _around_part(self, index: int, part: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        walk = self._here()
        return inner(*args, **kwargs) if walk is None else walk.part(index, part, inner, args, kwargs)

    def _around_idle(self, index: int, path: str, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        walk = self._here()
        return inner(*args, **kwargs) if walk is None else walk.idle(index, path, inner, args, kwargs)
