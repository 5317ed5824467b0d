"""The conformance kit: laws that a policy must keep, each with the failure that it would have caught.

The whole test module of a plugin::

    from foreseer.testing import parametrize_policies
    from my_package import my_policy

    @parametrize_policies([my_policy])
    def test_conformance(policy, check):
        check(policy)

Without pytest, `check_policy` returns what each law says; ``foreseer check NAME`` prints it. A policy
declares what it can do by plain attributes of its plugins (`Capabilities`), and is held to what it declares.
Image quality and speed are not examined, nor that an error below a threshold means a good image.
"""

from foreseer.testing.check import Check, Violation
from foreseer.testing.results import CHECKS, CheckResult, check_policy, parametrize_policies
from foreseer.testing.subject import Capabilities, capabilities_of

__all__ = ["CHECKS", "Capabilities", "Check", "CheckResult", "Violation", "capabilities_of", "check_policy", "parametrize_policies"]
