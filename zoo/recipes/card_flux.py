"""Measure and draw the bundled FLUX-shaped model, and write its card: ``python -m foreseer.zoo.recipes.card_flux --model zoo/flux_digits``.

Reads ``weights.safetensors``, ``config.json``, ``teacher_log.csv`` and ``training_log.csv`` in the folder; writes ``curve.png``, ``samples.png`` and
``card.md`` beside them and prints the figures as JSON. Every number in the card is measured by the command that writes it. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreseer.zoo import flux
from foreseer.zoo.digits import SOURCE, load_digits
from foreseer.zoo.judge import FRECHET_NOTE, DigitJudge, frechet_distance
from foreseer.zoo.recipes.card import nearest, read_log, train_share
from foreseer.zoo.recipes.sheets import NOTE, Block, draw_curves, draw_sheet
from foreseer.zoo.standins import DIGITS
from foreseer.zoo.storing import read_config

CLASSES = len(DIGITS)
SCALES = (1.0, 2.0, 3.5, 5.0)
"""The guidance scales that are compared."""
SHOWN = 6
"""Samples of each class in the picture."""


def draw(pipe: Any, *, per_class: int, steps: int, guidance: float, seed: int) -> Tensor:
    """Draw ``(10, per_class, 1, 16, 16)`` samples in [-1, 1] with the pipeline; the same noise for every guidance."""
    generator = torch.Generator().manual_seed(seed)
    calls = []
    for _ in range(per_class):  # one of each class a call, so that the noise does not depend on how many calls there are
        images = pipe(list(DIGITS), num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="pt").images
        calls.append(images * 2 - 1)
    return torch.stack(calls, 1)


def spread(samples: Tensor) -> float:
    """Return the mean L2 distance between two samples of one class, as 8x8 digits."""
    digits = flux.shrink(samples.flatten(0, 1)).view(*samples.shape[:2], -1)
    count = digits.shape[1]
    return float(torch.cdist(digits, digits).sum((1, 2)).mean() / max(1, count * (count - 1)))


def measure(folder: Path, pipe: Any, *, per_class: int, steps: int, guidance: float, seed: int) -> tuple[dict[str, Any], dict[float, Tensor]]:
    """Return the card's figures, ready for JSON, and the samples at each guidance. Distances of images are L2 norms of 64 pixel values in [-1, 1]."""
    found = {scale: draw(pipe, per_class=per_class, steps=steps, guidance=scale, seed=seed) for scale in {*SCALES, guidance}}
    train, _, held, _ = load_digits()
    judge = DigitJudge(reference=train)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    flat = {scale: flux.shrink(samples.flatten(0, 1)) for scale, samples in found.items()}
    main = flat[guidance]
    near, near_held = nearest(main, train)[0], nearest(held, train)[0]
    teacher, log = read_log(folder / "teacher_log.csv"), read_log(folder / "training_log.csv")
    resized = flux.shrink(flux.upscale(held))
    figures = {
        "parameters": sum(p.numel() for p in pipe.transformer.parameters()),
        "table": sum(p.numel() for p in pipe.text_encoder.parameters()),
        "bytes": (folder / "weights.safetensors").stat().st_size,
        "teacher": {name: float(teacher[name][-1]) for name in ("step", "train_loss", "held_out_loss", "seconds")},
        "student": {name: float(log[name][-1]) for name in ("step", "train_loss", "held_out_loss", "seconds")},
        "samples": len(main),
        "accuracy_per_class": [judge.accuracy(own, torch.full((per_class,), digit)) for digit, own in enumerate(main.view(CLASSES, per_class, 1, 8, 8))],
        "guidance": {
            scale: {"accuracy": judge.accuracy(own, labels), "spread": spread(found[scale]), "frechet": frechet_distance(judge.features(own), judge.reference)}
            for scale, own in sorted(flat.items())
        },
        "held_out": {"accuracy": judge.accuracy(resized, load_digits()[3]), "frechet": frechet_distance(judge.features(resized), judge.reference)},
        "nearest": {
            "samples_median": float(near.median()),
            "samples_smallest": float(near.min()),
            "held_out_median": float(near_held.median()),
            "held_out_smallest": float(near_held.min()),
            "train_share": train_share(main, train, held),
            "train_share_without_copying": len(train) / (len(train) + len(held)),
        },
        "train_images": len(train),
        "held_out_images": len(held),
    }
    return figures, found


def write_card(path: Path, figures: dict[str, Any], *, recipe: str, steps: int, guidance: float, seed: int) -> None:
    """Write the card from the figures that `measure` found."""
    teacher, student, near, real = (figures[name] for name in ("teacher", "student", "nearest", "held_out"))
    best = figures["guidance"][guidance]
    scheduler, tokens = flux.CONFIG["scheduler"], (flux.SIDE // 2) ** 2
    slope = (scheduler["max_shift"] - scheduler["base_shift"]) / (scheduler["max_image_seq_len"] - scheduler["base_image_seq_len"])
    shift = math.exp(scheduler["base_shift"] + slope * (tokens - scheduler["base_image_seq_len"]))
    worst = min(figures["accuracy_per_class"])
    weakest = ", ".join(str(digit) for digit, right in enumerate(figures["accuracy_per_class"]) if right == worst)
    rows = "\n".join(
        f"| {scale:g} | {each['accuracy']:.1%} | {each['spread']:.2f} | {each['frechet']:.2f} |" for scale, each in sorted(figures["guidance"].items())
    )
    lines = f"""# FLUX-shaped model of handwritten digits

A `FluxTransformer2DModel` of diffusers, {flux.CONFIG["transformer"]["num_layers"]} double and {flux.CONFIG["transformer"]["num_single_layers"]} single
blocks, that draws 16x16 digits through a real `FluxPipeline`: `foreseer.zoo.load_flux()("7")`. It ships with foreseer so that FLUX's code path can be tried
and tested without a download and without an accelerator. {NOTE}

| | |
|---|---|
| Prompt | names one digit, as a numeral or a word; empty: any digit |
| Text encoders | none: a trained table of {flux.CONFIG["text"]["length"]} vectors and a pooled one for each digit and for none (`DigitTable`) |
| VAE | none: the latents are the pixels, shifted and scaled (`PixelImage`); FLUX's packing makes {tokens} tokens of 2x2 pixels |
| Scheduler | `FlowMatchEulerDiscreteScheduler` with FLUX.1-dev's dynamic shift, for {tokens} tokens {shift:.2f} |
| Guidance | distilled: an input of the transformer, 1 to 5 |
| Parameters | {figures["parameters"]:,} in the transformer, {figures["table"]:,} in the table |
| File | `weights.safetensors`, float16, {figures["bytes"] / 1e6:.2f} MB |
| Recipe | `{recipe}` |
| Teacher | {teacher["step"]:,.0f} steps of flow matching, {teacher["seconds"] / 60:.0f} minutes by the clock; one class in ten replaced by none |
| Teacher's loss | {teacher["train_loss"]:.3f} on training images, {teacher["held_out_loss"]:.3f} on held-out images with the averaged weights |
| Student | {student["step"]:,.0f} steps of guidance distillation, {student["seconds"] / 60:.0f} minutes by the clock, from the teacher's weights |
| Student's loss | {student["train_loss"]:.4f} on training images, {student["held_out_loss"]:.4f} on held-out images, against the teacher's guided velocity |

The student learned, at a guidance w drawn evenly from 1 to 5, what the teacher gives in two calls: v(none) + w (v(class) - v(none)), as in arXiv 2210.03142.
Only the student ships. How FLUX.1-dev itself was distilled is not published.

![Loss of the teacher and of the student](curve.png)

## Samples

{figures["samples"]} samples at each guidance, as many of each class: {steps} steps, seed {seed}.

![Samples of each class, and the same noise at several guidance scales](samples.png)

foreseer's digit classifier (`../digits_classifier/card.md`) takes {best["accuracy"]:.1%} of those at guidance {guidance:g} for the digit that was asked for
(lowest for {weakest}: {worst:.0%}); it sees means of 2x2 pixels. Of held-out digits, enlarged and reduced again, it reads {real["accuracy"]:.1%} right.

| guidance | right digit | distance between two samples of a class | Frechet distance to the {figures["train_images"]:,} training images |
|---:|---:|---:|---:|
{rows}

The distance between samples is the mean over all pairs: with more guidance the samples of a class should be more alike.
The {figures["held_out_images"]} held-out images come to a Frechet distance of {real["frechet"]:.2f}. {FRECHET_NOTE}

## Memorisation

Distances are L2 norms over the 64 means of 2x2 pixels.

| Distance to the nearest training image | samples | held-out images |
|---|---:|---:|
| median | {near["samples_median"]:.2f} | {near["held_out_median"]:.2f} |
| smallest | {near["samples_smallest"]:.2f} | {near["held_out_smallest"]:.2f} |

For {near["train_share"]:.1%} of the samples the nearest of all digits is a training image. {near["train_share_without_copying"]:.1%} of the digits are
training images, so that is what a model that copies nothing comes to; copies would give 100%.

## Data

{SOURCE} The digits are enlarged to 16x16 pixels by bicubic interpolation.
{figures["train_images"]:,} were trained on; {figures["held_out_images"]} were held out.
"""
    path.write_text(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line; the defaults made the card that ships."""
    parser = argparse.ArgumentParser(description="Measure and draw the FLUX-shaped model in a folder, and write its card there.")
    parser.add_argument("--model", type=Path, required=True, help="folder with weights.safetensors, config.json, teacher_log.csv and training_log.csv")
    parser.add_argument("--recipe", default="python -m foreseer.zoo.recipes.train_flux --out DIR", help="the command that trained it, for the card")
    parser.add_argument("--per-class", type=int, default=30, help="samples of each class, at each guidance")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.per_class < 1:
        parser.error(f"--per-class {args.per_class} is out of range; write a whole number >= 1")

    pipe = flux.pipeline(flux.load_model(args.model), read_config(args.model))
    pipe.set_progress_bar_config(disable=True)
    figures, found = measure(args.model, pipe, per_class=args.per_class, steps=args.steps, guidance=args.guidance, seed=args.seed)
    logs = [("teacher: flow matching", read_log(args.model / "teacher_log.csv")), ("student: guidance", read_log(args.model / "training_log.csv"))]
    draw_curves(logs, args.model / "curve.png")
    digits = [str(digit) for digit in range(CLASSES)]
    shown = found[args.guidance][:, :SHOWN, 0].transpose(0, 1)
    scales = torch.stack([found[scale][:, 0, 0] for scale in SCALES])
    above = Block(shown, [f"guidance {args.guidance:g}"], digits)
    below = Block(scales, [f"guidance {scale:g}" for scale in SCALES], below="the same noise, four guidance scales")
    draw_sheet([above, below], args.model / "samples.png")
    write_card(args.model / "card.md", figures, recipe=args.recipe, steps=args.steps, guidance=args.guidance, seed=args.seed)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
