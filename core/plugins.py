"""Registration: plugins into hooks, with every mistake that pluggy would pass over turned into an error.

Each session registers plugins of its own, so two sessions, two threads or two guidance branches cannot meet.
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pluggy

from foreseer.contract import needs_from
from foreseer.errors import AnswerError, PluginError, PolicyConflictError, in_words
from foreseer.hookspecs import PolicySpecs
from foreseer.listing import OBSERVERS, POLICIES, list_plugins
from foreseer.observerspecs import ObserverSpecs
from foreseer.outcome import Outcome
from foreseer.types import Drafts, Evidence, History, Needs, Plan, Run, Site, Step, Verdict
from foreseer.versions import CONTRACT

__all__ = ["Implementation", "Part", "Policy", "describe", "observer_hooks", "policy_hooks"]

DECISIONS = ("before_step", "predict_features", "verify")


def describe(plugin: object) -> str:
    """Name a plugin for a message: its class, and the module that it comes from."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return f"{cls.__name__} ({cls.__module__})"


@attrs.frozen
class Implementation:
    """One plugin's implementation of one hook, called with just the arguments that it names.

    pluggy registers and validates; the calls go straight to the function. That is several times cheaper per
    step, and an error's owner is known.
    """

    owner: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    plugin: object = attrs.field(default=None, repr=False, eq=False)
    _picked: Callable[[Mapping[str, Any]], tuple[Any, ...]] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        first, *more = self.arguments or ("",)
        alone = (lambda values: (values[first],)) if first else (lambda values: ())
        object.__setattr__(self, "_picked", operator.itemgetter(*self.arguments) if more else alone)

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Call it with those of ``values`` that it names."""
        return self.function(*self._picked(values))


def policy_hooks(plugins: Sequence[object]) -> dict[str, list[Implementation]]:
    """Register the plugins of one policy. Returns each hook's implementations in the order of the plugins; a
    decision hook has at most one.

    Raises:
        PluginError: A plugin is not one (a class, a misspelt or unknown hook, an argument that the hook does
            not have or that has a default).
        PolicyConflictError: Two plugins provide the same decision hook; the message names both.
    """
    hooks = _register(PolicySpecs, plugins)
    for name in DECISIONS:
        if len(hooks[name]) > 1:
            owners = " and ".join(implementation.owner for implementation in hooks[name])
            raise PolicyConflictError(f"{owners} both provide {name}; a session has one provider: drop one of them")
    return hooks


class Part:
    """A plugin that another one delegates to, asked as a session asks it: each hook takes only the arguments
    that it names.

    A hook that the plugin does not implement answers None, and `setup` with nothing that is needed.

    Args:
        plugin: The plugin; of a policy's several, each is a part of its own.

    Raises:
        PluginError: See `policy_hooks`; and from `setup`, `AnswerError` where its answer is none.
    """

    def __init__(self, plugin: object) -> None:
        self.plugin = plugin
        self._hooks = policy_hooks([plugin])

    def implements(self, hook: str) -> bool:
        """Whether the plugin implements a hook."""
        return bool(self._hooks[hook])

    def _ask(self, hook: str, **values: Any) -> Any:
        hooks = self._hooks[hook]
        return hooks[0](values) if hooks else None

    def setup(self, run: Run) -> Needs:
        """Return all that it needs, as one."""
        return needs_from([self._ask("setup", run=run)])

    def before_step(self, step: Step) -> Plan | None:
        """Return its plan."""
        plan: Plan | None = self._ask("before_step", step=step)
        return plan

    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        """Return its drafts."""
        drafts: Drafts | None = self._ask("predict_features", step=step, sites=sites, history=history)
        return drafts

    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """Return its verdict."""
        verdict: Verdict | None = self._ask("verify", step=step, evidence=evidence)
        return verdict

    def commit(self, step: Step, outcome: Outcome) -> None:
        """Tell it how the step ended."""
        self._ask("commit", step=step, outcome=outcome)


class Policy:
    """The plugins of one session, ready to be asked.

    Args:
        name: For notes on errors.
        plugins: See `policy_hooks`, also for what is raised.
        tolerant: Whether a hook of a step that raises, or answers with what the contract forbids, abstains
            instead.

    Attributes:
        fault: What went wrong since it was last emptied, in a sentence; empty if nothing did.
        seconds: What its hooks took so far, by the clock.
    """

    def __init__(self, name: str, plugins: Sequence[object], *, tolerant: bool = False) -> None:
        self.fault, self.seconds = "", 0.0
        self._name, self._hooks, self._plugins, self._tolerant = name, policy_hooks(plugins), tuple(plugins), tolerant

    @property
    def reach(self) -> int | None:
        """The most steps that a forecast may be behind its row's last computed step, as the policy declares
        by ``max_draft_steps``; None where it does not.
        """
        declared = [most for most in (getattr(plugin, "max_draft_steps", None) for plugin in self._plugins) if most is not None]
        for most in declared:
            if isinstance(most, bool) or not isinstance(most, int) or most < 0:
                raise AnswerError(f"policy {self._name} declares max_draft_steps={most!r}; write a whole number >= 0, or None for no limit")
        return min(declared, default=None)

    @property
    def gives_way(self) -> bool:
        """Whether what it records is for later runs only, as a plugin declares by ``gives_way``: a run in which
        that is over the budget is computed.
        """
        return any(getattr(plugin, "gives_way", False) is True for plugin in self._plugins)

    def implements(self, hook: str) -> bool:
        """Whether any plugin implements the hook."""
        return bool(self._hooks[hook])

    def ask(self, hook: str, accept: Callable[[Any], Any] | None = None, **values: Any) -> list[Any]:
        """Call a hook; return the answers, each passed through ``accept``; None of who abstains. An error
        leaves here, if it does, with a note that says whose it is.
        """
        return [self._answer(implementation, hook, accept, values) for implementation in self._hooks[hook]]

    def _answer(self, implementation: Implementation, hook: str, accept: Callable[[Any], Any] | None, values: Mapping[str, Any]) -> Any:
        started = time.perf_counter()
        try:
            try:
                answer = implementation(values)
            finally:
                self.seconds += time.perf_counter() - started
            return answer if accept is None or answer is None else accept(answer)
        except Exception as error:
            at = f" at step {values['step'].index}" if "step" in values else ""
            error.add_note(f"in {hook} of {implementation.owner}{at} (policy {self._name})")
            if not self._tolerant or "step" not in values:
                raise
            self.fault = f"{hook} of {implementation.owner} raised {in_words(error)}"
            return None

    def setup(self, run: Run) -> Needs:
        """Return all that the plugins need, as one."""
        return needs_from(self.ask("setup", run=run))

    def decide(self, hook: str, accept: Callable[[Any], Any] | None = None, **values: Any) -> Any:
        """Ask the one provider of a decision; None where there is none, or where it abstains."""
        hooks = self._hooks[hook]
        return self._answer(hooks[0], hook, accept, values) if hooks else None


def observer_hooks(observers: Sequence[object]) -> dict[str, list[Implementation]]:
    """Register observers. Returns each hook's implementations in the order of the observers. Raises
    `PluginError` as `policy_hooks` does.
    """
    return _register(ObserverSpecs, observers)


def _register(specs: type, plugins: Sequence[object]) -> dict[str, list[Implementation]]:
    manager = pluggy.PluginManager("foreseer")
    manager.add_hookspecs(specs)
    known = [name for name in vars(specs) if not name.startswith("_")]
    for number, plugin in enumerate(plugins):
        _refuse(plugin, known)
        try:
            manager.register(plugin, name=f"{describe(plugin)} #{number}")
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            what = re.sub(r" in plugin <.*?>", "", str(error))  # an address says nothing, and the class is named already
            raise PluginError(f"{describe(plugin)}: {what}. The hooks are {', '.join(known)}. {_whom_to_tell(plugin)}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise PluginError(f"{describe(plugin)} cannot be registered: {error}. Plugins are compared by identity: write @attrs.define(eq=False)") from error
        if not manager.get_hookcallers(plugin):
            raise PluginError(f"{describe(plugin)} implements no hook: mark its methods with @foreseer.hookimpl. The hooks are {', '.join(known)}")
    names, hooks = _names_of(plugins), dict[str, list[Implementation]]()
    for name in known:
        by_plugin = {id(impl.plugin): impl for impl in getattr(manager.hook, name).get_hookimpls()}
        found = [by_plugin[id(plugin)] for plugin in plugins if id(plugin) in by_plugin]
        hooks[name] = [Implementation(names[id(impl.plugin)], impl.function, tuple(impl.argnames), impl.plugin) for impl in found]
    return hooks


def _names_of(plugins: Sequence[object]) -> dict[int, str]:
    """What to call each plugin, by its id: several of one class are numbered."""
    alike = Counter(describe(plugin) for plugin in plugins)
    found, numbers = {}, Counter[str]()
    for plugin in plugins:
        name = describe(plugin)
        numbers[name] += 1
        found[id(plugin)] = name if alike[name] == 1 else f"{name} no. {numbers[name]}"
    return found


def _whom_to_tell(plugin: object) -> str:
    """Say whose a plugin is and what it was built for: hooks and arguments that are not there may be those of
    another version.
    """
    here = f"This foreseer has contract {CONTRACT}"
    root = type(plugin).__module__.partition(".")[0]
    listed = (p for group in (POLICIES, OBSERVERS) for p in list_plugins(group) if p.distribution != "foreseer")
    owner = next((p for p in listed if p.target.partition(":")[0].partition(".")[0] == root), None)
    if owner is None:
        return f"{here}."
    stated = f"says that it was built for contract {owner.contract}" if owner.contract else "does not say which it was built for"
    return f"{here}; {owner.distribution} {owner.version} {stated}. Please tell its authors."


def _refuse(plugin: object, known: Sequence[str]) -> None:
    """What pluggy accepts in silence, or differently from one version to the next."""
    if isinstance(plugin, type):
        raise PluginError(f"{describe(plugin)} is a class; have you forgotten the ()?")
    fault = _fault_of(type(plugin), tuple(known))  # type: ignore[arg-type]  # a class is hashable
    if fault:
        raise PluginError(f"{describe(plugin)}{fault}")


@functools.lru_cache(maxsize=256)
def _fault_of(cls: type, known: tuple[str, ...]) -> str:
    """Say what is wrong with a plugin class; empty if nothing is. Classes are examined once, sessions are
    built often.
    """
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if isinstance(function, (staticmethod, classmethod)):
            function = function.__func__
        if not inspect.isfunction(function):
            continue
        options = getattr(function, "foreseer_impl", None)
        if options is None:
            if name in known:
                return f".{name} has the name of a hook but is not marked: write @foreseer.hookimpl above it"
            continue
        if options.get("hookwrapper") or options.get("wrapper"):
            return f".{name} is a wrapper; hooks of foreseer have no wrappers: implement the hook itself"
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not parameter.empty or parameter.kind is parameter.KEYWORD_ONLY:
                return (
                    f".{name}: argument {parameter.name!r} is keyword-only or has a default; pluggy's versions treat those differently: write a plain argument"
                )
    return ""
