"""The bundled DiT on Fashion-MNIST, its data and its recipe. Debian's package is not needed."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreseer import OptionError
from foreseer.bench.workload import load_workload
from foreseer.zoo import dit, fashion, load_fashion
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps
from foreseer.zoo.recipes import fashion as recipe
from foreseer.zoo.recipes.__main__ import main
from foreseer.zoo.recipes.fitting import Settings

TINY = {**fashion.CONFIG, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}


def idx(array):
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes(), 1)


def banded(labels, rng, side=28):
    pictures = rng.integers(0, 40, (len(labels), side, side)).astype(np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[2 * label : 2 * label + 4] = 255
    return pictures


def published(folder, train=60, held=20, side=28):
    """Write the four files with made-up pictures: noise, and a white band whose height is the class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", held)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pictures = banded(labels, rng, side)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(pictures))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return folder


# -- the data ------------------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(train=st.integers(1, 6), held=st.integers(1, 6))
def test_pictures_and_labels_come_back_as_they_were_published(tmp_path_factory, train, held):
    folder = published(tmp_path_factory.mktemp("data"), train, held)
    found = fashion.load_fashion_images(folder)
    assert [tuple(part.shape) for part in found] == [(train, 1, 28, 28), (train,), (held, 1, 28, 28), (held,)]
    assert [part.dtype for part in found] == [torch.float32, torch.int64] * 2
    assert found[1].tolist() == [index % 10 for index in range(train)]
    raw = banded(np.arange(train) % 10, np.random.default_rng(0))
    assert np.array_equal(((found[0][:, 0].numpy() + 1) * 127.5).round(), raw)


def test_black_and_white_are_the_ends_of_the_range(tmp_path):
    published(tmp_path, train=2)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(np.stack([np.zeros((28, 28)), np.full((28, 28), 255)]).astype(np.uint8)))
    images = fashion.load_fashion_images(tmp_path)[0]
    assert images[0].unique().tolist() == [-1]
    assert images[1].unique().tolist() == [1]


def test_missing_files_say_what_to_install(tmp_path):
    with pytest.raises(OptionError, match=r"train-images-idx3-ubyte\.gz does not exist; run `apt-get install dataset-fashion-mnist`"):
        fashion.load_fashion_images(tmp_path)


WHOLE = idx(np.zeros((3, 28, 28), np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        WHOLE[:-12],
        gzip.compress(b""),
        gzip.compress(gzip.decompress(WHOLE)[:-1]),
        gzip.compress(b"\0\0\x08\3\0\0"),
        idx(np.zeros(3, np.uint8)),
    ],
    ids=["empty", "not gzip", "cut off", "nothing in it", "a byte too few", "half a header", "labels"],
)
def test_a_file_that_is_broken_or_another_is_named(tmp_path, content):
    (published(tmp_path) / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(OptionError, match=r"t10k-images-idx3-ubyte\.gz is no gzip file of idx.*copy it again"):
        fashion.load_fashion_images(tmp_path)


def test_pictures_and_labels_must_be_as_many(tmp_path):
    (published(tmp_path) / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(59, np.uint8)))
    with pytest.raises(OptionError, match="60 images and 59 labels in its part 'train'"):
        fashion.load_fashion_images(tmp_path)


# -- the model -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return load_fashion()


def test_all_blocks_share_their_conditioning_and_no_tensor(model):
    assert not model.training
    first, *others = (block.norm1 for block in model.transformer_blocks)
    for other in others:
        assert torch.equal(other.linear.weight, first.linear.weight)
        assert not torch.equal(other.linear.bias, first.linear.bias)
        for name, tensor in first.emb.state_dict().items():
            assert torch.equal(other.emb.state_dict()[name], tensor), name
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)


def test_it_takes_the_dtype_that_was_asked_for():
    assert {parameter.dtype for parameter in load_fashion(dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_it_predicts_the_velocity(model):
    """In pure noise the velocity is the negative image: of each class the mean, whatever the noise."""
    noise = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).repeat_interleave(10, 0)
    classes = torch.arange(10).repeat(2)
    with torch.no_grad():
        means = -model(noise, torch.full((20,), 999), class_labels=classes).sample.unflatten(0, (2, 10))
    corners = means[..., :2, :2]
    assert corners.mean() < -0.8  # the background is black
    gaps = torch.cdist(*means.flatten(2))  # from the images of one noise to those of the other
    assert (gaps.argmin(1) == torch.arange(10)).sum() >= 9


def test_a_sample_of_each_class_is_unlike_the_others(model):
    noise = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).expand(10, -1, -1, -1)
    drawn = ddim_sample(model, noise, torch.arange(10), ddim_timesteps(12), guidance=1.5, prediction="v_prediction")
    assert drawn.isfinite().all()
    assert drawn.amin() > -2
    assert drawn.amax() < 2
    gaps = torch.cdist(drawn.flatten(1), drawn.flatten(1)) + 100 * torch.eye(10)
    assert gaps.min() > 2  # of 784 pixels; real pictures of one class are about 6 apart


# -- the recipe ----------------------------------------------------------------------------------------------------------------------------------------


def test_the_target_is_the_velocity_of_the_noise_that_was_added():
    images = torch.rand(64, 1, 28, 28) * 2 - 1
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    batch = images, torch.zeros(64, dtype=torch.int64)
    noisy, timesteps, _, noise = recipe.dit.noise_batch(*batch, draws[0])
    same, _, _, velocity = recipe.dit.noise_batch(*batch, draws[1], prediction="v_prediction")
    assert torch.equal(noisy, same)
    a = dit.alphas_cumprod()[timesteps].float().view(-1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * noisy - (1 - a).sqrt() * velocity, images, rtol=0, atol=1e-5)
    torch.testing.assert_close((1 - a).sqrt() * noisy + a.sqrt() * velocity, noise, rtol=0, atol=1e-5)


def test_the_model_that_ships_is_the_recipes_and_small():
    folder = fashion.Path(recipe.__file__).parent.parent / "dit_fashion"
    assert json.loads((folder / "config.json").read_text()) == fashion.CONFIG
    assert (folder / "weights.safetensors").stat().st_size < 8_000_000


def test_a_run_can_be_resumed_and_its_card_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(fashion, "FOLDER", published(tmp_path / "data", train=300, held=60))
    monkeypatch.setattr(recipe, "CONFIG", TINY)
    monkeypatch.setattr(recipe, "READING", Settings(steps=60, batch=32, lr=3e-3, average=0.0, eval_every=60))
    for steps in ("2", "4"):
        main(["train-fashion", "--out", str(tmp_path / "twice"), "--steps", steps, "--horizon", "4", "--batch", "4", "--eval-every", "2"])
    main(["train-fashion", "--out", str(tmp_path / "once"), "--steps", "4", "--horizon", "4", "--batch", "4", "--eval-every", "2"])
    assert (tmp_path / "twice" / "weights.safetensors").read_bytes() == (tmp_path / "once" / "weights.safetensors").read_bytes()
    capsys.readouterr()

    main(["card-fashion", "--model", str(tmp_path / "once"), "--per-class", "2", "--steps", "2"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["held_out_accuracy"] > 0.9  # of the made-up classes
    assert figures["accuracy"] < 0.5  # nothing was learnt in four steps
    text = (tmp_path / "once" / "card.md").read_text()
    assert "300 images were trained on; 60 were held out" in text
    assert "digit" not in text
    assert "Fashion-MNIST, H. Xiao" in text
    for picture in ("curve.png", "samples.png"):
        assert (tmp_path / "once" / picture).read_bytes().startswith(b"\x89PNG")


def test_every_other_sample_that_is_to_be_unlike_is_a_pair_of_trousers() -> None:
    drawn = load_workload("fashion_unlike", device="cpu", dtype="float32")
    assert drawn.words(range(8)) == ["trousers", "pullover", "trousers", "dress", "trousers", "shirt", "trousers", "bag"]
    alike = (
        drawn.draw([1], seed=3, num_steps=2, guidance=None),
        load_workload("fashion", device="cpu", dtype="float32").draw([1], seed=3, num_steps=2, guidance=None),
    )
    assert not torch.equal(*alike)  # the noise is the same, the class is not
