"""The version of the contract, and what a plugin says that it was built for.

The contract is what a plugin relies on: the hooks and the values that pass between (`foreseer.hookspecs`,
`foreseer.types`), and what plugins are built from (`foreseer.options`, `foreseer.metrics`, and of
`foreseer.policies` the parts `LinearPredictor`, `predictor_from`, `PredictorLike`, `DraftCounter`). It has a
version of its own, because foreseer's says nothing about it: most releases leave the contract alone. A
distribution states the version that its plugins were built for in its metadata, where it can be read without
importing anything:

    [project.entry-points."foreseer.contract"]
    "1.0" = "my_plugin"

What changes which number:

- *Minor*: something was added. A new argument of a hook (a plugin that does not name it never sees it), a new
  field with a default (a plugin that does not read it does not miss it), a new hook, a new value that a
  plugin may return. Plugins built for an earlier minor run as before.
- *Major*: something was removed, renamed, or means something else.

A plugin that states nothing is run: what it needs and does not find is an error of registration, which names
both versions too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint

__all__ = ["CONTRACT", "contracts_stated", "why_incompatible"]

CONTRACT = "1.4"
"""Version of the contract that this foreseer keeps, ``major.minor``."""

GROUP = "foreseer.contract"


def why_incompatible(stated: str) -> str:
    """Say why plugins built for a version of the contract cannot run here; empty if they can.

    >>> why_incompatible("1.0"), why_incompatible("9.1")
    ('', 'it was built for contract 9.1 of foreseer, and this foreseer has contract 1.2: upgrade foreseer')
    """
    numbers = re.fullmatch(r"(\d+)\.(\d+)", stated)
    if numbers is None:
        return f"it states contract {stated!r}, which is no version: its metadata should say, for example, {CONTRACT!r}"
    major, minor = map(int, numbers.groups())
    own_major, own_minor = map(int, CONTRACT.split("."))
    if major == own_major and minor <= own_minor:
        return ""
    remedy = "upgrade foreseer" if (major, minor) > (own_major, own_minor) else "look for a newer version of it"
    return f"it was built for contract {stated} of foreseer, and this foreseer has contract {CONTRACT}: {remedy}"


def contracts_stated(entries: Iterable[EntryPoint]) -> dict[str, str]:
    """Return the contract that each distribution states, by the distribution's name. One that states several
    is taken at the highest that can run here.

    Args:
        entries: The entry points of the group ``foreseer.contract``.
    """
    stated: dict[str, str] = {}
    for entry in sorted(entries, key=lambda e: [int(number) for number in re.findall(r"\d+", e.name)]):
        name = entry.dist.name if entry.dist is not None else "unknown"
        if name not in stated or not why_incompatible(entry.name):
            stated[name] = entry.name
    return stated
