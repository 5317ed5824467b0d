"""Toy worlds: denoisers whose features are known in closed form, so that what a policy should have answered
is known too.

All arithmetic is float64 and element by element, so that a row's numbers do not depend, not even in the last
bit, on which rows stand beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.backbone import Pass
from foreseer.plain_walk import plain_walk
from foreseer.types import LATENT, PLACES, STREAM, Evidence, Probe, Site

ROWS, WIDTH, DEPTH, PARTS = 3, 12, 5, ("attn", "mlp")

MANY = (2, 0, 1, 2, 1, 2, 1, 2, 2, 2, 2, 0, 1, 0, 2, 0, 0, 0, 1, 1, 0, 1, 2, 0, 2, 0, 0, 2, 0, 1, 1, 0, 1)
"""A batch of many more rows than there are. In no period, up to its length, do rows repeat: who looks at the
first k rows alone is seen.
"""

Feature = Callable[[Site, float], Tensor]
"""``(site, step) -> (ROWS, WIDTH)`` float64: what the part computes at that step, for every row that there
is. Never written to.
"""


class Interrupted(RuntimeError):  # noqa: N818  # nothing went wrong
    """A user pressed the stop button."""


def _number(site: Site) -> int:
    return 4 * site.block + (*PARTS, "block", "output", *(place.part for place in PLACES)).index(site.part)


@functools.lru_cache(maxsize=256)
def constant(site: Site, step: float = 0.0) -> Tensor:
    """The same at every step; between 0.5 and 2.5, and no entry is a number that bfloat16 can hold."""
    if step:
        return constant(site)
    return 1.5 + torch.sin(1.0 + torch.arange(ROWS * WIDTH, dtype=torch.float64).reshape(ROWS, WIDTH) + 7 * _number(site))


@functools.lru_cache(maxsize=4096)
def noise(site: Site, step: float, seed: int = 0) -> Tensor:
    """White noise: nothing of one step can be told from another. Drawn from a generator of its own."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + 1009 * (int(step) + 1) + _number(site))
    return torch.randn((ROWS, WIDTH), generator=generator, dtype=torch.float64)


def polynomial(coefficients: Sequence[float], scale: float = 1.0) -> Feature:
    """``sum_i c_i (step / scale)^i``, times a constant of each entry."""
    return lambda site, step: constant(site) * sum(c * (step / scale) ** i for i, c in enumerate(coefficients))


@functools.lru_cache(maxsize=4096)
def exponential(site: Site, step: float) -> Tensor:
    """Each row decays at its own rate, the first slowly."""
    rates = torch.tensor([0.002, 0.02, 0.1], dtype=torch.float64)[:, None]
    return constant(site) * torch.exp(-rates * step)


@functools.lru_cache(maxsize=4096)
def mixed(site: Site, step: float) -> Tensor:
    """A row that is easy to forecast, one in between, and one that is not: gates tell them apart."""
    roughness = torch.tensor([1e-7, 5e-3, 0.5], dtype=torch.float64)[:, None]
    return exponential(site, step) + roughness * noise(site, step)


def replaced(feature: Feature, row: int, other: Feature | float) -> Feature:
    """The same world but for one row, which another one, or a number such as NaN, fills."""

    def patched(site: Site, step: float) -> Tensor:
        values = feature(site, step).clone()
        values[row] = other if isinstance(other, float) else other(site, step)[row]
        return values

    return patched


@attrs.define(eq=False)
class World:
    """A denoiser given by the features of its blocks' parts; satisfies `foreseer.backbone.Backbone`. Its
    inputs are the step index.

    A block's output is the residual stream: the sum of its parts and of all before it, what enters block 0
    included, which is the latent too. Without parts, it is the block's own feature.
    """

    feature: Feature  # what each part computes
    labels: Sequence[int] = (0, 1, 2)  # which of the rows there are make up the batch, in which order
    depth: int = DEPTH  # number of blocks, L
    parts: Sequence[str] = PARTS  # names of each block's parts; empty for blocks as a whole
    dtype: torch.dtype = torch.float64  # of the features
    device: str = "cpu"  # where they are; "meta" has shapes and no numbers
    contiguous: bool = True  # False lays every feature out transposed in memory
    columns: slice = slice(None)  # which of the entries this process holds
    tokens: int | None = None  # each row's entries as (tokens, WIDTH / tokens), as in most models, or (WIDTH,)
    square: bool = False  # tokens in two dimensions, (2, tokens / 2, WIDTH / tokens)
    front: bool = True  # whether it shows what lies in front of block 0, and so has residuals
    fails_at: int | None = None  # the step at which the model raises `Interrupted`
    counted: int = attrs.field(default=0, init=False)  # blocks x rows, where they are computed

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every block's parts, then its output."""
        return tuple(Site(block, part) for block in range(self.depth) for part in (*self.parts, "block"))

    def rows(self, inputs: int) -> int:
        """How many rows there are."""
        return len(self.labels)

    def output(self, step: int) -> Tensor:
        """``(R, ...)`` what the denoiser computes where nothing is forecast. Not counted."""
        output: Tensor = self._walk(step, None, substitute={}, probe=None, judge=None, record=(), see=()).output
        return output

    @property
    def places(self) -> tuple[Site, ...]:
        """Everything that lies in front of block 0, or nothing."""
        return PLACES if self.front else ()

    def forward(
        self,
        inputs: int,
        *,
        rows: Sequence[int] | None = None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
        see: Collection[Site] = (),
    ) -> Pass:
        """See `foreseer.backbone.Backbone.forward`."""
        if inputs == self.fails_at:
            raise Interrupted(f"interrupted at step {inputs}")
        done = self._walk(inputs, rows, substitute=substitute, probe=probe, judge=judge, record=record, see=see)
        self.counted += done.block_rows
        return done

    def _walk(self, step: int, rows: Sequence[int] | None, **given: Any) -> Pass:
        labels = self.labels if rows is None else [self.labels[row] for row in rows]
        return plain_walk(
            lambda site: self._compute(site, step, labels),
            depth=self.depth,
            parts=self.parts,
            rows=len(labels),
            places={site: self._compute(STREAM if site == LATENT else site, step, labels) for site in PLACES},
            **given,
        )

    def merge(self, output: Tensor, rows: Sequence[int], part: Tensor) -> Tensor:
        """Return a copy of ``output`` with these rows replaced."""
        merged = output.clone()
        merged[list(rows)] = part
        return merged

    def _compute(self, site: Site, step: int, labels: Sequence[int]) -> Tensor:
        values = self.feature(site, float(step))[list(labels)][:, self.columns].to(self.device, self.dtype)
        if self.tokens is not None:
            values = values.reshape(len(values), *((2, self.tokens // 2) if self.square else (self.tokens,)), -1)
        return values if self.contiguous else values.movedim(0, -1).contiguous().movedim(-1, 0)
