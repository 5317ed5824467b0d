"""The bundled Wan-shaped model: flow matching on videos of one moving digit, made anew for every batch.

One class in ten is replaced by none, for guidance in two calls. Noise levels are shifted as the sampler
shifts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreseer.zoo.digits import load_digits
from foreseer.zoo.judge import DigitJudge
from foreseer.zoo.moving import FRAMES, find, move, place
from foreseer.zoo.recipes.card import Sampling, draw, memorisation, parameters, told
from foreseer.zoo.recipes.fitting import Settings, fit, noised, without_some, zero
from foreseer.zoo.recipes.sheets import Block, draw_curves, draw_sheet
from foreseer.zoo.standins import DIGITS, FoldedVideo
from foreseer.zoo.storing import load, save
from foreseer.zoo.wan import CONFIG, WanDigits, pipeline

STAGES = {"": Settings(steps=1600, horizon=1600, lr=1.5e-3)}
SAMPLING = Sampling(per_class=10, steps=50, guidance=3.0)
SCALES = (1.0, 3.0, 5.0)
"""The guidance scales that the card compares; at 1 the pipeline makes one call a step, else two."""
REACH = 2
"""Pixels by which a digit is found to move from frame to frame at most, along each axis: it moves by 1.5."""


def start() -> WanDigits:
    """Return an untrained model: every block is the identity, and its output zero."""
    model = WanDigits(CONFIG)
    network = model.transformer
    attention = (block.attn2.to_out[0] for block in network.blocks)
    zero(network.proj_out, network.condition_embedder.time_proj, *attention)
    for block in network.blocks:
        nn.init.zeros_(block.scale_shift_table)
    return model


def latents_of(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``(B, 8, 5, 8, 8)`` latents of videos in which ``(B, 1, 8, 8)`` digits move on random paths."""
    folded = FoldedVideo(**CONFIG["vae"]).encode(place(digits, move(len(digits), generator))).latents
    latents: Tensor = (folded - CONFIG["vae"]["mean"]) / CONFIG["vae"]["std"]
    return latents


def matching_loss(model: WanDigits, digits: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity on videos of these digits."""
    latents, shift = latents_of(digits, generator), CONFIG["scheduler"]["flow_shift"]
    noisy, sigmas, velocity = noised(latents, generator, shift=shift)
    return F.mse_loss(model(noisy, sigmas, labels), velocity)


def train(out: Path, settings: Settings) -> None:
    """Train into a folder, or go on there."""
    digits, labels, held, held_labels = load_digits()
    torch.manual_seed(settings.seed)
    fit(
        start(),
        lambda model, digits, labels, g: matching_loss(model, digits, without_some(labels, g), g),
        lambda model: float(matching_loss(model, held, held_labels, torch.Generator().manual_seed(1))),
        data=(digits, labels),
        settings=settings,
        out=out,
        save=lambda model: save(model, out, config=CONFIG),
    )


def judged(videos: Tensor, labels: Tensor) -> dict[str, float]:
    """Find and read the digit in every frame of ``(N, F, 16, 16)`` videos, and measure shares: ``frames`` in
    which the classifier reads the ``(N,)`` label; ``videos`` in which it does so in every frame; ``moves``
    from frame to frame that are no longer than a digit can move. ``change`` is the mean L2 distance of a
    digit's 8x8 pixels from one frame to the next.
    """
    train = load_digits()[0]
    judge = DigitJudge(reference=train)
    count, frames = videos.shape[:2]
    digits, corners = find(videos.flatten(0, 1)[:, None], train.mean(0))
    right = (judge.classes(digits) == labels.repeat_interleave(frames)).view(count, frames).double()
    steps = corners.view(count, frames, 2).diff(dim=1).abs().amax(2)
    change = digits.view(count, frames, -1).diff(dim=1).norm(dim=2)
    return {
        "frames": float(right.mean()),
        "videos": float(right.prod(1).mean()),
        "moves": float((steps <= REACH).double().mean()),
        "change": float(change.mean()),
    }


def card(folder: Path, sampling: Sampling) -> dict[str, Any]:
    """Measure and draw."""
    model = load(WanDigits, folder)
    pipe = pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    drawn = [attrs.evolve(sampling, guidance=scale) for scale in sorted({*SCALES, sampling.guidance})]
    found = {each.guidance: draw(pipe, each, max_sequence_length=2)[:, :, :, 0] for each in drawn}
    train, _, held, held_labels = load_digits()
    middle = find(found[sampling.guidance].flatten(0, 1)[:, FRAMES // 2, None], train.mean(0))[0]
    real = place(held, move(len(held), torch.Generator().manual_seed(sampling.seed)))[:, 0]
    scored = {f"guidance {s:g}": judged(videos.flatten(0, 1), sampling.labels) for s, videos in found.items()}
    log = folder / "training_log.csv"
    draw_curves({"flow matching": log}, folder / "curve.png")
    rows, columns = (list(map(str, range(count))) for count in (len(DIGITS), FRAMES))
    draw_sheet([Block(found[sampling.guidance][:, 0], rows, columns)], folder / "samples.png", left=0.3)
    return {
        "config": model.config,
        "parameters": parameters(model.transformer),
        "table": parameters(model.text),
        "trained": told(log),
        "samples": len(sampling.labels),
        "reach": REACH,
        "judged": {**scored, "real videos": judged(real, held_labels)},
        "nearest": memorisation(middle, train, held),
    }
