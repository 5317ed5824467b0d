"""The data behind the zoo: 1,797 handwritten digits of 8x8 pixels, which come inside scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["HELD_OUT", "load_digits"]

HELD_OUT = 297
"""Images that no recipe trains on: the reference for memorisation and the Frechet distance of real data."""


def load_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``train_images, train_labels, held_out_images, held_out_labels``, always split in the same way.

    Images are ``(N, 1, 8, 8)`` float32 in [-1, 1]; labels are ``(N,)`` int64 in 0..9.
    """
    from sklearn.datasets import load_digits as load

    data = load()
    images = torch.from_numpy(np.asarray(data.images, dtype=np.float32))[:, None] / 8.0 - 1.0
    labels = torch.from_numpy(np.asarray(data.target, dtype=np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    images, labels = images[order], labels[order]
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]
