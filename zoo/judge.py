"""How good samples of digits are in the eyes of the bundled classifier, which takes 8x8 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreseer.errors import OptionError
from foreseer.zoo.digits import load_digits

__all__ = ["CONFIG", "FRECHET_MINIMUM_SAMPLES", "FRECHET_NOTE", "Classifier", "DigitClassifier", "DigitJudge"]
__all__ += ["accuracy", "frechet_distance"]

FRECHET_NOTE = (
    "Frechet distance in the features of a small digit classifier that ships with foreseer; it is not FID and compares with nothing outside this page."
)
"""To be shown wherever the number is shown."""
FRECHET_MINIMUM_SAMPLES = 256
"""Four times the 64 features: with fewer samples the distance says more about their number than of them."""


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the squared Frechet distance of two Gaussians that have the means and covariances of two sets of
    features.

    d = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), as in FID (arXiv 1706.08500), in float64. With C =
    X^T X of the centred features, the last trace is the nuclear norm of X_a X_b^T: no matrix root is taken,
    so that covariances without full rank do no harm.

    The estimate is too high with few samples: compare only distances of as many samples, and of
    `FRECHET_MINIMUM_SAMPLES` at least.

    Args:
        features_a: ``(N, D)``, N >= 2, of any float dtype, on any device.
        features_b: ``(M, D)``, M >= 2.

    Raises:
        OptionError: If the shapes do not fit, there are fewer than two rows, or a feature is not finite.
    """
    sets = []
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != features_a.shape[-1]:
            shapes = f"features_a has shape {tuple(features_a.shape)} and features_b {tuple(features_b.shape)}"
            raise OptionError(f"{shapes}; write (N, D) and (M, D) with N and M at least 2 and the same D")
        if not bool(torch.isfinite(features).all()):
            raise OptionError(f"{name} holds NaN or infinity, so no distance exists; look at the samples that it came from")
        sets.append(features.detach().to("cpu", torch.float64).numpy())
    means = [rows.mean(0) for rows in sets]
    # The triangular factor of X stands for X in every product, and is no larger than D x D.
    roots = [np.linalg.qr((rows - mean) / np.sqrt(len(rows) - 1)).R for rows, mean in zip(sets, means, strict=True)]
    traces = sum(float(np.square(root).sum()) for root in roots)
    overlap = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(0.0, float(np.square(means[0] - means[1]).sum()) + traces - 2 * overlap)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of ``(B, classes)`` logits, B >= 1, whose largest is that of the ``(B,)`` labels. A
    row that is not finite is wrong. Raises `OptionError` where the shapes do not fit or there is no row.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise OptionError(f"logits has shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; write (B, classes) and (B,) with B at least 1")
    right = (logits.argmax(1) == labels.to(logits.device)) & torch.isfinite(logits).all(1)
    return float(right.double().mean())


CONFIG: dict[str, Any] = {"width": 32, "feature_size": 64}


class Classifier(nn.Module):
    """A body from images to features ``(B, D)``, and a linear head of one output for each class."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def features(self, images: Tensor) -> Tensor:
        """Return the ``(B, D)`` penultimate layer for ``(B, 1, H, W)`` images in [-1, 1]."""
        out: Tensor = self.body(images)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return the ``(B, classes)`` logits for ``(B, 1, H, W)`` float images in [-1, 1]."""
        out: Tensor = self.head(self.features(images))
        return out


class DigitClassifier(Classifier):
    """Three convolutions and two linear layers, of which the first has ``feature_size``, D, outputs. Reads
    8x8 pixels.
    """

    def __init__(self, *, width: int = CONFIG["width"], feature_size: int = CONFIG["feature_size"]) -> None:
        body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, feature_size),
            nn.SiLU(),
        )
        super().__init__(body, nn.Linear(feature_size, 10))

    def features(self, images: Tensor) -> Tensor:
        """Return the ``(B, D)`` penultimate layer for ``(B, 1, 8, 8)`` images in [-1, 1]."""
        if images.ndim != 4 or images.shape[1:] != (1, 8, 8):
            raise OptionError(f"images has shape {tuple(images.shape)}; the classifier takes (B, 1, 8, 8) in [-1, 1]; resize or reshape them first")
        return super().features(images)


class DigitJudge:
    """Judges samples, clipped to [-1, 1]: accuracy, and the features of the Frechet distance.

    Args:
        classifier: The judge's eyes, which may read images of another size; None loads the one of digits that
            ships with foreseer.
        reference: ``(M, 1, 8, 8)`` images in [-1, 1] to measure the distance to; None takes all 1,797 digits.
    """

    note = FRECHET_NOTE

    def __init__(self, classifier: Classifier | None = None, *, reference: Tensor | None = None) -> None:
        from foreseer.zoo import load_classifier

        self.classifier: Classifier = load_classifier() if classifier is None else classifier.eval()
        if reference is None:
            train_images, _, held_out_images, _ = load_digits()
            reference = torch.cat([train_images, held_out_images])
        self.reference = self.features(reference)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the ``(B, D)`` features of ``(B, 1, 8, 8)`` images, on the classifier's device."""
        return torch.cat([self.classifier.features(part) for part in torch.split(self._seen(images), 2000)])

    @torch.no_grad()
    def accuracy(self, samples: Tensor, labels: Tensor) -> float:
        """Return the share of ``(B, 1, 8, 8)`` samples that the classifier takes for their ``(B,)`` labels."""
        return accuracy(self.classifier(self._seen(samples)), labels)

    @torch.no_grad()
    def classes(self, samples: Tensor) -> Tensor:
        """Return the ``(B,)`` classes that the classifier takes ``(B, 1, 8, 8)`` samples for."""
        logits: Tensor = self.classifier(self._seen(samples))
        return logits.argmax(1)

    def frechet_distance(self, samples: Tensor) -> float:
        """Return the `frechet_distance` of ``(N, 1, 8, 8)`` samples to the reference, N >= 2; NaN where a
        sample is not finite.

        Show ``note`` beside it. With N below `FRECHET_MINIMUM_SAMPLES` it says little.
        """
        if not bool(torch.isfinite(samples).all()):
            return float("nan")
        return frechet_distance(self.features(samples), self.reference)

    def _seen(self, images: Tensor) -> Tensor:
        weight = self.classifier.head.weight
        return images.to(weight.device, weight.dtype).clamp(-1, 1)
