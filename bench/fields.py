"""What the settings of a comparison and of a benchmark check: numbers in a range, devices, dtypes, folders."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import attrs
import torch

from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable_folder
from foreseer.options import Range

__all__ = [
    "DTYPES",
    "check_device",
    "check_dtype",
    "check_folder",
    "check_guidance",
    "nearest",
    "number",
    "refuse_device",
    "refuse_unknown",
    "whole",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def whole(low: int, high: int | None = None) -> Validator:
    """Return a validator for whole numbers of at least ``low``, and at most ``high`` where it is given."""
    words = f">= {low}" if high is None else f"from {low} to {high}"
    return _within(Range(int, low, math.inf if high is None else high), f"a whole number {words}")


def number(low: float, high: float, *, hint: str = "") -> Validator:
    """Return a validator for numbers from ``low`` to ``high``; the hint goes into the message."""
    return _within(Range(float, low, high), f"a number from {low:g} to {high:g}" + f" ({hint})" * bool(hint))


def _within(limits: Range, words: str) -> Validator:
    def check(settings: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not limits.allows(value):
            raise OptionError(f"{attribute.name}={value!r} is out of range; write {words}")

    return check


check_guidance = number(0.0, 100.0, hint="1 means no guidance")
"""The validator of a guidance's weight."""


def check_device(settings: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Refuse a device that is unknown or cannot be timed; whether it is there is seen where it is to compute."""
    if _device(value, "device").type not in ("cpu", "cuda"):
        raise OptionError(f"device={value!r} cannot be timed here; write 'cpu', or 'cuda' where there is a GPU")


def refuse_device(value: str, *, name: str = "device") -> None:
    """Refuse a device that is unknown or not there. Raises `OptionError`, in which the option has this name."""
    device = _device(value, name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"{name}={value!r} is not there: {torch.cuda.device_count()} CUDA devices were found; write 'cpu'")
    try:
        torch.ones(1, device=device).item()  # a device without memory, or without a driver
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without a kind of device
        raise OptionError(f"{name}={value!r} cannot be used here: {error}; write 'cpu', or 'cuda' where there is a GPU") from error


def _device(value: str, name: str) -> torch.device:
    try:
        return torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"{name}={value!r} is unknown; write 'cpu', or 'cuda' where there is a GPU") from error


def check_dtype(settings: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Refuse a name that is not in `DTYPES`."""
    if not isinstance(value, str) or value not in DTYPES:
        raise OptionError(f"dtype={value!r} is unknown; write one of {', '.join(DTYPES)}")


def refuse_unknown(given: Iterable[str], names: Collection[str], what: str) -> None:
    """Refuse a name that is none of these, as "'x' is no option of ..."; the message names the nearest. Raises
    `OptionError`.
    """
    for name in given:
        if name not in names:
            raise OptionError(f"{name!r} is no {what}; {nearest(name, names)}write one of {', '.join(names)}")


def nearest(name: str, names: Iterable[str]) -> str:
    """Ask whether the nearest of these names was meant; empty where none is near."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def check_folder(settings: object, attribute: attrs.Attribute[Path], value: Path) -> None:
    """Refuse a folder that cannot be made or written to."""
    refuse_unwritable_folder(value)
