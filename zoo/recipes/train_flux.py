"""Train the bundled FLUX-shaped model: ``python -m foreseer.zoo.recipes.train_flux --out runs/flux``.

Seeded and resumable: the same command goes on from the last checkpoint in ``--out``. Two stages, as FLUX.1-dev is said to have had:

1. A teacher: flow matching on digits with their class, one class in ten replaced by none, at guidance 1.
2. Guidance distillation (Meng et al. 2022, arXiv 2210.03142): the student starts as the teacher and learns, at a guidance w drawn from 1 to 5, the teacher's
   ``v_none + w (v_class - v_none)``. One call of the student then does what takes two of the teacher.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from foreseer.zoo.digits import load_digits
from foreseer.zoo.flow import noised, without_some
from foreseer.zoo.flux import CONFIG, FluxDigits, upscale
from foreseer.zoo.recipes.fitting import Settings, fit
from foreseer.zoo.standins import NO_DIGIT
from foreseer.zoo.storing import save

LOWEST, HIGHEST = 1.0, 5.0
"""The guidance scales that the student learns."""


def latents_of(digits: Tensor) -> Tensor:
    """Return the ``(B, 1, 16, 16)`` latents of ``(B, 1, 8, 8)`` digits."""
    latents: Tensor = (upscale(digits) - CONFIG["vae"]["shift"]) * CONFIG["vae"]["scale"]
    return latents


def matching_loss(model: FluxDigits, latents: Tensor, digits: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity at guidance 1."""
    noisy, sigmas, velocity = noised(latents, generator)
    return F.mse_loss(model(noisy, sigmas, digits, torch.ones(len(digits))), velocity)


def distillation_loss(student: FluxDigits, teacher: FluxDigits, latents: Tensor, digits: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error against the teacher's guided velocity, at a random guidance."""
    noisy, sigmas, _ = noised(latents, generator)
    scales = LOWEST + (HIGHEST - LOWEST) * torch.rand(len(digits), generator=generator)
    with torch.no_grad():
        classes = torch.cat([digits, torch.full_like(digits, NO_DIGIT)])
        with_class, without = teacher(noisy.repeat(2, 1, 1, 1), sigmas.repeat(2), classes, torch.ones(len(classes))).chunk(2)
    guided = without + scales.view(-1, 1, 1, 1) * (with_class - without)
    return F.mse_loss(student(noisy, sigmas, digits, scales), guided)


def main(argv: list[str] | None = None) -> None:
    """Command line of the recipe; the defaults made the weights that ship."""
    parser = argparse.ArgumentParser(description="Train the FLUX-shaped model of handwritten digits that ships with foreseer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints, the logs and the weights")
    parser.add_argument("--teacher-steps", type=int, default=1200)
    parser.add_argument("--teacher-horizon", type=int, default=3000, help="steps after which the teacher's learning rate would be zero")
    parser.add_argument("--steps", type=int, default=400, help="of the distillation")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--student-lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=200)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    digits, labels, held_digits, held_labels = load_digits()
    latents, held_latents = latents_of(digits), latents_of(held_digits)
    torch.manual_seed(args.seed)
    model = FluxDigits(CONFIG)
    model.start_as_identity()

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, len(latents), (args.batch,), generator=generator)
        return latents[chosen], without_some(labels[chosen], generator)

    def settings(steps: int, rate: float, horizon: int) -> Settings:
        return Settings(steps=steps, learning_rate=rate, horizon=horizon, warmup=100, average=0.995, seed=args.seed, eval_every=args.eval_every)

    teacher = fit(
        model,
        lambda network, generator: matching_loss(network, *batch(generator), generator),
        lambda network: float(matching_loss(network, held_latents, held_labels, torch.Generator().manual_seed(1))),
        settings=settings(args.teacher_steps, args.lr, args.teacher_horizon),
        checkpoint=args.out / "teacher.pt",
        log=args.out / "teacher_log.csv",
        save=lambda network: save(network, args.out / "teacher", config=CONFIG),
    )
    model.load_state_dict(teacher.state_dict())
    fit(
        model,
        lambda network, generator: distillation_loss(network, teacher, *batch(generator), generator),
        lambda network: float(distillation_loss(network, teacher, held_latents, held_labels, torch.Generator().manual_seed(1))),
        settings=settings(args.steps, args.student_lr, args.steps),
        checkpoint=args.out / "checkpoint.pt",
        log=args.out / "training_log.csv",
        save=lambda network: save(network, args.out, config=CONFIG),
    )
    print(f"wrote {args.out / 'weights.safetensors'}")


if __name__ == "__main__":
    main()
