"""Any PyTorch model with a list of blocks as a host: calls of its blocks are intercepted, its code is not touched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.calls import Interception, intercept
from foreseer.adapters.parts import Assemble, parts_of
from foreseer.adapters.rows import count_rows, merge_rows, take_rows
from foreseer.adapters.walk import Abandoned, Walk
from foreseer.backbone import Pass
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.types import Evidence, Probe, Site

__all__ = ["Call", "ModuleBackbone"]


class Call(NamedTuple):
    """The arguments of one evaluation, and what to call with them."""

    inner: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class ModuleBackbone:
    """A `torch.nn.Module` whose blocks are intercepted; satisfies `foreseer.backbone.Backbone`.

    Sites are every block's output and, where the block class is known, its module parts. A block must return one
    tensor ``(rows, ...)``.

    Args:
        model: The denoiser.
        blocks: Dotted path of its block list; None to find it.

    Raises:
        UnsupportedModelError: The model has no block list, or a block occurs twice in it.
    """

    def __init__(self, model: nn.Module, *, blocks: str | None = None) -> None:
        self.model = model
        self.path, self._blocks = find_blocks(model, blocks)
        if len({id(block) for block in self._blocks}) < len(self._blocks):
            raise UnsupportedModelError(f"{self.path!r} holds one block several times; a site would have several features per step")
        self.parts = [parts_of(block) for block in self._blocks]
        self._walk: Walk | None = None
        # The way of putting a block together that was found to equal it bit for bit, or None where none did; empty until the first computed step.
        self.assemblies: dict[int, Assemble | None] = {}
        self.clone = False
        self.placeholders: dict[int, Tensor] = {}
        self._interceptions: list[Interception] = []

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every block's parts, then its output, block after block."""
        return tuple(
            site for index, parts in enumerate(self.parts) for site in (*(Site(index, part) for part in (parts.modules if parts else ())), Site(index))
        )

    def block(self, index: int) -> nn.Module:
        """The block of that index."""
        return self._blocks[index]

    def install(self) -> None:
        """Intercept the blocks and their parts."""
        for index, (block, parts) in enumerate(zip(self._blocks, self.parts, strict=True)):
            self._interceptions.append(intercept(block, self._around_block(index)))
            for part, attribute in parts.modules.items() if parts else ():
                self._interceptions.append(intercept(block.get_submodule(attribute), self._around_part(Site(index, part))))

    def uninstall(self) -> None:
        """Put the model back as it was."""
        while self._interceptions:
            self._interceptions.pop().restore()

    @property
    def intact(self) -> bool:
        """Whether calls still arrive here."""
        return all(interception.intact for interception in self._interceptions)

    def rows(self, inputs: Call) -> int:
        """Leading dimension of the first tensor argument."""
        return count_rows(inputs.args, inputs.kwargs)

    def forward(
        self,
        inputs: Call,
        *,
        rows: Sequence[int] | None = None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
    ) -> Pass:
        """See `foreseer.backbone.Backbone.forward`."""
        if self._walk is not None:
            raise ContractError("a second evaluation of this model began before the first had ended; give each thread a model of its own")
        args, kwargs = inputs.args, inputs.kwargs
        total = count_rows(args, kwargs)
        if rows is not None:
            args, kwargs = take_rows((args, kwargs), rows, total)
        # A host that writes into a block's output in place would change the recorded feature. It is seen by the tensors' version counters; then, and under
        # inference mode, which has none, features are cloned. The pass that showed it is repeated once.
        clone = self.clone or torch.is_inference_mode_enabled()
        while True:
            walk = Walk(self, total if rows is None else len(rows), substitute, probe, judge, record, clone=clone)
            self._walk = walk
            try:
                output = inputs.inner(*args, **kwargs)
            except Abandoned:
                output = None
            finally:
                self._walk = None
            if clone or walk.untouched():
                return Pass(output, walk.features, walk.block_rows)
            clone = self.clone = True

    def merge(self, output: Any, rows: Sequence[int], part: Any) -> Any:
        """Scatter the rows of ``part`` into ``output``, whatever structure the model returns."""
        return merge_rows(output, rows, part)

    def _around_block(self, index: int) -> Callable[..., Any]:
        def around(inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return inner(*args, **kwargs) if self._walk is None else self._walk.block(index, inner, args, kwargs)

        return around

    def _around_part(self, site: Site) -> Callable[..., Any]:
        def around(inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return inner(*args, **kwargs) if self._walk is None else self._walk.part(site, inner, args, kwargs)

        return around
