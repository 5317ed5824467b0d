"""Tiny transformers that are called directly: the classes of diffusers for which no pipeline can be built offline.

    from tiny.bare import BARE
    model = BARE["LongCatImageTransformer2DModel"].build()
    output = model(**BARE["LongCatImageTransformer2DModel"].inputs(0, 2))

They are random-weight models with three blocks per list; `inputs(step, batch)` gives the call of each step of a sampling loop.
"""

from .bare_audio import AUDIO_AND_MOLECULES
from .bare_image import IMAGE
from .bare_parts import Bare
from .bare_video import VIDEO

BARE: dict[str, Bare] = {item.name: item for item in (*IMAGE, *VIDEO, *AUDIO_AND_MOLECULES)}
NOT_RUN = {
    "DreamLiteTransformer2DModel": "a part of a UNet",
    "MiniMaxMusic3RVQDepthDecoder": "a language model: it draws codes one after another and denoises nothing",
    "TransformerTemporalModel": "a part of a UNet",
}
"""Classes that are no denoisers in a loop, and what they are."""

__all__ = ["BARE", "NOT_RUN", "Bare"]
