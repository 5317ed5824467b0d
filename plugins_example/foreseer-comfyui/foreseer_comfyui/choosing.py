"""A policy and its options, as they are chosen in the UI."""

from __future__ import annotations

import functools
import re
from collections import Counter

import torch

import foreseer
from foreseer import ForeseerError, OptionError, PolicySpec, Storage
from foreseer.describe import options_of, quiet, read_docstring
from foreseer.listing import load_factory

__all__ = ["HISTORIES", "names", "spec_of", "storage_of", "tooltip", "wrong"]

HISTORIES = ("device", "cpu", "device bfloat16", "cpu bfloat16")
"""Where features are kept, and how."""


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of the installed policies; nothing is imported. Predictors are left out, which say so in
    their first word.
    """
    found = [listing for listing in foreseer.list_plugins() if not listing.summary().startswith("Predictor")]
    owners = Counter(listing.name for listing in found)
    return tuple(sorted(listing.name if owners[listing.name] == 1 else f"{listing.distribution}:{listing.name}" for listing in found))


def spec_of(policy: str, options: str) -> PolicySpec:
    """Return a policy with its options.

    Args:
        policy: Its name, with the distribution before it or without.
        options: ``name=value``, separated by commas or lines, as on foreseer's command line.

    Raises:
        OptionError, PluginError: As `foreseer.policy`.
    """
    written = ",".join(part for line in options.splitlines() if (part := line.strip().strip(",")))
    return foreseer.policy(f"{policy}:{written}" if written else policy)


def wrong(policy: str | None, options: str | None) -> str:
    """Say what is wrong with a choice; empty where nothing is, or where another node says it (None)."""
    if policy is None or options is None:
        return ""
    try:
        spec_of(policy, options)
    except ForeseerError as error:
        return f"foreseer: {error}"
    return ""


def storage_of(history: str, gigabytes: float) -> Storage | None:
    """Return where features are kept.

    Args:
        history: One of `HISTORIES`.
        gigabytes: The most, 1e9 bytes each; 0 for no limit. Beyond it the last block is forecast.

    Raises:
        OptionError: Of another history, or a negative limit.
    """
    if history not in HISTORIES:
        raise OptionError(f"history={history!r} is unknown; write one of {', '.join(HISTORIES)}")
    if gigabytes < 0:
        raise OptionError(f"max_history_gb={gigabytes:g} is out of range; write a number of gigabytes >= 0, 0 for no limit")
    device, _, dtype = history.partition(" ")
    if history == "device" and not gigabytes:
        return None
    return Storage(
        device="cpu" if device == "cpu" else None,
        dtype=torch.bfloat16 if dtype else None,
        max_bytes=round(gigabytes * 1e9) if gigabytes else None,
        on_over_budget="last_block",
    )


@functools.cache
def tooltip() -> str:
    """Say which options the policies have, with defaults and ranges; one that cannot be imported says so."""
    lines = ["name=value, separated by commas or lines:"]
    for name in names():
        try:
            with quiet():
                factory = load_factory(name)
            _, meanings = read_docstring(factory.__doc__ or "")
            options = [
                f"{option['name']}={option['default']}" + (f" ({option['values']})" if option["values"] else "") for option in options_of(factory, meanings)
            ]
        except ForeseerError as error:
            options = [re.split(r"[.;:] ", str(error))[0]]
        lines.append(f"{name}: {', '.join(options) or 'no options'}")
    return "\n".join(lines)
