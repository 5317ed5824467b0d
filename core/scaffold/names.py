"""What a new plugin is called: as a project, module, plugin and class; and which names are refused."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
from importlib.metadata import PackageNotFoundError, distribution

import attrs

from foreseer.errors import OptionError
from foreseer.listing import OBSERVERS, POLICIES, list_plugins

__all__ = ["KINDS", "RESERVED", "Names", "names_for"]

KINDS = ("gate", "front-gate", "probeless-gate", "predictor", "schedule", "observer")
"""What can be written. The last word of each is what the plugin is."""
LONGEST = 40
"""Characters of a name. The templates' lines hold one of this length."""
PATTERN = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

RESERVED = frozenset(
    {
        *keyword.kwlist,
        *keyword.softkwlist,
        *(name for name in dir(builtins) if name.islower()),
        *("annotations", "at_least", "at_least_float", "checked", "dataclass", "draft_needs", "drive", "field", "foreseer", "functools", "given"),
        *("hookimpl", "math", "np", "on_device", "parametrize_policies", "predictor_from", "pytest", "relative_l1", "st", "taylor"),
    }
)
"""What a function in a generated module cannot be called: Python's words, and names of the module's own."""


@attrs.frozen
class Names:
    """What one plugin is called in the places that have names.

    Attributes:
        project: The distribution and its folder, ``foreseer-my-gate``: a bare ``my-gate`` may be a stranger's
            package on the index, and pip would install that.
        module: What is imported, ``foreseer_my_gate``.
        plugin: The entry point and its factory, ``my_gate``.
        cls: The plugin's class, ``MyGate``; it ends in the kind, so that it is none of foreseer's own.
    """

    project: str
    module: str
    plugin: str
    cls: str


def names_for(kind: str, name: str, *, allow_taken: bool = False) -> Names:
    """Derive a plugin's names from what it is to be called.

    Args:
        kind: One of `KINDS`.
        name: Small letters, digits and single hyphens, a letter first: ``"my-gate"``. The project is
            ``foreseer-my-gate``, whether ``foreseer-`` is written or not; the plugin is ``my_gate``.
        allow_taken: Whether the name may be that of something installed.

    Raises:
        OptionError: The kind is unknown, or the name cannot be used or is taken.
    """
    if kind not in KINDS:
        raise OptionError(f"kind={kind!r} is unknown; write one of {', '.join(map(repr, KINDS))}")
    if not PATTERN.fullmatch(name) or len(name) > LONGEST:
        raise OptionError(f"name={name!r} is not a project's name; write {_suggest(kind, name)}: small letters, digits and hyphens, at most {LONGEST}")
    short = name.removeprefix("foreseer-")
    plugin = (short if PATTERN.fullmatch(short) else name).replace("-", "_")
    if plugin in RESERVED:
        raise OptionError(f"name={name!r} would make a function {plugin!r}, which is taken inside the module; write {name + '-' + kind!r}, for example")
    if plugin.startswith("test"):
        raise OptionError(f"name={name!r} would make a function {plugin!r}, which pytest takes for a test; write a name that does not begin with 'test'")
    words, what = plugin.split("_"), kind.rpartition("-")[2]
    if words[-1] != what:
        words.append(what)
    project = name if name.startswith("foreseer-") else f"foreseer-{name}"
    names = Names(project=project, module=project.replace("-", "_"), plugin=plugin, cls="".join(word.capitalize() for word in words))
    owner = "" if allow_taken else _owner(names)
    if owner:
        raise OptionError(f"name={name!r} is taken: {owner}; write another name, or allow it: allow_taken=True, --allow-taken on the command line")
    return names


def _suggest(kind: str, name: str) -> str:
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST].strip("-")
    return repr(near if PATTERN.fullmatch(near) else f"my-{kind}")


def _owner(names: Names) -> str:
    """Say what has this name already; empty if nothing does. Imports nothing."""
    for group, what in ((POLICIES, "policy"), (OBSERVERS, "observer")):
        for listing in list_plugins(group):
            if listing.name == names.plugin:
                return f"{listing.distribution} {listing.version} brings the {what} {names.plugin!r}"
    try:
        return f"the package {names.project} {distribution(names.project).version} is installed"
    except PackageNotFoundError:
        pass
    spec = importlib.util.find_spec(names.module)
    # A folder without code, such as a project's own, is a namespace package to Python: it has no origin, and
    # it is in nobody's way.
    return f"a module {names.module!r} is installed ({spec.origin})" if spec is not None and spec.origin is not None else ""
