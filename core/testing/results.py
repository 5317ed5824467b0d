"""All checks, and what they say of one policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal
from unittest import SkipTest

import attrs

from foreseer.errors import ForeseerError
from foreseer.registry import PolicySpec
from foreseer.testing import engine, lifetime, numbers, observers, package, rows, safety, shapes, truth, votes
from foreseer.testing.check import Check, check_names
from foreseer.testing.explore import need_hypothesis
from foreseer.testing.subject import Subject, spec_of, subject_of

__all__ = ["CHECKS", "CheckResult", "check_policy"]

CHECKS: tuple[Check, ...] = tuple(
    check for group in (package, lifetime, shapes, safety, rows, truth, numbers, engine, votes, observers) for check in group.CHECKS
)
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
    status: Literal["passed", "failed", "skipped", "expected"]
    message: str
    law: str
    seconds: float


def check_policy(policy: str | Callable[..., Any] | PolicySpec, *, expected_failures: Mapping[str, str] | None = None) -> list[CheckResult]:
    """Examine a policy, or an observer, by every law.

    Args:
        policy: A name, with options if you like (``"speca:threshold=0.2"``), a factory, or a
            `foreseer.PolicySpec`.
        expected_failures: ``check -> why``: laws that the policy breaks on purpose. One that is kept after
            all, or that says nothing about this policy, is a failure: the reason is out of date.

    Returns:
        One result a check, in the order of `CHECKS`. A policy that fails raises nothing here; one that cannot
        be registered fails ``check_hooks_known``, and the other checks are skipped.

    Raises:
        OptionError: ``expected_failures`` names a check that does not exist; the message has the nearest
            name.
        PluginError, OptionError: There is no such policy, or it cannot be built.
        MissingPackageError: Without hypothesis (``pip install 'foreseer[testing]'``).
    """
    check_names(expected_failures, CHECKS)
    need_hypothesis()
    spec = spec_of(policy)
    try:
        subject, unfit = subject_of(spec), ""
    except ForeseerError as error:
        subject, unfit = None, f"this is no policy: {error}"
    results = []
    for check in CHECKS:
        started = time.perf_counter()
        if subject is not None:
            status, message = _examine(check, subject, check.applies(subject.can))
        else:
            status, message = _examine(check, spec, "" if check.name == "check_hooks_known" else unfit)
        reason = (expected_failures or {}).get(check.name)
        if reason is not None and status == "failed":
            status, message = "expected", f"{reason}\n{message}"
        elif reason is not None and status == "passed":
            status, message = "failed", f"{check.name} passes, though expected_failures says that it fails ({reason}): take it out"
        elif reason is not None and status == "skipped" and subject is not None:
            status, message = "failed", f"{check.name} says nothing about this policy ({message}), and expected_failures names it ({reason}): take it out"
        results.append(CheckResult(check.name, check.group, status, message, check.law, time.perf_counter() - started))
    return results


def _examine(check: Check, policy: Subject | PolicySpec, inapplicable: str) -> tuple[Literal["passed", "failed", "skipped", "expected"], str]:
    if inapplicable:
        return "skipped", inapplicable
    try:
        return "passed", check(policy)
    except SkipTest as needs:
        return "skipped", str(needs)
    except AssertionError as violation:
        return "failed", str(violation)
