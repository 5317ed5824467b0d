"""The bundled DiT. About an hour on two cores.

The recipe is DiT's (arXiv 2212.09748): predict the noise, uniform timesteps, adaLN-zero initialisation, one
label in ten replaced by the null class, an exponential moving average of the weights. One departure: the
learning rate is higher and decays to zero, since the run is short.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from foreseer.zoo import dit
from foreseer.zoo.ddim import Prediction, ddim_sample, ddim_timesteps
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


def start(config: dict[str, Any] | None = None) -> DiTTransformer2DModel:
    """Return an untrained model, by default of `dit.CONFIG`: every block is the identity, and its output
    zero.
    """
    model = dit.build(config)
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
    prediction: Prediction = "epsilon",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw timesteps and noise. Returns ``noisy, timesteps, labels, target``: the target is what a model of
    this prediction learns.
    """
    schedule = dit.alphas_cumprod()
    timesteps = torch.randint(0, len(schedule), (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    a = schedule[timesteps].float().view(-1, 1, 1, 1)
    labels = without_some(labels, generator, share=drop_labels)
    target = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * images
    return a.sqrt() * images + (1 - a).sqrt() * noise, timesteps, labels, target


def noise_loss(model: DiTTransformer2DModel, *batch: Any, **options: Any) -> Tensor:
    """Mean squared error of the prediction on images, labels and a generator's draws; the options are those
    of `noise_batch`.
    """
    noisy, timesteps, classes, target = noise_batch(*batch, **options)
    return F.mse_loss(model(noisy, timesteps, class_labels=classes).sample, target)


def train(out: Path, settings: Settings) -> None:
    """Train into a folder, or go on there."""
    images, labels, *held = load_digits()
    learn((images, labels), held, settings, out)


def learn(
    data: tuple[Tensor, Tensor],
    held: Sequence[Tensor],
    settings: Settings,
    out: Path,
    *,
    config: dict[str, Any] | None = None,
    prediction: Prediction = "epsilon",
) -> None:
    """Train a model of this configuration (None: `dit.CONFIG`) and prediction on images and labels, into a
    folder, or go on there. The log's third column is the error on the held images and labels.
    """
    torch.manual_seed(settings.seed)
    config = dit.CONFIG if config is None else config

    def held_out(model: DiTTransformer2DModel) -> float:
        generator, total = torch.Generator().manual_seed(1), 0.0
        for batch in zip(*(torch.split(part, 99) for part in held), strict=True):
            total += noise_loss(model, *batch, generator, drop_labels=0.0, prediction=prediction).item() * len(batch[0])
        return total / len(held[0])

    def keep(model: DiTTransformer2DModel) -> None:
        save(model, out, config=config, stored_as=dit.stored_as)

    loss = functools.partial(noise_loss, prediction=prediction)
    fit(start(config), loss, held_out, data=data, settings=settings, out=out, save=keep)


def draw_all(model: Any, sampling: Sampling, *, prediction: Prediction = "epsilon") -> Tensor:
    """Draw ``(10, per_class, 1, H, W)`` samples with DDIM, clipped to [-1, 1]."""
    shape = len(sampling.labels), 1, model.config.sample_size, model.config.sample_size
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(sampling.seed))
    batches = zip(torch.split(noise, 50), torch.split(sampling.labels, 50), strict=True)
    timesteps = ddim_timesteps(sampling.steps)
    parts = [ddim_sample(model, *batch, timesteps, guidance=sampling.guidance, prediction=prediction) for batch in batches]
    return torch.cat(parts).clamp(-1, 1).view(-1, sampling.per_class, *shape[1:])


def card(folder: Path, sampling: Sampling) -> dict[str, Any]:
    """Measure and draw."""
    train, _, held, _ = load_digits()
    names = [str(digit) for digit in range(10)]
    return judged(folder, sampling, DigitJudge(reference=train), train, held, names=names)


def judged(
    folder: Path,
    sampling: Sampling,
    judge: DigitJudge,
    train: Tensor,
    held: Tensor,
    *,
    names: Sequence[str],
    prediction: Prediction = "epsilon",
) -> dict[str, Any]:
    """Draw samples of the model in a folder, and measure them in the eyes of a judge, and beside the images
    that were trained on and held out. The curve and the samples are drawn into the folder, under the names of
    the classes.
    """
    model = load(dit.build, folder, stored_as=dit.stored_as)
    samples = draw_all(model, sampling, prediction=prediction)
    flat, log = samples.flatten(0, 1), folder / "training_log.csv"
    seen, real, generator = judge.features(flat), judge.features(held), torch.Generator().manual_seed(0)
    fewer = min(len(held), len(flat))

    def from_train(features: Tensor) -> float:
        # as many of both: the distance of few is too large
        drawn = [features[torch.randperm(len(features), generator=generator)[:fewer]] for _ in range(DRAWS)]
        return np.mean([frechet_distance(one, judge.reference) for one in drawn]).item()

    draw_curves({"error of the noise" if prediction == "epsilon" else "error of the velocity": log}, folder / "curve.png")
    draw_pictures(samples, train, names, folder / "samples.png")
    return {
        "config": dict(model.config),
        "parameters": parameters(model),
        "stored_parameters": sum(part.numel() for part in load_file(folder / "weights.safetensors").values()),
        "trained": told(log),
        "samples": len(flat),
        "fewer": fewer,
        "draws": DRAWS,
        "accuracy": judge.accuracy(flat, sampling.labels),
        "weakest": weakest(judge, samples, names),
        "frechet": {
            "samples_to_train": frechet_distance(seen, judge.reference),
            "samples_to_held_out": frechet_distance(seen, real),
            "fewer_samples_to_train": from_train(seen),
            "held_out_to_train": from_train(real),
        },
        "nearest": memorisation(flat, train, held),
    }


def draw_pictures(samples: Tensor, train: Tensor, names: Sequence[str], path: Path) -> None:
    """Draw some samples of each class, and the one nearest to a training image over that image."""
    distances, indices = (found.view(samples.shape[:2]) for found in nearest(samples.flatten(0, 1), train))
    closest = torch.arange(len(samples)), distances.argmin(1)
    pairs = torch.stack([samples[closest], train[indices[closest]]])[:, :, 0]
    rows = [f"nearest of {samples.shape[1]}\nto a training\nimage", "that training\nimage"]
    above = Block(samples[:, :SHOWN, 0].transpose(0, 1), ["samples"], names)
    far = [f"{distance:.1f}" for distance in distances[closest].tolist()]
    draw_sheet([above, Block(pairs, rows, far, "L2 distances above")], path)
