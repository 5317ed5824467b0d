"""The training loop of the flow-matching recipes: seeded, resumable, with an average of the weights and a log."""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor, nn

__all__ = ["Settings", "fit"]

Model = TypeVar("Model", bound=nn.Module)


@attrs.frozen(kw_only=True)
class Settings:
    """What a run is trained with.

    Args:
        steps: Optimizer steps in all, those before a resumption counted in.
        learning_rate: AdamW's, at its highest: it rises over ``warmup`` steps and falls along half a cosine.
        horizon: Steps after which it would be zero. Training may stop before: the average of the weights does for the rest of the fall.
        warmup: Steps.
        average: The average keeps this share of itself at every step (less in the first steps).
        seed: Of the generator that batches and noise are drawn from.
        eval_every: Steps between two lines of the log, and between two checkpoints.
    """

    steps: int
    learning_rate: float
    horizon: int
    warmup: int
    average: float
    seed: int
    eval_every: int


def fit(
    model: Model,
    loss: Callable[[Model, torch.Generator], Tensor],
    held_out: Callable[[Model], float],
    *,
    settings: Settings,
    checkpoint: Path,
    log: Path,
    save: Callable[[Model], Any] | None = None,
) -> Model:
    """Train and return the average of the weights over the last steps, in eval mode.

    The same call goes on from the checkpoint, to the same weights bit for bit; what came after the last checkpoint is done again.

    Args:
        model: Trained in place.
        loss: Draws a batch from the generator and returns the model's loss on it, a scalar.
        held_out: Loss of the averaged model on data that is not trained on.
        settings: How long and how fast.
        checkpoint: File to write and to go on from.
        log: CSV with a line for every ``eval_every`` steps: ``step, train_loss`` (mean since the line before), ``held_out_loss, seconds`` (by the clock).
        save: Called with the average at every checkpoint; None: nothing else is written.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    average = copy.deepcopy(model).requires_grad_(False).eval()
    parameters: list[Tensor] = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    generator = torch.Generator().manual_seed(settings.seed)
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

    model.train()
    columns = (TextColumn(log.stem), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeElapsedColumn(), TimeRemainingColumn())
    clock, running = time.perf_counter(), []
    with Progress(*columns) as progress:
        task = progress.add_task("train", total=settings.steps, completed=start, loss=math.nan)
        for step in range(start, settings.steps):
            rate = settings.learning_rate * min(1.0, (step + 1) / settings.warmup) * 0.5 * (1 + math.cos(math.pi * step / settings.horizon))
            for group in optimizer.param_groups:
                group["lr"] = rate
            found = loss(model, generator)
            optimizer.zero_grad(set_to_none=True)
            found.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            kept = min(settings.average, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), parameters, 1 - kept)
            running.append(found.item())
            progress.update(task, advance=1, loss=sum(running[-50:]) / len(running[-50:]))

            if (step + 1) % settings.eval_every == 0 or step + 1 == settings.steps:
                seconds += time.perf_counter() - clock
                clock = time.perf_counter()
                with torch.no_grad():
                    held = held_out(average)
                with log.open("a", newline="") as file:
                    csv.writer(file).writerow([step + 1, f"{sum(running) / len(running):.5f}", f"{held:.5f}", f"{seconds:.0f}"])
                running.clear()
                state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                         "generator": generator.get_state(), "step": step + 1, "seconds": seconds}  # fmt: skip
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                if save is not None:
                    save(average)
    return average
