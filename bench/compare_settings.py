"""What `foreseer compare` is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from foreseer.bench.fields import check_device, check_dtype, check_folder, check_guidance, whole
from foreseer.presets import Preset
from foreseer.registry import PolicySpec, policy

__all__ = ["DEFAULT_POLICIES", "CompareSettings"]

# CG-Taylor's threshold is for models whose first block changes less from step to step: with its default this
# small one computes everything.
DEFAULT_POLICIES = ("reuse", "taylorseer", "taylorseer:target=last_block", "cg_taylor:threshold=0.06", "speca", "speca_released")


Named = str | Path | PolicySpec | Preset


def _policies(value: Any) -> tuple[Named, ...]:
    return (value,) if isinstance(value, Named) else tuple(value)


@attrs.frozen(kw_only=True)
class CompareSettings:
    """What `compare` does. Every value is checked when the settings are made; the policies, when the
    comparison begins.

    Attributes:
        policies: Policies to compare; several may follow. As on the command line
            (``"speca:threshold=0.2,max_order=2"``), presets by name or file, or objects of either. Full
            computation is always there. A preset that was tuned on something else is refused, but for
            ``"preset.json:any_model=True"``; the results then say what differs.
        samples: How many samples each policy draws.
        steps: DDIM steps of a full computation, 1 to 1000.
        seed: Seed of the initial noise. Sample i begins with the same noise whatever ``batch`` is.
        batch: Samples that are drawn together; each is two rows, with and without its class.
        guidance: Weight of the classifier-free guidance; 1 is none.
            e = e_uncond + guidance * (e_cond - e_uncond).
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        observers: Observers of every policy's runs; several may follow. As on the command line
            (``"csvtrace:path=trace.csv"``), or plugins. Built once; timed with the runs.
        out: Folder for the results; made if it is missing. Files of the same names are overwritten.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    policies: tuple[Named, ...] = attrs.field(default=DEFAULT_POLICIES, converter=_policies)
    samples: int = attrs.field(default=64, validator=whole(1))
    steps: int = attrs.field(default=50, validator=whole(1, 1000))
    seed: int = attrs.field(default=0, validator=whole(0))
    batch: int = attrs.field(default=32, validator=whole(1))
    guidance: float = attrs.field(default=1.5, validator=check_guidance)
    device: str = attrs.field(default="cpu", validator=check_device)
    dtype: str = attrs.field(default="float32", validator=check_dtype)
    observers: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    out: Path = attrs.field(default=Path("compare"), converter=Path, validator=check_folder)

    def specs(self) -> list[PolicySpec]:
        """Return the policies, read and checked; what is named twice is there once.

        Raises:
            PluginError, OptionError: See `foreseer.policy`.
        """
        return list({str(spec): spec for spec in map(policy, self.policies)}.values())
