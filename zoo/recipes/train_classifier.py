"""Train the bundled digit classifier: ``python -m foreseer.zoo.recipes.train_classifier --out runs/classifier``.

Seeded and resumable: the same command continues from the last checkpoint in ``--out``. A minute or two on one core.
Digits are shifted by fractions of a pixel and get a little noise, so that small artefacts of a sampler do not decide
the class. One image in eight is replaced by Gaussian noise with the uniform distribution as its target: without that,
a classifier is sure of some class on pure noise.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foreseer.zoo import classifier
from foreseer.zoo.digits import load_digits

MAX_SHIFT = 1.0  # pixels
MAX_NOISE = 0.15  # standard deviation; the images' range is 2
NOISE_SHARE = 8  # one image in this many is pure noise
SMOOTHING = 0.05


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift ``(B, 1, 8, 8)`` images by up to `MAX_SHIFT` pixels each way (bilinear, background outside) and add noise; clipped to [-1, 1]."""
    count, size = len(images), images.shape[-1]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1.0
    theta[:, :, 2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * (2 * MAX_SHIFT / size)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images + 1, grid, align_corners=False) - 1  # zero padding is then the background, -1
    level = torch.rand(count, 1, 1, 1, generator=generator) * MAX_NOISE
    return (moved + level * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def training_batch(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return augmented images and their ``(B, 10)`` target distributions; every `NOISE_SHARE`-th image is noise with a uniform target."""
    targets = F.one_hot(labels, 10) * (1 - SMOOTHING) + SMOOTHING / 10
    images = augment(images, generator)
    images[::NOISE_SHARE] = torch.randn(images[::NOISE_SHARE].shape, generator=generator).clamp(-1, 1)
    targets[::NOISE_SHARE] = 0.1
    return images, targets


@torch.no_grad()
def evaluate(model: classifier.DigitClassifier) -> dict[str, Any]:
    """Measure the classifier on the held-out images and on images that show nothing.

    Returns:
        ``right`` of ``held_out`` images, their ratio ``accuracy``, ``missed`` as ``[index, label, answer,
        probability]`` each, and under ``confidence`` the mean, 99th percentile and maximum of the largest class
        probability: on held-out digits, on Gaussian noise (clipped to [-1, 1], the kind that training shows), and on
        two kinds that training does not show: held-out digits with their pixels in random order, and uniform noise.
    """
    _, _, images, labels = load_digits()
    generator = torch.Generator().manual_seed(2)
    count = 2000
    sources = images[torch.randint(0, len(images), (count,), generator=generator)].flatten(1)
    order = torch.rand(sources.shape, generator=generator).argsort(1)
    kinds: dict[str, Tensor] = {
        "held_out_digits": images,
        "gaussian_noise": torch.randn(count, 1, 8, 8, generator=generator).clamp(-1, 1),
        "shuffled_pixels": sources.gather(1, order).view(-1, 1, 8, 8),
        "uniform_noise": torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1,
    }
    confidence = {}
    for kind, pictures in kinds.items():
        top = model(pictures).softmax(1).amax(1)
        confidence[kind] = {"mean": round(top.mean().item(), 4), "p99": round(top.quantile(0.99).item(), 4), "max": round(top.max().item(), 4)}
    top, answers = model(images).softmax(1).max(1)
    wrong = (answers != labels).nonzero().flatten().tolist()
    return {
        "right": len(images) - len(wrong),
        "held_out": len(images),
        "accuracy": round(1 - len(wrong) / len(images), 4),
        "missed": [[i, int(labels[i]), int(answers[i]), round(top[i].item(), 3)] for i in wrong],
        "confidence": confidence,
    }


def train(out: Path, *, steps: int, batch: int, lr: float, seed: int, eval_every: int, on_step: Callable[[int, float], None]) -> classifier.DigitClassifier:
    """Train, or continue from the checkpoint in ``out``; writes checkpoint, log and weights every ``eval_every`` steps and at the end."""
    torch.manual_seed(seed)
    model = classifier.DigitClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    images, labels, held_images, held_labels = load_digits()

    checkpoint, log = out / "checkpoint.pt", out / "training_log.csv"
    start, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        start, seconds = saved["step"], saved["seconds"]
    else:
        log.write_text("step,train_loss,held_out_accuracy,seconds\n")

    clock, running = time.perf_counter(), []
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.randint(0, len(images), (batch,), generator=generator)
        pictures, targets = training_batch(images[chosen], labels[chosen], generator)
        loss = F.cross_entropy(model(pictures), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        running.append(loss.item())
        on_step(step + 1, sum(running[-100:]) / len(running[-100:]))

        if (step + 1) % eval_every == 0 or step + 1 == steps:
            with torch.no_grad():
                accuracy = (model(held_images).argmax(1) == held_labels).float().mean().item()
            seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            with log.open("a", newline="") as file:
                csv.writer(file).writerow([step + 1, f"{sum(running) / len(running):.5f}", f"{accuracy:.4f}", f"{seconds:.0f}"])
            running.clear()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state(),
                     "step": step + 1, "seconds": seconds}  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            classifier.save_weights(model, out)
    return model.eval()


def write_card(out: Path, model: classifier.DigitClassifier, figures: dict[str, Any], *, command: str, train_images: int) -> Path:
    """Write ``card.md`` from what `evaluate` measured."""
    sure = figures["confidence"]
    missed = ", ".join(f"a {label} read as {answer}" for _, label, answer, _ in figures["missed"]) or "none"
    rows = "\n".join(f"| {kind.replace('_', ' ')} | {c['mean']:.3f} | {c['p99']:.3f} | {c['max']:.3f} |" for kind, c in sure.items())
    size = (out / "weights.safetensors").stat().st_size
    text = f"""# Digit classifier

A small convolutional classifier of 8x8 handwritten digits. foreseer uses it to judge what the bundled DiT draws:
whether a sample shows the digit it was asked for, and, in the features of its penultimate layer, a Frechet distance
to the data. It is not meant for reading digits elsewhere.

| | |
|---|---|
| Input | `(B, 1, 8, 8)` float32 in [-1, 1] |
| Output | `(B, 10)` logits; `features(x)` gives `(B, {model.head.in_features})` |
| Parameters | {sum(p.numel() for p in model.parameters()):,} |
| File | `weights.safetensors`, float32, {size / 1e6:.2f} MB |
| Recipe | `{command}` |
| Accuracy | {figures["right"]} of {figures["held_out"]} held-out images ({figures["accuracy"]:.2%}) |
| Missed | {missed} |

## Confidence

The largest class probability. An even guess is 0.1. Gaussian noise is part of the training, with an even guess as its
target; the other two kinds of noise are not.

| Images | mean | 99th percentile | maximum |
|---|---|---|---|
{rows}

## Data

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository
(https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits), its test part of 1,797 images, as
it comes inside scikit-learn. Licence of the data: CC BY 4.0. {train_images:,} images were trained on; the
{figures["held_out"]} held-out images are the same for every recipe (`foreseer.zoo.digits`). They chose neither the
recipe's settings nor the step that ships, which is the last.

The split is by image, not by writer: the 13 people who wrote the held-out images also wrote training images. So the
accuracy is that on known hands.
"""
    (out / "card.md").write_text(text)
    return out / "card.md"


def main(argv: list[str] | None = None) -> None:
    """Command line of the recipe; the defaults made the weights that ship."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    parser = argparse.ArgumentParser(description="Train the digit classifier that ships with foreseer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, the log, the weights and the card")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=500)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns) as progress:
        task = progress.add_task("train", total=args.steps, loss=math.nan)
        model = train(
            args.out,
            steps=args.steps,
            batch=args.batch,
            lr=args.lr,
            seed=args.seed,
            eval_every=args.eval_every,
            on_step=lambda step, loss: progress.update(task, completed=step, loss=loss),
        )
    figures = evaluate(model)
    flags = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed}
    given = "".join(f" --{name} {value}" for name, value in flags.items() if value != parser.get_default(name))
    command = f"python -m foreseer.zoo.recipes.train_classifier --out DIR{given}"
    write_card(args.out, model, figures, command=command, train_images=len(load_digits()[0]))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
