"""What a caller declares of a run: its steps, times and samples, in whatever form, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import attrs
from torch import Tensor

from foreseer.errors import ContractError, OptionError

__all__ = ["Numbers", "Schedule", "floats", "groups_of", "refuse_schedule", "refuse_shape"]

Numbers = Sequence[float] | Tensor | None
"""One number for each step, as a caller gives them, or None."""
LABELS = "write whole numbers, one per row, equal for rows of one sample"


def refuse_schedule(num_steps: object, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, log_snr: Sequence[float] | None = None) -> None:
    """Refuse a schedule by OptionError: ``num_steps`` is no whole number >= 1, a time or noise level is not
    finite, or a log-SNR is no number.
    """
    if num_steps is not None and (isinstance(num_steps, bool) or not isinstance(num_steps, Integral) or num_steps < 1):
        raise OptionError(f"num_steps={num_steps!r} is out of range; write a whole number >= 1, or None where it is not known")
    for name, values in (("timesteps", timesteps), ("sigmas", sigmas)):
        if values is not None and not isinstance(values, Iterable):
            raise OptionError(f"{name}={values!r} is no sequence; write finite numbers, one for each step, or None")
        wrong = [value for value in values or () if not isinstance(value, Real) or not math.isfinite(value)]
        if wrong:
            raise OptionError(f"{name} has {wrong[0]!r} in it; write finite numbers, one for each step")
    if log_snr is not None and not isinstance(log_snr, Iterable):
        raise OptionError(f"log_snr={log_snr!r} is no sequence; write log(alpha / sigma) of each step, or None")
    wrong = [value for value in log_snr or () if not isinstance(value, Real) or math.isnan(value)]
    if wrong:
        raise OptionError(f"log_snr has {wrong[0]!r} in it; write log(alpha / sigma) of each step, -inf where there is noise only")


def refuse_shape(depth: object, rows: object, groups: object, start: object) -> None:
    """Refuse a run that has no shape.

    Raises:
        OptionError: ``depth`` or ``start`` is no whole number >= 0, ``rows`` none >= 1, or ``groups`` no
            whole number for each row.
    """
    for name, value, least in (("depth", depth, 0), ("rows", rows, 1), ("start", start, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise OptionError(f"{name}={value!r} of a Run is out of range; write a whole number >= {least}")
    labels = groups if isinstance(groups, tuple) else ()
    if len(labels) != rows or not all(isinstance(label, Integral) for label in labels):
        raise OptionError(f"groups={groups!r} of a Run does not say the samples of {rows} rows; {LABELS}, in a tuple")


def floats(values: Any) -> Any:
    """Numbers, in whatever sequence or tensor, as a tuple; None and what is none stay for others to refuse."""
    if values is None:
        return None
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, Iterable):
        return listed
    plain = [v.item() if hasattr(v, "item") else v for v in listed]
    return tuple(float(v) if isinstance(v, Real) else v for v in plain)  # what is no number, or no sequence, is refused by name


@attrs.frozen(kw_only=True)
class Schedule:
    """What is known of the steps of a sampling before it begins, each None where it is not. As in
    `foreseer.types.Run`; given in whatever sequence or tensor. Noise levels may have one more, behind the
    last step.

    Raises:
        OptionError: One is out of range, or they contradict one another.
    """

    timesteps: tuple[float, ...] | None = attrs.field(default=None, converter=floats)
    num_steps: int | None = None
    sigmas: tuple[float, ...] | None = attrs.field(default=None, converter=floats)
    log_snr: tuple[float, ...] | None = attrs.field(default=None, converter=floats)

    def __attrs_post_init__(self) -> None:
        refuse_schedule(self.num_steps, self.timesteps, self.sigmas, self.log_snr)
        if self.timesteps is not None:
            if self.num_steps not in (None, len(self.timesteps)):
                raise OptionError(f"num_steps={self.num_steps} but timesteps has {len(self.timesteps)} entries; give one of them")
            object.__setattr__(self, "num_steps", len(self.timesteps))

    def every(self, calls: int) -> Schedule:
        """Return that of steps of so many calls, whose calls were listed one by one. Raises `OptionError`
        where there is not a noise level for each step, with one behind them or none.
        """
        listed = self.timesteps
        kept: dict[str, tuple[float, ...] | None] = {"sigmas": self.sigmas, "log_snr": self.log_snr}
        if calls > 1 and listed is not None:
            kept = {name: values[::calls] if values is not None and len(values) >= len(listed) else values for name, values in kept.items()}
            listed = listed[::calls]
        steps = self.num_steps if listed is None else len(listed)
        for name, values in kept.items():
            if values is not None and steps is not None and len(values) - steps not in (0, 1):
                raise OptionError(f"{name} has {len(values)} entries and the run has {steps} steps; give one for each step, and one behind them or none")
        return Schedule(timesteps=listed, num_steps=steps, **kept)


def groups_of(given: Sequence[int] | int | None, rows: int) -> tuple[int, ...]:
    """Return ``(R,)`` which sample each row of a call belongs to.

    Args:
        given: Labels of the rows; or the number of samples, B, where row r belongs to sample r mod B; None
            where every row is a sample.
        rows: Rows of the call, R.

    Raises:
        ContractError: They do not fit.
    """
    if given is None:
        return tuple(range(rows))
    given = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(given, (bool, str)) or not isinstance(given, (Integral, Iterable)):
        raise ContractError(f"groups={given!r} says no samples; {LABELS}, or the number of samples, or None where each row is one")
    if isinstance(given, Integral):
        if given < 1 or rows % given:
            raise ContractError(f"groups={given} samples do not divide the {rows} rows of the call")
        return tuple(row % int(given) for row in range(rows))
    labels = list(given)
    if len(labels) != rows:
        raise ContractError(f"groups has {len(labels)} labels for the {rows} rows of the call; give one per row, or the number of samples")
    wrong = [label for label in labels if not isinstance(label, Real) or not float(label).is_integer()]
    if wrong:
        raise ContractError(f"groups has the label {wrong[0]!r}; {LABELS}")
    return tuple(int(label) for label in labels)
