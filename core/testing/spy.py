"""A plugin that stands between a session and a policy: it asks the policy, notes what it was asked and what
it answered, and may change either.

A session mends much by itself: it rejects errors that are not finite, computes rows of which nothing was
recorded, merges the rows of a sample. So its results say little about a policy. The checks look at what the
policy answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.hookspecs import hookimpl
from foreseer.outcome import Outcome
from foreseer.plugins import Policy
from foreseer.types import Drafts, Evidence, History, Late, Live, Needs, Plan, Run, Site, Step, Verdict, Weights

HELD_AGAINST = ("forecast", "before", "anchor")
"""What of the evidence a gate may compare with what was computed."""


def altered(shown: Evidence, now: Callable[[Tensor], Tensor], then: Callable[[Tensor, Tensor], Tensor]) -> Evidence:
    """The evidence, and that of the other places, with what was computed changed by ``now``, and what it may
    be compared with, as far as it is there, by ``then``, which is given what was computed too.
    """
    computed = now(shown.computed)
    there = {name: getattr(shown, name) for name in HELD_AGAINST}
    held: dict[str, Any] = {name: then(tensor, computed) for name, tensor in there.items() if tensor is not None}
    return attrs.evolve(shown, computed=computed, others={site: altered(other, now, then) for site, other in shown.others.items()}, **held)


@attrs.frozen(eq=False, kw_only=True)
class Tamper:
    """What to change on the way, where it is not None: what the session is told of a plan and of a verdict,
    what the policy is shown as evidence, and what it is told of a step's end.
    """

    plan: Callable[[Step, Plan | None], Plan | None] | None = None
    evidence: Callable[[Step, Evidence], Evidence] | None = None
    verdict: Callable[[Step, Any], Verdict | None] | None = None
    outcome: Callable[[Outcome], Outcome] | None = None


@attrs.frozen(eq=False)
class Forecast:
    """One call of ``predict_features``: what was asked for, the anchors ``(R, K)``, the answer as given, and
    what it comes to at each site, ``(R, ...)``; sites with an answer that is no forecast are left out, and so
    are late drafts before they are formed.
    """

    step: int
    sites: tuple[Site, ...]
    anchors: NDArray[np.float64] = attrs.field(repr=False)
    answer: Any = attrs.field(repr=False)
    values: dict[Site, Tensor] = attrs.field(repr=False)


@attrs.frozen(eq=False)
class Judgement:
    """One call of ``verify``: what was answered, as given and, where it is a verdict, in numbers."""

    step: int
    answer: Any = attrs.field(repr=False)
    error: list[float]
    accept: list[bool]
    threshold: float


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal bit for bit; NaN equals NaN."""
    return first.shape == second.shape and first.dtype == second.dtype and bool(((first == second) | (first.isnan() & second.isnan())).all())


def weighted(answer: Weights | Tensor, site: Site, history: History) -> Tensor:
    """What an answer comes to: the tensor itself, or the weighted sum in float64."""
    if isinstance(answer, Tensor):
        return answer.clone()
    features = history.features(site)
    weights = torch.from_numpy(answer.values.T[: len(features)].copy()).to(features.device)
    return (features.double() * weights.reshape(*weights.shape, *[1] * (features.dim() - 2))).sum(0)


@attrs.define(eq=False)
class Spy:
    """See the module.

    Attributes:
        name, plugins: The policy's.
        tamper: What to change.
        needs: What it asked for in ``setup``.
        plans, forecasts, judgements, outcomes: What passed, in order.
        shown: Tensors that the policy was shown, in the order of the steps.
        written: What the policy wrote to, in sentences.
    """

    name: str
    plugins: tuple[object, ...]
    tamper: Tamper = Tamper()
    needs: Needs = attrs.field(factory=Needs, init=False)
    plans: list[tuple[Step, Plan | None]] = attrs.field(factory=list, init=False)
    forecasts: list[Forecast] = attrs.field(factory=list, init=False)
    judgements: list[Judgement] = attrs.field(factory=list, init=False)
    outcomes: list[Outcome] = attrs.field(factory=list, init=False)
    shown: list[Tensor] = attrs.field(factory=list, init=False)
    written: list[str] = attrs.field(factory=list, init=False)
    _policy: Policy = attrs.field(init=False)
    _guarded: list[tuple[str, Tensor, Tensor, int]] = attrs.field(factory=list, init=False)
    _answered: dict[int, tuple[Weights, NDArray[np.float64]]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._policy = Policy(self.name, self.plugins)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        self.needs = self._policy.setup(run)
        return self.needs

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        plan: Plan | None = self._policy.decide("before_step", step=step)
        self.plans.append((step, plan))
        return plan if self.tamper.plan is None else self.tamper.plan(step, plan)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        def features(site: Site) -> Tensor:
            given = history.features(site)
            self._guard(f"history.features({site}) at step {step.index}", given)
            return given

        anchors = history.anchors.copy()
        answer = self._policy.decide("predict_features", step=step, sites=sites, history=History(history.anchors, features))
        if not np.array_equal(anchors, history.anchors, equal_nan=True):
            self.written.append(f"history.anchors at step {step.index}")
        values: dict[Site, Tensor] = {}

        def note(site: Site, draft: object) -> None:
            if isinstance(draft, Weights):
                self._see_that_it_stays(step, draft)
            if isinstance(draft, Tensor) or (isinstance(draft, Weights) and draft.values.shape == anchors.shape):
                values[site] = weighted(draft, site, history)

        def formed(site: Site, late: Late, live: Live) -> Weights | Tensor:
            self._guard_all(step, "live", {"input": live.input, **{f"features[{place}]": tensor for place, tensor in live.features.items()}})
            draft = late.form(live)
            note(site, draft)
            return draft

        drafts = {site: answer.get(site) for site in sites} if hasattr(answer, "get") else {}
        for site, draft in drafts.items():
            note(site, draft)
        self.forecasts.append(Forecast(step.index, sites, anchors, answer, values))
        late = {site: Late(functools.partial(formed, site, draft)) for site, draft in drafts.items() if isinstance(draft, Late)}
        return {**answer, **late} if late else answer

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        if self.tamper.evidence is not None:
            evidence = self.tamper.evidence(step, evidence)
        for what, shown in {"evidence": evidence, **{f"evidence.at({place})": other for place, other in evidence.others.items()}}.items():
            self._guard_all(step, what, {name: getattr(shown, name) for name in ("computed", *HELD_AGAINST)})
        answer = self._policy.decide("verify", step=step, evidence=evidence)
        if isinstance(answer, Verdict) and all(isinstance(a, Tensor) and not a.is_meta for a in (answer.error, answer.accept)):
            told = answer.error.float().flatten().tolist(), [bool(a) for a in answer.accept.flatten().tolist()], float(answer.threshold)
        else:
            told = [], [], float("nan")
        self.judgements.append(Judgement(step.index, answer, *told))
        return answer if self.tamper.verdict is None else self.tamper.verdict(step, answer)

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        told = outcome if self.tamper.outcome is None else self.tamper.outcome(outcome)
        products = {site: table.copy() for site, table in told.products.items()}
        self._policy.ask("commit", step=step, outcome=told)
        self.written += [f"outcome.products[{site}] at step {step.index}" for site in products if not np.array_equal(products[site], told.products[site], True)]
        for what, tensor, copy, version in self._guarded:
            if tensor._version != version or not (tensor.is_meta or same(tensor, copy)):
                self.written.append(what)
        self._guarded.clear()

    def _guard_all(self, step: Step, what: str, tensors: Mapping[str, Tensor | None]) -> None:
        for name, tensor in tensors.items():
            if tensor is not None:
                self._guard(f"{what}.{name} at step {step.index}", tensor)

    def _guard(self, what: str, tensor: Tensor) -> None:
        copy = tensor.clone()
        self._guarded.append((what, tensor, copy, tensor._version))
        self.shown.append(copy)

    def _see_that_it_stays(self, step: Step, draft: Weights) -> None:
        """Weights that were given once are summed with, and kept, under their identity."""
        known = self._answered.get(id(draft))
        if known is not None and not np.array_equal(known[1], draft.values):
            self.written.append(f"its own Weights of an earlier step, given again at step {step.index}")
        self._answered[id(draft)] = (draft, np.array(draft.values))
