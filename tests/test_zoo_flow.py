"""The bundled FLUX-shaped and Wan-shaped models: stand-ins, data, recipes, weights, cards, and how they are accelerated."""

import csv
import json
import re
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
import foreseer.zoo
from foreseer.psnr import psnr
from foreseer.registry import parse_policy
from foreseer.zoo import dit, flux, load_classifier, load_flux, load_wan, moving, storing, wan
from foreseer.zoo.digits import load_digits
from foreseer.zoo.recipes import flux as flux_recipe
from foreseer.zoo.recipes import wan as wan_recipe
from foreseer.zoo.recipes.__main__ import RECIPES, main
from foreseer.zoo.recipes.card import read_log
from foreseer.zoo.recipes.fitting import Settings, fit, noised, without_some
from foreseer.zoo.standins import DIGITS, NO_DIGIT, DigitTable, DigitTokenizer, FoldedVideo, PixelImage, digit_of

TINY_FLUX = {
    **flux.CONFIG,
    "transformer": {
        **flux.CONFIG["transformer"],
        "num_layers": 2,
        "num_single_layers": 2,
        "num_attention_heads": 1,
        "attention_head_dim": 8,
        "axes_dims_rope": [2, 2, 4],
    },
}
TINY_WAN = {**wan.CONFIG, "transformer": {**wan.CONFIG["transformer"], "num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 12, "ffn_dim": 16}}
TINY = {"flux": TINY_FLUX, "wan": TINY_WAN}
TINY_DIT = {**dit.CONFIG, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3}
FOLDERS = {"flux": foreseer.zoo.ZOO / "flux_digits", "wan": foreseer.zoo.ZOO / "wan_digits"}
VIDEO = {"height": moving.SIDE, "width": moving.SIDE, "num_frames": moving.FRAMES, "max_sequence_length": 2}


@pytest.fixture(autouse=True)
def diffusers_own_warnings():
    """diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array")
        yield


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval().requires_grad_(False)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def pipes():
    return {"flux": quiet(load_flux()), "wan": quiet(load_wan())}


def call(name, prompts=DIGITS, *, steps, seed=0, **options):
    """The pictures or videos of one call, ``(B, ...)`` in [-1, 1]."""
    pipe = pipes()[name]
    settled = {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(seed), "output_type": "pt", "return_dict": False}
    shape = VIDEO if name == "wan" else {}
    return pipe(list(prompts), **{**settled, "guidance_scale": 3.5 if name == "flux" else 3.0, **shape, **options})[0] * 2 - 1


# -- stand-ins ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digit", "name"), list(enumerate(DIGITS)))
def test_a_prompt_names_a_digit_as_a_numeral_or_a_word(digit, name):
    for prompt in (str(digit), name, f"A handwritten {name.upper()}.", f"{digit}, that is {name}", f"the digit {digit}!"):
        assert digit_of(prompt) == digit


@pytest.mark.parametrize("prompt", ["", "  ", "?!"])
def test_an_empty_prompt_is_no_digit(prompt):
    assert digit_of(prompt) == NO_DIGIT


@pytest.mark.parametrize(
    ("prompt", "what"), [("a cat", "names no digit"), ("10", "names no digit"), ("someone", "names no digit"), ("3 or 4", "names 2 digits")]
)
def test_a_prompt_that_names_no_one_digit_is_refused(prompt, what):
    with pytest.raises(ValueError, match=f"prompt='{prompt}' {what}; .*write 0 to 9 or zero to nine"):
        digit_of(prompt)


@given(st.lists(st.sampled_from(["", *DIGITS]), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 4))
def test_every_digit_has_vectors_of_its_own_and_repeating_starts_over(prompts, length, times):
    once, repeated = DigitTokenizer(length)(prompts), DigitTokenizer(length, repeat=True)(prompts, max_length=length * times)
    assert torch.equal(once.input_ids // length, torch.tensor([[digit_of(prompt)] * length for prompt in prompts]))
    assert torch.equal(repeated.input_ids, once.input_ids.repeat(1, times))
    assert bool((repeated.attention_mask == 1).all())
    table = DigitTable(length=length, width=3, pooled=2)
    found = table(once.input_ids)
    assert torch.equal(found[0], found.last_hidden_state)
    assert found.last_hidden_state.shape == (len(prompts), length, 3)
    assert torch.equal(found.pooler_output, table.pooled[[digit_of(prompt) for prompt in prompts]])


def test_a_repeated_prompt_is_not_cut():
    with pytest.raises(ValueError, match=r"max_sequence_length=5 .*multiple of 2"):
        DigitTokenizer(2, repeat=True)("7", max_length=5)


@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))
def test_folding_a_video_loses_nothing(batch, pairs, rows, columns):
    video = torch.randn(batch, 1, 2 * pairs + 1, 2 * rows, 2 * columns)
    vae = FoldedVideo(mean=0.0, std=1.0)
    latents = vae.encode(video).latents
    assert latents.shape == (batch, vae.config.z_dim, pairs + 1, rows, columns)
    assert torch.equal(vae.decode(latents).sample, video)
    assert torch.equal(vae.decode(latents, return_dict=False)[0], video)


def test_a_video_that_does_not_fold_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 16, 16\).*odd number of frames"):
        FoldedVideo(mean=0.0, std=1.0).encode(torch.zeros(1, 1, 8, 16, 16))


def test_pixel_latents_are_the_pixels():
    images, vae = torch.randn(2, 1, 4, 4), PixelImage(shift=0.0, scale=1.0)
    assert vae.decode(vae.encode(images).latents, return_dict=False)[0] is images
    assert vae.decode(images).sample is images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stand_ins_know_where_they_are(dtype):
    for part in (DigitTable(length=2, width=3), PixelImage(shift=0.0, scale=1.0), FoldedVideo(mean=0.0, std=1.0)):
        assert part.to(dtype).dtype == dtype
        assert part.device == torch.device("cpu")


# -- data and noise ----------------------------------------------------------------------------------------------------------------------------------


def test_latents_of_both_have_mean_0_and_variance_1():
    digits = load_digits()[0]
    for latents in (flux_recipe.latents_of(digits), wan_recipe.latents_of(digits, torch.Generator().manual_seed(0))):
        assert abs(float(latents.mean())) < 0.05
        assert abs(float(latents.std()) - 1) < 0.05


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_a_moving_digit_stays_in_the_frame_and_does_not_jump(seed, frames):
    paths = moving.move(50, torch.Generator().manual_seed(seed), frames=frames)
    assert paths.shape == (50, frames, 2)
    assert paths.min() >= 0
    assert paths.max() <= moving.SIDE - moving.DIGIT
    assert frames == 1 or paths.diff(dim=1).norm(dim=2).max() <= 1.5 + 1e-5


def test_a_digit_on_whole_pixels_is_drawn_as_it_is_and_nothing_else():
    digits = load_digits()[2]
    corners = torch.randint(0, 5, (len(digits), 1, 2), generator=torch.Generator().manual_seed(0)).float()
    frames = moving.place(digits, corners)[:, 0, 0]
    centred = moving.place(digits, torch.full((len(digits), 1, 2), 2.0))[:, 0, 0]
    for frame, other, (row, column) in zip(frames, centred, corners[:, 0].int().tolist(), strict=True):
        window = frame[row : row + moving.DIGIT, column : column + moving.DIGIT]
        torch.testing.assert_close(window, other[2:-2, 2:-2], atol=1e-5, rtol=0)
        torch.testing.assert_close((frame + 1).sum(), (window + 1).sum())


def test_a_moving_digit_is_found_and_read():
    train, _, held, labels = load_digits()
    paths = moving.move(len(held), torch.Generator().manual_seed(0))
    videos = moving.place(held, paths)[:, 0]
    found, corners = moving.find(videos.flatten(0, 1)[:, None], train.mean(0))
    assert found.shape == (len(held) * moving.FRAMES, 1, 8, 8)
    assert ((corners - paths.flatten(0, 1)).abs().amax(1) <= 1).double().mean() > 0.9
    real = wan_recipe.judged(videos, labels)
    assert real["frames"] > 0.98
    assert real["moves"] == 1


def test_enlarged_digits_are_read_when_reduced():
    _, _, held, labels = load_digits()
    with torch.no_grad():
        assert float((load_classifier()(flux.shrink(flux.upscale(held))).argmax(1) == labels).double().mean()) > 0.98


@given(st.integers(0, 2**32), st.floats(0.5, 8))
def test_noised_data_lies_on_the_straight_path(seed, shift):
    data = torch.randn(64, 2, 3, dtype=torch.float64)
    noisy, sigmas, velocity = noised(data, torch.Generator().manual_seed(seed), shift=shift)
    assert bool(((sigmas >= 0) & (sigmas < 1)).all())
    torch.testing.assert_close(noisy - sigmas.view(-1, 1, 1) * velocity, data, atol=1e-6, rtol=0)


def test_higher_shift_means_higher_levels():
    levels = [noised(torch.zeros(1000, 1), torch.Generator().manual_seed(0), shift=shift)[1].mean() for shift in (0.5, 1.0, 3.0)]
    assert levels == sorted(levels)
    assert abs(float(levels[1]) - 0.5) < 0.05


def test_a_share_of_the_classes_is_dropped():
    dropped = without_some(torch.full((4000,), 7), torch.Generator().manual_seed(0), share=0.1)
    assert set(dropped.tolist()) == {7, NO_DIGIT}
    assert abs(float((dropped == NO_DIGIT).double().mean()) - 0.1) < 0.02


# -- the models in their pipelines -------------------------------------------------------------------------------------------------------------------


def test_flux_pipeline_calls_the_model_that_was_trained():
    """One Euler step from pure noise is noise minus velocity: packing, ids, embeddings, guidance and the scale of the timestep are those of the training."""
    model = randomised(flux.FluxDigits(TINY_FLUX))
    pipe = quiet(flux.pipeline(model))
    noise = torch.randn(2, 1, 16, 16)

    def packed(images):
        return pipe._pack_latents(images, 2, 1, 16, 16)

    out = pipe(["7", ""], num_inference_steps=1, guidance_scale=2.5, latents=packed(noise), output_type="latent").images
    velocity = model(noise, torch.ones(2), torch.tensor([7, NO_DIGIT]), torch.full((2,), 2.5))
    torch.testing.assert_close(out, packed(noise - velocity), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(velocity, model(noise, torch.ones(2), torch.tensor([7, NO_DIGIT]), torch.full((2,), 4.0)), atol=1e-4)


@pytest.mark.parametrize("length", [2, 226, 512])
def test_wan_pipeline_calls_the_model_that_was_trained(length):
    """At every length that prompts are padded to: to attend to two vectors many times over is to attend to them once."""
    model = randomised(wan.WanDigits(TINY_WAN))
    pipe = quiet(wan.pipeline(model))
    seen = []
    model.transformer.register_forward_hook(lambda *event: seen.append(event[1:]), with_kwargs=True)
    pipe(["7", ""], num_inference_steps=2, guidance_scale=2.0, generator=torch.Generator().manual_seed(0), **{**VIDEO, "max_sequence_length": length})
    assert len(seen) == 4  # with the prompt and without, twice
    for number, digits in enumerate([[7, NO_DIGIT], [NO_DIGIT, NO_DIGIT]] * 2):
        _, given_, out = seen[number]
        expected = model(given_["hidden_states"], given_["timestep"] / wan.TRAIN_TIMESTEPS, torch.tensor(digits))
        torch.testing.assert_close(out[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "shape"), [("flux", (2, 1, 16, 16)), ("wan", (2, 8, 5, 8, 8))])
def test_training_starts_from_the_identity(name, shape, monkeypatch):
    monkeypatch.setattr(RECIPES[name], "CONFIG", TINY[name])
    with torch.no_grad():
        more = [torch.ones(2)] if name == "flux" else []
        out = RECIPES[name].start()(torch.randn(shape), torch.rand(2), torch.tensor([1, 2]), *more)
    assert torch.equal(out, torch.zeros(shape))


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_are_small_float16_and_load_without_network(name, monkeypatch):
    from safetensors.torch import load_file

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    path = FOLDERS[name] / "weights.safetensors"
    assert path.stat().st_size <= 8_000_000
    stored = load_file(path)
    assert all(tensor.dtype == torch.float16 for tensor in stored.values())
    pipe = {"flux": load_flux, "wan": load_wan}[name]()
    assert not pipe.transformer.training
    assert not any(parameter.requires_grad for parameter in pipe.transformer.parameters())
    for part, key in ((pipe.transformer, "transformer"), (pipe.text_encoder, "text")):
        for parameter, tensor in part.state_dict().items():
            assert torch.equal(tensor, stored[f"{key}.{parameter}"].float())


@pytest.mark.parametrize("name", FOLDERS)
def test_models_load_in_another_dtype(name):
    pipe = {"flux": load_flux, "wan": load_wan}[name](dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in pipe.transformer.parameters()} == {torch.bfloat16}
    out = quiet(pipe)("7", num_inference_steps=1, output_type="pt", return_dict=False, **(VIDEO if name == "wan" else {}))[0]
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize(("name", "shape"), [("flux", (1, 16, 16, 1)), ("wan", (1, 9, 16, 16, 1))])
def test_a_bundled_pipeline_is_called_with_a_prompt_alone(name, shape):
    """Law: as its docs say, with nothing else, and as its own code is called, with sizes in their places."""
    pipe = pipes()[name]
    with foreseer.attach(pipe, "taylorseer", interval=4) as attached:
        found = pipe("7")
    assert len(attached.report.full_steps) < len(attached.report.outcomes)
    pictures = found.frames if name == "wan" else found.images
    drawn = np.stack([np.asarray(one) if name == "wan" else np.asarray(one)[..., None] for one in pictures])
    assert drawn.shape == shape
    if name == "wan":
        assert pipe("7", None, 32, 16, 5, 1).frames.shape == (1, 5, 32, 16, 1)


def test_pictures_and_videos_have_their_shapes():
    assert call("flux", ["7", ""], steps=1).shape == (2, 1, flux.SIDE, flux.SIDE)
    assert call("flux", ["7"], steps=1, height=8, width=24).shape == (1, 1, 8, 24)
    assert call("wan", ["7", ""], steps=1).shape == (2, moving.FRAMES, 1, moving.SIDE, moving.SIDE)
    assert pipes()["flux"]("7", num_inference_steps=1).images[0].mode == "L"


@pytest.mark.parametrize("name", FOLDERS)
def test_the_same_seed_gives_the_same_sample(name):
    one, other, third = (call(name, ["7"], steps=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, other)
    assert not torch.allclose(one, third, atol=0.1)


def test_flux_draws_the_digit_that_was_asked_for():
    samples = flux.shrink(torch.cat([call("flux", steps=12, seed=seed) for seed in range(4)]))
    with torch.no_grad():
        right = load_classifier()(samples).argmax(1) == torch.arange(10).repeat(4)
    assert float(right.double().mean()) >= 0.9


def test_flux_guidance_draws_towards_the_typical_digit():
    """Guidance is an input of the transformer, and it was taught what guidance does: samples of one class become more alike."""
    spreads = [flux_recipe.spread(call("flux", ["7"] * 8, steps=8, guidance_scale=scale)[None]) for scale in (1.0, 3.0, 5.0)]
    assert spreads == sorted(spreads, reverse=True)


def test_wan_moves_the_digit_that_was_asked_for():
    found = wan_recipe.judged(call("wan", steps=12)[:, :, 0], torch.arange(10))
    assert found["frames"] >= 0.85
    assert found["moves"] >= 0.85


# -- accelerated -------------------------------------------------------------------------------------------------------------------------------------

FLOORS = {
    "taylorseer:interval=4,max_order=1": 28,
    "taylorseer:interval=4,max_order=1,target=last_block": 28,
    "cg_taylor:threshold=0.1": 28,
    "speca:threshold=0.3": 28,
}
"""dB against full computation, at 20 steps."""


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("policy", FLOORS)
def test_policies_accelerate_both(name, policy):
    prompts = ["3", "7"]
    full = call(name, prompts, steps=20)
    with foreseer.attach(pipes()[name], parse_policy(policy)) as attached:
        found = call(name, prompts, steps=20)
    assert len(attached.reports) == (2 if name == "wan" else 1)  # Wan guides with a second call a step
    for report in attached.reports.values():
        assert len(report.outcomes) == 20
        assert report.block_rows_ratio < 0.9
    assert psnr(found.flatten(1), full.flatten(1)).min() > FLOORS[policy]
    assert torch.equal(call(name, prompts, steps=20), full)  # detached


# -- recipes -----------------------------------------------------------------------------------------------------------------------------------------


class Cut(Exception):  # noqa: N818 - not an error of the recipe
    """The training is cut off here."""


def states(*paths):
    found = [torch.load(path, weights_only=True) for path in paths]
    for state in found:
        del state["seconds"]
    return found


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))
def test_fit_cut_off_anywhere_ends_in_the_same_weights(tmp_path_factory, steps, cut, every):
    folder = tmp_path_factory.mktemp("fit")

    def start():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 1)

    def run(name, stop=None):
        calls = []

        def loss(model, images, labels, generator):
            calls.append(None)
            if len(calls) == stop:
                raise Cut
            return model(images + torch.randn(4, 3, generator=generator)).square().mean()

        chosen = {"steps": steps, "horizon": steps + 1, "eval_every": every, "batch": 4}
        numbers = Settings(**chosen, lr=0.1, warmup=2, average=0.9, seed=3)
        data = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(9)
        return fit(start(), loss, lambda model: 0.0, data=data, settings=numbers, out=folder, name=name)

    whole = run("whole")
    if cut <= steps:
        with pytest.raises(Cut):
            run("cut", stop=cut)
    again = run("cut")
    assert equal(dict(whole.state_dict()), dict(again.state_dict()))
    assert equal(*states(folder / "whole.pt", folder / "cut.pt"))
    assert read_log(folder / "cut_log.csv")[0].tolist() == read_log(folder / "whole_log.csv")[0].tolist()


@pytest.mark.parametrize(
    ("name", "stage", "cut"),
    [("classifier", "", 4), ("dit", "", 4), ("flux", "teacher-", 4), ("flux", "student-", 8), ("wan", "", 4)],
)
def test_a_recipe_that_is_cut_off_resumes_to_the_same_weights(name, stage, cut, tmp_path, monkeypatch, capsys):
    """Law: whatever the stage; and it tells how to write its card, with what differs from the defaults."""
    recipe = RECIPES[name]
    monkeypatch.setattr(dit, "CONFIG", TINY_DIT)
    if name in TINY:
        monkeypatch.setattr(recipe, "CONFIG", TINY[name])
    digits = [tensor[:20] for tensor in load_digits()]
    monkeypatch.setattr(recipe, "load_digits", lambda: digits)
    prefixes = [each and f"{each}-" for each in recipe.STAGES]
    values = {"steps": 4, "batch": 4, "eval-every": 2}
    flags = [word for prefix in prefixes for key, value in values.items() for word in (f"--{prefix}{key}", str(value))]
    assert stage in prefixes
    main([f"train-{name}", "--out", str(tmp_path / "whole"), *flags])
    assert f"train-{name} --out DIR {' '.join(flags)}'" in capsys.readouterr().out

    step, calls = torch.optim.AdamW.step, []

    def cut_off(*args):
        calls.append(None)
        if len(calls) == cut:
            raise Cut
        return step(*args)

    monkeypatch.setattr(torch.optim.AdamW, "step", cut_off)
    with pytest.raises(Cut):
        main([f"train-{name}", "--out", str(tmp_path / "cut"), *flags])
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    first = "teacher" if name == "flux" else "training"
    assert states(tmp_path / "cut" / f"{first}.pt")[0]["step"] == (4 if stage == "student-" else 2)
    torch.manual_seed(123)
    main([f"train-{name}", "--out", str(tmp_path / "cut"), *flags])
    for file in ("training.pt", "teacher.pt")[: len(prefixes)]:
        assert equal(*states(tmp_path / "whole" / file, tmp_path / "cut" / file))
    log = read_log(tmp_path / "cut" / "training_log.csv")
    assert log[0].tolist() == [2, 4]
    assert np.isfinite(log).all()
    weights = [(tmp_path / run / "weights.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_distillation_asks_the_teacher_for_its_guided_velocity():
    """A student that answers what the teacher's two calls give at its guidance has no loss; one that ignores guidance has some."""

    def teacher(noisy, sigmas, digits, guidance):
        return torch.where(digits == NO_DIGIT, 1.0, 3.0).view(-1, 1, 1, 1).expand_as(noisy)

    def student(noisy, sigmas, digits, guidance):
        return (1 + 2 * guidance).view(-1, 1, 1, 1).expand_as(noisy)

    given_ = torch.randn(8, 1, 16, 16), torch.arange(8)
    assert float(flux_recipe.distillation_loss(student, teacher, *given_, torch.Generator().manual_seed(0))) < 1e-10
    assert float(flux_recipe.distillation_loss(teacher, teacher, *given_, torch.Generator().manual_seed(0))) > 1


@pytest.mark.parametrize(("build", "config"), [(flux.FluxDigits, TINY_FLUX), (wan.WanDigits, TINY_WAN)], ids=list(FOLDERS))
def test_save_load_roundtrip_is_float16_rounding(tmp_path, build, config):
    model = randomised(build(config))
    storing.save(model, tmp_path / "new", config=config)
    loaded = storing.load(build, tmp_path / "new")
    assert loaded.config == config
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name


# -- cards -------------------------------------------------------------------------------------------------------------------------------------------


def table_widths(text):
    """How many cells each line of each table has."""
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    return [[line.count("|") - 1 for line in table.splitlines()] for table in tables]


@pytest.mark.parametrize("name", FOLDERS)
def test_card_names_what_ships(name):
    folder = FOLDERS[name]
    text = (folder / "card.md").read_text()
    pipe = pipes()[name]
    assert f"{sum(p.numel() for p in pipe.transformer.parameters()):,} in the transformer" in text
    assert f"{(folder / 'weights.safetensors').stat().st_size / 1e6:.2f} MB" in text
    log = read_log(folder / "training_log.csv")
    assert f"{log[0, -1]:,.0f} steps" in text
    assert f"{log[2, -1]:.4f} on held-out images" in text
    for picture in ("curve.png", "samples.png"):
        assert f"({picture})" in text
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert all(len(set(widths)) == 1 for widths in table_widths(text))
    assert f"`python -m foreseer.zoo.recipes train-{name} --out DIR`" in text


@pytest.mark.parametrize("name", FOLDERS)
def test_card_of_a_tiny_model(name, tmp_path, capsys):
    build = {"flux": flux.FluxDigits, "wan": wan.WanDigits}[name]
    storing.save(randomised(build(TINY[name])), tmp_path, config=TINY[name])
    for log in ("training_log.csv", "teacher_log.csv"):
        with (tmp_path / log).open("w", newline="") as file:
            csv.writer(file).writerows([["step", "train_loss", "held_out_loss", "seconds"], [2, 0.9, 0.8, 1], [4, 0.7, 0.6, 2], [4, 0.5, 0.4, 3]])
    main([f"card-{name}", "--model", str(tmp_path), "--per-class", "2", "--steps", "2"])
    figures = json.loads(capsys.readouterr().out)
    text = (tmp_path / "card.md").read_text()
    assert f"{(tmp_path / 'weights.safetensors').stat().st_size / 1e6:.2f} MB" in text
    assert figures["samples"] == 20
    assert "0.4000 on held-out images" in text  # the later of two lines for one step
    assert all(len(set(widths)) == 1 for widths in table_widths(text))
    for picture in ("curve.png", "samples.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_judged_tells_moving_digits_from_jumping_and_from_wrong_ones():
    _, _, held, labels = load_digits()
    paths = moving.move(50, torch.Generator().manual_seed(0))
    videos = moving.place(held[:50], paths)[:, 0]
    jumps = moving.place(held[:50], 4 * torch.randint(0, 2, paths.shape, generator=torch.Generator().manual_seed(0)))[:, 0]
    assert wan_recipe.judged(videos, (labels[:50] + 1) % 10)["frames"] < 0.05
    assert wan_recipe.judged(jumps, labels[:50])["moves"] < 0.6
    assert wan_recipe.judged(videos[:, :1].repeat(1, 4, 1, 1), labels[:50])["change"] == 0
