"""The bundled class-conditional DiT on Fashion-MNIST, and the data behind it: 70,000 grey pictures of clothes.

The data (Xiao, Rasul and Vollgraf, arXiv 1708.07747; MIT) come from Debian's package
``dataset-fashion-mnist``; the model needs them for training only. It is built as `foreseer.zoo.dit` builds
the digits' model, and predicts the velocity instead of the noise (`foreseer.zoo.ddim.Prediction`): at high
noise levels a small error of the noise is a large one of the image, and 28x28 pixels in patches of 4 need a
longer training than two cores can give to make it small.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.errors import OptionError
from foreseer.zoo import dit

__all__ = ["CLASSES", "CONFIG", "FOLDER", "load_fashion_images"]

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""The names of the ten classes."""
FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""
CONFIG: dict[str, Any] = {**dit.CONFIG, "num_attention_heads": 4, "num_layers": 8, "sample_size": 28, "patch_size": 4}


def load_fashion_images(folder: Path | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``train_images, train_labels, held_out_images, held_out_labels``, split as they were published:
    60,000 and 10,000. The folder holds the four files as they were published; None: `FOLDER`.

    Images are ``(N, 1, 28, 28)`` float32 in [-1, 1]; labels are ``(N,)`` int64 in 0..9, of `CLASSES`.

    Raises:
        OptionError: If a file is missing or is no such file.
    """
    folder, parts = FOLDER if folder is None else folder, list[Tensor]()
    for part in ("train", "t10k"):
        images = torch.from_numpy(_read(folder / f"{part}-images-idx3-ubyte.gz", dimensions=3))
        labels = torch.from_numpy(_read(folder / f"{part}-labels-idx1-ubyte.gz", dimensions=1))
        if len(images) != len(labels):
            raise OptionError(f"{folder} has {len(images)} images and {len(labels)} labels in its part {part!r}; copy the four files of one release")
        parts += [images[:, None].float() / 127.5 - 1.0, labels.long()]
    return parts[0], parts[1], parts[2], parts[3]


def _read(path: Path, *, dimensions: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # idx: two zeros, 8 for unsigned bytes, the number of dimensions; each dimension, 4 bytes; the bytes
    if not path.exists():
        raise OptionError(f"{path} does not exist; run `apt-get install dataset-fashion-mnist`, or give the folder where the four files lie")
    begin = 4 + 4 * dimensions
    wrong = f"{path} is no gzip file of idx, with unsigned bytes in {dimensions} dimensions; copy it again from the package dataset-fashion-mnist"
    try:
        content = gzip.decompress(path.read_bytes())
        if content[:4] != bytes([0, 0, 8, dimensions]):
            raise OptionError(wrong)
        shape = struct.unpack(f">{dimensions}I", content[4:begin])
        return np.frombuffer(content, np.uint8, offset=begin).reshape(shape).copy()
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise OptionError(wrong) from error
