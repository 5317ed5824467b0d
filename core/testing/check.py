"""A law of the kit: a function below a `law`, which says where it belongs, to which policies it applies and
what was seen where it is kept. Its docstring gives the law in the first paragraph, then why it matters, then
a real failure that it would have caught.

A law, complete; a file of laws is named in ``results.GROUPS``::

    @law("rows", policies, "{} steps alike")
    def check_cards(subject: Subject) -> int:
        '''The first row gets the same output whatever the second one holds.

        Why: an image must not depend on what else is in the batch.

        Would have caught: what somebody released.
        '''
        first, second = (play(subject, World(replaced(mixed, 1, number))) for number in (0.0, 1.0))
        for step, output in first.outputs.items():
            if not same(output[0], second.outputs[step][0]):
                broken(f"at step {step} row 0 came out differently", "Forecast each row from its own features")
        return len(first.outputs)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn
from unittest import SkipTest

import attrs

from foreseer.errors import ContractError
from foreseer.registry import PolicySpec
from foreseer.sources import first_paragraph
from foreseer.testing.process import kept
from foreseer.testing.subject import Capabilities, NoStageError, Subject, subjects_of

Group = Literal["package", "lifetime", "shapes", "safety", "rows", "truth", "numbers", "engine", "observer"]
Examine = Callable[[Subject], int | str | None]
Applies = Callable[[Capabilities], str]


class Violation(AssertionError):  # noqa: N818  # what a policy does, rather than an error of the kit
    """A law is broken. The message says what the policy did, what the law wants, and what to change."""


@attrs.frozen
class Check:
    """One law.

    Attributes:
        name: ``"check_..."``.
        group: Which part of the contract it belongs to.
        law: The law, in a sentence.
        function: Examines a policy in one cast; raises `Violation`; returns how much was seen, or in words
            what, or None.
        applies: Why the check says nothing about a policy of these capabilities; empty where it applies.
        seen: What was seen where nothing is said in words; ``{}`` stands for how much, in all casts.
        once: Whether the first cast is enough.
    """

    name: str
    group: Group
    law: str
    function: Examine = attrs.field(repr=False)
    applies: Applies = attrs.field(repr=False)
    seen: str = attrs.field(repr=False)
    once: bool = attrs.field(repr=False)

    def __call__(self, policy: str | Callable[..., Any] | PolicySpec | tuple[Subject, ...]) -> str:
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
                subjects = policy if isinstance(policy, tuple) else subjects_of(policy)
                seen = [self.function(subject) for subject in (subjects[:1] if self.once else subjects)]
                words = dict.fromkeys(told for told in seen if isinstance(told, str))
                return "; ".join(words) or self.seen.format(sum(n for n in seen if isinstance(n, int)))
        except NoStageError as error:
            raise SkipTest(str(error)) from None
        except Violation as violation:
            raise Violation(f"{self.name}: {violation}\nThe law: {self.law}") from None
        except Exception as error:
            notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()) if "of Spy (" not in note)
            if isinstance(error, ContractError):
                if self.group == "shapes":
                    raise Violation(f"{self.name}: {error}{notes}\nThe law: {self.law}") from error
                raise Violation(f"{self.name}: cannot be examined before the answers are what the contract says: {error}") from error
            name = policy[0].spec if isinstance(policy, tuple) else getattr(policy, "__name__", policy)
            raise Violation(f"{self.name}: {name} raised {type(error).__name__}: {error}{notes}\nThe law: {self.law}") from error


def law(group: Group, applies: Applies, seen: str = "", *, once: bool = False) -> Callable[[Examine], Check]:
    """Make a check of the function below: its name and its law are the function's own. See `Check`."""

    def check(function: Examine) -> Check:
        text = first_paragraph(function.__doc__ or "")
        return Check(function.__name__, group, text, function, applies, seen, once)

    return check


def broken(did: str, instead: str) -> NoReturn:
    """Raise a `Violation`: what the policy did, and what to change."""
    raise Violation(f"{did}. {instead}")


def anything(_: Capabilities) -> str:
    """Applies to all."""
    return ""


def policies(can: Capabilities) -> str:
    """Applies to every policy."""
    return "an observer decides nothing" if can.observer else ""


def only(where: Callable[[Capabilities], object], why: str, among: Applies = policies) -> Applies:
    """Applies to those ``among`` which ``where`` is true of; ``why`` is said of the others."""
    return lambda can: among(can) or ("" if where(can) else why)


observes = only(lambda can: can.observer, "it is a policy, not an observer", anything)
plans = only(lambda can: "before_step" in can.hooks, "it plans nothing: no before_step")
predicts = only(lambda can: "predict_features" in can.hooks, "it forecasts nothing: no predict_features")
verifies = only(lambda can: "verify" in can.hooks, "it judges nothing: no verify")
