"""The bundled digit classifier. A minute or two on one core.

Digits are shifted by fractions of a pixel and get a little noise, so that small artefacts of a sampler do not
decide the class. One image in eight is replaced by Gaussian noise with the uniform distribution as its
target: without that, a classifier is sure of some class on pure noise.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foreseer.zoo.digits import load_digits
from foreseer.zoo.judge import CONFIG, DigitClassifier, accuracy
from foreseer.zoo.recipes.card import parameters
from foreseer.zoo.recipes.fitting import Settings, fit
from foreseer.zoo.storing import load, save

STAGES = {
    "": Settings(
        steps=4000,
        batch=64,
        lr=2e-3,
        average=0.0,
        beta=0.999,
        weight_decay=0.02,
        clip=math.inf,
        eval_every=500,
    )
}
SAMPLING = None
MAX_SHIFT = 1.0  # pixels
MAX_NOISE = 0.15  # standard deviation; the images' range is 2
NOISE_SHARE = 8  # one image in this many is pure noise
SMOOTHING = 0.05


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift ``(B, 1, 8, 8)`` images by up to `MAX_SHIFT` pixels each way, add noise, and clip to [-1, 1]."""
    count, size = len(images), images.shape[-1]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1.0
    theta[:, :, 2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * (2 * MAX_SHIFT / size)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # the zeros from outside are then the background, -1
    moved = F.grid_sample(images + 1, grid, align_corners=False) - 1
    level = torch.rand(count, 1, 1, 1, generator=generator) * MAX_NOISE
    return (moved + level * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def loss(model: DigitClassifier, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Cross entropy on augmented images; every `NOISE_SHARE`-th image is noise with a uniform target."""
    targets = F.one_hot(labels, 10) * (1 - SMOOTHING) + SMOOTHING / 10
    images = augment(images, generator)
    images[::NOISE_SHARE] = torch.randn(images[::NOISE_SHARE].shape, generator=generator).clamp(-1, 1)
    targets[::NOISE_SHARE] = 0.1
    return F.cross_entropy(model(images), targets)


def train(out: Path, settings: Settings) -> None:
    """Train into a folder, or go on there. The log's third column is the accuracy on the held-out images."""
    images, labels, held, held_labels = load_digits()
    torch.manual_seed(settings.seed)
    fit(
        DigitClassifier(),
        loss,
        lambda model: accuracy(model(held), held_labels),
        data=(images, labels),
        settings=settings,
        out=out,
        save=lambda model: save(model, out, config=CONFIG, dtype=torch.float32),
    )


@torch.no_grad()
def evaluate(model: DigitClassifier) -> dict[str, Any]:
    """Measure the classifier on the held-out images and on images that show nothing.

    ``confidence`` is the mean, 99th percentile and maximum of the largest class probability: on held-out
    digits, on Gaussian noise, the kind that training shows, and on two kinds that it does not show.
    """
    _, _, images, labels = load_digits()
    generator = torch.Generator().manual_seed(2)
    count = 2000
    sources = images[torch.randint(0, len(images), (count,), generator=generator)].flatten(1)
    order = torch.rand(sources.shape, generator=generator).argsort(1)
    kinds = {
        "held out digits": images,
        "gaussian noise": torch.randn(count, 1, 8, 8, generator=generator).clamp(-1, 1),
        "shuffled pixels": sources.gather(1, order).view(-1, 1, 8, 8),
        "uniform noise": torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1,
    }
    answers = model(images).argmax(1)
    wrong = answers != labels
    return {
        "right": int((~wrong).sum()),
        "held_out": len(images),
        "missed": torch.stack([labels, answers], 1)[wrong].tolist(),
        "confidence": {kind: _confidence(model(pictures)) for kind, pictures in kinds.items()},
    }


def _confidence(logits: Tensor) -> dict[str, float]:
    top = logits.softmax(1).amax(1)
    return {"mean": float(top.mean()), "p99": float(top.quantile(0.99)), "max": float(top.max())}


def card(folder: Path, sampling: None = None) -> dict[str, Any]:
    """Measure. Nothing is drawn."""
    model = load(lambda config: DigitClassifier(**config), folder)
    return {"parameters": parameters(model), "feature_size": model.head.in_features, **evaluate(model)}
