"""Laws of the measures that stand on packages and weights of others: what is missing is told with how to get it.

LPIPS, DISTS and ImageReward meet stand-ins of their packages here, in the shape of torchmetrics 1.9.0, torchvision
0.28.0 and image-reward 1.5; CLIP score meets transformers and a small CLIP in a folder.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from foreseer.bench.measures import load_measure, load_measures
from foreseer.errors import MissingPackageError

URL = "https://download.pytorch.org/models/{}-1234.pth"


def install(monkeypatch: pytest.MonkeyPatch, modules: Mapping[str, dict[str, Any] | None]) -> None:
    for name, content in modules.items():
        module = None
        if content is not None:
            module = ModuleType(name)
            vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


class Metric(torch.nn.Module):
    """Mean absolute difference; it takes what torchmetrics' takes, and adds up until it is reset."""

    def __init__(self, net_type: str) -> None:
        super().__init__()
        self.scale, self.seen = {"alex": 1.0, "vgg": 2.0, "squeeze": 3.0}[net_type], 0

    def forward(self, own: Tensor, full: Tensor) -> Tensor:
        assert own.shape[1:2] == (3,)
        assert float(own.min()) >= -1
        assert float(own.max()) <= 1
        assert not self.seen
        self.seen += 1
        return self.scale * (own - full).abs().mean()

    def reset(self) -> None:
        self.seen = 0


class Network(torch.nn.Module):
    def forward(self, own: Tensor, full: Tensor) -> Tensor:
        assert min(own.min(), full.min()) >= 0
        return (own.mean() - full.mean()).abs()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins, and the folder of torch's hub with all weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = tmp_path / "checkpoints"
    weights.mkdir()
    for network in ("alexnet", "vgg16", "squeezenet1_1"):
        (weights / f"{network}-1234.pth").touch()
    fakes = {
        "torchmetrics.image.lpip": {"LearnedPerceptualImagePatchSimilarity": Metric},
        "torchmetrics.functional.image.dists": {"DISTSNetwork": Network},
        "torchvision.models": {"get_model_weights": lambda network: SimpleNamespace(DEFAULT=SimpleNamespace(url=URL.format(network)))},
    }
    parents = {name.rsplit(".", n)[0]: {} for name in fakes for n in range(1, name.count(".") + 1)}
    install(monkeypatch, {**parents, **fakes})
    return weights


PICTURES = torch.linspace(-1, 1, 3 * 4 * 4).view(1, 3, 4, 4).expand(3, 3, 4, 4).clone()


@pytest.mark.parametrize(("text", "of_one_shift"), [("lpips", 0.25), ("lpips:net=vgg", 0.5), ("dists", 0.125)])
def test_a_picture_is_compared_with_its_reference_by_itself(text: str, of_one_shift: float, packages: Path) -> None:
    """Law: one number for each picture, grey or in colour, clipped; a broken one has none; videos by the frame."""
    measure = load_measure(text)
    full = PICTURES * 0.5
    own = full + torch.tensor([0.0, 0.25, math.nan])[:, None, None, None]
    found = measure.take(own, full, [""] * 3)
    assert found is not None
    assert found[:2] == (0.0, pytest.approx(of_one_shift))
    assert math.isnan(found[2])
    assert measure.take(own[:2, :1], full[:2, :1], ["", ""]) == (0.0, pytest.approx(of_one_shift))
    assert measure.take(own[None, :2], full[None, :2], [""]) == (pytest.approx(of_one_shift / 2),)
    assert measure.take(9 * torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4), [""]) == (0.0,)
    assert measure.take(torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 4, 4), [""]) is None, "latents are no pictures"
    assert not measure.higher_is_better


def test_what_is_missing_is_told_with_how_to_get_it(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: weights by their file and a command, packages by what to install, and torch stays as it is."""
    (packages / "alexnet-1234.pth").unlink()
    (packages / "vgg16-1234.pth").unlink()
    said = load_measures(["lpips", "lpips:net=squeeze", "dists"])
    assert set(said.missing) == {"lpips", "dists"}
    assert f"the weights alexnet-1234.pth are not in {str(packages)!r}: python -c " in said.missing["lpips"]
    assert f"load_state_dict_from_url('{URL.format('vgg16')}')" in said.missing["dists"]
    install(monkeypatch, {"torchvision.models": None})
    assert f"pip install torchvision 'torch=={torch.__version__.partition('+')[0]}'" in load_measures(["lpips"]).missing["lpips"]
    install(monkeypatch, {"torchmetrics.image.lpip": None})
    with pytest.raises(MissingPackageError, match=r"pip install 'foreseer\[measures\]'"):
        load_measure("lpips")


def test_image_reward_is_asked_for_each_sample_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: it gets a picture and the words; without words, or broken, there is no number."""

    def load(name: str, *, device: str, med_config: str) -> Any:
        print("load checkpoint from", name)
        assert Path(med_config).name == "med_config.json"
        return SimpleNamespace(score=lambda words, image: len(words) + image.size[0] / 100 + image.getpixel((0, 0))[0])

    assert "pip install image-reward" in load_measures(["image_reward"]).missing["image_reward"]
    install(monkeypatch, {"ImageReward": {"load": load}})
    text = f"image_reward:folder={tmp_path}"
    (tmp_path / "ImageReward.pt").touch()
    assert f"med_config.json not in {str(tmp_path)!r}: hf download THUDM/ImageReward" in load_measures([text]).missing[text]
    (tmp_path / "med_config.json").touch()
    measure = load_measure(text)
    assert capsys.readouterr().out == ""
    own = torch.stack([-torch.ones(3, 4, 4), torch.ones(3, 4, 4), torch.full((3, 4, 4), math.nan), torch.ones(3, 4, 4)])
    found = measure.take(own, own, ["fox", "herons", "x", ""])
    assert found is not None
    assert found[:2] == (pytest.approx(3.04), pytest.approx(261.04))
    assert [math.isnan(value) for value in found] == [False, False, True, True]


def save_clip(folder: Path) -> Path:
    """A CLIP of two narrow layers with random weights, as ``from_pretrained`` reads it."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"), "<unk>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    narrow = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {**narrow, "vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config={**narrow, "image_size": 16, "patch_size": 8}, projection_dim=8)).save_pretrained(folder)
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("default")
def test_clip_score_is_of_a_picture_and_its_words(tmp_path: Path) -> None:
    """Law: 100 x the cosine of the model's embeddings, not below 0, whatever is beside it, and no reference."""
    from transformers import AutoModel, AutoProcessor

    folder = save_clip(tmp_path)
    measure = load_measure(f"clip_score:model={folder}")
    torch.manual_seed(1)
    own, words = torch.rand(4, 3, 20, 24) * 2 - 1, ["a fox", "two herons at night, and much more that does not fit", "a fox", ""]
    own[2] = math.nan
    found = measure.take(own, torch.full_like(own, math.nan), words)
    assert found is not None
    assert [math.isnan(value) for value in found] == [False, False, True, True]
    assert measure.take(own[:1], own[:1], words[:1]) == found[:1]
    pixels = ((own[:2] + 1) * 127.5).round().to(torch.uint8)
    given = AutoProcessor.from_pretrained(folder)(images=pixels, text=words[:2], return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        logits = AutoModel.from_pretrained(folder).eval()(**given)
    expected = 100 * torch.cosine_similarity(logits.image_embeds, logits.text_embeds).clamp(min=0)
    assert found[:2] == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_clip_model_that_is_not_here_is_told_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: nothing is downloaded by a benchmark."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *to: pytest.fail("it asks the network"))
    said = load_measures(["clip_score:model=some/clip"]).missing["clip_score:model=some/clip"]
    assert said == "'some/clip' is not on this machine: hf download some/clip, or write the folder of a CLIP model, model=FOLDER"
