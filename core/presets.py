"""A preset: a policy with its options, what it was measured to cost and to change, and for what. A JSON file."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from foreseer.document import Document
from foreseer.errors import OptionError
from foreseer.listing import PRESETS, list_plugins
from foreseer.signature import Signature
from foreseer.types import Run

__all__ = ["FILE", "Measured", "Preset", "Promise", "find_preset", "installed_presets"]

FILE = Document(
    format="foreseer preset 1",
    made_by="`foreseer tune --out`",
    again="tune again, or give the policy by name and options",
)


def _finite(value: object, attribute: attrs.Attribute[Any], given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        raise OptionError(f"{attribute.name}={given!r} is no measurement; write a finite number")


@attrs.frozen(kw_only=True)
class Measured:
    """What a policy came to on some samples, each beside full computation from the same noise.

    Attributes:
        samples: How many samples.
        first: Index of the first; sample i has its own noise and condition, see `foreseer.bench.families`.
        seed: Of the noise.
        block_rows_ratio: Blocks evaluated x rows, over those of full computation.
        steps_computed: Steps that were computed for a sample, on average.
        psnr_mean: Mean PSNR to full computation, dB, as `foreseer.psnr.Likeness` has it.
        psnr_worst: The lowest of them, dB.
        fewer_psnr_mean: The same mean for plain sampling with as many steps as were computed (half a step
            rounded up); None where that was not measured.
        broken: How many of the samples are not finite. None in presets that were made before this was
            counted: none is, and a sample counted with at most 120 dB.
        among: How many samples these were taken from at random, ``first`` the first of those; None where the
            samples follow one another.
        seconds: For a sample, by the clock of the preset's machine; None where that was not asked for.
    """

    samples: int
    first: int
    seed: int
    block_rows_ratio: float = attrs.field(validator=_finite)
    steps_computed: float = attrs.field(validator=_finite)
    psnr_mean: float = attrs.field(validator=_finite)
    psnr_worst: float = attrs.field(validator=_finite)
    fewer_psnr_mean: float | None = attrs.field(default=None, validator=attrs.validators.optional(_finite))
    broken: int | None = None
    among: int | None = None
    seconds: float | None = attrs.field(default=None, validator=attrs.validators.optional(_finite))

    @property
    def speedup(self) -> float:
        """What the block-rows promise: 1 over their ratio."""
        return 1.0 / self.block_rows_ratio

    def __str__(self) -> str:
        many = f"{self.samples} samples" if self.among is None else f"{self.samples} of {self.among} samples"
        where = f"{many} from {self.first} on, seed {self.seed}"
        broken = f", {self.broken} broken" if self.broken else ""
        psnr = f"PSNR {self.psnr_mean:.2f} dB (worst {self.psnr_worst:.2f}{broken})"
        clock = "" if self.seconds is None else f"{self.seconds:.3g} s each, "
        return f"{self.speedup:.2f}x by block-rows, {clock}{psnr}, {where}"


@attrs.frozen(kw_only=True)
class Promise:
    """What was shown of a preset, with a stated confidence, for samples that nobody has drawn yet.

    Attributes:
        measure: What is measured of a sample: ``"psnr"``, to full computation, dB.
        at_least: What a sample must reach.
        share: The share of samples that do, above 0 and below 1.
        confidence: Of all searches that are made so, at most 1 minus this end with a promise that is false.
        samples: How many samples it was tested on, none of which chose what was tested.
        reached: How many of those reached it.
        settings: How many settings were tested, in an order fixed before, until one failed.
        checked: How many further samples were drawn with it afterwards.
        checked_reached: How many of those reached it.
        assumes: What must hold where it is used.
    """

    measure: str = "psnr"
    at_least: float = attrs.field(validator=_finite)
    share: float = attrs.field(validator=_finite)
    confidence: float = attrs.field(validator=_finite)
    samples: int
    reached: int
    settings: int
    checked: int
    checked_reached: int
    assumes: str

    def __str__(self) -> str:
        return (
            f"{self.measure}>={self.at_least:g} for {100 * self.share:g}% of samples with {100 * self.confidence:g}% confidence: it held for "
            f"{self.reached} of {self.samples} samples that it was tested on and {self.checked_reached} of {self.checked} held out; for {self.assumes}"
        )


@attrs.frozen(kw_only=True)
class Preset:
    """A tuned policy.

    Attributes:
        name: What messages call it.
        policy: As one writes it on the command line, ``"cg_taylor:threshold=0.06"``.
        signature: What it was tuned on; a run of another model, scheduler or schedule of timesteps is
            refused.
        tuned: What was measured on the samples that it was chosen by.
        held_out: What was measured on others, afterwards; None where nothing was. The honest one of the two.
        found: How it was found: the settings of the study.
        machine: Processor, system, versions.
        date: Day on which it was measured, ``"2026-01-31"``.
        about: A sentence for readers.
        promise: What is promised of samples to come; None where nothing is.
    """

    name: str
    policy: str
    signature: Signature
    tuned: Measured
    held_out: Measured | None = None
    found: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    machine: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    date: str = ""
    about: str = ""
    promise: Promise | None = None

    def promised(self, other: Signature | Run) -> str:
        """Return its promise as a sentence; empty without one, and where it is used elsewhere, see `check`."""
        return "" if self.promise is None or self.signature.conflicts(other) else str(self.promise)

    def check(self, other: Signature | Run, *, any_model: bool = False) -> str:
        """Compare it with where it is to be used, a run or a signature.

        Returns:
            A sentence for the report; empty where nothing differs.

        Raises:
            OptionError: Something differs and ``any_model`` is False; the message says what.
        """
        differing = "; ".join(self.signature.conflicts(other))
        if not differing:
            return ""
        if any_model:
            return f"preset {self.name!r} was tuned elsewhere, so that what was measured for it says nothing about this run: {differing}"
        raise OptionError(
            f"preset {self.name!r} was tuned elsewhere: {differing}; tune anew (`foreseer tune`), allow it with any_model=True, "
            f"or name the policy itself: {self.policy}"
        )

    def save(self, path: Path) -> Path:
        """Write the file, whole or not at all. Returns its path."""
        return FILE.save(path, self)

    @classmethod
    def load(cls, path: Path) -> Preset:
        """Read a file. Raises `OptionError`, as `foreseer.document.Document.load`."""
        return FILE.load(path, cls)


def installed_presets() -> dict[str, Path]:
    """Return the files of the presets that installed packages bring, by name."""
    owners: dict[str, list[tuple[str, Path]]] = {}
    for listing in list_plugins(PRESETS):
        with contextlib.suppress(Exception):  # a broken package hurts nobody who does not name it
            for name, path in listing.load()().items():
                owners.setdefault(name, []).append((listing.distribution, path))
    return {name if len(brought) == 1 else f"{distribution}:{name}": path for name, brought in owners.items() for distribution, path in brought}


def find_preset(preset: Preset | str | Path, *, folder: Path = Path()) -> Preset:
    """Return a preset by the name of an installed one, or by its file.

    Args:
        preset: A name of the entry points of the group ``foreseer.presets``, each a callable that returns
            files by name; a file's path; or a preset, which is returned as it is.
        folder: Where a relative path begins.

    Raises:
        OptionError: There is none; the message says which there are. Or see `Preset.load`.
    """
    if isinstance(preset, Preset):
        return preset
    if not isinstance(preset, (str, Path)):
        raise OptionError(f"preset={preset!r} is a {type(preset).__name__}; write the name of a preset, its file, or a Preset")
    bundled = installed_presets()
    if isinstance(preset, str) and preset in bundled:
        return Preset.load(bundled[preset])
    path = folder / preset
    if path.is_file():
        return Preset.load(path)
    beside = sorted(file.name for file in path.parent.glob("*.json")) if path.suffix == ".json" and path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name.removesuffix(".json") if beside == [] else path.name, [*bundled, *beside], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    there = f"; in {str(path.parent)!r} there are {', '.join(beside[:10])}" if beside else ""
    raise OptionError(f"preset {str(preset)!r} is neither a file nor a bundled preset; {hint}bundled: {', '.join(bundled) or 'none'}{there}")
