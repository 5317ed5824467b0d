"""Measure and draw the bundled Wan-shaped model, and write its card: ``python -m foreseer.zoo.recipes.card_wan --model zoo/wan_digits``.

Reads ``weights.safetensors``, ``config.json`` and ``training_log.csv`` in the folder; writes ``curve.png``, ``samples.png`` and ``card.md`` beside them and
prints the figures as JSON. Every number in the card is measured by the command that writes it. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreseer.zoo import wan
from foreseer.zoo.digits import SOURCE, load_digits
from foreseer.zoo.judge import DigitJudge
from foreseer.zoo.moving import FRAMES, SIDE, find, move, place
from foreseer.zoo.recipes.card import nearest, read_log
from foreseer.zoo.recipes.sheets import NOTE, Block, draw_curves, draw_sheet
from foreseer.zoo.standins import DIGITS
from foreseer.zoo.storing import read_config

CLASSES = len(DIGITS)
SCALES = (1.0, 3.0, 5.0)
"""The guidance scales that are compared; at 1 the pipeline makes one call a step, else two."""
REACH = 2
"""Pixels by which the place where a digit is found changes from frame to frame at most, along each axis: it moves by 1.5, and is found on whole pixels."""


def draw(pipe: Any, *, per_class: int, steps: int, guidance: float, seed: int) -> Tensor:
    """Draw ``(10, per_class, F, 16, 16)`` videos in [-1, 1] with the pipeline; the same noise for every guidance."""
    generator = torch.Generator().manual_seed(seed)
    calls = []
    for _ in range(per_class):
        call = {"height": SIDE, "width": SIDE, "num_frames": FRAMES, "max_sequence_length": pipe.tokenizer.length, "output_type": "pt"}
        frames = pipe(list(DIGITS), num_inference_steps=steps, guidance_scale=guidance, generator=generator, **call).frames
        calls.append(frames[:, :, 0] * 2 - 1)
    return torch.stack(calls, 1)


def judged(videos: Tensor, labels: Tensor) -> dict[str, float]:
    """Find and read the digit in every frame of ``(N, F, 16, 16)`` videos.

    Returns:
        ``frames``: share of the frames in which the classifier reads the ``(N,)`` label; ``videos``: share of the videos in which it does so in every
        frame; ``moves``: share of the steps from frame to frame that are no longer than a digit can move; ``change``: mean L2 distance of a digit's 8x8
        pixels from one frame to the next.
    """
    train = load_digits()[0]
    judge = DigitJudge(reference=train)
    count, frames = videos.shape[:2]
    digits, corners = find(videos.flatten(0, 1)[:, None], train.mean(0))
    with torch.no_grad():
        right = (judge.classifier(digits).argmax(1) == labels.repeat_interleave(frames)).view(count, frames).double()
    steps = corners.view(count, frames, 2).diff(dim=1).abs().amax(2)
    change = digits.view(count, frames, -1).diff(dim=1).norm(dim=2)
    return {
        "frames": float(right.mean()),
        "videos": float(right.prod(1).mean()),
        "moves": float((steps <= REACH).double().mean()),
        "change": float(change.mean()),
    }


def measure(folder: Path, pipe: Any, *, per_class: int, steps: int, guidance: float, seed: int) -> tuple[dict[str, Any], dict[float, Tensor]]:
    """Return the card's figures, ready for JSON, and the videos at each guidance. Distances are L2 norms of 64 pixel values in [-1, 1]."""
    found = {scale: draw(pipe, per_class=per_class, steps=steps, guidance=scale, seed=seed) for scale in {*SCALES, guidance}}
    train, _, held, held_labels = load_digits()
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    log = read_log(folder / "training_log.csv")
    middle, _ = find(found[guidance].flatten(0, 1)[:, FRAMES // 2, None], train.mean(0))
    of_samples, of_held = nearest(middle, train)[0], nearest(held, train)[0]
    figures = {
        "parameters": sum(p.numel() for p in pipe.transformer.parameters()),
        "table": sum(p.numel() for p in pipe.text_encoder.parameters()),
        "bytes": (folder / "weights.safetensors").stat().st_size,
        "training": {name: float(log[name][-1]) for name in ("step", "train_loss", "held_out_loss", "seconds")},
        "videos": len(labels),
        "guidance": {scale: judged(videos.flatten(0, 1), labels) for scale, videos in sorted(found.items())},
        "held_out": judged(place(held, move(len(held), torch.Generator().manual_seed(seed)))[:, 0], held_labels),
        "nearest": {
            "samples_median": float(of_samples.median()),
            "samples_smallest": float(of_samples.min()),
            "held_out_median": float(of_held.median()),
            "held_out_smallest": float(of_held.min()),
        },
        "train_images": len(train),
        "held_out_images": len(held),
    }
    return figures, found


def write_card(path: Path, figures: dict[str, Any], *, recipe: str, steps: int, guidance: float, seed: int) -> None:
    """Write the card from the figures that `measure` found."""
    near, training = figures["nearest"], figures["training"]

    def row(name: str, each: dict[str, float]) -> str:
        return f"| {name} | {each['frames']:.1%} | {each['videos']:.1%} | {each['moves']:.1%} | {each['change']:.2f} |"

    rows = "\n".join(row(f"guidance {scale:g}", each) for scale, each in sorted(figures["guidance"].items()))
    lines = f"""# Wan-shaped model of moving digits

A `WanTransformer3DModel` of diffusers with {wan.CONFIG["transformer"]["num_layers"]} blocks that makes videos of {FRAMES} frames of 16x16 pixels, in which one
digit moves in a straight line and bounces off the edges, through a real `WanPipeline` (`foreseer.zoo.load_wan()`). It ships with foreseer so that Wan's code
path can be tried and tested without a download and without an accelerator. {NOTE}

| | |
|---|---|
| Prompt | names one digit, as a numeral or a word; empty: any digit |
| Call | `pipe("7", height=16, width=16, num_frames={FRAMES}, max_sequence_length=2)` |
| Text encoder | none: a trained table of {wan.CONFIG["text"]["length"]} vectors for each digit and for none (`DigitTable`) |
| VAE | none: 2x2 pixels of two frames are folded into 8 channels (`FoldedVideo`); the latents are `(B, 8, 5, 8, 8)`, that is 80 tokens |
| Scheduler | `UniPCMultistepScheduler` on flow sigmas with shift {wan.CONFIG["scheduler"]["flow_shift"]:g}, as Wan 2.1 |
| Guidance | two calls a step, with the prompt and without |
| Parameters | {figures["parameters"]:,} in the transformer, {figures["table"]:,} in the table |
| File | `weights.safetensors`, float16, {figures["bytes"] / 1e6:.2f} MB |
| Recipe | `{recipe}` |
| Trained | {training["step"]:,.0f} steps of flow matching, {training["seconds"] / 60:.0f} minutes by the clock; one class in ten replaced by none |
| Final loss | {training["train_loss"]:.3f} on training images, {training["held_out_loss"]:.3f} on held-out images with the averaged weights |

![Training and held-out loss](curve.png)

## Samples

{figures["videos"]} videos at each guidance, as many of each class: {steps} steps, seed {seed}. One video of each class at guidance {guidance:g},
its frames from left to right:

![A video of each class](samples.png)

In every frame the window that is most like a digit is looked for, and foreseer's digit classifier (`../digits_classifier/card.md`) reads it. The last line is
what the same measures say of real videos, of the {figures["held_out_images"]} held-out digits.

| | right digit, of the frames | right digit in all {FRAMES} frames, of the videos | steps of at most {REACH} pixels | change of the digit from frame to frame |
|---|---:|---:|---:|---:|
{rows}
{row("real videos", figures["held_out"])}

The change is the mean L2 distance, over 64 pixels in [-1, 1], between what is found in a frame and in the next.

## Memorisation

Distance of the digit in the middle frame, at guidance {guidance:g}, to the nearest training image (L2 norms over 64 pixels in [-1, 1]):

| | samples | held-out images |
|---|---:|---:|
| median | {near["samples_median"]:.2f} | {near["held_out_median"]:.2f} |
| smallest | {near["samples_smallest"]:.2f} | {near["held_out_smallest"]:.2f} |

## Data

{SOURCE} {figures["train_images"]:,} digits, enlarged to 12x12 pixels, were trained on, on paths drawn
anew for every batch (`foreseer.zoo.moving`); {figures["held_out_images"]} were held out.
"""
    path.write_text(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line; the defaults made the card that ships."""
    parser = argparse.ArgumentParser(description="Measure and draw the Wan-shaped model in a folder, and write its card there.")
    parser.add_argument("--model", type=Path, required=True, help="folder with weights.safetensors, config.json and training_log.csv")
    parser.add_argument("--recipe", default="python -m foreseer.zoo.recipes.train_wan --out DIR", help="the command that trained it, for the card")
    parser.add_argument("--per-class", type=int, default=10, help="videos of each class, at each guidance")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.per_class < 1:
        parser.error(f"--per-class {args.per_class} is out of range; write a whole number >= 1")

    pipe = wan.pipeline(wan.load_model(args.model), read_config(args.model))
    pipe.set_progress_bar_config(disable=True)
    figures, found = measure(args.model, pipe, per_class=args.per_class, steps=args.steps, guidance=args.guidance, seed=args.seed)
    draw_curves([("flow matching", read_log(args.model / "training_log.csv"))], args.model / "curve.png")
    rows = [str(digit) for digit in range(CLASSES)]
    draw_sheet([Block(found[args.guidance][:, 0], rows, [str(frame) for frame in range(FRAMES)])], args.model / "samples.png", left=0.3)
    write_card(args.model / "card.md", figures, recipe=args.recipe, steps=args.steps, guidance=args.guidance, seed=args.seed)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
