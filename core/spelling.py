"""How a plugin and its options are written in one line: ``speca:threshold=0.2,max_order=2``."""

from __future__ import annotations

import ast
import re
from typing import Any

from foreseer.errors import OptionError, PluginError

__all__ = ["read_spec", "read_values"]


def read_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name:option=value,option=value`` into the name and the options. Finds nothing and builds
    nothing.

    Raises:
        PluginError: There is no name.
        OptionError: An option has no value, is given twice, or a bracket is not closed.
    """
    parts = text.strip().split(":")
    first = next((number for number, part in enumerate(parts) if "=" in part), len(parts))
    name, rest = ":".join(parts[:first]).strip(), ":".join(parts[first:])
    if not name or re.search(r"[\s(),]", name):
        raise PluginError(f"{text!r} does not begin with a plugin's name; write NAME or NAME:option=value,option=value")
    options: dict[str, Any] = {}
    for pair in _split(rest, text):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(.+?)\s*", pair, re.DOTALL)
        if match is None:
            raise OptionError(f"{text!r}: {pair.strip()!r} is no option; write option=value")
        if match[1] in options:
            raise OptionError(f"{text!r} gives {match[1]!r} twice; write it once")
        options[match[1]] = _literal(match[2])
    return name, options


def read_values(text: str) -> list[Any]:
    """Read values with commas between them, each as the value of an option: ``row,batch`` or
    ``taylor,(hicache:scale=0.5,max_order=2)``.
    """
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [_literal(part.strip()) for part in (*parts, text[start:]) if part.strip()]


def _split(options: str, text: str) -> list[str]:
    """Cut at the commas that stand outside of brackets and before another ``option=``; a comma inside a value
    stays (``steps=0,5,10``).
    """
    pairs, depth, start = [], 0, 0
    for place, character in enumerate(options):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            break
        if character == "," and depth == 0 and re.match(r"\s*\w+\s*=", options[place + 1 :]):
            pairs.append(options[start:place])
            start = place + 1
    if depth:
        raise OptionError(f"{text!r}: the brackets do not match; write predictor=(name:option=value,option=value)")
    last = options[start:].strip().removesuffix(",")
    return [*pairs, last] if last else pairs


def _literal(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
        str(value)  # a number that is too long to be printed is text
        return value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last three for sets of lists, and for thousands of brackets
        return text[1:-1] if re.fullmatch(r"\(.*\)", text) else text
