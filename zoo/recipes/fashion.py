"""The bundled DiT on Fashion-MNIST. Eighty minutes on one core, and the package dataset-fashion-mnist.

As the digits' DiT is trained (`foreseer.zoo.recipes.dit`), but the network predicts the velocity, and the
average of the weights is a longer one, since the run is short for what there is to learn. The card's judge is
a small classifier that is trained when the card is written, in a minute; it does not ship.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreseer.zoo.fashion import CLASSES, CONFIG, load_fashion_images
from foreseer.zoo.judge import Classifier, DigitJudge
from foreseer.zoo.recipes import dit
from foreseer.zoo.recipes.card import Sampling, weakest
from foreseer.zoo.recipes.fitting import Settings, fit

STAGES = {"": Settings(steps=5750, horizon=6500, batch=64, lr=1.5e-3, warmup=300, average=0.999, eval_every=250)}
SAMPLING = Sampling(per_class=30, steps=50, guidance=1.5)
READING = Settings(steps=2500, batch=128, lr=2e-3, average=0.995, beta=0.999, eval_every=2500)
"""How the card's classifier is trained."""
LOGGED = 990  # of the held-out images, for the training log


def train(out: Path, settings: Settings) -> None:
    """Train into a folder, or go on there."""
    pictures, labels, *held = load_fashion_images()
    dit.learn((pictures, labels), [part[:LOGGED] for part in held], settings, out, config=CONFIG, prediction="v_prediction")


def reader(images: Tensor, labels: Tensor, settings: Settings) -> Classifier:
    """Train a classifier of ``(N, 1, 28, 28)`` images and ``(N,)`` labels: two convolutions with strides of
    2 and two linear layers, of which the first has 64 outputs.
    """
    torch.manual_seed(settings.seed)
    body = [nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.SiLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU()]
    model = Classifier(nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 49, 64), nn.SiLU()), nn.Linear(64, len(CLASSES)))

    def loss(model: Classifier, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(images), labels)

    with tempfile.TemporaryDirectory() as folder:
        return fit(model, loss, lambda model: 0.0, data=(images, labels), settings=settings, out=Path(folder), name="classifier")


def card(folder: Path, sampling: Sampling) -> dict[str, Any]:
    """Measure and draw."""
    train, labels, held, held_labels = load_fashion_images()
    judge = DigitJudge(reader(train, labels, READING), reference=train)
    by_class = [held[held_labels == label] for label in range(len(CLASSES))]
    found = dit.judged(folder, sampling, judge, train, held, names=CLASSES, prediction="v_prediction")
    return {
        **found,
        "kind": "picture",
        "names": CLASSES,
        "train_images": len(train),
        "held_out_images": len(held),
        "logged": min(LOGGED, len(held)),
        "frechet_note": "Frechet distance in the features of that classifier; it is not FID and compares with nothing outside this page.",
        "held_out_accuracy": judge.accuracy(held, held_labels),
        "held_out_weakest": weakest(judge, by_class, CLASSES),
    }
