"""Train the bundled Wan-shaped model: ``python -m foreseer.zoo.recipes.train_wan --out runs/wan``.

Seeded and resumable: the same command goes on from the last checkpoint in ``--out``. Flow matching on videos of one moving digit, made anew for every batch,
with its class; one class in ten is replaced by none, for guidance in two calls. Noise levels are shifted as the sampler shifts them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from foreseer.zoo.digits import load_digits
from foreseer.zoo.flow import noised, without_some
from foreseer.zoo.moving import move, place
from foreseer.zoo.recipes.fitting import Settings, fit
from foreseer.zoo.standins import FoldedVideo
from foreseer.zoo.storing import save
from foreseer.zoo.wan import CONFIG, WanDigits


def latents_of(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the ``(B, 8, 5, 8, 8)`` latents of videos in which ``(B, 1, 8, 8)`` digits move on random paths."""
    folded = FoldedVideo(**CONFIG["vae"]).encode(place(digits, move(len(digits), generator))).latents
    latents: Tensor = (folded - CONFIG["vae"]["mean"]) / CONFIG["vae"]["std"]
    return latents


def matching_loss(model: WanDigits, digits: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity on videos of these digits."""
    noisy, sigmas, velocity = noised(latents_of(digits, generator), generator, shift=CONFIG["scheduler"]["flow_shift"])
    return F.mse_loss(model(noisy, sigmas, labels), velocity)


def main(argv: list[str] | None = None) -> None:
    """Command line of the recipe; the defaults made the weights that ship."""
    parser = argparse.ArgumentParser(description="Train the Wan-shaped model of moving digits that ships with foreseer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, the log and the weights")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--horizon", type=int, default=1600, help="steps after which the learning rate would be zero")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=200)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    digits, labels, held_digits, held_labels = load_digits()
    torch.manual_seed(args.seed)
    model = WanDigits(CONFIG)
    model.start_as_identity()

    def loss(network: WanDigits, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(0, len(digits), (args.batch,), generator=generator)
        return matching_loss(network, digits[chosen], without_some(labels[chosen], generator), generator)

    fit(
        model,
        loss,
        lambda network: float(matching_loss(network, held_digits, held_labels, torch.Generator().manual_seed(1))),
        settings=Settings(steps=args.steps, learning_rate=args.lr, horizon=args.horizon, warmup=100, average=0.995, seed=args.seed, eval_every=args.eval_every),
        checkpoint=args.out / "checkpoint.pt",
        log=args.out / "training_log.csv",
        save=lambda network: save(network, args.out, config=CONFIG),
    )
    print(f"wrote {args.out / 'weights.safetensors'}")


if __name__ == "__main__":
    main()
