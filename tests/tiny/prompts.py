"""Prompts of other lengths: a pipeline whose samples and negative prompts have as many tokens as are asked for, however it takes its texts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LONG = 7
"""Texts in lists are that many times as long, since Z-Image pads them to multiples of 32."""


class Prompts:
    """A pipeline to be called in the place of another. What hides padding hides it; what is not masked is cut, all samples to the longest.

    Args:
        pipe: The pipeline.
        own: ``(B,)`` tokens of each sample's prompt; of a smaller batch the first.
        negative: Of every sample's negative prompt.
        cut: Cut what is masked too, to the longest of the call.
        exchanged: Call with the samples in reverse order.
    """

    def __init__(self, pipe: Any, own: Sequence[int], negative: int, cut: bool = False, exchanged: bool = False) -> None:
        vars(self).update(pipe=pipe, own=own, negative=negative, cut=cut, exchanged=exchanged)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["pipe"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.pipe, name, value)

    def __call__(self, **arguments: Any) -> Any:
        """The pipeline's own call."""
        given = {name: self._shortened(name, value, arguments) for name, value in arguments.items()}
        tokenizers = [part for name, part in self.pipe.components.items() if name.startswith("tokenizer") and hasattr(part, "length")]
        before = [tokenizer.length for tokenizer in tokenizers]
        for tokenizer in tokenizers:
            tokenizer.length = max(self.own)
        try:
            return self.pipe(**{name: _reversed(name, value) for name, value in given.items()} if self.exchanged else given)
        finally:
            for tokenizer, length in zip(tokenizers, before, strict=True):
                tokenizer.length = length

    def _shortened(self, name: str, value: Any, arguments: dict[str, Any]) -> Any:
        lengths = [self.negative] * len(self.own) if name.startswith("negative") else list(self.own)
        longest = max((*self.own, self.negative) if self.cut else lengths)
        if name.endswith("cu_seqlens"):
            return torch.arange(len(value), dtype=value.dtype) * longest
        if "mask" in name and isinstance(value, Tensor) and value.ndim == 2:
            hidden = torch.arange(value.shape[1]) >= torch.tensor(lengths[: len(value)])[:, None]
            return value.masked_fill(hidden, 0)[:, : longest if self.cut else None]
        if "embeds" not in name or "pooled" in name:
            return value
        if isinstance(value, list):
            return [text.repeat(LONG, 1)[: LONG * length] for text, length in zip(value, lengths, strict=False)]
        masked = any("mask" in other and isinstance(mask, Tensor) and mask.ndim == 2 for other, mask in arguments.items())
        if not isinstance(value, Tensor) or value.ndim < 3 or (masked and not self.cut):
            return value
        return value[:, :, :longest] if "llama3" in name else value[:, :longest]


def _reversed(name: str, value: Any) -> Any:
    if "cu_seqlens" in name:
        return value
    if isinstance(value, Tensor) and value.ndim:
        return value.flip(1 if "llama3" in name else 0)
    return value[::-1] if isinstance(value, list) else value
