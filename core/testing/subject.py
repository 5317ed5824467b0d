"""What is examined: a policy or an observer, what it can do, and the casts in which it is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from foreseer.errors import OptionError
from foreseer.observerspecs import ObserverSpecs
from foreseer.plugins import DECISIONS, policy_hooks
from foreseer.registry import PolicySpec, parse_plugin, signature_of
from foreseer.registry import policy as named
from foreseer.testing.declarations import declared, implements
from foreseer.testing.partners import ReferenceGate, ReferencePredictor, ReferenceProbe, ReferenceSchedule

__all__ = ["Capabilities", "NoStageError", "Subject", "capabilities_of", "subject_of"]

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

    @property
    def role(self) -> str:
        """In a word."""
        if self.observer:
            return "observer"
        plans, predicts, verifies = (name in self.hooks for name in DECISIONS)
        if predicts:
            return "policy" if plans else "predictor"
        return "gate" if verifies else "schedule"


@attrs.frozen(eq=False)
class Subject:
    """A policy under examination.

    Attributes:
        spec: The policy and its options.
        can: What it declares.
        casts: Named ways to make it whole: each adds the reference plugins that the policy lacks. One, as a
            rule; two for a lone predictor, which is tried under a schedule and under a gate.
    """

    spec: PolicySpec
    can: Capabilities
    casts: tuple[tuple[str, Callable[[], tuple[object, ...]]], ...] = attrs.field(repr=False)

    @property
    def names(self) -> str:
        """The classes of its plugins."""
        return " and ".join(type(plugin).__name__ for plugin in self.spec())


def subject_of(policy: str | Callable[..., Any] | PolicySpec) -> Subject:
    """Look a policy over.

    Args:
        policy: A name, with options if you like (``"speca:threshold=0.2"``), a factory, or a `PolicySpec`; of
            a policy or of an observer.

    Raises:
        PluginError: There is no such plugin, or it breaks the rules of registration.
        OptionError: An option is unknown or out of range.
    """
    spec = spec_of(policy)
    plugins = spec.look() or spec()
    if any(implements(plugin, OBSERVING) for plugin in plugins):
        marked = frozenset(name for name in OBSERVING if any(implements(plugin, (name,)) for plugin in plugins))
        return Subject(spec, Capabilities(hooks=marked, observer=True, options=tuple(signature_of(spec.factory).parameters)), ())
    hooks = frozenset(name for name, implementations in policy_hooks(plugins).items() if implementations)
    can = Capabilities(
        hooks=hooks,
        exact_degree=declared(plugins, "exact_degree", None),
        linear=declared(plugins, "linear", False),
        verified=declared(plugins, "verified", False),
        max_draft_steps=declared(plugins, "max_draft_steps", None),
        decide=declared(plugins, "decide", "row"),
        options=tuple(signature_of(spec.factory).parameters),
    )
    return Subject(spec, can, tuple(_casts(spec, hooks)))


def capabilities_of(policy: str | Callable[..., Any] | PolicySpec) -> Capabilities:
    """What a policy is and what it declares. Raises as `subject_of` does."""
    return subject_of(policy).can


def spec_of(policy: str | Callable[..., Any] | PolicySpec) -> PolicySpec:
    """Name a policy, or an observer, and its options. Raises as `subject_of` does."""
    return parse_plugin(policy) if isinstance(policy, str) else named(policy)


def _casts(spec: PolicySpec, hooks: frozenset[str]) -> list[tuple[str, Callable[[], tuple[object, ...]]]]:
    def cast(*partners: Callable[[], object]) -> Callable[[], tuple[object, ...]]:
        return lambda: (*spec(), *(partner() for partner in partners))

    plans, predicts, verifies = (name in hooks for name in DECISIONS)
    predictor: tuple[Callable[[], object], ...] = () if predicts else (ReferencePredictor,)
    if plans:
        return [("as it is" if predicts else "with a reference predictor", cast(*predictor))]
    if verifies:
        return [("behind a reference probe", cast(ReferenceProbe, *predictor))]
    return [("under a reference schedule", cast(ReferenceSchedule, *predictor)), ("under a reference gate", cast(ReferenceProbe, ReferenceGate, *predictor))]
