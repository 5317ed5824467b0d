"""Which plugins are installed. Entry points are listed without importing anything; a plugin is imported when
it is named, so that a broken package hurts nobody who does not name it.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from importlib.metadata import version as metadata_version
from typing import Any

import attrs

from foreseer.errors import OptionError, PluginError, PolicyConflictError
from foreseer.sources import docstring_of, first_paragraph
from foreseer.versions import GROUP as CONTRACTS
from foreseer.versions import contracts_stated, why_incompatible

__all__ = ["COMMANDS", "MEASURES", "OBSERVERS", "POLICIES", "PRESETS", "WORKLOADS", "Listing"]
__all__ += ["list_plugins", "listed_as", "load_factory"]

POLICIES = "foreseer.policies"
OBSERVERS = "foreseer.observers"
PRESETS = "foreseer.presets"
COMMANDS = "foreseer.commands"
WORKLOADS = "foreseer.workloads"
MEASURES = "foreseer.measures"
KINDS = {POLICIES: "policy", OBSERVERS: "observer", PRESETS: "preset", COMMANDS: "command", WORKLOADS: "workload", MEASURES: "measure"}
"""The entry-point groups, and what messages call what is in them."""
LISTED = dict.fromkeys(("policy", "observer"), " (`foreseer policies` lists them)") | {"measure": " (`foreseer measures` lists them)"}


@attrs.frozen
class Listing:
    """One installed plugin, as its metadata describes it. Nothing has been imported.

    Attributes:
        name: The entry point's name.
        distribution: The package that brings it, as pip knows it.
        version: That package's version.
        target: ``"module:attribute"``.
        kind: ``"policy"``, ``"observer"``, ``"preset"``, ``"command"``, ``"workload"`` or
            ``"measure"``.
        contract: The version of the contract that its package was built for; empty where it does not say.
    """

    name: str
    distribution: str
    version: str
    target: str
    kind: str
    contract: str
    _entry: EntryPoint = attrs.field(repr=False, eq=False)

    def load(self) -> Callable[..., Any]:
        """Import the plugin's factory. Raises `PluginError`, naming the package, whatever goes wrong."""
        whose = f"{self.kind} {self.name!r} of {self.distribution} {self.version}"
        if self.contract and (reason := why_incompatible(self.contract)):
            raise PluginError(f"{whose} cannot run: {reason}")
        try:
            factory = self._entry.load()
        except (Exception, SystemExit) as error:  # a module may even call sys.exit() when imported
            asked = [r for r in (self._entry.dist.requires if self._entry.dist is not None else None) or () if re.match(r"foreseer\b(?![-.\w])", r)]
            wants = f" It asks for {asked[0]!r}, and this is foreseer {metadata_version('foreseer')}." if asked and isinstance(error, ImportError) else ""
            raise PluginError(
                f"{whose} cannot be imported from {self.target}: {type(error).__name__}: {error}.{wants} Please tell the authors of {self.distribution}; "
                f"until it is mended, choose another {self.kind}{LISTED.get(self.kind, '')}"
            ) from error
        if not callable(factory):
            raise PluginError(
                f"{self.target} of {self.distribution} {self.version} is a {type(factory).__name__}, not a factory: "
                "an entry point must name a callable that returns the plugins"
            )
        return factory  # type: ignore[no-any-return]

    def summary(self) -> str:
        """First line of the factory's docstring, as in its source, or the package's. Imports nothing."""
        line = first_paragraph(docstring_of(self.target))
        if line or self._entry.dist is None:
            return line
        return str((self._entry.dist.metadata.get_all("Summary") or [""])[0])


def list_plugins(group: str = POLICIES) -> list[Listing]:
    """List the installed plugins of a group, by name. Imports none of them.

    With ``FORESEER_NO_PLUGINS=1`` in the environment only foreseer's own are listed.
    """
    own_only = os.environ.get("FORESEER_NO_PLUGINS", "") not in ("", "0")
    found = []
    seen = set()
    everything = entry_points()  # reading the metadata of all packages is what takes time here, so that it is read once
    contracts = contracts_stated(everything.select(group=CONTRACTS))
    for entry in everything.select(group=group):
        dist = entry.dist
        name, version = (dist.name, dist.version) if dist is not None else ("unknown", "?")
        # One distribution can be on the path twice (an editable install beside its source); that is no
        # conflict.
        if (key := (entry.name, name, entry.value)) in seen or (own_only and name != "foreseer"):
            continue
        seen.add(key)
        found.append(Listing(entry.name, name, version, entry.value, KINDS[group], contracts.get(name, ""), entry))
    return sorted(found, key=lambda listing: (listing.distribution != "foreseer", listing.name, listing.distribution))


def listed_as(name: str, group: str) -> list[Listing]:
    """Return the plugins of a group that a name stands for, with the distribution before it or without."""
    distribution, _, short = name.rpartition(":")
    return [p for p in list_plugins(group) if p.name == short and distribution in ("", p.distribution)]


def load_factory(name: str, *, group: str = POLICIES) -> Callable[..., Any]:
    """Find and import the factory of that name.

    Args:
        name: ``"speca"``, or ``"distribution:speca"`` where two packages bring one name.
        group: The entry-point group.

    Raises:
        PluginError: No such plugin (the message suggests close names), it cannot be imported, or it is for
            another contract.
        PolicyConflictError: Two packages bring this name.
    """
    # Each session builds its plugins anew, and reading all installed packages' metadata takes milliseconds:
    # what was found on this path stays found.
    return _found(name, group, tuple(sys.path), os.environ.get("FORESEER_NO_PLUGINS", ""))


@functools.lru_cache(maxsize=256)
def _found(name: str, group: str, path: tuple[str, ...], own_only: str) -> Callable[..., Any]:
    distribution, _, short = name.rpartition(":")
    matches, kind = listed_as(name, group), KINDS[group]
    if not matches:
        names = sorted({p.name for p in list_plugins(group)})
        other = next((p for p in list_plugins(POLICIES if group == OBSERVERS else OBSERVERS) if p.name == short), None)
        if other is not None and group in (POLICIES, OBSERVERS):
            raise PluginError(f"{name!r} is an {other.kind}, not a {kind}" if group == POLICIES else f"{name!r} is a {other.kind}, not an {kind}")
        if distribution in names:
            raise OptionError(f"{name!r}: the option {short!r} has no value; write {distribution}:{short}=value")
        close = difflib.get_close_matches(short, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"installed: {', '.join(names) or 'none'}"
        raise PluginError(f"no {kind} is named {name!r}; {hint}{LISTED.get(kind, LISTED['policy'])}")
    if len(matches) > 1:
        owners = " and ".join(f"{p.distribution} {p.version} ({p.target})" for p in matches)
        choices = " or ".join(repr(f"{p.distribution}:{p.name}") for p in matches)
        raise PolicyConflictError(f"{kind} {short!r} is in {owners}; write {choices}")
    return matches[0].load()
