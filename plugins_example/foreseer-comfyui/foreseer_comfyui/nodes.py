"""The nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foreseer import ForeseerError, OptionError
from foreseer_comfyui.choosing import HISTORIES, names, spec_of, storage_of, tooltip, wrong
from foreseer_comfyui.handle import Handle
from foreseer_comfyui.sampling import Applied

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

CATEGORY = "foreseer"
Settings = dict[str, Any]
OPTIONS = "interval=3, max_order=1, target=residual"
WHERE: Settings = {
    "blocks": ("STRING", {"default": "", "tooltip": "Paths of the model's lists of blocks, separated by commas. Empty: they are found."}),
}


class ForeseerPolicy:
    """Puts a policy on a model: some evaluations of each sampling are computed, the others forecast."""

    CATEGORY = CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL", "FORESEER")
    RETURN_NAMES = ("model", "foreseer")
    OUTPUT_TOOLTIPS = ("The model with the policy, for a sampler. Take the node out, and the images are what they were.", "For Foreseer Report.")
    DESCRIPTION = (
        "Computes some evaluations of a diffusion transformer and forecasts the others from them. How much that saves and how far it is off, "
        "Foreseer Report shows. Distilled models with 4 to 8 steps have nothing to forecast from."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Settings]:  # noqa: N802  (ComfyUI's name)
        percent = {"min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A diffusion transformer: Flux, Wan, Qwen-Image, SD3, HunyuanVideo and others."}),
                "policy": (list(names()), {"default": "taylorseer", "tooltip": "How is decided what is computed: any policy that pip installed."}),
                "options": ("STRING", {"default": OPTIONS, "multiline": True, "tooltip": tooltip()}),
                "start_percent": ("FLOAT", {"default": 0.0, **percent, "tooltip": "Before this share of the sampling everything is computed."}),
                "end_percent": ("FLOAT", {"default": 1.0, **percent, "tooltip": "After this share of the sampling everything is computed."}),
                "history": (list(HISTORIES), {"tooltip": "Where features are kept, and how. cpu saves memory of the GPU, bfloat16 half of it."}),
                "max_history_gb": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 1024.0, "step": 0.1, "tooltip": "The most to keep, in GB; 0: no limit. Beyond: last_block."},
                ),
                "on_error": (["compute", "raise"], {"tooltip": "Where the policy fails: compute the step and say so in the report, or stop."}),
                **WHERE,
            }
        }  # fmt: skip

    @classmethod
    def VALIDATE_INPUTS(cls, policy: str | None, options: str | None) -> bool | str:  # noqa: N802
        return wrong(policy, options) or True

    def apply(
        self, model: Any, policy: str, options: str, start_percent: float, end_percent: float, history: str, max_history_gb: float, on_error: str, blocks: str
    ) -> tuple[Any, Handle]:
        """Return the model with the policy, and the handle.

        Raises:
            OptionError, PluginError: A value is wrong that came from another node, and was not looked at before.
        """
        if message := wrong(policy, options):
            raise OptionError(message)
        if end_percent < start_percent:
            raise OptionError(f"foreseer: end_percent={end_percent:g} lies before start_percent={start_percent:g}; write a greater one")
        spec = spec_of(policy, options)
        applied = Applied(
            spec=spec,
            handle=Handle(),
            start=start_percent,
            end=end_percent,
            blocks=blocks.strip() or None,
            storage=storage_of(history, max_history_gb),
            on_error="raise" if on_error == "raise" else "compute",
        )
        return applied.put_on(model), applied.handle


class ForeseerReport:
    """Shows what was computed and what was forecast."""

    CATEGORY = CATEGORY
    FUNCTION = "show"
    OUTPUT_NODE = True
    RETURN_TYPES = ("LATENT", "IMAGE", "STRING")
    RETURN_NAMES = ("latent", "timeline", "text")
    OUTPUT_TOOLTIPS = ("As it came in.", "The timeline and the report, as a picture.", "The report, as text.")
    DESCRIPTION = "Shows the timeline of a sampling: which evaluations were computed, which were forecast, what that cost, and what a gate saw."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Settings]:  # noqa: N802
        return {
            "required": {
                "latent": ("LATENT", {"tooltip": "From the sampler, so that the report comes after it."}),
                "foreseer": ("FORESEER", {"tooltip": "From Foreseer Policy, Record or Preset."}),
            },
            "hidden": {"prompt": "PROMPT", "unique_id": "UNIQUE_ID"},
        }

    def show(self, latent: Any, foreseer: Handle, prompt: Any = None, unique_id: str = "") -> dict[str, Any]:
        """Return the report of the sampler that the latent came from, else of the last one."""
        from foreseer_comfyui.pictures import drawn, tensor_of

        came_from = ((prompt or {}).get(str(unique_id)) or {}).get("inputs", {}).get("latent")
        sampling = foreseer.newest(str(came_from[0]) if isinstance(came_from, list) else "")
        image, text = drawn(sampling), "Nothing was sampled yet." if sampling is None else str(sampling)
        return {"ui": {"text": (text,), "images": [_shown(image)]}, "result": (latent, tensor_of(image), text)}


class ForeseerRecord:
    """Records what a model computes, so that a plan can be made for it."""

    CATEGORY = CATEGORY
    FUNCTION = "record"
    RETURN_TYPES = ("MODEL", "FORESEER")
    RETURN_NAMES = ("model", "foreseer")
    DESCRIPTION = (
        "Computes everything, and records how features move from step to step, into ComfyUI's output folder. Sample four images or more with it, "
        "with the sampler, scheduler and number of steps that you will use; then take Foreseer Preset in its place."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Settings]:  # noqa: N802
        name = {"default": "recording", "tooltip": "Of the file in output/foreseer. Samplings of one node go into one file."}
        return {"required": {"model": ("MODEL",), "name": ("STRING", name), **WHERE}}

    def record(self, model: Any, name: str, blocks: str) -> tuple[Any, Handle]:
        """Return the model with a recorder on it."""
        from foreseer_comfyui.recording import Recorded, path_of

        path_of(name)
        recorded, spec = Recorded(name), spec_of("none", "")
        applied = Applied(spec=spec, handle=Handle(), blocks=blocks.strip() or None, observers=(recorded.recorder,), afterwards=recorded.save)
        return applied.put_on(model), applied.handle


class ForeseerPreset:
    """Plans, from a recording, which evaluations are worth computing, and follows that plan."""

    CATEGORY = CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL", "FORESEER")
    RETURN_NAMES = ("model", "foreseer")
    DESCRIPTION = (
        "Which evaluations to compute, planned from a recording of this model, or read from a plan. For the same sampler, scheduler and number of steps."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Settings]:  # noqa: N802
        from foreseer_comfyui.recording import recordings

        steps = {"default": 0, "min": 0, "max": 10000, "tooltip": "How many evaluations are computed; 0: what the plan says, or a quarter of them."}
        return {
            "required": {
                "model": ("MODEL",),
                "recording": (recordings() or [""], {"tooltip": "Of Foreseer Record, or a plan, in output/foreseer."}),
                "steps": ("INT", steps),
                "target": (["last_block", "modules"], {"tooltip": "What is forecast: the last block's output, or each module's, at more memory."}),
                **WHERE,
            }
        }  # fmt: skip

    @classmethod
    def VALIDATE_INPUTS(cls, recording: str | None) -> bool | str:  # noqa: N802
        from foreseer_comfyui.recording import found

        try:
            if recording is not None:  # another node says it
                found(recording)
        except ForeseerError as error:
            return f"foreseer: {error}"
        return True

    @classmethod
    def IS_CHANGED(cls, recording: str | None, **others: Any) -> str:  # noqa: N802
        from foreseer_comfyui.recording import path_of

        path = None if recording is None else path_of(recording)
        return f"{path.stat().st_mtime_ns}" if path is not None and path.exists() else ""

    def apply(self, model: Any, recording: str, steps: int, target: str, blocks: str) -> tuple[Any, Handle]:
        """Return the model with the plan on it, and the handle."""
        from foreseer_comfyui.recording import planned_from

        spec = planned_from(recording, steps=steps, target=target)
        applied = Applied(spec=spec, handle=Handle(), blocks=blocks.strip() or None)
        return applied.put_on(model), applied.handle


def _shown(image: Any) -> dict[str, str]:
    """Write a picture where ComfyUI shows it from."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    _, _, counter, _, prefix = folder_paths.get_save_image_path("foreseer", str(folder), image.width, image.height)
    name = f"{prefix}_{counter:05}_.png"
    image.save(folder / name)
    return {"filename": name, "subfolder": "", "type": "temp"}


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "ForeseerPolicy": ForeseerPolicy, "ForeseerReport": ForeseerReport, "ForeseerRecord": ForeseerRecord, "ForeseerPreset": ForeseerPreset
}  # fmt: skip
NODE_DISPLAY_NAME_MAPPINGS = {name: name.replace("Foreseer", "Foreseer ") for name in NODE_CLASS_MAPPINGS}
