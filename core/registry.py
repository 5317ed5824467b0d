"""Which plugins are installed, and how a name becomes a policy.

Entry points are listed without importing anything; a policy is imported when it is named. Installing a package
therefore changes nobody's numbers, and a broken package hurts nobody who does not name it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs

from foreseer.errors import ForeseerError, OptionError, PluginError, PolicyConflictError
from foreseer.reading import read_options
from foreseer.sources import docstring_of
from foreseer.spelling import read_spec
from foreseer.versions import GROUP as CONTRACTS
from foreseer.versions import contracts_stated, why_incompatible

__all__ = [
    "OBSERVERS",
    "POLICIES",
    "Listing",
    "PolicySpec",
    "build_observers",
    "cite",
    "group_of",
    "list_plugins",
    "load_factory",
    "parse_plugin",
    "parse_policy",
    "policy",
    "signature_of",
]

POLICIES = "foreseer.policies"
OBSERVERS = "foreseer.observers"
LAMBDA = "<lambda>"


@attrs.frozen
class Listing:
    """One installed plugin, as its metadata describes it. Nothing has been imported.

    Attributes:
        name: The entry point's name.
        distribution: The package that brings it, as pip knows it.
        version: That package's version.
        target: ``"module:attribute"``.
        kind: ``"policy"`` or ``"observer"``: the group that lists it.
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
        """Import the plugin's factory. Raises `PluginError`, naming the package, whatever went wrong inside it, or where it is for another contract."""
        whose = f"{self.kind} {self.name!r} of {self.distribution} {self.version}"
        if self.contract and (reason := why_incompatible(self.contract)):
            raise PluginError(f"{whose} cannot run: {reason}")
        try:
            factory = self._entry.load()
        except (Exception, SystemExit) as error:  # a module may even call sys.exit() when imported
            asked = [r for r in (self._entry.dist.requires if self._entry.dist is not None else None) or () if re.match(r"foreseer\b(?![-.\w])", r)]
            wants = f" It asks for {asked[0]!r}, and this is foreseer {_own_version()}." if asked and isinstance(error, ImportError) else ""
            raise PluginError(
                f"{whose} cannot be imported from {self.target}: {type(error).__name__}: {error}.{wants} Please tell the authors of {self.distribution}; "
                f"until it is mended, choose another {self.kind} (`foreseer policies` lists them)"
            ) from error
        if not callable(factory):
            raise PluginError(
                f"{self.target} of {self.distribution} {self.version} is a {type(factory).__name__}, not a factory: "
                "an entry point must name a callable that returns the plugins"
            )
        return factory  # type: ignore[no-any-return]

    def summary(self) -> str:
        """First line of the factory's docstring, read from its source; the package's own summary where there is none. Imports nothing."""
        line = inspect.cleandoc(docstring_of(self.target)).split("\n", 1)[0]
        if line or self._entry.dist is None:
            return line
        return str((self._entry.dist.metadata.get_all("Summary") or [""])[0])


def _own_version() -> str:
    import foreseer

    return foreseer.__version__


def list_plugins(group: str = POLICIES) -> list[Listing]:
    """List the installed plugins of a group, by name. Imports none of them.

    With ``FORESEER_NO_PLUGINS=1`` in the environment only foreseer's own are listed, for tests that must not depend
    on what is installed.
    """
    own_only = os.environ.get("FORESEER_NO_PLUGINS", "") not in ("", "0")
    found = []
    seen = set()
    everything = entry_points()  # reading the metadata of all packages is what takes time here, so that it is read once
    contracts = contracts_stated(everything.select(group=CONTRACTS))
    for entry in everything.select(group=group):
        dist = entry.dist
        name, version = (dist.name, dist.version) if dist is not None else ("unknown", "?")
        # One distribution can be on the path twice (an editable install beside its source); that is no conflict.
        if (key := (entry.name, name, entry.value)) in seen or (own_only and name != "foreseer"):
            continue
        seen.add(key)
        kind = "observer" if group == OBSERVERS else "policy"
        found.append(Listing(entry.name, name, version, entry.value, kind, contracts.get(name, ""), entry))
    return sorted(found, key=lambda listing: (listing.distribution != "foreseer", listing.name, listing.distribution))


def load_factory(name: str, *, group: str = POLICIES) -> Callable[..., Any]:
    """Find and import the factory of that name.

    Args:
        name: ``"speca"``, or ``"distribution:speca"`` where two packages bring one name.
        group: The entry-point group.

    Raises:
        PluginError: No such plugin (the message suggests close names), it cannot be imported, or it is for another contract.
        PolicyConflictError: Two packages bring this name.
    """
    # Each session builds its plugins anew, and reading all installed packages' metadata takes milliseconds: what was found on this path stays found.
    return _found(name, group, tuple(sys.path), os.environ.get("FORESEER_NO_PLUGINS", ""))


@functools.lru_cache(maxsize=256)
def _found(name: str, group: str, path: tuple[str, ...], own_only: str) -> Callable[..., Any]:
    distribution, _, short = name.rpartition(":")
    listings = list_plugins(group)
    matches = [p for p in listings if p.name == short and distribution in ("", p.distribution)]
    kind = "observer" if group == OBSERVERS else "policy"
    if not matches:
        names = sorted({p.name for p in listings})
        other = next((p for p in list_plugins(POLICIES if group == OBSERVERS else OBSERVERS) if p.name == short), None)
        if other is not None:
            raise PluginError(f"{name!r} is an {other.kind}, not a {kind}" if group == POLICIES else f"{name!r} is a {other.kind}, not an {kind}")
        if distribution in {p.name for p in listings}:
            raise OptionError(f"{name!r}: the option {short!r} has no value; write {distribution}:{short}=value")
        close = difflib.get_close_matches(short, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"installed: {', '.join(names) or 'none'}"
        raise PluginError(f"no {kind} is named {name!r}; {hint} (`foreseer policies` lists them)")
    if len(matches) > 1:
        owners = " and ".join(f"{p.distribution} {p.version} ({p.target})" for p in matches)
        choices = " or ".join(repr(f"{p.distribution}:{p.name}") for p in matches)
        raise PolicyConflictError(f"{kind} {short!r} is in {owners}; write {choices}")
    return matches[0].load()


def signature_of(factory: Callable[..., Any]) -> inspect.Signature:
    """Signature of a factory, or an empty one for callables that have none."""
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError):
        return inspect.Signature()


def check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that the factory does not take, and the lack of one that it needs. Raises `OptionError`, with the nearest name."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = {p.name: p for p in signature_of(factory).parameters.values() if p.kind not in variable}
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise OptionError(f"policy {name!r} has no option {option!r}; {hint}its options are {', '.join(known) or 'none'}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise OptionError(f"policy {name!r} needs the option {option!r}, which has no default; write {name}:{option}=...")


class _Waiting(deque[tuple[object, ...]]):
    """Plugins that were built and that no session has taken. They are one session's: a copy holds none."""

    def __reduce__(self) -> Any:
        return _Waiting, ()


@attrs.frozen
class PolicySpec:
    """A named factory and its options. Calling it gives plugins that no session was given before.

    The options are checked by building the plugins once. The first session is given those, so that the
    factory is called once for each session. Files that options stand for are read here, and not again.

    Attributes:
        name: For messages and tables. A lambda without arguments is called after what it builds.
        factory: ``(**options) -> plugin or tuple of plugins``.
        options: Keyword arguments for the factory.

    Raises:
        OptionError: An option is unknown, out of range or missing, or names a file that cannot be read.
    """

    name: str
    factory: Callable[..., Any] = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(factory=dict)
    _waiting: _Waiting = attrs.field(factory=_Waiting, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        check_options(self.name, self.factory, self.options)
        object.__setattr__(self, "options", read_options(self.factory, self.options))
        try:
            built = self._build()  # a bad value fails here, not at step 17
        except ForeseerError:
            raise
        except (TypeError, ValueError) as error:
            raise OptionError(f"policy {str(self)!r} cannot be built: {type(error).__name__}: {error}") from error
        self._waiting.append(built)
        if self.name == LAMBDA and not signature_of(self.factory).parameters:
            object.__setattr__(self, "name", "+".join(type(plugin).__name__ for plugin in built))

    def __call__(self) -> tuple[object, ...]:
        """Return the plugins of one session: those that wait for one, or new ones."""
        try:
            return self._waiting.pop()  # in one step, so that two sessions that begin at once share none
        except IndexError:
            return self._build()

    def look(self) -> tuple[object, ...]:
        """Return the plugins that wait for the first session, without taking them; none once it has them."""
        try:
            return self._waiting[0]
        except IndexError:
            return ()

    def _build(self) -> tuple[object, ...]:
        built = self.factory(**self.options)
        return tuple(built) if isinstance(built, (tuple, list)) else (built,)

    def __str__(self) -> str:
        chosen = ",".join(f"{key}={_brief(value)}" for key, value in self.options.items())
        return f"{self.name}:{chosen}" if chosen else self.name


def _brief(value: object) -> str:
    text = str(getattr(value, "__name__", None) or value)
    return f"({text})" if isinstance(value, str) and "," in text else text


def policy(policy: str | Callable[..., Any] | PolicySpec, /, **options: Any) -> PolicySpec:
    """Name a policy and its options.

    Args:
        policy: The name of an installed policy, with options as `parse_policy` reads them or without; any callable that
            returns a plugin or a tuple of plugins; or a `PolicySpec`.
        **options: Handed to the factory; unknown ones are an error, and so is one that ``policy`` gives already.

    Raises:
        PluginError: No such policy, or it cannot be imported, or an instance was passed instead of its factory.
        OptionError: An option is unknown or out of range.

    >>> print(policy("taylorseer:interval=5", max_order=2))
    taylorseer:interval=5,max_order=2
    """
    if isinstance(policy, PolicySpec):
        return PolicySpec(policy.name, policy.factory, {**policy.options, **options}) if options else policy
    if isinstance(policy, str):
        name, written = read_spec(policy)
        if twice := [option for option in options if option in written]:
            raise OptionError(f"{twice[0]!r} is given in {policy!r} and as {twice[0]}={options[twice[0]]!r} besides; write it once")
        return PolicySpec(name, load_factory(name), {**written, **options})
    if not callable(policy):
        raise PluginError(
            f"{type(policy).__name__} is a plugin, and a session builds its own: pass the factory, "
            f"for example `lambda: {type(policy).__name__}(...)` or the class itself"
        )
    return PolicySpec(_name_of(policy), policy, options)


def _name_of(factory: Callable[..., Any]) -> str:
    """What a factory is called in tables."""
    inner = getattr(factory, "func", None)  # of a functools.partial
    return getattr(factory, "__name__", "") or getattr(inner, "__name__", "") or type(factory).__name__


def parse_policy(text: str, *, group: str = POLICIES) -> PolicySpec:
    """Read a plugin and its options as written on a command line: ``speca:threshold=0.2,max_order=2``.

    Values are Python literals (``0.2``, ``None``, ``True``) or, failing that, plain words (``batch``). A value that has options of its own is put in
    brackets: ``cg_taylor:predictor=(hicache:scale=0.5,max_order=2),threshold=0.1``.

    Args:
        text: The name and the options.
        group: The entry-point group.

    Raises:
        PluginError, OptionError: See `policy`; also for text that is none of this.
    """
    name, options = read_spec(text)
    return PolicySpec(name, load_factory(name, group=group), options)


def parse_plugin(text: str) -> PolicySpec:
    """Read a policy, or an observer where only the observers have the name; else as `parse_policy`."""
    return parse_policy(text, group=group_of(read_spec(text)[0]))


def group_of(name: str) -> str:
    """The entry-point group in which a name is to be looked for: that of the observers where only they have it."""
    known = {group: {alias for p in list_plugins(group) for alias in (p.name, f"{p.distribution}:{p.name}")} for group in (POLICIES, OBSERVERS)}
    return OBSERVERS if name in known[OBSERVERS] - known[POLICIES] else POLICIES


def build_observers(observers: Sequence[object]) -> tuple[object, ...]:
    """Build the observers that are named, and hand on those that are there: ``("csvtrace:path=trace.csv", MyObserver())``.

    Raises:
        PluginError, OptionError: A name or an option is wrong, as for a policy.
    """
    if isinstance(observers, str):
        raise PluginError(f"observers={observers!r} is one name; write a list: observers=[{observers!r}]")
    return tuple(o for given in observers for o in (parse_policy(given, group=OBSERVERS)() if isinstance(given, str) else (given,)))


def cite(policy: str | Callable[..., Any] | PolicySpec) -> str:
    """Return the BibTeX entry of the paper behind a policy; empty if it names none."""
    factory = policy.factory if isinstance(policy, PolicySpec) else load_factory(read_spec(policy)[0]) if isinstance(policy, str) else policy
    return str(getattr(factory, "__citation__", ""))
