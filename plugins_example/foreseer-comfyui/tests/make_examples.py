"""Makes the example workflows and their pictures, and those of the docs, in ComfyUI's own frontend.

    python make_examples.py

Workflows are written in the form of the API below, laid out and saved by the editor, and photographed there.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from canvas import canvas
from webui import serving

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "foreseer_comfyui" / "custom_node" / "example_workflows"
PICTURES = HERE.parents[2] / "docs" / "pictures"
Workflow = dict[str, Any]
Places = dict[str, tuple[int, int, int, int]]
CHOSEN = {"start_percent": 0.0, "end_percent": 1.0, "history": "device", "max_history_gb": 0.0, "on_error": "compute", "blocks": ""}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def policy(model: str, options: str = "interval=3, max_order=1, target=residual", name: str = "taylorseer") -> dict[str, Any]:
    return node("ForeseerPolicy", model=[model, 0], policy=name, options=options, **CHOSEN)


def sampler(model: list[Any], positive: list[Any], negative: list[Any], latent: list[Any], *, steps: int, cfg: float, seed: int = 7) -> dict[str, Any]:
    chosen = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return node("KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **chosen)


def flux() -> Workflow:
    """Loaders, prompt and latent of Flux, as ids 1 to 7."""
    return {
        "1": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "2": node("DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors", type="flux", device="default"),
        "3": node("VAELoader", vae_name="ae.safetensors"),
        "4": node("CLIPTextEncode", clip=["2", 0], text="a heron in the morning fog, film photograph"),
        "5": node("FluxGuidance", conditioning=["4", 0], guidance=3.5),
        "6": node("ConditioningZeroOut", conditioning=["4", 0]),
        "7": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
    }


LEFT: Places = {
    "1": (0, 0, 300, 90), "2": (0, 150, 300, 140), "3": (0, 350, 300, 70), "4": (340, 150, 340, 150), "5": (340, 360, 260, 70), "6": (340, 490, 260, 50),
    "7": (0, 480, 300, 120),
}  # fmt: skip


def flux_policy() -> tuple[Workflow, Places]:
    workflow = flux() | {
        "8": policy("1"),
        "9": sampler(["8", 0], ["5", 0], ["6", 0], ["7", 0], steps=28, cfg=1.0),
        "10": node("ForeseerReport", latent=["9", 0], foreseer=["8", 1]),
        "11": node("VAEDecode", samples=["10", 0], vae=["3", 0]),
        "12": node("SaveImage", images=["11", 0], filename_prefix="foreseer"),
    }
    return workflow, LEFT | {
        "8": (720, -200, 340, 330),
        "9": (720, 190, 300, 270),
        "10": (1110, -200, 560, 560),
        "11": (1110, 420, 200, 50),
        "12": (1340, 420, 330, 300),
    }


def compare() -> tuple[Workflow, Places]:
    workflow = flux() | {
        "8": policy("1"),
        "9": sampler(["8", 0], ["5", 0], ["6", 0], ["7", 0], steps=28, cfg=1.0),
        "10": sampler(["1", 0], ["5", 0], ["6", 0], ["7", 0], steps=28, cfg=1.0),
        "11": node("ForeseerReport", latent=["9", 0], foreseer=["8", 1]),
        "12": node("VAEDecode", samples=["11", 0], vae=["3", 0]),
        "13": node("VAEDecode", samples=["10", 0], vae=["3", 0]),
        "14": node("PreviewImage", images=["12", 0]),
        "15": node("PreviewImage", images=["13", 0]),
    }
    places = {"8": (720, -330, 340, 330), "9": (720, 60, 300, 270), "10": (720, 390, 300, 270), "11": (1110, -330, 560, 500), "12": (1110, 230, 200, 50)}
    return workflow, LEFT | places | {"13": (1110, 480, 200, 50), "14": (1340, 230, 330, 200), "15": (1340, 480, 330, 200)}


def wan_two_stage() -> tuple[Workflow, Places]:
    stages = {}
    for stage, (model, noise) in enumerate(
        (("wan2.2_t2v_high_noise_14B_fp16.safetensors", "enable"), ("wan2.2_t2v_low_noise_14B_fp16.safetensors", "disable"))
    ):
        first = 20 + 10 * stage
        stages[str(first)] = node("UNETLoader", unet_name=model, weight_dtype="default")
        stages[str(first + 1)] = policy(str(first), options="steps=8, target=last_block", name="agreement")
        stages[str(first + 2)] = node(
            "KSamplerAdvanced", model=[str(first + 1), 0], add_noise=noise, noise_seed=7, steps=40, cfg=4.0, sampler_name="euler", scheduler="simple",
            positive=["3", 0], negative=["4", 0], latent_image=["22", 0] if stage else ["5", 0], start_at_step=20 * stage,
            end_at_step=10000 if stage else 20,            return_with_leftover_noise="disable" if stage else "enable",
        )  # fmt: skip
        stages[str(first + 3)] = node("ForeseerReport", latent=[str(first + 2), 0], foreseer=[str(first + 1), 1])
    workflow = {
        "1": node("CLIPLoader", clip_name="umt5_xxl_fp16.safetensors", type="wan", device="default"),
        "2": node("VAELoader", vae_name="wan_2.1_vae.safetensors"),
        "3": node("CLIPTextEncode", clip=["1", 0], text="a heron takes off from a lake in the morning fog"),
        "4": node("CLIPTextEncode", clip=["1", 0], text="blurry, still"),
        "5": node("EmptyHunyuanLatentVideo", width=832, height=480, length=81, batch_size=1),
        **stages,
        "40": node("VAEDecode", samples=["33", 0], vae=["2", 0]),
        "41": node("CreateVideo", images=["40", 0], fps=16.0),
        "42": node("SaveVideo", video=["41", 0], filename_prefix="foreseer", format="auto", codec="auto"),
    }
    places: Places = {"1": (0, 0, 300, 110), "2": (0, 170, 300, 70), "3": (0, 300, 300, 130), "4": (0, 490, 300, 130), "5": (0, 680, 300, 150)}
    for stage in (0, 1):
        x, first = 350 + 810 * stage, 20 + 10 * stage
        places |= {
            str(first): (x, 0, 340, 90),
            str(first + 1): (x, 150, 340, 330),
            str(first + 2): (x, 540, 340, 340),
            str(first + 3): (x + 390, 150, 370, 500),
        }
    return workflow, places | {"40": (1550, 720, 200, 50), "41": (1770, 720, 200, 100), "42": (1990, 150, 360, 400)}


def record_and_plan() -> tuple[Workflow, Places]:
    workflow = flux() | {
        "8": node("ForeseerRecord", model=["1", 0], name="flux-dev-28", blocks=""),
        "9": sampler(["8", 0], ["5", 0], ["6", 0], ["7", 0], steps=28, cfg=1.0),
        "10": node("ForeseerReport", latent=["9", 0], foreseer=["8", 1]),
        "11": node("VAEDecode", samples=["10", 0], vae=["3", 0]),
        "12": node("PreviewImage", images=["11", 0]),
    }
    return workflow, LEFT | {
        "8": (720, -60, 300, 110),
        "9": (720, 190, 300, 270),
        "10": (1110, -200, 560, 500),
        "11": (1110, 420, 200, 50),
        "12": (1340, 420, 330, 300),
    }


def tiny(options: str = "interval=3, max_order=1, target=residual") -> tuple[Workflow, Places]:
    """What runs here: a tiny model."""
    workflow = {
        "1": node("LoadTiny"),
        "2": policy("1", options),
        "3": sampler(["2", 0], ["1", 1], ["1", 2], ["1", 3], steps=20, cfg=2.0),
        "4": node("ForeseerReport", latent=["3", 0], foreseer=["2", 1]),
    }
    return workflow, {"1": (0, 0, 220, 120), "2": (270, 0, 340, 330), "3": (660, 0, 300, 290), "4": (1010, 0, 640, 620)}


def main() -> None:
    with tempfile.TemporaryDirectory() as base, serving(Path(base)) as address, canvas(address) as open_canvas:
        for make in (flux_policy, compare, wan_two_stage, record_and_plan):
            graph = open_canvas.load(*make())
            (EXAMPLES / f"{make.__name__}.json").write_text(json.dumps(graph, indent=1) + "\n")
            open_canvas.picture(EXAMPLES / f"{make.__name__}.jpg")
        open_canvas.load(*tiny())
        open_canvas.queue()
        open_canvas.wait("(window.app.graph.getNodeById(4).imgs || []).length")
        open_canvas.picture(PICTURES / "comfyui.png")
        open_canvas.choose("2", "options", "intervall=3")
        open_canvas.queue()
        open_canvas.wait("getComputedStyle(document.querySelector('[role=dialog]')).opacity == 1")
        open_canvas.picture(PICTURES / "comfyui_wrong.png")


if __name__ == "__main__":
    main()
