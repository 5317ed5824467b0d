"""What decides the numbers of `foreseer bench gpu`."""

from __future__ import annotations

import attrs
import torch

from foreseer.bench.fields import DTYPES, check_dtype, whole
from foreseer.bench.gpu.shapes import shapes_of
from foreseer.errors import OptionError

__all__ = ["NOTE", "Settings"]

NOTE = (
    "Weights and inputs are random. Decisions do not depend on them: schedules are fixed, and gates are forced "
    "to published rates while they compute their evidence. So times, memory and counts are those of the real "
    "models in these shapes, and of quality nothing is said. Text encoders, VAE and the scheduler's own "
    "arithmetic are left out."
)


@attrs.frozen(kw_only=True)
class Settings:
    """What decides the numbers.

    Attributes:
        scale: One of `foreseer.bench.gpu.shapes.SCALES`.
        steps: Of a run.
        repeats: Runs of each lane.
        full_steps: Steps of full computation beside each run.
        device: As torch writes it.
        dtype: Of weights and inputs.
    """

    scale: str = "published"
    steps: int = attrs.field(default=50, validator=whole(1, 1000))
    repeats: int = attrs.field(default=2, validator=whole(1, 1000))
    full_steps: int = attrs.field(default=6, validator=whole(1, 1000))
    device: str = "cuda"
    dtype: str = attrs.field(default="bfloat16", validator=check_dtype)

    def __attrs_post_init__(self) -> None:
        shapes_of((), self.scale)
        if self.full_steps > self.steps:
            advice = f"write a whole number from 1 to steps={self.steps}"
            raise OptionError(f"full_steps={self.full_steps} is out of range; {advice}")
        kind = self.device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise OptionError(f"device={self.device!r} is unknown; write 'cuda', 'cuda:1' or 'cpu'")
        if kind == "cuda" and not torch.cuda.is_available():
            advice = "write --device cpu --scale tiny to try the script out"
            raise OptionError(f"device={self.device!r}: torch finds no CUDA device; {advice}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype, as torch has it."""
        return DTYPES[self.dtype]
