"""The bundled models, their recipes, and the sampler."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import foreseer.zoo
from foreseer import OptionError
from foreseer.zoo import dit, judge, load_classifier
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps
from foreseer.zoo.digits import HELD_OUT, load_digits
from foreseer.zoo.recipes import classifier as classifier_recipe
from foreseer.zoo.recipes import dit as dit_recipe
from foreseer.zoo.recipes.__main__ import main
from foreseer.zoo.recipes.card import memorisation, nearest, read_log
from foreseer.zoo.storing import load, save

TINY = {**dit.CONFIG, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3}


def randomised(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model


# -- digits ------------------------------------------------------------------------------------------------------------------------------------------


def test_digits_are_split_once_and_in_range():
    images, labels, held_images, held_labels = load_digits()
    assert images.shape == (1797 - HELD_OUT, 1, 8, 8)
    assert held_images.shape == (HELD_OUT, 1, 8, 8)
    everything = torch.cat([images, held_images])
    assert everything.min() == -1
    assert everything.max() == 1
    assert set(labels.tolist()) == set(held_labels.tolist()) == set(range(10))
    assert torch.equal(load_digits()[0], images)
    assert float(torch.cdist(held_images.flatten(1), images.flatten(1)).min()) > 0  # no image is in both parts


# -- classifier --------------------------------------------------------------------------------------------------------------------------------------


def test_classifier_reaches_the_accuracy_of_its_card():
    _, _, images, labels = load_digits()
    model = load_classifier()
    with torch.no_grad():
        right = int((model(images).argmax(1) == labels).sum())
    text = (foreseer.zoo.ZOO / "digits_classifier" / "card.md").read_text()
    said, of = map(int, re.search(r"(\d+) of (\d+) held-out images", text).groups())
    assert of == len(images)
    assert abs(right - said) <= 1  # one image may fall the other way in another machine's rounding
    assert right / of >= 0.97


def test_classifier_is_small_frozen_in_eval_mode_and_deterministic():
    folder = foreseer.zoo.ZOO / "digits_classifier"
    assert (folder / "weights.safetensors").stat().st_size < 1_000_000
    images = load_digits()[2]
    one, other = load_classifier(), load_classifier()
    assert not one.training
    with torch.no_grad():
        assert torch.equal(one(images), other(images))
        assert torch.equal(one.head(one.features(images)), one(images))
        assert one.features(images).shape == (len(images), judge.CONFIG["feature_size"])


def test_classifier_loads_without_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    load_classifier()


def test_classifier_is_not_sure_of_noise():
    found = classifier_recipe.evaluate(load_classifier())["confidence"]
    assert found["held out digits"]["mean"] > 0.9
    assert found["gaussian noise"]["p99"] < 0.3
    assert found["uniform noise"]["p99"] < 0.3  # never shown in training
    assert found["shuffled pixels"]["mean"] < 0.3  # never shown in training


def test_classifier_save_load_roundtrip(tmp_path):
    config = {"width": 4, "feature_size": 6}
    model = judge.DigitClassifier(**config).eval()
    save(model, tmp_path / "new", config=config, dtype=torch.float32)
    loaded = load(lambda config: judge.DigitClassifier(**config), tmp_path / "new")
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_classifier_names_a_wrong_shape():
    with pytest.raises(ValueError, match=r"\(2, 1, 16, 16\).*\(B, 1, 8, 8\)"):
        load_classifier()(torch.zeros(2, 1, 16, 16))


def test_augmentation_keeps_range_and_background():
    generator = torch.Generator().manual_seed(0)
    images = load_digits()[0][:64]
    moved = classifier_recipe.augment(images, generator)
    assert moved.shape == images.shape
    assert moved.min() >= -1
    assert moved.max() <= 1
    blank = classifier_recipe.augment(torch.full((64, 1, 8, 8), -1.0), generator)
    assert blank.max() < -1 + 6 * classifier_recipe.MAX_NOISE  # only noise: what comes in from outside is background too


# -- DiT ---------------------------------------------------------------------------------------------------------------------------------------------


def test_dit_roundtrip_is_float16_rounding_and_shares_no_tensor(tmp_path):
    model = dit.build(TINY)
    dit.share_conditioning(model)
    randomised(model)
    path = save(model, tmp_path / "new", config=TINY, stored_as=dit.stored_as)
    loaded = load(dit.build, tmp_path / "new", stored_as=dit.stored_as)
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name

    pointers = [p.data_ptr() for p in loaded.parameters()]
    assert len(set(pointers)) == len(pointers)
    first, last = (loaded.transformer_blocks[i].norm1.linear for i in (0, -1))
    assert torch.equal(first.weight, last.weight)
    assert not torch.equal(first.bias, last.bias)  # each block keeps a bias of its own

    from safetensors.torch import load_file

    stored = load_file(path)
    shared = [name for name in stored if ".norm1.emb." in name or name.endswith("norm1.linear.weight")]
    assert shared
    assert all(name.startswith("transformer_blocks.0.") for name in shared)
    assert all(tensor.dtype == torch.float16 for tensor in stored.values())
    assert len(stored) < len(model.state_dict())


def test_dit_computes_the_same_shared_and_unshared(tmp_path):
    model = dit.build(TINY)
    dit.share_conditioning(model)
    randomised(model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    save(model, tmp_path, config=TINY, stored_as=dit.stored_as)
    loaded = load(dit.build, tmp_path, stored_as=dit.stored_as)
    inputs = torch.randn(4, 1, 8, 8), torch.tensor([0, 10, 500, 999])
    with torch.no_grad():
        one, other = (m(*inputs, class_labels=torch.tensor([0, 3, 9, dit.NULL_CLASS])).sample for m in (model, loaded))
    assert torch.equal(one, other)


def test_dit_starts_as_adaln_zero(monkeypatch):
    monkeypatch.setattr(dit, "CONFIG", TINY)
    model = dit_recipe.start()
    with torch.no_grad():
        out = model(torch.randn(2, 1, 8, 8), torch.tensor([1, 900]), class_labels=torch.tensor([1, 2])).sample
    assert torch.equal(out, torch.zeros_like(out))


def test_noise_batch_is_the_forward_process():
    images, labels = torch.ones(4000, 1, 8, 8), torch.full((4000,), 7)
    noisy, timesteps, classes, noise = dit_recipe.noise_batch(images, labels, torch.Generator().manual_seed(0), drop_labels=0.1)
    a = dit.alphas_cumprod()[timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy.double(), a.sqrt() * images + (1 - a).sqrt() * noise, rtol=1e-5, atol=1e-6)
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    dropped = (classes == dit.NULL_CLASS).double().mean()
    assert abs(float(dropped) - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 4000)
    assert ((classes == 7) | (classes == dit.NULL_CLASS)).all()


# -- recipes -----------------------------------------------------------------------------------------------------------------------------------------


def test_full_size_dit_fits_in_8_mb(tmp_path):
    assert save(dit.build(), tmp_path, config=dit.CONFIG, stored_as=dit.stored_as).stat().st_size < 8_000_000
    assert load(dit.build, tmp_path, stored_as=dit.stored_as).config.num_layers == dit.CONFIG["num_layers"]


def test_card_of_a_tiny_model(tmp_path, capsys):
    save(randomised(dit.build(TINY)), tmp_path, config=TINY, stored_as=dit.stored_as)
    (tmp_path / "training_log.csv").write_text("step,train_loss,held_out_loss,seconds\n2,0.9,0.8,1\n4,0.7,0.6,2\n4,0.5,0.4,3\n")
    main(["card-dit", "--model", str(tmp_path), "--per-class", "2", "--steps", "2"])
    figures = json.loads(capsys.readouterr().out)
    text = (tmp_path / "card.md").read_text()
    assert figures["samples"] == 20
    assert "0.4000 on held-out images" in text  # the later of two lines for one step
    assert figures["frechet"]["samples_to_train"] > figures["frechet"]["held_out_to_train"] > 0
    assert f"{(tmp_path / 'weights.safetensors').stat().st_size / 1e6:.2f} MB" in text
    assert "20 samples" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 3
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    for picture in ("curve.png", "samples.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_card_measures_tell_copies_from_fresh_images():
    train, _, held, _ = load_digits()
    copies, fresh, rest = train[:200], held[:150], held[150:]
    assert nearest(copies, train)[0].max() < 0.02  # cdist rounds
    assert nearest(fresh, train)[0].min() > 0.5
    assert memorisation(copies, train, rest)["train_share"] == 1
    expected = len(train) / (len(train) + len(rest))
    assert memorisation(fresh, train, rest)["train_share"] == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 150))


def test_card_says_what_is_missing(tmp_path):
    with pytest.raises(OptionError, match=r"copy training_log\.csv"):
        read_log(tmp_path / "training_log.csv")


# -- sampler -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 250, 1000])
def test_timesteps_are_spread_over_the_whole_range(count):
    steps = ddim_timesteps(count)
    assert len(steps) == len(set(steps)) == count
    assert steps[0] == 999
    assert count == 1 or steps[-1] == 0
    gaps = -np.diff(steps)
    assert count == 1 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_no_timesteps_is_an_error():
    with pytest.raises(ValueError, match="num_steps=0"):
        ddim_timesteps(0)


class Toy(torch.nn.Module):
    """A model whose noise prediction is a function of x, the timestep and whether there is a class."""

    def __init__(self, predict):
        super().__init__()
        self.predict, self.calls = predict, []

    def forward(self, x, timesteps, class_labels):
        self.calls.append((timesteps.clone(), class_labels.clone()))
        return SimpleNamespace(sample=self.predict(x, timesteps, class_labels))


def test_ddim_with_zero_noise_predicted_only_rescales():
    steps = ddim_timesteps(20)
    noise = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    model = Toy(lambda x, t, c: torch.zeros_like(x))
    out = ddim_sample(model, noise, torch.tensor([0, 5, 9]), steps)
    torch.testing.assert_close(out, noise / dit.alphas_cumprod()[999].sqrt(), rtol=1e-10, atol=0)
    assert [int(t[0]) for t, _ in model.calls] == steps
    assert model.calls[0][1].tolist() == [0, 5, 9, 10, 10, 10]  # conditional rows first


@pytest.mark.parametrize("count", [1, 5, 50])
def test_ddim_with_the_true_noise_returns_the_clean_image(count):
    clean, noise = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
    schedule = dit.alphas_cumprod()

    def true_noise(x, t, c):
        a = schedule[t].view(-1, 1, 1, 1)
        return (x - a.sqrt() * torch.cat([clean, clean])) / (1 - a).sqrt()

    start = schedule[999].sqrt() * clean + (1 - schedule[999]).sqrt() * noise
    out = ddim_sample(Toy(true_noise), start, torch.tensor([1, 2]), ddim_timesteps(count))
    torch.testing.assert_close(out, clean, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [1, 5, 50])
def test_ddim_with_the_true_velocity_turns_by_the_angle_between_noise_levels(count):
    clean, noise = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
    schedule = dit.alphas_cumprod()

    def true_velocity(x, t, c):
        a = schedule[t].view(-1, 1, 1, 1)
        return a.sqrt() * torch.cat([noise, noise]) - (1 - a).sqrt() * torch.cat([clean, clean])

    start = schedule[999].sqrt() * clean + (1 - schedule[999]).sqrt() * noise
    out = ddim_sample(Toy(true_velocity), start, torch.tensor([1, 2]), ddim_timesteps(count), prediction="v_prediction")
    torch.testing.assert_close(out, clean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_noise_and_velocity_of_one_model_draw_the_same(guidance):
    schedule = dit.alphas_cumprod()

    def velocity(x, t, c):
        return torch.sin(x) * (1 + c.view(-1, 1, 1, 1)) / 10 + t.view(-1, 1, 1, 1) / 2000

    def same_as_noise(x, t, c):
        a = schedule[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x + a.sqrt() * velocity(x, t, c)

    noise, labels, steps = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 5, 9]), ddim_timesteps(12)
    one = ddim_sample(Toy(velocity), noise, labels, steps, guidance=guidance, prediction="v_prediction")
    other = ddim_sample(Toy(same_as_noise), noise, labels, steps, guidance=guidance)
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_an_unknown_prediction_is_an_error():
    with pytest.raises(OptionError, match=r"prediction='v'.*'epsilon', 'v_prediction'"):
        ddim_sample(Toy(lambda x, t, c: x), torch.zeros(1, 1, 8, 8), torch.tensor([3]), [999], prediction="v")


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 4.0])
def test_guidance_extrapolates_from_unconditional_to_conditional(guidance):
    model = Toy(lambda x, t, c: torch.where(c == dit.NULL_CLASS, 0.25, 0.75).double().view(-1, 1, 1, 1).expand_as(x))
    out = ddim_sample(model, torch.zeros(1, 1, 8, 8, dtype=torch.float64), torch.tensor([3]), [999], guidance=guidance)
    a = dit.alphas_cumprod()[999]
    expected = -(1 - a).sqrt() * (0.25 + guidance * 0.5) / a.sqrt()
    torch.testing.assert_close(out, expected.expand_as(out), rtol=1e-12, atol=0)


def test_ddim_uses_the_first_channel_only():
    model = Toy(lambda x, t, c: torch.cat([torch.zeros_like(x), torch.full_like(x, 9.0)], 1))
    noise = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    out = ddim_sample(model, noise, torch.tensor([3]), ddim_timesteps(4))
    torch.testing.assert_close(out, noise / dit.alphas_cumprod()[999].sqrt(), rtol=1e-10, atol=0)
