"""Measures by networks of others: LPIPS and DISTS by torchmetrics, CLIP score by transformers, and ImageReward.

Each is a thin wrapping of a package and of weights that are on this machine. Nothing is downloaded: where one
of the two is missing, the error says how to get it. Pictures go into the networks in three channels and
clipped to [-1, 1]; one that is broken has no number.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from foreseer.bench.fields import refuse_device
from foreseer.bench.measures import Call, Measure
from foreseer.errors import FileError, MissingPackageError, in_words
from foreseer.options import checked

__all__ = ["clip_score", "dists", "image_reward", "lpips"]

NETS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""LPIPS' networks, and what torchvision calls them."""

CHANNELS = (1, 3)
"""Of pictures, grey or in colour; latents have others."""

EXTRA = "pip install 'foreseer[measures]'"


@checked
def lpips(*, net: Literal["alex", "vgg", "squeeze"] = "alex", device: str = "cpu") -> Measure:
    """Learned perceptual distance to the same sample of full computation.

    Args:
        net: The network whose features are compared.
        device: Where it computes.
    """
    refuse_device(device)
    found = _package("torchmetrics.image.lpip", EXTRA)
    _refuse_missing_weights(NETS[net])
    metric = found.LearnedPerceptualImagePatchSimilarity(net_type=net).eval().to(device)

    def score(own: Tensor, full: Tensor) -> float:
        value = float(metric(own, full))
        metric.reset()
        return value

    note = f"Learned perceptual distance to the same sample of full computation, LPIPS ({net}; arXiv 1801.03924); of videos the mean over frames."
    return Measure(call=_pairs(score, device), note=note, higher_is_better=False, title="LPIPS" if net == "alex" else f"LPIPS ({net})", of="frames")


@checked
def dists(*, device: str = "cpu") -> Measure:
    """Distance in structure and texture to the same sample of full computation.

    Args:
        device: Where it computes.
    """
    refuse_device(device)
    found = _package("torchmetrics.functional.image.dists", EXTRA)
    _refuse_missing_weights(NETS["vgg"])
    network = found.DISTSNetwork().eval().to(device)
    note = "Distance in structure and texture to the same sample of full computation, DISTS (arXiv 2004.07728); of videos the mean over frames."
    call = _pairs(lambda own, full: float(network((own + 1) / 2, (full + 1) / 2)), device)
    return Measure(call=call, note=note, higher_is_better=False, title="DISTS", of="frames")


@checked
def clip_score(*, model: str = "openai/clip-vit-large-patch14", device: str = "cpu") -> Measure:
    """How well a sample fits the words of its condition, without a reference.

    Args:
        model: A CLIP model: a folder, or the name of one on the hub that was downloaded before.
        device: Where it computes.
    """
    refuse_device(device)
    package, hub = _package("transformers", EXTRA), _package("huggingface_hub", EXTRA)
    try:  # of a name transformers would ask the hub, local_files_only or not
        folder = model if Path(model).is_dir() else hub.snapshot_download(model, local_files_only=True)
        network = package.AutoModel.from_pretrained(folder).eval().to(device)
        processor = package.AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise FileError(f"{model!r} is not on this machine: hf download {model}, or write the folder of a CLIP model, model=FOLDER") from error

    def score(own: Tensor, words: str) -> float:
        given = processor(images=_pixels(own), text=[words], return_tensors="pt", padding=True, truncation=True).to(device)
        out = network(**given)
        return 100 * max(float(torch.cosine_similarity(out.image_embeds, out.text_embeds)), 0.0)

    note = (
        f"Similarity of a sample to the words of its condition, 100 x the cosine in the features of {Path(model).name}, at least 0 (arXiv 2104.08718); "
        "without a reference. Of videos the mean over frames. Empty where a sample has no words."
    )
    return Measure(call=_alone(score), note=note, higher_is_better=True, title="CLIP score", form=".2f", of="frames")


@checked
def image_reward(*, folder: str = "~/.cache/ImageReward", device: str = "cpu") -> Measure:
    """What people would prefer for the words of a sample's condition, as ImageReward learned it.

    Args:
        folder: Where ``ImageReward.pt`` and ``med_config.json`` are.
        device: Where it computes.
    """
    refuse_device(device)
    package = _package("ImageReward", "pip install image-reward")
    place = Path(folder).expanduser()
    weights, config = place / "ImageReward.pt", place / "med_config.json"
    if missing := [file.name for file in (weights, config) if not file.is_file()]:
        get = f"hf download THUDM/ImageReward ImageReward.pt med_config.json --local-dir {place}"
        raise FileError(f"{' and '.join(missing)} not in {str(place)!r}: {get}")
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it loads
        network = package.load(str(weights), device=device, med_config=str(config))

    def score(own: Tensor, words: str) -> float:
        from PIL import Image

        return float(network.score(words, Image.fromarray(_pixels(own)[0].permute(1, 2, 0).numpy())))

    note = (
        "What people would prefer for the words of a sample's condition, ImageReward (arXiv 2304.05977), about normal with deviation 1; without a reference. "
        "Of videos the mean over frames. Empty where a sample has no words."
    )
    return Measure(call=_alone(score), note=note, higher_is_better=True, title="ImageReward", form="+.2f", of="frames")


def _pairs(score: Callable[[Tensor, Tensor], float], device: str) -> Call:
    """Score each picture with its reference by itself: networks take gigabytes for a batch of large ones."""

    def call(own: Tensor, full: Tensor, conditions: Sequence[str]) -> Tensor | None:
        pairs = zip(own[:, None], full[:, None], strict=True)
        if own.shape[1] not in CHANNELS:
            return None
        return torch.tensor([score(_rgb(a).to(device), _rgb(b).to(device)) if _whole(a) and _whole(b) else torch.nan for a, b in pairs])

    return call


def _alone(score: Callable[[Tensor, str], float]) -> Call:
    """Score each picture with its words, where it has some."""

    def call(own: Tensor, full: Tensor, conditions: Sequence[str]) -> Tensor | None:
        pairs = zip(own[:, None], conditions, strict=True)
        if own.shape[1] not in CHANNELS:
            return None
        return torch.tensor([score(_rgb(a), words) if words and _whole(a) else torch.nan for a, words in pairs])

    return call


def _whole(picture: Tensor) -> bool:
    return bool(torch.isfinite(picture).all())


def _rgb(picture: Tensor) -> Tensor:
    return picture.expand(-1, 3, -1, -1).clamp(-1, 1)


def _pixels(picture: Tensor) -> Tensor:
    return ((picture + 1) * 127.5).round().to(torch.uint8)


def _package(name: str, get: str) -> Any:
    """Import a module of a package, or say how to get it, whatever is wrong with the one that is there."""
    try:
        return import_module(name)
    except Exception as error:
        problem = f"{error.name or name} is not installed" if isinstance(error, ModuleNotFoundError) else f"{name} cannot be imported ({in_words(error)})"
        raise MissingPackageError(f"{problem}: {get}") from error


def _refuse_missing_weights(network: str) -> None:
    """Refuse a network of torchvision whose weights torch's hub has not kept: nothing is downloaded by a
    benchmark.
    """
    models = _package("torchvision.models", f"pip install torchvision 'torch=={torch.__version__.partition('+')[0]}'")
    url = models.get_model_weights(network).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        get = f"python -c \"import torch; torch.hub.load_state_dict_from_url('{url}')\""
        raise FileError(f"the weights {file.name} are not in {str(file.parent)!r}: {get}")
