"""What a tuner searches: the policies, and for each option of one a range or a list of values, from what the
policy declares and from what the user writes.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from foreseer.describe import hints_of
from foreseer.errors import OptionError
from foreseer.options import Range, allows, alternatives
from foreseer.registry import PolicySpec, check_options, signature_of
from foreseer.spelling import read_values

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["Dimension", "Search", "Space", "parse_range", "search_of", "space_of"]

DIGITS = 4
"""Significant digits of a number that is tried: more are not what decides, and a policy is to be read."""


@attrs.frozen
class Dimension:
    """Values of an option: some, two or more, or numbers in a range with two ends; by their logarithm."""

    name: str
    within: Range | tuple[Any, ...]
    log: bool = False

    def __str__(self) -> str:
        if isinstance(self.within, tuple):
            return f"{self.name}={','.join(map(str, self.within))}"
        return f"{self.name}={self.within.low:g}..{self.within.high:g}{':log' if self.log else ''}"

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values that are listed, or both ends of the range."""
        return self.within if isinstance(self.within, tuple) else (self.within.low, self.within.high)

    def suggest(self, trial: Trial, prefix: str = "") -> Any:
        """Ask for a value, under this name with a prefix."""
        name = prefix + self.name
        if isinstance(self.within, tuple):
            by_name = {repr(value): value for value in self.within}
            return by_name[trial.suggest_categorical(name, list(by_name))]
        low, high = self.within.low, self.within.high
        if self.within.kind is int:
            return trial.suggest_int(name, int(low), int(high), log=self.log)
        value = float(f"{trial.suggest_float(name, low, high, log=self.log):.{DIGITS}g}")
        return min(max(value, low), high)

    def first(self, value: Any) -> Any:
        """Return a value as optuna wants to be told it; None where it is not one of these."""
        if isinstance(self.within, tuple):
            return repr(value) if repr(value) in map(repr, self.within) else None
        return value if self.within.allows(value) else None


@attrs.frozen
class Space:
    """A policy with the options that are held, the others, and in sentences what was decided for the user."""

    spec: PolicySpec
    dimensions: tuple[Dimension, ...]
    notes: tuple[str, ...] = ()

    def suggest(self, trial: Trial, prefix: str = "") -> dict[str, Any]:
        """Ask for a value of each option, under its name with a prefix."""
        return {dimension.name: dimension.suggest(trial, prefix) for dimension in self.dimensions}

    def policy(self, options: Mapping[str, Any]) -> PolicySpec:
        """Return the policy with these values. Raises `OptionError` where it refuses them."""
        return PolicySpec(self.spec.name, self.spec.factory, {**self.spec.options, **options})

    def first(self) -> dict[str, Any]:
        """Return the defaults, as optuna wants to be told them, as far as they are searched."""
        defaults = {p.name: p.default for p in signature_of(self.spec.factory).parameters.values()}
        found = {dimension.name: dimension.first(defaults.get(dimension.name)) for dimension in self.dimensions}
        return {name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        return f"{self.spec}: {', '.join(map(str, self.dimensions)) or 'nothing to choose'}"


POLICY = "policy"
"""Name of the first dimension, where there are several policies."""


@attrs.frozen
class Search:
    """One space or several: each of a policy."""

    spaces: tuple[Space, ...]

    def suggest(self, trial: Trial) -> tuple[Space, dict[str, Any]]:
        """Ask for a policy, and then for a value of each of its options."""
        by_name = {str(space.spec): space for space in self.spaces}
        if len(by_name) == 1:
            return self.spaces[0], self.spaces[0].suggest(trial)
        name = trial.suggest_categorical(POLICY, list(by_name))
        return by_name[name], by_name[name].suggest(trial, _prefix(name))

    def first(self, number: int) -> dict[str, Any] | None:
        """Return what the trial of this number is to try before anything is known, as optuna wants to be told
        it: each policy's defaults. None for a later trial.
        """
        if number >= len(self.spaces):
            return None
        space = self.spaces[number]
        if len(self.spaces) == 1:
            return space.first()
        name = str(space.spec)
        return {POLICY: name} | {_prefix(name) + option: value for option, value in space.first().items()}


def _prefix(policy: str) -> str:
    return f"{policy} "


def search_of(specs: Sequence[PolicySpec], ranges: Sequence[str] = ()) -> Search:
    """Return what to search of one policy or several; a range is for each that has the option.

    Raises:
        OptionError: As `space_of`; a policy is named twice; or no policy has the option of a range, or every
            one fixes it.
    """
    if twice := [str(spec) for number, spec in enumerate(specs) if spec in specs[:number]]:
        raise OptionError(f"policy {twice[0]!r} is named twice; write it once")
    if len(specs) == 1:
        return Search((space_of(specs[0], ranges),))
    free = {str(spec): set(signature_of(spec.factory).parameters) - set(spec.options) for spec in specs}
    for text in ranges:
        name = parse_range(text).name
        if not any(name in options for options in free.values()):
            raise OptionError(f"ranges: {text!r} is for no option that is searched; none of {', '.join(free)} has {name!r} without a value")
    own = {policy: [text for text in ranges if parse_range(text).name in options] for policy, options in free.items()}
    return Search(tuple(space_of(spec, own[str(spec)], alone=False) for spec in specs))


def parse_range(text: str) -> Dimension:
    """Read ``NAME=LOW..HIGH``, ``NAME=LOW..HIGH:log`` or ``NAME=VALUE,VALUE,...``. Values are as on the
    command line.

    >>> parse_range("decide=row,batch")
    Dimension(name='decide', within=('row', 'batch'), log=False)

    Raises:
        OptionError: It is neither; the message says what to write.
    """
    match = re.fullmatch(r"\s*(\w+)\s*=\s*(.+?)\s*", text, re.DOTALL)
    if match is None:
        raise OptionError(f"ranges: {text!r} is no range; write NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=VALUE,VALUE")
    name, rest = match[1], match[2]
    ends = re.fullmatch(r"(.+?)\.\.(.+?)(:\w+)?", rest)
    if ends is None:
        values = read_values(rest)
        if len(values) < 2 or len(set(map(repr, values))) < len(values):
            raise OptionError(
                f"ranges: {text!r} has not two different values or more; write NAME=LOW..HIGH or NAME=VALUE,VALUE, or hold it: POLICY:{name}=VALUE"
            )
        return Dimension(name, tuple(values))
    low, high = (_number(end, text) for end in (ends[1], ends[2]))
    if ends[3] not in (None, ":log"):
        raise OptionError(f"ranges: {text!r} ends in {ends[3]!r}; write {name}={ends[1]}..{ends[2]} or {name}={ends[1]}..{ends[2]}:log")
    if not low < high:
        raise OptionError(f"ranges: {text!r} ends before it begins; write the lower number first")
    if ends[3] and low <= 0:
        raise OptionError(f"ranges: {text!r} has no logarithm at {low}; begin above 0, or leave out :log")
    whole = isinstance(low, int) and isinstance(high, int)
    return Dimension(name, Range(int if whole else float, low, high), log=bool(ends[3]))


def _number(text: str, whole: str) -> float:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        value = None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError(f"ranges: {text!r} in {whole!r} is no number; write NAME=LOW..HIGH, for example threshold=0.01..0.5:log")
    return value


def space_of(spec: PolicySpec, ranges: Sequence[str] = (), *, alone: bool = True) -> Space:
    """Return what to search of a policy.

    What its text fixes is held. Of the others: a range that is given counts; choices and ranges with two ends
    are searched as they are declared; of a range with one end, a part around the default; an option that
    declares neither is held at its default.

    Args:
        spec: The policy.
        ranges: As `parse_range` reads them.
        alone: Whether it is the only policy: then there must be something to choose.

    Raises:
        OptionError: A range is no range, is for an option that the policy has not or that is fixed, or goes
            beyond what the policy allows; or nothing is left.
    """
    hints = hints_of(spec.factory)
    given: dict[str, Dimension] = {}
    for text in ranges:
        dimension = parse_range(text)
        if dimension.name in given:
            raise OptionError(f"ranges: {dimension.name!r} has two ranges; write one")
        if dimension.name in spec.options:
            raise OptionError(f"ranges: {text!r} is a range for what {str(spec)!r} fixes; write one of the two")
        given[dimension.name] = _fitting(dimension, text, spec, hints.get(dimension.name))
    dimensions: list[Dimension] = []
    notes: list[str] = []
    for parameter in signature_of(spec.factory).parameters.values():
        if parameter.name in spec.options or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        found, note = (given[parameter.name], "") if parameter.name in given else _declared(parameter.name, hints.get(parameter.name), parameter.default)
        dimensions += [found] if found is not None else []
        notes += [note] if note else []
    if not dimensions and alone:
        raise OptionError(f"there is nothing to tune in {str(spec)!r}: every option is fixed or declares no range; write --ranges NAME=LOW..HIGH")
    return Space(spec, tuple(dimensions), tuple(notes))


def _fitting(dimension: Dimension, text: str, spec: PolicySpec, hint: Any) -> Dimension:
    """Return a given range with the kind of number that the policy declares, or refuse it."""
    check_options(spec.name, spec.factory, {**spec.options, dimension.name: dimension.ends[0]})
    declared = alternatives(hint) if hint is not None else ()
    kinds = {limits.kind for limits in declared if isinstance(limits, Range)}
    if isinstance(dimension.within, Range) and kinds == {float}:
        dimension = attrs.evolve(dimension, within=attrs.evolve(dimension.within, kind=float))
    for end in dimension.ends:
        if hint is not None and not allows(hint, end):
            words = " or ".join(str(limits) if isinstance(limits, Range) else f"one of {', '.join(map(repr, limits))}" for limits in declared)
            raise OptionError(f"ranges: {end!r} in {text!r} is out of range; {spec.name} allows {words}")
    return dimension


def _declared(name: str, hint: Any, default: Any) -> tuple[Dimension | None, str]:
    """Return what an option's declaration leads to, and what to say of it."""
    declared = alternatives(hint) if hint is not None else ()
    limits = [found for found in declared if isinstance(found, Range)]
    values = tuple(value for found in declared if isinstance(found, tuple) for value in found)
    if not limits and len(values) > 1:
        return Dimension(name, values), ""
    shown = getattr(default, "__name__", repr(default))
    held = f"{name} is held at {shown}: {{}}; to search it write --ranges {name}=..."
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if len(limits) != 1 or not number:
        return None, held.format("it declares no range" if len(limits) != 1 else "the default is no number")
    span = _span(name, limits[0], default)
    if span is None:
        return None, held.format(f"it declares {limits[0]}, which gives no range around that")
    finite = limits[0].low > -math.inf and limits[0].high < math.inf
    return span, "" if finite else f"{name} declares {limits[0]}: searched is {span}, around its default {shown}; --ranges {name}=LOW..HIGH says otherwise"


def _span(name: str, limits: Range, default: float) -> Dimension | None:
    """Return the part of a declared range that is worth a search, or None."""
    low, high, log = limits.low, limits.high, False
    if low == -math.inf:
        return None
    if limits.kind is int:
        low += limits.open_low
        high = max(2 * default, low + 3) if high == math.inf else high - limits.open_high
        return Dimension(name, Range(int, int(low), int(high))) if low < high else None
    if high == math.inf:
        if default <= max(low, 0.0):
            return None
        low, high, log = max(low, default / 10), default * 10, True
    margin = (high - low) / 1000
    if limits.open_high and high == limits.high:
        high -= margin
    if limits.open_low and low == limits.low:
        low, log = low + margin, low == 0.0 or log
    low, high = (float(f"{end:.{DIGITS}g}") for end in (low, high))
    return Dimension(name, Range(float, low, high), log=log)
