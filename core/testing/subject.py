"""What is examined: a policy or an observer, what it can do, and the casts in which it is tried."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from foreseer.errors import OptionError
from foreseer.observerspecs import ObserverSpecs
from foreseer.plugins import DECISIONS, policy_hooks
from foreseer.registry import PolicySpec, parse_plugin, signature_of
from foreseer.registry import policy as named
from foreseer.testing.partners import ReferenceGate, ReferencePredictor, ReferenceProbe, ReferenceSchedule


@attrs.frozen
class Declaration:
    """One attribute.

    Attributes:
        hooks: Read from plugins that implement one of these.
        allows: Whether a value is one. None always is: it promises nothing.
        write: What to write, for messages.
        value_only: Whether a method of this name can be nothing but a mistake.
    """

    hooks: tuple[str, ...]
    allows: Callable[[Any], bool]
    write: str
    value_only: bool = False


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


PREDICTING, DECIDING = ("predict_features",), ("before_step", "verify", "commit")

DECLARATIONS = {
    "exact_degree": Declaration(PREDICTING, _whole, "exact_degree = 1, or None", value_only=True),
    "linear": Declaration(PREDICTING, _flag, "linear = True or False"),
    "verified": Declaration(DECIDING, _flag, "verified = True or False"),
    "max_draft_steps": Declaration(DECIDING, _whole, "max_draft_steps = 5, or None", value_only=True),
    "decide": Declaration(DECIDING, lambda value: value in ("row", "batch"), "decide = 'row' or 'batch'"),
}


def implements(plugin: object, hooks: Sequence[str]) -> bool:
    """Whether a plugin implements one of the hooks."""
    return any(hasattr(getattr(type(plugin), name, None), "foreseer_impl") for name in hooks)


def declared(plugins: Sequence[object], attribute: str) -> Any:
    """The first declaration of an attribute among the plugins that it is read from. What is not a valid one
    counts for nothing; `misdeclared` says so. None where there is none.
    """
    declaration = DECLARATIONS[attribute]
    for plugin in plugins:
        value = getattr(plugin, attribute, None) if implements(plugin, declaration.hooks) else None
        if value is not None and not callable(value) and declaration.allows(value):
            return value
    return None


def misdeclared(plugin: object) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a plugin's declarations, and what to write: values of another kind, methods in
    their place, and names that are nearly one.
    """
    own = type(plugin).__name__
    names = [name for name, declaration in DECLARATIONS.items() if implements(plugin, declaration.hooks)]
    for name in names:
        value, declaration = getattr(plugin, name, None), DECLARATIONS[name]
        if callable(value):
            if declaration.value_only:
                yield f"{own}.{name} is a method, and is not read", f"Write {declaration.write}; a property will do"
        elif value is not None and not declaration.allows(value):
            yield f"{own}.{name} is {value!r}", f"Write {declaration.write}"
    for name in dir(plugin):
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.9)
        if name.startswith("_") or name in DECLARATIONS or not close:
            continue
        with contextlib.suppress(Exception):  # a property may need what setup has not made yet
            if DECLARATIONS[close[0]].allows(getattr(plugin, name)):
                yield f"{own}.{name} is read by nobody, but looks like {close[0]}", f"Call it {close[0]}"


OBSERVING = tuple(name for name in vars(ObserverSpecs) if not name.startswith("_"))


class NoStageError(OptionError):
    """A policy takes none of the kit's runs, and says what it needs."""


@attrs.frozen(kw_only=True)
class Capabilities:
    """What a policy is and what it declares: which hooks there are, and plain attributes of its plugins.

    Attributes:
        hooks: The hooks that it implements.
        observer: Whether it is an observer; then nothing below is set.
        exact_degree: Polynomials in the step index up to this degree are forecast exactly; None where nothing
            is promised.
        linear: Whether a forecast is linear in the recorded features; False where that is not declared.
        verified: Whether it promises that no forecast is used unseen.
        max_draft_steps: Most forecasts in a row that a row may get; None where nothing is promised.
        decide: ``"row"`` where each sample is judged by itself, ``"batch"`` where it is declared that all
            rows share one verdict.
        options: Names of the options of its factory.
    """

    hooks: frozenset[str]
    observer: bool = False
    exact_degree: int | None = None
    linear: bool = False
    verified: bool = False
    max_draft_steps: int | None = None
    decide: str = "row"
    options: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class Subject:
    """A policy under examination, made whole in one of the ways in which it can be.

    Attributes:
        spec: The policy and its options.
        can: What it declares.
        cast: Which way, in words.
        partners: Factories of the reference plugins that the policy lacks.
        first: Whether this is the first way. There is one, as a rule; a lone predictor is tried under a
            schedule and under a gate.
    """

    spec: PolicySpec
    can: Capabilities
    cast: str
    partners: tuple[Callable[[], object], ...] = attrs.field(default=(), repr=False)
    first: bool = True

    def given(self, **options: Any) -> Subject:
        """Return the same with other options. Raises OptionError where the policy refuses one."""
        spec = PolicySpec(self.spec.name, self.spec.factory, {**self.spec.options, **options})
        return attrs.evolve(self, spec=spec)

    def build(self) -> tuple[object, ...]:
        """Return new plugins, those of the partners last."""
        return (*self.spec(), *(partner() for partner in self.partners))


def subjects_of(policy: str | Callable[..., Any] | PolicySpec) -> tuple[Subject, ...]:
    """Look a policy over; return it in each of its casts.

    Args:
        policy: A name, with options if you like (``"speca:threshold=0.2"``), a factory, or a `PolicySpec`; of
            a policy or of an observer.

    Raises:
        PluginError: There is no such plugin, or it breaks the rules of registration.
        OptionError: An option is unknown or out of range.
    """
    spec = spec_of(policy)
    plugins, options = spec.look() or spec(), tuple(signature_of(spec.factory).parameters)
    observed = frozenset(name for name in OBSERVING if any(implements(plugin, (name,)) for plugin in plugins))
    if observed:
        return (Subject(spec, Capabilities(hooks=observed, observer=True, options=options), "watching"),)
    hooks = frozenset(name for name, implementations in policy_hooks(plugins).items() if implementations)
    promises = {name: value for name in DECLARATIONS if (value := declared(plugins, name)) is not None}
    can = Capabilities(hooks=hooks, options=options, **promises)
    plans, predicts, verifies = (name in hooks for name in DECISIONS)
    predictor: tuple[Callable[[], object], ...] = () if predicts else (ReferencePredictor,)
    if plans:
        return (Subject(spec, can, "as it is" if predicts else "with a reference predictor", predictor),)
    if verifies:
        return (Subject(spec, can, "behind a reference probe", (ReferenceProbe, *predictor)),)
    return (
        Subject(spec, can, "under a reference schedule", (ReferenceSchedule, *predictor)),
        Subject(spec, can, "under a reference gate", (ReferenceProbe, ReferenceGate, *predictor), first=False),
    )


def capabilities_of(policy: str | Callable[..., Any] | PolicySpec) -> Capabilities:
    """What a policy is and what it declares. Raises as `foreseer.policy` does, and PluginError where it breaks
    the rules of registration.
    """
    return subjects_of(policy)[0].can


def spec_of(policy: str | Callable[..., Any] | PolicySpec) -> PolicySpec:
    """Name a policy, or an observer, and its options. Raises as `foreseer.policy` does."""
    return parse_plugin(policy) if isinstance(policy, str) else named(policy)
