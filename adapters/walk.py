"""One walk over the blocks of a module: what each intercepted call does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foreseer.errors import UnsupportedModelError
from foreseer.types import Evidence, Probe, Site

if TYPE_CHECKING:
    from foreseer.adapters.module_backbone import ModuleBackbone

__all__ = ["Abandoned", "Walk", "live_blocks"]


class Abandoned(BaseException):
    """Ends a pass whose draft was rejected. Not an Exception, so that no host swallows it on the way out."""


def live_blocks(depth: int, forecast: Collection[Site], probe: Probe | None) -> list[bool]:
    """``(L,)`` which blocks' outputs somebody needs. A block is dead if the next needed output behind it is forecast as a whole."""
    live = [False] * depth
    needed = True
    for index in reversed(range(depth)):
        live[index] = needed
        if not needed:
            continue
        drafted = probe is not None and probe.on == "draft" and probe.block == index
        needed = Site(index) not in forecast or drafted
    if probe is not None and probe.on == "input":
        for index in range(probe.block + 1):
            live[index] = True
    return live


class Walk:
    """The state of one pass.

    Args:
        host: The backbone.
        rows: Rows in this pass.
        substitute, probe, judge, record: As in `foreseer.backbone.Backbone.forward`.
        clone: Record copies, because something writes to the tensors afterwards.
    """

    def __init__(
        self,
        host: ModuleBackbone,
        rows: int,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None,
        judge: Callable[[Evidence], bool] | None,
        record: Collection[Site],
        *,
        clone: bool,
    ) -> None:
        self._host, self._rows = host, rows
        self._substitute, self._probe, self._judge, self._record, self._clone = substitute, probe, judge, record, clone
        self.features: dict[Site, Tensor] = {}
        self.block_rows = 0
        self._versions: list[tuple[Tensor, int]] = []
        self._live = live_blocks(host.depth, substitute, probe) if substitute else None
        self._bypass = False

    def block(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called."""
        probe = self._probe
        if probe is not None and index <= probe.block and probe.on == "input":
            output = self._compute(index, inner, args, kwargs)
            if index == probe.block:
                self._judge_input(output)
            return output
        if self._live is None:
            return self._compute(index, inner, args, kwargs)
        if not self._live[index]:
            return self._placeholder(index)
        site = Site(index)
        if probe is not None and probe.block == index:
            return self._judge_draft(index, inner, args, kwargs)
        if site in self._substitute:
            return self._substitute[site]
        parts = self._host.parts[index]
        if parts is not None and all(Site(index, part) in self._substitute for part in parts.modules):
            return self._forecast_parts(index, inner, args, kwargs)
        return self._compute(index, inner, args, kwargs)

    def part(self, site: Site, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A part of a block is called, from inside the block."""
        probe = self._probe
        behind = probe is None or probe.on == "draft" or site.block > probe.block
        if self._live is not None and behind and not self._bypass and site in self._substitute:
            return self._substitute[site]
        output = inner(*args, **kwargs)
        if site in self._record:
            self._keep(site, output)
        return output

    def untouched(self) -> bool:
        """Whether nobody wrote to a recorded feature since it was recorded."""
        return all(tensor._version == version for tensor, version in self._versions)

    def _compute(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the block, with those of its parts replaced that are substituted."""
        self.block_rows += self._rows
        output = inner(*args, **kwargs)
        site = Site(index)
        if site in self._record:
            self._keep(site, self._tensor(index, output))
        if self._live is None:
            self._learn(index, args, kwargs, output)
        return output

    def _forecast_parts(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        parts, assemble = self._host.parts[index], self._host.assemblies.get(index)
        if parts is not None and assemble is not None:
            features = {part: self._substitute[Site(index, part)] for part in parts.modules}
            return assemble(self._host.block(index), args, kwargs, features)
        return inner(*args, **kwargs)  # its parts are replaced where they are called

    def _judge_input(self, output: Any) -> None:
        assert self._judge is not None
        site = Site(self._probe.block) if self._probe is not None else Site(0)
        if not self._judge(Evidence(site, self._tensor(site.block, output), self._substitute[site])):
            self._live = None  # nothing is forecast: go on computing

    def _judge_draft(self, index: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._judge is not None
        self.block_rows += self._rows
        self._bypass = True
        try:
            computed = self._tensor(index, inner(*args, **kwargs))
        finally:
            self._bypass = False
        site = Site(index)
        forecast = self._substitute[site] if site in self._substitute else self._forecast_parts(index, inner, args, kwargs)
        if not self._judge(Evidence(site, computed, self._tensor(index, forecast))):
            raise Abandoned
        return forecast

    def _learn(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """From a computed block: what a placeholder looks like, and whether its parts put together equal it bit for bit."""
        if not self._record:
            return
        host, tensor, parts = self._host, self._tensor(index, output), self._host.parts[index]
        like = host.placeholders.get(index)
        if like is None or like.shape[1:] != tensor.shape[1:] or like.dtype != tensor.dtype or len(like) < len(tensor):
            before = host.placeholders.get(index - 1)
            same = before is not None and before.shape == tensor.shape and before.dtype == tensor.dtype and before.device == tensor.device
            host.placeholders[index] = before if same and before is not None else torch.zeros_like(tensor)
        if parts is not None and index not in host.assemblies:
            features = {part: self.features[Site(index, part)] for part in parts.modules if Site(index, part) in self.features}
            if len(features) == len(parts.modules):
                ways = (way for way in parts.assemblies if torch.equal(way(host.block(index), args, kwargs, features), tensor))
                host.assemblies[index] = next(ways, None)

    def _placeholder(self, index: int) -> Tensor:
        return self._host.placeholders[index][: self._rows]

    def _keep(self, site: Site, output: Any) -> None:
        tensor = self._tensor(site.block, output).detach()
        if self._clone or tensor.is_inference():
            self.features[site] = tensor.clone()
        else:
            self.features[site] = tensor
            self._versions.append((tensor, tensor._version))

    def _tensor(self, index: int, output: Any) -> Tensor:
        """The one tensor in a block's output."""
        if isinstance(output, Tensor) and output.ndim and len(output) == self._rows:
            return output
        raise UnsupportedModelError(
            f"block {index} ({type(self._host.block(index)).__name__}) returned {_describe(output)}; "
            f"foreseer needs one tensor with the call's {self._rows} rows"
        )


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
