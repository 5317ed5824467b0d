"""Stand-ins for the text encoders and the VAEs around the bundled FLUX-shaped and Wan-shaped models.

A prompt is read for the digit it names, the "encoder" looks that digit up in a small trained table, and the
"VAE" only rearranges and rescales pixels. What they share with the real ones is the interface that diffusers'
pipelines call, so that `pipe("7")` runs the pipelines' own code from end to end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.errors import OptionError

__all__ = ["DIGITS", "NO_DIGIT", "DigitTable", "DigitTokenizer", "FoldedVideo", "PixelImage", "digit_of"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NO_DIGIT = 10
"""The class of the empty prompt, which guidance starts from."""


def digit_of(prompt: str) -> int:
    """Return the digit that a prompt names, as a numeral or an English word ("7", "a handwritten seven");
    `NO_DIGIT` for an empty one. Raises `OptionError` if it names none, or several.
    """
    words = re.findall(r"[a-z]+|[0-9]+", prompt.lower())
    found = {DIGITS.index(word) if word in DIGITS else int(word) for word in words if word in DIGITS or (word.isdigit() and len(word) == 1)}
    if len(found) == 1:
        return found.pop()
    if not words:
        return NO_DIGIT
    what = f"names {len(found)} digits" if found else "names no digit"
    raise OptionError(f"prompt={prompt!r} {what}; this model draws one digit: write 0 to 9 or {DIGITS[0]} to {DIGITS[-1]}, or an empty prompt for any digit")


class Encoding(dict[str, Tensor]):
    """What tokenizers and encoders return: fields by name, as attributes, and by number."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Tensor:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class DigitTokenizer:
    """Turns a prompt into ``length`` ids for the digit it names: ``digit * length`` and the ids after it.

    Args:
        length: Ids per prompt.
        repeat: Fill ``max_length`` by starting over, where it is asked for. `WanPipeline` pads prompts with
            zeros that cross-attention looks at; to attend to a sequence that is repeated is to attend to it
            once.
    """

    def __init__(self, length: int, *, repeat: bool = False) -> None:
        self.length, self.repeat = length, repeat
        self.model_max_length = length
        self.added_tokens_encoder: dict[str, int] = {}  # no textual inversions

    def __call__(self, text: str | Sequence[str], *, max_length: int | None = None, **_: Any) -> Encoding:
        """Return ``input_ids`` and ``attention_mask``, ``(B, length)`` int64; other options say nothing here.

        Raises:
            OptionError: As `digit_of`; or if a repeated sequence is asked for in a length that cuts it.
        """
        prompts = [text] if isinstance(text, str) else text
        ids = self.ids(torch.tensor([digit_of(prompt) for prompt in prompts]))
        if self.repeat and max_length is not None:
            if max_length < self.length or max_length % self.length:
                raise OptionError(f"max_sequence_length={max_length} is out of range; write a multiple of {self.length}, such as {self.length}")
            ids = ids.repeat(1, max_length // self.length)
        return Encoding(input_ids=ids, attention_mask=torch.ones_like(ids))

    def ids(self, digits: Tensor) -> Tensor:
        """Return the ``(B, length)`` ids of ``(B,)`` digits."""
        return digits[:, None] * self.length + torch.arange(self.length, device=digits.device)

    def tokenize(self, text: str) -> list[str]:
        """Return the words, among which the pipelines look for textual inversions."""
        return text.split()


class Placed(nn.Module):
    """Knows its device and its dtype, as diffusers' models do, also without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("where", torch.zeros(()), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it was moved to."""
        return self.get_buffer("where").dtype

    @property
    def device(self) -> torch.device:
        """The device it was moved to."""
        return self.get_buffer("where").device


class DigitTable(Placed):
    """Looks a digit up in a trained table, as text encoder: ``length`` vectors of ``width`` W, and one of
    ``pooled`` P numbers, for each of ten digits and for none.
    """

    def __init__(self, *, length: int, width: int, pooled: int = 0) -> None:
        super().__init__()
        self.length = length
        self.tokens = nn.Parameter(torch.randn((NO_DIGIT + 1) * length, width))
        self.pooled = nn.Parameter(torch.randn(NO_DIGIT + 1, pooled))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, output_hidden_states: bool = False) -> Encoding:
        """Return ``last_hidden_state`` ``(B, L, W)`` and ``pooler_output`` ``(B, P)`` for ``(B, L)`` ids."""
        del attention_mask, output_hidden_states  # no id is padding, and there are no hidden states
        return Encoding(last_hidden_state=self.tokens[input_ids], pooler_output=self.pooled[input_ids[:, 0] // self.length])


class PixelImage(Placed):
    """Stands where FLUX has its VAE: the latents are the pixels, shifted and scaled to mean 0 and variance 1."""

    def __init__(self, *, shift: float, scale: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(block_out_channels=(1,), latent_channels=1, scaling_factor=scale, shift_factor=shift)

    def encode(self, images: Tensor) -> SimpleNamespace:
        """Return ``latents``: the ``(B, 1, H, W)`` images as they are, neither shifted nor scaled."""
        return SimpleNamespace(latents=images)

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:
        """Return the ``(B, 1, H, W)`` pixels, as ``sample`` of an object or as the one entry of a tuple."""
        return SimpleNamespace(sample=latents) if return_dict else (latents,)


class FoldedVideo(Placed):
    """Stands where Wan has its VAE: folds 2x2 pixels of two frames into 8 channels, and unfolds them.

    The first frame stands alone, as in Wan: it is stored twice, and unfolding takes the mean. So there is an
    odd number of frames. ``mean`` and ``std`` are those of the pixels, which lie in [-1, 1].
    """

    def __init__(self, *, mean: float, std: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(scale_factor_temporal=2, scale_factor_spatial=2, z_dim=8, latents_mean=[mean] * 8, latents_std=[std] * 8)

    def encode(self, video: Tensor) -> SimpleNamespace:
        """Return ``latents`` ``(B, 8, (F + 1) / 2, H / 2, W / 2)`` of a ``(B, 1, F, H, W)`` video, neither
        shifted nor scaled. Raises `OptionError` if F is even, or H or W is odd.
        """
        batch, _, frames, height, width = video.shape
        if frames % 2 == 0 or height % 2 or width % 2:
            raise OptionError(f"video has shape {tuple(video.shape)}; write (B, 1, F, H, W) with an odd number of frames F, and even H and W")
        pairs = torch.cat([video[:, :, :1], video], 2).view(batch, (frames + 1) // 2, 2, height // 2, 2, width // 2, 2)
        return SimpleNamespace(latents=pairs.permute(0, 2, 4, 6, 1, 3, 5).reshape(batch, 8, (frames + 1) // 2, height // 2, width // 2))

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:
        """Return the ``(B, 1, F, H, W)`` video, as ``sample`` of an object or as the one entry of a tuple."""
        batch, _, pairs, height, width = latents.shape
        video = latents.view(batch, 2, 2, 2, pairs, height, width).permute(0, 4, 1, 5, 2, 6, 3).reshape(batch, 1, 2 * pairs, 2 * height, 2 * width)
        video = torch.cat([video[:, :, :2].mean(2, keepdim=True), video[:, :, 2:]], 2)
        return SimpleNamespace(sample=video) if return_dict else (video,)
