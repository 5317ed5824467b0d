"""How a name becomes a policy: its factory, its options and its files."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from foreseer.errors import ForeseerError, OptionError, PluginError
from foreseer.listing import OBSERVERS, POLICIES, listed_as, load_factory
from foreseer.presets import Preset, find_preset, installed_presets
from foreseer.reading import read_options
from foreseer.spelling import read_spec

if TYPE_CHECKING:
    from foreseer.signature import Signature
    from foreseer.types import Run

__all__ = ["PolicySpec", "build_observers", "build_plugins", "check_options", "cite", "group_of"]
__all__ += ["parse_plugin", "parse_policy", "policy", "signature_of"]

LAMBDA = "<lambda>"


def signature_of(factory: Callable[..., Any]) -> inspect.Signature:
    """Signature of a factory, or an empty one for callables that have none."""
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError):
        return inspect.Signature()


def check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any], *, kind: str = "policy") -> None:
    """Refuse options that the factory does not take, and the lack of one that it needs, by `OptionError`.

    ``kind`` is what the message calls it.
    """
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = {p.name: p for p in signature_of(factory).parameters.values() if p.kind not in variable}
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise OptionError(f"{kind} {name!r} has no option {option!r}; {hint}its options are {', '.join(known) or 'none'}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise OptionError(f"{kind} {name!r} needs the option {option!r}, which has no default; write {name}:{option}=...")


def build_plugins(factory: Any, options: Mapping[str, Any], offered: Mapping[str, Any]) -> Sequence[object]:
    """Return the plugins that a factory builds with options, and with what is offered of those that it takes.
    Raises `OptionError`, as `check_options`.
    """
    known = signature_of(factory).parameters
    given = {option: value for option, value in offered.items() if option in known} | {**options}
    check_options(_name_of(factory), factory, given)
    return _plugins(factory(**given))


def _plugins(built: Any) -> tuple[object, ...]:
    return tuple(built) if isinstance(built, (tuple, list)) else (built,)


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
        preset: What it was tuned as, where it was; a session refuses a run of another kind.
        any_model: Use a preset wherever it was tuned; the report then says what differs.

    Raises:
        OptionError: An option is unknown, out of range or missing, or names a file that cannot be read.
    """

    name: str
    factory: Callable[..., Any] = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(factory=dict)
    preset: Preset | None = attrs.field(default=None, kw_only=True, repr=False, eq=False)
    any_model: bool = attrs.field(default=False, kw_only=True, repr=False, eq=False)
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

    def elsewhere(self, other: Signature | Run) -> str:
        """Hold a run against its preset's, as `foreseer.presets.Preset.check`; empty without a preset."""
        return "" if self.preset is None else self.preset.check(other, any_model=self.any_model)

    def promised(self, other: Signature | Run) -> str:
        """Return what its preset promises of a run, as `foreseer.presets.Preset.promised`."""
        return "" if self.preset is None else self.preset.promised(other)

    def _build(self) -> tuple[object, ...]:
        return _plugins(self.factory(**self.options))

    def __str__(self) -> str:
        chosen = ",".join(f"{key}={_brief(value)}" for key, value in self.options.items())
        return f"{self.name}:{chosen}" if chosen else self.name


def _brief(value: object) -> str:
    text = str(getattr(value, "__name__", None) or value)
    return f"({text})" if isinstance(value, str) and "," in text else text


def policy(policy: str | Path | Callable[..., Any] | PolicySpec | Preset, /, **options: Any) -> PolicySpec:
    """Name a policy and its options.

    Args:
        policy: The name of an installed policy, with options as `parse_policy` reads them or without; the
            name of an installed preset, or the file of one; any callable that returns a plugin or a tuple of
            plugins; or a `PolicySpec` or `foreseer.presets.Preset`.
        **options: Handed to the factory; unknown ones are an error, and so is one that ``policy`` gives
            already. A preset brings its own, and takes but ``any_model=True``: use it wherever it was tuned.

    Raises:
        PluginError: No such policy, or it cannot be imported, or an instance was passed instead of its
            factory.
        OptionError: An option is unknown or out of range, or a preset cannot be read.

    >>> print(policy("taylorseer:interval=5", max_order=2))
    taylorseer:interval=5,max_order=2
    """
    if isinstance(policy, PolicySpec):
        if policy.preset is not None and options:
            return _tuned(policy.preset, options)
        return PolicySpec(policy.name, policy.factory, {**policy.options, **options}) if options else policy
    if isinstance(policy, (Preset, Path)):
        return _tuned(find_preset(policy), options)
    if isinstance(policy, str):
        name, written = read_spec(policy)
        if twice := [option for option in options if option in written]:
            raise OptionError(f"{twice[0]!r} is given in {policy!r} and as {twice[0]}={options[twice[0]]!r} besides; write it once")
        return _named(name, {**written, **options})
    if not callable(policy):
        raise PluginError(
            f"{type(policy).__name__} is a plugin, and a session builds its own: pass the factory, "
            f"for example `lambda: {type(policy).__name__}(...)` or the class itself"
        )
    return PolicySpec(_name_of(policy), policy, options)


def _named(name: str, options: Mapping[str, Any]) -> PolicySpec:
    """Return the policy of that name or, where no policy has it, the preset."""
    if name.endswith(".json"):
        return _tuned(find_preset(name), options)
    try:
        return PolicySpec(name, load_factory(name), options)
    except PluginError:
        if name not in installed_presets():
            raise
        return _tuned(find_preset(name), options)


def _tuned(preset: Preset, options: Mapping[str, Any]) -> PolicySpec:
    any_model = options.get("any_model", False)
    if others := [option for option in options if option != "any_model"]:
        raise OptionError(f"preset {preset.name!r} brings its options, and {', '.join(others)} was given too; write the policy itself: {preset.policy}")
    if not isinstance(any_model, bool):
        raise OptionError(f"any_model={any_model!r} is out of range; write True or False")
    name, given = read_spec(preset.policy)
    factory = load_factory(name)
    known = signature_of(factory).parameters
    own = [option for option in ("any_model", "interpolate") if any_model and option in known and option not in given]
    for count in range(len(own), 0, -1):
        with contextlib.suppress(OptionError):  # a list that does not say how long a run is cannot be stretched
            return PolicySpec(name, factory, {**given, **dict.fromkeys(own[:count], True)}, preset=preset, any_model=any_model)
    return PolicySpec(name, factory, given, preset=preset, any_model=any_model)


def _name_of(factory: Callable[..., Any]) -> str:
    inner = getattr(factory, "func", None)  # of a functools.partial
    return getattr(factory, "__name__", "") or getattr(inner, "__name__", "") or type(factory).__name__


def parse_policy(text: str, *, group: str = POLICIES) -> PolicySpec:
    """Read a plugin and its options as written on a command line: ``speca:threshold=0.2,max_order=2``.

    Values are Python literals (``0.2``, ``None``, ``True``) or, failing that, plain words (``batch``). A
    value that has options of its own is put in brackets:
    ``cg_taylor:predictor=(hicache:scale=0.5,max_order=2),threshold=0.1``.

    Args:
        text: The name and the options.
        group: The entry-point group.

    Raises:
        PluginError, OptionError: See `policy`; also for text that is none of this.
    """
    name, options = read_spec(text)
    return _named(name, options) if group == POLICIES else PolicySpec(name, load_factory(name, group=group), options)


def parse_plugin(text: str) -> PolicySpec:
    """Read a policy, or an observer where only the observers have the name; else as `parse_policy`."""
    return parse_policy(text, group=group_of(read_spec(text)[0]))


def group_of(name: str) -> str:
    """The entry-point group that a name is looked for in: that of the observers where only they have it."""
    return OBSERVERS if listed_as(name, OBSERVERS) and not listed_as(name, POLICIES) else POLICIES


def build_observers(observers: Sequence[object]) -> tuple[object, ...]:
    """Build the observers that are named, and hand on those that are there: ``("csvtrace:path=trace.csv",
    MyObserver())``.

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
