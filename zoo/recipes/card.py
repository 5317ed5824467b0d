"""The one card of the zoo: what every model's card says, how it is measured, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreseer.errors import OptionError
from foreseer.zoo.digits import load_digits
from foreseer.zoo.judge import FRECHET_NOTE, DigitJudge
from foreseer.zoo.standins import DIGITS

__all__ = ["Sampling", "draw", "memorisation", "nearest", "read_log", "told", "weakest", "write"]


@attrs.frozen(kw_only=True)
class Sampling:
    """What a card's samples are drawn with: as many of each class, at each guidance, in so many steps."""

    per_class: int
    steps: int
    guidance: float
    seed: int = 0

    @property
    def labels(self) -> Tensor:
        """The ``(10 per_class,)`` classes, one after the other."""
        return torch.arange(len(DIGITS)).repeat_interleave(self.per_class)


def write(name: str, folder: Path, figures: Mapping[str, Any], **more: Any) -> None:
    """Write ``card.md`` beside the weights, of what the template ``cards/NAME.md`` says of the figures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).with_name("cards"))
    made = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    train, held = map(len, load_digits()[::2])
    known: dict[str, Any] = {"train_images": train, "held_out_images": held}
    known |= {"kind": "digit", "frechet_note": FRECHET_NOTE, "bytes": (folder / "weights.safetensors").stat().st_size}
    text = made.get_template(f"{name}.md").render({"nearest": None, **known, **figures, **more})
    (folder / "card.md").write_text(text)


def read_log(path: Path) -> NDArray[np.float64]:
    """Return ``(4, lines)`` of a training log: step, training loss, held-out loss and seconds. Where a step
    occurs twice, since a run was resumed before it, the later line counts. Raises `OptionError` if there is
    none.
    """
    if not path.exists():
        raise OptionError(f"{path} does not exist; copy {path.name} from the folder the recipe wrote to")
    lines = {line.split(",")[0]: line for line in path.read_text().splitlines()[1:]}
    if not lines:
        raise OptionError(f"{path} has no lines; train for at least one --eval-every")
    found: NDArray[np.float64] = np.loadtxt(list(lines.values()), delimiter=",", ndmin=2)
    return found[found[:, 0].argsort()].T


def told(log: Path) -> str:
    """Say how long a run was, and what it came to."""
    steps, loss, held, seconds = read_log(log)[:, -1]
    took = f"{steps:,.0f} steps, {seconds / 60:.0f} minutes by the clock"
    reached = f"loss {loss:.4f} on training images, {held:.4f} on held-out images with the averaged weights"
    return f"{took}; {reached}"


def draw(pipe: Any, sampling: Sampling, **call: Any) -> Tensor:
    """Draw ``(10, per_class, ...)`` samples in [-1, 1] with a pipeline; the same noise for every guidance."""
    generator = torch.Generator().manual_seed(sampling.seed)
    # one of each class a call, so that the noise does not depend on how many calls there are
    call |= {"prompt": list(DIGITS), "num_inference_steps": sampling.steps, "generator": generator}
    call |= {"guidance_scale": sampling.guidance, "output_type": "pt", "return_dict": False}
    return torch.stack([pipe(**call)[0] for _ in range(sampling.per_class)], 1) * 2 - 1


def nearest(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(N,)`` L2 distances of images to the nearest of ``(M, ...)`` others, and which it is."""
    found = [torch.cdist(part, others.flatten(1)).min(1) for part in torch.split(images.flatten(1), 500)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def memorisation(samples: Tensor, train: Tensor, held: Tensor) -> dict[str, float]:
    """Measure whether ``(N, 1, H, W)`` samples are copies of training images.

    ``train_share`` is the share of samples whose nearest real image is a training image: of images that have
    nothing to do with the split about ``len(train) / (len(train) + len(held))``; of copies 1.
    """
    of_samples, of_held = nearest(samples, train)[0], nearest(held, train)[0]
    tenth, expected = of_held.quantile(0.1), len(train) / (len(train) + len(held))
    return {
        "samples_median": float(of_samples.median()),
        "samples_smallest": float(of_samples.min()),
        "held_out_median": float(of_held.median()),
        "held_out_smallest": float(of_held.min()),
        "median_ratio": float(of_samples.median() / of_held.median()),
        "held_out_tenth": float(tenth),
        "share_below_held_out_tenth": float((of_samples < tenth).double().mean()),
        "train_share": float((of_samples < nearest(samples, held)[0]).double().mean()),
        "train_share_without_copying": expected,
        "train_share_error": (expected * (1 - expected) / len(samples)) ** 0.5,
    }


def weakest(judge: DigitJudge, samples: Iterable[Tensor], names: Sequence[str]) -> str:
    """Say by its name which class the classifier reads worst, of ``(N, 1, H, W)`` samples of each."""
    accuracy = [judge.accuracy(own, torch.full((len(own),), label)) for label, own in enumerate(samples)]
    worst = min(accuracy)
    if worst == 1:
        return "so it is in every class"
    classes = ", ".join(name for name, right in zip(names, accuracy, strict=True) if right == worst)
    return f"lowest for {classes}: {worst:.0%}"


def parameters(model: nn.Module) -> int:
    """Return how many numbers a model has."""
    return sum(parameter.numel() for parameter in model.parameters())
