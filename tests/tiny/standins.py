"""Stand-ins for what the pipelines need around their transformer: tokenizers, text and image encoders, a decoder."""

import zlib
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from .common import drawn


class PassThroughVAE(nn.Module):
    """A stand-in that hands the latents out as they are, scaled down, for pipelines that always decode."""

    def __init__(self) -> None:
        super().__init__()
        self.config = diffusers.configuration_utils.FrozenDict(scaling_factor=1.0, block_out_channels=(1,))
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def decode(self, latents: Tensor, return_dict: bool = True, **_: Any) -> Any:
        """The latents, small enough not to be clamped."""
        sample = latents / 100
        return diffusers.models.autoencoders.vae.DecoderOutput(sample=sample) if return_dict else (sample,)


class Batch(dict[str, Any]):
    """The part of transformers' output and batch classes that the pipelines use: fields by name and by number."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    def to(self, *_: Any, **__: Any) -> "Batch":
        """Itself: everything is on the CPU already."""
        return self


class Tokenizer:
    """A stand-in tokenizer: `length` numbers for every text, which depend on the whole text."""

    def __init__(self, length: int) -> None:
        self.model_max_length = self.length = length
        self.added_tokens_encoder: dict[str, int] = {}

    def __call__(self, text: str | list[str], *_: Any, **__: Any) -> Batch:
        """Ids and a mask that hides nothing."""
        texts = [text] if isinstance(text, str) else text
        ids = torch.tensor([[zlib.crc32(f"{item}{i}".encode()) % TextEncoder.VOCABULARY for i in range(self.length)] for item in texts])
        return Batch(input_ids=ids, attention_mask=torch.ones_like(ids))

    def tokenize(self, text: str) -> list[str]:
        """The words, in which the pipelines look for textual inversions."""
        return text.split()


class TextEncoder(nn.Module):
    """A stand-in text encoder: a table of embeddings, and one more random mixing of it per layer."""

    VOCABULARY = 997

    def __init__(self, width: int, layers: int = 3) -> None:
        super().__init__()
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.table = nn.Parameter(drawn("table", self.VOCABULARY, width), requires_grad=False)
        self.mixing = nn.Parameter(drawn("mixing", layers, width, width) / width**0.5, requires_grad=False)

    def get_input_embeddings(self) -> Callable[[Tensor], Tensor]:
        """The table alone."""
        return lambda ids: self.table[ids % self.VOCABULARY]

    def forward(self, input_ids: Tensor, *_: Any, **__: Any) -> Batch:
        """The states of every layer, and the mean of the last ones."""
        states = self.get_input_embeddings()(input_ids)
        layers = tuple(states @ mixing for mixing in self.mixing)
        return Batch(last_hidden_state=layers[-1], pooler_output=layers[-1].mean(1), hidden_states=layers)


class Pixels:
    """A stand-in for a CLIP or SigLIP image processor: images or tensors in, pixel values out."""

    def __call__(self, images: Any, **_: Any) -> Batch:
        """Channels first, between 0 and 1."""
        if isinstance(images, Tensor):
            return Batch(pixel_values=images)
        listed = images if isinstance(images, list) else [images]
        return Batch(pixel_values=torch.stack([torch.from_numpy(np.array(item)).permute(2, 0, 1) / 255 for item in listed]))

    def preprocess(self, images: Any, **others: Any) -> Batch:
        """The same, under its other name."""
        return self(images, **others)


class ImageEncoder(nn.Module):
    """A stand-in for a CLIP or SigLIP vision model: averages over `tokens` stripes of the image, projected to `width` numbers each."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.dtype, self.device = tokens, torch.float32, torch.device("cpu")
        self.projection = nn.Parameter(drawn("image", 3, width), requires_grad=False)

    def forward(self, pixel_values: Tensor, **_: Any) -> Batch:
        """The same states from every layer."""
        states = nn.functional.adaptive_avg_pool2d(pixel_values, (1, self.tokens))[:, :, 0].transpose(1, 2) @ self.projection
        return Batch(last_hidden_state=states, hidden_states=(states,) * 3, image_embeds=states[:, 0])
