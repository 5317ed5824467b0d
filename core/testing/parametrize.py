"""The pytest face of the kit: one test for each policy and each law that says something about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from foreseer.errors import ForeseerError, MissingPackageError, OptionError
from foreseer.registry import PolicySpec
from foreseer.testing.check import check_names
from foreseer.testing.explore import need_hypothesis
from foreseer.testing.results import CHECKS
from foreseer.testing.subject import capabilities_of, spec_of

__all__ = ["parametrize_policies"]

Test = TypeVar("Test", bound=Callable[..., None])


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

    Returns:
        The mark.

    Raises:
        OptionError: ``expected_failures`` names a check that does not exist; the message has the nearest
            name; or one that says nothing about any of these policies. Or there is no policy.
        PluginError, OptionError: There is no such policy, or it cannot be built.
        MissingPackageError: Without pytest or hypothesis (``pip install 'foreseer[testing]'``).

    A test module of a plugin, complete::

        @parametrize_policies([newton, "cg_taylor:predictor=newton"])
        def test_conformance(policy, check):
            check(policy)
    """
    try:
        import pytest
    except ImportError as error:
        raise MissingPackageError("tests of policies need pytest: pip install 'foreseer[testing]'") from error
    need_hypothesis()
    check_names(expected_failures, CHECKS)
    if isinstance(policies, str) or not policies:
        raise OptionError(f"policies={policies!r}: give a list of one or more, such as [{policies or 'my_policy'!r}]")
    parameters, examined = [], set()
    for given in policies:
        spec = spec_of(given)
        try:
            can = capabilities_of(spec)
        except ForeseerError:  # not a policy at all: the check of its hooks says what is wrong
            can = None
        for check in CHECKS:
            if check.applies(can) if can is not None else check.name != "check_hooks_known":
                continue
            reason = (expected_failures or {}).get(check.name)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)]
            examined.add(check.name)
            parameters.append(pytest.param(spec, check, id=f"{spec}-{check.name}", marks=marks))
    for name, reason in (expected_failures or {}).items():
        if name not in examined:
            raise OptionError(f"expected_failures names {name!r} ({reason}), which says nothing about any of these policies: take it out")
    return pytest.mark.parametrize(("policy", "check"), parameters)
