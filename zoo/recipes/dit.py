"""The bundled DiT. About an hour on two cores.

The recipe is DiT's (arXiv 2212.09748): predict the noise, uniform timesteps, adaLN-zero initialisation, one
label in ten replaced by the null class, an exponential moving average of the weights. One departure: the
learning rate is higher and decays to zero, since the run is short.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from foreseer.zoo import dit
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps
from foreseer.zoo.digits import load_digits
from foreseer.zoo.judge import DigitJudge, frechet_distance
from foreseer.zoo.recipes.card import Sampling, memorisation, nearest, parameters, told, weakest
from foreseer.zoo.recipes.fitting import Settings, fit, without_some, zero
from foreseer.zoo.recipes.sheets import Block, draw_curves, draw_sheet
from foreseer.zoo.storing import load, save

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

STAGES = {"": Settings(steps=5000, batch=64, warmup=200, average=0.998, eval_every=250)}
SAMPLING = Sampling(per_class=50, steps=50, guidance=1.5)
SHOWN = 8  # samples of each class in the picture
DRAWS = 20  # random subsets that the Frechet distance with fewer samples is averaged over


def start() -> DiTTransformer2DModel:
    """Return an untrained model: every block is the identity, and its output zero."""
    model = dit.build()
    dit.share_conditioning(model)
    zero(model.proj_out_1, model.proj_out_2, *(block.norm1.linear for block in model.transformer_blocks))
    for block in model.transformer_blocks:
        # `noise_batch` drops labels once per image; diffusers' own dropout would draw anew in every block
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return model


def noise_batch(
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    drop_labels: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw timesteps and noise. Returns ``noisy, timesteps, labels, noise``."""
    schedule = dit.alphas_cumprod()
    timesteps = torch.randint(0, len(schedule), (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    a = schedule[timesteps].float().view(-1, 1, 1, 1)
    labels = without_some(labels, generator, share=drop_labels)
    return a.sqrt() * images + (1 - a).sqrt() * noise, timesteps, labels, noise


def noise_loss(model: DiTTransformer2DModel, *batch: Any, drop_labels: float = 0.1) -> Tensor:
    """Mean squared error of the predicted noise on images, labels and a generator's draws."""
    noisy, timesteps, classes, noise = noise_batch(*batch, drop_labels=drop_labels)
    return F.mse_loss(model(noisy, timesteps, class_labels=classes).sample, noise)


def train(out: Path, settings: Settings) -> None:
    """Train into a folder, or go on there."""
    images, labels, *held = load_digits()
    torch.manual_seed(settings.seed)

    def held_out(model: DiTTransformer2DModel) -> float:
        generator, total = torch.Generator().manual_seed(1), 0.0
        for batch in zip(*(torch.split(part, 99) for part in held), strict=True):
            total += noise_loss(model, *batch, generator, drop_labels=0.0).item() * len(batch[0])
        return total / len(held[0])

    def keep(model: DiTTransformer2DModel) -> None:
        save(model, out, config=dit.CONFIG, stored_as=dit.stored_as)

    fit(start(), noise_loss, held_out, data=(images, labels), settings=settings, out=out, save=keep)


def draw_all(model: torch.nn.Module, sampling: Sampling) -> Tensor:
    """Draw ``(10, per_class, 1, 8, 8)`` samples with DDIM, clipped to [-1, 1]."""
    noise = torch.randn(len(sampling.labels), 1, 8, 8, generator=torch.Generator().manual_seed(sampling.seed))
    batches = zip(torch.split(noise, 50), torch.split(sampling.labels, 50), strict=True)
    timesteps = ddim_timesteps(sampling.steps)
    parts = [ddim_sample(model, *batch, timesteps, guidance=sampling.guidance) for batch in batches]
    return torch.cat(parts).clamp(-1, 1).view(-1, sampling.per_class, 1, 8, 8)


def card(folder: Path, sampling: Sampling) -> dict[str, Any]:
    """Measure and draw."""
    model = load(dit.build, folder, stored_as=dit.stored_as)
    samples = draw_all(model, sampling)
    train, _, held, _ = load_digits()
    flat, log = samples.flatten(0, 1), folder / "training_log.csv"
    judge = DigitJudge(reference=train)
    seen, real = judge.features(flat), judge.features(held)
    generator, fewer = torch.Generator().manual_seed(0), min(len(held), len(flat))
    subsets = [seen[torch.randperm(len(flat), generator=generator)[:fewer]] for _ in range(DRAWS)]
    fewer_to_train = np.mean([frechet_distance(one, judge.reference) for one in subsets]).item()
    draw_curves({"error of the noise": log}, folder / "curve.png")
    draw_pictures(samples, train, folder / "samples.png")
    return {
        "config": dict(model.config),
        "parameters": parameters(model),
        "stored_parameters": sum(part.numel() for part in load_file(folder / "weights.safetensors").values()),
        "trained": told(log),
        "samples": len(flat),
        "fewer": fewer,
        "draws": DRAWS,
        "accuracy": judge.accuracy(flat, sampling.labels),
        "weakest": weakest(judge, samples),
        "frechet": {
            "samples_to_train": frechet_distance(seen, judge.reference),
            "samples_to_held_out": frechet_distance(seen, real),
            "fewer_samples_to_train": fewer_to_train,
            "held_out_to_train": frechet_distance(real, judge.reference),
        },
        "nearest": memorisation(flat, train, held),
    }


def draw_pictures(samples: Tensor, train: Tensor, path: Path) -> None:
    """Draw some samples of each class, and the one nearest to a training image over that image."""
    distances, indices = (found.view(samples.shape[:2]) for found in nearest(samples.flatten(0, 1), train))
    closest = torch.arange(len(samples)), distances.argmin(1)
    pairs = torch.stack([samples[closest], train[indices[closest]]])[:, :, 0]
    digits = [str(digit) for digit in range(len(samples))]
    names = [f"nearest of {samples.shape[1]}\nto a training\nimage", "that training\nimage"]
    above = Block(samples[:, :SHOWN, 0].transpose(0, 1), ["samples"], digits)
    far = [f"{distance:.1f}" for distance in distances[closest].tolist()]
    draw_sheet([above, Block(pairs, names, far, "L2 distances above")], path)
