"""Train the bundled DiT: ``python -m foreseer.zoo.recipes.train_dit --out runs/dit``.

Seeded and resumable: the same command continues from the last checkpoint in ``--out``. About an hour on two cores.
The recipe is DiT's (arXiv 2212.09748): predict the noise, uniform timesteps, adaLN-zero initialisation, one label in
ten replaced by the null class, an exponential moving average of the weights. One departure: the learning rate is
higher and decays to zero, since the run is short.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from foreseer.zoo import dit
from foreseer.zoo.digits import load_digits

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel


def initialise(model: DiTTransformer2DModel) -> None:
    """adaLN-zero: every block starts as the identity and the model's output as zero."""
    for block in model.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
        # Labels are dropped once per image in `noise_batch`; diffusers' own dropout would draw anew in every block.
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    for layer in (model.proj_out_1, model.proj_out_2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


def noise_batch(images: Tensor, labels: Tensor, generator: torch.Generator, *, drop_labels: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw timesteps and noise. Returns ``noisy, timesteps, labels, noise``."""
    schedule = dit.alphas_cumprod()
    timesteps = torch.randint(0, len(schedule), (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    a = schedule[timesteps].float().view(-1, 1, 1, 1)
    dropped = torch.rand(len(labels), generator=generator) < drop_labels
    labels = torch.where(dropped, torch.full_like(labels, dit.NULL_CLASS), labels)
    return a.sqrt() * images + (1 - a).sqrt() * noise, timesteps, labels, noise


def held_out_loss(model: DiTTransformer2DModel, images: Tensor, labels: Tensor) -> float:
    """Mean squared error of the predicted noise on held-out images; the same noise at every call."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(images), 99):
            batch = noise_batch(images[start : start + 99], labels[start : start + 99], generator, drop_labels=0.0)
            noisy, timesteps, classes, noise = batch
            total += F.mse_loss(model(noisy, timesteps, class_labels=classes).sample, noise, reduction="sum").item()
    return total / images.numel()


def main(argv: list[str] | None = None) -> None:
    """Command line of the recipe; the defaults made the weights that ship."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    parser = argparse.ArgumentParser(description="Train the DiT on handwritten digits that ships with foreseer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, the log and the weights")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=250)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    model, average = dit.build(), dit.build()
    for network in (model, average):
        dit.share_conditioning(network)
    initialise(model)
    average.load_state_dict(model.state_dict())
    average.requires_grad_(False).eval()
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
    generator = torch.Generator().manual_seed(args.seed)
    images, labels, held_images, held_labels = load_digits()

    checkpoint, log = args.out / "checkpoint.pt", args.out / "training_log.csv"
    start, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        start, seconds = saved["step"], saved["seconds"]
    else:
        log.write_text("step,train_loss,held_out_loss,seconds\n")

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    clock, running = time.perf_counter(), []
    with Progress(*columns) as progress:
        task = progress.add_task("train", total=args.steps, completed=start, loss=math.nan)
        for step in range(start, args.steps):
            warmup = min(1.0, (step + 1) / 200)
            rate = args.lr * warmup * 0.5 * (1 + math.cos(math.pi * step / args.steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = torch.randint(0, len(images), (args.batch,), generator=generator)
            noisy, timesteps, classes, noise = noise_batch(images[chosen], labels[chosen], generator, drop_labels=0.1)
            loss = F.mse_loss(model(noisy, timesteps, class_labels=classes).sample, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            decay = min(args.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), parameters, 1 - decay)
            running.append(loss.item())
            progress.update(task, advance=1, loss=sum(running[-50:]) / len(running[-50:]))

            if (step + 1) % args.eval_every == 0 or step + 1 == args.steps:
                seconds += time.perf_counter() - clock
                clock = time.perf_counter()
                held = held_out_loss(average, held_images, held_labels)
                with log.open("a", newline="") as file:
                    csv.writer(file).writerow([step + 1, f"{sum(running) / len(running):.5f}", f"{held:.5f}", f"{seconds:.0f}"])
                running.clear()
                state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                         "generator": generator.get_state(), "step": step + 1, "seconds": seconds}  # fmt: skip
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                dit.save_weights(average.state_dict(), args.out)
    print(f"wrote {args.out / 'weights.safetensors'} after {seconds / 60:.0f} minutes")


if __name__ == "__main__":
    main()
