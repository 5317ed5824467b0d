"""Package: importing is free of side effects, hooks are hooks, plugins are told apart, and options are
checked before a run begins.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import pluggy

from foreseer.describe import hints_of
from foreseer.hookspecs import PolicySpecs
from foreseer.observerspecs import ObserverSpecs
from foreseer.options import Range, allows, alternatives, describe_option
from foreseer.plugins import observer_hooks, policy_hooks
from foreseer.registry import signature_of
from foreseer.testing.check import anything, broken, law, policies
from foreseer.testing.process import changed_by_import, home_of
from foreseer.testing.subject import DECLARATIONS, Subject, misdeclared


@law("package", anything, once=True)
def check_entry_point(subject: Subject) -> str:
    """Importing the plugin does nothing: no random number, no device, no global switch of torch, no
    environment variable, not a line of output.

    Its module is imported in a new process, after torch and foreseer.

    Why: a policy is imported where it is named, in the middle of somebody's program. What its import changes,
    it changes for the whole program.

    Would have caught: Lightning adds the callbacks of every installed package to every Trainer: "to
    unregister the factory, simply uninstall the package". Results then depend on what is installed.
    """
    home = home_of(subject.spec)
    if home is None:
        return "its factory lives where nothing can be imported from"
    module, changed = home[0], changed_by_import(*home)
    if changed:
        broken(f"importing {module} changed: {'; '.join(changed)}", "Do it in the factory or in setup, on objects of your own, or not at all")
    return f"importing {module} changes nothing"


@law("package", anything, once=True)
def check_hooks_known(subject: Subject) -> str:
    """It implements at least one hook, and everything that looks like a hook is one.

    None is unknown or unmarked, none is a wrapper, and no argument has a default or is keyword-only.

    Why: a hook that is not one is never called, and nothing says so: the policy computes everything, or
    accepts everything.

    Would have caught: pluggy passes over a misspelt hook and over an override without its marker, and fills
    an argument with a default in 1.7 but not in 1.6.
    """
    plugins = subject.spec()
    hooks = observer_hooks(plugins) if subject.can.observer else policy_hooks(plugins)
    known = [name for specs in (PolicySpecs, ObserverSpecs) for name in vars(specs) if not name.startswith("_")]
    for plugin in plugins:
        for name, method in inspect.getmembers(type(plugin), inspect.isfunction):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if close and not name.startswith("_") and name not in known and not hasattr(method, "foreseer_impl"):
                broken(f"{type(plugin).__name__}.{name} is no hook, but looks like {close[0]}", f"Call it {close[0]} and mark it with foreseer.hookimpl")
    return ", ".join(name for name, found in hooks.items() if found)


@law("package", policies, once=True)
def check_declarations(subject: Subject) -> str:
    """What it declares can be read: each declaration is a plain value of its kind, under its own name.

    ``exact_degree`` and ``max_draft_steps`` are whole numbers or None, ``linear`` and ``verified`` True or
    False, ``decide`` "row" or "batch". What is none of these counts for nothing.

    Why: a declaration is what the other laws hold a policy to. One that is not read promises nothing, and
    nothing says so.

    Would have caught: cache-dit 1.5.3 takes -0.1 for "never" and "0.1" for a number until it is compared with
    one, in the middle of the run.
    """
    for plugin in subject.spec():
        for did, instead in misdeclared(plugin):
            broken(did, instead)
    made = {name: getattr(subject.can, name) for name in DECLARATIONS if getattr(subject.can, name) is not None}
    return ", ".join(f"{name}={value!r}" for name, value in made.items())


@law("package", anything, "{} new plugins at each call", once=True)
def check_identity(subject: Subject) -> int:
    """Every call of the factory builds new plugins, which are told apart by identity: they register side by
    side, hash, and equal only themselves.

    Why: a session builds plugins of its own and throws them away. That is why nothing has to be reset, and
    why nothing can be stale.

    Would have caught: two equal ``@attrs.define`` plugins raise "already registered under a different name"
    in pluggy, and cannot be hashed; one that holds a tensor raises "Boolean value of Tensor is ambiguous".
    """
    first, second = subject.spec(), subject.spec()
    instead = "Have the factory build a new one at each call, of a class with @attrs.define(eq=False), or without __eq__"
    for a, b in zip(first, second, strict=True):
        name = type(a).__name__
        if a is b:
            broken(f"the factory returned the same {name} twice", instead)
        try:
            equal = bool(a == b) or a != a or hash(a) != hash(a)
        except Exception as error:
            broken(f"{name} cannot be compared or hashed: {type(error).__name__}: {error}", instead)
        if equal:
            broken(f"two {name} equal one another", instead)
    manager = pluggy.PluginManager("foreseer")
    for number, plugin in enumerate((*first, *second)):
        try:
            manager.register(plugin, name=str(number))
        except Exception as error:
            broken(f"two builds cannot be registered side by side: {error}", instead)
    return len(first)


def _outside(annotation: Any) -> list[Any]:
    """Values that an annotation does not allow, where it declares ranges or words."""
    values: list[Any] = []
    for declared in alternatives(annotation):
        if isinstance(declared, Range) and declared != Range(declared.kind):
            step = 1 if declared.kind is int else 1e-6
            edges = ((declared.low, declared.open_low, -step), (declared.high, declared.open_high, step))
            values += [declared.kind(edge if is_open else edge + beyond) for edge, is_open, beyond in edges if abs(edge) != float("inf")]
            values += ["0.1", True, *([0.5] if declared.kind is int else [])]
        elif isinstance(declared, tuple) and declared not in ((False, True), (None,)):
            values += ["no_such_word", 3.25]
    return [value for value in values if not allows(annotation, value)]


@law("package", anything, "{} wrong values refused", once=True)
def check_options(subject: Subject) -> int:
    """Options are refused before the run where they are wrong: by the factory, with an error that names the
    option.

    For every option that declares a range or a list of words, values just outside and of the wrong kind are
    tried. A name that the factory does not know is refused, and all its options are named ones: none is
    swallowed by ``**options``.

    Why: a misspelt option that is ignored is an experiment with other numbers than the ones in its title.

    Would have caught: cache-dit 1.5.3 ignores ``residual_dif_threshold=0.9`` and goes on with 0.08, takes
    -0.1 for "never", and finds out in the middle of the run that "0.1" is text.
    """
    factory, tried = subject.spec.factory, 0
    hints = hints_of(factory)
    for name, parameter in signature_of(factory).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            broken(f"its factory takes {parameter}: a misspelt option would be swallowed", "Name every option, keyword-only")
        for value in _outside(hints.get(name)):
            try:
                subject.given(**{name: value})
            except (ValueError, TypeError) as error:
                if name not in str(error):
                    broken(f"{name}={value!r} is refused by {type(error).__name__}: {error}", "Name the option in the error")
            else:
                broken(f"{name}={value!r} is accepted; declared is {describe_option(hints[name])}", "Put @foreseer.options.checked above the factory")
            tried += 1
    try:
        subject.given(no_such_option=1)
    except (ValueError, TypeError):
        tried += 1
    else:
        broken("an option that does not exist is accepted", "Name every option, keyword-only")
    return tried
