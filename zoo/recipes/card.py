"""Measure and draw the bundled DiT, and write its card: ``python -m foreseer.zoo.recipes.card --model zoo/dit_digits``.

Reads ``weights.safetensors``, ``config.json`` and ``training_log.csv`` in the folder; writes ``curve.png``,
``samples.png`` and ``card.md`` beside them and prints the figures as JSON. Every number in the card is measured by
the command that writes it. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.console import console
from foreseer.errors import OptionError
from foreseer.timeline import STYLE
from foreseer.zoo import ddim, dit
from foreseer.zoo.digits import SOURCE, load_digits
from foreseer.zoo.judge import FRECHET_NOTE, DigitJudge, frechet_distance

CLASSES = 10
SHOWN = 8  # samples of each class in the picture
DRAWS = 20  # random subsets that the Frechet distance with fewer samples is averaged over
TRAINED, HELD = "#0072b2", "#d55e00"  # Okabe and Ito's palette


def read_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a training log. Where a step occurs twice, since a run was resumed before it, the later line counts.

    Raises:
        OptionError: If there is no log, or it has no lines.
    """
    if not path.exists():
        where = "from the folder the recipe wrote to, next to the weights"
        raise OptionError(f"{path} does not exist; copy training_log.csv {where}")
    with path.open(newline="") as file:
        lines = {int(line["step"]): line for line in csv.DictReader(file)}
    if not lines:
        raise OptionError(f"{path} has no lines; train for at least one --eval-every")
    ordered = [lines[step] for step in sorted(lines)]
    return {name: np.array([float(line[name]) for line in ordered]) for name in ("step", "train_loss", "held_out_loss", "seconds")}


def draw_all(model: torch.nn.Module, *, per_class: int, steps: int, guidance: float, seed: int) -> Tensor:
    """Draw ``(10, per_class, 1, 8, 8)`` samples with DDIM, clipped to [-1, 1]."""
    from rich.progress import Progress

    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    noise = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    timesteps, chunk, found = ddim.ddim_timesteps(steps), 50, []
    with Progress(console=console(stderr=True)) as progress:
        task = progress.add_task("sampling", total=steps * -(-len(labels) // chunk))
        for start in range(0, len(labels), chunk):
            rows = slice(start, start + chunk)
            x = ddim.ddim_sample(model, noise[rows], labels[rows], timesteps, guidance=guidance, on_step=lambda _: progress.advance(task))
            found.append(x.clamp(-1, 1))
    return torch.cat(found).view(CLASSES, per_class, 1, 8, 8)


def nearest(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each of ``(N, ...)`` images, the ``(N,)`` L2 distance in pixel values to the nearest of ``(M, ...)`` others, and which it is."""
    found = torch.cdist(images.flatten(1), others.flatten(1)).min(1)
    return found.values, found.indices


def train_share(images: Tensor, train: Tensor, held: Tensor) -> float:
    """Return the share of images whose nearest digit, among the training and the held-out ones together, is a training image.

    For images that have nothing to do with the split it is about ``len(train) / (len(train) + len(held))``; for
    copies of training images it is 1.
    """
    return float((nearest(images, train)[0] < nearest(images, held)[0]).double().mean())


def measure(folder: Path, model: torch.nn.Module, samples: Tensor, log: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return the card's figures, ready for JSON: model and file, training, accuracy, Frechet distances, memorisation.

    Distances of images are L2 norms of 64 pixel values in [-1, 1]. The Frechet distance with fewer samples is that of
    as many random samples as there are held-out images, averaged over `DRAWS` draws: it is the one to hold against
    that of the held-out images.
    """
    from safetensors.torch import load_file

    train, _, held, _ = load_digits()
    count = samples.shape[0] * samples.shape[1]
    flat, labels = samples.flatten(0, 1), torch.arange(CLASSES).repeat_interleave(samples.shape[1])
    judge = DigitJudge(reference=train)
    seen, real = judge.features(flat), judge.features(held)
    generator = torch.Generator().manual_seed(0)
    fewer = min(len(held), count)
    same = [frechet_distance(seen[torch.randperm(count, generator=generator)[:fewer]], judge.reference) for _ in range(DRAWS)]
    of_samples, of_held = nearest(flat, train)[0], nearest(held, train)[0]
    tenth, expected = of_held.quantile(0.1), len(train) / (len(train) + len(held))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "stored_parameters": sum(tensor.numel() for tensor in load_file(folder / "weights.safetensors").values()),
        "bytes": (folder / "weights.safetensors").stat().st_size,
        "train_steps": int(log["step"][-1]),
        "train_seconds": float(log["seconds"][-1]),
        "train_loss": float(log["train_loss"][-1]),
        "held_out_loss": float(log["held_out_loss"][-1]),
        "train_images": len(train),
        "held_out_images": len(held),
        "samples": count,
        "accuracy": judge.accuracy(flat, labels),
        "accuracy_per_class": [judge.accuracy(own, torch.full((len(own),), digit)) for digit, own in enumerate(samples)],
        "frechet": {
            "samples_to_train": frechet_distance(seen, judge.reference),
            "samples_to_held_out": frechet_distance(seen, real),
            "held_out_to_train": frechet_distance(real, judge.reference),
            "as_many_samples_as_held_out_to_train": float(np.mean(same)),
        },
        "nearest": {
            "samples_median": float(of_samples.median()),
            "samples_smallest": float(of_samples.min()),
            "held_out_median": float(of_held.median()),
            "held_out_smallest": float(of_held.min()),
            "median_ratio": float(of_samples.median() / of_held.median()),
            "held_out_tenth": float(tenth),
            "share_below_held_out_tenth": float((of_samples < tenth).double().mean()),
            "train_share": train_share(flat, train, held),
            "train_share_without_copying": expected,
            "train_share_error": (expected * (1 - expected) / count) ** 0.5,
        },
    }


def draw_curve(log: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Draw the training and the held-out loss over the steps."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(4.8, 2.7), dpi=200, layout="constrained")
        axes = figure.subplots()
        axes.plot(log["step"], log["train_loss"], color=TRAINED, linewidth=1.3, label="training images, mean since the last point")
        axes.plot(log["step"], log["held_out_loss"], color=HELD, linewidth=1.3, label="held-out images, averaged weights")
        axes.set_yscale("log")
        every = np.concatenate([log["train_loss"], log["held_out_loss"]])
        low, high = every.min() / 1.15, every.max() * 1.15
        ticks = [tick for tick in (0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.4, 0.7, 1.0) if low <= tick <= high]
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticklabels([f"{tick:g}" for tick in ticks])
        axes.set_xlim(left=0)
        axes.set_xlabel("training step")
        axes.set_ylabel("mean squared error of the noise")
        axes.grid(color="#ececec", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
        figure.savefig(path)


def draw_samples(samples: Tensor, path: Path) -> None:
    """Draw some samples of each class, and for each class the sample that comes nearest to a training image, over that image."""
    import matplotlib.style
    from matplotlib.figure import Figure

    train = load_digits()[0]
    distances, indices = nearest(samples.flatten(0, 1), train)
    distances, indices = distances.view(samples.shape[:2]), indices.view(samples.shape[:2])
    closest = distances.argmin(1)
    every = torch.arange(len(samples))
    shown = min(SHOWN, samples.shape[1])
    blocks = ((samples[:, :shown], shown), (torch.stack([samples[every, closest], train[indices[every, closest]]], 1), 2))

    cell, left, top, between, bottom, right = 0.46, 1.25, 0.3, 0.42, 0.3, 0.08
    width, height = left + CLASSES * cell + right, top + (shown + 2) * cell + between + bottom
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=200)
        upper = height - top
        for block, (pictures, rows) in enumerate(blocks):
            upper -= rows * cell + (between if block else 0)
            axes = figure.add_axes((left / width, upper / height, CLASSES * cell / width, rows * cell / height))
            sheet = np.block([[picture[0].numpy() for picture in row] for row in pictures.transpose(0, 1)])
            axes.imshow(sheet, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="auto", extent=(0, CLASSES, rows, 0))
            for edge in range(1, rows):
                axes.axhline(edge, color="white", linewidth=2)
            for edge in range(1, CLASSES):
                axes.axvline(edge, color="white", linewidth=2)
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.tick_params(length=0)
            centres = [i + 0.5 for i in range(CLASSES)]
            if block:
                axes.set_yticks([0.5, 1.5], [f"nearest of {samples.shape[1]}\nto a training\nimage", "that training\nimage"], fontsize=7.5)
                axes.set_xticks(centres, [f"{d:.1f}" for d in distances[every, closest].tolist()])
                axes.set_xlabel("L2 distance of the two", fontsize=7.5, labelpad=2)
            else:
                axes.set_yticks([rows / 2], ["samples"])
                axes.set_xticks(centres, [str(i) for i in range(CLASSES)])
                axes.xaxis.tick_top()
        figure.savefig(path)


def write_card(path: Path, figures: dict[str, Any], *, recipe: str, steps: int, guidance: float, seed: int) -> None:
    """Write the card from the figures that `measure` found."""
    near, far = figures["nearest"], figures["frechet"]
    fewer = min(figures["samples"], figures["held_out_images"])
    right = figures["accuracy_per_class"]
    worst = min(right)
    weakest = (
        f"lowest for {', '.join(str(digit) for digit in range(CLASSES) if right[digit] == worst)}: {worst:.0%}" if worst < 1 else "so it is in every class"
    )
    path.write_text(f"""# DiT on handwritten digits

A class-conditional diffusion transformer, diffusers' `DiTTransformer2DModel` with {dit.CONFIG["num_layers"]} blocks,
that draws 8x8 digits. It ships with foreseer so that everything can be tried and tested without a download and
without an accelerator. It is small: how a policy fares on it says little of how it fares on a large model.

| | |
|---|---|
| Input | noisy images `(B, 1, 8, 8)` in [-1, 1], timesteps 0..999, classes 0..9 ({dit.NULL_CLASS}: no class) |
| Output | the noise, `(B, 1, 8, 8)` |
| Schedule | linear beta from 1e-4 to 0.02, 1000 timesteps |
| Parameters | {figures["parameters"]:,} as loaded, {figures["stored_parameters"]:,} stored: all blocks share a conditioning embedder and an adaLN matrix |
| File | `weights.safetensors`, float16, {figures["bytes"] / 1e6:.2f} MB |
| Recipe | `{recipe}` |
| Trained | {figures["train_steps"]:,} steps, {figures["train_seconds"] / 60:.0f} minutes by the clock |
| Final loss | {figures["train_loss"]:.4f} on training images, {figures["held_out_loss"]:.4f} on held-out images with the averaged weights |

![Training and held-out loss](curve.png)

## Samples

{figures["samples"]} samples, as many of each class: DDIM, {steps} steps, guidance {guidance:g}, seed {seed}, clipped
to [-1, 1].

![Samples of each class, and the nearest training images](samples.png)

foreseer's digit classifier (`../digits_classifier/card.md`) takes {figures["accuracy"]:.1%} of them for the digit
that was asked for ({weakest}).

| Frechet distance | of | to |
|---:|---|---|
| {far["samples_to_train"]:.2f} | {figures["samples"]} samples | the {figures["train_images"]:,} training images |
| {far["samples_to_held_out"]:.2f} | {figures["samples"]} samples | the {figures["held_out_images"]} held-out images |
| {far["as_many_samples_as_held_out_to_train"]:.2f} | {fewer} samples, mean of {DRAWS} draws | the {figures["train_images"]:,} training images |
| {far["held_out_to_train"]:.2f} | the {figures["held_out_images"]} held-out images | the {figures["train_images"]:,} training images |

The last line is what real images reach, and the line above it is measured with as many images.
{FRECHET_NOTE}

## Memorisation

A model that copied its training images would draw samples much nearer to them than other real digits are. Distances
are L2 norms over 64 pixels in [-1, 1].

| Distance to the nearest training image | samples | held-out images |
|---|---:|---:|
| median | {near["samples_median"]:.2f} | {near["held_out_median"]:.2f} |
| smallest | {near["samples_smallest"]:.2f} | {near["held_out_smallest"]:.2f} |
| share below {near["held_out_tenth"]:.2f} | {near["share_below_held_out_tenth"]:.0%} | 10% |

The ratio of the medians is {near["median_ratio"]:.2f}. Guidance draws samples towards the typical digit, which lies
nearer to everything; so a second measure looks for the nearest digit among all {figures["train_images"] + figures["held_out_images"]:,}. For {
        near["train_share"]:.1%} of the samples it is a training image.
{near["train_share_without_copying"]:.1%} of the digits are training images, so that is what a model that copies
nothing comes to, give or take {near["train_share_error"]:.1%} (one standard error); copies would give 100%.

## Data

{SOURCE} {figures["train_images"]:,} images were trained on; {figures["held_out_images"]} were held out.
""")


def main(argv: list[str] | None = None) -> None:
    """Command line; the defaults made the card that ships."""
    parser = argparse.ArgumentParser(description="Measure and draw the DiT in a folder, and write its card there.")
    parser.add_argument("--model", type=Path, required=True, help="folder with weights.safetensors, config.json and training_log.csv")
    parser.add_argument("--recipe", default="python -m foreseer.zoo.recipes.train_dit --out DIR", help="the command that trained it, for the card")
    parser.add_argument("--per-class", type=int, default=50, help="samples of each class")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.per_class < 1:
        parser.error(f"--per-class {args.per_class} is out of range; write a whole number >= 1")

    log = read_log(args.model / "training_log.csv")
    model = dit.load_weights(args.model)
    samples = draw_all(model, per_class=args.per_class, steps=args.steps, guidance=args.guidance, seed=args.seed)
    figures = measure(args.model, model, samples, log)
    draw_curve(log, args.model / "curve.png")
    draw_samples(samples, args.model / "samples.png")
    write_card(args.model / "card.md", figures, recipe=args.recipe, steps=args.steps, guidance=args.guidance, seed=args.seed)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
