"""The one training loop of the recipes, seeded and resumable, and what they draw for a batch."""

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

from foreseer.console import progress
from foreseer.zoo.standins import NO_DIGIT

__all__ = ["Settings", "fit", "noised", "without_some", "zero"]

Model = TypeVar("Model", bound=nn.Module)


@attrs.frozen(kw_only=True)
class Settings:
    """What a run is trained with.

    Args:
        steps: Optimizer steps in all, those before a resumption counted in.
        batch: Images of a step.
        lr: AdamW's learning rate at its highest: it rises over ``warmup`` steps and falls along half a
        cosine.
        horizon: Steps after which it would be zero; None: ``steps``. Training may stop before: the average of
            the weights does for the rest of the fall.
        warmup: Steps.
        average: The average keeps this share of itself at every step (less in the first steps); 0: it is the
            model itself.
        beta: AdamW's second beta.
        weight_decay: AdamW's.
        clip: Largest norm of the gradient.
        seed: Of the model's first weights, and of the generator that batches and noise are drawn from.
        eval_every: Steps between two lines of the log, and between two checkpoints.
    """

    steps: int
    batch: int = 16
    lr: float = 1e-3
    horizon: int | None = None
    warmup: int = 100
    average: float = 0.995
    beta: float = 0.99
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 200


def fit(
    model: Model,
    loss: Callable[[Model, Tensor, Tensor, torch.Generator], Tensor],
    held_out: Callable[[Model], float],
    *,
    data: tuple[Tensor, Tensor],
    settings: Settings,
    out: Path,
    name: str = "training",
    save: Callable[[Model], Any] = lambda average: None,
) -> Model:
    """Train and return the average of the weights over the last steps, in eval mode.

    The same call goes on from the checkpoint, to the same weights bit for bit; what came after the last
    checkpoint is done again.

    Args:
        model: Trained in place.
        loss: Of the model on a batch of images and labels, with what it draws from the generator; a scalar.
        held_out: What the averaged model reaches on data that is not trained on, for the log.
        data: ``(N, ...)`` images and ``(N,)`` labels.
        settings: How long and how fast.
        out: Folder of the checkpoint, ``NAME.pt``, and the log, ``NAME_log.csv``: for every ``eval_every``
            steps ``step, train_loss`` (mean since the line before), ``held_out, seconds`` (by the clock).
        name: Of the two files.
        save: Called with the average at every checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / f"{name}.pt", out / f"{name}_log.csv"
    average = copy.deepcopy(model).requires_grad_(False).eval()
    parameters: list[Tensor] = list(model.parameters())
    betas, decay = (0.9, settings.beta), settings.weight_decay
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, betas=betas, weight_decay=decay)
    generator = torch.Generator().manual_seed(settings.seed)
    kept: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
    start, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for key, part in kept.items():
            part.load_state_dict(saved[key])
        generator.set_state(saved["generator"])
        start, seconds = saved["step"], saved["seconds"]
    else:
        log.write_text("step,train_loss,held_out,seconds\n")

    model.train()
    horizon = settings.steps if settings.horizon is None else settings.horizon
    clock, running = time.perf_counter(), []
    with progress() as tell:
        for step in range(start, settings.steps):
            warmup = min(1.0, (step + 1) / settings.warmup)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * warmup * 0.5 * (1 + math.cos(math.pi * step / horizon))
            chosen = torch.randint(0, len(data[0]), (settings.batch,), generator=generator)
            found = loss(model, data[0][chosen], data[1][chosen], generator)
            optimizer.zero_grad(set_to_none=True)
            found.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            share = min(settings.average, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), parameters, 1 - share)
            running.append(found.item())
            tell(f"{name}, loss {sum(running[-50:]) / len(running[-50:]):.4f}", step + 1, settings.steps)

            if (step + 1) % settings.eval_every == 0 or step + 1 == settings.steps:
                seconds += time.perf_counter() - clock
                clock = time.perf_counter()
                with torch.no_grad():
                    held = held_out(average)
                line = [step + 1, f"{sum(running) / len(running):.5f}", f"{held:.5f}", f"{seconds:.0f}"]
                with log.open("a", newline="") as file:
                    csv.writer(file).writerow(line)
                running.clear()
                state = {key: part.state_dict() for key, part in kept.items()}
                state |= {"generator": generator.get_state(), "step": step + 1, "seconds": seconds}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                save(average)
    return average


def zero(*layers: Any) -> None:
    """Set the weights and biases of layers to zero, in place: adaLN-zero, with which training starts."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def without_some(digits: Tensor, generator: torch.Generator, *, share: float = 0.1) -> Tensor:
    """Replace this share of ``(B,)`` classes by "none", which classifier-free guidance starts from."""
    return torch.where(torch.rand(len(digits), generator=generator) < share, NO_DIGIT, digits)


def noised(data: Tensor, generator: torch.Generator, *, shift: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw noise levels and noise for flow matching (arXiv 2210.02747, 2209.03003): on the straight path
    ``(1 - s) data + s noise`` the velocity is ``noise - data``, and s runs from 0 (data) to 1 (noise).

    Args:
        data: ``(B, ...)`` floats of about mean 0 and variance 1.
        generator: What everything is drawn from.
        shift: Uniform levels u become ``shift u / (1 + (shift - 1) u)``, as in diffusers' flow schedulers.

    Returns:
        ``noisy``, ``sigmas`` and ``velocity``: the first and the last like ``data``, the other ``(B,)``.
    """
    uniform = torch.rand(len(data), generator=generator)
    sigmas = shift * uniform / (1 + (shift - 1) * uniform)
    noise = torch.randn(data.shape, generator=generator)
    levels = sigmas.view(-1, *[1] * (data.ndim - 1))
    return (1 - levels) * data + levels * noise, sigmas, noise - data
