"""A check: one function, one law. Its docstring gives the law in the first line, then why it matters, then a
real failure that it would have caught.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Literal, NoReturn
from unittest import SkipTest

import attrs

from foreseer.errors import ContractError, OptionError
from foreseer.registry import PolicySpec
from foreseer.sources import first_paragraph
from foreseer.testing.subject import Capabilities, NoStageError, Subject, subject_of
from foreseer.testing.surroundings import kept

__all__ = ["Check", "Group", "Violation", "broken", "check_names", "law", "plans", "policies", "predicts", "verifies"]

Group = Literal["package", "lifetime", "shapes", "safety", "rows", "truth", "numbers", "engine", "observer"]


class Violation(AssertionError):  # noqa: N818  # what a policy does, rather than an error of the kit
    """A law is broken. The message says what the policy did, what the law wants, and what to change."""


@attrs.frozen
class Check:
    """One law.

    Attributes:
        name: ``"check_..."``.
        group: Which part of the contract it belongs to.
        law: The law, in a sentence.
        function: Examines a `Subject`; returns what was seen, in a few words; raises `Violation`.
        applies: Why the check says nothing about a policy of these capabilities; empty where it applies.
    """

    name: str
    group: Group
    law: str
    function: Callable[[Subject], str] = attrs.field(repr=False)
    applies: Callable[[Capabilities], str] = attrs.field(repr=False)

    def __call__(self, policy: str | Callable[..., Any] | PolicySpec | Subject) -> str:
        """Examine a policy. Whatever it does to the process (random numbers, switches of torch, the
        environment) is undone.

        Returns:
            What was seen, in a few words.

        Raises:
            Violation: The law is broken, or the policy raised something while it was examined.
            SkipTest: The policy takes none of the runs in which it could be examined; pytest and unittest
                skip the test.
        """
        try:
            with kept():
                subject = policy if isinstance(policy, Subject) else subject_of(policy)
                return self.function(subject)
        except NoStageError as error:
            raise SkipTest(str(error)) from None
        except Violation as violation:
            raise Violation(f"{self.name}: {violation}\nThe law: {self.law}") from None
        except ContractError as error:
            if self.group == "shapes":
                raise Violation(f"{self.name}: {error}\nThe law: {self.law}") from error
            raise Violation(f"{self.name}: cannot be examined before the answers are what the contract says: {error}") from error
        except Exception as error:
            notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()) if "of Spy (" not in note)
            name = getattr(policy, "__name__", policy.spec if isinstance(policy, Subject) else policy)
            raise Violation(f"{self.name}: {name} raised {type(error).__name__}: {error}{notes}\nThe law: {self.law}") from error


def law(function: Callable[[Subject], str], group: Group, applies: Callable[[Capabilities], str]) -> Check:
    """Make a check of a function; its name and its law are the function's own."""
    return Check(function.__name__, group, first_paragraph(function.__doc__ or ""), function, applies)


def broken(did: str, instead: str) -> NoReturn:
    """Raise a `Violation`: what the policy did, and what to change."""
    raise Violation(f"{did}. {instead}")


def policies(can: Capabilities) -> str:
    """Applies to every policy."""
    return "an observer decides nothing" if can.observer else ""


def plans(can: Capabilities) -> str:
    """Applies to what implements ``before_step``."""
    return policies(can) or ("" if "before_step" in can.hooks else "it plans nothing: no before_step")


def predicts(can: Capabilities) -> str:
    """Applies to what implements ``predict_features``."""
    return policies(can) or ("" if "predict_features" in can.hooks else "it forecasts nothing: no predict_features")


def verifies(can: Capabilities) -> str:
    """Applies to what implements ``verify``."""
    return policies(can) or ("" if "verify" in can.hooks else "it judges nothing: no verify")


def check_names(expected: Any, checks: tuple[Check, ...]) -> None:
    """Refuse expected failures of checks that do not exist. Raises OptionError with the nearest name."""
    known = [check.name for check in checks]
    for name in expected or ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the checks are {', '.join(known)}"
            raise OptionError(f"expected_failures names {name!r}, which is no check; {hint}")
