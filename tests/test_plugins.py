"""Laws of registration: what a policy declares, whom a faulty plugin's message names, and which faults are found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from foreseer import AnswerError, Plan, PluginError, hookimpl, plugins
from foreseer.plugins import Policy, policy_hooks


class Plans:
    """Declares how far its forecasts reach."""

    def __init__(self, most: Any) -> None:
        self.max_draft_steps = most

    @hookimpl
    def before_step(self) -> Plan:
        return Plan()


class Counts(Plans):
    """Another plugin that declares it, and decides nothing."""

    before_step = property(lambda self: None)

    @hookimpl
    def commit(self) -> None:
        pass


@pytest.mark.parametrize(("one", "other", "reach"), [(3, None, 3), (None, None, None), (0, 5, 0), (4, 2, 2), (1, 1, 1)])
def test_a_policy_reaches_as_far_as_its_strictest_plugin(one: int | None, other: int | None, reach: int | None) -> None:
    policy = Policy("p", [Plans(one), Counts(other)])
    assert policy.reach == reach
    assert policy.implements("before_step")
    assert not policy.implements("verify")


@pytest.mark.parametrize("most", [True, -1, 2.5, "3"])
def test_a_reach_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(AnswerError, match=r"policy p declares max_draft_steps=.*; write a whole number >= 0, or None"):
        _ = Policy("p", [Plans(most)]).reach


class Misspelt:
    """Has something that is no function, something unmarked, and then a hook that there is not."""

    aardvark = 3

    def around(self) -> None:
        pass

    @hookimpl
    def before_stepp(self) -> None:
        pass


def listed(distribution: str, target: str, contract: str) -> SimpleNamespace:
    return SimpleNamespace(distribution=distribution, version="9.1", target=target, contract=contract)


ROOT = Misspelt.__module__.partition(".")[0]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (listed("their", f"{ROOT}.deep:gate", "1.7"), r"; their 9\.1 says that it was built for contract 1\.7\. Please tell its authors\.$"),
        (listed("their", f"{ROOT}:gate", ""), r"; their 9\.1 does not say which it was built for\. Please tell its authors\.$"),
        (listed("foreseer", f"{ROOT}:gate", "1.7"), r"This foreseer has contract \d\.\d\.$"),
        (listed("their", f"deep.{ROOT}:gate", "1.7"), r"This foreseer has contract \d\.\d\.$"),
        (listed("their", f"deep:{ROOT}", "1.7"), r"This foreseer has contract \d\.\d\.$"),
    ],
)
def test_a_fault_names_the_package_that_the_plugin_comes_from(found: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the package whose module it is, by its root, and no other; ours is nobody to tell."""
    monkeypatch.setattr(plugins, "list_plugins", lambda group: [found])
    with pytest.raises(PluginError, match=says):
        policy_hooks([Misspelt()])


class Unmarked:
    """What is no hook stands before a hook that is not marked."""

    aardvark = 3

    def around(self) -> None:
        pass

    def verify(self, evidence: Any) -> None:
        pass

    @hookimpl
    def zebra(self) -> None:
        pass


def test_a_hook_that_is_not_marked_is_found_behind_what_is_none() -> None:
    with pytest.raises(PluginError, match=r"\.verify has the name of a hook but is not marked"):
        policy_hooks([Unmarked()])
