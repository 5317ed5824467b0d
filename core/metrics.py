"""How far a forecast is from what was computed: a numerator and a denominator per row, so that rows can be pooled by adding.

A ratio of means over a batch is not the mean of the rows' ratios. CG-Taylor's gate is the former; keeping both sums
apart gives either, and lets processes that share a sample add theirs before anyone divides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from foreseer.errors import OptionError

__all__ = ["METRICS", "Metric", "cosine", "elementwise_l1", "elementwise_l2", "metric", "pool", "relative_l1", "relative_l2"]


def _sums(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=torch.promote_types(values.dtype, torch.float32))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@attrs.frozen(eq=False)
class Metric:
    """An error measure that pools by adding.

    Attributes:
        name: As in the options of the policies.
        parts: ``(computed, forecast) -> (numerator, denominator)``, each ``(R,)``.
        finish: ``(numerator, denominator) -> error``, each of any shape, after pooling. 0/0 is NaN, which the session
            rejects.
    """

    name: str
    parts: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    finish: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, computed: Tensor, forecast: Tensor, *, groups: Sequence[int] | None = None) -> Tensor:
        """Return the error per row, ``(R,)`` float32; rows of one group share theirs.

        Args:
            computed: ``(R, ...)`` the truth.
            forecast: ``(R, ...)`` same shape.
            groups: ``(R,)`` which rows to pool; None for every row alone.
        """
        numerator, denominator = self.parts(computed, forecast)
        if groups is not None:
            numerator, denominator = pool(numerator, groups), pool(denominator, groups)
        return self.finish(numerator, denominator).float()


def pool(values: Tensor, groups: Sequence[int]) -> Tensor:
    """Replace each row's value by the sum over its group; ``(R,)`` in and out."""
    if len(set(groups)) == len(groups):
        return values
    if len(set(groups)) == 1:
        return values.sum().expand(len(groups))
    _, inverse = torch.unique(torch.tensor(groups), return_inverse=True)
    index = inverse.to(values.device)
    return torch.zeros_like(values).index_add_(0, index, values)[index]


def _relative_l1_parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor]:
    return _sums((_wide(forecast) - _wide(computed)).abs()), _sums(_wide(computed).abs())


def _relative_l2_parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor]:
    return _sums((_wide(forecast) - _wide(computed)).square()), _sums(_wide(computed).square())


def _elementwise(power: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor]:
        actual = _wide(computed)
        ratio = (_wide(forecast) - actual).abs() / (actual.abs() + 1e-10)
        numerator = _sums(ratio if power == 1 else ratio.square())
        return numerator, torch.full_like(numerator, ratio[0].numel())

    return parts


def _cosine_parts(computed: Tensor, forecast: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _wide(computed).flatten(1), _wide(forecast).flatten(1)
    return 1 - torch.nn.functional.cosine_similarity(a, b, dim=1), torch.ones(len(a), dtype=a.dtype, device=a.device)


relative_l1 = Metric("relative_l1", _relative_l1_parts, torch.div)
"""sum|d| / sum|h|: CG-Taylor's gate (released code)."""
relative_l2 = Metric("relative_l2", _relative_l2_parts, lambda n, d: n.sqrt() / (d.sqrt() + 1e-8))
"""||d|| / (||h|| + 1e-8): SpeCa (paper, arXiv 2509.11628)."""
elementwise_l1 = Metric("elementwise_l1", _elementwise(1), torch.div)
"""mean(|d| / (|h| + 1e-10)): SpeCa (released DiT code). Heavy-tailed: it divides by activations near zero."""
elementwise_l2 = Metric("elementwise_l2", _elementwise(2), lambda n, d: (n / d).sqrt())
"""sqrt(mean((|d| / (|h| + 1e-10))^2)): SpeCa (released DiT code, "relative_l2" there)."""
cosine = Metric("cosine", _cosine_parts, torch.div)
"""1 - cos(h, forecast); pooled rows give the mean."""

METRICS = {m.name: m for m in (relative_l1, relative_l2, elementwise_l1, elementwise_l2, cosine)}


def metric(name: str) -> Metric:
    """Look a metric up by name. Raises `OptionError` for an unknown one."""
    if name not in METRICS:
        raise OptionError(f"metric={name!r} is unknown; write one of {', '.join(map(repr, METRICS))}")
    return METRICS[name]
