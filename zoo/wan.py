"""The bundled Wan-shaped model of moving handwritten digits, in diffusers' own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from foreseer.zoo.moving import FRAMES, SIDE
from foreseer.zoo.standins import DigitTable, DigitTokenizer, FoldedVideo

if TYPE_CHECKING:
    from diffusers import WanPipeline

__all__ = ["CONFIG", "TRAIN_TIMESTEPS", "WanDigits", "pipeline"]

TRAIN_TIMESTEPS = 1000
"""What a noise level is multiplied by before the transformer sees it."""

CONFIG: dict[str, Any] = {
    "transformer": {
        "patch_size": [1, 2, 2],
        "num_attention_heads": 3,
        "attention_head_dim": 32,
        "in_channels": 8,
        "out_channels": 8,
        "text_dim": 32,
        "freq_dim": 64,
        "ffn_dim": 384,
        "num_layers": 8,
        "rope_max_seq_len": 32,
    },
    "text": {"length": 2, "width": 32},
    "vae": {"mean": -0.65, "std": 0.577},
    # as in Wan 2.1 for small frames
    "scheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
}


class WanDigits(nn.Module):
    """What is trained: the transformer and its table of embeddings."""

    def __init__(self, config: dict[str, Any]) -> None:
        from diffusers import WanTransformer3DModel

        super().__init__()
        self.config = config
        self.transformer = WanTransformer3DModel(**config["transformer"])
        self.text = DigitTable(**config["text"])
        self.tokenizer = DigitTokenizer(config["text"]["length"], repeat=True)

    def forward(self, latents: Tensor, sigmas: Tensor, digits: Tensor) -> Tensor:
        """Return the velocity, like the ``(B, 8, F, H, W)`` latents, at ``(B,)`` noise levels in [0, 1], for
        ``(B,)`` digits, 10 for none.
        """
        text = self.text(self.tokenizer.ids(digits)).last_hidden_state
        velocity: Tensor = self.transformer(latents, sigmas * TRAIN_TIMESTEPS, text, return_dict=False)[0]
        return velocity


def pipeline(model: WanDigits) -> WanPipeline:
    """Put the model into a `WanPipeline`, which makes 9 frames of 16x16 pixels unless told otherwise."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    class WanDigitsPipeline(WanPipeline):  # type: ignore[misc]
        """A `WanPipeline` whose sizes are by default those that the model was trained on."""

        def __call__(
            self,
            prompt: Any = None,
            negative_prompt: Any = None,
            height: int = SIDE,
            width: int = SIDE,
            num_frames: int = FRAMES,
            *others: Any,
            **options: Any,
        ) -> Any:
            return super().__call__(prompt, negative_prompt, height, width, num_frames, *others, **options)

    return WanDigitsPipeline(
        tokenizer=model.tokenizer,
        text_encoder=model.text,
        vae=FoldedVideo(**model.config["vae"]).to(model.text.device, model.text.dtype),
        scheduler=UniPCMultistepScheduler(**model.config["scheduler"]),
        transformer=model.transformer,
    )
