"""The folder that ComfyUI looks for; everything is in the distribution foreseer-comfyui."""

try:
    from foreseer_comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
except Exception as error:  # an import that fails shows users nothing but a line of the log
    HINT = f"foreseer is not installed ({error}). In ComfyUI's Python: pip install foreseer-comfyui, then start ComfyUI again."

    class ForeseerMissing:
        """Says what to install."""

        CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE, DESCRIPTION = "foreseer", "say", (), True, HINT

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[str, dict[str, object]]]]:  # noqa: N802  (ComfyUI's name)
            """What ComfyUI asks for."""
            return {"required": {"hint": ("STRING", {"default": HINT, "multiline": True, "tooltip": HINT})}}

        def say(self, hint: str) -> None:
            """Fail with the hint."""
            raise ImportError(HINT)

    NODE_CLASS_MAPPINGS = {"ForeseerMissing": ForeseerMissing}
    NODE_DISPLAY_NAME_MAPPINGS = {"ForeseerMissing": "Foreseer (not installed)"}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
