"""The bundled FLUX-shaped model, in two stages, as FLUX.1-dev is said to have had.

1. A teacher: flow matching on digits with their class, one class in ten replaced by none, at guidance 1.
2. Guidance distillation (Meng et al. 2022, arXiv 2210.03142): the student starts as the teacher and learns,
   at a guidance w drawn from 1 to 5, the teacher's ``v_none + w (v_class - v_none)``. One call of the student
   then does what takes two of the teacher.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from foreseer.zoo.digits import load_digits
from foreseer.zoo.flux import CONFIG, SIDE, FluxDigits, pipeline, shrink, upscale
from foreseer.zoo.judge import DigitJudge, frechet_distance
from foreseer.zoo.recipes.card import Sampling, draw, memorisation, parameters, told, weakest
from foreseer.zoo.recipes.fitting import Settings, fit, noised, without_some, zero
from foreseer.zoo.recipes.sheets import Block, draw_curves, draw_sheet
from foreseer.zoo.standins import DIGITS, NO_DIGIT
from foreseer.zoo.storing import load, save

STAGES = {"teacher": Settings(steps=1200, horizon=3000), "student": Settings(steps=400, lr=5e-4)}
SAMPLING = Sampling(per_class=30, steps=28, guidance=3.5)
LOWEST, HIGHEST = 1.0, 5.0
"""The guidance scales that the student learns."""
SCALES = (1.0, 2.0, 3.5, 5.0)
"""The guidance scales that the card compares."""
SHIFTS = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
SHOWN = 6
"""Samples of each class in the picture."""


def start() -> FluxDigits:
    """Return an untrained model: every block is the identity, and its output zero."""
    model = FluxDigits(CONFIG)
    network = model.transformer
    double = [layer for block in network.transformer_blocks for layer in (block.norm1, block.norm1_context)]
    norms = [network.norm_out, *double, *(block.norm for block in network.single_transformer_blocks)]
    zero(network.proj_out, *(norm.linear for norm in norms))
    return model


def latents_of(digits: Tensor) -> Tensor:
    """Return the ``(B, 1, 16, 16)`` latents of ``(B, 1, 8, 8)`` digits."""
    latents: Tensor = (upscale(digits) - CONFIG["vae"]["shift"]) * CONFIG["vae"]["scale"]
    return latents


def matching_loss(model: FluxDigits, latents: Tensor, digits: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity at guidance 1."""
    noisy, sigmas, velocity = noised(latents, generator)
    return F.mse_loss(model(noisy, sigmas, digits, torch.ones(len(digits))), velocity)


def distillation_loss(
    student: FluxDigits,
    teacher: FluxDigits,
    latents: Tensor,
    digits: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error against the teacher's guided velocity, at a random guidance."""
    noisy, sigmas, _ = noised(latents, generator)
    scales = LOWEST + (HIGHEST - LOWEST) * torch.rand(len(digits), generator=generator)
    with torch.no_grad():
        classes = torch.cat([digits, torch.full_like(digits, NO_DIGIT)])
        velocities = teacher(noisy.repeat(2, 1, 1, 1), sigmas.repeat(2), classes, torch.ones(len(classes)))
        with_class, without = velocities.chunk(2)
    guided = without + scales.view(-1, 1, 1, 1) * (with_class - without)
    return F.mse_loss(student(noisy, sigmas, digits, scales), guided)


def train(out: Path, teacher: Settings, student: Settings) -> None:
    """Train into a folder, or go on there."""
    digits, labels, held_digits, held_labels = load_digits()
    data, held = (latents_of(digits), labels), (latents_of(held_digits), held_labels)
    torch.manual_seed(teacher.seed)
    model = start()

    def run(name: str, settings: Settings, loss: Any, **more: Any) -> FluxDigits:
        return fit(
            model,
            lambda network, latents, digits, g: loss(network, latents, without_some(digits, g), g),
            lambda network: float(loss(network, *held, torch.Generator().manual_seed(1))),
            data=data,
            settings=settings,
            out=out,
            name=name,
            **more,
        )

    taught = run("teacher", teacher, matching_loss)
    model.load_state_dict(taught.state_dict())

    def distilled(network: FluxDigits, *batch: Any) -> Tensor:
        return distillation_loss(network, taught, *batch)

    run("training", student, distilled, save=lambda network: save(network, out, config=CONFIG))


def spread(samples: Tensor) -> float:
    """Return the mean L2 distance between two samples of one class, as 8x8 digits."""
    digits = shrink(samples.flatten(0, 1)).view(*samples.shape[:2], -1)
    count = digits.shape[1]
    return float(torch.cdist(digits, digits).sum((1, 2)).mean() / max(1, count * (count - 1)))


def card(folder: Path, sampling: Sampling) -> dict[str, Any]:
    """Measure and draw."""
    model = load(FluxDigits, folder)
    pipe = pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    scales = sorted({*SCALES, sampling.guidance})
    found = {scale: draw(pipe, attrs.evolve(sampling, guidance=scale)) for scale in scales}
    train, _, held, held_labels = load_digits()
    judge = DigitJudge(reference=train)

    def judged(digits: Tensor, labels: Tensor) -> dict[str, float]:
        distance = frechet_distance(judge.features(digits), judge.reference)
        return {"accuracy": judge.accuracy(digits, labels), "frechet": distance}

    flat = {scale: shrink(samples.flatten(0, 1)) for scale, samples in found.items()}
    main = flat[sampling.guidance]
    by_class = main.view(len(DIGITS), sampling.per_class, *main.shape[1:])
    logs = [folder / "teacher_log.csv", folder / "training_log.csv"]
    titles = ("teacher: flow matching", "student: guidance")
    draw_curves(dict(zip(titles, logs, strict=True)), folder / "curve.png")
    shown = found[sampling.guidance][:, :SHOWN, 0].transpose(0, 1)
    digits = [str(digit) for digit in range(len(DIGITS))]
    above = Block(shown, [f"guidance {sampling.guidance:g}"], digits)
    compared, names = torch.stack([found[s][:, 0, 0] for s in SCALES]), [f"guidance {s:g}" for s in SCALES]
    below = Block(compared, names, below="the same noise, four guidance scales")
    draw_sheet([above, below], folder / "samples.png")
    taught, trained = map(told, logs)
    return {
        "config": model.config,
        "parameters": parameters(model.transformer),
        "table": parameters(model.text),
        "taught": taught,
        "trained": trained,
        "tokens": (tokens := (SIDE // 2) ** 2),
        "shift": math.exp(calculate_shift(tokens, *(model.config["scheduler"][name] for name in SHIFTS))),
        "samples": len(main),
        "weakest": weakest(judge, by_class, digits),
        "guidance": {s: judged(flat[s], sampling.labels) | {"spread": spread(found[s])} for s in scales},
        "held_out": judged(shrink(upscale(held)), held_labels),
        "nearest": memorisation(main, train, held),
    }
