"""Step masks: which steps are to be computed, 1, and which may be forecast, 0. Those of cache-dit 1.5.3
(Apache-2.0, "SCM") by name, from their published run lengths, for any number of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from foreseer import OptionError

__all__ = ["MASKS", "read_mask", "step_mask"]

MASKS = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
"""By name: computed and forecast steps in turn, of 28."""
SHORT = {
    8: {"slow": "11111011", "medium": "11110101", "fast": "11101001", "ultra": "11001001"},
    6: dict.fromkeys(MASKS, "111001"),
    4: dict.fromkeys(MASKS, "1101"),
}
"""For distilled models, as published."""


def step_mask(name: str, num_steps: int) -> tuple[int, ...]:
    """Return a named mask, ``(num_steps,)`` of 0 and 1.

    From 28 steps on, and for 4, 6 and 8, it is cache-dit's. For 9 to 27 steps, where cache-dit cuts the runs
    at the end down to one step each, it is the mask of 28 steps with the same density everywhere, and the
    last step computed.

    Raises:
        OptionError: There is none of that name, or none for so few steps.

    >>> "".join(map(str, step_mask("ultra", 28)))
    '1111001000001000000100000001'
    """
    if name not in MASKS:
        raise OptionError(f"mask={name!r} is unknown; write one of {', '.join(MASKS)}, or 0 and 1 for each step, such as 11101001")
    if num_steps in SHORT:
        return read_mask(SHORT[num_steps][name])
    if num_steps < 8:
        raise OptionError(f"mask={name!r} is published for 4, 6 and 8 steps and more, and the run has {num_steps}; write 0 and 1 for each step")
    compute, cache = MASKS[name]
    runs = [length for pair in itertools.zip_longest(compute, cache, fillvalue=0) for length in pair][:-1]
    if num_steps < 28:
        return _thinned(_written(runs), num_steps)
    grown, turn = list(runs), itertools.cycle(range(len(runs)))
    while sum(grown) < num_steps:
        place = next(turn)
        grown[place] += max(int(runs[place] * num_steps / 56), 1)
    for place in reversed(range(len(grown))):  # cut what is too much, from the end, and keep a step of each run
        grown[place] -= min(sum(grown) - num_steps, grown[place] - 1)
    return _written(grown)


def read_mask(mask: Any) -> tuple[int, ...]:
    """Return a mask that is given step by step: text, a whole number, or a sequence of 0 and 1.

    Raises:
        OptionError: It is none of this.
    """
    digits = list(str(mask)) if isinstance(mask, (str, int)) else [str(int(entry)) if entry in (0, 1) else "" for entry in mask]
    if not digits or set(digits) - {"0", "1"}:
        raise OptionError(f"mask={mask!r} is no mask; write one of {', '.join(MASKS)}, or 0 and 1 for each step, such as 11101001")
    return tuple(map(int, digits))


def _written(runs: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(place % 2 == 0) for place, length in enumerate(runs) for _ in range(length))


def _thinned(mask: tuple[int, ...], num_steps: int) -> tuple[int, ...]:
    """Compute a step where the number of computed steps so far, in proportion, reaches another whole one."""
    counts = np.concatenate([[0], np.cumsum(mask)]) * num_steps / len(mask)
    so_far = np.interp(np.linspace(0, len(mask), num_steps + 1), np.arange(len(mask) + 1), counts)
    computed = np.diff(np.floor(so_far + 1e-9)).astype(int)
    computed[[0, -1]] = 1
    return tuple(computed.tolist())
