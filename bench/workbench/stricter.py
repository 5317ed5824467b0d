"""Stricter settings of a policy: those that would have computed a step which it forecast."""

from __future__ import annotations

import math
from typing import Any

from foreseer.errors import OptionError
from foreseer.registry import PolicySpec, signature_of
from foreseer.workbench.explained import StepAccount

__all__ = ["option_of", "stricter_than", "why_none"]

STRICTER = ("steps", "budget", "tolerance", "threshold", "interval")
"""Options that make a policy stricter; the first that it has is changed."""
LADDER = 0.7
"""By what a tolerance is multiplied from one stricter setting to the next."""


def option_of(spec: PolicySpec) -> tuple[str, Any] | None:
    """Return the option of a policy that stricter settings change, and its value; None where it has none."""
    known = {name: parameter.default for name, parameter in signature_of(spec.factory).parameters.items()}
    values = {**known, **spec.options}
    return next(((name, values[name]) for name in STRICTER if _is_number(values.get(name))), None)


def stricter_than(spec: PolicySpec, worst: StepAccount, *, most: int) -> list[PolicySpec]:
    """Return stricter settings of a policy, from the nearest on.

    The option that is changed is the first that the policy has of ``steps`` and ``budget``, where they are
    given, ``tolerance``, ``threshold`` and ``interval``. Where a gate judged the step, the first setting has
    a threshold right below what it saw.

    Args:
        spec: The policy; of a preset its own.
        worst: The step that is to be computed.
        most: How many settings at most.
    """
    changed = option_of(spec)
    if changed is None:
        return []
    name, value = changed
    tried: list[Any] = []
    if name == "interval":
        tried = list(range(value - 1, 1, -1))
    elif name in ("steps", "budget"):
        tried = [math.ceil(value * (1 + (1 / LADDER - 1) * part / 2)) for part in range(1, most + 1)]
    else:
        first = value * LADDER
        if math.isfinite(worst.error) and worst.threshold > 0 and worst.error > 0:
            first = value * worst.error / worst.threshold * 0.999
        tried = [float(f"{first * LADDER**power:.4g}") for power in range(most)]
    found = []
    for setting in list(dict.fromkeys(tried))[:most]:
        try:
            found.append(PolicySpec(spec.name, spec.factory, {**spec.options, name: setting}))
        except OptionError:  # beyond what the option may be
            break
    return found


def why_none(spec: PolicySpec, *, most: int) -> str:
    """Say why `stricter_than` gave nothing for a policy, as a sentence."""
    changed = option_of(spec)
    if changed is None:
        return f"It has no option among {', '.join(STRICTER[:-1])} and {STRICTER[-1]} that could be stricter; `foreseer tune` searches the others."
    if not most:
        return "No stricter setting was drawn; write --stricter 6 for up to six."
    name, value = changed
    return f"It cannot be made stricter: {name}={value} is as strict as it goes without computing every step; `foreseer tune` searches its other options."


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
