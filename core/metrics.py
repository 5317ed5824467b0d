"""How far a forecast is from what was computed: a few sums per row, so that rows can be pooled by adding.

A ratio of means over a batch is not the mean of the rows' ratios. CG-Taylor's gate is the former; keeping
both sums apart gives either, and lets processes that share a sample add theirs before anyone divides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from foreseer.errors import ContractError, OptionError
from foreseer.transfer import on_device

__all__ = ["METRICS", "Metric", "cosine", "elementwise_l1", "elementwise_l2", "metric", "pool", "relative_l1", "relative_l2"]


WIDE = (torch.float32, torch.float64)
"""Dtypes in which sums are made as they are."""


def _sums(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=None if values.dtype in WIDE else torch.promote_types(values.dtype, torch.float32))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in WIDE else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@attrs.frozen(eq=False)
class Metric:
    """An error measure that pools by adding.

    The law: cut rows into parts in any way, add up what ``parts`` gives for them, and it is what ``parts``
    gives for the whole. So the rows of a sample can be pooled, and the processes that share its tokens can
    vote.

    Attributes:
        name: As in the options of the policies.
        parts: ``(computed, forecast) -> sums``, a tuple of tensors ``(R,)``: mostly a numerator and a
            denominator.
        finish: ``(*sums) -> error``, each of any shape, after pooling. 0/0 is NaN, which the session rejects.
        additive: Whether the law holds. Where it does not (a maximum, a median), say so: a vote on it is
            refused.
    """

    name: str
    parts: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    finish: Callable[..., Tensor]
    additive: bool = True

    def __call__(self, computed: Tensor, forecast: Tensor, *, groups: Sequence[int] | None = None, vote: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the error per row, ``(R,)`` float32; rows of one group share theirs.

        In a gate, write ``evidence.error(metric, groups=...)``, which hands the vote on.

        Args:
            computed: ``(R, ...)`` the truth.
            forecast: ``(R, ...)`` same shape.
            groups: ``(R,)`` which rows to pool; None for every row alone.
            vote: Adds the stacked sums, ``(number of sums, R)``, up over the processes that share the tokens;
                None where this process has them all.

        Raises:
            ContractError: There is a vote, and this metric's parts do not add up.
        """
        sums = self.parts(computed, forecast)
        if groups is not None:
            sums = tuple(pool(values, groups) for values in sums)
        if vote is not None:
            if not self.additive:
                raise ContractError(
                    f"metric {self.name!r} does not add up over parts of a row, so the processes that share a sample cannot vote on it; "
                    f"write one whose parts are sums, or use one of {', '.join(METRICS)}"
                )
            sums = vote(torch.stack(sums)).unbind(0)
        return self.finish(*sums).float()


def pool(values: Tensor, groups: Sequence[int]) -> Tensor:
    """Replace each row's value by the sum over its group; ``(R,)`` in and out."""
    if len(set(groups)) == len(groups):
        return values
    if len(set(groups)) == 1:
        return values.sum().expand(len(groups))
    _, inverse = torch.unique(torch.tensor(groups), return_inverse=True)
    index = on_device(inverse, values.device)
    return torch.zeros_like(values).index_add_(0, index, values)[index]


def _relative_l1_parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor]:
    actual = _wide(computed)
    return _sums((_wide(forecast) - actual).abs_()), _sums(actual.abs())


def _relative_l2_parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor]:
    actual = _wide(computed)
    return _sums((_wide(forecast) - actual).square_()), _sums(actual.square())


def _elementwise(power: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor]:
        actual = _wide(computed)
        ratio = (_wide(forecast) - actual).abs_().div_(actual.abs().add_(1e-10))
        numerator = _sums(ratio if power == 1 else ratio.square_())
        # What is nothing on both sides is not compared: a host blanks the tokens that only fill up a row.
        return numerator, _sums(((actual != 0) | (forecast != 0)).to(numerator.dtype))

    return parts


def _cosine_parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = _wide(computed), _wide(forecast)
    return _sums(a * b), _sums(a.square()), _sums(b.square())


def _cosine(product: Tensor, computed: Tensor, forecast: Tensor) -> Tensor:
    return (1 - product / (computed.sqrt() * forecast.sqrt())).clamp(min=0)  # rounding alone can take it below


relative_l1 = Metric("relative_l1", _relative_l1_parts, torch.div)
"""sum|d| / sum|h|: CG-Taylor's gate (released code)."""
relative_l2 = Metric("relative_l2", _relative_l2_parts, lambda n, d: n.sqrt() / (d.sqrt() + 1e-8))
"""||d|| / (||h|| + 1e-8): SpeCa (paper, arXiv 2509.11628)."""
elementwise_l1 = Metric("elementwise_l1", _elementwise(1), torch.div)
"""mean(|d| / (|h| + 1e-10)): SpeCa (released DiT code). Heavy-tailed: it divides by activations near zero."""
elementwise_l2 = Metric("elementwise_l2", _elementwise(2), lambda n, d: (n / d).sqrt())
"""sqrt(mean((|d| / (|h| + 1e-10))^2)): SpeCa (released DiT code, "relative_l2" there)."""
cosine = Metric("cosine", _cosine_parts, _cosine)
"""1 - cos(h, forecast); the rows of a group are one long vector. Three sums, since the mean of the rows'
cosines is no function of two.
"""

METRICS = {m.name: m for m in (relative_l1, relative_l2, elementwise_l1, elementwise_l2, cosine)}


def metric(name: str) -> Metric:
    """Look a metric up by name. Raises `OptionError` for an unknown one."""
    if name not in METRICS:
        raise OptionError(f"metric={name!r} is unknown; write one of {', '.join(map(repr, METRICS))}")
    return METRICS[name]
