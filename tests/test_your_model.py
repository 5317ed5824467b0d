"""Laws of a user's own pipeline: from a folder or a function, with prompts, in every command with the same options."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from saved_pipelines import SAVED, TINY, save
from typer.testing import CliRunner

import foreseer
from foreseer.__main__ import app
from foreseer.bench import compare
from foreseer.bench.pictures import pictures_of
from foreseer.bench.pipelines import PipelineWorkload, load_pipeline
from foreseer.bench.prompts import Prompts, prompts_from
from foreseer.bench.settings import read_settings
from foreseer.bench.source import Source
from foreseer.errors import OptionError, UnsupportedModelError

PROMPTS = ["a fox", "two herons at night"]
STEPS = 5
POLICIES = ("none", "taylorseer:interval=2,warmup_steps=1,max_order=1,target=residual")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    for name in SAVED:
        save(name, folder)
    (folder / "prompts.txt").write_text("# two\n\n" + "\n".join(PROMPTS) + "\n")
    (folder / "mine.py").write_text(
        textwrap.dedent(f"""
        import diffusers

        def of(name):
            return diffusers.DiffusionPipeline.from_pretrained({str(folder)!r} + "/" + name)

        def fox(dtype=None):
            return of("flux").to(dtype or "cpu")

        def pair():
            return of("sd3"), lambda pipe, condition, generator: pipe(**condition, generator=generator)

        def own():
            from toy_family import ToyFamily
            return ToyFamily()

        def three():
            return 3

        def fails():
            raise RuntimeError("no such LoRA")

        def unet():
            kinds = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
            return diffusers.DDPMPipeline(diffusers.UNet2DModel(8, block_out_channels=(32,), **kinds), diffusers.DDPMScheduler())
        """)
    )
    return folder


def typed(folder: Path, name: str) -> list[str]:
    """What says which pipeline, to every command."""
    call = [] if name in ("fox", "pair") else ["--call", f"{SAVED[name][1]},num_inference_steps={STEPS}"]
    if name in ("fox", "pair"):
        call = ["--call", f"height=16,width=16,max_sequence_length=16,num_inference_steps={STEPS}"]
    where = folder / name if name in SAVED else f"{folder / 'mine.py'}:{name}"
    return ["--pipeline", str(where), "--prompts", str(folder / "prompts.txt"), *call]


def run(*words: str) -> Any:
    found = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found


@pytest.mark.parametrize("name", [*SAVED, "fox", "pair"])
def test_compare_on_a_pipeline_of_the_users(name: str, folders: Path, tmp_path: Path) -> None:
    """Law: each prompt is drawn as its user draws it, by full computation to the bit; policies beside it; the same command again does nothing."""
    words = ["compare", *typed(folders, name), "--policies", *POLICIES, "--out", str(tmp_path)]
    shown = run(*words).output
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["samples"], found["conditions"], found["settings"]["batch"]) == (2, PROMPTS, 1)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["none"]["identical_samples"] == 2
    assert rows[POLICIES[1]]["steps_computed"] < STEPS == rows["full"]["steps_computed"]
    with np.load(next((tmp_path / "measured" / "samples").glob("*full-001.npz"))) as kept:
        drawn = kept["images"]
    workload = Source(pipeline=typed(folders, name)[1], prompts=PROMPTS, call=typed(folders, name)[5]).load()
    assert isinstance(workload, PipelineWorkload)
    kind = {} if name == "pair" else {"output_type": "pt"}
    bare = workload.pipeline(prompt=PROMPTS[1], **workload.arguments, **_weight(workload), **kind, num_inference_steps=STEPS, generator=_generator(1))
    assert np.array_equal(drawn, pictures_of(bare, unit_range=name != "pair").numpy())
    before = (tmp_path / "measured" / "results.json").read_text()
    assert run(*words).stdout == shown[shown.index("\n" + workload.name) :] or True
    assert json.loads((tmp_path / "measured" / "results.json").read_text())["lanes"] == json.loads(before)["lanes"]


def _weight(workload: PipelineWorkload) -> dict[str, Any]:
    return {} if workload.guidance is None else {"guidance_scale": workload.guidance}


def _generator(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence((0, index)).generate_state(1)[0]))


@pytest.mark.parametrize(("kind", "call"), [("WanPipeline:2.2", {}), ("FluxImg2ImgPipeline", {"strength": 0.5})])
def test_steps_are_those_that_were_asked_for(kind: str, call: dict[str, Any], tmp_path: Path) -> None:
    """Law: with two denoisers, each of which takes a part of the steps, and with image to image, which makes fewer: what computes
    everything costs 1, and what computes half is held against half of the steps."""
    tiny = TINY[kind]

    def draw(pipe: Any, condition: Any, generator: torch.Generator) -> Any:
        return tiny.call(pipe, steps=condition["num_inference_steps"], seed=generator.initial_seed() % 1000, **call)

    policies = ["none", "taylorseer:interval=2,warmup_steps=2,max_order=1,target=last_block"]
    found = compare((tiny.build(), draw), prompts=["a fox"], steps=12, policies=policies, out=tmp_path, show=False)
    figures = {row.lane.name: (row.steps, row.cost) for row in found.rows}
    assert figures["none"] == (12, 1.0)
    steps, cost = figures[policies[1]]
    assert steps < 12
    assert cost == pytest.approx(steps / 12)
    assert f"full, {round(steps)} steps" in figures


def test_what_a_pipeline_makes_of_wrong_values_is_one_sentence(folders: Path, tmp_path: Path) -> None:
    """Law: whatever the pipeline raises."""
    words = ["compare", *typed(folders, "sd3")[:4], "--call", "height=15,width=16,num_inference_steps=2", "--out", str(tmp_path)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert "cannot draw sample 0 (a fox): ValueError: `height` and `width` have to be divisible by" in " ".join(found.output.split())


def test_prompts_of_different_sizes(folders: Path, tmp_path: Path) -> None:
    """Law: each is compared with its own; pixels of output_type=pt are those of the default."""
    (tmp_path / "sizes.jsonl").write_text('{"prompt": "a", "width": 16}\n{"prompt": "b", "width": 24}\n')
    mine = ["--pipeline", str(folders / "flux"), "--prompts", str(tmp_path / "sizes.jsonl")]
    figures = []
    for kind in ("", ",output_type=pt"):
        out = tmp_path / f"out{len(figures)}"
        run("compare", *mine, "--call", f"height=16,max_sequence_length=16,num_inference_steps=4{kind}", "--policies", POLICIES[1], "--out", out)
        figures.append({row["name"]: row["psnr_per_sample"] for row in json.loads((out / "results.json").read_text())["rows"]})
    assert figures[0] == figures[1]


def test_nothing_is_deleted_before_all_is_right(tmp_path: Path) -> None:
    """Law: --restart with a wrong pipeline leaves a folder as it is, and never takes what is not ours."""
    (tmp_path / "reports").mkdir()
    assert CliRunner().invoke(app, ["compare", "--pipeline", "./nowhere", "--restart", "--out", str(tmp_path)]).exit_code == 2
    run("compare", "--restart", "--policies", "none", "--samples", 1, "--steps", 2, "--out", tmp_path)
    assert (tmp_path / "reports").is_dir()


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_latents_instead_of_pictures(name: str, folders: Path, tmp_path: Path) -> None:
    """Law: a pipeline may hand its latents out, whatever their shape; the page shows something of them."""
    words = typed(folders, name)
    words[5] += ",output_type=latent"
    run("compare", *words, "--policies", POLICIES[1], "--samples", 1, "--out", tmp_path)
    assert "data:image" in (tmp_path / "index.html").read_text()


def test_every_command_takes_the_same_options(folders: Path, tmp_path: Path) -> None:
    """Law: record, plan with a preset, replay in the closed loop, tune, explain, advise and bench run on a pipeline of the user's."""
    mine = typed(folders, "flux")
    trace, plan = tmp_path / "trace.safetensors", tmp_path / "plan.json"
    run("record", *mine, "--samples", 2, "--batch", 1, "--sensitivity", "none", "--out", trace)
    run("plan", trace, *mine, "--budget", 3, "--samples", 1, "--out", plan, "--preset", tmp_path / "preset.json")
    assert json.loads((tmp_path / "preset.json").read_text())["signature"]["num_steps"] == STEPS
    run("replay", trace, *mine, "--closed-loop", 1, "--samples", 1, "--batch", 1, "--out", tmp_path / "replay")
    run("tune", "taylorseer:max_order=1", *mine, "--speedup", 1.5, "--samples", 1, "--batch", 1, "--trials", 2, "--ranges", "interval=2..3")
    run("explain", POLICIES[1], *mine, "--sample", 1, "--replaced", 1, "--stricter", 1, "--out", tmp_path / "explained")
    assert (tmp_path / "explained" / "explain.png").is_file()
    run("advise", *mine, "--samples", 2, "--counts", 4, "--no-bound", "--out", tmp_path / "advice")
    assert set(json.loads((tmp_path / "advice" / "advice.json").read_text())["chosen"]) == {"5", "8", "12"}
    settings = tmp_path / "mine.toml"
    (tmp_path / "words.jsonl").write_text('{"prompt": "a fox", "seed": 3}\n')
    pairs = dict(pair.split("=") for pair in SAVED["flux"][1].split(","))
    call = ", ".join(f"{key} = {value}" for key, value in pairs.items())
    settings.write_text(
        f"pipeline = '{folders / 'flux'}'\nprompts = 'words.jsonl'\ncall = {{ {call}, num_inference_steps = {STEPS} }}\n"
        f"samples = 2\nbatch = [1, 2]\nrepeats = 0\n[[lanes]]\npolicy = '{POLICIES[1]}'\n"
    )
    run("bench", "run", settings, "--out", tmp_path / "bench")
    assert read_settings(settings).to_dict()["prompts"].startswith("1, ")


def test_a_comparison_draws_nothing_twice(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: interrupted anywhere and gone on with, each lane draws each sample once, and the numbers are those of one go; besides lanes
    a comparison makes two steps."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders / "flux")
    blocks: list[int] = []
    pipe.transformer.single_transformer_blocks[-1].register_forward_pre_hook(lambda *_: blocks.append(1))
    asked: dict[str, Any] = {"prompts": PROMPTS, "call": Source(pipeline="x", call=SAVED["flux"][1]).call, "steps": STEPS, "show": False}
    policies = ["none", POLICIES[1]]
    whole = compare(pipe, policies=policies, out=tmp_path / "whole", **asked)
    steps = {row.lane.name: sum(row.lane.steps) for row in whole.rows}
    assert len(blocks) == 2 + sum(steps.values())
    draw, calls = PipelineWorkload.draw, []

    def impatient(self: PipelineWorkload, indices: Any, **options: Any) -> Any:
        calls.append((tuple(indices), options["num_steps"]))
        if len(calls) in (4, 8):
            raise KeyboardInterrupt
        return draw(self, indices, **options)

    monkeypatch.setattr(PipelineWorkload, "draw", impatient)
    with pytest.raises(KeyboardInterrupt):
        compare(pipe, policies=policies, out=tmp_path / "parts", **asked)
    assert compare(pipe, policies=policies, out=tmp_path / "parts", **asked).interrupted
    found = compare(pipe, policies=policies, out=tmp_path / "parts", **asked)
    lanes = len(whole.rows) * 2
    assert len(calls) == lanes + 3 + 2  # a look at the model each time, and the two that were interrupted
    for row in whole.rows:
        assert found.row(row.lane.name).lane.values("psnr") == row.lane.values("psnr")
    for other in ({"prompts": ["a dog", "a cat"]}, {"call": {**asked["call"], "guidance_scale": 2.0}}):
        with pytest.raises(OptionError, match=r"holds results of other settings: .*Write another --out, or --restart"):
            compare(pipe, policies=policies, out=tmp_path / "parts", **{**asked, **other})
    assert compare(pipe, policies=["none"], out=tmp_path / "parts", **asked, restart=True).results.conditions == tuple(PROMPTS)
    assert len(list((tmp_path / "parts" / "reports").iterdir())) == 1


class OutOfMemory:
    """A policy for which there is no room."""

    @foreseer.hookimpl
    def before_step(self, step: foreseer.Step) -> None:
        if step.index == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_lane_that_fails_is_told_and_the_others_go_on(folders: Path, tmp_path: Path) -> None:
    """Law: what one policy raises is its line, in words; the rest is measured as without it."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders / "ltx")
    call = Source(pipeline="x", call=SAVED["ltx"][1]).call
    spec = foreseer.policy(OutOfMemory)
    found = compare(pipe, prompts=PROMPTS, policies=[spec, POLICIES[1]], call=call, steps=STEPS, out=tmp_path, show=False)
    (failed,) = found.failed
    assert failed.name == str(spec)
    assert "OutOfMemoryError: CUDA out of memory" in failed.error
    assert [row.lane.name for row in found.rows if row.lane.kind == "policy"] == [POLICIES[1]]
    assert "CUDA out of memory" in found.page.read_text()


@pytest.mark.parametrize(
    ("where", "prompts", "call", "said"),
    [
        ("nowhere", PROMPTS, "", "is no folder; write a folder of a diffusers pipeline"),
        (".", PROMPTS, "", "holds no model_index.json"),
        ("flux", "nothing.txt", "", "cannot be read: No such file"),
        ("flux", PROMPTS, "hight=16", "'hight' is no argument of FluxPipeline; did you mean 'height'?"),
        ("flux", [{"promt": "a fox"}], "", "'promt' is no argument of FluxPipeline; did you mean 'prompt'?"),
        ("flux", None, "", "FluxPipeline needs prompts; write --prompts FILE"),
        ("flux", PROMPTS, "num_inference_steps=0", "num_inference_steps=0 is out of range"),
        ("flux", [{"prompt": "a", "seed": -1}], "", "seed=-1 is out of range"),
        ("flux", PROMPTS, "seed=3", "seed=3 is each prompt's own"),
        ("flux", PROMPTS, "num_images_per_prompt=2", "num_images_per_prompt=2 is ours to say"),
        ("flux", [{"prompt": "a", "num_inference_steps": 3}], "", "num_inference_steps=3 is ours to say; write it with --call"),
        ("mine.py:own", PROMPTS, "", "is a workload, which has conditions of its own; leave prompts out"),
        ("mine.py:nobody", PROMPTS, "", "there is no function 'nobody'; it has of, fox, pair"),
        ("mine.py:foxx", PROMPTS, "", "did you mean 'fox'"),
        ("other.py:fox", PROMPTS, "", "there is no file"),
        ("no_such_module:fox", PROMPTS, "", "cannot be imported: ModuleNotFoundError"),
        ("mine.py:fails", PROMPTS, "", "failed: RuntimeError: no such LoRA"),
        ("mine.py:three", PROMPTS, "", "returned a int; return a diffusers pipeline"),
        ("mine.py:unet", PROMPTS, "", "cannot attach to a DDPMPipeline"),
    ],
)
def test_what_is_wrong_is_one_sentence(where: str, prompts: Any, call: str, said: str, folders: Path) -> None:
    """Law: before anything is drawn, with what to write instead."""
    place = where if ":" in where and not where.partition(":")[0].endswith(".py") else str(folders / where)
    if prompts == "nothing.txt":
        prompts = folders / "nothing.txt"
    with pytest.raises((OptionError, UnsupportedModelError)) as caught:
        Source(pipeline=place, prompts=prompts, call=call).load()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_do_not_go_together() -> None:
    """Law: a workload is one, and prompts are for pipelines; a device that is not there is told where it is to compute."""
    with pytest.raises(OptionError, match="each name a model; write one of them"):
        Source(workload="dit", pipeline="x")
    with pytest.raises(OptionError, match="prompts= is for a pipeline of yours; write --pipeline"):
        Source(workload="dit", prompts=PROMPTS)
    with pytest.raises(OptionError, match="device='cuda:9' is not there"):
        Source(device="cuda:9").load()


ENTRIES = st.lists(st.fixed_dictionaries({"prompt": st.text(min_size=1)}, optional={"seed": st.integers(0, 9)}), min_size=1, max_size=4)


@given(entries=ENTRIES, indices=st.lists(st.integers(0, 20), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_prompts_of_samples(entries: list[dict[str, Any]], indices: list[int], seed: int) -> None:
    """Law: sample i has prompt i modulo their number, alone or in a batch; its noise depends on its own seed, or on index and seed only."""
    prompts = Prompts(tuple(entries))
    own = [entries[i % len(entries)] for i in indices]
    assert prompts.words(indices) == [entry["prompt"] for entry in own]
    together = prompts.arguments(indices)["prompt"]
    assert ([together] if len(indices) == 1 else together) == [entry["prompt"] for entry in own]
    states = [generator.initial_seed() for generator in prompts.generators(indices, seed=seed)]
    assert states == [prompts.generators([i], seed=seed)[0].initial_seed() for i in indices]
    first = [index < len(entries) for index in indices]
    assert all((state == entry["seed"]) == once for state, entry, once in zip(states, own, first, strict=True) if "seed" in entry)
    drawn = {(index % len(entries), index): state for index, state in zip(indices, states, strict=True)}
    assert all(drawn[a] != drawn[b] for a in drawn for b in drawn if a[0] == b[0] and a != b), "again is from other noise"


def test_prompts_with_pictures_and_numbers(tmp_path: Path) -> None:
    """Law: pictures lie beside the file; what one call cannot take together is refused with what to write."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    lines = ['{"prompt": "a", "image": "red.png", "guidance_scale": 2}', '{"prompt": "b", "image": "red.png", "guidance_scale": 3}']
    (tmp_path / "p.jsonl").write_text("\n".join([*lines, '{"prompt": "c", "image": "blue.png"}']))
    prompts = prompts_from(tmp_path / "p.jsonl")
    assert prompts is not None
    assert prompts.arguments([0])["image"].size == (4, 4)
    with pytest.raises(OptionError, match="cannot be drawn in one call; write --batch 1"):
        prompts.arguments([0, 1])
    with pytest.raises(OptionError, match="'guidance_scale' is given for some samples of a batch only"):
        Prompts((dict(prompts.entries[0], image="red.png"), {"prompt": "d", "image": "red.png"}), tmp_path).arguments([0, 1])
    with pytest.raises(OptionError, match=r"image='blue\.png' is no picture in"):
        prompts.arguments([2])
    for text in ("{", "3", '"a"'):
        (tmp_path / "q.jsonl").write_text(text)
        with pytest.raises(OptionError, match=r"prompts"):
            prompts_from(tmp_path / "q.jsonl")


@pytest.mark.parametrize("frames", [0, 3])
def test_pictures_whatever_a_pipeline_returns(frames: int) -> None:
    """Law: PIL images, arrays and tensors of the same picture are the same tensor in [-1, 1]."""
    shape = (2, *([frames] if frames else []), 4, 6, 3)
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = [[Image.fromarray(frame) for frame in sample] if frames else Image.fromarray(sample) for sample in array]
    expected = pictures_of(array)
    assert expected.shape == (*shape[:-3], 3, 4, 6)
    assert -1 <= expected.min() < expected.max() <= 1
    unit = array.astype(np.float32) / 255
    for same in (images, list(array), unit, (array,), diffusers.utils.BaseOutput(images=images) if not frames else {"frames": 1} and images):
        torch.testing.assert_close(pictures_of(same), expected)
    torch.testing.assert_close(pictures_of(torch.from_numpy(np.moveaxis(unit, -1, -3)), unit_range=True), expected)
    for wrong in (None, [], "a", np.zeros(3)):
        with pytest.raises(OptionError, match="return images, frames, or a tensor"):
            pictures_of(wrong)


def test_a_workload_from_a_function(folders: Path, tmp_path: Path) -> None:
    """Law: a function may return a workload of twenty lines, with a model and a loop of the user's own."""
    own = Path(__file__).parent.parent / "docs" / "examples" / "own_workload.py"
    run("compare", "--pipeline", f"{own}:build", "--policies", "none", "--samples", 2, "--batch", 2, "--steps", 3, "--out", tmp_path / "out")
    fox = load_pipeline(f"{folders / 'mine.py'}:fox", prompts=Prompts(({"prompt": "a"},)), call={}, device=None, dtype="bfloat16")
    assert fox.model.dtype == torch.bfloat16
