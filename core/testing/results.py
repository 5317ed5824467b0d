"""All checks, what they say of one policy, and their pytest face: one test for each policy and law."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar
from unittest import SkipTest

import attrs

from foreseer.errors import ForeseerError, MissingPackageError, OptionError
from foreseer.registry import PolicySpec
from foreseer.testing import engine, lifetime, numbers, observers, package, rows, safety, shapes, truth
from foreseer.testing.check import Check
from foreseer.testing.plays import need_hypothesis
from foreseer.testing.subject import Subject, spec_of, subjects_of

Test = TypeVar("Test", bound=Callable[..., None])
Status = Literal["passed", "failed", "skipped", "expected"]
GROUPS = (package, lifetime, shapes, safety, rows, truth, numbers, engine, observers)

CHECKS = tuple(check for group in GROUPS for check in vars(group).values() if isinstance(check, Check))
"""Every law, in the order in which they are examined."""


@attrs.frozen
class CheckResult:
    """What one check said of one policy.

    Attributes:
        check: Its name.
        group: Its group.
        status: ``"passed"``; ``"failed"``; ``"expected"``: failed, as ``expected_failures`` says;
            ``"skipped"``: says nothing about this policy.
        message: What was seen where it passed, what is wrong where it failed, why where it was skipped.
        law: The law, in a sentence.
        seconds: How long it took.
    """

    check: str
    group: str
    status: Status
    message: str
    law: str
    seconds: float


def check_policy(
    policy: str | Callable[..., Any] | PolicySpec,
    *,
    expected_failures: Mapping[str, str] | None = None,
    tell: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> list[CheckResult]:
    """Examine a policy, or an observer, by every law.

    Args:
        policy: A name, with options if you like (``"speca:threshold=0.2"``), a factory, or a
            `foreseer.PolicySpec`.
        expected_failures: ``check -> why``: laws that the policy breaks on purpose. One that is kept after
            all, or that says nothing about this policy, is a failure: the reason is out of date.
        tell: Told which check begins, how many are over, and how many there are.

    Returns:
        One result a check, in the order of `CHECKS`. A policy that fails raises nothing here; one that cannot
        be registered fails ``check_hooks_known``, and the other checks are skipped.

    Raises:
        OptionError: ``expected_failures`` names a check that does not exist; the message has the nearest
            name.
        PluginError, OptionError: There is no such policy, or it cannot be built.
        MissingPackageError: Without hypothesis (``pip install 'foreseer[testing]'``).
    """
    reasons, spec = _reasons(expected_failures), spec_of(policy)
    results: list[CheckResult] = []
    for check, given, unfit in _cases(spec):
        tell(check.name, len(results), len(CHECKS))
        started = time.perf_counter()
        status, message = _examine(check, given, unfit)
        reason = reasons.get(check.name)
        if reason is not None and status == "failed":
            status, message = "expected", f"{reason}\n{message}"
        elif reason is not None and given is not spec:
            did = "passes" if status == "passed" else f"says nothing about this policy ({message})"
            message = f"{check.name} {did}, and expected_failures names it ({reason}): take it out"
            status = "failed"
        seconds = time.perf_counter() - started
        results.append(CheckResult(check.name, check.group, status, message, check.law, seconds))
    return results


def _reasons(expected: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return expected failures, where each names a check that exists."""
    need_hypothesis()
    known = [check.name for check in CHECKS]
    for name in expected or ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the checks are {', '.join(known)}"
            raise OptionError(f"expected_failures names {name!r}, which is no check; {hint}")
    return expected or {}


def _cases(spec: PolicySpec) -> list[tuple[Check, tuple[Subject, ...] | PolicySpec, str]]:
    """Every check, what to examine, and why it says nothing about that. Where the policy cannot be registered,
    the check of its hooks says what is wrong.
    """
    try:
        subjects = subjects_of(spec)
    except ForeseerError as error:
        unfit = f"this is no policy: {error}"
        return [(check, spec, "" if check.name == "check_hooks_known" else unfit) for check in CHECKS]
    return [(check, subjects, check.applies(subjects[0].can)) for check in CHECKS]


def _examine(check: Check, given: tuple[Subject, ...] | PolicySpec, unfit: str) -> tuple[Status, str]:
    if unfit:
        return "skipped", unfit
    try:
        return "passed", check(given)
    except SkipTest as needs:
        return "skipped", str(needs)
    except AssertionError as violation:
        return "failed", str(violation)


def parametrize_policies(
    policies: Sequence[str | Callable[..., Any] | PolicySpec], *, expected_failures: Mapping[str, str] | None = None
) -> Callable[[Test], Test]:
    """Mark a test function ``(policy, check)`` that calls ``check(policy)``: it runs once for each policy and
    each law.

    Laws that say nothing about a policy (`foreseer.testing.check_policy` lists them as skipped, with the
    reason) make no test.

    Args:
        policies: Names, with options if you like, factories, or `foreseer.PolicySpec`; of policies or of
            observers.
        expected_failures: ``check -> why``: laws that these policies break on purpose. Their tests are
            expected to fail, strictly: one that passes is a failure, since the reason is out of date.
            Policies that break different laws are marked by calls of their own.

    Raises:
        OptionError: ``expected_failures`` names a check that says nothing about any of these policies, or
            there is no policy.
        OptionError, PluginError, MissingPackageError: As `check_policy` does, and without pytest.

    A test module of a plugin, complete::

        @parametrize_policies([newton, "cg_taylor:predictor=newton"])
        def test_conformance(policy, check):
            check(policy)
    """
    try:
        import pytest
    except ImportError as error:
        raise MissingPackageError("tests of policies need pytest: pip install 'foreseer[testing]'") from error
    reasons = _reasons(expected_failures)
    if isinstance(policies, str) or not policies:
        raise OptionError(f"policies={policies!r}: give a list of one or more, such as [{policies or 'my_policy'!r}]")
    parameters, examined = [], set()
    for given in policies:
        spec = spec_of(given)
        for check, _, unfit in _cases(spec):
            if unfit:
                continue
            reason = reasons.get(check.name)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)]
            examined.add(check.name)
            parameters.append(pytest.param(spec, check, id=f"{spec}-{check.name}", marks=marks))
    for name, reason in reasons.items():
        if name not in examined:
            raise OptionError(f"expected_failures names {name!r} ({reason}), which says nothing about any of these policies: take it out")
    return pytest.mark.parametrize(("policy", "check"), parameters)
